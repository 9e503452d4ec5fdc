"""A granted search runs: into the log, to the holders, back as answers, opened, on to the custodian.

States of a search, in table `searches`:

    drafted -> granted -> submitted -> logged -> sent -> released -> closed
       |          |           |          |        |
       +----------+-----------+----------+--------+--> refused, expired, cancelled

`submitted`: the broker is being asked to enter the grant; `logged`: it did; `sent`: under a cosigned checkpoint that holds the grant, probe
and grant are on their way. Every step ends in one transaction, so that a process that dies goes on where it was.

Invariants: nothing is sent before the log holds the grant; an answer is opened inside this process, and only `Y16` leaves it, sealed to the
custodian; the search key is destroyed as soon as no answer can be opened any more: released, refused, or past the deadline.

Left to others: what arrives after the release (`leads`), drafts (`drafting`), reviews (`legal.review`), taking back (`cancelling`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select, update

from agency_node.config import NearDuplicateRules
from agency_node.courier import Commit, Handler, NotYetError
from agency_node.envelopes import Envelopes
from agency_node.errors import BrokerRefusedError
from agency_node.follower import LogFollower
from agency_node.journal import record, stamp
from agency_node.keyring import Keyring
from agency_node.legal.review import GRANTED, REFUSED
from agency_node.link import PublishLink
from agency_node.outbox import GRANT, Conversation, Outbox, Outgoing, SealTo
from agency_node.parties import Parties
from agency_node.refusals import RefusedByUsError
from agency_node.requester.cancelling import CANCELLED, queue_withdrawals
from agency_node.requester.drafting import SEARCH_KEY, TOKEN
from agency_node.requester.near_duplicates import forget_faces
from agency_node.tables import inbox, search_holders, searches
from agency_node.vault import Vault
from crypto.bodies import AnswerBody, GrantBody, OpenedBody
from crypto.canonical import AgencyId
from crypto.entries import EntryKind
from crypto.errors import AgencyStatementError, GrantMismatchError, LogError, PeerError, RevokedError
from crypto.grant import verify_grant
from crypto.grant_claims import GrantClaims
from crypto.grant_token import unverified_claims, without_reason
from crypto.lawful_steps import explain_refusal
from crypto.manifest import check_custodians
from crypto.message_types import MessageType
from crypto.messages import AnyMessage, read_message
from crypto.moments import parse_moment
from crypto.notices import DeletionReceipt, Refusal, RefusalReason
from crypto.opening import Y16, open_answer
from crypto.probe import Probe, SearchKey

SUBMITTED: Final = "submitted"
LOGGED: Final = "logged"
SENT: Final = "sent"
EXPIRED: Final = "expired"
ANSWERED: Final = "answered"
OUTSTANDING: Final = ("waiting", "sent", ANSWERED)
"""States of a holder of whom something is still to be opened or to come."""
_DUE: Final = (
    searches.c.search_id,
    searches.c.state,
    searches.c.expires,
    searches.c.deadline,
    searches.c.sealed_search_key.is_not(None).label("has_key"),
)
"""What says whether a search can move; looked at several times a second, so without grant, probe and still."""
FORGET_EVERY: Final = timedelta(hours=1)
RUNNING: Final = (GRANTED, SUBMITTED, LOGGED, SENT)
FATAL_FROM_CUSTODIAN: Final = frozenset(
    {RefusalReason.GRANT, RefusalReason.CALIBRATION, RefusalReason.REVOKED, RefusalReason.CUSTODIAN, RefusalReason.POLICY}
)


class Searching:
    """The requester's part of a search up to the release."""

    def __init__(
        self,
        agency: AgencyId,
        engine: Engine,
        vault: Vault,
        keyring: Keyring,
        envelopes: Envelopes,
        parties: Parties,
        follower: LogFollower,
        link: PublishLink,
        outbox: Outbox,
        near_duplicates: NearDuplicateRules,
        clock: Callable[[], datetime],
    ) -> None:
        self._near_duplicates = near_duplicates
        self._next_forgetting: datetime | None = None
        self._agency = agency
        self._engine = engine
        self._vault = vault
        self._keyring = keyring
        self._envelopes = envelopes
        self._parties = parties
        self._follower = follower
        self._link = link
        self._outbox = outbox
        self._clock = clock

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Answers, refusals and receipts come here."""
        return {
            MessageType.ANSWER: self.receive_answer,
            MessageType.REFUSAL: self.receive_refusal,
            MessageType.DELETION_RECEIPT: self.receive_receipt,
        }

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """The log holds the grant: the search may go on."""
        if row.kind == GRANT:
            self._advance(connection, row.search_id, SUBMITTED, LOGGED, "the log holds the grant")

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """The broker refused the grant, or to carry a message of it: a search that cannot go on ends, a holder that is not reached is
        noted."""
        if row.kind == GRANT:
            self._end(connection, row.search_id, REFUSED, note)
        elif row.name in (MessageType.PROBE, MessageType.GRANT):
            where = (search_holders.c.search_id == row.search_id) & (search_holders.c.holder == row.recipient)
            connection.execute(update(search_holders).where(where).values(state="refused", note=note, at=stamp(self._clock())))

    # --- going out ----------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Move every running search as far as it goes now; one that cannot move stays, and says why in its note.

        Now and then faces of probes are deleted whose days are over.
        """
        now = self._clock()
        if self._next_forgetting is None or now >= self._next_forgetting:
            forget_faces(self._engine, self._near_duplicates, now)
            self._next_forgetting = now + FORGET_EVERY
        with self._engine.begin() as connection:
            running = connection.execute(select(*_DUE).where(searches.c.state.in_(RUNNING)).order_by(searches.c.created_at)).all()
            cancelled = connection.execute(select(searches).where(searches.c.state == CANCELLED)).all()
        for row in cancelled:
            self._withdraw(row)
        for row in running:
            try:
                await self._move(row)
            except (NotYetError, BrokerRefusedError) as waiting:
                self._note(row.search_id, str(waiting))
            except PeerError as error:
                with self._engine.begin() as connection:
                    self._end(connection, row.search_id, REFUSED, str(error))

    def _withdraw(self, row: Row[Any]) -> None:
        """Tell whom the search reached that it was taken back; after its deadline nobody waits for it any more."""
        if row.grant_digest is None or stamp(self._clock()) >= row.deadline:
            return
        claims, _ = self._grant_of(row)
        with self._engine.begin() as connection:
            queue_withdrawals(connection, self._outbox, claims)

    async def _move(self, row: Row[Any]) -> None:
        now = self._clock()
        if now >= parse_moment(row.expires, "expiry"):
            with self._engine.begin() as connection:
                self._end(connection, row.search_id, EXPIRED, "the grant expired before a release")
        elif row.state == GRANTED:
            await self._submit(*self._grant_of(self._whole(row.search_id)), now)
        elif row.state == LOGGED:
            whole = self._whole(row.search_id)
            await self._send(*self._grant_of(whole), whole.probe)
        elif row.state == SENT and row.has_key and now >= parse_moment(row.deadline, "deadline"):
            with self._engine.begin() as connection:
                self._destroy_key(connection, row.search_id)

    async def _submit(self, claims: GrantClaims, token: bytes, now: datetime) -> None:
        """What holders and custodians will check is checked here first: a search that would be refused need not be sent."""
        verify_grant(token, self._parties.trusted, now)
        manifests = {holder: await self._parties.manifest(holder) for holder in claims.holders}
        check_custodians(claims, self._parties.roster(), manifests, now)
        with self._engine.begin() as connection:
            if self._advance(connection, claims.search_id, GRANTED, SUBMITTED, "the grant goes to the log"):
                self._outbox.grant(connection, claims, without_reason(token))

    async def _send(self, claims: GrantClaims, token: bytes, probe: bytes) -> None:
        """Publish the search's own sealing key, then queue the grant for everybody and the probe for the holders, in one transaction.

        A holder that has published no key of this week is not asked: the others are, and the release will say that it was silent.
        """
        try:
            await self._follower.check_act(claims, claims.digest)
        except RevokedError:
            raise  # no wait ends that
        except LogError as error:
            raise NotYetError(f"the log is not ready: {error}") from error
        own = self._keyring.for_search(claims.search_id)
        await self._link.put_sealing_key(own.sign(self._keyring.node_key))
        keys = {agency: SealTo.statement(await self._parties.week_key(agency)) for agency in claims.custodians}
        absent = {}
        for holder in claims.holders:
            try:
                keys[holder] = SealTo.statement(await self._parties.week_key(holder))
            except (BrokerRefusedError, AgencyStatementError) as error:
                absent[holder] = f"has no sealing key of this week: {error}"
        conversation, body, encrypted = Conversation.of(claims), GrantBody(token), Probe.from_bytes(probe)
        with self._engine.begin() as connection:
            if not self._advance(connection, claims.search_id, LOGGED, SENT, "probe and grant are on their way"):
                return  # cancelled meanwhile
            for key in keys.values():
                self._outbox.sealed(connection, MessageType.GRANT, body, conversation, key)
            for holder in claims.holders:
                if holder in absent:
                    self._mark(connection, claims.search_id, holder, "silent", absent[holder])
                    continue
                self._outbox.sealed(connection, MessageType.PROBE, encrypted, conversation, keys[holder])
                self._mark(connection, claims.search_id, holder, "sent", "")

    # --- coming back --------------------------------------------------------------------------------------------------

    async def receive_answer(self, message: AnyMessage) -> Commit:
        """A holder's answer, after these checks in this order; then its opening:

        1. its search is running here, its sender is a holder of the grant that has not answered before
        2. the answer deadline has not passed (refused as late: the custodian would discard it)
        3. it opens under the search's own key and the holder signed its digest for this search and grant (`AnswerError`)
        4. it answers this search's probe (`open_answer`)
        """
        row = self._running(message)  # 1
        claims, _ = self._grant_of(row)
        holder = message.header.sender
        if holder not in claims.holders:
            raise GrantMismatchError("an answer comes from a holder of the grant")
        if self._holder_state(claims, holder) == "opened":
            raise RefusedByUsError(RefusalReason.REPLAYED, "this holder answered before")
        if self._clock() >= claims.answer_deadline or row.sealed_search_key is None:  # 2
            raise RefusedByUsError(RefusalReason.LATE, "the answer deadline has passed")
        conversation = Conversation.of(claims)
        body = self._envelopes.open(message, AnswerBody, conversation, holder)  # 3
        if body.statement.holder != holder:
            raise GrantMismatchError("the answer is under another holder's statement")
        body.statement.check(claims.search_id, claims.digest, self._parties.roster().node_key(holder))
        with self._engine.begin() as connection:
            self._mark(connection, claims.search_id, holder, ANSWERED, "")
        opened = await asyncio.to_thread(self._open, row, body)  # 4
        to_combiner = SealTo.statement(await self._parties.week_key(claims.combiner))

        def commit(connection: Connection) -> None:
            connection.execute(update(inbox).where(inbox.c.message_id == str(message.message_id)).values(data=None))
            if not self._is_sent(connection, claims.search_id):
                record(connection, self._clock(), claims.search_id, "answer not used", f"from {holder}: the search has ended")
                return
            fields = [("answer-digest", opened.answer_digest), ("opened-digest", opened.digest)]
            self._outbox.entry(connection, EntryKind.OPENED_SCORES, conversation, fields, author=holder)
            sealed_body = OpenedBody(body.statement, opened)
            self._outbox.sealed(connection, MessageType.OPENED_SCORES, sealed_body, conversation, to_combiner)
            self._mark(connection, claims.search_id, holder, "opened", f"{opened.values.size} slots")
            if self._all_done(connection, claims.search_id):
                self._destroy_key(connection, claims.search_id)

        return commit

    def _open(self, row: Row[Any], body: AnswerBody) -> Y16:
        secret = self._vault.open(SEARCH_KEY, row.sealed_search_key, row.search_id.encode("ascii"))
        key = SearchKey.from_secret(secret)
        try:
            return open_answer(body.answer, body.order, Probe.from_bytes(row.probe), key)
        finally:
            key.destroy()

    async def receive_refusal(self, message: AnyMessage) -> Commit:
        """A party refused: a holder's refusal is that holder's outcome, also when another refusal has ended the search; a custodian's may
        end it."""
        sender = message.header.sender
        refusal = read_message(message, Refusal, recipient=self._agency, sender_public=self._parties.roster().node_key(sender))
        with self._engine.begin() as connection:
            row = connection.execute(select(searches).where(searches.c.search_id == message.header.search_id)).first()
        if row is None or row.state not in (*RUNNING, REFUSED):
            return lambda connection: None
        claims, _ = self._grant_of(row)
        said = explain_refusal(refusal.reason)
        note = f"{said.title}{f' (rule R{refusal.rule})' if refusal.rule else ''}: {said.step}"

        def commit(connection: Connection) -> None:
            if sender in claims.holders:
                if self._state_in(connection, claims.search_id, sender) in OUTSTANDING:
                    self._mark(connection, claims.search_id, sender, "refused", note)
                if row.state in RUNNING and self._all_done(connection, claims.search_id):
                    self._destroy_key(connection, claims.search_id)
            elif sender in claims.custodians and refusal.reason in FATAL_FROM_CUSTODIAN:
                self._end(connection, claims.search_id, REFUSED, note)

        return commit

    async def receive_receipt(self, message: AnyMessage) -> Commit:
        """A party says what it deleted (R22): kept in the journal."""
        sender = message.header.sender
        receipt = read_message(message, DeletionReceipt, recipient=self._agency, sender_public=self._parties.roster().node_key(sender))
        kinds = ", ".join(kind.name.lower() for kind in receipt.deleted)
        search_id = str(message.header.search_id)
        return lambda connection: record(connection, self._clock(), search_id, "deletion receipt", f"{sender} deleted: {kinds}")

    # --- state --------------------------------------------------------------------------------------------------------

    def _running(self, message: AnyMessage) -> Row[Any]:
        with self._engine.begin() as connection:
            row = connection.execute(select(searches).where(searches.c.search_id == message.header.search_id)).first()
        if row is None or row.grant_digest != message.header.grant_digest:
            raise GrantMismatchError("the message is of no search of this agency")
        if row.state != SENT:
            raise RefusedByUsError(RefusalReason.LATE, f"the search is {row.state}")
        return row

    def _whole(self, search_id: str) -> Row[Any]:
        with self._engine.begin() as connection:
            return connection.execute(select(searches).where(searches.c.search_id == search_id)).one()

    def _grant_of(self, row: Row[Any]) -> tuple[GrantClaims, bytes]:
        token = self._vault.open(TOKEN, row.sealed_token, row.search_id.encode("ascii"))
        return unverified_claims(token), token

    def _holder_state(self, claims: GrantClaims, holder: AgencyId) -> str:
        with self._engine.begin() as connection:
            return self._state_in(connection, claims.search_id, holder)

    @staticmethod
    def _state_in(connection: Connection, search_id: str, holder: AgencyId) -> str:
        where = (search_holders.c.search_id == search_id) & (search_holders.c.holder == str(holder))
        return str(connection.execute(select(search_holders.c.state).where(where)).scalar_one())

    @staticmethod
    def _is_sent(connection: Connection, search_id: str) -> bool:
        """Whether the search still waits for answers: it may be cancelled at any moment."""
        return bool(connection.execute(select(searches.c.state).where(searches.c.search_id == search_id)).scalar_one() == SENT)

    @staticmethod
    def _all_done(connection: Connection, search_id: str) -> bool:
        where = (search_holders.c.search_id == search_id) & search_holders.c.state.in_(OUTSTANDING)
        return connection.execute(select(search_holders.c.holder).where(where)).first() is None

    def _mark(self, connection: Connection, search_id: str, holder: AgencyId, state: str, note: str) -> None:
        where = (search_holders.c.search_id == search_id) & (search_holders.c.holder == str(holder))
        connection.execute(update(search_holders).where(where).values(state=state, note=note, at=stamp(self._clock())))
        record(connection, self._clock(), search_id, f"holder {state}", str(holder))

    def _note(self, search_id: str, note: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(update(searches).where(searches.c.search_id == search_id).values(note=note))

    def _advance(self, connection: Connection, search_id: str, old: str, new: str, note: str) -> bool:
        """Whether the search still was in the old state."""
        where = (searches.c.search_id == search_id) & (searches.c.state == old)
        moved = connection.execute(update(searches).where(where).values(state=new, note=note)).rowcount == 1
        if moved:
            record(connection, self._clock(), search_id, new, note)
        return moved

    def _end(self, connection: Connection, search_id: str, state: str, note: str) -> None:
        values = {"state": state, "note": note, "sealed_search_key": None, "probe": None}
        where = (searches.c.search_id == search_id) & searches.c.state.in_(RUNNING)
        if connection.execute(update(searches).where(where).values(**values)).rowcount == 1:
            record(connection, self._clock(), search_id, state, note)

    def _destroy_key(self, connection: Connection, search_id: str) -> None:
        """No answer of this search can be opened here any more; the legal office's escrow stays for the audit."""
        connection.execute(update(searches).where(searches.c.search_id == search_id).values(sealed_search_key=None))
        record(connection, self._clock(), search_id, "search key destroyed")
