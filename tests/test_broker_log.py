"""The log at the broker: append-only, one head for a size, cosignatures that verify, and what becomes of a head."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from crypto.canonical import AgencyId, b64url_decode
from crypto.checkpoint import Checkpoint, NoteSignature, SignedCheckpoint, check_log_signature, sign_checkpoint
from crypto.cosign_request import CosignRequest
from crypto.entries import EntryKind, LogEntry
from crypto.errors import ConsistencyError
from crypto.grant_claims import GrantClaims
from crypto.ledger import EMPTY_ROOT, check_consistency, check_inclusion
from crypto.mirror import LogMirror
from crypto.roster_entries import AgencyRole
from crypto.witness import WitnessKey, check_checkpoint
from tests.broker_world import LOG_KEY, ORIGIN, ROSTER, WITNESSES, World, cosignature_note, entry_of, open_world, problem
from tests.sample_federation import BOARD, LAKESIDE, NORTHPORT, NORTHPORT_BOARD, OVERSIGHT, claims, digest, signing_key

CLAIMS = claims()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        yield opened


async def refusals(world: World, count: int, content: GrantClaims = CLAIMS) -> list[LogEntry]:
    """So many entries more."""
    entries = [entry_of(EntryKind.REFUSAL, content.digest, LAKESIDE) for _ in range(count)]
    for entry in entries:
        assert (await world.post_entry(entry, content.digest, LAKESIDE)).status_code == 201
    return entries


async def answers(world: World, content: GrantClaims, count: int) -> None:
    """So many entries that no act waits for."""
    for _ in range(count):
        assert (await world.post_entry(entry_of(EntryKind.ANSWER, content.digest, LAKESIDE), content.digest, LAKESIDE)).status_code == 201


async def leaves(world: World, start: int = 0, limit: int = 1000) -> tuple[int, list[bytes]]:
    reply = (await world.ask("GET", "/v1/log/leaves", agency=None, params={"start": start, "limit": limit})).json()
    return reply["size"], [b64url_decode(leaf) for leaf in reply["leaves"]]


async def proof(world: World, path: str, **params: int) -> list[bytes]:
    reply = await world.ask("GET", path, agency=None, params=params)
    assert reply.status_code == 200, reply.text
    return [bytes.fromhex(text) for text in reply.json()["proof"]]


async def pending(world: World, after_size: int = -1, wait_s: int = 0) -> SignedCheckpoint:
    reply = await world.ask("GET", "/v1/log/pending", agency=None, params={"after_size": after_size, "wait_s": wait_s})
    assert reply.status_code == 200
    return CosignRequest.from_bytes(reply.content).note


async def send_cosignature(world: World, note: SignedCheckpoint, agency: AgencyId) -> httpx.Response:
    return await world.ask("POST", "/v1/log/cosignatures", agency=agency, body=note.to_bytes())


async def cosigned(world: World, agency: AgencyId, note: SignedCheckpoint | None = None) -> httpx.Response:
    note = note or await world.head()
    return await send_cosignature(world, cosignature_note(note, agency, world.now), agency)


# --- leaves, proofs, heads ---


async def test_the_empty_log_has_a_head(world: World) -> None:
    head = await world.head()
    check_log_signature(head, ROSTER.log)
    assert (head.checkpoint.size, head.checkpoint.root) == (0, EMPTY_ROOT)
    assert (await pending(world)).checkpoint == head.checkpoint
    assert await leaves(world) == (0, [])
    assert await proof(world, "/v1/log/consistency", old=0, new=0) == []


async def test_leaves_heads_and_proofs_agree(world: World) -> None:
    """A mirror reads the log in pieces and checks every head against every other."""
    await world.grant()
    await refusals(world, 6)
    size, data = await leaves(world)
    assert size == 7
    assert [await leaves(world, start, 2) for start in range(0, 8, 2)] == [(7, data[start : start + 2]) for start in range(0, 8, 2)]
    mirror = LogMirror(data)
    head = await world.head()
    mirror.check_at(head.checkpoint)
    for old in range(8):
        root = mirror.tree.root(old)
        check_consistency(old, root, 7, head.checkpoint.root, await proof(world, "/v1/log/consistency", old=old, new=7))
    for index in range(7):
        check_inclusion(
            mirror.tree.leaf(index), index, 7, await proof(world, "/v1/log/inclusion", index=index, size=7), head.checkpoint.root
        )


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/log/consistency", {"old": 0, "new": 2}),
        ("/v1/log/consistency", {"old": 1, "new": 0}),
        ("/v1/log/inclusion", {"index": 0, "size": 2}),
        ("/v1/log/inclusion", {"index": 1, "size": 1}),
        ("/v1/log/inclusion", {"index": 0, "size": 0}),
    ],
)
async def test_sizes_that_the_log_has_not(world: World, path: str, params: dict[str, int]) -> None:
    await world.grant()
    assert problem(await world.ask("GET", path, agency=None, params=params)) == (404, "log-size-unknown")


async def test_leaves_can_only_be_added(world: World) -> None:
    """The database itself refuses; each statement breaks the log if its trigger is taken away."""
    await world.grant()
    statements = (
        "UPDATE leaves SET entry = x'00'",
        "UPDATE leaves SET position = 5",
        "DELETE FROM leaves",
        "INSERT OR REPLACE INTO leaves SELECT position, x'00', leaf_hash, subject, grant_digest FROM leaves",
        "INSERT OR REPLACE INTO leaves SELECT position + 1, x'00', leaf_hash, subject, grant_digest FROM leaves",
    )
    for statement in statements:
        with pytest.raises(IntegrityError, match="append-only"):
            async with world.services.store.writing() as connection:
                await connection.execute(text(statement))
    assert (await leaves(world))[0] == 1


async def test_a_restart_keeps_the_log(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker") as world:
        await world.grant()
        await refusals(world, 4)
        for agency in WITNESSES:
            await cosigned(world, agency)
        before = (await leaves(world), await world.head(cosignatures=2))
    async with open_world(tmp_path / "broker") as world:
        assert (await leaves(world), await world.head(cosignatures=2)) == before
        await refusals(world, 1)
        assert (await leaves(world))[0] == 6


async def test_a_leaf_without_its_head_gets_one_at_the_start(tmp_path: Path) -> None:
    """As `kill -9` leaves it between the two transactions."""
    async with open_world(tmp_path / "broker") as world:
        await world.grant()
        path = world.config.folder / "broker.sqlite"
    database = sqlite3.connect(path)
    with database:
        database.execute("DELETE FROM heads WHERE size = 1")
    database.close()
    async with open_world(tmp_path / "broker") as world:
        head = await world.head(min_size=1)
        check_log_signature(head, ROSTER.log)
        assert head.checkpoint.size == 1


async def test_a_head_that_contradicts_the_leaves_stops_the_start(tmp_path: Path) -> None:
    """A log key that signed another root has forked; a broker that went on would hide it."""
    async with open_world(tmp_path / "broker") as world:
        await world.grant()
        path = world.config.folder / "broker.sqlite"
    note = sign_checkpoint(Checkpoint(ORIGIN, 1, digest("another root")), LOG_KEY)
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE heads SET note = ? WHERE size = 1", (note.to_bytes(),))
    database.close()
    with pytest.raises(ConsistencyError):
        async with open_world(tmp_path / "broker"):
            pass


# --- cosignatures ---


async def test_two_witnesses_make_a_checkpoint_count(world: World) -> None:
    await world.grant()
    head = await world.head()
    assert problem(await world.ask("GET", "/v1/log/checkpoint", agency=None, params={"cosignatures": 1})) == (404, "checkpoint-not-yet")
    for count, agency in enumerate(WITNESSES, 1):
        reply = await cosigned(world, agency, head)
        assert reply.status_code == 200
        assert len(SignedCheckpoint.from_bytes(reply.content).signatures) == 1 + count
    note = await world.head(cosignatures=2)
    policy = ROSTER.checkpoint_policy(parties=[NORTHPORT], holders=CLAIMS.holders, custodians=CLAIMS.custodians)
    check_checkpoint(note, policy, now=world.now)
    assert (await world.head()).signatures == note.signatures


async def test_the_newest_head_with_enough_cosignatures_is_given(world: World) -> None:
    await world.grant()
    for agency in WITNESSES:
        await cosigned(world, agency)
    await refusals(world, 1)
    await cosigned(world, BOARD)
    assert [(await world.head(cosignatures=count)).checkpoint.size for count in range(3)] == [2, 2, 1]
    reply = await world.ask("GET", "/v1/log/checkpoint", agency=None, params={"cosignatures": 2, "min_size": 2})
    assert problem(reply) == (404, "checkpoint-not-yet")


async def test_a_later_cosignature_replaces_an_earlier_one_and_not_the_other_way_round(world: World) -> None:
    await world.grant()
    head = await world.head()
    early, late = (cosignature_note(head, BOARD, world.now + timedelta(seconds=seconds)) for seconds in (0, 30))
    for note, expected in ((early, early), (late, late), (early, late)):
        assert (await send_cosignature(world, note, BOARD)).status_code == 200
        assert (await world.head(cosignatures=1)).signatures == expected.signatures


def wrong_cosignatures(head: SignedCheckpoint, world: World) -> dict[str, SignedCheckpoint]:
    good = cosignature_note(head, BOARD, world.now)
    line = good.signatures[1]
    witness = ROSTER.agency_as(BOARD, AgencyRole.WITNESS).witness
    assert isinstance(witness, WitnessKey)

    def with_line(signature: bytes) -> SignedCheckpoint:
        return head.with_signatures([NoteSignature(line.name, line.key_id, signature)])

    fork = sign_checkpoint(Checkpoint(ORIGIN, head.checkpoint.size, digest("fork")), LOG_KEY)
    ahead = sign_checkpoint(Checkpoint(ORIGIN, head.checkpoint.size + 1, digest("ahead")), LOG_KEY)
    elsewhere = sign_checkpoint(replace(head.checkpoint, origin="log.example.org/2025"), LOG_KEY)
    unsigned = sign_checkpoint(head.checkpoint, signing_key("not the log"))
    return {
        "none": head,
        "another witness's": cosignature_note(head, OVERSIGHT, world.now),
        "a bit flipped": with_line(line.signature[:-1] + bytes([line.signature[-1] ^ 1])),
        "another time": with_line(bytes(7) + b"\x01" + line.signature[8:]),
        "cut short": with_line(line.signature[:-1]),
        "signed with another key": with_line(line.signature[:8] + signing_key("nobody").sign(head.checkpoint.body())),
        "from the future": cosignature_note(head, BOARD, world.now + timedelta(seconds=62)),
        "another root": fork.with_signatures([line]),
        "a size to come": ahead.with_signatures([line]),
        "another log": elsewhere.with_signatures([line]),
        "not signed by the log": unsigned.with_signatures([line]),
    }


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "another witness's",
        "a bit flipped",
        "another time",
        "cut short",
        "signed with another key",
        "from the future",
        "another root",
        "a size to come",
        "another log",
        "not signed by the log",
    ],
)
async def test_a_forged_cosignature_is_refused(world: World, name: str) -> None:
    await world.grant()
    note = wrong_cosignatures(await world.head(), world)[name]
    before = world.rows()
    status, kind = problem(await send_cosignature(world, note, BOARD))
    assert status == 409
    assert (kind == "log-fork") == (name in {"another root", "a size to come", "another log", "not signed by the log"})
    assert world.rows() == before


async def test_only_a_witness_cosigns(world: World) -> None:
    head = await world.head()
    for agency in (NORTHPORT, LAKESIDE):
        assert problem(await send_cosignature(world, cosignature_note(head, BOARD, world.now), agency))[0] == 403
    assert world.rows()["cosignatures"] == 0


# --- pending heads ---


async def test_witnesses_meet_on_one_head(world: World) -> None:
    """Without active witnesses the newest head is asked for; with them the head stays until all of them signed it, or for half a second."""
    await world.grant()
    assert (await pending(world)).checkpoint.size == 1
    await refusals(world, 1)
    assert (await pending(world)).checkpoint.size == 2
    for agency in WITNESSES:
        await cosigned(world, agency)
    await refusals(world, 1)
    assert (await pending(world)).checkpoint.size == 3
    await refusals(world, 1)
    assert (await pending(world)).checkpoint.size == 3  # two witnesses are active, and neither has signed it
    await cosigned(world, BOARD, await pending(world))
    assert (await pending(world)).checkpoint.size == 3
    await cosigned(world, OVERSIGHT, await pending(world))
    assert (await pending(world)).checkpoint.size == 4
    await refusals(world, 1)
    assert (await pending(world)).checkpoint.size == 4
    world.pass_time(2)
    assert (await pending(world)).checkpoint.size == 5
    await refusals(world, 1)
    assert (await pending(world)).checkpoint.size == 5
    world.pass_time(0.25)
    assert (await pending(world)).checkpoint.size == 5


async def test_a_head_that_no_act_waits_for_waits_for_more_entries(world: World) -> None:
    """Answers do not hurry the witnesses; an entry that acts wait for does, or somebody who asks for such a head, or two seconds."""
    content = await world.grant()
    assert (await pending(world)).checkpoint.size == 1
    for agency in WITNESSES:
        await cosigned(world, agency)
    await answers(world, content, 1)
    assert (await pending(world)).checkpoint.size == 1
    await refusals(world, 1, content)
    assert (await pending(world)).checkpoint.size == 3
    for agency in WITNESSES:
        await cosigned(world, agency)
    await answers(world, content, 1)
    assert (await pending(world)).checkpoint.size == 3
    assert (await world.ask("GET", "/v1/log/checkpoint", agency=None, params={"min_size": 4, "cosignatures": 1})).status_code == 404
    assert (await pending(world)).checkpoint.size == 4
    for agency in WITNESSES:
        await cosigned(world, agency)
    await answers(world, content, 1)
    assert (await pending(world)).checkpoint.size == 4
    world.pass_time(1.5)
    assert (await pending(world)).checkpoint.size == 4
    world.pass_time(1)
    assert (await pending(world)).checkpoint.size == 5


async def test_the_head_to_cosign_comes_with_the_proof_from_the_head_before(world: World) -> None:
    await world.grant()
    await refusals(world, 4)
    for old in range(-1, 7):
        reply = await world.ask("GET", "/v1/log/pending", agency=None, params={"after_size": old, "wait_s": 0})
        asked = CosignRequest.from_bytes(reply.content)
        assert (asked.note.checkpoint.size, asked.old_size) == (5, min(max(old, 0), 5))
        assert list(asked.proof) == (await proof(world, "/v1/log/consistency", old=old, new=5) if 0 < old < 5 else [])


async def test_a_witness_that_is_away_is_not_waited_for(world: World) -> None:
    await world.grant()
    for agency in (*WITNESSES, NORTHPORT_BOARD):
        await cosigned(world, agency)
    assert (await pending(world)).checkpoint.size == 1
    world.pass_time(61)
    await cosigned(world, BOARD)
    await refusals(world, 2)
    assert (await pending(world)).checkpoint.size == 3
    await refusals(world, 1)
    await cosigned(world, BOARD, await pending(world))
    assert (await pending(world)).checkpoint.size == 4  # nobody waits for the two that were silent for a minute


async def test_a_long_poll_for_a_head_wakes(world: World) -> None:
    """Witness and follower wait first; entry and cosignature come later."""
    waiting = asyncio.create_task(pending(world, after_size=0, wait_s=20))
    following = asyncio.create_task(world.head(min_size=1, cosignatures=1, wait_s=20))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await world.grant()
    assert (await waiting).checkpoint.size == 1
    assert not following.done()
    await cosigned(world, BOARD)
    assert (await following).checkpoint.size == 1


async def test_a_poll_ends_without_news(world: World) -> None:
    assert (await pending(world, after_size=0, wait_s=1)).checkpoint.size == 0
    reply = await world.ask("GET", "/v1/log/checkpoint", agency=None, params={"min_size": 1, "wait_s": 1})
    assert problem(reply) == (404, "checkpoint-not-yet")
