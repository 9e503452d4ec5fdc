"""Generated photographs are what their truth says, to readers that are not ours; enrolled by killed processes, none is lost or doubled.

The independent readers: nistitl for fields, Pillow alone for pixels, and the standard's own words in `test_itl_source.independent`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import astuple
from pathlib import Path

import nistitl
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from agency_node.bench.booking_images import FOLDER_FORM, ITL_FORM, TRUTH_COLUMNS, booking_images, pixels_digest, write_booking_images
from agency_node.cli import app
from agency_node.faces.embedder import load_embedder, the_one_face
from agency_node.faces.image import read_image
from tests.booking_run import check_independent_readers, check_nothing_lost_or_doubled, killed_run
from tests.test_itl_source import independent


def test_they_are_the_same_every_time_and_no_two_are_alike() -> None:
    first, again, other = (list(booking_images(24, seed, 96)) for seed in (1, 1, 2))
    assert first == again
    assert [one.data for one in first] == [one.data for one in again] == [one.data for one in booking_images(24, 1, 96, processes=2)]
    assert len({one.pixels_sha256 for one in [*first, *other]}) == 48
    assert {one.form for one in first} == {FOLDER_FORM, ITL_FORM}
    assert {(one.portrait, one.form) for one in first} == {(name, form) for name in ("astronaut", "hopper") for form in ("folder", "itl")}
    assert {one.disposition for one in first} == {"", "pending", "convicted"}


def test_dlib_sees_one_face_in_them_and_knows_whose() -> None:
    embedder = load_embedder("dlib")
    faces = [(one.portrait, the_one_face(embedder, read_image(one.data)).embedding) for one in booking_images(4, 1)]
    units = {index: embedder.model.centred_unit(embedding) for index, (_, embedding) in enumerate(faces)}
    for a in range(4):
        for b in range(a):
            assert (units[a] @ units[b] > 0.65) == (faces[a][0] == faces[b][0])


def test_the_command_writes_what_its_table_of_truths_says(tmp_path: Path) -> None:
    words = ["bench", "intake", str(tmp_path / "set"), "--images", "16", "--side", "96"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert (done.exit_code, json.loads(done.stdout)["images"], json.loads(done.stdout)["itl"]) == (0, 16, 8)
    with (tmp_path / "set" / "truth.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == TRUTH_COLUMNS
    assert [tuple(row) for row in rows] == [astuple(one)[:-1] for one in booking_images(16, 1, 96)]
    again = CliRunner().invoke(app, words)
    assert (again.exit_code, "holds photographs already" in again.stderr) == (2, True)
    assert "node enrol NODE" in CliRunner().invoke(app, ["bench", "intake", str(tmp_path / "other"), "--images", "2"]).stdout


def test_independent_readers_see_in_the_files_what_the_truth_says(tmp_path: Path) -> None:
    """nistitl and a reading by the standard's words agree on the fields; Pillow's pixels are those of the truth, both ways."""
    for one in write_booking_images(tmp_path / "set", 32, seed=3, side=96):
        if one.form == FOLDER_FORM:
            data = (tmp_path / "set" / "photographs" / one.file).read_bytes()
        else:
            whole = (tmp_path / "set" / "itl" / one.file).read_bytes()
            message = nistitl.Message()
            message.parse(whole)
            (second,), (tenth,) = message.iter(2), message.iter(10)
            first_words, second_words, tenth_words = independent(whole)
            data = tenth_words["10.999"]
            assert tenth[999].value == data
            assert ("CAR", one.record_number) == (message[0].TOT, message[0].TCN)
            assert (first_words["1.004"], first_words["1.009"]) == (b"CAR", one.record_number.encode())
            assert second[10].value == second_words["2.010"].decode() == one.booking_event
            assert second_words.get("2.801", b"").decode() == one.disposition.upper()
            assert second_words.get("2.802", b"").decode() == one.disposition_date.replace("-", "")
            assert tenth[5].value == tenth_words["10.005"].decode() == one.captured.replace("-", "")
            with Image.open(io.BytesIO(data)) as picture:
                assert tenth[11].value == {"JPEG": "JPEGB", "PNG": "PNG"}[str(picture.format)]
        assert hashlib.sha256(data).hexdigest() == one.sha256
        with Image.open(io.BytesIO(data)) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), read_image(data).pixels)
        assert pixels_digest(data) == one.pixels_sha256


def test_a_thousand_photographs_are_enrolled_once_by_processes_that_are_killed(tmp_path: Path) -> None:
    run = killed_run(tmp_path, 1000, processes=(1, 1, 2, 1))  # a helper takes seconds to start
    assert all(0 < count < 1000 for count in run.after_kills)
    reports = json.loads(run.said)["reports"]
    assert sum(one["enrolled"] + one["already_enrolled"] for one in reports) == 1000
    assert [one["refused"] for one in reports] == [[], []]
    check_nothing_lost_or_doubled(run)
    check_independent_readers(run, every=13)


@pytest.mark.torture
def test_fifty_thousand_photographs_are_enrolled_once_by_processes_that_are_killed(tmp_path: Path) -> None:
    run = killed_run(tmp_path, 50_000, processes=(2, 2, 2, 2))
    check_nothing_lost_or_doubled(run)
    check_independent_readers(run, every=997)
