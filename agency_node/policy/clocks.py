"""Clocks of the packs: how long an exigent grant holds without ratification at this node, and what becomes of it after (R4); how long what
the log commits to stays closed; how long a requester keeps a search's pictures and leads (R22). The strictest of the packs counts.

Invariants: of several packs the shortest clock counts; and where one of them demands deletion there is deletion, because a law that demands
it is not met by a seal. Of several delays before an opening the longest counts: what was opened is never closed again. What is
kept is kept for the shortest time, but never less than the longest that a pack keeps it for the defence. Without any pack the strict
default holds. Left to others: running the clocks (`legal.exigent`, `legal.ratified`, `requester.retention`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from agency_node.policy.pack_folder import PackClocks, PackOpenings, PackRetention


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


class HasOpenings(Protocol):
    """A loaded pack, as far as the opening of entries is concerned."""

    @property
    def openings(self) -> PackOpenings: ...


def openings_delay(packs: Iterable[HasOpenings]) -> timedelta:
    """How long entries of this node stay closed to the public, from the moment in which they are made."""
    return timedelta(days=max((one.openings.after_days for one in packs), default=PackOpenings().after_days))


class HasRetention(Protocol):
    """A loaded pack, as far as keeping is concerned."""

    @property
    def retention(self) -> PackRetention: ...


@dataclass(frozen=True)
class RetentionClock:
    """How long a requester keeps a search's picture and its leads; both run from the end of its grant, which stands in the signed grant."""

    probe: timedelta
    leads: timedelta
    discovery: timedelta

    def probe_ends(self, grant_ends: datetime) -> datetime:
        """When still, edits, embedding and probe are destroyed."""
        return grant_ends + max(self.probe, self.discovery)

    def leads_end(self, grant_ends: datetime) -> datetime:
        """When leads, photographs and sealed scores are destroyed."""
        return grant_ends + max(self.leads, self.discovery)


def retention_clock(packs: Iterable[HasRetention]) -> RetentionClock:
    """The clock that follows from these packs: the shortest time to keep, and beneath it the longest that the defence is given."""
    found = [pack.retention for pack in packs] or [PackRetention()]
    return RetentionClock(
        timedelta(days=min(one.probe_days for one in found)),
        timedelta(days=min(one.leads_days for one in found)),
        timedelta(days=max(one.discovery_days for one in found)),
    )


STRICT_CLOCK: Final = exigent_clock(())
"""24 hours, and a seal."""
