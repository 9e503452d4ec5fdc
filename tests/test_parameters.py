"""The parameter set and its bounds, each at its edge."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from crypto.codes import codes_of, values_of
from crypto.errors import MisuseError, UnsupportedParametersError
from crypto.ordered_probe import OrderedProbe
from crypto.packed_words import PackedWords
from crypto.parameters import (
    LARGEST_VALUE,
    MAX_CLIPPED_SHARE,
    MAX_SCORE,
    SEALMATCH_1,
    SECURITY_TABLE,
    TAIL_START,
    TAIL_STEP,
    Parameters,
    Scales,
    clipped_share,
    largest_mu,
    noise_sd,
    template_rounding,
    total_error,
)
from crypto.ring import N, Q
from crypto.scan import scan_words


@pytest.mark.parametrize(
    "change",
    [
        {"name": "sealmatch-2"},
        {"ring_degree": 2048},
        {"modulus": 132120577},
        {"plain_modulus": 1 << 19},
        {"max_dimensions": 640},
        {"answer_b_bits": 12},
        {"answer_a_bits": 17},
        {"opened_bits": 17},
        {"probe_bits": 27},
    ],
)
def test_no_other_set_can_be_built(change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParametersError):
        dataclasses.replace(SEALMATCH_1, **change)


def test_the_named_set_is_the_default() -> None:
    assert Parameters() == SEALMATCH_1
    assert SEALMATCH_1.modulus == 2**27 - 2047


def test_security_table_names_source_and_date() -> None:
    assert {row.bits for row in SECURITY_TABLE} == {128.0, 126.4, 128.2, 99.9, 151.0}
    assert all(row.source and row.model and row.date[:2] == "20" for row in SECURITY_TABLE)


def test_sums_fit_sixty_four_bits_at_the_edge() -> None:
    """Every word q - 1 at the largest dimension: the sum the kernel forms is the largest there is, and it is exact."""
    dimensions = SEALMATCH_1.max_dimensions
    assert dimensions * (Q - 1) ** 2 < 2**64 <= 1025 * (Q - 1) ** 2
    words = np.full((1, dimensions, N), Q - 1, np.uint32)
    assert (scan_words(PackedWords.of(words), [OrderedProbe(words[0])]) == dimensions * (Q - 1) ** 2 % Q).all()


@pytest.mark.parametrize("dimensions", [8, 64, 128, 256, 512, 632])
def test_scales_sit_on_their_bounds(dimensions: int) -> None:
    scales = Scales(dimensions)

    def worst(mu: int) -> float:
        product = MAX_SCORE * (scales.gamma + template_rounding(dimensions, scales.gamma)) * (mu + math.sqrt(dimensions) / 2)
        return product + 6 * noise_sd(scales.gamma) * SEALMATCH_1.plain_modulus / SEALMATCH_1.modulus

    assert worst(scales.mu) <= SEALMATCH_1.plain_modulus / 2 < worst(scales.mu + 1)
    assert clipped_share(dimensions, scales.gamma, 1000) <= MAX_CLIPPED_SHARE
    # gamma is the best: one less or one more costs error, or clips too often
    for other in (scales.gamma - 1, scales.gamma + 1):
        clips = clipped_share(dimensions, other, 1000) > MAX_CLIPPED_SHARE
        assert clips or total_error(dimensions, other, largest_mu(dimensions, other), 1000) >= scales.error_sd


@pytest.mark.parametrize("dimensions", [64, 128, 512, 632])
def test_no_unit_vector_is_rounded_farther_than_the_bound(dimensions: int) -> None:
    """The worst there is, as many coordinates midway between two values of the tail as a unit vector has room for, and random ones."""
    gamma = Scales(dimensions).gamma
    start = TAIL_START + TAIL_STEP / 2 - 0.01
    worst = np.full(dimensions, 0.499)
    worst[: min(dimensions, int(gamma**2 // start**2))] = start
    moved = float(np.linalg.norm(values_of(codes_of(worst)) - worst))
    assert 0.9 * template_rounding(dimensions, gamma) < moved <= template_rounding(dimensions, gamma)
    rng = np.random.default_rng(dimensions)
    for sparse in (dimensions, 12, 5):
        vectors = np.zeros((2000, dimensions))
        vectors[:, :sparse] = rng.standard_normal((2000, min(sparse, dimensions)))
        vectors *= gamma / np.linalg.norm(vectors, axis=1, keepdims=True)
        inside = np.clip(vectors, -LARGEST_VALUE, LARGEST_VALUE)  # what clips becomes smaller, which the bound leaves out
        assert np.linalg.norm(values_of(codes_of(vectors)) - inside, axis=1).max() <= template_rounding(dimensions, gamma)


@pytest.mark.parametrize(("dimensions", "spread"), [(128, 1000), (128, 1500), (64, 1000), (512, 1000)])
def test_the_derived_rounding_is_that_of_gaussian_coordinates(dimensions: int, spread: int) -> None:
    """Measured over four million coordinates of the widest dimension: the tail's share of the error is derived rightly, not merely large
    enough; with one byte a coordinate and no tail it would be smaller by more than what is allowed here, and clip."""
    scales = Scales(dimensions, spread)
    coordinates = np.random.default_rng(3).standard_normal(4_000_000) * scales.gamma * spread / 1000 / math.sqrt(dimensions)
    measured = float(((values_of(codes_of(coordinates)) - coordinates) ** 2).mean()) / scales.gamma**2
    assert measured == pytest.approx(scales.rounding_sd**2 - 1 / (12 * scales.mu**2), rel=0.01)


def test_scales_are_derived_and_cannot_be_set() -> None:
    with pytest.raises(TypeError):
        Scales(512, gamma=407)  # type: ignore[call-arg]
    assert (Scales(512).gamma, Scales(512).mu) == (370, 1121)
    assert (Scales(128).gamma, Scales(128).mu) == (358, 1177)
    assert Scales(128, 3000).gamma == Scales(128, 1500).gamma // 2  # a wider coordinate clips earlier


@pytest.mark.parametrize(("dimensions", "spread"), [(0, 1000), (4, 1000), (100, 1000), (636, 1000), (640, 1000), (128, 999), (128, 11314)])
def test_scales_refuse(dimensions: int, spread: int) -> None:
    with pytest.raises(MisuseError):
        Scales(dimensions, spread)


def test_stated_errors() -> None:
    """The figures that docs/protocol.md and the README state."""
    assert Scales(512).noise_sd == pytest.approx(0.00087, abs=5e-6)
    assert Scales(512).error_sd == pytest.approx(0.00120, abs=5e-6)
    assert Scales(128).noise_sd == pytest.approx(0.00084, abs=5e-6)
    assert Scales(128).error_sd == pytest.approx(0.00120, abs=5e-6)
