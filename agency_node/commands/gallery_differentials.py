"""`sealmatch gallery differentials`: how often the face model errs with this gallery's own records, by groups of persons (R64)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.gallery import app
from agency_node.commands.output import AsJson, Folder, clock, member, plain, print_json, print_table, sentences
from agency_node.commands.signed_files import write_new
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from crypto.differentials import Differentials, Line, Rate


@app.command(epilog="Example: sealmatch gallery differentials ./lakeside --rate 0.001 --save ./differentials-2026.json")
def differentials(
    folder: Folder,
    rate: Annotated[float | None, typer.Option(help="Everybody's rate of false matches at which errors are counted; 0.001.")] = None,
    cosine: Annotated[float | None, typer.Option(help="The cosine at which errors are counted, instead of --rate.")] = None,
    by: Annotated[list[str] | None, typer.Option("--by", help="Show sex, race or age alone; may be given again.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where to write the signed document: counts in fives, no record.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the face model on this gallery's own records: false matches and false non-matches by sex, race and age, with intervals.

    Records take part that say which person they show. Nothing is sent. A gallery is measured once in thirty days.
    """
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.config import Role  # noqa: PLC0415
        from agency_node.holder.differentials import Asked, Measuring  # noqa: PLC0415
        from agency_node.holder.progress import TerminalProgress  # noqa: PLC0415
        from agency_node.holder.records import RecordStore  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from crypto.differentials import Differentials, Trait  # noqa: PLC0415

        asked, traits = Asked(rate, cosine), [member(Trait, one, "trait") for one in by or ()] or list(Trait)
        node = open_node(folder, clock)
        if Role.HOLDER not in node.config.roles:
            raise RequestError("this node is no holder, and has no gallery: name the folder of one")
        key = node.keyring.node_key
        with acting(node, "gallery differentials"):
            store = RecordStore(node.engine, node.vault, node.embedder().model)
            with TerminalProgress() as progress:
                data = Measuring(node.agency, node.engine, node.vault, key, store).newest(asked, clock(), progress)
            if save is not None:
                write_new(save, data)
        said = Differentials.read_own(data, key.verifying_key)
    if as_json:
        print_json(told_of(said, traits))
        return
    show(said, traits)


def told_of(said: Differentials, traits: Collection[str] = ("sex", "race", "age")) -> dict[str, object]:
    """What `--json` prints: the document, and the rates that follow from its counts."""
    told: dict[str, object] = plain(said)
    groups = [{"by": one.by.value, "label": one.label, **_rates(said, one.line)} for one in said.groups if one.by in traits]
    return told | {"everybody": _rates(said, said.everybody), "groups": groups, "withheld": [one.value for one in said.withheld]}


def show(said: Differentials, traits: Collection[str] = ("sex", "race", "age")) -> None:
    """Print a measurement."""
    at = "as given" if said.rate is None else f"where everybody's rate of false matches is at most {said.rate / 1_000_000:g}"
    typer.echo(f"{said.agency}, {plain(said.made_at)}: model {said.model}, {said.model_hash.hex()}")
    lines = [("everybody", said.everybody), *((f"{one.by} {one.label}", one.line) for one in said.groups if one.by in traits)]
    headings = ("group", "persons", "matched", "FMR", "FMR ratio", "seen twice", "missed", "FNMR", "FNMR ratio")
    held = [one.value for one in said.withheld if one in traits]
    caption = (
        "FMR and FNMR: rates of false matches and false non-matches of one comparison; ratios are to everybody's. Counts are in fives,\n"
        "each off by 4 at most, and the intervals of 95 % allow for it. A person counts in one table only."
    )
    print_table(
        f"about {said.records} records that say whom they show, at cosine {said.cosine / 100:.2f}, {at}",
        dict.fromkeys(headings, True),
        [_cells(said, name, line) for name, line in lines],
        caption,
    )
    if held:
        typer.echo(f"groups of fewer than five persons are not named: {', '.join(held)}")


def _cells(said: Differentials, name: str, line: Line) -> list[str]:
    matches, misses = type(line).false_match_rate, type(line).false_non_match_rate
    return [
        name,
        str(line.persons),
        _count(line.false_matches),
        _shown(line.false_match_rate()),
        _times(said, line, matches),
        str(line.twice),
        _count(line.false_non_matches),
        _shown(line.false_non_match_rate()),
        _times(said, line, misses),
    ]


def _count(count: int | None) -> str:
    if count is None:
        return "-"
    return str(count) if count else "fewer than 5"


def _shown(rate: Rate | None) -> str:
    if rate is None:
        return "too few persons"
    if rate.value is None:
        return f"at most {_percent(rate.high)}"
    return f"{_percent(rate.value)} ({_percent(rate.low)} to {_percent(rate.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _times(said: Differentials, line: Line, of: Callable[[Line], Rate | None]) -> str:
    ratio = said.ratio(line, of)
    return "" if ratio is None or line is said.everybody else f"{ratio:.2g}"


def _rates(said: Differentials, line: Line) -> dict[str, object]:
    told: dict[str, object] = plain(line)
    for name, of in (("false_match_rate", type(line).false_match_rate), ("false_non_match_rate", type(line).false_non_match_rate)):
        told |= {name: plain(of(line)), f"{name}_ratio": said.ratio(line, of)}
    return told
