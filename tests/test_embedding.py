"""Quantising: scales, clipping, centring, and what a model's hash covers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from crypto.codes import values_of
from crypto.embedding import EmbeddingModel, face_commitment, filler_templates
from crypto.errors import MisuseError
from crypto.parameters import LARGEST_CODE, TAIL_START, TAIL_STEP
from crypto.seed import Seed
from tests.simulation import directions, isotropic_model

RNG = np.random.default_rng(5)


def test_templates_are_rounded_unit_vectors() -> None:
    model = isotropic_model(128)
    vectors = directions(RNG, 3000, 128)
    templates = model.templates(vectors * 7)  # the length of an embedding does not matter
    assert templates.dtype == np.int8
    scaled = model.scales.gamma * vectors
    off = np.abs(values_of(templates) - scaled)
    in_tail = np.abs(scaled) > TAIL_START
    assert 0 < in_tail.mean() < 0.003
    assert off[~in_tail].max() <= 0.5 + 1e-4
    assert off[in_tail].max() <= TAIL_STEP / 2 + 1e-4
    assert np.abs(model.probe_vector(vectors[0]) - model.scales.mu * vectors[0]).max() <= 0.5 + 1e-3
    assert np.abs(templates).max() < LARGEST_CODE


def test_clipping_stops_at_the_largest_code() -> None:
    templates = isotropic_model(64).templates(np.array([1.0, -1.0])[:, None] * np.eye(1, 64))
    assert templates[:, 0].tolist() == [LARGEST_CODE, -LARGEST_CODE]


def test_centring_vector_is_part_of_the_model() -> None:
    centre = directions(RNG, 1, 64)[0] * np.float32(0.3)
    plain, centred = isotropic_model(64), EmbeddingModel("isotropic-64", bytes(32), centre)
    assert plain.model_hash != centred.model_hash
    vector = directions(RNG, 1, 64)[0].astype(np.float64)
    expected = vector / np.linalg.norm(vector) - centre
    assert np.allclose(centred.centred_unit(vector), expected / np.linalg.norm(expected))


def test_model_hash_covers_every_part() -> None:
    parts = [("a", bytes(32), 1000), ("b", bytes(32), 1000), ("a", bytes(31) + b"\1", 1000), ("a", bytes(32), 1100)]
    hashes = {EmbeddingModel(name, weights, np.zeros(16, np.float32), spread).model_hash for name, weights, spread in parts}
    assert len(hashes) == 4


def test_model_hash_covers_scales_and_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates that were written otherwise are of another model, so a store of them does not open."""
    before = isotropic_model(64)
    monkeypatch.setattr("crypto.embedding.TAIL_STEP", 4)
    assert isotropic_model(64).model_hash != before.model_hash
    monkeypatch.undo()
    assert isotropic_model(64).model_hash == before.model_hash
    monkeypatch.setattr("crypto.parameters.MAX_CLIPPED_SHARE", 1e-12)
    assert isotropic_model(64).scales.gamma != before.scales.gamma
    assert isotropic_model(64).model_hash != before.model_hash


def test_fillers_look_like_records() -> None:
    scales = isotropic_model(128).scales
    fillers = values_of(filler_templates(Seed(bytes(32)), 2000, scales)).astype(np.float64)
    assert np.linalg.norm(fillers, axis=1) == pytest.approx(scales.gamma, rel=0.02)
    assert np.abs(fillers.mean(axis=0)).max() < 5 * scales.gamma / np.sqrt(128 * 2000)


def test_face_commitment_binds_all_four() -> None:
    vector = np.arange(8, dtype=np.int32)
    base = (b"s" * 32, b"i" * 32, b"m" * 32, vector)
    changed = [(b"t" * 32, *base[1:]), (base[0], b"j" * 32, *base[2:]), (*base[:2], b"n" * 32, vector), (*base[:3], vector + 1)]
    digests = {face_commitment(*parts) for parts in [base, *changed]}
    assert len(digests) == 5
    written = b"sealmatch-1|face-commit|" + b"s" * 32 + b"i" * 32 + b"m" * 32 + vector.astype("<i4").tobytes()
    assert face_commitment(*base) == hashlib.sha256(written).digest()


@pytest.mark.parametrize("bad", [np.zeros(64), np.full(64, np.nan), np.full(64, np.inf), np.zeros(63), np.array(1.0)])
def test_impossible_embeddings_are_refused(bad: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    model = isotropic_model(64)
    with pytest.raises(MisuseError):
        model.probe_vector(bad)
    with pytest.raises(MisuseError):
        model.templates(bad)


def test_impossible_models_are_refused() -> None:
    for weights, centre in ((bytes(31), np.zeros(64, np.float32)), (bytes(32), np.zeros(64)), (bytes(32), np.full(64, np.nan, np.float32))):
        with pytest.raises(MisuseError):
            EmbeddingModel("m", weights, centre)  # type: ignore[arg-type]
