"""Two persons' word that an agency may decide by a policy pack, one of them from outside the agency: signed over the pack's very hash.

    {"signatures":[…],"signed":{"agency":…,"pack":…,"pack_sha256":…,"proposed_at":…,"type":"sealmatch-1/pack-approval"}}

A pack decides who is searched for, and its folder lies on a machine that an administrator administers. What that hand cannot do is sign
for a reviewer or officer, here and at another agency. Invariants: an approval is of one pack at one hash for one agency; every signature on
it is accounted for; the persons are distinct, whatever keys they hold (as in R5), at least one of the agency or its legal office and at
least one of neither. It is signed with Ed25519 keys.

Left to others: what a pack is and how it is hashed (services), where approvals are kept, the entry in the log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject
from crypto.errors import (
    AgencyRoleError,
    BadSignatureError,
    FieldError,
    GrantSignatureError,
    MissingRoleError,
    SamePersonError,
    UnknownKeyError,
)
from crypto.fields import check_digest
from crypto.keys import SigningKey, VerifyingKey
from crypto.moments import check_moment, format_moment
from crypto.roster import Roster, Signatory
from crypto.roster_entries import PersonRole
from crypto.signed import DocumentKind, UnverifiedDocument, add_signature, read_document, sign_document

MAX_APPROVAL_BYTES: Final = 4096
PACK_APPROVAL_KIND: Final = DocumentKind("sealmatch-1/pack-approval", MAX_APPROVAL_BYTES)
MAX_SIGNERS: Final = 8
_PACK: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_ROLES: Final = (PersonRole.REVIEWER, PersonRole.OFFICER)


@dataclass(frozen=True)
class PackApproval:
    """That `agency` may decide by the pack of that name and hash; `proposed_at` is the first signer's moment."""

    agency: AgencyId
    pack: str
    pack_sha256: bytes = field(repr=False)
    proposed_at: datetime

    def __post_init__(self) -> None:
        if not _PACK.fullmatch(self.pack):
            raise FieldError("pack-approval.pack is a pack's name, of small letters, digits and hyphens")
        check_digest(self.pack_sha256, "pack-approval.pack_sha256")
        check_moment(self.proposed_at, "pack-approval.proposed_at")

    def sign(self, key: SigningKey) -> bytes:
        """The document with its first signature."""
        content: JsonObject = {
            "agency": str(self.agency),
            "pack": self.pack,
            "pack_sha256": self.pack_sha256.hex(),
            "proposed_at": format_moment(self.proposed_at),
        }
        return sign_document(PACK_APPROVAL_KIND, content, key)

    @classmethod
    def from_document(cls, document: UnverifiedDocument) -> Self:
        """What an unverified document says; `EncodingError` for another form."""
        fields = document.unverified_fields("pack-approval")
        said = cls(
            agency=fields.name("agency", AgencyId),
            pack=fields.text("pack"),
            pack_sha256=fields.digest("pack_sha256"),
            proposed_at=fields.moment("proposed_at"),
        )
        fields.close()
        return said


@dataclass(frozen=True)
class SignedApproval:
    """An approval with those who signed it, each a reviewer or officer of the roster whose signature verifies, no two one person."""

    approval: PackApproval
    signatories: tuple[Signatory, ...] = field(repr=False)

    def check_two(self, roster: Roster) -> None:
        """Raise unless it is whole: `MissingRoleError` for one signer, `AgencyRoleError` unless one is the agency's own and one is not."""
        if len(self.signatories) < 2:
            raise MissingRoleError("a pack change needs two signers, one of them from another agency")
        agency = self.approval.agency
        own = {agency, roster.agency(agency).legal_office}
        inside = [signatory.agency.agency_id in own for signatory in self.signatories]
        if all(inside):
            raise AgencyRoleError("nobody from outside the agency signed for the pack")
        if not any(inside):
            raise AgencyRoleError("nobody of the agency or its legal office signed for the pack")


def read_approval(data: bytes, roster: Roster) -> SignedApproval:
    """The approval in `data`, with one signer or more, after these checks in this order:

    1. size, form (an `EncodingError`), one to eight signatures (`FieldError`)
    2. the agency is of the roster (`UnknownAgencyError`)
    3. every key is a reviewer's or officer's of the roster (`UnknownKeyError`, `AgencyRoleError`), of kind Ed25519 (`UnknownKeyError`)
    4. every signature verifies (`GrantSignatureError`)
    5. no two are one person's (`SamePersonError`)
    """
    document = read_document(PACK_APPROVAL_KIND, data)  # 1
    if not 1 <= len(document.signatures) <= MAX_SIGNERS:
        raise FieldError(f"a pack approval has one to {MAX_SIGNERS} signatures")
    approval = PackApproval.from_document(document)
    roster.agency(approval.agency)  # 2
    signatories = tuple(roster.signatory(name) for name in document.signatures)
    for signatory in signatories:
        if signatory.credential.role not in _ROLES:  # 3
            raise AgencyRoleError("a pack is approved with a reviewer's or a responsible officer's key")
        if not isinstance(signatory.credential.key, VerifyingKey):
            raise UnknownKeyError("a pack is approved with an Ed25519 key")
        try:
            document.check_signed_by(signatory.credential.key)  # 4
        except BadSignatureError as error:
            raise GrantSignatureError("a signature of the pack approval does not verify") from error
    if len({signatory.person.person_id for signatory in signatories}) != len(signatories):  # 5
        raise SamePersonError("one person signed for the pack twice: two persons sign")
    return SignedApproval(approval, signatories)


def verify_approval(data: bytes, roster: Roster) -> SignedApproval:
    """`read_approval`, and the approval is whole (`SignedApproval.check_two`). A training that lapsed since takes nothing back."""
    signed = read_approval(data, roster)
    signed.check_two(roster)
    return signed


def add_approval_signature(data: bytes, key: SigningKey, roster: Roster) -> bytes:
    """The same approval with one signature more; raises what `read_approval` raises of the whole."""
    together = add_signature(PACK_APPROVAL_KIND, data, key)
    read_approval(together, roster)
    return together
