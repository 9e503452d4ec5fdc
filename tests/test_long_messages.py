"""A long message in a node: kept in pieces, sent and fetched in pieces, opened from pieces, gone when its row's data is; and never whole in
memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from agency_node.courier import DONE
from agency_node.outbox import READY, Conversation, SealTo, message_of
from agency_node.pieces import IN, IN_PIECES, MessageGoneError, received, write_pieces
from agency_node.tables import custody_parts, inbox, message_pieces, outbox
from crypto.answer import Answer, OrderSeed
from crypto.bodies import AnswerBody, AnswerStatement, OpenedBody
from crypto.grant_claims import GrantClaims
from crypto.message_types import MessageType
from crypto.messages import Message, MessageInPieces
from crypto.opening import Y16
from crypto.prepared import A_BITS, B_BITS
from crypto.ring import N
from crypto.seed import Seed
from crypto.wire import MessageId
from tests.node_world import EPOCH, MODEL, D, World, WorldNode, node_key, search_claims
from tests.node_world_broker import id_of
from tests.sample_federation import LAKESIDE, NORTHPORT, OVERSIGHT

SLOTS = 700 * N
"""An answer of three parts."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def answer_body(content: GrantClaims, slots: int = SLOTS) -> AnswerBody:
    """An answer of uniform words, with the holder's statement."""
    rng = np.random.default_rng(slots)
    a, b = (rng.integers(0, 1 << bits, slots, dtype=np.uint16) for bits in (A_BITS, B_BITS))
    made = Answer(EPOCH, MODEL.model_hash, content.probe_digest, D, a, b)
    statement = AnswerStatement.sign(content.search_id, content.digest, LAKESIDE, made.digest, node_key(LAKESIDE))
    return AnswerBody(statement, OrderSeed(made.digest, Seed.fresh()), made)


def pieces_in(node: WorldNode, direction: str) -> list[tuple[str, int]]:
    return [(row.owner, row.number) for row in node.rows(message_pieces, direction=direction)]


async def queued_answer(world: World) -> tuple[GrantClaims, AnswerBody, MessageId]:
    """Lakeside has a long answer to Northport in its outbox."""
    content = search_claims()
    holder, requester = await world.node(LAKESIDE), await world.requester_with_key(content)
    body = answer_body(content)
    to = SealTo.statement(requester.keyring.for_search(content.search_id))
    with holder.engine.begin() as connection:
        message_id = holder.outbox.sealed(connection, MessageType.ANSWER, body, Conversation.of(content), to)
    return content, body, message_id


async def test_a_long_message_leaves_in_pieces_comes_in_pieces_and_opens(world: World) -> None:
    content, body, message_id = await queued_answer(world)
    holder, requester = world.nodes[LAKESIDE], world.nodes[NORTHPORT]
    (row,) = holder.rows(outbox, kind="message")
    assert (row.data, row.message_id, row.state) == (IN_PIECES, str(message_id), READY)
    assert pieces_in(holder, "out") == [(str(row.number), number) for number in range(3)]
    wire = b"".join(message_of(holder.engine, row.number))
    assert id_of(wire) == message_id
    await holder.send()
    assert pieces_in(holder, "out") == []
    assert holder.rows(outbox, kind="message")[0].data is None
    await requester.receive()
    assert pieces_in(requester, IN) == [(str(message_id), number) for number in range(3)]
    message = received(requester.engine, str(message_id), IN_PIECES)
    assert isinstance(message, MessageInPieces)
    assert message.header == Message.from_bytes(wire).header
    opened = requester.envelopes.open(message, AnswerBody, Conversation.of(content), LAKESIDE)
    assert opened.answer.digest == body.answer.digest
    assert opened.order.seed.export_secret() == body.order.seed.export_secret()
    await requester.work()  # no search of its own: refused, and with it every piece goes
    assert requester.rows(inbox)[0].data is None
    assert pieces_in(requester, IN) == []


async def test_a_message_that_was_stored_is_not_fetched_again(world: World) -> None:
    _, _, message_id = await queued_answer(world)
    holder, requester = world.nodes[LAKESIDE], world.nodes[NORTHPORT]
    await holder.send()
    (wire,) = world.broker.boxes[NORTHPORT]
    await requester.receive()
    world.broker.boxes[NORTHPORT] = [wire]
    before = requester.rows(inbox), pieces_in(requester, IN)
    await requester.receive()
    assert (requester.rows(inbox), pieces_in(requester, IN)) == before
    assert world.broker.boxes[NORTHPORT] == []
    assert before[0][0].message_id == message_id


async def test_what_came_of_a_fetch_that_did_not_end_goes(world: World) -> None:
    """A process that dies between two pieces leaves pieces of no message: gone when it starts, and when the message comes again."""
    _, _, message_id = await queued_answer(world)
    holder, requester = world.nodes[LAKESIDE], world.nodes[NORTHPORT]
    await holder.send()
    for come_again in (False, True):
        with requester.engine.begin() as connection:
            write_pieces(connection, IN, str(message_id), [b"of an attempt that did not end"] * 2)
        if come_again:
            await requester.receive()
            assert pieces_in(requester, IN) == [(str(message_id), number) for number in range(3)]
        else:
            requester.assemble()
            assert pieces_in(requester, IN) == []
    requester.assemble()
    assert len(pieces_in(requester, IN)) == 3


async def test_a_spoiled_long_message_leaves_nothing(world: World) -> None:
    await queued_answer(world)
    holder, requester = world.nodes[LAKESIDE], world.nodes[NORTHPORT]
    await holder.send()
    (wire,) = world.broker.boxes[NORTHPORT]
    at = len(wire) // 2
    for spoiled in (wire[:at] + bytes([wire[at] ^ 1]) + wire[at + 1 :], wire[:-1], wire + b"\0", wire[:-64] + bytes(64)):
        world.broker.boxes[NORTHPORT] = [spoiled]
        await requester.receive()
        assert requester.rows(inbox) == []
        assert pieces_in(requester, IN) == []
    requester.mail.spoiled = True
    world.broker.boxes[NORTHPORT] = [wire]
    await requester.receive()
    assert requester.rows(inbox) == []
    requester.mail.spoiled = False
    await requester.receive()
    assert len(requester.rows(inbox)) == 1


async def test_a_second_long_message_under_one_number_leaves_nothing(world: World) -> None:
    content = search_claims()
    requester = await world.requester_with_key(content)
    for _ in range(2):  # sealed twice: the same number, another message
        message = world.message(MessageType.ANSWER, answer_body(content), content, LAKESIDE, NORTHPORT, sequence=7)
        world.post(NORTHPORT, message)
        await requester.receive()
    assert len(requester.rows(inbox)) == 1
    assert len(pieces_in(requester, IN)) == 3


async def test_a_message_to_oneself_goes_the_same_way_without_the_broker(world: World) -> None:
    content = search_claims()
    requester = await world.requester_with_key(content)
    to = SealTo.statement(requester.keyring.for_search(content.search_id))
    with requester.engine.begin() as connection:
        message_id = requester.outbox.sealed(connection, MessageType.ANSWER, answer_body(content), Conversation.of(content), to)
    await requester.send()
    assert pieces_in(requester, "out") == []
    assert pieces_in(requester, IN) == [(str(message_id), number) for number in range(3)]
    assert isinstance(received(requester.engine, str(message_id), IN_PIECES), MessageInPieces)


async def test_a_message_that_is_withdrawn_while_it_leaves_stops(world: World) -> None:
    await queued_answer(world)
    holder = world.nodes[LAKESIDE]
    (row,) = holder.rows(outbox, kind="message")
    leaving = message_of(holder.engine, row.number)
    leaving.piece(0)
    with holder.engine.begin() as connection:
        connection.execute(update(outbox).values(state="refused", data=None))
    with pytest.raises(MessageGoneError):
        leaving.piece(1)
    assert pieces_in(holder, "out") == []


async def test_opened_values_wait_in_pieces_for_the_release_and_go_with_it(world: World) -> None:
    content = search_claims()
    world.broker.enter_grant(content.digest)
    await world.requester_with_key(content)
    await world.node(LAKESIDE)
    custodian = await world.node(OVERSIGHT)
    await world.hand_in(OVERSIGHT, world.grant(content, OVERSIGHT))
    answer = answer_body(content)
    opened = Y16(answer.answer.digest, np.zeros(SLOTS, np.uint16))
    body = OpenedBody(answer.statement, opened)
    messages = [world.message(MessageType.OPENED_SCORES, body, content, NORTHPORT, OVERSIGHT) for _ in range(2)]
    await world.hand_in(OVERSIGHT, messages[0])
    (kept,) = custodian.rows(custody_parts)
    first = str(messages[0].message_id)
    assert (kept.data, kept.message_id) == (IN_PIECES, first)
    assert {owner for owner, _ in pieces_in(custodian, IN)} == {first}
    await world.hand_in(OVERSIGHT, messages[1])  # the first word counts
    assert {owner for owner, _ in pieces_in(custodian, IN)} == {first}
    assert {row.state for row in custodian.rows(inbox)} == {DONE}
    world.clock.now = content.expires  # closed without a release: what was kept for it goes
    await custodian.work()
    assert [row.data for row in custodian.rows(custody_parts)] == [None]
    assert pieces_in(custodian, IN) == []


# --- memory -----------------------------------------------------------------------------------------------------------

LONG_SLOTS = 40_000_000 * 8 // 27 // N * N
"""An answer of 40 MB."""


def test_a_node_never_holds_a_long_message_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.long_message_run", str(tmp_path), str(LONG_SLOTS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    length, sending, receiving = map(int, done.stdout.split())
    assert length > 39_000_000
    assert sending < 1.5 * length
    assert receiving < 1.5 * length
