"""A folder of drops: what is taken and when, what becomes of it, and a process that is ended at any moment."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing import active_children
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import IntakeRules, ItlRules
from agency_node.errors import ConfigError, RequestError, RetiredError
from agency_node.faces.embedder import Face
from agency_node.faces.image import Pixels
from agency_node.holder.portraying import Portrayer
from agency_node.holder.records import RecordStore
from agency_node.holder.watch_process import keep_watching
from agency_node.holder.watching import DropReport, Enrolment, Watcher
from agency_node.retiring import Stage, enter_stage
from agency_node.store import open_store
from agency_node.tables import ledger
from agency_node.vault import Vault
from tests.booking_run import intake_node, marked, opened_store, stored
from tests.face_samples import OneFaceEmbedder, plain_picture
from tests.test_itl_source import BlueEmbedder, message

KEY = bytes(range(32))
HEADER = "file,record_number,captured,source_class\n"


@dataclass
class World:
    """A folder of drops, the store behind it, and a clock that a test turns."""

    folder: Path
    engine: Engine
    store: RecordStore
    embedder: OneFaceEmbedder
    rules: IntakeRules
    now: datetime = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
    seconds: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def watcher(self) -> Watcher:
        enrolment = Enrolment(self.store, self.embedder, Portrayer(self.embedder), ItlRules(), False, lambda: self.now)
        return Watcher(self.folder, self.rules, self.engine, enrolment, lambda: self.now, lambda: self.seconds, self.stop)

    def look(self, watcher: Watcher, *, after: float = 0) -> list[DropReport]:
        """One look, so many seconds after the last."""
        self.seconds += after
        with watcher.alone():
            return [*watcher.left_over(), *watcher.look()]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """What the ledger says of drops."""
        of_drops = select(ledger.c.event, ledger.c.subject, ledger.c.outcome, ledger.c.detail).where(ledger.c.event.like("drop %"))
        with self.engine.begin() as connection:
            return [tuple(row) for row in connection.execute(of_drops.order_by(ledger.c.sequence))]

    def place(self, end: str, report: DropReport) -> Path:
        return self.folder / end / report.drop

    def refused(self, end: str, report: DropReport) -> list[dict[str, str]]:
        with (self.place(end, report) / "refused.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return a_world(tmp_path)


def a_world(folder: Path, embedder: OneFaceEmbedder | None = None, **rules: object) -> World:
    (folder / "drop").mkdir(parents=True)
    engine, seen = open_store(folder / "node.sqlite"), embedder or OneFaceEmbedder()
    return World(folder / "drop", engine, RecordStore(engine, Vault(KEY), seen.model), seen, IntakeRules(**rules))  # type: ignore[arg-type]


def drop(world: World, name: str, first: int, count: int, *, table: bool = True, pictures: int | None = None) -> Path:
    """A folder with a table and pictures; `pictures` of them, all if left out."""
    folder = world.folder / name
    folder.mkdir(exist_ok=True)
    for number in range(first, first + (count if pictures is None else pictures)):
        (folder / f"{number}.png").write_bytes(plain_picture(number))
    if table:
        rows = "".join(f"{number}.png,R-{number},2019-05-04,criminal_booking\n" for number in range(first, first + count))
        (folder / "bookings.csv").write_text(HEADER + rows)
    return folder


# --- when a drop is whole ---------------------------------------------------------------------------------------------


def test_a_drop_is_taken_once_nothing_of_it_has_changed_for_long_enough(world: World) -> None:
    """A file that grows, a file that comes, an upload's name: each is waited for, and the next drop is not kept waiting."""
    watcher = world.watcher()
    writing = drop(world, "monday", 0, 3)
    assert world.look(watcher) == []
    assert watcher.waiting == 1
    with (writing / "0.png").open("ab") as file:
        file.write(b"more")
    drop(world, "tuesday", 10, 2)
    assert world.look(watcher, after=59) == []
    assert world.look(watcher, after=2) == []  # both have changed within the last minute, as seen from here
    (writing / "0.png").write_bytes(plain_picture(0))
    (writing / "late.png.filepart").write_bytes(b"half of a picture")
    (first,) = world.look(watcher, after=60)
    assert (first.enrolled, first.refused, first.failed) == (2, 0, "")
    assert (world.folder / "done" / first.drop / "tuesday" / "bookings.csv").is_file()
    assert world.look(watcher, after=1000) == []  # the upload's name is still there
    (writing / "late.png.filepart").unlink()
    assert world.look(watcher) == []
    (second,) = world.look(watcher, after=60)
    assert (second.enrolled, world.store.count(), watcher.waiting) == (3, 5, 0)
    assert sorted(path.name for path in world.folder.iterdir()) == ["done", "failed", "working"]


def test_a_table_waits_longer_for_pictures_that_it_names_and_not_for_ever(world: World) -> None:
    watcher = world.watcher()
    folder = drop(world, "monday", 0, 3, pictures=2)
    for after in (0, 61, 61):
        assert world.look(watcher, after=after) == []
    (folder / "2.png").write_bytes(plain_picture(2))
    assert world.look(watcher) == []
    (report,) = world.look(watcher, after=60)
    assert (report.enrolled, report.refused) == (3, 0)
    drop(world, "tuesday", 10, 3, pictures=2)
    assert world.look(watcher) == []
    assert world.look(watcher, after=599) == []
    (report,) = world.look(watcher, after=1)
    assert (report.enrolled, report.refused) == (2, 1)
    (row,) = world.refused("done", report)
    assert (row["line"], row["file"], row["record_number"], row["code"]) == ("4", "12.png", "R-12", "missing")


def test_pictures_without_a_table_wait_for_it(world: World) -> None:
    watcher = world.watcher()
    drop(world, "monday", 0, 3, table=False)
    (world.folder / "empty").mkdir()
    for _ in range(3):
        assert world.look(watcher, after=5000) == []
    assert watcher.waiting == 2
    drop(world, "monday", 0, 3)
    assert world.look(watcher) == []
    assert world.look(watcher, after=60)[0].enrolled == 3


def test_a_node_that_leaves_takes_no_drop(world: World) -> None:
    drop(world, "friday", 0, 1)
    with world.engine.begin() as connection:
        enter_stage(connection, Stage.LEAVING, "2026-11-30T12:00:00.00Z")
    with pytest.raises(RetiredError, match="takes nothing new"):
        world.look(world.watcher(), after=3600)
    assert (world.folder / "friday" / "bookings.csv").exists()


def test_an_end_marker_is_waited_for_and_nothing_else(tmp_path: Path) -> None:
    world = a_world(tmp_path, BlueEmbedder(), end_marker="complete")
    watcher = world.watcher()
    folder = drop(world, "monday", 0, 2, table=False)
    (folder / "pictures.csv").write_text(HEADER)
    (world.folder / "one.an2").write_bytes(message())
    assert world.look(watcher, after=100_000) == []
    assert world.look(watcher, after=100_000) == []
    (folder / "complete").touch()
    (world.folder / "one.an2.complete").touch()
    first, second = world.look(watcher)
    assert (first.enrolled, second.enrolled) == (0, 1)
    assert not (world.folder / "one.an2.complete").exists()
    assert world.store.record(0).record_number == "J-2026-0001"


def test_exchange_files_are_drops_alone_or_in_a_folder(tmp_path: Path) -> None:
    """Beside them in a folder other files are nobody's business: the export's log, hidden files of a file manager."""
    world = a_world(tmp_path, BlueEmbedder(), settle_s=0)
    (world.folder / "one.AN2").write_bytes(message(number="J-1"))
    (world.folder / "readme.txt").write_text("not a drop")
    (world.folder / ".hidden").mkdir()
    os.symlink("/etc", world.folder / "link")
    both = world.folder / "both"
    both.mkdir()
    for number in (2, 3):
        (both / f"{number}.itl").write_bytes(message(number=f"J-{number}"))
    (both / "export.log").write_text("fine")
    (both / ".DS_Store").write_bytes(b"\0")
    os.symlink(world.folder.parent / "node.sqlite", both / "elsewhere.an2")
    reports = world.look(world.watcher())
    assert [(one.enrolled, one.refused, one.failed) for one in reports] == [(2, 0, ""), (1, 0, "")] or [
        one.enrolled for one in reports
    ] == [
        1,
        2,
    ]
    assert {world.store.record(row).record_number for row in range(3)} == {"J-1", "J-2", "J-3"}
    assert {path.name for path in world.folder.iterdir()} == {"readme.txt", ".hidden", "link", "done", "failed", "working"}


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_a_broken_drop_stops_itself_alone_and_the_ledger_names_nobody(tmp_path: Path) -> None:
    world = a_world(tmp_path, settle_s=0)
    bad = drop(world, "a-broken", 0, 1)
    (bad / "bookings.csv").write_text("file;record_number\n")
    mixed = drop(world, "b-smith-john", 10, 2)
    (mixed / "second.csv").write_text("no table")
    with (mixed / "bookings.csv").open("a") as file:
        file.write("10.png,R-99,2019-05-04,civil\n")
    drop(world, "c-good", 20, 2)
    broken, partly, good = world.look(world.watcher())
    assert "first line names the columns" in broken.failed
    assert world.place("failed", broken).is_dir()
    assert [row["code"] for row in world.refused("failed", broken)] == ["drop"]
    assert (partly.enrolled, partly.refused, partly.failed) == (2, 2, "")
    assert [(row["code"], row["file"]) for row in world.refused("done", partly)] == [("drop", "second.csv"), ("source-class", "10.png")]
    assert (good.enrolled, good.refused, (world.place("done", good) / "refused.csv").exists()) == (2, 0, False)
    rows = world.rows()
    assert [(event, subject, outcome) for event, subject, outcome, _ in rows] == [
        ("drop failed", f"drop {broken.drop}", "failed"),
        ("drop enrolled", f"drop {partly.drop}", "done"),
        ("drop enrolled", f"drop {good.drop}", "done"),
    ]
    assert rows[1][3] == "enrolled 2, already there 0, refused 2"
    assert all(re.fullmatch(r"drop 20261123T021500Z-[0-9a-f]{8}", subject) for _, subject, _, _ in rows)


def test_the_same_drop_again_enrols_nothing_and_looks_at_no_picture(tmp_path: Path) -> None:
    world = a_world(tmp_path, settle_s=0)
    watcher = world.watcher()
    for expected in ((2, 0), (0, 2)):
        drop(world, "monday", 0, 2)
        (report,) = world.look(watcher)
        assert (report.enrolled, report.already_enrolled) == expected
    assert world.embedder.seen == 2


def test_drops_that_are_done_are_not_kept_for_ever(tmp_path: Path) -> None:
    world = a_world(tmp_path, settle_s=0, keep_days=30)
    watcher = world.watcher()
    drop(world, "monday", 0, 1)
    (report,) = world.look(watcher)
    for days, there in ((30, True), (1, False)):
        world.now += timedelta(days=days)
        world.look(watcher)
        assert world.place("done", report).exists() is there


def test_one_process_watches_a_folder_and_a_folder_that_is_none_is_said(world: World) -> None:
    watcher = world.watcher()
    with watcher.alone(), pytest.raises(RequestError, match="another process watches this folder"):
        world.look(world.watcher())
    assert world.look(world.watcher()) == []
    shutil.rmtree(world.folder)
    with pytest.raises(ConfigError, match="cannot be used: it must be there"):
        world.look(watcher)


def test_told_to_stop_it_leaves_a_drop_between_two_pictures_and_goes_on_with_it(tmp_path: Path) -> None:
    class StopAt(OneFaceEmbedder):
        def faces(self, pixels: Pixels) -> list[Face]:
            if self.seen == 40:
                seen_by.stop.set()
            return super().faces(pixels)

    world = seen_by = a_world(tmp_path, StopAt(), settle_s=0)
    drop(world, "monday", 0, 70)
    assert world.look(world.watcher()) == []
    assert (world.store.count(), world.rows()) == (32, [])
    world.stop.clear()
    world.embedder.seen = 100
    (report,) = world.look(world.watcher())
    assert (report.enrolled, report.already_enrolled) == (38, 32)


# --- ended at any moment ----------------------------------------------------------------------------------------------


class EndedError(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


class EndsAt:
    """Ends whoever touches files under a folder, at the nth time; an audit hook, which cannot be taken away, only switched off."""

    EVENTS = ("os.rename", "os.mkdir", "os.remove", "open", "shutil.rmtree", "os.rmdir")

    def __init__(self) -> None:
        self.folder, self.left = "", -1
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[object, ...]) -> None:
        if self.left < 0 or event not in self.EVENTS or not str(given[0]).startswith(self.folder):
            return
        self.left -= 1
        if self.left < 0:
            raise EndedError

    def run(self, folder: Path, after: int, work: Callable[[], object]) -> bool:
        """Whether the work ended by itself before so many touches."""
        self.folder, self.left = str(folder), after
        try:
            work()
        except EndedError:
            return False
        finally:
            self.left = -1
        return True


@pytest.fixture(scope="module")
def ends_at() -> EndsAt:
    return EndsAt()


def test_ended_at_any_touch_of_a_file_it_goes_on_and_does_nothing_twice(tmp_path: Path, ends_at: EndsAt) -> None:
    """Every place between two touches of the folder; in the end each record once, each drop one row and one place, with its list."""
    world, touches = a_world(tmp_path, settle_s=0), 0
    while True:
        world.folder = tmp_path / f"drop-{touches}"
        world.folder.mkdir()
        first, rows = 10 * touches, len(world.rows())
        drop(world, "monday", first, 3)
        (world.folder / "monday" / f"{first + 1}.png").write_bytes(b"no picture")
        bad = drop(world, "tuesday", first, 1)
        (bad / "bookings.csv").write_text("no table")
        whole = ends_at.run(world.folder, touches, lambda: world.watcher().watch(lambda _: None, once=True))
        world.watcher().watch(lambda _: None, once=True)
        assert world.store.known(f"R-{first + i}" for i in range(3)) == {f"R-{first}", f"R-{first + 2}"}, touches
        assert world.store.count() == 2 * touches + 2
        assert sorted(event for event, *_ in world.rows()[rows:]) == ["drop enrolled", "drop failed"], touches
        (done,), (failed,) = (list((world.folder / end).iterdir()) for end in ("done", "failed"))
        assert sorted(path.name for path in done.iterdir()) == ["monday", "refused.csv"], touches
        assert sorted(path.name for path in failed.iterdir()) == ["refused.csv", "tuesday"]
        assert [path.name for path in (world.folder / "working").iterdir()] == [".lock"]
        if whole:
            break
        touches += 1
    assert touches > 20


def test_a_drop_at_which_the_program_breaks_off_is_given_up_and_the_next_one_enrolled(tmp_path: Path) -> None:
    class Breaks(OneFaceEmbedder):
        def faces(self, pixels: Pixels) -> list[Face]:
            if pixels[0, 0, 0] == 7:
                raise EndedError
            return super().faces(pixels)

    world = a_world(tmp_path, Breaks(), settle_s=0)
    drop(world, "monday", 7, 1)
    drop(world, "tuesday", 10, 2)
    broke = 0
    while True:
        try:
            broken, good = world.look(world.watcher())
            break
        except EndedError:
            broke += 1
    assert broke == 5
    assert "broke off 5 times at this drop" in broken.failed
    assert (good.enrolled, world.store.count()) == (2, 2)


# --- as processes -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    return intake_node(folder, intake={"folder": "../drop", "settle_s": 0, "every_s": 1})


def small_drop(folder: Path, name: str, first: int, count: int) -> None:
    from agency_node.bench.booking_images import booking_images  # noqa: PLC0415

    (folder / "making").mkdir(parents=True)
    rows = []
    for one in list(booking_images(first + count, 5, 160, marked))[first:]:
        (folder / "making" / f"{one.record_number}.img").write_bytes(one.data)
        rows.append(f"{one.record_number}.img,{one.record_number},{one.captured},criminal_booking\n")
    (folder / "making" / "table.csv").write_text(HEADER + "".join(rows))
    (folder / "making").rename(folder / name)


def test_the_command_takes_drops_and_is_refused_what_does_not_go_together(node: Path, tmp_path: Path) -> None:
    small_drop(tmp_path / "drop", "monday", 0, 2)
    words = ["node", "enrol", str(node), "--watch", str(tmp_path / "drop"), "--once"]
    done = CliRunner().invoke(app, [*words, "--settle", "0", "--json"])
    assert done.exit_code == 0, done.output
    (report,) = json.loads(done.stdout)["drops"]
    assert (report["enrolled"], report["refused"], json.loads(done.stdout)["waiting"]) == (2, 0, 0)
    again = CliRunner().invoke(app, [*words, "--end-marker", "complete"])
    assert again.stdout == "0 drops taken, 0 not whole yet\n"
    for wrong, message_part in (
        (["--watch", "x", "--itl", "y"], "takes drops alone"),
        (["--once"], "name it with --watch"),
        (["--watch", str(tmp_path / "nowhere")], "it must be there"),
        (["--watch", str(tmp_path), "--end-marker", "a/b"], "intake.end_marker"),
    ):
        refused = CliRunner().invoke(app, ["node", "enrol", str(node), *wrong, "--json"])
        assert refused.exit_code == 2
        assert message_part in json.loads(refused.stdout)["detail"]


async def test_a_serving_node_s_watcher_that_is_killed_is_followed_by_one_that_goes_on(node: Path) -> None:
    """SIGKILL in the middle of a drop, as `node serve` would see it; in the end each record once, and no process is left."""
    before, drops, stop = opened_store(node).count(), node.parent / "drop", asyncio.Event()
    drops.mkdir()
    small_drop(drops, "monday", 10, 6)
    serving = asyncio.create_task(keep_watching(node, stop, again_s=0.05))
    await until_true(lambda: (drops / "working").is_dir() and any(one.is_dir() for one in (drops / "working").iterdir()))
    (killed,) = active_children()
    killed.kill()
    await until_true(lambda: any((drops / "done").iterdir()))
    (follower,) = active_children()
    assert follower.pid != killed.pid
    stop.set()
    await serving
    assert active_children() == []
    assert stored(node) == before + 6


async def until_true(found: Callable[[], bool], patience_s: float = 120.0) -> None:
    until = time.monotonic() + patience_s
    while not found():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
