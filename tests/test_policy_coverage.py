"""docs/policy-coverage.md says for each rule whether the code enforces it: shown here by taking the rule out and seeing its tests go red.

A rule is *enforced* when a test that is marked with it fails as soon as the rule's switch is off (`rule_switches`), *evidenced* when a
marked test reads the record and there is no switch, else *not yet*. The page is made from the marks; it is written anew by

    python -m tests.test_policy_coverage
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.rule_switches import SWITCHES
from tests.rule_titles import RULES

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "policy-coverage.md"
HEAD = """# Which rules the code enforces

The rules R1 to R79 are drawn from statutes, court settlements, agency manuals and standards; the packs under `deploy/policies/` say
what each jurisdiction makes of those that differ, each with its source and evidence. This page is generated from marks in the tests, and a
test fails when it is not what the tests say (`tests/test_policy_coverage.py`).

- **enforced**: a marked test fails when the enforcement named here is taken out, which is tried for each rule whenever the tests run;
- **evidenced**: a marked test reads the record or the property that shows it, and nothing is switched off;
- **not yet**: neither. Some of these are duties of people that a program can at most remind of; most are still to be built.

A rule of law in a program is our reading of it and not legal advice.
"""


def marked() -> dict[str, list[str]]:
    """Rule to the tests that are marked with it, as `file::test`, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.rule":
                    for argument in mark.args:
                        assert isinstance(argument, ast.Constant), f"{path.name}: a mark names its rule as plain text"
                        found[str(argument.value)].append(f"{path.name}::{node.name}")
    return dict(found)


def page() -> str:
    """The whole page."""
    tests = marked()
    states = {rule: "enforced" if rule in SWITCHES else "evidenced" if rule in tests else "not yet" for rule in RULES}
    counts = ", ".join(f"{list(states.values()).count(state)} {state}" for state in ("enforced", "evidenced", "not yet"))
    rows = [
        f"| {rule} | {title} | {states[rule]} | {SWITCHES[rule].what if rule in SWITCHES else ''} | "
        + "<br>".join(f"`{test}`" for test in tests.get(rule, ()))
        + " |"
        for rule, title in RULES.items()
    ]
    table = ["| rule | what it asks | state | what is taken out | tests |", "|---|---|---|---|---|", *rows]
    return f"{HEAD}\nOf {len(RULES)} rules: {counts}.\n\n" + "\n".join(table) + "\n"


def test_the_page_is_what_the_tests_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.test_policy_coverage"


def test_marks_and_switches_name_rules_that_exist() -> None:
    assert len(RULES) == 79
    assert set(marked()) <= set(RULES)
    assert set(SWITCHES) <= set(marked()), "a switch without a test shows nothing"


@pytest.fixture(scope="module")
def without() -> dict[str, dict[str, object]]:
    """Rule to how its marked tests ended with its switch off, each in a process of its own (`rules_off`)."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    chosen = json.dumps({rule: marked()[rule] for rule in SWITCHES})
    done = subprocess.run(
        [sys.executable, "-m", "tests.rules_off"], input=chosen, check=True, cwd=TESTS.parent, env=variables, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("rule", SWITCHES)
def test_a_rule_that_is_taken_out_is_missed(rule: str, without: dict[str, dict[str, object]]) -> None:
    """Some test that is marked with the rule fails without it. That all pass with it, the rest of the run shows."""
    ended = without[rule]
    assert ended["code"] == 1, f"exit code {ended['code']} where a failed test was expected:\n{ended['said']}"
    assert ended["failed"] is True, ended["said"]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
