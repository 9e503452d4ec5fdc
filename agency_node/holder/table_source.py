"""Records from a folder of pictures with a table that says whose booking each is.

Invariants: a table that is not what it should be stops everything before the first picture; a row that is not, stops itself alone. No file
outside the folder is read, whatever a row or a link says.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Final

from agency_node.errors import EnrolmentError, ImageError, ImageFault
from agency_node.faces.image import MAX_IMAGE_BYTES
from agency_node.holder import candidates
from agency_node.holder.candidates import Candidate, Numbers, RefusedRow, RowError, RowFault, booking_facts, captured_on, described_as

COLUMNS: Final = ("file", "record_number", "captured", "source_class")
MORE_COLUMNS: Final = ("booking_event", "disposition", "disposition_date", "person", "sex", "race", "birth_year")
"""Those that a table may leave out; the last four are for measuring a face model by groups alone (`groups`)."""


@dataclass(frozen=True)
class Table:
    """A table's columns and its rows with their lines."""

    columns: tuple[str, ...]
    rows: list[tuple[int, list[str]]] = field(repr=False)


def read_table(path: Path) -> Table:
    """The table in a CSV file; `EnrolmentError` for one that cannot be read or has other columns."""
    needs = f"the table's first line names the columns {','.join(COLUMNS)}, and may name {','.join(MORE_COLUMNS)}, separated by commas"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = tuple(name.strip() for name in next(reader, []))
            named = set(header)
            if len(named) < len(header) or not set(COLUMNS) <= named <= {*COLUMNS, *MORE_COLUMNS}:
                raise EnrolmentError(f"{needs}, each once and no others: correct it and run the enrolment again")
            return Table(header, [(reader.line_num, row) for row in reader if row])
    except OSError as error:
        raise EnrolmentError("the table cannot be opened: name a CSV file that this account may read") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise EnrolmentError("the table is not a CSV file in UTF-8: save it again as one") from error


def candidates_of(table: Table, folder: Path, accepted: frozenset[str], today: date) -> Iterator[Candidate | RefusedRow]:
    """The table's rows, in their order."""
    numbers, within = Numbers(), folder.resolve()
    for line, cells in table.rows:
        if len(cells) != len(table.columns):
            says = f"the row has {len(cells)} cells instead of {len(table.columns)}: quote a cell that holds a comma"
            yield RefusedRow(line, "", "", RowFault.CELLS, says)
            continue
        row = dict.fromkeys(MORE_COLUMNS, "") | {name: cell.strip() for name, cell in zip(table.columns, cells, strict=True)}
        try:
            numbers.check(row["record_number"], f"line {line}")
            candidates.check_class(row["source_class"], accepted)
            captured = captured_on(row["captured"], today)
            yield Candidate(
                line,
                row["file"],
                row["record_number"],
                captured,
                row["source_class"],
                booking_facts(row["booking_event"], row["disposition"], row["disposition_date"], today),
                partial(_read, _inside(within, row["file"])),
                described_as(row["person"], row["sex"], row["race"], row["birth_year"], captured),
            )
        except RowError as error:
            yield RefusedRow(line, row["file"], row["record_number"], error.fault, str(error))


def _inside(folder: Path, file: str) -> Path:
    """The file's place; `RowError` when it is not within the folder, links followed."""
    try:
        path = (folder / file).resolve()
        within = bool(file) and path.is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # a null byte, a name too long, a circle of links
        within = False
    if not within:
        raise RowError(RowFault.FILE, "the file is not within the folder: copy it there and name it by its path inside")
    return path


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ImageError(ImageFault.MISSING, "there is no such file in the folder: correct its name, or copy it there")
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise ImageError(ImageFault.UNREADABLE, "the file cannot be opened: let this account read it") from error
