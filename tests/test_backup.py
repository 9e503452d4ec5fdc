"""A backup of a node: what it holds and what not, that nobody else opens it, and that what was expunged since stays gone.

Nodes are folders made by the command's own code; galleries are synthetic. Attacks change the sealed file, the ledger beside it, or end the
process in the middle.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select
from typer.testing import CliRunner

from agency_node.backup import making, sealed_file
from agency_node.backup.closing import close_copy
from agency_node.backup.making import make_backup
from agency_node.backup.restoring import Restored, restore_backup
from agency_node.backup.sealed_file import MAGIC, SealedReader
from agency_node.cli import app
from agency_node.config import NodeConfig, Role
from agency_node.errors import NodeError, RequestError, StoreError
from agency_node.faces.embedder import load_embedder
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.holder.expunge_ledger import FILE, follow, read_expungements
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.journal import stamp
from agency_node.keyring import WITNESS_KEY_FILE
from agency_node.node import Node, create_node, open_node
from agency_node.outbox import EXPUNCTION, READY, SENT, Outbox
from agency_node.serving import Service
from agency_node.store import DATABASE_FILE
from agency_node.tables import custody, held_grants, inbox, ledger, outbox, sealing_keys
from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.codes import Codes
from crypto.disclosure import Media
from tests.node_samples import Clock, not_entered
from tests.sample_federation import BOARD, EASTFIELD, LAKESIDE, NOW

ROOT = Path(__file__).resolve().parent.parent
PASSPHRASE = "five words that nobody guesses"
MODEL = load_embedder("synthetic-128").model
SEARCH = SearchId("5e" * 16)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrypt as it is takes half a second a time; one test below looks at the real figure."""
    monkeypatch.setattr(sealed_file, "_COST", 16)


def make_node(folder: Path, agency: AgencyId = LAKESIDE, clock: Clock | None = None, *, witness: bool = False, **more: Any) -> Node:
    values = {
        "agency": str(agency),
        "mode": "test",
        "roles": [Role.HOLDER.value],
        "broker": "http://127.0.0.1:1",
        "root_fingerprint": "00" * 32,
        "embedder": "synthetic-128",
        "trusted_custodians": [str(BOARD)],
        **more,
    }
    create_node(folder, NodeConfig.checked(values), witness=witness)
    return open_node(folder, clock or Clock())


def template(number: int) -> Codes:
    return MODEL.templates(np.random.default_rng(number).standard_normal(MODEL.dimensions))


def gallery(node: Node, first: int = 0, count: int = 5) -> RecordStore:
    store = RecordStore(node.engine, node.vault, MODEL)
    store.add(
        [NewRecord(f"L-{i}", NOW.date(), "booking", template(i), b"picture %d" % i, Media.PNG) for i in range(first, first + count)], NOW
    )
    return store


def outbox_of(node: Node) -> Outbox:
    return Outbox(node.agency, node.keyring.node_key, node.vault, node.clock, lambda: None)


def expunge(node: Node, *numbers: str) -> None:
    store = RecordStore(node.engine, node.vault, MODEL)
    for number in numbers:
        store.expunge(number, ExpungeReason.COURT_ORDER, node.clock(), outbox_of(node).expunction)
        follow(node.folder / FILE, store, node.keyring.node_key, node.clock())


def restored(file: Path, folder: Path, **changes: Any) -> Restored:
    given: dict[str, Any] = {"agency": LAKESIDE, "opens": PASSPHRASE, "expunged": None, "at_least": 0, "clock": Clock(NOW), **changes}
    return restore_backup(file, folder, **given)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = make_node(tmp_path / "lakeside")
    gallery(made)
    return made


@pytest.fixture
def kept(node: Node, tmp_path: Path) -> tuple[Path, Path]:
    """A backup, and the copy of the ledger that the agency keeps: since then L-1 was expunged, and L-5 enrolled and expunged."""
    expunge(node, "L-0")
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    gallery(node, 5, 1)
    expunge(node, "L-1", "L-5")
    shutil.copy(node.folder / FILE, tmp_path / "kept.jsonl")
    return tmp_path / "backup", tmp_path / "kept.jsonl"


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.rule("R25")
def test_what_was_expunged_since_the_backup_stays_gone(kept: tuple[Path, Path], tmp_path: Path) -> None:
    """R25: neither template nor photograph comes back, nor can the number be enrolled again, also of one that the backup never had."""
    backup, ledger_file = kept
    done = restored(backup, tmp_path / "again", expunged=ledger_file, at_least=3)
    assert (done.expunged_again, done.ledger.number) == (1, 3)
    again = open_node(tmp_path / "again", Clock())
    store = RecordStore(again.engine, again.vault, MODEL)
    assert [store.holds(row) for row in range(5)] == [False, False, True, True, True]
    assert store.count() == 3
    templates = store.templates()
    assert not templates[[0, 1]].any()
    assert (templates[2] == template(2)).all()
    assert store.record(2).photograph == b"picture 2"
    assert store.known(["L-0", "L-1", "L-5"]) == {"L-0", "L-1", "L-5"}  # a table that still names them enrols them no more
    assert read_expungements(again.folder / FILE, again.keyring.node_key.verifying_key).reach.number == 3
    again.engine.dispose()


@pytest.mark.rule("R25")
def test_a_store_that_was_put_back_by_hand_expunges_before_it_answers(node: Node, tmp_path: Path) -> None:
    """R25: an old copy of the database, without any restore, beside the ledger of today."""
    with closing(sqlite3.connect(node.folder / DATABASE_FILE)) as live, closing(sqlite3.connect(tmp_path / "old")) as copy:
        live.backup(copy)
    expunge(node, "L-3")
    node.engine.dispose()
    for beside in node.folder.glob(f"{DATABASE_FILE}*"):
        beside.unlink()
    shutil.copy(tmp_path / "old", node.folder / DATABASE_FILE)
    again = open_node(node.folder, Clock())
    assert RecordStore(again.engine, again.vault, MODEL).holds(3)  # the control: it is there again
    service = Service(again)
    assert not service.index.records.holds(3)
    assert not service.index.records.templates()[3].any()
    service.index.close()
    again.engine.dispose()


def test_a_restored_node_enters_what_waited_once_and_nothing_for_what_it_destroys_again(tmp_path: Path, node: Node) -> None:
    """What waited in the backup is the very leaf that the log may hold already; what the ledger takes out was queued when it went."""
    expunge(node, "L-0", "L-1")
    with node.engine.begin() as connection:
        first = connection.execute(select(outbox).order_by(outbox.c.number)).first()
        assert first is not None
        connection.execute(outbox.update().where(outbox.c.number == first.number).values(state=SENT, data=None))
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    expunge(node, "L-2")
    shutil.copy(node.folder / FILE, tmp_path / "kept.jsonl")
    assert restored(tmp_path / "backup", tmp_path / "again", expunged=tmp_path / "kept.jsonl").expunged_again == 1
    again = open_node(tmp_path / "again", Clock())
    with node.engine.begin() as connection, again.engine.begin() as other:
        queued = [tuple(row) for row in connection.execute(select(outbox).order_by(outbox.c.number))]
        assert [tuple(row) for row in other.execute(select(outbox).order_by(outbox.c.number))] == queued[:2]
        assert [(row.kind, row.state) for row in other.execute(select(outbox).order_by(outbox.c.number))] == [
            (EXPUNCTION, SENT),
            (EXPUNCTION, READY),
        ]
    again.engine.dispose()


def test_the_serving_node_writes_down_what_any_command_expunged(node: Node) -> None:
    RecordStore(node.engine, node.vault, MODEL).expunge("L-2", ExpungeReason.ERROR, NOW, not_entered)
    service = Service(node)
    assert read_expungements(node.folder / FILE, node.keyring.node_key.verifying_key).reach.number == 1
    RecordStore(node.engine, node.vault, MODEL).expunge("L-4", ExpungeReason.ERROR, NOW, not_entered)
    service._follow_expunged()
    assert read_expungements(node.folder / FILE, node.keyring.node_key.verifying_key).reach.number == 2
    service.index.close()


@pytest.mark.rule("R25")
def test_a_gallery_needs_the_newest_ledger_that_anybody_knows_of(kept: tuple[Path, Path], node: Node, tmp_path: Path) -> None:
    """R25: none, an older one than the backup, a shorter one than is known, another agency's, one with a line changed or left out."""
    backup, ledger_file = kept
    lines = ledger_file.read_bytes().splitlines(keepends=True)
    other = make_node(tmp_path / "other")
    gallery(other)
    expunge(other, "L-0", "L-1", "L-2")
    changed = lines[1].replace(b'"number":2', b'"number":3')
    tries: dict[str, tuple[bytes | None, int]] = {
        "name it with --expunged": (None, 0),
        "ends before the backup": (b"", 0),
        "has 2 lines and not 3": (b"".join(lines[:2]), 3),
        "is not this node's": ((other.folder / FILE).read_bytes(), 0),
        "not this node's or was changed": (lines[0] + changed + lines[2], 0),
        "or was changed": (lines[0] + lines[2], 0),
        "this node's or was": (lines[0] + lines[1].replace(b'"tag":"', b'"tag":"0', 1) + lines[2], 0),
    }
    for said, (content, at_least) in tries.items():
        path = None
        if content is not None:
            path = tmp_path / "tried.jsonl"
            path.write_bytes(content)
        with pytest.raises(NodeError, match=said):
            restored(backup, tmp_path / "again", expunged=path, at_least=at_least)
        assert not (tmp_path / "again").exists()
        assert not (tmp_path / ".again.restoring").exists()
    (tmp_path / "half.jsonl").write_bytes(b"".join(lines) + b'{"number":4,')  # a crash while a line was written
    assert restored(backup, tmp_path / "again", expunged=tmp_path / "half.jsonl").ledger.number == 3
    other.engine.dispose()


def test_the_ledger_goes_on_after_a_line_that_a_crash_left_half(node: Node) -> None:
    expunge(node, "L-0")
    with (node.folder / FILE).open("ab") as file:
        file.write(b'{"number":2,"tag":')
    expunge(node, "L-1")
    held = read_expungements(node.folder / FILE, node.keyring.node_key.verifying_key)
    assert held.reach.number == 2
    assert "L-1" not in (node.folder / FILE).read_text()
    (node.folder / FILE).write_bytes((node.folder / FILE).read_bytes()[2:])
    with pytest.raises(StoreError, match="was changed"):
        expunge(node, "L-2")
    assert not RecordStore(node.engine, node.vault, MODEL).holds(2)  # destroyed all the same: the destruction does not wait for the file


def test_the_ledger_may_lie_on_another_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    node = make_node(tmp_path / "lakeside", expunge_ledger=str(disk / "ledger"))
    store = gallery(node)
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    store.expunge("L-1", ExpungeReason.ERROR, NOW, not_entered)
    follow(disk / "ledger", store, node.keyring.node_key, NOW)
    shutil.copy(disk / "ledger", tmp_path / "copy")
    with pytest.raises(RequestError, match="put the newest copy there"):
        restored(tmp_path / "backup", tmp_path / "again", expunged=tmp_path / "copy")
    assert restored(tmp_path / "backup", tmp_path / "again", expunged=disk / "ledger").expunged_again == 1
    assert not (tmp_path / "again" / FILE).exists()


# --- what does not come back ------------------------------------------------------------------------------------------


def test_no_key_of_a_search_is_in_a_backup(node: Node, tmp_path: Path) -> None:
    """Neither of one that runs nor of one that ended; the week's key is there while its week lasts, and no longer."""
    keyring = node.keyring
    week, search = keyring.current_week(), keyring.for_search(SEARCH)
    with node.engine.begin() as connection:
        sealed = {one.key_id: one.sealed_private for one in connection.execute(select(sealing_keys))}
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    assert keyring.private(search.key_id).public_key == search.key  # the node itself keeps it
    inside = b"".join(unsealed(tmp_path / "backup").values())
    assert (sealed[str(week.key_id)] or b"none") in inside  # the control
    assert (sealed[str(search.key_id)] or b"") not in inside
    for name, later, there in (("now", timedelta(), True), ("later", timedelta(weeks=1), False)):
        restored(tmp_path / "backup", tmp_path / name, expunged=empty(tmp_path), clock=Clock(NOW + later))
        again = open_node(tmp_path / name, Clock(NOW + later))
        live = live_keys(again)
        assert search.key_id not in live
        assert (week.key_id in live) is there
        with pytest.raises(StoreError, match="destroyed"):
            again.keyring.private(search.key_id)
        with pytest.raises(StoreError, match="ask for a new grant"):
            again.keyring.for_search(SEARCH)
        again.engine.dispose()


def unsealed(backup: Path) -> dict[str, bytes]:
    """The files in a backup, for whoever has its passphrase."""
    with backup.open("rb") as file:
        reader = SealedReader(file)
        reader.unlock(PASSPHRASE)
        found = {name: b"".join(reader.content(size)) for name, size in reader.entries()}
        reader.finish()
    return found


def live_keys(node: Node) -> set[KeyId]:
    live = select(sealing_keys.c.key_id).where(sealing_keys.c.sealed_private.is_not(None))
    with node.engine.begin() as connection:
        return {KeyId(one) for one in connection.execute(live).scalars()}


def empty(folder: Path) -> Path:
    (folder / "empty.jsonl").touch()
    return folder / "empty.jsonl"


def test_what_was_under_way_has_ended_and_numbers_jump(node: Node, tmp_path: Path) -> None:
    texts = dict.fromkeys(("note", "deadline", "expires", "roles", "received_at", "alarms", "grant_id"), "")
    with node.engine.begin() as connection:
        grant = {one.name: texts.get(one.name, b"x") for one in held_grants.c} | {"search_id": str(SEARCH), "state": "standing"}
        connection.execute(insert(held_grants).values(grant))
        values = {"message_id": "m", "message_type": "probe", "sender": "s", "search_id": "", "sequence": 1, "data": b"sealed"}
        connection.execute(insert(inbox).values(values | {"state": "new", "note": "", "received_at": ""}))
        connection.execute(insert(custody).values(search_id=str(SEARCH), state="open", note="", deadline="", alarms=""))
        write_fact(connection, Fact.COSIGNED, b"a head")
        write_fact(connection, Fact.MANIFEST, node.vault.seal("manifest", b'{"version": 7}'))
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    restored(tmp_path / "backup", tmp_path / "again", expunged=empty(tmp_path))
    again = open_node(tmp_path / "again", Clock())
    with again.engine.begin() as connection:
        assert connection.execute(select(held_grants.c.state)).scalar_one() == "ended"
        assert connection.execute(select(custody.c.state)).scalar_one() == "lapsed"
        assert connection.execute(select(inbox.c.state, inbox.c.data)).one() == ("done", None)
        assert read_fact(connection, Fact.COSIGNED) is None
        stated = read_fact(connection, Fact.MANIFEST)
        assert stated is not None
        assert json.loads(again.vault.open("manifest", stated))["version"] > 1 << 20
        last = connection.execute(select(ledger).order_by(ledger.c.sequence.desc()).limit(1)).one()
        assert (last.event, last.detail) == ("restored", f"from a backup of {stamp(NOW)}")
    with node.engine.begin() as connection:
        assert connection.execute(select(held_grants.c.state)).scalar_one() == "standing"  # the node itself goes on
    again.engine.dispose()


def test_a_restored_witness_has_no_witness_key(tmp_path: Path) -> None:
    """It would not know what it cosigned since."""
    node = make_node(tmp_path / "lakeside", witness=True)
    gallery(node)
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    restored(tmp_path / "backup", tmp_path / "again", expunged=empty(tmp_path))
    assert (node.folder / WITNESS_KEY_FILE).exists()
    assert not (tmp_path / "again" / WITNESS_KEY_FILE).exists()
    assert open_node(tmp_path / "again", Clock()).keyring.witness_key is None


def test_a_backup_while_the_node_writes_is_one_moment(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another connection enrols between two parts of the copy."""

    def enrols_meanwhile(engine: Any) -> None:
        gallery(node, 100, 50)
        close_copy(engine)

    monkeypatch.setattr(making, "close_copy", enrols_meanwhile)
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    restored(tmp_path / "backup", tmp_path / "again", expunged=empty(tmp_path))
    again = open_node(tmp_path / "again", Clock())
    assert RecordStore(again.engine, again.vault, MODEL).count() == 5
    assert RecordStore(node.engine, node.vault, MODEL).count() == 55


# --- nobody else opens it ---------------------------------------------------------------------------------------------


def test_the_file_says_nothing_but_its_head(kept: tuple[Path, Path], node: Node) -> None:
    data = kept[0].read_bytes()
    for secret in (
        node.keyring.node_key.export_secret(),
        (node.folder / "keys" / "at-rest.key").read_bytes(),
        b"records_by_enrolment",
        b"SQLite format",
        b"trusted_custodians",
    ):
        assert secret not in data
    assert str(LAKESIDE).encode() in data[: len(MAGIC) + 4 + 4096]
    assert kept[0].stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in kept[0].parent.iterdir()) == ["backup", "kept.jsonl", "lakeside"]  # no copy stays beside it


def refused(data: bytes, tmp_path: Path, ledger_file: Path, **changes: Any) -> str:
    (tmp_path / "tried").write_bytes(data)
    with pytest.raises((RequestError, StoreError)) as caught:
        restored(tmp_path / "tried", tmp_path / "again", expunged=ledger_file, **changes)
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / ".again.restoring").exists()
    assert PASSPHRASE not in str(caught.value)
    return str(caught.value)


def test_a_file_that_was_cut_turned_or_added_to_restores_nothing(
    kept: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, ledger_file = kept
    data = backup.read_bytes()
    start = len(MAGIC) + 4
    piece = (1 << 20) + 16
    body = start + int.from_bytes(data[len(MAGIC) : start], "big")
    cuts = [0, 5, start + 3, body, body + 1, body + piece // 2, len(data) - 1, len(data) - 16, len(data) - 64]
    for cut in cuts:
        assert refused(data[:cut], tmp_path, ledger_file)
    for at in (3, len(MAGIC) + 1, start + 20, body + 5, len(data) // 2, len(data) - 3):
        assert refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], tmp_path, ledger_file)
    assert refused(data + b"\0", tmp_path, ledger_file)
    assert refused(data + data[body:], tmp_path, ledger_file)
    assert "passphrase is wrong" in refused(data, tmp_path, ledger_file, opens=PASSPHRASE + " ")
    assert restored(backup, tmp_path / "again", expunged=ledger_file).agency == LAKESIDE  # the control


def test_pieces_cannot_be_left_out_or_moved(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many pieces: a whole one missing, two exchanged, the file ended after a whole piece."""
    monkeypatch.setattr(sealed_file, "PIECE_BYTES", 4096)
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    data = (tmp_path / "backup").read_bytes()
    start = len(MAGIC) + 4
    body, piece = start + int.from_bytes(data[len(MAGIC) : start], "big"), 4096 + 16
    pieces = [data[at : at + piece] for at in range(body, len(data), piece)]
    assert len(pieces) > 10
    for wrong in (pieces[:5] + pieces[6:], [*pieces[:3], pieces[4], pieces[3], *pieces[5:]], pieces[:7], pieces[:-1]):
        assert "damaged or cut off" in refused(data[:body] + b"".join(wrong), tmp_path, empty(tmp_path))


@pytest.mark.rule("R27")
def test_a_backup_opens_at_no_other_agency(kept: tuple[Path, Path], tmp_path: Path) -> None:
    """R27: not into another agency's node, not under another name, not with another name or key written into its head."""
    backup, ledger_file = kept
    eastfield = make_node(tmp_path / "eastfield", EASTFIELD)
    gallery(eastfield, 50, 2)
    for agency in (EASTFIELD, LAKESIDE):
        with pytest.raises(RequestError, match="takes no backup of another agency" if agency == LAKESIDE else "move it away"):
            restored(backup, eastfield.folder, agency=agency, expunged=ledger_file)
    with pytest.raises(RequestError, match="a backup of lakeside-sheriff, and opens at no other agency"):
        restored(backup, tmp_path / "again", agency=EASTFIELD, expunged=ledger_file)
    assert RecordStore(eastfield.engine, eastfield.vault, MODEL).count() == 2

    data = backup.read_bytes()
    start = len(MAGIC) + 4
    body = start + int.from_bytes(data[len(MAGIC) : start], "big")
    with backup.open("rb") as file:
        head = SealedReader(file).head
    for changed in (replace(head, agency=EASTFIELD), replace(head, node_key=eastfield.keyring.node_key.verifying_key)):
        raw = changed.to_bytes()
        forged = MAGIC + len(raw).to_bytes(4, "big") + raw + data[body:]
        assert "does not open" in refused(forged, tmp_path, ledger_file, agency=changed.agency)


@pytest.mark.rule("R27")
def test_who_has_the_passphrase_cannot_make_a_backup_for_another_agency(node: Node, tmp_path: Path) -> None:
    """R27: Lakeside's gallery sealed under Eastfield's name: its key and settings are not Eastfield's; or signed by Eastfield."""
    eastfield = make_node(tmp_path / "eastfield", EASTFIELD)
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    files = unsealed(tmp_path / "backup")
    with (tmp_path / "backup").open("rb") as file:
        reader = SealedReader(file)
    forger = eastfield.keyring.node_key
    for signer, head in (
        (node.keyring.node_key, replace(reader.head, agency=EASTFIELD)),
        (node.keyring.node_key, replace(reader.head, agency=EASTFIELD, node_key=forger.verifying_key)),
        (forger, replace(reader.head, agency=EASTFIELD, node_key=forger.verifying_key)),
        (forger, reader.head),
    ):
        with (tmp_path / "forged").open("wb") as out:
            writer = sealed_file.SealedWriter(out, head, PASSPHRASE)
            for name, content in files.items():
                writer.add(name, len(content), iter([content]))
            writer.finish(signer)
        assert refused((tmp_path / "forged").read_bytes(), tmp_path, empty(tmp_path), agency=head.agency)


def test_no_path_leads_out_of_the_folder(node: Node, tmp_path: Path) -> None:
    """Names inside are a fixed few; a table outside of the folder is not written."""
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    files = unsealed(tmp_path / "backup")
    with (tmp_path / "backup").open("rb") as file:
        reader = SealedReader(file)
    outside = files["node.toml"] + b'\n[calibration]\nfile = "../stolen"\nsha256 = "%s"\n' % (b"0" * 64)
    for changed in ({"../evil": b"x"}, {"/etc/evil": b"x"}, {"node.toml": outside, "calibration": b"x"}):
        with (tmp_path / "forged").open("wb") as out:
            writer = sealed_file.SealedWriter(out, reader.head, PASSPHRASE)
            for name, content in (files | changed).items():
                writer.add(name, len(content), iter([content]))
            writer.finish(node.keyring.node_key)
        assert refused((tmp_path / "forged").read_bytes(), tmp_path, empty(tmp_path))
        assert not (tmp_path / "stolen").exists()
        assert not (tmp_path / "evil").exists()


def test_a_guess_at_the_passphrase_costs_what_it_should() -> None:
    source = Path(sealed_file.__file__).read_text(encoding="utf-8")
    assert "_COST: Final = 1 << 17\n" in source
    assert "n=_COST, r=8, p=1" in source


# --- interrupted ------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from agency_node.backup import restoring, sealed_file
from tests.sample_federation import LAKESIDE, NOW
sealed_file._COST = 16
place, call = sys.argv[4].split(".")
def dies(*_a, **_n):
    os._exit(137)
setattr({"restoring": restoring, "Path": Path}[place], call, dies)
backup, folder, kept = map(Path, sys.argv[1:4])
restoring.restore_backup(backup, folder, LAKESIDE, "five words that nobody guesses", kept, 0, lambda: NOW)
"""


@pytest.mark.parametrize("at", ["restoring._expunge", "Path.rename"])
def test_a_restore_that_was_killed_leaves_nothing_under_the_name(kept: tuple[Path, Path], tmp_path: Path, at: str) -> None:
    backup, ledger_file = kept
    argv = [sys.executable, "-c", KILLED, str(backup), str(tmp_path / "again"), str(ledger_file), at]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert done.returncode == 137, done.stderr
    assert not (tmp_path / "again").exists()
    assert (tmp_path / ".again.restoring").exists()  # the control: it was begun
    assert restored(backup, tmp_path / "again", expunged=ledger_file).expunged_again == 1
    assert not (tmp_path / ".again.restoring").exists()


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALMATCH_PASSPHRASE", PASSPHRASE)
    node.engine.dispose()
    runner, folder = CliRunner(), str(node.folder)
    expunged = runner.invoke(app, ["node", "expunge", folder, "L-0", "--reason", "error", "--json"])
    assert json.loads(expunged.stdout)["ledger_entry"] == 1
    made = runner.invoke(app, ["node", "backup", folder, "--into", str(tmp_path / "b"), "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["expunged"] == 1
    again = runner.invoke(app, ["node", "backup", folder, "--into", str(tmp_path / "b")])
    assert again.exit_code == 2
    assert "no backup is overwritten" in again.stderr
    shown = runner.invoke(app, ["node", "expunge", folder, "L-1", "--reason", "error"])
    assert "entry 2 of " in shown.stdout
    restore = ["node", "restore", str(tmp_path / "b"), str(tmp_path / "new"), "--agency", "lakeside-sheriff"]
    lacking = runner.invoke(app, restore)
    assert lacking.exit_code == 2
    assert "--expunged" in lacking.stderr
    done = runner.invoke(app, [*restore, "--expunged", str(node.folder / FILE), "--entries", "2"])
    assert done.exit_code == 0, done.output
    assert "expunged again: 1 records; the ledger has 2 lines, the last of" in done.stdout
    assert runner.invoke(app, ["node", "status", str(tmp_path / "new"), "--json"]).exit_code == 0
    monkeypatch.delenv("SEALMATCH_PASSPHRASE")
    assert "SEALMATCH_PASSPHRASE" in runner.invoke(app, ["node", "backup", folder, "--into", str(tmp_path / "c")]).stderr
    assert not (tmp_path / "c").exists()
