"""Custodian and requester together: nameless scores that the requester can tie to its layout rebuild templates, one search at a time.

Layouts are renewed for this reason. The figures are printed and checked against theory, cosine sqrt(k / D) after k searches on one layout.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from crypto.embedding import EmbeddingModel
from crypto.layout import LAYOUT_USES
from crypto.prepared import answer_order
from crypto.probe import make_probe
from crypto.ring import F64, N
from tests.simulation import EPOCH, answered, directions, gallery_of, isotropic_model

RECORDS = 1000


def rebuilt(probes: F64, scores: F64) -> F64:
    """The vectors of smallest norm with these scores; [k, D] probes and [k, slots] scores in, float64[slots, D] out."""
    return np.asarray((np.linalg.pinv(probes) @ scores).T)


def attack(model: EmbeddingModel, searches: int, *, seed: int) -> dict[str, dict[int, float]]:
    """Mean cosine of rebuilt and true templates after 1, 16 and all searches, on one layout and with a new layout every 16 searches.

    With renewal, the slots of one layout are all that the two can tie together.
    """
    rng = np.random.default_rng(seed)
    vectors = directions(rng, RECORDS, model.dimensions)
    templates = model.templates(vectors)
    kept = gallery_of(model, templates, uses=searches)
    seen: dict[str, list[F64]] = {"one layout": [], "renewed": []}
    probes: dict[str, list[F64]] = {"one layout": [], "renewed": []}
    figures: dict[str, dict[int, float]] = {"one layout": {}, "renewed": {}}
    for number in range(1, searches + 1):
        if (number - 1) % LAYOUT_USES == 0:
            fresh = gallery_of(model, templates)
            seen["renewed"], probes["renewed"] = [], []
        direction = directions(rng, 1, model.dimensions)[0].astype(np.float64)
        probe, key = make_probe(model, model.probe_vector(direction), EPOCH)
        for name, gallery in (("one layout", kept), ("renewed", fresh)):
            gallery.layout.claim(b"case %d" % number)
            found = answered(gallery, probe, key)
            # the requester knows the order's seed, the custodian the scores: together, scores by slot
            by_slot = found.cosines()[answer_order(found.secrets.order_seed, found.answer.slots)].reshape(-1, N)
            seen[name].append(np.delete(by_slot, found.secrets.calibration_place, axis=0).reshape(-1))
            probes[name].append(direction)
            if number in (1, LAYOUT_USES, searches):
                guess = rebuilt(np.array(probes[name]), np.array(seen[name]))
                held = gallery.layout.rows >= 0
                true = vectors[gallery.layout.rows[held]]
                figures[name][number] = float(np.mean((guess[held] * true).sum(axis=1) / np.linalg.norm(guess[held], axis=1)))
    return figures


def theory(searches: int, dimensions: int) -> float:
    """Mean length of a random unit vector's projection on k random directions: sqrt(k / D), a little less for few."""
    return math.sqrt(2 / dimensions) * math.exp(math.lgamma((searches + 1) / 2) - math.lgamma(searches / 2))


def check(dimensions: int, searches: int) -> None:
    figures = attack(isotropic_model(dimensions), searches, seed=dimensions)
    for name, by_count in figures.items():
        print(f"D = {dimensions}, {name}: " + ", ".join(f"after {k} searches {value:.3f}" for k, value in by_count.items()))
    for k, value in figures["one layout"].items():
        assert value == pytest.approx(theory(k, dimensions), rel=0.1)
    assert figures["renewed"][searches] == pytest.approx(theory(LAYOUT_USES, dimensions), rel=0.1)
    assert figures["renewed"][searches] < figures["one layout"][searches] - 0.1


def test_rebuilding_templates_is_held_down_by_renewal() -> None:
    check(128, 64)


@pytest.mark.torture
def test_rebuilding_templates_at_512_dimensions() -> None:
    check(512, 64)
