"""What an oversight body's monitor remembers between two runs: the log as it read it, in a folder of its own.

    DIR/state.json       origin, the last head that was read to its end, the roster's version, how many leaves and openings follow below
    DIR/leaves.txt       every leaf, base64url, one a line
    DIR/openings.txt     every opened field, JSON, one a line, in the order of their numbers
    DIR/evidence-*.note  two heads that the log signed and that contradict one another, once it did

Invariants: `state.json` is replaced last and in one step, so that a run that died leaves the state of the run before, and lines beyond it
are not read; leaves that do not hash to the head in `state.json`, and openings that are none of theirs, are not what was read, and nothing
is said about the log.

Left to others: reading and judging the log (`log_monitor`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from agency_node.errors import StoreError
from agency_node.log_openings import check_opened
from agency_node.replies import OpenedField, opened_from_fields
from crypto.canonical import JsonObject, JsonValue, b64url_decode, b64url_encode
from crypto.checkpoint import SignedCheckpoint
from crypto.entries import FieldType, LogEntry
from crypto.entry_openings import opening_to_json
from crypto.errors import CryptoError
from crypto.fields import Fields
from crypto.mirror import LogMirror

STATE_FILE: Final = "state.json"
LEAVES_FILE: Final = "leaves.txt"
OPENINGS_FILE: Final = "openings.txt"
_FORMAT: Final = "sealmatch-1/log-monitor/1"


@dataclass
class Remembered:
    """What is known of one log. `note` is None before the first run."""

    note: SignedCheckpoint | None = None
    roster_version: int = 0
    mirror: LogMirror = field(default_factory=LogMirror)
    entries: list[LogEntry] = field(default_factory=list)
    openings: list[OpenedField] = field(default_factory=list)


def recall(folder: Path) -> Remembered:
    """What the last run left, nothing for a folder without a state; `StoreError` when it is damaged."""
    try:
        text = (folder / STATE_FILE).read_bytes()
    except FileNotFoundError:
        return Remembered()
    except OSError as error:
        raise _damaged(folder) from error
    try:
        value: JsonValue = json.loads(text)
        fields = Fields(value, "state")
        if fields.text("format") != _FORMAT:
            raise StoreError(f"{folder} was written by another version of the monitor: begin with a new folder, and keep this one")
        note = SignedCheckpoint.from_bytes(fields.data("note"))
        roster_version, size, opened = fields.integer("roster_version"), fields.integer("leaves"), fields.integer("openings")
        fields.close()
        found = Remembered(note, roster_version)
        for line in _lines(folder / LEAVES_FILE, size):
            found.entries.append(found.mirror.append(b64url_decode(line)))
        found.openings += [opened_from_fields(Fields(json.loads(line), "opening")) for line in _lines(folder / OPENINGS_FILE, opened)]
        seen: set[tuple[int, FieldType]] = set()
        for one in found.openings:
            check_opened(one, found.entries, seen)
        if len(found.openings) != opened:
            raise _damaged(folder)
        found.mirror.check_at(note.checkpoint)
    except (CryptoError, OSError, ValueError) as error:
        raise _damaged(folder) from error
    return found


def remember(folder: Path, known: Remembered, leaves: Sequence[bytes], new_openings: int) -> None:
    """Write what a run learned: `leaves` are the last of `known`'s, and so are the last `new_openings`."""
    note = known.note
    if note is None:
        return
    fields: list[JsonObject] = [
        {"number": one.number, "position": one.position, **opening_to_json(one.opening)}
        for one in known.openings[len(known.openings) - new_openings :]
    ]
    state: JsonObject = {
        "format": _FORMAT,
        "note": b64url_encode(note.to_bytes()),
        "roster_version": known.roster_version,
        "leaves": len(known.entries),
        "openings": len(known.openings),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _append(folder / LEAVES_FILE, len(known.entries) - len(leaves), [b64url_encode(leaf) for leaf in leaves])
        _append(folder / OPENINGS_FILE, len(known.openings) - new_openings, [json.dumps(one) for one in fields])
        new = folder / (STATE_FILE + ".new")
        _write(new, (json.dumps(state) + "\n").encode("ascii"))
        new.replace(folder / STATE_FILE)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror}): choose a folder on a disk with room") from error


def keep_evidence(folder: Path, held: SignedCheckpoint, shown: SignedCheckpoint) -> None:
    """Keep two heads that contradict one another; the first pair stays."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, note in (("held", held), ("shown", shown)):
            path = folder / f"evidence-{name}.note"
            if not path.exists():
                _write(path, note.to_bytes())
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror}), and there is evidence to keep: make room and run again"
        ) from error


def _lines(path: Path, count: int) -> list[str]:
    if not count:
        return []
    with path.open(encoding="ascii") as file:
        return [line.rstrip("\n") for line in islice(file, count)]


def _append(path: Path, kept: int, lines: Sequence[str]) -> None:
    """Add lines behind the first `kept`; what a run that died left behind them goes."""
    with path.open("a+b") as file:
        file.seek(0)
        for _ in range(kept):
            file.readline()
        file.truncate(file.tell())
        file.write("".join(f"{line}\n" for line in lines).encode("ascii"))
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _damaged(folder: Path) -> StoreError:
    return StoreError(
        f"what the monitor wrote into {folder} is damaged: restore it from a backup, or begin with a new folder and keep this one"
    )
