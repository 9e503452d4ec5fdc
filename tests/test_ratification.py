"""R4: who may ratify an exigent grant, and when: at the requester's node, and again at every holder and custodian."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

import agency_node.commands.node
import agency_node.commands.node_exigent
import agency_node.commands.node_search
from agency_node.cli import app
from agency_node.config import AT_REST_KEY_FILE, CONFIG_FILE, Role
from agency_node.errors import RequestError
from agency_node.legal.persons import PersonKey, create_discovery_key, create_person_key
from agency_node.legal.ratified import RatifiedGrants
from agency_node.node import open_node
from agency_node.policy.clocks import ExigentClock, OnLapse
from agency_node.serving import Service
from agency_node.tables import exigent_grants, exigent_held, inbox
from crypto.canonical import GrantId, PersonId, SearchId
from crypto.entries import EntryKind
from crypto.errors import (
    AgencyRoleError,
    FieldError,
    GrantAlgorithmError,
    GrantExpiredError,
    GrantMismatchError,
    GrantNotYetValidError,
    GrantSignatureError,
    NotCanonicalError,
    PeerError,
    SamePersonError,
    TrainingExpiredError,
    UnknownKeyError,
)
from crypto.grant_basis import BasisKind, StatementOfFacts
from crypto.grant_claims import GrantClaims
from crypto.keys import SealingPrivateKey, SigningKey
from crypto.message_types import MessageType
from crypto.ratification import RATIFICATION_BODY_BYTES, Ratification, RatificationBody, verify_ratification
from crypto.roster import Roster
from crypto.roster_entries import PersonRole
from tests.exigent_world import DAY, disclosed, entries, exigent, later, open_world, ratify, restart, second_reviewer
from tests.node_world import STILL, World, gallery_records, investigator, person_key, reviewer
from tests.sample_federation import (
    BOARD,
    BOTH,
    INVESTIGATOR,
    KEYED_REVIEWER,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    ORIGINATOR,
    OVERSIGHT,
    REVIEWER,
    claims,
    credential,
    digest,
    person,
    roster,
    secret,
    signing_key,
    with_agency,
)

EXIGENT: Final = replace(claims(), basis=StatementOfFacts(BasisKind.EXIGENT, digest("facts")))
RATIFY_BY: Final = EXIGENT.not_before + DAY
GOOD: Final = Ratification(EXIGENT.search_id, EXIGENT.digest, BOTH, NOW)
KEY: Final = signing_key("both reviewer")


def untrained() -> Roster:
    """The sample roster, in which the second reviewer's training ended the day before."""
    office = roster().agency(NORTHPORT_LAW)
    lapsed = [replace(one, trained_until=NOW.date() - timedelta(days=1)) if one.person_id == BOTH else one for one in office.persons]
    return with_agency(roster(), NORTHPORT_LAW, persons=tuple(lapsed))


# --- the document -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("R4")
def test_a_second_reviewer_ratifies() -> None:
    said = verify_ratification(GOOD.sign(KEY), EXIGENT, roster(), RATIFY_BY, NOW)
    assert (said.person, said.ratified_at) == (BOTH, NOW)


def refused(data: bytes, content: GrantClaims = EXIGENT, listed: Roster | None = None, after: timedelta = timedelta()) -> type[PeerError]:
    with pytest.raises(PeerError) as caught:
        verify_ratification(data, content, listed or roster(), RATIFY_BY, NOW + after)
    return caught.type


@pytest.mark.rule("R4")
@pytest.mark.rule("R5")
@pytest.mark.parametrize("who", [REVIEWER, INVESTIGATOR, ORIGINATOR, LAKESIDE_REVIEWER])
def test_nobody_else_ratifies(who: PersonId) -> None:
    """R5: the granting reviewer, an investigator, reviewers of other offices."""
    expected = {REVIEWER: SamePersonError, INVESTIGATOR: UnknownKeyError, ORIGINATOR: AgencyRoleError, LAKESIDE_REVIEWER: AgencyRoleError}
    assert refused(replace(GOOD, person=who).sign(signing_key(who))) is expected[who]


@pytest.mark.rule("R5")
def test_one_person_with_two_keys_is_one_person() -> None:
    """R5: the granting reviewer's other key, and an investigator who holds a reviewer's key as well."""
    office = roster().agency(NORTHPORT_LAW)
    twice = person(REVIEWER, credential(REVIEWER, PersonRole.REVIEWER), credential("another key of counsel-1", PersonRole.REVIEWER))
    listed = with_agency(roster(), NORTHPORT_LAW, persons=tuple(twice if one.person_id == REVIEWER else one for one in office.persons))
    again = replace(GOOD, person=REVIEWER).sign(signing_key("another key of counsel-1"))
    assert refused(again, listed=listed) is SamePersonError
    own = replace(EXIGENT, investigator=BOTH)
    assert refused(replace(GOOD, grant_digest=own.digest).sign(KEY), own) is SamePersonError
    second = replace(EXIGENT, reviewers=(REVIEWER, BOTH))
    assert refused(replace(GOOD, grant_digest=second.digest).sign(KEY), second) is SamePersonError


@pytest.mark.rule("R14")
def test_whose_training_has_lapsed_does_not_ratify() -> None:
    assert refused(GOOD.sign(KEY), listed=untrained()) is TrainingExpiredError


def another_grant() -> bytes:
    return replace(GOOD, grant_digest=replace(EXIGENT, grant_id=GrantId("ab" * 16)).digest).sign(KEY)


def another_search() -> bytes:
    return replace(GOOD, search_id=SearchId("ab" * 16)).sign(KEY)


@pytest.mark.rule("R4")
@pytest.mark.parametrize("forge", [another_grant, another_search])
def test_it_is_of_one_grant_and_one_search(forge: Callable[[], bytes]) -> None:
    assert refused(forge()) is GrantMismatchError
    other = replace(EXIGENT, search_id=SearchId("ab" * 16), grant_id=GrantId("ab" * 16))
    assert refused(GOOD.sign(KEY), other) is GrantMismatchError  # replayed for another search
    assert refused(replace(GOOD, grant_digest=claims().digest).sign(KEY), claims()) is GrantMismatchError  # which needs none


@pytest.mark.rule("R4")
def test_it_comes_in_time_by_its_own_date_and_by_the_readers_clock() -> None:
    left = RATIFY_BY - NOW
    last = timedelta(milliseconds=10)
    verify_ratification(replace(GOOD, ratified_at=RATIFY_BY - last).sign(KEY), EXIGENT, roster(), RATIFY_BY, RATIFY_BY - last)
    assert refused(GOOD.sign(KEY), after=left) is GrantExpiredError  # set back, or held back on its way
    assert refused(replace(GOOD, ratified_at=RATIFY_BY).sign(KEY), after=left - last) is GrantExpiredError
    assert refused(replace(GOOD, ratified_at=NOW + timedelta(hours=1)).sign(KEY)) is GrantNotYetValidError
    assert refused(replace(GOOD, ratified_at=EXIGENT.not_before - last).sign(KEY)) is GrantNotYetValidError


def test_it_is_signed_by_whom_it_names() -> None:
    data = GOOD.sign(KEY)
    assert refused(replace(GOOD, person=KEYED_REVIEWER).sign(KEY)) is UnknownKeyError
    assert refused(GOOD.sign(signing_key(REVIEWER))) is UnknownKeyError
    assert refused(GOOD.sign(SigningKey.generate())) is UnknownKeyError
    later_by = replace(GOOD, ratified_at=NOW - timedelta(seconds=1)).sign(KEY)
    signature = json.loads(later_by)["signatures"]
    assert refused(json.dumps(json.loads(data) | {"signatures": signature}, separators=(",", ":")).encode()) is GrantSignatureError
    assert refused(json.dumps(json.loads(data) | {"signatures": []}, separators=(",", ":")).encode()) is FieldError
    assert refused(data + b" ") is NotCanonicalError


def test_a_security_key_does_not_ratify_yet_says_why() -> None:
    """Its credential signs assertions, not documents: a key that the roster lists as such is refused by its kind."""
    name = next(one.credentials[0].key_id for one in roster().agency(NORTHPORT_LAW).persons if one.person_id == KEYED_REVIEWER)
    forged = json.loads(replace(GOOD, person=KEYED_REVIEWER).sign(KEY))
    forged["signatures"][0]["keyid"] = str(name)
    assert refused(json.dumps(forged, separators=(",", ":")).encode()) is GrantAlgorithmError


def test_on_the_wire_it_has_one_length() -> None:
    short, long = RatificationBody(b"x").to_bytes(), RatificationBody(GOOD.sign(KEY)).to_bytes()
    assert len(short) == len(long) == RATIFICATION_BODY_BYTES
    assert RatificationBody.from_bytes(long).document == GOOD.sign(KEY)
    with pytest.raises(FieldError):
        RatificationBody(b"")


# --- at the nodes -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path) -> Iterator[World]:  # type: ignore[misc]  # pytest-asyncio takes it
    made = await open_world(tmp_path)
    yield made
    made.close()


@pytest.mark.rule("R4")
@pytest.mark.parametrize(
    ("who", "error"),
    [(reviewer, SamePersonError), (investigator, UnknownKeyError), (lambda: person_key(ORIGINATOR, PersonRole.REVIEWER), AgencyRoleError)],
)
async def test_the_requesters_node_takes_no_other_signature(world: World, who: Callable[[], PersonKey], error: type[PeerError]) -> None:
    content = await world.released(**exigent())
    with pytest.raises(error):
        ratify(world, content.search_id, who())
    assert world.nodes[NORTHPORT].rows(exigent_grants)[0].state == "running"


@pytest.mark.rule("R4")
async def test_too_late_twice_or_for_no_such_search_is_said_so(world: World) -> None:
    content = await world.released(**exigent())
    with pytest.raises(RequestError, match="no exigent grant of this search"):
        ratify(world, SearchId("ab" * 16))
    world.clock.pass_by(hours=24)  # the serving node has not noticed
    with pytest.raises(RequestError, match="too late"):
        ratify(world, content.search_id)
    await later(world, minutes=1)
    with pytest.raises(RequestError, match="is lapsed"):
        ratify(world, content.search_id)
    other = await world.granted(**exigent(case_number="26-CF-102"))
    ratify(world, other.search_id)
    with pytest.raises(RequestError, match="is ratified"):
        ratify(world, other.search_id)


@pytest.mark.rule("R4")
async def test_every_party_that_has_the_grant_is_told_and_verifies(world: World) -> None:
    """Also one to which the grant left after the ratification; entered once, sent once."""
    content = await world.granted(**exigent())
    ratify(world, content.search_id)
    await world.run(rounds=5)
    for agency in (LAKESIDE, OVERSIGHT):
        (row,) = world.nodes[agency].rows(exigent_held)
        assert row.state == "ratified"
        assert verify_ratification(row.ratification, content, roster(), content.not_before + DAY, world.clock()).person == BOTH
    restart(world.nodes[NORTHPORT])
    await later(world, hours=1)
    sent = [one for one in world.broker.carried if one.header.message_type is MessageType.RATIFICATION]
    assert sorted(one.header.recipient for one in sent) == [LAKESIDE, OVERSIGHT]
    assert entries(world, EntryKind.RATIFICATION, content.digest) == 1


def of_this(content: GrantClaims, world: World) -> Ratification:
    return Ratification(content.search_id, content.digest, BOTH, world.clock())


FORGED: Final[dict[str, Callable[[Ratification], bytes]]] = {
    "by the granting reviewer": lambda good: replace(good, person=REVIEWER).sign(signing_key(REVIEWER)),
    "by an investigator": lambda good: replace(good, person=INVESTIGATOR).sign(signing_key(INVESTIGATOR)),
    "by another office": lambda good: replace(good, person=ORIGINATOR).sign(signing_key(ORIGINATOR)),
    "of another grant": lambda good: replace(good, grant_digest=digest("another")).sign(KEY),
    "of another search": lambda good: replace(good, search_id=SearchId("ab" * 16)).sign(KEY),
    "no document": lambda good: b"yes",
}


@pytest.mark.rule("R4")
@pytest.mark.parametrize("forge", FORGED)
@pytest.mark.parametrize("party", [LAKESIDE, OVERSIGHT])
async def test_no_party_takes_a_forged_ratification(world: World, party: Any, forge: str) -> None:
    """Sent by the requester's own node, which may be in league with the investigator."""
    content = await world.released(**exigent())
    body = RatificationBody(FORGED[forge](of_this(content, world)))
    message = world.message(MessageType.RATIFICATION, body, content, NORTHPORT, party)
    node = await world.hand_in(party, message)
    assert node.state_of(message)[0] == "refused"
    assert node.rows(exigent_held)[0].state == "running"


@pytest.mark.rule("R4")
@pytest.mark.parametrize("hours", [24, 30])
async def test_a_ratification_that_was_held_back_comes_too_late(world: World, hours: int) -> None:
    """Dated in time by its signer, read after the end."""
    content = await world.released(**exigent())
    body = RatificationBody(of_this(content, world).sign(KEY))
    world.clock.pass_by(hours=hours)
    world.broker.cosign_again()
    message = world.message(MessageType.RATIFICATION, body, content, NORTHPORT, LAKESIDE)
    node = await world.hand_in(LAKESIDE, message)
    assert node.state_of(message)[0] == "refused"
    assert node.rows(exigent_held)[0].state == "lapsed"


async def test_a_second_ratification_is_refused_and_another_senders_too(world: World) -> None:
    content = await world.released(**exigent())
    ratify(world, content.search_id)
    await world.run(rounds=3)
    body = RatificationBody(of_this(content, world).sign(KEY))
    again = world.message(MessageType.RATIFICATION, body, content, NORTHPORT, LAKESIDE)
    foreign = world.message(MessageType.RATIFICATION, body, content, OVERSIGHT, LAKESIDE)
    node = await world.hand_in(LAKESIDE, again, foreign)
    assert {node.state_of(one)[0] for one in (again, foreign)} == {"refused"}
    assert node.rows(exigent_held)[0].state == "ratified"


@pytest.mark.rule("R4")
async def test_a_ratification_that_the_log_does_not_hold_waits(world: World) -> None:
    """The public count of ratifications cannot be kept low: without the entry nothing is done after the clock's end."""
    content = await world.released(**exigent())
    body = RatificationBody(of_this(content, world).sign(KEY))
    holder = await world.hand_in(LAKESIDE, world.message(MessageType.RATIFICATION, body, content, NORTHPORT, LAKESIDE))
    assert holder.rows(exigent_held)[0].state == "ratified"
    await later(world, hours=25, without=(NORTHPORT,))
    checkpoint = await holder.follower.follow()
    (condition,) = holder.desk.conditions
    with pytest.raises(Exception, match="does not hold the ratification"):
        condition.check(content, content.digest, checkpoint)


@pytest.mark.rule("R4")
async def test_a_party_with_a_shorter_clock_keeps_its_own(world: World) -> None:
    """The strictest wins at every node: ratified after 30 of 48 hours is too late for a holder whose pack says 24."""
    world.exigent_rule = ExigentClock(2 * DAY, OnLapse.SEAL)
    content = await world.released(**exigent(valid_for=DAY * 3))
    await later(world, hours=30)
    ratify(world, content.search_id)
    await world.run(rounds=3)
    assert world.nodes[NORTHPORT].rows(exigent_grants)[0].state == "ratified"
    holder = world.nodes[LAKESIDE]
    assert holder.rows(exigent_held)[0].state == "lapsed"
    assert [row.state for row in holder.rows(inbox, message_type="ratification")] == ["refused"]


# --- the commands, and the serving process ----------------------------------------------------------------------------


def typed(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """One command of `sealmatch node` over the requester's folder, at the world's moment."""
    for module in (agency_node.commands.node, agency_node.commands.node_exigent, agency_node.commands.node_search):
        monkeypatch.setattr(module, "clock", world.clock)
    node = world.nodes[NORTHPORT]
    (folder / CONFIG_FILE).write_text(node.config.to_toml())
    (folder / "keys" / AT_REST_KEY_FILE).write_bytes(digest(f"{NORTHPORT} at rest"))
    return CliRunner().invoke(app, ["node", *words])


def key_file(monkeypatch: pytest.MonkeyPatch, path: Path, who: PersonId, name: str) -> Path:
    """A person's key file as `sealmatch person init` writes it, with the sample federation's key."""
    monkeypatch.setattr(SigningKey, "generate", classmethod(lambda cls: signing_key(name)))
    create_person_key(path, who, PersonRole.REVIEWER, "", without_passphrase=True)
    return path


@pytest.mark.rule("R4")
async def test_the_commands_ratify_and_warn(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = await world.released(**exigent())
    await later(world, hours=13)
    folder = world.nodes[NORTHPORT].folder
    search = str(content.search_id)
    status = typed(world, folder, monkeypatch, "status", str(folder))
    assert "11.0 hours left" in status.stdout
    assert "WARNING: 11.0 hours left to ratify this exigent search" in status.stdout
    own = key_file(monkeypatch, tmp_path / "own.key", REVIEWER, REVIEWER)
    shown = typed(world, folder, monkeypatch, "ratify", str(folder), search, "--person", str(own))
    assert (shown.exit_code, "Traceback" in shown.output) == (1, False)
    second = key_file(monkeypatch, tmp_path / "second.key", BOTH, "both reviewer")
    shown = typed(world, folder, monkeypatch, "ratify", str(folder), search[:8], "--person", str(second), "--json")
    assert json.loads(shown.stdout)["state"] == "ratified"
    counts = json.loads(typed(world, folder, monkeypatch, "status", str(folder), "--json").stdout)["exigent"]["counts"]
    assert counts == {"running": 0, "ratified": 1, "lapsed": 0}


@pytest.mark.rule("R4")
async def test_the_commands_refuse_after_a_lapse_and_the_office_unseals(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = await disclosed(world)
    await later(world, hours=24)
    node = world.nodes[NORTHPORT]
    folder, search = node.folder, str(content.search_id)
    for words in (["release", str(folder), "--search", search], ["disclose", str(folder), "--search", search, "--rank", "1"]):
        shown = typed(world, folder, monkeypatch, *words)
        assert (shown.exit_code, "its leads are closed" in " ".join(shown.output.split())) == (2, True)
    status = typed(world, folder, monkeypatch, "status", str(folder)).stdout
    assert f"notice for the prosecutor: notices/{search}-prosecutor.json" in status
    assert "exigent grants: 0 running, 0 ratified, 1 lapsed" in status
    one = typed(world, folder, monkeypatch, "status", str(folder), "--search", search)
    assert "its leads are closed" in one.stdout
    order = tmp_path / "order.pdf"
    order.write_bytes(b"the court orders")
    create_discovery_key(tmp_path / "wrong.key", NORTHPORT_LAW, "", without_passphrase=True)
    words = ["unseal", str(folder), search, "--order", str(order), "--save", str(tmp_path / "court"), "--discovery"]
    shown = typed(world, folder, monkeypatch, *words, str(tmp_path / "wrong.key"))
    assert (shown.exit_code, (tmp_path / "court").exists()) == (2, False)
    office_key = SealingPrivateKey.from_secret(secret(f"{NORTHPORT_LAW} discovery"))
    monkeypatch.setattr("agency_node.legal.persons.SealingPrivateKey.generate", lambda: office_key)
    create_discovery_key(tmp_path / "office.key", NORTHPORT_LAW, "", without_passphrase=True)
    shown = typed(world, folder, monkeypatch, *words, str(tmp_path / "office.key"), "--json")
    files = json.loads(shown.stdout)["files"]
    assert (tmp_path / "court" / "still").read_bytes() == STILL
    assert [(tmp_path / "court" / name).read_bytes() for name in files if name.startswith("photograph-")] == [
        gallery_records()[0].photograph
    ]
    assert json.loads((tmp_path / "court" / "request.json").read_text())["case"]["case_number"] == "26-CF-101"
    assert f"unsealed: for {hashlib.sha256(b'the court orders').hexdigest()}" in node.journal()


@pytest.mark.rule("R4")
@pytest.mark.parametrize("role", Role)
async def test_the_serving_process_keeps_the_clock_in_every_role(world: World, role: Role) -> None:
    """The parts that these tests put together by hand are those of `sealmatch node serve`: the condition is in the desk of holder and
    custodian, and a requester's lapses come before its searches."""
    node = world.nodes[OVERSIGHT]
    changes = {"roles": (role,), "embedder": "synthetic-128", "trusted_custodians": (BOARD,)}
    (node.folder / CONFIG_FILE).write_text(node.config.model_copy(update=changes).to_toml())
    (node.folder / "keys" / AT_REST_KEY_FILE).write_bytes(digest(f"{OVERSIGHT} at rest"))
    service = Service(open_node(node.folder, world.clock))
    names = [type(one).__name__ for one in service.courier.roles]
    desk: Any = service.courier.roles[0]
    if role is Role.REQUESTER:
        assert names.index("ExigentClocks") < names.index("Searching") < names.index("Leads")
    else:
        assert [type(one) for one in desk.conditions] == [RatifiedGrants]
        assert "RatifiedGrants" in names
        assert RatifiedGrants in {type(one) for one in desk.admitters}
    if role is Role.HOLDER:
        service.index.close()


def test_training_of_the_sample_is_valid_on_the_day() -> None:
    """The control of the lapsed one."""
    assert roster().signatory(second_reviewer().key_id).person.trained_until > NOW.date() >= date(2026, 1, 1)
