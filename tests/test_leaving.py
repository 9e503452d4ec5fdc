"""A node leaves the federation: what is destroyed, what is kept, who signs, and that it goes on wherever it was killed (R22, R25, R27).

The broker is the real one, in this process; galleries are synthetic. Attacks forge and alter receipts, start the node again, and look for
templates, photographs and keys in every file that stays.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, Engine, event, func, select
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import SubjectRequestRules
from agency_node.errors import RequestError, RetiredError
from agency_node.gallery_tables import block_keys, records, template_blocks
from agency_node.grants import GrantDesk
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.records import RecordStore
from agency_node.holder.subject_requests import Outcome, Signer, SubjectRequests
from agency_node.keyring import NODE_KEY_FILE, Keyring
from agency_node.leave_receipt import LeaveOrder, LeaveReceipt, receipt_subject
from agency_node.leaving import Leaving, made_receipt, roster_removal
from agency_node.ledger_check import check_ledger
from agency_node.legal.persons import read_person_key
from agency_node.link import BrokerLink
from agency_node.node import Node, open_node
from agency_node.refusals import RefusedByUsError
from agency_node.retiring import Stage, check_takes_new, enter_stage, retirement
from agency_node.serving import serve
from agency_node.tables import held_grants, ledger, receipts, sealing_keys
from agency_node.transport import Transport
from broker.app import create_app
from broker.services import Services
from crypto.canonical import b64url_encode
from crypto.entries import LogEntry
from crypto.errors import AgencyRoleError, EncodingError, PeerError
from crypto.keys import SigningKey
from crypto.roster import Roster
from crypto.roster_entries import PersonRole
from tests.broker_world import World, make_broker
from tests.node_samples import Clock, not_entered
from tests.rostered import CLERK, COUNSEL, key_file, pinned
from tests.sample_federation import LAKESIDE, NOW, claims, root_set, roster, sign_roster, signing_key
from tests.test_backup import MODEL, gallery, make_node, template

BASE = "http://broker.test"


@dataclass
class Leaver:
    """A holder's node that is to leave, who orders it, and the broker."""

    node: Node
    key: Path
    roster: Roster
    clock: Clock
    world: World

    @property
    def leaving(self) -> Leaving:
        return Leaving(self.node, self.clock)

    def signer(self, path: Path | None = None) -> Signer:
        return Signer(LAKESIDE, self.roster, read_person_key(path or self.key))

    async def leave(self) -> bytes:
        """All steps, as the command takes them; those that were done are done again."""
        steps = self.leaving
        if retirement(self.node.engine) is None:
            steps.order(self.signer())
        steps.destroy()
        await steps.tell_broker()
        document = steps.sign_receipt(broker_told=True)
        await steps.enter_receipt()
        steps.end()
        return document


def listed_node(folder: Path, clock: Clock) -> tuple[Node, Path, Roster]:
    """A node with the key that the sample roster lists, so that the sample broker takes its requests, and a person who may order it."""
    node = make_node(folder / "lakeside", clock=clock, root_fingerprint=root_set().fingerprint.hex())
    secret = signing_key(f"{LAKESIDE} node").export_secret()
    (node.folder / NODE_KEY_FILE).write_bytes(node.vault.seal("node-key", secret))
    node.engine.dispose()
    node = open_node(node.folder, clock)
    key = key_file(folder)
    listed = pinned(node, key)
    node.engine.dispose()
    return open_node(node.folder, clock), key, listed


@pytest.fixture
async def leaver(tmp_path: Path) -> AsyncIterator[Leaver]:
    clock = Clock()
    node, key, listed = listed_node(tmp_path, clock)
    gallery(node)
    node.keyring.current_week()
    application = create_app(make_broker(tmp_path / "broker"), clock=clock)
    async with application.router.lifespan_context(application):
        services: Services = application.state.services
        await services.rosters.install(sign_roster(roster()), clock())
        network = httpx.ASGITransport(app=application)
        node.link = BrokerLink(Transport(BASE, LAKESIDE, node.keyring.node_key, clock, transport=network))
        async with httpx.AsyncClient(transport=network, base_url=BASE) as client:
            yield Leaver(node, key, listed, clock, World(make_broker(tmp_path / "broker"), services, client, [clock()]))
    node.engine.dispose()


def files_of(node: Node) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(node.folder.rglob("*")) if path.is_file())


def rows(engine: Engine, table: Any) -> int:
    with engine.begin() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


# --- what goes and what stays -----------------------------------------------------------------------------------------------


@pytest.mark.rule("R22")
@pytest.mark.rule("R25")
async def test_a_node_that_leaves_destroys_its_gallery_and_signs_for_it(leaver: Leaver) -> None:
    """R22, R25: templates, photographs and keys are in no file; the receipt verifies, and names the gallery that was there."""
    node, world = leaver.node, leaver.world
    content = await world.grant()
    for _ in range(2):
        assert (await world.put(world.message(content))).status_code == 200
    store = RecordStore(node.engine, node.vault, MODEL)
    store.expunge("L-4", ExpungeReason.ERROR, NOW, not_entered)
    root = store.commitment()
    with node.engine.begin() as connection:
        gone = {
            "template": connection.execute(select(template_blocks.c.sealed_templates)).scalar_one()[100:160],
            "data key": connection.execute(select(block_keys.c.sealed_key)).scalar_one(),
            "photograph": connection.execute(select(records.c.sealed_photograph).where(records.c.row == 1)).scalar_one(),
            "record": connection.execute(select(records.c.sealed_record).where(records.c.row == 1)).scalar_one(),
            "week key": connection.execute(select(sealing_keys.c.sealed_private)).scalar_one(),
            "node key": (node.folder / NODE_KEY_FILE).read_bytes(),
        }
    held = files_of(node)
    assert {name for name, data in gone.items() if data in held} == set(gone)  # the control
    rows_before = rows(node.engine, ledger)

    document = await leaver.leave()

    held = files_of(node)
    assert {name for name, data in gone.items() if data in held} == set()
    assert [rows(node.engine, table) for table in (records, template_blocks, block_keys)] == [0, 0, 0]
    said = LeaveReceipt.read(document, leaver.roster)
    assert (said.agency, said.records, said.photographs, said.template_blocks, said.sealing_keys) == (LAKESIDE, 4, 4, 1, 1)
    assert (said.gallery_root, said.mailbox_messages, said.broker_told) == (root, 2, True)
    assert LeaveOrder.read(said.order, leaver.roster).person == COUNSEL
    assert "audit ledger" in said.kept
    assert rows(node.engine, receipts) == 2
    assert await world.lease(LAKESIDE) == []
    assert rows(node.engine, ledger) > said.ledger_rows > rows_before
    assert check_ledger(node.engine, leaver.roster, LAKESIDE).findings == ()
    entries = [LogEntry.from_bytes(one) for one in (await world.services.log.leaves_from(0, 100))[1]]
    assert [one.subject for one in entries].count(receipt_subject(document, LAKESIDE)) == 1

    removal = roster_removal(node, document, leaver.roster)
    assert (removal.agency, removal.receipt_sha256) == (LAKESIDE, hashlib.sha256(document).hexdigest())
    assert str(COUNSEL) in removal.persons


@pytest.mark.rule("R27")
async def test_a_node_that_left_serves_and_speaks_for_nobody(leaver: Leaver) -> None:
    """R27: it does not start; its key is one that no roster lists; a stage back is not taken."""
    await leaver.leave()
    node = leaver.node
    with pytest.raises(RetiredError, match="left the federation"):
        serve(node, lambda: pytest.fail("a node that left served"))
    with pytest.raises(RetiredError, match="left the federation"):
        open_node(node.folder, leaver.clock)
    again = open_node(node.folder, leaver.clock, retired=True)
    assert again.keyring.node_key.verifying_key != leaver.roster.node_key(LAKESIDE)
    for stage in Stage:
        with pytest.raises(RetiredError), again.engine.begin() as connection:
            enter_stage(connection, stage, "")
    again.engine.dispose()


async def test_a_node_that_leaves_takes_nothing_new(leaver: Leaver) -> None:
    """From the order on: no grant, no enrolment, no search of its own; what is open goes on being served."""
    leaver.leaving.order(leaver.signer())
    with pytest.raises(RetiredError, match="takes nothing new"):
        check_takes_new(leaver.node.engine)
    desk = GrantDesk(LAKESIDE, leaver.node.engine, leaver.node.vault, *[None] * 3, leaver.clock)  # type: ignore[call-arg, arg-type]
    with pytest.raises(RefusedByUsError, match="takes no new search"):
        desk._check_new(claims(), claims().digest)
    open_node(leaver.node.folder, leaver.clock).engine.dispose()


async def test_open_work_is_said_and_persons_work_is_not_refused(leaver: Leaver) -> None:
    node, steps = leaver.node, leaver.leaving
    assert (steps.open_work().ends, steps.open_work().persons) == ({}, {})
    requests = SubjectRequests(node.engine, node.vault, SubjectRequestRules(), leaver.clock)
    request = requests.receive("L-1")
    texts = dict.fromkeys(("note", "deadline", "expires", "roles", "received_at", "grant_id"), "")
    with node.engine.begin() as connection:
        grant = {one.name: texts.get(one.name, b"x") for one in held_grants.c} | {"search_id": "5e" * 16, "state": "standing"}
        connection.execute(held_grants.insert().values(grant))
    assert steps.open_work().ends == {"grants held": 1}
    assert list(steps.open_work().persons.values()) == [1]
    requests.answer(request.request_id, RecordStore(node.engine, node.vault, MODEL), node.embedder(), None, leaver.signer())
    requests.close(request.request_id, Outcome.SATISFIED, leaver.signer())
    assert steps.open_work().persons == {}
    await leaver.leave()
    with node.engine.begin() as connection:
        assert connection.execute(select(held_grants.c.state, held_grants.c.note)).one() == ("ended", "this node left the federation")


def test_who_may_not_sign_orders_nothing(tmp_path: Path) -> None:
    node, _, _ = listed_node(tmp_path, Clock())
    clerk = key_file(tmp_path, CLERK, PersonRole.INVESTIGATOR)
    listed = pinned(node, clerk)
    with pytest.raises(AgencyRoleError):
        Leaving(node, node.clock).order(Signer(LAKESIDE, listed, read_person_key(clerk)))
    assert retirement(node.engine) is None
    node.engine.dispose()


# --- killed -----------------------------------------------------------------------------------------------------------------


class Died(BaseException):
    """The end of a process: what stands on the disk is what was committed."""


async def test_wherever_it_dies_it_goes_on_to_one_receipt(leaver: Leaver) -> None:
    """At every commit of the store in turn, as often as there are any: each time the process ends there and the command is typed again."""
    deaths, commits, limit = 0, 0, [1]

    @event.listens_for(leaver.node.engine, "commit")
    def _die(_connection: Connection) -> None:
        nonlocal commits
        commits += 1
        if commits > limit[0]:
            raise Died

    seen: set[bytes] = set()
    while True:
        commits = 0
        try:
            document = await leaver.leave()
            break
        except Died:
            deaths += 1
            limit[0] += 1
            leaver.node.engine.dispose()
            made = made_receipt_quietly(leaver.node)
            if made is not None:
                seen.add(made)
        assert deaths < 200
    assert deaths > 5
    assert seen <= {document}
    assert LeaveReceipt.read(document, leaver.roster).records == 5
    found = retirement(leaver.node.engine)
    assert found is not None
    assert found.stage is Stage.LEFT


async def test_a_node_that_died_before_its_key_was_destroyed_destroys_it_then(leaver: Leaver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has left already, and still has the listed key: the same step again takes it; the receipt is the one that was made."""

    def die(*_args: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Keyring, "replace_with_unlisted", die)
        with pytest.raises(Died):
            await leaver.leave()
    document, path = made_receipt(leaver.node), leaver.node.folder / NODE_KEY_FILE
    assert document is not None
    listed = path.read_bytes()
    leaver.leaving.end()
    assert listed not in files_of(leaver.node)
    assert made_receipt(leaver.node) == document
    again = open_node(leaver.node.folder, leaver.clock, retired=True)
    assert again.keyring.node_key.verifying_key != leaver.roster.node_key(LAKESIDE)
    again.engine.dispose()


def made_receipt_quietly(node: Node) -> bytes | None:
    """Read apart from the engine that dies."""
    with sqlite3.connect(node.folder / "node.sqlite") as connection:
        found = connection.execute("SELECT value FROM facts WHERE name = 'leave-receipt'").fetchone()
    return None if found is None else bytes(found[0])


# --- forged -----------------------------------------------------------------------------------------------------------------


async def test_a_forged_or_altered_receipt_is_refused(leaver: Leaver) -> None:
    """Other numbers, another signer, an order of nobody who may, of another node, of a later day; cut and extended."""
    document = await leaver.leave()
    said, node_key = LeaveReceipt.read(document, leaver.roster), signing_key(f"{LAKESIDE} node")
    counsel = read_person_key(leaver.key)
    order = LeaveOrder.read(said.order, leaver.roster)
    mallory = SigningKey.generate()
    changed = document.replace(b'"records":5', b'"records":6')
    assert changed != document
    wrong = {
        "altered": changed,
        "another node key": said.sign(mallory),
        "two signers": said.sign(node_key).replace(b'"signatures":[', b'"signatures":[' + json.dumps({}).encode() + b","),
        "an order of nobody": replace(said, order=order.sign(mallory)).sign(node_key),
        "an order of another node": replace(said, order=replace(order, node_key=mallory.verifying_key).sign(counsel.signing_key)).sign(
            node_key
        ),
        "a later order": replace(said, order=replace(order, ordered_at=NOW.replace(year=2027)).sign(counsel.signing_key)).sign(node_key),
        "cut": document[:-1],
        "extended": document + b" ",
    }
    for forged in wrong.values():
        with pytest.raises((PeerError, EncodingError)):
            LeaveReceipt.read(forged, leaver.roster)
    assert LeaveReceipt.read(said.sign(node_key), leaver.roster) == said  # the control
    with pytest.raises(PeerError):
        LeaveReceipt.read(document, roster_without_the_key())


def roster_without_the_key() -> Roster:
    from tests.sample_federation import with_agency  # noqa: PLC0415

    return with_agency(roster(), LAKESIDE, node_key=SigningKey.generate().verifying_key)


# --- commands ---------------------------------------------------------------------------------------------------------------


def test_the_commands_leave_and_check(tmp_path: Path) -> None:
    """Asked for, refused without a person or a yes; without a broker it stops behind the gallery, and ends when that is said."""
    node, key, listed = listed_node(tmp_path, Clock())
    gallery(node)
    node.engine.dispose()
    roster_file, out = tmp_path / "roster.json", tmp_path / "left.json"
    roster_file.write_bytes(sign_roster(listed))

    def run(*words: object) -> Any:
        return CliRunner().invoke(app, ["node", *(str(one) for one in words)])

    leave = ["leave", node.folder, "--receipt", out]
    assert "legal staff orders" in run(*leave).stderr
    assert "type --yes" in run(*leave, "--person", key).stderr
    stopped = run(*leave, "--person", key, "--yes", "--json")
    assert (stopped.exit_code, json.loads(stopped.stdout)["error"]) == (1, "broker-unreachable"), stopped.output
    assert not out.exists()
    assert "its gallery is being destroyed" in run("status", node.folder).stdout
    done = run(*leave, "--without-broker")
    assert done.exit_code == 0, done.output
    assert "the roster after version 1 without it" in done.stdout
    assert f"agency lakeside-sheriff, persons {LAKESIDE}:counsel-1, {COUNSEL}" in done.stdout
    assert "is there already" in run(*leave).stderr
    again = run("leave", node.folder, "--receipt", tmp_path / "again.json", "--json")
    assert json.loads(again.stdout)["left"] is True
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes() == made_receipt(open_node(node.folder, Clock(), retired=True))
    checked = run("receipt", out, "--roster", roster_file, "--root-fingerprint", root_set().fingerprint.hex())
    assert "lakeside-sheriff destroyed 5 records with 5 photographs" in checked.stdout, checked.output
    assert "the broker was not asked" in checked.stdout
    shown = json.loads(run("receipt", out, "--roster", roster_file, "--root-fingerprint", root_set().fingerprint.hex(), "--json").stdout)
    assert shown["order"]["person"] == str(COUNSEL)
    out.write_bytes(out.read_bytes().replace(b'"records":5', b'"records":0'))
    forged = run("receipt", out, "--roster", roster_file, "--root-fingerprint", root_set().fingerprint.hex())
    assert (forged.exit_code, "statement-invalid" in forged.stderr) == (1, True), forged.output
    other = run("receipt", out, "--roster", roster_file, "--root-fingerprint", "00" * 32)
    assert other.exit_code == 1
    assert "left the federation at" in run("status", node.folder).stdout
    assert "deletion receipt signed" in run("ledger", node.folder).stdout
    assert "left the federation" in run("enrol", node.folder).stderr
    assert b64url_encode(template(0).tobytes())[:40].encode() not in files_of(node)
    with pytest.raises(RequestError, match="another node key"):
        Leaving(replace(node, keyring=open_node(node.folder, Clock(), retired=True).keyring), Clock()).order(
            Signer(LAKESIDE, listed, read_person_key(key))
        )
