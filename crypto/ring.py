"""Arithmetic in R_q = Z_q[X]/(X^1024 + 1): the negacyclic number-theoretic transform and pointwise operations.

Invariants: residues are `uint32` below q; products and sums are `uint64`; nothing is floating point. The transform uses the *minimal*
primitive 2N-th root of unity and leaves its output in bit-reversed order, as Microsoft SEAL does, so that SEAL's secret key in its
transformed form and ours are the same words. A polynomial is in `coeff` form (coefficient i multiplies X^i) or in `eval` form (value i
belongs to the root psi^(2 bitrev(i) + 1)); names of arrays say which.

Sixteen polynomials travel side by side through the butterflies ("lanes"), so that each inner loop is long and contiguous and becomes
vector instructions whatever the stage. Wrappers check type, shape and range; kernels compute. Plain-integer twins stand in
`tests/reference.py`. Which vectors become polynomials is left to `probe` and `gallery`.

Sources: Longa and Naehrig, "Speeding up the Number Theoretic Transform" (CANS 2016), for the order of roots; Harvey, "Faster arithmetic for
number-theoretic transforms" (J. Symb. Comp. 2014), for butterflies that keep values below 4q.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.parameters import SEALMATCH_1

U8: TypeAlias = npt.NDArray[np.uint8]
I8: TypeAlias = npt.NDArray[np.int8]
I32: TypeAlias = npt.NDArray[np.int32]
U16: TypeAlias = npt.NDArray[np.uint16]
U32: TypeAlias = npt.NDArray[np.uint32]
U64: TypeAlias = npt.NDArray[np.uint64]
I64: TypeAlias = npt.NDArray[np.int64]
F64: TypeAlias = npt.NDArray[np.float64]

N: Final = SEALMATCH_1.ring_degree
Q: Final = SEALMATCH_1.modulus
LANES: Final = 16

_Q = np.uint64(Q)
_Q32 = np.uint32(Q)
_TWO_Q32 = np.uint32(2 * Q)
_FOLD = np.uint64((1 << 27) - Q)  # 2^27 = 2047 mod q: what a fold multiplies the high part by
_LOW = np.uint64((1 << 27) - 1)
_LOW_32 = np.uint64((1 << 32) - 1)
_TWO_32 = np.uint64(1 << 32)
_S27 = np.uint64(27)
_S32 = np.uint64(32)


def minimal_root() -> int:
    """The smallest primitive 2N-th root of unity modulo q, SEAL's choice."""
    exponent = (Q - 1) // (2 * N)
    generator = next(g for g in range(2, Q) if pow(g, exponent * N, Q) == Q - 1)
    root = pow(generator, exponent, Q)
    return min(pow(root, k, Q) for k in range(1, 2 * N, 2))


def bit_reversed(index: int) -> int:
    """`index` with its ten bits in the other order."""
    return int(f"{index:010b}"[::-1], 2)


def _root_table(root: int) -> tuple[U32, U32]:
    """Powers of `root` in bit-reversed order, and floor(2^32 w / q) of each for Shoup's multiplication; uint32[N]."""
    powers = [pow(root, bit_reversed(i), Q) for i in range(N)]
    return np.array(powers, np.uint32), np.array([(w << 32) // Q for w in powers], np.uint32)


PSI: Final = minimal_root()
ROOTS, ROOTS_SHOUP = _root_table(PSI)
INVERSE_ROOTS, INVERSE_ROOTS_SHOUP = _root_table(pow(PSI, -1, Q))
_INVERSE_N = np.uint32(pow(N, -1, Q))
_INVERSE_N_SHOUP = np.uint32((pow(N, -1, Q) << 32) // Q)


@kernel
def reduce_word(x: np.uint64) -> np.uint64:
    """Any 64-bit x modulo q: three folds of the bits above 27, then at most one subtraction.

    2^64 shrinks to 2^48 + 2^27, then to 2^33, then to 2^27 + 2^17 < 2q.
    """
    x = (x >> _S27) * _FOLD + (x & _LOW)
    x = (x >> _S27) * _FOLD + (x & _LOW)
    x = (x >> _S27) * _FOLD + (x & _LOW)
    return x - _Q if x >= _Q else x


@kernel
def less(x: np.uint32, y: np.uint32) -> np.uint32:
    """x - y modulo 2^32. Said without an overflow, so that it is the same without the compiler, which makes one subtraction of it."""
    return np.uint32((np.uint64(x) + _TWO_32 - np.uint64(y)) & _LOW_32)


@kernel
def times(x: np.uint32, w: np.uint32, w_shoup: np.uint32) -> np.uint32:
    """x w modulo q, below 2q, for any 32-bit x and a residue w with floor(2^32 w / q) beside it (Shoup).

    The result lies in 0..2q-1, so the two products and their difference need their low 32 bits alone: eight at a time in a vector of 256
    bits, where 64-bit arithmetic has four.
    """
    quotient = (np.uint64(x) * np.uint64(w_shoup)) >> _S32
    return less(np.uint32((np.uint64(x) * np.uint64(w)) & _LOW_32), np.uint32((quotient * _Q) & _LOW_32))


@kernel
def shoup(w: np.uint32) -> np.uint32:
    """floor(2^32 w / q) of a residue, as `times` takes it."""
    return np.uint32((np.uint64(w) << _S32) // _Q)


@kernel
def below(x: np.uint32, bound: np.uint32) -> np.uint32:
    """x, less the bound unless it is below: what is below twice the bound comes below it. A difference below zero is large modulo 2^32."""
    return min(x, less(x, bound))


@kernel
def forward_block(block: U32, roots: U32, roots_shoup: U32) -> None:
    """coeff to eval, in place, of the lanes of `block`, uint32[N, LANES]: Cooley-Tukey, values below 4q until the end."""
    flat = block.reshape(-1)
    lanes = block.shape[1]
    groups, half = 1, block.shape[0] // 2
    while half > 0:
        span = half * lanes
        for group in range(groups):
            w, w_shoup = roots[groups + group], roots_shoup[groups + group]
            start = 2 * group * span
            upper = flat[start : start + span]
            lower = flat[start + span : start + 2 * span]
            for k in range(span):
                x, product = below(upper[k], _TWO_Q32), times(lower[k], w, w_shoup)
                upper[k] = np.uint32(x + product)
                lower[k] = np.uint32(np.uint32(x + _TWO_Q32) - product)
        groups *= 2
        half //= 2
    for k in range(flat.size):
        flat[k] = below(below(flat[k], _TWO_Q32), _Q32)


@kernel
def inverse_block(block: U32, roots: U32, roots_shoup: U32) -> None:
    """eval to coeff, in place, of the lanes of `block`, uint32[N, LANES]: Gentleman-Sande, values below 2q until the end."""
    flat = block.reshape(-1)
    lanes = block.shape[1]
    groups, half = block.shape[0] // 2, 1
    while groups > 0:
        span = half * lanes
        for group in range(groups):
            w, w_shoup = roots[groups + group], roots_shoup[groups + group]
            start = 2 * group * span
            upper = flat[start : start + span]
            lower = flat[start + span : start + 2 * span]
            for k in range(span):
                x, y = upper[k], lower[k]
                upper[k] = below(np.uint32(x + y), _TWO_Q32)
                lower[k] = times(np.uint32(np.uint32(x + _TWO_Q32) - y), w, w_shoup)
        groups //= 2
        half *= 2
    for k in range(flat.size):
        flat[k] = below(times(flat[k], _INVERSE_N, _INVERSE_N_SHOUP), _Q32)


@kernel
def gather_lanes(rows: U32, first: int, block: U32) -> None:
    """block[:, lane] = rows[first + lane] for as many lanes as there are rows left.

    Sixteen places of each at a time: what lies between stays in a first-level cache.
    """
    used = min(block.shape[1], rows.shape[0] - first)
    for start in range(0, block.shape[0], LANES):
        for lane in range(used):
            for i in range(start, start + LANES):
                block[i, lane] = rows[first + lane, i]


@kernel
def scatter_lanes(block: U32, rows: U32, first: int) -> None:
    """The inverse of `gather_lanes`."""
    used = min(block.shape[1], rows.shape[0] - first)
    for start in range(0, block.shape[0], LANES):
        for lane in range(used):
            for i in range(start, start + LANES):
                rows[first + lane, i] = block[i, lane]


@kernel
def forward_rows(rows: U32, block: U32, roots: U32, roots_shoup: U32) -> None:
    """Every row of `rows`, uint32[M, N], from coeff to eval in place; `block` is scratch, uint32[N, LANES]."""
    for first in range(0, rows.shape[0], block.shape[1]):
        gather_lanes(rows, first, block)
        forward_block(block, roots, roots_shoup)
        scatter_lanes(block, rows, first)


@kernel
def inverse_rows(rows: U32, block: U32, roots: U32, roots_shoup: U32) -> None:
    """Every row of `rows`, uint32[M, N], from eval to coeff in place; `block` is scratch, uint32[N, LANES]."""
    for first in range(0, rows.shape[0], block.shape[1]):
        gather_lanes(rows, first, block)
        inverse_block(block, roots, roots_shoup)
        scatter_lanes(block, rows, first)


@kernel
def _multiply(left: U32, right: U32, out: U32) -> None:
    """out = left * right mod q, pointwise over equal lengths."""
    for i in range(left.size):
        out[i] = np.uint32(reduce_word(np.uint64(left[i]) * np.uint64(right[i])))


@kernel
def _add(left: U32, right: U32, out: U32) -> None:
    """out = left + right mod q, pointwise over equal lengths."""
    for i in range(left.size):
        total = np.uint64(left[i]) + np.uint64(right[i])
        out[i] = np.uint32(total - _Q if total >= _Q else total)


@kernel
def _subtract(left: U32, right: U32, out: U32) -> None:
    """out = left - right mod q, pointwise over equal lengths."""
    for i in range(left.size):
        total = np.uint64(left[i]) + _Q - np.uint64(right[i])
        out[i] = np.uint32(total - _Q if total >= _Q else total)


@kernel
def _centre(residues: U32, out: I32) -> None:
    """out = the integers of smallest magnitude, over equal lengths."""
    half = np.uint32(_Q >> np.uint64(1))
    for i in range(residues.size):
        signed = np.int32(residues[i])
        out[i] = signed - np.int32(_Q) if residues[i] > half else signed


@kernel
def _multiply_add_rows(rows: U32, row: U32, added: U32, out: U32) -> None:
    """out[m] = rows[m] * row + added[m] mod q, pointwise; rows, added, out uint32[M, N], row uint32[N]."""
    for m in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            out[m, i] = np.uint32(reduce_word(np.uint64(rows[m, i]) * np.uint64(row[i]) + np.uint64(added[m, i])))


def forward(polynomials_coeff: U32) -> U32:
    """The `eval` form of each polynomial; uint32[..., N] of residues in, a new array of the same shape out."""
    rows = _checked_rows(polynomials_coeff).copy()
    forward_rows(rows, np.zeros((N, LANES), np.uint32), ROOTS, ROOTS_SHOUP)
    return rows.reshape(polynomials_coeff.shape)


def inverse(polynomials_eval: U32) -> U32:
    """The `coeff` form of each polynomial; uint32[..., N] of residues in, a new array of the same shape out."""
    rows = _checked_rows(polynomials_eval).copy()
    inverse_rows(rows, np.zeros((N, LANES), np.uint32), INVERSE_ROOTS, INVERSE_ROOTS_SHOUP)
    return rows.reshape(polynomials_eval.shape)


def multiply(left: U32, right: U32) -> U32:
    """Pointwise product mod q of two arrays of residues of one shape (in eval form: the product in the ring)."""
    return _pointwise(_multiply, left, right)


def _pointwise(kernel_of_two: Callable[[U32, U32, U32], None], left: U32, right: U32) -> U32:
    check_residues(left)
    check_residues(right)
    if left.shape != right.shape:
        raise MisuseError("operands differ in shape")
    out = np.empty(left.shape, np.uint32)
    kernel_of_two(np.ascontiguousarray(left).reshape(-1), np.ascontiguousarray(right).reshape(-1), out.reshape(-1))
    return out


def multiply_add(rows: U32, row: U32, added: U32) -> U32:
    """rows[m] * row + added[m] mod q, pointwise; uint32[M, N], uint32[N], uint32[M, N] of residues."""
    for residues in (rows, row, added):
        check_residues(residues)
    if rows.ndim != 2 or rows.shape != added.shape or row.shape != rows.shape[1:]:
        raise MisuseError("shapes must be [M, N], [N] and [M, N]")
    out = np.empty(rows.shape, np.uint32)
    _multiply_add_rows(np.ascontiguousarray(rows), np.ascontiguousarray(row), np.ascontiguousarray(added), out)
    return out


def add(left: U32, right: U32) -> U32:
    """left + right mod q, pointwise, of two arrays of residues of one shape."""
    return _pointwise(_add, left, right)


def subtract(left: U32, right: U32) -> U32:
    """left - right mod q, pointwise, of two arrays of residues of one shape."""
    return _pointwise(_subtract, left, right)


def centred(residues: U32) -> I32:
    """Residues as the integers of smallest magnitude, -(q-1)/2 .. (q-1)/2; int32 of the same shape."""
    check_residues(residues)
    out = np.empty(residues.shape, np.int32)
    _centre(np.ascontiguousarray(residues).reshape(-1), out.reshape(-1))
    return out


def from_signed(integers: npt.NDArray[np.signedinteger]) -> U32:
    """Signed integers of magnitude below q as residues; uint32 of the same shape."""
    if integers.size and int(np.abs(integers.astype(np.int64)).max()) >= Q:
        raise MisuseError("integer is not below the modulus in magnitude")
    return np.mod(integers.astype(np.int64), Q).astype(np.uint32)


def check_residues(residues: U32) -> None:
    """Raise `MisuseError` unless the array is uint32 with every word below q."""
    if residues.dtype != np.uint32:
        raise MisuseError("residues are uint32")
    if residues.size and int(residues.max()) >= Q:
        raise MisuseError("a word is not below the modulus")


def _checked_rows(polynomials: U32) -> U32:
    check_residues(polynomials)
    if polynomials.ndim < 1 or polynomials.shape[-1] != N:
        raise MisuseError(f"the last axis of polynomials has length {N}")
    return polynomials.reshape(-1, N)
