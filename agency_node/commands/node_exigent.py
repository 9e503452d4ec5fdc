"""`sealmatch node ratify|unseal`: what legal staff type about exigent grants (R4); and what `node status` shows of them.

`ratify` writes a second reviewer's signature into the node's store, and the serving process tells holders and custodians. `unseal` is the
legal office's, with its own discovery key, for a court order or the defence; each use stands in the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, print_json, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.node import Node
    from agency_node.policy.clocks import ExigentClock

Search = Annotated[str, typer.Argument(help="The search's id, as `node search` printed it; its first digits will do.")]


@app.command(epilog="Example: sealmatch node ratify ./northport 8f…2c --person second-counsel.key")
def ratify(
    folder: Folder,
    search: Search,
    person: Annotated[Path, typer.Option(help="Your key file: a reviewer's who has not signed the grant.")],
    as_json: AsJson = False,
) -> None:
    """Ratify an exigent grant as a second reviewer before its clock ends; else its leads are closed and sealed."""
    with sentences(as_json):
        from agency_node.legal.exigent import ratify_search  # noqa: PLC0415
        from agency_node.legal.persons import read_person_key  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415
        from crypto.moments import format_moment  # noqa: PLC0415

        node = open_node(folder, clock, retired=True)
        search = full_search_id(node.engine, search)
        key, administrator = read_person_key(person), node.config.administrator
        at = ratify_search(node.engine, node.vault, node.parties.trusted, search, key, clock(), administrator=administrator)
    if as_json:
        print_json({"search_id": search, "state": "ratified", "ratified_at": format_moment(at)})
        return
    typer.echo("ratified: the serving node enters it into the log and tells every holder and custodian of the search")


@app.command(epilog="Example: sealmatch node unseal ./northport 8f…2c --discovery discovery.key --order order.pdf --save ./for-the-court")
def unseal(
    folder: Folder,
    search: Search,
    discovery: Annotated[Path, typer.Option(help="The legal office's discovery key file.")],
    order: Annotated[Path, typer.Option(help="The court order or the defence's request; its hash is kept in the journal.")],
    save: Annotated[Path, typer.Option(help="New folder for what was kept: still, request.json, disclosed photographs.")],
    as_json: AsJson = False,
) -> None:
    """Open what was kept of an exigent search that lapsed, with the legal office's discovery key, for a court or the defence."""
    with sentences(as_json):
        from agency_node.journal import record  # noqa: PLC0415
        from agency_node.legal.archive import open_archive  # noqa: PLC0415
        from agency_node.legal.persons import read_discovery_key  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415

        node = open_node(folder, clock)
        search = full_search_id(node.engine, search)
        try:
            digest = hashlib.sha256(order.read_bytes()).hexdigest()
        except OSError as error:
            raise RequestError(f"{order} cannot be read: name the file of the court order or of the defence's request") from error
        archive = open_archive(node.engine, search, read_discovery_key(discovery))
        with node.engine.begin() as connection:  # before anything is written out: no use goes unseen
            record(connection, clock(), search, "unsealed", f"for {digest}")
        files = {"still": archive.still, "request.json": json.dumps(archive.request, indent=2, sort_keys=True).encode("utf-8")}
        files |= {f"photograph-{handle}": picture for handle, picture in archive.pictures.items()}
        files |= {f"version-{number}": picture for number, picture in archive.versions.items()}
        _save(save, files)
    if as_json:
        print_json({"search_id": search, "order": digest, "files": sorted(files)})
        return
    typer.echo(f"unsealed into {save}: {', '.join(sorted(files))}. The journal has the order's hash {digest}")


def rule_of(node: Node) -> ExigentClock:
    """The clock that a node's policy packs set for exigent grants."""
    from agency_node.policy.clocks import exigent_clock  # noqa: PLC0415
    from agency_node.policy.engine import load_packs  # noqa: PLC0415

    return exigent_clock(load_packs(node.config.policy_packs))


def _save(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True)
        for name, data in files.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: name a folder that is not there yet") from error
