"""The calibration table's file: one spelling, honest about its pairs; and which table a custodian takes in which mode."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import Mode, NodeConfig
from agency_node.custodian.tables_in_use import check_table, load_tables
from agency_node.errors import ConfigError
from agency_node.faces.embedder import load_embedder
from agency_node.node import create_node, open_node
from agency_node.serving import Service
from agency_node.tables import custody
from crypto.calibration_table import MAX_TABLE_BYTES, CalibrationTable, TableKind
from crypto.errors import FieldError, NotCanonicalError, OversizedError, PeerError, ReleaseError, VersionError
from crypto.impostors import ImpostorTable
from crypto.notices import RefusalReason
from crypto.release import ReleaseTerms, release
from tests.json_mutation import json_values, paths, replaced, spelled
from tests.node_world import MODEL, World, search_claims, the_refusal
from tests.sample_federation import LAKESIDE, NORTHPORT, NOW, OVERSIGHT, digest
from tests.simulation import GRANT_DIGEST
from tests.test_release import NORTH, SOUTH, discovery_of, scores

TODAY = NOW.date()
MEASURED = CalibrationTable(
    kind=TableKind.MEASURED,
    model_hash=MODEL.model_hash,
    measured_by="Laboratory of the sample state, report 12",
    measured_on=TODAY - timedelta(days=30),
    expires_on=TODAY + timedelta(days=300),
    persons=200_000,
    pairs=19_999_900_000,
    fitted_from=600_000,
    deviation=125_000,
    cosines=(0, 200_000, 400_000, 600_000, 700_000),
    shares=(301_030, 1_200_000, 3_100_000, 7_000_000, 10_500_000),
)
DOCUMENT = json.loads(MEASURED.to_bytes())
SYNTHETIC = CalibrationTable.synthetic(MODEL.model_hash, MODEL.dimensions, TODAY)


# --- the format -------------------------------------------------------------------------------------------------------


COUNTED = replace(MEASURED, fitted_from=None, shares=(301_030, 400_000, 500_000, 600_000, 700_000))


@pytest.mark.parametrize("table", [MEASURED, SYNTHETIC, COUNTED], ids=["with a fitted tail", "synthetic", "counted"])
def test_a_table_comes_back_and_has_one_spelling(table: CalibrationTable) -> None:
    data = table.to_bytes()
    assert len(data) < MAX_TABLE_BYTES
    assert CalibrationTable.from_bytes(data) == table
    assert CalibrationTable.from_bytes(data).digest == table.digest
    for other in (data + b"\n", b" " + data, data.replace(b",", b", ", 1)):
        with pytest.raises(NotCanonicalError):
            CalibrationTable.from_bytes(other)


def test_the_synthetic_table_gives_the_thresholds_of_random_directions() -> None:
    exact, read = ImpostorTable.isotropic(MODEL.model_hash, MODEL.dimensions), CalibrationTable.from_bytes(SYNTHETIC.to_bytes()).impostors()
    assert read.synthetic
    assert read.deviation == pytest.approx(exact.deviation, rel=1e-4)
    for compared, rate in ((1000, 1000), (2_500_000, 1000), (10**8, 100)):
        assert read.threshold(compared, rate) == pytest.approx(exact.threshold(compared, rate), abs=2e-6)


def test_a_measured_table_gives_what_its_points_say() -> None:
    table = MEASURED.impostors()
    assert not table.synthetic
    assert table.share_at(0.4) == pytest.approx(10**-3.1)
    assert table.cosine_at(10**-7.0) == pytest.approx(0.6)
    with pytest.raises(ReleaseError, match="measure further or search fewer"):
        table.threshold(10**10, 1)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"model_hash": b"short"}, id="a model hash of another length"),
        pytest.param({"measured_by": " "}, id="measured by nobody named"),
        pytest.param({"expires_on": MEASURED.measured_on}, id="no life"),
        pytest.param({"expires_on": MEASURED.measured_on + timedelta(days=367)}, id="a life of more than a year"),
        pytest.param({"deviation": 0}, id="no deviation"),
        pytest.param({"cosines": (1,), "shares": (2,)}, id="one point"),
        pytest.param({"cosines": MEASURED.cosines[:-1]}, id="more shares than cosines"),
        pytest.param({"cosines": MEASURED.cosines[::-1]}, id="cosines that fall"),
        pytest.param({"shares": (301_030, 301_030, *MEASURED.shares[2:])}, id="a share twice"),
        pytest.param({"cosines": (*MEASURED.cosines[:-1], 1_000_001)}, id="a cosine above one"),
        pytest.param({"shares": (-1, *MEASURED.shares[1:])}, id="a share above all"),
        pytest.param({"pairs": 29}, id="too few pairs for any share"),
        pytest.param({"pairs": 100_000}, id="a rarer share than the pairs can show"),
        pytest.param({"fitted_from": None}, id="counted further than there are pairs"),
        pytest.param({"fitted_from": 700_001}, id="fitted beyond the table"),
        pytest.param({"shares": (*MEASURED.shares[:-1], 10_900_000)}, id="a fit followed too far"),
        pytest.param({"persons": 1}, id="one person"),
        pytest.param({"kind": TableKind.SYNTHETIC}, id="a measurement that calls itself synthetic"),
    ],
)
def test_a_table_that_claims_more_than_it_can_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match=r"table\."):
        replace(MEASURED, **changes)


def test_a_synthetic_table_cannot_call_itself_measured() -> None:
    """R33: the word alone changes nothing, because it has no pairs."""
    with pytest.raises(FieldError, match=r"table\.persons"):
        replace(SYNTHETIC, kind=TableKind.MEASURED)


@given(st.data())
def test_hostile_members_are_refused_in_our_own_words(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(paths(DOCUMENT)))
    changed = replaced(DOCUMENT, path, data.draw(json_values))
    with suppress(PeerError):
        assert CalibrationTable.from_bytes(changed).to_bytes() == changed


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    with pytest.raises(PeerError):
        CalibrationTable.from_bytes(data)


def test_too_long_deep_or_of_another_kind() -> None:
    with pytest.raises(OversizedError):
        CalibrationTable.from_bytes(b" " * (MAX_TABLE_BYTES + 1))
    with pytest.raises(NotCanonicalError):
        CalibrationTable.from_bytes(b'{"a":' * 20_000)
    with pytest.raises(VersionError):
        CalibrationTable.from_bytes(spelled({**DOCUMENT, "type": "sealmatch-2/calibration-table"}))
    for document in ({**DOCUMENT, "more": 1}, {name: value for name, value in DOCUMENT.items() if name != "pairs"}):
        with pytest.raises(FieldError):
            CalibrationTable.from_bytes(spelled(document))
    with pytest.raises(FieldError, match="not an integer"):
        CalibrationTable.from_bytes(spelled({**DOCUMENT, "cosines": [True, *DOCUMENT["cosines"][1:]]}))


# --- the threshold over the federation --------------------------------------------------------------------------------


@pytest.mark.rule("R33")
def test_the_threshold_rises_with_the_federation_s_sum_and_is_one_for_all() -> None:
    """R33: what would reach the threshold of its own gallery alone does not reach that of all together."""
    table, terms = MEASURED.impostors(), ReleaseTerms(GRANT_DIGEST, 20, 1000)
    alone = release(terms, table, [scores(NORTH, [], impostors=5000)])
    together = release(terms, table, [scores(NORTH, [], impostors=5000), scores(SOUTH, [], impostors=45_000)])
    first, second = discovery_of(alone), discovery_of(together)
    assert (first.compared, second.compared) == (5000, 50_000)
    assert second.threshold_milli > first.threshold_milli
    assert second.threshold_milli == round(1000 * table.threshold(50_000, 1000))
    between = (first.threshold_milli + second.threshold_milli) / 2000
    own = release(terms, table, [scores(NORTH, [between], impostors=5000)])
    all_of_them = release(terms, table, [scores(NORTH, [between], impostors=5000), scores(SOUTH, [], impostors=45_000)])
    assert (len(own.to_requester.leads), len(all_of_them.to_requester.leads)) == (1, 0)


@pytest.mark.rule("R32")
def test_the_cap_is_one_for_all_holders() -> None:
    """R32: two galleries with three leads each, a cap of four."""
    found = release(
        ReleaseTerms(GRANT_DIGEST, 4, 1000), MEASURED.impostors(), [scores(NORTH, [0.95, 0.94, 0.93]), scores(SOUTH, [0.92, 0.91, 0.9])]
    )
    assert [len(found.to_holders[holder].leads) for holder in (NORTH, SOUTH)] == [3, 1]


# --- which table a custodian takes ------------------------------------------------------------------------------------


def settings(mode: str = "production", **changes: Any) -> NodeConfig:
    values = {
        "agency": str(OVERSIGHT),
        "mode": mode,
        "roles": ["custodian"],
        "broker": "https://broker.example",
        "root_fingerprint": "0" * 64,
    }
    return NodeConfig.checked({**values, **changes})


def pinned(folder: Path, table: CalibrationTable, mode: str = "production", sha256: str | None = None) -> NodeConfig:
    (folder / "table.json").write_bytes(table.to_bytes())
    return settings(mode, calibration={"file": "table.json", "sha256": table.digest.hex() if sha256 is None else sha256})


@pytest.mark.rule("R33")
def test_production_takes_a_measured_table_and_no_other(tmp_path: Path) -> None:
    """R33: measured, of the model, in its life, under the digest that was pinned."""
    config = pinned(tmp_path, MEASURED)
    assert load_tables(tmp_path, config, [MODEL], TODAY) == {MODEL.model_hash: MEASURED}
    for words, wrong, today in (
        ("synthetic", SYNTHETIC, TODAY),
        ("another face model", replace(MEASURED, model_hash=digest("another model")), TODAY),
        ("holds from", MEASURED, MEASURED.expires_on + timedelta(days=1)),
        ("holds from", MEASURED, MEASURED.measured_on - timedelta(days=1)),
    ):
        with pytest.raises(ConfigError, match=words):
            load_tables(tmp_path, pinned(tmp_path, wrong), [MODEL], today)
    with pytest.raises(ConfigError, match="synthetic one is refused in production"):
        load_tables(tmp_path, settings(), [MODEL], TODAY)
    assert load_tables(tmp_path, pinned(tmp_path, MEASURED), [MODEL], MEASURED.expires_on)  # the last day is one of its days


@pytest.mark.rule("R33")
def test_a_table_under_another_digest_is_refused(tmp_path: Path) -> None:
    """A table whose shares were made rarer, so that thresholds fall, and every single altered byte."""
    config = pinned(tmp_path, MEASURED)
    forged = replace(MEASURED, shares=(301_030, 1_900_000, 4_000_000, 8_000_000, 10_500_000))
    assert forged.impostors().threshold(100_000, 1000) < MEASURED.impostors().threshold(100_000, 1000)
    (tmp_path / "table.json").write_bytes(forged.to_bytes())
    with pytest.raises(ConfigError, match="not the one whose SHA-256 was told"):
        load_tables(tmp_path, config, [MODEL], TODAY)
    good = MEASURED.to_bytes()
    for place in range(0, len(good), 7):
        (tmp_path / "table.json").write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(ConfigError):
            load_tables(tmp_path, config, [MODEL], TODAY)
    (tmp_path / "table.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tables(tmp_path, config, [MODEL], TODAY)


def test_demonstrations_and_tests_run_on_the_synthetic_table(tmp_path: Path) -> None:
    for mode in (Mode.DEMO, Mode.TEST):
        (table,) = load_tables(tmp_path, settings(mode.value), [MODEL], TODAY).values()
        assert table.is_synthetic
        check_table(SYNTHETIC, [MODEL], mode, TODAY)


@pytest.mark.parametrize("calibration", [{"file": "a.json"}, {"sha256": "0" * 64}, {"file": "a", "sha256": "abc"}, {"sigma": 1}])
def test_half_a_pin_stops_the_start(calibration: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="calibration"):
        settings(calibration=calibration)


@pytest.mark.rule("R33")
def test_a_production_custodian_is_put_together_with_a_measured_table_only(tmp_path: Path) -> None:
    """R33: the node itself, as `node serve` builds it, with dlib's model."""
    model = load_embedder("dlib").model
    folder = tmp_path / "node"
    create_node(folder, settings(), witness=False)
    now = NOW
    with pytest.raises(ConfigError, match="no measured calibration table"):
        Service(open_node(folder, lambda: now))
    table = replace(MEASURED, model_hash=model.model_hash)
    (folder / "node.toml").write_text(pinned(folder, table).to_toml())
    Service(open_node(folder, lambda: now))
    late = NOW + timedelta(days=400)
    with pytest.raises(ConfigError, match="holds from"):
        Service(open_node(folder, lambda: late))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.node(NORTHPORT)
    yield made
    made.close()


@pytest.mark.rule("R33")
async def test_the_custodian_notes_which_table_a_release_came_from(world: World) -> None:
    for agency in (LAKESIDE, OVERSIGHT):
        await world.node(agency)
    content = await world.released()
    node = world.nodes[OVERSIGHT]
    assert [row.state for row in node.rows(custody, search_id=str(content.search_id))] == ["released"]
    used = CalibrationTable.synthetic(MODEL.model_hash, MODEL.dimensions, TODAY).digest.hex()
    assert f"threshold from: synthetic table {used}" in node.journal()


@pytest.mark.rule("R33")
async def test_a_grant_that_outlives_the_table_is_refused(world: World) -> None:
    """R33: nothing is released under a table whose life is over, so nothing is taken that might be."""
    node = await world.node(OVERSIGHT)
    content = search_claims(0)
    ends = replace(SYNTHETIC, measured_on=TODAY - timedelta(days=9), expires_on=content.expires.date() - timedelta(days=1))
    node.releasing._tables = {MODEL.model_hash: (ends, ends.impostors())}
    world.broker.enter_grant(content.digest)
    message = world.grant(content, OVERSIGHT)
    await world.hand_in(OVERSIGHT, message)
    assert the_refusal(node, message) is RefusalReason.MODEL
    assert "ends before the grant" in node.state_of(message)[1]
    assert node.rows(custody) == []


# --- commands ---------------------------------------------------------------------------------------------------------


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["calibration", *words])


def test_commands_write_show_and_check(tmp_path: Path) -> None:
    file = str(tmp_path / "table.json")
    made = json.loads(run("synthetic", file, "--embedder", "synthetic-128", "--json").stdout)
    assert made["kind"] == "synthetic"
    assert run("synthetic", file).exit_code == 2  # nothing is overwritten
    shown = json.loads(run("show", file, "--records", "2500000", "--json").stdout)
    assert shown["sha256"] == made["sha256"]
    assert 0.5 < float(shown["threshold"]) < 0.7
    assert json.loads(run("show", file, "--records", "25000000", "--json").stdout)["threshold"] > shown["threshold"]
    assert "synthetic" in run("show", file).stdout
    good = run("check", file, "--embedder", "synthetic-128", "--mode", "test", "--sha256", made["sha256"])
    assert good.exit_code == 0
    assert f'sha256 = "{made["sha256"]}"' in good.stdout
    for words, arguments in (
        ("synthetic, which production refuses", ("--embedder", "synthetic-128")),
        ("another face model", ("--embedder", "synthetic-512", "--mode", "test")),
        ("not the one whose SHA-256", ("--embedder", "synthetic-128", "--mode", "test", "--sha256", "0" * 64)),
        ("take one of demo, test, production", ("--embedder", "synthetic-128", "--mode", "live")),
    ):
        refused = run("check", file, *arguments, "--json")
        assert refused.exit_code == 2
        assert words in json.loads(refused.stdout)["detail"]


def test_commands_say_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_bytes(b"{}")
    for name, words in (("no.json", "is not a calibration table"), ("missing.json", "cannot be read")):
        for command in ("show", "check"):
            refused = run(command, str(tmp_path / name), "--json")
            assert refused.exit_code == 2
            assert words in json.loads(refused.stdout)["detail"]
