"""Layouts: the secret order in which a gallery's records lie in its slots.

A layout is a uniformly random order of all records and fillers. Everything about it follows from one seed, the rows and
the changes since, so that an auditor can rebuild it. Invariants: it serves at most `LAYOUT_USES` searches and never two of one
case, then it is drawn anew. Why: custodian and requester together see nameless scores that the requester can tie to slots; the scores of
k searches in one layout rebuild every template to cosine sqrt(k/D), 0.18 after 16 at D = 512; a new layout leaves them 16 at most
(`tests/test_adversary_custodian_requester.py` runs it). Filler slots hold random unit vectors, because zeros would show. Which row stands
for which person, and keeping use counts across restarts, is left to the holder.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from crypto.errors import LayoutSpentError, MisuseError
from crypto.ring import I64, N
from crypto.seed import Seed, permutation

LAYOUT_USES: Final = 16
FILLER: Final = -1


class Layout:
    """Slots to rows: `rows[slot]` is the row number of the template in the holder's table, or `FILLER`; int64[chunks * N].

    There are always free slots (one, and one in 64 records), so that a record can be added by rewriting one chunk.
    """

    __slots__ = ("_cases", "_revision", "_uses_left", "rows", "seed")

    def __init__(self, rows: I64, seed: Seed, uses: int = LAYOUT_USES) -> None:
        if rows.dtype != np.int64 or rows.ndim != 1 or not rows.size or rows.size % N or (rows < FILLER).any():
            raise MisuseError("a layout has whole chunks of int64 rows")
        held = np.sort(rows[rows != FILLER])
        if (held[1:] == held[:-1]).any():
            raise MisuseError("a row lies in two slots")
        self.rows = rows
        self.seed = seed
        self._revision = 0
        self._uses_left = uses
        self._cases: set[bytes] = set()

    @classmethod
    def draw(cls, rows: I64, *, seed: Seed | None = None, uses: int = LAYOUT_USES) -> Layout:
        """A secret order of these rows, from a fresh seed unless an auditor gives that of an earlier layout."""
        seed = seed or Seed.fresh()
        slots = -(-(rows.size + 1 + rows.size // 64) // N) * N
        order = permutation(seed, "order", slots)
        padded = np.full(slots, FILLER, np.int64)
        padded[: rows.size] = rows
        return cls(padded[order], seed, uses)

    @property
    def chunks(self) -> int:
        """Number of chunks of 1,024 slots."""
        return self.rows.size // N

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
        """A uniformly chosen free slot; `LayoutSpentError` when none is left and a larger layout must be drawn."""
        free = np.flatnonzero(self.rows == FILLER)
        if not free.size:
            raise LayoutSpentError("no slot is free: draw and pack a new layout")
        return int(free[permutation(self.change_seed(), "free-slot", free.size)[0]])

    def change_seed(self) -> Seed:
        """The seed of the next change to a slot."""
        return self.seed.child(f"change/{self._revision}")

    def put(self, slot: int, row: int) -> None:
        """Record that a slot now holds another row (or `FILLER`); the layout is in a new state."""
        self.rows[slot] = row
        self._revision += 1

    def state_id(self) -> bytes:
        """32 bytes that differ for every state of every layout; answers are bound to it."""
        return self.seed.child(f"state/{self._revision}").export_secret()

    def __repr__(self) -> str:
        return f"Layout(chunks={self.chunks}, rows=<redacted>)"
