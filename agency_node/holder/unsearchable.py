"""Records that are in the gallery and that no search finds: which rows, why, how many (R24, R25).

Invariants: a row that stands here with a reason is in no packed gallery from the next scan on, is named in no lead and is not disclosed
(`records`, `packed`); what writes here counts a change of the store in the same transaction, by which a serving node notices. Left to
others: who becomes unsearchable and when (`dispositions`), destroying what is due (`purging`).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, delete, func, select

from agency_node.gallery_tables import record_dispositions

UNCHECKED: Final = "unchecked"
"""Nothing was heard of the record's case for longer than the node's settings allow."""
WITH_A_REASON: Final = record_dispositions.c.unsearchable != ""


def unsearchable_rows(connection: Connection) -> frozenset[int]:
    """The rows that no search finds, apart from destroyed ones."""
    return frozenset(connection.execute(select(record_dispositions.c.row).where(WITH_A_REASON)).scalars())


def is_unsearchable(connection: Connection, row: int) -> bool:
    """Whether no search finds that row, though it is there."""
    return connection.execute(select(record_dispositions.c.row).where(WITH_A_REASON, record_dispositions.c.row == row)).first() is not None


def count_unsearchable(connection: Connection) -> dict[str, int]:
    """How many records no search finds, by reason, in the order of the reasons' names."""
    reason = record_dispositions.c.unsearchable
    counted = select(reason, func.count()).where(WITH_A_REASON).group_by(reason).order_by(reason)
    return {str(name): int(count) for name, count in connection.execute(counted)}


def forget_disposition(connection: Connection, row: int) -> None:
    """Drop what was heard of a record that is destroyed."""
    connection.execute(delete(record_dispositions).where(record_dispositions.c.row == row))
