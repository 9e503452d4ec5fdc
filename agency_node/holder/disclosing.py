"""After the release: which records were meant, stubs for the requester, and photographs that the holder's own legal staff discloses.

Invariants: stubs leave only on a release by the grant's combining custodian that stands in the log, once a search; a list of stubs has the
grant's cap of slots, whatever it holds; a handle means a row to this holder alone; a photograph and a record number leave only under a
decision that a reviewer of this holder's legal office signed (PROTOCOL 3, steps 11 and 12; R8), and a refusal has the same length.

What stays visible to the broker: how long a holder takes. A dummy is answered at once, a question when a person has decided.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine, Row, insert, select, update

from agency_node.courier import Commit, Handler, apart
from agency_node.envelopes import Envelopes
from agency_node.gallery_tables import disclosure_requests, stubs
from agency_node.grants import GrantDesk, HeldGrant
from agency_node.holder.answering import ANSWERED, ROOT
from agency_node.holder.decision import GRANTED, PENDING, WITHHOLDING
from agency_node.holder.index import GalleryIndex
from agency_node.journal import Told, record, stamp
from agency_node.opened_fields import opened_disclosure
from agency_node.outbox import Outbox, Outgoing, SealTo
from agency_node.parties import Parties
from agency_node.refusals import RefusedByUsError
from agency_node.store import Glance
from agency_node.tables import answers, inbox, outbox
from agency_node.vault import Vault
from crypto.canonical import AgencyId
from crypto.disclosure import DisclosedRecord, Disclosure, DisclosureOutcome, DisclosureRequest, Stub, StubList, StubRecord
from crypto.entries import EntryKind
from crypto.errors import GrantExpiredError, GrantMismatchError, ReleaseError, RevokedError
from crypto.grant import check_in_force
from crypto.lawful_steps import explain
from crypto.layout import FILLER
from crypto.message_types import MessageType
from crypto.messages import AnyMessage
from crypto.moments import utc_day
from crypto.notices import RefusalReason
from crypto.prepared import rows_at
from crypto.release import HolderRelease
from crypto.ring import N
from crypto.seed import SEED_BYTES, Seed
from crypto.wire import MessageId

RELEASED: Final = "released"
ENDED: Final = "ended"
"""A request that was decided when its grant no longer held."""
_TO_SEND: Final = Glance(select(disclosure_requests.c.message_id).where(disclosure_requests.c.state.in_([GRANTED, WITHHOLDING])).limit(1))
_RELEASE: Final = "holder-release"


class Disclosing:
    """The holder's part of a search after the release."""

    def __init__(
        self,
        agency: AgencyId,
        engine: Engine,
        vault: Vault,
        index: GalleryIndex,
        desk: GrantDesk,
        envelopes: Envelopes,
        parties: Parties,
        outbox: Outbox,
        clock: Callable[[], datetime],
    ) -> None:
        self._agency = agency
        self._engine = engine
        self._vault = vault
        self._index = index
        self._desk = desk
        self._envelopes = envelopes
        self._parties = parties
        self._outbox = outbox
        self._clock = clock
        self._finding: tuple[MessageId, asyncio.Future[list[int]]] | None = None

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Releases and requests come here."""
        return {MessageType.HOLDER_RELEASE: self.receive_release, MessageType.DISCLOSURE_REQUEST: self.receive_request}

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows; the journal has it."""

    # --- release ------------------------------------------------------------------------------------------------------

    async def receive_release(self, message: AnyMessage) -> Commit:
        """A release, after these checks in this order; then the stubs:

        1. this holder holds the grant, and it is in force
        2. it opens, and comes from the grant's combining custodian
        3. its cap is the grant's; it names leads only if this holder answered (`ReleaseError`)
        4. none came before for this search (refused as replayed)
        5. the log holds the grant, no end of it, and the entry of a release (`LogError`: no log entry, no release)
        """
        held = self._desk.held(message)  # 1
        claims = held.claims
        released = self._envelopes.open(message, HolderRelease, held.conversation, claims.combiner)  # 2
        with self._engine.begin() as connection:
            answered = connection.execute(select(answers).where(answers.c.search_id == str(claims.search_id))).first()
            before = self._has_listed(connection, claims.search_id)
        if released.cap != claims.cap or (released.leads and (answered is None or answered.sealed_root is None)):  # 3
            raise ReleaseError("a release has the grant's cap, and leads only of a holder that answered")
        if before:  # 4
            raise RefusedByUsError(RefusalReason.REPLAYED, "this search was released before")
        found = self._found(message.message_id, released, answered)  # while the log is asked
        await self._desk.check_released(claims, held.digest)  # 5
        to_requester = SealTo.statement(await self._parties.search_key(claims.requesting_agency, claims.search_id))
        rows = self._still_held(await found)
        listed = [self._stub(index, row) for (index, _), row in zip(released.leads, rows, strict=True)]
        listed.sort(key=lambda stub: stub.index)
        shown = {stub.index: stub for stub in listed}

        def commit(connection: Connection) -> None:
            for (index, _), row in zip(released.leads, rows, strict=True):
                stub = shown[index]
                if stub.record is not None:
                    values = {"handle": stub.record.handle.hex(), "search_id": str(claims.search_id), "release_index": index, "row": row}
                    connection.execute(insert(stubs).values(**values))
            sealed = self._vault.seal(_RELEASE, released.to_bytes(), claims.search_id.encode("ascii"))
            where = answers.c.search_id == str(claims.search_id)
            connection.execute(update(answers).where(where, answers.c.state == ANSWERED).values(state=RELEASED, sealed_release=sealed))
            record(connection, self._clock(), claims.search_id, "released", f"{len(rows)} of this holder's records")
            self._finding = None
            self._outbox.sealed(connection, MessageType.STUBS, StubList(claims.cap, tuple(listed)), held.conversation, to_requester)

        return commit

    @staticmethod
    def _has_listed(connection: Connection, search_id: str) -> bool:
        """Whether stubs of this search were written: it was released to this holder."""
        listed = (outbox.c.search_id == str(search_id)) & (outbox.c.name == str(MessageType.STUBS))
        return connection.execute(select(outbox.c.number).where(listed)).first() is not None

    def _found(self, message_id: MessageId, released: HolderRelease, answered: object) -> asyncio.Future[list[int]]:
        """The rows at a release's positions, looked for in another thread; once for a message that has to wait for the log."""
        if self._finding is None or self._finding[0] != message_id:
            finding = asyncio.ensure_future(asyncio.to_thread(self._rows, released, answered))
            finding.add_done_callback(lambda done: done.cancelled() or done.exception())  # raised where it is awaited, if it is
            self._finding = (message_id, finding)
        return self._finding[1]

    def _still_held(self, rows: list[int]) -> list[int]:
        return [row if row != FILLER and self._index.records.holds(row) else FILLER for row in rows]

    def _rows(self, released: HolderRelease, answered: object) -> list[int]:
        if not released.leads:
            return []
        layout_id, sealed, search_id = answered.layout_id, answered.sealed_root, answered.search_id  # type: ignore[attr-defined]  # a row
        kept = self._vault.open(ROOT, sealed, search_id.encode("ascii"))
        order_seed, place = Seed(kept[SEED_BYTES : 2 * SEED_BYTES]), int.from_bytes(kept[2 * SEED_BYTES :], "big")
        positions = np.array([position for _, position in released.leads], np.uint32)
        rows = self._index.rows_of(layout_id)
        order = self._index.order_of(answered.answer_digest, order_seed, rows.size + N)  # type: ignore[attr-defined]  # the same row
        return [int(row) for row in rows_at(order, place, rows, positions)]

    def _stub(self, index: int, row: int) -> Stub:
        if row == FILLER:
            return Stub(index, None)
        shown = self._index.records.record(row)
        age_days = shown.image_age_days(utc_day(self._clock()))
        return Stub(index, StubRecord(secrets.token_bytes(16), self._agency, shown.captured, age_days))

    # --- disclosure ---------------------------------------------------------------------------------------------------

    async def receive_request(self, message: AnyMessage) -> Commit:
        """A request after the release: a dummy is answered at once, and once; a question waits for the holder's legal staff."""
        held = self._desk.held(message)
        claims = held.claims
        request = self._envelopes.open(message, DisclosureRequest, held.conversation, claims.requesting_agency)
        to_requester = SealTo.statement(await self._parties.search_key(claims.requesting_agency, claims.search_id))
        handle = "" if request.handle is None else request.handle.hex()
        known = (stubs.c.handle == handle) & (stubs.c.search_id == str(claims.search_id))
        dummy = (disclosure_requests.c.handle == "") & (disclosure_requests.c.search_id == str(claims.search_id))
        with self._engine.begin() as connection:
            if not self._has_listed(connection, claims.search_id):
                raise RefusedByUsError(RefusalReason.RELEASE, "nothing was released of this search yet")
            if handle and connection.execute(select(stubs.c.row).where(known)).first() is None:
                raise GrantMismatchError("the handle is not of a lead that this holder showed in this search")
            if not handle and connection.execute(select(disclosure_requests.c.state).where(dummy)).first() is not None:
                raise RefusedByUsError(RefusalReason.REPLAYED, "a search ends with one dummy")

        def commit(connection: Connection) -> None:
            values = {
                "message_id": str(message.message_id),
                "search_id": str(claims.search_id),
                "handle": handle,
                "state": PENDING if handle else DisclosureOutcome.NOT_ASKED.name.lower(),
                "received_at": stamp(self._clock()),
            }
            connection.execute(insert(disclosure_requests).values(**values))
            if not handle:
                self._send(connection, held, Disclosure(DisclosureOutcome.NOT_ASKED), to_requester)
            connection.execute(update(inbox).where(inbox.c.message_id == str(message.message_id)).values(data=None))

        return commit

    async def tick(self) -> None:
        """Send what legal staff decided since: each on a fresh checkpoint under which the grant still stands."""
        if _TO_SEND.first(self._engine) is None:
            return
        with self._engine.begin() as connection:
            decided = connection.execute(select(disclosure_requests).where(disclosure_requests.c.state.in_([GRANTED, WITHHOLDING]))).all()
        troubles: list[Exception] = []
        for row in decided:
            with apart(troubles):
                await self._send_decided(row)
        if troubles:
            raise troubles[0]

    async def _send_decided(self, row: Row[Any]) -> None:
        held = self._desk.find(row.search_id)
        if held is None:
            return
        where = disclosure_requests.c.message_id == row.message_id
        try:
            check_in_force(held.claims, self._clock())
            await self._desk.check_act(held.claims, held.digest)
        except (GrantExpiredError, RevokedError) as error:
            with self._engine.begin() as connection:
                connection.execute(update(disclosure_requests).where(where).values(state=ENDED))
                record(connection, self._clock(), row.search_id, "disclosure not sent", explain(error).name)
            return
        key = await self._parties.search_key(held.claims.requesting_agency, held.claims.search_id)
        disclosure = self._decided(row.handle, row.decision, granted=row.state == GRANTED)
        with self._engine.begin() as connection:
            state = disclosure.outcome.name.lower()
            connection.execute(update(disclosure_requests).where(where).values(state=state))
            self._send(connection, held, disclosure, SealTo.statement(key))
            said: Told = {"recipient": str(held.claims.requesting_agency), "subject": f"handle {row.handle}"}
            record(connection, self._clock(), row.search_id, "disclosure", state, **said)

    def _decided(self, handle: str, decision: bytes, *, granted: bool) -> Disclosure:
        digest, raw = hashlib.sha256(decision).digest(), bytes.fromhex(handle)
        if not granted:
            return Disclosure(DisclosureOutcome.WITHHELD, raw, digest)
        with self._engine.begin() as connection:
            row = connection.execute(select(stubs.c.row).where(stubs.c.handle == handle)).scalar_one()
        if not self._index.records.holds(row):
            return Disclosure(DisclosureOutcome.WITHDRAWN, raw)
        held_record = self._index.records.record(row)
        if held_record.photograph is None or held_record.media is None:
            return Disclosure(DisclosureOutcome.WITHDRAWN, raw)
        shown = DisclosedRecord(held_record.record_number, held_record.media, held_record.photograph)
        return Disclosure(DisclosureOutcome.DISCLOSED, raw, digest, shown)

    def _send(self, connection: Connection, held: HeldGrant, disclosure: Disclosure, to_requester: SealTo) -> None:
        """Queue log entry and message; a dummy is entered like any other, else the log would say which searches found nobody."""
        fields = [("disclosure-digest", hashlib.sha256(disclosure.to_bytes()).digest())]
        opened = opened_disclosure(held.claims, self._agency, disclosure.outcome)
        self._outbox.entry(connection, EntryKind.DISCLOSURE, held.conversation, fields, opened, author=self._agency)
        self._outbox.sealed(connection, MessageType.DISCLOSURE, disclosure, held.conversation, to_requester)
