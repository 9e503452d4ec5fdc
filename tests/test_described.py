"""Whom a record shows, in optional fields for measuring by groups: read from both sources, sealed with the record, destroyed with it (R25),
and in nothing else that a record becomes (R39).
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agency_node.config import ItlRules
from agency_node.errors import EnrolmentError
from agency_node.holder import itl_source, table_source
from agency_node.holder.candidates import BOOKING, Candidate, Numbers, RefusedRow
from agency_node.holder.enrol import enrol_embeddings, enrol_folder
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.groups import NOBODY, Described
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import GalleryRecord, NewRecord, RecordFacts, RecordStore
from agency_node.node import open_node
from agency_node.store import open_store
from agency_node.vault import Vault
from crypto.disclosure import DisclosedRecord, StubRecord
from tests.face_samples import OneFaceEmbedder, encoded
from tests.node_samples import Clock, not_entered
from tests.sample_federation import LAKESIDE
from tests.test_backup import MODEL, make_node
from tests.test_enrol import KEY, NOW, new, write_table
from tests.test_itl_source import message
from tests.test_reembedding import KEY as REEMBEDDING_KEY
from tests.test_reembedding import NEW, OLD, ByPixels, enrolled, job
from tests.test_rotation import close, rotate

TODAY = date(2026, 11, 23)
WHO = Described("J-77-2718281828", "F", "kestrel", 1957)
FIELDS = ItlRules(person="2.015", sex="2.024", race="2.025", birth_date="2.022")


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(open_store(tmp_path / "node.sqlite"), Vault(KEY), OneFaceEmbedder().model)


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_labels_are_one_label_however_they_are_written() -> None:
    assert Described("P", "M", "Asian / PI", 1990) == Described("P", "m", "asian / pi", 1990)
    assert Described("P", "f").person == "P"  # a person's number is the agency's own


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"person": "9" * 65}, "person is up to 64 printable"),
        ({"person": "a\nb"}, "person is up to 64 printable"),
        ({"sex": "x" * 17}, "sex is up to 16 printable"),
        ({"race": "b "}, "race is up to 16 printable"),
        ({"race": "\x1b[2J"}, "race is up to 16 printable"),
        ({"birth_year": 1879}, "from 1880 on"),
        ({"birth_year": 3000}, "from 1880 on"),
    ],
)
def test_a_value_that_is_none_is_refused_and_not_repeated(values: dict[str, Any], says: str) -> None:
    with pytest.raises(EnrolmentError, match=says) as raised:
        Described(**values)
    assert str(next(iter(values.values()))) not in str(raised.value)


def test_nobody_is_born_after_the_picture() -> None:
    with pytest.raises(EnrolmentError, match="year of birth lies after the day of the picture"):
        new("B-1", captured=date(2019, 5, 4), described=Described(birth_year=2020))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("J-77", "F", "W", "1957"), Described("J-77", "f", "w", 1957)),
        (("", "", "", ""), NOBODY),
        (("J-77", "", "", ""), Described("J-77")),
        (("9" * 65, "", "", ""), "person is up to 64"),
        (("", "a very long label", "", ""), "sex is up to 16"),
        (("", "", "", "57"), "write it as 1987"),
        (("", "", "", "1957-02-04"), "write it as 1987"),
        (("", "", "", "2021"), "after the day of the picture"),
    ],
)
def test_a_table_may_say_whom_a_record_shows(tmp_path: Path, cells: tuple[str, ...], expected: Described | str) -> None:
    path = tmp_path / "table.csv"
    row = ",".join(("a.png", "R-1", "2019-05-04", BOOKING, *cells))
    path.write_text(f"file,record_number,captured,source_class,person,sex,race,birth_year\n{row}\n")
    (found,) = table_source.candidates_of(table_source.read_table(path), tmp_path, frozenset({BOOKING}), TODAY)
    check(found, expected)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({"_15": "WI1234567", "_24": "F", "_25": "W", "_22": "19570204"}, Described("WI1234567", "f", "w", 1957)),
        ({"_22": "19570000"}, Described(birth_year=1957)),
        ({}, NOBODY),
        ({"_22": "1957"}, "write it as 19870204"),
        ({"_22": "18790101"}, "from 1880 on"),
        ({"_15": "9" * 65}, "person is up to 64"),
    ],
)
def test_a_file_says_whom_a_record_shows_where_node_toml_names_the_fields(
    tmp_path: Path, second: dict[str, str], expected: Described | str
) -> None:
    path = tmp_path / "a.an2"
    path.write_bytes(message(**second))
    (found,) = itl_source.candidates_of(path, FIELDS, Numbers(), TODAY)
    check(found, expected)
    (without,) = itl_source.candidates_of(path, ItlRules(), Numbers(), TODAY)
    check(without, NOBODY)  # the default: none of it is read


def check(found: Candidate | RefusedRow, expected: Described | str) -> None:
    if isinstance(expected, Described):
        assert isinstance(found, Candidate)
        assert found.described == expected
        assert "J-77" not in repr(found)
        return
    assert isinstance(found, RefusedRow)
    assert found.code == "described"
    assert expected in found.reason


def test_directions_to_try_it_with_say_whom_they_show(store: RecordStore, tmp_path: Path) -> None:
    units = np.eye(16, dtype=np.float32)[:3]
    table = np.array([["P1", "f", "", "1957"], ["", "", "", ""], ["P2", "m", "w", ""]])
    path = tmp_path / "made.npz"
    np.savez(path, units=units, captured=np.array(["2018-06-01"] * 3), prefix=np.array("S"), described=table)
    assert enrol_embeddings(store, path, NoProgress(), NOW).enrolled == 3
    assert whom(store) == [Described("P1", "f", birth_year=1957), NOBODY, Described("P2", "m", "w")]
    np.savez(path, units=units, captured=np.array(["2018-06-01"] * 3), prefix=np.array("T"), described=table[:2])
    with pytest.raises(EnrolmentError, match="a row for each of units"):
        enrol_embeddings(store, path, NoProgress(), NOW)


# --- where it is kept, and where not ----------------------------------------------------------------------------------


def whom(store: RecordStore) -> list[Described]:
    return [who for _, _, who in store.descriptions(0, store.state().total)]


def test_it_is_enrolled_with_its_photograph_and_comes_back_by_one_door(store: RecordStore, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "ok.png").write_bytes(encoded(np.full((32, 32, 3), 77, np.uint8)))
    table = write_table(folder, [("ok.png", "R-1", "2019-05-04", BOOKING)])
    header, row = table.read_text().split()
    table.write_text(f"{header},person,sex,race,birth_year\n{row},J-77-2718281828,F,kestrel,1957\n")
    enrol_folder(store, OneFaceEmbedder(), folder, table, NoProgress(), NOW)
    assert store.descriptions(0, 1) == [(0, date(2019, 5, 4), WHO)]
    assert store.descriptions(1, 5) == []
    given = [store.record(0), *store.facts_from(0, 9), store.state()]
    assert not any(word in repr([vars(one) for one in given]).lower() for word in ("2718281828", "kestrel", "1957"))


def test_no_type_that_leaves_the_store_has_a_field_for_it() -> None:
    """R39: who looks at a record, a lead or a disclosure is not told."""
    words = {"person", "sex", "race", "birth_year", "described", "birth", "gender"}
    for kind in (GalleryRecord, RecordFacts, StubRecord, DisclosedRecord):
        assert not words & {one.name for one in fields(kind)}, kind
    assert {one.name for one in fields(NewRecord)} & words == {"described"}  # the control: this is how it would look


def test_no_text_form_shows_it() -> None:
    assert repr(WHO) == "Described()"
    assert "kestrel" not in repr(new("B-1", described=WHO))


def test_it_lies_sealed_and_is_gone_with_its_record(tmp_path: Path) -> None:
    """R25: in no file of the store, before or after; nothing of it is left to open."""
    store = RecordStore(open_store(tmp_path / "node.sqlite"), Vault(KEY), OneFaceEmbedder().model)
    store.add([new("B-1", described=WHO), new("B-2", described=WHO)], NOW)
    assert whom(store) == [WHO, WHO]
    store.expunge("B-1", ExpungeReason.COURT_ORDER, NOW, not_entered)
    assert store.descriptions(0, 2) == [(1, date(2019, 5, 4), WHO)]
    assert [len(sealed(store, row)) > 60 for row in range(2)] == [False, True]
    on_disk = b"".join(path.read_bytes() for path in tmp_path.glob("node.sqlite*"))
    assert not any(word in on_disk.lower() for word in (b"2718281828", b"kestrel"))


def test_a_record_of_before_says_nothing(store: RecordStore) -> None:
    store.add([new("B-1"), new("B-2", described=Described(sex="f"))], NOW)
    assert whom(store) == [NOBODY, Described(sex="f")]
    (plain,) = [json.loads(opened(store, row)) for row in (0,)]
    assert "described" not in plain


def opened(store: RecordStore, row: int) -> bytes:
    return store._vault.open("record", sealed(store, row), row.to_bytes(8, "big"))


def sealed(store: RecordStore, row: int) -> bytes:
    from sqlalchemy import select  # noqa: PLC0415

    from agency_node.gallery_tables import records  # noqa: PLC0415

    with store._engine.begin() as connection:
        found: bytes = connection.execute(select(records.c.sealed_record).where(records.c.row == row)).scalar_one()
    return found


def test_a_new_at_rest_key_keeps_it(tmp_path: Path) -> None:
    node = make_node(tmp_path / "lakeside", LAKESIDE)
    template = np.ones(MODEL.dimensions, np.int8)
    RecordStore(node.engine, node.vault, MODEL).add([NewRecord("L-1", TODAY, BOOKING, template, described=WHO)], NOW)
    folder = close(node)
    rotate(folder)
    again = open_node(folder, Clock(NOW))
    assert whom(RecordStore(again.engine, again.vault, MODEL)) == [WHO]
    close(again)


def test_another_face_model_keeps_it(tmp_path: Path) -> None:
    embedder = ByPixels(OLD)
    engine = open_store(tmp_path / "node.sqlite")
    store = RecordStore(engine, Vault(REEMBEDDING_KEY), OLD)
    store.add([replace(enrolled(person, embedder), described=WHO) for person in (3, 4)], NOW)
    assert job(engine).run(NoProgress()).switched
    assert whom(RecordStore(engine, Vault(REEMBEDDING_KEY), NEW)) == [WHO, WHO]
