"""What a holder shows of its records: stubs under release indexes, then one photograph at a time (PROTOCOL 3, steps 11 and 12).

Invariants: a list of stubs has exactly `cap` slots, a disclosure exactly `DISCLOSURE_BODY_BYTES`, a request one length, whether or not
there is a lead, a photograph or a question; so the broker, who sees lengths, learns none of these. A lead says nothing of a person but the
day and age of the picture; the handle is 16 random bytes that mean something to the holder alone. A record that was expunged between
answer and release, or a filler, stands in the list as withdrawn.

**What stays visible** is how many requests and disclosures pass. Every search ends with at least one disclosure, a dummy if nothing is
asked, and every request is answered by one of the same length, also when the holder's legal staff says no.

Left to others: verifying the release and mapping positions to records (the holder's service), the holder's reviewed decision (`grant`),
sealing (`messages`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Final, Self

from crypto.binary import Kind, Reader, Writer
from crypto.canonical import AgencyId
from crypto.errors import FieldError, NotCanonicalError
from crypto.fields import DIGEST_BYTES, check_digest, check_range, check_text
from crypto.limits import MAX_CAP
from crypto.release import EMPTY
from crypto.wire import (
    DAY_BYTES,
    MAX_NAME_BYTES,
    check_photographed,
    read_day,
    read_member,
    read_padded,
    read_padded_name,
    write_day,
    write_padded,
    write_padded_name,
)

HANDLE_BYTES: Final = 16
MAX_AGE_DAYS: Final = 0xFFFF
MAX_RECORD_NUMBER_BYTES: Final = 64
"""Bytes of UTF-8."""

_PREFIX_BYTES: Final = 5
_RECORD_BYTES: Final = HANDLE_BYTES + 1 + MAX_NAME_BYTES + DAY_BYTES + 2
SLOT_BYTES: Final = 1 + 2 + _RECORD_BYTES
MAX_STUBS_BYTES: Final = _PREFIX_BYTES + 2 + 2 + MAX_CAP * SLOT_BYTES
REQUEST_BYTES: Final = _PREFIX_BYTES + HANDLE_BYTES
DISCLOSURE_BODY_BYTES: Final = 1 << 20
MAX_PHOTOGRAPH_BYTES: Final = DISCLOSURE_BODY_BYTES - _PREFIX_BYTES - 1 - HANDLE_BYTES - DIGEST_BYTES - 1 - 1 - MAX_RECORD_NUMBER_BYTES - 4
"""Bytes of the encoded image: 1 MiB less the fields around it. A larger one is encoded again by the holder."""


class SlotState(enum.IntEnum):
    """What a slot of the list holds."""

    EMPTY = 0
    LEAD = 1
    WITHDRAWN = 2


class Media(enum.IntEnum):
    """How the photograph is encoded; 0 on the wire stands for no photograph."""

    JPEG = 1
    PNG = 2
    JPEG_2000 = 3


class DisclosureOutcome(enum.IntEnum):
    """What the holder did; all have one length."""

    NOT_ASKED = 0
    DISCLOSED = 1
    WITHHELD = 2
    """The holder's legal staff decided no."""
    WITHDRAWN = 3
    """The record was expunged since."""


@dataclass(frozen=True)
class StubRecord:
    """One record as a stub shows it: opaque handle, contributing agency, day of the picture, its age in days at release (R31)."""

    handle: bytes = field(repr=False)
    agency: AgencyId = field(repr=False)
    captured: date = field(repr=False)
    age_days: int = field(repr=False)

    def __post_init__(self) -> None:
        _check_handle(self.handle)
        check_photographed(self.captured, "stub.captured")
        check_range(self.age_days, 0, MAX_AGE_DAYS, "stub.age_days")


@dataclass(frozen=True)
class Stub:
    """One lead under its release index; `record` is None when it was withdrawn."""

    index: int
    record: StubRecord | None

    def __post_init__(self) -> None:
        check_range(self.index, 0, MAX_CAP - 1, "stub.index")


@dataclass(frozen=True)
class StubList:
    """H -> R: the holder's stubs in ascending order of release index, filled up to `cap` slots."""

    cap: int
    stubs: tuple[Stub, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_range(self.cap, 1, MAX_CAP, "stubs.cap")
        indexes = [stub.index for stub in self.stubs]
        handles = [stub.record.handle for stub in self.stubs if stub.record is not None]
        if len(indexes) > self.cap or indexes != sorted(set(indexes)) or any(index >= self.cap for index in indexes):
            raise FieldError("stubs stand in ascending order of release indexes below the cap, each once")
        if len(set(handles)) != len(handles):
            raise FieldError("two stubs share a handle")

    def to_bytes(self) -> bytes:
        """The canonical bytes; one length for every list of this cap."""
        writer = Writer(Kind.STUBS).integer(self.cap, 2).integer(len(self.stubs), 2)
        for stub in self.stubs:
            writer.integer(SlotState.WITHDRAWN if stub.record is None else SlotState.LEAD, 1).integer(stub.index, 2)
            if stub.record is None:
                writer.fixed(bytes(_RECORD_BYTES), _RECORD_BYTES)
            else:
                write_padded_name(writer.fixed(stub.record.handle, HANDLE_BYTES), stub.record.agency)
                write_day(writer, stub.record.captured).integer(stub.record.age_days, 2)
        return writer.fixed(_EMPTY_SLOT * (self.cap - len(self.stubs)), SLOT_BYTES * (self.cap - len(self.stubs))).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.STUBS, max_bytes=MAX_STUBS_BYTES)
        cap = reader.integer(2, low=1, high=MAX_CAP)
        count = reader.integer(2, low=0, high=cap)
        stubs = tuple(_read_stub(reader) for _ in range(count))
        if reader.fixed(SLOT_BYTES * (cap - count)) != _EMPTY_SLOT * (cap - count):
            raise NotCanonicalError("a slot beyond the stubs is not empty")
        reader.finish()
        return cls(cap, stubs)


@dataclass(frozen=True)
class DisclosureRequest:
    """R -> H: asks for the photograph and record number of one handle; `handle` is None in the dummy that asks for nothing."""

    handle: bytes | None = field(repr=False)

    def __post_init__(self) -> None:
        if self.handle is not None:
            _check_handle(self.handle)

    def to_bytes(self) -> bytes:
        """The canonical bytes, always `REQUEST_BYTES`."""
        return Writer(Kind.DISCLOSURE_REQUEST).fixed(self.handle or bytes(HANDLE_BYTES), HANDLE_BYTES).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.DISCLOSURE_REQUEST, max_bytes=REQUEST_BYTES)
        handle = reader.fixed(HANDLE_BYTES)
        reader.finish()
        return cls(handle if any(handle) else None)


@dataclass(frozen=True)
class DisclosedRecord:
    """The record number in the holder's own books and the encoded photograph."""

    record_number: str = field(repr=False)
    media: Media
    photograph: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_text(self.record_number, MAX_RECORD_NUMBER_BYTES, "disclosure.record_number")
        if len(self.record_number.encode("utf-8")) > MAX_RECORD_NUMBER_BYTES:
            raise FieldError(f"disclosure.record_number has at most {MAX_RECORD_NUMBER_BYTES} bytes of UTF-8")
        if not 1 <= len(self.photograph) <= MAX_PHOTOGRAPH_BYTES:
            raise FieldError(f"disclosure.photograph has 1 to {MAX_PHOTOGRAPH_BYTES} bytes")


@dataclass(frozen=True)
class Disclosure:
    """H -> R: the holder's answer to one request, or the dummy that ends a search in which nothing was asked.

    `decision_digest` is SHA-256 of the decision that the holder's legal staff signed (step 12). What each outcome holds: `DISCLOSED` all
    three fields, `WITHHELD` handle and decision, `WITHDRAWN` the handle, `NOT_ASKED` nothing; what is not there is zero on the wire.
    """

    outcome: DisclosureOutcome = field(repr=False)
    handle: bytes | None = field(default=None, repr=False)
    decision_digest: bytes | None = field(default=None, repr=False)
    record: DisclosedRecord | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        held = (self.handle is not None, self.decision_digest is not None, self.record is not None)
        if held != _FIELDS_OF[self.outcome]:
            raise FieldError("a disclosure holds other fields than its outcome says")
        if self.handle is not None:
            _check_handle(self.handle)
        if self.decision_digest is not None:
            check_digest(self.decision_digest, "disclosure.decision_digest")
            if not any(self.decision_digest):
                raise FieldError("disclosure.decision_digest is not all zero")

    def to_bytes(self) -> bytes:
        """The canonical bytes, always `DISCLOSURE_BODY_BYTES`."""
        number, media, photograph = b"", 0, b""
        if self.record is not None:
            number, media, photograph = self.record.record_number.encode("utf-8"), self.record.media, self.record.photograph
        writer = Writer(Kind.DISCLOSURE).integer(self.outcome, 1).fixed(self.handle or bytes(HANDLE_BYTES), HANDLE_BYTES)
        writer.fixed(self.decision_digest or bytes(DIGEST_BYTES), DIGEST_BYTES)
        write_padded(writer, number, MAX_RECORD_NUMBER_BYTES).integer(media, 1)
        return write_padded(writer, photograph, MAX_PHOTOGRAPH_BYTES, length_bytes=4).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.DISCLOSURE, max_bytes=DISCLOSURE_BODY_BYTES)
        outcome = read_member(reader, DisclosureOutcome)
        handle, decision = reader.fixed(HANDLE_BYTES), reader.fixed(DIGEST_BYTES)
        number = read_padded(reader, MAX_RECORD_NUMBER_BYTES)
        media = reader.integer(1, low=0, high=max(Media))
        photograph = read_padded(reader, MAX_PHOTOGRAPH_BYTES, length_bytes=4)
        reader.finish()
        record = None
        if outcome is DisclosureOutcome.DISCLOSED:
            record = DisclosedRecord(_text(number), _media(media), photograph)
        elif number or media or photograph:
            raise NotCanonicalError("a disclosure without a record holds part of one")
        return cls(outcome, handle if any(handle) else None, decision if any(decision) else None, record)


_FIELDS_OF: Final = MappingProxyType(
    {
        DisclosureOutcome.NOT_ASKED: (False, False, False),
        DisclosureOutcome.DISCLOSED: (True, True, True),
        DisclosureOutcome.WITHHELD: (True, True, False),
        DisclosureOutcome.WITHDRAWN: (True, False, False),
    }
)
"""Whether handle, decision and record stand in a disclosure of that outcome."""
_EMPTY_SLOT: Final = bytes([SlotState.EMPTY]) + EMPTY.to_bytes(2, "big") + bytes(_RECORD_BYTES)


def _read_stub(reader: Reader) -> Stub:
    state, index = read_member(reader, SlotState), reader.integer(2, low=0, high=MAX_CAP - 1)
    if state is SlotState.WITHDRAWN:
        if any(reader.fixed(_RECORD_BYTES)):
            raise NotCanonicalError("a withdrawn stub shows a record")
        return Stub(index, None)
    if state is not SlotState.LEAD:
        raise FieldError("an empty slot stands among the stubs")
    handle, agency = reader.fixed(HANDLE_BYTES), read_padded_name(reader, AgencyId)
    return Stub(index, StubRecord(handle, agency, read_day(reader), reader.integer(2, low=0, high=MAX_AGE_DAYS)))


def _check_handle(handle: bytes) -> None:
    if len(handle) != HANDLE_BYTES or not any(handle):
        raise FieldError(f"a handle has {HANDLE_BYTES} bytes, not all zero")


def _media(code: int) -> Media:
    try:
        return Media(code)
    except ValueError as error:
        raise FieldError("disclosure.media names no encoding of a photograph") from error


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FieldError("disclosure.record_number is not UTF-8") from error
