"""A benchmark's result as tables for a person; the same figures as the JSON, rounded."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from agency_node.bench.answer import AnswerResult
from agency_node.bench.clear import VectorForm
from agency_node.bench.growth import GrowthResult
from agency_node.bench.holder import HolderResult
from agency_node.bench.holder_process import WAITING
from agency_node.bench.machine import GIB, Machine
from agency_node.bench.peers import PeersResult
from agency_node.bench.policy import PolicyResult
from agency_node.bench.scan import ScanResult
from agency_node.bench.timing import Timing


def print_scan(result: ScanResult, console: Console) -> None:
    """Set-up by set-up, then what follows from the fastest."""
    plan, best = result.plan, result.fastest
    probes = "" if plan.probes == 1 else f", {plan.probes} probes in one pass"
    times = Table(title=f"{plan.records:,} records x {plan.dimensions} dimensions{probes}, medians of {plan.runs} runs and more")
    for name in ("in the clear", "FAISS ms", "encrypted ms", "on", "ratio"):
        times.add_column(name, justify="left" if name == "in the clear" else "right")
    for setup in result.setups:
        bold = "bold" if setup is best else "" if setup.form in {VectorForm.FLOAT32, None} else "dim"
        times.add_row(
            setup.name or "not measured",
            spread(setup.faiss) if setup.faiss else "",
            spread(setup.scan[setup.threads]),
            str(setup.threads),
            "" if setup.ratio is None else f"{setup.ratio:.2f}",
            style=bold,
        )
    console.print(times)
    facts = Table(show_header=False)
    facts.add_row(
        "encrypted scan, a probe", f"{1000 * best.scan_s / plan.probes:.2f} ms, {result.packed_bytes / best.scan_s / 1e9:.1f} GB/s"
    )
    if best.faiss_s is not None:
        facts.add_row("fastest FAISS float32, a query", f"{1000 * best.faiss_s / plan.probes:.2f} ms ({best.name})")
    for form, other in result.fastest_others.items():
        if other.faiss_s is not None:
            milliseconds = 1000 * other.faiss_s / plan.probes
            facts.add_row(f"ratio to FAISS {form}", f"{other.ratio:.2f}, {milliseconds:.2f} ms a query ({other.name})")
    facts.add_row("result checked", "opened with the search key; the sought record comes first")
    facts.add_row("packed gallery", f"{result.packed_bytes / GIB:.2f} GiB, {result.packed_bytes / plan.records:,.0f} bytes a record")
    facts.add_row("packing", f"{plan.records / result.pack_s:,.0f} templates a second ({result.pack_s:.1f} s)")
    facts.add_row("once a layout and month", f"{1000 * result.fixed_part_s:.0f} ms")
    facts.add_row("probe on the wire", f"{result.probe_bytes:,} bytes")
    accuracy = result.accuracy
    facts.add_row("answer on the wire", f"{accuracy.answer_bytes:,} bytes, {accuracy.answer_bytes / plan.records:.2f} a record")
    errors = f"rms {accuracy.rms:.5f}, largest {accuracy.largest:.5f}, derived {accuracy.derived_sd:.5f}"
    facts.add_row("error of a score, as a cosine", errors)
    facts.add_row("peak memory", f"{result.peak_memory_bytes / GIB:.1f} GiB")
    facts.add_row("measured on", described(result.machine))
    console.print(facts)


def print_answer(result: AnswerResult, console: Console) -> None:
    """Step by step, in the order of a search."""
    plan = result.plan
    table = Table(title=f"one search of {plan.records:,} records x {plan.dimensions} dimensions, medians of {plan.runs} runs")
    table.add_column("who")
    table.add_column("step")
    table.add_column("ms", justify="right")
    table.add_column("bytes", justify="right")
    for step in result.steps:
        sent = "" if step.bytes_sent is None else f"{step.bytes_sent:,}"
        table.add_row(step.party, step.what, f"{1000 * step.timing.median:.1f}", sent)
    table.add_section()
    table.add_row("", "whole search", f"{1000 * result.total.median:.1f}", "", style="bold")
    console.print(table)
    console.print(f"{plan.threads} threads for the scan; {described(result.machine)}", highlight=False)


def print_growth(result: GrowthResult, console: Console) -> None:
    """Size by size, then how far the time per record strays."""
    plan, found = result.plan, result.as_json()
    table = Table(title=f"galleries of {plan.dimensions} dimensions, medians of {plan.runs} runs and more")
    for name in ("records", "encrypted ms", "us a record", "FAISS float32 ms", "us a record", "ratio"):
        table.add_column(name, justify="right")
    for size in result.sizes:
        setup, clear = size.beside, size.faiss_us_per_record
        table.add_row(
            f"{size.records:,}",
            spread(size.scan),
            f"{size.scan_us_per_record:.4f}",
            spread(setup.faiss) if setup.faiss else "",
            "" if clear is None else f"{clear:.4f}",
            "" if setup.ratio is None else f"{setup.ratio:.2f}",
        )
    console.print(table)
    faiss = found["faiss_deviation_percent"]
    beside = "" if faiss is None else f" (FAISS float32: {faiss:.1f} %)"
    console.print(f"largest deviation from the median time per record: {found['deviation_percent']:.1f} %{beside}", highlight=False)
    console.print(f"results checked at every size; peak memory {result.peak_memory_bytes / GIB:.1f} GiB", highlight=False)
    console.print(described(result.machine), highlight=False)


def print_peers(result: PeersResult, console: Console) -> None:
    """Way by way, the cheapest record first."""
    plan, ours = result.plan, result.ours.us_per_record
    table = Table(title=f"one probe of {plan.dimensions} dimensions, medians of {plan.runs} runs")
    for name in ("way", "probe", "records", "threads", "ms", "us a record", "times ours"):
        table.add_column(name, justify="left" if name in {"way", "probe"} else "right")
    for peer in sorted(result.peers, key=lambda one: one.us_per_record):
        table.add_row(
            peer.name,
            "encrypted" if peer.encrypted else "in the clear",
            f"{peer.records:,}",
            str(peer.threads),
            spread(peer.timing),
            f"{peer.us_per_record:.3f}",
            f"{peer.us_per_record / ours:,.2f}",
            style="bold" if peer is result.ours else "",
        )
    console.print(table)
    console.print("scores of each way checked against the vectors' inner products, within its precision", highlight=False)
    console.print(described(result.machine), highlight=False)


def print_holder(result: HolderResult, console: Console) -> None:
    """What a holder does, and what it takes."""
    plan, found = result.plan, result.as_json()
    starting = Table(title=f"a holder of {plan.records:,} records x {plan.dimensions} dimensions, from disk to ready")
    starting.add_column("step")
    starting.add_column("s", justify="right")
    for name, seconds in [("interpreter and modules", result.modules_s), *result.found["started"]["steps"]]:
        starting.add_row(name, f"{seconds:.2f}")
    starting.add_section()
    starting.add_row("whole start", f"{result.start_s:.2f}", style="bold")
    starting.add_section()
    for name, seconds in result.found["packed"]["steps"]:
        starting.add_row(f"by itself: {name}", f"{seconds:.2f}")
    console.print(starting)
    facts = Table(show_header=False, title=f"while it serves, medians of {plan.runs} runs and more")
    facts.add_row("packing", f"{found['templates_per_second']:,.0f} templates a second")
    facts.add_row("resident", f"{_gib(result.found['packed']['resident']['now'])}, {found['resident_ratio']:.2f} of float32's bytes")
    facts.add_row("of that in huge pages", _gib(result.found["packed"]["resident"]["in_huge_pages"]))
    facts.add_row("peak while starting", f"{_gib(result.found['started']['resident']['peak'])}, {found['start_peak_ratio']:.2f}")
    facts.add_row("peak while renewing", f"{_gib(result.found['renewed']['peak'])}, {found['renewal_peak_ratio']:.2f}")
    facts.add_row("new layout beside searches", f"{found['renewal_s']:.2f} s, median of {result.found['renewed']['renewal']['runs']}")
    slower = found["slowdown_during_renewal"]
    facts.add_row("a search meanwhile", "not measured: too small a gallery" if slower is None else f"{slower:.2f} times as long")
    facts.add_row("one search alone", f"{1000 * result.found['waiting']['alone']['median_s']:.1f} ms")
    facts.add_row(
        f"{found['waiting_searches']} that wait together",
        f"{1000 * result.found['waiting']['together']['median_s'] / WAITING:.1f} ms each, {found['waiting_ratio']:.2f} of one alone",
    )
    facts.add_row("a record added, searchable after", f"{1000 * result.found['changed']['adding']['median_s']:.1f} ms")
    facts.add_row("a record expunged, gone after", f"{1000 * result.found['changed']['expunging']['median_s']:.1f} ms")
    facts.add_row("measured on", described(result.machine))
    console.print(facts)


def print_policy(result: PolicyResult, console: Console) -> None:
    """Pack by pack, and the node's packs together."""
    times = Table(title=f"one decision, of {result.plan.decisions:,} each, every one checked")
    for name in ("pack", "policies", "median ms", "largest ms"):
        times.add_column(name, justify="left" if name == "pack" else "right")
    for pack, timing in result.alone.items():
        times.add_row(pack, str(result.policies[pack]), *_milliseconds(timing))
    whole = sum(result.policies.get(name, 0) for name in result.plan.packs)
    times.add_row(", ".join(result.plan.packs), str(whole), *_milliseconds(result.together), style="bold")
    console.print(times)
    console.print(described(result.machine))


def _milliseconds(timing: Timing) -> tuple[str, str]:
    return f"{1000 * timing.median:.3f}", f"{1000 * max(timing.seconds):.2f}"


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"


def spread(timing: Timing) -> str:
    """Median, and smallest to largest in brackets, in milliseconds."""
    digits = 2 if timing.median < 0.1 else 0
    low, high = (f"{1000 * value:.{digits}f}" for value in (min(timing.seconds), max(timing.seconds)))
    return f"{1000 * timing.median:.{digits}f} ({low}..{high})"


def described(machine: Machine) -> str:
    """The machine in one line."""
    faiss = f", FAISS {machine.faiss}" if machine.faiss else ""
    return f"{machine.cpu}, {machine.cores} cores, {machine.system}, Python {machine.python}, numba {machine.numba}{faiss}"
