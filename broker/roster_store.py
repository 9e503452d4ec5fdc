"""The roster that this broker serves: installed by its operator, never made or changed here.

Invariants: the first version was pinned to the fingerprint of the configuration, every later one follows the one before
(`TrustedRoster.update`), and each names this broker's log key, origin and operator; a version and its entry in the log are stored in one
transaction. Other parties check all of it again: the broker only carries the bytes, and whom it hands a roster that is not the log's last
one does nothing under it. A version that another process installed is seen at the next request, and a head over its entry is signed
before it is handed out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import select

from broker.config import BrokerConfig
from broker.errors import NoRosterError, NotFoundError, OperatorError
from broker.log_store import LogStore
from broker.store import Store
from broker.tables import leaves, rosters
from crypto.canonical import AgencyId
from crypto.checkpoint import LogKey
from crypto.moments import utc_day
from crypto.roster import Roster, TrustedRoster
from crypto.roster_change import roster_entry

_LATEST_VERSION: Final = "SELECT max(version) FROM rosters"


class RosterStore:
    """All versions that were installed, and the latest as a trusted roster."""

    def __init__(self, store: Store, config: BrokerConfig, log_key: LogKey, log: LogStore) -> None:
        self._store = store
        self._config = config
        self._log_key = log_key
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
            latest = TrustedRoster.resume(row.document, row.fingerprint)
            await self._log.publish()
            self._latest = latest
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

        Its entry goes into the log with it, also when the version is here already and its entry is not.
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
        if content.log != self._log_key or content.log_operator != AgencyId(self._config.operator):
            raise OperatorError(
                "the roster names another log key, origin or operator than this broker's; ask the root holders to correct it"
            )
        entry = roster_entry(content, utc_day(now))
        async with self._store.writing() as connection:
            if before is None or roster.version != before.version:
                values = {"version": roster.version, "document": roster.data, "fingerprint": roster.fingerprint}
                await connection.execute(rosters.insert().values(values))
            entered = select(leaves.c.position).where(leaves.c.subject == entry.subject).limit(1)
            if (await connection.execute(entered)).scalar() is None:
                await self._log.append(connection, entry, content.digest)
        await self._log.publish()
        return roster
