"""What a feed of dispositions takes out of searches, what silence does, and what a purge destroys, with proof for whoever asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agency_node.backup.closing import begin_anew, close_copy
from agency_node.cli import app
from agency_node.commands import gallery as gallery_commands
from agency_node.errors import RequestError
from agency_node.facts import Fact, write_fact
from agency_node.gallery_tables import record_buckets, record_dispositions, record_leaves, record_manifests
from agency_node.holder.dispositions import FeedReport, mark_unchecked, take_feed
from agency_node.holder.expunge_ledger import FILE, read_expungements
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.packed import Packed
from agency_node.holder.purging import Purging, due_before, the_one
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.holder.register import AFTER_RESTORE, Register
from agency_node.key_epoch import KEY_EPOCH
from agency_node.log_bundle import write_bundle
from agency_node.node import open_node
from agency_node.outbox import EXPUNCTION, MANIFEST, READY
from agency_node.overview import node_status
from agency_node.requester.leads import list_leads
from agency_node.serving import Service
from agency_node.tables import ledger, outbox
from agency_node.verification import ReadLog
from crypto.canonical import b64url_encode
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.errors import AbsenceError
from crypto.keys import VerifyingKey
from crypto.record_manifest import Absence, PurgeReport, RecordManifest
from tests.node_samples import Clock, cosigned, head_of, roster_leaf
from tests.node_world import EPOCH, MODEL, RECORDS, SOUGHT_ROW, World, WorldNode, gallery_records
from tests.sample_federation import (
    BOARD,
    LAKESIDE,
    NORTHPORT,
    NOW,
    OVERSIGHT,
    root_set,
    roster,
    sign_roster,
    signing_key,
    with_agency,
)

SOUGHT = f"LS-{SOUGHT_ROW:05d}"
TODAY = NOW.date()
DAYS = 183


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.node(LAKESIDE)
    yield made
    made.close()


@pytest.fixture
def holder(world: World) -> WorldNode:
    return world.nodes[LAKESIDE]


def feed(holder: WorldNode, *lines: str) -> FeedReport:
    path = holder.folder / "feed.csv"
    path.write_text("\n".join(["record_number,disposition,date", *lines]) + "\n")
    return take_feed(holder.engine, holder.index.records, path, holder.clock())


def register_of(holder: WorldNode) -> Register:
    key = holder.keyring.node_key
    return Register(holder.agency, holder.engine, holder.vault, key, holder.index.records, holder.outbox.manifest)


def purging_of(holder: WorldNode) -> Purging:
    key, path = holder.keyring.node_key, holder.folder / FILE
    return Purging(holder.agency, holder.engine, holder.index.records, register_of(holder), key, path, holder.outbox.expunction)


def manifest_of(holder: WorldNode, data: bytes | None) -> RecordManifest:
    assert data is not None
    return RecordManifest.read(data, roster())


async def leads_of(world: World, content: Any) -> int:
    return len(list_leads(world.nodes[NORTHPORT].engine, world.nodes[NORTHPORT].vault, content.search_id))


# --- the feed ---------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R25")
async def test_the_next_search_does_not_find_a_record_that_the_feed_names(world: World, holder: WorldNode) -> None:
    """R25: through a whole federation: found before, not found after, found again when a later word says so."""
    for agency in (NORTHPORT, OVERSIGHT):
        await world.node(agency)
    assert await leads_of(world, await world.released()) == 1
    report = feed(holder, f"{SOUGHT},dismissed,2026-11-20", "ELSEWHERE-1,dismissed,2026-11-20")
    assert report == FeedReport(1, 1, 0, 1, ())
    await holder.index.prepare(world.broker)
    content = await world.released()
    assert world.nodes[NORTHPORT].rows(outbox, search_id=str(content.search_id), state=READY) == []
    assert await leads_of(world, content) == 0
    assert feed(holder, f"{SOUGHT},convicted,2026-11-22").found_again == 1
    await holder.index.prepare(world.broker)
    assert await leads_of(world, await world.released()) == 1


@pytest.mark.rule("R25")
@pytest.mark.parametrize("word", ["non-conviction", "dismissed", "acquitted", "expunged", "juvenile", "sealed"])
def test_every_word_that_forbids_takes_a_record_out(holder: WorldNode, word: str) -> None:
    records = holder.index.records
    packed = Packed.build(records, EPOCH)
    assert feed(holder, f"{SOUGHT},{word},2026-11-20").withdrawn == 1
    assert not records.holds(SOUGHT_ROW)
    assert records.template(SOUGHT_ROW) is None
    assert packed.follow()
    assert SOUGHT_ROW not in packed.gallery.layout.rows
    assert SOUGHT_ROW not in Packed.build(records, EPOCH).gallery.layout.rows
    assert (records.count(), packed.live) == (RECORDS - 1, RECORDS - 1)
    assert node_status(holder.engine, "x").unsearchable == {word: 1}
    assert feed(holder, f"{SOUGHT},pending,2026-11-21").found_again == 1
    assert packed.follow()
    assert (SOUGHT_ROW in packed.gallery.layout.rows, records.holds(SOUGHT_ROW), packed.live) == (True, True, RECORDS)


def test_the_word_of_the_later_day_counts_whatever_comes_first(holder: WorldNode) -> None:
    records = holder.index.records
    feed(
        holder,
        "LS-00001,convicted,2026-11-02",
        "LS-00001,dismissed,2026-11-01",
        "LS-00002,convicted,2026-11-01",
        "LS-00002,dismissed,2026-11-01",
    )
    assert (records.holds(1), records.holds(2)) == (True, False)
    feed(holder, "LS-00001,juvenile,2026-10-01", "LS-00002,convicted,2026-10-01")  # feeds of before, that come late
    assert (records.holds(1), records.holds(2)) == (True, False)
    changes = records.changes()
    feed(holder, "LS-00002,juvenile,2026-11-03")
    assert (records.changes(), records.holds(2)) == (changes, False)


def test_lines_that_cannot_be_read_are_listed_and_the_others_taken(holder: WorldNode) -> None:
    report = feed(
        holder,
        "LS-00003,dismissed",
        "LS-00003,forgotten,2026-11-01",
        "LS-00003,,2026-11-01",
        "LS-00003,dismissed,2027-01-01",
        "LS-00003,dismissed,01/11/2026",
        ",dismissed,2026-11-01",
        "LS-00004,dismissed,2026-11-01",
    )
    assert [one.code for one in report.refused] == ["cells", "disposition", "disposition", "disposition", "disposition", "record-number"]
    assert [one.line for one in report.refused] == [2, 3, 4, 5, 6, 7]
    assert (report.withdrawn, holder.index.records.holds(3), holder.index.records.holds(4)) == (1, True, False)
    said = " ".join(f"{row.event} {row.detail} {row.subject}" for row in holder.rows(ledger))
    assert "1 withdrawn" in said
    assert "LS-0000" not in said


def test_a_file_that_is_no_feed_changes_nothing(holder: WorldNode, tmp_path: Path) -> None:
    for content in (b"", b"number,why\n", b"record_number,disposition,date\n\xff\xfe\n", b'record_number,disposition,date\n"LS-1\n'):
        path = tmp_path / "no.csv"
        path.write_bytes(content)
        with pytest.raises(RequestError):
            take_feed(holder.engine, holder.index.records, path, NOW)
    with pytest.raises(RequestError):
        take_feed(holder.engine, holder.index.records, tmp_path / "nowhere.csv", NOW)
    assert holder.rows(record_dispositions) == []


def test_a_record_that_is_withdrawn_before_its_release_is_not_shown(holder: WorldNode) -> None:
    """An answer was given, then the feed came: no stub, and no photograph to who has one already."""
    records = holder.index.records
    (row,) = records.add([replace(gallery_records()[0], record_number="LATE")], NOW)
    assert records.holds(row)
    feed(holder, "LATE,sealed,2026-11-20")
    assert not records.holds(row)


# --- silence ----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R25")
def test_a_record_that_nobody_speaks_of_is_found_no_more(holder: WorldNode) -> None:
    """R25: so many days after it was enrolled, or after the last word; a new word brings it back."""
    records, engine = holder.index.records, holder.engine
    feed(holder, "LS-00000,pending,2026-11-20", "LS-00001,dismissed,2026-11-20")
    assert mark_unchecked(engine, NOW + timedelta(days=DAYS), DAYS) == 0
    later = NOW + timedelta(days=DAYS, seconds=1)
    assert mark_unchecked(engine, later, DAYS) == RECORDS - 1  # the dismissed one is out already, and stays out for that
    assert records.count() == 0
    assert mark_unchecked(engine, later, DAYS) == 0
    assert node_status(engine, "x").unsearchable == {"dismissed": 1, "unchecked": RECORDS - 1}
    holder.clock.now = later
    assert feed(holder, f"{SOUGHT},convicted,2026-11-20", "LS-00000,pending,2026-11-01").found_again == 2  # an earlier day is a word too
    assert records.rows().tolist() == [0, SOUGHT_ROW]


def test_a_serving_node_looks_once_a_day(node_folder: Path) -> None:
    clock = Clock()
    node = open_node(node_folder, clock)
    service = Service(node)
    assert service.index.records.count() == 5
    clock.pass_by(days=DAYS + 1)
    service._keep_register()
    assert service.index.records.count() == 0
    service.index.close()
    node.engine.dispose()
    again = open_node(node_folder, Clock())
    with again.engine.begin() as connection:
        connection.execute(record_dispositions.delete())
    again.clock = clock
    service = Service(again)  # one that begins on that day serves none of them
    assert service.index.records.count() == 0
    service.index.close()
    again.engine.dispose()


# --- the manifest -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("R24")
async def test_each_batch_of_changes_makes_one_manifest_in_the_public_log(world: World, holder: WorldNode) -> None:
    register, records = register_of(holder), holder.index.records
    assert register.follow(NOW, 64) is None  # leaves are missing
    assert register.follow(NOW, 512) is None  # the gallery has not been seen at rest
    data = register.follow(NOW, 512)
    first = manifest_of(holder, data)
    assert (first.version, first.records, dict(first.sources), dict(first.unsearchable)) == (1, RECORDS, {"booking": RECORDS}, {})
    assert (first.model, first.model_hash, first.dimensions, first.key_epoch) == (MODEL.name, MODEL.model_hash, MODEL.dimensions, 1)
    assert first.gallery_root == records.commitment()
    assert register.follow(NOW, 512) == register.newest(NOW) == data  # nothing changed: nothing new
    feed(holder, f"{SOUGHT},juvenile,2026-11-20")
    records.add([replace(gallery_records()[0], record_number="CIVIL", source_class="Driver's licence!")], NOW)
    assert register.follow(NOW, 512) is None
    second = manifest_of(holder, register.follow(NOW, 512))
    assert (second.version, dict(second.sources), dict(second.unsearchable)) == (2, {"booking": RECORDS, "other": 1}, {"juvenile": 1})
    assert second.records_root != first.records_root
    with holder.engine.begin() as connection:
        write_fact(connection, Fact.KEY_EPOCH, holder.vault.seal(KEY_EPOCH, b"2"))
    third = manifest_of(holder, register.newest(NOW))
    assert (third.version, third.key_epoch, third.records_root) == (3, 2, second.records_root)
    await holder.send()
    entries = [one for one in map(LogEntry.from_bytes, world.broker.log) if one.kind is EntryKind.MANIFEST]
    digests = [row.grant_digest for row in holder.rows(outbox, kind=MANIFEST)]
    assert [one.subject for one in entries] == [entry_subject(EntryKind.MANIFEST, digest, LAKESIDE) for digest in digests]
    assert all(len(one.commitments) == 1 for one in entries)
    for row in holder.rows(record_manifests):
        assert row.document not in b"".join(world.broker.log)


def test_a_gallery_that_never_rests_has_a_manifest_every_hour(holder: WorldNode) -> None:
    register = register_of(holder)
    for _ in range(2):
        register.follow(NOW, 512)
    feed(holder, "LS-00001,juvenile,2026-11-20")
    assert register.follow(NOW + timedelta(minutes=59), 512) is None
    feed(holder, "LS-00002,juvenile,2026-11-20")
    assert manifest_of(holder, register.follow(NOW + timedelta(hours=1), 512)).version == 2


@pytest.mark.rule("R24")
def test_a_manifest_counts_what_is_enrolled_by_class(node_folder: Path, tmp_path: Path) -> None:
    """R24: a licence photograph is not taken in, so the manifest has no such class."""
    from agency_node.holder import candidates  # noqa: PLC0415

    accepted = frozenset({candidates.BOOKING})
    with pytest.raises(candidates.RowError, match="R24"):
        candidates.check_class("driver_licence", accepted)
    node = open_node(node_folder, Clock())
    register = Service(node).register
    said = RecordManifest.read_own(register.newest(NOW) or b"", node.keyring.node_key.verifying_key)
    assert set(said.sources) == {candidates.BOOKING}
    node.engine.dispose()


def test_the_root_is_the_one_that_anew_would_be_computed(holder: WorldNode) -> None:
    """After changes of all kinds, from this process and another: buckets that are kept are those of the leaves that are there."""
    register, records = register_of(holder), holder.index.records
    register.newest(NOW)
    records.add([replace(gallery_records()[0], record_number=f"N-{i}") for i in range(5)], NOW)
    other = register_of(holder)
    other.newest(NOW)
    for number in ("N-3", "LS-00007"):
        records.expunge(number, ExpungeReason.ERROR, NOW, holder.outbox.expunction)
    kept = manifest_of(holder, register.newest(NOW))
    with holder.engine.begin() as connection:
        connection.execute(record_buckets.delete())
        connection.execute(record_leaves.delete())
    assert manifest_of(holder, register_of(holder).newest(NOW)) == kept
    assert kept.records == RECORDS + 3


def test_a_record_that_goes_before_it_has_a_leaf_gets_none(holder: WorldNode) -> None:
    register, records = register_of(holder), holder.index.records
    records.expunge("LS-00000", ExpungeReason.ERROR, NOW, holder.outbox.expunction)
    records.expunge(f"LS-{RECORDS - 1:05d}", ExpungeReason.ERROR, NOW, holder.outbox.expunction)
    assert manifest_of(holder, register.newest(NOW)).records == RECORDS - 2
    assert "LS-" not in repr(register)


def test_no_version_is_signed_twice_after_a_restore(holder: WorldNode) -> None:
    register = register_of(holder)
    first = manifest_of(holder, register.newest(NOW))
    later = NOW + timedelta(days=1)
    begin_anew(holder.engine, holder.vault, NOW, lambda: later)
    assert register.newest(later) == register.latest()  # nothing else to say
    feed(holder, "LS-00001,dismissed,2026-11-01")
    report, before, after = PurgeReport.read(purging_of(holder).purge(due_before(TODAY, unchecked=False), later), roster())
    assert (report.total, before.version, after.version) == (1, first.version + AFTER_RESTORE, first.version + AFTER_RESTORE + 1)


# --- absence ----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R25")
def test_a_purged_number_is_proven_absent_and_a_held_one_is_not(holder: WorldNode) -> None:
    register = register_of(holder)
    with pytest.raises(RequestError, match="no proof says"):
        register.prove_absent(SOUGHT, NOW)
    feed(holder, f"{SOUGHT},dismissed,2026-11-20")
    with pytest.raises(RequestError, match="no proof says"):
        register.prove_absent(SOUGHT, NOW)  # found by no search, and held all the same
    purging_of(holder).purge(due_before(TODAY, unchecked=False), NOW)
    proof, under = Absence.read(register.prove_absent(SOUGHT, NOW), roster())
    assert (proof.record_number, under.records) == (SOUGHT, RECORDS - 1)
    forged = replace(proof, record_number="LS-00001").sign(holder.keyring.node_key)
    with pytest.raises(AbsenceError):
        Absence.read(forged, roster())


# --- purging ----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R25")
async def test_a_purge_destroys_what_is_due_and_reports_it(world: World, holder: WorldNode) -> None:
    feed(
        holder,
        "LS-00001,dismissed,2026-11-01",
        "LS-00002,sealed,2026-11-02",
        "LS-00003,acquitted,2026-11-20",
        "LS-00004,convicted,2026-11-01",
    )
    data = purging_of(holder).purge(due_before(date(2026, 11, 20), unchecked=False), NOW)
    report, before, after = PurgeReport.read(data, roster())
    assert (dict(report.expunged), report.left, before.records, after.records) == (
        {"court-order": 1, "dismissed": 1},
        0,
        RECORDS,
        RECORDS - 2,
    )
    assert (dict(before.unsearchable), dict(after.unsearchable)) == ({"acquitted": 1, "dismissed": 1, "sealed": 1}, {"acquitted": 1})
    assert after.gallery_root == holder.index.records.commitment()
    records = holder.index.records
    assert [records.has(f"LS-0000{n}") and not records.holds(n) for n in range(1, 5)] == [True, True, True, False]
    assert (report.ledger_before, report.ledger_after) == (0, 2)
    assert read_expungements(holder.folder / FILE, holder.keyring.node_key.verifying_key).reach.number == 2
    assert len(holder.rows(outbox, kind=EXPUNCTION)) == 2
    for needle in (b"LS-0", b"booking.jpg", records._tag("LS-00001").hex().encode()):
        assert needle not in data
    await holder.send()
    kinds = [LogEntry.from_bytes(leaf).kind for leaf in world.broker.log]
    assert (kinds.count(EntryKind.EXPUNCTION), kinds.count(EntryKind.MANIFEST)) == (2, 2)
    again = purging_of(holder).purge(due_before(date(2026, 11, 20), unchecked=True), NOW)
    assert PurgeReport.read(again, roster())[0].total == 0


def test_what_nobody_speaks_of_is_purged_when_asked_for(holder: WorldNode, monkeypatch: pytest.MonkeyPatch) -> None:
    later = NOW + timedelta(days=DAYS + 1)
    mark_unchecked(holder.engine, later, DAYS)
    purging = purging_of(holder)
    assert PurgeReport.read(purging.purge(due_before(later.date(), unchecked=False), later), roster())[0].total == 0
    monkeypatch.setattr("agency_node.holder.purging.MOST", 20)
    report, _, after = PurgeReport.read(purging.purge(due_before(later.date(), unchecked=True), later), roster())
    assert (dict(report.expunged), report.left, after.records) == ({"unchecked": 20}, RECORDS - 20, RECORDS - 20)


def test_one_record_by_order_is_reported_too_and_a_purge_is_whole_or_not_at_all(holder: WorldNode, monkeypatch: pytest.MonkeyPatch) -> None:
    purging = purging_of(holder)
    root = holder.index.records.commitment()

    def broken(*_args: object) -> None:
        raise OSError("the disk is full")

    feed(holder, "LS-00001,dismissed,2026-11-01", "LS-00002,dismissed,2026-11-01")
    with pytest.raises(OSError, match="full"):
        replace(purging, enter=broken).purge(due_before(TODAY, unchecked=False), NOW)
    assert holder.index.records.commitment() == root
    assert holder.rows(outbox, kind=EXPUNCTION) == []
    report = PurgeReport.read(purging.purge(the_one(holder.index.records, SOUGHT, ExpungeReason.COURT_ORDER), NOW), roster())[0]
    assert dict(report.expunged) == {"court-order": 1}
    with pytest.raises(RequestError, match="expunged before"):
        purging.purge(the_one(holder.index.records, SOUGHT, ExpungeReason.COURT_ORDER), NOW)


def test_a_backup_keeps_the_manifests_that_wait_for_the_log(holder: WorldNode) -> None:
    register_of(holder).newest(NOW)
    close_copy(holder.engine)
    (row,) = holder.rows(outbox, kind=MANIFEST)
    assert (row.state, row.data is not None) == (READY, True)


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def node_folder(tmp_path: Path) -> Path:
    """A holder's node of five bookings, without a broker."""
    folder = tmp_path / "lakeside"
    run("node", "init", str(folder), "--agency", str(LAKESIDE), "--name", "Lakeside", "--jurisdiction", "us-wi-lakeside",
        "--role", "holder",
        "--role", "legal_office", "--office-key", b64url_encode(signing_key("office").verifying_key.raw), "--officer", "O",
        "--broker", "http://127.0.0.1:1", "--trust", str(BOARD), "--root-fingerprint", "00" * 32, "--mode", "test")  # fmt: skip
    settings = folder / "node.toml"
    settings.write_text('embedder = "synthetic-128"\n' + settings.read_text())  # commands load it in no time
    node = open_node(folder, Clock())
    model = node.embedder().model
    template = model.templates(np.random.default_rng(1).standard_normal(model.dimensions))
    RecordStore(node.engine, node.vault, model).add(
        [NewRecord(f"L-{i}", date(2020, 1, 1), "criminal_booking", template) for i in range(5)], NOW
    )
    node.engine.dispose()
    return folder


def run(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def text(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def outsider(node_folder: Path, tmp_path: Path) -> tuple[str, ...]:
    """What anybody has who checks a document: the signed roster, in which this node stands, and the root set's fingerprint."""
    node = open_node(node_folder, Clock())
    key: VerifyingKey = node.keyring.node_key.verifying_key
    node.engine.dispose()
    path = tmp_path / "roster.json"
    path.write_bytes(sign_roster(with_agency(roster(), LAKESIDE, node_key=key)))
    return "--roster", str(path), "--root-fingerprint", root_set().fingerprint.hex()


def test_the_commands_from_feed_to_report(
    node_folder: Path, tmp_path: Path, outsider: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_commands, "clock", Clock())
    folder, feed_csv, proof, report = str(node_folder), tmp_path / "feed.csv", tmp_path / "absent.json", tmp_path / "report.json"
    feed_csv.write_text("record_number,disposition,date\nL-1,dismissed,2026-11-01\nL-2,sealed,2026-11-01\nL-9,dismissed,2026-11-01\n")
    assert run("gallery", "dispositions", folder, str(feed_csv))["withdrawn"] == 2
    assert run("node", "status", folder)["unsearchable"] == {"dismissed": 1, "sealed": 1}
    assert "no proof says" in run("gallery", "prove", folder, "--record", "L-1", "--save", str(proof), code=2)["detail"]
    done = run("gallery", "purge", folder, "--before", "2026-11-02", "--report", str(report))
    assert (done["expunged"], done["left"], done["files_clean"]) == ({"court-order": 1, "dismissed": 1}, 0, True)
    assert run("gallery", "check", str(report), *outsider)["expunged"] == done["expunged"]
    assert "the proof is" in text("gallery", "prove", folder, "--record", "L-1", "--save", str(proof))
    assert "held no record L-1 in its gallery of 3 records" in text("gallery", "absent", str(proof), *outsider)
    assert run("gallery", "absent", str(proof), *outsider)["record_number"] == "L-1"
    saved = tmp_path / "manifest.json"
    assert "3 records (3 criminal_booking)" in text("gallery", "manifest", folder, "--save", str(saved))
    assert "found by no search: none" in text("gallery", "check", str(saved), *outsider)
    more = tmp_path / "one.json"
    assert run("gallery", "purge", folder, "--record", "L-4", "--report", str(more))["expunged"] == {"court-order": 1}
    # what somebody edited, and what belongs to nobody in the roster
    for path, command in ((proof, "absent"), (report, "check"), (saved, "check")):
        edited = tmp_path / f"edited-{path.name}"
        edited.write_bytes(path.read_bytes().replace(b"2026", b"2025", 1))
        refused = run("gallery", command, str(edited), *outsider, code=1)
        assert refused["error"] == "statement-invalid"
    stranger = tmp_path / "stranger.json"
    stranger.write_bytes(sign_roster(roster()))
    assert run("gallery", "absent", str(proof), "--roster", str(stranger), *outsider[2:], code=1)["error"] == "statement-invalid"


def test_a_proof_is_held_against_a_bundle_of_the_log(
    node_folder: Path, tmp_path: Path, outsider: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest under which the number is absent was entered; one that was not is refused."""
    monkeypatch.setattr(gallery_commands, "clock", Clock())
    proof = tmp_path / "absent.json"
    run("gallery", "prove", str(node_folder), "--record", "L-9", "--save", str(proof))
    node = open_node(node_folder, Clock())
    with node.engine.begin() as connection:
        (queued,) = connection.execute(outbox.select()).all()
    node.engine.dispose()
    signed = Path(outsider[1]).read_bytes()
    content = with_agency(roster(), LAKESIDE, node_key=node.keyring.node_key.verifying_key)
    for name, leaves, code in (("with", [roster_leaf(content), queued.data], 0), ("without", [roster_leaf(content)], 1)):
        read = ReadLog()
        for leaf in leaves:
            read.append(leaf)
        write_bundle(tmp_path / name, cosigned(head_of(leaves), OVERSIGHT, BOARD), read, signed)
        found = run("gallery", "absent", str(proof), "--log", str(tmp_path / name), *outsider[2:], code=code)
        assert found.get("entered", found.get("error")) == ("2026-11-23" if code == 0 else "not-in-log")


WRONG = [
    ("purge DIR --report DIR/r.json", "either --before DAY"),
    ("purge DIR --before 2026-01-01 --record L-1 --report DIR/r.json", "either --before DAY"),
    ("purge DIR --record L-1 --reason mood --report DIR/r.json", "court-order"),
    ("purge DIR --record L-77 --report DIR/r.json", "no record of that number"),
    ("purge DIR --before 2026-01-01 --report DIR/node.toml", "is there already"),
    ("dispositions DIR DIR/nowhere.csv", "cannot be opened"),
    ("prove DIR --record L-77 --save DIR/node.toml", "is there already"),
    ("absent DIR/node.toml", "name whom to trust"),
    ("check DIR/nowhere.json", "cannot be read"),
    ("check DIR/node.toml --root-fingerprint 12 --roster DIR/node.toml", "64 hexadecimal digits"),
]


def test_what_is_typed_wrong_is_said(node_folder: Path) -> None:
    for words, said in WRONG:
        assert said in run("gallery", *words.replace("DIR", str(node_folder)).split(), code=2)["detail"]


def test_lines_that_were_refused_end_the_command_with_a_one(node_folder: Path, tmp_path: Path) -> None:
    path, listed = tmp_path / "feed.csv", tmp_path / "refused.csv"
    path.write_text("record_number,disposition,date\nL-1,gone,2026-11-01\nL-2,dismissed,2026-11-01\n")
    out = text("gallery", "dispositions", str(node_folder), str(path), "--refused", str(listed), code=1)
    assert "withdrawn from searches 1" in out
    assert "line 2: disposition" in out
    assert listed.read_text().splitlines()[1].startswith("2,L-1,disposition,")
