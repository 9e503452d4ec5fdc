"""Grants that reach a holder or a custodian: verified before anything else is done, kept sealed, asked again before every step.

Invariants: a search id, a grant id and a grant digest stand here once; what `held` returns was verified by this node itself against its
pinned roster, stood in the log under a cosigned checkpoint, and named this node. A grant that was refused stays refused.

Left to others: what follows from a grant (the admitters of the roles), the log (`follower`), policy (`holder.answering`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from agency_node.courier import REFUSED as MESSAGE_REFUSED
from agency_node.courier import Commit, Handler, NotYetError
from agency_node.envelopes import Envelopes
from agency_node.facts import Fact, read_fact
from agency_node.follower import LogFollower
from agency_node.journal import About, Told, record, stamp
from agency_node.outbox import Conversation, Outgoing
from agency_node.parties import Parties
from agency_node.refusals import AlreadyRefusedError, RefusedByUsError
from agency_node.retiring import retirement_in
from agency_node.store import Glance
from agency_node.tables import held_grants, inbox, searches
from agency_node.vault import Vault
from crypto.bodies import GrantBody
from crypto.canonical import AgencyId
from crypto.checkpoint import Checkpoint
from crypto.entries import EntryKind
from crypto.errors import (
    ContextError,
    GrantMismatchError,
    InclusionError,
    MirrorError,
    StaleCheckpointError,
    UnloggedRosterError,
    WitnessError,
)
from crypto.grant import VerifiedGrant, check_in_force, check_names, verify_grant
from crypto.grant_claims import GrantClaims
from crypto.grant_token import unverified_claims
from crypto.message_types import MessageType
from crypto.messages import AnyMessage, read_message, whole
from crypto.notices import Refusal, RefusalReason

STANDING: Final = "standing"
REFUSED: Final = "refused"
ENDED: Final = "ended"
WITHDRAWN_BY_REQUESTER: Final = "withdrawn by its requester"
TAKEN_BACK_BY_OFFICE: Final = "taken back by its legal office"
TOKEN: Final = "grant-token"  # noqa: S105  # the name of a purpose
_OVER: Final = Glance(
    select(held_grants.c.search_id).where((held_grants.c.state == STANDING) & (held_grants.c.expires <= bindparam("now"))).limit(1)
)
_HELD: Final = Glance(
    select(held_grants.c.state, held_grants.c.sealed_token, held_grants.c.grant_digest).where(held_grants.c.search_id == bindparam("id"))
)


@dataclass(frozen=True)
class HeldGrant:
    """A grant that this node verified and keeps."""

    claims: GrantClaims
    digest: bytes = field(repr=False)

    @property
    def conversation(self) -> Conversation:
        """What its messages have in common."""
        return Conversation.of(self.claims)


class Admitter(Protocol):
    """What a role does when a verified grant names it."""

    def concerns(self, claims: GrantClaims) -> bool:
        """Whether the grant names this node in that role."""

    async def admit(self, grant: VerifiedGrant, message: AnyMessage) -> Commit:
        """Check what this role checks and say what to store; raises to refuse."""

    def withdraw(self, held: HeldGrant, connection: Connection, why: str = WITHDRAWN_BY_REQUESTER) -> None:
        """The requester took the grant back, or it lapsed: drop what was begun, in the caller's transaction."""


class Condition(Protocol):
    """What an act of a grant needs beside the log's word."""

    def check(self, claims: GrantClaims, digest: bytes, checkpoint: Checkpoint) -> None:
        """Raise unless an act of this grant is allowed now under this checkpoint."""


class GrantDesk:
    """Takes `grant` messages for every role that serves grants."""

    def __init__(
        self,
        agency: AgencyId,
        engine: Engine,
        vault: Vault,
        envelopes: Envelopes,
        parties: Parties,
        follower: LogFollower,
        clock: Callable[[], datetime],
    ) -> None:
        self._agency = agency
        self._engine = engine
        self._vault = vault
        self._envelopes = envelopes
        self._parties = parties
        self._follower = follower
        self._clock = clock
        self.admitters: list[Admitter] = []
        self.conditions: list[Condition] = []
        self._found: tuple[bytes, HeldGrant] | None = None
        """What was read last, with the sealed token that it was read from."""

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Grants come here, and what concerns every node: notices, and what others have seen of the log."""
        return {
            MessageType.GRANT: self.receive,
            MessageType.REFUSAL: self.receive_refusal,
            MessageType.DELETION_RECEIPT: self.receive_notice,
            MessageType.CHECKPOINT_GOSSIP: self.receive_gossip,
        }

    async def tick(self) -> None:
        """Grants whose time has run out have ended."""
        now = stamp(self._clock())
        if _OVER.first(self._engine, now=now) is None:
            return
        over = (held_grants.c.state == STANDING) & (held_grants.c.expires <= now)
        with self._engine.begin() as connection:
            connection.execute(update(held_grants).where(over).values(state=ENDED, note="expired"))

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows."""

    async def receive_notice(self, message: AnyMessage) -> Commit:
        """A notice to whoever has nothing else to do with it: the courier's line in the journal is enough."""
        del message
        return lambda connection: None

    async def receive_refusal(self, message: AnyMessage) -> Commit:
        """A refusal; one that names a held grant's digest ends it here (`Admitter.withdraw`): as withdrawn, from the requester, or as
        revoked, from the legal office of an agency that asks.

        Nothing is done under the grant any more, whatever comes of it later. Refusals of others are the roles' business.
        """
        sender, search_id = message.header.sender, message.header.search_id
        refusal = read_message(message, Refusal, recipient=self._agency, sender_public=self._parties.roster().node_key(sender))
        ends = refusal.reason in (RefusalReason.WITHDRAWN, RefusalReason.REVOKED) and refusal.refused.digest == message.header.grant_digest
        if search_id is None or not ends:
            return lambda connection: None
        held = self.find(search_id)
        if held is None and self._is_own(search_id):
            return lambda connection: None
        if held is None:
            raise NotYetError("its grant has not come yet")
        if refusal.refused.digest != held.digest or sender not in self._may_end(held.claims, refusal.reason):
            return lambda connection: None
        note = WITHDRAWN_BY_REQUESTER if refusal.reason is RefusalReason.WITHDRAWN else TAKEN_BACK_BY_OFFICE
        concerned = [admitter for admitter in self.admitters if admitter.concerns(held.claims)]

        def commit(connection: Connection) -> None:
            where = (held_grants.c.grant_digest == held.digest) & (held_grants.c.state == STANDING)
            connection.execute(update(held_grants).where(where).values(state=REFUSED, note=note))
            for admitter in concerned:
                admitter.withdraw(held, connection, note)

        return commit

    def _may_end(self, claims: GrantClaims, reason: RefusalReason) -> set[AgencyId | None]:
        if reason is RefusalReason.WITHDRAWN:
            return {claims.requesting_agency}
        roster = self._parties.roster()
        return {roster.agency(one).legal_office for one in (claims.requesting_agency, claims.originating_agency)}

    def _is_own(self, search_id: str) -> bool:
        """Whether it is a search that this agency asked for: what ends it is its own part's business."""
        with self._engine.begin() as connection:
            return connection.execute(select(searches.c.search_id).where(searches.c.search_id == search_id)).first() is not None

    async def receive_gossip(self, message: AnyMessage) -> Commit:
        """A peer's head of the log: connected with this node's own, or proof of a fork (`LogFollower.connect`)."""
        await self._follower.connect(whole(message).body)
        return lambda connection: None

    async def receive(self, message: AnyMessage) -> Commit:
        """A grant's message, after these checks in this order:

        1. it opens, and its frame names search and grant digest of the very token inside (`ContextError`)
        2. the grant verifies against the pinned roster at this moment (`verify_grant`, every check of it)
        3. its sender is the requesting agency, and this agency is named in it (`GrantMismatchError`)
        4. no grant of that id, search, digest, probe or face was received before (replay), and none is of before this node was restored
            from a backup, which does not know what was answered since; and this node does not leave the federation
        5. the log holds its entry under a cosigned checkpoint and nothing that ends it (`LogError`)
        6. what each role of this node asks beside
        """
        now = self._clock()
        header = message.header
        if header.search_id is None or header.grant_digest is None:
            raise ContextError("a grant belongs to a search")
        unverified = Conversation(header.search_id, header.grant_digest, message.context.epoch)
        token = self._envelopes.open(message, GrantBody, unverified, header.sender).token  # 1
        grant = verify_grant(token, self._parties.trusted, now)  # 2
        claims = grant.claims
        if (claims.search_id, grant.digest, claims.epoch) != (header.search_id, header.grant_digest, unverified.epoch):
            raise ContextError("the frame names another search or grant than the token inside")
        check_names(claims, requester=header.sender)  # 3
        concerned = [admitter for admitter in self.admitters if admitter.concerns(claims)]
        if not concerned:
            raise GrantMismatchError("the grant does not name this agency")
        self._check_new(claims, grant.digest)  # 4
        await self.check_act(claims, grant.digest)  # 5
        try:
            commits = [await admitter.admit(grant, message) for admitter in concerned]  # 6
        except RefusedByUsError as error:
            self._keep(token, grant, REFUSED, str(error))
            raise
        stored = self._row(token, grant, STANDING, "")

        def commit(connection: Connection) -> None:
            connection.execute(insert(held_grants).values(**stored))
            self._tell(connection, grant, "grant taken", STANDING)
            for one in commits:
                one(connection)

        return commit

    def held(self, message: AnyMessage) -> HeldGrant:
        """The standing grant of a message's search, still in force.

        Raises `NotYetError` while it has not come, `AlreadyRefusedError` when it was refused, `GrantExpiredError` after its end.
        """
        search_id = message.header.search_id
        grant = None if search_id is None else self.find(search_id)
        if grant is None:
            self._check_not_refused(search_id)
            raise NotYetError("its grant has not come yet")
        if message.header.grant_digest != grant.digest:
            raise GrantMismatchError("the message names another grant than the search's")
        check_in_force(grant.claims, self._clock())
        return grant

    async def check_act(self, claims: GrantClaims, digest: bytes, entered: EntryKind | None = None) -> Checkpoint:
        """The checkpoint under which an act of this search may happen now (`LogFollower.check_act`).

        A checkpoint that lacks fresh cosignatures, or is older than what this node has read, is waited for (`NotYetError`): witnesses may
        be slow. So is a roster's entry, which the broker's operator owes. The wait ends with the grant; a log that was read to its end
        and does not hold the grant is a refusal. Every condition of this node is asked as well (`Condition`).
        """
        try:
            checkpoint = await self._follower.check_act(claims, digest, entered)
        except (StaleCheckpointError, WitnessError, MirrorError, UnloggedRosterError) as error:
            raise NotYetError(f"the log is not ready: {error}") from error
        except InclusionError as error:
            latest = self._follower.latest
            if latest is None or latest.checkpoint.size < self._follower.mirror.tree.size:
                raise NotYetError("the log is not cosigned to its end yet") from error
            raise
        for condition in self.conditions:
            condition.check(claims, digest, checkpoint)
        return checkpoint

    def check_no_end(self, digest: bytes) -> None:
        """Raise `RevokedError` if this node's copy of the log, as far as it goes, holds an end of the grant."""
        self._follower.mirror.check_no_end(digest)

    async def check_released(self, claims: GrantClaims, digest: bytes) -> None:
        """`check_act`, and the log holds the entry of the search's release: no log entry, no release."""
        try:
            await self.check_act(claims, digest, EntryKind.RELEASE)
        except InclusionError as error:
            raise NotYetError("the release's log entry is not cosigned yet") from error

    def find(self, search_id: str) -> HeldGrant | None:
        """The standing grant of a search, None when there is none; `AlreadyRefusedError` when it was refused."""
        row = _HELD.first(self._engine, id=str(search_id))
        if row is None:
            return None
        state, sealed, digest = row
        if state == REFUSED:
            raise AlreadyRefusedError("this node refused the search's grant")
        if self._found is None or self._found[0] != sealed:  # read once, not in every round that its search waits
            self._found = sealed, HeldGrant(unverified_claims(self._vault.open(TOKEN, sealed, digest)), digest)
        return self._found[1]

    def _check_not_refused(self, search_id: str | None) -> None:
        """A grant that did not verify is not kept, but what follows it need not wait for it."""
        came = (inbox.c.search_id == search_id) & (inbox.c.message_type == str(MessageType.GRANT)) & (inbox.c.state == MESSAGE_REFUSED)
        with self._engine.begin() as connection:
            if connection.execute(select(inbox.c.message_id).where(came)).first() is not None:
                raise AlreadyRefusedError("this node refused the search's grant")

    def _check_new(self, claims: GrantClaims, digest: bytes) -> None:
        same = (
            (held_grants.c.search_id == str(claims.search_id))
            | (held_grants.c.grant_id == str(claims.grant_id))
            | (held_grants.c.grant_digest == digest)
            | (held_grants.c.probe_digest == claims.probe_digest)
            | (held_grants.c.face_commit == claims.face_commit)
        )
        with self._engine.begin() as connection:
            if connection.execute(select(held_grants.c.search_id).where(same)).first() is not None:
                raise RefusedByUsError(
                    RefusalReason.REPLAYED, "this grant, search, probe or face was granted before: one grant, one probe, one search"
                )
            restored, leaves = read_fact(connection, Fact.RESTORED), retirement_in(connection)
        if leaves is not None:
            raise RefusedByUsError(RefusalReason.UNAVAILABLE, "this agency leaves the federation and takes no new search")
        if restored is not None and stamp(claims.not_before) <= restored.decode():
            raise RefusedByUsError(RefusalReason.REPLAYED, "granted before this node was restored, and maybe answered: ask anew")

    def _keep(self, token: bytes, grant: VerifiedGrant, state: str, note: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(insert(held_grants).prefix_with("OR IGNORE").values(**self._row(token, grant, state, note)))
            self._tell(connection, grant, "grant refused", state)

    def _tell(self, connection: Connection, grant: VerifiedGrant, event: str, outcome: str) -> None:
        """The row of the ledger from which all later rows of the search take what its grant says."""
        claims = grant.claims
        signers = ", ".join(f"{signer.role.value} {signer.person}" for signer in grant.signers)
        said: Told = {"actor": str(claims.requesting_agency), "subject": f"grant {claims.grant_id}", "outcome": outcome}
        record(connection, self._clock(), claims.search_id, event, signers, about=About.of(claims), **said)

    def _row(self, token: bytes, grant: VerifiedGrant, state: str, note: str) -> dict[str, object]:
        claims = grant.claims
        office = self._parties.roster().agency(claims.requesting_agency).legal_office
        parties = (("holder", claims.holders), ("custodian", claims.custodians), ("office", (office,)))
        roles: Sequence[str] = [name for name, named in parties if self._agency in named]
        return {
            "search_id": str(claims.search_id),
            "grant_digest": grant.digest,
            "grant_id": str(claims.grant_id),
            "probe_digest": claims.probe_digest,
            "face_commit": claims.face_commit,
            "sealed_token": self._vault.seal(TOKEN, token, grant.digest),
            "roles": ",".join(roles),
            "state": state,
            "note": note,
            "deadline": stamp(claims.answer_deadline),
            "expires": stamp(claims.expires),
            "received_at": stamp(self._clock()),
        }
