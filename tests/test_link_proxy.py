"""The slow lines of benchmarks: bytes arrive whole and in order, are counted, and come no sooner than rate and delay allow.

Only lower bounds of time are asserted: a busy machine makes a line slower, never faster.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agency_node.bench.link_proxy import QUEUE_S, Count, DirectConnections, Line, LinkProxy

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Far:
    """A broker that keeps what comes and answers with `reply` when the sender has said its last byte, a full stop."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.came: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.append(await reader.readuntil(b"."))
        writer.write(self.reply)
        await writer.drain()
        writer.close()


@pytest.fixture
async def far() -> AsyncIterator[tuple[Far, int]]:
    one = Far(b"and back" * 1000)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, limit=1 << 24)
    yield one, server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def exchanged(proxy: LinkProxy, name: str, data: bytes) -> tuple[bytes, float]:
    """What comes back for these bytes, and after how many seconds."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.ports[name])
    writer.write(data)
    await writer.drain()
    back = await reader.read(-1)
    writer.close()
    return back, time.monotonic() - started


def some(count: int) -> bytes:
    return os.urandom(count).replace(b".", b",") + b"."


async def test_bytes_arrive_whole_in_order_and_are_counted(far: tuple[Far, int]) -> None:
    broker, port = far
    proxy = LinkProxy({"one": Line(8e6, 0.005), "other": Line()})
    try:
        proxy.broker_is_at(port)
        data = some(200_000)
        for name in ("one", "other", "one"):
            back, _ = await exchanged(proxy, name, data)
            assert back == broker.reply
        assert broker.came == [data] * 3
        assert proxy.counts() == {
            "one": Count(2 * len(data), 2 * len(broker.reply)),
            "other": Count(len(data), len(broker.reply)),
        }
        assert Count(5, 7) - Count(2, 3) == Count(3, 4)
    finally:
        proxy.close()


async def test_a_line_is_not_faster_than_its_rate_and_delay(far: tuple[Far, int]) -> None:
    broker, port = far
    proxy = LinkProxy({"slow": Line(4e6, 0.05)})
    try:
        proxy.broker_is_at(port)
        data = some(200_000)
        _, seconds = await exchanged(proxy, "slow", data)
        assert seconds >= 8 * (len(data) + len(broker.reply)) / 4e6 + 4 * 0.05  # connecting, there, and back
    finally:
        proxy.close()


async def test_connections_of_a_party_share_its_line_and_parties_do_not(far: tuple[Far, int]) -> None:
    _, port = far
    proxy = LinkProxy({"one": Line(4e6), "other": Line(4e6)})
    try:
        proxy.broker_is_at(port)
        data = some(100_000)
        together = await asyncio.gather(*(exchanged(proxy, "one", data) for _ in range(3)))
        assert max(seconds for _, seconds in together) >= 8 * 3 * len(data) / 4e6
        assert proxy.counts()["other"] == Count(0, 0)
    finally:
        proxy.close()


async def test_a_sender_feels_the_line(far: tuple[Far, int]) -> None:
    """No more than a buffer's worth is taken ahead: what the relay has counted after a while is not everything."""
    _, port = far
    rate = 1e6
    proxy = LinkProxy({"slow": Line(rate)})
    try:
        proxy.broker_is_at(port)
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.ports["slow"])
        started = time.monotonic()
        writer.write(some(4_000_000))
        await asyncio.sleep(0.3)
        passed, seconds = proxy.counts()["slow"].sent, time.monotonic() - started
        assert passed <= (seconds + QUEUE_S) * rate / 8 + 2 * (1 << 14)
        writer.transport.abort()
    finally:
        proxy.close()


async def test_a_broker_that_is_not_there_closes_the_connection() -> None:
    proxy = LinkProxy({"one": Line()})
    try:
        back, _ = await exchanged(proxy, "one", b"hello.")
        assert back == b""
    finally:
        proxy.close()


def test_direct_connections_give_one_free_port() -> None:
    direct = DirectConnections(["one", "other"])
    assert direct.ports == {"one": direct.broker_port, "other": direct.broker_port}
    direct.broker_is_at(direct.broker_port)
    direct.close()
