"""Photographs to try an intake with: N variations of two public-domain portraits, as a booking system hands them over, and the truth.

**What they are.** Not booking photographs and not N persons: NASA's portrait of Eileen Collins and the US Navy's of Grace Hopper
(`agency_node.demo.gallery`), each time cut, scaled, turned, lit, blurred and made noisy otherwise. They show that an intake loses and
doubles nothing, and how fast it is. They say nothing of how well a face model tells persons apart, and no threshold is set on them.

Half of them lie in a folder with a table, half in ANSI/NIST-ITL files with a Type-10 record::

    DIR/photographs/000000.jpg …   every eighth a PNG
    DIR/photographs.csv            the table for `node enrol --table`
    DIR/itl/000002.an2 …           for `node enrol --itl`; disposition and its day in 2.801 and 2.802
    DIR/truth.csv                  `TRUTH_COLUMNS`, a row for each photograph, in their order

Invariants: a photograph follows from seed, number and size alone; no two have the same pixels. A detector that needs something else to see
a face gets it by `finish`, before the picture is encoded.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, field, fields, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import nistitl
import numpy as np
from PIL import Image, ImageFilter

from agency_node.bench.errors import BenchmarkError
from agency_node.demo.gallery import portraits
from agency_node.faces.image import Pixels
from agency_node.holder.candidates import BOOKING

SIDE: Final = 320
LEAST_SIDE, MOST_SIDE = 96, 2048
WORTH_PROCESSES: Final = 2000
"""From so many photographs on, several processes are faster than one: each starts in some seconds."""
_FACES: Final = {"astronaut": (223, 127, 250), "hopper": (264, 242, 420)}
"""Middle of the face, and the side of the square around it that a photograph shows, in pixels of the portrait."""
_FIRST_DAY: Final = date(2015, 1, 1)
_DAYS: Final = 3650
_CONVICTED, _PENDING = "convicted", "pending"
_UNTIL_CONVICTION: Final = timedelta(days=90)
_ITL_FIELDS: Final = (("_4", "NORTHPD01"), ("_8", "1"), ("_9", "100"), ("_10", "100"), ("_12", "SRGB"), ("_20", "F"))
FOLDER_FORM, ITL_FORM = "folder", "itl"

Finish = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class BookingImage:
    """One photograph and what is true of it: the row of truth.csv. Days are ISO 8601, empty for none."""

    form: str
    file: str
    record_number: str
    captured: str
    booking_event: str
    disposition: str
    disposition_date: str
    portrait: str
    sha256: str
    """Of the photograph's file as it was encoded."""
    pixels_sha256: str
    """Of `pixels_digest`: what every reader must see in it."""
    data: bytes = field(repr=False, compare=False)


TRUTH_COLUMNS: Final = tuple(one.name for one in fields(BookingImage) if one.name != "data")


def write_booking_images(
    folder: Path, count: int, seed: int, side: int = SIDE, finish: Finish | None = None, processes: int = 1
) -> list[BookingImage]:
    """Write so many photographs into a folder that is not there yet, as the module says; without their bytes, what is true of them."""
    try:
        for inside in ("photographs", "itl"):
            (folder / inside).mkdir(parents=True)
    except FileExistsError as error:
        raise BenchmarkError(f"{folder} holds photographs already: name another folder, and no set is mixed with another") from error
    made = []
    columns = ("file", "record_number", "captured", "source_class", "booking_event", "disposition", "disposition_date")
    with (folder / "photographs.csv").open("w", newline="") as table, (folder / "truth.csv").open("w", newline="") as truth:
        rows, truths = csv.writer(table), csv.writer(truth)
        rows.writerow(columns)
        truths.writerow(TRUTH_COLUMNS)
        for one in booking_images(count, seed, side, finish, processes):
            if one.form == FOLDER_FORM:
                (folder / "photographs" / one.file).write_bytes(one.data)
                told = {**dict(zip(TRUTH_COLUMNS, astuple(one), strict=False)), "source_class": BOOKING}
                rows.writerow([told[name] for name in columns])
            else:
                (folder / "itl" / one.file).write_bytes(itl_file(one, side))
            truths.writerow([getattr(one, name) for name in TRUTH_COLUMNS])
            made.append(replace(one, data=b""))
    return made


def booking_images(count: int, seed: int, side: int = SIDE, finish: Finish | None = None, processes: int = 1) -> Iterator[BookingImage]:
    """The photographs, one after the other; with several processes each makes some of them, and they are the same."""
    made = functools.partial(booking_image, seed=seed, side=side, finish=finish)
    if processes == 1:
        yield from map(made, range(count))
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(made, range(count), chunksize=64)


def booking_image(number: int, seed: int, side: int, finish: Finish | None) -> BookingImage:
    """The photograph of that number."""
    names = sorted(_FACES)
    name = names[number % len(names)]
    rng = np.random.default_rng([seed, number])
    pixels = varied(_square(name, side), rng, side)
    data, kind = _encoded(pixels if finish is None else finish(pixels), number)
    captured = _FIRST_DAY + timedelta(days=number * 37 % _DAYS)
    ended = {0: _CONVICTED, 1: _PENDING}.get(number % 5, "")
    form = ITL_FORM if number // len(names) % 2 else FOLDER_FORM
    return BookingImage(
        form,
        f"{number:06d}.{kind if form == FOLDER_FORM else 'an2'}",
        f"T-{seed}-{number:06d}",
        captured.isoformat(),
        f"E-{seed}-{number:06d}",
        ended,
        (captured + _UNTIL_CONVICTION).isoformat() if ended == _CONVICTED else "",
        name,
        hashlib.sha256(data).hexdigest(),
        pixels_digest(data),
        data,
    )


def varied(square: Image.Image, rng: np.random.Generator, side: int) -> Pixels:
    """The face in another picture: turned by up to 6 degrees, up to 12 % larger or smaller, moved by up to 4 % of the side, other light,
    up to 0.8 pixels of blur, noise of up to 4 levels; uint8[side, side, 3]."""
    turned = square.rotate(rng.uniform(-6, 6), Image.Resampling.BILINEAR)
    half = square.width / 2 * rng.uniform(0.66, 0.84)
    middle = square.width / 2 + square.width * rng.uniform(-0.04, 0.04, 2)
    box = (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)
    small = turned.resize((side, side), Image.Resampling.BILINEAR, box=box).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    light = 255 * (np.arange(256) / 255) ** rng.uniform(0.8, 1.25) * rng.uniform(0.85, 1.1)
    noise = rng.standard_normal((side, side, 1), np.float32) * np.float32(rng.uniform(0.5, 4))
    lit: Pixels = np.clip(light.astype(np.float32)[np.asarray(small)] + noise, 0, 255).astype(np.uint8)
    return lit


def pixels_digest(data: bytes) -> str:
    """SHA-256 over size and RGB bytes of the picture in a file, hexadecimal."""
    with Image.open(io.BytesIO(data)) as picture:
        shown = picture.convert("RGB")
    return hashlib.sha256(f"RGB {shown.width} {shown.height}\n".encode() + shown.tobytes()).hexdigest()


def itl_file(one: BookingImage, side: int) -> bytes:
    """The photograph as an ANSI/NIST-ITL file, as a booking system exports it."""
    message = nistitl.Message()
    message.TOT = "CAR"
    head = message[0]
    head.VER, head.DAT, head.DAI, head.ORI, head.TCN = "0502", "20261123", "BROKER001", "NORTHPD01", one.record_number
    booking = nistitl.AsciiRecord(2)
    booking.IDC = 0
    for tag, value in ((10, one.booking_event), (801, one.disposition.upper()), (802, one.disposition_date.replace("-", ""))):
        if value:
            booking += nistitl.Field(2, tag, value)
    message += booking
    face = nistitl.AsciiRecord(10)
    face.IDC = 1
    told = {"_3": "FACE", "_5": one.captured.replace("-", ""), "_6": str(side), "_7": str(side)}
    told["_11"] = "PNG" if one.data.startswith(b"\x89PNG") else "JPEGB"
    for name, value in sorted({**told, **dict(_ITL_FIELDS)}.items(), key=lambda item: int(item[0][1:])):
        face += nistitl.Field(10, int(name[1:]), value)
    face += nistitl.BinaryField(10, 999, one.data, alias="DATA")
    message += face
    data: bytes = message.NIST
    return data


@functools.cache
def _square(name: str, side: int) -> Image.Image:
    return _around_the_face(portraits()[name].jpeg, _FACES[name], side)


def _around_the_face(jpeg: bytes, place: tuple[int, int, int], side: int) -> Image.Image:
    """A square half as large again as what a photograph shows, so that few show an edge, and no larger than that side needs."""
    x, y, shown = place
    half = round(shown * 2 / 3)
    with Image.open(io.BytesIO(jpeg)) as picture:
        square = picture.convert("RGB").crop((x - half, y - half, x + half, y + half))
    needed = round(side * 1.6)
    return square if square.width <= needed else square.resize((needed, needed), Image.Resampling.LANCZOS)


def _encoded(pixels: Pixels, number: int) -> tuple[bytes, str]:
    target = io.BytesIO()
    if number % 8 in {1, 6}:  # of each form one in eight
        Image.fromarray(pixels).save(target, "PNG", compress_level=1)
        return target.getvalue(), "png"
    Image.fromarray(pixels).save(target, "JPEG", quality=80 + number % 16, subsampling=0)
    return target.getvalue(), "jpg"
