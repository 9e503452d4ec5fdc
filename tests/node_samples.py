"""What tests of the node's side of the wire share: a store, a clock that is set by hand, and a broker in memory that can be made to lie.

`MemoryBroker` implements the protocols of `agency_node.link` with real documents, a real tree and real signatures. Played honestly it does
what the broker's API promises; a test makes it break the rules by replacing what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, select

from agency_node import store as store_module
from agency_node.errors import BrokerError, BrokerRefusedError
from agency_node.facts import Fact, read_fact
from agency_node.link import MAX_LEAVES
from agency_node.replies import OpenedField
from agency_node.store import open_store
from agency_node.tables import log_leaves
from crypto.canonical import AgencyId, SearchId
from crypto.checkpoint import Checkpoint, NoteSignature, SignedCheckpoint, check_log_signature, sign_checkpoint
from crypto.cosign_request import CosignRequest
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.entry_openings import LeafOpenings
from crypto.ledger import MerkleTree, leaf_hash
from crypto.roster import Roster, read_unverified_roster
from crypto.roster_change import roster_entry
from crypto.sealing_key import Week
from crypto.witness import WitnessKey, cosign
from tests.sample_federation import NOW, digest, roster, sign_roster, signing_key

LOG = roster().log
LOG_SECRET = signing_key("log")


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now.astimezone(UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **duration: float) -> None:
        self.now += timedelta(**duration)


def store(folder: Path) -> Engine:
    """A node's database in that folder."""
    return open_store(folder / "node.sqlite")


def older_store(folder: Path, revision: str) -> Engine:
    """The database as the node of before left it, at that revision of the schema; without the settings of `open_store`."""
    engine = create_engine(f"sqlite:///{folder / 'node.sqlite'}")
    config = Config()
    config.set_main_option("script_location", str(Path(store_module.__file__).parent / "migrations"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    return engine


def leaf(kind: EntryKind, grant_digest: bytes = digest("grant"), author: AgencyId | None = None, salt: str = "") -> bytes:
    subject = entry_subject(kind, grant_digest, author)
    return LogEntry(kind, NOW.date(), subject, (digest(f"commitment {kind} {salt}"),)).to_bytes()


def other_leaves(count: int, salt: str = "") -> list[bytes]:
    """Entries that have nothing to do with the sample grant."""
    return [leaf(EntryKind.ANSWER, digest(f"other grant {number} {salt}"), salt=salt) for number in range(count)]


def roster_leaf(content: Roster | None = None) -> bytes:
    """The entry of a roster, of the sample one by default."""
    return roster_entry(roster() if content is None else content, NOW.date()).to_bytes()


def head_of(leaves: Iterable[bytes]) -> SignedCheckpoint:
    """What the log signs over these leaves."""
    tree = MerkleTree(leaf_hash(data) for data in leaves)
    return sign_checkpoint(Checkpoint(LOG.origin, tree.size, tree.root()), LOG_SECRET)


def witness_of(agency: AgencyId) -> WitnessKey:
    witness = roster().agency(agency).witness
    assert witness is not None
    return witness


def cosignature(note: SignedCheckpoint, agency: AgencyId, at: datetime = NOW) -> NoteSignature:
    """A sample witness's cosignature, without asking what it cosigned before."""
    key = signing_key(f"{agency} witness")
    return cosign(note, log=LOG, previous=Checkpoint.empty(LOG.origin), proof=(), witness=witness_of(agency), key=key, now=at)


def cosigned(note: SignedCheckpoint, *agencies: AgencyId, at: datetime = NOW) -> SignedCheckpoint:
    return note.with_signatures(cosignature(note, agency, at) for agency in agencies)


class MemoryBroker:
    """A broker's memory. `shown` replaces the head that it would sign; `leaves_shown` what it hands out as leaves."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.rosters: dict[int, bytes] = {1: sign_roster(roster())}
        self.manifests: dict[AgencyId, bytes] = {}
        self.sealing_keys: dict[tuple[AgencyId, str], bytes] = {}
        self.log: list[bytes] = list(leaves)
        self.lines: dict[int, list[NoteSignature]] = {}
        self.shown: SignedCheckpoint | None = None
        self.leaves_shown: list[bytes] | None = None
        self.posted: list[SignedCheckpoint] = []
        self.opened: list[OpenedField] = []
        self.refuses_openings: BrokerError | None = None
        self.asked: list[str] = []

    # --- statements ---

    def install(self, document: bytes) -> bytes:
        """Carry this roster too, and enter it: the leaf, which nobody has cosigned yet."""
        content = read_unverified_roster(document)
        self.rosters[content.version] = document
        self.log.append(roster_leaf(content))
        return self.log[-1]

    async def roster(self) -> bytes:
        return self.rosters[max(self.rosters)]

    async def roster_version(self, version: int) -> bytes:
        self.asked.append(f"roster {version}")
        return self._found(self.rosters.get(version))

    async def manifest(self, agency: AgencyId) -> bytes:
        self.asked.append(f"manifest {agency}")
        return self._found(self.manifests.get(agency))

    async def sealing_key(self, agency: AgencyId, use: Week | SearchId) -> bytes:
        text = use.text if isinstance(use, Week) else str(use)
        self.asked.append(f"sealing key {agency} {text}")
        return self._found(self.sealing_keys.get((agency, text)))

    # --- log ---

    def head(self) -> SignedCheckpoint:
        if self.shown is not None:
            return self.shown
        return head_of(self.log).with_signatures(self.lines.get(len(self.log), []))

    def cosigned_by(self, *agencies: AgencyId, at: datetime = NOW) -> None:
        """Let witnesses cosign the present head."""
        note = head_of(self.log)
        self.lines[len(self.log)] = [cosignature(note, agency, at) for agency in agencies]

    async def checkpoint(self, min_size: int = 0, cosignatures: int = 0, wait_s: int = 0) -> SignedCheckpoint | None:
        if self.shown is not None:
            return self.shown
        head = self.head()
        return head if head.checkpoint.size >= min_size and len(head.signatures) > cosignatures else None

    async def pending(self, after_size: int, wait_s: int) -> CosignRequest:
        head = self.head()
        old = min(max(after_size, 0), head.checkpoint.size)
        leaves = self.log if self.leaves_shown is None else self.leaves_shown
        provable = 0 < old < head.checkpoint.size <= len(leaves)
        proof = MerkleTree(leaf_hash(data) for data in leaves).consistency_proof(old, head.checkpoint.size) if provable else ()
        return CosignRequest(old, proof, head)

    async def cosign(self, note: SignedCheckpoint) -> None:
        check_log_signature(note, LOG)
        self.posted.append(note)
        self.lines.setdefault(note.checkpoint.size, []).extend(line for line in note.signatures if line.name != LOG.origin)

    async def leaves(self, start: int, limit: int = MAX_LEAVES) -> tuple[int, list[bytes]]:
        leaves = self.log if self.leaves_shown is None else self.leaves_shown
        return len(leaves), leaves[start : start + limit]

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        leaves = self.log if self.leaves_shown is None else self.leaves_shown
        if not 0 <= old <= new <= len(leaves):
            raise BrokerRefusedError(404, "not-found", "no such size", "")
        return MerkleTree(leaf_hash(data) for data in leaves).consistency_proof(old, new)

    async def post_openings(self, opened: LeafOpenings) -> None:
        if self.refuses_openings is not None:
            raise self.refuses_openings
        position = [leaf_hash(data) for data in self.log].index(opened.leaf)
        opened.check(LogEntry.from_bytes(self.log[position]))
        there = {(one.position, one.opening.field_type) for one in self.opened}
        for one in opened.openings:
            if (position, one.field_type) not in there:
                self.opened.append(OpenedField(len(self.opened), position, one))

    async def openings(self, first: int, limit: int = MAX_LEAVES) -> tuple[int, list[OpenedField]]:
        return len(self.opened), self.opened[first : first + limit]

    def _found(self, document: bytes | None) -> bytes:
        if document is None:
            raise BrokerRefusedError(404, "not-found", "no such document", "Ask again later")
        return document


def stored_leaves(engine: Engine) -> list[bytes]:
    with engine.begin() as connection:
        return list(connection.execute(select(log_leaves.c.data).order_by(log_leaves.c.position)).scalars())


def fact(engine: Engine, name: Fact) -> bytes | None:
    with engine.begin() as connection:
        return read_fact(connection, name)


def not_entered(*_args: object) -> None:
    """In place of `Outbox.expunction`, for tests that are about the gallery alone."""
