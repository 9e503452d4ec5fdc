"""A broker that changes, repeats, mixes up or drops messages, hides a revocation, or shows a node a fork of the log.

A node takes what its sender signed, once; acts when it has read the log to its end, and on nothing less; and stops for good, with the
evidence in its store, when the log's operator signed two histories. What a broker can do is to be silent.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agency_node import facts
from agency_node.facts import Fact
from agency_node.requester.leads import list_leads
from agency_node.tables import answers, custody, inbox, outbox, receipts, searches
from crypto.canonical import AgencyId
from crypto.checkpoint import SignedCheckpoint
from crypto.entries import EntryKind
from crypto.grant_claims import GrantClaims
from crypto.mailbox_receipt import MailboxReceipt
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.notices import Deleted, DeletionReceipt
from crypto.release import Outcome, RequesterRelease
from tests.node_samples import cosigned, head_of, other_leaves
from tests.node_world import World, WorldNode, node_key, search_claims
from tests.node_world_broker import WITNESSES, leaf_of
from tests.sample_federation import (
    BOARD,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    OVERSIGHT,
    signing_key,
)

NODES = [pytest.param(NORTHPORT, id="requester"), pytest.param(LAKESIDE, id="holder"), pytest.param(OVERSIGHT, id="custodian")]
by_each = pytest.mark.parametrize("party", NODES)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


# --- messages ---------------------------------------------------------------------------------------------------------


@dataclass
class Waiting:
    """A node that has been sent something, and what it is."""

    node: WorldNode
    message: Message


async def waiting(world: World, party: AgencyId) -> Waiting:
    """A good message for the party, which the broker has in hand: the grant for holder and custodian, the answer for the requester."""
    if party == NORTHPORT:
        await world.granted()
        await world.run(NORTHPORT, rounds=3)
        await world.run(LAKESIDE, rounds=2)
        box = world.broker.boxes[NORTHPORT]
        message = next(m for m in map(Message.from_bytes, box) if m.header.message_type is MessageType.ANSWER)
        box.clear()
    else:
        content = search_claims()
        world.broker.enter_grant(content.digest)
        message = world.grant(content, party)
    return Waiting(world.nodes[party], message)


@by_each
async def test_a_message_with_a_changed_byte_is_not_taken(world: World, party: AgencyId) -> None:
    """In the head, the checkpoint, the envelope, the frame's signature; and the true one afterwards is."""
    it = await waiting(world, party)
    data = it.message.to_bytes()
    stored = it.node.rows(inbox)
    places = {0, 4, 5, 8, 30, 54, 60, 75, 90, 110, len(data) // 2, len(data) - 130, len(data) - 64, len(data) - 1}
    for place in sorted(places):
        await world.hand_in(party, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert it.node.rows(inbox) == stored, place
    assert sum("refused message" in line for line in it.node.journal()) == len(places)
    assert it.node.types_queued() == set()
    await world.hand_in(party, data)
    assert it.node.state_of(it.message)[0] == "done"


@by_each
async def test_a_message_that_comes_twice_is_handled_once(world: World, party: AgencyId) -> None:
    it = await waiting(world, party)
    await world.hand_in(party, it.message)
    after = it.node.rows(inbox), it.node.rows(outbox)
    await world.hand_in(party, it.message)
    await world.hand_in(party, it.message, it.message)
    await it.node.receive()
    await it.node.work()
    assert (it.node.rows(inbox), it.node.rows(outbox)) == after
    assert it.node.state_of(it.message)[0] == "done"
    assert len(it.node.rows(receipts, message_id=str(it.message.message_id))) == 1


@by_each
async def test_a_second_message_under_one_number_is_refused(world: World, party: AgencyId) -> None:
    """Whoever has the sender's key twice, or a sender that says two things, is heard once."""
    it = await waiting(world, party)
    await world.hand_in(party, it.message)
    head = it.message.header
    other = Message(replace(head, sent_at=head.sent_at + timedelta(seconds=1)), it.message.body, it.message.signature)
    other = Message(other.header, other.body, node_key(head.sender).sign(_signed_string(other)))
    await world.hand_in(party, other)
    assert it.node.rows(inbox, message_id=str(other.message_id)) == []
    assert any("its number was used by another" in line for line in it.node.journal())


def _signed_string(message: Message) -> bytes:
    frame = message.to_bytes()[:-64]
    return b"sealmatch-1/message\n" + hashlib.sha256(frame).hexdigest().encode("ascii")


@by_each
async def test_a_message_of_another_party_is_not_taken(world: World, party: AgencyId) -> None:
    other = LAKESIDE if party != LAKESIDE else OVERSIGHT
    content = search_claims()
    message = world.grant(content, other)
    node = await world.hand_in(party, message)
    assert node.rows(inbox) == []
    assert node.types_queued() == set()


async def test_a_message_of_another_search_waits_for_that_searchs_grant(world: World) -> None:
    """Delivered is what was signed: the broker cannot move it into this search, and by itself it does nothing."""
    content, other = search_claims(), search_claims(1)
    node = await world.holder_with_grant(content)
    probe = world.probe(other, number=1)
    moved = probe.to_bytes().replace(bytes.fromhex(other.search_id), bytes.fromhex(content.search_id), 1)
    await world.hand_in(LAKESIDE, probe, moved)
    assert node.state_of(probe)[0] == "waiting"
    assert node.rows(answers) == []
    assert node.types_queued() == set()
    assert sum("refused message" in line for line in node.journal()) == 1


async def test_messages_in_any_order_come_to_the_same(world: World) -> None:
    """Each handed out last to first: what must wait waits."""
    content = await world.granted()
    for _ in range(8):
        for agency in (NORTHPORT, LAKESIDE, OVERSIGHT, NORTHPORT_LAW):
            world.broker.boxes.get(agency, []).reverse()
            await world.nodes[agency].turn()
    node = world.nodes[NORTHPORT]
    assert len(list_leads(node.engine, node.vault, content.search_id)) == 1
    print([(one.agency, row.message_type, row.note) for one in world.nodes.values() for row in one.rows(inbox) if row.state != "done"])
    assert {row.state for one in world.nodes.values() for row in one.rows(inbox)} == {"done"}


ON_THE_WAY = [MessageType.GRANT, MessageType.PROBE, MessageType.ANSWER, MessageType.MASK_SHARE, MessageType.OPENED_SCORES]


@pytest.mark.parametrize("dropped", ON_THE_WAY)
async def test_a_dropped_message_costs_an_answer_and_not_the_search(world: World, dropped: MessageType) -> None:
    """At the deadline the custodian releases what it has, and names who is missing."""
    content = await world.granted()

    def drop() -> None:
        for agency, box in world.broker.boxes.items():
            kept = [one for one in box if Message.from_bytes(one).header.message_type is not dropped]
            box[:] = kept if dropped is not MessageType.GRANT or agency == LAKESIDE else box

    for _ in range(5):
        for agency in (NORTHPORT, LAKESIDE, OVERSIGHT, NORTHPORT_LAW):
            drop()
            await world.nodes[agency].turn()
    custodian = world.nodes[OVERSIGHT]
    assert [row.state for row in custodian.rows(custody)] == ["open"]
    world.clock.now = content.answer_deadline
    world.broker.cosign_again()
    await world.run(rounds=3)
    released = await release_seen(world, content)
    assert released.leads == ()
    assert [(one.holder, one.outcome) for one in released.holders] == [(LAKESIDE, Outcome.SILENT)]
    assert [row.state for row in world.nodes[NORTHPORT].rows(searches)] == ["released"]
    assert world.nodes[NORTHPORT].rows(searches)[0].sealed_search_key is None


async def release_seen(world: World, content: GrantClaims) -> RequesterRelease:
    message = next(one for one in world.broker.carried if one.header.message_type is MessageType.REQUESTER_RELEASE)
    return world.opened_by(NORTHPORT, message, RequesterRelease, content)


@by_each
async def test_bad_parts_are_not_taken_and_keep_nothing_else_back(world: World, party: AgencyId) -> None:
    it = await waiting(world, party)
    it.node.mail.spoiled = True
    stored, known = it.node.rows(inbox), len(world.broker.deleted)
    await world.hand_in(party, it.message)
    assert it.node.rows(inbox) == stored
    assert len(world.broker.deleted) == known  # not acknowledged: the broker still has it
    it.node.mail.spoiled = False
    await it.node.receive()
    await it.node.work()
    assert it.node.state_of(it.message)[0] == "done"


@by_each
async def test_a_false_deletion_receipt_is_not_kept(world: World, party: AgencyId) -> None:
    it = await waiting(world, party)
    others = MailboxReceipt(it.message.message_id, BOARD, NOW)
    for make in (
        lambda lease: b"",
        lambda lease: MailboxReceipt(lease.message_id, party, NOW).sign(node_key(BOARD)),
        lambda lease: others.sign(signing_key("log")),
    ):
        it.node.mail.receipt = make
        await world.hand_in(party, it.message)
        assert it.node.rows(receipts, message_id=str(it.message.message_id)) == []
    assert it.node.state_of(it.message)[0] == "done"  # the message itself is good, and was stored first
    it.node.mail.receipt = None
    await world.hand_in(party, it.message)
    assert len(it.node.rows(receipts, message_id=str(it.message.message_id))) == 1


# --- the log ----------------------------------------------------------------------------------------------------------


async def ready_to_act(world: World, party: AgencyId) -> tuple[GrantClaims, Message]:
    """Everything is there for the party's next act, which is left to do."""
    if party == NORTHPORT:
        content = await world.granted()
        await world.nodes[NORTHPORT].work()
        await world.nodes[NORTHPORT].send()  # the grant is logged; probe and grants are next
        return content, world.probe(search_claims())
    content = search_claims()
    await world.requester_with_key(content)
    world.broker.enter_grant(content.digest)
    await world.hand_in(party, world.grant(content, party))
    if party == LAKESIDE:
        return content, world.probe(content)
    world.clock.now = content.answer_deadline
    world.broker.cosign_again()
    await world.nodes[OVERSIGHT].work()
    world.post(OVERSIGHT, world.word(content))
    return content, world.grant(search_claims(1), OVERSIGHT)


def acted(node: WorldNode) -> bool:
    """Whether probe, answer or release was decided on."""
    return bool({"probe", "answer", "mask-share", "release", "holder-release"} & {row.name for row in node.rows(outbox)})


@by_each
async def test_the_act_is_done_when_nothing_is_hidden(world: World, party: AgencyId) -> None:
    _, message = await ready_to_act(world, party)
    node = world.nodes[party]
    await world.hand_in(party, *([message] if party == LAKESIDE else []))
    assert acted(node)


@by_each
async def test_a_revocation_hidden_by_withholding_leaves_stops_the_act(world: World, party: AgencyId) -> None:
    """The witnesses saw the revocation, so the head has it; the broker hands out no leaf from there on."""
    content, message = await ready_to_act(world, party)
    node = world.nodes[party]
    world.broker.leaves_shown = list(world.broker.log)
    world.broker.add(leaf_of(EntryKind.REVOCATION, content.digest))
    for _ in range(3):
        await world.hand_in(party, *([message] if party == LAKESIDE else []))
        assert not acted(node)
    assert facts.halted(node.engine) is None
    world.broker.leaves_shown = None
    await node.work()
    await node.work()
    assert not acted(node)
    ended = {NORTHPORT: searches, LAKESIDE: inbox, OVERSIGHT: custody}[party]
    assert {row.state for row in node.rows(ended)} & {"refused", "lapsed"}


@by_each
async def test_a_revocation_hidden_behind_an_old_head_stops_the_act(world: World, party: AgencyId) -> None:
    """The broker shows the head from before it, whose cosignatures nobody renews."""
    content, message = await ready_to_act(world, party)
    node = world.nodes[party]
    world.broker.shown = world.broker.head()
    world.broker.add(leaf_of(EntryKind.REVOCATION, content.digest))
    world.clock.pass_by(seconds=602)
    await world.hand_in(party, *([message] if party == LAKESIDE else []))
    assert not acted(node)
    world.broker.shown = None
    world.broker.cosign_again()
    await node.work()
    assert not acted(node)


@by_each
async def test_a_revocation_replaced_by_another_leaf_halts_the_node(world: World, party: AgencyId) -> None:
    content, message = await ready_to_act(world, party)
    node = world.nodes[party]
    world.broker.leaves_shown = [*world.broker.log, *other_leaves(1, "in its place")]
    world.broker.add(leaf_of(EntryKind.REVOCATION, content.digest))
    await world.hand_in(party, *([message] if party == LAKESIDE else []))
    assert facts.halted(node.engine)
    assert not acted(node)


@by_each
async def test_a_forked_log_halts_the_node_for_good(world: World, party: AgencyId) -> None:
    """Both notes are kept; nothing is handled, nothing that was decided before leaves, and an honest broker afterwards changes nothing."""
    _, message = await ready_to_act(world, party)
    node = world.nodes[party]
    await node.follower.follow()
    held, honest = node.follower.latest, list(world.broker.log)
    assert held is not None
    carried = len(world.broker.carried)
    if party == NORTHPORT:
        await node.work()  # decided before the fork was seen
        assert acted(node)
    world.broker.log = [*honest[:2], *other_leaves(len(honest), "the other side")]
    world.broker.cosign_again()
    shown = head_of(world.broker.log)
    from_peer = world.message(
        MessageType.DELETION_RECEIPT, deletion(), search_claims(), BOARD, party, checkpoint=cosigned(shown, *WITNESSES)
    )
    await world.hand_in(party, from_peer)
    with node.engine.begin() as connection:
        evidence = [facts.read_fact(connection, name) for name in (Fact.EVIDENCE_HELD, Fact.EVIDENCE_SHOWN)]
    assert [SignedCheckpoint.from_bytes(one or b"").checkpoint for one in evidence] == [held.checkpoint, shown.checkpoint]
    world.broker.log = honest
    world.broker.cosign_again()
    harmless = world.message(MessageType.DELETION_RECEIPT, deletion(), search_claims(), BOARD, party)
    for later in (harmless, *([] if party == NORTHPORT else [message])):
        await world.hand_in(party, later)
        assert node.state_of(later)[0] == "new"
    assert acted(node) is (party == NORTHPORT)
    sending = asyncio.create_task(node.courier.send(asyncio.Event()))
    await asyncio.sleep(0.05)
    sending.cancel()
    assert len(world.broker.carried) == carried
    assert facts.halted(node.engine)


def deletion() -> DeletionReceipt:
    return DeletionReceipt((Deleted.PROBE,), datetime(2026, 11, 23, tzinfo=UTC))
