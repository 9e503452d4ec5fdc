"""`sealmatch node search|release|cancel|disclose`: what investigators type, and a holder's legal staff about a disclosure.

Each command writes a decision into the node's store, which the serving process carries out. A person's key is a file of the person's own.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.decided import banners, packs_asked, print_forecast
from agency_node.commands.described import reason_of, show, write_file
from agency_node.commands.listed import check_listed, check_others
from agency_node.commands.node import app, duration
from agency_node.commands.output import AsJson, Folder, clock, member, plain, print_json, print_table, sentences
from agency_node.commands.waiting import wait_for_release
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.requester.leads import DisclosedLead
    from crypto.grant_basis import LegalBasis

Person = Annotated[Path, typer.Option(help="Your key file, made with `sealmatch person init`.")]
SearchOption = Annotated[str, typer.Option("--search", help="The search's id, as `node search` printed it; its first digits will do.")]


@app.command(
    epilog="Example: sealmatch node search ./northport --case 26-10417 --image still.jpg --statute 'Wis. Stat. 940.19(4)' --nibrs 13A "
    "--basis warrant --court 'Circuit Court' --docket 26-CF-101 --issued 2026-11-20 --expires 2026-12-04 --order warrant.pdf "
    "--reviewer northport-law:counsel-1 --holder eastfield-pd --custodian civic-board --person detective.key"
)
def search(
    folder: Folder,
    case: Annotated[str, typer.Option(help="Your case number; others see a commitment only.")],
    image: Annotated[Path, typer.Option(help="One still with one face, the file as it came.")],
    basis: Annotated[str, typer.Option(help="warrant, court_order, exigent, probable_cause, reasonable_suspicion, consent, missing, …")],
    reviewer: Annotated[str, typer.Option(help="The legal reviewer who will decide.")],
    holder: Annotated[list[str], typer.Option(help="An agency to be asked, your own too if it is one; repeat for several.")],
    custodian: Annotated[list[str], typer.Option(help="A custodian; repeat for several. The first one combines.")],
    person: Person,
    edit: Annotated[
        list[str] | None,
        typer.Option(help="'crop LEFT TOP WIDTH HEIGHT', 'rotate DEGREES' or 'exposure BRIGHTNESS CONTRAST'; repeat, in order (R19)."),
    ] = None,
    second_reviewer: Annotated[str, typer.Option(help="A second legal reviewer, where one is not enough; both sign.")] = "",
    originating: Annotated[str, typer.Option("--originating-agency", help="Whose case it is, if another agency's (R6).")] = "",
    originator: Annotated[str, typer.Option(help="The reviewer of that agency's legal office, who signs with `node originate`.")] = "",
    statute: Annotated[str, typer.Option(help="The offence in your own code.")] = "",
    nibrs: Annotated[str, typer.Option(help="The offence as a NIBRS code, e.g. 13A.")] = "",
    purpose: Annotated[str, typer.Option(help="criminal_investigation, threat_to_life, missing_person, …")] = "criminal_investigation",
    event: Annotated[str, typer.Option(help="What the picture was taken at: none or protest_or_assembly.")] = "none",
    source: Annotated[str, typer.Option(help="Where the still is from, e.g. recorded_video_still.")] = "recorded_video_still",
    court: Annotated[str, typer.Option(help="Warrant or order: the court.")] = "",
    docket: Annotated[str, typer.Option(help="Warrant or order: the docket.")] = "",
    issued: Annotated[str, typer.Option(help="Warrant or order: first day, 2026-11-20.")] = "",
    expires: Annotated[str, typer.Option(help="Warrant or order: last day.")] = "",
    order: Annotated[Path | None, typer.Option(help="Warrant or order: its file, of which the grant holds the hash.")] = None,
    facts: Annotated[str, typer.Option(help="Any other basis: the statement of facts.")] = "",
    cap: Annotated[int, typer.Option(help="Most leads, over all holders together (R32).")] = 20,
    rate: Annotated[int, typer.Option(help="How many of a million searches may show a wrong person (R33).")] = 1000,
    answer_within: Annotated[str, typer.Option(help="Deadline for answers: 90s, 30m, 4h, 2d.")] = "4h",
    valid_for: Annotated[str, typer.Option(help="How long the grant holds.")] = "2d",
    as_json: AsJson = False,
) -> None:
    """Draft a search for one still and sign it as its investigator; nothing is searched before a legal reviewer grants it."""
    with sentences(as_json):
        from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
        from agency_node.faces.edits import Edit  # noqa: PLC0415
        from agency_node.legal.review import read_case, read_draft  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.policy.approvals import packs_in_force  # noqa: PLC0415
        from agency_node.policy.deciding import forecast, packs_over  # noqa: PLC0415
        from agency_node.policy.probe_edits import edit_limits  # noqa: PLC0415
        from agency_node.policy.quality_limits import quality_limits  # noqa: PLC0415
        from agency_node.requester.drafting import SearchRequest, draft_search  # noqa: PLC0415
        from agency_node.retiring import check_takes_new  # noqa: PLC0415
        from crypto.canonical import AgencyId, PersonId  # noqa: PLC0415
        from crypto.grant_basis import Event, Offence, ProbeSource, Purpose  # noqa: PLC0415

        node = open_node(folder, clock)
        check_takes_new(node.engine)
        packs = packs_in_force(node)
        if not case.strip():
            raise RequestError("a search belongs to a case: --case, your own number for it")
        facts_salt = secrets.token_bytes(32)
        request = SearchRequest(
            case_number=case,
            still=_read(image),
            offence=Offence(statute, nibrs) if statute or nibrs else None,
            basis=_basis(basis, court, docket, issued, expires, order, facts, facts_salt),
            purpose=member(Purpose, purpose, "purpose"),
            event=member(Event, event, "event"),
            probe_source=member(ProbeSource, source, "source"),
            reviewer=PersonId(reviewer),
            holders=[AgencyId(one) for one in holder],
            custodians=[AgencyId(one) for one in custodian],
            combiner=AgencyId(custodian[0]),
            cap=cap,
            false_positives_per_million=rate,
            answer_within=duration(answer_within),
            valid_for=duration(valid_for),
            policy_packs=[pack.sha256 for pack in packs],
            second_reviewer=PersonId(second_reviewer) if second_reviewer else None,
            originating_agency=AgencyId(originating) if originating else None,
            originator=PersonId(originator) if originator else None,
            facts=facts,
            facts_salt=facts_salt,
            edits=[Edit.parse(one) for one in edit or []],
        )
        with acting(node, "node search") as act:
            discovery = node.parties.roster().discovery_key(node.agency)
            investigator = person_key(node, act, person)
            roster = node.parties.roster()
            check_listed(roster, node.agency, holder, custodian, reviewer, investigator.person_id)
            check_others(roster, node.agency, second_reviewer, originating, originator)
            limits = quality_limits(packs)
            agencies = [node.agency, *request.holders, *([] if request.originating_agency is None else [request.originating_agency])]
            edits = edit_limits(packs_over(packs, roster, agencies))
            act.search_id = search_id = draft_search(
                node.engine,
                node.vault,
                node.embedder(),
                node.agency,
                discovery,
                request,
                investigator,
                clock(),
                limits,
                edits,
                node.ofiq(),
            )
            claims, _ = read_draft(node.engine, node.vault, search_id)
            foreseen = forecast(node.engine, node.vault, claims, roster, packs, clock())
        quality = read_case(node.engine, node.vault, search_id).quality
        warning = limits.warning(quality)
    waits = " and ".join(one for one in (reviewer, second_reviewer, originator) if one)
    asked = packs_asked([one.decision for one in foreseen], packs)
    if as_json:
        told = {"policy": [one.told for one in foreseen], "packs": banners(asked)}
        print_json({"search_id": str(search_id), "state": "drafted", "quality": plain(quality), "quality_warning": warning, **told})
    else:
        typer.echo(warning or f"quality of the still: {'-' if quality is None else quality.sentence}")
        print_forecast(foreseen, asked)
        typer.echo(f"drafted {search_id}; it waits for {waits}: sealmatch node review {folder} --search {search_id}")


@app.command(epilog="Example: sealmatch node release ./northport --search 8f…2c --wait 2h")
def release(
    folder: Folder,
    search: SearchOption,
    wait: Annotated[str, typer.Option(help="Wait so long for the release, showing every holder's progress: 90s, 2h.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show what was released: leads at the requester, outcomes and alarms at the custodian. A lead is no identification."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id, holder_events, node_status, search_status  # noqa: PLC0415
        from agency_node.requester.drafting import quality_of_still  # noqa: PLC0415
        from agency_node.requester.leads import LEAD_NOTICE, list_leads  # noqa: PLC0415

        node = open_node(folder, clock)
        search = full_search_id(node.engine, search)
        found = [one for one in node_status(node.engine, str(node.agency)).custody if one["search_id"] == search]
        if found:
            print_json(found[0]) if as_json else typer.echo("\n".join(f"{name}: {value}" for name, value in found[0].items()))
            return
        if wait:
            wait_for_release(node, search, duration(wait).total_seconds(), quiet=as_json)
        with acting(node, "node release", search_id=search):
            leads = list_leads(node.engine, node.vault, search, clock())
            quality = quality_of_still(node.engine, node.vault, search)
        with node.engine.begin() as connection:
            holders = search_status(connection, search).holders
        events = holder_events(node.engine, search)
    if as_json:
        listed = [{**plain(one), "band": one.band.name.lower()} for one in leads]
        told = {"search_id": search, "lead_only": True, "notice": LEAD_NOTICE, "quality": plain(quality)}
        print_json({**told, "leads": listed, "holders": holders, "events": events})
        return
    headings = {"rank": True, "band": True, "agency": False, "photographed": False, "age in days": False, "handle": True}
    rows = [
        [one.rank, one.band.name.lower(), one.agency or "-", one.captured or "withdrawn", one.age_days or "-", one.handle] for one in leads
    ]
    print_table(f"leads of {search}", headings, rows, caption=LEAD_NOTICE)
    if quality is not None:
        typer.echo(f"quality of the still: {quality.unified} of 100, lowest in {quality.lowest}")
    for holder, progress in holders.items():
        typer.echo(f"{holder}: {progress['state']} at {progress['at']} {progress['note']}".rstrip())


@app.command(epilog="Example: sealmatch node cancel ./northport 8f…2c")
def cancel(
    folder: Folder,
    search: Annotated[str, typer.Argument(help="The search's id, as `node search` printed it; its first digits will do.")],
    as_json: AsJson = False,
) -> None:
    """Take a search back: its key and probe are destroyed now, holders and custodians are told, and nothing more is sent."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415
        from agency_node.requester.cancelling import cancel_search  # noqa: PLC0415
        from agency_node.store import forget_deleted  # noqa: PLC0415

        node = open_node(folder, clock)
        search = full_search_id(node.engine, search)
        with acting(node, "node cancel", search_id=search):
            left = cancel_search(node.engine, search, clock())
        forget_deleted(node.engine)
    if as_json:
        print_json({"search_id": search, "state": "cancelled", "notices_follow": left})
        return
    typer.echo(f"cancelled {search}: its search key and probe are destroyed")
    typer.echo("whoever was told of it is sent a notice by the serving node" if left else "nothing of it had left this node")


@app.command(epilog="Example: sealmatch node disclose ./northport --search 8f…2c --rank 1")
def disclose(
    folder: Folder,
    search: Annotated[str, typer.Option("--search", help="Requester: the search.")] = "",
    rank: Annotated[int, typer.Option(help="Requester: ask the holder for this lead's photograph and record number.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Requester: write disclosed photographs into this folder.")] = None,
    handle: Annotated[str, typer.Option(help="Holder: the request to look at or decide, from `node status`.")] = "",
    grant: Annotated[bool, typer.Option("--grant", help="Holder: disclose.")] = False,
    withhold: Annotated[bool, typer.Option("--withhold", help="Holder: do not disclose.")] = False,
    person: Annotated[Path | None, typer.Option(help="Holder: the key file of a reviewer of your own legal office.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a lead's photograph (requester), show what was disclosed, or decide about a request (holder's legal staff)."""
    with sentences(as_json):
        from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
        from agency_node.holder.decision import decide_disclosure, read_request  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id  # noqa: PLC0415
        from agency_node.requester.leads import ask_for, list_disclosed  # noqa: PLC0415

        node = open_node(folder, clock)
        if handle and not grant and not withhold:
            with acting(node, "node disclose", subject=f"handle {handle}"):
                state, claims = read_request(node.engine, node.vault, handle)
            shown = {"handle": handle, "state": state, "requesting agency": claims.requesting_agency, **reason_of(claims)}
            if as_json:
                print_json({name.replace(" ", "_"): value for name, value in shown.items()})
                return
            show(shown)
            typer.echo("decide with --grant --person KEY, or with --withhold --person KEY")
            return
        if handle:
            if person is None or grant is withhold:
                raise RequestError("a decision needs --person KEY and one of --grant and --withhold")
            with acting(node, "node disclose", subject=f"handle {handle}") as act:
                key = person_key(node, act, person)
                decide_disclosure(node.engine, node.parties, node.agency, handle, key, clock(), grant=grant)
            print_json({"handle": handle, "decided": "granted" if grant else "withheld"}) if as_json else typer.echo(
                "decided; it will be sent"
            )
            return
        if not search:
            raise RequestError("name a --search to ask or look for, or a --handle to decide about")
        search = full_search_id(node.engine, search)
        if rank:
            with acting(node, "node disclose", search_id=search):
                lead = ask_for(node.engine, node.vault, search, rank, clock())
            print_json({"search_id": search, "asked": lead.handle, "agency": lead.agency}) if as_json else typer.echo(
                f"asked {lead.agency}"
            )
            return
        with acting(node, "node disclose", search_id=search):
            disclosed = list_disclosed(node.engine, node.vault, search, clock())
        files = {} if save is None else {one.handle: _save(save, one) for one in disclosed if one.photograph}
    rows = [
        {
            "handle": one.handle,
            "agency": str(one.agency),
            "outcome": one.outcome,
            "record_number": one.record_number,
            "photograph": str(files.get(one.handle, "")),
        }
        for one in disclosed
    ]
    if as_json:
        print_json({"search_id": search, "disclosed": rows})
        return
    for row in rows:
        typer.echo(f"{row['agency']} {row['handle']}: {row['outcome']} {row['record_number']} {row['photograph']}".rstrip())
    if not rows:
        typer.echo("nothing was disclosed: ask for a lead with --rank, and wait for the holder's legal staff")


def _save(folder: Path, disclosed: DisclosedLead) -> Path:
    ending = "bin" if disclosed.media is None else disclosed.media.name.lower()
    path = folder / f"{disclosed.handle}.{ending}"
    write_file(path, disclosed.photograph)
    return path


def _basis(kind: str, court: str, docket: str, issued: str, expires: str, order: Path | None, facts: str, salt: bytes) -> LegalBasis:
    from crypto.grant_basis import BasisKind, CourtOrder, StatementOfFacts, commit_facts  # noqa: PLC0415

    basis = member(BasisKind, kind, "basis")
    if basis in (BasisKind.WARRANT, BasisKind.COURT_ORDER):
        if order is None:
            raise RequestError("a warrant or order comes with its file: --order FILE, and --court, --docket, --issued, --expires")
        return CourtOrder(basis, court, docket, _day(issued), _day(expires), hashlib.sha256(_read(order)).digest())
    if len(facts) < 20:
        raise RequestError("any basis but a warrant or order needs a statement of facts of at least 20 characters: --facts (R2)")
    return StatementOfFacts(basis, commit_facts(salt, facts))


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise RequestError(f"{text!r} is not a day: write 2026-11-20") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: check the path") from error
