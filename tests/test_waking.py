"""A node that sleeps wakes when a command writes, and for nothing that it wrote itself before; what it deleted leaves its files."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from agency_node import courier, waking
from agency_node.courier import Courier, Handler
from agency_node.store import DATABASE_FILE, forget_deleted, open_store
from agency_node.waking import OtherWriters, pause
from crypto.canonical import AgencyId
from crypto.message_types import MessageType

COMMAND = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(\"INSERT INTO facts VALUES ('told', x'01')\"); c.commit()"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_store(tmp_path / DATABASE_FILE)
    yield engine
    engine.dispose()


@pytest.fixture
def others(engine: Engine) -> Iterator[OtherWriters]:
    others = OtherWriters(engine)
    yield others
    others.close()


def write(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO facts VALUES (:name, x'01')"), {"name": name})


def test_another_process_is_noticed_once(tmp_path: Path, others: OtherWriters) -> None:
    assert not others.look()
    subprocess.run([sys.executable, "-c", COMMAND, str(tmp_path / DATABASE_FILE)], check=True)  # noqa: S603 -- our own text
    assert others.look()
    assert not others.look()


def test_emptying_the_write_ahead_log_is_news_at_most_once(engine: Engine, others: OtherWriters) -> None:
    write(engine, "one")
    assert forget_deleted(engine)
    assert others.look()
    assert not others.look()


async def test_a_write_ends_a_sleep_that_would_last(engine: Engine, others: OtherWriters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "IDLE_S", 3600.0)
    stop, woken = asyncio.Event(), asyncio.Event()
    sleeping = asyncio.create_task(others.idle(stop, woken))
    await asyncio.sleep(5 * waking.LOOK_S)
    assert not sleeping.done()
    write(engine, "two")
    await asyncio.wait_for(sleeping, 20)
    assert not stop.is_set()


async def test_who_goes_on_writing_wakes_nobody_until_he_stops(
    engine: Engine, others: OtherWriters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that comes in parts is many writes of this process: one round of work follows, and not one for each."""
    monkeypatch.setattr(waking, "IDLE_S", 3600.0)
    monkeypatch.setattr(waking, "LOOK_S", 0.2)
    sleeping = asyncio.create_task(others.idle(asyncio.Event(), asyncio.Event()))
    for number in range(12):
        await asyncio.sleep(0.05)
        write(engine, f"part {number}")
        assert not sleeping.done()
    await asyncio.wait_for(sleeping, 20)


async def test_another_process_that_writes_wakes_at_once(tmp_path: Path, others: OtherWriters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its write is no commit of ours: the first look that sees it ends the sleep."""
    monkeypatch.setattr(waking, "IDLE_S", 3600.0)
    looks: list[bool] = []
    look = others.look

    def noted() -> bool:
        looks.append(look())
        return looks[-1]

    monkeypatch.setattr(others, "look", noted)
    sleeping = asyncio.create_task(others.idle(asyncio.Event(), asyncio.Event()))
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", COMMAND, str(tmp_path / DATABASE_FILE)], check=True)
    await asyncio.wait_for(sleeping, 20)
    assert looks.count(True) == 1
    assert looks[-1]


async def test_what_was_written_before_does_not_keep_it_awake(engine: Engine, others: OtherWriters) -> None:
    write(engine, "three")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await others.idle(asyncio.Event(), asyncio.Event())
    assert loop.time() - began >= 0.9 * waking.IDLE_S


@pytest.mark.parametrize("name", ["stop", "woken"])
async def test_an_event_ends_every_sleep(others: OtherWriters, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(waking, "IDLE_S", 3600.0)
    events = {"stop": asyncio.Event(), "woken": asyncio.Event()}
    asyncio.get_running_loop().call_later(0.05, events[name].set)
    await asyncio.wait_for(others.idle(events["stop"], events["woken"]), 20)
    await asyncio.wait_for(pause(events["stop"], 3600, events["woken"]), 20)


class Busy:
    """A role that has something to do again at once, until it is told to rest."""

    def __init__(self) -> None:
        self.rounds = 0
        self.has_more = True
        self.woken = asyncio.Event()

    def handlers(self) -> dict[MessageType, Handler]:
        return {}

    async def tick(self) -> None:
        self.rounds += 1
        await asyncio.sleep(0.005)
        if self.has_more:
            self.woken.set()


async def test_a_node_without_rest_empties_its_write_ahead_log_all_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps a node busy must not keep in its files what it deleted; a round with another behind it does not wait for the disk."""
    at: list[int] = []
    busy = Busy()
    monkeypatch.setattr(courier, "FORGET_WITHIN_S", 0.2)
    monkeypatch.setattr(courier, "forget_deleted", lambda _engine: at.append(busy.rounds))
    halted = SimpleNamespace(halted=lambda: None)
    parts: Any = {"link": None, "parties": None, "outbox": None, "follower": halted, "roles": [busy]}
    node = Courier(AgencyId("busy-pd"), engine, clock=lambda: datetime.now(UTC), _woken=busy.woken, **parts)
    stop = asyncio.Event()
    working = asyncio.create_task(node.work(stop))
    await asyncio.sleep(1.0)
    assert 3 <= len(at) <= 7
    assert busy.rounds > 2 * len(at)
    busy.has_more = False
    async with asyncio.timeout(20):
        while at[-1] != busy.rounds:  # it rests now: nothing is left in the log
            await asyncio.sleep(0.02)
    at.clear()
    working.cancel()  # as a node that is stopped ends its loops: what it deleted last leaves the log all the same
    await asyncio.gather(working, return_exceptions=True)
    assert at == [busy.rounds]
