"""Opened fields of the public log as a reader takes them: verified one by one against leaves that were verified before, or refused.

Openings come from two sides: published by the broker, whose word is worth nothing, or in a file that an agency's node signed and a person
handed over. Invariants: nothing is returned that a leaf under the cosigned head does not commit to; one opening that is false refuses the
whole source, by the number of its leaf.

Left to others: the leaves (`verification.verify_log`), what a field may say (`crypto.entry_openings`), what of it may be published as a
count (`crypto.entry_counts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agency_node.link import MAX_LEAVES
from agency_node.replies import OpenedField
from crypto.canonical import JsonObject
from crypto.entries import FieldOpening, FieldType, LogEntry
from crypto.entry_counts import EntryCounts
from crypto.entry_openings import OpenedEntries, check_opening, opened_types
from crypto.errors import CommitmentError, EncodingError
from crypto.roster import Roster


class OpenedLink(Protocol):
    """What a reader of openings asks of the broker."""

    async def openings(self, first: int, limit: int = MAX_LEAVES) -> tuple[int, list[OpenedField]]: ...


@dataclass(frozen=True)
class OpenedEntry:
    """One leaf with the fields of it that are known to be true, in the order of its kind; a field that says nothing is empty."""

    position: int
    entry: LogEntry = field(repr=False)
    fields: Mapping[FieldType, str]

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        fields: JsonObject = {str(name): value for name, value in self.fields.items()}
        return {"position": self.position, "kind": self.entry.kind.value, "day": self.entry.day.isoformat(), "fields": fields}


async def read_published(link: OpenedLink, entries: Sequence[LogEntry]) -> list[OpenedField]:
    """Everything that the broker serves as opened, verified against `entries`; a `CommitmentError` or `FieldError` for anything false."""
    found: list[OpenedField] = []
    seen: set[tuple[int, FieldType]] = set()
    while True:
        total, fields = await link.openings(len(found))
        for one in fields:
            check_opened(one, entries, seen)
        found += fields
        if not fields:
            if total > len(found):
                raise CommitmentError("the broker says that more fields are open than it serves")
            return found


def check_opened(opened: OpenedField, entries: Sequence[LogEntry], seen: set[tuple[int, FieldType]]) -> None:
    """Believe one opened field of the log `entries`, and add it to `seen`; a `CommitmentError` or `FieldError` that names its leaf."""
    place = f"opening {opened.number}, of leaf {opened.position}"
    if opened.position >= len(entries):
        raise CommitmentError(f"{place}: the log has no such leaf")
    _check(place, entries[opened.position], opened.opening)
    key = (opened.position, opened.opening.field_type)
    if key in seen:
        raise CommitmentError(f"{place}: the field was opened before")
    seen.add(key)


def read_handed_over(data: bytes, roster: Roster, entries: Sequence[LogEntry]) -> tuple[OpenedEntries, list[OpenedEntry]]:
    """What an agency handed over, verified: its signature, then every field against the leaf that it names.

    What `OpenedEntries.read` raises; a `CommitmentError` or `FieldError` for a field that is not one of that leaf, or no such leaf.
    """
    said = OpenedEntries.read(data, roster)
    places = {entry.leaf_hash(): position for position, entry in enumerate(entries)}
    found = []
    for one in said.entries:
        position = places.get(one.leaf)
        if position is None:
            raise CommitmentError(f"leaf {one.leaf.hex()[:16]}…: the log has no such leaf")
        for opening in one.openings:
            _check(f"leaf {position}", entries[position], opening)
        found.append(_entry(position, entries[position], one.openings))
    return said, found


def by_entry(opened: Iterable[OpenedField], entries: Sequence[LogEntry]) -> list[OpenedEntry]:
    """Verified fields by their leaf, in the log's order."""
    fields: dict[int, list[FieldOpening]] = {}
    for one in opened:
        fields.setdefault(one.position, []).append(one.opening)
    return [_entry(position, entries[position], openings) for position, openings in sorted(fields.items())]


def count_entries(entries: Iterable[LogEntry], opened: Iterable[OpenedEntry]) -> EntryCounts:
    """All leaves by kind and day, and these verified entries by what they opened."""
    counts = EntryCounts()
    for entry in entries:
        counts.add_leaf(entry.day, entry.kind)
    for one in opened:
        for name, value in one.fields.items():
            counts.add_opened(one.position, one.entry.kind, name, value)
    return counts


def _entry(position: int, entry: LogEntry, openings: Iterable[FieldOpening]) -> OpenedEntry:
    values = {one.field_type: one.value.decode("ascii") for one in openings}
    return OpenedEntry(position, entry, {name: values[name] for name in opened_types(entry.kind) if name in values})


def _check(place: str, entry: LogEntry, opening: FieldOpening) -> None:
    try:
        check_opening(entry, opening)
    except (CommitmentError, EncodingError) as error:
        raise type(error)(f"{place}: {error}") from error
