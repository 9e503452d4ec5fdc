"""The calibration chunk: one chunk among the gallery's that lets the custodian see a probe's norm, and whether its b_d are constants.

It holds a fresh Haar-random orthonormal basis of R^D at D secret coefficients and zeros at the rest, in a chunk at a secret place; all of
it is drawn anew for every answer. An honest probe meets the basis with norm 1 and the zeros with noise alone. A scaled probe shows in the
norm; a probe with anything at X^1 or above carries basis scores onto zeros. Because the basis is uniformly random, the scores are a
uniformly random vector of that norm and say nothing else; because it is fresh, two searches for one face do not show the same scores
here.

Invariant: the custodian learns the places only in the answer's secret order, sorted. What it does with the result is left to `release`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from crypto.codes import Codes
from crypto.embedding import quantised_directions
from crypto.errors import CalibrationError, MisuseError
from crypto.parameters import Scales
from crypto.ring import F64, U32, N
from crypto.seed import Seed, gaussians, permutation

NORM_RANGE: Final = (0.97, 1.03)
MAX_ZERO_NORM: Final = 0.03
"""Norm of the scores at the zeros, as cosines. Noise alone gives sqrt(N - D) times its standard deviation, 0.016 at D = 512 or
128; that is smaller here than in other chunks, which have N vectors where this one has D."""


@dataclass(frozen=True, eq=False)
class CalibrationChunk:
    """The chunk as a holder adds it: `templates` int8[N, D], the basis at `coefficients` uint32[D] and zeros elsewhere; `place` among
    chunks."""

    templates: Codes
    coefficients: U32
    place: int

    @classmethod
    def draw(cls, seed: Seed, scales: Scales, chunks: int) -> CalibrationChunk:
        """Everything from one seed: QR of a Gaussian matrix, columns' signs made those of R's diagonal, is Haar (Mezzadri, Notices AMS
        2007)."""
        dimensions = scales.dimensions
        q, r = np.linalg.qr(gaussians(seed, "basis", dimensions * dimensions).reshape(dimensions, dimensions))
        coefficients = permutation(seed, "coefficients", N)[:dimensions]
        templates = np.zeros((N, dimensions), np.int8)
        templates[coefficients] = quantised_directions((q * np.sign(np.diag(r))).T, scales)
        return cls(templates, coefficients, int(permutation(seed, "place", chunks + 1)[0]))

    def positions(self, order: U32) -> CalibrationPlaces:
        """Where the answer's order puts basis and zeros."""
        in_order = order[self.place * N : (self.place + 1) * N]
        is_basis = np.zeros(N, np.bool_)
        is_basis[self.coefficients] = True
        return CalibrationPlaces(np.sort(in_order[is_basis]), np.sort(in_order[~is_basis]))

    def __repr__(self) -> str:
        return "CalibrationChunk(<redacted>)"


@dataclass(frozen=True, eq=False)
class CalibrationPlaces:
    """What the custodian is told: positions of the basis, uint32[D], and of the zeros, uint32[N - D], each ascending."""

    basis: U32
    zeros: U32

    def __post_init__(self) -> None:
        both = np.concatenate([self.basis, self.zeros])
        ascending = all((places[1:] > places[:-1]).all() for places in (self.basis, self.zeros))
        if both.size != N or not ascending or np.unique(both).size != N:
            raise MisuseError(f"a calibration chunk has {N} different places, ascending")

    def check(self, cosines: F64) -> None:
        """Raise `CalibrationError` unless the scores, float64[slots] in order, show one constant probe of norm 1."""
        norm = float(np.linalg.norm(cosines[self.basis]))
        if not NORM_RANGE[0] <= norm <= NORM_RANGE[1]:
            raise CalibrationError(f"the probe's norm is not within {NORM_RANGE[0]}..{NORM_RANGE[1]}: refuse the search and report it")
        if float(np.linalg.norm(cosines[self.zeros])) > MAX_ZERO_NORM:
            raise CalibrationError("the probe is not constant: refuse the search and report it")

    def __repr__(self) -> str:
        return "CalibrationPlaces(<redacted>)"
