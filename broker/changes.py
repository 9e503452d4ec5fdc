"""Pack changes in the log: that an agency decides by another policy pack from now on, entered with two persons' approval of it.

The entry is about no grant. Its subject is that of the pack's hash and the agency, so that whoever has the pack finds it in the public log;
the approval names persons that the roster names, and a pack that the agency publishes. Invariants: nobody enters a change without a whole
approval of the calling agency's; an agency enters a pack a limited number of times, so that one approval does not fill the log. Left to
others: who approves (`crypto.pack_approval`), the tree (`log_store`).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select

from broker.authentication import Caller
from broker.bell import Bell
from broker.errors import EntryError, FullLogError
from broker.log_store import LogStore
from broker.store import Store
from broker.tables import leaves
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.pack_approval import verify_approval

MAX_TIMES: Final = 64
"""How often one agency may change to one pack: back and forth between two for years."""
_NO_GRANT: Final = b""


class PackChanges:
    """Enters them."""

    def __init__(self, store: Store, log: LogStore, bell: Bell) -> None:
        self._store = store
        self._log = log
        self._bell = bell

    async def enter(self, caller: Caller, entry_data: bytes, approval_data: bytes) -> tuple[int, bool]:
        """Where the entry stands, and whether it is new. After these checks, in this order:

        1. the entry is one (an `EncodingError`), and the approval is whole under the roster (`verify_approval`: a `PeerError`)
        2. it is the calling agency's, and the entry is of kind pack change about this very pack (`EntryError`)
        3. the agency has not changed to this pack more often than it can need (`FullLogError`)
        """
        entry = LogEntry.from_bytes(entry_data)  # 1
        approval = verify_approval(approval_data, caller.roster).approval
        if approval.agency != caller.agency:  # 2
            raise EntryError("the approval is another agency's")
        if entry.kind is not EntryKind.PACK_CHANGE or entry.subject != entry_subject(entry.kind, approval.pack_sha256, caller.agency):
            raise EntryError("the entry is not that of a change to this pack by this agency")
        async with self._store.writing() as connection:
            of_pack = select(func.count()).select_from(leaves).where(leaves.c.subject == entry.subject)
            before = (await connection.execute(of_pack)).scalar_one()
            position, is_new = await self._log.append(connection, entry, _NO_GRANT)
            if is_new and before >= MAX_TIMES:  # 3
                raise FullLogError("this agency has entered this pack as often as it can need")
        await self._log.publish()
        self._bell.ring()
        return position, is_new
