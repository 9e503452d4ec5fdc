"""The `sealmatch` command: what it prints, where, how it answers wrong values, and that every example in its help runs.

What the figures mean is tested with the modules that compute them.
"""

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agency_node.cli import FIGURE_NAMES, app, parameter_figures
from crypto.parameters import SECURITY_TABLE, Scales

COMMANDS = ["", "parameters", "bench", "bench scan", "bench answer"]


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
    assert found["sizes"]["answer_bits_per_slot"] == 29
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
    assert result.stderr.startswith("sealmatch: ")
    assert "Traceback" not in result.stderr
