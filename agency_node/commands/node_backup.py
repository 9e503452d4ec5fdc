"""`sealmatch node backup|restore`: one sealed file of a node, and the node from it. The commands join those of `node`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, print_json, sentences
from agency_node.errors import RequestError


@app.command(epilog="Example: sealmatch node backup ./lakeside --into /mnt/backups/lakeside-2026-11-30.sealed")
def backup(
    folder: Folder,
    into: Annotated[Path, typer.Option(help="The new file.")],
    as_json: AsJson = False,
) -> None:
    """Write store, keys and settings into one file under a passphrase (SEALMATCH_PASSPHRASE, or typed), while the node serves.

    Keys of searches, the witness key and the ledger of expunged records are not in it.
    """
    with sentences(as_json):
        from agency_node.backup.making import make_backup  # noqa: PLC0415
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.legal.persons import ask_passphrase  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415

        node = open_node(folder, clock)
        with acting(node, "node backup") as act:
            head = make_backup(node, into, ask_passphrase("the backup", new=True), clock)
            act.detail = f"ledger of expunged records at {head.expunged.number}"
    size, reach = into.stat().st_size, head.expunged.number
    if as_json:
        print_json({"agency": str(head.agency), "made_at": head.made_at, "bytes": size, "expunged": reach})
        return
    typer.echo(f"{head.agency} is in {into}, {size} bytes; it opens with the passphrase, and nothing else opens it")
    if reach:
        typer.echo(f"keep the ledger of expunged records beside it and not in it: {reach} lines now")


@app.command(
    epilog="Example: sealmatch node restore /mnt/backups/lakeside-2026-11-30.sealed ./lakeside --agency lakeside-sheriff "
    "--expunged /mnt/ledger/expunged.jsonl --entries 17"
)
def restore(
    file: Annotated[Path, typer.Argument(help="The backup.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="The node's folder, which is not there yet.", metavar="DIR", show_default=False)],
    agency: Annotated[str, typer.Option(help="The agency whose machine this is; a backup opens at no other.")],
    expunged: Annotated[Path | None, typer.Option(help="Holder: the newest ledger of expunged records.")] = None,
    entries: Annotated[int, typer.Option(min=0, help="Holder: how many lines that ledger has, as the last expunging said.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a node from its backup. Records that were expunged since are destroyed again before the node answers anybody (R25)."""
    with sentences(as_json):
        import os  # noqa: PLC0415

        from agency_node.backup.restoring import restore_backup  # noqa: PLC0415
        from agency_node.journal import acting_as  # noqa: PLC0415
        from agency_node.legal.persons import ask_passphrase  # noqa: PLC0415
        from crypto.canonical import AgencyId  # noqa: PLC0415
        from crypto.errors import CryptoError  # noqa: PLC0415

        try:
            named = AgencyId(agency)
        except CryptoError as error:
            raise RequestError("an agency id is lower-case letters, digits and hyphens, such as northport-pd") from error
        with acting_as(f"account {os.getuid()}", "command node restore"):
            done = restore_backup(file, folder, named, ask_passphrase("the backup"), expunged, entries, clock)
    if as_json:
        said = {"made_at": done.made_at, "expunged_again": done.expunged_again, "ledger_entries": done.ledger.number}
        print_json({"agency": str(done.agency), **said, "ledger_at": done.ledger.at})
        return
    typer.echo(f"{done.agency} is in {folder}, as of {done.made_at.isoformat()}; what was under way then has ended")
    if expunged is not None:
        last = f", the last of {done.ledger.at}" if done.ledger.at else ""
        typer.echo(f"expunged again: {done.expunged_again} records; the ledger has {done.ledger.number} lines{last}")
        if done.ledger.number > entries:
            typer.echo("whether later lines were cut off it, it cannot say: compare its number with the note of the last expunging")
