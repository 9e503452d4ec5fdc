"""Enrolment: what is refused and why, what survives a kill, and what lies on the disk."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, insert, select, update

from agency_node.errors import EnrolmentError, KnownRecordError, StoreError
from agency_node.faces.embedder import Embedder, load_embedder, the_one_face
from agency_node.faces.image import MAX_IMAGE_BYTES, read_image
from agency_node.gallery_tables import records, template_blocks
from agency_node.holder.blocks import BLOCK_ROWS
from agency_node.holder.candidates import BOOKING, DEMONSTRATION
from agency_node.holder.enrol import REFUSED_COLUMNS, EnrolmentReport, enrol_directions, enrol_embeddings, enrol_folder
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.holder.table_source import COLUMNS
from agency_node.store import open_store
from agency_node.tables import facts, ledger
from agency_node.vault import Vault
from crypto.codes import values_of
from crypto.disclosure import MAX_PHOTOGRAPH_BYTES, Media
from crypto.embedding import quantised_directions
from tests.face_samples import OneFaceEmbedder, astronaut, degraded, encoded, hopper, opened, plain_picture
from tests.node_samples import not_entered

NOW, DAY = datetime(2026, 11, 23, 16, 12, tzinfo=UTC), date(2019, 5, 4)
KEY, EMBEDDER = bytes(range(32)), OneFaceEmbedder()
RANDOM = np.random.default_rng(3)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_store(tmp_path / "node.sqlite")


@pytest.fixture
def store(engine: Engine) -> RecordStore:
    return RecordStore(engine, Vault(KEY), EMBEDDER.model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (made := tmp_path / "pictures").mkdir()
    return made


def template() -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    return RANDOM.integers(-127, 128, EMBEDDER.model.dimensions, np.int8)


def new(number: str, **changes: object) -> NewRecord:
    values: dict[str, object] = {"record_number": number, "captured": DAY, "source_class": BOOKING, "template": template()} | changes
    return NewRecord(**values)  # type: ignore[arg-type]


# --- the store --------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(store: RecordStore) -> None:
    with_picture = new("B-1", photograph=plain_picture(1), media=Media.PNG)
    without = new("Ü 2", captured=date(1998, 1, 2), source_class=DEMONSTRATION)
    assert store.add([with_picture, without], NOW) == range(2)
    first, second = store.record(0), store.record(1)
    assert (first.record_number, first.captured, first.source_class, first.photograph, first.media) == (
        "B-1",
        DAY,
        BOOKING,
        plain_picture(1),
        Media.PNG,
    )
    assert (second.record_number, second.captured, second.photograph, second.media) == ("Ü 2", date(1998, 1, 2), None, None)
    assert (store.templates() == np.stack([with_picture.template, without.template])).all()
    assert store.has("Ü 2")
    assert not store.has("B-2")
    assert store.known(["B-1", "B-2", "Ü 2"]) == {"B-1", "Ü 2"}
    assert first.image_age_days(date(2019, 5, 14)) == 10
    assert first.image_age_days(date(2019, 5, 1)) == 0
    assert first.image_age_days(date(2999, 1, 1)) == 65535


@pytest.mark.parametrize("sizes", [[1], [1023, 1, 1], [1024, 1], [1000, 1000, 1000], [2500, 3, 2048]])
def test_blocks_hold_the_templates_in_order(store: RecordStore, engine: Engine, sizes: list[int]) -> None:
    added = []
    for number, size in enumerate(sizes):
        batch = [new(f"{number}-{i}") for i in range(size)]
        store.add(batch, NOW)
        added += [record.template for record in batch]
    assert (store.templates() == np.stack(added)).all()
    assert store.rows().dtype == np.int64
    assert list(store.rows()) == list(range(len(added)))
    assert store.count() == len(added)
    with engine.begin() as connection:
        counts = list(connection.execute(select(template_blocks.c.count).order_by(template_blocks.c.block)).scalars())
    assert counts == [BLOCK_ROWS] * (len(added) // BLOCK_ROWS) + [rest for rest in [len(added) % BLOCK_ROWS] if rest]


def test_an_empty_gallery_is_empty(store: RecordStore) -> None:
    assert store.add([], NOW) == range(0)
    assert (store.count(), store.rows().shape, store.templates().shape) == (0, (0,), (0, 16))
    with pytest.raises(StoreError, match="row 0 holds no record"):
        store.record(0)


def test_a_batch_with_a_number_that_is_there_is_not_added_at_all(store: RecordStore) -> None:
    store.add([new("A")], NOW)
    before = store.templates()
    for batch in ([new("B"), new("A")], [new("C"), new("C")]):
        with pytest.raises(EnrolmentError, match="enrolled already, or stands in it twice"):
            store.add(batch, NOW)
    assert (store.templates() == before).all()
    assert store.known(["B", "C"]) == frozenset()


def test_expunged_records_are_gone_from_everything_but_the_numbering(store: RecordStore, engine: Engine) -> None:
    store.add([new(str(i)) for i in range(5)], NOW)
    for number in ("1", "4"):
        store.expunge(number, ExpungeReason.COURT_ORDER, NOW, not_entered)
    assert list(store.rows()) == [0, 2, 3]
    assert store.count() == 3
    assert (store.templates().any(axis=1) == [True, False, True, True, False]).all()
    with pytest.raises(StoreError, match="row 1 holds no record: it was expunged"):
        store.record(1)
    assert store.has("1")
    assert store.add([new("next")], NOW) == range(5, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"record_number": ""}, "record number is 1 to 64 bytes"),
        ({"record_number": " a"}, "record number is 1 to 64 bytes"),
        ({"record_number": "a\n"}, "record number is 1 to 64 bytes"),
        ({"record_number": "ü" * 33}, "record number is 1 to 64 bytes"),
        ({"record_number": "\ud800"}, "record number is 1 to 64 bytes"),
        ({"captured": date(1899, 12, 31)}, "calendar day"),
        ({"captured": NOW}, "calendar day"),
        ({"media": Media.PNG}, "belong together"),
        ({"photograph": b"x"}, "belong together"),
        ({"photograph": b"", "media": Media.PNG}, "encode it for disclosure"),
        ({"photograph": bytes(MAX_PHOTOGRAPH_BYTES + 1), "media": Media.PNG}, "encode it for disclosure"),
    ],
)
def test_a_record_that_no_disclosure_could_carry_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EnrolmentError, match=message):
        new("A", **changes)


def test_templates_of_another_kind_are_refused(store: RecordStore) -> None:
    for wrong in (np.zeros(128, np.int8), np.zeros(16, np.float32)):
        with pytest.raises(EnrolmentError, match=r"int8\[16\]"):
            store.add([new("A", template=wrong)], NOW)


def test_another_model_is_refused(store: RecordStore, engine: Engine) -> None:
    other = OneFaceEmbedder("another").model
    late = RecordStore(engine, Vault(KEY), other)  # nothing is pinned before the first record
    store.add([new("A")], NOW)
    with engine.begin() as connection:
        assert connection.execute(select(facts.c.value).where(facts.c.name == "gallery-model")).scalar_one() == EMBEDDER.model.model_hash
    for attempt in (lambda: RecordStore(engine, Vault(KEY), other), lambda: late.add([new("B")], NOW)):
        with pytest.raises(EnrolmentError, match="another embedding model"):
            attempt()
    assert RecordStore(engine, Vault(KEY), EMBEDDER.model).count() == 1


def test_a_store_from_before_codes_is_refused_and_not_decoded_wrongly(store: RecordStore, engine: Engine) -> None:
    """Its bytes were coordinates at another scale, and the model hash of that time covered neither."""
    store.add([new("A")], NOW)
    model = EMBEDDER.model
    then = hashlib.sha256(b"sealmatch-1|model|")
    for part in (model.name.encode(), model.weights_sha256, str(model.spread_milli).encode(), model.centre.astype("<f4").tobytes()):
        then.update(len(part).to_bytes(4, "big") + part)
    with engine.begin() as connection:
        connection.execute(facts.update().where(facts.c.name == "gallery-model").values(value=then.digest()))
    for attempt in (lambda: RecordStore(engine, Vault(KEY), model), lambda: store.add([new("B")], NOW)):
        with pytest.raises(EnrolmentError, match=r"wrote templates otherwise.*sealmatch node reembed"):
            attempt()


def test_nothing_opens_under_another_key(store: RecordStore, engine: Engine) -> None:
    store.add([new("A", photograph=b"x", media=Media.PNG)], NOW)
    other = RecordStore(engine, Vault(bytes(32)), EMBEDDER.model)
    for attempt in (lambda: other.record(0), other.templates, lambda: other.add([new("B")], NOW)):
        with pytest.raises(StoreError, match="does not open under this node's at-rest key"):
            attempt()
    assert not other.has("A")


@pytest.mark.parametrize(
    ("column", "use"),
    [
        (records.c.sealed_record, lambda store: store.record(0)),
        (records.c.sealed_photograph, lambda store: store.record(0)),
        (template_blocks.c.sealed_templates, lambda store: store.templates()),
    ],
)
def test_a_blob_that_was_moved_does_not_open(
    store: RecordStore, engine: Engine, column: object, use: Callable[[RecordStore], object]
) -> None:
    store.add([new(str(i), photograph=b"x", media=Media.PNG) for i in range(BLOCK_ROWS + 1)], NOW)
    table = column.table  # type: ignore[attr-defined]
    key = next(iter(table.primary_key))
    with engine.begin() as connection:
        foreign = connection.execute(select(column).where(key == 1)).scalar_one()  # type: ignore[call-overload]
        connection.execute(update(table).where(key == 0).values({column.name: foreign}))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="does not open"):
        use(store)


def test_blocks_that_do_not_fit_the_records_are_found(store: RecordStore, engine: Engine) -> None:
    store.add([new(str(i)) for i in range(BLOCK_ROWS + 5)], NOW)
    for values in ({"count": 4}, {"count": 6}, {"block": 2, "count": 5}):
        with engine.begin() as connection:
            connection.execute(update(template_blocks).where(template_blocks.c.block > 0).values(values))
        with pytest.raises(StoreError, match="do not fit the stored records"):
            store.templates()
        with engine.begin() as connection:
            connection.execute(update(template_blocks).where(template_blocks.c.block > 0).values(block=1, count=5))
    store.templates()


def spellings(secret: bytes) -> set[bytes]:
    """The secret raw, in hex, and in base64 whatever stands before it."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):
        coded = base64.b64encode(bytes(before) + secret)
        inner = coded[4 * (before > 0) : -4]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("node.sqlite*")))


@pytest.mark.rule("R28")
def test_the_disk_shows_neither_numbers_nor_templates_nor_pictures(store: RecordStore, engine: Engine, tmp_path: Path) -> None:
    picture = RANDOM.bytes(3000)
    batch = [new(f"BOOKING-{i:04d}-SECRET", photograph=picture, media=Media.PNG) for i in range(40)]
    store.add(batch[:20], NOW)
    store.add(batch[20:], NOW)
    held = on_disk(tmp_path)
    assert (tmp_path / "node.sqlite-wal").stat().st_size > 0
    assert DAY.isoformat().encode() in held  # what is not sealed is found: the search looks at the right files
    secrets = [record.record_number.encode() for record in batch] + [record.template.tobytes() for record in batch]
    secrets += [picture[i : i + 24] for i in range(0, 3000, 500)] + [BOOKING.encode()]
    for secret in secrets:
        assert not [spelling for spelling in spellings(secret) if spelling in held]
    with engine.begin() as connection:
        connection.execute(insert(facts).values(name="leak", value=batch[7].template.tobytes()))
    assert batch[7].template.tobytes() in on_disk(tmp_path)


def test_nothing_shows_a_record_in_words(store: RecordStore, engine: Engine) -> None:
    record = new("SECRET-1", photograph=b"photograph", media=Media.PNG)
    store.add([record], NOW)
    shown = repr(record) + repr(store.record(0)) + repr(store)
    for secret in ("SECRET", "photograph=", "template=", str(DAY.year)):
        assert secret not in shown
    with engine.begin() as connection:
        events = connection.execute(select(ledger.c.at, ledger.c.event, ledger.c.detail)).all()
    assert [tuple(event) for event in events] == [("2026-11-23T16:12:00.00Z", "enrolled", "1 records")]


# --- a folder and its table -------------------------------------------------------------------------------------------


def write_table(folder: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = COLUMNS) -> Path:
    path = folder.parent / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def pictures(folder: Path, count: int) -> list[tuple[str, ...]]:
    for number in range(count):
        (folder / f"{number}.png").write_bytes(plain_picture(number))
    return [(f"{number}.png", f"R-{number}", "2019-05-04", BOOKING) for number in range(count)]


class Told:
    """A progress that remembers; fails like a kill at the given part."""

    def __init__(self, die_at: int | None = None) -> None:
        self.count, self.done, self.die_at = 0, 0, die_at

    def total(self, count: int) -> None:
        self.count = count

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self.die_at is not None and self.done >= self.die_at:
            raise KeyboardInterrupt

    def text(self, text: str) -> None:
        assert "R-" not in text


def enrol(store: RecordStore, folder: Path, table: Path, *, embedder: Embedder | None = None, **more: object) -> EnrolmentReport:
    return enrol_folder(store, embedder or OneFaceEmbedder(), folder, table, NoProgress(), NOW, **more)  # type: ignore[arg-type]


def test_real_photographs_are_enrolled_and_found_in_the_templates(tmp_path: Path, folder: Path) -> None:
    dlib = load_embedder("dlib")
    store = RecordStore(open_store(tmp_path / "node.sqlite"), Vault(KEY), dlib.model)
    (folder / "1969").mkdir()
    (folder / "1969" / "astronaut.png").write_bytes(astronaut())
    (folder / "hopper.jpg").write_bytes(hopper())
    (folder / "cup.png").write_bytes(encoded(np.full((200, 200, 3), 120, np.uint8)))
    rows: list[tuple[str, ...]] = [
        ("1969/astronaut.png", "D-1", "1999-01-01", DEMONSTRATION),
        ("hopper.jpg", "D-2", "1984-01-20", DEMONSTRATION),
        ("cup.png", "D-3", "2001-01-01", DEMONSTRATION),
    ]
    report = enrol(store, folder, write_table(folder, rows), embedder=dlib, allow_demonstration=True)
    assert report.enrolled == 2
    assert [(row.line, row.record_number) for row in report.refused] == [(4, "D-3")]
    assert "no face was found" in report.refused[0].reason
    probe = dlib.model.probe_vector(the_one_face(dlib, read_image(degraded(hopper()))).embedding)
    scores = values_of(store.templates()).astype(np.int64) @ probe / (dlib.model.scales.gamma * dlib.model.scales.mu)
    assert scores[1] > 0.9
    assert scores[0] < 0.45
    held = store.record(1)
    assert (held.record_number, held.captured, held.media) == ("D-2", date(1984, 1, 20), Media.JPEG)
    assert held.photograph is not None
    assert opened(held.photograph).size == opened(hopper()).size


ROW = ("ok.png", "R-9", "2019-05-04", BOOKING)
REFUSED = {
    "no such file": (("other.png", *ROW[1:]), "no such file in the folder"),
    "a folder": ((".", *ROW[1:]), "no such file in the folder"),
    "no file": (("", *ROW[1:]), "not within the folder"),
    "above": (("../table.csv", *ROW[1:]), "not within the folder"),
    "elsewhere": (("/etc/hostname", *ROW[1:]), "not within the folder"),
    "a link out": (("out.png", *ROW[1:]), "not within the folder"),
    "a circle": (("circle.png", *ROW[1:]), "within the folder|no such file"),
    "too long": (("x" * 5000, *ROW[1:]), "not within the folder|cannot be opened|no such file"),
    "no picture": (("text.png", *ROW[1:]), "not a picture that can be read"),
    "no face": (("none.png", *ROW[1:]), "no face was found"),
    "two faces": (("two.png", *ROW[1:]), "2 faces were found"),
    "huge": (("huge.png", *ROW[1:]), "more than 32 MiB"),
    "no number": (("ok.png", "", *ROW[2:]), "record number is 1 to 64 bytes"),
    "long number": (("ok.png", "9" * 65, *ROW[2:]), "record number is 1 to 64 bytes"),
    "number twice": (("ok.png", "R-0", *ROW[2:]), "stands in line 2 already"),
    "no day": ((*ROW[:2], "", BOOKING), "captured is not a day"),
    "no such day": ((*ROW[:2], "2019-02-30", BOOKING), "captured is not a day"),
    "another spelling": ((*ROW[:2], "20190504", BOOKING), "captured is not a day"),
    "American day": ((*ROW[:2], "05/04/2019", BOOKING), "captured is not a day"),
    "long ago": ((*ROW[:2], "1899-05-04", BOOKING), "captured is not a day"),
    "tomorrow": ((*ROW[:2], "2026-11-24", BOOKING), "lies in the future"),
    "driver's licence": ((*ROW[:3], "driver_licence"), "rule R24: .* criminal booking pictures only"),
    "demonstration": ((*ROW[:3], DEMONSTRATION), "rule R24"),
    "synthetic": ((*ROW[:3], "synthetic"), "rule R24"),
    "no class": ((*ROW[:3], ""), "rule R24"),
    "too few cells": (ROW[:3], "3 cells instead of 4"),
    "too many cells": ((*ROW, ""), "5 cells instead of 4"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_one_bad_row_is_refused_with_its_reason_and_stops_no_other(store: RecordStore, folder: Path, what: str) -> None:
    row, message = REFUSED[what]
    good = pictures(folder, 2)
    for name, blue in (("none", 0), ("two", 78), ("ok", 77)):
        (folder / f"{name}.png").write_bytes(encoded(np.full((32, 32, 3), blue, np.uint8)))
    (folder / "text.png").write_text("not a picture")
    with (folder / "huge.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    (folder / "out.png").symlink_to(folder.parent / "table.csv")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    refusals = folder.parent / "refused.csv"
    report = enrol(store, folder, write_table(folder, [good[0], row, good[1]]), refused_csv=refusals)
    assert (report.enrolled, report.already_enrolled, len(report.refused)) == (2, 0, 1)
    (refused,) = report.refused
    assert refused.line == 3
    assert re.search(message, refused.reason)
    assert ": " in refused.reason
    with refusals.open(newline="", encoding="utf-8") as file:
        header, written = csv.reader(file)
    assert header == [*REFUSED_COLUMNS]
    assert written == ["3", refused.file, refused.record_number, refused.code, refused.reason]
    assert store.known(["R-0", "R-1"]) == {"R-0", "R-1"}
    assert store.count() == 2
    assert "R-" not in repr(report)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "first line names the columns file,record_number,captured,source_class"),
        (b"file,record_number,captured\n", "first line names the columns"),
        (b"file,record_number,captured,source_class,name\n", "each once and no others"),
        (b"file,file,captured,source_class\n", "each once and no others"),
        (b"file;record_number;captured;source_class\n", "separated by commas"),
        (b"a.png,R-1,2019-05-04,criminal_booking\n", "first line names the columns"),
        (b"file,record_number,captured,source_class\n\xff\xfe,R,2019-05-04,x\n", "not a CSV file in UTF-8"),
        (b'file,record_number,captured,source_class\n"a,R,2019-05-04,x\n', "not a CSV file in UTF-8"),
        (b"file,record_number,captured,source_class\n" + b"x" * 200_000 + b",R,2019-05-04,x\n", "not a CSV file in UTF-8"),
        ("file,record_number".encode("utf-16"), "not a CSV file in UTF-8"),
    ],
)
def test_a_table_that_is_none_stops_everything(store: RecordStore, folder: Path, table: bytes, message: str) -> None:
    path = folder.parent / "table.csv"
    path.write_bytes(table)
    with pytest.raises(EnrolmentError, match=message):
        enrol(store, folder, path)
    with pytest.raises(EnrolmentError, match="the table cannot be opened"):
        enrol(store, folder, folder)
    assert store.count() == 0


def test_columns_may_stand_in_any_order_and_spreadsheets_may_mark_their_files(store: RecordStore, folder: Path) -> None:
    pictures(folder, 1)
    path = folder.parent / "table.csv"
    text = "source_class, captured ,record_number,file\r\ncriminal_booking,2019-05-04, R-0 ,0.png\r\n\r\n"
    path.write_bytes(text.encode("utf-8-sig"))
    assert enrol(store, folder, path).enrolled == 1
    assert store.record(0).record_number == "R-0"


def test_a_second_run_enrols_nothing_and_looks_at_no_picture(store: RecordStore, folder: Path) -> None:
    table = write_table(folder, pictures(folder, 5))
    assert enrol(store, folder, table) == EnrolmentReport(5, 0, ())
    again = OneFaceEmbedder()
    assert enrol(store, folder, table, embedder=again) == EnrolmentReport(0, 5, ())
    assert again.seen == 0


def test_a_run_that_was_stopped_goes_on_where_it_was(store: RecordStore, folder: Path) -> None:
    table = write_table(folder, pictures(folder, 70))
    stopped = Told(die_at=40)
    with pytest.raises(KeyboardInterrupt):
        enrol_folder(store, OneFaceEmbedder(), folder, table, stopped, NOW)
    assert stopped.count == 70
    assert store.count() == 32
    rest = Told()
    embedder = OneFaceEmbedder()
    assert enrol_folder(store, embedder, folder, table, rest, NOW) == EnrolmentReport(38, 32, ())
    assert (rest.done, embedder.seen) == (70, 38)
    assert {store.record(row).record_number for row in store.rows().tolist()} == {f"R-{i}" for i in range(70)}
    wanted = [EMBEDDER.model.templates(EMBEDDER.faces(read_image(plain_picture(i)).pixels)[0].embedding) for i in range(70)]
    assert (store.templates() == wanted).all()


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from agency_node.holder.enrol import enrol_folder
from agency_node.holder.records import RecordStore
from agency_node.store import open_store
from agency_node.vault import Vault
from tests.face_samples import OneFaceEmbedder
from tests.test_enrol import KEY, NOW, Told

class Killed(Told):
    def advance(self, count=1):
        self.done += count
        if self.done == 50:
            os.kill(os.getpid(), signal.SIGKILL)

here = Path(sys.argv[1])
embedder = OneFaceEmbedder()
store = RecordStore(open_store(here / "node.sqlite"), Vault(KEY), embedder.model)
enrol_folder(store, embedder, here / "pictures", here / "table.csv", Killed(), NOW)
"""


def test_a_process_that_was_killed_left_whole_batches(store: RecordStore, folder: Path) -> None:
    table = write_table(folder, pictures(folder, 70))
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder.parent)], check=False, timeout=120, cwd=Path(__file__).parents[1])  # noqa: S603
    assert done.returncode == -9
    assert store.count() == 32
    assert enrol(store, folder, table) == EnrolmentReport(38, 32, ())
    assert store.templates().any(axis=1).all()


def test_a_picture_is_stored_without_its_metadata(store: RecordStore, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(encoded(np.full((32, 32, 3), 77, np.uint8), "JPEG", comment=b"taken by badge 4711"))
    assert enrol(store, folder, write_table(folder, [("a.jpg", "R-1", "2026-11-23", BOOKING)])).enrolled == 1
    photograph = store.record(0).photograph
    assert photograph is not None
    assert b"4711" not in photograph


def test_an_embedder_of_another_model_enrols_nothing(store: RecordStore, folder: Path) -> None:
    table = write_table(folder, pictures(folder, 1))
    with pytest.raises(EnrolmentError, match="not of the gallery's model"):
        enrol(store, folder, table, embedder=OneFaceEmbedder("another"))


def test_a_list_of_refusals_that_cannot_be_written_is_said(store: RecordStore, folder: Path) -> None:
    with pytest.raises(EnrolmentError, match="the enrolment itself is done"):
        enrol(store, folder, write_table(folder, pictures(folder, 1)), refused_csv=folder)
    assert store.count() == 1


# --- directions -------------------------------------------------------------------------------------------------------


def directions(path: Path, count: int, **changes: object) -> Path:
    vectors = np.random.default_rng(8).standard_normal((count, 16)).astype(np.float32)
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    days = np.array([DAY + timedelta(days=i % 900) for i in range(count)], "datetime64[D]")
    held = {"units": units, "prefix": "SYN", "captured": days} | changes
    np.savez(path, **{name: value for name, value in held.items() if value is not None})
    return path


def test_directions_are_enrolled_once(store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agency_node.holder.enrol._BATCH_DIRECTIONS", 4096)
    path = directions(tmp_path / "d.npz", 5000)
    stopped = Told(die_at=4000)
    with pytest.raises(KeyboardInterrupt):
        enrol_embeddings(store, path, stopped, NOW)
    assert store.count() == 4096
    assert enrol_embeddings(store, path, Told(), NOW) == EnrolmentReport(904, 4096, ())
    assert enrol_embeddings(store, path, Told(), NOW) == EnrolmentReport(0, 5000, ())
    with np.load(path) as held:
        units = held["units"].astype(np.float64)
    assert (store.templates() == quantised_directions(units, EMBEDDER.model.scales)).all()
    last = store.record(4999)
    assert (last.record_number, last.captured, last.source_class) == ("SYN-005000", DAY + timedelta(days=4999 % 900), "synthetic")
    assert (last.photograph, last.media) == (None, None)


UNITS = np.eye(16, dtype=np.float32)[:3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": None}, "does not hold units, prefix and captured"),
        ({"captured": None}, "does not hold units, prefix and captured"),
        ({"captured": np.array(["soon"] * 3)}, "does not hold units, prefix and captured"),
        ({"prefix": np.array({"a": 1}, object)}, "does not hold units, prefix and captured"),
        ({"units": UNITS.astype(np.float64)}, r"units are float32\[n, 16\]"),
        ({"units": UNITS[:, :8]}, r"units are float32\[n, 16\]"),
        ({"units": UNITS[0]}, r"units are float32\[n, 16\]"),
        ({"units": UNITS[:2]}, "one day in captured for each"),
        ({"units": UNITS * 2}, "finite vectors of norm 1"),
        ({"units": UNITS * np.array([[1], [1], [0.99]], np.float32)}, "finite vectors of norm 1"),
        ({"units": UNITS * np.float32("nan")}, "finite vectors of norm 1"),
        ({"captured": np.array(["2026-11-24"] * 3)}, "missing or lies in the future"),
        ({"captured": np.array(["NaT"] * 3)}, "missing or lies in the future"),
        ({"captured": np.array(["1066-10-14"] * 3)}, "calendar day"),
        ({"prefix": "x" * 60}, "record number is 1 to 64 bytes"),
    ],
)
def test_a_file_of_directions_that_is_none_is_refused(store: RecordStore, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(EnrolmentError, match=message):
        enrol_embeddings(store, directions(tmp_path / "d.npz", 3, **changes), NoProgress(), NOW)
    assert store.count() == 0


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no file of numpy", b"\x93NUMPY\x01\x00"])
def test_a_file_of_something_else_is_refused(store: RecordStore, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(data)
    for name in ("d.npz", "missing.npz"):
        with pytest.raises(EnrolmentError, match=r"as numpy\.savez writes them"):
            enrol_embeddings(store, tmp_path / name, NoProgress(), NOW)


def test_directions_in_memory_are_enrolled_batch_by_batch(store: RecordStore) -> None:
    """Each batch under a prefix of its own, rows one behind the other; one that is not of norm 1 changes nothing."""
    days = [DAY] * len(UNITS)
    for prefix in ("A", "B"):
        assert enrol_directions(store, UNITS, prefix, days, NoProgress(), NOW) == EnrolmentReport(3, 0, ())
    assert enrol_directions(store, UNITS, "B", days, NoProgress(), NOW) == EnrolmentReport(0, 3, ())
    assert [store.record(row).record_number for row in (0, 2, 3, 5)] == ["A-000001", "A-000003", "B-000001", "B-000003"]
    with pytest.raises(EnrolmentError, match="finite vectors of norm 1"):
        enrol_directions(store, 2 * UNITS, "C", days, NoProgress(), NOW)
    with pytest.raises(EnrolmentError, match="one day in captured for each"):
        enrol_directions(store, UNITS, "C", days[:2], NoProgress(), NOW)
    assert store.count() == 6


def test_directions_beside_some_that_are_known_are_enrolled(store: RecordStore) -> None:
    """What was enrolled before, or expunged, stays as it is; a number twice in a batch is still refused."""
    store.add([new("A-000002")], NOW)
    store.expunge("A-000002", ExpungeReason.COURT_ORDER, NOW, not_entered)
    assert enrol_directions(store, UNITS, "A", [DAY] * len(UNITS), NoProgress(), NOW) == EnrolmentReport(2, 1, ())
    assert [store.record(row).record_number for row in (1, 2)] == ["A-000001", "A-000003"]
    assert not store.holds(0)
    with pytest.raises(KnownRecordError):
        store.add([new("B"), new("B")], NOW)
