"""`sealmatch policy`: what it says of packs, examples and stored decisions, beside each rule whose reading it is, and its exit codes."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agency_node.bench import policy as bench
from agency_node.bench.errors import WrongResultError
from agency_node.cli import app
from agency_node.commands.decided import READING
from agency_node.legal.persons import create_person_key
from agency_node.node import Node, open_node
from agency_node.policy.approvals import approval_of
from agency_node.policy.comparing import compare
from agency_node.policy.deciding import forecast
from agency_node.policy.engine import PolicyPack, load_packs
from agency_node.policy.pack_folder import delivered_packs, find_pack
from agency_node.policy.scenarios import read_scenarios
from crypto.grant_basis import Offence
from crypto.roster_entries import PersonRole
from tests.node_world import search_claims
from tests.sample_federation import LAKESIDE, LAKESIDE_REVIEWER, NOW, ORIGINATOR, roster, sign_roster, with_agency
from tests.test_approvals import make_place

DEFAULT = find_pack("strict-default")


def run(line: str, **options: Any) -> Any:
    return CliRunner().invoke(app, shlex.split(line), env={"COLUMNS": "300", "NO_COLOR": "1"}, **options)


def told(line: str, code: int = 0) -> dict[str, Any]:
    done = run(f"{line} --json")
    assert done.exit_code == code, done.output
    assert done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT, tmp_path / "strict-default"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


# --- list ---------------------------------------------------------------------------------------------------------------


def test_every_delivered_pack_is_listed_with_hash_evidence_and_review_day() -> None:
    rows = {one["pack"]: one for one in told("policy list")["packs"]}
    assert set(rows) == {folder.name for folder in delivered_packs()}
    for name, row in rows.items():
        pack = PolicyPack.load(find_pack(name))
        assert (row["sha256"], row["title"], row["verified"]) == (pack.sha256.hex(), pack.title, pack.verified)
        assert (row["review_by"], tuple(row["evidence"])) == (pack.review_by.isoformat(), pack.evidence)
    assert rows["us-wi-milwaukee"]["binds"] == ["us-wi-milwaukee"]
    assert READING in run("policy list").stdout


# --- explain ------------------------------------------------------------------------------------------------------------


def test_a_refusal_is_explained_to_its_section_and_the_next_lawful_step() -> None:
    found = told("policy explain strict-default --set nibrs=23C --set basis=consent --set order_issued=- --set order_expires=-")
    assert found["allowed"] is False
    (answer,) = found["answers"]
    first, second = answer["grounds"]
    assert (first["pack"], first["policy"], first["rule"]) == ("strict-default", "forbid-offence-not-listed", "R1")
    assert (first["section"], first["evidence"]) == ("strict-default/allow", ["S"])
    assert "serious violence" in first["sentence"]
    assert first["next"].startswith("Investigate by other means")
    assert second["rule"] == "R3"
    assert found["notice"] == READING
    assert "no agency's counsel has signed" in found["packs"][0]["banner"]


def test_an_example_is_explained_by_its_words_or_its_line() -> None:
    by_words = told("policy explain us-wi-milwaukee --case 'a neighbour asks for Milwaukee'")
    line = next(one.line for one in read_scenarios(find_pack("us-wi-milwaukee")) if one.case == "a neighbour asks for Milwaukee")
    assert told(f"policy explain us-wi-milwaukee --line {line}") == by_words
    assert by_words["answers"][0]["grounds"][0]["rule"] == "R6"
    shown = run(f"policy explain us-wi-milwaukee --line {line}")
    assert "R6 us-wi-milwaukee/forbid-asked-for-milwaukee" in shown.stdout
    assert "Next: Do not run it for them" in shown.stdout
    assert "NOT VERIFIED: us-wi-milwaukee" in shown.stderr
    assert READING in shown.stderr
    assert "[S]" in shown.stdout


def test_what_is_allowed_is_explained_too_and_the_strictest_of_several_wins() -> None:
    assert told("policy explain strict-default")["answers"][0]["grounds"][0]["policy"] == "permit-granted-search"
    both = told("policy explain strict-default us-cjis-security --set requesting_jurisdiction=mx-son")
    assert [one["allowed"] for one in both["answers"]] == [True, False]
    assert both["allowed"] is False


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("policy explain", "name packs to put a question to"),
        ("policy explain strict-default --node x", "one of the two"),
        ("policy explain --node x", "name the search"),
        ("policy explain strict-default --case nothing", "has no such row"),
        ("policy explain strict-default --line 999", "a --line from 2 to 29"),
        ("policy explain strict-default --set colour=red", "colour is no column"),
        ("policy explain strict-default --set nibrs", "sets no column"),
        ("policy explain strict-default --set cap=many", "cap is a whole number"),
    ],
)
def test_a_question_that_cannot_be_put_is_answered_with_a_sentence(line: str, says: str) -> None:
    done = run(line)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_nodes_stored_decision_is_explained_and_made_again(tmp_path: Path) -> None:
    node = open_node(make_place(tmp_path, "demo").node.folder, lambda: NOW)
    content = search_claims(offence=Offence("943.20", "23C"))
    own = load_packs(node.config.policy_packs)
    forecast(node.engine, node.vault, content, roster(), own, NOW)
    keep_as_held(node, str(content.search_id))
    found = told(f"policy explain --node {node.folder} --search {str(content.search_id)[:8]}")
    (row,) = found["decisions"]
    assert (row["place"], row["holder"], row["allowed"], row["again"]) == ("requesting", LAKESIDE, False, "the same")
    assert row["packs"] == {"us-md": own[0].sha256.hex()}
    assert {one["pack"] for one in row["grounds"]} == {"us-md"}
    assert found["packs"][0]["banner"].startswith("NOT VERIFIED: us-md (S 2 M)")
    shown = run(f"policy explain --node {node.folder} --search {content.search_id}")
    assert "made again: the same" in shown.stdout
    assert "NOT VERIFIED: us-md" in shown.stderr
    status = told(f"node status {node.folder} --search {content.search_id}")
    assert [one["policies"] for one in status["decisions"]] == [row["policies"]]
    assert f"policy, requesting {LAKESIDE}: REFUSED by" in run(f"node status {node.folder} --search {content.search_id}").stdout
    edit(Path(node.config.policy_packs[0]) / "pack.toml", "Our reading", "Their reading")
    (changed,) = told(f"policy explain --node {node.folder} --search {content.search_id}")["decisions"]
    assert (changed["again"], changed["grounds"]) == ("a pack is not here as it was", [])


def keep_as_held(node: Node, search_id: str) -> None:
    """The search stands in the node's store, so that it is found by its id."""
    from sqlalchemy import insert  # noqa: PLC0415

    from agency_node.tables import custody  # noqa: PLC0415

    with node.engine.begin() as connection:
        connection.execute(insert(custody).values(search_id=search_id, state="open", note="", deadline="", alarms=""))


# --- test ---------------------------------------------------------------------------------------------------------------


def test_a_pack_whose_examples_hold_ends_with_zero() -> None:
    found = told("policy test strict-default us-wi-madison")
    assert found["ok"]
    assert [(one["pack"], one["examples"], one["red"], one["faults"]) for one in found["packs"]] == [
        ("strict-default", 28, [], []),
        ("us-wi-madison", 23, [], []),
    ]
    assert READING in run("policy test strict-default").stdout


def test_a_policy_that_no_longer_holds_turns_its_rows_red(copy: Path) -> None:
    edit(copy / "policies.cedar", '["warrant", "court_order", "exigent",', '["warrant", "court_order", "consent", "exigent",')
    done = run(f"policy test {copy}")
    assert done.exit_code == 1
    assert "assault with consent alone: expected deny by forbid-basis-not-sufficient, got allow by permit-granted-search" in done.stdout
    found = told(f"policy test {copy}", code=1)
    assert found["ok"] is False
    assert [len(one["red"]) for one in found["packs"]] == [1]


# --- diff ---------------------------------------------------------------------------------------------------------------


def test_a_diff_names_each_example_that_changes_and_the_policy(copy: Path) -> None:
    edit(copy / "policies.cedar", '"09B",  //', "//")
    edit(copy / "policies.cedar", '["warrant", "court_order", "exigent",', '["warrant", "exigent",')
    found = told(f"policy diff strict-default {copy}")
    assert [(one["case"], one["table"], one["old"], one["new"], one["reversed"]) for one in found["changed"]] == [
        (
            "murder by order of a court for a state agency",
            "old and new",
            "allow by permit-granted-search",
            "deny by forbid-basis-not-sufficient",
            True,
        ),
        (
            "foreign agency with a court order",
            "old and new",
            "deny by forbid-agency-or-event",
            "deny by forbid-basis-not-sufficient forbid-agency-or-event",
            False,
        ),
    ]
    assert told("policy diff strict-default strict-default")["changed"] == []
    shown = run(f"policy diff strict-default {copy}").stdout
    assert "2 of 28 examples change, 1 of them from allowed to refused or back" in shown


def test_examples_of_both_tables_are_asked(copy: Path) -> None:
    rows = (copy / "scenarios.csv").read_text(encoding="utf-8").splitlines()
    extra = rows[1].replace("aggravated assault with a warrant", "arson").replace(",13A,", ",200,")
    (copy / "scenarios.csv").write_text("\n".join([*rows, extra]) + "\n", encoding="utf-8")
    assert compare(DEFAULT, copy).asked == 29
    assert compare(DEFAULT, find_pack("us-md")).only_new == (
        "forbid-agency-class",
        "forbid-basis-not-listed",
        "forbid-before-in-force",
        "forbid-order-out-of-date",
        "forbid-other-states-offence",
        "forbid-probe-source-not-listed",
        "forbid-protected-activity-without-suspicion",
    )


# --- approve and adopt --------------------------------------------------------------------------------------------------


def test_two_persons_approve_and_the_node_adopts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_place(tmp_path)
    monkeypatch.chdir(tmp_path)
    content = roster()
    for name, person_id, agency in (("in", LAKESIDE_REVIEWER, LAKESIDE), ("out", ORIGINATOR, "eastfield-attorney")):
        made = create_person_key(tmp_path / f"{name}.key", person_id, PersonRole.REVIEWER, "", without_passphrase=True)
        persons = tuple(
            type(one).from_fields(_person_fields(one.to_json(), made)) if one.person_id == person_id else one
            for one in content.agency(agency).persons  # type: ignore[arg-type]
        )
        content = with_agency(content, agency, persons=persons)  # type: ignore[arg-type]
    _pin(place.node, sign_roster(content))
    first = told(f"policy approve {place.pack} --node {place.node.folder} --person in.key --into a.json")
    assert first["signed_by"] == [LAKESIDE_REVIEWER]
    refused = run(f"policy adopt a.json --node {place.node.folder}")
    assert refused.exit_code == 1
    assert "two signers" in refused.stderr
    again = run(f"policy approve {place.pack} --node {place.node.folder} --person out.key --into a.json")
    assert "a.json bears 2 signature(s)" in again.stdout
    assert "NOT VERIFIED: us-md" in again.stderr
    adopted = told(f"policy adopt a.json --node {place.node.folder}")
    assert (adopted["agency"], adopted["pack"]) == (LAKESIDE, "us-md")
    assert approval_of(place.node.folder, place.packs[0], LAKESIDE, content) is not None


def _person_fields(entry: Any, credential: Any) -> Any:
    from crypto.fields import Fields  # noqa: PLC0415

    return Fields({**entry, "credentials": [credential]}, "person")


def _pin(node: Node, document: bytes) -> None:
    from agency_node.facts import Fact, write_fact  # noqa: PLC0415

    with node.engine.begin() as connection:
        write_fact(connection, Fact.ROSTER, document)


# --- bench --------------------------------------------------------------------------------------------------------------


def test_a_decision_is_measured_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    some = (find_pack("strict-default"), find_pack("us-wi-milwaukee"))
    monkeypatch.setattr(bench, "delivered_packs", lambda: some)
    found = told("bench policy --decisions 1000")
    assert (found["benchmark"], found["decisions"], found["checked"]) == ("policy", 1000, True)
    assert [one["pack"] for one in found["packs"]] == [folder.name for folder in some]
    assert all(one["runs"] == 1000 and 0 < one["median_s"] <= one["max_s"] for one in [*found["packs"], found["node"]])
    assert found["node"]["packs"] == list(bench.NODE_PACKS)
    assert run("bench policy --decisions 10").exit_code == 2
    assert run("bench policy --decisions 1000 --pack no-such-pack").exit_code == 2


def test_no_figure_stands_on_a_wrong_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = PolicyPack.load(DEFAULT)
    with pytest.raises(WrongResultError, match="strict-default does not answer line"):
        bench._timed_by_table(pack.without("forbid-basis-not-sufficient"), read_scenarios(DEFAULT), 1000)
    packs = load_packs(bench.NODE_PACKS)
    monkeypatch.setattr(bench, "decide_all", lambda packs, inputs: packs[0].decide(inputs))
    with pytest.raises(WrongResultError, match="asked together"):
        bench._timed_together(packs, [one.inputs for one in read_scenarios(find_pack("us-wi-milwaukee"))], 1000)
