"""One short test for each rule that one place of the code enforces; `test_policy_coverage` takes the place out and sees the test go red.

Rules that need a whole party are marked where that party is tested.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from agency_node.policy.engine import AgencyFacts, PolicyInputs, PolicyPack
from agency_node.policy.pack_folder import DEFAULT_PACK, find_pack
from agency_node.tables import answers, held_grants, inbox
from crypto.errors import FieldError, SamePersonError, TrainingExpiredError
from crypto.grant_basis import BasisKind, Event, Offence, ProbeSource, Purpose
from crypto.notices import RefusalReason
from crypto.roster_entries import Person
from tests.node_world import World, search_claims, the_refusal
from tests.sample_federation import EASTFIELD, INVESTIGATOR, LAKESIDE, NORTHPORT, NOW, OVERSIGHT, claims, roster

PACK = PolicyPack.load(find_pack(DEFAULT_PACK))
THEFT = Offence("943.20", "23C")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


def lawful() -> PolicyInputs:
    return PolicyInputs.from_grant(claims(), roster(), LAKESIDE, NOW)


def refused_by(inputs: PolicyInputs) -> set[int]:
    found = PACK.decide(inputs)
    return set() if found.allowed else set(found.rules)


# --- who may ask, for what --------------------------------------------------------------------------------------------


@pytest.mark.rule("R1")
def test_an_offence_that_is_not_listed() -> None:
    assert refused_by(replace(lawful(), offence=THEFT)) == {1}
    assert not refused_by(lawful())


@pytest.mark.rule("R2")
def test_an_investigation_without_an_offence() -> None:
    with pytest.raises(FieldError, match="offence is named for an investigation"):
        replace(claims(), offence=None)


@pytest.mark.rule("R3")
@pytest.mark.parametrize("basis", ["probable_cause", "reasonable_suspicion", "consent"])
def test_suspicion_alone_is_no_basis_in_the_strict_default(basis: str) -> None:
    assert refused_by(replace(lawful(), basis=basis, order=None)) == {3}


@pytest.mark.rule("R5")
def test_one_person_investigates_and_reviews() -> None:
    with pytest.raises(SamePersonError):
        replace(claims(), reviewers=(INVESTIGATOR,))


@pytest.mark.rule("R6")
def test_a_search_for_another_agency_without_its_signature() -> None:
    with pytest.raises(FieldError, match="originator signs exactly if another agency"):
        replace(claims(), originating_agency=EASTFIELD)


@pytest.mark.rule("R6", "R9")
@pytest.mark.parametrize("place", ["requesting", "originating"])
@pytest.mark.parametrize("kind", ["federal", "foreign", "private"])
def test_no_federal_agency_asks_or_has_others_ask(place: str, kind: str) -> None:
    asking = AgencyFacts("somebody", kind, "us")
    inputs = lawful()
    assert refused_by(replace(inputs, requesting=asking) if place == "requesting" else replace(inputs, originating=asking)) == {9}


@pytest.mark.rule("R10", "R12", "R13", "R20")
def test_what_may_not_be_asked_cannot_be_written() -> None:
    words = {value for kind in (Purpose, ProbeSource, BasisKind, Event) for value in kind}
    for word in ("immigration", "live", "stream", "watch", "predict", "sketch", "composite", "lookalike", "generated", "enhanced"):
        assert not any(word in value for value in words)


@pytest.mark.rule("R11")
def test_a_picture_of_an_assembly_needs_a_second_reviewer() -> None:
    one = replace(lawful(), event="protest_or_assembly", reviewers=1)
    assert refused_by(one) == {9}
    assert not refused_by(replace(one, reviewers=2))


@pytest.mark.rule("R14")
def test_training_that_has_lapsed() -> None:
    (person,) = (one for one in roster().agency(NORTHPORT).persons if one.person_id == INVESTIGATOR)
    assert isinstance(person, Person)
    with pytest.raises(TrainingExpiredError):
        replace(person, trained_until=date(2026, 1, 1)).check_trained(NOW)


@pytest.mark.rule("R16")
def test_an_agency_without_an_officer() -> None:
    with pytest.raises(FieldError, match="responsible_officer"):
        replace(roster().agency(NORTHPORT), responsible_officer="")


@pytest.mark.rule("R32")
def test_more_leads_than_fifty_over_all_holders() -> None:
    with pytest.raises(FieldError, match="cap"):
        replace(claims(), cap=51)


# --- at the holder ----------------------------------------------------------------------------------------------------


@pytest.mark.rule("R22")
async def test_a_probe_is_gone_when_it_is_answered(world: World) -> None:
    content = search_claims()
    world.broker.enter_grant(content.digest)
    await world.hand_in(LAKESIDE, world.grant(content, LAKESIDE))
    await world.requester_with_key(content)
    probe = world.probe(content)
    node = await world.hand_in(LAKESIDE, probe)
    assert node.rows(answers)[0].state == "answered"
    assert [row.data for row in node.rows(inbox, message_id=str(probe.message_id))] == [None]


@pytest.mark.rule("R60")
async def test_the_holders_own_policy_is_final(world: World) -> None:
    """Reviewer, roster and log agree to the search of a thief, and the holder does not."""
    content = replace(search_claims(), offence=THEFT)
    world.broker.enter_grant(content.digest)
    message = world.grant(content, LAKESIDE)
    node = await world.hand_in(LAKESIDE, message)
    assert the_refusal(node, message) is RefusalReason.POLICY
    await world.requester_with_key(content)
    await world.hand_in(LAKESIDE, world.probe(content))
    assert not node.rows(answers)


@pytest.mark.rule("R76")
async def test_what_the_log_does_not_hold_is_not_searched(world: World) -> None:
    content = search_claims()
    message = world.grant(content, LAKESIDE)
    node = await world.hand_in(LAKESIDE, message)
    assert not node.rows(held_grants)
    assert node.state_of(message)[0] in ("waiting", "refused")
