"""The public bases A_1..A_D and A_z that every probe of an epoch stands on.

Invariants: the bases are a fixed function of epoch and dimension, so no party chooses them. With a chosen A_z the gallery's hiding fails;
that is why a probe carries its epoch and never a base. Who fixes the epoch of a search is left to the grant.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Final

import numpy as np

from crypto.epoch import Epoch
from crypto.errors import MisuseError
from crypto.parameters import SEALMATCH_1
from crypto.ring import U32, N, Q

_SPARE_WORDS: Final = 512
"""Words beyond the need; a word is rejected with probability 2047 / 2^27, so 633 polynomials reject ten on average."""


@functools.lru_cache(maxsize=4)
def public_bases(epoch: Epoch, dimensions: int) -> U32:
    """A_1..A_D and, last, A_z in eval form; read-only uint32[D + 1, N], uniform in R_q.

    SHAKE256 of the ASCII string `sealmatch-1/YYYY-MM/D` is read as little-endian 32-bit words; the low 27 bits of each are taken, words not
    below q are rejected, and the rest fill the polynomials in order. A value uniform in eval form is uniform in coeff form.
    """
    label = f"{SEALMATCH_1.name}/{epoch.month}/{dimensions}".encode("ascii")
    count = (dimensions + 1) * N
    words = np.frombuffer(hashlib.shake_256(label).digest(4 * (count + _SPARE_WORDS)), "<u4") & np.uint32((1 << 27) - 1)
    accepted = words[words < Q]
    if accepted.size < count:
        raise MisuseError("more words rejected than spare words were drawn")
    bases = accepted[:count].astype(np.uint32).reshape(dimensions + 1, N)
    bases.flags.writeable = False
    return bases
