"""One search inside one process, with every party's step in order, for tests of the protocol and of those who break it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto import ring
from crypto.answer import Answer, AnswerRequest, MaskShare, OrderSeed, answer
from crypto.blinding import Blinding, Chunks
from crypto.canonical import AgencyId
from crypto.codes import Codes
from crypto.embedding import EmbeddingModel
from crypto.epoch import Epoch
from crypto.gallery import PackedGallery
from crypto.layout import FILLER, Layout
from crypto.opening import Y16, middle, open_answer
from crypto.prepared import AnswerSecrets, mask_total
from crypto.probe import Probe, SearchKey, make_probe
from crypto.release import HolderScores, unmask
from crypto.ring import F64, I32, I64, U32, N
from crypto.seed import Seed

EPOCH = Epoch("2026-11")
GRANT_DIGEST = bytes(range(32))
NORTHPORT = AgencyId("northport-pd")


def isotropic_model(dimensions: int) -> EmbeddingModel:
    """A model whose embeddings are uniform directions; its centre is zero."""
    return EmbeddingModel(f"isotropic-{dimensions}", bytes(32), np.zeros(dimensions, np.float32))


def directions(rng: np.random.Generator, count: int, dimensions: int) -> npt.NDArray[np.float32]:
    """Uniform unit vectors, float32[count, D]."""
    vectors = rng.standard_normal((count, dimensions), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def at_cosine(rng: np.random.Generator, to: npt.NDArray[np.floating], cosine: float) -> F64:
    """A random unit vector whose cosine with the unit vector `to` is exactly this."""
    across = rng.standard_normal(to.size)
    across -= (across @ to) * to
    across /= np.linalg.norm(across)
    return np.asarray(cosine * to + np.sqrt(1 - cosine**2) * across)


def gallery_of(model: EmbeddingModel, templates: Codes, *, uses: int = 16) -> PackedGallery:
    """A packed gallery of all rows under a fresh layout."""
    return PackedGallery.pack(model, Layout.draw(np.arange(len(templates)), model.scales, uses=uses), templates)


@dataclass(frozen=True)
class Search:
    """Everything that one search leaves in the parties' hands together, which no party has in truth."""

    model: EmbeddingModel
    probe: Probe
    key: SearchKey
    answer: Answer
    secrets: AnswerSecrets
    opened: Y16

    @property
    def shares(self) -> list[MaskShare]:
        """What each custodian was sent."""
        return [
            MaskShare(self.answer.digest, self.probe.digest, self.answer.slots, seed, self.secrets.places)
            for seed in self.secrets.mask_seeds
        ]

    def cosines(self) -> F64:
        """All unmasked scores in the answer's order, calibration places included; float64[slots]."""
        masks = mask_total(self.secrets.mask_seeds, self.answer.slots)
        return np.asarray(ring.centred(ring.subtract(middle(self.opened.values, 16), masks)) / self.model.scales.unit)

    def rows(self, layout_rows: I64) -> I64:
        """The row behind every position; int64[slots]."""
        return self.secrets.rows_at(layout_rows, np.arange(self.answer.slots, dtype=np.uint32), still_held=layout_rows)

    def row_cosines(self, layout_rows: I64) -> F64:
        """Unmasked scores by row; float64[rows]."""
        rows, cosines = self.rows(layout_rows), self.cosines()
        out = np.full(int(rows.max()) + 1, np.nan)
        out[rows[rows != FILLER]] = cosines[rows != FILLER]
        return out

    def holder_scores(self, records: int, holder: AgencyId = NORTHPORT) -> HolderScores:
        """The custodian's step for this holder."""
        return unmask(holder, records, self.answer.slots // N - 1, self.model.scales, self.opened, self.shares)


def search(gallery: PackedGallery, probe_vector: I32, *, custodians: int = 1, grant_digest: bytes = GRANT_DIGEST) -> Search:
    """Requester and holder play by the rules."""
    probe, key = make_probe(gallery.model, probe_vector, EPOCH)
    return answered(gallery, probe, key, custodians=custodians, grant_digest=grant_digest)


def answered(gallery: PackedGallery, probe: Probe, key: SearchKey, *, custodians: int = 1, grant_digest: bytes = GRANT_DIGEST) -> Search:
    """The holder plays by the rules with whatever probe it is given."""
    ((made, secrets),) = answer(gallery, [AnswerRequest(probe, grant_digest, custodians)])
    return Search(gallery.model, probe, key, made, secrets, open_answer(made, OrderSeed(made.digest, secrets.order_seed), probe, key))


def blind(fixed_eval: U32, scanned_eval: U32, zero_base_eval: U32, zero_probe_eval: U32, seed: Seed, mask: U32) -> tuple[U32, U32]:
    """Exact a'' and b'' in coeff form, before rounding, without a calibration chunk; all uint32[chunks, N], the two of zero uint32[N]."""
    blinding = Blinding(seed, len(fixed_eval))
    a, b = blinding.first(Chunks(fixed_eval), zero_base_eval), mask.reshape(-1).copy()
    blinding.second(Chunks(scanned_eval), zero_probe_eval, b)
    return a.reshape(fixed_eval.shape), b.reshape(fixed_eval.shape)
