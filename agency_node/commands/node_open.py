"""`sealmatch node open`: an agency opens what it logged of one search, to an oversight body at once, or to everybody after the case.

The command joins those of `node`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, plain, print_json, sentences
from agency_node.commands.signed_files import write_new
from agency_node.errors import RequestError


@app.command("open", epilog="Example: sealmatch node open ./northport --search 3f9c --to-oversight ./opened-3f9c.json")
def open_entries(
    folder: Folder,
    search: Annotated[str, typer.Option(help="The search's id; its first digits will do.")],
    to_oversight: Annotated[Path | None, typer.Option(help="Write the openings, signed, into this new file, to be handed over.")] = None,
    case_closed: Annotated[
        bool, typer.Option("--case-closed", help="The case is closed: publish at the serving node's next look, before the packs' delay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Open the fields of this node's log entries of one search: agencies, class, offence, basis, counts, outcome; never the case."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.openings import ask_to_open, open_to_oversight  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415

        if (to_oversight is None) != case_closed:
            raise RequestError("say to whom: --to-oversight FILE for a file to hand over, or --case-closed for everybody")
        node = open_node(folder, clock)
        search_id = full_search_id(node.engine, search)
        with acting(node, "node open", search_id=search_id) as act:
            if to_oversight is None:
                act.detail = "the case is closed"
                with node.engine.begin() as connection:
                    entries = ask_to_open(connection, search_id)
                said = {"search_id": search_id, "to_publish": entries}
                text = f"{_entries(entries)} to be published by the serving node within a minute"
            else:
                document, handed = open_to_oversight(node.engine, node.vault, node.agency, node.keyring.node_key, search_id, clock())
                act.subject, act.detail = f"document {handed.sha256}", f"{handed.entries} entries to oversight"
                write_new(to_oversight, document)
                said = {"search_id": search_id, "file": str(to_oversight), **plain(handed)}
                text = f"{_entries(handed.entries)} opened in {to_oversight}, {', '.join(handed.kinds)}: whoever has the file can read it"
    print_json(said) if as_json else typer.echo(text)


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"
