"""Enrolling records: from a source of candidates, or, for demonstrations and tests, from synthetic directions.

Invariants: what a picture lacks stops that picture alone, and is written down with a code and its reason; a table that is none stops
everything before the first picture. Enrolling is idempotent by record number and commits in batches: a run that was killed is run
again and goes on. Only criminal booking pictures are enrolled (R24), a demonstration portrait only where the caller allows it.

Left to others: what a source offers (`table_source`, `itl_source`), what is made of a picture (`portraying`), whether this node may enrol
synthetic or demonstration records (the caller), the packed form (`index`).
"""

from __future__ import annotations

import csv
import zipfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

import numpy as np

from agency_node.config import ItlRules
from agency_node.errors import EnrolmentError, ImageError, KnownRecordError
from agency_node.faces.embedder import Embedder
from agency_node.holder import itl_source, table_source
from agency_node.holder.candidates import BOOKING, DEMONSTRATION, SYNTHETIC, Candidate, Numbers, RefusedRow
from agency_node.holder.groups import NOBODY, Described
from agency_node.holder.portraying import Portrayed, Portrayer
from agency_node.holder.progress import Progress
from agency_node.holder.records import NewRecord, RecordStore, check_record_number
from crypto.embedding import F32, EmbeddingModel, quantised_directions
from crypto.moments import utc_day
from crypto.ring import I8

REFUSED_COLUMNS: Final = ("line", "file", "record_number", "code", "reason")

_BATCH_PICTURES: Final = 32
"""About ten seconds of work, the most that a killed run does twice."""
_BATCH_DIRECTIONS: Final = 1 << 16
"""A second or two of work: a batch writes nearly every page of the tags' index, however many records it has."""
_QUANTISED_AT_ONCE: Final = 1024
_NORM_SLACK: Final = 1e-3

Group = Sequence[Candidate | RefusedRow]
"""What one step of the progress is: a row of a table, or the photographs of one file."""


@dataclass(frozen=True)
class EnrolmentReport:
    """What one run did with every row."""

    enrolled: int
    already_enrolled: int
    refused: tuple[RefusedRow, ...]


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
    portrayer: Portrayer | None = None,
) -> EnrolmentReport:
    """Enrol what the table names; its columns are `file,record_number,captured,source_class`, `file` within the folder, and it may have
    `booking_event,disposition,disposition_date` and, for measuring by groups, `person,sex,race,birth_year`.

    Rows that were refused are written to `refused_csv` (`REFUSED_COLUMNS`), over what stands there. `portrayer` is what works on pictures
    if not this process alone. Raises `EnrolmentError` when the table as a whole cannot be used or the embedder is not of the store's model.
    """
    _check_embedder(store, embedder)
    table = table_source.read_table(table_csv)
    accepted = frozenset({BOOKING, DEMONSTRATION}) if allow_demonstration else frozenset({BOOKING})
    rows = list(table_source.candidates_of(table, folder, accepted, utc_day(now)))
    known = store.known(row.record_number for row in rows if isinstance(row, Candidate))
    progress.text("Enrolling pictures")
    progress.total(len(rows))
    return _enrol(store, portrayer or Portrayer(embedder), ([row] for row in rows), lambda _: known, progress, now, refused_csv)


def enrol_itl(
    store: RecordStore,
    embedder: Embedder,
    path: Path,
    rules: ItlRules,
    progress: Progress,
    now: datetime,
    *,
    refused_csv: Path | None = None,
    portrayer: Portrayer | None = None,
) -> EnrolmentReport:
    """Enrol the frontal photographs of an ANSI/NIST-ITL file, or of every such file in a folder; as `enrol_folder`."""
    files = itl_source.files_of(path)
    return enrol_itl_files(store, embedder, files, rules, progress, now, refused_csv=refused_csv, portrayer=portrayer)


def enrol_itl_files(
    store: RecordStore,
    embedder: Embedder,
    files: Sequence[Path],
    rules: ItlRules,
    progress: Progress,
    now: datetime,
    *,
    refused_csv: Path | None = None,
    portrayer: Portrayer | None = None,
) -> EnrolmentReport:
    """As `enrol_itl`, of these files and no others."""
    _check_embedder(store, embedder)
    numbers, today = Numbers(), utc_day(now)
    progress.text("Enrolling ANSI/NIST-ITL files")
    progress.total(len(files))
    groups = (list(itl_source.candidates_of(file, rules, numbers, today)) for file in files)
    return _enrol(store, portrayer or Portrayer(embedder), groups, store.known, progress, now, refused_csv)


def _check_embedder(store: RecordStore, embedder: Embedder) -> None:
    if embedder.model.model_hash != store.model.model_hash:
        raise EnrolmentError("this embedder is not of the gallery's model: enrol with the embedder that node.toml names")


def _enrol(
    store: RecordStore,
    portrayer: Portrayer,
    groups: Iterable[Group],
    known: Callable[[Iterator[str]], Collection[str]],
    progress: Progress,
    now: datetime,
    refused_csv: Path | None,
) -> EnrolmentReport:
    """Enrol the candidates, a batch at a time; rows come out in the order in which they went in, however many processes work."""
    refused: list[RefusedRow] = []
    already, enrolled = 0, 0
    batch: list[NewRecord] = []
    for step in _begun(portrayer, groups, known):
        for row, portrayed in step:
            if isinstance(row, RefusedRow):
                refused.append(row)
            elif portrayed is None:
                already += 1
            else:
                try:
                    batch.append(_record(row, portrayed()))
                except ImageError as error:
                    refused.append(RefusedRow(row.line, row.file, row.record_number, error.fault, str(error)))
            if len(batch) == _BATCH_PICTURES:
                enrolled += len(store.add(portrayer.assessed(batch), now))
                batch.clear()
        progress.advance()
    enrolled += len(store.add(portrayer.assessed(batch), now))
    if refused_csv is not None:
        write_refused(refused_csv, refused)
    return EnrolmentReport(enrolled, already, tuple(refused))


_Begun = list[tuple[Candidate | RefusedRow, Callable[[], Portrayed] | None]]
"""The rows of a step; with a candidate that is to be enrolled, what waits for its picture's work."""


def _begun(portrayer: Portrayer, groups: Iterable[Group], known: Callable[[Iterator[str]], Collection[str]]) -> Iterator[_Begun]:
    """The steps in their order, each once the work on as many pictures behind it was begun as the portrayer takes at a time."""
    ahead: deque[_Begun] = deque()
    begun = 0
    for group in groups:
        before = known(row.record_number for row in group if isinstance(row, Candidate))
        step: _Begun = []
        for row in group:
            new = isinstance(row, Candidate) and row.record_number not in before
            step.append((row, portrayer.begin(row.read) if isinstance(row, Candidate) and new else None))
            begun += new
        ahead.append(step)
        while ahead and begun > portrayer.ahead:
            begun -= sum(one is not None for _, one in ahead[0])
            yield ahead.popleft()
    yield from ahead


def enrol_embeddings(store: RecordStore, path_npz: Path, progress: Progress, now: datetime) -> EnrolmentReport:
    """Enrol directions without pictures: for demonstrations and tests only, which the caller checks.

    The file (`numpy.savez`) holds `units`, float32[n, D] of norm 1 in the model's centred space; `prefix`, text: records are numbered
    prefix-000001 and on; `captured`, n days as datetime64[D] or text; and, to try a measurement by groups with, `described`, text[n, 4]:
    person, sex, race, year of birth. Raises `EnrolmentError` for any other file.
    """
    units, prefix, captured, described = _read_directions(path_npz, utc_day(now))
    return enrol_directions(store, units, prefix, captured, progress, now, described)


def enrol_directions(
    store: RecordStore,
    units: F32,
    prefix: str,
    captured: Sequence[date],
    progress: Progress,
    now: datetime,
    described: Sequence[Described] | None = None,
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
        who = [NOBODY] * len(templates) if described is None else described[batch]
        told = zip(numbers[batch], captured[batch], templates, who, strict=True)
        made = [NewRecord(number, day, SYNTHETIC, template, described=shown) for number, day, template, shown in told]
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


def _record(row: Candidate, made: Portrayed) -> NewRecord:
    return NewRecord(
        row.record_number,
        row.captured,
        row.source_class,
        made.template,
        made.photograph,
        made.media,
        row.booking,
        made.quality,
        row.described,
    )


def write_refused(path: Path, rows: Sequence[RefusedRow]) -> None:
    """Write rows and why they were refused as CSV, over what stands there; `EnrolmentError` when that cannot be done."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(REFUSED_COLUMNS)
            writer.writerows((row.line, row.file, row.record_number, row.code, row.reason) for row in rows)
    except OSError as error:
        raise EnrolmentError(
            "the list of refused rows cannot be written; the enrolment itself is done: name another file for it"
        ) from error


def _read_directions(path: Path, today: date) -> tuple[F32, str, list[date], list[Described] | None]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            units, prefix = held["units"], str(held["prefix"])
            captured: list[object] = held["captured"].astype("datetime64[D]").tolist()
            table = held["described"].astype(str).tolist() if "described" in held else None
            described = table and [Described(person, sex, race, int(born) if born else None) for person, sex, race, born in table]
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise EnrolmentError("the file does not hold units, prefix and captured as numpy.savez writes them: make it again") from error
    days = [day for day in captured if isinstance(day, date) and day <= today]
    if len(days) != len(captured):
        raise EnrolmentError("a day in captured is missing or lies in the future: make the file again")
    if described is not None and len(described) != len(days):
        raise EnrolmentError("described has a row for each of units: make the file again")
    return units, prefix, days, described


def _check_directions(units: F32, days: int, dimensions: int) -> None:
    if units.ndim != 2 or units.dtype != np.float32 or units.shape[1] != dimensions or days != len(units):
        raise EnrolmentError(f"units are float32[n, {dimensions}] for this model, with one day in captured for each: make them again")
    if not (np.abs(np.linalg.norm(units, axis=1) - 1) < _NORM_SLACK).all():
        raise EnrolmentError("units are finite vectors of norm 1: normalise them and make them again")
