"""Answers are prepared while their probes are on the way: one at a time, in a thread of lower priority than searches (docs/adr/0019).

Invariants: a grant prepares one answer at most, and what was prepared is handed out once; it lives in memory alone, `KEPT` of them at most,
and is overwritten when it is not wanted any more; nothing waits for a preparation but the search that it is for. What comes to nothing here
is made when the probe is answered: this module only saves time.

Left to others: what an answer is made of (`crypto.answer`), whether one that was prepared still fits the gallery (there, too), which grants
are worth it (`answering`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from crypto.gallery import PackedGallery
from crypto.prepared import AnswerTerms, PreparedAnswer

KEPT: Final = 2
"""Each takes 14 bytes a slot: 35 MB at 2.5 million records."""
_NICENESS: Final = 3
"""As a layout that is built in the background (`renewal`)."""


@dataclass(eq=False)
class _Preparation:
    """One that is under way or done."""

    terms: AnswerTerms
    until: datetime
    thread: threading.Thread | None = field(default=None, repr=False)
    made: PreparedAnswer | None = field(default=None, repr=False)
    is_dropped: bool = False


class Ahead:
    """Prepares answers. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[_Preparation] = []

    def begin(self, gallery: PackedGallery, terms: AnswerTerms, until: datetime) -> None:
        """Prepare an answer that is wanted until then, unless another is being prepared, or this one is; the oldest of more than `KEPT`
        goes."""
        with self._lock:
            if any(one.made is None or one.terms == terms for one in self._kept):
                return
            if len(self._kept) == KEPT:
                self._drop(self._kept[0])
            begun = _Preparation(terms, until)
            begun.thread = threading.Thread(target=self._run, args=(gallery, begun), name="sealmatch-ahead", daemon=True)
            self._kept.append(begun)
            begun.thread.start()

    def take(self, terms: AnswerTerms) -> PreparedAnswer | None:
        """What was prepared for these terms, which is no longer here then; None when nothing was.

        Waits for one that is under way: making it anew would take longer.
        """
        with self._lock:
            found = next((one for one in self._kept if one.terms == terms), None)
        if found is None or found.thread is None:
            return None
        found.thread.join()
        with self._lock:
            if found not in self._kept:
                return None
            self._kept.remove(found)
            made, found.made = found.made, None
            return made

    def drop(self, grant_digest: bytes) -> None:
        """Overwrite what was prepared for a grant; one that is under way when it is done."""
        self._drop_all(lambda one: one.terms.grant_digest == grant_digest)

    def drop_overdue(self, now: datetime) -> None:
        """Overwrite what nobody can want any more."""
        self._drop_all(lambda one: one.until <= now)

    def stop(self) -> None:
        """Overwrite everything."""
        self._drop_all(lambda one: True)

    def _drop_all(self, unwanted: Callable[[_Preparation], bool]) -> None:
        with self._lock:
            for one in [one for one in self._kept if unwanted(one)]:
                self._drop(one)

    def _drop(self, one: _Preparation) -> None:
        one.is_dropped = True
        self._kept.remove(one)
        if one.made is not None:
            one.made.destroy()

    def _run(self, gallery: PackedGallery, begun: _Preparation) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        made = None
        try:
            made = PreparedAnswer.make(gallery, begun.terms)
        finally:
            with self._lock:
                if begun.is_dropped:
                    if made is not None:
                        made.destroy()
                elif made is None:
                    self._kept.remove(begun)
                else:
                    begun.made = made
