"""Whom this node trusts: the roster under the pinned root set, and what agencies sign themselves, manifests and sealing keys.

The broker only carries these documents. Invariants: a roster is stored only after it followed the stored one; a manifest or sealing key is
handed out only if the node key in the trusted roster signed it, it is of the agency and the use that were asked for, and it is in force;
a manifest never goes back to an earlier version. Two rosters of one version, duly signed, halt the node, with both as evidence.

What an agency may change, its manifest and its key of the week, is asked for anew every `FRESH`; if the broker has no answer, what is
stored and still in force serves. HAZARD: a broker can hold newer manifests back that long, and longer, until the last one expires.

Left to others: publishing this node's own statements (`keyring`, roles), what roles a search's parties need (`crypto.grant`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.sqlite import insert

from agency_node.errors import BrokerError, ConfigError, StoreError
from agency_node.facts import Fact, halt, read_fact, write_fact
from agency_node.link import StatementLink
from agency_node.tables import statements
from crypto.canonical import AgencyId, SearchId
from crypto.errors import AgencyStatementError, PeerError, RosterForkError, RosterPinError, RosterThresholdError
from crypto.fields import DIGEST_BYTES, Fields
from crypto.manifest import MANIFEST_KIND, GalleryManifest
from crypto.roster import Roster, TrustedRoster, read_unverified_roster
from crypto.sealing_key import SealingKeyStatement, Week
from crypto.signed import read_document

_T = TypeVar("_T", GalleryManifest, SealingKeyStatement)
FRESH: Final = timedelta(minutes=10)
MAX_CHAIN: Final = 256
"""Versions that a node which was away fetches at most, to follow root sets from one to the next."""

_MANIFEST: Final = "manifest"
_SEALING_KEY: Final = "sealing-key"


class Parties:
    """The trusted roster and statements of one node. `fingerprint` is that of the root set which the node was told at `init`."""

    def __init__(self, engine: Engine, link: StatementLink, fingerprint: bytes, clock: Callable[[], datetime]) -> None:
        self._engine, self._link, self._fingerprint, self._clock = engine, link, fingerprint, clock
        self._asked_at: dict[_Place, datetime] = {}
        self._asking: set[asyncio.Task[None]] = set()
        with engine.begin() as connection:
            self._trusted = self._stored(connection)

    @property
    def trusted(self) -> TrustedRoster:
        """The trusted roster, expired or not; `ConfigError` while there is none."""
        if self._trusted is None:
            raise ConfigError("no roster was pinned yet: let the node reach its broker once, or check root_fingerprint in node.toml")
        return self._trusted

    def roster(self) -> Roster:
        """What the trusted roster says now; `RosterExpiredError` once it has expired, `ConfigError` while there is none."""
        return self.trusted.at(self._clock())

    async def refresh(self) -> TrustedRoster:
        """Fetch the broker's roster and trust it if it follows from what is trusted already; otherwise nothing changes.

        Raises what `TrustedRoster.pin` and `update` raise. A fork proves that root holders signed two rosters of one version: it halts the
        node before it is raised.
        """
        data = await self._link.roster()
        with self._engine.begin() as connection:  # another process of this node may have stored a newer one
            self._trusted = self._stored(connection)
        chain = await self._chain(data)
        now = self._clock()
        try:
            after = TrustedRoster.pin(data, self._fingerprint, now) if self._trusted is None else self._trusted.follow(chain, now)
        except RosterForkError:
            halt(self._engine, "root holders signed two rosters of one version: show both to every root holder", self.trusted.data, data)
            raise
        with self._engine.begin() as connection:
            stored = self._stored(connection)
            if stored is None or stored.version < after.version:
                write_fact(connection, Fact.ROSTER, after.data)
                write_fact(connection, Fact.ROOT_FINGERPRINT, self._fingerprint + after.fingerprint)
        self._trusted = after
        return after

    async def manifest(self, agency: AgencyId) -> GalleryManifest:
        """A holder's newest manifest that is in force; a `RosterError` for one that is not to be believed, `BrokerError` for none."""

        def read(data: bytes) -> GalleryManifest:
            manifest = GalleryManifest.read(data, self.roster())
            _check_agency(manifest.agency, agency)
            manifest.check_in_force(self._clock())
            return manifest

        return await self._newest(_Place(agency, _MANIFEST, ""), read, lambda: self._link.manifest(agency))

    async def week_key(self, agency: AgencyId) -> SealingKeyStatement:
        """An agency's sealing key for the present week; raises as `manifest`."""
        week = Week.at(self._clock())

        def read(data: bytes) -> SealingKeyStatement:
            statement = SealingKeyStatement.read(data, self.roster())
            _check_agency(statement.agency, agency)
            statement.check_week(self._clock())
            return statement

        return await self._newest(_Place(agency, _SEALING_KEY, week.text), read, lambda: self._link.sealing_key(agency, week))

    async def search_key(self, agency: AgencyId, search_id: SearchId) -> SealingKeyStatement:
        """An agency's sealing key for one search, which never changes: asked for until it is here. Raises as `manifest`."""

        def read(data: bytes) -> SealingKeyStatement:
            statement = SealingKeyStatement.read(data, self.roster())
            _check_agency(statement.agency, agency)
            statement.check_search(search_id)
            return statement

        place = _Place(agency, _SEALING_KEY, search_id)
        stored = self._usable(place, read)
        return stored or await self._fetched(place, read, lambda: self._link.sealing_key(agency, search_id))

    def ask_ahead(self, requester: AgencyId, search_id: SearchId, others: Sequence[AgencyId]) -> None:
        """Begin to fetch the keys that answers and releases of a search are sealed to, beside the work; returns at once.

        What does not come is asked for again by who needs it, and every check is made there again.
        """

        async def ask() -> None:
            with contextlib.suppress(BrokerError, PeerError):
                await self.search_key(requester, search_id)
            for other in others:
                with contextlib.suppress(BrokerError, PeerError):
                    await self.week_key(other)

        asking = asyncio.create_task(ask(), name="sealmatch-keys")
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _newest(self, place: _Place, read: Callable[[bytes], _T], fetch: Callable[[], Awaitable[bytes]]) -> _T:
        stored, asked_at = self._usable(place, read), self._asked_at.get(place)
        if stored is not None and asked_at is not None and abs(self._clock() - asked_at) < FRESH:
            return stored
        try:
            return await self._fetched(place, read, fetch)
        except BrokerError:
            if stored is None:
                raise
            return stored

    async def _fetched(self, place: _Place, read: Callable[[bytes], _T], fetch: Callable[[], Awaitable[bytes]]) -> _T:
        data = await fetch()
        value = read(data)
        with self._engine.begin() as connection:
            before = _document_at(connection, place)
            if place.kind == _MANIFEST and before is not None:
                _check_follows(data, before)
            row = {"agency": str(place.agency), "kind": place.kind, "use": place.use, "document": data}
            statement = insert(statements).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=["agency", "kind", "use"], set_={"document": data}))
        self._asked_at[place] = self._clock()
        return value

    def _usable(self, place: _Place, read: Callable[[bytes], _T]) -> _T | None:
        """What is stored, if it is still to be believed: the roster may have given the agency another key since."""
        self.roster()  # an expired roster is no reason to ask the broker for another statement
        with self._engine.begin() as connection:
            data = _document_at(connection, place)
        if data is None:
            return None
        try:
            return read(data)
        except PeerError:
            return None

    async def _chain(self, data: bytes) -> list[bytes]:
        """The broker's roster, and before it the versions in between when one root set has to lead to the next."""
        if self._trusted is None:
            return [data]
        try:
            self._trusted.update(data, self._clock())
        except RosterThresholdError:
            between = range(self._trusted.version + 1, read_unverified_roster(data).version)
            if len(between) > MAX_CHAIN:
                raise
            return [*[await self._link.roster_version(version) for version in between], data]
        except PeerError:
            pass  # raised again where it counts
        return [data]

    def _stored(self, connection: Connection) -> TrustedRoster | None:
        data = read_fact(connection, Fact.ROSTER)
        if data is None:
            return None
        fingerprints = read_fact(connection, Fact.ROOT_FINGERPRINT) or b""
        told, current = fingerprints[:DIGEST_BYTES], fingerprints[DIGEST_BYTES:]
        # After a rotation the current root set is another than the one told; but only what began with the one told now counts.
        try:
            return TrustedRoster.resume(data, current if told == self._fingerprint else self._fingerprint)
        except RosterPinError as error:
            raise ConfigError("the stored roster began with another root set than root_fingerprint in node.toml: mend node.toml") from error
        except PeerError as error:
            raise StoreError("the stored roster does not verify: the store was changed; restore it from its backup") from error


@dataclass(frozen=True)
class _Place:
    """Where a statement stands in the store; `use` is empty for manifests."""

    agency: AgencyId
    kind: str
    use: str


def _document_at(connection: Connection, place: _Place) -> bytes | None:
    there = (statements.c.agency == str(place.agency)) & (statements.c.kind == place.kind) & (statements.c.use == place.use)
    return connection.execute(select(statements.c.document).where(there)).scalar_one_or_none()


def _check_agency(said: AgencyId, expected: AgencyId) -> None:
    if said != expected:
        raise AgencyStatementError("the statement is another agency's than the one that was asked for")


def _check_follows(data: bytes, before: bytes) -> None:
    """`GalleryManifest.check_follows` of documents: the older was verified under a node key that may have been replaced since."""
    new, old = (Fields(read_document(MANIFEST_KIND, document).unverified_content, "manifest") for document in (data, before))
    if new.as_object() != old.as_object() and new.integer("version") <= old.integer("version"):
        raise AgencyStatementError("manifest does not follow the one before")
