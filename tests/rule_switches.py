"""For each rule that the code enforces, how to take its enforcement out: so a test that claims to show the rule can be seen to go red.

Invariants: a switch exists in tests only, changes nothing but this process, and takes out one rule's check, not the program. A rule without
a switch is not called enforced (`test_policy_coverage`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from agency_node import follower
from agency_node.grants import GrantDesk
from agency_node.holder import answering
from agency_node.holder.budgets import Budgets
from agency_node.holder.records import RecordStore
from agency_node.legal import lapsing
from agency_node.policy import engine
from crypto import grant_claims, roster_entries
from crypto.grant_basis import GrantReason
from crypto.grant_claims import GrantTerms


@dataclass(frozen=True)
class Switch:
    """`off` takes the enforcement out; `what` says in words what was taken out."""

    what: str
    off: Callable[[pytest.MonkeyPatch], None]


def nothing(*_args: Any, **_named: Any) -> None:
    """In place of a check."""


def nothing_gone(*_args: Any, **_named: Any) -> int:
    """In place of what counts what it destroyed."""
    return 0


async def nothing_awaited(*_args: Any, **_named: Any) -> None:
    """In place of a check that waits."""


def replaced(place: object, name: str, value: object = nothing) -> Callable[[pytest.MonkeyPatch], None]:
    """A switch that puts something else in a check's place."""
    return lambda patch: patch.setattr(place, name, value)


def without_policies_of(rule: int) -> Callable[[pytest.MonkeyPatch], None]:
    """A switch that takes every policy of one rule out of every pack."""

    def off(patch: pytest.MonkeyPatch) -> None:
        decide = engine.PolicyPack.decide

        @functools.cache
        def less(pack: engine.PolicyPack) -> engine.PolicyPack:
            for policy in pack.policy_ids:
                if policy.startswith("forbid-") and pack.ground(policy).rule == rule:
                    pack = pack.without(policy)
            return pack

        patch.setattr(engine.PolicyPack, "decide", lambda pack, inputs: decide(less(pack), inputs))

    return off


def allow_all(packs: Any, inputs: Any) -> engine.Decision:
    """A policy that permits everything."""
    return engine.Decision(True, (engine.NOTHING_PERMITS,), bytes(32), inputs.sha256)


SWITCHES: Final[dict[str, Switch]] = {
    "R1": Switch("the packs' policies on offences", without_policies_of(1)),
    "R2": Switch("the fields that a reason must have", replaced(GrantReason, "__post_init__")),
    "R3": Switch("the packs' policies on the legal basis", without_policies_of(3)),
    "R4": Switch("the lapse when the clock has run out", replaced(lapsing.ExigentClocks, "_lapse")),
    "R5": Switch("the comparison of the persons who sign", replaced(GrantTerms, "_check_persons")),
    "R6": Switch("the signature of the agency whose case it is", replaced(GrantTerms, "_check_persons")),
    "R7": Switch("the packs' policies on banned agencies", without_policies_of(7)),
    "R9": Switch("the packs' policies on who asks", without_policies_of(9)),
    "R11": Switch("the packs' policies on assemblies and protected activity", without_policies_of(11)),
    "R14": Switch("the last day of training", replaced(roster_entries.Person, "check_trained")),
    "R16": Switch("the officer's name", replaced(roster_entries, "check_text")),
    "R22": Switch("the deletion of an answered probe", replaced(answering.Answering, "_forget_probe")),
    "R25": Switch("what a restored store destroys again", replaced(RecordStore, "expunge_again", nothing_gone)),
    "R32": Switch("the limit of the cap", replaced(grant_claims, "MAX_CAP", 10**6)),
    "R48": Switch("the packs' policies on where information may lie", without_policies_of(48)),
    "R57": Switch("the counting of searches", replaced(Budgets, "spend")),
    "R60": Switch("the holder's own decision", replaced(answering, "decide_all", allow_all)),
    "R76": Switch("the log's word before an act", replaced(GrantDesk, "check_act", nothing_awaited)),
    "R78": Switch("the check of a head's cosignatures", replaced(follower, "check_checkpoint")),
}
