"""Templates at rest: blocks of 1,024 rows, each encrypted under a data key of its own, and committed to block by block.

A block's ciphertext lies sealed in table `template_blocks`; its data key, the salt of its commitment and the commitment lie sealed in table
`block_keys`. Every write of a block draws a new key and overwrites the old one.

What that gives, and what not. An old copy of a block (a page of a stolen disk, a forgotten image) stays closed after the block was written
again, also for who takes the at-rest key later, because its data key is gone. Whoever copied both tables at the same old moment and gets
the at-rest key has that moment's templates: no rewriting reaches copies. Backups have to be destroyed by those who made them.

Two pairs of tables hold blocks: those that are searched, and those that a re-embedding makes beside them (`reembedding`). When these are
whole the tables change names, in one transaction: after it every block is of the other model.

Invariants: block b holds the rows from 1,024 b on, without gaps; a key opens the one block that it was drawn for; decrypted templates go
into the caller's array and nowhere else; blocks of another model than the caller's are neither read nor written, whoever changed the model
meanwhile; what is erased is erased in both pairs. Left to others: which rows are expunged (`records`), wiping that array (`index`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine, Table, func, select, update
from sqlalchemy.dialects.sqlite import insert

from agency_node.errors import EnrolmentError, StoreError
from agency_node.gallery_tables import block_keys, next_block_keys, next_template_blocks, refused_records, template_blocks
from agency_node.store import reading
from agency_node.tables import facts
from agency_node.vault import KEY_BYTES, Vault
from crypto.codes import Codes
from crypto.ledger import StateTree, leaf_hash

BLOCK_ROWS: Final = 1024
MODEL_FACT: Final = "gallery-model"
TEMPLATES: Final = "template block"
DATA_KEY: Final = "template key"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_SALT_BYTES: Final = 32
_AT_ONCE: Final = 32
"""Blocks read in one transaction: 16 MB at D = 512, some milliseconds."""
Leaves = dict[int, bytes]
"""Of blocks that were written: the leaf hash of each one's commitment."""


@dataclass(frozen=True)
class BlockTables:
    """Where blocks lie, and where their keys."""

    blocks: Table
    keys: Table


SEARCHED: Final = BlockTables(template_blocks, block_keys)
NEXT: Final = BlockTables(next_template_blocks, next_block_keys)


class OtherModelError(EnrolmentError):
    """The gallery's templates are of another model than the caller's: it was re-embedded meanwhile, or is not this node's."""


def pinned_model(connection: Connection) -> bytes | None:
    """The hash of the model that the searched templates are of, None before the first."""
    return connection.execute(select(facts.c.value).where(facts.c.name == MODEL_FACT)).scalar_one_or_none()


def refused_rows(connection: Connection, model_hash: bytes) -> frozenset[int]:
    """Rows whose photographs that model refused: their records are kept, and have no template."""
    return frozenset(connection.execute(select(refused_records.c.row).where(refused_records.c.model == model_hash)).scalars())


def is_refused(connection: Connection, row: int, model_hash: bytes) -> bool:
    """Whether that model refused the photograph of that row."""
    where = refused_records.c.row == row, refused_records.c.model == model_hash
    return connection.execute(select(refused_records.c.row).where(*where)).first() is not None


def check_model(connection: Connection, model_hash: bytes) -> bool:
    """Whether a model is pinned; `OtherModelError` when it is another one."""
    pinned = pinned_model(connection)
    if pinned not in {None, model_hash}:
        says = "this gallery is of another embedding model, or of a version that wrote templates otherwise"
        raise OtherModelError(f"{says}: set `embedder` in node.toml back to it, or bring it to the new one with `sealmatch node reembed`")
    return pinned is not None


def swap_tables(connection: Connection) -> None:
    """In the caller's transaction: what lay in `NEXT` is searched, and what was searched lies there. Moves no block."""
    for searched, other in ((SEARCHED.blocks, NEXT.blocks), (SEARCHED.keys, NEXT.keys)):
        aside = f"aside_{searched.name}"
        for before, after in ((searched.name, aside), (other.name, searched.name), (aside, other.name)):
            connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")


class TemplateBlocks:
    """The blocks of one gallery under one model. Templates are int8[rows, D]."""

    def __init__(self, engine: Engine, vault: Vault, dimensions: int, model_hash: bytes, tables: BlockTables = SEARCHED) -> None:
        """Gives keys to blocks that were written before blocks had keys."""
        self._engine = engine
        self._vault = vault
        self._model_hash = model_hash
        self._dimensions = dimensions
        self._tables = tables
        self._known: tuple[int, StateTree] | None = None
        if tables is SEARCHED:
            self._give_keys()

    def append(self, connection: Connection, first: int, templates: Codes) -> Leaves:
        """Put templates at the rows from `first` on, behind the last row; the last block is filled up before a new one begins."""
        self._check(connection)
        number, held = divmod(first, BLOCK_ROWS)
        if held:
            before = self.block(connection, number)
            if len(before) != held:
                raise mixed_up()
            templates = np.concatenate([before, templates])
            before.fill(0)
        leaves: Leaves = {}
        for start in range(0, len(templates), BLOCK_ROWS):
            written = number + start // BLOCK_ROWS
            leaves[written] = self._write(connection, written, templates[start : start + BLOCK_ROWS])
        return leaves

    def erase(self, connection: Connection, row: int) -> Leaves:
        """Put zeros at a row: its block is written anew under a new key, and the old key is overwritten. What a re-embedding has made of
        the row goes as well."""
        self._check(connection)
        number, place = divmod(row, BLOCK_ROWS)
        self._erase_next(connection, number, place)
        templates = self.block(connection, number)
        if place >= len(templates):
            raise mixed_up()
        templates[place] = 0
        leaves = {number: self._write(connection, number, templates)}
        templates.fill(0)
        return leaves

    def block(self, connection: Connection, number: int) -> Codes:
        """The templates of one block; the caller wipes them."""
        self._check(connection)
        out = np.zeros((BLOCK_ROWS, self._dimensions), np.int8)
        return out[: self._read(connection, number, number + 1, out)]

    def read(self, rows: int, each_part: Callable[[], None]) -> Codes:
        """The templates of the first `rows` rows, as they stand; no writer waits meanwhile, so that a later change may be in them or not.

        `each_part` is called between parts; what it raises ends the work. Raises `StoreError` when there are fewer rows.
        """
        out = np.empty((rows, self._dimensions), np.int8)
        whole, rest = divmod(rows, BLOCK_ROWS)
        try:
            for first in range(0, whole, _AT_ONCE):
                each_part()
                last = min(first + _AT_ONCE, whole)
                with reading(self._engine).begin() as connection:
                    self._check(connection)
                    if self._read(connection, first, last, out[first * BLOCK_ROWS :]) != (last - first) * BLOCK_ROWS:
                        raise mixed_up()
            with reading(self._engine).begin() as connection:
                beyond = connection.execute(select(self._tables.blocks.c.block).where(self._tables.blocks.c.block > whole)).first()
                partial = self.block(connection, whole)
            if len(partial) < rest or (beyond is not None and len(partial) < BLOCK_ROWS):
                raise mixed_up()
            out[whole * BLOCK_ROWS :] = partial[:rest]
            partial.fill(0)
        except BaseException:
            out.fill(0)
            raise
        return out

    def commitment(self, connection: Connection, changes: int) -> StateTree:
        """The Merkle tree (RFC 9162) over SHA-256(salt of the block || its templates), whose root is the commitment; decrypts no block.

        It is kept in memory for this count of the store's changes, and read again when another process has changed the store since.
        """
        known = self._known
        if known is None or known[0] != changes:
            self._check(connection)
            rows = connection.execute(select(self._tables.keys).order_by(self._tables.keys.c.block)).all()
            opened = (self._vault.open(DATA_KEY, row.sealed_key, _bound(row.block)) for row in rows)
            known = self._known = changes, StateTree(leaf_hash(one[KEY_BYTES + _SALT_BYTES :]) for one in opened)
        return known[1]

    def committed(self, before: int, leaves: Leaves) -> None:
        """The transaction that wrote these blocks is on disk, and was the one change after `before`: the tree that is kept follows."""
        known = self._known
        if known is not None and known[0] == before:
            self._known = before + 1, known[1].replaced(leaves)

    def _read(self, connection: Connection, first: int, last: int, out: Codes) -> int:
        """Decrypt the blocks `first` to `last` - 1 to the beginning of `out`; the rows that they held."""
        blocks, keys = self._tables.blocks.c, self._tables.keys.c
        columns = select(blocks.block, blocks.count, blocks.sealed_templates, keys.sealed_key)
        joined = columns.join(self._tables.keys, keys.block == blocks.block)
        chosen = joined.where(blocks.block >= first, blocks.block < last).order_by(blocks.block)
        filled = 0
        for number, count, sealed, sealed_key in connection.execute(chosen):
            if (number - first) * BLOCK_ROWS != filled or filled + count > len(out):
                raise mixed_up()
            self._decrypt(number, sealed_key, sealed, out[filled : filled + count])
            filled += count
        return filled

    def _write(self, connection: Connection, number: int, templates: Codes) -> bytes:
        """Seal a block under a new key; the leaf of its commitment, 32 bytes."""
        key, salt, nonce = os.urandom(KEY_BYTES), os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        flat = _bytes_of(np.ascontiguousarray(templates))
        commitment = hashlib.sha256(salt)
        commitment.update(flat)
        bound = _bound(number)
        closed = nonce + AESGCM(key).encrypt(nonce, flat, bound)
        sealed_key = self._vault.seal(DATA_KEY, key + salt + commitment.digest(), bound)
        statement = insert(self._tables.keys).values(block=number, sealed_key=sealed_key)
        connection.execute(statement.on_conflict_do_update(index_elements=["block"], set_={"sealed_key": sealed_key}))
        values = {"count": len(templates), "sealed_templates": self._vault.seal(TEMPLATES, closed, bound)}
        block = insert(self._tables.blocks).values(block=number, **values)
        connection.execute(block.on_conflict_do_update(index_elements=["block"], set_=values))
        return leaf_hash(commitment.digest())

    def rows(self, connection: Connection) -> int:
        """How many rows the blocks hold."""
        return int(connection.execute(select(func.coalesce(func.sum(self._tables.blocks.c.count), 0))).scalar_one())

    def _check(self, connection: Connection) -> None:
        if self._tables is SEARCHED:
            check_model(connection, self._model_hash)

    def _erase_next(self, connection: Connection, number: int, place: int) -> None:
        """As `erase`, in the block that a re-embedding made; its dimensions follow from its length."""
        columns = select(NEXT.blocks.c.count, NEXT.blocks.c.sealed_templates, NEXT.keys.c.sealed_key)
        joined = columns.join(NEXT.keys, NEXT.keys.c.block == NEXT.blocks.c.block).where(NEXT.blocks.c.block == number)
        found = connection.execute(joined).one_or_none()
        if found is None:
            return
        count, sealed, _ = found
        if place >= count:
            return
        dimensions = (len(sealed) - 2 * (_NONCE_BYTES + _TAG_BYTES)) // count
        beside = TemplateBlocks(self._engine, self._vault, dimensions, b"", NEXT)
        templates = beside.block(connection, number)
        templates[place] = 0
        beside._write(connection, number, templates)
        templates.fill(0)

    def _decrypt(self, number: int, sealed_key: bytes, sealed: bytes, out: Codes) -> None:
        key = self._vault.open(DATA_KEY, sealed_key, _bound(number))[:KEY_BYTES]
        closed = memoryview(self._vault.open(TEMPLATES, sealed, _bound(number)))
        if len(closed) != _NONCE_BYTES + out.size + _TAG_BYTES:
            raise mixed_up()
        try:
            AESGCM(key).decrypt_into(bytes(closed[:_NONCE_BYTES]), closed[_NONCE_BYTES:], _bound(number), _bytes_of(out))
        except InvalidTag as error:
            raise _closed() from error

    def _give_keys(self) -> None:
        bare = select(template_blocks).where(template_blocks.c.block.not_in(select(block_keys.c.block))).order_by(template_blocks.c.block)
        while True:
            with reading(self._engine).begin() as connection:
                if connection.execute(bare.with_only_columns(template_blocks.c.block).limit(1)).first() is None:
                    return
            with self._engine.begin() as connection:
                for number, count, sealed in connection.execute(bare.limit(_AT_ONCE)).all():
                    plain = self._vault.open(TEMPLATES, sealed, _bound(number))
                    self._write(connection, number, np.frombuffer(plain, np.int8).reshape(count, self._dimensions))

    def __repr__(self) -> str:
        return f"TemplateBlocks(dimensions={self._dimensions})"


def rekey(connection: Connection, tables: BlockTables, number: int, old: Vault, new: Vault) -> None:
    """Encrypt a block under a new data key, and seal both under `new`; salt and commitment stay. Does nothing to a block that is so
    already, nor to one whose data key is gone. `StoreError` when neither vault opens it."""
    columns = select(tables.blocks.c.sealed_templates, tables.keys.c.sealed_key)
    joined = columns.join(tables.keys, tables.keys.c.block == tables.blocks.c.block).where(tables.blocks.c.block == number)
    found = connection.execute(joined).one_or_none()
    if found is None:
        return
    bound = _bound(number)
    try:
        new.open(DATA_KEY, found.sealed_key, bound)
    except StoreError:
        kept = old.open(DATA_KEY, found.sealed_key, bound)
    else:
        return
    closed = old.open(TEMPLATES, found.sealed_templates, bound)
    try:
        plain = bytearray(AESGCM(kept[:KEY_BYTES]).decrypt(closed[:_NONCE_BYTES], closed[_NONCE_BYTES:], bound))
    except InvalidTag as error:
        raise _closed() from error
    key, nonce = os.urandom(KEY_BYTES), os.urandom(_NONCE_BYTES)
    sealed = new.seal(TEMPLATES, nonce + AESGCM(key).encrypt(nonce, plain, bound), bound)
    plain[:] = bytes(len(plain))
    connection.execute(update(tables.blocks).where(tables.blocks.c.block == number).values(sealed_templates=sealed))
    sealed_key = new.seal(DATA_KEY, key + kept[KEY_BYTES:], bound)
    connection.execute(update(tables.keys).where(tables.keys.c.block == number).values(sealed_key=sealed_key))


def mixed_up() -> StoreError:
    """Blocks and records do not belong together."""
    return StoreError("the stored template blocks do not fit the stored records: restore the node's database from its backup")


def _closed() -> StoreError:
    return StoreError("a stored template block does not open under its key: the store was changed or mixed up")


def _bytes_of(templates: Codes) -> memoryview:
    """The very memory of contiguous templates, as bytes."""
    return templates.view(np.uint8).reshape(-1).data


def _bound(number: int) -> bytes:
    return number.to_bytes(8, "big")
