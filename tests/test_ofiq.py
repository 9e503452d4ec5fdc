"""OFIQ beside our measures, with a stand-in program that is called as OFIQSampleApp is and writes what it writes."""

from __future__ import annotations

import json
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agency_node.errors import ConfigError, HelperEndedError
from agency_node.faces.ofiq import Ofiq, read_measures
from agency_node.faces.quality import Quality
from agency_node.holder.enrol import enrol_folder
from agency_node.holder.portraying import Portrayer, portrayer_of
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.node import open_node
from agency_node.requester import drafting
from agency_node.requester.drafting import draft_search, quality_of_still
from agency_node.store import open_store
from agency_node.vault import Vault
from tests.booking_run import intake_node, marked
from tests.face_samples import plain_picture
from tests.node_world import STILL, PixelEmbedder, World, investigator, search_request
from tests.sample_federation import NORTHPORT, roster

NOW = datetime(2026, 11, 23, 16, 12, tzinfo=UTC)
STAND_IN = """#!{python}
import os, sys
words = sys.argv[1:]
told = dict(zip(words[::2], words[1::2]))
assert set(told) <= {{"-c", "-i", "-o"}} and os.path.isdir(told["-i"]), words
assert os.stat(os.path.dirname(told["-i"])).st_mode & 0o077 == 0
files = sorted(os.listdir(told["-i"]), key=lambda name: name[::-1])  # a folder's own order is none
names = ["UnifiedQualityScore", "Sharpness"]
first = open(os.path.join(told["-i"], files[0]), "rb").read()
with open(told["-o"], "w") as out:
    listed = [] if b"unread" in first else [n + "{suffix}" for n in names] + [n + ".scalar" for n in names]
    out.write(";".join(["Filename", *listed, "assessment_time_in_ms", ""]) + "\\n")
    for file in files:
        data = open(os.path.join(told["-i"], file), "rb").read()
        out.write(os.path.join(told["-i"], file) + ";")
        out.write(";;17\\n" if b"unread" in data else f"{{len(data)}}.5;0;{{len(data) % 101}};-1;17\\n")
print("[INFO] Initialization took: 3ms")
{more}
"""


def stand_in(folder: Path, more: str = "", suffix: str = "") -> Path:
    path = folder / "OFIQSampleApp"
    path.write_text(STAND_IN.format(python=sys.executable, more=more, suffix=suffix))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def expected(data: bytes) -> dict[str, tuple[float, float | None]]:
    return {"UnifiedQualityScore": (len(data) + 0.5, float(len(data) % 101)), "Sharpness": (0.0, None)}


@pytest.mark.parametrize("suffix", ["", ".native"])
def test_each_picture_gets_its_own_measures(tmp_path: Path, suffix: str) -> None:
    pictures = [plain_picture(1), b"\xff\xd8" + b"x" * 40, plain_picture(2, 64)]
    (tmp_path / "config").mkdir()
    ofiq = Ofiq(stand_in(tmp_path, suffix=suffix), tmp_path / "config")
    assert ofiq.measure(pictures) == [expected(one) for one in pictures]
    assert ofiq.measure([]) == []
    assert "tmp" not in repr(ofiq)


def test_a_picture_that_it_cannot_read_has_none_also_as_the_first(tmp_path: Path) -> None:
    ofiq, good, bad = Ofiq(stand_in(tmp_path)), plain_picture(1), b"\xff\xd8unread"
    assert ofiq.measure([good, bad, good]) == [expected(good), {}, expected(good)]
    assert ofiq.measure([bad]) == [{}]
    assert ofiq.measure([bad, good]) == [{}, expected(good)]


HEAD = "Filename;A;B;A.scalar;B.scalar;assessment_time_in_ms;\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first column is not Filename"),
        ("<html>", "first column is not Filename"),
        ("Filename,A,A.scalar\n", "first column is not Filename"),
        ("Filename;A;A.scalar;B.scalar;\n", "native value and then each one's scalar"),
        ("Filename;A;B;B.scalar;A.scalar;\n", "native value and then each one's scalar"),
        (HEAD + "a.png;1;2;three;4;5\n", "not a number"),
        (HEAD + "a.png;1;2;101;4;5\n", "none that a measure has"),
        (HEAD + "a.png;1;2;-2;4;5\n", "none that a measure has"),
        (HEAD + "a.png;nan;2;3;4;5\n", "none that a measure has"),
    ],
)
def test_what_is_not_ofiq_s_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_measures(text)


def test_rows_that_are_cut_off_have_no_measures() -> None:
    found = read_measures(HEAD + "/x/a.png;1;2.5;3;-1;5\n/x/b.png;1;2\n/x/c.png;1;2;;4;5\n")
    assert found == {"a.png": {"A": (1.0, 3.0), "B": (2.5, None)}, "b.png": {}, "c.png": {}}


def test_a_program_that_fails_or_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(HelperEndedError, match="ended with exit code 3: run it by hand"):
        Ofiq(stand_in(tmp_path, "sys.exit(3)")).measure([plain_picture(1)])
    with pytest.raises(ConfigError, match="not one row for each picture"):
        Ofiq(stand_in(tmp_path, 'open(told["-o"], "a").write("other.png;1;0;1;1;1\\n")')).measure([plain_picture(1)])
    with pytest.raises(ConfigError, match="it cannot be read"):
        Ofiq(stand_in(tmp_path, 'os.remove(told["-o"])')).measure([plain_picture(1)])
    (tmp_path / "text").write_text("#!/nowhere/interpreter\n")
    for path in (tmp_path / "missing", tmp_path / "text", tmp_path):
        with pytest.raises(ConfigError, match="names no program that this account may run"):
            Ofiq(path)
    os.chmod(tmp_path / "text", 0o700)
    with pytest.raises(HelperEndedError, match="could not be run"):
        Ofiq(tmp_path / "text").measure([plain_picture(1)])
    with pytest.raises(ConfigError, match=r"ofiq_config in node\.toml is not there"):
        Ofiq(stand_in(tmp_path), tmp_path / "nowhere")


def test_enrolled_records_keep_its_measures_sealed_beside_ours(tmp_path: Path) -> None:
    """A node whose node.toml names it; 40 pictures are two batches; what was stored without reads as before."""
    from agency_node.bench.booking_images import booking_images  # noqa: PLC0415

    stand_in(tmp_path)
    node = open_node(intake_node(tmp_path, quality={"ofiq": "../OFIQSampleApp"}), lambda: NOW)
    rows = ["file,record_number,captured,source_class"]
    for one in booking_images(40, 1, 160, marked):
        (tmp_path / one.record_number).write_bytes(one.data)
        rows.append(f"{one.record_number},{one.record_number},2019-05-04,criminal_booking")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    embedder = node.embedder()
    store = RecordStore(node.engine, node.vault, embedder.model)
    with portrayer_of(node, embedder) as portrayer:
        assert enrol_folder(store, embedder, tmp_path, tmp_path / "table.csv", NoProgress(), NOW, portrayer=portrayer).enrolled == 40
    for row in range(40):
        held = store.record(row)
        assert held.quality is not None
        assert held.photograph is not None
        assert held.quality.ofiq == expected(held.photograph)
        assert b"UnifiedQualityScore" not in (tmp_path / "node" / "node.sqlite").read_bytes()


async def test_a_still_is_measured_by_it_too_and_the_case_keeps_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "measure", lambda *_: Quality(50, 60.0, 1.0, 0.1, 8.0, 0.0, 0.0, 7.0, 10.0))
    world = World(tmp_path / "world")
    node = await world.node(NORTHPORT)
    given = (node.engine, node.vault, PixelEmbedder(), NORTHPORT, roster().discovery_key(NORTHPORT), search_request(STILL), investigator())
    search_id = draft_search(*given, world.clock(), ofiq=Ofiq(stand_in(tmp_path)))
    found = quality_of_still(node.engine, node.vault, str(search_id))
    assert found is not None
    assert found.ofiq == expected(STILL)
    world.close()


def test_a_quality_without_it_is_kept_as_before(tmp_path: Path) -> None:
    without = Quality(50, 60.0, 1.0, 0.1, 8.0, 0.0, 0.0, 7.0, 10.0)
    assert "ofiq" not in without.to_json()
    assert Quality.from_json(without.to_json()) == without
    told = Quality.from_json({**without.to_json(), "ofiq": {"A": [1.5, None]}})
    assert told.ofiq == {"A": (1.5, None)}
    assert Quality.from_json(json.loads(json.dumps(told.to_json()))) == told


def test_without_a_quality_of_ours_it_is_not_asked(tmp_path: Path) -> None:
    from tests.face_samples import OneFaceEmbedder  # noqa: PLC0415

    engine: Engine = open_store(tmp_path / "node.sqlite")
    embedder = OneFaceEmbedder()
    store = RecordStore(engine, Vault(bytes(32)), embedder.model)
    (tmp_path / "a.png").write_bytes(plain_picture(1))
    (tmp_path / "table.csv").write_text("file,record_number,captured,source_class\na.png,R-1,2019-05-04,criminal_booking\n")
    asked = Portrayer(embedder, Ofiq(stand_in(tmp_path, "sys.exit(3)")))
    assert enrol_folder(store, embedder, tmp_path, tmp_path / "table.csv", NoProgress(), NOW, portrayer=asked).enrolled == 1
