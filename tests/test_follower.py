"""A node's copy of the log, against brokers that fork it, shorten it, hold cosignatures back or leave a revocation out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

import agency_node.follower
from agency_node.errors import BrokerUnreachableError, HaltedError, StoreError
from agency_node.facts import Fact
from agency_node.follower import LogFollower, bare_head
from agency_node.parties import Parties
from crypto.canonical import AgencyId
from crypto.checkpoint import NoteSignature, SignedCheckpoint, sign_checkpoint
from crypto.entries import EntryKind
from crypto.errors import (
    CheckpointError,
    InclusionError,
    MirrorError,
    NotCanonicalError,
    RevokedError,
    RosterExpiredError,
    StaleCheckpointError,
    WitnessError,
)
from tests.node_samples import LOG, Clock, MemoryBroker, cosigned, fact, head_of, leaf, other_leaves, roster_leaf, store, stored_leaves
from tests.sample_federation import BOARD, NORTHPORT_BOARD, NOW, OVERSIGHT, claims, digest, root_set, signing_key

GRANT = digest("grant")
CLAIMS = claims()  # requested by Northport, custodians: the civic board and state oversight
WITNESSES = (BOARD, OVERSIGHT)
ENTERED = [*other_leaves(2), roster_leaf(), leaf(EntryKind.GRANT)]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return store(tmp_path)


@pytest.fixture
def broker() -> MemoryBroker:
    made = MemoryBroker(ENTERED)
    made.cosigned_by(*WITNESSES)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def parties(engine: Engine, broker: MemoryBroker, clock: Clock) -> Parties:
    made = Parties(engine, broker, root_set().fingerprint, clock)
    await made.refresh()
    return made


@pytest.fixture
def follower(engine: Engine, broker: MemoryBroker, parties: Parties, clock: Clock) -> LogFollower:
    return LogFollower(engine, broker, parties, clock)


async def assert_halted(follower: LogFollower, engine: Engine, shown: SignedCheckpoint, held: SignedCheckpoint | None) -> None:
    """The node stopped for good, and its store holds both notes."""
    assert follower.halted()
    evidence = fact(engine, Fact.EVIDENCE_SHOWN)
    assert evidence is not None
    assert SignedCheckpoint.from_bytes(evidence).checkpoint == shown.checkpoint
    kept = fact(engine, Fact.EVIDENCE_HELD)
    assert (SignedCheckpoint.from_bytes(kept).checkpoint if kept else None) == (held.checkpoint if held else None)
    with pytest.raises(HaltedError):
        await follower.check_act(CLAIMS, GRANT, wait_s=0)


# --- following --------------------------------------------------------------------------------------------------------


async def test_the_copy_grows_with_the_log_and_is_here_again_after_a_restart(
    follower: LogFollower, engine: Engine, broker: MemoryBroker, parties: Parties, clock: Clock
) -> None:
    before = follower.latest
    assert before is None
    assert (await follower.follow()).size == 4
    broker.log += other_leaves(5, "later")
    assert (await follower.follow()).size == 9
    assert stored_leaves(engine) == broker.log
    again = LogFollower(engine, MemoryBroker(), parties, clock)
    assert again.latest == follower.latest == head_of(broker.log)
    assert again.mirror.tree.root() == follower.mirror.tree.root()


async def test_a_long_log_is_read_in_batches_each_proven_against_the_signed_head(
    monkeypatch: pytest.MonkeyPatch, follower: LogFollower, engine: Engine, broker: MemoryBroker
) -> None:
    monkeypatch.setattr(agency_node.follower, "MAX_LEAVES", 3)
    broker.log = other_leaves(10)
    await follower.follow()
    assert stored_leaves(engine) == broker.log
    broker.log += other_leaves(6, "later")
    broker.leaves_shown = [*broker.log[:-1], leaf(EntryKind.ANSWER, salt="another")]
    with pytest.raises(HaltedError):
        await follower.follow()
    assert stored_leaves(engine) == broker.log[:10]  # the first later batch was not proven, so nothing of it was stored


async def test_the_empty_log_has_a_head_too(follower: LogFollower, broker: MemoryBroker) -> None:
    broker.log.clear()
    assert (await follower.follow()).size == 0
    assert follower.latest == head_of([])
    with pytest.raises(MirrorError):
        await follower.follow(min_size=1)


async def test_two_followers_of_one_store_do_not_spoil_it(
    follower: LogFollower, engine: Engine, broker: MemoryBroker, parties: Parties, clock: Clock
) -> None:
    other = LogFollower(engine, broker, parties, clock)
    await asyncio.gather(follower.follow(), other.follow(), follower.follow())
    broker.log += other_leaves(2, "later")
    await other.follow()
    await follower.follow()
    assert stored_leaves(engine) == broker.log
    assert follower.mirror.tree.root() == other.mirror.tree.root() == head_of(broker.log).checkpoint.root


async def test_only_heads_that_the_log_signed_are_followed(follower: LogFollower, engine: Engine, broker: MemoryBroker) -> None:
    honest = head_of(ENTERED)
    for shown in (
        sign_checkpoint(honest.checkpoint, signing_key("broker's own")),
        replace(honest, checkpoint=replace(honest.checkpoint, size=3)),
        sign_checkpoint(replace(honest.checkpoint, origin="log.example.org/2027"), signing_key("log")),
    ):
        broker.shown = shown
        with pytest.raises(CheckpointError):
            await follower.follow()
    assert stored_leaves(engine) == []
    assert follower.halted() is None


@pytest.mark.parametrize("change", ["altered", "left out", "exchanged"])
async def test_leaves_that_do_not_hash_to_the_root_halt_the_node_and_are_not_stored(
    follower: LogFollower, engine: Engine, broker: MemoryBroker, change: str
) -> None:
    broker.leaves_shown = {
        "altered": [*ENTERED[:3], leaf(EntryKind.GRANT, digest("other"))],
        "left out": [*ENTERED[:2], ENTERED[3], leaf(EntryKind.ANSWER)],
        "exchanged": [ENTERED[1], ENTERED[0], *ENTERED[2:]],
    }[change]
    with pytest.raises(HaltedError):
        await follower.follow()
    assert stored_leaves(engine) == []
    assert follower.mirror.tree.size == 0
    await assert_halted(follower, engine, head_of(ENTERED), None)


async def test_leaves_that_are_not_handed_out_are_no_answer_but_no_fork_either(follower: LogFollower, broker: MemoryBroker) -> None:
    broker.leaves_shown = ENTERED[:3]
    with pytest.raises(MirrorError):
        await follower.follow()
    assert follower.halted() is None
    with pytest.raises(MirrorError):
        await follower.check_act(CLAIMS, GRANT)
    broker.leaves_shown = None
    await follower.check_act(CLAIMS, GRANT)


async def test_an_entry_of_tomorrow_stops_the_copy_where_it_is(follower: LogFollower, engine: Engine, broker: MemoryBroker) -> None:
    await follower.follow()
    broker.log += [*other_leaves(1, "later"), b'{"format":"sealmatch-2/log-entry/1"} ']
    broker.cosigned_by(*WITNESSES)
    for _ in range(2):
        with pytest.raises(NotCanonicalError):
            await follower.check_act(CLAIMS, GRANT)
    assert stored_leaves(engine) == ENTERED
    assert follower.mirror.tree.size == 4
    assert follower.halted() is None


@pytest.mark.parametrize(
    ("damage", "value"),
    [
        ("UPDATE log_leaves SET data = ? WHERE position = 1", b"{}"),
        ("UPDATE log_leaves SET data = ? WHERE position = 1", leaf(EntryKind.ANSWER, salt="another")),
        ("DELETE FROM log_leaves WHERE position = 3 AND data != ?", b""),
        ("UPDATE facts SET value = ? WHERE name = 'checkpoint'", b"nonsense"),
    ],
)
async def test_a_damaged_copy_is_found_at_the_start(
    follower: LogFollower, engine: Engine, broker: MemoryBroker, parties: Parties, clock: Clock, damage: str, value: bytes
) -> None:
    await follower.follow()
    with engine.begin() as connection:
        connection.exec_driver_sql(damage, (value,))
    with pytest.raises(StoreError):
        LogFollower(engine, broker, parties, clock)


# --- forks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 4, 6])
async def test_a_forked_log_shown_to_this_node_halts_it(follower: LogFollower, engine: Engine, broker: MemoryBroker, length: int) -> None:
    """Two heads, duly signed and cosigned, of which neither continues the other: shorter, of equal size, longer."""
    await follower.check_act(CLAIMS, GRANT)
    held = follower.latest
    broker.log = [*other_leaves(2), *other_leaves(length - 2, "the other side")]
    broker.cosigned_by(*WITNESSES)
    with pytest.raises(HaltedError):
        await follower.check_act(CLAIMS, GRANT)
    await assert_halted(follower, engine, head_of(broker.log), held)
    assert stored_leaves(engine) == ENTERED
    broker.log = list(ENTERED)  # honest again: too late
    with pytest.raises(HaltedError):
        await follower.check_act(CLAIMS, GRANT)
    assert fact(engine, Fact.EVIDENCE_HELD) == (held.to_bytes() if held else None)


async def test_the_halt_outlives_a_restart(
    follower: LogFollower, engine: Engine, broker: MemoryBroker, parties: Parties, clock: Clock
) -> None:
    await follower.follow()
    broker.shown = cosigned(head_of([*other_leaves(3), leaf(EntryKind.LAPSE)]), *WITNESSES)
    with pytest.raises(HaltedError):
        await follower.follow()
    with pytest.raises(HaltedError):
        await LogFollower(engine, MemoryBroker(ENTERED), parties, clock).check_act(CLAIMS, GRANT)


async def test_the_evidence_of_the_first_fork_is_kept(follower: LogFollower, engine: Engine, broker: MemoryBroker) -> None:
    await follower.follow()
    held = follower.latest
    first, second = (head_of(other_leaves(4, side)) for side in ("one side", "another side"))
    for shown in (first, second):
        with pytest.raises(HaltedError):
            await follower.connect(shown.to_bytes())
    await assert_halted(follower, engine, first, held)


@pytest.mark.parametrize("length", [2, 4, 6])
async def test_a_peers_head_of_another_history_halts_the_node(
    follower: LogFollower, engine: Engine, broker: MemoryBroker, length: int
) -> None:
    await follower.follow()
    theirs = head_of(other_leaves(length, "the other side"))
    broker.log += other_leaves(4, "later")
    held = follower.latest
    with pytest.raises(HaltedError):
        await follower.connect(theirs.to_bytes())
    await assert_halted(follower, engine, theirs, held)


async def test_a_peers_head_of_this_history_is_welcome_behind_and_ahead(
    follower: LogFollower, engine: Engine, broker: MemoryBroker
) -> None:
    await follower.connect(head_of(ENTERED[:2]).to_bytes())
    assert follower.mirror.tree.size == 2
    await follower.connect(head_of(ENTERED[:1]).to_bytes())
    await follower.connect(head_of(ENTERED).to_bytes())
    assert stored_leaves(engine) == ENTERED
    assert follower.latest == head_of(ENTERED)
    await follower.connect(head_of(ENTERED[:3]).to_bytes())
    assert follower.latest == head_of(ENTERED)
    assert follower.halted() is None


async def test_what_is_no_head_of_this_log_is_refused_without_halting(follower: LogFollower, broker: MemoryBroker) -> None:
    honest = head_of(ENTERED)
    for note in (b"", b"nonsense", honest.to_bytes()[:-1], sign_checkpoint(honest.checkpoint, signing_key("a peer's own")).to_bytes()):
        with pytest.raises(CheckpointError):
            await follower.connect(note)
    ahead = head_of([*ENTERED, leaf(EntryKind.ANSWER)])  # signed by the log, and the broker shows this node no such leaf
    with pytest.raises(MirrorError):
        await follower.connect(ahead.to_bytes())
    assert follower.halted() is None
    assert stored_leaves(follower._engine) in ([], ENTERED)


async def test_a_peers_false_cosignature_is_not_passed_on(follower: LogFollower) -> None:
    note = cosigned(head_of(ENTERED), BOARD)
    line = note.signatures[1]
    false = replace(note, signatures=(note.signatures[0], NoteSignature(line.name, line.key_id, line.signature[:-1] + b"\0")))
    await follower.connect(false.to_bytes())
    assert follower.latest == head_of(ENTERED)
    await follower.check_act(CLAIMS, GRANT)
    await follower.connect(false.to_bytes())
    assert follower.latest == cosigned(head_of(ENTERED), *WITNESSES)
    assert bare_head(false, LOG) == head_of(ENTERED)


# --- acting -----------------------------------------------------------------------------------------------------------


async def test_an_act_of_an_entered_grant_is_allowed_on_a_fresh_head(follower: LogFollower) -> None:
    allowed = await follower.check_act(CLAIMS, GRANT)
    assert allowed == head_of(ENTERED).checkpoint
    assert follower.latest == cosigned(head_of(ENTERED), *WITNESSES)


async def test_a_grant_that_is_not_in_the_log_is_not_acted_on(follower: LogFollower) -> None:
    with pytest.raises(InclusionError):
        await follower.check_act(CLAIMS, digest("another grant"), wait_s=0)


def noted_sizes(broker: MemoryBroker) -> list[int]:
    """The least sizes of all heads that are asked for from now on."""
    looks: list[int] = []
    checkpoint = broker.checkpoint

    async def noted(min_size: int = 0, cosignatures: int = 0, wait_s: int = 0) -> SignedCheckpoint | None:
        looks.append(min_size)
        return await checkpoint(min_size, cosignatures, wait_s)

    broker.checkpoint = noted  # type: ignore[method-assign]
    return looks


async def test_a_head_with_the_own_grant_is_asked_for_at_once(follower: LogFollower, broker: MemoryBroker) -> None:
    looks = noted_sizes(broker)
    follower.expect(3)
    assert (await follower.check_act(CLAIMS, GRANT)).size == 4
    follower.expect(999_999)  # a false word of the broker's: it delays one act
    with pytest.raises(WitnessError):
        await follower.check_act(CLAIMS, GRANT, wait_s=0)
    assert (await follower.check_act(CLAIMS, GRANT, wait_s=0)).size == 4
    assert looks == [4, 1_000_000, 0]


async def test_an_entry_that_is_on_its_way_is_waited_for_once(follower: LogFollower, broker: MemoryBroker) -> None:
    act = asyncio.create_task(follower.check_act(CLAIMS, GRANT, EntryKind.RELEASE, wait_s=20))
    await asyncio.sleep(0.05)
    assert not act.done()
    broker.log.append(leaf(EntryKind.RELEASE))
    broker.cosigned_by(*WITNESSES)
    assert (await act).size == 5

    looks = noted_sizes(broker)
    for wait_s in (0.2, 20):  # whoever never enters a grant is waited for no second time
        with pytest.raises(InclusionError):
            await follower.check_act(CLAIMS, digest("never entered"), wait_s=wait_s)
    assert looks[-2:] == [0, 6]


@pytest.mark.parametrize("kind", [EntryKind.REVOCATION, EntryKind.LAPSE])
async def test_a_grant_that_was_ended_is_not_acted_on(follower: LogFollower, broker: MemoryBroker, kind: EntryKind) -> None:
    await follower.check_act(CLAIMS, GRANT)
    broker.log.append(leaf(kind))
    broker.cosigned_by(*WITNESSES)
    with pytest.raises(RevokedError):
        await follower.check_act(CLAIMS, GRANT)


async def test_a_revocation_left_out_of_the_leaves_is_noticed(follower: LogFollower, engine: Engine, broker: MemoryBroker) -> None:
    """The witnesses saw the revocation, so the head commits to it; this node is handed another leaf in its place."""
    await follower.check_act(CLAIMS, GRANT)
    held = follower.latest
    broker.leaves_shown = [*ENTERED, *other_leaves(1, "in its place")]
    broker.log.append(leaf(EntryKind.REVOCATION))
    broker.cosigned_by(*WITNESSES)
    with pytest.raises(HaltedError):
        await follower.check_act(CLAIMS, GRANT)
    await assert_halted(follower, engine, head_of(broker.log), held)


async def test_an_old_head_does_not_hide_a_revocation_that_was_seen(follower: LogFollower, broker: MemoryBroker) -> None:
    before = broker.head()
    broker.log.append(leaf(EntryKind.REVOCATION))
    await follower.follow()
    broker.shown = before
    with pytest.raises(RevokedError):
        await follower.check_act(CLAIMS, GRANT)
    assert follower.latest == head_of(broker.log)


@pytest.mark.rule("R78")
@pytest.mark.parametrize("by", [(), (BOARD,), (NORTHPORT_BOARD,)])
async def test_a_missing_witness_stops_the_act(follower: LogFollower, broker: MemoryBroker, by: tuple[AgencyId, ...]) -> None:
    broker.cosigned_by(*by)
    with pytest.raises(WitnessError):
        await follower.check_act(CLAIMS, GRANT, wait_s=0)
    broker.shown = broker.head()  # a broker may also hand out what was not asked for
    with pytest.raises(WitnessError):
        await follower.check_act(CLAIMS, GRANT, wait_s=0)
    assert follower.mirror.tree.size == 0


async def test_a_custodian_of_the_search_is_among_the_witnesses(follower: LogFollower, broker: MemoryBroker) -> None:
    elsewhere = replace(CLAIMS, custodians=(BOARD,), combiner=BOARD)
    broker.cosigned_by(OVERSIGHT, NORTHPORT_BOARD)
    await follower.check_act(CLAIMS, GRANT)
    with pytest.raises(WitnessError, match="custodian"):
        await follower.check_act(elsewhere, GRANT, wait_s=0)


async def test_stale_cosignatures_stop_the_act(follower: LogFollower, broker: MemoryBroker, clock: Clock) -> None:
    clock.now = NOW.replace(microsecond=0) + timedelta(seconds=600)
    await follower.check_act(CLAIMS, GRANT)
    clock.pass_by(seconds=1)
    with pytest.raises(StaleCheckpointError):
        await follower.check_act(CLAIMS, GRANT, wait_s=0)
    broker.cosigned_by(*WITNESSES, at=clock() + timedelta(seconds=61))  # from the future
    with pytest.raises(WitnessError):
        await follower.check_act(CLAIMS, GRANT, wait_s=0)
    broker.cosigned_by(*WITNESSES, at=clock())
    await follower.check_act(CLAIMS, GRANT)


async def test_an_act_waits_while_cosignatures_are_coming(follower: LogFollower, broker: MemoryBroker) -> None:
    broker.cosigned_by(BOARD)
    act = asyncio.create_task(follower.check_act(CLAIMS, GRANT, wait_s=20))
    await asyncio.sleep(0.05)
    assert not act.done()
    broker.cosigned_by(*WITNESSES)
    assert (await act).size == 4


async def test_a_fresh_head_covers_the_entry_that_was_asked_for(follower: LogFollower, broker: MemoryBroker, parties: Parties) -> None:
    policy = parties.roster().checkpoint_policy(parties=[CLAIMS.requesting_agency], holders=CLAIMS.holders, custodians=CLAIMS.custodians)
    assert (await follower.fresh(policy, min_size=4)).checkpoint.size == 4
    with pytest.raises(WitnessError):
        await follower.fresh(policy, min_size=5, wait_s=0)
    broker.shown = broker.head()  # less than it was asked for
    with pytest.raises(WitnessError):
        await follower.fresh(policy, min_size=5, wait_s=0)


async def test_no_answer_and_an_expired_roster_stop_the_act(follower: LogFollower, broker: MemoryBroker, clock: Clock) -> None:
    async def no_answer(min_size: int = 0, cosignatures: int = 0, wait_s: int = 0) -> SignedCheckpoint | None:
        raise BrokerUnreachableError("down")

    await follower.check_act(CLAIMS, GRANT)
    broker.checkpoint = no_answer  # type: ignore[method-assign]
    with pytest.raises(BrokerUnreachableError):
        await follower.check_act(CLAIMS, GRANT)
    clock.now = NOW + timedelta(days=60)
    with pytest.raises(RosterExpiredError):
        await follower.check_act(CLAIMS, GRANT)
