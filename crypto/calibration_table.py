"""The calibration table as a file: how often two different persons reach a cosine under one face model, who measured it, how well.

A custodian derives thresholds from it (`impostors`), for the sum of all galleries searched. The file is canonical JSON with integers only:

    type                     `sealmatch-1/calibration-table`
    kind                     `measured` or `synthetic`
    model_hash               the embedding model's
    measured_by              who measured, for people
    measured_on, expires_on  days; a table holds until its last day, at most a year (R63)
    persons, pairs           how many different persons, and how many comparisons of two of them; 0 in a synthetic table
    fitted_from              millionths: from this cosine on shares are a fitted tail's; null when every share was counted
    deviation                millionths: standard deviation of impostors' cosines
    cosines                  millionths, ascending
    shares                   -log10 of the share of impostors at or above each cosine, in millionths, ascending

Invariants: equal tables are equal bytes, and the digest is SHA-256 of them; nobody signs: who uses a table pins its digest, which came by
another way. A counted share rests on at least 30 comparisons (the rule of 30, G. Doddington et al., Speech Communication 31, 2000), a
fitted one on a tail that is followed at most a hundredfold beyond that.

Left to others: which digest, mode and day are right (`agency_node`); that the measurement was a good one, which its digest cannot show.
"""

from __future__ import annotations

import enum
import hashlib
import math
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import pairwise
from typing import Final, Self

import numpy as np

from crypto.canonical import JsonObject, JsonValue, canonical_json, parse_canonical_json
from crypto.errors import FieldError, VersionError
from crypto.fields import MAX_INTEGER, Fields, check_digest, check_range, check_text
from crypto.impostors import MILLION, ImpostorTable
from crypto.moments import check_day

TABLE_TYPE: Final = "sealmatch-1/calibration-table"
MAX_TABLE_BYTES: Final = 128 << 10
MAX_POINTS: Final = 4096
MAX_LIFE_DAYS: Final = 366
MIN_COUNTED: Final = 30
"""Comparisons behind a counted share, at least."""
MAX_FITTED_BEYOND: Final = 100
"""How many times rarer than the rarest share that could be counted a fitted tail may go."""
MAX_SHARE: Final = 18 * MILLION
_MAX_MEASURER_CHARS: Final = 120
_ROUNDING: Final = 1e-6
_LN10: Final = math.log(10)


class TableKind(enum.StrEnum):
    """Whether somebody measured it."""

    MEASURED = "measured"
    SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class CalibrationTable:
    """One table; the constructor raises `FieldError`. Names and units as in the module's text, `fitted_from` None for no fit."""

    kind: TableKind
    model_hash: bytes
    measured_by: str
    measured_on: date
    expires_on: date
    persons: int
    pairs: int
    fitted_from: int | None
    deviation: int
    cosines: tuple[int, ...] = field(repr=False)
    shares: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_digest(self.model_hash, "table.model_hash")
        check_text(self.measured_by, _MAX_MEASURER_CHARS, "table.measured_by")
        check_day(self.measured_on, "table.measured_on")
        check_day(self.expires_on, "table.expires_on")
        if not timedelta(0) < self.expires_on - self.measured_on <= timedelta(days=MAX_LIFE_DAYS):
            raise FieldError(f"table.expires_on is after table.measured_on, by at most {MAX_LIFE_DAYS} days")
        check_range(self.deviation, 1, MILLION, "table.deviation")
        self._check_points()
        if self.is_synthetic:
            if (self.persons, self.pairs, self.fitted_from) != (0, 0, None):
                raise FieldError("table.persons and table.pairs are 0, and nothing was fitted, where nothing was measured")
        else:
            self._check_measured()

    @property
    def is_synthetic(self) -> bool:
        """Whether nobody measured it."""
        return self.kind is TableKind.SYNTHETIC

    @property
    def digest(self) -> bytes:
        """SHA-256 of the bytes, 32 bytes."""
        return hashlib.sha256(self.to_bytes()).digest()

    def holds_on(self, day: date) -> bool:
        """Whether that day lies in its life, first and last day included."""
        return self.measured_on <= day <= self.expires_on

    def impostors(self) -> ImpostorTable:
        """The table as thresholds are computed from it."""
        cosines = np.array(self.cosines, np.float64) / MILLION
        log_shares = np.array(self.shares, np.float64) * (-_LN10 / MILLION)
        return ImpostorTable(self.model_hash, cosines, log_shares, self.deviation / MILLION, synthetic=self.is_synthetic)

    @classmethod
    def synthetic(cls, model_hash: bytes, dimensions: int, made_on: date) -> Self:
        """The table of random directions of R^D, for demonstration and test (`ImpostorTable.isotropic`); it holds for a year."""
        made = ImpostorTable.isotropic(model_hash, dimensions)
        return cls(
            kind=TableKind.SYNTHETIC,
            model_hash=model_hash,
            measured_by=f"nobody: random directions of {dimensions} dimensions",
            measured_on=made_on,
            expires_on=made_on + timedelta(days=MAX_LIFE_DAYS),
            persons=0,
            pairs=0,
            fitted_from=None,
            deviation=max(1, round(made.deviation * MILLION)),
            cosines=tuple(round(float(one) * MILLION) for one in made.cosines),
            shares=tuple(round(float(one) / -_LN10 * MILLION) for one in made.log_shares),
        )

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        cosines: list[JsonValue] = list(self.cosines)
        shares: list[JsonValue] = list(self.shares)
        content: JsonObject = {
            "type": TABLE_TYPE,
            "kind": self.kind.value,
            "model_hash": self.model_hash.hex(),
            "measured_by": self.measured_by,
            "measured_on": self.measured_on.isoformat(),
            "expires_on": self.expires_on.isoformat(),
            "persons": self.persons,
            "pairs": self.pairs,
            "fitted_from": self.fitted_from,
            "deviation": self.deviation,
            "cosines": cosines,
            "shares": shares,
        }
        return canonical_json(content)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`.

        Raises `OversizedError` before parsing, `NotCanonicalError`, `VersionError` for another type, `FieldError`.
        """
        members = Fields(parse_canonical_json(data, max_bytes=MAX_TABLE_BYTES), "table")
        if members.text("type") != TABLE_TYPE:
            raise VersionError("table is of another kind or version")
        table = cls(
            kind=members.choice("kind", TableKind),
            model_hash=members.digest("model_hash"),
            measured_by=members.text("measured_by"),
            measured_on=members.day("measured_on"),
            expires_on=members.day("expires_on"),
            persons=members.integer("persons"),
            pairs=members.integer("pairs"),
            fitted_from=None if members.is_null("fitted_from") else members.integer("fitted_from"),
            deviation=members.integer("deviation"),
            cosines=_integers(members, "cosines"),
            shares=_integers(members, "shares"),
        )
        members.close()
        return table

    def _check_points(self) -> None:
        if not 2 <= len(self.cosines) <= MAX_POINTS or len(self.cosines) != len(self.shares):
            raise FieldError(f"table.cosines and table.shares are two to {MAX_POINTS} numbers each, as many of one as of the other")
        for name, values, low, high in (("cosines", self.cosines, -MILLION, MILLION), ("shares", self.shares, 0, MAX_SHARE)):
            for value in values:
                check_range(value, low, high, f"table.{name}")
            if any(later <= earlier for earlier, later in pairwise(values)):
                raise FieldError(f"table.{name} rise from one to the next")

    def _check_measured(self) -> None:
        """No share is rarer than the comparisons, or the fit over them, can tell."""
        check_range(self.persons, 2, MAX_INTEGER, "table.persons")
        check_range(self.pairs, MIN_COUNTED, MAX_INTEGER, "table.pairs")
        if self.fitted_from is not None:
            check_range(self.fitted_from, self.cosines[0], self.cosines[-1], "table.fitted_from")
        rarest = math.log10(self.pairs / MIN_COUNTED) * MILLION
        for cosine, share in zip(self.cosines, self.shares, strict=True):
            is_fitted = self.fitted_from is not None and cosine >= self.fitted_from
            if share > rarest * (1 + _ROUNDING) + (math.log10(MAX_FITTED_BEYOND) * MILLION if is_fitted else 0):
                raise FieldError(f"table.shares hold one that so few pairs cannot show: a counted share rests on {MIN_COUNTED} or more")


def _integers(members: Fields, name: str) -> tuple[int, ...]:
    found = []
    for item in members.items(name):
        if not isinstance(item, int) or isinstance(item, bool):
            raise FieldError(f"table.{name} holds something that is not an integer")
        found.append(item)
    return tuple(found)
