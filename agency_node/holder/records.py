"""The holder's records at rest: templates in sealed blocks, each record and photograph sealed by itself.

Invariants
- A batch is added whole or not at all; rows are numbered without gaps, and a row keeps its number for ever.
- A record number stands in the store once, and only sealed; it is found again through a keyed tag.
- All templates are of one embedding model: the first batch pins its hash, scales and codes included; a store of another does not open.
- Nothing here works record by record when a gallery is loaded: 2.5 million templates are 2,442 blocks, decrypted into one array.
- An expunged record leaves its row's number and its tag; template, photograph, number and day are overwritten, and the log entry that says
  so is queued in the same transaction.
- A sealed blob is bound to its row or block: moved to another one it does not open.

Left to others: what may be enrolled (`enrol`), the blocks and their keys (`blocks`), the packed form and its order (`index`), the
write-ahead log, which holds what was overwritten until `store.forget_deleted`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

import numpy as np
from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as insert_or_replace
from sqlalchemy.exc import IntegrityError

from agency_node.errors import EnrolmentError, KnownRecordError, RequestError, StoreError
from agency_node.faces.quality import Quality
from agency_node.holder.blocks import BLOCK_ROWS, MODEL_FACT, Leaves, TemplateBlocks, check_model, mixed_up, pinned_model, unsearchable_rows
from agency_node.holder.booking import NO_BOOKING, BookingFacts, booking_of
from agency_node.journal import NO_SEARCH, stamp
from agency_node.journal import record as record_event
from agency_node.store import Glance, large_batch, reading
from agency_node.tables import facts, records, template_blocks
from agency_node.vault import Vault
from crypto.codes import Codes
from crypto.disclosure import MAX_AGE_DAYS, MAX_PHOTOGRAPH_BYTES, MAX_RECORD_NUMBER_BYTES, Media
from crypto.embedding import EmbeddingModel
from crypto.errors import FieldError
from crypto.fields import check_text
from crypto.ring import I64
from crypto.wire import check_photographed

CHANGES_FACT: Final = "gallery-changes"
_CHANGES: Final = Glance(select(facts.c.value).where(facts.c.name == CHANGES_FACT))
_TAGS_AT_ONCE: Final = 500
_RECORD: Final = "record"
_PHOTOGRAPH: Final = "photograph"
_INSERT: Final = str(insert(records).compile(dialect=sqlite.dialect()))
"""With a value for each column, in their order: rows go to the driver as tuples, thousands in one call."""


class ExpungeReason(enum.StrEnum):
    """Why a record must go (R25); a code, so that no case text comes into a journal."""

    COURT_ORDER = "court-order"
    NON_CONVICTION = "non-conviction"
    DISMISSED = "dismissed"
    JUVENILE = "juvenile"
    ERROR = "error"


@dataclass(frozen=True, eq=False)
class NewRecord:
    """A record to be added. The photograph is as it may be disclosed (`faces.image.encode_for_disclosure`), or there is none."""

    record_number: str = field(repr=False)
    captured: date = field(repr=False)
    source_class: str
    template: Codes = field(repr=False)
    photograph: bytes | None = field(default=None, repr=False)
    media: Media | None = None
    booking: BookingFacts = field(default=NO_BOOKING, repr=False)
    quality: Quality | None = None

    def __post_init__(self) -> None:
        check_record_number(self.record_number)
        try:
            check_photographed(self.captured, "captured")
        except FieldError as error:
            raise EnrolmentError("a record's day is a calendar day from 1900 to 2099: write it as 2026-11-23") from error
        if (self.photograph is None) != (self.media is None):
            raise EnrolmentError("a photograph and its media belong together: give both or neither")
        if self.photograph is not None and not 1 <= len(self.photograph) <= MAX_PHOTOGRAPH_BYTES:
            raise EnrolmentError(f"a photograph has 1 to {MAX_PHOTOGRAPH_BYTES} bytes: encode it for disclosure first")


@dataclass(frozen=True)
class GalleryRecord:
    """A record as it was enrolled."""

    record_number: str = field(repr=False)
    captured: date = field(repr=False)
    source_class: str
    photograph: bytes | None = field(repr=False)
    media: Media | None
    booking: BookingFacts = field(default=NO_BOOKING, repr=False)
    quality: Quality | None = None
    """Of the picture as it was enrolled (R21); None for records without one, and from before it was kept."""

    def image_age_days(self, today: date) -> int:
        """Age of the picture for stubs (R31), within what a stub can say."""
        return min(max((today - self.captured).days, 0), MAX_AGE_DAYS)


def check_record_number(record_number: str) -> None:
    """Raise `EnrolmentError` unless a disclosure can carry this record number."""
    try:
        check_text(record_number, MAX_RECORD_NUMBER_BYTES, "record_number")
        too_long = len(record_number.encode("utf-8")) > MAX_RECORD_NUMBER_BYTES
    except (FieldError, UnicodeEncodeError):
        too_long = True
    if too_long:
        raise EnrolmentError(
            f"a record number is 1 to {MAX_RECORD_NUMBER_BYTES} bytes of printable text without space at its ends: correct it"
        )


@dataclass(frozen=True)
class GalleryState:
    """What is searched at one moment: rows 0 to `total` - 1 but for those that are `out`, because they were expunged or the `model` of the
    store's templates refused their photographs; `changes` is the store's counter."""

    changes: int
    total: int
    out: frozenset[int] = field(repr=False)
    model: bytes | None = None

    @property
    def live(self) -> I64:
        """Rows that are searched, ascending; int64."""
        rows = np.arange(self.total, dtype=np.int64)
        return np.delete(rows, np.array(sorted(self.out), np.int64)) if self.out else rows


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


class RecordStore:
    """The records of one gallery."""

    def __init__(self, engine: Engine, vault: Vault, model: EmbeddingModel) -> None:
        """`EnrolmentError` when the stored templates are of another model, or of other scales or codes."""
        self.model = model
        self._engine = engine
        self._vault = vault
        with engine.begin() as connection:
            check_model(connection, model.model_hash)
        self._blocks = TemplateBlocks(engine, vault, model.dimensions, model.model_hash)

    def add(self, batch: Sequence[NewRecord], now: datetime) -> range:
        """Add all or none; their rows. `KnownRecordError` when a record number is there already or twice in the batch."""
        if any(record.template.dtype != np.int8 or record.template.shape != (self.model.dimensions,) for record in batch):
            raise EnrolmentError(f"a template of this model is int8[{self.model.dimensions}]: make it with this node's embedder")
        if not batch:
            return range(0)
        templates = np.stack([record.template for record in batch])
        try:
            with self._engine.begin() as connection:
                if not check_model(connection, self.model.model_hash):
                    connection.execute(insert(facts).values(name=MODEL_FACT, value=self.model.model_hash))
                first, changes = _row_count(connection), _changes(connection)
                with large_batch(connection):
                    connection.exec_driver_sql(_INSERT, self._rows(first, batch, stamp(now)))
                    leaves = self._blocks.append(connection, first, templates)
                _count_change(connection, changes)
                record_event(connection, now, NO_SEARCH, "enrolled", f"{len(batch)} records")
        except IntegrityError as error:
            raise KnownRecordError(
                "a record number of this batch is enrolled already, or stands in it twice: run the enrolment again"
            ) from error
        self._blocks.committed(changes, leaves)
        return range(first, first + len(batch))

    def has(self, record_number: str) -> bool:
        """Whether that record number was ever enrolled, also when it was expunged since."""
        return bool(self.known([record_number]))

    def known(self, record_numbers: Iterable[str]) -> frozenset[str]:
        """Those of the record numbers that were ever enrolled."""
        by_tag = {self._tag(number): number for number in record_numbers}
        tags = list(by_tag)
        found: set[str] = set()
        with self._engine.begin() as connection:
            for first in range(0, len(tags), _TAGS_AT_ONCE):
                wanted = records.c.tag.in_(tags[first : first + _TAGS_AT_ONCE])
                found.update(by_tag[tag] for tag in connection.execute(select(records.c.tag).where(wanted)).scalars())
        return frozenset(found)

    def count(self) -> int:
        """Records that are searched."""
        return self.state().live.size

    def rows(self) -> I64:
        """Rows that are searched, ascending."""
        return self.state().live

    def holds(self, row: int) -> bool:
        """Whether that row is a record that is not expunged."""
        with reading(self._engine).begin() as connection:
            live = (records.c.row == row) & records.c.expunged_at.is_(None)
            return connection.execute(select(records.c.row).where(live)).first() is not None

    def changes(self) -> int:
        """A number that grows with every batch and every expunging: the one value that a serving node asks for again and again."""
        found = _CHANGES.first(self._engine)
        return 0 if found is None else int(found[0])

    def state(self) -> GalleryState:
        """What is enrolled at one moment; reads no record."""
        with reading(self._engine).begin() as connection:
            expunged = connection.execute(select(records.c.row).where(records.c.expunged_at.is_not(None))).scalars().all()
            out = frozenset(expunged) | unsearchable_rows(connection, self.model.model_hash)
            return GalleryState(_changes(connection), _row_count(connection), out, pinned_model(connection))

    def templates(self, state: GalleryState | None = None, each_part: Callable[[], None] = lambda: None) -> Codes:
        """Every row's template in that state, or as of now, int8[rows, D]; zero for the expunged. The caller wipes them (`fill(0)`).

        Another process may go on enrolling and expunging: a record that was expunged since is zero or not. `each_part` is called between
        parts of the work; what it raises ends it.
        """
        state = state or self.state()
        if self._blocks_without_rows(state):
            raise mixed_up()
        return self._blocks.read(state.total, each_part)

    def template(self, row: int) -> Codes | None:
        """One row's template, int8[D], None when it was expunged. The caller wipes it."""
        with reading(self._engine).begin() as connection:
            live = (records.c.row == row) & records.c.expunged_at.is_(None)
            if connection.execute(select(records.c.row).where(live)).first() is None:
                return None
            block = self._blocks.block(connection, row // BLOCK_ROWS)
        template: Codes = block[row % BLOCK_ROWS].copy()
        block.fill(0)
        return template

    def commitment(self) -> bytes:
        """The commitment to all templates that a manifest states, 32 bytes (`TemplateBlocks.commitment`)."""
        with reading(self._engine).begin() as connection:
            return self._blocks.commitment(connection, _changes(connection)).root()

    def expunge(self, record_number: str, reason: ExpungeReason, now: datetime, enter: Enter) -> Expunged:
        """Destroy a record: its template, photograph, number and day; in one transaction, and for good.

        What stays is its row's number, the keyed tag that tells that this number was here (a table that still names it enrols it no more,
        R25), and the journal's line. `enter` queues the log entry (`Outbox.expunction`): if that fails, nothing was destroyed.
        `RequestError` when there is no such record, or when it was expunged before.
        """
        where = records.c.tag == self._tag(record_number)
        with self._engine.begin() as connection:
            found = connection.execute(select(records.c.row, records.c.sealed_photograph, records.c.expunged_at).where(where)).first()
            if found is None:
                raise RequestError("no record of that number is enrolled here: look at its spelling; nothing was changed")
            if found.expunged_at is not None:
                raise RequestError("the record of that number was expunged before: there is nothing left to expunge")
            changes = _changes(connection)
            before = self._blocks.commitment(connection, changes)
            leaves = self._blocks.erase(connection, found.row)
            gone = {"sealed_record": b"", "sealed_photograph": None, "captured": "", "expunged_at": stamp(now)}
            connection.execute(update(records).where(where).values(**gone))
            _count_change(connection, changes)
            record_event(connection, now, NO_SEARCH, "expunged", f"row {found.row}: {reason}")
            roots = before.root(), before.replaced(leaves).root()
            done = Expunged(int(found.row), reason, stamp(now), found.sealed_photograph is not None, *roots)
            enter(connection, done)
        self._blocks.committed(changes, leaves)
        return done

    def expunge_again(self, tags: Iterable[bytes], now: datetime) -> int:
        """Destroy what a store that is older than its ledger of expunged records still holds (R25); how many records that were.

        A tag that this store never met gets a row without a record, so that a table that names its record number enrols it no more.
        Nothing is queued for the log: each line of the ledger was, in the transaction that expunged its record first.
        """
        with self._engine.begin() as connection:
            changes, gone = _changes(connection), 0
            leaves: Leaves = {}
            stones: list[bytes] = []
            for tag in tags:
                found = connection.execute(select(records.c.row, records.c.expunged_at).where(records.c.tag == tag)).first()
                if found is None:
                    stones.append(tag)
                elif found.expunged_at is None:
                    leaves |= self._blocks.erase(connection, found.row)
                    blank = {"sealed_record": b"", "sealed_photograph": None, "captured": "", "expunged_at": stamp(now)}
                    connection.execute(update(records).where(records.c.row == found.row).values(**blank))
                    gone += 1
            if stones:
                if not check_model(connection, self.model.model_hash):
                    connection.execute(insert(facts).values(name=MODEL_FACT, value=self.model.model_hash))
                first = _row_count(connection)
                moment = stamp(now)
                connection.exec_driver_sql(_INSERT, [(first + i, tag, b"", None, "", moment, moment) for i, tag in enumerate(stones)])
                leaves |= self._blocks.append(connection, first, np.zeros((len(stones), self.model.dimensions), np.int8))
            if not leaves:
                return 0
            _count_change(connection, changes)
            record_event(connection, now, NO_SEARCH, "expunged again", f"{gone} records, {len(stones)} that were never here")
        self._blocks.committed(changes, leaves)
        return gone

    def expunged(self) -> list[tuple[bytes, str]]:
        """Tag and moment of every expunged record, in the order in which they went."""
        gone = select(records.c.tag, records.c.expunged_at).where(records.c.expunged_at.is_not(None))
        with reading(self._engine).begin() as connection:
            rows = connection.execute(gone.order_by(records.c.expunged_at, records.c.row)).all()
        return [(bytes(tag), str(moment)) for tag, moment in rows]

    def record(self, row: int) -> GalleryRecord:
        """The record of a row; `StoreError` when there is none, or when it was expunged."""
        with self._engine.begin() as connection:
            found = connection.execute(select(records).where(records.c.row == row, records.c.expunged_at.is_(None))).one_or_none()
        if found is None:
            raise StoreError(f"row {row} holds no record: it was expunged, or was never enrolled here")
        content = json.loads(self._vault.open(_RECORD, found.sealed_record, _bound(row)))
        photograph = found.sealed_photograph
        return GalleryRecord(
            content["record_number"],
            date.fromisoformat(found.captured),
            content["source_class"],
            None if photograph is None else self._vault.open(_PHOTOGRAPH, photograph, _bound(row)),
            None if content["media"] is None else Media(content["media"]),
            booking_of(content),
            Quality.from_json(content["quality"]) if "quality" in content else None,
        )

    @staticmethod
    def count_change(connection: Connection) -> None:
        """In the caller's transaction: what is searched is not what it was, and whoever serves it has to follow."""
        _count_change(connection, _changes(connection))

    def _rows(self, first: int, batch: Sequence[NewRecord], moment: str) -> list[tuple[object, ...]]:
        """What `_INSERT` takes, a tuple for each record."""
        numbers = range(first, first + len(batch))
        bound = [_bound(row) for row in numbers]
        sealed = self._vault.seal_each(_RECORD, [_content(record) for record in batch], bound)
        return [
            (
                row,
                self._tag(record.record_number),
                sealed_record,
                None if record.photograph is None else self._vault.seal(_PHOTOGRAPH, record.photograph, place),
                record.captured.isoformat(),
                moment,
                None,
            )
            for row, record, place, sealed_record in zip(numbers, batch, bound, sealed, strict=True)
        ]

    def _blocks_without_rows(self, state: GalleryState) -> bool:
        with reading(self._engine).begin() as connection:
            last = connection.execute(select(func.max(template_blocks.c.block))).scalar_one()
            blocks = 0 if last is None else int(last) + 1
            return blocks > -(-_row_count(connection) // BLOCK_ROWS) or blocks < -(-state.total // BLOCK_ROWS)

    def _tag(self, record_number: str) -> bytes:
        return self._vault.tag("record-number", record_number.encode("utf-8"))

    def __repr__(self) -> str:
        return f"RecordStore(model={self.model.name})"


def _content(record: NewRecord) -> bytes:
    """JSON; the whole object's encoder would take longer than sealing what it makes."""
    media = "null" if record.media is None else int(record.media)
    number, source_class = json.dumps(record.record_number), json.dumps(record.source_class)
    more = ""
    if record.booking != NO_BOOKING:
        more = f', "booking": {json.dumps(record.booking.to_json())}'
    if record.quality is not None:
        more += f', "quality": {json.dumps(record.quality.to_json())}'
    return f'{{"record_number": {number}, "source_class": {source_class}, "media": {media}{more}}}'.encode("ascii")


def _row_count(connection: Connection) -> int:
    last = connection.execute(select(func.max(records.c.row))).scalar_one()
    return 0 if last is None else int(last) + 1


def _changes(connection: Connection) -> int:
    stored = connection.execute(select(facts.c.value).where(facts.c.name == CHANGES_FACT)).scalar_one_or_none()
    return 0 if stored is None else int(stored)


def _count_change(connection: Connection, before: int) -> None:
    statement = insert_or_replace(facts).values(name=CHANGES_FACT, value=(value := str(before + 1).encode("ascii")))
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def _bound(number: int) -> bytes:
    return number.to_bytes(8, "big")
