"""How good a picture of a face is to search with: measures of ISO/IEC 29794-5 that need no further network, and one value from 0 to 100.

The standard's reference code (OFIQ) needs a dozen networks; of its components those stand here that follow from pixels, landmarks and the
file. They are computed on the luminance Y = 0.299 R + 0.587 G + 0.114 B of the face: the square around the detector's box with its side,
inside the picture. Names, definitions and units are ours where the standard has several ways; each says so.

**The unified value is a heuristic of this project**, not the standard's, which comes from a network. Every measure is mapped to 0..100 on
straight lines between the points of `_CURVES`, and the lowest decides: a picture is as good as what is worst about it. The curves were set
by hand on the photographs of astronaut and Hopper and degraded copies of them, so that the value falls as each kind of damage grows.
These are values and cosines to the original, with dlib:

==========================  ======  =====  ======  =====
copy                        A       cos    H       cos
==========================  ======  =====  ======  =====
as it is                    83      1.00   100     1.00
half the size               52      0.94   83      0.98
a quarter of the size       15      0.81   53      0.94
blurred, sigma 2            39      0.84   88      0.93
blurred, sigma 3            23      0.73   66      0.88
JPEG of quality 5           48      0.74   46      0.94
half, sigma 1, quality 30   43      0.76   82      0.93
a sixth of the light        33      0.86   38      0.90
==========================  ======  =====  ======  =====

Two faces are few, and the value says nothing of a cosine to somebody else: an agency that has measured its own stills sets its own limits
in its policy pack. It is not comparable with a value that OFIQ gives.

Invariants: the same picture, file and face give the same values; nothing here learns who is in the picture. Left to others: what follows
from a low value (`policy.quality_limits`), showing it, OFIQ's own values (`ofiq`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from agency_node.faces.embedder import Box, Face, Landmarks
from agency_node.faces.image import Pixels, StillImage
from agency_node.faces.ofiq import Measures

_LUMINANCE: Final = np.array([0.299, 0.587, 0.114])
_DARK, _BRIGHT = 25, 247
_SIDE: Final = 128
_LARGEST_CUT: Final = 512

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """One face's measures. `unified` is the value that limits are set on."""

    unified: int
    inter_eye_px: float
    roll_deg: float
    turn: float
    sharpness: float
    dark_share: float
    bright_share: float
    dynamic_range_bits: float
    compression_ratio: float
    ofiq: Measures = field(default_factory=dict)
    """What OFIQ says, where it is installed (`ofiq`); empty elsewhere."""

    def to_json(self) -> dict[str, Any]:
        """For a sealed row."""
        kept = asdict(self)
        return kept if self.ofiq else {name: value for name, value in kept.items() if name != "ofiq"}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Quality:
        """Inverse of `to_json`."""
        told = {name: (native, scalar) for name, (native, scalar) in kept.get("ofiq", {}).items()}
        return cls(**{**kept, "ofiq": told})

    @property
    def sentence(self) -> str:
        """For people: the value, and what is worst."""
        return f"{self.unified} of 100; lowest: {WORDS[self.worst]} {getattr(self, self.worst):g}"

    @property
    def lowest(self) -> str:
        """In words for people: the measure that decided."""
        return WORDS[self.worst]

    @property
    def worst(self) -> str:
        """The measure that decided."""
        return min(_CURVES, key=lambda name: _mapped(name, getattr(self, name)))


WORDS: Final = MappingProxyType(
    {
        "inter_eye_px": "pixels between the eyes",
        "roll_deg": "degrees of tilt",
        "turn": "turn of the head",
        "sharpness": "sharpness",
        "dark_share": "share of dark pixels",
        "bright_share": "share of bright pixels",
        "dynamic_range_bits": "bits of dynamic range",
        "compression_ratio": "compression ratio",
    }
)

_CURVES: Final = MappingProxyType(
    {
        "inter_eye_px": ((8.0, 0.0), (16.0, 40.0), (30.0, 70.0), (60.0, 100.0)),
        "roll_deg": ((10.0, 100.0), (30.0, 60.0), (60.0, 0.0)),
        "turn": ((0.15, 100.0), (0.35, 60.0), (0.7, 0.0)),
        "sharpness": ((0.5, 0.0), (2.0, 40.0), (4.5, 70.0), (10.0, 100.0)),
        "dark_share": ((0.2, 100.0), (0.6, 50.0), (0.95, 0.0)),
        "bright_share": ((0.1, 100.0), (0.4, 50.0), (0.9, 0.0)),
        "dynamic_range_bits": ((3.0, 0.0), (5.0, 40.0), (6.5, 80.0), (7.2, 100.0)),
        "compression_ratio": ((20.0, 100.0), (60.0, 60.0), (150.0, 30.0), (400.0, 0.0)),
    }
)
"""For each measure: values and what they are worth, on straight lines between; outside, the nearest end."""


def measure(image: StillImage, file_bytes: int, face: Face) -> Quality | None:
    """The quality of the face in a picture whose file has so many bytes; None when the embedder gave no landmarks, as only stand-ins do."""
    if face.landmarks is None:
        return None
    cut = _cut(image.pixels, face.box)
    values = {
        "inter_eye_px": inter_eye_px(face.landmarks),
        "roll_deg": roll_deg(face.landmarks),
        "turn": turn(face.landmarks),
        "sharpness": sharpness(cut),
        "dark_share": dark_share(cut),
        "bright_share": bright_share(cut),
        "dynamic_range_bits": dynamic_range_bits(cut),
        "compression_ratio": compression_ratio(image.pixels.size, file_bytes),
    }
    rounded = {name: round(value, 3) for name, value in values.items()}
    unified = round(min(_mapped(name, value) for name, value in rounded.items()))
    return Quality.from_json({"unified": unified, **rounded})


def inter_eye_px(landmarks: Landmarks) -> float:
    """Distance between the middles of the eyes, in pixels of the upright picture.

    ISO/IEC 29794-5, "inter-eye distance". There it is divided by the cosine of the head's yaw, which no landmark here gives in degrees.
    """
    (left, top), (right, bottom) = landmarks.left_eye, landmarks.right_eye
    return math.hypot(right - left, bottom - top)


def roll_deg(landmarks: Landmarks) -> float:
    """Angle between the line through both eyes and the horizontal, in degrees, without sign.

    ISO/IEC 29794-5, "head pose", roll.
    """
    (left, top), (right, bottom) = landmarks.left_eye, landmarks.right_eye
    return abs(math.degrees(math.atan2(bottom - top, right - left)))


def turn(landmarks: Landmarks) -> float:
    """How far the nose lies to one side of the line that halves the distance between the eyes, as a share of that distance, without sign.

    Stands for ISO/IEC 29794-5, "head pose", yaw: 0 for a face seen from the front, about 0.5 where the nose is below one eye. Ours; not in
    degrees, since two eyes and a nose do not tell yaw from a crooked nose. Pitch cannot be told at all.
    """
    (left, top), (right, bottom) = landmarks.left_eye, landmarks.right_eye
    across = np.array([right - left, bottom - top])
    from_middle = np.array([landmarks.nose[0] - (left + right) / 2, landmarks.nose[1] - (top + bottom) / 2])
    return abs(float(across @ from_middle)) / max(float(across @ across), 1e-9)


def sharpness(face: F64) -> float:
    """Standard deviation of the Laplacian (four neighbours minus four times the middle) of the face's luminance at 128 x 128 pixels, in
    levels of 255.

    Stands for ISO/IEC 29794-5, "sharpness", which is a classifier over such filters. Being taken at one size, it falls for faces that had
    fewer pixels as it does for blurred ones.
    """
    inner = face[1:-1, 1:-1]
    laplacian = face[:-2, 1:-1] + face[2:, 1:-1] + face[1:-1, :-2] + face[1:-1, 2:] - 4 * inner
    return float(laplacian.std())


def dark_share(face: F64) -> float:
    """Share of the face's pixels with a luminance of 25 or less, 0 to 1.

    ISO/IEC 29794-5, "under-exposure prevention", over the whole face instead of its skin.
    """
    return float((face <= _DARK).mean())


def bright_share(face: F64) -> float:
    """Share of the face's pixels with a luminance of 247 or more, 0 to 1.

    ISO/IEC 29794-5, "over-exposure prevention", over the whole face instead of its skin.
    """
    return float((face >= _BRIGHT).mean())


def dynamic_range_bits(face: F64) -> float:
    """Entropy of the histogram of the face's luminance over 256 levels, in bits, 0 to 8.

    ISO/IEC 29794-5, "dynamic range".
    """
    counts = np.bincount(np.clip(np.rint(face), 0, 255).astype(np.int64).ravel(), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def compression_ratio(samples: int, file_bytes: int) -> float:
    """Bytes of the picture in memory (three a pixel) for each byte of its file.

    Stands for ISO/IEC 29794-5, "compression artifacts", which is a network; ours is what the file says of itself: a picture that was
    compressed hard and saved again at high quality passes it.
    """
    return samples / max(file_bytes, 1)


def _cut(pixels: Pixels, box: Box) -> F64:
    """The luminance of the face's square inside the picture, at 128 x 128 pixels."""
    height, width = pixels.shape[:2]
    side = max(box.width, box.height, 2)
    left, top = box.left + (box.width - side) // 2, box.top + (box.height - side) // 2
    rows = slice(min(max(top, 0), height - 2), min(max(top + side, 2), height))
    columns = slice(min(max(left, 0), width - 2), min(max(left + side, 2), width))
    part = Image.fromarray(np.ascontiguousarray(pixels[rows, columns]))
    if (fold := min(part.size) // _LARGEST_CUT) > 1:  # in floating point a face of a camera's whole picture would take a gigabyte
        part = part.reduce(fold)
    luminance = Image.fromarray((np.asarray(part) @ _LUMINANCE).astype(np.float32))
    return np.asarray(luminance.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), np.float64).clip(0, 255)


def _mapped(name: str, value: float) -> float:
    points = _CURVES[name]
    return float(np.interp(value, [point[0] for point in points], [point[1] for point in points]))
