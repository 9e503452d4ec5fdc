"""The `sealmatch` command: what a person types, how a wrong value is answered, where output goes.

Invariants: results go to standard output and nothing else does; with `--json` that is exactly one JSON object on one line. Progress and
errors go to standard error. An error is a sentence that says what to do next, never a traceback: exit code 2 for what the caller can
change, 1 for what went wrong here. Commands import what they need when they run, so that `--help` and `--version` load no kernel. What a
command does is left to the module that it calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agency_node.bench.errors import BenchmarkError, WrongResultError
from agency_node.commands.demo import demo
from crypto.errors import CryptoError, MisuseError
from crypto.parameters import BLINDING_ERROR_SD, FRESH_NOISE_SD, MAX_SCORE, SEALMATCH_1, SECURITY_TABLE, Scales, clipped_share
from crypto.workers import usable_cores

MAX_RECORDS = 16_000_000
"""What one answer holds at 128 dimensions: `crypto.limits.MAX_CHUNKS` chunks, less fillers and the calibration chunk."""
MAX_RUNS = 10_000
MAX_PROBES = 64
MAX_THREADS = 1_024

app = typer.Typer(
    name="sealmatch",
    help="Privacy-preserving federated face match: encrypted probes, signed grants, a public log.",
    epilog="Example: sealmatch parameters --dimensions 128",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
bench = typer.Typer(
    help="Measure on this machine, with synthetic records.",
    epilog="Example: sealmatch bench scan --records 20000 --dimensions 128 --no-faiss",
    no_args_is_help=True,
)
app.add_typer(bench, name="bench")
app.command("demo", epilog="Example: sealmatch demo --seed 1 --json")(demo)
for _command in sorted(metadata.entry_points(group="sealmatch.commands"), key=lambda entry: entry.name):
    app.add_typer(_command.load(), name=_command.name)  # `broker` among them, which this package never imports


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


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Dimensions = Annotated[int, typer.Option(help="Dimensions of an embedding: 512 for ArcFace, 128 for dlib.", callback=checked_dimensions)]
Records = Annotated[int, typer.Option(help="Synthetic records in the gallery.", callback=checked_records)]
Seed = Annotated[int, typer.Option(help="Seed of the synthetic records.", callback=checked_seed)]
Threads = Annotated[int | None, typer.Option(help="Most threads for either side; every core if left out.", callback=checked_threads)]


# --- commands -------------------------------------------------------------------------------------------------------


def print_version(wanted: bool) -> None:
    """Print name and version, and end."""
    if wanted:
        typer.echo(f"sealmatch {metadata.version('sealmatch')}")
        raise typer.Exit


@app.callback()
def sealmatch(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command(epilog="Example: sealmatch parameters --dimensions 128 --json")
def parameters(
    dimensions: Dimensions = 512,
    spread_milli: Annotated[
        int, typer.Option(help="Largest standard deviation of a coordinate, times sqrt(D), in thousandths; 1000 for an isotropic model.")
    ] = 1000,
    as_json: AsJson = False,
) -> None:
    """Print the parameter set, what it is worth, and the scales and errors that follow for an embedding model."""
    try:
        scales = Scales(dimensions, spread_milli)
    except MisuseError as error:
        limit = int(1000 * dimensions**0.5)
        raise typer.BadParameter(
            f"{spread_milli} is not a spread at {dimensions} dimensions: take 1000 (isotropic) to {limit}.", param_hint="'--spread-milli'"
        ) from error
    if as_json:
        typer.echo(json.dumps({**parameter_figures(scales), "security": [asdict(row) for row in SECURITY_TABLE]}))
    else:
        print_parameters(scales, Console())


@bench.command("scan", epilog="Example: sealmatch bench scan --records 20000 --dimensions 128 --runs 9 --json")
def bench_scan(
    records: Records = 250_000,
    dimensions: Dimensions = 512,
    runs: Annotated[int, typer.Option(help="Timed runs of each side, at least 9.", callback=checked_scan_runs)] = 15,
    threads: Threads = None,
    probes: Annotated[int, typer.Option(help="Probes that share one pass.", callback=checked_probes)] = 1,
    seed: Seed = 1,
    faiss: Annotated[bool, typer.Option("--faiss/--no-faiss", help="Measure FAISS in the clear in turn with the scan.")] = True,
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
    as_json: AsJson = False,
) -> None:
    """Measure one search inside one process, step by step: probe, scan, answer, opening, release."""
    from agency_node.bench.answer import AnswerPlan, bench_answer  # noqa: PLC0415
    from agency_node.bench.progress import Steps  # noqa: PLC0415
    from agency_node.bench.tables import print_answer  # noqa: PLC0415

    plan = AnswerPlan(records, dimensions, runs, threads or usable_cores(), seed)
    with errors_as_sentences():
        result = bench_answer(plan, datetime.now(UTC), Steps(Console(stderr=True)))
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_answer(result, Console())


# --- output of `parameters` -----------------------------------------------------------------------------------------


def parameter_figures(scales: Scales) -> dict[str, dict[str, int | float | str]]:
    """Everything that `parameters` prints but the security table: group, figure, value."""
    p, root = SEALMATCH_1, scales.dimensions**0.5
    return {
        "parameters": asdict(p),
        "scales": {
            "dimensions": scales.dimensions,
            "spread_milli": scales.spread_milli,
            "gamma": scales.gamma,
            "gamma_per_root_dimension": scales.gamma / root,
            "mu": scales.mu,
            "mu_per_root_dimension": scales.mu / root,
            "unit": scales.unit,
            "clipped_share": clipped_share(scales.dimensions, scales.gamma, scales.spread_milli),
        },
        "errors": {
            "noise_sd": scales.noise_sd,
            "error_sd": scales.error_sd,
            "max_score": MAX_SCORE,
            "fresh_noise_sd": FRESH_NOISE_SD,
            "blinding_error_sd": BLINDING_ERROR_SD,
        },
        "sizes": {
            "probe_bits": (scales.dimensions + 1) * p.ring_degree * p.probe_bits,
            "packed_bytes_per_record": 27 * scales.dimensions / 8,
            "answer_bits_per_slot": p.answer_a_bits + p.answer_b_bits,
            "opened_bits_per_slot": p.opened_bits,
        },
    }


FIGURE_NAMES = {
    "name": "parameter set",
    "ring_degree": "ring degree N",
    "modulus": "modulus q",
    "plain_modulus": "plain modulus t",
    "max_dimensions": "most dimensions",
    "answer_b_bits": "bits kept of b''",
    "answer_a_bits": "bits kept of a''",
    "opened_bits": "bits kept of an opened value",
    "dimensions": "dimensions D",
    "spread_milli": "spread, thousandths",
    "gamma": "gallery scale gamma (int8)",
    "gamma_per_root_dimension": "gamma over the root of D",
    "mu": "probe scale mu",
    "mu_per_root_dimension": "mu over the root of D",
    "unit": "a cosine of 1, in units of q",
    "clipped_share": "share of clipped coordinates",
    "noise_sd": "noise of a score, cosine sd",
    "error_sd": "noise and rounding, cosine sd",
    "max_score": "largest score that cannot wrap",
    "fresh_noise_sd": "sd of a fresh error",
    "blinding_error_sd": "sd of the blinding error",
    "probe_bits": "bits of a probe's words",
    "packed_bytes_per_record": "packed bytes a record",
    "answer_bits_per_slot": "answer bits a slot",
    "opened_bits_per_slot": "opened bits a slot",
}


def print_parameters(scales: Scales, console: Console) -> None:
    """Tables for a person."""
    for group, figures in parameter_figures(scales).items():
        table = Table(title=group, title_justify="left", show_header=False, min_width=52)
        table.add_column()
        table.add_column(justify="right")
        for name, value in figures.items():
            table.add_row(FIGURE_NAMES[name], f"{value:.4g}" if isinstance(value, float) else str(value))
        console.print(table)
    security = Table(title="security: classical cost of breaking it", title_justify="left")
    for heading in ("hides", "bits", "estimate", "source", "date"):
        security.add_column(heading, justify="right" if heading == "bits" else "left")
    for row in SECURITY_TABLE:
        security.add_row(row.what, f"{row.bits:.1f}", row.model, row.source, row.date)
    console.print(security)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn what our own modules raise on purpose into a sentence and an exit code."""
    try:
        yield
    except (BenchmarkError, CryptoError) as error:
        typer.echo(f"sealmatch: {error}.", err=True)
        raise typer.Exit(2 if isinstance(error, BenchmarkError) and not isinstance(error, WrongResultError) else 1) from error


def main() -> None:
    """The entry point of the installed command."""
    app(prog_name="sealmatch")


if __name__ == "__main__":
    main()
