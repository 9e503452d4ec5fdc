"""The auditor's openings: an honest search replays, and each party's cheating shows at its own step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crypto import audit
from crypto.answer import AnswerRequest, OrderSeed
from crypto.canonical import AgencyId
from crypto.embedding import face_commitment
from crypto.errors import AuditError
from crypto.gallery import PackedGallery
from crypto.impostors import ImpostorTable
from crypto.layout import Layout
from crypto.opening import Y16
from crypto.probe import SearchKey
from crypto.release import HolderOutcome, HolderRelease, Outcome, ReleaseTerms, release, release_nothing
from crypto.seal import KeyPair
from crypto.seed import Seed
from tests.simulation import GRANT_DIGEST, NORTHPORT, directions, gallery_of, isotropic_model, search

MODEL = isotropic_model(64)
RNG = np.random.default_rng(61)
VECTORS = directions(RNG, 2500, 64)
TEMPLATES = MODEL.templates(VECTORS)
GALLERY = gallery_of(MODEL, TEMPLATES)
VECTOR = MODEL.probe_vector(VECTORS[9])
FOUND = search(GALLERY, VECTOR)
REQUEST = AnswerRequest(FOUND.probe, GRANT_DIGEST)
SALT, IMAGE = b"s" * 32, b"i" * 32
FACE = face_commitment(SALT, IMAGE, MODEL.model_hash, VECTOR)
ORDER = OrderSeed(FOUND.answer.digest, FOUND.secrets.order_seed)


def test_an_honest_search_replays_from_what_the_parties_kept() -> None:
    """The auditor rebuilds the gallery from its templates and the layout's seed, and everything else from seeds and keys."""
    key = SearchKey.from_secret(FOUND.key.export_secret())
    audit.check_probe(FOUND.probe, key, FACE, SALT, IMAGE)
    rebuilt = PackedGallery.pack(MODEL, Layout.draw(np.arange(2500), MODEL.scales, seed=GALLERY.layout.seed), TEMPLATES)
    audit.check_answer(rebuilt, REQUEST, Seed(FOUND.secrets.root.export_secret()), FOUND.answer.digest)
    audit.check_opened(FOUND.answer, ORDER, FOUND.probe, key, FOUND.opened.digest)


def test_another_face_than_the_grants_shows() -> None:
    for commit in (
        face_commitment(SALT, IMAGE, MODEL.model_hash, VECTOR + 1),
        face_commitment(SALT, b"j" * 32, MODEL.model_hash, VECTOR),
        bytes(32),
    ):
        with pytest.raises(AuditError, match="not of the face"):
            audit.check_probe(FOUND.probe, FOUND.key, commit, SALT, IMAGE)


def test_a_probe_that_is_not_constant_or_another_key_shows() -> None:
    with pytest.raises(AuditError, match="does not open"):
        audit.open_probe(FOUND.probe, SearchKey(KeyPair().secret_eval()))
    from tests.test_adversary_requester import HONEST, OTHER, forged  # noqa: PLC0415

    probe, key = forged(HONEST, at_x={1: OTHER})
    with pytest.raises(AuditError, match="does not open"):
        audit.open_probe(probe, key)


def test_another_gallery_seed_or_grant_shows() -> None:
    changed = TEMPLATES.copy()
    changed[17, 3] ^= 1
    altered = PackedGallery.pack(MODEL, Layout.draw(np.arange(2500), MODEL.scales, seed=GALLERY.layout.seed), changed)
    for gallery, request, root in (
        (altered, REQUEST, FOUND.secrets.root),
        (GALLERY, REQUEST, Seed.fresh()),
        (GALLERY, AnswerRequest(FOUND.probe, bytes(32)), FOUND.secrets.root),
        (GALLERY, AnswerRequest(FOUND.probe, GRANT_DIGEST, 2), FOUND.secrets.root),
    ):
        with pytest.raises(AuditError, match="does not replay"):
            audit.check_answer(gallery, request, root, FOUND.answer.digest)


def test_altered_opened_values_show() -> None:
    """A requester that raises one score before sending it."""
    values = FOUND.opened.values.copy()
    values[100] += 1
    with pytest.raises(AuditError, match="altered"):
        audit.check_opened(FOUND.answer, ORDER, FOUND.probe, FOUND.key, Y16(FOUND.opened.answer_digest, values).digest)


def test_another_release_than_the_scores_give_shows() -> None:
    terms = ReleaseTerms(GRANT_DIGEST, 5, 1000)
    table = ImpostorTable.isotropic(MODEL.model_hash, 64)
    scores = [FOUND.holder_scores(2500)]
    released = release(terms, table, scores)
    audit.check_release(terms, table, scores, released)
    audit.check_release(terms, table, scores, release(terms, table, scores))
    ((index, position),) = released.to_holders[NORTHPORT].leads
    discovery = released.to_discovery
    assert discovery is not None
    for forged in (
        replace(released, to_holders={NORTHPORT: HolderRelease(5, ((index, position + 1),))}),
        replace(released, to_holders={NORTHPORT: HolderRelease(5, ())}),
        replace(released, to_discovery=replace(discovery, leads=((index, discovery.leads[0][1] - 1),))),
        replace(released, to_discovery=replace(discovery, threshold_milli=discovery.threshold_milli + 1)),
        replace(released, to_requester=replace(released.to_requester, cap=6)),
    ):
        with pytest.raises(AuditError, match="not what the scores give"):
            audit.check_release(terms, table, scores, forged)


EASTFIELD = AgencyId("eastfield-pd")


def test_a_release_that_accounts_otherwise_for_a_holder_shows() -> None:
    """A custodian that drops an answer and says that the holder was silent; or that says so of a search which was answered."""
    terms, table = ReleaseTerms(GRANT_DIGEST, 5, 1000), ImpostorTable.isotropic(MODEL.model_hash, 64)
    scores = [FOUND.holder_scores(2500)]
    refused = {EASTFIELD: HolderOutcome(EASTFIELD, Outcome.REFUSED, 12)}
    silent = {EASTFIELD: HolderOutcome(EASTFIELD, Outcome.SILENT)}
    audit.check_release(terms, table, scores, release(terms, table, scores, missing=refused), missing=refused)
    audit.check_release(terms, table, [], release_nothing(terms, refused), missing=refused)
    nobody = {NORTHPORT: HolderOutcome(NORTHPORT, Outcome.SILENT)}
    for forged, missing in (
        (release(terms, table, scores, missing=silent), refused),
        (release(terms, table, scores), refused),
        (release_nothing(terms, nobody | refused), refused),
    ):
        with pytest.raises(AuditError, match="not what the scores give"):
            audit.check_release(terms, table, scores, forged, missing=missing)
