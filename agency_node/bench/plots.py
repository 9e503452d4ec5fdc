"""A benchmark's result as a picture: growth as lines, one search as a stack of steps, peers as bars on a logarithmic axis.

Drawn from the JSON object alone, so that a result of last month, or of another machine, is drawn the same way. Invariants: every axis says
what it shows and in which unit; machine, versions, date and numbers of runs stand below; FAISS is called by its form, float32 in the clear;
the file is SVG with a title and a description, brings its own light ground, and is the same bytes for the same result. matplotlib comes
with the `demo` extra and is loaded here alone.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agency_node.bench.errors import PlotError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Found = Mapping[str, Any]
GROUND, INK, FAINT, LINE = "#fbfaf6", "#1d2733", "#55606d", "#d9d5c8"
BLUE, PURPLE, BROWN = "#1b5a9e", "#6d3590", "#80520b"
_INCHES: Final = (9.0, 4.6)
_ROOM_INSIDE: Final = 0.3
"""A step with more than this share of the search has room for its figure inside its bar."""
_MOST_BYTES: Final = 16 << 20
_SETTINGS: Final = {
    "svg.hashsalt": "sealmatch",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "axes.facecolor": GROUND,
    "figure.facecolor": GROUND,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot_file(result: Path, picture: Path) -> None:
    """Draw what a `--json` run wrote; `PlotError` for a file that holds no such result."""
    try:
        if result.stat().st_size > _MOST_BYTES:
            raise PlotError(f"{result.name} is too large to be a result: give the file that a benchmark's --json was written to")
        found = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PlotError(f"{result.name} cannot be read as JSON: give the file that a benchmark's --json was written to") from error
    plot(found, picture)


def plot(found: object, picture: Path) -> None:
    """Draw one result; `PlotError` when it is none that can be drawn, when matplotlib is missing, or when the file cannot be written."""
    draw = _DRAWN.get(str(found.get("benchmark"))) if isinstance(found, Mapping) else None
    if draw is None or not isinstance(found, Mapping):
        raise PlotError(f"this is no result that can be drawn: take one of bench {', '.join(sorted(_DRAWN))}, written with --json")
    if picture.suffix != ".svg":
        raise PlotError(f"{picture.name} is no name of a picture here: let it end in .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotError("matplotlib is not installed, and it draws the picture: install the demo extra with ./dev setup")
    try:
        drawn = _svg(draw, found)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise PlotError("this result lacks what the picture shows: run the benchmark again with --json") from error
    try:
        picture.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise PlotError(f"{picture.name} cannot be written: choose another folder") from error


def _svg(draw: Callable[[Figure, Found], tuple[str, str]], found: Found) -> str:
    import matplotlib as mpl  # noqa: PLC0415  # of the demo extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(dict[str, Any](_SETTINGS)):  # type: ignore[arg-type] # its own names for settings
        figure = Figure(figsize=_INCHES, layout="constrained")
        title, description = draw(figure, found)
        figure.suptitle(title, fontsize=12.5, fontweight="bold", x=0.01, ha="left")
        figure.supxlabel(_footer(found), fontsize=8, color=FAINT, x=0.01, ha="left")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    head, opening, rest = out.getvalue().partition("<svg")
    attributes, closing, body = rest.partition(">")
    words = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    return "\n".join(line.rstrip() for line in (head + opening + attributes + closing + "\n " + words + body).splitlines()) + "\n"


def _footer(found: Found) -> str:
    """Machine, versions, date, runs."""
    machine, date = found["machine"], datetime.fromisoformat(found["date"])
    faiss = f", FAISS {machine['faiss']}" if machine["faiss"] else ""
    versions = f"Python {machine['python']}, numba {machine['numba']}{faiss}"
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {versions}; medians of {found['runs']} runs; {date:%Y-%m-%d}"


def _growth(figure: Figure, found: Found) -> tuple[str, str]:
    """Left: milliseconds against records. Right: nanoseconds a record, where a straight line is level."""
    sizes = found["sizes"]
    records = [size["records"] for size in sizes]
    whole, each = figure.subplots(1, 2)
    lines = [("encrypted scan", BLUE, "o", [size["scan_us_per_record"] for size in sizes])]
    if all(size["faiss_us_per_record"] is not None for size in sizes):
        lines.append(("FAISS float32, in the clear", BROWN, "s", [size["faiss_us_per_record"] for size in sizes]))
    for name, colour, marker, per_record in lines:
        milliseconds = [count * us / 1000 for count, us in zip(records, per_record, strict=True)]
        whole.plot([count / 1000 for count in records], milliseconds, marker=marker, color=colour, label=name)
        each.plot([count / 1000 for count in records], [1000 * us for us in per_record], marker=marker, color=colour, label=name)
    each.axhline(1000 * found["scan_us_per_record"], color=BLUE, linewidth=0.8, linestyle=":")
    whole.set(xlabel="records, thousands", ylabel="one probe, ms", xlim=(0, None), ylim=(0, None))
    each.set(xlabel="records, thousands (logarithmic)", ylabel="a record, ns", xscale="log", ylim=(0, None))
    each.set_xticks([count / 1000 for count in records], [f"{count / 1000:,.0f}" for count in records])
    each.minorticks_off()
    for axes in (whole, each):
        axes.grid(color=LINE, linewidth=0.6)
    whole.legend(frameon=False, loc="upper left")
    deviation = found["deviation_percent"]
    each.set_title(f"largest deviation of the scan from its median: {deviation:.1f} %", fontsize=9, loc="left", color=FAINT)
    description = f"{len(sizes)} sizes from {records[0]:,} to {records[-1]:,} records, {found['dimensions']} dimensions."
    return f"One probe against galleries of {found['dimensions']} dimensions", description


def _search(figure: Figure, found: Found) -> tuple[str, str]:
    """Every step as a bar that begins where the one before it ends."""
    steps = [(step["name"] if "name" in step else f"{step['party']}: {step['step']}", 1000 * step["median_s"]) for step in found["steps"]]
    axes: Axes = figure.subplots()
    start, whole = 0.0, sum(milliseconds for _, milliseconds in steps)
    for place, (_, milliseconds) in enumerate(steps):
        axes.barh(place, milliseconds, left=start, color=BLUE, height=0.68)
        words = f"{milliseconds:,.1f} ms, {100 * milliseconds / whole:.0f} %"
        if milliseconds > _ROOM_INSIDE * whole:
            axes.text(start + milliseconds / 2, place, words, va="center", ha="center", fontsize=9, color=GROUND)
        elif start + milliseconds > 0.7 * whole:
            axes.text(start, place, f"{words}  ", va="center", ha="right", fontsize=9)
        else:
            axes.text(start + milliseconds, place, f"  {words}", va="center", ha="left", fontsize=9)
        start += milliseconds
    axes.set_yticks(range(len(steps)), [name for name, _ in steps])
    axes.invert_yaxis()
    axes.set(xlabel="ms since the search began (medians of the steps, one after the other)", xlim=(0, 1.03 * whole))
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    holders = found.get("holders", 1)
    among = f"{found['records']:,} records x {found['dimensions']} dimensions" + (f" at each of {holders} holders" if holders > 1 else "")
    kind = "between processes" if found["benchmark"] == "search" else "in one process"
    title = f"One search {kind}: {whole:,.0f} ms, {among}"
    return title, "; ".join(f"{name}: {milliseconds:.1f} ms" for name, milliseconds in steps)


def _peers(figure: Figure, found: Found) -> tuple[str, str]:
    """The cheapest record on top; the clear search in another colour."""
    peers = sorted(found["peers"], key=lambda peer: float(peer["us_per_record"]))
    axes: Axes = figure.subplots()
    values = [float(peer["us_per_record"]) for peer in peers]
    colours = [BROWN if not peer["encrypted"] else BLUE if peer["name"].startswith("Sealmatch") else PURPLE for peer in peers]
    axes.barh(range(len(peers)), values, color=colours, height=0.62)
    for place, (peer, value) in enumerate(zip(peers, values, strict=True)):
        axes.text(value, place, f"  {_digits(value)} µs, {_digits(peer['times_ours'])} times ours", va="center", fontsize=9)
    axes.set_yticks(range(len(peers)), [_peer_label(peer) for peer in peers])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    axes.set(xlabel="microseconds a record (logarithmic)", xlim=(min(values) / 3, max(values) * 100))
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    description = "; ".join(f"{peer['name']}: {value:.3g} microseconds a record" for peer, value in zip(peers, values, strict=True))
    return f"Scoring one probe of {found['dimensions']} dimensions, a record", description


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _peer_label(peer: Found) -> str:
    name = str(peer["name"])
    if not peer["encrypted"]:
        name = "FAISS float32, in the clear"
    threads = f"{peer['threads']} thread" + ("s" if peer["threads"] > 1 else "")
    return f"{name}\n{peer['records']:,} records, {threads}"


_DRAWN: Final[Mapping[str, Callable[[Figure, Found], tuple[str, str]]]] = {
    "growth": _growth,
    "answer": _search,
    "search": _search,
    "peers": _peers,
}
