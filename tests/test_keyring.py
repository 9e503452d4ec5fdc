"""A node's own keys: made once, sealed at rest, published under the node key, and gone when destroyed."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from agency_node.errors import ConfigError, StoreError
from agency_node.keyring import NODE_KEY_FILE, WITNESS_KEY_FILE, Keyring
from agency_node.tables import sealing_keys
from agency_node.vault import Vault
from crypto.canonical import KeyId, SearchId
from crypto.sealing_key import SealingKeyStatement, Week
from tests.node_samples import Clock, store
from tests.sample_federation import BOARD, roster, with_agency

SEARCH = SearchId("ffeeddccbbaa99887766554433221100")
OTHER_SEARCH = SearchId("0123456789abcdef0123456789abcdef")
VAULT = Vault(bytes(range(32)))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return store(tmp_path)


def keyring(folder: Path, engine: Engine, clock: Clock | None = None, vault: Vault = VAULT) -> Keyring:
    if not (folder / NODE_KEY_FILE).exists():
        Keyring.create(folder, vault, witness=True)
    return Keyring(folder, vault, engine, BOARD, clock or Clock())


def test_created_keys_are_those_that_are_read_and_lie_sealed_for_their_owner_alone(tmp_path: Path, engine: Engine) -> None:
    made = Keyring.create(tmp_path, VAULT, witness=True)
    ring = Keyring(tmp_path, VAULT, engine, BOARD, Clock())
    assert ring.witness_key is not None
    assert (ring.node_key.verifying_key, ring.witness_key.verifying_key) == (made.node, made.witness)
    assert made.node != made.witness
    for name, key in ((NODE_KEY_FILE, ring.node_key), (WITNESS_KEY_FILE, ring.witness_key)):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert key.export_secret() not in (tmp_path / name).read_bytes()
        assert key.export_secret().hex() not in repr(ring)


def test_without_the_witness_role_there_is_no_witness_key(tmp_path: Path, engine: Engine) -> None:
    assert Keyring.create(tmp_path, VAULT, witness=False).witness is None
    assert Keyring(tmp_path, VAULT, engine, BOARD, Clock()).witness_key is None


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    Keyring.create(tmp_path, VAULT, witness=False)
    before = (tmp_path / NODE_KEY_FILE).read_bytes()
    with pytest.raises(ConfigError, match="another one"):
        Keyring.create(tmp_path, VAULT, witness=False)
    assert (tmp_path / NODE_KEY_FILE).read_bytes() == before


def test_missing_swapped_damaged_and_foreign_key_files_are_refused(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(ConfigError, match="node init"):
        Keyring(tmp_path, VAULT, engine, BOARD, Clock())
    Keyring.create(tmp_path, VAULT, witness=True)
    node, witness = (tmp_path / NODE_KEY_FILE).read_bytes(), (tmp_path / WITNESS_KEY_FILE).read_bytes()
    with pytest.raises(StoreError):
        Keyring(tmp_path, Vault(bytes(32)), engine, BOARD, Clock())
    for content in (witness, node[:-1], node + b"\0", b"", VAULT.seal("node-key", b"short")):
        (tmp_path / NODE_KEY_FILE).write_bytes(content)
        with pytest.raises(StoreError):
            Keyring(tmp_path, VAULT, engine, BOARD, Clock())


def test_a_week_has_one_key_and_the_next_week_another(tmp_path: Path, engine: Engine) -> None:
    clock = Clock()
    ring = keyring(tmp_path, engine, clock)
    first = ring.current_week()
    assert first.use == Week("2026-W48")
    assert ring.current_week() == first == keyring(tmp_path, engine, clock).current_week()
    clock.pass_by(weeks=1)
    second = ring.current_week()
    assert second.use == Week("2026-W49")
    assert second.key != first.key
    assert ring.private(first.key_id).public_key == first.key
    assert ring.private(second.key_id).public_key == second.key


def test_the_stored_document_is_the_statement_under_the_node_key(tmp_path: Path, engine: Engine) -> None:
    ring = keyring(tmp_path, engine)
    listed = with_agency(roster(), BOARD, node_key=ring.node_key.verifying_key)
    for made in (ring.current_week(), ring.for_search(SEARCH)):
        assert SealingKeyStatement.read(ring.document(made.key_id), listed) == made


def test_a_search_has_a_key_of_its_own_and_no_second_one(tmp_path: Path, engine: Engine) -> None:
    ring = keyring(tmp_path, engine)
    statement = ring.for_search(SEARCH)
    assert statement.use == SEARCH
    assert ring.for_search(SEARCH) == statement
    assert ring.for_search(OTHER_SEARCH).key != statement.key
    ring.destroy(statement.key_id)
    with pytest.raises(StoreError, match="new grant"):
        ring.for_search(SEARCH)


def test_a_destroyed_key_is_gone_from_the_store_and_its_files(tmp_path: Path, engine: Engine) -> None:
    ring = keyring(tmp_path, engine)
    statement = ring.for_search(SEARCH)
    sealed = sealed_of(engine, statement.key_id)
    assert sealed is not None
    assert any(sealed in path.read_bytes() for path in tmp_path.glob("node.sqlite*"))
    ring.destroy(statement.key_id)
    ring.destroy(statement.key_id)
    assert sealed_of(engine, statement.key_id) is None
    assert not any(sealed in path.read_bytes() for path in tmp_path.glob("node.sqlite*"))
    with pytest.raises(StoreError, match="destroyed"):
        ring.private(statement.key_id)
    assert ring.document(statement.key_id)


def test_a_key_of_somebody_else_is_not_found(tmp_path: Path, engine: Engine) -> None:
    ring = keyring(tmp_path, engine)
    stranger = KeyId("0" * 64)
    for ask in (ring.private, ring.document):
        with pytest.raises(StoreError, match="none of this node's"):
            ask(stranger)
    ring.destroy(stranger)


def test_a_sealed_key_moved_to_another_row_does_not_open(tmp_path: Path, engine: Engine) -> None:
    ring = keyring(tmp_path, engine)
    one, other = ring.for_search(SEARCH), ring.for_search(OTHER_SEARCH)
    with engine.begin() as connection:
        sealed = connection.execute(select(sealing_keys.c.sealed_private).where(sealing_keys.c.key_id == str(one.key_id))).scalar_one()
        connection.execute(sealing_keys.update().where(sealing_keys.c.key_id == str(other.key_id)).values(sealed_private=sealed))
    with pytest.raises(StoreError):
        ring.private(other.key_id)


def test_every_call_can_stand_in_the_callers_transaction(tmp_path: Path, engine: Engine) -> None:
    """A second transaction would wait for the first, which waits for it; and what is rolled back never was."""
    ring = keyring(tmp_path, engine)
    with engine.connect() as connection:
        statement = ring.for_search(SEARCH, connection)
        assert ring.current_week(connection).agency == BOARD
        assert ring.private(statement.key_id, connection).public_key == statement.key
        assert ring.document(statement.key_id, connection)
        ring.destroy(statement.key_id, connection)
        connection.rollback()
    assert ring.for_search(SEARCH).key != statement.key


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (datetime(2026, 12, 13, 23, 59, 59, tzinfo=UTC), True),  # 2026-W48 ends with the 29th of November
        (datetime(2026, 12, 14, tzinfo=UTC), False),
        (datetime(2027, 6, 1, tzinfo=UTC), False),
    ],
)
def test_weeks_over_two_weeks_past_are_destroyed_unless_still_needed(tmp_path: Path, engine: Engine, now: datetime, kept: bool) -> None:
    clock = Clock()
    ring = keyring(tmp_path, engine, clock)
    old, search = ring.current_week(), ring.for_search(SEARCH)
    clock.now = now
    present = ring.current_week()
    asked: list[KeyId] = []

    def needed(key_id: KeyId) -> bool:
        asked.append(key_id)
        return True

    assert ring.destroy_old_weeks(needed) == ()
    assert asked == ([] if kept else [old.key_id])
    assert ring.destroy_old_weeks(lambda _key_id: False) == (() if kept else (old.key_id,))
    assert (sealed_of(engine, old.key_id) is not None) == kept
    assert sealed_of(engine, present.key_id) is not None
    assert sealed_of(engine, search.key_id) is not None


def sealed_of(engine: Engine, key_id: KeyId) -> bytes | None:
    with engine.begin() as connection:
        sealed: bytes | None = connection.execute(
            select(sealing_keys.c.sealed_private).where(sealing_keys.c.key_id == str(key_id))
        ).scalar_one()
    return sealed
