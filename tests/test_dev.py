"""The door to the repository: help, the decision to set up again, the lock file, what CI reads."""

import ast
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import NetworkIsOffError

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "dev"
LOCK = ROOT / "deploy" / "requirements.lock"


def load_dev() -> ModuleType:
    """The script as a module; it has no suffix, so the loader is named."""
    loader = importlib.machinery.SourceFileLoader("sealmatch_dev", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    if spec is None:
        raise RuntimeError("dev cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


dev = load_dev()


def call(*argv: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine and keep what it says."""
    variables = os.environ | variables
    return subprocess.run(argv, cwd=cwd, env=variables, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603 -- ours


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(dev.COMMANDS))
def test_help_of_each_command_shows_an_example(name: str, tmp_path: Path) -> None:
    done = call(sys.executable, str(SCRIPT), name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: ./dev {name}")
    assert re.search(rf"\nexamples?:\n  \./dev {name}\b", done.stdout)
    assert done.stderr == ""  # no set-up for a call for help


def test_overview_lists_every_command_and_an_example() -> None:
    done = call(str(SCRIPT), "--help")
    assert done.returncode == 0
    assert all(re.search(rf"^  {name} ", done.stdout, re.MULTILINE) for name in dev.COMMANDS)
    assert "example:\n  ./dev test" in done.stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["tset"], "Did you mean test?"), (["lint", "--hard"], "lint does not take --hard"), (["lock", "x"], "lock does not take x")],
)
def test_a_wrong_call_gets_one_sentence(argv: list[str], words: str) -> None:
    done = call(str(SCRIPT), *argv)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


# --- old Python -------------------------------------------------------------------------------------------------------


def test_an_old_python_gets_a_sentence() -> None:
    pretend = "import runpy, sys; sys.version_info = (3, 9, 18, 'final', 0); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = call(sys.executable, "-c", pretend, str(SCRIPT), "setup")
    assert done.returncode == 1
    assert done.stderr.startswith("dev: Python 3.11 or newer is needed; this one is 3.9.18 (")
    assert "Traceback" not in done.stderr


def test_an_old_python_can_read_the_script() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))


# --- when to set up ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A folder with an environment that looks whole."""
    root = tmp_path / "with a space"
    (root / "deploy").mkdir(parents=True)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (root / "deploy" / "requirements.lock").write_text("one==1 --hash=sha256:" + "0" * 64 + "\n")
    (root / "pyproject.toml").write_text("[project]\n")
    dev.write_stamp(root, dev.wanted_stamp(root))
    return root


def test_a_whole_environment_is_left_alone(ready: Path) -> None:
    assert dev.outstanding(ready) == "nothing"


def test_a_changed_lock_means_everything(ready: Path) -> None:
    with dev.lock_of(ready).open("a") as lock:
        lock.write("two==2\n")
    assert dev.outstanding(ready) == "everything"


def test_a_changed_pyproject_means_the_project_alone(ready: Path) -> None:
    (ready / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert dev.outstanding(ready) == "project"


def test_another_python_means_everything(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 0, "final", 1))
    assert dev.outstanding(ready) == "everything"


def test_a_moved_folder_means_everything(ready: Path) -> None:
    assert dev.outstanding(ready.rename(ready.with_name("elsewhere"))) == "everything"


def test_a_lost_interpreter_means_everything(ready: Path) -> None:
    (ready / ".venv" / "bin" / "python").unlink()
    (ready / ".venv" / "bin" / "python").symlink_to(ready / "gone")
    assert dev.outstanding(ready) == "everything"


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"lock": "other"}'])
def test_a_lost_or_broken_stamp_means_everything(ready: Path, content: str | None) -> None:
    dev.stamp_of(ready).unlink()
    if content is not None:
        dev.stamp_of(ready).write_text(content)
    assert dev.outstanding(ready) == "everything"


def with_stub_pip(root: Path, body: str) -> None:
    """Put the script there, leave the project to be installed, and let the environment's python (so its pip) be a shell script."""
    shutil.copy(SCRIPT, root / "dev")
    (root / "pyproject.toml").write_text("[project]\n# changed\n")
    python = root / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)


def test_a_failed_set_up_is_told_and_done_again(ready: Path, tmp_path: Path) -> None:
    """Called from another folder, without a terminal, in a path with a space."""
    with_stub_pip(ready, "echo 'ERROR: the words of pip'; exit 7")
    done = call(sys.executable, str(ready / "dev"), "setup", cwd=tmp_path)
    assert done.returncode == 1
    assert "ERROR: the words of pip\n" in done.stderr
    assert "failed at: sealmatch itself, editable (exit 7)" in done.stderr
    assert dev.outstanding(ready) == "everything"


def test_a_finished_set_up_is_quiet_and_done_once(ready: Path, tmp_path: Path) -> None:
    with_stub_pip(ready, "echo 'the chatter of pip'")
    first, second = (call(sys.executable, str(ready / "dev"), "setup", cwd=tmp_path) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert "sealmatch itself" in first.stderr
    assert "chatter" not in first.stderr
    assert second.stderr == "set-up: nothing to do\n"


def test_a_file_that_changes_during_a_set_up_counts_as_changed(ready: Path) -> None:
    with_stub_pip(ready, "echo '# again' >> pyproject.toml")
    assert call(sys.executable, str(ready / "dev"), "setup").returncode == 0
    assert dev.outstanding(ready) == "project"


def test_a_killed_set_up_is_done_again(ready: Path) -> None:
    with_stub_pip(ready, "exec sleep 60")
    argv = [sys.executable, str(ready / "dev"), "setup"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, start_new_session=True) as process:  # noqa: S603 -- our own script
        until = time.monotonic() + 20
        while dev.stamp_of(ready).exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert dev.outstanding(ready) == "everything"


def test_programs_get_the_environment_and_its_caches(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/foreign")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    variables = dev.environment(ready)
    assert variables["PATH"].startswith(f"{ready}/.venv/bin:")
    assert variables["NUMBA_CACHE_DIR"] == f"{ready}/.venv/numba-cache"
    assert not variables.keys() & {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}


# --- the lock ---------------------------------------------------------------------------------------------------------


def locked() -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Pins and hashes by canonical name; a name may have several pins with different markers."""
    pins: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for entry in LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if entry.strip() and not entry.lstrip().startswith("#") and not entry.startswith("--"):
            requirement = Requirement(entry.partition(" --hash=")[0])
            pins.setdefault(canonicalize_name(requirement.name), []).append(
                (requirement, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry))
            )
    return pins


def declared() -> list[Requirement]:
    """Everything that pyproject.toml asks for, the build back end included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    names = [*project["project"]["dependencies"], *groups["dev"], *groups["build"], *project["build-system"]["requires"]]
    return [Requirement(name) for name in names]


@pytest.mark.parametrize("wanted", declared(), ids=str)
def test_the_lock_pins_what_pyproject_asks_for(wanted: Requirement) -> None:
    pins = locked().get(canonicalize_name(wanted.name), [])
    assert pins, f"{wanted} is not in the lock: run ./dev lock"
    for pin, _ in pins:
        (version,) = pin.specifier
        assert version.operator == "=="
        assert wanted.specifier.contains(version.version, prereleases=True), f"{pin} does not fit {wanted}: run ./dev lock"


def test_every_pin_has_a_hash() -> None:
    assert all(hashes for pins in locked().values() for _, hashes in pins)


def test_the_lock_names_no_address_and_no_folder() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"--(index-url|extra-index-url|find-links|trusted-host)", text)
    assert [line for line in text.splitlines() if "/" in line] == ["#    ./dev lock"]


REPLACED, REPLACES = "opencv-python", "opencv-python-headless"
"""Both lie in the folder `cv2`; insightface asks for the first, which opens windows and needs their libraries, and gets the second."""


@pytest.mark.parametrize("python", ["3.11.7", "3.12.1", "3.13.0"])
def test_each_python_has_one_pin_per_package(python: str) -> None:
    there = {"python_version": python.rpartition(".")[0], "python_full_version": python, "sys_platform": "linux"}
    for name, pins in locked().items():
        if name not in {"colorama", REPLACED}:  # Windows only, and nowhere
            assert sum(pin.marker is None or pin.marker.evaluate(there) for pin, _ in pins) == 1, name


def test_the_lock_is_closed() -> None:
    """Packages are installed without looking at what they require, so what they require must be in the lock and fit."""
    pins = locked()
    for name, entries in pins.items():
        if not any(pin.marker is None or pin.marker.evaluate() for pin, _ in entries):
            continue
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if canonicalize_name(needed.name) == REPLACED:
                needed = Requirement(text.replace("opencv-python", REPLACES))
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in pins, f"{name} needs {needed}"
                assert needed.specifier.contains(importlib.metadata.version(needed.name), prereleases=True), f"{name} needs {needed}"


# --- what CI reads ----------------------------------------------------------------------------------------------------


def test_table_and_json_tell_a_failure() -> None:
    areas = [dev.Area("lint", 6.0, passed=True), dev.Area("tests/test_x.py", 90.0, passed=False, note="1 failed")]
    lines = dev.table(areas, 96.0).splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [["0.10", "passed"], ["1", "failed"], ["1.60", "FAILED"]]
    told = json.loads(dev.as_json(areas, dev.Counts(3, 1, 2)))
    assert told["passed"] is False
    assert told["areas"][1] == {"name": "tests/test_x.py", "minutes": 1.5, "passed": False}
    assert dev.Counts(3, 1, 2).line() == "tests: 3 passed, 1 failed, 2 skipped"


def test_an_area_goes_on_after_a_failure(ready: Path, capfd: pytest.CaptureFixture[str]) -> None:
    area = dev.run_area(ready, "lint", [["sh", "-c", "echo first; exit 1"], ["sh", "-c", "echo second"]], sys.stderr)
    assert not area.passed
    assert {"first", "second"} <= set(capfd.readouterr().err.splitlines())


def test_times_and_counts_come_from_the_workers(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tests)
    (tests / "test_a.py").write_text("import time, pytest\ndef test_1(): time.sleep(0.2)\n@pytest.mark.skip\ndef test_2(): pass\n")
    (tests / "test_b.py").write_text(
        "import pytest\n@pytest.fixture\ndef bad(): raise ValueError\ndef test_1(bad): pass\ndef test_2(): assert 0\n"
    )
    (tests / "test_c.py").write_text("import nothing_of_that_name\n")
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "--rootdir",
        ".",
        "tests",
    ]
    done = call(*argv, cwd=tmp_path, SEALMATCH_TEST_TIMES=str(tmp_path / "times.json"))
    assert done.returncode == 1
    assert re.search(r"^1 failed, 1 passed, 1 skipped, 2 errors in ", done.stdout, re.MULTILINE)
    files = json.loads((tmp_path / "times.json").read_text())
    seconds = {name: row.pop("seconds") for name, row in files.items()}
    assert seconds["tests/test_a.py"] >= 0.2
    assert files == {
        "tests/test_a.py": {"passed": 1, "failed": 0, "skipped": 1},
        "tests/test_b.py": {"passed": 0, "failed": 2, "skipped": 0},
        "tests/test_c.py": {"passed": 0, "failed": 1, "skipped": 0},
    }


@pytest.mark.parametrize("code", [0, 1])
def test_ci_runs_dev_test_and_fails_when_it_fails(tmp_path: Path, code: int) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "dev").write_text(f'#!/bin/sh\necho "$@ in $PWD"\nexit {code}\n')
    (tmp_path / "dev").chmod(0o755)
    done = call(str(tmp_path / ".ci" / "run"), cwd=Path("/"))
    assert (done.returncode, done.stdout) == (code, f"test in {tmp_path}\n")


# --- no network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.org"])
def test_another_machine_is_out_of_reach(host: str) -> None:
    with pytest.raises(NetworkIsOffError, match=re.escape(repr(host))):
        socket.create_connection((host, 443), timeout=1)
    with pytest.raises(NetworkIsOffError), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"", (host, 443))


def test_this_machine_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2], timeout=5) as client:
        assert client.getpeername() == server.getsockname()
