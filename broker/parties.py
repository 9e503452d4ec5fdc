"""Who is who in a grant, which messages may pass between them, and which log entries each makes. Pure: facts in, refusal or nothing out.

The table of messages says which party sends to which (`message_types`); the grant says which agency is which party; the roster says whose
legal office is whose. Invariants: a message passes only between parties that both the table and the grant name; an entry's subject is
computed here and compared, never taken from the caller. Left to others: whether the grant is logged and in force (`grants`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from broker.errors import EntryError, RouteError
from crypto.canonical import AgencyId, SearchId
from crypto.entries import ENDING_KINDS, EntryKind, LogEntry, entry_subject
from crypto.frame import MessageHeader
from crypto.message_types import Party
from crypto.roster import Roster
from crypto.roster_entries import AgencyRole


@dataclass(frozen=True)
class RoutedGrant:
    """What the broker keeps of a grant: enough to route and to refuse, no person, no signature."""

    digest: bytes = field(repr=False)
    search_id: SearchId
    requesting_agency: AgencyId
    originating_agency: AgencyId
    holders: tuple[AgencyId, ...]
    custodians: tuple[AgencyId, ...]
    combiner: AgencyId
    not_before: datetime
    expires: datetime

    def offices(self, roster: Roster) -> frozenset[AgencyId]:
        """Legal offices of the requesting and the originating agency."""
        found = (_office_of(agency, roster) for agency in (self.requesting_agency, self.originating_agency))
        return frozenset(office for office in found if office is not None)

    def parties(self, roster: Roster) -> frozenset[AgencyId]:
        """Every agency that has a part in the search."""
        return self.offices(roster) | {self.requesting_agency, self.originating_agency, *self.holders, *self.custodians}

    def agencies_as(self, party: Party, roster: Roster) -> frozenset[AgencyId]:
        """The agencies that are this party in this search."""
        known: Mapping[Party, Iterable[AgencyId]] = {
            Party.REQUESTER: (self.requesting_agency,),
            Party.HOLDER: self.holders,
            Party.CUSTODIAN: self.custodians,
            Party.COMBINING_CUSTODIAN: (self.combiner,),
        }
        if party in known:
            return frozenset(known[party])
        if party is Party.ANYBODY:
            return self.parties(roster)
        if party is Party.LEGAL_OFFICE:
            return self.offices(roster)
        office = _office_of(self.requesting_agency, roster)  # the discovery key is the requesting agency's office's
        return frozenset() if office is None else frozenset({office})


def check_route(header: MessageHeader, grant: RoutedGrant | None, roster: Roster) -> None:
    """Raise `RouteError` unless the table and the grant let this sender write this message to this recipient.

    `grant` is None for a type that belongs to no search: those pass between agencies of the roster.
    """
    if header.sender == header.recipient:
        raise RouteError("a message goes to another party than its sender")
    spec = header.spec
    if grant is None:
        for agency in (header.sender, header.recipient):
            roster.agency(agency)
        return
    if header.search_id != grant.search_id:
        raise RouteError("the message names another search than its grant")
    if header.sender not in grant.agencies_as(spec.sender, roster):
        raise RouteError(f"the grant does not let this sender send a {spec.message_type}")
    if not any(header.recipient in grant.agencies_as(party, roster) for party in spec.recipients):
        raise RouteError(f"the grant does not let this recipient have a {spec.message_type}")


_AUTHORED: Final = (EntryKind.ANSWER, EntryKind.DISCLOSURE, EntryKind.REFUSAL, EntryKind.VIOLATION)
_MAKERS: Final[Mapping[EntryKind, tuple[Party, ...]]] = MappingProxyType(
    {
        EntryKind.ANSWER: (Party.HOLDER,),
        EntryKind.OPENED_SCORES: (Party.REQUESTER,),
        EntryKind.RELEASE: (Party.COMBINING_CUSTODIAN,),
        EntryKind.DISCLOSURE: (Party.HOLDER,),
        EntryKind.REFUSAL: (Party.ANYBODY,),
        EntryKind.VIOLATION: (Party.ANYBODY,),
        EntryKind.REVOCATION: (Party.LEGAL_OFFICE,),
        EntryKind.LAPSE: (Party.REQUESTER, Party.LEGAL_OFFICE),
        EntryKind.RATIFICATION: (Party.REQUESTER,),
    }
)
"""Who makes which entry about a grant: a lapse the requester's node, where the clock of an exigent grant runs (R4), or the office. The
grant's own entry comes with the grant; the other kinds are about no grant (`changes`, `expunctions`)."""


def check_entry(entry: LogEntry, grant: RoutedGrant, author: AgencyId, roster: Roster) -> None:
    """Raise `EntryError` unless `author` makes entries of this kind about this grant, and the subject is the one that follows from both."""
    makers = _MAKERS.get(entry.kind, ())
    if not any(author in grant.agencies_as(maker, roster) for maker in makers):
        raise EntryError(f"this party makes no entry of kind {entry.kind.value} about this grant")
    if entry.kind in _AUTHORED:
        subjects = {entry_subject(entry.kind, grant.digest, author)}
    elif entry.kind is EntryKind.OPENED_SCORES:  # about the answer of one holder
        subjects = {entry_subject(entry.kind, grant.digest, holder) for holder in grant.holders}
    else:
        subjects = {entry_subject(entry.kind, grant.digest)}
    if entry.subject not in subjects:
        raise EntryError("the entry's subject is not that of its kind, grant and author")


def is_refused_draft(entry: LogEntry, draft_digest: bytes, author: AgencyId, roster: Roster) -> bool:
    """Whether this says of a draft, which no grant came of, that legal staff of `author`, a requester, refused it. The digest is the
    draft's own, which is random to all others."""
    is_requester = AgencyRole.REQUESTER in roster.agency(author).roles
    return is_requester and entry.kind is EntryKind.REFUSAL and entry.subject == entry_subject(EntryKind.REFUSAL, draft_digest, author)


def ending_subjects(grant_digest: bytes) -> tuple[bytes, ...]:
    """Subjects of the entries that end the grant, wherever they stand."""
    return tuple(entry_subject(kind, grant_digest) for kind in ENDING_KINDS)


def _office_of(agency: AgencyId, roster: Roster) -> AgencyId | None:
    return roster.agency(agency).legal_office
