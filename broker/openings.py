"""What parties opened of their log entries: verified against the leaves, kept, read by everybody, counted.

Invariants: a field is kept only if the leaf in this log commits to it at its place, its value is of the field's form, and the caller makes
such entries about that grant, or opens itself as the author of an expunction, which is about none; what the broker can hold against the
grant's terms agrees with them; a field that was kept is neither changed nor removed (triggers of migration 0005), and numbers follow one
another, so that a reader sees when one is missing. Everybody who reads verifies again: the broker's checks keep nonsense out, and nobody
relies on them. The broker is told nothing here before the author opens it to everybody.

Left to others: which fields a kind opens and what their values look like (`crypto.entry_openings`), which counts may be published
(`crypto.entry_counts`), when to open (the author's node).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import date
from typing import Final

from sqlalchemy import func, select

from broker.authentication import Caller
from broker.errors import EntryError, NotFoundError, NotYourGrantError
from broker.grants import Grants
from broker.log_store import LogStore
from broker.parties import RoutedGrant, check_entry
from broker.store import Store, milliseconds
from broker.tables import leaves, openings
from crypto.canonical import JsonObject
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry
from crypto.entry_counts import EntryCounts
from crypto.entry_openings import (
    AUTHOR,
    HOLDERS_ASKED,
    ORIGINATING_AGENCY,
    REQUESTING_AGENCY,
    LeafOpenings,
    opening_to_json,
)

_COUNTED_AT_ONCE: Final = 500
"""Leaves or openings that are counted before other requests have their turn: some milliseconds."""


@dataclass(frozen=True)
class OpenedField:
    """One opened field as it is kept and served."""

    number: int
    position: int
    opening: FieldOpening

    def to_json(self) -> JsonObject:
        """What `GET /v1/log/openings` lists."""
        return {"number": self.number, "position": self.position, **opening_to_json(self.opening)}


class Openings:
    """The opened fields of one log."""

    def __init__(self, store: Store, grants: Grants, log: LogStore) -> None:
        self._store, self._grants, self._log = store, grants, log
        self._counts = EntryCounts()
        self._counted_leaves = self._counted_openings = 0
        self._counting = asyncio.Lock()

    async def enter(self, caller: Caller, opened: LeafOpenings) -> int:
        """Keep the openings of one leaf; how many of them are new. After these checks, in this order:

        1. the leaf stands in this log (`NotFoundError`)
        2. the caller makes such entries about that grant; of an expunction, which is about none, it opens the author's name, and that is
            its own (`NotYourGrantError`, `EntryError`)
        3. each field is one that the leaf commits to, of the form of its kind (`CommitmentError`, `FieldError`)
        4. agencies and number of holders are those of the grant's terms (`EntryError`)
        """
        wanted = select(leaves.c.position, leaves.c.entry, leaves.c.grant_digest).where(leaves.c.leaf_hash == opened.leaf)
        async with self._store.writing() as connection:
            row = (await connection.execute(wanted)).one_or_none()  # 1
            if row is None or row.position >= self._log.size:
                raise NotFoundError("no such leaf stands in this log")
            entry = LogEntry.from_bytes(bytes(row.entry))
            grant = None if entry.kind is EntryKind.EXPUNCTION else await self._grants.find(connection, bytes(row.grant_digest))
            if grant is None:  # 2
                _check_names_author(opened, caller)
            elif entry.kind is not EntryKind.GRANT:
                check_entry(entry, grant, caller.agency, caller.roster)
            elif caller.agency != grant.requesting_agency:
                raise NotYourGrantError("the grant names another requesting agency than the caller")
            opened.check(entry)  # 3
            if grant is not None:
                for one in opened.openings:  # 4
                    _check_against_terms(one, grant, caller)
            kept = select(openings.c.field_type).where(openings.c.position == row.position)
            there = set((await connection.execute(kept)).scalars())
            number = int((await connection.execute(select(func.count()).select_from(openings))).scalar_one())
            new = [one for one in opened.openings if one.field_type not in there]
            for offset, one in enumerate(new):
                values = {"number": number + offset, "position": row.position, "kind": entry.kind.value, "salt": one.salt}
                values |= {"field_type": str(one.field_type), "value": one.value, "opened_at": milliseconds(caller.now)}
                await connection.execute(openings.insert().values(**values))
        return len(new)

    async def since(self, first: int, limit: int) -> tuple[int, list[OpenedField]]:
        """How many fields are open, and those from number `first` on."""
        wanted = select(openings).where(openings.c.number >= first).order_by(openings.c.number).limit(limit)
        async with self._store.reading() as connection:
            total = int((await connection.execute(select(func.count()).select_from(openings))).scalar_one())
            rows = (await connection.execute(wanted)).all()
        opened = [FieldOpening(bytes(row.salt), FieldType(row.field_type), bytes(row.value)) for row in rows]
        return total, [OpenedField(row.number, row.position, one) for row, one in zip(rows, opened, strict=True)]

    async def counts(self) -> JsonObject:
        """What may be published of leaves and openings. Counts on from where it was; other requests have their turn meanwhile."""
        async with self._counting:
            size = self._log.size
            while self._counted_leaves < size:
                _, found = await self._log.leaves_from(self._counted_leaves, _COUNTED_AT_ONCE)
                if not found:
                    break
                for data in found:
                    said = json.loads(data)  # it was read strictly when it was entered
                    self._counts.add_leaf(date.fromisoformat(said["day"]), EntryKind(said["kind"]))
                self._counted_leaves += len(found)
                await asyncio.sleep(0)
            while await self._count_openings():
                await asyncio.sleep(0)
            return {"size": self._counted_leaves, **self._counts.to_json()}

    async def _count_openings(self) -> bool:
        """Count some more; whether there were any."""
        wanted = select(openings).where(openings.c.number >= self._counted_openings).order_by(openings.c.number).limit(_COUNTED_AT_ONCE)
        async with self._store.reading() as connection:
            rows = (await connection.execute(wanted)).all()
        for row in rows:
            self._counts.add_opened(row.position, EntryKind(row.kind), FieldType(row.field_type), bytes(row.value).decode("ascii"))
        self._counted_openings += len(rows)
        return bool(rows)


def _check_names_author(opened: LeafOpenings, caller: Caller) -> None:
    """Whose salts the caller shows: that the leaf commits to this author is the next check."""
    if not any(one.field_type == AUTHOR and one.value == caller.agency.encode("ascii") for one in opened.openings):
        raise EntryError("an expunction is opened by its author, with the author's name")


def _check_against_terms(opening: FieldOpening, grant: RoutedGrant, caller: Caller) -> None:
    known = {
        AUTHOR: str(caller.agency),
        REQUESTING_AGENCY: str(grant.requesting_agency),
        ORIGINATING_AGENCY: str(grant.originating_agency),
        HOLDERS_ASKED: str(len(grant.holders)),
    }
    if opening.value and known.get(opening.field_type, opening.value.decode("ascii")) != opening.value.decode("ascii"):
        raise EntryError("the opened field is another than the grant's terms say")
