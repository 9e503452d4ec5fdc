"""The frame that every message travels in, sealed or open, and the four ways in and out of it (PROTOCOL 4, 5 and 8).

Wire form, big-endian: the prefix of `binary`; u8 type code; search id 16 bytes; grant digest 32 bytes; u8 length and sender; u8 length and
recipient; u32 sequence number; u64 sent-at in hundredths of a second since 1970 (R52); u32 length and checkpoint; u32 length and body;
signature 64 bytes. Search id and grant digest are zero exactly in the types that belong to no search. The body is an envelope's bytes for
sealed types and the body's canonical bytes for open ones. A message's id is SHA-256 of all of it.

**Every frame is signed by its sender, sealed or not.** The envelope's own signature covers the body and its context; sequence number,
sent-at and checkpoint stand outside, and a broker that could change these could hide what it delayed or dropped and show each party
another log. Signed is

    sealmatch-1/message LF hex SHA-256 of the frame without its signature

which no other string of the protocol begins like. The envelope keeps its signature too, because it is stored and shown without its frame.

Invariants: a `Message` that exists is in its one form, below its type's maximum, and has a body of its type: an envelope made for the
frame's type, search, grant, sender and recipient, or an open body that parses. The length is checked before anything is parsed: against
the longest of all types on entry, against the type's own as soon as its code was read. A body goes into a frame as an object of the class
that the table names, never as bytes; so `Y16` is the only form in which opened scores are sent.

Left to others: whose key is whose (`roster`); repeats (same id: same message; same sender, search and sequence number with another id:
refuse); gaps in the sequence numbers, which count from 1 for each sender, recipient and search; whether the checkpoint connects with one's
own (`checkpoint`). It stays bytes here, because one that does not parse is evidence and must not keep the frame from being read.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self, TypeVar

from crypto.binary import Kind, Reader, Writer, sha256
from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.checkpoint import SignedCheckpoint
from crypto.envelope import MAX_HEAD_BYTES, Envelope, EnvelopeContext, open_envelope, read_context, seal
from crypto.epoch import Epoch
from crypto.errors import BadSignatureError, ContextError, FieldError, MisuseError, NotCanonicalError, OversizedError, SenderSignatureError
from crypto.fields import DIGEST_BYTES, check_digest, check_range
from crypto.keys import SIGNATURE_BYTES, SealingPrivateKey, SealingPublicKey, SigningKey, VerifyingKey
from crypto.message_types import (
    MAX_CHECKPOINT_BYTES,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    MESSAGES,
    Body,
    MessageSpec,
    MessageType,
    spec_of_code,
)
from crypto.moments import check_moment
from crypto.wire import MessageId, read_moment, read_name, write_moment, write_name

MAX_SEQUENCE: Final = 0xFFFFFFFF

_SEARCH_ID_BYTES: Final = 16
_NO_SEARCH: Final = bytes(_SEARCH_ID_BYTES)
_NO_GRANT: Final = bytes(DIGEST_BYTES)
_MAX_HEAD_BYTES: Final = max(MAX_FRAME_BYTES + (MAX_HEAD_BYTES if spec.sealed else spec.max_body_bytes) for spec in MESSAGES.values())
"""Room for all of a message but what its envelope seals."""
_SIGNATURE_LABEL: Final = b"sealmatch-1/message\n"
BodyT = TypeVar("BodyT", bound=Body)


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


@dataclass(frozen=True)
class Message:
    """One message as it travels. Existing says nothing about its truth: only `open_message` and `read_message` do."""

    header: MessageHeader
    body: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        spec = self.header.spec
        if len(self.body) > spec.max_carried_bytes:
            raise OversizedError(f"body of {spec.message_type} has {len(self.body)} bytes, at most {spec.max_carried_bytes} are carried")
        if len(self.signature) != SIGNATURE_BYTES:
            raise FieldError(f"a message's signature has {SIGNATURE_BYTES} bytes")
        if spec.sealed:
            _check_context(self.header, self.envelope().context)
        else:
            spec.body.from_bytes(self.body)

    def envelope(self) -> Envelope:
        """The body of a sealed type, unopened."""
        if not self.header.spec.sealed:
            raise MisuseError(f"{self.header.message_type} is not sealed")
        return Envelope.from_bytes(self.body, max_bytes=self.header.spec.max_carried_bytes)

    @functools.cached_property
    def message_id(self) -> MessageId:
        """SHA-256 of the canonical bytes."""
        return MessageId(sha256(self.to_bytes()).hex())

    def to_bytes(self) -> bytes:
        """The wire form."""
        return _write(self.header, self.body).fixed(self.signature, SIGNATURE_BYTES).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; nothing is verified and nothing opened.

        Raises `OversizedError` before parsing, `VersionError` for an unknown type, `ContextError` for another message's envelope, and
        whatever an open body raises (a `PeerError`), else `EncodingError`.
        """
        reader, header = _read_head(data, len(data))
        body = reader.fixed(reader.integer(4, low=1, high=header.spec.max_carried_bytes))
        signature = reader.fixed(SIGNATURE_BYTES)
        reader.finish()
        return cls(header, body, signature)

    def check_signature(self, sender_public: VerifyingKey) -> None:
        """Raise `SenderSignatureError` unless `sender_public`, the roster's key of the header's sender, signed this frame."""
        try:
            sender_public.check(self.signature, _signed_string(_frame_digest(self.header, self.body)))
        except BadSignatureError as error:
            raise SenderSignatureError("the frame's signature is not the sender's") from error


def read_header(first_bytes: bytes, total_bytes: int) -> MessageHeader:
    """The header of a message of `total_bytes`, of which only the first bytes are here: what the broker decides on before it stores any.

    The checks of `Message.from_bytes` as far as they go, in the same order and with the same errors; the body's length must be what is
    left of the whole (`NotCanonicalError`). Nothing is verified: the signature stands at the end.
    """
    reader, header = _read_head(first_bytes, total_bytes)
    body_bytes = reader.integer(4, low=1, high=header.spec.max_carried_bytes)
    if len(_write(header, b"").finish()) + body_bytes + SIGNATURE_BYTES != total_bytes:
        raise NotCanonicalError("the message's body is not what is left of its length")
    return header


class MessageCheck:
    """Checks a message whose bytes come in pieces, in order, and keeps no more of it than its first 130 kB.

    The frame's signature is over a digest, an envelope's form says of what it seals only the length, and open bodies are short: so nothing
    else need be here at once.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._fed = 0
        self._head = bytearray()
        self._tail = b""
        self._before_tail = hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._fed += len(piece)
        self._head += piece[: _MAX_HEAD_BYTES - len(self._head)]
        self._before_tail.update(self._tail[: max(len(self._tail) + len(piece) - SIGNATURE_BYTES, 0)])
        self._before_tail.update(memoryview(piece)[: max(len(piece) - SIGNATURE_BYTES, 0)])
        self._tail = (self._tail + piece[-SIGNATURE_BYTES:])[-SIGNATURE_BYTES:]

    def finish(self, message_id: MessageId, sender_public: VerifyingKey) -> MessageHeader:
        """The header, after these checks in this order; `MisuseError` unless every byte was added.

        1. the bytes hash to `message_id` (`NotCanonicalError`)
        2. they are a message: what `Message.from_bytes` checks, in the same order and with the same errors
        3. `sender_public`, the roster's key of the sender, signed the frame (`SenderSignatureError`)
        """
        if self._fed != self._total_bytes:
            raise MisuseError("bytes of the message are missing, or there are too many")
        # 1
        whole = self._before_tail.copy()
        whole.update(self._tail)
        if whole.digest() != message_id.digest:
            raise NotCanonicalError("the parts do not hash to the message's id")
        # 2
        header = self._read()
        # 3
        try:
            sender_public.check(self._tail, _signed_string(self._before_tail))
        except BadSignatureError as error:
            raise SenderSignatureError("the frame's signature is not the sender's") from error
        return header

    def _read(self) -> MessageHeader:
        head = bytes(self._head)
        reader, header = _read_head(head, self._total_bytes)
        spec = header.spec
        body_bytes = reader.integer(4, low=1, high=spec.max_carried_bytes)
        first = head[reader.at : reader.at + min(body_bytes, MAX_HEAD_BYTES)]
        reader.skip(body_bytes)
        reader.skip(SIGNATURE_BYTES)
        reader.finish()
        if spec.sealed:
            _check_context(header, read_context(first, body_bytes, max_bytes=spec.max_carried_bytes))
        else:
            Message.from_bytes(head)
        return header


def seal_message(
    header: MessageHeader,
    body: Body,
    *,
    recipient_public: SealingPublicKey,
    recipient_key_id: KeyId,
    epoch: Epoch,
    sender_signing_key: SigningKey,
) -> Message:
    """A message of a sealed type; `MisuseError` for an open type or a body of another class than the table's.

    Sealing again gives another message: store the first and send that again. What the caller answers for stands at `envelope.seal`.
    """
    _check_class(header, type(body), sealed=True)
    envelope = seal(body.to_bytes(), header.context(recipient_key_id, epoch), recipient_public, sender_signing_key)
    return _signed(header, envelope.to_bytes(), sender_signing_key)


def sign_message(header: MessageHeader, body: Body, *, sender_signing_key: SigningKey) -> Message:
    """A message of an open type; `MisuseError` for a sealed type or a body of another class than the table's."""
    _check_class(header, type(body), sealed=False)
    return _signed(header, body.to_bytes(), sender_signing_key)


def open_message(
    message: Message,
    body: type[BodyT],
    *,
    expected: EnvelopeContext,
    recipient_private: SealingPrivateKey,
    sender_public: VerifyingKey,
) -> BodyT:
    """The body of a sealed message, after these checks in this order:

    1. the frame's signature is `sender_public`'s, the roster's key of the sender (`SenderSignatureError`);
    2. the envelope is what `expected` says, which the caller builds from its own records, and opens (`EnvelopeError`);
    3. the plaintext is a body of the class that the table names for the type (`PeerError`; `MisuseError` if the caller asked for another).

    A frame and its envelope agree by construction, so `expected` holds for the frame as well.
    """
    _check_class(message.header, body, sealed=True)
    # 1
    message.check_signature(sender_public)
    # 2
    plaintext = open_envelope(message.envelope(), expected, recipient_private, sender_public)
    # 3
    if len(plaintext) > message.header.spec.max_body_bytes:
        raise OversizedError(f"body of {message.header.message_type} is longer than the type allows")
    return body.from_bytes(plaintext)


def read_message(message: Message, body: type[BodyT], *, recipient: AgencyId, sender_public: VerifyingKey) -> BodyT:
    """The body of an open message, after these checks in this order:

    1. it is addressed to `recipient`, who reads it (`ContextError`);
    2. the frame's signature is `sender_public`'s, the roster's key of the header's sender (`SenderSignatureError`).

    That search and grant are ones that the caller knows, and the sender one of their parties, is left to the caller.
    """
    _check_class(message.header, body, sealed=False)
    # 1
    if message.header.recipient != recipient:
        raise ContextError("message is addressed to another party")
    # 2
    message.check_signature(sender_public)
    return body.from_bytes(message.body)


def _read_head(data: bytes, total_bytes: int) -> tuple[Reader, MessageHeader]:
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


def _check_class(header: MessageHeader, body: type[Body], *, sealed: bool) -> None:
    if header.spec.sealed is not sealed:
        raise MisuseError(f"{header.message_type} is {'an open' if sealed else 'a sealed'} type")
    if body is not header.spec.body:
        raise MisuseError(f"a {header.message_type} carries a {header.spec.body.__name__} and nothing else")


def _signed(header: MessageHeader, body: bytes, key: SigningKey) -> Message:
    return Message(header, body, key.sign(_signed_string(_frame_digest(header, body))))


def _check_context(header: MessageHeader, context: EnvelopeContext) -> None:
    if context != header.context(context.recipient_key_id, context.epoch):
        raise ContextError("the frame carries an envelope of another message, search, grant or party")


def _frame_digest(header: MessageHeader, body: bytes) -> hashlib._Hash:
    return hashlib.sha256(_write(header, body).finish())


def _signed_string(frame_digest: hashlib._Hash) -> bytes:
    """`frame_digest` has taken the frame without its signature."""
    return _SIGNATURE_LABEL + frame_digest.hexdigest().encode("ascii")


def _write(header: MessageHeader, body: bytes) -> Writer:
    """Everything but the signature."""
    search_id = _NO_SEARCH if header.search_id is None else bytes.fromhex(header.search_id)
    checkpoint = header.checkpoint or b""
    writer = Writer(Kind.MESSAGE).integer(header.spec.code, 1).fixed(search_id, _SEARCH_ID_BYTES)
    write_name(write_name(writer.fixed(header.grant_digest or _NO_GRANT, DIGEST_BYTES), header.sender), header.recipient)
    write_moment(writer.integer(header.sequence, 4), header.sent_at).integer(len(checkpoint), 4).fixed(checkpoint, len(checkpoint))
    return writer.integer(len(body), 4).fixed(body, len(body))
