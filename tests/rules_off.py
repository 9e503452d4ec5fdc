"""Runs the tests that bear a rule's mark with that rule's switch off, for many rules: a process each, forked from one that imported all.

Reads `{rule: [file::test, ...]}` as JSON from standard input, writes `{rule: {"code", "failed", "said"}}`. Invariants: a switch is taken
out in a process that ends after its tests, so no rule's switch is off in another's run; the parent runs no test and starts no thread, so
it can be forked. Left to others: which rule has which switch (`rule_switches`), taking it out (`conftest`), what an exit code means
(`test_policy_coverage`).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
IMPORTED = ("agency_node.serving", "broker.app", "tests.node_world", "tests.rule_switches")
"""What takes seconds to import, and starts no thread."""
SHORT = "test_rules.py"
SHOWN_CHARS = 2_000
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Plugins were imported before pytest could rewrite their assertions, which it would warn of."""


def run(rule: str, chosen: list[str]) -> dict[str, object]:
    """One rule's tests in a process of their own, up to the first that fails."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            code = pytest.main([*OPTIONS, "--rule-off", rule, *(str(TESTS / one) for one in chosen)])
            sys.stdout.flush()
            os._exit(int(code))
        _, status = os.waitpid(child, 0)
        said.seek(0)
        text = said.read()
        names_a_test = "FAILED tests/" in text  # asked of all of it: one line may be longer than what is shown
        return {"code": os.waitstatus_to_exitcode(status), "failed": names_a_test, "said": text[-SHOWN_CHARS:]}


def slow_last(test: str) -> int:
    """The file made of one short test a rule comes first, files that put a federation together last: mostly a short one fails already."""
    name = test.partition("::")[0]
    if name == SHORT:
        return 0
    return 1 + ("_world import" in (TESTS / name).read_text(encoding="utf-8"))


def main() -> None:
    """All rules of standard input, one after the other."""
    for name in IMPORTED:
        importlib.import_module(name)
    asked: dict[str, list[str]] = json.load(sys.stdin)
    sys.stdout.write(json.dumps({rule: run(rule, sorted(chosen, key=slow_last)) for rule, chosen in asked.items()}))


if __name__ == "__main__":
    main()
