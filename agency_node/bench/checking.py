"""Proof that a measured scan computed the right thing: its sums are opened with the search key and compared with the truth.

Compared are (1) the row with the largest score with the row that the probe was made for, (2) the scores of a batch of records around it
with their inner products in floating point, (3) row and scores with what FAISS found in the clear. The tolerance is seven standard
deviations of the error that `Scales` derives: two scores a record apart in it are the same score.

The opened values are exact and would give away the key (`crypto.opening`); they stay inside `opened_cosines`, whose records are synthetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agency_node.bench.clear import Nearest
from agency_node.bench.errors import WrongResultError
from agency_node.bench.synthetic import BATCH, SyntheticRecords
from crypto import ring
from crypto.answer import Answer, AnswerRequest, MaskShare, OrderSeed
from crypto.canonical import AgencyId
from crypto.epoch import Epoch
from crypto.gallery import PackedGallery
from crypto.impostors import ImpostorTable
from crypto.layout import FILLER
from crypto.limits import DEFAULT_CAP
from crypto.opening import open_answer
from crypto.prepared import AnswerSecrets
from crypto.probe import SearchKey
from crypto.release import ReleaseTerms, release, unmask
from crypto.ring import F64, I64, U32

TOLERANCE_SDS = 7
FALSE_POSITIVES_PER_MILLION = 10_000
_HOLDER = AgencyId("benchmark-holder")
_NOTHING = -2


@dataclass(frozen=True)
class CheckedScan:
    """What one probe's scan found: the row with the largest score, and every record's cosine by row, float64[records]."""

    sought_row: int
    found_row: int
    cosines: F64
    tolerance: float

    def check_against(self, name: str, nearest: Nearest, probe: int, *, rounding: float = 0.0, product_unit: float = 1.0) -> None:
        """Raise `WrongResultError` unless FAISS ranks the same record first and finds the same scores (3).

        `rounding` is what FAISS's own rounding may add to the tolerance; a product times `product_unit` is a cosine.
        """
        rows = nearest.rows[probe]
        if int(rows[0]) != self.found_row:
            raise WrongResultError(f"FAISS ({name}) and the encrypted scan find different records: please report this as a bug")
        if float(np.abs(self.cosines[rows] - nearest.products[probe] * product_unit).max()) > self.tolerance + rounding:
            raise WrongResultError(f"FAISS ({name}) and the encrypted scan find different scores: please report this as a bug")


def check_scan(source: SyntheticRecords, gallery: PackedGallery, epoch: Epoch, sought_row: int, key: SearchKey, sums: U32) -> CheckedScan:
    """Open one probe's sums, uint32[chunks, N] in eval form, and compare them with the truth, (1) and (2)."""
    tolerance = TOLERANCE_SDS * gallery.model.scales.error_sd
    rows = gallery.layout.rows
    by_slot = opened_cosines(gallery, epoch, key, sums)
    is_record = rows != FILLER
    cosines = np.empty(source.records)
    cosines[rows[is_record]] = by_slot[is_record]
    found_row = int(np.argmax(cosines))
    if found_row != sought_row:
        raise WrongResultError("the encrypted scan finds another record than the one that was sought: please report this as a bug")
    first = sought_row // BATCH * BATCH
    near = source.vectors(first, min(source.records, first + BATCH)).astype(np.float64) @ source.embedding_like(sought_row)
    if float(np.abs(cosines[first : first + near.size] - near).max()) > tolerance:
        raise WrongResultError("the encrypted scan's scores are not the vectors' inner products: please report this as a bug")
    return CheckedScan(sought_row, found_row, cosines, tolerance)


def opened_cosines(gallery: PackedGallery, epoch: Epoch, key: SearchKey, sums: U32) -> F64:
    """Cosines by slot: y = inverse(b' + a' s), the middle representative of each coefficient over the scale's unit; float64[slots]."""
    opened = ring.inverse(ring.multiply_add(gallery.fixed_part(epoch), key.secret_eval(), sums))
    return np.asarray(ring.centred(opened).reshape(-1) / gallery.model.scales.unit)


def first_lead(gallery: PackedGallery, request: AnswerRequest, key: SearchKey, made: Answer, kept: AnswerSecrets, rows: I64) -> int:
    """The row that a whole release of this answer ranks first, `FILLER` for a withdrawn one; -2 when nothing is released.

    `rows` are the layout's when the answer was made.
    """
    model = gallery.model
    opened = open_answer(made, OrderSeed(made.digest, kept.order_seed), request.probe, key)
    share = MaskShare(made.digest, request.probe.digest, made.slots, kept.mask_seeds[0], kept.places)
    scores = unmask(_HOLDER, gallery.layout.rows.size, gallery.layout.chunks, model.scales, opened, [share])
    terms = ReleaseTerms(request.grant_digest, DEFAULT_CAP, FALSE_POSITIVES_PER_MILLION)
    released = release(terms, ImpostorTable.isotropic(model.model_hash, model.dimensions), [scores])
    scores.destroy()
    positions = dict(released.to_holders[_HOLDER].leads)
    ranked = [index for index, rank, _ in released.to_requester.leads if rank == 1]
    if not ranked:
        return _NOTHING
    return int(kept.rows_at(rows, np.array([positions[ranked[0]]], np.uint32), still_held=gallery.layout.rows)[0])
