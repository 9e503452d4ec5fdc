"""A probe's words in the order in which the scan needs them, put so once, where the probe is read.

Each pass over a gallery reads a probe once a tile. Its words stand by section, then block, then dimension, then lane, whose two words stand
side by side (`packed_words` explains these), so that they too are one rising stream. Putting them in order takes as long as scanning some
thousands of records: a holder does it before a probe waits for its pass, and the answer's calibration chunk is scanned with the same.

Invariants: words are residues below q; zeros stand where the last group has more dimensions than the probe. What is done with them is left
to `scan`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.packed_words import BLOCK, BLOCKS, GROUP, LANES, SECTION_GROUPS
from crypto.parameters import SEALMATCH_1
from crypto.ring import I64, U32, N

_ROWS_AT_ONCE: Final = 8
"""Dimensions that are put in order side by side: as many streams are read, and 512 bytes of each place are written in a row. One at a time
takes twice as long."""


_HUGE_PAGE: Final = 1 << 21
"""Bytes. In pages of 4 KiB a scan takes some per cent longer: looking up where they are is what it waits for."""


class OrderedProbe:
    """b_1..b_D of a probe, or other polynomials that are scanned as one; `flat` is uint32[groups * 32 * N], read-only.

    `address`, int64[1], is where it begins in this process's memory: at a huge page where the system gives these, of which 512 dimensions
    fill one.
    """

    __slots__ = ("address", "dimensions", "flat")

    def __init__(self, words_eval: U32) -> None:
        """Of polynomials in eval form, uint32[D, N] of residues; `MisuseError` for anything else."""
        if words_eval.ndim != 2 or words_eval.shape[1] != N or not words_eval.shape[0] or words_eval.dtype != np.uint32:
            raise MisuseError("a probe is uint32[D, N]")
        self.dimensions = words_eval.shape[0]
        groups = -(-self.dimensions // GROUP)
        size = groups * GROUP * N
        room = np.empty(size + _HUGE_PAGE // 4, np.uint32)  # from 4 MiB on NumPy asks for huge pages
        start = -room.ctypes.data % _HUGE_PAGE // 4
        self.flat: U32 = room[start : start + size]
        if order_words(np.ascontiguousarray(words_eval), groups, self.flat) >= SEALMATCH_1.modulus:
            raise MisuseError("a word is not below the modulus")
        self.flat.flags.writeable = False
        self.address: I64 = np.array([self.flat.ctypes.data])  # here, since it takes long where a scan has driven Python out of the caches

    def __repr__(self) -> str:
        return f"OrderedProbe(dimensions={self.dimensions}, words=<redacted>)"


@kernel
def order_words(words_eval: U32, groups: int, out: U32) -> np.uint32:
    """Writes uint32[D, N] to `out`, uint32[groups * 32 * N], in that order, and returns the largest word."""
    dimensions, degree = words_eval.shape
    largest = np.uint32(0)
    for section in range(0, groups, SECTION_GROUPS):
        used = min(SECTION_GROUPS, groups - section) * GROUP
        at = section * GROUP * degree
        for begin in range(0, used, _ROWS_AT_ONCE):
            for block in range(BLOCKS):
                for place in range(begin, begin + _ROWS_AT_ONCE):
                    dimension = section * GROUP + place
                    to = out[at + (block * used + place) * BLOCK : at + (block * used + place + 1) * BLOCK]
                    if dimension < dimensions:
                        words = words_eval[dimension, block * BLOCK : (block + 1) * BLOCK]
                        for lane in range(LANES):
                            to[2 * lane] = words[lane]
                            to[2 * lane + 1] = words[LANES + lane]
                            largest = max(largest, words[lane], words[LANES + lane])
                    else:
                        for i in range(BLOCK):
                            to[i] = np.uint32(0)
    return largest
