"""Edits of a still that anybody can make again and get the same picture, to the last bit: cut, turned, lighter or darker (R19).

    crop LEFT TOP WIDTH HEIGHT      a part of the picture, in whole pixels
    rotate DEGREES                  clockwise about the middle, to a tenth of a degree; the canvas grows, its corners are black
    exposure BRIGHTNESS CONTRAST    per cent of the full range added, -100 to 100; contrast about the middle grey, 100 is as it was
    grey                            the luminance alone
    mirror                          left and right exchanged
    sharpen PERCENT                 so much of the Laplacian added, 1 to 100

The first three need no permission; the others only where every policy pack that counts gives it (`policy.probe_edits`). There is no edit
that draws, fills, joins pictures or asks a model: what cannot be written down in such a line cannot be done here.

Invariants: an edit is a kind and whole numbers, and its sentence is its only spelling; it is whole-number arithmetic, so that two machines
get the same digest; the digest of a picture covers its size and every pixel. Left to others: who may edit, the chain (`provenance`).
"""

from __future__ import annotations

import enum
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from agency_node.errors import ImageError, ImageFault, RequestError
from agency_node.faces.image import MAX_IMAGE_PIXELS, MIN_SIDE_PIXELS, Pixels

_Whole = npt.NDArray[np.int64]
MAX_EDITED_PIXELS: Final = 16_000_000
"""Of a picture that is edited, but for cutting: a larger one is cut to the face first."""
MAX_EDITS: Final = 16
_LABEL: Final = b"sealmatch-1/picture\n"
_ONE: Final = 1 << 16
"""Sine and cosine are whole multiples of 1 / 65536."""
_ROWS: Final = 64
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,5})")
_TENTHS: Final = re.compile(r"(-?)(0|[1-9][0-9]{0,2})(?:\.([1-9]))?")


class EditKind(enum.StrEnum):
    """What may be done to a still."""

    CROP = "crop"
    ROTATE = "rotate"
    EXPOSURE = "exposure"
    GREY = "grey"
    MIRROR = "mirror"
    SHARPEN = "sharpen"


ORDINARY: Final = frozenset({EditKind.CROP, EditKind.ROTATE, EditKind.EXPOSURE})
"""What needs no pack's permission (R19)."""
_HOW: Final[Mapping[EditKind, tuple[str, tuple[tuple[int, int], ...]]]] = MappingProxyType(
    {
        EditKind.CROP: ("crop LEFT TOP WIDTH HEIGHT", ((0, 99_999), (0, 99_999), (1, 99_999), (1, 99_999))),
        EditKind.ROTATE: ("rotate DEGREES, from -180 to 180", ((-1800, 1800),)),
        EditKind.EXPOSURE: ("exposure BRIGHTNESS CONTRAST, from -100 to 100 and from 1 to 400", ((-100, 100), (1, 400))),
        EditKind.GREY: ("grey", ()),
        EditKind.MIRROR: ("mirror", ()),
        EditKind.SHARPEN: ("sharpen PERCENT, from 1 to 100", ((1, 100),)),
    }
)


@dataclass(frozen=True)
class Edit:
    """One edit; `numbers` as in the module's list, degrees in tenths. `RequestError` for numbers that the kind does not have."""

    kind: EditKind
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        how, ranges = _HOW[self.kind]
        if len(self.numbers) != len(ranges) or not all(low <= one <= high for one, (low, high) in zip(self.numbers, ranges, strict=True)):
            raise RequestError(f"such an edit is written: {how}")

    @classmethod
    def parse(cls, sentence: str) -> Edit:
        """Inverse of `sentence`; `RequestError` says how an edit is written."""
        name, *words = sentence.split(" ")
        try:
            kind = EditKind(name)
        except ValueError as error:
            raise RequestError(
                f"{name!r} is no edit of a still: take {', '.join(EditKind)}. No other is made here, and a picture that was changed by "
                "other means is not the still of the case (R19, R20)"
            ) from error
        if not all(_NUMBER.fullmatch(word) or (kind is EditKind.ROTATE and _TENTHS.fullmatch(word)) for word in words):
            raise RequestError(f"such an edit is written: {_HOW[kind][0]}")
        edit = cls(kind, tuple(_tenths(word) if kind is EditKind.ROTATE else int(word) for word in words))
        if edit.sentence != sentence:
            raise RequestError(f"write this edit as {edit.sentence!r}")
        return edit

    @property
    def sentence(self) -> str:
        """The one way in which it is written."""
        if self.kind is EditKind.ROTATE:
            whole, tenth = divmod(abs(self.numbers[0]), 10)
            return f"rotate {'-' if self.numbers[0] < 0 else ''}{whole}{f'.{tenth}' if tenth else ''}"
        return " ".join([self.kind.value, *map(str, self.numbers)])

    def apply(self, pixels: Pixels) -> Pixels:
        """The picture after it; `ImageError` where it does not fit the picture."""
        height, width = pixels.shape[:2]
        if self.kind is EditKind.CROP:
            return _crop(pixels, *self.numbers)
        if height * width > MAX_EDITED_PIXELS:
            raise ImageError(
                ImageFault.TOO_MANY_PIXELS,
                f"a picture of more than {MAX_EDITED_PIXELS // 1_000_000} million pixels is cut to the face before any other edit: "
                "begin with a crop",
            )
        return _DO[self.kind](pixels, *self.numbers)


def picture_digest(pixels: Pixels) -> bytes:
    """SHA-256(`sealmatch-1/picture` LF || width || height, four bytes each, big-endian || R, G, B of each pixel, row by row)."""
    height, width = pixels.shape[:2]
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return hashlib.sha256(_LABEL + size + np.ascontiguousarray(pixels).tobytes()).digest()


def _tenths(word: str) -> int:
    found = _TENTHS.fullmatch(word)
    if found is None:
        return int(word) * 10
    return (-1 if found[1] else 1) * (int(found[2]) * 10 + int(found[3] or 0))


def _crop(pixels: Pixels, left: int, top: int, width: int, height: int) -> Pixels:
    if left + width > pixels.shape[1] or top + height > pixels.shape[0]:
        says = f"the cut does not lie in the picture, which has {pixels.shape[1]} x {pixels.shape[0]} pixels at this point"
        raise ImageError(ImageFault.TOO_SMALL, says)
    if min(width, height) < MIN_SIDE_PIXELS:
        raise ImageError(ImageFault.TOO_SMALL, f"the cut has less than {MIN_SIDE_PIXELS} pixels on a side: leave more around the face")
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _rotate(pixels: Pixels, tenths: int) -> Pixels:
    if tenths % 900 == 0:
        return np.ascontiguousarray(np.rot90(pixels, -(tenths // 900) % 4))
    height, width = pixels.shape[:2]
    sine, cosine = (round(of(math.radians(tenths / 10)) * _ONE) for of in (math.sin, math.cos))
    new_width = -(-(width * abs(cosine) + height * abs(sine)) // _ONE)
    new_height = -(-(width * abs(sine) + height * abs(cosine)) // _ONE)
    if new_width * new_height > MAX_IMAGE_PIXELS:
        raise ImageError(ImageFault.TOO_MANY_PIXELS, "the turned picture would be too large: cut it to the face first")
    framed = np.pad(pixels, ((1, 1), (1, 1), (0, 0))).astype(np.int64)  # outside of the picture it is black
    turned = np.empty((new_height, new_width, 3), np.uint8)
    across = 2 * np.arange(new_width, dtype=np.int64) + 1 - new_width  # from the middle, in half pixels
    for start in range(0, new_height, _ROWS):
        down = (2 * np.arange(start, min(start + _ROWS, new_height), dtype=np.int64) + 1 - new_height)[:, None]
        x = across * cosine + down * sine + (width - 1) * _ONE  # where it comes from, in units of 2^-17 pixel
        y = -across * sine + down * cosine + (height - 1) * _ONE
        turned[start : start + _ROWS] = _between(framed, x, y)
    return turned


def _between(framed: _Whole, x: _Whole, y: _Whole) -> Pixels:
    """Bilinear at these places, half a level rounded up; `framed` has one black pixel around the picture."""
    bits = 17
    column, row = np.clip((x >> bits) + 1, -1, framed.shape[1] - 1), np.clip((y >> bits) + 1, -1, framed.shape[0] - 1)
    right, below = (x & ((1 << bits) - 1))[..., None], (y & ((1 << bits) - 1))[..., None]
    inside = ((column >= 0) & (row >= 0) & (column < framed.shape[1] - 1) & (row < framed.shape[0] - 1))[..., None]
    column, row = np.clip(column, 0, framed.shape[1] - 2), np.clip(row, 0, framed.shape[0] - 2)
    whole = 1 << bits
    upper = framed[row, column] * (whole - right) + framed[row, column + 1] * right
    lower = framed[row + 1, column] * (whole - right) + framed[row + 1, column + 1] * right
    level = (upper * (whole - below) + lower * below + (1 << (2 * bits - 1))) >> (2 * bits)
    return np.where(inside, level, 0).astype(np.uint8)


def _exposure(pixels: Pixels, brightness: int, contrast: int) -> Pixels:
    levels = ((np.arange(256, dtype=np.int64) - 128) * contrast + 12_800 + brightness * 255 + 50) // 100
    return np.clip(levels, 0, 255).astype(np.uint8)[pixels]


def _grey(pixels: Pixels) -> Pixels:
    luminance = (pixels.astype(np.int32) @ np.array([299, 587, 114], np.int32) + 500) // 1000
    return np.ascontiguousarray(np.repeat(luminance[..., None], 3, axis=2).astype(np.uint8))


def _mirror(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:, ::-1])


def _sharpen(pixels: Pixels, percent: int) -> Pixels:
    framed = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int32)
    middle = framed[1:-1, 1:-1]
    laplacian = 4 * middle - framed[:-2, 1:-1] - framed[2:, 1:-1] - framed[1:-1, :-2] - framed[1:-1, 2:]
    return np.clip(middle + (percent * laplacian) // 100, 0, 255).astype(np.uint8)


_DO: Final[Mapping[EditKind, Callable[..., Pixels]]] = MappingProxyType(
    {
        EditKind.ROTATE: _rotate,
        EditKind.EXPOSURE: _exposure,
        EditKind.GREY: _grey,
        EditKind.MIRROR: _mirror,
        EditKind.SHARPEN: _sharpen,
    }
)
