"""When a serving node waits for the disk: once before something leaves it, for all that was committed until then."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import OperationalError

from agency_node import disk
from agency_node.disk import Disk
from agency_node.facts import Fact, halt, write_fact
from agency_node.link import BrokerLink
from agency_node.store import DATABASE_FILE, forget_deleted, open_store, promising_nothing
from agency_node.tables import receipts
from agency_node.transport import Transport
from tests.sample_federation import NORTHPORT, NOW, signing_key

KEY = signing_key(f"{NORTHPORT} node")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_store(tmp_path / DATABASE_FILE)


def write(engine: Engine, name: str) -> None:
    with promising_nothing(engine).begin() as connection:
        connection.execute(insert(receipts).values(message_id=name, document=b"receipt"))


async def test_it_is_the_write_ahead_log_that_is_synced_with_what_was_committed_before(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []

    def noting(descriptor: int) -> None:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            synced.append((os.fstat(descriptor).st_ino, b"the message of a receipt" in file.read()))

    monkeypatch.setattr(disk, "_sync_data", noting)
    write(engine, "the message of a receipt")
    await Disk(engine).synced()
    assert synced == [((tmp_path / f"{DATABASE_FILE}-wal").stat().st_ino, True)]


async def test_who_comes_while_others_wait_shares_their_turn_and_the_loop_goes_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    begun: list[int] = []

    def waits(descriptor: int) -> None:
        begun.append(descriptor)
        may_end.wait(20)

    monkeypatch.setattr(disk, "_sync_data", waits)
    below = Disk(engine)
    first = asyncio.ensure_future(below.synced())
    async with asyncio.timeout(20):
        while not begun:
            await asyncio.sleep(0.005)
    later = [asyncio.ensure_future(below.synced()) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert not first.done()
    assert not any(one.done() for one in later)  # what they wait for may have been committed after the first began
    may_end.set()
    await asyncio.gather(first, *later)
    assert len(begun) == 2


async def test_what_left_the_log_needs_no_sync_and_a_store_without_a_log_neither(engine: Engine, tmp_path: Path) -> None:
    write(engine, "a")
    assert forget_deleted(engine)
    await Disk(engine).synced()
    engine.dispose()  # the last connection takes the log with it
    assert not (tmp_path / f"{DATABASE_FILE}-wal").exists()
    await Disk(engine).synced()


async def test_a_disk_that_fails_stops_what_would_have_left(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError("no space left")

    sent: list[httpx.Request] = []
    transport = transport_of(engine, sent)
    with monkeypatch.context() as broken:
        broken.setattr(disk, "_sync_data", fails)
        with pytest.raises(OperationalError):
            await transport.request("PUT", "/v1/messages/ab/parts/0", content=b"piece")
    assert sent == []
    await transport.request("PUT", "/v1/messages/ab/parts/0", content=b"piece")
    assert len(sent) == 1


def transport_of(engine: Engine, sent: list[httpx.Request]) -> Transport:
    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        body = b'{"leases":[]}' if request.url.path.endswith("leases") else b"{}"
        return httpx.Response(200, stream=httpx.ByteStream(body), headers={"content-type": "application/json"})

    transport = Transport("https://broker.example.org", NORTHPORT, KEY, lambda: NOW, transport=httpx.MockTransport(handler))
    transport.before_leaving = Disk(engine).synced
    return transport


async def test_whatever_tells_the_broker_something_waits_and_what_only_asks_does_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(disk, "_sync_data", lambda _descriptor: seen.append("disk"))
    transport = transport_of(engine, seen)
    await transport.request("GET", "/v1/log/checkpoint")
    await BrokerLink(transport).lease()
    assert "disk" not in seen
    seen.clear()
    for method in ("PUT", "POST", "DELETE"):
        await transport.request(method, "/v1/anything")
    assert [one if one == "disk" else one.method for one in seen] == ["disk", "PUT", "disk", "POST", "disk", "DELETE"]


def test_a_halt_is_on_the_disk_at_once(engine: Engine) -> None:
    """A halted node sends nothing, so nothing that leaves would wait for it."""
    waits: list[int] = []
    serving = promising_nothing(engine)
    with serving.begin() as connection:
        write_fact(connection, Fact.MANIFEST, b"any")
        waits.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
    halt(serving, "a fork", b"held", b"shown")
    with engine.connect() as connection:  # the setting stays with the driver's connection until another transaction wants another one
        waits.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
        assert connection.execute(select(receipts.c.message_id)).all() == []
    assert waits == [1, 2]
