"""Moments and days in signed documents: UTC to the hundredth of a second (R52), one spelling each.

`2026-11-23T16:12:04.05Z` and `2026-11-23`. Invariants: what is written can be read back and nothing else can; a moment always has two
decimals and `Z`, so that text order is time order. `crypto` never asks a clock: `now` comes from the service as an aware datetime.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

from crypto.errors import FieldError, MisuseError

_MOMENT: Final = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{2}Z")
_DAY: Final = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")
_HUNDREDTH_US: Final = 10_000


def check_moment(value: datetime, where: str) -> None:
    """Raise `FieldError` unless `value` is in UTC, of this century, and a whole number of hundredths of a second."""
    if value.utcoffset() != timedelta(0) or value.microsecond % _HUNDREDTH_US or not 2000 <= value.year <= 2099:
        raise FieldError(f"{where} is not a moment in UTC to the hundredth of a second")


def check_day(value: date, where: str) -> None:
    """Raise `FieldError` unless `value` is a plain day of this century (a datetime is a date to Python, but not here)."""
    if isinstance(value, datetime) or not 2000 <= value.year <= 2099:
        raise FieldError(f"{where} is not a calendar day")


def check_now(now: datetime) -> None:
    """Raise `MisuseError` for a moment without time zone: it would compare with nothing, or wrongly."""
    if now.utcoffset() is None:
        raise MisuseError("`now` needs its time zone")


def utc_day(now: datetime) -> date:
    """The UTC day of an aware moment."""
    check_now(now)
    return now.astimezone(UTC).date()


def round_moment(now: datetime) -> datetime:
    """`now` in UTC, cut to the hundredth: what may stand in a document."""
    check_now(now)
    utc = now.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond - utc.microsecond % _HUNDREDTH_US)


def format_moment(value: datetime) -> str:
    """The one spelling of a checked moment."""
    return f"{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond // _HUNDREDTH_US:02d}Z"


def parse_moment(text: str, where: str) -> datetime:
    """Inverse of `format_moment`; `FieldError` for any other spelling and for days and hours that do not exist."""
    if not _MOMENT.fullmatch(text):
        raise FieldError(f"{where} is not spelled like 2026-11-23T16:12:04.05Z")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise FieldError(f"{where} is not a moment that exists") from error


def parse_day(text: str, where: str) -> date:
    """The day that `text` spells as 2026-11-23; `FieldError` for any other spelling."""
    if not _DAY.fullmatch(text):
        raise FieldError(f"{where} is not spelled like 2026-11-23")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise FieldError(f"{where} is not a day that exists") from error
