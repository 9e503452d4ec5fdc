"""The next layout is built beside the present one: in the background, by threads of lower priority than searches.

Invariants: at most one build is under way; what it made is taken once; a stop ends it within one chunk of packing. Left to others: when to
begin, what to build, and the switch (`index`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

from agency_node.holder.packed import Packed
from crypto.workers import usable_cores

_NICENESS: Final = 5
"""Of a core that both want a search gets three quarters, a build one: it must be ready before the layout is used up."""
_THREADS: Final = 2
"""Of a build in the background; they use the cores while no search does. More of them would be in the way of a search that reads memory as
fast as it can. Threads that a thread starts have its niceness."""
_STOP_S: Final = 5.0

Build = Callable[[Callable[[], None], int | None], Packed]
"""Builds with so many kernel threads (None: all cores); calls what it is given every few milliseconds, and ends when that raises."""


class _StoppedError(Exception):
    """The service ends, or nobody wants the build any more."""


class Renewal:
    """Builds in the background. Asked by one thread at a time."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._built: Packed | None = None
        self._died: Exception | None = None

    @property
    def under_way(self) -> bool:
        """Whether a build runs, or its outcome has not been taken."""
        return self._thread is not None

    def begin(self, *, at_once: bool) -> None:
        """Begin a build, unless one is under way: in the background, or `at_once` on all cores, when no search can go on before."""
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, args=(at_once,), name="sealmatch-renewal", daemon=True)
            self._thread.start()

    def take(self) -> Packed | None:
        """What was built, None while it is not ready. Raises what the build died of; then none is under way, and it can be begun again."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread.join()
        built, died = self._built, self._died
        self._thread = self._built = self._died = None
        if died is not None:
            raise died
        return built

    def stop(self) -> None:
        """End what is under way; nothing begins any more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _run(self, at_once: bool) -> None:
        try:
            if not at_once:
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            self._built = self._build(self._check, None if at_once else min(_THREADS, usable_cores()))
        except _StoppedError:
            pass
        except Exception as error:  # noqa: BLE001  # it is raised again where the outcome is taken
            self._died = error

    def _check(self) -> None:
        if self._stop.is_set():
            raise _StoppedError
