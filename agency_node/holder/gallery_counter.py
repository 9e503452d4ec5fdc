"""How many rows a gallery has, and how often it changed: the number by which a serving node sees that another process changed the gallery.

Invariants: every transaction that changes what a search may find counts one change; a count never goes back.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from agency_node.gallery_tables import records
from agency_node.store import Glance
from agency_node.tables import facts

CHANGES_FACT: Final = "gallery-changes"
CHANGES: Final = Glance(select(facts.c.value).where(facts.c.name == CHANGES_FACT))


def row_count(connection: Connection) -> int:
    """Rows that were ever given; they are numbered without gaps."""
    last = connection.execute(select(func.max(records.c.row))).scalar_one()
    return 0 if last is None else int(last) + 1


def changes_of(connection: Connection) -> int:
    """How often the gallery changed."""
    stored = connection.execute(select(facts.c.value).where(facts.c.name == CHANGES_FACT)).scalar_one_or_none()
    return 0 if stored is None else int(stored)


def count_change(connection: Connection, before: int) -> None:
    """Count this transaction's change; `before` is what `changes_of` said in it."""
    statement = insert(facts).values(name=CHANGES_FACT, value=(value := str(before + 1).encode("ascii")))
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))
