"""A whole log by kind and subject, for whoever looks back at it: where entries stand, and what anybody sees to be out of order.

Nobody outside a search can tell which release is of which grant (`entries`). What everybody can see: a grant's entry stands once and a
release's once, because one grant is one search and one release; and wherever one stops reading, not more searches were released than were
granted.

Invariants: entries are added in the log's order, and one that cannot stand where it stands is refused. Left to others: what ties entries to
a search (`log_evidence`, for who is shown its grant), whether the leaves are the log's (`ledger`, `tiles`).
"""

from __future__ import annotations

from typing import Final

from crypto.entries import EntryKind, LogEntry
from crypto.errors import EntryOrderError

ONCE: Final = frozenset({EntryKind.GRANT, EntryKind.RELEASE})
"""Kinds of which a grant has one entry."""


class LogIndex:
    """Positions of every entry, by kind and subject."""

    def __init__(self) -> None:
        self._positions: dict[tuple[EntryKind, bytes], list[int]] = {}
        self._size = 0
        self._granted = 0
        self._released = 0

    @property
    def size(self) -> int:
        """Entries so far."""
        return self._size

    def append(self, entry: LogEntry) -> None:
        """Add the next entry, after these checks in this order (`EntryOrderError`):

        1. it is no second grant or release of one grant
        2. with it there are not more releases than grants before it
        """
        found = self._positions.setdefault((entry.kind, entry.subject), [])
        if found and entry.kind in ONCE:  # 1
            raise EntryOrderError(f"entry {self._size} is a second {entry.kind.value} of one grant")
        self._granted += entry.kind is EntryKind.GRANT
        self._released += entry.kind is EntryKind.RELEASE
        if self._released > self._granted:  # 2
            raise EntryOrderError(f"entry {self._size} releases a search that was not granted before it")
        found.append(self._size)
        self._size += 1

    def positions(self, kind: EntryKind, subject: bytes) -> tuple[int, ...]:
        """Where entries of that kind and subject stand, in order; empty if there is none."""
        return tuple(self._positions.get((kind, subject), ()))
