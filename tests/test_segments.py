"""Sealed in segments: the same bytes back at every length, and everything that was cut, moved, repeated, exchanged or forged is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from crypto.answer import Answer, OrderSeed
from crypto.binary import sha256
from crypto.bodies import AnswerBody
from crypto.canonical import AgencyId
from crypto.disclosure import DisclosureRequest
from crypto.envelope import (
    IN_SEGMENTS,
    Envelope,
    EnvelopeContext,
    length_in_segments,
    open_envelope,
    open_in_segments,
    seal,
    seal_in_segments,
)
from crypto.errors import (
    ContextError,
    EncodingError,
    MisuseError,
    OpeningError,
    PeerError,
    SenderSignatureError,
    SuiteError,
    TruncatedError,
)
from crypto.frame import write_head
from crypto.keys import SealingPrivateKey
from crypto.message_types import MESSAGES, Body, MessageType
from crypto.messages import Message, MessageInPieces, open_message, seal_in_pieces
from crypto.prepared import A_BITS, B_BITS
from crypto.ring import N
from crypto.seed import Seed
from crypto.segments import SEGMENT_BYTES, fresh_key, open_segments, plaintext_length, seal_segments, sealed_length
from crypto.wire import MessageId
from tests.message_samples import (
    BODIES,
    EPOCH,
    KEY_ID,
    OTHER_KEY,
    RECIPIENT_KEY,
    SENDER_KEY,
    envelope_around,
    expected_context,
    header_of,
    message_around,
    message_of,
    statement,
)

KEY = bytes(range(32))
LENGTHS = (0, 1, 16, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, 3 * SEGMENT_BYTES + 17)
SEALED = SEGMENT_BYTES + 16
STREAMED = [kind for kind in MESSAGES if MESSAGES[kind].streamed]
CONTEXT = expected_context(MessageType.ANSWER)


@cache
def plaintext(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def opened(sealed: bytes, key: bytes = KEY, size: int = 1 << 17, said: int | None = None) -> bytes:
    return b"".join(open_segments(key, cut(sealed, size), len(sealed) if said is None else said))


# --- the stream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("size", [4099, SEGMENT_BYTES, 1 << 20])
def test_the_same_bytes_come_back(length: int, size: int) -> None:
    data = plaintext(length)
    sealed = b"".join(seal_segments(KEY, cut(data, size)))
    assert len(sealed) == sealed_length(length)
    assert plaintext_length(len(sealed)) == length
    assert opened(sealed, size=size + 1) == data


def test_the_form_is_stream_with_the_nonces_as_documented() -> None:
    data = plaintext(2 * SEGMENT_BYTES + 5)
    cipher = AESGCM(KEY)
    expected = [
        cipher.encrypt(bytes(7) + number.to_bytes(4, "big") + last, data[at : at + SEGMENT_BYTES], None)
        for number, at, last in ((0, 0, b"\0"), (1, SEGMENT_BYTES, b"\0"), (2, 2 * SEGMENT_BYTES, b"\1"))
    ]
    assert list(seal_segments(KEY, (data,))) == expected


def test_keys_are_fresh() -> None:
    assert len({fresh_key() for _ in range(50)}) == 50


@given(st.integers(0, 4 * SEALED))
def test_a_length_is_one_stream_s_or_none_s(sealed_bytes: int) -> None:
    try:
        length = plaintext_length(sealed_bytes)
    except OpeningError:
        assert sealed_bytes < 16 or 0 < sealed_bytes % SEALED <= 16
    else:
        assert sealed_length(length) == sealed_bytes


def segments_of(sealed: bytes) -> list[bytes]:
    return list(cut(sealed, SEALED))


def as_last(key: bytes, number: int, data: bytes, last: bytes = b"\1") -> bytes:
    return AESGCM(key).encrypt(bytes(7) + number.to_bytes(4, "big") + last, data, None)


FULL = b"".join(seal_segments(KEY, (plaintext(4 * SEGMENT_BYTES),)))
OTHER = b"".join(seal_segments(bytes(32), (plaintext(4 * SEGMENT_BYTES),)))
SPOILED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "its last segment dropped": lambda s: s[:-1],
    "a middle one dropped": lambda s: [s[0], *s[2:]],
    "the first dropped": lambda s: s[1:],
    "two exchanged": lambda s: [s[0], s[2], s[1], s[3]],
    "one repeated": lambda s: [s[0], s[1], s[1], s[3]],
    "one more at the end": lambda s: [*s, s[3]],
    "one of another stream": lambda s: [s[0], segments_of(OTHER)[1], *s[2:]],
    "the other's end": lambda s: [*s[:3], segments_of(OTHER)[3]],
    "an empty last one": lambda s: [*s, as_last(KEY, 4, b"")],
    "a byte after it": lambda s: [*s, b"\0"],
    "a byte missing": lambda s: [*s[:3], s[3][:-1]],
    "nothing": lambda _s: [],
    "a segment without its end": lambda s: [s[0], s[1][:100]],
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_stream_does_not_open(how: str) -> None:
    spoiled = b"".join(SPOILED[how](segments_of(FULL)))
    with pytest.raises(OpeningError):
        opened(spoiled)
    with pytest.raises(OpeningError):  # and under the length that was said before
        opened(spoiled, said=len(FULL))


def test_a_last_mark_is_not_forged() -> None:
    """Even who holds the key makes no stream that ends twice or not at all."""
    first, *_ = segments_of(FULL)
    data = plaintext(SEGMENT_BYTES)
    for forged in (
        first,
        first + as_last(KEY, 1, data, last=b"\0"),
        as_last(KEY, 0, data) + as_last(KEY, 1, data),
        as_last(KEY, 0, data, last=b"\2"),
    ):
        with pytest.raises(OpeningError):
            opened(forged)


@given(st.integers(0, len(FULL) - 1), st.integers(0, 7))
def test_a_flipped_bit_does_not_open(at: int, bit: int) -> None:
    changed = bytearray(FULL)
    changed[at] ^= 1 << bit
    with pytest.raises(OpeningError):
        opened(bytes(changed))


# --- the envelope -----------------------------------------------------------------------------------------------------


def enveloped(data: bytes, context: EnvelopeContext = CONTEXT) -> bytes:
    return b"".join(seal_in_segments(cut(data, 10_000), len(data), context, RECIPIENT_KEY.public_key, SENDER_KEY))


def unsealed(envelope: bytes, context: EnvelopeContext = CONTEXT, private: SealingPrivateKey = RECIPIENT_KEY) -> bytes:
    length, chunks = open_in_segments(lambda: cut(envelope, 5000), len(envelope), context, private, SENDER_KEY.verifying_key)
    data = b"".join(chunks)
    assert len(data) == length
    return data


def signed_anew(envelope: bytes, sealed: bytes, context: EnvelopeContext = CONTEXT) -> bytes:
    parsed = Envelope.from_bytes(envelope)
    signature = SENDER_KEY.sign(context.to_bytes() + b"|" + sha256(sealed).hex().encode("ascii"))
    return Envelope(parsed.suite, context, sealed, signature).to_bytes()


@pytest.mark.parametrize("length", LENGTHS)
def test_an_envelope_in_segments_opens(length: int) -> None:
    envelope = enveloped(plaintext(length))
    assert len(envelope) == length_in_segments(length, CONTEXT)
    assert Envelope.from_bytes(envelope).suite == IN_SEGMENTS
    assert unsealed(envelope) == plaintext(length)


def test_what_is_sealed_twice_has_nothing_in_common() -> None:
    one, other = (Envelope.from_bytes(enveloped(plaintext(SEGMENT_BYTES + 1))).sealed for _ in range(2))
    assert not set(cut(one, 113)) & set(cut(other, 113))


def test_segments_do_not_move_between_messages_contexts_or_keys() -> None:
    data = plaintext(2 * SEGMENT_BYTES)
    elsewhere = expected_context(MessageType.PROBE)
    ours, again, theirs = enveloped(data), enveloped(data), enveloped(data, elsewhere)
    mine, second, other = (Envelope.from_bytes(one).sealed for one in (ours, again, theirs))
    assert unsealed(signed_anew(ours, mine)) == data
    for mixed in (
        mine[:113] + second[113:],
        mine[: 113 + SEALED] + second[113 + SEALED :],
        other,
        mine[:113],
        mine[:112],
        mine[:-SEALED],
        mine + b"\0",
    ):
        with pytest.raises(OpeningError):
            unsealed(signed_anew(ours, mixed))
    with pytest.raises(ContextError):
        unsealed(theirs)
    with pytest.raises(OpeningError):
        unsealed(ours, private=SealingPrivateKey.generate())
    with pytest.raises(SenderSignatureError):
        open_in_segments(lambda: (ours,), len(ours), CONTEXT, RECIPIENT_KEY, OTHER_KEY.verifying_key)


def test_every_changed_byte_and_every_cut_of_an_envelope_is_refused() -> None:
    envelope = enveloped(plaintext(300))
    for at in range(len(envelope)):
        changed = bytearray(envelope)
        changed[at] ^= 0x10
        for spoiled in (bytes(changed), envelope[:at]):
            with pytest.raises(PeerError):
                unsealed(spoiled)
    with pytest.raises(EncodingError):
        unsealed(envelope + b"\0")


def test_one_type_has_one_encoding() -> None:
    """A type that is streamed is not opened when it was sealed at once, and the other way round."""
    with pytest.raises(SuiteError):
        unsealed(seal(plaintext(16), CONTEXT, RECIPIENT_KEY.public_key, SENDER_KEY).to_bytes())
    with pytest.raises(SuiteError):
        open_envelope(Envelope.from_bytes(enveloped(plaintext(16))), CONTEXT, RECIPIENT_KEY, SENDER_KEY.verifying_key)
    for kind in (MessageType.ANSWER, MessageType.DISCLOSURE_REQUEST):
        header = header_of(kind)
        body = DisclosureRequest(None).to_bytes()
        context = header.context(KEY_ID, EPOCH)
        at_once = seal(body, context, RECIPIENT_KEY.public_key, SENDER_KEY).to_bytes()
        streamed = b"".join(seal_in_segments((body,), len(body), context, RECIPIENT_KEY.public_key, SENDER_KEY))
        wrong = at_once if header.spec.streamed else streamed
        with pytest.raises(SuiteError):
            take(message_around(wrong, header))


def test_bytes_that_change_between_signature_and_opening_are_refused() -> None:
    """Anybody can seal to the recipient's key: what was signed is what must be opened."""
    ours, forged = enveloped(plaintext(500)), enveloped(plaintext(501)[:500])
    shown = [ours, ours, forged, forged]
    _, chunks = open_in_segments(lambda: (shown.pop(0),), len(ours), CONTEXT, RECIPIENT_KEY, SENDER_KEY.verifying_key)
    with pytest.raises(OpeningError, match="changed"):
        b"".join(chunks)
    assert shown == []


def test_another_length_than_was_said_is_a_mistake_of_ours() -> None:
    for data in (plaintext(9), plaintext(11)):
        with pytest.raises(MisuseError):
            list(seal_in_segments((data,), 10, CONTEXT, RECIPIENT_KEY.public_key, SENDER_KEY))


# --- messages ---------------------------------------------------------------------------------------------------------


def in_pieces(message: Message, size: int = 70_000) -> MessageInPieces:
    data = message.to_bytes()
    return MessageInPieces.read(message.message_id, len(data), lambda: cut(data, size))


def take(message: Message | MessageInPieces) -> Body:
    kind = message.header.message_type
    return open_message(
        message,
        MESSAGES[kind].body,
        expected=expected_context(kind),
        recipient_private=RECIPIENT_KEY,
        sender_public=SENDER_KEY.verifying_key,
    )


def test_what_is_long_is_streamed() -> None:
    assert STREAMED == [MessageType.PROBE, MessageType.ANSWER, MessageType.OPENED_SCORES]


@pytest.mark.parametrize("kind", STREAMED)
@given(data=st.data())
def test_in_pieces_as_whole(kind: MessageType, data: st.DataObject) -> None:
    body = data.draw(BODIES[kind])
    message = message_of(kind, body)
    pieces = in_pieces(message, data.draw(st.sampled_from((4096, 70_001, 1 << 22))))
    assert (pieces.header, pieces.context) == (message.header, message.context)
    assert take(pieces).to_bytes() == take(message).to_bytes() == body.to_bytes()


@pytest.mark.parametrize("kind", STREAMED)
@given(data=st.data(), seed=st.integers(0, 1 << 30))
def test_a_spoiled_message_is_refused_in_pieces_as_it_is_whole(kind: MessageType, data: st.DataObject, seed: int) -> None:
    chance = random.Random(seed)
    wire = message_of(kind, data.draw(BODIES[kind])).to_bytes()
    at = chance.randrange(chance.choice((700, len(wire))))
    spoiled = chance.choice((wire[:at], wire[:at] + bytes([wire[at] ^ 0x40]) + wire[at + 1 :], wire + b"\0", wire[:at] + wire[at + 1 :]))

    def whole() -> Body:
        return take(Message.from_bytes(spoiled))

    def pieces() -> Body:
        return take(MessageInPieces.read(MessageId(sha256(spoiled).hex()), len(spoiled), lambda: cut(spoiled, 70_000)))

    assert is_refused(whole)
    assert is_refused(pieces)


def is_refused(attempt: Callable[[], Body]) -> bool:
    try:
        attempt()
    except PeerError:
        return True
    return False


@pytest.mark.parametrize("kind", STREAMED)
def test_a_plaintext_that_is_no_body_is_refused(kind: MessageType) -> None:
    header = header_of(kind)
    for inside in (b"", b"\0" * 40, random.Random(1).randbytes(300_000)):
        with pytest.raises(EncodingError):
            take(in_pieces(message_around(envelope_around(inside, header), header)))


@pytest.mark.parametrize("kind", STREAMED)
@given(data=st.data())
def test_a_body_with_something_missing_or_something_more_is_refused(kind: MessageType, data: st.DataObject) -> None:
    header, body = header_of(kind), data.draw(BODIES[kind]).to_bytes()
    for inside in (body[:-1], body + b"\0", body[: len(body) // 2]):
        with pytest.raises(PeerError):
            take(in_pieces(message_around(envelope_around(inside, header), header)))


def test_pieces_that_do_not_add_up_are_refused(answer_message: Message) -> None:
    wire = answer_message.to_bytes()
    for held in (wire[:-65], wire + b"\0"):
        kept = MessageInPieces.read(answer_message.message_id, len(wire), lambda held=held: cut(held, 4096))  # type: ignore[misc]
        with pytest.raises(TruncatedError):
            kept.check_signature(SENDER_KEY.verifying_key)


def test_another_signer_or_sender_is_refused(answer_message: Message) -> None:
    pieces = in_pieces(answer_message)
    pieces.check_signature(SENDER_KEY.verifying_key)
    with pytest.raises(SenderSignatureError):
        pieces.check_signature(OTHER_KEY.verifying_key)
    stolen = message_around(answer_message.body, header_of(MessageType.ANSWER, sequence=2))
    assert take(in_pieces(stolen)).to_bytes() == take(answer_message).to_bytes()  # the same search: an envelope is signed for it
    elsewhere = replace(answer_message.header, recipient=AgencyId("somebody-else"))
    with pytest.raises(ContextError):
        Message(elsewhere, answer_message.body, answer_message.signature)
    wire = write_head(elsewhere, len(answer_message.body)) + answer_message.body + answer_message.signature
    with pytest.raises(ContextError):
        MessageInPieces.read(answer_message.message_id, len(wire), lambda: (wire,))


def test_only_a_streamed_type_is_in_pieces() -> None:
    small = message_of(MessageType.DISCLOSURE_REQUEST, DisclosureRequest(None))
    with pytest.raises(MisuseError):
        in_pieces(small)
    with pytest.raises(MisuseError):
        list(seal_in_pieces(small.header, DisclosureRequest(None), RECIPIENT_KEY.public_key, KEY_ID, EPOCH, SENDER_KEY))


@pytest.fixture(scope="module")
def answer_message() -> Message:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, 1 << bits, 2 * N, dtype=np.uint16) for bits in (A_BITS, B_BITS))
    answer = Answer(EPOCH, sha256(b"model"), sha256(b"probe"), 8, a, b)
    return message_of(MessageType.ANSWER, AnswerBody(statement(answer.digest), OrderSeed(answer.digest, Seed.fresh()), answer))
