"""The frame of every binary format: a five-byte prefix, fixed fields, then words packed at their exact number of bits.

Prefix: the ASCII letters `SM`, one byte for the kind of object, one for the format version, one for the parameter set. Invariants: the
length is checked against the kind's maximum before anything is parsed; each object has exactly one encoding (bits of padding are zero,
words are in range, nothing follows the end). What the fields mean is left to the module that owns the kind.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from typing import Final

import numpy as np

from crypto.errors import FieldError, MisuseError, NotCanonicalError, OversizedError, TruncatedError, VersionError
from crypto.jit import kernel
from crypto.ring import U8, U32

FORMAT_VERSION: Final = 1
PARAMETER_SET: Final = 1
"""1 stands for `sealmatch-1`."""
_PREFIX: Final = struct.Struct(">2sBBB")


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


class Writer:
    """Collects the fields of one frame in order."""

    def __init__(self, kind: Kind) -> None:
        self._parts: list[bytes] = [_PREFIX.pack(b"SM", kind, FORMAT_VERSION, PARAMETER_SET)]

    def integer(self, value: int, width: int) -> Writer:
        """An unsigned big-endian integer of `width` bytes."""
        self._parts.append(value.to_bytes(width, "big"))
        return self

    def fixed(self, data: bytes, width: int) -> Writer:
        """Exactly `width` bytes."""
        if len(data) != width:
            raise MisuseError(f"a field has {width} bytes")
        self._parts.append(data)
        return self

    def words(self, values: U32, bits: int) -> Writer:
        """Unsigned words at `bits` bits each, little-endian bit order, zero padding up to a byte."""
        self._parts.append(pack_bits(values, bits))
        return self

    def finish(self) -> bytes:
        """The frame."""
        return b"".join(self._parts)


class Reader:
    """Reads the fields of one frame in order; every fault is an `EncodingError`.

    With `total_bytes`, `data` is the beginning of a frame of that length: fields that are read must lie in it, the others are skipped.
    """

    def __init__(self, data: bytes, kind: Kind, *, max_bytes: int, total_bytes: int | None = None) -> None:
        self._end = len(data) if total_bytes is None else total_bytes
        if self._end > max_bytes:
            raise OversizedError(f"{kind.name} has {self._end} bytes, at most {max_bytes} are read")
        if len(data) < _PREFIX.size:
            raise TruncatedError(f"{kind.name} ends inside its prefix")
        if data[: _PREFIX.size] != _PREFIX.pack(b"SM", kind, FORMAT_VERSION, PARAMETER_SET):
            raise VersionError(f"not a {kind.name} of format version {FORMAT_VERSION} and parameter set {PARAMETER_SET}")
        self._data = data
        self._at = _PREFIX.size
        self._name = kind.name

    def fixed(self, width: int) -> bytes:
        """Exactly `width` bytes."""
        end = self._at + width
        if end > len(self._data):
            raise TruncatedError(f"{self._name} ends inside a field")
        part = self._data[self._at : end]
        self._at = end
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
        values = unpack_bits(self.fixed(packed_size(count, bits)), count, bits)
        if high is not None and count and int(values.max()) > high:
            raise FieldError(f"{self._name} has a word above {high}")
        return values

    def finish(self) -> None:
        """Raise unless every byte was read."""
        if self._at != self._end:
            raise NotCanonicalError(f"{self._name} goes on after its end")


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` words of `bits` bits."""
    return (count * bits + 7) // 8


def pack_bits(values: U32, bits: int) -> bytes:
    """Words below 2^bits, bits <= 32, as a little-endian bit string: word i takes bits i*bits to (i+1)*bits - 1."""
    if values.dtype != np.uint32 or values.ndim != 1 or (values.size and int(values.max()) >> bits):
        raise MisuseError(f"packed words are uint32 below 2^{bits}")
    out = np.zeros(packed_size(values.size, bits), np.uint8)
    _pack(np.ascontiguousarray(values), np.uint64(bits), out)
    return out.tobytes()


def unpack_bits(data: bytes, count: int, bits: int) -> U32:
    """Inverse of `pack_bits`; uint32[count]. Raises `NotCanonicalError` when padding bits are set."""
    if len(data) != packed_size(count, bits):
        raise TruncatedError("packed words have another length")
    out = np.empty(count, np.uint32)
    if _unpack(np.frombuffer(data, np.uint8), np.uint64(bits), out):
        raise NotCanonicalError("padding bits are not zero")
    return out


def sha256(data: bytes) -> bytes:
    """SHA-256 of canonical bytes: the digest that stands in grants and in the log."""
    return hashlib.sha256(data).digest()


@kernel
def _pack(values: U32, bits: np.uint64, out: U8) -> None:
    held = np.uint64(0)
    count = np.uint64(0)
    at = 0
    for value in values:
        held |= np.uint64(value) << count
        count += bits
        while count >= np.uint64(8):
            out[at] = np.uint8(held & np.uint64(255))
            held >>= np.uint64(8)
            count -= np.uint64(8)
            at += 1
    if count > np.uint64(0):
        out[at] = np.uint8(held & np.uint64(255))


@kernel
def _unpack(data: U8, bits: np.uint64, out: U32) -> np.uint64:
    """Fill `out`; the bits left over at the end."""
    held = np.uint64(0)
    count = np.uint64(0)
    at = 0
    mask = (np.uint64(1) << bits) - np.uint64(1)
    for i in range(out.size):
        while count < bits:
            held |= np.uint64(data[at]) << count
            count += np.uint64(8)
            at += 1
        out[i] = np.uint32(held & mask)
        held >>= bits
        count -= bits
    return held
