"""How a decision of a policy is shown to people: what was decided, by which rule, on what that rests, what may be done next, and whose
reading it is.

A pack that no agency's counsel has signed for shows its banner wherever its decisions are shown (engine rule 5), on standard error where
the decision itself goes to standard output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import typer

from agency_node.errors import ConfigError
from crypto.errors import PeerError

if TYPE_CHECKING:
    from agency_node.node import Node
    from agency_node.policy.deciding import HolderDecision
    from agency_node.policy.decisions import StoredDecision
    from agency_node.policy.engine import Decision, Ground, PolicyPack

READING: Final = "A pack is our reading of its sources and not legal advice."
TAGS: Final = "Evidence: S the text itself was seen, 2 a secondary source only, M from memory, ? sources conflict."


def banner(pack: PolicyPack) -> str:
    """What is said of a pack that is not verified; empty for one that is."""
    if pack.verified:
        return ""
    return f"NOT VERIFIED: {pack.name} ({' '.join(pack.evidence)}), no agency's counsel has signed for it; review by {pack.review_by}"


def banners(packs: Iterable[PolicyPack]) -> list[dict[str, object]]:
    """Of each pack name, hash and banner, for programs."""
    return [{"pack": one.name, "sha256": one.sha256.hex(), "verified": one.verified, "banner": banner(one)} for one in packs]


def show_banners(packs: Iterable[PolicyPack]) -> None:
    """The banners, in red on a terminal, and that a pack is a reading."""
    for said in filter(None, map(banner, packs)):
        typer.secho(said, fg=typer.colors.RED, err=True)
    typer.echo(f"{READING} {TAGS}", err=True)


def show_grounds(grounds: Iterable[Ground], indent: str = "  ") -> None:
    """Each policy that decided, with its section and evidence, its sentence and the next lawful step."""
    for one in grounds:
        rests = f"; {one.section} [{' '.join(one.evidence)}]" if one.section else ""
        typer.echo(f"{indent}R{one.rule} {f'{one.pack}/' if one.pack else ''}{one.policy}{rests}")
        typer.echo(f"{indent}  {one.sentence}")
        typer.echo(f"{indent}  Next: {one.step}")


def packs_asked(decisions: Iterable[Decision], own: Iterable[PolicyPack]) -> list[PolicyPack]:
    """Of a node's own packs and those that bind, which were asked, in order of their names."""
    from agency_node.policy.deciding import binding_packs  # noqa: PLC0415

    asked = {sha256 for decision in decisions for _, sha256 in decision.packs}
    known = {pack.sha256: pack for pack in (*own, *binding_packs())}
    return sorted((pack for sha256, pack in known.items() if sha256 in asked), key=lambda pack: pack.name)


def print_forecast(foreseen: Sequence[HolderDecision], packs: Sequence[PolicyPack]) -> None:
    """What the requester's own packs, and those that bind, say of a draft at each holder; `packs` are those that were asked."""
    for one in foreseen:
        typer.echo(f"policy at {one.holder}: {'allowed' if one.decision.allowed else 'REFUSED'}, as far as this node can tell")
        if not one.decision.allowed:
            show_grounds(one.decision.grounds)
    if not all(one.decision.allowed for one in foreseen):
        typer.echo("no reviewer can sign this draft as it is: draft a new search within the rules above")
    show_banners(packs)


def told_decision(one: StoredDecision) -> dict[str, object]:
    """A stored decision for programs: what was asked stays where it is sealed."""
    return {
        "at": one.at,
        "place": one.place,
        "holder": one.holder,
        "allowed": one.allowed,
        "policies": list(one.policies),
        "rules": [f"R{rule}" for rule in one.rules],
        "packs": dict(one.packs),
        "pack_sha256": one.pack_sha256.hex(),
        "inputs_sha256": one.inputs_sha256.hex(),
    }


def show_decisions(decided: Sequence[StoredDecision]) -> None:
    """What a node decided about a search, one line each; `policy explain` says more."""
    for one in decided:
        said = "allowed" if one.allowed else "REFUSED"
        rules = ", ".join(f"{policy} R{rule}" for policy, rule in zip(one.policies, one.rules, strict=True))
        packs = " ".join(f"{name} {sha256[:16]}" for name, sha256 in one.packs.items())
        typer.echo(f"policy, {one.place} {one.holder}: {said} by {rules}; packs {packs}; inputs {one.inputs_sha256.hex()[:16]}")


def pack_states(node: Node) -> list[dict[str, object]]:
    """The packs that a node names: hash, banner, and whether two persons have signed for them; None while no roster was pinned."""
    from agency_node.policy.approvals import unapproved  # noqa: PLC0415
    from agency_node.policy.engine import load_packs  # noqa: PLC0415

    packs = load_packs(node.config.policy_packs)
    try:
        unsigned: list[PolicyPack] | None = unapproved(node.folder, packs, node.agency, node.parties.roster())
    except (ConfigError, PeerError):
        unsigned = None
    approved = [None if unsigned is None else pack not in unsigned for pack in packs]
    return [{**told, "approved": one} for told, one in zip(banners(packs), approved, strict=True)]


def show_pack_states(packs: Iterable[dict[str, object]]) -> None:
    """Each with its banner, in red on a terminal; and a warning for one that nobody signed for, by which only a demonstration decides."""
    for one in packs:
        typer.echo(f"policy pack {one['pack']} {str(one['sha256'])[:16]}")
        if one["banner"]:
            typer.secho(f"  {one['banner']}", fg=typer.colors.RED)
        if one["approved"] is False:
            typer.secho("  WARNING: no two persons have signed for it; outside a demonstration this node does not decide by it", fg="red")
