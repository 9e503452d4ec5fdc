"""When an entry is promised: with the head above it, on the disk; entries that come together share that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, insert

from broker import store
from broker.tables import heads
from crypto.entries import EntryKind, LogEntry
from crypto.errors import ConsistencyError
from tests.broker_world import World, entry_of, grant_entry, open_world
from tests.sample_federation import LAKESIDE, NORTHPORT, claims, digest, token_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        yield made


def order(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every `commit` of something written from here on, and every time that the `disk` was waited for."""
    seen: list[str] = []

    def committed(connection: Connection) -> None:
        if connection.get_execution_options().get("writes"):
            seen.append("commit")

    event.listen(world.services.store._engine, "commit", committed)
    monkeypatch.setattr(store, "_sync_data", lambda _descriptor: seen.append("disk"))
    return seen


async def enter(world: World, entry: LogEntry) -> int:
    """As the API's handlers do it; the log's size when it was promised."""
    log = world.services.log
    async with world.services.store.writing(promises=False) as connection:
        position, _ = await log.append(connection, entry, digest("grant"))
    await log.publish()
    assert (await world.head(min_size=position + 1)).checkpoint.size > position
    return position


def some_entry(number: int) -> LogEntry:
    return entry_of(EntryKind.ANSWER, digest(f"grant {number}"), LAKESIDE)


async def test_a_reply_comes_after_the_head_has_waited_for_the_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = order(world, monkeypatch)
    content = await world.grant()
    assert seen[-1] == "disk"
    seen.clear()
    reply = await world.post_entry(entry_of(EntryKind.ANSWER, content.digest, LAKESIDE), content.digest, LAKESIDE)
    assert reply.status_code == 201
    assert seen == ["commit", "commit", "disk"]


async def test_entries_that_come_together_wait_together_and_each_is_under_a_head(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = order(world, monkeypatch)
    positions = await asyncio.gather(*(enter(world, some_entry(number)) for number in range(20)))
    assert sorted(positions) == list(range(20))
    assert seen.count("commit") > 20
    assert 1 <= seen.count("disk") < 10
    assert seen[-1] == "disk"


async def test_an_entry_that_was_entered_before_is_promised_anew(world: World) -> None:
    """The first request died between entering and its head; the repetition answers only when a head is above the leaf."""
    content = await world.grant()
    entry = entry_of(EntryKind.ANSWER, content.digest, LAKESIDE)
    async with world.services.store.writing(promises=False) as connection:
        await world.services.log.append(connection, entry, content.digest)
    assert (await world.head()).checkpoint.size == 1
    reply = await world.post_entry(entry, content.digest, LAKESIDE)
    assert (reply.status_code, reply.json()) == (200, {"index": 1})
    assert (await world.head()).checkpoint.size == 2


async def test_a_grant_that_was_entered_before_is_promised_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    content, seen = claims(), order(world, monkeypatch)
    token, entry = token_of(content), grant_entry(content.digest)
    assert (await world.post_grant(token, entry, NORTHPORT)).status_code == 201
    seen.clear()
    assert (await world.post_grant(token, entry, NORTHPORT)).status_code == 200
    assert seen[-1] == "disk"


async def test_a_head_that_cannot_be_stored_fails_all_who_wait_and_nobody_waits_for_ever(world: World) -> None:
    async with world.services.store.writing() as connection:
        await connection.execute(insert(heads).values(size=1, note=b"another head of that size"))
        await world.services.log.append(connection, some_entry(1), digest("grant"))
    failed = await asyncio.gather(world.services.log.publish(), world.services.log.publish(), return_exceptions=True)
    assert [type(one) for one in failed] == [ConsistencyError, ConsistencyError]
    with pytest.raises(ConsistencyError):
        await asyncio.wait_for(world.services.log.publish(), 5)
