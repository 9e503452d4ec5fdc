"""The one parameter set, `sealmatch-1`, and the fixed-point scales that follow from it for an embedding model.

Invariants: every number below is a bound that is derived in a docstring, checked when the object is built and tested at its edge. No other
ring, modulus or scale can be constructed, so overflow cannot be configured. What the numbers are used for is left to `ring`, `probe`,
`gallery` and `release`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from crypto.errors import MisuseError, UnsupportedParametersError

FRESH_NOISE_SD: Final = math.sqrt(10.5)
"""Standard deviation of SEAL's fresh error: a centred binomial of 21 coin pairs, variance 21/2 (SEAL 4, `util/clipnormal` and
`sample_poly_cbd`); 3.24, where the homomorphic-encryption standard asks for 3.2."""

HALVING_VARIANCE: Final = 0.5
"""Variance of the error of a probe's coefficient that travels without its lowest bit: zero if that is 0, else 1 or -1."""

BLINDING_ERROR_SD: Final = math.sqrt(3 * (128**2 - 1) / 12)
"""Standard deviation of the error e_c of a re-randomised answer: the sum of three uniform 7-bit numbers, 63.998."""

MAX_SCORE: Final = 1.2
"""Largest cosine, plus or minus, that still has its own residue. An honest score is at most 1; the room above it lets the custodian see an
impossible score as impossible instead of having it wrap around to a possible one."""

LARGEST_CODE: Final = 127
"""A template is kept as one signed byte a coordinate, a code (`codes`)."""

TAIL_START: Final = 104
TAIL_STEP: Final = 5
"""Where the tail starts, and how far apart its values lie. Derivation: the error that follows for the best gamma (`Scales`)
was computed for all starts from 72 to 120 in fours and all steps from 2 to 8. A larger step reaches further and costs error in the tail, a
smaller start reaches further and puts more coordinates into it. This pair is within half a per cent of the best pair at D = 64, 128, 256
and 512 and at D = 128 with spread 1.5, and no other pair is (docs/adr/0017-template-codes-with-a-coarse-tail.md)."""

LARGEST_VALUE: Final = TAIL_START + TAIL_STEP * (LARGEST_CODE - TAIL_START)
"""What code 127 stands for: 219."""

MAX_CLIPPED_SHARE: Final = 3e-9
"""A template coordinate lies beyond the largest code more rarely than this (PROTOCOL section 2): of the 320 million coordinates of 2.5
million records of 128 dimensions, less than one."""


@dataclass(frozen=True)
class SecurityEstimate:
    """One published or computed estimate of the classical cost of breaking the ring-LWE instance, in bits."""

    what: str
    bits: float
    model: str
    source: str
    date: str


SECURITY_TABLE: Final = (
    SecurityEstimate(
        "probe", 128.0, "table 1, ternary secret, N = 1024, log2 q <= 27", "Homomorphic Encryption Security Standard", "2018-11"
    ),
    SecurityEstimate("probe", 126.4, "MATZOV", "lattice-estimator, run for the design of this protocol", "2026-11"),
    SecurityEstimate("probe", 128.2, "BDGL16", "lattice-estimator, run for the design of this protocol", "2026-11"),
    SecurityEstimate(
        "probe",
        99.9,
        "core-SVP (counts no memory, no polynomial factor)",
        "lattice-estimator, run for the design of this protocol",
        "2026-11",
    ),
    SecurityEstimate(
        "gallery",
        151.0,
        "error of standard deviation 64; cost model not recorded, not core-SVP",
        "lattice-estimator, run for the design of this protocol",
        "2026-11",
    ),
)
"""What the parameters are worth. Samples beyond about a thousand and bases shared by all searches of a month change none of them."""


@dataclass(frozen=True)
class Parameters:
    """The ring, the plain modulus and how many low bits an answer drops. Only `sealmatch-1` can be built.

    Bounds, each checked in `__post_init__`:

    1. *Ring.* q is prime and q = 1 mod 2N, so X^N + 1 splits and the negacyclic transform exists; q = 2^27 - 2047 makes reduction two
       shifts and a multiplication by 2047.
    2. *Sums in 64 bits.* A scan adds D products of two residues below q: D (q - 1)^2 < 2^64 holds for D <= 1024; `max_dimensions` = 632
       stays below it and leaves the calibration chunk 392 places that must come out empty.
    3. *Truncation.* A word below q shifted right by k bits is below 2^(27-k), so 11, 16 and 16 bits hold b'', a'' and y, and 26 bits a
       halved coefficient of a probe.
    """

    name: str = "sealmatch-1"
    ring_degree: int = 1024
    modulus: int = 134215681
    plain_modulus: int = 1 << 20
    max_dimensions: int = 632
    answer_b_bits: int = 11
    answer_a_bits: int = 16
    opened_bits: int = 16
    probe_bits: int = 26

    def __post_init__(self) -> None:
        given = (
            self.name,
            self.ring_degree,
            self.modulus,
            self.plain_modulus,
            self.max_dimensions,
            self.answer_b_bits,
            self.answer_a_bits,
            self.opened_bits,
            self.probe_bits,
        )
        if given != ("sealmatch-1", 1024, 134215681, 1 << 20, 632, 11, 16, 16, 26):
            raise UnsupportedParametersError("only the parameter set sealmatch-1 can be built; another set needs another name and version")
        q, n = self.modulus, self.ring_degree
        holds = (
            q % (2 * n) == 1 and all(q % divisor for divisor in range(2, math.isqrt(q) + 1)),  # 1
            self.max_dimensions * (q - 1) ** 2 < 1 << 64 and self.max_dimensions < n,  # 2
            all(1 << (27 - bits) << bits >= q for bits in (self.answer_b_bits, self.answer_a_bits, self.opened_bits, self.probe_bits)),  # 3
        )
        if not all(holds):
            raise UnsupportedParametersError("a bound of sealmatch-1 does not hold")

    @property
    def modulus_bits(self) -> int:
        """Bits of a residue: 27."""
        return self.modulus.bit_length()

    def dropped_bits(self, kept_bits: int) -> int:
        """How many low bits of a 27-bit residue go when `kept_bits` stay."""
        return self.modulus_bits - kept_bits

    def truncation_sd(self, kept_bits: int) -> float:
        """Standard deviation of the error of keeping the top `kept_bits` of a uniform residue and reading the middle of the interval."""
        return 2.0 ** self.dropped_bits(kept_bits) / math.sqrt(12)


SEALMATCH_1: Final = Parameters()


@dataclass(frozen=True)
class Scales:
    """Fixed-point scales of one embedding model: templates become codes (`codes`) at scale gamma, probes integers at scale mu.

    `spread_milli` is the largest standard deviation of any coordinate of the model's centred unit embeddings, times sqrt(D), in
    thousandths: 1000 for an isotropic model. gamma and mu are derived from it and cannot be set.

    **Noise**, in units of q, of one opened score (all terms independent, variances add; |s|^2 = |u|^2 = 2N/3 on average):

    - fresh errors of the D encryptions, and their lowest bit, times the N templates of a chunk: 11 N gamma^2
    - re-randomisation, e_z u and e_c s: 11 (2N/3) and 4095.75 (2N/3)
    - dropped bits of a'' (times s), of b'' and of y: (2^11)^2/12 (2N/3), (2^16)^2/12 and (2^11)^2/12

    **Score.** A cosine of 1 is `unit` = gamma mu q/t units of q. *No wrap*: rounding moves the probe, of norm mu, by at most sqrt(D)/2 and
    a template, of norm gamma, by at most r (`template_rounding`), so by Cauchy-Schwarz |<m, g>| <= (mu + sqrt(D)/2)(gamma + r); times
    `MAX_SCORE`, plus six standard deviations of noise, it must stay below t/2.

    **Choice.** Noise costs 1/mu, rounding of templates 1/gamma, and the bound fixes their product: gamma is the integer with the smallest
    total error among those whose `clipped_share` is below `MAX_CLIPPED_SHARE`; mu is then as large as the bound allows. For D = 512 that
    gives 16.4 and 49.5 times sqrt(D), for D = 128 31.6 and 104; there it is the tail's coarse steps that limit gamma, and for fewer
    dimensions clipping.

    Raises `MisuseError` when D is not a multiple of 8 between 8 and 632 or the spread is not between 1 and sqrt(D).
    """

    dimensions: int
    spread_milli: int = 1000
    gamma: int = field(init=False)
    mu: int = field(init=False)

    def __post_init__(self) -> None:
        if self.dimensions % 8 or not 8 <= self.dimensions <= SEALMATCH_1.max_dimensions:
            raise MisuseError(f"dimensions must be a multiple of 8 from 8 to {SEALMATCH_1.max_dimensions}")
        if not 1000 <= self.spread_milli <= 1000 * math.sqrt(self.dimensions):
            raise MisuseError("spread must lie between 1 and sqrt(dimensions)")
        candidates = [
            (total_error(self.dimensions, gamma, mu, self.spread_milli), gamma, mu)
            for gamma in range(8, 128 * math.isqrt(self.dimensions))
            if (mu := largest_mu(self.dimensions, gamma)) > 0
            and clipped_share(self.dimensions, gamma, self.spread_milli) <= MAX_CLIPPED_SHARE
        ]
        _, gamma, mu = min(candidates)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "mu", mu)

    @property
    def unit(self) -> float:
        """A cosine of 1 in units of q."""
        return self.gamma * self.mu * SEALMATCH_1.modulus / SEALMATCH_1.plain_modulus

    @property
    def noise_sd(self) -> float:
        """Standard deviation of the noise of one opened score, as a cosine, against the quantised vectors' own product."""
        return noise_sd(self.gamma) / self.unit

    @property
    def rounding_sd(self) -> float:
        """Standard deviation of the quantised vectors' own product, as a cosine, against the embeddings in floating point."""
        return math.sqrt(self.error_sd**2 - self.noise_sd**2)

    @property
    def error_sd(self) -> float:
        """Standard deviation of one opened score against the cosine of the embeddings in floating point: noise and rounding."""
        return total_error(self.dimensions, self.gamma, self.mu, self.spread_milli)


def noise_sd(gamma: float) -> float:
    """Standard deviation of the noise of one opened score in units of q; the sum that `Scales` derives."""
    p = SEALMATCH_1
    ternary = 2 * p.ring_degree / 3
    probe = FRESH_NOISE_SD**2 + HALVING_VARIANCE
    return math.sqrt(
        probe * p.ring_degree * gamma**2
        + (probe + BLINDING_ERROR_SD**2 + p.truncation_sd(p.answer_a_bits) ** 2) * ternary
        + p.truncation_sd(p.answer_b_bits) ** 2
        + p.truncation_sd(p.opened_bits) ** 2
    )


def template_rounding(dimensions: int, gamma: int) -> float:
    """The farthest that taking the nearest codes moves a template, a vector of norm gamma.

    A coordinate moves by at most 1/2, or by at most `TAIL_STEP`/2 if it lies at `TAIL_START` or beyond; so many cannot lie there that their
    squares exceed gamma^2. A coordinate that clips only becomes smaller, which makes no product wrap.
    """
    in_tail = min(dimensions, gamma**2 // TAIL_START**2)
    return math.sqrt((dimensions - in_tail) + in_tail * TAIL_STEP**2) / 2


def largest_mu(dimensions: int, gamma: int) -> int:
    """The largest integer probe scale at which no score up to `MAX_SCORE` wraps; zero or less when there is none."""
    p = SEALMATCH_1
    room = p.plain_modulus / 2 - 6 * noise_sd(gamma) * p.plain_modulus / p.modulus
    return math.floor(room / (MAX_SCORE * (gamma + template_rounding(dimensions, gamma))) - math.sqrt(dimensions) / 2)


def clipped_share(dimensions: int, gamma: int, spread_milli: int) -> float:
    """Share of Gaussian coordinates of the widest dimension that lie beyond all that rounds to the largest code."""
    return _share_beyond(LARGEST_VALUE + TAIL_STEP / 2, dimensions, gamma, spread_milli)


def total_error(dimensions: int, gamma: int, mu: int, spread_milli: int) -> float:
    """Standard deviation of a score against floating point, as a cosine: noise, rounding of the template, rounding of the probe.

    Rounding errors meet a unit vector, so that variances v of a coordinate give v / gamma^2 and v / mu^2 whatever D is. The probe's are
    uniform, v = 1/12. So are a template's, but those in the tail are uniform over `TAIL_STEP`: v = (1 + share (`TAIL_STEP`^2 - 1)) / 12,
    with the share of Gaussian coordinates of the widest dimension that lie at `TAIL_START` or beyond.
    """
    unit = gamma * mu * SEALMATCH_1.modulus / SEALMATCH_1.plain_modulus
    coarse = 1 + _share_beyond(TAIL_START, dimensions, gamma, spread_milli) * (TAIL_STEP**2 - 1)
    return math.sqrt((noise_sd(gamma) / unit) ** 2 + coarse / (12 * gamma**2) + 1 / (12 * mu**2))


def _share_beyond(limit: float, dimensions: int, gamma: int, spread_milli: int) -> float:
    """Share of Gaussian coordinates of the widest dimension whose magnitude, at scale gamma, exceeds the limit."""
    return math.erfc(limit * math.sqrt(dimensions / 2) / (gamma * spread_milli / 1000))
