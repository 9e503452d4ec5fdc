"""`kill -9` of any process of a search at any step, then a restart: the search completes, and nothing was done twice.

A step is seen in a party's store and the process is killed within milliseconds of it. Whatever it was doing, afterwards the search has
released the right person; every holder has answered once, with one answer's bytes on the wire; the custodian has taken one share and one
opened body from each. A few cases run every time, all of them in test_torture_federation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

import pytest

from agency_node.demo.federation import BOARD, EASTFIELD, HOLDERS, LAKESIDE, NORTHPORT
from agency_node.envelopes import Envelopes
from agency_node.outbox import Conversation
from crypto.answer import MaskShare
from crypto.canonical import AgencyId, SearchId
from crypto.entries import EntryKind
from crypto.message_types import MessageType
from tests.federation_fixture import World, running, world

__all__ = ["running", "world"]

PERSON = "E-2019-004417"
BROKER = "broker"
DEADLINE_S = 120.0
MARGIN_S = 30.0
"""After its deadline a search has this long to have ended."""


@dataclass(frozen=True)
class Step:
    """A moment of a search: in whose store it shows, and the row that shows it."""

    name: str
    where: AgencyId
    row: str


STEPS = {
    one.name: one
    for one in (
        Step("submitted", NORTHPORT, "FROM searches WHERE search_id = ? AND state NOT IN ('drafted', 'granted')"),
        Step("sent", NORTHPORT, "FROM searches WHERE search_id = ? AND state IN ('sent', 'released')"),
        Step("probe in the inbox", EASTFIELD, "FROM inbox WHERE search_id = ? AND message_type = 'probe'"),
        Step("claimed", EASTFIELD, "FROM answers WHERE search_id = ?"),
        Step("answered", EASTFIELD, "FROM answers WHERE search_id = ? AND state <> 'claimed'"),
        Step("opened", NORTHPORT, "FROM search_holders WHERE search_id = ? AND state IN ('opened', 'answered')"),
        Step("share in custody", BOARD, "FROM custody_parts WHERE search_id = ? AND kind = 'share'"),
        Step("released", BOARD, "FROM custody WHERE search_id = ? AND state = 'released'"),
        Step("stubs queued", EASTFIELD, "FROM outbox WHERE search_id = ? AND name = 'stubs'"),
    )
}
Kills = tuple[tuple[str, str], ...]
VICTIMS = (NORTHPORT, EASTFIELD, LAKESIDE, BOARD, BROKER)
CASES: tuple[Kills, ...] = (
    ((NORTHPORT, "submitted"), (BOARD, "released")),
    ((BROKER, "sent"), (LAKESIDE, "answered")),
    ((EASTFIELD, "claimed"), (NORTHPORT, "opened")),
)
"""Each case is one search; the second kill comes after the first process is back."""


def start_again(world: World, victim: str) -> None:
    """Start a process that was ended, as its operator does."""
    if victim == BROKER:
        world.federation.start_broker()
    else:
        world.federation.start(AgencyId(victim))


def run_killed(world: World, kills: Kills) -> SearchId:
    """One search in which each of these processes is killed at its step; it must complete."""
    search_id = world.search(answer_within_s=DEADLINE_S)
    for victim, name in kills:
        step = STEPS[name]
        world.until(partial(world.ask, step.where, f"SELECT 1 {step.row}", search_id), name, every=0.001)
        world.federation.stop(victim, kill=True)
        start_again(world, victim)
    world.wait_ended(search_id, DEADLINE_S + MARGIN_S)
    return search_id


def check_completed_once(world: World, search_id: SearchId) -> None:
    """The person stands at rank 1, and every party did its part exactly once."""
    status = world.status(search_id)
    assert status.state == "released", status.note
    assert {holder: one["state"] for holder, one in status.holders.items()} == dict.fromkeys(HOLDERS, "answered")
    first = world.shown(search_id)[0]
    assert (first.rank, first.agency, first.record_number) == (1, EASTFIELD, PERSON)

    digests = {holder: _share_digest(world, holder, search_id) for holder in HOLDERS}
    for holder in HOLDERS:
        stored = world.ask(holder, "SELECT state, answer_digest FROM answers WHERE search_id = ?", search_id)
        assert stored == [("released", digests[holder])]  # what the custodian was told of is what the holder keeps, and all of it
        for kind in (MessageType.ANSWER, MessageType.DELETION_RECEIPT, MessageType.STUBS):
            assert len(world.messages(holder, kind, search_id)) == 1, (holder, kind)
    taken = Counter(world.ask(BOARD, "SELECT kind, holder FROM custody_parts WHERE search_id = ?", search_id))
    assert taken == Counter({(kind, holder): 1 for kind in ("share", "opened") for holder in HOLDERS})
    assert len(world.messages(NORTHPORT, MessageType.OPENED_SCORES, search_id)) == len(HOLDERS)
    assert len(world.messages(NORTHPORT, MessageType.PROBE, search_id)) == len(HOLDERS)
    assert len(world.messages(BOARD, MessageType.REQUESTER_RELEASE, search_id)) == 1

    both = (EntryKind.ANSWER, EntryKind.OPENED_SCORES)
    expected: Counter[tuple[EntryKind, str]] = Counter({(kind, str(holder)): 1 for kind in both for holder in HOLDERS})
    expected.update({(EntryKind.GRANT, ""): 1, (EntryKind.RELEASE, ""): 1})
    assert world.entries(search_id) == expected


def _share_digest(world: World, holder: AgencyId, search_id: SearchId) -> bytes:
    """The answer's digest in the one mask share that this holder ever sent, opened with the custodian's own key."""
    (message,) = world.messages(holder, MessageType.MASK_SHARE, search_id)
    board, header = world.node(BOARD), message.header
    assert header.search_id is not None
    assert header.grant_digest is not None
    conversation = Conversation(header.search_id, header.grant_digest, message.envelope().context.epoch)
    return Envelopes(BOARD, board.keyring, board.parties).open(message, MaskShare, conversation, holder).answer_digest


@pytest.mark.parametrize("kills", CASES, ids=[", ".join(f"{victim} at {step}" for victim, step in kills) for kills in CASES])
def test_a_killed_process_loses_nothing_and_repeats_nothing(world: World, kills: Kills) -> None:
    check_completed_once(world, run_killed(world, kills))
