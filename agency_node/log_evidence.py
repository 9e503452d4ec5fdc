"""A node's own acts as evidence for the log (`crypto.log_evidence`): what it sent to others and what it was given, by grant.

Read from what left and what came, never from the entries that were queued for the log: an act without its entry is what the evidence is
for. Invariant: nothing but grant digests, kinds, holders' ids and counts leaves the store.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from agency_node.errors import RequestError
from agency_node.outbox import ENTRY, GRANT, MESSAGE, READY, SENT
from agency_node.tables import disclosures, log_leaves, outbox, searches
from crypto.canonical import AgencyId
from crypto.disclosure import DisclosureOutcome
from crypto.entries import EntryKind
from crypto.log_evidence import LogEvidence, ShownAct
from crypto.message_types import MessageType
from crypto.moments import round_moment

_GRANT_STOOD: Final = (
    MessageType.PROBE,
    MessageType.OPENED_SCORES,
    MessageType.ANSWER,
    MessageType.MASK_SHARE,
    MessageType.MASK_HANDOVER,
)
"""Sent only when the log held the grant."""
_RELEASE_STOOD: Final = (MessageType.HOLDER_RELEASE, MessageType.REQUESTER_RELEASE, MessageType.STUBS)
"""Sent only when the log held the release too."""
_OWN: Final = {MessageType.ANSWER: EntryKind.ANSWER, MessageType.DISCLOSURE: EntryKind.DISCLOSURE}

_Counts = Counter[tuple[bytes, EntryKind, AgencyId | None]]


def copied_size(engine: Engine) -> int:
    """Entries in the node's own copy of the log."""
    with engine.begin() as connection:
        return int(connection.execute(select(func.count()).select_from(log_leaves)).scalar_one())


def collect_acts(engine: Engine, agency: AgencyId) -> tuple[ShownAct, ...]:
    """Everything that this node did or was given under grants; `RequestError` while an entry of its own waits to be sent."""
    with engine.begin() as connection:
        waiting = select(outbox.c.number).where(outbox.c.state == READY, outbox.c.kind.in_([ENTRY, GRANT])).limit(1)
        if connection.execute(waiting).first() is not None:
            raise RequestError("entries of the log wait to be sent: let the node run until they have left, and ask again")
        counts = _sent(connection, agency)
        _received(connection, counts)
    acts = [ShownAct(digest, kind, author, count) for (digest, kind, author), count in counts.items()]
    return tuple(sorted(acts, key=lambda act: act.place))


def evidence_of(engine: Engine, agency: AgencyId, now: datetime, log_before: int, log_after: int) -> LogEvidence:
    """The node's evidence: the log had at least `log_before` entries before the store is read, and `log_after` afterwards."""
    return LogEvidence(agency, round_moment(now), log_before, log_after, collect_acts(engine, agency))


def _sent(connection: Connection, agency: AgencyId) -> _Counts:
    counts: _Counts = Counter()
    rows = connection.execute(
        select(outbox.c.grant_digest, outbox.c.kind, outbox.c.name, func.count())
        .where(outbox.c.state == SENT)
        .group_by(outbox.c.grant_digest, outbox.c.kind, outbox.c.name)
    )
    for digest, kind, name, count in rows:
        if kind == MESSAGE and name in _GRANT_STOOD:
            counts[digest, EntryKind.GRANT, None] = 1
        if kind == MESSAGE and name in _RELEASE_STOOD:
            counts[digest, EntryKind.RELEASE, None] = 1
        own = _OWN.get(MessageType(name)) if kind == MESSAGE else EntryKind(name) if kind == ENTRY else None
        if own is not None and own in _OWN.values():  # a message may wait longer than its entry, or be refused: the larger number counts
            place = (digest, own, agency)
            counts[place] = max(counts[place], count)
    return counts


def _received(connection: Connection, counts: _Counts) -> None:
    """A release that came to a requester, and what holders answered to its requests for photographs."""
    released = select(searches.c.grant_digest).where(searches.c.sealed_release.is_not(None))
    for digest in connection.execute(released).scalars():
        counts[digest, EntryKind.RELEASE, None] = 1
    answered = (
        select(searches.c.grant_digest, disclosures.c.holder, func.count())
        .join(searches, searches.c.search_id == disclosures.c.search_id)
        .where(disclosures.c.outcome.in_([outcome.name.lower() for outcome in DisclosureOutcome]))
        .group_by(searches.c.grant_digest, disclosures.c.holder)
    )
    for digest, holder, count in connection.execute(answered):
        counts[digest, EntryKind.DISCLOSURE, AgencyId(holder)] = count
