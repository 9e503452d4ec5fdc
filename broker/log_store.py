"""The public log as the broker keeps it: leaves, the tree over them, signed heads, witnesses' cosignatures.

Leaves and heads are in the store, the tree in memory, rebuilt at the start and read on after every change. Invariants: leaves are only ever
added (the database refuses anything else); a head is stored before its signature leaves the process, one for a size, so that no crash makes
two; a cosignature is kept only if it verifies under the roster's key of its witness and over this log's own root.

A leaf is promised by `publish`, not by the transaction that entered it: that one does not wait for the disk, and the commit of the head
above it takes along every leaf entered before, so that entries which come together wait for the disk together.

Left to others: what an entry may say (`parties`), when a checkpoint counts (`crypto.witness`: every party for itself).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import RowMapping, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert

from broker.config import Limits
from broker.errors import LogSizeError, NotFoundError
from broker.store import Store, Transaction
from broker.tables import cosignatures, heads, leaves
from crypto.canonical import AgencyId
from crypto.checkpoint import MAX_SIGNATURES as MAX_LINES
from crypto.checkpoint import (
    Checkpoint,
    LogKey,
    NoteSignature,
    SignedCheckpoint,
    check_log_signature,
    key_id,
    sign_checkpoint,
    signature_line,
)
from crypto.cosign_request import CosignRequest
from crypto.entries import EntryKind, LogEntry
from crypto.errors import CheckpointError, ConsistencyError, WitnessError
from crypto.keys import SigningKey
from crypto.ledger import MerkleTree, leaf_hash
from crypto.roster import Roster
from crypto.roster_entries import AgencyRole
from crypto.tiles import TILE_HEIGHT, TilePath, pack_entries, tile_bytes
from crypto.witness import COSIGNATURE_V1, MAX_CLOCK_SKEW_S, WitnessKey, cosigned_at

_PATIENT: Final = frozenset({EntryKind.ANSWER, EntryKind.OPENED_SCORES, EntryKind.EXPUNCTION, EntryKind.MANIFEST})
"""Entries for whose cosignatures no act waits: the head of a release covers them, or the next one anyhow."""
_READ_ON: Final = 10_000
"""Leaves that are read from the store at a time."""
_FIND: Final = select(
    select(leaves.c.position).where(leaves.c.leaf_hash == bindparam("leaf_hash")).scalar_subquery().label("there"),
    select(func.max(leaves.c.position)).scalar_subquery().label("last"),
)
_ENTER: Final = leaves.insert()
_NEWER: Final = (
    select(leaves.c.position, leaves.c.leaf_hash).where(leaves.c.position >= bindparam("start")).order_by(leaves.c.position).limit(_READ_ON)
)
_SIGN: Final = insert(heads).on_conflict_do_nothing()
_SIGNED: Final = select(heads.c.note).where(heads.c.size == bindparam("size"))
"""What every entry asks of the store, built once."""


@dataclass
class _PendingHead:
    """The head that witnesses are asked to cosign, and who has."""

    size: int
    since: datetime
    signed_by: set[AgencyId] = field(default_factory=set)


class LogStore:
    """One log. `open` before anything else."""

    def __init__(self, store: Store, key: SigningKey, log: LogKey, limits: Limits) -> None:
        self._store = store
        self._key = key
        self._log = log
        self._limits = limits
        self._tree = MerkleTree()
        self._published = -1
        self._publishing: asyncio.Task[None] | None = None
        self._pending: _PendingHead | None = None
        self._urgent = 0
        """Witnesses are asked at once for a head of at least that size."""
        self._behind_since: datetime | None = None
        """Since when there is a head that is larger than the one witnesses are asked for."""
        self._witness_seen: dict[AgencyId, datetime] = {}

    @property
    def size(self) -> int:
        """Leaves that stand in the log."""
        return self._tree.size

    async def publish(self) -> None:
        """Read the leaves that the tree lacks, sign a head for the size that it has then, and wait until both are on the disk.

        Doing it again does nothing. Who calls while another waits for its turn shares that turn: what both entered was committed before it.
        """
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._publish_in_turn())
        await asyncio.shield(self._publishing)

    async def _publish_in_turn(self) -> None:
        try:
            async with self._store.writing() as connection:
                self._publishing = None
                size = await self._read_on(connection)
                if size == self._published:
                    return
                note = sign_checkpoint(Checkpoint(self._log.origin, size, self._tree.root()), self._key)
                await connection.execute(_SIGN, {"size": size, "note": note.to_bytes()})
                stored = (await connection.execute(_SIGNED, {"size": size})).scalar_one()
                if bytes(stored) != note.to_bytes():
                    raise ConsistencyError("the stored head of this size is another than the leaves give: the database was tampered with")
            self._published = max(self._published, size)  # another may have begun, and ended, while this one waited for the disk
        except BaseException:
            if self._publishing is asyncio.current_task():  # its turn never came: nobody may wait for it any more
                self._publishing = None
            raise

    async def _read_on(self, connection: Transaction) -> int:
        while True:
            rows = (await connection.execute(_NEWER, {"start": self._tree.size})).all()
            for row in rows:
                if row.position == self._tree.size:
                    self._tree.append(bytes(row.leaf_hash))
            if len(rows) < _READ_ON:
                return self._tree.size

    async def append(self, connection: Transaction, entry: LogEntry, grant_digest: bytes) -> tuple[int, bool]:
        """Where the leaf stands, and whether it is new or these very bytes were entered before; in the caller's transaction, which need not
        wait for the disk.

        `grant_digest` is the digest that the entry's subject was made of, a grant's or a roster's, or what else entries are counted by. The
        caller calls `publish` when the transaction has ended, also for a leaf that was there: only then is it promised. An entry that acts
        wait for hurries the witnesses (`pending_size`).
        """
        data = entry.to_bytes()
        digest = leaf_hash(data)
        found = (await connection.execute(_FIND, {"leaf_hash": digest})).one()
        if found.there is not None:
            return int(found.there), False
        position = 0 if found.last is None else int(found.last) + 1
        values = {"position": position, "entry": data, "leaf_hash": digest, "subject": entry.subject, "grant_digest": grant_digest}
        await connection.execute(_ENTER, values)
        if entry.kind not in _PATIENT:
            self._urgent = max(self._urgent, position + 1)
        return position, True

    # --- reading ---

    async def leaves_from(self, start: int, limit: int) -> tuple[int, list[bytes]]:
        """The log's size, and leaf data from position `start` on."""
        size = self._published
        wanted = select(leaves.c.entry).where(leaves.c.position >= start, leaves.c.position < min(size, start + limit))
        async with self._store.reading() as connection:
            rows = (await connection.execute(wanted.order_by(leaves.c.position))).scalars()
            return size, [bytes(data) for data in rows]

    def consistency_proof(self, old: int, new: int) -> tuple[bytes, ...]:
        """That the first `old` leaves are the beginning of the first `new`."""
        if not old <= new <= self._tree.size:
            raise LogSizeError("the log has not that size, or the old size is the larger one")
        return self._tree.consistency_proof(old, new)

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """That the leaf at `index` stands among the first `size`."""
        if not index < size <= self._tree.size:
            raise LogSizeError("the log has not that size, or no leaf at that index in it")
        return self._tree.inclusion_proof(index, size)

    async def tile(self, path: TilePath) -> bytes:
        """A tile or entry bundle of the log up to its newest head; `NotFoundError` for one that no head has yet."""
        height = 0 if path.level is None else path.level * TILE_HEIGHT
        if path.start + path.width > max(self._published, 0) >> height:
            raise NotFoundError("the log has no such tile")
        if path.level is not None:
            return tile_bytes(self._tree, path)
        return pack_entries((await self.leaves_from(path.start, path.width))[1])

    def check_on_this_log(self, note: SignedCheckpoint) -> None:
        """Raise `ConsistencyError` unless the log's key signed `note` and its root is the root of this log at its size."""
        try:
            check_log_signature(note, self._log)
        except CheckpointError as error:
            raise ConsistencyError("the checkpoint is not signed by this log") from error
        if note.checkpoint.size > self._tree.size or self._tree.root(note.checkpoint.size) != note.checkpoint.root:
            raise ConsistencyError("the checkpoint does not lie on this log")

    # --- heads ---

    async def checkpoint(self, min_size: int, count: int, besides: AgencyId | None = None) -> SignedCheckpoint | None:
        """The newest head of at least that size with at least so many cosignatures, with all that it has so far; None if there is none.

        The witness of an agency that is named in `besides` is not counted.
        """
        signed = func.count(cosignatures.c.agency)
        counted = cosignatures.c.size == heads.c.size
        wanted = (
            select(heads.c.size)
            .join(cosignatures, counted if besides is None else counted & (cosignatures.c.agency != besides), isouter=True)
            .where(heads.c.size >= min_size, heads.c.size <= self._published)
            .group_by(heads.c.size)
            .having(signed >= count)
            .order_by(heads.c.size.desc())
            .limit(1)
        )
        async with self._store.reading() as connection:
            size = (await connection.execute(wanted)).scalar()
            return None if size is None else await self._note(connection, int(size))

    def pending_size(self, now: datetime) -> int:
        """Size of the head that witnesses are to cosign now.

        It stays until every witness that was active lately has signed it, or until `head_stays_s` have passed, so that witnesses meet on
        one head. Then the newest takes its place: at once if it holds an entry that acts wait for, or somebody asked for a head of its size
        (`hurry`), else after `head_waits_s`, so that one head takes several entries.
        """
        pending = self._pending
        if pending is None:
            pending = self._pending = _PendingHead(self._published, now)
        if self._published > pending.size:
            self._behind_since = self._behind_since or now
            waited = now - self._behind_since >= timedelta(seconds=self._limits.head_waits_s)
            recently = now - timedelta(seconds=self._limits.active_witness_s)
            active = {agency for agency, seen in self._witness_seen.items() if seen >= recently}
            met = active <= pending.signed_by or now - pending.since >= timedelta(seconds=self._limits.head_stays_s)
            if met and (self._urgent > pending.size or waited):
                pending = self._pending = _PendingHead(self._published, now)
                self._behind_since = None
        return pending.size

    def hurry(self, size: int) -> bool:
        """Somebody waits for a cosigned head of that size: whether that is news, and there is one to be cosigned."""
        size = min(size, self._published)
        if self._pending is None or size <= max(self._urgent, self._pending.size):
            return False
        self._urgent = size
        return True

    async def cosign_request(self, size: int, old_size: int) -> CosignRequest:
        """The head of that size with its cosignatures, and that it continues the tree of `old_size` leaves if that is smaller."""
        old_size = min(old_size, size)
        proof = self._tree.consistency_proof(old_size, size) if 0 < old_size < size else ()
        async with self._store.reading() as connection:
            return CosignRequest(old_size, proof, await self._note(connection, size))

    async def cosign(self, data: bytes, agency: AgencyId, roster: Roster, now: datetime) -> SignedCheckpoint:
        """Keep the caller's cosignature, after these checks in this order; the head with all cosignatures so far.

        1. the caller is a witness in the roster (`UnknownAgencyError`)
        2. the body is a checkpoint that lies on this log (a `PeerError`, `ConsistencyError`)
        3. it bears the caller's cosignature, and that verifies (`WitnessError`), not from the future
        4. the log signed a head of that size (`NotFoundError`)

        A later cosignature of the same witness takes the place of an earlier one, an earlier one changes nothing; lines of others are not
        read.
        """
        witness = roster.agency_as(agency, AgencyRole.WITNESS).witness  # 1
        if witness is None:
            raise WitnessError("the agency has no witness key in the roster")
        note = SignedCheckpoint.from_bytes(data)  # 2
        self.check_on_this_log(note)
        line, signed_at = _cosignature(note, witness, now)  # 3
        size = note.checkpoint.size
        values = {"name": line.name, "key_id": line.key_id, "signature": line.signature, "signed_at": signed_at}
        added = insert(cosignatures).values(size=size, agency=agency, **values)
        newer = added.on_conflict_do_update(index_elements=["size", "agency"], set_=values, where=cosignatures.c.signed_at < signed_at)
        async with self._store.writing() as connection:
            if (await connection.execute(select(heads.c.size).where(heads.c.size == size))).scalar() is None:  # 4
                raise NotFoundError("the log signed no head of that size")
            await connection.execute(newer)
            merged = await self._note(connection, size)
        self._witness_seen[agency] = now
        if self._pending is not None and self._pending.size == size:
            self._pending.signed_by.add(agency)
        return merged

    async def _note(self, connection: Transaction, size: int) -> SignedCheckpoint:
        note = (await connection.execute(select(heads.c.note).where(heads.c.size == size))).scalar_one()
        latest = select(cosignatures).where(cosignatures.c.size == size).order_by(cosignatures.c.signed_at.desc()).limit(MAX_LINES - 1)
        rows: Sequence[RowMapping] = (await connection.execute(latest)).mappings().all()
        lines = (NoteSignature(row["name"], bytes(row["key_id"]), bytes(row["signature"])) for row in rows)
        return SignedCheckpoint.from_bytes(bytes(note)).with_signatures(lines)


def _cosignature(note: SignedCheckpoint, witness: WitnessKey, now: datetime) -> tuple[NoteSignature, int]:
    line = signature_line(note, witness.name, key_id(witness.name, COSIGNATURE_V1, witness.key))
    signed_at = cosigned_at(note, witness)
    if line is None or signed_at is None:
        raise WitnessError("the note bears no cosignature of the caller's witness key")
    if signed_at > now.timestamp() + MAX_CLOCK_SKEW_S:
        raise WitnessError("the cosignature is from the future; set the witness's clock")
    return line, signed_at
