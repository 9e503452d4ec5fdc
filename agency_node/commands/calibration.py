"""`sealmatch calibration`: tables of impostors, from which custodians derive thresholds: show, check, and write the synthetic one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.output import AsJson, clock, member, print_json, print_table, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from crypto.calibration_table import CalibrationTable
    from crypto.embedding import EmbeddingModel

TableFile = Annotated[Path, typer.Argument(help="The table's file.", metavar="FILE", show_default=False)]
EmbedderName = Annotated[str, typer.Option(help="The face model, as in node.toml.")]
PackOption = Annotated[Path | None, typer.Option("--pack", help="The face pack's folder, for the embedder insightface.")]

app = typer.Typer(
    help="Calibration tables: how often two different persons look alike to a face model.",
    epilog="Example: sealmatch calibration show table.json",
    no_args_is_help=True,
)


@app.command(epilog="Example: sealmatch calibration show table.json --records 2500000 --rate 1000")
def show(
    file: TableFile,
    records: Annotated[int, typer.Option(help="Records of all galleries that are searched, together.", min=1)] = 1_000_000,
    rate: Annotated[int, typer.Option(help="How many of a million searches may show a wrong person (R33).", min=1, max=999_999)] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show who measured a table, on what, for how long, its SHA-256, and the threshold that follows for so many records."""
    with sentences(as_json):
        from agency_node.custodian.tables_in_use import read_table  # noqa: PLC0415
        from crypto.errors import ReleaseError  # noqa: PLC0415

        table = read_table(file)
        try:
            threshold = f"{table.impostors().threshold(records, rate):.3f}"
        except ReleaseError:
            threshold = "beyond the table: measure further or search fewer"
    rows = {**_described(table), f"threshold for {records:,} records at {rate} in a million": threshold}
    if as_json:
        print_json({**_described(table), "records": records, "rate": rate, "threshold": threshold})
        return
    print_table(str(file), {"": False, "value": True}, rows.items())


@app.command(epilog="Example: sealmatch calibration check table.json --sha256 3f…e1 --embedder dlib")
def check(
    file: TableFile,
    sha256: Annotated[str, typer.Option(help="What the table must hash to, told by whoever measured it.")] = "",
    embedder: EmbedderName = "dlib",
    pack: PackOption = None,
    mode: Annotated[str, typer.Option(help="demo, test or production.")] = "production",
    as_json: AsJson = False,
) -> None:
    """Check whether a custodian may use a table today: its form, SHA-256, model, life, and that somebody measured it."""
    with sentences(as_json):
        from agency_node.config import Mode  # noqa: PLC0415
        from agency_node.custodian.tables_in_use import check_digest_of, check_table, read_table  # noqa: PLC0415
        from crypto.moments import utc_day  # noqa: PLC0415

        table = read_table(file)
        if sha256:
            check_digest_of(table, sha256)
        check_table(table, [_model(embedder, pack)], member(Mode, mode, "mode"), utc_day(clock()))
    if as_json:
        print_json({"ok": True, **_described(table)})
        return
    typer.echo(f"a custodian in {mode} mode may use this {table.kind} table until {table.expires_on}")
    typer.echo("in its node.toml:" if sha256 else "once its SHA-256 was told by another way than the file came, in its node.toml:")
    typer.echo(f'\n[calibration]\nfile = "{file}"\nsha256 = "{table.digest.hex()}"')


@app.command(epilog="Example: sealmatch calibration synthetic table.json --embedder synthetic-128")
def synthetic(file: TableFile, embedder: EmbedderName = "dlib", pack: PackOption = None, as_json: AsJson = False) -> None:
    """Write the synthetic table of a model, to see the format: random directions, measured by nobody; production refuses it."""
    with sentences(as_json):
        from crypto.calibration_table import CalibrationTable  # noqa: PLC0415
        from crypto.moments import utc_day  # noqa: PLC0415

        model = _model(embedder, pack)
        table = CalibrationTable.synthetic(model.model_hash, model.dimensions, utc_day(clock()))
        try:
            with file.open("xb") as target:
                target.write(table.to_bytes())
        except OSError as error:
            raise RequestError(f"{file} cannot be written, or is there already: choose another place") from error
    print_json(_described(table)) if as_json else typer.echo(f"{file}: SHA-256 {table.digest.hex()}; production refuses it")


def _model(embedder: str, pack: Path | None) -> EmbeddingModel:
    from agency_node.faces.embedder import load_embedder  # noqa: PLC0415
    from agency_node.faces.pack import unverified_pin  # noqa: PLC0415

    return load_embedder(embedder, None if pack is None else unverified_pin(pack)).model


def _described(table: CalibrationTable) -> dict[str, object]:
    return {
        "kind": table.kind.value,
        "sha256": table.digest.hex(),
        "model_hash": table.model_hash.hex(),
        "measured_by": table.measured_by,
        "measured_on": str(table.measured_on),
        "expires_on": str(table.expires_on),
        "persons": table.persons,
        "pairs": table.pairs,
        "points": len(table.cosines),
        "fitted_from": None if table.fitted_from is None else table.fitted_from / 1e6,
        "rarest_share": 10 ** (-table.shares[-1] / 1e6),
    }
