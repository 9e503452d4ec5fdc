"""The custodian's step: from masked scores without names to the few leads that the grant covers.

Subtract each holder's masks, check its calibration chunk, set one threshold for the sum of all galleries that answered, take at most `cap`
scores over all holders together, and write three releases: positions to every holder in one batch, ranks and bands to the requester, scores
to the discovery key alone.

Invariants: everything is done once, at the grant's deadline, over the holders that answered; every release has exactly `cap` slots, so
that its size says nothing; the requester is told what became of every holder of the grant; holders see no rank, the requester no score,
and the index that joins the two is random. Scores live in this module's objects only; `HolderScores.destroy` and the seeds' own end them.
That the grant and the log were checked before anything was opened is left to the custodian's service.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NoReturn, TypeVar

import numpy as np

from crypto import ring
from crypto.alarms import Alarms
from crypto.answer import MaskShare
from crypto.binary import Kind, Reader, Writer
from crypto.canonical import AgencyId
from crypto.errors import AnswerError, FieldError, KeyDestroyedError, MisuseError, NotCanonicalError, ReleaseError
from crypto.fields import check_ascending, check_range
from crypto.impostors import ImpostorTable
from crypto.limits import MAX_CAP, MAX_CHUNKS, MAX_HOLDERS, MAX_RULE
from crypto.opening import Y16, Y_BITS, middle
from crypto.parameters import Scales
from crypto.prepared import GRANT_DIGEST_BYTES, mask_total
from crypto.ring import F64, N
from crypto.seed import Seed, permutation
from crypto.wire import MAX_NAME_BYTES, read_member, read_padded_name, write_padded_name
from crypto.workers import split

EMPTY: Final = 0xFFFF
MAX_MILLI: Final = 2000
MAX_RELEASE_BYTES: Final = 32 + 8 * MAX_CAP
MAX_REQUESTER_RELEASE_BYTES: Final = 5 + 3 * 2 + 5 * MAX_CAP + MAX_HOLDERS * (1 + MAX_NAME_BYTES + 1 + 2)
Row = TypeVar("Row", bound=tuple[int, ...])


class Band(enum.IntEnum):
    """How a lead's score compares with the threshold, in expected false candidates of the whole search; never a percentage (R35)."""

    WEAK = 1
    MODERATE = 2
    STRONG = 3


@dataclass(frozen=True)
class ReleaseTerms:
    """What the grant says about the release: over all holders together (R32, R33)."""

    grant_digest: bytes
    cap: int
    false_positives_per_million: int

    def __post_init__(self) -> None:
        if len(self.grant_digest) != GRANT_DIGEST_BYTES or not 1 <= self.cap <= MAX_CAP:
            raise MisuseError(f"a grant digest has 32 bytes and a cap is 1 to {MAX_CAP}")


class Outcome(enum.IntEnum):
    """What became of one holder in a search; one number for ever."""

    ANSWERED = 1
    REFUSED = 2
    """The holder said no."""
    SILENT = 3
    """Nothing by the deadline."""
    REJECTED = 4
    """What came did not hold: seeds, digest or size."""


@dataclass(frozen=True)
class HolderOutcome:
    """One holder's part in a search. `rule` is the number of the policy's rule by which it refused, 1 to 999, None for another reason."""

    holder: AgencyId
    outcome: Outcome
    rule: int | None = None

    def __post_init__(self) -> None:
        if self.rule is not None:
            check_range(self.rule, 1, MAX_RULE, "outcome.rule")
            if self.outcome is not Outcome.REFUSED:
                raise FieldError("outcome.rule stands with a refusal only")


NOBODY: Final[Mapping[AgencyId, HolderOutcome]] = MappingProxyType({})
"""Where every holder of the grant answered."""


class HolderScores:
    """Nameless cosines of one holder's answer, calibration places left out; float64[slots - N]. No pickle, no text form."""

    __slots__ = ("_cosines", "_positions", "holder", "probe_digest", "records")

    def __init__(self, holder: AgencyId, probe_digest: bytes, records: int, cosines: F64, positions: ring.U32) -> None:
        self.holder = holder
        self.probe_digest = probe_digest
        self.records = records
        self._cosines = cosines
        self._positions = positions

    def alarms(self, table: ImpostorTable, scales: Scales) -> Alarms:
        """The alarms of this holder's scores."""
        return Alarms.of(self.cosines(), table, scales)

    def cosines(self) -> F64:
        """The scores, for this module and its tests."""
        if not self._cosines.size:
            raise KeyDestroyedError("these scores were destroyed")
        return self._cosines

    def positions(self) -> ring.U32:
        """The position in the answer of each score; uint32, the same length as `cosines`."""
        return self._positions

    def destroy(self) -> None:
        """Overwrite the scores; every later use raises `KeyDestroyedError`."""
        self._cosines.fill(0)
        self._cosines = np.empty(0, np.float64)

    def __repr__(self) -> str:
        return f"HolderScores(holder={self.holder!s}, scores=<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("scores are not pickled")


def unmask(holder: AgencyId, records: int, chunks: int, scales: Scales, opened: Y16, shares: Sequence[MaskShare]) -> HolderScores:
    """Take the masks off one holder's opened values and check its calibration chunk.

    `shares` are the seeds of all the search's custodians for this holder; `records` and `chunks` come from the holder's
    signed manifest. Raises
    `AnswerError` when the parts do not name one answer, `CalibrationError` when the probe was not one unit vector.
    """
    if not shares or any((share.answer_digest, share.slots) != (opened.answer_digest, opened.values.size) for share in shares):
        raise AnswerError("seeds and opened values name different answers")
    if any(share.probe_digest != shares[0].probe_digest for share in shares):
        raise AnswerError("custodians were told different probes")
    first = shares[0].places
    if any(
        (share.places.basis.tobytes(), share.places.zeros.tobytes()) != (first.basis.tobytes(), first.zeros.tobytes()) for share in shares
    ):
        raise AnswerError("custodians were told different calibration places")
    if opened.values.size != (chunks + 1) * N or not 1 <= records <= chunks * N:
        raise AnswerError("the answer's size is not that of the manifest's gallery")
    masks = mask_total([share.seed for share in shares], opened.values.size)
    cosines = np.empty(masks.size, np.float64)

    def unmask_range(start: int, end: int) -> None:
        part = slice(start, end)  # small enough to stay in a cache from the first step to the last
        np.divide(ring.centred(ring.subtract(middle(opened.values[part], Y_BITS), masks[part])), scales.unit, out=cosines[part])

    split(masks.size, unmask_range)
    first.check(cosines)
    is_record = np.ones(cosines.size, np.bool_)
    is_record[first.basis] = False
    is_record[first.zeros] = False
    return HolderScores(holder, shares[0].probe_digest, records, cosines[is_record], np.flatnonzero(is_record).astype(np.uint32))


@dataclass(frozen=True)
class HolderRelease:
    """To one holder: (release index, position) of its leads, ascending by position; filled up to `cap` slots on the wire."""

    cap: int
    leads: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        positions = [position for _, position in self.leads]
        _check_leads(self.cap, [index for index, _ in self.leads])
        if positions != sorted(set(positions)) or any(not 0 <= position < MAX_CHUNKS * N for position in positions):
            raise ReleaseError("a release names ascending positions, each once")

    def to_bytes(self) -> bytes:
        """The canonical bytes; one length for every holder of the grant."""
        writer = Writer(Kind.HOLDER_RELEASE).integer(self.cap, 2).integer(len(self.leads), 2)
        for index, position in _padded(self.leads, self.cap, (EMPTY, 0)):
            writer.integer(index, 2).integer(position, 4)
        return writer.finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> HolderRelease:
        """Inverse of `to_bytes`; `EncodingError` or `ReleaseError` for anything else."""
        reader, cap, count = _release_reader(data, Kind.HOLDER_RELEASE)
        rows = [(_index(reader), reader.integer(4, low=0, high=0xFFFFFFFF)) for _ in range(cap)]
        reader.finish()
        return cls(cap, _unpadded(rows, count, (EMPTY, 0)))


@dataclass(frozen=True)
class RequesterRelease:
    """To the requester: its leads, and what became of every holder of the grant, so that no missing answer passes for "nobody found".

    `leads` are (release index, rank over all holders, band), ascending by index; filled up to `cap` slots on the wire. `holders` ascend.
    """

    cap: int
    leads: tuple[tuple[int, int, Band], ...]
    holders: tuple[HolderOutcome, ...]

    def __post_init__(self) -> None:
        indexes = [index for index, _, _ in self.leads]
        _check_leads(self.cap, indexes)
        if indexes != sorted(indexes) or sorted(rank for _, rank, _ in self.leads) != list(range(1, len(self.leads) + 1)):
            raise ReleaseError("a release names ascending indexes and ranks from one, each once")
        check_ascending([entry.holder for entry in self.holders], 1, MAX_HOLDERS, "release.holders")
        if self.leads and all(entry.outcome is not Outcome.ANSWERED for entry in self.holders):
            raise ReleaseError("a release holds leads although no holder answered")

    def check_holders(self, granted: Sequence[AgencyId]) -> None:
        """Raise `ReleaseError` unless it says of exactly the grant's holders what became of them; the requester asks."""
        if [entry.holder for entry in self.holders] != list(granted):
            raise ReleaseError("the release does not account for every holder of the grant")

    def to_bytes(self) -> bytes:
        """The canonical bytes; one length for every release of this cap and number of holders."""
        writer = Writer(Kind.REQUESTER_RELEASE).integer(self.cap, 2).integer(len(self.leads), 2)
        for index, rank, band in _padded(self.leads, self.cap, (EMPTY, 0, 0)):
            writer.integer(index, 2).integer(rank, 2).integer(band, 1)
        writer.integer(len(self.holders), 2)
        for entry in self.holders:
            write_padded_name(writer, entry.holder).integer(entry.outcome, 1).integer(entry.rule or 0, 2)
        return writer.finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> RequesterRelease:
        """Inverse of `to_bytes`; `EncodingError` or `ReleaseError` for anything else."""
        reader, cap, count = _release_reader(data, Kind.REQUESTER_RELEASE, MAX_REQUESTER_RELEASE_BYTES)
        rows = [(_index(reader), reader.integer(2, low=0, high=cap), reader.integer(1, low=0, high=max(Band))) for _ in range(cap)]
        leads = _unpadded(rows, count, (EMPTY, 0, 0))
        if any(band == 0 for _, _, band in leads):
            raise FieldError("a lead has no band")
        holders = tuple(
            HolderOutcome(read_padded_name(reader, AgencyId), read_member(reader, Outcome), reader.integer(2, low=0, high=MAX_RULE) or None)
            for _ in range(reader.integer(2, low=1, high=MAX_HOLDERS))
        )
        reader.finish()
        return cls(cap, tuple((index, rank, Band(band)) for index, rank, band in leads), holders)


@dataclass(frozen=True)
class DiscoveryRelease:
    """To the requesting agency's discovery key (legal office, not investigators): scores and threshold in thousandths, and N.

    `records` counts the galleries' records, `compared` their slots, fillers among them: the N of the threshold.
    """

    cap: int
    records: int
    compared: int
    threshold_milli: int
    leads: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        indexes = [index for index, _ in self.leads]
        _check_leads(self.cap, indexes)
        if indexes != sorted(indexes):
            raise ReleaseError("a release names ascending indexes")
        if not 1 <= self.records <= self.compared or any(
            not 0 <= milli <= MAX_MILLI for milli in (self.threshold_milli, *dict(self.leads).values())
        ):
            raise ReleaseError("a discovery release counts records and slots and holds cosines from 0 to 2")

    def to_bytes(self) -> bytes:
        """The canonical bytes; one length for every release of this cap."""
        writer = (
            Writer(Kind.DISCOVERY_RELEASE)
            .integer(self.cap, 2)
            .integer(len(self.leads), 2)
            .integer(self.records, 8)
            .integer(self.compared, 8)
        )
        writer.integer(self.threshold_milli, 2)
        for index, milli in _padded(self.leads, self.cap, (EMPTY, 0)):
            writer.integer(index, 2).integer(milli, 2)
        return writer.finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> DiscoveryRelease:
        """Inverse of `to_bytes`; `EncodingError` or `ReleaseError` for anything else."""
        reader, cap, count = _release_reader(data, Kind.DISCOVERY_RELEASE)
        records, compared = reader.integer(8, low=1, high=1 << 53), reader.integer(8, low=1, high=1 << 53)
        threshold = reader.integer(2, low=0, high=MAX_MILLI)
        rows = [(_index(reader), reader.integer(2, low=0, high=MAX_MILLI)) for _ in range(cap)]
        reader.finish()
        return cls(cap, records, compared, threshold, _unpadded(rows, count, (EMPTY, 0)))

    def __repr__(self) -> str:
        return f"DiscoveryRelease(cap={self.cap}, leads=<redacted>)"


@dataclass(frozen=True)
class Release:
    """One search's whole release: parts for every holder of the grant, for the requester, and for discovery if anything was compared."""

    to_holders: dict[AgencyId, HolderRelease]
    to_requester: RequesterRelease
    to_discovery: DiscoveryRelease | None


def release(
    terms: ReleaseTerms, table: ImpostorTable, answered: Sequence[HolderScores], *, missing: Mapping[AgencyId, HolderOutcome] = NOBODY
) -> Release:
    """Threshold, cap and join over all holders that answered; called once, at the grant's deadline.

    The threshold's N is the number of slots compared, a little more than the records: fillers are never leads, but one above the
    threshold would take a lead's place under the cap. `missing` says what became of the grant's other holders: they get an empty release
    of the same size, in the same batch, and the requester is told.

    Raises `ReleaseError` when the holders answered different probes, nobody answered (`release_nothing`), a holder stands twice, or the
    calibration table does not reach this far.
    """
    holders = [scores.holder for scores in answered]
    if not holders or len({*holders, *missing}) != len(holders) + len(missing):
        raise ReleaseError("a release needs at least one holder's answer, and each holder's once")
    if len({scores.probe_digest for scores in answered}) != 1:
        raise ReleaseError("holders answered different probes: refuse the search and report it")
    records = sum(scores.records for scores in answered)
    cosines = np.concatenate([scores.cosines() for scores in answered])
    threshold = table.threshold(cosines.size, terms.false_positives_per_million)
    positions = np.concatenate([scores.positions() for scores in answered])
    owners = np.repeat(np.arange(len(answered)), [scores.cosines().size for scores in answered])
    reached = np.flatnonzero(cosines >= threshold)
    ranked = reached[np.argsort(-cosines[reached], kind="stable")][: terms.cap]

    seed = Seed.fresh()
    indexes = [int(index) for index in permutation(seed, "release-index", terms.cap)[: ranked.size]]
    seed.destroy()
    per_holder: dict[AgencyId, list[tuple[int, int]]] = {holder: [] for holder in (*holders, *missing)}
    to_requester, to_discovery = [], []
    for rank, (index, place) in enumerate(zip(indexes, ranked, strict=True), start=1):
        cosine = float(cosines[place])
        per_holder[holders[owners[place]]].append((index, int(positions[place])))
        to_requester.append((index, rank, _band(cosines.size * table.share_at(cosine), terms.false_positives_per_million)))
        to_discovery.append((index, round(cosine * 1000)))
    return Release(
        {holder: HolderRelease(terms.cap, tuple(sorted(leads, key=lambda lead: lead[1]))) for holder, leads in per_holder.items()},
        RequesterRelease(terms.cap, tuple(sorted(to_requester)), _outcomes(holders, missing)),
        DiscoveryRelease(terms.cap, records, cosines.size, round(threshold * 1000), tuple(sorted(to_discovery))),
    )


def release_nothing(terms: ReleaseTerms, missing: Mapping[AgencyId, HolderOutcome]) -> Release:
    """The release of a search that no holder answered: empty parts, so that it ends at its deadline, and the requester sees why.

    Nothing was compared, so discovery gets no part. `ReleaseError` unless `missing` names a holder.
    """
    empty = HolderRelease(terms.cap, ())
    if not missing:
        raise ReleaseError("a release accounts for at least one holder")
    return Release(dict.fromkeys(sorted(missing), empty), RequesterRelease(terms.cap, (), _outcomes((), missing)), None)


def _outcomes(answered: Sequence[AgencyId], missing: Mapping[AgencyId, HolderOutcome]) -> tuple[HolderOutcome, ...]:
    if any(entry.holder != holder or entry.outcome is Outcome.ANSWERED for holder, entry in missing.items()):
        raise MisuseError("a missing holder's outcome is its own, and is not that it answered")
    every = (*(HolderOutcome(holder, Outcome.ANSWERED) for holder in answered), *missing.values())
    return tuple(sorted(every, key=lambda entry: entry.holder))


def _band(expected_false: float, false_positives_per_million: int) -> Band:
    """A tenth and a hundredth of the expected false candidates that the threshold itself admits separate the bands."""
    admitted = false_positives_per_million / 1_000_000
    if expected_false <= admitted / 100:
        return Band.STRONG
    return Band.MODERATE if expected_false <= admitted / 10 else Band.WEAK


def _check_leads(cap: int, indexes: Sequence[int]) -> None:
    if not 1 <= cap <= MAX_CAP or len(indexes) > cap:
        raise ReleaseError("a release holds more leads than its cap")
    if len(set(indexes)) != len(indexes) or any(not 0 <= index < cap for index in indexes):
        raise ReleaseError("release indexes are below the cap, each once")


def _padded(leads: Sequence[tuple[int, ...]], cap: int, empty: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [*leads, *[empty] * (cap - len(leads))]


def _unpadded(rows: Sequence[Row], count: int, empty: Row) -> tuple[Row, ...]:
    if any(row != empty for row in rows[count:]):
        raise NotCanonicalError("a slot beyond the leads is not empty")
    return tuple(rows[:count])


def _release_reader(data: bytes, kind: Kind, max_bytes: int = MAX_RELEASE_BYTES) -> tuple[Reader, int, int]:
    reader = Reader(data, kind, max_bytes=max_bytes)
    cap = reader.integer(2, low=1, high=MAX_CAP)
    return reader, cap, reader.integer(2, low=0, high=cap)


def _index(reader: Reader) -> int:
    return reader.integer(2, low=0, high=EMPTY)
