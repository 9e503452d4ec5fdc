"""`sealmatch bench answer`: one search inside one process, step by step, from the embedding to the rows of the leads.

Invariants: each run makes its own probe and its own answer, and the steps are the functions that the parties call, in their order; what
travels between parties is written to its canonical bytes and read back. Not included is what a federation adds: sealing, signatures, the
log, the network. A figure is reported only when every run's first lead was the
record that was sought.

`answer` scans by itself; the scan is timed once more beside it, with the same arguments, and `answer` is reported without that time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TypeVar

import numpy as np

from agency_node.bench.checking import FALSE_POSITIVES_PER_MILLION
from agency_node.bench.errors import WrongResultError
from agency_node.bench.machine import Machine, peak_memory_bytes
from agency_node.bench.progress import Steps
from agency_node.bench.synthetic import PackedSynthetic, SyntheticRecords, pack_synthetic
from agency_node.bench.timing import PAUSE_S, Timing, timed
from crypto.answer import Answer, AnswerRequest, MaskShare, OrderSeed, answer
from crypto.canonical import AgencyId
from crypto.epoch import Epoch
from crypto.impostors import ImpostorTable
from crypto.limits import DEFAULT_CAP
from crypto.opening import Y16, open_answer
from crypto.probe import Probe, make_probe
from crypto.release import ReleaseTerms, release, unmask

HOLDER = AgencyId("benchmark-holder")
_GRANT_DIGEST = bytes(32)
Made = TypeVar("Made")

STEPS = (
    ("requester", "probe made by SEAL"),
    ("requester to holder", "probe written and read"),
    ("holder", "scan"),
    ("holder", "re-randomised, masked, rounded"),
    ("holder to requester", "answer written and read"),
    ("requester", "opened to 16 bits"),
    ("requester to custodian", "opened values written and read"),
    ("custodian", "unmasked, calibration checked"),
    ("custodian", "threshold and release"),
    ("holder", "positions to rows"),
)
"""Who does what, in order."""


@dataclass(frozen=True)
class AnswerPlan:
    """What to measure."""

    records: int
    dimensions: int
    runs: int
    threads: int
    seed: int = 1


@dataclass(frozen=True)
class StepResult:
    """One step over all runs, and the bytes that travelled in it."""

    party: str
    what: str
    timing: Timing
    bytes_sent: int | None

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {"party": self.party, "step": self.what, "bytes": self.bytes_sent, **self.timing.as_json()}


@dataclass(frozen=True)
class AnswerResult:
    """Everything that one call measured."""

    plan: AnswerPlan
    date: datetime
    machine: Machine
    steps: tuple[StepResult, ...]
    total: Timing
    pack_s: float
    fixed_part_s: float
    peak_memory_bytes: int

    def as_json(self) -> dict[str, object]:
        """For programs: one object."""
        plan = self.plan
        return {
            "benchmark": "answer",
            "date": self.date.isoformat(timespec="seconds"),
            "records": plan.records,
            "dimensions": plan.dimensions,
            "runs": plan.runs,
            "threads": plan.threads,
            "seed": plan.seed,
            "checked": True,
            "total_s": self.total.median,
            "total": self.total.as_json(),
            "steps": [step.as_json() for step in self.steps],
            "pack_s": self.pack_s,
            "templates_per_second": plan.records / self.pack_s,
            "fixed_part_s": self.fixed_part_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "machine": asdict(self.machine),
        }


class _Watch:
    """Collects seconds and bytes of the steps of one search."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.sent: list[int | None] = []

    def step(self, action: Callable[[], Made]) -> Made:
        """Time one step."""
        started = time.perf_counter()
        made = action()
        self.seconds.append(time.perf_counter() - started)
        self.sent.append(None)
        return made

    def travel(self, write: Callable[[], bytes], read: Callable[[bytes], Made]) -> Made:
        """Time what is written by one party and read by another."""
        started = time.perf_counter()
        body = write()
        made = read(body)
        self.seconds.append(time.perf_counter() - started)
        self.sent.append(len(body))
        return made


def bench_answer(plan: AnswerPlan, now: datetime, steps: Steps) -> AnswerResult:
    """Measure. Raises a `BenchmarkError` instead of reporting a figure that stands on a wrong result."""
    epoch = Epoch.at(now)
    source = SyntheticRecords(plan.records, plan.dimensions, plan.seed)
    packed = pack_synthetic(source, epoch, steps, threads=plan.threads)
    fixed_part_s = timed(lambda: packed.gallery.fixed_part(epoch))
    table = ImpostorTable.isotropic(packed.gallery.model.model_hash, plan.dimensions)
    sought = source.sought_rows(plan.runs)
    _one_search(plan, source, packed, epoch, table, sought[0])
    runs = []
    with steps.step("timing searches", plan.runs, timed=True) as done:
        for row in sought:
            time.sleep(PAUSE_S)
            runs.append(_one_search(plan, source, packed, epoch, table, row))
            done()
    return AnswerResult(
        plan=plan,
        date=now,
        machine=Machine.here(),
        steps=tuple(
            StepResult(party, what, Timing(tuple(run.seconds[at] for run in runs)), runs[0].sent[at])
            for at, (party, what) in enumerate(STEPS)
        ),
        total=Timing(tuple(sum(run.seconds) for run in runs)),
        pack_s=packed.pack_s,
        fixed_part_s=fixed_part_s,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _one_search(
    plan: AnswerPlan, source: SyntheticRecords, packed: PackedSynthetic, epoch: Epoch, table: ImpostorTable, sought_row: int
) -> _Watch:
    """One search, step by step as in `STEPS`; `WrongResultError` unless the first of its leads is the record that was sought."""
    gallery, watch = packed.gallery, _Watch()
    model = gallery.model
    embedding = source.embedding_like(sought_row)
    terms = ReleaseTerms(_GRANT_DIGEST, DEFAULT_CAP, FALSE_POSITIVES_PER_MILLION)

    made, key = watch.step(lambda: make_probe(model, model.probe_vector(embedding), epoch))
    probe = watch.travel(made.to_bytes, Probe.from_bytes)
    watch.step(lambda: packed.scan([probe.ordered], plan.threads))
    ((answered, secrets),) = watch.step(lambda: answer(gallery, [AnswerRequest(probe, _GRANT_DIGEST)], threads=plan.threads))
    watch.seconds[-1] -= watch.seconds[-2]
    received = watch.travel(answered.to_bytes, Answer.from_bytes)
    opened = watch.step(lambda: open_answer(received, OrderSeed(received.digest, secrets.order_seed), probe, key))
    shown = watch.travel(opened.to_bytes, Y16.from_bytes)
    share = MaskShare(received.digest, probe.digest, received.slots, secrets.mask_seeds[0], secrets.places)
    scores = watch.step(lambda: unmask(HOLDER, plan.records, gallery.layout.chunks, model.scales, shown, [share]))
    released = watch.step(lambda: release(terms, table, [scores]))
    leads = released.to_holders[HOLDER].leads
    positions = np.array([position for _, position in leads], np.uint32)
    rows = watch.step(lambda: secrets.rows_at(gallery.layout.rows, positions, still_held=gallery.layout.rows))

    key.destroy()
    scores.destroy()
    by_index = {index: int(row) for (index, _), row in zip(leads, rows, strict=True)}
    first = next((index for index, rank, _ in released.to_requester.leads if rank == 1), None)
    if first is None or by_index[first] != sought_row:
        raise WrongResultError("the search does not release the record that was sought: please report this as a bug")
    return watch
