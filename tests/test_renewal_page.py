"""docs/renewal.md, typed: its commands run in one folder, in the order of the page, on a holder that has enrolled three photographs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import NodeConfig
from agency_node.faces.image import encode_for_disclosure
from agency_node.holder.booking import NO_BOOKING
from agency_node.holder.candidates import BOOKING
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.key_epoch import key_epoch
from agency_node.node import create_node, open_node
from tests.face_packs import face_picture, write_pack
from tests.face_samples import encoded
from tests.node_samples import Clock
from tests.sample_federation import NOW
from tests.test_docs import CONSOLE, PYTHON, ROOT, blocks, commands

PAGE = ROOT / "docs" / "renewal.md"


def holder_with_photographs(folder: Path) -> str:
    """A holder of the pack `pack-2026` with three records, one of which shows a face that the detection model sees no more; the hash of
    the pack `pack-2027`."""
    before, after = write_pack(folder / "pack-2026"), write_pack(folder / "pack-2027", seed=8)
    values: dict[str, object] = {
        "agency": "lakeside-sheriff",
        "mode": "test",
        "roles": ["holder"],
        "broker": "http://127.0.0.1:1",
        "root_fingerprint": "0f" * 32,
        "trusted_custodians": ["civic-board"],
        "embedder": "insightface",
        "face_pack": {"folder": "../pack-2026", "sha256": before.sha256},
    }
    create_node(folder / "lakeside", NodeConfig.checked(values), witness=False)
    node = open_node(folder / "lakeside", Clock())
    model = node.embedder().model
    made = []
    for person in range(3):
        photograph, media = encode_for_disclosure(encoded(face_picture(person, places=((160, 160),) if person < 2 else ())))
        template = model.templates(np.random.default_rng(person).standard_normal(model.dimensions))
        made.append(NewRecord(f"L-{person}", NOW.date(), BOOKING, template, photograph, media, NO_BOOKING))
    RecordStore(node.engine, node.vault, model).add(made, NOW)
    node.engine.dispose()
    node.held.close()
    return after.sha256


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables = {"PACK_SHA256": holder_with_photographs(tmp_path)}
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    ran = []
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.language in PYTHON:
            exec(compile("\n" * block.line + block.body, "docs/renewal.md", "exec", dont_inherit=True), namespace)  # noqa: S102
        elif block.language in CONSOLE:
            for command in commands(f"```console\n{block.body}```\n"):
                words = [Template(word).substitute(variables) for word in command.words]
                assert words[0] == "sealmatch"
                done = CliRunner().invoke(app, words[1:])
                assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}"
                for line in command.shown:
                    pattern = ".*".join(re.escape(part.strip()) for part in line.split("…"))
                    assert re.search(pattern, done.stdout), f"{shlex.join(words)} does not print {line!r} but {done.stdout}"
                ran.append(words[2])
    assert ran == ["reembed", "reembed", "rotate"]
    node = open_node(tmp_path / "lakeside", Clock())
    assert key_epoch(node.engine, node.vault) == 2
    store = RecordStore(node.engine, node.vault, node.embedder().model)
    assert store.rows().tolist() == [0, 1]
    assert store.record(2).record_number == "L-2"
