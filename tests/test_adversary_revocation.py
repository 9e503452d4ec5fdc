"""Revocation fails closed: a custodian releases only with the legal office's own, fresh word that the grant stands.

The broker hides a revocation in the log and in the mail, drops statements, repeats old ones, brings other agencies'; the requester's node
goes on as if nothing had been said. Nothing of it releases anything. Left to others: what a statement's bytes are (test_bodies), what a
mirror says of the log (test_entries).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agency_node.errors import RequestError
from agency_node.legal.decisions import Against, Decision, read_told
from agency_node.legal.persons import PersonKey
from agency_node.legal.revoking import revoke_grant
from agency_node.requester.cancelling import cancel_search
from agency_node.requester.leads import ask_for, list_disclosed, list_leads
from agency_node.store import DATABASE_FILE
from agency_node.tables import custody, custody_parts, held_grants, legal_decisions, outbox, searches, standings
from crypto.canonical import AgencyId, PersonId, SearchId
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.errors import AgencyRoleError, PeerError, TrainingExpiredError, UnknownKeyError
from crypto.grant_claims import GrantClaims
from crypto.message_types import MessageType
from crypto.messages import Message, sign_message
from crypto.notices import Refusal, RefusalReason, RevocationQuery, RevocationStatement, Standing
from crypto.roster import Roster
from crypto.roster_entries import AgencyRole, PersonRole
from crypto.wire import MessageId
from tests.exigent_world import entries, later, restart
from tests.face_samples import plain_picture
from tests.node_world import World, investigator, node_key, person_key, reviewer, search_claims
from tests.node_world_broker import leaf_of
from tests.sample_federation import (
    BOTH,
    EASTFIELD_LAW,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    ORIGINATOR,
    OVERSIGHT,
    REVIEWER,
    agency,
    roster,
    sign_roster,
    with_agency,
)

REASON = "the warrant was quashed on Monday"
ALL_BUT_THE_OFFICE = (NORTHPORT, LAKESIDE, OVERSIGHT)
RELEASES = {str(kind) for kind in (MessageType.HOLDER_RELEASE, MessageType.REQUESTER_RELEASE, MessageType.DISCOVERY_RELEASE)}


@pytest.fixture
async def world(tmp_path: Path) -> Iterator[World]:  # type: ignore[misc]  # pytest-asyncio takes it
    made = World(tmp_path)
    for one in ALL_BUT_THE_OFFICE:
        await made.node(one)
    yield made
    made.close()


def own_office() -> Roster:
    """Northport is its own legal office: its counsel sits with it, and reviews and revokes at its node."""
    counsel = roster().agency(NORTHPORT_LAW).persons
    roles = (AgencyRole.REQUESTER, AgencyRole.HOLDER, AgencyRole.LEGAL_OFFICE, AgencyRole.DISCOVERY)
    persons = [*roster().agency(NORTHPORT).persons, *counsel]
    changed = with_agency(roster(2), NORTHPORT_LAW, persons=())
    entry = agency(NORTHPORT, "us-wi-northport", *roles, legal_office=NORTHPORT, persons=persons)
    return replace(changed, agencies=tuple(entry if one.agency_id == NORTHPORT else one for one in changed.agencies))


async def with_own_office(world: World) -> None:
    world.broker.install(sign_roster(own_office()))
    for node in world.nodes.values():
        await node.parties.refresh()


async def in_custody(world: World) -> GrantClaims:
    """All of a search has come to the custodian; the office has its grant, and the custodian's question lies in its mailbox."""
    content = await world.granted()
    for _ in range(3):
        await world.nodes[NORTHPORT].turn()
    await world.nodes[NORTHPORT_LAW].turn()
    await world.run(*ALL_BUT_THE_OFFICE, rounds=4)
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["open"]
    return content


def revoke(world: World, content: GrantClaims, who: PersonKey | None = None, where: AgencyId = NORTHPORT_LAW) -> None:
    node = world.nodes[where]
    roster_now = node.parties.roster()
    revoke_grant(node.engine, node.vault, roster_now, where, content.search_id, REASON, who or reviewer(), world.clock())


def released(world: World) -> bool:
    """Whether anything of a release was made or carried."""
    made = {row.name for row in world.nodes[OVERSIGHT].rows(outbox)}
    carried = {str(one.header.message_type) for one in world.broker.carried}
    return bool((made | carried) & RELEASES) or any(row.state == "released" for row in world.nodes[OVERSIGHT].rows(custody))


def hide(world: World, content: GrantClaims) -> None:
    """The broker drops what the office sent, and takes its entry out of the log."""
    for name, box in world.broker.boxes.items():
        world.broker.boxes[name] = [data for data in box if Message.from_bytes(data).header.sender != NORTHPORT_LAW]
    subject = entry_subject(EntryKind.REVOCATION, content.digest)
    world.broker.log[:] = [leaf for leaf in world.broker.log if LogEntry.from_bytes(leaf).subject != subject]
    world.broker.cosign_again()


def nonce_of(world: World) -> bytes:
    (row,) = world.nodes[OVERSIGHT].rows(standings)
    return bytes(row.nonce)


def said(world: World, content: GrantClaims, sender: AgencyId = NORTHPORT_LAW, **changes: Any) -> Message:
    """A statement over the custodian's nonce, good but for the changes."""
    values: dict[str, Any] = {"nonce": nonce_of(world), "standing": Standing.STANDS, "stated_at": world.clock(), **changes}
    return world.message(MessageType.REVOCATION_STATEMENT, RevocationStatement(**values), content, sender, OVERSIGHT)


def forged(world: World, content: GrantClaims) -> Message:
    """A frame in the office's name with another's signature."""
    head = world.header(MessageType.REVOCATION_STATEMENT, content, NORTHPORT_LAW, OVERSIGHT)
    statement = RevocationStatement(nonce_of(world), Standing.STANDS, world.clock())
    return sign_message(head, statement, sender_signing_key=node_key(LAKESIDE))


# --- the custodian ----------------------------------------------------------------------------------------------------


async def test_the_office_s_word_is_asked_for_ahead_and_releases(world: World) -> None:
    """The control of this module; and one question, with the first part that comes, is all that it takes."""
    content = await in_custody(world)
    asked = [one for one in world.broker.carried if one.header.message_type is MessageType.REVOCATION_QUERY]
    assert [(one.header.sender, one.header.recipient) for one in asked] == [(OVERSIGHT, NORTHPORT_LAW)]
    assert not released(world)
    await world.nodes[NORTHPORT_LAW].turn()
    await world.run(rounds=3)
    assert released(world)
    assert len(list_leads(world.nodes[NORTHPORT].engine, world.nodes[NORTHPORT].vault, content.search_id)) == 1
    (kept,) = world.nodes[OVERSIGHT].rows(standings)
    assert Message.from_bytes(kept.statement).header.sender == NORTHPORT_LAW  # the release's evidence


async def test_the_question_leaves_before_the_opened_values_come(world: World) -> None:
    """No round trip is added to what a search waits for: the custodian asks with the share, while the requester opens the answer."""
    await world.granted()
    for _ in range(3):
        await world.nodes[NORTHPORT].turn()
    await world.nodes[LAKESIDE].turn()
    await world.nodes[OVERSIGHT].turn()
    assert {row.kind for row in world.nodes[OVERSIGHT].rows(custody_parts)} == {"share"}
    assert len(world.nodes[OVERSIGHT].rows(standings)) == 1
    assert any(one.header.message_type is MessageType.REVOCATION_QUERY for one in world.broker.carried)


async def test_without_a_statement_nothing_is_ever_released(world: World) -> None:
    """The broker drops every question or every answer: the search waits past its deadline, and lapses with its grant."""
    await in_custody(world)
    await later(world, hours=5, without=(NORTHPORT_LAW,))
    assert not released(world)
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["open"]
    await later(world, days=2, without=(NORTHPORT_LAW,))
    (row,) = world.nodes[OVERSIGHT].rows(custody)
    assert row.state == "lapsed"
    assert "has not said that the grant stands" in row.note
    assert not released(world)
    assert {part.data for part in world.nodes[OVERSIGHT].rows(custody_parts)} == {None}


FALSE: dict[str, Callable[[World, GrantClaims], Message]] = {
    "over another nonce": lambda world, content: said(world, content, nonce=RevocationQuery.fresh().nonce),
    "of another grant": lambda world, content: said(world, search_claims(7)),
    "by a holder of the grant": lambda world, content: said(world, content, LAKESIDE),
    "by the requester's node, which is not its legal office": lambda world, content: said(world, content, NORTHPORT),
    "by another legal office": lambda world, content: said(world, content, EASTFIELD_LAW),
    "in the office's name": forged,
    "older than five minutes": lambda world, content: said(world, content, stated_at=world.clock() - timedelta(minutes=5, seconds=1)),
    "from the future": lambda world, content: said(world, content, stated_at=world.clock() + timedelta(minutes=2)),
}


async def test_a_statement_releases_nothing_unless_it_is_the_office_s_fresh_word(world: World) -> None:
    content = await in_custody(world)
    custodian = world.nodes[OVERSIGHT]
    for name, false in FALSE.items():
        world.post(OVERSIGHT, false(world, content))
        await world.run(OVERSIGHT, rounds=2)
        assert not released(world), name
        assert [row.state for row in custodian.rows(custody)] == ["open"], name
    world.post(OVERSIGHT, world.word(content))
    await world.run(OVERSIGHT, rounds=2)
    assert released(world)


async def test_a_statement_that_it_has_ended_ends_it(world: World) -> None:
    content = await in_custody(world)
    world.post(OVERSIGHT, said(world, content, standing=Standing.ENDED))
    await world.run(OVERSIGHT, rounds=1)
    assert [(row.state, row.note) for row in world.nodes[OVERSIGHT].rows(custody)] == [
        ("lapsed", "the legal office says that the grant has ended")
    ]
    world.post(OVERSIGHT, said(world, content))  # and no word takes that back
    await world.run(OVERSIGHT, rounds=2)
    assert not released(world)


async def test_an_old_statement_is_asked_for_again_and_its_replay_counts_for_nothing(world: World) -> None:
    """The statement came in time, the release did not: five minutes later it is worth nothing, however often the broker brings it."""
    content = await world.granted()
    requester, custodian, office = (world.nodes[one] for one in (NORTHPORT, OVERSIGHT, NORTHPORT_LAW))
    for _ in range(3):
        await requester.turn()
    await office.turn()
    await world.nodes[LAKESIDE].turn()
    await custodian.turn()  # the share, and the question
    await office.turn()
    (statement,) = [one for one in world.broker.carried if one.header.message_type is MessageType.REVOCATION_STATEMENT]
    await custodian.turn()
    first = nonce_of(world)
    world.clock.pass_by(minutes=5, seconds=1)
    world.broker.cosign_again()
    await requester.turn()  # the opened values
    world.post(OVERSIGHT, statement)
    await world.run(OVERSIGHT, rounds=2)
    assert not released(world)
    assert nonce_of(world) != first
    again = world.message(
        MessageType.REVOCATION_STATEMENT, RevocationStatement.from_bytes(statement.body), content, NORTHPORT_LAW, OVERSIGHT
    )
    world.post(OVERSIGHT, statement, again)  # also as a new message, which the broker cannot make
    await world.run(OVERSIGHT, rounds=2)
    assert not released(world)
    assert custodian.state_of(again)[0] == "refused"
    await office.turn()
    await custodian.turn()
    assert released(world)


async def test_a_lost_question_is_asked_once_more(world: World) -> None:
    """Not every round, but once an hour: a broker that lost it by accident costs that hour, and no release."""
    await in_custody(world)
    world.broker.boxes[NORTHPORT_LAW].clear()
    first = nonce_of(world)
    await world.run(OVERSIGHT, rounds=5)
    assert world.broker.boxes[NORTHPORT_LAW] == []
    await later(world, hours=1, rounds=1, without=(NORTHPORT_LAW,))
    assert len(world.broker.boxes[NORTHPORT_LAW]) == 1
    assert nonce_of(world) != first
    await world.run(NORTHPORT_LAW, OVERSIGHT, rounds=1)
    assert released(world)


async def test_a_broker_that_hides_a_revocation_stops_the_release_and_starts_none(world: World) -> None:
    """Log entry, notices and the office's "ended" are all kept from everybody."""
    content = await in_custody(world)
    revoke(world, content)
    await world.nodes[NORTHPORT_LAW].turn()
    hide(world, content)
    assert entries(world, EntryKind.REVOCATION, content.digest) == 0
    await world.run(*ALL_BUT_THE_OFFICE, rounds=3)
    assert [row.state for row in world.nodes[NORTHPORT].rows(searches)] == ["sent"]  # it knows nothing of it
    assert not released(world)
    await later(world, hours=5, without=(NORTHPORT_LAW,))
    await later(world, days=2, without=(NORTHPORT_LAW,))
    assert not released(world)
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["lapsed"]


async def test_a_statement_made_before_the_revocation_is_good_for_five_minutes_and_no_longer(world: World) -> None:
    """What a broker can win by hiding a revocation that was made after the statement: those five minutes, which the page says."""
    content = await in_custody(world)
    office = world.nodes[NORTHPORT_LAW]
    await office.turn()  # the statement is on its way
    revoke(world, content)
    world.clock.pass_by(minutes=5, seconds=1)
    world.broker.cosign_again()
    await world.run(OVERSIGHT, rounds=3)
    assert not released(world)
    await office.turn()
    hide(world, content)
    await world.run(*ALL_BUT_THE_OFFICE, rounds=3)
    assert not released(world)


async def test_the_requester_goes_on_after_a_revocation_and_gets_nothing(world: World) -> None:
    """Its node never hears of it, or does not want to: it opens the answer and hands the values in as ever."""
    content = await world.granted()
    for _ in range(3):
        await world.nodes[NORTHPORT].turn()
    await world.nodes[NORTHPORT_LAW].turn()
    await world.nodes[LAKESIDE].turn()
    revoke(world, content)
    await world.nodes[OVERSIGHT].turn()
    await world.nodes[NORTHPORT].turn()  # the opened values are on their way
    await world.run(NORTHPORT_LAW, OVERSIGHT, rounds=4)
    assert not released(world)
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["lapsed"]
    assert {row.data for row in world.nodes[OVERSIGHT].rows(custody_parts)} <= {None}


# --- the legal office -------------------------------------------------------------------------------------------------


async def test_everybody_is_told_and_the_log_says_so(world: World) -> None:
    content = await in_custody(world)
    revoke(world, content)
    await world.run(rounds=4)
    assert [(row.state, row.sealed_search_key, row.probe) for row in world.nodes[NORTHPORT].rows(searches)] == [("revoked", None, None)]
    for party in (LAKESIDE, OVERSIGHT, NORTHPORT_LAW):
        assert [(row.state, row.note) for row in world.nodes[party].rows(held_grants)] == [("refused", "taken back by its legal office")]
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["lapsed"]
    assert entries(world, EntryKind.REVOCATION, content.digest) == 1
    assert not released(world)


async def test_an_office_whose_process_dies_goes_on_telling_and_tells_once(world: World) -> None:
    """Killed after every round: one notice to each party, one entry."""
    content = await in_custody(world)
    revoke(world, content)
    office = world.nodes[NORTHPORT_LAW]
    for _ in range(4):
        await office.work()
        restart(office)
        await office.send()
        restart(office)
    notices = [one for one in world.broker.carried if one.header.message_type is MessageType.REFUSAL]
    assert sorted(one.header.recipient for one in notices) == sorted(ALL_BUT_THE_OFFICE)
    assert entries(world, EntryKind.REVOCATION, content.digest) == 1


async def test_the_log_alone_ends_it_where_no_notice_comes(world: World) -> None:
    content = await in_custody(world)
    revoke(world, content)
    await world.run(NORTHPORT_LAW, rounds=3)
    for box in world.broker.boxes.values():
        box.clear()
    await world.nodes[OVERSIGHT].follower.follow()
    await world.run(OVERSIGHT, rounds=1)
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["lapsed"]


async def test_a_notice_by_anybody_else_takes_nothing_back(world: World) -> None:

    content = await in_custody(world)
    notice = Refusal(MessageId(content.digest.hex()), RefusalReason.REVOKED)
    for recipient, sender in ((LAKESIDE, OVERSIGHT), (OVERSIGHT, LAKESIDE), (NORTHPORT, LAKESIDE), (NORTHPORT, OVERSIGHT)):
        world.post(recipient, world.message(MessageType.REFUSAL, notice, content, sender, recipient))
    await world.run(*ALL_BUT_THE_OFFICE, rounds=2)
    assert [row.state for row in world.nodes[LAKESIDE].rows(held_grants)] == ["standing"]
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["open"]
    assert [row.state for row in world.nodes[NORTHPORT].rows(searches)] == ["sent"]


async def test_after_the_release_leads_are_closed_and_no_photograph_follows(world: World) -> None:
    content = await world.released()
    node = world.nodes[NORTHPORT]
    ask_for(node.engine, node.vault, content.search_id, 1, world.clock())
    revoke(world, content)
    await world.run(rounds=4)
    assert [row.state for row in node.rows(searches)] == ["revoked"]
    for look in (list_leads, list_disclosed):
        with pytest.raises(RequestError, match="took this search's grant back"):
            look(node.engine, node.vault, content.search_id)
    assert not any(one.header.message_type is MessageType.DISCLOSURE for one in world.broker.carried)


async def test_an_agency_that_is_its_own_office_ends_its_search_at_once(world: World) -> None:
    await with_own_office(world)
    content = await world.granted()
    await world.run(*ALL_BUT_THE_OFFICE, rounds=2)
    node = world.nodes[NORTHPORT]
    (before,) = node.rows(searches)
    assert before.state == "sent"
    revoke(world, content, where=NORTHPORT)
    assert [(row.state, row.sealed_search_key, row.probe) for row in node.rows(searches)] == [("revoked", None, None)]
    await world.run(*ALL_BUT_THE_OFFICE, rounds=4)
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["lapsed"]
    assert [row.state for row in world.nodes[LAKESIDE].rows(held_grants)] == ["refused"]
    assert entries(world, EntryKind.REVOCATION, content.digest) == 1
    assert not released(world)
    assert not any(one.header.recipient == NORTHPORT_LAW for one in world.broker.carried)  # nobody else is its office


async def test_an_agency_that_is_its_own_office_says_itself_that_the_grant_stands(world: World) -> None:
    await with_own_office(world)
    await world.granted()
    await world.run(*ALL_BUT_THE_OFFICE, rounds=6)
    assert released(world)
    (statement,) = [one for one in world.broker.carried if one.header.message_type is MessageType.REVOCATION_STATEMENT]
    assert statement.header.sender == NORTHPORT


async def test_what_had_not_left_never_leaves(world: World) -> None:
    """Granted, or waiting to be entered, and taken back before anything left: no entry either, since the log has no such grant."""
    await with_own_office(world)
    node = world.nodes[NORTHPORT]
    for turns in (0, 1):
        content = await world.sign(await world.drafted(plain_picture(40 + turns)))
        for _ in range(turns):
            await node.work()
        revoke(world, content, where=NORTHPORT)
        await world.run(*ALL_BUT_THE_OFFICE, rounds=2)
        assert [one for one in world.broker.carried if one.header.search_id == content.search_id] == []
        assert entries(world, EntryKind.REVOCATION, content.digest) == entries(world, EntryKind.GRANT, content.digest) == 0


async def test_only_a_reviewer_of_the_granting_office_takes_a_grant_back(world: World) -> None:
    content = await in_custody(world)
    for who, error in (
        (investigator(), AgencyRoleError),
        (person_key(ORIGINATOR, PersonRole.REVIEWER), AgencyRoleError),
        (person_key(LAKESIDE_REVIEWER, PersonRole.REVIEWER), AgencyRoleError),
        (person_key(REVIEWER, PersonRole.REVIEWER, "not on the roster"), UnknownKeyError),
    ):
        with pytest.raises(error):
            revoke(world, content, who)
    await world.run(rounds=3)
    assert released(world)
    assert world.nodes[NORTHPORT_LAW].rows(legal_decisions) == []


async def test_another_reviewer_of_the_office_may_and_a_lapsed_training_may_not(world: World) -> None:
    content = await in_custody(world)
    node = world.nodes[NORTHPORT_LAW]
    office = node.parties.roster().agency(NORTHPORT_LAW)
    persons = tuple(
        replace(one, trained_until=(NOW - timedelta(days=1)).date()) if one.person_id == REVIEWER else one for one in office.persons
    )
    world.broker.install(sign_roster(with_agency(roster(2), NORTHPORT_LAW, persons=persons)))
    await node.parties.refresh()
    with pytest.raises(TrainingExpiredError):
        revoke(world, content)
    revoke(world, content, person_key(BOTH, PersonRole.REVIEWER, "both reviewer"))
    assert [row.what for row in node.rows(legal_decisions)] == ["revoked"]


async def test_where_a_grant_is_taken_back(world: World) -> None:
    """At the office's node, once, with a reason; the requester's node names it, and stops the search at once by cancelling."""
    content = await in_custody(world)
    with pytest.raises(RequestError, match=r"at the node of northport-attorney.*node cancel"):
        revoke(world, content, where=NORTHPORT)
    with pytest.raises(RequestError, match="no grant of this legal office"):
        revoke(world, content, where=OVERSIGHT)
    office = world.nodes[NORTHPORT_LAW]
    with pytest.raises(RequestError, match="give a reason"):
        revoke_grant(office.engine, office.vault, office.parties.roster(), NORTHPORT_LAW, content.search_id, "  ", reviewer(), NOW)
    revoke(world, content)
    with pytest.raises(RequestError, match="it has ended"):
        revoke(world, content)


async def test_the_reason_is_sealed_and_signed_for(world: World) -> None:
    content = await in_custody(world)
    revoke(world, content)
    node = world.nodes[NORTHPORT_LAW]
    (row,) = node.rows(legal_decisions)
    decision = Decision.read(row.document, node.parties.roster())
    assert (decision.reviewer, decision.digest, decision.search_id) == (REVIEWER, content.digest, content.search_id)
    told = read_told(node.engine, node.vault, content.search_id, node.parties)
    assert told is not None
    assert told.reason == REASON
    await world.run(rounds=3)
    kept = b"".join(path.read_bytes() for path in node.folder.glob(f"{DATABASE_FILE}*"))
    assert REASON.encode() not in kept + b"".join(world.broker.log) + b"".join(one.to_bytes() for one in world.broker.carried)
    with pytest.raises(PeerError):
        Decision.read(row.document.replace(b"revoked", b"refused"), node.parties.roster())


# --- what the office says ---------------------------------------------------------------------------------------------


async def answered(world: World, content: GrantClaims) -> list[Standing]:
    """What the office says to the custodian's question that waits in its mailbox."""
    office = world.nodes[NORTHPORT_LAW]
    await office.turn()
    found = [one for one in world.broker.carried if one.header.message_type is MessageType.REVOCATION_STATEMENT]
    return [RevocationStatement.from_bytes(one.body).standing for one in found if one.header.search_id == content.search_id]


async def test_it_says_ended_after_a_revocation_a_cancelling_and_the_grant_s_end(world: World) -> None:
    node, office = world.nodes[NORTHPORT], world.nodes[NORTHPORT_LAW]
    grants = [await world.sign(await world.drafted(plain_picture(number))) for number in (30, 31, 32)]
    for _ in range(3):
        await node.turn()
    await office.turn()

    async def ask(content: GrantClaims) -> Standing:
        query = world.message(MessageType.REVOCATION_QUERY, RevocationQuery.fresh(), content, OVERSIGHT, NORTHPORT_LAW)
        world.post(NORTHPORT_LAW, query)
        return (await answered(world, content))[-1]

    assert [await ask(content) for content in grants] == [Standing.STANDS] * 3
    revoked, cancelled, expired = grants
    revoke(world, revoked)
    cancel_search(node.engine, cancelled.search_id, world.clock())
    await world.run(NORTHPORT, NORTHPORT_LAW, rounds=2)
    assert [await ask(content) for content in grants] == [Standing.ENDED, Standing.ENDED, Standing.STANDS]
    world.clock.pass_by(days=3)
    assert await ask(expired) is Standing.ENDED


async def test_it_answers_custodians_of_the_grant_and_nobody_else(world: World) -> None:
    content = await in_custody(world)
    world.broker.boxes[NORTHPORT_LAW].clear()
    for sender in (LAKESIDE, NORTHPORT):
        query = world.message(MessageType.REVOCATION_QUERY, RevocationQuery.fresh(), content, sender, NORTHPORT_LAW)
        world.post(NORTHPORT_LAW, query)
        assert await answered(world, content) == []
        assert world.nodes[NORTHPORT_LAW].state_of(query)[0] == "refused"
    unknown = world.message(MessageType.REVOCATION_QUERY, RevocationQuery.fresh(), search_claims(3), OVERSIGHT, NORTHPORT_LAW)
    world.post(NORTHPORT_LAW, unknown)
    assert await answered(world, content) == []
    assert world.nodes[NORTHPORT_LAW].state_of(unknown)[0] == "waiting"


async def test_its_own_copy_of_the_log_ends_a_grant_too(world: World) -> None:
    """The originating agency's office, or a lapse, has ended the grant in the log: the office says so without a decision of its own."""
    content = await in_custody(world)
    world.broker.add(leaf_of(EntryKind.LAPSE, content.digest))
    await world.nodes[NORTHPORT_LAW].follower.follow()
    assert await answered(world, content) == [Standing.ENDED]


async def test_a_decision_between_question_and_answer_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is found in the transaction that queues it: a revocation that came in while the question was handled counts."""
    content = await in_custody(world)
    office = world.nodes[NORTHPORT_LAW]
    await office.receive()
    handle = office.courier._handlers[MessageType.REVOCATION_QUERY][0]

    async def slowly(message: Any) -> Any:
        commit = await handle(message)
        revoke(world, content)
        return commit

    monkeypatch.setitem(office.courier._handlers, MessageType.REVOCATION_QUERY, [slowly])
    assert await answered(world, content) == [Standing.ENDED]


def test_a_person_s_decision_is_of_a_reviewer() -> None:
    """Nobody else's signature makes one, and none is read in another's name."""

    good = Decision(Against.REVOKED, SearchId("ab" * 16), bytes(32), REVIEWER, NOW, bytes(32))
    assert Decision.read(good.sign(reviewer().signing_key), roster()) == good
    for wrong in (
        good.sign(investigator().signing_key),
        replace(good, reviewer=PersonId(str(BOTH))).sign(reviewer().signing_key),
        replace(good, reviewer=ORIGINATOR).sign(reviewer().signing_key),
    ):
        with pytest.raises(PeerError):
            Decision.read(wrong, roster())
