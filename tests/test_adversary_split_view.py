"""A log with two faces: one for the holder, another for the custodian. Which party catches it, by which message or check.

Played with real nodes over a broker that shows each of them another log, with the log's true key. Two forks of one size, and of different
sizes. With a majority for each checkpoint the forks cannot both be cosigned while the witnesses are honest: then nobody acts on the second.
Where a witness colludes with the broker and signs both, what parties tell one another shows it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agency_node import facts
from agency_node.cli import app
from agency_node.errors import HaltedError
from agency_node.facts import Fact
from agency_node.follower import LogFollower
from agency_node.keyring import WITNESS_KEY_FILE, Keyring
from agency_node.parties import Parties
from agency_node.tables import custody, custody_parts, outbox
from agency_node.vault import Vault
from agency_node.witness import Witness
from crypto.canonical import AgencyId
from crypto.checkpoint import SignedCheckpoint, check_continues
from crypto.entries import EntryKind
from crypto.errors import ConsistencyError, WitnessError
from crypto.ledger import MerkleTree, leaf_hash
from crypto.message_types import MessageType
from crypto.notices import Refusal, RefusalReason
from crypto.wire import MessageId
from crypto.witness import CheckpointPolicy
from tests.node_samples import Clock, MemoryBroker, cosigned, fact, head_of, leaf, other_leaves, roster_leaf, store
from tests.node_world import World, WorldNode, search_claims
from tests.sample_federation import BOARD, LAKESIDE, NORTHPORT_BOARD, OVERSIGHT, digest, root_set, roster, signing_key
from tests.test_log_bundle import AT, FINGERPRINT, note_of, write

VAULT = Vault(bytes(range(32)))
CLAIMS = search_claims()
COMMON = [*other_leaves(3), roster_leaf(), leaf(EntryKind.GRANT, CLAIMS.digest)]
TO_HOLDER = [*COMMON, leaf(EntryKind.PACK_CHANGE, digest("harmless"))]
"""The holder is shown a grant that stands."""
TO_CUSTODIAN = [*COMMON, leaf(EntryKind.REVOCATION, CLAIMS.digest)]
"""The custodian is shown that it was taken back."""
LONGER_TO_CUSTODIAN = [*TO_CUSTODIAN, *other_leaves(2, "and more")]
FORKS = pytest.mark.parametrize("other", [TO_CUSTODIAN, LONGER_TO_CUSTODIAN], ids=["one size", "different sizes"])


class Side:
    """What one node is shown: a log of its own, and who cosigned it."""

    def __init__(self, folder: Path, leaves: Sequence[bytes], *witnesses: AgencyId) -> None:
        folder.mkdir()
        self.clock, self.engine = Clock(), store(folder)
        self.broker = MemoryBroker(leaves)
        self.broker.cosigned_by(*witnesses)
        self.parties = Parties(self.engine, self.broker, root_set().fingerprint, self.clock)
        asyncio.run(self.parties.refresh())
        self.follower = LogFollower(self.engine, self.broker, self.parties, self.clock)

    def act(self, entered: EntryKind | None = None) -> None:
        asyncio.run(self.follower.check_act(CLAIMS, CLAIMS.digest, entered, wait_s=0))

    def is_told(self, note: SignedCheckpoint) -> None:
        """A message of another party comes, with the head that its sender saw last."""
        asyncio.run(self.follower.connect(note.to_bytes()))

    def latest(self) -> SignedCheckpoint:
        assert self.follower.latest is not None
        return self.follower.latest


# --- the second fork has too few cosignatures -------------------------------------------------------------------------


@FORKS
@pytest.mark.parametrize("signer", [OVERSIGHT, BOARD, NORTHPORT_BOARD])
def test_the_custodians_own_check_refuses_a_fork_that_only_one_witness_signed(tmp_path: Path, other: list[bytes], signer: AgencyId) -> None:
    """Two honest witnesses signed the holder's side; for the other side one that colludes is left, and two are a majority of three."""
    holder, custodian = Side(tmp_path / "holder", TO_HOLDER, BOARD, OVERSIGHT), Side(tmp_path / "custodian", other, signer)
    holder.act()
    with pytest.raises(WitnessError):
        custodian.act(EntryKind.RELEASE)
    assert custodian.follower.latest is None


@FORKS
def test_the_holders_own_check_refuses_a_fork_that_nobody_cosigned(tmp_path: Path, other: list[bytes]) -> None:
    with pytest.raises(WitnessError):
        Side(tmp_path / "holder", other).act()


@FORKS
async def test_an_honest_witness_that_is_asked_for_both_sides_signs_one_and_halts_with_both_notes(
    tmp_path: Path, other: list[bytes]
) -> None:
    """Caught by the witness, by the consistency proof that it asks for before each cosignature."""
    engine, clock, broker = store(tmp_path), Clock(), MemoryBroker(TO_HOLDER)
    parties = Parties(engine, broker, root_set().fingerprint, clock)
    await parties.refresh()
    Keyring.create(tmp_path, VAULT, witness=True)
    (tmp_path / WITNESS_KEY_FILE).write_bytes(VAULT.seal("witness-key", signing_key(f"{BOARD} witness").export_secret()))
    witness = Witness(engine, broker, parties, Keyring(tmp_path, VAULT, engine, BOARD, clock), clock)
    assert await witness.step()
    broker.log = list(other)
    with pytest.raises(HaltedError):
        await witness.step()
    assert [note.checkpoint.size for note in broker.posted] == [len(TO_HOLDER)]
    for name, leaves in ((Fact.EVIDENCE_HELD, TO_HOLDER), (Fact.EVIDENCE_SHOWN, other)):
        note = fact(engine, name)
        assert note is not None
        assert SignedCheckpoint.from_bytes(note).checkpoint == head_of(leaves).checkpoint


# --- both forks are cosigned: a witness colludes ----------------------------------------------------------------------


@FORKS
def test_the_custodian_catches_two_cosigned_forks_by_the_head_in_the_holders_message(tmp_path: Path, other: list[bytes]) -> None:
    """Oversight and the board sign both sides. The holder's share brings its head, and the custodian's copy contradicts it."""
    holder = Side(tmp_path / "holder", TO_HOLDER, BOARD, OVERSIGHT)
    custodian = Side(tmp_path / "custodian", other, BOARD, OVERSIGHT)
    holder.act()
    asyncio.run(custodian.follower.follow())
    with pytest.raises(HaltedError):
        custodian.is_told(holder.latest())
    _holds_both(custodian, shown=holder.latest(), held=head_of(other))


@FORKS
def test_the_holder_catches_two_cosigned_forks_by_the_head_in_the_custodians_message(tmp_path: Path, other: list[bytes]) -> None:
    """The release brings the custodian's head; of different sizes, the broker would have to hand out leaves that join them."""
    holder = Side(tmp_path / "holder", TO_HOLDER, BOARD, OVERSIGHT)
    custodian = Side(tmp_path / "custodian", other, BOARD, OVERSIGHT)
    holder.act()
    asyncio.run(custodian.follower.follow())
    holder.broker.leaves_shown = [*TO_HOLDER, *other[len(TO_HOLDER) :]]  # it has no others that continue what the holder read
    with pytest.raises(HaltedError):
        holder.is_told(custodian.latest())
    _holds_both(holder, shown=custodian.latest(), held=head_of(TO_HOLDER))
    with pytest.raises(HaltedError):  # and acts no more, whatever it is shown later
        holder.act()


@FORKS
def test_one_witness_that_signs_both_sides_makes_both_count_and_is_named_by_the_two_notes(tmp_path: Path, other: list[bytes]) -> None:
    """The least collusion that works: the custodian Oversight signs both, each other witness one. Its two lines prove it."""
    holder = Side(tmp_path / "holder", TO_HOLDER, BOARD, OVERSIGHT)
    custodian = Side(tmp_path / "custodian", other, NORTHPORT_BOARD, OVERSIGHT)
    holder.act()
    asyncio.run(custodian.follower.fresh(_policy(custodian), wait_s=0))
    names = [{line.name for line in side.latest().signatures} - {roster().log.origin} for side in (holder, custodian)]
    assert names[0] & names[1] == {f"{OVERSIGHT}.example.org/witness"}
    with pytest.raises(HaltedError):
        custodian.is_told(holder.latest())


def _policy(side: Side) -> CheckpointPolicy:
    return side.parties.roster().checkpoint_policy(
        parties=(CLAIMS.requesting_agency,), holders=CLAIMS.holders, custodians=CLAIMS.custodians
    )


def _holds_both(side: Side, shown: SignedCheckpoint, held: SignedCheckpoint) -> None:
    assert side.follower.halted()
    notes = [fact(side.engine, name) for name in (Fact.EVIDENCE_SHOWN, Fact.EVIDENCE_HELD)]
    assert all(notes)
    assert [SignedCheckpoint.from_bytes(note or b"").checkpoint for note in notes] == [shown.checkpoint, held.checkpoint]


# --- the same in a running search -------------------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@FORKS
async def test_a_running_custodian_is_halted_by_the_message_of_a_holder_that_saw_another_fork(world: World, other: list[bytes]) -> None:
    """Every frame carries its sender's head, here a holder's refusal. The custodian takes nothing of it, and keeps both notes."""
    custodian = await world.node(OVERSIGHT)
    world.broker.log[:] = other
    world.broker.cosign_again()
    await custodian.follower.follow()
    seen_by_holder = cosigned(head_of(TO_HOLDER), BOARD, OVERSIGHT)
    refusal = Refusal(MessageId("ab" * 32), RefusalReason.MALFORMED)
    world.post(OVERSIGHT, world.message(MessageType.REFUSAL, refusal, CLAIMS, LAKESIDE, OVERSIGHT, checkpoint=seen_by_holder))
    await _until_halted(custodian)
    assert facts.halted(custodian.engine)
    shown = fact(custodian.engine, Fact.EVIDENCE_SHOWN)
    assert shown is not None
    assert SignedCheckpoint.from_bytes(shown).checkpoint == seen_by_holder.checkpoint
    assert custodian.rows(custody_parts) == custodian.rows(custody) == custodian.rows(outbox) == []


async def _until_halted(node: WorldNode) -> None:
    try:
        await node.receive()
        await node.work()
    except HaltedError:
        pass


# --- an outsider ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fewer", [0, 1], ids=["one size", "different sizes"])
def test_anybody_who_was_given_the_other_head_catches_two_cosigned_forks_by_log_verify_seen(tmp_path: Path, fewer: int) -> None:
    """A bundle of one side, and the checkpoint that somebody had from the other: `log verify --seen` ends with a fork, both are signed."""
    mine = [*COMMON, *other_leaves(3, "mine")]
    theirs = [*COMMON, *other_leaves(3 - fewer, "theirs")]
    bundle = write(tmp_path / "bundle", mine)
    seen = tmp_path / "seen"
    seen.write_bytes(note_of(theirs, at=AT).to_bytes())
    arguments = ["log", "verify", str(bundle), "--root-fingerprint", FINGERPRINT, "--json"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    done = CliRunner().invoke(app, [*arguments, "--seen", str(seen)])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"] == "log-fork"


def test_two_bundles_of_two_forks_do_not_pass_for_one_history_in_either_order(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one", TO_HOLDER), write(tmp_path / "other", LONGER_TO_CUSTODIAN)
    arguments = ["log", "verify", "--root-fingerprint", FINGERPRINT, "--json"]
    forked = CliRunner().invoke(app, [*arguments, str(other), "--seen", str(one)])
    assert json.loads(forked.stdout)["error"] == "log-fork"
    beyond = CliRunner().invoke(app, [*arguments, str(one), "--seen", str(other)])  # the shorter one cannot say: it asks for more
    assert (beyond.exit_code, json.loads(beyond.stdout)["error"]) == (2, "request")


def test_no_proof_joins_the_forks() -> None:
    tree = MerkleTree(map(leaf_hash, LONGER_TO_CUSTODIAN))
    with pytest.raises(ConsistencyError):
        check_continues(head_of(TO_HOLDER).checkpoint, head_of(LONGER_TO_CUSTODIAN).checkpoint, tree.consistency_proof(len(TO_HOLDER)))
