"""`sealmatch bench peers`: microseconds a record of several ways to score one encrypted probe, side by side in one run.

Each way takes the number of records that it can bear: ours and FAISS a gallery that no cache holds, the two of `seal_peers` fewer, and the
figure is the time divided by its own records. Invariants: all ways take turns in one run, once with each float32 set-up of FAISS, and the
run with the fastest set-up is the one reported; each way's scores are opened and compared with the vectors' inner products, within its own
precision, before it is timed. FAISS is no peer: it searches in the clear and stands there for scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from agency_node.bench.clear import ClearSetup, clear_setups, load_faiss
from agency_node.bench.errors import WrongResultError
from agency_node.bench.machine import Machine, peak_memory_bytes
from agency_node.bench.progress import Steps
from agency_node.bench.scan import ask, checked_scans, thread_counts
from agency_node.bench.seal_peers import TENSEAL_SLOTS, SealCoordinateFirst, TensealMatmul
from agency_node.bench.synthetic import BATCH, SyntheticRecords, pack_synthetic
from agency_node.bench.timing import Timing, alternate
from crypto.epoch import Epoch
from crypto.ring import F64

OURS = "Sealmatch scan"
MAX_TENSEAL_RECORDS = TENSEAL_SLOTS


@dataclass(frozen=True)
class PeersPlan:
    """What to measure: records of each way."""

    records: int
    seal_records: int
    tenseal_records: int
    dimensions: int
    runs: int
    threads: int
    seed: int = 1


@dataclass(frozen=True)
class PeerResult:
    """One way to score records."""

    name: str
    encrypted: bool
    records: int
    threads: int
    timing: Timing

    @property
    def us_per_record(self) -> float:
        """Microseconds a record, from the median."""
        return 1e6 * self.timing.median / self.records

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "name": self.name,
            "encrypted": self.encrypted,
            "records": self.records,
            "threads": self.threads,
            "us_per_record": self.us_per_record,
            **self.timing.as_json(),
        }


@dataclass(frozen=True)
class PeersResult:
    """Everything that one call measured; ours on all threads first."""

    plan: PeersPlan
    date: datetime
    machine: Machine
    peers: tuple[PeerResult, ...]
    peak_memory_bytes: int

    @property
    def ours(self) -> PeerResult:
        """The better of ours."""
        return min((peer for peer in self.peers if peer.name == OURS), key=lambda peer: peer.us_per_record)

    def as_json(self) -> dict[str, object]:
        """For programs: one object; `times_ours` is how many times as long as ours a record takes."""
        ours = self.ours.us_per_record
        return {
            "benchmark": "peers",
            "date": self.date.isoformat(timespec="seconds"),
            "dimensions": self.plan.dimensions,
            "runs": self.plan.runs,
            "seed": self.plan.seed,
            "threads_allowed": self.plan.threads,
            "checked": True,
            "us_per_record": ours,
            "peers": [{**peer.as_json(), "times_ours": peer.us_per_record / ours} for peer in self.peers],
            "peak_memory_bytes": self.peak_memory_bytes,
            "machine": asdict(self.machine),
        }


class Scorer(Protocol):
    """A way to score records that is no part of Sealmatch; a score may be off by `tolerance`."""

    @property
    def name(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def tolerance(self) -> float: ...
    def scan(self) -> Any: ...  # noqa: ANN401 -- what it returns only it can open
    def cosines(self, found: Any) -> F64: ...  # noqa: ANN401


def check_scores(scorer: Scorer, source: SyntheticRecords, sought_row: int) -> None:
    """Raise `WrongResultError` unless every score is its vectors' inner product, to the scorer's own precision."""
    cosines = scorer.cosines(scorer.scan())
    query = source.embedding_like(sought_row)
    for first in range(0, source.records, BATCH):
        last = min(source.records, first + BATCH)
        expected = source.vectors(first, last).astype(np.float64) @ query
        if cosines.shape != (source.records,) or float(np.abs(cosines[first:last] - expected).max()) > scorer.tolerance:
            raise WrongResultError(f"{scorer.name} does not find the vectors' inner products: please report this as a bug")


def bench_peers(plan: PeersPlan, now: datetime, steps: Steps) -> PeersResult:
    """Measure. Raises a `BenchmarkError` instead of reporting a figure that stands on a wrong result."""
    load_faiss()
    epoch = Epoch.at(now)
    source = SyntheticRecords(plan.records, plan.dimensions, plan.seed)
    packed = pack_synthetic(source, epoch, steps, beside_bytes=4 * plan.records * plan.dimensions, threads=plan.threads)
    asked = ask(source, packed.gallery, epoch)
    (checked,) = checked_scans(source, packed, epoch, asked, plan.threads)

    few, fewer = (SyntheticRecords(records, plan.dimensions, plan.seed) for records in (plan.seal_records, plan.tenseal_records))
    seal = SealCoordinateFirst(few, few.sought_rows(1)[0], steps)
    tenseal = TensealMatmul(fewer, fewer.sought_rows(1)[0], plan.threads, steps)
    others: list[tuple[SyntheticRecords, Scorer]] = [(few, seal), (fewer, tenseal)]
    for scored, scorer in others:
        with steps.step(f"checking {scorer.name}"):
            check_scores(scorer, scored, scored.sought_rows(1)[0])

    def scanning(count: int) -> Callable[[], object]:
        return lambda: packed.scan(asked.probes, count)

    counts = sorted(thread_counts(plan.threads), reverse=True)

    def beside(setup: ClearSetup) -> list[PeerResult]:
        checked.check_against(setup.name, setup.search(), 0)
        ways = [(OURS, True, plan.records, count, scanning(count)) for count in counts]
        ways.append((f"FAISS float32 in the clear, {setup.name}", False, plan.records, setup.threads, setup.search))
        ways += [(scorer.name, True, scored.records, scorer.threads, scorer.scan) for scored, scorer in others]
        with steps.step(f"timing all beside {setup.name}", plan.runs, timed=True) as done:
            times = alternate([(f"{name} {threads}", action) for name, _, _, threads, action in ways], plan.runs, done)
        return [PeerResult(name, hidden, count, threads, times[f"{name} {threads}"]) for name, hidden, count, threads, _ in ways]

    runs = [beside(setup) for setup in clear_setups(source, asked.queries, plan.threads, steps)]
    fastest = min(runs, key=lambda run: next(peer.timing.median for peer in run if not peer.encrypted))
    return PeersResult(plan, now, Machine.here(), tuple(fastest), peak_memory_bytes())
