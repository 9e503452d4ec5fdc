"""`sealmatch log`: the public log, verified without trusting the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agency_node.commands.output import AsJson, print_json, print_table, sentences

app = typer.Typer(help="The public log.", epilog="Example: sealmatch log verify --node ./northport", no_args_is_help=True)

NodeFolder = Annotated[Path | None, typer.Option("--node", help="A node's folder: its pinned roster, last head and own acts.")]
BrokerAddress = Annotated[str, typer.Option("--broker", help="Without a node: the broker's address.")]
RosterFile = Annotated[Path | None, typer.Option("--roster", help="Without a node: the signed roster.")]
RootFingerprint = Annotated[str, typer.Option("--root-fingerprint", help="Of the root set, as the root holders publish it.")]


@app.callback()
def log() -> None:
    """Keep every command a subcommand."""


@app.command(epilog="Example: sealmatch log verify ./bundle --root-fingerprint 3f…e1 --seen ./bundle-of-last-month")
def verify(
    bundle: Annotated[Path | None, typer.Argument(help="A folder that `log export` wrote; without it the broker is asked.")] = None,
    node: NodeFolder = None,
    broker: BrokerAddress = "",
    roster: RosterFile = None,
    root_fingerprint: RootFingerprint = "",
    seen: Annotated[list[Path] | None, typer.Option(help="An earlier bundle, or a file with a checkpoint that somebody was shown.")] = None,
    evidence: Annotated[Path | None, typer.Option(help="A party's own acts, from `log evidence`: each must have its entry.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hash every leaf into the root, check the log's and the witnesses' signatures, what was seen before, and a party's own acts."""
    with sentences(as_json):
        from agency_node.commands.log_files import reader, verify_offline, verify_online  # noqa: PLC0415

        if bundle is not None:
            report = verify_offline(bundle, node, roster, root_fingerprint, seen or [], evidence)
        else:
            report = verify_online(reader(node, broker, roster, root_fingerprint), seen or [], evidence)
    if as_json:
        print_json({"ok": True, "report": report, "roster_is_last": report.roster_is_last})
        return
    title = f"{report.origin}: {report.size} entries verified, {report.witnesses} witnesses"
    print_table(title, {"kind": True, "entries": True}, report.kinds.items())
    if report.acts:
        typer.echo(f"{report.acts} acts of a party, each with its entry")
    typer.echo(f"root {report.root}, cosigned {report.cosigned_at}")
    for one in report.rosters:
        which = "another roster" if one.version is None else f"this roster, version {one.version}"
        typer.echo(f"roster change at entry {one.position}, {one.day}: {which}")
    if not report.roster_is_last:
        typer.echo("this roster is not the last one in the log: nodes do nothing under it; ask a root holder for the newest")


@app.command("export", epilog="Example: sealmatch log export --node ./northport --into ./bundle")
def export_bundle(
    into: Annotated[Path, typer.Option(help="A new folder for the bundle.", show_default=False)],
    node: NodeFolder = None,
    broker: BrokerAddress = "",
    roster: RosterFile = None,
    root_fingerprint: RootFingerprint = "",
    as_json: AsJson = False,
) -> None:
    """Write the whole log as tiles that anybody verifies without a network: entries, hashes, cosigned checkpoint, roster."""
    with sentences(as_json):
        from agency_node.commands.log_files import export, reader  # noqa: PLC0415

        written = export(reader(node, broker, roster, root_fingerprint), into)
    if as_json:
        print_json({"ok": True, "bundle": written})
        return
    typer.echo(f"{written.origin}: {written.size} entries in {written.files} files in {into}")
    typer.echo(f"root {written.root}")


@app.command(epilog="Example: sealmatch log evidence --node ./northport --into northport-evidence.json")
def evidence(
    node: Annotated[Path, typer.Option(help="The node's folder.", show_default=False)],
    into: Annotated[Path, typer.Option(help="A new file.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Write which grants, answers, releases and disclosures this node knows, signed, for whoever checks that each has its entry.

    Who has the file can tell which entries of the log belong to these searches; it holds no person, case or score.
    """
    with sentences(as_json):
        from agency_node.commands.log_files import export_evidence  # noqa: PLC0415

        made = export_evidence(node, into)
    acts = sum(act.count for act in made.acts)
    if as_json:
        print_json({"ok": True, "agency": str(made.agency), "acts": acts, "log_size": made.log_after})
        return
    typer.echo(f"{acts} acts of {made.agency}, until the log had {made.log_after} entries, in {into}")
