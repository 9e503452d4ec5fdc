"""Watching the public log from outside: what is overdue, missing, false or forked, in one sentence each.

For an oversight body on a machine of its own. It needs the roster for the keys and the broker for the bytes, and remembers what it read
(`monitor_folder`): a log that takes back what it once showed is caught by whoever still has it. Invariants: a finding never stops the
looking where more can be looked at; nothing that was not verified is remembered; what was remembered is never replaced by what contradicts
it, and the two signed heads are kept.

The leaves cannot be linked to one another, so order and number are what tells: a release stands behind a grant, and there are never more of
them. Who opened nothing is told by kind and day, not by name: the name is what is not open.

Left to others: the files (`monitor_folder`), words and exit code (`commands.log_watching`), what only a party's own ledger shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from agency_node.errors import BrokerError
from agency_node.follower import bare_head
from agency_node.link import MAX_LEAVES
from agency_node.log_openings import check_opened
from agency_node.monitor_folder import Remembered, keep_evidence, recall, remember
from agency_node.replies import OpenedField
from crypto.checkpoint import SignedCheckpoint, check_log_signature
from crypto.entries import EntryKind, FieldType, LogEntry
from crypto.entry_openings import BASIS, check_form, opened_types
from crypto.errors import CheckpointError, CommitmentError, EncodingError, PeerError, StaleCheckpointError, WitnessError
from crypto.grant_basis import BasisKind
from crypto.moments import utc_day
from crypto.roster import Roster
from crypto.witness import check_checkpoint

DELAY: Final = timedelta(days=30)
"""The packs' delay before an opening, where they say nothing else."""
GRACE: Final = timedelta(days=3)
"""A node that was away opens when it is back."""
LONGEST_EXIGENT: Final = timedelta(hours=168)
"""The longest clock of an exigent grant that a pack may set (R4)."""
_COSIGNED_WAIT_S: Final = 10
_NAMED: Final = 5
"""Leaves that a sentence names by their number; of more it says how many."""
BEHIND: Final[Mapping[EntryKind, EntryKind]] = MappingProxyType(
    {
        EntryKind.RELEASE: EntryKind.GRANT,
        EntryKind.LAPSE: EntryKind.GRANT,
        EntryKind.RATIFICATION: EntryKind.GRANT,
        EntryKind.OPENED_SCORES: EntryKind.ANSWER,
    }
)
"""Each entry of the first kind stands behind one of the second, which is its own."""
NEWS: Final = (EntryKind.PACK_CHANGE, EntryKind.ROSTER_CHANGE)
"""Kinds of which every new entry is told."""
_ENDS: Final = (EntryKind.RATIFICATION, EntryKind.LAPSE, EntryKind.REVOCATION)


class WatchedLink(Protocol):
    """What the monitor asks of the broker."""

    async def checkpoint(self, min_size: int = 0, cosignatures: int = 0, wait_s: int = 0) -> SignedCheckpoint | None: ...
    async def leaves(self, start: int, limit: int = MAX_LEAVES) -> tuple[int, list[bytes]]: ...
    async def openings(self, first: int, limit: int = MAX_LEAVES) -> tuple[int, list[OpenedField]]: ...


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a short name for programs, a sentence for people."""

    name: str
    says: str


@dataclass
class Watch:
    """What one run found. `news` are sentences about changes that are not wrong."""

    origin: str
    size: int = 0
    new_entries: int = 0
    opened: int = 0
    findings: list[Finding] = field(default_factory=list)
    news: list[str] = field(default_factory=list)

    def add(self, name: str, says: str) -> None:
        """One finding more."""
        self.findings.append(Finding(name, says))


async def watch_log(
    link: WatchedLink, roster: Roster, folder: Path, now: datetime, *, delay: timedelta = DELAY, grace: timedelta = GRACE
) -> Watch:
    """Look once, and remember what was verified. In this order:

    1. the roster is in force, and no older than at the last run
    2. there is a head with fresh cosignatures of two agencies other than the log's operator
    3. the newest head bears the log's signature, is no shorter than the last one, and all leaves up to it hash to its root
    4. every opened field is one that its leaf commits to; none was taken away since
    5. every entry has its kind's form, stands behind what it follows from, and is open when its time has come
    6. exigent grants that were opened have ended one way or the other

    `StoreError` when the folder cannot be read or written.
    """
    known = recall(folder)
    watch = Watch(roster.log.origin, len(known.entries), opened=len(known.openings))
    first_leaf, first_opening = len(known.entries), len(known.openings)
    _look_at_roster(watch, roster, known, now)  # 1
    leaves: list[bytes] | None = None
    try:
        cosigned = await _cosigned(watch, link, roster, now)  # 2
        newest = await link.checkpoint()
        heads = [head for head in (cosigned, newest) if head is not None]
        leaves = await _read_leaves(watch, link, roster, known, heads, folder)  # 3
        if leaves is not None:
            await _read_openings(watch, link, known)  # 4
    except BrokerError as error:
        watch.add("broker-failed", f"The broker could not be asked: {error}")
    except PeerError as error:
        watch.add("reply-unreadable", f"What the broker answered cannot be read: {error}")
    _look_at_entries(watch, known, now, delay + grace)  # 5
    _look_at_exigent(watch, known, utc_day(now) - LONGEST_EXIGENT - grace)  # 6
    watch.size, watch.opened = len(known.entries), len(known.openings)
    watch.new_entries = len(known.entries) - first_leaf
    _tell_news(watch, known, first_leaf)
    known.roster_version = max(known.roster_version, roster.version)
    remember(folder, known, leaves or [], len(known.openings) - first_opening)
    return watch


def _look_at_roster(watch: Watch, roster: Roster, known: Remembered, now: datetime) -> None:
    if now >= roster.expires:
        watch.add("roster-expired", "The roster has expired: nodes decide nothing under it until the root holders have signed another one")
    if roster.version < known.roster_version:
        watch.add("roster-older", f"The roster is of version {roster.version}, and version {known.roster_version} was seen here before")
    if 0 < known.roster_version < roster.version:
        watch.news.append(f"the roster is of version {roster.version}, it was {known.roster_version} at the last run")


async def _cosigned(watch: Watch, link: WatchedLink, roster: Roster, now: datetime) -> SignedCheckpoint | None:
    """The newest head with cosignatures, for the fork check, whether or not they are enough."""
    policy = roster.public_policy()
    note = await link.checkpoint(cosignatures=policy.least_lines, wait_s=_COSIGNED_WAIT_S)
    if note is None:
        watch.add("cosignatures-missing", "No head has cosignatures of a majority of the witnesses: check that they run")
        return None
    try:
        check_checkpoint(note, policy, now=now)
    except StaleCheckpointError:
        watch.add(
            "cosignatures-stale",
            "The witnesses' last cosignatures are older than ten minutes: nodes act on nothing until there are newer ones",
        )
    except WitnessError as error:
        watch.add("cosignatures-missing", f"The cosignatures of the newest cosigned head do not count: {error}")
    except CheckpointError as error:
        watch.add("head-not-signed", f"The cosigned head that the broker shows is not the log's: {error}")
        return None
    return note


def _newest(watch: Watch, roster: Roster, known: Remembered, heads: list[SignedCheckpoint], folder: Path) -> SignedCheckpoint | None:
    """The larger head, if the log signed both and did not shrink."""
    if not heads:
        watch.add("head-missing", "The broker shows no head of the log")
        return None
    try:
        for head in heads:
            check_log_signature(head, roster.log)
    except CheckpointError as error:
        watch.add("head-not-signed", f"The head that the broker shows is not the log's: {error}")
        return None
    newest, held = max(heads, key=lambda head: head.checkpoint.size), known.note
    if held is not None and newest.checkpoint.size < held.checkpoint.size:
        keep_evidence(folder, held, newest)
        size, before = newest.checkpoint.size, held.checkpoint.size
        watch.add("log-shrunken", f"The log shows {size} entries, and {before} were read here before: keep the folder, it is evidence")
        return None
    return newest


async def _read_leaves(
    watch: Watch, link: WatchedLink, roster: Roster, known: Remembered, heads: list[SignedCheckpoint], folder: Path
) -> list[bytes] | None:
    """The new leaves, when all heads continue what is known, which is then read up to the newest; else None."""
    newest = _newest(watch, roster, known, heads, folder)
    if newest is None:
        return None
    mirror, size = known.mirror, newest.checkpoint.size
    leaves: list[bytes] = []
    new: list[LogEntry] = []
    try:
        while mirror.tree.size < size:
            _, batch = await link.leaves(mirror.tree.size, min(MAX_LEAVES, size - mirror.tree.size))
            if not batch:
                watch.add("leaves-withheld", f"The broker hands out no leaf {mirror.tree.size}, and its head has {size}")
                return None
            for leaf in batch:
                new.append(mirror.append(leaf))
                leaves.append(leaf)
    except EncodingError as error:
        watch.add("leaf-unreadable", f"Leaf {mirror.tree.size} cannot be read: {error}")
        return None
    if any(mirror.tree.root(head.checkpoint.size) != head.checkpoint.root for head in heads):
        keep_evidence(folder, known.note or heads[0], newest)
        watch.add(
            "log-forked", "The log signed a head that its leaves, as they were read here, contradict: keep the folder, it is evidence"
        )
        return None
    known.entries += new
    known.note = bare_head(newest, roster.log)
    return leaves


async def _read_openings(watch: Watch, link: WatchedLink, known: Remembered) -> None:
    """Read the fields that are open, each verified; the first false one is told and ends the reading."""
    seen = {(one.position, one.opening.field_type) for one in known.openings}
    while True:
        total, fields = await link.openings(len(known.openings))
        if total < len(known.openings):
            watch.add("openings-withdrawn", f"The broker shows {total} opened fields, and {len(known.openings)} were read here before")
        if not fields:
            return
        for one in fields:
            try:
                check_opened(one, known.entries, seen)
            except (CommitmentError, EncodingError) as error:
                watch.add("opening-false", f"What the broker shows as opened is not what the log commits to: {error}")
                return
            known.openings.append(one)


def _look_at_entries(watch: Watch, known: Remembered, now: datetime, allowed: timedelta) -> None:
    opened: dict[int, set[FieldType]] = {}
    for one in known.openings:
        opened.setdefault(one.position, set()).add(one.opening.field_type)
    today = utc_day(now)
    late: dict[tuple[date, EntryKind], list[int]] = {}
    counts = Counter[EntryKind]()
    for position, entry in enumerate(known.entries):
        try:
            check_form(entry)
        except CommitmentError as error:
            watch.add("entry-form", f"Leaf {position} has another form than its kind: {error}")
        counts[entry.kind] += 1
        before = BEHIND.get(entry.kind)
        if before is not None and counts[entry.kind] > counts[before]:
            missing = counts[entry.kind] - counts[before]
            counts[entry.kind] -= missing  # told once
            watch.add(
                f"{entry.kind.value}-without-{before.value}", f"Leaf {position} is a {entry.kind.value}, with no {before.value} before it"
            )
        if entry.day + allowed < today and not set(opened_types(entry.kind)) <= opened.get(position, set()):
            late.setdefault((entry.day, entry.kind), []).append(position)
    for (day, kind), positions in sorted(late.items()):
        days = (today - day - allowed).days
        watch.add(
            "opening-overdue",
            f"{len(positions)} {kind.value} {'entry is' if len(positions) == 1 else 'entries are'} not opened, of {day}, "
            f"{days} {'day' if days == 1 else 'days'} late: {_leaves(positions)}",
        )


def _look_at_exigent(watch: Watch, known: Remembered, before: date) -> None:
    """Opened exigent grants of a day earlier than `before` have ended, all of them."""
    exigent = BasisKind.EXIGENT.value.encode("ascii")
    old = [
        one.position
        for one in known.openings
        if one.opening.field_type == BASIS and one.opening.value == exigent and known.entries[one.position].day < before
    ]
    ended = sum(entry.kind in _ENDS for entry in known.entries)
    if len(old) > ended:
        watch.add(
            "exigent-not-ended",
            f"{len(old)} opened grants were exigent and are past the longest clock, and the log has {ended} ratifications, lapses and "
            f"revocations together: ask what became of the others ({_leaves(old)})",
        )


def _tell_news(watch: Watch, known: Remembered, first: int) -> None:
    for position, entry in enumerate(known.entries[first:], first):
        if entry.kind in NEWS:
            watch.news.append(f"a {entry.kind.value} was entered on {entry.day}: leaf {position}")


def _leaves(positions: list[int]) -> str:
    return ", ".join(_named(positions))


def _named(positions: list[int]) -> Iterator[str]:
    yield from (f"leaf {position}" for position in positions[:_NAMED])
    if len(positions) > _NAMED:
        yield f"{len(positions) - _NAMED} more"
