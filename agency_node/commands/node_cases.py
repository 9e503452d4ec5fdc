"""`sealmatch node cases|hold|provenance`: what is kept of which case and until when, what legal staff holds, and where a still comes from.

`cases` and `provenance` look; `hold` stores what a reviewer signed, and the serving node destroys nothing of the case from then on. Left to
others: destroying (`requester.retention`, in the serving node).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agency_node.commands.described import show, write_file
from agency_node.commands.node import app
from agency_node.commands.node_search import SearchOption
from agency_node.commands.output import AsJson, Folder, clock, plain, print_json, print_table, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.legal.holds import Hold
    from agency_node.requester.probe_versions import KeptChain


@app.command("cases", epilog="Example: sealmatch node cases ./northport --json")
def list_kept(folder: Folder, as_json: AsJson = False) -> None:
    """List every case with its searches: what is kept until when, what was destroyed, and what a legal hold keeps."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.policy.approvals import packs_in_force  # noqa: PLC0415
        from agency_node.requester.case_list import LAW, list_cases  # noqa: PLC0415

        node = open_node(folder, clock)
        with acting(node, "node cases"):
            listed = list_cases(node.engine, node.vault, packs_in_force(node), node.parties.trusted.possibly_expired, clock())
    if as_json:
        print_json({"cases": [plain(one) for one in listed], "law": LAW})
        return
    headings = {"search": True, "state": False, "grant ends": False, "still, edits, embedding": False, "leads, photographs": False}
    for case in listed:
        held = f"; HELD since {case.held_since}" if case.held_since else ""
        rows = [[one.search_id, one.state, one.grant_ends, one.picture, one.leads] for one in case.searches]
        print_table(f"case {case.number or '(number under seal)'}, opened {case.opened_at}{held}", headings, rows)
    typer.echo(LAW if listed else "no case: nothing was searched for here")


@app.command(epilog="Example: sealmatch node hold ./northport --case 26-10417 --reason 'charged; discovery is due' --person counsel.key")
def hold(
    folder: Folder,
    case: Annotated[str, typer.Option(help="The case's number, as `node search --case` was given it.")],
    reason: Annotated[str, typer.Option(help="Why; it stays sealed in your agency, the ledger holds a commitment.")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="Lift the hold that stands: clocks that have ended destroy from then on.")] = False,
    person: Annotated[Path | None, typer.Option(help="Your key file: a reviewer's of this agency's legal office.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a case as legal staff, so that no clock destroys anything of it, or lift the hold; without --reason show its holds."""
    with sentences(as_json):
        from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
        from agency_node.legal.holds import holds_of, lift_hold, place_hold  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415

        if bool(reason) != (person is not None) or (lift and not reason):
            raise RequestError("a hold is placed or lifted with --reason WHY and --person KEY; without both its case's holds are shown")
        node = open_node(folder, clock)
        if person is not None:
            act_on = lift_hold if lift else place_hold
            with acting(node, "node hold") as act:
                key = person_key(node, act, person)
                act_on(node.engine, node.vault, node.parties.roster(), node.agency, case, reason, key, clock())
            done = "lifted" if lift else "held"
            print_json({"state": done}) if as_json else typer.echo(
                "lifted: what is over is destroyed by the serving node" if lift else "held: no clock destroys anything of this case"
            )
            return
        with acting(node, "node hold"):
            holds = holds_of(node.engine, node.vault, node.parties.trusted.possibly_expired, case, clock())
    if as_json:
        print_json({"holds": [plain(one) for one in holds]})
        return
    for one in holds:
        typer.echo(_told(one))
    if not holds:
        typer.echo("no hold: legal staff places one with --reason WHY and --person KEY")


@app.command(epilog="Example: sealmatch node provenance ./northport --search 8f…2c --original still-from-the-camera.jpg --json")
def provenance(
    folder: Folder,
    search: SearchOption,
    original: Annotated[Path | None, typer.Option(help="Your own copy of the original: the chain is made again from it.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write every version that is kept, and the links, into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show where a search's still comes from: original, every edit, the cut of the face; and make all of it again to check it."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415
        from agency_node.requester.probe_versions import read_kept  # noqa: PLC0415

        node = open_node(folder, clock)
        search = full_search_id(node.engine, search)
        with acting(node, "node provenance", search_id=search) as act:
            kept = read_kept(node.engine, node.vault, search)
            act.subject = f"chain {kept.chain.head.hex()}"
            checked = _checked(kept, original)
        if save is not None:
            write_file(save / "chain.jsonl", b"".join(link.to_bytes() + b"\n" for link in kept.chain.links))
            for number, picture in sorted(kept.pictures.items()):
                write_file(save / f"version-{number}", picture)
    if as_json:
        print_json(
            {
                "search_id": search,
                "head": kept.chain.head.hex(),
                "checked": checked,
                "links": [link.to_json() for link in kept.chain.links],
                "kept": sorted(kept.pictures),
            }
        )
        return
    show(chain_rows(kept))
    typer.echo(f"{checked}; chain {kept.chain.head.hex()}")


def chain_rows(kept: KeptChain) -> dict[str, object]:
    """The chain as a reviewer reads it, one line for each step."""
    return {f"{link.number} {link.step.value}": link.sentence for link in kept.chain.links}


def _checked(kept: KeptChain, original: Path | None) -> str:
    """What was made again, in words; `ProvenanceError` for a chain that does not hold."""
    from agency_node.requester.provenance import check_chain, check_edits  # noqa: PLC0415

    if original is not None:
        try:
            given = original.read_bytes()
        except OSError as error:
            raise RequestError(f"{original} cannot be read: check the path") from error
        check_edits(kept.chain, given)
    if kept.chain.probe.number not in kept.pictures:
        return (
            "made again from your original" if original is not None else "pictures destroyed, links whole: give your copy with --original"
        )
    check_chain(kept.chain, kept.original, kept.still)
    return "made again from the kept original" if original is None else "made again from the kept original and from yours"


def _told(one: Hold) -> str:
    lifted = f"; lifted by {one.lifted_by} at {one.lifted_at}: {one.lift_reason}" if one.lifted_at else "; stands"
    return f"held by {one.reviewer} since {one.placed_at}: {one.reason}{lifted}"


def told_chain(kept: KeptChain) -> dict[str, Any]:
    """The chain for programs, as `node review` shows it."""
    return {"head": kept.chain.head.hex(), "links": [link.to_json() for link in kept.chain.links]}
