"""The node's side of the wire against the real broker: every call of the link, and roster, log and witnesses over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from agency_node.errors import BrokerRefusedError
from agency_node.follower import LogFollower
from agency_node.keyring import NODE_KEY_FILE, WITNESS_KEY_FILE, Keyring
from agency_node.link import BrokerLink
from agency_node.parties import Parties
from agency_node.pieces import Pieces
from agency_node.transport import Transport
from agency_node.vault import Vault
from agency_node.witness import Witness
from broker.app import create_app
from broker.services import Services
from crypto.bodies import AnswerStatement, OpenedBody
from crypto.canonical import AgencyId
from crypto.entries import EntryKind
from crypto.errors import RevokedError, WitnessError
from crypto.grant_token import without_reason
from crypto.ledger import check_inclusion, leaf_hash
from crypto.mailbox_receipt import MailboxReceipt
from crypto.message_types import MessageType
from crypto.opening import Y16
from crypto.parts import PIECE_BYTES, split_message
from crypto.ring import N
from crypto.sealing_key import Week
from tests.broker_world import World, entry_of, grant_entry, make_broker
from tests.node_samples import LOG, Clock, store
from tests.sample_federation import (
    BOARD,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_LAW,
    OVERSIGHT,
    claims,
    digest,
    manifest,
    root_set,
    roster,
    sign_roster,
    signing_key,
    token_of,
)

BASE = "http://broker.test"
CLAIMS = claims()
VAULT = Vault(bytes(range(32)))


@dataclass
class Node:
    """One agency's side: link, store, trust, log, keys."""

    agency: AgencyId
    link: BrokerLink
    keyring: Keyring
    parties: Parties
    follower: LogFollower
    witness: Witness


@dataclass
class Federation:
    """The real broker, and nodes that are made when they are asked for."""

    folder: Path
    clock: Clock
    network: httpx.ASGITransport
    world: World

    def link(self, agency: AgencyId, key: str | None = None) -> BrokerLink:
        return BrokerLink(Transport(BASE, agency, signing_key(key or f"{agency} node"), self.clock, transport=self.network))

    async def node(self, agency: AgencyId) -> Node:
        folder = self.folder / agency
        Keyring.create(folder, VAULT, witness=True)
        for path, name, purpose in ((NODE_KEY_FILE, "node", "node-key"), (WITNESS_KEY_FILE, "witness", "witness-key")):
            (folder / path).write_bytes(VAULT.seal(purpose, signing_key(f"{agency} {name}").export_secret()))
        engine, link = store(folder), self.link(agency)
        keyring = Keyring(folder, VAULT, engine, agency, self.clock)
        parties = Parties(engine, link, root_set().fingerprint, self.clock)
        await parties.refresh()
        follower = LogFollower(engine, link, parties, self.clock)
        return Node(agency, link, keyring, parties, follower, Witness(engine, link, parties, keyring, self.clock))


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    clock = Clock()
    config = make_broker(tmp_path / "broker")
    app = create_app(config, clock=clock)
    async with app.router.lifespan_context(app):
        services: Services = app.state.services
        await services.rosters.install(sign_roster(roster()), clock())
        network = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=network, base_url=BASE) as client:
            yield Federation(tmp_path, clock, network, World(config, services, client, [clock()]))


async def enter_grant(link: BrokerLink) -> int:
    return await link.post_grant(without_reason(token_of(CLAIMS)), grant_entry(CLAIMS.digest).to_bytes())


async def test_the_roster_reaches_the_node_and_no_other_key_reaches_the_broker(federation: Federation) -> None:
    node = await federation.node(NORTHPORT)
    assert node.parties.roster() == roster()
    assert await node.link.roster_version(1) == sign_roster(roster())
    with pytest.raises(BrokerRefusedError) as caught:
        await federation.link(NORTHPORT, key="another").roster()
    assert (caught.value.status, caught.value.problem) == (401, "request-unsigned")


async def test_statements_pass_from_agency_to_agency(federation: Federation) -> None:
    board, northport, lakeside = [await federation.node(agency) for agency in (BOARD, NORTHPORT, LAKESIDE)]
    week, search = board.keyring.current_week(), northport.keyring.for_search(CLAIMS.search_id)
    await board.link.put_sealing_key(board.keyring.document(week.key_id))
    await northport.link.put_sealing_key(northport.keyring.document(search.key_id))
    await lakeside.link.put_manifest(manifest().sign(signing_key(f"{LAKESIDE} node")))
    assert await northport.parties.week_key(BOARD) == week
    assert await lakeside.parties.search_key(NORTHPORT, CLAIMS.search_id) == search
    assert await board.parties.manifest(LAKESIDE) == manifest()
    for missing in (board.link.manifest(NORTHPORT), board.link.sealing_key(BOARD, Week("2026-W40")), board.link.roster_version(9)):
        with pytest.raises(BrokerRefusedError) as caught:
            await missing
        assert caught.value.status == 404


async def test_a_grant_is_entered_once_cosigned_acted_on_and_revoked(federation: Federation) -> None:
    northport, lakeside, law = [await federation.node(agency) for agency in (NORTHPORT, LAKESIDE, NORTHPORT_LAW)]
    witnesses = [await federation.node(agency) for agency in (BOARD, OVERSIGHT)]
    leaf = grant_entry(CLAIMS.digest).to_bytes()
    terms = without_reason(token_of(CLAIMS))
    index = await northport.link.post_grant(terms, leaf)
    assert await northport.link.post_grant(terms, leaf) == index == 1  # after the roster
    with pytest.raises(WitnessError):
        await lakeside.follower.check_act(CLAIMS, CLAIMS.digest, wait_s=0)
    for witness in witnesses:
        assert await witness.witness.step()
        assert not await witness.witness.step()
    allowed = await lakeside.follower.check_act(CLAIMS, CLAIMS.digest, wait_s=0)
    check_inclusion(leaf_hash(leaf), index, allowed.size, await lakeside.link.inclusion(index, allowed.size), allowed.root)
    assert lakeside.follower.latest is not None
    await law.follower.connect(lakeside.follower.latest.to_bytes())

    revocation = entry_of(EntryKind.REVOCATION, CLAIMS.digest).to_bytes()
    assert await law.link.enter(revocation, CLAIMS.digest) == await law.link.enter(revocation, CLAIMS.digest) == 2
    federation.clock.pass_by(seconds=3)
    assert [await witness.witness.step() for witness in witnesses] == [True, True]
    with pytest.raises(RevokedError):
        await lakeside.follower.check_act(CLAIMS, CLAIMS.digest, wait_s=0)


async def test_witnesses_that_run_serve_an_act_that_waits(federation: Federation) -> None:
    lakeside, northport = [await federation.node(agency) for agency in (LAKESIDE, NORTHPORT)]
    stop = asyncio.Event()
    running = [asyncio.create_task((await federation.node(agency)).witness.run(stop)) for agency in (BOARD, OVERSIGHT)]
    act = asyncio.create_task(lakeside.follower.check_act(CLAIMS, CLAIMS.digest, wait_s=20))
    await asyncio.sleep(0.05)
    assert not act.done()
    await enter_grant(northport.link)
    federation.clock.pass_by(seconds=3)
    assert (await act).size == 2
    stop.set()
    federation.world.services.bell.stop()  # ends the witnesses' long polls
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_the_log_says_when_there_is_no_such_head_or_proof(federation: Federation) -> None:
    link = federation.link(NORTHPORT)
    assert await link.checkpoint(min_size=2) is None
    assert await link.leaves(1, 10) == (1, [])  # of the roster's entry alone
    assert (await link.pending(-1, 0)).note.checkpoint.size == 1
    for ask in (link.consistency(0, 9), link.inclusion(1, 2)):
        with pytest.raises(BrokerRefusedError) as caught:
            await ask
        assert caught.value.problem == "log-size-unknown"


async def test_a_message_is_sent_leased_fetched_and_deleted_with_a_receipt(federation: Federation) -> None:
    northport, lakeside = federation.link(NORTHPORT), federation.link(LAKESIDE)
    await enter_grant(northport)
    message = federation.world.message(CLAIMS)
    data = message.to_bytes()
    assert await northport.message_state(message.message_id) is None
    assert (await northport.send(Pieces.of(data))).state == (await northport.send(Pieces.of(data))).state == "queued"
    (lease,) = await lakeside.lease()
    assert await lakeside.lease() == []
    assert (lease.message_id, lease.message_type, lease.sender) == (message.message_id, MessageType.DISCLOSURE_REQUEST, NORTHPORT)
    assert (lease.search_id, lease.total_bytes) == (CLAIMS.search_id, len(data))
    taken: list[bytes] = []
    await lakeside.fetch(lease, taken.append)
    assert b"".join(taken) == data
    receipt = await lakeside.acknowledge(lease)
    assert receipt == await lakeside.acknowledge(lease)
    assert MailboxReceipt.read(receipt, LOG).recipient == LAKESIDE
    state = await northport.message_state(message.message_id)
    assert state is not None
    assert (state.state, state.missing, state.receipt) == ("delivered", (), receipt)
    with pytest.raises(BrokerRefusedError):
        await lakeside.fetch(lease, taken.append)


async def test_a_poll_wakes_when_a_message_comes(federation: Federation) -> None:
    northport, lakeside = federation.link(NORTHPORT), federation.link(LAKESIDE)
    await enter_grant(northport)
    poll = asyncio.create_task(lakeside.lease(wait_s=20))
    await asyncio.sleep(0.05)
    assert not poll.done()
    await northport.send(Pieces.of(federation.world.message(CLAIMS).to_bytes()))
    assert len(await poll) == 1


async def test_a_long_message_goes_on_where_it_was_cut_off(federation: Federation) -> None:
    northport, board = federation.link(NORTHPORT), federation.link(BOARD)
    await enter_grant(northport)
    opened = Y16(digest("answer"), np.zeros(N * (2 * PIECE_BYTES // (2 * N) + 1), np.uint16))
    statement = AnswerStatement.sign(CLAIMS.search_id, CLAIMS.digest, LAKESIDE, opened.answer_digest, signing_key(f"{LAKESIDE} node"))
    body = OpenedBody(statement, opened)
    message = federation.world.message(CLAIMS, MessageType.OPENED_SCORES, NORTHPORT, BOARD, body)
    first, *others = split_message(message)
    assert len(others) == 2
    await federation.world.put_part(first.message_id, 0, first.to_bytes())
    state = await northport.message_state(message.message_id)
    assert state is not None
    assert (state.state, state.missing) == ("incomplete", (1, 2))
    assert (await northport.send(Pieces.of(message.to_bytes()))).state == "queued"
    (lease,) = await board.lease()
    assert lease.parts == 3
    taken: list[bytes] = []
    await board.fetch(lease, taken.append)
    assert b"".join(taken) == message.to_bytes()
