"""What `sealmatch bench search` found, and its JSON, whose keys stay.

benchmark, date, machine          "search"; when; on what
records, dimensions, holders, runs, seed, checked
                                  `records` are one holder's; `checked` is true: each run's first lead was the record sought
uplink_mbit, delay_ms             each party's line, both directions; null and 0 for direct connections on this machine
search_s                          median seconds from the approved grant to the leads
search                            min_s, median_s, max_s, runs
steps                             in order: name, median_s, share (of all steps' medians), bytes (of the messages that travel in it)
bytes                             of all messages of a search, each counted once, median over the runs
bytes_per_record                  the same over `records` times `holders`
log_bytes                         of the search's leaves in the public log, which every party reads
parties                           by agency: role, sent, received (bytes of messages), wire_sent, wire_received (all bytes on its line,
                                  HTTP and the log with it; null for direct connections), peak_memory_bytes of its process
faiss_s, faiss, faiss_setup       FAISS in the clear, float32, in its fastest set-up, over all holders' records; null with --no-faiss
ratio                             search_s over faiss_s
renewals                          runs, counted from 0, in which a holder drew and packed a new layout
peak_memory_bytes                 all processes together, each at its own peak
enrol_s, start_s                  what came before: enrolment of all records, start of all parties until they were ready
each                              every run: seconds, steps, faiss_s, renewed
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from agency_node.bench.link_proxy import Count
from agency_node.bench.machine import Machine
from agency_node.bench.moments import STEPS, Message
from agency_node.bench.timing import Timing


@dataclass(frozen=True)
class SearchPlan:
    """What to measure; `records` for each holder."""

    records: int
    dimensions: int
    holders: int
    runs: int
    threads: int
    seed: int = 1
    with_faiss: bool = True
    uplink_mbit: float | None = None
    delay_ms: float = 0.0

    @property
    def is_direct(self) -> bool:
        """Whether no relay stands between the parties."""
        return self.uplink_mbit is None and self.delay_ms == 0


@dataclass(frozen=True)
class Run:
    """One search that counts: seconds in all and by step, what travelled, FAISS's seconds for the same record."""

    seconds: float
    steps: tuple[float, ...]
    messages: tuple[Message, ...]
    log_bytes: int
    renewed: bool
    wire: Mapping[str, Count]
    faiss_s: float | None = None

    def bytes_of(self, kinds: tuple[str, ...]) -> int:
        """Bytes of the messages of these kinds."""
        return sum(one.size for one in self.messages if one.kind in kinds)


@dataclass(frozen=True)
class PartyResult:
    """One party's share: medians over the runs."""

    role: str
    sent: float
    received: float
    wire_sent: float | None
    wire_received: float | None
    peak_memory_bytes: int


@dataclass(frozen=True)
class SearchResult:
    """Everything that one call measured."""

    plan: SearchPlan
    date: datetime
    machine: Machine
    runs: tuple[Run, ...]
    roles: Mapping[str, str]
    peaks: Mapping[str, int]
    faiss_setup: str | None
    enrol_s: float
    start_s: float

    @property
    def search(self) -> Timing:
        """Seconds of every run."""
        return Timing(tuple(run.seconds for run in self.runs))

    @property
    def faiss(self) -> Timing | None:
        """FAISS's seconds of every run."""
        seconds = tuple(run.faiss_s for run in self.runs if run.faiss_s is not None)
        return Timing(seconds) if seconds else None

    @property
    def ratio(self) -> float | None:
        """Our median over that of FAISS."""
        return None if self.faiss is None else self.search.median / self.faiss.median

    @property
    def step_medians(self) -> tuple[float, ...]:
        """Median seconds of each step."""
        return tuple(statistics.median(run.steps[place] for run in self.runs) for place in range(len(STEPS)))

    @property
    def step_bytes(self) -> tuple[float, ...]:
        """Median bytes of the messages of each step."""
        return tuple(statistics.median(run.bytes_of(step.messages) for run in self.runs) for step in STEPS)

    @property
    def message_bytes(self) -> float:
        """Median bytes of all messages of a search."""
        return statistics.median(sum(one.size for one in run.messages) for run in self.runs)

    @property
    def parties(self) -> dict[str, PartyResult]:
        """Every party, the broker too, by name."""
        return {name: self._party(name, role) for name, role in self.roles.items()}

    def _party(self, name: str, role: str) -> PartyResult:
        carries = role == "broker"  # whatever anybody sends comes in there, and goes out again
        sent = statistics.median(sum(one.size for one in run.messages if carries or one.sender == name) for run in self.runs)
        received = statistics.median(sum(one.size for one in run.messages if carries or one.recipient == name) for run in self.runs)
        wire = [run.wire[name] for run in self.runs if name in run.wire]
        return PartyResult(
            role,
            sent,
            received,
            statistics.median(one.sent for one in wire) if wire else None,
            statistics.median(one.received for one in wire) if wire else None,
            self.peaks[name],
        )

    def as_json(self) -> dict[str, object]:
        """For programs: one object, as the module says."""
        plan, faiss = self.plan, self.faiss
        whole = sum(self.step_medians)
        return {
            "benchmark": "search",
            "date": self.date.isoformat(timespec="seconds"),
            "records": plan.records,
            "dimensions": plan.dimensions,
            "holders": plan.holders,
            "runs": plan.runs,
            "seed": plan.seed,
            "checked": True,
            "uplink_mbit": plan.uplink_mbit,
            "delay_ms": plan.delay_ms,
            "search_s": self.search.median,
            "search": self.search.as_json(),
            "steps": [
                {"name": step.name, "median_s": seconds, "share": seconds / whole, "bytes": size}
                for step, seconds, size in zip(STEPS, self.step_medians, self.step_bytes, strict=True)
            ],
            "bytes": self.message_bytes,
            "bytes_per_record": self.message_bytes / (plan.records * plan.holders),
            "log_bytes": statistics.median(run.log_bytes for run in self.runs),
            "parties": {name: asdict(one) for name, one in self.parties.items()},
            "faiss_s": None if faiss is None else faiss.median,
            "faiss": None if faiss is None else faiss.as_json(),
            "faiss_setup": self.faiss_setup,
            "ratio": self.ratio,
            "renewals": [number for number, run in enumerate(self.runs) if run.renewed],
            "peak_memory_bytes": sum(self.peaks.values()),
            "enrol_s": self.enrol_s,
            "start_s": self.start_s,
            "each": [{"seconds": run.seconds, "steps": run.steps, "faiss_s": run.faiss_s, "renewed": run.renewed} for run in self.runs],
            "machine": asdict(self.machine),
        }
