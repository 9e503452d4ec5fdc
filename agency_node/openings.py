"""Openings of this node's log entries: published field by field when their time has come, or handed to an oversight body at once.

What opens a leaf is sealed in the outbox, in the row and the transaction that made the entry (`outbox`); nothing is added to that path. Due
is an entry that left for the log longer ago than the delay of the packs (`policy.clocks`), or whose case this agency says is closed.
Invariants: of an entry only the fields that its kind opens ever leave (`crypto.entry_openings`), to the broker not before they are due;
each is published once, and the ledger says when; what the broker refuses for good is not sent again, and stands in the ledger too.

Left to others: what entries say (`opened_fields`), when to look (`serving`), that readers believe nothing unverified (`log_openings`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, and_, or_, select, update

from agency_node.errors import BrokerRefusedError, RequestError
from agency_node.journal import record, stamp
from agency_node.outbox import LOG_OPENINGS, REFUSED, SENT, TO_OPEN
from agency_node.store import promising_nothing, reading
from agency_node.tables import outbox
from agency_node.vault import Vault
from crypto.canonical import AgencyId
from crypto.entries import EntryKind, FieldOpening, FieldType
from crypto.entry_openings import LeafOpenings, OpenedEntries, opened_types
from crypto.keys import SigningKey
from crypto.moments import round_moment

ASKED: Final = "asked"
PUBLISHED: Final = "published"
_AT_ONCE: Final = 500
"""Entries that one look publishes; the rest follows at the next."""


class OpeningLink(Protocol):
    """What `openings` asks of the broker."""

    async def post_openings(self, opened: LeafOpenings) -> None: ...


@dataclass(frozen=True)
class _Kept:
    number: int
    search_id: str
    name: str
    opened: LeafOpenings


class Openings:
    """The openings of one node."""

    def __init__(self, engine: Engine, vault: Vault, link: OpeningLink, delay: timedelta, clock: Callable[[], datetime]) -> None:
        self._engine, self._vault, self._link, self._delay, self._clock = engine, vault, link, delay, clock

    async def publish_due(self) -> int:
        """Publish what is due; how many entries that were. A `BrokerError` leaves the rest for the next time."""
        before = stamp(self._clock() - self._delay)
        due = and_(outbox.c.state == SENT, or_(outbox.c.opening == ASKED, and_(outbox.c.opening == TO_OPEN, outbox.c.created_at <= before)))
        published = 0
        for number in _numbers(self._engine, due):
            (kept,) = _read(self._engine, self._vault, outbox.c.number == number)
            try:
                await self._link.post_openings(kept.opened)
            except BrokerRefusedError as error:
                if not error.is_final:
                    raise
                self._mark(kept, REFUSED, error.problem)
            else:
                self._mark(kept, PUBLISHED, ", ".join(str(one.field_type) for one in kept.opened.openings))
                published += 1
        return published

    def _mark(self, kept: _Kept, state: str, detail: str) -> None:
        with promising_nothing(self._engine).begin() as connection:  # if that is lost it is published again, which changes nothing
            connection.execute(update(outbox).where(outbox.c.number == kept.number).values(opening=state))
            event = "opening refused" if state == REFUSED else f"opened {kept.name}"
            record(
                connection, self._clock(), kept.search_id, event, detail, subject=f"leaf {kept.opened.leaf.hex()}", recipient="everybody"
            )


def ask_to_open(connection: Connection, search_id: str) -> int:
    """The case of that search is closed: what this node logged of it is published at the next look. How many entries that are."""
    kept = and_(outbox.c.search_id == search_id, outbox.c.opening == TO_OPEN, outbox.c.state == SENT)
    return int(connection.execute(update(outbox).where(kept).values(opening=ASKED)).rowcount)


@dataclass(frozen=True)
class HandedOver:
    """What `open_to_oversight` made."""

    entries: int
    kinds: tuple[str, ...]
    sha256: str


def open_to_oversight(
    engine: Engine, vault: Vault, agency: AgencyId, node_key: SigningKey, search_id: str, now: datetime
) -> tuple[bytes, HandedOver]:
    """What this node logged of a search, opened in one signed document; `RequestError` when nothing of it stands in the log."""
    in_log = and_(outbox.c.search_id == search_id, outbox.c.state == SENT, outbox.c.opening.is_not(None))
    kept = _read(engine, vault, in_log)
    if not kept:
        raise RequestError("this node has no entry of that search in the log: ask for it at the node that made one")
    document = OpenedEntries(agency, round_moment(now), tuple(one.opened for one in kept)).sign(node_key)
    return document, HandedOver(len(kept), tuple(one.name for one in kept), hashlib.sha256(document).hexdigest())


def _numbers(engine: Engine, where: ColumnElement[bool]) -> list[int]:
    with reading(engine).begin() as connection:
        return list(connection.execute(select(outbox.c.number).where(where).order_by(outbox.c.number).limit(_AT_ONCE)).scalars())


def _read(engine: Engine, vault: Vault, where: ColumnElement[bool]) -> list[_Kept]:
    """The fields that may be opened, of these rows."""
    columns = (outbox.c.number, outbox.c.search_id, outbox.c.name, outbox.c.grant_digest, outbox.c.leaf_hash, outbox.c.sealed_openings)
    with reading(engine).begin() as connection:
        rows = connection.execute(select(*columns).where(where).order_by(outbox.c.number)).all()
    found = []
    for row in rows:
        listed = json.loads(vault.open(LOG_OPENINGS, row.sealed_openings, row.grant_digest))["openings"]
        fields = [FieldOpening(bytes.fromhex(one["salt"]), FieldType(one["type"]), bytes.fromhex(one["value"])) for one in listed]
        wanted = opened_types(EntryKind(row.name))
        opened = LeafOpenings(bytes(row.leaf_hash), tuple(one for one in fields if one.field_type in wanted))
        found.append(_Kept(row.number, row.search_id, row.name, opened))
    return found
