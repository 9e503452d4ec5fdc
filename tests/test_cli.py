"""The `sealmatch` command: what it prints, where, how it answers wrong values, and that every example in its help runs.

What the figures mean is tested with the modules that compute them.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import insert
from typer.testing import CliRunner

from agency_node.cli import FIGURE_NAMES, app, parameter_figures
from agency_node.commands.listed import check_listed
from agency_node.errors import RequestError
from agency_node.overview import full_search_id
from agency_node.store import open_store
from agency_node.tables import custody
from crypto.parameters import SECURITY_TABLE, Scales
from tests.sample_federation import BOARD, INVESTIGATOR, LAKESIDE, LAKESIDE_REVIEWER, NORTHPORT, REVIEWER, roster

COMMANDS = ["", "parameters", "plan", "bench", "bench scan", "bench answer"]
"""Those whose examples run anywhere; what the others' need is made in `test_walkthrough`."""


def run(line: str) -> Any:
    return CliRunner().invoke(app, shlex.split(line), prog_name="sealmatch", env={"COLUMNS": "240", "NO_COLOR": "1"})


def words(text: str) -> str:
    """The text without boxes and line ends, so that a sentence can be looked for."""
    return " ".join(re.sub(r"[─-╿]", " ", text).split())


# --- version and help ---------------------------------------------------------------------------------------------------


def test_version_is_the_package_s() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"sealmatch {metadata.version('sealmatch')}\n")


def test_the_installed_command_is_this_one() -> None:
    (entry,) = metadata.entry_points(group="console_scripts", name="sealmatch")
    assert entry.value == "agency_node.cli:main"


def test_version_and_help_load_no_kernel() -> None:
    program = "import sys; sys.argv = ['sealmatch', '--version']\nfrom agency_node.cli import main\n"
    program += "try: main()\nexcept SystemExit: print({'numba', 'numpy', 'faiss', 'tenseal'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout  # noqa: S603
    assert out.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_holds_an_example_that_runs(command: str) -> None:
    shown = run(f"{command} --help")
    assert shown.exit_code == 0
    (example,) = re.findall(r"Example: sealmatch (.*)", shown.stdout)
    assert example.startswith(command)

    result = run(example.strip())
    assert result.exit_code == 0, result.output
    if "--json" in example:
        assert result.stdout.count("\n") == 1
        assert isinstance(json.loads(result.stdout), dict)
    else:
        assert len(result.stdout.splitlines()) > 3


def every_command(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All commands and groups by what is typed, as typer makes them."""
    yield " ".join(words), command
    for name, below in getattr(command, "commands", {}).items():
        yield from every_command(below, (*words, name))


EVERY = dict(every_command(typer.main.get_command(app)))
ASKED = {"node", "person", "policy", "roster", "log", "gallery"}
LEAVES = {name: command for name, command in EVERY.items() if not hasattr(command, "commands")}


def test_the_commands_are_those_that_the_pages_name() -> None:
    assert set(LEAVES) == {
        "parameters",
        "demo",
        *(f"bench {name}" for name in ("scan", "answer", "growth", "peers", "holder", "intake", "log", "plot", "policy", "search")),
        "plan",
        *(f"calibration {name}" for name in ("show", "check", "synthetic")),
        *(f"faces {name}" for name in ("measure", "check")),
        *(f"gallery {name}" for name in ("manifest", "prove", "absent", "dispositions", "purge", "check", "differentials")),
        *(f"broker {name}" for name in ("init", "roster", "serve", "status")),
        *(f"log {name}" for name in ("verify", "export", "evidence", "opened", "counts", "monitor")),
        *(f"node {name}" for name in ("init", "serve", "enrol", "expunge", "status", "search", "review", "release", "cancel", "disclose")),
        *(f"node {name}" for name in ("ledger", "preflight", "statement", "evaluated", "open", "cases", "hold", "provenance")),
        *(f"node {name}" for name in ("ratify", "unseal", "originate", "accept", "revoke", "backup", "restore")),
        *(f"node {name}" for name in ("reembed", "rotate")),
        *(f"node {name}" for name in ("restore-key", "subject", "leave", "receipt")),
        *(f"person {name}" for name in ("init", "discovery")),
        *(f"policy {name}" for name in ("explain", "test", "diff", "list", "approve", "adopt")),
        *(f"roster {name}" for name in ("office-key", "countersign", "root-key", "root-set", "draft", "sign", "show")),
    }


@pytest.mark.parametrize("name", EVERY)
def test_every_help_holds_an_example_that_its_options_fit(name: str) -> None:
    command = EVERY[name]
    assert (command.help or "").strip(), name
    example = re.fullmatch(r"Example: sealmatch (.*)", command.epilog or "")
    assert example is not None, name
    typed = shlex.split(example.group(1))
    named = max((one for one in EVERY if typed[: len(one.split())] == one.split()), key=len)
    assert named.startswith(name), f"{name}: the example is of {named}"
    rest, shown = typed[len(named.split()) :], EVERY[named]
    if "--help" not in rest:
        with shown.make_context(named, list(rest), resilient_parsing=True) as context:
            assert not context.args, f"{named} does not take {context.args}"
        wanted = {option for one in shown.params if one.required for option in one.opts if option.startswith("--")}
        assert wanted <= set(rest), f"{named}: the example lacks {wanted - set(rest)}"


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_answers_in_json(name: str) -> None:
    assert any("--json" in one.opts for one in LEAVES[name].params), name


@pytest.mark.parametrize("name", [name for name in LEAVES if name.split()[0] in ASKED and name != "policy list"])
@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
def test_an_error_is_one_sentence_on_standard_error(name: str, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of a node, person or root holder, asked for something that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALMATCH_PASSPHRASE", "five words")
    (tmp_path / "there").write_text("something else", encoding="utf-8")
    line = {
        "node init": "node init nowhere --agency a-pd --name A --jurisdiction us-wi-a --role holdr --officer O --broker http://127.0.0.1:1 "
        f"--mode demo --root-fingerprint {'a' * 64}",
        "node serve": "node serve nowhere",
        "node accept": "node accept nowhere --search 00 --person there",
        "node revoke": "node revoke nowhere --search 00 --person there --reason none",
        "node enrol": "node enrol nowhere --folder . --table there",
        "node expunge": "node expunge nowhere L-1 --reason error",
        "node cancel": "node cancel nowhere 12",
        "node cases": "node cases nowhere",
        "node hold": "node hold nowhere --case 1",
        "node provenance": "node provenance nowhere --search 12",
        "node ledger": "node ledger nowhere",
        "node preflight": "node preflight nowhere",
        "node statement": "node statement nowhere --month 2026-10 --save new",
        "node evaluated": "node evaluated nowhere there --on 2026-11-20 --person there",
        "node status": "node status nowhere",
        "node search": "node search nowhere --case 1 --image there --basis warrant --reviewer a:b --holder c --custodian d --person there",
        "node review": "node review nowhere --search 12",
        "node release": "node release nowhere --search 12",
        "node disclose": "node disclose nowhere --search 12",
        "node ratify": "node ratify nowhere 12 --person there",
        "node originate": "node originate nowhere --search 12 --save new",
        "node unseal": "node unseal nowhere 12 --discovery there --order there --save new",
        "policy explain": "policy explain no-such-pack",
        "policy test": "policy test no-such-pack",
        "policy diff": "policy diff strict-default no-such-pack",
        "policy approve": "policy approve strict-default --node nowhere --person there --into new",
        "policy adopt": "policy adopt there --node nowhere",
        "node backup": "node backup nowhere --into new",
        "node reembed": "node reembed nowhere --embedder dlib",
        "node rotate": "node rotate nowhere",
        "node restore": "node restore there new --agency a-pd",
        "node restore-key": "node restore-key there --agency a-pd",
        "node subject": "node subject nowhere --record L-1",
        "node leave": "node leave nowhere --person there --receipt new --yes",
        "node receipt": "node receipt there --roster there --root-fingerprint 00",
        "person init": "person init there --id a-pd:one --role reviewer --trained-until 2027-06-30",
        "person discovery": "person discovery there --agency a-pd",
        "roster office-key": "roster office-key there --agency a-pd",
        "roster countersign": "roster countersign there --key there",
        "roster root-key": "roster root-key there --holder a-pd",
        "roster root-set": "roster root-set there --threshold 1",
        "roster draft": "roster draft --root-set there --broker there --agency there --out new",
        "roster sign": "roster sign there --key there",
        "roster show": "roster show there",
        "node open": "node open nowhere --search 12 --to-oversight new",
        "log verify": "log verify --node nowhere",
        "log export": "log export --node nowhere --into new",
        "log evidence": "log evidence --node nowhere --into new",
        "log opened": "log opened there --node nowhere",
        "log counts": "log counts --node nowhere",
        "log monitor": "log monitor new --node nowhere",
        "gallery manifest": "gallery manifest nowhere",
        "gallery prove": "gallery prove nowhere --record L-1 --save new",
        "gallery absent": "gallery absent there --node nowhere",
        "gallery dispositions": "gallery dispositions nowhere there",
        "gallery purge": "gallery purge nowhere --before 2026-01-01 --report new",
        "gallery check": "gallery check there --node nowhere",
        "gallery differentials": "gallery differentials nowhere",
    }[name]
    result = run(line + " --json" * as_json)
    assert result.exit_code in (1, 2), result.output
    assert re.fullmatch(r"sealmatch: [^\n]{20,}\.\n", result.stderr), result.stderr
    if as_json:
        shown = json.loads(result.stdout)
        assert shown["ok"] is False
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", shown["error"])
    else:
        assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"holders": ["nobody-pd"]}, "nobody-pd is no holder in the roster: take .*lakeside-sheriff"),
        ({"holders": ["state-oversight"]}, "state-oversight is no holder"),
        ({"custodians": ["lakeside-sheriff"]}, "lakeside-sheriff is no custodian in the roster: take .*civic-board"),
        ({"reviewer": "northport-attorney:nobody"}, "is no reviewer of your legal office: take .*northport-attorney:counsel-1"),
        ({"reviewer": LAKESIDE_REVIEWER}, "is no reviewer of your legal office"),
    ],
)
def test_a_party_that_the_roster_does_not_list_is_named_before_a_draft(changes: dict[str, Any], sentence: str) -> None:
    wanted: dict[str, Any] = {"holders": [LAKESIDE], "custodians": [BOARD], "reviewer": REVIEWER}
    check_listed(roster(), NORTHPORT, **wanted, investigator=INVESTIGATOR)
    check_listed(roster(), NORTHPORT, **{**wanted, "reviewer": INVESTIGATOR}, investigator=INVESTIGATOR)
    with pytest.raises(RequestError, match=sentence):
        check_listed(roster(), NORTHPORT, **{**wanted, **changes}, investigator=INVESTIGATOR)


def test_a_search_is_named_by_the_first_digits_of_its_id(tmp_path: Path) -> None:
    engine = open_store(tmp_path / "node.sqlite")
    ids = ["ab" * 16, "ac" * 16, "_b" + "ab" * 15]
    with engine.begin() as connection:
        for search_id in ids:
            values = {"search_id": search_id, "state": "open", "note": "", "deadline": "", "alarms": ""}
            connection.execute(insert(custody).values(**values))
    assert full_search_id(engine, "abab") == ids[0]
    assert full_search_id(engine, ids[1]) == ids[1]
    assert full_search_id(engine, "_b") == ids[2]  # no pattern of the database's
    for text, sentence in (
        ("a", "several searches"),
        ("", "several searches"),
        ("ad", "no such search"),
        (ids[0] + "ab", "no such search"),
    ):
        with pytest.raises(RequestError, match=sentence):
            full_search_id(engine, text)
    engine.dispose()


def test_no_argument_at_all_shows_the_help() -> None:
    result = run("")
    assert "Usage" in result.output
    assert "Example" in result.output


# --- parameters ---------------------------------------------------------------------------------------------------------


def test_parameters_as_an_object_are_those_of_the_scales() -> None:
    found = json.loads(run("parameters --dimensions 128 --spread-milli 1500 --json").stdout)
    scales = Scales(128, 1500)
    assert found["parameters"]["name"] == "sealmatch-1"
    assert (found["scales"]["gamma"], found["scales"]["mu"]) == (scales.gamma, scales.mu)
    assert (found["errors"]["noise_sd"], found["errors"]["error_sd"]) == (scales.noise_sd, scales.error_sd)
    assert found["sizes"]["answer_bits_per_slot"] == 27
    assert [(row["bits"], row["source"], row["date"]) for row in found["security"]] == [
        (row.bits, row.source, row.date) for row in SECURITY_TABLE
    ]


def test_parameters_as_tables_hold_every_figure_and_every_estimate() -> None:
    text = words(run("parameters").stdout)
    scales = Scales(512)
    named = {name for figures in parameter_figures(scales).values() for name in figures}
    assert named == set(FIGURE_NAMES)
    assert all(title in text for title in FIGURE_NAMES.values())
    assert str(scales.gamma) in text
    assert f"{scales.error_sd:.4g}" in text
    for row in SECURITY_TABLE:
        assert f"{row.bits:.1f} {row.model} {row.source} {row.date}" in text


# --- wrong values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("bench scan --records 0", "0 is not a size of a gallery: take 1 to"),
        ("bench scan --records 16000001", "16000001 is not a size of a gallery"),
        ("bench scan --records many", "should be a valid integer"),
        ("bench scan --dimensions 100", "100 is not a number of dimensions here: take a multiple of 8 from 8 to 632"),
        ("bench scan --dimensions 700", "700 is not a number of dimensions here: take a multiple of 8 from 8 to 632"),
        ("bench scan --runs 0", "0 is not enough for a median of alternating runs: take 9"),
        ("bench scan --threads 0", "0 is not a number of threads"),
        ("bench scan --probes 0", "0 is not a number of probes"),
        ("bench scan --seed -1", "-1 is not a seed: take 0 or more"),
        ("bench growth --sizes 100", "100 is no list of sizes: take 2 to 20"),
        ("bench growth --sizes 100,many", "100,many is no list of sizes"),
        ("bench growth --sizes 100,16000001", "is no list of sizes: take 2 to 20 of 1 to 16000000 records"),
        ("bench peers --seal-records 0", "0 is not a number of records here: take 1 to"),
        ("bench peers --tenseal-records 4097", "4097 is more than one ciphertext holds: take up to 4096"),
        ("bench answer --records 0", "0 is not a size of a gallery"),
        ("bench answer --dimensions 700", "700 is not a number of dimensions here"),
        ("bench answer --runs 0", "0 is not a number of runs: take 1 to"),
        ("parameters --dimensions 0", "0 is not a number of dimensions here"),
        ("parameters --spread-milli 999", "999 is not a spread at 512 dimensions: take 1000 (isotropic) to 22627"),
        ("paramters", "No such command 'paramters'"),
    ],
)
def test_a_wrong_value_is_answered_with_a_sentence(line: str, sentence: str) -> None:
    result = run(line)
    assert result.exit_code == 2
    assert sentence in words(result.stderr)
    assert "--help" in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_without_faiss_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    result = run("bench scan --records 300 --dimensions 128 --json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "install the dev group with ./dev setup" in result.stderr
    assert "--no-faiss" in result.stderr

    alone = run("bench scan --records 300 --dimensions 128 --no-faiss --json")
    assert alone.exit_code == 0, alone.output
    assert json.loads(alone.stdout)["ratio"] is None


def test_too_large_a_gallery_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_named: "MemTotal: 2000 kB\nMemAvailable: 1000 kB\n")
    result = run("bench scan --records 16000000 --dimensions 632")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "take fewer --records" in result.stderr


def test_what_went_wrong_here_is_a_sentence_and_exit_code_one() -> None:
    result = run("bench answer --records 3000 --dimensions 8 --runs 1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("sealmatch: "), "below the lines of what took long on a busy machine"
    assert "Traceback" not in result.stderr
