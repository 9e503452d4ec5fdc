"""A node's database: the migrations make the tables that the code names, and a transaction is all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from agency_node import store as store_module
from agency_node.journal import record, stamp
from agency_node.store import DATABASE_FILE, PAGE_BYTES, newest_revision, open_store, promising_nothing, reading
from agency_node.tables import answers, ledger, metadata
from tests.node_samples import older_store
from tests.sample_federation import NOW

CLAIM = {"search_id": "a", "grant_id": "g", "probe_digest": b"p", "face_commit": b"f", "state": "claimed", "claimed_at": stamp(NOW)}


def test_migrations_make_what_the_code_names(tmp_path: Path) -> None:
    engine = open_store(tmp_path / DATABASE_FILE)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
    assert [one for one in differences if one[0] != "remove_table" or one[1].name != "alembic_version"] == []


def test_only_a_store_of_before_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path / DATABASE_FILE).connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == newest_revision()
    (tmp_path / "older").mkdir()
    older_store(tmp_path / "older", "0010").dispose()
    migrated: list[str] = []
    monkeypatch.setattr(store_module, "_migrate", lambda connection: migrated.append(connection.engine.url.database))
    open_store(tmp_path / DATABASE_FILE).dispose()
    open_store(tmp_path / "older" / DATABASE_FILE).dispose()
    assert migrated == [str(tmp_path / "older" / DATABASE_FILE)]


def test_settings_on_which_the_invariants_rest(tmp_path: Path) -> None:
    with open_store(tmp_path / DATABASE_FILE).connect() as connection:
        names = ("journal_mode", "secure_delete", "synchronous")
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names}
    assert found == {"journal_mode": "wal", "secure_delete": 1, "synchronous": 2}


def test_what_promises_nothing_does_not_wait_for_the_disk_and_all_else_does(tmp_path: Path) -> None:
    engine = open_store(tmp_path / DATABASE_FILE)
    found = []
    for one in (engine, promising_nothing(engine), reading(engine), engine):
        with one.begin() as connection:
            found.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
    assert found == [2, 1, 1, 2]


def test_pieces_fill_pages_of_their_kind(tmp_path: Path) -> None:
    with open_store(tmp_path / DATABASE_FILE).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA page_size").scalar_one() == PAGE_BYTES


@pytest.mark.parametrize("same", ["search_id", "grant_id", "probe_digest", "face_commit"])
def test_one_grant_one_probe_one_face_one_answer(tmp_path: Path, same: str) -> None:
    engine = open_store(tmp_path / DATABASE_FILE)
    other: dict[str, object] = {"search_id": "b", "grant_id": "h", "probe_digest": b"q", "face_commit": b"e"}
    with engine.begin() as connection:
        connection.execute(insert(answers).values(**CLAIM))
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(insert(answers).values(**{**CLAIM, **other, same: CLAIM[same]}))
    with engine.begin() as connection:
        connection.execute(insert(answers).values(**{**CLAIM, **other}))


def test_a_transaction_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    engine = open_store(tmp_path / DATABASE_FILE)

    def break_half_way() -> None:
        with engine.begin() as connection:
            record(connection, NOW, "a", "half done")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_half_way()
    with engine.begin() as connection:
        assert connection.execute(select(ledger)).all() == []


def test_an_older_store_is_opened_again(tmp_path: Path) -> None:
    with open_store(tmp_path / DATABASE_FILE).begin() as connection:
        record(connection, NOW, "a", "kept")
    with open_store(tmp_path / DATABASE_FILE).begin() as connection:
        assert connection.execute(select(ledger.c.event)).scalars().all() == ["kept"]
