"""Layouts: the secret order in which a gallery's records lie in its slots.

A layout is a random order of all records, spread evenly over the chunks, with fillers between them: random unit vectors, because zeros
would show. Everything about it follows from one seed, the rows and the changes since, so that an auditor can rebuild it.

Invariants: it serves at most `LAYOUT_USES` searches and never two of one case, then it is drawn anew. Why: custodian and requester together
see nameless scores that the requester can tie to slots; the scores of k searches in one layout rebuild every template to cosine sqrt(k/D),
0.18 after 16 at D = 512; a new layout leaves them 16 at most (`tests/test_adversary_custodian_requester.py` runs it).

Every chunk keeps `kept_fillers` of them, and each change of a record replaces all fillers of its chunk. Why: the same two can forge b_z,
read u_c, and so hold a'_c to within its error; two searches around a change would then differ by that one record alone, which a lattice
solves for. With the fillers changed too, the difference is a sum over more random small numbers than Z_q^N has room for, and says
nothing (`tests/test_adversary_requester.py` runs the attack's first half and looks at the rest).

Which row stands for which person, and keeping use counts across restarts, is left to the holder.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from crypto.errors import LayoutSpentError, MisuseError
from crypto.parameters import SEALMATCH_1, Scales
from crypto.ring import I64, N
from crypto.seed import Seed, permutation, stream_bytes

LAYOUT_USES: Final = 16
FILLER: Final = -1
SPARE_SLOTS: Final = 8
"""Fillers of a chunk beyond those it keeps, in a fresh layout: room for records that are added."""
_HIDING_MARGIN_BITS: Final = 256


def kept_fillers(scales: Scales) -> int:
    """How many fresh fillers hide one changed record: 11 at D = 512, 35 at D = 128.

    A coordinate of a filler is a rounded Gaussian of deviation gamma/sqrt(D), log2 of that times sqrt(2 pi) bits of min-entropy. (No coarse
    step of the tail is as likely as the step at zero: clipping keeps the deviation below 38, at 60 they would be.) Together they must
    exceed the 27 N bits of one element of the ring by 256, as the leftover hash lemma asks for a distance of 2^-128 from uniform. That
    products with the public bases hash well enough is a heuristic: the ring splits, and the lemma is for random matrices.
    """
    bits = scales.dimensions * math.log2(scales.gamma * math.sqrt(2 * math.pi / scales.dimensions))
    return math.ceil((SEALMATCH_1.modulus_bits * N + _HIDING_MARGIN_BITS) / bits)


class Layout:
    """Slots to rows: `rows[slot]` is the row number of the template in the holder's table, or `FILLER`; int64[chunks * N]."""

    __slots__ = ("_cases", "_fillers", "_revision", "_uses_left", "kept_fillers", "rows", "seed")

    def __init__(self, rows: I64, scales: Scales, seed: Seed, uses: int = LAYOUT_USES) -> None:
        if rows.dtype != np.int64 or rows.ndim != 1 or not rows.size or rows.size % N or (rows < FILLER).any():
            raise MisuseError("a layout has whole chunks of int64 rows")
        held = np.sort(rows[rows != FILLER])
        if (held[1:] == held[:-1]).any():
            raise MisuseError("a row lies in two slots")
        self.rows = rows
        self.seed = seed
        self.kept_fillers = kept_fillers(scales)
        self._fillers = np.flatnonzero(rows == FILLER)
        if (self._counts() < self.kept_fillers).any():
            raise MisuseError(f"every chunk keeps {self.kept_fillers} fillers")
        self._revision = 0
        self._uses_left = uses
        self._cases: set[bytes] = set()

    @classmethod
    def draw(cls, rows: I64, scales: Scales, *, seed: Seed | None = None, uses: int = LAYOUT_USES, at_least: int = 1) -> Layout:
        """A secret order of these rows, from a fresh seed unless an auditor gives that of an earlier layout.

        It has as many chunks as the rows need, and not fewer than `at_least`.
        """
        seed = seed or Seed.fresh()
        chunks = max(at_least, -(-rows.size // (N - kept_fillers(scales) - SPARE_SLOTS)))
        counts = np.full(chunks, rows.size // chunks) + (np.arange(chunks) < rows.size % chunks)
        placed = np.full((chunks, N), FILLER, np.int64)
        placed[np.arange(N) < counts[:, None]] = rows[permutation(seed, "order", rows.size)]
        # each chunk in a random order of its own: 64-bit keys, of which two are equal with probability below 2^-30 in 16 million slots
        places = np.argsort(stream_bytes(seed, "places", 8 * chunks * N).view("<u8").reshape(chunks, N), axis=1, kind="stable")
        return cls(np.take_along_axis(placed, places, axis=1).reshape(-1), scales, seed, uses)

    @property
    def chunks(self) -> int:
        """Number of chunks of 1,024 slots."""
        return self.rows.size // N

    @property
    def uses_left(self) -> int:
        """Searches that this layout may still serve."""
        return self._uses_left

    def claim(self, case: bytes) -> None:
        """Count one search of the case with this commitment; `LayoutSpentError` when a new layout must be drawn first."""
        if self._uses_left < 1:
            raise LayoutSpentError("this layout has served its searches: draw and pack a new one")
        if case in self._cases:
            raise LayoutSpentError("this layout has served this case: draw and pack a new one")
        self._uses_left -= 1
        self._cases.add(case)

    def slot_of(self, row: int) -> int:
        """The slot of a row; `MisuseError` when it is not in this layout."""
        found = np.flatnonzero(self.rows == row) if row != FILLER else np.empty(0, np.int64)
        if not found.size:
            raise MisuseError("this row is not in the layout")
        return int(found[0])

    def free_slot(self) -> int:
        """A uniformly chosen filler of the chunks that have one to spare; `LayoutSpentError` when a new layout must be drawn first."""
        free = self._fillers[(self._counts() > self.kept_fillers)[self._fillers // N]]
        if not free.size:
            raise LayoutSpentError("no slot is free: draw and pack a new layout")
        return int(free[permutation(self.change_seed(), "free-slot", free.size)[0]])

    def change_seed(self) -> Seed:
        """The seed of the next change to a slot."""
        return self.seed.child(f"change/{self._revision}")

    def put(self, slot: int, row: int) -> None:
        """Record that a slot now holds another row (or `FILLER`); the layout is in a new state."""
        place = np.searchsorted(self._fillers, slot)
        if (self.rows[slot] == FILLER) != (row == FILLER):
            self._fillers = np.insert(self._fillers, place, slot) if row == FILLER else np.delete(self._fillers, place)
        self.rows[slot] = row
        self._revision += 1

    def state_id(self) -> bytes:
        """32 bytes that differ for every state of every layout; answers are bound to it."""
        return self.seed.child(f"state/{self._revision}").export_secret()

    def _counts(self) -> I64:
        """Fillers of each chunk; int64[chunks]."""
        return np.bincount(self._fillers // N, minlength=self.chunks)

    def __repr__(self) -> str:
        return f"Layout(chunks={self.chunks}, rows=<redacted>)"
