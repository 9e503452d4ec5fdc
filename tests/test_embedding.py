"""Quantising: scales, clipping, centring, and what a model's hash covers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from crypto.embedding import EmbeddingModel, face_commitment, filler_templates
from crypto.errors import MisuseError
from crypto.seed import Seed
from tests.simulation import directions, isotropic_model

RNG = np.random.default_rng(5)


def test_templates_are_rounded_unit_vectors() -> None:
    model = isotropic_model(128)
    vectors = directions(RNG, 3000, 128)
    templates = model.templates(vectors * 7)  # the length of an embedding does not matter
    assert templates.dtype == np.int8
    assert np.abs(templates - model.scales.gamma * vectors).max() <= 0.5 + 1e-4
    assert np.abs(model.probe_vector(vectors[0]) - model.scales.mu * vectors[0]).max() <= 0.5 + 1e-3
    assert (np.abs(templates) == 127).mean() < 1e-5


def test_clipping_stops_at_127() -> None:
    assert isotropic_model(64).templates(np.eye(64)[:2]).max() == 127


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


def test_fillers_look_like_records() -> None:
    scales = isotropic_model(128).scales
    fillers = filler_templates(Seed(bytes(32)), 2000, scales).astype(np.float64)
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
