"""Watching the folder of drops: the watcher of a node, and the process in which a serving node has one.

Invariants: detectors hold a core for seconds, so a serving node never enrols itself: a process of lower priority does, which ends when the
node ends, however it ends, and is started again when it ends by itself. What it enrolled the node sees by the store's counter, as it sees
what a command enrolled.

Left to others: which drops are taken, and what becomes of them (`watching`).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

from agency_node.config import IntakeRules, Mode
from agency_node.errors import NodeError
from agency_node.holder.portraying import end_with_parent, portrayer_of
from agency_node.holder.records import RecordStore
from agency_node.holder.watching import Enrolment, Watcher
from agency_node.node import Node, open_node
from agency_node.waking import pause
from crypto.errors import CryptoError

AGAIN_S: Final = 60.0
"""After that long a watcher that ended is started again: a share that was away may be back."""
_ENDS_WITHIN_S: Final = 20.0
_NICENESS: Final = 10


@contextmanager
def watcher_of(node: Node, rules: IntakeRules, stop: threading.Event, processes: int | None = None) -> Iterator[Watcher]:
    """The watcher of this node's drops; `rules.folder` is relative to the node's folder."""
    embedder, config = node.embedder(), node.config
    store = RecordStore(node.engine, node.vault, embedder.model)
    with portrayer_of(node, embedder, processes) as portrayer:
        enrolment = Enrolment(store, embedder, portrayer, config.itl, config.mode is not Mode.PRODUCTION, node.clock)
        yield Watcher(node.folder / rules.folder, rules, node.engine, enrolment, node.clock, time.monotonic, stop)


async def keep_watching(folder: Path, stop: asyncio.Event, again_s: float = AGAIN_S) -> None:
    """Have a process watch the drops of the node in that folder until stopped; a new one so many seconds after one has ended."""
    context = multiprocessing.get_context("spawn")
    while not stop.is_set():
        process = context.Process(target=_watch, args=(folder,), name="sealmatch-intake")
        process.start()
        try:
            await _ended(process, stop)
        finally:
            if process.is_alive():
                process.terminate()
            await asyncio.to_thread(process.join, _ENDS_WITHIN_S)
            if process.is_alive():
                process.kill()  # nothing is lost by it
                await asyncio.to_thread(process.join)
        await pause(stop, again_s)


async def _ended(process: SpawnProcess, stop: asyncio.Event) -> None:
    """Wait until the process ends, or until told to stop."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(process.sentinel, ended.set)
    waits = [asyncio.create_task(one.wait()) for one in (ended, stop)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(process.sentinel)
        for one in waits:
            one.cancel()


def _watch(folder: Path) -> None:
    """The process: watch until SIGTERM; what stops it for good is a sentence on standard error."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which the serving process has too
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.nice(_NICENESS)
    try:
        node = open_node(folder, lambda: datetime.now(UTC))
        with watcher_of(node, node.config.intake, stop) as watcher:
            watcher.watch(lambda _: None)
    except (NodeError, CryptoError) as error:
        sys.stderr.write(f"sealmatch: the folder of drops is not watched: {error}. It is tried again in {AGAIN_S:.0f} seconds.\n")
        sys.exit(1)
