"""`sealmatch bench scan`: the hot loop over a gallery against the same search by FAISS in the clear.

Invariants: what is timed is `crypto.scan.scan_words` as a holder calls it, threads included; its probes were put in order before, as a
holder does when they come. Scan and FAISS take turns; the scan runs with one thread and with all, and the better median counts, as for
FAISS the fastest set-up does. Every scan that is timed has been opened and compared with the truth before (`checking`). `ratio` compares
with float32; the ratios to FAISS on half-precision floats and on signed bytes stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np

from agency_node.bench.accuracy import Accuracy, measure_accuracy
from agency_node.bench.checking import CheckedScan, check_scan
from agency_node.bench.clear import ClearSetup, VectorForm, clear_setups, load_faiss
from agency_node.bench.errors import WrongResultError
from agency_node.bench.machine import Machine, peak_memory_bytes
from agency_node.bench.progress import Steps
from agency_node.bench.synthetic import PackedSynthetic, SyntheticRecords, pack_synthetic
from agency_node.bench.timing import Timing, alternate, timed
from crypto.embedding import F32
from crypto.epoch import Epoch
from crypto.gallery import PackedGallery
from crypto.ordered_probe import OrderedProbe
from crypto.probe import Probe, SearchKey, make_probe

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
    form: VectorForm | None
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
            "vectors": self.form,
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
    accuracy: Accuracy
    probe_bytes: int
    peak_memory_bytes: int

    @property
    def fastest(self) -> SetupResult:
        """The run with the fastest float32 set-up of FAISS; our own fastest when FAISS was left out."""
        return fastest_of(self.setups, VectorForm.FLOAT32)

    @property
    def fastest_others(self) -> dict[VectorForm, SetupResult]:
        """The run with the fastest set-up of each other form that was measured."""
        forms = [form for form in VectorForm if form is not VectorForm.FLOAT32 and any(setup.form is form for setup in self.setups)]
        return {form: fastest_of(self.setups, form) for form in forms}

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
            **self._other_figures(),
            "bytes_per_record": self.accuracy.answer_bytes / plan.records,
            "answer_bytes": self.accuracy.answer_bytes,
            "error_rms": self.accuracy.rms,
            "error_largest": self.accuracy.largest,
            "error_derived_sd": self.accuracy.derived_sd,
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

    def _other_figures(self) -> dict[str, object]:
        """`ratio_fp16`, `ratio_8bit_direct_signed` and what they are made of; none where it was not measured."""
        figures: dict[str, object] = {}
        for form in VectorForm:
            if form is not VectorForm.FLOAT32:
                best = self.fastest_others.get(form)
                figures[f"faiss_{form}_s"] = best and best.faiss_s
                figures[f"faiss_{form}_setup"] = best and best.name
                figures[f"ratio_{form}"] = best and best.ratio
        return figures


def fastest_of(setups: Sequence[SetupResult], form: VectorForm) -> SetupResult:
    """The run with the fastest set-up of that form; our own fastest when FAISS was left out."""
    return min(
        (setup for setup in setups if setup.form in {form, None}),
        key=lambda setup: setup.scan_s if setup.faiss_s is None else setup.faiss_s,
    )


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

    asked = ask(source, gallery, epoch, plan.probes)
    checked = checked_scans(source, packed, epoch, asked, plan.threads)
    with steps.step(f"comparing {plan.records:,} scores of a whole answer with floating point"):
        accuracy = measure_accuracy(source, gallery, asked.first, asked.keys[0], source.sought_rows(plan.probes)[0])
    forms = tuple(VectorForm) if plan.with_faiss else ()
    setups = measure(source, packed, asked, checked, steps, forms=forms, runs=plan.runs, threads=plan.threads)

    return ScanResult(
        plan=plan,
        date=now,
        machine=Machine.here(),
        setups=tuple(setups),
        checked=tuple(checked),
        pack_s=packed.pack_s,
        fixed_part_s=fixed_part_s,
        packed_bytes=packed.packed_bytes,
        accuracy=accuracy,
        probe_bytes=len(asked.first.to_bytes()),
        peak_memory_bytes=peak_memory_bytes(),
    )


def thread_counts(threads: int) -> list[int]:
    """The numbers of threads that the scan is measured with."""
    return sorted({1, threads})


@dataclass(frozen=True)
class Asked:
    """The probes of a measurement, the same queries for FAISS, and the keys that open what comes back; queries are float32[K, D]."""

    first: Probe
    keys: tuple[SearchKey, ...]
    probes: tuple[OrderedProbe, ...]
    queries: F32


def ask(source: SyntheticRecords, gallery: PackedGallery, epoch: Epoch, probes: int = 1) -> Asked:
    """A probe for each sought row."""
    queries = np.stack([source.embedding_like(row) for row in source.sought_rows(probes)])
    made = [make_probe(gallery.model, gallery.model.probe_vector(query), epoch) for query in queries]
    return Asked(made[0][0], tuple(key for _, key in made), tuple(probe.ordered for probe, _ in made), queries.astype(np.float32))


def checked_scans(source: SyntheticRecords, packed: PackedSynthetic, epoch: Epoch, asked: Asked, threads: int) -> list[CheckedScan]:
    """Scan with each number of threads, require one result, open it for every probe."""
    sums, *others = (packed.scan(asked.probes, count) for count in thread_counts(threads))
    if any((other != sums).any() for other in others):
        raise WrongResultError("the scan's result depends on its number of threads: please report this as a bug")
    sought = source.sought_rows(len(asked.keys))
    return [check_scan(source, packed.gallery, epoch, row, key, part) for row, key, part in zip(sought, asked.keys, sums, strict=True)]


def measure(
    source: SyntheticRecords,
    packed: PackedSynthetic,
    asked: Asked,
    checked: list[CheckedScan],
    steps: Steps,
    *,
    forms: Sequence[VectorForm],
    runs: int,
    threads: int,
) -> list[SetupResult]:
    """The scan in turn with every set-up of FAISS of these forms, one after the other; the scan alone when there are none."""

    def scanning(count: int) -> Callable[[], object]:
        return lambda: packed.scan(asked.probes, count)

    counts = thread_counts(threads)
    if not forms:
        with steps.step("timing the scan", runs, timed=True) as done:
            times = alternate([(str(count), scanning(count)) for count in counts], runs, done)
        return [SetupResult(None, None, None, {count: times[str(count)] for count in counts})]

    def against(setup: ClearSetup) -> SetupResult:
        nearest = setup.search()
        for index, one in enumerate(checked):
            one.check_against(setup.name, nearest, index, rounding=setup.tolerance, product_unit=setup.product_unit)
        turns = [turn for count in counts for turn in ((str(count), scanning(count)), (_FAISS, setup.search))]
        with steps.step(f"timing the scan against {setup.name}", runs, timed=True) as done:
            times = alternate(turns, runs, done)
        return SetupResult(setup.name, setup.form, times[_FAISS], {count: times[str(count)] for count in counts})

    return [against(setup) for setup in clear_setups(source, asked.queries, threads, steps, forms)]
