"""The hub as an adversary, over whole searches: it replays, misdelivers, rewrites, invents, swallows, inflates, and is caught each time.

Every test says who catches it and how, and looks at what came of it: nothing of a search begun or released beside its rules, no record
shown, a row in the ledger of whoever noticed, the sentence that row or search shows. Single lies to single nodes are in
`test_adversary_node_mail` (mail, forks, hidden revocations) and `test_adversary_node_broker` (keys, rosters); rosters and the log in
`test_roster_change`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agency_node.gallery_tables import stubs
from agency_node.replies import Lease
from agency_node.requester.leads import ask_for, list_leads
from agency_node.tables import answers, custody, held_grants, inbox, ledger, outbox, search_holders, searches
from crypto.canonical import AgencyId, GrantId
from crypto.entries import EntryKind, LogEntry
from crypto.errors import ContextError, SenderSignatureError
from crypto.grant_claims import GrantClaims
from crypto.lawful_steps import explain
from crypto.message_types import MessageType
from crypto.messages import Message, sign_message
from crypto.notices import Refusal, RefusalReason
from tests.face_samples import plain_picture
from tests.node_samples import cosignature, head_of
from tests.node_world import World, WorldNode, nothing_of, search_claims
from tests.node_world_broker import Mailbox, leaf_of
from tests.sample_federation import BOARD, EASTFIELD, LAKESIDE, NORTHPORT, NORTHPORT_BOARD, OVERSIGHT, digest, signing_key

PARTIES = (NORTHPORT, LAKESIDE, OVERSIGHT)
BROKERS_OWN = signing_key("the broker's signing key")
CHANGES = (inbox, outbox, held_grants, answers, custody, searches, search_holders, stubs)
"""What a node would have to write if anything came of a lie."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in PARTIES:
        await made.node(agency)
    yield made
    made.close()


def state(node: WorldNode) -> list[list[Any]]:
    return [node.rows(table) for table in CHANGES]


def leads_of(world: World, content: GrantClaims) -> list[AgencyId | None]:
    node = world.nodes[NORTHPORT]
    return [lead.agency for lead in list_leads(node.engine, node.vault, content.search_id)]


def refusals_in(node: WorldNode) -> list[str]:
    """The name of every refused message in the node's ledger, in order: what is said of bytes that came to nothing."""
    return [row.detail.rpartition(": ")[2] for row in node.rows(ledger) if row.event == "refused message"]


FORGED, MIXED_UP = explain(SenderSignatureError).name, explain(ContextError).name


# --- replaying, misdelivering -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [timedelta(0), timedelta(days=3)], ids=["at once", "when it is over"])
async def test_everything_replayed_after_the_end_changes_nothing(world: World, later: timedelta) -> None:
    """Caught by every node: its inbox knows each message by the hash of its bytes. No second answer, share, release or disclosure."""
    content = await world.released()
    world.clock.now += later
    await world.run(rounds=2)  # what falls due with time alone
    before = {agency: state(world.nodes[agency]) for agency in PARTIES}
    carried = [(one.header.recipient, one) for one in world.broker.carried]
    assert len({one.header.message_type for _, one in carried}) >= 8
    for recipient, message in carried:
        world.post(recipient, message, message)
    await world.run(rounds=3)
    assert {agency: state(world.nodes[agency]) for agency in PARTIES} == before
    assert leads_of(world, content) == [LAKESIDE]
    assert world.broker.carried == [message for _, message in carried]


async def test_every_message_handed_to_every_other_party_is_read_by_nobody(world: World) -> None:
    """Caught by whoever gets it: the signed frame names its recipient. One ledger row each, no answer, nothing sealed is opened."""
    content = await world.released()
    before = {agency: state(world.nodes[agency]) for agency in PARTIES}
    wrong = [(agency, one) for one in world.broker.carried for agency in PARTIES if agency != one.header.recipient]
    counts = dict.fromkeys(PARTIES, 0)
    for agency, message in wrong:
        world.post(agency, message)
        counts[agency] += 1
    for _ in range(4 + max(counts.values()) // 32):  # so many are taken at once, and some wait for a turn
        await world.run(rounds=1)
    for agency in PARTIES:
        node = world.nodes[agency]
        assert state(node) == before[agency]
        assert refusals_in(node) == ["RefusedByUsError"] * counts[agency]
    assert leads_of(world, content) == [LAKESIDE]


# --- rewriting --------------------------------------------------------------------------------------------------------


def taken_from(world: World, recipient: AgencyId, kind: MessageType) -> list[Message]:
    """The recipient's messages of that type, out of the mailbox into the broker's hand."""
    box = world.broker.boxes[recipient]
    taken = [one for one in map(Message.from_bytes, box) if one.header.message_type is kind]
    box[:] = [data for data in box if Message.from_bytes(data) not in taken]
    return taken


def spliced(head: Message, body: Message, signature: bytes) -> bytes:
    """The frame of one message around the body of another: bytes, because no `Message` can be made of them."""
    data = head.to_bytes()
    before = data[: len(data) - len(head.signature) - len(head.body) - 4]
    return before + len(body.body).to_bytes(4, "big") + body.body + signature


def brokers_signature(message: Message) -> bytes:
    """A signature of a key that the broker has."""
    head = replace(message.header, message_type=MessageType.REFUSAL)
    return sign_message(head, Refusal(message.message_id, RefusalReason.LATE), sender_signing_key=BROKERS_OWN).signature


async def two_holders(world: World) -> GrantClaims:
    """A search at Eastfield and Lakeside, until both have answered."""
    await world.node(EASTFIELD)
    content = await world.granted(holders=(EASTFIELD, LAKESIDE))
    await world.run(NORTHPORT, rounds=3)
    await world.run(EASTFIELD, LAKESIDE, rounds=2)
    return content


async def test_answers_swapped_between_holders_are_nobodys(world: World) -> None:
    """Caught by the requester: the frame is signed with the holder's node key. It opens neither; the true ones afterwards it does."""
    content = await two_holders(world)
    node = world.nodes[NORTHPORT]
    true = taken_from(world, NORTHPORT, MessageType.ANSWER)
    assert {one.header.sender for one in true} == {EASTFIELD, LAKESIDE}
    first, second = true
    for one, other in ((first, second), (second, first)):
        world.post(NORTHPORT, *(spliced(one, other, signature) for signature in (one.signature, other.signature, brokers_signature(one))))
        world.post(NORTHPORT, spliced(one, one, brokers_signature(one)))
    await world.run(NORTHPORT, rounds=2)
    assert [row.state for row in node.rows(search_holders)] == ["sent", "sent"]
    assert refusals_in(node) == [*[MIXED_UP] * 3, FORGED] * 2
    world.post(NORTHPORT, *true)
    await world.run(rounds=5)
    assert set(leads_of(world, content)) == {EASTFIELD, LAKESIDE}


async def test_answers_swapped_between_searches_are_nobodys(world: World) -> None:
    """Caught by the requester: the signed frame names search and grant. Each search then ends with its own answer."""
    contents = [await world.granted(), await world.granted(still=plain_picture(9), case_number="26-CF-102")]
    await world.run(NORTHPORT, rounds=3)
    await world.run(LAKESIDE, rounds=3)
    node, true = world.nodes[NORTHPORT], taken_from(world, NORTHPORT, MessageType.ANSWER)
    assert {one.header.search_id for one in true} == {content.search_id for content in contents}
    for one, other in (true, true[::-1]):
        world.post(NORTHPORT, spliced(one, other, one.signature), spliced(one, one, brokers_signature(one)))
    await world.run(NORTHPORT, rounds=2)
    assert refusals_in(node) == [MIXED_UP, FORGED] * 2
    assert {row.state for row in node.rows(search_holders)} == {"sent"}
    world.post(NORTHPORT, *true)
    await world.run(rounds=5)
    assert [len(leads_of(world, content)) > 0 for content in contents] == [True, False]  # the second face is in no gallery
    assert {row.state for row in node.rows(searches)} == {"released"}


async def test_every_body_cut_or_inflated_is_none(world: World) -> None:
    """Caught by whoever it is for, before anything of it is parsed or opened: a frame says its length, and is signed whole."""
    content = await world.released()
    before = {agency: state(world.nodes[agency]) for agency in PARTIES}
    counts = dict.fromkeys(PARTIES, 0)
    for message in [one for one in world.broker.carried if one.header.recipient in PARTIES]:
        data = message.to_bytes()
        for spoilt in (data[:-1], data[:-64], data[: len(data) // 2], data[:40], data + b"\0", data + bytes(64), data + data):
            world.post(message.header.recipient, spoilt)
            counts[message.header.recipient] += 1
    for _ in range(1 + max(counts.values()) // 8):
        await world.run(rounds=1)
    for agency in PARTIES:
        node = world.nodes[agency]
        assert state(node) == before[agency]
        assert len(refusals_in(node)) == counts[agency] > 0
    assert leads_of(world, content) == [LAKESIDE]


# --- what it says of a message ----------------------------------------------------------------------------------------


async def test_what_the_broker_says_of_sender_and_search_counts_for_nothing(world: World) -> None:
    """Nobody needs to catch it: a node goes by the signed frame, and the ledger names who really sent."""
    content, node = search_claims(), world.nodes[LAKESIDE]
    await world.requester_with_key(content)
    world.broker.enter_grant(content.digest)
    true = node.mail.lease

    async def lying(wait_s: int = 0, limit: int = 32) -> list[Lease]:
        said = await true(wait_s, limit)
        return [replace(one, sender=BOARD, message_type=MessageType.PROBE, search_id=search_claims(3).search_id) for one in said]

    node.mail.lease = lying  # type: ignore[method-assign]
    message = world.grant(content, LAKESIDE)
    await world.hand_in(LAKESIDE, message)
    assert node.state_of(message)[0] == "done"
    rows = [(row.event, row.actor, row.search_id) for row in node.rows(ledger)]
    assert ("handled grant", NORTHPORT, content.search_id) in rows


# --- grants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", [LAKESIDE, OVERSIGHT])
async def test_an_invented_grant_is_taken_by_nobody(world: World, party: AgencyId) -> None:
    """Caught by holder and custodian. The broker enters it into its log, has that cosigned, and lacks one thing: the agency's node key."""
    content = replace(search_claims(), grant_id=GrantId(digest("invented")[:16].hex()))
    await world.requester_with_key(content)
    world.broker.enter_grant(content.digest)
    true = world.grant(content, party)
    node = await world.hand_in(party, spliced(true, true, brokers_signature(true)))
    assert node.rows(inbox) == []
    nothing_of(node)
    assert refusals_in(node) == [FORGED]
    assert node.types_queued() == set()


@dataclass
class EnteringMailbox(Mailbox):
    """A broker that says of every entry that it stands in the log, and enters what it likes."""

    enters: Callable[[LogEntry], bytes | None] = field(default=lambda entry: entry.to_bytes())

    async def enter(self, leaf: bytes, grant_digest: bytes) -> int:
        entered = self.enters(LogEntry.from_bytes(leaf))
        return 0 if entered is None else await super().enter(entered, grant_digest)


def entering(node: WorldNode, enters: Callable[[LogEntry], bytes | None]) -> None:
    node.mail = node.courier.link = EnteringMailbox(node.agency, node.broker, enters=enters)


ENTERED: dict[str, Callable[[LogEntry], bytes | None]] = {
    "nothing": lambda entry: None,
    "other terms": lambda entry: leaf_of(EntryKind.GRANT, search_claims(7).digest),
    "the entry of another kind": lambda entry: replace(entry, kind=EntryKind.RELEASE).to_bytes(),
}


@pytest.mark.rule("R76")
@pytest.mark.parametrize("instead", ENTERED)
async def test_a_grant_that_was_not_entered_as_it_is_asks_nobody(world: World, instead: str) -> None:
    """Caught by the requester, which reads the log to its end: no log entry, no search. No probe leaves; at its end the grant expires."""
    node = world.nodes[NORTHPORT]
    entering(node, ENTERED[instead])
    content = await world.granted()
    await world.run(rounds=4)
    (row,) = node.rows(searches)
    assert row.note == "the log is not ready: the log under this checkpoint does not hold the grant entry of this grant"
    assert world.broker.carried == []
    for agency in (LAKESIDE, OVERSIGHT):
        nothing_of(world.nodes[agency])
    world.clock.now = content.expires
    world.broker.cosign_again()
    await world.run(rounds=2)
    (row,) = node.rows(searches)
    assert (row.state, row.sealed_search_key) == ("expired", None)


@pytest.mark.rule("R76")
@pytest.mark.rule("R78")
async def test_a_release_that_was_not_entered_shows_no_record(world: World) -> None:
    """Caught by the holder: no log entry, no release. It names no handle and no day, and no photograph can be asked for."""
    swallowed: list[bytes] = []

    def enters(entry: LogEntry) -> bytes | None:
        if entry.kind is not EntryKind.RELEASE:
            return entry.to_bytes()
        swallowed.append(entry.to_bytes())
        return None

    entering(world.nodes[OVERSIGHT], enters)
    content = await world.released()
    holder, kinds = world.nodes[LAKESIDE], {one.header.message_type for one in world.broker.carried}
    assert MessageType.HOLDER_RELEASE in kinds
    assert MessageType.STUBS not in kinds
    assert holder.rows(stubs) == []
    (waiting,) = [row for row in holder.rows(inbox) if row.message_type == MessageType.HOLDER_RELEASE]
    assert (waiting.state, waiting.note) == ("waiting", "the release's log entry is not cosigned yet")
    world.broker.add(*swallowed)  # entered after all: what waited goes on
    await world.run(rounds=4)
    assert leads_of(world, content) == [LAKESIDE]


# --- the log's heads --------------------------------------------------------------------------------------------------


WITHHELD: dict[str, tuple[AgencyId, ...]] = {
    "none": (),
    "of a custodian alone": (OVERSIGHT,),
    "of others alone": (BOARD, NORTHPORT_BOARD),
    "old ones": (BOARD, OVERSIGHT),
}
"""Whose cosignatures are shown; the search's custodian is the state's oversight."""


def withhold(world: World, which: str) -> None:
    """From now on the broker shows no head that the search's witnesses cosigned lately."""
    broker, since = world.broker, world.clock()

    def cosigned_by(*_agencies: AgencyId, at: object = None) -> None:
        del at
        note, size = head_of(broker.log), len(broker.log)
        lines = {
            "none": (),
            "of a custodian alone": (OVERSIGHT,),
            "of others alone": (BOARD, NORTHPORT_BOARD),
            "old ones": (BOARD, OVERSIGHT),
        }
        moment = since if which == "old ones" else world.clock()
        broker.lines[size] = [cosignature(note, agency, moment) for agency in lines[which]]

    broker.cosigned_by = cosigned_by  # type: ignore[method-assign]
    world.clock.pass_by(minutes=11)
    broker.cosigned_by()


@pytest.mark.rule("R78")
@pytest.mark.parametrize(
    ("party", "which"),
    [(LAKESIDE, which) for which in WITHHELD] + [(party, which) for party in (NORTHPORT, OVERSIGHT) for which in ("none", "old ones")],
)
async def test_without_fresh_cosignatures_of_the_searchs_witnesses_nothing_is_done(world: World, party: AgencyId, which: str) -> None:
    """Caught by whoever is to act next: requester, holder, custodian. All waits, nothing is lost, and it goes on with the cosignatures."""
    content = await world.granted()
    before = PARTIES[: PARTIES.index(party)]
    for _ in range(4 if party != NORTHPORT else 0):
        await world.run(*before, rounds=1)
    carried = len(world.broker.carried)
    honest = world.broker.cosigned_by
    withhold(world, which)
    await world.run(party, rounds=3)
    assert [one.header.message_type for one in world.broker.carried[carried:]] == []
    nothing_decided(world.nodes[party])
    world.broker.cosigned_by = honest  # type: ignore[method-assign]
    world.broker.cosign_again()
    await world.run(rounds=7)
    assert leads_of(world, content) == [LAKESIDE]


def nothing_decided(node: WorldNode) -> None:
    """What waits says so: a search or message in its note."""
    assert node.rows(answers) == node.rows(stubs) == []
    assert {row.state for row in node.rows(custody)} <= {"open"}
    waiting = {row.note for row in (*node.rows(searches), *node.rows(inbox)) if row.note} - {"its grant has not come yet"}
    assert all(note.startswith("the log is not ready: ") for note in waiting)
    assert waiting


# --- what it makes of a person's wish ---------------------------------------------------------------------------------


async def test_a_disclosure_request_for_another_record_is_nobodys(world: World) -> None:
    """Caught by the holder: the request is sealed and signed. One person's wish is moved to another search; no photograph leaves."""
    content = await world.released()
    requester, holder = world.nodes[NORTHPORT], world.nodes[LAKESIDE]
    ask_for(requester.engine, requester.vault, content.search_id, 1, world.clock())
    await world.run(NORTHPORT, rounds=2)
    (wish,) = taken_from(world, LAKESIDE, MessageType.DISCLOSURE_REQUEST)
    data, other = wish.to_bytes(), bytes.fromhex(search_claims(3).search_id)
    world.post(LAKESIDE, data.replace(bytes.fromhex(content.search_id), other, 1), spliced(wish, wish, brokers_signature(wish)))
    before = state(holder)
    await world.run(LAKESIDE, rounds=2)
    assert state(holder) == before
    assert refusals_in(holder) == [MIXED_UP, FORGED]
    assert MessageType.DISCLOSURE not in {one.header.message_type for one in world.broker.carried}
