"""Evidence from the stores of real nodes after a whole search: every act of every party is shown, and a log that lacks one is caught."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update

from agency_node.errors import RequestError
from agency_node.log_evidence import collect_acts, evidence_of
from agency_node.outbox import READY
from agency_node.requester.leads import write_requests
from agency_node.tables import outbox
from agency_node.verification import verify_log
from crypto.canonical import AgencyId
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.errors import InclusionError, PeerError
from crypto.grant_claims import GrantClaims
from crypto.log_evidence import check_evidence
from crypto.log_index import LogIndex
from tests.node_world import World, WorldNode
from tests.sample_federation import LAKESIDE, NORTHPORT, OVERSIGHT, roster

PARTIES = {NORTHPORT: "requester", LAKESIDE: "holder", OVERSIGHT: "custodian"}
SHOWN = {
    NORTHPORT: {(EntryKind.GRANT, None): 1, (EntryKind.RELEASE, None): 1, (EntryKind.DISCLOSURE, LAKESIDE): 1},
    LAKESIDE: {
        (EntryKind.GRANT, None): 1,
        (EntryKind.ANSWER, LAKESIDE): 1,
        (EntryKind.RELEASE, None): 1,
        (EntryKind.DISCLOSURE, LAKESIDE): 1,
    },
    OVERSIGHT: {(EntryKind.RELEASE, None): 1},
}
"""What each party can show of one search that ended with a dummy disclosure."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in PARTIES:
        await made.node(agency)
    yield made
    made.close()


async def ended(world: World) -> GrantClaims:
    """A search with one lead of which nothing is asked: the requester sends a dummy, and the holder answers it like a question."""
    content = await world.released()
    node = world.nodes[NORTHPORT]
    with node.engine.begin() as connection:
        write_requests(connection, content.search_id, content.holders, None, world.clock())
    await world.run(rounds=3)
    return content


def index_of(leaves: list[bytes]) -> LogIndex:
    index = LogIndex()
    for data in leaves:
        index.append(LogEntry.from_bytes(data))
    return index


def shown_by(node: WorldNode) -> dict[tuple[EntryKind, AgencyId | None], int]:
    return {(act.kind, act.author): act.count for act in collect_acts(node.engine, node.agency)}


async def test_every_act_of_a_search_is_shown_and_has_its_entry(world: World) -> None:
    content = await ended(world)
    assert {agency: shown_by(world.nodes[agency]) for agency in PARTIES} == SHOWN
    size = len(world.broker.log)
    for agency in PARTIES:
        evidence = evidence_of(world.nodes[agency].engine, agency, world.clock(), size, size)
        assert {act.grant_digest for act in evidence.acts} == {content.digest}
        check_evidence(evidence, index_of(world.broker.log))
        report = await verify_log(world.broker, roster(), world.clock(), evidence=evidence)  # type: ignore[arg-type]  # without its wire
        assert report.acts == len(evidence.acts)


@pytest.mark.rule("R76")
@pytest.mark.parametrize("agency", PARTIES, ids=PARTIES.values())
async def test_a_log_without_one_of_the_entries_is_caught_by_each_party_that_acted_on_it(world: World, agency: AgencyId) -> None:
    """R76: each entry of the search is taken out in turn; the party whose evidence needs it finds that out."""
    content = await ended(world)
    log, node = world.broker.log, world.nodes[agency]
    assert shown_by(node) == SHOWN[agency]
    for (kind, author), _ in shown_by(node).items():
        subject = entry_subject(kind, content.digest, author)
        lacking = [data for data in log if LogEntry.from_bytes(data).subject != subject]
        assert len(lacking) == len(log) - 1
        evidence = evidence_of(node.engine, agency, world.clock(), 0, len(lacking))
        with pytest.raises((InclusionError, PeerError)):
            check_evidence(evidence, index_of(lacking))


async def test_a_disclosure_that_left_without_its_entry_is_shown_all_the_same(world: World) -> None:
    """A holder's program that enters nothing: the message that left is the act, not the entry that was queued."""
    content = await world.released()
    node = world.nodes[LAKESIDE]
    with node.engine.begin() as connection:
        renamed = update(outbox).where(outbox.c.kind == "message", outbox.c.name == "stubs").values(name="disclosure")
        assert connection.execute(renamed).rowcount == 1
    assert shown_by(node)[EntryKind.DISCLOSURE, LAKESIDE] == 1
    evidence = evidence_of(node.engine, LAKESIDE, world.clock(), 0, len(world.broker.log))
    with pytest.raises(InclusionError, match="0 of 1 disclosure"):
        check_evidence(evidence, index_of(world.broker.log))
    assert content.digest.hex() not in repr(evidence)


async def test_while_an_entry_waits_to_be_sent_there_is_no_evidence(world: World) -> None:
    await world.released()
    node = world.nodes[LAKESIDE]
    with node.engine.begin() as connection:
        connection.execute(update(outbox).where(outbox.c.kind == "entry", outbox.c.name == "answer").values(state=READY))
    with pytest.raises(RequestError, match="wait to be sent"):
        collect_acts(node.engine, LAKESIDE)
