"""Destroying records: template, photograph, number and day, for good, with the log entry that says so.

Invariants: an expunged record leaves its row's number and its tag; everything else of it is overwritten, its leaf in the gallery's tree
and what was heard of its case too, and the log entry that says so is queued in the same transaction: if that fails, nothing was destroyed.

Left to others: what is due (`purging`), the ledger beside the store (`expunge_ledger`), the write-ahead log (`store.forget_deleted`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.dialects import sqlite

from agency_node.errors import RequestError
from agency_node.gallery_tables import records
from agency_node.holder.blocks import MODEL_FACT, Leaves, TemplateBlocks, check_model
from agency_node.holder.gallery_counter import changes_of, count_change, row_count
from agency_node.holder.record_leaves import forget_leaf
from agency_node.holder.unsearchable import forget_disposition
from agency_node.journal import NO_SEARCH, stamp
from agency_node.journal import record as record_event
from agency_node.store import reading
from agency_node.tables import facts
from agency_node.vault import Vault
from crypto.embedding import EmbeddingModel
from crypto.ledger import StateTree

INSERT_RECORD: Final = str(insert(records).compile(dialect=sqlite.dialect()))
"""With a value for each column, in their order: rows go to the driver as tuples, thousands in one call."""


class ExpungeReason(enum.StrEnum):
    """Why a record must go (R25); a code, so that no case text comes into a journal."""

    COURT_ORDER = "court-order"
    NON_CONVICTION = "non-conviction"
    DISMISSED = "dismissed"
    JUVENILE = "juvenile"
    UNCHECKED = "unchecked"
    ERROR = "error"


@dataclass(frozen=True)
class Expunged:
    """What was destroyed; the roots are the commitments before and after, without and with the record's absence."""

    row: int
    reason: ExpungeReason
    at: str
    had_photograph: bool
    root_before: bytes
    root_after: bytes


Enter = Callable[[Connection, Expunged], None]
"""Queues the log entry of what is destroyed, in the transaction that destroys it."""
Committed = Callable[[], None]
"""To be called when the transaction is on disk."""


class ExpungingStore:
    """The part of a gallery's store that destroys; `records.RecordStore` is the whole."""

    def __init__(self, engine: Engine, vault: Vault, model: EmbeddingModel) -> None:
        """`EnrolmentError` when the stored templates are of another model, or of other scales or codes."""
        self.model = model
        self._engine = engine
        self._vault = vault
        with engine.begin() as connection:
            check_model(connection, model.model_hash)
        self._blocks = TemplateBlocks(engine, vault, model.dimensions, model.model_hash)

    def expunge(self, record_number: str, reason: ExpungeReason, now: datetime, enter: Enter) -> Expunged:
        """Destroy a record: its template, photograph, number and day; in one transaction, and for good.

        What stays is its row's number, the keyed tag that tells that this number was here (a table that still names it enrols it no more,
        R25), and the journal's line. `enter` queues the log entry (`Outbox.expunction`): if that fails, nothing was destroyed.
        `RequestError` when there is no such record, or when it was expunged before.
        """
        with self._engine.begin() as connection:
            row = self.row_of(connection, record_number)
            (done,), committed = self.expunge_rows(connection, [(row, reason)], now, enter)
        committed()
        return done

    def expunge_rows(
        self, connection: Connection, due: Sequence[tuple[int, ExpungeReason]], now: datetime, enter: Enter
    ) -> tuple[list[Expunged], Committed]:
        """Destroy these rows, one or more, in the caller's transaction; call what is given back when that is on disk.

        `RequestError` for a row without a record: the caller lets the transaction fail.
        """
        changes = changes_of(connection)
        tree = self._blocks.commitment(connection, changes)
        leaves: Leaves = {}
        gone: list[Expunged] = []
        for row, reason in due:
            found = connection.execute(select(records.c.sealed_photograph, records.c.expunged_at).where(records.c.row == row)).first()
            if found is None or found.expunged_at is not None:
                raise RequestError("a record that is to be expunged is not there any more: look again what is due; nothing was changed")
            had_photograph = found.sealed_photograph is not None
            before = tree.root()
            tree, written = self._destroy(connection, row, reason, now, tree)
            leaves |= written
            done = Expunged(row, reason, stamp(now), had_photograph, before, tree.root())
            enter(connection, done)
            gone.append(done)
        count_change(connection, changes)
        return gone, lambda: self._blocks.committed(changes, leaves)

    def row_of(self, connection: Connection, record_number: str) -> int:
        """The row of a record that is here; `RequestError` when there is no such record, or when it was expunged before."""
        found = connection.execute(select(records.c.row, records.c.expunged_at).where(records.c.tag == self._tag(record_number))).first()
        if found is None:
            raise RequestError("no record of that number is enrolled here: look at its spelling; nothing was changed")
        if found.expunged_at is not None:
            raise RequestError("the record of that number was expunged before: there is nothing left to expunge")
        return int(found.row)

    def expunge_again(self, tags: Iterable[bytes], now: datetime) -> int:
        """Destroy what a store that is older than its ledger of expunged records still holds (R25); how many records that were.

        A tag that this store never met gets a row without a record, so that a table that names its record number enrols it no more.
        Nothing is queued for the log: each line of the ledger was, in the transaction that expunged its record first.
        """
        with self._engine.begin() as connection:
            changes, gone = changes_of(connection), 0
            leaves: Leaves = {}
            stones: list[bytes] = []
            for tag in tags:
                found = connection.execute(select(records.c.row, records.c.expunged_at).where(records.c.tag == tag)).first()
                if found is None:
                    stones.append(tag)
                elif found.expunged_at is None:
                    leaves |= self._overwrite(connection, found.row, now)
                    gone += 1
            if stones:
                if not check_model(connection, self.model.model_hash):
                    connection.execute(insert(facts).values(name=MODEL_FACT, value=self.model.model_hash))
                first = row_count(connection)
                moment = stamp(now)
                connection.exec_driver_sql(INSERT_RECORD, [(first + i, tag, b"", None, "", moment, moment) for i, tag in enumerate(stones)])
                leaves |= self._blocks.append(connection, first, np.zeros((len(stones), self.model.dimensions), np.int8))
            if not leaves:
                return 0
            count_change(connection, changes)
            record_event(connection, now, NO_SEARCH, "expunged again", f"{gone} records, {len(stones)} that were never here")
        self._blocks.committed(changes, leaves)
        return gone

    def expunged(self) -> list[tuple[bytes, str]]:
        """Tag and moment of every expunged record, in the order in which they went."""
        gone = select(records.c.tag, records.c.expunged_at).where(records.c.expunged_at.is_not(None))
        with reading(self._engine).begin() as connection:
            rows = connection.execute(gone.order_by(records.c.expunged_at, records.c.row)).all()
        return [(bytes(tag), str(moment)) for tag, moment in rows]

    def _destroy(self, connection: Connection, row: int, reason: ExpungeReason, now: datetime, tree: StateTree) -> tuple[StateTree, Leaves]:
        leaves = self._overwrite(connection, row, now)
        record_event(connection, now, NO_SEARCH, "expunged", f"row {row}: {reason}")
        return tree.replaced(leaves), leaves

    def _overwrite(self, connection: Connection, row: int, now: datetime) -> Leaves:
        leaves = self._blocks.erase(connection, row)
        blank = {"sealed_record": b"", "sealed_photograph": None, "captured": "", "expunged_at": stamp(now)}
        connection.execute(update(records).where(records.c.row == row).values(**blank))
        forget_leaf(connection, row)
        forget_disposition(connection, row)
        return leaves

    def _tag(self, record_number: str) -> bytes:
        return self._vault.tag("record-number", record_number.encode("utf-8"))
