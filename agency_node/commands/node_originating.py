"""`sealmatch node originate`: a draft for another agency's case goes to that agency, is signed there, and comes back (R6)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agency_node.commands.node import app
from agency_node.commands.node_exigent import rule_of
from agency_node.commands.output import AsJson, Folder, clock, print_json, sentences
from agency_node.commands.signed_files import read_document, write_new
from agency_node.errors import RequestError


@app.command(epilog="Example: sealmatch node originate ./eastfield --sign draft.json --person counsel.key --save signed.json")
def originate(
    folder: Folder,
    search: Annotated[str, typer.Option("--search", help="Requester: the draft; its id's first digits will do.")] = "",
    sign: Annotated[Path | None, typer.Option(help="Originating agency: the file with the draft, to sign it.")] = None,
    person: Annotated[Path | None, typer.Option(help="With --sign: the key file of the originator whom the draft names.")] = None,
    take: Annotated[Path | None, typer.Option(help="Requester, with --search: the signed file, to put its signature on the draft.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Where to write the draft, or the signed draft. It holds the reason in the clear.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Carry a draft to the agency whose case it is (--search, --save), sign it there (--sign), take the signature back (--take)."""
    with sentences(as_json):
        from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
        from agency_node.legal.originating import sign_as_originator, take_originators_signature  # noqa: PLC0415
        from agency_node.legal.review import read_draft  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415
        from agency_node.policy.approvals import packs_in_force  # noqa: PLC0415
        from crypto.grant_token import MAX_TOKEN_BYTES  # noqa: PLC0415

        node = open_node(folder, clock)
        if (sign is None) == (not search) or (take is None) == (save is None):
            steps = "--search ID --save FILE, or --sign FILE --person KEY --save FILE, or --search ID --take FILE"
            raise RequestError(f"one step at a time: {steps}")
        if sign is not None:
            if person is None or save is None:
                raise RequestError("a signature needs --person KEY, who signs, and --save FILE, which goes back to the requester")
            with acting(node, "node originate") as act:
                key, packs = person_key(node, act, person), packs_in_force(node)
                roster = node.parties.roster()
                claims, signed = sign_as_originator(
                    node.engine, node.vault, roster, node.agency, read_document(sign, MAX_TOKEN_BYTES), key, packs, clock()
                )
                act.search_id = claims.search_id
                write_new(save, signed)
            done, state = str(claims.search_id), "signed"
        else:
            done = full_search_id(node.engine, search)
            with acting(node, "node originate", search_id=done):
                if take is not None:
                    take_originators_signature(
                        node.engine, node.vault, node.parties.trusted, done, read_document(take, MAX_TOKEN_BYTES), clock(), rule_of(node)
                    )
                elif save is not None:
                    write_new(save, read_draft(node.engine, node.vault, done)[1])
            state = "saved" if take is None else "taken"
    if as_json:
        print_json({"search_id": done, "state": state})
        return
    told = {
        "saved": f"give {save} to the originating agency",
        "signed": f"give {save} back to the requester",
        "taken": "its reviewer decides",
    }
    typer.echo(f"{state} {done}: {told[state]}")
