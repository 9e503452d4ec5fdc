"""The holder's records at rest: templates in sealed blocks, each record and photograph sealed by itself.

Invariants
- A batch is added whole or not at all; rows are numbered without gaps, and a row keeps its number for ever.
- A record number stands in the store once, and only sealed; it is found again through a keyed tag.
- All templates are of one embedding model: the first batch pins its hash, and a store of another model does not open.
- Nothing here works record by record when a gallery is loaded: 2.5 million templates are 2,442 blocks, decrypted into one array.
- A sealed blob is bound to its row or block: moved to another one it does not open.

Left to others: what may be enrolled (`enrol`), the packed form and its order (`index`), expunging, which sets `expunged_at`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine, func, insert, select
from sqlalchemy.dialects.sqlite import insert as insert_or_replace
from sqlalchemy.exc import IntegrityError

from agency_node.errors import EnrolmentError, StoreError
from agency_node.journal import NO_SEARCH, stamp
from agency_node.journal import record as record_event
from agency_node.tables import facts, records, template_blocks
from agency_node.vault import Vault
from crypto.disclosure import MAX_AGE_DAYS, MAX_PHOTOGRAPH_BYTES, MAX_RECORD_NUMBER_BYTES, Media
from crypto.embedding import EmbeddingModel
from crypto.errors import FieldError
from crypto.fields import check_text
from crypto.ring import I8, I64
from crypto.wire import check_photographed

BLOCK_ROWS: Final = 1024
MODEL_FACT: Final = "gallery-model"
_TAGS_AT_ONCE: Final = 500
_RECORD: Final = "record"
_PHOTOGRAPH: Final = "photograph"
_TEMPLATES: Final = "template block"


@dataclass(frozen=True, eq=False)
class NewRecord:
    """A record to be added. The photograph is as it may be disclosed (`faces.image.encode_for_disclosure`), or there is none."""

    record_number: str = field(repr=False)
    captured: date = field(repr=False)
    source_class: str
    template: I8 = field(repr=False)
    photograph: bytes | None = field(default=None, repr=False)
    media: Media | None = None

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


class RecordStore:
    """The records of one gallery."""

    def __init__(self, engine: Engine, vault: Vault, model: EmbeddingModel) -> None:
        """`EnrolmentError` when the stored templates are of another model."""
        self.model = model
        self._engine = engine
        self._vault = vault
        with engine.begin() as connection:
            self._check_model(connection)

    def add(self, batch: Sequence[NewRecord], now: datetime) -> range:
        """Add all or none; their rows. `EnrolmentError` when a record number is there already or twice in the batch."""
        if any(record.template.dtype != np.int8 or record.template.shape != (self.model.dimensions,) for record in batch):
            raise EnrolmentError(f"a template of this model is int8[{self.model.dimensions}]: make it with this node's embedder")
        if not batch:
            return range(0)
        templates = np.stack([record.template for record in batch])
        try:
            with self._engine.begin() as connection:
                if not self._check_model(connection):
                    connection.execute(insert(facts).values(name=MODEL_FACT, value=self.model.model_hash))
                first = _row_count(connection)
                moment = stamp(now)
                values = [self._row(row, record, moment) for row, record in enumerate(batch, first)]
                connection.execute(insert(records), values)
                self._append(connection, first, templates)
                record_event(connection, now, NO_SEARCH, "enrolled", f"{len(batch)} records")
        except IntegrityError as error:
            raise EnrolmentError(
                "a record number of this batch is enrolled already, or stands in it twice: run the enrolment again"
            ) from error
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
        """Records that are not expunged."""
        with self._engine.begin() as connection:
            return connection.execute(select(func.count()).where(records.c.expunged_at.is_(None))).scalar_one()

    def rows(self) -> I64:
        """Rows that are not expunged, ascending."""
        with self._engine.begin() as connection:
            return _live_rows(connection)

    def templates(self) -> I8:
        """Every row's template, int8[rows, D]; zero for the expunged."""
        return self.snapshot()[1]

    def snapshot(self) -> tuple[I64, I8]:
        """`rows()` and `templates()` of one moment, also while another process enrols."""
        with self._engine.begin() as connection:
            live = _live_rows(connection)
            total = _row_count(connection)
            out = np.empty((total, self.model.dimensions), np.int8)
            filled = 0
            columns = select(template_blocks.c.block, template_blocks.c.count, template_blocks.c.sealed_templates)
            for number, count, sealed in connection.execute(columns.order_by(template_blocks.c.block)).yield_per(64):
                if number * BLOCK_ROWS != filled or filled + count > total:
                    raise _mixed_up()
                out[filled : filled + count] = self._opened_block(number, count, sealed)
                filled += count
        if filled != total:
            raise _mixed_up()
        expunged = np.ones(total, np.bool_)
        expunged[live] = False
        out[expunged] = 0
        return live, out

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
        )

    def _check_model(self, connection: Connection) -> bool:
        """Whether a model is pinned; `EnrolmentError` when it is another one."""
        pinned = connection.execute(select(facts.c.value).where(facts.c.name == MODEL_FACT)).scalar_one_or_none()
        if pinned not in {None, self.model.model_hash}:
            raise EnrolmentError(
                "this gallery was enrolled with another embedding model: set `embedder` in node.toml back to it, "
                "or enrol the pictures again in a new node folder"
            )
        return pinned is not None

    def _row(self, row: int, record: NewRecord, moment: str) -> dict[str, Any]:
        media = None if record.media is None else int(record.media)
        content = {"record_number": record.record_number, "source_class": record.source_class, "media": media}
        photograph = record.photograph
        return {
            "row": row,
            "tag": self._tag(record.record_number),
            "sealed_record": self._vault.seal(_RECORD, json.dumps(content).encode("ascii"), _bound(row)),
            "sealed_photograph": None if photograph is None else self._vault.seal(_PHOTOGRAPH, photograph, _bound(row)),
            "captured": record.captured.isoformat(),
            "enrolled_at": moment,
            "expunged_at": None,
        }

    def _append(self, connection: Connection, first: int, templates: I8) -> None:
        """Put the templates behind row `first`, the last block filled up before a new one begins."""
        number, held = divmod(first, BLOCK_ROWS)
        if held:
            which = template_blocks.c.block == number
            count, sealed = connection.execute(select(template_blocks.c.count, template_blocks.c.sealed_templates).where(which)).one()
            if count != held:
                raise _mixed_up()
            templates = np.concatenate([self._opened_block(number, count, sealed), templates])
        for start in range(0, len(templates), BLOCK_ROWS):
            block, place = templates[start : start + BLOCK_ROWS], number + start // BLOCK_ROWS
            sealed = self._vault.seal(_TEMPLATES, block.tobytes(), _bound(place))
            statement = insert_or_replace(template_blocks).values(block=place, count=len(block), sealed_templates=sealed)
            changed = {"count": len(block), "sealed_templates": sealed}
            connection.execute(statement.on_conflict_do_update(index_elements=["block"], set_=changed))

    def _opened_block(self, number: int, count: int, sealed: bytes) -> I8:
        plain = self._vault.open(_TEMPLATES, sealed, _bound(number))
        if len(plain) != count * self.model.dimensions:
            raise _mixed_up()
        return np.frombuffer(plain, np.int8).reshape(count, self.model.dimensions)

    def _tag(self, record_number: str) -> bytes:
        return self._vault.tag("record-number", record_number.encode("utf-8"))

    def __repr__(self) -> str:
        return f"RecordStore(model={self.model.name})"


def _row_count(connection: Connection) -> int:
    last = connection.execute(select(func.max(records.c.row))).scalar_one()
    return 0 if last is None else int(last) + 1


def _live_rows(connection: Connection) -> I64:
    every = np.arange(_row_count(connection), dtype=np.int64)
    expunged = connection.execute(select(records.c.row).where(records.c.expunged_at.is_not(None))).scalars().all()
    return np.delete(every, np.array(expunged, np.int64))


def _bound(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _mixed_up() -> StoreError:
    return StoreError("the stored template blocks do not fit the stored records: restore the node's database from its backup")
