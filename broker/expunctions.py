"""What holders enter about their galleries: that a record was destroyed, and which record manifest they signed (R24, R25).

The entry is about no grant, and nobody but its author can say what it is of: its subject is of a handle, 32 random bytes that the author
shows here, and of the author's name. Invariants: only a holder enters these, and only its own; they have one form, so that none says
more than another. What they are counted by is kept, the handle is not. Left to others: that a record is really gone (the holder's manifest
and ledger), the tree (`log_store`), opening who and why (`openings`).
"""

from __future__ import annotations

import hashlib
from datetime import date
from typing import Final

from sqlalchemy import func, select

from broker.authentication import Caller
from broker.bell import Bell
from broker.errors import EntryError, FullLogError
from broker.log_store import LogStore
from broker.store import Store
from broker.tables import leaves
from crypto.canonical import AgencyId
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.entry_openings import check_form
from crypto.errors import CommitmentError
from crypto.moments import utc_day
from crypto.roster_entries import AgencyRole

MAX_A_DAY: Final = 1_000
"""Expunctions of one holder that a day of the broker's clock takes, half a megabyte: a court's list of ten thousand is entered in ten days,
each under the day on which its record went, and a holder that makes entries up does not fill the log. What is over waits at its node."""
MAX_MANIFESTS_A_DAY: Final = 100
"""Record manifests of one holder that a day takes: one for each batch of changes, and what is over waits at its node."""
_COUNTED: Final = b"sealmatch-1/expunctions-of-a-day\n"
_MANIFESTS: Final = b"sealmatch-1/manifests-of-a-day\n"


class Expunctions:
    """Enters them."""

    def __init__(self, store: Store, log: LogStore, bell: Bell) -> None:
        self._store = store
        self._log = log
        self._bell = bell

    async def enter(self, caller: Caller, entry_data: bytes, handle: bytes) -> tuple[int, bool]:
        """Where the entry stands, and whether it is new. After these checks, in this order:

        1. the entry is one (an `EncodingError`)
        2. the caller is a holder in the roster (`EntryError`)
        3. the entry is of kind expunction, of this handle and this caller (`EntryError`), and has the kind's form (`CommitmentError`)
        4. the caller has not entered as many today as a day takes (`FullLogError`)
        """
        return await self._enter(caller, entry_data, handle, EntryKind.EXPUNCTION, _COUNTED, MAX_A_DAY)

    async def enter_manifest(self, caller: Caller, entry_data: bytes, digest: bytes) -> tuple[int, bool]:
        """Where the entry of the record manifest of that digest stands, and whether it is new. The checks are those of `enter`; the broker
        does not see the manifest, and learns that this holder's gallery changed."""
        return await self._enter(caller, entry_data, digest, EntryKind.MANIFEST, _MANIFESTS, MAX_MANIFESTS_A_DAY)

    async def _enter(self, caller: Caller, entry_data: bytes, handle: bytes, kind: EntryKind, label: bytes, most: int) -> tuple[int, bool]:
        entry = LogEntry.from_bytes(entry_data)  # 1
        if AgencyRole.HOLDER not in caller.roster.agency(caller.agency).roles:  # 2
            raise EntryError(f"only a holder enters entries of kind {kind.value}")
        if entry.kind is not kind or entry.subject != entry_subject(entry.kind, handle, caller.agency):  # 3
            raise EntryError(f"the entry is not one of kind {kind.value} by this agency under this handle")
        check_form(entry)
        if kind is EntryKind.MANIFEST and len(entry.commitments) != 1:
            raise CommitmentError("an entry of kind manifest has one commitment")
        counted_by = _counted_by(label, caller.agency, utc_day(caller.now))
        async with self._store.writing(promises=False) as connection:
            of_today = select(func.count()).select_from(leaves).where(leaves.c.grant_digest == counted_by)
            before = (await connection.execute(of_today)).scalar_one()
            position, is_new = await self._log.append(connection, entry, counted_by)
            if is_new and before >= most:  # 4
                raise FullLogError(f"this holder has entered as many entries of kind {kind.value} today as a day takes")
        await self._log.publish()
        self._bell.ring()
        return position, is_new


def _counted_by(label: bytes, agency: AgencyId, day: date) -> bytes:
    """What stands where other leaves have their grant's digest: no grant has this one, because hashes of other labels do not meet."""
    return hashlib.sha256(label + f"{agency}\n{day.isoformat()}".encode("ascii")).digest()
