"""A custodian's question to the legal office, and the answer without which nothing is released: does the grant stand?

The custodian that combines asks the node of the requesting agency's legal office, with a nonce of its own, as soon as the first part of a
search comes into custody: the answer is there when the release is due. At the release the answer must be at most five minutes old, else it
is asked again under a new nonce, and the release waits. So a broker that keeps a revocation out of the log and the mail, or drops, keeps or
repeats answers, stops a release and starts none.

Invariants: an answer counts only if the office's node key signed its frame, for this search and grant, to this agency, over the nonce that
was asked with last; no answer, no release. An answer that says "ended" ends the search here. The question and the answer stay as the
release's evidence.

Left to others: this node's own look into the log before the release (`grants`), answering (`legal.office`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select, update
from sqlalchemy.dialects.sqlite import insert

from agency_node.courier import Commit
from agency_node.grants import GrantDesk, HeldGrant
from agency_node.journal import record, stamp
from agency_node.outbox import Outbox
from agency_node.parties import Parties
from agency_node.store import reading
from agency_node.tables import standings
from crypto.canonical import AgencyId
from crypto.errors import GrantMismatchError, RevokedError, StaleStatementError
from crypto.grant_claims import GrantClaims
from crypto.message_types import MessageType
from crypto.messages import AnyMessage, Message, read_message, whole
from crypto.moments import parse_moment
from crypto.notices import RevocationQuery, RevocationStatement

ASK_AGAIN: Final = timedelta(hours=1)
"""After that long without an answer the question is asked once more, should it be lost. A late answer to the last one still counts."""
NO_STATEMENT: Final = "the legal office has not said that the grant stands"


class Standings:
    """Asks, and keeps what was answered. `on_ended` is told, in the transaction that keeps it, that the office says that a grant ended."""

    def __init__(
        self,
        agency: AgencyId,
        engine: Engine,
        desk: GrantDesk,
        parties: Parties,
        outbox: Outbox,
        clock: Callable[[], datetime],
        on_ended: Callable[[Connection, HeldGrant, str], None],
    ) -> None:
        self._agency = agency
        self._engine = engine
        self._desk = desk
        self._parties = parties
        self._outbox = outbox
        self._clock = clock
        self._on_ended = on_ended

    def ask_ahead(self, connection: Connection, held: HeldGrant) -> None:
        """In the transaction that takes a part into custody: ask, unless that was done and the answer is still good."""
        row = self._row(connection, held)
        if row is None or (row.statement is not None and not self._is_good(row)):
            self._ask(connection, held)

    def stands(self, held: HeldGrant) -> bool:
        """Whether the office has said, in the last five minutes and over the last nonce, that the grant stands; asks again if need be."""
        with reading(self._engine).begin() as connection:
            row = self._row(connection, held)
        if row is not None and row.statement is not None and self._is_good(row):
            return True
        is_lost = row is not None and self._clock() >= parse_moment(row.asked_at, "question") + ASK_AGAIN
        if row is None or row.statement is not None or is_lost:
            with self._engine.begin() as connection:
                self._ask(connection, held)
        return False

    def has_word(self, held: HeldGrant) -> bool:
        """Whether the office has answered the last question at all."""
        with reading(self._engine).begin() as connection:
            row = self._row(connection, held)
        return row is not None and row.statement is not None

    async def receive(self, message: AnyMessage) -> Commit:
        """The office's answer, after these checks in this order:

        1. the search's grant is held here, and the frame names that very grant (`GrantDesk.held`)
        2. it comes from the requesting agency's legal office, whose node key signed it (`GrantMismatchError`, `PeerError`)
        3. it answers the question that was asked last (`StaleStatementError`)

        One that says that the grant has ended ends the search here. How old it is counts when it is used (`stands`).
        """
        held = self._desk.held(message)  # 1
        office = self.office(held.claims)
        if message.header.sender != office:  # 2
            raise GrantMismatchError("whether a grant stands is said by the requesting agency's legal office")
        public = self._parties.roster().node_key(office)
        statement = read_message(message, RevocationStatement, recipient=self._agency, sender_public=public)
        with reading(self._engine).begin() as connection:
            row = self._row(connection, held)
        if row is None or statement.nonce != row.nonce:  # 3
            raise StaleStatementError("the statement answers another question than this custodian's last one")
        data, nonce = whole(message).to_bytes(), statement.nonce

        def commit(connection: Connection) -> None:
            asked = (standings.c.search_id == str(held.claims.search_id)) & (standings.c.nonce == nonce)
            connection.execute(update(standings).where(asked, standings.c.statement.is_(None)).values(statement=data))
            record(connection, self._clock(), held.claims.search_id, "statement", f"{statement.standing.name.lower()}, says {office}")
            try:
                statement.check_stands(RevocationQuery(nonce), self._clock())
            except RevokedError as error:
                self._on_ended(connection, held, str(error))
            except StaleStatementError:
                pass  # asked again when it is needed

        return commit

    def office(self, claims: GrantClaims) -> AgencyId:
        """Whose node is asked: that of the legal office of the requesting agency, which is the agency itself where it names no other."""
        return self._parties.roster().agency(claims.requesting_agency).legal_office or claims.requesting_agency

    def _ask(self, connection: Connection, held: HeldGrant) -> None:
        query = RevocationQuery.fresh()
        values = {"nonce": query.nonce, "asked_at": stamp(self._clock()), "statement": None}
        first = insert(standings).values(search_id=str(held.claims.search_id), **values)
        connection.execute(first.on_conflict_do_update(index_elements=["search_id"], set_=values))
        self._outbox.open(connection, MessageType.REVOCATION_QUERY, query, held.conversation, self.office(held.claims))

    def _row(self, connection: Connection, held: HeldGrant) -> Row[Any] | None:
        return connection.execute(select(standings).where(standings.c.search_id == str(held.claims.search_id))).first()

    def _is_good(self, row: Row[Any]) -> bool:
        """Whether the kept answer still counts; what it says and whose it is was checked before it was kept."""
        statement = RevocationStatement.from_bytes(Message.from_bytes(row.statement).body)
        try:
            statement.check_stands(RevocationQuery(row.nonce), self._clock())
        except (RevokedError, StaleStatementError):
            return False
        return True
