"""`sealmatch node`: make a node, serve, expunge, look at it. Enrolling stands in `node_enrol`, searching and deciding in `node_search` and
`node_review`.

Commands open the node's own store; the serving process sees what they write. Modules that load kernels or face models are imported when a
command needs them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agency_node.commands.decided import pack_states, show_decisions, show_pack_states, told_decision
from agency_node.commands.output import AsJson, Folder, clock, member, plain, print_json, print_table, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.legal.exigent import ExigentStatus
    from agency_node.node import Node
    from agency_node.overview import SearchStatus

PATIENCE_S: Final = 15.0
LOOKS, BETWEEN_LOOKS_S = 20, 0.05
"""How often, and how far apart, the write-ahead log is found in use before that is said."""
STILL_WAITING: Final = (
    "is the broker running at {}, and does it have a roster? A large gallery takes a while to pack, too. The node goes on trying"
)

app = typer.Typer(
    help="One agency's node: make it, serve, enrol, expunge, search, review, release, disclose.",
    epilog="Example: sealmatch node status ./northport --json",
    no_args_is_help=True,
)


@app.command(
    epilog="Example: sealmatch node init ./northport --agency northport-pd --name 'Northport Police' --jurisdiction us-wi-northport "
    "--role requester --role holder --legal-office northport-law --officer 'A. Officer' --broker https://broker.example.org "
    "--root-fingerprint 3f…e1 --trust civic-board"
)
def init(
    folder: Folder,
    agency: Annotated[str, typer.Option(help="The agency's id in the roster.")],
    name: Annotated[str, typer.Option(help="The agency's name for people.")],
    jurisdiction: Annotated[str, typer.Option(help="Whose law it answers to, e.g. us-wi-northport.")],
    role: Annotated[list[str], typer.Option(help="requester, holder, custodian, witness, legal_office, discovery; repeat for several.")],
    officer: Annotated[str, typer.Option(help="The responsible officer, who is published (R16).")],
    broker: Annotated[str, typer.Option(help="The broker's address; nothing else is dialled.")],
    root_fingerprint: Annotated[
        str, typer.Option(help="Of the root set that this node trusts; told by the root holders, not by the broker.")
    ],
    legal_office: Annotated[str, typer.Option(help="The agency whose reviewers decide; itself if it has that role.")] = "",
    agency_class: Annotated[str, typer.Option("--class", help="state, local, tribal, federal, foreign or private.")] = "local",
    trust: Annotated[list[str] | None, typer.Option(help="Holder: a custodian that it trusts; repeat for several.")] = None,
    discovery_key: Annotated[str, typer.Option(help="Public discovery key of the legal office, from `sealmatch person discovery`.")] = "",
    office_key: Annotated[str, typer.Option(help="Public key of this legal office, from `sealmatch roster office-key`.")] = "",
    policy_pack: Annotated[list[str] | None, typer.Option(help="Folder of a Cedar pack; the strict default if left out.")] = None,
    embedder: Annotated[str, typer.Option(help="The face model.")] = "dlib",
    mode: Annotated[str, typer.Option(help="demo, test or production.")] = "production",
    as_json: AsJson = False,
) -> None:
    """Make a node's folder with fresh keys, pin the root set, and print the entry that the root holders put into the roster."""
    from agency_node.config import NodeConfig, Role  # noqa: PLC0415
    from agency_node.entry import roster_entry  # noqa: PLC0415
    from agency_node.keyring import CreatedKeys  # noqa: PLC0415
    from agency_node.node import create_node  # noqa: PLC0415
    from crypto.keys import SigningKey  # noqa: PLC0415
    from crypto.roster_entries import AgencyRole  # noqa: PLC0415

    with sentences(as_json):
        listed = [member(AgencyRole, one, "role").value for one in role]
        config = NodeConfig.checked(
            {
                "agency": agency,
                "mode": mode,
                "roles": [one for one in listed if one in set(Role)],
                "broker": broker,
                "root_fingerprint": root_fingerprint,
                "embedder": embedder,
                "trusted_custodians": sorted(trust or []),
                "policy_packs": policy_pack or [],
            }
        )
        entry_of = partial(
            roster_entry,
            agency=agency,
            name=name,
            agency_class=agency_class,
            jurisdiction=jurisdiction,
            roles=listed,
            officer=officer,
            legal_office=legal_office,
            discovery_key=discovery_key,
            office_key=office_key,
            mode=config.mode.value,
        )
        stand_in = SigningKey.generate().verifying_key
        entry_of(CreatedKeys(stand_in, stand_in if "witness" in listed else None))  # what does not fit is said before a folder is made
        entry = entry_of(create_node(folder, config, witness="witness" in listed))
    (folder / "roster-entry.json").write_text(_dump(entry), encoding="utf-8")
    if as_json:
        print_json(entry)
        return
    typer.echo(
        f"{agency} is in {folder}. Send {folder / 'roster-entry.json'} to the root holders; when the broker has a roster with it, run"
    )
    typer.echo(f"  sealmatch node serve {folder}")


@app.command(epilog="Example: sealmatch node serve ./northport")
def serve(
    folder: Folder,
    ready_file: Annotated[Path | None, typer.Option(help="Written when the node is ready, for whoever started it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the node until SIGTERM: it dials the broker and opens no port."""
    with sentences(as_json):
        # Small matrices only, a dozen times slower where another search wants the second core; read when numpy is first imported.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.preflight import check_production  # noqa: PLC0415
        from agency_node.serving import serve as serve_node  # noqa: PLC0415

        check_production(folder, clock)
        node = open_node(folder, clock)
        waiting = threading.Timer(PATIENCE_S, lambda: typer.echo(f"not ready yet: {STILL_WAITING.format(node.config.broker)}", err=True))
        waiting.daemon = True
        waiting.start()

        def on_ready() -> None:
            waiting.cancel()
            if ready_file is not None:
                ready_file.write_text("ready\n", encoding="ascii")
            if as_json:
                print_json({"ready": True, "agency": str(node.agency)})
            else:
                serves = ", ".join(role.value for role in node.config.roles) or "as a legal office"
                typer.echo(f"{node.agency} serves {serves} at {node.config.broker}", err=True)

        try:
            serve_node(node, on_ready)
        finally:
            waiting.cancel()


@app.command(epilog="Example: sealmatch node expunge ./lakeside L-2021-000093 --reason court-order")
def expunge(
    folder: Folder,
    record_number: Annotated[str, typer.Argument(help="The record's number, as it was enrolled.")],
    reason: Annotated[str, typer.Option(help="court-order, non-conviction, dismissed, juvenile, unchecked or error.")],
    as_json: AsJson = False,
) -> None:
    """Destroy one record for good: template, photograph, number and day. The serving node searches it no more.

    It enters into the public log that a record went, not which one.
    """
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.config import Role  # noqa: PLC0415
        from agency_node.holder.expunge_ledger import follow, path_of  # noqa: PLC0415
        from agency_node.holder.expunging import ExpungeReason  # noqa: PLC0415
        from agency_node.holder.records import RecordStore  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.outbox import Outbox  # noqa: PLC0415
        from agency_node.store import forget_deleted  # noqa: PLC0415

        given = member(ExpungeReason, reason, "reason")
        node = open_node(folder, clock)
        if Role.HOLDER not in node.config.roles:
            raise RequestError("this node is no holder: expunge records at the node whose gallery they belong to")
        with acting(node, "node expunge") as act:
            store = RecordStore(node.engine, node.vault, node.embedder().model)
            outbox = Outbox(node.agency, node.keyring.node_key, node.vault, clock, lambda: None)
            gone = store.expunge(record_number, given, clock(), outbox.expunction)
            act.subject = f"row {gone.row}"
            reach = follow(ledger_file := path_of(node.config, folder), store, node.keyring.node_key, clock())
        for _ in range(LOOKS):
            if files_clean := forget_deleted(node.engine):
                break
            time.sleep(BETWEEN_LOOKS_S)
    if as_json:
        print_json({"expunged": True, **plain(gone), "files_clean": files_clean, "ledger_entry": reach.number})
        return
    what = "template, photograph, record number and day" if gone.had_photograph else "template, record number and day"
    typer.echo(f"expunged row {gone.row} ({gone.reason}): {what} are overwritten, and the old key of its block of templates is destroyed")
    typer.echo(f"gallery root before {gone.root_before.hex()}, after {gone.root_after.hex()}")
    if not files_clean:
        typer.echo("the write-ahead log was in use: the serving node empties it in its next round")
    typer.echo(f"entry {reach.number} of {ledger_file}: note the number, and keep a copy of the file elsewhere; a restore asks for both")
    typer.echo("copies made before, such as backups, still hold the record: destroy them too")


@app.command(epilog="Example: sealmatch node status ./northport")
def status(
    folder: Folder,
    search: Annotated[str, typer.Option(help="One search with its ledger; the first digits of its id will do.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show searches with progress per holder, grants, custody, waiting requests, queues, and what was used of today's budgets."""
    with sentences(as_json):
        from agency_node.config import Role  # noqa: PLC0415
        from agency_node.holder.budgets import Budgets  # noqa: PLC0415
        from agency_node.holder.subject_requests import SubjectRequests  # noqa: PLC0415
        from agency_node.ledger_review import weeks_to_review  # noqa: PLC0415
        from agency_node.legal.exigent import exigent_status  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import node_status  # noqa: PLC0415
        from agency_node.retiring import standing_of  # noqa: PLC0415

        node = open_node(folder, clock, retired=True)
        spent = Budgets(node.config.budgets, node.vault).spent(node.engine, clock()) if Role.HOLDER in node.config.roles else []
        found, weeks = node_status(node.engine, str(node.agency), spent), weeks_to_review(node.engine, clock())
        exigent, standing = exigent_status(node.engine, clock()), standing_of(node.engine)
        asked = SubjectRequests(node.engine, node.vault, node.config.subject_requests, clock).open_requests()
        packs = pack_states(node)
        if search:
            _show_search(node, search, found.searches, as_json=as_json)
            return
    if as_json:
        more = {
            "weeks_to_review": plain(weeks),
            "exigent": plain(exigent),
            "packs": packs,
            "standing": standing,
            "subject_requests": plain(asked),
        }
        print_json({**plain(found), **more})
        return
    for line in standing:
        typer.echo(line)
    if found.halted:
        typer.echo(f"HALTED: {found.halted}")
    for one in found.searches:
        typer.echo(f"search {one.search_id}: {one.state}, answers until {one.deadline} {one.note}".rstrip())
        for holder, progress in one.holders.items():
            typer.echo(f"  {holder}: {progress['state']} at {progress['at']} {progress['note']}".rstrip())
    for title, rows in (("grants held", found.grants), ("custody", found.custody), ("disclosure requests", found.requests)):
        if rows:
            headings = {name.replace("_", " "): name == ("handle" if "handle" in rows[0] else "search_id") for name in rows[0]}
            print_table(title, headings, [row.values() for row in rows])
    if found.budgets:
        used = [[one.scope, one.who, one.used, one.limit] for one in found.budgets]
        print_table("searches claimed this UTC day", {"budget": False, "of": True, "used": False, "limit": False}, used)
    if found.unsearchable:
        why = ", ".join(f"{count} {reason}" for reason, count in found.unsearchable.items())
        typer.echo(f"records that no search finds (R25): {why}; `sealmatch gallery purge` destroys what is due")
    for week in weeks:
        typer.echo(f"ledger of {week.week}: {week.rows} rows, nobody has signed for it{', and the review is overdue' * week.overdue} (R53)")
    for request in asked:
        typer.echo(f"request {request.request_id} of a person: {request.state}, due {request.due_at} {request.warning}".rstrip())
    _show_exigent(exigent)
    show_pack_states(packs)
    typer.echo(f"{found.agency}: " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in found.counts.items()))


def _show_search(node: Node, search: str, own_searches: Sequence[SearchStatus], *, as_json: bool) -> None:
    """One search with its ledger, and what legal staff decided against it, with the reason."""
    from agency_node.commands.acting import acting  # noqa: PLC0415
    from agency_node.legal.decisions import read_told  # noqa: PLC0415
    from agency_node.overview import full_search_id, holder_events, journal_of  # noqa: PLC0415
    from agency_node.policy.decisions import stored_decisions  # noqa: PLC0415

    with acting(node, "node status") as act:
        act.search_id = search_id = full_search_id(node.engine, search)
    journal, events = journal_of(node.engine, search_id), holder_events(node.engine, search_id)
    own = next((one for one in own_searches if one.search_id == search_id), None)  # none at a holder or custodian
    told = read_told(node.engine, node.vault, search_id, node.parties)
    policy = stored_decisions(node.engine, node.vault, search_id)
    if as_json:
        decided = {} if told is None else {"decision": plain(told)}
        shown = {"events": events, "decisions": [told_decision(one) for one in policy], "ledger": journal}
        print_json({"search_id": search_id, **({} if own is None else plain(own)), **decided, **shown})
    else:
        if own is not None and own.state == "lapsed":
            typer.echo(own.note)
        if told is not None:
            typer.echo(f"{told.what} by {told.reviewer} at {told.decided_at}: {told.reason}")
        show_decisions(policy)
        print_table(f"ledger of {search_id}", dict.fromkeys(["at", "event", "detail"], False), [one.values() for one in journal])


def _show_exigent(exigent: ExigentStatus) -> None:
    for clocked in exigent.clocks:
        left = "" if clocked.hours_left is None else f", {clocked.hours_left:.1f} hours left"
        typer.echo(f"exigent search {clocked.search_id}: {clocked.state}, to be ratified before {clocked.ratify_by}{left}")
        if clocked.warning:
            typer.echo(f"  {'WARNING: ' if clocked.state == 'running' else ''}{clocked.warning}")
    if exigent.clocks:
        typer.echo("exigent grants: " + ", ".join(f"{count} {state}" for state, count in exigent.counts.items()))
    for notice in exigent.notices:
        typer.echo(f"notice for the {notice['to']}: notices/{notice['name']}{'' if notice['written_at'] else ' (not written yet)'}")


def duration(text: str) -> timedelta:
    """`90s`, `30m`, `4h` or `2d`; `RequestError` for anything else."""
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    if not text[:-1].isdigit() or text[-1:] not in units or int(text[:-1]) == 0:
        raise RequestError(f"{text!r} is not a time span: write 90s, 30m, 4h or 2d")
    return timedelta(**{units[text[-1]]: int(text[:-1])})


def _dump(entry: object) -> str:
    import json  # noqa: PLC0415

    return json.dumps(entry, indent=2, sort_keys=True) + "\n"
