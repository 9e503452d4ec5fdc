"""A broker that lies, against nodes that run a search: nothing is sealed to its key, nothing done on its word, nothing of it stops a node.

Each lie is told to the requester, the holder and the custodian where it would do that party harm. After each, every envelope that left or
is about to leave is looked at: the key that it is sealed to is its recipient's true one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agency_node import facts
from agency_node.requester.leads import ask_for, list_leads
from agency_node.tables import answers, custody, custody_parts, disclosures, inbox, outbox, search_holders, searches
from crypto.canonical import AgencyId, SearchId, b64url_encode
from crypto.errors import (
    AgencyStatementError,
    PeerError,
    RosterExpiredError,
    RosterPinError,
    RosterRollbackError,
    RosterSignatureError,
    RosterThresholdError,
)
from crypto.keys import SealingPrivateKey
from crypto.lawful_steps import explain
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.roster import Roster
from crypto.roster_entries import AgencyClass
from crypto.sealing_key import SealingKeyStatement, Week
from crypto.signed import key_id
from tests.node_world import World, WorldNode, node_key, sealed_to, search_claims
from tests.sample_federation import (
    BOARD,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    OVERSIGHT,
    ROOT_HOLDERS,
    root_key,
    root_set,
    roster,
    secret,
    sign_roster,
    signing_key,
    with_agency,
)

BROKERS_OWN = SealingPrivateKey.from_secret(secret("the broker's sealing key"))
NODES = [pytest.param(NORTHPORT, id="requester"), pytest.param(LAKESIDE, id="holder"), pytest.param(OVERSIGHT, id="custodian")]
by_each = pytest.mark.parametrize("party", NODES)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


def everything(world: World) -> list[Message]:
    """What left, and what is about to."""
    return [*world.broker.carried, *(one for node in world.nodes.values() for one in node.queued())]


def assert_sealed_to_owners(world: World) -> None:
    """Every sealed message of all nodes is sealed to a key that its recipient has, or to a legal office's in the roster."""
    for recipient, sealed_under in sealed_to(everything(world)):
        if recipient != NORTHPORT_LAW or sealed_under != office_key_id(recipient):
            world.nodes[recipient].keyring.private(sealed_under)  # raises for a key that is not its own


def office_key_id(office: AgencyId) -> str:
    assert office == roster().agency(NORTHPORT).legal_office
    return key_id(roster().discovery_key(NORTHPORT).raw)


# --- sealing keys -----------------------------------------------------------------------------------------------------


def false_key(agency: AgencyId, use: Week | SearchId, lie: str) -> bytes:
    """A statement that the broker hands out in place of the agency's own."""
    swapped = SealingKeyStatement(agency, use, BROKERS_OWN.public_key)
    if lie == "signed by the broker":
        return swapped.sign(signing_key("the broker's signing key"))
    if lie == "signed by another agency":
        return swapped.sign(node_key(BOARD))
    if lie == "another agency's":
        return SealingKeyStatement(BOARD, use, BROKERS_OWN.public_key).sign(node_key(BOARD))
    other = Week("2026-W47") if isinstance(use, Week) else SearchId("0123456789abcdef0123456789abcdef")
    return SealingKeyStatement(agency, other, BROKERS_OWN.public_key).sign(node_key(agency))


LIES = ["signed by the broker", "signed by another agency", "another agency's", "of another week or search"]
by_each_lie = pytest.mark.parametrize("lie", LIES)


def swap(world: World, agency: AgencyId, lie: str, use: SearchId | None = None) -> bytes:
    """Swap the agency's key of the week, or of a search; the true one, to be put back."""
    about = use or Week.at(world.clock())
    place = (agency, about.text if isinstance(about, Week) else str(about))
    true = world.broker.sealing_keys[place]
    world.broker.sealing_keys[place] = false_key(agency, about, lie)
    return true


@by_each_lie
async def test_a_requester_sends_nothing_under_a_custodians_swapped_key(world: World, lie: str) -> None:
    await world.granted()
    swap(world, OVERSIGHT, lie)
    await world.run(NORTHPORT, rounds=4)
    node = world.nodes[NORTHPORT]
    (row,) = node.rows(searches)
    assert (row.state, row.sealed_search_key) == ("refused", None)
    assert "sealing key" in row.note or "statement" in row.note
    assert everything(world) == []


@by_each_lie
async def test_a_requester_sends_a_holder_nothing_under_its_swapped_key(world: World, lie: str) -> None:
    await world.granted()
    swap(world, LAKESIDE, lie)
    await world.run(NORTHPORT, rounds=4)
    node = world.nodes[NORTHPORT]
    assert [row.state for row in node.rows(search_holders)] == ["silent"]
    told = {(MessageType.GRANT, OVERSIGHT), (MessageType.GRANT, NORTHPORT_LAW)}
    assert {(one.header.message_type, one.header.recipient) for one in everything(world)} == told
    assert_sealed_to_owners(world)


@by_each_lie
async def test_a_requester_hands_no_opened_scores_over_under_a_swapped_key(world: World, lie: str) -> None:
    """The swap comes after the first envelopes: the key is asked for anew, and the false one is not taken."""
    await world.granted()
    await world.run(NORTHPORT, rounds=3)
    await world.run(LAKESIDE, rounds=2)
    swap(world, OVERSIGHT, lie)
    world.clock.pass_by(minutes=11)
    await world.nodes[NORTHPORT].turn()
    answer = next(one for one in everything(world) if one.header.message_type is MessageType.ANSWER)
    assert world.nodes[NORTHPORT].state_of(answer)[0] == "refused"
    assert not {MessageType.OPENED_SCORES} & {one.header.message_type for one in everything(world)}
    assert_sealed_to_owners(world)


@by_each_lie
async def test_a_requester_asks_for_no_photograph_under_a_swapped_key(world: World, lie: str) -> None:
    content = await world.granted()
    await world.run(rounds=5)
    node = world.nodes[NORTHPORT]
    (lead,) = list_leads(node.engine, node.vault, content.search_id)
    true = swap(world, LAKESIDE, lie)
    world.clock.pass_by(minutes=11)
    world.broker.cosign_again()
    ask_for(node.engine, node.vault, content.search_id, lead.rank, world.clock())
    await node.turn()
    await node.turn()
    assert MessageType.DISCLOSURE_REQUEST not in {one.header.message_type for one in everything(world)}
    assert [row.outcome for row in node.rows(disclosures)] == ["to ask"]
    assert_sealed_to_owners(world)
    world.broker.sealing_keys[LAKESIDE, Week.at(world.clock()).text] = true  # nothing was spent by the lie
    await node.turn()
    assert MessageType.DISCLOSURE_REQUEST in {one.header.message_type for one in everything(world)}


@by_each_lie
@pytest.mark.parametrize("which", ["custodian's", "requester's"])
async def test_a_holder_seals_no_seed_and_no_answer_under_a_swapped_key(world: World, lie: str, which: str) -> None:
    content = search_claims()
    world.broker.enter_grant(content.digest)
    await world.requester_with_key(content)
    if which == "custodian's":  # before the grant comes, with which a holder begins to ask for keys
        swap(world, OVERSIGHT, lie)
    else:
        swap(world, NORTHPORT, lie, content.search_id)
    node = await world.hand_in(LAKESIDE, world.grant(content, LAKESIDE))
    probe = world.probe(content)
    await world.hand_in(LAKESIDE, probe)
    assert node.state_of(probe)[0] == "refused"
    assert node.types_queued() == {"refusal"}
    assert node.rows(answers) == []
    assert_sealed_to_owners(world)


@by_each_lie
async def test_a_custodian_hands_no_share_over_under_a_swapped_key(world: World, lie: str) -> None:
    """Two custodians: the one that does not combine seals its share to the other."""
    board = await world.node(BOARD)
    await world.granted(custodians=(BOARD, OVERSIGHT))
    await world.run(NORTHPORT, LAKESIDE, rounds=4)
    true = swap(world, OVERSIGHT, lie)
    await board.turn()
    share = next(one for one in everything(world) if one.header.message_type is MessageType.MASK_SHARE and one.header.recipient == BOARD)
    assert board.state_of(share)[0] == "refused"
    assert MessageType.MASK_HANDOVER not in {one.header.message_type for one in everything(world)}
    assert_sealed_to_owners(world)
    assert true != world.broker.sealing_keys[OVERSIGHT, Week.at(world.clock()).text]


async def test_with_true_keys_the_share_is_handed_over_and_the_search_ends(world: World) -> None:
    await world.node(BOARD)
    content = await world.granted(custodians=(BOARD, OVERSIGHT))
    await world.run(rounds=7)
    node = world.nodes[NORTHPORT]
    assert [lead.agency for lead in list_leads(node.engine, node.vault, content.search_id)] == [LAKESIDE]
    assert {MessageType.MASK_HANDOVER, MessageType.STUBS} <= {one.header.message_type for one in everything(world)}
    assert_sealed_to_owners(world)


@by_each_lie
@pytest.mark.parametrize("which", ["holder's", "requester's"])
async def test_a_custodian_releases_nothing_under_a_swapped_key(world: World, lie: str, which: str) -> None:
    content = await world.granted()
    await world.run(NORTHPORT, LAKESIDE, rounds=4)
    await world.run(NORTHPORT, rounds=2)
    if which == "holder's":
        true, place = swap(world, LAKESIDE, lie), (LAKESIDE, Week.at(world.clock()).text)
    else:
        true, place = swap(world, NORTHPORT, lie, content.search_id), (NORTHPORT, str(content.search_id))
    node = world.nodes[OVERSIGHT]
    await node.turn()
    world.post(OVERSIGHT, world.word(content))
    await node.turn()
    assert [row.kind for row in node.rows(custody_parts)] == ["share", "opened"]
    assert [row.state for row in node.rows(custody)] == ["open"]
    assert {row.name for row in node.rows(outbox)} == {"revocation-query"}
    assert f"Releasing waits: {explain(AgencyStatementError).name}" in node.journal()
    world.broker.sealing_keys[place] = true
    await node.turn()
    assert [row.state for row in node.rows(custody)] == ["released"]
    assert_sealed_to_owners(world)


async def test_the_brokers_key_opens_nothing_of_a_search(world: World) -> None:
    """The looking glass of this file: it would notice an envelope sealed to another key."""
    await world.granted()
    await world.run(rounds=6)
    assert len({one.header.message_type for one in everything(world)}) >= 9
    assert_sealed_to_owners(world)
    one = next(one for one in everything(world) if one.header.message_type is MessageType.MASK_SHARE)
    world.nodes[OVERSIGHT].keyring.destroy(one.envelope().context.recipient_key_id)
    with pytest.raises(Exception, match="destroyed"):
        assert_sealed_to_owners(world)


# --- the roster -------------------------------------------------------------------------------------------------------


def other_class(content: Roster) -> Roster:
    return with_agency(content, NORTHPORT, agency_class=AgencyClass.STATE)


def other_custodian_key(content: Roster) -> Roster:
    return with_agency(content, OVERSIGHT, node_key=signing_key("the broker's signing key").verifying_key)


def false_rosters() -> dict[str, tuple[bytes, type[PeerError]]]:
    brokers_own = [signing_key("the broker's signing key")]
    forged = roster(2).sign(*(root_key(holder) for holder in ROOT_HOLDERS[:2]))
    class_text, key_text = (
        forged.replace(b'"local"', b'"state"', 1),
        sign_roster(roster(2)).replace(
            digest_text(node_key(OVERSIGHT).verifying_key.raw), digest_text(signing_key("the broker's signing key").verifying_key.raw)
        ),
    )
    return {
        "a class changed in a signed roster": (class_text, RosterSignatureError),
        "the custodian's key changed in a signed roster": (key_text, RosterSignatureError),
        "a class changed, signed by the broker": (other_class(roster(2)).sign(*brokers_own), RosterSignatureError),
        "the custodian's key changed, signed by the broker": (other_custodian_key(roster(2)).sign(*brokers_own), RosterSignatureError),
        "the custodian's key changed, signed by one root": (
            sign_roster(other_custodian_key(roster(2)), holders=ROOT_HOLDERS[:1]),
            RosterThresholdError,
        ),
        "rolled back": (sign_roster(roster(1)), RosterRollbackError),
        "another root set": (sign_roster(other_custodian_key(roster(4, generation=2)), 2), RosterThresholdError),
        "expired": (sign_roster(replace(roster(4), expires=NOW)), RosterExpiredError),
    }


def digest_text(raw: bytes) -> bytes:
    return b64url_encode(raw).encode("ascii")


@by_each
@pytest.mark.parametrize("lie", false_rosters())
async def test_no_node_takes_a_false_roster(world: World, party: AgencyId, lie: str) -> None:
    node = world.nodes[party]
    world.broker.install(sign_roster(roster(3)))
    await node.parties.refresh()
    shown, error = false_rosters()[lie]
    world.broker.rosters = {9: shown}
    with pytest.raises(error) as refused:
        await node.parties.refresh()
    assert explain(refused.value).step
    assert node.parties.roster() == roster(3)
    # and no key that the false roster would vouch for is taken either
    week = Week.at(world.clock())
    world.broker.sealing_keys[OVERSIGHT, week.text] = false_key(OVERSIGHT, week, "signed by the broker")
    with pytest.raises(AgencyStatementError):
        await node.parties.week_key(OVERSIGHT)
    assert facts.halted(node.engine) is None


@by_each
async def test_a_new_node_pins_no_other_root_set(world: World, party: AgencyId, tmp_path: Path) -> None:
    world.broker.rosters = {1: sign_roster(other_custodian_key(roster(1, generation=2)), 2)}
    node = WorldNode(tmp_path / "new", party, World.ROLES[party], world.broker, world.clock)
    with pytest.raises(RosterPinError):
        await node.start()
    assert root_set(2).fingerprint != root_set().fingerprint
    node.close()


async def test_a_search_goes_on_beside_a_false_roster(world: World) -> None:
    """The broker gains nothing: true keys still verify, its own still do not."""
    content = await world.granted()
    world.broker.rosters = {9: false_rosters()["the custodian's key changed, signed by the broker"][0]}
    for node in world.nodes.values():
        with pytest.raises(RosterSignatureError):
            await node.parties.refresh()
    await world.run(rounds=6)
    node = world.nodes[NORTHPORT]
    assert len(list_leads(node.engine, node.vault, content.search_id)) == 1
    assert_sealed_to_owners(world)


@by_each
async def test_under_an_expired_roster_nothing_is_done_and_nothing_is_lost(world: World, party: AgencyId) -> None:
    """A broker that holds the new roster back stops its nodes; it does not make them throw messages away."""
    content, node = search_claims(), world.nodes[party]
    world.broker.install(sign_roster(replace(roster(2), expires=NOW + timedelta(hours=1))))
    await node.parties.refresh()
    world.broker.enter_grant(content.digest)
    await world.requester_with_key(content)
    if party == NORTHPORT:
        await world.granted()
    else:
        await world.hand_in(party, world.grant(content, party))
        world.broker.deleted.clear()
        message = world.probe(content) if party == LAKESIDE else world.grant(search_claims(1), party)
        world.post(party, message)
    before = node.rows(outbox), node.rows(inbox)
    world.clock.now = NOW + timedelta(hours=1)
    world.broker.cosign_again()
    await node.receive()
    await node.work()
    assert (node.rows(outbox), node.rows(inbox)) == before
    assert world.broker.deleted == []
    assert everything(world) == []
    if party == NORTHPORT:
        return
    world.broker.install(sign_roster(roster(3)))
    await node.parties.refresh()
    world.broker.enter_grant(search_claims(1).digest)
    await node.receive()
    await node.work()
    assert node.state_of(message)[0] == "done"
