"""What a gallery keeps of a booking beside the picture: event, disposition and its day (R25, R31).

Invariants: an event is printable text of a bounded length; a disposition is one of a closed list. Left to others: which dispositions are
not enrolled (`candidates`), sealing (`records`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from agency_node.errors import EnrolmentError
from crypto.errors import FieldError
from crypto.fields import check_text

MAX_EVENT_CHARACTERS: Final = 64


class Disposition(enum.StrEnum):
    """How a booking's case ended, as far as the agency knows."""

    UNKNOWN = ""
    PENDING = "pending"
    CONVICTED = "convicted"
    NON_CONVICTION = "non-conviction"
    DISMISSED = "dismissed"
    ACQUITTED = "acquitted"
    EXPUNGED = "expunged"
    JUVENILE = "juvenile"
    SEALED = "sealed"


@dataclass(frozen=True)
class BookingFacts:
    """What is kept of a booking beside its picture: the agency's own id of the event, the disposition and its day (R25, R31)."""

    event: str = field(default="", repr=False)
    disposition: Disposition = Disposition.UNKNOWN
    disposed_on: date | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            if self.event:
                check_text(self.event, MAX_EVENT_CHARACTERS, "booking_event")
        except FieldError as error:
            says = f"a booking event is up to {MAX_EVENT_CHARACTERS} printable characters without space at its ends: correct it"
            raise EnrolmentError(says) from error

    def to_json(self) -> list[str | None]:
        """For the record's sealed facts."""
        return [self.event, self.disposition.value, None if self.disposed_on is None else self.disposed_on.isoformat()]


NO_BOOKING: Final = BookingFacts()


def booking_of(content: Mapping[str, Any]) -> BookingFacts:
    """The booking in a record's sealed facts; none for a record that was enrolled without."""
    if "booking" not in content:
        return NO_BOOKING
    event, disposition, day = content["booking"]
    return BookingFacts(event, Disposition(disposition), None if day is None else date.fromisoformat(day))
