"""Slow and obvious twins of the fast code, in plain Python integers and floating point. Nothing outside the tests may import this.

This is also the only place that compares one face with many in the clear.
"""

from __future__ import annotations

import itertools

import numpy as np

from crypto import ring
from crypto.codes import Codes, values_of
from crypto.ring import F64, I32, N, Q


def transform(coefficients: list[int], root: int) -> list[int]:
    """The negacyclic transform by definition: value i is the polynomial at root^(2 bitrev(i) + 1)."""
    points = [pow(root, 2 * ring.bit_reversed(i) + 1, Q) for i in range(N)]
    return [evaluate(coefficients, point) for point in points]


def evaluate(coefficients: list[int], point: int) -> int:
    """Horner's rule modulo q."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % Q
    return value


def negacyclic_product(left: list[int], right: list[int]) -> list[int]:
    """left * right in Z_q[X]/(X^N + 1), term by term: X^N = -1."""
    out = [0] * N
    for (i, a), (j, b) in itertools.product(enumerate(left), enumerate(right)):
        if a and b:
            sign, place = (1, i + j) if i + j < N else (-1, i + j - N)
            out[place] = (out[place] + sign * a * b) % Q
    return out


def inner_products_mod_q(words: list[list[int]], probe: list[list[int]]) -> list[int]:
    """out[i] = sum_d words[d][i] * probe[d][i] mod q."""
    return [sum(w[i] * b[i] for w, b in zip(words, probe, strict=True)) % Q for i in range(N)]


def packed_little_endian(values: list[int], bits: int) -> bytes:
    """Words as one big integer, least significant word first."""
    total = sum(value << (bits * i) for i, value in enumerate(values))
    return total.to_bytes((len(values) * bits + 7) // 8, "little")


def cosines_in_the_clear(templates: Codes, probe_vector: I32, gamma: int, mu: int) -> F64:
    """The scores of what the codes stand for; int8[n, D] and int32[D] in, float64[n] out."""
    return np.asarray(values_of(templates).astype(np.float64) @ probe_vector.astype(np.float64) / (gamma * mu))
