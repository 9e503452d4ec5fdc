"""`sealmatch bench log`: how fast the public log takes entries, and how fast anybody verifies a whole one.

Made here: a roster of three witnesses, and a bundle of that many entries as a federation's searches make them, on the disk. Measured: the
offline verification of `sealmatch log verify BUNDLE`, whole (roster, signatures, every leaf, every tile, an earlier head, a party's
evidence); and appends to a broker's SQLite store, each on the disk before it is promised, in the process of `broker.append_bench`.

Invariants: nothing dials out; folders are temporary; each verification's counts are compared with what was made, and a bundle with one
exchanged entry must be refused, or there is no figure.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from agency_node.bench.errors import HolderEndedError, WrongResultError
from agency_node.bench.machine import Machine
from agency_node.bench.progress import Steps
from agency_node.bench.timing import PAUSE_S, Timing, timed
from agency_node.log_bundle import Bundle, verify_bundle, write_bundle
from agency_node.verification import ReadLog
from crypto.canonical import AgencyId
from crypto.checkpoint import Checkpoint, LogKey, SignedCheckpoint, sign_checkpoint
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.errors import TileError
from crypto.keys import SigningKey
from crypto.ledger import leaf_hash
from crypto.log_evidence import LogEvidence, ShownAct
from crypto.moments import round_moment, utc_day
from crypto.root_set import RootKey, RootSet
from crypto.roster import Roster, TrustedRoster
from crypto.roster_entries import Agency, AgencyClass, AgencyRole, Jurisdiction
from crypto.tiles import TILE_WIDTH, TilePath, pack_entries, unpack_entries
from crypto.witness import WitnessKey, cosign

ORIGIN: Final = "log.benchmark.example"
WITNESSES: Final = tuple(AgencyId(f"witness-{number}") for number in (1, 2, 3))
HOLDERS: Final = (AgencyId("holder-1"), AgencyId("holder-2"))
OPERATOR: Final = AgencyId("operator")
CAP: Final = 20
SHOWN: Final = 200
"""Searches of which a party shows its acts."""
_OF_A_SEARCH: Final = (
    (EntryKind.GRANT, None, 1),
    *((EntryKind.ANSWER, holder, 1) for holder in HOLDERS),
    *((EntryKind.OPENED_SCORES, holder, 2) for holder in HOLDERS),
    (EntryKind.RELEASE, None, CAP + 1),
    *((EntryKind.DISCLOSURE, holder, 1) for holder in HOLDERS),
)
"""Kind, author and commitments of each entry, in order."""


@dataclass(frozen=True)
class LogPlan:
    """What to measure: entries of the bundle, appends a run and how many callers make them."""

    entries: int
    appends: int
    callers: int
    runs: int


@dataclass(frozen=True)
class LogResult:
    """Everything that one call measured."""

    plan: LogPlan
    date: datetime
    machine: Machine
    bundle_bytes: int
    write_s: float
    verify: Timing
    together: Timing
    alone: Timing

    @property
    def appends_per_second(self) -> float:
        """Entries promised in a second, with all callers."""
        return self.plan.appends / self.together.median

    def as_json(self) -> dict[str, object]:
        """For programs: one object."""
        return {
            "benchmark": "log",
            "date": self.date.isoformat(timespec="seconds"),
            **asdict(self.plan),
            "checked": True,
            "bundle_bytes": self.bundle_bytes,
            "write_s": self.write_s,
            "verify_s": self.verify.median,
            "verify": self.verify.as_json(),
            "entries_verified_per_second": self.plan.entries / self.verify.median,
            "appends_per_second": self.appends_per_second,
            "append": self.together.as_json(),
            "appends_per_second_alone": self.plan.appends / self.alone.median,
            "append_alone": self.alone.as_json(),
            "machine": asdict(self.machine),
        }


def bench_log(plan: LogPlan, now: datetime, steps: Steps) -> LogResult:
    """Measure. Raises a `BenchmarkError` instead of reporting a figure that stands on a wrong result."""
    with tempfile.TemporaryDirectory(prefix="sealmatch-bench-") as folder:
        made = _Made.make(plan.entries, round_moment(now), steps)
        bundle = Bundle(Path(folder) / "bundle")
        with steps.step("writing the bundle"):
            write_s = timed(lambda: write_bundle(bundle.folder, made.note, made.read, made.trusted.data))
        made.verify(bundle)
        seconds = []
        with steps.step("verifying the bundle", plan.runs, timed=True) as done:
            for _ in range(plan.runs):
                time.sleep(PAUSE_S)
                seconds.append(timed(lambda: made.verify(bundle)))
                done()
        size = sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file())
        _forge(bundle)
        made.refuse(bundle)
        (Path(folder) / "broker").mkdir()
        with steps.step("appending"):
            together, alone = _append(plan, Path(folder) / "broker")
    return LogResult(plan, now, Machine.here(), size, write_s, Timing(tuple(seconds)), together, alone)


@dataclass(frozen=True)
class _Made:
    """A log, what was seen of it before, and what a holder shows."""

    now: datetime
    read: ReadLog
    note: SignedCheckpoint
    seen: SignedCheckpoint
    trusted: TrustedRoster
    evidence: LogEvidence

    @classmethod
    def make(cls, entries: int, now: datetime, steps: Steps) -> _Made:
        log_key, keys = SigningKey.generate(), {one: SigningKey.generate() for one in WITNESSES}
        trusted = _roster(log_key, keys, now)
        read = ReadLog()
        leaves = _leaves(entries, now)
        with steps.step(f"making {entries:,} entries"):
            for entry in leaves:
                read.append(entry.to_bytes())
        sizes = (max(1, entries // 2), entries)
        seen, bare = (sign_checkpoint(Checkpoint(ORIGIN, size, read.tree.root(size)), log_key) for size in sizes)
        roster, empty = trusted.possibly_expired, Checkpoint.empty(ORIGIN)
        lines = [
            cosign(bare, log=roster.log, previous=empty, proof=(), witness=witness, key=keys[witness.agency], now=now)
            for witness in roster.witness_keys()
        ]
        acts = sorted(_acts(min(SHOWN, entries // len(_OF_A_SEARCH))), key=lambda act: act.place)
        evidence = LogEvidence(HOLDERS[0], now, entries, entries, tuple(acts))
        return cls(now, read, bare.with_signatures(lines), seen, trusted, evidence)

    def verify(self, bundle: Bundle) -> None:
        """Verify it as `log verify` does, and compare what it tells with what was made."""
        report = verify_bundle(bundle, self.trusted, self.now, seen=[self.seen], evidence=lambda _: self.evidence)
        counted = (report.size, report.root, report.kinds, report.witnesses, report.acts)
        kinds = dict(sorted(self.read.kinds.items()))
        if counted != (self.read.tree.size, self.read.tree.root().hex(), kinds, len(WITNESSES), len(self.evidence.acts)):
            raise WrongResultError("the verification tells of another log than the one that was made: please report this as a bug")

    def refuse(self, forged: Bundle) -> None:
        """`WrongResultError` unless a forged bundle is refused."""
        try:
            self.verify(forged)
        except TileError:
            return
        raise WrongResultError("a bundle with an exchanged entry was taken for a true one: please report this as a bug")


def _leaves(count: int, now: datetime) -> Iterator[LogEntry]:
    day = utc_day(now)
    for number in range(count):
        kind, author, fields = _OF_A_SEARCH[number % len(_OF_A_SEARCH)]
        commitments = tuple(hashlib.sha256(b"%d %d" % (number, place)).digest() for place in range(fields))
        yield LogEntry(kind, day, entry_subject(kind, _grant(number // len(_OF_A_SEARCH)), author), commitments)


def _acts(searches: int) -> Iterator[ShownAct]:
    for number in range(searches):
        for kind, author, _ in _OF_A_SEARCH:
            if kind is not EntryKind.OPENED_SCORES and author in (None, HOLDERS[0]):
                yield ShownAct(_grant(number), kind, author)


def _grant(search: int) -> bytes:
    return hashlib.sha256(b"grant %d" % search).digest()


def _roster(log_key: SigningKey, keys: dict[AgencyId, SigningKey], now: datetime) -> TrustedRoster:
    agencies = tuple(
        Agency(
            agency_id=agency,
            display_name=str(agency),
            agency_class=AgencyClass.LOCAL,
            jurisdiction=Jurisdiction("us-benchmark"),
            roles=(AgencyRole.WITNESS,),
            responsible_officer="Benchmark",
            node_key=SigningKey.generate().verifying_key,
            witness=WitnessKey(f"{agency}.benchmark.example", key.verifying_key, agency),
        )
        for agency, key in sorted(keys.items())
    )
    root = SigningKey.generate()
    root_set = RootSet((RootKey(WITNESSES[0], root.verifying_key),), 1)
    roster = Roster(1, now + timedelta(days=1), root_set, LogKey(ORIGIN, log_key.verifying_key), OPERATOR, agencies)
    return TrustedRoster.pin(roster.sign(root), root_set.fingerprint, now)


def _forge(bundle: Bundle) -> None:
    """Exchange the last entry of the first bundle of entries for another that is as good by itself."""
    size = bundle.checkpoint().checkpoint.size
    width = min(size, TILE_WIDTH)
    path = bundle.folder / str(TilePath(None, 0, width))
    entries = unpack_entries(path.read_bytes(), width)
    last = LogEntry.from_bytes(entries[-1])
    forged = LogEntry(last.kind, last.day, last.subject, (leaf_hash(b"forged"),))
    path.write_bytes(pack_entries([*entries[:-1], forged.to_bytes()]))


def _append(plan: LogPlan, folder: Path) -> tuple[Timing, Timing]:
    argv = [sys.executable, "-m", "broker.append_bench", str(folder)]
    done = subprocess.run(argv, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 -- our own module
    told = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0 or not told or told[-1]["what"] != "done":
        raise HolderEndedError("the log's process ended before it was done: look at what it wrote above")
    appended = 2 * (plan.callers + plan.appends * plan.runs)
    if not told[-1]["right"] or told[-1]["size"] != appended:
        raise WrongResultError("the log does not hold the entries that were promised: please report this as a bug")
    counted = Counter(one["what"] for one in told)
    if (counted["together"], counted["alone"]) != (plan.runs, plan.runs):
        raise WrongResultError("the log's process told of another number of runs: please report this as a bug")
    together, alone = (Timing(tuple(one["seconds"] for one in told if one["what"] == name)) for name in ("together", "alone"))
    return together, alone
