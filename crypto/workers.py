"""Threads of our own choosing for kernels that release the interpreter lock.

numba's own parallel loops are not used: its default threading layer ends the process when two threads enter a parallel kernel, which is
what a web server does. Here each call splits a range among plain threads, so any number of callers may run at once.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def split(count: int, work: Callable[[int, int], None], threads: int | None = None) -> None:
    """Call `work(first, last)` on contiguous parts of range(count), one thread each, the caller's among them.

    Raises what the first failing part raised.
    """
    parts = max(1, min(threads or usable_cores(), count))
    if parts == 1:
        work(0, count)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts - 1, thread_name_prefix="sealmatch-kernel") as pool:
        others = [pool.submit(work, first, last) for first, last in itertools.pairwise(bounds[1:])]
        work(bounds[0], bounds[1])  # the caller's thread takes its share
        for done in others:
            done.result()
