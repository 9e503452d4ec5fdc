"""How far a piece of work is, for who waits for it.

`Progress` is what the work tells; `TerminalProgress` shows it on standard error, so that standard output holds the result alone, and only
once the work takes longer than two seconds. Nothing shown names a record.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

SHOWN_AFTER_S: Final = 2.0


class Progress(Protocol):
    """Told by a piece of work how much there is and how much is done."""

    def total(self, count: int) -> None:
        """So many parts there are; told once, first."""

    def advance(self, count: int = 1) -> None:
        """So many more parts are done."""

    def text(self, text: str) -> None:
        """What is being done."""


class NoProgress:
    """Shows nothing."""

    def total(self, count: int) -> None:
        """Not shown."""

    def advance(self, count: int = 1) -> None:
        """Not shown."""

    def text(self, text: str) -> None:
        """Not shown."""


class RateColumn(ProgressColumn):
    """How many parts a second are done, of late."""

    def render(self, task: Task) -> Text:
        """The rate, nothing before it is known."""
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


class TerminalProgress:
    """A bar with rate and time left on a terminal, which goes at the end; one line elsewhere. A context manager around the work."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._started = clock()
        self._count, self._done, self._text = 0, 0, ""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=self._console, transient=True, get_time=clock)
        self._task = self._bar.add_task("")
        self._shown = False

    def total(self, count: int) -> None:
        """So many parts there are."""
        self._count = count
        self._update()

    def advance(self, count: int = 1) -> None:
        """So many more parts are done."""
        self._done += count
        self._update()

    def text(self, text: str) -> None:
        """What is being done."""
        self._text = text
        self._update()

    def _update(self) -> None:
        self._bar.update(self._task, total=self._count, completed=self._done, description=self._text)
        if not self._shown and self._takes_long() and self._console.is_terminal:
            self._bar.start()
            self._shown = True

    def _takes_long(self) -> bool:
        return self._clock() - self._started > SHOWN_AFTER_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown:
            self._bar.stop()
        elif self._takes_long():
            elapsed = self._clock() - self._started
            said = f"{self._text}: {self._done} of {self._count} in {elapsed:.1f} s, {self._done / elapsed:.1f}/s"
            self._console.print(said, highlight=False, soft_wrap=True)
