"""`sealmatch policy approve|adopt`: two persons answer for a pack before a node decides by it (engine rule 4).

The first signer writes the approval, the second, of another agency, signs it after reading the same folder at that agency's own node; the
agency's node adopts it. What is signed is the pack's hash over all its files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.decided import show_banners
from agency_node.commands.output import AsJson, clock, print_json, sentences
from agency_node.commands.policy import PackName, app
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from crypto.pack_approval import SignedApproval


@app.command(
    epilog="Example: sealmatch policy approve ./us-xx-yourcity --node ./northport --person counsel.key --into us-xx-yourcity.approval.json"
)
def approve(
    pack: PackName,
    folder: Annotated[Path, typer.Option("--node", metavar="DIR", help="Your own agency's node, for its roster.")],
    person: Annotated[Path, typer.Option(help="Your key file: a legal reviewer's or a responsible officer's.")],
    into: Annotated[Path, typer.Option(help="The approval: made, or signed by you as well if it is there.")],
    agency: Annotated[str, typer.Option(help="The agency whose node will decide by the pack; your node's own if left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Sign for a policy pack as it lies in its folder. Two persons do, one of them of another agency; read it before you sign."""
    with sentences(as_json):
        from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.policy.approvals import approve as sign_for  # noqa: PLC0415
        from agency_node.policy.engine import PolicyPack  # noqa: PLC0415
        from agency_node.policy.pack_folder import find_pack  # noqa: PLC0415
        from crypto.canonical import AgencyId  # noqa: PLC0415
        from crypto.pack_approval import read_approval  # noqa: PLC0415

        node = open_node(folder, clock)
        read = PolicyPack.load(find_pack(pack))
        begun = _read(into) if into.exists() else b""
        with acting(node, "policy approve", subject=f"pack {read.name} {read.sha256.hex()}") as act:
            key = person_key(node, act, person)
            roster = node.parties.roster()
            document = sign_for(read, AgencyId(agency) if agency else node.agency, key, roster, clock(), begun)
            _write(into, document)
            signed = read_approval(document, roster)
    _show(signed, as_json, f"{into} bears {len(signed.signatories)} signature(s); two are needed, one from outside the agency")
    if not as_json:
        show_banners([read])


@app.command(epilog="Example: sealmatch policy adopt us-xx-yourcity.approval.json --node ./northport")
def adopt(
    approval: Annotated[Path, typer.Argument(help="The approval that two persons signed.", metavar="FILE", show_default=False)],
    folder: Annotated[Path, typer.Option("--node", metavar="DIR", help="The node that is to decide by the pack.")],
    as_json: AsJson = False,
) -> None:
    """Keep an approval at its agency's node, so that it may decide by that pack; the serving node enters the change into the public log."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.outbox import Outbox  # noqa: PLC0415
        from agency_node.policy.approvals import adopt as keep  # noqa: PLC0415

        node = open_node(folder, clock)
        with acting(node, "policy adopt"):
            outbox = Outbox(node.agency, node.keyring.node_key, node.vault, clock, lambda: None)
            signed = keep(node.engine, outbox, node.folder, node.agency, node.parties.roster(), _read(approval), clock())
    said = signed.approval
    _show(signed, as_json, f"adopted {said.pack}: name it under policy_packs in node.toml and start the node again")


def _show(signed: SignedApproval, as_json: bool, advice: str) -> None:
    said = signed.approval
    persons = [str(one.person.person_id) for one in signed.signatories]
    if as_json:
        print_json({"agency": str(said.agency), "pack": said.pack, "sha256": said.pack_sha256.hex(), "signed_by": persons})
        return
    typer.echo(f"{said.pack} {said.pack_sha256.hex()} for {said.agency}: signed by {', '.join(persons)}")
    typer.echo(advice)


def _read(path: Path) -> bytes:
    from crypto.pack_approval import MAX_APPROVAL_BYTES  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            return file.read(MAX_APPROVAL_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: check the path") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: choose another place") from error
