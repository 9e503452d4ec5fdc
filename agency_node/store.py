"""A node's database: opened, migrated, with the settings on which its invariants rest.

SQLite beside the node's keys by default. Invariants: a transaction is on disk when it has ended (WAL, synchronous FULL), unless it promises
nothing (`promising_nothing`); it begins by taking the write lock, so that serving process and commands wait for one another instead of
failing half-way, unless it only reads (`reading`); what is deleted is overwritten (secure_delete), and after `forget_deleted` it is in the
write-ahead log no more.

Pages are large, because long messages lie here in pieces of 1 MiB: these take half the time of SQLite's usual pages, and small rows no
more. A database that was made with other pages keeps them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError

from agency_node import case_tables as _case_tables  # noqa: F401  # as the next
from agency_node import gallery_tables as _gallery_tables  # noqa: F401  # where a store is open every table of it is known

DATABASE_FILE: Final = "node.sqlite"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_PATIENCE: Final = "busy_timeout=20000"
_READING: Final = "reading"
_LARGE_CACHE: Final = -(256 << 10)
"""Of SQLite's pages, as it wants to be told: KiB below zero."""
_PROMISING_NOTHING: Final = "promising_nothing"
PAGE_BYTES: Final = 32 << 10
_PRAGMAS: Final = (f"page_size={PAGE_BYTES}", "journal_mode=WAL", _PATIENCE, "foreign_keys=ON", "secure_delete=ON")


def open_store(path: Path) -> Engine:
    """The engine of the database file, brought to the newest schema; made when it is not there."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself: we do, below
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get(_READING):
            connection.exec_driver_sql("BEGIN")
            return
        waits = "NORMAL" if options.get(_PROMISING_NOTHING) else "FULL"
        if connection.info.get("waits") != waits:
            connection.exec_driver_sql(f"PRAGMA synchronous={waits}")
            connection.info["waits"] = waits
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.connect() as connection:
        if _revision(connection) != newest_revision():
            _migrate(connection)
        connection.commit()
    return engine


def newest_revision() -> str:
    """The revision that the code is of: the number that the newest migration's file begins with."""
    return max(path.name for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]


def _revision(connection: Connection) -> str:
    """As Alembic notes it in the database; empty in a new one."""
    if not connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first():
        return ""
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() or "")


def _migrate(connection: Connection) -> None:
    # Loading Alembic takes as long as all else that most commands do, and there is seldom something to migrate.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def reading(engine: Engine) -> Engine:
    """The same database for transactions that only read: they see one moment of it, wait for no writer and keep none waiting."""
    return engine.execution_options(**{_READING: True})


class Glance:
    """A question that a node asks many times a second: put into SQLite's words once, and a transaction by itself.

    It takes a tenth of the time of the same question through `reading`. Bound values are given by their names; what comes back are plain
    rows, as the driver gives them.
    """

    def __init__(self, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True})
        self._text = str(compiled)
        self._names = tuple(compiled.positiontup or ())
        self._fixed = dict(compiled.params)

    def rows(self, engine: Engine, **values: object) -> list[tuple[Any, ...]]:
        """Every row."""
        bound = {**self._fixed, **values}
        try:
            with closing(engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
                return list(cursor.execute(self._text, [bound[name] for name in self._names]).fetchall())
        except sqlite3.Error as error:
            raise OperationalError(self._text, None, error) from error

    def first(self, engine: Engine, **values: object) -> tuple[Any, ...] | None:
        """The first row, None when there is none."""
        return next(iter(self.rows(engine, **values)), None)


@contextmanager
def large_batch(connection: Connection) -> Iterator[None]:
    """Room in memory for the pages that a transaction of many rows changes, so that each is written once; given back after.

    Values of an index with no order, such as tags, fall on all of its pages: 130 MB for 2.5 million of them.
    """
    before = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
    connection.exec_driver_sql(f"PRAGMA cache_size={_LARGE_CACHE}")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA cache_size={int(before)}")


def promising_nothing(engine: Engine) -> Engine:
    """The same database for transactions that do not wait for the disk: they outlive this process, and are on disk when the next other
    transaction has ended, which syncs all of the write-ahead log, or when `disk` has been waited for."""
    return engine.execution_options(**{_PROMISING_NOTHING: True})


def promising(engine: Engine) -> Engine:
    """The same database for transactions that wait for the disk, also where others of this process do not."""
    return engine.execution_options(**{_PROMISING_NOTHING: False})


def forget_deleted(engine: Engine) -> bool:
    """Bring the write-ahead log into the database and empty it, so that what was deleted before stands in no file.

    Waits for nobody: False when somebody reads or writes at this moment, then call it again.
    """
    connection = engine.raw_connection()  # a checkpoint of the write-ahead log cannot run inside a transaction
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=0")
        try:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()  # nearly all of the work, while others write
            busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            cursor.execute(f"PRAGMA {_PATIENCE}")
            cursor.close()
    finally:
        connection.close()
    return not busy
