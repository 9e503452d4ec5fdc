"""Messages in parts of at most 1 MiB, and how they are put together again (PROTOCOL 4).

A part: the prefix of `binary`; message id 32 bytes; u16 number from 0; u16 number of parts; u32 length of the whole; the piece to the end.
Every part but the last is full, so number of parts and length of each piece follow from the length of the whole, and a message is cut in
one way only.

Invariants of `Assembler`: it stores nothing but pieces of the message that it was made for, each once, so that it never holds more than
the type's maximum (twice that while it joins them); a whole leaves it only if its SHA-256 is the id. Parts are not signed and need not
be: the id is a digest of the whole, and the frame is signed. Who hands out parts can spoil a message, which it could withhold as well.

Left to others: where the id and the parts come from, and when to stop waiting and start again with a new `Assembler`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from crypto.binary import Kind, Reader, Writer, sha256
from crypto.errors import ContextError, FieldError, MisuseError, NotCanonicalError, OversizedError
from crypto.fields import DIGEST_BYTES
from crypto.message_types import MAX_MESSAGE_BYTES, MESSAGES, MessageType
from crypto.messages import Message
from crypto.wire import MessageId

MAX_PART_BYTES: Final = 1 << 20
PART_HEAD_BYTES: Final = 5 + DIGEST_BYTES + 2 + 2 + 4
PIECE_BYTES: Final = MAX_PART_BYTES - PART_HEAD_BYTES
"""Bytes of the message in every part but the last."""
MAX_PARTS: Final = -(-MAX_MESSAGE_BYTES // PIECE_BYTES)


@dataclass(frozen=True)
class Part:
    """One part, valid in itself: that the piece belongs to the message shows when the whole is hashed."""

    message_id: MessageId
    number: int
    total_bytes: int
    piece: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.total_bytes <= MAX_MESSAGE_BYTES:
            raise OversizedError(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        if not 0 <= self.number < self.count:
            raise FieldError("a part's number is below the number of parts")
        if len(self.piece) != min(PIECE_BYTES, self.total_bytes - self.number * PIECE_BYTES):
            raise FieldError("every part but the last is full, and the last holds the rest")

    @property
    def count(self) -> int:
        """Parts of the message."""
        return -(-self.total_bytes // PIECE_BYTES)

    def to_bytes(self) -> bytes:
        """The wire form, at most `MAX_PART_BYTES`."""
        writer = Writer(Kind.PART).fixed(self.message_id.digest, DIGEST_BYTES).integer(self.number, 2).integer(self.count, 2)
        return writer.integer(self.total_bytes, 4).fixed(self.piece, len(self.piece)).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `OversizedError` before parsing, `EncodingError` for anything else."""
        reader = Reader(data, Kind.PART, max_bytes=MAX_PART_BYTES)
        message_id = MessageId(reader.fixed(DIGEST_BYTES).hex())
        number, count = reader.integer(2, low=0, high=MAX_PARTS - 1), reader.integer(2, low=1, high=MAX_PARTS)
        total = reader.integer(4, low=1, high=0xFFFFFFFF)
        part = cls(message_id, number, total, reader.fixed(len(data) - PART_HEAD_BYTES))
        reader.finish()
        if part.count != count:
            raise NotCanonicalError("number of parts is not what the length of the whole gives")
        return part


def split_message(message: Message) -> Iterator[Part]:
    """The message's parts in order."""
    data = message.to_bytes()
    for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
        yield Part(message.message_id, number, len(data), data[start : start + PIECE_BYTES])


class Assembler:
    """Collects the parts of one expected message, in any order. Not safe for several threads."""

    def __init__(self, message_id: MessageId, message_type: MessageType) -> None:
        self._message_id = message_id
        self._spec = MESSAGES[message_type]
        self._total_bytes: int | None = None
        self._pieces: dict[int, bytes] = {}

    def add(self, part: Part) -> None:
        """Take one part, after these checks in this order; a part that is refused changes nothing:

        1. it is of this message (`ContextError`);
        2. the whole is within the type's maximum (`OversizedError`);
        3. it says the same length of the whole as the parts before it (`FieldError`);
        4. its number is new, or it repeats what came under it (`FieldError`).
        """
        # 1
        if part.message_id != self._message_id:
            raise ContextError("part is of another message")
        # 2
        if part.total_bytes > self._spec.max_bytes:
            raise OversizedError(f"{self._spec.message_type} has {part.total_bytes} bytes, at most {self._spec.max_bytes} are read")
        # 3
        if self._total_bytes not in (None, part.total_bytes):
            raise FieldError("parts of one message say different lengths of the whole")
        # 4
        if self._pieces.get(part.number, part.piece) != part.piece:
            raise FieldError("two parts of one number differ")
        self._total_bytes = part.total_bytes
        self._pieces[part.number] = part.piece

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers that have not come, in order; (0,) as long as the number of parts is unknown."""
        if self._total_bytes is None:
            return (0,)
        return tuple(number for number in range(-(-self._total_bytes // PIECE_BYTES)) if number not in self._pieces)

    def message(self) -> Message:
        """The whole, parsed, once; `MisuseError` while parts are missing.

        Raises `NotCanonicalError` when the parts do not hash to the id, `ContextError` when the message is of another type than expected,
        and what `Message.from_bytes` raises. Which part was at fault cannot be told, so all are forgotten and may come again.
        """
        if self.missing:
            raise MisuseError("parts of the message are missing")
        data = b"".join(self._pieces[number] for number in range(len(self._pieces)))
        self._pieces.clear()
        self._total_bytes = None
        if sha256(data) != self._message_id.digest:
            raise NotCanonicalError("the parts do not hash to the message's id")
        message = Message.from_bytes(data)
        if message.header.message_type is not self._spec.message_type:
            raise ContextError(f"the message is not of type {self._spec.message_type}")
        return message

    def __repr__(self) -> str:
        return f"Assembler({self._message_id!s}, {len(self._pieces)} parts)"
