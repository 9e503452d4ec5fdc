"""Messages and decisions that a node must not act on: garbage, the wrong sender, the wrong moment, the wrong person.

Whatever comes in through the courier ends as done, waiting or refused; nothing that was refused is stored or answered beyond a code, no
exception gets out, and the node goes on with the next message.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from agency_node.gallery_tables import disclosure_requests, stubs
from agency_node.tables import answers, custody_parts, inbox, leads, outbox, searches
from crypto.canonical import AgencyId
from crypto.disclosure import Stub, StubList, StubRecord
from crypto.entries import EntryKind
from crypto.envelope import seal, seal_in_segments
from crypto.grant_claims import GrantClaims
from crypto.lawful_steps import explain_refusal
from crypto.message_types import MAX_MESSAGE_BYTES, MESSAGES, MessageType
from crypto.messages import Message
from crypto.notices import Refusal, RefusalReason
from crypto.release import Band, HolderOutcome, HolderRelease, Outcome, RequesterRelease
from crypto.wire import MessageId
from tests import message_samples
from tests.node_world import (
    World,
    WorldNode,
    node_key,
    search_claims,
    the_refusal,
)
from tests.node_world_broker import leaf_of
from tests.sample_federation import (
    BOARD,
    EASTFIELD,
    LAKESIDE,
    NORTHPORT,
    OVERSIGHT,
)

NODES = [pytest.param(NORTHPORT, id="requester"), pytest.param(LAKESIDE, id="holder"), pytest.param(OVERSIGHT, id="custodian")]
by_each = pytest.mark.parametrize("party", NODES)
NOTICES = {MessageType.REFUSAL, MessageType.DELETION_RECEIPT}
TAKEN = {
    NORTHPORT: {
        MessageType.GRANT,
        MessageType.ANSWER,
        MessageType.REFUSAL,
        MessageType.DELETION_RECEIPT,
        MessageType.REQUESTER_RELEASE,
        MessageType.DISCOVERY_RELEASE,
        MessageType.STUBS,
        MessageType.DISCLOSURE,
    },
    LAKESIDE: {
        MessageType.GRANT,
        MessageType.PROBE,
        MessageType.HOLDER_RELEASE,
        MessageType.DISCLOSURE_REQUEST,
        MessageType.REVOCATION_QUERY,  # it is its own legal office
    }
    | NOTICES,
    OVERSIGHT: {
        MessageType.GRANT,
        MessageType.MASK_SHARE,
        MessageType.MASK_HANDOVER,
        MessageType.OPENED_SCORES,
        MessageType.REVOCATION_STATEMENT,
    }
    | NOTICES,
}
"""What each role's node has a use for; notices are read by all."""
RIGHTFUL = {(MessageType.DISCLOSURE_REQUEST, NORTHPORT), (MessageType.REFUSAL, LAKESIDE)}
"""What may truly come without a word of it being false: a request that asks for nothing, and a holder's no."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


def refused(node: WorldNode, message: Message, name: str) -> None:
    """Refused under that name, its content deleted."""
    state, note = node.state_of(message)
    assert state == "refused", note
    assert node.rows(inbox, message_id=str(message.message_id))[0].data is None
    assert f"refused {message.header.message_type}: {name}" in node.journal()


def began(node: WorldNode) -> bool:
    return bool(node.rows(answers) or node.rows(custody_parts) or node.rows(stubs) or node.rows(leads) or node.rows(disclosure_requests))


# --- bytes ------------------------------------------------------------------------------------------------------------


def body_of(kind: MessageType) -> Any:
    """One body of that type, always the same."""
    found: list[Any] = []

    @settings(max_examples=1, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(message_samples.BODIES[kind])
    def take(body: Any) -> None:
        found.append(body)

    take()
    return found[-1]


@pytest.fixture(scope="module")
def bodies() -> dict[MessageType, Any]:
    return {kind: body_of(kind) for kind in MessageType}


def spoiled(data: bytes, chance: random.Random) -> list[bytes]:
    """Cut, prolonged, mixed and random forms of a message."""
    flipped = bytearray(data)
    for _ in range(8):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    head = data[: min(len(data) // 2, 400)]
    return [
        data[:-1],
        data[: len(data) // 2],
        data[:5],
        data[:1],
        data + b"\0",
        bytes(flipped),
        head + chance.randbytes(len(data) - len(head)),
        chance.randbytes(len(data)),
        data[:5] + bytes([chance.randrange(18, 256)]) + data[6:],
    ]


@by_each
async def test_spoiled_bytes_of_every_type_leave_nothing_behind(world: World, party: AgencyId, bodies: dict[MessageType, Any]) -> None:
    """Signed by nobody, whatever they say: not stored, not answered, deleted at the broker with a line in the journal."""
    chance, node, content = random.Random(3), world.nodes[party], search_claims()
    for kind in MessageType:
        if MESSAGES[kind].in_search:
            true = world.message(kind, bodies[kind], content, BOARD, party)
            world.post(party, *spoiled(true.to_bytes(), chance))
    posted = len(world.broker.boxes[party])
    while world.broker.boxes[party]:
        await node.receive()
        await node.work()
    assert node.rows(inbox) == []
    assert node.rows(outbox) == []
    assert sum("refused message" in line for line in node.journal()) == posted
    await world.goes_on(party, content)


@by_each
async def test_oversized_bytes_are_not_read(world: World, party: AgencyId) -> None:
    node, content = world.nodes[party], search_claims()
    true = world.message(MessageType.REFUSAL, Refusal(MessageId("ab" * 32), RefusalReason.LATE), content, BOARD, party).to_bytes()
    world.post(party, true + bytes(MESSAGES[MessageType.REFUSAL].max_bytes), true[:200] + bytes(1 << 20))
    await node.receive()
    await node.work()
    assert node.rows(inbox) == []
    assert [line for line in node.journal() if "oversized" in line]
    assert MAX_MESSAGE_BYTES > 1 << 20
    await world.goes_on(party, content)


@by_each
@pytest.mark.parametrize("known", [False, True], ids=["no search", "a search in force"])
async def test_signed_nonsense_of_every_type_ends_as_a_refusal(
    world: World, party: AgencyId, bodies: dict[MessageType, Any], known: bool
) -> None:
    """A member of the federation signs and seals a well-formed body of every type, with nothing true in it."""
    node, content = world.nodes[party], search_claims()
    if known and party != NORTHPORT:
        world.broker.enter_grant(content.digest)
        await world.requester_with_key(content)
        await world.hand_in(party, world.grant(content, party))
    if known and party == NORTHPORT:
        content = await world.granted()
        await world.run(NORTHPORT, rounds=3)
    before, queued = began(node), node.rows(outbox)
    sent = []
    for kind in MessageType:
        if MESSAGES[kind].in_search:
            for sender in (BOARD, EASTFIELD, LAKESIDE, OVERSIGHT, NORTHPORT):
                if sender != party and (kind, sender) not in RIGHTFUL:
                    sent.append(world.message(kind, bodies[kind], content, sender, party))
    for first in range(0, len(sent), 8):
        await world.hand_in(party, *sent[first : first + 8])
    while world.broker.boxes[party]:
        await node.receive()
        await node.work()
    assert began(node) == before or {row.kind for row in node.rows(custody_parts)} <= {"share", "refusal"}
    answers_to = [row for row in node.rows(outbox) if row not in queued]
    assert {row.name for row in answers_to} <= {"refusal", "revocation-query"}
    for message in sent:
        state, note = node.state_of(message)
        if message.header.message_type not in TAKEN[party]:
            assert state == "refused", message.header
        assert state in {"refused", "waiting", "done"}, note
    if party != NORTHPORT:
        await world.goes_on(party, search_claims(1))


@pytest.mark.rule("R56")
@by_each
async def test_a_body_that_is_none_inside_a_true_seal(world: World, party: AgencyId) -> None:
    """Sealed and signed by its rightful sender, with random bytes inside."""
    content = search_claims()
    node = world.nodes[party]
    if party == NORTHPORT:
        content = await world.granted()
        await world.run(NORTHPORT, rounds=3)
        kinds = {MessageType.ANSWER: LAKESIDE, MessageType.REQUESTER_RELEASE: OVERSIGHT, MessageType.DISCLOSURE: LAKESIDE}
    else:
        world.broker.enter_grant(content.digest)
        await world.requester_with_key(content)
        await world.hand_in(party, world.grant(content, party))
        kinds = {MessageType.PROBE: NORTHPORT, MessageType.HOLDER_RELEASE: OVERSIGHT, MessageType.DISCLOSURE_REQUEST: NORTHPORT}
        if party == OVERSIGHT:
            kinds = {MessageType.OPENED_SCORES: NORTHPORT}
    for kind, sender in kinds.items():
        for inside in (b"", b"\0" * 40, random.Random(1).randbytes(3000)):
            forged = resealed(world, kind, inside, content, sender, party)
            await world.hand_in(party, forged)
            assert node.state_of(forged)[0] == "refused"
            assert the_refusal(node, forged) is RefusalReason.MALFORMED
    assert not began(node)


def resealed(world: World, kind: MessageType, inside: bytes, content: GrantClaims, sender: AgencyId, recipient: AgencyId) -> Message:
    """A message of that type around any plaintext."""
    header = world.header(kind, content, sender, recipient)
    key = world.key_of(recipient, content.search_id)
    context, own = header.context(key.key_id, content.epoch), node_key(sender)
    if header.spec.streamed:
        envelope = b"".join(seal_in_segments((inside,), len(inside), context, key.key, own))
    else:
        envelope = seal(inside, context, key.key, own).to_bytes()
    made = Message(header, envelope, bytes(64))
    frame = made.to_bytes()[:-64]
    signature = node_key(sender).sign(b"sealmatch-1/message\n" + hashlib.sha256(frame).hexdigest().encode("ascii"))
    return Message(header, envelope, signature)


# --- the wrong sender, the wrong moment -------------------------------------------------------------------------------


async def test_what_comes_late_is_discarded_logged_and_refused(world: World) -> None:
    """Holder, requester and custodian, each after the deadline."""
    content = search_claims()
    await world.requester_with_key(content)
    world.broker.enter_grant(content.digest)
    for party in (LAKESIDE, OVERSIGHT):
        await world.hand_in(party, world.grant(content, party))
    world.clock.now = content.answer_deadline
    world.broker.cosign_again()
    probe = world.probe(content)
    share = world.message(MessageType.MASK_SHARE, body_of(MessageType.MASK_SHARE), content, LAKESIDE, OVERSIGHT)
    for party, message in ((LAKESIDE, probe), (OVERSIGHT, share)):
        node = await world.hand_in(party, message)
        refused(node, message, explain_refusal(RefusalReason.LATE).name)
        assert the_refusal(node, message) is RefusalReason.LATE
        assert not began(node)
    assert EntryKind.REFUSAL.value in {row.name for row in world.nodes[OVERSIGHT].rows(outbox, kind="entry")}


async def test_a_late_answer_is_not_opened(world: World) -> None:
    content = await world.granted()
    await world.run(NORTHPORT, rounds=3)
    await world.run(LAKESIDE, rounds=2)
    world.clock.now = content.answer_deadline
    world.broker.cosign_again()
    await world.run(NORTHPORT, rounds=1)
    node = world.nodes[NORTHPORT]
    answer = next(one for one in world.broker.carried if one.header.message_type is MessageType.ANSWER)
    refused(node, answer, explain_refusal(RefusalReason.LATE).name)
    assert node.rows(searches)[0].sealed_search_key is None
    assert "opened-scores" not in {row.name for row in node.rows(outbox)}


async def test_a_release_with_leads_for_a_holder_that_did_not_answer(world: World) -> None:
    content = search_claims()
    node = await world.holder_with_grant(content)
    world.broker.add(leaf_of(EntryKind.RELEASE, content.digest))
    release = world.message(MessageType.HOLDER_RELEASE, HolderRelease(content.cap, ((0, 5),)), content, OVERSIGHT, LAKESIDE)
    await world.hand_in(LAKESIDE, release)
    assert node.state_of(release)[0] == "refused"
    assert the_refusal(node, release) is RefusalReason.RELEASE
    assert node.rows(stubs) == []
    assert "stubs" not in {row.name for row in node.rows(outbox)}


async def answered_holder(world: World, content: GrantClaims) -> WorldNode:
    node = await world.holder_with_grant(content)
    await world.hand_in(LAKESIDE, world.probe(content))
    assert [row.state for row in node.rows(answers)] == ["answered"]
    return node


def small_release(content: GrantClaims, *, cap: int | None = None, position: int = 5) -> HolderRelease:
    return HolderRelease(cap or content.cap, ((0, position),))


@pytest.mark.parametrize("sender", [BOARD, NORTHPORT, EASTFIELD])
async def test_a_release_from_anybody_but_the_combining_custodian(world: World, sender: AgencyId) -> None:
    content = search_claims(custodians=(BOARD, OVERSIGHT))
    await world.node(BOARD)
    node = await answered_holder(world, content)
    world.broker.add(leaf_of(EntryKind.RELEASE, content.digest))
    release = world.message(MessageType.HOLDER_RELEASE, small_release(content), content, sender, LAKESIDE)
    await world.hand_in(LAKESIDE, release)
    assert node.state_of(release)[0] == "refused"
    assert node.rows(stubs) == []
    assert "stubs" not in {row.name for row in node.rows(outbox)}


@pytest.mark.parametrize("fault", ["another cap", "a position beyond the answer", "no log entry"])
async def test_a_release_that_breaks_its_grant(world: World, fault: str) -> None:
    content = search_claims()
    node = await answered_holder(world, content)
    if fault != "no log entry":
        world.broker.add(leaf_of(EntryKind.RELEASE, content.digest))
    body = {
        "another cap": small_release(content, cap=content.cap + 1),
        "a position beyond the answer": small_release(content, position=2048),
        "no log entry": small_release(content),
    }[fault]
    release = world.message(MessageType.HOLDER_RELEASE, body, content, OVERSIGHT, LAKESIDE)
    await world.hand_in(LAKESIDE, release)
    assert node.state_of(release)[0] == ("waiting" if fault == "no log entry" else "refused")
    assert node.rows(stubs) == []
    assert "stubs" not in {row.name for row in node.rows(outbox)}
    if fault == "no log entry":
        world.broker.add(leaf_of(EntryKind.RELEASE, content.digest))
        await node.work()
        assert node.state_of(release)[0] == "done"


@pytest.mark.parametrize("did_answer", [True, False])
async def test_a_second_release_shows_no_second_list(world: World, did_answer: bool) -> None:
    """One search, one release: also for a holder that did not answer and is sent empty ones."""
    content = search_claims()
    node = await (answered_holder(world, content) if did_answer else world.holder_with_grant(content))
    world.broker.add(leaf_of(EntryKind.RELEASE, content.digest))
    first = small_release(content) if did_answer else HolderRelease(content.cap, ())
    second = small_release(content, position=6) if did_answer else HolderRelease(content.cap, ())
    for body, state in ((first, "done"), (second, "refused")):
        release = world.message(MessageType.HOLDER_RELEASE, body, content, OVERSIGHT, LAKESIDE)
        await world.hand_in(LAKESIDE, release)
        assert node.state_of(release)[0] == state
    assert the_refusal(node, release) is RefusalReason.REPLAYED
    assert len(node.rows(outbox, name="stubs")) == 1


def requester_release(content: GrantClaims, **changes: Any) -> RequesterRelease:
    values: dict[str, Any] = {
        "cap": content.cap,
        "leads": ((1, 1, Band.STRONG),),
        "holders": tuple(HolderOutcome(holder, Outcome.ANSWERED) for holder in content.holders),
    }
    return RequesterRelease(**{**values, **changes})


async def sent_search(world: World, **changes: Any) -> GrantClaims:
    content = await world.granted(**changes)
    await world.run(NORTHPORT, rounds=3)
    assert [row.state for row in world.nodes[NORTHPORT].rows(searches)] == ["sent"]
    return content


@pytest.mark.parametrize("fault", ["sender", "cap", "holders"])
async def test_a_requester_takes_no_release_that_breaks_its_grant(world: World, fault: str) -> None:
    content = await sent_search(world)
    sender = BOARD if fault == "sender" else OVERSIGHT
    faults: dict[str, dict[str, Any]] = {
        "sender": {},
        "cap": {"cap": content.cap + 1},
        "holders": {"holders": (HolderOutcome(EASTFIELD, Outcome.ANSWERED),)},
    }
    message = world.message(MessageType.REQUESTER_RELEASE, requester_release(content, **faults[fault]), content, sender, NORTHPORT)
    node = await world.hand_in(NORTHPORT, message)
    assert node.state_of(message)[0] == "refused"
    assert [(row.state, row.sealed_release) for row in node.rows(searches)] == [("sent", None)]


async def test_a_second_release_to_the_requester_changes_nothing(world: World) -> None:
    content = await world.released()
    node = world.nodes[NORTHPORT]
    before = node.rows(searches)
    message = world.message(MessageType.REQUESTER_RELEASE, requester_release(content, leads=()), content, OVERSIGHT, NORTHPORT)
    await world.hand_in(NORTHPORT, message)
    assert the_refusal(node, message) is RefusalReason.RELEASE
    assert node.rows(searches) == before


def stub_list(content: GrantClaims, index: int, agency: AgencyId = LAKESIDE, cap: int | None = None) -> StubList:
    return StubList(cap or content.cap, (Stub(index, StubRecord(bytes(15) + b"\7", agency, date(2020, 1, 1), 10)),))


@pytest.mark.parametrize("fault", ["an unknown index", "another cap", "another agency", "another sender"])
async def test_stubs_that_belong_to_no_lead(world: World, fault: str) -> None:
    content = await sent_search(world)
    release = world.message(MessageType.REQUESTER_RELEASE, requester_release(content), content, OVERSIGHT, NORTHPORT)
    node = await world.hand_in(NORTHPORT, release)
    body = {
        "an unknown index": stub_list(content, 2),
        "another cap": stub_list(content, 1, cap=content.cap + 1),
        "another agency": stub_list(content, 1, EASTFIELD),
        "another sender": stub_list(content, 1, EASTFIELD),
    }[fault]
    sender = EASTFIELD if fault == "another sender" else LAKESIDE
    message = world.message(MessageType.STUBS, body, content, sender, NORTHPORT)
    await world.hand_in(NORTHPORT, message)
    assert node.state_of(message)[0] == "refused"
    assert node.rows(leads) == []
    good = world.message(MessageType.STUBS, stub_list(content, 1), content, LAKESIDE, NORTHPORT)
    await world.hand_in(NORTHPORT, good)
    assert [row.release_index for row in node.rows(leads)] == [1]


async def test_stubs_wait_for_the_release_and_do_not_replace_one_another(world: World) -> None:
    content = await sent_search(world)
    early = world.message(MessageType.STUBS, stub_list(content, 1), content, LAKESIDE, NORTHPORT)
    node = await world.hand_in(NORTHPORT, early)
    assert node.state_of(early)[0] == "waiting"
    await world.hand_in(NORTHPORT, world.message(MessageType.REQUESTER_RELEASE, requester_release(content), content, OVERSIGHT, NORTHPORT))
    await node.work()
    (first,) = node.rows(leads)
    other = StubList(content.cap, (Stub(1, StubRecord(bytes(15) + b"\x09", LAKESIDE, date(2021, 1, 1), 1)),))
    await world.hand_in(NORTHPORT, world.message(MessageType.STUBS, other, content, LAKESIDE, NORTHPORT))
    assert node.rows(leads) == [first]
