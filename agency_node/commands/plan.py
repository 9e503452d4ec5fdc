"""`sealmatch plan`: what a department needs, before anything is bought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from agency_node.commands.output import AsJson, print_json

if TYPE_CHECKING:
    from agency_node.bench.capacity import Department


def plan(
    records: Annotated[int, typer.Option(help="Records of each holder.", min=1, max=16_000_000)],
    dimensions: Annotated[int, typer.Option(help="Dimensions of an embedding, a multiple of 8: 128 for dlib, 512 for ArcFace.")] = 512,
    holders: Annotated[int, typer.Option(help="Holders that a search asks.", min=1, max=256)] = 1,
    uplink: Annotated[float, typer.Option(help="Mbit/s of each party's line, both directions.", min=0.1)] = 100.0,
    delay_ms: Annotated[float, typer.Option(help="Milliseconds one way on each party's line.", min=0, max=2000)] = 30.0,
    photograph_kb: Annotated[float, typer.Option(help="Kilobytes of a usual photograph.", min=0)] = 100.0,
    as_json: AsJson = False,
) -> None:
    """Print memory and disk of a holder, bytes and seconds of a search, and on what these figures stand."""
    from agency_node.bench.capacity import MEASURED, Department  # noqa: PLC0415
    from crypto.limits import MAX_CHUNKS  # noqa: PLC0415
    from crypto.parameters import SEALMATCH_1  # noqa: PLC0415

    if dimensions % 8 or not 8 <= dimensions <= SEALMATCH_1.max_dimensions:
        raise typer.BadParameter(
            f"{dimensions} is no number of dimensions here: take a multiple of 8 from 8 to {SEALMATCH_1.max_dimensions}, such as 512.",
            param_hint="'--dimensions'",
        )
    department = Department(records, dimensions, holders, uplink, delay_ms, photograph_kb)
    if department.chunks > MAX_CHUNKS:
        raise typer.BadParameter(
            f"{records:,} records do not fit into one answer: take fewer, or plan several nodes.", param_hint="'--records'"
        )
    if as_json:
        print_json(department.as_json())
        return
    console = Console()
    for title, rows in _tables(department).items():
        table = Table(title=title, title_justify="left", show_header=False, min_width=60)
        table.add_column()
        table.add_column(justify="right")
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)
    said = f"Bytes follow from the formats. Seconds and the base of memory were measured: {MEASURED.machine}, {MEASURED.date}."
    console.print(said, style="dim", highlight=False)


def _tables(department: Department) -> dict[str, dict[str, str]]:
    return {
        "a holder's machine": {
            "memory, serving": _gigabytes(department.serving_bytes),
            "memory, at its start": _gigabytes(department.starting_bytes),
            "memory, while a layout is renewed": _gigabytes(department.renewing_bytes),
            "disk, records": _gigabytes(department.database_bytes),
            "disk, photographs": _gigabytes(department.photograph_bytes),
        },
        "one search": {
            "a holder sends": _megabytes(department.sent_by_holder),
            "a holder receives": _megabytes(department.received_by_holder),
            "the requester sends": _megabytes(department.sent_by_requester),
            "the requester receives": _megabytes(department.received_by_requester),
            "the custodian receives": _megabytes(department.received_by_custodian),
            "work, from approved grant to leads": f"{department.machine_s:,.1f} s",
            "lines": f"{department.line_s:,.1f} s",
            "together": f"{department.machine_s + department.line_s:,.1f} s",
        },
    }


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.2f} MB"
