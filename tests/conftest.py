"""What every test stands on: no network, reproducible hypothesis, minutes per file.

Invariants
- A test in this process reaches no machine but this one; an attempt is an error that names the address.
- Nothing but bytecode is written into the source tree: the databases of hypothesis and the cache of numba live inside the environment.
- With CI set, hypothesis draws the same examples every time; without it, it looks for new ones and remembers those that failed.

What it leaves to others: the table itself and the areas that are not tests (`dev`), which warnings are errors (pyproject.toml).
Programs that a test starts are not held by the guard; such a test points them at this machine itself.
"""

import ipaddress
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.configuration
import pytest

CACHES = Path(sys.prefix if sys.prefix != sys.base_prefix else tempfile.gettempdir())
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the test workers fill the cores already
os.environ.setdefault("NUMBA_CACHE_DIR", str(CACHES / "numba-cache"))  # before anybody imports numba

IN_CI = bool(os.environ.get("CI"))
hypothesis.configuration.set_hypothesis_home_dir(CACHES / "hypothesis")
if IN_CI:
    hypothesis.settings.register_profile("sealmatch", deadline=None, derandomize=True, database=None)
else:
    hypothesis.settings.register_profile("sealmatch", deadline=None)
hypothesis.settings.load_profile("sealmatch")


# --- network off ------------------------------------------------------------------------------------------------------


class NetworkIsOffError(RuntimeError):
    """A test tried to reach another machine. Not an OSError: code that forgives an unreachable peer must not forgive this."""


def refuse_remote(family: int, address: Any) -> None:
    """Refuse an address that is not on this machine. Names are refused too, but for localhost: looking them up asks the network."""
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return
    host = str(address[0])
    if host in {"", "localhost"}:
        return
    try:
        parsed = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        parsed = None
    if parsed is None or not (parsed.is_loopback or parsed.is_unspecified):
        raise NetworkIsOffError(f"tests run with the network off, and this one wanted {host!r}; use 127.0.0.1 or a fake")


@pytest.fixture(scope="session", autouse=True)
def network_off() -> Iterator[None]:
    """Guard the ways by which Python code reaches another machine: connecting, sending datagrams, asking for an address."""
    connect, connect_ex, sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
    getaddrinfo = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        refuse_remote(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        refuse_remote(self.family, address)
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, data: Any, *rest: Any) -> int:
        refuse_remote(self.family, rest[-1])
        return sendto(self, data, *rest)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        text = host.decode("idna") if isinstance(host, bytes) else host
        refuse_remote(socket.AF_INET, (text or "",))
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket.socket, "sendto", guarded_sendto)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


# --- rules ------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `test_policy_coverage` asks for: the tests of one rule, with that rule taken out."""
    parser.addoption("--rule-off", metavar="Rn", help="run only the tests that are marked with this rule, with its enforcement taken out")


@pytest.fixture(autouse=True)
def rule_taken_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, unless a rule is to be taken out."""
    rule = request.config.getoption("--rule-off")
    if rule:
        from tests.rule_switches import SWITCHES  # noqa: PLC0415 -- loads the whole program

        SWITCHES[rule].off(monkeypatch)


# --- order ------------------------------------------------------------------------------------------------------------

LONG = ("test_walkthrough.py", "test_end_to_end.py", "test_leaks.py", "test_killed.py", "test_broker_process.py")
"""Files that start processes: first, so that the run does not end with one worker waiting for another."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first, in the order of `LONG`; all others as they were found. With a rule taken out, its own tests only."""
    rule = config.getoption("--rule-off")
    if rule:
        items[:] = [item for item in items if any(rule in mark.args for mark in item.iter_markers("rule"))]
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


# --- minutes by area --------------------------------------------------------------------------------------------------


class FileTimes:
    """Seconds and outcomes per test file. With xdist only the controller has one, and reports of all workers pass through it."""

    def __init__(self, target: Path | None) -> None:
        self.target = target
        self.files: dict[str, dict[str, float]] = {}

    def _row(self, nodeid: str) -> dict[str, float]:
        return self.files.setdefault(nodeid.split("::", maxsplit=1)[0], {"seconds": 0.0, "passed": 0, "failed": 0, "skipped": 0})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count set-up, call and teardown as time; a failure in any of them is a failure, a pass is a pass of the call."""
        row = self._row(report.nodeid)
        row["seconds"] += report.duration
        if report.failed:
            row["failed"] += 1
        elif report.skipped:
            row["skipped"] += 1
        elif report.when == "call":
            row["passed"] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported has failed; one that skips itself is skipped."""
        if report.failed:
            self._row(report.nodeid)["failed"] += 1
        elif report.skipped:
            self._row(report.nodeid)["skipped"] += 1

    def pytest_sessionfinish(self) -> None:
        """Hand the rows to whoever asked for them (`./dev test`)."""
        if self.target is not None:
            self.target.write_text(json.dumps(self.files), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the rows when nobody asked and there is more than one."""
        if self.target is None and len(self.files) > 1:
            terminalreporter.section("minutes by area")
            for name, row in sorted(self.files.items(), key=lambda item: -item[1]["seconds"]):
                terminalreporter.write_line(f"{row['seconds'] / 60:7.2f}  {name}")


def pytest_configure(config: pytest.Config) -> None:
    """Collect in the controller only."""
    if not hasattr(config, "workerinput"):
        target = os.environ.get("SEALMATCH_TEST_TIMES")
        config.pluginmanager.register(FileTimes(Path(target) if target else None), "sealmatch-file-times")
