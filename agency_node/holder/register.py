"""The record manifest of a holder: leaves for its records, a signed version for each change, proofs that a number is not held (R24, R25).

A leaf costs a millisecond, so leaves are made some time after their records, by whoever asks for the newest manifest and by the serving
node beside its searches. Invariants: a version that was signed is kept, and its log entry is queued in the same transaction; a manifest is
made only when every record has its leaf; the next version says something else than the last. A number that is held is not proven absent.

Left to others: leaves as rows (`record_leaves`), what the documents say (`crypto.record_manifest`), when the serving node asks (`serving`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Engine, insert, select

from agency_node.errors import RequestError
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.gallery_tables import record_leaves, record_manifests, records
from agency_node.holder.record_leaves import count_sources, last_leaf_row, leaves_beside, put_leaves, tree_of
from agency_node.holder.records import RecordFacts, RecordStore, check_record_number
from agency_node.holder.unsearchable import count_unsearchable
from agency_node.journal import NO_SEARCH, record
from agency_node.key_epoch import key_epoch_in
from agency_node.vault import Vault
from crypto.canonical import AgencyId
from crypto.keys import SigningKey
from crypto.limits import MAX_MODEL_NAME
from crypto.moments import parse_moment, round_moment
from crypto.places import PlacesKey
from crypto.record_manifest import NO_MANIFEST, Absence, RecordManifest
from crypto.record_tree import RecordLeaf, commit_record, name_of

PLACES_KEY: Final = "places-key"
"""The vault's purpose for the secret of the places."""
OTHER_CLASS: Final = "other"
AFTER_RESTORE: Final = 1 << 20
"""How far the version grows once after a restore: further than the versions between backup and loss."""
_LEAVES_AT_ONCE: Final = 256
_CLASS: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_AT_LEAST_EVERY: Final = timedelta(hours=1)
"""A gallery that never rests gets a manifest all the same."""

Queue = Callable[[Connection, bytes], None]
"""Queues the log entry of a manifest of that digest (`Outbox.manifest`)."""


class Register:
    """One holder's record manifests."""

    def __init__(self, agency: AgencyId, engine: Engine, vault: Vault, node_key: SigningKey, store: RecordStore, queue: Queue) -> None:
        """`store` is under the model that the templates are of; who serves puts another one in its place after a re-embedding."""
        self._agency, self._engine, self._vault, self._node_key = agency, engine, vault, node_key
        self.store, self._queue = store, queue
        self._seen = -1
        self._key = self._places_key()

    def follow(self, now: datetime, most: int) -> bytes | None:
        """Make up to so many leaves; when none is missing and the gallery has rested since this was asked last, the newest manifest.

        None while leaves are missing or the gallery is changing: one batch of changes makes one manifest. For the serving node.
        """
        if self.make_leaves(most):
            return None
        changes, seen = self.store.changes(), self._seen
        self._seen = changes
        if changes != seen:
            last = self.latest()
            if last is None or now - self._read(last).made_at < _AT_LEAST_EVERY:
                return None
        return self.newest(now)

    def newest(self, now: datetime) -> bytes | None:
        """The manifest of what is enrolled now, a new version if the last one says something else; None before anything was enrolled."""
        self.make_leaves()
        with self._engine.begin() as connection:
            return self.state(connection, self.store.commitment(), now)

    def state(self, connection: Connection, gallery_root: bytes, now: datetime) -> bytes | None:
        """As `newest`, in the caller's transaction, which holds the gallery still; `gallery_root` commits to the templates in it.

        `RequestError` when a record was enrolled in between and has no leaf: ask again.
        """
        if self.store.facts_in(connection, last_leaf_row(connection) + 1, 1):
            raise RequestError("records are being enrolled at this moment: run the command again when that is done")
        sources = count_sources(connection)
        last_data = self._last(connection)
        if not sources and last_data is None:
            return None
        last = None if last_data is None else self._read(last_data)
        model = self.store.model
        found = RecordManifest(
            agency=self._agency,
            version=1 if last is None else last.version + (AFTER_RESTORE if self._was_restored_since(connection, last) else 1),
            made_at=round_moment(now),
            model=model.name[:MAX_MODEL_NAME],
            model_hash=model.model_hash,
            dimensions=model.dimensions,
            key_epoch=key_epoch_in(connection, self._vault),
            sources=sources,
            unsearchable=count_unsearchable(connection),
            gallery_root=gallery_root,
            records_root=tree_of(connection).root,
            places_key=self._key.public_key,
            previous=NO_MANIFEST if last_data is None else hashlib.sha256(last_data).digest(),
        )
        if last is not None and last.says_as(found):
            return last_data
        data = found.sign(self._node_key)
        connection.execute(insert(record_manifests).values(version=found.version, document=data))
        self._queue(connection, hashlib.sha256(data).digest())
        record(connection, now, NO_SEARCH, "record manifest", f"version {found.version}")
        return data

    def latest(self) -> bytes | None:
        """The last manifest that was signed, None before the first."""
        with self._engine.begin() as connection:
            return self._last(connection)

    def make_leaves(self, most: int | None = None) -> bool:
        """Make the leaves that are missing, up to so many; whether some still are."""
        made = 0
        while most is None or made < most:
            with self._engine.begin() as connection:
                first = last_leaf_row(connection) + 1
            batch = self.store.facts_from(first, _LEAVES_AT_ONCE)
            if not batch:
                return False
            leaves = [(one.row, self._leaf(one), _class_of(one)) for one in batch]
            with self._engine.begin() as connection:
                rows = [one.row for one in batch]
                live = select(records.c.row).where(records.c.row.in_(rows), records.c.expunged_at.is_(None))
                done = select(record_leaves.c.row).where(record_leaves.c.row.in_(rows))  # by another process
                wanted = set(connection.execute(live).scalars()) - set(connection.execute(done).scalars())
                put_leaves(connection, [one for one in leaves if one[0] in wanted])
            made += len(batch)
        return True

    def prove_absent(self, record_number: str, now: datetime) -> bytes:
        """The signed proof that no record of that number is held; `RequestError` when one is, and before the first manifest."""
        check_record_number(record_number)
        self.make_leaves()
        name = name_of(record_number)
        place = self._key.place(name)
        with self._engine.begin() as connection:
            manifest = self.state(connection, self.store.commitment(), now)
            if manifest is None:
                raise RequestError("nothing is enrolled here, so there is no manifest under which absence could be proven: enrol first")
            if connection.execute(select(record_leaves.c.row).where(record_leaves.c.place == place)).first() is not None:
                raise RequestError("a record of that number is in the gallery, and no proof says that it is not")
            path = tree_of(connection).path(place, leaves_beside(connection, place))
        return Absence(self._agency, round_moment(now), record_number, manifest, self._key.prove(name), path).sign(self._node_key)

    def _leaf(self, one: RecordFacts) -> RecordLeaf:
        number = one.record_number.encode("utf-8")
        salt = self._vault.tag("record-salt", one.row.to_bytes(8, "big") + number)
        return RecordLeaf(self._key.place(name_of(one.record_number)), commit_record(salt, one.record_number, _class_of(one), one.captured))

    def _places_key(self) -> PlacesKey:
        with self._engine.begin() as connection:
            sealed = read_fact(connection, Fact.PLACES_KEY)
            if sealed is not None:
                return PlacesKey(self._vault.open(PLACES_KEY, sealed))
            key = PlacesKey.generate()
            write_fact(connection, Fact.PLACES_KEY, self._vault.seal(PLACES_KEY, key.export_secret()))
        return key

    def _read(self, data: bytes) -> RecordManifest:
        return RecordManifest.read_own(data, self._node_key.verifying_key)

    @staticmethod
    def _was_restored_since(connection: Connection, last: RecordManifest) -> bool:
        """Versions that were signed after the backup was made are not here: none is signed twice."""
        restored = read_fact(connection, Fact.RESTORED)
        return restored is not None and parse_moment(restored.decode("ascii"), "restored") > last.made_at

    @staticmethod
    def _last(connection: Connection) -> bytes | None:
        last = select(record_manifests.c.document).order_by(record_manifests.c.version.desc()).limit(1)
        return connection.execute(last).scalar_one_or_none()

    def __repr__(self) -> str:
        return f"Register({self._agency})"


def _class_of(one: RecordFacts) -> str:
    return one.source_class if _CLASS.fullmatch(one.source_class) else OTHER_CLASS
