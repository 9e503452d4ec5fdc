"""All of a message but its body and its signature, and where these two stand: what the broker sees, and what is read first.

The wire form stands at `messages`. Left to others: bodies, signing, opening (`messages`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from crypto.binary import Kind, Reader, Writer
from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.checkpoint import SignedCheckpoint
from crypto.envelope import EnvelopeContext
from crypto.epoch import Epoch
from crypto.errors import ContextError, FieldError, MisuseError, NotCanonicalError, OversizedError
from crypto.fields import DIGEST_BYTES, check_digest, check_range
from crypto.keys import SIGNATURE_BYTES
from crypto.message_types import MAX_CHECKPOINT_BYTES, MAX_MESSAGE_BYTES, MESSAGES, MessageSpec, MessageType, spec_of_code
from crypto.moments import check_moment
from crypto.wire import read_moment, read_name, write_moment, write_name

MAX_SEQUENCE: Final = 0xFFFFFFFF

_SEARCH_ID_BYTES: Final = 16
_NO_SEARCH: Final = bytes(_SEARCH_ID_BYTES)
_NO_GRANT: Final = bytes(DIGEST_BYTES)
_SIGNATURE_LABEL: Final = b"sealmatch-1/message\n"


@dataclass(frozen=True)
class MessageHeader:
    """All of a frame but body and signature. The broker sees it whole.

    `search_id` and `grant_digest` (32 bytes) are None exactly for types that belong to no search. `sequence` is 1 to 2^32 - 1, `sent_at` a
    moment in UTC to the hundredth, `checkpoint` the sender's latest signed checkpoint as bytes, None before it has one.
    """

    message_type: MessageType
    search_id: SearchId | None
    grant_digest: bytes | None = field(repr=False)
    sender: AgencyId
    recipient: AgencyId
    sequence: int
    sent_at: datetime
    checkpoint: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # A plain `str` would compare equal and need not be a name; as in `EnvelopeContext`, only the checked types pass.
        names = ((self.message_type, MessageType), (self.sender, AgencyId), (self.recipient, AgencyId), (self.search_id, SearchId | None))
        if not all(isinstance(value, kind) for value, kind in names):
            raise MisuseError("type, sender, recipient and search id are the checked types, not plain strings")
        if (self.search_id is not None) != self.spec.in_search or (self.grant_digest is not None) != self.spec.in_search:
            raise FieldError("search id and grant digest stand exactly in messages of a search")
        if self.search_id is not None and bytes.fromhex(self.search_id) == _NO_SEARCH:
            raise FieldError("a search id is not all zero")
        if self.grant_digest is not None:
            check_digest(self.grant_digest, "grant digest")
            if self.grant_digest == _NO_GRANT:
                raise FieldError("a grant digest is not all zero")
        check_range(self.sequence, 1, MAX_SEQUENCE, "sequence number")
        check_moment(self.sent_at, "sent-at")
        if self.checkpoint is not None:
            check_range(len(self.checkpoint), 1, MAX_CHECKPOINT_BYTES, "length of the checkpoint")

    @property
    def spec(self) -> MessageSpec:
        """The row of the table."""
        return MESSAGES[self.message_type]

    def unverified_checkpoint(self) -> SignedCheckpoint | None:
        """The sender's checkpoint, parsed only; `CheckpointError` when it is none. Keep the message: with the frame's signature it is
        evidence."""
        return None if self.checkpoint is None else SignedCheckpoint.from_bytes(self.checkpoint, max_bytes=MAX_CHECKPOINT_BYTES)

    def context(self, recipient_key_id: KeyId, epoch: Epoch) -> EnvelopeContext:
        """The context of this message's envelope.

        HAZARD: a recipient compares an envelope with what it expects by its own records; the context of a received header is none.
        """
        if self.search_id is None or self.grant_digest is None:
            raise MisuseError("a message that belongs to no search is not sealed")
        return EnvelopeContext(self.message_type, self.search_id, self.grant_digest, self.sender, self.recipient, recipient_key_id, epoch)


def read_header(first_bytes: bytes, total_bytes: int) -> MessageHeader:
    """The header of a message of `total_bytes`, of which only the first bytes are here: what the broker decides on before it stores any.

    The checks of `Message.from_bytes` as far as they go, in the same order and with the same errors; the body's length must be what is
    left of the whole (`NotCanonicalError`). Nothing is verified: the signature stands at the end.
    """
    reader, header = read_head(first_bytes, total_bytes)
    body_bytes = reader.integer(4, low=1, high=header.spec.max_carried_bytes)
    if len(write_head(header, 0)) + body_bytes + SIGNATURE_BYTES != total_bytes:
        raise NotCanonicalError("the message's body is not what is left of its length")
    return header


def read_head(data: bytes, total_bytes: int) -> tuple[Reader, MessageHeader]:
    """All before the body, and the reader that stands there. `total_bytes` is the length of the whole, of which `data` is the beginning."""
    if total_bytes > MAX_MESSAGE_BYTES:
        raise OversizedError(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
    reader = Reader(data, Kind.MESSAGE, max_bytes=MAX_MESSAGE_BYTES, total_bytes=total_bytes)
    spec = spec_of_code(reader.integer(1, low=0, high=255))
    if total_bytes > spec.max_bytes:
        raise OversizedError(f"{spec.message_type} is longer than {spec.max_bytes} bytes")
    search_id, grant_digest = reader.fixed(_SEARCH_ID_BYTES), reader.fixed(DIGEST_BYTES)
    header = MessageHeader(
        message_type=spec.message_type,
        search_id=None if search_id == _NO_SEARCH else SearchId(search_id.hex()),
        grant_digest=None if grant_digest == _NO_GRANT else grant_digest,
        sender=read_name(reader, AgencyId),
        recipient=read_name(reader, AgencyId),
        sequence=reader.integer(4, low=1, high=MAX_SEQUENCE),
        sent_at=read_moment(reader),
        checkpoint=reader.fixed(reader.integer(4, low=0, high=MAX_CHECKPOINT_BYTES)) or None,
    )
    return reader, header


def write_head(header: MessageHeader, body_bytes: int) -> bytes:
    """Everything before the body."""
    search_id = _NO_SEARCH if header.search_id is None else bytes.fromhex(header.search_id)
    checkpoint = header.checkpoint or b""
    writer = Writer(Kind.MESSAGE).integer(header.spec.code, 1).fixed(search_id, _SEARCH_ID_BYTES)
    write_name(write_name(writer.fixed(header.grant_digest or _NO_GRANT, DIGEST_BYTES), header.sender), header.recipient)
    write_moment(writer.integer(header.sequence, 4), header.sent_at).integer(len(checkpoint), 4).fixed(checkpoint, len(checkpoint))
    return writer.integer(body_bytes, 4).finish()


def check_context(header: MessageHeader, context: EnvelopeContext) -> None:
    """Raise `ContextError` unless the context is one of this frame."""
    if context != header.context(context.recipient_key_id, context.epoch):
        raise ContextError("the frame carries an envelope of another message, search, grant or party")


def signed_string(frame_digest: hashlib._Hash) -> bytes:
    """`frame_digest` has taken the frame without its signature."""
    return _SIGNATURE_LABEL + frame_digest.hexdigest().encode("ascii")
