"""The broker's memory does not grow with a message: of a long one it holds a few parts at a time, from the first to the receipt."""

from __future__ import annotations

import gc
import hashlib
import tracemalloc
from pathlib import Path

from crypto.envelope import seal
from crypto.epoch import Epoch
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.parts import PIECE_BYTES, Part
from crypto.wire import MessageId
from tests.broker_world import RECIPIENT_KEY, RECIPIENT_KEY_ID, World, node_key, open_world
from tests.sample_federation import LAKESIDE, NORTHPORT, claims

LONG_BYTES = 40_000_000
A_FEW_PARTS = 16 << 20
"""One part is here as a request's body, as pieces of it, as a row, as a reply; the test's own side is counted too."""


def long_message(world: World) -> bytes:
    """An answer's frame around an envelope of zeros, signed by the holder."""
    header = world.header(claims(), MessageType.ANSWER, LAKESIDE, NORTHPORT)
    key = node_key(LAKESIDE)
    envelope = seal(bytes(LONG_BYTES), header.context(RECIPIENT_KEY_ID, Epoch("2026-11")), RECIPIENT_KEY.public_key, key)
    frame = Message(header, envelope.to_bytes(), bytes(64)).to_bytes()[:-64]
    return frame + key.sign(b"sealmatch-1/message\n" + hashlib.sha256(frame).hexdigest().encode("ascii"))


async def test_a_long_message_passes_in_a_few_parts_of_memory(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker") as world:
        await world.grant()
        data = long_message(world)
        message_id = MessageId(hashlib.sha256(data).hexdigest())
        count = -(-len(data) // PIECE_BYTES)
        gc.freeze()  # the test's own client keeps request and reply in a ring, with the part in it: collected at once, and fast
        tracemalloc.start()
        try:
            for number in range(count):
                part = Part(message_id, number, len(data), data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES])
                reply = await world.put_part(message_id, number, part.to_bytes(), LAKESIDE)
                assert reply.status_code == 200, reply.text
                _ = number % 4 or gc.collect()
            assert reply.json() == {"state": "queued", "missing": []}
            (lease,) = await world.lease(NORTHPORT)
            fetched = hashlib.sha256()
            for number in range(count):
                fetched.update(Part.from_bytes((await world.fetch(lease, NORTHPORT, number)).content).piece)
                _ = number % 4 or gc.collect()
            assert (await world.acknowledge(lease, NORTHPORT)).status_code == 200
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.unfreeze()
        assert fetched.hexdigest() == message_id
        assert peak < A_FEW_PARTS
