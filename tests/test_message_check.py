"""A message that is checked piece by piece meets the same fate as one that is parsed whole: same error, same words, any size of piece."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crypto.binary import sha256
from crypto.disclosure import DisclosureRequest
from crypto.envelope import seal
from crypto.errors import CryptoError, MisuseError, NotCanonicalError, SenderSignatureError
from crypto.frame import MessageHeader
from crypto.message_check import MessageCheck
from crypto.message_types import MAX_MESSAGE_BYTES, MessageType
from crypto.messages import Message
from crypto.notices import Refusal, RefusalReason
from crypto.wire import MessageId
from tests.message_samples import CHECKPOINT, EPOCH, KEY_ID, OTHER_KEY, RECIPIENT_KEY, SENDER_KEY, header_of, message_of

PIECES = (1, 3, 63, 64, 65, 1000, 1 << 17)


def sealed_bytes(message_type: MessageType, length: int) -> bytes:
    """A message of that type around any plaintext of a length, signed by its sender."""
    header = header_of(message_type, checkpoint=CHECKPOINT.to_bytes())
    envelope = seal(bytes(length), header.context(KEY_ID, EPOCH), RECIPIENT_KEY.public_key, SENDER_KEY)
    return signed(Message(header, envelope.to_bytes(), bytes(64)).to_bytes()[:-64])


def signed(frame: bytes) -> bytes:
    return frame + SENDER_KEY.sign(b"sealmatch-1/message\n" + hashlib.sha256(frame).hexdigest().encode("ascii"))


@cache
def originals() -> tuple[bytes, ...]:
    return (
        sealed_bytes(MessageType.ANSWER, 300_000),  # longer than what a check keeps
        sealed_bytes(MessageType.STUBS, 5),
        message_of(MessageType.DISCLOSURE_REQUEST, DisclosureRequest(None)).to_bytes(),
        message_of(MessageType.REFUSAL, Refusal(MessageId("ab" * 32), RefusalReason.EPOCH)).to_bytes(),
        message_of(MessageType.CHECKPOINT_GOSSIP, CHECKPOINT).to_bytes(),
    )


Outcome = MessageHeader | tuple[type[CryptoError], str]


def parsed_whole(data: bytes) -> Outcome:
    try:
        message = Message.from_bytes(data)
        message.check_signature(SENDER_KEY.verifying_key)
    except CryptoError as error:
        return type(error), str(error)
    return message.header


def checked(data: bytes, piece_bytes: int) -> Outcome:
    check = MessageCheck(len(data))
    for start in range(0, len(data), piece_bytes):
        check.add(data[start : start + piece_bytes])
    try:
        return check.finish(MessageId(sha256(data).hex()), SENDER_KEY.verifying_key)
    except CryptoError as error:
        return type(error), str(error)


def spoiled(data: bytes, chance: random.Random) -> bytes:
    """Cut, extended, changed somewhere, mostly in the head where the fields are, or put together from two; signed again half the time."""
    at = chance.randrange(min(len(data), chance.choice((8, 120, 700, len(data)))))
    other = chance.choice(originals())
    data = chance.choice(
        (
            data,
            data[:at],
            data + bytes(chance.randrange(1, 70)),
            data[:at] + chance.randbytes(1) + data[at + 1 :],
            data[:at] + b"\0" * 4 + data[at + 4 :],
            data[:at] + b"\xff" * 4 + data[at + 4 :],
            data[:at] + chance.randbytes(chance.randrange(40)) + data[at:],
            data[:at] + other[at:],
            data[:-64] + other[-64:],
            chance.randbytes(chance.randrange(500)),
        )
    )
    return signed(data[:-64]) if chance.random() < 0.5 else data


@given(st.integers(0, 4), st.integers(0, 1 << 40), st.sampled_from(PIECES))
@example(0, 1, 1 << 17)
def test_in_pieces_as_whole(which: int, seed: int, piece_bytes: int) -> None:
    chance = random.Random(seed)
    data = originals()[which]
    if len(data) > 100_000:
        piece_bytes = max(piece_bytes, 1000)
    data = spoiled(data, chance)
    assert checked(data, piece_bytes) == parsed_whole(data)


@pytest.mark.parametrize("piece_bytes", PIECES[2:])
def test_a_good_message_passes_and_its_header_is_told(piece_bytes: int) -> None:
    for data in originals():
        assert checked(data, piece_bytes) == Message.from_bytes(data).header


def test_each_field_of_the_head_spoiled_byte_by_byte() -> None:
    """Every byte up to the sealed ones, with the frame signed again, so that it is the form that is refused."""
    for data in originals()[1:]:
        for at in range(min(len(data) - 64, 900)):
            forged = signed(data[:at] + bytes([data[at] ^ 0x81]) + data[at + 1 : -64])
            assert checked(forged, 500) == parsed_whole(forged), at


def test_too_long_is_refused_alike() -> None:
    data = originals()[0] + bytes(MAX_MESSAGE_BYTES)
    assert checked(data, 1 << 20) == parsed_whole(data)


def test_other_bytes_than_the_id_says_and_another_signer_are_refused() -> None:
    data = originals()[0]
    check = MessageCheck(len(data))
    check.add(data)
    with pytest.raises(NotCanonicalError):
        check.finish(MessageId("ab" * 32), SENDER_KEY.verifying_key)
    with pytest.raises(SenderSignatureError):
        check.finish(MessageId(sha256(data).hex()), OTHER_KEY.verifying_key)


def test_nothing_is_said_before_every_byte_was_there() -> None:
    data = originals()[1]
    for given_bytes in (data[:-1], data + b"x"):
        check = MessageCheck(len(data))
        check.add(given_bytes)
        with pytest.raises(MisuseError):
            check.finish(MessageId(sha256(data).hex()), SENDER_KEY.verifying_key)


def test_a_check_keeps_little_of_a_long_message() -> None:
    data = sealed_bytes(MessageType.ANSWER, 5_000_000)
    tracemalloc.start()
    try:
        check = MessageCheck(len(data))
        for start in range(0, len(data), 1 << 18):
            check.add(data[start : start + (1 << 18)])
        check.finish(MessageId(sha256(data).hex()), SENDER_KEY.verifying_key)
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()
