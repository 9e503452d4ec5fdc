"""The auditor's checks: open one search and replay it to the bytes that the log holds.

The requester produces the search key, the holder the root seeds of its own answers and the gallery of that day, and everything else
follows: probe, answer, opened values and release are recomputed and compared. Invariants: nothing here changes anything, every check
raises `AuditError` and names the step that does not replay. Drawing the sample and the power to demand the openings is left to the
oversight body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from crypto import ring
from crypto.answer import Answer, AnswerRequest, OrderSeed, replay_answer
from crypto.bases import public_bases
from crypto.canonical import AgencyId
from crypto.embedding import face_commitment
from crypto.errors import AuditError
from crypto.gallery import PackedGallery
from crypto.impostors import ImpostorTable
from crypto.opening import open_answer
from crypto.parameters import SEALMATCH_1
from crypto.probe import Probe, SearchKey
from crypto.release import NOBODY, HolderOutcome, HolderScores, Release, ReleaseTerms, release, release_nothing
from crypto.ring import I32
from crypto.seed import Seed

MAX_ERROR: Final = 23
"""SEAL's centred binomial error has 21 coin pairs, so it never exceeds 21; rounding of q m / t adds one half, the dropped bit one."""


def open_probe(probe: Probe, key: SearchKey) -> I32:
    """The integers m that a probe encrypts; int32[D].

    Raises `AuditError` unless b_d + A_d s is one constant and fresh noise for every d, and b_z + A_z s is fresh noise alone. A probe
    vector is as secret as the face it was made from.
    """
    secret = np.broadcast_to(key.secret_eval(), probe.words_eval.shape)
    opened_eval = ring.add(ring.multiply(public_bases(probe.epoch, probe.dimensions), np.ascontiguousarray(secret)), probe.words_eval)
    opened = ring.centred(ring.inverse(opened_eval)).astype(np.int64)
    vector = np.rint(opened[:-1, 0] * (SEALMATCH_1.plain_modulus / SEALMATCH_1.modulus)).astype(np.int64)
    opened[:-1, 0] -= np.rint(vector * (SEALMATCH_1.modulus / SEALMATCH_1.plain_modulus)).astype(np.int64)
    if int(np.abs(opened).max()) > MAX_ERROR:
        raise AuditError("the probe does not open to constants under this key")
    return np.asarray(vector, np.int32)


def check_probe(probe: Probe, key: SearchKey, face_commit: bytes, salt: bytes, image_digest: bytes) -> None:
    """Raise `AuditError` unless the probe encrypts exactly the vector that the grant's `face_commit` binds to the image."""
    if face_commitment(salt, image_digest, probe.model_hash, open_probe(probe, key)) != face_commit:
        raise AuditError("the probe is not of the face in the grant")


def check_answer(gallery: PackedGallery, request: AnswerRequest, root: Seed, answer_digest: bytes) -> None:
    """Raise `AuditError` unless this gallery and root give the answer in the log."""
    replayed, _ = replay_answer(gallery, request, root)
    if replayed.digest != answer_digest:
        raise AuditError("the answer does not replay from the holder's seed and gallery")


def check_opened(answer: Answer, order: OrderSeed, probe: Probe, key: SearchKey, opened_digest: bytes) -> None:
    """Raise `AuditError` unless opening the answer gives the `Y16` in the log."""
    if open_answer(answer, order, probe, key).digest != opened_digest:
        raise AuditError("the opened values were altered before they were sent")


def check_release(
    terms: ReleaseTerms,
    table: ImpostorTable,
    answered: Sequence[HolderScores],
    released: Release,
    *,
    missing: Mapping[AgencyId, HolderOutcome] = NOBODY,
) -> None:
    """Raise `AuditError` unless the release is the one that the scores give; release indexes are random and only join its parts.

    `missing` is what the log and the other holders' own records show of holders that did not answer.
    """
    again = release(terms, table, answered, missing=missing) if answered else release_nothing(terms, missing)
    if _joined(again) != _joined(released):
        raise AuditError("the release is not what the scores give")


def _joined(released: Release) -> object:
    """A release with its random indexes replaced by ranks."""
    rank_of = {index: rank for index, rank, _ in released.to_requester.leads}
    places = {(holder, rank_of.get(index), position) for holder, part in released.to_holders.items() for index, position in part.leads}
    bands = {(rank, band) for _, rank, band in released.to_requester.leads}
    caps = {part.cap for part in released.to_holders.values()} | {released.to_requester.cap}
    holders = set(released.to_holders), released.to_requester.holders
    discovery = released.to_discovery
    if discovery is None:
        return places, bands, caps, holders, None
    scores = {(rank_of.get(index), milli) for index, milli in discovery.leads}
    return places, bands, caps, holders, (scores, replace(discovery, leads=()))
