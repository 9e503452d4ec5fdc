"""What courts and prosecutors say of records' cases, and what silence means: which records no search finds any more (R25).

A feed is a CSV file with the columns `record_number,disposition,date`. From the moment it is taken, a record whose case ended as
`dismissed`, `acquitted`, `non-conviction`, `expunged`, `sealed` or `juvenile` is found by no search; one of which another disposition is
told is found again. The word of the later day counts, so that an old feed that comes late brings nothing back. A record of which nothing
was heard for as many days as `disposition_days` says is found by no search either, until something is.

Invariants: a feed is taken as a whole, in one transaction, but for lines that cannot be read, which are listed; a record number that is not
here is no fault. Left to others: destroying what is due (`purging`), which rows searches leave out (`unsearchable`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects.sqlite import insert

from agency_node.errors import EnrolmentError, RequestError
from agency_node.gallery_tables import record_dispositions, records
from agency_node.holder import candidates
from agency_node.holder.booking import Disposition
from agency_node.holder.candidates import RefusedRow, RowError, RowFault, captured_on
from agency_node.holder.gallery_counter import changes_of, count_change
from agency_node.holder.records import RecordStore, check_record_number
from agency_node.holder.unsearchable import UNCHECKED
from agency_node.journal import NO_SEARCH, record, stamp
from crypto.moments import utc_day

COLUMNS: Final = ("record_number", "disposition", "date")
_AT_ONCE: Final = 500


@dataclass(frozen=True)
class Word:
    """One line of a feed: how a record's case stood on a day."""

    record_number: str = field(repr=False)
    disposition: Disposition
    day: date

    @property
    def reason(self) -> str:
        """Why no search finds such a record; empty when searches do."""
        return self.disposition.value if self.disposition in candidates.MUST_GO else ""


@dataclass(frozen=True)
class FeedReport:
    """What a feed did: records that are here and were told of, those that searches find no more, those that they find again, numbers that
    are not here, and lines that were refused."""

    told: int
    withdrawn: int
    found_again: int
    not_here: int
    refused: tuple[RefusedRow, ...]


def take_feed(engine: Engine, store: RecordStore, path: Path, now: datetime) -> FeedReport:
    """Take a feed; `RequestError` for a file that is none."""
    words, refused = _read_feed(path, utc_day(now))
    latest: dict[str, Word] = {}
    for word in sorted(words, key=lambda one: (one.day, one.reason != "")):  # of one day, the word that forbids
        latest[word.record_number] = word
    with engine.begin() as connection:
        changes = changes_of(connection)
        rows = store.rows_of(connection, latest)
        before = _known(connection, rows.values())
        values, withdrawn, again = [], 0, 0
        for number, row in rows.items():
            reason, day = _outcome(latest[number], before.get(row))
            was = before.get(row, ("", ""))[0]
            withdrawn += bool(reason) and not was
            again += bool(was) and not reason
            values.append({"row": row, "unsearchable": reason, "disposed_on": day, "checked_at": stamp(now)})
        if values:
            added = insert(record_dispositions)
            newer = {name: added.excluded[name] for name in ("unsearchable", "disposed_on", "checked_at")}
            connection.execute(added.on_conflict_do_update(index_elements=["row"], set_=newer), values)
        if withdrawn or again:
            count_change(connection, changes)
        record(connection, now, NO_SEARCH, "dispositions", f"{len(rows)} records told of, {withdrawn} withdrawn, {again} found again")
    return FeedReport(len(rows), withdrawn, again, len(latest) - len(rows), tuple(refused))


def mark_unchecked(engine: Engine, now: datetime, days: int) -> int:
    """Withdraw records of which nothing was heard for so many days; how many."""
    cutoff = stamp(now - timedelta(days=days))
    silent = record_dispositions.c.unsearchable == "", record_dispositions.c.checked_at < cutoff
    never = select(records.c.row, records.c.enrolled_at).where(
        records.c.enrolled_at < cutoff, records.c.row.not_in(select(record_dispositions.c.row)), records.c.expunged_at.is_(None)
    )
    with engine.begin() as connection:
        changes = changes_of(connection)
        marked = connection.execute(update(record_dispositions).where(*silent).values(unsearchable=UNCHECKED)).rowcount
        fresh = [
            {"row": row, "unsearchable": UNCHECKED, "disposed_on": "", "checked_at": enrolled}
            for row, enrolled in connection.execute(never)
        ]
        if fresh:
            connection.execute(insert(record_dispositions), fresh)
        if marked + len(fresh):
            count_change(connection, changes)
            record(connection, now, NO_SEARCH, "unchecked", f"{marked + len(fresh)} records withdrawn: nothing heard for {days} days")
    return int(marked) + len(fresh)


def _outcome(word: Word, before: tuple[str, str] | None) -> tuple[str, str]:
    """Reason and day that stand after this word; one of an earlier day than the last changes neither, but is a word all the same."""
    if before is not None and before[1] > word.day.isoformat():
        return ("" if before[0] == UNCHECKED else before[0]), before[1]
    return word.reason, word.day.isoformat()


def _known(connection: Connection, rows: Iterable[int]) -> dict[int, tuple[str, str]]:
    wanted, found = list(rows), {}
    columns = select(record_dispositions.c.row, record_dispositions.c.unsearchable, record_dispositions.c.disposed_on)
    for first in range(0, len(wanted), _AT_ONCE):
        of_these = columns.where(record_dispositions.c.row.in_(wanted[first : first + _AT_ONCE]))
        found.update({row: (reason, day) for row, reason, day in connection.execute(of_these)})
    return found


def _read_feed(path: Path, today: date) -> tuple[list[Word], list[RefusedRow]]:
    words: list[Word] = []
    refused: list[RefusedRow] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            if tuple(name.strip() for name in next(reader, [])) != COLUMNS:
                raise RequestError(f"the feed's first line is {','.join(COLUMNS)}: correct it; nothing was changed")
            for cells in filter(None, reader):
                try:
                    words.append(_word([cell.strip() for cell in cells], today))
                except RowError as error:
                    refused.append(RefusedRow(reader.line_num, path.name, cells[0].strip(), error.fault, str(error)))
    except OSError as error:
        raise RequestError("the feed cannot be opened: name a CSV file that this account may read") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError("the feed is not a CSV file in UTF-8: save it again as one; nothing was changed") from error
    return words, refused


def _word(cells: list[str], today: date) -> Word:
    if len(cells) != len(COLUMNS):
        raise RowError(RowFault.CELLS, f"the line has {len(cells)} cells instead of {len(COLUMNS)}: quote a cell that holds a comma")
    try:
        check_record_number(cells[0])
    except EnrolmentError as error:
        raise RowError(RowFault.RECORD_NUMBER, str(error)) from error
    try:
        disposition = Disposition(cells[1])
    except ValueError:
        disposition = Disposition.UNKNOWN
    if disposition is Disposition.UNKNOWN:
        known = ", ".join(one.value for one in Disposition if one)
        raise RowError(RowFault.DISPOSITION, f"disposition is not one of {known}: correct it")
    try:
        return Word(cells[0], disposition, captured_on(cells[2], today))
    except RowError as error:
        raise RowError(RowFault.DISPOSITION, "date is not a past day from 1900 on, written as 2026-11-23: correct it") from error
