"""`sealmatch gallery differentials`, typed: what it prints, signs and writes down, that it sends nothing, and that it names no person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner, Result

from agency_node import tables
from agency_node.cli import app
from agency_node.holder.records import RecordStore
from agency_node.node import Node
from crypto.differentials import DIFFERENTIALS_KIND
from crypto.roster import Roster
from tests.described_gallery import Group, made
from tests.sample_federation import LAKESIDE, NOW, root_set, roster, sign_roster, with_agency
from tests.test_backup import MODEL, make_node
from tests.test_moving import forms_of
from tests.test_rotation import close

PERSONS = 900


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    opened = make_node(tmp_path_factory.mktemp("differentials") / "lakeside")
    store = RecordStore(opened.engine, opened.vault, MODEL)
    small = [Group(4, "f", f"cinnabar-{number}", 1990) for number in range(10)]
    groups = Group(PERSONS, "m", "kestrel", 1957, alike=0.2), Group(PERSONS, "f", "ochre", 1990)
    store.add(made(*groups, *small, dimensions=MODEL.dimensions).records(model=MODEL), NOW)
    yield opened
    close(opened)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def told(*words: object) -> dict[str, Any]:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def group(said: dict[str, Any], by: str, label: str) -> dict[str, Any]:
    (found,) = [one for one in said["groups"] if (one["by"], one["label"]) == (by, label)]
    return dict(found)


@pytest.mark.rule("R64")
def test_the_table_and_the_object_say_how_groups_differ(node: Node) -> None:
    """R64: rates with intervals for each group, and how many times everybody's."""
    said = told("gallery", "differentials", node.folder, "--rate", "0.01")
    worse, better = group(said, "race", "kestrel"), group(said, "race", "ochre")
    assert worse["false_match_rate"]["low"] > better["false_match_rate"]["high"]
    assert worse["false_match_rate_ratio"] > 1.5
    assert (said["rate"], said["model"], said["model_hash"], said["withheld"]) == (10_000, MODEL.name, MODEL.model_hash.hex(), ["race"])
    shown = run("gallery", "differentials", node.folder).stdout
    for words in ("race kestrel", "age 20 to 34", "sex f", "everybody", f"at cosine {said['cosine'] / 100:.2f}", "not named: race"):
        assert words in shown
    assert f"{100 * worse['false_match_rate']['value']:.2g} % (" in shown
    only = run("gallery", "differentials", node.folder, "--by", "sex").stdout
    assert "sex m" in only
    assert "race" not in only.replace("everybody", "")


@pytest.mark.rule("R64")
def test_whoever_is_given_the_document_checks_it(node: Node, tmp_path: Path) -> None:
    """R64: with the signed roster and the fingerprint, without a network; one changed bit does not hold."""
    saved = tmp_path / "differentials.json"
    said = told("gallery", "differentials", node.folder, "--rate", "0.01", "--save", saved)
    (tmp_path / "roster.json").write_bytes(sign_roster(listed(node)))
    trust = ("--roster", tmp_path / "roster.json", "--root-fingerprint", root_set().fingerprint.hex())
    assert told("gallery", "check", saved, *trust) == {"ok": True, **said}
    assert "race kestrel" in run("gallery", "check", saved, *trust).stdout
    assert run("gallery", "differentials", node.folder, "--save", saved).exit_code == 2  # no signed document is overwritten
    data = bytearray(saved.read_bytes())
    assert len(data) < DIFFERENTIALS_KIND.max_bytes
    place = data.index(b'"records":') + 10
    data[place] ^= 1
    (tmp_path / "changed.json").write_bytes(data)
    assert run("gallery", "check", tmp_path / "changed.json", *trust).exit_code != 0


def listed(node: Node) -> Roster:
    return with_agency(roster(), LAKESIDE, node_key=node.keyring.node_key.verifying_key)


def test_a_row_of_the_ledger_says_that_it_was_done_and_nothing_is_sent(node: Node) -> None:
    run("gallery", "differentials", node.folder, "--rate", "0.01")
    refused = run("gallery", "differentials", node.folder, "--rate", "0.02")
    assert (refused.exit_code, "is measured anew from" in refused.stderr) == (2, True)
    with node.engine.begin() as connection:
        rows = connection.execute(select(tables.ledger).where(tables.ledger.c.event == "command gallery differentials")).all()
        assert connection.execute(select(func.count()).select_from(tables.outbox)).scalar_one() == 0
    assert {row.outcome for row in rows} == {"done", "failed"}


@pytest.mark.rule("R62")
def test_neither_output_nor_files_nor_ledger_name_a_person_or_a_small_group(node: Node, tmp_path: Path) -> None:
    """R62: no number of a person in any spelling; the label of four persons stands nowhere. The two others do, in the document alone."""
    saved = tmp_path / "differentials.json"
    printed = "".join(run("gallery", "differentials", node.folder, *more).output for more in ((), ("--json",), ("--save", saved)))
    files = {path.name: path.read_bytes() for path in node.folder.rglob("*") if path.is_file()}
    everything = [printed.encode(), saved.read_bytes(), *files.values()]
    needles = [f"P-{number}-{person:05d}" for number in range(2) for person in range(0, PERSONS, 50)] + ["cinnabar"]
    for needle in needles:
        assert not any(form in data for form in forms_of(needle.encode()) for data in everything), needle
    assert "birth" not in printed
    shown = {name for name, data in files.items() if b"kestrel" in data}  # the document, for the next thirty days
    assert shown
    assert shown <= {"node.sqlite", "node.sqlite-wal"}


def test_a_node_without_a_gallery_has_none_to_measure(tmp_path: Path) -> None:
    other = make_node(tmp_path / "other", roles=["requester"])
    close(other)
    done = run("gallery", "differentials", tmp_path / "other")
    assert (done.exit_code, "no holder" in done.stderr) == (2, True)
    empty = make_node(tmp_path / "empty")
    close(empty)
    said = run("gallery", "differentials", tmp_path / "empty", "--json")
    assert (said.exit_code, "enrol with a column `person`" in json.loads(said.stdout)["detail"]) == (2, True)
