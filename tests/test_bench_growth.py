"""`bench growth`: every size has a packed gallery of its own, each checked; the deviation is what the figures say."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console

from agency_node.bench import growth, machine, synthetic
from agency_node.bench.errors import MemoryShortError, WrongResultError
from agency_node.bench.growth import GrowthPlan, bench_growth, deviation_percent
from agency_node.bench.progress import Steps
from agency_node.bench.scan import ask, checked_scans
from agency_node.bench.tables import print_growth
from crypto.epoch import Epoch
from crypto.ordered_probe import OrderedProbe
from crypto.parameters import Scales
from crypto.ring import U32

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def quiet() -> Steps:
    return Steps(Console(file=io.StringIO()))


def test_every_size_is_measured_beside_faiss_and_the_figures_fit_together() -> None:
    plan = GrowthPlan((3000, 1001, 3000), 64, 9, 2)
    result = bench_growth(plan, NOW, quiet())
    found = json.loads(json.dumps(result.as_json()))
    assert (found["benchmark"], found["checked"], found["dimensions"]) == ("growth", True, 64)
    assert [size["records"] for size in found["sizes"]] == [1001, 3000], "ascending, none twice"
    for size in found["sizes"]:
        assert size["scan_us_per_record"] == 1e6 * size["scan"]["median_s"] / size["records"]
        beside = size["beside_faiss"]
        assert size["faiss_us_per_record"] == 1e6 * beside["faiss_s"] / size["records"]
        assert (size["ratio"], beside["vectors"]) == (beside["ratio"], "float32")
        assert (size["scan"]["runs"], beside["faiss"]["runs"]) == (27, 18)
    times = [size["scan_us_per_record"] for size in found["sizes"]]
    assert found["deviation_percent"] == deviation_percent(times)
    console = Console(file=io.StringIO(), width=120)
    print_growth(result, console)
    text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO from above
    assert f"{found['deviation_percent']:.1f} %" in text
    assert "FAISS float32" in text


def test_the_deviation_is_the_largest_distance_from_the_median() -> None:
    assert deviation_percent([1.0, 2.0, 2.0, 2.1, 2.5]) == pytest.approx(50)
    assert deviation_percent([2.0, 2.0]) == 0


def test_without_faiss_the_scan_is_measured_alone() -> None:
    found = bench_growth(GrowthPlan((100, 2000), 64, 9, 1, with_faiss=False), NOW, quiet()).as_json()
    assert (found["faiss_us_per_record"], found["faiss_deviation_percent"]) == (None, None)


def test_a_wrong_word_is_found() -> None:
    epoch, source = Epoch.at(NOW), synthetic.SyntheticRecords(1500, 64, 1)
    packed = synthetic.pack_synthetic(source, epoch, quiet(), threads=2)
    asked = ask(source, packed.gallery, epoch)
    (checked,) = checked_scans(source, packed, epoch, asked, 2)
    expected = source.vectors(0, source.records).astype(np.float64) @ source.embedding_like(checked.sought_row)
    assert float(np.abs(checked.cosines - expected).max()) < checked.tolerance

    class Forgetful(synthetic.PackedSynthetic):
        def scan(self, probes: Sequence[OrderedProbe], threads: int) -> U32:
            sums = super().scan(probes, threads)
            sums[:, 0] = 0
            return sums

    with pytest.raises(WrongResultError):
        checked_scans(source, Forgetful(packed.gallery, 0.0), epoch, asked, 2)


def test_memory_for_all_galleries_at_once_is_asked_for_before_the_first_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = GrowthPlan((10_000, 20_000), 64, 9, 2)
    alone = synthetic.needed_bytes(20_000, Scales(64), beside_bytes=plan.float_bytes(20_000))
    assert plan.needed_bytes() == alone + synthetic.packed_bytes(10_000, Scales(64))
    monkeypatch.setattr(machine, "_memory", lambda _: alone)
    monkeypatch.setattr(growth, "pack_synthetic", None)
    with pytest.raises(MemoryShortError):
        bench_growth(plan, NOW, quiet())
