"""The hot loop: b'_c = sum over d of b_d P_{c,d}, for one probe or several, reading the gallery once.

Invariants: products of two 27-bit residues have 54 bits and up to 632 of them are added in 64 bits without reduction inside; one
reduction ends each coefficient. The loop reads four bytes a record and dimension and is limited by memory bandwidth. Threads come from
`workers`. What the words are, and what becomes of the sums, is left to `gallery` and `answer`.

The plain formula, which `tests/reference.py` computes with Python integers: out[k, c, i] = sum_d words[c, d, i] * probes[k, d, i] mod q.
"""

from __future__ import annotations

import numpy as np

from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.parameters import SEALMATCH_1
from crypto.ring import U32, U64, N, reduce_word
from crypto.workers import split


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
    probes = np.ascontiguousarray(probes_eval)
    out = np.empty((probes.shape[0], words_eval.shape[0], N), np.uint32)

    def scan_range(first: int, last: int) -> None:
        scan_chunks(words_eval, probes, first, last, np.empty((probes.shape[0], N), np.uint64), out)

    split(words_eval.shape[0], scan_range, threads)
    return out


@kernel
def scan_chunks(words: U32, probes: U32, first: int, last: int, sums: U64, out: U32) -> None:
    """Chunks `first` to `last` - 1 of the scan; `sums` is scratch, uint64[K, N]. Eight dimensions share one pass over the sums."""
    dimensions, degree = words.shape[1], words.shape[2]
    for chunk in range(first, last):
        sums[:] = np.uint64(0)
        for d in range(0, dimensions, 8):
            w0, w1, w2, w3 = words[chunk, d], words[chunk, d + 1], words[chunk, d + 2], words[chunk, d + 3]
            w4, w5, w6, w7 = words[chunk, d + 4], words[chunk, d + 5], words[chunk, d + 6], words[chunk, d + 7]
            for k in range(probes.shape[0]):
                b0, b1, b2, b3 = probes[k, d], probes[k, d + 1], probes[k, d + 2], probes[k, d + 3]
                b4, b5, b6, b7 = probes[k, d + 4], probes[k, d + 5], probes[k, d + 6], probes[k, d + 7]
                total = sums[k]
                for i in range(degree):
                    total[i] += (
                        np.uint64(w0[i]) * np.uint64(b0[i])
                        + np.uint64(w1[i]) * np.uint64(b1[i])
                        + np.uint64(w2[i]) * np.uint64(b2[i])
                        + np.uint64(w3[i]) * np.uint64(b3[i])
                        + np.uint64(w4[i]) * np.uint64(b4[i])
                        + np.uint64(w5[i]) * np.uint64(b5[i])
                        + np.uint64(w6[i]) * np.uint64(b6[i])
                        + np.uint64(w7[i]) * np.uint64(b7[i])
                    )
        for k in range(probes.shape[0]):
            for i in range(degree):
                out[k, chunk, i] = np.uint32(reduce_word(sums[k, i]))
