"""A small federation of real processes for tests: five parties, galleries of 1,500 directions and a portrait each, known record by record.

What is planted is known to the test: for every still the cosine of every enrolled record, so that a search's leads can be
predicted from the threshold alone. The requester is a holder too, so that a grant can name its own gallery.

Left to others: what a search must do (test_end_to_end), what a crash must not do (test_killed).
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from agency_node.demo.federation import BOARD, CAST, COUNSEL, DETECTIVE, EASTFIELD, HOLDERS, LAKESIDE, NORTHPORT, Cast, Federation
from agency_node.demo.gallery import Portrait, degraded, portraits, synthetic_units, threshold_of, write_portrait, write_synthetic
from agency_node.demo.story import ASSAULT
from agency_node.faces.embedder import Embedder, Face, load_embedder, the_one_face
from agency_node.faces.image import Pixels, read_image
from agency_node.holder.enrol import enrol_embeddings, enrol_folder
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.legal.review import grant_draft
from agency_node.link import BrokerLink
from agency_node.node import Node
from agency_node.overview import SearchStatus, journal_of, search_status
from agency_node.policy.engine import PolicyEngine, load_packs
from agency_node.requester.drafting import SearchRequest, draft_search
from agency_node.requester.leads import Lead, list_leads
from agency_node.transport import Transport
from agency_node.verification import LogReport, verify_log
from crypto.canonical import AgencyId, SearchId
from crypto.embedding import F32, EmbeddingModel
from crypto.entries import EntryKind, LogEntry, entry_subject
from crypto.grant_basis import BasisKind, CourtOrder, Event, Offence, ProbeSource, Purpose
from crypto.message_types import MessageType
from crypto.messages import Message

T = TypeVar("T")
RECORDS: Final = 1500
RATE: Final = 1000
SEED: Final = 4
ENDED: Final = ("released", "closed", "refused", "expired")
PATIENCE_S: Final = 90.0
"""For a machine that does other things too; nothing is measured with it."""
LEASE_S: Final = 4
"""A message that a dead node had taken is handed out again after this; the broker's own default is a minute."""

OWN_CAST: Final = {**CAST, NORTHPORT: replace(CAST[NORTHPORT], roles=(*CAST[NORTHPORT].roles, "holder"))}
"""The demonstration's cast, with a gallery at the requester's."""


_OF_A_SEARCH: Final = (
    EntryKind.GRANT,
    EntryKind.ANSWER,
    EntryKind.OPENED_SCORES,
    EntryKind.RELEASE,
    EntryKind.DISCLOSURE,
    EntryKind.REFUSAL,
)


@dataclass(frozen=True)
class Shown:
    """One lead as its holder knows it: the test may look into every store."""

    rank: int
    agency: AgencyId
    record_number: str


class Remembering:
    """An embedder that computes each picture once."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner
        self._known: dict[bytes, list[Face]] = {}

    @property
    def model(self) -> EmbeddingModel:
        return self._inner.model

    def faces(self, pixels: Pixels) -> list[Face]:
        name = hashlib.sha256(pixels.tobytes()).digest()
        if name not in self._known:
            self._known[name] = self._inner.faces(pixels)
        return self._known[name]


@dataclass
class World:
    """A running federation, and everything about it that only a test may know."""

    federation: Federation
    embedder: Embedder
    pictures: dict[str, Portrait]
    stills: dict[str, bytes] = field(repr=False)
    planted: dict[str, dict[AgencyId, dict[str, float]]] = field(default_factory=dict, repr=False)
    """By still, holder and record number: the cosine."""
    seconds: dict[str, float] = field(default_factory=dict)
    _nodes: dict[AgencyId, Node] = field(default_factory=dict, repr=False)
    _readers: dict[AgencyId, sqlite3.Connection] = field(default_factory=dict, repr=False)
    _cases: int = 0

    # --- making -------------------------------------------------------------------------------------------------------

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long a phase took; for people, never asserted."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)

    def set_up(self) -> None:
        """Start everybody, enrol, wait until all are ready."""
        with (self.federation.folder / "broker" / "broker.toml").open("a", encoding="utf-8") as file:
            file.write(f"\n[limits]\nlease_s = {LEASE_S}\n")
        with self.timed("start"):
            self.federation.start_broker()
            self.federation.start(BOARD, wait=False)
        with self.timed("enrol"):
            for share, (holder, portrait) in enumerate(self._homes().items()):
                self._enrol(holder, portrait, share)
                self.federation.start(holder, wait=False)
        with self.timed("ready"):
            self.federation.wait_ready(*CAST)
        for node in self._nodes.values():  # what was opened before the roster came has none
            node.engine.dispose()
        self._nodes.clear()

    def _homes(self) -> dict[AgencyId, Portrait]:
        own = replace(self.pictures["hopper"], record_number="N-2024-000001")
        return {EASTFIELD: self.pictures["astronaut"], LAKESIDE: self.pictures["hopper"], NORTHPORT: own}

    def _enrol(self, holder: AgencyId, portrait: Portrait, share: int) -> None:
        node, folder, model = self.node(holder), self.federation.folder / f"{holder}.enrol", self.embedder.model
        store, now = RecordStore(node.engine, node.vault, model), datetime.now(UTC)
        threshold = threshold_of(model, len(HOLDERS), RATE, RECORDS)
        if holder == NORTHPORT:
            threshold = 0.0  # nobody of the own gallery is near anybody, but for the portrait
        units = synthetic_units(model, self._embedding(self.stills["astronaut"]), SEED, share, threshold, RECORDS)
        table = _described(write_portrait(folder, portrait), holder)
        prefix = f"{holder[0].upper()}-S"
        write_synthetic(folder / "synthetic.npz", units, prefix)
        assert enrol_embeddings(store, folder / "synthetic.npz", NoProgress(), now).enrolled == RECORDS
        assert enrol_folder(store, self.embedder, folder, table, NoProgress(), now, allow_demonstration=True).enrolled == 1
        for name, still in self.stills.items():
            towards = model.centred_unit(self._embedding(still))
            cosines = {f"{prefix}-{row + 1:06d}": float(cosine) for row, cosine in enumerate(units @ towards)}
            cosines[portrait.record_number] = float(model.centred_unit(self._embedding(portrait.jpeg)) @ towards)
            self.planted.setdefault(name, {})[holder] = cosines

    def _embedding(self, jpeg: bytes) -> F32:
        return the_one_face(self.embedder, read_image(jpeg)).embedding

    def close(self) -> None:
        """End everything, close every store."""
        self.federation.close()
        for reader in self._readers.values():
            reader.close()
        for node in self._nodes.values():
            asyncio.run(node.transport.close())
            node.engine.dispose()

    # --- looking ------------------------------------------------------------------------------------------------------

    def node(self, agency: AgencyId) -> Node:
        """That agency's node, as its commands open it."""
        if agency not in self._nodes:
            self._nodes[agency] = self.federation.node(agency)
        return self._nodes[agency]

    def ask(self, agency: AgencyId, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read from a party's store beside its process, without taking any lock that it waits for."""
        if agency not in self._readers:
            path = self.federation.folder / agency / "node.sqlite"
            self._readers[agency] = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        with closing(self._readers[agency].execute(sql, values)) as cursor:
            return cursor.fetchall()

    def journal(self, agency: AgencyId, search_id: SearchId) -> list[str]:
        """What that node says it did about a search: `event detail`."""
        return [f"{line['event']} {line['detail']}".strip() for line in journal_of(self.node(agency).engine, search_id)]

    def until(self, come: Callable[[], object], what: str, *, seconds: float = PATIENCE_S, every: float = 0.05) -> None:
        """Wait; a process that ends by itself meanwhile is an error."""
        end = time.monotonic() + seconds
        while not come():
            assert time.monotonic() < end, f"{what} has not come within {seconds:.0f} s"
            self.federation.check_alive()
            time.sleep(every)

    # --- searching ----------------------------------------------------------------------------------------------------

    def search(
        self,
        *,
        still: str = "astronaut",
        offence: Offence = ASSAULT,
        holders: Sequence[AgencyId] = HOLDERS,
        cap: int = 20,
        rate: int = RATE,
        answer_within_s: float = PATIENCE_S,
        packs: Sequence[PolicyEngine] | None = None,
    ) -> SearchId:
        """Draft a search as the detective and grant it as counsel, by the requester's own `packs`; the serving node takes it from there."""
        node, now = self.node(NORTHPORT), datetime.now(UTC)
        self._cases += 1
        today = now.date()
        order = CourtOrder(
            BasisKind.WARRANT,
            "Circuit Court, Northport County",
            f"26-CF-{self._cases}",
            today - timedelta(days=3),
            today + timedelta(days=11),
            hashlib.sha256(b"the order's file").digest(),
        )
        request = SearchRequest(
            case_number=f"26-{self._cases:05d}",
            still=self.stills[still],
            offence=offence,
            basis=order,
            purpose=Purpose.CRIMINAL_INVESTIGATION,
            event=Event.NONE,
            probe_source=ProbeSource.RECORDED_VIDEO_STILL,
            reviewer=COUNSEL,
            holders=list(holders),
            custodians=[BOARD],
            combiner=BOARD,
            cap=cap,
            false_positives_per_million=rate,
            answer_within=timedelta(seconds=answer_within_s),
            valid_for=timedelta(days=1),
            policy_packs=[pack.sha256 for pack in load_packs(())],
        )
        detective, counsel = self.federation.person(DETECTIVE), self.federation.person(COUNSEL)
        discovery = node.parties.roster().discovery_key(NORTHPORT)
        search_id = draft_search(node.engine, node.vault, self.embedder, NORTHPORT, discovery, request, detective, now)
        trusted, now = node.parties.trusted, datetime.now(UTC)
        grant_draft(node.engine, node.vault, self.embedder, trusted, search_id, counsel, now, packs=packs)
        return search_id

    def state(self, search_id: SearchId) -> str:
        """The search's state at the requester."""
        return str(self.ask(NORTHPORT, "SELECT state FROM searches WHERE search_id = ?", search_id)[0][0])

    def status(self, search_id: SearchId) -> SearchStatus:
        """The search as `node status` shows it."""
        with self.node(NORTHPORT).engine.begin() as connection:
            return search_status(connection, search_id)

    def wait_ended(self, search_id: SearchId, seconds: float = PATIENCE_S) -> SearchStatus:
        """Wait until a search has ended one way or another, and every lead has its stub."""
        self.until(lambda: self.state(search_id) in ENDED, f"the end of search {search_id}", seconds=seconds)
        if self.state(search_id) == "released":
            self.until(lambda: all(one.agency for one in self.leads(search_id)), "every lead's stub")
        return self.status(search_id)

    def leads(self, search_id: SearchId) -> list[Lead]:
        """What the investigator sees."""
        node = self.node(NORTHPORT)
        return list_leads(node.engine, node.vault, search_id)

    def shown(self, search_id: SearchId) -> list[Shown]:
        """The leads by the record numbers that their holders keep to themselves; a filler that came to be a lead is left out."""
        found = []
        for lead in self.leads(search_id):
            assert lead.agency is not None
            if not lead.handle:
                continue
            holder = self.node(lead.agency)
            ((row,),) = self.ask(lead.agency, "SELECT row FROM stubs WHERE handle = ? AND search_id = ?", lead.handle, search_id)
            record = RecordStore(holder.engine, holder.vault, self.embedder.model).record(row)
            found.append(Shown(lead.rank, lead.agency, record.record_number))
        return found

    def threshold(self, holders: int, rate: int = RATE) -> float:
        """What the custodian must come to when that many of the holders answer: every gallery's slots are counted."""
        return threshold_of(self.embedder.model, holders, rate, RECORDS)

    # --- the log and the wire -------------------------------------------------------------------------------------------

    def verify_log(self) -> LogReport:
        """Everybody's check of the whole log."""
        return asyncio.run(self._with_link(lambda link, node: verify_log(link, node.parties.roster(), datetime.now(UTC))))

    def entries(self, search_id: SearchId) -> Counter[tuple[EntryKind, str]]:
        """How many entries of the log are about a search, by kind and author (empty where the subject has none)."""
        ((digest,),) = self.ask(NORTHPORT, "SELECT grant_digest FROM searches WHERE search_id = ?", search_id)
        names = {entry_subject(kind, digest, author): (kind, author or "") for kind in _OF_A_SEARCH for author in (None, *OWN_CAST)}
        found: Counter[tuple[EntryKind, str]] = Counter()
        for leaf in asyncio.run(self._with_link(lambda link, _: _all_leaves(link))):
            entry = LogEntry.from_bytes(leaf)
            if entry.subject in names:
                found[names[entry.subject]] += 1
        return found

    async def _with_link(self, use: Callable[[BrokerLink, Node], Awaitable[T]]) -> T:
        node = self.node(NORTHPORT)
        transport = Transport(node.config.broker, node.agency, node.keyring.node_key, node.clock)
        try:
            return await use(BrokerLink(transport), node)
        finally:
            await transport.close()

    def messages(self, sender: AgencyId, kind: MessageType, search_id: SearchId) -> list[Message]:
        """Different messages of a search that a party handed to the broker, whole, from the bytes on the wire."""
        sent = self.federation.wiretap.recordings[sender].sent()
        return [one for one in sent if one.header.message_type == kind and one.header.search_id == search_id]


def whom(holder: AgencyId) -> dict[str, str]:
    """Whom the portrait of a gallery shows, by the words of its table: values that stand nowhere else."""
    return {"person": f"{holder}-person-2718281828", "sex": f"sex-{holder[:11]}", "race": f"race-{holder[:10]}", "birth_year": "1931"}


def _described(table: Path, holder: AgencyId) -> Path:
    """The table with these columns too."""
    header, row = table.read_text(encoding="utf-8").split()
    said = whom(holder)
    table.write_text(f"{','.join([header, *said])}\n{','.join([row, *said.values()])}\n", encoding="utf-8")
    return table


async def _all_leaves(link: BrokerLink) -> list[bytes]:
    found: list[bytes] = []
    while True:
        size, leaves = await link.leaves(len(found))
        found += leaves
        if len(found) >= size or not leaves:
            return found


@contextmanager
def small_federation(folder: Path) -> Iterator[World]:
    """The federation, made, enrolled and ready; ended with the context."""
    started = time.perf_counter()
    pictures = portraits()
    cast: dict[AgencyId, Cast] = OWN_CAST
    federation = Federation.create(folder, datetime.now(UTC), cast)
    stills = {name: degraded(one.jpeg) for name, one in pictures.items()}
    world = World(federation, Remembering(load_embedder("dlib")), pictures, stills)
    world.seconds["set-up"] = round(time.perf_counter() - started, 2)
    try:
        world.set_up()
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One federation for a module's tests."""
    with small_federation(tmp_path_factory.mktemp("federation")) as made:
        yield made


@pytest.fixture
def world(running: World) -> World:
    """The module's federation with every process up, also after a test that failed half-way."""
    if "broker" not in running.federation.processes:
        running.federation.start_broker()
    running.federation.start(*(agency for agency in CAST if agency not in running.federation.processes))
    return running
