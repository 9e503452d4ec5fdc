"""The calibration table: the isotropic tail against simulation, thresholds against their definition, no extrapolation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crypto.errors import MisuseError, ReleaseError
from crypto.impostors import ImpostorTable
from tests.simulation import directions


@pytest.mark.parametrize("dimensions", [16, 64, 128, 512])
def test_isotropic_tail_is_that_of_random_directions(dimensions: int) -> None:
    table = ImpostorTable.isotropic(bytes(32), dimensions)
    cosines = (directions(np.random.default_rng(1), 4000, dimensions) @ directions(np.random.default_rng(2), 500, dimensions).T).reshape(-1)
    assert table.synthetic
    assert table.deviation == pytest.approx(cosines.std(), rel=0.01)
    for share in (0.3, 0.01, 1e-4):
        assert (cosines >= table.cosine_at(share)).mean() == pytest.approx(share, rel=0.1)
        assert table.share_at(table.cosine_at(share)) == pytest.approx(share, rel=1e-6)


def test_isotropic_tail_far_out() -> None:
    """Against the closed form for D = 3, where the cosine is uniform, and a direct sum for D = 5."""
    assert ImpostorTable.isotropic(bytes(32), 3).share_at(0.5) == pytest.approx(0.25, rel=1e-3)
    x = 0.9
    assert ImpostorTable.isotropic(bytes(32), 5).share_at(x) == pytest.approx(0.5 - 0.75 * (x - x**3 / 3), rel=1e-3)


@pytest.mark.parametrize(("compared", "ppm"), [(1, 1000), (20_000, 10_000), (2_500_000, 1000), (100_000_000, 100)])
def test_threshold_is_its_definition(compared: int, ppm: int) -> None:
    table = ImpostorTable.isotropic(bytes(32), 512)
    share = table.share_at(table.threshold(compared, ppm))
    assert -math.expm1(compared * math.log1p(-share)) == pytest.approx(ppm / 1e6, rel=1e-3)


def test_nothing_is_extrapolated() -> None:
    table = ImpostorTable(bytes(32), np.array([0.0, 0.4]), np.log([0.5, 1e-6]), 0.1, synthetic=False)
    assert 0 < table.threshold(1000, 10_000) < 0.4
    with pytest.raises(ReleaseError, match="measure further or search fewer"):
        table.threshold(2_500_000, 1000)
    for compared, ppm in ((0, 1000), (10, 0), (10, 1_000_000)):
        with pytest.raises(ReleaseError):
            table.threshold(compared, ppm)


@pytest.mark.parametrize(
    ("cosines", "log_shares", "deviation"),
    [
        ([0.0], [0.0], 0.1),
        ([0.1, 0.0], [-1, -2], 0.1),
        ([0.0, 0.1], [-2, -1], 0.1),
        ([0.0, 0.1], [1, -1], 0.1),
        ([0.0, 0.1], [-1, -2], 0.0),
    ],
)
def test_a_table_falls(cosines: list[float], log_shares: list[float], deviation: float) -> None:
    with pytest.raises(MisuseError):
        ImpostorTable(bytes(32), np.array(cosines), np.array(log_shares, np.float64), deviation, synthetic=True)
