"""Epochs (calendar months, UTC) and the public bases A_1..A_D, A_z that every probe of an epoch stands on.

Invariants: the bases are a fixed function of epoch and dimension, so no party chooses them. With a chosen A_z the gallery's hiding fails;
that is why a probe carries its epoch and never a base. Which epochs a holder serves is decided here; who fixes the epoch of a search is
left to the grant.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

import numpy as np

from crypto.errors import EpochError, FieldError, MisuseError
from crypto.parameters import SEALMATCH_1
from crypto.ring import U32, N, Q

_MONTH: Final = re.compile(r"20\d\d-(?:0[1-9]|1[0-2])")
_SPARE_WORDS: Final = 512
"""Words beyond the need; a word is rejected with probability 2047 / 2^27, so 633 polynomials reject ten on average."""


@dataclass(frozen=True, order=True)
class Epoch:
    """A calendar month in UTC, written `2026-11`."""

    month: str

    def __post_init__(self) -> None:
        if not _MONTH.fullmatch(self.month):
            raise FieldError("an epoch is a calendar month such as 2026-11")

    @classmethod
    def at(cls, now: datetime) -> Self:
        """The epoch of an aware moment."""
        offset = now.utcoffset()
        if offset is None:
            raise MisuseError("a moment needs its time zone")
        return cls(f"{now - offset:%Y-%m}")

    def previous(self) -> Epoch:
        """The month before."""
        first = datetime(int(self.month[:4]), int(self.month[5:]), 1)
        return Epoch(f"{first - timedelta(days=1):%Y-%m}")

    def check_served(self, now: datetime) -> None:
        """Raise `EpochError` unless this is the current or the previous month; a holder asks before it scans."""
        current = Epoch.at(now)
        if self not in (current, current.previous()):
            raise EpochError(f"epoch {self.month} is not served: make the probe for {current.month}")


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
