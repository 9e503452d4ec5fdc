"""A new at-rest key: everything that a node sealed opens under it, nothing under the old one, whatever kills the rotation on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import LargeBinary, literal_column, select
from typer.testing import CliRunner

from agency_node import gallery_tables, rotation, tables
from agency_node.backup.making import make_backup
from agency_node.cli import app
from agency_node.config import AT_REST_KEY_FILE
from agency_node.errors import ConfigError, KnownRecordError, RequestError, StoreError
from agency_node.holder.blocks import DATA_KEY, NEXT, SEARCHED, TEMPLATES
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.key_epoch import KEY_EPOCH, NEXT_KEY_FILE, key_epoch
from agency_node.keyring import SEALED_FILES
from agency_node.node import Node, open_node
from agency_node.rotation import SEALED, SEALED_FACTS, Rotation
from agency_node.store import DATABASE_FILE, open_store
from agency_node.vault import KEY_BYTES, Vault
from tests.node_samples import Clock
from tests.node_world import World
from tests.sample_federation import LAKESIDE, NORTHPORT, NOW, OVERSIGHT, digest
from tests.test_backup import MODEL, PASSPHRASE, expunge, gallery, make_node, restored

PURPOSES = {one.purpose for one in SEALED} | {purpose for _, purpose in SEALED_FACTS} | {TEMPLATES, DATA_KEY, KEY_EPOCH}
PURPOSES |= set(SEALED_FILES.values())


def key_file(folder: Path) -> Path:
    return folder / "keys" / AT_REST_KEY_FILE


def rotate(folder: Path) -> int:
    one = Rotation(folder, Clock())
    try:
        return one.run(NoProgress()).key_epoch
    finally:
        one.close()


def every_value(folder: Path) -> Iterator[tuple[str, bytes, list[bytes]]]:
    """The last blobs of every table and every file of keys: where each lies, its bytes, and all that it could be bound to."""
    engine = open_store(folder / DATABASE_FILE)
    with engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            blobs = [one.name for one in table.columns if isinstance(one.type, LargeBinary)]
            for row in connection.execute(select(table).order_by(literal_column("rowid").desc()).limit(8)).mappings():
                bound = [rotation._bytes_of(value) for value in row.values() if isinstance(value, str | int | bytes) and value != -1]
                for name in blobs:
                    if row[name] and (name.startswith("sealed") or len(row[name]) < 1 << 14):  # longer ones are messages, sealed to others
                        yield f"{table.name}.{name}", bytes(row[name]), [b"", *(one for one in bound if len(one) < 128)]
    engine.dispose()
    for path in SEALED_FILES:
        if (folder / path).exists():
            yield str(path), (folder / path).read_bytes(), [b""]


def opened_by(vault: Vault, folder: Path) -> set[str]:
    """Where something lies that this vault opens, under whatever purpose and binding."""
    found = set()
    for place, value, bounds in every_value(folder):
        for purpose in PURPOSES:
            for bound in bounds:
                try:
                    vault.open(purpose, value, bound)
                except StoreError:
                    continue
                found.add(place)
    return found


def known_values(folder: Path) -> list[tuple[str, bytes, bytes]]:
    """Every value of every sealed column: its purpose, its bytes, what it is bound to."""
    engine = open_store(folder / DATABASE_FILE)
    found: list[tuple[str, bytes, bytes]] = []
    with engine.begin() as connection:
        for one in SEALED:
            rows = connection.execute(select(one.table.c[one.column], one.bound)).all()
            found += [(one.purpose, value, rotation._bytes_of(bound)) for value, bound in rows if value]
        for pair in (SEARCHED, NEXT):
            for table, purpose, name in ((pair.blocks, TEMPLATES, "sealed_templates"), (pair.keys, DATA_KEY, "sealed_key")):
                rows = connection.execute(select(table.c[name], table.c.block)).all()
                found += [(purpose, value, rotation._bytes_of(block)) for value, block in rows]
    engine.dispose()
    return found


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_every_sealed_column_is_known() -> None:
    """A column that nobody brings to the new key would be lost with the old one."""
    pairs = (SEARCHED, NEXT)
    known = [f"{one.table.name}.{one.column}" for one in SEALED]
    known += [f"{table.name}.{name}" for one in pairs for table, name in ((one.blocks, "sealed_templates"), (one.keys, "sealed_key"))]
    named = [
        f"{table.name}.{one.name}" for table in tables.metadata.sorted_tables for one in table.columns if one.name.startswith("sealed")
    ]
    assert sorted(known) == sorted(named)


@pytest.mark.rule("R29")
async def test_nothing_of_a_federation_opens_under_the_old_keys(tmp_path: Path) -> None:
    """R29: requester, holder and custodian after a whole search. The old keys are kept, and tried on every blob of every table and file."""
    world = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await world.node(agency)
    await world.released()
    seen: set[str] = set()
    for agency, node in world.nodes.items():
        key = digest(f"{agency} at rest")
        key_file(node.folder).write_bytes(key)
        node.engine.dispose()
        old, before = Vault(key), known_values(node.folder)
        places = opened_by(old, node.folder)
        seen |= places
        some = {(purpose, number % 8): value[:64] for number, (purpose, value, _) in enumerate(before)}
        disk = on_disk(node.folder)
        assert all(value in disk for value in some.values())
        assert rotate(node.folder) == 2
        new, after = Vault(key_file(node.folder).read_bytes()), known_values(node.folder)
        assert opened_by(old, node.folder) == set()
        assert opened_by(new, node.folder) == places | {"facts.value"}
        for (purpose, sealed, bound), (_, again, _) in zip(before, after, strict=True):
            kept, made = old.open(purpose, sealed, bound), new.open(purpose, again, bound)
            assert (kept == made) is (purpose not in {TEMPLATES, DATA_KEY})
            with pytest.raises(StoreError):
                old.open(purpose, again, bound)
        disk = on_disk(node.folder)
        assert not [name for name, value in some.items() if value in disk]
        assert key not in disk
    world.close()
    assert {"records.sealed_record", "template_blocks.sealed_templates", "block_keys.sealed_key", "layouts.sealed_layout"} <= seen
    assert {"searches.sealed_token", "searches.sealed_case", "leads.sealed_stub", "sealing_keys.sealed_private", "keys/node.key"} <= seen


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = make_node(tmp_path / "lakeside", witness=True)
    gallery(made, 0, 5)
    expunge(made, "L-1")
    return made


def close(node: Node) -> Path:
    """End what holds the node; where it is."""
    node.engine.dispose()
    node.held.close()
    return node.folder


def test_a_rotated_node_is_the_same_node(node: Node) -> None:
    """Keys, records, templates, tags and the gallery's commitment; its expunged number is enrolled no more."""
    store = RecordStore(node.engine, node.vault, MODEL)
    templates, root, keys = store.templates(), store.commitment(), (node.keyring.node_key.verifying_key, node.keyring.witness_key)
    assert key_epoch(node.engine, node.vault) == 1
    folder = close(node)
    assert [rotate(folder), rotate(folder)] == [2, 3]
    again = open_node(folder, Clock())
    assert key_epoch(again.engine, again.vault) == 3
    store = RecordStore(again.engine, again.vault, MODEL)
    assert (store.templates() == templates).all()
    assert store.commitment() == root
    assert store.record(2).photograph == b"picture 2"
    assert again.keyring.node_key.verifying_key == keys[0]
    assert keys[1] is not None
    assert again.keyring.witness_key is not None
    assert again.keyring.witness_key.verifying_key == keys[1].verifying_key
    with pytest.raises(KnownRecordError):
        gallery(again, 1, 1)
    expunge(again, "L-2")


@pytest.mark.rule("R29")
def test_a_block_has_another_data_key_after_it(node: Node) -> None:
    """R29: who kept a block's old data key, and gets the new at-rest key, opens nothing with it."""

    def held(vault: Vault) -> tuple[bytes, bytes]:
        with node.engine.begin() as connection:
            key = connection.execute(select(gallery_tables.block_keys.c.sealed_key)).scalar_one()
            block = connection.execute(select(gallery_tables.template_blocks.c.sealed_templates)).scalar_one()
        return vault.open(DATA_KEY, key, bytes(8))[:KEY_BYTES], vault.open(TEMPLATES, block, bytes(8))

    before, closed = held(node.vault)
    AESGCM(before).decrypt(closed[:12], closed[12:], bytes(8))
    folder = close(node)
    rotate(folder)
    after, closed = held(Vault(key_file(folder).read_bytes()))
    assert after != before
    with pytest.raises(InvalidTag):
        AESGCM(before).decrypt(closed[:12], closed[12:], bytes(8))


def test_who_has_the_node_open_keeps_its_key(node: Node) -> None:
    with pytest.raises(RequestError, match="in use"):
        Rotation(node.folder, Clock())
    assert not (node.folder / "keys" / NEXT_KEY_FILE).exists()
    running = Rotation(close(node), Clock())
    with pytest.raises(ConfigError, match="being rotated"):
        open_node(node.folder, Clock())
    running.close()
    with pytest.raises(ConfigError, match="run `sealmatch node rotate` again"):
        open_node(node.folder, Clock())
    assert rotate(node.folder) == 2
    node.held.close()
    assert key_epoch((opened := open_node(node.folder, Clock())).engine, opened.vault) == 2


STEPS: dict[str, tuple[object, str, int]] = {
    "the first column": (Rotation, "_reseal_column", 0),
    "the photographs": (Rotation, "_reseal_column", 16),
    "the blocks": (Rotation, "_rekey_blocks", 0),
    "the facts": (Rotation, "_reseal_facts", 0),
    "the node key": (Rotation, "_reseal_file", 0),
    "the witness key": (Rotation, "_reseal_file", 1),
    "the log": (rotation, "forget_deleted", 0),
    "the old key": (rotation, "_overwrite", 0),
    "the last look": (rotation, "key_epoch", 0),
}


@pytest.mark.parametrize("step", [*STEPS, "the new key's name"])
def test_killed_before_each_step_it_goes_on(node: Node, step: str) -> None:
    """A process of its own, killed by the kernel; the next run finishes, counts one epoch, and nothing is lost."""
    templates = RecordStore(node.engine, node.vault, MODEL).templates()
    folder, old = close(node), Vault(key_file(node.folder).read_bytes())

    def die(*_args: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        if step == "the new key's name":
            overwrite = rotation._overwrite

            def last(path: Path, data: bytes) -> None:
                overwrite(path, data)
                die()

            setattr(rotation, "_overwrite", last)  # noqa: B010  # in a process that ends here
        else:
            place, name, passes = STEPS[step]
            setattr(place, name, dying(getattr(place, name), passes, die))
        rotate(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    if step != "the last look":  # everything was done then
        with pytest.raises(ConfigError, match="was stopped"):
            open_node(folder, Clock())
        assert rotate(folder) == 2
    assert not (folder / "keys" / NEXT_KEY_FILE).exists()
    again = open_node(folder, Clock())
    assert key_epoch(again.engine, again.vault) == 2
    assert (RecordStore(again.engine, again.vault, MODEL).templates() == templates).all()
    assert RecordStore(again.engine, again.vault, MODEL).has("L-1")
    assert opened_by(old, folder) == set()


def dying(function: Callable[..., object], passes: int, die: Callable[[], None]) -> Callable[..., object]:
    """The function, which dies when it is called after so many calls."""
    calls: list[None] = []

    def instead(*args: object) -> object:
        if len(calls) == passes:
            die()
        calls.append(None)
        return function(*args)

    return instead


def test_a_value_that_neither_key_opens_stops_it_with_both_keys_there(node: Node) -> None:
    with node.engine.begin() as connection:
        connection.execute(gallery_tables.records.update().where(gallery_tables.records.c.row == 3).values(sealed_record=bytes(60)))
    folder = close(node)
    with pytest.raises(StoreError, match="a stored record does not open"):
        rotate(folder)
    assert (folder / "keys" / NEXT_KEY_FILE).exists()
    assert key_file(folder).read_bytes() != bytes(KEY_BYTES)


def test_backups_of_before_and_after_open_each_with_its_own_key(node: Node, tmp_path: Path) -> None:
    """One of before is the node of then, under the key of then, less what was expunged since; tags are the same in both."""
    make_backup(node, tmp_path / "before", PASSPHRASE, node.clock)
    old_key, folder = key_file(node.folder).read_bytes(), close(node)
    rotate(folder)
    rotated = open_node(folder, Clock())
    expunge(rotated, "L-3")
    make_backup(rotated, tmp_path / "after", PASSPHRASE, rotated.clock)
    for name, epoch in (("before", 1), ("after", 2)):
        restored(tmp_path / name, tmp_path / f"again-{name}", expunged=folder / "expunged.jsonl", at_least=2)
        again = open_node(tmp_path / f"again-{name}", Clock())
        assert (key_file(again.folder).read_bytes() == old_key) is (epoch == 1)
        assert key_epoch(again.engine, again.vault) == epoch
        store = RecordStore(again.engine, again.vault, MODEL)
        assert store.rows().tolist() == [0, 2, 4]
        assert store.known(["L-1", "L-3"]) == {"L-1", "L-3"}


def test_the_command(node: Node) -> None:
    done = CliRunner().invoke(app, ["node", "rotate", str(node.folder), "--json"])
    assert done.exit_code == 2
    assert "in use" in json.loads(done.stdout)["detail"]
    folder = close(node)
    done = CliRunner().invoke(app, ["node", "rotate", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["key_epoch"] == 2
    done = CliRunner().invoke(app, ["node", "rotate", str(folder)])
    assert "lakeside-sheriff is at key epoch 3" in done.stdout
    again = open_node(folder, Clock(NOW))
    with again.engine.begin() as connection:
        said = connection.execute(select(tables.ledger.c.event, tables.ledger.c.detail)).all()
    assert [detail for event, detail in said if event == "command node rotate"] == ["key epoch 2", "key epoch 3"]
    assert [detail for event, detail in said if event == "keys rotated"] == ["key epoch 2", "key epoch 3"]
