"""Epochs: calendar months in UTC. A probe, a grant and an answer are of one epoch, and holders serve the current and the previous one.

What an epoch fixes, the public bases, is left to `bases`; which epoch a search is of, to the grant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from crypto.errors import EpochError, FieldError, MisuseError

_MONTH: Final = re.compile(r"20[0-9][0-9]-(?:0[1-9]|1[0-2])")


@dataclass(frozen=True, order=True)
class Epoch:
    """A calendar month in UTC, written `2026-11`."""

    month: str

    def __post_init__(self) -> None:
        if not _MONTH.fullmatch(self.month):
            raise FieldError("an epoch is a calendar month such as 2026-11")

    @classmethod
    def at(cls, now: datetime) -> Self:
        """The epoch of an aware moment."""
        offset = now.utcoffset()
        if offset is None:
            raise MisuseError("a moment needs its time zone")
        return cls(f"{now - offset:%Y-%m}")

    def previous(self) -> Epoch:
        """The month before."""
        first = datetime(int(self.month[:4]), int(self.month[5:]), 1)
        return Epoch(f"{first - timedelta(days=1):%Y-%m}")

    def check_served(self, now: datetime) -> None:
        """Raise `EpochError` unless this is the current or the previous month; a holder asks before it scans."""
        current = Epoch.at(now)
        if self not in (current, current.previous()):
            raise EpochError(f"epoch {self.month} is not served: make the probe for {current.month}")
