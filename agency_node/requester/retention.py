"""What a requester keeps ends: when its clock is over a search's picture and its leads are destroyed, unless the case is held (R22).

Two clocks run from the end of a search's grant, which everybody who signed it has read. At the end of the first the still, its original and
edits, the face's integers, the probe, the search key and its escrow are destroyed: all that the face could be had from. At the end of the
second the ranks and bands, stubs, photographs and record numbers that holders disclosed, and the sealed scores. How long they are is the
packs' word, the node's own and those that bind an agency of the search (`policy.clocks`).

Invariants: nothing of a case that is held is destroyed, and that is asked in the transaction that destroys; what lies under the seal of a
lapse (R4) is neither opened nor touched, and an exigent search whose clock still runs is not either; a store that was restored destroys
nothing for two weeks, since holds that were placed after its backup are not in it; digests, the chain's links, counts,
the case file's text, decisions, signed grants and the ledger stay. Left to others: emptying the write-ahead log (`courier`, after each
round of work), files that persons saved, backups (docs/cases.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, delete, select, update

from agency_node.case_tables import case_searches
from agency_node.courier import Handler
from agency_node.facts import Fact, read_fact
from agency_node.journal import record, stamp
from agency_node.outbox import MESSAGE, READY, Outgoing
from agency_node.outbox import REFUSED as NOT_SENT
from agency_node.parties import Parties
from agency_node.policy.clocks import RetentionClock, retention_clock
from agency_node.policy.deciding import packs_over
from agency_node.policy.engine import PolicyPack
from agency_node.requester.cases import LAPSED, is_held, register_search
from agency_node.requester.drafting import CASE, TOKEN, CaseFile, case_tag
from agency_node.requester.probe_versions import forget_pictures
from agency_node.store import reading
from agency_node.tables import disclosures, exigent_grants, inbox, leads, outbox, probe_faces, searches
from agency_node.vault import Vault
from crypto.grant_token import unverified_claims
from crypto.message_types import MessageType
from crypto.moments import parse_moment
from crypto.roster import Roster

LOOK_EVERY: Final = timedelta(hours=1)
AFTER_RESTORE: Final = timedelta(days=14)
"""How long legal staff has to place again the holds that a backup does not know of."""
PROBE_DESTROYED: Final = "probe destroyed"
LEADS_DESTROYED: Final = "leads destroyed"
_RUNNING: Final = "running"
_UNFINISHED: Final = ("drafted", "narrowed", "granted", "submitted", "logged", "sent")
"""States that a search can be in although its grant has ended, where nothing serves or nobody decided."""


SEARCH: Final = (searches.c.search_id, searches.c.state, searches.c.created_at, searches.c.expires, searches.c.sealed_token)
"""What is read of a search to know its clocks: not its still."""


@dataclass(frozen=True)
class Ends:
    """When a search's picture and its leads are destroyed, if nothing holds them."""

    probe: datetime
    leads: datetime


class Retention:
    """The requester's part that destroys what is over; after the other parts, so that what ends a search comes first."""

    def __init__(self, engine: Engine, vault: Vault, packs: Sequence[PolicyPack], parties: Parties, clock: Callable[[], datetime]) -> None:
        self._engine, self._vault, self._packs, self._parties, self._clock = engine, vault, packs, parties, clock
        self._next: datetime | None = None

    def handlers(self) -> Mapping[MessageType, Handler]:
        """No message is this part's."""
        return {}

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows."""

    async def tick(self) -> None:
        """Destroy what is over, at the start and each hour."""
        now = self._clock()
        if self._next is not None and now < self._next:
            return
        self._next = now + LOOK_EVERY
        destroy_due(self._engine, self._vault, self._packs, self._parties.trusted.possibly_expired, now)


def ends_of(vault: Vault, packs: Sequence[PolicyPack], roster: Roster, row: Row[*tuple[Any, ...]]) -> Ends:
    """The end of both clocks of a search, a row of `SEARCH`, by the packs of now."""
    claims = unverified_claims(vault.open(TOKEN, row.sealed_token, row.search_id.encode("ascii")))
    agencies = (claims.requesting_agency, claims.originating_agency, *claims.holders)
    clock: RetentionClock = retention_clock(packs_over(packs, roster, agencies))
    return Ends(clock.probe_ends(claims.expires), clock.leads_end(claims.expires))


def destroy_due(engine: Engine, vault: Vault, packs: Sequence[PolicyPack], roster: Roster, now: datetime) -> int:
    """Destroy whatever is over and not held; of how many searches something was."""
    register_missing(engine, vault, now)
    if _restored_lately(engine, now):
        return 0
    waiting = select(*SEARCH, case_searches.c.probe_destroyed_at, case_searches.c.leads_destroyed_at).join(
        case_searches, case_searches.c.search_id == searches.c.search_id
    )
    left = case_searches.c.probe_destroyed_at.is_(None) | case_searches.c.leads_destroyed_at.is_(None)
    columns = waiting.where(left, searches.c.state != LAPSED, searches.c.expires <= stamp(now))
    with reading(engine).begin() as connection:
        rows = connection.execute(columns).all()
    count = 0
    for row in rows:
        ends = ends_of(vault, packs, roster, row)
        probe_due = row.probe_destroyed_at is None and now >= ends.probe
        leads_due = row.leads_destroyed_at is None and now >= ends.leads
        if not probe_due and not leads_due:
            continue
        with engine.begin() as connection:
            if not _may_go(connection, row.search_id):
                continue
            if probe_due:
                _destroy_probe(connection, row.search_id, now)
            if leads_due:
                _destroy_leads(connection, row.search_id, now)
            count += 1
    return count


def register_missing(engine: Engine, vault: Vault, now: datetime) -> None:
    """Searches of before cases were kept are given theirs, as far as their case file can still be read here."""
    known = select(case_searches.c.search_id)
    unknown = select(*SEARCH, searches.c.sealed_case).where(searches.c.search_id.not_in(known), searches.c.sealed_case != b"")
    with reading(engine).begin() as connection:
        rows = connection.execute(unknown).all()
    for row in rows:
        case = CaseFile.from_bytes(vault.open(CASE, row.sealed_case, row.search_id.encode("ascii")))
        commitment = unverified_claims(vault.open(TOKEN, row.sealed_token, row.search_id.encode("ascii"))).case_commitment
        opened = parse_moment(row.created_at, "draft")
        with engine.begin() as connection:
            register_search(
                connection, vault, row.search_id, case_tag(vault, case.case_number), case.case_number, commitment, min(opened, now)
            )


def _restored_lately(engine: Engine, now: datetime) -> bool:
    with reading(engine).begin() as connection:
        at = read_fact(connection, Fact.RESTORED)
    return at is not None and now < parse_moment(at.decode("ascii"), "restore") + AFTER_RESTORE


def _may_go(connection: Connection, search_id: str) -> bool:
    """Whether nothing keeps this search: no hold, no exigent clock that still decides what becomes of it, no seal."""
    clock = connection.execute(select(exigent_grants.c.state).where(exigent_grants.c.search_id == search_id)).scalar()
    return clock not in (_RUNNING, LAPSED) and not is_held(connection, search_id)


def _destroy_probe(connection: Connection, search_id: str, now: datetime) -> None:
    of_search = searches.c.search_id == search_id
    gone = dict.fromkeys(("sealed_still", "probe", "sealed_search_key", "escrow"))
    connection.execute(update(searches).where(of_search).values(**gone))
    over = {"state": "expired", "note": "the grant expired, and the picture was destroyed when its time was over"}
    connection.execute(update(searches).where(of_search, searches.c.state.in_(_UNFINISHED)).values(**over))
    forget_pictures(connection, search_id)
    connection.execute(delete(probe_faces).where(probe_faces.c.search_id == search_id))
    unsent = (outbox.c.search_id == search_id) & (outbox.c.kind == MESSAGE) & (outbox.c.state == READY)
    connection.execute(update(outbox).where(unsent).values(state=NOT_SENT, data=None, note="the picture's time was over"))
    connection.execute(update(case_searches).where(case_searches.c.search_id == search_id).values(probe_destroyed_at=stamp(now)))
    record(connection, now, search_id, PROBE_DESTROYED, "its clock ended (R22): still, edits, embedding, probe, search key and escrow")


def _destroy_leads(connection: Connection, search_id: str, now: datetime) -> None:
    connection.execute(update(searches).where(searches.c.search_id == search_id).values(sealed_release=None, discovery=None))
    connection.execute(update(leads).where(leads.c.search_id == search_id).values(sealed_stub=None))
    connection.execute(update(disclosures).where(disclosures.c.search_id == search_id).values(sealed_record=None))
    came = (inbox.c.search_id == search_id) & inbox.c.data.is_not(None)
    connection.execute(update(inbox).where(came).values(data=None))
    connection.execute(update(case_searches).where(case_searches.c.search_id == search_id).values(leads_destroyed_at=stamp(now)))
    record(connection, now, search_id, LEADS_DESTROYED, "their clock ended (R22): ranks, stubs, photographs, record numbers, sealed scores")
