"""What looks wrong in one holder's scores without showing any of them: alarms that stand beside the release.

A holder may plant loud vectors, or a gallery may be of another model than it says. Invariants: an alarm is one bit; it never holds back a
lead, because a false one would. Left to others: unmasking the scores (`release`), and what a person does about an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from crypto.impostors import ImpostorTable
from crypto.parameters import Scales
from crypto.ring import F64

TAIL_SHARE: Final = 1e-5
MAX_TAIL_FALSE_ALARM: Final = 1e-6
TAIL_ALLOWANCE: Final = 3
"""Scores above the impostor quantile that true matches may add: one person's repeated bookings."""
SPREAD_RANGE: Final = (0.5, 2.0)


@dataclass(frozen=True)
class Alarms:
    """What looks wrong in one holder's scores without showing any of them; reported with the release.

    `spread`: the scores' deviation is not the model's. `impossible`: cosines beyond 1 and six deviations of error. `planted`: more scores
    above the impostors' 1e-5 quantile than chance and one person's bookings explain.
    """

    spread: bool
    impossible: bool
    planted: bool

    @classmethod
    def of(cls, cosines: F64, table: ImpostorTable, scales: Scales) -> Alarms:
        """The alarms of one holder's nameless cosines; float64[slots]."""
        tail_limit = poisson_limit(TAIL_SHARE * cosines.size, MAX_TAIL_FALSE_ALARM) + TAIL_ALLOWANCE
        spread = float(np.std(cosines)) / table.deviation
        return cls(
            spread=not SPREAD_RANGE[0] <= spread <= SPREAD_RANGE[1],
            impossible=bool(np.abs(cosines).max() > 1 + 6 * scales.error_sd),
            planted=int((cosines > table.cosine_at(TAIL_SHARE)).sum()) > tail_limit,
        )

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return self.spread or self.impossible or self.planted


def poisson_limit(mean: float, share: float) -> int:
    """The smallest count that a Poisson variable of this mean exceeds with probability below `share`."""
    count, term = 0, float(np.exp(-mean))
    below = term
    while 1 - below >= share:
        count += 1
        term *= mean / count
        below += term
    return count
