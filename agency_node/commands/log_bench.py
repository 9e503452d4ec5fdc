"""`sealmatch bench log`: how fast the public log takes entries and is verified."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from agency_node.commands.bench import AsJson, errors_as_sentences


def bench_log(
    entries: Annotated[int, typer.Option(help="Entries of the log that is verified.", min=8, max=10_000_000)] = 100_000,
    appends: Annotated[int, typer.Option(help="Entries that each run appends.", min=1, max=1_000_000)] = 2_000,
    callers: Annotated[int, typer.Option(help="Who append at once.", min=1, max=1_000)] = 16,
    runs: Annotated[int, typer.Option(help="Timed runs of each, at least 5.", min=5, max=10_000)] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure the offline verification of a whole log, and durable appends to a broker's SQLite store, every result checked."""
    from agency_node.bench.log import LogPlan, bench_log as measure  # noqa: I001, PLC0415
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.tables import print_log  # noqa: PLC0415

    with errors_as_sentences():
        result = measure(LogPlan(entries, appends, callers, runs), datetime.now(UTC), Steps(Console(stderr=True)))
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_log(result, Console())
