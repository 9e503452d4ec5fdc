"""Threads for kernels: every part once, and nothing that goes on when the caller goes on."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
import weakref
from collections import defaultdict
from typing import Any

import pytest

from crypto.workers import _Helper, split, usable_cores

COUNTS = pytest.mark.parametrize("count", [1, 2, 7, 16, 100])
MOST = 6
"""Where there are fewer cores, some of so many end."""
THREADS = pytest.mark.parametrize("threads", [1, 2, 5])


@COUNTS
@THREADS
def test_every_number_is_worked_at_once(count: int, threads: int) -> None:
    done: list[int] = []
    split(count, lambda first, last: done.extend(range(first, last)), threads)
    assert sorted(done) == list(range(count))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads that are started from now on, when no helper waits from before."""
    start, found = _thread.start_new_thread, list[int]()

    def counting(*arguments: Any) -> int:
        if len(found) == MOST:
            raise RuntimeError("can't start new thread")
        found.append(start(*arguments))
        return found[-1]

    monkeypatch.setattr(_thread, "start_new_thread", counting)
    monkeypatch.setattr(_Helper, "_waiting", defaultdict(list))
    return found


def test_a_call_ends_and_takes_no_more_when_a_thread_cannot_be_started(started: list[int]) -> None:
    done: list[int] = []

    def work(first: int, _last: int) -> None:
        time.sleep(0.01)
        done.append(first)

    with pytest.raises(RuntimeError, match="can't start"):
        split(1000, work, MOST + 3)
    at_the_end = list(done)
    time.sleep(0.05)
    assert done == at_the_end
    assert len(done) <= MOST
    assert len(started) == MOST
    split(4, work, 2)  # who began then is there for the next
    assert len(started) == MOST


def test_helpers_stay_for_the_next_call_and_no_more_of_them_than_there_are_cores(started: list[int]) -> None:
    before = _thread._count()
    for _ in range(5):
        split(10, lambda first, last: None, 2)
    assert len(started) == 1
    split(100, lambda first, last: time.sleep(0.001), MOST + 1)
    assert len(started) == MOST
    until = time.monotonic() + 10
    while _thread._count() > before + usable_cores() and time.monotonic() < until:
        time.sleep(0.001)
    assert [len(waiting) for waiting in _Helper._waiting.values()] == [min(MOST, usable_cores())]
    assert _thread._count() == before + min(MOST, usable_cores())


def test_who_helps_in_the_background_helps_nobody_else() -> None:
    """Of a thread that gives way, as a holder's renewal does, the helpers give way too, and no other caller gets them."""
    seen: list[tuple[str, int]] = []

    def call(name: str) -> None:
        both = threading.Barrier(2)

        def work(_first: int, _last: int) -> None:
            both.wait(10)
            seen.append((name, os.getpriority(os.PRIO_PROCESS, 0)))

        split(2, work, 2)

    def call_in_the_background() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), usual + 3)
        call("background")

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    for _ in range(2):
        background = threading.Thread(target=call_in_the_background)
        background.start()
        background.join(20)
        call("search")
    assert seen == 2 * [*2 * [("background", usual + 3)], *2 * [("search", usual)]]


def test_what_was_worked_on_does_not_live_as_long_as_a_helper() -> None:
    class Words:
        def take(self, first: int, last: int) -> None:
            """A part."""

    words = Words()
    gone = weakref.ref(words)
    split(10, words.take, 2)
    del words
    assert gone() is None


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 warns of what is tried here
def test_a_forked_process_starts_helpers_of_its_own() -> None:
    both = threading.Barrier(2)

    def meet(_first: int, _last: int) -> None:
        both.wait(10)

    split(2, meet, 2)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends it, should it wait for a helper of its parent
        try:
            split(2, meet, 2)
        except BaseException:  # noqa: BLE001 -- a child of the tests ends here, whatever happens
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


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
