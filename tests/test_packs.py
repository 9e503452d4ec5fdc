"""Every delivered policy pack: its examples prove it, it speaks the one vocabulary, and it says on what it rests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agency_node.errors import ConfigError
from agency_node.policy.engine import PolicyPack
from agency_node.policy.pack_folder import DEFAULT_PACK, SCENARIOS_FILE, SCHEMA_FILE, find_pack
from agency_node.policy.scenarios import COLUMNS, faults, read_scenarios

FOLDERS = sorted(find_pack(DEFAULT_PACK).parent.iterdir())
DEFAULT = find_pack(DEFAULT_PACK)
HEAD = ",".join(COLUMNS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_examples_prove_a_pack(folder: Path) -> None:
    """Each answer is the expected one, each policy has an example on both sides, and none can be taken out unnoticed."""
    pack = PolicyPack.load(folder)
    assert pack.name == folder.name
    assert faults(pack, read_scenarios(folder)) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_all_packs_speak_one_language(folder: Path) -> None:
    assert (folder / SCHEMA_FILE).read_bytes() == (DEFAULT / SCHEMA_FILE).read_bytes()


@pytest.mark.rule("R10")
def test_no_pack_knows_an_immigration_purpose() -> None:
    """R10: nothing that a pack permits is for immigration; the word stands only in examples that are refused."""
    for folder in FOLDERS:
        assert "immigration" not in (folder / SCHEMA_FILE).read_text()
        assert not [one.case for one in read_scenarios(folder) if "immigration" in one.inputs.purpose and one.allowed]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT, tmp_path / DEFAULT_PACK))


def lines(folder: Path) -> list[str]:
    return (folder / SCENARIOS_FILE).read_text(encoding="utf-8").splitlines()


def put(folder: Path, rows: list[str]) -> None:
    (folder / SCENARIOS_FILE).write_text("\n".join(rows) + "\n", encoding="utf-8")


def without_a_policy_of(rows: list[str], policy: str) -> list[str]:
    return [row for row in rows if policy not in row]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:15], "14 examples, where there are to be 15 at least"),
        (lambda rows: [*rows, rows[2]], "stands there twice"),
        (
            lambda rows: without_a_policy_of(rows, "forbid-basis-not-sufficient"),
            "forbid-basis-not-sufficient: nothing notices when it is taken out",
        ),
        (
            lambda rows: [row.replace("deny,forbid-agency", "allow,forbid-agency") for row in rows],
            "expected allow by forbid-agency-or-event, got deny",
        ),
        (lambda rows: [row.replace("forbid-agency-or-event", "forbid-nothing") for row in rows], "the pack has no policy forbid-nothing"),
        (
            lambda rows: [row for row in rows if "forbid-offence-not-listed" not in row or ",allow," not in row],
            "forbid-offence-not-listed: no example about it is allowed",
        ),
    ],
    ids=["few", "twice", "unproved", "wrong answer", "unknown policy", "one-sided"],
)
def test_a_table_that_proves_nothing_is_told_so(copy: Path, change: Callable[[list[str]], list[str]], said: str) -> None:
    put(copy, change(lines(copy)))
    assert any(said in fault for fault in faults(PolicyPack.load(copy), read_scenarios(copy)))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["case,rule"], "line 1: the first line names the columns"),
        ([HEAD, "a,b"], "line 2: 2 cells where there are 24 columns"),
        ([HEAD, "a" + "," * 23], "line 2: about is empty"),
        ([HEAD, "a,permit,one" + ",x" * 21], "line 2: rule is a rule's number"),
    ],
    ids=["columns", "cells", "empty", "rule"],
)
def test_a_table_that_cannot_be_read_names_file_and_line(copy: Path, rows: list[str], said: str) -> None:
    put(copy, rows)
    with pytest.raises(ConfigError, match=said):
        read_scenarios(copy)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("cap", "many", "cap is a whole number"),
        ("now", "yesterday", "now is a moment"),
        ("order_issued", "-", "statute and nibrs stand together, and so do order_issued and order_expires"),
        ("order_expires", "31.5.2026", "order_expires is a day"),
        ("statute", "-", "statute and nibrs stand together"),
        ("place", "watching", "place is requesting, originating, holding or custody"),
        ("expected", "maybe", "expected is allow or deny"),
    ],
)
def test_a_cell_that_is_not_understood_names_file_and_line(copy: Path, column: str, value: str, said: str) -> None:
    rows = lines(copy)
    cells = rows[1].split(",")
    cells[COLUMNS.index(column)] = value
    put(copy, [rows[0], ",".join(cells)])
    with pytest.raises(ConfigError, match=f"line 2: {said}"):
        read_scenarios(copy)
