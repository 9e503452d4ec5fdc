"""docs/intake.md, typed: its Python and its commands run in one folder, in the order of the page."""

from __future__ import annotations

import json
import re
import shlex
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.commands.output import clock
from agency_node.config import IntakeRules, ItlRules, NodeConfig
from agency_node.holder.booking import Disposition
from agency_node.holder.records import GalleryRecord, RecordStore
from agency_node.node import open_node
from agency_node.policy.pack_folder import PackQuality
from tests.face_packs import write_faces, write_models
from tests.sample_federation import LAKESIDE, roster, sign_roster, with_agency
from tests.test_docs import CONSOLE, PYTHON, ROOT, blocks, commands

PAGE = ROOT / "docs" / "intake.md"


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path / "pack")
    write_faces(tmp_path / "public-faces", 100)
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    enrolled: list[GalleryRecord] = []
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.language in PYTHON:
            exec(compile("\n" * block.line + block.body, "docs/intake.md", "exec", dont_inherit=True), namespace)  # noqa: S102
        elif block.language in CONSOLE:
            for command in commands(f"```console\n{block.body}```\n"):
                assert command.words[0] == "sealmatch"
                if command.words[1] == "gallery" and not enrolled:
                    enrolled = records_of(tmp_path)
                if "roster.json" in command.words:
                    write_roster(tmp_path)
                done = CliRunner().invoke(app, list(command.words[1:]))
                assert done.exit_code == 0, f"{shlex.join(command.words)}: {done.output}"
                for line in command.shown:
                    pattern = ".*".join(re.escape(part.strip()) for part in line.split("…"))
                    assert re.search(pattern, done.stdout), f"{shlex.join(command.words)} does not print {line!r}"
        elif block.language == "toml":
            check_toml(block.body)
    first, second = enrolled
    node = open_node(tmp_path / "lakeside", clock)
    store = RecordStore(node.engine, node.vault, node.embedder().model)
    assert [store.holds(row) for row in range(2)] == [True, False]  # one was purged
    assert (first.booking.event, first.booking.disposition, first.booking.disposed_on) == ("E-77", Disposition.CONVICTED, date(2022, 1, 31))
    assert (second.record_number, second.booking.event, second.captured) == ("L-2023-000412", "E-4711", date(2023, 5, 16))
    assert all(record.quality is not None and record.quality.unified >= 40 for record in (first, second))


def records_of(folder: Path) -> list[GalleryRecord]:
    """Both records, before one of them goes."""
    node = open_node(folder / "lakeside", clock)
    store = RecordStore(node.engine, node.vault, node.embedder().model)
    return [store.record(0), store.record(1)]


def write_roster(folder: Path) -> None:
    """What the federation's root holders would have signed: the page's node is in it."""
    key = open_node(folder / "lakeside", clock).keyring.node_key.verifying_key
    (folder / "roster.json").write_bytes(sign_roster(with_agency(roster(), LAKESIDE, node_key=key)))


def check_toml(body: str) -> None:
    """What the page shows of node.toml and pack.toml is read by who reads them; limits are the strict default's."""
    import tomllib  # noqa: PLC0415

    values = tomllib.loads(body)
    if "floor" in values.get("quality", {}):
        assert PackQuality.model_validate(values["quality"]) == PackQuality()
        return
    needed = {"agency": "a-b", "roles": ["requester"], "broker": "https://b.example", "root_fingerprint": "0f" * 32}
    checked = NodeConfig.checked(values | needed)
    assert isinstance(checked.itl, ItlRules)
    if "intake" in values:
        assert checked.intake == IntakeRules(folder="drop")
        assert values["intake"].keys() == IntakeRules.model_fields.keys()


def test_every_code_of_a_refusal_stands_on_the_page() -> None:
    from agency_node.errors import ImageFault  # noqa: PLC0415
    from agency_node.holder.candidates import RowFault  # noqa: PLC0415

    text = PAGE.read_text(encoding="utf-8")
    own = {ImageFault.LOW_QUALITY, ImageFault.SYNTHETIC}
    """Of drafts, and of nodes without a face model."""
    assert {fault for fault in [*ImageFault, *RowFault] if f"`{fault}`" not in text} == own


def test_a_command_that_takes_half_a_source_is_refused(tmp_path: Path) -> None:
    made = f"node init {tmp_path}/n --agency a-b --name A --jurisdiction us-wi --role holder --legal-office a-law --officer A --trust c-d "
    made += f"--broker http://127.0.0.1:1 --mode demo --root-fingerprint {'0f' * 32}"
    assert CliRunner().invoke(app, made.split()).exit_code == 0
    for words, message in ((["--folder", "x"], "belong together"), ([], "nothing to enrol"), (["--itl", "nowhere"], "cannot be found")):
        done = CliRunner().invoke(app, ["node", "enrol", str(tmp_path / "n"), *words, "--json"])
        assert done.exit_code == 2
        assert message in json.loads(done.stdout)["detail"]
