"""Pictures of results: well formed, titled, the same bytes twice, with units, machine, date; what is no result is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from typer.testing import CliRunner

from agency_node.bench import plots
from agency_node.bench.errors import PlotError
from agency_node.cli import app

MACHINE = {"cpu": "A processor", "cores": 2, "system": "Linux x86_64", "python": "3.11.7", "numba": "0.68.1", "faiss": "1.15.1"}
COMMON: dict[str, Any] = {"date": "2026-11-23T12:00:00+00:00", "dimensions": 512, "records": 5000, "runs": 9, "machine": MACHINE}
TIMES = {"scan_us_per_record": 0.08, "faiss_us_per_record": 0.09}
STEP = {"median_s": 0.2, "bytes": None}
PEER = {"records": 100, "threads": 2, "us_per_record": 0.08, "times_ours": 1.0, "encrypted": True}
RESULTS: dict[str, dict[str, Any]] = {
    "growth": {**COMMON, **TIMES, "deviation_percent": 2.5, "sizes": [{"records": size, **TIMES} for size in (1000, 2000, 5000)]},
    "answer": {**COMMON, "steps": [{"party": "holder", "step": "scan", **STEP}, {"party": "requester", "step": "opened", **STEP}]},
    "search": {**COMMON, "holders": 2, "steps": [{"name": "probe made", **STEP}, {"name": "holders scan", **STEP}]},
    "peers": {**COMMON, "peers": [{**PEER, "name": "Sealmatch scan"}, {**PEER, "name": "FAISS", "encrypted": False}]},
}
SVG = "{http://www.w3.org/2000/svg}"


def with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters as text and not as outlines, so that a test can read them."""
    monkeypatch.setitem(plots._SETTINGS, "svg.fonttype", "none")


@pytest.mark.parametrize("kind", RESULTS)
def test_a_picture_is_titled_and_says_units_machine_and_date(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_words(monkeypatch)
    drawn = []
    before = dict(mpl.rcParams)
    for name in ("one.svg", "two.svg"):
        plots.plot({"benchmark": kind, **RESULTS[kind]}, tmp_path / name)
        drawn.append((tmp_path / name).read_text(encoding="utf-8"))
    assert drawn[0] == drawn[1], "the same result is the same picture"
    assert dict(mpl.rcParams) == before
    root = ElementTree.fromstring(drawn[0])  # noqa: S314 -- our own file
    assert root.get("viewBox")
    assert all((root.findtext(f"{SVG}{name}") or "").strip() for name in ("title", "desc"))
    assert not {f"{SVG}script", f"{SVG}image"} & {element.tag for element in root.iter()}
    text = " ".join(" ".join(root.itertext()).split())
    assert "A processor, 2 cores" in text
    assert "2026-11-23" in text
    unit = {"growth": "one probe, ms", "peers": "microseconds a record"}.get(kind, "ms since the search began")
    assert unit in text
    if kind in {"growth", "peers"}:
        assert "FAISS float32, in the clear" in text


def test_the_command_draws_what_json_wrote(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"benchmark": "peers", **RESULTS["peers"]}), encoding="utf-8")
    done = CliRunner().invoke(app, ["bench", "plot", str(tmp_path / "result.json"), str(tmp_path / "peers.svg"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"picture": str(tmp_path / "peers.svg")}
    assert (tmp_path / "peers.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_growth_without_faiss_has_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_words(monkeypatch)
    sizes = [{**size, "faiss_us_per_record": None} for size in RESULTS["growth"]["sizes"]]
    plots.plot({"benchmark": "growth", **RESULTS["growth"], "sizes": sizes}, tmp_path / "growth.svg")
    assert "FAISS float32" not in (tmp_path / "growth.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("found", "name", "words"),
    [
        ({}, "a.svg", "no result that can be drawn: take one of bench answer, growth, peers, search"),
        ([], "a.svg", "no result that can be drawn"),
        ({"benchmark": "scan"}, "a.svg", "no result that can be drawn"),
        ({"benchmark": "growth", **RESULTS["growth"]}, "a.png", "let it end in .svg"),
        ({"benchmark": "growth", **RESULTS["growth"]}, "missing/a.svg", "choose another folder"),
        ({"benchmark": "growth", **RESULTS["growth"], "sizes": []}, "a.svg", "run the benchmark again"),
        ({"benchmark": "answer", **RESULTS["answer"], "steps": [{"party": "x"}]}, "a.svg", "run the benchmark again"),
        ({"benchmark": "peers", **RESULTS["peers"], "date": "yesterday"}, "a.svg", "run the benchmark again"),
    ],
)
def test_what_is_no_result_is_refused(found: object, name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(PlotError, match=words):
        plots.plot(found, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_file_that_is_none_truncated_or_random_is_refused(tmp_path: Path) -> None:
    whole = json.dumps({"benchmark": "peers", **RESULTS["peers"]}).encode()
    for content in (b"", whole[:-5], random.Random(1).randbytes(200), b"[" * 100_000, b"\xff\xfe{}"):
        (tmp_path / "result.json").write_bytes(content)
        with pytest.raises(PlotError, match="cannot be read as JSON"):
            plots.plot_file(tmp_path / "result.json", tmp_path / "a.svg")
    with pytest.raises(PlotError, match="cannot be read as JSON"):
        plots.plot_file(tmp_path / "missing.json", tmp_path / "a.svg")
    with (tmp_path / "large.json").open("wb") as large:
        large.truncate(17 << 20)
    with pytest.raises(PlotError, match="too large"):
        plots.plot_file(tmp_path / "large.json", tmp_path / "a.svg")


def test_without_matplotlib_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PlotError, match="install the demo extra"):
        plots.plot({"benchmark": "peers", **RESULTS["peers"]}, tmp_path / "a.svg")
