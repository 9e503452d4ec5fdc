"""A holder that breaks the rules: planted vectors, swapped answers, wrong places, releases it was not sent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from crypto.answer import AnswerRequest, OrderSeed, answer
from crypto.calibration import CalibrationPlaces
from crypto.codes import codes_of, values_of
from crypto.errors import AnswerError, CalibrationError, MisuseError
from crypto.impostors import ImpostorTable
from crypto.opening import open_answer
from crypto.release import unmask
from crypto.ring import N
from crypto.seed import Seed
from tests.simulation import GRANT_DIGEST, NORTHPORT, directions, gallery_of, isotropic_model, search

MODEL = isotropic_model(64)
RNG = np.random.default_rng(51)
TEMPLATES = MODEL.templates(directions(RNG, 3000, 64))
GALLERY = gallery_of(MODEL, TEMPLATES)
VECTOR = MODEL.probe_vector(directions(RNG, 1, 64)[0])


def test_loud_planted_vectors_raise_the_alarm() -> None:
    """A thousand vectors written at several times the gallery's scale, so that their scores stand above everybody's."""
    model = isotropic_model(128)
    rng = np.random.default_rng(52)
    templates = model.templates(directions(rng, 20_000, 128))
    templates[:1000] = codes_of(values_of(templates[:1000]).astype(np.int32) * 4)
    found = search(gallery_of(model, templates), model.probe_vector(directions(rng, 1, 128)[0]))
    alarms = found.holder_scores(20_000).alarms(ImpostorTable.isotropic(model.model_hash, 128), model.scales)
    assert alarms.planted


def test_an_answer_to_another_probe_is_refused_by_the_requester() -> None:
    mine, other = search(GALLERY, VECTOR), search(GALLERY, VECTOR)
    with pytest.raises(AnswerError, match="another probe"):
        open_answer(other.answer, OrderSeed(other.answer.digest, other.secrets.order_seed), mine.probe, mine.key)


def test_seeds_of_another_answer_are_refused_by_the_custodian() -> None:
    """The holder answers twice and sends the requester one answer and the custodian the other's seeds."""
    mine = search(GALLERY, VECTOR)
    ((_, others),) = answer(GALLERY, [AnswerRequest(mine.probe, GRANT_DIGEST)])
    (share,) = mine.shares
    for forged in (
        dataclasses.replace(share, answer_digest=bytes(32)),
        dataclasses.replace(share, slots=share.slots + N),
    ):
        with pytest.raises(AnswerError, match="different answers"):
            unmask(NORTHPORT, 3000, GALLERY.layout.chunks, MODEL.scales, mine.opened, [forged])
    # naming the right answer with the other's seed or places gives noise, which the calibration refuses
    for seed, places in ((others.mask_seeds[0], share.places), (share.seed, others.places), (Seed.fresh(), share.places)):
        with pytest.raises(CalibrationError):
            unmask(
                NORTHPORT, 3000, GALLERY.layout.chunks, MODEL.scales, mine.opened, [dataclasses.replace(share, seed=seed, places=places)]
            )


def test_custodians_must_be_told_the_same_places() -> None:
    found = search(GALLERY, VECTOR, custodians=2)
    first, second = found.shares
    other = CalibrationPlaces(np.arange(64, dtype=np.uint32), np.arange(64, N, dtype=np.uint32))
    with pytest.raises(AnswerError, match="different calibration places"):
        unmask(NORTHPORT, 3000, GALLERY.layout.chunks, MODEL.scales, found.opened, [first, dataclasses.replace(second, places=other)])


def test_one_custodians_seed_is_not_enough() -> None:
    found = search(GALLERY, VECTOR, custodians=2)
    for share in found.shares:
        with pytest.raises(CalibrationError):
            unmask(NORTHPORT, 3000, GALLERY.layout.chunks, MODEL.scales, found.opened, [share])


@pytest.mark.parametrize(
    ("basis", "zeros"),
    [
        (range(64), range(63, N - 1)),
        (range(63), range(64, N)),
        (range(64), [*range(65, N), 64]),
        ([1, 0, *range(2, 64)], range(64, N)),
    ],
)
def test_places_are_one_chunks(basis: range, zeros: range) -> None:
    with pytest.raises(MisuseError):
        CalibrationPlaces(np.array(basis, np.uint32), np.array(zeros, np.uint32))


def test_altered_answer_bytes_change_its_digest_and_fail_calibration_or_only_shift_scores() -> None:
    """A holder may answer wrongly; what it cannot do is answer one thing to the requester and another to the log: the digest tells."""
    found = search(GALLERY, VECTOR)
    altered = found.answer.b_rounded.copy()
    altered[5] ^= 1
    changed = type(found.answer)(
        found.answer.epoch, found.answer.model_hash, found.answer.probe_digest, 64, found.answer.a_rounded, altered
    )
    assert changed.digest != found.answer.digest
    with pytest.raises(AnswerError):
        open_answer(changed, OrderSeed(found.answer.digest, found.secrets.order_seed), found.probe, found.key)
