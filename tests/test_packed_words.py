"""Words of 27 bits: they come back, take 3.375 bytes each, and are scanned right whatever the number of chunks and dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from crypto import dot
from crypto.errors import MisuseError
from crypto.ordered_probe import OrderedProbe
from crypto.packed_words import BLOCK, BLOCKS, GROUP, GROUP_WORDS, LANES, TILE, PackedWords
from crypto.ring import U32, N, Q
from crypto.scan import scan_words

RNG = np.random.default_rng(27)


def residues(*shape: int) -> U32:
    """Random residues; the first few the largest there is."""
    words = RNG.integers(0, Q, shape, dtype=np.uint32)
    words[..., :20] = Q - 1
    return words


@pytest.mark.parametrize("chunks", [1, TILE - 1, TILE, TILE + 1, 2 * TILE + 1])
@pytest.mark.parametrize("dimensions", [8, 64, 136])
def test_words_come_back_and_are_scanned_in_every_place(chunks: int, dimensions: int) -> None:
    """Whole and broken tiles, sections and groups: places of one chunk are nobody else's, and each sum is that of its own chunk."""
    words, probes = residues(chunks, dimensions, N), residues(7, dimensions, N)  # four, two and one side by side
    packed = PackedWords.of(words)
    assert all((packed.chunk_eval(chunk) == words[chunk]).all() for chunk in range(chunks))
    plain = np.zeros((7, chunks, N), np.uint64)
    for d in range(dimensions):
        plain = (plain + words[None, :, d].astype(np.uint64) * probes[:, None, d]) % np.uint64(Q)
    assert (scan_words(packed, [OrderedProbe(probe) for probe in probes]) == plain).all()


@pytest.mark.parametrize("dimensions", [512, 632])
def test_many_dimensions(dimensions: int) -> None:
    words, probe = residues(3, dimensions, N), residues(dimensions, N)
    packed = PackedWords.of(words)
    assert (packed.chunk_eval(2) == words[2]).all()
    plain = np.zeros((3, N), np.uint64)
    for d in range(dimensions):
        plain = (plain + words[:, d].astype(np.uint64) * probe[d]) % np.uint64(Q)
    assert (scan_words(packed, [OrderedProbe(probe)])[0] == plain).all()


@pytest.mark.parametrize("lanes", [LANES, LANES // 2])
@pytest.mark.parametrize("count", [1, 4])
def test_whole_and_half_vectors_give_the_same_sums(count: int, lanes: int) -> None:
    """Which of them is used depends on the processor: both are tried on every one."""
    words, probes = residues(1, GROUP, N), residues(count, GROUP, N)
    packed, ordered = PackedWords.of(words), [OrderedProbe(probe) for probe in probes]
    addresses = np.concatenate([probe.address for probe in ordered])
    sums = np.ones((BLOCKS, count, BLOCK), np.uint64)
    add: Callable[..., None] = dot._add_products_of(count, lanes)

    def every_block(words_at: int, probes_at: int, sums_at: int) -> None:
        for block in range(BLOCKS):
            source, beside = words_at + block * 8 * GROUP_WORDS, block * 4 * GROUP * BLOCK
            add(source, 1, probes_at, beside, sums_at + block * 8 * count * BLOCK)

    compiled: Any = numba.njit(every_block)
    compiled(packed.flat.ctypes.data, addresses.ctypes.data, sums.ctypes.data)
    plain = (words.astype(np.uint64) * probes).sum(axis=1).reshape(count, BLOCKS, BLOCK)
    assert (sums == 1 + plain.transpose(1, 0, 2)).all()


def test_a_word_takes_27_bits() -> None:
    assert PackedWords(5, 128).nbytes == PackedWords(5, 128).flat.nbytes == 5 * 128 * N * 27 // 8
    assert PackedWords(5, 512).flat.ctypes.data % 64 == 0


def test_a_probe_of_512_dimensions_fills_one_huge_page() -> None:
    probe = OrderedProbe(residues(512, N))
    assert (int(probe.address[0]) % (1 << 21), probe.flat.nbytes) == (0, 1 << 21)


def test_a_chunk_is_rewritten_alone() -> None:
    words = residues(TILE + 2, 16, N)
    packed = PackedWords.of(words)
    packed.put(TILE, residues(16, N))
    assert (packed.chunk_eval(TILE) != words[TILE]).any()
    assert all((packed.chunk_eval(chunk) == words[chunk]).all() for chunk in range(TILE + 2) if chunk != TILE)


def test_what_does_not_fit_is_refused() -> None:
    for chunks, dimensions in ((0, 8), (1, 0), (1, 12), (1, 640)):
        with pytest.raises(MisuseError):
            PackedWords(chunks, dimensions)
    for bad in (np.full((1, 8, N), Q, np.uint32), np.zeros((1, 8, N // 2), np.uint32), np.zeros((8, N), np.uint32)):
        with pytest.raises(MisuseError):
            PackedWords.of(bad)


def test_words_do_not_show() -> None:
    assert repr(PackedWords(1, 8)) == "PackedWords(chunks=1, dimensions=8, words=<redacted>)"
    assert repr(OrderedProbe(residues(8, N))) == "OrderedProbe(dimensions=8, words=<redacted>)"
