"""Who enrols pictures asks the measurement by groups about one record: is this person that one (R57, R62)?

He knows everything of the gallery but the at-rest key and the one answer, enrols what he likes under labels that he likes, and reads the
report. Each attack is played in two worlds that differ in the answer alone, under many at-rest keys; he sees one report of one world.
`told_apart` is the share of keys under which the worlds' reports differ at all: no reading of one report tells them apart more often. The
control counts exactly and compares everybody, and its reports always differ.

What remains is played too: `test_what_remains_takes_hundreds_of_pictures`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agency_node.holder import differentials
from agency_node.holder.differentials import Asked, Measuring
from agency_node.holder.groups import Described
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.vault import Vault
from crypto.differentials import Differentials
from crypto.embedding import F32
from crypto.ring import F64
from tests.described_gallery import NODE, Group, Made, made, one_of, store_of
from tests.sample_federation import LAKESIDE, NOW

AT_A_COSINE = Asked(cosine=0.6)
"""Strangers of these galleries stay below it, pictures of one person above."""
KEYS = 60
ONE_IN_FIVE = 0.2 + 3 * (0.2 * 0.8 / KEYS) ** 0.5
"""With three standard deviations of so many keys."""
GROUP = Group(320, sex="m", race="w", born=1980, shaky=0.2)
RANDOM = np.random.default_rng(8)


def told_apart(folder: Path, match: Made, other: Made) -> float:
    """Under which share of keys the reports of both worlds differ."""
    assert match.who == other.who  # what he labels is the same in both
    stores = [store_of(folder / name, world.records()) for name, world in (("match", match), ("other", other))]
    return float(np.mean([report(stores[0], number) != report(stores[1], number) for number in range(KEYS)]))


def report(store: RecordStore, number: int) -> Differentials:
    """What the command shows of that gallery when the draws follow from that key."""
    measuring = Measuring(LAKESIDE, store._engine, Vault(number.to_bytes(32, "big")), NODE, store)
    return measuring._measured(AT_A_COSINE, NOW, NoProgress())


def rows_of(world: Made, person: str) -> list[int]:
    return [row for row, who in enumerate(world.who) if who.person == person]


def with_face(world: Made, row: int, face: F64) -> Made:
    units = world.units.copy()
    units[row] = face / np.linalg.norm(face)
    return replace(world, units=units)


def planted(world: Made, faces: list[F64], who: list[Described]) -> Made:
    units = np.stack([*world.units, *(face / np.linalg.norm(face) for face in faces)])
    return Made(units, [*world.who, *who])


def probe_of(world: Made, person: str) -> F64:
    """A new picture of that person."""
    return np.asarray(world.units[rows_of(world, person)[0]] + 0.2 * one_of(RANDOM))


def copies(face: F64, count: int, sex: str = "m", race: str = "w") -> tuple[list[F64], list[Described]]:
    """So many pictures of a face, each under a new person's number."""
    return [face + 0.1 * one_of(RANDOM) for _ in range(count)], [Described(f"Z-{n:04d}", sex, race, 1980) for n in range(count)]


def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: every person in every table, compared with everybody, every error counted as it is."""
    monkeypatch.setattr(differentials, "in_fives", lambda count, _luck: 5 * count)
    monkeypatch.setattr(differentials, "SHARE_COMPARED", 1)
    monkeypatch.setattr(differentials, "MOST_OTHERS", 10**6)
    monkeypatch.setattr(differentials, "part_of", lambda persons, _part: np.arange(len(persons)))


@pytest.mark.parametrize("known_errors", [0, 3])
def test_a_strangers_record_under_a_persons_number_shows_in_one_report_of_five_at_most(tmp_path: Path, known_errors: int) -> None:
    """R57, R62: also where he brings the count to the edge of what is shown, by persons of whom he knows that they are not known again."""
    world = made(GROUP)
    for number in range(known_errors):
        world = with_face(world, rows_of(world, f"P-0-{100 + number:05d}")[1], one_of(RANDOM))
    second = rows_of(world, "P-0-00007")[1]
    assert told_apart(tmp_path, world, with_face(world, second, one_of(RANDOM))) <= ONE_IN_FIVE


@pytest.mark.parametrize("count", [1, 20])
def test_a_person_enrolled_again_as_others_shows_in_one_report_of_five_at_most(tmp_path: Path, count: int) -> None:
    """R57, R62: one picture, five, twenty, each as another person of the same group: somebody there, or somebody who is not."""
    world = made(GROUP)
    match, other = (planted(world, *copies(face, count)) for face in (probe_of(world, "P-0-00007"), one_of(RANDOM)))
    assert told_apart(tmp_path, match, other) <= ONE_IN_FIVE


@given(st.integers(60, 300), st.integers(0, 2**32), st.sampled_from([0.02, 0.05, 0.1]))
def test_the_cosine_that_belongs_to_a_rate_says_no_more(persons: int, seed: int, rate: float) -> None:
    """R57: one pair more, however alike, gives what another draw gives without it: of five draws four look the same."""
    cosines = np.random.default_rng(seed).normal(0, 0.15, (persons, persons // 10)).astype(np.float32)
    more = cosines.copy()
    more[np.unravel_index(cosines.argmin(), cosines.shape)] = 0.99
    shown = [Counter(shown_of(one, luck, rate) for luck in range(5)) for one in (cosines, more)]
    assert (shown[0] & shown[1]).total() >= 4


def shown_of(cosines: F32, luck: int, rate: float) -> tuple[int, int]:
    """The cosine, and how many false matches everybody's line has at it, when that is drawn for its rounding."""
    none = np.zeros(0, np.int64)
    everybody = differentials._Drawn(np.arange(len(cosines)), none, none, (0, luck, 0, 0, 0))
    cosine = differentials._operating_point(Asked(rate=rate), everybody, cosines)
    return cosine, differentials._reaching(cosines, cosine, luck)


@pytest.mark.parametrize("attack", ["under a person's number", "as another person"])
def test_control_exact_counts_answer_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    exact(monkeypatch)
    world = made(replace(GROUP, persons=80))
    match = other = world
    if attack == "as another person":
        match, other = (planted(world, *copies(face, 1)) for face in (probe_of(world, "P-0-00007"), one_of(RANDOM)))
    else:
        other = with_face(world, rows_of(world, "P-0-00007")[1], one_of(RANDOM))
    assert told_apart(tmp_path, match, other) > 0.95


def test_what_remains_takes_hundreds_of_pictures(tmp_path: Path) -> None:
    """Who enrols 320 pictures of one face as 320 persons of a group that has one more person sees whether he is that one."""
    one = made(Group(1, sex="x", race="rare", born=None, shaky=0.2))
    match, other = (planted(one, *copies(face, 320, "x", "rare")) for face in (probe_of(one, "P-0-00000"), one_of(RANDOM)))
    assert told_apart(tmp_path, match, other) > 0.5
