"""A reader of a tiled log, written from the text of C2SP's tlog-tiles, tlog-checkpoint and signed-note and from RFC 6962 alone.

The independent twin of `crypto.tiles` and `agency_node.log_bundle`: nothing of `crypto` is used here, paths and hashes are computed in
their own words, and signatures are checked by PyNaCl.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from nacl.signing import VerifyKey


@dataclass(frozen=True)
class Head:
    """A checkpoint: three lines, an empty one, signatures."""

    origin: str
    size: int
    root: bytes
    text: bytes
    lines: dict[tuple[str, bytes], bytes]


class TileReader:
    """`fetch` gets the content at a path below the log's prefix."""

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._size = 0

    def checkpoint(self) -> Head:
        text, _, signatures = self._fetch("checkpoint").partition(b"\n\n")
        origin, size, root = text.decode().split("\n")
        lines = {}
        for line in signatures.decode().splitlines():
            dash, name, encoded = line.split(" ")
            assert dash == "—"
            content = base64.b64decode(encoded)
            lines[name, content[:4]] = content[4:]
        self._size = int(size)
        return Head(origin, int(size), base64.b64decode(root), text + b"\n", lines)

    def check_log_signature(self, head: Head, key: bytes) -> None:
        """`01` is Ed25519's signature type; the key id covers name, line feed, type and key."""
        key_id = hashlib.sha256(head.origin.encode() + b"\n\x01" + key).digest()[:4]
        VerifyKey(key).verify(head.text, head.lines[head.origin, key_id])

    def entries(self) -> list[bytes]:
        found = []
        for number in range((self._size + 255) // 256):
            width = min(256, self._size - number * 256)
            data = self._fetch(_path("entries", number, width))
            for _ in range(width):
                length = data[0] * 256 + data[1]
                found.append(data[2 : 2 + length])
                data = data[2 + length :]
            assert not data
        return found

    def root(self) -> bytes:
        """The tree's hash from tiles alone, without an entry."""
        return self._mth(0, self._size)

    def inclusion_path(self, leaf: int) -> list[bytes]:
        """PATH of RFC 6962 section 2.1.1, from tiles alone."""
        return self._path(leaf, 0, self._size)

    def _path(self, leaf: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + _split(end - start)
        if leaf < middle:
            return [*self._path(leaf, start, middle), self._mth(middle, end)]
        return [*self._path(leaf, middle, end), self._mth(start, middle)]

    def _mth(self, start: int, end: int) -> bytes:
        width = end - start
        if width & (width - 1) == 0:  # a complete subtree: its hash stands in a tile, or is made of a tile's hashes
            level = (width.bit_length() - 1) // 8
            return _joined(self._hashes(level, start // 256**level, width // 256**level))
        middle = start + _split(width)
        return _node(self._mth(start, middle), self._mth(middle, end))

    def _hashes(self, level: int, first: int, count: int) -> list[bytes]:
        """Consecutive hashes of one level, within one tile."""
        number, offset = divmod(first, 256)
        width = min(256, self._size // 256**level - number * 256)
        data = self._fetch(_path(str(level), number, width))
        assert len(data) == 32 * width
        return [data[32 * at : 32 * at + 32] for at in range(offset, offset + count)]


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def root_from_path(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The recursion of `PATH` the other way round."""
    if size == 1:
        assert not path
        return leaf
    middle = _split(size)
    if index < middle:
        return _node(root_from_path(leaf, index, middle, path[:-1]), path[-1])
    return _node(path[-1], root_from_path(leaf, index - middle, size - middle, path[:-1]))


def _path(level: str, number: int, width: int) -> str:
    text = f"{number:03d}"
    text = text.zfill(-(-len(text) // 3) * 3)
    groups = [text[at : at + 3] for at in range(0, len(text), 3)]
    place = "/".join([*("x" + group for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{place}" + (f".p/{width}" if width < 256 else "")


def _joined(hashes: list[bytes]) -> bytes:
    while len(hashes) > 1:
        hashes = [_node(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def _split(width: int) -> int:
    return 1 << (width - 1).bit_length() - 1


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
