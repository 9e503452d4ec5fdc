"""`sealmatch roster`: the ceremony in which root holders make, look at and sign the document that says whose key is whose.

Everything but the root keys' own files is public, and is printed so that it can be sent and redirected into a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agency_node.commands.output import AsJson, clock, print_json, print_table, sentences
from agency_node.commands.person import KeyFile, WithoutPassphrase, agency_of, checked_agency, new_passphrase, show
from agency_node.errors import RequestError
from crypto.canonical import b64url_encode
from crypto.roster_entries import PersonRole

if TYPE_CHECKING:
    from agency_node.legal.ceremony import Signatures
    from crypto.roster_entries import Person

app = typer.Typer(
    help="The roster: root keys, drafts, signatures.",
    epilog="Example: sealmatch roster --help",
    no_args_is_help=True,
)
RosterFile = Annotated[Path, typer.Argument(help="The roster document.", metavar="ROSTER", show_default=False)]


@app.command("root-key", epilog="Example: sealmatch roster root-key northport-root.key --holder northport-pd --json")
def root_key(
    file: KeyFile,
    holder: Annotated[str, typer.Option(help="The agency that holds the key.")],
    no_passphrase: WithoutPassphrase = False,
    as_json: AsJson = False,
) -> None:
    """Make a root key and print its public entry, which goes into the root set."""
    with sentences(as_json):
        from agency_node.legal.persons import create_root_key  # noqa: PLC0415

        agency = checked_agency(holder)
        entry = create_root_key(
            file, agency, new_passphrase(f"the root key of {agency}", no_passphrase), without_passphrase=no_passphrase
        ).to_json()
    show(entry, f"{file} signs rosters: keep it offline. The entry above goes to `sealmatch roster root-set`", as_json)


@app.command("office-key", epilog="Example: sealmatch roster office-key attorney-office.key --agency northport-attorney --json")
def office_key(
    file: KeyFile,
    agency: Annotated[str, typer.Option(help="The legal office whose head keeps the key.")],
    no_passphrase: WithoutPassphrase = False,
    as_json: AsJson = False,
) -> None:
    """Make a legal office's key, without whose countersignature no reviewer of it enters the roster, and print the public half."""
    with sentences(as_json):
        from agency_node.legal.persons import create_office_key  # noqa: PLC0415

        office = checked_agency(agency)
        public = create_office_key(
            file, office, new_passphrase(f"the office key of {office}", no_passphrase), without_passphrase=no_passphrase
        )
    show(
        {"agency": str(office), "office_key": b64url_encode(public.raw)},
        f"{file} says who reviews for {office}: the head of the office keeps it, no node's administrator does. "
        "Name the office_key above in `sealmatch node init`",
        as_json,
    )


@app.command(epilog="Example: sealmatch roster countersign counsel-1.json --key attorney-office.key --json")
def countersign(
    entry: Annotated[Path, typer.Argument(help="A reviewer's entry, printed by `person init`.", metavar="ENTRY", show_default=False)],
    key: Annotated[Path, typer.Option(help="The legal office's key, made with `sealmatch roster office-key`.")],
    as_json: AsJson = False,
) -> None:
    """Vouch, for a legal office, for a reviewer's person, key and last day of training, and print the entry with the countersignature."""
    with sentences(as_json):
        from agency_node.legal.ceremony import read_person  # noqa: PLC0415
        from agency_node.legal.persons import read_office_key  # noqa: PLC0415

        person = read_person(entry)
        if not any(credential.role is PersonRole.REVIEWER for credential in person.credentials):
            raise RequestError(f"{entry} lists no reviewer's key: a legal office countersigns reviewers, every other entry goes as it is")
        office = read_office_key(key)
        vouched = person.countersigned(office.agency, office.signing_key)
    names = ", ".join(one.key_id[:16] for one in vouched.credentials if one.role is PersonRole.REVIEWER)
    show(
        vouched.to_json(),
        f"{office.agency} vouches for {person.person_id} as its reviewer, key {names}, trained until {person.trained_until}. "
        "Send the entry above to the root holders: sealmatch roster draft --person ENTRY.json",
        as_json,
    )


@app.command("root-set", epilog="Example: sealmatch roster root-set northport-root.json eastfield-root.json --threshold 2 --json")
def root_set(
    entries: Annotated[list[Path], typer.Argument(help="Entries printed by `roster root-key`.", metavar="ENTRY...", show_default=False)],
    threshold: Annotated[int, typer.Option(help="How many of the holders must sign; more than half.")],
    as_json: AsJson = False,
) -> None:
    """Put root keys together and print the root set with its fingerprint, the one thing that every node and the broker are told."""
    with sentences(as_json):
        from agency_node.legal.ceremony import make_root_set, read_root_entry  # noqa: PLC0415

        made = make_root_set([read_root_entry(path) for path in entries], threshold)
    show(
        {"fingerprint": made.fingerprint.hex(), "root_set": made.to_json()},
        f"Tell the fingerprint, {made.fingerprint.hex()}, to every agency and to the broker's operator by a way that the broker does not "
        "control; the whole goes to `sealmatch roster draft --root-set`",
        as_json,
    )


@app.command(
    epilog="Example: sealmatch roster draft --root-set root-set.json --broker broker.json --agency northport-pd.json "
    "--agency northport-attorney.json --agency eastfield-pd.json --person detective-4.json --version 1 --days 90 --out roster.json"
)
def draft(
    root: Annotated[Path, typer.Option("--root-set", help="Printed by `roster root-set`.")],
    broker: Annotated[Path, typer.Option(help="Printed by `broker init --json`.")],
    agency: Annotated[list[Path], typer.Option(help="An agency's entry, printed by `node init`; repeat for every agency.")],
    out: Annotated[Path, typer.Option(help="Where to write the document; it is never overwritten.")],
    person: Annotated[
        list[str] | None,
        typer.Option(
            help="A person's entry, printed by `person init`, as FILE or AGENCY=FILE; without AGENCY= the id says which. "
            "Repeat for several; a person with several keys has an entry for each."
        ),
    ] = None,
    version: Annotated[int, typer.Option(help="Larger than that of the roster before.", min=1)] = 1,
    days: Annotated[int, typer.Option(help="How long the roster holds.", min=1, max=366)] = 90,
    previous: Annotated[Path | None, typer.Option(help="The roster before, when the root set changes: lets nodes follow.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put public entries together into a roster that nobody has signed yet, and say what does not fit."""
    with sentences(as_json):
        from agency_node.legal import ceremony  # noqa: PLC0415
        from crypto.roster import read_unverified_roster  # noqa: PLC0415

        persons = []
        for one in person or []:
            name, equals, path = one.partition("=")
            entry = ceremony.read_person(Path(path if equals else one))
            persons.append((checked_agency(name) if equals else agency_of(entry.person_id), entry))
        drafted = ceremony.draft_roster(
            ceremony.read_root_set(root),
            ceremony.read_broker(broker),
            [ceremony.read_agency(path) for path in agency],
            persons,
            version=version,
            days=days,
            now=clock(),
            previous=None if previous is None else read_unverified_roster(ceremony.read_roster(previous)),
        )
        ceremony.write_new_file(out, drafted.roster.sign())
    content = drafted.roster
    for warning in drafted.warnings:
        typer.echo(f"note: {warning}.", err=True)
    if as_json:
        print_json(
            {
                "roster": out,
                "version": content.version,
                "expires": content.expires.isoformat(),
                "fingerprint": content.root.fingerprint,
                "agencies": [agency.agency_id for agency in content.agencies],
                "persons": [person.person_id for agency in content.agencies for person in agency.persons],
                "warnings": drafted.warnings,
            }
        )
        return
    typer.echo(f"{out}: version {content.version}, {len(content.agencies)} agencies, until {content.expires:%Y-%m-%d}, not signed yet")
    typer.echo(f"look at it with `sealmatch roster show {out}`; {content.root.threshold} root holders sign it with `sealmatch roster sign`")


@app.command(epilog="Example: sealmatch roster sign roster.json --key northport-root.key --json")
def sign(
    roster: RosterFile,
    key: Annotated[Path, typer.Option(help="Your root key file, made with `sealmatch roster root-key`.")],
    as_json: AsJson = False,
) -> None:
    """Add a root holder's signature to the document, in its place."""
    with sentences(as_json):
        from agency_node.legal.ceremony import check_signatures, read_roster, replace_file, sign_roster  # noqa: PLC0415
        from agency_node.legal.persons import read_root_key  # noqa: PLC0415

        data = read_roster(roster)
        signed = sign_roster(data, read_root_key(key))
        replace_file(roster, signed)
        state = check_signatures(signed)
    if as_json:
        print_json({"roster": roster, **_signatures(state)})
        return
    typer.echo(f"{roster}: {_progress(state)}")


@app.command("show", epilog="Example: sealmatch roster show roster.json")
def show_roster(roster: RosterFile, as_json: AsJson = False) -> None:
    """Show what a roster says, and who has signed it; look before you sign."""
    with sentences(as_json):
        from agency_node.legal.ceremony import check_signatures, read_roster  # noqa: PLC0415

        state = check_signatures(read_roster(roster))
        now = clock()
    content = state.roster
    if as_json:
        print_json({**content.to_json(), **_signatures(state), "expired": now >= content.expires})
        return
    agencies: list[Sequence[object]] = []
    persons: list[Sequence[object]] = []
    for agency in content.agencies:
        roles = ", ".join(role.value for role in agency.roles)
        agencies.append([agency.agency_id, agency.agency_class.value, agency.jurisdiction, roles, agency.legal_office or "-"])
        persons += [[person.person_id, _roles(person), person.trained_until] for person in agency.persons]
    title = f"roster, version {content.version}, until {content.expires:%Y-%m-%d %H:%M} UTC"
    print_table(title, {"agency": True, "class": False, "jurisdiction": False, "roles": False, "legal office": False}, agencies)
    print_table("persons", {"person": True, "role": False, "training until": False}, persons)
    typer.echo(f"root set: {', '.join(entry.holder for entry in content.root.keys)}; {content.root.threshold} must sign")
    typer.echo(f"fingerprint: {content.root.fingerprint.hex()}")
    typer.echo(f"log: {content.log.origin}, operated by {content.log_operator}")
    typer.echo(_progress(state))
    if now >= content.expires:
        typer.echo("EXPIRED: nothing is decided under this roster; draft a newer version")


def _roles(person: Person) -> str:
    return ", ".join(sorted({credential.role.value for credential in person.credentials}))


def _signatures(state: Signatures) -> dict[str, Any]:
    return {
        "fingerprint": state.roster.root.fingerprint,
        "signed_by": state.root,
        "signed_by_outgoing": state.outgoing,
        "threshold": state.roster.root.threshold,
        "complete": state.complete,
    }


def _progress(state: Signatures) -> str:
    signed = f"signed by {', '.join(state.root) or 'nobody'}; {len(state.root)} of {state.roster.root.threshold} signatures that it takes"
    if state.roster.outgoing_root_keys:
        signed += f"; of the root set before, signed by {', '.join(state.outgoing) or 'nobody'}"
    return signed
