"""When each step of a search ended, and how many bytes it moved, read from the parties' own stores after the search.

Every party writes moments for itself: ledger and inbox of a node to the hundredth of a second, the broker to the millisecond. All parties
of a benchmark run on one machine, so their clocks are one. Invariants: the stores are opened for reading only and in no transaction that
keeps a writer waiting; nothing is read but moments, ids, kinds and lengths; where several holders answer, a step ends with the last of
them.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agency_node.bench.errors import WrongResultError

BROKER = "broker"


@dataclass(frozen=True)
class Step:
    """One step: its name for people, who ends it, the statement that gives the moment, and the messages that travel in it."""

    name: str
    ends_at: str
    query: str
    messages: tuple[str, ...] = ()


_LEDGER = "SELECT max(at) FROM ledger WHERE search_id = :search AND event = '{}'"
_RECEIVED = "SELECT max(received_at) FROM inbox WHERE search_id = :search AND message_type = '{}'"

STEPS = (
    Step("grant into the log and cosigned", "requester", _LEDGER.format("sent")),
    Step("probe and grant to the holder", "holder", "SELECT max(claimed_at) FROM answers WHERE search_id = :search", ("grant", "probe")),
    Step("holder's scan and answer", "holder", _LEDGER.format("queued answer")),
    Step("answer to the requester", "requester", _RECEIVED.format("answer"), ("answer", "mask-share", "deletion-receipt")),
    Step("opening", "requester", _LEDGER.format("queued opened-scores"), ("revocation-query", "revocation-statement")),  # beside it
    Step("opened values to the custodian", "custodian", _RECEIVED.format("opened-scores"), ("opened-scores",)),
    Step("release", "custodian", _LEDGER.format("released")),
    Step(
        "release cosigned, and to the holder",
        "holder",
        _LEDGER.format("handled holder-release"),
        ("holder-release", "requester-release", "discovery-release"),
    ),
    Step("stubs and leads", "requester", "", ("stubs",)),
)
"""In order. The last one ends when the requester's store has the stubs, which the benchmark sees itself."""


@dataclass(frozen=True)
class Message:
    """One message that the broker carried: its kind, sender, recipient, length in bytes."""

    kind: str
    sender: str
    recipient: str
    size: int


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that can change nothing."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def step_seconds(stores: Mapping[str, Sequence[Path]], search_id: str, started: float, ended: float) -> tuple[float, ...]:
    """Seconds of each of `STEPS`, which add up to `ended - started`; both are seconds since 1970.

    `stores` gives the databases of the parties by role. `WrongResultError` when a party has no moment of a step.
    """
    moments = [started]
    for step in STEPS[:-1]:
        found = [_one(path, step.query, search_id) for path in stores[step.ends_at]]
        if not all(found):
            raise WrongResultError(f"no {step.ends_at} has noted when '{step.name}' ended: please report this as a bug")
        moments.append(max(datetime.fromisoformat(str(one)).timestamp() for one in found))
    moments.append(ended)
    for place in range(1, len(moments)):  # a ledger cuts moments to the hundredth, so that a step may seem to end before it began
        moments[place] = max(moments[place], moments[place - 1])
    return tuple(later - earlier for earlier, later in itertools.pairwise(moments))


def carried(broker: Path, search_id: str) -> list[Message]:
    """Every message of a search that the broker carried."""
    with closing(read_only(broker)) as connection:
        rows = connection.execute("SELECT message_type, sender, recipient, total_bytes FROM messages WHERE search_id = ?", (search_id,))
        return [Message(*row) for row in rows]


def log_bytes(broker: Path, search_id: str) -> int:
    """Bytes of the search's leaves in the public log until now."""
    query = "SELECT sum(length(entry)) FROM leaves JOIN grants ON leaves.grant_digest = grants.digest WHERE search_id = :search"
    return int(str(_one(broker, query, search_id)))


def layout_of(holder: Path, search_id: str) -> str:
    """Which layout of that holder answered."""
    return str(_one(holder, "SELECT layout_id FROM answers WHERE search_id = :search", search_id))


def _one(path: Path, query: str, search_id: str) -> object:
    with closing(read_only(path)) as connection:
        row = connection.execute(query, {"search": search_id}).fetchone()
    return None if row is None else row[0]
