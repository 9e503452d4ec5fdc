"""For each rule that the code enforces, how to take its enforcement out: so a test that claims to show the rule can be seen to go red.

Invariants: a switch exists in tests only, changes nothing but this process, and takes out one rule's check, not the program. A rule without
a switch is not called enforced (`test_policy_coverage`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from agency_node import follower, node, preflight, rotation
from agency_node.grants import GrantDesk
from agency_node.holder import answering, blocks, candidates, reembedding
from agency_node.holder.budgets import Budgets
from agency_node.holder.records import RecordStore
from agency_node.holder.subject_requests import SubjectRequests
from agency_node.legal import lapsing, review
from agency_node.outbox import Outbox
from agency_node.policy import engine
from agency_node.policy.quality_limits import QualityLimits
from agency_node.requester import leads, retention
from agency_node.requester.probe_versions import KeptChain
from broker.nonces import Nonces
from crypto import entry_counts, grant_claims, roster_entries
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


class NoCipher:
    """In place of an AEAD: what goes in comes out, with room for a tag."""

    def __init__(self, key: bytes) -> None:
        del key

    def encrypt(self, _nonce: bytes, data: Any, _bound: bytes) -> bytes:
        """The bytes as they are."""
        return bytes(data) + bytes(16)


def never(*_args: object) -> datetime:
    """In place of a deadline."""
    return datetime(2999, 1, 1, tzinfo=UTC)


def finds_nothing(*_args: Any) -> tuple[()]:
    """In place of a look that yields what blocks."""
    return ()


def replaced(place: object, name: str, value: object = nothing) -> Callable[[pytest.MonkeyPatch], None]:
    """A switch that puts something else in a check's place."""
    return lambda patch: patch.setattr(place, name, value)


def both(one: Callable[[pytest.MonkeyPatch], None], other: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """A switch that takes out two checks of one rule."""

    def off(patch: pytest.MonkeyPatch) -> None:
        one(patch)
        other(patch)

    return off


def without_policies_of(rule: int) -> Callable[[pytest.MonkeyPatch], None]:
    """A switch that takes every policy of one rule out of every pack."""

    def off(patch: pytest.MonkeyPatch) -> None:
        answer = engine.PolicyPack.answer

        @functools.cache
        def less(pack: engine.PolicyPack) -> engine.PolicyPack:
            for policy in pack.policy_ids:
                if policy.startswith("forbid-") and pack.ground(policy).rule == rule:
                    pack = pack.without(policy)
            return pack

        patch.setattr(engine.PolicyPack, "answer", lambda pack, question: answer(less(pack), question))
        patch.setattr(engine, "answer_together", lambda packs, question: [pack.answer(question) for pack in packs])

    return off


def allow_all(packs: Any, inputs: Any) -> engine.Decision:
    """A policy that permits everything."""
    return engine.Decision(True, (engine.NOTHING_PERMITS,), bytes(32), inputs.sha256)


def purged_records_stay(patch: pytest.MonkeyPatch) -> None:
    """A switch that takes records which must go, lets an old backup bring them back, and destroys without an entry of the log."""
    patch.setattr(candidates, "MUST_GO", frozenset())
    patch.setattr(RecordStore, "expunge_again", nothing_gone)

    patch.setattr(Outbox, "expunction", nothing)


def old_templates_stay(patch: pytest.MonkeyPatch) -> None:
    """A switch that leaves a gallery's old blocks where they were, and their data keys as they were."""
    patch.setattr(reembedding.Reembedding, "_destroy_old", nothing)
    patch.setattr(rotation, "rekey", nothing)


SWITCHES: Final[dict[str, Switch]] = {
    "R1": Switch("the packs' policies on offences", without_policies_of(1)),
    "R2": Switch("the fields that a reason must have", replaced(GrantReason, "__post_init__")),
    "R3": Switch("the packs' policies on the legal basis", without_policies_of(3)),
    "R4": Switch("the lapse when the clock has run out", replaced(lapsing.ExigentClocks, "_lapse")),
    "R5": Switch(
        "the comparison of the persons who sign, and the look for conflicts of interest",
        both(replaced(GrantTerms, "_check_persons"), replaced(review, "check_no_conflict")),
    ),
    "R6": Switch("the signature of the agency whose case it is", replaced(GrantTerms, "_check_persons")),
    "R7": Switch("the packs' policies on banned agencies", without_policies_of(7)),
    "R9": Switch("the packs' policies on who asks", without_policies_of(9)),
    "R11": Switch("the packs' policies on assemblies and protected activity", without_policies_of(11)),
    "R14": Switch("the last day of training", replaced(roster_entries.Person, "check_trained")),
    "R16": Switch("the officer's name", replaced(roster_entries, "check_text")),
    "R17": Switch("preflight's look at the posted policy", replaced(preflight, "_public_basis", finds_nothing)),
    "R18": Switch("preflight's look at the approval", replaced(preflight, "_public_basis", finds_nothing)),
    "R19": Switch("the making again of a still from its original and edits, at the review", replaced(KeptChain, "check")),
    "R21": Switch("the floor of a still's quality", replaced(QualityLimits, "check")),
    "R22": Switch(
        "the deletion of an answered probe, and what the requester destroys when its clock ends",
        both(replaced(answering.Answering, "_forget_probe"), replaced(retention, "destroy_due", nothing_gone)),
    ),
    "R24": Switch("the classes that a gallery takes", replaced(candidates, "check_class")),
    "R25": Switch(
        "the dispositions that a gallery does not take or search, what a restored store destroys again, and an expunging's log entry",
        purged_records_stay,
    ),
    "R26": Switch("the time within which a person is answered", replaced(SubjectRequests, "_due", never)),
    "R27": Switch("the end of a node that was moved to another machine", replaced(node, "check_acts")),
    "R28": Switch("the sealing of templates at rest", replaced(blocks, "AESGCM", NoCipher)),
    "R29": Switch("the destruction of old templates after a re-embedding, and of blocks' data keys in a rotation", old_templates_stay),
    "R32": Switch("the limit of the cap", replaced(grant_claims, "MAX_CAP", 10**6)),
    "R34": Switch("the words beside every list of leads", replaced(leads, "LEAD_NOTICE", "")),
    "R47": Switch("preflight's look for persons' keys in a node's folder", replaced(preflight, "_keys", finds_nothing)),
    "R48": Switch("the packs' policies on where information may lie", without_policies_of(48)),
    "R49": Switch("a request's nonce, good once (the rule's factors, locks and time limits are not here)", replaced(Nonces, "spend")),
    "R57": Switch("the counting of searches", replaced(Budgets, "spend")),
    "R60": Switch("the holder's own decision", replaced(answering, "decide_all", allow_all)),
    "R62": Switch("the smallest number that a table shows", replaced(entry_counts, "MIN_CELL", 0)),
    "R76": Switch("the log's word before an act", replaced(GrantDesk, "check_act", nothing_awaited)),
    "R78": Switch("the check of a head's cosignatures", replaced(follower, "check_checkpoint")),
}
