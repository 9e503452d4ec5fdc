"""The benchmarks run for real at a small size: their figures fit together, their results are right, and a wrong result is no figure.

No test here asserts how long anything takes. Invariants of the figures themselves (which function is timed, in which turns) stand in
`agency_node.bench`; the command line around them is tested in `test_cli`.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from agency_node.bench import accuracy, checking, clear, machine, synthetic, timing
from agency_node.bench.answer import STEPS, AnswerPlan, bench_answer
from agency_node.bench.errors import BenchmarkError, FaissMissingError, GalleryTooLargeError, MemoryShortError, WrongResultError
from agency_node.bench.progress import Steps
from agency_node.bench.scan import ScanPlan, ScanResult, bench_scan
from agency_node.bench.tables import print_answer, print_scan
from agency_node.commands.bench import MAX_RECORDS
from agency_node.faces.synthetic_embedder import synthetic_model
from crypto.epoch import Epoch
from crypto.gallery import PackedGallery
from crypto.layout import Layout
from crypto.limits import MAX_CHUNKS
from crypto.parameters import Scales
from crypto.probe import make_probe
from crypto.ring import N
from crypto.scan import scan_words

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SMALL = ScanPlan(records=3000, dimensions=128, runs=9, threads=2)
SOURCE = synthetic.SyntheticRecords(3000, 128, 1)


def quiet() -> Steps:
    return Steps(Console(file=io.StringIO()))


def shown(print_result: Any, result: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_result(result, console)
    text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO from above
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="module")
def scanned() -> ScanResult:
    return bench_scan(SMALL, NOW, quiet())


# --- the command, as a person runs it -----------------------------------------------------------------------------------


def test_bench_scan_prints_one_object_whose_figures_fit_together() -> None:
    program = "from agency_node.cli import main; main()"
    arguments = ["bench", "scan", "--records", "3000", "--dimensions", "128", "--runs", "9", "--json"]
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603

    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1
    check_scan_object(json.loads(run.stdout), records=3000, dimensions=128, runs=9, probes=1)


def check_scan_object(found: dict[str, Any], *, records: int, dimensions: int, runs: int, probes: int) -> None:
    assert (found["benchmark"], found["records"], found["dimensions"]) == ("scan", records, dimensions)
    assert (found["runs"], found["probes"], found["checked"]) == (runs, probes, True)
    assert datetime.fromisoformat(found["date"]).utcoffset() is not None

    assert found["ratio"] == found["scan_s"] / found["faiss_s"]
    assert found["scan_s_per_probe"] == found["scan_s"] / probes
    for form, suffix in (("float32", ""), ("fp16", "_fp16"), ("8bit_direct_signed", "_8bit_direct_signed")):
        best = min((setup for setup in found["setups"] if setup["vectors"] == form), key=lambda setup: setup["faiss_s"])
        names = [f"faiss{suffix}_s", f"faiss{suffix}_setup", f"ratio{suffix}"]
        assert [found[name] for name in names] == [best["faiss_s"], best["name"], best["ratio"]]
    named = next(setup for setup in found["setups"] if setup["name"] == found["faiss_setup"])
    assert [found[key] for key in ("ratio", "scan_s", "faiss_s", "threads")] == [
        named[key] for key in ("ratio", "scan_s", "faiss_s", "threads")
    ]
    for setup in found["setups"]:
        assert setup["faiss"]["median_s"] == setup["faiss_s"]
        assert setup["faiss"]["runs"] >= runs
        assert setup["scan"][str(setup["threads"])]["median_s"] == setup["scan_s"]
        for times in (setup["faiss"], *setup["scan"].values()):
            assert 0 < times["min_s"] <= times["median_s"] <= times["max_s"]

    slots = (synthetic.chunks_of(records, Scales(dimensions)) - 1) * N
    assert found["packed_bytes"] == 27 * slots * -(-dimensions // 32) * 32 // 8
    assert found["packed_bytes_per_record"] == found["packed_bytes"] / records
    assert 27 * (slots + N) / 8 < found["answer_bytes"] < 27 * (slots + N) / 8 + 128
    assert found["error_rms"] < (0.0015 if dimensions >= 128 else 4 * found["error_derived_sd"])  # of one record, perhaps
    assert found["error_rms"] <= found["error_largest"] < 0.007
    assert found["bytes_per_record"] == found["answer_bytes"] / records
    assert found["templates_per_second"] == records / found["pack_s"]
    assert found["scan_bytes_per_second"] == found["packed_bytes"] / found["scan_s"]
    assert {"cores", "cpu", "python", "numba", "faiss"} <= found["machine"].keys()


def test_every_faiss_set_up_is_measured(scanned: ScanResult) -> None:
    kinds = ("IndexFlatIP", "IndexScalarQuantizer fp16", "IndexScalarQuantizer 8bit_direct_signed")
    setups = iter(scanned.setups)
    for kind, form in zip(kinds, clear.VectorForm, strict=True):
        one, two, shards = next(setups), next(setups), next(setups)
        assert (one.name, two.name) == (f"{kind}, 1 thread", f"{kind}, 2 threads")
        assert str(shards.name).startswith(f"IndexShards, 2 x {kind}")
        assert {one.form, two.form, shards.form} == {form}
    assert next(setups, None) is None
    check_scan_object(scanned.as_json(), records=3000, dimensions=128, runs=9, probes=1)


def test_the_scan_and_faiss_take_turns() -> None:
    called: list[str] = []
    turns = [("1", lambda: called.append("ours")), ("FAISS", lambda: called.append("FAISS"))]
    times = timing.alternate(turns, 3, lambda: called.append("round"))
    assert called == ["ours", "FAISS"] + ["ours", "FAISS", "round"] * 3
    assert {name: len(one.seconds) for name, one in times.items()} == {"1": 3, "FAISS": 3}


def test_several_probes_share_one_pass() -> None:
    result = bench_scan(replace(SMALL, probes=3, threads=1), NOW, quiet())
    assert len({one.sought_row for one in result.checked}) == 3
    check_scan_object(result.as_json(), records=3000, dimensions=128, runs=9, probes=3)
    assert "3 probes in one pass" in shown(print_scan, result)


def test_one_thread_and_one_record() -> None:
    result = bench_scan(replace(SMALL, records=1, dimensions=8, threads=1), NOW, quiet())
    assert [setup.name for setup in result.setups if setup.form is clear.VectorForm.FLOAT32] == ["IndexFlatIP, 1 thread"]
    check_scan_object(result.as_json(), records=1, dimensions=8, runs=9, probes=1)


def test_tables_say_what_the_object_says(scanned: ScanResult) -> None:
    text = " ".join(shown(print_scan, scanned).split())
    found = scanned.as_json()
    assert f"{found['ratio']:.2f}" in text
    assert f"{found['answer_bytes']:,} bytes" in text
    assert f"rms {found['error_rms']:.5f}" in text
    assert "the sought record comes first" in " ".join(text.replace("│", " ").split())
    assert all(f"ratio to FAISS {form}" in text and f"{found[f'ratio_{form}']:.2f}," in text for form in ("fp16", "8bit_direct_signed"))
    without = replace(scanned, setups=(replace(scanned.setups[0], name=None, form=None, faiss=None),))
    assert "not measured" in shown(print_scan, without)


# --- a wrong result is no figure ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened() -> dict[str, Any]:
    """A gallery of synthetic records, a probe for one of them, and the scan's sums."""
    epoch = Epoch.at(NOW)
    model = synthetic_model(128)
    layout = Layout.draw(np.arange(3000, dtype=np.int64), model.scales)
    gallery = PackedGallery.pack(model, layout, SOURCE.templates(model, lambda: None))
    probe, key = make_probe(model, model.probe_vector(SOURCE.embedding_like(1500)), epoch)
    sums = scan_words(gallery.words, [probe.ordered])[0]
    return {"source": SOURCE, "gallery": gallery, "epoch": epoch, "sought_row": 1500, "key": key, "sums": sums}


def test_a_right_scan_is_opened_and_agrees_with_every_inner_product(opened: dict[str, Any]) -> None:
    checked = checking.check_scan(**opened)
    cosines = SOURCE.vectors(0, 3000).astype(np.float64) @ SOURCE.embedding_like(1500)
    assert checked.found_row == 1500
    assert float(np.abs(checked.cosines - cosines).max()) < checked.tolerance
    assert abs(checked.cosines[1500] - synthetic.LIKENESS) < checked.tolerance


def test_a_scan_that_forgets_a_chunk_is_refused(opened: dict[str, Any]) -> None:
    sums = opened["sums"].copy()
    sums[int(np.flatnonzero(opened["gallery"].layout.rows == 1500)[0]) // N] = 0
    with pytest.raises(WrongResultError, match="another record"):
        checking.check_scan(**{**opened, "sums": sums})


def test_a_scan_that_is_wrong_elsewhere_is_refused(opened: dict[str, Any]) -> None:
    found = int(np.flatnonzero(opened["gallery"].layout.rows == 1500)[0]) // N
    sums = opened["sums"].copy()
    sums[(found + 1) % len(sums)] = opened["gallery"].fixed_part(opened["epoch"])[0]
    with pytest.raises(WrongResultError):
        checking.check_scan(**{**opened, "sums": sums})


def test_another_search_s_key_is_refused(opened: dict[str, Any]) -> None:
    model = opened["gallery"].model
    _, other = make_probe(model, model.probe_vector(SOURCE.embedding_like(1500)), opened["epoch"])
    with pytest.raises(WrongResultError):
        checking.check_scan(**{**opened, "key": other})


@pytest.mark.parametrize(("dimensions", "refused"), [(128, True), (64, False)])
def test_the_error_s_bounds_have_no_allowance_from_128_dimensions_on(
    dimensions: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound below the error that 3,000 scores are sure to show: it is refused where the bound is flat, and below 128 dimensions, where
    seven derived deviations count, it is not."""
    epoch, model = Epoch.at(NOW), synthetic_model(dimensions)
    source = synthetic.SyntheticRecords(3000, dimensions, seed=3)
    layout = Layout.draw(np.arange(3000, dtype=np.int64), model.scales)
    gallery = PackedGallery.pack(model, layout, source.templates(model, lambda: None))
    probe, key = make_probe(model, model.probe_vector(source.embedding_like(1500)), epoch)
    found = accuracy.measure_accuracy(source, gallery, probe, key, 1500)
    assert found.rms == pytest.approx(model.scales.error_sd, rel=0.08)
    assert 2.5 * found.derived_sd < found.largest < 7 * found.derived_sd
    for bound, value in (("MAX_ERROR", 2 * found.derived_sd), ("MAX_RMS", found.derived_sd / 2)):
        with monkeypatch.context() as patched:
            patched.setattr(accuracy, bound, value)
            with pytest.raises(WrongResultError, match="beyond its bounds") if refused else contextlib.nullcontext():
                accuracy.measure_accuracy(source, gallery, probe, key, 1500)


def test_faiss_must_find_the_same_record_and_the_same_scores(opened: dict[str, Any]) -> None:
    checked = checking.check_scan(**opened)
    rows = np.argsort(-checked.cosines)[:3]
    right = clear.Nearest(rows[None], checked.cosines[rows][None].astype(np.float32))
    checked.check_against("right", right, 0)
    with pytest.raises(WrongResultError, match="different records"):
        checked.check_against("other order", replace(right, rows=right.rows[:, ::-1]), 0)
    with pytest.raises(WrongResultError, match="different scores"):
        checked.check_against("other scores", replace(right, products=right.products - np.float32(0.02)), 0)


@pytest.mark.parametrize("form", clear.VectorForm)
def test_each_form_finds_the_cosines_to_its_own_precision_and_no_better(opened: dict[str, Any], form: clear.VectorForm) -> None:
    """Against float64, so that a tolerance that is too wide to notice another form's error would show."""
    cosines = SOURCE.vectors(0, 3000).astype(np.float64) @ SOURCE.embedding_like(1500)
    checked = checking.check_scan(**opened)
    queries = SOURCE.embedding_like(1500)[None].astype(np.float32)
    setups = []
    for setup in clear.clear_setups(SOURCE, queries, 2, quiet(), [form]):
        setups.append(setup)
        found = setup.search()
        errors = np.abs(found.products[0] * setup.product_unit - cosines[found.rows[0]])
        assert setup.tolerance / 100 <= errors.max() <= setup.tolerance + 1e-6
        checked.check_against(setup.name, found, 0, rounding=setup.tolerance, product_unit=setup.product_unit)
        with pytest.raises(WrongResultError, match="different scores"):
            checked.check_against(setup.name, found, 0, rounding=setup.tolerance, product_unit=1.1 * setup.product_unit)
    assert [setup.form for setup in setups] == [form] * 3


# --- bench answer -------------------------------------------------------------------------------------------------------


def test_bench_answer_times_every_step_of_a_search() -> None:
    result = bench_answer(AnswerPlan(records=3000, dimensions=128, runs=2, threads=2), NOW, quiet())
    found = json.loads(json.dumps(result.as_json()))
    assert [(step["party"], step["step"]) for step in found["steps"]] == list(STEPS)
    assert all(step["runs"] == 2 for step in found["steps"])
    assert found["checked"] is True
    assert found["total_s"] == found["total"]["median_s"] > 0

    sent = {step["step"]: step["bytes"] for step in found["steps"] if step["bytes"]}
    assert list(sent) == ["probe written and read", "answer written and read", "opened values written and read"]
    assert sent["opened values written and read"] > 2 * 4 * N

    text = shown(print_answer, result)
    assert all(step in text for _, step in STEPS)
    assert "whole search" in text


# --- synthetic records ------------------------------------------------------------------------------------------------


def test_vectors_are_unit_and_the_same_however_they_are_asked_for() -> None:
    whole = SOURCE.vectors(0, 3000)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    assert (SOURCE.vectors(1000, 2100) == whole[1000:2100]).all()
    written = np.empty((1777, 128), np.float32)
    SOURCE.write(written, 900, lambda: None)
    assert (written == whole[900:2677]).all()
    assert (synthetic.SyntheticRecords(3000, 128, 2).vectors(0, 10) != whole[:10]).any()


def test_a_probe_is_like_its_record_and_no_other() -> None:
    cosines = SOURCE.vectors(0, 3000) @ SOURCE.embedding_like(77)
    assert abs(cosines[77] - synthetic.LIKENESS) < 1e-5
    assert np.delete(cosines, 77).max() < synthetic.LIKENESS - 0.2


def test_the_largest_gallery_that_the_command_takes_fits_into_an_answer() -> None:
    assert synthetic.chunks_of(MAX_RECORDS, Scales(128)) <= MAX_CHUNKS
    assert synthetic.chunks_of(MAX_RECORDS, Scales(64)) > MAX_CHUNKS
    with pytest.raises(GalleryTooLargeError, match="take fewer --records"):
        bench_answer(AnswerPlan(records=MAX_RECORDS, dimensions=64, runs=1, threads=1), NOW, quiet())


# --- what a machine may lack --------------------------------------------------------------------------------------------


def test_without_faiss_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(FaissMissingError, match=r"\./dev setup"):
        bench_scan(SMALL, NOW, quiet())
    result = bench_scan(replace(SMALL, records=300, with_faiss=False), NOW, quiet())
    found = result.as_json()
    assert (found["faiss_s"], found["faiss_setup"], found["ratio"], found["checked"]) == (None, None, None, True)


def test_loading_faiss_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    clear.load_faiss()
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    clear.load_faiss()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_faiss_keeps_its_number_of_threads_and_one_index_at_a_time() -> None:
    faiss = clear.load_faiss()
    before = faiss.omp_get_max_threads()
    kept = []
    for setup in clear.clear_setups(SOURCE, SOURCE.vectors(7, 8), 2, quiet()):
        kept.append(setup)
        assert setup.search().rows[0, 0] == 7
    assert faiss.omp_get_max_threads() == before
    with pytest.raises(IndexError):
        kept[-1].search()


def told_by_the_system(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """What `/proc` says from now on, or that there is none; every other file reads as ever."""
    real = Path.read_text

    def read_text(self: Path, *args: Any, **named: Any) -> str:
        if not str(self).startswith("/proc/"):
            return real(self, *args, **named)
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", read_text)


def test_too_little_memory_is_said_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    told_by_the_system(monkeypatch, "MemTotal: 24000000 kB\nMemAvailable: 20971520 kB\n")
    assert machine.Machine.here().memory_bytes == 24_000_000 * 1024
    machine.check_memory(20 << 30)
    with pytest.raises(MemoryShortError, match=r"about 21\.0 GiB of memory and 20\.0 GiB are free: take fewer --records"):
        machine.check_memory(21 << 30)
    with pytest.raises(MemoryShortError):
        bench_answer(AnswerPlan(records=MAX_RECORDS, dimensions=632, runs=1, threads=1), NOW, quiet())


def test_where_the_system_tells_no_memory_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told_by_the_system(monkeypatch, None)
    machine.check_memory(1 << 60)
    assert machine.Machine.here().memory_bytes == 0


def test_two_and_a_half_million_records_need_less_than_twenty_gibibytes() -> None:
    """What the benchmark asks for before it starts, at the size that it is meant for: both galleries at once."""
    assert synthetic.needed_bytes(2_500_000, Scales(512), beside_bytes=4 * 2_500_000 * 512) < 20 << 30


def test_the_machine_s_facts_hold_no_path_and_no_name_of_it() -> None:
    facts = machine.Machine.here()
    assert facts.cores >= 1
    assert facts.memory_bytes >= 0
    text = " ".join(str(value) for value in vars(facts).values())
    assert os.uname().nodename not in text.split()
    assert os.path.expanduser("~") not in text


def test_every_error_is_a_benchmark_error() -> None:
    assert all(issubclass(kind, BenchmarkError) for kind in (FaissMissingError, GalleryTooLargeError, MemoryShortError, WrongResultError))


def test_progress_on_a_terminal_is_a_bar_and_elsewhere_a_line_for_what_took_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    for timed in (False, True):
        with Steps(Console(file=terminal, force_terminal=True, width=80)).step("packing", 2, timed=timed) as done:
            done()
            done()
    assert "packing" in terminal.getvalue()

    plain = io.StringIO()
    clock = iter([0.0, 1.0, 10.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    for what in ("short", "long"):
        with Steps(Console(file=plain)).step(what) as done:
            done()
    assert plain.getvalue() == "long: 3.0 s\n"
