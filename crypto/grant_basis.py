"""Why a search may be made: the offence, the typed legal basis, the purpose, the event and the declared source of the probe.

What policy packs decide upon, and what the broker never sees: together they are the *reason* of a grant, which travels beside the signed
terms and to which those only commit (PROTOCOL 5).

Invariants: the lists are closed, and what is forbidden everywhere is no member of them: there is no immigration purpose (R10), no live
video (R12), no sketch, composite, lookalike or machine-made picture (R20). Such a request cannot be written down, so no pack can allow it
by mistake. A basis is either an order of a court with its particulars or a signed statement of facts (R3); of the statement only a salted
digest stands here, its text stays with the agency. One reason with one salt is one string of bytes.

Left to others: which offence, basis, source or event suffices where (the packs); that an order covers the grant's life (`grant`); that a
reason is the one that was signed (`grant_claims`).
"""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass, field
from datetime import date
from typing import Final, Self

from crypto.canonical import JsonObject, canonical_json, parse_canonical_json
from crypto.errors import FieldError, MisuseError, VersionError
from crypto.fields import Fields, check_digest, check_text
from crypto.moments import check_day

SALT_BYTES: Final = 32
REASON_TYPE: Final = "sealmatch-1/grant-reason"
MAX_REASON_BYTES: Final = 4 << 10
"""Bytes; the longest statute, court and docket in the widest letters take 2 thousand."""
_REASON_LABEL: Final = b"sealmatch-1/grant-reason\n"
_FACTS_LABEL: Final = b"sealmatch-1/facts\n"
_CASE_LABEL: Final = b"sealmatch-1/case\n"
_MAX_STATUTE_CHARS: Final = 80
_MAX_COURT_CHARS: Final = 120
_MAX_DOCKET_CHARS: Final = 80
_NIBRS: Final = re.compile(r"[0-9]{2}[0-9A-Z]")


class BasisKind(enum.StrEnum):
    """The legal basis (R3). The strict default takes the first three, missing and deceased only."""

    WARRANT = "warrant"
    COURT_ORDER = "court_order"
    EXIGENT = "exigent"
    PROBABLE_CAUSE = "probable_cause"
    REASONABLE_SUSPICION = "reasonable_suspicion"
    CONSENT = "consent"
    MISSING = "missing"
    DECEASED = "deceased"
    INCAPACITATED = "incapacitated"


class Purpose(enum.StrEnum):
    """What the search is for. No immigration purpose exists (R10)."""

    CRIMINAL_INVESTIGATION = "criminal_investigation"
    THREAT_TO_LIFE = "threat_to_life"
    MISSING_PERSON = "missing_person"
    DECEASED_PERSON = "deceased_person"
    INCAPACITATED_PERSON = "incapacitated_person"


class ProbeSource(enum.StrEnum):
    """Where the one still comes from, as the requester declares (R12, R20). A frame of recorded video is a still; a stream is none."""

    RECORDED_VIDEO_STILL = "recorded_video_still"
    BODY_CAMERA_STILL = "body_camera_still"
    DRONE_STILL = "drone_still"
    PHOTOGRAPH = "photograph"
    SOCIAL_MEDIA_IMAGE = "social_media_image"
    IDENTITY_DOCUMENT = "identity_document"
    BOOKING_PHOTOGRAPH = "booking_photograph"


class Event(enum.StrEnum):
    """What the picture was taken at (R11): a protest needs a named offence here, and the packs ask for a second reviewer."""

    NONE = "none"
    PROTEST_OR_ASSEMBLY = "protest_or_assembly"


_ORDERS: Final = frozenset({BasisKind.WARRANT, BasisKind.COURT_ORDER})
PURPOSE_OF: Final = {
    BasisKind.MISSING: Purpose.MISSING_PERSON,
    BasisKind.DECEASED: Purpose.DECEASED_PERSON,
    BasisKind.INCAPACITATED: Purpose.INCAPACITATED_PERSON,
}
"""The bases that are good for one purpose only."""


@dataclass(frozen=True)
class Offence:
    """The offence in the jurisdiction's own code and as a NIBRS offence code of three characters (FBI NIBRS user manual), e.g. `13A`."""

    statute: str
    nibrs: str

    def __post_init__(self) -> None:
        check_text(self.statute, _MAX_STATUTE_CHARS, "offence.statute")
        if not _NIBRS.fullmatch(self.nibrs):
            raise FieldError("offence.nibrs is two digits and a digit or capital letter")

    @property
    def nibrs_group(self) -> str:
        """`A` or `B`; the codes of group B are those from 90A to 90Z."""
        return "B" if self.nibrs.startswith("90") else "A"

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        return {"statute": self.statute, "nibrs": self.nibrs}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        offence = cls(fields.text("statute"), fields.text("nibrs"))
        fields.close()
        return offence


@dataclass(frozen=True)
class CourtOrder:
    """A warrant or order: the first and the last day it holds, and SHA-256 of the order's file. Its docket is case text: not in `repr`."""

    kind: BasisKind
    court: str = field(repr=False)
    docket: str = field(repr=False)
    issued: date = field(repr=False)
    expires: date = field(repr=False)
    file_sha256: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.kind not in _ORDERS:
            raise FieldError("basis is a warrant or a court order")
        check_text(self.court, _MAX_COURT_CHARS, "basis.court")
        check_text(self.docket, _MAX_DOCKET_CHARS, "basis.docket")
        check_day(self.issued, "basis.issued")
        check_day(self.expires, "basis.expires")
        if self.expires < self.issued:
            raise FieldError("basis.expires is not before basis.issued")
        check_digest(self.file_sha256, "basis.file_sha256")

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        return {
            "kind": self.kind.value,
            "court": self.court,
            "docket": self.docket,
            "issued": self.issued.isoformat(),
            "expires": self.expires.isoformat(),
            "file_sha256": self.file_sha256.hex(),
        }


@dataclass(frozen=True)
class StatementOfFacts:
    """Any other basis: the signers vouch for a statement whose text stays with the agency; `commitment` is `commit_facts` of it."""

    kind: BasisKind
    commitment: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.kind in _ORDERS:
            raise FieldError("a warrant or order is not a statement of facts")
        check_digest(self.commitment, "basis.facts_commitment")

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        return {"kind": self.kind.value, "facts_commitment": self.commitment.hex()}


LegalBasis = CourtOrder | StatementOfFacts


def basis_from_fields(fields: Fields) -> LegalBasis:
    """Inverse of either `to_json`."""
    kind = fields.choice("kind", BasisKind)
    basis: LegalBasis
    if kind in _ORDERS:
        basis = CourtOrder(
            kind, fields.text("court"), fields.text("docket"), fields.day("issued"), fields.day("expires"), fields.digest("file_sha256")
        )
    else:
        basis = StatementOfFacts(kind, fields.digest("facts_commitment"))
    fields.close()
    return basis


@dataclass(frozen=True, repr=False, kw_only=True)
class GrantReason:
    """Why one search is made; the constructor raises `FieldError`. Case text: its `repr` says nothing.

    `case_commitment` is `commit_case`. `offence` may be None for a person who is missing, dead, incapacitated or in danger.
    `reason_salt` is 32 bytes that the creator draws from the operating system for each grant: everything else of a reason can be guessed.
    """

    case_commitment: bytes
    offence: Offence | None
    basis: LegalBasis
    purpose: Purpose
    event: Event
    probe_source: ProbeSource
    reason_salt: bytes

    def __post_init__(self) -> None:
        check_digest(self.case_commitment, "reason.case_commitment")
        check_digest(self.reason_salt, "reason.salt")
        if self.offence is None and (self.purpose is Purpose.CRIMINAL_INVESTIGATION or self.event is Event.PROTEST_OR_ASSEMBLY):
            raise FieldError("reason.offence is named for an investigation and for a picture of an assembly")
        if PURPOSE_OF.get(self.basis.kind, self.purpose) is not self.purpose:
            raise FieldError("reason.purpose is the one that its basis is good for")

    def __repr__(self) -> str:
        return "<GrantReason>"

    def reason_bytes(self) -> bytes:
        """The canonical bytes, salt and all: what travels beside the terms, to holders and custodians only."""
        return canonical_json({**self._stated(), "salt": self.reason_salt.hex()})

    def commit_reason(self) -> bytes:
        """SHA-256(`sealmatch-1/grant-reason` LF || salt || canonical JSON of the reason without the salt): what the terms show of it."""
        return hashlib.sha256(_REASON_LABEL + self.reason_salt + canonical_json(self._stated())).digest()

    @staticmethod
    def from_reason_bytes(data: bytes) -> GrantReason:
        """Inverse of `reason_bytes`.

        Raises `OversizedError` before parsing, `NotCanonicalError`, `VersionError` for another type, `FieldError`.
        """
        fields = Fields(parse_canonical_json(data, max_bytes=MAX_REASON_BYTES), "reason")
        if fields.text("type") != REASON_TYPE:
            raise VersionError("reason is of another kind or version")
        reason = GrantReason(
            case_commitment=fields.digest("case_commitment"),
            offence=None if fields.is_null("offence") else Offence.from_fields(fields.child("offence")),
            basis=basis_from_fields(fields.child("basis")),
            purpose=fields.choice("purpose", Purpose),
            event=fields.choice("event", Event),
            probe_source=fields.choice("probe_source", ProbeSource),
            reason_salt=fields.digest("salt"),
        )
        fields.close()
        return reason

    def _stated(self) -> JsonObject:
        return {
            "type": REASON_TYPE,
            "case_commitment": self.case_commitment.hex(),
            "offence": None if self.offence is None else self.offence.to_json(),
            "basis": self.basis.to_json(),
            "purpose": self.purpose.value,
            "event": self.event.value,
            "probe_source": self.probe_source.value,
        }


def commit_facts(salt: bytes, statement: str) -> bytes:
    """SHA-256(salt || `sealmatch-1/facts` LF || UTF-8 of the statement).

    The 32-byte salt is drawn from the operating system for each statement and kept with it: without one, a short statement could be guessed
    from its digest. `MisuseError` for another length.
    """
    return _commit(salt, _FACTS_LABEL, statement)


def commit_case(salt: bytes, case_number: str) -> bytes:
    """SHA-256(salt || `sealmatch-1/case` LF || UTF-8 of the case number): what holders know a case by (R54).

    One salt for one case, so that all its searches show the same value and a holder can keep them off one layout and within its budget
    (PROTOCOL 3, step 4; R57); the reviewer sees that it is the case's.
    """
    return _commit(salt, _CASE_LABEL, case_number)


def _commit(salt: bytes, label: bytes, text: str) -> bytes:
    if len(salt) != SALT_BYTES:
        raise MisuseError(f"a salt has {SALT_BYTES} bytes")
    return hashlib.sha256(salt + label + text.encode("utf-8", "surrogatepass")).digest()
