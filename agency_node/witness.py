"""A witness at work: it waits for the log's new heads and cosigns those that continue the one it cosigned before.

Invariants: what this witness cosigned last is in its store, in the transaction that made the cosignature, before the cosignature leaves; so
neither a crash nor a second process makes it sign two histories. A head that is not shown to continue the last one is not signed: the node
halts, with both notes in its store. Heads that do not change are cosigned again before the cosignature is too old for others to act on.

Left to others: what a cosignature says and when it counts (`crypto.witness`), the node's own copy of the log (`follower`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Engine

from agency_node import facts
from agency_node.errors import BrokerError, BrokerRefusedError, ConfigError, HaltedError, StoreError
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.follower import bare_head
from agency_node.keyring import Keyring
from agency_node.link import LogLink
from agency_node.parties import Parties
from agency_node.store import reading
from crypto.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    check_continues,
    check_log_signature,
    key_id,
    signature_line,
)
from crypto.cosign_request import CosignRequest
from crypto.errors import ConsistencyError, PeerError
from crypto.witness import COSIGNATURE_V1, WitnessKey, cosign

RECOSIGN: Final = timedelta(seconds=120)
"""A fifth of the age at which a cosignature no longer counts."""

_WAIT_S: Final = 20
_PAUSE_S: Final = 1.0
_TIMESTAMP_BYTES: Final = 8
_LOG: Final = logging.getLogger(__name__)


class Witness:
    """The witness of the keyring's agency. `ConfigError` when the node has no witness key."""

    def __init__(self, engine: Engine, link: LogLink, parties: Parties, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        if keyring.witness_key is None:
            raise ConfigError("this node has no witness key: restore keys/witness.key, or take the witness role out of node.toml")
        self._engine, self._link, self._parties, self._clock = engine, link, parties, clock
        self._agency, self._key = keyring.agency, keyring.witness_key
        self._unsent: SignedCheckpoint | None = self._last()

    async def run(self, stop: asyncio.Event) -> None:
        """Cosign until `stop` is set or the log is seen to fork. An unreachable broker or an expired roster is waited for."""
        while not stop.is_set():
            try:
                busy = await self.step(_WAIT_S)
            except HaltedError:
                _LOG.critical("witness %s stops: the log showed a head that does not continue the one before", self._agency)
                return
            except (BrokerError, ConfigError, PeerError) as error:
                _LOG.warning("witness %s waits: %s", self._agency, type(error).__name__)
                busy = False
            if not busy:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _PAUSE_S)

    async def step(self, wait_s: int = 0) -> bool:
        """Wait for one head and cosign it if that is due; whether a cosignature left. `HaltedError` for a head that is another history."""
        self._check_not_halted()
        roster = self._parties.roster()
        witness = roster.agency(self._agency).witness
        if witness is None or witness.key != self._key.verifying_key:
            raise ConfigError("the roster does not name this node's witness key: give the public key of this node to the root holders")
        if self._unsent is not None:
            await self._send(self._unsent)
        last = self._last()
        asked = await self._link.pending(-1 if last is None else last.checkpoint.size, wait_s)
        check_log_signature(asked.note, roster.log)
        if asked.note.checkpoint.size == 0 or not self._is_due(asked.note, last, witness):
            return False
        cosigned = await self._cosign(asked, witness)
        if cosigned is None:
            return False
        await self._send(cosigned)
        return True

    def _is_due(self, note: SignedCheckpoint, last: SignedCheckpoint | None, witness: WitnessKey) -> bool:
        """Whether to cosign a head: one that is new, or the one before when its cosignature grows old. A fork is `_cosign`'s to see."""
        if last is None or note.checkpoint != last.checkpoint:
            return True
        line = signature_line(last, witness.name, key_id(witness.name, COSIGNATURE_V1, witness.key))
        if line is None:  # by a key that this witness had before
            return True
        cosigned_at = datetime.fromtimestamp(int.from_bytes(line.signature[:_TIMESTAMP_BYTES], "big"), UTC)
        return abs(self._clock() - cosigned_at) >= RECOSIGN

    async def _cosign(self, asked: CosignRequest, witness: WitnessKey) -> SignedCheckpoint | None:
        """The cosigned note, stored; None when it is an earlier head of the same history, or another process was faster."""
        last, note, proof = self._last(), asked.note, asked.proof
        log = self._parties.roster().log
        previous = Checkpoint.empty(log.origin) if last is None else last.checkpoint
        try:
            if note.checkpoint.size < previous.size:
                back = await self._link.consistency(note.checkpoint.size, previous.size)
                check_continues(note.checkpoint, previous, back)
                return None
            if 0 < previous.size != asked.old_size:  # the broker proves from another head than the one that was asked about
                proof = await self._link.consistency(previous.size, note.checkpoint.size)
            with self._engine.begin() as connection:
                if _read(connection) != last:
                    return None
                line = cosign(note, log=log, previous=previous, proof=proof, witness=witness, key=self._key, now=self._clock())
                cosigned = bare_head(note, log).with_signatures([line])
                write_fact(connection, Fact.COSIGNED, cosigned.to_bytes())
        except ConsistencyError as error:
            reason = "the log asked this witness to cosign a head that is not shown to continue the one before"
            facts.halt(self._engine, reason, b"" if last is None else last.to_bytes(), note.to_bytes())
            raise HaltedError(f"{reason}: keep this node's store, it holds the evidence, and tell the federation") from error
        return cosigned

    async def _send(self, cosigned: SignedCheckpoint) -> None:
        self._unsent = cosigned
        try:
            await self._link.cosign(cosigned)
        except BrokerRefusedError as error:
            if error.is_final:
                self._unsent = None
            raise
        self._unsent = None

    def _last(self) -> SignedCheckpoint | None:
        with reading(self._engine).begin() as connection:
            return _read(connection)

    def _check_not_halted(self) -> None:
        reason = facts.halted(self._engine)
        if reason is not None:
            raise HaltedError(f"this witness cosigns no more: {reason}. Keep its store, it holds the evidence")


def _read(connection: Connection) -> SignedCheckpoint | None:
    data = read_fact(connection, Fact.COSIGNED)
    try:
        return None if data is None else SignedCheckpoint.from_bytes(data)
    except PeerError as error:
        raise StoreError(
            "what this witness cosigned last cannot be read: take a new witness key rather than cosign two histories"
        ) from error
