"""A search that its requester takes back: key and probe are gone at once, and nobody does anything more for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.errors import RequestError
from agency_node.outbox import READY, next_outgoing
from agency_node.overview import ended_search_keys, holder_events
from agency_node.pieces import received
from agency_node.requester.cancelling import cancel_search
from agency_node.tables import answers, custody, custody_parts, held_grants, inbox, outbox, search_holders, searches
from crypto.grant_claims import GrantClaims
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.notices import Refusal, RefusalReason
from crypto.wire import MessageId
from tests.node_world import World, WorldNode, the_refusal
from tests.sample_federation import LAKESIDE, NORTHPORT, OVERSIGHT


@pytest.fixture
async def world(tmp_path: Path) -> Iterator[World]:  # type: ignore[misc]  # pytest-asyncio takes it
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


async def sent(world: World) -> GrantClaims:
    """A search of which grant and probe have left, and nobody has taken them yet."""
    content = await world.granted()
    node = world.nodes[NORTHPORT]
    for _ in range(3):
        await node.turn()
    assert node.rows(searches)[0].state == "sent"
    return content


def check_destroyed(node: WorldNode) -> None:
    (row,) = node.rows(searches)
    assert (row.state, row.sealed_search_key, row.probe) == ("cancelled", None, None)


def notices(node: WorldNode) -> list[Message]:
    """What the requester sent of refusals."""
    carried = [one for one in node.broker.carried if one.header.sender == NORTHPORT]
    return [one for one in (*node.queued(), *carried) if one.header.message_type is MessageType.REFUSAL]


@pytest.mark.parametrize("turns", [0, 1])
async def test_nothing_leaves_of_a_search_that_had_not_left(world: World, turns: int) -> None:
    """Cancelled when granted, and when the grant waits to be entered into the log."""
    content = await world.granted()
    node = world.nodes[NORTHPORT]
    for _ in range(turns):
        await node.work()
    assert cancel_search(node.engine, content.search_id, world.clock()) is False
    check_destroyed(node)
    await world.run(rounds=3)
    assert [one for one in node.broker.carried if one.header.search_id == content.search_id] == []
    assert {row.state for row in node.rows(outbox)} <= {"refused"}
    assert not world.nodes[LAKESIDE].rows(held_grants)


async def test_a_holder_that_has_not_scanned_drops_the_search(world: World) -> None:
    content = await sent(world)
    node, holder = world.nodes[NORTHPORT], world.nodes[LAKESIDE]
    await holder.receive()
    await holder.courier._handle_pending()  # the probe is claimed and waits at the desk
    assert [row.state for row in holder.rows(answers)] == ["claimed"]
    assert cancel_search(node.engine, content.search_id, world.clock()) is True
    check_destroyed(node)
    await node.turn()
    await holder.receive()
    await holder.courier._handle_pending()
    await holder.answering.scanned()
    assert [row.state for row in holder.rows(answers)] == ["withdrawn"]
    assert [row.data for row in holder.rows(inbox, message_type="probe")] == [None]
    assert [row.state for row in holder.rows(held_grants)] == ["refused"]
    assert holder.types_queued() == {"deletion-receipt"}
    assert len(notices(node)) == 3  # holder, custodian and legal office, once each, however long it goes on
    await world.run(rounds=3)
    assert len(notices(node)) == 3


async def test_a_probe_that_a_notice_before_it_drops_does_not_stop_the_node(world: World) -> None:
    """Both wait when the node looks into its inbox, and the notice is handled first: found by the demonstration, whose holder ended."""
    content = await sent(world)
    node, holder = world.nodes[NORTHPORT], world.nodes[LAKESIDE]
    await holder.receive()
    (grant,) = holder.rows(inbox, message_type="grant")
    await holder.courier._handle(grant.message_id, received(holder.engine, grant.message_id, grant.data))
    cancel_search(node.engine, content.search_id, world.clock())
    await node.turn()
    await holder.receive()
    with holder.engine.begin() as connection:
        connection.execute(update(inbox).where(inbox.c.message_type == "probe").values(received_at="9"))  # the last to be handled
    assert [row.state for row in holder.rows(inbox, message_type="probe")] == ["new"]
    assert await holder.courier._handle_pending()
    assert [(row.state, row.data) for row in holder.rows(inbox, message_type="probe")] == [("done", None)]
    assert not holder.rows(answers)
    assert [row.state for row in holder.rows(held_grants)] == ["refused"]


async def test_what_is_dropped_after_the_sender_saw_it_neither_leaves_nor_stops_the_node(world: World) -> None:
    """The command runs between the sender's look at what may leave and its reading of it: found by the demonstration, which crashed."""
    content = await world.granted()
    node = world.nodes[NORTHPORT]
    await node.work()
    seen = next_outgoing(node.engine)
    assert [row.name for row in seen] == ["grant"]
    cancel_search(node.engine, content.search_id, world.clock())
    for row in seen:
        await node.courier._send(row)
    assert [one for one in node.broker.carried if one.header.search_id == content.search_id] == []
    assert {row.state for row in node.rows(outbox)} == {"refused"}


async def test_a_custodian_closes_without_a_release(world: World) -> None:
    content = await sent(world)
    node, board = world.nodes[NORTHPORT], world.nodes[OVERSIGHT]
    await world.nodes[LAKESIDE].turn()  # the answer is on its way
    await board.turn()
    assert [row.state for row in board.rows(custody)] == ["open"]
    cancel_search(node.engine, content.search_id, world.clock())
    await world.run(rounds=4)
    assert [(row.state, row.note) for row in board.rows(custody)] == [("lapsed", "withdrawn by its requester")]
    assert {row.data for row in board.rows(custody_parts)} <= {None}
    assert not {str(MessageType.REQUESTER_RELEASE), "release"} & {row.name for row in board.rows(outbox)}
    world.clock.pass_by(hours=5)  # nor later, when the deadline has passed
    await world.run(rounds=2)
    assert "release" not in {row.name for row in board.rows(outbox)}


async def test_a_late_answer_is_refused_and_logged(world: World) -> None:
    content = await sent(world)
    node, holder = world.nodes[NORTHPORT], world.nodes[LAKESIDE]
    await holder.turn()
    cancel_search(node.engine, content.search_id, world.clock())
    await node.receive()
    await node.work()
    (row,) = node.rows(inbox, message_type="answer")
    assert (row.state, row.data) == ("refused", None)
    assert any(line.startswith("refused answer") for line in node.journal())
    (answer,) = [one for one in node.broker.carried if one.header.message_type is MessageType.ANSWER]
    assert the_refusal(node, answer) is RefusalReason.LATE
    check_destroyed(node)
    assert len(ended_search_keys(node.engine)) == 1  # its sealing key is to be destroyed too


@pytest.mark.parametrize("forged", ["another sender", "another grant", "another reason"])
async def test_only_the_requester_takes_its_search_back(world: World, forged: str) -> None:
    content = await sent(world)
    holder = world.nodes[LAKESIDE]
    await holder.receive()
    await holder.courier._handle_pending()
    sender = OVERSIGHT if forged == "another sender" else NORTHPORT
    named = MessageId("ab" * 32 if forged == "another grant" else content.digest.hex())
    reason = RefusalReason.LATE if forged == "another reason" else RefusalReason.WITHDRAWN
    await world.hand_in(LAKESIDE, world.message(MessageType.REFUSAL, Refusal(named, reason), content, sender, LAKESIDE))
    assert [row.state for row in holder.rows(held_grants)] == ["standing"]
    assert [row.state for row in holder.rows(answers)] == ["answered"]


async def test_a_notice_that_overtakes_the_grant_waits_for_it(world: World) -> None:
    content = await sent(world)
    holder, box = world.nodes[LAKESIDE], world.broker.boxes[LAKESIDE]
    kept = list(box)
    box.clear()
    notice = Refusal(MessageId(content.digest.hex()), RefusalReason.WITHDRAWN)
    message = world.message(MessageType.REFUSAL, notice, content, NORTHPORT, LAKESIDE)
    await world.hand_in(LAKESIDE, message)
    assert holder.state_of(message)[0] == "waiting"
    box.extend(kept)
    for _ in range(3):
        await holder.receive()
        await holder.work()
    assert holder.state_of(message)[0] == "done"
    assert [row.state for row in holder.rows(held_grants)] == ["refused"]


async def test_what_has_ended_is_not_cancelled(world: World) -> None:
    content = await world.released()
    node = world.nodes[NORTHPORT]
    with pytest.raises(RequestError, match="this search is released"):
        cancel_search(node.engine, content.search_id, world.clock())
    with pytest.raises(RequestError, match="no such search"):
        cancel_search(node.engine, "00" * 16, world.clock())
    with node.engine.begin() as connection:
        connection.execute(update(searches).values(state="cancelled"))
    with pytest.raises(RequestError, match="this search is cancelled"):
        cancel_search(node.engine, content.search_id, world.clock())


async def test_every_step_of_a_holder_is_an_event(world: World) -> None:
    content = await world.released()
    events = holder_events(world.nodes[NORTHPORT].engine, content.search_id)
    assert [(one["holder"], one["state"]) for one in events] == [(LAKESIDE, state) for state in ("sent", "answered", "opened", "answered")]
    assert all(one["at"] for one in events)
    assert [row.state for row in world.nodes[NORTHPORT].rows(search_holders)] == ["answered"]


async def test_a_draft_is_cancelled_and_the_command_says_so(world: World, tmp_path: Path) -> None:
    search_id = await world.drafted()
    node = world.nodes[NORTHPORT]
    shown = CliRunner().invoke(app, ["node", "cancel", str(tmp_path / "nowhere"), search_id, "--json"])
    assert (shown.exit_code, json.loads(shown.stdout)["ok"]) == (2, False)
    assert cancel_search(node.engine, search_id, world.clock()) is False
    check_destroyed(node)
    assert node.rows(outbox, state=READY) == []
