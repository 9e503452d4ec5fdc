"""What the broker throws away by itself: messages that nobody may collect any more.

Invariants: content goes with the expiry of its grant, or for messages of no search after a week, and is then in the database file no more.
The log, grants' four values and receipts are kept. A sweep that fails is tried again at the next turn.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select

from broker.config import Limits
from broker.mailbox import DELIVERED
from broker.store import Store, milliseconds
from broker.tables import grants, messages


async def sweep(store: Store, limits: Limits, now: datetime) -> int:
    """Delete what has had its time; how many messages that were."""
    expired = select(grants.c.digest).where(grants.c.expires <= milliseconds(now))
    gossip_before = milliseconds(now - timedelta(seconds=limits.gossip_kept_s))
    old = messages.c.grant_digest.in_(expired) | (messages.c.grant_digest.is_(None) & (messages.c.arrived_at <= gossip_before))
    async with store.writing() as connection:
        purged = (await connection.execute(delete(messages).where(old, messages.c.state != DELIVERED))).rowcount
    if purged:
        await store.forget_deleted()
    return purged
