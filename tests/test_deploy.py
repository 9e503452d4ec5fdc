"""What `deploy/` holds fits the programs: every key of a sample exists and no key is missing, units and compose file start commands that
there are, with the hardening that they promise.

The samples are held against the settings classes by their own walk, which knows nothing of the script that writes them. No service manager
and no container engine runs here.
"""

from __future__ import annotations

import itertools
import re
import runpy
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import Mode, NodeConfig, Role
from agency_node.errors import ConfigError
from broker.config import BrokerConfig
from broker.errors import OperatorError

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
UNITS = ["sealmatch-node@.service", "sealmatch-broker.service"]
NODES = {"requester": {Role.REQUESTER}, "holder": {Role.HOLDER}, "custodian": {Role.CUSTODIAN}, "witness": set[Role]()}
NO_DEFAULT = {"agency", "roles", "broker", "root_fingerprint", "operator", "origin"}
EXPOSED_AT_MOST = "20"
"""Of 100 in systemd's own count of what a unit leaves open."""


def load(role: str, folder: Path, text: str) -> NodeConfig | BrokerConfig:
    """The sample through the door that the program itself takes."""
    name = "broker.toml" if role == "broker" else "node.toml"
    (folder / name).write_text(text, encoding="utf-8")
    return BrokerConfig.load(folder) if role == "broker" else NodeConfig.load(folder)


def sample(role: str, kind: str) -> str:
    return (DEPLOY / "config" / f"{role}-{kind}.toml").read_text(encoding="utf-8")


def switched_on(text: str) -> str:
    """With the settings that the sample shows switched off."""
    return re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)


def model_of(annotation: Any) -> type[BaseModel] | None:
    return next(
        (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)),
        None,
    )


def keys_of(model: type[BaseModel], at: str = "") -> Iterator[str]:
    """Every key that a settings class takes, with its tables' keys."""
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        yield f"{at}{name}"
        inner = model_of(field.annotation)
        if inner is not None:
            yield from keys_of(inner, f"{at}{name}.")


def keys_in(values: dict[str, Any], at: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{at}{name}"
        if isinstance(value, dict):
            yield from keys_in(value, f"{at}{name}.")


@pytest.mark.parametrize("role", [*NODES, "broker"])
def test_a_full_sample_names_every_key_and_no_other_with_its_default(role: str, tmp_path: Path) -> None:
    model = BrokerConfig if role == "broker" else NodeConfig
    text = sample(role, "full")
    config = load(role, tmp_path, text)
    shown = list(keys_in(tomllib.loads(switched_on(text))))
    assert sorted(shown) == sorted(keys_of(model))
    load(role, tmp_path, switched_on(text))
    for name, field in model.model_fields.items():
        if field.exclude or name in NO_DEFAULT or (role == "holder" and name == "trusted_custodians"):
            continue
        assert getattr(config, name) == field.get_default(call_default_factory=True), name


@pytest.mark.parametrize("kind", ["basic", "full"])
@pytest.mark.parametrize("role", [*NODES, "broker"])
def test_a_sample_loads_and_every_key_has_its_words(role: str, kind: str, tmp_path: Path) -> None:
    text = sample(role, kind)
    config = load(role, tmp_path, text)
    if isinstance(config, NodeConfig):
        assert (config.mode, set(config.roles)) == (Mode.PRODUCTION, NODES[role])
        if kind == "basic":
            assert config.posted_policy is not None
            assert config.approval is not None
    lines = text.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"#?[a-z_]+ = |#?\[", line):
            assert before.startswith("# "), line
    with pytest.raises(ConfigError if role != "broker" else OperatorError):
        load(role, tmp_path, f"unheard_of = 1\n{text}")


def test_samples_are_what_their_script_writes() -> None:
    written = runpy.run_path(str(DEPLOY / "config" / "write_samples.py"))["samples"]()
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in (DEPLOY / "config").glob("*.toml")}
    assert on_disk == written, "run deploy/config/write_samples.py again"


# --- units and containers ---------------------------------------------------------------------------------------------


def settings_of(unit: str) -> dict[str, list[str]]:
    """A unit's settings by name."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / unit).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def check_command(words: list[str]) -> None:
    """`broker serve …` or `node serve …`: a command that there is, with options that it has."""
    shown = CliRunner().invoke(app, [*words[:2], "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for option in (word for word in words if word.startswith("--")):
        assert option in re.findall(r"--[a-z-]+", shown.output), option


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_starts_a_command_that_there_is_and_gives_it_little(unit: str) -> None:
    settings = settings_of(unit)
    program, *words = settings["ExecStart"][0].split()
    assert program == "/opt/sealmatch/.venv/bin/sealmatch"
    check_command(words)
    assert {"NUMBA_CACHE_DIR=/var/cache/sealmatch", "ORT_DISABLE_TELEMETRY=1"} <= set(settings["Environment"])
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["ReadWritePaths"] == [words[2]]
    assert settings["CapabilityBoundingSet"] == [""]
    assert settings["NoNewPrivileges"] == ["yes"]
    assert settings["LimitCORE"] == ["0"]
    assert settings["SocketBindDeny"] == ["any"]
    assert settings.get("SocketBindAllow", []) == ([] if "node" in unit else ["ipv4:tcp:8440"])


def test_a_node_s_unit_allows_the_calls_that_a_node_makes() -> None:
    """A thread that prepares a layout lowers its priority; where that were denied, a holder would stop after one layout's searches."""
    denied = [word for value in settings_of(UNITS[0])["SystemCallFilter"] if value.startswith("~") for word in value[1:].split()]
    sources = "".join(path.read_text(encoding="utf-8") for path in (DEPLOY.parent / "agency_node").rglob("*.py"))
    assert "os.setpriority(" in sources
    assert {"@resources", "setpriority"}.isdisjoint(denied)


@pytest.mark.parametrize("unit", UNITS)
def test_the_service_manager_takes_the_units(unit: str, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not on this machine, so the units were not read by it; it comes with systemd (apt install systemd)")
    text = (DEPLOY / "systemd" / unit).read_text(encoding="utf-8")
    assert analysed(program, tmp_path, unit, text) == (0, "")
    _, said = analysed(program, tmp_path, unit, text.replace("NoNewPrivileges=", "NoNewPrivilege="))
    assert "NoNewPrivilege" in said  # the control: a misspelt setting is seen
    argv = [program, "security", "--no-pager", "--offline=true", f"--threshold={EXPOSED_AT_MOST}", str(tmp_path / unit)]
    (tmp_path / unit).write_text(with_a_program(text), encoding="utf-8")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    if "unrecognized option" not in done.stderr:  # systemd before 250 does not count without a running manager
        assert done.returncode == 0, done.stdout


def with_a_program(text: str) -> str:
    """A unit's file with a program that is on this machine: the manager looks for it."""
    return text.replace("/opt/sealmatch/.venv/bin/sealmatch", "/bin/true")


def analysed(program: str, folder: Path, unit: str, text: str) -> tuple[int, str]:
    """What `systemd-analyze verify` ends with and says of this unit, with the drop-in beside it."""
    dropped = folder / f"{unit}.d"
    dropped.mkdir(exist_ok=True)
    shutil.copy(DEPLOY / "systemd" / "one-address.conf", dropped)
    (folder / unit).write_text(with_a_program(text), encoding="utf-8")
    argv = [program, "verify", "--man=no", str(folder / unit)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    ours = "\n".join(line for line in done.stderr.splitlines() if unit.partition("@")[0].partition(".")[0] in line or "one-address" in line)
    return done.returncode, ours


def test_the_compose_file_is_whole_and_no_node_has_a_port() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))
    assert set(compose) == {"name", "x-hardened", "services", "volumes"}
    assert set(compose["services"]) == {"broker", "node"}
    for name, service in compose["services"].items():
        check_command(service["command"])
        assert all(isinstance(word, str) for word in service["command"])
        assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
        assert service["environment"] == {"NUMBA_CACHE_DIR": "/var/cache/sealmatch", "ORT_DISABLE_TELEMETRY": "1"}
        assert ("ports" in service) is (name == "broker")
        assert {"privileged", "network_mode", "pid"}.isdisjoint(service)
        volumes = [volume.split(":") for volume in service["volumes"]]
        assert all(volume[0].startswith("./") or volume[0] in compose["volumes"] for volume in volumes)
        assert service["build"] == {"context": "..", "dockerfile": "deploy/Containerfile"}
    made = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert "./dev setup" in made
    assert made.index("\nUSER sealmatch") < made.index("\nENTRYPOINT")
