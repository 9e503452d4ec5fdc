"""`sealmatch node ledger|preflight|statement|evaluated`: what an agency owes beside its searches.

The ledger is read, checked and signed for; what blocks production is listed; federal access is stated month by month. Reading the ledger
is itself a row of it (R50). The commands join those of `node`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, plain, print_json, print_table, sentences
from agency_node.commands.signed_files import read_document, write_new
from agency_node.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from agency_node.commands.acting import Act
    from agency_node.ledger_check import LedgerState
    from agency_node.node import Node
    from crypto.roster import Roster

SHOWN = {"sequence": True, "at": True, "actor": False, "event": False, "outcome": False, "recipient": False, "detail": False}


@app.command(epilog="Example: sealmatch node ledger ./northport --day 2026-11-23 --json")
def ledger(
    folder: Folder,
    search: Annotated[str, typer.Option(help="Rows of one search; the first digits of its id will do.")] = "",
    day: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="DAY", help="Rows of one day, in UTC.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain and every sign-off, and say where it breaks.")] = False,
    against: Annotated[list[Path] | None, typer.Option(help="With --verify: a sign-off that its signer kept; repeat for several.")] = None,
    sign_off: Annotated[str, typer.Option("--sign-off", metavar="WEEK", help="Sign for a week that was read, e.g. 2026-W47.")] = "",
    person: Annotated[
        Path | None, typer.Option(help="With --sign-off: the key file of a legal reviewer or the responsible officer.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="With --sign-off: where the signer keeps the signed document.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the node's audit ledger, check it, or sign for a week of it."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.overview import full_search_id, ledger_rows  # noqa: PLC0415

        if verify and sign_off:
            raise RequestError("one at a time: --verify looks at the whole ledger, --sign-off checks it before it signs")
        node = open_node(folder, clock, retired=True)
        with acting(node, "node ledger") as act:
            if verify:
                state = _checked(node, act, against or [])
            elif sign_off:
                if person is None or save is None:
                    raise RequestError("a sign-off needs --person KEY, who signs, and --save FILE, where that person keeps it")
                if save.exists():
                    raise RequestError(f"{save} is there already, and no signed document is overwritten: name another file")
                signed = _sign_off(node, act, sign_off, person, save)
                print_json(signed) if as_json else typer.echo(
                    f"signed for {sign_off} up to row {signed['sequence']}; keep {save} elsewhere"
                )
                return
            else:
                act.search_id = full_search_id(node.engine, search) if search else ""
                act.detail = f"{act.search_id or 'all searches'}, {day.date() if day else 'all days'}"
                rows = ledger_rows(node.engine, act.search_id, "" if day is None else day.date().isoformat())
    if not verify:
        if as_json:
            print_json({"rows": rows})
            return
        print_table(f"ledger of {node.agency}", SHOWN, [[row[name] for name in SHOWN] for row in rows])
        return
    whole = not state.findings
    if as_json:
        print_json({"ok": whole, **plain(state)})
    else:
        typer.echo(f"{state.rows} rows, {'whole' if whole else 'NOT WHOLE'}; signed for up to row {state.signed_to}")
        typer.echo(f"head: row {state.sequence} {state.head.hex()}")
        for one in state.findings:
            typer.echo(one.says)
    if not whole:
        raise typer.Exit(1)


@app.command(epilog="Example: sealmatch node preflight ./northport --json")
def preflight(folder: Folder, as_json: AsJson = False) -> None:
    """List what blocks production, with who or what clears each; ends with exit code 1 when something does."""
    with sentences(as_json):
        from agency_node.node import open_node  # noqa: PLC0415
        from agency_node.preflight import fetch_roster, find_blockers  # noqa: PLC0415

        node = open_node(folder, clock)
        fetch_roster(node)
        blockers = find_blockers(node)
    if as_json:
        print_json({"ok": not blockers, "agency": str(node.agency), "blockers": plain(blockers)})
    elif blockers:
        for one in blockers:
            typer.echo(f"{one.name} ({one.rule}): {one.says}\n  cleared by {one.cleared_by}")
    else:
        typer.echo(f"nothing blocks {node.agency} from production")
    if blockers:
        raise typer.Exit(1)


@app.command(epilog="Example: sealmatch node statement ./lakeside --month 2026-10 --save ./federal-2026-10.json")
def statement(
    folder: Folder,
    month: Annotated[str, typer.Option(help="A month that is over, e.g. 2026-10.")] = "",
    save: Annotated[Path | None, typer.Option(help="Where to write the signed document.")] = None,
    check: Annotated[Path | None, typer.Option(help="Check another holder's statement against the pinned roster instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """State, signed, how many federal queries this holder admitted, answered and refused in a month; or check such a statement (R9)."""
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.holder.federal import make_statement  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415
        from crypto.epoch import Epoch  # noqa: PLC0415
        from crypto.federal_statement import FEDERAL_STATEMENT_KIND, FederalStatement  # noqa: PLC0415

        node = open_node(folder, clock)
        if check is not None:
            document = read_document(check, FEDERAL_STATEMENT_KIND.max_bytes)
        else:
            if not month or save is None:
                raise RequestError("name the month and where to write it: --month 2026-10 --save FILE, or a statement to --check")
            with acting(node, "node statement", subject=f"month {month}"):
                document = make_statement(node.engine, node.config, node.keyring.node_key, Epoch(month), clock())
                write_new(save, document)
        said = FederalStatement.read(document, node.parties.trusted.possibly_expired)
    if as_json:
        print_json(said)
        return
    typer.echo(
        f"{said.agency}, {said.month.month}: federal queries admitted {said.admitted}, answered {said.answered}, refused {said.refused}"
    )


@app.command(epilog="Example: sealmatch node evaluated ./lakeside ./report.pdf --on 2026-11-20 --person officer.key")
def evaluated(
    folder: Folder,
    report: Annotated[Path, typer.Argument(help="The report of the test on a local labelled set; it stays with you.", show_default=False)],
    on: Annotated[datetime, typer.Option("--on", formats=["%Y-%m-%d"], metavar="DAY", help="The day of the test.")],
    person: Annotated[Path, typer.Option(help="The key file of a legal reviewer or the responsible officer, who signs for the report.")],
    as_json: AsJson = False,
) -> None:
    """Sign for a test of this node's face model in the agency's own conditions (R63); it holds for a year."""
    with sentences(as_json):
        import hashlib  # noqa: PLC0415

        from agency_node.commands.acting import acting, person_key  # noqa: PLC0415
        from agency_node.legal.evaluation import state_evaluation  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415

        node = open_node(folder, clock)
        with acting(node, "node evaluated") as act:
            digest = hashlib.sha256(read_document(report, 1 << 30)).digest()
            key = person_key(node, act, person)
            model_hash = node.embedder().model.model_hash
            state_evaluation(node.engine, node.parties.roster(), node.agency, model_hash, digest, on.date(), key, clock())
    said = {"report_sha256": digest.hex(), "evaluated_on": on.date().isoformat(), "person": str(key.person_id)}
    print_json(said) if as_json else typer.echo(f"{key.person_id} signed for the report {digest.hex()}")


def _checked(node: Node, act: Act, against: list[Path]) -> LedgerState:
    from agency_node.ledger_check import check_ledger  # noqa: PLC0415
    from agency_node.ledger_review import SIGN_OFF_KIND  # noqa: PLC0415

    held = [read_document(path, SIGN_OFF_KIND.max_bytes) for path in against]
    state = check_ledger(node.engine, _pinned(node), node.agency, held)
    act.detail = "whole" if not state.findings else f"not whole from row {state.findings[0].sequence}"
    return state


def _sign_off(node: Node, act: Act, week: str, person: Path, save: Path) -> dict[str, Any]:
    from agency_node.commands.acting import person_key  # noqa: PLC0415
    from agency_node.ledger_check import check_ledger  # noqa: PLC0415
    from agency_node.ledger_review import SignOff, sign_off  # noqa: PLC0415
    from crypto.sealing_key import Week  # noqa: PLC0415

    act.subject = f"week {week}"
    roster, key = node.parties.roster(), person_key(node, act, person)
    state = check_ledger(node.engine, roster, node.agency)
    if state.findings:
        raise RequestError(f"the ledger does not hold, and nobody signs for it: {state.findings[0].says}")
    document = sign_off(node.engine, roster, node.agency, Week(week), key, clock())
    write_new(save, document)
    signed: dict[str, Any] = plain(SignOff.read(document, roster))
    return signed


def _pinned(node: Node) -> Roster | None:
    """What is trusted, expired or not: signatures of last year are checked too. None for a node that has met no roster yet."""
    try:
        return node.parties.trusted.possibly_expired
    except ConfigError:
        return None
