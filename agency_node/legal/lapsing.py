"""The requester's serving node watches its exigent grants: warns, tells parties of a ratification, and carries a lapse out (R4).

A lapse is one transaction. In it the search becomes `lapsed`, whatever it was; what is to be kept is sealed (`archive`), or nothing is;
still, request, leads, photographs, search key, probe and the search's own sealing key are destroyed; what had not left is dropped; the case
is marked; the notices are made. After it follow the entry `lapse` in the log, if the log holds the grant, and the files of the notices.

Invariants: from the end of the clock on nothing that comes for the search is handled; a process that dies before the transaction lapses the
search when it starts again, one that dies after it has lost nothing. A ratified grant is told to everybody who was sent it, entry first.

Left to others: the commands' refusals and the states (`exigent`), the parties' own clocks (`ratified`), emptying the write-ahead log
(`courier`, after each round of work).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, bindparam, delete, func, select, update

from agency_node.courier import DONE, Commit, Handler, apart
from agency_node.errors import BrokerRefusedError
from agency_node.journal import record, stamp
from agency_node.keyring import Keyring
from agency_node.legal.archive import seal_archive
from agency_node.legal.exigent import CLOSED_LEADS, LAPSED, RATIFIED, RUNNING, is_over, warning_due
from agency_node.legal.notices import make_notices, write_notices
from agency_node.opened_fields import Opened, opened_end
from agency_node.outbox import GRANT, MESSAGE, READY, SENT, Conversation, Outbox, Outgoing, SealTo
from agency_node.outbox import REFUSED as NOT_SENT
from agency_node.parties import Parties
from agency_node.policy.clocks import OnLapse
from agency_node.policy.decisions import forget_inputs
from agency_node.refusals import RefusedByUsError
from agency_node.requester.cases import forget_number, is_held
from agency_node.requester.drafting import CASE, TOKEN, CaseFile, case_tag, seal_salt
from agency_node.requester.probe_versions import forget_chain
from agency_node.store import Glance, reading
from agency_node.tables import disclosures, exigent_grants, inbox, leads, outbox, probe_faces, sealing_keys, searches
from agency_node.vault import Vault
from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.entries import EntryKind
from crypto.epoch import Epoch
from crypto.errors import AgencyStatementError
from crypto.grant_token import unverified_claims
from crypto.message_types import MessageType
from crypto.messages import AnyMessage
from crypto.notices import RefusalReason
from crypto.ratification import RatificationBody

_UNFINISHED: Final = Glance(
    select(exigent_grants.c.search_id).where(
        (exigent_grants.c.state == RUNNING)
        | ((exigent_grants.c.state == RATIFIED) & (exigent_grants.c.ratify_by > bindparam("now")))  # who hears of it later refuses it
        | ((exigent_grants.c.state == LAPSED) & (exigent_grants.c.in_log == 0))
    )
)
_WARNINGS: Final = ("", "half of the time to ratify is over", "two hours are left to ratify")
_CLOSED_TO: Final = (
    MessageType.ANSWER,
    MessageType.REQUESTER_RELEASE,
    MessageType.DISCOVERY_RELEASE,
    MessageType.STUBS,
    MessageType.DISCLOSURE,
)
"""What brings a search on; none of it is handled once its clock is over."""


class ExigentClocks:
    """The requester's part. It stands before the other parts of the requester, so that its refusals and its lapses come first."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        vault: Vault,
        keyring: Keyring,
        parties: Parties,
        outbox: Outbox,
        clock: Callable[[], datetime],
    ) -> None:
        self._folder = folder
        self._engine = engine
        self._vault = vault
        self._keyring = keyring
        self._parties = parties
        self._outbox = outbox
        self._clock = clock

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Everything that brings a search on is asked about first."""
        return dict.fromkeys(_CLOSED_TO, self.receive)

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows; the journal has it."""

    async def receive(self, message: AnyMessage) -> Commit:
        """Refuse what comes for an exigent search whose clock is over (`RefusedByUsError`); the search's own part handles all else."""
        with reading(self._engine).begin() as connection:
            if is_over(connection, str(message.header.search_id), self._clock()):
                raise RefusedByUsError(RefusalReason.REVOKED, "the exigent search was not ratified in time (R4)")
        return lambda connection: None

    async def tick(self) -> None:
        """Warn, lapse, enter lapses into the log, tell of ratifications, write notices: whatever is due."""
        now = self._clock()
        troubles: list[Exception] = []
        for (search_id,) in _UNFINISHED.rows(self._engine, now=stamp(now)):
            with reading(self._engine).begin() as connection:
                row = connection.execute(select(exigent_grants).where(exigent_grants.c.search_id == search_id)).one()
            with apart(troubles):
                await self._go_on(row, now)
        write_notices(self._engine, self._folder, self._clock)
        if troubles:
            raise troubles[0]

    async def _go_on(self, row: Row[Any], now: datetime) -> None:
        if row.state == RATIFIED:
            await self._tell(row)
        elif row.state == RUNNING and stamp(now) < row.ratify_by:
            self._warn(row, now)
        else:
            if row.state == RUNNING:
                row = self._under_hold(row, now)
                self._lapse(row, now)
            self._enter_lapse(row)

    # --- while the clock runs -----------------------------------------------------------------------------------------

    def _warn(self, row: Row[Any], now: datetime) -> None:
        due = warning_due(row, now)
        if due <= row.warned:
            return
        with self._engine.begin() as connection:
            connection.execute(update(exigent_grants).where(exigent_grants.c.search_id == row.search_id).values(warned=due))
            record(connection, now, row.search_id, "exigent warning", f"{_WARNINGS[due]}: until {row.ratify_by}")

    async def _tell(self, row: Row[Any]) -> None:
        """The entry, then the ratification to everybody to whom the grant has left and who was not told; who has no key is asked again."""
        of_search = outbox.c.search_id == row.search_id
        with reading(self._engine).begin() as connection:
            sealed = connection.execute(select(searches.c.sealed_token).where(searches.c.search_id == row.search_id)).scalar_one()
            messages = select(outbox.c.recipient).where(of_search, outbox.c.kind == MESSAGE)
            knows = set(connection.execute(messages.where(outbox.c.name == str(MessageType.GRANT), outbox.c.state == SENT)).scalars())
            told = set(connection.execute(messages.where(outbox.c.name == str(MessageType.RATIFICATION))).scalars())
        claims = unverified_claims(self._vault.open(TOKEN, sealed, row.search_id.encode("ascii")))
        knows &= {*claims.holders, *claims.custodians}  # who keeps a clock of its own; a legal office does not
        if knows <= told:
            return
        conversation = Conversation.of(claims)
        for agency in sorted(knows - told):
            try:
                key = SealTo.statement(await self._parties.week_key(AgencyId(agency)))
            except (BrokerRefusedError, AgencyStatementError):
                continue
            with self._engine.begin() as connection:
                first = (exigent_grants.c.search_id == row.search_id) & (exigent_grants.c.in_log == 0)
                if connection.execute(update(exigent_grants).where(first).values(in_log=1)).rowcount:
                    fields = [("ratification-digest", hashlib.sha256(row.ratification).digest()), ("grant-digest", row.grant_digest)]
                    self._outbox.entry(connection, EntryKind.RATIFICATION, conversation, fields, self._opened("ratified"))
                self._outbox.sealed(connection, MessageType.RATIFICATION, RatificationBody(row.ratification), conversation, key)

    def _opened(self, outcome: str) -> Opened:
        return opened_end(self._outbox.agency, self._parties.trusted.possibly_expired, outcome)

    # --- the lapse ----------------------------------------------------------------------------------------------------

    def _under_hold(self, row: Row[Any], now: datetime) -> Row[Any]:
        """Of a case that legal staff holds nothing is deleted: what would be lies under the seal instead."""
        this = exigent_grants.c.search_id == row.search_id
        with self._engine.begin() as connection:
            if row.on_lapse == OnLapse.DELETE.value and is_held(connection, row.search_id):
                connection.execute(update(exigent_grants).where(this).values(on_lapse=OnLapse.SEAL.value))
                record(connection, now, row.search_id, "kept for a legal hold", "sealed where the policy says delete")
            return connection.execute(select(exigent_grants).where(this)).one()

    def _lapse(self, row: Row[Any], now: datetime) -> None:
        search_id, bound = row.search_id, row.search_id.encode("ascii")
        with self._engine.begin() as connection:
            search = connection.execute(select(searches).where(searches.c.search_id == search_id)).one()
        claims = unverified_claims(self._vault.open(TOKEN, search.sealed_token, bound))
        case = CaseFile.from_bytes(self._vault.open(CASE, search.sealed_case, bound))
        keeps = row.on_lapse == OnLapse.SEAL.value
        # An expired roster must not keep the plaintext here: the office's key that is known last is the right one to seal to.
        office = self._parties.trusted.possibly_expired.discovery_key(claims.requesting_agency)
        archive = seal_archive(self._engine, self._vault, search_id, office) if keeps else None
        with self._engine.begin() as connection:
            marked = {
                "state": LAPSED,
                "ended_at": stamp(now),
                "archive": archive,
                "case_tag": case_tag(self._vault, case.case_number),
                "sealed_salt": seal_salt(self._vault, case),
            }
            running = (exigent_grants.c.search_id == search_id) & (exigent_grants.c.state == RUNNING)
            if connection.execute(update(exigent_grants).where(running).values(**marked)).rowcount != 1:
                return  # ratified meanwhile
            seen = self._leads_seen(connection, search_id)
            self._destroy(connection, search_id, keeps=keeps)
            make_notices(connection, claims, row.ratify_by, row.on_lapse, seen, self._keyring.node_key, now)
            record(connection, now, search_id, LAPSED, f"not ratified in time (R4): {'sealed' if keeps else 'deleted'}")

    @staticmethod
    def _leads_seen(connection: Connection, search_id: str) -> int:
        query = select(func.count()).select_from(leads).where(leads.c.search_id == search_id)
        return int(connection.execute(query).scalar_one())

    def _destroy(self, connection: Connection, search_id: str, *, keeps: bool) -> None:
        """Nothing of the search stays readable; what is already sealed to the legal office stays if anything does."""
        values: dict[str, object] = dict.fromkeys(("sealed_still", "probe", "sealed_search_key", "sealed_release"))
        values |= {"sealed_token": b"", "sealed_case": b"", "state": LAPSED, "note": CLOSED_LEADS}
        if not keeps:
            values |= {"escrow": None, "discovery": None}
        connection.execute(update(searches).where(searches.c.search_id == search_id).values(**values))
        for table in (leads, disclosures, probe_faces):
            connection.execute(delete(table).where(table.c.search_id == search_id))
        forget_chain(connection, search_id)
        forget_number(connection, search_id)
        forget_inputs(connection, search_id)
        unsent = (outbox.c.search_id == search_id) & (outbox.c.state == READY)
        connection.execute(update(outbox).where(unsent).values(state=NOT_SENT, data=None, note="the exigent search lapsed"))
        came = (inbox.c.search_id == search_id) & inbox.c.data.is_not(None)
        connection.execute(update(inbox).where(came).values(state=DONE, data=None))
        own = select(sealing_keys.c.key_id).where(sealing_keys.c.use == search_id, sealing_keys.c.sealed_private.is_not(None))
        for key_id in connection.execute(own).scalars().all():
            self._keyring.destroy(KeyId(key_id), connection)

    def _enter_lapse(self, row: Row[Any]) -> None:
        """Queue the entry once the log holds the grant, which may have been on its way when the search lapsed; without it there is none."""
        of_grant = (outbox.c.search_id == row.search_id) & (outbox.c.kind == GRANT) & (outbox.c.state == SENT)
        with self._engine.begin() as connection:
            if connection.execute(select(outbox.c.number).where(of_grant)).first() is None:
                return
            first = (exigent_grants.c.search_id == row.search_id) & (exigent_grants.c.state == LAPSED) & (exigent_grants.c.in_log == 0)
            if connection.execute(update(exigent_grants).where(first).values(in_log=1)).rowcount:
                month = connection.execute(select(searches.c.epoch).where(searches.c.search_id == row.search_id)).scalar_one()
                conversation = Conversation(SearchId(row.search_id), row.grant_digest, Epoch(month))
                fields = [("grant-digest", row.grant_digest), ("ratify-by", row.ratify_by.encode()), ("on-lapse", row.on_lapse.encode())]
                ended = self._opened("deleted" if row.on_lapse == OnLapse.DELETE.value else "sealed")
                self._outbox.entry(connection, EntryKind.LAPSE, conversation, fields, ended)
