"""Slow lines on the loopback address: a relay between each party and the broker, with that party's rate and delay, that counts bytes.

Each party has one line of its own, with two directions; all its connections share the line. A direction is a queue in front of a sender of
a fixed rate, then a fixed delay: a piece leaves when those before it have left and its own bytes have been sent, and arrives `delay_s`
later. A new connection waits one round trip, as a TCP handshake would. Invariants: bytes arrive unchanged and in order; nothing arrives
earlier than rate and delay allow; no more than `QUEUE_S` of a line's rate waits in it, so that a sender feels the line as it would feel a
full buffer.

Not imitated: lost packets, TCP's slow start, lines that several parties share. No recording is made: contents pass and are forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

QUEUE_S = 0.05
"""How far ahead of the line a sender may be: a buffer of usual size."""
_PIECE_BYTES = 1 << 14
_FAST_PIECE_BYTES = 1 << 18
"""Where there is no rate, pieces are large: the relay costs little."""
_START_S = 30


@dataclass(frozen=True)
class Line:
    """What a party's line is like, in both directions: bits a second (none: as fast as it goes), seconds one way."""

    bits_per_second: float | None = None
    delay_s: float = 0.0

    def seconds_of(self, count: int) -> float:
        """How long the line is busy with that many bytes."""
        return 0.0 if self.bits_per_second is None else 8 * count / self.bits_per_second


@dataclass(frozen=True)
class Count:
    """Bytes that a party has sent to the broker, and been sent, with everything that HTTP wraps around."""

    sent: int
    received: int

    def __sub__(self, earlier: Count) -> Count:
        return Count(self.sent - earlier.sent, self.received - earlier.received)


@dataclass
class _Direction:
    """One direction of one line: when it is free again, and what has passed."""

    line: Line
    free_at: float = 0.0
    passed: int = 0

    def take(self, count: int, now: float) -> float:
        """Queue a piece that comes at `now`; when it arrives at the other end."""
        self.free_at = max(self.free_at, now) + self.line.seconds_of(count)
        self.passed += count
        return self.free_at + self.line.delay_s


@dataclass
class _Party:
    line: Line
    sending: _Direction = field(init=False)
    receiving: _Direction = field(init=False)

    def __post_init__(self) -> None:
        self.sending, self.receiving = _Direction(self.line), _Direction(self.line)


class LinkProxy:
    """Relays on loopback, one for each name; runs in a thread of its own. A `Network` for `Federation.create`."""

    def __init__(self, lines: Mapping[str, Line]) -> None:
        self._parties = {name: _Party(line) for name, line in lines.items()}
        self._ports: dict[str, int] = {}
        self._broker_port: int | None = None
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="link-proxy", daemon=True)
        self._thread.start()
        self._ready.wait(_START_S)

    @property
    def ports(self) -> Mapping[str, int]:
        """The port that each name dials."""
        return self._ports

    def broker_is_at(self, port: int) -> None:
        """Where to pass bytes on to; until it is known, nobody answers."""
        self._broker_port = port

    def counts(self) -> dict[str, Count]:
        """What has passed until now, by name."""
        return {name: Count(one.sending.passed, one.receiving.passed) for name, one in self._parties.items()}

    def close(self) -> None:
        """End the relays."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        servers = []
        for name, party in self._parties.items():
            server = await asyncio.start_server(functools.partial(self._relay, party), "127.0.0.1", 0)
            self._ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
        self._ready.set()
        await self._stop.wait()
        for server in servers:
            server.close()
        pending = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _relay(self, party: _Party, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            await asyncio.sleep(2 * party.line.delay_s)
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker_port or 0)
            async with _closing(far_writer):
                pumps = [
                    asyncio.create_task(_pump(reader, far_writer, party.sending)),
                    asyncio.create_task(_pump(far_reader, writer, party.receiving)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close the connection at the end of the block, also when the relay is ended; a connection that broke is one that ended."""
    try:
        with contextlib.suppress(OSError):
            yield
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction) -> None:
    """Pass on until the end of the stream has arrived too."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    arrivals = asyncio.create_task(_arrive(under_way, writer))
    piece = _FAST_PIECE_BYTES if direction.line.bits_per_second is None else _PIECE_BYTES
    try:
        while data := await reader.read(piece):
            under_way.put_nowait((direction.take(len(data), loop.time()), data))
            await asyncio.sleep(max(direction.free_at - loop.time() - QUEUE_S, 0))
        under_way.put_nowait((loop.time() + direction.line.delay_s, b""))
        await arrivals
    except OSError:
        pass
    finally:
        arrivals.cancel()


async def _arrive(under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while True:
        at, data = await under_way.get()
        if (wait := at - loop.time()) > 0:
            await asyncio.sleep(wait)
        if not data:
            return
        with contextlib.suppress(OSError):
            writer.write(data)
            await writer.drain()


class DirectConnections:
    """No relay: every node dials the broker itself, at a port that was free when this was made. A `Network` for `Federation.create`."""

    def __init__(self, names: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.broker_port: int = probe.getsockname()[1]
        self._ports = dict.fromkeys(names, self.broker_port)

    @property
    def ports(self) -> Mapping[str, int]:
        """The broker's port, for each name."""
        return self._ports

    def broker_is_at(self, port: int) -> None:
        """Known already: the broker was told where to listen."""

    def close(self) -> None:
        """Nothing to end."""
