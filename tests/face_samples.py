"""Pictures for tests: the two real photographs that packages bring, worse copies of them, and an embedder that needs no network."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from agency_node.faces.embedder import Box, Face
from agency_node.faces.image import Pixels
from crypto.embedding import EmbeddingModel


def package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / name


@functools.cache
def astronaut() -> bytes:
    return package_file("skimage", "data/astronaut.png").read_bytes()


@functools.cache
def hopper() -> bytes:
    return package_file("matplotlib", "mpl-data/sample_data/grace_hopper.jpg").read_bytes()


def encoded(picture: Image.Image | Pixels, kind: str = "PNG", **options: object) -> bytes:
    target = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(target, kind, **options)
    return target.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def pixels(data: bytes) -> Pixels:
    return np.asarray(opened(data).convert("RGB"))


def degraded(data: bytes) -> bytes:
    """Half the size, blurred with sigma 1, JPEG of quality 30: the still of the demonstration."""
    picture = opened(data).convert("RGB")
    small = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    return encoded(small.filter(ImageFilter.GaussianBlur(1)), "JPEG", quality=30)


def plain_picture(number: int, side: int = 32) -> bytes:
    """A picture of one colour in which `OneFaceEmbedder` sees a face; another embedding for every number."""
    colour = (number % 256, number // 256 % 256, 77)
    return encoded(np.full((side, side, 3), colour, np.uint8))


class OneFaceEmbedder:
    """Sees as many faces as the blue of the first pixel says, 77 meaning one; embeddings follow from the pixels. D = 16."""

    def __init__(self, name: str = "test-one-face") -> None:
        self.model = EmbeddingModel(name, bytes(32), np.zeros(16, np.float32), 2000)
        self.seen = 0

    def faces(self, pixels: Pixels) -> list[Face]:
        self.seen += 1
        count = {77: 1, 78: 2}.get(int(pixels[0, 0, 2]), 0)
        seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8])
        embedding = np.random.default_rng(seed).standard_normal(16).astype(np.float32)
        return [Face(Box(0, 0, 24, 24), embedding)] * count
