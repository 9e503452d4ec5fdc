"""Ring kernels against definitions in plain integers, with the JIT on and off."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import ring
from crypto.errors import MisuseError
from crypto.ring import LANES, PSI, N, Q
from tests import reference

EDGES = [0, 1, Q - 1, Q // 2, Q // 2 + 1, 2047, 1 << 26]


def random_residues(seed: int, *shape: int) -> ring.U32:
    return np.random.default_rng(seed).integers(0, Q, shape, dtype=np.uint32)


def test_root_is_minimal_and_primitive() -> None:
    assert pow(PSI, N, Q) == Q - 1
    assert all(pow(root, N, Q) != Q - 1 for root in range(2, PSI))


def test_forward_is_the_definition() -> None:
    polynomial = random_residues(1, N)
    assert ring.forward(polynomial).tolist() == reference.transform(polynomial.tolist(), PSI)


@pytest.mark.parametrize("count", [1, LANES - 1, LANES, LANES + 1, 3 * LANES + 5])
def test_inverse_undoes_forward(count: int) -> None:
    rows = random_residues(count, count, N)
    assert (ring.inverse(ring.forward(rows)) == rows).all()
    assert (ring.forward(ring.inverse(rows)) == rows).all()


@pytest.mark.parametrize("value", EDGES)
def test_transforms_at_the_edges(value: int) -> None:
    rows = np.full((2, N), value, np.uint32)
    rows[1, ::2] = 0
    assert (ring.inverse(ring.forward(rows)) == rows).all()
    assert int(ring.forward(rows).max()) < Q


def test_product_is_negacyclic() -> None:
    left, right = random_residues(2, N), np.zeros(N, np.uint32)
    right[[0, 1, 511, 1023]] = [3, Q - 1, 12345, 99]
    product = ring.inverse(ring.multiply(ring.forward(left), ring.forward(right)))
    assert product.tolist() == reference.negacyclic_product(left.tolist(), right.tolist())


def test_monomials_wrap_with_a_minus_sign() -> None:
    last, first = np.zeros(N, np.uint32), np.zeros(N, np.uint32)
    last[N - 1], first[1] = 5, 1
    product = ring.inverse(ring.multiply(ring.forward(last), ring.forward(first)))
    assert product[0] == Q - 5
    assert not product[1:].any()


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=500)
def test_reduce_word(value: int) -> None:
    assert int(ring.reduce_word(np.uint64(value))) == value % Q


@pytest.mark.parametrize("value", [0, Q - 1, Q, 2 * Q - 1, 2**27 - 1, 2**27, (Q - 1) ** 2, 632 * (Q - 1) ** 2, 2**64 - 1])
def test_reduce_word_at_the_edges(value: int) -> None:
    assert int(ring.reduce_word(np.uint64(value))) == value % Q


def test_pointwise_operations() -> None:
    a, b, c = random_residues(3, 4, N), random_residues(4, 4, N), random_residues(5, N)
    a[0, : len(EDGES)] = EDGES
    b[0, : len(EDGES)] = EDGES[::-1]
    wide_a, wide_b = a.astype(object), b.astype(object)
    assert (ring.multiply(a, b) == wide_a * wide_b % Q).all()
    assert (ring.add(a, b) == (wide_a + wide_b) % Q).all()
    assert (ring.subtract(a, b) == (wide_a - wide_b) % Q).all()
    assert (ring.multiply_add(a, c, b) == (wide_a * c.astype(object) + wide_b) % Q).all()


def test_centred_and_back() -> None:
    values = np.array([0, 1, Q // 2, Q // 2 + 1, Q - 1], np.uint32)
    assert ring.centred(values).tolist() == [0, 1, Q // 2, -(Q // 2), -1]
    assert (ring.from_signed(ring.centred(values)) == values).all()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(N, np.int64),
        np.zeros(N, np.float64),
        np.full(N, Q, np.uint32),
        np.full(N, 2**32 - 1, np.uint32),
        np.zeros(N - 1, np.uint32),
        np.zeros((2, N + 1), np.uint32),
        np.uint32(1).reshape(()),
    ],
)
def test_wrappers_refuse(bad: ring.U32) -> None:
    with pytest.raises(MisuseError):
        ring.forward(bad)
    with pytest.raises(MisuseError):
        ring.inverse(bad)


def test_shapes_must_fit() -> None:
    row, rows = np.zeros(N, np.uint32), np.zeros((2, N), np.uint32)
    with pytest.raises(MisuseError):
        ring.multiply(row, rows)
    with pytest.raises(MisuseError):
        ring.multiply_add(rows, rows, rows)
    with pytest.raises(MisuseError):
        ring.from_signed(np.array([Q]))


JIT_OFF_PROGRAM = """
import numpy as np
from crypto import ring, codes, gallery, packed_words, seed, binary
from crypto.jit import compiled_signatures
from tests import reference
assert not compiled_signatures(ring.forward_block)
rows = np.random.default_rng(7).integers(0, ring.Q, (2, ring.N), dtype=np.uint32)
done = ring.forward(rows)
assert done[1].tolist() == reference.transform(rows[1].tolist(), ring.PSI)
assert (ring.inverse(done) == rows).all()
words = np.random.default_rng(8).integers(0, ring.Q, (1, 8, ring.N), dtype=np.uint32)
assert (packed_words.PackedWords.of(words).chunk_eval(0) == words[0]).all()
templates = np.random.default_rng(9).integers(-127, 128, (ring.N, 8)).astype(np.int8)
assert (ring.centred(ring.inverse(gallery.pack_templates(templates).chunk_eval(0))).T == codes.values_of(templates)).all()
one = seed.Seed(bytes(32))
print([int(f(one, "x", 999).astype(np.uint64).sum()) for f in (seed.uniform_residues, seed.ternary, seed.blinding_errors)])
print(seed.permutation(one, "x", 50).tolist())
print(binary.pack_bits(rows[0], 27).hex()[:64], binary.unpack_bits(binary.pack_bits(rows[0], 27), ring.N, 27).sum())
"""


def test_kernels_agree_without_the_jit() -> None:
    """The same program as plain Python and compiled: same checks pass, same numbers come out; warnings (wrapped integers) are errors."""
    outputs = [
        subprocess.run(  # noqa: S603 - this interpreter, a program of our own
            [sys.executable, "-W", "error::RuntimeWarning", "-c", JIT_OFF_PROGRAM.replace("assert not compiled", check)],
            env={**os.environ, "NUMBA_DISABLE_JIT": disabled},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for disabled, check in (("1", "assert not compiled"), ("0", "compiled"))
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") == 3
