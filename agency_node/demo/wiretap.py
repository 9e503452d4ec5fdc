"""A relay between each node and the broker that writes down every byte: the network as an adversary, and the demonstration's witness.

Invariants: bytes are passed on unchanged; one recording for each node, both directions. Messages are found again by the prefix of their
parts (`crypto.parts`), whatever HTTP wrapped around them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from crypto.binary import Kind, Writer
from crypto.errors import PeerError
from crypto.messages import Message
from crypto.parts import MAX_PART_BYTES, PART_HEAD_BYTES, PIECE_BYTES, Part

_PREFIX = Writer(Kind.PART).finish()
_BUFFER = 1 << 16


@dataclass
class Recording:
    """What one node sent and was sent, connection by connection."""

    to_broker: list[bytearray] = field(default_factory=list, repr=False)
    from_broker: list[bytearray] = field(default_factory=list, repr=False)

    def sent(self) -> list[Message]:
        """The messages that the node handed to the broker, each once, in order."""
        return _messages(self.to_broker)

    def received(self) -> list[Message]:
        """The messages that the node fetched."""
        return _messages(self.from_broker)

    def raw(self) -> bytes:
        """All bytes of both directions."""
        return b"".join(bytes(one) for one in (*self.to_broker, *self.from_broker))


class Wiretap:
    """Relays on loopback, one for each name; runs in a thread of its own."""

    def __init__(self, names: list[str]) -> None:
        self.recordings = {name: Recording() for name in names}
        self.ports: dict[str, int] = {}
        self._broker_port: int | None = None
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="wiretap", daemon=True)
        self._thread.start()
        self._ready.wait(30)

    def broker_is_at(self, port: int) -> None:
        """Where to pass bytes on to; until it is known, nodes find nobody."""
        self._broker_port = port

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
        for name in self.recordings:
            server = await asyncio.start_server(functools.partial(self._relay, name), "127.0.0.1", 0)
            self.ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
        self._ready.set()
        await self._stop.wait()
        for server in servers:
            server.close()
        pending = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _relay(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._broker_port is None:
            writer.close()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.close()
            return
        there, back = bytearray(), bytearray()
        self.recordings[name].to_broker.append(there)
        self.recordings[name].from_broker.append(back)
        pumps = [asyncio.create_task(_pump(reader, far_writer, there)), asyncio.create_task(_pump(far_reader, writer, back))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for one in (writer, far_writer):
                one.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recorded: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_BUFFER):
            recorded += data
            writer.write(data)
            await writer.drain()


def _messages(streams: list[bytearray]) -> list[Message]:
    pieces: dict[str, dict[int, Part]] = {}
    for stream in streams:
        for part in _parts(bytes(stream)):
            pieces.setdefault(str(part.message_id), {})[part.number] = part
    found = []
    for parts in pieces.values():
        first = next(iter(parts.values()))
        if len(parts) == first.count:
            found.append(Message.from_bytes(b"".join(parts[number].piece for number in range(first.count))))
    return found


def _parts(stream: bytes) -> Iterator[Part]:
    start = stream.find(_PREFIX)
    while start >= 0:
        head = stream[start : start + PART_HEAD_BYTES]
        with contextlib.suppress(PeerError):
            total = int.from_bytes(head[-4:], "big")
            number = int.from_bytes(head[-8:-6], "big")
            length = PART_HEAD_BYTES + min(PIECE_BYTES, total - number * PIECE_BYTES)
            if PART_HEAD_BYTES < length <= MAX_PART_BYTES:
                yield Part.from_bytes(stream[start : start + length])
        start = stream.find(_PREFIX, start + 1)
