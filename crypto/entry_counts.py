"""Counts over the log that may be published: what the leaves show anyway, and opened fields in cells of at least five (R62).

Kind and day stand in every leaf, so `entries` counts them as they are: everybody can. Counts by agency, class, offence, basis, outcome and
rule are made of opened entries, and a number from 1 to 4 among them is shown nowhere, nor what it could be computed from. How many entries
were opened is known to everybody, so a single missing number would follow from the total. Therefore a table that has a small number shows
neither it nor the first by name of the numbers that are large enough; their sum stands in `others`. Which number is given up does not
depend on how large it is: a reader who knows this rule still cannot bound it from above. Where that sum is the least that such a group can
have, it would tell every member of the group, and the table shows its total alone. Agencies are counted within their class, so that the
total of a class gives up nothing that the table of its agencies holds back.

Left to others: whether an opening is true (`entry_openings`), that its leaf stands in the log (`ledger`). Who reads the published openings
one by one counts what he likes: the threshold is for tables, in which entries that are not open to everybody may be counted as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from crypto.canonical import JsonObject, JsonValue
from crypto.entries import EntryKind, FieldType
from crypto.entry_openings import BASIS, OFFENCE, OUTCOME, REQUESTING_AGENCY, REQUESTING_CLASS, RULE

MIN_CELL: Final = 5
"""The smallest number that a table over opened fields shows (R62)."""
NOT_STATED: Final = "not stated"
"""An empty field: the grant names no offence, the refusal no rule."""
_TABLES: Final = (
    ("grants by offence", EntryKind.GRANT, OFFENCE),
    ("grants by legal basis", EntryKind.GRANT, BASIS),
    ("releases by outcome", EntryKind.RELEASE, OUTCOME),
    ("disclosures by outcome", EntryKind.DISCLOSURE, OUTCOME),
    ("refusals by rule", EntryKind.REFUSAL, RULE),
)
_BY_CLASS: Final = "grants by class of the requesting agency"
_BY_AGENCY: Final = "grants by requesting agency, class "


@dataclass(frozen=True)
class CountTable:
    """A table that may be published. `total` and `others` are None where they are below five; `others` is 0 where nothing is held back."""

    name: str
    total: int | None
    lines: tuple[tuple[str, int], ...]
    others: int | None

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        lines: list[JsonValue] = [{"label": label, "count": count} for label, count in self.lines]
        return {"name": self.name, "total": self.total, "lines": lines, "others": self.others}


def publishable(name: str, counts: Mapping[str, int]) -> CountTable:
    """The table of these counts without what R62 holds back, and without what that could be computed from."""
    present = {label: count for label, count in sorted(counts.items()) if count}
    total = sum(present.values())
    small = [label for label, count in present.items() if count < MIN_CELL]
    large = [label for label, count in present.items() if count >= MIN_CELL]
    hidden = small + large[:1] if small else []
    held_back = sum(present[label] for label in hidden)
    if small and held_back == MIN_CELL + len(small):  # five and as many ones: whoever sees that sum knows each of them
        hidden, held_back = list(present), total
    lines = tuple((label, count) for label, count in present.items() if label not in hidden)
    if 0 < total < MIN_CELL:
        return CountTable(name, None, (), None)
    return CountTable(name, total, lines, held_back)


@dataclass
class EntryCounts:
    """Counts leaves and openings as they come, each once."""

    _entries: Counter[tuple[date, EntryKind]] = field(default_factory=Counter)
    _fields: dict[tuple[EntryKind, FieldType], Counter[str]] = field(default_factory=dict)
    _agencies: dict[str, Counter[str]] = field(default_factory=dict)
    _half: dict[int, tuple[FieldType, str]] = field(default_factory=dict)
    """Of grants by position: agency or class, until the other one is opened too."""

    def add_leaf(self, day: date, kind: EntryKind) -> None:
        """Count a leaf."""
        self._entries[day, kind] += 1

    def add_opened(self, position: int, kind: EntryKind, field_type: FieldType, value: str) -> None:
        """Count an opened field of the leaf at that position, which the caller has checked and not counted before."""
        text = value or NOT_STATED
        self._fields.setdefault((kind, field_type), Counter())[text] += 1
        if kind is EntryKind.GRANT and field_type in (REQUESTING_AGENCY, REQUESTING_CLASS):
            other = self._half.pop(position, None)
            if other is None:
                self._half[position] = (field_type, text)
                return
            agency, class_ = (text, other[1]) if field_type == REQUESTING_AGENCY else (other[1], text)
            self._agencies.setdefault(class_, Counter())[agency] += 1

    def entries(self) -> list[tuple[date, EntryKind, int]]:
        """All entries by day and kind, opened or not: what the leaves show."""
        return [(day, kind, count) for (day, kind), count in sorted(self._entries.items())]

    def tables(self) -> list[CountTable]:
        """What may be published of the opened fields. A class that its table holds back has no table of its agencies."""
        found = [publishable(name, self._fields[kind, of]) for name, kind, of in _TABLES if (kind, of) in self._fields]
        if self._agencies:
            classes = publishable(_BY_CLASS, {class_: agencies.total() for class_, agencies in self._agencies.items()})
            found += [classes, *(publishable(_BY_AGENCY + class_, self._agencies[class_]) for class_, _ in classes.lines)]
        return found

    def to_json(self) -> JsonObject:
        """Everything that may be published."""
        entries: list[JsonValue] = [{"day": day.isoformat(), "kind": kind.value, "count": count} for day, kind, count in self.entries()]
        tables: list[JsonValue] = [table.to_json() for table in self.tables()]
        return {"entries": entries, "min_cell": MIN_CELL, "tables": tables}
