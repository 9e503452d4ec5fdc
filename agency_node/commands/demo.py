"""`sealmatch demo`: the whole thing on this machine, with a table of who saw what at the end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from agency_node.commands.output import AsJson, plain, print_json, sentences

if TYPE_CHECKING:
    from agency_node.demo.federation import Federation
    from agency_node.demo.story import Result
    from agency_node.demo.views import View


def demo(
    seed: Annotated[int, typer.Option(help="Varies the synthetic records, and which of the two portraits is sought.", min=0)] = 0,
    cap: Annotated[int, typer.Option(help="Most leads, over all holders together.", min=1, max=50)] = 20,
    rate: Annotated[int, typer.Option(help="How many of a million searches may show a wrong person.", min=1, max=999_999)] = 1000,
    records: Annotated[int, typer.Option(help="Synthetic records of each holder.", min=100, max=1_000_000)] = 20_000,
    folder: Annotated[Path | None, typer.Option(help="Keep the federation's folders here; a temporary folder otherwise.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Leave everything running until Ctrl-C, and print where it is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a broker, three agencies and a custodian as processes here; search for a person; show who learned what."""
    console = Console(stderr=True)
    with sentences(as_json):
        from agency_node.demo.story import run_demo  # noqa: PLC0415

        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        place = folder or Path(tempfile.mkdtemp(prefix="sealmatch-demo-"))
        federation = None
        try:
            federation, result = run_demo(
                place,
                seed=seed,
                cap=cap,
                rate=rate,
                records=records,
                tell=lambda text: console.print(f"· {text}", style="dim", soft_wrap=True),
            )
            if as_json:
                print_json(as_object(result))
            else:
                print_result(result, Console())
            if serve:
                _stay(federation, console)
        finally:
            if federation is not None:
                federation.close()
            if folder is None:
                shutil.rmtree(place, ignore_errors=True)
    if not result.ok:
        failed = ", ".join(name for name, held in result.checks.items() if not held)
        typer.echo(f"sealmatch: the demonstration did not hold: {failed}. Please report it with the seed, {seed}.", err=True)
        raise typer.Exit(1)


def as_object(result: Result) -> dict[str, object]:
    """What `--json` prints."""
    shown = plain(result)
    return dict(shown)


def print_result(result: Result, console: Console) -> None:
    """For a person."""
    leads = Table(title="Leads", title_justify="left", caption="Investigative leads, not identifications.", caption_justify="left")
    for heading in ("rank", "band", "agency", "handle"):
        leads.add_column(heading)
    for one in result.leads:
        leads.add_row(str(one["rank"]), one["band"], one["agency"], one["handle"])
    console.print(leads)
    shown = result.disclosed
    if shown:
        console.print(f"Disclosed by {shown['agency']}'s own legal reviewer: record {shown['record_number']}\n")
    refused = Table(title="Refused", title_justify="left")
    for heading in ("what was tried", "refused by", "reason", "rule"):
        refused.add_column(heading)
    for case in result.refused:
        refused.add_row(case.case, case.by, case.reason, case.rule)
    console.print(refused)
    law = Table(title="Grants, clocks, bans and the log", title_justify="left")
    for heading in ("what was done", "what came of it"):
        law.add_column(heading)
    for kept in result.law:
        law.add_row(kept.what, kept.shown)
    console.print(law)
    if result.alarms:
        console.print(f"The custodian noticed scores that look planted, as some of the synthetic ones are: {result.alarms}\n")
    print_views(result.views, console)
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    console.print(f"seconds: {seconds}; in all {sum(result.seconds.values()):.0f}")


def print_views(views: Mapping[str, View], console: Console) -> None:
    """A row for each kind of message, a column for each party; from the bytes of this run and attempts with that party's keys."""
    table = Table(title="Who saw what, from the bytes of this run", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("message", no_wrap=True)
    for party, view in views.items():
        table.add_column(f"{party.replace('-', '-' + chr(10))}\n[dim]{view.role}[/dim]", no_wrap=True)
    for kind in sorted({kind for view in views.values() for kind in view.saw}):
        sealed = any(kind in view.could_not_open for view in views.values())
        table.add_row(kind, *(_cell(view, kind, sealed) for view in views.values()))
    table.add_row("bytes", *(f"{view.saw_bytes:,}" for view in views.values()))
    table.add_row("attempts", *(f"{view.attempts:,}" for view in views.values()))
    console.print(table)
    console.print(
        "open: its keys open so many of them. shut: it sent, fetched or carried so many, and none of its keys opens one.\n"
        "no: it was not sent any; tried with its keys all the same, none opened. plain: not sealed, by design.\n",
        style="dim",
    )


def _cell(view: View, kind: str, sealed: bool) -> str:
    if not sealed:
        return f"{view.saw[kind]} plain" if kind in view.saw else "no"
    if kind in view.opened:
        return f"{view.opened[kind]} open"
    return f"{view.saw[kind]} shut" if kind in view.saw else "no"


def _stay(federation: Federation, console: Console) -> None:
    console.print(
        f"\nThe broker listens at http://127.0.0.1:{federation.broker_port}; every party's folder is in {federation.folder}. Try:"
    )
    console.print(f"  sealmatch node status {federation.folder / 'northport-pd'}")
    console.print(f"  sealmatch log verify --node {federation.folder / 'northport-pd'}")
    console.print("Ctrl-C ends everything.")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
