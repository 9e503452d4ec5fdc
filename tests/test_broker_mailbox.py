"""Leases, acknowledgement, deletion, receipts, long polls, restarts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker.config import Limits
from broker.sweep import sweep
from crypto.bodies import GrantBody
from crypto.entries import EntryKind
from crypto.mailbox_receipt import MailboxReceipt
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.moments import round_moment
from crypto.parts import Part, split_message
from tests.broker_world import ROSTER, World, entry_of, open_world, problem, receipt_of
from tests.sample_federation import BOARD, EASTFIELD, LAKESIDE, NORTHPORT, NORTHPORT_LAW, claims

CLAIMS = claims()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        await opened.grant()
        yield opened


async def sent(world: World, count: int = 1) -> list[Message]:
    messages = [world.message(CLAIMS) for _ in range(count)]
    for message in messages:
        assert (await world.put(message)).json()["state"] == "queued"
    return messages


async def state(world: World, message: Message) -> dict[str, object]:
    reply: dict[str, object] = (await world.ask("GET", f"/v1/messages/{message.message_id}")).json()
    return reply


def stored_bytes(world: World) -> bytes:
    """Database, write-ahead log and its index, as they lie on the disk."""
    files = list(world.config.folder.glob("broker.sqlite*"))
    assert files
    return b"".join(path.read_bytes() for path in files)


async def test_a_message_comes_through_whole(world: World) -> None:
    message = (await sent(world))[0]
    lease = (await world.lease(LAKESIDE))[0]
    assert {name: lease[name] for name in lease if name not in {"lease_id", "expires_at"}} == {
        "message_id": message.message_id,
        "message_type": "disclosure-request",
        "sender": NORTHPORT,
        "search_id": CLAIMS.search_id,
        "total_bytes": len(message.to_bytes()),
        "parts": 1,
    }
    assert lease["expires_at"] == "2026-11-23T16:13:04.05Z"
    assert (await state(world, message))["state"] == "leased"
    part = Part.from_bytes((await world.fetch(lease, LAKESIDE)).content)
    assert part == next(iter(split_message(message)))
    assert Message.from_bytes(part.piece) == message


async def test_the_oldest_come_first_and_no_more_than_asked_for(world: World) -> None:
    messages = await sent(world, 5)
    leases = await world.lease(LAKESIDE, limit=3)
    assert [lease["message_id"] for lease in leases] == [message.message_id for message in messages[:3]]
    assert [lease["message_id"] for lease in await world.lease(LAKESIDE)] == [message.message_id for message in messages[3:]]
    assert await world.lease(LAKESIDE) == []
    assert await world.lease(EASTFIELD) == []


async def test_pollers_never_share_a_message(world: World) -> None:
    """Six polls at once, many messages: each message is handed out once."""
    messages = await sent(world, 24)
    found = [lease for leases in await asyncio.gather(*(world.lease(LAKESIDE, limit=5) for _ in range(6))) for lease in leases]
    assert sorted(lease["message_id"] for lease in found) == sorted(message.message_id for message in messages)
    assert len({lease["lease_id"] for lease in found}) == 24


async def test_a_lease_that_ran_out_frees_the_message(world: World) -> None:
    await sent(world)
    first = (await world.lease(LAKESIDE))[0]
    world.pass_time(59)
    assert await world.lease(LAKESIDE) == []
    world.pass_time(2)
    assert problem(await world.fetch(first, LAKESIDE)) == (404, "lease-unknown")
    second = (await world.lease(LAKESIDE))[0]
    assert second["message_id"] == first["message_id"]
    assert second["lease_id"] != first["lease_id"]
    assert problem(await world.fetch(first, LAKESIDE)) == (404, "lease-unknown")
    assert problem(await world.acknowledge(first, LAKESIDE)) == (404, "lease-unknown")
    assert (await world.fetch(second, LAKESIDE)).status_code == 200


async def test_a_lease_is_renewed_by_a_fetch_when_half_of_it_is_gone(world: World) -> None:
    """And by no earlier one: that would be a write for each part."""
    await sent(world)
    lease = (await world.lease(LAKESIDE))[0]
    world.pass_time(29)
    assert (await world.fetch(lease, LAKESIDE)).status_code == 200
    world.pass_time(3)
    assert (await world.fetch(lease, LAKESIDE)).status_code == 200
    world.pass_time(58)
    assert await world.lease(LAKESIDE) == []
    world.pass_time(3)
    second = (await world.lease(LAKESIDE))[0]
    world.pass_time(29)
    assert (await world.fetch(second, LAKESIDE)).status_code == 200
    world.pass_time(32)
    assert len(await world.lease(LAKESIDE)) == 1


async def test_a_poll_that_found_nothing_finds_what_came_since(world: World) -> None:
    assert await world.lease(LAKESIDE) == []
    await sent(world)
    (lease,) = await world.lease(LAKESIDE)
    assert await world.lease(LAKESIDE) == []
    assert (await world.ask("DELETE", "/v1/mailbox/leases", agency=LAKESIDE)).status_code == 204
    (again,) = await world.lease(LAKESIDE)
    assert again["message_id"] == lease["message_id"]


async def test_a_recipient_that_starts_again_gives_its_leases_back(world: World) -> None:
    await sent(world)
    first = (await world.lease(LAKESIDE))[0]
    assert (await world.ask("DELETE", "/v1/mailbox/leases", agency=EASTFIELD)).status_code == 204
    assert await world.lease(LAKESIDE) == []  # another agency's word frees nothing
    assert (await world.ask("DELETE", "/v1/mailbox/leases", agency=LAKESIDE)).status_code == 204
    assert problem(await world.fetch(first, LAKESIDE)) == (404, "lease-unknown")
    second = (await world.lease(LAKESIDE))[0]
    assert second["message_id"] == first["message_id"]
    assert (await world.fetch(second, LAKESIDE)).status_code == 200


async def test_fetching_keeps_a_lease_alive(world: World) -> None:
    await sent(world)
    lease = (await world.lease(LAKESIDE))[0]
    for _ in range(4):
        world.pass_time(50)
        assert (await world.fetch(lease, LAKESIDE)).status_code == 200
    world.pass_time(61)
    assert problem(await world.fetch(lease, LAKESIDE)) == (404, "lease-unknown")


async def test_only_the_recipient_fetches_and_acknowledges(world: World) -> None:
    await sent(world)
    lease = (await world.lease(LAKESIDE))[0]
    before = world.rows()
    for agency in (NORTHPORT, EASTFIELD, BOARD):
        assert problem(await world.fetch(lease, agency)) == (404, "lease-unknown")
        assert problem(await world.acknowledge(lease, agency)) == (404, "lease-unknown")
    for wrong in ({**lease, "lease_id": "00" * 16}, {**lease, "lease_id": ""}):
        assert problem(await world.fetch(wrong, LAKESIDE)) == (404, "lease-unknown")
    assert problem(await world.fetch(lease, LAKESIDE, number=1)) == (404, "not-found")
    assert world.rows() == before


async def test_an_acknowledged_message_is_gone_and_its_receipt_verifies(world: World) -> None:
    """The body is noise, so any sixteen bytes of it that are found anywhere are a copy."""
    message = world.message(CLAIMS, MessageType.GRANT, body=GrantBody(b"token"))
    await world.put(message)
    body = message.envelope().sealed
    crumbs = [body[at : at + 16] for at in range(0, len(body) - 16, 4096)]
    assert len(crumbs) > 10
    assert any(crumb in stored_bytes(world) for crumb in crumbs)
    lease = (await world.lease(LAKESIDE))[0]
    await world.fetch(lease, LAKESIDE)
    reply = await world.acknowledge(lease, LAKESIDE)
    receipt = MailboxReceipt.read(receipt_of(reply), ROSTER.log)
    assert receipt == MailboxReceipt(message.message_id, LAKESIDE, round_moment(world.now))
    left = stored_bytes(world)
    assert not any(crumb in left for crumb in crumbs)
    assert world.rows()["parts"] == 0
    assert problem(await world.fetch(lease, LAKESIDE)) == (404, "lease-unknown")


async def test_acknowledging_again_gives_the_same_receipt(world: World) -> None:
    message = (await sent(world))[0]
    lease = (await world.lease(LAKESIDE))[0]
    first = await world.acknowledge(lease, LAKESIDE)
    world.pass_time(500)
    assert (await world.acknowledge(lease, LAKESIDE)).json() == first.json()
    assert await world.lease(LAKESIDE) == []
    for agency in (NORTHPORT, LAKESIDE):
        reply = await world.ask("GET", f"/v1/messages/{message.message_id}", agency=agency)
        assert reply.json() == {"state": "delivered", "missing": [], **first.json()}
    assert (await world.put(message)).json() == {"state": "delivered", "missing": [], **first.json()}
    assert world.rows()["parts"] == 0


async def test_no_receipt_leaves_while_the_write_ahead_log_holds_the_content(world: World) -> None:
    """Somebody reads the database meanwhile: the broker says so, and gives the receipt when the bytes are gone."""
    message = world.message(CLAIMS, MessageType.GRANT, body=GrantBody(b"token"))
    await world.put(message)
    crumb = message.envelope().sealed[4096:4112]
    lease = (await world.lease(LAKESIDE))[0]
    reader = sqlite3.connect(world.config.folder / "broker.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM parts").fetchone()
    assert problem(await world.acknowledge(lease, LAKESIDE)) == (503, "store-unavailable")
    assert crumb in stored_bytes(world)
    reader.execute("COMMIT")
    reader.close()
    assert MailboxReceipt.read(receipt_of(await world.acknowledge(lease, LAKESIDE)), ROSTER.log).message_id == message.message_id
    assert crumb not in stored_bytes(world)


async def test_a_late_acknowledgement_serves_while_nobody_took_the_message_anew(world: World) -> None:
    await sent(world)
    lease = (await world.lease(LAKESIDE))[0]
    world.pass_time(120)
    assert (await world.acknowledge(lease, LAKESIDE)).status_code == 200


async def test_a_long_poll_wakes(world: World) -> None:
    waiting = asyncio.create_task(world.lease(LAKESIDE, wait_s=20))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    message = (await sent(world))[0]
    assert (await waiting)[0]["message_id"] == message.message_id


async def test_a_poll_without_anything_ends_empty(world: World) -> None:
    assert await world.lease(LAKESIDE, wait_s=1) == []


async def test_a_poll_of_a_client_that_left_takes_nothing(tmp_path: Path) -> None:
    """A node that was killed while it waited must not hold the next message for a minute."""
    async with open_world(tmp_path / "broker", limits=Limits(look_again_s=0.05)) as world:
        await world.grant()
        left = False

        async def gone() -> bool:
            return left

        waiting = asyncio.create_task(world.services.bell.until(lambda: world.services.mailbox.lease(LAKESIDE, 1, world.now), 20, gone))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        left = True
        await sent(world)
        assert await waiting is None
        assert len(await world.lease(LAKESIDE)) == 1


async def test_polls_end_when_the_broker_stops(world: World) -> None:
    waiting = asyncio.create_task(world.lease(LAKESIDE, wait_s=25))
    await asyncio.sleep(0.05)
    world.services.bell.stop()
    assert await asyncio.wait_for(waiting, 5) == []


@pytest.mark.parametrize(
    "body",
    [
        {"wait_s": 26, "limit": 1},
        {"wait_s": -1, "limit": 1},
        {"wait_s": 0, "limit": 0},
        {"wait_s": 0, "limit": 33},
        {"wait_s": 0},
        {"wait_s": "0", "limit": 1},
        {"wait_s": True, "limit": 1},
        {"wait_s": 0.5, "limit": 1},
        {"wait_s": 0, "limit": 1, "more": 1},
        [],
        "x",
    ],
)
async def test_a_poll_says_what_it_wants(world: World, body: object) -> None:
    reply = await world.ask("POST", "/v1/mailbox/leases", document=body)
    assert problem(reply)[0] == 400


async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    """Queued, leased, half sent, delivered: each goes on where it was."""
    async with open_world(tmp_path / "broker") as world:
        await world.grant()
        delivered, leased, queued = await sent(world, 3)
        first, second = await world.lease(LAKESIDE, limit=2)
        receipt = (await world.acknowledge(first, LAKESIDE)).json()
        assert second["message_id"] == leased.message_id
        rows = world.rows()
    async with open_world(tmp_path / "broker") as world:
        assert world.rows() == rows
        assert await state(world, delivered) == {"state": "delivered", "missing": [], **receipt}
        assert (await state(world, leased))["state"] == "leased"
        assert (await world.fetch(second, LAKESIDE)).status_code == 200
        assert [lease["message_id"] for lease in await world.lease(LAKESIDE)] == [queued.message_id]
        assert (await world.acknowledge(first, LAKESIDE)).json() == receipt
        assert (await world.acknowledge(second, LAKESIDE)).status_code == 200


async def test_a_message_that_was_queued_before_a_revocation_is_still_handed_out(world: World) -> None:
    """The recipient reads the log itself; what it was sent is evidence."""
    await sent(world)
    await world.post_entry(entry_of(EntryKind.REVOCATION, CLAIMS.digest), CLAIMS.digest, NORTHPORT_LAW)
    assert len(await world.lease(LAKESIDE)) == 1


async def test_what_nobody_collected_goes_with_its_grant(world: World) -> None:
    """Undelivered content of an expired grant is purged; receipts, the log and the grant's values stay."""
    undelivered = world.message(CLAIMS, MessageType.GRANT, body=GrantBody(b"token"))
    await world.put(undelivered)
    crumb = undelivered.envelope().sealed[4096:4112]
    delivered = (await sent(world))[0]
    leases = await world.lease(LAKESIDE)
    await world.acknowledge(leases[1], LAKESIDE)
    services = world.services
    assert await sweep(services.store, services.limits, world.now) == 0
    assert crumb in stored_bytes(world)
    world.clock[0] = CLAIMS.expires
    assert await sweep(services.store, services.limits, world.now) == 1
    assert crumb not in stored_bytes(world)
    rows = world.rows()
    assert (rows["messages"], rows["parts"], rows["grants"], rows["leaves"]) == (1, 0, 1, 1)
    assert (await state(world, delivered))["state"] == "delivered"
    assert problem(await world.acknowledge(leases[0], LAKESIDE)) == (404, "lease-unknown")


async def test_gossip_has_its_time(world: World) -> None:
    note = await world.head()
    await world.put(world.message(CLAIMS, MessageType.CHECKPOINT_GOSSIP, body=note))
    services = world.services
    for passed, left in ((timedelta(days=6, hours=23), 1), (timedelta(hours=1), 0)):
        world.clock[0] += passed
        await sweep(services.store, services.limits, world.now)
        assert world.rows()["messages"] == left
