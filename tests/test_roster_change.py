"""A roster counts when everybody can see that there is one: who enters it, and what nodes do under one that the log does not hold.

The rosters of this file are signed by a threshold of root holders, so that nothing but the log tells an open one from one that was made for
a single node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agency_node.follower import ROSTER_AGAIN
from agency_node.requester.leads import list_leads
from agency_node.tables import answers, custody, held_grants, searches
from agency_node.verification import verify_log
from broker.log_store import LogStore
from broker.roster_store import RosterStore
from broker.store import Store
from crypto.canonical import AgencyId
from crypto.checkpoint import Checkpoint
from crypto.entries import EntryKind, LogEntry, check_field
from crypto.errors import CommitmentError, MirrorError, RosterRollbackError, UnloggedRosterError
from crypto.mirror import LogMirror
from crypto.roster import Roster
from crypto.roster_change import roster_entry, roster_opening, roster_subject
from tests.broker_world import LOG_KEY, ROSTER, open_world
from tests.broker_world import World as BrokerWorld
from tests.node_samples import head_of, leaf, other_leaves, roster_leaf
from tests.node_world import World, search_claims
from tests.sample_federation import LAKESIDE, NORTHPORT, NOW, OVERSIGHT, roster, sign_roster, signing_key, with_agency

PARTIES = (NORTHPORT, LAKESIDE, OVERSIGHT)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in PARTIES:
        await made.node(agency)
    yield made
    made.close()


def for_one_node() -> Roster:
    """A second version with another key for the custodian, which a threshold signed and nobody else is to see."""
    return with_agency(roster(2), OVERSIGHT, node_key=signing_key("made for one node").verifying_key)


# --- the entry --------------------------------------------------------------------------------------------------------


def test_an_entry_is_of_one_content_and_opens_for_who_has_it() -> None:
    entry = roster_entry(roster(2), NOW.date())
    assert LogEntry.from_bytes(entry.to_bytes()) == entry
    assert entry.subject == roster_subject(roster(2).digest)
    check_field(entry.commitments[0], roster_opening(roster(2)))
    assert roster_entry(roster(2), NOW.date()) == entry, "whoever enters it again enters the same"
    for other in (roster(1), roster(3), for_one_node()):
        assert roster_entry(other, NOW.date()).subject != entry.subject
        with pytest.raises(CommitmentError):
            check_field(entry.commitments[0], roster_opening(other))


def checked(leaves: list[bytes], content: Roster, *, under: int | None = None) -> None:
    mirror = LogMirror(leaves)
    head: Checkpoint = head_of(leaves[: len(leaves) if under is None else under]).checkpoint
    mirror.check_roster(content.digest, head)


def test_a_roster_counts_while_it_is_the_last_one_in_the_log() -> None:
    first, second = roster_leaf(roster(1)), roster_leaf(roster(2))
    checked([first, *other_leaves(2)], roster(1))
    checked([first, *other_leaves(2), second], roster(2))
    for leaves, content, words in (
        (other_leaves(3), roster(1), "does not hold the roster"),
        ([first, *other_leaves(2)], roster(2), "does not hold the roster"),
        ([first, second, *other_leaves(2)], roster(1), "holds a later roster"),
        ([first, second, first], roster(2), "holds a later roster"),
        ([first, second], for_one_node(), "does not hold the roster"),
    ):
        with pytest.raises(UnloggedRosterError, match=words):
            checked(leaves, content)
    with pytest.raises(UnloggedRosterError, match="does not hold"):
        checked([first, second], roster(2), under=1)  # entered, and not under the head that witnesses cosigned
    with pytest.raises(UnloggedRosterError, match="holds a later"):
        checked([first, second], roster(1), under=1)  # a mirror that read on forgets nothing
    with pytest.raises(MirrorError):
        LogMirror([first]).check_roster(roster(1).digest, head_of([first, second]).checkpoint)


# --- the broker's operator --------------------------------------------------------------------------------------------


async def leaves_of(world: BrokerWorld) -> list[LogEntry]:
    return [LogEntry.from_bytes(data) for data in (await world.services.log.leaves_from(0, 100))[1]]


async def test_installing_a_roster_enters_it_once(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker", with_roster=False) as world:
        rosters = world.services.rosters
        for _ in range(2):
            await rosters.install(sign_roster(ROSTER), NOW)
        newer = replace(ROSTER, version=2, expires=NOW + timedelta(days=90))
        await rosters.install(sign_roster(newer), NOW)
        with pytest.raises(RosterRollbackError):
            await rosters.install(sign_roster(ROSTER), NOW)
        entered = await leaves_of(world)
        assert [(one.kind, one.subject) for one in entered] == [
            (EntryKind.ROSTER_CHANGE, roster_subject(content.digest)) for content in (ROSTER, newer)
        ]
        assert (await world.head()).checkpoint.size == 2


async def test_a_roster_of_before_is_entered_when_it_is_installed_again(tmp_path: Path) -> None:
    """A broker that installed rosters before they were entered needs no new version."""
    async with open_world(tmp_path / "broker") as world:
        assert await leaves_of(world) == []
        await world.services.rosters.install(sign_roster(ROSTER), NOW)
        assert [one.subject for one in await leaves_of(world)] == [roster_subject(ROSTER.digest)]


async def test_a_broker_that_runs_has_a_head_over_the_entry_before_it_hands_the_roster_out(tmp_path: Path) -> None:
    """The operator's command is another process over the same folder."""
    async with open_world(tmp_path / "broker") as world:
        assert (await world.head()).checkpoint.size == 0
        store = await Store.open(world.config.database_url)
        operator = RosterStore(store, world.config, ROSTER.log, LogStore(store, LOG_KEY, ROSTER.log, world.config.limits))
        newer = replace(ROSTER, version=2)
        await operator.install(sign_roster(newer), NOW)
        await store.close()
        assert (await world.ask("GET", "/v1/roster")).content == sign_roster(newer)
        assert (await world.head()).checkpoint.size == 2 - 1  # of the first version only the row is there
        assert [one.subject for one in await leaves_of(world)] == [roster_subject(newer.digest)]


# --- nodes ------------------------------------------------------------------------------------------------------------


async def nothing_begun(world: World) -> None:
    for agency in PARTIES:
        node = world.nodes[agency]
        assert node.rows(held_grants) == node.rows(answers) == node.rows(custody) == []


@pytest.mark.rule("R76")
async def test_under_a_roster_that_the_log_does_not_hold_no_search_begins(world: World) -> None:
    """Caught by every node for itself, before it sends or takes anything (`UnloggedRosterError`); it says so where searches stand."""
    world.broker.rosters[2] = sign_roster(roster(2))
    for agency in PARTIES:
        await world.nodes[agency].parties.refresh()
    content = await world.granted()
    await world.run(rounds=4)
    await nothing_begun(world)
    (row,) = world.nodes[NORTHPORT].rows(searches)
    assert row.note == "the log is not ready: the log under this checkpoint does not hold the roster that is trusted here"
    assert world.broker.carried == []
    # the operator enters it, witnesses cosign, and what waited goes on
    world.broker.add(roster_leaf(roster(2)))
    await world.run(rounds=6)
    requester = world.nodes[NORTHPORT]
    assert len(list_leads(requester.engine, requester.vault, content.search_id)) == 1


async def test_a_grant_under_an_unlogged_roster_waits_and_is_not_refused(world: World) -> None:
    content = search_claims()
    await world.requester_with_key(content)
    world.broker.enter_grant(content.digest)
    holder = world.nodes[LAKESIDE]
    world.broker.rosters[2] = sign_roster(roster(2))
    await holder.parties.refresh()
    message = world.grant(content, LAKESIDE)
    await world.hand_in(LAKESIDE, message)
    assert holder.state_of(message)[0] == "waiting"
    assert not holder.rows(held_grants)
    world.broker.add(roster_leaf(roster(2)))
    await holder.work()
    assert holder.state_of(message)[0] == "done"


@pytest.mark.parametrize("party", [LAKESIDE, OVERSIGHT])
async def test_a_roster_made_for_one_node_stops_that_node_and_shows(world: World, party: AgencyId) -> None:
    """Root holders and the broker together hand one node a roster with a key of theirs: it takes no grant under it, and says why."""
    content = search_claims()
    await world.requester_with_key(content)
    world.broker.enter_grant(content.digest)
    world.broker.rosters[2] = sign_roster(for_one_node())
    node = world.nodes[party]
    await node.parties.refresh()
    message = world.grant(content, party)
    await world.hand_in(party, message)
    assert (node.state_of(message)[0], node.rows(held_grants)) == ("waiting", [])
    # entering the open version beside it does not make it the log's
    world.broker.add(roster_leaf(roster(2)))
    await node.work()
    assert (node.state_of(message)[0], node.rows(held_grants)) == ("waiting", [])


@pytest.mark.parametrize("party", [LAKESIDE, OVERSIGHT])
async def test_a_node_that_is_served_an_old_roster_does_nothing_until_it_has_the_new_one(world: World, party: AgencyId) -> None:
    """The log tells of a version that the broker holds back: caught by that node at its next act; and it asks for it by itself."""
    content = search_claims()
    await world.requester_with_key(content)
    world.broker.add(roster_leaf(roster(2)))
    world.broker.enter_grant(content.digest)
    node = world.nodes[party]
    message = world.grant(content, party)
    await world.hand_in(party, message)
    assert (node.state_of(message)[0], node.rows(held_grants)) == ("waiting", [])
    assert "later roster" in node.state_of(message)[1]
    world.broker.rosters[2] = sign_roster(roster(2))
    await node.work()
    assert node.state_of(message)[0] == "waiting"  # it asked a moment ago: many messages are one question
    world.clock.now += ROSTER_AGAIN
    await node.work()
    assert node.state_of(message)[0] == "done"
    assert node.parties.trusted.version == 2


async def test_a_fork_of_the_roster_found_that_way_halts_the_node(world: World) -> None:
    """The version that the log tells of is the trusted version with other content: two rosters that root holders signed."""
    content, node = search_claims(), world.nodes[LAKESIDE]
    await world.requester_with_key(content)
    world.broker.enter_grant(content.digest)
    other = replace(roster(1), expires=datetime(2028, 1, 1, tzinfo=UTC))
    world.broker.install(sign_roster(other))
    message = world.grant(content, LAKESIDE)
    await world.hand_in(LAKESIDE, message)
    assert node.follower.halted() is not None
    assert node.rows(held_grants) == []


# --- whoever verifies -------------------------------------------------------------------------------------------------


async def test_verifying_the_log_lists_the_rosters(world: World) -> None:
    world.broker.add(leaf(EntryKind.ANSWER, salt="between"))
    report = await verify_log(world.broker, roster(1), world.clock())  # type: ignore[arg-type]
    assert [(one.position, one.version) for one in report.rosters] == [(2, 1)]
    assert report.roster_is_last
    world.broker.add(roster_leaf(for_one_node()))
    report = await verify_log(world.broker, roster(1), world.clock())  # type: ignore[arg-type]
    assert [(one.position, one.version) for one in report.rosters] == [(2, 1), (4, None)]
    assert not report.roster_is_last
    assert report.kinds["roster-change"] == 2
