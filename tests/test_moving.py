"""A node that moves to another machine of its agency: sealed to a key, one node at a time, and nothing of the gallery in the clear (R27).

Attacks bring another key, another agency's key, a file that was cut or changed, a public key exchanged on its way, and an old node that is
started after the move.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from typer.testing import CliRunner

from agency_node.backup import moving, sealed_file
from agency_node.backup.making import make_backup
from agency_node.backup.moving import move_node
from agency_node.backup.restore_key import RestoreEntry
from agency_node.backup.restoring import restore_backup
from agency_node.backup.sealed_file import MAGIC_TO_KEY, SealedReader, SealedTo
from agency_node.cli import app
from agency_node.config import Role
from agency_node.errors import NodeError, RequestError, RetiredError
from agency_node.facts import Fact
from agency_node.holder.expunge_ledger import FILE
from agency_node.legal import persons
from agency_node.legal.persons import RestoreKey, create_restore_key, read_restore_key
from agency_node.node import Node, open_node
from agency_node.retiring import Stage, nobody_serves_in, retirement, serving_in
from agency_node.serving import Service, serve
from agency_node.tables import facts
from agency_node.vault import Vault
from crypto.keys import SealingPrivateKey
from tests.node_samples import Clock
from tests.rostered import pinned
from tests.sample_federation import BOARD, EASTFIELD, LAKESIDE, NOW, root_set
from tests.test_backup import MODEL, gallery, live_keys, make_node, template

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrypt as it is takes half a second a time."""
    monkeypatch.setattr(sealed_file, "_COST", 16)
    monkeypatch.setattr(persons, "_COST", 16)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = make_node(tmp_path / "lakeside", root_fingerprint=root_set().fingerprint.hex())
    gallery(made)
    (made.folder / FILE).touch()
    return made


@pytest.fixture
def key(tmp_path: Path) -> RestoreKey:
    create_restore_key(tmp_path / "restore.key", LAKESIDE, "", without_passphrase=True)
    return read_restore_key(tmp_path / "restore.key")


def entry(key: RestoreKey) -> RestoreEntry:
    return RestoreEntry(key.agency, key.sealing_key.public_key)


def moved(node: Node, key: RestoreKey, into: Path, **more: Any) -> Path:
    move_node(node, into, entry(key), node.clock, **more)
    return into


def restored(file: Path, folder: Path, opens: str | RestoreKey, ledger: Path) -> Node:
    restore_backup(file, folder, LAKESIDE, opens, ledger, 0, Clock(NOW))
    return open_node(folder, Clock(NOW))


# --- there --------------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R27")
def test_one_node_moves_and_the_old_one_serves_no_more(node: Node, key: RestoreKey, tmp_path: Path) -> None:
    """R27: the node that was restored has gallery and keys; the old one is started again, and does nothing."""
    week = node.keyring.current_week()
    file = moved(node, key, tmp_path / "sealed")
    again = restored(file, tmp_path / "new", key, node.folder / FILE)
    service = Service(again)
    assert service.index.records.count() == 5
    assert (service.index.records.templates()[2] == template(2)).all()
    service.index.close()
    assert again.keyring.node_key.verifying_key == node.keyring.node_key.verifying_key
    assert week.key_id in live_keys(again)
    assert retirement(again.engine) is None
    again.engine.dispose()

    found = retirement(node.engine)
    assert found is not None
    assert found.stage is Stage.MOVED
    with pytest.raises(RetiredError, match="two nodes with one key are a fork"):
        serve(node, lambda: pytest.fail("an old node served"))
    with pytest.raises(RetiredError, match="moved to another machine"):
        open_node(node.folder, Clock(NOW))
    with pytest.raises(RetiredError, match="--replace"):
        moved(node, key, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    moved(node, key, tmp_path / "second", replaces=True)
    assert (tmp_path / "second").exists()


@pytest.mark.rule("R27")
def test_a_node_that_serves_ends_before_it_is_copied(node: Node, key: RestoreKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R27: by itself, within its next look; one that does not end keeps the move from being made."""
    monkeypatch.setattr(moving, "nobody_serves_in", lambda folder: nobody_serves_in(folder, 0.2))
    with serving_in(node.folder), serving_in(node.folder):
        with pytest.raises(RequestError, match="still serves: stop it"):
            moved(node, key, tmp_path / "sealed")
        assert not (tmp_path / "sealed").exists()
    with pytest.raises(RetiredError, match="being moved"):
        asyncio.run(Service(node)._look_whether_it_acts(asyncio.Event()))
    moved(node, key, tmp_path / "sealed")
    with nobody_serves_in(node.folder), pytest.raises(RetiredError), serving_in(node.folder):
        pytest.fail("two processes had the folder")


@pytest.mark.torture
@pytest.mark.rule("R27")
def test_a_serving_process_ends_by_itself_when_its_node_is_moved(node: Node, key: RestoreKey, tmp_path: Path) -> None:
    """R27: a real one; it says why, and its exit code keeps a service manager from starting it again."""
    serving = subprocess.Popen(  # noqa: S603  # our own program; it waits for a broker that is not there
        [sys.executable, "-m", "agency_node.cli", "node", "serve", str(node.folder)], cwd=ROOT, stderr=subprocess.PIPE
    )
    while not is_served(node.folder):
        assert serving.poll() is None
        time.sleep(0.1)
    moved(node, key, tmp_path / "sealed")
    _, said = serving.communicate(timeout=60)
    assert (serving.returncode, b"this node is being moved" in said) == (2, True)


def is_served(folder: Path) -> bool:
    try:
        with nobody_serves_in(folder, 0.0):
            return False
    except RequestError:
        return True


KILLED = """
import os, sys
from pathlib import Path
from agency_node.backup import moving
from agency_node.backup.restore_key import RestoreEntry
from agency_node.node import open_node
from tests.sample_federation import NOW
folder, entry, into = map(Path, sys.argv[1:])
moving._sha256 = lambda path: os.kill(os.getpid(), 9)
moving.move_node(open_node(folder, lambda: NOW), into, RestoreEntry.read(entry), lambda: NOW)
"""


class Died(BaseException):
    """The end of a process, for what stands on the disk then."""


@pytest.mark.rule("R27")
def test_a_move_that_was_killed_leaves_a_node_that_does_not_serve_and_goes_on(
    node: Node, key: RestoreKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R27: before the file is made, and, with -9, when it is made but not written down."""

    def die(*_args: Any, **_named: Any) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(moving, "make_backup", die)
        with pytest.raises(Died):
            moved(node, key, tmp_path / "sealed")
    assert not (tmp_path / "sealed").exists()
    (tmp_path / "entry.json").write_text(json.dumps(entry(key).to_json()))
    with pytest.raises(RetiredError, match="being moved"):
        open_node(node.folder, Clock(NOW))
    with node.engine.begin() as connection:
        connection.execute(delete(facts).where(facts.c.name == Fact.RETIRED.value))
    words = [str(one) for one in (node.folder, tmp_path / "entry.json", tmp_path / "sealed")]
    died = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, check=False)  # noqa: S603  # our own program
    assert died.returncode == -9
    assert (tmp_path / "sealed").exists()
    with pytest.raises(RetiredError, match="being moved"):
        open_node(node.folder, Clock(NOW))
    again = restored(moved(node, key, tmp_path / "next"), tmp_path / "new", key, node.folder / FILE)
    assert retirement(again.engine) is None
    again.engine.dispose()


def test_a_backup_to_a_key_leaves_the_node_as_it_is(node: Node, key: RestoreKey, tmp_path: Path) -> None:
    head = make_backup(node, tmp_path / "sealed", entry(key), node.clock)
    assert head.to is not None
    assert not head.to.moves
    assert retirement(node.engine) is None
    done = restore_backup(tmp_path / "sealed", tmp_path / "new", LAKESIDE, key, node.folder / FILE, 0, Clock(NOW))
    assert not done.moved


# --- attacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R27")
def test_nothing_but_the_key_of_that_machine_opens_it(node: Node, key: RestoreKey, tmp_path: Path) -> None:
    """R27: another key, a passphrase, another agency's key; and a passphrase's backup opens with no key."""
    file, ledger = moved(node, key, tmp_path / "sealed"), node.folder / FILE
    other = RestoreKey(LAKESIDE, SealingPrivateKey.generate())
    tries: list[tuple[str | RestoreKey, str]] = [(other, "and yours is"), ("", "no passphrase"), ("guess", "no passphrase")]
    for opens, said in tries:
        with pytest.raises(RequestError, match=said):
            restored(file, tmp_path / "new", opens, ledger)
        assert not (tmp_path / "new").exists()
    other_node = make_node(tmp_path / "eastfield", EASTFIELD)
    for make in (make_backup, move_node):
        with pytest.raises(RequestError, match=r"R27"):
            make(other_node, tmp_path / "not made", entry(key), node.clock)
    assert retirement(other_node.engine) is None
    assert not (tmp_path / "not made").exists()
    other_node.engine.dispose()
    plain = make_node(tmp_path / "plain", roles=[Role.CUSTODIAN.value], trusted_custodians=[str(BOARD)])
    make_backup(plain, tmp_path / "by passphrase", "words", plain.clock)
    with pytest.raises(RequestError, match="no key"):
        restored(tmp_path / "by passphrase", tmp_path / "new", key, ledger)


def test_a_file_that_was_cut_changed_or_given_another_head_opens_nowhere(node: Node, key: RestoreKey, tmp_path: Path) -> None:
    """Cut at every kind of place; a bit of each part; the content key sealed anew to an attacker's key; `move` made `backup`."""
    file, ledger = moved(node, key, tmp_path / "sealed"), node.folder / FILE
    data = file.read_bytes()
    with file.open("rb") as opened:
        head = SealedReader(opened).head
    begin = len(MAGIC_TO_KEY)
    body = begin + 4 + len(head.to_bytes())
    assert head.to is not None

    def with_head(other: bytes) -> bytes:
        return data[:begin] + len(other).to_bytes(4, "big") + other + data[body:]

    attacker = RestoreKey(LAKESIDE, SealingPrivateKey.generate())
    mine = replace(head, to=SealedTo.seal(bytes(32), LAKESIDE, attacker.sealing_key.public_key, moves=True))
    copied = replace(head, to=replace(head.to, moves=False))
    changed = {
        "the file's head": [
            with_head(copied.to_bytes()),
            with_head(replace(head, agency=LAKESIDE, made_at=NOW.replace(year=2027)).to_bytes()),
        ],
        "no backup": [data[: begin - 3], data[: begin + 20], b"x" + data],
        "damaged|head or beginning": [data[: body + 100], data[:-1], data[:-17], data[:body] + bytes([data[body] ^ 1]) + data[body + 1 :]],
    }
    for said, several in changed.items():
        for number, content in enumerate(several):
            (tmp_path / "tried").write_bytes(content)
            with pytest.raises(NodeError, match=said):
                restored(tmp_path / "tried", tmp_path / "new", key, ledger)
            assert not (tmp_path / "new").exists(), (said, number)
    (tmp_path / "tried").write_bytes(with_head(mine.to_bytes()))
    with pytest.raises(RequestError, match="does not open"):
        restored(tmp_path / "tried", tmp_path / "new", attacker, ledger)


def test_a_public_key_is_read_strictly_and_named_by_its_content(key: RestoreKey, tmp_path: Path) -> None:
    good, other = entry(key).to_json(), RestoreEntry(LAKESIDE, SealingPrivateKey.generate().public_key).to_json()
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(good))
    assert RestoreEntry.read(path) == entry(key)
    wrongs: tuple[object, ...] = (
        {**good, "restore_key": other["restore_key"]},
        {**good, "more": 1},
        {"agency": "lakeside-sheriff"},
        [],
        "x" * 5000,
    )
    for wrong in wrongs:
        path.write_text(json.dumps(wrong))
        with pytest.raises(RequestError, match="no public restore key"):
            RestoreEntry.read(path)
    with pytest.raises(RequestError, match="cannot be read"):
        RestoreEntry.read(tmp_path / "nowhere")


# --- commands -----------------------------------------------------------------------------------------------------------


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in words], env={"SEALMATCH_PASSPHRASE": "words"})


@pytest.mark.rule("R27")
def test_the_commands_move_a_node_and_delete_the_key(node: Node, tmp_path: Path) -> None:
    """R27: the key is made there, compared, used once; the old node says what it is, and refuses every command that acts."""
    made = run("node", "restore-key", tmp_path / "r.key", "--agency", LAKESIDE, "--json")
    (tmp_path / "entry.json").write_text(made.stdout)
    backup = ["node", "backup", node.folder, "--into", tmp_path / "sealed"]
    assert "make it there with `sealmatch node restore-key`" in run(*backup, "--move").stderr
    assert "belongs to --move" in run(*backup, "--replace").stderr
    done = run(*backup, "--to", tmp_path / "entry.json", "--move")
    assert done.exit_code == 0, done.output
    assert json.loads(made.stdout)["key_id"] in done.stdout
    assert "this node acts here no more" in done.stdout
    for words in (
        ["serve", node.folder], ["enrol", node.folder], ["expunge", node.folder, "L-1", "--reason", "error"],
        ["backup", node.folder, "--into", tmp_path / "x"], ["preflight", node.folder],
    ):  # fmt: skip
        refused = run("node", *words)
        assert (refused.exit_code, "two nodes with one key are a fork" in refused.stderr) == (2, True), refused.output
    assert "was moved to another machine at" in run("node", "status", node.folder).stdout
    assert "moved away" in run("node", "ledger", node.folder).stdout
    back = ["node", "restore", tmp_path / "sealed", tmp_path / "new", "--agency", LAKESIDE, "--expunged", node.folder / FILE]
    assert "no passphrase: name it with --key" in run(*back).stderr
    done = run(*back, "--key", tmp_path / "r.key")
    assert "it was moved here" in done.stdout, done.output
    assert not (tmp_path / "r.key").exists()
    status = json.loads(run("node", "status", tmp_path / "new", "--json").stdout)
    assert status["counts"]["records"] == 5
    assert "was moved here at" in status["standing"][0]


NEEDLES_OF = 3
EXPORTS: dict[str, list[list[str]]] = {
    "node status": [["--json"]],
    "node ledger": [["--json"], ["--verify"]],
    "node preflight": [["--json"]],
    "node statement": [["--month", "2026-01", "--save", "{out}/statement.json"]],
    "node backup": [
        ["--into", "{out}/by-passphrase"],
        ["--into", "{out}/to-key", "--to", "{entry}"],
        ["--into", "{out}/moved", "--to", "{entry}", "--move"],
    ],
}  # fmt: skip
"""Commands of a holder's node that write something or print; with `{out}` for a folder outside of the node."""
WRITES_NO_FILE_OF_A_NODE = {
    "enrol": "its --refused has the lines of the table that a person brought",
    "disclose": "one photograph, to an agency, after its own legal staff granted it (tests of the disclosure)",
    "search": "a requester's", "review": "a requester's still, for its reviewer", "unseal": "a lapsed search, to the legal office's key",
    "open": "entries of the log", "originate": "a draft", "restore": "makes a node", "init": "makes a node",
    "restore-key": "makes a key", "leave": "a receipt of counts", "receipt": "reads one", "subject": "a verdict",
    "hold": "what legal staff signed", "provenance": "a requester's still", "reembed": "its --refused has rows, record numbers and codes",
}  # fmt: skip


@pytest.mark.rule("R27")
def test_no_command_writes_templates_or_photographs_out(node: Node, key: RestoreKey, tmp_path: Path) -> None:
    """R27: whatever writes a file or prints is tried, and none of it holds a template or a photograph in any spelling."""
    (tmp_path / "out").mkdir()
    (tmp_path / "entry.json").write_text(json.dumps(entry(key).to_json()))
    pinned(node)
    rows = range(NEEDLES_OF)
    needles = {f"template {row}": template(row).tobytes() for row in rows} | {f"photograph {row}": b"picture %d" % row for row in rows}
    forms = {name: forms_of(data) for name, data in needles.items()}
    printed = b""
    for command, several in EXPORTS.items():
        for options in several:
            filled = [one.format(out=tmp_path / "out", entry=tmp_path / "entry.json") for one in options]
            done = run(*command.split(), node.folder, *filled)
            printed += done.output.encode()
            assert done.exit_code in {0, 1}, done.output
    written = [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    assert len(written) == 4
    for data in (printed, *(path.read_bytes() for path in written), *(path.read_bytes() for path in node.folder.glob("node.sqlite*"))):
        assert [name for name, spelled in forms.items() if any(one in data for one in spelled)] == []
    restored(tmp_path / "out" / "moved", tmp_path / "new", key, node.folder / FILE)  # the control: it is all in there
    vault = Vault.from_file(tmp_path / "new" / "keys" / "at-rest.key")
    store = gallery_of(tmp_path / "new", vault)
    assert (store.templates()[0] == template(0)).all()
    assert any(one in b"data:" + base64.b64encode(b"picture 0") for one in forms["photograph 0"])


def forms_of(data: bytes) -> list[bytes]:
    return [data, data.hex().encode(), base64.b64encode(data)[:-4], base64.urlsafe_b64encode(data)[:-4]]


def gallery_of(folder: Path, vault: Vault) -> Any:
    from agency_node.holder.records import RecordStore  # noqa: PLC0415
    from agency_node.store import DATABASE_FILE, open_store  # noqa: PLC0415

    return RecordStore(open_store(folder / DATABASE_FILE), vault, MODEL)


@pytest.mark.rule("R27")
def test_every_command_with_a_file_to_write_has_its_reason() -> None:
    """R27: a new option that names a file is red until somebody says what it writes."""
    from tests.test_no_hidden_endpoints import all_commands  # noqa: PLC0415

    takes_path = {
        name.removeprefix("node ")
        for name, command in all_commands().items()
        if name.startswith("node ")
        and any("Path" in str(one.annotation) for one in inspect.signature(command.callback).parameters.values())
    }
    tried = {name.removeprefix("node ") for name in EXPORTS}
    harmless = {"serve", "evaluated", "release", "cancel", "accept", "revoke", "ratify", "expunge", "preflight", "status"}
    assert takes_path - tried - harmless <= set(WRITES_NO_FILE_OF_A_NODE), takes_path
    assert takes_path >= {"backup", "statement", "disclose"}  # the control: such options are seen


def test_a_copy_of_the_folder_from_before_is_seen_by_nobody_here(node: Node, key: RestoreKey, tmp_path: Path) -> None:
    """The limit that the module's words name: who copied the folder has the node."""
    shutil.copytree(node.folder, tmp_path / "copy")
    moved(node, key, tmp_path / "sealed")
    open_node(tmp_path / "copy", Clock(NOW)).engine.dispose()
