"""One packed gallery under one secret layout, and the records that it has followed so far.

Invariants: the decrypted templates exist while a gallery is packed and are wiped before anything is answered; a record that was expunged
or became unsearchable is replaced by a filler before the next scan; one that was added, or that searches find again, stands in the layout
or waits for the next one. A state of the layout that
answered something is kept sealed, with its rows as they were then, so that a release finds the record that was scanned and an auditor can
rebuild the gallery.

Left to others: when a layout is renewed (`index`, `renewal`), the arithmetic of a change (`crypto.gallery`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Final

import numpy as np
from sqlalchemy import Engine, insert, select

from agency_node.gallery_tables import layouts
from agency_node.holder.blocks import OtherModelError
from agency_node.holder.records import GalleryState, RecordStore
from agency_node.journal import stamp
from agency_node.store import reading
from agency_node.vault import Vault
from crypto.epoch import Epoch
from crypto.errors import LayoutSpentError
from crypto.gallery import PackedGallery
from crypto.layout import FILLER, Layout
from crypto.ring import I64
from crypto.seed import SEED_BYTES

LAYOUT: Final = "layout"
MANY: Final = 256
"""Records that are put into a layout one by one, some milliseconds each; when more came, a new layout takes them all."""
_ID_BYTES: Final = 16


class Packed:
    """A gallery and what it holds of the records that searches find. Not for several threads at once: `index` lets one at it at a time."""

    def __init__(self, gallery: PackedGallery, state: GalleryState, records: RecordStore) -> None:
        self.gallery = gallery
        self.records = records
        """The store under the model that this gallery is of."""
        self.layout_id = _fresh_id()
        self.changes = state.changes
        """The store's counter at which all records were followed."""
        self._total = state.total
        self._out = set(state.out)
        """Of the rows below `_total`, and of some above: those that stand in no slot."""
        self._kept_whole = ""
        self._since: list[tuple[int, int]] = []

    @classmethod
    def build(
        cls, records: RecordStore, epoch: Epoch, *, at_least: int = 1, threads: int | None = None, check: Callable[[], None] = lambda: None
    ) -> Packed:
        """Draw a layout of what is enrolled now, of at least so many chunks, and pack it.

        `check` is called every few milliseconds; what it raises ends the work.
        """
        state = records.state()
        layout = Layout.draw(state.live, records.model.scales, at_least=at_least)
        check()
        templates = records.templates(state, check)
        try:
            gallery = PackedGallery.pack(records.model, layout, templates, threads=threads, each_chunk=check)
        finally:
            templates.fill(0)
        gallery.fixed_part(epoch, threads=threads)
        return cls(gallery, state, records)

    @property
    def live(self) -> int:
        """Records in the layout."""
        return int(np.count_nonzero(self.gallery.layout.rows != FILLER))

    def follow(self) -> bool:
        """Take out what searches find no more, put in what was added or is found again; False when some of that needs a new layout.

        False too once the store is of another model: this gallery takes in nothing more, and serves until the next is packed.
        """
        records = self.records
        if records.changes() == self.changes:
            return True
        state = records.state()
        for row in sorted(state.out - self._out):
            if row < self._total:
                self._put(self.gallery.remove(row), FILLER)
            self._out.add(row)
        back = sorted(row for row in self._out - state.out if row < self._total)
        if state.model not in {None, records.model.model_hash} or state.total - self._total + len(back) > MANY:
            return False
        for row in back:
            if not self._add(row):
                return False
        while self._total < state.total:
            if not self._add(self._total):
                return False
            self._total += 1
        self.changes = state.changes
        return True

    def keep(self, engine: Engine, vault: Vault, now: datetime) -> None:
        """Store this state of the layout, sealed: whole the first time, then as changes of what was stored whole."""
        layout = self.gallery.layout
        if self._kept_whole and not self._since:
            return
        if self._kept_whole:
            plain = bytes(1) + bytes.fromhex(self._kept_whole) + np.array(self._since, "<i8").tobytes()
        else:
            plain = layout.seed.export_secret() + layout.rows.astype("<i8").tobytes()
            self._kept_whole = self.layout_id
            self._since.clear()
        sealed = vault.seal(LAYOUT, plain, self.layout_id.encode("ascii"))
        values = {"layout_id": self.layout_id, "sealed_layout": sealed, "created_at": stamp(now)}
        with engine.begin() as connection:
            connection.execute(insert(layouts).prefix_with("OR IGNORE").values(**values))

    def _add(self, row: int) -> bool:
        """Put a record in; False when the layout has no room, or the gallery was re-embedded since. One that searches do not find stands in
        no slot: it was never packed."""
        try:
            template = self.records.template(row)
        except OtherModelError:
            return False
        if template is None:
            self._out.add(row)
            return True
        try:
            self._put(self.gallery.add(row, template), row)
        except LayoutSpentError:
            return False
        finally:
            template.fill(0)
        self._out.discard(row)
        return True

    def _put(self, slot: int, row: int) -> None:
        self._since.append((slot, row))
        self.layout_id = _fresh_id()

    def __repr__(self) -> str:
        return f"Packed(chunks={self.gallery.layout.chunks}, rows=<redacted>)"


def rows_of(engine: Engine, vault: Vault, layout_id: str) -> I64:
    """The rows of a layout as they were when it answered; int64[slots]."""
    with reading(engine).begin() as connection:
        sealed = connection.execute(select(layouts.c.sealed_layout).where(layouts.c.layout_id == layout_id)).scalar_one()
    plain = vault.open(LAYOUT, sealed, layout_id.encode("ascii"))
    if len(plain) % 2 == 0:  # a whole layout: seed and rows, an even number of bytes
        return np.frombuffer(plain, "<i8", offset=SEED_BYTES).astype(np.int64)
    rows = rows_of(engine, vault, plain[1 : 1 + _ID_BYTES].hex())
    for slot, row in np.frombuffer(plain, "<i8", offset=1 + _ID_BYTES).reshape(-1, 2):
        rows[slot] = row
    return rows


def _fresh_id() -> str:
    return secrets.token_hex(_ID_BYTES)
