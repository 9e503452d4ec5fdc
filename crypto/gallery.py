"""A holder's gallery as the scan reads it: chunks of 1,024 templates, packed as polynomials in eval form.

Chunk c and dimension d make one polynomial P_{c,d}(X) = sum over slots j of g_{c,j,d} X^j, where g is what a template's code stands for
(`codes`); 27 bits a slot and dimension (`packed_words`), where float32 takes 32. Invariants: `words` and every cached query-independent
part a'_c = sum_d A_d P_{c,d} belong to one state of the layout, and the layout's `state_id` changes with every rewritten chunk. The packed
form lives in memory only. Encrypting templates at rest and renewing the layout in the background is left to the holder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crypto import ring
from crypto.bases import public_bases
from crypto.codes import Codes, codes_of, values_of
from crypto.embedding import EmbeddingModel, filler_templates
from crypto.epoch import Epoch
from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.layout import FILLER, Layout
from crypto.ordered_probe import OrderedProbe
from crypto.packed_words import GROUP, PackedWords, pack_group, place_of_group
from crypto.parameters import TAIL_START, TAIL_STEP
from crypto.ring import LANES, U32, U64, N
from crypto.scan import scan_words
from crypto.workers import split

_Q = np.int32(ring.Q)
_TAIL_START, _TAIL_EXTRA = np.int32(TAIL_START), np.int32(TAIL_STEP - 1)


class PackedGallery:
    """Templates of one model under one layout, packed.

    Not safe for rewriting while a scan runs; the holder orders the two.
    """

    __slots__ = ("_fixed_parts", "layout", "model", "words")

    def __init__(self, model: EmbeddingModel, layout: Layout, words: PackedWords) -> None:
        if (words.chunks, words.dimensions) != (layout.chunks, model.dimensions):
            raise MisuseError("packed words are of the layout's chunks and the model's dimensions")
        self.model = model
        self.layout = layout
        self.words = words
        self._fixed_parts: dict[Epoch, U32] = {}

    @classmethod
    def pack(
        cls,
        model: EmbeddingModel,
        layout: Layout,
        templates: Codes,
        *,
        threads: int | None = None,
        each_chunk: Callable[[], None] = lambda: None,
    ) -> PackedGallery:
        """Pack the templates of the layout's rows; int8[rows, D], row i at the slot that the layout gives it, fillers at the rest.

        `each_chunk` is called before each chunk; what it raises ends the work. The caller wipes `templates`; copies made here are wiped.
        """
        if templates.dtype != np.int8 or templates.ndim != 2 or templates.shape[1] != model.dimensions:
            raise MisuseError("templates are int8[rows, D]")
        if int(layout.rows.max()) >= templates.shape[0]:
            raise MisuseError("the layout names a row that is not there")
        words = PackedWords(layout.chunks, model.dimensions)

        def pack_range(first: int, last: int) -> None:
            scratch = _Scratch()
            for chunk in range(first, last):
                each_chunk()
                rows = layout.rows[chunk * N : (chunk + 1) * N]
                gathered = templates[np.maximum(rows, 0)] if templates.size else np.empty((N, model.dimensions), np.int8)
                free = rows == FILLER
                gathered[free] = filler_templates(layout.seed.child(f"chunk/{chunk}"), int(free.sum()), model.scales)
                scratch.pack(gathered, words, chunk)
                gathered.fill(0)
            scratch.clear()

        split(layout.chunks, pack_range, threads)
        return cls(model, layout, words)

    @property
    def slots(self) -> int:
        """Slots of all chunks."""
        return self.layout.rows.size

    def fixed_part(self, epoch: Epoch, *, threads: int | None = None) -> U32:
        """The query-independent parts a'_c for an epoch in eval form, uint32[chunks, N]; computed once per layout and epoch."""
        if epoch not in self._fixed_parts:
            self._fixed_parts = {kept: part for kept, part in self._fixed_parts.items() if kept >= epoch.previous()}
            self._fixed_parts[epoch] = self._fixed_part_of(self.words, epoch, threads)
        return self._fixed_parts[epoch]

    def has_fixed_part(self, epoch: Epoch) -> bool:
        """Whether `fixed_part` of the epoch is at hand."""
        return epoch in self._fixed_parts

    def add(self, row: int, template: Codes) -> int:
        """Put a new row's template, int8[D], into a free slot by rewriting one chunk, its fillers too; the slot."""
        if row < 0 or (self.layout.rows == row).any():
            raise MisuseError("a new row has a new number, not below zero")
        slot = self.layout.free_slot()
        self._rewrite(slot, template)
        self.layout.put(slot, row)
        return slot

    def remove(self, row: int) -> int:
        """Replace a row's template by a fresh filler by rewriting one chunk, its other fillers too; the slot, from now on withdrawn."""
        slot = self.layout.slot_of(row)
        self._rewrite(slot, None)
        self.layout.put(slot, FILLER)
        return slot

    def chunk_templates(self, chunk: int) -> Codes:
        """A chunk brought back to coefficient form: its templates slot by slot, int8[N, D]."""
        return codes_of(ring.centred(ring.inverse(self.words.chunk_eval(chunk)))).T

    def _rewrite(self, slot: int, template: Codes | None) -> None:
        """Put a template, or a filler for None, into a slot, replace all fillers of its chunk, and recompute what depends on the chunk."""
        chunk, place = divmod(slot, N)
        fresh = self.layout.rows[chunk * N : (chunk + 1) * N] == FILLER
        fresh[place] = template is None
        coefficients = ring.inverse(self.words.chunk_eval(chunk))
        if template is not None:
            if template.dtype != np.int8 or template.shape != (self.model.dimensions,):
                raise MisuseError("a template is int8[D]")
            _write_template(np.ascontiguousarray(template), coefficients[:, place])
        fillers = filler_templates(self.layout.change_seed(), int(fresh.sum()), self.model.scales)
        coefficients[:, fresh] = ring.from_signed(values_of(fillers)).T
        polynomials = ring.forward(coefficients)
        coefficients.fill(0)
        self.words.put(chunk, polynomials)
        changed = PackedWords.of(polynomials[None])
        for epoch, part in self._fixed_parts.items():
            part[chunk] = self._fixed_part_of(changed, epoch)[0]

    def _fixed_part_of(self, words: PackedWords, epoch: Epoch, threads: int | None = None) -> U32:
        bases = public_bases(epoch, self.model.dimensions)
        return np.asarray(scan_words(words, [OrderedProbe(bases[:-1])], threads=threads)[0])

    def __repr__(self) -> str:
        return f"PackedGallery(chunks={self.layout.chunks}, dimensions={self.model.dimensions}, words=<redacted>)"


def pack_templates(templates: Codes) -> PackedWords:
    """One chunk from its templates; int8[N, D] in."""
    if templates.dtype != np.int8 or templates.ndim != 2 or templates.shape[0] != N:
        raise MisuseError("a chunk has int8[N, D] templates")
    words = PackedWords(1, templates.shape[1])
    _Scratch().pack(np.ascontiguousarray(templates), words, 0)
    return words


class _Scratch:
    """What one thread needs to pack chunks: sixteen polynomials side by side, and the 32 of a group."""

    __slots__ = ("_block", "_rows")

    def __init__(self) -> None:
        self._block = np.empty((N, LANES), np.uint32)
        self._rows = np.zeros((GROUP, N), np.uint32)

    def pack(self, templates: Codes, words: PackedWords, chunk: int) -> None:
        """Write a chunk; templates int8[N, D]."""
        place = (words.flat, chunk, words.chunks, words.groups)
        _pack_chunk(templates, self._block, self._rows, ring.ROOTS, ring.ROOTS_SHOUP, *place)

    def clear(self) -> None:
        """Overwrite what was packed last."""
        self._block.fill(0)
        self._rows.fill(0)


@kernel
def residue_of(code: np.int8) -> np.uint32:
    """What a code stands for (`codes.values_of`) modulo q; in 32 bits and without a branch, so that it becomes vector code."""
    number = np.int32(code)
    beyond = np.int32(max(np.int32(number - _TAIL_START), np.int32(0)) + min(np.int32(number + _TAIL_START), np.int32(0)))
    value = np.int32(number + np.int32(_TAIL_EXTRA * beyond))
    return np.uint32(np.int32(value + _Q) if value < 0 else value)


@kernel
def _write_template(template: Codes, out: U32) -> None:
    """What one template's codes stand for, int8[D] in, uint32[D] out; no copy of it stays anywhere."""
    for d in range(out.size):
        out[d] = residue_of(template[d])


@kernel
def _pack_chunk(
    templates: Codes,
    block: U32,
    rows: U32,
    roots: U32,
    roots_shoup: U32,
    flat: U64,
    chunk: int,
    chunks: int,
    groups: int,
) -> None:
    """Transform the columns of `templates`, int8[N, D], and write them as a chunk's groups; `block`, uint32[N, LANES], and `rows`,
    uint32[GROUP, N], are scratch."""
    degree, dimensions = templates.shape
    lanes = block.shape[1]
    for group in range(groups):
        for first in range(group * GROUP, (group + 1) * GROUP, lanes):
            used = max(0, min(lanes, dimensions - first))
            for i in range(degree):
                for lane in range(used):
                    block[i, lane] = residue_of(templates[i, first + lane])
                for lane in range(used, lanes):
                    block[i, lane] = np.uint32(0)
            if used:
                ring.forward_block(block, roots, roots_shoup)
            ring.scatter_lanes(block, rows, first - group * GROUP)
        start, step = place_of_group(chunk, group, chunks, groups)
        pack_group(rows, flat, start, step)
