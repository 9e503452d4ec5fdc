"""`bench log`: real files, a real store in a process of its own, checked results; a wrong result gives no figure."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agency_node.bench import log as bench
from agency_node.bench.errors import HolderEndedError, WrongResultError
from agency_node.bench.log import LogPlan, bench_log
from agency_node.bench.progress import Steps
from agency_node.bench.tables import print_log
from agency_node.cli import app
from agency_node.log_bundle import verify_bundle

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SMALL = LogPlan(600, 20, 4, 5)


def quiet() -> Steps:
    return Steps(Console(file=io.StringIO()))


def test_a_log_is_made_verified_and_appended_to_and_the_figures_fit_together() -> None:
    done = CliRunner().invoke(app, ["bench", "log", "--entries", "600", "--appends", "20", "--callers", "4", "--runs", "5", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["benchmark"], found["checked"], found["entries"], found["runs"]) == ("log", True, 600, 5)
    for name in ("verify", "append", "append_alone"):
        assert found[name]["runs"] == 5
        assert found[name]["min_s"] <= found[name]["median_s"] <= found[name]["max_s"]
    assert found["verify_s"] == found["verify"]["median_s"]
    assert found["entries_verified_per_second"] == pytest.approx(600 / found["verify_s"])
    assert found["appends_per_second"] == pytest.approx(20 / found["append"]["median_s"])
    assert found["bundle_bytes"] > 600 * 200


def test_the_table_shows_the_medians() -> None:
    console = Console(file=io.StringIO(), width=140)
    result = bench_log(SMALL, NOW, quiet())
    print_log(result, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO from above
    assert f"{result.appends_per_second:,.0f} a second" in text
    assert f"{result.verify.median:.2f} s" in text


def test_a_verification_that_takes_a_forged_entry_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_forge", lambda _: None)
    with pytest.raises(WrongResultError, match="taken for a true one"):
        bench_log(SMALL, NOW, quiet())


def test_a_verification_that_counts_wrong_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = verify_bundle

    def off_by_one(*given: Any, **named: Any) -> Any:

        return replace(real(*given, **named), size=599)

    monkeypatch.setattr(bench, "verify_bundle", off_by_one)
    with pytest.raises(WrongResultError, match="another log"):
        bench_log(SMALL, NOW, quiet())


PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from broker import append_bench
{change}
asyncio.run(append_bench.main(Path(sys.argv[1]), json.loads(sys.stdin.readline())))
"""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("append_bench.leaf_hash = lambda data: bytes(32)", WrongResultError),
        ("async def lost(self, *given): return 0, False\nappend_bench.LogStore.append = lost", WrongResultError),
        ("append_bench.Appending.round = None", HolderEndedError),
    ],
    ids=["another root", "nothing entered", "ended early"],
)
def test_a_log_that_does_not_hold_what_it_promised_is_no_figure(
    change: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is real; what it runs has one function broken."""
    real: Any = subprocess.run

    def run(argv: list[str], **named: Any) -> Any:
        named["stderr"] = subprocess.DEVNULL
        return real([argv[0], "-c", PROGRAM.format(change=change), *argv[3:]], **named)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(error):
        bench._append(SMALL, tmp_path)
