"""Fields that several wire formats share, on top of the frame of `binary`: names, padded bytes, moments, days, members of a closed list.

Invariants: every field says its own length or has a fixed one; a value has one encoding and padding is zero, so a format built of these has
one encoding too; whatever cannot be read is an `EncodingError`. Which fields a format has, and in which order, is left to its owner.
"""

from __future__ import annotations

import enum
import re
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar, Final, TypeVar

from crypto.binary import Reader, Writer
from crypto.canonical import Name
from crypto.errors import FieldError, MisuseError, NotCanonicalError

MAX_NAME_BYTES: Final = 64
"""The longest identifier that `canonical.Name` allows."""
MOMENT_BYTES: Final = 8
DAY_BYTES: Final = 4

_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HUNDREDTH: Final = timedelta(milliseconds=10)
_FIRST_MOMENT: Final = (datetime(2000, 1, 1, tzinfo=UTC) - _UNIX_EPOCH) // _HUNDREDTH
_LAST_MOMENT: Final = (datetime(2100, 1, 1, tzinfo=UTC) - _UNIX_EPOCH) // _HUNDREDTH - 1
_FIRST_DAY: Final = date(1900, 1, 1)
_LAST_DAY: Final = date(2099, 12, 31)
_NameT = TypeVar("_NameT", bound=Name)
_EnumT = TypeVar("_EnumT", bound=enum.IntEnum)


class MessageId(Name):
    """A message: SHA-256 of its canonical bytes, in hex."""

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[0-9a-f]{64}")

    @property
    def digest(self) -> bytes:
        """The 32 bytes."""
        return bytes.fromhex(self)


def write_name(writer: Writer, name: Name) -> Writer:
    """One byte of length and the letters."""
    return writer.integer(len(name), 1).fixed(name.encode("ascii"), len(name))


def read_name(reader: Reader, kind: type[_NameT]) -> _NameT:
    """Inverse of `write_name`; `FieldError` for anything that is not a name of this kind."""
    return _name(reader.fixed(reader.integer(1, low=1, high=MAX_NAME_BYTES)), kind)


def write_padded(writer: Writer, data: bytes, width: int, *, length_bytes: int = 1) -> Writer:
    """The length, the bytes, and zeros up to `width`: a field whose size says nothing about its content."""
    if len(data) > width:
        raise MisuseError(f"a padded field has at most {width} bytes")
    return writer.integer(len(data), length_bytes).fixed(data + bytes(width - len(data)), width)


def read_padded(reader: Reader, width: int, *, length_bytes: int = 1) -> bytes:
    """Inverse of `write_padded`; `NotCanonicalError` when the padding is not zero."""
    length = reader.integer(length_bytes, low=0, high=width)
    field = reader.fixed(width)
    if field.count(0, length) != width - length:
        raise NotCanonicalError("padding is not zero")
    return field[:length]


def write_padded_name(writer: Writer, name: Name) -> Writer:
    """A name in the room of the longest one."""
    return write_padded(writer, name.encode("ascii"), MAX_NAME_BYTES)


def read_padded_name(reader: Reader, kind: type[_NameT]) -> _NameT:
    """Inverse of `write_padded_name`."""
    return _name(read_padded(reader, MAX_NAME_BYTES), kind)


def write_moment(writer: Writer, moment: datetime) -> Writer:
    """Hundredths of a second since 1970 in UTC (R52), of a moment that `moments.check_moment` lets pass."""
    return writer.integer((moment - _UNIX_EPOCH) // _HUNDREDTH, MOMENT_BYTES)


def read_moment(reader: Reader) -> datetime:
    """Inverse of `write_moment`, of this century only."""
    return _UNIX_EPOCH + reader.integer(MOMENT_BYTES, low=_FIRST_MOMENT, high=_LAST_MOMENT) * _HUNDREDTH


def write_day(writer: Writer, day: date) -> Writer:
    """The proleptic Gregorian ordinal of a day that `check_photographed` lets pass."""
    return writer.integer(day.toordinal(), DAY_BYTES)


def read_day(reader: Reader) -> date:
    """Inverse of `write_day`."""
    return date.fromordinal(reader.integer(DAY_BYTES, low=_FIRST_DAY.toordinal(), high=_LAST_DAY.toordinal()))


def check_photographed(day: date, where: str) -> None:
    """Raise `FieldError` unless a photograph can be of this day: galleries hold pictures older than this century."""
    if isinstance(day, datetime) or not _FIRST_DAY <= day <= _LAST_DAY:
        raise FieldError(f"{where} is not a calendar day from 1900 to 2099")


def read_member(reader: Reader, kind: type[_EnumT]) -> _EnumT:
    """One byte that names a member of a closed list; `FieldError` for any other."""
    try:
        return kind(reader.integer(1, low=0, high=255))
    except ValueError as error:
        raise FieldError(f"no such {kind.__name__}") from error


def _name(letters: bytes, kind: type[_NameT]) -> _NameT:
    try:
        return kind(letters.decode("ascii"))
    except UnicodeDecodeError as error:
        raise FieldError(f"{kind.__name__} is not ASCII") from error
