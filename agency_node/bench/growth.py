"""`sealmatch bench growth`: whether a record costs the same in a small gallery and in a large one.

Invariants: one process and one packed gallery, the largest; a smaller gallery is its first chunks, all full, so that every size reads the
same words, and the sizes take turns, so that a slower minute of the machine meets all of them. `deviation_percent`, the largest distance of
a size's time per record from the median over the sizes, stands on that run. Before it, at each size, the result is opened and checked,
and scan and float32 set-ups of FAISS on the same records take turns: FAISS's times and the ratios stand on these.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from agency_node.bench.clear import VectorForm, load_faiss
from agency_node.bench.machine import Machine, peak_memory_bytes
from agency_node.bench.progress import Steps
from agency_node.bench.scan import SetupResult, ask, checked_scans, fastest_of, measure, thread_counts
from agency_node.bench.synthetic import PackedSynthetic, SyntheticRecords, pack_synthetic, records_a_chunk
from agency_node.bench.timing import Timing, alternate
from crypto.epoch import Epoch
from crypto.parameters import Scales
from crypto.ring import U32


@dataclass(frozen=True)
class GrowthPlan:
    """What to measure; each size is rounded up to full chunks."""

    sizes: tuple[int, ...]
    dimensions: int
    runs: int
    threads: int
    seed: int = 1
    with_faiss: bool = True

    def chunks(self) -> list[int]:
        """Chunks of each size, ascending; two sizes that fill the same chunks are one."""
        each = records_a_chunk(Scales(self.dimensions))
        return sorted({-(-size // each) for size in self.sizes})


@dataclass(frozen=True)
class SizeResult:
    """One size: its records, our times in turn with the other sizes, and the run with the fastest FAISS."""

    records: int
    scan: Timing
    beside: SetupResult

    @property
    def scan_us_per_record(self) -> float:
        """Microseconds a record and probe."""
        return 1e6 * self.scan.median / self.records

    @property
    def faiss_us_per_record(self) -> float | None:
        """The same for FAISS, in the clear."""
        return None if self.beside.faiss_s is None else 1e6 * self.beside.faiss_s / self.records

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "records": self.records,
            "scan_us_per_record": self.scan_us_per_record,
            "scan": self.scan.as_json(),
            "faiss_us_per_record": self.faiss_us_per_record,
            "ratio": self.beside.ratio,
            "beside_faiss": self.beside.as_json(),
        }


@dataclass(frozen=True)
class GrowthResult:
    """Everything that one call measured."""

    plan: GrowthPlan
    date: datetime
    machine: Machine
    threads: int
    sizes: tuple[SizeResult, ...]
    peak_memory_bytes: int

    def as_json(self) -> dict[str, object]:
        """For programs: one object."""
        plan = self.plan
        ours = [size.scan_us_per_record for size in self.sizes]
        theirs = [size.faiss_us_per_record for size in self.sizes if size.faiss_us_per_record is not None]
        return {
            "benchmark": "growth",
            "date": self.date.isoformat(timespec="seconds"),
            "dimensions": plan.dimensions,
            "runs": plan.runs,
            "seed": plan.seed,
            "threads": self.threads,
            "threads_allowed": plan.threads,
            "checked": True,
            "sizes": [size.as_json() for size in self.sizes],
            "scan_us_per_record": statistics.median(ours),
            "deviation_percent": deviation_percent(ours),
            "faiss_us_per_record": statistics.median(theirs) if theirs else None,
            "faiss_deviation_percent": deviation_percent(theirs) if theirs else None,
            "peak_memory_bytes": self.peak_memory_bytes,
            "machine": asdict(self.machine),
        }


def deviation_percent(values: Sequence[float]) -> float:
    """The largest distance from the median, in per cent of it."""
    middle = statistics.median(values)
    return 100 * max(abs(value - middle) for value in values) / middle


def bench_growth(plan: GrowthPlan, now: datetime, steps: Steps) -> GrowthResult:
    """Measure. Raises a `BenchmarkError` instead of reporting a figure that stands on a wrong result."""
    if plan.with_faiss:
        load_faiss()
    epoch, each = Epoch.at(now), records_a_chunk(Scales(plan.dimensions))
    chunks = plan.chunks()
    largest = SyntheticRecords(chunks[-1] * each, plan.dimensions, plan.seed)
    float_bytes = 4 * largest.records * plan.dimensions if plan.with_faiss else 0
    packed = pack_synthetic(largest, epoch, steps, beside_bytes=float_bytes, threads=plan.threads, ascending=True)
    forms = (VectorForm.FLOAT32,) if plan.with_faiss else ()
    parts, probes, beside = [packed.first_chunks(count) for count in chunks], [], []
    for count, part in zip(chunks, parts, strict=True):
        source = SyntheticRecords(count * each, plan.dimensions, plan.seed)
        asked = ask(source, part.gallery, epoch)
        checked = checked_scans(source, part, epoch, asked, plan.threads)
        setups = measure(source, part, asked, checked, steps, forms=forms, runs=plan.runs, threads=plan.threads)
        beside.append(fastest_of(setups, VectorForm.FLOAT32))
        probes.append(asked.probes_eval)
    threads, times = _in_turns(plan, parts, probes, steps)
    sizes = (SizeResult(count * each, timing, setup) for count, timing, setup in zip(chunks, times, beside, strict=True))
    return GrowthResult(plan, now, Machine.here(), threads, tuple(sizes), peak_memory_bytes())


def _in_turns(plan: GrowthPlan, parts: list[PackedSynthetic], probes: list[U32], steps: Steps) -> tuple[int, list[Timing]]:
    """The sizes in turn, with each number of threads; that number which is faster over all sizes, and each size's times with it.

    The largest comes first: every smaller gallery is the beginning of it, and a large last-level cache holds the end of what was read
    last. In the other order the beginning of each would still be there from the one before it, and it would seem faster than it is. No
    pauses: they are for FAISS's threads, which spin on, and FAISS has no turn here.
    """

    def scanning(at: int, count: int) -> Callable[[], object]:
        return lambda: parts[at].scan(probes[at], count)

    counts = thread_counts(plan.threads)
    with steps.step("timing the sizes in turn", plan.runs, timed=True) as done:
        turns = [(f"{count} {at}", scanning(at, count)) for count in counts for at in reversed(range(len(parts)))]
        times = alternate(turns, plan.runs, done, pause_s=0)
    by_count = {count: [times[f"{count} {at}"] for at in range(len(parts))] for count in counts}
    threads = min(counts, key=lambda count: sum(timing.median for timing in by_count[count]))
    return threads, by_count[threads]
