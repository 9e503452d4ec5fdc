"""A witness at work, and logs that want two histories cosigned."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agency_node.errors import BrokerRefusedError, BrokerUnreachableError, ConfigError, HaltedError
from agency_node.facts import Fact, halted
from agency_node.keyring import WITNESS_KEY_FILE, Keyring
from agency_node.parties import Parties
from agency_node.vault import Vault
from agency_node.witness import RECOSIGN, Witness
from crypto.checkpoint import SignedCheckpoint, sign_checkpoint
from crypto.cosign_request import CosignRequest
from crypto.errors import CheckpointError, RosterExpiredError
from crypto.witness import check_checkpoint
from tests.node_samples import LOG, Clock, MemoryBroker, cosignature, fact, head_of, other_leaves, store
from tests.sample_federation import BOARD, LAKESIDE, NORTHPORT, OVERSIGHT, root_set, roster, signing_key

VAULT = Vault(bytes(range(32)))
MINE = other_leaves(3)
THEIRS = [*other_leaves(2), *other_leaves(1, "the other side")]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return store(tmp_path)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(MINE)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def parties(engine: Engine, broker: MemoryBroker, clock: Clock) -> Parties:
    made = Parties(engine, broker, root_set().fingerprint, clock)
    await made.refresh()
    return made


def ring_of(folder: Path, engine: Engine, clock: Clock, secret: bytes | None = None) -> Keyring:
    """The board's keyring, with the witness key that the sample roster names."""
    Keyring.create(folder, VAULT, witness=True)
    key = signing_key(f"{BOARD} witness").export_secret() if secret is None else secret
    (folder / WITNESS_KEY_FILE).write_bytes(VAULT.seal("witness-key", key))
    return Keyring(folder, VAULT, engine, BOARD, clock)


@pytest.fixture
def ring(tmp_path: Path, engine: Engine, clock: Clock) -> Keyring:
    return ring_of(tmp_path, engine, clock)


@pytest.fixture
def witness(engine: Engine, broker: MemoryBroker, parties: Parties, ring: Keyring, clock: Clock) -> Witness:
    return Witness(engine, broker, parties, ring, clock)


def cosigned_head(engine: Engine) -> SignedCheckpoint | None:
    data = fact(engine, Fact.COSIGNED)
    return None if data is None else SignedCheckpoint.from_bytes(data)


async def assert_stopped(witness: Witness, engine: Engine, shown: SignedCheckpoint, posted: int, broker: MemoryBroker) -> None:
    with pytest.raises(HaltedError):
        await witness.step()
    assert halted(engine)
    evidence = fact(engine, Fact.EVIDENCE_SHOWN)
    assert evidence is not None
    assert SignedCheckpoint.from_bytes(evidence).checkpoint == shown.checkpoint
    broker.shown, broker.leaves_shown = None, None
    broker.log = [*MINE, *other_leaves(9, "honest again: too late")]
    with pytest.raises(HaltedError):
        await witness.step()
    await asyncio.wait_for(witness.run(asyncio.Event()), 5)  # it ends by itself
    assert len(broker.posted) == posted


async def test_its_cosignature_counts_for_an_act(witness: Witness, broker: MemoryBroker, clock: Clock) -> None:
    assert await witness.step()
    broker.lines[3].append(cosignature(head_of(MINE), OVERSIGHT, clock()))
    policy = roster().checkpoint_policy(parties=[NORTHPORT], holders=[LAKESIDE], custodians=[BOARD])
    check_checkpoint(broker.head(), policy, now=clock())
    assert [line.name for line in broker.posted[0].signatures] == [LOG.origin, "civic-board.example.org/witness"]


async def test_it_cosigns_each_new_head_once_and_an_unchanged_one_again_before_it_is_stale(
    witness: Witness, broker: MemoryBroker, clock: Clock
) -> None:
    assert await witness.step()
    assert not await witness.step()
    broker.log += other_leaves(4, "later")
    assert await witness.step()
    assert [note.checkpoint.size for note in broker.posted] == [3, 7]
    clock.now = clock.now.replace(microsecond=0) + RECOSIGN - timedelta(seconds=1)
    assert not await witness.step()
    clock.pass_by(seconds=1)
    assert await witness.step()
    assert [note.checkpoint.size for note in broker.posted] == [3, 7, 7]
    assert broker.posted[2] != broker.posted[1]


async def test_the_empty_log_needs_no_cosignature(witness: Witness, broker: MemoryBroker) -> None:
    broker.log.clear()
    assert not await witness.step()
    assert broker.posted == []


@pytest.mark.parametrize("leaves", [THEIRS, [*THEIRS, *other_leaves(2, "more")]], ids=["equal", "longer"])
async def test_it_never_cosigns_two_histories(witness: Witness, engine: Engine, broker: MemoryBroker, leaves: list[bytes]) -> None:
    await witness.step()
    broker.log = leaves
    await assert_stopped(witness, engine, head_of(leaves), 1, broker)
    assert cosigned_head(engine) == broker.posted[0]
    assert fact(engine, Fact.EVIDENCE_HELD) == broker.posted[0].to_bytes()


async def test_a_log_that_shrank_is_not_cosigned_and_halts_when_it_is_another(
    witness: Witness, engine: Engine, broker: MemoryBroker
) -> None:
    await witness.step()
    broker.log = [*MINE[:1], *other_leaves(1, "other")]
    with pytest.raises(BrokerRefusedError):  # it cannot say how this head and the last are one history: that proves nothing yet
        await witness.step()
    assert halted(engine) is None
    broker.leaves_shown = MINE
    await assert_stopped(witness, engine, head_of(broker.log), 1, broker)


async def test_it_remembers_over_a_restart(
    witness: Witness, engine: Engine, broker: MemoryBroker, parties: Parties, ring: Keyring, clock: Clock
) -> None:
    await witness.step()
    broker.log = list(THEIRS)
    await assert_stopped(Witness(engine, broker, parties, ring, clock), engine, head_of(THEIRS), 2, broker)
    assert broker.posted[0] == broker.posted[1]  # what it had cosigned before was handed in again


async def test_a_false_proof_is_not_cosigned(witness: Witness, engine: Engine, broker: MemoryBroker) -> None:
    await witness.step()
    broker.log += other_leaves(2, "later")
    broker.leaves_shown = [*THEIRS, *other_leaves(2, "later")]
    await assert_stopped(witness, engine, head_of(broker.log), 1, broker)


async def test_an_earlier_head_of_the_same_history_is_neither_cosigned_nor_a_fork(
    witness: Witness, engine: Engine, broker: MemoryBroker, clock: Clock
) -> None:
    await witness.step()
    broker.shown = head_of(MINE[:2])
    clock.pass_by(minutes=5)
    assert not await witness.step()
    assert len(broker.posted) == 1
    assert halted(engine) is None


async def test_a_head_that_the_log_did_not_sign_is_not_cosigned(witness: Witness, engine: Engine, broker: MemoryBroker) -> None:
    broker.shown = sign_checkpoint(head_of(MINE).checkpoint, signing_key("broker's own"))
    with pytest.raises(CheckpointError):
        await witness.step()
    assert cosigned_head(engine) is None
    broker.shown = None
    await witness.step()
    shorter = head_of([*MINE[:1], *other_leaves(1, "other")]).checkpoint
    broker.shown = sign_checkpoint(shorter, signing_key("broker's own"))  # without the log's signature it is no evidence either
    with pytest.raises(CheckpointError):
        await witness.step()
    assert halted(engine) is None


async def test_it_writes_down_what_it_cosigned_before_the_cosignature_leaves(
    witness: Witness, engine: Engine, broker: MemoryBroker, parties: Parties, ring: Keyring, clock: Clock
) -> None:
    honest = broker.cosign

    async def dies(note: SignedCheckpoint) -> None:
        assert cosigned_head(engine) == note
        raise BrokerUnreachableError("down")

    broker.cosign = dies  # type: ignore[method-assign]
    with pytest.raises(BrokerUnreachableError):
        await witness.step()
    broker.cosign = honest  # type: ignore[method-assign]
    await witness.step()
    assert broker.posted == [cosigned_head(engine)]
    await Witness(engine, broker, parties, ring, clock).step()
    assert broker.posted == [cosigned_head(engine)] * 2


async def test_a_cosignature_that_the_broker_refuses_is_not_handed_in_for_ever(witness: Witness, broker: MemoryBroker) -> None:
    async def refuses(note: SignedCheckpoint) -> None:
        raise BrokerRefusedError(422, "cosignature", "not welcome", "")

    honest, broker.cosign = broker.cosign, refuses  # type: ignore[method-assign]
    with pytest.raises(BrokerRefusedError):
        await witness.step()
    assert not await witness.step()
    broker.cosign = honest  # type: ignore[method-assign]
    broker.log += other_leaves(1, "later")
    assert await witness.step()


async def test_two_processes_with_one_store_do_not_cosign_two_histories(
    witness: Witness, engine: Engine, broker: MemoryBroker, parties: Parties, ring: Keyring, clock: Clock
) -> None:
    """While one process waits for its proof, the other cosigns the other side."""
    await witness.step()
    broker.log += other_leaves(2, "later")
    fork = MemoryBroker([*MINE, *other_leaves(2, "the other side")])
    other = Witness(engine, fork, parties, ring, clock)
    honest = broker.consistency

    async def from_elsewhere(after_size: int, wait_s: int) -> CosignRequest:
        return CosignRequest(0, (), broker.head())

    async def slow(old: int, new: int) -> tuple[bytes, ...]:
        assert await other.step()
        return await honest(old, new)

    broker.pending = from_elsewhere  # type: ignore[method-assign]
    broker.consistency = slow  # type: ignore[method-assign]
    assert not await witness.step()
    assert [note.checkpoint.size for note in broker.posted] == [3]
    broker.consistency = honest  # type: ignore[method-assign]
    await assert_stopped(witness, engine, head_of(broker.log), 1, broker)


async def test_a_proof_from_another_size_is_asked_for_again(witness: Witness, broker: MemoryBroker) -> None:
    await witness.step()
    broker.log += other_leaves(2, "later")

    async def from_elsewhere(after_size: int, wait_s: int) -> CosignRequest:
        return CosignRequest(2, (bytes(32),), broker.head())

    broker.pending = from_elsewhere  # type: ignore[method-assign]
    assert await witness.step()
    assert [note.checkpoint.size for note in broker.posted] == [3, 5]


async def test_a_false_proof_from_the_right_size_stops_it(witness: Witness, engine: Engine, broker: MemoryBroker) -> None:
    await witness.step()
    broker.log += other_leaves(2, "later")

    async def false(after_size: int, wait_s: int) -> CosignRequest:
        return CosignRequest(3, (bytes(32),), broker.head())

    broker.pending = false  # type: ignore[method-assign]
    with pytest.raises(HaltedError):
        await witness.step()
    assert [note.checkpoint.size for note in broker.posted] == [3]


async def test_without_its_key_in_the_roster_it_signs_nothing(
    tmp_path: Path, engine: Engine, broker: MemoryBroker, parties: Parties, clock: Clock
) -> None:
    ring = ring_of(tmp_path, engine, clock, secret=bytes(32))
    with pytest.raises(ConfigError, match="root holders"):
        await Witness(engine, broker, parties, ring, clock).step()
    (tmp_path / WITNESS_KEY_FILE).unlink()
    with pytest.raises(ConfigError, match="no witness key"):
        Witness(engine, broker, parties, Keyring(tmp_path, VAULT, engine, BOARD, clock), clock)
    assert broker.posted == []


async def test_an_expired_roster_names_no_witness(witness: Witness, broker: MemoryBroker, clock: Clock) -> None:
    clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    with pytest.raises(RosterExpiredError):
        await witness.step()
    assert broker.posted == []


async def test_it_runs_until_it_is_told_to_stop_and_outlives_a_broker_that_is_away(witness: Witness, broker: MemoryBroker) -> None:
    asked = 0
    honest = broker.pending

    async def away_at_first(after_size: int, wait_s: int) -> CosignRequest:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise BrokerUnreachableError("down")
        return await honest(after_size, wait_s)

    broker.pending = away_at_first  # type: ignore[method-assign]
    stop = asyncio.Event()
    running = asyncio.create_task(witness.run(stop))
    while not broker.posted:
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 5)
    assert asked >= 2
