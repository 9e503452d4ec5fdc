"""A custodian takes mask shares and opened values into custody and releases a search once.

At its deadline, or as soon as every holder of the grant has answered or refused, since nothing more can come then (docs/adr/0008).

States of a search, in table `custody`: `open`; then `released`, `refused` (the probe failed the calibration) or `lapsed` (the grant ended).
Invariants: grant and log are verified before anything is opened, and before the release the log is asked again and the legal office whether
the grant stands (`standing`): without its word nothing is opened; what came stays sealed until the release, and is deleted with it (opened
values that complete a search, masked as they are, go to the release as they were opened); scores exist in this process only between
opening and release, and are overwritten; one search, one release (the table's key); what comes late is discarded, its sender told, and the
log has an entry of it.

With several custodians each verifies for itself and hands its share, sealed, to the one that combines (PROTOCOL 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NoReturn

from sqlalchemy import ColumnElement, Connection, Engine, insert, null, select, update

from agency_node.config import NodeConfig
from agency_node.courier import Commit, Handler, NotYetError, apart
from agency_node.custodian.combining import Custody, Outcomes, combine
from agency_node.custodian.standing import NO_STATEMENT, Standings
from agency_node.custodian.tables_in_use import check_table
from agency_node.envelopes import Envelopes
from agency_node.errors import BrokerRefusedError
from agency_node.grants import WITHDRAWN_BY_REQUESTER, GrantDesk, HeldGrant
from agency_node.journal import record, stamp
from agency_node.opened_fields import opened_refusal, opened_release
from agency_node.outbox import Conversation, Outbox, Outgoing, SealTo
from agency_node.parties import Parties
from agency_node.pieces import IN_PIECES, received
from agency_node.policy.deciding import HolderDecision, decide_each, keep_each
from agency_node.policy.engine import PolicyEngine
from agency_node.policy.inputs import Place
from agency_node.refusals import RefusedByUsError
from agency_node.store import Glance
from agency_node.tables import custody, custody_parts, inbox
from agency_node.vault import Vault
from crypto.answer import MaskShare
from crypto.bodies import MaskHandover, OpenedBody
from crypto.calibration_table import CalibrationTable
from crypto.canonical import AgencyId, SearchId
from crypto.embedding import EmbeddingModel
from crypto.entries import EntryKind
from crypto.errors import AgencyStatementError, GrantMismatchError, ModelError, PeerError
from crypto.grant import VerifiedGrant
from crypto.grant_claims import GrantClaims
from crypto.manifest import GalleryManifest, check_custodians
from crypto.message_types import MessageType
from crypto.messages import AnyMessage, Message, read_message
from crypto.moments import utc_day
from crypto.notices import Refusal, RefusalReason
from crypto.signed import key_id

PATIENCE: Final = timedelta(minutes=2)
"""How long a holder's refusal waits for its grant, which another party sends."""
EXPIRED: Final = "the grant expired before the release"
OPEN: Final = "open"
RELEASED: Final = "released"
REFUSED: Final = "refused"
LAPSED: Final = "lapsed"
SHARE: Final = "share"
OPENED: Final = "opened"
REFUSAL: Final = "refusal"
_WAITING: Final = Glance(select(custody.c.search_id).where(custody.c.state == OPEN))


class Releasing:
    """The custodian's part of a search."""

    def __init__(
        self,
        config: NodeConfig,
        engine: Engine,
        desk: GrantDesk,
        envelopes: Envelopes,
        parties: Parties,
        outbox: Outbox,
        models: Sequence[EmbeddingModel],
        tables: Mapping[bytes, CalibrationTable],
        vault: Vault,
        packs: Sequence[PolicyEngine],
        clock: Callable[[], datetime],
    ) -> None:
        for table in tables.values():
            check_table(table, models, config.mode, utc_day(clock()))
        self._tables = {model_hash: (table, table.impostors()) for model_hash, table in tables.items()}
        self._agency = config.agency_id
        self._engine = engine
        self._desk = desk
        self._envelopes = envelopes
        self._parties = parties
        self._outbox = outbox
        self._models = {model.model_hash: model for model in models}
        self._vault = vault
        self._packs = tuple(packs)
        self._clock = clock
        self._at_hand: tuple[SearchId, OpenedBody] | None = None
        self._standings = Standings(self._agency, engine, desk, parties, outbox, clock, self._end_in)

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Shares, hand-overs, opened values, holders' refusals and the legal office's word come here."""
        return {
            MessageType.MASK_SHARE: self.receive_share,
            MessageType.MASK_HANDOVER: self.receive_handover,
            MessageType.OPENED_SCORES: self.receive_opened,
            MessageType.REFUSAL: self.receive_refusal,
            MessageType.REVOCATION_STATEMENT: self._standings.receive,
        }

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows; the journal has it."""

    # --- grant --------------------------------------------------------------------------------------------------------

    def concerns(self, claims: GrantClaims) -> bool:
        """Whether the grant names this agency as a custodian."""
        return self._agency in claims.custodians

    async def admit(self, grant: VerifiedGrant, message: AnyMessage) -> Commit:
        """What a custodian asks beside:

        1. it has a calibration table of the grant's model, which holds until the grant ends (`ModelError`, R33)
        2. each holder's manifest is valid, of that model, and trusts one of the custodians (`check_custodians`)
        3. its own packs, and every pack that binds an agency of the search (R7), allow it at every holder; else nothing is released, and
            the refusal names the rule, to the requester and in the log
        """
        now, claims = self._clock(), grant.claims
        if claims.model_hash not in self._models or claims.model_hash not in self._tables:
            raise ModelError("this custodian has no calibration table of the grant's embedding model")
        if not self._tables[claims.model_hash][0].holds_on(utc_day(claims.expires)):
            raise ModelError("this custodian's calibration table of the grant's embedding model ends before the grant")
        check_custodians(claims, self._parties.roster(), await self._manifests(claims), now)
        decided = decide_each(claims, self._parties.roster(), self._packs, Place.CUSTODY, now)  # 3
        if not all(one.decision.allowed for one in decided):
            self._refuse_by_policy(claims, decided, now)

        def commit(connection: Connection) -> None:
            keep_each(connection, self._vault, claims, decided, now)
            values = {"search_id": str(claims.search_id), "state": OPEN, "note": "", "alarms": ""}
            connection.execute(insert(custody).values(**values, deadline=stamp(claims.answer_deadline)))
            self._parties.ask_ahead(claims.requesting_agency, claims.search_id, claims.holders)

        return commit

    def _refuse_by_policy(self, claims: GrantClaims, decided: Sequence[HolderDecision], now: datetime) -> NoReturn:
        """Store every decision, enter the refusal into the log, and refuse by the first rule."""
        refused = [one for one in decided if not one.decision.allowed]
        rule = refused[0].decision.rules[0]
        with self._engine.begin() as connection:
            keep_each(connection, self._vault, claims, decided, now)
            said = [("refused-grant", claims.digest)]
            opened = opened_refusal(claims, self._parties.roster(), self._agency, rule=rule)
            self._outbox.entry(connection, EntryKind.REFUSAL, Conversation.of(claims), said, opened, author=self._agency)
        raise RefusedByUsError(RefusalReason.POLICY, "; ".join(one.refusal for one in refused), rule)

    async def _manifests(self, claims: GrantClaims) -> dict[AgencyId, GalleryManifest]:
        return {holder: await self._parties.manifest(holder) for holder in claims.holders}

    # --- custody ------------------------------------------------------------------------------------------------------

    async def receive_share(self, message: AnyMessage) -> Commit:
        """A holder's mask share: kept sealed until the release, or handed to the custodian who combines."""
        held = self._in_time(message)
        claims, holder = held.claims, message.header.sender
        if holder not in claims.holders:
            raise GrantMismatchError("a mask share comes from a holder of the grant")
        if claims.combiner == self._agency:
            return self._keep(message, held, holder, SHARE, self._agency)
        share = self._envelopes.open(message, MaskShare, held.conversation, holder)
        combiner = SealTo.statement(await self._parties.week_key(claims.combiner))

        def commit(connection: Connection) -> None:
            handover = MaskHandover(holder, share)
            self._outbox.sealed(connection, MessageType.MASK_HANDOVER, handover, held.conversation, combiner)
            connection.execute(update(inbox).where(inbox.c.message_id == str(message.message_id)).values(data=None))

        return commit

    async def receive_handover(self, message: AnyMessage) -> Commit:
        """Another custodian's share."""
        held = self._in_time(message)
        sender = message.header.sender
        if sender not in held.claims.custodians or sender == self._agency or held.claims.combiner != self._agency:
            raise GrantMismatchError("a hand-over comes from another custodian of the grant to the one who combines")
        handover = self._envelopes.open(message, MaskHandover, held.conversation, sender)
        if handover.holder not in held.claims.holders:
            raise GrantMismatchError("a hand-over is of a holder of the grant")
        return self._keep(message, held, handover.holder, SHARE, sender)

    async def receive_opened(self, message: AnyMessage) -> Commit:
        """What the requester opened of one holder's answer, under that holder's own statement of the answer's digest."""
        held = self._in_time(message)
        claims = held.claims
        if claims.combiner != self._agency:
            raise GrantMismatchError("opened values go to the custodian who combines")
        opened = self._envelopes.open(message, OpenedBody, held.conversation, claims.requesting_agency)
        holder = opened.statement.holder
        if holder not in claims.holders:
            raise GrantMismatchError("opened values are of a holder of the grant")
        opened.statement.check(claims.search_id, held.digest, self._parties.roster().node_key(holder))

        def on_kept() -> None:
            self._at_hand = (claims.search_id, opened)

        return self._keep(message, held, holder, OPENED, claims.requesting_agency, on_kept)

    async def receive_refusal(self, message: AnyMessage) -> Commit:
        """A holder of the grant will not answer, and says why: the release names it. Refusals of others change nothing."""
        refusal = read_message(
            message, Refusal, recipient=self._agency, sender_public=self._parties.roster().node_key(message.header.sender)
        )
        search_id, holder = message.header.search_id, message.header.sender
        held = None if search_id is None else self._desk.find(search_id)
        if held is None and self._clock() - message.header.sent_at < PATIENCE:
            raise NotYetError("its grant has not come yet")
        if held is None or holder not in held.claims.holders or self._state(held) != OPEN:
            return lambda connection: None
        note = f"{int(refusal.reason)}:{refusal.rule or 0}"
        values = {"search_id": str(search_id), "holder": str(holder), "kind": REFUSAL, "custodian": "", "note": note}

        def commit(connection: Connection) -> None:
            _insert_part(connection, values)

        return commit

    def _in_time(self, message: AnyMessage) -> HeldGrant:
        """The grant of a search that is still open here; what comes later is discarded, logged and refused as late."""
        held = self._desk.held(message)
        state = self._state(held)
        if state is None:
            raise GrantMismatchError("the grant does not name this agency as a custodian")
        if state == OPEN and self._clock() < held.claims.answer_deadline:
            return held
        with self._engine.begin() as connection:
            late = [("refused-message", message.message_id.digest)]
            opened = opened_refusal(held.claims, self._parties.roster(), self._agency, late=True)
            self._outbox.entry(connection, EntryKind.REFUSAL, held.conversation, late, opened, author=self._agency)
            record(connection, self._clock(), held.claims.search_id, "late", f"{message.header.message_type} from {message.header.sender}")
        raise RefusedByUsError(RefusalReason.LATE, "the search was released, or its deadline has passed: what comes late is discarded")

    def _state(self, held: HeldGrant) -> str | None:
        with self._engine.begin() as connection:
            where = custody.c.search_id == str(held.claims.search_id)
            return connection.execute(select(custody.c.state).where(where)).scalar()

    def _keep(
        self,
        message: AnyMessage,
        held: HeldGrant,
        holder: AgencyId,
        kind: str,
        custodian: AgencyId,
        on_kept: Callable[[], None] = lambda: None,
    ) -> Commit:
        """Keep a part, unless there is one; `on_kept` is told, inside the transaction, that it was the first."""
        values = {
            "search_id": str(held.claims.search_id),
            "holder": str(holder),
            "kind": kind,
            "custodian": str(custodian),
            "data": message.to_bytes() if isinstance(message, Message) else IN_PIECES,
            "note": "",
            "message_id": None if isinstance(message, Message) else str(message.message_id),
        }

        def commit(connection: Connection) -> None:
            is_kept = _insert_part(connection, values)
            if is_kept:
                self._standings.ask_ahead(connection, held)
                on_kept()
            if not is_kept or isinstance(message, Message):  # else its pieces stay in the inbox, where the release finds them
                connection.execute(update(inbox).where(inbox.c.message_id == str(message.message_id)).values(data=None))

        return commit

    # --- release ------------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Release what is complete or due."""
        at_hand, self._at_hand = self._at_hand, None
        troubles: list[Exception] = []
        for (search_id,) in _WAITING.rows(self._engine):
            held = self._desk.find(search_id)
            if held is None or held.claims.combiner != self._agency:
                continue
            if self._clock() >= held.claims.answer_deadline or self._taken(held, null().label("data")).is_complete(held.claims):
                with apart(troubles):
                    await self._release(held, at_hand)
        if troubles:
            raise troubles[0]

    def _taken(self, held: HeldGrant, data: ColumnElement[Any], at_hand: tuple[SearchId, OpenedBody] | None = None) -> Custody:
        """What came, with its bytes in the column `data`: some megabytes, which only a release needs."""
        opened = {} if at_hand is None or at_hand[0] != held.claims.search_id else {at_hand[1].statement.holder: at_hand[1]}
        kept = custody_parts.c
        wanted = select(kept.holder, kept.kind, kept.custodian, kept.note, kept.message_id, data)
        with self._engine.begin() as connection:
            rows = connection.execute(wanted.where(kept.search_id == str(held.claims.search_id))).all()
        return Custody.of(rows, partial(received, self._engine), opened)

    async def _release(self, held: HeldGrant, at_hand: tuple[SearchId, OpenedBody] | None) -> None:
        """Ask for the legal office's word and the log again, open, unmask, release, destroy: once."""
        claims = held.claims
        try:
            self._desk.check_no_end(held.digest)
            if self._clock() >= claims.expires:
                self._end(held, EXPIRED if self._standings.has_word(held) else f"{NO_STATEMENT}, and it has expired")
                return
            if not self._standings.stands(held):
                if at_hand is not None and at_hand[0] == claims.search_id:
                    self._at_hand = at_hand  # the word is on its way
                return
            await self._desk.check_act(claims, held.digest)
        except NotYetError:
            return
        except PeerError as error:
            self._end(held, str(error))
            return
        taken = self._taken(held, custody_parts.c.data, at_hand)
        manifests = await self._manifests(claims)
        keys = await self._holder_keys(claims, taken)
        requester, roster = (
            SealTo.statement(await self._parties.search_key(claims.requesting_agency, claims.search_id)),
            self._parties.roster(),
        )
        discovery_key, office = roster.discovery_key(claims.requesting_agency), roster.agency(claims.requesting_agency).legal_office
        discovery = SealTo(office or claims.requesting_agency, discovery_key, key_id(discovery_key.raw))
        model, (table, impostors) = self._models[claims.model_hash], self._tables[claims.model_hash]
        outcomes = await asyncio.to_thread(combine, held, taken, manifests, model, impostors, self._envelopes, roster)
        with self._engine.begin() as connection:
            self._queue(connection, held, outcomes, keys, requester, discovery)
            self._forget(connection, claims)
            state = REFUSED if outcomes.calibration_failed else RELEASED
            values = {"state": state, "note": outcomes.note, "released_at": stamp(self._clock()), "alarms": outcomes.alarms_text}
            connection.execute(update(custody).where(custody.c.search_id == str(claims.search_id)).values(**values))
            record(connection, self._clock(), claims.search_id, state, outcomes.note)
            record(connection, self._clock(), claims.search_id, "threshold from", f"{table.kind} table {table.digest.hex()}")

    async def _holder_keys(self, claims: GrantClaims, taken: Custody) -> dict[AgencyId, SealTo]:
        """The holders' keys of this week. One that answered is waited for; one that did not, and is away, gets no empty part."""
        keys = {}
        for holder in claims.holders:
            try:
                keys[holder] = SealTo.statement(await self._parties.week_key(holder))
            except (BrokerRefusedError, AgencyStatementError):
                if taken.is_whole(holder, claims):
                    raise
        return keys

    def _queue(
        self,
        connection: Connection,
        held: HeldGrant,
        outcomes: Outcomes,
        keys: Mapping[AgencyId, SealTo],
        requester: SealTo,
        discovery: SealTo,
    ) -> None:
        """The log entry first, then every holder's part in one batch, empty ones alike, then the requester's and the legal office's."""
        claims, released = held.claims, outcomes.release
        slots = [b"%d %d %d" % lead for lead in released.to_requester.leads]
        fields = [("alarms", outcomes.alarms_text.encode("ascii"))] if outcomes.alarms_text else [("alarms", b"none")]
        fields += [("release-slot", slot) for slot in slots]
        opened = opened_release(claims, released.to_requester.holders, len(slots), refused=outcomes.calibration_failed)
        self._outbox.entry(connection, EntryKind.RELEASE, held.conversation, fields, opened)
        for holder, part in sorted(released.to_holders.items()):
            if holder in keys:
                self._outbox.sealed(connection, MessageType.HOLDER_RELEASE, part, held.conversation, keys[holder])
        self._outbox.sealed(connection, MessageType.REQUESTER_RELEASE, released.to_requester, held.conversation, requester)
        if released.to_discovery is not None:
            self._outbox.sealed(connection, MessageType.DISCOVERY_RELEASE, released.to_discovery, held.conversation, discovery)

    def _forget(self, connection: Connection, claims: GrantClaims) -> None:
        """Shares and opened values are gone with the release."""
        where = custody_parts.c.search_id == str(claims.search_id)
        in_pieces = select(custody_parts.c.message_id).where(where, custody_parts.c.message_id.is_not(None))
        connection.execute(update(inbox).where(inbox.c.message_id.in_(in_pieces)).values(data=None))
        connection.execute(update(custody_parts).where(where).values(data=None))

    def withdraw(self, held: HeldGrant, connection: Connection, why: str = WITHDRAWN_BY_REQUESTER) -> None:
        """The requester took the search back, or it lapsed: it is closed without a release, its shares and values are gone."""
        self._end_in(connection, held, why)

    def _end(self, held: HeldGrant, note: str) -> None:
        with self._engine.begin() as connection:
            self._end_in(connection, held, note)

    def _end_in(self, connection: Connection, held: HeldGrant, note: str) -> None:
        where = (custody.c.search_id == str(held.claims.search_id)) & (custody.c.state == OPEN)
        if connection.execute(update(custody).where(where).values(state=LAPSED, note=note)).rowcount == 1:
            self._forget(connection, held.claims)
            self._at_hand = None
            record(connection, self._clock(), held.claims.search_id, LAPSED, note)


def _insert_part(connection: Connection, values: Mapping[str, object]) -> bool:
    """Whether it is kept. The first word counts: a holder's second refusal or share under another number changes nothing."""
    return connection.execute(insert(custody_parts).prefix_with("OR IGNORE").values(**values)).rowcount == 1
