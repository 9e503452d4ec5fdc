"""How commands answer: results on standard output, `--json` as exactly one object on one line, errors as one sentence and an exit code."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from agency_node.errors import BrokerError, BrokerRefusedError, ImageError, NodeError, RequestError
from crypto.errors import CryptoError, PeerError

EnumT = TypeVar("EnumT", bound=enum.StrEnum)
WIDE: Final = 160
"""Columns of a table that goes into a file or a pipe, where nothing need be folded."""
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Folder = Annotated[Path, typer.Argument(help="The node's folder.", metavar="DIR", show_default=False)]


def clock() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


def print_table(title: str, headings: Mapping[str, bool], rows: Iterable[Iterable[object]], caption: str = "") -> None:
    """Rows under their headings. True for a heading whose cells must stay whole, because they are copied into the next command; other
    cells are folded to the terminal's width, and none is cut off."""
    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(width=WIDE, markup=False)
    table = Table(caption=caption or None, caption_justify="left")
    for heading, whole in headings.items():
        table.add_column(heading, overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    typer.echo(title)
    console.print(table)


def member(kind: type[EnumT], text: str, name: str) -> EnumT:
    """The member of that value; `RequestError` lists those that there are."""
    try:
        return kind(text)
    except ValueError as error:
        raise RequestError(f"{text!r} is not a {name}: take one of {', '.join(one.value for one in kind)}") from error


def print_json(value: object) -> None:
    """One object on one line."""
    typer.echo(json.dumps(plain(value)))


def plain(value: object) -> Any:  # noqa: ANN401  # what JSON has is whatever it was made from
    """Values that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


@contextmanager
def sentences(as_json: bool = False) -> Iterator[None]:
    """Turn what our own modules raise on purpose into a sentence on standard error, and with `--json` into an object on standard output.

    Exit code 2 for what the caller can change, 1 for what another party or the broker refused or what went wrong here.
    """
    try:
        yield
    except PeerError as error:
        from crypto.lawful_steps import explain  # noqa: PLC0415  # only when something went wrong

        said = explain(error)
        _fail(as_json, said.name, str(error), f"refused ({said.name}): {error}. Next: {said.step}", 1, error)
    except BrokerRefusedError as error:
        _fail(as_json, error.problem, f"{error.title}: {error.detail}", str(error), 1, error)
    except BrokerError as error:
        _fail(as_json, "broker-unreachable", str(error), str(error), 1, error)
    except (NodeError, CryptoError) as error:
        named = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
        name = f"image-{error.fault}" if isinstance(error, ImageError) else named
        _fail(as_json, name, str(error), str(error), 2, error)


def _fail(as_json: bool, name: str, detail: str, sentence: str, code: int, error: Exception) -> NoReturn:
    if as_json:
        print_json({"ok": False, "error": name, "detail": detail})
    typer.echo(f"sealmatch: {sentence.rstrip('.')}.", err=True)
    raise typer.Exit(code) from error
