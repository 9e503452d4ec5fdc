"""How often a face model errs with a department's own records, by groups of persons, under its node key (R64; ISO/IEC 19795-10).

A line says of one group how often two of its persons were taken for one (false matches), each having been compared with so many others,
and how many persons were not known again on a second picture (false non-matches). Every count in it is a multiple of five, rounded up or
down by a draw that is the node's secret: none is off by more than four, none tells 1 to 4 apart from none (R62), and the number of persons
of a group that is too small to be named does not follow from the others. Rates and intervals are computed here from these counts alone, by
everybody alike. Comparisons in which one person stands are not independent: a person who looks like many errs many times. `spread` says how
much wider than for independent ones the interval is (its square), from how unevenly false matches lie on persons.

Invariants: what `read` returns was signed by the node key that the roster gives the agency; a count of errors is not larger than that of
persons. Left to others: measuring, rounding, and which groups are named (`agency_node.holder.differentials`).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, JsonValue
from crypto.errors import FieldError
from crypto.fields import MAX_INTEGER, Fields, check_digest, check_range, check_text
from crypto.keys import SigningKey, VerifyingKey
from crypto.limits import MAX_MODEL_NAME
from crypto.moments import check_moment, format_moment
from crypto.roster import Roster
from crypto.signed import DocumentKind, UnverifiedDocument, read_document, sign_document

DIFFERENTIALS_KIND: Final = DocumentKind("sealmatch-1/differentials", 64 << 10)
STEP: Final = 5
"""Counts are multiples of it (R62)."""
MILLION: Final = 1_000_000
MAX_LABEL: Final = 16
MAX_GROUPS: Final = 24
"""Of one trait: the largest ones."""
_MOST: Final = 1_000_000
_OFF: Final = STEP - 1
_Z: Final = 1.959964
"""Of the normal distribution: 95 % lie within."""


class Trait(enum.StrEnum):
    """What persons are grouped by. Age is at the day of the picture, from the year of birth alone."""

    SEX = "sex"
    RACE = "race"
    AGE = "age"


@dataclass(frozen=True)
class Rate:
    """A rate with a 95 % interval; no value where fewer than five errors were counted."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One group, or everybody. Each of `persons` was compared with the next `others`; `twice` with another picture of themselves.

    Counts of errors are None where too few persons stand behind them. The constructor raises `FieldError`.
    """

    persons: int
    others: int
    spread: int
    false_matches: int | None
    twice: int
    false_non_matches: int | None

    def __post_init__(self) -> None:
        for name, of in (("false_matches", self.persons * self.others), ("false_non_matches", self.twice)):
            count = getattr(self, name)
            if count is not None:
                check_range(count, 0, of, f"differentials.{name}")
        for name in ("persons", "others", "twice"):
            check_range(getattr(self, name), 0, _MOST, f"differentials.{name}")
        check_range(self.spread, 1, _MOST, "differentials.spread")
        counts = (self.persons, self.twice, self.false_matches or 0, self.false_non_matches or 0)
        if any(count % STEP for count in counts) or (self.false_matches is not None and not self.others):
            raise FieldError(f"differentials count in multiples of {STEP}, and persons that were compared with somebody")

    def false_match_rate(self) -> Rate | None:
        """Of one comparison of two persons."""
        if self.false_matches is None:
            return None
        return _rate(self.false_matches, self.persons, self.others, self.spread)

    def false_non_match_rate(self) -> Rate | None:
        """Of one comparison of two pictures of one person."""
        return None if self.false_non_matches is None else _rate(self.false_non_matches, self.twice, 1, 1)

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        return {
            "persons": self.persons,
            "others": self.others,
            "spread": self.spread,
            "false_matches": self.false_matches,
            "twice": self.twice,
            "false_non_matches": self.false_non_matches,
        }

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Inverse of `to_json`; the caller closes the fields."""
        return cls(
            fields.integer("persons"),
            fields.integer("others"),
            fields.integer("spread"),
            _count_in(fields, "false_matches"),
            fields.integer("twice"),
            _count_in(fields, "false_non_matches"),
        )


@dataclass(frozen=True)
class GroupLine:
    """One named group of a trait."""

    by: Trait
    label: str
    line: Line

    def __post_init__(self) -> None:
        check_text(self.label, MAX_LABEL, "differentials.label")


@dataclass(frozen=True)
class Differentials:
    """One measurement. `cosine` is in hundredths; it is the lowest at which everybody's rate of false matches is at most `rate`, in a
    million, or was given (`rate` None). `withheld` are traits with groups of fewer than five persons, which are not named.
    """

    agency: AgencyId
    made_at: datetime
    model: str
    model_hash: bytes
    records: int
    rate: int | None
    cosine: int
    everybody: Line
    groups: tuple[GroupLine, ...] = field(default=())
    withheld: tuple[Trait, ...] = ()

    def __post_init__(self) -> None:
        check_moment(self.made_at, "differentials.made_at")
        check_text(self.model, MAX_MODEL_NAME, "differentials.model")
        check_digest(self.model_hash, "differentials.model_hash")
        check_range(self.records, 0, MAX_INTEGER, "differentials.records")
        check_range(self.cosine, -100, 100, "differentials.cosine")
        if self.rate is not None:
            check_range(self.rate, 1, MILLION, "differentials.rate")
        named = [(one.by, one.label) for one in self.groups]
        if len(set(named)) < len(named) or len(named) > MAX_GROUPS * len(Trait):
            raise FieldError(f"differentials name each group once, and at most {MAX_GROUPS} of a trait")
        if list(self.withheld) != [trait for trait in Trait if trait in self.withheld] or self.records % STEP:
            raise FieldError(f"differentials list traits in their order, and count records in multiples of {STEP}")

    def ratio(self, line: Line, of: Callable[[Line], Rate | None]) -> float | None:
        """A group's rate over everybody's; None where one of them is not there or not known but for a bound."""
        rate, whole = of(line), of(self.everybody)
        if rate is None or whole is None or rate.value is None or not whole.value:
            return None
        return rate.value / whole.value

    def sign(self, node_key: SigningKey) -> bytes:
        """The document, for everybody."""
        groups: list[JsonValue] = [{"by": one.by.value, "label": one.label, **one.line.to_json()} for one in self.groups]
        withheld: list[JsonValue] = [trait.value for trait in self.withheld]
        content: JsonObject = {
            "agency": str(self.agency),
            "made_at": format_moment(self.made_at),
            "model": self.model,
            "model_hash": self.model_hash.hex(),
            "records": self.records,
            "rate": self.rate,
            "cosine": self.cosine,
            "everybody": self.everybody.to_json(),
            "groups": groups,
            "withheld": withheld,
        }
        return sign_document(DIFFERENTIALS_KIND, content, node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The measurement in `data`, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the agency is a holder in the roster (`UnknownAgencyError`)
        3. its node key signed, and nobody else (`AgencyStatementError`)
        """
        said, document = cls._read(data)  # 1
        roster.check_holder_signed(document, said.agency, "differentials are not signed by their agency's node key")  # 2, 3
        return said

    @classmethod
    def read_own(cls, data: bytes, key: VerifyingKey) -> Self:
        """The measurement in `data`, which this key signed (`BadSignatureError`): for a node that reads its own."""
        said, document = cls._read(data)
        document.check_only_signer(key)
        return said

    @classmethod
    def _read(cls, data: bytes) -> tuple[Self, UnverifiedDocument]:
        document = read_document(DIFFERENTIALS_KIND, data)
        fields = document.unverified_fields("differentials")
        everybody = fields.child("everybody")
        groups = []
        for child in fields.children("groups"):
            groups.append(GroupLine(child.choice("by", Trait), child.text("label"), Line.of(child)))
            child.close()
        said = cls(
            agency=fields.name("agency", AgencyId),
            made_at=fields.moment("made_at"),
            model=fields.text("model"),
            model_hash=fields.digest("model_hash"),
            records=fields.integer("records"),
            rate=_count_in(fields, "rate"),
            cosine=fields.integer("cosine"),
            everybody=Line.of(everybody),
            groups=tuple(groups),
            withheld=fields.choices("withheld", Trait),
        )
        everybody.close()
        fields.close()
        return said, document


def _count_in(fields: Fields, name: str) -> int | None:
    return None if fields.is_null(name) else fields.integer(name)


def _rate(errors: int, persons: int, each: int, spread: int) -> Rate:
    """Errors over the comparisons of so many persons, with Wilson's interval (1927) over all that the rounded counts may stand for."""
    low = _wilson(max(errors - _OFF, 0), (persons + _OFF) * each, spread, -1)
    high = _wilson(errors + _OFF, max(persons - _OFF, 1) * each, spread, 1)
    return Rate(errors / (persons * each) if errors else None, low, high)


def _wilson(errors: int, of: int, spread: int, side: int) -> float:
    share, square = min(errors / of, 1.0), _Z * _Z * spread / of
    wide = math.sqrt(square * (share * (1 - share) + square / 4))
    return min(max((share + square / 2 + side * wide) / (1 + square), 0.0), 1.0)
