"""The broker of `node_world`: the one in memory of `node_samples`, with mailboxes, and with witnesses that cosign at once.

Played honestly it does what the broker's API promises; a test makes it lie by replacing what it holds, or by posting other bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from agency_node.pieces import Pieces
from agency_node.replies import Lease, MessageState
from crypto.canonical import AgencyId
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.errors import NotCanonicalError, PeerError
from crypto.mailbox_receipt import MailboxReceipt
from crypto.manifest import GalleryManifest
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.parts import PIECE_BYTES
from crypto.sealing_key import SealingKeyStatement, Week
from crypto.wire import MessageId
from tests.node_samples import LOG_SECRET, Clock, MemoryBroker, other_leaves, roster_leaf
from tests.sample_federation import (
    BOARD,
    NORTHPORT,
    NOW,
    OVERSIGHT,
    digest,
    roster,
)

WITNESSES: Final = (BOARD, OVERSIGHT)


class WorldBroker(MemoryBroker):
    """`MemoryBroker` with mailboxes, and a log whose witnesses cosign at once. Tests make it lie by replacing what it holds."""

    def __init__(self, clock: Clock) -> None:
        super().__init__([*other_leaves(2), roster_leaf()])
        self.clock = clock
        self.boxes: dict[AgencyId, list[bytes]] = {}
        self.deleted: list[MessageId] = []
        self.carried: list[Message] = []
        self.entered_terms: list[bytes] = []
        self.approvals: list[bytes] = []
        self.handles: list[bytes] = []
        self.cosigned_by(*WITNESSES)

    def add(self, *leaves: bytes) -> None:
        """Enter leaves and have the head cosigned."""
        self.log.extend(leaves)
        self.cosigned_by(*WITNESSES, at=self.clock())

    def install(self, document: bytes) -> bytes:
        """Carry a roster, enter it, and have the head cosigned."""
        entered = super().install(document)
        self.cosign_again()
        return entered

    def cosign_again(self) -> None:
        self.cosigned_by(*WITNESSES, at=self.clock())

    def enter_grant(self, grant_digest: bytes) -> None:
        self.add(leaf_of(EntryKind.GRANT, grant_digest))

    async def put_manifest(self, document: bytes) -> None:
        self.manifests[GalleryManifest.read(document, roster()).agency] = document

    async def put_sealing_key(self, document: bytes) -> None:
        self.publish(SealingKeyStatement.read(document, roster()), document)

    def publish(self, statement: SealingKeyStatement, document: bytes) -> None:
        use = statement.use.text if isinstance(statement.use, Week) else str(statement.use)
        self.sealing_keys[statement.agency, use] = document


@dataclass
class Mailbox:
    """The mail part of the broker's API as one agency sees it."""

    agency: AgencyId
    broker: WorldBroker
    spoiled: bool = False
    receipt: Callable[[Lease], bytes] | None = None
    """What is handed out in place of a true deletion receipt."""

    async def post_grant(self, terms: bytes, leaf: bytes) -> int:
        self.broker.entered_terms.append(terms)
        return await self.enter(leaf, b"")

    async def enter(self, leaf: bytes, grant_digest: bytes) -> int:
        if leaf not in self.broker.log:
            self.broker.add(leaf)
        return self.broker.log.index(leaf)

    async def enter_pack_change(self, leaf: bytes, approval: bytes) -> int:
        self.broker.approvals.append(approval)
        return await self.enter(leaf, b"")

    async def enter_expunction(self, leaf: bytes, handle: bytes) -> int:
        self.broker.handles.append(handle)
        return await self.enter(leaf, b"")

    async def enter_manifest(self, leaf: bytes, digest: bytes) -> int:
        self.broker.handles.append(digest)
        return await self.enter(leaf, b"")

    async def send(self, message: Pieces) -> MessageState:
        data = b"".join(message)
        self._carry(data)
        return MessageState("queued", ())

    def _carry(self, data: bytes) -> None:
        message = Message.from_bytes(data)
        if message.header.sender != self.agency:
            raise AssertionError("a node sends in its own name")
        self.broker.carried.append(message)
        self.broker.boxes.setdefault(message.header.recipient, []).append(data)

    async def message_state(self, message_id: MessageId) -> MessageState | None:
        return None

    async def lease(self, wait_s: int = 0, limit: int = 32) -> list[Lease]:
        return [self._lease(data) for data in self.broker.boxes.get(self.agency, [])[:limit]]

    async def fetch(self, lease: Lease, take: Callable[[bytes], None]) -> None:
        data = next(one for one in self.broker.boxes[self.agency] if id_of(one) == lease.message_id)
        if self.spoiled:  # what `BrokerLink.fetch` says of parts that do not hash to the id
            raise NotCanonicalError("the parts do not hash to the message's id")
        for piece in Pieces.of(data):
            take(piece)

    async def acknowledge(self, lease: Lease) -> bytes:
        box = self.broker.boxes[self.agency]
        box.remove(next(one for one in box if id_of(one) == lease.message_id))
        self.broker.deleted.append(lease.message_id)
        return MailboxReceipt(lease.message_id, self.agency, NOW).sign(LOG_SECRET) if self.receipt is None else self.receipt(lease)

    def _lease(self, data: bytes) -> Lease:
        message_id = id_of(data)
        try:
            header = Message.from_bytes(data).header
            said = (header.message_type, header.sender, header.search_id)
        except PeerError:  # the broker may say what it likes of bytes that are no message
            said = (MessageType.ANSWER, NORTHPORT, None)
        parts = -(-len(data) // PIECE_BYTES)
        return Lease(message_id[:32], message_id, *said, len(data), parts, NOW + timedelta(minutes=1))


def id_of(data: bytes) -> MessageId:
    return MessageId(hashlib.sha256(data).hexdigest())


def leaf_of(kind: EntryKind, grant_digest: bytes, author: AgencyId | None = None) -> bytes:
    return LogEntry(kind, NOW.date(), entry_subject(kind, grant_digest, author), (digest(f"{kind} {grant_digest.hex()}"),)).to_bytes()
