"""How often two different persons reach a cosine: the calibration table of an embedding model, and the threshold that follows from it.

A federation multiplies false candidates: the threshold is therefore derived from the *sum* of the galleries that answered (their slots,
fillers among them) and the target false-positive identification rate of the grant (R33). Invariants: shares fall as cosines rise; nothing
is extrapolated beyond the table. A table that was not measured is marked synthetic for ever; refusing it in production is left to the node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from crypto.errors import MisuseError, ReleaseError
from crypto.ring import F64

MILLION = 1_000_000


@dataclass(frozen=True, eq=False)
class ImpostorTable:
    """Share of impostor comparisons at or above each cosine.

    `cosines` float64 ascending, `log_shares` float64 natural logarithms, descending; `deviation` is the impostor scores' standard
    deviation.
    """

    model_hash: bytes
    cosines: F64
    log_shares: F64
    deviation: float
    synthetic: bool

    def __post_init__(self) -> None:
        if self.cosines.shape != self.log_shares.shape or self.cosines.size < 2 or self.deviation <= 0:
            raise MisuseError("an impostor table has at least two points and a deviation above zero")
        if (np.diff(self.cosines) <= 0).any() or (np.diff(self.log_shares) >= 0).any() or self.log_shares[0] > 0:
            raise MisuseError("an impostor table's shares fall as its cosines rise")

    @classmethod
    def isotropic(cls, model_hash: bytes, dimensions: int, *, points: int = 2049) -> Self:
        """The synthetic table: the exact tail of the cosine of two independent uniform directions of R^D.

        Its density is Gamma(D/2) / (sqrt(pi) Gamma((D-1)/2)) (1 - x^2)^((D-3)/2); the tail is summed by the trapezoid rule from 1 down to
        0, and cut where the share falls below 1e-18.
        """
        grid = np.linspace(0.0, 1.0, points)
        constant = math.lgamma(dimensions / 2) - math.lgamma((dimensions - 1) / 2) - math.log(math.pi) / 2
        density = np.zeros(points)
        density[:-1] = np.exp(constant + (dimensions - 3) / 2 * np.log1p(-(grid[:-1] ** 2)))
        steps = (density[1:] + density[:-1]) / 2 * (grid[1] - grid[0])
        tail = np.append(np.cumsum(steps[::-1])[::-1], 0.0)
        kept = tail > 1e-18
        return cls(model_hash, grid[kept], np.log(np.minimum(tail[kept], 0.5)), 1 / math.sqrt(dimensions), synthetic=True)

    def share_at(self, cosine: float) -> float:
        """Share of impostors at or above a cosine; the table's end value outside its range."""
        return math.exp(float(np.interp(cosine, self.cosines, self.log_shares)))

    def cosine_at(self, share: float) -> float:
        """The cosine that this share of impostors reaches; `ReleaseError` outside the table, which is never extrapolated."""
        log_share = math.log(share)
        if not self.log_shares[-1] <= log_share <= self.log_shares[0]:
            raise ReleaseError(
                "the calibration table does not reach this false-positive rate at this gallery size: measure further or search fewer"
            )
        return float(np.interp(-log_share, -self.log_shares, self.cosines))

    def threshold(self, compared: int, false_positives_per_million: int) -> float:
        """The cosine at which a search that compares N others shows anybody with the target probability: 1 - (1 - share)^N = rate."""
        if compared < 1 or not 1 <= false_positives_per_million < MILLION:
            raise ReleaseError("a threshold needs comparisons and a false-positive rate from one to 999,999 in a million searches")
        return self.cosine_at(-math.expm1(math.log1p(-false_positives_per_million / MILLION) / compared))
