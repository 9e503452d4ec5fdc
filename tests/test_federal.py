"""Federal access (R9): shut unless packs and the node's own list both allow, and stated every month. No immigration purpose (R10)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import NodeConfig
from agency_node.errors import ConfigError, RequestError
from agency_node.facts import Fact, write_fact
from agency_node.holder.federal import NOT_LISTED, FederalGate, federal_gate, make_statement
from agency_node.journal import record, stamp
from agency_node.node import open_node
from agency_node.policy.engine import AgencyFacts, Decision, Ground, PolicyInputs, decide_all, load_packs
from agency_node.store import open_store
from agency_node.tables import decisions
from crypto.epoch import Epoch
from crypto.errors import AgencyStatementError, FieldError, UnknownAgencyError
from crypto.federal_statement import FederalStatement
from crypto.grant_basis import BasisKind, Event, ProbeSource, Purpose
from crypto.notices import Refusal, RefusalReason
from crypto.roster_entries import AgencyClass
from tests.node_world import World, node_key, search_claims, the_refusal
from tests.sample_federation import BOARD, LAKESIDE, NORTHPORT, NOW, claims, root_set, roster, sign_roster, signing_key, with_agency

PACKS = Path(__file__).resolve().parent.parent / "deploy" / "policies"
FEDERAL_ROSTER = with_agency(roster(), NORTHPORT, agency_class=AgencyClass.FEDERAL)


def config(**changes: object) -> NodeConfig:
    values: dict[str, object] = {
        "agency": "lakeside-sheriff",
        "mode": "test",
        "roles": ["holder"],
        "broker": "http://127.0.0.1:1",
        "root_fingerprint": root_set().fingerprint.hex(),
        "embedder": "synthetic-128",
        "trusted_custodians": ["civic-board"],
    }
    return NodeConfig.checked(values | changes)


def inputs(requesting: str = "federal", originating: str = "local", purpose: str = "missing_person") -> PolicyInputs:
    sample = PolicyInputs.from_grant(claims(), roster(), LAKESIDE, NOW)
    return replace(
        sample,
        requesting=AgencyFacts("a", requesting, "us"),
        originating=AgencyFacts("b", originating, "us-wi"),
        purpose=purpose,
    )


class Allows:
    """A pack that allows everything: what is left is the node's own list."""

    sha256 = bytes(32)

    def decide(self, inputs: PolicyInputs) -> Decision:
        return Decision(True, (Ground("all", 1, "s", "t"),), self.sha256, inputs.sha256)


# --- the gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R9")
def test_both_the_packs_and_the_nodes_own_list_must_allow() -> None:
    """R9: off by default, by purpose; the strict pack denies however long the list is."""
    for listed, asked, allowed in (
        ((), "missing_person", False),
        ((Purpose.MISSING_PERSON,), "missing_person", True),
        ((Purpose.MISSING_PERSON,), "criminal_investigation", False),
        (tuple(Purpose), "a purpose that nobody wrote down", False),
    ):
        case = inputs(purpose=asked)
        decision = decide_all((Allows(), *federal_gate(case, listed)), case)
        assert decision.allowed is allowed
        if not allowed:
            assert (decision.policies, decision.rules) == (("federal-purpose-not-listed",), (9,))
    case = inputs()
    strict = decide_all((*load_packs(()), *federal_gate(case, tuple(Purpose))), case)
    assert not strict.allowed
    assert "forbid-agency-or-event" in strict.policies


@pytest.mark.rule("R9")
def test_a_federal_case_asked_by_another_agency_is_federal() -> None:
    """R9, R6: a proxy opens nothing; a search without a federal agency is the packs' alone."""
    for requesting, originating, gates in (
        ("federal", "local", 1),
        ("local", "federal", 1),
        ("local", "state", 0),
        ("foreign", "foreign", 0),
    ):
        assert len(federal_gate(inputs(requesting, originating), ())) == gates
    assert FederalGate(frozenset()).sha256 != FederalGate(frozenset({Purpose.THREAT_TO_LIFE})).sha256
    assert FederalGate(frozenset()).decide(inputs("local", "state")).allowed


@pytest.mark.rule("R9")
def test_the_list_stands_in_node_toml_and_is_empty_if_left_out(tmp_path: Path) -> None:
    assert config().federal.allow == ()
    given = config(federal={"allow": ["missing_person", "threat_to_life"]})
    (tmp_path / "node.toml").write_text(given.to_toml())
    assert '\n[federal]\nallow = ["missing_person", "threat_to_life"]\n' in given.to_toml()
    assert NodeConfig.load(tmp_path) == given
    with pytest.raises(ConfigError, match=r"federal\.allow"):
        config(federal={"allow": ["civil_immigration"]})


@pytest.mark.rule("R9")
async def test_a_holder_refuses_a_federal_agency_and_states_it(tmp_path: Path) -> None:
    """R9, by messages: the grant of a federal agency is refused with the rule's number, and the month's statement counts it."""
    world = World(tmp_path)
    world.broker.install(sign_roster(FEDERAL_ROSTER))
    node = await world.node(LAKESIDE)
    node.answering._packs = (Allows(),)  # a pack that would let everybody in
    content = search_claims()
    world.broker.enter_grant(content.digest)
    await world.requester_with_key(content)
    message = world.grant(content, LAKESIDE)
    await world.hand_in(LAKESIDE, message)
    assert the_refusal(node, message) is RefusalReason.POLICY
    (sent,) = [one for one in node.queued() if one.header.recipient == NORTHPORT]
    assert Refusal.from_bytes(sent.body).rule == NOT_LISTED.rule == 9
    data = make_statement(node.engine, node.config, node.keyring.node_key, Epoch("2026-11"), datetime(2026, 12, 1, tzinfo=UTC))
    said = FederalStatement.read(data, FEDERAL_ROSTER)
    assert (said.admitted, said.answered, said.refused, said.allowed_purposes) == (0, 0, 1, ())
    world.close()


# --- the statement ----------------------------------------------------------------------------------------------------


@pytest.mark.rule("R9")
def test_a_month_is_counted_by_class_search_and_day(tmp_path: Path) -> None:
    """R9: federal decisions of that month, each search once; answers by the day on which they were made; zero is a statement too."""
    engine = open_store(tmp_path / "node.sqlite")
    october, november, december = (datetime(2026, month, 5, 12, 0, tzinfo=UTC) for month in (10, 11, 12))
    with engine.begin() as connection:
        for search_id, at, allowed, agency_class in (
            ("a", october, 1, "federal"),
            ("b", october, 1, "federal"),
            ("c", october, 0, "federal"),
            ("c", october, 0, "federal"),
            ("d", november, 0, "federal"),
            ("e", october, 1, "local"),
            ("f", october, 0, "state"),
        ):
            values = {"policies": "", "rules": "", "pack_sha256": b"", "inputs_sha256": b"", "agency_class": agency_class}
            connection.execute(insert(decisions).values(search_id=search_id, at=stamp(at), allowed=allowed, **values))
        record(connection, october, "a", "answered")
        record(connection, november, "b", "answered")
        record(connection, october, "e", "answered")
    counted = {}
    for month in ("2026-09", "2026-10", "2026-11"):
        said = FederalStatement.read(make_statement(engine, config(), node_key(LAKESIDE), Epoch(month), december), roster())
        counted[month] = (said.admitted, said.answered, said.refused)
    assert counted == {"2026-09": (0, 0, 0), "2026-10": (2, 1, 1), "2026-11": (0, 1, 1)}
    with pytest.raises(RequestError, match="2026-12 is not over"):
        make_statement(engine, config(), node_key(LAKESIDE), Epoch("2026-12"), december)
    with pytest.raises(RequestError, match="no holder"):
        make_statement(engine, config(roles=["custodian"], trusted_custodians=[]), node_key(LAKESIDE), Epoch("2026-10"), december)


@pytest.mark.rule("R9")
def test_a_forged_or_altered_statement_is_refused() -> None:
    """R9: one word changed, another's key, two signatures, another agency, a month that is not over."""
    statement = FederalStatement(LAKESIDE, Epoch("2026-10"), 3, 2, 1, (Purpose.MISSING_PERSON,), NOW)
    data = statement.sign(node_key(LAKESIDE))
    assert FederalStatement.read(data, roster()) == statement
    for before, after in ((b'"refused":1', b'"refused":0'), (b"2026-10", b"2026-09"), (b'"missing_person"', b"")):
        with pytest.raises(AgencyStatementError):
            FederalStatement.read(data.replace(before, after, 1), roster())
    with pytest.raises(AgencyStatementError):
        FederalStatement.read(statement.sign(signing_key("nobody")), roster())
    with pytest.raises(UnknownAgencyError):
        FederalStatement.read(replace(statement, agency=BOARD).sign(node_key(BOARD)), roster())
    with pytest.raises(FieldError):
        replace(statement, month=Epoch("2026-11"))
    with pytest.raises(FieldError):
        FederalStatement.read(data.replace(b'"refused":1', b'"refused":1,"rx":1'), roster())


@pytest.mark.rule("R9")
def test_the_command_states_and_checks(tmp_path: Path) -> None:
    line = "node init {} --agency lakeside-sheriff --name L --jurisdiction us-wi-lakeside --role holder --officer O --trust civic-board "
    line += "--legal-office lakeside-sheriff --broker http://127.0.0.1:1 --mode test --embedder synthetic-128 --root-fingerprint {}"
    folder = tmp_path / "n"
    made = CliRunner().invoke(app, line.format(folder, root_set().fingerprint.hex()).split())
    assert made.exit_code == 0, made.output
    node = open_node(folder, lambda: NOW)
    listed = with_agency(roster(), LAKESIDE, node_key=node.keyring.node_key.verifying_key)
    with node.engine.begin() as connection:
        write_fact(connection, Fact.ROSTER, sign_roster(listed))
        write_fact(connection, Fact.ROOT_FINGERPRINT, root_set().fingerprint * 2)
    out = tmp_path / "said.json"
    said = CliRunner().invoke(app, ["node", "statement", str(folder), "--month", "2026-01", "--save", str(out)])
    assert said.exit_code == 0, said.output
    assert "lakeside-sheriff, 2026-01: federal queries admitted 0, answered 0, refused 0" in said.stdout
    again = CliRunner().invoke(app, ["node", "statement", str(folder), "--month", "2026-01", "--save", str(out)])
    assert "is there already" in again.stderr
    checked = CliRunner().invoke(app, ["node", "statement", str(folder), "--check", str(out), "--json"])
    assert json.loads(checked.stdout)["refused"] == 0
    out.write_bytes(out.read_bytes().replace(b'"refused":0', b'"refused":7'))
    forged = CliRunner().invoke(app, ["node", "statement", str(folder), "--check", str(out)])
    assert forged.exit_code == 1
    assert "statement-invalid" in forged.stderr


# --- no immigration purpose -------------------------------------------------------------------------------------------

FORBIDDEN = re.compile(r"immigra|deport|removal|citizen|alien|visa\b|asylum|undocumented", re.IGNORECASE)


def code_of(text: str) -> str:
    """A Cedar text without its comments."""
    return re.sub(r"//[^\n]*", "", text)


@pytest.mark.rule("R10")
def test_no_purpose_basis_event_or_source_names_immigration() -> None:
    """R10: such a search cannot be written down."""
    for kind in (Purpose, BasisKind, Event, ProbeSource):
        assert [one for one in kind if FORBIDDEN.search(one.value) or FORBIDDEN.search(one.name)] == []
    assert FORBIDDEN.search("civil_immigration"), "the pattern finds what it is for"


@pytest.mark.rule("R10")
@pytest.mark.parametrize("pack", sorted(PACKS.iterdir()), ids=lambda path: path.name)
def test_no_schema_word_and_no_policy_names_immigration(pack: Path) -> None:
    """R10: not in the words a policy may use, not in a policy; an example may name such a purpose only to show that it is refused."""
    for name in ("schema.cedarschema", "policies.cedar"):
        assert FORBIDDEN.findall(code_of((pack / name).read_text(encoding="utf-8"))) == [], name
    for row in (pack / "scenarios.csv").read_text(encoding="utf-8").splitlines():
        if FORBIDDEN.search(row):
            assert ",deny," in row
