"""Pictures in every state people bring them in, and the one face in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from agency_node.config import NodeConfig
from agency_node.errors import ConfigError, ImageError
from agency_node.faces import dlib_embedder, image
from agency_node.faces.dlib_embedder import CENTRE_FILE, PROCEDURE, DlibEmbedder, models_folder
from agency_node.faces.embedder import Embedder, Face, load_embedder, the_one_face
from agency_node.faces.image import StillImage, encode_for_disclosure, read_image
from agency_node.faces.make_dlib_centre import centre_of, document, unit_embeddings
from agency_node.faces.metadata import bare_jpeg, bare_png
from crypto.codes import values_of
from crypto.disclosure import MAX_PHOTOGRAPH_BYTES, Media
from crypto.parameters import LARGEST_VALUE
from tests.face_samples import OneFaceEmbedder, astronaut, degraded, encoded, hopper, opened, package_file, pixels, plain_picture

SECRET = b"taken by badge 4711"
NOISE = np.random.default_rng(5).integers(0, 256, (700, 900, 3), np.uint8)
SMALL = NOISE[:40, :60]
SMOOTH = np.add.outer(np.linspace(0, 120, 40), np.linspace(0, 120, 60)).astype(np.uint8)[:, :, None].repeat(3, axis=2)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and ends where the pixels begin."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\x20\0IDAT\x78\x9c"


def changed(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def animation(kind: str) -> bytes:
    first, second = Image.fromarray(SMALL), Image.fromarray(255 - SMALL)
    return encoded(first, kind, save_all=True, append_images=[second], duration=100)


# --- reading ----------------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": (b"", "is empty: copy it again"),
    "text": (b"file,record_number\n", "not a picture that can be read: save it as a JPEG or PNG"),
    "page": (b"<html><img src='face.jpg'></html>", "not a picture that can be read"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not a picture that can be read"),
    "random": (np.random.default_rng(1).bytes(4000), "not a picture that can be read"),
    "tiff": (encoded(SMALL, "TIFF"), "not a picture that can be read"),
    "jpeg marker alone": (b"\xff\xd8\xff", "not a picture that can be read"),
    "png signature alone": (b"\x89PNG\r\n\x1a\n", "not a picture that can be read"),
    "jpeg cut off": (encoded(NOISE, "JPEG")[:-4000], "damaged or cut off: copy it again"),
    "png cut off": (encoded(NOISE)[:-4000], "damaged or cut off"),
    "png of a header": (png_header(100, 100), "damaged or cut off"),
    "png with a changed byte": (changed(encoded(SMALL), 1000), "damaged or cut off"),
    "webp cut off": (encoded(NOISE, "WEBP")[:-4000], "damaged or cut off|not a picture"),
    "animated gif": (animation("GIF"), "several pictures"),
    "animated png": (animation("PNG"), "several pictures"),
    "animated webp": (animation("WEBP"), "several pictures"),
    "too small": (encoded(NOISE[:23, :200]), "less than 24 pixels on a side: take a larger one"),
    "too many pixels": (png_header(10_000, 5_001), "more than 50 million pixels: make it smaller"),
    "bomb that Pillow warns of": (png_header(10_000, 10_000), "more than 50 million pixels"),
    "bomb that Pillow refuses": (png_header(60_000, 60_000), "more than 50 million pixels"),
    "too many bytes": (encoded(SMALL) + bytes(image.MAX_IMAGE_BYTES), "more than 32 MiB: save it as a JPEG"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_no_usable_picture_is_refused_with_what_to_do(what: str) -> None:
    data, message = BROKEN[what]
    with pytest.raises(ImageError, match=message) as caught:
        read_image(data)
    assert ": " in str(caught.value)
    with pytest.raises(ImageError, match=message):
        encode_for_disclosure(data)


def test_a_picture_is_its_hash_and_its_pixels() -> None:
    still = read_image(astronaut())
    assert still.sha256 == hashlib.sha256(astronaut()).digest()
    assert still.pixels.shape == (512, 512, 3)
    assert still.pixels.dtype == np.uint8
    assert (still.pixels == pixels(astronaut())).all()
    assert "array" not in repr(still)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(orientation: int) -> None:
    upright = Image.fromarray(SMOOTH)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what makes the stored picture of an orientation from the upright one
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    assert (read_image(data).pixels == SMOOTH).all()
    disclosed, _ = encode_for_disclosure(data)
    assert np.abs(pixels(disclosed).astype(int) - SMOOTH).mean() < 4
    assert not opened(disclosed).getexif()


def test_other_ways_to_store_colours_become_rgb() -> None:
    grey = NOISE[:40, :60, 0]
    assert (read_image(encoded(grey)).pixels == grey[:, :, None]).all()
    deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257))
    assert opened(deep).mode.startswith("I")
    assert (read_image(deep).pixels == grey[:, :, None]).all()
    for picture in (Image.fromarray(SMALL).convert("CMYK"), Image.fromarray(SMALL).convert("L")):
        assert read_image(encoded(picture, "JPEG")).pixels.shape == (40, 60, 3)
    palette = Image.fromarray(SMALL).quantize(8)
    assert (read_image(encoded(palette, transparency=b"\x00\x80")).pixels == np.asarray(palette.convert("RGB"))).all()
    assert read_image(encoded(palette, "GIF")).pixels.shape == (40, 60, 3)
    assert read_image(encoded(SMALL, "JPEG2000")).pixels.shape == (40, 60, 3)


def test_metadata_that_cannot_be_read_turn_nothing() -> None:
    data = encoded(SMALL, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert read_image(data).pixels.shape == (40, 60, 3)


@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "JPEG2000"]),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=9)), max_size=5),
)
def test_garbage_is_a_picture_or_an_image_error(kind: str, patches: list[tuple[int, bytes]]) -> None:
    data = encoded(SMALL, kind, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0") if kind in {"JPEG", "PNG", "WEBP"} else encoded(SMALL, kind)
    for place, patch in patches:
        data = data[:place] + patch + data[place + len(patch) :]
    for call in (read_image, encode_for_disclosure):
        with contextlib.suppress(ImageError):
            call(data)


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_taking_metadata_off_never_fails(tail: bytes, length: int) -> None:
    for whole, bare in ((encoded(SMALL, "JPEG"), bare_jpeg), (encoded(SMALL), bare_png)):
        bare(tail)
        assert (found := bare(whole[:length] + tail)) is None or bare(found) == found


# --- disclosing -------------------------------------------------------------------------------------------------------


def full_of_metadata(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[1] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + SECRET
    options: dict[str, object] = {"exif": exif, "icc_profile": profile}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415

        info = PngInfo()
        info.add_text("Comment", SECRET.decode())
        info.add_itxt("XML:com.adobe.xmp", SECRET.decode(), zip=False)
        options["pnginfo"] = info
    else:
        options |= {"comment": SECRET, "xmp": SECRET, "quality": 90}
    return encoded(SMALL, kind, **options) + SECRET


@pytest.mark.parametrize(("kind", "media"), [("JPEG", Media.JPEG), ("PNG", Media.PNG)])
def test_no_metadata_leaves_and_no_pixel_changes(kind: str, media: Media) -> None:
    data = full_of_metadata(kind)
    assert data.count(SECRET) >= 4
    disclosed, found = encode_for_disclosure(data)
    assert found is media
    assert SECRET not in disclosed
    assert b"Exif" not in disclosed
    assert (pixels(disclosed) == pixels(data)).all()
    assert not {"comment", "icc_profile", "exif", "xmp", "Comment"} & set(opened(disclosed).info)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "progressive", "restarts", "CMYK"])
def test_a_picture_without_metadata_leaves_as_it_is(kind: str) -> None:
    data = {
        "JPEG": lambda: encoded(SMALL, "JPEG"),
        "PNG": lambda: encoded(SMALL),
        "progressive": lambda: encoded(NOISE, "JPEG", progressive=True),
        "restarts": lambda: encoded(NOISE, "JPEG", restart_marker_blocks=3),
        "CMYK": lambda: encoded(Image.fromarray(SMALL).convert("CMYK"), "JPEG"),
    }[kind]()
    assert encode_for_disclosure(data)[0] == data


def test_a_preview_and_a_second_picture_do_not_leave() -> None:
    jfif = encoded(SMALL, "JPEG")
    preview = b"\xff\xe0" + struct.pack(">H", 16 + 3) + jfif[6:18] + b"\x01\x01abc"
    disclosed, _ = encode_for_disclosure(jfif[:2] + preview + jfif[20:])
    assert disclosed == jfif
    double = encoded(Image.fromarray(SMALL), "MPO", save_all=True, append_images=[Image.fromarray(255 - SMALL)])
    disclosed, media = encode_for_disclosure(double)
    assert media is Media.JPEG
    assert disclosed.count(b"\xff\xd8\xff") == 1
    assert (pixels(disclosed) == pixels(double)).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_a_picture_that_does_not_fit_is_encoded_again(kind: str) -> None:
    data = encoded(NOISE, kind, lossless=True) if kind == "WEBP" else encoded(NOISE, kind)
    disclosed, media = encode_for_disclosure(data)
    assert media is Media.JPEG
    assert len(disclosed) <= MAX_PHOTOGRAPH_BYTES
    assert opened(disclosed).size == (900, 700)


def test_a_picture_that_does_not_fit_at_any_quality_is_made_smaller() -> None:
    large = np.random.default_rng(6).integers(0, 256, (2600, 2600, 3), np.uint8)
    disclosed, _ = encode_for_disclosure(encoded(large, "JPEG", quality=95))
    assert len(disclosed) <= MAX_PHOTOGRAPH_BYTES
    assert opened(disclosed).size == (1300, 1300)


# --- faces ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dlib() -> Embedder:
    return load_embedder("dlib")


@pytest.fixture(scope="module")
def faces(dlib: Embedder) -> dict[str, Face]:
    stills = {"A": astronaut(), "A'": degraded(astronaut()), "H": hopper(), "H'": degraded(hopper())}
    return {name: the_one_face(dlib, read_image(data)) for name, data in stills.items()}


def cosine(embedder: Embedder, one: Face, other: Face) -> float:
    return float(embedder.model.centred_unit(one.embedding) @ embedder.model.centred_unit(other.embedding))


def test_a_degraded_still_is_far_nearer_to_its_person_than_to_a_stranger(dlib: Embedder, faces: dict[str, Face]) -> None:
    assert cosine(dlib, faces["A"], faces["A'"]) > 0.74  # 0.71 without the mirror image
    assert cosine(dlib, faces["H"], faces["H'"]) > 0.90
    for one, other in (("A", "H"), ("A'", "H"), ("A", "H'"), ("A'", "H'")):
        assert cosine(dlib, faces[one], faces[other]) < 0.45


def test_the_scales_keep_the_cosine_and_clip_nothing(dlib: Embedder, faces: dict[str, Face]) -> None:
    scales = dlib.model.scales
    assert (scales.gamma, scales.mu) == (281, 1497)
    template = dlib.model.templates(faces["A"].embedding)
    assert np.abs(values_of(template)).max() < LARGEST_VALUE / 1.5
    score = dlib.model.probe_vector(faces["A'"].embedding) @ values_of(template).astype(np.int64) / (scales.gamma * scales.mu)
    assert score == pytest.approx(cosine(dlib, faces["A"], faces["A'"]), abs=0.005)
    assert score > 0.70


def test_a_face_has_a_place_and_keeps_its_embedding_to_itself(faces: dict[str, Face]) -> None:
    face = faces["A"]
    assert abs(face.box.left - 179) < 20
    assert abs(face.box.top - 83) < 20
    assert face.embedding.shape == (128,)
    assert face.embedding.dtype == np.float32
    assert "embedding" not in repr(face)
    assert str(float(face.embedding[0]))[:6] not in repr(face)


def test_a_picture_is_found_at_any_size(dlib: Embedder, faces: dict[str, Face]) -> None:
    for side in (200, 1300, 2600):
        larger = encoded(opened(astronaut()).resize((side, side), Image.Resampling.LANCZOS))
        face = the_one_face(dlib, read_image(larger))
        assert cosine(dlib, faces["A"], face) > 0.85
        assert abs(face.box.left / side - 0.34) < 0.05


def test_a_picture_without_or_with_several_faces_is_refused(dlib: Embedder) -> None:
    with pytest.raises(ImageError, match="no face was found: take a picture"):
        the_one_face(dlib, read_image(package_file("skimage", "data/coffee.png").read_bytes()))
    both = np.concatenate([pixels(astronaut()), pixels(hopper())[:512]], axis=1)
    with pytest.raises(ImageError, match="2 faces were found: cut the picture"):
        the_one_face(dlib, read_image(encoded(both)))
    assert [face.box.left < 512 for face in dlib.faces(both)] == [True, False]


def test_threads_get_what_one_thread_gets(dlib: Embedder, faces: dict[str, Face]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: dlib.faces(pixels(degraded(hopper() if name == "H'" else astronaut()))), ["H'", "A'"] * 2))
    for name, (face,) in zip(["H'", "A'"] * 2, found, strict=True):
        assert (face.embedding == faces[name].embedding).all()


# --- the model --------------------------------------------------------------------------------------------------------


def linked(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).symlink_to(models_folder() / name)
    return folder


TWO_FILES = ("shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat")


def test_two_files_are_all_it_needs(tmp_path: Path, dlib: Embedder, faces: dict[str, Face]) -> None:
    """Not the 68 landmarks, whose training pictures are not free, nor the second detector."""
    embedder = DlibEmbedder(linked(tmp_path, *TWO_FILES))
    assert (embedder.faces(pixels(degraded(astronaut())))[0].embedding == faces["A'"].embedding).all()
    assert embedder.model.model_hash == dlib.model.model_hash
    opened_files = {Path(line.split()[-1]).name for line in Path("/proc/self/maps").read_text().splitlines() if ".dat" in line}
    assert "68" not in "".join(opened_files)
    assert "_68_" not in Path(dlib_embedder.__file__).read_text()


@pytest.mark.parametrize("name", TWO_FILES)
def test_another_file_is_another_model_and_is_refused(tmp_path: Path, name: str) -> None:
    (kept,) = set(TWO_FILES) - {name}
    with pytest.raises(ConfigError, match=f"{name} cannot be read: install"):
        DlibEmbedder(linked(tmp_path, kept))
    (tmp_path / name).write_bytes((models_folder() / name).read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigError, match=f"{name} is not the file of this model: install"):
        DlibEmbedder(tmp_path)


def test_the_hash_is_over_the_procedure_and_the_files(dlib: Embedder) -> None:
    lines = [PROCEDURE, *(hashlib.sha256((models_folder() / name).read_bytes()).hexdigest() for name in TWO_FILES)]
    assert dlib.model.weights_sha256 == hashlib.sha256("".join(line + "\n" for line in lines).encode()).digest()
    assert dlib.model.spread_milli == 1500


@pytest.mark.torture  # two hundred embeddings; what the file's hash binds is checked in every run
def test_the_centre_is_made_again_from_public_faces(dlib: Embedder) -> None:
    assert isinstance(dlib, DlibEmbedder)
    units = unit_embeddings(dlib)
    made = centre_of(units)
    assert np.abs(made - dlib.model.centre).max() < 1e-5
    written, kept = json.loads(document(made)), json.loads(CENTRE_FILE.read_text())
    assert {name: value for name, value in written.items() if name != "centre"} == {name: kept[name] for name in kept if name != "centre"}
    centred = dlib.model.centred_unit(units)
    assert 1000 * centred.std(axis=0).max() * np.sqrt(128) < dlib.model.spread_milli
    assert abs((centred @ centred.T)[np.triu_indices(100, 1)].mean()) < 0.02


def test_an_unknown_embedder_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"set `embedder` in node.toml to one of: dlib"):
        load_embedder("arcface")


def test_importing_says_nothing_and_loads_no_network() -> None:
    script = (
        "import sys, agency_node.faces.dlib_embedder as d\n"
        "d.load().model\n"
        "assert 'dlib' not in sys.modules and 'face_recognition_models' not in sys.modules\n"
        "import numpy as np; d.load().faces(np.zeros((64, 64, 3), np.uint8))\n"
        "assert 'dlib' in sys.modules and 'face_recognition_models' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_one_face_of_any_embedder() -> None:
    embedder = OneFaceEmbedder()
    assert the_one_face(embedder, read_image(plain_picture(1))).box.width == 24
    still = StillImage(bytes(32), np.full((30, 30, 3), 78, np.uint8))
    with pytest.raises(ImageError, match="2 faces"):
        the_one_face(embedder, still)


# --- synthetic records --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [128, 512])
def test_the_synthetic_embedder_has_a_model_and_reads_no_picture(dimensions: int) -> None:
    embedder = load_embedder(f"synthetic-{dimensions}")
    assert embedder.model.dimensions == dimensions
    assert embedder.model.model_hash != load_embedder("dlib").model.model_hash
    with pytest.raises(ImageError, match="synthetic records have no pictures"):
        the_one_face(embedder, read_image(plain_picture(1)))


@pytest.mark.parametrize("mode", ["demo", "test", "production"])
def test_production_refuses_synthetic_records(mode: str) -> None:
    values: dict[str, object] = {
        "agency": "eastfield-pd",
        "mode": mode,
        "roles": ["holder"],
        "broker": "https://broker.example.org",
        "root_fingerprint": "0f" * 32,
        "trusted_custodians": ["civic-board"],
        "embedder": "synthetic-512",
    }
    if mode == "production":
        with pytest.raises(ConfigError, match="synthetic records are for demo and test modes"):
            NodeConfig.checked(values)
        values["embedder"] = "dlib"
    assert NodeConfig.checked(values).embedder == values["embedder"]
