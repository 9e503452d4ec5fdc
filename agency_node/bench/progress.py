"""Progress on standard error, so that standard output holds the result alone.

On a terminal each step has a bar that vanishes when it ends; elsewhere a step that took more than two seconds leaves one line. While runs
are timed nothing redraws by itself: a bar that is drawn during a measurement is part of the measurement.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

WORTH_A_LINE_S = 2.0


class Steps:
    """Shows one step after the other."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def step(self, what: str, total: int | None = None, *, timed: bool = False) -> Iterator[Callable[[], None]]:
        """Show a step while the block runs; yields what to call when one of `total` parts is done. Without a total the bar only moves."""
        started = time.perf_counter()
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            with Progress(*columns, console=self._console, transient=True, auto_refresh=not timed, refresh_per_second=4) as bar:
                task = bar.add_task(what, total=total)
                yield lambda: bar.update(task, advance=1, refresh=timed)
        else:
            yield lambda: None
            if (elapsed := time.perf_counter() - started) > WORTH_A_LINE_S:
                self._console.print(f"{what}: {elapsed:.1f} s", highlight=False, soft_wrap=True)
