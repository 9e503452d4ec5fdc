"""A reviewer takes a grant back, before its release or after: `sealmatch node revoke` at the node of the legal office that granted it.

Where that is: reviews are made at the requester's node, where drafts are; a grant is taken back at the node of the requester's legal office
(`roster`), which is the requester's own where it is its own office. An office that is another agency is sent every grant of its requesters
(`office`), and only its node can end one: the broker takes a revocation from nobody else. At the requester's node `node cancel` stops a
search at once in any case.

Invariants: with the decision the search ends here, in one transaction: search key and probe are destroyed, what waits to be sent is
dropped, its leads are closed; from then on this node says of the grant that it has ended (`office`), whether or not the log says so yet. A
reviewer with a conflict of interest may take back: stopping is not limited. Left to others: telling parties and log (`office`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, delete, select, update

from agency_node.errors import RequestError
from agency_node.grants import REFUSED as GRANT_REFUSED
from agency_node.grants import STANDING, TAKEN_BACK_BY_OFFICE
from agency_node.journal import Told, record
from agency_node.legal.decisions import Against, check_reason, check_reviewer, keep_decision
from agency_node.legal.persons import PersonKey
from agency_node.legal.review import GRANTED, UNDECIDED
from agency_node.outbox import READY
from agency_node.outbox import REFUSED as NOT_SENT
from agency_node.tables import disclosures, held_grants, outbox, searches
from agency_node.vault import Vault
from crypto.canonical import AgencyId
from crypto.roster import Roster

REVOKED: Final = "revoked"
REVOCABLE: Final = (GRANTED, "submitted", "logged", "sent", "released")
OFFICE: Final = "office"
"""As what a held grant stands at a legal office's node, in its column `roles`."""


def revoke_grant(
    engine: Engine, vault: Vault, roster: Roster, agency: AgencyId, search_id: str, reason: str, reviewer: PersonKey, now: datetime
) -> None:
    """Take a grant back, after these checks in this order:

    1. a reason is given, and this node is that of the legal office that granted (`RequestError`)
    2. the key is that of a reviewer of this office, in training (`check_reviewer`)
    3. it was granted, and has not ended (`RequestError`)
    """
    text = check_reason(reason)  # 1
    with engine.begin() as connection:
        own = connection.execute(select(searches).where(searches.c.search_id == search_id)).first()
        held = None if own is not None else connection.execute(select(held_grants).where(held_grants.c.search_id == search_id)).first()
    office = roster.agency(agency).legal_office if own is not None else agency
    if office != agency:
        raise RequestError(
            f"this grant is taken back at the node of {office}, whose reviewers decide for this agency; `sealmatch node cancel` stops the "
            "search here at once"
        )
    if own is None and (held is None or OFFICE not in held.roles.split(",")):
        raise RequestError("no grant of this legal office has that id: a grant is taken back at the office that granted it")
    check_reviewer(roster, reviewer, (agency,), now)  # 2
    with engine.begin() as connection:
        digest = _end_own(connection, search_id, now) if own is not None else _end_held(connection, held)  # 3
        keep_decision(connection, vault, Against.REVOKED, search_id, digest, text, reviewer, now)
        said: Told = {"actor": str(reviewer.person_id), "subject": f"grant {digest.hex()}"}
        record(connection, now, search_id, REVOKED, TAKEN_BACK_BY_OFFICE, **said)


def end_search(connection: Connection, search_id: str, now: datetime, note: str = TAKEN_BACK_BY_OFFICE) -> bool:
    """In the caller's transaction: the search of this agency has ended with its grant. False if it had ended before."""
    revocable = (searches.c.search_id == search_id) & searches.c.state.in_(REVOCABLE)
    values = {"state": REVOKED, "note": note, "sealed_search_key": None, "probe": None}
    if connection.execute(update(searches).where(revocable).values(**values)).rowcount != 1:
        return False
    unsent = (outbox.c.search_id == search_id) & (outbox.c.state == READY)
    connection.execute(update(outbox).where(unsent).values(state=NOT_SENT, data=None, note="the grant was taken back"))
    connection.execute(delete(disclosures).where(disclosures.c.search_id == search_id, disclosures.c.outcome == "to ask"))
    record(connection, now, search_id, "search ended", "its grant was taken back; search key and probe destroyed")
    return True


def _end_own(connection: Connection, search_id: str, now: datetime) -> bytes:
    row = connection.execute(select(searches.c.state, searches.c.grant_digest).where(searches.c.search_id == search_id)).one()
    if row.state in UNDECIDED:
        raise RequestError("nothing was granted here yet: refuse the draft with `sealmatch node review --refuse REASON`")
    if not end_search(connection, search_id, now):
        raise RequestError(f"this search is {row.state}: its grant has ended")
    return bytes(row.grant_digest)


def _end_held(connection: Connection, held: Row[Any] | None) -> bytes:
    if held is None:
        raise RequestError("no grant of this legal office has that id: a grant is taken back at the office that granted it")
    standing = (held_grants.c.grant_digest == held.grant_digest) & (held_grants.c.state == STANDING)
    if connection.execute(update(held_grants).where(standing).values(state=GRANT_REFUSED, note=TAKEN_BACK_BY_OFFICE)).rowcount != 1:
        raise RequestError(f"this grant is {held.state}: it has ended")
    return bytes(held.grant_digest)
