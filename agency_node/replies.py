"""What the broker's replies say, read strictly: message states, leases, heads, proofs, opened fields.

Invariants: a reply of another form than the API gives it is one error, a `BrokerRefusedError` with the problem `unreadable-reply`, or a
`PeerError` for a head; nothing of it is guessed. All of it is the broker's word only. Left to others: asking (`link`), whether to believe
it (`parties`, `follower`, `courier`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from agency_node.transport import Reply, unreadable
from crypto.canonical import AgencyId, JsonValue, SearchId
from crypto.checkpoint import MAX_NOTE_BYTES, SignedCheckpoint
from crypto.entries import FieldOpening
from crypto.entry_openings import opening_from_fields
from crypto.errors import EncodingError, FieldError
from crypto.fields import MAX_INTEGER, Fields, check_range
from crypto.message_types import MESSAGES, MessageType
from crypto.parts import MAX_PARTS, PIECE_BYTES
from crypto.wire import MessageId

_MAX_PROOF_HASHES: Final = 128
_MAX_LEASE_ID_CHARS: Final = 64
_LEASE_ID_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_STATES: Final = ("incomplete", "queued", "leased", "delivered")


@dataclass(frozen=True)
class MessageState:
    """Where a message is: `incomplete`, `queued`, `leased`, `delivered`; `missing` parts; the broker's receipt once it is delivered."""

    state: str
    missing: tuple[int, ...]
    receipt: bytes | None = None


@dataclass(frozen=True)
class Lease:
    """A message that waits here for this node, and for nobody else until `expires_at`. All of it is the broker's word only."""

    lease_id: str
    message_id: MessageId
    message_type: MessageType
    sender: AgencyId
    search_id: SearchId | None
    total_bytes: int
    parts: int
    expires_at: datetime

    def __post_init__(self) -> None:
        if not 1 <= len(self.lease_id) <= _MAX_LEASE_ID_CHARS or not _LEASE_ID_LETTERS.issuperset(self.lease_id):
            raise FieldError("a lease's id is letters, digits, - and _")
        check_range(self.total_bytes, 1, MESSAGES[self.message_type].max_bytes, "lease.total_bytes")
        if self.parts != -(-self.total_bytes // PIECE_BYTES):
            raise FieldError("a lease's number of parts follows from its bytes")


@dataclass(frozen=True)
class OpenedField:
    """A field of the leaf at `position` that was opened; `number` is its place among all. The broker's word only."""

    number: int
    position: int
    opening: FieldOpening = field(repr=False)


@contextmanager
def strict(reply: Reply) -> Iterator[None]:
    """Whatever of a reply cannot be read is one error: the broker's JSON is not signed and proves nothing against anybody."""
    try:
        yield
    except EncodingError as error:
        raise unreadable(reply.status, "its content has another form than the API gives it") from error


def fields_of(reply: Reply) -> Fields:
    """The members of a JSON reply; numbers are whole."""
    try:
        value: JsonValue = json.loads(reply.body, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FieldError("reply is not JSON of ours") from error
    return Fields(value, "reply")


def _refuse(_text: str) -> int:
    raise ValueError


def note_in(reply: Reply) -> SignedCheckpoint:
    """The head in a reply."""
    return SignedCheckpoint.from_bytes(reply.body, max_bytes=MAX_NOTE_BYTES)


def index_in(reply: Reply) -> int:
    """Where a leaf was entered."""
    with strict(reply):
        fields = fields_of(reply)
        index = fields.integer("index")
        fields.close()
        check_range(index, 0, MAX_INTEGER, "index")
    return index


def proof_in(reply: Reply) -> tuple[bytes, ...]:
    """The hashes of a proof."""
    with strict(reply):
        fields = fields_of(reply)
        proof = fields.digests("proof")
        fields.close()
        check_range(len(proof), 0, _MAX_PROOF_HASHES, "number of hashes")
    return proof


def state_in(reply: Reply) -> MessageState:
    """Where a message is."""
    with strict(reply):
        fields = fields_of(reply)
        state, missing = fields.text("state"), fields.items("missing")
        receipt = fields.data("receipt") if "receipt" in fields.as_object() else None
        fields.close()
        numbers = tuple(
            number for number in missing if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < MAX_PARTS
        )
        if state not in _STATES or len(numbers) != len(missing) or sorted(set(numbers)) != list(numbers):
            raise FieldError("reply is no message state")
        if bool(numbers) != (state == "incomplete"):
            raise FieldError("parts are missing exactly of an incomplete message")
    return MessageState(state, numbers, receipt)


def lease_from_fields(fields: Fields) -> Lease:
    """One lease of a list."""
    lease = Lease(
        lease_id=fields.text("lease_id"),
        message_id=fields.name("message_id", MessageId),
        message_type=_message_type(fields.text("message_type")),
        sender=fields.name("sender", AgencyId),
        search_id=None if fields.is_null("search_id") else fields.name("search_id", SearchId),
        total_bytes=fields.integer("total_bytes"),
        parts=fields.integer("parts"),
        expires_at=fields.moment("expires_at"),
    )
    fields.close()
    return lease


def opened_from_fields(fields: Fields) -> OpenedField:
    """One member of `openings`, as the broker lists it."""
    number, position = fields.integer("number"), fields.integer("position")
    members = {name: value for name, value in fields.as_object().items() if name not in {"number", "position"}}
    return OpenedField(number, position, opening_from_fields(Fields(members, "reply.openings")))


def _message_type(text: str) -> MessageType:
    try:
        return MessageType(text)
    except ValueError as error:
        raise FieldError("reply names no message type of ours") from error
