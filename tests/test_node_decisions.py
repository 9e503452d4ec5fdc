"""Decisions of persons that a node must not act on: the wrong office, the wrong key, lapsed training, another picture, twice.

A photograph leaves a holder only when a reviewer of its own legal office said so (R8), a draft becomes a grant only by the reviewer whom it
names (R5, R14) and for the picture that it was made of; what was decided is sent only while the grant stands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from agency_node.courier import NotYetError
from agency_node.errors import RequestError
from agency_node.gallery_tables import disclosure_requests
from agency_node.grants import GrantDesk
from agency_node.holder.decision import PENDING, decide_disclosure
from agency_node.holder.disclosing import Disclosing
from agency_node.legal.persons import PersonKey
from agency_node.legal.review import grant_draft, refuse_draft
from agency_node.requester.drafting import STILL as SEALED_STILL
from agency_node.requester.leads import ask_for, list_disclosed, list_leads
from agency_node.tables import custody, leads, outbox, searches
from crypto.canonical import AgencyId, PersonId, SearchId
from crypto.disclosure import Disclosure, DisclosureOutcome, DisclosureRequest
from crypto.entries import EntryKind
from crypto.errors import SamePersonError, TrainingExpiredError, UnknownKeyError
from crypto.grant_claims import GrantClaims
from crypto.lawful_steps import explain
from crypto.message_types import MessageType
from crypto.notices import RefusalReason
from crypto.roster_entries import Credential, PersonRole
from tests.face_samples import plain_picture
from tests.node_world import (
    PixelEmbedder,
    World,
    WorldNode,
    person_key,
    reviewer,
    search_claims,
    the_refusal,
)
from tests.node_world_broker import leaf_of
from tests.sample_federation import (
    BOTH,
    EASTFIELD,
    INVESTIGATOR,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    ORIGINATOR,
    OVERSIGHT,
    REVIEWER,
    person,
    roster,
    sign_roster,
    signing_key,
    with_agency,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


# --- disclosure -------------------------------------------------------------------------------------------------------


async def asked(world: World) -> tuple[GrantClaims, str]:
    """A released search whose one lead's photograph was asked for; the handle."""
    content = await world.released()
    node = world.nodes[NORTHPORT]
    (lead,) = list_leads(node.engine, node.vault, content.search_id)
    ask_for(node.engine, node.vault, content.search_id, lead.rank, world.clock())
    await world.run(rounds=2)
    assert [row.state for row in world.nodes[LAKESIDE].rows(disclosure_requests)] == [PENDING]
    return content, lead.handle


def decide(node: WorldNode, handle: str, who: PersonKey, *, grant: bool = True) -> None:
    decide_disclosure(node.engine, node.parties, LAKESIDE, handle, who, node.clock(), grant=grant)


def lakeside_counsel() -> PersonKey:
    return person_key(LAKESIDE_REVIEWER, PersonRole.REVIEWER)


async def test_a_handle_that_is_not_of_this_search(world: World) -> None:
    content, handle = await asked(world)
    node = world.nodes[LAKESIDE]
    other = await world.granted(case_number="another case")
    await world.run(rounds=4)
    for terms, wanted in ((other, bytes.fromhex(handle)), (content, b"\5" * 16)):
        before = node.rows(disclosure_requests)
        message = world.message(MessageType.DISCLOSURE_REQUEST, DisclosureRequest(wanted), terms, NORTHPORT, LAKESIDE)
        await world.hand_in(LAKESIDE, message)
        assert node.state_of(message)[0] == "refused"
        assert the_refusal(node, message) is RefusalReason.GRANT
        assert node.rows(disclosure_requests) == before


@pytest.mark.parametrize(
    ("who", "name"),
    [
        pytest.param(REVIEWER, None, id="another office's reviewer"),
        pytest.param(INVESTIGATOR, None, id="an investigator"),
        pytest.param(BOTH, "both investigator", id="the investigator's key of a reviewer"),
        pytest.param(LAKESIDE_REVIEWER, "not on the roster", id="a key that is not listed"),
        pytest.param(ORIGINATOR, None, id="the reviewer of the agency next door"),
    ],
)
async def test_only_a_reviewer_of_the_holders_own_office_decides(world: World, who: PersonId, name: str | None) -> None:
    _, handle = await asked(world)
    node = world.nodes[LAKESIDE]
    with pytest.raises((RequestError, UnknownKeyError)) as error:
        decide(node, handle, person_key(who, PersonRole.REVIEWER, name))
    assert "reviewer" in str(error.value) or explain(UnknownKeyError).step
    await node.turn()
    assert [(row.state, row.decision) for row in node.rows(disclosure_requests)] == [(PENDING, None)]
    assert "disclosure" not in {row.name for row in node.rows(outbox)}
    decide(node, handle, lakeside_counsel())
    await node.work()
    assert "disclosure" in {row.name for row in node.rows(outbox)}


async def test_an_investigator_of_the_holders_own_office_does_not_decide(world: World) -> None:
    """Of the right agency, with a key that the roster lists for investigating."""
    _, handle = await asked(world)
    node = world.nodes[LAKESIDE]
    officer = PersonId("lakeside-sheriff:deputy-1")
    listed = person(officer, Credential(PersonRole.INVESTIGATOR, signing_key(officer).verifying_key))
    counsel = roster().agency(LAKESIDE).persons
    persons = tuple(sorted((*counsel, listed), key=lambda one: one.person_id))
    world.broker.install(sign_roster(with_agency(roster(2), LAKESIDE, persons=persons)))
    await node.parties.refresh()
    with pytest.raises(RequestError, match="reviewer"):
        decide(node, handle, person_key(officer, PersonRole.INVESTIGATOR))
    assert [row.state for row in node.rows(disclosure_requests)] == [PENDING]


async def test_a_reviewer_whose_training_has_lapsed_does_not_decide(world: World) -> None:
    """R14."""
    _, handle = await asked(world)
    node = world.nodes[LAKESIDE]
    (counsel,) = roster().agency(LAKESIDE).persons
    lapsed = replace(counsel, trained_until=world.clock().date() - timedelta(days=1))
    world.broker.install(sign_roster(with_agency(roster(2), LAKESIDE, persons=(lapsed,))))
    await node.parties.refresh()
    with pytest.raises(TrainingExpiredError):
        decide(node, handle, lakeside_counsel())
    assert [(row.state, row.decision) for row in node.rows(disclosure_requests)] == [(PENDING, None)]


async def test_what_was_granted_is_disclosed_and_decided_once(world: World) -> None:
    content, handle = await asked(world)
    node, requester = world.nodes[LAKESIDE], world.nodes[NORTHPORT]
    decide(node, handle, lakeside_counsel())
    with pytest.raises(RequestError, match="no request"):
        decide(node, handle, lakeside_counsel(), grant=False)
    await world.run(rounds=2)
    (shown,) = list_disclosed(requester.engine, requester.vault, content.search_id)
    assert (shown.record_number, shown.outcome) == ("LS-00042", "disclosed")


async def test_asking_twice_for_one_lead_does_not_block_the_decision(world: World) -> None:
    content, handle = await asked(world)
    node = world.nodes[LAKESIDE]
    again = world.message(MessageType.DISCLOSURE_REQUEST, DisclosureRequest(bytes.fromhex(handle)), content, NORTHPORT, LAKESIDE)
    await world.hand_in(LAKESIDE, again)
    decide(node, handle, lakeside_counsel(), grant=False)
    await node.work()
    assert PENDING not in {row.state for row in node.rows(disclosure_requests)}


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_nothing_is_disclosed_under_a_grant_that_has_ended(world: World, end: str) -> None:
    """Decided while it stood, sent never: the log and the clock are asked again, and the node goes on."""
    content, handle = await asked(world)
    node = world.nodes[LAKESIDE]
    decide(node, handle, lakeside_counsel())
    if end == "revoked":
        world.broker.add(leaf_of(EntryKind.REVOCATION, content.digest))
    else:
        world.clock.now = content.expires
        world.broker.cosign_again()
    await node.work()
    await node.work()
    assert "disclosure" not in {row.name for row in node.rows(outbox)}
    now, hour = world.clock(), timedelta(hours=1)
    later = search_claims(2, not_before=now - hour, answer_deadline=now + hour, expires=now + 2 * hour)
    await world.goes_on(LAKESIDE, later)


async def test_one_ended_grant_keeps_no_other_disclosure_back(world: World) -> None:
    """Two decided at once; the first one's grant was revoked meanwhile, or its requester's key is not to be had."""
    content, handle = await asked(world)
    node, requester = world.nodes[LAKESIDE], world.nodes[NORTHPORT]
    other = await world.granted(case_number="another case")
    await world.run(rounds=5)
    (lead,) = list_leads(requester.engine, requester.vault, other.search_id)
    ask_for(requester.engine, requester.vault, other.search_id, lead.rank, world.clock())
    await world.run(rounds=2)
    for one in (handle, lead.handle):
        decide(node, one, lakeside_counsel())
    world.broker.add(leaf_of(EntryKind.REVOCATION, content.digest))
    await node.turn()
    assert [row.state for row in node.rows(disclosure_requests)] == ["ended", "disclosed"]
    assert [row.search_id for row in node.rows(outbox, name="disclosure", kind="message")] == [str(other.search_id)]


async def test_one_search_that_cannot_be_released_keeps_no_other_back(world: World) -> None:
    """A requester that publishes no key of its search would otherwise stop the custodian for everybody."""
    stuck, content = search_claims(), search_claims(1)
    for one in (stuck, content):
        world.broker.enter_grant(one.digest)
        await world.hand_in(OVERSIGHT, world.grant(one, OVERSIGHT))
    await world.requester_with_key(content)
    world.clock.now = content.answer_deadline
    world.broker.cosign_again()
    node = world.nodes[OVERSIGHT]
    await node.work()
    await world.hand_in(OVERSIGHT, world.word(stuck), world.word(content))
    assert {row.search_id: row.state for row in node.rows(custody)} == {str(stuck.search_id): "open", str(content.search_id): "released"}


async def test_a_disclosure_that_nobody_asked_for_is_not_kept(world: World) -> None:
    content = await world.released()
    node = world.nodes[NORTHPORT]
    unasked = world.message(MessageType.DISCLOSURE, Disclosure(DisclosureOutcome.WITHDRAWN, b"\3" * 16), content, LAKESIDE, NORTHPORT)
    stranger = world.message(MessageType.DISCLOSURE, Disclosure(DisclosureOutcome.NOT_ASKED), content, EASTFIELD, NORTHPORT)
    await world.hand_in(NORTHPORT, unasked, stranger)
    assert "disclosure that nobody asked for: from lakeside-sheriff" in node.journal()
    assert node.state_of(stranger)[0] == "refused"
    assert list_disclosed(node.engine, node.vault, content.search_id) == []


# --- reviews ----------------------------------------------------------------------------------------------------------


async def review(world: World, search_id: SearchId, who: PersonKey) -> GrantClaims:
    node = world.nodes[NORTHPORT]
    return grant_draft(node.engine, node.vault, PixelEmbedder(), node.parties.trusted, search_id, who, world.clock())


Review = Callable[[], PersonKey]


@pytest.mark.parametrize(
    ("who", "error"),
    [
        pytest.param(lambda: person_key(INVESTIGATOR, PersonRole.INVESTIGATOR), RequestError, id="the requester herself"),
        pytest.param(lambda: person_key(BOTH, PersonRole.REVIEWER, "both reviewer"), UnknownKeyError, id="another reviewer than named"),
        pytest.param(
            lambda: person_key(REVIEWER, PersonRole.REVIEWER, "not on the roster"), UnknownKeyError, id="a key that is not listed"
        ),
        pytest.param(lambda: person_key(ORIGINATOR, PersonRole.REVIEWER), UnknownKeyError, id="another office's reviewer"),
    ],
)
async def test_only_the_named_reviewer_grants(world: World, who: Review, error: type[Exception]) -> None:
    """R5: the draft stays a draft."""
    search_id = await world.drafted()
    node = world.nodes[NORTHPORT]
    with pytest.raises(error):
        await review(world, search_id, who())
    await world.run(NORTHPORT, rounds=2)
    assert [row.state for row in node.rows(searches)] == ["drafted"]
    assert node.rows(outbox) == []
    assert (await review(world, search_id, reviewer())).reviewers == (REVIEWER,)


async def test_one_person_drafts_and_reviews(world: World) -> None:
    """R5: named in both roles no draft is made; signing with a second key ends at the check of the grant."""
    with pytest.raises(SamePersonError):
        await world.drafted(reviewer=INVESTIGATOR)
    assert world.nodes[NORTHPORT].rows(searches) == []


async def test_a_reviewer_whose_training_has_lapsed_grants_nothing(world: World) -> None:
    """R14."""
    search_id = await world.drafted()
    node = world.nodes[NORTHPORT]
    office = roster().agency(AgencyId("northport-attorney"))
    until = world.clock().date() - timedelta(days=1)
    persons = tuple(replace(one, trained_until=until) if one.person_id == REVIEWER else one for one in office.persons)
    world.broker.install(sign_roster(with_agency(roster(2), office.agency_id, persons=persons)))
    await node.parties.refresh()
    with pytest.raises(TrainingExpiredError):
        await review(world, search_id, reviewer())
    assert [row.state for row in node.rows(searches)] == ["drafted"]


async def test_a_draft_whose_still_was_exchanged_is_not_granted(world: World) -> None:
    """The reviewer sees another picture than the one that the probe was made of: the chain does not lead to it."""
    search_id = await world.drafted()
    node = world.nodes[NORTHPORT]
    sealed = node.vault.seal(SEALED_STILL, plain_picture(99), search_id.encode("ascii"))
    with node.engine.begin() as connection:
        connection.execute(update(searches).values(sealed_still=sealed))
    with pytest.raises(RequestError, match="not the file with which this chain begins"):
        await review(world, search_id, reviewer())
    assert [row.state for row in node.rows(searches)] == ["drafted"]


async def test_a_draft_is_decided_once(world: World) -> None:
    node = world.nodes[NORTHPORT]
    refused_one, granted_one = await world.drafted(), await world.drafted()
    refuse_draft(node.engine, node.vault, node.parties.trusted, refused_one, "no cause", reviewer(), world.clock())
    await review(world, granted_one, reviewer())
    for search_id in (refused_one, granted_one):
        with pytest.raises(RequestError):
            await review(world, search_id, reviewer())
        with pytest.raises(RequestError):
            refuse_draft(node.engine, node.vault, node.parties.trusted, search_id, "again", reviewer(), world.clock())
    (row,) = node.rows(searches, search_id=str(refused_one))
    assert (row.state, row.sealed_search_key, row.probe) == ("refused", None, None)


async def test_a_release_that_waits_for_the_log_finds_its_rows_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of an answer is drawn while the log is asked; a release that has to wait is handled again, and finds it drawn."""
    drawn: list[object] = []
    rows = Disclosing._rows

    def counted(self: Disclosing, *given: Any) -> list[int]:
        drawn.append(given)
        return rows(self, *given)

    monkeypatch.setattr(Disclosing, "_rows", counted)
    refusing = 3

    async def check_released(self: GrantDesk, claims: GrantClaims, digest: bytes) -> None:
        nonlocal refusing
        refusing -= 1
        if refusing >= 0:
            raise NotYetError("the release's log entry is not cosigned yet")

    monkeypatch.setattr(GrantDesk, "check_released", check_released)
    content = await world.granted()
    await world.run(rounds=9)
    assert refusing == -1
    assert len(drawn) == 1
    (lead,) = world.nodes[NORTHPORT].rows(leads, search_id=str(content.search_id))
    assert lead.sealed_stub is not None
