"""Faces with insightface: SCRFD detection, five landmarks, alignment and an ArcFace network, from a pack that the agency brings.

**What the model is.** `weights_sha256` is SHA-256 over `PROCEDURE` and the SHA-256 of the detection and the recognition model in hex, each
on a line of its own; with name, spread and centre of pack.json it makes the model hash that stands in galleries, probes and grants.
`PROCEDURE` names all that moves an embedding beside the files. Who changes one of these changes `PROCEDURE`.

**Detection.** A picture is shown to the detector at 640 pixels, and at 128 if there was no face: a face that fills the picture is too large
for the strides of the first. Its faces are those of the first view that shows one, as with dlib, at a score of 0.5 or more.

**Embedding.** insightface's own alignment on the five landmarks to 112 pixels, one pass of the network, as the published figures of these
models are made.

Invariants: sessions are used by one thread at a time; they are made when the first picture comes, from bytes whose hash is checked then and
there, since a node that only serves needs the model's hash alone. Nothing is fetched, and no file is written (`onnx_models`).
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np

from agency_node.errors import ConfigError, ImageError, ImageFault
from agency_node.faces.embedder import Box, Face, Landmarks
from agency_node.faces.image import Pixels
from agency_node.faces.pack import PackManifest, PackModels, PinnedPack, check_models, read_manifest, read_models
from crypto.embedding import F32, EmbeddingModel
from crypto.errors import MisuseError

PROCEDURE: Final = "insightface 2: SCRFD at 640 then 128 pixels, score 0.5, overlap 0.4, alignment to 112 on 5 landmarks, one pass"
_SIDES: Final = (640, 128)
_NARROWEST: Final = 16
_LEAST_SCORE: Final = 0.5
_OVERLAP: Final = 0.4


class InsightfaceEmbedder:
    """The embedder of one pack."""

    def __init__(self, folder: Path, manifest: PackManifest) -> None:
        """`ConfigError` when a model is missing, is not the pinned one, or the manifest's statistics fit no parameter set."""
        check_models(folder, manifest)
        self._folder, self._manifest = folder, manifest
        self._lock = threading.Lock()
        self._parts: _Parts | None = None
        lines = (PROCEDURE, manifest.detection.sha256, manifest.recognition.sha256)
        weights = hashlib.sha256("".join(f"{line}\n" for line in lines).encode("ascii")).digest()
        try:
            self._model = EmbeddingModel(manifest.name, weights, np.array(manifest.centre, np.float32), manifest.spread_milli)
        except MisuseError as error:
            raise ConfigError(f"the face pack cannot be used ({error}): measure it anew with `sealmatch faces measure`") from error

    @property
    def model(self) -> EmbeddingModel:
        """Name, hash of the files and the procedure, centre, spread."""
        return self._model

    def faces(self, pixels: Pixels) -> list[Face]:
        """Every face of the first view in which there is one, from left to right."""
        with self._lock:
            if self._parts is None:
                self._parts = _Parts(read_models(self._folder, self._manifest), self._model.dimensions)
            return self._parts.faces(pixels)

    def __repr__(self) -> str:
        return f"InsightfaceEmbedder(model={self._model.name})"


def load(pack: PinnedPack) -> InsightfaceEmbedder:
    """The embedder of that pack."""
    return InsightfaceEmbedder(pack.folder, read_manifest(pack))


class _Parts:
    """insightface's objects. Not for two threads at once."""

    def __init__(self, models: PackModels, dimensions: int) -> None:
        from agency_node.faces import onnx_models  # noqa: PLC0415  # 1.5 s and 150 MB: only for who has a picture

        self._aligned = onnx_models.aligned
        self._detector = onnx_models.detector(models.detection)
        self._detector.prepare(-1, nms_thresh=_OVERLAP, det_thresh=_LEAST_SCORE)
        self._recogniser = onnx_models.recogniser(models.recognition)
        self._dimensions = dimensions

    def faces(self, pixels: Pixels) -> list[Face]:
        if max(pixels.shape[:2]) > _NARROWEST * min(pixels.shape[:2]):
            return []  # at the detector's size the narrow side would have no pixels left to show a face in
        coloured = np.ascontiguousarray(pixels[:, :, ::-1])  # insightface takes blue first
        for side in _SIDES:
            found, landmarks = self._detector.detect(coloured, input_size=(side, side))
            if len(found):
                faces = [self._face(coloured, box, points) for box, points in zip(found, landmarks, strict=True)]
                return sorted(faces, key=lambda face: (face.box.left, face.box.top))
        return []

    def _face(self, coloured: Pixels, box: Any, points: Any) -> Face:  # noqa: ANN401  # insightface has no types
        left, top, right, bottom = (round(float(value)) for value in box[:4])
        eyes = np.asarray(points[:2], np.float64)
        if not np.isfinite(points).all() or float(np.linalg.norm(eyes[0] - eyes[1])) < 1:
            says = "a face was found whose eyes could not be told apart: take a picture that shows the face larger"
            raise ImageError(ImageFault.UNCLEAR_FACE, says)
        cut = self._aligned(coloured, points, self._recogniser.input_size[0])
        embedding: F32 = np.asarray(self._recogniser.get_feat(cut), np.float32)
        if embedding.size != self._dimensions:
            raise ConfigError(f"the recognition model gives {embedding.size} dimensions, and pack.json says {self._dimensions}")
        landmarks = Landmarks.of(points[0], points[1], points[2])
        return Face(Box(left, top, right - left, bottom - top), embedding.ravel(), landmarks, np.ascontiguousarray(cut[:, :, ::-1]))
