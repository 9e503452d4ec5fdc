"""What an oversight body's monitor finds: all cheating and neglect that the leaves let be seen, and nothing where nothing is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.commands import log_watching
from agency_node.errors import BrokerUnreachableError, StoreError
from agency_node.link import MAX_LEAVES
from agency_node.log_monitor import DELAY, GRACE, Watch, watch_log
from agency_node.monitor_folder import LEAVES_FILE, OPENINGS_FILE, STATE_FILE, recall
from crypto.checkpoint import SignedCheckpoint
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, commit_field, entry_subject
from crypto.entry_openings import ENTRY_FORMS, OUTCOMES, LeafOpenings
from tests.node_samples import Clock, MemoryBroker, head_of
from tests.sample_federation import BOARD, LAKESIDE, NORTHPORT, NOW, OVERSIGHT, digest, root_set, roster, sign_roster

ROSTER = replace(roster(), expires=NOW + timedelta(days=400))
GRANT = {"requesting-agency": str(NORTHPORT), "requesting-class": "local", "legal-basis": "warrant", "holders-asked": "1"}


class Watched:
    """One log, one folder of the monitor's, one clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "watched"
        self.clock = Clock()
        self.broker = MemoryBroker()
        self.openings: list[LeafOpenings] = []
        self.made = 0
        self.cosign()

    def cosign(self) -> None:
        self.broker.cosigned_by(BOARD, OVERSIGHT, at=self.clock())

    def enter(self, kind: EntryKind, fields: Mapping[str, str] = GRANT, count: int | None = None) -> LeafOpenings | None:
        """One entry more, of today; what opens it is kept here."""
        self.made += 1
        form = ENTRY_FORMS[kind]
        values = {**fields, "outcome": OUTCOMES.get(kind, ("",))[0]}
        openings = [FieldOpening.fresh(name, values.get(str(name), "").encode()) for name in form.opened]
        kept = [FieldOpening.fresh(FieldType("kept"), b"") for _ in range(form.kept)]
        commitments = tuple(map(commit_field, (*openings, *kept)))[:count]
        entry = LogEntry(kind, self.clock().date(), entry_subject(kind, digest(f"grant {self.made}")), commitments)
        self.broker.log.append(entry.to_bytes())
        self.cosign()
        opened = LeafOpenings(entry.leaf_hash(), tuple(openings)) if openings else None
        if opened is not None:
            self.openings.append(opened)
        return opened

    def enter_leaf(self, kind: EntryKind) -> None:
        """An entry of a kind without a form."""
        entry = LogEntry(kind, self.clock().date(), entry_subject(kind, digest(kind)), (digest(f"commitment {kind}"),))
        self.broker.log.append(entry.to_bytes())
        self.cosign()

    async def open_all(self) -> None:
        for opened in self.openings:
            await self.broker.post_openings(opened)

    async def look(self, link: Any = None, **changes: Any) -> Watch:
        watched = changes.pop("roster", ROSTER)
        return await watch_log(link or self.broker, watched, self.folder, self.clock(), **changes)

    async def names(self) -> list[str]:
        return [one.name for one in (await self.look()).findings]

    async def later(self, **duration: float) -> None:
        self.clock.pass_by(**duration)
        self.cosign()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


async def test_a_log_in_order_has_no_findings(watched: Watched) -> None:
    for kind in (EntryKind.GRANT, EntryKind.ANSWER, EntryKind.OPENED_SCORES, EntryKind.RELEASE, EntryKind.DISCLOSURE):
        watched.enter(kind)
    first = await watched.look()
    assert (first.findings, first.news, first.size, first.new_entries, first.opened) == ([], [], 5, 5, 0)
    await watched.later(days=10)
    await watched.open_all()
    second = await watched.look()
    assert (second.findings, second.new_entries, second.opened) == ([], 0, sum(len(one.openings) for one in watched.openings))
    await watched.later(hours=1)
    assert await watched.names() == []


# --- forks and heads --------------------------------------------------------------------------------------------------


def evidence(watched: Watched) -> list[SignedCheckpoint]:
    return [SignedCheckpoint.from_bytes((watched.folder / f"evidence-{name}.note").read_bytes()) for name in ("held", "shown")]


async def test_a_log_that_was_rewritten_is_a_fork(watched: Watched) -> None:
    """Both heads are signed by the log and kept; the monitor goes on remembering the first, however often it looks."""
    watched.enter(EntryKind.GRANT)
    await watched.look()
    held = recall(watched.folder).note
    watched.broker.log[0] = replace(LogEntry.from_bytes(watched.broker.log[0]), subject=digest("another")).to_bytes()
    watched.enter(EntryKind.GRANT)
    for _ in range(2):
        assert "log-forked" in await watched.names()
        assert recall(watched.folder).note == held
    assert [one.checkpoint.size for one in evidence(watched)] == [1, 2]


async def test_another_head_of_the_same_size_is_a_fork(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    await watched.look()
    watched.broker.log[0] = replace(LogEntry.from_bytes(watched.broker.log[0]), subject=digest("another")).to_bytes()
    watched.cosign()
    assert "log-forked" in await watched.names()
    held, shown = evidence(watched)
    assert held.checkpoint.size == shown.checkpoint.size
    assert held.checkpoint.root != shown.checkpoint.root


async def test_a_log_that_shrank_is_found(watched: Watched) -> None:
    for _ in range(3):
        watched.enter(EntryKind.GRANT)
    await watched.look()
    del watched.broker.log[1:]
    watched.cosign()
    assert "log-shrunken" in await watched.names()
    assert [one.checkpoint.size for one in evidence(watched)] == [3, 1]
    assert len(recall(watched.folder).entries) == 3


async def test_a_cosigned_head_beside_the_newest_is_a_fork(watched: Watched) -> None:
    """Witnesses are shown one log, readers another."""
    watched.enter(EntryKind.GRANT)
    cosigned = watched.broker.head()
    watched.broker.log[0] = replace(LogEntry.from_bytes(watched.broker.log[0]), subject=digest("another")).to_bytes()

    class TwoFaces(MemoryBroker):
        async def checkpoint(self, min_size: int = 0, cosignatures: int = 0, wait_s: int = 0) -> SignedCheckpoint | None:
            return cosigned if cosignatures else head_of(self.log)

    watch = await watched.look(TwoFaces(watched.broker.log))
    assert [one.name for one in watch.findings] == ["log-forked"]


async def test_leaves_that_are_withheld_or_unreadable_are_found(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    watched.broker.leaves_shown = []
    assert await watched.names() == ["leaves-withheld"]
    watched.broker.leaves_shown = [b"{}"]
    assert await watched.names() == ["leaf-unreadable"]
    watched.broker.leaves_shown = None
    assert await watched.names() == []


async def test_a_head_that_the_log_did_not_sign_is_found(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    head = watched.broker.head()
    line = replace(head.signatures[0], signature=bytes(64))
    watched.broker.shown = SignedCheckpoint(head.checkpoint, (line, *head.signatures[1:]))
    assert set(await watched.names()) == {"head-not-signed"}


async def test_missing_and_stale_cosignatures_are_found(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    await watched.look()
    watched.clock.pass_by(minutes=9)
    assert await watched.names() == []
    watched.clock.pass_by(minutes=2)
    assert await watched.names() == ["cosignatures-stale"]
    watched.broker.cosigned_by(BOARD, at=watched.clock())
    assert await watched.names() == ["cosignatures-missing"]
    watched.broker.lines.clear()
    assert await watched.names() == ["cosignatures-missing"]


async def test_a_broker_that_is_away_is_a_finding_and_what_is_known_is_still_judged(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    await watched.look()
    await watched.later(days=40)

    class Away(MemoryBroker):
        async def checkpoint(self, min_size: int = 0, cosignatures: int = 0, wait_s: int = 0) -> SignedCheckpoint | None:
            raise BrokerUnreachableError("the broker is away")

    assert [one.name for one in (await watched.look(Away())).findings] == ["broker-failed", "opening-overdue"]
    assert await watched.names() == ["opening-overdue"]


# --- openings ---------------------------------------------------------------------------------------------------------


async def test_openings_that_are_overdue_are_found_after_delay_and_grace(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    watched.enter(EntryKind.GRANT)
    watched.enter(EntryKind.ANSWER)
    await watched.later(days=(DELAY + GRACE).days)
    assert await watched.names() == []
    await watched.later(days=1)
    watch = await watched.look()
    assert [one.name for one in watch.findings] == ["opening-overdue"]
    assert watch.findings[0].says == "2 grant entries are not opened, of 2026-11-23, 1 day late: leaf 0, leaf 1"
    await watched.broker.post_openings(watched.openings[0])
    assert "1 grant entry is not opened" in (await watched.look()).findings[0].says
    one_field_short = LeafOpenings(watched.openings[1].leaf, watched.openings[1].openings[:-1])
    await watched.broker.post_openings(one_field_short)
    assert await watched.names() == ["opening-overdue"]
    await watched.open_all()
    assert await watched.names() == []
    watched.enter(EntryKind.RELEASE)
    await watched.later(days=10)
    assert [one.name for one in (await watched.look(delay=timedelta(days=7), grace=timedelta(days=1))).findings] == ["opening-overdue"]


async def forged(watched: Watched, change: Callable[[Any], Any]) -> list[str]:
    watched.enter(EntryKind.GRANT)
    watched.enter(EntryKind.RELEASE)
    await watched.open_all()
    true = list(watched.broker.opened)
    watched.broker.opened[2] = change(true[2])
    found = await watched.names()
    assert len(recall(watched.folder).openings) == 2  # up to the false one, and not it
    watched.broker.opened = true
    assert await watched.names() == []
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, opening=replace(one.opening, value=b"eastfield-pd")),
        lambda one: replace(one, opening=replace(one.opening, salt=digest("salt"))),
        lambda one: replace(one, opening=replace(one.opening, field_type=FieldType("outcome"), value=b"leads")),
        lambda one: replace(one, opening=replace(one.opening, field_type=FieldType("docket"))),
        lambda one: replace(one, position=1),
        lambda one: replace(one, position=99),
    ],
    ids=["value", "salt", "type", "no such field", "another leaf", "no such leaf"],
)
async def test_a_forged_opening_is_found_and_not_remembered(watched: Watched, change: Callable[[Any], Any]) -> None:
    assert await forged(watched, change) == ["opening-false"]


async def test_a_field_that_is_opened_twice_is_found(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    await watched.open_all()
    watched.broker.opened.append(replace(watched.broker.opened[0], number=len(watched.broker.opened)))
    assert await watched.names() == ["opening-false"]


async def test_openings_that_were_taken_back_are_found(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    await watched.open_all()
    await watched.look()
    del watched.broker.opened[3:]
    assert await watched.names() == ["openings-withdrawn"]
    assert len(recall(watched.folder).openings) == 7


# --- entries ----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R76")
@pytest.mark.parametrize(
    ("behind", "before"),
    [
        (EntryKind.RELEASE, EntryKind.GRANT),
        (EntryKind.LAPSE, EntryKind.GRANT),
        (EntryKind.RATIFICATION, EntryKind.GRANT),
        (EntryKind.OPENED_SCORES, EntryKind.ANSWER),
    ],
)
async def test_an_entry_without_the_one_that_it_follows_from_is_found(watched: Watched, behind: EntryKind, before: EntryKind) -> None:
    """R76: no release without a signed request. A grant that comes afterwards mends nothing."""
    watched.enter(before)
    watched.enter(behind)
    assert await watched.names() == []
    watched.enter(behind)
    watched.enter(before)
    watch = await watched.look()
    assert [one.name for one in watch.findings] == [f"{behind.value}-without-{before.value}"]
    assert "leaf 2" in watch.findings[0].says.lower()


async def test_an_expunction_has_its_form_and_is_opened_in_time(watched: Watched) -> None:
    watched.enter(EntryKind.EXPUNCTION, {"author": str(LAKESIDE), "expunge-reason": "juvenile"})
    assert await watched.names() == []
    await watched.later(days=(DELAY + GRACE).days + 1)
    assert await watched.names() == ["opening-overdue"]
    await watched.open_all()
    assert await watched.names() == []
    watched.enter(EntryKind.EXPUNCTION, count=3)
    assert await watched.names() == ["entry-form"]


async def test_an_entry_of_another_form_is_found(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT, count=3)
    assert await watched.names() == ["entry-form"]


@pytest.mark.rule("R4")
async def test_an_exigent_grant_that_never_ended_is_found_once_it_is_open(watched: Watched) -> None:
    """R4: ratified or lapsed, one of the two stands in the log."""
    watched.enter(EntryKind.GRANT, {**GRANT, "legal-basis": "exigent"})
    watched.enter(EntryKind.GRANT)
    await watched.open_all()
    await watched.later(days=10)
    assert await watched.names() == []  # the longest clock and the grace are not over
    await watched.later(days=1)
    assert await watched.names() == ["exigent-not-ended"]
    for kind in (EntryKind.LAPSE, EntryKind.RATIFICATION):
        ended = Watched(watched.folder.parent / kind.value)
        ended.enter(EntryKind.GRANT, {**GRANT, "legal-basis": "exigent"})
        ended.enter(kind)
        await ended.open_all()
        await ended.later(days=11)
        assert await ended.names() == []


async def test_changes_of_packs_and_roster_are_news(watched: Watched) -> None:
    await watched.look()
    watched.enter_leaf(EntryKind.PACK_CHANGE)
    watched.enter_leaf(EntryKind.ROSTER_CHANGE)
    watch = await watched.look(roster=replace(ROSTER, version=2))
    assert watch.findings == []
    assert [line.split(" ")[1] for line in watch.news] == ["roster", "pack-change", "roster-change"]
    again = await watched.look(roster=replace(ROSTER, version=2))
    assert again.news == []
    assert [one.name for one in (await watched.look()).findings] == ["roster-older"]
    late = replace(ROSTER, version=2, expires=NOW + timedelta(minutes=1))
    watched.clock.pass_by(minutes=2)
    assert [one.name for one in (await watched.look(roster=late)).findings] == ["roster-expired"]


# --- the folder -------------------------------------------------------------------------------------------------------


async def test_the_log_is_read_on_from_where_it_was(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    await watched.look()
    asked: list[int] = []

    class Counting(MemoryBroker):
        async def leaves(self, start: int, limit: int = MAX_LEAVES) -> tuple[int, list[bytes]]:
            asked.append(start)
            return await super().leaves(start, limit)

    watched.enter(EntryKind.RELEASE)
    link = Counting(watched.broker.log)
    link.lines = watched.broker.lines
    assert (await watched.look(link)).new_entries == 1
    assert asked == [1]


async def test_a_run_that_died_leaves_the_state_before_it(watched: Watched) -> None:
    watched.enter(EntryKind.GRANT)
    await watched.open_all()
    await watched.look()
    for name in (LEAVES_FILE, OPENINGS_FILE):
        with (watched.folder / name).open("a") as file:
            file.write("half a li")
    watched.enter(EntryKind.RELEASE)
    await watched.open_all()
    assert (await watched.look()).findings == []
    assert (await watched.look()).findings == []
    assert len(recall(watched.folder).openings) == len(watched.broker.opened)


@pytest.mark.parametrize("name", [STATE_FILE, LEAVES_FILE, OPENINGS_FILE])
@pytest.mark.parametrize("damage", [b"", b"x", None])
async def test_a_damaged_folder_is_refused_and_not_mended(watched: Watched, name: str, damage: bytes | None) -> None:
    watched.enter(EntryKind.GRANT)
    await watched.open_all()
    await watched.look()
    path = watched.folder / name
    data = path.read_bytes()
    changed = data.replace(b"northport-pd", b"eastfield-pd") if name == OPENINGS_FILE else data[:40] + bytes([data[40] ^ 1]) + data[41:]
    path.write_bytes(changed if damage is None else damage)
    with pytest.raises(StoreError, match=r"damaged|another version"):
        await watched.look()
    assert path.read_bytes() == (changed if damage is None else damage)


# --- the command ------------------------------------------------------------------------------------------------------


def run(watched: Watched, *words: str) -> Any:
    return CliRunner().invoke(app, ["log", *words], env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture
def typed(watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words by which a command reads this log in place of a broker's address."""
    (tmp_path / "roster.json").write_bytes(sign_roster(roster()))
    monkeypatch.setattr(log_watching, "clock", watched.clock)
    monkeypatch.setattr("agency_node.link.BrokerLink", lambda transport: watched.broker)
    fingerprint = root_set().fingerprint.hex()
    return ["--broker", "http://broker.test", "--roster", str(tmp_path / "roster.json"), "--root-fingerprint", fingerprint]


def test_the_command_ends_with_what_it_found(watched: Watched, typed: list[str]) -> None:
    watched.enter(EntryKind.GRANT)
    folder = str(watched.folder)
    shown = run(watched, "monitor", folder, *typed)
    assert shown.exit_code == 0, shown.output
    assert "1 entries, 1 of them new" in shown.stdout
    watched.enter(EntryKind.RELEASE)
    watched.enter(EntryKind.RELEASE)
    shown = run(watched, "monitor", folder, *typed, "--json")
    said = json.loads(shown.stdout)
    assert (shown.exit_code, said["ok"], [one["name"] for one in said["findings"]]) == (1, False, ["release-without-grant"])
    shown = run(watched, "monitor", folder, *typed)
    assert (shown.exit_code, "release-without-grant" in shown.stdout) == (1, True)
    assert run(watched, "monitor", folder, *typed[:2]).exit_code == 2
    (watched.folder / STATE_FILE).write_text("{}")
    assert run(watched, "monitor", folder, *typed).exit_code == 2


async def opened_log(watched: Watched) -> None:
    for _ in range(6):
        watched.enter(EntryKind.GRANT)
    watched.enter(EntryKind.REFUSAL, {"author": str(LAKESIDE), "refusal-rule": "9"})
    await watched.open_all()


def test_opened_shows_what_verifies_and_refuses_all_for_one_forgery(watched: Watched, typed: list[str]) -> None:
    asyncio.run(opened_log(watched))
    shown = json.loads(run(watched, "opened", *typed, "--json").stdout)
    assert (shown["source"], len(shown["entries"])) == ("published", 7)
    assert shown["entries"][0]["fields"]["legal-basis"] == "warrant"
    assert "legal-basis warrant" in run(watched, "opened", *typed).stdout
    first = watched.broker.opened[0]
    watched.broker.opened[0] = replace(first, opening=replace(first.opening, value=b"eastfield-pd"))
    refused = run(watched, "opened", *typed, "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["error"]) == (1, "opening-mismatch")
    watched.broker.opened[0] = first
    watched.broker.opened.pop()
    assert run(watched, "opened", *typed).exit_code == 0


@pytest.mark.rule("R62")
def test_counts_are_made_here_of_what_verifies(watched: Watched, typed: list[str]) -> None:
    """R62: the broker's own counts are not asked."""
    asyncio.run(opened_log(watched))
    shown = json.loads(run(watched, "counts", *typed, "--json").stdout)
    assert {(one["kind"], one["count"]) for one in shown["entries"]} == {("grant", 6), ("refusal", 1)}
    tables = {one["name"]: one for one in shown["tables"]}
    assert tables["grants by legal basis"]["lines"] == [{"label": "warrant", "count": 6}]
    assert tables["refusals by rule"]["total"] is None
    assert "grants by legal basis: 6" in run(watched, "counts", *typed).stdout
    assert "refusals by rule: fewer than 5" in run(watched, "counts", *typed).stdout
