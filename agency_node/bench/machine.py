"""What a figure was measured on: processor, memory, versions. No host name, no path, no address.

Where the system does not tell (no `/proc`), a fact is `unknown` or zero, never a guess.
"""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from agency_node.bench.errors import MemoryShortError
from crypto.workers import usable_cores

GIB = 1 << 30


@dataclass(frozen=True)
class Machine:
    """The facts that stand beside every figure."""

    cores: int
    cpu: str
    memory_bytes: int
    system: str
    python: str
    numpy: str
    numba: str
    faiss: str | None

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        return cls(
            cores=usable_cores(),
            cpu=_field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
            memory_bytes=_memory("MemTotal"),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            numpy=metadata.version("numpy"),
            numba=metadata.version("numba"),
            faiss=_version("faiss-cpu"),
        )


def check_memory(needed_bytes: int) -> None:
    """Raise `MemoryShortError` when this much is not available; where nobody can tell, try."""
    available = _memory("MemAvailable")
    if 0 < available < needed_bytes:
        raise MemoryShortError(
            f"this needs about {needed_bytes / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB are free: take fewer --records"
        )


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Resident:
    """What this process holds in memory, as the system counts it, in bytes; zero where it does not tell."""

    now: int
    peak: int
    in_huge_pages: int

    @classmethod
    def here(cls) -> Resident:
        """At this moment; `peak` since the process began, or since `forget_peak`."""
        status, rollup = "/proc/self/status", "/proc/self/smaps_rollup"
        return cls(_kilobytes(status, "VmRSS"), _kilobytes(status, "VmHWM"), _kilobytes(rollup, "AnonHugePages"))

    @staticmethod
    def forget_peak() -> None:
        """Let `peak` begin anew; where the system has no such thing, it goes on since the beginning."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def process_peak_bytes(pid: int) -> int:
    """The most memory that another process of ours has held at once; zero where nobody can tell."""
    text = _field(f"/proc/{pid}/status", "VmHWM").removesuffix(" kB")
    return int(text) * 1024 if text.isdigit() else 0


def _memory(name: str) -> int:
    return _kilobytes("/proc/meminfo", name)


def _kilobytes(path: str, name: str) -> int:
    text = _field(path, name).removesuffix(" kB")
    return int(text) * 1024 if text.isdigit() else 0


def _field(path: str, name: str) -> str:
    """The first `name : value` of a file of such lines; empty when there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
