"""The result of `bench search` as tables for a person; the same figures as the JSON, rounded."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from agency_node.bench.machine import GIB
from agency_node.bench.moments import STEPS
from agency_node.bench.search_result import SearchResult
from agency_node.bench.tables import described


def print_search(result: SearchResult, console: Console) -> None:
    """Step by step, party by party, then the whole."""
    plan = result.plan
    line = "every party on this machine" if plan.is_direct else _line(plan.uplink_mbit, plan.delay_ms)
    steps = Table(title=f"{plan.holders} x {plan.records:,} records x {plan.dimensions} dimensions, {line}, medians of {plan.runs} runs")
    for heading in ("step", "seconds", "bytes"):
        steps.add_column(heading, justify="left" if heading == "step" else "right")
    for step, seconds, size in zip(STEPS, result.step_medians, result.step_bytes, strict=True):
        steps.add_row(step.name, f"{seconds:.2f}", f"{size:,.0f}" if step.messages else "")
    steps.add_section()
    low, high = min(result.search.seconds), max(result.search.seconds)
    steps.add_row(
        "approved grant to leads", f"{result.search.median:.2f} ({low:.2f}..{high:.2f})", f"{result.message_bytes:,.0f}", style="bold"
    )
    console.print(steps)
    parties = Table()
    for heading in ("party", "role", "sent", "received", "on its line", "peak memory"):
        parties.add_column(heading, justify="left" if heading in ("party", "role") else "right")
    for name, one in result.parties.items():
        wire = "" if one.wire_sent is None or one.wire_received is None else f"{one.wire_sent:,.0f} / {one.wire_received:,.0f}"
        parties.add_row(name, one.role, f"{one.sent:,.0f}", f"{one.received:,.0f}", wire, f"{one.peak_memory_bytes / GIB:.2f} GiB")
    console.print(parties)
    facts = Table(show_header=False)
    if result.faiss is not None:
        facts.add_row("FAISS in the clear", f"{1000 * result.faiss.median:.2f} ms ({result.faiss_setup})")
        facts.add_row("ratio", f"{result.ratio:.2f}")
    facts.add_row("result checked", "the first lead of every run is the record that was sought")
    facts.add_row("layouts renewed in runs", ", ".join(str(n) for n, run in enumerate(result.runs) if run.renewed) or "none")
    facts.add_row("enrolled", f"{plan.records * plan.holders / result.enrol_s:,.0f} records a second ({result.enrol_s:.1f} s)")
    facts.add_row("measured on", described(result.machine))
    console.print(facts)


def _line(mbit: float | None, delay_ms: float) -> str:
    rate = "no limit" if mbit is None else f"{mbit:g} Mbit/s"
    return f"lines of {rate} and {delay_ms:g} ms"
