"""A second reviewer's word that an exigent use was rightful: signed, sent to holders and custodians, verified by each for itself (R4).

    {"signatures":[…],"signed":{"grant_digest":…,"person":…,"ratified_at":…,"search_id":…,"type":"sealmatch-1/ratification"}}

Invariants: a ratification is of one grant of one search; who ratifies is another person than everybody who signed the grant (R5), whatever
key is used; the moment that it names and the moment at which it is read are both before the end of the clock, so that a date set back makes
nothing good. It is signed with an Ed25519 key.

Left to others: how long the clock runs (the policy packs), who keeps it (services), the entry in the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from crypto.assertion import WebAuthnKey
from crypto.binary import Kind, Reader, Writer
from crypto.canonical import PersonId, SearchId
from crypto.errors import (
    AgencyRoleError,
    BadSignatureError,
    FieldError,
    GrantAlgorithmError,
    GrantExpiredError,
    GrantMismatchError,
    GrantNotYetValidError,
    GrantSignatureError,
    SamePersonError,
    UnknownKeyError,
)
from crypto.fields import check_digest
from crypto.grant_basis import BasisKind
from crypto.grant_claims import GrantClaims
from crypto.keys import SigningKey
from crypto.moments import check_moment, check_now, format_moment
from crypto.notices import MAX_CLOCK_SKEW
from crypto.roster import Roster
from crypto.roster_entries import PersonRole
from crypto.signed import DocumentKind, UnverifiedDocument, read_document, sign_document
from crypto.wire import read_padded, write_padded

MAX_RATIFICATION_BYTES: Final = 1024
RATIFICATION_KIND: Final = DocumentKind("sealmatch-1/ratification", MAX_RATIFICATION_BYTES)
RATIFICATION_BODY_BYTES: Final = 5 + 4 + MAX_RATIFICATION_BYTES


@dataclass(frozen=True)
class Ratification:
    """What the second reviewer signs; moments in UTC to the hundredth."""

    search_id: SearchId
    grant_digest: bytes = field(repr=False)
    person: PersonId
    ratified_at: datetime

    def __post_init__(self) -> None:
        check_digest(self.grant_digest, "ratification.grant_digest")
        check_moment(self.ratified_at, "ratification.ratified_at")

    def sign(self, key: SigningKey) -> bytes:
        """The document."""
        content = {
            "search_id": str(self.search_id),
            "grant_digest": self.grant_digest.hex(),
            "person": str(self.person),
            "ratified_at": format_moment(self.ratified_at),
        }
        return sign_document(RATIFICATION_KIND, {**content}, key)

    @classmethod
    def from_document(cls, document: UnverifiedDocument) -> Self:
        """What an unverified document says; `EncodingError` for another form."""
        fields = document.unverified_fields("ratification")
        said = cls(
            search_id=fields.name("search_id", SearchId),
            grant_digest=fields.digest("grant_digest"),
            person=fields.name("person", PersonId),
            ratified_at=fields.moment("ratified_at"),
        )
        fields.close()
        return said


def verify_ratification(data: bytes, claims: GrantClaims, roster: Roster, ratify_by: datetime, now: datetime) -> Ratification:
    """The ratification in `data` if it makes this grant good at `now`, an aware moment; else an exception. In this order:

    1. form (`EncodingError`), one signature (`FieldError`)
    2. the grant is an exigent one, and this is of this very grant and search (`GrantMismatchError`)
    3. the key is a reviewer's of the roster, the person's that is named (`UnknownKeyError`), of kind Ed25519 (`GrantAlgorithmError`)
    4. of the requesting agency's legal office (`AgencyRoleError`)
    5. this person has not signed the grant in any capacity (R5, `SamePersonError`)
    6. the person's training has not lapsed (R14, `TrainingExpiredError`)
    7. the signature verifies (`GrantSignatureError`)
    8. it was made since the grant began, and not in the future by more than clocks differ (`GrantNotYetValidError`); it was made, and is
        read, before `ratify_by` (`GrantExpiredError`)
    """
    check_now(now)
    document = read_document(RATIFICATION_KIND, data)  # 1
    if len(document.signatures) != 1:
        raise FieldError("a ratification has one signature")
    said = Ratification.from_document(document)
    if claims.basis.kind is not BasisKind.EXIGENT or (said.search_id, said.grant_digest) != (claims.search_id, claims.digest):  # 2
        raise GrantMismatchError("the ratification is of another grant, or of one that needs none")
    signatory = roster.signatory(next(iter(document.signatures)))  # 3
    if signatory.credential.role is not PersonRole.REVIEWER or signatory.person.person_id != said.person:
        raise UnknownKeyError("a ratification is signed with the key of the reviewer whom it names")
    key = signatory.credential.key
    if isinstance(key, WebAuthnKey):
        raise GrantAlgorithmError("a ratification is signed with an Ed25519 key")
    if signatory.agency.agency_id != roster.agency(claims.requesting_agency).legal_office:  # 4
        raise AgencyRoleError("a ratification is signed by a reviewer of the requesting agency's legal office")
    if said.person in claims.signatories.values():  # 5
        raise SamePersonError("a ratification is signed by another person than those who signed the grant")
    signatory.person.check_trained(now)  # 6
    try:
        document.check_only_signer(key)  # 7
    except BadSignatureError as error:
        raise GrantSignatureError("the ratification's signature does not verify") from error
    if not claims.not_before <= said.ratified_at <= now + MAX_CLOCK_SKEW:  # 8
        raise GrantNotYetValidError("the ratification names a moment before the grant or in the future")
    if max(said.ratified_at, now) >= ratify_by:
        raise GrantExpiredError("the ratification came after the end of the exigent grant's clock (R4)")
    return said


@dataclass(frozen=True)
class RatificationBody:
    """R -> every holder and custodian: the ratification as its document's bytes, padded to one length; `verify_ratification` reads it."""

    document: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.document) <= MAX_RATIFICATION_BYTES:
            raise FieldError(f"a ratification has 1 to {MAX_RATIFICATION_BYTES} bytes")

    def to_bytes(self) -> bytes:
        """The canonical bytes, always `RATIFICATION_BODY_BYTES`."""
        return write_padded(Writer(Kind.RATIFICATION), self.document, MAX_RATIFICATION_BYTES, length_bytes=4).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.RATIFICATION, max_bytes=RATIFICATION_BODY_BYTES)
        document = read_padded(reader, MAX_RATIFICATION_BYTES, length_bytes=4)
        reader.finish()
        return cls(document)
