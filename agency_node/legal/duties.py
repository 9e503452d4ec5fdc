"""Who signs for an agency's own duties, such as reading its ledger or testing its model: a person of the agency, never its node's key.

Invariants: a reviewer of the agency's own legal office or the holder of its responsible officer's key (R16); one person, one signature,
and the document names that person. Left to others: what is signed (`ledger_review`, `evaluation`).
"""

from __future__ import annotations

from crypto.canonical import AgencyId, PersonId
from crypto.errors import AgencyRoleError, BadSignatureError, GrantSignatureError, UnknownKeyError
from crypto.keys import VerifyingKey
from crypto.roster import Roster, Signatory
from crypto.roster_entries import PersonRole
from crypto.signed import UnverifiedDocument


def check_may_sign(signatory: Signatory, agency: AgencyId, roster: Roster) -> None:
    """Raise `AgencyRoleError` unless this key is that of a reviewer of the agency's own legal office, or its officer's."""
    role, own = signatory.credential.role, signatory.agency.agency_id
    if role is PersonRole.OFFICER and own == agency:
        return
    if role is not PersonRole.REVIEWER or own != roster.agency(agency).legal_office:
        raise AgencyRoleError("this key is neither a reviewer's of this agency's legal office nor its responsible officer's")


def check_signed_for(document: UnverifiedDocument, agency: AgencyId, person: PersonId, roster: Roster) -> None:
    """Raise unless `person` signed the document for `agency`:

    1. one key signed, a person's in the roster, that of the person named (`UnknownKeyError`)
    2. the person may (`AgencyRoleError`)
    3. the signature verifies (`GrantSignatureError`)

    Training is asked for when somebody signs; a certificate that lapsed since takes nothing back.
    """
    if len(document.signatures) != 1:
        raise UnknownKeyError("the document has one signature")
    signatory = roster.signatory(next(iter(document.signatures)))  # 1
    key = signatory.credential.key
    if signatory.person.person_id != person or not isinstance(key, VerifyingKey):
        raise UnknownKeyError("the document names another person than the one whose key signed")
    check_may_sign(signatory, agency, roster)  # 2
    try:
        document.check_only_signer(key)  # 3
    except BadSignatureError as error:
        raise GrantSignatureError("the document's signature does not verify") from error
