"""Make a node's backup while the node serves: one moment of its store, its keys and settings, in one sealed file.

SQLite's own backup copies the store into a file beside the new one; what no backup may hold is taken out of that copy (`closing`), then it
is sealed and deleted. Not in a backup: the witness key, because a restored witness does not know what it cosigned; the ledger of expunged
records, because an old one would bring records back; policy packs, which are named and not kept in the node's folder, and their approvals,
which whoever signed them keeps and `policy adopt` brings back; face models, which the agency has apart.

Invariants: the file appears under its name whole, and no file is overwritten; the copy holds nothing that the at-rest key does not seal, is
its owner's alone, and is deleted in every case but a crash, after which the next backup deletes it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from agency_node.backup.closing import close_copy
from agency_node.backup.restore_key import RestoreEntry
from agency_node.backup.sealed_file import PIECE_BYTES, Head, SealedTo, SealedWriter, fresh_key, fresh_salt
from agency_node.config import AT_REST_KEY_FILE, CONFIG_FILE, Role
from agency_node.errors import RequestError
from agency_node.holder.expunge_ledger import Reach, follow, path_of
from agency_node.holder.records import RecordStore
from agency_node.keyring import NODE_KEY_FILE
from agency_node.node import KEYS, Node
from agency_node.store import DATABASE_FILE, forget_deleted, open_store
from crypto.keys import SigningKey
from crypto.moments import round_moment

AT_REST: Final = f"{KEYS}/{AT_REST_KEY_FILE}"
NODE_KEY: Final = NODE_KEY_FILE.as_posix()
CALIBRATION: Final = "calibration"
"""The name inside for the table that node.toml names by a path within the folder."""
FILES: Final = (CONFIG_FILE, AT_REST, NODE_KEY, CALIBRATION, DATABASE_FILE)
"""Everything that a backup may hold, in its order; the table only where there is one."""


def make_backup(node: Node, into: Path, sealed_with: str | RestoreEntry, clock: Callable[[], datetime], *, moves: bool = False) -> Head:
    """Write the backup of this node to a new file, under a passphrase or sealed to a restore key of the same agency.

    With `moves` the file says that this node acts no more: see `moving`. `RequestError` when the file is there already or cannot be
    written, or when the key is another agency's.
    """
    if not sealed_with:
        raise RequestError("a backup needs a passphrase: set SEALMATCH_PASSPHRASE, or type one")
    if isinstance(sealed_with, RestoreEntry) and sealed_with.agency != node.agency:
        raise RequestError(f"this restore key is of {sealed_with.agency}, and a backup of {node.agency} opens at no other agency (R27)")
    if into.exists():
        raise RequestError(f"{into} is there already, and no backup is overwritten: name another file")
    reach = _expunged(node, clock())  # before the copy: the copy then holds no record that the ledger takes out
    head = Head(node.agency, node.keyring.node_key.verifying_key, round_moment(clock()), reach, fresh_salt())
    secret: str | bytes
    if isinstance(sealed_with, str):
        secret = sealed_with
    else:
        secret = fresh_key()
        head = replace(head, salt=b"", to=SealedTo.seal(secret, node.agency, sealed_with.key, moves=moves))
    partial, copy = into.with_name(f".{into.name}.partial"), into.with_name(f".{into.name}.store")
    try:
        with _deleted_after(copy):
            _copy_store(node.folder / DATABASE_FILE, copy)
            partial.unlink(missing_ok=True)
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                _write(SealedWriter(out, head, secret), _files(node, copy), node.keyring.node_key)
                out.flush()
                os.fsync(out.fileno())
            os.link(partial, into)  # unlike a rename it never replaces what somebody else put there meanwhile
            partial.unlink()
    except FileExistsError as error:
        raise RequestError(f"{into} is there already, and no backup is overwritten: name another file") from error
    except OSError as error:
        raise RequestError(f"{into} cannot be written ({error.strerror}): name a file on a disk with room for twice the store") from error
    return head


def _files(node: Node, copy: Path) -> dict[str, Path]:
    """Where what goes into a backup lies, by its name inside."""
    files = {
        CONFIG_FILE: node.folder / CONFIG_FILE,
        AT_REST: node.folder / AT_REST,
        NODE_KEY: node.folder / NODE_KEY_FILE,
        DATABASE_FILE: copy,
    }
    table = node.folder / node.config.calibration.file
    if node.config.calibration.file and not Path(node.config.calibration.file).is_absolute() and table.is_file():
        files[CALIBRATION] = table
    return files


def _write(writer: SealedWriter, files: dict[str, Path], node_key: SigningKey) -> None:
    for name in FILES:
        if name in files:
            writer.add(name, files[name].stat().st_size, _parts(files[name]))
    writer.finish(node_key)


def _expunged(node: Node, now: datetime) -> Reach:
    if Role.HOLDER not in node.config.roles:
        return Reach()
    store = RecordStore(node.engine, node.vault, node.embedder().model)
    return follow(path_of(node.config, node.folder), store, node.keyring.node_key, now)


def _copy_store(source: Path, copy: Path) -> None:
    """One moment of the store; the serving node goes on writing meanwhile."""
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(source)) as live, contextlib.closing(sqlite3.connect(copy)) as target:
        live.backup(target)
    engine = open_store(copy)
    close_copy(engine)
    forget_deleted(engine)
    engine.dispose()


@contextlib.contextmanager
def _deleted_after(copy: Path) -> Iterator[None]:
    """The copy and SQLite's files beside it are deleted, now if a crash left some, and after the block."""
    beside = [copy.with_name(copy.name + end) for end in ("", "-wal", "-shm", "-journal")]
    try:
        for path in beside:
            path.unlink(missing_ok=True)
        yield
    finally:
        for path in beside:
            path.unlink(missing_ok=True)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PIECE_BYTES):
            yield part
