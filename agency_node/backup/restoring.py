"""Restore a node from its backup, into a folder that is not there yet, whole or not at all.

Everything is put together in `.NAME.restoring` beside the folder and moved to its name at the end, in one step; a restore that was stopped
leaves nothing under the name, and the next one begins anew. Before the step, records that were expunged since the backup are destroyed
again, from the ledger that the agency kept elsewhere (R25), and what must not go on where it stood is ended (`closing`).

What the ledger cannot say is whether lines were cut off its end since the backup was made; so it is told how far it goes, and whoever knows
its number from the last `sealmatch node expunge` gives it. There is no way to put a backup into another node's folder (R27): agencies have
no way here to hand each other a gallery.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import Final

from agency_node.backup.closing import begin_anew
from agency_node.backup.making import AT_REST, CALIBRATION, FILES, NODE_KEY
from agency_node.backup.sealed_file import Head, SealedReader
from agency_node.config import CONFIG_FILE, NodeConfig, Role
from agency_node.errors import ConfigError, RequestError, StoreError
from agency_node.holder.expunge_ledger import Reach, follow, path_of, read_expungements
from agency_node.holder.records import RecordStore
from agency_node.key_epoch import with_tags
from agency_node.keyring import Keyring
from agency_node.legal.persons import RestoreKey
from agency_node.model_in_use import model_in_use
from agency_node.node import KEYS
from agency_node.store import DATABASE_FILE, forget_deleted, open_store
from agency_node.vault import Vault
from crypto.canonical import AgencyId

_SMALL_BYTES: Final = 16 << 20
"""More than any file but the store has."""
_NEEDED: Final = {CONFIG_FILE, AT_REST, NODE_KEY, DATABASE_FILE}


@dataclass(frozen=True)
class Restored:
    """What was restored, and how far the ledger went from which expunged records were destroyed again."""

    agency: AgencyId
    made_at: datetime
    expunged_again: int
    ledger: Reach
    moved: bool
    """Whether the node that it was acts no more."""


def restore_backup(
    file: Path,
    folder: Path,
    agency: AgencyId,
    opens: str | RestoreKey,
    expunged: Path | None,
    at_least: int,
    clock: Callable[[], datetime],
) -> Restored:
    """Restore the backup in `file`, which a passphrase or a restore key opens, as a node in `folder`.

    `expunged` is the agency's ledger of expunged records, which a holder must have; `at_least` is how many lines it is known to have.
    `RequestError` or `StoreError` when anything does not fit, and then nothing is there under the folder's name.
    """
    _check_free(folder, agency)
    stage = folder.with_name(f".{folder.name}.restoring")
    try:
        with file.open("rb") as sealed:
            reader = SealedReader(sealed)
            if reader.head.agency != agency:
                raise RequestError(f"this is a backup of {reader.head.agency}, and opens at no other agency: nothing was restored")
            reader.unlock(opens) if isinstance(opens, str) else reader.unlock_with(opens.sealing_key)
            if stage.exists():
                shutil.rmtree(stage)
            (stage / KEYS).mkdir(mode=0o700, parents=True)
            stage.chmod(0o700)
            _unpack(reader, stage)
        done = _settle(stage, folder, reader.head, expunged, at_least, clock)
        _sync(stage)
        stage.rename(folder)
        _sync_entry(folder.parent)
    except OSError as error:
        _forget(stage)
        raise RequestError(f"the backup cannot be restored ({error.strerror}): check the file, and the folder's disk") from error
    except BaseException:
        _forget(stage)
        raise
    return done


def _check_free(folder: Path, agency: AgencyId) -> None:
    """Nothing is overwritten; a folder of another agency is told apart, so that nobody takes one for the other."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        there = NodeConfig.load(folder).agency_id
    except ConfigError:
        raise RequestError(f"{folder} is not empty: name a folder that is not there yet") from None
    if there != agency:
        raise RequestError(f"{folder} is the node of {there}, and takes no backup of another agency: name a folder that is not there yet")
    raise RequestError(f"{folder} holds {there}'s node: move it away, with its ledger of expunged records, which the restore asks for")


def _unpack(reader: SealedReader, stage: Path) -> None:
    seen: set[str] = set()
    table = ""
    for name, size in reader.entries():
        if name not in FILES or name in seen or (name != DATABASE_FILE and size > _SMALL_BYTES):
            raise StoreError("the backup holds something that no node has: it was made by another version; nothing was restored")
        seen.add(name)
        if name == CALIBRATION:
            table = NodeConfig.load(stage).calibration.file
        place = PurePath(table if name == CALIBRATION else name)
        if place.is_absolute() or ".." in place.parts:
            raise StoreError("the backup's node.toml names its table outside of the folder: nothing was restored")
        _write(stage / place, reader.content(size))
    reader.finish()
    if not seen >= _NEEDED:
        raise StoreError("the backup lacks a part of the node: take another one; nothing was restored")


def _settle(stage: Path, folder: Path, head: Head, expunged: Path | None, at_least: int, clock: Callable[[], datetime]) -> Restored:
    config = NodeConfig.load(stage)
    if config.agency_id != head.agency:
        raise StoreError("the backup's settings are another agency's: nothing was restored")
    engine = open_store(stage / DATABASE_FILE)
    try:
        vault = with_tags(Vault.from_file(stage / AT_REST), engine)
        keyring = Keyring(stage, vault, engine, config.agency_id, clock)
        if keyring.node_key.verifying_key != head.node_key:
            raise StoreError("the node key in the backup is not the one that its head names: nothing was restored")
        again, reach = 0, Reach()
        if Role.HOLDER in config.roles:
            store = RecordStore(engine, vault, model_in_use(engine, config).load(folder).model)
            again, reach = _expunge(config, stage, folder, store, keyring, head, expunged, at_least, clock())
        moved = head.to is not None and head.to.moves
        begin_anew(engine, vault, head.made_at, clock, moved=moved)
        if not forget_deleted(engine):
            raise StoreError("the restored store is in use by another program: end it and restore again")
    finally:
        engine.dispose()
    return Restored(head.agency, head.made_at, again, reach, moved)


def _expunge(
    config: NodeConfig,
    stage: Path,
    folder: Path,
    store: RecordStore,
    keyring: Keyring,
    head: Head,
    kept: Path | None,
    at_least: int,
    now: datetime,
) -> tuple[int, Reach]:
    """Destroy again what the agency's ledger says; how many records that were, and how far the ledger goes."""
    if kept is None:
        raise RequestError("a gallery is restored with the ledger of what was expunged since: name it with --expunged (R25)")
    held = read_expungements(kept, head.node_key)
    if not held.holds(head.expunged):
        raise RequestError(
            f"the ledger of expunged records ends before the backup was made, or is of another node: it has {held.reach.number} lines, "
            f"and the backup knows of {head.expunged.number}; name the newest copy"
        )
    if held.reach.number < at_least:
        raise RequestError(f"the ledger of expunged records has {held.reach.number} lines and not {at_least}: name the newest copy")
    again = store.expunge_again(held.tags, now)
    place = path_of(config, stage)
    if place.parent == stage:
        _write(place, iter([kept.read_bytes()]))
    elif kept.resolve() != path_of(config, folder).resolve():
        raise RequestError(f"node.toml keeps the ledger of expunged records at {place}: put the newest copy there and name it")
    follow(place, store, keyring.node_key, now)
    return again, held.reach


def _write(path: Path, parts: Iterator[bytes]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        for part in parts:
            out.write(part)
        out.flush()
        os.fsync(out.fileno())


def _sync(stage: Path) -> None:
    for path in (*sorted(stage.rglob("*")), stage):
        _sync_entry(path)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(stage: Path) -> None:
    shutil.rmtree(stage, ignore_errors=True)
