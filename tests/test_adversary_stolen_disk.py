"""A disk is stolen, or a backup of it, and the at-rest key is not on it: the folder says nothing, opens nowhere, and lets nothing be moved.

The folders are those of a search between real processes (`leak_run`), as they were during the search and after it. The thief may be another
party that has keys of its own. Left to others: what a party may know of itself (`test_leaks`), the vault's arithmetic (`test_vault`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Row, Table, select
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import AT_REST_KEY_FILE
from agency_node.demo.federation import BOARD, EASTFIELD, LAKESIDE, NORTHPORT
from agency_node.errors import StoreError
from agency_node.journal import record
from agency_node.keyring import NODE_KEY_FILE, WITNESS_KEY_FILE
from agency_node.node import open_node
from agency_node.store import DATABASE_FILE, forget_deleted, open_store
from agency_node.tables import metadata
from agency_node.vault import KEY_BYTES, Vault
from tests.leak_run import NOT_IN_THIS_RUN, SEALED, Run, logged, places, run_once
from tests.leaks import Secret, find

OWNERS = [NORTHPORT, EASTFIELD, LAKESIDE, BOARD]
PURPOSES = sorted({purpose for purpose, _ in SEALED.values()} | {"node-key", "witness-key", "manifest"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_once(lambda: tmp_path_factory.mktemp("federation"))


@pytest.fixture
def stolen(run: Run, tmp_path: Path) -> dict[str, Path]:
    """Every node's folder without the at-rest key, which a department keeps on another volume or in a key service."""
    return {
        owner: shutil.copytree(run.folder / owner, tmp_path / owner, ignore=shutil.ignore_patterns(AT_REST_KEY_FILE)) for owner in OWNERS
    }


def hidden(run: Run, owner: str) -> dict[str, Secret]:
    """Every secret of the search, but for two that lie open on purpose: handles are random names that mean a row to the holder's process
    alone, and the requester's own probe is a ciphertext under the search key."""
    in_the_open = ("handle/", "probe/ciphertext") if owner == NORTHPORT else ("handle/",)
    return {name: secret for name, secret in run.secrets.items() if not name.startswith(in_the_open)}


def blobs(engine: Engine) -> Iterator[tuple[Table, str, str, list[Row[Any]]]]:
    """Table, column, purpose and rows of every sealed column that holds something."""
    with engine.begin() as connection:
        for (table, column), (purpose, _) in SEALED.items():
            rows = list(connection.execute(select(table).where(table.c[column].is_not(None)).limit(40)))
            if rows:
                yield table, column, purpose, rows


@pytest.mark.parametrize("owner", OWNERS)
def test_no_file_of_a_folder_says_anything(run: Run, owner: str) -> None:
    files = run.of(owner, "files", "after")
    at_rest = (run.folder / owner / "keys" / AT_REST_KEY_FILE).read_bytes()
    assert places(files, hidden(run, owner)) == []
    assert {where for _, where, _ in places(files, {"at-rest key": at_rest})} == {
        f"{when}/keys/{AT_REST_KEY_FILE}" for when in ("files", "after")
    }


@pytest.mark.parametrize("owner", OWNERS)
def test_control_a_value_that_is_stored_as_it_is_is_found(run: Run, stolen: dict[str, Path], owner: str) -> None:
    """One secret of each kind written into the ledger of the stolen store: where it lies among SQLite's pages it is found."""
    secrets = hidden(run, owner)
    kinds = {name.split("/")[0]: name for name in secrets}
    engine = open_store(stolen[owner] / DATABASE_FILE)
    with engine.begin() as connection:
        for name in kinds.values():
            record(connection, datetime.now(UTC), run.search_id, "debug", logged(secrets[name]).decode())
    engine.dispose()
    stored = (stolen[owner] / DATABASE_FILE).read_bytes()
    assert {one.secret for one in find({name: secrets[name] for name in kinds.values()}, [stored])} == set(kinds.values())


@pytest.mark.parametrize("owner", OWNERS)
def test_a_folder_without_its_key_does_not_open(stolen: dict[str, Path], owner: str) -> None:
    with pytest.raises(StoreError, match=r"at-rest key cannot be read: .*restore keys/at-rest\.key"):
        open_node(stolen[owner], lambda: datetime.now(UTC))
    for command in (["status"], ["serve"]):
        shown = CliRunner().invoke(app, ["node", *command, str(stolen[owner])])
        assert shown.exit_code == 2  # for what the caller can change
        assert "at-rest key cannot be read" in shown.output
        assert "Traceback" not in shown.output


@pytest.mark.parametrize("owner", OWNERS)
def test_a_folder_under_another_key_does_not_open(run: Run, stolen: dict[str, Path], owner: str) -> None:
    """A key of the thief's own, or that of another party: neither the node nor any blob of its store."""
    other = next(one for one in OWNERS if one != owner)
    wrong_keys = [os.urandom(KEY_BYTES), bytes(KEY_BYTES), (run.folder / other / "keys" / AT_REST_KEY_FILE).read_bytes()]
    engine = open_store(stolen[owner] / DATABASE_FILE)
    tried = 0
    for wrong in wrong_keys:
        (stolen[owner] / "keys" / AT_REST_KEY_FILE).write_bytes(wrong)
        with pytest.raises(StoreError, match="does not open under this node's at-rest key"):
            open_node(stolen[owner], lambda: datetime.now(UTC))
        vault = Vault(wrong)
        for table, column, purpose, rows in blobs(engine):
            _, bound = SEALED[table, column]
            for row in rows:
                tried += 1
                with pytest.raises(StoreError, match="does not open"):
                    vault.open(purpose, getattr(row, column), bound(row))
    assert tried >= 3 * len(list(blobs(engine)))
    (stolen[owner] / "keys" / AT_REST_KEY_FILE).write_bytes(wrong_keys[0][:31])
    with pytest.raises(StoreError, match="an at-rest key has 32 bytes"):
        open_node(stolen[owner], lambda: datetime.now(UTC))
    engine.dispose()


def test_every_kind_of_blob_was_tried(run: Run, stolen: dict[str, Path]) -> None:
    """Over all owners every sealed column holds something, but for what the run does not have (`NOT_IN_THIS_RUN`)."""
    held = {(table.name, column) for owner in OWNERS for table, column, _, _ in blobs(open_store(stolen[owner] / DATABASE_FILE))}
    assert held == {(table.name, column) for table, column in SEALED} - NOT_IN_THIS_RUN


@pytest.mark.parametrize("owner", OWNERS)
def test_a_blob_that_was_moved_does_not_open(run: Run, stolen: dict[str, Path], owner: str) -> None:
    """With the right key: in another row, for another purpose, shortened, lengthened, one bit turned."""
    vault = Vault.from_file(run.folder / owner / "keys" / AT_REST_KEY_FILE)
    engine = open_store(stolen[owner] / DATABASE_FILE)
    for table, column, purpose, rows in blobs(engine):
        _, bound = SEALED[table, column]
        sealed, here = bytes(getattr(rows[0], column)), bound(rows[0])
        assert vault.open(purpose, sealed, here)
        elsewhere = {bound(row) for row in rows[1:]} - {here} or {here + b"x"}
        tries = [(purpose, sealed, place) for place in (*elsewhere, b"")]
        tries += [(other, sealed, here) for other in PURPOSES if other != purpose]
        middle = len(sealed) // 2
        turned = sealed[:middle] + bytes([sealed[middle] ^ 1]) + sealed[middle + 1 :]
        tries += [(purpose, changed, here) for changed in (sealed[:-1], sealed + b"\0", sealed[12:], b"", turned)]
        for name, changed, place in tries:
            with pytest.raises(StoreError, match="does not open"):
                vault.open(name, changed, place)
    engine.dispose()


def test_key_files_that_were_exchanged_do_not_open(run: Run, stolen: dict[str, Path]) -> None:
    """The witness key in the node key's place, with the right at-rest key beside it."""
    folder = stolen[BOARD]
    shutil.copy(run.folder / BOARD / "keys" / AT_REST_KEY_FILE, folder / "keys" / AT_REST_KEY_FILE)
    open_node(folder, lambda: datetime.now(UTC)).engine.dispose()
    shutil.copy(folder / WITNESS_KEY_FILE, folder / NODE_KEY_FILE)
    with pytest.raises(StoreError, match="a stored node-key does not open"):
        open_node(folder, lambda: datetime.now(UTC))


def test_what_is_deleted_leaves_the_write_ahead_log_too(tmp_path: Path) -> None:
    """A disk that is stolen from a running node: `forget_deleted` does what `secure_delete` alone does not."""
    engine, value = open_store(tmp_path / DATABASE_FILE), os.urandom(6000)
    facts = metadata.tables["facts"]
    with engine.begin() as connection:
        connection.execute(facts.insert().values(name="seed", value=value))
    with engine.begin() as connection:
        connection.execute(facts.delete())
    assert places(_files(tmp_path), {"seed": value})  # the control: deleted and still there
    with engine.connect() as reader:
        reader.exec_driver_sql("SELECT name FROM facts").all()
        assert not forget_deleted(engine)  # somebody is in the way: it says so at once and waits for nobody
    assert forget_deleted(engine)
    assert places(_files(tmp_path), {"seed": value}) == []
    engine.dispose()


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
