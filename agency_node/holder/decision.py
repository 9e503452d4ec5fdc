"""A reviewer of the holder's legal office decides whether a photograph and a record number are disclosed (PROTOCOL 3, step 12; R8).

Invariants: the decision is a document that a person signed, whose key the pinned roster gives the role; its digest travels with the
disclosure. Left to others: sending what was decided (`disclosing`), the persons' key files (`legal.persons`).
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Final

from sqlalchemy import Engine, select, update

from agency_node.errors import RequestError
from agency_node.gallery_tables import disclosure_requests
from agency_node.grants import TOKEN
from agency_node.journal import Told, record
from agency_node.legal.persons import PersonKey
from agency_node.parties import Parties
from agency_node.tables import held_grants
from agency_node.vault import Vault
from crypto.canonical import AgencyId, JsonObject
from crypto.grant_claims import GrantClaims
from crypto.grant_token import unverified_claims
from crypto.moments import format_moment, round_moment
from crypto.roster_entries import PersonRole
from crypto.signed import DocumentKind, sign_document

DECISION_KIND: Final = DocumentKind("sealmatch-1/disclosure-decision", 4096)
PENDING: Final = "pending"
GRANTED: Final = "granted"
WITHHOLDING: Final = "withholding"


def read_request(engine: Engine, vault: Vault, handle: str) -> tuple[str, GrantClaims]:
    """The state of a request, and the grant under which it came: what a reviewer looks at. `RequestError` when there is no such request."""
    with engine.begin() as connection:
        row = connection.execute(
            select(disclosure_requests.c.state, held_grants.c.sealed_token, held_grants.c.grant_digest)
            .join(held_grants, held_grants.c.search_id == disclosure_requests.c.search_id)
            .where(disclosure_requests.c.handle == handle)
        ).first()
    if row is None:
        raise RequestError("no request for this handle has come: `sealmatch node status` lists those that have")
    return row.state, unverified_claims(vault.open(TOKEN, row.sealed_token, row.grant_digest))


def decide_disclosure(
    engine: Engine, parties: Parties, agency: AgencyId, handle: str, person: PersonKey, now: datetime, *, grant: bool
) -> None:
    """A reviewer of this holder's legal office decides about one request; the serving node sends what follows.

    1. the roster lists the person's key as a reviewer's, of this agency's legal office (`RequestError`)
    2. the person's training has not lapsed (R14, `TrainingExpiredError`)
    3. a request of that handle is pending (`RequestError`)
    """
    roster = parties.roster()
    signatory = roster.signatory(person.key_id)
    office = roster.agency(agency).legal_office
    if signatory.credential.role is not PersonRole.REVIEWER or signatory.agency.agency_id != office:  # 1
        raise RequestError("this key is not a reviewer's of this agency's own legal office: let one of its reviewers decide")
    signatory.person.check_trained(now)  # 2
    content: JsonObject = {
        "handle": handle,
        "outcome": "granted" if grant else "withheld",
        "reviewer": str(signatory.person.person_id),
        "decided_at": format_moment(round_moment(now)),
    }
    decision = sign_document(DECISION_KIND, content, person.signing_key)
    state = GRANTED if grant else WITHHOLDING
    with engine.begin() as connection:
        pending = (disclosure_requests.c.handle == handle) & (disclosure_requests.c.state == PENDING)
        changed = connection.execute(update(disclosure_requests).where(pending).values(state=state, decision=decision))
        if changed.rowcount == 0:  # 3; asked twice for one handle, both are decided
            raise RequestError("no request for this handle is waiting: `sealmatch node status` lists those that are")
        of_handle = select(disclosure_requests.c.search_id).where(disclosure_requests.c.handle == handle)
        search_id = str(connection.execute(of_handle).scalars().first())
        said: Told = {"actor": str(signatory.person.person_id), "subject": f"handle {handle}"}
        record(connection, now, search_id, f"disclosure {content['outcome']}", f"decision {sha256(decision).hexdigest()}", **said)
