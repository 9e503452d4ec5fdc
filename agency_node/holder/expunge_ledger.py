"""What was expunged, in a file beside the store: so that no older backup brings a record back (R25).

A line for each expunged record, in order: number, the keyed tag by which the store finds a record number without holding it, the moment,
the hash of the line before, and the node key's signature over all of these. The file tells nobody anything who has not the at-rest key.
The store is what it is made from, and the store follows it: a serving holder that finds a tag here whose record it still has, because
somebody put an older store in place, destroys that record before it answers anything.

Invariants: lines are only appended, whole ones, on disk before `follow` returns; a file whose chain or last signature does not hold is
refused and never written to. What it does not catch: lines cut off its end leave a whole, shorter file. So a restore says how far the
file reaches, a backup refuses one that ends before it was made, and whoever keeps the file notes its number (`sealmatch node expunge`
prints it). Left to others: destroying records (`records`), where the file lies (`config`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from agency_node.config import NodeConfig
from agency_node.errors import StoreError
from agency_node.holder.records import RecordStore
from crypto.canonical import JsonObject, b64url_encode, canonical_json, parse_canonical_json
from crypto.errors import BadSignatureError, EncodingError
from crypto.fields import DIGEST_BYTES, Fields
from crypto.keys import SigningKey, VerifyingKey

FILE: Final = "expunged.jsonl"
_LABEL: Final = b"sealmatch-1/expunged\n"
_MAX_LINE_BYTES: Final = 1024
_NOTHING: Final = bytes(DIGEST_BYTES)
"""What stands in the first line for the hash of the line before."""


@dataclass(frozen=True)
class Reach:
    """How far a ledger of expunged records goes: its lines, the hash of the last, and its moment (empty for none)."""

    number: int = 0
    head: bytes = field(default=_NOTHING, repr=False)
    at: str = ""


@dataclass(frozen=True)
class Expungements:
    """A ledger that holds: the tags in order, and how far it goes after each."""

    tags: tuple[bytes, ...] = field(repr=False)
    reaches: tuple[Reach, ...] = field(repr=False)

    @property
    def reach(self) -> Reach:
        """How far it goes."""
        return self.reaches[-1] if self.reaches else Reach()

    def holds(self, earlier: Reach) -> bool:
        """Whether it continues a ledger that went so far."""
        return earlier.number == 0 or (earlier.number <= len(self.reaches) and self.reaches[earlier.number - 1].head == earlier.head)


def path_of(config: NodeConfig, folder: Path) -> Path:
    """Where this node's ledger is."""
    return folder / (config.expunge_ledger or FILE)


def read_expungements(path: Path, node_key: VerifyingKey) -> Expungements:
    """The ledger in that file; an empty one where there is none. `StoreError` for a file that is not this node's, or was changed."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Expungements((), ())
    except OSError as error:
        raise StoreError(f"the ledger of expunged records, {path}, cannot be read: check the disk and the file's owner") from error
    whole = data[: data.rfind(b"\n") + 1]  # a line that a crash left half was never said to be written
    tags: list[bytes] = []
    reaches: list[Reach] = []
    last: tuple[bytes, bytes] | None = None
    head = _NOTHING
    try:
        for line in whole.splitlines():
            fields = Fields(parse_canonical_json(line, max_bytes=_MAX_LINE_BYTES), "line of the ledger")
            number, tag, at = fields.integer("number"), fields.digest("tag"), fields.text("at")
            previous, signature = fields.digest("previous"), fields.data("signature")
            fields.close()
            if number != len(tags) + 1 or previous != head:
                raise _broken(path)
            head, last = hashlib.sha256(line).digest(), (_said(number, tag, at, previous), signature)
            tags.append(tag)
            reaches.append(Reach(number, head, at))
        if last is not None:
            node_key.check(last[1], last[0])  # its chain holds all lines before
    except (EncodingError, BadSignatureError) as error:
        raise _broken(path) from error
    return Expungements(tuple(tags), tuple(reaches))


def follow(path: Path, store: RecordStore, node_key: SigningKey, now: datetime) -> Reach:
    """Make store and ledger say the same: what either of them says is expunged is so in both. How far the ledger goes then."""
    held = read_expungements(path, node_key.verifying_key)
    expunged = store.expunged()
    if len(expunged) == len(held.tags):
        known = {tag for tag, _ in expunged}
        if known == set(held.tags):
            return held.reach
    store.expunge_again(held.tags, now)
    known = set(held.tags)
    return _append(path, held.reach, [(tag, at) for tag, at in expunged if tag not in known], node_key)


def _append(path: Path, reach: Reach, gone: Sequence[tuple[bytes, str]], node_key: SigningKey) -> Reach:
    lines = []
    for tag, at in gone:
        number, previous = reach.number + 1, reach.head
        signature = node_key.sign(_said(number, tag, at, previous))
        line = canonical_json({**_fields(number, tag, at, previous), "signature": b64url_encode(signature)})
        lines.append(line + b"\n")
        reach = Reach(number, hashlib.sha256(line).digest(), at)
    if not lines:
        return reach
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            data = file.read()
            file.seek(data.rfind(b"\n") + 1)
            file.write(b"".join(lines))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"expunged, but not written to the ledger of expunged records, {path}: mend that disk; it is written when the node serves next"
        ) from error
    return reach


def _fields(number: int, tag: bytes, at: str, previous: bytes) -> JsonObject:
    return {"number": number, "tag": tag.hex(), "at": at, "previous": previous.hex()}


def _said(number: int, tag: bytes, at: str, previous: bytes) -> bytes:
    return _LABEL + canonical_json(_fields(number, tag, at, previous))


def _broken(path: Path) -> StoreError:
    return StoreError(
        f"the ledger of expunged records, {path}, is not this node's or was changed: put the copy back that the agency keeps elsewhere"
    )
