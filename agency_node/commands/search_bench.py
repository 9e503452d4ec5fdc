"""`sealmatch bench search`: what a whole search takes, between processes of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agency_node.bench.errors import BenchmarkError, WrongResultError
from agency_node.commands.output import AsJson, print_json, sentences
from crypto.workers import usable_cores


def bench_search(
    records: Annotated[int, typer.Option(help="Synthetic records of each holder.", min=1, max=16_000_000)] = 20_000,
    dimensions: Annotated[int, typer.Option(help="128 (dlib) or 512 (ArcFace).")] = 512,
    holders: Annotated[int, typer.Option(help="Holders that are asked.", min=1, max=16)] = 1,
    runs: Annotated[int, typer.Option(help="Searches to time.", min=1, max=10_000)] = 9,
    uplink: Annotated[
        float | None, typer.Option(help="Mbit/s of each party's line, both directions; no limit if left out.", min=0.1)
    ] = None,
    delay_ms: Annotated[float, typer.Option(help="Milliseconds one way on each party's line.", min=0, max=2000)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic records.", min=0)] = 1,
    faiss: Annotated[bool, typer.Option("--faiss/--no-faiss", help="Measure FAISS in the clear in turn with the searches.")] = True,
    as_json: AsJson = False,
) -> None:
    """Measure a search from its approved grant to its leads, every party a process here, against FAISS in the clear."""
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.search import bench_search as measure  # noqa: PLC0415
    from agency_node.bench.search_result import SearchPlan  # noqa: PLC0415
    from agency_node.bench.search_tables import print_search  # noqa: PLC0415
    from agency_node.faces.synthetic_embedder import SYNTHETIC_DIMENSIONS  # noqa: PLC0415

    if dimensions not in SYNTHETIC_DIMENSIONS:
        raise typer.BadParameter(f"a node has no synthetic model of {dimensions} dimensions: take 128 or 512.", param_hint="'--dimensions'")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    plan = SearchPlan(records, dimensions, holders, runs, usable_cores(), seed, faiss, uplink, delay_ms)
    folder = Path(tempfile.mkdtemp(prefix="sealmatch-bench-"))
    try:
        with sentences(as_json):
            result = measure(plan, folder, datetime.now(UTC), Steps(Console(stderr=True)))
    except BenchmarkError as error:
        typer.echo(f"sealmatch: {error}.", err=True)
        raise typer.Exit(1 if isinstance(error, WrongResultError) else 2) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print_json(result.as_json())
    else:
        print_search(result, Console())
