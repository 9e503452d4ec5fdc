"""The broker's store under many at once: who empties the write-ahead log when, and what keeps nobody waiting for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from broker import store as broker_store
from broker.store import Store
from broker.tables import metadata


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    yield made
    await made.close()


async def written_and_deleted(store: Store, name: bytes) -> None:
    table = metadata.tables["manifests"]
    async with store.writing(promises=False) as connection:
        await connection.execute(table.insert().values(agency=name.decode(), document=name * 100))
    async with store.writing(promises=False) as connection:
        await connection.execute(table.delete().where(table.c.agency == name.decode()))


async def test_those_who_delete_one_after_the_other_share_what_empties_the_log(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[int] = []
    forget = Store._forget

    def noted(self: Store) -> bool:
        emptied.append(1)
        return forget(self)

    monkeypatch.setattr(Store, "_forget", noted)
    monkeypatch.setattr(broker_store, "_REST", 1_000_000)
    monkeypatch.setattr(broker_store, "_LONGEST_REST_S", 0.2)

    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.01)
        name = b"deleted %d" % number
        await written_and_deleted(store, name)
        assert await store.forget_deleted()
        assert not [path for path in tmp_path.iterdir() if name * 2 in path.read_bytes()]

    await asyncio.gather(*map(one, range(10)))
    assert 1 <= len(emptied) <= 4


async def test_a_log_that_could_not_be_brought_over_is_emptied_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_store: Store) -> None:
        raise OperationalError("PRAGMA wal_checkpoint", None, OSError("disk full"))

    await written_and_deleted(store, b"deleted")
    with monkeypatch.context() as broken:
        broken.setattr(Store, "_bring_over", fails)
        for _ in range(2):
            with pytest.raises(OperationalError):
                await store.forget_deleted()
    assert await store.forget_deleted()


async def test_writers_need_not_wait_while_the_disk_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(broker_store, "_sync_data", synced.append)
    await asyncio.gather(*(store.synced() for _ in range(50)))
    assert 1 <= len(synced) <= 2
    await written_and_deleted(store, b"promises nothing")
    assert len(synced) <= 2
