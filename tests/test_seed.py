"""Seeds and samplers: exact distributions, fixed vectors, no way to read a seed by accident."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import numpy.typing as npt
import pytest

from crypto import ring
from crypto.errors import KeyDestroyedError, LocalError, MisuseError
from crypto.ring import Q
from crypto.seed import (
    Seed,
    _check_filled,
    _fill_buckets,
    _shuffle,
    _take_below,
    blinding_errors,
    gaussians,
    permutation,
    stream_bytes,
    taken_at,
    ternary,
    uniform_residues,
)

FIXED = Seed(bytes(range(32)))


def test_vectors() -> None:
    """The expansion is part of the format: an answer made today must replay in ten years."""
    assert FIXED.child("order", b"ctx").export_secret().hex() == "399306101b3602207155e79236f2962f85bad1e2b2a43c509a0810532bb8f57c"
    assert uniform_residues(FIXED, "mask", 4).tolist() == [55185949, 42778802, 17957948, 44832342]
    assert ring.centred(ternary(FIXED, "u", 12)).tolist() == [-1, 0, 1, 0, 0, 0, 1, -1, -1, 0, 1, 0]
    assert ring.centred(blinding_errors(FIXED, "e", 6)).tolist() == [-46, 91, -142, -63, -73, -6]
    assert permutation(FIXED, "order", 10).tolist() == [6, 0, 8, 1, 9, 2, 4, 3, 7, 5]
    assert gaussians(FIXED, "basis", 2) == pytest.approx([0.24705198596389144, -0.04240479286683147])


def test_labels_contexts_and_parents_separate() -> None:
    children = [FIXED, FIXED.child("a"), FIXED.child("b"), FIXED.child("a", b"x"), FIXED.child("a").child("a"), Seed.fresh().child("a")]
    streams = [stream_bytes(seed, label, 32).tobytes() for seed in children for label in ("mask", "u")]
    assert len(set(streams)) == len(streams)


def chi_square(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Standardised chi-square statistic of equal expectations: about normal, mean 0, deviation 1."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def test_samplers_are_uniform() -> None:
    seed, count = Seed(b"u" * 32), 1_000_000
    residues = uniform_residues(seed, "mask", count)
    assert int(residues.max()) < Q
    assert abs(chi_square(np.bincount(residues % 1000, minlength=1000))) < 5
    assert abs(chi_square(np.bincount(residues * np.uint64(1000) // np.uint64(Q), minlength=1000))) < 5
    assert abs(chi_square(np.bincount(ring.centred(ternary(seed, "u", count)) + 1))) < 5
    first = np.array([permutation(seed, f"p{i}", 10) for i in range(3000)])
    for place in range(10):
        assert abs(chi_square(np.bincount(first[:, place], minlength=10))) < 5
    assert abs(chi_square(np.bincount(first[:, 0] * 10 + first[:, 1], minlength=100)[[i for i in range(100) if i // 10 != i % 10]])) < 5


def test_blinding_errors_have_their_deviation() -> None:
    errors = ring.centred(blinding_errors(Seed(b"e" * 32), "e", 1_000_000))
    assert errors.min() >= -190
    assert errors.max() <= 191
    assert errors.std() == pytest.approx(64, rel=0.005)
    assert errors.mean() == pytest.approx(0.5, abs=0.4)


def test_gaussians_are_normal() -> None:
    values = gaussians(Seed(b"g" * 32), "basis", 400_001)
    assert values.size == 400_001
    assert np.isfinite(values).all()
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, abs=0.01)
    assert (values**4).mean() == pytest.approx(3, abs=0.1)
    assert abs(np.corrcoef(values[:-1:2], values[1::2])[0, 1]) < 0.01


@pytest.mark.parametrize("count", [0, 1, 2, 1023, 1024, 100_000])
def test_permutation_is_a_permutation(count: int) -> None:
    assert (np.sort(permutation(FIXED, "order", count)) == np.arange(count)).all()


def shuffled(pieces: list[npt.NDArray[np.uint64]], buckets: npt.NDArray[np.uint8], order: npt.NDArray[np.uint32]) -> int:
    """How many places of the order are settled when its words have come in these pieces."""
    starts = np.empty(257, np.int64)
    _fill_buckets(buckets, starts, order)
    at = np.array([0, starts[1] - 1, 0], np.int64)
    for piece in pieces:
        _shuffle(piece, starts, at, order)
    return int(at[2])


def test_a_word_that_would_bias_an_order_is_rejected() -> None:
    """2^64 mod 3 = 1: of the first draw's words only 0 is one too many, and it is passed over."""
    words = np.array([0, 2**63 + 7, 2**62 + 5, 99], np.uint64)
    skipping, plain, together = np.empty(3, np.uint32), np.empty(3, np.uint32), np.zeros(3, np.uint8)
    assert shuffled([words], together, skipping) == shuffled([words[1:]], together, plain) == 3
    assert skipping.tolist() == plain.tolist()
    assert shuffled([words[:1]], together, skipping) == 0


def test_an_order_is_the_same_however_its_words_come() -> None:
    """In pieces that end anywhere, also within a bucket and before an empty one."""
    rng = np.random.default_rng(5)
    buckets, words = np.array([9, 9, 4, 200, 9, 4, 200], np.uint8), rng.integers(0, 2**64, 12, np.uint64)
    whole = np.empty(7, np.uint32)
    assert shuffled([words], buckets, whole) == 7
    for cut in range(1, 8):
        order = np.empty(7, np.uint32)
        assert shuffled([words[:cut], words[cut : cut + 1], words[cut + 1 :]], buckets, order) == 7
        assert order.tolist() == whole.tolist()


def test_what_stands_at_an_order_is_taken() -> None:
    values, order = np.arange(100, 3172, dtype=np.uint32), permutation(FIXED, "order", 3072)
    assert (taken_at(values, order) == values[order]).all()
    order[7] = 3072
    with pytest.raises(MisuseError):
        taken_at(values, order)


def test_buckets_come_in_turn_and_each_is_shuffled_by_itself() -> None:
    rng = np.random.default_rng(4)
    buckets = np.array([7, 3, 7, 255, 3, 7], np.uint8)
    seen = set()
    for _ in range(400):
        order = np.empty(6, np.uint32)
        assert shuffled([rng.integers(0, 2**64, 10, np.uint64)], buckets, order) == 6
        assert (sorted(order[:2]), sorted(order[2:5]), order[5]) == ([1, 4], [0, 2, 5], 3)
        seen.add(tuple(order.tolist()))
    assert len(seen) == 2 * 6


def test_a_long_order_is_uniform() -> None:
    """Where numbers land, and which of two neighbours comes first: within five standard deviations, for an order of many buckets."""
    count = 1 << 16
    orders = [permutation(Seed.fresh(), "order", count) for _ in range(8)]
    landed = np.bincount(np.concatenate([order[:4096] // 256 for order in orders]), minlength=256)
    assert np.abs(landed - landed.mean()).max() < 6 * np.sqrt(landed.mean())
    first = sum(int((np.argsort(order)[:-1:2] < np.argsort(order)[1::2]).sum()) for order in orders)
    assert abs(first - 4 * count // 2) < 5 * np.sqrt(4 * count // 4)


def test_a_stream_that_runs_short_is_an_error() -> None:
    out = np.empty(10, np.uint32)
    with pytest.raises(LocalError):
        _check_filled(_take_below(np.full(20, Q, np.uint32), np.uint32((1 << 27) - 1), np.uint32(Q), out), 10)


def test_seed_keeps_its_secret() -> None:
    seed = Seed(b"secret-secret-secret-secret-1234")
    assert repr(seed) == str(seed) == f"{seed}" == "Seed(<redacted>)"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(MisuseError):
            leak(seed)
    assert seed != Seed(seed.export_secret())
    seed.destroy()
    with pytest.raises(KeyDestroyedError):
        seed.export_secret()
    with pytest.raises(KeyDestroyedError):
        uniform_residues(seed, "mask", 1)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_has_32_bytes(length: int) -> None:
    with pytest.raises(MisuseError):
        Seed(bytes(length))
