"""`sealmatch node review|accept|revoke`: legal staff looks at a draft and signs, narrows or refuses it; takes a grant back; and an
investigator signs what was narrowed.

Each command writes a decision into the node's store, which the serving process carries out. A person's key is a file of the person's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agency_node.commands.described import reason_of, show, write_file
from agency_node.commands.node import app
from agency_node.commands.node_cases import chain_rows, told_chain
from agency_node.commands.node_exigent import rule_of
from agency_node.commands.node_search import Person, SearchOption
from agency_node.commands.output import AsJson, Folder, clock, plain, print_json, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.legal.review import ReviewedCase
    from agency_node.node import Node
    from crypto.grant_claims import GrantClaims


@app.command(
    epilog="Example: sealmatch node review ./northport --search 8f…2c --person counsel.key --grant --drop-holder eastfield-pd --cap 5"
)
def review(
    folder: Folder,
    search: SearchOption,
    person: Annotated[Path | None, typer.Option(help="Your key file; to decide.")] = None,
    grant: Annotated[bool, typer.Option("--grant", help="Sign, in the capacity in which the draft names you.")] = False,
    refuse: Annotated[str, typer.Option(help="Refuse, for this reason; it stays sealed in your agency.")] = "",
    drop_holder: Annotated[
        list[str] | None, typer.Option(help="With --grant: an agency that is not to be asked; repeat for several.")
    ] = None,
    cap: Annotated[int, typer.Option(help="With --grant: fewer leads at most.")] = 0,
    rate: Annotated[int, typer.Option(help="With --grant: fewer wrong persons in a million searches, so a higher threshold.")] = 0,
    save_still: Annotated[Path | None, typer.Option(help="Write the still into this file, to look at it before you decide.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a draft to its legal staff, with searches for nearly the same picture; --grant signs it, --refuse REASON refuses it."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.legal.decisions import read_told  # noqa: PLC0415
        from agency_node.legal.review import read_case, read_draft, still_to_sign  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415
        from agency_node.policy.approvals import packs_in_force  # noqa: PLC0415
        from agency_node.policy.quality_limits import quality_limits  # noqa: PLC0415
        from agency_node.requester.near_duplicates import near_duplicates  # noqa: PLC0415
        from agency_node.requester.probe_versions import read_kept  # noqa: PLC0415

        node = open_node(folder, clock)
        search = full_search_id(node.engine, search)
        if grant and refuse:
            raise RequestError("decide one way: --grant or --refuse")
        if not grant and (drop_holder or cap or rate):
            raise RequestError("a draft is narrowed with the signature: --grant, and --drop-holder, --cap or --rate beside it")
        if grant or refuse:
            _decide(node, search, person, refuse, (drop_holder or [], cap, rate), as_json=as_json)
            return
        told = read_told(node.engine, node.vault, search, node.parties)
        if told is not None:
            with acting(node, "node review", search_id=search):
                pass  # it was looked at
            said = {"search_id": search, "state": told.what.value, "by": told.reviewer, "at": told.decided_at, "reason": told.reason}
            print_json(said) if as_json else show({**said})
            return
        alike = near_duplicates(node.engine, node.vault, node.config.near_duplicates, search, clock())
        with acting(node, "node review", search_id=search):
            claims, _ = read_draft(node.engine, node.vault, search)
            case = read_case(node.engine, node.vault, search)
            chain = read_kept(node.engine, node.vault, search)
            chain.check()
            waits = still_to_sign(node.engine, node.vault, search)
            warning = quality_limits(packs_in_force(node)).warning(case.quality)
        if save_still is not None:
            write_file(save_still, case.still)
    shown = _shown(claims, case, waits)
    if as_json:
        described = {name.replace(" ", "_"): value for name, value in shown.items()}
        described |= {"quality": plain(case.quality), "quality_warning": warning, "chain": told_chain(chain)}
        state = "narrowed" if "investigator" in waits else "drafted"
        print_json({"search_id": search, "state": state, **described, "near_duplicates": alike})
        return
    typer.echo(f"draft {search}")
    show(shown)
    typer.echo("where the still comes from, each step made again here:")
    show(chain_rows(chain))
    _say_notes(warning, alike)
    typer.echo("decide with --grant --person KEY, or with --refuse REASON --person KEY")


@app.command(epilog="Example: sealmatch node accept ./northport --search 8f…2c --person detective.key")
def accept(folder: Folder, search: SearchOption, person: Person, as_json: AsJson = False) -> None:
    """Sign, as a search's investigator, what a reviewer narrowed; `node review` shows it. Without that nothing of it is searched."""
    with sentences(as_json):
        from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
        from agency_node.legal.review import accept_narrowed, still_to_sign  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415

        node = open_node(folder, clock)
        search = full_search_id(node.engine, search)
        with acting(node, "node accept", search_id=search) as act:
            key = person_key(node, act, person)
            claims = accept_narrowed(node.engine, node.vault, node.parties.trusted, search, key, clock(), rule_of(node))
            waits = still_to_sign(node.engine, node.vault, search)
    _say_signed(search, claims, waits, [], as_json=as_json)


@app.command(epilog="Example: sealmatch node revoke ./northport --search 8f…2c --person counsel.key --reason 'the warrant was quashed'")
def revoke(
    folder: Folder,
    search: SearchOption,
    person: Annotated[Path, typer.Option(help="Your key file: a reviewer's of the legal office that granted.")],
    reason: Annotated[str, typer.Option(help="Why; it stays sealed in your agency, the log holds a commitment.")],
    as_json: AsJson = False,
) -> None:
    """Take a grant back, before its release or after: nothing more is done under it, and its leads are closed."""
    with sentences(as_json):
        from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
        from agency_node.legal.revoking import revoke_grant  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415
        from agency_node.store import forget_deleted  # noqa: PLC0415

        node = open_node(folder, clock)
        search = full_search_id(node.engine, search)
        with acting(node, "node revoke", search_id=search) as act:
            key = person_key(node, act, person)
            revoke_grant(node.engine, node.vault, node.parties.roster(), node.agency, search, reason, key, clock())
        forget_deleted(node.engine)
    if as_json:
        print_json({"search_id": search, "state": "revoked"})
        return
    typer.echo(f"revoked {search}: this office says from now on that its grant has ended; the serving node tells the parties and the log")


def _say_notes(warning: str, alike: list[Any]) -> None:
    for one in (*([warning] if warning else []), *(f"note: {other.sentence}" for other in alike)):
        typer.echo(one)


def _decide(node: Node, search: str, person: Path | None, refuse: str, narrowed: tuple[list[str], int, int], *, as_json: bool) -> None:
    if person is None:
        raise RequestError("name your key file with --person: a decision bears its reviewer's signature")
    if refuse:
        _refuse(node, search, person, refuse, as_json=as_json)
    else:
        _grant(node, search, person, narrowed, as_json=as_json)


def _grant(node: Node, search: str, person: Path, narrowed: tuple[list[str], int, int], *, as_json: bool) -> None:
    from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
    from agency_node.legal.narrowing import Narrowing  # noqa: PLC0415
    from agency_node.legal.review import grant_draft, read_draft, still_to_sign  # noqa: PLC0415
    from agency_node.policy.approvals import packs_in_force  # noqa: PLC0415
    from agency_node.policy.deciding import packs_over  # noqa: PLC0415
    from agency_node.policy.probe_edits import edit_limits  # noqa: PLC0415
    from agency_node.policy.quality_limits import quality_limits  # noqa: PLC0415
    from agency_node.requester.near_duplicates import near_duplicates  # noqa: PLC0415
    from crypto.canonical import AgencyId  # noqa: PLC0415

    dropped, cap, rate = narrowed
    alike = near_duplicates(node.engine, node.vault, node.config.near_duplicates, search, clock())
    with acting(node, "node review", search_id=search) as act:
        key, packs = person_key(node, act, person), packs_in_force(node)
        asked, _ = read_draft(node.engine, node.vault, search)
        agencies = (asked.requesting_agency, asked.originating_agency, *asked.holders)
        claims = grant_draft(
            node.engine,
            node.vault,
            node.embedder(),
            node.parties.trusted,
            search,
            key,
            clock(),
            rule_of(node),
            administrator=node.config.administrator,
            less=Narrowing(tuple(AgencyId(one) for one in dropped), cap or None, rate or None),
            packs=packs,
            limits=quality_limits(packs),
            edits=edit_limits(packs_over(packs, node.parties.roster(), agencies)),
        )
        waits = still_to_sign(node.engine, node.vault, search)
    _say_signed(search, claims, waits, alike, as_json=as_json)


def _refuse(node: Node, search: str, person: Path, reason: str, *, as_json: bool) -> None:
    from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
    from agency_node.legal.review import refuse_draft  # noqa: PLC0415

    with acting(node, "node review", search_id=search) as act:
        key = person_key(node, act, person)
        refuse_draft(node.engine, node.vault, node.parties.trusted, search, reason, key, clock())
    print_json({"search_id": search, "state": "refused"}) if as_json else typer.echo("refused; its search key is destroyed")


def _say_signed(search: str, claims: GrantClaims, waits: dict[str, str], alike: list[Any], *, as_json: bool) -> None:
    state = "granted" if not waits else "narrowed" if "investigator" in waits else "drafted"
    if as_json:
        print_json({"search_id": search, "state": state, "grant_id": str(claims.grant_id), "waits_for": waits, "near_duplicates": alike})
        return
    for one in alike:
        typer.echo(f"note: {one.sentence}")
    if not waits:
        typer.echo(f"granted: the serving node enters it into the log and asks {', '.join(claims.holders)}")
        return
    typer.echo(f"signed; it waits for {', '.join(waits.values())}")
    if state == "narrowed":
        typer.echo(f"its investigator signs what was narrowed: sealmatch node accept DIR --search {search} --person KEY")


def _shown(claims: GrantClaims, case: ReviewedCase, waits: dict[str, str]) -> dict[str, object]:
    originator = {} if claims.originator is None else {"asked for by": f"{claims.originating_agency}, signed for by {claims.originator}"}
    return {
        "case": case.case_number,
        **reason_of(claims),
        **case.told,
        **originator,
        "holders": ", ".join(claims.holders),
        "custodians": ", ".join(claims.custodians),
        "most leads": claims.cap,
        "wrong persons in a million searches": claims.false_positives_per_million,
        "answers until": f"{claims.answer_deadline:%Y-%m-%d %H:%M:%S} UTC",
        "grant ends": f"{claims.expires:%Y-%m-%d %H:%M:%S} UTC",
        "still to sign": ", ".join(waits.values()),
    }
