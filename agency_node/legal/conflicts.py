"""Who must not decide about a draft, though the roster lists them as a reviewer: a conflict of interest is refused with a sentence (R5).

Invariants: whoever has any other part in the draft, investigates the same case, or administers the machine that the drafts lie on, signs no
grant of it and ratifies none. Stopping is not limited: a person with a conflict may refuse a draft or take a grant back.

Left to others: that persons and keys are those of the grant (`crypto.grant`), and that one person does not sign twice (there, too).
"""

from __future__ import annotations

from sqlalchemy import Engine, select

from agency_node.errors import RequestError
from agency_node.legal.persons import PersonKey
from agency_node.overview import ENDED
from agency_node.requester.drafting import TOKEN
from agency_node.tables import searches
from agency_node.vault import Vault
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import unverified_claims

_OTHERS_DECIDE = "another reviewer of the legal office has to decide (R5)"


def check_no_conflict(engine: Engine, vault: Vault, claims: GrantClaims, role: GrantRole, person: PersonKey, administrator: str) -> None:
    """Raise `RequestError` if this person must not sign this draft in that role:

    1. it has another part in the draft
    2. it is the investigator of an open search of the same case
    3. it administers this node (`administrator` in `node.toml`)
    """
    who = person.person_id
    for other, named in claims.signatories.items():
        if other is not role and named == who:  # 1
            raise RequestError(f"{who} is the {other.value.replace('_', ' ')} of this draft: {_OTHERS_DECIDE}")
    with engine.begin() as connection:
        kept = select(searches.c.search_id, searches.c.sealed_token).where(searches.c.state.not_in(ENDED), searches.c.sealed_token != b"")
        rows = connection.execute(kept).all()
    for row in rows:
        open_search = unverified_claims(vault.open(TOKEN, row.sealed_token, row.search_id.encode("ascii")))
        if open_search.investigator == who and open_search.case_commitment == claims.case_commitment:  # 2
            raise RequestError(f"{who} investigates an open search of the same case: {_OTHERS_DECIDE}")
    if administrator and str(who) == administrator:  # 3
        raise RequestError(f"{who} administers this node: {_OTHERS_DECIDE}")
