"""A new at-rest key for a node: everything that it sealed is sealed again under the new one, and the old one is destroyed (R29).

    keys/at-rest.key     the key of now; 32 zeros for a moment at the end of a rotation
    keys/at-rest.next    the key to come, while a rotation is under way

The node does not serve meanwhile: a process that seals under the old key while it goes would lose what it sealed. Messages wait at the
broker. What is done is done in batches, each a transaction; a run that was killed is run again, finds what opens under the new key
already, and goes on. When everything does, the old key's bytes are overwritten and the new key's file takes its name.

Invariants: at every moment each sealed value opens under one of the two keys, and both are there; the epoch is counted once; no value is
left that the old key opens, in rows, in files of keys, in free pages or in the write-ahead log; each block of templates gets a new data key
too. What the old key still opens are copies: backups, each with its own at-rest key inside, and whatever else was made before.

Left to others: who may ask for it (the command), what keeps other processes out (`key_epoch`), blocks (`holder.blocks`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, String, Table, bindparam, cast, func, literal_column, select, update

from agency_node import case_tables, gallery_tables, tables
from agency_node.config import AT_REST_KEY_FILE
from agency_node.errors import RequestError, StoreError
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.holder.blocks import NEXT, SEARCHED, BlockTables, rekey
from agency_node.holder.progress import Progress
from agency_node.holder.register import PLACES_KEY
from agency_node.journal import NO_SEARCH, record
from agency_node.key_epoch import KEY_EPOCH, NEXT_KEY_FILE, TAG_ROOT, hold_key, key_epoch
from agency_node.keyring import SEALED_FILES
from agency_node.store import DATABASE_FILE, forget_deleted, open_store, reading
from agency_node.vault import KEY_BYTES, Vault

_SPENT: Final = bytes(KEY_BYTES)
"""What stands in the old key's file when nothing needs it any more."""
_ROWS_AT_ONCE: Final = 256
_BLOCKS_AT_ONCE: Final = 32
_LOOKS: Final = 20


@dataclass(frozen=True)
class SealedColumn:
    """A column of sealed values: their purpose, and the column of the same row that they are bound to, or two as `one/other`."""

    table: Table
    column: str
    purpose: str
    bound_to: str

    @property
    def bound(self) -> ColumnElement[Any]:
        """What a value is bound to, as SQL."""
        one, _, other = self.bound_to.partition("/")
        return self.table.c[one] + "/" + cast(self.table.c[other], String) if other else self.table.c[one]


SEALED: Final = (
    SealedColumn(tables.sealing_keys, "sealed_private", "sealing-key", "key_id"),
    SealedColumn(tables.outbox, "sealed_openings", "log-openings", "grant_digest"),
    SealedColumn(tables.held_grants, "sealed_token", "grant-token", "grant_digest"),
    SealedColumn(tables.decisions, "sealed_inputs", "policy-inputs", "inputs_sha256"),
    SealedColumn(tables.searches, "sealed_token", "grant-token", "search_id"),
    SealedColumn(tables.searches, "sealed_case", "case", "search_id"),
    SealedColumn(tables.searches, "sealed_still", "still", "search_id"),
    SealedColumn(tables.searches, "sealed_search_key", "search-key", "search_id"),
    SealedColumn(tables.searches, "sealed_release", "release", "search_id"),
    SealedColumn(tables.exigent_grants, "sealed_salt", "case-salt", "case_tag"),
    SealedColumn(tables.legal_decisions, "sealed_reason", "legal-reason", "search_id"),
    SealedColumn(tables.narrowings, "sealed_draft", "draft-before-narrowing", "search_id"),
    SealedColumn(tables.leads, "sealed_stub", "stub", "search_id"),
    SealedColumn(tables.disclosures, "sealed_record", "disclosed-record", "handle"),
    SealedColumn(tables.probe_faces, "sealed_vector", "probe-face", "search_id"),
    SealedColumn(case_tables.cases, "sealed_number", "case-number", "case_tag"),
    SealedColumn(case_tables.legal_holds, "sealed_reason", "hold-reason", "case_tag"),
    SealedColumn(case_tables.legal_holds, "sealed_lift_reason", "hold-lift-reason", "case_tag"),
    SealedColumn(case_tables.probe_links, "sealed_link", "probe-link", "search_id/number"),
    SealedColumn(case_tables.probe_links, "sealed_picture", "probe-picture", "search_id/number"),
    SealedColumn(gallery_tables.subject_requests, "sealed_request", "subject-request", "request_id"),
    SealedColumn(gallery_tables.records, "sealed_record", "record", "row"),
    SealedColumn(gallery_tables.records, "sealed_photograph", "photograph", "row"),
    SealedColumn(gallery_tables.layouts, "sealed_layout", "layout", "layout_id"),
    SealedColumn(tables.answers, "sealed_root", "answer-root", "search_id"),
    SealedColumn(tables.answers, "sealed_release", "holder-release", "search_id"),
)
"""Every column of sealed values but those of template blocks, which have data keys between."""
SEALED_FACTS: Final = ((Fact.MANIFEST, Fact.MANIFEST.value), (Fact.TAG_ROOT, TAG_ROOT), (Fact.PLACES_KEY, PLACES_KEY))
"""Single values that are sealed, and their purposes; the epoch is counted apart."""


@dataclass(frozen=True)
class Rotated:
    """What a rotation did: the epoch of the key that is in force now, and how many rows and blocks were gone through."""

    key_epoch: int
    rows: int


class Rotation:
    """The rotation of one node's at-rest key; holds the node alone until `close`."""

    def __init__(self, folder: Path, clock: Callable[[], datetime]) -> None:
        """Begin one, or take up one that was stopped; `RequestError` while the node is in use."""
        self._keys, self._clock = folder / "keys", clock
        self._held = hold_key(self._keys, alone=True)
        try:
            self.engine: Engine = open_store(folder / DATABASE_FILE)
            self._new_path, self._old_path = self._keys / NEXT_KEY_FILE, self._keys / AT_REST_KEY_FILE
            old_key = self._old_path.read_bytes()
            if not self._new_path.exists():
                if old_key == _SPENT:
                    raise StoreError("the at-rest key is gone: restore the node from its backup")
                _write_new(self._new_path, os.urandom(KEY_BYTES))
            self._new = Vault.from_file(self._new_path)
            self._old = self._new if old_key == _SPENT else Vault(old_key)
            self._is_spent = old_key == _SPENT
        except BaseException:
            self._held.close()
            raise

    def run(self, progress: Progress) -> Rotated:
        """Bring everything to the new key, and destroy the old one. `StoreError` for a value that neither key opens."""
        rows = 0
        if not self._is_spent:
            progress.text("Sealing again under the new key")
            progress.total(self._count())
            self._reseal_tag_root()
            for one in SEALED:
                rows += self._reseal_column(one, progress)
            for pair in (SEARCHED, NEXT):
                rows += self._rekey_blocks(pair, progress)
            self._reseal_facts()
            for path, purpose in SEALED_FILES.items():
                self._reseal_file(self._keys.parent / path, purpose)
            if not any(forget_deleted(self.engine) for _ in range(_LOOKS)):
                raise RequestError("the store is in use by another program: end it and rotate again, which goes on from here")
            _overwrite(self._old_path, _SPENT)
        self._new_path.rename(self._old_path)
        _sync(self._keys)
        return Rotated(key_epoch(self.engine, self._new), rows)

    def close(self) -> None:
        """Let others open the node."""
        self.engine.dispose()
        self._held.close()

    def _count(self) -> int:
        with reading(self.engine).begin() as connection:
            counted = (one.table for one in SEALED)
            blocks = (pair.blocks for pair in (SEARCHED, NEXT))
            return sum(int(connection.execute(select(func.count()).select_from(one)).scalar_one()) for one in (*counted, *blocks))

    def _reseal(self, purpose: str, sealed: bytes, bound: bytes) -> bytes | None:
        """The value under the new key, None when it is so already."""
        try:
            self._new.open(purpose, sealed, bound)
        except StoreError:
            return self._new.seal(purpose, self._old.open(purpose, sealed, bound), bound)
        return None

    def _reseal_column(self, one: SealedColumn, progress: Progress) -> int:
        number: Any = literal_column("rowid")
        column, bound = one.table.c[one.column], one.bound
        change = update(one.table).where(number == bindparam("its_number")).values({one.column: bindparam("its_value")})
        last, rows = -1, 0
        while True:
            with self.engine.begin() as connection:
                asked = select(number, column, bound).where(number > last).order_by(number).limit(_ROWS_AT_ONCE)
                found = connection.execute(asked).all()
                changes = []
                for at, sealed, bound_to in found:
                    if sealed:  # NULL, and empty for an expunged record
                        again = self._reseal(one.purpose, sealed, _bytes_of(bound_to))
                        if again is not None:
                            changes.append({"its_number": at, "its_value": again})
                if changes:
                    connection.execute(change, changes)
            if not found:
                return rows
            last, rows = found[-1][0], rows + len(found)
            progress.advance(len(found))

    def _rekey_blocks(self, pair: BlockTables, progress: Progress) -> int:
        last, blocks = -1, 0
        while True:
            with self.engine.begin() as connection:
                asked = select(pair.blocks.c.block).where(pair.blocks.c.block > last).order_by(pair.blocks.c.block).limit(_BLOCKS_AT_ONCE)
                found = connection.execute(asked).scalars().all()
                for number in found:
                    rekey(connection, pair, number, self._old, self._new)
            if not found:
                return blocks
            last, blocks = found[-1], blocks + len(found)
            progress.advance(len(found))

    def _reseal_tag_root(self) -> None:
        """Kept from the first rotation on, before the key that it follows from goes."""
        with self.engine.begin() as connection:
            if read_fact(connection, Fact.TAG_ROOT) is None:
                write_fact(connection, Fact.TAG_ROOT, self._new.seal(TAG_ROOT, self._old.tag_root))

    def _reseal_facts(self) -> None:
        """The single values; the epoch is one more than the old key's."""
        with self.engine.begin() as connection:
            for name, purpose in SEALED_FACTS:
                self._reseal_fact(connection, name, purpose)
            stored = read_fact(connection, Fact.KEY_EPOCH)
            if stored is not None and self._reseal(KEY_EPOCH, stored, b"") is None:
                return
            epoch = 1 + (1 if stored is None else int(self._old.open(KEY_EPOCH, stored)))
            write_fact(connection, Fact.KEY_EPOCH, self._new.seal(KEY_EPOCH, str(epoch).encode("ascii")))
            record(connection, self._clock(), NO_SEARCH, "keys rotated", f"key epoch {epoch}")

    def _reseal_fact(self, connection: Connection, name: Fact, purpose: str) -> None:
        stored = read_fact(connection, name)
        again = None if stored is None else self._reseal(purpose, stored, b"")
        if again is not None:
            write_fact(connection, name, again)

    def _reseal_file(self, path: Path, purpose: str) -> None:
        if not path.exists():
            return
        again = self._reseal(purpose, path.read_bytes(), b"")
        if again is None:
            return
        with path.open("r+b") as before:
            _write_new(path, again)
            before.write(bytes(len(again)))  # the place on the disk that has no name any more
            before.flush()
            os.fsync(before.fileno())

    def __repr__(self) -> str:
        return "Rotation(<redacted>)"


def _bytes_of(bound_to: bytes | str | int) -> bytes:
    if isinstance(bound_to, int):
        return bound_to.to_bytes(8, "big")
    return bound_to.encode("ascii") if isinstance(bound_to, str) else bytes(bound_to)


def _write_new(path: Path, data: bytes) -> None:
    """A new file of its owner alone in one step, whatever stood there."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    _sync(path.parent)


def _overwrite(path: Path, data: bytes) -> None:
    """Other bytes in the place of those that stand there."""
    with path.open("r+b") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
