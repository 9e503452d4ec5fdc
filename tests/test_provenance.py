"""R19, R20: a probe's chain from original to aligned cut. What is swapped, dropped, moved or altered is caught."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sqlalchemy import delete, select, update

from agency_node.case_tables import probe_links
from agency_node.errors import ImageError, PolicyRefusedError, ProvenanceError, RequestError
from agency_node.faces.edits import MAX_EDITS, ORDINARY, Edit, EditKind, picture_digest
from agency_node.faces.embedder import Box, Face, load_embedder, the_one_face
from agency_node.faces.image import Pixels, encode_lossless, read_image
from agency_node.legal.review import grant_draft
from agency_node.policy.engine import load_packs
from agency_node.policy.pack_folder import PackProbe
from agency_node.policy.probe_edits import STRICT_EDITS, EditLimits, edit_limits
from agency_node.requester import drafting
from agency_node.requester.probe_versions import LINK, bound_to, read_kept
from agency_node.requester.provenance import Chain, Link, Step, check_aligned, check_chain, check_edits, prepare, read_chain
from agency_node.tables import searches
from crypto.canonical import SearchId
from crypto.embedding import face_commitment
from crypto.grant_basis import ProbeSource
from tests.face_samples import astronaut, encoded, pixels
from tests.node_world import MODEL, PixelEmbedder, World, WorldNode, reviewer
from tests.sample_federation import NORTHPORT

RNG = np.random.default_rng(19)
PICTURE: Pixels = RNG.integers(0, 256, (60, 80, 3), np.uint8)
ORIGINAL = encoded(PICTURE)
OTHER = encoded(RNG.integers(0, 256, (60, 80, 3), np.uint8))
SOURCE = ProbeSource.RECORDED_VIDEO_STILL
EDITS = [Edit.parse(one) for one in ("crop 4 6 60 50", "rotate 12.5", "exposure 10 120")]
FACE = Face(Box(1, 2, 24, 24), np.ones(4, np.float32), None, PICTURE[:30, :30].copy())
ALL = EditLimits(frozenset(EditKind))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.node(NORTHPORT)
    yield made
    made.close()


def made(edits: list[Edit] | None = None, original: bytes = ORIGINAL, source: ProbeSource = SOURCE) -> tuple[Chain, bytes]:
    prepared = prepare(original, EDITS if edits is None else edits, source)
    return prepared.chain(FACE, bytes(32)), prepared.still


# --- edits ------------------------------------------------------------------------------------------------------------


def test_an_edit_has_one_spelling() -> None:
    for sentence in ("crop 0 0 300 300", "rotate -12.5", "rotate 90", "exposure -100 400", "grey", "mirror", "sharpen 40"):
        assert Edit.parse(sentence).sentence == sentence
    wrong = "crop 1 2 3|crop -1 0 30 30|rotate|rotate 1.25|rotate 1.0|rotate 181|exposure 0 0|exposure 101 100|grey 1|crop  0 0 30 30"
    for sentence in [*wrong.split("|"), "crop 00 0 30 30"]:
        with pytest.raises(RequestError, match=r"written|write this edit"):
            Edit.parse(sentence)


@pytest.mark.rule("R20")
def test_what_draws_or_invents_is_no_edit() -> None:
    """R20: no edit paints, joins, enlarges or asks a model."""
    for name in ("paint 1 2", "blend other.jpg", "enhance", "upscale 4", "denoise", "sketch", "composite"):
        with pytest.raises(RequestError, match="is no edit of a still: take crop, rotate, exposure"):
            Edit.parse(name)


def test_quarter_turns_and_cuts_move_pixels_and_change_none() -> None:
    def after(sentence: str) -> Pixels:
        return Edit.parse(sentence).apply(PICTURE)

    assert (after("crop 3 5 40 30") == PICTURE[5:35, 3:43]).all()
    assert (after("rotate 90") == np.rot90(PICTURE, -1)).all(), "clockwise"
    assert (after("rotate -90") == after("rotate 90")[::-1, ::-1]).all()
    assert (after("rotate 180") == after("rotate -180")).all()
    assert (after("exposure 0 100") == PICTURE).all()
    assert (after("mirror") == PICTURE[:, ::-1]).all()
    assert (after("grey")[..., 0] == after("grey")[..., 2]).all()


def test_a_turn_by_any_angle_is_that_of_other_programs_up_to_a_level() -> None:
    smooth = np.asarray(Image.fromarray(PICTURE[:8, :8]).resize((80, 60), Image.Resampling.BICUBIC))
    for angle in (7.5, -33.0, 101.0):
        ours = Edit(EditKind.ROTATE, (round(angle * 10),)).apply(smooth)
        theirs = np.asarray(Image.fromarray(smooth).rotate(-angle, Image.Resampling.BILINEAR, expand=True))
        assert abs(ours.shape[0] - theirs.shape[0]) <= 2
        top, left = (np.array(ours.shape[:2]) - 20) // 2
        there, here = (np.array(theirs.shape[:2]) - 20) // 2
        close = np.abs(ours[top : top + 20, left : left + 20].astype(int) - theirs[there : there + 20, here : here + 20])
        assert np.median(close) <= 8, angle


def test_no_sine_lies_where_two_machines_could_round_it_apart() -> None:
    """A last bit's difference in the machine's sine moves no table value over the middle between two whole numbers."""
    values = [of(math.radians(tenths / 10)) * 65536 for tenths in range(-1800, 1801) if tenths % 900 for of in (math.sin, math.cos)]
    assert min(abs(value % 1 - 0.5) for value in values) > 1e-6


def test_the_arithmetic_is_pinned() -> None:
    """These digests stand in chains of cases: whoever changes them makes those chains unverifiable."""
    found = {one: picture_digest(Edit.parse(one).apply(_ramp())).hex()[:16] for one in PINNED}
    assert found == PINNED


def _ramp() -> Pixels:
    levels = np.arange(40 * 50 * 3, dtype=np.int64)
    return ((levels * levels // 7) % 256).astype(np.uint8).reshape(40, 50, 3)


def test_an_edit_that_does_not_fit_says_so() -> None:
    for sentence, says in (("crop 60 0 40 40", "does not lie in the picture, which has 80 x 60"), ("crop 0 0 10 40", "less than 24")):
        with pytest.raises(ImageError, match=says):
            Edit.parse(sentence).apply(PICTURE)
    large = np.zeros((4001, 4001, 3), np.uint8)
    with pytest.raises(ImageError, match="begin with a crop"):
        Edit.parse("rotate 1").apply(large)
    assert Edit.parse("crop 0 0 100 100").apply(large).shape == (100, 100, 3)
    with pytest.raises(ProvenanceError, match="at most 16 times"):
        prepare(ORIGINAL, [Edit(EditKind.MIRROR)] * (MAX_EDITS + 1), SOURCE)


# --- the chain --------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R19")
def test_a_chain_reads_and_is_made_again() -> None:
    """R19: original, every edit with its parameters and the digests before and after, the still, the aligned cut."""
    chain, still = made()
    again = read_chain([link.to_bytes() for link in chain.links])
    assert again == chain
    assert [link.step.value for link in chain.links] == ["original", "edit", "edit", "edit", "probe", "aligned"]
    assert chain.original.file_sha256 == hashlib.sha256(ORIGINAL).digest()
    assert chain.edits == tuple(EDITS)
    assert all(after.before == before.picture for before, after in zip(chain.links, chain.links[1:], strict=False))
    check_chain(again, ORIGINAL, still)
    assert check_edits(again, ORIGINAL) == picture_digest(read_image(still).pixels)
    plain, same = made([])
    assert same == ORIGINAL, "where nothing is edited the still is the original, to the byte"
    check_chain(plain, ORIGINAL, ORIGINAL)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=0, max_size=6))
def test_only_all_links_in_their_order_are_a_chain(order: list[int]) -> None:
    """Dropped, doubled, moved."""
    links = [link.to_bytes() for link in made()[0].links]
    if order == [0, 1, 2, 3, 4, 5]:
        read_chain(links)
        return
    with pytest.raises(ProvenanceError):
        read_chain([links[number] for number in order])


def relinked(links: list[Link]) -> Chain:
    """A chain whose hashes are right: what a cheat with the whole store can make."""
    whole: list[Link] = []
    for number, link in enumerate(links):
        before = (whole[-1].digest, whole[-1].picture) if whole else (bytes(32), bytes(32))
        whole.append(replace(link, number=number, previous=before[0], before=before[1]))
    return read_chain([link.to_bytes() for link in whole])


FORGED: dict[str, Callable[[list[Link]], list[Link]]] = {
    "an edit dropped": lambda links: [*links[:2], *links[3:]],
    "two edits exchanged": lambda links: [links[0], links[2], links[1], *links[3:]],
    "an edit added": lambda links: [*links[:2], replace(links[1], said="mirror"), *links[2:]],
    "a parameter altered": lambda links: [*links[:3], replace(links[3], said="exposure 11 120"), *links[4:]],
    "a picture altered": lambda links: [*links[:2], replace(links[2], picture=bytes(31) + b"\1"), *links[3:]],
    "another original": lambda links: [replace(links[0], file_sha256=hashlib.sha256(OTHER).digest()), *links[1:]],
    "another picture of the original": lambda links: [replace(links[0], picture=bytes(31) + b"\1"), *links[1:]],
    "another still": lambda links: [*links[:4], replace(links[4], file_sha256=bytes(31) + b"\1"), links[5]],
    "another picture of the still": lambda links: [*links[:4], replace(links[4], picture=bytes(31) + b"\1"), links[5]],
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_chain_with_right_hashes_is_caught_by_who_makes_it_again(what: str) -> None:
    chain, still = made()
    forged = relinked(FORGED[what](list(chain.links)))
    assert forged.head != chain.head, "and the grant binds another one"
    with pytest.raises(ProvenanceError):
        check_chain(forged, ORIGINAL, still)


@pytest.mark.parametrize("member", ["said", "by", "file_sha256", "file_bytes", "before", "picture", "width", "height", "previous", "step"])
def test_every_member_of_every_link_is_under_the_head(member: str) -> None:
    chain, _ = made()
    for number, link in enumerate(chain.links):
        said = json.loads(link.to_bytes())
        value = said[member]
        said[member] = value + 1 if isinstance(value, int) else f"0{value[1:]}" if value[0] not in "0" else f"1{value[1:]}"
        if member in ("said", "step"):
            said[member] = {"original": "edit"}.get(value, "original") if member == "step" else f"{value} "
        altered = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        links = [one.to_bytes() for one in chain.links]
        try:
            found = read_chain([*links[:number], altered, *links[number + 1 :]])
        except ProvenanceError:
            continue
        except RequestError:
            assert member == "said"  # an edit in another spelling
            continue
        assert number == len(links) - 1, "an earlier link is held by the next one"
        assert found.head != chain.head


def test_an_original_or_still_in_the_other_s_place_is_caught() -> None:
    chain, still = made()
    for original, shown, says in (
        (OTHER, still, "not the file with which"),
        (ORIGINAL, OTHER, "not what the original"),
        (still, still, "not the file with which"),
    ):
        with pytest.raises(ProvenanceError, match=says):
            check_chain(chain, original, shown)
    same_pixels = encoded(read_image(still).pixels, "PNG", compress_level=9)
    with pytest.raises(ProvenanceError, match="not what the original"):  # the very file, not one that looks like it
        check_chain(chain, ORIGINAL, same_pixels)


def test_the_cut_that_the_network_was_shown_is_compared_up_to_rounding() -> None:
    chain, _ = made()
    assert FACE.aligned is not None
    check_aligned(chain, FACE.aligned, FACE)
    nearly = np.clip(FACE.aligned.astype(int) + 3, 0, 255).astype(np.uint8)
    check_aligned(chain, FACE.aligned, replace(FACE, aligned=nearly))
    for kept, face in (
        (nearly, FACE),
        (None, FACE),
        (FACE.aligned, replace(FACE, aligned=None)),
        (FACE.aligned, replace(FACE, aligned=255 - nearly)),
    ):
        with pytest.raises(ProvenanceError):
            check_aligned(chain, kept, face)


# --- what is allowed --------------------------------------------------------------------------------------------------


@dataclass
class Pack:
    probe: PackProbe


@pytest.mark.rule("R19")
def test_more_than_place_and_light_needs_every_pack_s_permission() -> None:
    """R19: refused by default, and the strictest of all packs wins."""
    assert STRICT_EDITS.allowed == ORDINARY == edit_limits(load_packs(["strict-default"])).allowed
    for further in ("grey", "mirror", "sharpen 10"):
        with pytest.raises(PolicyRefusedError, match=r"rule R19: the policy does not allow the edit"):
            STRICT_EDITS.check([Edit.parse(further)])
    wide, none = Pack(PackProbe(edits=["crop", "rotate", "exposure", "grey"])), Pack(PackProbe(edits=[]))
    assert edit_limits([wide]).allowed == ORDINARY | {EditKind.GREY}
    assert edit_limits([wide, Pack(PackProbe())]).allowed == ORDINARY
    assert edit_limits([wide, none]).allowed == frozenset()
    with pytest.raises(PolicyRefusedError, match="it allows: none"):
        edit_limits([none]).check([Edit.parse("rotate 90")])


async def test_drafter_and_reviewer_are_both_asked(world: World) -> None:
    grey = [Edit.parse("grey")]
    with pytest.raises(PolicyRefusedError, match="R19"):
        await world.drafted(ORIGINAL, edits=grey)
    search_id = await draft_with(world, ALL, edits=grey)
    with pytest.raises(PolicyRefusedError, match="R19"):
        await world.sign(search_id)
    assert grant(world, search_id, ALL).search_id == search_id


# --- in a search ------------------------------------------------------------------------------------------------------


async def draft_with(world: World, limits: EditLimits, original: bytes = ORIGINAL, **changes: Any) -> SearchId:
    from tests.node_world import investigator, search_request  # noqa: PLC0415
    from tests.sample_federation import roster  # noqa: PLC0415

    node, key = world.nodes[NORTHPORT], roster().discovery_key(NORTHPORT)
    request = search_request(original, **changes)
    return drafting.draft_search(
        node.engine, node.vault, PixelEmbedder(), NORTHPORT, key, request, investigator(), world.clock(), edits=limits
    )


def grant(world: World, search_id: SearchId, limits: EditLimits = STRICT_EDITS) -> Any:
    node = world.nodes[NORTHPORT]
    return grant_draft(
        node.engine, node.vault, PixelEmbedder(), node.parties.trusted, search_id, reviewer(), world.clock(), packs=node.packs, edits=limits
    )


@pytest.mark.rule("R19")
async def test_a_grant_binds_original_edits_and_still(world: World) -> None:
    """R19: the signed commitment opens with the chain's head; original and every version are kept, sealed."""
    search_id = await world.drafted(ORIGINAL, edits=EDITS)
    claims = grant(world, search_id)
    node = world.nodes[NORTHPORT]
    kept = read_kept(node.engine, node.vault, search_id)
    case = case_of(node, search_id)
    assert kept.original == ORIGINAL
    assert sorted(kept.pictures) == [0, 1, 2, 4]
    assert [picture_digest(read_image(kept.pictures[number]).pixels) for number in (1, 2, 4)] == [
        kept.chain.links[number].picture for number in (1, 2, 3)
    ]
    vector = MODEL.probe_vector(PixelEmbedder().faces(np.ascontiguousarray(read_image(kept.still).pixels))[0].embedding)
    assert face_commitment(case.face_salt, kept.chain.head, MODEL.model_hash, vector) == claims.face_commit
    assert all(ORIGINAL not in path.read_bytes() for path in node.folder.rglob("*") if path.is_file())


def case_of(node: WorldNode, search_id: SearchId) -> drafting.CaseFile:
    (row,) = node.rows(searches, search_id=str(search_id))
    return drafting.CaseFile.from_bytes(node.vault.open(drafting.CASE, row.sealed_case, search_id.encode()))


def without_an_edit(prepared: Any) -> Any:
    """The chain conceals the last edit: what is searched with is not its end."""
    return replace(prepared, links=prepare(ORIGINAL, EDITS[:2], SOURCE).links)


def with_another_still(prepared: Any) -> Any:
    """Searched with a picture that comes from elsewhere."""
    return replace(prepared, still=OTHER, image=read_image(OTHER))


def with_another_original(prepared: Any) -> Any:
    """The chain of one picture, beside it another original."""
    return replace(prepared, original=OTHER)


@pytest.mark.rule("R19")
@pytest.mark.parametrize("cheat", [without_an_edit, with_another_still, with_another_original])
async def test_a_probe_that_is_not_the_chain_s_end_is_refused_by_the_reviewer_s_node(
    world: World, monkeypatch: pytest.MonkeyPatch, cheat: Callable[[Any], Any]
) -> None:
    """R19: a requester's program that cheats and signs what it made: commitment and chain agree, and making it again does not."""
    with monkeypatch.context() as patch:
        patch.setattr(drafting, "prepare", lambda *given: cheat(prepare(*given)))
        search_id = await world.drafted(ORIGINAL, edits=EDITS)
    with pytest.raises(ProvenanceError):
        grant(world, search_id)
    assert world.nodes[NORTHPORT].rows(searches)[0].state == "drafted"


async def test_a_chain_that_was_exchanged_in_the_store_is_not_the_grant_s(world: World) -> None:
    """Whole and right in itself, of the same still, and another than was signed: it conceals that the picture was cut."""
    search_id = await world.drafted(ORIGINAL, edits=EDITS[:1])
    node = world.nodes[NORTHPORT]
    still = read_kept(node.engine, node.vault, search_id).still
    other = prepare(still, [], SOURCE).chain(PixelEmbedder().faces(read_image(still).pixels)[0], MODEL.model_hash)
    with node.engine.begin() as connection:
        connection.execute(delete(probe_links))
        for link in other.links:
            sealed = node.vault.seal(LINK, link.to_bytes(), bound_to(search_id, link.number))
            connection.execute(probe_links.insert().values(search_id=str(search_id), number=link.number, sealed_link=sealed))
    read_kept(node.engine, node.vault, search_id).check()
    with pytest.raises(RequestError, match="not bound to this still, its original and its edits"):
        grant(world, search_id)


@pytest.mark.rule("R20")
async def test_the_declared_source_is_the_chain_s(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """R20: what the investigator signs as the source and what the chain begins with are one."""
    search_id = await world.drafted(ORIGINAL)
    node = world.nodes[NORTHPORT]
    assert read_kept(node.engine, node.vault, search_id).chain.source is SOURCE
    monkeypatch.setattr(drafting, "prepare", lambda still, edits, _: prepare(still, edits, ProbeSource.PHOTOGRAPH))
    other = await world.drafted(ORIGINAL)
    with pytest.raises(ProvenanceError, match="another source"):
        grant(world, other)


async def test_links_that_are_gone_or_moved_between_searches_do_not_pass(world: World) -> None:
    first, second = await world.drafted(ORIGINAL), await world.drafted(OTHER)
    node = world.nodes[NORTHPORT]
    with node.engine.begin() as connection:
        (sealed, *_) = connection.execute(select(probe_links.c.sealed_link).where(probe_links.c.search_id == str(second))).scalars()
        connection.execute(
            update(probe_links).where(probe_links.c.search_id == str(first), probe_links.c.number == 0).values(sealed_link=sealed)
        )
    with pytest.raises(Exception, match="does not open"):
        grant(world, first)
    with node.engine.begin() as connection:
        connection.execute(delete(probe_links).where(probe_links.c.search_id == str(first)))
    with pytest.raises(ProvenanceError, match="no chain of this search's picture"):
        grant(world, first)


def test_a_real_face_model_s_cut_is_in_the_chain() -> None:
    """dlib on a photograph that was cut: the cut that the network saw, kept and found again; compression shows."""
    embedder = load_embedder("dlib")
    jpeg = encoded(pixels(astronaut()), "JPEG", quality=20)
    prepared = prepare(jpeg, [Edit.parse("crop 100 0 250 250")], SOURCE)
    face = the_one_face(embedder, prepared.image)
    chain = prepared.chain(face, embedder.model.model_hash)
    assert face.aligned is not None
    assert chain.links[-1].picture == picture_digest(face.aligned)
    assert chain.links[-1].step is Step.ALIGNED
    kept = read_image(encode_lossless(face.aligned)).pixels
    check_aligned(chain, kept, the_one_face(embedder, read_image(prepared.still)))
    assert prepared.file_bytes == len(jpeg) * 250 * 250 // (512 * 512) < len(prepared.still) // 4


PINNED = {
    "crop 3 4 30 30": "e4406b7168021e29",
    "rotate 90": "b109cd99cd349f2a",
    "rotate 7.5": "e6b32e96c2adb01a",
    "rotate -33.3": "b989b5264778334a",
    "exposure -20 150": "cf81bcadd3e447f4",
    "grey": "61a6452160de4f5b",
    "mirror": "b971dfbc7ec7e691",
    "sharpen 40": "30c92720301c2535",
}
"""Of `_ramp`, by edit."""
