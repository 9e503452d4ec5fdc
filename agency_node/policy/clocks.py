"""How long an exigent grant holds without ratification at this node, and what becomes of it after: the strictest of the packs (R4).

Invariants: of several packs the shortest clock counts; and where one of them demands deletion there is deletion, because a law that demands
it is not met by a seal. Without any pack the strict default holds. Left to others: running the clock (`legal.exigent`, `legal.ratified`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from agency_node.policy.pack_folder import PackClocks


class OnLapse(enum.StrEnum):
    """What becomes of image, request and leads of an exigent search that was not ratified."""

    SEAL = "seal"
    DELETE = "delete"


class HasClocks(Protocol):
    """A loaded pack, as far as its clocks are concerned."""

    @property
    def clocks(self) -> PackClocks: ...


@dataclass(frozen=True)
class ExigentClock:
    """One node's rule. `ratify_within` runs from the grant's `not_before`, which every party reads in the same signed grant."""

    ratify_within: timedelta
    on_lapse: OnLapse


def exigent_clock(packs: Iterable[HasClocks]) -> ExigentClock:
    """The clock that follows from the packs that apply at a node."""
    clocks = [pack.clocks for pack in packs] or [PackClocks()]
    hours = min(one.exigent_ratify_hours for one in clocks)
    deletes = any(OnLapse(one.on_lapse) is OnLapse.DELETE for one in clocks)
    return ExigentClock(timedelta(hours=hours), OnLapse.DELETE if deletes else OnLapse.SEAL)


STRICT_CLOCK: Final = exigent_clock(())
"""24 hours, and a seal."""
