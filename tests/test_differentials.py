"""The face model measured by groups on a gallery's own records (R64): against plain numpy, with small groups held back (R62), and wiped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from agency_node.errors import RequestError
from agency_node.facts import Fact, write_fact
from agency_node.holder import differentials
from agency_node.holder.differentials import AGAIN_AFTER, Asked, Takers, following_of, in_fives, spread_of, takers_of, units_of
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.groups import Described
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.tables import ledger
from agency_node.vault import Vault
from crypto.codes import values_of
from crypto.differentials import DIFFERENTIALS_KIND, STEP, Differentials, GroupLine, Line, Trait
from crypto.embedding import quantised_directions
from crypto.errors import AgencyStatementError, CryptoError, FieldError, UnknownAgencyError
from crypto.ring import F64
from crypto.signed import read_document, sign_document
from tests.described_gallery import CAPTURED, MODEL, NODE, Group, Made, made, measuring_of, store_of
from tests.node_samples import not_entered
from tests.sample_federation import LAKESIDE, NOW, OVERSIGHT, roster, signing_key

ALIKE = Group(1600, sex="m", race="b", born=1960, alike=0.25)
UNLIKE = Group(1600, sex="f", race="w", born=1995)
FEW = Group(12, sex="x", race="i", born=2006)
RATE = 0.01


@pytest.fixture(scope="module")
def enrolled() -> Made:
    return made(ALIKE, UNLIKE, FEW)


@pytest.fixture(scope="module")
def store(enrolled: Made, tmp_path_factory: pytest.TempPathFactory) -> RecordStore:
    return store_of(tmp_path_factory.mktemp("gallery"), enrolled.records())


@pytest.fixture(scope="module")
def measured(store: RecordStore) -> Differentials:
    return read(measuring_of(store).newest(Asked(RATE), NOW, NoProgress()))


def read(data: bytes) -> Differentials:
    return Differentials.read_own(data, NODE.verifying_key)


def line_of(said: Differentials, by: Trait, label: str) -> Line:
    (found,) = [one.line for one in said.groups if (one.by, one.label) == (by, label)]
    return found


def fresh(folder: Path, *groups: Group, **named: Any) -> Differentials:
    return read(measuring_of(store_of(folder, made(*groups, **named).records())).newest(Asked(RATE), NOW, NoProgress()))


# --- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.rule("R64")
def test_a_group_that_the_model_tells_apart_less_well_comes_out_higher(measured: Differentials) -> None:
    """R64: by each trait, with intervals that do not meet; everybody's rate is what was asked for."""
    whole = measured.everybody.false_match_rate()
    assert whole is not None
    assert whole.value is not None
    assert RATE / 2 < whole.value <= RATE
    for trait, worse, better in ((Trait.SEX, "m", "f"), (Trait.RACE, "b", "w"), (Trait.AGE, "50 to 64", "20 to 34")):
        high, low = line_of(measured, trait, worse).false_match_rate(), line_of(measured, trait, better).false_match_rate()
        assert high is not None
        assert low is not None
        assert high.low > 2 * low.high, trait


@pytest.mark.rule("R64")
def test_rates_agree_with_all_pairs_in_plain_numpy(measured: Differentials, enrolled: Made) -> None:
    """R64: every pair of the whole group, from the vectors before they were quantised, in floating point."""
    for trait, label, attribute in ((Trait.SEX, "m", "sex"), (Trait.SEX, "f", "sex"), (Trait.RACE, "b", "race"), (Trait.RACE, "w", "race")):
        rows = [row for row, who in enumerate(enrolled.who) if getattr(who, attribute) == label]
        false_match, false_non_match = by_hand(enrolled.units[rows], [enrolled.who[row].person for row in rows], measured.cosine / 100)
        line = line_of(measured, trait, label)
        matches, misses = line.false_match_rate(), line.false_non_match_rate()
        assert matches is not None
        assert misses is not None
        assert matches.low <= false_match <= matches.high, (trait, label)
        assert misses.low <= false_non_match <= misses.high, (trait, label)
        assert misses.value is None or misses.low <= misses.value <= misses.high


@pytest.mark.rule("R64")
def test_an_interval_is_wider_where_some_persons_err_more_than_others(measured: Differentials) -> None:
    """R64: persons near what a group has in common are taken for many; all of its errors lie on few of them."""
    assert line_of(measured, Trait.SEX, "m").spread >= 3
    assert line_of(measured, Trait.SEX, "f").spread <= 2


def by_hand(units: F64, persons: list[str], cosine: float) -> tuple[float, float]:
    scores = units @ units.T >= cosine
    numbers = np.unique(persons, return_inverse=True)[1]
    same = numbers[:, None] == numbers[None, :]
    off = ~np.eye(len(units), dtype=bool)
    return float(scores[~same].mean()), float(1 - scores[same & off].mean())


@pytest.mark.rule("R64")
def test_the_error_of_pictures_of_one_person_is_counted_by_group(tmp_path: Path) -> None:
    """R64: pictures of one group lie further apart, and more of its persons are not known again."""
    said = fresh(tmp_path, replace(UNLIKE, sex="m", shaky=2.2), UNLIKE)
    high, low = line_of(said, Trait.SEX, "m").false_non_match_rate(), line_of(said, Trait.SEX, "f").false_non_match_rate()
    assert high is not None
    assert low is not None
    assert high.low > 0.1 > low.high
    assert low.value is None  # fewer than five
    ratio = said.ratio(line_of(said, Trait.SEX, "m"), Line.false_non_match_rate)
    assert ratio is not None
    assert ratio > 1.5


def test_what_is_compared_is_what_the_codes_stand_for() -> None:
    rng = np.random.default_rng(3)
    codes = np.concatenate([rng.integers(-127, 128, (9, 64), np.int8), np.zeros((1, 64), np.int8)])
    values = values_of(codes).astype(np.float64)
    chosen = np.array([9, 4, 4, 0])
    units = units_of(codes, chosen)
    assert units.dtype == np.float32
    assert np.allclose(units[1:], (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1))[chosen[1:]], atol=1e-6)
    assert not units[0].any()


@pytest.mark.parametrize(("persons", "others"), [(50, 5), (257, 25), (600, 60), (3, 1), (520, 1), (1, 0), (0, 0)])
def test_each_person_meets_the_next_few_and_no_pair_meets_twice(persons: int, others: int) -> None:
    units = made(Group(max(persons, 1)), pictures=1, seed=persons).units.astype(np.float32)[:persons]
    expected = [[float(units[i] @ units[(i + k) % persons]) for k in range(1, others + 1)] for i in range(persons)]
    assert np.allclose(following_of(units, others), np.array(expected).reshape(persons, others), atol=1e-6)
    assert others <= max(persons - 1, 0) / 2  # then i meets j or j meets i, never both


@pytest.mark.rule("R62")
@given(st.integers(0, 10**6))
def test_a_count_is_rounded_to_a_neighbour_and_right_on_average(count: int) -> None:
    """R62: never by five; one more shows in one of five draws."""
    shown = [in_fives(count, luck) for luck in range(STEP)]
    assert all(one % STEP == 0 and abs(one - count) < STEP for one in shown)
    assert sum(shown) == STEP * count
    assert sum(one != in_fives(count + 1, luck) for luck, one in enumerate(shown)) == 1


# --- who takes part ---------------------------------------------------------------------------------------------------


def test_who_takes_part_is_searchable_and_says_whom_it_shows(tmp_path: Path) -> None:
    told = made(Group(40))
    nobody = replace(told.records()[0], record_number="L-nobody", described=Described(sex="f"))
    store = store_of(tmp_path, [*told.records(), nobody])
    store.expunge("L-000003", ExpungeReason.ERROR, NOW, not_entered)
    withdraw(store, 5)
    takers = takers_of(store, Vault(bytes(32)), NoProgress())
    assert takers.rows.tolist() == [row for row in range(80) if row not in {3, 5}]
    assert len(np.unique(takers.persons)) == 40


def withdraw(store: RecordStore, row: int) -> None:
    from agency_node.gallery_tables import record_dispositions  # noqa: PLC0415

    with store._engine.begin() as connection:
        values = {"row": row, "unsearchable": "dismissed", "disposed_on": "2026-01-01", "checked_at": "2026-01-01"}
        connection.execute(record_dispositions.insert().values(**values))


def test_sex_and_race_are_the_persons_and_age_is_the_pictures(tmp_path: Path) -> None:
    said = [("P1", "f", "w", 2005), ("P1", "", "w", 2005), ("P2", "m", "", None), ("P2", "f", "b", 1990), ("P3", "", "", 1959)]
    units = made(Group(len(said)), pictures=1).units
    store = store_of(tmp_path, Made(units, [Described(*one) for one in said]).records())
    takers = takers_of(store, Vault(bytes(32)), NoProgress())
    assert shown(takers, Trait.SEX) == ["f", "f", None, None, None]
    assert shown(takers, Trait.RACE) == ["w", "w", "b", "b", None]
    assert shown(takers, Trait.AGE) == ["under 20", "under 20", None, "20 to 34", "65 and over"]


def shown(takers: Takers, trait: Trait) -> list[str | None]:
    return [takers.labels[trait][code] if code >= 0 else None for code in takers.codes[trait]]


@pytest.mark.rule("R62")
def test_a_person_counts_in_one_table_alone(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """R62: so no group's number follows from everybody's and the other groups', which are of other persons."""
    drawn: list[Any] = []
    monkeypatch.setattr(differentials, "_draw", keeping(drawn, differentials._draw))
    measuring_of(store)._measured(Asked(RATE), NOW, NoProgress())
    takers = takers_of(store, Vault(bytes(32)), NoProgress())
    everybody, *groups = ({*takers.persons[one.places].tolist()} for one in drawn)
    assert len(groups) == 9
    assert not any(everybody & one for one in groups)
    assert sum(map(len, groups)) == len(set.union(*groups))


# --- small groups -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("R62")
def test_a_group_of_fewer_than_five_is_not_named_and_of_fewer_than_fifty_no_error_is_counted(tmp_path: Path) -> None:
    """R62: of 3 persons of one race nothing is shown but that there is such a group; of 120, a quarter of whom stands there, no error."""
    said = fresh(tmp_path, replace(UNLIKE, persons=2500), Group(3, race="rare"), Group(120, race="b"))
    assert [one.label for one in said.groups if one.by is Trait.RACE] == ["b", "w"]
    assert "rare" not in str(said.groups)
    few = line_of(said, Trait.RACE, "b")
    assert (few.false_matches, few.false_non_matches) == (None, None)
    assert 5 <= few.persons <= 50
    assert line_of(said, Trait.RACE, "w").false_matches is not None
    counts = [getattr(line, name) for line in (said.everybody, *(one.line for one in said.groups)) for name in COUNTS]
    assert all(count is None or count % 5 == 0 for count in (*counts, said.records))


COUNTS = ("persons", "false_matches", "twice", "false_non_matches")


def test_too_few_persons_are_refused_with_the_rate_that_they_carry(tmp_path: Path) -> None:
    small = store_of(tmp_path, made(Group(1000)).records())
    with pytest.raises(
        RequestError, match=r"about 2[0-9]+, stands for everybody: too few for 30 errors at a rate of 0\.001; ask for --rate 0\.01 "
    ):
        measuring_of(small).newest(Asked(), NOW, NoProgress())
    assert read(measuring_of(small).newest(Asked(0.01), NOW, NoProgress())).rate == 10_000


def test_a_gallery_that_says_nothing_of_persons_is_told_what_is_missing(tmp_path: Path) -> None:
    told = made(Group(30))
    store = store_of(tmp_path, [NewRecord(f"L-{row}", CAPTURED, "criminal_booking", template(told, row)) for row in range(30)])
    with pytest.raises(RequestError, match="enrol with a column `person`, or name its field in "):
        measuring_of(store).newest(Asked(), NOW, NoProgress())
    few = store_of(tmp_path / "few", told.records())
    for asked in (Asked(), Asked(cosine=0.4)):
        with pytest.raises(RequestError, match="a quarter of the persons stands for everybody, fewer than 50"):
            measuring_of(few).newest(asked, NOW, NoProgress())


def template(told: Made, row: int) -> Any:
    return quantised_directions(told.units[row], MODEL.scales)


@pytest.mark.parametrize(
    ("rate", "cosine", "says"),
    [(0.01, 0.4, "each name"), (0.00001, None, "from 0.0001 to 0.1"), (0.5, None, "from 0.0001"), (None, 1.2, "from -1 to 1")],
)
def test_an_operating_point_that_is_none_is_refused(rate: float | None, cosine: float | None, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Asked(rate, cosine)


# --- the document -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("R64")
def test_the_document_says_who_measured_what_when_and_where(store: RecordStore, measured: Differentials) -> None:
    """R64: model, day, cosine, counts; signed by the holder's node key and nobody else."""
    data = measured.sign(NODE)
    known = roster()
    assert Differentials.read(data, known) == measured
    assert (measured.agency, measured.made_at.date(), measured.model, measured.model_hash) == (
        LAKESIDE,
        NOW.date(),
        MODEL.name,
        MODEL.model_hash,
    )
    assert abs(measured.records - len(store.rows())) < 5
    for forged in (measured.sign(signing_key("somebody")), sign_document(DIFFERENTIALS_KIND, {}, NODE)):
        with pytest.raises(CryptoError):
            Differentials.read(forged, known)
    with pytest.raises(AgencyStatementError):
        Differentials.read(measured.sign(signing_key(f"{OVERSIGHT} node")), known)
    with pytest.raises(UnknownAgencyError):
        Differentials.read(replace(measured, agency=OVERSIGHT).sign(signing_key(f"{OVERSIGHT} node")), known)


@pytest.mark.parametrize(
    "changed",
    [
        {"persons": 101},
        {"false_matches": 1005},
        {"spread": 0},
        {"false_non_matches": 3},
        {"others": 0},
        {"twice": -5},
    ],
)
def test_a_line_that_cannot_be_is_refused(changed: dict[str, int]) -> None:
    with pytest.raises(FieldError):
        replace(Line(100, 10, 1, 20, 100, 5), **changed)


def test_groups_are_named_once(measured: Differentials) -> None:
    one = GroupLine(Trait.SEX, "f", Line(100, 10, 1, 20, 100, 5))
    with pytest.raises(FieldError, match="each group once"):
        replace(measured, groups=(one, one))
    content = read_document(DIFFERENTIALS_KIND, measured.sign(NODE)).unverified_content
    with pytest.raises(FieldError):
        Differentials.read_own(sign_document(DIFFERENTIALS_KIND, {**content, "scores": []}, NODE), NODE.verifying_key)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(50, 500), st.floats(0.0005, 0.2), st.integers(0, 2**32))
def test_an_interval_holds_the_rate_nearly_always(persons: int, rate: float, seed: int) -> None:
    """Twenty gatherings of errors at that rate, in which some persons err more than others: two may lie outside."""
    rng = np.random.default_rng(seed)
    others, inside = persons // 10, 0
    for _ in range(20):
        prone = rng.gamma(4, 1 / 4, persons)
        following = np.stack([np.roll(prone, -place - 1) for place in range(others)], axis=1)
        matched = rng.random((persons, others)) < np.minimum(rate * prone[:, None] * following, 1)
        counts = in_fives(persons, 2), others, int(spread_of(matched) + 0.6), in_fives(int(matched.sum()), 3)
        found = Line(*counts, 0, None).false_match_rate()
        assert found is not None
        inside += found.low <= rate <= found.high
    assert inside >= 16


def test_errors_that_lie_on_few_persons_say_less() -> None:
    alone = np.zeros((200, 20), bool)
    alone[7], alone[50] = True, True
    strewn = np.zeros(4000, bool)
    strewn[np.random.default_rng(1).choice(4000, 40, replace=False)] = True
    assert spread_of(alone) > 10
    assert spread_of(strewn.reshape(200, 20)) < 1.5
    assert spread_of(np.zeros((200, 20), bool)) == spread_of(np.ones((9, 2), bool)) == spread_of(np.zeros((0, 0), bool)) == 1
    wide, narrow = (Line(200, 20, spread, 40, 0, None).false_match_rate() for spread in (12, 1))
    assert wide is not None
    assert narrow is not None
    assert wide.low < narrow.low < 0.01 < narrow.high < wide.high
    nobody = Line(100, 10, 1, 0, 100, 0).false_non_match_rate()
    assert nobody is not None
    assert (nobody.value, nobody.low) == (None, 0.0)
    assert 0.05 < nobody.high < 0.15


# --- again, and what stays of it --------------------------------------------------------------------------------------


def test_a_gallery_is_measured_once_in_thirty_days_unless_its_model_is_another(tmp_path: Path) -> None:
    told = made(replace(UNLIKE, persons=900))
    store = store_of(tmp_path, told.records())
    measuring = measuring_of(store)
    first = measuring.newest(Asked(0.01), NOW, NoProgress())
    store.add(made(Group(5), seed=9).records(100_000), NOW)
    for asked in (Asked(), Asked(0.01)):
        assert measuring.newest(asked, NOW + AGAIN_AFTER - timedelta(seconds=1), NoProgress()) == first
    for asked in (Asked(0.02), Asked(cosine=0.9)):
        with pytest.raises(RequestError, match=r"measured on 20.*leave --rate and --cosine out"):
            measuring.newest(asked, NOW, NoProgress())
    assert measuring.newest(Asked(0.01), NOW + AGAIN_AFTER, NoProgress()) != first
    with store._engine.begin() as connection:
        write_fact(connection, Fact.DIFFERENTIALS, replace(read(first), model_hash=bytes(32)).sign(NODE))
    assert read(measuring.newest(Asked(0.01), NOW, NoProgress())).model_hash == MODEL.model_hash
    with store._engine.begin() as connection:
        events = [str(event) for event in connection.execute(select(ledger.c.event)).scalars()]
    assert events.count("differentials measured") == 3


def test_the_same_gallery_gives_the_same_numbers_and_another_key_others(tmp_path: Path) -> None:
    told = made(replace(UNLIKE, persons=900)).records()
    found = []
    for folder, key in (("a", bytes(32)), ("b", bytes(32)), ("c", bytes([1] * 32))):
        (tmp_path / folder).mkdir()
        found.append(read(measuring_of(store_of(tmp_path / folder, told, key), key).newest(Asked(0.01), NOW, NoProgress())))
    assert found[0] == found[1] != found[2]


def test_who_stands_where_and_who_meets_whom_follow_from_the_key(store: RecordStore) -> None:
    """Each by itself: whoever knows the gallery, and not the key, knows neither."""
    one, other = (takers_of(store, Vault(bytes([number] * 32)), NoProgress()) for number in (1, 2))
    assert 0.2 < (one.persons % 4 == other.persons % 4).mean() < 0.3
    drawn = [measuring_of(store, bytes([number] * 32))._rng(one).integers(2**32) for number in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_given_cosine_is_where_errors_are_counted(tmp_path: Path) -> None:
    measuring = measuring_of(store_of(tmp_path, made(replace(UNLIKE, persons=900)).records()))
    said = read(measuring.newest(Asked(cosine=0.3), NOW, NoProgress()))
    assert (said.cosine, said.rate) == (30, None)


@pytest.mark.parametrize("breaks", [False, True])
def test_templates_and_cosines_are_wiped_also_when_it_breaks_off(store: RecordStore, monkeypatch: pytest.MonkeyPatch, breaks: bool) -> None:
    held: list[Any] = []
    for name in ("units_of", "following_of"):
        monkeypatch.setattr(differentials, name, keeping(held, getattr(differentials, name)))
    monkeypatch.setattr(store, "templates_of", keeping(held, store.templates_of))
    seen: list[bool] = []
    reaching = differentials._reaching

    def looked(*given: Any) -> int:
        seen.append(all(one.any() for one in held if one.size))
        if breaks:
            raise ZeroDivisionError
        return reaching(*given)

    monkeypatch.setattr(differentials, "_reaching", looked)
    with pytest.raises(ZeroDivisionError) if breaks else nothing_raised():
        measuring_of(store)._measured(Asked(RATE), NOW, NoProgress())
    assert seen[0]  # the control: it was there
    assert len(held) >= (5 if breaks else 25)
    assert not any(one.any() for one in held)


def keeping(held: list[Any], of: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose results are kept."""

    def kept(*given: Any) -> Any:
        held.append(of(*given))
        return held[-1]

    return kept


def nothing_raised() -> Any:
    from contextlib import nullcontext  # noqa: PLC0415

    return nullcontext()


def test_templates_of_rows_are_those_rows_and_no_block_is_opened_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, made(Group(1600)).records())
    opened: list[int] = []
    block = store._blocks.block

    def opening(connection: Any, number: int) -> Any:
        opened.append(number)
        return block(connection, number)

    monkeypatch.setattr(store._blocks, "block", opening)
    rows = np.array([3, 1023, 2048, 3199])
    everything = store.templates()
    opened.clear()
    assert (store.templates_of(rows) == everything[rows]).all()
    assert opened == [0, 2, 3]
    assert store.templates_of(rows[:0]).shape == (0, 64)


def test_records_that_went_meanwhile_stop_the_measurement(tmp_path: Path) -> None:
    store = store_of(tmp_path, made(replace(UNLIKE, persons=900)).records())

    class Expunging(NoProgress):
        def advance(self, count: int = 1) -> None:
            if store.has("L-000007") and store.holds(7):
                store.expunge("L-000007", ExpungeReason.ERROR, NOW, not_entered)

    with pytest.raises(RequestError, match="taken out of the gallery while it was measured"):
        measuring_of(store).newest(Asked(0.01), NOW, Expunging())


def test_ages_are_years_between_years() -> None:
    found = {year: dict(differentials._traits(Described("P", birth_year=year), 2026))[Trait.AGE] for year in AGES}
    assert found == AGES
    assert date(2026, 1, 1).year == 2026


AGES = {1880: "65 and over", 1961: "65 and over", 1962: "50 to 64", 1991: "35 to 49", 1992: "20 to 34", 2006: "20 to 34", 2007: "under 20"}
