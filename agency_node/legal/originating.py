"""The agency whose case it is signs what another agency drafts for it, after its own policy allowed it at every holder (R6).

The draft's token goes as a file from the requester to the originating agency's legal office and back. It holds the reason in the clear,
for the office whose case it is; nothing of the still. Invariants: nobody signs as originator but a reviewer of the originating agency's own
legal office, whom the draft names; the originating agency's packs, and those that bind, were asked at its own node and the decision stored
there before the signature was made; what the requester takes back is the very draft with that one signature more.

Left to others: the investigator's and the reviewer's signatures (`drafting`, `review`, where the whole grant is verified).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine, update

from agency_node.errors import RequestError
from agency_node.journal import Told, record
from agency_node.legal.persons import PersonKey
from agency_node.legal.review import read_draft
from agency_node.policy.deciding import check_policy
from agency_node.policy.engine import PolicyEngine
from agency_node.policy.inputs import Place
from agency_node.requester.drafting import DRAFTED, TOKEN
from agency_node.tables import searches
from agency_node.vault import Vault
from crypto.canonical import AgencyId
from crypto.errors import AgencyRoleError
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import GrantToken, add_signature, unverified_claims
from crypto.roster import Roster
from crypto.roster_entries import PersonRole


def sign_as_originator(
    engine: Engine,
    vault: Vault,
    roster: Roster,
    agency: AgencyId,
    token: bytes,
    person: PersonKey,
    packs: Sequence[PolicyEngine],
    now: datetime,
) -> tuple[GrantClaims, bytes]:
    """The draft with the originator's signature, after these checks in this order, at the originating agency's node:

    1. the draft is another agency's, of a case of this one (`RequestError`), and names this person as originator (`RequestError`)
    2. the key is a reviewer's of this agency's legal office (`AgencyRoleError`), whose training holds (R14)
    3. this agency's packs, and those that bind an agency of it, allow it at every holder (`PolicyRefusedError`)
    """
    claims = unverified_claims(token)
    if claims.originating_agency != agency or claims.requesting_agency == agency:  # 1
        raise RequestError("this draft is of no case of this agency that another one searches for: nothing is signed")
    if claims.originator != person.person_id:
        raise RequestError("the draft names another person as its originator: let that person sign")
    signatory = roster.signatory(person.key_id)  # 2
    if signatory.credential.role is not PersonRole.REVIEWER or signatory.agency.agency_id != roster.agency(agency).legal_office:
        raise AgencyRoleError("the originator is a reviewer of the originating agency's own legal office")
    signatory.person.check_trained(now)
    check_policy(engine, vault, claims, roster, packs, Place.ORIGINATING, now)  # 3
    signed = add_signature(token, GrantRole.ORIGINATOR, person.signing_key)
    with engine.begin() as connection:
        said: Told = {"actor": str(person.person_id), "subject": f"grant {claims.grant_id}", "recipient": str(claims.requesting_agency)}
        record(connection, now, claims.search_id, "signed as originator", f"for {claims.requesting_agency}", **said)
    return claims, signed


def take_originators_signature(engine: Engine, vault: Vault, search_id: str, token: bytes, now: datetime) -> None:
    """Put the originator's signature on a draft that waits here; `RequestError` unless the token is that draft with this signature more.

    Whether the signature verifies is asked when the reviewer signs, of all of them together.
    """
    _, stored = read_draft(engine, vault, search_id)
    before, after = GrantToken.from_bytes(stored), GrantToken.from_bytes(token)
    more = [one for one in after.signatures if one not in before.signatures]
    is_draft = (before.payload, before.reason) == (after.payload, after.reason) and set(before.signatures) <= set(after.signatures)
    if not is_draft or [one.header.role for one in more] != [GrantRole.ORIGINATOR]:
        raise RequestError("this file is not the draft with its originator's signature: save the draft again and have it signed")
    with engine.begin() as connection:
        waits = (searches.c.search_id == search_id) & (searches.c.state == DRAFTED)
        sealed = vault.seal(TOKEN, token, search_id.encode("ascii"))
        if connection.execute(update(searches).where(waits).values(sealed_token=sealed)).rowcount != 1:
            raise RequestError("somebody else has decided about this draft meanwhile")
        record(connection, now, search_id, "originator's signature taken")
