"""A node decides by a pack only if two persons signed for it as it is: a changed letter, an exchanged folder, one signature, a forged file.

The administrator has the machine, the node's key and every file in its folder, and no person's key.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import NodeConfig
from agency_node.errors import ConfigError, RequestError
from agency_node.facts import Fact, write_fact
from agency_node.legal.persons import PersonKey
from agency_node.node import Node, create_node, open_node
from agency_node.outbox import PACK_CHANGE, Outbox
from agency_node.overview import ledger_rows
from agency_node.policy.approvals import STRICT_DEFAULT_SHA256, adopt, approve, check_approved, packs_in_force, unapproved
from agency_node.policy.engine import PolicyPack
from agency_node.policy.pack_folder import find_pack
from agency_node.serving import Service
from agency_node.tables import outbox
from crypto.canonical import AgencyId, PersonId
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.errors import AgencyRoleError, MissingRoleError, SamePersonError, TrainingExpiredError
from crypto.roster_entries import PersonRole
from tests.node_world import World, WorldNode
from tests.sample_federation import (
    EASTFIELD,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NOW,
    ORIGINATOR,
    REVIEWER,
    TRAINED_UNTIL,
    credential,
    person,
    root_set,
    roster,
    sign_roster,
    signing_key,
    with_agency,
)

ROSTER = roster()
INSIDE = PersonKey(LAKESIDE_REVIEWER, PersonRole.REVIEWER, signing_key(LAKESIDE_REVIEWER))
OUTSIDE = PersonKey(ORIGINATOR, PersonRole.REVIEWER, signing_key(ORIGINATOR))


@dataclass
class Place:
    """A node with a pack of its own, and the pack's folder."""

    node: Node
    pack: Path

    @property
    def packs(self) -> tuple[PolicyPack, ...]:
        return (PolicyPack.load(self.pack),)

    def signed(self, *persons: PersonKey) -> bytes:
        document = b""
        for one in persons:
            document = approve(self.packs[0], LAKESIDE, one, ROSTER, NOW, document)
        return document

    def adopted(self, document: bytes, agency: AgencyId = LAKESIDE) -> None:
        queue = Outbox(LAKESIDE, self.node.keyring.node_key, self.node.vault, lambda: NOW, lambda: None)
        adopt(self.node.engine, queue, self.node.folder, agency, ROSTER, document, NOW)

    def check(self) -> None:
        check_approved(self.node.config, self.node.folder, self.packs, ROSTER)


def make_place(folder: Path, mode: str = "test") -> Place:
    pack = Path(shutil.copytree(find_pack("us-md"), folder / "us-md"))
    values: dict[str, Any] = {
        "agency": "lakeside-sheriff",
        "mode": mode,
        "roles": ["holder"],
        "broker": "https://127.0.0.1:1",
        "root_fingerprint": root_set().fingerprint.hex(),
        "embedder": "dlib" if mode == "production" else "synthetic-128",
        "trusted_custodians": ["civic-board"],
        "policy_packs": [str(pack)],
    }
    create_node(folder / "n", NodeConfig.checked(values), witness=False)
    node = open_node(folder / "n", lambda: NOW)
    with node.engine.begin() as connection:
        write_fact(connection, Fact.ROSTER, sign_roster(ROSTER))
        write_fact(connection, Fact.ROOT_FINGERPRINT, root_set().fingerprint * 2)
    return Place(open_node(folder / "n", lambda: NOW), pack)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


def test_the_strict_default_is_known_by_its_hash() -> None:
    """Whoever changes the delivered strict default says so here too."""
    assert PolicyPack.load(find_pack("strict-default")).sha256.hex() == STRICT_DEFAULT_SHA256


# --- what serves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["test", "production"])
def test_a_pack_serves_when_two_persons_signed_for_it(tmp_path: Path, mode: str) -> None:
    place = make_place(tmp_path, mode)
    with pytest.raises(ConfigError, match=r"no approval by two persons, one of another agency.* us-md .*sealmatch policy approve"):
        place.check()
    place.adopted(place.signed(INSIDE, OUTSIDE))
    place.check()
    assert [one.name for one in packs_in_force(place.node)] == ["us-md"]


def test_a_demonstration_serves_without_and_warns(tmp_path: Path) -> None:
    place = make_place(tmp_path, "demo")
    place.check()
    shown = CliRunner().invoke(app, ["node", "status", str(place.node.folder)])
    assert "WARNING: no two persons have signed for it" in shown.stdout
    assert "NOT VERIFIED: us-md" in shown.stdout
    told = json.loads(CliRunner().invoke(app, ["node", "status", str(place.node.folder), "--json"]).stdout)
    assert [(one["pack"], one["verified"], one["approved"]) for one in told["packs"]] == [("us-md", False, False)]


@pytest.mark.parametrize("name", ["pack.toml", "policies.cedar", "scenarios.csv"])
def test_one_changed_letter_takes_the_approval_away(place: Place, name: str) -> None:
    """An administrator who edits a pack in place, be it a comment or a sentence."""
    place.adopted(place.signed(INSIDE, OUTSIDE))
    place.check()
    text = (place.pack / name).read_text(encoding="utf-8")
    (place.pack / name).write_text(text.replace("Maryland", "Marylend", 1) if "Maryland" in text else text + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no approval"):
        place.check()


def test_an_exchanged_pack_does_not_serve(place: Place) -> None:
    """An administrator who puts a weaker pack into the folder, or renames the approval to its hash."""
    place.adopted(place.signed(INSIDE, OUTSIDE))
    (approved,) = (place.node.folder / "approvals").iterdir()
    shutil.rmtree(place.pack)
    shutil.copytree(find_pack("us-wa"), place.pack)
    with pytest.raises(ConfigError, match="us-wa"):
        place.check()
    approved.rename(approved.with_name(f"{place.packs[0].sha256.hex()}.json"))
    with pytest.raises(ConfigError, match="us-wa"):
        place.check()


def test_no_file_that_the_administrator_can_write_is_an_approval(place: Place) -> None:
    folder = place.node.folder / "approvals"
    folder.mkdir()
    whole = place.signed(INSIDE, OUTSIDE)
    forged = [b"", b"{}", place.signed(INSIDE), whole[:-1], whole.replace(b"lakeside-sheriff", b"eastfield-pd"), whole * 40]
    elsewhere = approve(place.packs[0], EASTFIELD, OUTSIDE, ROSTER, NOW)
    forged.append(approve(place.packs[0], EASTFIELD, INSIDE, ROSTER, NOW, elsewhere))  # good, and another agency's
    for document in forged:
        (folder / f"{place.packs[0].sha256.hex()}.json").write_bytes(document)
        with pytest.raises(ConfigError, match="no approval"):
            place.check()


def test_when_a_signer_leaves_the_pack_is_approved_anew(place: Place) -> None:
    place.adopted(place.signed(INSIDE, OUTSIDE))
    left = with_agency(ROSTER, AgencyId("eastfield-attorney"), persons=())
    assert len(unapproved(place.node.folder, place.packs, LAKESIDE, left)) == 1


async def test_a_serving_node_asks_when_it_has_its_roster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before: the approvals are read against the roster that was just fetched, and the node never becomes ready."""
    place = make_place(tmp_path)

    async def nothing(*_args: object) -> None:
        """The broker is there and has nothing new."""

    node = place.node
    monkeypatch.setattr(node.parties, "refresh", nothing)
    service = Service(node)
    monkeypatch.setattr(service, "_check_roles", lambda: None)
    with pytest.raises(ConfigError, match="no approval by two persons"):
        await asyncio.wait_for(service._start(asyncio.Event()), 10)
    assert not service.ready.is_set()
    await node.transport.close()


# --- signing and adopting -----------------------------------------------------------------------------------------------


def test_who_signs_alone_twice_or_untrained_makes_no_approval(place: Place) -> None:
    with pytest.raises(MissingRoleError):
        place.adopted(place.signed(INSIDE))
    two = person(PersonId("lakeside-sheriff:two"), credential("a", PersonRole.REVIEWER), credential("b", PersonRole.REVIEWER))
    content = with_agency(ROSTER, LAKESIDE, persons=(*ROSTER.agency(LAKESIDE).persons, two))
    begun = approve(place.packs[0], LAKESIDE, PersonKey(two.person_id, PersonRole.REVIEWER, signing_key("a")), content, NOW)
    with pytest.raises(SamePersonError):
        approve(place.packs[0], LAKESIDE, PersonKey(two.person_id, PersonRole.REVIEWER, signing_key("b")), content, NOW, begun)
    with pytest.raises(AgencyRoleError):
        place.adopted(place.signed(OUTSIDE, PersonKey(REVIEWER, PersonRole.REVIEWER, signing_key(REVIEWER))))
    later = datetime.combine(TRAINED_UNTIL + timedelta(days=1), NOW.timetz())
    with pytest.raises(TrainingExpiredError):
        approve(place.packs[0], LAKESIDE, INSIDE, ROSTER, later)
    assert not (place.node.folder / "approvals").exists()


def test_the_second_signs_for_the_folder_that_the_second_read(place: Place, tmp_path: Path) -> None:
    """What was begun is of this very pack, else nothing is signed."""
    begun = place.signed(INSIDE)
    other = PolicyPack.load(find_pack("us-wa"))
    for pack, agency in ((other, LAKESIDE), (place.packs[0], NORTHPORT)):
        with pytest.raises(RequestError, match="of another pack or agency"):
            approve(pack, agency, OUTSIDE, ROSTER, NOW, begun)


def test_an_adoption_is_told_to_the_ledger_and_queued_for_the_log(place: Place) -> None:
    document = place.signed(INSIDE, OUTSIDE)
    with pytest.raises(RequestError, match="is lakeside-sheriff's"):
        place.adopted(document, NORTHPORT)
    place.adopted(document)
    with pytest.raises(RequestError, match="adopted before"):
        place.adopted(document)
    row = ledger_rows(place.node.engine)[-1]
    assert (row["event"], row["subject"]) == ("pack adopted", f"pack us-md {place.packs[0].sha256.hex()}")
    assert row["detail"] in (f"signed by {LAKESIDE_REVIEWER} {ORIGINATOR}", f"signed by {ORIGINATOR} {LAKESIDE_REVIEWER}")
    with place.node.engine.begin() as connection:
        (queued,) = connection.execute(outbox.select()).all()
    assert (queued.kind, queued.search_id, queued.grant_digest) == (PACK_CHANGE, "", place.packs[0].sha256)


async def test_the_serving_node_enters_it_into_the_public_log(tmp_path: Path) -> None:
    """Under the pack's hash and the agency, so that whoever has the pack finds it; and the broker is shown the approval."""
    world = World(tmp_path / "world")
    node: WorldNode = await world.node(LAKESIDE)
    place = make_place(tmp_path / "own")
    document = place.signed(INSIDE, OUTSIDE)
    adopt(node.engine, node.outbox, node.folder, LAKESIDE, ROSTER, document, NOW)
    await node.send()
    entry = LogEntry.from_bytes(world.broker.log[-1])
    sha256 = place.packs[0].sha256
    assert (entry.kind, entry.subject) == (EntryKind.PACK_CHANGE, entry_subject(EntryKind.PACK_CHANGE, sha256, LAKESIDE))
    assert world.broker.approvals == [document]
    assert node.rows(outbox, state="ready") == []
    world.close()


def test_a_file_without_its_row_is_never_left(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between: the pack does not serve, and adopting is done again."""

    def broken(*_args: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="full"):
        place.adopted(place.signed(INSIDE, OUTSIDE))
    monkeypatch.undo()
    assert [row for row in ledger_rows(place.node.engine) if row["event"] == "pack adopted"] == []
    place.adopted(place.signed(INSIDE, OUTSIDE))
    place.check()
