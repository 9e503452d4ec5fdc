"""`docs/cases.md` is typed from its first line to its last, at the requester's node of the sample federation with a real photograph."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import AT_REST_KEY_FILE, CONFIG_FILE
from agency_node.legal.persons import create_person_key
from agency_node.policy.pack_folder import PackProbe, PackRetention
from crypto.canonical import PersonId
from crypto.keys import SigningKey
from crypto.roster_entries import PersonRole
from tests.face_samples import astronaut, encoded, hopper, pixels
from tests.node_world import World
from tests.sample_federation import INVESTIGATOR, NORTHPORT, REVIEWER, digest, signing_key
from tests.test_docs import ROOT, blocks
from tests.test_walkthrough import Terminal, typed

PAGE = ROOT / "docs" / "cases.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
async def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """Northport's node, two key files, two photographs and a warrant; the commands' clock is the federation's."""
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    node = await world.node(NORTHPORT)
    (node.folder / CONFIG_FILE).write_text(node.config.to_toml())
    (node.folder / "keys" / AT_REST_KEY_FILE).write_bytes(digest(f"{NORTHPORT} at rest"))
    for module in ("acting", "node_cases", "node_review", "node_search"):
        monkeypatch.setattr(f"agency_node.commands.{module}.clock", world.clock)
    for name, person, role in (("detective", INVESTIGATOR, PersonRole.INVESTIGATOR), ("counsel", REVIEWER, PersonRole.REVIEWER)):
        write_key(monkeypatch, tmp_path / f"{name}.key", person, role)
    (tmp_path / "camera.jpg").write_bytes(encoded(pixels(astronaut()), "JPEG", quality=92))
    (tmp_path / "another.jpg").write_bytes(hopper())
    (tmp_path / "warrant.txt").write_text("the text of the warrant")
    yield tmp_path
    world.close()


def write_key(monkeypatch: pytest.MonkeyPatch, path: Path, person: PersonId, role: PersonRole) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SigningKey, "generate", classmethod(lambda cls: signing_key(person)))
        create_person_key(path, person, role, "", without_passphrase=True)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


async def test_the_page_can_be_typed_from_top_to_bottom(folder: Path) -> None:
    terminal, ran = Terminal(folder, ""), 0
    for block in blocks(TEXT):
        if block.language == "toml":
            said = tomllib.loads(block.body)
            models: dict[str, type[PackProbe | PackRetention]] = {"probe": PackProbe, "retention": PackRetention}
            for name, table in said.items():
                assert models[name].model_validate(table) == models[name](), "what the page shows is the strict default's"
        for one in typed(block) if block.language == "console" else []:
            program, *words = shlex.split(terminal.real(one.command).replace("\\\n", " "))
            assert program == "sealmatch"
            done = run(*words)
            fails = one.shown[0].startswith("sealmatch: ")
            assert (done.exit_code != 0) == fails, f"{PAGE.name}:{one.line} ended with exit {done.exit_code}\n{done.output}"
            missing = terminal.compare(one, done.output)
            assert missing is None, f"{PAGE.name}:{one.line} does not print {missing!r} but\n{done.output}"
            ran += 1
    assert ran == 12
    assert {path.name for path in (folder / "for-the-defence").iterdir()} == {
        "chain.jsonl",
        *(f"version-{number}" for number in range(6) if number != 3),
    }
    search = next(real for page, real in terminal.ids.items() if page.startswith("61847f8e"))
    as_programs_read(folder, search)


def as_programs_read(folder: Path, search: str) -> None:
    """The same commands with --json; and their errors."""
    told = json.loads(run("node", "provenance", "northport-pd", "--search", search, "--json").stdout)
    assert [link["step"] for link in told["links"]] == ["original", "edit", "edit", "edit", "probe", "aligned"]
    assert told["kept"] == [0, 1, 2, 4, 5]
    assert (folder / "for-the-defence" / "version-0").read_bytes() == (folder / "camera.jpg").read_bytes()
    listed = json.loads(run("node", "cases", "northport-pd", "--json").stdout)
    (case,) = listed["cases"]
    assert (case["number"], case["held_since"], case["searches"][0]["search_id"]) == ("26-10417", "", search)
    (held,) = json.loads(run("node", "hold", "northport-pd", "--case", "26-10417", "--json").stdout)["holds"]
    assert (held["reason"], held["lift_reason"]) == ("charged; discovery is due", "acquitted; time for appeal is over")
    reviewed = json.loads(run("node", "review", "northport-pd", "--search", search, "--json").stdout)
    assert reviewed["chain"] == {"head": told["head"], "links": told["links"]}
    placed = ("node", "hold", "northport-pd", "--case", "26-10417", "--reason", "again", "--person", "counsel.key", "--json")
    assert json.loads(run(*placed).stdout) == {"state": "held"}
    for words, says in (
        (("--reason", "why"), "--person KEY"),
        (("--lift", "--person", "counsel.key"), "--reason WHY"),
        (("--reason", "why", "--person", "detective.key"), "not that of a reviewer"),
    ):
        done = run("node", "hold", "northport-pd", "--case", "26-10417", *words, "--json")
        assert done.exit_code != 0
        assert says in json.loads(done.stdout)["detail"]
