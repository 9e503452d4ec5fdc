"""What a policy decides upon: facts of one grant and of the agencies in it, for one holder, at one moment.

Invariants: every fact comes from a verified grant, from the pinned roster or from the node's clock, none from the broker; equal inputs are
one string of bytes, so that `sha256` names them, and from these bytes the decision can be made again. Left to others: verifying the grant
(`crypto.grant`), the decision (`engine`).

`sha256` is for this node's own records: a statute and a handful of words can be guessed from their digest, so it is not published.
"""

from __future__ import annotations

import enum
import functools
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, canonical_json, parse_canonical_json
from crypto.errors import FieldError, VersionError
from crypto.fields import Fields
from crypto.grant_basis import CourtOrder, Offence
from crypto.grant_claims import GrantClaims
from crypto.moments import check_now
from crypto.roster import Roster
from crypto.roster_entries import AgencyClass

_TYPE: Final = "sealmatch-1/policy-inputs"
_MAX_BYTES: Final = 16 << 10
_INSTANT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class AgencyFacts:
    """What the roster says of an agency, as far as a policy may ask. Plain words: what a pack does not list, it refuses."""

    agency_id: str
    agency_class: str
    jurisdiction: str

    @classmethod
    def of(cls, roster: Roster, agency_id: AgencyId) -> Self:
        """From the roster; `UnknownAgencyError` if it does not list the agency."""
        agency = roster.agency(agency_id)
        return cls(str(agency_id), agency.agency_class.value, str(agency.jurisdiction))

    def to_json(self) -> JsonObject:
        """Its part of the digest, and the attributes that policies read."""
        return {"id": self.agency_id, "class": self.agency_class, "jurisdiction": self.jurisdiction}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        facts = cls(fields.text("id"), fields.text("class"), fields.text("jurisdiction"))
        fields.close()
        return facts


class Place(enum.StrEnum):
    """Where the agency stands whose pack is asked: the rules of all of them hold, and the strictest wins (R6)."""

    REQUESTING = "requesting"
    ORIGINATING = "originating"
    HOLDING = "holding"
    CUSTODY = "custody"


@dataclass(frozen=True)
class OrderDays:
    """The first and the last day of a warrant or court order."""

    issued: date
    expires: date

    def to_json(self) -> JsonObject:
        """Its part of the digest."""
        return {"issued": self.issued.isoformat(), "expires": self.expires.isoformat()}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        days = cls(fields.day("issued"), fields.day("expires"))
        fields.close()
        return days


@dataclass(frozen=True)
class PolicyInputs:
    """May `requesting` have this search made in the gallery of `holder`? Asked of the packs of the agency at `place`.

    `now` is an aware moment; `offence` is None where none is named, `order` where the basis is no court's.
    """

    requesting: AgencyFacts
    originating: AgencyFacts
    holder: AgencyFacts
    purpose: str
    basis: str
    offence: Offence | None = field(repr=False)
    event: str
    probe_source: str
    cap: int
    reviewers: int
    now: datetime
    order: OrderDays | None = field(default=None, repr=False)
    false_positives_per_million: int = 1
    place: Place = Place.HOLDING

    def __post_init__(self) -> None:
        check_now(self.now)

    @classmethod
    def from_grant(cls, claims: GrantClaims, roster: Roster, holder: AgencyId, now: datetime, place: Place = Place.HOLDING) -> Self:
        """The facts of a grant that was verified against that roster; `UnknownAgencyError` for an agency that it does not list."""
        basis = claims.basis
        return cls(
            requesting=AgencyFacts.of(roster, claims.requesting_agency),
            originating=AgencyFacts.of(roster, claims.originating_agency),
            holder=AgencyFacts.of(roster, holder),
            purpose=claims.purpose.value,
            basis=basis.kind.value,
            offence=claims.offence,
            event=claims.event.value,
            probe_source=claims.probe_source.value,
            cap=claims.cap,
            reviewers=len(claims.reviewers),
            now=now,
            order=OrderDays(basis.issued, basis.expires) if isinstance(basis, CourtOrder) else None,
            false_positives_per_million=claims.false_positives_per_million,
            place=place,
        )

    @property
    def is_federal(self) -> bool:
        """Whether a federal agency asks, or has another one ask (R9)."""
        return AgencyClass.FEDERAL.value in (self.requesting.agency_class, self.originating.agency_class)

    @property
    def instant(self) -> str:
        """`now` in UTC to the millisecond, the finest that Cedar knows."""
        return instant(self.now)

    def to_bytes(self) -> bytes:
        """The canonical JSON of all inputs."""
        facts: JsonObject = {
            "type": _TYPE,
            "requesting": self.requesting.to_json(),
            "originating": self.originating.to_json(),
            "holder": self.holder.to_json(),
            "purpose": self.purpose,
            "basis": self.basis,
            "offence": None if self.offence is None else self.offence.to_json(),
            "event": self.event,
            "probe_source": self.probe_source,
            "cap": self.cap,
            "reviewers": self.reviewers,
            "order": None if self.order is None else self.order.to_json(),
            "false_positives_per_million": self.false_positives_per_million,
            "place": self.place.value,
            "now": self.instant,
        }
        return canonical_json(facts)

    @functools.cached_property
    def sha256(self) -> bytes:
        """Of `to_bytes`, 32 bytes."""
        return hashlib.sha256(self.to_bytes()).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`, so that a decision can be made again; an `EncodingError` for anything else."""
        fields = Fields(parse_canonical_json(data, max_bytes=_MAX_BYTES), "policy-inputs")
        if fields.text("type") != _TYPE:
            raise VersionError("policy inputs are of another version")
        absent = {name: fields.is_null(name) for name in ("offence", "order")}
        inputs = cls(
            requesting=AgencyFacts.from_fields(fields.child("requesting")),
            originating=AgencyFacts.from_fields(fields.child("originating")),
            holder=AgencyFacts.from_fields(fields.child("holder")),
            purpose=fields.text("purpose"),
            basis=fields.text("basis"),
            offence=None if absent["offence"] else Offence.from_fields(fields.child("offence")),
            event=fields.text("event"),
            probe_source=fields.text("probe_source"),
            cap=fields.integer("cap"),
            reviewers=fields.integer("reviewers"),
            order=None if absent["order"] else OrderDays.from_fields(fields.child("order")),
            false_positives_per_million=fields.integer("false_positives_per_million"),
            place=fields.choice("place", Place),
            now=_read_instant(fields.text("now")),
        )
        fields.close()
        return inputs


def instant(moment: datetime) -> str:
    """A moment in UTC to the millisecond, the finest that Cedar knows."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def _read_instant(text: str) -> datetime:
    try:
        return datetime.strptime(text, _INSTANT).replace(tzinfo=UTC)
    except ValueError as error:
        raise FieldError("policy-inputs.now is not a moment to the millisecond") from error
