"""All services of one broker, as `app` composes them and `api` uses them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from broker.authentication import Authentication
from broker.bell import Bell
from broker.changes import PackChanges
from broker.config import BrokerConfig, Limits
from broker.expunctions import Expunctions
from broker.folder import load_log_key
from broker.grants import Grants
from broker.log_store import LogStore
from broker.mailbox import Mailbox
from broker.openings import Openings
from broker.roster_store import RosterStore
from broker.statements import Statements
from broker.store import Store
from crypto.checkpoint import LogKey

Clock = Callable[[], datetime]
"""Aware moments. The one place where a broker asks for the time."""


@dataclass(frozen=True)
class Services:
    """One broker, open. `open` builds it, `close` ends it."""

    store: Store
    rosters: RosterStore
    authentication: Authentication
    log: LogStore
    grants: Grants
    pack_changes: PackChanges
    expunctions: Expunctions
    openings: Openings
    mailbox: Mailbox
    statements: Statements
    bell: Bell
    limits: Limits
    clock: Clock

    @classmethod
    async def open(cls, config: BrokerConfig, clock: Clock, bell: Bell) -> Services:
        """The services over the folder's store and key; the log is read, and its head signed."""
        limits, key = config.limits, load_log_key(config.folder)
        log_key = LogKey(config.origin, key.verifying_key)
        store = await Store.open(config.database_url)
        log = LogStore(store, key, log_key, limits)
        rosters = RosterStore(store, config, log_key, log)
        grants = Grants(store, rosters, log, bell, limits)
        services = cls(
            store=store,
            rosters=rosters,
            authentication=Authentication(rosters, limits, clock),
            log=log,
            grants=grants,
            pack_changes=PackChanges(store, log, bell),
            expunctions=Expunctions(store, log, bell),
            openings=Openings(store, grants, log),
            mailbox=Mailbox(store, grants, log, key, bell, limits),
            statements=Statements(store),
            bell=bell,
            limits=limits,
            clock=clock,
        )
        try:
            await log.publish()
        except BaseException:
            await store.close()
            raise
        return services

    def wait(self, wait_s: float) -> float:
        """As long as the caller asks for, but not longer than a connection may stay silent."""
        return min(wait_s, self.limits.max_wait_s)

    async def close(self) -> None:
        """End waits and connections."""
        self.bell.stop()
        await self.store.close()
