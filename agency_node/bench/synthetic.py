"""Records that no person stands behind: random unit vectors, and probes near chosen ones of them.

Invariants: a vector is a fixed function of seed and row, so that the encrypted gallery, every copy for FAISS and the check see the same
records without anybody holding them twice. A probe has cosine `LIKENESS` to the record that it seeks. Embeddings of real faces are not
isotropic; speed does not depend on that, and no error rate is read off these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agency_node.bench.errors import GalleryTooLargeError
from agency_node.bench.machine import check_memory
from agency_node.bench.progress import Steps
from agency_node.bench.timing import timed
from agency_node.faces.synthetic_embedder import synthetic_model
from crypto.codes import Codes
from crypto.embedding import F32, EmbeddingModel
from crypto.epoch import Epoch
from crypto.gallery import PackedGallery
from crypto.layout import SPARE_SLOTS, Layout, kept_fillers
from crypto.limits import MAX_CHUNKS
from crypto.ordered_probe import OrderedProbe
from crypto.packed_words import GROUP
from crypto.parameters import Scales
from crypto.probe import make_probe
from crypto.ring import F64, U32, N
from crypto.scan import scan_words
from crypto.workers import split

LIKENESS = 0.8
BATCH = 1024
Coded = npt.NDArray[Any]
"""Vectors in the form that somebody searches in: float32, float16, int8 or bytes."""
_PROBE_STREAM = 1 << 40
_OVERHEAD_BYTES = 1 << 29
"""Interpreter, libraries and kernels."""
_ANSWER_BYTES_A_SLOT = 128
"""What an answer holds at once for every slot."""


@dataclass(frozen=True)
class SyntheticRecords:
    """`records` unit vectors of `dimensions` dimensions."""

    records: int
    dimensions: int
    seed: int

    def vectors(self, first: int, last: int) -> F32:
        """Rows `first` to `last` - 1; float32[rows, D]."""
        out = np.empty((last - first, self.dimensions), np.float32)
        for batch in range(first // BATCH, -(-last // BATCH)):
            low, high = max(first, batch * BATCH), min(last, (batch + 1) * BATCH)
            out[low - first : high - first] = self._batch(batch)[low - batch * BATCH : high - batch * BATCH]
        return out

    def write(self, out: Coded, first: int, done: Callable[[], None], coded: Callable[[F32], Coded] = lambda rows: rows) -> None:
        """Write the rows from `first` on, as `coded` makes them, into `out`, [rows, ...], on all cores; `done` is called after a batch."""
        last = first + len(out)

        def write_batches(low: int, high: int) -> None:
            for batch in range(low, high):
                start, end = first + batch * BATCH, min(last, first + (batch + 1) * BATCH)
                out[start - first : end - first] = coded(self.vectors(start, end))
                done()

        split(batches(len(out)), write_batches)

    def templates(self, model: EmbeddingModel, done: Callable[[], None]) -> Codes:
        """All records quantised; int8[records, D]."""
        out = np.empty((self.records, self.dimensions), np.int8)
        self.write(out, 0, done, model.templates)
        return out

    def sought_rows(self, probes: int) -> list[int]:
        """Rows that the probes seek, spread over all records."""
        return [self.records * (2 * index + 1) // (2 * probes) for index in range(probes)]

    def embedding_like(self, row: int) -> F64:
        """A unit vector with cosine `LIKENESS` to a record; float64[D]."""
        target = self.vectors(row, row + 1)[0].astype(np.float64)
        target /= np.linalg.norm(target)
        other = np.random.default_rng([self.seed, _PROBE_STREAM + row]).standard_normal(self.dimensions)
        other -= (other @ target) * target
        return np.asarray(LIKENESS * target + (1 - LIKENESS**2) ** 0.5 * other / np.linalg.norm(other))

    def _batch(self, batch: int) -> F32:
        rows = np.random.default_rng([self.seed, batch]).standard_normal((BATCH, self.dimensions), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


def batches(rows: int) -> int:
    """How many batches so many rows make."""
    return -(-rows // BATCH)


def chunks_of(records: int, scales: Scales) -> int:
    """Chunks of a fresh layout of so many records, and the answer's calibration chunk."""
    return -(-records // records_a_chunk(scales)) + 1


def packed_bytes(records: int, scales: Scales) -> int:
    """What their packed gallery takes, and the answer's calibration chunk."""
    return chunks_of(records, scales) * N * -(-scales.dimensions // GROUP) * GROUP * 27 // 8


def needed_bytes(records: int, scales: Scales, *, beside_bytes: int) -> int:
    """Most memory that is held at once: the packed gallery, beside it the templates until they are packed, then `beside_bytes`."""
    slots = chunks_of(records, scales) * N
    held = packed_bytes(records, scales) + max(records * scales.dimensions, beside_bytes)
    return held + slots * _ANSWER_BYTES_A_SLOT + _OVERHEAD_BYTES


def records_a_chunk(scales: Scales) -> int:
    """How many records a full chunk of a fresh layout holds."""
    return N - kept_fillers(scales) - SPARE_SLOTS


@dataclass(frozen=True)
class PackedSynthetic:
    """A packed gallery of synthetic records, and how long packing took."""

    gallery: PackedGallery
    pack_s: float

    @property
    def packed_bytes(self) -> int:
        """What a scan reads."""
        return self.gallery.words.nbytes

    def scan(self, probes: Sequence[OrderedProbe], threads: int) -> U32:
        """The scan as a holder makes it; uint32[K, chunks, N]."""
        return scan_words(self.gallery.words, probes, threads=threads)


def pack_synthetic(source: SyntheticRecords, epoch: Epoch, steps: Steps, *, beside_bytes: int = 0, threads: int) -> PackedSynthetic:
    """Generate, quantise and pack; `beside_bytes` is what the caller will hold beside the packed gallery.

    Every kernel that a search needs has been compiled when this returns. Raises `GalleryTooLargeError` and `MemoryShortError` before
    anything large is made.
    """
    model = synthetic_model(source.dimensions)
    if chunks_of(source.records, model.scales) > MAX_CHUNKS:
        raise GalleryTooLargeError(f"{source.records:,} records do not fit into one answer of {MAX_CHUNKS:,} chunks: take fewer --records")
    check_memory(needed_bytes(source.records, model.scales, beside_bytes=beside_bytes))
    with steps.step("compiling kernels"):
        few = PackedGallery.pack(model, Layout.draw(np.arange(1, dtype=np.int64), model.scales), np.ones((1, model.dimensions), np.int8))
        probe, _ = make_probe(model, model.probe_vector(np.ones(model.dimensions)), epoch)
        PackedSynthetic(few, 0.0).scan([probe.ordered], threads)
        few.fixed_part(epoch)
    with steps.step(f"making and quantising {source.records:,} vectors", batches(source.records)) as done:
        templates = source.templates(model, done)
    layout = Layout.draw(np.arange(source.records, dtype=np.int64), model.scales)
    made: list[PackedGallery] = []
    with steps.step(f"packing {source.records:,} templates"):
        pack_s = timed(lambda: made.append(PackedGallery.pack(model, layout, templates, threads=threads)))
    return PackedSynthetic(made[0], pack_s)
