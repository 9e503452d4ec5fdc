"""The parties of `bench search`: a broker, a requester, a custodian and holders of synthetic records, each a process of its own.

The holders and the custodian are witnesses. Invariants: records go through a node's own enrolment, in batches, so that never all float32
vectors exist at once; nodes are in demo mode, the only one besides test that knows a model without a network.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from agency_node.bench.errors import WrongResultError
from agency_node.bench.link_proxy import Count, DirectConnections, Line, LinkProxy
from agency_node.bench.machine import process_peak_bytes
from agency_node.bench.moments import read_only
from agency_node.bench.progress import Steps
from agency_node.bench.search_result import SearchPlan
from agency_node.bench.synthetic import SyntheticRecords
from agency_node.demo.federation import BOARD, BROKER, CAST, COUNSEL, DETECTIVE, EASTFIELD, NORTHPORT, Cast, Federation
from agency_node.faces.embedder import Box, Face
from agency_node.faces.image import Pixels
from agency_node.faces.synthetic_embedder import synthetic_model
from agency_node.holder.enrol import enrol_directions
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.legal.review import grant_draft
from agency_node.policy.engine import load_packs
from agency_node.requester.drafting import SearchRequest, draft_search
from agency_node.store import DATABASE_FILE
from crypto.canonical import AgencyId, SearchId
from crypto.embedding import F32, EmbeddingModel
from crypto.grant_basis import BasisKind, CourtOrder, Event, Offence, ProbeSource, Purpose
from crypto.limits import DEFAULT_CAP

BATCH_ROWS: Final = 1 << 16
"""Records made and enrolled at a time: 128 MiB of float32 at 512 dimensions."""
FALSE_POSITIVES_PER_MILLION: Final = 1000
ANSWER_WITHIN: Final = timedelta(minutes=10)
_CAPTURED: Final = date(2018, 6, 1)


@dataclass(frozen=True)
class _Sought:
    """Stands for the face model: whatever the picture, its face is that of the record that is sought."""

    model: EmbeddingModel
    embedding: F32 = field(repr=False)

    def faces(self, pixels: Pixels) -> list[Face]:
        """The one face."""
        height, width = pixels.shape[:2]
        return [Face(Box(0, 0, width, height), self.embedding)]


class BenchParties:
    """Everybody of one benchmark. `enrol`, then `start`, then searches; `close` at the end."""

    def __init__(self, plan: SearchPlan, source: SyntheticRecords, folder: Path) -> None:
        self._plan, self._source = plan, source
        self._model = synthetic_model(plan.dimensions)
        self._searches = 0
        self.holders = [EASTFIELD, *(AgencyId(f"holder-{number}-pd") for number in range(2, plan.holders + 1))]
        cast = {NORTHPORT: CAST[NORTHPORT], BOARD: CAST[BOARD], **{holder: _holder(holder) for holder in self.holders}}
        names = [str(agency) for agency in cast]
        self._proxy: LinkProxy | None = None
        port = 0
        if plan.is_direct:
            direct = DirectConnections(names)
            network: DirectConnections | LinkProxy = direct
            port = direct.broker_port
        else:
            rate = None if plan.uplink_mbit is None else 1e6 * plan.uplink_mbit
            network = self._proxy = LinkProxy(dict.fromkeys(names, Line(rate, plan.delay_ms / 1000)))
        self.federation = Federation.create(
            folder, datetime.now(UTC), cast, network=network, broker_port=port, embedder=f"synthetic-{plan.dimensions}"
        )
        self.layouts: dict[AgencyId, str] = {}
        self._still = _still()

    @property
    def roles(self) -> dict[str, str]:
        """Every process by name, the broker's too."""
        return {BROKER: "broker", NORTHPORT: "requester", BOARD: "custodian", **dict.fromkeys(map(str, self.holders), "holder")}

    @property
    def databases(self) -> dict[str, list[Path]]:
        """The nodes' databases by role."""
        by_role = {"requester": [NORTHPORT], "custodian": [BOARD], "holder": self.holders}
        return {role: [self.database(agency) for agency in agencies] for role, agencies in by_role.items()}

    @property
    def broker_database(self) -> Path:
        """The broker's."""
        return self.federation.folder / "broker" / "broker.sqlite"

    def database(self, agency: AgencyId) -> Path:
        """One node's."""
        return self.federation.folder / agency / DATABASE_FILE

    # --- before the clock ---------------------------------------------------------------------------------------------

    def enrol(self, steps: Steps) -> None:
        """Every holder's records, by the node's own enrolment."""
        rows, holders = self._plan.records, self.holders
        with steps.step(f"enrolling {rows * len(holders):,} records", -(-rows // BATCH_ROWS) * len(holders)) as done:
            for number, holder in enumerate(holders):
                node = self.federation.node(holder)
                store = RecordStore(node.engine, node.vault, self._model)
                for first in range(0, rows, BATCH_ROWS):
                    last = min(first + BATCH_ROWS, rows)
                    units = np.empty((last - first, self._plan.dimensions), np.float32)
                    self._source.write(units, number * rows + first, lambda: None)
                    days = [_CAPTURED] * len(units)
                    enrol_directions(store, units, _prefix(first), days, NoProgress(), datetime.now(UTC))
                    done()
                asyncio.run(node.transport.close())
                node.engine.dispose()

    def start(self) -> None:
        """Start every process and wait until all are ready."""
        agencies = [NORTHPORT, BOARD, *self.holders]
        self.federation.start_broker()
        self.federation.start(*agencies)
        self.requester = self.federation.node(NORTHPORT)

    def granted(self, row: int) -> SearchId:
        """Draft a search for the record of that row under a case of its own, and have it reviewed: now it is a grant."""
        node, now = self.requester, datetime.now(UTC)
        self._searches += 1
        embedder = _Sought(self._model, self._source.embedding_like(row).astype(np.float32))
        order = CourtOrder(
            BasisKind.WARRANT,
            "Circuit Court, Northport County",
            "26-CF-101",
            now.date() - timedelta(days=3),
            now.date() + timedelta(days=11),
            hashlib.sha256(b"the order's file").digest(),
        )
        request = SearchRequest(
            case_number=f"NP-26-{self._searches:06d}",
            still=self._still,
            offence=Offence("Wis. Stat. 940.19(4)", "13A"),
            basis=order,
            purpose=Purpose.CRIMINAL_INVESTIGATION,
            event=Event.NONE,
            probe_source=ProbeSource.RECORDED_VIDEO_STILL,
            reviewer=COUNSEL,
            holders=self.holders,
            custodians=[BOARD],
            combiner=BOARD,
            cap=DEFAULT_CAP,
            false_positives_per_million=FALSE_POSITIVES_PER_MILLION,
            answer_within=ANSWER_WITHIN,
            valid_for=timedelta(days=1),
            policy_packs=[pack.sha256 for pack in load_packs(())],
        )
        detective, counsel = self.federation.person(DETECTIVE), self.federation.person(COUNSEL)
        discovery = node.parties.roster().discovery_key(NORTHPORT)
        search_id = draft_search(node.engine, node.vault, embedder, NORTHPORT, discovery, request, detective, now)
        grant_draft(node.engine, node.vault, embedder, node.parties.trusted, search_id, counsel, datetime.now(UTC))
        return search_id

    # --- looking ------------------------------------------------------------------------------------------------------

    def place_of(self, row: int) -> tuple[AgencyId, str]:
        """Which holder has the record of that row, under which record number."""
        number, place = divmod(row, self._plan.records)
        first = place // BATCH_ROWS * BATCH_ROWS
        return self.holders[number], f"{_prefix(first)}-{place - first + 1:06d}"

    def record_number(self, holder: AgencyId, handle: str) -> str:
        """What the holder's own store has under a handle that it gave out."""
        with closing(read_only(self.database(holder))) as connection:
            found = connection.execute("SELECT row FROM stubs WHERE handle = ?", (handle,)).fetchone()
        if found is None:
            raise WrongResultError("a lead's handle is not one that its holder gave out: please report this as a bug")
        node = self.federation.node(holder)
        try:
            return RecordStore(node.engine, node.vault, self._model).record(found[0]).record_number
        finally:
            asyncio.run(node.transport.close())
            node.engine.dispose()

    def wire_counts(self) -> dict[str, Count]:
        """All bytes on every party's line until now; empty for direct connections."""
        return {} if self._proxy is None else self._proxy.counts()

    def peak_memory_bytes(self) -> dict[str, int]:
        """The most that each process has held."""
        names = {"broker": str(BROKER)}
        return {names.get(name, name): process_peak_bytes(process.pid) for name, process in self.federation.processes.items()}

    def close(self) -> None:
        """End everything."""
        self.federation.close()


def _holder(agency: AgencyId) -> Cast:
    known = CAST[EASTFIELD]
    return known if agency == EASTFIELD else Cast(f"Police of {agency}", f"us-wi-{agency}", known.roles, {})


def _prefix(first: int) -> str:
    """The prefix of the record numbers of the batch that begins with this row."""
    return f"S{first // BATCH_ROWS:05d}"


def _still() -> bytes:
    """Any picture: the search needs one, and nobody looks at it."""
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (127, 127, 127)).save(out, "PNG")
    return out.getvalue()
