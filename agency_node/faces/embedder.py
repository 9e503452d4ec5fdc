"""What finds faces and turns each into an embedding: the interface, and which embedders there are.

Invariants: an embedder has one `EmbeddingModel`, whose hash covers everything on which its embeddings depend, so that two nodes with equal
hashes may compare; the same pixels give the same embedding; an embedding stands in no `repr` and no error text. A search or an enrolment
takes a picture with exactly one face: nobody but the person who brought the picture can say which of two is meant.

Left to others: reading the picture (`image`), what becomes of an embedding (`crypto.embedding`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np

from agency_node.errors import ConfigError, ImageError
from agency_node.faces.image import Pixels, StillImage
from agency_node.faces.synthetic_embedder import SYNTHETIC_DIMENSIONS, SyntheticEmbedder, synthetic_model
from crypto.embedding import F32, EmbeddingModel


@dataclass(frozen=True)
class Box:
    """Where a face is, in pixels of the upright picture; may reach over its edge."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Face:
    """One face: its place, and its embedding as the network gives it, float32[D], neither centred nor normalised."""

    box: Box
    embedding: F32 = field(repr=False)


class Embedder(Protocol):
    """Finds and embeds faces; safe to call from several threads."""

    @property
    def model(self) -> EmbeddingModel:
        """What two parties must share to compare what this embedder makes."""

    def faces(self, pixels: Pixels) -> list[Face]:
        """Every face found in uint8[h, w, 3], from left to right."""


class _EmbedderModule(Protocol):
    def load(self) -> Embedder: ...


_MODULES: Final[Mapping[str, str]] = MappingProxyType({"dlib": "agency_node.faces.dlib_embedder"})
"""Modules by the name that `node.toml` gives; each is imported when it is asked for, and has a function `load`."""
_SYNTHETIC: Final = MappingProxyType({f"synthetic-{dimensions}": dimensions for dimensions in SYNTHETIC_DIMENSIONS})
"""Models without a network, by name; for demonstrations and tests only, which `agency_node.config` checks."""


def load_embedder(name: str) -> Embedder:
    """The embedder of that name; `ConfigError` for a name that nobody knows, or when its files are not those of its model."""
    if name in _SYNTHETIC:
        return SyntheticEmbedder(synthetic_model(_SYNTHETIC[name]))
    if name not in _MODULES:
        raise ConfigError(
            f"there is no embedder of that name: set `embedder` in node.toml to one of: {', '.join(sorted(_MODULES))}; in demo and test "
            f"modes also {', '.join(sorted(_SYNTHETIC))}"
        )
    module: _EmbedderModule = importlib.import_module(_MODULES[name])
    return module.load()


def the_one_face(embedder: Embedder, image: StillImage) -> Face:
    """The picture's only face; `ImageError` that says what to do when there is none, or more than one."""
    faces = embedder.faces(np.ascontiguousarray(image.pixels))
    if not faces:
        raise ImageError(
            "no face was found: take a picture that shows the face from the front, with its eyes visible, and larger or sharper"
        )
    if len(faces) > 1:
        raise ImageError(f"{len(faces)} faces were found: cut the picture to the one face that is meant, with some room around the head")
    return faces[0]
