"""How a loop of a node sleeps: until it is told to stop, until something wakes it, or until another process has written to the store.

Invariants: nobody sleeps on when told to stop; a command's write is seen within `LOOK_S`, at the cost of one pragma a look. What this
process itself wrote between two looks ends a sleep only when it has stopped writing: who writes here for somebody who sleeps wakes him, and
a message that comes in parts is many writes. A command that writes just then waits with it, at most until the sleep ends by itself. Left to
others: what is done then (`courier`).
"""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import Connection, Engine, event

LOOK_S: Final = 0.02
"""How often a node looks whether one of its commands has written something."""
IDLE_S: Final = 0.2
"""After that long it does what is due by the clock."""


class OtherWriters:
    """Tells whether another connection, of this process or of a command beside it, has committed since the last look."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection = engine.raw_connection()
        self._seen = self._version()
        self._own = 0
        """Commits of this process, of any thread."""
        event.listens_for(engine, "commit")(self._count)

    def look(self) -> bool:
        """Whether something was committed since the last look."""
        before, self._seen = self._seen, self._version()
        return self._seen != before

    async def idle(self, stop: asyncio.Event, woken: asyncio.Event) -> bool:
        """Wait until stopped or woken, until something is committed, or for `IDLE_S`; whether nothing of that happened."""
        self.look()  # what was written before is known
        own, is_news = self._own, False
        for _ in range(round(IDLE_S / LOOK_S)):
            await pause(stop, LOOK_S, woken)
            changed, own_before, own = self.look(), own, self._own
            is_news = is_news or changed
            if stop.is_set() or woken.is_set() or (is_news and own == own_before):
                return False
        return not is_news

    def close(self) -> None:
        """Give the connection back."""
        event.remove(self._engine, "commit", self._count)
        self._connection.close()

    def _count(self, _connection: Connection) -> None:
        self._own += 1

    def _version(self) -> int:
        """SQLite's `data_version`: another number when another connection than this one has changed the database."""
        cursor = self._connection.cursor()
        try:
            return int(cursor.execute("PRAGMA data_version").fetchone()[0])
        finally:
            cursor.close()


async def pause(stop: asyncio.Event, seconds: float, woken: asyncio.Event | None = None) -> None:
    """Wait that long, or until stopped or woken."""
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, woken) if event is not None]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()
