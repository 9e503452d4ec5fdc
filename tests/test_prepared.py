"""What a holder prepares of an answer before its probe is here: for one probe, one grant, one state of the gallery, and once."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from agency_node.holder.ahead import KEPT, Ahead
from crypto.answer import Answer, AnswerRequest, answer, replay_answer
from crypto.errors import KeyDestroyedError, MisuseError
from crypto.prepared import AnswerSecrets, AnswerTerms, PreparedAnswer
from crypto.probe import Probe, make_probe
from crypto.scan import scan_words
from crypto.seed import Seed
from tests.sample_federation import NOW
from tests.simulation import EPOCH, GRANT_DIGEST, directions, gallery_of, isotropic_model

MODEL = isotropic_model(64)
VECTORS = directions(np.random.default_rng(3), 1500, 64)
TEMPLATES = MODEL.templates(VECTORS)
GALLERY = gallery_of(MODEL, TEMPLATES, uses=1000)
UNTIL = NOW + timedelta(minutes=10)


def probe_of(row: int) -> Probe:
    return make_probe(MODEL, MODEL.probe_vector(VECTORS[row]), EPOCH)[0]


def finished(prepared: PreparedAnswer, request: AnswerRequest) -> tuple[Answer, AnswerSecrets]:
    probe = request.probe
    a, b, kept = prepared.finish(GALLERY, request.terms, probe, scan_words(GALLERY.words, [probe.ordered])[0])
    return Answer(probe.epoch, probe.model_hash, probe.digest, probe.dimensions, a, b), kept


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.002)


# --- one prepared answer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("custodians", [1, 2])
def test_an_answer_that_was_prepared_is_the_one_that_an_auditor_replays(custodians: int) -> None:
    request = AnswerRequest(probe_of(7), GRANT_DIGEST, custodians)
    made, kept = finished(PreparedAnswer.make(GALLERY, request.terms), request)
    again, secrets = replay_answer(GALLERY, request, kept.root)
    assert made.digest == again.digest
    assert (secrets.places.basis == kept.places.basis).all()
    assert len(kept.mask_seeds) == custodians


def test_attack_one_prepared_answer_for_two_probes() -> None:
    """Two answers under one seed give the records away: whatever is tried with a prepared answer, it masks one thing."""
    first, second = AnswerRequest(probe_of(1), GRANT_DIGEST), AnswerRequest(probe_of(2), GRANT_DIGEST)
    prepared = PreparedAnswer.make(GALLERY, first.terms)
    with pytest.raises(MisuseError):
        finished(prepared, second)
    _, kept = finished(prepared, first)
    for request in (first, second):
        with pytest.raises(MisuseError):
            finished(prepared, request)

    # who answers is given one and the same for every request
    prepared = PreparedAnswer.make(GALLERY, first.terms)
    answers = answer(GALLERY, [first, second, first], prepared=lambda _: prepared)
    roots = {secrets.root.export_secret() for _, secrets in answers}
    assert len(roots) == len({made.digest for made, _ in answers}) == 3
    assert kept.root.export_secret() not in roots
    for (made, secrets), request in zip(answers, (first, second, first), strict=True):
        assert replay_answer(GALLERY, request, secrets.root)[0].digest == made.digest


@pytest.mark.parametrize(
    "other",
    [{"grant_digest": bytes(32)}, {"probe_digest": bytes(32)}, {"custodians": 2}, {"epoch": EPOCH.previous()}],
    ids=["grant", "probe", "custodians", "epoch"],
)
def test_one_that_was_prepared_on_other_terms_fits_not(other: dict[str, object]) -> None:
    request = AnswerRequest(probe_of(3), GRANT_DIGEST)
    prepared = PreparedAnswer.make(GALLERY, replace(request.terms, **other))  # type: ignore[arg-type]
    assert not prepared.fits(GALLERY, request.terms)
    with pytest.raises(MisuseError):
        finished(prepared, request)


def test_one_that_was_prepared_in_another_state_of_the_gallery_is_destroyed_and_made_anew() -> None:
    gallery = gallery_of(MODEL, TEMPLATES[:900])
    request = AnswerRequest(probe_of(5), GRANT_DIGEST)
    prepared = PreparedAnswer.make(gallery, request.terms)
    assert prepared.fits(gallery, request.terms)
    secrets = prepared._once[0].secrets
    gallery.remove(5)
    assert not prepared.fits(gallery, request.terms)
    ((made, kept),) = answer(gallery, [request], prepared=lambda _: prepared)
    assert replay_answer(gallery, request, kept.root)[0].digest == made.digest
    with pytest.raises(KeyDestroyedError):
        secrets.root.export_secret()


def test_only_one_of_many_threads_finishes_it() -> None:
    request = AnswerRequest(probe_of(4), GRANT_DIGEST)
    prepared = PreparedAnswer.make(GALLERY, request.terms)
    start = threading.Barrier(4)

    def attempt(_: int) -> bool:
        start.wait()
        try:
            finished(prepared, request)
        except MisuseError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, range(4))) == 1


def test_what_is_left_of_it_says_nothing() -> None:
    request = AnswerRequest(probe_of(4), GRANT_DIGEST)
    unused, used = PreparedAnswer.make(GALLERY, request.terms), PreparedAnswer.make(GALLERY, request.terms)
    for one in (unused, used):
        assert repr(one) == "PreparedAnswer(<redacted>)"
        with pytest.raises(MisuseError):
            pickle.dumps(one)
    parts, others = unused._once[0], used._once[0]
    u, other_u = parts.blinding._u, others.blinding._u
    assert parts.mask.any()
    assert u.any()
    unused.destroy()
    unused.destroy()
    finished(used, request)
    assert not any(words.any() for words in (parts.mask, others.mask, u, other_u))
    for seed in (parts.secrets.root, parts.secrets.order_seed, *parts.secrets.mask_seeds):
        with pytest.raises(KeyDestroyedError):
            seed.export_secret()


# --- at most so many --------------------------------------------------------------------------------------------------


def terms_of(number: int) -> AnswerTerms:
    return AnswerTerms(EPOCH, number.to_bytes(32, "big"), bytes(32 - 1) + bytes([number]))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Preparations wait for this."""
    go, make = threading.Event(), PreparedAnswer.make

    def made(gallery: object, terms: AnswerTerms) -> PreparedAnswer:
        assert go.wait(20)
        return make(GALLERY, terms)

    monkeypatch.setattr(PreparedAnswer, "make", made)
    return go


def test_grants_without_probes_prepare_one_answer_at_a_time_and_keep_few(slow: threading.Event) -> None:
    ahead = Ahead()
    for number in range(20):
        ahead.begin(GALLERY, terms_of(number), UNTIL)
    assert [one.terms for one in ahead._kept] == [terms_of(0)]
    slow.set()
    for number in range(20, 25):
        until(lambda: all(one.made is not None for one in ahead._kept))
        ahead.begin(GALLERY, terms_of(number), UNTIL)
        assert len(ahead._kept) <= KEPT
    assert ahead.take(terms_of(0)) is None
    assert ahead.take(terms_of(24)) is not None
    assert ahead.take(terms_of(24)) is None
    ahead.stop()
    assert ahead.take(terms_of(23)) is None


def test_a_search_waits_for_its_own_preparation_and_for_no_other(slow: threading.Event) -> None:
    ahead = Ahead()
    ahead.begin(GALLERY, terms_of(1), UNTIL)
    assert ahead.take(terms_of(2)) is None
    threading.Timer(0.05, slow.set).start()
    taken = ahead.take(terms_of(1))
    assert taken is not None
    assert taken.terms == terms_of(1)


@pytest.mark.parametrize("how", ["withdrawn", "overdue", "stopped"])
def test_what_is_dropped_while_it_is_made_is_overwritten(slow: threading.Event, how: str) -> None:
    ahead = Ahead()
    ahead.begin(GALLERY, terms_of(1), UNTIL)
    (begun,) = ahead._kept
    ahead.drop(terms_of(2).grant_digest)
    ahead.drop_overdue(UNTIL - timedelta(seconds=1))
    assert ahead._kept == [begun]
    {"withdrawn": lambda: ahead.drop(terms_of(1).grant_digest), "overdue": lambda: ahead.drop_overdue(UNTIL), "stopped": ahead.stop}[how]()
    slow.set()
    assert begun.thread is not None
    begun.thread.join()
    assert (begun.made, ahead._kept, ahead.take(terms_of(1))) == (None, [], None)


def test_a_preparation_that_dies_leaves_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, make = Ahead(), PreparedAnswer.make
    monkeypatch.setattr(PreparedAnswer, "make", lambda *_: Seed(b"too short"))
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    ahead.begin(GALLERY, terms_of(1), UNTIL)
    until(lambda: not ahead._kept)
    monkeypatch.setattr(PreparedAnswer, "make", make)
    ahead.begin(GALLERY, terms_of(2), UNTIL)
    assert ahead.take(terms_of(2)) is not None
