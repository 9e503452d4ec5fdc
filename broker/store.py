"""The broker's database: opened, migrated, with the settings on which its promises rest.

SQLite by default, through SQLAlchemy's async engine. Invariants: a transaction is on disk when it has ended (WAL, synchronous FULL), so
`kill -9` at any point loses nothing that was promised; writers take turns (a lock here, BEGIN IMMEDIATE for other processes) and never fail
half-way; what is deleted is overwritten (secure_delete), and after `forget_deleted` it is in the write-ahead log no more.

Left to others: the tables (`tables`), what is read and written (the services).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BUSY_MS: Final = 20_000
"""How long a writer waits for another process."""
_BUSY_FORGETTING_MS: Final = 2_000
"""How long emptying the write-ahead log waits for readers; everybody who writes waits meanwhile."""
_PRAGMAS: Final = (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970 of an aware moment: how tables hold time."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment_of(value: int) -> datetime:
    """Inverse of `milliseconds`."""
    return _EPOCH + timedelta(milliseconds=value)


class Store:
    """One database file. Use `Store.open`, and `close` at the end."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, url: str) -> Store:
        """The store at that database URL, brought to the newest schema; made when it is not there."""
        engine = create_async_engine(url)
        event.listen(engine.sync_engine, "connect", _apply_settings)
        event.listen(engine.sync_engine, "begin", _begin)
        store = cls(engine)
        async with store.writing() as connection:
            await connection.run_sync(_migrate)
        await store.forget_deleted()
        return store

    async def close(self) -> None:
        """End all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection that sees one state of the database."""
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end of the block, and undone when the block raises."""
        async with self._turn, self._engine.connect() as connection:
            await connection.execution_options(writes=True)
            async with connection.begin():
                yield connection

    async def forget_deleted(self) -> bool:
        """Bring the write-ahead log into the database and empty it, so that bytes deleted before are nowhere. False if a reader is in the
        way: call it again."""
        async with self._turn, self._engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")  # a checkpoint runs outside any transaction
            await connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_FORGETTING_MS}")
            try:
                row = (await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")).one()
            finally:
                await connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MS}")
            return bool(row[0] == 0)


def _apply_settings(connection: Any, _record: Any) -> None:  # noqa: ANN401  (the driver's own objects)
    connection.isolation_level = None  # the driver begins no transaction by itself: `_begin` does
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
