"""The hot loop: b'_c = sum over d of b_d P_{c,d}, for one probe or several, reading the gallery once.

Invariants: products of two 27-bit residues have 54 bits and up to 632 of them are added in 64 bits without reduction inside; one
reduction ends each coefficient. The loop reads four bytes a record and dimension and is limited by memory bandwidth. Threads come from
`workers`. What the words are, and what becomes of the sums, is left to `gallery` and `answer`.

The plain formula, which `tests/reference.py` computes with Python integers: out[k, c, i] = sum_d words[c, d, i] * probes[k, d, i] mod q.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.parameters import SEALMATCH_1
from crypto.ring import U32, U64, N, reduce_word
from crypto.workers import split

_PROBE_PADDING: Final = 16
_SUMS_PADDING: Final = 24
"""Words after each row. Rows of 4,096 bytes all fall into one set of a first-level cache: with the gallery's eight rows, the probe's
four and the two of sums side by side they drive each other out. Moving probe and sums to other sets measured 10 to 20 % faster."""
_SHARED_CHUNKS: Final = 4
"""Chunks that all probes of a pass read before the next are fetched: 8 MB at D = 512, which a processor's last cache keeps."""


def scan_words(words_eval: U32, probes_eval: U32, *, threads: int | None = None) -> U32:
    """Inner products of every chunk with every probe, in eval form.

    uint32[chunks, D, N] and uint32[K, D, N] of residues in, uint32[K, chunks, N] out. The gallery's words were checked when they were
    packed and are not read twice for a range check; the probes' are checked here.
    """
    if words_eval.ndim != 3 or probes_eval.ndim != 3 or words_eval.shape[1:] != probes_eval.shape[1:] or words_eval.shape[2] != N:
        raise MisuseError("gallery and probes have shapes [chunks, D, N] and [K, D, N]")
    if words_eval.dtype != np.uint32 or probes_eval.dtype != np.uint32 or not words_eval.flags.c_contiguous:
        raise MisuseError("gallery and probes are uint32, the gallery contiguous")
    if words_eval.shape[1] % 8 or words_eval.shape[1] > SEALMATCH_1.max_dimensions:
        raise MisuseError("dimensions are a multiple of 8 within the bound of 64-bit sums")
    if probes_eval.size and int(probes_eval.max()) >= SEALMATCH_1.modulus:
        raise MisuseError("a word is not below the modulus")
    probes = np.empty((*probes_eval.shape[:2], N + _PROBE_PADDING), np.uint32)
    probes[:, :, :N] = probes_eval
    out = np.empty((probes.shape[0], words_eval.shape[0], N), np.uint32)

    def scan_range(first: int, last: int) -> None:
        sums = np.empty((2, N + _SUMS_PADDING), np.uint64)
        step = max(1, last - first) if len(probes) == 1 else _SHARED_CHUNKS
        for start in range(first, last, step):
            for probe, sums_mod_q in zip(probes, out, strict=True):
                scan_chunks(words_eval, probe, start, min(start + step, last), sums, sums_mod_q)

    split(words_eval.shape[0], scan_range, threads)
    return out


@kernel
def scan_chunks(words: U32, probe: U32, first: int, last: int, sums: U64, out: U32) -> None:
    """Chunks `first` to `last` - 1 of one probe's scan; probe uint32[D, N and padding], `sums` scratch, uint64[2, N and
    padding], out uint32[chunks, N].

    A pass over the sums takes four dimensions of two chunks: each sum is read and written once for four products, and a word of the probe
    serves twice. The four lie a quarter of D apart, so that every one of the eight rows is followed by its neighbour in the next pass; four
    neighbours at once measured 5 to 10 % slower. An odd last chunk is its own partner and is written twice.
    """
    quarter, degree = words.shape[1] // 4, out.shape[1]
    left, right = sums[0], sums[1]
    for chunk in range(first, last, 2):
        partner = min(chunk + 1, last - 1)
        sums[:] = np.uint64(0)
        for d0 in range(quarter):
            d1, d2, d3 = d0 + quarter, d0 + 2 * quarter, d0 + 3 * quarter
            u0, u1, u2, u3 = words[chunk, d0], words[chunk, d1], words[chunk, d2], words[chunk, d3]
            v0, v1, v2, v3 = words[partner, d0], words[partner, d1], words[partner, d2], words[partner, d3]
            b0, b1, b2, b3 = probe[d0], probe[d1], probe[d2], probe[d3]
            for i in range(degree):
                x0, x1, x2, x3 = np.uint64(b0[i]), np.uint64(b1[i]), np.uint64(b2[i]), np.uint64(b3[i])
                left[i] += np.uint64(u0[i]) * x0 + np.uint64(u1[i]) * x1 + np.uint64(u2[i]) * x2 + np.uint64(u3[i]) * x3
                right[i] += np.uint64(v0[i]) * x0 + np.uint64(v1[i]) * x1 + np.uint64(v2[i]) * x2 + np.uint64(v3[i]) * x3
        for i in range(degree):
            out[chunk, i] = np.uint32(reduce_word(left[i]))
            out[partner, i] = np.uint32(reduce_word(right[i]))
