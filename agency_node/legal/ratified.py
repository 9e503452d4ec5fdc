"""Exigent grants at holders and custodians: each keeps the clock itself, and takes a ratification only as it verifies it itself (R4).

A requester that conceals a lapse gains nothing: from the end of the clock, which follows from the signed grant and this node's own packs,
no act of the grant is allowed here without a ratification that came in time and an entry of it in the log. Invariants: silence means no;
the clock is asked before every act (`GrantDesk.check_act`), so it holds across restarts; what a party kept of a lapsed search is dropped as
if it had been taken back.

Left to others: a lapse that stands in the log, which ends a grant earlier (`crypto.mirror`); the requester's side (`lapsing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, bindparam, insert, select, update

from agency_node.courier import Commit, Handler, NotYetError
from agency_node.envelopes import Envelopes
from agency_node.follower import LogFollower
from agency_node.grants import ENDED, STANDING, WITHDRAWN_BY_REQUESTER, GrantDesk, HeldGrant
from agency_node.journal import record, stamp
from agency_node.legal.exigent import LAPSED, RATIFIED, RUNNING
from agency_node.outbox import Outgoing
from agency_node.parties import Parties
from agency_node.policy.clocks import ExigentClock
from agency_node.refusals import AlreadyRefusedError, RefusedByUsError
from agency_node.store import Glance, reading
from agency_node.tables import exigent_held, held_grants
from crypto.canonical import AgencyId
from crypto.checkpoint import Checkpoint
from crypto.entries import EntryKind
from crypto.errors import InclusionError, RevokedError
from crypto.grant import VerifiedGrant
from crypto.grant_basis import BasisKind
from crypto.grant_claims import GrantClaims
from crypto.message_types import MessageType
from crypto.messages import AnyMessage
from crypto.notices import RefusalReason
from crypto.ratification import RatificationBody, verify_ratification

_OVER: Final = Glance(
    select(exigent_held.c.search_id).where((exigent_held.c.state == RUNNING) & (exigent_held.c.ratify_by <= bindparam("now")))
)
NOT_RATIFIED: Final = "an exigent grant that was not ratified in time (R4)"


class RatifiedGrants:
    """A holder's or custodian's part in exigent grants: role, admitter and condition of its desk."""

    def __init__(
        self,
        agency: AgencyId,
        engine: Engine,
        rule: ExigentClock,
        desk: GrantDesk,
        envelopes: Envelopes,
        parties: Parties,
        follower: LogFollower,
        clock: Callable[[], datetime],
    ) -> None:
        self._agency = agency
        self._engine = engine
        self._rule = rule
        self._desk = desk
        self._envelopes = envelopes
        self._parties = parties
        self._follower = follower
        self._clock = clock
        desk.admitters.append(self)
        desk.conditions.append(self)

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Ratifications come here."""
        return {MessageType.RATIFICATION: self.receive}

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows."""

    # --- the grant ----------------------------------------------------------------------------------------------------

    def concerns(self, claims: GrantClaims) -> bool:
        """Whether it is an exigent grant that names this agency."""
        return claims.basis.kind is BasisKind.EXIGENT and self._agency in (*claims.holders, *claims.custodians)

    async def admit(self, grant: VerifiedGrant, message: AnyMessage) -> Commit:
        """Keep the clock's end, so that the grant is dropped then; that it is not over was asked with the log (`check`)."""
        del message
        claims = grant.claims
        values = {"search_id": str(claims.search_id), "state": RUNNING, "ratify_by": stamp(self._ends(claims))}

        def commit(connection: Connection) -> None:
            connection.execute(insert(exigent_held).values(**values))

        return commit

    def withdraw(self, held: HeldGrant, connection: Connection, why: str = WITHDRAWN_BY_REQUESTER) -> None:
        """Its clock stands still."""
        del why
        self._move(connection, held.claims.search_id, ENDED)

    def check(self, claims: GrantClaims, digest: bytes, checkpoint: Checkpoint) -> None:
        """Raise for an exigent grant whose clock is over unless both hold (any other grant passes):

        1. a ratification of it was taken here in time (`RevokedError`)
        2. the log under this checkpoint holds the entry of a ratification (`NotYetError`: it left before the message did)
        """
        if claims.basis.kind is not BasisKind.EXIGENT or self._clock() < self._ends(claims):
            return
        row = self._row(claims.search_id)
        if row is None or row.state != RATIFIED:  # 1
            raise RevokedError(NOT_RATIFIED)
        try:
            self._follower.mirror.check_entered(EntryKind.RATIFICATION, digest, checkpoint)  # 2
        except InclusionError as error:
            raise NotYetError("the log does not hold the ratification of this exigent grant yet") from error

    # --- ratification and lapse ---------------------------------------------------------------------------------------

    async def receive(self, message: AnyMessage) -> Commit:
        """A ratification, after these checks in this order:

        1. its grant is held here and in force (`NotYetError` while it has not come)
        2. it opens, and comes from the requesting agency
        3. it verifies against the pinned roster, and this node's own clock is not over (`verify_ratification`)
        4. none was taken before, and the grant has not lapsed here (refused as replayed)
        """
        held = self._desk.held(message)  # 1
        claims = held.claims
        body = self._envelopes.open(message, RatificationBody, held.conversation, claims.requesting_agency)  # 2
        verify_ratification(body.document, claims, self._parties.roster(), self._ends(claims), self._clock())  # 3
        row = self._row(claims.search_id)
        if row is None or row.state != RUNNING:  # 4
            raise RefusedByUsError(RefusalReason.REPLAYED, "this grant was ratified before, or has ended")

        def commit(connection: Connection) -> None:
            running = (exigent_held.c.search_id == str(claims.search_id)) & (exigent_held.c.state == RUNNING)
            connection.execute(update(exigent_held).where(running).values(state=RATIFIED, ratification=body.document))
            record(connection, self._clock(), claims.search_id, RATIFIED, "by a second reviewer of the requester's legal office")

        return commit

    async def tick(self) -> None:
        """Drop what was begun for grants that nobody ratified in time."""
        now = self._clock()
        for (search_id,) in _OVER.rows(self._engine, now=stamp(now)):
            try:
                held = self._desk.find(search_id)
            except AlreadyRefusedError:
                held = None
            with self._engine.begin() as connection:
                if held is not None:
                    for admitter in self._desk.admitters:
                        if admitter is not self and admitter.concerns(held.claims):
                            admitter.withdraw(held, connection, NOT_RATIFIED)
                    standing = (held_grants.c.search_id == search_id) & (held_grants.c.state == STANDING)
                    connection.execute(update(held_grants).where(standing).values(state=ENDED, note=NOT_RATIFIED))
                self._move(connection, search_id, LAPSED)
                record(connection, now, search_id, LAPSED, NOT_RATIFIED)

    def _move(self, connection: Connection, search_id: str, state: str) -> None:
        running = (exigent_held.c.search_id == str(search_id)) & (exigent_held.c.state == RUNNING)
        connection.execute(update(exigent_held).where(running).values(state=state))

    def _ends(self, claims: GrantClaims) -> datetime:
        return claims.not_before + self._rule.ratify_within

    def _row(self, search_id: str) -> Row[Any] | None:
        with reading(self._engine).begin() as connection:
            return connection.execute(select(exigent_held).where(exigent_held.c.search_id == str(search_id))).first()
