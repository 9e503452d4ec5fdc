"""The probe: same message and noise on public bases, one encoding, a key that keeps quiet."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import ring
from crypto.audit import open_probe
from crypto.bases import public_bases
from crypto.epoch import Epoch
from crypto.errors import (
    EncodingError,
    FieldError,
    KeyDestroyedError,
    MisuseError,
    NotCanonicalError,
    OversizedError,
    TruncatedError,
    VersionError,
)
from crypto.parameters import SEALMATCH_1
from crypto.probe import MAX_PROBE_BYTES, Probe, SearchKey, _encrypt, make_probe
from crypto.ring import N, Q
from crypto.seal import KeyPair
from tests.simulation import EPOCH, directions, isotropic_model

MODEL = isotropic_model(64)
VECTOR = MODEL.probe_vector(directions(np.random.default_rng(1), 1, 64)[0])
PROBE, KEY = make_probe(MODEL, VECTOR, EPOCH)


def test_same_message_and_fresh_noise_on_public_bases() -> None:
    secret = np.tile(KEY.secret_eval(), (65, 1))
    opened = ring.centred(ring.inverse(ring.add(ring.multiply(public_bases(EPOCH, 64), secret), PROBE.words_eval))).astype(np.int64)
    scaled = VECTOR.astype(np.int64) * Q / SEALMATCH_1.plain_modulus
    opened[:-1, 0] -= np.rint(scaled).astype(np.int64)
    assert np.abs(opened).max() <= 23
    assert opened.std() == pytest.approx(np.sqrt(11), rel=0.02)
    assert abs(opened.mean()) < 0.1  # the dropped bit shifts nothing
    assert (open_probe(PROBE, KEY) == VECTOR).all()


class RecordingPair(KeyPair):
    """Keeps hold of what `_encrypt` promises to destroy."""

    def encrypt_constants(self, constants: ring.I32) -> tuple[ring.U32, ring.U32]:
        self.kept = super().encrypt_constants(constants)
        return self.kept


def test_seals_ciphertexts_are_overwritten() -> None:
    """Either of them with the probe gives the key by one division; nothing of them is left."""
    pair = RecordingPair()
    words = _encrypt(pair, MODEL.model_hash, VECTOR, EPOCH).words_eval
    c0, c1 = pair.kept
    assert not c0.any()
    assert not c1.any()
    assert words.any()


def test_two_probes_of_one_face_share_nothing() -> None:
    other, other_key = make_probe(MODEL, VECTOR, EPOCH)
    assert (other.words_eval != PROBE.words_eval).mean() > 0.99
    assert (other_key.secret_eval() != KEY.secret_eval()).mean() > 0.99
    assert other.digest != PROBE.digest


def test_bytes_round_trip() -> None:
    data = PROBE.to_bytes()
    again = Probe.from_bytes(data)
    assert (again.words_eval == PROBE.words_eval).all()
    assert (again.epoch, again.model_hash, again.digest) == (PROBE.epoch, PROBE.model_hash, PROBE.digest)
    assert again.to_bytes() == data


def test_a_probe_of_512_dimensions_has_26_bits_a_word() -> None:
    probe = Probe(EPOCH, bytes(32), np.zeros((513, N), np.uint32))
    assert len(probe.to_bytes()) == 5 + 7 + 32 + 2 + 513 * N * 26 // 8 == 1_707_310


def test_every_header_field_is_in_the_digest() -> None:
    others = [
        Probe(Epoch("2026-10"), PROBE.model_hash, PROBE.halved_coeff),
        Probe(EPOCH, b"\1" * 32, PROBE.halved_coeff),
        Probe(EPOCH, PROBE.model_hash, PROBE.halved_coeff ^ np.uint32(1)),
    ]
    assert len({PROBE.digest, *[other.digest for other in others]}) == 4


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: b"", TruncatedError),
        (lambda data: data[:4], TruncatedError),
        (lambda data: data[:-1], TruncatedError),
        (lambda data: data + b"\0", NotCanonicalError),
        (lambda data: b"XX" + data[2:], VersionError),
        (lambda data: data[:2] + b"\2" + data[3:], VersionError),
        (lambda data: data[:3] + b"\2" + data[4:], VersionError),
        (lambda data: data[:4] + b"\2" + data[5:], VersionError),
        (lambda data: data[:5] + b"2026-13" + data[12:], FieldError),
        (lambda data: data[:5] + b"\xff" * 7 + data[12:], FieldError),
        (lambda data: data[:44] + (12).to_bytes(2, "big") + data[46:], FieldError),
        (lambda data: data[:44] + (0).to_bytes(2, "big") + data[46:], FieldError),
        (lambda data: data[:44] + (640).to_bytes(2, "big") + data[46:], FieldError),
        (lambda data: data[:46] + b"\xff" * 27 + data[73:], FieldError),
        (lambda data: bytes(MAX_PROBE_BYTES + 1), OversizedError),
    ],
)
def test_each_malformed_probe_has_its_error(change: Callable[[bytes], bytes], error: type[EncodingError]) -> None:
    with pytest.raises(error):
        Probe.from_bytes(change(PROBE.to_bytes()))


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: PROBE.to_bytes()[:46] + tail))
def test_garbage_gives_only_our_errors(data: bytes) -> None:
    with pytest.raises(EncodingError):
        Probe.from_bytes(data)


def test_words_of_a_probe_are_residues() -> None:
    for words in (np.full((65, N), Q, np.uint32), np.zeros((65, N), np.int64), np.zeros(N, np.uint32), np.zeros((65, N - 1), np.uint32)):
        with pytest.raises(MisuseError):
            Probe(EPOCH, bytes(32), words)  # type: ignore[arg-type]


def test_make_probe_refuses_another_scale() -> None:
    with pytest.raises(MisuseError):
        make_probe(MODEL, VECTOR[:-1], EPOCH)
    with pytest.raises(MisuseError):
        make_probe(MODEL, np.full(64, MODEL.scales.mu + 2, np.int32), EPOCH)


def test_search_key_keeps_its_secret() -> None:
    key = SearchKey(KEY.secret_eval())
    assert repr(key) == "SearchKey(<redacted>)"
    with pytest.raises(MisuseError):
        pickle.dumps(key)
    sealed = key.export_secret()
    assert len(sealed) == N // 4
    assert (SearchKey.from_secret(sealed).secret_eval() == KEY.secret_eval()).all()
    key.destroy()
    for use in (key.secret_eval, key.export_secret):
        with pytest.raises(KeyDestroyedError):
            use()
    with pytest.raises(EncodingError):
        SearchKey.from_secret(sealed[:-1])
    with pytest.raises(EncodingError):
        SearchKey.from_secret(b"\xff" * 256)
    with pytest.raises(MisuseError):
        SearchKey(np.zeros(N, np.uint32) + np.uint32(7))
