"""`sealmatch bench holder`: a holder as it serves, in a process of its own over a real node folder.

Made here: a node's folder with its sealed store of synthetic records, and the two processes of `holder_process`, whose findings are put
together. Measured: from disk to ready, whole and step by step; templates packed a second; resident memory, in units of four bytes a record
and dimension (what float32 would take), after start-up and at its peak while a new layout is built beside the old one; how much slower
searches are meanwhile; eight searches that wait together against one alone; adding and expunging one record.

Invariants: the folder is temporary and goes when the run ends; nothing dials out; a process that says that a result is wrong, or that ends
early, gives no figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from agency_node.bench.errors import GalleryTooLargeError, HolderEndedError, WrongResultError
from agency_node.bench.holder_process import CAPTURED, SOURCE_CLASS, WAITING
from agency_node.bench.machine import Machine, check_memory
from agency_node.bench.progress import Steps
from agency_node.bench.synthetic import SyntheticRecords, batches, chunks_of, needed_bytes
from agency_node.config import NodeConfig
from agency_node.faces.synthetic_embedder import synthetic_model
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.node import create_node, open_node
from crypto.limits import MAX_CHUNKS
from crypto.ring import N

_BATCH = 1 << 16
"""Records enrolled at a time, as `enrol_directions` does it."""


@dataclass(frozen=True)
class HolderPlan:
    """What to measure; `runs` of everything that is not the start."""

    records: int
    dimensions: int
    runs: int
    threads: int
    seed: int = 1


@dataclass(frozen=True)
class HolderResult:
    """Everything that one call measured; findings by name, as `holder_process` tells them."""

    plan: HolderPlan
    date: datetime
    machine: Machine
    enrol_s: float
    start_s: float
    modules_s: float
    found: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, object]:
        """For programs: one object."""
        plan, found = self.plan, self.found
        started, packed, waiting, renewed, changed = (found[name] for name in ("started", "packed", "waiting", "renewed", "changed"))
        steps = dict(packed["steps"])
        float_bytes = 4 * plan.records * plan.dimensions
        return {
            "benchmark": "holder",
            "date": self.date.isoformat(timespec="seconds"),
            "records": plan.records,
            "dimensions": plan.dimensions,
            "runs": plan.runs,
            "threads": plan.threads,
            "seed": plan.seed,
            "checked": True,
            "enrolled_per_second": plan.records / self.enrol_s,
            "start_s": self.start_s,
            "start_steps": [{"step": "interpreter and modules", "s": self.modules_s}]
            + [{"step": name, "s": seconds} for name, seconds in started["steps"]],
            "pack_steps": [{"step": name, "s": seconds} for name, seconds in packed["steps"]],
            "templates_per_second": plan.records / steps["templates packed"],
            "packed_bytes": packed["packed_bytes"],
            "float32_bytes": float_bytes,
            "started": started["resident"],
            "serving": packed["resident"],
            "resident_ratio": packed["resident"]["now"] / float_bytes,
            "start_peak_ratio": started["resident"]["peak"] / float_bytes,
            "renewal_peak_bytes": renewed["peak"],
            "renewal_peak_ratio": renewed["peak"] / float_bytes,
            "renewal_s": renewed["renewal"]["median_s"],
            "renewal": renewed["renewal"],
            "search_during_renewal": renewed["meanwhile"],
            "slowdown_during_renewal": renewed["slowdown"],
            "search_s": waiting["alone"]["median_s"],
            "search": waiting["alone"],
            "waiting_searches": WAITING,
            "waiting": waiting["together"],
            "waiting_s_per_search": waiting["together"]["median_s"] / WAITING,
            "waiting_ratio": waiting["together"]["median_s"] / WAITING / waiting["alone"]["median_s"],
            "add_s": changed["adding"]["median_s"],
            "add": changed["adding"],
            "expunge_s": changed["expunging"]["median_s"],
            "expunge": changed["expunging"],
            "machine": asdict(self.machine),
        }


def bench_holder(plan: HolderPlan, now: datetime, steps: Steps) -> HolderResult:
    """Measure. Raises a `BenchmarkError` instead of reporting a figure that stands on a wrong result."""
    scales = synthetic_model(plan.dimensions).scales
    chunks = chunks_of(plan.records, scales)
    if chunks > MAX_CHUNKS:
        raise GalleryTooLargeError(f"{plan.records:,} records do not fit into one answer of {MAX_CHUNKS:,} chunks: take fewer --records")
    one_layout = 4 * chunks * N * plan.dimensions
    check_memory(needed_bytes(plan.records, scales, beside_bytes=one_layout + plan.records * plan.dimensions))
    with tempfile.TemporaryDirectory(prefix="sealmatch-bench-") as folder:
        started = time.perf_counter()
        _enrol(plan, Path(folder) / "node", now, steps)
        enrol_s = time.perf_counter() - started
        with steps.step("starting a holder"):
            start = _run("start", Path(folder) / "node", plan)
        with steps.step("a holder serves: searches, a new layout, changes"):
            serve = _run("serve", Path(folder) / "node", plan)
    return HolderResult(plan, now, Machine.here(), enrol_s, start.since["started"], start.since["running"], {**start.found, **serve.found})


@dataclass(frozen=True)
class _Run:
    """What a process told, by name, and after how many seconds."""

    found: dict[str, dict[str, Any]]
    since: dict[str, float]


def _enrol(plan: HolderPlan, folder: Path, now: datetime, steps: Steps) -> None:
    """A holder's folder with that many sealed records."""
    config = NodeConfig.checked(
        {
            "agency": "benchmark-holder",
            "mode": "demo",
            "roles": ["holder"],
            "broker": "http://127.0.0.1:9",
            "root_fingerprint": "0" * 64,
            "trusted_custodians": ["benchmark-custodian"],
        }
    )
    create_node(folder, config, witness=False)
    node = open_node(folder, lambda: now)
    source, model = SyntheticRecords(plan.records, plan.dimensions, plan.seed), synthetic_model(plan.dimensions)
    store = RecordStore(node.engine, node.vault, model)
    with steps.step(f"enrolling {plan.records:,} records", batches(plan.records)) as done:
        for first in range(0, plan.records, _BATCH):
            last = min(plan.records, first + _BATCH)
            templates = np.empty((last - first, plan.dimensions), np.int8)
            source.write(templates, first, done, model.templates)
            store.add([NewRecord(f"s-{row}", CAPTURED, SOURCE_CLASS, templates[row - first]) for row in range(first, last)], now)
    node.engine.dispose()


def _run(action: str, folder: Path, plan: HolderPlan, *, clock: Callable[[], float] = time.perf_counter) -> _Run:
    started = clock()
    found: dict[str, dict[str, Any]] = {}
    since: dict[str, float] = {}
    argv = [sys.executable, "-m", "agency_node.bench.holder_process", action, str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own module
        if process.stdin is None or process.stdout is None:
            raise HolderEndedError("the holder's process has no pipes: please report this as a bug")
        process.stdin.write(json.dumps(asdict(plan)) + "\n")
        process.stdin.close()
        for line in process.stdout:
            told = json.loads(line)
            since[told["what"]] = clock() - started
            found[told["what"]] = told
    if "wrong" in found:
        raise WrongResultError(found["wrong"]["sentence"])
    if "done" not in found:
        raise HolderEndedError("the holder's process ended before it was done: take fewer --records, or look at what it wrote above")
    return _Run(found, since)
