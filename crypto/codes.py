"""Template codes: one byte that stands for a coordinate, exact to one near zero and coarser in the tail.

A template at rest is one signed byte a coordinate. Were that byte the coordinate itself, scaled by gamma and clipped at 127, clipping would
hold gamma down where dimensions are few, and the few coordinates that clip would carry the largest errors of all. So a code c is a name
for a value: for c itself up to `TAIL_START`, beyond it for steps of `TAIL_STEP`, out to `LARGEST_VALUE` (`parameters` derives them).

Invariants: -127 to 127 are the codes, each of another value; `codes_of` gives the nearest code; `values_of` is the only way to a number.
Codes are stored, copied and compared; only values are multiplied. A packed gallery holds values, as residues. Which gamma follows is left
to `parameters`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from crypto.parameters import LARGEST_CODE, TAIL_START, TAIL_STEP

Codes: TypeAlias = npt.NDArray[np.int8]
"""int8; numbers to nobody but `values_of`."""


def values_of(codes: Codes) -> npt.NDArray[np.int16]:
    """What codes stand for; int8[...] in, int16[...] out. It leaves copies in memory: a gallery looks persons' codes up instead."""
    values = codes.astype(np.int16)
    return np.asarray(values + (TAIL_STEP - 1) * (values - np.clip(values, -TAIL_START, TAIL_START)), np.int16)


def codes_of(numbers: npt.NDArray[np.floating | np.integer]) -> Codes:
    """The nearest codes, 127 beyond the largest value; real numbers or integers [...] in, int8[...] out."""
    inner = np.clip(numbers, -TAIL_START, TAIL_START)
    codes = np.rint(inner) + np.rint((numbers - inner) / TAIL_STEP)
    return np.asarray(np.clip(codes, -LARGEST_CODE, LARGEST_CODE), np.int8)
