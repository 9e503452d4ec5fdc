"""From embeddings to what the scheme works on: templates (codes, gallery side) and probe vectors (int32, requester side).

An embedding model is its weights' hash, dimension, spread and centring vector together; all of them, the scales that follow and what the
codes of a template stand for make the model hash that stands in every gallery, probe and grant, so that unlike vectors never meet. The
centring vector is published with the model and is never a gallery's own mean, which would be a fact about that gallery. Finding faces and
running the network is left to `agency_node.faces`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto.codes import Codes, codes_of
from crypto.errors import MisuseError
from crypto.parameters import TAIL_START, TAIL_STEP, Scales
from crypto.ring import F64, I32
from crypto.seed import Seed, gaussians

HASH_BYTES: Final = 32
_BATCH: Final = 1024
"""Rows quantised at a time, so that the intermediate float64 stay in the cache."""
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """What two parties must share to compare faces.

    `weights_sha256` names the network's file, `spread_milli` is as in `Scales`, `centre` is float32[D], subtracted from the unit embedding
    before it is normalised again.
    """

    name: str
    weights_sha256: bytes
    centre: F32
    spread_milli: int = 1000
    scales: Scales = field(init=False)
    model_hash: bytes = field(init=False)

    def __post_init__(self) -> None:
        if len(self.weights_sha256) != HASH_BYTES:
            raise MisuseError("the weights' hash has 32 bytes")
        if self.centre.ndim != 1 or self.centre.dtype != np.float32 or not np.isfinite(self.centre).all():
            raise MisuseError("the centring vector is a finite float32 vector")
        self.centre.flags.writeable = False
        scales = Scales(self.centre.size, self.spread_milli)
        object.__setattr__(self, "scales", scales)
        quantised = f"{self.spread_milli}|{scales.gamma}|{scales.mu}|{TAIL_START}|{TAIL_STEP}"
        digest = hashlib.sha256(b"sealmatch-1|model|")
        for part in (self.name.encode(), self.weights_sha256, quantised.encode(), self.centre.astype("<f4").tobytes()):
            digest.update(len(part).to_bytes(4, "big") + part)
        object.__setattr__(self, "model_hash", digest.digest())

    @property
    def dimensions(self) -> int:
        """D."""
        return int(self.centre.size)

    def centred_unit(self, embeddings: npt.NDArray[np.floating]) -> F64:
        """Embeddings normalised, centred and normalised again; [..., D] in, float64[..., D] out.

        Raises `MisuseError` for another dimension, a value that is not finite, or a vector that is zero before or after centring.
        """
        self._check_dimensions(embeddings)
        return _unit(_unit(np.asarray(embeddings, np.float64)) - self.centre)

    def _check_dimensions(self, embeddings: npt.NDArray[np.floating]) -> None:
        if embeddings.ndim < 1 or embeddings.shape[-1] != self.dimensions:
            raise MisuseError(f"embeddings of this model have {self.dimensions} dimensions")

    def templates(self, embeddings: npt.NDArray[np.floating]) -> Codes:
        """Gallery vectors: the codes nearest to gamma * unit vector; [..., D] in, int8[..., D] out."""
        self._check_dimensions(embeddings)
        out = np.empty(embeddings.shape, np.int8)
        rows, flat = embeddings.reshape(-1, self.dimensions), out.reshape(-1, self.dimensions)
        for first in range(0, len(rows), _BATCH):
            flat[first : first + _BATCH] = quantised_directions(self.centred_unit(rows[first : first + _BATCH]), self.scales)
        return out

    def probe_vector(self, embedding: npt.NDArray[np.floating]) -> I32:
        """The probe's integers m: round(mu * unit vector); [D] in, int32[D] out."""
        return np.rint(self.scales.mu * self.centred_unit(embedding)).astype(np.int32)


def quantised_directions(units: F64, scales: Scales) -> Codes:
    """Unit vectors as templates: their codes at the gallery's scale; float64[..., D] in, int8[..., D] out."""
    return codes_of(scales.gamma * units)


def filler_templates(seed: Seed, count: int, scales: Scales) -> Codes:
    """`count` uniformly random directions as templates; int8[count, D]. They fill slots without a record, where zeros would show."""
    vectors = gaussians(seed, "filler", count * scales.dimensions).reshape(count, scales.dimensions)
    return quantised_directions(_unit(vectors), scales)


def face_commitment(salt: bytes, image_digest: bytes, model_hash: bytes, probe_vector: I32) -> bytes:
    """SHA-256(salt, image digest, model hash, m): ties the grant to the vector that the reviewer's side recomputes from the image.

    The image's digest stands for the picture and all that was done to it: a node gives the head of its chain from the original on (R19).
    Salt, digest and hash have 32 bytes; m is written as little-endian int32, so the framing is unambiguous.
    """
    if not len(salt) == len(image_digest) == len(model_hash) == HASH_BYTES:
        raise MisuseError("salt, image digest and model hash have 32 bytes each")
    body = salt + image_digest + model_hash + probe_vector.astype("<i4").tobytes()
    return hashlib.sha256(b"sealmatch-1|face-commit|" + body).digest()


def _unit(vectors: F64) -> F64:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise MisuseError("an embedding is zero or not finite")
    return np.asarray(vectors / norms)
