"""The roster that this broker serves: installed by its operator, never made or changed here.

Invariants: the first version was pinned to the fingerprint of the configuration, every later one follows the one before
(`TrustedRoster.update`), and each names this broker's log key, origin and operator. Other parties check all of it again: the broker only
carries the bytes. A version that another process installed is seen at the next request.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import select

from broker.config import BrokerConfig
from broker.errors import NoRosterError, NotFoundError, OperatorError
from broker.store import Store
from broker.tables import rosters
from crypto.canonical import AgencyId
from crypto.checkpoint import LogKey
from crypto.roster import Roster, TrustedRoster

_LATEST_VERSION: Final = "SELECT max(version) FROM rosters"


class RosterStore:
    """All versions that were installed, and the latest as a trusted roster."""

    def __init__(self, store: Store, config: BrokerConfig, log: LogKey) -> None:
        self._store = store
        self._config = config
        self._log = log
        self._latest: TrustedRoster | None = None

    async def trusted(self) -> TrustedRoster:
        """The latest version, expired or not; `NoRosterError` before the first."""
        version = self._store.glance(_LATEST_VERSION)
        if version is None:
            raise NoRosterError("no roster is installed")
        if self._latest is None or self._latest.version != version:
            async with self._store.reading() as connection:
                row = (await connection.execute(select(rosters).where(rosters.c.version == version))).one()
            self._latest = TrustedRoster.resume(row.document, row.fingerprint)
        return self._latest

    async def at(self, now: datetime) -> Roster:
        """The latest version's content; `RosterExpiredError` once it has expired: until a newer one is here, nothing is carried."""
        return (await self.trusted()).at(now)

    async def document(self, version: int | None = None) -> bytes:
        """The signed bytes of a version, of the latest by default."""
        if version is None:
            return (await self.trusted()).data
        async with self._store.reading() as connection:
            data = (await connection.execute(select(rosters.c.document).where(rosters.c.version == version))).scalar()
        if data is None:
            raise NotFoundError("no roster of that version was installed")
        return bytes(data)

    async def install(self, data: bytes, now: datetime) -> TrustedRoster:
        """Make `data` the latest version, for the broker's operator.

        1. the first one is pinned to the configuration's fingerprint, a later one follows (a `PeerError` of `crypto.roster`)
        2. log key, origin and operator are this broker's (`OperatorError`)
        """
        try:
            before: TrustedRoster | None = await self.trusted()
        except NoRosterError:
            before = None
        # 1
        fingerprint = bytes.fromhex(self._config.root_fingerprint)
        roster = TrustedRoster.pin(data, fingerprint, now) if before is None else before.update(data, now)
        # 2
        content = roster.possibly_expired
        if content.log != self._log or content.log_operator != AgencyId(self._config.operator):
            raise OperatorError(
                "the roster names another log key, origin or operator than this broker's; ask the root holders to correct it"
            )
        if before is None or roster.version != before.version:
            async with self._store.writing() as connection:
                values = {"version": roster.version, "document": roster.data, "fingerprint": roster.fingerprint}
                await connection.execute(rosters.insert().values(values))
        return roster
