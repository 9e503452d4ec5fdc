"""`sealmatch policy`: packs as people read, test, compare and put questions to them; approving and adopting stand in `policy_approval`.

Invariants: nothing here decides about a search that runs, and what a pack says is shown with its source, its evidence and the words that it
is our reading. A table of examples that does not hold ends with exit code 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agency_node.commands.decided import READING, banners, packs_asked, show_banners, show_grounds, told_decision
from agency_node.commands.output import AsJson, clock, print_json, print_table, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.node import Node
    from agency_node.policy.decisions import StoredDecision
    from agency_node.policy.engine import Decision, PolicyEngine, PolicyPack

app = typer.Typer(
    help="Policy packs: explain a decision, test and compare packs, list, approve and adopt them.",
    epilog="Example: sealmatch policy list --json",
    no_args_is_help=True,
)
PackName = Annotated[str, typer.Argument(help="A delivered pack's name, or a folder's path.", metavar="PACK", show_default=False)]


@app.command("list", epilog="Example: sealmatch policy list")
def list_packs(as_json: AsJson = False) -> None:
    """List the delivered packs: what each covers, on what it rests, whether it is verified, when it is read again, its hash."""
    with sentences(as_json):
        packs = _delivered()
    rows = [
        {
            "pack": one.name,
            "title": one.title,
            "source": one.source,
            "evidence": list(one.evidence),
            "verified": one.verified,
            "review_by": one.review_by.isoformat(),
            "alone": one.alone,
            "binds": list(one.binds),
            "sha256": one.sha256.hex(),
        }
        for one in packs
    ]
    if as_json:
        print_json({"packs": rows, "notice": READING})
        return
    headings = {"pack": True, "title": False, "verified": True, "evidence": True, "review by": True, "binds": False, "hash": True}
    told = []
    for one in packs:
        verified, binds = "yes" if one.verified else "NO", " ".join(one.binds) or "-"
        told.append([one.name, one.title, verified, " ".join(one.evidence), one.review_by, binds, one.sha256.hex()[:16]])
    print_table("delivered policy packs", headings, told, caption=READING)


@app.command("test", epilog="Example: sealmatch policy test strict-default us-md --json")
def try_packs(
    pack: Annotated[
        list[str] | None, typer.Argument(help="Packs by name or path; all delivered ones if left out.", metavar="[PACK]...")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the examples beside each pack: each gets its answer, every policy decides on both sides, and none can be taken out unnoticed."""
    with sentences(as_json):
        from agency_node.policy.engine import PolicyPack  # noqa: PLC0415
        from agency_node.policy.pack_folder import delivered_packs, find_pack  # noqa: PLC0415
        from agency_node.policy.scenarios import faults, read_scenarios, red_scenarios  # noqa: PLC0415

        rows: list[dict[str, Any]] = []
        for folder in [find_pack(name) for name in pack or ()] or delivered_packs():
            tested, examples = PolicyPack.load(folder), read_scenarios(folder)
            rows.append(
                {
                    "pack": tested.name,
                    "sha256": tested.sha256.hex(),
                    "policies": len(tested.policy_ids),
                    "examples": len(examples),
                    "allowed": sum(one.allowed for one in examples),
                    "red": [f"line {one.line}, {one.case}" for one, _ in red_scenarios(tested, examples)],
                    "faults": faults(tested, examples),
                }
            )
    whole = not any(row["faults"] for row in rows)
    if as_json:
        print_json({"ok": whole, "packs": rows, "notice": READING})
    else:
        headings = dict.fromkeys(["pack", "policies", "examples", "allowed", "refused", "red", "holds"], True)
        told = []
        for row in rows:
            refused, holds = row["examples"] - row["allowed"], "NO" if row["faults"] else "yes"
            told.append([row["pack"], row["policies"], row["examples"], row["allowed"], refused, len(row["red"]), holds])
        print_table("examples of the packs", headings, told, caption=READING)
        for row in rows:
            for fault in row["faults"]:
                typer.echo(f"{row['pack']}: {fault}")
    if not whole:
        raise typer.Exit(1)


@app.command(epilog="Example: sealmatch policy diff strict-default research-johnson-violent-only --json")
def diff(
    old: Annotated[str, typer.Argument(help="The pack before: name or path.", metavar="OLD", show_default=False)],
    new: Annotated[str, typer.Argument(help="The pack after: name or path.", metavar="NEW", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Put the examples of both tables to both packs, and show which get another answer, and by which policies."""
    with sentences(as_json):
        from agency_node.policy.comparing import compare  # noqa: PLC0415
        from agency_node.policy.pack_folder import find_pack  # noqa: PLC0415

        found = compare(find_pack(old), find_pack(new))
    rows = [
        {
            "case": one.case,
            "table": one.tables,
            "line": one.line,
            "old": _answer(one.old),
            "new": _answer(one.new),
            "reversed": one.is_reversed,
        }
        for one in found.changed
    ]
    if as_json:
        policies = {"only_old": list(found.only_old), "only_new": list(found.only_new)}
        print_json({"old": old, "new": new, "examples": found.asked, "changed": rows, "policies": policies, "notice": READING})
        return
    if rows:
        headings = {"case": False, "table": True, "line": True, old: False, new: False}
        shown = [[row["case"], row["table"], row["line"], row["old"], row["new"]] for row in rows]
        print_table(f"what {new} answers otherwise than {old}", headings, shown, caption=READING)
    for name, only in ((old, found.only_old), (new, found.only_new)):
        if only:
            typer.echo(f"only {name} has {', '.join(only)}")
    turned = sum(one.is_reversed for one in found.changed)
    typer.echo(f"{len(rows)} of {found.asked} examples change, {turned} of them from allowed to refused or back")


@app.command(epilog="Example: sealmatch policy explain strict-default --set nibrs=23C --set basis=consent")
def explain(
    pack: Annotated[list[str] | None, typer.Argument(help="Packs by name or path, all of which must allow.", metavar="[PACK]...")] = None,
    case: Annotated[str, typer.Option(help="An example of the first pack's table, in its own words; its first row if left out.")] = "",
    line: Annotated[int, typer.Option(help="The same by its line.")] = 0,
    put: Annotated[
        list[str] | None, typer.Option("--set", metavar="COLUMN=VALUE", help="Another value for a column of the table; repeat for several.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--node", metavar="DIR", help="Explain what this node decided.")] = None,
    search: Annotated[str, typer.Option("--search", help="With --node: about this search; its first digits will do.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say why a search is allowed or refused: pack, policy, rule, section, evidence, a sentence for a person, the next lawful step."""
    with sentences(as_json):
        if (folder is None) == (not pack):
            raise RequestError("name packs to put a question to, or a node with --node DIR --search ID: one of the two")
        if folder is not None:
            if not search:
                raise RequestError("name the search whose decisions are to be explained: --search ID")
            _explain_stored(folder, search, as_json)
            return
        from agency_node.policy.deciding import told_ground  # noqa: PLC0415
        from agency_node.policy.engine import PolicyPack, decide_all  # noqa: PLC0415
        from agency_node.policy.pack_folder import find_pack  # noqa: PLC0415
        from agency_node.policy.scenarios import changed_scenario  # noqa: PLC0415

        folders = [find_pack(name) for name in pack or ()]
        packs = [PolicyPack.load(one) for one in folders]
        asked = changed_scenario(folders[0], case, line, dict(map(_column, put or ())))
        each = [one.decide(asked.inputs) for one in packs]
        together = decide_all(packs, asked.inputs)
    if as_json:
        answers = [
            {"pack": one.name, "allowed": said.allowed, "grounds": [told_ground(ground) for ground in said.grounds]}
            for one, said in zip(packs, each, strict=True)
        ]
        asked_of = {"case": asked.case, "line": asked.line, "changed": list(put or ())}
        print_json({**asked_of, "allowed": together.allowed, "answers": answers, "packs": banners(packs), "notice": READING})
        return
    typer.echo(f"{asked.case}{', with ' + ', '.join(put) if put else ''}: {'ALLOWED' if together.allowed else 'REFUSED'}")
    for one, said in zip(packs, each, strict=True):
        typer.echo(f"{one.name} {'allows' if said.allowed else 'refuses'} it ({one.source})")
        show_grounds(said.grounds)
    show_banners(packs)


def _explain_stored(folder: Path, search: str, as_json: bool) -> None:
    from agency_node.commands.acting import acting  # noqa: PLC0415
    from agency_node.node import open_node  # noqa: PLC0415
    from agency_node.overview import full_search_id  # noqa: PLC0415
    from agency_node.policy.deciding import told_ground  # noqa: PLC0415
    from agency_node.policy.decisions import decide_again, stored_decisions  # noqa: PLC0415
    from agency_node.policy.engine import load_packs  # noqa: PLC0415

    node = open_node(folder, clock)
    with acting(node, "policy explain") as act:
        act.search_id = search_id = full_search_id(node.engine, search)
        stored = stored_decisions(node.engine, node.vault, search_id)
        own = load_packs(node.config.policy_packs)
        here = engines_of(node, own, stored)
        found = [(one, *decide_again(one, here)) for one in stored]
    if not found:
        raise RequestError("this node has decided nothing about that search: its policy is asked when it is drafted, signed or admitted")
    asked = packs_asked([decision for _, _, decision in found if decision is not None], own)
    if as_json:
        rows = [
            {
                **told_decision(one),
                "again": again.value,
                "grounds": [] if decision is None else [told_ground(ground) for ground in decision.grounds],
            }
            for one, again, decision in found
        ]
        print_json({"search_id": search_id, "decisions": rows, "packs": banners(asked), "notice": READING})
        return
    for one, again, decision in found:
        typer.echo(
            f"{one.at} {one.place} {one.holder or node.agency}: {'ALLOWED' if one.allowed else 'REFUSED'} by {', '.join(one.policies)}"
        )
        typer.echo(f"  packs {' '.join(f'{name} {sha256[:16]}' for name, sha256 in one.packs.items()) or one.pack_sha256.hex()[:16]}")
        typer.echo(f"  inputs {one.inputs_sha256.hex()}; made again: {again.value}")
        if decision is not None:
            show_grounds(decision.grounds)
    show_banners(asked)


def engines_of(node: Node, own: tuple[PolicyPack, ...], stored: list[StoredDecision]) -> list[PolicyEngine]:
    """Everything that may have decided at this node, as far as it is here now: its packs, those that bind, its own federal list."""
    from agency_node.holder.federal import federal_gate  # noqa: PLC0415
    from agency_node.policy.deciding import binding_packs  # noqa: PLC0415

    gates = [gate for one in stored if one.inputs is not None for gate in federal_gate(one.inputs, node.config.federal.allow)]
    return [*own, *binding_packs(), *gates]


def _delivered() -> list[PolicyPack]:
    from agency_node.policy.engine import PolicyPack  # noqa: PLC0415
    from agency_node.policy.pack_folder import delivered_packs  # noqa: PLC0415

    return [PolicyPack.load(folder) for folder in delivered_packs()]


def _answer(decision: Decision) -> str:
    return f"{'allow' if decision.allowed else 'deny'} by {' '.join(decision.policies)}"


def _column(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise RequestError(f"{text!r} sets no column: write nibrs=23C, and - for nothing")
    return name, value
