"""A bundle: the whole log as files that anybody verifies without a network, with our program or with one that others wrote.

    checkpoint          the head, signed by the log and cosigned
    tile/…              tiles and entry bundles (C2SP tlog-tiles, `crypto.tiles`)
    roster.json         the signed roster, whose root set the verifier holds against the fingerprint that was published

Invariants: a bundle holds what everybody may have and nothing of the node that wrote it; the checkpoint is written last, so that an export
that broke off is no bundle; every file that the size asks for is read, and each is held against the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from agency_node.errors import RequestError
from agency_node.verification import LogReport, ReadLog, check_log, last_cosigned
from crypto.checkpoint import MAX_NOTE_BYTES, SignedCheckpoint, check_log_signature
from crypto.entries import MAX_ENTRY_BYTES
from crypto.errors import StaleCheckpointError, TileError
from crypto.ledger import HASH_BYTES, MerkleTree
from crypto.log_evidence import LogEvidence
from crypto.roster import ROSTER_KIND, Roster, TrustedRoster
from crypto.tiles import CHECKPOINT_PATH, TILE_HEIGHT, TILE_WIDTH, TilePath, pack_entries, tile_bytes, tile_hashes, tiles_of, unpack_entries
from crypto.witness import MAX_CLOCK_SKEW_S, check_checkpoint

ROSTER_FILE: Final = "roster.json"
_MAX_TILE_BYTES: Final = TILE_WIDTH * max(HASH_BYTES, MAX_ENTRY_BYTES + 2)


def write_bundle(folder: Path, note: SignedCheckpoint, read: ReadLog, roster: bytes) -> int:
    """Write the log under `note` into a new folder; how many files. `RequestError` when the folder is there and not empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RequestError(f"{folder} is not empty: name a new folder for the bundle")
        files = 2
        for path in tiles_of(note.checkpoint.size):
            place = folder / str(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(_content(path, read.leaves, read.tree))
            files += 1
        (folder / ROSTER_FILE).write_bytes(roster)
        (folder / CHECKPOINT_PATH).write_bytes(note.to_bytes())
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror}") from error
    return files


@dataclass(frozen=True)
class Bundle:
    """The files of one export; nothing of it is verified."""

    folder: Path

    def checkpoint(self) -> SignedCheckpoint:
        """The head that the bundle claims."""
        return SignedCheckpoint.from_bytes(_file(self.folder / CHECKPOINT_PATH, MAX_NOTE_BYTES))

    def roster(self) -> bytes:
        """The roster's document."""
        return _file(self.folder / ROSTER_FILE, ROSTER_KIND.max_bytes)

    def read(self, size: int) -> ReadLog:
        """The first `size` leaves. Every entry parses and can stand in its place (`EncodingError`, `EntryOrderError`), and every tile is
        what the entries give (`TileError`)."""
        read = ReadLog()
        for path in tiles_of(size):
            data = _file(self.folder / str(path), _MAX_TILE_BYTES)
            if path.level is not None:
                if tile_hashes(data, path.width) != read.tree.subtree_roots(path.level * TILE_HEIGHT, path.start, path.width):
                    raise TileError(f"the hashes of {path} are not those of the entries below it")
                continue
            for leaf in unpack_entries(data, path.width):
                read.append(leaf)
        return read


def verify_bundle(
    bundle: Bundle,
    trusted: TrustedRoster,
    now: datetime,
    *,
    seen: Sequence[SignedCheckpoint] = (),
    evidence: Callable[[Roster], LogEvidence | None] = lambda _: None,
) -> LogReport:
    """What the bundle shows, after these checks in this order; `trusted` is signed by the root set that the verifier was told of.

    1. the checkpoint bears the log's signature (`CheckpointError`)
    2. the roster was in force when it was last cosigned (`RosterExpiredError`), which is not in the future (`StaleCheckpointError`); a
       majority of the roster's witnesses cosigned within the ten minutes before (`WitnessError`, `StaleCheckpointError`)
    3. every entry and every tile (`Bundle.read`)
    4. root, the heads that were seen before, and the acts that a party shows (`check_log`)
    """
    note = bundle.checkpoint()
    check_log_signature(note, trusted.possibly_expired.log)  # 1
    moment = last_cosigned(note, trusted.possibly_expired)
    if moment > now + timedelta(seconds=MAX_CLOCK_SKEW_S):  # 2
        raise StaleCheckpointError("the checkpoint was cosigned in the future; set this machine's clock, or report the witness")
    roster = trusted.at(moment)
    check_checkpoint(note, roster.public_policy(), now=moment)
    read = bundle.read(note.checkpoint.size)  # 3
    return check_log(note, read, roster, seen, evidence(roster))  # 4


def seen_checkpoint(path: Path) -> SignedCheckpoint:
    """The head in an earlier bundle or in a file of its own."""
    return Bundle(path).checkpoint() if path.is_dir() else SignedCheckpoint.from_bytes(_file(path, MAX_NOTE_BYTES))


def _content(path: TilePath, leaves: Sequence[bytes], tree: MerkleTree) -> bytes:
    return pack_entries(leaves[path.start : path.start + path.width]) if path.level is None else tile_bytes(tree, path)


def _file(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise RequestError(f"{path} is not there: the bundle is not whole, or this is none") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise RequestError(f"{path} is longer than such a file can be")
    return data
