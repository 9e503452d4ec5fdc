"""Who a record shows, as far as that is needed to test a face model by groups of persons (R64), and for nothing else.

Four optional fields stand sealed with their record: the agency's own number of the person, so that records of one person are known as such;
sex and race as short labels, as the booking system writes them; the year of birth. Invariants: no text form shows them; they are read by
`RecordStore.descriptions` alone, for `differentials`, which gives out counts. `GalleryRecord`, stubs, disclosures, leads, the record tree
and all messages are made of types that have no such field (R39); a record's expunging destroys them with it (R25).

Left to others: how sources write them (`candidates`), sealing (`records`), measuring (`differentials`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from agency_node.errors import EnrolmentError
from crypto.differentials import MAX_LABEL
from crypto.errors import FieldError
from crypto.fields import check_text

MAX_PERSON: Final = 64
FIRST_BIRTH_YEAR: Final = 1880


@dataclass(frozen=True)
class Described:
    """Who a record shows: number of the person, sex, race, year of birth; each may be empty. `EnrolmentError` for a value that is none."""

    person: str = field(default="", repr=False)
    sex: str = field(default="", repr=False)
    race: str = field(default="", repr=False)
    birth_year: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("sex", "race"):  # M and m are one group
            object.__setattr__(self, name, getattr(self, name).lower())
        for name, most in (("person", MAX_PERSON), ("sex", MAX_LABEL), ("race", MAX_LABEL)):
            try:
                if getattr(self, name):
                    check_text(getattr(self, name), most, name)
            except FieldError as error:
                says = f"{name} is up to {most} printable characters without space at its ends: correct it, or leave it empty"
                raise EnrolmentError(says) from error
        if self.birth_year is not None and not FIRST_BIRTH_YEAR <= self.birth_year <= 2099:
            raise EnrolmentError(f"a year of birth lies from {FIRST_BIRTH_YEAR} on: write it as 1987, or leave it empty")

    def check_alive(self, captured: date) -> None:
        """`EnrolmentError` when the person was born after the picture."""
        if self.birth_year is not None and self.birth_year > captured.year:
            raise EnrolmentError("the year of birth lies after the day of the picture: correct one of them, or leave the year empty")

    def to_json(self) -> list[str | int | None]:
        """For the record's sealed facts."""
        return [self.person, self.sex, self.race, self.birth_year]


NOBODY: Final = Described()
"""Of a record of which nothing is said."""


def described_in(content: Mapping[str, Any]) -> Described:
    """Who the record with these sealed facts shows."""
    return Described(*content["described"]) if "described" in content else NOBODY
