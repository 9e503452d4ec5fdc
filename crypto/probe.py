"""The encrypted probe: made by SEAL, moved to the public bases of an epoch, written as canonical bytes.

For each dimension d SEAL encrypts the constant m_d: c0 + c1 s = round(q m_d / t) + e. With a public uniform A_d the pair (A_d, b_d),
b_d = c0 + (c1 - A_d) s, encrypts the same constant with the same noise and is distributed as a fresh encryption whose random part came out
as A_d; only b_d has to travel, without the lowest bit of each coefficient, for which the error budget has room. b_z encrypts zero on A_z
and lets a holder re-randomise its answer.

Invariants: c0 and c1 are overwritten before `make_probe` returns, since b_d with the two gives the secret by one division. A probe from
outside is trusted for nothing but its form: its norm and constancy are seen by the custodian's calibration. The secret key lives for one
search. Which epoch and holders a probe may be used with is left to the grant.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np

from crypto import ring
from crypto.bases import public_bases
from crypto.binary import ChunkReader, Kind, Reader, Writer, packed_size, sha256_of
from crypto.embedding import HASH_BYTES, EmbeddingModel
from crypto.epoch import Epoch
from crypto.errors import EncodingError, FieldError, KeyDestroyedError, MisuseError
from crypto.ordered_probe import OrderedProbe
from crypto.parameters import SEALMATCH_1
from crypto.ring import I32, U32, N
from crypto.seal import KeyPair

_EPOCH_BYTES: Final = 7
PROBE_BITS: Final = SEALMATCH_1.probe_bits
MAX_PROBE_BYTES: Final = 64 + packed_size((SEALMATCH_1.max_dimensions + 1) * N, PROBE_BITS)


@dataclass(frozen=True, eq=False)
class Probe:
    """What a requester sends to every holder: b_1..b_D and, last, b_z in coeff form, each coefficient halved; uint32[D + 1, N], read-only.

    Without the search key it says nothing about m (ring-LWE); the epoch and the model hash are part of the bytes.
    """

    epoch: Epoch
    model_hash: bytes
    halved_coeff: U32

    def __post_init__(self) -> None:
        if self.halved_coeff.ndim != 2 or self.halved_coeff.shape[1] != N or len(self.model_hash) != HASH_BYTES:
            raise MisuseError("a probe has D + 1 polynomials and a model hash of 32 bytes")
        _check_dimensions(self.dimensions)
        self.words_eval.flags.writeable = False
        self.halved_coeff.flags.writeable = False

    @classmethod
    def rounded(cls, epoch: Epoch, model_hash: bytes, words_eval: U32) -> Probe:
        """A probe of these polynomials, uint32[D + 1, N], each coefficient at its nearest even number: odd ones go up and down in turns of
        their second bit, so that the errors have no mean (variance 1/2)."""
        coefficients = ring.inverse(words_eval)
        return cls(epoch, model_hash, (coefficients + ((coefficients >> np.uint32(1)) & np.uint32(1))) >> np.uint32(1))

    @functools.cached_property
    def words_eval(self) -> U32:
        """The polynomials in eval form, uint32[D + 1, N]. `MisuseError` for a coefficient that is not below q."""
        return ring.forward(self.halved_coeff << np.uint32(1))

    @functools.cached_property
    def ordered(self) -> OrderedProbe:
        """b_1..b_D as they are scanned; made when it is first asked for, as large as the probe once more."""
        return OrderedProbe(self.words_eval[:-1])

    @property
    def dimensions(self) -> int:
        """D."""
        return int(self.halved_coeff.shape[0]) - 1

    def to_bytes(self) -> bytes:
        """The canonical bytes: 1.71 million for D = 512."""
        return self.writer().finish()

    def writer(self) -> Writer:
        """The same bytes, packed when they are asked for."""
        writer = Writer(Kind.PROBE).fixed(self.epoch.month.encode("ascii"), _EPOCH_BYTES).fixed(self.model_hash, HASH_BYTES)
        return writer.integer(self.dimensions, 2).words(self.halved_coeff.reshape(-1), PROBE_BITS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Probe:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        return cls._read(Reader(data, Kind.PROBE, max_bytes=MAX_PROBE_BYTES))

    @classmethod
    def from_chunks(cls, chunks: Iterable[bytes], total_bytes: int) -> Probe:
        """`from_bytes` of bytes that come in chunks."""
        return cls._read(ChunkReader(chunks, Kind.PROBE, max_bytes=MAX_PROBE_BYTES, total_bytes=total_bytes))

    @classmethod
    def _read(cls, reader: Reader) -> Probe:
        epoch = read_epoch(reader)
        model_hash = reader.fixed(HASH_BYTES)
        dimensions = reader.integer(2, low=8, high=SEALMATCH_1.max_dimensions)
        _check_dimensions(dimensions)
        halved = reader.words((dimensions + 1) * N, PROBE_BITS, high=ring.Q >> 1).reshape(dimensions + 1, N)
        reader.finish()
        return cls(epoch, model_hash, halved)

    @functools.cached_property
    def digest(self) -> bytes:
        """`probe_digest`: SHA-256 of the canonical bytes."""
        return sha256_of(self.writer().chunks())

    def __repr__(self) -> str:
        return f"Probe(epoch={self.epoch.month}, dimensions={self.dimensions}, words=<redacted>)"


class SearchKey:
    """The secret key of one search in eval form, uint32[N]. No equality, no pickle, no text form.

    Kept sealed at rest for the audit period and produced on demand (`crypto.audit`); `destroy()` overwrites it.
    """

    __slots__ = ("_secret_eval",)

    def __init__(self, secret_eval: U32) -> None:
        ring.check_residues(secret_eval)
        if secret_eval.shape != (N,) or int(np.abs(ring.centred(ring.inverse(secret_eval))).max()) > 1:
            raise MisuseError("a search key is one ternary polynomial")
        self._secret_eval = secret_eval.copy()

    def secret_eval(self) -> U32:
        """The key's words, for opening answers inside this process."""
        if not self._secret_eval.size:
            raise KeyDestroyedError("this search key was destroyed")
        return self._secret_eval

    def export_secret(self) -> bytes:
        """The key as 256 bytes (two bits a coefficient: 0, 1 and 2 for -1), for sealing at rest only."""
        digits = np.mod(ring.centred(ring.inverse(self.secret_eval())), 3).astype(np.uint8).reshape(-1, 4)
        return bytes((digits << np.array([0, 2, 4, 6], np.uint8)).sum(axis=1, dtype=np.uint8))

    @classmethod
    def from_secret(cls, secret: bytes) -> SearchKey:
        """Inverse of `export_secret`; `EncodingError` when the bytes are not a ternary key."""
        if len(secret) != N // 4:
            raise EncodingError("a search key has another length")
        digits = (np.frombuffer(secret, np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & np.uint8(3)
        if (digits == 3).any():
            raise EncodingError("a search key has a digit that is not ternary")
        return cls(ring.forward(ring.from_signed(np.array([0, 1, -1], np.int64)[digits.reshape(-1)])))

    def destroy(self) -> None:
        """Overwrite the key; every later use raises `KeyDestroyedError`."""
        self._secret_eval.fill(0)
        self._secret_eval = np.empty(0, np.uint32)

    def __repr__(self) -> str:
        return "SearchKey(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a search key is not pickled; use export_secret")


def make_probe(model: EmbeddingModel, probe_vector: I32, epoch: Epoch) -> tuple[Probe, SearchKey]:
    """A probe under a key pair of its own; `probe_vector` is `EmbeddingModel.probe_vector`, int32[D].

    Every call draws a new key and new noise from SEAL: two probes of one face share nothing that can be compared.
    """
    if probe_vector.shape != (model.dimensions,) or int(np.abs(probe_vector).max()) > model.scales.mu + 1:
        raise MisuseError("a probe vector has the model's dimension and scale")
    pair = KeyPair()
    return _encrypt(pair, model.model_hash, probe_vector, epoch), SearchKey(pair.secret_eval())


def _encrypt(pair: KeyPair, model_hash: bytes, constants: I32, epoch: Epoch) -> Probe:
    """The probe of any constants under a given pair; what `make_probe`, the tests and the simulated forgers share."""
    secret = pair.secret_eval()
    c0, c1 = pair.encrypt_constants(np.append(constants, np.int32(0)))
    c0_eval, c1_eval = ring.forward(c0), ring.forward(c1)
    words = ring.multiply_add(ring.subtract(c1_eval, public_bases(epoch, constants.size)), secret, c0_eval)
    for leftover in (c0, c1, c0_eval, c1_eval, secret):
        leftover.fill(0)
    return Probe.rounded(epoch, model_hash, words)


def read_epoch(reader: Reader) -> Epoch:
    """The epoch field of a frame; `FieldError` when it is not a month."""
    try:
        return Epoch(reader.fixed(_EPOCH_BYTES).decode("ascii"))
    except UnicodeDecodeError as error:
        raise FieldError("an epoch is a calendar month such as 2026-11") from error


def _check_dimensions(dimensions: int) -> None:
    if dimensions % 8 or not 8 <= dimensions <= SEALMATCH_1.max_dimensions:
        raise FieldError(f"dimensions must be a multiple of 8 from 8 to {SEALMATCH_1.max_dimensions}")
