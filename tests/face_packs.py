"""Small ONNX models with the names, ranks and rules of the real ones, and pictures that they see faces in.

The detection model sees a face where a cell of 16 pixels is pure red, 80 pixels wide, with ArcFace's own five landmarks around it. The
recognition model averages the cut face's cells of 14 pixels and multiplies by a random matrix: faces of like colours in like places are
alike. Detection, alignment and embedding then run through insightface and onnxruntime as they do for weights worth 190 MB.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from agency_node.faces.image import Pixels
from agency_node.faces.pack import PACK_FILE, ModelFile, PackManifest, PinnedPack
from tests.face_samples import encoded

DETECTION: Final = "det_small.onnx"
RECOGNITION: Final = "rec_small.onnx"
LICENCE: Final = "made for tests, of random numbers"
DIMENSIONS: Final = 512
ALIGNED: Final = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""Where ArcFace's landmarks lie in the 112 pixels of a cut face."""
HALF_FACE: Final = 2.5
"""In cells of the stride."""
CENTRE: Final = 160
"""Where the face of `face_picture` has its red cell, in both directions."""


def saved(nodes: list[Any], weights: list[Any], outputs: list[tuple[str, int]], shape: list[str | int | None]) -> bytes:
    """A model with one input and these outputs, in a form that old runtimes read too."""
    given = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows" + name, width]) for name, width in outputs]
    graph = helper.make_graph(nodes, "small", [given], made, weights)
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return data


@functools.cache
def detection_model() -> bytes:
    """SCRFD's nine outputs (scores, boxes, landmarks, each at strides 8, 16, 32); only the middle stride ever sees anything."""
    nodes, weights = [], []
    widths = {"score": 1, "box": 4, "kps": 10}
    for stride in (8, 16, 32):
        red = np.array([8.0, -4.0, -4.0]) if stride == 16 else np.zeros(3)
        convolutions = {
            "score": (np.tile(red, (2, 1)), np.full(2, -6.0)),
            "box": (np.zeros((8, 3)), np.full(8, HALF_FACE)),
            "kps": (np.zeros((20, 3)), np.tile(((ALIGNED - 56) / 56 * HALF_FACE).ravel(), 2)),
        }
        source, side = ("input.1", 8) if stride == 8 else (f"mean{stride // 2}", 2)  # a mean of means costs a third of three means
        nodes.append(helper.make_node("AveragePool", [source], [f"mean{stride}"], kernel_shape=[side, side], strides=[side, side]))
        for what, (factors, bias) in convolutions.items():
            name = f"{what}{stride}"
            weights += [
                numpy_helper.from_array(factors.astype(np.float32)[:, :, None, None], "w" + name),
                numpy_helper.from_array(bias.astype(np.float32), "b" + name),
                numpy_helper.from_array(np.array([-1, widths[what]]), "r" + name),
            ]
            nodes.append(helper.make_node("Conv", [f"mean{stride}", "w" + name, "b" + name], ["c" + name]))
            last = "c" + name
            if what == "score":
                nodes.append(helper.make_node("Sigmoid", [last], ["g" + name]))
                last = "g" + name
            nodes.append(helper.make_node("Transpose", [last], ["t" + name], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", ["t" + name, "r" + name], [name]))
    outputs = [(f"{what}{stride}", width) for what, width in widths.items() for stride in (8, 16, 32)]
    return saved(nodes, weights, outputs, [1, 3, "?", "?"])


@functools.cache
def recognition_model(seed: int = 7, side: int = 112) -> bytes:
    """ArcFace's form: one face of 112 pixels in, 512 numbers out."""
    matrix = np.random.default_rng(seed).standard_normal((3 * (side // 14) ** 2, DIMENSIONS)).astype(np.float32) / 14
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["mean"], kernel_shape=[14, 14], strides=[14, 14]),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "matrix"], ["683"]),
    ]
    return saved(nodes, [numpy_helper.from_array(matrix, "matrix")], [("683", DIMENSIONS)], ["None", 3, side, side])


def face_picture(person: int, places: tuple[tuple[int, int], ...] = ((CENTRE, CENTRE),), side: int = 320) -> Pixels:
    """A picture in which the detection model sees a face at each place, all of that person's colours; shown twice enlarged, a cell is 8."""
    colours = np.random.default_rng(person).integers(0, 255, (10, 10, 3)).astype(np.uint8)
    colours[:, :, 0] //= 2  # nothing is as red as what is looked for
    colours[:, :, 1] |= 64
    patch = np.asarray(Image.fromarray(colours).resize((60, 60), Image.Resampling.NEAREST))
    out = np.full((side, side, 3), 110, np.uint8)
    for x, y in places:
        out[y - 28 : y + 32, x - 28 : x + 32] = patch
        out[y : y + 8, x : x + 8] = (255, 0, 0)
    return out


def write_models(folder: Path, seed: int = 7) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DETECTION).write_bytes(detection_model())
    (folder / RECOGNITION).write_bytes(recognition_model(seed))


def model_file(folder: Path, name: str) -> ModelFile:
    return ModelFile(file=name, sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest())


def write_pack(folder: Path, seed: int = 7, **changes: Any) -> PinnedPack:
    """A pack in that folder, centred at the origin unless told otherwise."""
    write_models(folder, seed)
    values: dict[str, Any] = {
        "name": "small",
        "licence": LICENCE,
        "detection": model_file(folder, DETECTION),
        "recognition": model_file(folder, RECOGNITION),
        "faces": 1,
        "faces_sha256": "0" * 64,
        "spread_milli": 3000,
        "centre": [0.0] * DIMENSIONS,
    } | changes
    return pin(folder, PackManifest(**values).to_bytes())


def pin(folder: Path, manifest: bytes) -> PinnedPack:
    (folder / PACK_FILE).write_bytes(manifest)
    return PinnedPack(folder, hashlib.sha256(manifest).hexdigest())


def write_faces(folder: Path, count: int) -> Path:
    """Pictures of so many persons."""
    folder.mkdir()
    for person in range(count):
        (folder / f"{person:03d}.png").write_bytes(encoded(face_picture(person)))
    return folder
