"""What long polls wait on: an event of this process, and a look again every second.

Invariants: whoever listens before it looks misses no ring; when the broker stops, every wait ends at once, so that open polls do not
hold up the stop. Left to others: what is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

_FoundT = TypeVar("_FoundT")


class Bell:
    """Rings when something changed that somebody may wait for."""

    def __init__(self, look_again_s: float) -> None:
        self._look_again_s = look_again_s
        self._changed = asyncio.Event()
        self._stopping = False

    def ring(self) -> None:
        """Wake everybody who waits now."""
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """End all waits, now and later."""
        self._stopping = True
        self.ring()

    async def until(
        self, look: Callable[[], Awaitable[_FoundT | None]], wait_s: float, gone: Callable[[], Awaitable[bool]]
    ) -> _FoundT | None:
        """What `look` finds, as soon as it finds something; None after `wait_s` seconds, or when whoever asked is `gone`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            changed = self._changed
            found = await look()
            left = end - loop.time()
            if found is not None or left <= 0 or self._stopping:
                return found
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(left, self._look_again_s))
            if await gone():
                return None
