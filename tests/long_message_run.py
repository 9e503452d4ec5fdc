"""A process of its own: one long answer from a holder's arrays to a requester's, over the real link; prints what it held at most.

    python -m tests.long_message_run FOLDER SLOTS

Prints three numbers of bytes: the message, and the most that was held above the arrays themselves while it was sealed and sent, and while
it was fetched and opened. The broker keeps parts in files, so that nothing of it is counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import httpx

from agency_node.link import BrokerLink
from agency_node.outbox import Conversation, SealTo
from agency_node.pieces import IN_PIECES, received
from agency_node.tables import outbox
from agency_node.transport import Transport
from crypto.bodies import AnswerBody
from crypto.canonical import b64url_encode
from crypto.keys import SigningKey
from crypto.mailbox_receipt import MailboxReceipt
from crypto.message_types import MessageType
from crypto.parts import PIECE_BYTES, Part
from crypto.wire import MessageId
from tests.node_samples import LOG_SECRET
from tests.node_world import OnePass, World, WorldNode, node_key, search_claims
from tests.sample_federation import LAKESIDE, NORTHPORT, NOW
from tests.test_long_messages import answer_body


class FolderBroker(httpx.AsyncBaseTransport):
    """Takes one message, keeps its parts as files, hands it out under a lease."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.total_bytes = 0
        self.message_id = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "PUT":
            part = Part.from_bytes(request.content)
            self.total_bytes, self.message_id = part.total_bytes, str(part.message_id)
            (self.folder / str(part.number)).write_bytes(part.piece)
            return self._state()
        if "/parts/" in path:
            number = int(path.rpartition("/")[2])
            piece = (self.folder / str(number)).read_bytes()
            data = Part(MessageId(self.message_id), number, self.total_bytes, piece).to_bytes()
            return httpx.Response(200, stream=httpx.ByteStream(data), headers={"content-type": "application/octet-stream"})
        if path.endswith("/acknowledgement"):
            receipt = MailboxReceipt(MessageId(self.message_id), NORTHPORT, NOW).sign(LOG_SECRET)
            return _reply({"receipt": b64url_encode(receipt)})
        if path.endswith("/leases"):
            return _reply({"leases": [self._lease()]})
        return self._state() if self.total_bytes else _problem()

    def _state(self) -> httpx.Response:
        count = -(-self.total_bytes // PIECE_BYTES)
        missing = [number for number in range(count) if not (self.folder / str(number)).exists()]
        return _reply({"state": "incomplete" if missing else "queued", "missing": missing})

    def _lease(self) -> dict[str, Any]:
        return {
            "lease_id": "lease",
            "message_id": self.message_id,
            "message_type": "answer",
            "sender": str(LAKESIDE),
            "search_id": None,
            "total_bytes": self.total_bytes,
            "parts": -(-self.total_bytes // PIECE_BYTES),
            "expires_at": "2026-11-24T12:00:00.00Z",
        }


def _reply(document: object) -> httpx.Response:
    return httpx.Response(200, stream=httpx.ByteStream(json.dumps(document).encode("ascii")), headers={"content-type": "application/json"})


def _problem() -> httpx.Response:
    document = {"type": "urn:sealmatch:problem:not-found", "title": "not found", "status": 404, "detail": ""}
    return httpx.Response(
        404, stream=httpx.ByteStream(json.dumps(document).encode("ascii")), headers={"content-type": "application/problem+json"}
    )


async def run(folder: Path, slots: int) -> tuple[int, int, int]:
    """Length of the message; the most that was held above the arrays, going out and coming in."""
    world = World(folder / "world")
    broker = FolderBroker(folder / "broker")
    content = search_claims()
    holder, requester = await world.node(LAKESIDE), await world.requester_with_key(content)
    for node in (holder, requester):
        connect(node, broker, node_key(node.agency))
    body = answer_body(content, slots)
    to = SealTo.statement(requester.keyring.for_search(content.search_id))
    gc.collect()
    gc.disable()  # what only the collector frees is held
    tracemalloc.start()
    with holder.engine.begin() as connection:
        message_id = holder.outbox.sealed(connection, MessageType.ANSWER, body, Conversation.of(content), to)
    await holder.courier.send(OnePass())
    assert holder.rows(outbox, state="ready") == []
    sending = tracemalloc.get_traced_memory()[1]
    arrays = body.answer.a_rounded.nbytes + body.answer.b_rounded.nbytes
    tracemalloc.stop()
    del body
    tracemalloc.start()
    await requester.courier.receive(OnePass())
    message = received(requester.engine, str(message_id), IN_PIECES)
    opened = requester.envelopes.open(message, AnswerBody, Conversation.of(content), LAKESIDE)
    receiving = tracemalloc.get_traced_memory()[1] - arrays
    assert opened.answer.slots == slots
    world.close()
    return broker.total_bytes, sending, receiving


def connect(node: WorldNode, broker: FolderBroker, key: SigningKey) -> None:
    """Let the node's courier use the real link, to that broker."""
    node.courier.link = BrokerLink(Transport("http://broker", node.agency, key, node.clock, transport=broker))


if __name__ == "__main__":
    print(*asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]))))
