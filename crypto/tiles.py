"""The log as static files: C2SP's tlog-tiles layout, so that verifiers that others wrote read ours.

A *tile* is up to 256 consecutive hashes of one level of the tree, an *entry bundle* the data of the leaves below a tile of level 0, each
behind its length. Which of them a log of a size has follows from the size alone, and a full one never changes.

    checkpoint                        the signed note
    tile/<L>/<N>[.p/<W>]              level L, tile N, of width W if it is not full
    tile/entries/<N>[.p/<W>]          the leaves' data

Invariants: a path has one spelling; content has exactly as many hashes or entries as its width. Left to others: files and routes
(services), what a leaf says (`entries`), whether the hashes are those under a root (`ledger`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from crypto.errors import FieldError, MisuseError, TileError
from crypto.ledger import HASH_BYTES, MAX_TREE_SIZE, MerkleTree

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
MAX_LEVEL: Final = 63
CHECKPOINT_PATH: Final = "checkpoint"

_LENGTH_BYTES: Final = 2
_PATH: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


@dataclass(frozen=True, slots=True)
class TilePath:
    """Where a tile or, with `level` None, an entry bundle stands. `FieldError` for a place that no log has."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise FieldError(f"a tile's level is 0 to {MAX_LEVEL}")
        if not 0 <= self.index <= MAX_TREE_SIZE >> TILE_HEIGHT:
            raise FieldError("a tile's index is out of range")
        if not 1 <= self.width <= TILE_WIDTH:
            raise FieldError(f"a tile is 1 to {TILE_WIDTH} wide")

    @property
    def is_full(self) -> bool:
        """Whether it is as wide as tiles get, and so the same for ever."""
        return self.width == TILE_WIDTH

    @property
    def start(self) -> int:
        """Of its hashes or entries, the place of the first in the level."""
        return self.index << TILE_HEIGHT

    def __str__(self) -> str:
        groups = [f"{self.index % 1000:03d}"]
        rest = self.index // 1000
        while rest:
            groups.append(f"x{rest % 1000:03d}")
            rest //= 1000
        level = "entries" if self.level is None else str(self.level)
        return f"tile/{level}/{'/'.join(reversed(groups))}" + ("" if self.is_full else f".p/{self.width}")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Inverse of `str`; `FieldError` for any other spelling."""
        found = _PATH.fullmatch(text)
        if found is None:
            raise FieldError("this is no path of a tile")
        level = None if found["level"] == "entries" else int(found["level"])
        made = cls(level, int(found["index"].replace("x", "").replace("/", "")), int(found["width"] or TILE_WIDTH))
        if str(made) != text:
            raise FieldError("a tile's path has one spelling")
        return made


def tiles_of(size: int) -> Iterator[TilePath]:
    """Every entry bundle and tile of a log of that size: bundles first, then level by level, each from the left."""
    yield from _across(None, size)
    level = 0
    while size:
        yield from _across(level, size)
        level, size = level + 1, size >> TILE_HEIGHT


def tile_bytes(tree: MerkleTree, path: TilePath) -> bytes:
    """The hashes of a tile that the tree has; `MisuseError` for one that it has not."""
    if path.level is None:
        raise MisuseError("an entry bundle is made of leaves, not of hashes")
    return b"".join(tree.subtree_roots(path.level * TILE_HEIGHT, path.start, path.width))


def tile_hashes(data: bytes, width: int) -> list[bytes]:
    """Inverse of `tile_bytes`; `TileError` for another number of hashes."""
    if len(data) != width * HASH_BYTES:
        raise TileError("a tile has another number of hashes than its path says")
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def pack_entries(entries: Iterable[bytes]) -> bytes:
    """The content of an entry bundle: each leaf's data behind its length, two bytes, most significant first."""
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def unpack_entries(data: bytes, width: int) -> list[bytes]:
    """Inverse of `pack_entries`; `TileError` for another number of entries, or one that is cut off."""
    entries, at = [], 0
    for _ in range(width):
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(data[at:begin], "big")
        if begin > len(data) or at > len(data):
            raise TileError("an entry bundle ends before its last entry")
        entries.append(data[begin:at])
    if at != len(data):
        raise TileError("an entry bundle has more than its path says")
    return entries


def _across(level: int | None, width: int) -> Iterator[TilePath]:
    full, rest = divmod(width, TILE_WIDTH)
    for index in range(full):
        yield TilePath(level, index)
    if rest:
        yield TilePath(level, full, rest)
