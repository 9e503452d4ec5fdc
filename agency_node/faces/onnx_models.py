"""The one door to onnxruntime and insightface: checked bytes of a model in, insightface's detector and recogniser out.

Invariants: onnxruntime's telemetry is off before it is imported, which is the only moment that counts (version 1.32 otherwise writes two
files into the home folder and dials its maker within a minute; its own `disable_telemetry_events()` comes too late). A model is made from
bytes in memory whose hash was checked, never from a path that could hold other bytes by then, and never one that draws weights from
further files, which no hash here covers. insightface gets neither a model's name nor a place to put one, so it has nothing to fetch.
Importing this module takes 1.5 s and 150 MB: who has a picture imports it.

Left to others: which bytes (`pack`), what a face is (`insightface_embedder`).
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Final

from agency_node.errors import ConfigError

TELEMETRY_SWITCH: Final = "ORT_DISABLE_TELEMETRY"
EXTRA: Final = "the packages of the extra `insightface` are not installed: run `pip install 'sealmatch[insightface]'`"

if "onnxruntime" in sys.modules and os.environ.get(TELEMETRY_SWITCH) != "1":
    raise ConfigError(f"onnxruntime was imported before its telemetry was switched off: start again with {TELEMETRY_SWITCH}=1")
os.environ[TELEMETRY_SWITCH] = "1"
# For each face, of a function that insightface calls in scikit-image; it says nothing to whoever waits.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"insightface\.")

try:
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
except ImportError as _error:
    raise ConfigError(EXTRA) from _error

_PROVIDERS: Final = ("CPUExecutionProvider",)
_DETECTOR_OUTPUTS: Final = 9
"""Scores, boxes and five landmarks, at three strides."""
_LEAST_SIDE: Final = 112
_ERRORS_ONLY: Final = 3


def detector(data: bytes) -> Any:  # noqa: ANN401  # insightface has no types
    """insightface's SCRFD over this model; `ConfigError` for a model that is none."""
    session = _session(data, "detection")
    if len(session.get_outputs()) != _DETECTOR_OUTPUTS:
        raise ConfigError(
            "the pack's detection model has no landmarks: name an SCRFD model with five of them (its name ends in kps, or _10g)"
        )
    # Without a file of its own SCRFD uses this session for every size of its input.
    return _zoo("scrfd").SCRFD(model_file=None, session=session)


def recogniser(data: bytes) -> Any:  # noqa: ANN401  # insightface has no types
    """insightface's ArcFace over this model; `ConfigError` for a model that is none."""
    session = _session(data, "recognition")
    (shape, *more), outputs = [one.shape for one in session.get_inputs()], session.get_outputs()
    side = shape[2] if len(shape) == 4 else None
    if more or len(outputs) != 1 or not isinstance(side, int) or shape[3] != side or side % _LEAST_SIDE:
        raise ConfigError(
            "the pack's recognition model is not of ArcFace's form: it takes one square face of 112 pixels and gives one vector"
        )
    return _zoo("arcface_onnx").ArcFaceONNX(model_file=io.BytesIO(data), session=session)


def aligned(pixels: Any, landmarks: Any, side: int) -> Any:  # noqa: ANN401  # arrays of insightface
    """The face cut as ArcFace was trained, uint8[side, side, 3] in the order of colours that `pixels` has."""
    return importlib.import_module("insightface.utils.face_align").norm_crop(pixels, landmarks, side)


def _zoo(name: str) -> Any:  # noqa: ANN401  # a module
    try:
        return importlib.import_module(f"insightface.model_zoo.{name}")
    except ImportError as error:
        raise ConfigError(EXTRA) from error


def _session(data: bytes, task: str) -> Any:  # noqa: ANN401  # onnxruntime's session
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ConfigError(f"the pack's {task} model is not an ONNX model: take it anew from where it came") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model)):
        raise ConfigError(f"the pack's {task} model keeps weights in other files, which no hash covers: save it as one file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one order of additions, whatever machine and load
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(data, options, providers=list(_PROVIDERS))
    except Exception as error:  # its errors have no root of their own
        raise ConfigError(f"onnxruntime cannot run the pack's {task} model: take it anew from where it came") from error


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initial values, attributes, and those of graphs inside."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in [value] if isinstance(value, Message) else value:
                yield from _tensors(one)
