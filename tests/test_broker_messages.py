"""What the mailbox lets in: each message that is not granted, logged, in force, addressed or whole is refused by itself."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import OperationalError

from broker import store
from broker.config import Limits
from broker.errors import RouteError
from broker.parties import RoutedGrant, check_route
from broker.tables import messages
from broker.tables import parts as stored_parts
from crypto.binary import sha256
from crypto.bodies import GrantBody
from crypto.canonical import AgencyId, SearchId
from crypto.checkpoint import Checkpoint, SignedCheckpoint, sign_checkpoint
from crypto.disclosure import Disclosure, DisclosureOutcome, DisclosureRequest
from crypto.entries import EntryKind
from crypto.epoch import Epoch
from crypto.errors import NotCanonicalError, OversizedError, PeerError, TruncatedError, VersionError
from crypto.frame import MessageHeader, read_header
from crypto.message_types import MAX_MESSAGE_BYTES, MESSAGES, MessageType, Party
from crypto.messages import Message
from crypto.notices import Refusal, RefusalReason, RevocationQuery, RevocationStatement, Standing
from crypto.parts import Part, split_message
from crypto.probe import Probe
from crypto.release import DiscoveryRelease, HolderRelease
from crypto.ring import N, Q
from crypto.wire import MessageId
from tests.broker_world import LOG_KEY, ORIGIN, ROSTER, World, entry_of, frame, node_key, open_world, other_search, problem
from tests.message_samples import header_of, message_of
from tests.sample_federation import (
    BOARD,
    EASTFIELD,
    EASTFIELD_LAW,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_BOARD,
    NORTHPORT_LAW,
    OVERSIGHT,
    claims,
    digest,
    signing_key,
    two_agency_claims,
)

CLAIMS = claims()
NOTE_BODY = Refusal(MessageId("ab" * 32), RefusalReason.LATE)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        await opened.grant()
        yield opened


async def refused(world: World, message: Message, agency: AgencyId = NORTHPORT) -> tuple[int, str]:
    """How the first part is refused; nothing of it is kept."""
    before = world.rows()
    found = problem(await world.put(message, agency))
    assert world.rows() == before
    return found


# --- the header of a first piece ---


@pytest.mark.parametrize("message_type", [MessageType.DISCLOSURE_REQUEST, MessageType.CHECKPOINT_GOSSIP])
def test_a_header_is_read_from_the_first_bytes(message_type: MessageType) -> None:
    header = header_of(message_type, checkpoint=b"x" * 100)
    note = sign_checkpoint(Checkpoint(ORIGIN, 1, digest("root")), LOG_KEY)
    message = message_of(message_type, note if message_type is MessageType.CHECKPOINT_GOSSIP else DisclosureRequest(None), header)
    data = message.to_bytes()
    assert read_header(data, len(data)) == header
    head_bytes = len(data) - len(message.body) - 64
    assert read_header(data[:head_bytes], len(data)) == header
    for cut in range(head_bytes):
        with pytest.raises((TruncatedError, VersionError)):
            read_header(data[:cut], len(data))
    for length in (len(data) - 1, len(data) + 1):
        with pytest.raises(NotCanonicalError):
            read_header(data, length)
    for length in (MESSAGES[message_type].max_bytes + 1, MAX_MESSAGE_BYTES + 1):
        with pytest.raises(OversizedError):
            read_header(data, length)


@given(st.binary(max_size=400), st.integers(0, 2**33))
def test_garbage_is_no_header(data: bytes, total_bytes: int) -> None:
    try:
        read_header(b"SM\x0b\x01\x01" + data, total_bytes)
    except PeerError:
        return
    raise AssertionError("garbage was read as a header")


# --- grant ---


async def test_a_message_of_the_search_is_queued(world: World) -> None:
    message = world.message(CLAIMS)
    reply = await world.put(message)
    assert (reply.status_code, reply.json()) == (200, {"state": "queued", "missing": []})
    assert (await world.put(message)).json() == {"state": "queued", "missing": []}
    for agency in (NORTHPORT, LAKESIDE):
        assert (await world.ask("GET", f"/v1/messages/{message.message_id}", agency=agency)).json() == {"state": "queued", "missing": []}
    assert problem(await world.ask("GET", f"/v1/messages/{message.message_id}", agency=EASTFIELD)) == (404, "not-found")


async def test_a_grant_that_is_not_logged(world: World) -> None:
    assert await refused(world, world.message(other_search(CLAIMS, 3))) == (403, "grant-not-logged")


async def test_a_grant_for_another_probe(world: World) -> None:
    """A message under a grant that differs in its probe alone: another digest, and that stands nowhere in the log."""
    assert await refused(world, world.message(replace(CLAIMS, probe_digest=digest("other probe")))) == (403, "grant-not-logged")


async def test_another_search_than_the_grants(world: World) -> None:
    message = world.message(CLAIMS, search_id=SearchId("ab" * 16))
    assert await refused(world, message) == (403, "route-not-granted")


async def test_a_grant_that_has_expired_or_not_begun(world: World) -> None:
    for moment in (CLAIMS.expires, CLAIMS.not_before - timedelta(seconds=1)):
        world.clock[0] = moment
        await world.ask("GET", "/v1/roster")  # where the clock was set back, a new prefix for nonces begins
        assert (await refused(world, world.message(CLAIMS)))[0] == 403
    world.clock[0] = CLAIMS.expires - timedelta(seconds=1)
    assert (await world.put(world.message(CLAIMS))).status_code == 200


@pytest.mark.parametrize("kind", [EntryKind.REVOCATION, EntryKind.LAPSE])
async def test_a_grant_that_the_log_ends(world: World, kind: EntryKind) -> None:
    assert (await world.put(world.message(CLAIMS))).status_code == 200
    assert (await world.post_entry(entry_of(kind, CLAIMS.digest), CLAIMS.digest, NORTHPORT_LAW)).status_code == 201
    assert (await refused(world, world.message(CLAIMS)))[0] == 403


# --- sender and recipient ---


async def test_only_the_sender_sends(world: World) -> None:
    assert await refused(world, world.message(CLAIMS), LAKESIDE) == (403, "route-not-granted")


async def test_another_holder(world: World) -> None:
    """Northport is a holder by the roster, not by this grant; a board is a custodian by the roster, not by this grant."""
    assert await refused(world, world.message(CLAIMS, recipient=NORTHPORT_BOARD)) == (403, "route-not-granted")
    assert await refused(world, world.message(CLAIMS, recipient=EASTFIELD_LAW)) == (403, "route-not-granted")


async def test_a_message_to_oneself_or_to_a_stranger(world: World) -> None:
    assert await refused(world, world.message(CLAIMS, MessageType.REFUSAL, recipient=NORTHPORT, body=NOTE_BODY)) == (
        403,
        "route-not-granted",
    )
    stranger = AgencyId("nobody-pd")
    assert await refused(world, world.message(CLAIMS, MessageType.REFUSAL, recipient=stranger, body=NOTE_BODY)) == (
        403,
        "route-not-granted",
    )


ROLES: dict[Party, frozenset[AgencyId]] = {
    Party.REQUESTER: frozenset({NORTHPORT}),
    Party.HOLDER: frozenset({EASTFIELD, LAKESIDE}),
    Party.CUSTODIAN: frozenset({BOARD, OVERSIGHT}),
    Party.COMBINING_CUSTODIAN: frozenset({OVERSIGHT}),
    Party.LEGAL_OFFICE: frozenset({NORTHPORT_LAW}),
    Party.DISCOVERY: frozenset({NORTHPORT_LAW}),
    Party.ANYBODY: frozenset({NORTHPORT, NORTHPORT_LAW, EASTFIELD, LAKESIDE, BOARD, OVERSIGHT}),
}
"""Who is who in the sample grant, written out by hand."""


@pytest.mark.parametrize("message_type", [message_type for message_type in MessageType if MESSAGES[message_type].in_search])
def test_every_type_passes_between_its_parties_only(world_grant: RoutedGrant, message_type: MessageType) -> None:
    """Every type from every agency to every agency of the roster."""
    spec = MESSAGES[message_type]
    agencies = [agency.agency_id for agency in ROSTER.agencies]
    for sender in agencies:
        for recipient in agencies:
            header = MessageHeader(message_type, CLAIMS.search_id, CLAIMS.digest, sender, recipient, 1, CLAIMS.not_before)
            allowed = sender != recipient and sender in ROLES[spec.sender] and any(recipient in ROLES[party] for party in spec.recipients)
            if allowed:
                check_route(header, world_grant, ROSTER)
            else:
                with pytest.raises(RouteError):
                    check_route(header, world_grant, ROSTER)


@pytest.fixture
def world_grant() -> RoutedGrant:
    return RoutedGrant(
        digest=CLAIMS.digest,
        search_id=CLAIMS.search_id,
        requesting_agency=CLAIMS.requesting_agency,
        originating_agency=CLAIMS.originating_agency,
        holders=CLAIMS.holders,
        custodians=CLAIMS.custodians,
        combiner=CLAIMS.combiner,
        not_before=CLAIMS.not_before,
        expires=CLAIMS.expires,
    )


async def test_messages_of_every_party_pass(world: World) -> None:
    """One real message on every leg."""
    legs = [
        world.message(CLAIMS, MessageType.GRANT, NORTHPORT, EASTFIELD, GrantBody(b"token")),
        world.message(CLAIMS, MessageType.GRANT, NORTHPORT, BOARD, GrantBody(b"token")),
        world.message(CLAIMS, MessageType.DISCLOSURE, LAKESIDE, NORTHPORT, Disclosure(DisclosureOutcome.NOT_ASKED)),
        world.message(CLAIMS, MessageType.HOLDER_RELEASE, OVERSIGHT, LAKESIDE, HolderRelease(20, ())),
        world.message(
            CLAIMS,
            MessageType.DISCOVERY_RELEASE,
            OVERSIGHT,
            NORTHPORT_LAW,
            DiscoveryRelease(cap=20, records=9, compared=9, threshold_milli=500, leads=()),
        ),
        world.message(CLAIMS, MessageType.REVOCATION_QUERY, BOARD, NORTHPORT_LAW, RevocationQuery(digest("nonce"))),
        world.message(
            CLAIMS,
            MessageType.REVOCATION_STATEMENT,
            NORTHPORT_LAW,
            BOARD,
            RevocationStatement(digest("nonce"), Standing.STANDS, CLAIMS.not_before),
        ),
        world.message(CLAIMS, MessageType.REFUSAL, BOARD, EASTFIELD, NOTE_BODY),
    ]
    for message in legs:
        reply = await world.put(message, message.header.sender)
        assert reply.json()["state"] == "queued", (message.header.message_type, reply.text)
    assert await refused(world, world.message(CLAIMS, MessageType.HOLDER_RELEASE, BOARD, LAKESIDE, HolderRelease(20, ())), BOARD) == (
        403,
        "route-not-granted",
    )


async def test_the_originating_office_is_asked_too(tmp_path: Path) -> None:
    async with open_world(tmp_path / "two") as world:
        content = await world.grant(two_agency_claims())
        for office in (NORTHPORT_LAW, EASTFIELD_LAW):
            message = world.message(content, MessageType.REVOCATION_QUERY, BOARD, office, RevocationQuery(digest("nonce")))
            assert (await world.put(message, BOARD)).json()["state"] == "queued"


# --- checkpoint ---


async def test_a_checkpoint_of_this_log_passes_now_and_later(world: World) -> None:
    head = (await world.head()).to_bytes()
    assert (await world.put(world.message(CLAIMS, checkpoint=head))).status_code == 200
    await world.post_entry(entry_of(EntryKind.REFUSAL, CLAIMS.digest, LAKESIDE), CLAIMS.digest, LAKESIDE)
    assert (await world.put(world.message(CLAIMS, checkpoint=head))).status_code == 200


@pytest.mark.parametrize(
    "note",
    [
        sign_checkpoint(Checkpoint(ORIGIN, 1, digest("fork")), LOG_KEY),
        sign_checkpoint(Checkpoint(ORIGIN, 2, digest("a log that goes on elsewhere")), LOG_KEY),
        sign_checkpoint(Checkpoint("log.example.org/2025", 1, digest("other")), LOG_KEY),
        sign_checkpoint(Checkpoint.empty(ORIGIN), signing_key("not the log")),
        None,
    ],
)
async def test_a_checkpoint_that_is_not_on_this_log_is_a_fork(world: World, note: SignedCheckpoint | None) -> None:
    data = b"no note" if note is None else note.to_bytes()
    assert await refused(world, world.message(CLAIMS, checkpoint=data)) == (409, "log-fork")


# --- numbers ---


async def test_a_number_belongs_to_one_message(world: World) -> None:
    first = world.message(CLAIMS, sequence=1)
    second = world.message(CLAIMS, sequence=1)
    assert first.message_id != second.message_id
    assert (await world.put(first)).status_code == 200
    assert await refused(world, second) == (409, "sequence-used")
    assert (await world.put(world.message(CLAIMS, sequence=1, recipient=EASTFIELD))).status_code == 200
    lease = (await world.lease(LAKESIDE))[0]
    await world.acknowledge(lease, LAKESIDE)
    assert await refused(world, second) == (409, "sequence-used")
    assert (await world.put(first)).json()["state"] == "delivered"


# --- parts ---


@pytest.fixture
def long(world: World) -> Message:
    """Two parts: the probe of an embedding of 512 dimensions, its words random."""
    message = world.message(CLAIMS, MessageType.PROBE, body=long_probe())
    assert len(list(split_message(message))) == 2
    return message


def long_probe() -> Probe:
    words = np.random.default_rng(1).integers(0, Q // 2, (513, N), dtype=np.uint32)
    return Probe(Epoch("2026-11"), digest("model"), words)


async def test_parts_in_any_order_after_the_first(world: World, long: Message) -> None:
    assert problem(await world.put(long, numbers=[1])) == (409, "part-order")
    assert world.rows()["messages"] == 0
    reply = await world.put(long, numbers=[0])
    assert reply.json() == {"state": "incomplete", "missing": [1]}
    assert (await world.put(long, numbers=[0])).json() == {"state": "incomplete", "missing": [1]}
    assert (await world.ask("GET", f"/v1/messages/{long.message_id}")).json() == {"state": "incomplete", "missing": [1]}
    assert await world.lease(LAKESIDE) == []
    assert (await world.put(long, numbers=[1])).json() == {"state": "queued", "missing": []}
    assert len(await world.lease(LAKESIDE)) == 1


async def test_a_part_that_contradicts_what_is_stored(world: World, long: Message) -> None:
    parts = list(split_message(long))
    await world.put(long, numbers=[0])
    other = replace(parts[0], piece=parts[0].piece[:-1] + b"?").to_bytes()
    shorter = Part(parts[1].message_id, 1, parts[1].total_bytes - 1, parts[1].piece[:-1]).to_bytes()
    before = world.rows()
    assert problem(await world.put_part(long.message_id, 0, other)) == (409, "part-conflict")
    assert problem(await world.put_part(long.message_id, 1, shorter)) == (409, "part-conflict")
    assert problem(await world.put_part(long.message_id, 1, parts[1].to_bytes(), LAKESIDE)) == (409, "part-conflict")
    assert problem(await world.put_part(long.message_id, 0, parts[1].to_bytes())) == (400, "request-malformed")
    assert problem(await world.put_part("ab" * 32, 1, parts[1].to_bytes())) == (400, "request-malformed")
    assert world.rows() == before


async def test_a_whole_that_does_not_hash_to_its_id_is_forgotten(world: World, long: Message) -> None:
    parts = list(split_message(long))
    await world.put(long, numbers=[0])
    assert problem(await world.put_part(long.message_id, 1, spoil(parts[1]).to_bytes()))[0] == 400
    assert world.rows()["messages"] == world.rows()["parts"] == 0
    assert (await world.put(long)).json()["state"] == "queued"


def spoil(part: Part) -> Part:
    return replace(part, piece=part.piece[:-1] + bytes([part.piece[-1] ^ 1]))


async def test_what_was_checked_of_forgotten_parts_counts_for_none_that_come_after_them(world: World, long: Message) -> None:
    parts = list(split_message(long))
    await world.put(long, numbers=[0])
    async with world.services.store.writing() as connection:
        await connection.execute(delete(messages))
    assert (await world.put_part(long.message_id, 0, spoil(parts[0]).to_bytes())).status_code == 200
    assert problem(await world.put_part(long.message_id, 1, parts[1].to_bytes()))[0] == 400
    assert (await world.put(long)).json()["state"] == "queued"


async def test_what_was_checked_of_a_part_that_was_not_stored_does_not_count(
    world: World, long: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = list(split_message(long))
    await world.put(long, numbers=[0])

    def full_disk(*_: object) -> None:
        raise OperationalError("COMMIT", None, sqlite3.OperationalError("database or disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(Connection, "commit", full_disk)
        assert (await world.put(long, numbers=[1])).status_code == 503
    assert (await world.ask("GET", f"/v1/messages/{long.message_id}")).json() == {"state": "incomplete", "missing": [1]}
    assert problem(await world.put_part(long.message_id, 1, spoil(parts[1]).to_bytes()))[0] == 400


async def test_a_broker_that_died_before_the_check_of_the_whole_asks_for_a_part_again(tmp_path: Path) -> None:
    """Every part is stored, and the process ends before the message is checked: any part that comes again brings the check about."""
    for number in range(2):
        folder = tmp_path / str(number)
        async with open_world(folder) as world:
            await world.grant()
            message = world.message(CLAIMS, MessageType.PROBE, body=long_probe())
            parts = list(split_message(message))
            await world.put(message, numbers=[0])
            async with world.services.store.writing() as connection:
                await connection.execute(insert(stored_parts).values(message_id=message.message_id, number=1, piece=parts[1].piece))
        async with open_world(folder, with_roster=False) as world:
            assert await world.lease(LAKESIDE) == []
            assert (await world.ask("GET", f"/v1/messages/{message.message_id}")).json() == {"state": "incomplete", "missing": [1]}
            assert (await world.put(message, numbers=[number])).json() == {"state": "queued", "missing": []}
            assert len(await world.lease(LAKESIDE)) == 1


async def test_a_queued_message_waited_for_the_disk_and_its_parts_did_not(
    world: World, long: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed on a message's way into the mailbox, and when the disk was waited for."""
    seen: list[str] = []
    commit = Connection.commit

    def noting(connection: Connection) -> None:
        seen.append(connection.execute(select(messages.c.state).where(messages.c.message_id == long.message_id)).scalar() or "")
        commit(connection)

    monkeypatch.setattr(Connection, "commit", noting)
    monkeypatch.setattr(store, "_sync_data", lambda _descriptor: seen.append("disk"))
    await world.put(long)
    assert seen == ["incomplete", "queued", "disk"]
    await world.put(long)
    assert seen[3:] == ["queued", "disk", "queued", "disk"]


async def test_its_recipient_need_not_wait_for_the_senders_promise(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is handed out while the disk is waited for; the sender hears that it is kept only after."""
    on_disk = threading.Event()
    monkeypatch.setattr(store, "_sync_data", lambda _descriptor: on_disk.wait(20))
    message = world.message(CLAIMS)
    sending = asyncio.ensure_future(world.put(message))
    async with asyncio.timeout(20):
        while not await world.lease(LAKESIDE):
            await asyncio.sleep(0.01)
    assert not sending.done()
    on_disk.set()
    assert (await sending).json()["state"] == "queued"


async def test_a_disk_that_fails_is_no_promise(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError("no space left")

    message = world.message(CLAIMS)
    with monkeypatch.context() as broken:
        broken.setattr(store, "_sync_data", fails)
        assert (await world.put(message)).status_code >= 500
    assert (await world.put(message)).json()["state"] == "queued"


async def test_a_frame_that_its_sender_did_not_sign_is_forgotten(world: World) -> None:
    header = world.header(CLAIMS, MessageType.REFUSAL, NORTHPORT, LAKESIDE)
    message = frame(header, NOTE_BODY, node_key(EASTFIELD))
    assert (await refused(world, message))[0] == 403
    whole = frame(header, NOTE_BODY, node_key(NORTHPORT))
    data = whole.to_bytes()[:-1] + bytes([whole.signature[-1] ^ 1])
    forged = Message.from_bytes(data)
    assert (await refused(world, forged))[0] == 403
    assert (await world.put(whole)).json()["state"] == "queued"


async def test_an_envelope_of_another_message_is_forgotten(world: World) -> None:
    """The frame is signed and hashes to its id, but carries an envelope made for another recipient."""
    to_lakeside, to_eastfield = world.message(CLAIMS), world.message(CLAIMS, recipient=EASTFIELD)
    spliced = to_lakeside.to_bytes().replace(to_lakeside.body, to_eastfield.body)
    message_id = MessageId(sha256(spliced).hex())
    before = world.rows()
    reply = await world.put_part(message_id, 0, Part(message_id, 0, len(spliced), spliced).to_bytes())
    assert problem(reply)[0] == 400
    assert world.rows() == before


# --- room ---


async def test_a_recipient_that_is_away_does_not_fill_the_disk(tmp_path: Path) -> None:
    limits = Limits(max_bytes_without_search=2000, look_again_s=0.05)
    async with open_world(tmp_path / "small", limits=limits) as world:
        await world.grant()
        note = await world.head()
        statuses = []
        for _ in range(8):
            message = world.message(CLAIMS, MessageType.CHECKPOINT_GOSSIP, NORTHPORT, LAKESIDE, note)
            statuses.append((await world.put(message)).status_code)
        assert statuses[0] == 200
        assert statuses[-1] == 507
        assert (await world.put(world.message(CLAIMS))).status_code == 200  # a search is not held up by gossip


async def test_gossip_passes_between_agencies_of_the_roster(world: World) -> None:
    note = await world.head()
    message = world.message(CLAIMS, MessageType.CHECKPOINT_GOSSIP, NORTHPORT_BOARD, EASTFIELD_LAW, note)
    assert (await world.put(message, NORTHPORT_BOARD)).json()["state"] == "queued"
    leases = await world.lease(EASTFIELD_LAW)
    assert (leases[0]["search_id"], leases[0]["message_type"]) == (None, "checkpoint-gossip")
    stranger = world.message(CLAIMS, MessageType.CHECKPOINT_GOSSIP, NORTHPORT, AgencyId("nobody-pd"), note)
    assert (await refused(world, stranger))[0] == 403
