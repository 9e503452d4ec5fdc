"""The scanning desk: searches that were claimed wait here and are answered together, one pass over the gallery for all of them.

Invariants: one pass at a time, in a worker's thread, while the node goes on handling messages; a search is answered at most once, and its
answer is stored as soon as its pass is done; one that the present layout may not answer waits for the next, and is checked again before it
is scanned. The desk lives in memory: what waits here when the process dies is claimed in the store, and its message is handled again.

Left to others: who may come here (`answering`), what one pass may hold (`index`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from agency_node.grants import HeldGrant
from agency_node.holder.index import Asked, GalleryIndex, Given
from agency_node.outbox import SealTo
from crypto.answer import AnswerRequest
from crypto.probe import Probe
from crypto.wire import MessageId

AT_ONCE: Final = 8
"""Probes of one pass: their ordered words fill 16 MB at D = 512, and more would gain little."""
_AGAIN_S: Final = 0.01
"""How often somebody who waits for an empty desk looks."""


@dataclass(frozen=True)
class Claimed:
    """A search whose answer this process alone may make now."""

    message_id: MessageId
    held: HeldGrant
    probe: Probe = field(repr=False)
    to_requester: SealTo = field(repr=False)
    to_custodians: list[SealTo] = field(repr=False)

    def __post_init__(self) -> None:
        _ = self.probe.ordered  # here, not in the pass that others wait for

    @property
    def asked(self) -> Asked:
        """What the index is asked."""
        claims = self.held.claims
        return Asked(AnswerRequest(self.probe, self.held.digest, len(claims.custodians)), claims.case_commitment)


class ScanningDesk:
    """Runs passes for what waits."""

    def __init__(
        self, index: GalleryIndex, still_stands: Callable[[Claimed], Awaitable[bool]], store: Callable[[Claimed, Given], None]
    ) -> None:
        """`still_stands` is asked of a search that had to wait for a layout; `store` writes an answer, in one transaction."""
        self._index = index
        self._still_stands = still_stands
        self._store = store
        self._waiting: dict[str, Claimed] = {}
        self._turned_away: set[str] = set()
        self._passes: asyncio.Task[None] | None = None

    def put(self, claimed: Claimed) -> None:
        """Let a claimed search wait for the next pass."""
        self._waiting[str(claimed.held.claims.search_id)] = claimed

    def drop(self, search_id: str) -> None:
        """Let a search go unanswered; when its pass runs already, what comes of it is not kept."""
        self._waiting.pop(search_id, None)
        self._turned_away.discard(search_id)

    def start(self) -> None:
        """Begin with what waits, unless a pass runs. Raises what the passes before broke at."""
        if self._passes is not None and self._passes.done():
            done, self._passes = self._passes, None
            done.result()
        if self._waiting and self._passes is None:
            self._passes = asyncio.create_task(self._run(), name="sealmatch-scanning")

    async def emptied(self) -> None:
        """Wait until nothing waits and no pass runs."""
        while self._waiting or self._passes is not None:
            self.start()
            await asyncio.sleep(_AGAIN_S)

    async def _run(self) -> None:
        """Passes until nothing waits, or until all that waits needs the next layout."""
        while self._waiting:
            for search_id in sorted(self._turned_away & self._waiting.keys()):
                if not await self._still_stands(self._waiting[search_id]):
                    self.drop(search_id)
            batch = list(self._waiting.items())[:AT_ONCE]
            given = await asyncio.to_thread(self._index.answer, [claimed.asked for _, claimed in batch])
            for (search_id, claimed), one in zip(batch, given, strict=True):
                if one is None:
                    self._turned_away.add(search_id)
                elif search_id in self._waiting:
                    self.drop(search_id)
                    self._store(claimed, one)
            if not any(given):
                return
