"""Enrolling records: from a folder of pictures with a table, or, for demonstrations and tests, from synthetic directions.

Invariants: what a picture lacks stops that picture alone, and is written down with its reason; a table that is not what it should be
stops everything before the first picture. Enrolling is idempotent by record number and commits in batches: a run that was killed is run
again and goes on. Only criminal booking pictures are enrolled (R24), a demonstration portrait only where the caller allows it. No file
outside the folder is read.

Left to others: whether this node may enrol synthetic or demonstration records (the caller), the packed form (`index`).
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import repeat
from pathlib import Path
from typing import Final

import numpy as np

from agency_node.errors import EnrolmentError, ImageError, ImageFault, KnownRecordError, RequestError
from agency_node.faces.embedder import Embedder, the_one_face
from agency_node.faces.image import MAX_IMAGE_BYTES, encode_for_disclosure, read_image
from agency_node.holder.progress import Progress
from agency_node.holder.records import NewRecord, RecordStore, check_record_number
from crypto.embedding import F32, EmbeddingModel, quantised_directions
from crypto.errors import FieldError
from crypto.moments import utc_day
from crypto.ring import I8
from crypto.wire import check_photographed

BOOKING: Final = "criminal_booking"
DEMONSTRATION: Final = "demonstration_portrait"
SYNTHETIC: Final = "synthetic"
COLUMNS: Final = ("file", "record_number", "captured", "source_class")

_BATCH_PICTURES: Final = 32
"""About ten seconds of work, the most that a killed run does twice."""
_BATCH_DIRECTIONS: Final = 1 << 16
"""A second or two of work: a batch writes nearly every page of the tags' index, however many records it has."""
_QUANTISED_AT_ONCE: Final = 1024
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NORM_SLACK: Final = 1e-3


@dataclass(frozen=True)
class RefusedRow:
    """One row of the table that was not enrolled: its line, and why."""

    line: int
    file: str = field(repr=False)
    record_number: str = field(repr=False)
    reason: str


@dataclass(frozen=True)
class EnrolmentReport:
    """What one run did with every row."""

    enrolled: int
    already_enrolled: int
    refused: tuple[RefusedRow, ...]


@dataclass(frozen=True)
class _Row:
    line: int
    file: str = field(repr=False)
    path: Path = field(repr=False)
    record_number: str = field(repr=False)
    captured: date = field(repr=False)
    source_class: str


def enrol_folder(
    store: RecordStore,
    embedder: Embedder,
    folder: Path,
    table_csv: Path,
    progress: Progress,
    now: datetime,
    *,
    refused_csv: Path | None = None,
    allow_demonstration: bool = False,
) -> EnrolmentReport:
    """Enrol what the table names; its columns are `file,record_number,captured,source_class`, `file` within the folder.

    Rows that were refused are written to `refused_csv` (line, file, record_number, reason), over what stands there. Raises `EnrolmentError`
    when the table as a whole cannot be used or the embedder is not of the store's model.
    """
    if embedder.model.model_hash != store.model.model_hash:
        raise EnrolmentError("this embedder is not of the gallery's model: enrol with the embedder that node.toml names")
    table = _read_table(table_csv)
    progress.text("Enrolling pictures")
    progress.total(len(table))
    accepted = frozenset({BOOKING, DEMONSTRATION}) if allow_demonstration else frozenset({BOOKING})
    refused: list[RefusedRow] = []
    rows = list(_checked_rows(table, folder.resolve(), accepted, utc_day(now), refused))
    progress.advance(len(refused))
    known = store.known(row.record_number for row in rows)
    already, enrolled = 0, 0
    batch: list[NewRecord] = []
    for row in rows:
        if row.record_number in known:
            already += 1
        else:
            try:
                batch.append(_enrolled(row, embedder))
            except RequestError as error:
                refused.append(RefusedRow(row.line, row.file, row.record_number, str(error)))
        if len(batch) == _BATCH_PICTURES:
            enrolled += len(store.add(batch, now))
            batch.clear()
        progress.advance()
    enrolled += len(store.add(batch, now))
    report = EnrolmentReport(enrolled, already, tuple(sorted(refused, key=lambda row: row.line)))
    if refused_csv is not None:
        _write_refused(refused_csv, report.refused)
    return report


def enrol_embeddings(store: RecordStore, path_npz: Path, progress: Progress, now: datetime) -> EnrolmentReport:
    """Enrol directions without pictures: for demonstrations and tests only, which the caller checks.

    The file (`numpy.savez`) holds `units`, float32[n, D] of norm 1 in the model's centred space; `prefix`, text: records are numbered
    prefix-000001 and on; `captured`, n days as datetime64[D] or text. Raises `EnrolmentError` for any other file.
    """
    units, prefix, captured = _read_directions(path_npz, utc_day(now))
    return enrol_directions(store, units, prefix, captured, progress, now)


def enrol_directions(
    store: RecordStore, units: F32, prefix: str, captured: Sequence[date], progress: Progress, now: datetime
) -> EnrolmentReport:
    """As `enrol_embeddings`, for directions in memory: a caller that makes them in batches, each under a prefix of its own, needs no file
    and never holds all of them. `EnrolmentError` for units that are not of norm 1."""
    _check_directions(units, len(captured), store.model.dimensions)
    numbers = [f"{prefix}-{i + 1:06d}" for i in range(len(units))]
    check_record_number(f"{prefix}-{len(units):06d}")
    progress.text("Enrolling synthetic records")
    progress.total(len(numbers))
    enrolled = 0
    for first in range(0, len(numbers), _BATCH_DIRECTIONS):
        batch = slice(first, first + _BATCH_DIRECTIONS)
        templates = _templates(units[batch], store.model)
        made = [NewRecord(*one) for one in zip(numbers[batch], captured[batch], repeat(SYNTHETIC), templates)]
        enrolled += _add_unknown(store, made, now)
        progress.advance(len(made))
    return EnrolmentReport(enrolled, len(numbers) - enrolled, ())


def _templates(units: F32, model: EmbeddingModel) -> I8:
    """Directions at the gallery's scale, some at a time, so that what lies between stays in the cache."""
    out = np.empty(units.shape, np.int8)
    for first in range(0, len(units), _QUANTISED_AT_ONCE):
        part = slice(first, first + _QUANTISED_AT_ONCE)
        out[part] = quantised_directions(units[part].astype(np.float64), model.scales)
    return out


def _add_unknown(store: RecordStore, batch: Sequence[NewRecord], now: datetime) -> int:
    """Add those whose numbers are not enrolled yet; how many. The store looks for them only when it has refused the batch as a whole."""
    try:
        return len(store.add(batch, now))
    except KnownRecordError:
        known = store.known(record.record_number for record in batch)
        return len(store.add([record for record in batch if record.record_number not in known], now))


def _read_table(path: Path) -> list[tuple[int, list[str]]]:
    """The table's rows with their lines, the columns in the order of `COLUMNS` (a row of another length as it is)."""
    needs = f"the table's first line names the columns {','.join(COLUMNS)}, separated by commas"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if sorted(header) != sorted(COLUMNS):
                raise EnrolmentError(f"{needs}, each once and no others: correct it and run the enrolment again")
            order = [header.index(name) for name in COLUMNS]
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise EnrolmentError("the table cannot be opened: name a CSV file that this account may read") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise EnrolmentError("the table is not a CSV file in UTF-8: save it again as one") from error
    return [(line, [row[i] for i in order] if len(row) == len(COLUMNS) else row) for line, row in rows]


def _checked_rows(
    table: list[tuple[int, list[str]]], folder: Path, accepted: frozenset[str], today: date, refused: list[RefusedRow]
) -> Iterator[_Row]:
    """Rows that can be enrolled as far as the table says; the others are put on the list."""
    seen: dict[str, int] = {}
    for line, cells in table:
        if len(cells) != len(COLUMNS):
            refused.append(
                RefusedRow(line, "", "", f"the row has {len(cells)} cells instead of {len(COLUMNS)}: quote a cell that holds a comma")
            )
            continue
        file, record_number, captured, source_class = (cell.strip() for cell in cells)
        try:
            check_record_number(record_number)
            if (first := seen.setdefault(record_number, line)) != line:
                raise EnrolmentError(f"the record number stands in line {first} already: give each record its own")
            if source_class not in accepted:
                raise EnrolmentError(f"rule R24: a gallery holds criminal booking pictures only: leave it out, or correct {COLUMNS[3]}")
            yield _Row(line, file, _inside(folder, file), record_number, _day(captured, today), source_class)
        except EnrolmentError as error:
            refused.append(RefusedRow(line, file, record_number, str(error)))


def _inside(folder: Path, file: str) -> Path:
    """The file's place; `EnrolmentError` when it is not within the folder, links followed."""
    try:
        path = (folder / file).resolve()
        within = bool(file) and path.is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # a null byte, a name too long, a circle of links
        within = False
    if not within:
        raise EnrolmentError("the file is not within the folder: copy it there and name it by its path inside")
    return path


def _day(text: str, today: date) -> date:
    """The day on which a picture was taken."""
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
        if day is not None:
            check_photographed(day, "captured")
    except (ValueError, FieldError):
        day = None
    if day is None:
        raise EnrolmentError("captured is not a day from 1900 on: write it as 2026-11-23")
    if day > today:
        raise EnrolmentError("captured lies in the future: correct the day on which the picture was taken")
    return day


def _enrolled(row: _Row, embedder: Embedder) -> NewRecord:
    """The row's record; `ImageError` when its picture cannot be enrolled."""
    try:
        if not row.path.is_file():
            raise ImageError(ImageFault.MISSING, "there is no such file in the folder: correct its name, or copy it there")
        with row.path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise ImageError(ImageFault.UNREADABLE, "the file cannot be opened: let this account read it") from error
    face = the_one_face(embedder, read_image(data))
    photograph, media = encode_for_disclosure(data)
    return NewRecord(row.record_number, row.captured, row.source_class, embedder.model.templates(face.embedding), photograph, media)


def _write_refused(path: Path, rows: tuple[RefusedRow, ...]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("line", "file", "record_number", "reason"))
            writer.writerows((row.line, row.file, row.record_number, row.reason) for row in rows)
    except OSError as error:
        raise EnrolmentError(
            "the list of refused rows cannot be written; the enrolment itself is done: name another file for it"
        ) from error


def _read_directions(path: Path, today: date) -> tuple[F32, str, list[date]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            units, prefix = held["units"], str(held["prefix"])
            captured: list[object] = held["captured"].astype("datetime64[D]").tolist()
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise EnrolmentError("the file does not hold units, prefix and captured as numpy.savez writes them: make it again") from error
    days = [day for day in captured if isinstance(day, date) and day <= today]
    if len(days) != len(captured):
        raise EnrolmentError("a day in captured is missing or lies in the future: make the file again")
    return units, prefix, days


def _check_directions(units: F32, days: int, dimensions: int) -> None:
    if units.ndim != 2 or units.dtype != np.float32 or units.shape[1] != dimensions or days != len(units):
        raise EnrolmentError(f"units are float32[n, {dimensions}] for this model, with one day in captured for each: make them again")
    if not (np.abs(np.linalg.norm(units, axis=1) - 1) < _NORM_SLACK).all():
        raise EnrolmentError("units are finite vectors of norm 1: normalise them and make them again")
