"""A node that enrols generated photographs as processes do, is killed again and again, and what it must hold in the end.

The photographs are those of `agency_node.bench.booking_images`, in grey, with the red square that the small detection model of `face_packs`
takes for a face, painted on the nose: what it finds is then cut from the portrait, embedded, measured and stored as with any other model.
"""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import nistitl
import numpy as np
from PIL import Image

from agency_node.bench.booking_images import ITL_FORM, BookingImage, pixels_digest, write_booking_images
from agency_node.config import ItlRules, NodeConfig
from agency_node.faces.image import Pixels
from agency_node.holder.records import GalleryRecord, RecordStore
from agency_node.node import create_node, open_node
from tests.face_packs import write_pack

SIDE = 160
"""Shown to the detector four times enlarged, so that its cells of 16 pixels have 4 here."""
PATIENCE_S = 3600.0


def marked(pixels: Pixels) -> Pixels:
    """In grey, so that nothing else is red, with the square in the middle."""
    grey = pixels.mean(axis=2, keepdims=True).round().astype(np.uint8)
    out = np.repeat(grey, 3, axis=2)
    middle = len(out) // 2
    out[middle : middle + 4, middle : middle + 4] = (255, 0, 0)
    return out


def intake_node(folder: Path, **changes: object) -> Path:
    """A holder's node, of demo mode, with the small models; its folder."""
    pack = write_pack(folder / "pack")
    values: dict[str, object] = {
        "agency": "lakeside-sheriff",
        "mode": "demo",
        "roles": ["holder"],
        "trusted_custodians": ["civic-board"],
        "broker": "http://127.0.0.1:1",
        "root_fingerprint": "0f" * 32,
        "embedder": "insightface",
        "face_pack": {"folder": str(pack.folder), "sha256": pack.sha256},
        "itl": ItlRules(disposition="2.801", disposition_date="2.802").model_dump(mode="json"),
    }
    create_node(folder / "node", NodeConfig.checked(values | changes), witness=False)
    return folder / "node"


def opened_store(node: Path) -> RecordStore:
    opened = open_node(node, lambda: datetime.now(UTC))
    return RecordStore(opened.engine, opened.vault, opened.embedder().model)


def enrol_words(node: Path, images: Path, processes: int) -> list[str]:
    words = ["node", "enrol", str(node), "--folder", str(images / "photographs"), "--table", str(images / "photographs.csv")]
    return [*words, "--itl", str(images / "itl"), "--processes", str(processes), "--json"]


def started(words: Sequence[str]) -> subprocess.Popen[str]:
    program = str(Path(sys.executable).with_name("sealmatch"))
    variables = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([program, *words], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603


def stored(node: Path) -> int:
    """How many records the store's file holds, asked from outside."""
    try:
        with sqlite3.connect(f"file:{node / 'node.sqlite'}?mode=ro", uri=True, timeout=30) as connection:
            return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def killed_at(node: Path, words: Sequence[str], records: int) -> int:
    """Start a command, end it by SIGKILL once the store holds so many records; how many it holds then."""
    process = started(words)
    until = time.monotonic() + PATIENCE_S
    while stored(node) < records:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # waits for whoever has the pipes open: its helpers end too
    assert process.returncode == -signal.SIGKILL
    return stored(node)


@dataclass(frozen=True)
class Run:
    """What a run was given, and where it ended."""

    node: Path
    truth: list[BookingImage]
    after_kills: list[int]
    said: str
    seconds: float


def killed_run(folder: Path, count: int, processes: tuple[int, int, int, int]) -> Run:
    """Enrol so many photographs by four commands, each with so many processes; all but the last are killed."""
    truth = write_booking_images(folder / "images", count, seed=1, side=SIDE, finish=marked, processes=max(processes))
    node = intake_node(folder)
    words = [enrol_words(node, folder / "images", several) for several in processes]
    began = time.monotonic()
    after = [killed_at(node, one, count * share // 8) for one, share in zip(words, (1, 3, 6), strict=False)]
    process = started(words[-1])
    said, error = process.communicate()
    assert process.returncode == 0, error
    return Run(node, truth, after, said, time.monotonic() - began)


def told(record: GalleryRecord) -> tuple[str, ...]:
    """A record's facts as the truth has them."""
    booking = record.booking
    assert record.photograph is not None
    ended = "" if booking.disposed_on is None else booking.disposed_on.isoformat()
    facts = (record.captured.isoformat(), record.source_class, booking.event, booking.disposition.value, ended)
    return (*facts, pixels_digest(record.photograph))


def check_nothing_lost_or_doubled(run: Run) -> None:
    """Every record of the truth once, with its own picture and facts, and no other; templates of all, each with its quality."""
    store = opened_store(run.node)
    rows = store.rows().tolist()
    assert rows == list(range(len(run.truth)))
    held: dict[str, tuple[str, ...]] = {}
    for row in rows:
        record = store.record(row)
        assert record.record_number not in held
        assert record.quality is not None
        held[record.record_number] = told(record)
    booked = "criminal_booking"
    assert held == {
        one.record_number: (one.captured, booked, one.booking_event, one.disposition, one.disposition_date, one.pixels_sha256)
        for one in run.truth
    }
    assert store.templates().any(axis=1).all()


def check_independent_readers(run: Run, every: int) -> None:
    """Of every so many photographs: what nistitl and Pillow read in the file that was handed over is what the store holds."""
    store = opened_store(run.node)
    rows = {store.record(row).record_number: row for row in store.rows().tolist()}
    for one in run.truth[::every]:
        held = store.record(rows[one.record_number])
        assert held.photograph is not None
        path = run.node.parent / "images" / ("itl" if one.form == ITL_FORM else "photographs") / one.file
        data = path.read_bytes()
        if one.form == ITL_FORM:
            message = nistitl.Message()
            message.parse(data)
            (booking,), (face,) = message.iter(2), message.iter(10)
            assert ("CAR", held.record_number) == (message[0].TOT, message[0].TCN)
            assert (booking[10].value, face[5].value) == (held.booking.event, held.captured.strftime("%Y%m%d"))
            data = face[999].value
        with Image.open(io.BytesIO(data)) as given, Image.open(io.BytesIO(held.photograph)) as kept:
            assert (given.format, given.size) == (kept.format, kept.size)
            assert given.convert("RGB").tobytes() == kept.convert("RGB").tobytes()
            assert not kept.getexif()
