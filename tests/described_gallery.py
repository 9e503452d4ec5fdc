"""A gallery of synthetic persons in groups, for measuring: two records each, in groups that a face model tells apart less well than others.

A person of a group is a direction of which a share lies along one that the whole group has in common, so that two of its persons have a
cosine of about that share; his records are noise around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from agency_node.holder.candidates import BOOKING
from agency_node.holder.differentials import Measuring
from agency_node.holder.groups import Described
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.store import DATABASE_FILE, open_store
from agency_node.vault import Vault
from crypto.embedding import EmbeddingModel, quantised_directions
from crypto.ring import F64
from tests.sample_federation import LAKESIDE, NOW, signing_key
from tests.simulation import isotropic_model

D = 64
MODEL = isotropic_model(D)
CAPTURED = date(2024, 5, 3)
NODE = signing_key(f"{LAKESIDE} node")


@dataclass(frozen=True)
class Group:
    """So many persons with these labels; `alike` is the cosine of two of them, `shaky` how far two pictures of one lie apart."""

    persons: int
    sex: str = "f"
    race: str = "w"
    born: int | None = 1990
    alike: float = 0.0
    shaky: float = 0.3


@dataclass(frozen=True)
class Made:
    """What was enrolled, row by row."""

    units: F64
    who: list[Described]

    def records(self, first: int = 0, model: EmbeddingModel = MODEL) -> list[NewRecord]:
        templates = quantised_directions(self.units, model.scales)
        shown = zip(templates, self.who, strict=True)
        return [NewRecord(f"L-{first + row:06d}", CAPTURED, BOOKING, one, described=who) for row, (one, who) in enumerate(shown)]


def made(*groups: Group, seed: int = 1, pictures: int = 2, dimensions: int = D) -> Made:
    """Persons of these groups, in an order that mixes them."""
    rng = np.random.default_rng(seed)
    units, who = [], []
    for number, group in enumerate(groups):
        common = one_of(rng, dimensions)
        for person in range(group.persons):
            own = np.sqrt(group.alike) * common + np.sqrt(1 - group.alike) * one_of(rng, dimensions)
            described = Described(f"P-{number}-{person:05d}", group.sex, group.race, group.born)
            units += [own + group.shaky * one_of(rng, dimensions) for _ in range(pictures)]
            who += [described] * pictures
    mixed = rng.permutation(len(units))
    stacked = np.stack(units)[mixed]
    return Made(stacked / np.linalg.norm(stacked, axis=1, keepdims=True), [who[place] for place in mixed])


def one_of(rng: np.random.Generator, dimensions: int = D) -> F64:
    direction = rng.standard_normal(dimensions)
    return np.asarray(direction / np.linalg.norm(direction))


def store_of(folder: Path, records: list[NewRecord], key: bytes = bytes(32)) -> RecordStore:
    """A gallery in that folder with these records."""
    folder.mkdir(exist_ok=True)
    store = RecordStore(open_store(folder / DATABASE_FILE), Vault(key), MODEL)
    store.add(records, NOW)
    return store


def measuring_of(store: RecordStore, key: bytes = bytes(32)) -> Measuring:
    return Measuring(LAKESIDE, store._engine, Vault(key), NODE, store)
