"""One run over every kind of file that people and enemies put into a folder of booking photographs: each gets an answer, none stops it."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agency_node.errors import ImageError, ImageFault
from agency_node.faces.embedder import load_embedder, the_one_face
from agency_node.faces.image import MAX_IMAGE_BYTES, read_image
from agency_node.holder.candidates import BOOKING
from agency_node.holder.enrol import enrol_folder
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.store import open_store
from agency_node.vault import Vault
from crypto.codes import values_of
from tests.face_packs import face_picture, write_pack
from tests.face_samples import OneFaceEmbedder, encoded, hopper, opened
from tests.test_enrol import KEY, NOW, write_table


@functools.cache
def portrait() -> Image.Image:
    picture = opened(hopper()).convert("RGB")
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)


def turned() -> bytes:
    """A telephone's picture: stored lying on its side, with the word that it stands upright when turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(portrait().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def deep() -> bytes:
    """16 bits of grey."""
    return encoded(Image.fromarray(np.asarray(portrait().convert("L")).astype(np.uint16) * 257))


GOOD: dict[str, Callable[[], bytes]] = {
    "upright": lambda: encoded(portrait(), "JPEG", quality=95),
    "turned by EXIF": turned,
    "grey": lambda: encoded(portrait().convert("L"), "JPEG", quality=95),
    "16 bits": deep,
    "CMYK": lambda: encoded(portrait().convert("CMYK"), "JPEG", quality=95),
    "palette": lambda: encoded(portrait().quantize(256)),
    "with transparency": lambda: encoded(portrait().convert("RGBA")),
}

BAD: dict[str, tuple[Callable[[], bytes], ImageFault]] = {
    "truncated": (lambda: encoded(portrait(), "JPEG")[:-2000], ImageFault.DAMAGED),
    "truncated PNG": (lambda: encoded(portrait())[:-2000], ImageFault.DAMAGED),
    "bomb": (lambda: encoded(Image.new("1", (20_000, 20_000))), ImageFault.TOO_MANY_PIXELS),
    "largest bomb": (lambda: encoded(Image.new("1", (7_100, 7_100))), ImageFault.TOO_MANY_PIXELS),
    "several faces": (lambda: encoded(np.concatenate([np.asarray(portrait())] * 2, axis=1)), ImageFault.SEVERAL_FACES),
    "no face": (lambda: encoded(np.full((120, 100, 3), 130, np.uint8)), ImageFault.NO_FACE),
    "narrow": (lambda: encoded(np.full((16_000, 24, 3), 130, np.uint8)), ImageFault.NO_FACE),
    "text": (lambda: b"record_number,captured\n", ImageFault.NO_PICTURE),
    "program": (lambda: b"\x7fELF" + bytes(200), ImageFault.NO_PICTURE),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", ImageFault.NO_PICTURE),
    "TIFF": (lambda: encoded(portrait(), "TIFF"), ImageFault.NO_PICTURE),
    "animation": (
        lambda: encoded(portrait(), "GIF", save_all=True, append_images=[portrait().rotate(9)]),
        ImageFault.SEVERAL_PICTURES,
    ),
    "tiny": (lambda: encoded(portrait().resize((20, 24))), ImageFault.TOO_SMALL),
    "empty": (lambda: b"", ImageFault.EMPTY),
    "too long": (lambda: encoded(portrait(), "JPEG") + bytes(MAX_IMAGE_BYTES), ImageFault.TOO_LONG),
}


def test_every_file_gets_an_answer_and_none_stops_the_run(tmp_path: Path) -> None:
    """Bad files stand between good ones; each is refused with its code and a sentence, and every good one is the same face."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [*BAD, *GOOD]
    names.sort(key=lambda name: name[::-1])
    for place, name in enumerate(names):
        make = GOOD[name] if name in GOOD else BAD[name][0]
        (folder / f"{place}.bin").write_bytes(make())
    rows: list[tuple[str, ...]] = [(f"{place}.bin", name, "2019-05-04", BOOKING) for place, name in enumerate(names)]
    rows.append(("missing.jpg", "missing", "2019-05-04", BOOKING))
    dlib = load_embedder("dlib")
    store = RecordStore(open_store(tmp_path / "node.sqlite"), Vault(KEY), dlib.model)
    refusals = tmp_path / "refused.csv"
    report = enrol_folder(store, dlib, folder, write_table(folder, rows), NoProgress(), NOW, refused_csv=refusals)
    assert {row.record_number: row.code for row in report.refused} == {name: fault for name, (_, fault) in BAD.items()} | {
        "missing": ImageFault.MISSING
    }
    assert all(": " in row.reason for row in report.refused)
    assert report.enrolled == len(GOOD)
    with refusals.open(newline="", encoding="utf-8") as file:
        assert [row["code"] for row in csv.DictReader(file)] == [row.code for row in report.refused]
    templates = values_of(store.templates()).astype(float)
    units = templates / np.linalg.norm(templates, axis=1, keepdims=True)
    assert (units @ units.T).min() > 0.85


@pytest.mark.parametrize("what", BAD)
def test_an_answer_does_not_depend_on_the_embedder(tmp_path: Path, what: str) -> None:
    """The same codes with a pack; where only a face is at stake, from pictures that it sees faces in."""
    make, fault = BAD[what]
    data = encoded(face_picture(1, ((80, 80), (240, 200)))) if fault is ImageFault.SEVERAL_FACES else make()
    with pytest.raises(ImageError) as caught:
        the_one_face(load_embedder("insightface", write_pack(tmp_path)), read_image(data))
    assert caught.value.fault is fault


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_network_that_gives_nothing_usable_stops_one_picture(value: float) -> None:
    class Broken(OneFaceEmbedder):
        def faces(self, pixels):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            return [type(face)(face.box, np.full(16, value, np.float32)) for face in super().faces(pixels)]

    with pytest.raises(ImageError, match="nothing to go by: take another picture") as caught:
        the_one_face(Broken(), read_image(encoded(np.full((32, 32, 3), 77, np.uint8))))
    assert caught.value.fault is ImageFault.UNCLEAR_FACE
