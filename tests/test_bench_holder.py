"""`bench holder`: a real node folder, two real processes, checked answers; a process that finds a wrong result gives no figure."""

from __future__ import annotations

import io
import json
import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from agency_node.bench import holder_process
from agency_node.bench.errors import HolderEndedError, WrongResultError
from agency_node.bench.holder import HolderPlan, bench_holder
from agency_node.bench.holder_process import LEAST_RENEWALS
from agency_node.bench.machine import Resident
from agency_node.bench.progress import Steps
from agency_node.bench.tables import print_holder

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SMALL = HolderPlan(3000, 64, 9, 2)


def quiet() -> Steps:
    return Steps(Console(file=io.StringIO()))


def test_a_holder_is_measured_from_its_folder_and_the_figures_fit_together() -> None:
    result = bench_holder(SMALL, NOW, quiet())
    found = json.loads(json.dumps(result.as_json()))
    assert (found["benchmark"], found["checked"], found["records"]) == ("holder", True, 3000)
    assert found["start_s"] >= sum(step["s"] for step in found["start_steps"])
    packing = {step["step"]: step["s"] for step in found["pack_steps"]}
    assert {"templates decrypted", "layout drawn", "templates packed", "part of the month computed"} <= packing.keys()
    assert found["templates_per_second"] == 3000 / packing["templates packed"]
    assert found["float32_bytes"] == 4 * 3000 * 64
    assert found["resident_ratio"] == found["serving"]["now"] / found["float32_bytes"]
    assert found["renewal_peak_ratio"] == found["renewal_peak_bytes"] / found["float32_bytes"]
    assert found["serving"]["peak"] >= found["serving"]["now"] > found["packed_bytes"]
    assert found["renewal_peak_bytes"] >= found["packed_bytes"]
    assert found["waiting_ratio"] == pytest.approx(found["waiting"]["median_s"] / found["waiting_searches"] / found["search_s"])
    for name in ("search", "waiting", "add", "expunge"):
        assert found[name]["runs"] >= 9
    each = found["renewal"]["each_s"]
    assert len(each) == found["renewal"]["runs"] >= LEAST_RENEWALS
    assert min(each) <= found["renewal_s"] <= max(each)
    assert found["slowdown_during_renewal"] is None or found["search_during_renewal"]["runs"] >= 1
    console = Console(file=io.StringIO(), width=120)
    print_holder(result, console)
    text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO from above
    assert f"{found['waiting_ratio']:.2f} of one alone" in text
    assert f"{found['renewal_peak_ratio']:.2f}" in text


PROGRAM = """
import sys
from agency_node.bench import holder_process
{change}
holder_process.main(*sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("holder_process.ServedGallery.expunge = lambda self, row: None", WrongResultError, "an expunged record is still released"),
        (
            "from crypto.ring import N\nholder_process.ServedGallery.add = lambda self, number, template: len(self._records.rows()) + 1",
            WrongResultError,
            "does not release the record that was sought",
        ),
        ("holder_process._Holder.changing = lambda self, served: sys.exit(3)", HolderEndedError, "ended before it was done"),
    ],
)
def test_a_wrong_result_or_an_early_end_is_no_figure(
    change: str, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process runs with one function broken; the processes are real, only what they run is another program."""
    real: Any = subprocess.Popen

    def started(argv: list[str], **named: Any) -> Any:
        return real([argv[0], "-c", PROGRAM.format(change=change), *argv[3:]], **named)

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(error, match=words):
        bench_holder(HolderPlan(300, 8 * 8, 1, 2), NOW, quiet())


def test_resident_memory_grows_with_what_is_held_and_its_peak_can_begin_anew() -> None:
    before = Resident.here()
    held = bytearray(b"x") * (64 << 20)
    grown = Resident.here()
    assert grown.now - before.now > len(held) // 2
    del held
    Resident.forget_peak()
    assert Resident.here().peak < grown.now
    assert holder_process.WAITING == 8
