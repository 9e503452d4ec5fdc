"""Threads of our own choosing for kernels that release the interpreter lock.

numba's own parallel loops are not used: its default threading layer ends the process when two threads enter a parallel kernel, which is
what a web server does. Here each call has plain threads of its own that take the next part of a range until none is left, so any number of
callers may run at once, and a core that is slow for a moment does not hold up the others.
"""

from __future__ import annotations

import _thread
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

_PARTS_A_THREAD: Final = 8


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def split(count: int, work: Callable[[int, int], None], threads: int | None = None) -> None:
    """Call `work(first, last)` on contiguous parts of range(count), in `threads` threads, the caller's among them; one a core by default.

    The caller begins while the others start: a core that slept takes half a millisecond. Raises what the first failing part raised. No
    part runs on when it returns or raises.
    """
    workers = max(1, min(threads or usable_cores(), count))
    if workers == 1:
        work(0, count)
        return
    parts = min(count, _PARTS_A_THREAD * workers)
    bounds = iter(list(itertools.pairwise(count * part // parts for part in range(parts + 1))))
    ended, failed = threading.Semaphore(0), list[BaseException]()

    def take_parts() -> None:
        try:
            for first, last in bounds:  # a list's iterator gives each part to one thread
                work(first, last)
        except BaseException as error:  # noqa: BLE001 -- the caller raises it
            fail(error)
        finally:
            ended.release()

    def fail(error: BaseException) -> None:
        failed.append(error)
        deque(bounds, maxlen=0)  # no part is left for anybody

    running = 1
    try:
        for _ in range(workers - 1):
            _thread.start_new_thread(take_parts, ())  # threading.Thread would wait until each runs
            running += 1
    except BaseException as error:  # noqa: BLE001 -- raised below, when the threads that did start have ended
        fail(error)
    take_parts()
    for _ in range(running):
        ended.acquire()
    if failed:
        raise failed[0]
