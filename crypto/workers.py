"""Threads of our own choosing for kernels that release the interpreter lock.

numba's own parallel loops are not used: its default threading layer ends the process when two threads enter a parallel kernel, which is
what a web server does. Here each call has plain threads of its own that take the next part of a range until none is left, so any number of
callers may run at once, and a core that is slow for a moment does not hold up the others.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_PARTS_A_THREAD: Final = 8


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def split(count: int, work: Callable[[int, int], None], threads: int | None = None) -> None:
    """Call `work(first, last)` on contiguous parts of range(count), in `threads` threads, the caller's among them; one a core by default.

    Raises what the first failing part raised.
    """
    workers = max(1, min(threads or usable_cores(), count))
    if workers == 1:
        work(0, count)
        return
    parts = min(count, _PARTS_A_THREAD * workers)
    bounds = iter(list(itertools.pairwise(count * part // parts for part in range(parts + 1))))

    def take_parts() -> None:
        for first, last in bounds:  # a list's iterator gives each part to one thread
            work(first, last)

    with ThreadPoolExecutor(workers - 1, thread_name_prefix="sealmatch-kernel") as pool:
        others = [pool.submit(take_parts) for _ in range(workers - 1)]
        take_parts()
        for done in others:
            done.result()
