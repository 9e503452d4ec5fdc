"""What may leave side by side, and what must wait: entries before what follows them, one recipient's messages in their order."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from agency_node.outbox import ENTRY, GRANT, MESSAGE, READY, content_of, mark_refused, mark_sent, next_outgoing
from agency_node.tables import outbox
from tests.node_samples import store

Row = tuple[str, str, str]
"""Search, kind, recipient."""


def queue(engine: Engine, rows: list[Row]) -> None:
    with engine.begin() as connection:
        for number, (search_id, kind, recipient) in enumerate(rows, start=1):
            values = {"search_id": search_id, "kind": kind, "name": kind, "recipient": recipient, "data": b"%d" % number}
            connection.execute(insert(outbox).values(**values, grant_digest=b"", state=READY, note="", created_at=""))


def leaving(engine: Engine) -> list[int]:
    found = next_outgoing(engine)
    with engine.begin() as connection:
        assert [content_of(connection, row.number) for row in found] == [b"%d" % row.number for row in found]
    return [row.number for row in found]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return store(tmp_path)


def test_nothing_leaves_before_the_entries_written_before_it(engine: Engine) -> None:
    """A release: its entry, the holders' parts, the requester's; then another entry with a message."""
    queue(
        engine,
        [("a", ENTRY, ""), ("a", MESSAGE, "x"), ("a", MESSAGE, "y"), ("a", MESSAGE, "x"), ("a", ENTRY, ""), ("a", MESSAGE, "z")],
    )
    seen = []
    while ready := leaving(engine):
        seen.append(ready)
        with engine.begin() as connection:
            mark_sent(connection, ready[-1])
    assert seen == [[1], [2, 3, 5], [2, 3, 6], [2, 3], [2], [4]]


def test_a_search_that_waits_keeps_no_other_waiting(engine: Engine) -> None:
    queue(engine, [("a", GRANT, ""), ("a", MESSAGE, "x"), ("b", MESSAGE, "x"), ("b", MESSAGE, "y"), ("c", ENTRY, "")])
    assert leaving(engine) == [1, 3, 4, 5]
    with engine.begin() as connection:
        mark_refused(connection, 1, "why")
    assert leaving(engine) == [2, 3, 4, 5]
