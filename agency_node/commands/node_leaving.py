"""`sealmatch node leave|receipt`: a node leaves the federation and says, signed, what it destroyed; anybody checks that. They join `node`.

`leave` goes on where it was stopped: the order is signed once, every later time the command is typed without a key.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, plain, print_json, sentences
from agency_node.commands.signed_files import read_document, write_new
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.commands.acting import Act
    from agency_node.leaving import Leaving, OpenWork
    from agency_node.node import Node


@app.command(epilog="Example: sealmatch node leave ./lakeside --person counsel.key --receipt ./lakeside-left.json")
def leave(
    folder: Folder,
    receipt: Annotated[Path, typer.Option(help="Where to write the signed deletion receipt.")],
    person: Annotated[
        Path | None, typer.Option(help="The first time: the key file of a legal reviewer or the responsible officer, who orders it.")
    ] = None,
    refuse_open: Annotated[bool, typer.Option("--refuse-open", help="End what is open; others learn it at their deadlines.")] = False,
    without_broker: Annotated[
        bool, typer.Option("--without-broker", help="The broker is gone: no entry in the log, no receipt of its deletions.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
    as_json: AsJson = False,
) -> None:
    """Leave the federation: finish what is open, destroy gallery, templates and keys, and sign a receipt. There is no way back.

    The audit ledger and what evidence and audits need are kept, and named in the receipt. Broken off, it goes on with the same command.
    """
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.leaving import Leaving, made_receipt, roster_removal  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.retiring import Stage, nobody_serves_in, retirement  # noqa: PLC0415

        if receipt.exists():
            raise RequestError(f"{receipt} is there already, and no signed document is overwritten: name another file")
        node = open_node(folder, clock, retired=True)
        stage = retirement(node.engine)
        if stage is not None and stage.stage in (Stage.MOVING, Stage.MOVED):
            raise RequestError(f"{stage.says}: leave with the node that goes on")
        leaving = Leaving(node, clock)
        if stage is not None and stage.stage is Stage.LEFT:
            with nobody_serves_in(folder):
                leaving.end()  # where that was stopped; else it changes nothing that anybody uses
        else:
            with acting(node, "node leave") as act:
                open_work = _begin(node, act, leaving, person, refuse_open=refuse_open, yes=yes)
                if open_work is not None:
                    act.detail = "work is open"
                    _tell_open(open_work, as_json=as_json)
                    raise typer.Exit(1)
                with nobody_serves_in(folder):
                    leaving.destroy()
                    asyncio.run(_finish(node, leaving, without_broker=without_broker))
                    leaving.end()
        document = made_receipt(node)
        if document is None:
            raise RequestError("this node left and has no receipt: its store was changed; keep it, and tell the federation")
        write_new(receipt, document)
        removal = roster_removal(node, document, node.parties.trusted.possibly_expired)
    if as_json:
        print_json({"left": True, "receipt": receipt, "roster_removal": plain(removal)})
        return
    typer.echo(f"{node.agency} left: its gallery, templates and keys are destroyed; the receipt is {receipt}")
    typer.echo("kept, under keys/at-rest.key: what the receipt names. Backups and copies of before still hold all of it: destroy them too")
    typer.echo(f"for the root holders, who draft the roster after version {removal.roster_version} without it:")
    persons, named_by = ", ".join(removal.persons) or "none", ", ".join(removal.named_by) or "nobody"
    typer.echo(f"  agency {removal.agency}, persons {persons}; named by {named_by}")
    typer.echo(f"  receipt {removal.receipt_sha256}")


@app.command(epilog="Example: sealmatch node receipt ./lakeside-left.json --roster roster.json --root-fingerprint 3f…e1")
def receipt(
    file: Annotated[Path, typer.Argument(help="The deletion receipt.", metavar="RECEIPT", show_default=False)],
    roster: Annotated[Path, typer.Option(help="The roster that last listed the agency.")],
    root_fingerprint: Annotated[str, typer.Option(help="Of the root set, told by the root holders.")],
    as_json: AsJson = False,
) -> None:
    """Check the deletion receipt of an agency that left: offline, with nothing but a roster and the root set's fingerprint."""
    with sentences(as_json):
        from agency_node.leave_receipt import (  # noqa: PLC0415
            LEAVE_RECEIPT_KIND,
            LeaveOrder,
            LeaveReceipt,
            receipt_subject,
        )
        from agency_node.legal.ceremony import read_roster  # noqa: PLC0415
        from crypto.roster import TrustedRoster  # noqa: PLC0415

        try:
            fingerprint = bytes.fromhex(root_fingerprint)
        except ValueError as error:
            raise RequestError("a root fingerprint is 64 hexadecimal digits, as `sealmatch roster root-set` prints it") from error
        trusted = TrustedRoster.resume(read_roster(roster), fingerprint).possibly_expired
        document = read_document(file, LEAVE_RECEIPT_KIND.max_bytes)
        said = LeaveReceipt.read(document, trusted)
        order = LeaveOrder.read(said.order, trusted)
        subject = receipt_subject(document, said.agency).hex()
    if as_json:
        shown: dict[str, Any] = {**plain(said), "order": plain(order), "log_subject": subject}
        print_json(shown)
        return
    typer.echo(f"{said.agency} destroyed {said.records} records with {said.photographs} photographs at {said.destroyed_at.isoformat()}")
    typer.echo(f"ordered by {order.person}; its node key signed, as the roster's version {trusted.version} lists it")
    told = f"deleted {said.mailbox_messages} messages and gave receipts" if said.broker_told else "was not asked"
    typer.echo(f"the broker {told}; where it was asked, the public log has a holder's expunction with subject {subject}")
    typer.echo(f"kept: {', '.join(said.kept) or 'nothing'}; the audit ledger ends at row {said.ledger_rows}")


def _begin(node: Node, act: Act, leaving: Leaving, person: Path | None, *, refuse_open: bool, yes: bool) -> OpenWork | None:
    """The order, the first time; what is still open and keeps the node from going on."""
    from agency_node.commands.acting import person_key  # noqa: PLC0415
    from agency_node.holder.subject_requests import Signer  # noqa: PLC0415
    from agency_node.retiring import Stage, retirement  # noqa: PLC0415

    stage = retirement(node.engine)
    if stage is None:
        if person is None:
            raise RequestError("legal staff orders a node to leave: name the key file of a reviewer or the officer with --person")
        signer = Signer(node.agency, node.parties.roster(), person_key(node, act, person))
        if not yes:
            _ask(node)
        leaving.order(signer)
    elif stage.stage is Stage.DESTROYING:
        return None
    work = leaving.open_work()
    return work if work.persons or (work.ends and not refuse_open) else None


def _ask(node: Node) -> None:
    if not sys.stdin.isatty():
        raise RequestError("this destroys the gallery for good: type --yes where nobody can be asked")
    if not typer.confirm(f"Destroy the gallery, templates and keys of {node.agency} for good, and leave the federation?", err=True):
        raise RequestError("nothing was done")


def _tell_open(work: OpenWork, *, as_json: bool) -> None:
    if as_json:
        print_json({"left": False, "open": work.ends, "persons": work.persons})
        return
    for name, count in {**work.ends, **work.persons}.items():
        typer.echo(f"still open: {count} {name}")
    typer.echo("the node takes nothing new; let it serve until this has ended and type the command again, or end it with --refuse-open")


async def _finish(node: Node, leaving: Leaving, *, without_broker: bool) -> None:
    try:
        if not without_broker:
            await leaving.tell_broker()
        leaving.sign_receipt(broker_told=not without_broker)
        if not without_broker:
            await leaving.enter_receipt()
    finally:
        await node.transport.close()
