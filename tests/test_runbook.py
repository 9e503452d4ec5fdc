"""`docs/runbook.md` is typed from its first line to its last, and every sentence that it explains is one that the programs say.

Its commands run in this process, one after the other in an empty folder: each would take a second to start.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from string import Template

import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from tests.test_docs import ROOT, blocks
from tests.test_walkthrough import Terminal, Typed, free_port, typed

PAGE = ROOT / "docs" / "runbook.md"


def type_it(one: Typed, terminal: Terminal) -> None:
    """Carry out one command of the page and compare with what the page shows."""
    command = terminal.real(one.command.replace("\\\n", " "))
    if given := re.fullmatch(r"(?:export )?([A-Z_]+)=('[^']*'|\S+)", command):
        terminal.variables[given.group(1)] = given.group(2).strip("'")
        return
    may_fail = command.endswith(" || true")
    program, *words = shlex.split(Template(command.removesuffix(" || true")).substitute(terminal.variables))
    if program == "mv":
        source, target = words
        shutil.move(source, target)
        return
    assert program == "sealmatch"
    done = CliRunner().invoke(app, words, env=terminal.variables)
    fails = bool(one.shown) and one.shown[0].startswith("sealmatch: ")
    assert may_fail or (done.exit_code != 0) == fails, f"{PAGE.name}:{one.line} ended with exit {done.exit_code}\n{done.output}"
    missing = terminal.compare(one, done.output)
    assert missing is None, f"{PAGE.name}:{one.line} does not print {missing!r} but\n{done.output}"


def test_the_runbook_can_be_typed_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(tmp_path, free_port())
    commands = 0
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.language == "python":
            exec(compile("\n" * block.line + block.body, PAGE.name, "exec", dont_inherit=True), {})  # noqa: S102  # to run what it says is the test
        for one in typed(block) if block.language == "console" else []:
            type_it(one, terminal)
            commands += 1
    assert commands > 9
    assert not (tmp_path / ".lakeside.restoring").exists()


def test_every_sentence_that_the_runbook_explains_is_said_by_the_programs() -> None:
    rows = re.findall(r"^\| `([^`]+)`", PAGE.read_text(encoding="utf-8").partition("## When something is red")[2], flags=re.MULTILINE)
    assert len(rows) > 15
    sources = [path.read_text(encoding="utf-8") for package in ("agency_node", "broker") for path in (ROOT / package).rglob("*.py")]
    said = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # strings that go on in the next line
    for sentence in rows:
        assert sentence in said, sentence
