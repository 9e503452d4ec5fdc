"""`sealmatch bench search`: from an approved grant to leads, every party a process of its own, over HTTP; FAISS in the clear beside it.

The clock starts when the reviewer's signature has made a draft a grant in the requester's store, and ends when that store has the leads
with their stubs. Between lie log, cosignatures, probe, scan, answer, opening, release, stubs, each with its envelopes, signatures,
transactions.

Invariants: every run is a fresh search, under a fresh grant of a fresh case, for another synthetic record; a figure is reported only when
each run's first lead was the record that was sought, which the holder's own store says; runs of ours and of FAISS take turns; the first
search is a rehearsal that does not count. Nothing records in the timed path: nodes dial the broker directly, or through `link_proxy` where
lines are to be slow.

Left to others: the parties and their records (`parties`), moments and bytes of the steps (`moments`), the result's form (`search_result`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from agency_node.bench.clear import ClearSetup, clear_setups, load_faiss
from agency_node.bench.errors import WrongResultError
from agency_node.bench.machine import Machine, check_memory
from agency_node.bench.moments import carried, layout_of, log_bytes, read_only, step_seconds
from agency_node.bench.parties import BenchParties
from agency_node.bench.progress import Steps
from agency_node.bench.search_result import Run, SearchPlan, SearchResult
from agency_node.bench.synthetic import SyntheticRecords, needed_bytes
from agency_node.bench.timing import PAUSE_S, timed
from agency_node.demo.federation import NORTHPORT
from agency_node.requester.leads import list_leads
from crypto.embedding import F32
from crypto.layout import LAYOUT_USES
from crypto.parameters import Scales

SEARCH_S: Final = 600.0
"""A search that takes longer is given up."""
POLL_S: Final = 0.003
"""How often the requester's store is looked at: the resolution of the clock's end."""
_TRIALS: Final = 5
"""Runs of each FAISS set-up from which the fastest is chosen."""
_PROCESS_BYTES: Final = 1 << 28
"""What a party holds before it has records."""


@dataclass
class _Clear:
    """FAISS's fastest set-up, built; `query` is what it searches next, float32[1, D]."""

    setup: ClearSetup
    query: F32 = field(repr=False)

    def timed(self, sought: F32, row: int) -> float:
        """Seconds of one search, after one that does not count; `WrongResultError` when another record comes first."""
        self.query[0] = sought
        nearest = self.setup.search()
        if int(nearest.rows[0, 0]) != row:
            raise WrongResultError(f"FAISS ({self.setup.name}) finds another record than the one sought: please report this as a bug")
        time.sleep(PAUSE_S)
        return timed(self.setup.search)


def bench_search(plan: SearchPlan, folder: Path, now: datetime, steps: Steps) -> SearchResult:
    """Measure, with the parties' folders in `folder`. Raises a `BenchmarkError` instead of reporting a figure of a wrong result."""
    if plan.with_faiss:
        load_faiss()
    check_memory(_needed_bytes(plan))
    source = SyntheticRecords(plan.records * plan.holders, plan.dimensions, plan.seed)
    rehearsal, *sought = source.sought_rows(plan.runs + 1)
    with _clear(plan, source, rehearsal, steps) as clear, closing(BenchParties(plan, source, folder)) as parties:
        enrol_s = timed(lambda: parties.enrol(steps))
        with steps.step("starting every party"):
            start_s = timed(parties.start)
        with steps.step("one search as a rehearsal", timed=True):
            _one_search(plan, parties, rehearsal)
        runs = []
        with steps.step("timing searches", plan.runs, timed=True) as done:
            for row in sought:
                time.sleep(PAUSE_S)
                run = _one_search(plan, parties, row)
                if clear is not None:
                    run = replace(run, faiss_s=clear.timed(source.embedding_like(row).astype(np.float32), row))
                runs.append(run)
                done()
        return SearchResult(
            plan=plan,
            date=now,
            machine=Machine.here(),
            runs=tuple(runs),
            roles=parties.roles,
            peaks=parties.peak_memory_bytes(),
            faiss_setup=None if clear is None else clear.setup.name,
            enrol_s=enrol_s,
            start_s=start_s,
        )


@contextmanager
def _clear(plan: SearchPlan, source: SyntheticRecords, row: int, steps: Steps) -> Iterator[_Clear | None]:
    """FAISS over all records, in the set-up whose median is the least; one float32 copy of the records exists at a time."""
    if not plan.with_faiss:
        yield None
        return
    query = source.embedding_like(row).astype(np.float32)[None]
    medians: dict[str, float] = {}
    for setup in clear_setups(source, query, plan.threads, steps):
        setup.search()
        medians[setup.name] = sorted(timed(setup.search) for _ in range(_TRIALS))[_TRIALS // 2]
    best = min(medians, key=lambda name: medians[name])
    setups = clear_setups(source, query, plan.threads, steps)
    try:
        yield _Clear(next(setup for setup in setups if setup.name == best), query)
    finally:
        setups.close()  # type: ignore[attr-defined]  # it is a generator, which holds the index


def _one_search(plan: SearchPlan, parties: BenchParties, row: int) -> Run:
    """One search for the record of that row, checked; the draft is made and reviewed before the clock starts."""
    wire = parties.wire_counts()
    last_layouts = parties.layouts
    search_id = parties.granted(row)
    started = time.time()
    _wait(parties, search_id)
    ended = time.time()
    _check_first_lead(parties, search_id, row)
    parties.layouts = {holder: layout_of(parties.database(holder), search_id) for holder in parties.holders}
    return Run(
        seconds=ended - started,
        steps=step_seconds(parties.databases, search_id, started, ended),
        messages=tuple(carried(parties.broker_database, search_id)),
        log_bytes=log_bytes(parties.broker_database, search_id),
        renewed=bool(last_layouts) and last_layouts != parties.layouts,
        wire={name: count - wire[name] for name, count in parties.wire_counts().items()},
    )


def _wait(parties: BenchParties, search_id: str) -> None:
    """Until the requester has handled every holder's stubs."""
    until, number, version = time.monotonic() + SEARCH_S, 0, -1
    with closing(read_only(parties.database(NORTHPORT))) as reader:
        while True:
            ((now_at,),) = reader.execute("PRAGMA data_version")
            if now_at == version:  # nothing was written: looking costs the parties no time
                time.sleep(POLL_S)
                continue
            version = now_at
            ((state, note),) = reader.execute("SELECT state, note FROM searches WHERE search_id = ?", (search_id,))
            if state == "released":
                stubs = "SELECT count(*) FROM inbox WHERE search_id = ? AND message_type = 'stubs' AND state = 'done'"
                ((came,),) = reader.execute(stubs, (search_id,))
                if came == len(parties.holders):
                    return
            if state in ("refused", "expired") or time.monotonic() > until:
                raise WrongResultError(f"a search that should have been released is {state} ({note}): please report this as a bug")
            number += 1
            if number % 256 == 0:
                parties.federation.check_alive()
            time.sleep(POLL_S)


def _check_first_lead(parties: BenchParties, search_id: str, row: int) -> None:
    """The lead of rank 1 is the record that was sought, by its holder's own store."""
    leads = list_leads(parties.requester.engine, parties.requester.vault, search_id)
    holder, number = parties.place_of(row)
    if not leads or leads[0].rank != 1 or leads[0].agency != holder or parties.record_number(holder, leads[0].handle) != number:
        raise WrongResultError("the first lead of a search is not the record that was sought: please report this as a bug")


def _needed_bytes(plan: SearchPlan) -> int:
    """Most memory of all processes together: galleries, twice while a layout is renewed, and FAISS's vectors."""
    packed = needed_bytes(plan.records, Scales(plan.dimensions), beside_bytes=0)
    renewed = packed if plan.runs + 1 > LAYOUT_USES else 0
    faiss = 4 * plan.records * plan.dimensions if plan.with_faiss else 0
    return plan.holders * (packed + renewed + faiss) + (3 + plan.holders) * _PROCESS_BYTES
