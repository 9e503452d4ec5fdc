"""This node's own keys: the node key, a witness key, and the sealing keys of weeks and searches.

Node and witness key lie in files of the node's folder, sealed by the vault; sealing keys lie in the store, sealed by the vault under their
key id. Invariants: a week or a search has one live key at a time; a destroyed one is gone from the store and its write-ahead log, and no
second is made for a search; every sealing key comes with the statement that publishes it, signed with the node key. Keys are shown in no
`repr`, error or log.

HAZARD: whoever has a copy of the folder with `keys/at-rest.key` has every key that was not destroyed when the copy was made. A copy of the
store that was not made by `sealmatch node backup`, which leaves search keys out, brings destroyed sealing keys back.

Left to others: the at-rest key (`vault`), publishing (`link.put_sealing_key`), when a search is closed (the roles), writing the public
halves into the roster (the federation's root holders).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sqlalchemy import Connection, Engine, insert, select, update

from agency_node.errors import ConfigError, StoreError
from agency_node.store import forget_deleted
from agency_node.tables import sealing_keys
from agency_node.vault import Vault
from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.errors import FieldError, MisuseError
from crypto.keys import SealingPrivateKey, SigningKey, VerifyingKey
from crypto.moments import format_moment, round_moment
from crypto.sealing_key import SealingKeyStatement, Week

NODE_KEY_FILE: Final = Path("keys/node.key")
WITNESS_KEY_FILE: Final = Path("keys/witness.key")
OLD_WEEK: Final = timedelta(weeks=2)
"""How long after its end a week's key is kept: no grant's answers take longer."""

_NODE_PURPOSE: Final = "node-key"
_WITNESS_PURPOSE: Final = "witness-key"
_SEALING_PURPOSE: Final = "sealing-key"
SEALED_FILES: Final = MappingProxyType({NODE_KEY_FILE: _NODE_PURPOSE, WITNESS_KEY_FILE: _WITNESS_PURPOSE})
"""The files of keys in a node's folder, and the purpose under which each is sealed."""


@dataclass(frozen=True)
class CreatedKeys:
    """The public halves of what `Keyring.create` made: what the root holders write into the roster."""

    node: VerifyingKey
    witness: VerifyingKey | None


class Keyring:
    """The keys of the node in that folder. `ConfigError` when it has none, `StoreError` when they do not open."""

    def __init__(self, folder: Path, vault: Vault, engine: Engine, agency: AgencyId, clock: Callable[[], datetime]) -> None:
        self.agency: Final = agency
        self._vault, self._engine, self._clock = vault, engine, clock
        node_key = _read_key(folder / NODE_KEY_FILE, vault, _NODE_PURPOSE)
        if node_key is None:
            raise ConfigError("this folder has no node key: run `sealmatch node init`, or restore keys/node.key")
        self.node_key: Final = node_key
        self.witness_key: Final = _read_key(folder / WITNESS_KEY_FILE, vault, _WITNESS_PURPOSE)

    @staticmethod
    def create(folder: Path, vault: Vault, *, witness: bool) -> CreatedKeys:
        """Make node key and, if asked, witness key in that folder; `ConfigError` rather than overwrite one."""
        node_key, witness_key = SigningKey.generate(), SigningKey.generate() if witness else None
        _write_key(folder / NODE_KEY_FILE, vault, _NODE_PURPOSE, node_key)
        if witness_key is not None:
            _write_key(folder / WITNESS_KEY_FILE, vault, _WITNESS_PURPOSE, witness_key)
        return CreatedKeys(node_key.verifying_key, None if witness_key is None else witness_key.verifying_key)

    def current_week(self, connection: Connection | None = None) -> SealingKeyStatement:
        """What this node publishes for the present week; its key is made when there is none."""
        week = Week.at(self._clock())
        with self._transaction(connection) as inside:
            statement = self._live(inside, week)
            return self._make(inside, week) if statement is None else statement

    def for_search(self, search_id: SearchId, connection: Connection | None = None) -> SealingKeyStatement:
        """What this node publishes for one search; made once. `StoreError` when the search's key was destroyed: the search is over."""
        with self._transaction(connection) as inside:
            statement = self._live(inside, search_id)
            if statement is not None:
                return statement
            if inside.execute(select(sealing_keys.c.key_id).where(sealing_keys.c.use == str(search_id))).first() is not None:
                raise StoreError("the sealing key of this search was destroyed: ask for a new grant to search again")
            return self._make(inside, search_id)

    def document(self, key_id: KeyId, connection: Connection | None = None) -> bytes:
        """The signed statement of a key, to be published; `StoreError` for a key that this node never had."""
        with self._transaction(connection) as inside:
            return bytes(self._row(inside, key_id).statement)

    def private(self, key_id: KeyId, connection: Connection | None = None) -> SealingPrivateKey:
        """The private half; `StoreError` when it was destroyed or is none of this node's. Destroy the handle after use."""
        with self._transaction(connection) as inside:
            sealed = self._row(inside, key_id).sealed_private
        if sealed is None:
            raise StoreError("what was sealed to this key cannot be opened any more: the key was destroyed when its searches were closed")
        return self._open(bytes(sealed), key_id)

    def destroy(self, key_id: KeyId, connection: Connection | None = None) -> None:
        """Forget a private half for good; again or for an unknown key it does nothing.

        In the caller's transaction its old place in the write-ahead log is overwritten later: call `scrub` after the transaction.
        """
        with self._transaction(connection) as inside:
            inside.execute(update(sealing_keys).where(sealing_keys.c.key_id == key_id).values(sealed_private=None))
        if connection is None:
            self.scrub()

    def destroy_old_weeks(self, still_needed: Callable[[KeyId], bool]) -> tuple[KeyId, ...]:
        """Destroy the keys of weeks that ended over two weeks ago, but for those that a search still needs; which were destroyed."""
        now = self._clock()
        with self._transaction(None) as inside:
            live = inside.execute(select(sealing_keys.c.key_id, sealing_keys.c.use).where(sealing_keys.c.sealed_private.is_not(None))).all()
        old = tuple(KeyId(name) for name, use in live if _is_old_week(use, now) and not still_needed(KeyId(name)))
        for key_id in old:
            self.destroy(key_id)
        return old

    def replace_with_unlisted(self, folder: Path) -> None:
        """Destroy node and witness key for good: fresh ones, which no roster lists, take their places, so that the folder still opens."""
        for file, purpose in ((NODE_KEY_FILE, _NODE_PURPOSE), (WITNESS_KEY_FILE, _WITNESS_PURPOSE)):
            if (folder / file).exists():
                fresh = (folder / file).with_suffix(".fresh")
                fresh.unlink(missing_ok=True)
                _write_key(fresh, self._vault, purpose, SigningKey.generate())
                with (folder / file).open("r+b") as old:
                    size = old.seek(0, os.SEEK_END)
                    fresh.replace(folder / file)  # in one step: a crash leaves the old key or the fresh one
                    old.seek(0)
                    old.write(bytes(size))
                    old.flush()
                    os.fsync(old.fileno())

    def scrub(self) -> None:
        """Take destroyed keys out of the store's write-ahead log. A busy reader puts it off to the serving node's next round of work."""
        forget_deleted(self._engine)

    @contextmanager
    def _transaction(self, connection: Connection | None) -> Iterator[Connection]:
        """The caller's transaction if there is one: a second one would wait for the first, which waits for us."""
        if connection is not None:
            yield connection
        else:
            with self._engine.begin() as own:
                yield own

    def _live(self, connection: Connection, use: Week | SearchId) -> SealingKeyStatement | None:
        query = select(sealing_keys.c.key_id, sealing_keys.c.sealed_private).where(
            sealing_keys.c.use == _use_text(use), sealing_keys.c.sealed_private.is_not(None)
        )
        row = connection.execute(query).first()
        if row is None:
            return None
        private = self._open(bytes(row.sealed_private), KeyId(row.key_id))
        return SealingKeyStatement(self.agency, use, private.public_key)

    def _make(self, connection: Connection, use: Week | SearchId) -> SealingKeyStatement:
        private = SealingPrivateKey.generate()
        statement = SealingKeyStatement(self.agency, use, private.public_key)
        connection.execute(
            insert(sealing_keys).values(
                key_id=str(statement.key_id),
                use=_use_text(use),
                sealed_private=self._vault.seal(_SEALING_PURPOSE, private.export_secret(), statement.key_id.encode()),
                statement=statement.sign(self.node_key),
                created_at=format_moment(round_moment(self._clock())),
            )
        )
        return statement

    def _row(self, connection: Connection, key_id: KeyId) -> _KeyRow:
        row = connection.execute(
            select(sealing_keys.c.sealed_private, sealing_keys.c.statement).where(sealing_keys.c.key_id == str(key_id))
        ).first()
        if row is None:
            raise StoreError("this sealing key is none of this node's: whoever sealed to it used a statement that this node never made")
        return _KeyRow(row.sealed_private, row.statement)

    def _open(self, sealed: bytes, key_id: KeyId) -> SealingPrivateKey:
        try:
            private = SealingPrivateKey.from_secret(self._vault.open(_SEALING_PURPOSE, sealed, key_id.encode()))
        except MisuseError as error:
            raise StoreError("a stored sealing key is damaged: restore the store, or wait for the next week's key") from error
        return private

    def __repr__(self) -> str:
        return f"Keyring({self.agency!s}, <redacted>)"


@dataclass(frozen=True, repr=False)
class _KeyRow:
    sealed_private: bytes | None
    statement: bytes


def _use_text(use: Week | SearchId) -> str:
    return use.text if isinstance(use, Week) else str(use)


def _is_old_week(use: str, now: datetime) -> bool:
    try:
        week = Week(use)
    except FieldError:
        return False  # the key of a search
    monday = date.fromisocalendar(int(week.text[:4]), int(week.text[6:]), 1)
    ended = datetime(monday.year, monday.month, monday.day, tzinfo=UTC) + timedelta(weeks=1)
    return now >= ended + OLD_WEEK


def _read_key(path: Path, vault: Vault, purpose: str) -> SigningKey | None:
    try:
        sealed = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"keys/{path.name} cannot be read: check its owner and its mode, 0600") from error
    try:
        return SigningKey.from_secret(vault.open(purpose, sealed))
    except MisuseError as error:
        raise StoreError(f"keys/{path.name} is damaged: restore it from its backup") from error


def _write_key(path: Path, vault: Vault, purpose: str, key: SigningKey) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"keys/{path.name} is there already: this folder is a node's, take another one") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(vault.seal(purpose, key.export_secret()))
        file.flush()
        os.fsync(file.fileno())
