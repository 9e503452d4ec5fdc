"""A reviewer is told of earlier searches with nearly the same picture, and of nothing else; what is kept for it lies sealed, and goes.

Drafts are made and decided as commands do (`node_world`), pictures are real or made; the store is looked at as a thief would.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sqlalchemy import select, update
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import NearDuplicateRules, NodeConfig
from agency_node.errors import RequestError, StoreError
from agency_node.faces.embedder import load_embedder, the_one_face
from agency_node.faces.image import Pixels, read_image
from agency_node.legal.review import grant_draft, refuse_draft
from agency_node.node import create_node, open_node
from agency_node.requester.drafting import draft_search
from agency_node.requester.near_duplicates import PROBE_FACE, ProbeFace, forget_faces, keep_face, near_duplicates, read_face
from agency_node.store import forget_deleted
from agency_node.tables import probe_faces, searches
from agency_node.vault import Vault
from crypto.canonical import PersonId, SearchId
from crypto.roster_entries import PersonRole
from tests.face_samples import astronaut, degraded, encoded, hopper, opened, plain_picture
from tests.leaks import find
from tests.node_samples import store
from tests.node_world import (
    MODEL,
    STILL,
    PixelEmbedder,
    World,
    WorldNode,
    investigator,
    person_key,
    pixels_of,
    reviewer,
    search_request,
)
from tests.sample_federation import LAKESIDE, NORTHPORT, NOW, OVERSIGHT, digest, roster

RULES = NearDuplicateRules()
OTHER_OFFICER = PersonId("northport-pd:detective-9")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.node(NORTHPORT)
    yield made
    made.close()


class ShiftedEmbedder(PixelEmbedder):
    """Sees the face of `STILL`, turned away from it by as much as the picture's number says, so that cosines are chosen."""

    def __init__(self, cosine: float) -> None:
        self.cosine = cosine

    def faces(self, pixels: Pixels) -> Any:
        (face,) = super().faces(pixels_of(STILL))
        unit = face.embedding / np.linalg.norm(face.embedding)
        aside = np.random.default_rng(3).standard_normal(unit.size)
        aside -= unit * (aside @ unit)
        turned = self.cosine * unit + np.sqrt(1 - self.cosine**2) * aside / np.linalg.norm(aside)
        return [type(face)(face.box, turned.astype(np.float32))]


def draft(
    world: World, embedder: PixelEmbedder | None = None, still: bytes = STILL, officer: PersonId | None = None, **changes: Any
) -> SearchId:
    node = world.nodes[NORTHPORT]
    who = investigator() if officer is None else person_key(officer, PersonRole.INVESTIGATOR)
    key = roster().discovery_key(NORTHPORT)
    request = search_request(still, **changes)
    return draft_search(node.engine, node.vault, embedder or PixelEmbedder(), NORTHPORT, key, request, who, world.clock())


def alike(node: WorldNode, search_id: str, rules: NearDuplicateRules = RULES) -> list[str]:
    return [one.sentence for one in near_duplicates(node.engine, node.vault, rules, search_id, node.clock())]


# --- what the reviewer sees -------------------------------------------------------------------------------------------


@pytest.mark.rule("R57")
async def test_an_earlier_search_is_shown_with_its_outcome(world: World) -> None:
    """R57: two days later, another officer, another case; the search before ended with a lead."""
    for agency in (LAKESIDE, OVERSIGHT):
        await world.node(agency)
    content = await world.released(case_number="26-CF-7")
    node = world.nodes[NORTHPORT]
    drafted_on = world.clock().date()
    world.clock.pass_by(days=2)
    again = draft(world, officer=OTHER_OFFICER, case_number="26-CF-8")
    (told,) = near_duplicates(node.engine, node.vault, RULES, again, node.clock())
    assert told.search_id == content.search_id
    assert told.sentence == (
        f"an earlier search of {drafted_on} by another officer, in another case, had nearly the same picture: released, 1 lead"
    )
    assert "26-CF-7" not in repr(told)


async def test_one_that_was_refused_is_shown_without_its_reviewer_s_words(world: World) -> None:
    node, first = world.nodes[NORTHPORT], draft(world)
    refuse_draft(node.engine, node.vault, node.parties.trusted, first, "the witness Mr Smith withdrew", reviewer(), world.clock())
    (sentence,) = alike(node, draft(world))
    assert sentence.endswith("by the same officer, in this case, had nearly the same picture: refused, 0 leads")
    assert "Smith" not in sentence


@pytest.mark.parametrize(("cosine", "is_told"), [(0.999, True), (0.93, True), (0.87, False), (0.5, False), (-0.95, False)])
async def test_the_bound_is_a_cosine(world: World, cosine: float, is_told: bool) -> None:
    node = world.nodes[NORTHPORT]
    draft(world)
    changed = draft(world, ShiftedEmbedder(cosine))
    assert (len(alike(node, changed)) == 1) is is_told
    assert (len(alike(node, changed, NearDuplicateRules(cosine=0.95))) == 1) is (cosine > 0.95)


async def test_a_draft_is_told_of_a_later_one_too_and_never_of_itself(world: World) -> None:
    """Two drafts of one picture wait; whichever the reviewer reads first, both are known."""
    node, first = world.nodes[NORTHPORT], draft(world)
    assert alike(node, first) == []
    world.clock.pass_by(minutes=1)
    draft(world)
    (sentence,) = alike(node, first)
    assert sentence.startswith("a later search of ")


async def test_another_picture_is_no_duplicate(world: World) -> None:
    node = world.nodes[NORTHPORT]
    draft(world)
    assert alike(node, draft(world, still=plain_picture(99))) == []


def test_faces_of_two_models_are_not_compared() -> None:
    """The same numbers mean something else in another model."""
    vector = np.arange(1, 17, dtype=np.int32)
    one, other = ProbeFace(digest("model"), vector), ProbeFace(digest("other model"), vector)
    assert one.cosine(one) == pytest.approx(1)
    assert one.cosine(other) == -1


def test_copies_of_a_photograph_are_near_and_another_person_is_not() -> None:
    """dlib's model on two real portraits: saved again, brightened, cut, mirrored, halved. The bound stands between."""
    embedder = load_embedder("dlib")

    def face(picture: bytes) -> ProbeFace:
        vector = embedder.model.probe_vector(the_one_face(embedder, read_image(picture)).embedding)
        return ProbeFace(embedder.model.model_hash, vector)

    picture = opened(hopper()).convert("RGB")
    whole = face(hopper())
    copies = {
        "saved again": encoded(picture, "JPEG", quality=30),
        "brightened": encoded(ImageEnhance.Brightness(picture).enhance(1.2)),
        "cut": encoded(picture.crop((8, 5, picture.width - 6, picture.height - 9))),
        "mirrored": encoded(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "halved and blurred": degraded(hopper()),
    }
    assert {name: whole.cosine(face(copy)) >= RULES.cosine for name, copy in copies.items()} == dict.fromkeys(copies, True)
    assert whole.cosine(face(astronaut())) < RULES.cosine - 0.3


def test_the_command_shows_them_before_and_with_the_decision(tmp_path: Path) -> None:
    """`node review`, `--json` too; the sentence names no case."""
    folder = tmp_path / "node"
    values: dict[str, object] = {
        "agency": str(NORTHPORT),
        "mode": "test",
        "roles": ["requester"],
        "broker": "http://127.0.0.1:1",
        "root_fingerprint": "0" * 64,
    }
    create_node(folder, NodeConfig.checked(values), witness=False)
    node = open_node(folder, lambda: datetime.now(UTC))
    key, now = roster().discovery_key(NORTHPORT), datetime.now(UTC)
    first, second = (
        draft_search(node.engine, node.vault, PixelEmbedder(), NORTHPORT, key, search_request(STILL, case_number=case), investigator(), now)
        for case in ("26-CF-7", "26-CF-8")
    )
    runner = CliRunner()
    shown = json.loads(runner.invoke(app, ["node", "review", str(folder), "--search", second, "--json"]).stdout)
    (told,) = shown["near_duplicates"]
    assert (told["search_id"], told["state"], told["leads"], told["same_case"]) == (first, "drafted", 0, False)
    assert set(told) == {"search_id", "drafted_on", "earlier", "same_officer", "same_case", "state", "leads"}  # no cosine, no vector
    text = runner.invoke(app, ["node", "review", str(folder), "--search", second]).stdout
    assert f"note: an earlier search of {now.date()} by the same officer, in another case, had nearly the same picture: drafted" in text
    assert "26-CF-7" not in text


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("R28")
async def test_a_stolen_disk_repr_and_the_log_hold_nothing_of_the_face(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """R28: the store's files and every text, searched for the vector in many encodings; the control is found."""
    caplog.set_level(logging.DEBUG)
    node = world.nodes[NORTHPORT]
    draft(world)
    second = draft(world)
    told = near_duplicates(node.engine, node.vault, RULES, second, node.clock())
    face = read_face(node.engine, node.vault, second)
    assert face is not None
    vector = MODEL.probe_vector(PixelEmbedder().faces(pixels_of(STILL))[0].embedding)
    assert (face.vector == vector).all()
    secrets = {"vector": vector, "unit vector": vector / np.linalg.norm(vector)}
    files = [path.read_bytes() for path in node.folder.rglob("*") if path.is_file()]
    texts = [repr(face), repr(told), str(told), caplog.text, "".join(node.journal())]
    assert find(secrets, files + [text.encode() for text in texts]) == []
    with node.engine.begin() as connection:
        (sealed, *_) = connection.execute(select(probe_faces.c.sealed_vector)).scalars().all()
    for bound in (b"", b"0" * 32):
        with pytest.raises(StoreError, match="does not open"):
            node.vault.open(PROBE_FACE, sealed, bound)
    assert find(secrets, [node.vault.open(PROBE_FACE, row.sealed_vector, row.search_id.encode()) for row in node.rows(probe_faces)])


async def test_the_case_file_holds_no_vector_any_more(world: World) -> None:
    """It would outlive the days for which the face may be kept."""
    node, search_id = world.nodes[NORTHPORT], draft(world)
    (row,) = node.rows(searches)
    case = node.vault.open("case", row.sealed_case, search_id.encode())
    assert set(json.loads(case)) == {"case_number", "facts", "case_salt", "face_salt", "image_sha256", "facts_salt"}


@pytest.mark.rule("R57")
async def test_a_face_is_deleted_when_its_days_are_over(world: World) -> None:
    """By the serving node, and from its files; a draft that still waits keeps it, since the review needs it."""
    node = world.nodes[NORTHPORT]
    done, waiting = await world.granted(), draft(world)
    face = read_face(node.engine, node.vault, str(done.search_id))
    assert face is not None
    (sealed,) = [bytes(row.sealed_vector) for row in node.rows(probe_faces, search_id=str(done.search_id))]
    world.clock.pass_by(days=89)
    await node.work()
    assert len(node.rows(probe_faces)) == 2
    world.clock.pass_by(days=2)
    await node.work()
    assert [row.search_id for row in node.rows(probe_faces)] == [waiting]
    assert read_face(node.engine, node.vault, str(done.search_id)) is None
    assert forget_deleted(node.engine)
    assert all(sealed not in path.read_bytes() for path in node.folder.rglob("*") if path.is_file())
    assert alike(node, waiting) == []


def test_what_is_over_is_not_shown_even_before_it_is_deleted(tmp_path: Path) -> None:
    """A node that is not serving deletes nothing; its reviewer is not shown more for that."""
    engine, vault = store(tmp_path), Vault(digest("at rest"))
    key = roster().discovery_key(NORTHPORT)
    first, second = (
        draft_search(engine, vault, PixelEmbedder(), NORTHPORT, key, search_request(STILL), investigator(), NOW) for _ in range(2)
    )
    assert [one.search_id for one in near_duplicates(engine, vault, RULES, second, NOW)] == [first]
    late = NOW.replace(year=NOW.year + 1)
    assert near_duplicates(engine, vault, RULES, second, late) == []
    with engine.begin() as connection:
        connection.execute(update(searches).values(state="refused"))
    assert forget_faces(engine, RULES, late) == 2
    assert forget_faces(engine, RULES, late) == 0


async def test_a_draft_without_its_face_is_not_granted(world: World) -> None:
    """Nothing is signed unseen: the reviewer's side cannot compare what is gone."""
    node, search_id = world.nodes[NORTHPORT], draft(world)
    with node.engine.begin() as connection:
        connection.execute(probe_faces.delete())
    with pytest.raises(RequestError, match="have it drafted anew"):
        grant_draft(node.engine, node.vault, PixelEmbedder(), node.parties.trusted, search_id, reviewer(), world.clock())
    with node.engine.begin() as connection:  # and another face in its place is refused as well
        keep_face(connection, node.vault, search_id, MODEL, np.ones(MODEL.dimensions, np.int32), world.clock())
    with pytest.raises(RequestError, match="not bound to this still"):
        grant_draft(node.engine, node.vault, PixelEmbedder(), node.parties.trusted, search_id, reviewer(), world.clock())
