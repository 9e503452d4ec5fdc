"""The words that can be run, or looked up, are: snippets and commands of README and docs, the README's excerpt of the demonstration, names
of tests, links, pictures.

A page's Python blocks share one namespace and run in order, so a page is one program; a failing `assert` in it fails here and names the
page's own line. Commands of `./dev` must exist in its help, commands of `sealmatch` run, except slow ones, whose options must stand in
their help. What the words mean is left to their readers.
"""

from __future__ import annotations

import ast
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.commands.demo import print_result
from agency_node.demo.story import Refused, Result
from agency_node.demo.views import View

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PICTURES = sorted((ROOT / "docs").rglob("*.svg"))
PYTHON = {"python", "py", "python3"}
CONSOLE = {"console", "sh", "bash", "shell"}
TYPED = {ROOT / "docs" / name for name in ("cases.md", "federation.md", "intake.md", "log.md", "renewal.md", "runbook.md")}
"""Pages that are programs of their own: `test_walkthrough` and the tests of each page (`test_cases_page`, `test_runbook`, …) type them."""
OTHERS = [page for page in PAGES if page not in TYPED]
SLOW = {"bench", "demo", "serve"}
"""Subcommands of `sealmatch` that take longer than a test of words may."""


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the page's line of the fence, counted from one."""

    language: str
    line: int
    body: str


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the output that the page shows for it."""

    words: tuple[str, ...]
    shown: tuple[str, ...]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def each_page(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=named)


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page; an AssertionError for a fence that is not closed."""
    found: list[Block] = []
    language, start = "", 0
    body: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not start and line.startswith("```"):
            language, start, body = line[3:].strip().lower(), number, []
        elif start and line.rstrip() == "```":
            found.append(Block(language, start, "".join(body)))
            start = 0
        elif start:
            body.append(line)
    assert not start, f"the fence in line {start} is not closed"
    return found


def prose(text: str) -> str:
    """A page without its blocks and without code in its lines, so that only words and links are left; lines keep their numbers."""
    lines = text.splitlines()
    for block in blocks(text):
        last = block.line + block.body.count("\n") + 1
        lines[block.line - 1 : last] = [""] * (last - block.line + 1)
    return re.sub(r"`[^`\n]*`", "", "\n".join(lines))


def first_day(text: str) -> str:
    """README's section of a department's first day, which `test_walkthrough` types in a federation that runs; empty on other pages."""
    found = re.search(r"^## A department's first day\n.*?(?=^## )", text, flags=re.MULTILINE | re.DOTALL)
    return "" if found is None else found.group()


def run_python(text: str, name: str) -> dict[str, Any]:
    """Run a page's Python blocks in order in one namespace; a traceback shows the page's name and line."""
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(text):
        if block.language in PYTHON:
            code = compile("\n" * block.line + block.body, name, "exec", dont_inherit=True)
            exec(code, namespace)  # noqa: S102 -- to run what the page says is the test
    return namespace


def commands(text: str) -> Iterator[Command]:
    """The commands of console blocks (behind `$ `, with the output below) and of shell blocks (every line)."""
    for block in blocks(text):
        if block.language not in CONSOLE:
            continue
        prompt = "$ " if "$ " in block.body else ""
        parts = re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:] if prompt else block.body.replace("\\\n", " ").splitlines()
        for part in parts:
            command, _, shown = part.replace("\\\n", " ").partition("\n")
            words = tuple(shlex.split(command, comments=True))
            if words:
                yield Command(words, tuple(line.strip() for line in shown.splitlines() if line.strip()))


# --- snippets -----------------------------------------------------------------------------------------------------------


@each_page([page for page in OTHERS if any(block.language in PYTHON for block in blocks(page.read_text(encoding="utf-8")))])
def test_python_of_a_page_runs(page: Path) -> None:
    run_python(page.read_text(encoding="utf-8"), named(page))


def test_the_protocol_page_is_one_search() -> None:
    """Not an empty page that passes: every step has its block."""
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    code = "".join(block.body for block in blocks(page) if block.language in PYTHON)
    steps = (
        "make_probe(",
        "answer(",
        "open_answer(",
        "unmask(",
        "release(",
        "rows_at(",
        "open_message(",
        "verify_grant(",
        "check_inclusion(",
    )
    for step in (*steps, "check_checkpoint(", "check_probe(", "check_answer(", "check_opened(", "check_release("):
        assert step in code, step


def test_a_wrong_word_on_a_page_fails_and_names_its_line() -> None:
    page = "# A page\n\n```python\none = 1\n```\n\nwords\n\n```python\nassert one == 1\nassert one == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run_python(page, "a page")
    assert caught.traceback[-1].lineno == 10  # counted from zero: the page's line 11
    assert str(caught.traceback[-1].path).endswith("a page")
    with pytest.raises(AssertionError, match="not closed"):
        blocks("```python\none = 1\n")
    assert [block.line for block in blocks(page)] == [3, 9]


# --- commands -----------------------------------------------------------------------------------------------------------


def output_of(*argv: str, folder: Path) -> str:
    """Standard output of a program of ours that must succeed."""
    variables = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(argv, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert done.returncode == 0, f"{shlex.join(argv)} ended with exit {done.returncode}\n{done.stderr}"
    return done.stdout


def check_sealmatch(command: Command, folder: Path) -> None:
    """Run a command of `sealmatch` and look for the output that the page shows; of a slow one check the options."""
    program = str(Path(sys.executable).with_name("sealmatch"))
    if command.words and command.words[0] in SLOW:
        options = [word.partition("=")[0] for word in command.words if word.startswith("--")]
        subcommand = [word for word in command.words if re.fullmatch(r"[a-z][a-z-]*", word)]
        help_text = output_of(program, *subcommand, "--help", folder=folder)
        for option in options:
            assert option in help_text.split(), f"{shlex.join(command.words)}: no option {option}"
        return
    output = output_of(program, *command.words, folder=folder)
    for line in command.shown:
        pattern = ".*".join(re.escape(part.strip()) for part in re.split(r"\.\.\.|…", line))
        assert re.search(pattern, output), f"{shlex.join(command.words)} does not print {line!r}"


@each_page([page for page in OTHERS if any(commands(page.read_text(encoding="utf-8")))])
def test_commands_of_a_page_exist(page: Path, tmp_path: Path) -> None:
    """The commands of one page run in one folder, in order. Commands of other programs are none of ours."""
    overview = output_of(sys.executable, str(ROOT / "dev"), "--help", folder=ROOT)
    known = set(re.findall(r"^  ([a-z]+) ", overview, flags=re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    for command in commands(text.replace(first_day(text), "")):
        program, *words = command.words
        if program == "sealmatch":
            check_sealmatch(Command(tuple(words), command.shown), tmp_path)
        elif program == "./dev":
            assert not words or words[0] in known | {"--help"}, f"./dev has no command {words[0]}"
            if words[:1] in (["run"], ["bench"]):
                own = words[1:] if words[0] == "run" else words
                check_sealmatch(Command(tuple(word for word in own if word != "--"), command.shown), tmp_path)


MEASURED = ROOT / "docs" / "performance.md"
SMALL = {
    "--records": "2000",
    "--sizes": "1000,2000",
    "--seal-records": "100",
    "--tenseal-records": "64",
    "--dimensions": "64",
    "--runs": "9",
}
"""What the performance page's commands get in place of the page's own sizes."""
SMALL_SEARCH = {**SMALL, "--dimensions": "128", "--runs": "1"}
"""A node has synthetic models of 128 and 512 dimensions only, and a search starts every party."""


def made_small(words: tuple[str, ...]) -> tuple[list[str], str | None]:
    """A benchmark's arguments with small sizes, and the file that its output goes to."""
    arguments = list(words)
    goes_to = arguments.pop() if len(arguments) > 1 and arguments[-2] == ">" else None
    if goes_to is not None:
        arguments.pop()
    sizes = SMALL_SEARCH if "search" in arguments else SMALL
    small = [sizes.get(before, word) for before, word in zip(["", *arguments], arguments, strict=False)]
    if "--dimensions" not in small and "plot" not in small:
        small += ["--dimensions", sizes["--dimensions"]]
    return small, goes_to


def test_the_performance_page_s_commands_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of them runs, at a small size, in one folder and in order; every picture of theirs is drawn."""
    monkeypatch.chdir(tmp_path)
    ran = set()
    for command in commands(MEASURED.read_text(encoding="utf-8")):
        assert command.words[:2] == ("./dev", "bench"), f"no measurement: {shlex.join(command.words)}"
        arguments, goes_to = made_small(command.words[1:])
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{shlex.join(arguments)}: {done.output}"
        if goes_to is not None:
            (tmp_path / goes_to).write_text(done.stdout, encoding="utf-8")
        drawn = [word for word in arguments if word.endswith(".svg")]
        assert all((tmp_path / name).stat().st_size for name in drawn)
        ran.add(arguments[1])
    assert ran == {"scan", "growth", "answer", "plot", "peers", "holder", "search"}


def test_a_page_that_speaks_of_speed_in_the_clear_names_float32() -> None:
    """FAISS has faster forms than float32: a sentence that compares with the clear says which one it means."""
    for page in PAGES:
        for sentence in re.split(r"(?<=[.:])\s|\n\n|\n[-|#]", prose(page.read_text(encoding="utf-8"))):
            if re.search(r"\b(fast|faster|speed|slower)\b", sentence) and "in the clear" in sentence:
                assert "float32" in sentence, f"{named(page)}: {' '.join(sentence.split())}"


def test_sizes_are_made_small() -> None:
    words = ("bench", "scan", "--records", "2500000", "--json", ">", "scan.json")
    assert made_small(words) == (["bench", "scan", "--records", "2000", "--json", "--dimensions", "64"], "scan.json")
    assert made_small(("bench", "plot", "a.json", "a.svg")) == (["bench", "plot", "a.json", "a.svg"], None)
    assert made_small(("bench", "search", "--runs", "9", "--dimensions", "512"))[0] == [
        "bench",
        "search",
        "--runs",
        "1",
        "--dimensions",
        "128",
    ]


def test_commands_are_found() -> None:
    page = "```console\n$ sealmatch verify \\\n    log  # a comment\nchecked ... leaves\n$ ./dev test\n```\n"
    page += "\n```sh\n# a comment\nsealmatch parameters\n```\n"
    assert list(commands(page)) == [
        Command(("sealmatch", "verify", "log"), ("checked ... leaves",)),
        Command(("./dev", "test"), ()),
        Command(("sealmatch", "parameters"), ()),
    ]


# --- the demonstration's excerpt ----------------------------------------------------------------------------------------


def shapes(text: str) -> list[str]:
    """Lines without table borders, with `#` for every number and id."""
    bare = [" ".join(re.sub(r"[\u2500-\u257f]", " ", line).split()) for line in text.splitlines()]
    return [re.sub(r"[0-9a-f]{32}|[0-9]+(,[0-9]{3})*", "#", line) for line in bare if line]


def shown_in_order(excerpt: list[str], printed: list[str]) -> str | None:
    """The first line of the excerpt that the output does not hold behind the lines before it."""
    rest = iter(printed)
    return next((line for line in excerpt if line not in rest), None)


def readme_excerpt() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (block for block in blocks(readme) if block.language == "text")
    return shapes(block.body)


def sample_view(party: str, role: str, counts: str) -> View:
    """A party's view from a line such as `answer 2 shut, probe 3 open`; 99 attempts."""
    cells = [cell.split() for cell in counts.split(", ")]
    saw = {kind: int(number) for kind, number, _ in cells}
    opened = {kind: int(number) for kind, number, state in cells if state == "open"}
    return View(party, role, saw, 1_000, opened, dict.fromkeys(("answer", "grant", "mask-share", "probe"), 1), 99, 0)


def test_the_readme_shows_what_the_demonstration_prints() -> None:
    """Headings, words and the form of every line are the program's; `./dev torture` compares with a whole run."""
    result = Result(ok=True)
    result.leads = [
        {"rank": rank, "band": band, "agency": "eastfield-pd", "handle": "0f" * 16} for rank, band in ((1, "strong"), (2, "weak"))
    ]
    result.disclosed = {"agency": "eastfield-pd", "record_number": "E-2019-004417"}
    result.refused = [Refused("a search without a grant", "broker", "grant-not-logged", "R76")]
    parties = [
        sample_view("broker-vendor", "broker", "answer 2 shut, grant 6 shut, mask-share 2 shut, probe 5 shut"),
        sample_view("northport-pd", "requester", "answer 2 open, grant 6 shut, probe 5 shut"),
        sample_view("eastfield-pd", "holder", "answer 1 shut, grant 2 open, mask-share 1 shut, probe 3 open"),
        sample_view("lakeside-sheriff", "holder", "answer 1 shut, grant 2 open, mask-share 1 shut, probe 2 open"),
        sample_view("civic-board", "custodian", "grant 2 open, mask-share 2 open"),
    ]
    result.views = {view.party: view for view in parties}
    console = Console(width=100, file=io.StringIO())
    print_result(result, console)
    assert isinstance(console.file, io.StringIO)
    printed = shapes(console.file.getvalue())
    assert shown_in_order(readme_excerpt(), printed) is None, printed
    assert shown_in_order(["another line"], printed) == "another line"
    assert shown_in_order(list(reversed(readme_excerpt())), printed) is not None


@pytest.mark.torture
def test_the_readme_shows_what_a_whole_demonstration_prints(tmp_path: Path) -> None:
    argv = [str(Path(sys.executable).with_name("sealmatch")), "demo"]
    variables = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(argv, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600, check=True)  # noqa: S603
    assert shown_in_order(readme_excerpt(), shapes(done.stdout)) is None, done.stdout


# --- names of tests, links, pictures --------------------------------------------------------------------------------------


@pytest.mark.rule("R58")
@each_page(PAGES)
def test_named_tests_exist(page: Path) -> None:
    """Every `tests/….py` and every `tests/….py::test_…` of a page."""
    for path, _, function in re.findall(r"(tests/[\w/]+\.py)(::(\w+))?", page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), path
        if function:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}, (
                f"{path}::{function}"
            )


def anchors(text: str) -> set[str]:
    """The names under which a page's headings are linked to, as code hosts make them."""
    found: set[str] = set()
    inside = {number for block in blocks(text) for number in range(block.line, block.line + block.body.count("\n") + 2)}
    lines = [line for number, line in enumerate(text.splitlines(), start=1) if number not in inside]
    for heading in re.findall(r"^#{1,6} +(.+?) *$", "\n".join(lines), flags=re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        repeats = sum(other == name or re.fullmatch(re.escape(name) + r"-\d+", other) is not None for other in found)
        found.add(f"{name}-{repeats}" if repeats else name)
    return found


@each_page(PAGES)
def test_relative_links_resolve(page: Path) -> None:
    """Files, pictures and headings, on this page and on others; other sites are not asked."""
    text = prose(page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    links += re.findall(r"^\[[^\]]+\]: +(\S+)", text, flags=re.MULTILINE)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in (target, *target.parents), f"{link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link} names no heading"


def test_headings_have_the_names_that_links_use() -> None:
    assert anchors("# A, b & `c`\n\n## 2. Who's who?\n\n## Same\n\n## Same\n\n```\n# no heading\n```\n") == {
        "a-b--c",
        "2-whos-who",
        "same",
        "same-1",
    }


@pytest.mark.parametrize("picture", PICTURES, ids=named)
def test_pictures_are_well_formed_and_say_what_they_show(picture: Path) -> None:
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))  # noqa: S314 -- our own file
    assert root.tag == f"{svg}svg"
    assert root.get("viewBox")
    assert all((root.findtext(f"{svg}{name}") or "").strip() for name in ("title", "desc"))
    assert not {f"{svg}script", f"{svg}image"} & {element.tag for element in root.iter()}


def test_pictures_are_what_their_script_draws() -> None:
    for script in sorted((ROOT / "docs" / "images").glob("draw_*.py")):
        for name, content in runpy.run_path(str(script))["pictures"]().items():
            assert (script.parent / name).read_text(encoding="utf-8") == content, f"run {named(script)} again"
