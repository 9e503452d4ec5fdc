"""What a justified-use grant says: one probe, one search, at named holders, under named custodians, for one typed reason (PROTOCOL 5).

Its *terms* are the payload that persons sign; the broker sees them, so that it can refuse a grant by itself. Its *reason*
(`grant_basis.GrantReason`) stands in them as a salted commitment only and is opened to holders and custodians. *Claims* are both.

Invariants of `GrantTerms`, whoever builds them: no person stands in two places (R5); the originating agency is always named, and has a
person who signs for it when it is another than the requesting one (R6); requester, holders and custodians of one search are apart, because
custodian and holder together would learn the probe; the cap is at most 50 over all holders together (R32); times are in order. The payload
is RFC 8785 canonical JSON, so equal terms are equal bytes; the grant's digest is SHA-256 of them. Of `GrantClaims`: the commitment in the
terms is that of the reason beside them.

Left to others: who signed, and whether the roster agrees (`grant`); which offence, basis or agency class suffices (policy packs).

Who sees it: the terms requester, broker, holders, custodians, and whoever audits; the reason the same without the broker. The terms name
persons and parties but hold nothing of the case and nothing of a face beyond two commitments.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Self

from crypto.canonical import AgencyId, GrantId, JsonObject, JsonValue, PersonId, SearchId, canonical_json, parse_canonical_json
from crypto.epoch import Epoch
from crypto.errors import FieldError, GrantReasonError, SamePersonError, VersionError
from crypto.fields import Fields, check_ascending, check_digest, check_range
from crypto.grant_basis import GrantReason
from crypto.limits import DEFAULT_CAP, MAX_CAP, MAX_CUSTODIANS, MAX_HOLDERS
from crypto.moments import check_moment, format_moment

GRANT_TYPE: Final = "sealmatch-1/grant"
MAX_PAYLOAD_BYTES: Final = 32 << 10
"""Bytes; 256 holders and 64 packs take 22 thousand."""
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


@dataclass(frozen=True, repr=False, kw_only=True)
class GrantTerms:
    """The payload of a grant; the constructor raises `FieldError` or `SamePersonError`.

    `reviewers` are one or two, the first deciding. `originator` is the legal reviewer of the originating agency, None when that is the
    requesting one. `probe_digest` and `face_commit` are SHA-256 values of PROTOCOL 3, step 3. `combiner` is the custodian that
    adds the mask shares up (PROTOCOL 6). `false_positives_per_million` says how many searches in a million may show anybody who is
    not the person in the picture, over all holders together (R33). Lists are ascending. The grant holds while `not_before <= now <
    expires`; the custodians act once, at `answer_deadline`, which lies between. `reason_commitment` is `GrantReason.commit_reason`.
    """

    grant_id: GrantId
    search_id: SearchId
    requesting_agency: AgencyId
    originating_agency: AgencyId
    investigator: PersonId
    reviewers: tuple[PersonId, ...]
    originator: PersonId | None
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
    reason_commitment: bytes
    cap: int = DEFAULT_CAP

    def __post_init__(self) -> None:
        for name in ("reason_commitment", "probe_digest", "face_commit", "model_hash"):
            check_digest(getattr(self, name), f"grant.{name}")
        if not self.epoch.month.isascii():  # one month, one spelling: other scripts have digits too
            raise FieldError("grant.epoch is a calendar month such as 2026-11")
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
        return f"<{type(self).__name__} {self.grant_id}>"

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
            "reason_commitment": self.reason_commitment.hex(),
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

    @staticmethod
    def from_payload(data: bytes) -> GrantTerms:
        """Inverse of `to_payload`.

        Raises `OversizedError` before parsing, `NotCanonicalError`, `VersionError` for another type, `FieldError`, `SamePersonError`.
        """
        members = Fields(parse_canonical_json(data, max_bytes=MAX_PAYLOAD_BYTES), "grant")
        if members.text("type") != GRANT_TYPE:
            raise VersionError("payload is of another kind or version")
        terms = GrantTerms(
            grant_id=members.name("grant_id", GrantId),
            search_id=members.name("search_id", SearchId),
            requesting_agency=members.name("requesting_agency", AgencyId),
            originating_agency=members.name("originating_agency", AgencyId),
            investigator=members.name("investigator", PersonId),
            reviewers=members.names("reviewers", PersonId),
            originator=None if members.is_null("originator") else members.name("originator", PersonId),
            probe_digest=members.digest("probe_digest"),
            face_commit=members.digest("face_commit"),
            epoch=Epoch(members.text("epoch")),
            model_hash=members.digest("model_hash"),
            holders=members.names("holders", AgencyId),
            custodians=members.names("custodians", AgencyId),
            combiner=members.name("combiner", AgencyId),
            cap=members.integer("cap"),
            false_positives_per_million=members.integer("false_positives_per_million"),
            answer_deadline=members.moment("answer_deadline"),
            policy_packs=members.digests("policy_packs"),
            not_before=members.moment("not_before"),
            expires=members.moment("expires"),
            reason_commitment=members.digest("reason_commitment"),
        )
        members.close()
        return terms

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


@dataclass(frozen=True, repr=False, kw_only=True)
class GrantClaims(GrantTerms, GrantReason):
    """A whole grant, flat: its terms and the reason that they commit to, so whoever may see it asks one object.

    The commitment is computed, never given: `dataclasses.replace` with another reason or salt makes another grant.
    """

    reason_commitment: bytes = field(init=False)

    def __post_init__(self) -> None:
        GrantReason.__post_init__(self)
        object.__setattr__(self, "reason_commitment", self.commit_reason())  # the dataclass is frozen, but not yet built
        GrantTerms.__post_init__(self)

    @property
    def terms(self) -> GrantTerms:
        """What is signed and the broker may see."""
        return GrantTerms(**{entry.name: getattr(self, entry.name) for entry in fields(GrantTerms)})

    @classmethod
    def from_parts(cls, payload: bytes, reason: bytes) -> Self:
        """Inverse of `to_payload` and `reason_bytes`.

        Raises what `GrantTerms.from_payload` and `GrantReason.from_reason_bytes` raise, and `GrantReasonError` for another reason than the
        payload commits to.
        """
        terms, opened = GrantTerms.from_payload(payload), GrantReason.from_reason_bytes(reason)
        if opened.commit_reason() != terms.reason_commitment:
            raise GrantReasonError("the reason is not the one that was signed")
        parts: dict[str, Any] = {**vars(terms), **vars(opened)}
        del parts["reason_commitment"]
        return cls(**parts)
