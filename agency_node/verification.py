"""The whole public log, verified by anybody: every leaf hashed into the root that the log signed and a majority of witnesses cosigned.

Needs the roster for the keys and the broker, or a bundle of files (`log_bundle`), for the bytes; trusts the first and checks the second.
Invariants: a leaf that cannot be read is an error, not a gap; a head that does not continue one that was seen before is a fork; no figure
is told of a log of which a check failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from agency_node.errors import RequestError
from agency_node.link import BrokerLink
from crypto.checkpoint import SignedCheckpoint, check_continues, check_log_signature
from crypto.entries import EntryKind, LogEntry
from crypto.errors import InclusionError, MirrorError, WitnessError
from crypto.ledger import MerkleTree, leaf_hash
from crypto.log_evidence import LogEvidence, check_evidence
from crypto.log_index import LogIndex
from crypto.roster import Roster
from crypto.roster_change import roster_subject
from crypto.witness import check_checkpoint, cosigned_at

WAIT_S = 10
"""How long a head that counts is waited for."""


@dataclass
class ReadLog:
    """Leaves of a log from the first on, as data, as a tree and as an index."""

    leaves: list[bytes] = field(default_factory=list, repr=False)
    tree: MerkleTree = field(default_factory=MerkleTree, repr=False)
    index: LogIndex = field(default_factory=LogIndex, repr=False)
    kinds: Counter[str] = field(default_factory=Counter)
    days: Counter[str] = field(default_factory=Counter)
    rosters: list[tuple[int, LogEntry]] = field(default_factory=list, repr=False)
    """Entries of rosters, with their positions."""

    def append(self, data: bytes) -> LogEntry:
        """Read the next leaf; an `EncodingError` or `EntryOrderError` for one that cannot stand there."""
        entry = LogEntry.from_bytes(data)
        self.index.append(entry)
        if entry.kind is EntryKind.ROSTER_CHANGE:
            self.rosters.append((self.tree.size, entry))
        self.tree.append(leaf_hash(data))
        self.leaves.append(data)
        self.kinds[entry.kind.value] += 1
        self.days[entry.day.isoformat()] += 1
        return entry


@dataclass(frozen=True)
class LoggedRoster:
    """A roster that was entered: where, on which day, and its version if it is the one that the log was verified with.

    Of another the log says no more than that it is there; whoever has it recognises it.
    """

    position: int
    day: date
    version: int | None


@dataclass(frozen=True)
class LogReport:
    """What was verified."""

    origin: str
    size: int
    root: str
    witnesses: int
    cosigned_at: str
    kinds: dict[str, int]
    days: dict[str, int]
    rosters: tuple[LoggedRoster, ...]
    acts: int
    """Of a party, whose entries were found."""

    @property
    def roster_is_last(self) -> bool:
        """Whether the roster that the log was verified with is the last one in it: nodes act under no other."""
        return bool(self.rosters) and self.rosters[-1].version is not None


async def verify_log(
    link: BrokerLink,
    roster: Roster,
    now: datetime,
    *,
    seen: Sequence[SignedCheckpoint] = (),
    evidence: LogEvidence | None = None,
    each: Callable[[LogEntry], object] = lambda entry: None,
) -> LogReport:
    """Read the log to its newest head that counts (`read_log`) and check it (`check_log`), and then that the heads that were seen and are
    beyond it continue it, by the broker's proofs (`ConsistencyError`). `each` is told every entry in order; it is verified when this
    returns."""
    note, read = await read_log(link, roster, now, each)
    size = note.checkpoint.size
    report = check_log(note, read, roster, [one for one in seen if one.checkpoint.size <= size], evidence)
    for one in seen:
        if one.checkpoint.size > size:
            check_log_signature(one, roster.log)
            check_continues(note.checkpoint, one.checkpoint, await link.consistency(size, one.checkpoint.size))
    return report


async def read_log(
    link: BrokerLink, roster: Roster, now: datetime, each: Callable[[LogEntry], object] = lambda entry: None
) -> tuple[SignedCheckpoint, ReadLog]:
    """The newest head that counts for a reader of the whole log now, and the leaves under it, in this order:

    1. it bears the log's signature (`CheckpointError`)
    2. fresh cosignatures of a majority of the roster's witnesses, the log operator's left out (`WitnessError`, `StaleCheckpointError`)
    3. every leaf that the broker hands out parses (`EncodingError`) and can stand in its place (`EntryOrderError`); they are as many as the
       head says (`MirrorError`)
    """
    policy = roster.public_policy()
    note = await link.checkpoint(cosignatures=policy.least_lines, wait_s=WAIT_S)
    if note is None:
        raise WitnessError("the log has no head that a majority of the witnesses cosigned: check that they run, and ask again")
    check_checkpoint(note, policy, now=now)  # 1, 2
    read = ReadLog()
    while read.tree.size < note.checkpoint.size:  # 3
        _, leaves = await link.leaves(read.tree.size)
        if not leaves:
            raise MirrorError("the broker hands out fewer leaves than its head has")
        for leaf in leaves[: note.checkpoint.size - read.tree.size]:
            each(read.append(leaf))
    return note, read


def check_log(
    note: SignedCheckpoint, read: ReadLog, roster: Roster, seen: Sequence[SignedCheckpoint] = (), evidence: LogEvidence | None = None
) -> LogReport:
    """What the leaves under a head that counts show, after these checks in this order:

    1. the leaves hash to the head's root: each of them is included in it (`InclusionError`)
    2. it continues every head in `seen`, which the log signed and which has no more entries (`ConsistencyError`, `CheckpointError`)
    3. every act of the evidence has its entry (`check_evidence`)
    """
    head, tree = note.checkpoint, read.tree
    if (tree.size, tree.root()) != (head.size, head.root):  # 1
        raise InclusionError("the leaves are not those under the checkpoint's root")
    for one in seen:  # 2
        check_log_signature(one, roster.log)
        if one.checkpoint.size > head.size:
            raise RequestError(
                f"the checkpoint that was seen has {one.checkpoint.size} entries and this log {head.size}: export the log anew, up to it"
            )
        check_continues(one.checkpoint, head, tree.consistency_proof(one.checkpoint.size))
    if evidence is not None:  # 3
        check_evidence(evidence, read.index)
    return LogReport(
        head.origin,
        head.size,
        head.root.hex(),
        sum(cosigned_at(note, witness) is not None for witness in roster.witness_keys()),
        last_cosigned(note, roster).isoformat(),
        dict(sorted(read.kinds.items())),
        dict(sorted(read.days.items())),
        _logged(read, roster),
        0 if evidence is None else sum(act.count for act in evidence.acts),
    )


def _logged(read: ReadLog, roster: Roster) -> tuple[LoggedRoster, ...]:
    own = roster_subject(roster.digest)
    return tuple(LoggedRoster(position, entry.day, roster.version if entry.subject == own else None) for position, entry in read.rosters)


def last_cosigned(note: SignedCheckpoint, roster: Roster) -> datetime:
    """The moment of the newest cosignature of the roster's witnesses; `WitnessError` when there is none, or one that does not verify."""
    moments = [moment for witness in roster.witness_keys() if (moment := cosigned_at(note, witness)) is not None]
    if not moments:
        raise WitnessError("checkpoint has no cosignature of a witness of the roster")
    return datetime.fromtimestamp(max(moments), UTC)
