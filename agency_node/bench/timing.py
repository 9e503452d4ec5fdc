"""Taking times: alternating runs, and what is left of them.

Invariants: contenders take turns, so that a slower minute of the machine meets all of them; each has run before its first timed run;
between two timed runs there is a pause where FAISS takes turns, because its OpenMP threads go on spinning for some milliseconds and would
take a core from whoever comes next. What is timed is left to the caller.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PAUSE_S = 0.01


@dataclass(frozen=True)
class Timing:
    """Seconds of every run of one thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one; a single disturbed run does not move it."""
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, float | int]:
        """Smallest, middle, largest and how many."""
        return {"min_s": min(self.seconds), "median_s": self.median, "max_s": max(self.seconds), "runs": len(self.seconds)}


def timed(action: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def alternate(
    turns: Sequence[tuple[str, Callable[[], object]]],
    rounds: int,
    done: Callable[[], None],
    pause_s: float = PAUSE_S,
    before: Callable[[str], object] = lambda _: None,
) -> dict[str, Timing]:
    """Time the turns in their order, again and again; a name may have several turns a round. `done` is called after each round, `before`
    with a turn's name after its pause, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name, _ in turns}
    for _, action in turns:
        action()
    for _ in range(rounds):
        for name, action in turns:
            time.sleep(pause_s)
            before(name)
            seconds[name].append(timed(action))
        done()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
