"""What `node cases` lists: each case with its searches, what is kept of each and until when, what was destroyed, and what holds it.

Invariants: the numbers of cases are the only case text in it, and a case whose searches all lapsed has none (R4); moments are those by
which the serving node acts (`retention`), computed by the packs of now. Left to others: the reasons of holds (`legal.holds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Engine, Row, select

from agency_node.case_tables import case_searches, cases, legal_holds
from agency_node.journal import stamp
from agency_node.policy.engine import PolicyPack
from agency_node.requester.cases import LAPSED, number_of
from agency_node.requester.retention import SEARCH, ends_of, register_missing
from agency_node.store import reading
from agency_node.tables import exigent_grants, searches
from agency_node.vault import Vault
from crypto.roster import Roster

UNDER_SEAL: Final = "under the seal of a lapse (R4)"
LAW: Final = (
    "The defence first: no clock ends before discovery_days, and a legal hold beats every clock. Ledger, digests, signed grants and counts "
    "are kept for good."
)
"""What is said beside every list."""


@dataclass(frozen=True)
class SearchKept:
    """One search: state, and for picture and leads until when they are kept, or what became of them."""

    search_id: str
    state: str
    grant_ends: str
    picture: str
    leads: str
    picture_ends: str
    leads_end: str


@dataclass(frozen=True)
class CaseKept:
    """One case; `number` is empty once it lies under a seal, `held_since` while it is not held."""

    number: str = field(repr=False)
    commitment: str
    opened_at: str
    held_since: str
    searches: tuple[SearchKept, ...]


def list_cases(engine: Engine, vault: Vault, packs: Sequence[PolicyPack], roster: Roster, now: datetime) -> list[CaseKept]:
    """Every case of this agency, the oldest first."""
    register_missing(engine, vault, now)
    joined = select(*SEARCH, case_searches.c.case_tag, case_searches.c.probe_destroyed_at, case_searches.c.leads_destroyed_at).join(
        case_searches, case_searches.c.search_id == searches.c.search_id
    )
    standing = select(legal_holds.c.case_tag, legal_holds.c.placed_at).where(legal_holds.c.lifted_at.is_(None))
    clocks = select(exigent_grants.c.search_id).where(exigent_grants.c.state == "running")
    with reading(engine).begin() as connection:
        found = connection.execute(select(cases).order_by(cases.c.opened_at, cases.c.case_tag)).all()
        rows = connection.execute(joined.order_by(searches.c.created_at, searches.c.search_id)).all()
        held = {row.case_tag: str(row.placed_at) for row in connection.execute(standing)}
        exigent = set(connection.execute(clocks).scalars())
    listed = []
    for case in found:
        since = held.get(case.case_tag, "")
        own = (row for row in rows if row.case_tag == case.case_tag)
        kept = tuple(_kept(vault, packs, roster, row, since, row.search_id in exigent, now) for row in own)
        listed.append(CaseKept(number_of(vault, case), case.case_commitment.hex(), case.opened_at, since, kept))
    return listed


def _kept(
    vault: Vault, packs: Sequence[PolicyPack], roster: Roster, row: Row[*tuple[Any, ...]], held: str, exigent: bool, now: datetime
) -> SearchKept:
    if row.state == LAPSED:
        return SearchKept(row.search_id, row.state, row.expires, UNDER_SEAL, UNDER_SEAL, "", "")
    ends = ends_of(vault, packs, roster, row)
    said = []
    for destroyed, end in ((row.probe_destroyed_at, ends.probe), (row.leads_destroyed_at, ends.leads)):
        if destroyed is not None:
            said.append(f"destroyed at {destroyed}")
        elif held:
            said.append(f"held since {held}")
        elif exigent:
            said.append("kept until ratified or lapsed (R4)")
        else:
            said.append(f"kept until {stamp(end)}" if now < end else f"due since {stamp(end)}: the serving node destroys it")
    picture, leads = said
    return SearchKept(row.search_id, row.state, row.expires, picture, leads, stamp(ends.probe), stamp(ends.leads))
