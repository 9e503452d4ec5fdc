"""What who waits sees: nothing for short work, a bar on a terminal, a line elsewhere."""

from __future__ import annotations

import contextlib
import io

import pytest
from rich.console import Console

from agency_node.holder.progress import TerminalProgress


class Seconds:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(seconds: float, *, terminal: bool) -> tuple[str, str]:
    """What was written by the end of the first part, which took so long, and by the end of the work."""
    target, clock = io.StringIO(), Seconds()
    console = Console(file=target, force_terminal=terminal, width=100, color_system=None)
    with TerminalProgress(console, clock) as progress:
        progress.text("Enrolling pictures")
        progress.total(7)
        clock.now += seconds
        progress.advance(3)
        during = target.getvalue()
    return during, target.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_short_work_shows_nothing(terminal: bool) -> None:
    assert shown(1.9, terminal=terminal) == ("", "")


def test_long_work_shows_a_bar_that_goes() -> None:
    during, after = shown(2.1, terminal=True)
    assert "Enrolling pictures" in during
    assert "3/7" in during
    assert after.endswith("\x1b[2K")


def test_the_bar_says_how_fast_and_how_long_still() -> None:
    """Two parts a second for four seconds, and sixteen parts to go."""
    target, clock = io.StringIO(), Seconds()
    with TerminalProgress(Console(file=target, force_terminal=True, width=100, color_system=None), clock) as progress:
        progress.text("Enrolling pictures")
        progress.total(24)
        for _ in range(8):
            clock.now += 0.5
            progress.advance()
    assert "8/24" in target.getvalue()
    assert "2.0/s" in target.getvalue()
    assert "0:00:08" in target.getvalue()


def test_long_work_leaves_a_line_where_there_is_no_terminal() -> None:
    assert shown(65, terminal=False) == ("", "Enrolling pictures: 3 of 7 in 65.0 s, 0.0/s\n")


def test_an_error_takes_the_bar_away() -> None:
    target, clock = io.StringIO(), Seconds()
    console = Console(file=target, force_terminal=True, width=100, color_system=None)
    progress = TerminalProgress(console, clock)
    with contextlib.suppress(KeyboardInterrupt), progress:
        clock.now += 10
        progress.advance()
        raise KeyboardInterrupt
    assert "\x1b[?25h" in target.getvalue()  # the cursor is back
