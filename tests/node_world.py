"""A whole federation of nodes in this process: real stores, keys, checks and mathematics, over a broker in memory that may lie.

Every node is the parts of `agency_node.serving` put together by hand: what differs is the link (`MemoryBroker` and its mailboxes), the
clock, the embedder, and that a loop of the courier is run pass by pass (`OnePass`). The log is signed and cosigned with the sample
federation's keys. Messages come in through the courier, as bytes; tests forge by signing wrong things with right keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Table, select

from agency_node.config import BudgetLimits, Mode, NodeConfig
from agency_node.config import Role as NodeRole
from agency_node.courier import Courier
from agency_node.courier import Role as CourierRole
from agency_node.custodian.releasing import Releasing
from agency_node.custodian.tables_in_use import load_tables
from agency_node.envelopes import BodyT, Envelopes
from agency_node.faces.embedder import Box, Face
from agency_node.faces.image import Pixels, read_image
from agency_node.follower import ActingParties, LogFollower
from agency_node.grants import GrantDesk
from agency_node.holder.answering import Answering
from agency_node.holder.budgets import Budgets
from agency_node.holder.disclosing import Disclosing
from agency_node.holder.index import GalleryIndex
from agency_node.holder.records import NewRecord
from agency_node.keyring import NODE_KEY_FILE, Keyring
from agency_node.legal.lapsing import ExigentClocks
from agency_node.legal.persons import PersonKey
from agency_node.legal.ratified import RatifiedGrants
from agency_node.legal.review import grant_draft
from agency_node.outbox import READY, Conversation, Outbox, message_of
from agency_node.parties import Parties
from agency_node.policy.clocks import STRICT_CLOCK, ExigentClock
from agency_node.policy.engine import PolicyEngine, PolicyPack, load_packs
from agency_node.requester.drafting import SearchRequest, draft_search
from agency_node.requester.leads import Leads
from agency_node.requester.searching import Searching
from agency_node.store import DATABASE_FILE
from agency_node.tables import answers, custody, custody_parts, inbox, ledger, outbox
from agency_node.vault import Vault
from crypto.bodies import GrantBody
from crypto.canonical import AgencyId, GrantId, KeyId, PersonId, SearchId
from crypto.checkpoint import Checkpoint, SignedCheckpoint
from crypto.disclosure import Media
from crypto.entries import EntryKind
from crypto.epoch import Epoch
from crypto.frame import MessageHeader
from crypto.gallery import PackedGallery
from crypto.grant_claims import GrantClaims, GrantTerms
from crypto.message_types import MESSAGES, Body, MessageType
from crypto.messages import Message, seal_message, sign_message
from crypto.moments import utc_day
from crypto.notices import Refusal, RefusalReason
from crypto.probe import Probe, SearchKey, make_probe
from crypto.roster_entries import PersonRole
from crypto.sealing_key import SealingKeyStatement
from tests.face_samples import plain_picture
from tests.node_samples import Clock, store
from tests.node_world_broker import Mailbox, WorldBroker
from tests.sample_federation import (
    BOARD,
    EASTFIELD,
    INVESTIGATOR,
    LAKESIDE,
    NORTHPORT,
    NOW,
    OVERSIGHT,
    REVIEWER,
    claims,
    digest,
    root_set,
    roster,
    signing_key,
    token_of,
)
from tests.simulation import directions, gallery_of, isotropic_model

D: Final = 64
MODEL: Final = isotropic_model(D)
RECORDS: Final = 200
EPOCH: Final = Epoch("2026-11")
STILL: Final = plain_picture(7)
"""The picture that is sought; the holder's record `SOUGHT_ROW` is of the same face."""
SOUGHT_ROW: Final = 42


def node_key(agency: AgencyId) -> Any:
    return signing_key(f"{agency} node")


def person_key(person: PersonId, role: PersonRole, name: str | None = None) -> PersonKey:
    return PersonKey(person, role, signing_key(name or person))


def investigator() -> PersonKey:
    return person_key(INVESTIGATOR, PersonRole.INVESTIGATOR)


def reviewer() -> PersonKey:
    return person_key(REVIEWER, PersonRole.REVIEWER)


class PixelEmbedder:
    """Sees one face in every picture; its embedding follows from the pixels."""

    model = MODEL

    def faces(self, pixels: Pixels) -> list[Face]:
        seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8])
        return [Face(Box(0, 0, 24, 24), np.random.default_rng(seed).standard_normal(D).astype(np.float32))]


@cache
def probe_of(number: int) -> tuple[Probe, SearchKey]:
    """A probe and its key; the same for every test that asks for that number."""
    vector = MODEL.probe_vector(directions(np.random.default_rng(number), 1, D)[0])
    return make_probe(MODEL, vector, EPOCH)


def search_claims(number: int = 0, **changes: Any) -> GrantClaims:
    """A good grant of one search of Northport at Lakeside under Oversight; every number is another search, probe and face."""
    probe, _ = probe_of(number)
    content = replace(
        claims(),
        grant_id=GrantId(digest(f"grant {number}")[:16].hex()),
        search_id=SearchId(digest(f"search {number}")[:16].hex()),
        case_commitment=digest(f"case {number}"),
        probe_digest=probe.digest,
        face_commit=digest(f"face {number}"),
        epoch=EPOCH,
        model_hash=MODEL.model_hash,
        holders=(LAKESIDE,),
        custodians=(OVERSIGHT,),
        combiner=OVERSIGHT,
    )
    return replace(content, **changes)


@cache
def packs() -> tuple[PolicyPack, ...]:
    return load_packs(())


@cache
def migrated_store() -> bytes:
    """An empty store of the newest schema, made once: migrating is tested elsewhere and takes longer than most searches here."""
    with tempfile.TemporaryDirectory() as folder:
        store(Path(folder)).dispose()
        return (Path(folder) / DATABASE_FILE).read_bytes()


class OnePass(asyncio.Event):
    """A stop that lets a loop run exactly once."""

    def is_set(self) -> bool:
        before = super().is_set()
        self.set()
        return before


class ImpatientFollower(LogFollower):
    """Looks once for a fresh head; nobody brings cosignatures while a test waits."""

    async def check_act(self, grant: ActingParties, grant_digest: bytes, entered: EntryKind | None = None, wait_s: float = 0) -> Checkpoint:
        return await super().check_act(grant, grant_digest, entered, wait_s)


# --- a node -----------------------------------------------------------------------------------------------------------


@dataclass
class WorldNode:
    """One agency's node with the roles that it was made with."""

    folder: Path
    agency: AgencyId
    roles: tuple[NodeRole, ...]
    broker: WorldBroker
    clock: Clock
    trusted_custodians: tuple[AgencyId, ...] = (BOARD, OVERSIGHT)
    budgets: BudgetLimits = field(default_factory=BudgetLimits)
    rule: ExigentClock = STRICT_CLOCK
    packs: tuple[PolicyEngine, ...] = field(default_factory=packs)
    parts: list[CourierRole] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / DATABASE_FILE).write_bytes(migrated_store())
        self.engine = store(self.folder)
        self.vault = Vault(digest(f"{self.agency} at rest"))
        Keyring.create(self.folder, self.vault, witness=False)
        (self.folder / NODE_KEY_FILE).write_bytes(self.vault.seal("node-key", node_key(self.agency).export_secret()))
        self.keyring = Keyring(self.folder, self.vault, self.engine, self.agency, self.clock)
        self.mail = Mailbox(self.agency, self.broker)
        self.assemble()
        if NodeRole.HOLDER in self.roles:
            self.index.records.add(gallery_records(), NOW)

    def assemble(self) -> None:
        """Put the parts together over what the store holds, as a process does when it starts."""
        self.parts.clear()
        self.parties = Parties(self.engine, self.broker, root_set().fingerprint, self.clock)
        self.follower = ImpatientFollower(self.engine, self.broker, self.parties, self.clock)
        self.envelopes = Envelopes(self.agency, self.keyring, self.parties)
        self.outbox = Outbox(self.agency, self.keyring.node_key, self.vault, self.clock, self._latest)
        self.desk = GrantDesk(self.agency, self.engine, self.vault, self.envelopes, self.parties, self.follower, self.clock)
        self.parts.append(self.desk)
        if NodeRole.HOLDER in self.roles:
            self._hold()
        if NodeRole.CUSTODIAN in self.roles:
            tables = load_tables(self.folder, self.config, [MODEL], utc_day(self.clock()))
            self.releasing = Releasing(
                self.config,
                self.engine,
                self.desk,
                self.envelopes,
                self.parties,
                self.outbox,
                [MODEL],
                tables,
                self.vault,
                self.packs,
                self.clock,
            )
            self.desk.admitters.append(self.releasing)
            self.parts.append(self.releasing)
        if {NodeRole.HOLDER, NodeRole.CUSTODIAN} & {*self.roles}:
            self.parts.append(
                RatifiedGrants(self.agency, self.engine, self.rule, self.desk, self.envelopes, self.parties, self.follower, self.clock)
            )
        if NodeRole.REQUESTER in self.roles:
            self._request()
        self.courier = Courier(self.agency, self.engine, self.mail, self.parties, self.follower, self.outbox, self.parts, self.clock)

    @property
    def config(self) -> NodeConfig:
        return NodeConfig(
            agency=self.agency,
            mode=Mode.TEST,
            roles=self.roles,
            broker="http://127.0.0.1:1",
            root_fingerprint=root_set().fingerprint.hex(),
            trusted_custodians=self.trusted_custodians if NodeRole.HOLDER in self.roles else (),
        )

    def _hold(self) -> None:
        self.index = GalleryIndex(self.config, self.engine, self.vault, self.keyring, MODEL, self.clock)
        self.answering = Answering(
            self.agency,
            self.engine,
            self.vault,
            self.keyring.node_key,
            self.index,
            self.packs,
            Budgets(self.budgets, self.vault),
            self.desk,
            self.envelopes,
            self.parties,
            self.broker,
            self.outbox,
            self.clock,
        )
        self.desk.admitters.append(self.answering)
        disclosing = Disclosing(
            self.agency, self.engine, self.vault, self.index, self.desk, self.envelopes, self.parties, self.outbox, self.clock
        )
        self.parts += [self.answering, disclosing]

    def _request(self) -> None:
        searching = Searching(
            self.agency,
            self.engine,
            self.vault,
            self.keyring,
            self.envelopes,
            self.parties,
            self.follower,
            self.broker,
            self.outbox,
            self.config.near_duplicates,
            self.clock,
        )
        exigent = ExigentClocks(self.folder, self.engine, self.vault, self.keyring, self.parties, self.outbox, self.clock)
        self.parts += [exigent, searching, Leads(self.engine, self.vault, self.envelopes, self.parties, self.outbox, self.clock)]

    def _latest(self) -> bytes | None:
        latest = self.follower.latest
        return None if latest is None else latest.to_bytes()

    async def start(self) -> None:
        await self.parties.refresh()
        await self.broker.put_sealing_key(self.keyring.current_week().sign(self.keyring.node_key))
        if NodeRole.HOLDER in self.roles:
            await self.index.prepare(self.broker)

    # --- the courier's loops, pass by pass ---

    async def receive(self) -> None:
        await self.courier.receive(OnePass())

    async def work(self) -> None:
        await self.courier.work(OnePass())
        if NodeRole.HOLDER in self.roles:
            await self.answering.scanned()

    async def send(self) -> None:
        while self.rows(outbox, state=READY):
            await self.courier.send(OnePass())

    async def turn(self) -> None:
        """Take what waits, handle it, send what follows."""
        await self.receive()
        await self.work()
        await self.send()

    # --- what is in its store ---

    def rows(self, table: Table, **where: object) -> list[Any]:
        query = select(table)
        for name, value in where.items():
            query = query.where(table.c[name] == value)
        with self.engine.begin() as connection:
            return list(connection.execute(query).all())

    def queued(self) -> list[Message]:
        """Messages that are decided upon and have not left."""
        rows = self.rows(outbox, kind="message", state=READY)
        return [Message.from_bytes(b"".join(message_of(self.engine, row.number))) for row in rows]

    def types_queued(self) -> set[str]:
        """Names of what is decided upon and has not left, entries of the log too."""
        return {row.name for row in self.rows(outbox, state=READY)}

    def journal(self) -> list[str]:
        return [f"{row.event}: {row.detail}" for row in self.rows(ledger)]

    def state_of(self, message: Message) -> tuple[str, str]:
        (row,) = self.rows(inbox, message_id=str(message.message_id))
        return row.state, row.note

    def close(self) -> None:
        self.engine.dispose()


@cache
def gallery_records() -> list[NewRecord]:
    """Random faces, and at `SOUGHT_ROW` the one of `STILL`."""
    embeddings = directions(np.random.default_rng(5), RECORDS, D)
    embeddings[SOUGHT_ROW] = PixelEmbedder().faces(pixels_of(STILL))[0].embedding
    templates = MODEL.templates(embeddings)
    photograph = plain_picture(8)
    return [NewRecord(f"LS-{row:05d}", date(2020, 1, 1), "booking", templates[row], photograph, Media.PNG) for row in range(RECORDS)]


@cache
def pack_gallery() -> PackedGallery:
    """The same gallery packed, for tests that answer in the holder's name."""
    return gallery_of(MODEL, np.stack([one.template for one in gallery_records()]))


def pixels_of(picture: bytes) -> Pixels:
    return np.ascontiguousarray(read_image(picture).pixels)


# --- the federation ---------------------------------------------------------------------------------------------------


class World:
    """Nodes by agency, made when they are first asked for; and whoever wants to may sign and seal in an agency's name."""

    ROLES: Final = {
        NORTHPORT: (NodeRole.REQUESTER,),
        LAKESIDE: (NodeRole.HOLDER,),
        EASTFIELD: (NodeRole.HOLDER,),
        OVERSIGHT: (NodeRole.CUSTODIAN,),
        BOARD: (NodeRole.CUSTODIAN,),
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.broker = WorldBroker(self.clock)
        self.exigent_rule = STRICT_CLOCK
        self.nodes: dict[AgencyId, WorldNode] = {}
        self._sequences: dict[tuple[str, AgencyId, AgencyId], int] = {}

    async def node(self, agency: AgencyId) -> WorldNode:
        if agency not in self.nodes:
            self.nodes[agency] = WorldNode(self.folder / agency, agency, self.ROLES[agency], self.broker, self.clock)
            await self.nodes[agency].start()
        return self.nodes[agency]

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()

    # --- messages in somebody's name ---

    def header(
        self,
        kind: MessageType,
        terms: GrantTerms,
        sender: AgencyId,
        recipient: AgencyId,
        *,
        sequence: int | None = None,
        checkpoint: SignedCheckpoint | None = None,
    ) -> MessageHeader:
        place = (str(terms.search_id), sender, recipient)
        if sequence is None:
            sequence = self._sequences[place] = self._sequences.get(place, 100) + 1
        note = None if checkpoint is None else checkpoint.to_bytes()
        return MessageHeader(kind, terms.search_id, terms.digest, sender, recipient, sequence, self.clock(), note)

    def message(self, kind: MessageType, body: Body, terms: GrantTerms, sender: AgencyId, recipient: AgencyId, **header: Any) -> Message:
        """A message as the sender's own node would make it."""
        head = self.header(kind, terms, sender, recipient, **header)
        if not MESSAGES[kind].sealed:
            return sign_message(head, body, sender_signing_key=node_key(sender))
        statement = self.key_of(recipient, terms.search_id)
        return seal_message(
            head,
            body,
            recipient_public=statement.key,
            recipient_key_id=statement.key_id,
            epoch=terms.epoch,
            sender_signing_key=node_key(sender),
        )

    def key_of(self, agency: AgencyId, search_id: SearchId) -> SealingKeyStatement:
        """The agency's true key: of the search for the requester, of the week for the others."""
        ring = self.nodes[agency].keyring
        return ring.for_search(search_id) if agency == NORTHPORT else ring.current_week()

    def grant(self, content: GrantClaims, recipient: AgencyId, token: bytes | None = None, **header: Any) -> Message:
        """The grant's message to one party."""
        signed = token_of(content) if token is None else token
        return self.message(MessageType.GRANT, GrantBody(signed), content, content.requesting_agency, recipient, **header)

    def probe(self, content: GrantClaims, recipient: AgencyId = LAKESIDE, number: int = 0) -> Message:
        return self.message(MessageType.PROBE, probe_of(number)[0], content, NORTHPORT, recipient)

    def post(self, recipient: AgencyId, *messages: Message | bytes) -> None:
        """Put into a mailbox what its owner will be given."""
        box = self.broker.boxes.setdefault(recipient, [])
        box.extend(one.to_bytes() if isinstance(one, Message) else one for one in messages)

    async def hand_in(self, recipient: AgencyId, *messages: Message | bytes) -> WorldNode:
        """Post, and let the recipient take and handle it; what follows stays in its outbox."""
        node = await self.node(recipient)
        self.post(recipient, *messages)
        await node.receive()
        await node.work()
        return node

    async def requester_with_key(self, content: GrantClaims) -> WorldNode:
        """Northport, which has published its key of that search."""
        node = await self.node(NORTHPORT)
        await self.broker.put_sealing_key(node.keyring.for_search(content.search_id).sign(node.keyring.node_key))
        return node

    def opened_by(self, agency: AgencyId, message: Message, body: type[BodyT], content: GrantClaims) -> BodyT:
        """What the agency reads in a message sealed to it."""
        return self.nodes[agency].envelopes.open(message, body, Conversation.of(content), message.header.sender)

    # --- a search of Northport's own ---

    async def drafted(self, still: bytes = STILL, **changes: Any) -> SearchId:
        node = await self.node(NORTHPORT)
        return draft_search(
            node.engine,
            node.vault,
            PixelEmbedder(),
            NORTHPORT,
            roster().discovery_key(NORTHPORT),
            search_request(still, **changes),
            investigator(),
            self.clock(),
        )

    async def granted(self, **changes: Any) -> GrantClaims:
        return await self.sign(await self.drafted(**changes))

    async def sign(self, search_id: SearchId) -> GrantClaims:
        """Northport's reviewer grants a draft."""
        node, now, rule = await self.node(NORTHPORT), self.clock(), self.exigent_rule
        trusted = node.parties.trusted
        return grant_draft(node.engine, node.vault, PixelEmbedder(), trusted, search_id, reviewer(), now, rule, node.packs)

    async def released(self, **changes: Any) -> GrantClaims:
        """A whole search of Northport at Lakeside, with one lead."""
        content = await self.granted(**changes)
        await self.run(rounds=5)
        return content

    async def holder_with_grant(self, content: GrantClaims) -> WorldNode:
        """Lakeside, which has taken this good grant."""
        self.broker.enter_grant(content.digest)
        await self.requester_with_key(content)
        return await self.hand_in(LAKESIDE, self.grant(content, LAKESIDE))

    async def goes_on(self, party: AgencyId, content: GrantClaims) -> None:
        """The node still handles a good message; a requester has no role that takes a grant."""
        self.broker.enter_grant(content.digest)
        good = self.grant(content, party)
        node = await self.hand_in(party, good)
        assert node.state_of(good)[0] == ("refused" if party == NORTHPORT else "done")

    async def run(self, *agencies: AgencyId, rounds: int = 6) -> None:
        """Let the nodes work until nothing moves any more, or that often."""
        for _ in range(rounds):
            for agency in agencies or tuple(self.nodes):
                await self.nodes[agency].turn()


def search_request(still: bytes, **changes: Any) -> SearchRequest:
    sample = claims()
    values: dict[str, Any] = {
        "case_number": "26-CF-101",
        "still": still,
        "offence": sample.offence,
        "basis": sample.basis,
        "purpose": sample.purpose,
        "event": sample.event,
        "probe_source": sample.probe_source,
        "reviewer": REVIEWER,
        "holders": (LAKESIDE,),
        "custodians": (OVERSIGHT,),
        "combiner": OVERSIGHT,
        "cap": 5,
        "false_positives_per_million": 1000,
        "answer_within": timedelta(hours=4),
        "valid_for": timedelta(days=2),
        "policy_packs": [pack.sha256 for pack in packs()],
    }
    return SearchRequest(**{**values, **changes})


# --- what tests ask of a node -----------------------------------------------------------------------------------------


def nothing_of(node: WorldNode) -> None:
    """Nothing of a search was begun and nothing but refusals is on its way."""
    assert node.rows(answers) == node.rows(custody) == node.rows(custody_parts) == []
    assert {row.name for row in node.rows(outbox)} <= {str(MessageType.REFUSAL), EntryKind.REFUSAL.value}


def the_refusal(node: WorldNode, message: Message) -> RefusalReason:
    """The code in the one refusal of this message, to its sender; the refusal holds that code and nothing else."""
    (sent,) = [
        one
        for one in (*node.queued(), *node.broker.carried)
        if one.header.message_type is MessageType.REFUSAL
        and one.header.sender == node.agency
        and Refusal.from_bytes(one.body).refused == message.message_id
        and one.header.recipient == message.header.sender
    ]
    said = Refusal.from_bytes(sent.body)
    assert sent.body == Refusal(message.message_id, said.reason, said.rule).to_bytes()
    return said.reason


def sealed_to(messages: Sequence[Message]) -> set[tuple[AgencyId, KeyId]]:
    """(recipient, key id) of every sealed message."""
    return {(one.header.recipient, one.envelope().context.recipient_key_id) for one in messages if one.header.spec.sealed}
