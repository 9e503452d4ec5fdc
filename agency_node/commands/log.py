"""`sealmatch log`: the public log, verified without trusting the broker."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated

import typer

from agency_node.commands.output import AsJson, clock, print_json, print_table, sentences

app = typer.Typer(help="The public log.", epilog="Example: sealmatch log verify --node ./northport", no_args_is_help=True)


@app.callback()
def log() -> None:
    """Keep `verify` a subcommand, also while it is the only one."""


@app.command(epilog="Example: sealmatch log verify --broker https://broker.example.org --roster roster.json --root-fingerprint 3f…e1")
def verify(
    node: Annotated[Path | None, typer.Option(help="A node's folder: its pinned roster, and the head that it saw last.")] = None,
    broker: Annotated[str, typer.Option(help="Without a node: the broker's address.")] = "",
    roster: Annotated[Path | None, typer.Option(help="Without a node: the signed roster.")] = None,
    root_fingerprint: Annotated[str, typer.Option(help="Without a node: of the root set, as the root holders publish it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Read every leaf, hash it into the root, check the log's and the witnesses' signatures; count entries by kind and day."""
    with sentences(as_json):
        from agency_node.errors import RequestError  # noqa: PLC0415
        from agency_node.facts import Fact, read_fact  # noqa: PLC0415
        from agency_node.legal.ceremony import read_roster  # noqa: PLC0415
        from agency_node.link import BrokerLink  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.transport import Transport  # noqa: PLC0415
        from agency_node.verification import verify_log  # noqa: PLC0415
        from crypto.canonical import AgencyId  # noqa: PLC0415
        from crypto.checkpoint import SignedCheckpoint  # noqa: PLC0415
        from crypto.keys import SigningKey  # noqa: PLC0415
        from crypto.roster import TrustedRoster  # noqa: PLC0415

        seen = None
        if node is not None:
            opened = open_node(node, clock)
            link, trusted = opened.link, opened.parties.roster()
            with opened.engine.begin() as connection:
                stored = read_fact(connection, Fact.CHECKPOINT)
            seen = None if stored is None else SignedCheckpoint.from_bytes(stored)
        elif broker and roster is not None and re.fullmatch("[0-9a-f]{64}", root_fingerprint):
            trusted = TrustedRoster.pin(read_roster(roster), bytes.fromhex(root_fingerprint), clock()).at(clock())
            # the log is public: its requests are read by anybody, and a throw-away key signs them
            link = BrokerLink(Transport(broker, AgencyId("public"), SigningKey.generate(), clock))
        else:
            raise RequestError("name a --node, or --broker, --roster and --root-fingerprint (64 hexadecimal digits)")
        report = asyncio.run(verify_log(link, trusted, clock(), seen=seen))
    if as_json:
        print_json({"ok": True, "report": report, "roster_is_last": report.roster_is_last})
        return
    title = f"{report.origin}: {report.size} entries verified, {report.witnesses} witnesses"
    print_table(title, {"kind": True, "entries": True}, report.kinds.items())
    typer.echo(f"root {report.root}")
    for one in report.rosters:
        which = "another roster" if one.version is None else f"this roster, version {one.version}"
        typer.echo(f"roster change at entry {one.position}, {one.day}: {which}")
    if not report.roster_is_last:
        typer.echo("this roster is not the last one in the log: nodes do nothing under it; ask a root holder for the newest")
