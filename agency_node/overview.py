"""What a node can tell about its searches, grants and queues: values for tables and for `--json`, read from the store in one transaction.

Holds nothing that a terminal must not show: no case number, no score, no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import ColumnElement, Connection, Engine, Table, func, select

from agency_node.errors import RequestError
from agency_node.facts import halted
from agency_node.gallery_tables import disclosure_requests, records
from agency_node.holder.unsearchable import count_unsearchable
from agency_node.tables import answers, custody, held_grants, inbox, ledger, outbox, sealing_keys, search_holders, searches
from crypto.canonical import KeyId

if TYPE_CHECKING:
    from agency_node.holder.budgets import Spent

ENDED: Final = ("refused", "expired", "cancelled", "closed", "lapsed", "revoked")
"""States of a search of this agency in which nothing more comes of it."""


@dataclass(frozen=True)
class SearchStatus:
    """One search of this agency and what became of each holder."""

    search_id: str
    state: str
    note: str
    deadline: str
    holders: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeStatus:
    """One node at one moment."""

    agency: str
    halted: str | None
    searches: list[SearchStatus]
    grants: list[dict[str, str]]
    custody: list[dict[str, str]]
    requests: list[dict[str, str]]
    counts: dict[str, int]
    budgets: list[Spent] = field(default_factory=list)
    """Holder: what was used of its budgets today."""
    unsearchable: dict[str, int] = field(default_factory=dict)
    """Holder: records that are here and that no search finds, by reason."""


def node_status(engine: Engine, agency: str, spent: Sequence[Spent] = ()) -> NodeStatus:
    """Everything at once; `spent` is what `Budgets.spent` says, at a holder."""
    reason = halted(engine)
    with engine.begin() as connection:
        own = connection.execute(select(searches.c.search_id).order_by(searches.c.created_at)).scalars().all()
        return NodeStatus(
            agency,
            reason,
            [search_status(connection, search_id) for search_id in own],
            _rows(connection, held_grants, "search_id", "roles", "state", "note", "deadline", "expires"),
            _rows(connection, custody, "search_id", "state", "note", "deadline", "released_at", "alarms"),
            _rows(connection, disclosure_requests, "search_id", "handle", "state", "received_at", where=disclosure_requests.c.handle != ""),
            {
                "records": _live_records(connection),
                "answers": _count(connection, answers),
                "waiting_messages": _count(connection, inbox, inbox.c.state.in_(["new", "waiting"])),
                "unsent": _count(connection, outbox, outbox.c.state == "ready"),
            },
            list(spent),
            count_unsearchable(connection),
        )


def search_status(connection: Connection, search_id: str) -> SearchStatus:
    """One search."""
    row = connection.execute(select(searches).where(searches.c.search_id == search_id)).one()
    where = search_holders.c.search_id == search_id
    holders = {
        one.holder: {"state": one.state, "note": one.note, "at": one.at}
        for one in connection.execute(select(search_holders).where(where).order_by(search_holders.c.holder))
    }
    return SearchStatus(search_id, row.state, row.note, row.deadline, holders)


def full_search_id(engine: Engine, text: str) -> str:
    """The id of the one search, of this agency or held for another, that begins so; `RequestError` for none and for several."""
    tables = (searches, held_grants, custody)
    with engine.begin() as connection:
        found = {
            one
            for table in tables
            for one in connection.execute(select(table.c.search_id).where(table.c.search_id.startswith(text, autoescape=True))).scalars()
        }
    if len(found) != 1 or not text:
        many = "several searches begin so: give more of the id" if found else "there is no such search here: give its id"
        raise RequestError(f"{many}; `sealmatch node status` lists them")
    return str(found.pop())


def journal_of(engine: Engine, search_id: str) -> list[dict[str, str]]:
    """What this node did about a search, in order."""
    with engine.begin() as connection:
        rows = connection.execute(select(ledger).where(ledger.c.search_id == search_id).order_by(ledger.c.sequence)).all()
    return [{"at": row.at, "event": row.event, "detail": row.detail} for row in rows]


def ledger_rows(engine: Engine, search_id: str = "", day: str = "") -> list[dict[str, object]]:
    """Rows of the ledger in order, with all that they hold: of one search, of one day such as `2026-11-23`, or all."""
    wanted = select(ledger).order_by(ledger.c.sequence)
    if search_id:
        wanted = wanted.where(ledger.c.search_id == search_id)
    if day:
        wanted = wanted.where(ledger.c.at.startswith(day))
    with engine.begin() as connection:
        rows = connection.execute(wanted).mappings().all()
    return [{**row, "previous": row["previous"].hex(), "hash": row["hash"].hex()} for row in rows]


def holder_events(engine: Engine, search_id: str) -> list[dict[str, str]]:
    """What became of each holder of a search, in order: one event for each step of each of them."""
    steps = (one for one in journal_of(engine, search_id) if one["event"].startswith("holder "))
    return [{"at": one["at"], "holder": one["detail"], "state": one["event"].removeprefix("holder ")} for one in steps]


def ended_search_keys(engine: Engine) -> list[KeyId]:
    """Live sealing keys of searches of this agency that have ended."""
    ended = select(searches.c.search_id).where(searches.c.state.in_(ENDED))
    live = sealing_keys.c.sealed_private.is_not(None) & sealing_keys.c.use.in_(ended)
    with engine.begin() as connection:
        return [KeyId(name) for name in connection.execute(select(sealing_keys.c.key_id).where(live)).scalars()]


def has_open_searches(engine: Engine) -> bool:
    """Whether this node holds a grant, or runs a search, that has not ended: something sealed to an old week's key may still come."""
    with engine.begin() as connection:
        held = _count(connection, held_grants, held_grants.c.state == "standing")
        return held + _count(connection, searches, searches.c.state.not_in(ENDED)) > 0


def _rows(connection: Connection, table: Table, *names: str, where: ColumnElement[bool] | None = None) -> list[dict[str, str]]:
    columns = [table.c[name] for name in names]
    chosen = select(*columns) if where is None else select(*columns).where(where)
    return [{name: value or "" for name, value in zip(names, row, strict=True)} for row in connection.execute(chosen)]


def _live_records(connection: Connection) -> int:
    """Rows are numbered without gaps, so that millions need not be counted."""
    last = connection.execute(select(func.max(records.c.row))).scalar_one()
    return 0 if last is None else int(last) + 1 - _count(connection, records, records.c.expunged_at.is_not(None))


def _count(connection: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())
