"""ANSI/NIST-ITL files: what is enrolled agrees with an independent reading, and what is hostile stops itself alone."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import nistitl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from agency_node.config import ItlRules
from agency_node.errors import EnrolmentError, ImageError
from agency_node.faces.embedder import Face
from agency_node.faces.image import Pixels, read_image
from agency_node.holder import itl_source
from agency_node.holder.booking import BookingFacts, Disposition
from agency_node.holder.candidates import BOOKING, Candidate, Numbers, RefusedRow
from agency_node.holder.enrol import EnrolmentReport, enrol_itl
from agency_node.holder.itl_source import MAX_FIELDS, MAX_FILE_BYTES, MAX_RECORDS, candidates_of
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.store import open_store
from agency_node.vault import Vault
from tests.face_samples import OneFaceEmbedder, encoded, plain_picture
from tests.test_enrol import KEY, NOW

NOISE = np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8)
RULES = ItlRules(disposition="2.801", disposition_date="2.802")


class BlueEmbedder(OneFaceEmbedder):
    """As many faces as the blue says, in steps that JPEG does not blur: dark none, middling one, bright two."""

    def faces(self, pixels: Pixels) -> list[Face]:
        plain = pixels.copy()
        plain[0, 0, 2] = (0, 77, 78)[int(pixels[0, 0, 2]) // 86]
        return super().faces(plain)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_store(tmp_path / "node.sqlite")


@pytest.fixture
def store(engine: Engine) -> RecordStore:
    return RecordStore(engine, Vault(KEY), BlueEmbedder().model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "itl").mkdir()
    return tmp_path / "itl"


def photograph(number: int = 1) -> bytes:
    """A JPEG that holds the bytes which separate fields and records."""
    data = encoded(np.full((32, 32, 3), (5 * number, 0, 120), np.uint8), "JPEG", quality=100, comment=b"\x1c\x1d\x1e\x1f10.999:\x1c")
    assert data.count(b"\x1c") >= 2
    return data


def face(idc: int = 1, data: bytes | None = None, **changes: str | None) -> nistitl.AsciiRecord:
    """A Type-10 record; `_20="L"` changes field 10.020, None leaves it out."""
    fields = {"_3": "FACE", "_4": "NORTHPD01", "_5": "20190504", "_6": "32", "_7": "32", "_8": "1", "_9": "100", "_10": "100"}
    fields |= {"_11": "JPEGB", "_12": "SRGB", "_20": "F"}
    record = nistitl.AsciiRecord(10)
    record.IDC = idc
    for name, value in (fields | changes).items():
        if value is not None:
            record += nistitl.Field(10, int(name[1:]), value)
    record += nistitl.BinaryField(10, 999, photograph() if data is None else data, alias="DATA")
    return record


def message(*faces: nistitl.AsciiRecord, number: str = "J-2026-0001", kind: str = "CAR", **second: str) -> bytes:
    """A file as a booking system writes it; `_10="E-77"` is field 2.010."""
    made = nistitl.Message()
    made.TOT = kind
    first = made[0]
    first.VER, first.DAT, first.DAI, first.ORI, first.TCN = "0502", "20261123", "BROKER001", "NORTHPD01", number
    record = nistitl.AsciiRecord(2)
    record.IDC = 0
    for name, value in second.items():
        record += nistitl.Field(2, int(name[1:]), value)
    made += record
    for one in faces or (face(),):
        made += one
    data: bytes = made.NIST
    return data


def independent(data: bytes) -> list[dict[str, bytes]]:
    """The fields of each record, by the standard's own words: a length, fields between GS, a record's end FS, data to the end."""
    records, place = [], 0
    while place < len(data):
        found = re.match(rb"\d+\.001:(\d+)\x1d", data[place:])
        assert found is not None
        record = data[place : place + int(found[1])]
        assert record.endswith(b"\x1c")
        head, mark, picture = record[:-1].partition(b"\x1d10.999:")
        fields = dict(field.split(b":", 1) for field in head.split(b"\x1d"))
        records.append({name.decode(): value for name, value in fields.items()} | ({"10.999": picture} if mark else {}))
        place += int(found[1])
    return records


def enrol(store: RecordStore, path: Path, **more: object) -> EnrolmentReport:
    return enrol_itl(store, BlueEmbedder(), path, RULES, NoProgress(), NOW, **more)  # type: ignore[arg-type]


# --- what is enrolled -------------------------------------------------------------------------------------------------


@pytest.mark.rule("R30")
@pytest.mark.rule("R31")
def test_what_is_stored_agrees_with_an_independent_reading(store: RecordStore, folder: Path) -> None:
    data = message(number="J-2026-0007", _10="E-77", _801="CONVICTED", _802="20240229")
    (folder / "a.an2").write_bytes(data)
    assert enrol(store, folder / "a.an2") == EnrolmentReport(1, 0, ())
    first, second, tenth = independent(data)
    held = store.record(0)
    assert held.record_number == first["1.009"].decode()
    assert held.source_class == BOOKING
    assert held.captured.strftime("%Y%m%d").encode() == tenth["10.005"]
    assert held.booking.event.encode() == second["2.010"]
    assert held.booking.disposition.upper().encode() == second["2.801"]
    assert held.booking.disposed_on is not None
    assert held.booking.disposed_on.strftime("%Y%m%d").encode() == second["2.802"]
    assert held.photograph is not None
    assert (read_image(held.photograph).pixels == read_image(tenth["10.999"]).pixels).all()
    assert tenth["10.999"] == photograph()
    expected = BlueEmbedder().model.templates(BlueEmbedder().faces(read_image(photograph()).pixels)[0].embedding)
    assert np.array_equal(store.templates()[0], expected)


def test_a_folder_of_files_is_enrolled_and_a_second_run_goes_on(store: RecordStore, folder: Path) -> None:
    for number in range(40):
        (folder / f"{number:02d}.an2").write_bytes(message(face(data=photograph(number)), number=f"J-{number}"))
    (folder / "99.txt").write_bytes(b"notes")
    first = enrol(store, folder)
    assert (first.enrolled, first.already_enrolled, [(row.file, row.code) for row in first.refused]) == (40, 0, [("99.txt", "no-picture")])
    embedder = BlueEmbedder()
    again = enrol_itl(store, embedder, folder, RULES, NoProgress(), NOW)
    assert (again.enrolled, again.already_enrolled, embedder.seen) == (0, 40, 0)


def test_several_frontal_faces_of_one_booking_get_their_own_numbers(store: RecordStore, folder: Path) -> None:
    (folder / "a.an2").write_bytes(message(face(1, photograph(1)), face(2, photograph(2)), face(3, photograph(3), _20="L")))
    report = enrol(store, folder)
    assert [store.record(row).record_number for row in range(2)] == ["J-2026-0001/1", "J-2026-0001/2"]
    assert [(row.line, row.code) for row in report.refused] == [(3, "pose")]


def test_node_toml_says_which_field_is_the_number(store: RecordStore, folder: Path) -> None:
    (folder / "a.an2").write_bytes(message(_9="OCA-5"))
    rules = ItlRules(record_number="2.009")
    assert enrol_itl(store, BlueEmbedder(), folder, rules, NoProgress(), NOW).enrolled == 1
    assert store.record(0).record_number == "OCA-5"
    assert store.record(0).booking == BookingFacts("", Disposition.UNKNOWN, None)


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = {
    "civil": (message(kind="NFUF"), "source-class", r"rule R24: .* \(1\.004\)"),
    "unknown transaction": (message(kind="XYZ"), "source-class", "rule R24"),
    "tattoo": (message(face(_3="TATTOO")), "not-a-face", "is not FACE: only faces are enrolled"),
    "profile": (message(face(_20="R")), "pose", "is not F, frontal"),
    "no pose": (message(face(_20=None)), "pose", "is not F, frontal"),
    "raw": (message(face(_11="NONE")), "compression", "export it as JPEGB"),
    "no day": (message(face(_5=None)), "captured", r"\(10.005\) is not a day from 1900 on: write it as 20261123"),
    "dashes": (message(face(_5="2019-05-04")), "captured", "is not a day"),
    "tomorrow": (message(face(_5="20261124")), "captured", "lies in the future"),
    "no number": (message(number=" "), "record-number", "record number is 1 to 64 bytes"),
    "no picture": (message(face(data=b"")), "empty", "is empty|holds no picture"),
    "text in place of a picture": (message(face(data=b"no picture")), "no-picture", "not a picture that can be read"),
    "picture cut off": (message(face(data=encoded(NOISE)[:-40], _11="PNG")), "damaged", "damaged or cut off"),
    "no face in it": (message(face(data=encoded(np.zeros((32, 32, 3), np.uint8)), _11="PNG")), "no-face", "no face was found"),
    "two faces in it": (message(face(data=encoded(np.full((32, 32, 3), 200, np.uint8)))), "several-faces", "2 faces were found"),
    "dismissed": (message(_801="DISMISSED", _802="20240229"), "disposition", "rule R25: a record whose case ended as dismissed"),
    "expunged": (message(_801="expunged"), "disposition", "rule R25"),
    "unknown disposition": (message(_801="NOLLE"), "disposition", "is not one of pending, convicted"),
    "conviction without its day": (message(_801="CONVICTED"), "disposition", "past day of a conviction"),
    "day without a conviction": (message(_802="20240229"), "disposition", "past day of a conviction"),
    "long event": (message(_10="E" * 65), "booking", "a booking event is up to 64"),
    "no photograph": (nistitl.Message().NIST, "", "no photograph|cannot be read|cut off"),
    "empty": (b"", "empty", "the file is empty"),
    "picture instead": (plain_picture(1), "no-picture", "not an ANSI/NIST-ITL file"),
    "cut off": (message()[:-1], "damaged", "cut off"),
    "something behind": (message() + b"x", "no-picture", "not an ANSI/NIST-ITL file"),
    "length of nothing": (b"1.001:0\x1d" + message(), "damaged", "cut off"),
    "length of everything": (re.sub(rb"^1\.001:\d+", b"1.001:999999999", message()), "damaged", "cut off"),
    "binary record of no length": (message() + bytes(5), "damaged", "cut off"),
    "many fields": (message(**{f"_{tag}": "1" for tag in range(100, 101 + MAX_FIELDS)}), "no-picture", f"more than {MAX_FIELDS} fields"),
    "many records": (message() + MAX_RECORDS * b"\0\0\0\x05\0", "no-picture", f"more than {MAX_RECORDS} records"),
}


@pytest.mark.rule("R24")
@pytest.mark.rule("R25")
@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_file_is_refused_with_code_and_reason_and_stops_no_other(store: RecordStore, folder: Path, what: str) -> None:
    data, code, message_ = REFUSED[what]
    for name, number in (("a.an2", "A"), ("c.an2", "C")):
        (folder / name).write_bytes(message(number=number))
    (folder / "b.an2").write_bytes(data)
    report = enrol(store, folder)
    assert (report.enrolled, len(report.refused)) == (2, 1)
    (refused,) = report.refused
    assert refused.file == "b.an2"
    assert refused.code == code or not code
    assert re.search(message_, refused.reason)
    assert ": " in refused.reason
    assert store.count() == 2


def test_a_number_that_stands_in_two_files_is_refused_the_second_time_in_every_run(store: RecordStore, folder: Path) -> None:
    for name in ("a.an2", "b.an2"):
        (folder / name).write_bytes(message())
    for enrolled in (1, 0):
        report = enrol(store, folder)
        assert (report.enrolled, [(row.file, row.code) for row in report.refused]) == (enrolled, [("b.an2", "repeated")])
        assert "a.an2, photograph 1 already" in report.refused[0].reason


def test_two_photographs_under_one_number_do_not_stop_a_run(store: RecordStore, folder: Path) -> None:
    """A file whose records all say that they are number 1."""
    (folder / "a.an2").write_bytes(message(face(1), face(2)).replace(b"\x1d10.002:2\x1d", b"\x1d10.002:1\x1d"))
    report = enrol(store, folder)
    assert (report.enrolled, [(row.line, row.code) for row in report.refused]) == (1, [(2, "repeated")])


def test_a_place_without_files_is_said(store: RecordStore, folder: Path) -> None:
    with pytest.raises(EnrolmentError, match="the folder holds no file"):
        enrol(store, folder)
    with pytest.raises(EnrolmentError, match="cannot be found"):
        enrol(store, folder / "nowhere")


def test_a_huge_file_is_not_read(folder: Path) -> None:
    with (folder / "a.an2").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    (refused,) = candidates_of(folder / "a.an2", RULES, Numbers(), date(2026, 11, 23))
    assert isinstance(refused, RefusedRow)
    assert refused.code == "too-long"


def test_files_that_cost_the_parser_its_square_are_refused_at_once(folder: Path) -> None:
    """A million records, or as many fields: hours for the parser, which copies the rest of the file for each and compares all fields."""
    first = message()
    tiny = b"2.001:9\x1d\x1c"
    fields = b"\x1d".join(b"2.%d:1" % tag for tag in range(10, 300_000))
    wide = b"2.001:%d\x1d%s\x1c" % (0, fields)
    wide = wide.replace(b"2.001:0", b"2.001:%d" % (len(wide) + 6))
    for data in (first + tiny * 1_000_000, first + wide):
        (folder / "a.an2").write_bytes(data)
        started = time.monotonic()
        (refused,) = candidates_of(folder / "a.an2", RULES, Numbers(), date(2026, 11, 23))
        assert isinstance(refused, RefusedRow)
        assert time.monotonic() - started < 2


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=6)), max_size=4), st.integers(0, 40))
def test_garbage_is_refused_or_read_and_nothing_else(patches: list[tuple[int, bytes]], cut: int) -> None:
    data = message(face(data=b"x"), _10="E-1")
    for place, patch in patches:
        data = data[:place] + patch + data[place + len(patch) :]
    with tempfile.TemporaryDirectory() as place_of, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(place_of) / "a.an2"
        path.write_bytes(data[: len(data) - cut])
        for found in each(path):
            assert isinstance(found, Candidate | RefusedRow)
            if isinstance(found, Candidate):
                with contextlib.suppress(ImageError):
                    found.read()


def each(path: Path) -> Iterator[Candidate | RefusedRow]:
    return itl_source.candidates_of(path, RULES, Numbers(), date(2026, 11, 23))
