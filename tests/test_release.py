"""The custodian's step: threshold, cap, ranks over all holders, releases of one size, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.alarms import poisson_limit
from crypto.canonical import AgencyId
from crypto.errors import AnswerError, EncodingError, FieldError, KeyDestroyedError, MisuseError, NotCanonicalError, PeerError, ReleaseError
from crypto.impostors import ImpostorTable
from crypto.limits import MAX_CAP, MAX_HOLDERS
from crypto.release import (
    Band,
    DiscoveryRelease,
    HolderOutcome,
    HolderRelease,
    HolderScores,
    Outcome,
    Release,
    ReleaseTerms,
    RequesterRelease,
    release,
    release_nothing,
    unmask,
)
from tests.simulation import GRANT_DIGEST, at_cosine, directions, gallery_of, isotropic_model, search

TABLE = ImpostorTable.isotropic(bytes(32), 128)
NORTH, SOUTH, EAST = AgencyId("north-pd"), AgencyId("south-pd"), AgencyId("east-pd")


def scores(holder: AgencyId, values: list[float], *, impostors: int = 5000, seed: int = 1) -> HolderScores:
    """One holder's nameless scores: the given ones at positions 0, 10, 20, ..., impostors elsewhere."""
    rng = np.random.default_rng(seed)
    cosines = np.clip(rng.standard_normal(impostors) / math.sqrt(128), -0.3, 0.3)
    cosines[: 10 * len(values) : 10] = values
    return HolderScores(holder, bytes(32), impostors - 100, cosines, np.arange(impostors, dtype=np.uint32))


def joined(released: Release) -> list[tuple[int, AgencyId, int, Band]]:
    """(rank, holder, position, band) of each lead, by joining the parts on the release index."""
    where = {index: (holder, position) for holder, part in released.to_holders.items() for index, position in part.leads}
    return sorted((rank, *where[index], band) for index, rank, band in released.to_requester.leads)


def discovery_of(released: Release) -> DiscoveryRelease:
    assert released.to_discovery is not None
    return released.to_discovery


def missing(**outcomes: HolderOutcome) -> dict[AgencyId, HolderOutcome]:
    return {entry.holder: entry for entry in outcomes.values()}


TERMS = ReleaseTerms(GRANT_DIGEST, 5, 10_000)
ANSWERED = (HolderOutcome(NORTH, Outcome.ANSWERED),)


def test_one_threshold_one_cap_and_ranks_over_all_holders() -> None:
    answered = [scores(NORTH, [0.9, 0.6, 0.55]), scores(SOUTH, [0.8, 0.7, 0.52]), scores(EAST, [])]
    released = release(TERMS, TABLE, answered)
    assert [(rank, holder, position) for rank, holder, position, _ in joined(released)] == [
        (1, NORTH, 0),
        (2, SOUTH, 0),
        (3, SOUTH, 10),
        (4, NORTH, 10),
        (5, NORTH, 20),
    ]
    assert released.to_holders[EAST].leads == ()
    assert len(joined(release(ReleaseTerms(GRANT_DIGEST, 2, 10_000), TABLE, answered))) == 2
    assert len(joined(release(ReleaseTerms(GRANT_DIGEST, 50, 10_000), TABLE, answered))) == 6


def test_records_are_counted_over_all_holders() -> None:
    released = release(TERMS, TABLE, [scores(NORTH, [], impostors=5000), scores(SOUTH, [], impostors=3000)])
    assert (discovery_of(released).records, discovery_of(released).compared) == (4900 + 2900, 8000)


def test_calibration_places_are_never_scores() -> None:
    """A basis vector near the probe would otherwise be released, and the zeros would count as comparisons."""
    model = isotropic_model(64)
    rng = np.random.default_rng(5)
    found = search(gallery_of(model, model.templates(directions(rng, 500, 64))), model.probe_vector(directions(rng, 1, 64)[0]))
    one = found.holder_scores(500)
    places = found.secrets.places
    assert one.cosines().size == one.positions().size == 1024
    assert not set(one.positions().tolist()) & {*places.basis.tolist(), *places.zeros.tolist()}


def test_silent_holders_get_an_empty_release_in_the_same_batch() -> None:
    others = missing(south=HolderOutcome(SOUTH, Outcome.SILENT), east=HolderOutcome(EAST, Outcome.REFUSED, 12))
    released = release(TERMS, TABLE, [scores(NORTH, [0.9])], missing=others)
    assert [len(released.to_holders[holder].leads) for holder in (NORTH, SOUTH, EAST)] == [1, 0, 0]
    assert len({len(part.to_bytes()) for part in released.to_holders.values()}) == 1
    with pytest.raises(ReleaseError):
        release(TERMS, TABLE, [scores(NORTH, [0.9])], missing=missing(north=HolderOutcome(NORTH, Outcome.SILENT)))


def test_the_requester_is_told_what_became_of_every_holder() -> None:
    others = missing(south=HolderOutcome(SOUTH, Outcome.REJECTED), east=HolderOutcome(EAST, Outcome.REFUSED, 12))
    told = release(TERMS, TABLE, [scores(NORTH, [])], missing=others).to_requester
    assert told.holders == (
        HolderOutcome(EAST, Outcome.REFUSED, 12),
        HolderOutcome(NORTH, Outcome.ANSWERED),
        HolderOutcome(SOUTH, Outcome.REJECTED),
    )
    told.check_holders((EAST, NORTH, SOUTH))
    for granted in ((EAST, NORTH), (EAST, NORTH, SOUTH, AgencyId("west-pd")), (EAST, NORTH, AgencyId("west-pd")), ()):
        with pytest.raises(ReleaseError, match="account"):
            told.check_holders(granted)


def test_a_search_that_nobody_answered_ends_with_a_release_of_the_usual_size() -> None:
    others = missing(south=HolderOutcome(SOUTH, Outcome.SILENT), north=HolderOutcome(NORTH, Outcome.REFUSED))
    nothing = release_nothing(TERMS, others)
    assert nothing.to_discovery is None
    assert nothing.to_requester.leads == ()
    assert [(entry.holder, entry.outcome) for entry in nothing.to_requester.holders] == [(NORTH, Outcome.REFUSED), (SOUTH, Outcome.SILENT)]
    found = release(TERMS, TABLE, [scores(NORTH, [0.9]), scores(SOUTH, [])])
    assert len(nothing.to_requester.to_bytes()) == len(found.to_requester.to_bytes())
    assert {len(part.to_bytes()) for part in nothing.to_holders.values()} == {len(found.to_holders[NORTH].to_bytes())}
    assert sorted(nothing.to_holders) == [NORTH, SOUTH]
    with pytest.raises(ReleaseError):
        release_nothing(TERMS, {})


def test_nobody_is_missing_that_answered() -> None:
    for others in (missing(south=HolderOutcome(SOUTH, Outcome.ANSWERED)), {SOUTH: HolderOutcome(EAST, Outcome.SILENT)}):
        with pytest.raises(MisuseError):
            release(TERMS, TABLE, [scores(NORTH, [])], missing=others)
        with pytest.raises(MisuseError):
            release_nothing(TERMS, others)


@pytest.mark.parametrize(("outcome", "rule"), [(Outcome.REFUSED, 0), (Outcome.REFUSED, 1000), (Outcome.SILENT, 3), (Outcome.ANSWERED, 3)])
def test_a_rule_stands_with_a_refusal_only(outcome: Outcome, rule: int) -> None:
    with pytest.raises(FieldError):
        HolderOutcome(NORTH, outcome, rule)


@pytest.mark.parametrize(
    ("leads", "holders", "error"),
    [
        ((), (), FieldError),
        ((), (HolderOutcome(SOUTH, Outcome.SILENT), HolderOutcome(NORTH, Outcome.SILENT)), FieldError),
        ((), ANSWERED * 2, FieldError),
        ((), tuple(HolderOutcome(AgencyId(f"h{i:03d}"), Outcome.SILENT) for i in range(MAX_HOLDERS + 1)), FieldError),
        (((0, 1, Band.WEAK),), (HolderOutcome(NORTH, Outcome.SILENT),), ReleaseError),
    ],
    ids=["nobody", "out of order", "twice", "too many", "leads of nobody"],
)
def test_a_release_that_accounts_wrongly_for_holders_is_none(
    leads: tuple[tuple[int, int, Band], ...], holders: tuple[HolderOutcome, ...], error: type[PeerError]
) -> None:
    with pytest.raises(error):
        RequesterRelease(5, leads, holders)


def test_holders_must_have_answered_one_probe() -> None:
    """A requester that sends two holders two probes under one grant is found out here, whatever the holders let pass."""
    other = HolderScores(SOUTH, b"\1" * 32, 100, np.zeros(1024), np.arange(1024, dtype=np.uint32))
    with pytest.raises(ReleaseError, match="different probes"):
        release(TERMS, TABLE, [scores(NORTH, []), other])


def test_threshold_moves_with_n_and_rate() -> None:
    """At the threshold itself: just above is a lead, just below is not, and more galleries raise it."""
    one, three = TABLE.threshold(5000, 10_000), TABLE.threshold(15_000, 10_000)
    assert one < three
    others = [scores(SOUTH, []), scores(EAST, [])]
    assert len(joined(release(TERMS, TABLE, [scores(NORTH, [one + 1e-6, one - 1e-6])]))) == 1
    assert joined(release(TERMS, TABLE, [scores(NORTH, [one + 1e-6]), *others])) == []
    assert len(joined(release(TERMS, TABLE, [scores(NORTH, [three + 1e-6, three - 1e-6]), *others]))) == 1
    assert release(ReleaseTerms(GRANT_DIGEST, 5, 1), TABLE, [scores(NORTH, [one + 1e-6])]).to_requester.leads == ()


def test_bands_follow_expected_false_candidates() -> None:
    admitted = 0.01
    at = [TABLE.cosine_at(admitted / 5000 / factor) for factor in (1.01, 9, 11, 99, 101)]
    bands = [band for _, _, _, band in joined(release(TERMS, TABLE, [scores(NORTH, at[::-1])]))]
    assert bands == [Band.STRONG, Band.MODERATE, Band.MODERATE, Band.WEAK, Band.WEAK]


def test_every_release_of_a_cap_has_one_size() -> None:
    full = release(TERMS, TABLE, [scores(NORTH, [0.9, 0.8, 0.7, 0.6, 0.55]), scores(SOUTH, [])])
    empty = release(TERMS, TABLE, [scores(NORTH, []), scores(SOUTH, [])])
    holder_sizes = {len(part.to_bytes()) for one in (full, empty) for part in one.to_holders.values()}
    assert len(holder_sizes) == 1
    assert len({len(one.to_requester.to_bytes()) for one in (full, empty)}) == 1
    assert len({len(discovery_of(one).to_bytes()) for one in (full, empty)}) == 1
    partly = release(TERMS, TABLE, [scores(NORTH, [])], missing=missing(south=HolderOutcome(SOUTH, Outcome.REFUSED, 999)))
    assert len(partly.to_requester.to_bytes()) == len(full.to_requester.to_bytes())
    long_name = AgencyId("s" * 64)
    longer = release(TERMS, TABLE, [scores(NORTH, [])], missing=missing(south=HolderOutcome(long_name, Outcome.SILENT)))
    assert len(longer.to_requester.to_bytes()) == len(full.to_requester.to_bytes())


def test_holders_learn_no_rank_and_the_requester_no_score() -> None:
    """Indexes are random: over many releases each of five leads gets each index; positions ascend whatever the ranks."""
    seen: set[tuple[int, int]] = set()
    for _ in range(200):
        released = release(TERMS, TABLE, [scores(NORTH, [0.5, 0.9, 0.6, 0.8, 0.7])])
        leads = released.to_holders[NORTH].leads
        assert [position for _, position in leads] == [0, 10, 20, 30, 40]
        seen.update((index, rank) for index, rank, _ in released.to_requester.leads)
    assert len(seen) == 25
    assert not set(RequesterRelease.__dataclass_fields__) - {"cap", "leads", "holders"}


def test_discovery_gets_scores_to_a_thousandth() -> None:
    released = release(TERMS, TABLE, [scores(NORTH, [0.91249, 0.7])])
    assert sorted(milli for _, milli in discovery_of(released).leads) == [700, 912]
    assert discovery_of(released).threshold_milli == round(1000 * TABLE.threshold(5000, 10_000))
    assert (discovery_of(released).records, discovery_of(released).compared) == (4900, 5000)
    assert "912" not in repr(released.to_discovery)


def test_release_needs_answers_each_once() -> None:
    with pytest.raises(ReleaseError):
        release(TERMS, TABLE, [])
    with pytest.raises(ReleaseError):
        release(TERMS, TABLE, [scores(NORTH, []), scores(NORTH, [])])
    with pytest.raises(ReleaseError, match="does not reach"):
        release(ReleaseTerms(GRANT_DIGEST, 5, 1), ImpostorTable(bytes(32), *two_points(), 0.1, synthetic=True), [scores(NORTH, [])])


def two_points() -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    return np.array([0.0, 0.4]), np.log([0.5, 1e-6])


@pytest.mark.parametrize(("digest", "cap"), [(bytes(31), 5), (bytes(32), 0), (bytes(32), MAX_CAP + 1)])
def test_terms_are_checked(digest: bytes, cap: int) -> None:
    with pytest.raises(MisuseError):
        ReleaseTerms(digest, cap, 100)


def test_destroyed_scores_are_gone() -> None:
    one = scores(NORTH, [0.9])
    values = one.cosines()
    one.destroy()
    assert not values.any()
    with pytest.raises(KeyDestroyedError):
        release(TERMS, TABLE, [one])


# --- alarms ---


def test_an_honest_gallery_raises_no_alarm() -> None:
    model = isotropic_model(128)
    rng = np.random.default_rng(3)
    vectors = directions(rng, 20_000, 128)
    vectors[:3] = [at_cosine(rng, vectors[0], 0.8) for _ in range(3)]  # one person, booked more than once
    found = search(gallery_of(model, model.templates(vectors)), model.probe_vector(vectors[0]))
    alarms = found.holder_scores(20_000).alarms(TABLE, model.scales)
    assert not alarms.any


@pytest.mark.parametrize(("name", "values"), [("impossible", [1.02]), ("impossible", [-1.02]), ("planted", [0.45] * 12)])
def test_each_alarm(name: str, values: list[float]) -> None:
    alarms = scores(NORTH, values, impostors=20_000).alarms(TABLE, isotropic_model(128).scales)
    assert alarms.any
    assert getattr(alarms, name)


def test_spread_alarm() -> None:
    wide = HolderScores(NORTH, bytes(32), 5000, np.random.default_rng(1).standard_normal(5000) * 0.2, np.arange(5000, dtype=np.uint32))
    flat = HolderScores(NORTH, bytes(32), 5000, np.zeros(5000), np.arange(5000, dtype=np.uint32))
    assert wide.alarms(TABLE, isotropic_model(128).scales).spread
    assert flat.alarms(TABLE, isotropic_model(128).scales).spread


@pytest.mark.parametrize("mean", [0.01, 0.2, 5.0, 25.0])
def test_poisson_limit(mean: float) -> None:
    limit = poisson_limit(mean, 1e-6)
    tail = 1 - sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(limit + 1))
    above = 1 - sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(limit))
    assert tail < 1e-6 <= above + 1e-12


# --- parts that do not belong together ---


def test_unmask_refuses_parts_of_different_answers() -> None:
    model = isotropic_model(64)
    rng = np.random.default_rng(4)
    gallery = gallery_of(model, model.templates(directions(rng, 500, 64)))
    one, other = (search(gallery, model.probe_vector(directions(rng, 1, 64)[0]), custodians=2) for _ in range(2))
    for opened, shares, chunks, records in (
        (one.opened, other.shares, 1, 500),
        (one.opened, [one.shares[0], other.shares[1]], 1, 500),
        (one.opened, [], 1, 500),
        (one.opened, one.shares, 2, 500),
        (one.opened, one.shares, 1, 1025),
        (one.opened, one.shares, 1, 0),
    ):
        with pytest.raises(AnswerError):
            unmask(NORTH, records, chunks, model.scales, opened, shares)


# --- bytes ---

LEADS = st.integers(1, MAX_CAP).flatmap(
    lambda cap: st.tuples(st.just(cap), st.lists(st.integers(0, cap - 1), unique=True, max_size=cap), st.randoms(use_true_random=False))
)


@given(LEADS)
def test_releases_round_trip(drawn: tuple[int, list[int], np.random.Generator]) -> None:
    cap, indexes, random = drawn
    positions = sorted(random.sample(range(1 << 20), len(indexes)))  # type: ignore[attr-defined]
    to_holder = HolderRelease(cap, tuple(zip(indexes, positions, strict=True)))
    assert HolderRelease.from_bytes(to_holder.to_bytes()) == to_holder
    ranks = list(range(1, len(indexes) + 1))
    to_requester = RequesterRelease(
        cap, tuple((index, rank, Band(1 + rank % 3)) for index, rank in zip(sorted(indexes), ranks, strict=True)), ANSWERED
    )
    assert RequesterRelease.from_bytes(to_requester.to_bytes()) == to_requester
    to_discovery = DiscoveryRelease(cap, 5000, 5120, 420, tuple((index, 500 + index) for index in sorted(indexes)))
    assert DiscoveryRelease.from_bytes(to_discovery.to_bytes()) == to_discovery


@pytest.mark.parametrize("parse", [HolderRelease.from_bytes, RequesterRelease.from_bytes, DiscoveryRelease.from_bytes])
@given(data=st.binary(max_size=300))
def test_garbage_gives_only_our_errors(parse: Callable[[bytes], object], data: bytes) -> None:
    for prefix in (b"", b"SM\6\1\1", b"SM\7\1\1", b"SM\x08\1\1", b"SM\6\1\1\0\5\0\2"):
        with pytest.raises(PeerError):
            parse(prefix + data + b"\xff")


@pytest.mark.parametrize(
    "change",
    [
        {"leads": ((0, 5), (0, 6))},
        {"leads": ((5, 5),)},
        {"leads": ((-1, 5),)},
        {"leads": ((0, 6), (1, 5))},
        {"leads": ((0, 5), (1, 5))},
        {"leads": tuple((i, i) for i in range(6))},
        {"cap": 0},
        {"cap": 51},
    ],
)
def test_a_custodian_cannot_release_beside_the_rules(change: dict[str, object]) -> None:
    with pytest.raises(ReleaseError):
        HolderRelease(**{"cap": 5, "leads": (), **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("leads", [((0, 2, Band.WEAK),), ((0, 1, Band.WEAK), (1, 1, Band.WEAK)), ((1, 1, Band.WEAK), (0, 2, Band.WEAK))])
def test_ranks_run_from_one(leads: tuple[tuple[int, int, Band], ...]) -> None:
    with pytest.raises(ReleaseError):
        RequesterRelease(5, leads, ANSWERED)


def test_a_slot_beyond_the_leads_is_empty() -> None:
    data = HolderRelease(5, ((2, 7),)).to_bytes()
    with pytest.raises(NotCanonicalError):
        HolderRelease.from_bytes(data[:-1] + b"\1")
    bandless = bytearray(RequesterRelease(2, ((0, 1, Band.WEAK),), ANSWERED).to_bytes())
    bandless[13] = 0
    with pytest.raises(FieldError):
        RequesterRelease.from_bytes(bytes(bandless))
    with pytest.raises(EncodingError):
        HolderRelease.from_bytes(data[:-1])
