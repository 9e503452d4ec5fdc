"""Pictures as people bring them: read into pixels, or made ready to be disclosed.

Invariants: a picture's bytes and pixels are counted before anything is decoded; it comes out upright and in RGB; its hash is that of the
bytes as they came. Whatever is wrong with a file, the error is an `ImageError` that says what to do. What is disclosed holds the picture
alone: no camera, place, time, names, previews, and nothing behind its end.

Left to others: finding faces (`embedder`), what may be disclosed at all (the holder's legal staff).
"""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import warnings
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from agency_node.errors import ImageError, ImageFault
from agency_node.faces.metadata import bare_jpeg, bare_png
from crypto.disclosure import MAX_PHOTOGRAPH_BYTES, Media

Pixels = npt.NDArray[np.uint8]
"""uint8[h, w, 3], RGB."""

MAX_IMAGE_BYTES: Final = 1 << 25
"""32 MiB: more than any camera's JPEG."""
MAX_IMAGE_PIXELS: Final = 50_000_000
"""150 MB once decoded."""
MIN_SIDE_PIXELS: Final = 24
"""Below this no detector finds a face."""

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "JPEG2000", "GIF", "BMP")
"""Pillow reads many more; each further reader is code that strangers' bytes reach."""
_ORIENTATION: Final = 0x0112
_TURNS: Final = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
_DAMAGED: Final = (OSError, MemoryError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error)
"""What Pillow raises for files that are not what they say."""
_ANIMATION: Final = "the file holds several pictures, e.g. an animation: save the one that is meant as a JPEG or PNG"
_DAMAGED_FILE: Final = "the picture is damaged or cut off: copy it again from where it came, or open it and save it as a PNG"
_QUALITIES: Final = (95, 90, 85, 75, 60)
_PILLOW: Final = threading.Lock()
"""Held while Pillow decodes: silencing its warnings is not safe in two threads at once."""


@dataclass(frozen=True, eq=False)
class StillImage:
    """A picture: SHA-256 of its file, and its upright pixels."""

    sha256: bytes
    pixels: Pixels = field(repr=False)


def read_image(data: bytes) -> StillImage:
    """The picture in these bytes; `ImageError` when there is none, or none that can be worked with."""
    return StillImage(hashlib.sha256(data).digest(), _decoded(data)[0])


def encode_lossless(pixels: Pixels) -> bytes:
    """A PNG of exactly these pixels: `read_image` gives them back."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG", compress_level=1)
    return target.getvalue()


def encode_for_disclosure(data: bytes) -> tuple[bytes, Media]:
    """The picture as it may leave: a JPEG or PNG that is small enough as it is, without metadata; any other as a JPEG that fits.

    Raises `ImageError` as `read_image` does.
    """
    return _for_disclosure(data, *_decoded(data))


def read_for_enrolment(data: bytes) -> tuple[StillImage, bytes, Media]:
    """`read_image` and `encode_for_disclosure` of the same bytes, which are decoded once."""
    pixels, encoding, upright = _decoded(data)
    return StillImage(hashlib.sha256(data).digest(), pixels), *_for_disclosure(data, pixels, encoding, upright)


def _for_disclosure(data: bytes, pixels: Pixels, encoding: str, upright: bool) -> tuple[bytes, Media]:
    """What `encode_for_disclosure` gives for a picture that was decoded already."""
    if upright:
        bare, media = (bare_png(data), Media.PNG) if encoding == "PNG" else (bare_jpeg(data), Media.JPEG)
        if bare is not None and len(bare) <= MAX_PHOTOGRAPH_BYTES:
            return bare, media
    picture = Image.fromarray(pixels)
    while True:
        for quality in _QUALITIES:
            target = io.BytesIO()
            picture.save(target, "JPEG", quality=quality, optimize=True)
            if target.tell() <= MAX_PHOTOGRAPH_BYTES:
                return target.getvalue(), Media.JPEG
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.LANCZOS)


def _decoded(data: bytes) -> tuple[Pixels, str, bool]:
    """Pixels, the file's format, and whether they stand in the file as upright as they came out."""
    if not data:
        raise ImageError(ImageFault.EMPTY, "the picture's file is empty: copy it again from where it came")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(
            ImageFault.TOO_LONG, f"the picture's file has more than {MAX_IMAGE_BYTES >> 20} MiB: save it as a JPEG, or cut it to the face"
        )
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, and sizes that are judged below
        opened = _opened(data)
        encoding = "JPEG" if opened.format == "MPO" else str(opened.format)
        # A photograph with previews behind it (MPO) is one picture; an animation is not.
        if opened.format != "MPO" and _frames(opened) > 1:
            raise ImageError(
                ImageFault.SEVERAL_PICTURES,
                "the file holds several pictures, e.g. an animation: save the one that is meant as a JPEG or PNG",
            )
        try:
            opened.load()  # before its metadata are asked for: for a PNG that decodes too, and an error would pass for bad metadata
        except _DAMAGED as error:
            raise ImageError(ImageFault.DAMAGED, _DAMAGED_FILE) from error
        turn = _turn(opened)
        picture = opened if turn is None else opened.transpose(turn)
        return _rgb(picture), encoding, turn is None


def _opened(data: bytes) -> ImageFile.ImageFile:
    """The file with its header read and its size judged, its picture not yet decoded."""
    too_large = f"the picture has more than {MAX_IMAGE_PIXELS // 1_000_000} million pixels: make it smaller, or cut it to the face"
    try:
        opened = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(ImageFault.TOO_MANY_PIXELS, too_large) from error
    except _DAMAGED as error:
        raise ImageError(ImageFault.NO_PICTURE, "this is not a picture that can be read: save it as a JPEG or PNG") from error
    if opened.width * opened.height > MAX_IMAGE_PIXELS:
        raise ImageError(ImageFault.TOO_MANY_PIXELS, too_large)
    if min(opened.size) < MIN_SIDE_PIXELS:
        raise ImageError(ImageFault.TOO_SMALL, f"the picture has less than {MIN_SIDE_PIXELS} pixels on a side: take a larger one")
    return opened


def _frames(opened: ImageFile.ImageFile) -> int:
    try:
        return int(getattr(opened, "n_frames", 1))
    except _DAMAGED as error:
        raise ImageError(ImageFault.DAMAGED, _DAMAGED_FILE) from error


def _turn(opened: ImageFile.ImageFile) -> Image.Transpose | None:
    """How the picture is to be turned to stand upright; metadata that cannot be read ask for nothing."""
    try:
        return _TURNS.get(opened.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        return None


def _rgb(picture: Image.Image) -> Pixels:
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut at 255
        grey = np.asarray(picture).astype(np.float64)
        return np.stack([np.clip(grey / 257, 0, 255).round().astype(np.uint8)] * 3, axis=-1)
    return np.asarray(picture.convert("RGB"))
