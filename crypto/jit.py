"""The one place that turns a Python function into a numba kernel, so that its flags are the same everywhere.

`fastmath` stays off (it would let the compiler reorder floating point and assume no NaN), `parallel` stays off (numba's default threading
layer ends the process when two threads enter a parallel kernel; threads are `workers`' business), `nogil` is on so that threads of our own
run side by side. Kernels take arrays that their wrapper has checked, write to `out` and raise nothing.

Machine code is kept from one process to the next only as long as no file with a kernel, or with a number that kernels are compiled with,
has changed: numba by itself looks at the file of the kernel alone, and a kernel holds what it took from others (a packed gallery and a
scan that disagreed about the order of words would give every search a wrong answer).
"""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba

Function = TypeVar("Function")
_SOURCES: Final = (
    "binary",
    "blinding",
    "dot",
    "gallery",
    "jit",
    "opening",
    "ordered_probe",
    "packed_words",
    "parameters",
    "ring",
    "scan",
    "seed",
)
"""Modules with kernels, or with what kernels are compiled with; a test compares them with the imports."""


def kernel(function: Function) -> Function:
    """Compile `function` at its first call and keep the machine code in numba's cache until a source of kernels changes."""
    compiled: Any = numba.njit(cache=True, nogil=True)(cast("Any", function))
    # no public name; without a JIT there is no cache
    cache = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if cache is not None:
        cache._source_stamp = _STAMP
    return cast("Function", compiled)


def stamp(read: Callable[[str], bytes | None]) -> bytes:
    """32 bytes over all sources that kernels are made from; `read` gives a file of this package by its name."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        text = read(f"{name}.py") or b""
        digest.update(b"%s %d\n%s" % (name.encode(), len(text), text))
    return digest.digest()


_STAMP: Final = stamp(lambda name: pkgutil.get_data(__package__, name))


def compiled_signatures(function: Any) -> list[Any]:
    """The argument types for which a kernel has been compiled; empty when the JIT is disabled."""
    return list(getattr(function, "signatures", []))
