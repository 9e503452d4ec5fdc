"""`sealmatch bench growth`: whether a record costs the same in a small gallery and in a large one.

Invariants: one process, and each size a packed gallery of its own, as a department of that size would have it; the sizes take turns, so
that a slower minute of the machine meets all of them and none finds its words in a cache from its turn before. `deviation_percent`, the
largest distance of a size's time per record from the median over the sizes, stands on that run. Before it, at each size, the result is
opened and checked, and scan and float32 set-ups of FAISS on the same records take turns: FAISS's times and the ratios stand on these.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from agency_node.bench.clear import VectorForm, load_faiss
from agency_node.bench.machine import Machine, check_memory, peak_memory_bytes
from agency_node.bench.progress import Steps
from agency_node.bench.scan import SetupResult, ask, checked_scans, fastest_of, measure, thread_counts
from agency_node.bench.synthetic import PackedSynthetic, SyntheticRecords, needed_bytes, pack_synthetic, packed_bytes
from agency_node.bench.timing import Timing, alternate, timed
from crypto.epoch import Epoch
from crypto.ordered_probe import OrderedProbe
from crypto.parameters import Scales
from crypto.workers import split

_A_PAGE: Final = 512
"""Words."""
_REST: Final = 3
"""Times the largest gallery's scan, between two rounds: half a second at 2.5 million records."""
_ROUNDS: Final = 3
"""Times as many runs as elsewhere, where the sizes take turns: the smallest gallery's scan is short, and its median moves most."""


@dataclass(frozen=True)
class GrowthPlan:
    """What to measure."""

    sizes: tuple[int, ...]
    dimensions: int
    runs: int
    threads: int
    seed: int = 1
    with_faiss: bool = True

    def sources(self) -> list[SyntheticRecords]:
        """The records of each size, ascending, each size once."""
        return [SyntheticRecords(size, self.dimensions, self.seed) for size in sorted(set(self.sizes))]

    def needed_bytes(self) -> int:
        """Most memory at once: every gallery, and beside the largest what packing it or FAISS takes."""
        *smaller, largest = (source.records for source in self.sources())
        scales = Scales(self.dimensions)
        kept = sum(packed_bytes(records, scales) for records in smaller)
        return kept + needed_bytes(largest, scales, beside_bytes=self.float_bytes(largest))

    def float_bytes(self, records: int) -> int:
        """What FAISS holds of so many."""
        return 4 * records * self.dimensions if self.with_faiss else 0


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
    check_memory(plan.needed_bytes())
    epoch, forms = Epoch.at(now), (VectorForm.FLOAT32,) if plan.with_faiss else ()
    sources, scans, beside = plan.sources(), list[_Scan](), []
    for source in sources:
        packed = pack_synthetic(source, epoch, steps, beside_bytes=plan.float_bytes(source.records), threads=plan.threads)
        asked = ask(source, packed.gallery, epoch)
        checked = checked_scans(source, packed, epoch, asked, plan.threads)
        setups = measure(source, packed, asked, checked, steps, forms=forms, runs=plan.runs, threads=plan.threads)
        beside.append(fastest_of(setups, VectorForm.FLOAT32))
        scans.append(_Scan(packed, asked.probes))
    threads, times = _in_turns(plan, scans, steps)
    sizes = (SizeResult(source.records, timing, setup) for source, timing, setup in zip(sources, times, beside, strict=True))
    return GrowthResult(plan, now, Machine.here(), threads, tuple(sizes), peak_memory_bytes())


@dataclass(frozen=True)
class _Scan:
    """One size's gallery and probe."""

    packed: PackedSynthetic
    probes: tuple[OrderedProbe, ...]

    def look_up(self, threads: int) -> None:
        """Read one word of each page."""
        words = self.packed.gallery.words.flat[::_A_PAGE]

        def read(first: int, last: int) -> None:
            words[first:last].max()

        split(words.size, read, threads)

    def run(self, threads: int) -> None:
        """Scan."""
        self.packed.scan(self.probes, threads)


def _in_turns(plan: GrowthPlan, scans: list[_Scan], steps: Steps) -> tuple[int, list[Timing]]:
    """The sizes in turn with each number of threads; that number which is faster over all sizes, and each size's times with it.

    What a machine has to do once it was idle, or had other memory to look after, does not belong to a size (docs/adr/0031): a core that
    was idle takes milliseconds to come back on a virtual machine, and what was not read for a second or two takes up to twice as long. So
    before each turn the threads that will scan read one word of each page, a sixty-fourth of the lines in it, and turns follow one another
    without a pause. Rounds do not: they are spread over half a minute, so that a median does not show when others on the same host are
    busy for some seconds; and each begins with a scan that does not count.
    """
    counts, rounds = thread_counts(plan.threads), _ROUNDS * plan.runs
    by_count: dict[int, list[Timing]] = {}
    with steps.step("timing the sizes in turn", len(counts) * rounds, timed=True) as done:
        for count in counts:
            turns = [(str(at), functools.partial(scan.run, count)) for at, scan in enumerate(scans)]
            times = alternate(turns, rounds, done, 0, functools.partial(_make_ready, scans, count))
            by_count[count] = list(times.values())
    threads = min(counts, key=lambda count: sum(timing.median for timing in by_count[count]))
    return threads, by_count[threads]


def _make_ready(scans: list[_Scan], threads: int, name: str) -> None:
    """For the turn of that name, of which a round's first is 0."""
    if name == "0":
        time.sleep(_REST * timed(lambda: scans[-1].run(threads)))
        scans[-1].run(threads)
    scans[int(name)].look_up(threads)
