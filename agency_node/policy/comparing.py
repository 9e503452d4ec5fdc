"""What a change of a pack changes: every example of the old table and of the new one, put to both packs.

Invariants: an example counts as changed if the answer is another, or the policies that decided are; the tables may differ, so each example
says where it stands. Left to others: whether each pack's own table proves it (`scenarios.faults`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agency_node.policy.engine import Decision, PolicyPack
from agency_node.policy.scenarios import read_scenarios


@dataclass(frozen=True)
class Changed:
    """One example that the two packs answer differently. `tables` says in which it stands: `old`, `new` or `old and new`."""

    case: str
    tables: str
    line: int
    old: Decision
    new: Decision

    @property
    def is_reversed(self) -> bool:
        """Whether what was allowed is refused, or the other way."""
        return self.old.allowed != self.new.allowed


@dataclass(frozen=True)
class Difference:
    """Two packs side by side: how many examples were asked, which changed, and which policies only one of them has."""

    asked: int
    changed: tuple[Changed, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]


def compare(old: Path, new: Path) -> Difference:
    """The packs in two folders, over the examples of both; `ConfigError` for a pack or table that cannot be read."""
    packs = PolicyPack.load(old), PolicyPack.load(new)
    places: dict[bytes, tuple[str, list[str], int]] = {}
    asked = {}
    for name, folder in (("old", old), ("new", new)):
        for one in read_scenarios(folder):
            case, tables, line = places.setdefault(one.inputs.sha256, (one.case, [], one.line))
            tables.append(name)
            asked[one.inputs.sha256] = one.inputs
            places[one.inputs.sha256] = (case, tables, line)
    changed = []
    for sha256, inputs in asked.items():
        case, tables, line = places[sha256]
        before, after = packs[0].decide(inputs), packs[1].decide(inputs)
        if (before.allowed, before.policies) != (after.allowed, after.policies):
            changed.append(Changed(case, " and ".join(dict.fromkeys(tables)), line, before, after))
    ids = [set(pack.policy_ids) for pack in packs]
    return Difference(len(asked), tuple(changed), tuple(sorted(ids[0] - ids[1])), tuple(sorted(ids[1] - ids[0])))
