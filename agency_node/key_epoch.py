"""The at-rest key of a node that is open, and how often it was changed.

Who opens a node holds a shared lock on the key's file for as long as the process lives; a rotation holds the only one (`rotation`). So no
process seals under a key that goes. Invariants: the kernel gives a lock back when its process ends, however it ends; a node whose rotation
was stopped does not open before it is finished. Left to others: sealing (`vault`), changing the key (`rotation`).
"""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine

from agency_node.config import AT_REST_KEY_FILE
from agency_node.errors import ConfigError, RequestError, StoreError
from agency_node.facts import Fact, read_fact
from agency_node.store import reading
from agency_node.vault import Vault

NEXT_KEY_FILE: Final = "at-rest.next"
"""Beside the at-rest key while a rotation is under way: the key that everything is brought to."""
TAG_ROOT: Final = "tag-root"
KEY_EPOCH: Final = "key-epoch"
_FIRST: Final = 1


def key_epoch(engine: Engine, vault: Vault) -> int:
    """The number of the at-rest key that this node's store is sealed under: 1 for the first, one more after each rotation."""
    with reading(engine).begin() as connection:
        return key_epoch_in(connection, vault)


def key_epoch_in(connection: Connection, vault: Vault) -> int:
    """As `key_epoch`, in the caller's transaction."""
    sealed = read_fact(connection, Fact.KEY_EPOCH)
    return _FIRST if sealed is None else int(vault.open(KEY_EPOCH, sealed))


def with_tags(vault: Vault, engine: Engine) -> Vault:
    """The vault with the tags of this store, which are those of its first at-rest key."""
    with reading(engine).begin() as connection:
        sealed = read_fact(connection, Fact.TAG_ROOT)
    return vault if sealed is None else vault.with_tag_root(vault.open(TAG_ROOT, sealed))


class HeldKey:
    """A lock on the at-rest key's file; given back by `close`, and when nobody has it any more."""

    def __init__(self, descriptor: int) -> None:
        self.close: Final = weakref.finalize(self, os.close, descriptor)


def hold_key(keys: Path, *, alone: bool = False) -> HeldKey:
    """Hold the at-rest key in that folder: beside others, or `alone`.

    `ConfigError` while a rotation is under way or was stopped, unless `alone`; `RequestError` when others hold it and `alone` is asked.
    """
    path = keys / AT_REST_KEY_FILE
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError("the at-rest key cannot be read: run `sealmatch node init`, or restore keys/at-rest.key") from error
        held = HeldKey(descriptor)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.close()
            if alone:
                raise RequestError("this node is in use, by its service or another command: stop it, then rotate its keys") from error
            raise ConfigError("this node's keys are being rotated: wait until `sealmatch node rotate` has ended") from error
        if os.fstat(descriptor).st_ino == path.stat().st_ino:  # no other key came in its place meanwhile
            break
        held.close()
    if not alone and (keys / NEXT_KEY_FILE).exists():
        held.close()
        raise ConfigError("a rotation of this node's keys was stopped: run `sealmatch node rotate` again, which finishes it")
    return held
