"""The whole public log, verified by anybody: every leaf hashed into the root that the log signed and witnesses cosigned.

Needs the roster for the keys and the broker for the bytes; trusts the first and checks the second. Invariants: a leaf that cannot be read
is an error, not a gap; a head that does not continue the one that was seen before is a fork.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from agency_node.link import BrokerLink
from crypto.checkpoint import SignedCheckpoint, check_continues, check_log_signature
from crypto.entries import LogEntry
from crypto.errors import MirrorError, WitnessError
from crypto.mirror import LogMirror
from crypto.roster import Roster
from crypto.witness import CheckpointPolicy, check_checkpoint


@dataclass(frozen=True)
class LogReport:
    """What was verified."""

    origin: str
    size: int
    root: str
    witnesses: int
    kinds: dict[str, int]
    days: dict[str, int]


async def verify_log(
    link: BrokerLink,
    roster: Roster,
    now: datetime,
    *,
    seen: SignedCheckpoint | None = None,
    each: Callable[[LogEntry], object] = lambda entry: None,
) -> LogReport:
    """Read the log to its newest cosigned head and check it, in this order:

    1. the head bears the log's signature (`CheckpointError`)
    2. fresh cosignatures of at least two agencies other than the log's operator (`WitnessError`, `StaleCheckpointError`)
    3. all leaves parse, and hash to the head's root (`EncodingError`, `MirrorError`)
    4. it continues `seen`, a head that was verified earlier (`ConsistencyError`)

    `each` is told every entry in order; it is verified when this returns.
    """
    note = await link.checkpoint(cosignatures=2, wait_s=10)
    if note is None:
        raise WitnessError("the log has no head with two cosignatures: check that the federation's witnesses run, and ask again")
    check_log_signature(note, roster.log)  # 1
    witnesses = roster.witness_keys()
    policy = CheckpointPolicy(roster.log, witnesses, frozenset([roster.log_operator]), frozenset(one.agency for one in witnesses))
    check_checkpoint(note, policy, now=now)  # 2
    mirror, kinds, days = LogMirror(), Counter[str](), Counter[str]()
    while mirror.tree.size < note.checkpoint.size:  # 3
        _, leaves = await link.leaves(mirror.tree.size)
        if not leaves:
            raise MirrorError("the broker hands out fewer leaves than its head has")
        for leaf in leaves[: note.checkpoint.size - mirror.tree.size]:
            entry = mirror.append(leaf)
            each(entry)
            kinds[entry.kind.value] += 1
            days[entry.day.isoformat()] += 1
    mirror.check_at(note.checkpoint)
    if seen is not None and seen.checkpoint.size <= note.checkpoint.size:  # 4
        check_continues(seen.checkpoint, note.checkpoint, mirror.tree.consistency_proof(seen.checkpoint.size, note.checkpoint.size))
    cosigned = len({line.name for line in note.signatures} & {one.name for one in witnesses})
    return LogReport(
        note.checkpoint.origin,
        note.checkpoint.size,
        note.checkpoint.root.hex(),
        cosigned,
        dict(sorted(kinds.items())),
        dict(sorted(days.items())),
    )
