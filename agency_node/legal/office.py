"""The legal office's node: says to custodians whether a grant stands, and tells parties and log what its staff decided.

A custodian releases only with this node's word (`custodian.standing`), so a broker that hides a revocation, in the log and in the mail,
stops a release and starts none. The word comes from this node's own store and its own copy of the log, and from nothing that the broker
says at that moment. Which grants are known here: those of this agency's own searches, where it is its own legal office; and those that
requesters whose office it is have sent it, each verified as a holder verifies it (`grants`).

Invariants: "stands" is decided in the transaction that queues the statement, so no decision comes in between; unknown means no statement,
and so no release. After a revocation the notices leave first, because the broker carries no message under a grant that the log says has
ended; then the entry, which is not kept back by a notice for longer than `PATIENCE`.

Left to others: deciding (`review`, `revoking`), what a party does when it is told (`grants`), the requester's own search (`searching`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, insert, select, update

from agency_node.courier import Commit, Handler, NotYetError, apart
from agency_node.follower import LogFollower
from agency_node.grants import STANDING, TAKEN_BACK_BY_OFFICE, WITHDRAWN_BY_REQUESTER, GrantDesk, HeldGrant
from agency_node.grants import TOKEN as HELD_TOKEN
from agency_node.journal import record
from agency_node.legal.decisions import Against, entry_fields
from agency_node.legal.exigent import is_over
from agency_node.legal.revoking import OFFICE, REVOCABLE
from agency_node.opened_fields import opened_revocation
from agency_node.outbox import GRANT, MESSAGE, READY, SENT, Conversation, Outbox, Outgoing
from agency_node.parties import Parties
from agency_node.requester.cancelling import parties_told, queue_notices
from agency_node.requester.drafting import TOKEN
from agency_node.store import Glance, reading
from agency_node.tables import discoveries, held_grants, legal_decisions, outbox, searches
from agency_node.vault import Vault
from crypto.canonical import AgencyId
from crypto.entries import EntryKind
from crypto.errors import GrantMismatchError, InclusionError, MirrorError, RevokedError
from crypto.grant import VerifiedGrant
from crypto.grant_claims import GrantClaims
from crypto.grant_token import unverified_claims
from crypto.message_types import MessageType
from crypto.messages import AnyMessage, read_message, whole
from crypto.moments import parse_moment, round_moment
from crypto.notices import RefusalReason, RevocationQuery, RevocationStatement, Standing

_TO_TELL: Final = Glance(select(legal_decisions.c.search_id).where(legal_decisions.c.in_log == 0).limit(1))
PATIENCE: Final = timedelta(minutes=1)
"""How long the entry of a revocation waits for its notices to leave."""


class LegalOffice:
    """The part of whoever is a legal office, its own or others': role and admitter of the desk."""

    def __init__(
        self,
        agency: AgencyId,
        engine: Engine,
        vault: Vault,
        desk: GrantDesk,
        parties: Parties,
        follower: LogFollower,
        outbox: Outbox,
        clock: Callable[[], datetime],
    ) -> None:
        self._agency = agency
        self._engine = engine
        self._vault = vault
        self._desk = desk
        self._parties = parties
        self._follower = follower
        self._outbox = outbox
        self._clock = clock
        desk.admitters.append(self)

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Custodians' questions come here, and scores for the defence."""
        return {MessageType.REVOCATION_QUERY: self.receive_query, MessageType.DISCOVERY_RELEASE: self.receive_discovery}

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows; the journal has it."""

    # --- grants of requesters whose office this is ----------------------------------------------------------------------

    def concerns(self, claims: GrantClaims) -> bool:
        """Whether this agency is the legal office of another one that asks."""
        return claims.requesting_agency != self._agency and self._office_of(claims.requesting_agency) == self._agency

    async def admit(self, grant: VerifiedGrant, message: AnyMessage) -> Commit:
        """Nothing beside what the desk checks: its own reviewer's signature is one of the grant's."""
        del grant, message
        return lambda connection: None

    def withdraw(self, held: HeldGrant, connection: Connection, why: str = WITHDRAWN_BY_REQUESTER) -> None:
        """The desk keeps that it has ended, which is all that is asked here."""

    async def receive_discovery(self, message: AnyMessage) -> Commit:
        """Scores of another agency's search, from the custodian who combines: kept sealed as they came, for the discovery key, which is in
        no node. Those of this agency's own searches are kept by the requester's part (`leads`)."""
        with reading(self._engine).begin() as connection:
            own = select(searches.c.search_id).where(searches.c.search_id == str(message.header.search_id))
            if connection.execute(own).first() is not None:
                return lambda connection: None
        held = self._desk.held(message)
        if not self.concerns(held.claims) or message.header.sender != held.claims.combiner:
            raise GrantMismatchError("scores come from the grant's combining custodian to the requester's legal office")
        values = {"search_id": str(held.claims.search_id), "data": whole(message).to_bytes()}

        def commit(connection: Connection) -> None:
            connection.execute(insert(discoveries).prefix_with("OR IGNORE").values(**values))

        return commit

    def _office_of(self, requester: AgencyId) -> AgencyId | None:
        return self._parties.roster().agency(requester).legal_office

    # --- does the grant stand? ------------------------------------------------------------------------------------------

    async def receive_query(self, message: AnyMessage) -> Commit:
        """A custodian's question, after these checks in this order; the answer is found when it is stored:

        1. this agency is a legal office (`GrantMismatchError`), the frame is its sender's, and it asks under a search and grant that are
            known here (`NotYetError` while they are not, `GrantMismatchError` for another grant of the search)
        2. this agency is the requester's legal office, and the sender a custodian of the grant (`GrantMismatchError`)
        3. this node's copy of the log reaches the grant's entry (`NotYetError`)
        """
        sender, header = message.header.sender, message.header
        roster = self._parties.roster()
        if all(one.legal_office != self._agency for one in roster.agencies):  # 1
            raise GrantMismatchError("this agency is nobody's legal office")
        query = read_message(message, RevocationQuery, recipient=self._agency, sender_public=roster.node_key(sender))
        with reading(self._engine).begin() as connection:
            claims = self._known(connection, str(header.search_id))
        if claims is None:
            raise NotYetError("its grant has not come yet")
        if claims.digest != header.grant_digest:
            raise GrantMismatchError("the message names another grant than the search's")
        if self._office_of(claims.requesting_agency) != self._agency or sender not in claims.custodians:  # 2
            raise GrantMismatchError("the custodians of a grant ask the requester's legal office whether it stands")
        self._standing_in_log(claims)  # 3

        def commit(connection: Connection) -> None:
            standing, now = self._standing(connection, claims), self._clock()
            statement = RevocationStatement(query.nonce, standing, round_moment(now))
            self._outbox.open(connection, MessageType.REVOCATION_STATEMENT, statement, Conversation.of(claims), sender)
            record(connection, now, claims.search_id, "stated", f"to {sender}: {standing.name.lower()}", recipient=str(sender))

        return commit

    def _known(self, connection: Connection, search_id: str) -> GrantClaims | None:
        """The claims of a grant that is this office's to speak of, ended or not."""
        own = connection.execute(select(searches.c.sealed_token).where(searches.c.search_id == search_id)).scalar()
        if own:
            return unverified_claims(self._vault.open(TOKEN, own, search_id.encode("ascii")))
        row = connection.execute(select(held_grants).where(held_grants.c.search_id == search_id)).first()
        if row is None or OFFICE not in row.roles.split(","):
            return None
        return unverified_claims(self._vault.open(HELD_TOKEN, row.sealed_token, row.grant_digest))

    def _standing(self, connection: Connection, claims: GrantClaims) -> Standing:
        """Ended if any of these says so, each read in the caller's transaction: a decision of this office, the grant's time, the search's
        or the held grant's state, an exigent clock, and this node's copy of the log."""
        search_id, now = str(claims.search_id), self._clock()
        decided = connection.execute(select(legal_decisions.c.what).where(legal_decisions.c.search_id == search_id)).first()
        own = connection.execute(select(searches.c.state).where(searches.c.search_id == search_id)).scalar()
        held = connection.execute(select(held_grants.c.state).where(held_grants.c.search_id == search_id)).scalar()
        stands_here = own in REVOCABLE if own is not None else held == STANDING
        if decided is not None or not stands_here or not claims.not_before <= now < claims.expires or is_over(connection, search_id, now):
            return Standing.ENDED
        return self._standing_in_log(claims)

    def _standing_in_log(self, claims: GrantClaims) -> Standing:
        latest = self._follower.latest
        if latest is None:
            raise NotYetError("this node has read nothing of the log yet")
        try:
            self._follower.mirror.check_not_revoked(claims.digest, latest.checkpoint)
        except RevokedError:
            return Standing.ENDED
        except (InclusionError, MirrorError) as error:
            raise NotYetError("this node's copy of the log does not reach the grant yet") from error
        return Standing.STANDS

    # --- what was decided -----------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Tell parties and log what was decided against a search and not told yet."""
        if _TO_TELL.first(self._engine) is None:
            return
        with reading(self._engine).begin() as connection:
            rows = connection.execute(select(legal_decisions).where(legal_decisions.c.in_log == 0)).all()
        troubles: list[Exception] = []
        for row in rows:
            with apart(troubles):
                self._go_on(row)
        if troubles:
            raise troubles[0]

    def _go_on(self, row: Row[Any]) -> None:
        with self._engine.begin() as connection:
            claims = self._known(connection, row.search_id)
            if claims is None:
                return  # an exigent search that lapsed before: the log has its lapse
            if row.what == Against.REFUSED.value:
                self._enter(connection, row, claims, EntryKind.REFUSAL, self._agency)
            elif not row.told:
                self._tell(connection, row, claims)
            elif self._may_enter(connection, row):
                self._enter(connection, row, claims, EntryKind.REVOCATION, None)

    def _tell(self, connection: Connection, row: Row[Any], claims: GrantClaims) -> None:
        """Notices to whoever knows of the grant; and what other roles of this node began under it is dropped."""
        connection.execute(update(legal_decisions).where(legal_decisions.c.search_id == row.search_id).values(told=1))
        if claims.requesting_agency == self._agency:
            told = parties_told(connection, claims.search_id)
        else:
            told = sorted({claims.requesting_agency, *claims.holders, *claims.custodians} - {self._agency})
        queue_notices(connection, self._outbox, claims, told, RefusalReason.REVOKED)
        for admitter in self._desk.admitters:
            if admitter is not self and admitter.concerns(claims):
                admitter.withdraw(HeldGrant(claims, claims.digest), connection, TAKEN_BACK_BY_OFFICE)

    def _may_enter(self, connection: Connection, row: Row[Any]) -> bool:
        """Whether the log holds the grant, and the notices have left or had their time."""
        of_search = outbox.c.search_id == row.search_id
        own = connection.execute(select(searches.c.search_id).where(searches.c.search_id == row.search_id)).first()
        entered = select(outbox.c.number).where(of_search, outbox.c.kind == GRANT, outbox.c.state == SENT)
        if own is not None and connection.execute(entered).first() is None:
            return False
        waiting = select(outbox.c.number).where(of_search, outbox.c.kind == MESSAGE, outbox.c.state == READY)
        late = self._clock() >= parse_moment(row.decided_at, "decision") + PATIENCE
        return late or connection.execute(waiting).first() is None

    def _enter(self, connection: Connection, row: Row[Any], claims: GrantClaims, kind: EntryKind, author: AgencyId | None) -> None:
        connection.execute(update(legal_decisions).where(legal_decisions.c.search_id == row.search_id).values(in_log=1))
        conversation = Conversation(claims.search_id, row.digest, claims.epoch)
        is_revocation = kind is EntryKind.REVOCATION  # of a refused draft nothing is opened: it never became a grant
        opened = opened_revocation(self._agency, claims.requesting_agency, self._parties.roster()) if is_revocation else {}
        self._outbox.entry(connection, kind, conversation, entry_fields(row.document), opened, author=author)
