"""The frame that every message travels in, sealed or open, and the ways in and out of it (PROTOCOL 4, 5 and 8).

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
that the table names, never as bytes; so `Y16` is the only form in which opened scores are sent. A message of a streamed type is written
and opened in pieces (`seal_in_pieces`, `MessageInPieces`) and held whole by nobody who does not ask for it.

Left to others: whose key is whose (`roster`); repeats (same id: same message; same sender, search and sequence number with another id:
refuse); gaps in the sequence numbers, which count from 1 for each sender, recipient and search; whether the checkpoint connects with one's
own (`checkpoint`). It stays bytes here, because one that does not parse is evidence and must not keep the frame from being read.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self, TypeVar, cast

from crypto.binary import between, sha256
from crypto.canonical import AgencyId, KeyId
from crypto.envelope import (
    MAX_HEAD_BYTES,
    Envelope,
    EnvelopeContext,
    length_in_segments,
    open_envelope,
    open_in_segments,
    read_context,
    seal,
    seal_in_segments,
)
from crypto.epoch import Epoch
from crypto.errors import (
    BadSignatureError,
    ContextError,
    FieldError,
    MisuseError,
    OversizedError,
    SenderSignatureError,
    TruncatedError,
)
from crypto.frame import MessageHeader, check_context, read_head, read_header, signed_string, write_head
from crypto.keys import SIGNATURE_BYTES, SealingPrivateKey, SealingPublicKey, SigningKey, VerifyingKey
from crypto.message_types import (
    MAX_FRAME_BYTES,
    Body,
    MessageSpec,
    StreamedBody,
)
from crypto.wire import MessageId

BodyT = TypeVar("BodyT", bound=Body)


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
            check_context(self.header, self.envelope().context)
        else:
            spec.body.from_bytes(self.body)

    def envelope(self) -> Envelope:
        """The body of a sealed type, unopened."""
        if not self.header.spec.sealed:
            raise MisuseError(f"{self.header.message_type} is not sealed")
        return Envelope.from_bytes(self.body, max_bytes=self.header.spec.max_carried_bytes)

    @property
    def context(self) -> EnvelopeContext:
        """The context of a sealed type's envelope, as the envelope says it."""
        if not self.header.spec.sealed:
            raise MisuseError(f"{self.header.message_type} is not sealed")
        return read_context(self.body[:MAX_HEAD_BYTES], len(self.body), max_bytes=self.header.spec.max_carried_bytes)

    @functools.cached_property
    def message_id(self) -> MessageId:
        """SHA-256 of the canonical bytes."""
        return MessageId(sha256(self.to_bytes()).hex())

    def to_bytes(self) -> bytes:
        """The wire form."""
        return _frame(self.header, self.body) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; nothing is verified and nothing opened.

        Raises `OversizedError` before parsing, `VersionError` for an unknown type, `ContextError` for another message's envelope, and
        whatever an open body raises (a `PeerError`), else `EncodingError`.
        """
        reader, header = read_head(data, len(data))
        body = reader.fixed(reader.integer(4, low=1, high=header.spec.max_carried_bytes))
        signature = reader.fixed(SIGNATURE_BYTES)
        reader.finish()
        return cls(header, body, signature)

    def check_signature(self, sender_public: VerifyingKey) -> None:
        """Raise `SenderSignatureError` unless `sender_public`, the roster's key of the header's sender, signed this frame."""
        try:
            sender_public.check(self.signature, signed_string(hashlib.sha256(_frame(self.header, self.body))))
        except BadSignatureError as error:
            raise SenderSignatureError("the frame's signature is not the sender's") from error


@dataclass(frozen=True)
class MessageInPieces:
    """A message of a streamed type whose bytes are kept elsewhere; existing says nothing about its truth, only `open_message` does.

    `pieces` gives the bytes in order, in pieces of any size, as often as it is called; `context` is the envelope's own word.
    """

    header: MessageHeader
    message_id: MessageId
    total_bytes: int
    context: EnvelopeContext = field(repr=False)
    body_at: int
    pieces: Callable[[], Iterable[bytes]] = field(repr=False)

    @classmethod
    def read(cls, message_id: MessageId, total_bytes: int, pieces: Callable[[], Iterable[bytes]]) -> Self:
        """The message of that id, whose first bytes are read: a `PeerError` where `Message.from_bytes` raises one. That the bytes hash to
        the id is left to whoever kept them. `MisuseError` for a type that is not streamed."""
        first = b"".join(between(pieces(), 0, MAX_FRAME_BYTES + MAX_HEAD_BYTES))
        header = read_header(first, total_bytes)
        if not header.spec.streamed:
            raise MisuseError(f"{header.message_type} is not streamed")
        body_at = len(write_head(header, 0))
        body_bytes = total_bytes - body_at - SIGNATURE_BYTES
        head = first[body_at : body_at + min(body_bytes, MAX_HEAD_BYTES)]
        context = read_context(head, body_bytes, max_bytes=header.spec.max_carried_bytes)
        check_context(header, context)
        return cls(header, message_id, total_bytes, context, body_at, pieces)

    def check_signature(self, sender_public: VerifyingKey) -> None:
        """As `Message.check_signature`; `TruncatedError` when the pieces do not add up to the length."""
        end, at, digest, signature = self.total_bytes - SIGNATURE_BYTES, 0, hashlib.sha256(), b""
        for piece in self.pieces():
            digest.update(memoryview(piece)[: max(end - at, 0)])
            signature += piece[max(end - at, 0) :]
            at += len(piece)
        if at != self.total_bytes:
            raise TruncatedError("the message's pieces do not add up to its length")
        try:
            sender_public.check(signature, signed_string(digest))
        except BadSignatureError as error:
            raise SenderSignatureError("the frame's signature is not the sender's") from error

    def body(self) -> Iterable[bytes]:
        """The envelope, in pieces of any size."""
        return between(self.pieces(), self.body_at, self.total_bytes - SIGNATURE_BYTES)


AnyMessage = Message | MessageInPieces


def seal_message(
    header: MessageHeader,
    body: Body,
    *,
    recipient_public: SealingPublicKey,
    recipient_key_id: KeyId,
    epoch: Epoch,
    sender_signing_key: SigningKey,
) -> Message:
    """A message of a sealed type, whole; `MisuseError` for an open type or a body of another class than the table's.

    Sealing again gives another message: store the first and send that again. What the caller answers for stands at `envelope.seal`.
    """
    if header.spec.streamed:
        return Message.from_bytes(b"".join(seal_in_pieces(header, body, recipient_public, recipient_key_id, epoch, sender_signing_key)))
    _check_class(header, type(body), sealed=True)
    envelope = seal(body.to_bytes(), header.context(recipient_key_id, epoch), recipient_public, sender_signing_key)
    return _signed(header, envelope.to_bytes(), sender_signing_key)


def seal_in_pieces(
    header: MessageHeader,
    body: Body,
    recipient_public: SealingPublicKey,
    recipient_key_id: KeyId,
    epoch: Epoch,
    sender_signing_key: SigningKey,
) -> Iterator[bytes]:
    """The bytes of a message of a streamed type, in pieces of any size: `seal_message` without the whole in memory."""
    _check_class(header, type(body), sealed=True)
    if not header.spec.streamed:
        raise MisuseError(f"{header.message_type} is not streamed")
    writer, context = cast(StreamedBody, body).writer(), header.context(recipient_key_id, epoch)
    head = write_head(header, length_in_segments(writer.length, context))
    digest = hashlib.sha256(head)
    yield head
    for piece in seal_in_segments(writer.chunks(), writer.length, context, recipient_public, sender_signing_key):
        digest.update(piece)
        yield piece
    yield sender_signing_key.sign(signed_string(digest))


def sign_message(header: MessageHeader, body: Body, *, sender_signing_key: SigningKey) -> Message:
    """A message of an open type; `MisuseError` for a sealed type or a body of another class than the table's."""
    _check_class(header, type(body), sealed=False)
    return _signed(header, body.to_bytes(), sender_signing_key)


def open_message(
    message: AnyMessage,
    body: type[BodyT],
    *,
    expected: EnvelopeContext,
    recipient_private: SealingPrivateKey,
    sender_public: VerifyingKey,
) -> BodyT:
    """The body of a sealed message, after these checks in this order:

    1. the frame's signature is `sender_public`'s, the roster's key of the sender (`SenderSignatureError`);
    2. the envelope is what `expected` says, which the caller builds from its own records, is sealed as its type is sealed, and opens
       (`EnvelopeError`);
    3. the plaintext is a body of the class that the table names for the type (`PeerError`; `MisuseError` if the caller asked for another).

    A frame and its envelope agree by construction, so `expected` holds for the frame as well.
    """
    _check_class(message.header, body, sealed=True)
    # 1
    message.check_signature(sender_public)
    # 2
    spec = message.header.spec
    if spec.streamed:
        envelope, envelope_bytes = _envelope_of(message)
        plaintext_bytes, chunks = open_in_segments(envelope, envelope_bytes, expected, recipient_private, sender_public)
        # 3
        _check_length(spec, plaintext_bytes)
        return cast(BodyT, cast(type[StreamedBody], body).from_chunks(chunks, plaintext_bytes))
    plaintext = open_envelope(whole(message).envelope(), expected, recipient_private, sender_public)
    # 3
    _check_length(spec, len(plaintext))
    return body.from_bytes(plaintext)


def read_message(message: AnyMessage, body: type[BodyT], *, recipient: AgencyId, sender_public: VerifyingKey) -> BodyT:
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
    return body.from_bytes(whole(message).body)


def whole(message: AnyMessage) -> Message:
    """The message of a type that is not streamed, which is never in pieces; `MisuseError` for one that is."""
    if isinstance(message, Message):
        return message
    raise MisuseError(f"a {message.header.message_type} is opened in pieces")


def _envelope_of(message: AnyMessage) -> tuple[Callable[[], Iterable[bytes]], int]:
    """The envelope of a streamed type as it is read in pieces, and its length."""
    if isinstance(message, Message):
        body = message.body
        return lambda: (body,), len(body)
    return message.body, message.total_bytes - message.body_at - SIGNATURE_BYTES


def _check_length(spec: MessageSpec, plaintext_bytes: int) -> None:
    if plaintext_bytes > spec.max_body_bytes:
        raise OversizedError(f"body of {spec.message_type} is longer than the type allows")


def _check_class(header: MessageHeader, body: type[Body], *, sealed: bool) -> None:
    if header.spec.sealed is not sealed:
        raise MisuseError(f"{header.message_type} is {'an open' if sealed else 'a sealed'} type")
    if body is not header.spec.body:
        raise MisuseError(f"a {header.message_type} carries a {header.spec.body.__name__} and nothing else")


def _signed(header: MessageHeader, body: bytes, key: SigningKey) -> Message:
    return Message(header, body, key.sign(signed_string(hashlib.sha256(_frame(header, body)))))


def _frame(header: MessageHeader, body: bytes) -> bytes:
    """Everything but the signature."""
    return write_head(header, len(body)) + body
