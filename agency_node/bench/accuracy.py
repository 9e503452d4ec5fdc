"""How far a whole chain's scores lie from the vectors' inner products, over every record: the error bounds at the size that is measured.

The chain is the one that a search runs: answer, opening to 16 bits, unmasking; its scores are compared with inner products in floating
point of the vectors before they were quantised. Bounds, as a cosine: root mean square below 0.0015, largest error below 0.007, from 128
dimensions on; for fewer, whose scales may derive a larger error, these or 1.05 and 7 times the derived standard deviation if that is more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from agency_node.bench.errors import WrongResultError
from agency_node.bench.synthetic import BATCH, SyntheticRecords, batches
from crypto.answer import AnswerRequest, MaskShare, OrderSeed, answer
from crypto.canonical import AgencyId
from crypto.gallery import PackedGallery
from crypto.layout import FILLER
from crypto.opening import open_answer
from crypto.probe import Probe, SearchKey
from crypto.release import unmask
from crypto.ring import F64
from crypto.workers import split

MAX_RMS: Final = 0.0015
MAX_ERROR: Final = 0.007
_BOUND_DIMENSIONS: Final = 128
_HOLDER: Final = AgencyId("benchmark-holder")


@dataclass(frozen=True)
class Accuracy:
    """Root mean square and largest error of a score, as a cosine; the standard deviation that `Scales` derives; the answer's bytes."""

    rms: float
    largest: float
    derived_sd: float
    answer_bytes: int


def measure_accuracy(source: SyntheticRecords, gallery: PackedGallery, probe: Probe, key: SearchKey, sought_row: int) -> Accuracy:
    """One answer to the probe, opened and unmasked, against floating point; `WrongResultError` when a bound is broken."""
    ((made, kept),) = answer(gallery, [AnswerRequest(probe, bytes(32))])
    opened = open_answer(made, OrderSeed(made.digest, kept.order_seed), probe, key)
    share = MaskShare(made.digest, probe.digest, made.slots, kept.mask_seeds[0], kept.places)
    scores = unmask(_HOLDER, gallery.layout.rows.size, gallery.layout.chunks, gallery.model.scales, opened, [share])
    rows = kept.rows_at(gallery.layout.rows, scores.positions(), still_held=gallery.layout.rows)
    cosines = np.empty(source.records)
    cosines[rows[rows != FILLER]] = scores.cosines()[rows != FILLER]
    scores.destroy()
    squares, largest = _errors(source, cosines, sought_row)
    rms, derived = float(np.sqrt(squares.sum() / source.records)), gallery.model.scales.error_sd
    found = Accuracy(rms, float(largest.max()), derived, len(made.to_bytes()))
    max_rms, max_error = MAX_RMS, MAX_ERROR
    if source.dimensions < _BOUND_DIMENSIONS:
        max_rms, max_error = max(max_rms, 1.05 * derived), max(max_error, 7 * derived)
    if found.rms >= max_rms or found.largest >= max_error:
        raise WrongResultError("the scores' error is beyond its bounds: please report this as a bug")
    return found


def _errors(source: SyntheticRecords, cosines: F64, sought_row: int) -> tuple[F64, F64]:
    """Sum of squares and largest magnitude of the errors of each batch of records."""
    sought = source.embedding_like(sought_row)
    squares, largest = np.empty(batches(source.records)), np.empty(batches(source.records))

    def compare(low: int, high: int) -> None:
        for batch in range(low, high):
            first, last = batch * BATCH, min(source.records, (batch + 1) * BATCH)
            errors = cosines[first:last] - source.vectors(first, last).astype(np.float64) @ sought
            squares[batch], largest[batch] = (errors**2).sum(), np.abs(errors).max()

    split(batches(source.records), compare)
    return squares, largest
