"""The frame of every binary format: a five-byte prefix, fixed fields, then words packed at their exact number of bits.

Prefix: the ASCII letters `SM`, one byte for the kind of object, one for the format version, one for the parameter set. Invariants: the
length is checked against the kind's maximum before anything is parsed; each object has exactly one encoding (bits of padding are zero,
words are in range, nothing follows the end); long arrays are packed and unpacked a slice at a time, so that of a frame which is written or
read in chunks no second whole copy exists. What the fields mean is left to the module that owns the kind.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Self

import numpy as np

from crypto.errors import FieldError, MisuseError, NotCanonicalError, OversizedError, TruncatedError, VersionError
from crypto.jit import kernel
from crypto.ring import U16, U32

FORMAT_VERSION: Final = 1
PARAMETER_SET: Final = 1
"""1 stands for `sealmatch-1`."""
_PREFIX: Final = struct.Struct(">2sBBB")
_WORDS_AT_ONCE: Final = 1 << 16
"""Words that are packed or unpacked at once: a multiple of 8, so that every slice of whatever word size ends with a byte."""
_INNER_BYTES: Final = 1 << 18
_SHORT_BITS: Final = 16


class Kind(enum.IntEnum):
    """What a frame holds; one number for ever."""

    PROBE = 1
    ANSWER = 2
    OPENED_SCORES = 3
    ORDER_SEED = 4
    MASK_SHARE = 5
    HOLDER_RELEASE = 6
    REQUESTER_RELEASE = 7
    DISCOVERY_RELEASE = 8
    STUBS = 9
    ENVELOPE = 10
    MESSAGE = 11
    PART = 12
    GRANT_BODY = 13
    ANSWER_BODY = 14
    OPENED_BODY = 15
    MASK_HANDOVER = 16
    DISCLOSURE_REQUEST = 17
    DISCLOSURE = 18
    REFUSAL = 19
    DELETION_RECEIPT = 20
    REVOCATION_QUERY = 21
    REVOCATION_STATEMENT = 22
    RATIFICATION = 23


class Writer:
    """Collects the fields of one frame in order. Arrays are kept as they are and packed when the frame's bytes are asked for."""

    def __init__(self, kind: Kind) -> None:
        self._parts: list[bytes | Callable[[], Iterator[bytes]]] = [_PREFIX.pack(b"SM", kind, FORMAT_VERSION, PARAMETER_SET)]
        self._length = _PREFIX.size

    def integer(self, value: int, width: int) -> Writer:
        """An unsigned big-endian integer of `width` bytes."""
        return self._add(value.to_bytes(width, "big"), width)

    def fixed(self, data: bytes, width: int) -> Writer:
        """Exactly `width` bytes."""
        if len(data) != width:
            raise MisuseError(f"a field has {width} bytes")
        return self._add(data, width)

    def words(self, values: U32, bits: int) -> Writer:
        """Unsigned words at `bits` bits each, little-endian bit order, zero padding up to a byte. Do not change `values` afterwards."""
        slices = range(0, values.size, _WORDS_AT_ONCE)
        return self._add(lambda: (pack_bits(values[at : at + _WORDS_AT_ONCE], bits) for at in slices), packed_size(values.size, bits))

    def shorts(self, values: U16, bits: int) -> Writer:
        """As `words`, of uint16 at up to 16 bits."""
        slices = range(0, values.size, _WORDS_AT_ONCE)
        return self._add(lambda: (_pack_shorts(values[at : at + _WORDS_AT_ONCE], bits) for at in slices), packed_size(values.size, bits))

    def frame(self, inner: Writer) -> Writer:
        """Another frame, after its length in four bytes."""
        return self.integer(inner.length, 4)._add(inner.chunks, inner.length)

    @property
    def length(self) -> int:
        """Bytes of the frame."""
        return self._length

    def chunks(self) -> Iterator[bytes]:
        """The frame, piece by piece; the same ones every time."""
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from part()

    def finish(self) -> bytes:
        """The frame."""
        return b"".join(self.chunks())

    def _add(self, part: bytes | Callable[[], Iterator[bytes]], width: int) -> Self:
        self._parts.append(part)
        self._length += width
        return self


class Reader:
    """Reads the fields of one frame in order; every fault is an `EncodingError`.

    With `total_bytes`, `data` is the beginning of a frame of that length: fields that are read must lie in it, the others are skipped.
    """

    def __init__(self, data: bytes, kind: Kind, *, max_bytes: int, total_bytes: int | None = None) -> None:
        self._end = len(data) if total_bytes is None else total_bytes
        if self._end > max_bytes:
            raise OversizedError(f"{kind.name} has {self._end} bytes, at most {max_bytes} are read")
        self._data = data
        self._at = 0
        self._name = kind.name
        try:
            prefix = self.fixed(_PREFIX.size)
        except TruncatedError as error:
            raise TruncatedError(f"{kind.name} ends inside its prefix") from error
        if prefix != _PREFIX.pack(b"SM", kind, FORMAT_VERSION, PARAMETER_SET):
            raise VersionError(f"not a {kind.name} of format version {FORMAT_VERSION} and parameter set {PARAMETER_SET}")

    def fixed(self, width: int) -> bytes:
        """Exactly `width` bytes."""
        if self._at + width > self._end:
            raise TruncatedError(f"{self._name} ends inside a field")
        part = self._take(width)
        self._at += width
        return part

    def _take(self, width: int) -> bytes:
        part = self._data[self._at : self._at + width]
        if len(part) != width:
            raise TruncatedError(f"{self._name} ends inside a field")
        return part

    def skip(self, width: int) -> None:
        """Go over exactly `width` bytes, which need not be here."""
        if self._at + width > self._end:
            raise TruncatedError(f"{self._name} ends inside a field")
        self._at += width

    @property
    def at(self) -> int:
        """Bytes that were read or skipped."""
        return self._at

    def integer(self, width: int, *, low: int, high: int) -> int:
        """An unsigned big-endian integer from `low` to `high`."""
        value = int.from_bytes(self.fixed(width), "big")
        if not low <= value <= high:
            raise FieldError(f"{self._name} has a field outside {low}..{high}")
        return value

    def words(self, count: int, bits: int, *, high: int | None = None) -> U32:
        """`count` words of `bits` bits, none above `high`; uint32[count]. Padding bits must be zero."""
        self._check_left(packed_size(count, bits))
        values = np.empty(count, np.uint32)
        for at in range(0, count, _WORDS_AT_ONCE):
            part = values[at : at + _WORDS_AT_ONCE]
            part[:] = unpack_bits(self.fixed(packed_size(part.size, bits)), part.size, bits)
        if high is not None and count and int(values.max()) > high:
            raise FieldError(f"{self._name} has a word above {high}")
        return values

    def shorts(self, count: int, bits: int) -> U16:
        """Inverse of `Writer.shorts`; uint16[count]."""
        self._check_left(packed_size(count, bits))
        values = np.empty(count, np.uint16)
        for at in range(0, count, _WORDS_AT_ONCE):
            part = values[at : at + _WORDS_AT_ONCE]
            data = self.fixed(packed_size(part.size, bits))
            if bits == _SHORT_BITS:
                part[:] = np.frombuffer(data, "<u2")
            else:
                part[:] = unpack_bits(data, part.size, bits)
        return values

    def frame(self, kind: Kind, *, max_bytes: int, each: Callable[[bytes], object] = lambda _: None) -> Reader:
        """Inverse of `Writer.frame`: a reader of the inner frame, to be finished before the next field of this one is read.

        `each` is given the inner frame's bytes, in order, as they are read.
        """
        length = self.integer(4, low=1, high=max_bytes)
        self._check_left(length)

        def given() -> Iterator[bytes]:
            for at in range(0, length, _INNER_BYTES):
                piece = self.fixed(min(_INNER_BYTES, length - at))
                each(piece)
                yield piece

        pieces = given()
        return ChunkReader(pieces, kind, max_bytes=max_bytes, total_bytes=length)

    def _check_left(self, width: int) -> None:
        """Before room is made for what is only said to come."""
        if self._at + width > self._end:
            raise TruncatedError(f"{self._name} ends inside a field")

    def finish(self) -> None:
        """Raise unless every byte was read."""
        if self._at != self._end:
            raise NotCanonicalError(f"{self._name} goes on after its end")


class ChunkReader(Reader):
    """Reads a frame of `total_bytes` that comes in chunks of any size, and keeps no more than what it has not read of one."""

    def __init__(self, chunks: Iterable[bytes], kind: Kind, *, max_bytes: int, total_bytes: int) -> None:
        self._chunks = iter(chunks)
        self._held = memoryview(b"")
        super().__init__(b"", kind, max_bytes=max_bytes, total_bytes=total_bytes)

    def _take(self, width: int) -> bytes:
        parts = []
        while width > len(self._held):
            parts.append(self._held)
            width -= len(self._held)
            try:
                self._held = memoryview(next(self._chunks))
            except StopIteration:
                raise TruncatedError(f"{self._name} ends inside a field") from None
        parts.append(self._held[:width])
        self._held = self._held[width:]
        return b"".join(parts)

    def finish(self) -> None:
        """Raise unless every byte was read; the chunks are followed to their end, so that what is checked there is checked."""
        super().finish()
        if self._held or any(self._chunks):
            raise NotCanonicalError(f"{self._name} goes on after its end")


def regroup(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of `size`, the last one shorter; none is empty."""
    held: list[memoryview] = []
    count = 0
    for chunk in chunks:
        view = memoryview(chunk)
        while count + len(view) >= size:
            held.append(view[: size - count])
            view = view[size - count :]
            yield b"".join(held)
            held, count = [], 0
        if view:
            held.append(view)
            count += len(view)
    if held:
        yield b"".join(held)


def between(chunks: Iterable[bytes], start: int, end: int) -> Iterator[bytes]:
    """The bytes `start` to `end` - 1 of what comes in chunks, which are followed no further."""
    at = 0
    for chunk in chunks:
        part = chunk[max(start - at, 0) : end - at]
        if part:
            yield part
        at += len(chunk)
        if at >= end:
            return


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` words of `bits` bits."""
    return (count * bits + 7) // 8


def pack_bits(values: U32, bits: int) -> bytes:
    """Words below 2^bits, bits <= 32, as a little-endian bit string: word i takes bits i*bits to (i+1)*bits - 1."""
    if values.dtype != np.uint32 or values.ndim != 1 or (values.size and int(values.max()) >> bits):
        raise MisuseError(f"packed words are uint32 below 2^{bits}")
    length = packed_size(values.size, bits)
    out = np.empty(-(-length // 4), "<u4")
    _pack(np.ascontiguousarray(values), np.uint64(bits), out)
    return out.tobytes()[:length]


def unpack_bits(data: bytes, count: int, bits: int) -> U32:
    """Inverse of `pack_bits`; uint32[count]. Raises `NotCanonicalError` when padding bits are set."""
    if len(data) != packed_size(count, bits):
        raise TruncatedError("packed words have another length")
    out = np.empty(count, np.uint32)
    whole = data if len(data) % 4 == 0 else data + bytes(-len(data) % 4)
    if _unpack(np.frombuffer(whole, "<u4"), np.uint64(bits), out):
        raise NotCanonicalError("padding bits are not zero")
    return out


def sha256(data: bytes) -> bytes:
    """SHA-256 of canonical bytes: the digest that stands in grants and in the log."""
    return hashlib.sha256(data).digest()


def sha256_of(chunks: Iterable[bytes]) -> bytes:
    """SHA-256 of bytes that come in chunks."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _pack_shorts(values: U16, bits: int) -> bytes:
    if values.dtype != np.uint16 or not 1 <= bits <= _SHORT_BITS:
        raise MisuseError("short words are uint16 of at most 16 bits")
    return values.astype("<u2").tobytes() if bits == _SHORT_BITS else pack_bits(values.astype(np.uint32), bits)


@kernel
def _pack(values: U32, bits: np.uint64, out: U32) -> None:
    """Fill `out`, whose last word is filled up with zeros."""
    held, count, at = np.uint64(0), np.uint64(0), 0
    low, width = np.uint64(0xFFFFFFFF), np.uint64(32)
    for value in values:
        held |= np.uint64(value) << count
        count += bits
        if count >= width:
            out[at] = np.uint32(held & low)
            held >>= width
            count -= width
            at += 1
    if count > np.uint64(0):
        out[at] = np.uint32(held)


@kernel
def _unpack(data: U32, bits: np.uint64, out: U32) -> np.uint64:
    """Fill `out`; the bits left over at the end."""
    held, count, at = np.uint64(0), np.uint64(0), 0
    mask, width = (np.uint64(1) << bits) - np.uint64(1), np.uint64(32)
    for i in range(out.size):
        if count < bits:
            held |= np.uint64(data[at]) << count
            count += width
            at += 1
        out[i] = np.uint32(held & mask)
        held >>= bits
        count -= bits
    return held
