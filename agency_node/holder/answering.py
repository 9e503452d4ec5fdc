"""A holder answers probes: under a verified grant, its own policy, the log's word, and once.

States of an answer, in table `answers`: `claimed` before the scan, `answered` in the transaction that stores the outgoing messages,
`released` when the custodian's release was mapped to records. A process that dies while `claimed` has sent nothing, and its seed died with
it: the scan is made again under a fresh seed. One that dies after `answered` sends the stored bytes.

Invariants: grant id, probe digest and face commitment are unique in the store before a scan begins (PROTOCOL 3, step 7); the policy's
decision is stored with pack and inputs (R60: the holder's own policy is final); the probe is deleted with a receipt once the answer is
stored (R22). The holder never sees a score: what it learns is which of its records were released.

Left to others: the packed gallery (`index`), stubs and photographs (`disclosing`), what a grant must be (`grants`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from agency_node.courier import Commit, Handler, NotYetError
from agency_node.envelopes import Envelopes
from agency_node.grants import GrantDesk, HeldGrant
from agency_node.holder.index import GalleryIndex
from agency_node.journal import record, stamp
from agency_node.link import PublishLink
from agency_node.outbox import Conversation, Outbox, Outgoing, SealTo
from agency_node.parties import Parties
from agency_node.policy.engine import Decision, PolicyInputs, PolicyPack, decide_all
from agency_node.refusals import RefusedByUsError
from agency_node.tables import answers, decisions, inbox
from agency_node.vault import Vault
from crypto.answer import Answer, AnswerRequest, AnswerSecrets, MaskShare, OrderSeed
from crypto.bodies import AnswerBody, AnswerStatement
from crypto.canonical import AgencyId
from crypto.entries import EntryKind
from crypto.errors import GrantMismatchError
from crypto.grant import VerifiedGrant, check_names
from crypto.grant_claims import GrantClaims
from crypto.keys import SigningKey
from crypto.manifest import check_trusted_by
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.moments import round_moment
from crypto.notices import Deleted, DeletionReceipt, Refusal, RefusalReason
from crypto.probe import Probe

CLAIMED: Final = "claimed"
ANSWERED: Final = "answered"
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
        packs: tuple[PolicyPack, ...],
        desk: GrantDesk,
        envelopes: Envelopes,
        parties: Parties,
        link: PublishLink,
        outbox: Outbox,
        clock: Callable[[], datetime],
    ) -> None:
        self._agency = agency
        self._engine = engine
        self._vault = vault
        self._node_key = node_key
        self._index = index
        self._packs = packs
        self._desk = desk
        self._envelopes = envelopes
        self._parties = parties
        self._link = link
        self._outbox = outbox
        self._clock = clock

    def handlers(self) -> Mapping[MessageType, Handler]:
        """Probes come here."""
        return {MessageType.PROBE: self.receive_probe}

    async def tick(self) -> None:
        """Keep the packed gallery and its manifest what is enrolled."""
        await self._index.prepare(self._link)

    def sent(self, connection: Connection, row: Outgoing) -> None:
        """Nothing follows."""

    def refused(self, connection: Connection, row: Outgoing, note: str) -> None:
        """Nothing follows; the journal has it."""

    # --- grant --------------------------------------------------------------------------------------------------------

    def concerns(self, claims: GrantClaims) -> bool:
        """Whether the grant names this agency as a holder."""
        return self._agency in claims.holders

    async def admit(self, grant: VerifiedGrant, message: Message) -> Commit:
        """What a holder asks of a verified grant beside what everybody asks:

        1. it has a gallery, of the grant's model, and trusts one of the grant's custodians (`check_trusted_by`)
        2. its own policy allows the search; a refusal names the rule, to the requester and to the custodian
        """
        now, claims = self._clock(), grant.claims
        await self._index.prepare(self._link)
        if self._index.manifest is None:
            raise NotYetError("this holder has no gallery yet")
        check_trusted_by(self._index.manifest, claims, now)  # 1
        inputs = PolicyInputs.from_grant(claims, self._parties.roster(), self._agency, now)
        decision = decide_all(self._packs, inputs)  # 2
        if not decision.allowed:
            self._refuse_by_policy(grant, decision, message)
            raise RefusedByUsError(RefusalReason.POLICY, " ".join(decision.sentences), decision.rules[0])

        def commit(connection: Connection) -> None:
            self._keep_decision(connection, claims, decision)

        return commit

    def _refuse_by_policy(self, grant: VerifiedGrant, decision: Decision, message: Message) -> None:
        """Store the decision, enter it into the log, and tell the combining custodian, whose release will say why this holder is
        missing."""
        claims = grant.claims
        conversation = Conversation.of(claims)
        refusal = Refusal(message.message_id, RefusalReason.POLICY, decision.rules[0])
        with self._engine.begin() as connection:
            self._keep_decision(connection, claims, decision)
            rule = [("refusal-rule", str(decision.rules[0]).encode("ascii"))]
            self._outbox.entry(connection, EntryKind.REFUSAL, conversation, rule, author=self._agency)
            self._outbox.open(connection, MessageType.REFUSAL, refusal, conversation, claims.combiner)

    def _keep_decision(self, connection: Connection, claims: GrantClaims, decision: Decision) -> None:
        connection.execute(
            insert(decisions).values(
                search_id=str(claims.search_id),
                at=stamp(self._clock()),
                allowed=int(decision.allowed),
                policies=",".join(decision.policies),
                rules=",".join(map(str, decision.rules)),
                pack_sha256=decision.pack_sha256,
                inputs_sha256=decision.inputs_sha256,
            )
        )

    # --- probe --------------------------------------------------------------------------------------------------------

    async def receive_probe(self, message: Message) -> Commit:
        """A probe, after these checks in this order; then the answer:

        1. this holder holds its search's grant, verified, allowed by policy and in force (`NotYetError` while it has not come)
        2. it opens, and comes from the requesting agency
        3. it is the very probe of the grant: digest, epoch, model (`GrantMismatchError`); its epoch is served now (`EpochError`)
        4. the answer deadline has not passed (refused as late)
        5. the log, read to its end under a fresh cosigned checkpoint, holds the grant and no end of it (`LogError`)
        6. nothing was answered to this grant, probe or face before (refused as replayed)
        """
        now = self._clock()
        held = self._desk.held(message)  # 1
        claims = held.claims
        if self._agency not in claims.holders:
            raise GrantMismatchError("the grant does not name this agency as a holder")
        probe = self._envelopes.open(message, Probe, held.conversation, claims.requesting_agency)  # 2
        check_names(claims, probe_digest=probe.digest, epoch=probe.epoch, model_hash=probe.model_hash, holder=self._agency)  # 3
        probe.epoch.check_served(now)
        if now >= claims.answer_deadline:  # 4
            raise RefusedByUsError(RefusalReason.LATE, "the answer deadline has passed")
        await self._desk.check_act(claims, held.digest)  # 5
        to_requester = SealTo.statement(await self._parties.search_key(claims.requesting_agency, claims.search_id))
        to_custodians = [SealTo.statement(await self._parties.week_key(custodian)) for custodian in claims.custodians]
        self._claim(claims)  # 6
        request = AnswerRequest(probe, held.digest, len(claims.custodians))
        made, kept, layout_id, keep_layout = await asyncio.to_thread(self._index.answer, request, claims.case_commitment)

        def commit(connection: Connection) -> None:
            keep_layout(connection)
            self._store(connection, held, made, kept, layout_id)
            self._queue(connection, held, probe, made, kept, to_requester, to_custodians)
            connection.execute(update(inbox).where(inbox.c.message_id == str(message.message_id)).values(data=None))

        return commit

    def _claim(self, claims: GrantClaims) -> None:
        """Take the one answer of this grant, probe and face; taking again what nothing was sent for is allowed."""
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
            if connection.execute(select(answers.c.search_id).where(*same)).first() is not None:
                record(connection, self._clock(), claims.search_id, "scan again", "the process ended before anything was sent")
                return
            try:
                with connection.begin_nested():
                    connection.execute(insert(answers).values(**values))
            except IntegrityError as error:
                raise RefusedByUsError(RefusalReason.REPLAYED, "this grant, probe or face was answered before") from error

    def _store(self, connection: Connection, held: HeldGrant, made: Answer, kept: AnswerSecrets, layout_id: str) -> None:
        search_id = str(held.claims.search_id)
        places = self._secrets_bytes(kept)
        connection.execute(
            update(answers)
            .where(answers.c.search_id == search_id, answers.c.state == CLAIMED)
            .values(
                state=ANSWERED,
                layout_id=layout_id,
                answer_digest=made.digest,
                sealed_root=self._vault.seal(ROOT, places, search_id.encode("ascii")),
            )
        )

    @staticmethod
    def _secrets_bytes(kept: AnswerSecrets) -> bytes:
        """Root, order seed and the calibration chunk's place: what a release and an audit need of an answer's secrets."""
        return kept.root.export_secret() + kept.order_seed.export_secret() + kept.calibration_place.to_bytes(4, "big")

    def _queue(
        self,
        connection: Connection,
        held: HeldGrant,
        probe: Probe,
        made: Answer,
        kept: AnswerSecrets,
        to_requester: SealTo,
        to_custodians: list[SealTo],
    ) -> None:
        claims, conversation = held.claims, held.conversation
        self._outbox.entry(connection, EntryKind.ANSWER, conversation, [("answer-digest", made.digest)], author=self._agency)
        for seal_to, seed in zip(to_custodians, kept.mask_seeds, strict=True):
            share = MaskShare(made.digest, probe.digest, made.slots, seed, kept.places)
            self._outbox.sealed(connection, MessageType.MASK_SHARE, share, conversation, seal_to)
        statement = AnswerStatement.sign(claims.search_id, held.digest, self._agency, made.digest, self._node_key)
        body = AnswerBody(statement, OrderSeed(made.digest, kept.order_seed), made)
        self._outbox.sealed(connection, MessageType.ANSWER, body, conversation, to_requester)
        receipt = DeletionReceipt((Deleted.PROBE,), round_moment(self._clock()))
        self._outbox.open(connection, MessageType.DELETION_RECEIPT, receipt, conversation, claims.requesting_agency)
