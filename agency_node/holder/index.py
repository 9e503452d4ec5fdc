"""The searchable form of a holder's gallery: packed in memory under a secret layout that is renewed in the background, and its manifest.

Templates lie sealed at rest (`records`); the packed form exists in this process only and is built at start-up. Invariants: a layout
serves at most `LAYOUT_USES` searches and never two of one case, also across restarts, because every start draws a new layout; one thread
at a time scans or changes the gallery, so that a new layout and changed records come in between two scans; before each scan the gallery
has followed what other processes enrolled and expunged; the manifest says what is really packed; after a re-embedding the gallery of the
old model serves until that of the new one is packed, and from then on no search of the old one is answered.

Left to others: which searches may be answered, and when (`answering`); packing and following (`packed`); building aside (`renewal`);
preparing answers before their probes come (`ahead`).
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from sqlalchemy import Engine

from agency_node.config import NodeConfig
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.holder.ahead import Ahead
from agency_node.holder.blocks import pinned_model
from agency_node.holder.packed import Packed, rows_of
from agency_node.holder.records import RecordStore
from agency_node.holder.renewal import Renewal
from agency_node.journal import NO_SEARCH
from agency_node.journal import record as record_event
from agency_node.keyring import Keyring
from agency_node.link import PublishLink
from agency_node.vault import Vault
from crypto.answer import Answer, AnswerRequest, answer
from crypto.embedding import EmbeddingModel
from crypto.epoch import Epoch
from crypto.errors import LayoutSpentError, ModelError
from crypto.manifest import GalleryManifest
from crypto.moments import round_moment
from crypto.prepared import AnswerSecrets, AnswerTerms, answer_order
from crypto.ring import I64, U32
from crypto.seed import Seed

RENEWED_AT: Final = 4
"""A new layout is begun when the present one may serve so many more: they bridge the time until it is ready."""
ORDERS_KEPT: Final = 2
"""Of the answers that were made last: 4 bytes a slot each, 10 MB at 2.5 million records. Their releases are what comes next."""
_MANIFEST: Final = "manifest"


@dataclass(frozen=True)
class Asked:
    """A probe that may be answered, and the commitment to its case."""

    request: AnswerRequest
    case: bytes = field(repr=False)


@dataclass(frozen=True)
class Given:
    """An answer, its secrets, and the state of the layout that answered (`GalleryIndex.rows_of`)."""

    made: Answer
    kept: AnswerSecrets
    layout_id: str


class GalleryIndex:
    """One holder's packed gallery and its manifest."""

    def __init__(
        self,
        config: NodeConfig,
        engine: Engine,
        vault: Vault,
        keyring: Keyring,
        model: EmbeddingModel,
        clock: Callable[[], datetime],
        newest_model: Callable[[], EmbeddingModel] | None = None,
    ) -> None:
        """`newest_model` is asked for the model when the store's templates are of another one than before: the gallery was re-embedded."""
        self._config = config
        self._engine = engine
        self._vault = vault
        self._keyring = keyring
        self._clock = clock
        self._packed: Packed | None = None
        self._last_rows: tuple[str, I64] = ("", np.empty(0, np.int64))
        self._orders: dict[bytes, U32] = {}
        self._alone = threading.Lock()
        self._renewal = Renewal(self._build)
        self.ahead = Ahead()
        self._last_death = ""
        self._stated_changes = -1
        self._newest_model = newest_model or (lambda: model)
        self.records = RecordStore(engine, vault, model)
        self.manifest: GalleryManifest | None = None

    async def prepare(self, link: PublishLink) -> None:
        """Pack what is enrolled if nothing is packed, follow what changed since, and publish the manifest that says so.

        Does not wait for a scan that runs: the next scan follows by itself, and the next call states it.
        """
        if self._packed is None and not self.records.changes():
            return
        if self._is_behind() and not self._alone.locked():
            await asyncio.to_thread(self._catch_up)
        packed = self._packed
        if packed is None or packed.changes != self.records.changes():
            return
        stated = self.manifest
        if (
            stated is None
            or (self._stated_changes, stated.chunks) != (packed.changes, packed.gallery.layout.chunks)
            or stated.model_hash != packed.gallery.model.model_hash
            or stated.valid_until - self._clock() < timedelta(days=1)
        ):
            changes = packed.changes
            manifest = await asyncio.to_thread(self._new_manifest, packed)
            if manifest is not None:
                await link.put_manifest(manifest.sign(self._keyring.node_key))
                self.manifest, self._stated_changes = manifest, changes

    def check_model(self, model_hash: bytes) -> None:
        """Raise `ModelError` for a search under another model than the one that is searched here now."""
        packed = self._packed
        if packed is not None and packed.gallery.model.model_hash != model_hash:
            raise ModelError("this gallery was re-embedded with another face model after the grant: ask for a grant that names the new one")

    def follow_model(self) -> RecordStore:
        """The store under the model that its templates are of now, which may be loaded for it: takes seconds after a re-embedding."""
        with self._engine.begin() as connection:
            pinned = pinned_model(connection)
        if pinned not in {None, self.records.model.model_hash}:
            self.records = RecordStore(self._engine, self._vault, self._newest_model())
        return self.records

    def expect(self, terms: AnswerTerms, until: datetime) -> None:
        """Prepare the answer to a probe that is on its way and may come until then (`Ahead`).

        Returns at once; does nothing while a pass or a change of the gallery is under way.
        """
        if not self._alone.acquire(blocking=False):
            return
        try:
            gallery = None if self._packed is None else self._packed.gallery
            if gallery is not None and gallery.layout.uses_left and gallery.has_fixed_part(terms.epoch):
                self.ahead.begin(gallery, terms, until)
        finally:
            self._alone.release()

    def answer(self, asked: Sequence[Asked]) -> list[Given | None]:
        """Answer in one pass over the gallery what the present layout may answer, of one epoch; None for each that must wait.

        What the layout may not answer, because it has served its searches or that case, waits for the next one, which is being built then.
        Runs in a worker's thread; the order of the results is that of `asked`.
        """
        with self._alone:
            packed = self._settled()
            stated, model_hash = self.manifest, packed.gallery.model.model_hash
            if stated is None or (stated.chunks, stated.model_hash) != (packed.gallery.layout.chunks, model_hash):
                return [None] * len(asked)  # a custodian refuses an answer of another size than the manifest's: it goes out first
            chosen: list[int] = []
            turned_away = False
            for place, one in enumerate(asked):
                if one.request.probe.model_hash != model_hash:
                    continue  # of before a re-embedding: refused when it is looked at again
                if chosen and one.request.probe.epoch != asked[chosen[0]].request.probe.epoch:
                    continue
                try:
                    packed.gallery.layout.claim(one.case)
                except LayoutSpentError:
                    turned_away = True
                else:
                    chosen.append(place)
            if turned_away or packed.gallery.layout.uses_left <= RENEWED_AT:
                self._renewal.begin(at_once=not chosen and packed.gallery.layout.uses_left == 0)
            given: list[Given | None] = [None] * len(asked)
            if chosen:
                packed.keep(self._engine, self._vault, self._clock())
                if self._last_rows[0] != packed.layout_id:
                    self._last_rows = (packed.layout_id, packed.gallery.layout.rows.copy())
                requests = [asked[place].request for place in chosen]
                answers = answer(packed.gallery, requests, prepared=lambda request: self.ahead.take(request.terms))
                for place, (made, kept) in zip(chosen, answers, strict=True):
                    given[place] = Given(made, kept, packed.layout_id)
                    self._keep_order(made.digest, kept.order)
            return given

    def rows_of(self, layout_id: str) -> I64:
        """The rows of a layout as they were when it answered; int64[slots]. Those of the state that answered last are still in memory."""
        last_id, rows = self._last_rows
        return rows if layout_id == last_id else rows_of(self._engine, self._vault, layout_id)

    def order_of(self, answer_digest: bytes, order_seed: Seed, slots: int) -> U32:
        """The order of an answer of so many slots; uint32[slots]. That of one of the last answers is still in memory, and is handed out
        once."""
        kept = self._orders.pop(answer_digest, None)
        return answer_order(order_seed, slots) if kept is None else kept

    def _keep_order(self, answer_digest: bytes, order: U32) -> None:
        self._orders[answer_digest] = order
        while len(self._orders) > ORDERS_KEPT:
            self._orders.pop(next(iter(self._orders)), None)

    def close(self) -> None:
        """End a build that is under way and drop what was prepared; the packed gallery goes with the process."""
        self._renewal.stop()
        self.ahead.stop()

    def _is_behind(self) -> bool:
        """Whether there is something to do before the next scan: cheap enough to be asked all the time."""
        return self._packed is None or self._renewal.under_way or self._packed.changes != self.records.changes()

    def _catch_up(self) -> None:
        with self._alone:
            self._settled()

    def _settled(self) -> Packed:
        """The gallery as it must be for the next scan: the newest layout, with what is enrolled now as far as it has room."""
        packed = self._packed or self._build(lambda: None, None)
        try:
            packed = self._renewal.take() or packed
        except Exception as error:  # noqa: BLE001  # whatever it died of, the present layout serves on and the next attempt begins
            self._note_death(type(error).__name__)
            self._renewal.begin(at_once=False)
        self._packed = packed
        if not packed.follow():
            self._renewal.begin(at_once=False)
        return packed

    def _build(self, check: Callable[[], None], threads: int | None) -> Packed:
        """No layout has fewer chunks than the one before: searches on their way count on the size that the manifest stated."""
        chunks = 1 if self._packed is None else self._packed.gallery.layout.chunks
        return Packed.build(self.follow_model(), Epoch.at(self._clock()), at_least=chunks, threads=threads, check=check)

    def _note_death(self, name: str) -> None:
        """Once for each kind in a row: an attempt follows another as long as it takes."""
        if name != self._last_death:
            self._last_death = name
            with self._engine.begin() as connection:
                record_event(connection, self._clock(), NO_SEARCH, "new layout died", name)

    def _new_manifest(self, packed: Packed) -> GalleryManifest | None:
        """The next version, None when the records changed meanwhile; its number is stored before it leaves."""
        now, changes = round_moment(self._clock()), packed.changes
        records, chunks, root = packed.live, packed.gallery.layout.chunks, packed.records.commitment()
        if not records or changes != self.records.changes():
            return None
        with self._engine.begin() as connection:
            stored = read_fact(connection, Fact.MANIFEST)
            last = 0 if stored is None else int(json.loads(self._vault.open(_MANIFEST, stored))["version"])
            write_fact(connection, Fact.MANIFEST, self._vault.seal(_MANIFEST, json.dumps({"version": last + 1}).encode()))
        return GalleryManifest(
            agency=self._config.agency_id,
            version=last + 1,
            model_hash=packed.gallery.model.model_hash,
            dimensions=packed.gallery.model.dimensions,
            records=records,
            chunks=chunks,
            gallery_root=root,
            trusted_custodians=tuple(sorted(map(type(self._config.agency_id), self._config.trusted_custodians))),
            valid_until=now + timedelta(days=self._config.manifest_days),
        )
