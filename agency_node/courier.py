"""Exactly-once effects over a mailbox that delivers at least once.

In: a message is leased, fetched, checked (frame, addressee, sender's signature) and written to the inbox before the broker is told that it
may delete it, which it is while the handler already runs; the handler may look things up and compute, and ends in one transaction that
stores state, outgoing rows and "done" together. Out: rows of the outbox are handed to the broker until it has them, side by side as far as
their order allows (`outbox.next_outgoing`), as soon as they are committed. So a process may die at any moment: what was not committed is
done again from the inbox, what was committed leaves from the outbox as the same bytes.

Invariants: one handler at a time; a repeated message is the message that was there; a second message under one number is refused; each
peer's checkpoint is connected with our own log before its message is handled, and a fork halts the node; what was deleted is gone from the
store's files when the node rests, and within a second when it does not.

Left to others: what a message means (the roles' handlers), the wire (`link`), the log (`follower`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlalchemy import Connection, Engine, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from agency_node.arriving import Arrival
from agency_node.errors import BrokerError, BrokerRefusedError, HaltedError, NodeError
from agency_node.follower import LogFollower
from agency_node.journal import NO_SEARCH, Told, record, stamp
from agency_node.link import MailLink
from agency_node.outbox import (
    MESSAGE,
    Conversation,
    Outbox,
    Outgoing,
    content_of,
    enter,
    mark_refused,
    mark_sent,
    message_of,
    next_outgoing,
)
from agency_node.parties import Parties
from agency_node.pieces import MessageGoneError, drop_unclaimed, received, take_own
from agency_node.refusals import AlreadyRefusedError, RefusedByUsError, reason_of
from agency_node.replies import Lease
from agency_node.store import Glance, forget_deleted, reading
from agency_node.tables import inbox, receipts
from agency_node.waking import IDLE_S, OtherWriters, pause
from crypto.canonical import AgencyId
from crypto.errors import ContextError, MirrorError, PeerError, RosterExpiredError
from crypto.frame import MessageHeader, read_header
from crypto.lawful_steps import explain, explain_refusal
from crypto.mailbox_receipt import MailboxReceipt
from crypto.message_types import MessageType
from crypto.messages import AnyMessage
from crypto.notices import Refusal, RefusalReason
from crypto.wire import MessageId

NEW: Final = "new"
WAITING: Final = "waiting"
DONE: Final = "done"
REFUSED: Final = "refused"
LEASE_WAIT_S: Final = 20
LEASES_AT_ONCE: Final = 8
LEAVING_AT_ONCE: Final = 8
PATIENCE: Final = timedelta(days=2)
"""How long a message waits for what must come first; then it is dropped, and its sender has long seen a deadline pass."""
AGAIN_S: Final = 1.0
"""How long to leave a broker alone that cannot be reached."""
FORGET_WITHIN_S: Final = 1.0
"""How long what was deleted may stay in the write-ahead log while messages come without a pause."""
HALTED_S: Final = 5.0
"""How often a halted node looks whether its operator has cleared the halt."""
_PENDING: Final = Glance(select(inbox.c.message_id).where(inbox.c.state.in_([NEW, WAITING])).order_by(inbox.c.received_at))
_DATA: Final = Glance(select(inbox.c.data).where(inbox.c.message_id == bindparam("message"), inbox.c.data.is_not(None)))
Commit = Callable[[Connection], None]


class NotYetError(NodeError):
    """The message needs something that has not come yet: handle it again later."""


Handler = Callable[[AnyMessage], Awaitable[Commit]]


class Role(Protocol):
    """One role's part in the courier's work."""

    def handlers(self) -> Mapping[MessageType, Handler]:
        """What this role does with which message."""

    async def tick(self) -> None:
        """What is due by the clock or was asked for by a command."""

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Told in the transaction that marks a row as sent."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Told in the transaction that marks a row as refused by the broker."""


@dataclass
class Courier:
    """Runs the loops of one node."""

    agency: AgencyId
    engine: Engine
    link: MailLink
    parties: Parties
    follower: LogFollower
    outbox: Outbox
    roles: list[Role]
    clock: Callable[[], datetime]
    _woken: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """There may be something to handle."""
    _queued: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """There may be something to send."""

    def __post_init__(self) -> None:
        self._one_large = asyncio.Lock()
        self._forgetting_due = 0.0
        self._rested = False  # nothing happened since the last round
        self._handlers: dict[MessageType, list[Handler]] = {}
        self._last_trouble: dict[int, str] = {}
        with self.engine.begin() as connection:
            drop_unclaimed(connection)
        for role in self.roles:
            for kind, handler in role.handlers().items():
                self._handlers.setdefault(kind, []).append(handler)

    # --- in -----------------------------------------------------------------------------------------------------------

    async def receive(self, stop: asyncio.Event) -> None:
        """Lease, store, acknowledge, until stopped."""
        acknowledging: set[MessageId] = set()
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                try:
                    leases = await self.link.lease(LEASE_WAIT_S, LEASES_AT_ONCE)
                except (BrokerError, PeerError):
                    await pause(stop, AGAIN_S)
                    continue
                fresh = [lease for lease in leases if lease.message_id not in acknowledging]
                taken = await asyncio.gather(*map(self._take, fresh))
                for lease, is_taken in zip(fresh, taken, strict=True):
                    if is_taken:
                        acknowledging.add(lease.message_id)
                        tasks.create_task(self._acknowledge(lease, stop, acknowledging))
                if not all(taken) or len(fresh) < len(leases):
                    await pause(stop, AGAIN_S)

    async def _take(self, lease: Lease) -> bool:
        """Whether the message was judged, and stored unless it is none: then the broker's copy has had its time."""
        if lease.parts == 1:
            return await self._take_pieces(lease)
        async with self._one_large:  # a node has room for the parts of one of them, not of eight
            return self._is_known(lease.message_id) or await self._take_pieces(lease)

    async def _take_pieces(self, lease: Lease) -> bool:
        try:
            roster = self.parties.roster()  # under an expired roster nothing is judged, and so nothing is deleted
            arrival = Arrival(self.engine, lease)
            await self.link.fetch(lease, arrival.take)
        except (BrokerError, PeerError) as error:  # the lease runs out, and the message comes again
            self._note_bad(lease.message_id, error)
            return False
        try:
            header = arrival.header(self.agency, roster)
        except (PeerError, RefusedByUsError) as error:
            self._note_bad(lease.message_id, error)
            arrival.drop()
        else:
            self._store(header, lease.message_id, arrival.data)
            self._woken.set()
        return True

    def _is_known(self, message_id: MessageId) -> bool:
        with reading(self.engine).begin() as connection:
            return connection.execute(select(inbox.c.state).where(inbox.c.message_id == str(message_id))).first() is not None

    async def _acknowledge(self, lease: Lease, stop: asyncio.Event, acknowledging: set[MessageId]) -> None:
        """Tell the broker that it may delete the message, and keep its receipt; if that fails, the message comes again and is known."""
        try:
            receipt = await self.link.acknowledge(lease)
            said = MailboxReceipt.read(receipt, self.parties.roster().log)
            if (said.message_id, said.recipient) != (lease.message_id, self.agency):
                raise ContextError("the broker's deletion receipt is of another message")
            with self.engine.begin() as connection:
                connection.execute(insert(receipts).prefix_with("OR IGNORE").values(message_id=str(lease.message_id), document=receipt))
        except (BrokerError, PeerError) as error:
            self._note_bad(lease.message_id, error)
            await pause(stop, AGAIN_S)
        finally:
            acknowledging.discard(lease.message_id)

    def _store(self, header: MessageHeader, message_id: MessageId, data: bytes, own: Outgoing | None = None) -> None:
        """Write the inbox row, unless it is there or its number was used; `own` is the row of this agency's message to itself."""
        values = {
            "message_id": str(message_id),
            "message_type": str(header.message_type),
            "sender": str(header.sender),
            "search_id": header.search_id or NO_SEARCH,
            "sequence": header.sequence,
            "data": data,
            "state": NEW,
            "note": "",
            "received_at": stamp(self.clock()),
        }
        with self.engine.begin() as connection:
            known = connection.execute(select(inbox.c.state).where(inbox.c.message_id == values["message_id"])).first()
            if known is not None:
                return
            try:
                with connection.begin_nested():
                    connection.execute(insert(inbox).values(**values))
                    if own is not None:
                        take_own(connection, own.number, str(message_id))
            except IntegrityError:
                said: Told = {"actor": str(header.sender), "source": f"message {message_id}", "outcome": REFUSED}
                record(connection, self.clock(), header.search_id or NO_SEARCH, "refused message", "its number was used by another", **said)
                drop_unclaimed(connection, message_id)

    def _note_bad(self, message_id: str, error: PeerError | RefusedByUsError | BrokerError) -> None:
        name = explain(error).name if isinstance(error, PeerError) else type(error).__name__
        with self.engine.begin() as connection:
            why, source = f"{message_id[:16]}: {name}", f"message {message_id}"
            record(connection, self.clock(), NO_SEARCH, "refused message", why, source=source, outcome=REFUSED)

    # --- work ---------------------------------------------------------------------------------------------------------

    async def work(self, stop: asyncio.Event) -> None:
        """Handle what is in the inbox and what is due, one thing at a time, until stopped or halted."""
        with ExitStack() as at_end:
            at_end.callback(forget_deleted, self.engine)
            others = at_end.enter_context(closing(OtherWriters(self.engine)))
            while not stop.is_set():
                await self._round(stop, others)

    async def _round(self, stop: asyncio.Event, others: OtherWriters) -> None:
        self._woken.clear()
        try:
            self._check_not_halted()
            handled = await self._handle_pending()
            await self._tick()
            self._queued.set()
        except BrokerError:
            handled = False  # the broker is away: everything stays where it is
        except HaltedError:
            await pause(stop, HALTED_S)
            handled = False
        # What was destroyed is in the write-ahead log until now. A search is many rounds: so after a rest, or a second without one.
        now = asyncio.get_running_loop().time()
        if self._rested or now >= self._forgetting_due:
            self._forgetting_due = now + FORGET_WITHIN_S
            await asyncio.to_thread(forget_deleted, self.engine)
        self._rested = not handled and await others.idle(stop, self._woken)

    def _check_not_halted(self) -> None:
        reason = self.follower.halted()
        if reason is not None:
            raise HaltedError(f"this node acts no more: {reason}. Keep its store, it holds the evidence")

    async def _tick(self) -> None:
        """Let every role do what is due; what another party got wrong is noted and keeps no other role from its work."""
        for role in self.roles:
            try:
                await role.tick()
            except (PeerError, NotYetError, BrokerRefusedError) as error:
                name = explain(error).name if isinstance(error, PeerError) else str(error)
                if self._last_trouble.get(id(role)) != name:
                    self._last_trouble[id(role)] = name
                    with self.engine.begin() as connection:
                        record(connection, self.clock(), NO_SEARCH, f"{type(role).__name__} waits", name)

    async def _handle_pending(self) -> bool:
        handled = False
        for (message_id,) in _PENDING.rows(self.engine):  # one message's bytes at a time, none when one before it ended its search
            for (data,) in _DATA.rows(self.engine, message=message_id):
                handled |= await self._handle(message_id, received(self.engine, message_id, bytes(data)))
                self._queued.set()
        return handled

    async def _handle(self, message_id: str, message: AnyMessage) -> bool:
        """Whether something came of it; a message that must wait stays."""
        header = message.header
        try:
            self.parties.roster().check_modes((self.agency, header.sender))
            if header.checkpoint is not None:
                await self.follower.connect(header.checkpoint)
            handlers = self._handlers.get(header.message_type, [])
            if not handlers:
                raise RefusedByUsError(RefusalReason.MALFORMED, "this node has no role that takes such a message")
            commits = [await handler(message) for handler in handlers]
        except (NotYetError, BrokerRefusedError, MirrorError, RosterExpiredError) as waiting:
            with self.engine.begin() as connection:
                connection.execute(update(inbox).where(inbox.c.message_id == message_id).values(state=WAITING, note=str(waiting)))
                overdue = (inbox.c.message_id == message_id) & (inbox.c.received_at < stamp(self.clock() - PATIENCE))
                connection.execute(update(inbox).where(overdue).values(state=REFUSED, data=None))
            return False
        except AlreadyRefusedError as error:
            with self.engine.begin() as connection:
                connection.execute(update(inbox).where(inbox.c.message_id == message_id).values(state=REFUSED, note=str(error), data=None))
            return True
        except (PeerError, RefusedByUsError) as error:
            self._refuse(message_id, message, error)
            return True
        with self.engine.begin() as connection:
            for commit in commits:
                commit(connection)
            connection.execute(update(inbox).where(inbox.c.message_id == message_id).values(state=DONE, note=""))
            said: Told = {"actor": str(header.sender), "source": f"message {message_id}"}
            place = header.search_id or NO_SEARCH
            record(connection, self.clock(), place, f"handled {header.message_type}", f"from {header.sender}", **said)
        return True

    def _refuse(self, message_id: str, message: AnyMessage, error: PeerError | RefusedByUsError) -> None:
        """Keep why and what may lawfully be done next, delete what was sent, and tell the sender a code and no more."""
        header = message.header
        if isinstance(error, RefusedByUsError):
            reason, rule, means = error.reason, error.rule, explain_refusal(error.reason)
        else:
            reason, rule, means = reason_of(error), None, explain(error)
        note = f"{error}. Next: {means.step}"
        detail = means.name if rule is None else f"{means.name} R{rule}"
        with self.engine.begin() as connection:
            connection.execute(update(inbox).where(inbox.c.message_id == message_id).values(state=REFUSED, note=note, data=None))
            named = "" if header.grant_digest is None else f"grant {header.grant_digest.hex()}"  # as its sender says, verified or not
            said: Told = {"actor": str(header.sender), "source": f"message {message_id}", "outcome": REFUSED, "subject": named}
            record(connection, self.clock(), header.search_id or NO_SEARCH, f"refused {header.message_type}", detail, **said)
            if header.search_id is not None and header.spec.sealed:
                self._send_refusal(connection, message, header, Refusal(message.message_id, reason, rule))

    def _send_refusal(self, connection: Connection, message: AnyMessage, header: MessageHeader, refusal: Refusal) -> None:
        if header.search_id is None or header.grant_digest is None:
            return
        conversation = Conversation(header.search_id, header.grant_digest, message.context.epoch)
        self.outbox.open(connection, MessageType.REFUSAL, refusal, conversation, header.sender)

    # --- out ----------------------------------------------------------------------------------------------------------

    async def send(self, stop: asyncio.Event) -> None:
        """Hand the outbox to the broker, until stopped; nothing leaves a halted node."""
        leaving: set[int] = set()
        loop = asyncio.get_running_loop()
        # told inside the transaction: when the loop comes round again, that of its own thread has ended
        self.outbox.on_queued = lambda: loop.call_soon_threadsafe(self._queued.set)
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                self._queued.clear()
                if self.follower.halted() is not None:
                    await pause(stop, HALTED_S)
                    continue
                rows = [row for row in next_outgoing(self.engine) if row.number not in leaving]
                for row in rows[: LEAVING_AT_ONCE - len(leaving)]:
                    leaving.add(row.number)
                    tasks.create_task(self._leave(row, stop, leaving))
                await pause(stop, IDLE_S, self._queued)

    async def _leave(self, row: Outgoing, stop: asyncio.Event, leaving: set[int]) -> None:
        """Send a row until it has left or was refused for good; one that must wait keeps back only what must follow it."""
        try:
            await self._send(row)
        except BrokerError:
            await pause(stop, AGAIN_S)
        finally:
            leaving.discard(row.number)
            self._queued.set()

    async def _send(self, row: Outgoing) -> None:
        try:
            with reading(self.engine).begin() as connection:
                data = content_of(connection, row.number)
            if row.kind != MESSAGE:
                await enter(self.link, row.kind, data, row.grant_digest, self.follower.expect)
            elif row.recipient == self.agency:
                own = message_of(self.engine, row.number)  # a requester that names its own gallery: nothing for the broker
                self._store(read_header(own.piece(0), own.total_bytes), own.message_id, data, row)
            else:
                await self.link.send(message_of(self.engine, row.number))
        except MessageGoneError:
            return  # its search was cancelled or revoked while it left: the broker forgets what came of it
        except BrokerRefusedError as error:
            if not error.is_final:
                raise
            with self.engine.begin() as connection:
                mark_refused(connection, row.number, str(error))
                record(connection, self.clock(), row.search_id, f"broker refused {row.name}", error.problem, outcome=REFUSED)
                for role in self.roles:
                    role.refused(connection, row, str(error))
            return
        with self.engine.begin() as connection:
            mark_sent(connection, row.number)
            to = f"to {row.recipient}" if row.recipient else "to the log"
            record(connection, self.clock(), row.search_id, f"sent {row.name}", to, recipient=row.recipient)
            for role in self.roles:
                role.sent(connection, row)
        if row.kind != MESSAGE or row.recipient == self.agency:  # a search goes on, or there is a message for us
            self._woken.set()


@contextmanager
def apart(troubles: list[Exception]) -> Iterator[None]:
    """One search's trouble keeps no other back: it is put aside, and who works on all of them raises the first when all had their turn."""
    try:
        yield
    except (PeerError, NotYetError, BrokerRefusedError) as error:
        troubles.append(error)
