"""The broker's database: opened, migrated, with the settings on which its promises rest.

SQLite. Invariants: who leaves `writing`, or `synced`, knows that what was committed until then is on the disk, so what was promised is
never lost; a transaction that promises nothing outlives `kill -9`, and is on disk when the next `synced` has ended. Writers take turns (a
lock here, BEGIN IMMEDIATE for other processes) and never fail half-way; what is deleted is overwritten (secure_delete), and after
`forget_deleted` it is in the write-ahead log no more.

Statements and commits run in the event loop's own thread: each takes some tens of microseconds, and handing one to another thread and
waiting for the interpreter twice takes longer than that as soon as the loop is busy. What may last does not hold up the loop: a write lock
that another process has is asked for again and again, the write-ahead log is emptied beside it, and the disk is waited for beside it,
once for all who wait (decision 26). So others see a commit before it is on the disk: whoever promises something waits with `synced` first.

Pages are large, because nearly all bytes here are parts of messages of up to 1 MiB: these take half the time of SQLite's usual pages, and
small rows no more. A database that was made with other pages keeps them.

Left to others: the tables (`tables`), what is read and written (the services).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, CursorResult, Engine, Executable, create_engine, event
from sqlalchemy.exc import OperationalError

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_PATIENCE_S: Final = 20.0
"""How long a writer waits for another process."""
_AGAIN_S: Final = 0.005
"""Between two looks whether the other process has ended."""
_BUSY_MS: Final = 50
"""How long the driver itself waits, and with it everybody."""
_BUSY_FORGETTING_MS: Final = 2_000
"""How long emptying the write-ahead log waits for readers; everybody who writes waits meanwhile."""
_REST: Final = 9
"""Between two times that the write-ahead log is emptied lies that many times what the first took, so that who deletes often, shares."""
_LEAST_REST_S: Final = 0.25
"""Everybody who writes waits for the end of it, and nobody for a receipt: of the dozen messages of a search several share one."""
_LONGEST_REST_S: Final = 0.5
PAGE_BYTES: Final = 32 << 10
_PRAGMAS: Final = (
    f"busy_timeout={_BUSY_MS}",
    f"page_size={PAGE_BYTES}",
    "journal_mode=WAL",
    "synchronous=NORMAL",  # a commit does not wait for the disk: `synced` does
    "foreign_keys=ON",
    "secure_delete=ON",
)
_sync_data: Final = getattr(os, "fdatasync", os.fsync)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ResultT = TypeVar("_ResultT")


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970 of an aware moment: how tables hold time."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment_of(value: int) -> datetime:
    """Inverse of `milliseconds`."""
    return _EPOCH + timedelta(milliseconds=value)


class Transaction:
    """Statements of one transaction. They are awaited, so that services do not depend on where they run."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, values: Mapping[str, object] | None = None) -> CursorResult[*tuple[Any, ...]]:
        """The statement's result, which is here whole or is read row by row before the transaction ends.

        `values` are those of its bound parameters: a statement that is built once costs a third of one that is built for each request.
        """
        return self._connection.execute(statement, values)

    async def exec_driver_sql(self, statement: str) -> CursorResult[*tuple[Any, ...]]:
        """The result of a statement in SQLite's own words."""
        return self._connection.exec_driver_sql(statement)


class Store:
    """One database file. Use `Store.open`, and `close` at the end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        self._forgetting: asyncio.Task[bool] | None = None
        self._rests_until = 0.0
        """Before that moment of the loop's clock the write-ahead log is not emptied again."""
        self._disk = asyncio.Lock()
        self._syncing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str) -> Store:
        """The store at that database URL, brought to the newest schema; made when it is not there."""
        # Emptying the write-ahead log takes a connection to another thread; nobody ever waits for one, which would hold up the loop.
        engine = create_engine(url, connect_args={"check_same_thread": False}, max_overflow=-1)
        event.listen(engine, "connect", _apply_settings)
        event.listen(engine, "begin", _begin)
        store = cls(engine)
        async with store._written() as connection:
            _migrate(connection)
        await store.forget_deleted()
        return store

    async def close(self) -> None:
        """End all connections."""
        self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """A transaction that sees one state of the database."""
        with self._engine.connect() as connection:
            yield Transaction(connection)

    def glance(self, statement: str) -> object:
        """The one value of a statement in SQLite's own words, a transaction by itself; None if there is no row.

        For what every request asks: it takes a tenth of the time of the same question through `reading`.
        """
        try:
            with closing(self._engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
                row = cursor.execute(statement).fetchone()
        except sqlite3.Error as error:
            raise OperationalError(statement, None, error) from error
        return None if row is None else row[0]

    @asynccontextmanager
    async def writing(self, *, promises: bool = True) -> AsyncIterator[Transaction]:
        """A transaction that is committed at the end of the block, and undone when the block raises. One that promises nothing does not
        wait for the disk."""
        async with self._written() as connection:
            yield Transaction(connection)
        if promises:
            await self.synced()

    @asynccontextmanager
    async def _written(self) -> AsyncIterator[Connection]:
        async with self._turn:
            with self._engine.connect().execution_options(writes=True) as connection:
                await _begun(connection)
                yield connection  # what it raises undoes the transaction: the connection is given back without a commit
                connection.commit()

    async def synced(self) -> None:
        """Wait until everything that was committed before is on the disk. Who comes while others wait for their turn shares that turn."""
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync_in_turn())
        await asyncio.shield(self._syncing)

    async def _sync_in_turn(self) -> None:
        async with self._disk:
            self._syncing = None
            await _beside(self._sync)

    def _sync(self) -> None:
        """What a commit under `synchronous=FULL` does to the write-ahead log; what left it was synced on its way into the database."""
        try:
            descriptor = os.open(f"{self._engine.url.database}-wal", os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            _sync_data(descriptor)
        except OSError as error:
            raise OperationalError("fdatasync", None, error) from error
        finally:
            os.close(descriptor)

    async def forget_deleted(self) -> bool:
        """Bring the write-ahead log into the database and empty it, so that bytes deleted before are nowhere. False if a reader is in the
        way: call it again. Who calls while another waits for its turn shares that turn: what both deleted is committed before it."""
        if self._forgetting is None:
            self._forgetting = asyncio.create_task(self._forget_in_turn())
        return await asyncio.shield(self._forgetting)

    async def _forget_in_turn(self) -> bool:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._rests_until - loop.time())
            began = loop.time()
            await _beside(self._bring_over)  # nearly all of the work, while others write
            async with self._turn:
                self._forgetting = None
                done = await _beside(self._forget)
        except BaseException:
            if self._forgetting is asyncio.current_task():  # its turn never came: nobody may wait for it any more
                self._forgetting = None
            raise
        self._rests_until = loop.time() + min(max(_REST * (loop.time() - began), _LEAST_REST_S), _LONGEST_REST_S)
        return done

    def _bring_over(self) -> None:
        with closing(self._engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _forget(self) -> bool:
        connection = self._engine.raw_connection()  # a checkpoint runs outside any transaction
        try:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={_BUSY_FORGETTING_MS}")
            try:
                busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
                cursor.close()
        finally:
            connection.close()
        return not busy


async def _begun(connection: Connection) -> None:
    """Begin with the write lock, and wait for a process that has it."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_S
    while True:
        try:
            connection.begin()
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY or loop.time() >= until:
                raise
        else:
            return
        await asyncio.sleep(_AGAIN_S)


async def _beside(work: Callable[[], _ResultT]) -> _ResultT:
    """Run what waits for the disk in another thread; who is cancelled meanwhile leaves only when it has ended."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


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
