"""The innermost loop of the scan as vector code: products of packed words with the words of one, two or four probes, added up in registers.

Written for LLVM instead of left to its loop vectoriser, because three things decide its speed and cannot be said in a Python loop: the sums
of a block stay in registers over all groups of a section; the loads of the gallery stay in the order of their addresses (freely scheduled
loads measured a third of the memory bandwidth: prefetching follows a stream only as long as it rises); and packed words are taken apart
once for all probes that are multiplied side by side, which took seven tenths of the time for eight that wait. LLVM makes the vectors of
8 words into what the processor has.

Two loops over five stay loops: unrolled, LLVM adds up all products of a group at its end, and they do not fit the registers until then.

Invariants: nothing is read but `groups` groups of words and of the probes; products of residues have 54 bits, so that 1,024 fit a sum. The
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
_VECTOR_BYTES: Final = 8 * LANES
_RESIDUE: Final = (1 << 27) - 1
_FIVE: Final = 5
"""Words between whose residues one further pair lies, and how many such pairs there are."""

Value = Any  # llvmlite has no types


def _add_products_of(count: int) -> Any:
    @intrinsic
    def add_products(_typing: Any, words: Any, groups: Any, probe: Any, step: Any, sums: Any) -> Any:
        """Add to 16 sums a probe the products of one chunk's block with each probe's, over `groups` groups.

        All arguments are int64. `words`, `probe` and `sums` are addresses: of packed words; of the first probe's uint32[groups * 32, 16] in
        the order of `scan.order_probes`, the next probe's `step` bytes after it; of uint64[count, 16].
        """

        def emit(context: Any, builder: Any, _signature: object, arguments: Sequence[Value]) -> Value:
            here, how_many, first, distance, target = arguments
            _emit(builder, here, how_many, [builder.add(first, builder.mul(distance, _WORD(number))) for number in range(count)], target)
            return context.get_dummy_value()

        return types.void(words, groups, probe, step, sums), emit

    return add_products


add_products = _add_products_of(1)
add_products_of_two = _add_products_of(2)
add_products_of_four = _add_products_of(4)


def _emit(builder: Any, words: Value, groups: Value, probes: Sequence[Value], target: Value) -> None:
    # LLVM keeps all of these in registers, but for `pairs`
    sums = [(_place(builder), _place(builder)) for _probe in probes]
    pair, pairs = _place(builder), _place(builder, _FIVE)
    places = [place for both in sums for place in both]
    for number, place in enumerate(places):
        builder.store(_load(builder, target, number * _VECTOR_BYTES), place)
    with cgutils.for_range(builder, groups, intp=_WORD) as loop:
        here = builder.add(words, builder.mul(loop.index, _WORD(8 * GROUP_WORDS)))
        moved_by = builder.mul(loop.index, _WORD(GROUP * _VECTOR_BYTES))
        beside = [builder.add(probe, moved_by) for probe in probes]

        def multiply(dimension: Value, low: Value, high: Value) -> None:
            offset = builder.mul(dimension, _WORD(_VECTOR_BYTES))
            for factors, (low_sum, high_sum) in zip(beside, sums, strict=True):
                factor = _load(builder, builder.add(factors, offset))
                low_factor, high_factor = _and(builder, factor, (1 << 32) - 1), _right(builder, factor, 32)
                for place, product in ((low_sum, builder.mul(low, low_factor)), (high_sum, builder.mul(high, high_factor))):
                    builder.store(builder.add(builder.load(place), product), place)

        def multiply_word(vector: Value) -> Value:
            """Multiplies with the two residues of a vector's words and returns the ten bits between them."""
            word = _load(builder, builder.add(here, builder.mul(vector, _WORD(_VECTOR_BYTES))))
            _keep_order(builder)
            multiply(vector, _and(builder, word, _RESIDUE), _right(builder, word, 37))
            return _and(builder, _right(builder, word, 27), 0x3FF)

        with cgutils.for_range(builder, _kept_as_loop(builder, _FIVE), intp=_WORD) as outer:
            builder.store(_splat(0), pair)
            with cgutils.for_range(builder, _kept_as_loop(builder, _FIVE), intp=_WORD) as inner:
                spare = multiply_word(builder.add(builder.mul(outer.index, _WORD(_FIVE)), inner.index))
                moved = builder.shl(spare, _spread(builder, builder.mul(inner.index, _WORD(10))))
                builder.store(builder.or_(builder.load(pair), moved), pair)
            builder.store(builder.load(pair), builder.gep(pairs, [outer.index]))
        low_tops, high_tops = (multiply_word(_WORD(vector)) for vector in (VECTORS - 2, VECTORS - 1))
        builder.store(builder.or_(low_tops, builder.shl(high_tops, _splat(10))), pair)  # four bits of each of the five
        with cgutils.for_range(builder, _kept_as_loop(builder, _FIVE), intp=_WORD) as outer:
            tops = builder.load(pair)
            builder.store(_right(builder, tops, 4), pair)
            whole = builder.or_(builder.load(builder.gep(pairs, [outer.index])), builder.shl(_and(builder, tops, 0xF), _splat(50)))
            multiply(builder.add(outer.index, _WORD(VECTORS)), _and(builder, whole, _RESIDUE), _right(builder, whole, 27))
    for number, place in enumerate(places):
        address = builder.inttoptr(builder.add(target, _WORD(number * _VECTOR_BYTES)), _VECTOR.as_pointer())
        builder.store(builder.load(place), address, align=8)


def _place(builder: Any, count: int | None = None) -> Value:
    return cgutils.alloca_once(builder, _VECTOR, count)  # type: ignore[no-untyped-call]


def _and(builder: Any, vector: Value, bits: int) -> Value:
    return builder.and_(vector, _splat(bits))


def _right(builder: Any, vector: Value, bits: int) -> Value:
    return builder.lshr(vector, _splat(bits))


def _splat(value: int) -> Value:
    return ir.Constant(_VECTOR, [ir.Constant(_WORD, value)] * LANES)


def _spread(builder: Any, word: Value) -> Value:
    """A vector with that word in every lane."""
    index = ir.IntType(32)
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(nothing, word, index(0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(index, LANES), [0] * LANES))


def _load(builder: Any, base: Value, offset: int = 0) -> Value:
    address = builder.inttoptr(builder.add(base, _WORD(offset)), _VECTOR.as_pointer())
    return builder.load(address, align=4)


def _keep_order(builder: Any) -> None:
    """No instruction, but no load is moved across it."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)


def _kept_as_loop(builder: Any, count: int) -> Value:
    """No instruction, but LLVM does not know the number any more, and so does not unroll."""
    return builder.asm(ir.FunctionType(_WORD, [_WORD]), "", "=r,0", [_WORD(count)], True)
