"""`docs/log.md` is typed from top to bottom, in a folder with the files that it speaks of."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from crypto.entries import EntryKind
from tests.node_samples import leaf, other_leaves
from tests.sample_federation import digest, signing_key
from tests.test_docs import ROOT, blocks, run_python
from tests.test_log_bundle import ACTS, EVIDENCE, FINGERPRINT, LOG, note_of, write
from tests.test_walkthrough import Terminal, typed

LOG_PAGE = ROOT / "docs" / "log.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "bundle")
    write(tmp_path / "bundle-of-last-month", LOG[:200])
    fork = [*LOG[:200], *other_leaves(3, "another history"), leaf(EntryKind.GRANT, digest("hidden"))]
    (tmp_path / "shown-to-somebody-else").write_bytes(note_of(fork).to_bytes())
    key = signing_key(f"{EVIDENCE.agency} node")
    (tmp_path / "lakeside-evidence.json").write_bytes(EVIDENCE.sign(key))
    more = replace(EVIDENCE, acts=(ACTS[0], replace(ACTS[1], count=2), *ACTS[2:]))
    (tmp_path / "evidence-with-one-disclosure-more.json").write_bytes(more.sign(key))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_can_be_typed_from_top_to_bottom(folder: Path) -> None:
    text = LOG_PAGE.read_text(encoding="utf-8")
    terminal, ran = Terminal(folder, ""), 0
    for block in blocks(text):
        for one in typed(block) if block.language == "console" else []:
            program, *words = shlex.split(one.command.replace("$FINGERPRINT", FINGERPRINT))
            assert program == "sealmatch"
            done = CliRunner().invoke(app, words)
            missing = terminal.compare(one, done.output)
            assert missing is None, f"{LOG_PAGE.name}:{one.line} does not print {missing!r} but\n{done.output}"
            assert (done.exit_code != 0) == one.shown[0].startswith("sealmatch: "), done.output
            ran += 1
    assert ran == 5
    run_python(text, "docs/log.md")


def test_a_command_that_prints_something_else_fails(folder: Path) -> None:
    """Control: the comparison is not blind."""
    (block,) = (one for one in blocks(LOG_PAGE.read_text(encoding="utf-8")) if "last-month" in one.body)
    one = typed(block)[0]
    done = CliRunner().invoke(app, ["log", "verify", str(folder / "bundle-of-last-month"), "--root-fingerprint", FINGERPRINT])
    assert done.exit_code == 0
    assert Terminal(folder, "").compare(one, done.output) is not None
