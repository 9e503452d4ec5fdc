"""Seeds: 32 bytes from the operating system, and everything that is expanded from them under labels.

Invariants: one seed and one label give one stream, the same on every machine, so that an auditor who is given the seed replays an answer
word for word. Streams of two labels, or of one label under two contexts, are independent. All sampling here is exact integer work; the one
exception, Gaussian directions, says so. Where a seed is drawn, what it is bound to and when it is destroyed is left to its owner.

A child seed is SHAKE256("sealmatch-1|seed|" || label || "|" || SHA-256(context) || parent); a stream is AES-256 in counter mode (NIST SP
800-38A) under the child seed as key, counter from zero, which no two streams share because no two have one key.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from typing import Final, NoReturn, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from crypto.errors import KeyDestroyedError, LocalError, MisuseError
from crypto.jit import kernel
from crypto.ring import F64, I64, U8, U32, U64, Q
from crypto.workers import split

SEED_BYTES: Final = 32
_ALL_ONES = np.uint64((1 << 64) - 1)
_BUCKETS: Final = 256
"""Of a shuffle; a bucket of 2.5 million places takes 40 kB."""
_PIECE_BYTES: Final = 3 << 16
"""Of a stream that is sampled as it comes: stays in a second-level cache; a multiple of the samplers' 1, 3 and 4 bytes."""
_SPARE: Final = 64
"""Draws beyond the expected number; exact samplers reject words, and each states how rarely."""
_ZEROS: Final = memoryview(bytes(_PIECE_BYTES))


class Seed:
    """Thirty-two secret bytes. No equality, no pickle, no text form; `destroy()` overwrites them."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SEED_BYTES:
            raise MisuseError(f"a seed has {SEED_BYTES} bytes")
        self._secret = bytearray(secret)

    @classmethod
    def fresh(cls) -> Self:
        """A new seed from the operating system's generator."""
        return cls(os.urandom(SEED_BYTES))

    def child(self, label: str, context: bytes = b"") -> Seed:
        """The seed for one purpose in one context."""
        framed = b"sealmatch-1|seed|" + label.encode("ascii") + b"|" + hashlib.sha256(context).digest()
        return Seed(hashlib.shake_256(framed + self.export_secret()).digest(SEED_BYTES))

    def export_secret(self) -> bytes:
        """The secret itself, for sealing it to its one recipient. Never log, store or send it in another form."""
        if not self._secret:
            raise KeyDestroyedError("this seed was destroyed")
        return bytes(self._secret)

    def destroy(self) -> None:
        """Overwrite the secret; every later use raises `KeyDestroyedError`."""
        self._secret[:] = bytes(len(self._secret))
        self._secret.clear()

    def __repr__(self) -> str:
        return "Seed(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a seed is not pickled; use export_secret")


def stream_bytes(seed: Seed, label: str, count: int) -> U8:
    """The first `count` bytes of the stream of `label`; uint8[count]."""
    cipher = Cipher(algorithms.AES256(seed.child(label).export_secret()), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(cipher.update(bytes(count)) + cipher.finalize(), np.uint8)


def _stream_pieces(seed: Seed, label: str, count: int) -> Iterator[U8]:
    """`stream_bytes` piece by piece; each is overwritten by the next."""
    cipher = Cipher(algorithms.AES256(seed.child(label).export_secret()), modes.CTR(bytes(16))).encryptor()
    room = bytearray(_PIECE_BYTES + 15)  # what the cipher asks for beyond what it writes
    for at in range(0, count, _PIECE_BYTES):
        size = min(_PIECE_BYTES, count - at)
        cipher.update_into(_ZEROS[:size], room)
        yield np.frombuffer(room, np.uint8, size)
    room[:] = bytes(len(room))


def uniform_residues(seed: Seed, label: str, count: int) -> U32:
    """`count` independent residues, exactly uniform below q; uint32[count].

    The low 27 bits of each 32-bit word, words not below q rejected: one in 65,568, so the spare (64 words and one in 4,096) runs short with
    probability below 2^-100.
    """
    out = np.empty(count, np.uint32)
    found = 0
    for piece in _stream_pieces(seed, label, 4 * (count + count // 4096 + _SPARE)):
        found += _take_below(piece.view("<u4"), np.uint32((1 << 27) - 1), np.uint32(Q), out[found:])
    _check_filled(found, count)
    return out


def ternary(seed: Seed, label: str, count: int) -> U32:
    """`count` independent values of -1, 0, 1, exactly uniform, as residues; uint32[count].

    Each byte below 255 modulo 3; the byte 255 is rejected.
    """
    out = np.empty(count, np.uint32)
    found = 0
    for piece in _stream_pieces(seed, label, count + count // 64 + 8 * _SPARE):
        found += _take_ternary(piece, np.uint32(Q), out[found:])
    _check_filled(found, count)
    return out


def blinding_errors(seed: Seed, label: str, count: int) -> U32:
    """`count` independent errors of standard deviation 64 as residues: three uniform 7-bit numbers added, less 190; uint32[count].

    Support -190..191, mean 1/2. Bounded and exact, so that replay never depends on a floating-point library; the estimate of
    `parameters.SECURITY_TABLE` depends on the standard deviation, and 1,024 samples a secret are far too few to use the bounded support.
    """
    out = np.empty(count, np.uint32)
    for number, piece in enumerate(_stream_pieces(seed, label, 3 * count)):
        _sum_errors(piece, np.uint32(Q), out[number * (_PIECE_BYTES // 3) :][: piece.size // 3])
    return out


def permutation(seed: Seed, label: str, count: int) -> U32:
    """An exactly uniform order of 0..count-1; uint32[count].

    Rao and Sandelius (Sankhya 1961 and Ann. Math. Stat. 1962): each number falls into one of 256 uniform buckets, and each bucket is
    shuffled by itself, in a cache. Fisher and Yates within a bucket, bounded draws by Lemire's multiplication with rejection.
    """
    if count >= 1 << 32:
        raise MisuseError("an order has fewer than 2^32 places")
    order, starts = np.empty(count, np.uint32), np.empty(_BUCKETS + 1, np.int64)
    _fill_buckets(stream_bytes(seed, label + "/buckets", count), starts, order)
    at = np.array([0, starts[1] - 1, 0], np.int64)
    for piece in _stream_pieces(seed, label, 8 * (count + _SPARE)):
        _shuffle(piece.view("<u8"), starts, at, order)
    _check_filled(int(at[2]), count)
    return order


def taken_at(values: U32, order: U32) -> U32:
    """What stands at each place of an order: values[order[i]]; uint32 of the same length."""
    if order.shape != values.shape or (order.size and int(order.max()) >= values.size):
        raise MisuseError("an order is one of as many places as there are values")
    out = np.empty(order.size, np.uint32)
    split(order.size, lambda first, last: _take_at(values, order[first:last], out[first:last]))
    return out


def gaussians(seed: Seed, label: str, count: int) -> F64:
    """`count` standard normal numbers (Box and Muller) for random directions; float64[count].

    Floating point: another mathematics library may differ in the last bit. What is quantised from them differs with probability below
    1e-7 a gallery; an auditor whose replay differs repeats it with the holder's own release.
    """
    words = stream_bytes(seed, label, 16 * ((count + 1) // 2)).view("<u8").reshape(2, -1)
    radius = np.sqrt(-2 * np.log((words[0] >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54))
    angle = 2 * math.pi * ((words[1] >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


@kernel
def _take_below(words: U32, mask: np.uint32, bound: np.uint32, out: U32) -> int:
    """Copy the masked words below `bound` until `out` is full; how many were found."""
    found = 0
    for word in words:
        if found == out.size:
            break
        masked = word & mask
        if masked < bound:
            out[found] = masked
            found += 1
    return found


@kernel
def _take_ternary(data: U8, modulus: np.uint32, out: U32) -> int:
    """Fill `out` from the bytes below 255; how many were found."""
    found = 0
    for byte in data:
        if byte < 255 and found < out.size:
            digit = np.uint32(byte) % np.uint32(3)
            out[found] = modulus - np.uint32(1) if digit == 2 else digit
            found += 1
    return found


@kernel
def _sum_errors(data: U8, modulus: np.uint32, out: U32) -> None:
    """out[i]: the low seven bits of three bytes added up, less 190, as a residue."""
    for i in range(out.size):
        total = np.uint32(data[3 * i] & 127) + np.uint32(data[3 * i + 1] & 127) + np.uint32(data[3 * i + 2] & 127)
        out[i] = total - np.uint32(190) if total >= 190 else total + modulus - np.uint32(190)


@kernel
def _take_at(values: U32, places: U32, out: U32) -> None:
    """out[i] = values[places[i]]."""
    for i in range(places.size):
        out[i] = values[places[i]]


@kernel
def _fill_buckets(buckets: U8, starts: I64, order: U32) -> None:
    """Sort the numbers 0, 1, ... by their buckets into `order`; starts[b] is where bucket b begins, and ends bucket b - 1."""
    starts[:] = 0
    for bucket in buckets:
        starts[np.int64(bucket) + 1] += 1
    for bucket in range(_BUCKETS):
        starts[bucket + 1] += starts[bucket]
    filled = starts.copy()
    for number in range(order.size):
        bucket = np.int64(buckets[number])
        order[filled[bucket]] = np.uint32(number)
        filled[bucket] += 1


@kernel
def _shuffle(words: U64, starts: I64, at: I64, order: U32) -> None:
    """Shuffle the buckets in `order` as far as `words` last, from where `at` says, and note there how far: int64[3], the bucket, its last
    place that is not settled, how many places are."""
    low_half = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    taken, settled, last = 0, at[2], at[1]
    for bucket in range(at[0], _BUCKETS):
        first = starts[bucket]
        if bucket != at[0]:
            last = starts[bucket + 1] - 1
        while last >= first:
            bound = np.uint64(last - first + 1)
            while True:
                if taken == words.size:
                    at[0], at[1], at[2] = bucket, last, settled
                    return
                word = words[taken]
                taken += 1
                # high and low half of the 96-bit product word * bound
                below = (word & low_half) * bound
                above = (word >> half) * bound + (below >> half)
                low = (above << half) | (below & low_half)
                # a word whose low 64 bits fall below 2^64 mod bound, which is below bound, is rejected
                if low >= bound or low >= (_ALL_ONES - bound + np.uint64(1)) % bound:
                    break
            chosen = first + np.int64(above >> half)
            kept = order[last]
            order[last] = order[chosen]
            order[chosen] = kept
            last -= 1
            settled += 1
    at[0], at[1], at[2] = _BUCKETS, 0, settled


def _check_filled(found: int, count: int) -> None:
    if found < count:
        raise LocalError("a sampler rejected more words than its spare: the stream is not random")
