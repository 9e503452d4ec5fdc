"""The holder's records at rest: templates in sealed blocks, each record and photograph sealed by itself.

Invariants
- A batch is added whole or not at all; rows are numbered without gaps, and a row keeps its number for ever.
- A record number stands in the store once, and only sealed; it is found again through a keyed tag.
- All templates are of one embedding model: the first batch pins its hash, scales and codes included; a store of another does not open.
- Nothing here works record by record when a gallery is loaded: 2.5 million templates are 2,442 blocks, decrypted into one array.
- A record of whose case something was heard that forbids it, or nothing for too long, is here and found by no search (`unsearchable`).
- A sealed blob is bound to its row or block: moved to another one it does not open.

Left to others: what may be enrolled (`enrol`), destroying records (`expunging`), the blocks and their keys (`blocks`), the packed form and
its order (`index`), the write-ahead log, which holds what was overwritten until `store.forget_deleted`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

import numpy as np
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

from agency_node.errors import EnrolmentError, KnownRecordError, StoreError
from agency_node.faces.quality import Quality
from agency_node.gallery_tables import records, template_blocks
from agency_node.holder.blocks import BLOCK_ROWS, MODEL_FACT, check_model, is_refused, mixed_up, pinned_model, refused_rows
from agency_node.holder.booking import NO_BOOKING, BookingFacts, booking_of
from agency_node.holder.expunging import INSERT_RECORD, ExpungingStore
from agency_node.holder.gallery_counter import CHANGES, changes_of, count_change, row_count
from agency_node.holder.groups import NOBODY, Described, described_in
from agency_node.holder.unsearchable import is_unsearchable, unsearchable_rows
from agency_node.journal import NO_SEARCH, stamp
from agency_node.journal import record as record_event
from agency_node.store import large_batch, reading
from agency_node.tables import facts
from crypto.codes import Codes
from crypto.disclosure import MAX_AGE_DAYS, MAX_PHOTOGRAPH_BYTES, MAX_RECORD_NUMBER_BYTES, Media
from crypto.errors import FieldError
from crypto.fields import check_text
from crypto.ring import I64
from crypto.wire import check_photographed

_TAGS_AT_ONCE: Final = 500
_RECORD: Final = "record"
_PHOTOGRAPH: Final = "photograph"


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
    described: Described = field(default=NOBODY, repr=False)
    """For measuring by groups alone: no other type has it."""

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
        self.described.check_alive(self.captured)


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
    """What is enrolled at one moment: rows 0 to `total` - 1; `changes` is the store's counter, `model` the hash of its templates' model.

    Unsearchable are rows whose cases forbid it (`unsearchable`), and those whose photographs the store's model refused.
    """

    changes: int
    total: int
    expunged: frozenset[int] = field(repr=False)
    unsearchable: frozenset[int] = field(default=frozenset(), repr=False)
    model: bytes | None = None

    @property
    def out(self) -> frozenset[int]:
        """Rows that no search finds."""
        return self.expunged | self.unsearchable

    @property
    def live(self) -> I64:
        """Rows that searches find, ascending; int64."""
        rows = np.arange(self.total, dtype=np.int64)
        return np.delete(rows, np.array(sorted(self.out), np.int64)) if self.out else rows


@dataclass(frozen=True)
class RecordFacts:
    """What the gallery's tree commits to of a record, without its picture."""

    row: int
    record_number: str = field(repr=False)
    captured: date = field(repr=False)
    source_class: str


class RecordStore(ExpungingStore):
    """The records of one gallery."""

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
                first, changes = row_count(connection), changes_of(connection)
                with large_batch(connection):
                    connection.exec_driver_sql(INSERT_RECORD, self._rows(first, batch, stamp(now)))
                    leaves = self._blocks.append(connection, first, templates)
                count_change(connection, changes)
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

    def rows_of(self, connection: Connection, record_numbers: Iterable[str]) -> dict[str, int]:
        """The rows of those of the record numbers that are here and were not expunged."""
        by_tag = {self._tag(number): number for number in record_numbers}
        tags, found = list(by_tag), {}
        for first in range(0, len(tags), _TAGS_AT_ONCE):
            wanted = records.c.tag.in_(tags[first : first + _TAGS_AT_ONCE]), records.c.expunged_at.is_(None)
            found.update({by_tag[tag]: row for tag, row in connection.execute(select(records.c.tag, records.c.row).where(*wanted))})
        return found

    def count(self) -> int:
        """Records that searches find."""
        return self.state().live.size

    def rows(self) -> I64:
        """Rows that searches find, ascending."""
        return self.state().live

    def holds(self, row: int) -> bool:
        """Whether that row is a record that searches find: neither expunged nor unsearchable."""
        with reading(self._engine).begin() as connection:
            return self._is_found(connection, row)

    def changes(self) -> int:
        """A number that grows with every batch and every expunging: the one value that a serving node asks for again and again."""
        found = CHANGES.first(self._engine)
        return 0 if found is None else int(found[0])

    def state(self) -> GalleryState:
        """What is enrolled at one moment; reads no record."""
        with reading(self._engine).begin() as connection:
            expunged = connection.execute(select(records.c.row).where(records.c.expunged_at.is_not(None))).scalars().all()
            unsearchable = unsearchable_rows(connection) | refused_rows(connection, self.model.model_hash)
            counted = changes_of(connection), row_count(connection)
            return GalleryState(*counted, frozenset(expunged), unsearchable, pinned_model(connection))

    def templates(self, state: GalleryState | None = None, each_part: Callable[[], None] = lambda: None) -> Codes:
        """Every row's template in that state, or as of now, int8[rows, D]; zero for the expunged, and as they are for the
        unsearchable. The caller wipes them (`fill(0)`).

        Another process may go on enrolling and expunging: a record that was expunged since is zero or not. `each_part` is called between
        parts of the work; what it raises ends it.
        """
        state = state or self.state()
        if self._blocks_without_rows(state):
            raise mixed_up()
        return self._blocks.read(state.total, each_part)

    def template(self, row: int) -> Codes | None:
        """One row's template, int8[D], None when searches do not find the record. The caller wipes it."""
        with reading(self._engine).begin() as connection:
            if not self._is_found(connection, row):
                return None
            block = self._blocks.block(connection, row // BLOCK_ROWS)
        template: Codes = block[row % BLOCK_ROWS].copy()
        block.fill(0)
        return template

    def templates_of(self, rows: I64, each_part: Callable[[], None] = lambda: None) -> Codes:
        """The templates of some rows, which ascend; int8[n, D], as they stand. The caller wipes them.

        Blocks that hold none of the rows are not opened. `each_part` is called for each block of the gallery up to the last row's; what it
        raises ends the work.
        """
        out = np.zeros((len(rows), self.model.dimensions), np.int8)
        try:
            for number in range(int(rows[-1]) // BLOCK_ROWS + 1 if len(rows) else 0):
                each_part()
                first, last = np.searchsorted(rows, (number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS))
                if first == last:
                    continue
                with reading(self._engine).begin() as connection:
                    block = self._blocks.block(connection, number)
                places = rows[first:last] - number * BLOCK_ROWS
                if places[-1] >= len(block):
                    block.fill(0)
                    raise mixed_up()
                np.take(block, places, axis=0, out=out[first:last], mode="clip")  # without a copy between
                block.fill(0)
        except BaseException:
            out.fill(0)
            raise
        return out

    def commitment(self) -> bytes:
        """The commitment to all templates that a manifest states, 32 bytes (`TemplateBlocks.commitment`)."""
        with reading(self._engine).begin() as connection:
            return self._blocks.commitment(connection, changes_of(connection)).root()

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

    def facts_from(self, first: int, most: int) -> list[RecordFacts]:
        """Up to so many records that were not expunged, of the rows from `first` on; opens no picture."""
        with reading(self._engine).begin() as connection:
            return self.facts_in(connection, first, most)

    def facts_in(self, connection: Connection, first: int, most: int) -> list[RecordFacts]:
        """As `facts_from`, in the caller's transaction."""
        columns = select(records.c.row, records.c.sealed_record, records.c.captured)
        chosen = columns.where(records.c.row >= first, records.c.expunged_at.is_(None)).order_by(records.c.row).limit(most)
        found = connection.execute(chosen).all()
        opened = ((row, json.loads(self._vault.open(_RECORD, sealed, _bound(row))), day) for row, sealed, day in found)
        return [RecordFacts(row, said["record_number"], date.fromisoformat(day), said["source_class"]) for row, said, day in opened]

    def descriptions(self, first: int, last: int) -> list[tuple[int, date, Described]]:
        """Of the rows from `first` to `last` - 1 that were not expunged: the day of the picture, and whom it shows. For `differentials`
        alone, which gives out counts: nothing else reads what is opened here."""
        columns = select(records.c.row, records.c.sealed_record, records.c.captured)
        chosen = columns.where(records.c.row >= first, records.c.row < last, records.c.expunged_at.is_(None)).order_by(records.c.row)
        with reading(self._engine).begin() as connection:
            found = connection.execute(chosen).all()
        opened = ((row, day, self._vault.open(_RECORD, sealed, _bound(row))) for row, sealed, day in found)
        return [(row, date.fromisoformat(day), described_in(json.loads(content))) for row, day, content in opened]

    def _is_found(self, connection: Connection, row: int) -> bool:
        live = (records.c.row == row) & records.c.expunged_at.is_(None)
        there = connection.execute(select(records.c.row).where(live)).first() is not None
        return there and not is_unsearchable(connection, row) and not is_refused(connection, row, self.model.model_hash)

    def _rows(self, first: int, batch: Sequence[NewRecord], moment: str) -> list[tuple[object, ...]]:
        """What `INSERT_RECORD` takes, a tuple for each record."""
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
            return blocks > -(-row_count(connection) // BLOCK_ROWS) or blocks < -(-state.total // BLOCK_ROWS)

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
    if record.described != NOBODY:
        more += f', "described": {json.dumps(record.described.to_json())}'
    return f'{{"record_number": {number}, "source_class": {source_class}, "media": {media}{more}}}'.encode("ascii")


def _bound(number: int) -> bytes:
    return number.to_bytes(8, "big")
