"""A folder into which a booking system drops what is to be enrolled, and what becomes of each drop.

A drop is a folder in it with a table and photographs, or with ANSI/NIST-ITL files, or one such file in the folder itself::

    DROP/2026-11-23/…             waits until it is whole, then is taken: moved to
    DROP/working/ID/2026-11-23    while it is enrolled, and at the end to
    DROP/done/ID/2026-11-23       with `refused.csv` beside it if a row was refused, or to
    DROP/failed/ID/2026-11-23     with a `refused.csv` that says why, if the drop as a whole was none

Invariants
- A drop is taken whole: with its end marker where one is asked for; else when for `settle_s` nothing in it changed, in size or moment, as
  seen from here, and no file has an unfinished upload's name. A table whose pictures are not all there waits ten times as long.
- Each move is one `rename`, and the ledger's row is written before the last: a process that was killed at any moment goes on where it was,
  nothing is enrolled twice, no drop has two rows. Records are enrolled through `enrol`, which knows what it has by record number.
- What is wrong with a drop stops that drop alone: also one at which the program itself breaks off, which is not tried for ever.
- The ledger says which drop, how many and when; no name of a file, a person or a record.
- One process watches a folder. It looks at intervals, since a network share tells nobody of changes, and reads names and sizes only.

Left to others: what a table or a file must hold (`enrol` and its sources), the loop around it in a serving node (`watch_process`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, select

from agency_node.config import IntakeRules, ItlRules
from agency_node.errors import ConfigError, EnrolmentError, KnownRecordError, RequestError
from agency_node.faces.embedder import Embedder
from agency_node.holder.candidates import RefusedRow
from agency_node.holder.enrol import EnrolmentReport, enrol_folder, enrol_itl_files, write_refused
from agency_node.holder.portraying import Portrayer
from agency_node.holder.progress import NoProgress, Progress
from agency_node.holder.records import RecordStore
from agency_node.holder.table_source import read_table
from agency_node.journal import DONE, FAILED, NO_SEARCH, record
from agency_node.retiring import check_takes_new
from agency_node.tables import ledger

ITL_SUFFIXES: Final = frozenset({".an2", ".ebts", ".eft", ".itl", ".nist"})
UNFINISHED: Final = frozenset({".crdownload", ".filepart", ".part", ".partial", ".tmp"})
"""Endings that programs give to what they have not written to its end."""
REFUSED_CSV: Final = "refused.csv"
_WORKING, _DONE, _FAILED = "working", "done", "failed"
_OURS: Final = frozenset({_WORKING, _DONE, _FAILED, REFUSED_CSV})
_LOCK, _ATTEMPTS = ".lock", ".attempts"
_PATIENCE: Final = 10
"""So many times `settle_s` a table waits for pictures that it names."""
_MOST_ATTEMPTS: Final = 5
"""Beginnings of a drop that ended without its end and enrolled nothing: then it is told, and the next one is not kept waiting."""
_ENROLLED, _BROKEN = "drop enrolled", "drop failed"
_DROP: Final = "drop"
"""The code of a drop, or a table of it, that cannot be used as a whole."""
_ID_TIME: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Sources:
    """What a drop holds: tables, each with its photographs beside it, and ANSI/NIST-ITL files."""

    tables: tuple[Path, ...] = field(repr=False)
    itl_files: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class Enrolment:
    """The node's own way of enrolling, for each source of a drop."""

    store: RecordStore
    embedder: Embedder
    portrayer: Portrayer
    itl: ItlRules
    allow_demonstration: bool
    clock: Callable[[], datetime]

    def table(self, path: Path, progress: Progress) -> EnrolmentReport:
        """Enrol what a table names, from the folder in which it lies."""
        now, allowed = self.clock(), self.allow_demonstration
        given = (self.store, self.embedder, path.parent, path, progress, now)
        return enrol_folder(*given, allow_demonstration=allowed, portrayer=self.portrayer)

    def itl_files(self, files: Sequence[Path], progress: Progress) -> EnrolmentReport:
        """Enrol ANSI/NIST-ITL files."""
        return enrol_itl_files(self.store, self.embedder, files, self.itl, progress, self.clock(), portrayer=self.portrayer)


@dataclass(frozen=True)
class DropReport:
    """What became of one drop. `failed` says why it was none, and is empty for one that was enrolled."""

    drop: str
    enrolled: int
    already_enrolled: int
    refused: int
    failed: str = ""


@dataclass(frozen=True)
class _Seen:
    """A drop that waits: what it looked like, and since when."""

    looks: bytes
    since: float


class _StoppedError(Exception):
    """The watcher was told to stop in the middle of a drop."""


class _Stoppable(NoProgress):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def advance(self, count: int = 1) -> None:
        """Between two pictures is where a drop may be left."""
        if self._stop.is_set():
            raise _StoppedError


class Watcher:
    """Takes the drops of one folder, one after the other. Not for two threads at once."""

    def __init__(
        self,
        folder: Path,
        rules: IntakeRules,
        engine: Engine,
        enrolment: Enrolment,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        stop: threading.Event,
    ) -> None:
        """`monotonic` gives seconds that never go back; whoever sets `stop` ends `watch`, within one picture's work."""
        self._folder = folder
        self._rules = rules
        self._engine = engine
        self._enrolment = enrolment
        self._clock = clock
        self._monotonic = monotonic
        self._stop = stop
        self._waiting: dict[str, _Seen] = {}

    @property
    def waiting(self) -> int:
        """Drops that were not whole at the last look."""
        return len(self._waiting)

    def watch(self, told: Callable[[DropReport], None], *, once: bool = False) -> None:
        """Look, take what is whole, tell of each drop, until stopped; `once` ends after one `settle_s`, in which a drop shows that
        it is whole.

        `ConfigError` when the folder cannot be used, `RequestError` when another process watches it.
        """
        with self.alone():
            for report in self.left_over():
                told(report)
            marked, looks = bool(self._rules.end_marker), 0
            while not self._stop.is_set():
                for report in self.look():
                    told(report)
                looks += 1
                if once and (looks > 1 or marked or not self._waiting or not self._rules.settle_s):
                    return
                self._stop.wait(self._rules.settle_s if once else self._rules.every_s)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other process from watching the folder; `RequestError` when one does."""
        try:
            for name in (_WORKING, _DONE, _FAILED):
                (self._folder / name).mkdir(exist_ok=True)
            lock = (self._folder / _WORKING / _LOCK).open("w", encoding="ascii")
        except OSError as error:
            raise _unusable(error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RequestError("another process watches this folder, a serving node perhaps: leave it to that, or stop it") from error
            yield

    # --- which are whole ---

    def look(self) -> Iterator[DropReport]:
        """Take the drops that are whole, in the order of their names; note what others look like. `RetiredError` where a node leaves."""
        check_takes_new(self._engine)
        try:
            entries = sorted((one for one in os.scandir(self._folder) if self._may_be_drop(one)), key=lambda one: one.name)
        except OSError as error:
            raise _unusable(error) from error
        self._waiting = {one.name: self._waiting[one.name] for one in entries if one.name in self._waiting}
        for entry in entries:
            if self._stop.is_set():
                return
            if self._is_whole(Path(entry.path)):
                del self._waiting[entry.name]
                yield from self._carried_out(self._taken(Path(entry.path)), fresh=True)
        self._forget_old()

    @staticmethod
    def _may_be_drop(entry: os.DirEntry[str]) -> bool:
        if entry.name in _OURS or entry.name.startswith(".") or entry.is_symlink():
            return False
        return entry.is_dir() or Path(entry.name).suffix.lower() in ITL_SUFFIXES

    def _is_whole(self, path: Path) -> bool:
        """Whether nothing more comes; what it looks like is noted for the next look."""
        now = self._monotonic()
        try:
            names, looks = _looks_of(path)
        except OSError:  # it was moved or deleted while it was looked at
            names, looks = [], b""
        before = self._waiting.get(path.name)
        if before is None or before.looks != looks:
            before = self._waiting[path.name] = _Seen(looks, now)
        if not names or any(Path(name).suffix.lower() in UNFINISHED for name in names):
            return False
        marker = self._rules.end_marker
        if marker:
            return marker in names if path.is_dir() else path.with_name(f"{path.name}.{marker}").exists()
        found = sources_of(path)
        if not found.tables and not found.itl_files:
            return False
        still = now - before.since
        return still >= self._rules.settle_s * _PATIENCE or (still >= self._rules.settle_s and _has_its_pictures(found))

    def _taken(self, path: Path) -> Path:
        """Move a drop to a place of its own; that place."""
        place = self._folder / _WORKING / f"{self._clock().strftime(_ID_TIME)}-{os.urandom(4).hex()}"
        marker = path.with_name(f"{path.name}.{self._rules.end_marker}")
        try:
            place.mkdir()
            path.rename(place / path.name)
            if self._rules.end_marker and marker.is_file():
                marker.unlink()
        except OSError as error:
            raise _unusable(error) from error
        return place

    # --- what becomes of one ---

    def left_over(self) -> Iterator[DropReport]:
        """Go on with what a process that was ended had taken."""
        try:
            places = sorted(one for one in (self._folder / _WORKING).iterdir() if one.is_dir())
        except OSError as error:
            raise _unusable(error) from error
        for place in places:
            if self._stop.is_set():
                return
            yield from self._carried_out(place, fresh=False)

    def _carried_out(self, place: Path, *, fresh: bool) -> Iterator[DropReport]:
        """Enrol a taken drop, write it down, move it to its end; nothing if it is to be tried again, or was done but for the move."""
        try:
            inside = [one for one in place.iterdir() if one.name not in {REFUSED_CSV, _ATTEMPTS}]
            if not inside:
                shutil.rmtree(place)  # ended before the drop was moved here
                return
            event = None if fresh else self._written_down(place.name)
            if event is None:
                report = self._enrolled(place, inside[0])
                if report is None:
                    return
                self._write_down(report)
                event = _BROKEN if report.failed else _ENROLLED
                yield report
            (place / _ATTEMPTS).unlink(missing_ok=True)
            place.rename(self._folder / (_FAILED if event == _BROKEN else _DONE) / place.name)
        except OSError as error:
            raise _unusable(error) from error

    def _enrolled(self, place: Path, path: Path) -> DropReport | None:
        """The drop's report, with what was refused beside it; None when it is to be tried again."""
        if self._breaks_off(place):
            says = f"the program broke off {_MOST_ATTEMPTS} times at this drop: enrol its parts one by one, and tell the maker which it is"
            return _failed(place, path, says)
        sources = sources_of(path)
        if not sources.tables and not sources.itl_files:
            return _failed(place, path, "the drop holds neither a table (.csv) nor ANSI/NIST-ITL files: drop both table and pictures")
        done: list[EnrolmentReport] = []
        refused: list[RefusedRow] = []
        given: list[Path | tuple[Path, ...]] = [*sources.tables, *([sources.itl_files] if sources.itl_files else [])]
        for source in given:
            try:
                done.append(self._source(source))
            except _StoppedError:
                (place / _ATTEMPTS).unlink()
                return None
            except EnrolmentError as error:
                name = source.name if isinstance(source, Path) else ""
                refused.append(RefusedRow(0, name, "", _DROP, str(error)))
        failed = "" if done else refused[0].reason
        refused += [row for one in done for row in one.refused]
        if refused:
            write_refused(place / REFUSED_CSV, refused)
        return DropReport(place.name, sum(one.enrolled for one in done), sum(one.already_enrolled for one in done), len(refused), failed)

    def _source(self, source: Path | tuple[Path, ...]) -> EnrolmentReport:
        """Enrol a table, or files; anew when another process enrolled a record of it in between."""
        progress = _Stoppable(self._stop)
        for _ in range(_MOST_ATTEMPTS):
            with suppress(KnownRecordError):
                if isinstance(source, Path):
                    return self._enrolment.table(source, progress)
                return self._enrolment.itl_files(source, progress)
        raise EnrolmentError("another process enrols the same records again and again: end it, and drop this again")

    def _breaks_off(self, place: Path) -> bool:
        """Note one more beginning; whether the last ones all ended without an end, and without a record more."""
        path, now = place / _ATTEMPTS, str(self._enrolment.store.changes())
        before = path.read_text(encoding="ascii").split() if path.exists() else []
        if before[-_MOST_ATTEMPTS:] == [now] * _MOST_ATTEMPTS:
            return True
        with path.open("a", encoding="ascii") as file:
            file.write(f"{now}\n")
        return False

    def _write_down(self, report: DropReport) -> None:
        counts = f"enrolled {report.enrolled}, already there {report.already_enrolled}, refused {report.refused}"
        event, outcome = (_BROKEN, FAILED) if report.failed else (_ENROLLED, DONE)
        with self._engine.begin() as connection:
            record(connection, self._clock(), NO_SEARCH, event, counts, subject=f"drop {report.drop}", outcome=outcome)

    def _written_down(self, drop: str) -> str | None:
        """What the ledger says became of a drop."""
        rows = select(ledger.c.event).where(ledger.c.event.in_((_ENROLLED, _BROKEN)), ledger.c.subject == f"drop {drop}")
        with self._engine.begin() as connection:
            event: str | None = connection.execute(rows.limit(1)).scalar()
        return event

    def _forget_old(self) -> None:
        """Delete drops that have been done for longer than they are kept: pictures in the clear are not kept for ever (R25)."""
        if not self._rules.keep_days:
            return
        last = (self._clock() - timedelta(days=self._rules.keep_days)).strftime(_ID_TIME)
        for end in (_DONE, _FAILED):
            for place in (self._folder / end).iterdir():
                if place.is_dir() and place.name.split("-")[0] < last:
                    shutil.rmtree(place, ignore_errors=True)


def sources_of(path: Path) -> Sources:
    """The tables and ANSI/NIST-ITL files of a drop, by name; links, which may lead anywhere, are none."""
    inside = [path]
    if path.is_dir():
        inside = sorted(one for one in path.iterdir() if one.is_file() and not one.is_symlink() and not one.name.startswith("."))
    tables = tuple(one for one in inside if one.suffix.lower() == ".csv")
    return Sources(tables, tuple(one for one in inside if one.suffix.lower() in ITL_SUFFIXES))


def _looks_of(path: Path) -> tuple[list[str], bytes]:
    """The names of a drop's files, and a digest of names, sizes and moments of change."""
    found: list[tuple[str, int, int]] = []
    if path.is_dir():
        for folder, _, files in os.walk(path):
            for name in files:
                status = os.lstat(os.path.join(folder, name))
                found.append((os.path.relpath(os.path.join(folder, name), path), status.st_size, status.st_mtime_ns))
    elif stat.S_ISREG((status := path.lstat()).st_mode):
        found.append((path.name, status.st_size, status.st_mtime_ns))
    found.sort()
    return [name for name, _, _ in found], hashlib.sha256(repr(found).encode("utf-8", "surrogatepass")).digest()


def _has_its_pictures(sources: Sources) -> bool:
    """Whether every file that the tables name is there; a table that is none has all that it will have."""
    for path in sources.tables:
        try:
            table = read_table(path)
        except EnrolmentError:
            continue
        column = table.columns.index("file")
        names = [cells[column].strip() for _, cells in table.rows if len(cells) == len(table.columns)]
        if not all(_is_there(path.parent, name) for name in names):
            return False
    return True


def _is_there(folder: Path, name: str) -> bool:
    try:
        return (folder / name).exists()
    except (OSError, ValueError):
        return True  # a name that no file can have is for the enrolment to refuse


def _failed(place: Path, path: Path, why: str) -> DropReport:
    write_refused(place / REFUSED_CSV, [RefusedRow(0, path.name, "", _DROP, why)])
    return DropReport(place.name, 0, 0, 0, why)


def _unusable(error: OSError) -> ConfigError:
    says = "the folder of drops cannot be used: it must be there, on one file system, and this account must be allowed to write into it"
    return ConfigError(f"{says} ({os.strerror(error.errno or 0)})")
