"""The holder's side of `sealmatch bench holder`: a process of its own, so that what it holds in memory is its own.

    python -m agency_node.bench.holder_process start DIR    from disk to ready as a node does it: `GalleryIndex.prepare`, then it ends
    python -m agency_node.bench.holder_process serve DIR    the same step by step, then what a holder does while it serves

The plan comes as JSON on standard input; each finding goes as one JSON object on a line to standard output, and ends with `done`.
Invariants: templates come sealed from the node's own store; every kind of answer that is timed has been opened and released once, and its
first lead was the record sought; the new layout is built beside the old one as a holder renews it (`holder.renewal`), records come and go
as in a holder (`holder.packed`). Everything that touches the packed gallery is in `ServedGallery`. Nobody dials out: the manifest goes to
`_NoBroker`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from agency_node.bench.checking import first_lead
from agency_node.bench.errors import WrongResultError
from agency_node.bench.machine import Resident
from agency_node.bench.synthetic import SyntheticRecords
from agency_node.bench.timing import Timing, alternate, timed
from agency_node.faces.synthetic_embedder import synthetic_model
from agency_node.holder.expunging import Enter, ExpungeReason
from agency_node.holder.index import GalleryIndex
from agency_node.holder.packed import Packed
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.holder.renewal import Renewal
from agency_node.node import Node, open_node
from agency_node.outbox import Outbox
from agency_node.warming import warm
from crypto.answer import Answer, AnswerRequest, answer
from crypto.codes import Codes
from crypto.embedding import EmbeddingModel
from crypto.epoch import Epoch
from crypto.gallery import PackedGallery
from crypto.layout import Layout
from crypto.prepared import AnswerSecrets
from crypto.probe import SearchKey, make_probe

WAITING: Final = 8
"""Searches that wait together."""
CAPTURED: Final = date(2018, 6, 1)
SOURCE_CLASS: Final = "booking"
PAUSE_S_PER_MILLION: Final = 0.2
"""Before each search beside a renewal, by a million records: half a second at 2.5 million."""
LEAST_RENEWALS: Final = 3
"""One after the other, as in a holder that serves. The first of a process takes memory that a virtual machine may never have touched, which
its host finds page by page: seconds for each GiB, once, and no work of ours."""
_MOST_RENEWALS: Final = 40
"""In a gallery so small that a renewal ends before a search does, no more are made to time searches beside."""
_GRANT_DIGEST: Final = bytes(32)


class _NoBroker:
    """Takes what a holder publishes, and shows it to nobody."""

    async def put_manifest(self, document: bytes) -> None:
        """A manifest."""

    async def put_sealing_key(self, document: bytes) -> None:
        """A key."""


class ServedGallery:
    """The packed gallery as a holder serves it: built, searched, changed, renewed."""

    def __init__(
        self, records: RecordStore, enter: Enter, epoch: Epoch, threads: int, step: Callable[[str, Callable[[], Any]], Any]
    ) -> None:
        """From the store to a packed gallery, `step` by step: what `Packed.build` does."""
        self._records = records
        self._enter = enter
        self._epoch = epoch
        self._threads = threads
        state = step("records read", records.state)
        layout = step("layout drawn", lambda: Layout.draw(state.live, records.model.scales))
        templates = step("templates decrypted", lambda: records.templates(state))
        made = step("templates packed", lambda: PackedGallery.pack(records.model, layout, templates, threads=threads))
        templates.fill(0)
        step("part of the month computed", lambda: made.fixed_part(epoch))
        self.packed = Packed(made, state, records)
        self.renewal = Renewal(lambda check, count: Packed.build(records, epoch, threads=count, check=check))

    @property
    def gallery(self) -> PackedGallery:
        """What is searched."""
        return self.packed.gallery

    def answer(self, requests: list[AnswerRequest]) -> list[tuple[Answer, AnswerSecrets]]:
        """Answers of one pass."""
        return answer(self.gallery, requests, threads=self._threads)

    def add(self, number: str, template: Codes) -> int:
        """A new record, stored and searchable; its row."""
        (row,) = self._records.add([NewRecord(number, CAPTURED, SOURCE_CLASS, template)], datetime.now(UTC))
        self._follow()
        return row

    def expunge(self, number: str) -> None:
        """A record gone from the store and from every search."""
        self._records.expunge(number, ExpungeReason.COURT_ORDER, datetime.now(UTC), self._enter)
        self._follow()

    def _follow(self) -> None:
        if not self.packed.follow():
            raise WrongResultError("the layout has no room for one record more: please report this as a bug")


class _Holder:
    def __init__(self, folder: Path, plan: dict[str, int]) -> None:
        self.plan = plan
        self.model: EmbeddingModel = synthetic_model(plan["dimensions"])
        self.source = SyntheticRecords(plan["records"], plan["dimensions"], plan["seed"])
        self.epoch = Epoch.at(datetime.now(UTC))
        started = time.perf_counter()
        self.node: Node = open_node(folder, lambda: datetime.now(UTC))
        self.steps = [("store opened", time.perf_counter() - started)]
        self.step("kernels warm", lambda: warm(self.model, self.epoch))

    def step(self, name: str, action: Callable[[], Any]) -> Any:  # noqa: ANN401 -- whatever the step makes
        started = time.perf_counter()
        made = action()
        self.steps.append((name, time.perf_counter() - started))
        return made

    def request(self, row: int) -> tuple[AnswerRequest, SearchKey]:
        probe, key = make_probe(self.model, self.model.probe_vector(self.source.embedding_like(row)), self.epoch)
        return AnswerRequest(probe, _GRANT_DIGEST), key

    # --- start ---

    def start(self) -> None:
        """From disk to ready, as a node does it."""
        node = self.node
        index = GalleryIndex(node.config, node.engine, node.vault, node.keyring, self.model, node.clock)
        self.step("gallery packed, manifest made", lambda: asyncio.run(index.prepare(_NoBroker())))
        if index.manifest is None or index.manifest.records != self.plan["records"]:
            raise WrongResultError("the manifest does not state the records: please report this as a bug")
        gc.collect()
        tell("started", steps=self.steps, resident=asdict(Resident.here()))

    # --- serve ---

    def serve(self) -> None:
        """The same step by step, then what a holder does while it serves."""
        node = self.node
        store = RecordStore(node.engine, node.vault, self.model)
        outbox = Outbox(node.agency, node.keyring.node_key, node.vault, node.clock, lambda: None)
        served = ServedGallery(store, outbox.expunction, self.epoch, self.plan["threads"], self.step)
        gc.collect()
        tell("packed", steps=self.steps, resident=asdict(Resident.here()), packed_bytes=served.gallery.words.nbytes)
        self.waiting(served)
        self.renewing(served)
        self.changing(served)

    def waiting(self, served: ServedGallery) -> None:
        """One search alone against eight that wait together, in turn."""
        asked = [self.request(row) for row in self.source.sought_rows(WAITING)]
        requests = [request for request, _ in asked]
        for row, (request, key), (made, kept) in zip(self.source.sought_rows(WAITING), asked, served.answer(requests), strict=True):
            self.check(served, request, key, made, kept, row)
        turns = [("alone", lambda: served.answer(requests[:1])), ("together", lambda: served.answer(requests))]
        times = alternate(turns, self.plan["runs"], lambda: None)
        tell("waiting", alone=times["alone"].as_json(), together=times["together"].as_json(), searches=WAITING)

    def check(self, served: ServedGallery, request: AnswerRequest, key: SearchKey, made: Answer, kept: AnswerSecrets, row: int) -> None:
        if first_lead(served.gallery, request, key, made, kept, served.gallery.layout.rows) != row:
            raise WrongResultError("a holder's answer does not release the record that was sought: please report this as a bug")

    def renewing(self, served: ServedGallery) -> None:
        """Searches of the old layout while a new one is built beside it, and so on with that one, until there were `LEAST_RENEWALS` and as
        many searches beside them as runs; against searches alone, some before, between and after. All come with pauses: a layout has
        `index.RENEWED_AT` of them left when its renewal begins."""
        (row,) = self.source.sought_rows(1)
        request, key = self.request(row)

        def after_a_pause() -> float:
            time.sleep(PAUSE_S_PER_MILLION * self.plan["records"] / 1e6)
            return timed(lambda: served.answer([request]))

        alone = [after_a_pause() for _ in range(self.plan["runs"])]
        meanwhile: list[float] = []
        took: list[float] = []
        before = Resident.here()
        Resident.forget_peak()
        while len(took) < LEAST_RENEWALS or (len(meanwhile) < self.plan["runs"] and len(took) < _MOST_RENEWALS):
            started = time.perf_counter()
            served.renewal.begin(at_once=False)
            while True:
                seconds = after_a_pause()
                built = served.renewal.take()
                if built is not None:
                    break  # the build ended inside this search: it is neither beside one nor alone
                meanwhile.append(seconds)
            took.append(time.perf_counter() - started)
            served.packed = built
            built = None  # one name for the layout, or two are held beside the next one
            gc.collect()
            ((made, kept),) = served.answer([request])
            self.check(served, request, key, made, kept, row)
            alone += [after_a_pause() for _ in range(-(-self.plan["runs"] // LEAST_RENEWALS))]
        peak = Resident.here().peak
        beside = Timing(tuple(meanwhile)) if meanwhile else None
        tell(
            "renewed",
            renewal={**Timing(tuple(took)).as_json(), "each_s": took},
            meanwhile=beside and beside.as_json(),
            slowdown=beside and beside.median / Timing(tuple(alone)).median,
            before=asdict(before),
            peak=peak,
            after=asdict(Resident.here()),
        )

    def changing(self, served: ServedGallery) -> None:
        """One record added and expunged again, as often as there are runs; found in between, and found no more after the last."""
        extra = SyntheticRecords(self.plan["records"] + self.plan["runs"], self.plan["dimensions"], self.plan["seed"])
        adding: list[float] = []
        expunging: list[float] = []
        for number in range(self.plan["runs"]):
            place = self.plan["records"] + number
            template = self.model.templates(extra.vectors(place, place + 1))[0]
            started = time.perf_counter()
            row = served.add(f"added-{number}", template)
            adding.append(time.perf_counter() - started)
            probe, key = make_probe(self.model, self.model.probe_vector(extra.embedding_like(place)), self.epoch)
            request = AnswerRequest(probe, _GRANT_DIGEST)
            ((made, kept),) = served.answer([request])
            self.check(served, request, key, made, kept, row)
            expunging.append(timed(lambda number=number: served.expunge(f"added-{number}")))  # type: ignore[misc] # the loop's number, bound now
            ((made, kept),) = served.answer([request])
            if first_lead(served.gallery, request, key, made, kept, served.gallery.layout.rows) == row:
                raise WrongResultError("an expunged record is still released: please report this as a bug")
        tell("changed", adding=Timing(tuple(adding)).as_json(), expunging=Timing(tuple(expunging)).as_json())


def tell(what: str, **figures: object) -> None:
    """One finding for whoever started this process."""
    sys.stdout.write(json.dumps({"what": what, **figures}) + "\n")
    sys.stdout.flush()


def main(action: str, folder: str) -> None:
    """Run one of the two."""
    tell("running")
    holder = _Holder(Path(folder), json.loads(sys.stdin.readline()))
    try:
        (holder.start if action == "start" else holder.serve)()
    except WrongResultError as error:
        tell("wrong", sentence=str(error))
        sys.exit(1)
    tell("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
