"""One search with a disclosure between real processes, everything that each party had of it, and every secret of it.

`run_once` makes the run at its first call in a process and ends all of its processes; the tests look at what was collected. A party's bytes
stand under names: `wire/…` each connection, in each direction; `message/…` what it was sent, put together; `opened/…` what its keys open of
that; `files/…` its folder at several moments while it ran, every page once; `last/…` its folder when the search was over and it still ran;
`after/…` its folder when it had stopped; `vault/…` what its own at-rest key opens in its store at the end; `log`.

Left to others: what a party may know (`test_leaks`), how bytes are searched (`leaks`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Row, Table, select

from agency_node.case_tables import cases, legal_holds, probe_links
from agency_node.demo.federation import BOARD, BROKER, CAST, COUNSEL, DETECTIVE, EASTFIELD, HOLDERS, NORTHPORT
from agency_node.demo.story import ASSAULT, COUNSELS
from agency_node.demo.views import keys_of
from agency_node.demo.wiretap import Recording
from agency_node.faces.embedder import the_one_face
from agency_node.faces.image import read_image
from agency_node.facts import Fact
from agency_node.gallery_tables import (
    block_keys,
    layouts,
    next_block_keys,
    next_template_blocks,
    records,
    subject_requests,
    template_blocks,
)
from agency_node.holder.decision import decide_disclosure
from agency_node.holder.records import RecordStore
from agency_node.legal.review import grant_draft
from agency_node.node import Node
from agency_node.policy.engine import load_packs
from agency_node.requester.drafting import CaseFile, SearchRequest, draft_search
from agency_node.requester.leads import ask_for, claims_of, list_disclosed
from agency_node.tables import (
    answers,
    decisions,
    disclosures,
    exigent_grants,
    facts,
    held_grants,
    leads,
    legal_decisions,
    metadata,
    narrowings,
    outbox,
    probe_faces,
    sealing_keys,
    searches,
)
from crypto import ring
from crypto.answer import MaskShare
from crypto.bodies import AnswerBody, OpenedBody
from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.disclosure import StubList
from crypto.embedding import EmbeddingModel
from crypto.envelope import IN_SEGMENTS, Envelope, open_envelope, open_in_segments
from crypto.grant_basis import BasisKind, CourtOrder, Event, ProbeSource, Purpose
from crypto.keys import SealingPrivateKey, VerifyingKey
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.probe import Probe, SearchKey
from crypto.release import DiscoveryRelease, HolderRelease, RequesterRelease, unmask
from crypto.roster import Roster
from crypto.seed import SEED_BYTES
from crypto.wire import MessageId
from tests.federation_fixture import RECORDS, World, small_federation, whom
from tests.leaks import Secret, find

CASE_NUMBER: Final = "NP-26-104177"
DOCKET: Final = "26-CF-009141"
COURT: Final = "Circuit Court of Northport County, Branch 7"
FACTS: Final = "At 21:40 on Pier Street a witness saw the person in the still strike the clerk twice with a bottle and leave on foot."
PAGE: Final = 4096
EVERYWHERE: Final = ("wire", "message", "opened", "files", "after", "vault", "log")

Bound = Callable[[Row[Any]], bytes]
SEALED: Final[Mapping[tuple[Table, str], tuple[str, Bound]]] = {
    (sealing_keys, "sealed_private"): ("sealing-key", lambda row: str(row.key_id).encode()),
    (outbox, "sealed_openings"): ("log-openings", lambda row: bytes(row.grant_digest)),
    (held_grants, "sealed_token"): ("grant-token", lambda row: bytes(row.grant_digest)),
    (searches, "sealed_token"): ("grant-token", lambda row: str(row.search_id).encode()),
    (searches, "sealed_case"): ("case", lambda row: str(row.search_id).encode()),
    (searches, "sealed_still"): ("still", lambda row: str(row.search_id).encode()),
    (probe_faces, "sealed_vector"): ("probe-face", lambda row: str(row.search_id).encode()),
    (searches, "sealed_search_key"): ("search-key", lambda row: str(row.search_id).encode()),
    (searches, "sealed_release"): ("release", lambda row: str(row.search_id).encode()),
    (leads, "sealed_stub"): ("stub", lambda row: str(row.search_id).encode()),
    (disclosures, "sealed_record"): ("disclosed-record", lambda row: str(row.handle).encode()),
    (records, "sealed_record"): ("record", lambda row: int(row.row).to_bytes(8, "big")),
    (records, "sealed_photograph"): ("photograph", lambda row: int(row.row).to_bytes(8, "big")),
    (template_blocks, "sealed_templates"): ("template block", lambda row: int(row.block).to_bytes(8, "big")),
    (block_keys, "sealed_key"): ("template key", lambda row: int(row.block).to_bytes(8, "big")),
    (layouts, "sealed_layout"): ("layout", lambda row: str(row.layout_id).encode()),
    (answers, "sealed_root"): ("answer-root", lambda row: str(row.search_id).encode()),
    (decisions, "sealed_inputs"): ("policy-inputs", lambda row: bytes(row.inputs_sha256)),
    (legal_decisions, "sealed_reason"): ("legal-reason", lambda row: str(row.search_id).encode()),
    (narrowings, "sealed_draft"): ("draft-before-narrowing", lambda row: str(row.search_id).encode()),
    (exigent_grants, "sealed_salt"): ("case-salt", lambda row: bytes(row.case_tag)),
    (answers, "sealed_release"): ("holder-release", lambda row: str(row.search_id).encode()),
    (cases, "sealed_number"): ("case-number", lambda row: bytes(row.case_tag)),
    (probe_links, "sealed_link"): ("probe-link", lambda row: f"{row.search_id}/{row.number}".encode()),
    (probe_links, "sealed_picture"): ("probe-picture", lambda row: f"{row.search_id}/{row.number}".encode()),
    (legal_holds, "sealed_reason"): ("hold-reason", lambda row: bytes(row.case_tag)),
    (subject_requests, "sealed_request"): ("subject-request", lambda row: str(row.request_id).encode()),
    (next_template_blocks, "sealed_templates"): ("template block", lambda row: int(row.block).to_bytes(8, "big")),
    (next_block_keys, "sealed_key"): ("template key", lambda row: int(row.block).to_bytes(8, "big")),
    (legal_holds, "sealed_lift_reason"): ("hold-lift-reason", lambda row: bytes(row.case_tag)),
}
"""Every sealed column of a node's store: its purpose, and what a blob is bound to."""
NOT_IN_THIS_RUN: Final = frozenset(
    {
        ("searches", "sealed_search_key"),
        ("exigent_grants", "sealed_salt"),
        ("legal_decisions", "sealed_reason"),
        ("narrowings", "sealed_draft"),
        ("legal_holds", "sealed_reason"),
        ("legal_holds", "sealed_lift_reason"),
        ("subject_requests", "sealed_request"),
        ("next_template_blocks", "sealed_templates"),
        ("next_block_keys", "sealed_key"),
    }
)
"""Columns that are empty at its end: the key is destroyed; nobody asked about a record, no gallery was re-embedded; no exigent search
lapsed, no draft was narrowed or refused, no grant revoked, no
case held."""


def sealed_columns() -> set[tuple[Table, str]]:
    """Every column of the schema whose name says that it is sealed."""
    return {(table, column.name) for table in metadata.sorted_tables for column in table.columns if column.name.startswith("sealed_")}


def opened_envelope(envelope: Envelope, private: SealingPrivateKey, sender: VerifyingKey) -> bytes:
    """What is inside, however it was sealed."""
    if envelope.suite != IN_SEGMENTS:
        return open_envelope(envelope, envelope.context, private, sender)
    data = envelope.to_bytes()
    return b"".join(open_in_segments(lambda: (data,), len(data), envelope.context, private, sender)[1])


@dataclass(frozen=True)
class Sealed:
    """A message that passed sealed, with what is inside."""

    message: Message
    plaintext: bytes = field(repr=False)

    @property
    def kind(self) -> MessageType:
        return self.message.header.message_type

    def without_seal(self) -> bytes:
        """The frame as it would travel had somebody forgotten to seal it."""
        whole, closed = self.message.to_bytes(), self.message.envelope().sealed
        assert closed in whole
        return whole.replace(closed, self.plaintext)


@dataclass
class Run:
    """What is left of a run."""

    folder: Path
    search_id: SearchId
    roster: Roster
    parties: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)
    secrets: dict[str, Secret] = field(default_factory=dict, repr=False)
    sealed: list[Sealed] = field(default_factory=list, repr=False)
    addressees: dict[KeyId, SealingPrivateKey] = field(default_factory=dict, repr=False)
    broker_keys: dict[KeyId, SealingPrivateKey] = field(default_factory=dict, repr=False)
    key_blob: bytes = field(default=b"", repr=False)
    """The search key as it lay sealed in the requester's store."""
    deleted: dict[str, list[Message]] = field(default_factory=dict, repr=False)
    """By party: messages that it was sent and says, by its store, that it has deleted; the broker's are those that were delivered."""
    seconds: dict[str, float] = field(default_factory=dict)

    def of(self, party: str, *places: str) -> dict[str, bytes]:
        """A party's bytes in those places; when none is named, in all (what was `last` is among `files`)."""
        return {name: data for name, data in self.parties[party].items() if name.split("/")[0] in (places or EVERYWHERE)}

    def named(self, *beginnings: str) -> dict[str, Secret]:
        """The secrets whose names begin so; every beginning names at least one."""
        assert all(any(name.startswith(one) for name in self.secrets) for one in beginnings)
        return {name: secret for name, secret in self.secrets.items() if name.startswith(beginnings)}


_runs: list[Run] = []


def run_once(make_folder: Callable[[], Path]) -> Run:
    """The run of this process."""
    if not _runs:
        with small_federation(make_folder()) as world:
            _runs.append(_Collector(world).collect())
    return _runs[0]


class _Collector:
    def __init__(self, world: World) -> None:
        self.world = world
        self.folder = world.federation.folder
        self.requester = world.node(NORTHPORT)
        self.files: dict[str, dict[str, bytearray]] = {party: {} for party in (*CAST, BROKER)}
        self._pages: set[tuple[str, bytes]] = set()

    def collect(self) -> Run:
        started = time.perf_counter()
        world, search_id = self.world, self._draft()
        run = Run(self.folder, search_id, self.requester.parties.roster())
        run.key_blob = world.ask(NORTHPORT, "SELECT sealed_search_key FROM searches WHERE search_id = ?", search_id)[0][0]
        self._secrets_of_the_draft(run)
        self._look()
        counsel = world.federation.person(COUNSEL)
        node = self.requester
        grant_draft(node.engine, node.vault, world.embedder, node.parties.trusted, search_id, counsel, datetime.now(UTC))
        world.until(lambda: self._looked_and(world.state(search_id) in ("released", "refused")), "the release", every=0.3)
        assert [one.handle != "" for one in self._leads_when_shown(search_id)][:2] == [True, True]
        self._disclose(search_id)
        world.until(self._quiet, "the end of all sending")
        self._look()
        run.seconds = {**world.seconds, "search": round(time.perf_counter() - started, 2)}
        self._secrets_of_the_search(run)
        self._gather(run)
        return run

    # --- the search ---------------------------------------------------------------------------------------------------

    def _draft(self) -> SearchId:
        node, world, now = self.requester, self.world, datetime.now(UTC)
        order = hashlib.sha256(b"the order's file").digest()
        request = SearchRequest(
            case_number=CASE_NUMBER,
            still=world.stills["astronaut"],
            offence=ASSAULT,
            basis=CourtOrder(BasisKind.WARRANT, COURT, DOCKET, now.date() - timedelta(days=3), now.date() + timedelta(days=11), order),
            purpose=Purpose.CRIMINAL_INVESTIGATION,
            event=Event.NONE,
            probe_source=ProbeSource.RECORDED_VIDEO_STILL,
            reviewer=COUNSEL,
            holders=list(HOLDERS),
            custodians=[BOARD],
            combiner=BOARD,
            cap=20,
            false_positives_per_million=1000,
            answer_within=timedelta(seconds=90),
            valid_for=timedelta(days=1),
            policy_packs=[pack.sha256 for pack in load_packs(())],
            facts=FACTS,
            facts_salt=hashlib.sha256(b"salt of the facts").digest(),
        )
        discovery = node.parties.roster().discovery_key(NORTHPORT)
        detective = world.federation.person(DETECTIVE)
        return draft_search(node.engine, node.vault, world.embedder, NORTHPORT, discovery, request, detective, now)

    def _leads_when_shown(self, search_id: SearchId) -> list[Any]:
        self.world.until(lambda: all(one.handle for one in self.world.leads(search_id)), "every lead's stub")
        return list(self.world.leads(search_id))

    def _disclose(self, search_id: SearchId) -> None:
        node, world = self.requester, self.world
        lead = ask_for(node.engine, node.vault, search_id, 1, datetime.now(UTC))
        assert lead.agency == EASTFIELD
        theirs = world.node(EASTFIELD)
        asked = "SELECT 1 FROM disclosure_requests WHERE handle = ?"
        world.until(lambda: world.ask(EASTFIELD, asked, lead.handle), "the request at the holder")
        counsel = world.federation.person(COUNSELS[EASTFIELD])
        decide_disclosure(theirs.engine, theirs.parties, EASTFIELD, lead.handle, counsel, datetime.now(UTC), grant=True)
        world.until(lambda: any(one.outcome == "disclosed" for one in list_disclosed(node.engine, node.vault, search_id)), "the disclosure")

    def _quiet(self) -> bool:
        waiting = "SELECT 1 FROM outbox WHERE state = 'ready' UNION ALL SELECT 1 FROM inbox WHERE state IN ('new', 'waiting')"
        return not any(self.world.ask(agency, waiting) for agency in CAST)

    # --- the secrets --------------------------------------------------------------------------------------------------

    def _secrets_of_the_draft(self, run: Run) -> None:
        """What is known before anybody was asked; the search key is opened now, because it will be gone."""
        world, node, model = self.world, self.requester, self.world.embedder.model
        (row,) = world.ask(NORTHPORT, "SELECT probe, sealed_case FROM searches WHERE search_id = ?", run.search_id)
        bound = run.search_id.encode()
        packed = node.vault.open("search-key", run.key_blob, bound)
        key = SearchKey.from_secret(packed)
        case = CaseFile.from_bytes(node.vault.open("case", row[1], bound))
        claims = claims_of(node.engine, node.vault, run.search_id)
        face = self._embedding(world.stills["astronaut"])
        run.secrets |= {
            "search key/packed": packed,
            "search key/words": key.secret_eval().copy(),
            "search key/coefficients": ring.centred(ring.inverse(key.secret_eval())).astype(np.int8).tobytes(),
            "probe/vector": model.probe_vector(face),
            "probe/ciphertext": Probe.from_bytes(row[0]).to_bytes()[256:],
            "face/embedding": face,
            "face/unit vector": (face / np.linalg.norm(face)).astype(np.float64),
            "face/centred vector": model.centred_unit(face),
            "face/template": model.templates(face[None])[0],
            "still": _scan_data(world.stills["astronaut"]),
            "case/number": CASE_NUMBER,
            "case/facts": FACTS,
            "case/docket": DOCKET,
            "case/court": COURT,
            "case/statute": ASSAULT.statute,
            "salt/case": case.case_salt,
            "salt/face": case.face_salt,
            "salt/reason": claims.reason_salt,
        }

    def _secrets_of_the_search(self, run: Run) -> None:
        world = self.world
        for holder in HOLDERS:
            self._secrets_of_a_gallery(run, holder)
        self._open_messages(run)
        bodies = {(one.kind, str(one.message.header.sender), str(one.message.header.recipient)): one.plaintext for one in run.sealed}
        discovery = DiscoveryRelease.from_bytes(bodies[MessageType.DISCOVERY_RELEASE, BOARD, NORTHPORT])
        for index, milli in discovery.leads:
            run.secrets[f"score/released/{index}"] = milli / 1000
        run.secrets["score/thousandths"] = np.array([milli for _, milli in discovery.leads], np.int64)
        run.secrets["release/discovery"] = discovery.to_bytes()[27 : 27 + 4 * len(discovery.leads)]
        released = RequesterRelease.from_bytes(bodies[MessageType.REQUESTER_RELEASE, BOARD, NORTHPORT])
        run.secrets["release/requester"] = released.to_bytes()[9 : 9 + 5 * len(released.leads)]
        for agency in CAST:
            logged_here = "SELECT number, grant_digest, sealed_openings FROM outbox WHERE opening IS NOT NULL"
            for number, grant_digest, sealed in world.ask(agency, logged_here):
                kept = json.loads(world.node(agency).vault.open("log-openings", sealed, grant_digest))["openings"]
                run.secrets[f"opening/{agency}/{number}"] = bytes.fromhex(kept[0]["salt"])
        best = 0.0
        for holder in HOLDERS:
            share = MaskShare.from_bytes(bodies[MessageType.MASK_SHARE, holder, BOARD])
            opened = {
                body.statement.holder: body.opened
                for body in (OpenedBody.from_bytes(one.plaintext) for one in run.sealed if one.kind == MessageType.OPENED_SCORES)
            }[holder]
            answer = AnswerBody.from_bytes(bodies[MessageType.ANSWER, holder, NORTHPORT])
            scores = unmask(holder, RECORDS + 1, opened.values.size // ring.N - 1, world.embedder.model.scales, opened, [share])
            best = max(best, float(scores.cosines().max()))
            part = HolderRelease.from_bytes(bodies[MessageType.HOLDER_RELEASE, BOARD, holder])
            run.secrets |= {
                f"mask seed/{holder}": share.seed.export_secret(),
                f"opened values/{holder}": opened.values.astype("<u2").tobytes(),
                f"answer/{holder}": answer.answer.to_bytes()[256:],
                f"score/all/{holder}": scores.cosines().copy(),
                f"release/{holder}": part.to_bytes()[5 : 15 + 6 * len(part.leads)],  # with the first empty slot: one lead alone is short
            }
            for stub in StubList.from_bytes(bodies[MessageType.STUBS, holder, NORTHPORT]).stubs:
                assert stub.record is not None
                run.secrets[f"handle/{holder}/{stub.index}"] = stub.record.handle
        assert round(best * 1000) == max(dict(discovery.leads).values())  # these are the scores, not something that looks like them

    def _secrets_of_a_gallery(self, run: Run, holder: AgencyId) -> None:
        """Of the leads, the portrait and some others: template, record number, true cosine; of the answer: root and order."""
        world, node = self.world, self.world.node(holder)
        store = RecordStore(node.engine, node.vault, world.embedder.model)
        templates = store.templates()
        shown = [row for (row,) in world.ask(holder, "SELECT row FROM stubs WHERE search_id = ?", run.search_id)]
        assert shown
        for row in sorted({*shown, 0, 1, 2, 1100, RECORDS}):
            number = store.record(row).record_number
            run.secrets[f"template/{holder}/{row}"] = templates[row]
            run.secrets[f"record number/{holder}/{row}"] = number
            if row in shown:
                run.secrets[f"score/true/{holder}/{row}"] = world.planted["astronaut"][holder][number]
        run.secrets |= {f"described/{holder}/{name}": said for name, said in whom(holder).items() if name != "birth_year"}
        photograph = store.record(RECORDS).photograph
        picture = world.pictures["astronaut" if holder == EASTFIELD else "hopper"].jpeg
        assert photograph is not None
        embedding = self._embedding(picture)
        run.secrets |= {
            f"photograph/{holder}/kept": _scan_data(photograph),
            f"photograph/{holder}/original": _scan_data(picture),
            f"portrait/{holder}/embedding": embedding,
            f"portrait/{holder}/centred vector": world.embedder.model.centred_unit(embedding),
        }
        ((sealed,),) = world.ask(holder, "SELECT sealed_root FROM answers WHERE search_id = ?", run.search_id)
        kept = node.vault.open("answer-root", sealed, run.search_id.encode())
        run.secrets[f"answer root/{holder}"] = kept[:SEED_BYTES]
        run.secrets[f"order seed/{holder}"] = kept[SEED_BYTES : 2 * SEED_BYTES]

    def _open_messages(self, run: Run) -> None:
        """Every sealed message that passed, opened with its addressee's key."""
        world = self.world
        run.broker_keys = world.federation.broker_keys()
        for agency in CAST:
            run.addressees |= keys_of(world.node(agency))
        sent: dict[MessageId, Message] = {}
        for recording in world.federation.wiretap.recordings.values():
            sent |= {message.message_id: message for message in recording.sent()}
        for message in sent.values():
            if message.header.spec.sealed:
                envelope = message.envelope()
                name = envelope.context.recipient_key_id
                if message.header.message_type == MessageType.DISCOVERY_RELEASE:
                    run.addressees[name] = world.federation.discovery_key
                sender = run.roster.node_key(message.header.sender)
                run.sealed.append(Sealed(message, opened_envelope(envelope, run.addressees[name], sender)))

    def _embedding(self, jpeg: bytes) -> Any:
        return the_one_face(self.world.embedder, read_image(jpeg)).embedding

    # --- the bytes ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Every file of every party's folder as it is now; of what was there before only pages that changed."""
        for party, seen in self.files.items():
            for name, data in _folder(self._place(party)).items():
                for start in range(0, len(data), PAGE):
                    page = data[start : start + PAGE]
                    mark = (f"{party}/{name}", hashlib.blake2b(page, digest_size=16).digest())
                    if mark not in self._pages:
                        self._pages.add(mark)
                        seen.setdefault(name, bytearray()).extend(page)

    def _looked_and(self, come: bool) -> bool:
        self._look()
        return come

    def _wait_for_empty_logs(self) -> None:
        """Give everybody time to empty the write-ahead log once; who does not is found out by what still stands in it."""
        logs = {path for party in self.files for path in self._place(party).glob("*-wal")}
        end = time.monotonic() + 5
        while logs and time.monotonic() < end:
            logs = {path for path in logs if path.exists() and path.stat().st_size}
            time.sleep(0.02)

    def _place(self, party: str) -> Path:
        return self.folder / ("broker" if party == BROKER else party)

    def _gather(self, run: Run) -> None:
        world = self.world
        for agency in CAST:
            run.parties[agency] = {f"vault/{name}": data for name, data in opened_by(world.node(agency), world.embedder.model).items()}
            recording = world.federation.wiretap.recordings[agency]
            run.parties[agency] |= _wire(recording, sent=False)
            gone = {name for (name,) in world.ask(agency, "SELECT message_id FROM inbox WHERE data IS NULL")}
            run.deleted[agency] = [one for one in recording.received() if str(one.message_id) in gone]
            for number, one in enumerate(run.sealed):
                if one.message.header.recipient == agency and one.kind != MessageType.DISCOVERY_RELEASE:
                    run.parties[agency][f"opened/{number} {one.kind}"] = one.plaintext
        run.parties[BROKER] = {}
        run.deleted[BROKER] = [one.message for one in run.sealed]
        for agency in CAST:
            both = _wire(world.federation.wiretap.recordings[agency], sent=True)
            run.parties[BROKER] |= {f"{name} of {agency}": data for name, data in both.items()}
        self._wait_for_empty_logs()
        for party in run.parties:
            run.parties[party] |= {f"last/{name}": data for name, data in _folder(self._place(party)).items()}
        for name in list(world.federation.processes):
            world.federation.stop(name)
        for agency in CAST:
            world.node(agency).engine.dispose()
        for party, seen in self.files.items():
            kept = run.parties[party]
            kept |= {f"files/{name}": bytes(data) for name, data in seen.items()}
            kept |= {f"after/{name}": data for name, data in _folder(self._place(party)).items()}
            process = "broker" if party == BROKER else party
            kept["log"] = world.federation.log_of(process)
            for beside in self.folder.glob(f"{process}.*"):
                if beside.suffix in (".port", ".ready"):
                    kept[f"after/{beside.name}"] = beside.read_bytes()


def logged(secret: Secret) -> bytes:
    """As somebody in a hurry would write it into a log."""
    if isinstance(secret, np.ndarray):
        return json.dumps({"debug": secret[:20].tolist()}).encode()
    if isinstance(secret, bytes):
        return json.dumps({"debug": secret[:512].hex()}).encode()
    if isinstance(secret, float):  # with its thousandths: 0.44 alone is too little to be taken for a score
        return f'{{"score": {max(repr(secret), f"{secret:.3f}", key=len)}}}'.encode()
    return json.dumps({"debug": secret}).encode()


def places(parts: Mapping[str, bytes], secrets: Mapping[str, Secret]) -> list[tuple[str, str, str]]:
    """Which secret stands where, for the message of a test that fails."""
    names = list(parts)
    return [(finding.secret, names[finding.item], f"{finding.inside} {finding.form}") for finding in find(secrets, parts.values())]


def opened_by(node: Node, model: EmbeddingModel) -> dict[str, bytes]:
    """All that a node's own at-rest key opens in its store and its folder, by table and column; between two blobs stand zeros."""
    found: dict[str, bytes] = {}
    with node.engine.begin() as connection:
        for (table, column), (purpose, bound) in SEALED.items():
            rows = connection.execute(select(table).where(table.c[column].is_not(None))).all()
            plain = [node.vault.open(purpose, bytes(getattr(row, column)), bound(row)) for row in rows]
            found[f"{table.name}.{column}"] = bytes(16).join(plain)
        found["facts.manifest"] = _manifest(node, connection)
    found["template_blocks.templates"] = RecordStore(node.engine, node.vault, model).templates().tobytes()
    found["keys/node.key"] = node.keyring.node_key.export_secret()
    return found


def _manifest(node: Node, connection: Connection) -> bytes:
    sealed = connection.execute(select(facts.c.value).where(facts.c.name == Fact.MANIFEST)).scalar()
    return b"" if sealed is None else node.vault.open("manifest", sealed)


def _wire(recording: Recording, *, sent: bool) -> dict[str, bytes]:
    """Each connection, and the messages that came over them; `sent` takes the other direction too."""
    streams = {f"wire/{number} in": bytes(data) for number, data in enumerate(recording.from_broker)}
    messages = recording.received()
    if sent:
        streams |= {f"wire/{number} out": bytes(data) for number, data in enumerate(recording.to_broker)}
        messages = [*messages, *recording.sent()]
    return streams | {f"message/{one.message_id}": one.to_bytes() for one in messages}


def _folder(place: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(place.rglob("*")):
        try:
            if path.is_file():
                found[str(path.relative_to(place))] = path.read_bytes()
        except FileNotFoundError:  # a journal that went away meanwhile
            continue
    return found


def _scan_data(jpeg: bytes) -> bytes:
    """What makes a picture this picture: the tables before the scan are the same in every JPEG of one quality."""
    start = jpeg.index(b"\xff\xda")
    return jpeg[start + 16 :]
