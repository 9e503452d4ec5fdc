"""`sealmatch broker`: init, roster, status; configuration; the schema's steps."""

from __future__ import annotations

import ast
import json
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner, Result

import broker
from broker import cli
from broker.config import BrokerConfig, Limits
from broker.errors import OperatorError
from broker.folder import load_log_key, make_folder
from broker.store import Store
from broker.tables import metadata
from crypto.canonical import b64url_decode
from crypto.checkpoint import LogKey
from crypto.keys import VerifyingKey
from crypto.roster import Roster
from tests.broker_world import LOG_KEY, ROSTER, make_broker
from tests.sample_federation import NORTHPORT, VENDOR, root_set, sign_roster, signing_key, with_agency

FINGERPRINT = ROSTER.root.fingerprint.hex()
ORIGIN = "log.example.org/2026"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="sealmatch broker")


def made(folder: Path) -> dict[str, str]:
    result = run("init", folder, "--operator", VENDOR, "--origin", ORIGIN, "--root-fingerprint", FINGERPRINT, "--json")
    assert result.exit_code == 0, result.stderr
    facts: dict[str, str] = json.loads(result.stdout)
    return facts


def current(log: VerifyingKey, **changes: object) -> Roster:
    """The sample roster with this log's key, valid now: the command asks the machine's clock."""
    expires = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    return replace(ROSTER, log=LogKey(ORIGIN, log), expires=expires, **changes)  # type: ignore[arg-type]


def installed(folder: Path, document: bytes) -> Result:
    file = folder.parent / "roster.json"
    file.write_bytes(document)
    return run("roster", folder, file, "--json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made(tmp_path / "broker")
    return tmp_path / "broker"


def log_of(folder: Path) -> VerifyingKey:
    return load_log_key(folder).verifying_key


# --- init ---


def test_init_makes_a_broker_and_prints_what_the_root_holders_need(tmp_path: Path) -> None:
    facts = made(tmp_path / "deep" / "broker")
    assert set(facts) == {"operator", "origin", "log_key", "root_fingerprint"}
    assert VerifyingKey(b64url_decode(facts["log_key"])) == log_of(tmp_path / "deep" / "broker")
    assert (tmp_path / "deep" / "broker" / "log.key").stat().st_mode & 0o777 == 0o600
    config = BrokerConfig.load(tmp_path / "deep" / "broker")
    assert (config.operator, config.origin, config.root_fingerprint) == (VENDOR, ORIGIN, FINGERPRINT)
    assert config.limits == Limits()


def test_init_overwrites_nothing(folder: Path) -> None:
    before = (folder / "log.key").read_bytes()
    result = run("init", folder, "--operator", VENDOR, "--origin", ORIGIN, "--root-fingerprint", FINGERPRINT)
    assert result.exit_code == 2
    assert "already" in result.stderr
    (folder / "broker.toml").unlink()
    assert run("init", folder, "--operator", VENDOR, "--origin", ORIGIN, "--root-fingerprint", FINGERPRINT).exit_code == 2
    assert (folder / "log.key").read_bytes() == before


@pytest.mark.parametrize(
    ("operator", "origin", "fingerprint"),
    [("Vendor!", ORIGIN, FINGERPRINT), (VENDOR, "with space", FINGERPRINT), (VENDOR, ORIGIN, "abc"), (VENDOR, ORIGIN, FINGERPRINT.upper())],
)
def test_init_refuses_wrong_values_and_leaves_nothing(tmp_path: Path, operator: str, origin: str, fingerprint: str) -> None:
    target = tmp_path / "broker"
    result = run("init", target, "--operator", operator, "--origin", origin, "--root-fingerprint", fingerprint)
    assert (result.exit_code, result.stdout) == (2, "")
    assert list(target.iterdir()) == []


# --- roster ---


def test_a_roster_is_installed_and_followed(folder: Path) -> None:
    first = current(log_of(folder))
    facts = json.loads(installed(folder, sign_roster(first)).stdout)
    assert (facts["version"], facts["agencies"]) == (1, len(ROSTER.agencies))
    assert json.loads(installed(folder, sign_roster(first)).stdout) == facts
    assert installed(folder, sign_roster(replace(first, version=3))).exit_code == 0
    assert json.loads(run("status", folder, "--json").stdout)["roster_version"] == 3


def test_a_roster_that_a_node_would_refuse_is_refused(folder: Path) -> None:
    """Each with its own sentence and next step; none is stored."""
    log = log_of(folder)
    second = current(log, version=2)
    assert installed(folder, sign_roster(second)).exit_code == 0
    wrong = {
        "rollback": sign_roster(current(log, version=1)),
        "fork": sign_roster(with_agency(second, NORTHPORT, responsible_officer="Somebody else")),
        "expired": sign_roster(replace(current(log, version=3), expires=datetime(2026, 1, 1, tzinfo=UTC))),
        "one signature": sign_roster(current(log, version=3), holders=[NORTHPORT]),
        "another log key": sign_roster(current(signing_key("another log").verifying_key, version=3)),
        "another operator": sign_roster(replace(current(log, version=3), log_operator=NORTHPORT)),
        "another origin": sign_roster(replace(current(log, version=3), log=LogKey("log.example.org/2027", log))),
        "no roster": b"{}",
        "cut short": sign_roster(current(log, version=3))[:-1],
    }
    sentences = set()
    for name, document in wrong.items():
        result = installed(folder, document)
        assert (result.exit_code, result.stdout) == (2, ""), name
        assert result.stderr.startswith("sealmatch broker: "), name
        assert "Traceback" not in result.stderr
        sentences.add(result.stderr)
    assert len(sentences) >= 6
    assert json.loads(run("status", folder, "--json").stdout)["roster_version"] == 2


def test_the_first_roster_is_pinned(folder: Path) -> None:
    """Another root set, duly signed by itself, is not the one that this broker was told."""
    other = replace(current(log_of(folder)), root=root_set(2))
    result = installed(folder, sign_roster(other, 2))
    assert result.exit_code == 2
    assert json.loads(run("status", folder, "--json").stdout)["roster_version"] is None


def test_root_keys_can_be_handed_over(folder: Path) -> None:
    first = current(log_of(folder))
    installed(folder, sign_roster(first))
    second = replace(first, version=2, root=root_set(2), outgoing_root_keys=first.root.keys)
    assert installed(folder, sign_roster(second, 1, 2)).exit_code == 0
    assert installed(folder, sign_roster(replace(second, version=3, outgoing_root_keys=()), 2)).exit_code == 0


# --- what goes wrong ---


def test_errors_are_sentences(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "text").write_text("x")
    for arguments in (
        ("status", tmp_path / "nothing"),
        ("serve", tmp_path / "nothing"),
        ("roster", folder, tmp_path / "nothing.json"),
        ("roster", tmp_path / "nothing", tmp_path / "text"),
        ("init", tmp_path / "text", "--operator", VENDOR, "--origin", ORIGIN, "--root-fingerprint", FINGERPRINT),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert result.stderr.startswith("sealmatch broker: ")
        assert result.stderr.rstrip().endswith(".")
    (folder / "broker.sqlite").write_bytes(b"no database" * 1000)
    result = run("status", folder)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr


def test_every_command_has_an_example_and_json() -> None:
    for name in ("init", "roster", "serve", "status"):
        text = run(name, "--help").stdout
        assert f"sealmatch broker {name}" in text
        assert "--json" in text


# --- configuration ---


@pytest.mark.parametrize(
    "line", ["unknown = 1", "[limits]\nunknown = 1", "[limits]\nlease_s = -1", "folder = '/'", "x", "operator = 'again'"]
)
def test_a_wrong_configuration_stops_the_start(folder: Path, line: str) -> None:
    path = folder / "broker.toml"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(OperatorError, match=r"broker\.toml"):
        BrokerConfig.load(folder)


def test_limits_can_be_set(folder: Path) -> None:
    path = folder / "broker.toml"
    path.write_text(path.read_text() + "[limits]\nlease_s = 5\n")
    assert BrokerConfig.load(folder).limits == Limits(lease_s=5)


def test_every_limit_has_its_reason() -> None:
    """A sentence stands below every limit, and a unit in its name."""
    tree = ast.parse(Path(broker.__file__).with_name("config.py").read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Limits").body
    fields = [(at, node) for at, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
    assert [node.target.id for _, node in fields if isinstance(node.target, ast.Name)] == list(Limits.model_fields)
    for at, _ in fields:
        reason = body[at + 1]
        assert isinstance(reason, ast.Expr)
        assert isinstance(reason.value, ast.Constant)
        assert len(str(reason.value.value)) > 20


def test_a_log_key_that_others_can_read_is_not_used(folder: Path) -> None:
    (folder / "log.key").chmod(0o644)
    with pytest.raises(OperatorError, match="chmod"):
        load_log_key(folder)
    (folder / "log.key").chmod(0o600)
    (folder / "log.key").write_bytes(b"short")
    with pytest.raises(OperatorError):
        load_log_key(folder)


def test_the_sample_brokers_key_is_the_rosters(tmp_path: Path) -> None:
    config = make_broker(tmp_path / "sample")
    assert load_log_key(config.folder).verifying_key == LOG_KEY.verifying_key == ROSTER.log.key
    with pytest.raises(OperatorError):
        make_folder(config.folder, operator=VENDOR, origin=ORIGIN, root_fingerprint=FINGERPRINT)


# --- schema ---


async def test_the_migrations_make_the_tables(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    try:
        async with store.reading() as connection:
            for pragma, value in (("journal_mode", "wal"), ("secure_delete", 1), ("synchronous", 1), ("foreign_keys", 1)):
                assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar() == value
        with pytest.raises(IntegrityError):
            async with store.writing() as connection:
                await connection.execute(metadata.tables["parts"].insert().values(message_id="none", number=0, piece=b"x"))
    finally:
        await store.close()
    with create_engine(f"sqlite:///{tmp_path / 'store.sqlite'}").connect() as made:
        assert compare_metadata(MigrationContext.configure(made), metadata) == []


async def test_a_store_of_before_loses_its_nonces_and_nothing_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    config = Config()
    config.set_main_option("script_location", str(Path(broker.__file__).parent / "migrations"))
    with create_engine(url).connect() as old:
        config.attributes["connection"] = old
        command.upgrade(config, "0001")
        old.exec_driver_sql("INSERT INTO nonces VALUES ('northport-pd', x'00', 1)")
        old.exec_driver_sql("INSERT INTO manifests VALUES ('northport-pd', x'01')")
        old.commit()
    store = await Store.open(url)
    try:
        async with store.reading() as connection:
            assert (await connection.exec_driver_sql("SELECT * FROM manifests")).all() == [("northport-pd", b"\x01")]
            assert (await connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name LIKE '%nonces%'")).all() == []
    finally:
        await store.close()


async def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a folder with % and space.sqlite'}"
    for _ in range(2):
        await (await Store.open(url)).close()
    database = sqlite3.connect(tmp_path / "a folder with % and space.sqlite")
    assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("0005",)]
    database.close()
