"""`sealmatch node backup|restore|restore-key`: one sealed file of a node, and the node from it. The commands join those of `node`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, print_json, sentences
from agency_node.commands.person import KeyFile, WithoutPassphrase, checked_agency, new_passphrase, show
from agency_node.errors import RequestError


@app.command("restore-key", epilog="Example: sealmatch node restore-key ./restore.key --agency lakeside-sheriff --json")
def restore_key(
    file: KeyFile,
    agency: Annotated[str, typer.Option(help="The agency whose machine this is.")],
    no_passphrase: WithoutPassphrase = False,
    as_json: AsJson = False,
) -> None:
    """Make, on the machine to which a node is to come, the key to which the old machine seals it, and print the public half."""
    with sentences(as_json):
        from agency_node.backup.restore_key import RestoreEntry  # noqa: PLC0415
        from agency_node.legal.persons import create_restore_key  # noqa: PLC0415

        named = checked_agency(agency)
        passphrase = new_passphrase("the restore key", no_passphrase)
        entry = RestoreEntry(named, create_restore_key(file, named, passphrase, without_passphrase=no_passphrase))
    show(
        entry.to_json(),
        f"{file} stays on this machine. Carry the entry above to the old one, for `node backup --to`; there compare {entry.key_id}",
        as_json,
    )


@app.command(epilog="Example: sealmatch node backup ./lakeside --into /mnt/backups/lakeside-2026-11-30.sealed")
def backup(
    folder: Folder,
    into: Annotated[Path, typer.Option(help="The new file.")],
    to: Annotated[Path | None, typer.Option(help="A public restore key of this agency, instead of a passphrase.")] = None,
    move: Annotated[bool, typer.Option("--move", help="With --to: the node goes to that machine, and acts here no more.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --move, after a move: its sealed file was lost, and no node made from it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write store, keys and settings into one file under a passphrase (SEALMATCH_PASSPHRASE, or typed), while the node serves.

    With --to it is sealed to a key of the machine that opens it, and no passphrase travels. Keys of searches, the witness key and the
    ledger of expunged records are not in it.
    """
    with sentences(as_json):
        from agency_node.backup.making import make_backup  # noqa: PLC0415
        from agency_node.backup.moving import move_node  # noqa: PLC0415
        from agency_node.backup.restore_key import RestoreEntry  # noqa: PLC0415
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.legal.persons import ask_passphrase  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415

        if move and to is None:
            raise RequestError("a node moves to a machine's key: make it there with `sealmatch node restore-key`, and name it with --to")
        if replace and not move:
            raise RequestError("--replace belongs to --move: a backup needs nothing of the kind")
        entry = None if to is None else RestoreEntry.read(to)
        node = open_node(folder, clock, retired=move)
        with acting(node, "node backup") as act:
            if move and entry is not None:
                head = move_node(node, into, entry, clock, replaces=replace)
            else:
                head = make_backup(node, into, entry or ask_passphrase("the backup", new=True), clock)
            act.detail = f"ledger of expunged records at {head.expunged.number}"
    size, reach = into.stat().st_size, head.expunged.number
    if as_json:
        said = {"agency": str(head.agency), "made_at": head.made_at, "bytes": size, "expunged": reach}
        print_json(said if entry is None else {**said, "key_id": str(entry.key_id), "moved": move})
        return
    opens = "the passphrase" if entry is None else f"the restore key {entry.key_id}"
    typer.echo(f"{head.agency} is in {into}, {size} bytes; it opens with {opens}, and nothing else opens it")
    if move:
        typer.echo("this node acts here no more: destroy this folder when the other machine serves, and every older copy of it")
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
    key: Annotated[Path | None, typer.Option(help="The restore key of this machine, where the backup is sealed to one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a node from its backup. Records that were expunged since are destroyed again before the node answers anybody (R25).

    After a move the restore key is deleted: what travelled opens nowhere any more.
    """
    with sentences(as_json):
        import os  # noqa: PLC0415

        from agency_node.backup.restoring import restore_backup  # noqa: PLC0415
        from agency_node.journal import acting_as  # noqa: PLC0415
        from agency_node.legal.persons import ask_passphrase, read_restore_key  # noqa: PLC0415
        from crypto.canonical import AgencyId  # noqa: PLC0415
        from crypto.errors import CryptoError  # noqa: PLC0415

        try:
            named = AgencyId(agency)
        except CryptoError as error:
            raise RequestError("an agency id is lower-case letters, digits and hyphens, such as northport-pd") from error
        with acting_as(f"account {os.getuid()}", "command node restore"):
            opens = ask_passphrase("the backup") if key is None else read_restore_key(key)
            done = restore_backup(file, folder, named, opens, expunged, entries, clock)
        if done.moved and key is not None:
            key.unlink()
    if as_json:
        said = {"made_at": done.made_at, "expunged_again": done.expunged_again, "ledger_entries": done.ledger.number}
        print_json({"agency": str(done.agency), **said, "ledger_at": done.ledger.at, "moved": done.moved})
        return
    typer.echo(f"{done.agency} is in {folder}, as of {done.made_at.isoformat()}; what was under way then has ended")
    if done.moved:
        typer.echo("it was moved here: the node that it was acts no more, and the restore key is deleted")
    if expunged is not None:
        last = f", the last of {done.ledger.at}" if done.ledger.at else ""
        typer.echo(f"expunged again: {done.expunged_again} records; the ledger has {done.ledger.number} lines{last}")
        if done.ledger.number > entries:
            typer.echo("whether later lines were cut off it, it cannot say: compare its number with the note of the last expunging")
