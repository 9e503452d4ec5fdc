"""Quality: what each measure says of pictures that were made for it, what follows from the value, and who is told."""

from __future__ import annotations

import dataclasses
import functools
import math
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from agency_node.errors import ImageError, ImageFault
from agency_node.faces.embedder import Box, Embedder, Face, Landmarks, load_embedder, the_one_face
from agency_node.faces.image import Pixels, StillImage, read_image
from agency_node.faces.quality import (
    Quality,
    bright_share,
    dark_share,
    dynamic_range_bits,
    inter_eye_px,
    measure,
    roll_deg,
    sharpness,
    turn,
)
from agency_node.legal.review import grant_draft, read_case
from agency_node.policy.engine import load_packs
from agency_node.policy.pack_folder import PackQuality
from agency_node.policy.quality_limits import STRICT_LIMITS, QualityLimits, quality_limits
from agency_node.requester.drafting import CASE, CaseFile, draft_search
from agency_node.tables import searches
from tests.face_packs import face_picture, write_pack
from tests.face_samples import astronaut, degraded, encoded, hopper, opened
from tests.node_world import PixelEmbedder, World, WorldNode, investigator, reviewer, search_request
from tests.sample_federation import NORTHPORT, roster

TEXTURED = encoded(np.random.default_rng(4).integers(0, 256, (96, 96, 3), np.uint8))


def frontal(apart: float = 80.0, **changes: tuple[float, float]) -> Landmarks:
    points = {"left_eye": (100.0, 100.0), "right_eye": (100.0 + apart, 100.0), "nose": (100.0 + apart / 2, 150.0)} | changes
    return Landmarks(**points)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_landmarks_give_distance_tilt_and_turn() -> None:
    assert inter_eye_px(frontal()) == 80
    assert inter_eye_px(frontal(right_eye=(130.0, 140.0))) == 50
    assert roll_deg(frontal()) == turn(frontal()) == 0
    for angle in (-20, 20):
        there = np.radians(angle)
        turned = [
            (math.cos(there) * x - math.sin(there) * y, math.sin(there) * x + math.cos(there) * y) for x, y in ((0, 0), (80, 0), (40, 50))
        ]
        landmarks = Landmarks.of(turned[1], turned[0], turned[2])
        assert roll_deg(landmarks) == pytest.approx(20)
        assert turn(landmarks) == pytest.approx(0, abs=1e-9), "a tilted head is not turned"
    for aside in (-40, 40):
        assert turn(frontal(nose=(140.0 + aside, 150.0))) == pytest.approx(0.5)


def test_pixels_give_exposure_range_and_sharpness() -> None:
    half = np.concatenate([np.full((128, 64), 10.0), np.full((128, 64), 250.0)], axis=1)
    assert (dark_share(half), bright_share(half), dynamic_range_bits(half)) == (0.5, 0.5, 1.0)
    assert dynamic_range_bits(np.arange(128 * 128, dtype=np.float64).reshape(128, 128) % 256) == 8
    flat = np.full((128, 128), 99.0)
    assert (sharpness(flat), dynamic_range_bits(flat), dark_share(flat), bright_share(flat)) == (0, 0, 0, 0)
    chess = np.indices((128, 128)).sum(axis=0) % 2 * 10.0
    assert sharpness(chess) == pytest.approx(40)


def test_the_face_is_measured_and_not_the_picture() -> None:
    """A dark room around a well-lit face counts for nothing; a box over the edge is cut."""
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[100:200, 100:200] = np.random.default_rng(1).integers(30, 240, (100, 100, 3))
    image = read_image(encoded(picture))
    inside = measure(image, 1000, Face(Box(100, 100, 100, 100), np.ones(4, np.float32), frontal()))
    around = measure(image, 1000, Face(Box(-50, -50, 400, 400), np.ones(4, np.float32), frontal()))
    assert inside is not None
    assert around is not None
    assert inside.dark_share < 0.01
    assert around.dark_share > 0.8
    assert inside.compression_ratio == 270
    assert measure(image, 1000, Face(Box(290, 290, 40, 40), np.ones(4, np.float32), frontal())) is not None
    assert measure(image, 1000, Face(Box(0, 0, 40, 40), np.ones(4, np.float32))) is None


def test_a_face_that_fills_a_large_picture_costs_no_gigabyte() -> None:
    """And is as dark, as bright and as rich as in a smaller copy."""
    small = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    large = StillImage(bytes(32), np.kron(small, np.ones((500, 500, 1), np.uint8)))
    tracemalloc.start()
    found = measure(large, 1000, Face(Box(0, 0, 4000, 4000), np.ones(4, np.float32), frontal()))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 60_000_000
    same = measure(StillImage(bytes(32), large.pixels[::8, ::8]), 1000, Face(Box(0, 0, 500, 500), np.ones(4, np.float32), frontal()))
    assert found is not None
    assert same is not None
    assert found.bright_share == pytest.approx(same.bright_share, abs=0.02)
    assert found.dark_share == pytest.approx(same.dark_share, abs=0.02)


def test_both_face_models_give_what_is_measured(tmp_path: Path) -> None:
    for embedder, picture in ((load_embedder("insightface", write_pack(tmp_path)), encoded(face_picture(1))), (dlib(), astronaut())):
        image = read_image(picture)
        found = measure(image, len(picture), the_one_face(embedder, image))
        assert found is not None
        assert found.inter_eye_px == pytest.approx(12.6 if picture is not astronaut() else 42, abs=4)
        assert found.roll_deg < 15


# --- the value --------------------------------------------------------------------------------------------------------


@functools.cache
def dlib() -> Embedder:
    return load_embedder("dlib")


def changed(data: bytes, shrink: int = 1, blur: float = 0, quality: int = 90, dim: int = 1) -> bytes:
    picture = opened(data).convert("RGB")
    picture = picture.resize((picture.width // shrink, picture.height // shrink), Image.Resampling.LANCZOS)
    if blur:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    return encoded(picture.point(lambda level: level // dim), "JPEG", quality=quality)


def value(data: bytes) -> Quality:
    image = read_image(data)
    found = measure(image, len(data), the_one_face(dlib(), image))
    assert found is not None
    return found


def unified(data: bytes) -> int:
    """The value, 0 where no face is left to be found."""
    image = read_image(data)
    faces = dlib().faces(np.ascontiguousarray(image.pixels))
    found = measure(image, len(data), faces[0]) if faces else None
    return 0 if found is None else found.unified


@pytest.mark.parametrize("original", [astronaut, hopper])
def test_the_value_falls_with_what_spoils_a_picture(original: Any) -> None:
    """The calibration, on which the curves were set: originals and the demonstration's still pass, spoilt ones do not."""
    whole, still = value(original()), value(degraded(original()))
    assert whole.unified >= 75
    assert STRICT_LIMITS.floor <= still.unified < whole.unified
    worse = [unified(changed(original(), shrink=2, blur=blur)) for blur in (0, 1, 4)]
    assert worse[0] + 2 > worse[1] > worse[2], "two pixels more between the eyes, as a blurred face is seen, are worth a point"
    assert worse[-1] < STRICT_LIMITS.floor
    assert unified(changed(original(), dim=9)) < STRICT_LIMITS.floor


def test_the_worst_measure_decides_and_is_named() -> None:
    good = Quality(100, 90, 0, 0, 12, 0, 0, 7.5, 10)
    for name, low in (
        ("inter_eye_px", 9.0),
        ("roll_deg", 55.0),
        ("turn", 0.6),
        ("sharpness", 0.6),
        ("dark_share", 0.9),
        ("bright_share", 0.9),
    ):
        spoilt = dataclasses.replace(good, **{name: low})  # type: ignore[arg-type]
        assert spoilt.worst == name
        assert f"{low:g}" in spoilt.sentence
    assert Quality.from_json(good.to_json()) == good


# --- limits -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Pack:
    quality: PackQuality


@pytest.mark.rule("R21")
def test_the_strictest_pack_counts() -> None:
    assert STRICT_LIMITS == QualityLimits(40, 60) == quality_limits(load_packs(["strict-default"]))
    both = quality_limits([Pack(PackQuality(floor=50, banner=55)), Pack(PackQuality(floor=10, banner=80))])
    assert both == QualityLimits(50, 80)


class MarkedEmbedder(PixelEmbedder):
    """Sees a face with eyes so far apart; the embedding follows from the pixels."""

    def __init__(self, apart: float) -> None:
        self.apart = apart

    def faces(self, pixels: Pixels) -> list[Face]:
        (face,) = super().faces(pixels)
        return [Face(Box(0, 0, 90, 90), face.embedding, frontal(self.apart))]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.node(NORTHPORT)
    yield made
    made.close()


def draft(node: WorldNode, apart: float, limits: QualityLimits = STRICT_LIMITS) -> str:
    key, request = roster().discovery_key(NORTHPORT), search_request(TEXTURED)
    return draft_search(node.engine, node.vault, MarkedEmbedder(apart), NORTHPORT, key, request, investigator(), node.clock(), limits)


@pytest.mark.rule("R21")
async def test_a_still_below_the_floor_is_refused(world: World) -> None:
    """Nothing of it is kept; the sentence names value, measure and limit."""
    node = world.nodes[NORTHPORT]
    with pytest.raises(ImageError, match=r"rule R21: .* 20 of 100; lowest: pixels between the eyes 12; the policy asks for 40") as caught:
        draft(node, 12)
    assert caught.value.fault is ImageFault.LOW_QUALITY
    assert node.rows(searches) == []


@pytest.mark.rule("R21")
async def test_the_vector_is_kept_with_the_probe_and_shown(world: World) -> None:
    node = world.nodes[NORTHPORT]
    for apart, unified, warns in ((20.0, 49, True), (80.0, 100, False)):
        search_id = draft(node, apart)
        (row,) = node.rows(searches, search_id=search_id)
        kept = CaseFile.from_bytes(node.vault.open(CASE, row.sealed_case, search_id.encode())).quality
        assert kept is not None
        assert (kept.unified, kept.inter_eye_px) == (unified, apart)
        case = read_case(node.engine, node.vault, search_id)
        assert case.quality == kept
        assert case.told["quality of the still"] == kept.sentence
        assert STRICT_LIMITS.warning(kept).startswith("LOW QUALITY: 49 of 100") is warns
        grant_draft(node.engine, node.vault, MarkedEmbedder(apart), node.parties.trusted, search_id, reviewer(), node.clock())
    assert "NOT MEASURED" in STRICT_LIMITS.warning(None)


@pytest.mark.rule("R21")
async def test_a_reviewer_s_side_measures_for_itself(world: World) -> None:
    """An investigator's program that left the floor out has its draft refused at the review."""
    node = world.nodes[NORTHPORT]
    search_id = draft(node, 12, QualityLimits(0, 0))
    with pytest.raises(ImageError, match="rule R21"):
        grant_draft(node.engine, node.vault, MarkedEmbedder(12), node.parties.trusted, search_id, reviewer(), node.clock())
    (row,) = node.rows(searches)
    assert row.state == "drafted"
