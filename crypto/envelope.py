"""Sealed envelopes: one body from one party to another, readable by the recipient alone and signed by the sender outside (PROTOCOL 4).

HPKE base mode (RFC 9180) hides the body and binds it to its context, but anybody can seal to a public key; so the sender's Ed25519
signature stands outside and covers context and sealed bytes. Both bind the same *context string* of eight fields joined by `|`:

    sealmatch-1|type|search id|grant digest|sender|recipient|recipient key id|epoch

It is the HPKE `info` as it stands; the signed string is that and `|` and the hex SHA-256 of `enc || ciphertext`. The joining is
unambiguous: every field is a type whose alphabet excludes `|` and the empty string, the number of fields is fixed, and the parser accepts
nothing that does not come out of the same eight fields again. No other string of the protocol that an Ed25519 key signs begins with
`sealmatch-1|`: a JWS signing input holds base64url and one dot, signed documents and checkpoints have a line feed before any bar.

A long body is sealed in segments: HPKE seals a fresh content key, exactly as it seals a short body, and the body follows under that key
(`segments`). A suite of its own says so; which types of message are sealed how is a column of `message_types`, and each is opened in its
own way only.

Invariants: what opens was sealed for exactly this context and signed by exactly the sender that the caller names; nothing is opened
before the signature holds; the suite is bound by HPKE itself (its identifiers enter the key schedule), so a relabelled body never opens;
that a body is in segments is bound by its type, which the context names.

Left to others: which key belongs to which party (`roster`), whether the search may go on (`grant`, `witness`), what the body says
(`messages`), refusing a repeated message. **Length is not hidden**: a sealed body is 81 bytes longer than its plaintext, one in segments
113 and 16 for each segment, so a body whose length would reveal something is padded by the caller before it comes here.

Who sees an envelope: the broker and both parties. The context reveals who writes to whom about which search, and the month.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Final, Self

from cryptography.hazmat.primitives import hpke

from crypto.binary import Kind, Reader, Writer, between
from crypto.canonical import AgencyId, KeyId, Name, SearchId
from crypto.epoch import Epoch
from crypto.errors import (
    BadSignatureError,
    ContextError,
    FieldError,
    MisuseError,
    OpeningError,
    OversizedError,
    SenderSignatureError,
    SuiteError,
    TruncatedError,
    VersionError,
)
from crypto.keys import SEALING_PUBLIC_BYTES, SIGNATURE_BYTES, SealingPrivateKey, SealingPublicKey, SigningKey, VerifyingKey
from crypto.segments import KEY_BYTES, TAG_BYTES, fresh_key, open_segments, plaintext_length, seal_segments, sealed_length

PROTOCOL_LABEL: Final = "sealmatch-1"

MAX_ENVELOPE_BYTES: Final = 64 << 20
"""Bytes; the largest body is an answer at 27 bits a record, so this is room for 19 million records in one envelope."""
MAX_CONTEXT_BYTES: Final = 345
"""Bytes of the longest context string that the field types allow."""
MAX_PLAINTEXT_BYTES: Final = MAX_ENVELOPE_BYTES - MAX_CONTEXT_BYTES - 4096
"""Bytes; what is left is more than any likely suite adds."""
GRANT_DIGEST_BYTES: Final = 32

_SUITE_BYTES: Final = 6
MAX_HEAD_BYTES: Final = 5 + _SUITE_BYTES + 2 + MAX_CONTEXT_BYTES + 4
"""Bytes before the sealed ones, at most."""
_SEALED_KEY_BYTES: Final = SEALING_PUBLIC_BYTES + KEY_BYTES + TAG_BYTES
_MAX_FRAME_BYTES: Final = MAX_HEAD_BYTES + SIGNATURE_BYTES
"""Bytes that stand around the sealed ones, at most."""


class MessageType(Name):
    """The kind of a message, e.g. `probe`, `answer`, `mask-seed`; which kinds exist is left to `messages`."""

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class SealSuite:
    """An HPKE suite by its registered identifiers (RFC 9180 section 7); on the wire three big-endian uint16."""

    kem_id: int
    kdf_id: int
    aead_id: int

    def __post_init__(self) -> None:
        if not all(0 <= number < 1 << 16 for number in (self.kem_id, self.kdf_id, self.aead_id)):
            raise MisuseError("an HPKE identifier is a uint16")

    def to_bytes(self) -> bytes:
        """The six bytes of the suite."""
        return struct.pack(">HHH", self.kem_id, self.kdf_id, self.aead_id)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; any six bytes name a suite, offered or not."""
        if len(data) != _SUITE_BYTES:
            raise TruncatedError(f"a suite has {_SUITE_BYTES} bytes")
        return cls(*struct.unpack(">HHH", data))


P256_SHA256_AES256GCM: Final = SealSuite(kem_id=0x0010, kdf_id=0x0001, aead_id=0x0002)
"""DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: about 128 bits classically, none against a quantum computer."""

OFFERED_SUITES: Final[Mapping[SealSuite, hpke.Suite]] = MappingProxyType(
    {P256_SHA256_AES256GCM: hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)}
)
"""The suites that this code seals and opens. A hybrid post-quantum suite is one more line here and a key class in `keys`."""

IN_SEGMENTS: Final = SealSuite(kem_id=0x0010, kdf_id=0x0001, aead_id=0xFF02)
"""A content key sealed with `P256_SHA256_AES256GCM`, and the body in segments under it. The last number is ours: no registered one."""


@dataclass(frozen=True, slots=True)
class EnvelopeContext:
    """What a body is, for which search, from whom to whom: bound by the seal and by the signature alike.

    `grant_digest` is SHA-256 of the grant's payload, 32 bytes. Sender and recipient may be one agency: it searches its own gallery by the
    sealed path too. `recipient_key_id` names the key that the body is sealed to, so that a recipient with last week's and this week's key
    picks the right one and no body can be moved between them.
    """

    message_type: MessageType
    search_id: SearchId
    grant_digest: bytes = field(repr=False)
    sender: AgencyId
    recipient: AgencyId
    recipient_key_id: KeyId
    epoch: Epoch

    def __post_init__(self) -> None:
        # A plain `str` would compare equal and could hold a `|`; only the checked types keep the joined string unambiguous.
        names = (
            (self.message_type, MessageType),
            (self.search_id, SearchId),
            (self.sender, AgencyId),
            (self.recipient, AgencyId),
            (self.recipient_key_id, KeyId),
            (self.epoch, Epoch),
        )
        if not all(isinstance(value, kind) for value, kind in names):
            raise MisuseError("context fields are the checked identifier types, not plain strings")
        if len(self.grant_digest) != GRANT_DIGEST_BYTES:
            raise FieldError(f"a grant digest has {GRANT_DIGEST_BYTES} bytes")

    def to_bytes(self) -> bytes:
        """The context string, ASCII: the HPKE `info`."""
        fields = (
            PROTOCOL_LABEL,
            self.message_type,
            self.search_id,
            self.grant_digest.hex(),
            self.sender,
            self.recipient,
            self.recipient_key_id,
            self.epoch.month,
        )
        return "|".join(fields).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `OversizedError`, `VersionError` for another protocol label, `FieldError` for anything else."""
        if len(data) > MAX_CONTEXT_BYTES:
            raise OversizedError(f"context string has {len(data)} bytes, at most {MAX_CONTEXT_BYTES} are read")
        try:
            label, *fields = data.decode("ascii").split("|")
        except UnicodeDecodeError as error:
            raise FieldError("context string is not ASCII") from error
        if label != PROTOCOL_LABEL:
            raise VersionError(f"context string is not of {PROTOCOL_LABEL}")
        if len(fields) != 7:
            raise FieldError("context string has eight fields")
        message_type, search_id, grant_digest, sender, recipient, key_id, month = fields
        if not re.fullmatch(r"[0-9a-f]{64}", grant_digest):
            raise FieldError("grant digest is 64 lower-case hex digits")
        return cls(
            message_type=MessageType(message_type),
            search_id=SearchId(search_id),
            grant_digest=bytes.fromhex(grant_digest),
            sender=AgencyId(sender),
            recipient=AgencyId(recipient),
            recipient_key_id=KeyId(key_id),
            epoch=Epoch(month),
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A sealed and signed body as it travels; existing says nothing about its truth, only `open_envelope` does.

    Wire form: the prefix of `binary` (letters, kind, format version, parameter set), then big-endian: suite 3 x u16, length u16 and context
    string, length u32 and sealed bytes, signature 64 bytes. A suite that is not offered here still parses, so a mailbox can carry it.
    """

    suite: SealSuite
    context: EnvelopeContext
    sealed: bytes = field(repr=False)
    """`enc || ciphertext`."""
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_sealed_length(len(self.sealed))
        if len(self.signature) != SIGNATURE_BYTES:
            raise FieldError(f"an envelope's signature has {SIGNATURE_BYTES} bytes")

    def to_bytes(self) -> bytes:
        """The wire form."""
        return b"".join((_head(self.suite, self.context, len(self.sealed)), self.sealed, self.signature))

    @classmethod
    def from_bytes(cls, data: bytes, *, max_bytes: int = MAX_ENVELOPE_BYTES) -> Self:
        """Inverse of `to_bytes`. Give the message type's own `max_bytes` where it is known to be smaller.

        Raises `OversizedError` before anything is parsed, `TruncatedError`, `VersionError` for another kind, format version, parameter
        set or protocol label, `NotCanonicalError` for trailing bytes, `FieldError` for a field out of its form. Nothing is verified.
        """
        reader, suite, context, sealed_bytes = _read_head(data, len(data), max_bytes)
        sealed = reader.fixed(sealed_bytes)
        signature = reader.fixed(SIGNATURE_BYTES)
        reader.finish()
        return cls(suite, context, sealed, signature)


def read_context(first_bytes: bytes, total_bytes: int, *, max_bytes: int) -> EnvelopeContext:
    """The context of an envelope of `total_bytes`, of which only the first `MAX_HEAD_BYTES` need be here.

    All checks of `Envelope.from_bytes`, in the same order and with the same errors: of sealed bytes and signature the form says only how
    long they are.
    """
    reader, _, context, sealed_bytes = _read_head(first_bytes, total_bytes, max_bytes)
    reader.skip(sealed_bytes)
    reader.skip(SIGNATURE_BYTES)
    reader.finish()
    _check_sealed_length(sealed_bytes)
    return context


def seal(plaintext: bytes, context: EnvelopeContext, recipient_public: SealingPublicKey, sender_signing_key: SigningKey) -> Envelope:
    """Seals `plaintext` to `recipient_public` and signs the result as `context.sender`.

    The caller answers for three things that cannot be seen from here: `recipient_public` is the roster's key `context.recipient_key_id`
    of `context.recipient`; the signing key is the sender's; the plaintext's length may be seen by everybody (pad it otherwise).
    Sealing the same plaintext twice gives unlike envelopes: store the first and send that again. Raises `MisuseError` for a plaintext
    that no envelope carries and `KeyDestroyedError`.
    """
    suite = P256_SHA256_AES256GCM
    if len(plaintext) > MAX_PLAINTEXT_BYTES:
        raise MisuseError("plaintext is longer than an envelope carries")
    sealed = recipient_public.seal(OFFERED_SUITES[suite], plaintext, context.to_bytes())
    return Envelope(suite, context, sealed, sender_signing_key.sign(_signed_string(context, sealed)))


def open_envelope(
    envelope: Envelope,
    expected_context: EnvelopeContext,
    recipient_private: SealingPrivateKey,
    sender_public: VerifyingKey,
    *,
    offered_suites: Mapping[SealSuite, hpke.Suite] = OFFERED_SUITES,
) -> bytes:
    """The plaintext, after these checks in this order:

    1. the envelope's context equals `expected_context`, which the caller builds from its own records and never from the envelope
       (`ContextError`);
    2. its suite is offered (`SuiteError`);
    3. the signature over context and sealed bytes is `sender_public`'s, the roster's key of the sender (`SenderSignatureError`);
    4. the seal opens under the recipient's key and the same context (`OpeningError`, one error for every cause).

    Raises `KeyDestroyedError` at 4 when the search was closed and its key destroyed. A repeated envelope opens again: refusing replays is
    left to the caller's store.
    """
    # 1
    if envelope.context != expected_context:
        raise ContextError("envelope was made for another message, search, grant, party, key or epoch")
    # 2
    suite = offered_suites.get(envelope.suite)
    if suite is None:
        raise SuiteError("envelope is sealed with a suite that is not offered")
    # 3
    try:
        sender_public.check(envelope.signature, _signed_string(expected_context, envelope.sealed))
    except BadSignatureError as error:
        raise SenderSignatureError("signature outside the seal is not the sender's") from error
    # 4
    return recipient_private.open(suite, envelope.sealed, expected_context.to_bytes())


def length_in_segments(plaintext_bytes: int, context: EnvelopeContext) -> int:
    """Bytes of the envelope that `seal_in_segments` makes."""
    return len(_head(IN_SEGMENTS, context, 0)) + _SEALED_KEY_BYTES + sealed_length(plaintext_bytes) + SIGNATURE_BYTES


def seal_in_segments(
    chunks: Iterable[bytes],
    plaintext_bytes: int,
    context: EnvelopeContext,
    recipient_public: SealingPublicKey,
    sender_signing_key: SigningKey,
) -> Iterator[bytes]:
    """The bytes of an envelope around a plaintext of that length, which comes in chunks of any size: `seal` for long bodies.

    Sealed are `enc`, the ciphertext of a fresh content key, and the segments; the signature covers them as it covers any sealed bytes.
    Raises `MisuseError` for another length of plaintext than was said, or one that no envelope carries, and `KeyDestroyedError`.
    """
    if plaintext_bytes > MAX_PLAINTEXT_BYTES:
        raise MisuseError("plaintext is longer than an envelope carries")
    yield _head(IN_SEGMENTS, context, _SEALED_KEY_BYTES + sealed_length(plaintext_bytes))
    key = fresh_key()
    sealed_key = recipient_public.seal(OFFERED_SUITES[P256_SHA256_AES256GCM], key, context.to_bytes())
    yield sealed_key
    digest, count = hashlib.sha256(sealed_key), 0
    for segment in seal_segments(key, chunks):
        digest.update(segment)
        count += len(segment)
        yield segment
    if count != sealed_length(plaintext_bytes):
        raise MisuseError("plaintext has another length than was said")
    yield sender_signing_key.sign(_string_over(context, digest.digest()))


def open_in_segments(
    envelope: Callable[[], Iterable[bytes]],
    total_bytes: int,
    expected_context: EnvelopeContext,
    recipient_private: SealingPrivateKey,
    sender_public: VerifyingKey,
) -> tuple[int, Iterator[bytes]]:
    """Length and chunks of the plaintext of an envelope of `total_bytes`, which `envelope` gives in chunks of any size, twice.

    The checks of `open_envelope` in the same order, `SuiteError` for every suite but `IN_SEGMENTS`; and it is an envelope in the one form
    (`read_context`). The first time all is read for the signature, the second time for the segments: bytes that differ the second time are
    an `OpeningError`. The plaintext is whole when the iterator has ended, and not before.
    """
    first = b"".join(between(envelope(), 0, min(total_bytes, MAX_HEAD_BYTES)))
    reader, suite, context, sealed_bytes = _read_head(first, total_bytes, MAX_ENVELOPE_BYTES)
    start = reader.at
    end = start + sealed_bytes
    read_context(first, total_bytes, max_bytes=MAX_ENVELOPE_BYTES)
    # 1
    if context != expected_context:
        raise ContextError("envelope was made for another message, search, grant, party, key or epoch")
    # 2
    if suite != IN_SEGMENTS:
        raise SuiteError("envelope is not sealed in segments, and its type is")
    # 3
    hashed, signature, at = hashlib.sha256(), b"", start
    for part in between(envelope(), start, total_bytes):
        hashed.update(memoryview(part)[: max(end - at, 0)])
        signature += part[max(end - at, 0) :]
        at += len(part)
    digest = hashed.digest()
    try:
        sender_public.check(signature, _string_over(expected_context, digest))
    except BadSignatureError as error:
        raise SenderSignatureError("signature outside the seal is not the sender's") from error
    # 4
    if sealed_bytes < _SEALED_KEY_BYTES:
        raise OpeningError("sealed bytes are shorter than a sealed key")
    plaintext_bytes = plaintext_length(sealed_bytes - _SEALED_KEY_BYTES)
    sealed_key = b"".join(between(envelope(), start, start + _SEALED_KEY_BYTES))
    key = recipient_private.open(OFFERED_SUITES[P256_SHA256_AES256GCM], sealed_key, expected_context.to_bytes())

    def opened() -> Iterator[bytes]:
        again = hashlib.sha256(sealed_key)

        def sealed() -> Iterator[bytes]:
            for part in between(envelope(), start + _SEALED_KEY_BYTES, end):
                again.update(part)
                yield part

        yield from open_segments(key, sealed(), sealed_bytes - _SEALED_KEY_BYTES)
        if again.digest() != digest:
            raise OpeningError("sealed bytes changed while they were opened")

    return plaintext_bytes, opened()


def _head(suite: SealSuite, context: EnvelopeContext, sealed_bytes: int) -> bytes:
    """All before the sealed bytes."""
    text = context.to_bytes()
    writer = Writer(Kind.ENVELOPE).fixed(suite.to_bytes(), _SUITE_BYTES)
    return writer.integer(len(text), 2).fixed(text, len(text)).integer(sealed_bytes, 4).finish()


def _read_head(data: bytes, total_bytes: int, max_bytes: int) -> tuple[Reader, SealSuite, EnvelopeContext, int]:
    """All before the sealed bytes, whose length comes last; the reader stands before them."""
    reader = Reader(data, Kind.ENVELOPE, max_bytes=min(max_bytes, MAX_ENVELOPE_BYTES), total_bytes=total_bytes)
    suite = SealSuite.from_bytes(reader.fixed(_SUITE_BYTES))
    context = EnvelopeContext.from_bytes(reader.fixed(reader.integer(2, low=0, high=MAX_CONTEXT_BYTES)))
    return reader, suite, context, reader.integer(4, low=0, high=MAX_ENVELOPE_BYTES)


def _check_sealed_length(sealed_bytes: int) -> None:
    if not sealed_bytes:
        raise FieldError("an envelope seals something")
    if sealed_bytes > MAX_ENVELOPE_BYTES - _MAX_FRAME_BYTES:
        raise OversizedError(f"an envelope is carried up to {MAX_ENVELOPE_BYTES} bytes")


def _signed_string(context: EnvelopeContext, sealed: bytes) -> bytes:
    return _string_over(context, hashlib.sha256(sealed).digest())


def _string_over(context: EnvelopeContext, sealed_digest: bytes) -> bytes:
    return context.to_bytes() + b"|" + sealed_digest.hex().encode("ascii")
