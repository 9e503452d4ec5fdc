"""The one place that turns a Python function into a numba kernel, so that its flags are the same everywhere.

`fastmath` stays off (it would let the compiler reorder floating point and assume no NaN), `parallel` stays off (numba's default threading
layer ends the process when two threads enter a parallel kernel; threads are `workers`' business), `nogil` is on so that threads of our own
run side by side. Kernels take arrays that their wrapper has checked, write to `out` and raise nothing.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function")


def kernel(function: Function) -> Function:
    """Compile `function` at its first call and keep the machine code in numba's cache."""
    return cast("Function", numba.njit(cache=True, nogil=True)(function))


def compiled_signatures(function: Any) -> list[Any]:
    """The argument types for which a kernel has been compiled; empty when the JIT is disabled."""
    return list(getattr(function, "signatures", []))
