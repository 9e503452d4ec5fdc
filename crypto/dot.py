"""The innermost loop of the scan as vector code: products of packed words with a probe's words, added up in registers.

Written for LLVM instead of left to its loop vectoriser, because two things decide its speed and cannot be said in a Python loop: the sums
of a block stay in registers over all groups of a section, and the loads of the gallery stay in the order of their addresses. Freely
scheduled loads measured a third of the memory bandwidth: prefetching follows a stream only as long as it rises. LLVM makes the vectors of
8 words into what the processor has.

Invariants: nothing is read but `groups` groups of words and of the probe; products of residues have 54 bits, so that 1,024 fit a sum. The
layout of words is `packed_words`'; which blocks meet which part of a probe is left to `scan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from crypto.packed_words import GROUP, GROUP_WORDS, LANES, VECTORS

_WORD: Final = ir.IntType(64)
_VECTOR: Final = ir.VectorType(_WORD, LANES)
_PROBE_VECTOR: Final = ir.VectorType(ir.IntType(32), LANES)
_VECTOR_BYTES: Final = 8 * LANES
_PROBE_VECTOR_BYTES: Final = 4 * LANES
_RESIDUE: Final = (1 << 27) - 1

Value = Any  # llvmlite has no types


@intrinsic
def add_products(_typing: Any, words: Any, groups: Any, probe: Any, sums: Any) -> Any:
    """Add to 16 sums the products of one chunk's block with the probe's, over `groups` groups.

    All arguments are int64; `words`, `probe` and `sums` are addresses: of packed words, of uint32[groups * 32, 16], of uint64[16].
    """
    return types.void(words, groups, probe, sums), _emit


def _emit(context: Any, builder: Any, _signature: object, arguments: Sequence[Value]) -> Value:
    words, groups, probe, target = arguments
    sums = [cgutils.alloca_once(builder, _VECTOR) for _half in range(2)]  # type: ignore[no-untyped-call]  # LLVM keeps them in registers
    for half, place in enumerate(sums):
        builder.store(_load(builder, target, half * _VECTOR_BYTES, _VECTOR), place)
    with cgutils.for_range(builder, groups, intp=_WORD) as loop:
        here = builder.add(words, builder.mul(loop.index, _WORD(8 * GROUP_WORDS)))
        beside = builder.add(probe, builder.mul(loop.index, _WORD(2 * GROUP * _PROBE_VECTOR_BYTES)))

        def multiply(dimension: int, residues: tuple[Value, Value]) -> None:
            for half, place in enumerate(sums):
                factor = _load(builder, beside, (2 * dimension + half) * _PROBE_VECTOR_BYTES, _PROBE_VECTOR)
                product = builder.mul(residues[half], builder.zext(factor, _VECTOR))
                builder.store(builder.add(builder.load(place), product), place)

        pairs: list[Value] = []  # the last: four bits of each of the five before it
        for vector in range(VECTORS):
            word = _load(builder, here, vector * _VECTOR_BYTES, _VECTOR)
            _keep_order(builder)
            multiply(vector, (builder.and_(word, _splat(_RESIDUE)), builder.lshr(word, _splat(37))))
            pair, part = divmod(vector, 5)
            right = 27 - 10 * part
            moved = builder.lshr(word, _splat(right)) if right >= 0 else builder.shl(word, _splat(-right))
            spare = builder.and_(moved, _splat(0x3FF << (10 * part)))
            if part == 0:
                pairs.append(spare)
            else:
                pairs[pair] = builder.or_(pairs[pair], spare)
        for e in range(5):
            top = builder.and_(builder.shl(pairs[5], _splat(50 - 4 * e)), _splat(0xF << 50))
            whole = builder.or_(pairs[e], top)
            multiply(VECTORS + e, (builder.and_(whole, _splat(_RESIDUE)), builder.lshr(whole, _splat(27))))
    for half, place in enumerate(sums):
        address = builder.inttoptr(builder.add(target, _WORD(half * _VECTOR_BYTES)), _VECTOR.as_pointer())
        builder.store(builder.load(place), address, align=8)
    return context.get_dummy_value()


def _splat(value: int) -> Value:
    return ir.Constant(_VECTOR, [ir.Constant(_WORD, value)] * LANES)


def _load(builder: Any, base: Value, offset: int, kind: Value) -> Value:
    address = builder.inttoptr(builder.add(base, _WORD(offset)), kind.as_pointer())
    return builder.load(address, align=4 if kind is _PROBE_VECTOR else 8)


def _keep_order(builder: Any) -> None:
    """No instruction, but no load is moved across it."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)
