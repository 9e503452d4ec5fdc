"""The node's ledger: what it did, when, for which search, and why.

Ids, codes and rule numbers; never case text, scores or names of persons.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, insert

from agency_node.tables import journal
from crypto.moments import format_moment, round_moment

NO_SEARCH: Final = ""


def record(connection: Connection, now: datetime, search_id: str, event: str, detail: str = "") -> None:
    """Append one line; `now` is kept to the hundredth of a second (R52)."""
    connection.execute(insert(journal).values(at=stamp(now), search_id=search_id, event=event, detail=detail))


def stamp(now: datetime) -> str:
    """A moment as the store writes it: ISO 8601 in UTC, to the hundredth; sorts as text."""
    return format_moment(round_moment(now))
