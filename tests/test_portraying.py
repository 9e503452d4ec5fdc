"""Pictures that several processes work on come out as from one, in their order; a helper that is ended is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from agency_node.bench.booking_images import booking_images
from agency_node.errors import HelperEndedError, ImageError, ImageFault
from agency_node.faces.embedder import load_embedder
from agency_node.faces.pack import PinnedPack
from agency_node.holder.enrol import enrol_folder
from agency_node.holder.portraying import ManyPortrayers, Portrayed, portray
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import RecordStore
from agency_node.store import open_store
from agency_node.vault import Vault
from tests.booking_run import SIDE, marked
from tests.face_packs import write_pack

NOW = datetime(2026, 11, 23, 16, 12, tzinfo=UTC)
PICTURES = [one.data for one in booking_images(8, 1, SIDE, marked)]
BROKEN = PICTURES[0][:-200]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> PinnedPack:
    return write_pack(tmp_path_factory.mktemp("pack"))


def reading(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def missing() -> bytes:
    raise ImageError(ImageFault.MISSING, "there is no such file: copy it there")


def parts(made: Portrayed) -> tuple[object, ...]:
    return (made.template.tobytes(), made.photograph, made.media, made.quality)


def test_helpers_make_what_this_process_makes_bit_for_bit(pack: PinnedPack, tmp_path: Path) -> None:
    """Also of pictures that cannot be enrolled; a store that they fill has its rows in the table's order; one that is ended is told."""
    embedder = load_embedder("insightface", pack)
    with ManyPortrayers(embedder, "insightface", pack, helpers=2, alone=1) as several:
        begun = [several.begin(reading(data)) for data in PICTURES]
        assert several.ahead == 8
        assert [parts(one()) for one in begun] == [parts(portray(data, embedder)) for data in PICTURES]
        for read, fault in ((reading(BROKEN), ImageFault.DAMAGED), (missing, ImageFault.MISSING)):
            waits = several.begin(read)
            with pytest.raises(ImageError) as caught:
                waits()
            assert caught.value.fault is fault
        rows = ["file,record_number,captured,source_class"]
        for number in range(40):
            (tmp_path / f"{number}.img").write_bytes(BROKEN if number == 17 else PICTURES[number % len(PICTURES)])
            rows.append(f"{number}.img,R-{number},2019-05-04,criminal_booking")
        (tmp_path / "table.csv").write_text("\n".join(rows))
        store = RecordStore(open_store(tmp_path / "node.sqlite"), Vault(bytes(32)), embedder.model)
        report = enrol_folder(store, embedder, tmp_path, tmp_path / "table.csv", NoProgress(), NOW, portrayer=several)
        for helper in active_children():
            os.kill(helper.pid or 0, signal.SIGKILL)
        with pytest.raises(HelperEndedError, match="run the same command again, it goes on where it was"):
            several.begin(reading(PICTURES[1]))()
    assert (report.enrolled, [(row.line, row.code) for row in report.refused]) == (39, [(19, "damaged")])
    assert [store.record(row).record_number for row in range(39)] == [f"R-{number}" for number in range(40) if number != 17]
    expected = [portray(PICTURES[number % len(PICTURES)], embedder).template for number in range(40) if number != 17]
    assert np.array_equal(store.templates(), np.stack(expected))
    assert active_children() == []


def test_few_pictures_and_one_core_start_no_process(pack: PinnedPack) -> None:
    embedder = load_embedder("insightface", pack)
    for helpers, alone in ((2, 64), (1, 0)):
        with ManyPortrayers(embedder, "insightface", pack, helpers=helpers, alone=alone) as several:
            several.begin(reading(PICTURES[0]))()
            assert (several.ahead, active_children()) == (0, [])
