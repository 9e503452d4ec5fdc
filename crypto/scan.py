"""The hot loop: b'_c = sum over d of b_d P_{c,d}, for one probe or several, reading the gallery once.

Invariants: products of two 27-bit residues have 54 bits and up to 632 of them are added in 64 bits without reduction inside; one
reduction ends each coefficient. The loop reads 3.375 bytes a record and dimension and is limited by memory bandwidth. Threads come from
`workers`. Where the words lie is `packed_words`' affair, the innermost loop `dot`'s; what the words are, and what becomes of the sums, is
left to `gallery` and `answer`.

The plain formula, which `tests/reference.py` computes with Python integers: out[k, c, i] = sum_d words[c, d, i] * probes[k, d, i] mod q.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from crypto.dot import add_products, add_products_of_four, add_products_of_two
from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.packed_words import BLOCK, BLOCKS, GROUP, GROUP_WORDS, LANES, SECTION_GROUPS, TILE, PackedWords
from crypto.parameters import SEALMATCH_1
from crypto.ring import U32, U64, N, reduce_word
from crypto.workers import split

_ROWS_AT_ONCE: Final = 8
"""Dimensions of a probe that are put in order side by side: as many streams are read, and 512 bytes of each place are written in a row.
One at a time takes twice as long."""


def scan_words(words: PackedWords, probes_eval: U32, *, threads: int | None = None) -> U32:
    """Inner products of every chunk with every probe, in eval form.

    uint32[K, D, N] of residues in, uint32[K, chunks, N] out. The gallery's words were checked when they were packed and are not read twice
    for a range check; the probes' are checked here.
    """
    if probes_eval.ndim != 3 or probes_eval.shape[1:] != (words.dimensions, N) or probes_eval.dtype != np.uint32:
        raise MisuseError("probes are uint32[K, D, N] with the gallery's D")
    probes = np.empty((probes_eval.shape[0], words.groups * GROUP * N), np.uint32)
    out = np.empty((probes.shape[0], words.chunks, N), np.uint32)

    def order() -> None:
        if order_probes(np.ascontiguousarray(probes_eval), words.groups, probes) >= SEALMATCH_1.modulus:
            raise MisuseError("a word is not below the modulus")

    def scan_range(first: int, last: int) -> None:
        sums = np.empty((BLOCKS, TILE, probes.shape[0], BLOCK), np.uint64)
        scan_tiles(words.flat, words.laid_chunks, words.groups, probes, first * TILE, min(last * TILE, words.chunks), sums, out)

    split(-(-words.chunks // TILE), scan_range, threads, before=order)
    return out


@kernel
def order_probes(probes_eval: U32, groups: int, out: U32) -> np.uint32:
    """Each probe's words in the order in which they are needed: by section, then block, then dimension, then lane, whose two words stand
    side by side; uint32[K, D, N] in, uint32[K, groups * 32 * N], zeros where the gallery has no dimension, out. The largest word."""
    count, dimensions, degree = probes_eval.shape
    largest = np.uint32(0)
    for probe in range(count):
        for section in range(0, groups, SECTION_GROUPS):
            used = min(SECTION_GROUPS, groups - section) * GROUP
            at = section * GROUP * degree
            for begin in range(0, used, _ROWS_AT_ONCE):
                for block in range(BLOCKS):
                    for place in range(begin, begin + _ROWS_AT_ONCE):
                        dimension = section * GROUP + place
                        to = out[probe, at + (block * used + place) * BLOCK : at + (block * used + place + 1) * BLOCK]
                        if dimension < dimensions:
                            words = probes_eval[probe, dimension, block * BLOCK : (block + 1) * BLOCK]
                            for lane in range(LANES):
                                to[2 * lane] = words[lane]
                                to[2 * lane + 1] = words[LANES + lane]
                                largest = max(largest, words[lane], words[LANES + lane])
                        else:
                            for i in range(BLOCK):
                                to[i] = np.uint32(0)
    return largest


@kernel
def scan_tiles(flat: U64, laid_chunks: int, groups: int, probes: U32, first: int, last: int, sums: U64, out: U32) -> None:
    """Chunks `first` to `last` - 1 of every probe's scan; `first` begins a tile.

    `flat`, `laid_chunks`, `groups` of `PackedWords`; probes uint32[K, groups * 32 * N] by sections; `sums` scratch, uint64[blocks, tile,
    K, 16]; out uint32[K, chunks, N]. A tile's words of one section and block, 54 KiB, are read by four probes after the other four while
    they are in a second-level cache.
    """
    words_at, probes_at, sums_at = flat.ctypes.data, probes.ctypes.data, sums.ctypes.data
    count, probe_bytes, sum_bytes = probes.shape[0], 4 * probes.shape[1], 8 * BLOCK
    for tile in range(first, last, TILE):
        tile_chunks, laid = min(TILE, last - tile), min(TILE, laid_chunks - tile)
        sums[:] = np.uint64(0)
        here = words_at + 8 * tile * groups * BLOCKS * GROUP_WORDS
        for section in range(0, groups, SECTION_GROUPS):
            used = min(SECTION_GROUPS, groups - section)
            for block in range(BLOCKS):
                factor = probes_at + 4 * (section * GROUP * N + block * used * GROUP * BLOCK)
                target = sums_at + block * TILE * count * sum_bytes
                probe = 0
                while probe < count:
                    together = 4 if count - probe >= 4 else 2 if count - probe >= 2 else 1
                    for chunk in range(tile_chunks):
                        source = here + 8 * chunk * used * GROUP_WORDS
                        beside, to = factor + probe * probe_bytes, target + (chunk * count + probe) * sum_bytes
                        if together == 4:
                            add_products_of_four(source, used, beside, probe_bytes, to)
                        elif together == 2:
                            add_products_of_two(source, used, beside, probe_bytes, to)
                        else:
                            add_products(source, used, beside, probe_bytes, to)
                    probe += together
                here += 8 * laid * used * GROUP_WORDS
        for chunk in range(tile_chunks):
            for probe in range(count):
                for block in range(BLOCKS):
                    for i in range(BLOCK):
                        out[probe, tile + chunk, block * BLOCK + i] = np.uint32(reduce_word(sums[block, chunk, probe, i]))
