"""A long plaintext sealed under a key of its own, segment by segment, so that neither side holds it whole.

The STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár ("Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance",
CRYPTO 2015, section 7): AES-256-GCM for each segment of 256 KiB, the last one shorter, under the nonce

    seven zero bytes | segment number, four bytes from 0 | 1 for the last segment, 0 for all others

so that a segment opens at its own place alone, and only what was sealed as the last one ends a stream. The zero bytes are the
construction's prefix, which sets streams under one key apart: here every key seals one stream.

Invariants: a stream has exactly one length for each length of plaintext (every segment but the last is full, the last is empty only if all
is), so where segments begin and which is the last follows from the length; nothing of a segment is handed out before its tag was checked;
a cut, an exchanged, repeated, dropped or foreign segment and a false last mark are one `OpeningError`.

Left to others: the key, fresh for every stream and sealed to the recipient, the context that both are bound to, and the signature outside
(`envelope`). Bytes that were handed out before a later segment failed must be dropped by who took them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.binary import regroup
from crypto.errors import MisuseError, OpeningError

SEGMENT_BYTES: Final = 256 << 10
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16

_SEALED_SEGMENT_BYTES: Final = SEGMENT_BYTES + TAG_BYTES
_MAX_SEGMENTS: Final = 1 << 32


def fresh_key() -> bytes:
    """A key for one stream, from the operating system's randomness."""
    return os.urandom(KEY_BYTES)


def sealed_length(plaintext_bytes: int) -> int:
    """Bytes of the stream of a plaintext of that length."""
    return plaintext_bytes + TAG_BYTES * max(1, -(-plaintext_bytes // SEGMENT_BYTES))


def plaintext_length(sealed_bytes: int) -> int:
    """Inverse of `sealed_length`; `OpeningError` for a length that no stream has."""
    full, rest = divmod(sealed_bytes, _SEALED_SEGMENT_BYTES)
    plaintext_bytes = full * SEGMENT_BYTES + max(rest - TAG_BYTES, 0)
    if sealed_length(plaintext_bytes) != sealed_bytes:
        raise OpeningError("sealed segments have a length that none are made of")
    return plaintext_bytes


def seal_segments(key: bytes, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The sealed segments of a plaintext that comes in chunks of any size.

    HAZARD: `key` is of `fresh_key` and seals nothing else: a second plaintext under it would give both away.
    """
    cipher = AESGCM(key)
    held, number = b"", 0
    for number, segment in enumerate(regroup(chunks, SEGMENT_BYTES)):
        if number:
            yield cipher.encrypt(_nonce(number - 1, last=False), held, None)
        held = segment
    yield cipher.encrypt(_nonce(number, last=True), held, None)


def open_segments(key: bytes, sealed: Iterable[bytes], sealed_bytes: int) -> Iterator[bytes]:
    """The plaintext of a stream of `sealed_bytes`, which come in chunks of any size, segment by segment.

    `OpeningError`, one for every cause. The plaintext is whole when the iterator has ended, and not before.
    """
    plaintext_length(sealed_bytes)
    cipher, at, ended = AESGCM(key), 0, False
    for number, segment in enumerate(regroup(sealed, _SEALED_SEGMENT_BYTES)):
        at += len(segment)
        ended = at == sealed_bytes
        try:
            opened = cipher.decrypt(_nonce(number, last=ended), segment, None)
        except InvalidTag:
            raise OpeningError("a sealed segment does not open at its place under this key") from None
        yield opened
    if not ended:
        raise OpeningError("sealed segments end before their last, or go on after it")


def _nonce(number: int, *, last: bool) -> bytes:
    if number >= _MAX_SEGMENTS:
        raise MisuseError("a stream has more segments than numbers")
    return bytes(7) + number.to_bytes(4, "big") + bytes([last])
