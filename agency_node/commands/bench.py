"""`sealmatch bench`: measurements on this machine, what may be asked of them, and where their results go.

Invariants: results go to standard output, with `--json` exactly one object on one line; a wrong value is answered before anything is made.
Kernels, FAISS and matplotlib are loaded when a command runs. What is measured, and how, is left to `agency_node.bench`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agency_node.bench.errors import BenchmarkError, WrongResultError
from agency_node.errors import ConfigError
from crypto.errors import CryptoError
from crypto.parameters import SEALMATCH_1
from crypto.workers import usable_cores

MAX_RECORDS = 16_000_000
"""What one answer holds at 128 dimensions: `crypto.limits.MAX_CHUNKS` chunks, less fillers and the calibration chunk."""
MAX_RUNS = 10_000
MAX_PROBES = 64
MAX_SIZES = 20
MAX_PEER_RECORDS = 250_000
"""SEAL keeps eight bytes a record and dimension."""
MAX_THREADS = 1_024
MIN_DECISIONS, MAX_DECISIONS = 1_000, 1_000_000

bench = typer.Typer(
    help="Measure on this machine, with synthetic records.",
    epilog="Example: sealmatch bench scan --records 20000 --dimensions 128 --no-faiss",
    no_args_is_help=True,
)


# --- values ---------------------------------------------------------------------------------------------------------


def checked_dimensions(value: int) -> int:
    """Refuse what `Scales` would refuse, with an example of what would do."""
    if value % 8 or not 8 <= value <= SEALMATCH_1.max_dimensions:
        raise typer.BadParameter(
            f"{value} is not a number of dimensions here: take a multiple of 8 from 8 to {SEALMATCH_1.max_dimensions}, "
            "such as 128 (dlib) or 512 (ArcFace)."
        )
    return value


def checked_records(value: int) -> int:
    """At least one, and no more than an answer can hold."""
    if not 1 <= value <= MAX_RECORDS:
        raise typer.BadParameter(f"{value} is not a size of a gallery: take 1 to {MAX_RECORDS} records, such as 250000.")
    return value


def checked_runs(value: int) -> int:
    """At least one; `bench scan` asks for more."""
    if not 1 <= value <= MAX_RUNS:
        raise typer.BadParameter(f"{value} is not a number of runs: take 1 to {MAX_RUNS}, such as 15.")
    return value


def checked_scan_runs(value: int) -> int:
    """At least nine, because a median of fewer says little on a machine that does other things too."""
    if not 9 <= value <= MAX_RUNS:
        raise typer.BadParameter(f"{value} is not enough for a median of alternating runs: take 9 to {MAX_RUNS}, such as 15.")
    return value


def checked_decisions(value: int) -> int:
    """At least a thousand, because a decision takes less than a thousandth of a second."""
    if not MIN_DECISIONS <= value <= MAX_DECISIONS:
        raise typer.BadParameter(f"{value} is not a number of decisions here: take {MIN_DECISIONS} to {MAX_DECISIONS}, such as 2000.")
    return value


def checked_threads(value: int | None) -> int | None:
    """At least one."""
    if value is not None and not 1 <= value <= MAX_THREADS:
        raise typer.BadParameter(f"{value} is not a number of threads: take 1 to {MAX_THREADS}, or leave it out to use every core.")
    return value


def checked_probes(value: int) -> int:
    """At least one."""
    if not 1 <= value <= MAX_PROBES:
        raise typer.BadParameter(f"{value} is not a number of probes: take 1 to {MAX_PROBES}.")
    return value


def checked_seed(value: int) -> int:
    """Zero or more."""
    if value < 0:
        raise typer.BadParameter(f"{value} is not a seed: take 0 or more.")
    return value


def checked_peer_records(value: int) -> int:
    """At least one, and what SEAL's plaintexts leave memory for."""
    if not 1 <= value <= MAX_PEER_RECORDS:
        raise typer.BadParameter(f"{value} is not a number of records here: take 1 to {MAX_PEER_RECORDS}.")
    return value


def checked_sizes(value: str) -> str:
    """Two to twenty sizes of galleries, with commas between."""
    sizes = value.split(",")
    if not 2 <= len(sizes) <= MAX_SIZES or not all(size.strip().isdecimal() and 1 <= int(size) <= MAX_RECORDS for size in sizes):
        raise typer.BadParameter(f"{value} is no list of sizes: take 2 to {MAX_SIZES} of 1 to {MAX_RECORDS} records, such as 10000,50000.")
    return value


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Dimensions = Annotated[int, typer.Option(help="Dimensions of an embedding: 512 for ArcFace, 128 for dlib.", callback=checked_dimensions)]
Records = Annotated[int, typer.Option(help="Synthetic records in the gallery.", callback=checked_records)]
Seed = Annotated[int, typer.Option(help="Seed of the synthetic records.", callback=checked_seed)]
ScanRuns = Annotated[int, typer.Option(help="Timed runs of each side, at least 9.", callback=checked_scan_runs)]
WithFaiss = Annotated[bool, typer.Option("--faiss/--no-faiss", help="Measure FAISS in the clear in turn with the scan.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the result into this file, FILE.svg.")]
Threads = Annotated[int | None, typer.Option(help="Most threads for either side; every core if left out.", callback=checked_threads)]


# --- commands -------------------------------------------------------------------------------------------------------


@bench.command("scan", epilog="Example: sealmatch bench scan --records 20000 --dimensions 128 --runs 9 --json")
def bench_scan(
    records: Records = 250_000,
    dimensions: Dimensions = 512,
    runs: ScanRuns = 15,
    threads: Threads = None,
    probes: Annotated[int, typer.Option(help="Probes that share one pass.", callback=checked_probes)] = 1,
    seed: Seed = 1,
    faiss: WithFaiss = True,
    as_json: AsJson = False,
) -> None:
    """Measure the encrypted scan of a gallery against FAISS on the same vectors in the clear."""
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.scan import ScanPlan, bench_scan  # noqa: PLC0415
    from agency_node.bench.tables import print_scan  # noqa: PLC0415

    plan = ScanPlan(records, dimensions, runs, threads or usable_cores(), probes, seed, faiss)
    with errors_as_sentences():
        result = bench_scan(plan, datetime.now(UTC), Steps(Console(stderr=True)))
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_scan(result, Console())


@bench.command("answer", epilog="Example: sealmatch bench answer --records 20000 --dimensions 128 --runs 3 --json")
def bench_answer(
    records: Records = 250_000,
    dimensions: Dimensions = 512,
    runs: Annotated[int, typer.Option(help="Searches to time.", callback=checked_runs)] = 9,
    threads: Threads = None,
    seed: Seed = 1,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure one search inside one process, step by step: probe, scan, answer, opening, release."""
    from agency_node.bench.answer import AnswerPlan, bench_answer  # noqa: PLC0415
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.tables import print_answer  # noqa: PLC0415

    plan = AnswerPlan(records, dimensions, runs, threads or usable_cores(), seed)
    with errors_as_sentences():
        result = bench_answer(plan, datetime.now(UTC), Steps(Console(stderr=True)))
    draw_if_asked(result.as_json(), plot)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_answer(result, Console())


@bench.command("growth", epilog="Example: sealmatch bench growth --sizes 2000,4000,8000 --dimensions 128 --json")
def bench_growth(
    sizes: Annotated[str, typer.Option(help="Sizes of galleries.", callback=checked_sizes)] = ("100000,250000,500000,1000000,2500000"),
    dimensions: Dimensions = 512,
    runs: ScanRuns = 9,
    threads: Threads = None,
    seed: Seed = 1,
    faiss: WithFaiss = True,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure the scan's time per record in galleries of several sizes, with FAISS in the clear beside it."""
    from agency_node.bench.growth import GrowthPlan, bench_growth  # noqa: PLC0415
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.tables import print_growth  # noqa: PLC0415

    chosen = tuple(int(size) for size in sizes.split(","))
    with errors_as_sentences():
        plan = GrowthPlan(chosen, dimensions, runs, threads or usable_cores(), seed, faiss)
        result = bench_growth(plan, datetime.now(UTC), Steps(Console(stderr=True)))
    draw_if_asked(result.as_json(), plot)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_growth(result, Console())


@bench.command("peers", epilog="Example: sealmatch bench peers --records 4000 --seal-records 500 --tenseal-records 100 --dimensions 64")
def bench_peers(
    records: Records = 250_000,
    seal_records: Annotated[int, typer.Option(help="Records that SEAL scores, coordinate first.", callback=checked_peer_records)] = 20_480,
    tenseal_records: Annotated[int, typer.Option(help="Records that TenSEAL scores.", callback=checked_peer_records)] = 4_096,
    dimensions: Dimensions = 512,
    runs: ScanRuns = 9,
    threads: Threads = None,
    seed: Seed = 1,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure other ways to score an encrypted probe beside ours: SEAL coordinate by coordinate, TenSEAL's matmul."""
    from agency_node.bench.peers import MAX_TENSEAL_RECORDS, PeersPlan, bench_peers  # noqa: PLC0415
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.tables import print_peers  # noqa: PLC0415

    if tenseal_records > MAX_TENSEAL_RECORDS:
        raise typer.BadParameter(
            f"{tenseal_records} is more than one ciphertext holds: take up to {MAX_TENSEAL_RECORDS}.", param_hint="'--tenseal-records'"
        )
    with errors_as_sentences():
        plan = PeersPlan(records, seal_records, tenseal_records, dimensions, runs, threads or usable_cores(), seed)
        result = bench_peers(plan, datetime.now(UTC), Steps(Console(stderr=True)))
    draw_if_asked(result.as_json(), plot)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_peers(result, Console())


@bench.command("holder", epilog="Example: sealmatch bench holder --records 3000 --dimensions 128 --json")
def bench_holder(
    records: Records = 250_000,
    dimensions: Dimensions = 512,
    runs: ScanRuns = 9,
    threads: Threads = None,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Measure a holder in a process of its own: start, memory, a new layout, searches that wait, records added and expunged."""
    from agency_node.bench.holder import HolderPlan, bench_holder  # noqa: PLC0415
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.tables import print_holder  # noqa: PLC0415

    with errors_as_sentences():
        plan = HolderPlan(records, dimensions, runs, threads or usable_cores(), seed)
        result = bench_holder(plan, datetime.now(UTC), Steps(Console(stderr=True)))
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_holder(result, Console())


@bench.command("policy", epilog="Example: sealmatch bench policy --decisions 1000 --json")
def bench_policy(
    decisions: Annotated[int, typer.Option(help="Decisions of each pack, at least 1000.", callback=checked_decisions)] = 2_000,
    pack: Annotated[list[str] | None, typer.Option(help="A pack of the node that is measured; repeat for several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how long one decision takes: of each delivered pack, and of all packs of a node together; every answer is checked."""
    from agency_node.bench.policy import NODE_PACKS, PolicyPlan, bench_policy  # noqa: PLC0415
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.tables import print_policy  # noqa: PLC0415

    with errors_as_sentences():
        result = bench_policy(PolicyPlan(decisions, tuple(pack or NODE_PACKS)), datetime.now(UTC), Steps(Console(stderr=True)))
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_policy(result, Console())


@bench.command("intake", epilog="Example: sealmatch bench intake ./intake --images 20 --json")
def bench_intake(
    folder: Annotated[Path, typer.Argument(help="A new folder for the photographs.", metavar="DIR", show_default=False)],
    images: Annotated[int, typer.Option(help="Photographs to write.", min=1, max=1_000_000)] = 1000,
    side: Annotated[int, typer.Option(help="Pixels on a side.", min=96, max=2048)] = 320,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Write variations of two public-domain portraits to enrol, in a folder with a table and in ANSI/NIST-ITL files, and the truth.

    `node enrol` then says how many it enrols a second. They are two persons' faces, so they measure an intake and no face model.
    """
    from agency_node.bench.booking_images import WORTH_PROCESSES, write_booking_images  # noqa: PLC0415

    with errors_as_sentences():
        several = os.cpu_count() or 1 if images >= WORTH_PROCESSES else 1
        made = write_booking_images(folder, images, seed, side, processes=several)
    forms = {form: sum(one.form == form for one in made) for form in ("folder", "itl")}
    if as_json:
        typer.echo(json.dumps({"images": len(made), **forms, "truth": str(folder / "truth.csv")}))
        return
    typer.echo(f"{len(made)} photographs in {folder}, {forms['itl']} of them in ANSI/NIST-ITL files. In a node of mode demo, enrol them by")
    typer.echo(f"  sealmatch node enrol NODE --folder {folder}/photographs --table {folder}/photographs.csv --itl {folder}/itl")


@bench.command("plot", epilog="Example: sealmatch bench plot growth.json growth.svg")
def bench_plot(
    result: Annotated[Path, typer.Argument(help="What a benchmark printed with --json.", metavar="RESULT.json", show_default=False)],
    picture: Annotated[Path, typer.Argument(help="The picture to write.", metavar="FILE.svg", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Draw a result of bench growth, answer, search or peers."""
    from agency_node.bench.plots import plot_file  # noqa: PLC0415

    with errors_as_sentences():
        plot_file(result, picture)
    typer.echo(json.dumps({"picture": str(picture)}) if as_json else f"drawn: {picture}")


def draw_if_asked(found: object, picture: Path | None) -> None:
    """Draw the result of `--plot`."""
    if picture is not None:
        from agency_node.bench.plots import plot  # noqa: PLC0415

        with errors_as_sentences():
            plot(found, picture)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn what our own modules raise on purpose into a sentence and an exit code."""
    try:
        yield
    except (BenchmarkError, CryptoError, ConfigError) as error:
        typer.echo(f"sealmatch: {error}.", err=True)
        is_ours = isinstance(error, WrongResultError | CryptoError)
        raise typer.Exit(1 if is_ours else 2) from error
