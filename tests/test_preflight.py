"""What blocks production: each blocker alone, the start that is refused, and agencies in production that deal with no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.commands.acting import Act, person_key
from agency_node.config import Mode, NodeConfig
from agency_node.errors import ConfigError, RequestError
from agency_node.facts import Fact, write_fact
from agency_node.journal import record
from agency_node.legal.evaluation import Evaluation, evaluation_in_force, state_evaluation
from agency_node.legal.persons import PersonKey, create_person_key
from agency_node.node import Node, create_node, open_node
from agency_node.parties import Parties
from agency_node.policy.engine import load_packs
from agency_node.preflight import check_production, find_blockers
from agency_node.serving import Service
from crypto.canonical import AgencyId, PersonId
from crypto.errors import AgencyModeError, AgencyRoleError, GrantSignatureError
from crypto.grant import verify_grant
from crypto.lawful_steps import explain
from crypto.moments import round_moment
from crypto.notices import RefusalReason
from crypto.pack_approval import PackApproval, add_approval_signature
from crypto.roster import Roster
from crypto.roster_entries import AgencyMode, Jurisdiction, PersonRole
from tests.node_world import World, search_claims, the_refusal
from tests.sample_federation import (
    BOARD,
    EASTFIELD,
    INVESTIGATOR,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NORTHPORT_BOARD,
    NOW,
    ORIGINATOR,
    OVERSIGHT,
    REVIEWER,
    claims,
    credential,
    digest,
    person,
    root_set,
    roster,
    sign_roster,
    signing_key,
    token_of,
    trust,
    with_agency,
)

OFFICER = PersonId("lakeside-sheriff:officer")
OFFICER_KEY = PersonKey(OFFICER, PersonRole.OFFICER, signing_key(OFFICER))
GOOD: dict[str, Any] = {
    "agency": "lakeside-sheriff",
    "mode": "production",
    "roles": ["holder"],
    "broker": "https://127.0.0.1:1",
    "root_fingerprint": root_set().fingerprint.hex(),
    "embedder": "dlib",
    "trusted_custodians": ["civic-board"],
    "administrator": "lakeside-sheriff:it-1",
    "posted_policy": {
        "url": "https://lakeside.example.gov/policy.pdf",
        "sha256": "ab" * 32,
        "notice_given": date(2026, 9, 1),
        "first_search": date(2026, 10, 1),
    },
    "approval": {"body": "County Board", "sha256": "cd" * 32, "expires": date(2028, 1, 1)},
}


def listed() -> Roster:
    """The sample roster with everybody in production and Lakeside's responsible officer's key."""
    found = replace(roster(), agencies=tuple(replace(one, mode=AgencyMode.PRODUCTION) for one in roster().agencies))
    own = [
        person(LAKESIDE_REVIEWER, credential(LAKESIDE_REVIEWER, PersonRole.REVIEWER)),
        person(OFFICER, credential(OFFICER, PersonRole.OFFICER)),
    ]
    return with_agency(found, LAKESIDE, persons=tuple(own))


def verified_pack(folder: Path) -> str:
    """The strict default as a counsel would have signed it."""
    source = Path(__file__).resolve().parent.parent / "deploy" / "policies" / "strict-default"
    folder.mkdir()
    for path in source.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.name == "pack.toml":
            text = text.replace("verified = false ", "verified = true ")
            for tags in ('["S", "2", "M"]', '["S", "2"]'):
                text = text.replace(tags, '["S"]')
        (folder / path.name).write_text(text, encoding="utf-8")
    return str(folder)


OUTSIDE = PersonKey(ORIGINATOR, PersonRole.REVIEWER, signing_key(ORIGINATOR))


def node_of(folder: Path, content: Roster | None, evaluated: bool = True, approved: bool = True, **changes: Any) -> Node:
    """A node with these settings that has pinned that roster, whose model was tested, and for whose pack two persons signed."""
    values = {**GOOD, "policy_packs": [verified_pack(folder / "pack")], **changes}
    create_node(folder / "n", NodeConfig.checked(values), witness=False)
    node = open_node(folder / "n", lambda: NOW)
    if content is not None:
        with node.engine.begin() as connection:
            write_fact(connection, Fact.ROSTER, sign_roster(content))
            write_fact(connection, Fact.ROOT_FINGERPRINT, root_set().fingerprint * 2)
            if evaluated:
                from agency_node.faces.embedder import load_embedder  # noqa: PLC0415  # dlib's weights take a second

                model_hash = load_embedder("dlib").model.model_hash
                said = Evaluation(LAKESIDE, model_hash, digest("report"), NOW.date() - timedelta(days=10), OFFICER)
                write_fact(connection, Fact.EVALUATION, said.sign(signing_key(OFFICER)))
        node.parties = Parties(node.engine, node.link, node.config.fingerprint, node.clock)
        if approved:
            (folder / "n" / "approvals").mkdir()
            agency = AgencyId(values["agency"])
            inside = signing_key(LAKESIDE_REVIEWER if agency == LAKESIDE else REVIEWER)
            for pack in load_packs(values["policy_packs"]):
                begun = PackApproval(agency, pack.name, pack.sha256, round_moment(NOW)).sign(inside)
                document = add_approval_signature(begun, OUTSIDE.signing_key, content)
                (folder / "n" / "approvals" / f"{pack.sha256.hex()}.json").write_bytes(document)
    return node


def names(node: Node) -> list[str]:
    return [one.name for one in find_blockers(node)]


# --- blockers ---------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R16")
@pytest.mark.rule("R17")
@pytest.mark.rule("R18")
@pytest.mark.rule("R63")
def test_a_node_that_lacks_nothing_is_not_blocked(tmp_path: Path) -> None:
    node = node_of(tmp_path, listed())
    assert find_blockers(node) == []
    check_production(node.folder, lambda: NOW)  # the broker cannot be reached: the pinned roster serves


def without_officer() -> Roster:
    return with_agency(listed(), LAKESIDE, persons=(person(LAKESIDE_REVIEWER, credential(LAKESIDE_REVIEWER, PersonRole.REVIEWER)),))


POSTED = GOOD["posted_policy"]


@pytest.mark.rule("R5")
@pytest.mark.rule("R16")
@pytest.mark.rule("R17")
@pytest.mark.rule("R18")
@pytest.mark.parametrize(
    ("name", "rule", "content", "changes"),
    [
        ("pack-not-verified", "R1", listed, {"policy_packs": []}),
        ("no-posted-policy", "R17", listed, {"posted_policy": None}),
        ("notice-too-short", "R17", listed, {"posted_policy": {**POSTED, "first_search": date(2026, 9, 30)}}),
        ("notice-runs", "R17", listed, {"posted_policy": {**POSTED, "first_search": date(2026, 11, 24)}}),
        ("no-approval", "R18", listed, {"approval": None}),
        ("approval-expired", "R18", listed, {"approval": {**GOOD["approval"], "expires": date(2026, 11, 22)}}),
        ("no-administrator", "R5", listed, {"administrator": ""}),
        ("administrator-is-reviewer", "R5", listed, {"administrator": str(LAKESIDE_REVIEWER)}),
        ("no-roster", "R16", lambda: None, {}),
        ("no-responsible-officer", "R16", without_officer, {"no_evaluation": True}),
        ("listed-out-of-production", "-", lambda: with_agency(listed(), LAKESIDE, mode=AgencyMode.TEST), {}),
        ("own-custodian", "R5", lambda: with_agency(listed(), BOARD, jurisdiction=Jurisdiction("us-wi-lakeside")), {}),
        ("no-local-evaluation", "R63", listed, {"no_evaluation": True}),
        ("synthetic-calibration", "R33", listed, {"roles": ["holder", "custodian"]}),
        ("pack-not-approved", "-", listed, {"no_approval": True}),
        ("mode", "-", listed, {"mode": "test"}),
    ],
)
def test_each_thing_that_blocks_is_named_with_its_rule_and_who_clears_it(
    tmp_path: Path, name: str, rule: str, content: Callable[[], Roster | None], changes: dict[str, Any]
) -> None:
    """R5, R16, R17, R18, R63 and the modes: one fault, one line; in mode production the same keeps the node from serving."""
    given = dict(changes)
    evaluated = not given.pop("no_evaluation", False)
    node = node_of(tmp_path, content(), evaluated, not given.pop("no_approval", False), **given)
    found = find_blockers(node)
    assert name in [one.name for one in found]
    assert {one.name for one in found} <= {name, "no-local-evaluation"}
    (said,) = [one for one in found if one.name == name]
    assert (said.rule, bool(said.says), len(said.cleared_by) > 3) == (rule, True, True)
    if node.config.mode is Mode.PRODUCTION:
        with pytest.raises(ConfigError, match=rf"does not serve in production while .*{name} \({rule}\)"):
            check_production(node.folder, lambda: NOW)
    else:
        check_production(node.folder, lambda: NOW)


@pytest.mark.rule("R47")
def test_persons_keys_in_the_nodes_folder_block(tmp_path: Path) -> None:
    """A key there is at the administrator's hand; one without passphrase at anybody's. R47: generated and held by who owns it."""
    node = node_of(tmp_path, listed())
    create_person_key(node.folder / "keys" / "counsel.key", LAKESIDE_REVIEWER, PersonRole.REVIEWER, "five words")
    create_person_key(node.folder / "demo.key", LAKESIDE_REVIEWER, PersonRole.REVIEWER, "", without_passphrase=True)
    says = [one.says for one in find_blockers(node)]
    assert says == [
        "demo.key is a person's key without a passphrase in the node's folder",
        "keys/counsel.key is a person's key in the node's folder",
    ]
    with pytest.raises(RequestError, match="in production such a key signs nothing"):
        person_key(node, Act(), node.folder / "demo.key")
    node.config = node.config.model_copy(update={"mode": Mode.TEST})
    act = Act()
    person_key(node, act, node.folder / "demo.key")
    assert act.person == LAKESIDE_REVIEWER


def test_a_requester_with_custodians_of_its_own_jurisdiction_only(tmp_path: Path) -> None:
    content = listed()
    for agency in (BOARD, OVERSIGHT, NORTHPORT_BOARD):
        content = with_agency(content, agency, jurisdiction=Jurisdiction("us-wi-northport"))
    own = person(PersonId("northport-pd:officer"), credential("officer", PersonRole.OFFICER))
    content = with_agency(content, NORTHPORT, persons=(own,))
    node = node_of(tmp_path, content, agency="northport-pd", roles=["requester"], trusted_custodians=[])
    assert names(node) == ["own-custodian", "no-local-evaluation"]


@pytest.mark.rule("R63")
def test_an_evaluation_is_signed_by_a_person_of_the_agency_for_one_model_and_a_year(tmp_path: Path) -> None:
    """R63: who signs, for which model, how long."""
    node = node_of(tmp_path, listed(), evaluated=False)
    model, content = digest("model"), listed()
    with pytest.raises(AgencyRoleError):
        state_evaluation(
            node.engine,
            content,
            LAKESIDE,
            model,
            digest("report"),
            NOW.date(),
            PersonKey(INVESTIGATOR, PersonRole.INVESTIGATOR, signing_key(INVESTIGATOR)),
            NOW,
        )
    for day in (NOW.date() + timedelta(days=1), NOW.date() - timedelta(days=365)):
        with pytest.raises(RequestError, match="holds for a year"):
            state_evaluation(node.engine, content, LAKESIDE, model, digest("report"), day, OFFICER_KEY, NOW)
    assert not evaluation_in_force(node.engine, content, LAKESIDE, model, NOW)
    state_evaluation(node.engine, content, LAKESIDE, model, digest("report"), NOW.date(), OFFICER_KEY, NOW)
    assert evaluation_in_force(node.engine, content, LAKESIDE, model, NOW)
    assert not evaluation_in_force(node.engine, content, LAKESIDE, digest("other model"), NOW)
    assert not evaluation_in_force(node.engine, content, EASTFIELD, model, NOW)
    assert not evaluation_in_force(node.engine, content, LAKESIDE, model, NOW + timedelta(days=365))
    forged = Evaluation(LAKESIDE, model, digest("report"), NOW.date(), OFFICER).sign(signing_key(OFFICER))
    with node.engine.begin() as connection:
        write_fact(connection, Fact.EVALUATION, forged.replace(b"2026-11-23", b"2026-11-22"))
    with pytest.raises(GrantSignatureError):
        evaluation_in_force(node.engine, content, LAKESIDE, model, NOW)


def test_the_command_lists_and_ends_with_one(tmp_path: Path) -> None:
    """As text and as one object; and `node serve` in production ends with the same list."""
    node = node_of(tmp_path, None)
    with node.engine.begin() as connection:
        record(connection, NOW, "", "before")
    shown = CliRunner().invoke(app, ["node", "preflight", str(node.folder)])
    assert shown.exit_code == 1
    assert "no-roster (R16)" in shown.stdout
    assert "cleared by the root holders" in shown.stdout
    listed_as = CliRunner().invoke(app, ["node", "preflight", str(node.folder), "--json"])
    told = json.loads(listed_as.stdout)
    assert (told["ok"], {one["name"] for one in told["blockers"]}) == (False, {"no-roster"})
    served = CliRunner().invoke(app, ["node", "serve", str(node.folder)])
    assert served.exit_code == 2
    assert "does not serve in production while no-roster (R16)" in served.stderr


# --- production deals with production ---------------------------------------------------------------------------------


def production(*others: Any) -> Roster:
    """Everybody in production but these."""
    found = listed()
    for agency in others:
        found = with_agency(found, agency, mode=AgencyMode.DEMO)
    return found


@pytest.mark.parametrize("other", [NORTHPORT, EASTFIELD, BOARD, OVERSIGHT])
def test_no_grant_mixes_agencies_in_production_and_others(other: Any) -> None:
    """Requester, holder or custodian: whoever verifies the grant refuses it, each with the same sentence."""
    content = replace(claims(), holders=(EASTFIELD, LAKESIDE))
    token = token_of(content)
    verify_grant(token, trust(production()), NOW)
    verify_grant(token, trust(roster()), NOW)
    with pytest.raises(AgencyModeError, match="an agency in production deals with no agency in demo or test mode") as refused:
        verify_grant(token, trust(production(other)), NOW)
    assert explain(refused.value).name == "agency-not-in-production"


async def test_a_node_in_production_refuses_a_demo_peers_message(tmp_path: Path) -> None:
    """Any message, before anything of it is opened, with its own code and sentence; from a peer in production it is taken."""
    for folder, content, expected in (("demo", production(NORTHPORT), "refused"), ("good", production(), "done")):
        world = World(tmp_path / folder)
        world.broker.rosters[1] = sign_roster(content)
        search = search_claims()
        world.broker.enter_grant(search.digest)
        await world.requester_with_key(search)
        await world.node(LAKESIDE)
        message = world.grant(search, LAKESIDE)
        node = await world.hand_in(LAKESIDE, message)
        state, note = node.state_of(message)
        assert state == expected
        if expected == "refused":
            assert note.startswith("an agency in production deals with no agency in demo or test mode. Next: ")
            assert the_refusal(node, message) is RefusalReason.MODE
            assert "refused grant: agency-not-in-production" in node.journal()
        world.close()


def test_node_and_roster_agree_on_the_mode(tmp_path: Path) -> None:
    """A node says nothing of itself: the roots list the mode, and a node whose settings say another does not serve."""
    node = node_of(tmp_path, None)
    own = with_agency(listed(), LAKESIDE, node_key=node.keyring.node_key.verifying_key)
    for mode, sentence in ((AgencyMode.DEMO, "lists this agency in mode demo, and node.toml says production"), (AgencyMode.PRODUCTION, "")):
        with node.engine.begin() as connection:
            write_fact(connection, Fact.ROSTER, sign_roster(with_agency(own, LAKESIDE, mode=mode)))
            write_fact(connection, Fact.ROOT_FINGERPRINT, root_set().fingerprint * 2)
        node.parties = Parties(node.engine, node.link, node.config.fingerprint, node.clock)
        service = Service(node)
        if sentence:
            with pytest.raises(ConfigError, match=sentence):
                service._check_roles()
        else:
            service._check_roles()
        service.index.close()
