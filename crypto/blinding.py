"""The re-randomisation of an answer, for sixteen chunks at a time: the part that waits for no probe, and the part that does.

    a''_c = a'_c + A_z u_c + e_c            from seed and gallery alone
    b''_c = b'_c + b_z u_c + mask           when probe and scan are there

Invariants: u_c and e_c follow from one seed and are drawn once for both parts; what `Blinding` holds is as secret as the seed, because with
a'' it gives the mask away, and is overwritten by `destroy`. Which seed, which mask and which chunks is left to `answer`.
"""

from __future__ import annotations

from typing import Final, NoReturn

import numpy as np

from crypto import ring
from crypto.errors import KeyDestroyedError, MisuseError
from crypto.jit import kernel
from crypto.ring import INVERSE_ROOTS, INVERSE_ROOTS_SHOUP, LANES, ROOTS, ROOTS_SHOUP, U32, N
from crypto.seed import Seed, blinding_errors, ternary
from crypto.workers import split

_Q32: Final = np.uint32(ring.Q)


class Chunks:
    """Polynomials of a gallery's chunks in eval form, uint32[chunks, N], and one more, uint32[N], that stands among them at `place`."""

    __slots__ = ("count", "extra", "place", "rows")

    def __init__(self, rows: U32, extra: U32 | None = None, place: int = 0) -> None:
        ring.check_residues(rows)
        if rows.ndim != 2 or rows.shape[1] != N or (extra is not None and extra.shape != (N,)) or not 0 <= place <= len(rows):
            raise MisuseError("chunks are polynomials, and so is the one that stands among them")
        self.rows = np.ascontiguousarray(rows)
        self.extra = np.zeros(N, np.uint32) if extra is None else np.ascontiguousarray(extra)
        self.place = len(rows) if extra is None else place
        self.count = len(rows) + (extra is not None)
        ring.check_residues(self.extra)


class Blinding:
    """u_c of so many chunks, and until a'' is made e_c; 4 bytes a slot. No pickle, no text form."""

    __slots__ = ("_errors", "_u", "chunks")

    def __init__(self, seed: Seed, chunks: int) -> None:
        self.chunks = chunks
        self._u = np.zeros((-(-chunks // LANES) * LANES, N), np.uint32)
        self._u.reshape(-1)[: chunks * N] = ternary(seed, "u", chunks * N)
        self._errors = blinding_errors(seed, "e", chunks * N)

    def first(self, fixed: Chunks, zero_base_eval: U32) -> U32:
        """Exact a'' in coeff form, uint32[chunks * N]; once, and before `second`."""
        self._check(fixed, zero_base_eval)
        if not self._errors.size:
            raise MisuseError("the first part of an answer is made once")
        out, self._errors = self._errors, np.empty(0, np.uint32)

        def tiles(first: int, last: int) -> None:
            blocks = np.empty((2, N, LANES), np.uint32)
            where = (fixed.rows, fixed.extra, fixed.place, zero_base_eval)
            inverse = (INVERSE_ROOTS, INVERSE_ROOTS_SHOUP)
            _first_tiles(first, last, self.chunks, self._u, *where, ROOTS, ROOTS_SHOUP, *inverse, blocks, out)

        split(len(self._u) // LANES, tiles)
        return out

    def second(self, scanned: Chunks, zero_probe_eval: U32, mask: U32) -> None:
        """Exact b'' in coeff form, in place of `mask`, uint32[chunks * N] by slot."""
        self._check(scanned, zero_probe_eval)
        ring.check_residues(mask)
        if self._errors.size or mask.shape != (self.chunks * N,):
            raise MisuseError("the second part of an answer follows the first, under one mask a slot")

        def tiles(first: int, last: int) -> None:
            block = np.empty((N, LANES), np.uint32)
            where = (scanned.rows, scanned.extra, scanned.place, zero_probe_eval)
            _second_tiles(first, last, self.chunks, self._u, *where, INVERSE_ROOTS, INVERSE_ROOTS_SHOUP, block, mask)

        split(len(self._u) // LANES, tiles)

    def destroy(self) -> None:
        """Overwrite all of it; every later use raises `KeyDestroyedError`."""
        self._u.fill(0)
        self._errors.fill(0)
        self._u = np.empty((0, N), np.uint32)

    def _check(self, chunks: Chunks, zero_eval: U32) -> None:
        if not self._u.size:
            raise KeyDestroyedError("this blinding was destroyed")
        ring.check_residues(zero_eval)
        if chunks.count != self.chunks or zero_eval.shape != (N,):
            raise MisuseError("a blinding is drawn for one number of chunks")

    def __repr__(self) -> str:
        return f"Blinding(chunks={self.chunks}, words=<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a blinding is not pickled")


@kernel
def _gather(rows: U32, extra: U32, place: int, first: int, used: int, block: U32) -> None:
    """block[:, lane] = chunk first + lane, of which chunk `place` is `extra`; lanes beyond `used` are zero."""
    for start in range(0, block.shape[0], LANES):  # as `ring.gather_lanes` does it
        for lane in range(block.shape[1]):
            chunk = first + lane
            if lane >= used:
                for i in range(start, start + LANES):
                    block[i, lane] = np.uint32(0)
            elif chunk == place:
                for i in range(start, start + LANES):
                    block[i, lane] = extra[i]
            else:
                row = chunk - 1 if chunk > place else chunk
                for i in range(start, start + LANES):
                    block[i, lane] = rows[row, i]


@kernel
def _add_product(u_eval: U32, factor: U32, block: U32) -> None:
    """block += u_eval * factor mod q, pointwise; uint32[N, LANES], factor uint32[N]."""
    for i in range(block.shape[0]):
        word, word_shoup = factor[i], ring.shoup(factor[i])
        for lane in range(block.shape[1]):
            product = ring.below(ring.times(u_eval[i, lane], word, word_shoup), _Q32)
            block[i, lane] = ring.below(np.uint32(product + block[i, lane]), _Q32)


@kernel
def _add_block(block: U32, first: int, used: int, out: U32) -> None:
    """out += block mod q, chunk by chunk."""
    degree = block.shape[0]
    for start in range(0, degree, LANES):
        for lane in range(used):
            at = (first + lane) * degree
            for i in range(start, start + LANES):
                out[at + i] = ring.below(np.uint32(block[i, lane] + out[at + i]), _Q32)


@kernel
def _first_tiles(
    first: int,
    last: int,
    chunks: int,
    u: U32,
    rows: U32,
    extra: U32,
    place: int,
    zero_base: U32,
    roots: U32,
    roots_shoup: U32,
    inverse_roots: U32,
    inverse_roots_shoup: U32,
    blocks: U32,
    out: U32,
) -> None:
    """a'' of the tiles `first` to `last` - 1, in place of e. `u` in coeff form, chunk by chunk, becomes its eval form, lanes side by side:
    what `_second_tiles` reads. `blocks` is scratch, uint32[2, N, LANES]."""
    lanes = blocks.shape[2]
    for tile in range(first, last):
        used = min(lanes, chunks - tile * lanes)
        ring.gather_lanes(u, tile * lanes, blocks[0])
        ring.forward_block(blocks[0], roots, roots_shoup)
        u[tile * lanes : (tile + 1) * lanes].reshape(blocks.shape[1], lanes)[:] = blocks[0]
        _gather(rows, extra, place, tile * lanes, used, blocks[1])
        _add_product(blocks[0], zero_base, blocks[1])
        ring.inverse_block(blocks[1], inverse_roots, inverse_roots_shoup)
        _add_block(blocks[1], tile * lanes, used, out)


@kernel
def _second_tiles(
    first: int,
    last: int,
    chunks: int,
    u: U32,
    rows: U32,
    extra: U32,
    place: int,
    zero_probe: U32,
    inverse_roots: U32,
    inverse_roots_shoup: U32,
    block: U32,
    out: U32,
) -> None:
    """b'' of the tiles `first` to `last` - 1, in place of the mask; `u` as `_first_tiles` left it, `block` scratch, uint32[N, LANES]."""
    lanes = block.shape[1]
    for tile in range(first, last):
        used = min(lanes, chunks - tile * lanes)
        _gather(rows, extra, place, tile * lanes, used, block)
        _add_product(u[tile * lanes : (tile + 1) * lanes].reshape(block.shape[0], lanes), zero_probe, block)
        ring.inverse_block(block, inverse_roots, inverse_roots_shoup)
        _add_block(block, tile * lanes, used, out)
