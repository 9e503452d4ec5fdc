"""`sealmatch bench scan`: the hot loop over a gallery against the same search by FAISS in the clear.

Invariants: what is timed is `crypto.scan.scan_words` as a holder calls it, checks and threads included; scan and FAISS take turns; the scan
runs with one thread and with all, and the better median counts, as for FAISS the fastest set-up does. Every scan that is timed has been
opened and compared with the truth before (`checking`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np

from agency_node.bench.checking import CheckedScan, check_scan
from agency_node.bench.clear import ClearSetup, clear_setups, load_faiss
from agency_node.bench.errors import WrongResultError
from agency_node.bench.machine import Machine, peak_memory_bytes
from agency_node.bench.progress import Steps
from agency_node.bench.synthetic import PackedSynthetic, SyntheticRecords, pack_synthetic
from agency_node.bench.timing import Timing, alternate, timed
from crypto.answer import AnswerRequest, answer
from crypto.embedding import F32
from crypto.epoch import Epoch
from crypto.probe import Probe, SearchKey, make_probe
from crypto.ring import U32
from crypto.scan import scan_words

MIN_RUNS = 9
_FAISS = "FAISS"


@dataclass(frozen=True)
class ScanPlan:
    """What to measure."""

    records: int
    dimensions: int
    runs: int
    threads: int
    probes: int = 1
    seed: int = 1
    with_faiss: bool = True


@dataclass(frozen=True)
class SetupResult:
    """One alternating run: our scan by number of threads, and one FAISS set-up (none when FAISS was left out)."""

    name: str | None
    faiss: Timing | None
    scan: dict[int, Timing]

    @property
    def threads(self) -> int:
        """Threads of our better median."""
        return min(self.scan, key=lambda count: self.scan[count].median)

    @property
    def scan_s(self) -> float:
        """Our better median."""
        return self.scan[self.threads].median

    @property
    def faiss_s(self) -> float | None:
        """The median of FAISS."""
        return self.faiss.median if self.faiss else None

    @property
    def ratio(self) -> float | None:
        """Our median over that of FAISS, from this same run: below one, the encrypted scan is the faster of the two."""
        return self.scan_s / self.faiss.median if self.faiss else None

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "name": self.name,
            "threads": self.threads,
            "scan_s": self.scan_s,
            "faiss_s": self.faiss_s,
            "ratio": self.ratio,
            "scan": {str(count): timing.as_json() for count, timing in self.scan.items()},
            "faiss": self.faiss.as_json() if self.faiss else None,
        }


@dataclass(frozen=True)
class ScanResult:
    """Everything that one call measured."""

    plan: ScanPlan
    date: datetime
    machine: Machine
    setups: tuple[SetupResult, ...]
    checked: tuple[CheckedScan, ...]
    pack_s: float
    fixed_part_s: float
    packed_bytes: int
    answer_bytes: int
    probe_bytes: int
    peak_memory_bytes: int

    @property
    def fastest(self) -> SetupResult:
        """The run with the fastest FAISS set-up; our own fastest when FAISS was left out."""
        return min(self.setups, key=lambda setup: setup.scan_s if setup.faiss_s is None else setup.faiss_s)

    def as_json(self) -> dict[str, object]:
        """For programs: one object."""
        plan, best = self.plan, self.fastest
        return {
            "benchmark": "scan",
            "date": self.date.isoformat(timespec="seconds"),
            "records": plan.records,
            "dimensions": plan.dimensions,
            "runs": plan.runs,
            "probes": plan.probes,
            "seed": plan.seed,
            "threads": best.threads,
            "threads_allowed": plan.threads,
            "checked": all(one.found_row == one.sought_row for one in self.checked),
            "scan_s": best.scan_s,
            "scan_s_per_probe": best.scan_s / plan.probes,
            "scan_bytes_per_second": self.packed_bytes / best.scan_s,
            "faiss_s": best.faiss_s,
            "faiss_setup": best.name,
            "ratio": best.ratio,
            "bytes_per_record": self.answer_bytes / plan.records,
            "answer_bytes": self.answer_bytes,
            "probe_bytes": self.probe_bytes,
            "packed_bytes": self.packed_bytes,
            "packed_bytes_per_record": self.packed_bytes / plan.records,
            "pack_s": self.pack_s,
            "templates_per_second": plan.records / self.pack_s,
            "fixed_part_s": self.fixed_part_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "setups": [setup.as_json() for setup in self.setups],
            "machine": asdict(self.machine),
        }


def bench_scan(plan: ScanPlan, now: datetime, steps: Steps) -> ScanResult:
    """Measure. Raises a `BenchmarkError` instead of reporting a figure that stands on a wrong result."""
    if plan.with_faiss:
        load_faiss()
    epoch = Epoch.at(now)
    source = SyntheticRecords(plan.records, plan.dimensions, plan.seed)
    float_bytes = 4 * plan.records * plan.dimensions if plan.with_faiss else 0
    packed = pack_synthetic(source, epoch, steps, beside_bytes=float_bytes, threads=plan.threads)
    gallery = packed.gallery
    fixed_part_s = timed(lambda: gallery.fixed_part(epoch))

    sought = source.sought_rows(plan.probes)
    queries = np.stack([source.embedding_like(row) for row in sought])
    made = [make_probe(gallery.model, gallery.model.probe_vector(query), epoch) for query in queries]
    probes_eval = np.stack([probe.words_eval[:-1] for probe, _ in made])
    checked = _checked(plan, source, packed, epoch, [key for _, key in made], probes_eval)

    return ScanResult(
        plan=plan,
        date=now,
        machine=Machine.here(),
        setups=tuple(_measure(plan, source, packed, probes_eval, queries.astype(np.float32), checked, steps)),
        checked=tuple(checked),
        pack_s=packed.pack_s,
        fixed_part_s=fixed_part_s,
        packed_bytes=gallery.words.nbytes,
        answer_bytes=_answer_bytes(packed, made[0][0]),
        probe_bytes=len(made[0][0].to_bytes()),
        peak_memory_bytes=peak_memory_bytes(),
    )


def thread_counts(threads: int) -> list[int]:
    """The numbers of threads that the scan is measured with."""
    return sorted({1, threads})


def _checked(
    plan: ScanPlan, source: SyntheticRecords, packed: PackedSynthetic, epoch: Epoch, keys: list[SearchKey], probes_eval: U32
) -> list[CheckedScan]:
    """Scan with each number of threads, require one result, open it for every probe."""
    sums, *others = (scan_words(packed.gallery.words, probes_eval, threads=count) for count in thread_counts(plan.threads))
    if any((other != sums).any() for other in others):
        raise WrongResultError("the scan's result depends on its number of threads: please report this as a bug")
    sought = source.sought_rows(plan.probes)
    return [check_scan(source, packed.gallery, epoch, row, key, part) for row, key, part in zip(sought, keys, sums, strict=True)]


def _measure(
    plan: ScanPlan,
    source: SyntheticRecords,
    packed: PackedSynthetic,
    probes_eval: U32,
    queries: F32,
    checked: list[CheckedScan],
    steps: Steps,
) -> list[SetupResult]:
    def scanning(count: int) -> Callable[[], object]:
        return lambda: scan_words(packed.gallery.words, probes_eval, threads=count)

    counts = thread_counts(plan.threads)
    if not plan.with_faiss:
        with steps.step("timing the scan", plan.runs, timed=True) as done:
            times = alternate([(str(count), scanning(count)) for count in counts], plan.runs, done)
        return [SetupResult(None, None, {count: times[str(count)] for count in counts})]

    def against(setup: ClearSetup) -> SetupResult:
        nearest = setup.search()
        for index, one in enumerate(checked):
            one.check_against(setup.name, nearest, index)
        turns = [turn for count in counts for turn in ((str(count), scanning(count)), (_FAISS, setup.search))]
        with steps.step(f"timing the scan against {setup.name}", plan.runs, timed=True) as done:
            times = alternate(turns, plan.runs, done)
        return SetupResult(setup.name, times[_FAISS], {count: times[str(count)] for count in counts})

    return [against(setup) for setup in clear_setups(source, queries, plan.threads, steps)]


def _answer_bytes(packed: PackedSynthetic, probe: Probe) -> int:
    """Length of a real answer, fillers and calibration chunk included."""
    ((made, _),) = answer(packed.gallery, [AnswerRequest(probe, bytes(32))])
    return len(made.to_bytes())
