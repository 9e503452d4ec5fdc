"""What finds faces and turns each into an embedding: the interface, and which embedders there are.

Invariants: an embedder has one `EmbeddingModel`, whose hash covers everything on which its embeddings depend, so that two nodes with equal
hashes may compare; the same pixels give the same embedding; an embedding stands in no `repr` and no error text. A search or an enrolment
takes a picture with exactly one face: nobody but the person who brought the picture can say which of two is meant.

Left to others: reading the picture (`image`), what becomes of an embedding (`crypto.embedding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np

from agency_node.errors import ConfigError, ImageError, ImageFault
from agency_node.faces.image import Pixels, StillImage
from agency_node.faces.pack import PinnedPack
from agency_node.faces.synthetic_embedder import SYNTHETIC_DIMENSIONS, SyntheticEmbedder, synthetic_model
from crypto.embedding import F32, EmbeddingModel


@dataclass(frozen=True)
class Box:
    """Where a face is, in pixels of the upright picture; may reach over its edge."""

    left: int
    top: int
    width: int
    height: int


Point = tuple[float, float]
"""x and y in pixels of the upright picture."""


@dataclass(frozen=True)
class Landmarks:
    """Places in a face: the middles of both eyes, as they lie in the picture, and the nose (its tip, or with dlib its base)."""

    left_eye: Point
    right_eye: Point
    nose: Point

    @classmethod
    def of(cls, one_eye: Sequence[float], other_eye: Sequence[float], nose: Sequence[float]) -> Landmarks:
        """From eyes in any order."""
        left, right = sorted(((float(one_eye[0]), float(one_eye[1])), (float(other_eye[0]), float(other_eye[1]))))
        return cls(left, right, (float(nose[0]), float(nose[1])))


@dataclass(frozen=True, eq=False)
class Face:
    """One face: its place, its embedding as the network gives it, float32[D], neither centred nor normalised, its landmarks, without
    which its quality is not known, and the cut that the network was shown, upright in RGB."""

    box: Box
    embedding: F32 = field(repr=False)
    landmarks: Landmarks | None = field(default=None, repr=False)
    aligned: Pixels | None = field(default=None, repr=False)


class Embedder(Protocol):
    """Finds and embeds faces; safe to call from several threads."""

    @property
    def model(self) -> EmbeddingModel:
        """What two parties must share to compare what this embedder makes."""

    def faces(self, pixels: Pixels) -> list[Face]:
        """Every face found in uint8[h, w, 3], from left to right."""


PACKED: Final = "insightface"
"""The embedder whose models the agency brings, in a pack that `node.toml` names."""
_NAMES: Final = ("dlib", PACKED)
_SYNTHETIC: Final = MappingProxyType({f"synthetic-{dimensions}": dimensions for dimensions in SYNTHETIC_DIMENSIONS})
"""Models without a network, by name; for demonstrations and tests only, which `agency_node.config` checks."""


def load_embedder(name: str, pack: PinnedPack | None = None) -> Embedder:
    """The embedder of that name; `ConfigError` for a name that nobody knows, or when its files are not those of its model."""
    if name in _SYNTHETIC:
        return SyntheticEmbedder(synthetic_model(_SYNTHETIC[name]))
    if name == "dlib":
        from agency_node.faces import dlib_embedder  # noqa: PLC0415  # it needs `Face` from here

        return dlib_embedder.load()
    if name != PACKED:
        raise ConfigError(
            f"there is no embedder of that name: set `embedder` in node.toml to one of: {', '.join(_NAMES)}; in demo and test "
            f"modes also {', '.join(sorted(_SYNTHETIC))}"
        )
    if pack is None:
        raise ConfigError(f"the embedder {PACKED} works with a pack: name its folder, and what its pack.json hashes to")
    from agency_node.faces import insightface_embedder  # noqa: PLC0415  # it needs `Face` from here

    return insightface_embedder.load(pack)


def the_one_face(embedder: Embedder, image: StillImage) -> Face:
    """The picture's only face; `ImageError` that says what to do when there is none, or more than one."""
    faces = embedder.faces(np.ascontiguousarray(image.pixels))
    if not faces:
        raise ImageError(
            ImageFault.NO_FACE,
            "no face was found: take a picture that shows the face from the front, with its eyes visible, and larger or sharper",
        )
    if len(faces) > 1:
        says = f"{len(faces)} faces were found: cut the picture to the one face that is meant, with some room around the head"
        raise ImageError(ImageFault.SEVERAL_FACES, says)
    (face,) = faces
    if not np.isfinite(face.embedding).all() or not face.embedding.any():
        raise ImageError(ImageFault.UNCLEAR_FACE, "the face gives the network nothing to go by: take another picture of the person")
    return face
