"""Threads for kernels: every part once, and nothing that goes on when the caller goes on."""

from __future__ import annotations

import _thread
import threading
import time
from typing import Any

import pytest

from crypto.workers import split

COUNTS = pytest.mark.parametrize("count", [1, 2, 7, 16, 100])
THREADS = pytest.mark.parametrize("threads", [1, 2, 5])


@COUNTS
@THREADS
def test_every_number_is_worked_at_once(count: int, threads: int) -> None:
    done: list[int] = []
    split(count, lambda first, last: done.extend(range(first, last)), threads)
    assert sorted(done) == list(range(count))


def test_threads_that_started_end_when_another_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started, done = _thread.start_new_thread, list[int](), list[int]()

    def limited(*arguments: Any) -> int:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(start(*arguments))
        return started[0]

    monkeypatch.setattr(_thread, "start_new_thread", limited)
    before = _thread._count()
    with pytest.raises(RuntimeError, match="can't start"):
        split(20, lambda first, last: done.extend(range(first, last)), 5)
    until = time.monotonic() + 10
    while _thread._count() > before and time.monotonic() < until:
        time.sleep(0.001)
    assert (len(started), done, _thread._count()) == (1, [], before)


@pytest.mark.parametrize("failing", ["the caller's", "another's"])
def test_a_failing_part_is_not_swallowed_and_no_part_outlives_the_call(failing: str) -> None:
    """Whichever thread it is in; the part that the other is at comes to its end first."""
    ended: list[int] = []
    both = threading.Barrier(2)

    def work(first: int, _last: int) -> None:
        both.wait(10)
        if (threading.current_thread() is threading.main_thread()) == (failing == "the caller's"):
            raise RuntimeError(failing)
        time.sleep(0.05)
        ended.append(first)

    with pytest.raises(RuntimeError, match=failing):
        split(10, work, threads=2)
    assert len(ended) == 1


def test_many_callers_at_once() -> None:
    sums: list[int] = []

    def call() -> None:
        found: list[int] = []
        split(50, lambda first, last: found.extend(range(first, last)), 3)
        sums.append(sum(found))

    callers = [threading.Thread(target=call) for _ in range(20)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(20)
    assert sums == [sum(range(50))] * 20
