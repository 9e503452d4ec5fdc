"""The calibration chunk: an orthonormal basis without preferred directions, at places that only its seed knows."""

from __future__ import annotations

import numpy as np
import pytest

from crypto.calibration import MAX_ZERO_NORM, NORM_RANGE, CalibrationChunk, CalibrationPlaces
from crypto.codes import values_of
from crypto.errors import CalibrationError
from crypto.parameters import FRESH_NOISE_SD, HALVING_VARIANCE, Scales, noise_sd
from crypto.ring import N
from crypto.seed import Seed, permutation
from tests.simulation import directions, gallery_of, isotropic_model, search

SCALES = Scales(64)


def test_basis_is_orthonormal_and_the_rest_is_zero() -> None:
    chunk = CalibrationChunk.draw(Seed.fresh(), SCALES, 5)
    basis = values_of(chunk.templates[chunk.coefficients]).astype(float) / SCALES.gamma
    assert np.abs(basis @ basis.T - np.eye(64)).max() < 0.03
    rest = np.delete(chunk.templates, chunk.coefficients, axis=0)
    assert rest.shape == (N - 64, 64)
    assert not rest.any()


def test_one_seed_one_chunk() -> None:
    seed = Seed.fresh()
    first, again, other = (CalibrationChunk.draw(one, SCALES, 5) for one in (seed, seed, Seed.fresh()))
    assert (first.templates == again.templates).all()
    assert first.place == again.place
    assert (first.coefficients != other.coefficients).any()


def test_directions_and_places_have_no_preference() -> None:
    """Haar: each coordinate of each basis vector is as often positive as negative (a bare QR factor is not), and has variance 1/D."""
    scales, draws = Scales(8), 400
    chunks = [CalibrationChunk.draw(Seed(number.to_bytes(32, "big")), scales, 3) for number in range(draws)]
    bases = np.array([values_of(chunk.templates[chunk.coefficients]) for chunk in chunks]) / scales.gamma
    assert np.abs((bases > 0).mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(draws)
    assert np.abs(bases.var(axis=0) - 1 / 8).max() < 0.05
    places = np.bincount([chunk.place for chunk in chunks], minlength=4)
    assert places.min() > draws / 4 - 5 * np.sqrt(draws * 3 / 16)
    assert places.size == 4


def test_positions_are_sorted_and_cover_the_chunk() -> None:
    seed = Seed.fresh()
    chunk = CalibrationChunk.draw(seed, SCALES, 2)
    order = permutation(seed, "order", 3 * N)
    places = chunk.positions(order)
    slots = chunk.place * N + chunk.coefficients
    assert places.basis.tolist() == sorted(order[slots].tolist())
    assert sorted([*places.basis.tolist(), *places.zeros.tolist()]) == sorted(order[chunk.place * N : (chunk.place + 1) * N].tolist())


@pytest.mark.parametrize(
    ("norm", "zero_norm", "passes"),
    [
        (1.0, 0.0, True),
        (NORM_RANGE[0] + 1e-6, MAX_ZERO_NORM - 1e-6, True),
        (NORM_RANGE[1] - 1e-6, 0.0, True),
        (NORM_RANGE[0] - 1e-6, 0.0, False),
        (NORM_RANGE[1] + 1e-6, 0.0, False),
        (1.0, MAX_ZERO_NORM + 1e-6, False),
        (0.0, 0.0, False),
    ],
)
def test_limits_at_their_edges(norm: float, zero_norm: float, passes: bool) -> None:
    places = CalibrationPlaces(np.arange(8, dtype=np.uint32), np.arange(8, N, dtype=np.uint32))
    cosines = np.zeros(N)
    cosines[:8] = norm / np.sqrt(8)
    cosines[8] = zero_norm
    if passes:
        places.check(cosines)
    else:
        with pytest.raises(CalibrationError):
            places.check(cosines)


@pytest.mark.parametrize("dimensions", [8, 128, 512, 632])
def test_honest_noise_stays_below_the_limit(dimensions: int) -> None:
    """The limit at the zeros is beyond what noise alone gives, by ten standard deviations of its norm, for every dimension."""
    zeros = N - dimensions
    assert np.sqrt(zeros) * noise_at_zeros(Scales(dimensions)) * (1 + 10 / np.sqrt(2 * zeros)) < MAX_ZERO_NORM


@pytest.mark.parametrize(("dimensions", "norm"), [(512, 0.0158), (128, 0.0155)])
def test_noise_at_the_zeros_is_what_is_derived(dimensions: int, norm: float) -> None:
    """The figures that docs/protocol.md states, over some searches."""
    rng = np.random.default_rng(3)
    model = isotropic_model(dimensions)
    assert norm == pytest.approx(np.sqrt(N - dimensions) * noise_at_zeros(model.scales), abs=1e-4)
    vectors = directions(rng, 50, dimensions)
    gallery = gallery_of(model, model.templates(vectors))
    searches = [search(gallery, model.probe_vector(vector)) for vector in vectors[:5]]
    measured = np.mean([float((found.cosines()[found.secrets.places.zeros] ** 2).sum()) for found in searches])
    assert np.sqrt(measured) == pytest.approx(norm, rel=5 / np.sqrt(2 * 5 * (N - dimensions)))


def noise_at_zeros(scales: Scales) -> float:
    """Standard deviation of a score of the calibration chunk, as a cosine: it has D vectors of norm gamma where another chunk has N, and
    the errors of the encryptions meet no more than those."""
    fewer = (FRESH_NOISE_SD**2 + HALVING_VARIANCE) * (N - scales.dimensions) * scales.gamma**2
    return float(np.sqrt(noise_sd(scales.gamma) ** 2 - fewer) / scales.unit)
