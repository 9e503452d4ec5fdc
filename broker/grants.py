"""Grants and the entries about them: what may stand in the log, and which grants are good for messages.

Invariants: a grant is entered together with its log leaf, in one transaction, after every check that does not need its reason; each of its
grant id, search id, probe digest and face commitment is good for one grant only, for ever; the broker keeps of it what it routes by and
nothing else. Left to others: who is who (`parties`), the tree (`log_store`), the same checks with the reason (holders and custodians, each
for itself).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, or_, select

from broker.authentication import Caller
from broker.bell import Bell
from broker.config import Limits
from broker.errors import EntryError, FullLogError, NotYourGrantError, ReplayedGrantError, UnknownGrantError
from broker.log_store import LogStore
from broker.parties import RoutedGrant, check_entry, ending_subjects, is_refused_draft
from broker.roster_store import RosterStore
from broker.store import Store, Transaction, milliseconds, moment_of
from broker.tables import grants, leaves
from crypto.canonical import AgencyId, SearchId
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.errors import GrantExpiredError, GrantNotYetValidError, RevokedError
from crypto.grant import VerifiedTerms, verify_terms


class Grants:
    """The grants that stand in this broker's log."""

    def __init__(self, store: Store, rosters: RosterStore, log: LogStore, bell: Bell, limits: Limits) -> None:
        self._store = store
        self._rosters = rosters
        self._log = log
        self._bell = bell
        self._limits = limits

    async def enter(self, caller: Caller, terms: bytes, entry_data: bytes) -> tuple[int, bool]:
        """Where the grant's entry stands, and whether it is new. After these checks, in this order:

        1. the terms authorise a search now (`verify_terms`: a `PeerError`)
        2. the caller is the requesting agency (`NotYourGrantError`)
        3. the entry is of kind grant and about this grant (`EntryError`)
        4. the very same was entered before: its place; any of the four values with another grant or entry: `ReplayedGrantError`
        """
        verified = verify_terms(terms, await self._rosters.trusted(), caller.now)  # 1
        if verified.terms.requesting_agency != caller.agency:  # 2
            raise NotYourGrantError("the grant names another requesting agency than the caller")
        entry = LogEntry.from_bytes(entry_data)  # 3
        if entry.kind is not EntryKind.GRANT or entry.subject != entry_subject(EntryKind.GRANT, verified.digest):
            raise EntryError("the entry is not that of this grant")
        async with self._store.writing(promises=False) as connection:
            before = await self._entered_before(connection, verified, entry)  # 4
            position, is_new = (before, False) if before is not None else await self._log.append(connection, entry, verified.digest)
            if before is None:
                await connection.execute(grants.insert().values(**_values(verified), position=position))
        await self._log.publish()
        self._bell.ring()
        return position, is_new

    async def enter_about(self, caller: Caller, entry_data: bytes, grant_digest: bytes) -> tuple[int, bool]:
        """Where an entry about a grant stands, and whether it is new. After these checks, in this order:

        1. the entry is one (an `EncodingError`), the grant stands in the log (`UnknownGrantError`); or it is a requester's own entry that
            a draft of that digest was refused, which never becomes a grant
        2. the caller makes such entries, about this grant (`EntryError`)
        3. the grant has not more entries than a search can need, a draft not more than one (`FullLogError`)
        """
        entry = LogEntry.from_bytes(entry_data)  # 1
        async with self._store.writing(promises=False) as connection:
            most = self._limits.max_entries_of_grant
            if is_refused_draft(entry, grant_digest, caller.agency, caller.roster) and not await self._is_known(connection, grant_digest):
                most = 1
            else:
                check_entry(entry, await self.find(connection, grant_digest), caller.agency, caller.roster)  # 2
            before = (
                await connection.execute(select(func.count()).select_from(leaves).where(leaves.c.grant_digest == grant_digest))
            ).scalar_one()
            position, is_new = await self._log.append(connection, entry, grant_digest)
            # 3; an end of the grant always has its place
            if is_new and before >= most and entry.subject not in ending_subjects(grant_digest):
                raise FullLogError("the grant has as many log entries as a search can need, or the draft its one")
        await self._log.publish()
        self._bell.ring()
        return position, is_new

    async def in_force(self, connection: Transaction, grant_digest: bytes, now: datetime) -> RoutedGrant:
        """The grant, if messages may be sent under it now:

        1. it stands in the log (`UnknownGrantError`)
        2. it has begun and not expired (`GrantNotYetValidError`, `GrantExpiredError`)
        3. no entry of the log ends it (`RevokedError`)
        """
        grant = await self.find(connection, grant_digest)  # 1
        if now < grant.not_before:  # 2
            raise GrantNotYetValidError("grant is not valid yet")
        if now >= grant.expires:
            raise GrantExpiredError("grant has expired")
        ends = select(leaves.c.position).where(leaves.c.subject.in_(ending_subjects(grant_digest))).limit(1)
        if (await connection.execute(ends)).scalar() is not None:  # 3
            raise RevokedError("the log holds a revocation or lapse of this grant")
        return grant

    async def _is_known(self, connection: Transaction, grant_digest: bytes) -> bool:
        return (await connection.execute(select(grants.c.digest).where(grants.c.digest == grant_digest))).one_or_none() is not None

    async def find(self, connection: Transaction, grant_digest: bytes) -> RoutedGrant:
        """The grant of that digest, in force or not; `UnknownGrantError` if none stands in the log."""
        row = (await connection.execute(select(grants).where(grants.c.digest == grant_digest))).one_or_none()
        if row is None:
            raise UnknownGrantError("no such grant stands in the log")
        return RoutedGrant(
            digest=bytes(row.digest),
            search_id=SearchId(row.search_id),
            requesting_agency=AgencyId(row.requesting_agency),
            originating_agency=AgencyId(row.originating_agency),
            holders=_agencies(row.holders),
            custodians=_agencies(row.custodians),
            combiner=AgencyId(row.combiner),
            not_before=moment_of(row.not_before),
            expires=moment_of(row.expires),
        )

    async def _entered_before(self, connection: Transaction, verified: VerifiedTerms, entry: LogEntry) -> int | None:
        unique = ("digest", "grant_id", "search_id", "probe_digest", "face_commit")
        values = _values(verified)
        same = or_(*(grants.c[name] == values[name] for name in unique))
        wanted = (
            select(grants.c.digest, leaves.c.leaf_hash, leaves.c.position).join(leaves, leaves.c.position == grants.c.position).where(same)
        )
        rows = (await connection.execute(wanted)).all()
        if not rows:
            return None
        if len(rows) == 1 and bytes(rows[0].digest) == verified.digest and bytes(rows[0].leaf_hash) == entry.leaf_hash():
            return int(rows[0].position)
        raise ReplayedGrantError("grant, search, probe or face was entered before")


def _values(verified: VerifiedTerms) -> dict[str, object]:
    terms = verified.terms
    return {
        "digest": verified.digest,
        "grant_id": str(terms.grant_id),
        "search_id": str(terms.search_id),
        "probe_digest": terms.probe_digest,
        "face_commit": terms.face_commit,
        "requesting_agency": str(terms.requesting_agency),
        "originating_agency": str(terms.originating_agency),
        "holders": _text(terms.holders),
        "custodians": _text(terms.custodians),
        "combiner": str(terms.combiner),
        "not_before": milliseconds(terms.not_before),
        "expires": milliseconds(terms.expires),
    }


def _text(agencies: Sequence[AgencyId]) -> str:
    return " ".join(agencies)


def _agencies(text: str) -> tuple[AgencyId, ...]:
    return tuple(AgencyId(name) for name in text.split())
