"""The searchable form of a holder's gallery: packed in memory under a secret layout, renewed when its searches are used up.

Templates lie sealed at rest (`records`); the packed form exists in this process only and is built at start-up. Invariants: a layout
serves at most `LAYOUT_USES` searches and never two of one case, also across restarts, because every start draws a new layout; a layout
that answered something is kept sealed, with its rows as they were, so that a release finds the record that was scanned and an auditor can
rebuild the gallery; the manifest says what is really packed.

The commitment: `gallery_root` is the Merkle root (RFC 9162) over the blocks of 1,024 templates, each leaf SHA-256-hashed with a salt that
is kept sealed: it hides the templates and binds the holder to them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from sqlalchemy import Connection, Engine, insert, select

from agency_node.config import NodeConfig
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.holder.records import RecordStore
from agency_node.journal import stamp
from agency_node.keyring import Keyring
from agency_node.link import PublishLink
from agency_node.tables import layouts
from agency_node.vault import Vault
from crypto.answer import Answer, AnswerRequest, AnswerSecrets, answer
from crypto.embedding import EmbeddingModel
from crypto.epoch import Epoch
from crypto.errors import LayoutSpentError
from crypto.gallery import PackedGallery
from crypto.layout import FILLER, Layout
from crypto.ledger import leaf_hash, root_of
from crypto.manifest import GalleryManifest
from crypto.moments import round_moment
from crypto.ring import I64

_LAYOUT: Final = "layout"
_MANIFEST: Final = "manifest"
_BLOCK: Final = 1024


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
    ) -> None:
        self._config = config
        self._engine = engine
        self._vault = vault
        self._keyring = keyring
        self._clock = clock
        self._gallery: PackedGallery | None = None
        self._layout_id = ""
        self._packed_records = 0
        self.model = model
        self.records = RecordStore(engine, vault, model)
        self.manifest: GalleryManifest | None = None

    async def prepare(self, link: PublishLink) -> None:
        """Pack what is enrolled, if it is not packed yet, warm the kernels up, and publish the manifest that says so."""
        count = self.records.count()
        if count == 0:
            return
        if count != self._packed_records:
            await asyncio.to_thread(self._pack)
            self._packed_records = count
            self.manifest = None
        if self.manifest is None or self.manifest.valid_until - self._clock() < timedelta(days=1):
            manifest = self._new_manifest()
            await link.put_manifest(manifest.sign(self._keyring.node_key))
            self.manifest = manifest

    def answer(self, request: AnswerRequest, case: bytes) -> tuple[Answer, AnswerSecrets, str, Callable[[Connection], None]]:
        """Answer one probe of the case with this commitment; also the layout's id, and what keeps that layout in the caller's transaction.

        Draws and packs a new layout first when this one has served its searches, or this case.
        """
        gallery = self._packed()
        try:
            gallery.layout.claim(case)
        except LayoutSpentError:
            gallery = self._pack()
            gallery.layout.claim(case)
        ((made, kept),) = answer(gallery, [request])
        layout_id, sealed, now = self._layout_id, self._sealed_layout(gallery.layout), stamp(self._clock())

        def keep(connection: Connection) -> None:
            values = {"layout_id": layout_id, "sealed_layout": sealed, "created_at": now}
            connection.execute(insert(layouts).prefix_with("OR IGNORE").values(**values))

        return made, kept, layout_id, keep

    def rows_of(self, layout_id: str) -> I64:
        """The rows of a layout as they were when it answered; int64[slots]."""
        with self._engine.begin() as connection:
            sealed = connection.execute(select(layouts.c.sealed_layout).where(layouts.c.layout_id == layout_id)).scalar_one()
        opened = self._vault.open(_LAYOUT, sealed, layout_id.encode("ascii"))
        return np.frombuffer(opened, "<i8", offset=32).astype(np.int64)

    def _packed(self) -> PackedGallery:
        """The packed gallery; packed now if it is not yet."""
        return self._gallery or self._pack()

    def _pack(self) -> PackedGallery:
        """Draw a new layout and pack every record under it."""
        rows, templates = self.records.snapshot()
        layout = Layout.draw(rows, self.model.scales)
        self._gallery = PackedGallery.pack(self.model, layout, templates)
        self._layout_id = secrets.token_hex(16)
        self._gallery.fixed_part(Epoch.at(self._clock()))
        return self._gallery

    def _sealed_layout(self, layout: Layout) -> bytes:
        plain = layout.seed.export_secret() + layout.rows.astype("<i8").tobytes()
        return self._vault.seal(_LAYOUT, plain, self._layout_id.encode("ascii"))

    def _new_manifest(self) -> GalleryManifest:
        """The next version; its number and the commitment's salt are stored before it leaves."""
        now, packed = round_moment(self._clock()), self._packed()
        salt = secrets.token_bytes(32)
        with self._engine.begin() as connection:
            stored = read_fact(connection, Fact.MANIFEST)
            last = 0 if stored is None else int(json.loads(self._vault.open(_MANIFEST, stored))["version"])
            kept = json.dumps({"version": last + 1, "salt": salt.hex()}).encode()
            write_fact(connection, Fact.MANIFEST, self._vault.seal(_MANIFEST, kept))
        return GalleryManifest(
            agency=self._config.agency_id,
            version=last + 1,
            model_hash=self.model.model_hash,
            dimensions=self.model.dimensions,
            records=int((packed.layout.rows != FILLER).sum()),
            chunks=packed.layout.chunks,
            gallery_root=self._commitment(salt),
            trusted_custodians=tuple(sorted(map(type(self._config.agency_id), self._config.trusted_custodians))),
            valid_until=now + timedelta(days=self._config.manifest_days),
        )

    def _commitment(self, salt: bytes) -> bytes:
        templates = self.records.templates()
        blocks = (templates[first : first + _BLOCK] for first in range(0, len(templates), _BLOCK))
        return root_of(leaf_hash(hashlib.sha256(salt + block.tobytes()).digest()) for block in blocks)
