"""Parts of a message against a network that loses, repeats and reorders, and against whoever hands out other parts."""

from __future__ import annotations

import dataclasses
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.binary import sha256
from crypto.disclosure import MAX_PHOTOGRAPH_BYTES, DisclosedRecord, Disclosure, DisclosureOutcome, Media
from crypto.errors import (
    ContextError,
    EncodingError,
    FieldError,
    MisuseError,
    NotCanonicalError,
    OversizedError,
    PeerError,
    TruncatedError,
    VersionError,
)
from crypto.message_types import MAX_MESSAGE_BYTES, MESSAGES, MessageType
from crypto.messages import Message
from crypto.notices import Refusal, RefusalReason
from crypto.parts import MAX_PART_BYTES, MAX_PARTS, PART_HEAD_BYTES, PIECE_BYTES, Assembler, Part, split_message
from crypto.wire import MessageId
from tests.message_samples import Untouchable, message_of

OTHER_ID = MessageId("cd" * 32)


@functools.cache
def long_message() -> Message:
    """A disclosure: a little more than 1 MiB, hence two parts."""
    record = DisclosedRecord("A-1", Media.JPEG, b"\xd8" * MAX_PHOTOGRAPH_BYTES)
    return message_of(MessageType.DISCLOSURE, Disclosure(DisclosureOutcome.DISCLOSED, bytes([1]) * 16, bytes([2]) * 32, record))


@functools.cache
def short_message() -> Message:
    """One part."""
    return message_of(MessageType.REFUSAL, Refusal(OTHER_ID, RefusalReason.LATE))


def assembler(message: Message) -> Assembler:
    """Of one who expects this message."""
    return Assembler(message.message_id, message.header.message_type)


def missing(collected: Assembler) -> list[int]:
    """The numbers as a list; mypy would narrow the tuple for good."""
    return list(collected.missing)


def collect(message: Message, *wire: bytes) -> Message:
    """What one who expects `message` gets out of these parts."""
    collected = assembler(message)
    for data in wire:
        collected.add(Part.from_bytes(data))
    return collected.message()


def fake_parts(data: bytes, message_id: MessageId) -> list[Part]:
    """Parts of any bytes under any id."""
    starts = range(0, len(data), PIECE_BYTES)
    return [Part(message_id, number, len(data), data[start : start + PIECE_BYTES]) for number, start in enumerate(starts)]


# --- honest parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [short_message(), long_message()], ids=["short", "long"])
def test_parts_travel(message: Message) -> None:
    parts = list(split_message(message))
    wire = [part.to_bytes() for part in parts]
    assert [Part.from_bytes(data) for data in wire] == parts
    assert all(len(data) == MAX_PART_BYTES for data in wire[:-1])
    assert 0 < len(wire[-1]) <= MAX_PART_BYTES
    assert b"".join(part.piece for part in parts) == message.to_bytes()
    collected = assembler(message)
    for part in parts:
        collected.add(part)
    assert collected.message() == message


def test_the_part_byte_by_byte() -> None:
    message = short_message()
    (part,) = split_message(message)
    wire = message.to_bytes()
    head = b"SM\x0c\x01\x01" + sha256(wire) + b"\0\0" + b"\0\1" + len(wire).to_bytes(4, "big")
    assert len(head) == PART_HEAD_BYTES
    assert part.to_bytes() == head + wire


@pytest.mark.parametrize("total", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 3 * PIECE_BYTES + 1])
def test_any_length_is_cut_in_full_pieces_and_a_rest(total: int) -> None:
    parts = fake_parts(bytes(total), OTHER_ID)
    assert len(parts) == parts[0].count == -(-total // PIECE_BYTES)
    assert [Part.from_bytes(part.to_bytes()) for part in parts] == parts


@given(st.lists(st.integers(0, 1), max_size=6), st.permutations((0, 1)))
@settings(max_examples=20)
def test_order_and_repeats_do_not_matter(repeats: list[int], order: list[int]) -> None:
    parts = list(split_message(long_message()))
    collected = assembler(long_message())
    assert missing(collected) == [0]
    for number in repeats:
        collected.add(parts[number])
    for number in order:
        collected.add(Part.from_bytes(parts[number].to_bytes()))
    assert missing(collected) == []
    assert collected.message() == long_message()


def test_what_is_missing_is_named_and_not_given() -> None:
    first, second = split_message(long_message())
    collected = assembler(long_message())
    with pytest.raises(MisuseError):
        collected.message()
    collected.add(second)
    assert missing(collected) == [0]
    with pytest.raises(MisuseError):
        collected.message()
    collected.add(first)
    assert missing(collected) == []
    assert collected.message() == long_message()
    with pytest.raises(MisuseError):  # given once
        collected.message()


# --- parts that do not parse ---------------------------------------------------------------------------------------


def test_a_part_cut_at_any_byte_is_refused() -> None:
    (part,) = split_message(short_message())
    wire = part.to_bytes()
    for length in range(len(wire)):
        with pytest.raises(TruncatedError if length < PART_HEAD_BYTES else FieldError):
            Part.from_bytes(wire[:length])
    with pytest.raises(FieldError):
        Part.from_bytes(wire + b"\0")


def test_a_flipped_bit_of_a_part_never_gives_the_message() -> None:
    message = short_message()
    (part,) = split_message(message)
    wire = part.to_bytes()
    for at in range(len(wire)):
        for bit in range(8):
            changed = bytearray(wire)
            changed[at] ^= 1 << bit
            with pytest.raises(PeerError):
                collect(message, bytes(changed))


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(EncodingError):
        Part.from_bytes(garbage)
    with pytest.raises(EncodingError):
        Part.from_bytes(b"SM\x0c\x01\x01" + garbage)


def test_a_long_part_is_refused_unread() -> None:
    with pytest.raises(OversizedError):
        Part.from_bytes(Untouchable(MAX_PART_BYTES + 1))


def test_another_kind_is_refused_by_version() -> None:
    with pytest.raises(VersionError):
        Part.from_bytes(short_message().to_bytes())


@pytest.mark.parametrize("count", [0, 2, MAX_PARTS, MAX_PARTS + 1])
def test_a_number_of_parts_that_does_not_follow_from_the_length_is_refused(count: int) -> None:
    (part,) = split_message(short_message())
    wire = bytearray(part.to_bytes())
    wire[39:41] = count.to_bytes(2, "big")
    with pytest.raises(EncodingError):
        Part.from_bytes(bytes(wire))


@pytest.mark.parametrize(
    ("number", "total", "piece"),
    [
        (0, 0, b""),
        (0, 2, b"x"),
        (0, 1, b"xx"),
        (1, 1, b""),
        (1, PIECE_BYTES, b""),
        (-1, 1, b"x"),
        (0, PIECE_BYTES + 1, b"x"),
        (1, PIECE_BYTES + 2, b"x"),
        (0, MAX_MESSAGE_BYTES + 1, bytes(PIECE_BYTES)),
    ],
)
def test_a_part_out_of_its_form_does_not_exist(number: int, total: int, piece: bytes) -> None:
    with pytest.raises(EncodingError):
        Part(OTHER_ID, number, total, piece)


# --- parts that attack ---------------------------------------------------------------------------------------------


def test_parts_of_another_message_are_refused() -> None:
    collected = assembler(long_message())
    with pytest.raises(ContextError):
        collected.add(next(split_message(short_message())))
    assert missing(collected) == [0]


def test_a_second_piece_under_one_number_is_refused_and_the_first_kept() -> None:
    first, second = split_message(long_message())
    collected = assembler(long_message())
    collected.add(first)
    with pytest.raises(FieldError):
        collected.add(dataclasses.replace(first, piece=bytes(PIECE_BYTES)))
    collected.add(second)
    assert collected.message() == long_message()


def test_another_length_of_the_whole_is_refused() -> None:
    first, _ = split_message(long_message())
    collected = assembler(long_message())
    collected.add(first)
    for total in (PIECE_BYTES, first.total_bytes - 1, first.total_bytes + 1):
        with pytest.raises(FieldError):
            collected.add(dataclasses.replace(first, total_bytes=total))
    assert missing(collected) == [1]


@pytest.mark.parametrize("message_type", MessageType)
def test_a_whole_beyond_the_type_s_maximum_is_refused_before_anything_is_kept(message_type: MessageType) -> None:
    total = MESSAGES[message_type].max_bytes + 1
    collected = Assembler(OTHER_ID, message_type)
    with pytest.raises(OversizedError):
        collected.add(Part(OTHER_ID, 0, total, bytes(min(total, PIECE_BYTES))))
    assert missing(collected) == [0]
    assert "0 parts" in repr(collected)


def test_a_claim_costs_the_claimant_what_it_costs_us() -> None:
    """The last part is short and may say that 64 MiB belong to it: nothing is set aside for them."""
    total = MESSAGES[MessageType.ANSWER].max_bytes
    last = (total - 1) // PIECE_BYTES
    collected = Assembler(OTHER_ID, MessageType.ANSWER)
    collected.add(Part(OTHER_ID, last, total, bytes(total - last * PIECE_BYTES)))
    assert len(collected.missing) == last
    assert sum(len(piece) for piece in collected._pieces.values()) < PIECE_BYTES


def test_a_whole_that_does_not_hash_to_the_id_is_not_given_and_may_come_again() -> None:
    first, second = split_message(long_message())
    collected = assembler(long_message())
    collected.add(dataclasses.replace(first, piece=b"\0" + first.piece[1:]))
    collected.add(second)
    with pytest.raises(NotCanonicalError):
        collected.message()
    assert missing(collected) == [0]
    collected.add(first)
    collected.add(second)
    assert collected.message() == long_message()


def test_a_whole_of_another_type_than_expected_is_not_given() -> None:
    message = short_message()
    collected = Assembler(message.message_id, MessageType.DISCLOSURE)
    collected.add(next(split_message(message)))
    with pytest.raises(ContextError):
        collected.message()


def test_a_whole_that_hashes_and_is_no_message_is_refused() -> None:
    data = b"no message at all"
    message_id = MessageId(sha256(data).hex())
    collected = Assembler(message_id, MessageType.ANSWER)
    collected.add(fake_parts(data, message_id)[0])
    with pytest.raises(EncodingError):
        collected.message()


def test_repr_shows_no_content() -> None:
    collected = assembler(short_message())
    collected.add(next(split_message(short_message())))
    assert repr(collected) == f"Assembler({short_message().message_id}, 1 parts)"
    assert "piece" not in repr(next(split_message(short_message())))
