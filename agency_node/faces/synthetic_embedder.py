"""The model of synthetic records: a number of dimensions and nothing behind it, for benchmarks at sizes that no photographs exist for.

Invariants: there is no network, so no picture becomes an embedding here; a node in production mode refuses the name (`agency_node.config`).
Directions are enrolled by `holder.enrol.enrol_directions`, and whoever searches brings an embedding of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np

from agency_node.errors import ImageError, ImageFault
from agency_node.faces.image import Pixels
from crypto.embedding import EmbeddingModel

SYNTHETIC_DIMENSIONS: Final = (128, 512)
"""Those of dlib and of ArcFace."""


@dataclass(frozen=True)
class SyntheticEmbedder:
    """The embedder that a node names to serve synthetic records; it reads no picture."""

    model: EmbeddingModel

    def faces(self, pixels: Pixels) -> NoReturn:
        """Always an `ImageError`."""
        del pixels
        says = "synthetic records have no pictures: set `embedder` in node.toml to a face model to work with photographs"
        raise ImageError(ImageFault.SYNTHETIC, says)


def synthetic_model(dimensions: int) -> EmbeddingModel:
    """The model of so many dimensions: isotropic, centred at the origin."""
    return EmbeddingModel("synthetic-isotropic", bytes(32), np.zeros(dimensions, np.float32))
