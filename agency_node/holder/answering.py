"""A holder answers probes: under a verified grant, its own policy, the log's word, and once.

States of an answer, in table `answers`: `claimed` when it waits for a scan, `answered` in the transaction that stores the outgoing
messages, `withdrawn` when its requester took the search back before, `released` when the custodian's release was mapped to records. A
process that dies while `claimed` has sent nothing, and its seed died with it: the probe's message is handled again, and the scan made under
a fresh seed. One that dies after `answered` sends the stored bytes.

Invariants: grant id, probe digest and face commitment are unique in the store before a scan begins (PROTOCOL 3, step 7); the policy's
decision is stored with pack and inputs (R60: the holder's own policy is final), and a budget that is used up is a refusal before a scan
(`budgets`, R57); the probe is deleted with a receipt once the answer is
stored (R22). The holder never sees a score: what it learns is which of its records were released.

Left to others: the packed gallery (`index`), passes over it (`scanning`), stubs and photographs (`disclosing`), what a grant must be
(`grants`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from agency_node.courier import DONE, NEW, Commit, Handler, NotYetError
from agency_node.envelopes import Envelopes
from agency_node.errors import BrokerError
from agency_node.grants import WITHDRAWN_BY_REQUESTER, GrantDesk, HeldGrant
from agency_node.holder.budgets import Budgets
from agency_node.holder.federal import federal_gate
from agency_node.holder.index import GalleryIndex, Given
from agency_node.holder.scanning import Claimed, ScanningDesk
from agency_node.journal import REFUSED, Told, record, stamp
from agency_node.link import PublishLink
from agency_node.opened_fields import opened_refusal
from agency_node.outbox import Conversation, Outbox, Outgoing, SealTo
from agency_node.parties import Parties
from agency_node.policy.deciding import packs_for
from agency_node.policy.decisions import keep_decision
from agency_node.policy.engine import Decision, PolicyEngine, PolicyInputs, decide_all
from agency_node.refusals import RefusedByUsError, reason_of
from agency_node.tables import answers, inbox
from agency_node.vault import Vault
from crypto.answer import MaskShare, OrderSeed
from crypto.bodies import AnswerBody, AnswerStatement
from crypto.canonical import AgencyId
from crypto.entries import EntryKind
from crypto.errors import GrantMismatchError, PeerError
from crypto.grant import VerifiedGrant, check_names
from crypto.grant_basis import Purpose
from crypto.grant_claims import GrantClaims
from crypto.keys import SigningKey
from crypto.manifest import check_trusted_by
from crypto.message_types import MessageType
from crypto.messages import AnyMessage
from crypto.moments import round_moment
from crypto.notices import Deleted, DeletionReceipt, Refusal, RefusalReason
from crypto.prepared import AnswerSecrets, AnswerTerms
from crypto.probe import Probe
from crypto.wire import MessageId

CLAIMED: Final = "claimed"
ANSWERED: Final = "answered"
WITHDRAWN: Final = "withdrawn"
ROOT: Final = "answer-root"


class Answering:
    """The holder's part of a search up to the answer."""

    def __init__(
        self,
        agency: AgencyId,
        engine: Engine,
        vault: Vault,
        node_key: SigningKey,
        index: GalleryIndex,
        packs: tuple[PolicyEngine, ...],
        budgets: Budgets,
        desk: GrantDesk,
        envelopes: Envelopes,
        parties: Parties,
        link: PublishLink,
        outbox: Outbox,
        clock: Callable[[], datetime],
        federal_allow: Collection[Purpose] = (),
    ) -> None:
        self._agency = agency
        self._engine = engine
        self._vault = vault
        self._node_key = node_key
        self._index = index
        self._packs = packs
        self._budgets = budgets
        self._federal_allow = frozenset(federal_allow)
        self._desk = desk
        self._envelopes = envelopes
        self._parties = parties
        self._link = link
        self._outbox = outbox
        self._clock = clock
        self._scanning = ScanningDesk(index, self._still_stands, self._finish)
        self._take_back()

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Probes come here."""
        return {MessageType.PROBE: self.receive_probe}

    async def tick(self) -> None:
        """Keep the packed gallery and its manifest what is enrolled, and scan for what waits."""
        self._index.ahead.drop_overdue(self._clock())
        try:
            await self._index.prepare(self._link)
        finally:
            self._scanning.start()

    async def scanned(self) -> None:
        """Wait until everything that was claimed is answered."""
        await self._scanning.emptied()

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows; the journal has it."""

    # --- grant --------------------------------------------------------------------------------------------------------

    def concerns(self, claims: GrantClaims) -> bool:
        """Whether the grant names this agency as a holder."""
        return self._agency in claims.holders

    async def admit(self, grant: VerifiedGrant, message: AnyMessage) -> Commit:
        """What a holder asks of a verified grant beside what everybody asks:

        1. it has a gallery, of the grant's model, and trusts one of the grant's custodians (`check_trusted_by`)
        2. its own policy allows the search, and every pack that binds an agency of it (R7), and for a federal agency this node's own list
            too (R9); a refusal names the rule, to the requester and to the custodian

        The probe follows: what of its answer does not depend on it is prepared once the grant is kept (`GalleryIndex.expect`), and the keys
        to seal it to are asked for.
        """
        now, claims = self._clock(), grant.claims
        if self._index.manifest is None:
            await self._index.prepare(self._link)
        if self._index.manifest is None:
            raise NotYetError("this holder has no gallery yet")
        check_trusted_by(self._index.manifest, claims, now)  # 1
        inputs = PolicyInputs.from_grant(claims, self._parties.roster(), self._agency, now)
        decision = decide_all((*packs_for(self._packs, inputs), *federal_gate(inputs, self._federal_allow)), inputs)  # 2
        if not decision.allowed:
            self._refuse_by_policy(grant, inputs, decision, message)
            raise RefusedByUsError(RefusalReason.POLICY, " ".join(decision.sentences), decision.rules[0])

        def commit(connection: Connection) -> None:
            keep_decision(connection, self._vault, claims, inputs, decision, now)
            terms = AnswerTerms(claims.epoch, claims.probe_digest, grant.digest, len(claims.custodians))
            self._index.expect(terms, claims.answer_deadline)
            self._parties.ask_ahead(claims.requesting_agency, claims.search_id, claims.custodians)

        return commit

    def withdraw(self, held: HeldGrant, connection: Connection, why: str = WITHDRAWN_BY_REQUESTER) -> None:
        """The search was taken back or lapsed: what was not scanned is not, what is being scanned is not kept, the probe is deleted."""
        del why
        search_id = held.claims.search_id
        self._scanning.drop(str(search_id))
        self._index.ahead.drop(held.digest)
        waiting = (inbox.c.search_id == str(search_id)) & (inbox.c.message_type == str(MessageType.PROBE)) & inbox.c.data.is_not(None)
        if connection.execute(update(inbox).where(waiting).values(state=DONE, data=None)).rowcount:
            receipt = DeletionReceipt((Deleted.PROBE,), round_moment(self._clock()))
            self._outbox.open(connection, MessageType.DELETION_RECEIPT, receipt, held.conversation, held.claims.requesting_agency)
        claimed = (answers.c.search_id == str(search_id)) & (answers.c.state == CLAIMED)
        connection.execute(update(answers).where(claimed).values(state=WITHDRAWN))

    def _refuse_by_policy(self, grant: VerifiedGrant, inputs: PolicyInputs, decision: Decision, message: AnyMessage) -> None:
        """Store the decision, enter it into the log, and tell the combining custodian."""
        with self._engine.begin() as connection:
            keep_decision(connection, self._vault, grant.claims, inputs, decision, inputs.now)
            self._tell_combiner(connection, grant.claims, Refusal(message.message_id, RefusalReason.POLICY, decision.rules[0]))

    def _tell_combiner(self, connection: Connection, claims: GrantClaims, refusal: Refusal) -> None:
        """A refusal enters the log and goes to the combining custodian, whose release will say why this holder is missing."""
        conversation = Conversation.of(claims)
        refused = [("refused-message", refusal.refused.digest)]
        opened = opened_refusal(claims, self._parties.roster(), self._agency, rule=refusal.rule)
        self._outbox.entry(connection, EntryKind.REFUSAL, conversation, refused, opened, author=self._agency)
        self._outbox.open(connection, MessageType.REFUSAL, refusal, conversation, claims.combiner)

    # --- probe --------------------------------------------------------------------------------------------------------

    async def receive_probe(self, message: AnyMessage) -> Commit:
        """A probe, after these checks in this order; then it waits at the scanning desk, and the answer goes out when its pass is done:

        1. this holder holds its search's grant, verified, allowed by policy and in force (`NotYetError` while it has not come)
        2. it opens, and comes from the requesting agency
        3. it is the very probe of the grant: digest, epoch, model (`GrantMismatchError`); the gallery is of that model still
            (`ModelError`); its epoch is served now (`EpochError`)
        4. the answer deadline has not passed (refused as late)
        5. the log, read to its end under a fresh cosigned checkpoint, holds the grant and no end of it (`LogError`)
        6. nothing was answered to this grant, probe or face before (refused as replayed)
        7. the budgets of officer, case and agency are not used up (refused by budget, R57)
        """
        now = self._clock()
        held = self._desk.held(message)  # 1
        claims = held.claims
        if self._agency not in claims.holders:
            raise GrantMismatchError("the grant does not name this agency as a holder")
        probe = self._envelopes.open(message, Probe, held.conversation, claims.requesting_agency)  # 2
        check_names(claims, probe_digest=probe.digest, epoch=probe.epoch, model_hash=probe.model_hash, holder=self._agency)  # 3
        self._index.check_model(probe.model_hash)
        probe.epoch.check_served(now)
        if now >= claims.answer_deadline:  # 4
            raise RefusedByUsError(RefusalReason.LATE, "the answer deadline has passed")
        await self._desk.check_act(claims, held.digest)  # 5
        to_requester = SealTo.statement(await self._parties.search_key(claims.requesting_agency, claims.search_id))
        to_custodians = [SealTo.statement(await self._parties.week_key(custodian)) for custodian in claims.custodians]
        self._claim_in_budget(held, message)  # 6, 7
        claimed = Claimed(message.message_id, held, probe, to_requester, to_custodians)
        return lambda connection: self._scanning.put(claimed)

    async def _still_stands(self, claimed: Claimed) -> bool:
        """Whether a search that had to wait may still be scanned: in time, and in a log that holds no end of its grant."""
        claims = claimed.held.claims
        try:
            if self._clock() >= claims.answer_deadline:
                raise RefusedByUsError(RefusalReason.LATE, "the answer deadline has passed")
            self._index.check_model(claims.model_hash)
            await self._desk.check_act(claims, claimed.held.digest)
        except (NotYetError, BrokerError):
            return True  # it says so again before the next attempt
        except (PeerError, RefusedByUsError) as error:
            reason = error.reason if isinstance(error, RefusedByUsError) else reason_of(error)
            with self._engine.begin() as connection:
                refusal = Refusal(claimed.message_id, reason)
                self._outbox.open(connection, MessageType.REFUSAL, refusal, claimed.held.conversation, claims.requesting_agency)
                self._forget_probe(connection, claimed.message_id)
                record(connection, self._clock(), claims.search_id, "not scanned", reason.name.lower(), outcome=REFUSED)
            return False
        return True

    def _finish(self, claimed: Claimed, given: Given) -> None:
        """The answer and all that goes out with it, in one transaction."""
        with self._engine.begin() as connection:
            if self._store(connection, claimed.held, given):
                self._queue(connection, claimed, given)
                self._forget_probe(connection, claimed.message_id)
                claims = claimed.held.claims
                said: Told = {"recipient": str(claims.requesting_agency), "subject": f"answer {given.made.digest.hex()}"}
                record(connection, self._clock(), claims.search_id, ANSWERED, **said)

    @staticmethod
    def _forget_probe(connection: Connection, message_id: MessageId) -> None:
        connection.execute(update(inbox).where(inbox.c.message_id == str(message_id)).values(data=None))

    def _take_back(self) -> None:
        """What was claimed when the process ended is handled again from its message on, every check of it."""
        claimed = select(answers.c.message_id).where(answers.c.state == CLAIMED)
        lost = inbox.c.message_id.in_(claimed) & (inbox.c.state == DONE)
        with self._engine.begin() as connection:
            connection.execute(update(inbox).where(lost, inbox.c.data.is_not(None)).values(state=NEW))

    def _claim_in_budget(self, held: HeldGrant, message: AnyMessage) -> None:
        """`_claim`; when a budget is used up the log and the combining custodian are told, and what was prepared is dropped."""
        try:
            self._claim(held.claims, message)
        except RefusedByUsError as error:
            if error.reason is RefusalReason.BUDGET:
                self._index.ahead.drop(held.digest)
                with self._engine.begin() as connection:
                    self._tell_combiner(connection, held.claims, Refusal(message.message_id, error.reason, error.rule))
            raise

    def _claim(self, claims: GrantClaims, message: AnyMessage) -> None:
        """Take the one answer of this grant, probe and face, and count it; the same message takes again what nothing was sent for, and is
        not counted again."""
        values = {
            "search_id": str(claims.search_id),
            "grant_id": str(claims.grant_id),
            "probe_digest": claims.probe_digest,
            "face_commit": claims.face_commit,
            "state": CLAIMED,
            "claimed_at": stamp(self._clock()),
        }
        with self._engine.begin() as connection:
            same = [answers.c[name] == values[name] for name in ("search_id", "grant_id", "probe_digest", "face_commit", "state")]
            by_this = answers.c.message_id.is_(None) | (answers.c.message_id == str(message.message_id))
            if connection.execute(update(answers).where(*same, by_this).values(message_id=str(message.message_id))).rowcount:
                record(connection, self._clock(), claims.search_id, "scan again", "the process ended before anything was sent")
                return
            try:
                with connection.begin_nested():
                    connection.execute(insert(answers).values(**values, message_id=str(message.message_id)))
            except IntegrityError as error:
                raise RefusedByUsError(RefusalReason.REPLAYED, "this grant, probe or face was answered before") from error
            self._budgets.spend(connection, claims, self._clock())

    def _store(self, connection: Connection, held: HeldGrant, given: Given) -> bool:
        """Whether it is the answer of a search that was still claimed."""
        search_id = str(held.claims.search_id)
        values = {
            "state": ANSWERED,
            "layout_id": given.layout_id,
            "answer_digest": given.made.digest,
            "sealed_root": self._vault.seal(ROOT, self._secrets_bytes(given.kept), search_id.encode("ascii")),
        }
        where = (answers.c.search_id == search_id) & (answers.c.state == CLAIMED)
        return connection.execute(update(answers).where(where).values(**values)).rowcount == 1

    @staticmethod
    def _secrets_bytes(kept: AnswerSecrets) -> bytes:
        """Root, order seed and the calibration chunk's place: what a release and an audit need of an answer's secrets."""
        return kept.root.export_secret() + kept.order_seed.export_secret() + kept.calibration_place.to_bytes(4, "big")

    def _queue(self, connection: Connection, claimed: Claimed, given: Given) -> None:
        held, made, kept = claimed.held, given.made, given.kept
        claims, conversation = held.claims, held.conversation
        self._outbox.entry(connection, EntryKind.ANSWER, conversation, [("answer-digest", made.digest)], author=self._agency)
        for seal_to, seed in zip(claimed.to_custodians, kept.mask_seeds, strict=True):
            share = MaskShare(made.digest, made.probe_digest, made.slots, seed, kept.places)
            self._outbox.sealed(connection, MessageType.MASK_SHARE, share, conversation, seal_to)
        statement = AnswerStatement.sign(claims.search_id, held.digest, self._agency, made.digest, self._node_key)
        body = AnswerBody(statement, OrderSeed(made.digest, kept.order_seed), made)
        self._outbox.sealed(connection, MessageType.ANSWER, body, conversation, claimed.to_requester)
        receipt = DeletionReceipt((Deleted.PROBE,), round_moment(self._clock()))
        self._outbox.open(connection, MessageType.DELETION_RECEIPT, receipt, conversation, claims.requesting_agency)
