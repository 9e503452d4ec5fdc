"""How often the node's face model errs with the gallery's own records, by sex, race and age (R64): rates come out, no record does.

Two records of one person are a genuine pair, records of two persons of one group an impostor pair, as NISTIR 8280 pairs them. A record is
compared with no picture that is brought along, only with others of the gallery, and nobody is told which. Still the outcome says something
of every pair in it, and who enrols pictures labels them as he likes; so that the command answers no question about one record:

1. Each person takes part in one table alone: everybody, sex, race or age. Which one follows from a keyed tag of the person's number.
2. In a table each person is compared with a few others, with one record each, and once with himself: persons stand in a circle, in an
   order that is drawn, each against the next tenth of it at most. Whether a picture met another one nobody is told.
3. A group of fewer than five persons is not named (R62); errors are counted where there are at least fifty.
4. Every count is rounded to a multiple of five, up or down by a draw, so that one more is seen in one of five cases. The cosine at which
   errors are counted is in hundredths and follows from rounded counts.
5. Draws follow from the at-rest key and from what is compared: the same gallery gives the same numbers. A gallery is measured once in
   thirty days, and until then the same document is shown; only another face model makes a new one at once.

Who holds the node's keys could compare what he likes with a program of his own; this one leaves rows in the ledger. Invariants: records
that no search finds take part in nothing; templates and cosines lie in arrays that are wiped; nothing is sent. Left to others: what the
document says (`crypto.differentials`), how records are read (`records`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Engine

from agency_node.errors import RequestError
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.holder.blocks import BLOCK_ROWS
from agency_node.holder.groups import Described
from agency_node.holder.progress import Progress
from agency_node.holder.records import RecordStore
from agency_node.journal import NO_SEARCH, record
from agency_node.vault import Vault
from crypto import entry_counts
from crypto.canonical import AgencyId
from crypto.codes import Codes
from crypto.differentials import MAX_GROUPS, MILLION, STEP, Differentials, GroupLine, Line, Trait
from crypto.embedding import F32
from crypto.keys import SigningKey
from crypto.limits import MAX_MODEL_NAME
from crypto.moments import round_moment
from crypto.parameters import TAIL_START, TAIL_STEP
from crypto.ring import I64

AGAIN_AFTER: Final = timedelta(days=30)
DEFAULT_RATE: Final = 0.001
MOST_PERSONS: Final = 2000
"""Of one group; more would make the intervals no better than the records are."""
FEWEST_PERSONS: Final = 50
"""Whose errors are counted: fewer say nothing, and a few known persons around one unknown one say something of him."""
SHARE_COMPARED: Final = 10
"""A person is compared with the next one in so many of his group at most, and so with a given other person in one of five draws."""
RULE_OF_30: Final = 30
"""Errors without which a rate is not taken for measured (G. Doddington et al., Speech Communication 31, 2000)."""
MOST_OTHERS: Final = 200
_AGES: Final = ((20, "under 20"), (35, "20 to 34"), (50, "35 to 49"), (65, "50 to 64"), (1000, "65 and over"))
_ROWS_AT_ONCE: Final = 256
_NONE: Final = -1
_RATES: Final = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_PERSON_TAG: Final = "differentials-person"
_DRAW_TAG: Final = "differentials-draw"
U64 = npt.NDArray[np.uint64]
I16 = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Asked:
    """At which operating point: a rate of false matches of everybody, or a cosine; neither for `DEFAULT_RATE`."""

    rate: float | None = None
    cosine: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.cosine is not None:
            raise RequestError("--rate and --cosine each name an operating point: give one of them")
        if self.rate is not None and not _RATES[0] <= self.rate <= _RATES[-1]:
            raise RequestError(f"a rate of false matches lies from {_RATES[0]} to {_RATES[-1]}: name one, e.g. --rate {DEFAULT_RATE}")
        if self.cosine is not None and not -1 <= self.cosine <= 1:
            raise RequestError("a cosine lies from -1 to 1: name one, e.g. --cosine 0.4")


@dataclass(frozen=True, eq=False)
class Takers:
    """Records that take part: their rows ascending, the tags of their persons, and by trait which label each has (-1 for none)."""

    rows: I64 = field(repr=False)
    persons: U64 = field(repr=False)
    codes: dict[Trait, I16] = field(repr=False)
    labels: dict[Trait, list[str]] = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What is compared in one group: places in `Takers`. `circle` has a record of each person, `first` and `second` pairs of one person."""

    circle: I64 = field(repr=False)
    first: I64 = field(repr=False)
    second: I64 = field(repr=False)
    luck: tuple[int, ...] = field(repr=False)
    """Of the rounding of persons, false matches, persons with two pictures, false non-matches, spread."""

    @property
    def persons(self) -> int:
        """In fives."""
        return in_fives(len(self.circle), self.luck[0])

    @property
    def others(self) -> int:
        """With how many of those that follow a person is compared; no pair meets twice."""
        return min(self.persons // SHARE_COMPARED, MOST_OTHERS, max(len(self.circle) - 1, 0) // 2)

    @property
    def places(self) -> I64:
        return np.concatenate([self.circle, self.first, self.second])


class Measuring:
    """The measurement of one gallery."""

    def __init__(self, agency: AgencyId, engine: Engine, vault: Vault, node_key: SigningKey, store: RecordStore) -> None:
        self._agency, self._engine, self._vault, self._node_key, self._store = agency, engine, vault, node_key, store

    def newest(self, asked: Asked, now: datetime, progress: Progress) -> bytes:
        """The signed measurement: the last one for thirty days, unless the face model is another one since; else a new one.

        `RequestError` when another operating point is asked for meanwhile, and when too few records say whom they show.
        """
        with self._engine.begin() as connection:
            data = read_fact(connection, Fact.DIFFERENTIALS)
        if data is not None:
            last = Differentials.read_own(data, self._node_key.verifying_key)
            if last.model_hash == self._store.model.model_hash and now - last.made_at < AGAIN_AFTER:
                _check_asked(asked, last)
                return data
        found = self._measured(asked, now, progress)
        data = found.sign(self._node_key)
        with self._engine.begin() as connection:
            write_fact(connection, Fact.DIFFERENTIALS, data)
            record(connection, now, NO_SEARCH, "differentials measured", f"cosine {found.cosine}/100, {len(found.groups)} groups")
        return data

    def _measured(self, asked: Asked, now: datetime, progress: Progress) -> Differentials:
        state = self._store.state()
        blocks = -(-state.total // BLOCK_ROWS)
        progress.text("Measuring by groups")
        progress.total(2 * blocks)
        takers = takers_of(self._store, self._vault, progress)
        rng = self._rng(takers)
        own = {part: part_of(takers.persons, number) for number, part in enumerate((None, *Trait))}
        everybody = _draw(rng, takers.persons, own[None], own[None])
        _check_enough(asked, everybody)
        groups = {
            (trait, takers.labels[trait][code]): _draw(rng, takers.persons, own[trait][takers.codes[trait][own[trait]] == code], own[trait])
            for trait in Trait
            for code in _largest(takers, trait, own[trait])
        }
        named = {name: drawn for name, drawn in groups.items() if len(drawn.circle) >= entry_counts.MIN_CELL}
        there = {trait: set(takers.codes[trait][own[trait]].tolist()) - {_NONE} for trait in Trait}
        withheld = tuple(trait for trait in Trait if len(there[trait]) > sum(by is trait for by, _ in named))
        places = np.unique(np.concatenate([everybody.places, *(drawn.places for drawn in named.values())]))
        codes = self._store.templates_of(takers.rows[places], progress.advance)
        try:
            with _scores_of(everybody, codes, places) as (impostors, genuine):
                cosine = _operating_point(asked, everybody, impostors)
                whole = _line(everybody, impostors, genuine, cosine)
            lines = []
            for (trait, label), drawn in named.items():
                with _scores_of(drawn, codes, places) as (impostors, genuine):
                    lines.append(GroupLine(trait, label, _line(drawn, impostors, genuine, cosine)))
        finally:
            codes.fill(0)
        if self._store.state().out - state.out:
            raise RequestError("records were taken out of the gallery while it was measured: run the command again")
        return Differentials(
            agency=self._agency,
            made_at=round_moment(now),
            model=self._store.model.name[:MAX_MODEL_NAME],
            model_hash=self._store.model.model_hash,
            records=in_fives(len(takers.rows), int(rng.integers(STEP))),
            rate=None if asked.cosine is not None else round((asked.rate or DEFAULT_RATE) * MILLION),
            cosine=cosine,
            everybody=whole,
            groups=tuple(lines),
            withheld=withheld,
        )

    def _rng(self, takers: Takers) -> np.random.Generator:
        """Secret draws that are the same for the same gallery: whoever asks again learns nothing new."""
        compared = hashlib.sha256(self._store.model.model_hash)
        arrays: list[npt.NDArray[np.integer]] = [takers.rows, takers.persons, *takers.codes.values()]
        for array in arrays:
            compared.update(array.tobytes())
        return np.random.default_rng(np.frombuffer(self._vault.tag(_DRAW_TAG, compared.digest()), np.uint32))

    def __repr__(self) -> str:
        return f"Measuring({self._agency})"


def takers_of(store: RecordStore, vault: Vault, progress: Progress) -> Takers:
    """The searchable records that say whom they show; `RequestError` when there is none.

    Sex and race are the person's: they stand for all his records where those that say something agree, and for none where they do not.
    """
    state = store.state()
    rows: list[int] = []
    persons: list[int] = []
    said: dict[Trait, list[int]] = {trait: [] for trait in Trait}
    labels: dict[Trait, dict[str, int]] = {trait: {} for trait in Trait}
    labels[Trait.AGE] = {label: code for code, (_, label) in enumerate(_AGES)}
    for first in range(0, state.total, BLOCK_ROWS):
        for row, captured, who in store.descriptions(first, min(first + BLOCK_ROWS, state.total)):
            if not who.person or row in state.out:
                continue
            rows.append(row)
            persons.append(int.from_bytes(vault.tag(_PERSON_TAG, who.person.encode())[:8]))
            for trait, label in _traits(who, captured.year):
                said[trait].append(labels[trait].setdefault(label, len(labels[trait])) if label else _NONE)
        progress.advance()
    if not rows:
        says = "no record that searches find says which person it shows, so nothing can be compared"
        raise RequestError(f"{says}: enrol with a column `person`, or name its field in [itl] of node.toml")
    codes = {trait: np.array(said[trait], np.int32) for trait in Trait}
    tags = np.array(persons, np.uint64)
    for trait in (Trait.SEX, Trait.RACE):
        codes[trait] = _agreed(tags, codes[trait])
    kept = {trait: np.where(of < np.iinfo(np.int16).max, of, _NONE).astype(np.int16) for trait, of in codes.items()}
    return Takers(np.array(rows, np.int64), tags, kept, {trait: list(of) for trait, of in labels.items()})


def part_of(persons: U64, part: int) -> I64:
    """The places of those persons who stand in one of the four tables."""
    return np.flatnonzero(persons % np.uint64(1 + len(Trait)) == np.uint64(part))


def _traits(who: Described, year: int) -> Iterator[tuple[Trait, str]]:
    yield Trait.SEX, who.sex
    yield Trait.RACE, who.race
    age = None if who.birth_year is None else year - who.birth_year
    yield Trait.AGE, "" if age is None else next(label for below, label in _AGES if age < below)


def _agreed(persons: U64, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Each person's one label for all his records, none where his records name two."""
    _, number = np.unique(persons, return_inverse=True)
    largest = np.full(number.max() + 1, _NONE, np.int32)
    smallest = np.full(number.max() + 1, np.iinfo(np.int32).max, np.int32)
    np.maximum.at(largest, number, codes)
    np.minimum.at(smallest, number[codes != _NONE], codes[codes != _NONE])
    return np.where(largest == smallest, largest, _NONE)[number]


def _largest(takers: Takers, trait: Trait, own: I64) -> list[int]:
    """The trait's labels with the most records, by name; ages as they rise."""
    codes, counts = np.unique(takers.codes[trait][own], return_counts=True)
    by_count = sorted((-int(count), int(code)) for code, count in zip(codes, counts, strict=True) if code != _NONE)
    chosen = sorted(code for _, code in by_count[:MAX_GROUPS])
    return chosen if trait is Trait.AGE else sorted(chosen, key=lambda code: takers.labels[trait][code])


def _draw(rng: np.random.Generator, persons: U64, group: I64, part: I64) -> _Drawn:
    """Draw who is compared in a group; the second picture of a person may be of another group (of another age)."""
    circle = _one_each(rng, persons, group)[:MOST_PERSONS]
    by_person = part[np.argsort(persons[part], kind="stable")]
    ordered = persons[by_person]
    first: list[np.int64] = []
    second: list[np.int64] = []
    for place in _one_each(rng, persons, group):
        of_person = by_person[np.searchsorted(ordered, persons[place]) : np.searchsorted(ordered, persons[place], "right")]
        if len(first) == MOST_PERSONS:
            break
        if len(of_person) > 1:
            first.append(place)
            second.append(rng.choice(of_person[of_person != place]))
    luck = tuple(int(one) for one in rng.integers(STEP, size=5))
    return _Drawn(circle, np.array(first, np.int64), np.array(second, np.int64), luck)


def _one_each(rng: np.random.Generator, persons: U64, places: I64) -> I64:
    """One of the places of each person, persons in an order that is drawn."""
    mixed = rng.permutation(places)
    _, firsts = np.unique(persons[mixed], return_index=True)
    return rng.permutation(mixed[firsts])


def in_fives(count: int, luck: int) -> int:
    """A count as it is shown: the multiple of five below or above, the nearer one the likelier; `luck` is drawn from 0 to 4."""
    return STEP * ((count + luck) // STEP)


def _check_enough(asked: Asked, everybody: _Drawn) -> None:
    """`RequestError` when so few persons cannot show the rate that is asked for by enough errors."""
    persons, wanted = everybody.persons, asked.rate or DEFAULT_RATE
    enough = len(everybody.circle) >= FEWEST_PERSONS
    carried = [rate for rate in _RATES if enough and persons * everybody.others * rate >= RULE_OF_30]
    if not carried:
        says = f"a quarter of the persons stands for everybody, fewer than {max(persons + STEP, FEWEST_PERSONS)}: too few to show errors"
        raise RequestError(f"{says}; enrol more records with their `person`")
    if asked.cosine is None and persons * everybody.others * wanted < RULE_OF_30:
        says = f"a quarter of the persons, about {persons}, stands for everybody: too few for {RULE_OF_30} errors"
        raise RequestError(f"{says} at a rate of {wanted:g}; ask for --rate {carried[0]:g} or more")


@contextmanager
def _scores_of(drawn: _Drawn, codes: Codes, places: I64) -> Iterator[tuple[F32, F32]]:
    """The cosines of each person with those that follow in the circle, and with himself; then wiped."""
    held: list[F32] = []
    try:
        for chosen in (drawn.circle, drawn.first, drawn.second):
            held.append(units_of(codes, np.searchsorted(places, chosen)))
        held.append(following_of(held[0], drawn.others))
        held.append(np.einsum("ij,ij->i", held[1], held[2]))
        yield held[3], held[4]
    finally:
        for array in held:
            array.fill(0)


def units_of(codes: Codes, chosen: I64) -> F32:
    """Templates as what their codes stand for (`crypto.codes`), at length 1; float32[n, D]. The caller wipes them."""
    out = np.empty((len(chosen), codes.shape[1]), np.float32)
    inner = np.empty(codes.shape[1], np.float32)
    for number, one in enumerate(chosen):
        row = out[number]
        row[:] = codes[one]
        np.clip(row, -TAIL_START, TAIL_START, out=inner)
        row -= inner
        row *= TAIL_STEP
        row += inner
        row /= max(float(np.linalg.norm(row)), 1.0)
    inner.fill(0)
    return out


def following_of(units: F32, others: int) -> F32:
    """The cosine of each person with each of the next `others`, the first following the last; float32[n, others]. The caller wipes it."""
    persons = len(units)
    out = np.empty((persons, others), np.float32)
    for first in range(0, persons if others else 0, _ROWS_AT_ONCE):
        part = units[first : first + _ROWS_AT_ONCE]
        following = units[(first + 1 + np.arange(len(part) + others - 1)) % persons]
        cosines = part @ following.T
        for row in range(len(part)):
            out[first + row] = cosines[row, row : row + others]
        following.fill(0)
        cosines.fill(0)
    return out


def _operating_point(asked: Asked, everybody: _Drawn, impostors: F32) -> int:
    """In hundredths: what was given, or the lowest cosine at which there are as few errors, as they are shown, as the rate allows."""
    if asked.cosine is not None:
        return round(asked.cosine * 100)
    most = everybody.persons * everybody.others * (asked.rate or DEFAULT_RATE)
    return next(cosine for cosine in range(-100, 102) if cosine > 100 or _reaching(impostors, cosine, everybody.luck[1]) <= most)


def _line(drawn: _Drawn, impostors: F32, genuine: F32, cosine: int) -> Line:
    twice = in_fives(len(drawn.first), drawn.luck[2])
    matched = _reaching(impostors, cosine, drawn.luck[1])
    missed = in_fives(int(np.count_nonzero(genuine < cosine / 100)), drawn.luck[3])
    enough = len(drawn.circle) >= FEWEST_PERSONS
    return Line(
        drawn.persons,
        drawn.others,
        int(spread_of(impostors >= cosine / 100) + (drawn.luck[4] + 1) / STEP) if enough else 1,
        min(matched, drawn.persons * drawn.others) if enough else None,
        twice,
        min(missed, twice) if len(drawn.first) >= FEWEST_PERSONS else None,
    )


def _reaching(impostors: F32, cosine: int, luck: int) -> int:
    return in_fives(int(np.count_nonzero(impostors >= cosine / 100)), luck)


def spread_of(matched: npt.NDArray[np.bool_]) -> float:
    """How many times as large as of independent comparisons the variance of their sum is, 1 at least; bool[n, others] of a circle in.

    Comparisons that share a person go together: the variance is that of the persons' own sums, each comparison being in two of them.
    """
    total, share = int(matched.sum()), float(matched.mean()) if matched.size else 0.0
    if not 0 < share < 1:
        return 1.0
    of_person = matched.sum(axis=1)
    for place in range(matched.shape[1]):
        of_person = of_person + np.roll(matched[:, place], place + 1)
    return max(float(((of_person - of_person.mean()) ** 2).sum()) / (total * (1 - share)) - 1, 1.0)


def _check_asked(asked: Asked, last: Differentials) -> None:
    rate = None if asked.rate is None else round(asked.rate * MILLION)
    cosine = None if asked.cosine is None else round(asked.cosine * 100)
    if (rate is not None and rate != last.rate) or (cosine is not None and cosine != last.cosine):
        again = (last.made_at + AGAIN_AFTER).date().isoformat()
        says = f"this gallery was measured on {last.made_at.date().isoformat()}, and is measured anew from {again} on"
        raise RequestError(f"{says}: leave --rate and --cosine out to see what was found")
