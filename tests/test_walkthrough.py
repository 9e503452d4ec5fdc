"""`docs/federation.md` is typed from its first line to its last: by processes, in an empty folder, in the page's order. Then a department
joins that federation as README's first day has it.

What a command prints is compared with what the page shows, in shape: ids and keys may be others but must be the same others wherever the
page repeats them, and go into later commands; days and moments may be any; `…` stands for anything. A command with `&` runs on, and what it
prints must have come before the next command that needs it is typed. Where the page shows an error, the command must fail.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from PIL import Image
from typer.testing import CliRunner

from agency_node.cli import app
from tests.test_docs import ROOT, Block, blocks, first_day

PAGE = ROOT / "docs" / "federation.md"
README = ROOT / "README.md"
PORT = "8440"
PATIENCE_S = 90.0
ID = re.compile(r"(?<![\w-])(?:[0-9a-f]{8,64}|[\w-]{43}|[\w-]{80,90})(?![\w-])")
"""What is new in every run: hexadecimal ids, their beginnings, and public keys."""
MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d\.\d\dZ)?")
READS = ("node status", "node disclose northport --search", "node disclose lakeside --handle", "node review", "log verify --broker")
"""Commands that may be asked again until what another process does has arrived."""
ALONE = ("cat ", "mkdir ", "sealmatch node enrol ", "sealmatch node init harbour ")
"""Commands that need nobody to serve: what runs on may still be starting."""


@dataclass(frozen=True)
class Typed:
    """One command of the page, the lines that go into it, and what the page shows below it."""

    line: int
    command: str
    shown: tuple[str, ...]

    @property
    def runs_on(self) -> bool:
        return self.command.endswith("&")


def typed(block: Block) -> list[Typed]:
    """The commands of a console block; a here-document belongs to its command."""
    found: list[Typed] = []
    lines = block.body.splitlines()
    number = 0
    while number < len(lines):
        start, command = number, lines[number].removeprefix("$ ")
        assert lines[number].startswith("$ "), f"line {block.line + 1 + number} is no command"
        number += 1
        while command.endswith("\\"):
            command, number = command + "\n" + lines[number], number + 1
        if here := re.search(r"<<'(\w+)'$", command):
            end = lines.index(here.group(1), number)
            command, number = "\n".join([command, *lines[number : end + 1]]), end + 1
        shown: list[str] = []
        while number < len(lines) and not lines[number].startswith("$ "):
            shown, number = [*shown, lines[number]], number + 1
        found.append(Typed(block.line + 1 + start, command, tuple(shown)))
    return found


def bare(text: str) -> str:
    """A line without table borders and with single spaces."""
    return " ".join(re.sub(r"[\u2500-\u257f]", " ", text).split())


@dataclass
class Terminal:
    """A folder, what runs on in it, and what the page's ids are in this run."""

    folder: Path
    port: str
    ids: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    running: list[tuple[subprocess.Popen[bytes], Typed, Path]] = field(default_factory=list)

    def type(self, one: Typed) -> None:
        """Run one command and compare."""
        command = self.real(one.command)
        if given := re.fullmatch(r"(?:export )?([A-Z_]+)=('[^']*'|\S+)", command):
            self.variables[given.group(1)] = given.group(2).strip("'")
            return
        if one.runs_on:
            path = self.folder / f"line-{one.line}.out"
            with path.open("wb") as out:
                self.running.append((self.start(f"exec {command.removesuffix('&')}", out), one, path))
            return
        if not command.startswith(ALONE):
            self.wait_for_those_that_run_on()
        until, rest_s = time.monotonic() + PATIENCE_S, 0.3
        again = any(read in command for read in READS) and not re.search(r"--(grant|withhold|rank)\b", command)
        while True:
            code, output = self.run(command)
            missing = self.compare(one, output)
            if missing is None or not again or time.monotonic() > until:
                break
            time.sleep(rest_s)
            rest_s = min(2 * rest_s, 5.0)  # each asking is a process, and what has not come soon comes within a minute
        fails = bool(one.shown) and re.match(r"sealmatch[ \w]*: ", one.shown[0]) is not None
        assert (code != 0) == fails, f"{PAGE.name}:{one.line} ended with exit {code}\n{output}"
        assert missing is None, f"{PAGE.name}:{one.line} does not print {missing!r} but\n{output}"

    def real(self, text: str) -> str:
        """The page's command with this run's port and ids."""
        text = text.replace(PORT, self.port)
        return ID.sub(lambda match: self.known(match.group()), text)

    def known(self, shown: str) -> str:
        """This run's value of an id, or the same many digits of the one that begins like it on the page."""
        for page, real in self.ids.items():
            if page.startswith(shown):
                return real[: len(shown)]
        return shown

    def compare(self, one: Typed, output: str) -> str | None:
        """The first shown line that the output does not hold, in order; None if it holds all. Ids are learned only if it does."""
        learned = dict(self.ids)
        lines = iter([bare(line) for line in output.splitlines()])
        for shown in map(bare, one.shown):
            pattern, names = self.pattern(shown.replace(PORT, self.port), learned)
            found = next((match for line in lines if (match := pattern.fullmatch(line))), None)
            if found is None:
                return shown
            learned |= dict(zip(names, found.groups(), strict=True))
        self.ids = learned
        return None

    @staticmethod
    def pattern(shown: str, learned: dict[str, str]) -> tuple[re.Pattern[str], list[str]]:
        """What a shown line stands for; groups for the ids that are new on it."""
        names: list[str] = []
        out = ""
        for part in re.split(rf"({ID.pattern}|{MOMENT.pattern.replace('(', '(?:')}|…)", shown):
            if part == "…":
                out += ".*"
            elif MOMENT.fullmatch(part):
                out += MOMENT.pattern.replace("(", "(?:")
            elif ID.fullmatch(part) and part in learned:
                out += re.escape(learned[part])
            elif ID.fullmatch(part):
                names.append(part)
                out += rf"([\w-]{{{len(part)}}})"
            else:
                out += re.escape(part)
        return re.compile(out.replace(r"\ .*", ".*").replace(r".*\ ", ".*")), names

    def environment(self) -> dict[str, str]:
        own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return os.environ | self.variables | threads | {"PATH": own, "NO_COLOR": "1"}

    def start(self, command: str, out: IO[bytes] | int) -> subprocess.Popen[bytes]:
        bash = shutil.which("bash") or "bash"
        return subprocess.Popen(  # noqa: S603  # the page's own commands
            [bash, "-ec", command], cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )

    def run(self, command: str) -> tuple[int, str]:
        process = self.start(command, subprocess.PIPE)
        said, _ = process.communicate(timeout=PATIENCE_S * 2)
        return process.returncode, said.decode()

    def wait_for_those_that_run_on(self) -> None:
        for process, one, path in self.running:
            until = time.monotonic() + PATIENCE_S
            while (missing := self.compare(one, path.read_text())) is not None:
                assert process.poll() is None, f"{PAGE.name}:{one.line} has ended\n{path.read_text()}"
                assert time.monotonic() < until, f"{PAGE.name}:{one.line} does not print {missing!r} but\n{path.read_text()}"
                time.sleep(0.1)

    def close(self) -> None:
        """End what runs on: SIGTERM must do."""
        for process, _, _ in self.running:
            process.send_signal(signal.SIGTERM)
        for process, _, _ in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def test_the_page_can_be_typed_from_top_to_bottom(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, free_port())
    commands = 0
    try:
        for block in blocks(PAGE.read_text(encoding="utf-8")):
            if block.language == "python":
                (tmp_path / "snippet.py").write_text(block.body, encoding="utf-8")
                code, output = terminal.run("python snippet.py")
                assert code == 0, f"{PAGE.name}:{block.line}\n{output}"
            for one in typed(block) if block.language == "console" else []:
                terminal.type(one)
                commands += 1
        type_the_first_day(terminal)
    finally:
        terminal.close()
    assert commands > 40
    assert all(process.returncode == 0 for process, _, _ in terminal.running)
    (photograph,) = (tmp_path / "disclosed").iterdir()
    with Image.open(photograph) as disclosed, Image.open(tmp_path / "lakeside-photographs" / "front.jpg") as enrolled:
        assert disclosed.tobytes() == enrolled.tobytes()  # the file itself lost its comments when it was enrolled
    assert (tmp_path / "look.jpg").read_bytes() == (tmp_path / "still.jpg").read_bytes()


def type_the_first_day(terminal: Terminal) -> None:
    """README's commands for a new department, which brings its folder of photographs; in between the root holders list it."""
    shutil.copytree(terminal.folder / "lakeside-photographs", terminal.folder / "photographs")
    shutil.copy(terminal.folder / "photographs" / "front.jpg", terminal.folder / "photographs" / "profile.jpg")
    day = first_day(README.read_text(encoding="utf-8"))
    (settings,) = (block.body for block in blocks(day) if block.language == "toml")
    lines = [one for block in blocks(day) if block.language == "console" for one in typed(block)]
    for one in lines:
        terminal.type(one)
        if one.command.startswith("sealmatch node init"):
            the_roots_list_it(terminal)
            with (terminal.folder / "harbour" / "node.toml").open("a") as file:
                file.write(f"{settings}settle_s = 0\nevery_s = 1\n")
        elif one.command == "mkdir harbour/drop":
            shutil.copytree(terminal.folder / "photographs", terminal.folder / "harbour" / "drop" / "tonight")
            table = (terminal.folder / "bookings.csv").read_text().replace("H-2021", "H-2022")
            (terminal.folder / "harbour" / "drop" / "tonight" / "bookings.csv").write_text(table)
    terminal.wait_for_those_that_run_on()
    done, until = terminal.folder / "harbour" / "drop" / "done", time.monotonic() + PATIENCE_S
    while not (done.is_dir() and any(done.iterdir())):
        assert time.monotonic() < until
        time.sleep(0.1)
    (report,) = done.glob("*/refused.csv")
    assert report.read_text().count("H-2022-000118") == 1
    assert [one.command.split()[2] for one in lines if one.command.startswith("sealmatch")] == ["init", "enrol", "serve"]
    assert (terminal.folder / "refused.csv").read_text().count("source-class") == 1


def the_roots_list_it(terminal: Terminal) -> None:
    """Version 2 of the page's roster, with the new department; in this process, since none of it is new."""
    at = terminal.folder
    entries = [
        word
        for name in ("northport", "eastfield", "lakeside", "board", "harbour")
        for word in ("--agency", f"{at}/{name}/roster-entry.json")
    ]
    entries += [word for name in ("detective", "counsel", "lakeside-counsel") for word in ("--person", f"{at}/people/{name}.json")]
    roster = f"{at}/roster-2.json"
    draft = ["roster", "draft", "--root-set", f"{at}/root-set.json", "--broker", f"{at}/broker.json", *entries, "--version", "2"]
    signed = [["roster", "sign", roster, "--key", f"{at}/roots/{name}.key"] for name in ("board", "northport")]
    for words in ([*draft, "--out", roster], *signed, ["broker", "roster", f"{at}/broker", roster]):
        done = CliRunner().invoke(app, words, env=terminal.variables)
        assert done.exit_code == 0, done.output


def test_another_id_in_a_later_line_fails() -> None:
    """The comparison can fail: a repeated id that differs, a line that is missing, an order that is another."""
    page = Typed(1, "", ("drafted 61847f8e38c2915e on 2026-11-23", "search 61847f8e38c2915e: …, 2 holders"))
    good = "drafted aaaaaaaaaaaaaaaa on 2031-01-02\n│ search aaaaaaaaaaaaaaaa: sent, 2 holders │\n"
    terminal = Terminal(Path(), "1")
    assert terminal.compare(page, good) is None
    assert terminal.real("show 61847f8e") == "show aaaaaaaa"
    for wrong in (good.replace("search a", "search b"), good.replace("2 h", "3 h"), "\n".join(reversed(good.splitlines())), ""):
        assert Terminal(Path(), "1").compare(page, wrong) is not None, wrong
