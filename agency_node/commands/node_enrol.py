"""`sealmatch node enrol`: photographs into a gallery, once from a folder or files, or from every drop of a folder that is watched."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, plain, print_json, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.holder.enrol import EnrolmentReport
    from agency_node.holder.watching import DropReport
    from agency_node.node import Node


@app.command(epilog="Example: sealmatch node enrol ./lakeside --folder ./photographs --table ./photographs.csv --refused ./refused.csv")
def enrol(
    folder: Folder,
    photographs: Annotated[Path | None, typer.Option("--folder", help="Folder with the photographs.")] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns file, record_number, captured, source_class; also booking_event, disposition, disposition_date, "
            "and, for measuring by groups, person, sex, race, birth_year."
        ),
    ] = None,
    itl: Annotated[Path | None, typer.Option(help="An ANSI/NIST-ITL file with Type-10 photographs, or a folder of them.")] = None,
    refused: Annotated[Path | None, typer.Option(help="Where to write the rows that were refused, and why.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Synthetic directions (npz); demonstration and test modes only.")] = None,
    watch: Annotated[Path | None, typer.Option(help="Folder of a booking system's drops: each is enrolled once it is whole.")] = None,
    once: Annotated[bool, typer.Option("--once", help="With --watch: take what is whole now, and end.")] = False,
    settle: Annotated[int | None, typer.Option(help="With --watch: seconds without a change until a drop is taken.", min=0)] = None,
    end_marker: Annotated[str | None, typer.Option(help="With --watch: the file that ends a drop, e.g. complete.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes that work on pictures; one a core if left out.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Enrol photographs, from a folder with a table or from ANSI/NIST-ITL files; a run that was stopped goes on where it was.

    With --watch it goes on with every drop of a folder until SIGTERM; `[intake]` in node.toml makes `node serve` do so.
    """
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.config import Role  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.retiring import check_takes_new  # noqa: PLC0415

        node = open_node(folder, clock)
        check_takes_new(node.engine)
        if Role.HOLDER not in node.config.roles:
            raise RequestError("this node is no holder: enrol photographs at the node whose gallery they belong to")
        if (photographs is None) != (table is None) or (refused is not None and itl is not None and table is not None):
            raise RequestError("--folder and --table belong together, and --refused takes the list of one source: run the other by itself")
        if watch is None and (once or settle is not None or end_marker is not None):
            raise RequestError("--once, --settle and --end-marker say how a folder of drops is watched: name it with --watch")
        if watch is not None:
            if any(one is not None for one in (photographs, itl, embeddings, refused)):
                raise RequestError("--watch takes drops alone, each with a list of refused rows of its own: run the other by itself")
            changes = {"folder": str(watch.resolve()), "settle_s": settle, "end_marker": end_marker}
            _watch(node, {name: value for name, value in changes.items() if value is not None}, once, processes, as_json=as_json)
            return
        with acting(node, "node enrol") as act:
            reports = _enrolled(node, photographs, table, itl, refused, embeddings, processes)
            if not reports:
                raise RequestError("nothing to enrol: name --folder and --table, or --itl, or --watch")
            act.detail = f"{sum(one.enrolled for one in reports)} records"
    if as_json:
        print_json({"enrolled": sum(one.enrolled for one in reports), "reports": plain(reports)})
        return
    for one in reports:
        typer.echo(f"enrolled {one.enrolled}, already there {one.already_enrolled}, refused {len(one.refused)}")


def _enrolled(
    node: Node,
    photographs: Path | None,
    table: Path | None,
    itl: Path | None,
    refused: Path | None,
    embeddings: Path | None,
    processes: int | None,
) -> list[EnrolmentReport]:
    from agency_node.config import Mode  # noqa: PLC0415
    from agency_node.holder.enrol import enrol_embeddings, enrol_folder, enrol_itl  # noqa: PLC0415
    from agency_node.holder.portraying import portrayer_of  # noqa: PLC0415
    from agency_node.holder.progress import TerminalProgress  # noqa: PLC0415
    from agency_node.holder.records import RecordStore  # noqa: PLC0415

    embedder, config = node.embedder(), node.config
    store, demonstration = RecordStore(node.engine, node.vault, embedder.model), config.mode is not Mode.PRODUCTION
    reports = []
    with portrayer_of(node, embedder, processes) as portrayer:
        if embeddings is not None:
            if not demonstration:
                raise RequestError("synthetic records are for demonstration and test modes; in production enrol photographs with --folder")
            with TerminalProgress() as progress:
                reports.append(enrol_embeddings(store, embeddings, progress, clock()))
        if photographs is not None and table is not None:
            given = (store, embedder, photographs, table)
            with TerminalProgress() as progress:
                reports.append(
                    enrol_folder(*given, progress, clock(), refused_csv=refused, allow_demonstration=demonstration, portrayer=portrayer)
                )
        if itl is not None:
            with TerminalProgress() as progress:
                reports.append(enrol_itl(store, embedder, itl, config.itl, progress, clock(), refused_csv=refused, portrayer=portrayer))
    return reports


def _watch(node: Node, changes: dict[str, str | int], once: bool, processes: int | None, *, as_json: bool) -> None:
    """Watch a folder, with the rules of node.toml but for these changes."""
    from agency_node.commands.acting import acting  # noqa: PLC0415
    from agency_node.config import NodeConfig  # noqa: PLC0415
    from agency_node.holder.watch_process import watcher_of  # noqa: PLC0415

    values = node.config.model_dump(mode="json", exclude_defaults=True)
    rules = NodeConfig.checked({**values, "intake": {**values.get("intake", {}), **changes}}).intake
    stop, reports = threading.Event(), []
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def told(report: DropReport) -> None:
        reports.append(report)
        if not as_json:
            counts = f"enrolled {report.enrolled}, already there {report.already_enrolled}, refused {report.refused}"
            typer.echo(f"drop {report.drop}: {f'failed: {report.failed}' if report.failed else counts}")

    try:
        with acting(node, "node enrol") as act, watcher_of(node, rules, stop, processes) as watcher:
            watcher.watch(told, once=once)
            act.detail = f"{len(reports)} drops, {sum(one.enrolled for one in reports)} records"
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        print_json({"drops": plain(reports), "waiting": watcher.waiting})
    elif once:
        typer.echo(f"{len(reports)} drops taken, {watcher.waiting} not whole yet")
