"""What a justified-use grant says: one probe, one search, at named holders, under named custodians, for one typed reason (PROTOCOL 5).

Invariants of `GrantClaims`, whoever builds it: no person stands in two places (R5); the originating agency is always named, and has a
person who signs for it when it is another than the requesting one (R6); requester, holders and custodians of one search are apart, because
custodian and holder together would learn the probe; the cap is at most 50 over all holders together (R32); times are in order. The payload
is RFC 8785 canonical JSON, so equal claims are equal bytes; the grant's digest is SHA-256 of them.

Left to others: who signed, and whether the roster agrees (`grant`); which offence, basis or agency class suffices (policy packs).

Who sees it: requester, holders, custodians, and whoever audits. It names persons and a docket but holds no case text, no score and nothing
of a face beyond two commitments.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Self

from crypto.canonical import AgencyId, GrantId, JsonObject, JsonValue, PersonId, SearchId, canonical_json, parse_canonical_json
from crypto.epoch import Epoch
from crypto.errors import FieldError, SamePersonError, VersionError
from crypto.fields import Fields, check_ascending, check_digest, check_range
from crypto.grant_basis import PURPOSE_OF, Event, LegalBasis, Offence, ProbeSource, Purpose, basis_from_fields
from crypto.limits import DEFAULT_CAP, MAX_CAP, MAX_CUSTODIANS
from crypto.moments import check_moment, format_moment

GRANT_TYPE: Final = "sealmatch-1/grant"
MAX_PAYLOAD_BYTES: Final = 32 << 10
"""Bytes; 256 holders and 64 packs take 22 thousand."""
MAX_HOLDERS: Final = 256
MAX_POLICY_PACKS: Final = 64
MAX_LIFETIME: Final = timedelta(days=31)
"""No search needs longer. Holders serve the current and the previous month's epoch, which is checked by itself."""
_MILLION: Final = 1_000_000


class GrantRole(enum.StrEnum):
    """In what capacity a person signs; names the signature in the protected header. Ascending order is the order in a token."""

    INVESTIGATOR = "investigator"
    ORIGINATOR = "originator"
    REVIEWER = "reviewer"
    SECOND_REVIEWER = "second_reviewer"


ReplayKey = tuple[GrantId, bytes, bytes]


@dataclass(frozen=True, repr=False)
class GrantClaims:
    """The payload of a grant; the constructor raises `FieldError` or `SamePersonError`.

    `reviewers` are one or two, the first deciding. `originator` is the legal reviewer of the originating agency, None when that is the
    requesting one. `offence` may be None for a person who is missing, dead, incapacitated or in danger. `case_commitment` is
    `grant_basis.commit_case`. `probe_digest` and `face_commit` are SHA-256 values of PROTOCOL 3, step 3. `combiner` is the custodian that
    adds the mask shares up (PROTOCOL 6). `false_positives_per_million` says how many searches in a million may show anybody who is
    not the person in the picture, over all holders together (R33). Lists are ascending. The grant holds while `not_before <= now <
    expires`; the custodians act once, at `answer_deadline`, which lies between.
    """

    grant_id: GrantId
    search_id: SearchId
    requesting_agency: AgencyId
    originating_agency: AgencyId
    investigator: PersonId
    reviewers: tuple[PersonId, ...]
    originator: PersonId | None
    case_commitment: bytes
    offence: Offence | None
    basis: LegalBasis
    purpose: Purpose
    event: Event
    probe_source: ProbeSource
    probe_digest: bytes
    face_commit: bytes
    epoch: Epoch
    model_hash: bytes
    holders: tuple[AgencyId, ...]
    custodians: tuple[AgencyId, ...]
    combiner: AgencyId
    false_positives_per_million: int
    answer_deadline: datetime
    policy_packs: tuple[bytes, ...]
    not_before: datetime
    expires: datetime
    cap: int = DEFAULT_CAP

    def __post_init__(self) -> None:
        for name in ("case_commitment", "probe_digest", "face_commit", "model_hash"):
            check_digest(getattr(self, name), f"grant.{name}")
        if not self.epoch.month.isascii():  # one month, one spelling: other scripts have digits too
            raise FieldError("grant.epoch is a calendar month such as 2026-11")
        self._check_reason()
        self._check_persons()
        self._check_parties()
        check_range(self.cap, 1, MAX_CAP, "grant.cap")
        check_range(self.false_positives_per_million, 1, _MILLION - 1, "grant.false_positives_per_million")
        check_ascending(self.policy_packs, 1, MAX_POLICY_PACKS, "grant.policy_packs")
        for pack in self.policy_packs:
            check_digest(pack, "grant.policy_packs")
        self._check_times()

    @property
    def signatories(self) -> Mapping[GrantRole, PersonId]:
        """Who has to sign, each once, and in which role; nobody else may."""
        named = {GrantRole.INVESTIGATOR: self.investigator, GrantRole.REVIEWER: self.reviewers[0]}
        if self.originator is not None:
            named[GrantRole.ORIGINATOR] = self.originator
        if len(self.reviewers) > 1:
            named[GrantRole.SECOND_REVIEWER] = self.reviewers[1]
        return MappingProxyType(named)

    @property
    def replay_key(self) -> ReplayKey:
        """What broker, holder and custodian each keep past expiry, and accept once (PROTOCOL 5): one grant, one probe, one search."""
        return self.grant_id, self.probe_digest, self.face_commit

    @property
    def digest(self) -> bytes:
        """The grant digest: SHA-256 of the payload, 32 bytes."""
        return hashlib.sha256(self.to_payload()).digest()

    def __repr__(self) -> str:
        return f"<GrantClaims {self.grant_id}>"

    def to_payload(self) -> bytes:
        """The canonical bytes that are signed; the limits of the lists keep them below `MAX_PAYLOAD_BYTES`."""
        holders: list[JsonValue] = [str(holder) for holder in self.holders]
        custodians: list[JsonValue] = [str(custodian) for custodian in self.custodians]
        reviewers: list[JsonValue] = [str(reviewer) for reviewer in self.reviewers]
        packs: list[JsonValue] = [pack.hex() for pack in self.policy_packs]
        payload: JsonObject = {
            "type": GRANT_TYPE,
            "grant_id": str(self.grant_id),
            "search_id": str(self.search_id),
            "requesting_agency": str(self.requesting_agency),
            "originating_agency": str(self.originating_agency),
            "investigator": str(self.investigator),
            "reviewers": reviewers,
            "originator": None if self.originator is None else str(self.originator),
            "case_commitment": self.case_commitment.hex(),
            "offence": None if self.offence is None else self.offence.to_json(),
            "basis": self.basis.to_json(),
            "purpose": self.purpose.value,
            "event": self.event.value,
            "probe_source": self.probe_source.value,
            "probe_digest": self.probe_digest.hex(),
            "face_commit": self.face_commit.hex(),
            "epoch": self.epoch.month,
            "model_hash": self.model_hash.hex(),
            "holders": holders,
            "custodians": custodians,
            "combiner": str(self.combiner),
            "cap": self.cap,
            "false_positives_per_million": self.false_positives_per_million,
            "answer_deadline": format_moment(self.answer_deadline),
            "policy_packs": packs,
            "not_before": format_moment(self.not_before),
            "expires": format_moment(self.expires),
        }
        return canonical_json(payload)

    @classmethod
    def from_payload(cls, data: bytes) -> Self:
        """Inverse of `to_payload`.

        Raises `OversizedError` before parsing, `NotCanonicalError`, `VersionError` for another type, `FieldError`, `SamePersonError`.
        """
        fields = Fields(parse_canonical_json(data, max_bytes=MAX_PAYLOAD_BYTES), "grant")
        if fields.text("type") != GRANT_TYPE:
            raise VersionError("payload is of another kind or version")
        claims = cls(
            grant_id=fields.name("grant_id", GrantId),
            search_id=fields.name("search_id", SearchId),
            requesting_agency=fields.name("requesting_agency", AgencyId),
            originating_agency=fields.name("originating_agency", AgencyId),
            investigator=fields.name("investigator", PersonId),
            reviewers=fields.names("reviewers", PersonId),
            originator=None if fields.is_null("originator") else fields.name("originator", PersonId),
            case_commitment=fields.digest("case_commitment"),
            offence=None if fields.is_null("offence") else Offence.from_fields(fields.child("offence")),
            basis=basis_from_fields(fields.child("basis")),
            purpose=fields.choice("purpose", Purpose),
            event=fields.choice("event", Event),
            probe_source=fields.choice("probe_source", ProbeSource),
            probe_digest=fields.digest("probe_digest"),
            face_commit=fields.digest("face_commit"),
            epoch=Epoch(fields.text("epoch")),
            model_hash=fields.digest("model_hash"),
            holders=fields.names("holders", AgencyId),
            custodians=fields.names("custodians", AgencyId),
            combiner=fields.name("combiner", AgencyId),
            cap=fields.integer("cap"),
            false_positives_per_million=fields.integer("false_positives_per_million"),
            answer_deadline=fields.moment("answer_deadline"),
            policy_packs=fields.digests("policy_packs"),
            not_before=fields.moment("not_before"),
            expires=fields.moment("expires"),
        )
        fields.close()
        return claims

    def _check_reason(self) -> None:
        if self.offence is None and (self.purpose is Purpose.CRIMINAL_INVESTIGATION or self.event is Event.PROTEST_OR_ASSEMBLY):
            raise FieldError("grant.offence is named for an investigation and for a picture of an assembly")
        if PURPOSE_OF.get(self.basis.kind, self.purpose) is not self.purpose:
            raise FieldError("grant.purpose is the one that its basis is good for")

    def _check_persons(self) -> None:
        if not 1 <= len(self.reviewers) <= 2:
            raise FieldError("grant.reviewers names one or two persons")
        if (self.originator is not None) != (self.originating_agency != self.requesting_agency):
            raise FieldError("grant.originator signs exactly if another agency than the requesting one originates the search")
        persons = [self.investigator, *self.reviewers, *([] if self.originator is None else [self.originator])]
        if len(set(persons)) != len(persons):
            raise SamePersonError("grant names one person in two roles")

    def _check_parties(self) -> None:
        check_ascending(self.holders, 1, MAX_HOLDERS, "grant.holders")
        check_ascending(self.custodians, 1, MAX_CUSTODIANS, "grant.custodians")
        if self.combiner not in self.custodians:
            raise FieldError("grant.combiner is one of the custodians")
        if not {*self.holders, self.requesting_agency, self.originating_agency}.isdisjoint(self.custodians):
            raise FieldError("grant.custodians are neither holders of the search nor an agency that asks")

    def _check_times(self) -> None:
        for name in ("not_before", "answer_deadline", "expires"):
            check_moment(getattr(self, name), f"grant.{name}")
        if not self.not_before < self.answer_deadline < self.expires:
            raise FieldError("grant.answer_deadline lies between not_before and expires")
        if self.expires - self.not_before > MAX_LIFETIME:
            raise FieldError(f"grant lives at most {MAX_LIFETIME.days} days")
        last = Epoch.at(self.expires)
        if self.epoch not in (last, last.previous()) or self.epoch > Epoch.at(self.not_before):
            raise FieldError("grant.epoch is a month that holders serve for the grant's whole life: its own or, at the end, the one before")
