"""`sealmatch node subject`: a person asks about one record of a holder's gallery, and what becomes of it. It joins the commands of `node`.

Invariants: a photograph is taken with a record's number, or with a request that has one, and read nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, member, plain, print_json, print_table, sentences
from agency_node.commands.signed_files import read_document, write_new
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.commands.acting import Act
    from agency_node.holder.subject_requests import SubjectRequest, SubjectRequests
    from agency_node.node import Node

MAX_PHOTOGRAPH_BYTES = 64 << 20


@app.command(epilog="Example: sealmatch node subject ./lakeside --record L-2021-000093 --person counsel.key --save answer.json")
def subject(
    folder: Folder,
    record_number: Annotated[str, typer.Option("--record", metavar="NUMBER", help="Receive a request about this record.")] = "",
    answer: Annotated[str, typer.Option("--answer", metavar="REQUEST", help="Answer a request; the first digits of its id will do.")] = "",
    photo: Annotated[
        Path | None, typer.Option(help="A photograph that the person brought: compared with that record's alone, and kept nowhere.")
    ] = None,
    ask: Annotated[str, typer.Option("--ask", metavar="REQUEST", help="The person asks for more after the answer; with --for.")] = "",
    asked: Annotated[str, typer.Option("--for", help="With --ask: correction or expunction.")] = "",
    close: Annotated[str, typer.Option("--close", metavar="REQUEST", help="End an answered request; with --as.")] = "",
    outcome: Annotated[str, typer.Option("--as", help="With --close: satisfied, corrected, expunged or refused.")] = "",
    person: Annotated[Path | None, typer.Option(help="The key file of a legal reviewer or the responsible officer, who signs.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where to write the signed answer or closing, for the person.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a person who asks whether a record is in the gallery, and follow what they ask for (R26); without options, list what is open.

    By record number, because a gallery keeps no names. With --record and --person the request is answered at once.
    """
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.config import Role  # noqa: PLC0415
        from agency_node.holder.subject_requests import SubjectRequests  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415

        if sum(map(bool, (record_number, answer, ask, close))) > 1:
            raise RequestError("one step at a time: --record, --answer, --ask or --close")
        if photo is not None and not ((record_number and person) or answer):
            raise RequestError(
                "a photograph is compared with one record: name the record with --record and sign with --person, or --answer"
            )
        if (answer or close) and person is None:
            raise RequestError("legal staff signs for an answer and for a closing: name the key file with --person")
        if save is not None and save.exists():
            raise RequestError(f"{save} is there already, and no signed document is overwritten: name another file")
        node = open_node(folder, clock)
        if Role.HOLDER not in node.config.roles:
            raise RequestError("this node is no holder: ask at the node whose gallery it is about")
        requests = SubjectRequests(node.engine, node.vault, node.config.subject_requests, clock)
        if not (record_number or answer or ask or close):
            _list(requests.open_requests(), as_json=as_json)
            return
        with acting(node, "node subject") as act:
            if record_number:
                received = requests.receive(record_number)
                act.subject = f"request {received.request_id}"
                if person is None:
                    said = plain(received)
                    print_json(said) if as_json else typer.echo(f"request {received.request_id}: received, due {received.due_at}")
                    return
                answer = received.request_id
            act.subject = f"request {(request_id := requests.full_id(answer or ask or close))}"
            if answer and person is not None:
                _answer(node, act, requests, request_id, photo, person, save, as_json=as_json)
            elif close and person is not None:
                _close(node, act, requests, request_id, outcome, person, save, as_json=as_json)
            else:
                _ask(requests, request_id, asked, folder, as_json=as_json)


def _answer(
    node: Node,
    act: Act,
    requests: SubjectRequests,
    request_id: str,
    photo: Path | None,
    person: Path,
    save: Path | None,
    *,
    as_json: bool,
) -> None:
    from agency_node.commands.acting import person_key  # noqa: PLC0415
    from agency_node.holder.records import RecordStore  # noqa: PLC0415
    from agency_node.holder.subject_requests import Signer  # noqa: PLC0415

    picture = None if photo is None else read_document(photo, MAX_PHOTOGRAPH_BYTES)
    signer = Signer(node.agency, node.parties.roster(), person_key(node, act, person))
    embedder = node.embedder()
    given = requests.answer(request_id, RecordStore(node.engine, node.vault, embedder.model), embedder, picture, signer)
    if save is not None:
        write_new(save, given.document)
    if as_json:
        print_json({"request_id": request_id, "verdict": given.verdict, "pictured": given.pictured, "salt": given.salt})
        return
    typer.echo(f"request {request_id}: the record is {given.verdict}{f'; {given.pictured}' if given.pictured else ''}")
    typer.echo(f"tell the person the salt of the signed answer: {given.salt.hex()}")


def _ask(requests: SubjectRequests, request_id: str, asked: str, folder: Path, *, as_json: bool) -> None:
    from agency_node.holder.subject_requests import Asked  # noqa: PLC0415

    wanted = member(Asked, asked, "thing to ask for")
    number = requests.ask(request_id, wanted)
    step = f"sealmatch node expunge {folder} {number} --reason error"
    if as_json:
        print_json({"request_id": request_id, "asked": wanted, "next": step})
        return
    typer.echo(f"request {request_id}: {wanted} asked for; whoever decides so types: {step}")
    if wanted is Asked.CORRECTION:
        typer.echo("what is right is then enrolled under a new number: a record is never changed where it stands")


def _close(
    node: Node, act: Act, requests: SubjectRequests, request_id: str, outcome: str, person: Path, save: Path | None, *, as_json: bool
) -> None:
    from agency_node.commands.acting import person_key  # noqa: PLC0415
    from agency_node.holder.subject_requests import Outcome, Signer  # noqa: PLC0415

    ended = member(Outcome, outcome, "way to close a request")
    document = requests.close(request_id, ended, Signer(node.agency, node.parties.roster(), person_key(node, act, person)))
    if save is not None:
        write_new(save, document)
    print_json({"request_id": request_id, "outcome": ended}) if as_json else typer.echo(f"request {request_id}: closed as {ended}")


def _list(found: list[SubjectRequest], *, as_json: bool) -> None:
    if as_json:
        print_json({"requests": plain(found)})
        return
    headings = {"request": True, "state": False, "received": False, "due": False, "asked for": False, "": False}
    rows = [[one.request_id, one.state, one.received_at, one.due_at, one.asked, one.warning] for one in found]
    print_table("requests of persons about their records", headings, rows)
