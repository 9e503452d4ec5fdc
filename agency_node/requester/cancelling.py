"""A requester takes a search back: key and probe are destroyed at once, and whoever was told of the search is told of its end.

Two steps. `cancel_search` is the command's: in one transaction the search becomes `cancelled`, its key and probe are destroyed, and what
waits to be sent is dropped. `queue_withdrawals` is the serving node's: every party to which a message of the search has left is sent one
notice, a refusal with the reason `withdrawn` that names the grant's digest. What was on the wire at the moment of the command arrives; its
notice follows it. The notice says what broker and parties knew already: that this search existed.

Invariants: nothing of a cancelled search leaves but notices; a search that never left leaves none. Left to others: what a holder and a
custodian do then (`grants`), late answers (`searching` refuses them).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, select, update

from agency_node.errors import RequestError
from agency_node.journal import record
from agency_node.legal.review import GRANTED, UNDECIDED
from agency_node.outbox import MESSAGE, READY, SENT, Conversation, Outbox
from agency_node.outbox import REFUSED as NOT_SENT
from agency_node.tables import outbox, searches
from crypto.canonical import AgencyId
from crypto.grant_claims import GrantClaims
from crypto.message_types import MessageType
from crypto.notices import Refusal, RefusalReason
from crypto.wire import MessageId

CANCELLED: Final = "cancelled"
CANCELLABLE: Final = (*UNDECIDED, GRANTED, "submitted", "logged", "sent")


def cancel_search(engine: Engine, search_id: str, now: datetime) -> bool:
    """Take a search back; whether anything of it may have left. `RequestError` when it has ended or was released."""
    with engine.begin() as connection:
        state = connection.execute(select(searches.c.state).where(searches.c.search_id == search_id)).scalar()
        if state is None:
            raise RequestError("this agency asked for no such search: a search is cancelled by who asked for it")
        if state not in CANCELLABLE:
            raise RequestError(f"this search is {state}: only one that was not released and has not ended is cancelled")
        values = {"state": CANCELLED, "note": "cancelled by the requester", "sealed_search_key": None, "probe": None}
        connection.execute(update(searches).where(searches.c.search_id == search_id).values(**values))
        of_search = outbox.c.search_id == search_id
        dropped = update(outbox).where(of_search, outbox.c.state == READY)
        connection.execute(dropped.values(state=NOT_SENT, data=None, note="the search was cancelled"))
        record(connection, now, search_id, CANCELLED, "search key and probe destroyed")
        return connection.execute(select(outbox.c.number).where(of_search, outbox.c.state == SENT)).first() is not None


def queue_withdrawals(connection: Connection, queue: Outbox, claims: GrantClaims) -> None:
    """One notice to each party to which a message of this cancelled search has left, and that was sent none yet."""
    of_refusals = select(outbox.c.recipient).where(outbox.c.search_id == str(claims.search_id), outbox.c.kind == MESSAGE)
    noticed = set(connection.execute(of_refusals.where(outbox.c.name == str(MessageType.REFUSAL))).scalars())
    told = [agency for agency in parties_told(connection, claims.search_id) if agency not in noticed]
    queue_notices(connection, queue, claims, told, RefusalReason.WITHDRAWN)


def parties_told(connection: Connection, search_id: str) -> list[AgencyId]:
    """The parties to which a message of this search has left, other than refusals."""
    left = select(outbox.c.recipient).where(outbox.c.search_id == str(search_id), outbox.c.kind == MESSAGE, outbox.c.state == SENT)
    told = connection.execute(left.where(outbox.c.name != str(MessageType.REFUSAL)).distinct()).scalars()
    return [AgencyId(one) for one in sorted(told)]


def queue_notices(connection: Connection, queue: Outbox, claims: GrantClaims, parties: Sequence[AgencyId], reason: RefusalReason) -> None:
    """One notice to each of these parties: the grant, which it names, has ended for that reason."""
    for agency in parties:
        queue.open(connection, MessageType.REFUSAL, Refusal(MessageId(claims.digest.hex()), reason), Conversation.of(claims), agency)
