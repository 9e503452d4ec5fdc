"""`sealmatch person`: people make their own keys; the public entry goes to the root holders, the file stays with the person.

What is printed is public. Passphrases come from SEALMATCH_PASSPHRASE or a prompt, never from an option.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agency_node.commands.output import AsJson, print_json, sentences
from agency_node.errors import RequestError
from crypto.canonical import AgencyId, PersonId, b64url_encode
from crypto.errors import FieldError
from crypto.roster_entries import PersonRole

app = typer.Typer(
    help="Keys of persons and of legal offices, kept apart from any node.",
    epilog="Example: sealmatch person --help",
    no_args_is_help=True,
)
KeyFile = Annotated[Path, typer.Argument(help="The key file to make; it is never overwritten.", metavar="FILE", show_default=False)]
WithoutPassphrase = Annotated[bool, typer.Option("--no-passphrase", help="Make the key without a passphrase: for demonstrations only.")]


@app.command(
    epilog="Example: sealmatch person init detective-4.key --id northport-pd:detective-4 --role investigator --trained-until 2027-06-30"
)
def init(
    file: KeyFile,
    person: Annotated[str, typer.Option("--id", help="Agency, colon, and a name within it, e.g. northport-pd:detective-4.")],
    role: Annotated[PersonRole, typer.Option(help="What the key may sign.")],
    trained_until: Annotated[
        datetime,
        typer.Option(formats=["%Y-%m-%d"], metavar="DAY", help="Last day of the training certificate; no signature counts after it."),
    ],
    no_passphrase: WithoutPassphrase = False,
    as_json: AsJson = False,
) -> None:
    """Make a person's key and print the public entry, which goes to the root holders."""
    with sentences(as_json):
        from agency_node.legal.persons import create_person_key  # noqa: PLC0415
        from crypto.moments import check_day  # noqa: PLC0415

        try:
            person_id = PersonId(person)
            check_day(trained_until.date(), "--trained-until")
        except FieldError as error:
            raise RequestError(f"this is no entry of a person: {error}") from error
        agency_of(person_id)
        credential = create_person_key(
            file, person_id, role, new_passphrase(f"the new key of {person_id}", no_passphrase), without_passphrase=no_passphrase
        )
    show(
        {"id": str(person_id), "trained_until": trained_until.date().isoformat(), "credentials": [credential]},
        f"{file} is {person_id}'s own key. Send the entry above to {_goes_to(role)}",
        as_json,
    )


@app.command(epilog="Example: sealmatch person discovery discovery.key --agency northport-attorney --json")
def discovery(
    file: KeyFile,
    agency: Annotated[str, typer.Option(help="The legal office that keeps the key.")],
    no_passphrase: WithoutPassphrase = False,
    as_json: AsJson = False,
) -> None:
    """Make a legal office's discovery key, to which the scores of its agencies' searches are sealed, and print the public half."""
    with sentences(as_json):
        from agency_node.legal.persons import create_discovery_key  # noqa: PLC0415

        office = checked_agency(agency)
        public = create_discovery_key(
            file, office, new_passphrase(f"the discovery key of {office}", no_passphrase), without_passphrase=no_passphrase
        )
    show(
        {"agency": str(office), "discovery_key": b64url_encode(public.raw)},
        f"{file} opens what is sealed for discovery: keep it in the legal office. Name the discovery_key above in `sealmatch node init`",
        as_json,
    )


def _goes_to(role: PersonRole) -> str:
    if role is PersonRole.REVIEWER:
        return "the head of the legal office, who vouches for it: sealmatch roster countersign ENTRY.json"
    return "the root holders: sealmatch roster draft --person ENTRY.json"


# --- shared with `roster` -------------------------------------------------------------------------------------------


def new_passphrase(what: str, no_passphrase: bool) -> str:
    """From the environment or the terminal, twice; empty if none is wanted."""
    from agency_node.legal.persons import ask_passphrase  # noqa: PLC0415

    return "" if no_passphrase else ask_passphrase(what, new=True)


def checked_agency(text: str) -> AgencyId:
    """The agency id; `RequestError` with an example for anything else."""
    try:
        return AgencyId(text)
    except FieldError as error:
        raise RequestError("an agency id is small letters, digits and hyphens, such as northport-pd") from error


def agency_of(person_id: str) -> AgencyId:
    """The agency that a person's id begins with; `RequestError` for an id without one."""
    agency, colon, name = person_id.partition(":")
    if not colon or not name:
        raise RequestError("a person's id is the agency's, a colon and a name within it, such as northport-pd:detective-4")
    return checked_agency(agency)


def show(entry: dict[str, Any], advice: str, as_json: bool) -> None:
    """An entry on standard output, in one line or indented; what to do with it on standard error."""
    if as_json:
        print_json(entry)
        return
    typer.echo(json.dumps(entry, indent=2))
    typer.echo(f"{advice}.", err=True)
