"""`sealmatch person` and `sealmatch roster`: the whole ceremony as it is typed, and what is said when something does not fit."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agency_node.commands import person as person_commands
from agency_node.commands import roster as roster_commands
from agency_node.legal.persons import PASSPHRASE_VARIABLE, read_discovery_key, read_office_key, read_person_key
from crypto.canonical import AgencyId, JsonObject, b64url_encode
from crypto.errors import RosterThresholdError
from crypto.fields import Fields
from crypto.roster import TrustedRoster, read_unverified_roster
from crypto.roster_entries import Agency, AgencyRole, Person, PersonRole
from tests.sample_federation import BOARD, EASTFIELD, NORTHPORT, NORTHPORT_LAW, OVERSIGHT, agency, signing_key

app = typer.Typer()
app.add_typer(person_commands.app, name="person")
app.add_typer(roster_commands.app, name="roster")
COMMANDS = (
    *("person init", "person discovery", "roster office-key", "roster countersign"),
    *("roster root-key", "roster root-set", "roster draft", "roster sign", "roster show"),
)
NOW = datetime.now(UTC)


def run(line: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(app, shlex.split(line), prog_name="sealmatch", env={"COLUMNS": "240", "NO_COLOR": "1", **(env or {})})


def done(line: str) -> Any:
    """The object that a command prints with --json."""
    result = run(f"{line} --json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def refused(line: str) -> str:
    """What a command says when it refuses: one sentence on standard error; with --json an object as well."""
    result = run(f"{line} --json")
    assert result.exit_code == 2, result.output
    assert json.loads(result.stdout)["ok"] is False
    assert "Traceback" not in result.output
    plain = run(line)
    assert (plain.exit_code, plain.stdout) == (2, "")
    return " ".join(plain.stderr.split())


def write(name: str, entry: object) -> None:
    Path(name).write_text(json.dumps(entry, indent=2))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with entries of agencies and a broker, as `node init` and `broker init` print them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    office, witness = AgencyRole.LEGAL_OFFICE, AgencyRole.WITNESS
    for entry in (
        agency(NORTHPORT, "us-wi-northport", AgencyRole.REQUESTER, AgencyRole.HOLDER, legal_office=NORTHPORT_LAW),
        agency(NORTHPORT_LAW, "us-wi-northport", office, AgencyRole.DISCOVERY),
        agency(EASTFIELD, "us-wi-eastfield", AgencyRole.HOLDER, office, legal_office=EASTFIELD),
        agency(OVERSIGHT, "us-wi", AgencyRole.CUSTODIAN, witness),
        agency(BOARD, "us-il-rivertown", AgencyRole.CUSTODIAN, witness),
    ):
        write(f"{entry.agency_id}.json", entry.to_json())
    return tmp_path


def root_set(threshold: int = 2, generation: str = "") -> JsonObject:
    for holder in (NORTHPORT, EASTFIELD):
        write(f"{holder}-root{generation}.json", done(f"roster root-key {holder}-root{generation}.key --holder {holder} --no-passphrase"))
    made: JsonObject = done(f"roster root-set {NORTHPORT}-root{generation}.json {EASTFIELD}-root{generation}.json --threshold {threshold}")
    write(f"root-set{generation}.json", made)
    return made


def broker(fingerprint: str) -> None:
    key = b64url_encode(signing_key("log").verifying_key.raw)
    write("broker.json", {"operator": "broker-vendor", "origin": "log.example.org/2026", "log_key": key, "root_fingerprint": fingerprint})


def persons() -> None:
    for name, role in (("northport-pd:detective-4", "investigator"), ("northport-attorney:counsel-1", "reviewer")):
        short = name.partition(":")[2]
        write(f"{short}.json", done(f"person init {short}.key --id {name} --role {role} --trained-until 2098-06-30 --no-passphrase"))
    entry = done("person init eastfield.key --id eastfield-pd:counsel-9 --role reviewer --trained-until 2098-06-30 --no-passphrase")
    write("counsel-9.json", entry)
    for reviewer, office in (("counsel-1", NORTHPORT_LAW), ("counsel-9", EASTFIELD)):
        made = done(f"roster office-key {office}-office.key --agency {office} --no-passphrase")
        assert made["agency"] == office
        write(f"{office}.json", json.loads(Path(f"{office}.json").read_text()) | {"office_key": made["office_key"]})
        write(f"{reviewer}.json", done(f"roster countersign {reviewer}.json --key {office}-office.key"))


AGENCIES = " ".join(f"--agency {name}.json" for name in (NORTHPORT, NORTHPORT_LAW, EASTFIELD, OVERSIGHT, BOARD))
PERSONS = "--person detective-4.json --person northport-attorney=counsel-1.json --person counsel-9.json"
DRAFT = f"roster draft --root-set root-set.json --broker broker.json {AGENCIES} {PERSONS} --version 1 --days 90 --out roster.json"


@pytest.fixture
def ready() -> str:
    """Everything that a draft needs; returns the root set's fingerprint."""
    fingerprint = str(root_set()["fingerprint"])
    broker(fingerprint)
    persons()
    return fingerprint


# --- the ceremony -------------------------------------------------------------------------------------------------------


def test_the_whole_ceremony_ends_in_a_roster_that_a_node_pins(ready: str) -> None:
    drafted = done(DRAFT)
    assert (drafted["version"], drafted["fingerprint"], drafted["warnings"]) == (1, ready, [])
    assert drafted["persons"] == ["eastfield-pd:counsel-9", "northport-attorney:counsel-1", "northport-pd:detective-4"]
    with pytest.raises(RosterThresholdError):
        TrustedRoster.pin(Path("roster.json").read_bytes(), bytes.fromhex(ready), NOW)

    assert done("roster sign roster.json --key northport-pd-root.key")["complete"] is False
    signed = done("roster sign roster.json --key eastfield-pd-root.key")
    assert (signed["signed_by"], signed["threshold"], signed["complete"]) == (["eastfield-pd", "northport-pd"], 2, True)

    trusted = TrustedRoster.pin(Path("roster.json").read_bytes(), bytes.fromhex(ready), NOW)
    content = trusted.at(NOW)
    assert timedelta(days=89) < content.expires - NOW < timedelta(days=91)
    signatory = content.signatory(read_person_key(Path("detective-4.key")).key_id)
    assert (signatory.agency.agency_id, signatory.credential.role) == (NORTHPORT, PersonRole.INVESTIGATOR)
    assert (content.log.origin, content.log_operator) == ("log.example.org/2026", "broker-vendor")
    assert not list(Path().glob(".roster*")), "nothing is left of the replacing"


def test_show_tells_everything_and_who_signed(ready: str) -> None:
    done(DRAFT)
    done("roster sign roster.json --key northport-pd-root.key")
    shown = done("roster show roster.json")
    assert (shown["signed_by"], shown["complete"], shown["expired"], shown["fingerprint"]) == (["northport-pd"], False, False, ready)
    assert [one["id"] for one in shown["agencies"]] == sorted(one["id"] for one in shown["agencies"])
    text = run("roster show roster.json").stdout
    for word in (
        ready,
        "us-il-rivertown",
        "requester",
        "northport-pd:detective-4",
        "2098-06-30",
        "1 of 2 signatures",
        "log.example.org/2026",
    ):
        assert word in text


def test_a_change_of_root_sets_can_be_followed(ready: str) -> None:
    done(DRAFT)
    for holder in (NORTHPORT, EASTFIELD):
        done(f"roster sign roster.json --key {holder}-root.key")
    trusted = TrustedRoster.pin(Path("roster.json").read_bytes(), bytes.fromhex(ready), NOW)
    root_set(generation="2")
    later = DRAFT.replace("root-set.json", "root-set2.json").replace("--out roster.json", "--out roster2.json --previous roster.json")
    assert "newer than the previous one's, 1" in refused(later)
    done(later.replace("--version 1", "--version 2"))
    for key in ("northport-pd-root", "eastfield-pd-root", "northport-pd-root2", "eastfield-pd-root2"):
        signed = done(f"roster sign roster2.json --key {key}.key")
    assert signed["signed_by_outgoing"] == ["eastfield-pd", "northport-pd"]
    assert "of the root set before, signed by eastfield-pd, northport-pd" in run("roster show roster2.json").stdout
    assert trusted.update(Path("roster2.json").read_bytes(), NOW).version == 2


def test_a_person_with_two_keys_has_two_entries() -> None:
    broker(str(root_set()["fingerprint"]))
    persons()
    again = "person init spare.key --id northport-pd:detective-4 --role investigator --no-passphrase --trained-until"
    write("spare.json", done(f"{again} 2098-06-30"))
    done(f"{DRAFT} --person spare.json")
    found = read_unverified_roster(Path("roster.json").read_bytes())
    for file in ("spare.key", "detective-4.key"):
        assert found.signatory(read_person_key(Path(file)).key_id).person.person_id == "northport-pd:detective-4"
    write("spare.json", json.loads(Path("spare.json").read_text()) | {"trained_until": "2097-06-30"})
    assert "unlike ends of training" in refused(f"{DRAFT} --person spare.json".replace("roster.json", "other.json"))


def test_a_draft_warns_of_what_its_agencies_cannot_do() -> None:
    broker(str(root_set()["fingerprint"]))
    write("detective.json", done("person init d.key --id northport-pd:d --role examiner --trained-until 2026-01-01 --no-passphrase"))
    alone = " ".join(f"--agency {name}.json" for name in (NORTHPORT, NORTHPORT_LAW, EASTFIELD, OVERSIGHT))
    drafted = done(f"roster draft --root-set root-set.json --broker broker.json {alone} --person detective.json --out roster.json")
    said = " ".join(drafted["warnings"])
    for word in (
        "it takes 2 witnesses",
        "has no investigator",
        "northport-attorney can grant nothing",
        "northport-pd:d can sign until 2026",
    ):
        assert word in said
    assert "another jurisdiction" not in said


# --- what does not fit --------------------------------------------------------------------------------------------------


def swap(name: str, change: Callable[[Any], object]) -> Callable[[], None]:
    return lambda: write(name, change(json.loads(Path(name).read_text())))


ROOT_SET = "roster root-set northport-pd-root.json"
NEW = "person init x.key --role reviewer --no-passphrase"
REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    "no such entry": (Path("eastfield-pd.json").unlink, DRAFT, "eastfield-pd.json cannot be read"),
    "not JSON": (lambda: Path("broker.json").write_text("{"), DRAFT, "broker.json is no JSON object: name what `sealmatch broker init"),
    "a list": (lambda: Path("broker.json").write_text("[]"), DRAFT, "broker.json does not fit"),
    "nested": (lambda: Path("broker.json").write_text("[" * 100_000), DRAFT, "broker.json is no JSON object"),
    "member twice": (lambda: Path("broker.json").write_text('{"a":1,"a":2}'), DRAFT, "broker.json is no JSON object"),
    "unknown member": (swap("broker.json", lambda one: one | {"x": 1}), DRAFT, "broker.json does not fit (entry has an unknown member)"),
    "person for agency": (lambda: None, DRAFT + " --agency detective-4.json", "name an agency's entry, printed by `sealmatch node init`"),
    "agency twice": (lambda: None, DRAFT + " --agency eastfield-pd.json", "eastfield-pd has two entries"),
    "no agency of person": (lambda: None, DRAFT + " --person nobody=detective-4.json", "belongs to nobody, of which there is no entry"),
    "two homes": (lambda: None, DRAFT + " --person eastfield-pd=detective-4.json", "detective-4 stands in"),
    "reviewer of police": (lambda: None, DRAFT + " --person civic-board=counsel-1.json", "civic-board: reviewers belong to a legal office"),
    "not vouched for": (
        lambda: write("counsel-1.json", done(f"{NEW} --id northport-attorney:counsel-1 --trained-until 2098-06-30")),
        DRAFT,
        "counsel-1: a reviewer's key is not countersigned by its legal office; the head of northport-attorney signs with",
    ),
    "another office's word": (
        lambda: write("counsel-1.json", done("roster countersign counsel-1.json --key eastfield-pd-office.key")),
        DRAFT,
        "northport-attorney:counsel-1: a reviewer's key bears no countersignature of this legal office for this person",
    ),
    "later training": (
        swap("counsel-1.json", lambda one: one | {"trained_until": "2099-06-30"}),
        DRAFT,
        "northport-attorney:counsel-1: a reviewer's key bears no countersignature of this legal office for this person",
    ),
    "node key as office key": (
        swap("eastfield-pd.json", lambda one: one | {"office_key": one["node_key"]}),
        DRAFT.replace("--person counsel-9.json", ""),
        "the node key of eastfield-pd and the office key of eastfield-pd are one key",
    ),
    "vouch for a detective": (
        lambda: None, "roster countersign detective-4.json --key eastfield-pd-office.key", "detective-4.json lists no reviewer's key"
    ),
    "vouch with a person's key": (
        lambda: None, "roster countersign counsel-1.json --key detective-4.key", "name a legal office's key, made by `sealmatch roster"
    ),
    "other root set": (lambda: broker("00" * 32), DRAFT, "the broker was told to trust another root set"),
    "fingerprint": (swap("root-set.json", lambda one: one | {"fingerprint": "00" * 32}), DRAFT, "that of another root set"),
    "no office": (lambda: None, DRAFT.replace("--agency northport-attorney.json", ""), "names northport-attorney as its legal office"),
    "no discovery": (
        swap("northport-attorney.json", lambda one: one | {"roles": ["legal_office"], "discovery_key": None}),
        DRAFT,
        "needs the role discovery",
    ),
    "root holder": (lambda: None, DRAFT.replace("--agency eastfield-pd.json", ""), "eastfield-pd holds a root key and has no entry"),
    "one key twice": (
        swap("eastfield-pd.json", lambda one: one | {"node_key": json.loads(Path("northport-pd.json").read_text())["node_key"]}),
        DRAFT,
        "the node key of northport-pd and the node key of eastfield-pd are one key",
    ),
    "document there": (lambda: Path("roster.json").write_text("{}"), DRAFT, "roster.json is there already"),
    "threshold": (lambda: None, f"{ROOT_SET} eastfield-pd-root.json --threshold 1", "threshold is between 2 and 2"),
    "root key twice": (lambda: None, f"{ROOT_SET} northport-pd-root.json --threshold 2", "names nothing twice"),
    "sign nothing": (lambda: None, "roster sign broker.json --key northport-pd-root.key", "broker.json is no roster document"),
    "show nothing": (lambda: None, "roster show nowhere.json", "nowhere.json cannot be read"),
    "holder": (lambda: None, "roster root-key x.key --holder North --no-passphrase", "an agency id is small letters"),
    "office": (lambda: None, "person discovery x.key --agency 'A B' --no-passphrase", "an agency id is small letters"),
    "person": (lambda: None, f"{NEW} --id d4 --trained-until 2027-06-30", "a colon and a name"),
    "century": (lambda: None, f"{NEW} --id a:b --trained-until 1999-06-30", "no entry of a person"),
    "passphrase": (lambda: None, "person init x.key --id a:b --role reviewer --trained-until 2027-06-30", f"set {PASSPHRASE_VARIABLE}"),
    "file there": (lambda: None, "roster root-key northport-pd-root.key --holder northport-pd --no-passphrase", "no key is overwritten"),
}  # fmt: skip


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_said_and_nothing_is_written(case: str) -> None:
    spoil, line, words = REFUSED[case]
    spoil()
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert words in refused(line)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.usefixtures("ready")
def test_all_that_does_not_fit_is_said_at_once() -> None:
    said = refused(DRAFT.replace("--agency northport-attorney.json", "") + " --person nobody=counsel-9.json")
    for word in ("as its legal office", "belongs to nobody", "counsel-1 belongs to northport-attorney"):
        assert word in said


@pytest.mark.usefixtures("ready")
def test_only_a_listed_root_key_signs_and_only_what_was_drafted() -> None:
    done(DRAFT)
    done("roster root-key other.key --holder northport-pd --no-passphrase")
    assert "no root key of northport-pd in this roster" in refused("roster sign roster.json --key other.key")
    assert "name a root key" in refused("roster sign roster.json --key detective-4.key")
    done("roster sign roster.json --key northport-pd-root.key")
    signed = Path("roster.json").read_bytes()

    Path("roster.json").write_bytes(signed.replace(b'"version":1', b'"version":2'))
    for command in ("show roster.json", "sign roster.json --key eastfield-pd-root.key"):
        assert "does not verify: the roster was changed after it was signed" in refused(f"roster {command}")
    foreign = read_unverified_roster(signed).sign(signing_key("stranger"))
    Path("roster.json").write_bytes(foreign)
    assert "a signature of a key that is no root key" in refused("roster show roster.json")


# --- help ---------------------------------------------------------------------------------------------------------------


def test_every_example_in_the_help_runs_in_the_order_of_a_ceremony(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ceremony as the help tells it, with a passphrase from the environment."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse battery staple")
    examples = {}
    for command in COMMANDS:
        shown = run(f"{command} --help")
        (examples[command],) = re.findall(r"Example: sealmatch (.*)", shown.stdout)
        assert examples[command].startswith(command)

    write("detective-4.json", json.loads(succeeds(examples["person init"])))
    discovery = json.loads(succeeds(examples["person discovery"]))
    assert discovery["agency"] == "northport-attorney"
    assert json.loads(succeeds(examples["roster office-key"]))["agency"] == "northport-attorney"
    counsel = "person init c.key --id northport-attorney:counsel-1 --role reviewer --trained-until 2098-06-30"
    write("counsel-1.json", json.loads(succeeds(counsel)))
    assert json.loads(succeeds(examples["roster countersign"]))["credentials"][0]["countersignature"]
    write("northport-root.json", json.loads(succeeds(examples["roster root-key"])))
    write("eastfield-root.json", done("roster root-key eastfield-root.key --holder eastfield-pd --no-passphrase"))
    made = json.loads(succeeds(examples["roster root-set"]))
    write("root-set.json", made)
    broker(made["fingerprint"])
    assert "not signed yet" in succeeds(examples["roster draft"])
    assert json.loads(succeeds(examples["roster sign"]))["signed_by"] == ["northport-pd"]
    assert "northport-attorney" in succeeds(examples["roster show"])


def succeeds(line: str) -> str:
    result = run(line.strip())
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_entries_are_those_of_the_roster_and_may_be_redirected() -> None:
    """Without --json the same object, indented; advice goes to standard error."""
    result = run("person init d.key --id northport-pd:d --role examiner --trained-until 2098-06-30 --no-passphrase")
    person = Person.from_fields(Fields(json.loads(result.stdout), "person"))
    assert (person.person_id, person.credentials) == ("northport-pd:d", (read_person_key(Path("d.key")).credential,))
    assert "Send the entry above to the root holders" in result.stderr
    assert Agency.from_fields(Fields(json.loads(Path("eastfield-pd.json").read_text()), "agency")).agency_id == AgencyId("eastfield-pd")


def test_a_discovery_key_is_printed_as_node_init_takes_it() -> None:
    printed = done("person discovery d.key --agency northport-attorney --no-passphrase")
    key = read_discovery_key(Path("d.key"))
    assert printed == {"agency": key.agency, "discovery_key": b64url_encode(key.sealing_key.public_key.raw)}


def test_countersigning_says_who_is_vouched_for_and_changes_nothing_else() -> None:
    """To the head of the office, on standard error: person, office, key, last day of training."""
    write("c.json", done("person init c.key --id northport-attorney:counsel-1 --role reviewer --trained-until 2098-06-30 --no-passphrase"))
    done("roster office-key office.key --agency northport-attorney --no-passphrase")
    result = run("roster countersign c.json --key office.key")
    before, after = json.loads(Path("c.json").read_text()), json.loads(result.stdout)
    said = read_office_key(Path("office.key"))
    for word in ("northport-attorney vouches for northport-attorney:counsel-1", read_person_key(Path("c.key")).key_id[:16], "2098-06-30"):
        assert word in result.stderr
    assert before["credentials"][0].pop("countersignature") is None
    assert after["credentials"][0].pop("countersignature")
    assert before == after
    Person.from_fields(Fields(json.loads(result.stdout), "person")).check_countersigned(said.agency, said.signing_key.verifying_key)


def test_no_passphrase_can_be_typed_as_an_argument() -> None:
    for command in COMMANDS:
        options = re.findall(r"--[a-z-]+", run(f"{command} --help").stdout)
        assert {option for option in options if "pass" in option} <= {"--no-passphrase"}
