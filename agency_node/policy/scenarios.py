"""The examples of a pack: searches with the answers that they must get, in a table that a lawyer can read, and what is wrong with them.

The first row is a whole search, the *base case*. In the rows below it an empty cell is as in the base case, and `-` says that there is
nothing (no offence, no court's order); so a row shows only what makes it different. Columns:

    case                       what it is, in words, once in the table
    about                      the policy that the example is about: each has one that is allowed and one that is refused
    rule, section              the rule's number (R1 to R79) and the section of the source on which the answer stands
    expected, policies         allow or deny; the policies that decide, separated by spaces, in any order
    place                      where the pack's agency stands: requesting, originating, holding or custody
    purpose ... now            the search; days as 2026-05-31, `now` as 2026-05-20T12:00:00Z

Invariants of what `read_scenarios` returns: every cell was understood; words that no grant can hold are let through, because an example
may show that they are refused. Left to others: deciding (`engine`), the command line (`commands.policy`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, TypeVar

from agency_node.errors import ConfigError, RequestError
from agency_node.policy.engine import NO_DECISION, NOTHING_PERMITS, Decision, PolicyPack
from agency_node.policy.inputs import AgencyFacts, OrderDays, Place, PolicyInputs
from agency_node.policy.pack_folder import SCENARIOS_FILE
from crypto.grant_basis import Offence

LEAST_SCENARIOS: Final = 15
COLUMNS: Final = (
    "case",
    "about",
    "rule",
    "section",
    "expected",
    "policies",
    "place",
    "purpose",
    "basis",
    "order_issued",
    "order_expires",
    "statute",
    "nibrs",
    "event",
    "probe_source",
    "requesting_class",
    "requesting_jurisdiction",
    "originating_class",
    "originating_jurisdiction",
    "holding_jurisdiction",
    "cap",
    "false_positives_per_million",
    "reviewers",
    "now",
)
_INHERITED: Final = COLUMNS[6:]
_NOTHING: Final = "-"
_RULE: Final = re.compile(r"R[1-9][0-9]{0,2}")
_ENGINE_GROUNDS: Final = (NOTHING_PERMITS.policy, NO_DECISION.policy)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Scenario:
    """One row: a search, and the answer that it must get. `line` is its line in the file, 2 for the base case."""

    case: str
    about: str
    rule: str
    section: str
    allowed: bool
    policies: frozenset[str]
    inputs: PolicyInputs = field(repr=False)
    line: int

    def is_met_by(self, decision: Decision) -> bool:
        """Whether a decision is the expected one, by the expected policies."""
        return decision.allowed == self.allowed and frozenset(decision.policies) == self.policies


def read_scenarios(folder: Path) -> tuple[Scenario, ...]:
    """The examples of the pack in `folder`; `ConfigError` with file and line for a table that cannot be read."""
    return tuple(_scenario(folder / SCENARIOS_FILE, line, row) for line, row in _read_rows(folder))


def changed_scenario(folder: Path, case: str = "", line: int = 0, changes: Mapping[str, str] | None = None) -> Scenario:
    """One example by its words or its line, the base case if neither is given, with other values in some columns: a question put in the
    table's own words. `RequestError` for a row or column that there is not."""
    rows = _read_rows(folder)
    found = [one for one in rows if one[1]["case"] == case or one[0] == line] if case or line else rows[:1]
    if len(found) != 1:
        raise RequestError(
            f"the table of {folder.name} has no such row: give a --case in its own words, or a --line from 2 to {len(rows) + 1}"
        )
    number, row = found[0]
    unknown = sorted(set(changes or {}) - set(_INHERITED))
    if unknown:
        raise RequestError(f"{unknown[0]} is no column that a search has: take {', '.join(_INHERITED)}")
    return _scenario(folder / SCENARIOS_FILE, number, {**row, **(changes or {})})


def _read_rows(folder: Path) -> list[tuple[int, dict[str, str]]]:
    """Every row with its line, whole: what it leaves empty filled in from the base case."""
    path = folder / SCENARIOS_FILE
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _broken(path, 1, f"cannot be read ({type(error).__name__})") from error
    if not rows or tuple(rows[0]) != COLUMNS:
        raise _broken(path, 1, f"the first line names the columns: {','.join(COLUMNS)}")
    found: list[tuple[int, dict[str, str]]] = []
    base: dict[str, str] = {}
    for line, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(COLUMNS):
            raise _broken(path, line, f"{len(cells)} cells where there are {len(COLUMNS)} columns")
        row = dict(zip(COLUMNS, cells, strict=True))
        base = base or row
        whole = {**row, **{name: row[name] or base[name] for name in _INHERITED}}
        empty = [name for name in COLUMNS if not whole[name]]
        if empty:
            raise _broken(path, line, f"{empty[0]} is empty, in the base case too")
        found.append((line, whole))
    return found


def red_scenarios(pack: PolicyPack, scenarios: Sequence[Scenario]) -> list[tuple[Scenario, Decision]]:
    """The examples that a pack answers in another way than they say, with its answer."""
    decided = [(scenario, pack.decide(scenario.inputs)) for scenario in scenarios]
    return [(scenario, decision) for scenario, decision in decided if not scenario.is_met_by(decision)]


def faults(pack: PolicyPack, scenarios: Sequence[Scenario]) -> list[str]:
    """What a table lacks to be a proof of its pack, a sentence each; empty when nothing is wrong.

    At least 15 rows, each case once, each citing a rule and a section; every policy has an example about it that is allowed and one that
    is refused, and decides in one; and without any one policy some example gets another answer: no rule is an ornament.
    """
    found = [
        f"line {scenario.line}, {scenario.case}: expected {_answer(scenario.allowed, scenario.policies)}, "
        f"got {_answer(decision.allowed, decision.policies)}"
        for scenario, decision in red_scenarios(pack, scenarios)
    ]
    if len(scenarios) < LEAST_SCENARIOS:
        found.append(f"{len(scenarios)} examples, where there are to be {LEAST_SCENARIOS} at least")
    cases = [scenario.case for scenario in scenarios]
    found += [f"the case {case!r} stands there twice" for case in sorted({case for case in cases if cases.count(case) > 1})]
    known = {*pack.policy_ids, *_ENGINE_GROUNDS}
    for scenario in scenarios:
        unknown = sorted({scenario.about, *scenario.policies} - known)
        found += [f"line {scenario.line}: the pack has no policy {name}" for name in unknown]
    for policy in pack.policy_ids:
        answers = {scenario.allowed for scenario in scenarios if scenario.about == policy}
        found += [
            f"{policy}: no example about it is {word}"
            for word, allowed in (("allowed", True), ("refused", False))
            if allowed not in answers
        ]
        if not any(policy in scenario.policies for scenario in scenarios):
            found.append(f"{policy} decides no example")
        if not red_scenarios(pack.without(policy), scenarios):
            found.append(f"{policy}: nothing notices when it is taken out")
    return found


def _answer(allowed: bool, policies: Sequence[str] | frozenset[str]) -> str:
    return f"{'allow' if allowed else 'deny'} by {' '.join(sorted(policies))}"


def _scenario(path: Path, line: int, row: dict[str, str]) -> Scenario:
    def understood(name: str, read: Callable[[str], Value], what: str) -> Value:
        try:
            return read(row[name])
        except (ValueError, KeyError) as error:
            raise _broken(path, line, f"{name} is {what}") from error

    if not _RULE.fullmatch(row["rule"]):
        raise _broken(path, line, "rule is a rule's number, such as R1")
    nothing = {name: row[name] == _NOTHING for name in ("statute", "nibrs", "order_issued", "order_expires")}
    if nothing["statute"] != nothing["nibrs"] or nothing["order_issued"] != nothing["order_expires"]:
        raise _broken(path, line, "statute and nibrs stand together, and so do order_issued and order_expires")

    def agency(which: str, kind: str) -> AgencyFacts:
        return AgencyFacts(f"{which}-agency", kind, row[f"{which}_jurisdiction"])

    inputs = PolicyInputs(
        requesting=agency("requesting", row["requesting_class"]),
        originating=agency("originating", row["originating_class"]),
        holder=agency("holding", "local"),
        purpose=row["purpose"],
        basis=row["basis"],
        offence=None if nothing["nibrs"] else Offence(row["statute"], understood("nibrs", str, "a code")),
        event=row["event"],
        probe_source=row["probe_source"],
        cap=understood("cap", int, "a whole number"),
        reviewers=understood("reviewers", int, "a whole number"),
        now=understood("now", _moment, "a moment such as 2026-05-20T12:00:00Z"),
        order=None
        if nothing["order_issued"]
        else OrderDays(
            understood("order_issued", date.fromisoformat, "a day such as 2026-05-31"),
            understood("order_expires", date.fromisoformat, "a day such as 2026-05-31"),
        ),
        false_positives_per_million=understood("false_positives_per_million", int, "a whole number"),
        place=understood("place", Place, "requesting, originating, holding or custody"),
    )
    allowed = understood("expected", {"allow": True, "deny": False}.__getitem__, "allow or deny")
    return Scenario(row["case"], row["about"], row["rule"], row["section"], allowed, frozenset(row["policies"].split()), inputs, line)


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _broken(path: Path, line: int, what: str) -> ConfigError:
    return ConfigError(f"policy pack {path}, line {line}: {what}. Mend the table, or take the pack anew as it was delivered")
