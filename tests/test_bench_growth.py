"""`bench growth`: sizes are prefixes of one packed gallery, each checked; the deviation is what the figures say."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console

from agency_node.bench import synthetic
from agency_node.bench.errors import WrongResultError
from agency_node.bench.growth import GrowthPlan, bench_growth, deviation_percent
from agency_node.bench.progress import Steps
from agency_node.bench.scan import ask, checked_scans
from agency_node.bench.tables import print_growth
from crypto.epoch import Epoch
from crypto.parameters import Scales
from crypto.ring import U32

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
EACH = synthetic.records_a_chunk(Scales(64))


def quiet() -> Steps:
    return Steps(Console(file=io.StringIO()))


def test_every_size_is_measured_beside_faiss_and_the_figures_fit_together() -> None:
    plan = GrowthPlan((2 * EACH + 1, EACH - 5, 3 * EACH, EACH), 64, 9, 2)
    result = bench_growth(plan, NOW, quiet())
    found = json.loads(json.dumps(result.as_json()))
    assert (found["benchmark"], found["checked"], found["dimensions"]) == ("growth", True, 64)
    assert [size["records"] for size in found["sizes"]] == [EACH, 3 * EACH], "rounded up to full chunks, ascending, none twice"
    for size in found["sizes"]:
        assert size["scan_us_per_record"] == 1e6 * size["scan"]["median_s"] / size["records"]
        beside = size["beside_faiss"]
        assert size["faiss_us_per_record"] == 1e6 * beside["faiss_s"] / size["records"]
        assert (size["ratio"], beside["vectors"]) == (beside["ratio"], "float32")
        assert min(size["scan"]["runs"], beside["faiss"]["runs"]) >= 9
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


def test_a_size_s_first_chunks_are_the_first_records_and_a_wrong_word_is_found() -> None:
    epoch, source = Epoch.at(NOW), synthetic.SyntheticRecords(3 * EACH, 64, 1)
    packed = synthetic.pack_synthetic(source, epoch, quiet(), threads=2, ascending=True)
    part = packed.first_chunks(2)
    assert 3 * part.packed_bytes == 2 * packed.packed_bytes
    few = synthetic.SyntheticRecords(2 * EACH, 64, 1)
    asked = ask(few, part.gallery, epoch)
    (checked,) = checked_scans(few, part, epoch, asked, 2)
    expected = few.vectors(0, few.records).astype(np.float64) @ few.embedding_like(checked.sought_row)
    assert float(np.abs(checked.cosines - expected).max()) < checked.tolerance

    class Forgetful(synthetic.PackedSynthetic):
        def scan(self, probes_eval: U32, threads: int) -> U32:
            sums = super().scan(probes_eval, threads)
            sums[:, 0] = 0
            return sums

    with pytest.raises(WrongResultError):
        checked_scans(few, Forgetful(part.gallery, 0.0), epoch, asked, 2)
