"""Exigent searches in the federation of `node_world`: their drafts, their ratification, their log, for the tests of R4."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from agency_node.gallery_tables import disclosure_requests
from agency_node.holder.decision import decide_disclosure
from agency_node.legal.exigent import ratify_search
from agency_node.legal.persons import PersonKey
from agency_node.requester.leads import ask_for
from crypto.canonical import SearchId
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.grant_basis import BasisKind, StatementOfFacts, commit_facts
from crypto.grant_claims import GrantClaims
from crypto.roster_entries import PersonRole
from tests.node_world import World, WorldNode, person_key
from tests.sample_federation import BOTH, LAKESIDE, LAKESIDE_REVIEWER, NORTHPORT, OVERSIGHT, digest

FACTS: Final = "a child was taken from the school yard at noon"
SALT: Final = digest("facts salt")
DAY: Final = timedelta(hours=24)


def exigent(**changes: Any) -> dict[str, Any]:
    """What makes a draft an exigent one."""
    basis = StatementOfFacts(BasisKind.EXIGENT, commit_facts(SALT, FACTS))
    return {"basis": basis, "facts": FACTS, "facts_salt": SALT, **changes}


def second_reviewer() -> PersonKey:
    return person_key(BOTH, PersonRole.REVIEWER, "both reviewer")


async def open_world(folder: Path) -> World:
    """Requester, one holder and one custodian."""
    made = World(folder)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    return made


def ratify(world: World, search_id: SearchId, person: PersonKey | None = None) -> None:
    node = world.nodes[NORTHPORT]
    ratify_search(node.engine, node.vault, node.parties.trusted, search_id, person or second_reviewer(), world.clock())


async def later(world: World, *, rounds: int = 3, without: tuple[str, ...] = (), **duration: float) -> None:
    """Time passes, witnesses cosign again, the nodes go on (but for those that are away)."""
    world.clock.pass_by(**duration)
    world.broker.cosign_again()
    for _ in range(rounds):
        for agency, node in world.nodes.items():
            if agency not in without:
                await node.turn()


async def disclosed(world: World, **changes: Any) -> GrantClaims:
    """An exigent search whose one lead was asked for and disclosed."""
    content = await world.released(**exigent(**changes))
    await asked(world, content)
    decide(world)
    await world.run(rounds=3)
    return content


async def asked(world: World, content: GrantClaims) -> None:
    """The requester has asked for its lead's photograph, and the holder's legal staff has not decided."""
    node = world.nodes[NORTHPORT]
    ask_for(node.engine, node.vault, content.search_id, 1, world.clock())
    await world.run(rounds=3)


def decide(world: World) -> None:
    """The holder's legal staff grants the disclosure."""
    holder = world.nodes[LAKESIDE]
    (request,) = holder.rows(disclosure_requests, state="pending")
    counsel = person_key(LAKESIDE_REVIEWER, PersonRole.REVIEWER)
    decide_disclosure(holder.engine, holder.parties, LAKESIDE, request.handle, counsel, world.clock(), grant=True)


def entries(world: World, kind: EntryKind, grant_digest: bytes) -> int:
    """How often the log holds this entry about this grant."""
    return Counter(LogEntry.from_bytes(leaf).subject for leaf in world.broker.log)[entry_subject(kind, grant_digest)]


def restart(node: WorldNode) -> None:
    """The process died and another one starts over its store."""
    node.assemble()
