"""A serving node waits for the disk when something leaves it, not at each of its commits.

A search is some fifty commits at every node, and a wait for the disk takes as long as many of them. What a commit promises, it promises to
somebody outside: that a message is kept and may be deleted, that an answer was given once, that a head was cosigned. All of it is told
through `transport`, which waits here first (decision 26).

Invariants: when `synced` returns, every transaction that had ended before is on the disk; the loop goes on meanwhile, and who comes while
others wait for their turn shares that turn. Left to others: opening the store (`store`), which requests only ask and do not wait (`link`).
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

_sync_data: Final = getattr(os, "fdatasync", os.fsync)


class Disk:
    """Below one node's database, for one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._log_path = f"{engine.url.database}-wal"
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Task[None] | None = None

    async def synced(self) -> None:
        """Wait until everything that was committed before is on the disk."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._sync_in_turn())
        await asyncio.shield(self._waiting)

    async def _sync_in_turn(self) -> None:
        async with self._turn:
            self._waiting = None
            await asyncio.to_thread(self._sync)

    def _sync(self) -> None:
        """What a commit under `synchronous=FULL` does to the write-ahead log; what left it was synced on its way into the database."""
        try:
            descriptor = os.open(self._log_path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            _sync_data(descriptor)
        except OSError as error:
            raise OperationalError("fdatasync", None, error) from error
        finally:
            os.close(descriptor)
