"""What legal staff does with a draft: one or several sign, in any order; a reviewer narrows, and never widens; conflicts sign nothing; a
refusal is signed, its reason sealed, and the log says that there was one.

Left to others: the reviewer's look at the face, training and wrong keys (test_node_decisions), tokens (test_grant, test_grant_token).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from agency_node.errors import RequestError
from agency_node.legal.decisions import read_told
from agency_node.legal.exigent import ratify_search
from agency_node.legal.narrowing import Narrowing, check_narrower, narrow
from agency_node.legal.originating import sign_as_originator, take_originators_signature
from agency_node.legal.persons import PersonKey
from agency_node.legal.review import accept_narrowed, grant_draft, read_draft, refuse_draft, still_to_sign
from agency_node.requester.cancelling import cancel_search
from agency_node.requester.drafting import TOKEN, draft_search
from agency_node.requester.leads import list_leads
from agency_node.store import DATABASE_FILE
from agency_node.tables import exigent_grants, outbox, search_holders, searches
from crypto.canonical import SearchId
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.entry_openings import ENTRY_FORMS
from crypto.errors import AgencyRoleError, GrantMismatchError, MissingRoleError, SamePersonError, UnknownKeyError
from crypto.grant import check_signatures, verify_grant
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import add_signature, unsigned_grant
from crypto.roster_entries import PersonRole
from tests.exigent_world import exigent, ratify, second_reviewer
from tests.face_samples import plain_picture
from tests.node_world import STILL, PixelEmbedder, World, investigator, person_key, reviewer, search_request
from tests.sample_federation import (
    BOARD,
    BOTH,
    EASTFIELD,
    INVESTIGATOR,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    ORIGINATOR,
    OVERSIGHT,
    REVIEWER,
    claims,
    roster,
    trust,
)

REASON = "the complainant, Mr Smith, withdrew his statement"


@pytest.fixture
async def world(tmp_path: Path) -> Iterator[World]:  # type: ignore[misc]  # pytest-asyncio takes it
    made = World(tmp_path)
    await made.node(NORTHPORT)
    yield made
    made.close()


def sign(world: World, search_id: SearchId, who: PersonKey | None = None, **named: Any) -> GrantClaims:
    node = world.nodes[NORTHPORT]
    return grant_draft(node.engine, node.vault, PixelEmbedder(), node.parties.trusted, search_id, who or reviewer(), world.clock(), **named)


def accept(world: World, search_id: SearchId, who: PersonKey | None = None) -> GrantClaims:
    node = world.nodes[NORTHPORT]
    return accept_narrowed(node.engine, node.vault, node.parties.trusted, search_id, who or investigator(), world.clock())


def originate(world: World, search_id: SearchId, who: PersonKey) -> None:
    """Eastfield's legal staff signs the draft at Eastfield's node, and Northport takes the signature back."""
    node, theirs = world.nodes[NORTHPORT], world.nodes[EASTFIELD]
    listed, now = theirs.parties.roster(), world.clock()
    token = read_draft(node.engine, node.vault, search_id)[1]
    _, signed = sign_as_originator(theirs.engine, theirs.vault, listed, EASTFIELD, token, who, theirs.packs, now)
    take_originators_signature(node.engine, node.vault, node.parties.trusted, search_id, signed, now)


def refuse(world: World, search_id: SearchId, who: PersonKey | None = None, reason: str = REASON) -> None:
    node = world.nodes[NORTHPORT]
    refuse_draft(node.engine, node.vault, node.parties.trusted, search_id, reason, who or reviewer(), world.clock())


def state(world: World, search_id: SearchId) -> str:
    (row,) = world.nodes[NORTHPORT].rows(searches, search_id=str(search_id))
    return str(row.state)


def waits_for(world: World, search_id: SearchId) -> dict[str, str]:
    node = world.nodes[NORTHPORT]
    return still_to_sign(node.engine, node.vault, search_id)


def token_at(world: World, search_id: SearchId) -> bytes:
    node = world.nodes[NORTHPORT]
    (row,) = node.rows(searches, search_id=str(search_id))
    return node.vault.open(TOKEN, row.sealed_token, search_id.encode("ascii"))


# --- several ----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R5")
async def test_two_reviewers_sign_and_nothing_begins_before_the_second(world: World) -> None:
    """R5: in either order; one person does not sign twice; an exigent clock starts with the last signature."""
    node = world.nodes[NORTHPORT]
    for order in ((reviewer(), second_reviewer()), (second_reviewer(), reviewer())):
        search_id = await world.drafted(plain_picture(20 + len(node.rows(searches))), **exigent(second_reviewer=BOTH))
        before = len(node.rows(exigent_grants))
        sign(world, search_id, order[0])
        assert state(world, search_id) == "drafted"
        assert list(waits_for(world, search_id).values()) == [str(order[1].person_id)]
        with pytest.raises(SamePersonError):
            sign(world, search_id, order[0])
        await world.run(NORTHPORT, rounds=2)
        assert node.rows(outbox, search_id=str(search_id)) == []
        assert len(node.rows(exigent_grants)) == before
        sign(world, search_id, order[1])
        assert (state(world, search_id), waits_for(world, search_id)) == ("granted", {})
        assert len(node.rows(exigent_grants)) == before + 1
        assert {one.role for one in verify_grant(token_at(world, search_id), node.parties.trusted, NOW).signers} == {
            GrantRole.INVESTIGATOR,
            GrantRole.REVIEWER,
            GrantRole.SECOND_REVIEWER,
        }


@pytest.mark.rule("R5")
async def test_one_person_is_not_named_twice(world: World) -> None:
    """R5: as both reviewers, or as reviewer and investigator; no draft is made."""
    for second in (REVIEWER, INVESTIGATOR):
        with pytest.raises(SamePersonError):
            await world.drafted(second_reviewer=second)
    assert world.nodes[NORTHPORT].rows(searches) == []


@pytest.mark.rule("R6")
async def test_the_agency_whose_case_it_is_signs_too(world: World) -> None:
    """R6: its legal staff, with a key of its own; without that the draft stays one, and the requester's reviewer signs for nobody else."""
    search_id = await world.drafted(originating_agency=EASTFIELD, originator=ORIGINATOR)
    await world.node(EASTFIELD)
    sign(world, search_id)
    assert waits_for(world, search_id) == {"originator": str(ORIGINATOR)}
    for wrong in (second_reviewer(), person_key(ORIGINATOR, PersonRole.REVIEWER, "not on the roster")):
        with pytest.raises((RequestError, UnknownKeyError)):
            originate(world, search_id, wrong)
    originate(world, search_id, person_key(ORIGINATOR, PersonRole.REVIEWER))
    assert state(world, search_id) == "granted"
    assert verify_grant(token_at(world, search_id), world.nodes[NORTHPORT].parties.trusted, NOW).claims.originating_agency == EASTFIELD


async def test_the_originator_signs_at_its_own_node_or_refuses(world: World) -> None:
    search_id = await world.drafted(originating_agency=EASTFIELD, originator=ORIGINATOR)
    with pytest.raises(RequestError, match="originating agency's own node"):
        sign(world, search_id, person_key(ORIGINATOR, PersonRole.REVIEWER))
    refuse(world, search_id, person_key(ORIGINATOR, PersonRole.REVIEWER))
    assert state(world, search_id) == "refused"


def test_a_token_on_its_way_lacks_roles_and_authorises_nothing() -> None:
    """`check_signatures` makes every other check of `verify_grant`: a wrong signature among several is refused at once."""
    content = replace(claims(), reviewers=(REVIEWER, BOTH))
    token = add_signature(unsigned_grant(content), GrantRole.REVIEWER, reviewer().signing_key)
    assert check_signatures(token, trust(roster()), NOW) == (GrantRole.INVESTIGATOR, GrantRole.SECOND_REVIEWER)
    with pytest.raises(MissingRoleError):
        verify_grant(token, trust(roster()), NOW)
    for role, key in (
        (GrantRole.SECOND_REVIEWER, reviewer()),
        (GrantRole.INVESTIGATOR, reviewer()),
        (GrantRole.INVESTIGATOR, second_reviewer()),
    ):
        with pytest.raises((SamePersonError, UnknownKeyError)):
            check_signatures(add_signature(token, role, key.signing_key), trust(roster()), NOW)


# --- less than was asked for ------------------------------------------------------------------------------------------


async def test_a_narrowed_grant_begins_when_its_investigator_has_signed_it(world: World) -> None:
    for agency in (LAKESIDE, OVERSIGHT):
        await world.node(agency)
    node = world.nodes[NORTHPORT]
    search_id = await world.drafted(holders=(EASTFIELD, LAKESIDE), cap=5, false_positives_per_million=1000)
    (before,) = node.rows(searches)
    draft = read_draft(node.engine, node.vault, search_id)[0]
    narrowed = sign(world, search_id, less=Narrowing((EASTFIELD,), cap=3, rate=500))
    assert (narrowed.holders, narrowed.cap, narrowed.false_positives_per_million) == ((LAKESIDE,), 3, 500)
    assert (state(world, search_id), waits_for(world, search_id)) == ("narrowed", {"investigator": str(INVESTIGATOR)})
    await world.run(rounds=2)
    assert node.rows(outbox) == []
    for wrong in (person_key(BOTH, PersonRole.INVESTIGATOR, "both investigator"), reviewer()):
        with pytest.raises((UnknownKeyError, SamePersonError, AgencyRoleError)):
            accept(world, search_id, wrong)
    accepted = accept(world, search_id)
    assert accepted == narrowed
    assert (accepted.probe_digest, accepted.face_commit) == (draft.probe_digest, draft.face_commit)
    (after,) = node.rows(searches)
    assert (after.state, after.probe, after.grant_digest) == ("granted", before.probe, narrowed.digest)  # the probe was not made anew
    assert [row.holder for row in node.rows(search_holders)] == [LAKESIDE]
    await world.run(rounds=6)
    assert state(world, search_id) == "released"
    assert {one.header.recipient for one in world.broker.carried if one.header.sender == NORTHPORT} <= {LAKESIDE, OVERSIGHT, NORTHPORT_LAW}
    assert len(list_leads(node.engine, node.vault, search_id)) <= 3


async def test_narrowing_begins_all_signatures_anew(world: World) -> None:
    """The first reviewer signed another payload: that signature is not carried over."""
    search_id = await world.drafted(second_reviewer=BOTH)
    sign(world, search_id)
    sign(world, search_id, second_reviewer(), less=Narrowing(cap=2))
    assert set(waits_for(world, search_id)) == {"investigator", "reviewer"}
    accept(world, search_id)
    assert state(world, search_id) == "drafted"
    sign(world, search_id)
    assert state(world, search_id) == "granted"
    assert verify_grant(token_at(world, search_id), world.nodes[NORTHPORT].parties.trusted, NOW).claims.cap == 2


WIDER = {
    "as many leads": Narrowing(cap=20),
    "more leads": Narrowing(cap=21),
    "as many wrong persons": Narrowing(rate=1000),
    "more wrong persons": Narrowing(rate=1001),
    "a holder that was not asked": Narrowing((BOARD,)),
    "nobody left": Narrowing((EASTFIELD, LAKESIDE)),
    "no lead": Narrowing(cap=0),
    "no wrong person at all": Narrowing(rate=0),
}


@pytest.mark.parametrize("name", WIDER)
def test_a_narrowing_takes_away_or_is_refused(name: str) -> None:
    with pytest.raises(RequestError):
        narrow(claims(), WIDER[name])


@given(st.sets(st.sampled_from([EASTFIELD, LAKESIDE])), st.none() | st.integers(-1, 60), st.none() | st.integers(-1, 2000))
def test_no_narrowing_ever_widens(dropped: set[Any], cap: int | None, rate: int | None) -> None:
    draft = claims()
    try:
        less = narrow(draft, Narrowing(tuple(dropped), cap, rate))
    except RequestError:
        return
    check_narrower(less, draft)
    assert set(less.holders) <= set(draft.holders)
    assert less.cap <= draft.cap
    assert less.false_positives_per_million <= draft.false_positives_per_million
    if less != draft:
        with pytest.raises(GrantMismatchError):
            check_narrower(draft, less)


CHANGED: dict[str, dict[str, Any]] = {
    "a holder more": {"holders": (EASTFIELD, LAKESIDE)},
    "more leads": {"cap": 6},
    "more wrong persons": {"false_positives_per_million": 1001},
    "another custodian": {"custodians": (BOARD,), "combiner": BOARD},
    "another reviewer": {"reviewers": (BOTH,)},
    "another face": {"face_commit": bytes(32)},
    "a longer life": {"expires": None},
}


@pytest.mark.parametrize("name", CHANGED)
async def test_an_investigator_accepts_nothing_wider_than_the_draft(world: World, name: str) -> None:
    """Whoever writes into the node's store puts wider claims in the narrowed ones' place: compared is what the investigator signed."""
    node = world.nodes[NORTHPORT]
    search_id = await world.drafted()
    narrowed = sign(world, search_id, less=Narrowing(cap=3))
    changes = dict(CHANGED[name])
    if "expires" in changes:
        changes["expires"] = narrowed.expires + (narrowed.expires - narrowed.answer_deadline)
    wider = replace(narrowed, **changes)
    key = second_reviewer() if name == "another reviewer" else reviewer()
    token = add_signature(unsigned_grant(wider), GrantRole.REVIEWER, key.signing_key)
    with node.engine.begin() as connection:
        connection.execute(update(searches).values(sealed_token=node.vault.seal(TOKEN, token, search_id.encode("ascii"))))
    with pytest.raises(GrantMismatchError):
        accept(world, search_id)
    assert state(world, search_id) == "narrowed"


async def test_what_was_not_narrowed_is_not_accepted_and_what_was_is_cancelled_or_refused(world: World) -> None:
    plain, first, second = [await world.drafted(plain_picture(number)) for number in (60, 61, 62)]
    with pytest.raises(RequestError, match="waits for its investigator"):
        accept(world, plain)
    for search_id in (first, second):
        sign(world, search_id, less=Narrowing(cap=1))
    cancel_search(world.nodes[NORTHPORT].engine, first, world.clock())
    refuse(world, second)
    assert [state(world, one) for one in (first, second)] == ["cancelled", "refused"]
    with pytest.raises(RequestError):
        accept(world, first)


# --- conflicts --------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R5")
async def test_a_reviewer_who_investigates_the_case_does_not_decide_about_it(world: World) -> None:
    """R5: in another search of the same case, as long as that is open; another case is no conflict."""
    node = world.nodes[NORTHPORT]
    own = draft_search(
        node.engine,
        node.vault,
        PixelEmbedder(),
        NORTHPORT,
        roster().discovery_key(NORTHPORT),
        search_request(plain_picture(9)),
        person_key(BOTH, PersonRole.INVESTIGATOR, "both investigator"),
        world.clock(),
    )
    same_case = await world.drafted(STILL, reviewer=BOTH)
    other_case = await world.drafted(plain_picture(10), reviewer=BOTH, case_number="another case")
    with pytest.raises(RequestError, match=r"investigates an open search of the same case.*\(R5\)"):
        sign(world, same_case, second_reviewer())
    assert state(world, same_case) == "drafted"
    sign(world, other_case, second_reviewer())
    cancel_search(node.engine, own, world.clock())
    sign(world, same_case, second_reviewer())
    assert state(world, same_case) == "granted"


@pytest.mark.rule("R5")
async def test_a_conflict_ratifies_nothing_either(world: World) -> None:
    """R5: an exigent grant is ratified by a second reviewer for whom the same holds."""
    node = world.nodes[NORTHPORT]
    search_id = await world.drafted(**exigent())
    sign(world, search_id)
    with pytest.raises(RequestError, match=r"administers this node.*\(R5\)"):
        ratify_search(node.engine, node.vault, node.parties.trusted, search_id, second_reviewer(), world.clock(), administrator=str(BOTH))
    assert [row.state for row in node.rows(exigent_grants)] == ["running"]
    ratify(world, search_id)
    assert [row.state for row in node.rows(exigent_grants)] == ["ratified"]


@pytest.mark.rule("R5")
async def test_who_administers_the_node_signs_nothing_on_it(world: World) -> None:
    """R5, and the control that the same person signs where somebody else administers."""
    search_id = await world.drafted()
    with pytest.raises(RequestError, match=r"administers this node.*\(R5\)"):
        sign(world, search_id, administrator=str(REVIEWER))
    assert state(world, search_id) == "drafted"
    sign(world, search_id, administrator=str(BOTH))
    assert state(world, search_id) == "granted"


@pytest.mark.rule("R5")
async def test_the_investigator_s_own_key_decides_nothing(world: World) -> None:
    """R5: a sentence, before the signature would fail."""
    search_id = await world.drafted()
    with pytest.raises(RequestError, match=r"is the investigator of this draft.*\(R5\)"):
        sign(world, search_id, investigator())


@pytest.mark.rule("R5")
async def test_control_without_the_comparison_a_conflict_signs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: the tests above are about this check."""
    monkeypatch.setattr("agency_node.legal.review.check_no_conflict", lambda *_: None)
    search_id = await world.drafted()
    sign(world, search_id, administrator=str(REVIEWER))
    assert state(world, search_id) == "granted"


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_signed_sealed_told_and_logged(world: World) -> None:
    node = world.nodes[NORTHPORT]
    search_id = await world.drafted()
    draft = read_draft(node.engine, node.vault, search_id)[0]
    refuse(world, search_id)
    (row,) = node.rows(searches)
    assert (row.state, row.sealed_search_key, row.probe) == ("refused", None, None)
    told = read_told(node.engine, node.vault, search_id, node.parties)
    assert told is not None
    assert (told.reviewer, told.reason) == (str(REVIEWER), REASON)
    await world.run(NORTHPORT, rounds=2)
    logged = [LogEntry.from_bytes(leaf) for leaf in world.broker.log]
    (entry,) = [one for one in logged if one.subject == entry_subject(EntryKind.REFUSAL, draft.digest, NORTHPORT)]
    assert (entry.kind, len(entry.commitments)) == (EntryKind.REFUSAL, ENTRY_FORMS[EntryKind.REFUSAL].count)
    kept = b"".join(path.read_bytes() for path in node.folder.glob(f"{DATABASE_FILE}*"))
    assert b"Smith" not in kept + b"".join(world.broker.log)
    assert world.broker.carried == []


async def test_who_refuses_is_a_reviewer_of_an_office_that_decides(world: World) -> None:
    search_id = await world.drafted()
    for wrong, error in (
        (investigator(), AgencyRoleError),
        (person_key(LAKESIDE_REVIEWER, PersonRole.REVIEWER), AgencyRoleError),
        (person_key(ORIGINATOR, PersonRole.REVIEWER), AgencyRoleError),
        (person_key(REVIEWER, PersonRole.REVIEWER, "not on the roster"), UnknownKeyError),
    ):
        with pytest.raises(error):
            refuse(world, search_id, wrong)
    for empty in ("", "  ", "x" * 2001):
        with pytest.raises(RequestError, match="give a reason"):
            refuse(world, search_id, reason=empty)
    assert state(world, search_id) == "drafted"
    refuse(world, search_id, second_reviewer())  # any reviewer of the office
    assert state(world, search_id) == "refused"
