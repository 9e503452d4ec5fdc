"""A broker's log under load, for `sealmatch bench log`, in a process of its own: `python -m broker.append_bench FOLDER`.

Reads a plan from standard input, makes a store in the folder, and enters leaves as the API's handlers do: a transaction with the leaf,
then `publish`, which returns when leaf and head are on the disk. Tells a JSON line a round: `together` with so many callers at once,
`alone` with one. At the end the store is opened again as after a restart, and must give the root of the leaves that were entered, each in
its place.

Invariant: a round counts the seconds until the last of its leaves was promised.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from broker.config import DATABASE_FILE, Limits
from broker.log_store import LogStore
from broker.store import Store
from crypto.checkpoint import LogKey
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.keys import SigningKey
from crypto.ledger import HASH_BYTES, MerkleTree, leaf_hash

ORIGIN: Final = "log.benchmark.example"
_BATCH: Final = 10_000


def tell(what: str, **found: object) -> None:
    """One finding, as a line."""
    sys.stdout.write(json.dumps({"what": what, **found}) + "\n")
    sys.stdout.flush()


class Appending:
    """One log, and everything that was entered into it."""

    def __init__(self, store: Store, log: LogStore) -> None:
        self._store = store
        self._log = log
        self.entered: dict[int, bytes] = {}

    async def round(self, entries: int, callers: int) -> float:
        """Seconds until that many new leaves are promised to that many callers, each of whom enters the next when it has its answer."""
        today = datetime.now(UTC).date()
        made = [
            (digest := secrets.token_bytes(HASH_BYTES), LogEntry(EntryKind.GRANT, today, entry_subject(EntryKind.GRANT, digest), (digest,)))
            for _ in range(entries)
        ]
        waiting = iter(made)
        started = time.perf_counter()
        await asyncio.gather(*(self._enter_each(waiting) for _ in range(callers)))
        return time.perf_counter() - started

    async def _enter_each(self, waiting: Iterator[tuple[bytes, LogEntry]]) -> None:
        for digest, entry in waiting:
            async with self._store.writing(promises=False) as connection:
                position, _ = await self._log.append(connection, entry, digest)
            await self._log.publish()
            self.entered[position] = entry.to_bytes()


async def main(folder: Path, plan: dict[str, int]) -> None:
    """Measure, and look at what is in the store."""
    key, url = SigningKey.generate(), f"sqlite:///{folder / DATABASE_FILE}"
    store = await Store.open(url)
    log_key = LogKey(ORIGIN, key.verifying_key)
    log = LogStore(store, key, log_key, Limits())
    await log.publish()
    appending = Appending(store, log)
    for name, callers in (("together", plan["callers"]), ("alone", 1)):
        await appending.round(plan["callers"], callers)
        for _ in range(plan["runs"]):
            tell(name, seconds=await appending.round(plan["appends"], callers))
    await store.close()
    store = await Store.open(url)
    again = LogStore(store, key, log_key, Limits())
    await again.publish()
    found: list[bytes] = []
    while len(found) < again.size:
        found += (await again.leaves_from(len(found), _BATCH))[1]
    head = await again.checkpoint(again.size, 0)
    root = None if head is None else head.checkpoint.root
    right = [appending.entered.get(place) for place in range(again.size)] == found and root == MerkleTree(map(leaf_hash, found)).root()
    await store.close()
    tell("done", size=len(found), right=right and len(found) == len(appending.entered))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.stdin.readline())))
