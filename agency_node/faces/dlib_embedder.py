"""Faces with dlib: built-in frontal detector, 5 landmarks, a 128-dimensional residual network. Works offline on one core.

The weights (public domain, CC0) are files of the package `face_recognition_models`; the package itself is never imported (it needs a
module that new Python environments lack) and its 68-point landmarks are never opened (trained on pictures for non-commercial use only).

**What the model is.** `weights_sha256` is SHA-256 over `PROCEDURE` and the SHA-256 of each used file in hex, in the order of `_FILES`, each
on a line of its own; the files must be those that are pinned here, since the centring vector belongs to them. `PROCEDURE` names all that
moves an embedding beside the files: detector, order of views, cut, mirror. Who changes one of these changes `PROCEDURE`.

**Detector.** dlib brings two. On the photographs of astronaut (A, 512 x 512) and Hopper (H, 512 x 600) and 8 degraded copies of each (a
half to an eighth of the size, blur up to sigma 3, JPEG quality 30) each found the face in 13 of 18, the built-in one (gradients) in 0.03 s
a view and 0.12 s twice enlarged, the network in the file `mmod_human_face_detector.dat` in 1.7 and 9 s; so the first. It finds faces of 80
pixels and more and is shown the picture at growing sizes until there is a face: the picture's faces are those of the first view that shows
one, so a person far behind another does not count.

**Embedding.** The mean of a face's embedding and its mirror image's. **Centre.** Raw cosines of different people are near 0.9. Centred by
the mean of 100 public faces (`make_dlib_centre`), these are the cosines of A and H with their copies A' and H' at half size, blurred with
sigma 1, as JPEG of quality 30; of A with H; and the highest of any copy of A with any of H:

======================================  =====  =====  ===========  =================
what                                    A, A'  H, H'  A, H         highest stranger
======================================  =====  =====  ===========  =================
not centred                             0.954  0.990  0.883        0.936
0.8 of the centre                       0.756  0.939  0.378        0.618
0.9 of the centre                       0.723  0.927  0.288        0.547
centred                                 0.712  0.922  0.259        0.517
centred, mean with mirror image (used)  0.759  0.935  0.309        0.496
centred, mean of 10 jittered cuts       0.760  0.941  0.322        0.473
======================================  =====  =====  ===========  =================

Ten jittered cuts cost five times the mirror image and need random numbers. Strangers in the centring set, one half centred by the other's
mean: cosine 0.01 on average, standard deviation 0.19, where random directions have 0.088: faces fill about 23 of the 128 dimensions.

**Spread.** The widest coordinate of the centred set has 1.32 times the standard deviation of an isotropic one. Published: 1.5, because 100
small pictures are few, and it costs little: gamma 281 and mu 1497 with a score's error of 0.00132, instead of 358, 1177 and 0.00120 for an
isotropic model. The largest coordinate seen is 3.7 times 1/sqrt(D), the last code lies at 8.8. A, A' quantised: 0.759 as before.

Invariants: dlib's objects are used by one thread at a time; they are loaded when the first picture comes, since a node that only serves
needs the model's hash alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from PIL import Image

from agency_node.errors import ConfigError
from agency_node.faces.embedder import Box, Face, Landmarks
from agency_node.faces.image import Pixels
from crypto.embedding import F32, EmbeddingModel

DIMENSIONS: Final = 128
SPREAD_MILLI: Final = 1500
CENTRE_FILE: Final = Path(__file__).with_name("dlib_centre.json")
PROCEDURE: Final = "dlib frontal detector, views from 2^18 pixels doubling, 5 landmarks, cut 150 with 0.25 padding, mean with mirror image"
_NAME: Final = "dlib-resnet-1"

_LANDMARKS: Final = "shape_predictor_5_face_landmarks.dat"
_NETWORK: Final = "dlib_face_recognition_resnet_model_v1.dat"
_FILES: Final = MappingProxyType(
    {
        _LANDMARKS: "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        _NETWORK: "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    }
)

_CUT_PIXELS: Final = 150
_CUT_PADDING: Final = 0.25
_FIRST_VIEW_PIXELS: Final = 1 << 18
"""Size of the first view: a face that fills a sixth of the width is found in it, in 0.03 s."""
_LARGEST_VIEW_PIXELS: Final = 1 << 24
_MOST_UPSAMPLING: Final = 2
_SURE: Final = 0.3
"""A finding with a lower score counts only when no other has a higher one: folds of clothes reach 0.15, faces 0.3 to 1.5."""


class DlibEmbedder:
    """The embedder of one folder of model files, centred by the published vector unless another one is given."""

    def __init__(self, folder: Path, centre: F32 | None = None) -> None:
        """`ConfigError` when a file is missing or is not the pinned one."""
        self._folder = folder
        self._lock = threading.Lock()
        self._parts: _Parts | None = None
        digest = hashlib.sha256(PROCEDURE.encode("ascii") + b"\n")
        for name, pinned in _FILES.items():
            found = _file_sha256(folder / name)
            if found != pinned:
                raise ConfigError(f"{name} is not the file of this model: install face_recognition_models again, in the locked version")
            digest.update(found.encode("ascii") + b"\n")
        self._model = EmbeddingModel(_NAME, digest.digest(), read_centre() if centre is None else centre, SPREAD_MILLI)

    @property
    def model(self) -> EmbeddingModel:
        """Name, hash of the files and the procedure, centre, spread."""
        return self._model

    def faces(self, pixels: Pixels) -> list[Face]:
        """Every face of the first view in which there is one, from left to right."""
        with self._lock:
            parts = self._loaded()
            return [parts.face(pixels, box) for box in parts.find(pixels)]

    def embed_at(self, pixels: Pixels, box: Box) -> F32:
        """The embedding of a face whose place is known already, float32[128]."""
        with self._lock:
            return self._loaded().face(pixels, box).embedding

    def _loaded(self) -> _Parts:
        if self._parts is None:
            self._parts = _Parts(self._folder)
        return self._parts

    def __repr__(self) -> str:
        return f"DlibEmbedder(model={self._model.name})"


def load() -> DlibEmbedder:
    """The embedder of the installed package's files."""
    return DlibEmbedder(models_folder())


def models_folder() -> Path:
    """Where the installed package keeps its files, found without importing it."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the package face_recognition_models is not installed: install it in the locked version")
    return Path(spec.submodule_search_locations[0]) / "models"


def read_centre() -> F32:
    """The published centring vector, float32[128]."""
    values: list[float] = json.loads(CENTRE_FILE.read_text("ascii"))["centre"]
    return np.array(values, np.float32)


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read: install face_recognition_models again, in the locked version") from error


class _Parts:
    """dlib's objects. Not for two threads at once."""

    def __init__(self, folder: Path) -> None:
        import dlib  # noqa: PLC0415  # 0.3 s and 60 MB: only for who has a picture

        self._dlib: Any = dlib
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(folder / _LANDMARKS))
        self._network = dlib.face_recognition_model_v1(str(folder / _NETWORK))

    def find(self, pixels: Pixels) -> list[Box]:
        height, width = pixels.shape[:2]
        for scale, upsampling in _views(height * width):
            view = pixels if scale == 1 else _shrunk(pixels, scale)
            # The detector multiplies the size by 2^upsampling itself and answers in pixels of what it was given.
            rectangles, scores, _ = self._detector.run(view, upsampling, 0.0)
            if len(rectangles):
                enough = min(_SURE, max(scores))
                found = [_box(rectangle, scale) for rectangle, score in zip(rectangles, scores, strict=True) if score >= enough]
                return sorted(found, key=lambda box: (box.left, box.top))
        return []

    def face(self, pixels: Pixels, box: Box) -> Face:
        place = self._dlib.rectangle(box.left, box.top, box.left + box.width - 1, box.top + box.height - 1)
        shape = self._landmarks(pixels, place)
        cut: Pixels = self._dlib.get_face_chip(pixels, shape, _CUT_PIXELS, _CUT_PADDING)
        mirrored = np.ascontiguousarray(cut[:, ::-1])
        both = np.array(self._network.compute_face_descriptor([cut, mirrored], 0))
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float64)
        landmarks = Landmarks.of(points[:2].mean(axis=0), points[2:4].mean(axis=0), points[4])
        return Face(box, np.asarray(both.mean(axis=0), np.float32), landmarks, np.ascontiguousarray(cut))


def _views(pixels: int) -> list[tuple[float, int]]:
    """The sizes at which a picture is looked at: shrink to this share, then double so many times."""
    scale = min(1.0, math.sqrt(_FIRST_VIEW_PIXELS / pixels))
    views = [(scale, 0)]
    while scale < 1:
        scale = min(1.0, 2 * scale)
        views.append((scale, 0))
    upsamplings = range(1, _MOST_UPSAMPLING + 1)
    return views + [(1.0, times) for times in upsamplings if pixels * 4**times <= _LARGEST_VIEW_PIXELS]


def _shrunk(pixels: Pixels, scale: float) -> Pixels:
    height, width = pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _box(rectangle: Any, scale: float) -> Box:  # noqa: ANN401  # dlib has no types
    left, top = round(rectangle.left() / scale), round(rectangle.top() / scale)
    return Box(left, top, round(rectangle.width() / scale), round(rectangle.height() / scale))
