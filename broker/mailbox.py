"""The mailbox: messages in parts, handed out under leases, deleted when they are acknowledged.

Invariants: nothing of a message is stored before its first part, which holds the whole frame header, passed every check of `_admit`; a
message is handed out only when its parts hash to its id and its frame is signed by the sender's node key, else all of it is forgotten; two
polls never hold one message; a message that was acknowledged is gone from the database and its write-ahead log before the receipt leaves.
The broker delivers at least once: doing an effect once is the node's affair (`inbox`).

Left to others: who may send what to whom (`parties`), grants (`grants`), long polls (`bell`), purging what nobody collects (`sweep`).
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Row, delete, exists, func, insert, select, update

from broker.authentication import Caller
from broker.bell import Bell
from broker.config import Limits
from broker.errors import (
    BusyStoreError,
    FullMailboxError,
    NotFoundError,
    PartConflictError,
    PartOrderError,
    RouteError,
    SequenceUsedError,
    UnknownLeaseError,
)
from broker.grants import Grants
from broker.log_store import LogStore
from broker.parties import check_route
from broker.store import Store, Transaction, milliseconds, moment_of
from broker.tables import messages, parts
from crypto.canonical import AgencyId, b64url_encode
from crypto.errors import CheckpointError, ConsistencyError, OversizedError, PeerError
from crypto.frame import MessageHeader, read_header
from crypto.keys import SigningKey
from crypto.mailbox_receipt import MailboxReceipt
from crypto.message_check import MessageCheck
from crypto.moments import format_moment, round_moment
from crypto.parts import PIECE_BYTES, Part
from crypto.wire import MessageId

INCOMPLETE: Final = "incomplete"
QUEUED: Final = "queued"
LEASED: Final = "leased"
DELIVERED: Final = "delivered"
_LEASE_ID_BYTES: Final = 16
_CHECKS: Final = 32
"""Messages that are checked as they come; each takes 130 kB at most."""
_FOR_EVER: Final = 1 << 62


@dataclass(frozen=True)
class MessageState:
    """How far a message is; `receipt` is there once it is delivered."""

    state: str
    missing: tuple[int, ...] = ()
    receipt: bytes | None = None

    def to_json(self) -> dict[str, object]:
        """As the API gives it."""
        members: dict[str, object] = {"state": self.state, "missing": list(self.missing)}
        return members if self.receipt is None else {**members, "receipt": b64url_encode(self.receipt)}


class Mailbox:
    """All messages that this broker holds."""

    def __init__(self, store: Store, grants: Grants, log: LogStore, log_key: SigningKey, bell: Bell, limits: Limits) -> None:
        self._store = store
        self._grants = grants
        self._log = log
        self._log_key = log_key
        self._bell = bell
        self._limits = limits
        self._checks: dict[str, MessageCheck] = {}
        """Of messages that came last, what was checked as it came; whose is not here is read again."""
        self._nothing_until: dict[AgencyId, int] = {}
        """Before that moment, in milliseconds, no message becomes free for the agency, unless one is queued or given back."""

    # --- sending ---

    async def put_part(self, caller: Caller, part: Part) -> MessageState:
        """Store a part of the caller's message; the message's state then. A repeat changes nothing.

        1. the first part of a message is part 0 (`PartOrderError`), and passes `_admit`
        2. a later one is of the same sender and says the same length; a repeat is the same bytes (`PartConflictError`)
        3. when no part is missing: the whole hashes to the id, parses, and is signed by the sender's node key (a `PeerError`); if not, all
           its parts are forgotten, because which one is at fault cannot be told

        An incomplete message promises nothing, so its parts do not wait for the disk; that it is queued does, and takes them along. Its
        recipient is told before: it may have the message, or a part of it, before its sender knows that the broker keeps it.
        """
        try:
            async with self._store.writing(promises=False) as connection:
                taken = await self._take(connection, caller, part)
                closed = await self._close(connection, caller, part, taken) if isinstance(taken, MessageCheck) else None
        except BaseException:
            self._checks.pop(part.message_id, None)  # it may have seen what is not stored
            raise
        if isinstance(closed, PeerError):
            raise closed
        if closed is not None:
            self._nothing_until.pop(closed.recipient, None)
            self._bell.ring()
        if isinstance(taken, MessageState) and taken.state == INCOMPLETE:
            return taken
        await self._store.synced()  # at a repeat too: the first answer may have failed here
        return taken if isinstance(taken, MessageState) else MessageState(QUEUED)

    async def state(self, caller: Caller, message_id: MessageId) -> MessageState:
        """The state of a message, for its sender and its recipient."""
        async with self._store.reading() as connection:
            row = await self._find(connection, message_id)
            if row is None or caller.agency not in (row.sender, row.recipient):
                raise NotFoundError("no such message of this caller")
            if row.state != INCOMPLETE:
                return self._state(row, caller.now)
            missing = await self._missing(connection, message_id, row.total_bytes)
        # Between its last part and the check of the whole a broker may be killed: any part that comes again brings the check about.
        return MessageState(INCOMPLETE, missing or (_count(row.total_bytes) - 1,))

    # --- collecting ---

    async def lease(self, agency: AgencyId, limit: int, now: datetime) -> list[dict[str, object]] | None:
        """The oldest messages that wait for the agency, each under a new lease; None when nothing waits."""
        moment, until = milliseconds(now), round_moment(now + timedelta(seconds=self._limits.lease_s))
        if moment < self._nothing_until.get(agency, 0):  # every ring wakes every poll: most find nothing
            return None
        waits = (messages.c.recipient == agency) & (messages.c.state == QUEUED)
        async with self._store.reading() as connection:  # so that a poll that finds nothing takes no turn
            first = (await connection.execute(select(func.min(messages.c.leased_until)).where(waits))).scalar()
            if first is None or first > moment:
                self._nothing_until[agency] = _FOR_EVER if first is None else first
                return None
        free = waits & (messages.c.leased_until <= moment)
        leases: list[dict[str, object]] = []
        async with self._store.writing(promises=False) as connection:  # a lease that is lost with the machine is given anew
            for row in (await connection.execute(select(messages).where(free).order_by(messages.c.place).limit(limit))).all():
                lease_id = secrets.token_hex(_LEASE_ID_BYTES)
                taken = update(messages).where(messages.c.message_id == row.message_id)
                await connection.execute(taken.values(lease_id=lease_id, leased_until=milliseconds(until)))
                leases.append(
                    {
                        "lease_id": lease_id,
                        "message_id": row.message_id,
                        "message_type": row.message_type,
                        "sender": row.sender,
                        "search_id": row.search_id or None,
                        "total_bytes": row.total_bytes,
                        "parts": _count(row.total_bytes),
                        "expires_at": format_moment(until),
                    }
                )
        return leases or None

    async def give_back(self, agency: AgencyId) -> None:
        """End every lease of the agency: a node that starts again knows nothing of what it had taken, and need not wait for it."""
        held = (messages.c.recipient == agency) & (messages.c.state == QUEUED)
        async with self._store.writing(promises=False) as connection:
            await connection.execute(update(messages).where(held).values(lease_id=None, leased_until=0))
        self._nothing_until.pop(agency, None)

    async def part(self, caller: Caller, message_id: MessageId, number: int, lease_id: str) -> bytes:
        """One part, for the recipient under a live lease; its time starts again when half of it is gone, so that a long message can be
        fetched."""
        async with self._store.reading() as connection:
            row = await self._find(connection, message_id)
            if row is None or row.recipient != caller.agency or row.lease_id != lease_id or self._state(row, caller.now).state != LEASED:
                raise UnknownLeaseError("no live lease of that id on this message")
            piece = select(parts.c.piece).where(parts.c.message_id == message_id, parts.c.number == number)
            found = (await connection.execute(piece)).scalar()
            if found is None:
                raise NotFoundError("the message has no part of that number")
        if moment_of(row.leased_until) - caller.now < timedelta(seconds=self._limits.lease_s / 2):
            until = milliseconds(caller.now + timedelta(seconds=self._limits.lease_s))
            same = (messages.c.message_id == message_id) & (messages.c.lease_id == lease_id)
            async with self._store.writing(promises=False) as connection:
                await connection.execute(update(messages).where(same).values(leased_until=until))
        return Part(message_id, number, row.total_bytes, bytes(found)).to_bytes()

    async def acknowledge(self, caller: Caller, lease_id: str) -> bytes:
        """Delete the content of the leased message; the receipt, the same one at every repeat.

        A lease that has run out still serves as long as nobody took the message anew: only its recipient can have it.
        """
        async with self._store.writing(promises=False) as connection:  # emptying the write-ahead log waits for the disk
            row = (await connection.execute(select(messages).where(messages.c.lease_id == lease_id))).one_or_none()
            if row is None or row.recipient != caller.agency:
                raise UnknownLeaseError("no lease of that id for this caller")
            if row.state == DELIVERED:
                receipt = bytes(row.receipt)
            else:
                receipt = MailboxReceipt(MessageId(row.message_id), caller.agency, round_moment(caller.now)).sign(self._log_key)
                await connection.execute(delete(parts).where(parts.c.message_id == row.message_id))
                done = update(messages).where(messages.c.message_id == row.message_id)
                await connection.execute(done.values(state=DELIVERED, receipt=receipt))
        if not await self._store.forget_deleted():  # at a repeat too: the first answer may have failed here
            raise BusyStoreError("the content is not yet out of the write-ahead log")
        return receipt

    # --- admitting ---

    async def _admit(self, connection: Transaction, caller: Caller, part: Part) -> None:
        """Let a new message in, after these checks in this order:

        1. the header parses, the length is within its type's (an `EncodingError`)
        2. the caller is the sender (`RouteError`)
        3. its grant stands in the log and is in force (`Grants.in_force`)
        4. type, sender, recipient and search are what table and grant say (`check_route`)
        5. the frame's checkpoint, if any, lies on this log (`ConsistencyError`)
        6. the number belongs to no other message (`SequenceUsedError`)
        7. the recipient's mailbox has room (`FullMailboxError`)
        """
        header = read_header(part.piece, part.total_bytes)  # 1
        if header.sender != caller.agency:  # 2
            raise RouteError("the message names another sender than the caller")
        grant = None if header.grant_digest is None else await self._grants.in_force(connection, header.grant_digest, caller.now)  # 3
        check_route(header, grant, caller.roster)  # 4
        self._check_checkpoint(header)  # 5
        search_id = header.search_id or ""
        number = (messages.c.sender == header.sender) & (messages.c.recipient == header.recipient) & (messages.c.search_id == search_id)
        used = select(exists().where(number & (messages.c.sequence == header.sequence)))
        if (await connection.execute(used)).scalar():  # 6
            raise SequenceUsedError("the number was used for another message of this sender, recipient and search")
        await self._check_room(connection, header, part.total_bytes)  # 7
        await connection.execute(
            insert(messages).values(
                message_id=part.message_id,
                message_type=header.message_type.value,
                sender=header.sender,
                recipient=header.recipient,
                search_id=search_id,
                grant_digest=header.grant_digest,
                sequence=header.sequence,
                total_bytes=part.total_bytes,
                state=INCOMPLETE,
                arrived_at=milliseconds(caller.now),
                leased_until=0,
            )
        )

    def _check_checkpoint(self, header: MessageHeader) -> None:
        try:
            note = header.unverified_checkpoint()
        except (CheckpointError, OversizedError) as error:
            raise ConsistencyError("the message's checkpoint cannot be read") from error
        if note is not None:
            self._log.check_on_this_log(note)

    async def _check_room(self, connection: Transaction, header: MessageHeader, total_bytes: int) -> None:
        waits = (messages.c.recipient == header.recipient) & (messages.c.state != DELIVERED)
        limit = self._limits.max_waiting_bytes
        if header.search_id is None:
            waits, limit = waits & (messages.c.search_id == ""), self._limits.max_bytes_without_search
        held = (await connection.execute(select(func.coalesce(func.sum(messages.c.total_bytes), 0)).where(waits))).scalar_one()
        if held + total_bytes > limit:
            raise FullMailboxError("too much waits for this recipient")

    async def _check_repeat(self, connection: Transaction, part: Part) -> None:
        stored = select(parts.c.piece).where(parts.c.message_id == part.message_id, parts.c.number == part.number)
        piece = (await connection.execute(stored)).scalar()
        if piece is not None and bytes(piece) != part.piece:
            raise PartConflictError("another part came under this number")

    async def _take(self, connection: Transaction, caller: Caller, part: Part) -> MessageState | MessageCheck:
        """Steps 1 and 2 of `put_part`: the state that the message has now, or what checks the whole when no part is missing."""
        row = await self._find(connection, part.message_id)
        if row is None:
            if part.number != 0:  # 1
                raise PartOrderError("the message's first part has not arrived")
            await self._admit(connection, caller, part)
            self._checks.pop(part.message_id, None)  # of parts that were forgotten
        else:  # 2
            if row.sender != caller.agency:
                raise PartConflictError("the message is another sender's")
            if row.total_bytes != part.total_bytes:
                raise PartConflictError("the message has another length")
            if row.state != INCOMPLETE:
                return self._state(row, caller.now)
            await self._check_repeat(connection, part)
        missing = await self._missing(connection, part.message_id, part.total_bytes)
        if part.number in missing:
            await connection.execute(insert(parts).values(message_id=part.message_id, number=part.number, piece=part.piece))
            missing = tuple(number for number in missing if number != part.number)
        check = await self._check_so_far(connection, part, missing)
        return MessageState(INCOMPLETE, missing) if missing else check

    async def _check_so_far(self, connection: Transaction, part: Part, missing: tuple[int, ...]) -> MessageCheck:
        """Show the check of the message every part before the first that is missing, each once, `part` without reading it again."""
        check = self._checks.setdefault(part.message_id, MessageCheck(part.total_bytes))
        if len(self._checks) > _CHECKS:
            del self._checks[next(iter(self._checks))]
        for number in range(_count(check.added), missing[0] if missing else part.count):
            if number == part.number:
                check.add(part.piece)
                continue
            wanted = select(parts.c.piece).where(parts.c.message_id == part.message_id, parts.c.number == number)
            piece = bytes((await connection.execute(wanted)).scalar_one())
            await asyncio.to_thread(check.add, piece)  # there may be 60 MB of them, which must not hold up everybody
        return check

    async def _close(self, connection: Transaction, caller: Caller, part: Part, check: MessageCheck) -> MessageHeader | PeerError:
        """Step 3 of `put_part`: the header of the message, which is queued now, or what is wrong with the whole, which is forgotten."""
        self._checks.pop(part.message_id, None)
        this = messages.c.message_id == part.message_id
        try:
            header = check.finish(part.message_id, caller.roster.node_key(caller.agency))
        except PeerError as error:
            await connection.execute(delete(messages).where(this))
            return error
        last = (await connection.execute(select(func.max(messages.c.place)))).scalar() or 0
        await connection.execute(update(messages).where(this).values(state=QUEUED, place=last + 1))
        return header

    # --- reading ---

    async def _find(self, connection: Transaction, message_id: MessageId) -> Row[tuple[object, ...]] | None:
        return (await connection.execute(select(messages).where(messages.c.message_id == message_id))).one_or_none()

    async def _missing(self, connection: Transaction, message_id: MessageId, total_bytes: int) -> tuple[int, ...]:
        there = set((await connection.execute(select(parts.c.number).where(parts.c.message_id == message_id))).scalars())
        return tuple(number for number in range(_count(total_bytes)) if number not in there)

    def _state(self, row: Row[tuple[object, ...]], now: datetime) -> MessageState:
        if row.state == DELIVERED:
            return MessageState(DELIVERED, receipt=bytes(row.receipt))
        return MessageState(LEASED if moment_of(row.leased_until) > now else QUEUED)


def _count(total_bytes: int) -> int:
    return -(-total_bytes // PIECE_BYTES)
