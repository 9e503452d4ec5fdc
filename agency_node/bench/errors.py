"""Why a benchmark stops without a figure::

    BenchmarkError
    ├── FaissMissingError     FAISS is a development package, and it is not installed
    ├── GalleryTooLargeError  an answer holds fewer chunks than these records fill
    ├── HolderEndedError      the process that was measured ended before it was done
    ├── MemoryShortError      the galleries would not fit into this machine's memory
    ├── PlotError             a result that cannot be drawn, or nothing to draw it with
    └── WrongResultError      what was measured did not compute the right thing: a bug, and no figure is reported

Each message is a sentence for a person and says what to do next; exit codes are left to `agency_node.cli`.
"""

from __future__ import annotations


class BenchmarkError(Exception):
    """Root of everything that a benchmark raises on purpose."""


class FaissMissingError(BenchmarkError):
    """FAISS is not installed."""


class GalleryTooLargeError(BenchmarkError):
    """More records than one answer holds."""


class HolderEndedError(BenchmarkError):
    """The measured process ended before it was done."""


class MemoryShortError(BenchmarkError):
    """This machine's memory does not hold what was asked for."""


class PlotError(BenchmarkError):
    """This result, or this machine, gives no picture."""


class WrongResultError(BenchmarkError):
    """A measured result is not the right one."""
