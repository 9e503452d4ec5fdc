"""A person asks an agency whether a record of theirs is in its gallery (R26): one record, one photograph of it, a verdict, a deadline.

The walk of the code path reads along: every blob that the vault opens, every block of templates, every row that leaves the node.
"""

from __future__ import annotations

import ast
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import SubjectRequestRules
from agency_node.errors import ImageError, RequestError
from agency_node.gallery_tables import subject_requests
from agency_node.holder import subject_requests as module
from agency_node.holder.blocks import TemplateBlocks
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.holder.subject_requests import (
    Asked,
    Outcome,
    Pictured,
    Signer,
    State,
    SubjectRequests,
    Verdict,
    Word,
    commitment_to,
)
from agency_node.legal.persons import read_person_key
from agency_node.node import Node
from agency_node.outbox import Outbox
from agency_node.tables import inbox, ledger, outbox
from agency_node.transport import Transport
from agency_node.vault import Vault
from crypto.disclosure import Media
from crypto.errors import AgencyRoleError, EncodingError, PeerError
from crypto.roster import Roster
from crypto.roster_entries import PersonRole
from tests.face_samples import OneFaceEmbedder, encoded, pixels, plain_picture
from tests.node_samples import Clock, not_entered
from tests.rostered import CLERK, COUNSEL, key_file, pinned
from tests.sample_federation import NOW, root_set
from tests.test_backup import make_node

EMBEDDER = OneFaceEmbedder()
NUMBERS = [f"L-{number:06d}" for number in range(4)]
WITHOUT = "L-000099"
"""A record without a photograph."""
ROOT = Path(__file__).resolve().parent.parent


class Desk:
    """One holder's node, its requests, and who signs."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock(NOW)
        self.node: Node = make_node(folder / "lakeside", clock=self.clock, root_fingerprint=root_set().fingerprint.hex())
        self.key = key_file(folder)
        self.clerk = key_file(folder, CLERK, PersonRole.INVESTIGATOR)
        self.roster: Roster = pinned(self.node, self.key, self.clerk)
        self.store = RecordStore(self.node.engine, self.node.vault, EMBEDDER.model)
        pictures = [plain_picture(number) for number in range(len(NUMBERS))]
        templates = [EMBEDDER.model.templates(EMBEDDER.faces(pixels(one))[0].embedding) for one in pictures]
        batch = [
            NewRecord(number, NOW.date(), "criminal_booking", one, picture, Media.PNG)
            for number, one, picture in zip(NUMBERS, templates, pictures, strict=True)
        ]
        self.store.add([*batch, NewRecord(WITHOUT, NOW.date(), "criminal_booking", templates[0])], NOW)
        self.requests = SubjectRequests(self.node.engine, self.node.vault, SubjectRequestRules(), self.clock)

    def signer(self, path: Path | None = None) -> Signer:
        return Signer(self.node.agency, self.roster, read_person_key(path or self.key))

    def answer(self, number: str, photograph: bytes | None = None) -> tuple[Verdict, Pictured]:
        request = self.requests.receive(number)
        given = self.requests.answer(request.request_id, self.store, EMBEDDER, photograph, self.signer())
        return given.verdict, given.pictured

    def state(self, request_id: str) -> str:
        with self.node.engine.begin() as connection:
            return str(connection.execute(select(subject_requests.c.state).where(subject_requests.c.request_id == request_id)).scalar_one())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- what a person is told ------------------------------------------------------------------------------------------------


@pytest.mark.rule("R26")
def test_a_verdict_about_that_record_and_no_score(desk: Desk) -> None:
    """R26: in it or not, and whether the photograph is of the record's person; a picture of the neighbouring record is another person."""
    assert desk.answer(NUMBERS[1]) == (Verdict.IN_IT, Pictured.NOT_ASKED)
    assert desk.answer(NUMBERS[1], plain_picture(1)) == (Verdict.IN_IT, Pictured.THE_PERSON)
    assert desk.answer(NUMBERS[1], plain_picture(2)) == (Verdict.IN_IT, Pictured.ANOTHER)
    assert desk.answer(WITHOUT, plain_picture(0)) == (Verdict.IN_IT, Pictured.NOT_SAID)
    assert desk.answer("L-nobody", plain_picture(1)) == (Verdict.NOT_IN_IT, Pictured.NOT_SAID)
    desk.store.expunge(NUMBERS[0], ExpungeReason.COURT_ORDER, NOW, not_entered)
    assert desk.answer(NUMBERS[0], plain_picture(0)) == (Verdict.NOT_IN_IT, Pictured.NOT_SAID)
    request = desk.requests.receive(NUMBERS[2])
    nobody = encoded(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ImageError, match="no face"):
        desk.requests.answer(request.request_id, desk.store, EMBEDDER, nobody, desk.signer())
    assert desk.state(request.request_id) == State.RECEIVED
    assert [one for one in Pictured if any(sign in one for sign in "0123456789%")] == []


@pytest.mark.rule("R26")
def test_no_other_record_is_opened(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """R26: read along: of the gallery one record and its photograph, each bound to its row, and no block of templates at all."""
    opened: list[tuple[str, bytes]] = []
    blocks: list[str] = []
    real, read = Vault.open, TemplateBlocks._read

    def spying(vault: Vault, purpose: str, sealed: bytes, bound_to: bytes = b"") -> bytes:
        opened.append((purpose, bound_to))
        return real(vault, purpose, sealed, bound_to)

    def reading(self: TemplateBlocks, *arguments: Any) -> int:
        blocks.append("read")
        return read(self, *arguments)

    monkeypatch.setattr(Vault, "open", spying)
    monkeypatch.setattr(TemplateBlocks, "_read", reading)
    seen = EMBEDDER.seen
    assert desk.answer(NUMBERS[2], plain_picture(3)) == (Verdict.IN_IT, Pictured.ANOTHER)
    assert EMBEDDER.seen - seen == 2
    row = (2).to_bytes(8, "big")
    of_gallery = [one for one in opened if one[0] != "subject-request"]
    assert of_gallery == [("record", row), ("photograph", row)]
    assert blocks == []
    desk.store.template(2)
    assert blocks == ["read"]  # the control: a block that is opened is seen
    with monkeypatch.context() as patch:
        patch.setattr(SubjectRequests, "_compare", lambda *_: pytest.fail("a photograph was looked at without a record"))
        desk.answer("L-nobody", plain_picture(3))


def test_whatever_takes_a_photograph_takes_a_record_with_it() -> None:
    """One to many is not there to be called: of the module's functions those with a photograph name the request, which is of one record;
    the one that compares has two pictures; nothing of it calls what reads templates."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    taking = {one.name: [argument.arg for argument in one.args.args] for one in functions}
    with_photograph = {name: names for name, names in taking.items() if {"photograph", "brought"} & {*names}}
    assert with_photograph == {
        "answer": ["self", "request_id", "store", "embedder", "photograph", "signer"],
        "_compare": ["self", "embedder", "brought", "kept"],
    }
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    assert called & {"record", "template", "templates", "rows", "count", "state", "block", "answer", "scan"} == {"record"}
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While)]
    assert loops == []


# --- what stays, and where ------------------------------------------------------------------------------------------------


@pytest.mark.rule("R26")
def test_the_broker_never_sees_the_person_and_the_photograph_is_kept_nowhere(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """R26, R22: nothing is queued or dialled; number and picture stand in no file of the node but in the record itself, verdicts only in
    what was signed; the ledger's commitment opens with the person's salt."""
    monkeypatch.setattr(Transport, "request", lambda *_, **__: pytest.fail("the broker was asked"))
    request = desk.requests.receive("L-4711-nobody")
    brought = plain_picture(3)
    given = desk.requests.answer(request.request_id, desk.store, EMBEDDER, brought, desk.signer())
    desk.requests.ask(request.request_id, Asked.CORRECTION)
    desk.requests.close(request.request_id, Outcome.REFUSED, desk.signer())
    with desk.node.engine.begin() as connection:
        for table in (outbox, inbox):
            assert connection.execute(select(table)).first() is None
        rows = [row for row in connection.execute(select(ledger)) if row.event.startswith("subject request")]
    assert [row.event.removeprefix("subject request ") for row in rows] == ["received", "answered", "asked", "closed"]
    assert commitment_to("L-4711-nobody", given.salt).hex() in rows[0].detail
    assert {rows[1].actor, rows[3].actor} == {str(COUNSEL)}
    text = " ".join(str(value) for row in rows for value in row)
    assert not [one for one in ("4711", given.salt.hex(), "not in it", "photograph") if one in text]
    held = b"".join(path.read_bytes() for path in desk.node.folder.rglob("*") if path.is_file())
    assert b"L-4711-nobody" not in held
    assert brought not in held
    assert (given.salt.hex().encode() in held, given.salt in held) == (False, False)


@pytest.mark.rule("R26")
def test_time_runs_and_the_status_warns(desk: Desk) -> None:
    """R26: thirty days; a warning in the last seven, then overdue; a closed one is quiet."""
    request = desk.requests.receive(NUMBERS[0])
    (shown,) = desk.requests.open_requests()
    assert (shown.state, shown.warning) == (State.RECEIVED, "")
    desk.clock.now = NOW + timedelta(days=24)
    assert desk.requests.open_requests()[0].warning == "due within 6 days (R26)"
    desk.clock.now = NOW + timedelta(days=30, seconds=1)
    assert desk.requests.open_requests()[0].warning.startswith("OVERDUE since 2026-12-23")
    desk.requests.answer(request.request_id, desk.store, EMBEDDER, None, desk.signer())
    assert desk.requests.open_requests()[0].warning.startswith("OVERDUE")
    desk.requests.close(request.request_id, Outcome.SATISFIED, desk.signer())
    assert desk.requests.open_requests() == []


@pytest.mark.rule("R26")
def test_an_expunction_is_closed_when_the_record_is_gone(desk: Desk) -> None:
    """R26, R25: asked for, carried out by the command that destroys, then closed; each step in its order."""
    requests, request = desk.requests, desk.requests.receive(NUMBERS[1])
    with pytest.raises(RequestError, match="after the answer"):
        requests.ask(request.request_id, Asked.EXPUNCTION)
    with pytest.raises(RequestError, match="answered before it is closed"):
        requests.close(request.request_id, Outcome.SATISFIED, desk.signer())
    requests.answer(request.request_id, desk.store, EMBEDDER, None, desk.signer())
    with pytest.raises(RequestError, match="was answered"):
        requests.answer(request.request_id, desk.store, EMBEDDER, None, desk.signer())
    assert requests.ask(request.request_id, Asked.EXPUNCTION) == NUMBERS[1]
    with pytest.raises(RequestError, match="still there"):
        requests.close(request.request_id, Outcome.EXPUNGED, desk.signer())
    entered = Outbox(desk.node.agency, desk.node.keyring.node_key, desk.node.vault, desk.clock, lambda: None).expunction
    desk.store.expunge(NUMBERS[1], ExpungeReason.ERROR, NOW, entered)
    word = Word.read(requests.close(request.request_id, Outcome.EXPUNGED, desk.signer()), desk.roster)
    assert (word.outcome, word.verdict, word.person) == ("expunged", Verdict.IN_IT, COUNSEL)


@pytest.mark.rule("R26")
def test_legal_staff_signs_and_nobody_else(desk: Desk) -> None:
    """R26: an investigator of the agency may not; a changed or forged word is read by nobody."""
    request = desk.requests.receive(NUMBERS[0])
    with pytest.raises(AgencyRoleError):
        desk.requests.answer(request.request_id, desk.store, EMBEDDER, None, desk.signer(desk.clerk))
    assert desk.state(request.request_id) == State.RECEIVED
    document = desk.requests.answer(request.request_id, desk.store, EMBEDDER, None, desk.signer()).document
    assert Word.read(document, desk.roster).verdict is Verdict.IN_IT
    forged = Word.read(document, desk.roster).sign(read_person_key(desk.clerk).signing_key)
    for wrong in (document.replace(b'"in it"', b'"not in it"'), document.replace(b'"outcome":""', b'"outcome":"x"'), forged, document[:-1]):
        assert wrong != document
        with pytest.raises((PeerError, EncodingError)):
            Word.read(wrong, desk.roster)


# --- the command ------------------------------------------------------------------------------------------------------------


def test_the_command_from_the_question_to_the_end(desk: Desk, tmp_path: Path) -> None:
    """With the roster that a node has pinned; the record is found by the model that its node names, which has no pictures here."""
    folder = desk.node.folder

    def run(*words: object) -> Any:
        return CliRunner().invoke(app, ["node", "subject", str(folder), *(str(one) for one in words)])

    def said(*words: object) -> dict[str, Any]:
        done = run(*words, "--json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    photo = tmp_path / "photo.png"
    photo.write_bytes(plain_picture(1))
    for words, refused in (
        (["--photo", photo], "compared with one record"),
        (["--photo", photo, "--record", "L-1"], "compared with one record"),
        (["--photo", photo, "--close", "ab", "--as", "refused", "--person", desk.key], "compared with one record"),
        (["--record", "L-1", "--answer", "ab"], "one step at a time"),
        (["--answer", "ab"], "name the key file"),
        (["--ask", "ab", "--for", "mercy"], "no one request"),
        (["--record", ""], ""),
    ):
        done = run(*words)
        assert (done.exit_code == 2, refused in done.stderr) == (bool(refused), True), done.output
    with desk.node.engine.begin() as connection:  # the gallery of a model that this test brought: the node's own is empty
        connection.exec_driver_sql("DELETE FROM facts WHERE name = 'gallery-model'")
    request = said("--record", "L-77")["request_id"]
    answered = said("--answer", request[:6], "--person", desk.key, "--save", tmp_path / "answer.json")
    assert (answered["verdict"], len(answered["salt"])) == ("not in it", 64)
    word = Word.read((tmp_path / "answer.json").read_bytes(), desk.roster)
    assert word.commitment == commitment_to("L-77", bytes.fromhex(answered["salt"]))
    assert "is there already" in run("--answer", request, "--person", desk.key, "--save", tmp_path / "answer.json").stderr
    asked = run("--ask", request, "--for", "expunction")
    assert f"sealmatch node expunge {folder} L-77 --reason error" in asked.stdout
    assert said()["requests"][0]["state"] == "asked"
    status = CliRunner().invoke(app, ["node", "status", str(folder)])
    assert f"request {request} of a person: asked, due" in status.stdout
    assert said("--close", request, "--as", "expunged", "--person", desk.key)["outcome"] == "expunged"
    assert said()["requests"] == []
