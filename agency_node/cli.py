"""The `sealmatch` command: what a person types, how a wrong value is answered, where output goes.

Invariants: results go to standard output and nothing else does; with `--json` that is exactly one JSON object on one line. Progress and
errors go to standard error. An error is a sentence that says what to do next, never a traceback: exit code 2 for what the caller can
change, 1 for what went wrong here. Commands import what they need when they run, so that `--help` and `--version` load no kernel. What a
command does is left to the module that it calls.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agency_node.commands import gallery_differentials as _gallery_differentials  # noqa: F401  # joins those of `gallery`
from agency_node.commands import log_watching as _log_watching  # noqa: F401  # its commands join those of `log`
from agency_node.commands import node_backup as _node_backup  # noqa: F401  # its commands join those of `node`
from agency_node.commands import node_cases as _node_cases  # noqa: F401  # its commands join those of `node`
from agency_node.commands import node_duties as _node_duties  # noqa: F401  # its commands join those of `node`
from agency_node.commands import node_enrol as _node_enrol  # noqa: F401
from agency_node.commands import node_exigent as _node_exigent  # noqa: F401  # and its
from agency_node.commands import node_leaving as _node_leaving  # noqa: F401
from agency_node.commands import node_open as _node_open  # noqa: F401
from agency_node.commands import node_originating as _node_originating  # noqa: F401  # so does its one
from agency_node.commands import node_renewal as _node_renewal  # noqa: F401  # its commands join those of `node`
from agency_node.commands import node_review as _node_review  # noqa: F401  # and its
from agency_node.commands import node_subject as _node_subject  # noqa: F401
from agency_node.commands.bench import AsJson, Dimensions, bench
from agency_node.commands.calibration import app as calibration
from agency_node.commands.demo import demo
from agency_node.commands.faces import app as faces
from agency_node.commands.gallery import app as gallery
from agency_node.commands.log_bench import bench_log
from agency_node.commands.plan import plan
from agency_node.commands.search_bench import bench_search
from crypto.errors import MisuseError
from crypto.parameters import (
    BLINDING_ERROR_SD,
    FRESH_NOISE_SD,
    LARGEST_VALUE,
    MAX_SCORE,
    SEALMATCH_1,
    SECURITY_TABLE,
    Scales,
    clipped_share,
)

app = typer.Typer(
    name="sealmatch",
    help="Privacy-preserving federated face match: encrypted probes, signed grants, a public log.",
    epilog="Example: sealmatch parameters --dimensions 128",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.add_typer(bench, name="bench")
bench.command("search", epilog="Example: sealmatch bench search --records 20000 --dimensions 128 --json")(bench_search)
bench.command("log", epilog="Example: sealmatch bench log --entries 10000 --appends 500 --json")(bench_log)
app.add_typer(calibration, name="calibration")
app.add_typer(faces, name="faces")
app.add_typer(gallery, name="gallery")
app.command("plan", epilog="Example: sealmatch plan --records 2500000 --holders 3 --uplink 100 --json")(plan)
app.command("demo", epilog="Example: sealmatch demo --seed 1 --json")(demo)
for _command in sorted(metadata.entry_points(group="sealmatch.commands"), key=lambda entry: entry.name):
    app.add_typer(_command.load(), name=_command.name)  # `broker` among them, which this package never imports


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
            "largest_value": LARGEST_VALUE,
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
    "gamma": "gallery scale gamma",
    "gamma_per_root_dimension": "gamma over the root of D",
    "mu": "probe scale mu",
    "mu_per_root_dimension": "mu over the root of D",
    "unit": "a cosine of 1, in units of q",
    "largest_value": "largest coordinate of a template",
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


def main() -> None:
    """The entry point of the installed command."""
    app(prog_name="sealmatch")


if __name__ == "__main__":
    main()
