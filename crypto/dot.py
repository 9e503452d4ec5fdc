"""The innermost loop of the scan as vector code: products of packed words with the words of one, two or four probes, added up in registers.

Written for LLVM instead of left to its loop vectoriser, because three things decide its speed and cannot be said in a Python loop: the sums
of a block stay in registers over all groups of a section; the loads of the gallery stay in the order of their addresses (freely scheduled
loads measured a third of the memory bandwidth: prefetching follows a stream only as long as it rises) and ask for a line further on, since
some processors do not look far enough by themselves; and packed words are taken apart once for all probes that are multiplied side by side,
which took seven tenths of the time for eight that wait. LLVM makes the vectors of 8 words into what the processor has.

Sums of four probes fill all sixteen registers of 256 bits. Where registers are no wider, half a vector's lanes are done at a time for four:
the words, which lie in a first-level cache, are read twice, and no sum leaves its register.

Two loops over five stay loops: unrolled, LLVM adds up all products of a group at its end, and they do not fit the registers until then.

Invariants: nothing is read but `groups` groups of words and of the probes; products of residues have 54 bits, so that 1,024 fit a sum. The
layout of words is `packed_words`'; which blocks meet which part of a probe is left to `scan`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from crypto.packed_words import GROUP, GROUP_WORDS, LANES, VECTORS

_WORD: Final = ir.IntType(64)
_VECTOR_BYTES: Final = 8 * LANES
_RESIDUE: Final = (1 << 27) - 1
_SPARE: Final = 0x3FF
"""Ten bits lie between a word's residues."""
_FIVE: Final = 5
"""Words between whose residues one further pair lies, and how many such pairs there are."""
_AHEAD_BYTES: Final = 4 * 8 * GROUP_WORDS
"""How far ahead of its use a line of words is asked for: four groups."""
_INTO_SECOND_LEVEL: Final = 2
"""LLVM's number for a prefetch that leaves the first-level cache to the probes."""

Value = Any  # llvmlite has no types


def _lanes_of_four() -> int:
    """Lanes that are done at a time for four probes, by the width and number of this processor's registers."""
    return LANES if binding.get_host_cpu_features().get("avx512f") else LANES // 2


def _add_products_of(count: int, lanes: int) -> Any:
    @intrinsic
    def add_products(_typing: Any, words: Any, groups: Any, probes: Any, beside: Any, sums: Any) -> Any:
        """Add to 16 sums a probe the products of one chunk's block with each probe's, over `groups` groups.

        All arguments are int64. `words`, `probes` and `sums` are addresses: of packed words; of int64[count], the addresses of as many
        probes' words (`ordered_probe`), of which those `beside` bytes further on are meant, uint32[groups * 32, 16]; of uint64[count, 16].
        """

        def emit(context: Any, builder: Any, _signature: object, arguments: Sequence[Value]) -> Value:
            here, how_many, table, distance, target = arguments
            places = [builder.inttoptr(builder.add(table, _WORD(8 * number)), _WORD.as_pointer()) for number in range(count)]
            those = [builder.add(builder.load(place), distance) for place in places]
            for begin in range(0, LANES, lanes):
                _Lanes(builder, begin, lanes).emit(here, how_many, those, target)
            return context.get_dummy_value()

        return types.void(words, groups, probes, beside, sums), emit

    return add_products


@dataclass(frozen=True)
class _Lanes:
    """The code for `count` lanes of each vector, from the lane `begin` on."""

    builder: Any
    begin: int
    count: int

    def emit(self, words: Value, groups: Value, probes: Sequence[Value], target: Value) -> None:
        """The whole of it; `groups` a number, the rest addresses."""
        builder = self.builder
        # LLVM keeps all of these in registers, but for `pairs`
        sums = [(self.place(), self.place()) for _probe in probes]
        pair, pairs = self.place(), self.place(_FIVE)
        for number, place in self.sums_of(sums):
            builder.store(self.load(target, number * _VECTOR_BYTES), place)
        with cgutils.for_range(builder, groups, intp=_WORD) as loop:
            here = builder.add(words, builder.mul(loop.index, _WORD(8 * GROUP_WORDS)))
            moved_by = builder.mul(loop.index, _WORD(GROUP * _VECTOR_BYTES))
            beside = [builder.add(probe, moved_by) for probe in probes]

            def multiply(dimension: Value, low: Value, high: Value) -> None:
                offset = builder.mul(dimension, _WORD(_VECTOR_BYTES))
                for factors, (low_sum, high_sum) in zip(beside, sums, strict=True):
                    factor = self.load(builder.add(factors, offset))
                    low_factor, high_factor = self.and_(factor, (1 << 32) - 1), self.right(factor, 32)
                    for place, product in ((low_sum, builder.mul(low, low_factor)), (high_sum, builder.mul(high, high_factor))):
                        builder.store(builder.add(builder.load(place), product), place)

            def multiply_word(vector: Value) -> Value:
                """Multiplies with the two residues of a vector's words and returns the words."""
                at = builder.add(here, builder.mul(vector, _WORD(_VECTOR_BYTES)))
                word = self.load(at)
                _keep_order(builder)
                if self.begin == 0:  # further lanes come out of a first-level cache
                    _fetch_ahead(builder, at)
                multiply(vector, self.and_(word, _RESIDUE), self.right(word, 37))
                return word

            with cgutils.for_range(builder, _kept_as_loop(builder, _FIVE), intp=_WORD) as outer:
                builder.store(self.splat(0), pair)
                with cgutils.for_range(builder, _kept_as_loop(builder, _FIVE), intp=_WORD) as inner:
                    word = multiply_word(builder.add(builder.mul(outer.index, _WORD(_FIVE)), inner.index))
                    spare = self.and_(builder.shl(word, self.splat(27)), _SPARE << 54)
                    builder.store(builder.or_(self.right(builder.load(pair), 10), spare), pair)  # the first word's end at bit 14
                builder.store(builder.load(pair), builder.gep(pairs, [outer.index]))
            last_two = [multiply_word(_WORD(vector)) for vector in (VECTORS - 2, VECTORS - 1)]
            low_tops, high_tops = (self.and_(self.right(word, 27), _SPARE) for word in last_two)
            builder.store(builder.or_(low_tops, builder.shl(high_tops, self.splat(10))), pair)  # four bits of each of the five
            with cgutils.for_range(builder, _kept_as_loop(builder, _FIVE), intp=_WORD) as outer:
                tops = builder.load(pair)
                builder.store(self.right(tops, 4), pair)
                fifty = self.right(builder.load(builder.gep(pairs, [outer.index])), 14)
                whole = builder.or_(fifty, builder.shl(self.and_(tops, 0xF), self.splat(50)))
                multiply(builder.add(outer.index, _WORD(VECTORS)), self.and_(whole, _RESIDUE), self.right(whole, 27))
        for number, place in self.sums_of(sums):
            builder.store(builder.load(place), self.address(target, number * _VECTOR_BYTES), align=8)

    @staticmethod
    def sums_of(sums: Sequence[tuple[Value, Value]]) -> Iterator[tuple[int, Value]]:
        """Every sum's place, with its number in memory: of each probe the low words' and the high ones'."""
        return enumerate(place for both in sums for place in both)

    @property
    def vector(self) -> Any:
        """The type."""
        return ir.VectorType(_WORD, self.count)

    def place(self, count: int | None = None) -> Value:
        """Room for a vector, or for so many."""
        return cgutils.alloca_once(self.builder, self.vector, count)  # type: ignore[no-untyped-call]

    def address(self, base: Value, offset: int = 0) -> Value:
        """Where these lanes of a vector are that lies at an address."""
        return self.builder.inttoptr(self.builder.add(base, _WORD(offset + 8 * self.begin)), self.vector.as_pointer())

    def load(self, base: Value, offset: int = 0) -> Value:
        """These lanes of it."""
        return self.builder.load(self.address(base, offset), align=4)

    def and_(self, vector: Value, bits: int) -> Value:
        """Its words' bits that are among `bits`."""
        return self.builder.and_(vector, self.splat(bits))

    def right(self, vector: Value, bits: int) -> Value:
        """Its words without their lowest bits."""
        return self.builder.lshr(vector, self.splat(bits))

    def splat(self, value: int) -> Value:
        """A vector with that number in every lane."""
        return ir.Constant(self.vector, [ir.Constant(_WORD, value)] * self.count)


add_products = _add_products_of(1, LANES)
add_products_of_two = _add_products_of(2, LANES)
add_products_of_four = _add_products_of(4, _lanes_of_four())


def _fetch_ahead(builder: Any, address: Value) -> None:
    """Ask for the line of words that is `_AHEAD_BYTES` further on; past the last word too, where nothing comes of it."""
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    form = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
    fetch = cgutils.get_or_insert_function(builder.module, form, "llvm.prefetch.p0i8")  # type: ignore[no-untyped-call]
    there = builder.inttoptr(builder.add(address, _WORD(_AHEAD_BYTES)), pointer)
    builder.call(fetch, [there, number(0), number(_INTO_SECOND_LEVEL), number(1)])


def _keep_order(builder: Any) -> None:
    """No instruction, but no load is moved across it."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)


def _kept_as_loop(builder: Any, count: int) -> Value:
    """No instruction, but LLVM does not know the number any more, and so does not unroll."""
    return builder.asm(ir.FunctionType(_WORD, [_WORD]), "", "=r,0", [_WORD(count)], True)
