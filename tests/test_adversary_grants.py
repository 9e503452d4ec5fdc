"""Grants that authorise nothing, each refused by a holder by itself and by a custodian by itself (PROTOCOL 5).

What a broker refuses is tested elsewhere (`test_broker_grants`); here it carries everything. Every test ends with the same questions: the
node names the reason and the next lawful step in its own store, the requester is told a code and nothing else, and nothing of a search was
begun: no answer, no custody, no share.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agency_node import facts
from agency_node.errors import HaltedError
from agency_node.facts import Fact
from agency_node.tables import answers, custody, custody_parts, held_grants, inbox, outbox, standings
from crypto.answer import AnswerRequest, MaskShare, OrderSeed, answer
from crypto.bodies import AnswerStatement, GrantBody, OpenedBody
from crypto.canonical import AgencyId, canonical_json
from crypto.checkpoint import SignedCheckpoint
from crypto.entries import EntryKind
from crypto.errors import (
    CheckpointError,
    ContextError,
    CustodianError,
    GrantExpiredError,
    GrantMismatchError,
    GrantNotYetValidError,
    GrantReasonError,
    GrantSignatureError,
    InclusionError,
    MissingRoleError,
    PeerError,
    RevokedError,
    SamePersonError,
)
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import GrantToken, add_signature, sign_grant, unsigned_grant, without_reason
from crypto.lawful_steps import explain, explain_refusal
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.notices import RefusalReason
from crypto.opening import open_answer
from crypto.release import Outcome, RequesterRelease
from tests.node_samples import cosigned, head_of, leaf, other_leaves
from tests.node_world import (
    World,
    WorldNode,
    node_key,
    nothing_of,
    pack_gallery,
    probe_of,
    search_claims,
    the_refusal,
)
from tests.node_world_broker import WITNESSES, leaf_of
from tests.sample_federation import (
    BOARD,
    BOTH,
    EASTFIELD,
    INVESTIGATOR,
    LAKESIDE,
    NORTHPORT,
    NOW,
    OVERSIGHT,
    signing_key,
    token_of,
)

PARTIES = [pytest.param(LAKESIDE, id="holder"), pytest.param(OVERSIGHT, id="custodian")]
by_each = pytest.mark.parametrize("party", PARTIES)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Northport with its keys, Lakeside the holder, Oversight the custodian, each for itself."""
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


async def asked(world: World, content: GrantClaims, party: AgencyId, token: bytes | None = None, *, logged: bool = True) -> Message:
    """The grant handed to the party, after its entry into the log."""
    if logged:
        world.broker.enter_grant(content.digest)
    message = world.grant(content, party, token)
    await world.hand_in(party, message)
    return message


def assert_named(node: WorldNode, message: Message, error: type[PeerError] | RefusalReason) -> None:
    """The node's own store names the reason and the next lawful step."""
    said = explain_refusal(error) if isinstance(error, RefusalReason) else explain(error)
    state, note = node.state_of(message)
    assert (state, note.endswith(f"Next: {said.step}")) == ("refused", True)
    assert f"refused {message.header.message_type}: {said.name}" in node.journal()


async def assert_refused(
    world: World, party: AgencyId, message: Message, error: type[PeerError] | RefusalReason, code: RefusalReason
) -> None:
    """Refused with that reason and step, the requester told the code; and what follows the grant is refused unopened."""
    node = world.nodes[party]
    assert_named(node, message, error)
    assert the_refusal(node, message) is code
    nothing_of(node)
    following = follow_up(world, message, party)
    await world.hand_in(party, following)
    assert node.state_of(following)[0] == "refused"
    assert node.rows(inbox, message_id=str(following.message_id))[0].data is None
    nothing_of(node)


def follow_up(world: World, message: Message, party: AgencyId) -> Message:
    """What comes after the grant: the probe for the holder, opened values for the custodian."""
    header = message.header
    assert header.search_id is not None
    named = replace(search_claims(), search_id=header.search_id)
    if party == LAKESIDE:
        made = world.probe(named)
    else:
        made = world.message(MessageType.OPENED_SCORES, opened_body(named), named, NORTHPORT, OVERSIGHT)
    return made


def answered(content: GrantClaims, number: int = 0, digest: bytes | None = None) -> tuple[OpenedBody, MaskShare]:
    """What requester and holder send the custodian of an honest answer to probe `number`."""
    probe, key = probe_of(number)
    gallery = pack_gallery()
    ((made, kept),) = answer(gallery, [AnswerRequest(probe, digest or content.digest, 1)])
    opened = open_answer(made, OrderSeed(made.digest, kept.order_seed), probe, key)
    statement = AnswerStatement.sign(content.search_id, content.digest, LAKESIDE, made.digest, node_key(LAKESIDE))
    return OpenedBody(statement, opened), MaskShare(made.digest, probe.digest, made.slots, kept.mask_seeds[0], kept.places)


def opened_body(content: GrantClaims) -> OpenedBody:
    return answered(content)[0]


def resigned(token: bytes, role: GrantRole, key: str) -> bytes:
    """The token with one signature made by another key under the same header."""
    read = GrantToken.from_bytes(token)
    entries = tuple(
        replace(entry, signature=signing_key(key).sign(read.signing_input(entry.header))) if entry.header.role is role else entry
        for entry in read.signatures
    )
    return replace(read, signatures=entries).to_bytes()


# --- the good one -----------------------------------------------------------------------------------------------------


@by_each
async def test_a_good_grant_is_taken_and_the_follow_up_served(world: World, party: AgencyId) -> None:
    """Without this every refusal below might have another cause."""
    content = search_claims()
    message = await asked(world, content, party)
    node = await world.hand_in(party, follow_up(world, message, party))
    assert [row.state for row in node.rows(held_grants)] == ["standing"]
    if party == OVERSIGHT:
        assert [row.kind for row in node.rows(custody_parts)] == ["opened"]
        return
    await world.requester_with_key(content)
    await node.work()
    assert [row.state for row in node.rows(answers)] == ["answered"]
    assert [one.header.message_type for one in node.queued()] == [MessageType.MASK_SHARE, MessageType.ANSWER, MessageType.DELETION_RECEIPT]


# --- signatures -------------------------------------------------------------------------------------------------------


@by_each
@pytest.mark.parametrize("role", [GrantRole.INVESTIGATOR, GrantRole.REVIEWER])
async def test_a_wrong_signature(world: World, party: AgencyId, role: GrantRole) -> None:
    content = search_claims()
    message = await asked(world, content, party, resigned(token_of(content), role, "somebody else"))
    await assert_refused(world, party, message, GrantSignatureError, RefusalReason.GRANT)


@by_each
async def test_a_signature_over_other_terms(world: World, party: AgencyId) -> None:
    """Every signature is genuine, of a grant with a smaller cap."""
    content = search_claims()
    signed = GrantToken.from_bytes(token_of(replace(content, cap=1)))
    forged = replace(signed, payload=content.to_payload(), reason=content.reason_bytes()).to_bytes()
    message = await asked(world, content, party, forged)
    await assert_refused(world, party, message, GrantSignatureError, RefusalReason.GRANT)


@by_each
async def test_a_missing_role(world: World, party: AgencyId) -> None:
    content = search_claims()
    message = await asked(world, content, party, sign_grant(content, GrantRole.INVESTIGATOR, signing_key(INVESTIGATOR)))
    await assert_refused(world, party, message, MissingRoleError, RefusalReason.GRANT)


@by_each
async def test_one_person_in_two_roles_by_two_keys(world: World, party: AgencyId) -> None:
    """R5: persons are told apart, not keys."""
    content = search_claims()
    token = sign_grant(content, GrantRole.INVESTIGATOR, signing_key("both investigator"))
    message = await asked(world, content, party, add_signature(token, GrantRole.REVIEWER, signing_key("both reviewer")))
    await assert_refused(world, party, message, SamePersonError, RefusalReason.GRANT)


@by_each
async def test_one_person_named_in_two_roles(world: World, party: AgencyId) -> None:
    """Terms that no honest program can build, signed all the same."""
    content = search_claims()
    members = json.loads(content.to_payload())
    members["investigator"], members["reviewers"] = str(BOTH), [str(BOTH)]
    token = replace(GrantToken.from_bytes(unsigned_grant(content)), payload=canonical_json(members))
    for role, name in ((GrantRole.INVESTIGATOR, "both investigator"), (GrantRole.REVIEWER, "both reviewer")):
        made = GrantToken.from_bytes(add_signature(unsigned_grant(content), role, signing_key(name)))
        header = made.signatures[0].header
        token = token.with_signature(header, signing_key(name).sign(token.signing_input(header)))
    message = await asked(world, content, party, token.to_bytes())
    await assert_refused(world, party, message, SamePersonError, RefusalReason.GRANT)


@by_each
async def test_without_its_reason_or_with_another(world: World, party: AgencyId) -> None:
    content = search_claims()
    message = await asked(world, content, party, without_reason(token_of(content)))
    await assert_refused(world, party, message, GrantReasonError, RefusalReason.GRANT)
    other = replace(GrantToken.from_bytes(token_of(content)), reason=search_claims(1).reason_bytes()).to_bytes()
    again = await asked(world, content, party, other, logged=False)
    assert_named(world.nodes[party], again, GrantReasonError)
    nothing_of(world.nodes[party])


# --- time -------------------------------------------------------------------------------------------------------------


@by_each
async def test_an_expired_grant(world: World, party: AgencyId) -> None:
    content = search_claims(not_before=NOW - timedelta(days=1), answer_deadline=NOW - timedelta(hours=1), expires=NOW)
    message = await asked(world, content, party)
    await assert_refused(world, party, message, GrantExpiredError, RefusalReason.GRANT_NOT_IN_FORCE)


@by_each
async def test_a_grant_that_expires_after_it_was_taken(world: World, party: AgencyId) -> None:
    """Time is asked again at every step."""
    content = search_claims()
    message = await asked(world, content, party)
    world.clock.now = content.expires
    world.broker.cosign_again()
    later = follow_up(world, message, party)
    node = await world.hand_in(party, later)
    assert_named(node, later, GrantExpiredError)
    assert the_refusal(node, later) is RefusalReason.GRANT_NOT_IN_FORCE
    assert node.rows(answers) == node.rows(custody_parts) == []


@by_each
async def test_a_grant_that_is_not_valid_yet(world: World, party: AgencyId) -> None:
    content = search_claims(not_before=NOW + timedelta(seconds=1))
    message = await asked(world, content, party)
    await assert_refused(world, party, message, GrantNotYetValidError, RefusalReason.GRANT_NOT_IN_FORCE)


# --- for something else -----------------------------------------------------------------------------------------------


async def test_a_holder_is_sent_another_probe_than_the_grants(world: World) -> None:
    content = search_claims()
    await asked(world, content, LAKESIDE)
    await world.requester_with_key(content)
    other = world.probe(content, number=1)
    node = await world.hand_in(LAKESIDE, other)
    assert_named(node, other, GrantMismatchError)
    assert the_refusal(node, other) is RefusalReason.GRANT
    assert node.rows(answers) == []
    assert {one.header.message_type for one in node.queued()} == {MessageType.REFUSAL}
    await world.hand_in(LAKESIDE, world.probe(content))  # the grant is not spent by it
    assert [row.state for row in node.rows(answers)] == ["answered"]


@pytest.mark.parametrize("which", ["share", "opened", "both"])
async def test_a_custodian_is_sent_share_or_opened_values_of_another_probe(world: World, which: str) -> None:
    """Sealed until the release: there the holder's answer is left out, and the release says so."""
    content = search_claims()
    await asked(world, content, OVERSIGHT)
    await world.requester_with_key(content)
    await world.node(LAKESIDE)
    (opened, share), (other_opened, other_share) = answered(content), answered(content, 1)
    bodies = {"share": (opened, other_share), "opened": (other_opened, share), "both": (other_opened, other_share)}[which]
    node = await hand_in_custody(world, content, *bodies)
    assert [row.state for row in node.rows(custody)] == ["released"]
    released = await release_of(world, content)
    assert released.leads == ()
    assert [(one.holder, one.outcome) for one in released.holders] == [(LAKESIDE, Outcome.REJECTED)]


async def test_a_custodian_releases_what_belongs_together(world: World) -> None:
    content = search_claims(false_positives_per_million=999_999)
    await asked(world, content, OVERSIGHT)
    await world.requester_with_key(content)
    await hand_in_custody(world, content, *answered(content))
    released = await release_of(world, content)
    assert [one.outcome for one in released.holders] == [Outcome.ANSWERED]


async def hand_in_custody(world: World, content: GrantClaims, opened: OpenedBody, share: MaskShare) -> WorldNode:
    """Both parts, and then the legal office's word that the grant stands, if the custodian still waits for it."""
    node = await world.hand_in(
        OVERSIGHT,
        world.message(MessageType.MASK_SHARE, share, content, LAKESIDE, OVERSIGHT),
        world.message(MessageType.OPENED_SCORES, opened, content, NORTHPORT, OVERSIGHT),
    )
    if node.rows(standings, search_id=str(content.search_id)):
        await world.hand_in(OVERSIGHT, world.word(content))
    return node


async def release_of(world: World, content: GrantClaims) -> RequesterRelease:
    node = world.nodes[OVERSIGHT]
    (message,) = [one for one in node.queued() if one.header.message_type is MessageType.REQUESTER_RELEASE]
    return world.opened_by(NORTHPORT, message, RequesterRelease, content)


async def test_a_holder_gets_a_grant_that_names_another_holder(world: World) -> None:
    content = search_claims(holders=(EASTFIELD,))
    message = await asked(world, content, LAKESIDE)
    await assert_refused(world, LAKESIDE, message, GrantMismatchError, RefusalReason.GRANT)


async def test_a_custodian_gets_a_share_from_another_holder(world: World) -> None:
    content = search_claims()
    await asked(world, content, OVERSIGHT)
    share = world.message(MessageType.MASK_SHARE, answered(content)[1], content, EASTFIELD, OVERSIGHT)
    node = await world.hand_in(OVERSIGHT, share)
    assert_named(node, share, GrantMismatchError)
    assert the_refusal(node, share) is RefusalReason.GRANT
    assert node.rows(custody_parts) == []


async def test_a_holder_gets_a_grant_under_a_custodian_that_it_does_not_trust(world: World) -> None:
    world.nodes[LAKESIDE].close()
    world.nodes[LAKESIDE] = WorldNode(
        world.folder / "wary", LAKESIDE, world.ROLES[LAKESIDE], world.broker, world.clock, trusted_custodians=(BOARD,)
    )
    await world.nodes[LAKESIDE].start()
    message = await asked(world, search_claims(), LAKESIDE)
    await assert_refused(world, LAKESIDE, message, CustodianError, RefusalReason.CUSTODIAN)


async def test_a_custodian_gets_a_grant_that_names_another_custodian(world: World) -> None:
    content = search_claims(custodians=(BOARD,), combiner=BOARD)
    message = await asked(world, content, OVERSIGHT)
    await assert_refused(world, OVERSIGHT, message, GrantMismatchError, RefusalReason.GRANT)


@by_each
async def test_a_grant_handed_in_by_another_agency_than_the_one_that_asks(world: World, party: AgencyId) -> None:
    content = search_claims()
    world.broker.enter_grant(content.digest)
    message = world.message(MessageType.GRANT, GrantBody(token_of(content)), content, EASTFIELD, party)
    await world.hand_in(party, message)
    await assert_refused(world, party, message, GrantMismatchError, RefusalReason.GRANT)


@by_each
async def test_a_grant_under_another_searchs_frame(world: World, party: AgencyId) -> None:
    content = search_claims()
    world.broker.enter_grant(content.digest)
    message = world.grant(search_claims(1), party, token_of(content))
    await world.hand_in(party, message)
    await assert_refused(world, party, message, ContextError, RefusalReason.MALFORMED)


# --- replay -----------------------------------------------------------------------------------------------------------


def same_probe(first: GrantClaims) -> GrantClaims:
    return replace(search_claims(1), probe_digest=first.probe_digest)


def same_face(first: GrantClaims) -> GrantClaims:
    return replace(search_claims(1), face_commit=first.face_commit)


def same_id(first: GrantClaims) -> GrantClaims:
    return replace(search_claims(1), grant_id=first.grant_id)


def same_search(first: GrantClaims) -> GrantClaims:
    return replace(search_claims(1), search_id=first.search_id)


def the_same(first: GrantClaims) -> GrantClaims:
    return first


@by_each
@pytest.mark.parametrize("second", [the_same, same_probe, same_face, same_id, same_search])
async def test_a_replay(world: World, party: AgencyId, second: Callable[[GrantClaims], GrantClaims]) -> None:
    """Each grant by itself is good: it is logged, signed and in force."""
    first = search_claims()
    await asked(world, first, party)
    node = world.nodes[party]
    before = node.rows(held_grants), node.rows(custody)
    again = second(first)
    message = await asked(world, again, party, logged=again != first)
    assert_named(node, message, RefusalReason.REPLAYED)
    assert the_refusal(node, message) is RefusalReason.REPLAYED
    assert (node.rows(held_grants), node.rows(custody)) == before
    assert {one.header.message_type for one in node.queued()} == {MessageType.REFUSAL}


async def test_a_holder_answers_a_grant_once_however_often_the_probe_comes(world: World) -> None:
    content = search_claims()
    await asked(world, content, LAKESIDE)
    await world.requester_with_key(content)
    node = await world.hand_in(LAKESIDE, world.probe(content))
    sent = [one.message_id for one in node.queued()]
    again = world.probe(content)
    await world.hand_in(LAKESIDE, again)
    assert_named(node, again, RefusalReason.REPLAYED)
    assert the_refusal(node, again) is RefusalReason.REPLAYED
    assert [one.message_id for one in node.queued()][:-1] == sent


# --- the log ----------------------------------------------------------------------------------------------------------


@by_each
async def test_a_grant_that_is_not_in_the_log(world: World, party: AgencyId) -> None:
    message = await asked(world, search_claims(), party, logged=False)
    await assert_refused(world, party, message, InclusionError, RefusalReason.CHECKPOINT)


@by_each
async def test_an_entry_of_another_kind_or_grant_is_no_inclusion(world: World, party: AgencyId) -> None:
    content = search_claims()
    world.broker.add(leaf_of(EntryKind.RELEASE, content.digest), leaf_of(EntryKind.GRANT, search_claims(1).digest))
    message = await asked(world, content, party, logged=False)
    await assert_refused(world, party, message, InclusionError, RefusalReason.CHECKPOINT)


@by_each
@pytest.mark.parametrize("kind", [EntryKind.REVOCATION, EntryKind.LAPSE])
async def test_a_grant_that_was_taken_back(world: World, party: AgencyId, kind: EntryKind) -> None:
    content = search_claims()
    world.broker.enter_grant(content.digest)
    world.broker.add(leaf_of(kind, content.digest))
    message = await asked(world, content, party, logged=False)
    await assert_refused(world, party, message, RevokedError, RefusalReason.REVOKED)


async def assert_halted(node: WorldNode, message: Message, shown: SignedCheckpoint, held: SignedCheckpoint) -> None:
    """The node stopped with both notes; nothing left, the message waits untouched, and a later act is refused."""
    reason = facts.halted(node.engine)
    assert reason
    with node.engine.begin() as connection:
        evidence = [facts.read_fact(connection, name) for name in (Fact.EVIDENCE_HELD, Fact.EVIDENCE_SHOWN)]
    notes = [SignedCheckpoint.from_bytes(one or b"").checkpoint for one in evidence]
    assert notes == [held.checkpoint, shown.checkpoint]
    assert node.state_of(message)[0] == "new"
    assert node.rows(answers) == node.rows(custody) == node.rows(outbox) == []
    with pytest.raises(HaltedError, match="Keep its store, it holds the evidence"):
        await node.desk.check_act(search_claims(), search_claims().digest)


@by_each
@pytest.mark.parametrize("length", [2, 4, 6])
async def test_a_peers_checkpoint_is_of_a_fork_in_which_the_grant_stands(world: World, party: AgencyId, length: int) -> None:
    """The log's own signature, and cosignatures, over a history that is not the one of this node; shorter, of equal size, longer."""
    content, node = search_claims(), world.nodes[party]
    await node.follower.follow()
    held = node.follower.latest
    assert held is not None
    fork = [*other_leaves(length - 1, "the other side"), leaf_of(EntryKind.GRANT, content.digest)]
    world.broker.add(*other_leaves(4, "later"))
    shown = cosigned(head_of(fork), *WITNESSES)
    message = world.grant(content, party, checkpoint=shown)
    await world.hand_in(party, message)
    await assert_halted(node, message, shown, node.follower.latest or held)


@by_each
async def test_the_broker_shows_a_fork_in_which_the_grant_stands(world: World, party: AgencyId) -> None:
    content, node = search_claims(), world.nodes[party]
    await node.follower.follow()
    held = node.follower.latest
    assert held is not None
    world.broker.log = [*other_leaves(2), *other_leaves(2, "the other side"), leaf_of(EntryKind.GRANT, content.digest)]
    world.broker.cosign_again()
    message = world.grant(content, party)
    await world.hand_in(party, message)
    await assert_halted(node, message, head_of(world.broker.log), held)


@by_each
async def test_a_fork_made_for_a_new_node_lacks_its_witnesses(world: World, party: AgencyId) -> None:
    """A node that never saw the log has nothing to compare: honest witnesses, who did see it, do not cosign the other history."""
    content, node = search_claims(), world.nodes[party]
    world.broker.log = [*other_leaves(2, "the other side"), leaf_of(EntryKind.GRANT, content.digest)]
    world.broker.lines.clear()
    message = world.grant(content, party)
    await world.hand_in(party, message)
    assert node.state_of(message)[0] == "waiting"
    nothing_of(node)
    world.clock.now = content.expires  # the wait ends with the grant
    await node.work()
    assert_named(node, message, GrantExpiredError)
    nothing_of(node)


@by_each
async def test_a_checkpoint_that_the_log_did_not_sign(world: World, party: AgencyId) -> None:
    """Whoever invents one proves nothing against the log: the message is refused, the node goes on."""
    content, node = search_claims(), world.nodes[party]
    world.broker.enter_grant(content.digest)
    true = head_of(world.broker.log)
    invented = replace(true, checkpoint=replace(true.checkpoint, root=bytes(32)))
    message = world.grant(content, party, checkpoint=invented)
    await world.hand_in(party, message)
    await assert_refused(world, party, message, CheckpointError, RefusalReason.CHECKPOINT)
    assert facts.halted(node.engine) is None


@by_each
async def test_the_log_is_asked_again_before_the_act(world: World, party: AgencyId) -> None:
    """Taken back between the grant's message and the probe, or before the release."""
    content, node = search_claims(), world.nodes[party]
    await asked(world, content, party)
    await world.requester_with_key(content)
    world.broker.add(leaf(EntryKind.REVOCATION, content.digest))
    if party == LAKESIDE:
        probe = world.probe(content)
        await world.hand_in(party, probe)
        assert_named(node, probe, RevokedError)
        assert the_refusal(node, probe) is RefusalReason.REVOKED
    else:
        await hand_in_custody(world, content, *answered(content))
        assert [row.state for row in node.rows(custody)] == ["lapsed"]
        assert all(row.data is None for row in node.rows(custody_parts))
    assert node.rows(answers) == []
    assert {one.header.message_type for one in node.queued()} <= {MessageType.REFUSAL, MessageType.REVOCATION_QUERY}


async def test_opened_values_are_opened_once_when_they_complete_a_search_and_again_when_they_had_to_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, waiting = search_claims(false_positives_per_million=999_999), search_claims(1, false_positives_per_million=999_999)
    for one in (content, waiting):
        await asked(world, one, OVERSIGHT)
        await world.requester_with_key(one)
    opened_bodies, envelopes = [], world.nodes[OVERSIGHT].envelopes
    open_one = envelopes.open

    def counted(message: Any, body: Any, *rest: Any) -> Any:
        opened_bodies.append(body)
        return open_one(message, body, *rest)

    monkeypatch.setattr(envelopes, "open", counted)
    node = await hand_in_custody(world, content, *answered(content))
    assert opened_bodies.count(OpenedBody) == 1

    opened, share = answered(waiting, 1)
    await world.hand_in(OVERSIGHT, world.message(MessageType.OPENED_SCORES, opened, waiting, NORTHPORT, OVERSIGHT))
    assert node.releasing._at_hand is None  # sealed in the store, and nowhere else
    await world.hand_in(OVERSIGHT, world.message(MessageType.MASK_SHARE, share, waiting, LAKESIDE, OVERSIGHT))
    await world.hand_in(OVERSIGHT, world.word(waiting))
    assert opened_bodies.count(OpenedBody) == 3
    assert {row.search_id: row.state for row in node.rows(custody)} == {str(one.search_id): "released" for one in (content, waiting)}
