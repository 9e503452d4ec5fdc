"""Policy at requester, originator, holder and custodian: each refuses by itself, nobody's yes lifts a no, a ban reaches everybody (R6, R7).

The world's nodes name the strict default. A party that wants another answer is given another engine in place of its own packs, as an
administrator could; what binds by jurisdiction cannot be taken out there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from agency_node.demo.attacker import TakenOut
from agency_node.errors import PolicyRefusedError, RequestError, StoreError
from agency_node.grants import REFUSED
from agency_node.legal.originating import sign_as_originator, take_originators_signature
from agency_node.legal.persons import PersonKey
from agency_node.legal.review import read_draft
from agency_node.policy.deciding import binding_packs, decide_each, forecast, packs_for
from agency_node.policy.decisions import Again, decide_again, forget_inputs, stored_decisions
from agency_node.policy.engine import PolicyInputs, PolicyPack
from agency_node.policy.inputs import Place
from agency_node.policy.pack_folder import find_pack
from agency_node.tables import answers, custody, decisions, held_grants, leads, outbox, searches
from crypto.canonical import AgencyId, SearchId
from crypto.entries import EntryKind
from crypto.errors import UnknownKeyError
from crypto.grant_basis import Offence
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import GrantToken, add_signature
from crypto.notices import Refusal, RefusalReason
from crypto.roster import Roster
from crypto.roster_entries import Jurisdiction, PersonRole
from tests.node_world import World, WorldNode, packs, person_key, reviewer, search_claims, the_refusal
from tests.sample_federation import (
    EASTFIELD,
    EASTFIELD_LAW,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    ORIGINATOR,
    OVERSIGHT,
    roster,
    sign_roster,
    signing_key,
    with_agency,
)

THEFT = Offence("943.20", "23C")
BANNED = ("us-wi-milwaukee", "us-wi-madison", "us-wi-milwaukee-police")


def banned_roster(agency: AgencyId, jurisdiction: str) -> Roster:
    """The sample roster in which that agency, and its legal office, are of a jurisdiction under a ban."""
    found = with_agency(roster(), agency, jurisdiction=Jurisdiction(jurisdiction))
    office = {EASTFIELD: EASTFIELD_LAW}.get(agency)
    return found if office is None else with_agency(found, office, jurisdiction=Jurisdiction(jurisdiction))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def proxy_claims(number: int = 0) -> GrantClaims:
    """Eastfield's case, searched by Northport."""
    return search_claims(number, originating_agency=EASTFIELD, originator=ORIGINATOR)


async def admitted(world: World, party: AgencyId, content: GrantClaims) -> tuple[WorldNode, RefusalReason | None, int | None]:
    """What a party answers to a grant that is good in every other way."""
    for agency in (LAKESIDE, OVERSIGHT):
        await world.node(agency)
    await world.requester_with_key(content)
    world.broker.enter_grant(content.digest)
    message = world.grant(content, party)
    node = await world.hand_in(party, message)
    if node.state_of(message)[0] == "done":
        return node, None, None
    said = [Refusal.from_bytes(one.body) for one in node.queued() if one.header.recipient == NORTHPORT]
    return node, the_refusal(node, message), said[0].rule


# --- a ban reaches every party ------------------------------------------------------------------------------------------


def test_the_bans_that_are_delivered_bind_whatever_anybody_names() -> None:
    assert [pack.name for pack in binding_packs()] == ["us-wi-madison", "us-wi-milwaukee"]


@pytest.mark.rule("R7")
@pytest.mark.rule("R6")
@pytest.mark.parametrize("jurisdiction", BANNED)
@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("role", ["requesting", "originating", "holder"])
def test_a_banned_agency_is_refused_at_every_place_by_whoever_decides(jurisdiction: str, place: Place, role: str) -> None:
    """R7, R6: with packs of its own that say yes to everything; the county next door is not bound."""
    inputs = PolicyInputs.from_grant(proxy_claims(), roster(), LAKESIDE, NOW, place)

    def rules(name: str) -> set[int]:
        facts = replace(getattr(inputs, role), jurisdiction=name)
        asked = replace(inputs, **{role: facts})
        decided = [one.decide(asked) for one in packs_for([TakenOut()], asked)]
        return {rule for one in decided if not one.allowed for rule in one.rules}

    assert rules(jurisdiction) in ({6}, {7})
    for other in ("us-wi-milwaukee-county", "us-wi-west-milwaukee", "us-il-madison"):
        assert rules(other) == set()


@pytest.mark.rule("R7")
@pytest.mark.parametrize("party", [LAKESIDE, OVERSIGHT])
async def test_holder_and_custodian_refuse_a_banned_agencys_search(world: World, party: AgencyId) -> None:
    """R7: Northport is Milwaukee's, its own node asked nobody, and neither did the party's own packs."""
    world.broker.install(sign_roster(banned_roster(NORTHPORT, "us-wi-milwaukee")))
    (await world.node(party)).packs = (TakenOut(),)
    world.nodes[party].assemble()
    await world.nodes[party].start()
    node, reason, rule = await admitted(world, party, search_claims())
    assert (reason, rule) == (RefusalReason.POLICY, 6)
    assert node.rows(answers) == node.rows(custody) == []
    assert {row.state for row in node.rows(held_grants)} == {REFUSED}
    (row,) = node.rows(decisions)
    assert "us-wi-milwaukee=" in row.packs
    assert EntryKind.REFUSAL.value in {one.name for one in node.rows(outbox)}


@pytest.mark.rule("R6")
@pytest.mark.rule("R7")
@pytest.mark.parametrize("party", [LAKESIDE, OVERSIGHT])
async def test_holder_and_custodian_refuse_a_search_for_a_banned_agency(world: World, party: AgencyId) -> None:
    """R6, R7: a neighbour asks on its behalf."""
    world.broker.install(sign_roster(banned_roster(EASTFIELD, "us-wi-madison")))
    node, reason, rule = await admitted(world, party, proxy_claims())
    assert (reason, rule) == (RefusalReason.POLICY, 6)
    assert node.rows(answers) == node.rows(custody) == []


@pytest.mark.rule("R7")
async def test_a_banned_agencys_own_reviewer_cannot_sign(world: World) -> None:
    """R7: its node was told to ask nobody; the ban binds all the same, and no grant leaves."""
    world.broker.install(sign_roster(banned_roster(NORTHPORT, "us-wi-milwaukee")))
    search_id = await world.drafted()
    node = world.nodes[NORTHPORT]
    node.packs = (TakenOut(),)
    with pytest.raises(PolicyRefusedError, match=r"R6 \(us-wi-milwaukee/forbid-asked-for-milwaukee\).*Next: Do not run it"):
        await world.sign(search_id)
    assert [row.state for row in node.rows(searches)] == ["drafted"]
    await world.run(NORTHPORT, rounds=2)
    assert node.rows(outbox) == []
    assert {(row.place, row.allowed) for row in node.rows(decisions)} == {("requesting", 0)}


# --- each by itself, and the strictest wins -----------------------------------------------------------------------------


@pytest.mark.rule("R60")
@pytest.mark.parametrize("strict", [LAKESIDE, OVERSIGHT])
async def test_nobodys_yes_lifts_a_partys_no(world: World, strict: AgencyId) -> None:
    """R60: theft, allowed by the packs of everybody else: the one strict party refuses, and nothing is found."""
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await world.node(agency)
        if agency != strict:
            world.nodes[agency].packs = (TakenOut(),)
            world.nodes[agency].assemble()
            await world.nodes[agency].start()
    content = await world.granted(offence=THEFT)
    await world.run(rounds=6)
    requester, node = world.nodes[NORTHPORT], world.nodes[strict]
    assert [(row.allowed, row.rules) for row in node.rows(decisions, search_id=str(content.search_id))] == [(0, "1")]
    assert {row.allowed for row in world.nodes[LAKESIDE if strict == OVERSIGHT else OVERSIGHT].rows(decisions)} == {1}
    assert world.nodes[LAKESIDE].rows(answers) == [] or strict == OVERSIGHT
    assert requester.rows(leads) == []
    if strict == OVERSIGHT:
        (row,) = requester.rows(searches)
        assert (row.state, "rule R1" in row.note) == ("refused", True)
        assert node.rows(custody) == []


async def test_control_the_same_search_is_released_where_all_allow(world: World) -> None:
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await world.node(agency)
        world.nodes[agency].packs = (TakenOut(),)
        world.nodes[agency].assemble()
        await world.nodes[agency].start()
    await world.granted(offence=THEFT)
    await world.run(rounds=6)
    assert [row.state for row in world.nodes[NORTHPORT].rows(searches)] == ["released"]


@pytest.mark.rule("R1")
async def test_the_requesters_own_policy_stops_the_signature(world: World) -> None:
    """R1: before anything leaves, with the rule, the holder and the next lawful step."""
    search_id = await world.drafted(offence=THEFT)
    node = world.nodes[NORTHPORT]
    with pytest.raises(PolicyRefusedError, match=r"lakeside-sheriff: R1 \(strict-default/forbid-offence-not-listed\): .* Next: "):
        await world.sign(search_id)
    (row,) = node.rows(decisions)
    assert (row.place, row.holder, row.allowed, row.policies) == ("requesting", LAKESIDE, 0, "forbid-offence-not-listed")
    assert [row.state for row in node.rows(searches)] == ["drafted"]


def test_a_search_is_refused_whole_if_one_holder_is(world: World) -> None:
    """Of two holders one is under a ban: the draft names it, and the other holder's yes does not help."""
    content = search_claims(holders=(EASTFIELD, LAKESIDE))
    listed = banned_roster(EASTFIELD, "us-wi-madison")
    for place in (Place.REQUESTING, Place.CUSTODY):
        decided = decide_each(content, listed, packs(), place, NOW)
        assert [(one.holder, one.decision.allowed) for one in decided] == [(EASTFIELD, False), (LAKESIDE, True)]
        assert "R7 (us-wi-madison/" in decided[0].refusal


# --- what is stored, and made again -------------------------------------------------------------------------------------


async def released(world: World) -> GrantClaims:
    """A whole search among three nodes."""
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await world.node(agency)
    return await world.released()


async def test_every_party_stores_its_decision_and_makes_it_again(world: World) -> None:
    content = await released(world)
    own = {NORTHPORT: "requesting", LAKESIDE: "holding", OVERSIGHT: "custody"}
    for agency, place in own.items():
        node = world.nodes[agency]
        (stored,) = stored_decisions(node.engine, node.vault, content.search_id)
        assert (stored.place, stored.holder, stored.allowed) == (place, LAKESIDE, True)
        assert stored.packs == {"strict-default": packs()[0].sha256.hex()}
        assert stored.policies == ("permit-granted-search",)
        assert stored.inputs is not None
        assert stored.inputs.sha256 == stored.inputs_sha256
        assert decide_again(stored, packs())[0] is Again.SAME
        assert f"policy: {place} {LAKESIDE}: permit-granted-search R32" in node.journal()


async def test_a_decision_that_was_altered_or_whose_pack_changed_shows(world: World) -> None:
    content = await released(world)
    node = world.nodes[LAKESIDE]
    (stored,) = stored_decisions(node.engine, node.vault, content.search_id)
    assert stored.inputs is not None
    assert decide_again(replace(stored, allowed=False), packs())[0] is Again.OTHER
    assert decide_again(replace(stored, policies=("forbid-agency-or-event",)), packs())[0] is Again.OTHER
    assert decide_again(stored, [PolicyPack.load(find_pack("us-md"))]) == (Again.PACK_GONE, None)
    assert decide_again(replace(stored, inputs=replace(stored.inputs, offence=THEFT)), packs()) == (Again.INPUTS_CHANGED, None)
    with node.engine.begin() as connection:  # another hash over the sealed inputs: they open under their own alone
        connection.execute(update(decisions).values(inputs_sha256=bytes(32)))
    with pytest.raises(StoreError):
        stored_decisions(node.engine, node.vault, content.search_id)
    with node.engine.begin() as connection:
        forget_inputs(connection, content.search_id)
    (left,) = stored_decisions(node.engine, node.vault, content.search_id)
    assert (left.inputs, decide_again(left, packs())) == (None, (Again.INPUTS_GONE, None))


async def test_what_was_asked_lies_sealed(world: World) -> None:
    await released(world)
    for node in world.nodes.values():
        for row in node.rows(decisions):
            assert b"940.19" not in row.sealed_inputs
            assert b"criminal_investigation" not in row.sealed_inputs


async def test_a_forecast_says_for_each_holder_what_this_node_can_know(world: World) -> None:
    await world.drafted()
    node = world.nodes[NORTHPORT]
    content = search_claims(holders=(EASTFIELD, LAKESIDE), offence=THEFT)
    told = forecast(node.engine, node.vault, content, banned_roster(EASTFIELD, "us-wi-madison"), packs(), NOW)
    assert [(one.holder, one.decision.rules) for one in told] == [(EASTFIELD, (1, 7)), (LAKESIDE, (1,))]
    shown = told[0].told
    assert shown["allowed"] is False
    first, second = shown["grounds"]
    assert (first["pack"], first["rule"], first["evidence"]) == ("strict-default", "R1", ["S"])
    assert (second["pack"], second["policy"]) == ("us-wi-madison", "forbid-madison-answers")
    assert second["section"]
    assert second["next"]
    assert len(node.rows(decisions, search_id=str(content.search_id))) == 2


# --- the originating agency ---------------------------------------------------------------------------------------------


def eastfield_counsel() -> PersonKey:
    return person_key(ORIGINATOR, PersonRole.REVIEWER)


async def for_eastfield(world: World, **changes: Any) -> tuple[str, bytes]:
    """A draft of Northport's for a case of Eastfield's, as it travels."""
    search_id = await world.drafted(originating_agency=EASTFIELD, originator=ORIGINATOR, **changes)
    node = world.nodes[NORTHPORT]
    await world.node(EASTFIELD)
    return str(search_id), read_draft(node.engine, node.vault, search_id)[1]


def signed_there(world: World, token: bytes, agency: AgencyId = EASTFIELD, who: PersonKey | None = None) -> bytes:
    node = world.nodes[agency]
    listed, key = node.parties.roster(), who or eastfield_counsel()
    return sign_as_originator(node.engine, node.vault, listed, agency, token, key, node.packs, NOW)[1]


@pytest.mark.rule("R6")
async def test_the_originating_agency_signs_by_its_own_policy_and_the_search_goes_on(world: World) -> None:
    """R6: without its signature the reviewer's makes no grant; with it the search is released, and four places decided."""
    search_id, token = await for_eastfield(world)
    requester = world.nodes[NORTHPORT]
    content = await world.sign(SearchId(search_id))
    assert [row.state for row in requester.rows(searches)] == ["drafted"]
    token = read_draft(requester.engine, requester.vault, search_id)[1]
    taken = signed_there(world, token)
    take_originators_signature(requester.engine, requester.vault, requester.parties.trusted, search_id, taken, NOW)
    assert content.originating_agency == EASTFIELD
    for agency in (LAKESIDE, OVERSIGHT):
        await world.node(agency)
    await world.run(rounds=5)
    assert [row.state for row in requester.rows(searches)] == ["released"]
    places = {agency: {row.place for row in node.rows(decisions)} for agency, node in world.nodes.items() if agency != NORTHPORT_LAW}
    assert places == {NORTHPORT: {"requesting"}, EASTFIELD: {"originating"}, LAKESIDE: {"holding"}, OVERSIGHT: {"custody"}}


@pytest.mark.rule("R6")
async def test_the_originating_agencys_own_policy_refuses_before_it_signs(world: World) -> None:
    """R6: though the agency that asks would allow it."""
    _, token = await for_eastfield(world, offence=THEFT)
    with pytest.raises(PolicyRefusedError, match=r"R1 \(strict-default/forbid-offence-not-listed\)"):
        signed_there(world, token)
    assert [(row.place, row.allowed) for row in world.nodes[EASTFIELD].rows(decisions)] == [("originating", 0)]


async def test_nobody_else_signs_as_originator(world: World) -> None:
    _, token = await for_eastfield(world)
    await world.node(LAKESIDE)
    with pytest.raises(RequestError, match="of no case of this agency"):
        signed_there(world, token, LAKESIDE)
    with pytest.raises(RequestError, match="another person"):
        signed_there(world, token, who=reviewer())
    with pytest.raises(UnknownKeyError):
        signed_there(world, token, who=person_key(ORIGINATOR, PersonRole.REVIEWER, "somebody's key"))
    assert world.nodes[EASTFIELD].rows(decisions) == []


async def test_only_the_draft_itself_comes_back(world: World) -> None:
    search_id, token = await for_eastfield(world)
    other_id, other = await for_eastfield(world, case_number="another case")
    node = world.nodes[NORTHPORT]
    unsigned, another = token, signed_there(world, other)
    stripped = GrantToken.from_bytes(signed_there(world, token))
    without_investigator = replace(stripped, signatures=stripped.signatures[1:]).to_bytes()
    for wrong in (unsigned, another, without_investigator):
        with pytest.raises(RequestError, match="is not the draft with its originator's signature"):
            take_originators_signature(node.engine, node.vault, node.parties.trusted, search_id, wrong, NOW)
    forged = add_signature(token, GrantRole.ORIGINATOR, signing_key("somebody"))
    with pytest.raises(UnknownKeyError):
        take_originators_signature(node.engine, node.vault, node.parties.trusted, search_id, forged, NOW)
    assert other_id != search_id
