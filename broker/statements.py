"""Statements that agencies sign themselves and everybody fetches here: gallery manifests and sealing keys.

Invariants: what is stored was signed by the node key that the roster gives the agency, and sent by that agency; a manifest follows the one
before; a sealing key, once published for a week or a search, stays the one for that use. Whoever fetches a statement checks all of it
again: the broker only carries the bytes.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from broker.authentication import Caller
from broker.errors import NotFoundError, NotYourStatementError, SupersededStatementError
from broker.store import Store
from broker.tables import manifests, sealing_keys
from crypto.canonical import AgencyId, SearchId
from crypto.errors import AgencyStatementError
from crypto.manifest import GalleryManifest
from crypto.roster import Roster
from crypto.sealing_key import SealingKeyStatement, Week


class Statements:
    """The latest manifest of each holder, and every sealing key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put_manifest(self, caller: Caller) -> None:
        """Store the manifest in the caller's request. After these checks, in this order:

        1. it is signed by a holder of the roster and still valid (a `PeerError`)
        2. it is the caller's own (`NotYourStatementError`)
        3. it follows the stored one (`SupersededStatementError`)
        """
        manifest = GalleryManifest.read(caller.body, caller.roster)  # 1
        manifest.check_in_force(caller.now)
        _check_own(manifest.agency, caller)  # 2
        async with self._store.writing() as connection:
            stored = (await connection.execute(select(manifests.c.document).where(manifests.c.agency == caller.agency))).scalar()
            if stored is not None:  # 3
                _check_follows(manifest, bytes(stored), caller.roster)
            values = {"agency": caller.agency, "document": caller.body}
            added = insert(manifests).values(values)
            await connection.execute(added.on_conflict_do_update(index_elements=["agency"], set_={"document": caller.body}))

    async def put_sealing_key(self, caller: Caller) -> None:
        """Store the sealing key in the caller's request. After these checks, in this order:

        1. it is signed by an agency of the roster (a `PeerError`)
        2. it is the caller's own (`NotYourStatementError`)
        3. no other key was published for the same use (`SupersededStatementError`)
        """
        statement = SealingKeyStatement.read(caller.body, caller.roster)  # 1
        _check_own(statement.agency, caller)  # 2
        use = use_text(statement.use)
        async with self._store.writing() as connection:
            added = insert(sealing_keys).values(agency=caller.agency, use=use, document=caller.body).on_conflict_do_nothing()
            await connection.execute(added)
            wanted = select(sealing_keys.c.document).where(sealing_keys.c.agency == caller.agency, sealing_keys.c.use == use)
            if bytes((await connection.execute(wanted)).scalar_one()) != caller.body:  # 3
                raise SupersededStatementError("another sealing key was published for this use")

    async def manifest(self, agency: AgencyId) -> bytes:
        """The agency's latest manifest, as signed."""
        async with self._store.reading() as connection:
            data = (await connection.execute(select(manifests.c.document).where(manifests.c.agency == agency))).scalar()
        if data is None:
            raise NotFoundError("the agency has published no manifest")
        return bytes(data)

    async def sealing_key(self, agency: AgencyId, use: Week | SearchId) -> bytes:
        """The agency's sealing key for that week or search, as signed."""
        wanted = select(sealing_keys.c.document).where(sealing_keys.c.agency == agency, sealing_keys.c.use == use_text(use))
        async with self._store.reading() as connection:
            data = (await connection.execute(wanted)).scalar()
        if data is None:
            raise NotFoundError("the agency has published no sealing key for that use")
        return bytes(data)


def use_text(use: Week | SearchId) -> str:
    """How a use stands in an address: the week's text, or the search id."""
    return use.text if isinstance(use, Week) else str(use)


def _check_own(agency: AgencyId, caller: Caller) -> None:
    if agency != caller.agency:
        raise NotYourStatementError("the statement is another agency's than the caller")


def _check_follows(manifest: GalleryManifest, stored: bytes, roster: Roster) -> None:
    try:
        before = GalleryManifest.read(stored, roster)
    except AgencyStatementError:
        return  # signed with a node key that the roster has replaced since: it counts for nobody any more
    try:
        manifest.check_follows(before)
    except AgencyStatementError as error:
        raise SupersededStatementError("the manifest is not later than the one that is stored") from error
