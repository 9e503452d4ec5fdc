"""A benchmark's result as tables for a person; the same figures as the JSON, rounded."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from agency_node.bench.answer import AnswerResult
from agency_node.bench.clear import VectorForm
from agency_node.bench.growth import GrowthResult
from agency_node.bench.machine import GIB, Machine
from agency_node.bench.peers import PeersResult
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
    facts.add_row("answer on the wire", f"{result.answer_bytes:,} bytes, {result.answer_bytes / plan.records:.2f} a record")
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


def spread(timing: Timing) -> str:
    """Median, and smallest to largest in brackets, in milliseconds."""
    digits = 2 if timing.median < 0.1 else 0
    low, high = (f"{1000 * value:.{digits}f}" for value in (min(timing.seconds), max(timing.seconds)))
    return f"{1000 * timing.median:.{digits}f} ({low}..{high})"


def described(machine: Machine) -> str:
    """The machine in one line."""
    faiss = f", FAISS {machine.faiss}" if machine.faiss else ""
    return f"{machine.cpu}, {machine.cores} cores, {machine.system}, Python {machine.python}, numba {machine.numba}{faiss}"
