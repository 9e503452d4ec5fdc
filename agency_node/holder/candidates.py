"""What a source offers for enrolment: a candidate with its booking's facts, or a row that is refused, with code and reason.

Two sources make them, `table_source` (a folder with a CSV) and `itl_source` (ANSI/NIST-ITL files); `enrol` takes them. Invariants: a
candidate is of a class that the caller accepts: for a gallery, criminal bookings only (R24); its case has not ended in a way that
asks for its removal (R25); its record number and day are ones that a disclosure can carry. A refusal names no person: the record number is
in the report that the agency itself reads, and in no log.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from agency_node.errors import EnrolmentError
from agency_node.holder.booking import BookingFacts, Disposition
from agency_node.holder.groups import NOBODY, Described
from agency_node.holder.records import check_record_number
from crypto.errors import FieldError
from crypto.wire import check_photographed

BOOKING: Final = "criminal_booking"
CIVIL: Final = "civil"
DEMONSTRATION: Final = "demonstration_portrait"
SYNTHETIC: Final = "synthetic"

MUST_GO: Final = frozenset(Disposition) - {Disposition.UNKNOWN, Disposition.PENDING, Disposition.CONVICTED}
"""Dispositions with which a record is not enrolled, and expunged if it was (R25)."""
_YEAR, _YEAR_COMPACT = re.compile(r"([0-9]{4})"), re.compile(r"([0-9]{4})[0-9]{4}")
_DASHES, _COMPACT = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})"), re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")


class RowFault(enum.StrEnum):
    """What is wrong with a row apart from its picture; pictures have `errors.ImageFault`."""

    CELLS = "cells"
    FILE = "file"
    RECORD_NUMBER = "record-number"
    REPEATED = "repeated"
    CAPTURED = "captured"
    SOURCE_CLASS = "source-class"
    BOOKING = "booking"
    DISPOSITION = "disposition"
    DESCRIBED = "described"
    NOT_A_FACE = "not-a-face"
    POSE = "pose"
    COMPRESSION = "compression"


class RowError(EnrolmentError):
    """A row that is refused: a code, and a sentence that says what to do."""

    def __init__(self, fault: RowFault, sentence: str) -> None:
        super().__init__(sentence)
        self.fault = fault


@dataclass(frozen=True)
class RefusedRow:
    """One row that was not enrolled: its line in the table or which photograph of its file, a code, and why."""

    line: int
    file: str = field(repr=False)
    record_number: str = field(repr=False)
    code: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """One row that can be enrolled as far as its source says; `read` gives the picture's file, or raises `ImageError`."""

    line: int
    file: str = field(repr=False)
    record_number: str = field(repr=False)
    captured: date = field(repr=False)
    source_class: str
    booking: BookingFacts = field(repr=False)
    read: Callable[[], bytes] = field(repr=False)
    described: Described = field(default=NOBODY, repr=False)


class Numbers:
    """Which record numbers a run has seen, and where first."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def check(self, record_number: str, place: str) -> None:
        """`RowError` for a number that no disclosure can carry, or that stood somewhere before."""
        try:
            check_record_number(record_number)
        except EnrolmentError as error:
            raise RowError(RowFault.RECORD_NUMBER, str(error)) from error
        if (first := self._seen.setdefault(record_number, place)) != place:
            raise RowError(RowFault.REPEATED, f"the record number stands in {first} already: give each record its own")


def check_class(source_class: str, accepted: frozenset[str], told_by: str = "source_class") -> None:
    """`RowError` for a class that the gallery may not hold: civil, licence and watch-list pictures among them (R24)."""
    if source_class not in accepted:
        says = f"rule R24: a gallery holds criminal booking pictures only: leave it out, or correct {told_by}"
        raise RowError(RowFault.SOURCE_CLASS, says)


def captured_on(text: str, today: date, *, compact: bool = False) -> date:
    """The day on which a picture was taken, from 1900 to today; `compact` as ANSI/NIST-ITL writes it, without dashes."""
    day, name = _day(text, compact), "the photograph's date (10.005)" if compact else "captured"
    if day is None:
        raise RowError(RowFault.CAPTURED, f"{name} is not a day from 1900 on: write it as {'20261123' if compact else '2026-11-23'}")
    if day > today:
        raise RowError(RowFault.CAPTURED, f"{name} lies in the future: correct the day on which the picture was taken")
    return day


def booking_facts(event: str, disposition: str, disposed_on: str, today: date, *, compact: bool = False) -> BookingFacts:
    """A booking's facts; `RowError` when they are none, or when the case has ended in a way that asks for the record's removal (R25)."""
    try:
        ended = Disposition(disposition)
    except ValueError as error:
        known = ", ".join(one.value for one in Disposition if one)
        raise RowError(RowFault.DISPOSITION, f"disposition is not one of {known}: correct it, or leave it empty") from error
    if ended in MUST_GO:
        raise RowError(RowFault.DISPOSITION, f"rule R25: a record whose case ended as {ended} is not enrolled: leave it out")
    day = _day(disposed_on, compact) if disposed_on else None
    if (ended is Disposition.CONVICTED) != (day is not None) or (day is not None and day > today):
        says = "the date of disposition is the past day of a conviction, and of nothing else: correct it"
        raise RowError(RowFault.DISPOSITION, says)
    try:
        return BookingFacts(event, ended, day)
    except EnrolmentError as error:
        raise RowError(RowFault.BOOKING, str(error)) from error


def described_as(person: str, sex: str, race: str, born: str, captured: date, *, compact: bool = False) -> Described:
    """Who a record shows; `RowError` for a value that is none. `born` is a year, `compact` a day as ANSI/NIST-ITL writes it, of which the
    year alone is kept."""
    found = (_YEAR_COMPACT if compact else _YEAR).fullmatch(born)
    try:
        if born and found is None:
            says = (
                f"the {'day' if compact else 'year'} of birth is not one: write it as {'19870204' if compact else '1987'}, or leave it out"
            )
            raise EnrolmentError(says)
        described = Described(person, sex, race, None if found is None else int(found[1]))
        described.check_alive(captured)
    except EnrolmentError as error:
        raise RowError(RowFault.DESCRIBED, str(error)) from error
    return described


def _day(text: str, compact: bool) -> date | None:
    found = (_COMPACT if compact else _DASHES).fullmatch(text)
    try:
        day = date(*map(int, found.groups())) if found is not None else None
        if day is not None:
            check_photographed(day, "captured")
    except (ValueError, FieldError):
        return None
    return day
