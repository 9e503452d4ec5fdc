"""A holder's gallery as the scan reads it: chunks of 1,024 templates, packed as polynomials in eval form.

Chunk c and dimension d make one polynomial P_{c,d}(X) = sum over slots j of g_{c,j,d} X^j; four bytes a record and dimension, as float32
would take. Invariants: `words_eval` and every cached query-independent part a'_c = sum_d A_d P_{c,d} belong to one state of the layout,
and the layout's `state_id` changes with every rewritten chunk. The packed form lives in memory only. Encrypting templates at rest and
renewing the layout in the background is left to the holder.
"""

from __future__ import annotations

import numpy as np

from crypto import ring
from crypto.bases import public_bases
from crypto.embedding import EmbeddingModel, filler_templates
from crypto.epoch import Epoch
from crypto.errors import MisuseError
from crypto.jit import kernel
from crypto.layout import FILLER, Layout
from crypto.ring import I8, LANES, U32, N
from crypto.scan import scan_words
from crypto.workers import split


class PackedGallery:
    """Templates of one model under one layout, packed.

    `words_eval` is uint32[chunks, D, N]. Not safe for rewriting while a scan runs; the holder orders the two.
    """

    __slots__ = ("_fixed_parts", "layout", "model", "words_eval")

    def __init__(self, model: EmbeddingModel, layout: Layout, words_eval: U32) -> None:
        if words_eval.shape != (layout.chunks, model.dimensions, N) or words_eval.dtype != np.uint32:
            raise MisuseError("packed words are uint32[chunks, D, N]")
        self.model = model
        self.layout = layout
        self.words_eval = words_eval
        self._fixed_parts: dict[Epoch, U32] = {}

    @classmethod
    def pack(cls, model: EmbeddingModel, layout: Layout, templates: I8, *, threads: int | None = None) -> PackedGallery:
        """Pack the templates of the layout's rows; int8[rows, D], row i at the slot that the layout gives it, fillers at the rest."""
        if templates.dtype != np.int8 or templates.ndim != 2 or templates.shape[1] != model.dimensions:
            raise MisuseError("templates are int8[rows, D]")
        if int(layout.rows.max()) >= templates.shape[0]:
            raise MisuseError("the layout names a row that is not there")
        words = np.empty((layout.chunks, model.dimensions, N), np.uint32)

        def pack_range(first: int, last: int) -> None:
            block = np.empty((N, LANES), np.uint32)
            for chunk in range(first, last):
                rows = layout.rows[chunk * N : (chunk + 1) * N]
                gathered = templates[np.maximum(rows, 0)] if templates.size else np.empty((N, model.dimensions), np.int8)
                free = rows == FILLER
                gathered[free] = filler_templates(layout.seed.child(f"chunk/{chunk}"), int(free.sum()), model.scales)
                _pack_chunk(gathered, block, ring.ROOTS, ring.ROOTS_SHOUP, np.int32(ring.Q), words[chunk])

        split(layout.chunks, pack_range, threads)
        return cls(model, layout, words)

    @property
    def slots(self) -> int:
        """Slots of all chunks."""
        return self.layout.rows.size

    def fixed_part(self, epoch: Epoch) -> U32:
        """The query-independent parts a'_c for an epoch in eval form, uint32[chunks, N]; computed once per layout and epoch."""
        if epoch not in self._fixed_parts:
            self._fixed_parts = {kept: part for kept, part in self._fixed_parts.items() if kept >= epoch.previous()}
            self._fixed_parts[epoch] = self._fixed_part_of(self.words_eval, epoch)
        return self._fixed_parts[epoch]

    def add(self, row: int, template: I8) -> int:
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

    def chunk_templates(self, chunk: int) -> I8:
        """A chunk brought back to coefficient form: its templates slot by slot, int8[N, D]."""
        return ring.centred(ring.inverse(self.words_eval[chunk])).astype(np.int8).T

    def _rewrite(self, slot: int, template: I8 | None) -> None:
        """Put a template, or a filler for None, into a slot, replace all fillers of its chunk, and recompute what depends on the chunk."""
        chunk, place = divmod(slot, N)
        fresh = self.layout.rows[chunk * N : (chunk + 1) * N] == FILLER
        fresh[place] = template is None
        coefficients = ring.inverse(self.words_eval[chunk])
        if template is not None:
            if template.dtype != np.int8 or template.shape != (self.model.dimensions,):
                raise MisuseError("a template is int8[D]")
            coefficients[:, place] = ring.from_signed(template.astype(np.int32))
        fillers = filler_templates(self.layout.change_seed(), int(fresh.sum()), self.model.scales)
        coefficients[:, fresh] = ring.from_signed(fillers.astype(np.int32)).T
        self.words_eval[chunk] = ring.forward(coefficients)
        coefficients.fill(0)
        for epoch, part in self._fixed_parts.items():
            part[chunk] = self._fixed_part_of(self.words_eval[chunk : chunk + 1], epoch)[0]

    def _fixed_part_of(self, words_eval: U32, epoch: Epoch) -> U32:
        bases = public_bases(epoch, self.model.dimensions)
        return np.asarray(scan_words(words_eval, bases[None, :-1])[0])

    def __repr__(self) -> str:
        return f"PackedGallery(chunks={self.layout.chunks}, dimensions={self.model.dimensions}, words=<redacted>)"


def pack_templates(templates: I8) -> U32:
    """One chunk's polynomials in eval form from its templates; int8[N, D] in, uint32[D, N] out."""
    if templates.dtype != np.int8 or templates.ndim != 2 or templates.shape[0] != N:
        raise MisuseError("a chunk has int8[N, D] templates")
    out = np.empty((templates.shape[1], N), np.uint32)
    block = np.empty((N, LANES), np.uint32)
    _pack_chunk(np.ascontiguousarray(templates), block, ring.ROOTS, ring.ROOTS_SHOUP, np.int32(ring.Q), out)
    return out


@kernel
def _pack_chunk(templates: I8, block: U32, roots: U32, roots_shoup: U32, modulus: np.int32, out: U32) -> None:
    """out[d] = transform of the d-th column; templates int8[N, D], block scratch uint32[N, LANES], out uint32[D, N]."""
    degree, dimensions = templates.shape
    lanes = block.shape[1]
    for first in range(0, dimensions, lanes):
        used = min(lanes, dimensions - first)
        for i in range(degree):
            for lane in range(used):
                value = np.int32(templates[i, first + lane])
                block[i, lane] = np.uint32(value + modulus if value < 0 else value)
        ring.forward_block(block, roots, roots_shoup)
        ring.scatter_lanes(block, out, first)
