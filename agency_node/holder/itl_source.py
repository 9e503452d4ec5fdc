"""Records from ANSI/NIST-ITL files (EBTS among them): Type-10 photographs, with what Type-1 and Type-2 say of the booking.

Fields that are read, by the standard's numbers: 1.004 type of transaction, 1.009 its control number; of each Type-10 record 10.002 (its
number), 10.003 image type, 10.005 photograph's date, 10.011 compression, 10.020 pose, 10.999 data. Type-2 fields are each domain's own,
so `[itl]` of node.toml says which hold record number, booking event and disposition, which types of transaction are bookings, and whether
person, sex, race and birth are read at all.

Invariants: a file's transaction that is not named as a booking is taken for civil and refused (R24); only frontal faces are enrolled;
a file that is none stops itself alone. A parser of strangers' bytes is bounded before it runs: the file's length, and by a walk
over the records' own lengths how many records and fields it will find, since its work grows with the square of both.

Left to others: pictures (`faces.image`), whether a number was enrolled before (`enrol`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Final

import nistitl

from agency_node.config import ItlRules
from agency_node.errors import EnrolmentError, ImageError, ImageFault
from agency_node.holder import candidates
from agency_node.holder.candidates import (
    BOOKING,
    CIVIL,
    Candidate,
    Numbers,
    RefusedRow,
    RowError,
    RowFault,
    booking_facts,
    captured_on,
    described_as,
)

MAX_FILE_BYTES: Final = 1 << 26
"""64 MiB: fourteen fingerprints and a dozen photographs of a good camera."""
MAX_RECORDS: Final = 200
MAX_FIELDS: Final = 300
_READABLE: Final = frozenset({"JPEGB", "JPEGL", "JP2", "JP2L", "PNG"})
_FRONTAL: Final = "F"
_LENGTH: Final = re.compile(rb"([0-9]{1,2})\.0{0,2}1:([0-9]{1,9})\x1d")
_UNTIL_DATA: Final = re.compile(rb"\x1d[0-9]{1,2}\.999:")
_OTHERS: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error, DeprecationWarning)
_PARSER: Final = (nistitl.NistException, *_OTHERS)
"""What the parser raises for files that are not what they say."""
_NO_FILE: Final = "this is not an ANSI/NIST-ITL file that can be read: export it anew"


def files_of(path: Path) -> list[Path]:
    """The file, or every file of the folder itself, by name; `EnrolmentError` when there is none."""
    try:
        found = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file())
    except OSError as error:
        raise EnrolmentError("the ANSI/NIST-ITL files cannot be found: name a file, or a folder that holds them") from error
    if not found:
        raise EnrolmentError("the folder holds no file: name the one with the ANSI/NIST-ITL files")
    return found


def candidates_of(path: Path, rules: ItlRules, numbers: Numbers, today: date) -> Iterator[Candidate | RefusedRow]:
    """The photographs of one file, in their order; one refused row for a file that cannot be read at all."""
    try:
        message = _parsed(path)
    except ImageError as error:
        yield RefusedRow(0, path.name, "", error.fault, str(error))
        return
    faces = list(message.iter(10))
    if not faces:
        yield RefusedRow(0, path.name, "", RowFault.NOT_A_FACE, "the file holds no photograph (Type-10 record): leave it out")
    frontal = sum(_is_frontal(one) for one in faces)
    for line, record in enumerate(faces, start=1):
        number = _field(message, rules.record_number)
        if frontal > 1 and number:
            number = f"{number}/{_value(record, 2)}"
        try:
            source_class = BOOKING if _field(message, "1.004") in rules.booking_types else CIVIL
            candidates.check_class(source_class, frozenset({BOOKING}), "its type of transaction (1.004) or [itl] of node.toml")
            _check_picture(record)
            numbers.check(number, f"{path.name}, photograph {line}")
            event, ended = _field(message, rules.booking_event), _field(message, rules.disposition)
            captured = captured_on(_value(record, 5), today, compact=True)
            person, sex, race, born = (_field(message, name) for name in (rules.person, rules.sex, rules.race, rules.birth_date))
            yield Candidate(
                line,
                path.name,
                number,
                captured,
                source_class,
                booking_facts(event, ended.lower(), _field(message, rules.disposition_date), today, compact=True),
                partial(_data, record),
                described_as(person, sex, race, born, captured, compact=True),
            )
        except RowError as error:
            yield RefusedRow(line, path.name, number, error.fault, str(error))


def _parsed(path: Path) -> nistitl.Message:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(ImageFault.UNREADABLE, "the file cannot be opened: let this account read it") from error
    if not data:
        raise ImageError(ImageFault.EMPTY, "the file is empty: copy it again from where it came")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(ImageFault.TOO_LONG, f"the file has more than {MAX_FILE_BYTES >> 20} MiB: export its photographs alone")
    _check_records(data)
    message = nistitl.Message()
    try:
        message.parse(data)
    except _PARSER as error:
        raise ImageError(ImageFault.DAMAGED, f"{_NO_FILE}, or copy it again from where it came") from error
    return message


def _check_records(data: bytes) -> None:
    """Walk over the records' lengths; `ImageError` unless they end where the file ends, and are few, with few fields."""
    place = records = 0
    while place < len(data):
        found = _LENGTH.match(data, place, place + 16)
        if found is not None:
            length = int(found[2])
        elif records and len(data) - place >= 4:
            (length,) = struct.unpack_from(">I", data, place)  # a record in binary form, such as a fingerprint
        else:
            raise ImageError(ImageFault.NO_PICTURE, _NO_FILE)
        if not 5 <= length <= len(data) - place:
            raise ImageError(ImageFault.DAMAGED, "the file is damaged or cut off: copy it again from where it came")
        if found is not None:
            ends = _UNTIL_DATA.search(data, place, place + length)
            fields = data.count(b"\x1d", place, place + length if ends is None else ends.start())
            if fields > MAX_FIELDS:
                raise ImageError(ImageFault.NO_PICTURE, f"a record of the file has more than {MAX_FIELDS} fields: export it anew")
        place, records = place + length, records + 1
        if records > MAX_RECORDS:
            raise ImageError(ImageFault.NO_PICTURE, f"the file has more than {MAX_RECORDS} records: export its photographs alone")


def _check_picture(record: nistitl.AsciiRecord) -> None:
    if _value(record, 3) != "FACE":
        raise RowError(RowFault.NOT_A_FACE, "the photograph's type (10.003) is not FACE: only faces are enrolled, leave it out")
    if not _is_frontal(record):
        raise RowError(RowFault.POSE, "the photograph's pose (10.020) is not F, frontal: leave it out")
    if _value(record, 11) not in _READABLE:
        raise RowError(RowFault.COMPRESSION, f"the compression (10.011) is not one of {', '.join(sorted(_READABLE))}: export it as JPEGB")


def _is_frontal(record: nistitl.AsciiRecord) -> bool:
    return _value(record, 3) == "FACE" and _value(record, 20) == _FRONTAL


def _data(record: nistitl.AsciiRecord) -> bytes:
    try:
        data = record[999].value
    except _PARSER as error:
        raise ImageError(ImageFault.MISSING, "the record holds no picture (10.999): export it anew") from error
    if not isinstance(data, bytes):
        raise ImageError(ImageFault.MISSING, "the record holds no picture (10.999): export it anew")
    return data


def _field(message: nistitl.Message, name: str) -> str:
    """The value of a field such as `2.010` in the first record of its type; empty when it is not there, or not one value."""
    if not name:
        return ""
    kind, tag = name.split(".")
    records = [message[0]] if kind == "1" else list(message.iter(int(kind)))
    return _value(records[0], int(tag)) if records else ""


def _value(record: nistitl.AsciiRecord, tag: int) -> str:
    try:
        value = record[tag].value
    except _PARSER:
        return ""
    return str(value).strip() if isinstance(value, str | int) else ""
