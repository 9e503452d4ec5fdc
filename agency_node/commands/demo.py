"""`sealmatch demo`: the whole thing on this machine, with a table of who saw what at the end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from agency_node.commands.output import AsJson, plain, print_json, sentences

if TYPE_CHECKING:
    from agency_node.demo.federation import Federation
    from agency_node.demo.story import Result


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
    if result.alarms:
        console.print(f"The custodian noticed scores that look planted, as some of the synthetic ones are: {result.alarms}\n")
    views = Table(title="Who saw what, from the bytes of this run", title_justify="left", show_lines=True)
    for heading in ("party", "saw: messages it sent, fetched or carried", "could read: its keys open", "stayed shut: tried with its keys"):
        views.add_column(heading, overflow="fold")
    for party, view in result.views.items():
        views.add_row(
            f"{party}\n({view.role})",
            f"{_counts(view.saw)}\n\n{view.saw_bytes:,} bytes",
            _counts(view.opened) or "nothing",
            f"{_counts(view.could_not_open)}\n\n{view.attempts} attempts",
        )
    console.print(views)
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    console.print(f"seconds: {seconds}; in all {sum(result.seconds.values()):.0f}")


def _counts(counts: object) -> str:
    if not isinstance(counts, dict):
        return ""
    return "\n".join(f"{count} {name}" for name, count in sorted(counts.items()))


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
