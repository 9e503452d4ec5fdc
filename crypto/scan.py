"""The hot loop: b'_c = sum over d of b_d P_{c,d}, for one probe or several, reading the gallery once.

Invariants: products of two 27-bit residues have 54 bits and up to 632 of them are added in 64 bits without reduction inside; one
reduction ends each coefficient. The loop reads 3.375 bytes a record and dimension and is limited by memory bandwidth. Threads come from
`workers`. Where the words lie is `packed_words`' and `ordered_probe`'s affair, the innermost loop `dot`'s; what the words are, and what
becomes of the sums, is left to `gallery` and `answer`.

The plain formula, which `tests/reference.py` computes with Python integers: out[k, c, i] = sum_d words[c, d, i] * probes[k][d, i] mod q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from crypto.dot import add_products, add_products_of_four, add_products_of_two
from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.ordered_probe import OrderedProbe
from crypto.packed_words import BLOCK, BLOCKS, GROUP, GROUP_WORDS, SECTION_GROUPS, TILE, PackedWords
from crypto.ring import I64, U32, U64, N, reduce_word
from crypto.workers import split

_SHARES: Final = 2
"""Parts that a tile is scanned in, each with as many of its blocks: a gallery of a few tiles comes out even on several cores."""
_BLOCKS_A_SHARE: Final = BLOCKS // _SHARES


def scan_words(words: PackedWords, probes: Sequence[OrderedProbe], *, threads: int | None = None) -> U32:
    """Inner products of every chunk with every probe, in eval form; uint32[K, chunks, N].

    Nothing is checked for its range here: the gallery's words were when they were packed, the probes' when they were put in order.
    """
    if not probes or any(probe.dimensions != words.dimensions for probe in probes):
        raise MisuseError("a scan has probes, each of as many dimensions as the gallery")
    addresses = probes[0].address if len(probes) == 1 else np.concatenate([probe.address for probe in probes])
    out = np.empty((len(probes), words.chunks, N), np.uint32)

    def scan_range(first: int, last: int) -> None:
        scan_shares(words.flat, words.chunks, words.groups, addresses, first, last, out)

    split(-(-words.chunks // TILE) * _SHARES, scan_range, threads)
    return out


@kernel
def scan_shares(flat: U64, chunks: int, groups: int, probes: I64, first: int, last: int, out: U32) -> None:
    """Shares `first` to `last` - 1 of every probe's scan: share s has the blocks of place s % 2 of the tile s // 2.

    `flat`, `chunks`, `groups` of `PackedWords`; `probes` int64[K], the address of each one's words (`OrderedProbe.address`), which the
    caller holds; out uint32[K, chunks, N]. A tile's words of one section and block, 54 KiB, are read by four probes after the other four
    while they are in a second-level cache.
    """
    count, sum_bytes = probes.size, 8 * BLOCK
    sums = np.empty((_BLOCKS_A_SHARE, TILE, count, BLOCK), np.uint64)
    words_at, probes_at, sums_at = flat.ctypes.data, probes.ctypes.data, sums.ctypes.data
    for share in range(first, last):
        tile, begin = share // _SHARES * TILE, share % _SHARES * _BLOCKS_A_SHARE
        tile_chunks = min(TILE, chunks - tile)
        sums[:] = np.uint64(0)
        for section in range(0, groups, SECTION_GROUPS):
            used = min(SECTION_GROUPS, groups - section)
            here = words_at + 8 * GROUP_WORDS * ((tile * groups + section * tile_chunks) * BLOCKS + begin * tile_chunks * used)
            for block in range(_BLOCKS_A_SHARE):
                beside = 4 * (section * GROUP * N + (begin + block) * used * GROUP * BLOCK)
                target = sums_at + block * TILE * count * sum_bytes
                probe = 0
                while probe < count:
                    together = 4 if count - probe >= 4 else 2 if count - probe >= 2 else 1
                    those = probes_at + 8 * probe
                    for chunk in range(tile_chunks):
                        source, to = here + 8 * chunk * used * GROUP_WORDS, target + (chunk * count + probe) * sum_bytes
                        if together == 4:
                            add_products_of_four(source, used, those, beside, to)
                        elif together == 2:
                            add_products_of_two(source, used, those, beside, to)
                        else:
                            add_products(source, used, those, beside, to)
                    probe += together
                here += 8 * tile_chunks * used * GROUP_WORDS
        for chunk in range(tile_chunks):
            for probe in range(count):
                for block in range(_BLOCKS_A_SHARE):
                    at = (begin + block) * BLOCK
                    for i in range(BLOCK):
                        out[probe, tile + chunk, at + i] = np.uint32(reduce_word(sums[block, chunk, probe, i]))
