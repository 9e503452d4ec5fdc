"""How a gallery's words lie in memory: 27 bits each, in the order in which the scan reads them.

A residue has 27 bits; in 32-bit words a gallery is as large as float32 vectors, and memory bandwidth is what limits the scan. Here 32
dimensions of a chunk take the room of 27: in each 64-bit word the bits 0..26 and 37..63 hold a residue each, and the ten bits between them
hold a part of one of five further pairs. Bits between them of words 5e to 5e + 4 are bits 0..49 of pair e, four bits each of the last two
words' twenty are its bits 50..53; the low 27 bits of a pair are one residue, the high 27 the other.

Order, from the outermost: *tiles* of 16 chunks; *sections* of up to 64 dimensions; *blocks* of 16 coefficients; the tile's chunks; the
section's groups of 32 dimensions; 27 vectors of 8 words. So a scan reads one linear stream (vectors of one group in order, and groups of
one chunk after another), while the section of the probes that it multiplies with, 4 KiB of each, stays in a first-level cache, and sums
stay in registers. Other orders measured up to three times slower: prefetching follows loads in order, and a whole block of a probe, 32 KiB,
drives the stream out of the cache. Dimensions that are no multiple of 32 are filled up with zeros.

Invariants: every residue is below q; words of dimensions that the gallery does not have are zero. What the polynomials stand for is left
to `gallery`, the multiplication to `scan`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from crypto import ring
from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.parameters import SEALMATCH_1
from crypto.ring import U32, U64, N

LANES: Final = 8
"""64-bit words of a vector: a 512-bit register, or two of 256 bits."""
BLOCK: Final = 2 * LANES
"""Coefficients of a block: each vector holds two of a lane."""
BLOCKS: Final = N // BLOCK
GROUP: Final = 32
"""Dimensions of a group."""
VECTORS: Final = 27
"""Vectors that hold a group."""
SECTION_GROUPS: Final = 2
"""Groups of a section: 64 dimensions, whose words of four probes take 16 KiB a block."""
TILE: Final = 16
"""Chunks of a tile."""
GROUP_WORDS: Final = VECTORS * LANES
_ALIGNED_TO: Final = 64
_RESIDUE: Final = np.uint64((1 << 27) - 1)
_SPARE: Final = np.uint64((1 << 10) - 1)
_NIBBLE: Final = np.uint64(15)
_S4, _S10, _S27, _S37, _S50 = (np.uint64(bits) for bits in (4, 10, 27, 37, 50))


class PackedWords:
    """Room for `chunks` chunks of `dimensions` polynomials in eval form, 3.375 bytes a coefficient.

    `flat` is uint64, aligned to 64 bytes, in the order above. Fresh room is zero; memory is taken when it is first written.
    """

    __slots__ = ("chunks", "dimensions", "flat", "groups")

    def __init__(self, chunks: int, dimensions: int) -> None:
        if dimensions % 8 or not 8 <= dimensions <= SEALMATCH_1.max_dimensions or chunks < 1:
            raise MisuseError("packed words have a chunk at least, and dimensions that are a multiple of 8 within the bound of 64-bit sums")
        self.chunks = chunks
        self.dimensions = dimensions
        self.groups = -(-dimensions // GROUP)
        words = chunks * BLOCKS * self.groups * GROUP_WORDS
        room = np.zeros(words + _ALIGNED_TO // 8, np.uint64)  # large arrays ask the system for huge pages (NumPy)
        start = -room.ctypes.data % _ALIGNED_TO // 8
        self.flat: U64 = room[start : start + words]

    @classmethod
    def of(cls, words_eval: U32) -> PackedWords:
        """The packed form of uint32[chunks, D, N] of residues."""
        ring.check_residues(words_eval)
        if words_eval.ndim != 3 or words_eval.shape[2] != N:
            raise MisuseError("polynomials of chunks are uint32[chunks, D, N]")
        packed = cls(words_eval.shape[0], words_eval.shape[1])
        for chunk, polynomials in enumerate(words_eval):
            packed.put(chunk, polynomials)
        return packed

    @property
    def nbytes(self) -> int:
        """Bytes of its chunks' words."""
        return self.chunks * BLOCKS * self.groups * GROUP_WORDS * 8

    def put(self, chunk: int, polynomials_eval: U32) -> None:
        """Write a chunk; uint32[D, N] of residues."""
        rows = np.zeros((self.groups * GROUP, N), np.uint32)
        rows[: self.dimensions] = polynomials_eval
        for group in range(self.groups):
            pack_group(rows[group * GROUP : (group + 1) * GROUP], self.flat, *place_of_group(chunk, group, self.chunks, self.groups))

    def chunk_eval(self, chunk: int) -> U32:
        """A chunk's polynomials; uint32[D, N]."""
        rows = np.empty((self.groups * GROUP, N), np.uint32)
        for group in range(self.groups):
            unpack_group(self.flat, *place_of_group(chunk, group, self.chunks, self.groups), rows[group * GROUP : (group + 1) * GROUP])
        return rows[: self.dimensions]

    def __repr__(self) -> str:
        return f"PackedWords(chunks={self.chunks}, dimensions={self.dimensions}, words=<redacted>)"


@kernel
def place_of_group(chunk: int, group: int, chunks: int, groups: int) -> tuple[int, int]:
    """Where block 0 of a chunk's group begins in `flat`, and how far it is to each following block; both in words."""
    tile = chunk // TILE * TILE
    tile_chunks = min(TILE, chunks - tile)
    section = group // SECTION_GROUPS * SECTION_GROUPS
    section_groups = min(SECTION_GROUPS, groups - section)
    step = tile_chunks * section_groups * GROUP_WORDS
    start = (tile * groups + section * tile_chunks) * BLOCKS * GROUP_WORDS
    return start + ((chunk - tile) * section_groups + group - section) * GROUP_WORDS, step


@kernel
def pack_group(rows: U32, flat: U64, start: int, step: int) -> None:
    """Write one group of a chunk; rows uint32[32, N], block b to `flat` from start + b * step on."""
    pairs = np.empty((6, LANES), np.uint64)  # the last row: four bits of each of the five
    for block in range(BLOCKS):
        at, low, high = start + block * step, block * BLOCK, block * BLOCK + LANES
        for lane in range(LANES):
            rest = np.uint64(0)
            for e in range(5):
                pair = np.uint64(rows[VECTORS + e, low + lane]) | (np.uint64(rows[VECTORS + e, high + lane]) << _S27)
                pairs[e, lane] = pair
                rest |= (pair >> _S50) << (_S4 * np.uint64(e))
            pairs[5, lane] = rest
        for vector in range(VECTORS):
            source, shift = vector // 5, _S10 * np.uint64(vector % 5)
            for lane in range(LANES):
                spare = (pairs[source, lane] >> shift) & _SPARE
                residues = np.uint64(rows[vector, low + lane]) | (np.uint64(rows[vector, high + lane]) << _S37)
                flat[at + vector * LANES + lane] = residues | (spare << _S27)


@kernel
def unpack_group(flat: U64, start: int, step: int, rows: U32) -> None:
    """The inverse of `pack_group`."""
    for block in range(BLOCKS):
        at, low, high = start + block * step, block * BLOCK, block * BLOCK + LANES
        for lane in range(LANES):
            for vector in range(VECTORS):
                word = flat[at + vector * LANES + lane]
                rows[vector, low + lane] = np.uint32(word & _RESIDUE)
                rows[vector, high + lane] = np.uint32(word >> _S37)
            for e in range(5):
                rest = (flat[at + 25 * LANES + lane] >> _S27) & _SPARE
                rest |= ((flat[at + 26 * LANES + lane] >> _S27) & _SPARE) << _S10
                pair = ((rest >> (_S4 * np.uint64(e))) & _NIBBLE) << _S50
                for part in range(5):
                    pair |= ((flat[at + (5 * e + part) * LANES + lane] >> _S27) & _SPARE) << (_S10 * np.uint64(part))
                rows[VECTORS + e, low + lane] = np.uint32(pair & _RESIDUE)
                rows[VECTORS + e, high + lane] = np.uint32(pair >> _S27)
