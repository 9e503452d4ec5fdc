"""Threads of our own choosing for kernels that release the interpreter lock.

numba's own parallel loops are not used: its default threading layer ends the process when two threads enter a parallel kernel, which is
what a web server does. Here each call has helpers of its own that take the next part of a range with it until none is left, so any number
of callers may run at once, and a core that is slow for a moment does not hold up the others.

Helpers stay when their call ends and wait for the next: starting a thread takes a quarter of a millisecond of the caller's time when a scan
has driven the interpreter out of the caches. A thread has the priority of the one that started it, so a helper helps callers of its own
priority alone: what is done in the background stays there, and a search gets nobody who gives way. A process that was forked has no
helpers, and starts its own.
"""

from __future__ import annotations

import _thread
import os
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final

_PARTS_A_THREAD: Final = 8


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def split(count: int, work: Callable[[int, int], None], threads: int | None = None) -> None:
    """Call `work(first, last)` on contiguous parts of range(count), in `threads` threads, the caller's among them; one a core by default.

    The caller begins while the others wake: a core that slept takes a part of a millisecond. Raises what the first failing part raised. No
    part runs on when it returns or raises.
    """
    workers = max(1, min(threads or usable_cores(), count))
    if workers == 1:
        work(0, count)
        return
    parts = min(count, _PARTS_A_THREAD * workers)
    numbers, failed = iter(range(parts)), list[BaseException]()

    def take_parts() -> None:
        try:
            for part in numbers:  # a range's iterator gives each number to one thread
                work(count * part // parts, count * (part + 1) // parts)
        except BaseException as error:  # noqa: BLE001 -- the caller raises it
            fail(error)

    def fail(error: BaseException) -> None:
        failed.append(error)
        deque(numbers, maxlen=0)  # no part is left for anybody

    helpers = list[_Helper]()
    try:
        for _ in range(workers - 1):
            helper = _Helper.idle()
            helper.begin(take_parts)
            helpers.append(helper)
    except BaseException as error:  # noqa: BLE001 -- raised below, when those that did begin have ended
        fail(error)
    take_parts()
    for helper in helpers:
        helper.end()
    if failed:
        raise failed[0]


class _Helper:
    """A thread that waits for something to do, does it, and waits again."""

    _waiting: Final[defaultdict[int, list[_Helper]]] = defaultdict(list)
    """By the niceness of those that they help."""

    def __init__(self, niceness: int) -> None:
        self._niceness = niceness
        self._called, self._done = _thread.allocate_lock(), _thread.allocate_lock()
        self._called.acquire()
        self._done.acquire()
        self._task: Callable[[], None] | None = None
        _thread.start_new_thread(self._run, ())  # threading.Thread would wait until it runs

    @classmethod
    def idle(cls) -> _Helper:
        """One of the calling thread's priority that waits, or a new one; nobody else has it until its `end`."""
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        try:
            return cls._waiting[niceness].pop()
        except IndexError:
            return cls(niceness)

    def begin(self, task: Callable[[], None]) -> None:
        """Let it do that; the task raises nothing."""
        self._task = task
        self._called.release()

    def end(self) -> None:
        """Wait until it has done it, and let others have it. Where as many wait as there are cores, it ends."""
        self._done.acquire()
        self._task = None  # what was worked on does not live as long as a thread
        waiting = self._waiting[self._niceness]
        if len(waiting) < usable_cores():
            waiting.append(self)
        else:
            self._called.release()

    def _run(self) -> None:
        while True:
            self._called.acquire()
            if self._task is None:
                return
            self._task()
            self._done.release()


os.register_at_fork(after_in_child=_Helper._waiting.clear)
