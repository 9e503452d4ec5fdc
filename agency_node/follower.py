"""The node's copy of the log, and the question it answers before every act: is this grant in the log that everybody sees, and not ended?

The copy lies in table `log_leaves` and, as `crypto.mirror.LogMirror`, in memory. Invariants: a leaf is stored only under a head that the
log signed and whose root the leaves give, in one transaction a batch; the latest head never goes back; nothing is allowed on a head that
the witnesses of the search did not cosign within the allowed age, and nothing under a roster that is not the last one in the log. A head
with the log's signature that this copy contradicts is proof of a fork: the node halts, with both notes in its store, and allows nothing
any more.

HAZARD: the methods open transactions of their own; called inside one they wait for themselves.

Left to others: which act needs the check (the roles), cosigning (`witness`), what a revocation means for a search (`courier`, roles).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlalchemy import Connection, Engine, insert, select

from agency_node import facts
from agency_node.errors import BrokerError, HaltedError, StoreError
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.link import MAX_LEAVES, MAX_WAIT_S, LogLink
from agency_node.parties import Parties
from agency_node.tables import log_leaves
from crypto.canonical import AgencyId
from crypto.checkpoint import NOTE_ED25519, Checkpoint, LogKey, SignedCheckpoint, check_log_signature, key_id
from crypto.entries import EntryKind, LogEntry
from crypto.errors import (
    ConsistencyError,
    InclusionError,
    LogError,
    MirrorError,
    PeerError,
    StaleCheckpointError,
    UnloggedRosterError,
    WitnessError,
)
from crypto.ledger import check_consistency
from crypto.mirror import LogMirror
from crypto.witness import CheckpointPolicy, check_checkpoint

ACT_WAIT_S: Final = 3.0
"""How long an act waits for a head that allows it before it is put off."""
ROSTER_AGAIN: Final = timedelta(seconds=10)
"""How long a roster that the log has and this node has not is not asked for again: it may be long, and many messages may wait for it."""
_AGAIN_S: Final = 0.05
"""Between two looks for a head that more witnesses have cosigned."""


class ActingParties(Protocol):
    """What of a grant's terms or claims decides whose cosignatures count."""

    @property
    def requesting_agency(self) -> AgencyId: ...
    @property
    def originating_agency(self) -> AgencyId: ...
    @property
    def holders(self) -> tuple[AgencyId, ...]: ...
    @property
    def custodians(self) -> tuple[AgencyId, ...]: ...


class LogFollower:
    """One node's copy of the log. `StoreError` when the stored copy does not fit the latest head that was stored with it."""

    def __init__(self, engine: Engine, link: LogLink, parties: Parties, clock: Callable[[], datetime]) -> None:
        self._engine, self._link, self._parties, self._clock = engine, link, parties, clock
        self._lock = asyncio.Lock()
        self._latest: SignedCheckpoint | None = None
        self._waited_for: set[tuple[bytes, EntryKind | None]] = set()
        self._roster_asked_at: datetime | None = None
        self._expected = 0
        self._mirror = LogMirror()
        self._reload()

    @property
    def latest(self) -> SignedCheckpoint | None:
        """The newest head that this copy reaches, with the cosignatures it had; None before the first."""
        return self._latest

    @property
    def mirror(self) -> LogMirror:
        """The copy itself, for proofs; not to be appended to."""
        return self._mirror

    def expect(self, index: int) -> None:
        """The broker says that a grant of this node stands there: the next act asks for a head with it at once, and not for an older one
        first. Once, so that a false number delays one act."""
        self._expected = max(self._expected, index + 1)

    def halted(self) -> str | None:
        """Why this node acts no more; None while it does."""
        return facts.halted(self._engine)

    async def follow(self, min_size: int = 0, wait_s: int = 0) -> Checkpoint:
        """Read the log up to its newest head; `MirrorError` when the broker has none of at least `min_size` leaves within `wait_s`."""
        note = await self._link.checkpoint(min_size=min_size, wait_s=wait_s)
        if note is None or note.checkpoint.size < min_size:
            raise MirrorError(f"the log has no head of {min_size} leaves yet: ask again")
        await self._reach(note)
        return note.checkpoint

    async def fresh(self, policy: CheckpointPolicy, min_size: int = 0, wait_s: float = 20) -> SignedCheckpoint:
        """A head of at least `min_size` leaves on which `policy` lets act now, with the copy read up to it.

        Looks again while cosignatures are coming; after `wait_s` it raises the `WitnessError` or `StaleCheckpointError` of the last look.
        `HaltedError` when the head contradicts the copy.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        last: PeerError = WitnessError("no head has cosignatures of enough witnesses: check that the federation's witnesses run")
        while True:
            left = max(until - loop.time(), 0)
            note = await self._link.checkpoint(min_size=min_size, cosignatures=policy.least_lines, wait_s=min(int(left), MAX_WAIT_S))
            if note is not None and note.checkpoint.size >= min_size:
                try:
                    check_checkpoint(note, policy, now=self._clock())
                except (WitnessError, StaleCheckpointError) as error:
                    last = error
                else:
                    await self._reach(note, verified=True)
                    return note
            if loop.time() + _AGAIN_S >= until:
                raise last
            await asyncio.sleep(_AGAIN_S)

    async def check_act(
        self, grant: ActingParties, grant_digest: bytes, entered: EntryKind | None = None, wait_s: float = ACT_WAIT_S
    ) -> Checkpoint:
        """Raise unless an act of this grant is allowed now; the head that allows it.

        1. this node has not halted (`HaltedError`)
        2. a head with cosignatures of a majority of the witnesses, as the roster's `checkpoint_policy` for this grant counts them, is fresh
            (`fresh`)
        3. the log under it, read to its end, holds the roster that this node trusts as its last one (`UnloggedRosterError`), the grant and,
           when asked for, its entry of the kind `entered` (`InclusionError`), and no end of it (`RevokedError`)
        4. this node has still not halted

        A head that lacks an entry which is on its way is waited for, `wait_s` in all, and once for each grant and entry: whoever never
        enters a grant holds this node up no second time. A roster that the log has and this node has not is fetched, and all is asked
        again.
        """
        try:
            return await self._checked(grant, grant_digest, entered, wait_s)
        except UnloggedRosterError:
            if not await self._has_newer_roster():
                raise
        return await self._checked(grant, grant_digest, entered, wait_s)

    async def _has_newer_roster(self) -> bool:
        """Ask the broker for its roster, unless that was done a moment ago; whether a newer one is trusted now."""
        now, before = self._clock(), self._parties.trusted.version
        if self._roster_asked_at is not None and abs(now - self._roster_asked_at) < ROSTER_AGAIN:
            return False
        self._roster_asked_at = now
        with contextlib.suppress(BrokerError, PeerError):  # what is wrong with the roster is said where rosters are refreshed
            await self._parties.refresh()
        self._check_not_halted()
        return self._parties.trusted.version > before

    async def _checked(self, grant: ActingParties, grant_digest: bytes, entered: EntryKind | None, wait_s: float) -> Checkpoint:
        self._check_not_halted()  # 1
        parties = (grant.requesting_agency, grant.originating_agency)
        policy = self._parties.roster().checkpoint_policy(parties=parties, holders=grant.holders, custodians=grant.custodians)
        if (grant_digest, entered) in self._waited_for:
            wait_s = 0
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        expected, self._expected = self._expected, 0
        note = await self.fresh(policy, expected, wait_s)  # 2
        while missing := self._missing(grant_digest, entered, note.checkpoint):  # 3
            try:
                note = await self.fresh(policy, note.checkpoint.size + 1, max(until - loop.time(), 0))
            except (WitnessError, StaleCheckpointError):
                self._waited_for.add((grant_digest, entered))
                raise missing from None
        self._check_not_halted()  # 4
        return note.checkpoint

    def _missing(self, grant_digest: bytes, entered: EntryKind | None, checkpoint: Checkpoint) -> LogError | None:
        """What the log under this checkpoint lacks for an act; raises for a grant that has ended."""
        try:
            self._mirror.check_roster(self._parties.roster().digest, checkpoint)
            self._mirror.check_not_revoked(grant_digest, checkpoint)
            if entered is not None:
                self._mirror.check_entered(entered, grant_digest, checkpoint)
        except (InclusionError, UnloggedRosterError) as error:
            return error
        return None

    async def connect(self, note_bytes: bytes) -> None:
        """Compare the head in a peer's message with this copy, which is read further first where the head is ahead of it.

        A `PeerError` for what is no head of this log, `MirrorError` when the broker does not hand out leaves up to it, `HaltedError` for
        proof of a fork.
        """
        await self._reach(SignedCheckpoint.from_bytes(note_bytes))

    async def _reach(self, note: SignedCheckpoint, *, verified: bool = False) -> None:
        """Read the copy up to `note` and make it the latest head if it is.

        Unless its cosignatures are `verified`, only the log's signature is kept of it: a peer's false line would spoil the note for others.
        """
        log = self._parties.roster().log
        check_log_signature(note, log)
        async with self._lock:
            while self._mirror.tree.size < note.checkpoint.size:
                await self._read_batch(note)
            if self._mirror.tree.root(note.checkpoint.size) != note.checkpoint.root:
                self._halt("the log signed a head that this node's copy of it contradicts", note)
            self._persist(note if verified else bare_head(note, log), replace=verified)

    async def _read_batch(self, note: SignedCheckpoint) -> None:
        """One batch of leaves under `note`: parsed, proven against its root, stored and appended; or nothing at all."""
        start, end = self._mirror.tree.size, note.checkpoint.size
        size, leaves = await self._link.leaves(start, min(MAX_LEAVES, end - start))
        if not leaves or size < end:
            raise MirrorError("the broker hands out no leaves up to a head that the log signed: ask again, or tell its operator")
        for leaf in leaves:
            LogEntry.from_bytes(leaf)  # before any is appended: what cannot be read must not cost a reading of the whole copy
        reached = start + len(leaves)
        proof = await self._link.consistency(reached, end) if reached < end else ()
        try:
            with self._engine.begin() as connection:
                self._catch_up(connection)
                if self._mirror.tree.size != start:
                    return  # another process of this node stored leaves meanwhile
                rows = [{"position": start + offset, "data": leaf} for offset, leaf in enumerate(leaves)]
                connection.execute(insert(log_leaves), rows)
                for leaf in leaves:
                    self._mirror.append(leaf)
                check_consistency(reached, self._mirror.tree.root(), end, note.checkpoint.root, proof)
        except ConsistencyError:
            self._reload()
            self._halt("the leaves that the broker hands out are not those under the head that the log signed", note)
        except BaseException:
            self._reload()
            raise

    def _persist(self, note: SignedCheckpoint, *, replace: bool) -> None:
        """`note` becomes the latest head unless a larger one is here; one of the same size only if it is to `replace` that."""
        with self._engine.begin() as connection:
            stored = read_fact(connection, Fact.CHECKPOINT)
            latest = None if stored is None else SignedCheckpoint.from_bytes(stored)
            if latest is None or note.checkpoint.size >= latest.checkpoint.size + (not replace):
                write_fact(connection, Fact.CHECKPOINT, note.to_bytes())
                latest = note
        self._latest = latest

    def _halt(self, reason: str, shown: SignedCheckpoint) -> None:
        held = b"" if self._latest is None else self._latest.to_bytes()
        facts.halt(self._engine, reason, held, shown.to_bytes())
        raise HaltedError(f"{reason}: keep this node's store, it holds the evidence, and tell the federation's witnesses")

    def _check_not_halted(self) -> None:
        reason = self.halted()
        if reason is not None:
            raise HaltedError(f"this node acts no more: {reason}. Keep its store, it holds the evidence")

    def _reload(self) -> None:
        mirror = LogMirror()
        try:
            with self._engine.begin() as connection:
                for leaf in connection.execute(select(log_leaves.c.data).order_by(log_leaves.c.position)).scalars():
                    mirror.append(leaf)
                stored = read_fact(connection, Fact.CHECKPOINT)
            latest = None if stored is None else SignedCheckpoint.from_bytes(stored)
            if latest is not None:
                mirror.check_at(latest.checkpoint)
        except PeerError as error:
            raise StoreError("this node's copy of the log is damaged: restore the store from its backup") from error
        self._mirror, self._latest = mirror, latest

    def _catch_up(self, connection: Connection) -> None:
        later = select(log_leaves.c.data).where(log_leaves.c.position >= self._mirror.tree.size).order_by(log_leaves.c.position)
        for leaf in connection.execute(later).scalars():
            self._mirror.append(leaf)


def bare_head(note: SignedCheckpoint, log: LogKey) -> SignedCheckpoint:
    """The head with the log's signature alone; `CheckpointError` when that does not verify."""
    check_log_signature(note, log)
    identity = key_id(log.origin, NOTE_ED25519, log.key)
    return SignedCheckpoint(note.checkpoint, tuple(line for line in note.signatures if (line.name, line.key_id) == (log.origin, identity)))
