"""One of 100,000 records is expunged: gone from files, from the process that serves, from searches, and from what a backup of before gives.

The process is a real one with the store, the packing and the following of a serving node; its memory is read from outside (`test_expunge`).
Each search for bytes comes after a control in which they are found.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from agency_node.backup import sealed_file
from agency_node.backup.making import make_backup
from agency_node.gallery_tables import block_keys, template_blocks
from agency_node.holder.blocks import BLOCK_ROWS
from agency_node.holder.expunge_ledger import FILE
from agency_node.holder.packed import Packed
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.node import Node, open_node
from agency_node.store import forget_deleted
from crypto.bases import public_bases
from crypto.codes import Codes, values_of
from crypto.disclosure import Media
from crypto.gallery import PackedGallery
from crypto.impostors import ImpostorTable
from crypto.layout import FILLER
from crypto.ordered_probe import OrderedProbe
from crypto.release import ReleaseTerms, release
from crypto.ring import N
from crypto.scan import scan_words
from tests.node_samples import Clock
from tests.sample_federation import NOW
from tests.simulation import EPOCH, GRANT_DIGEST, NORTHPORT, directions, search
from tests.test_backup import MODEL, PASSPHRASE, expunge, make_node, restored
from tests.test_expunge import Serving, files

RECORDS, ROW, BATCH = 100_000, 54_321, 20 * BLOCK_ROWS
NUMBER = f"L-{ROW}"
CAP = 20

SERVING = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from agency_node.holder.packed import Packed
from agency_node.holder.records import RecordStore
from agency_node.node import open_node
from crypto.codes import values_of
from tests.simulation import EPOCH
from tests.test_backup import MODEL

node = open_node(Path(sys.argv[1]), lambda: datetime.now(UTC))
store = RecordStore(node.engine, node.vault, MODEL)
for line in sys.stdin:
    step = line.strip()
    if step == "pack":
        packed = Packed.build(store, EPOCH)
    elif step == "follow":
        assert packed.follow()
    elif step == "wipe":
        templates.fill(0)
    else:  # the control: what a careless node would hold
        templates = store.templates() if step == "int8" else values_of(store.templates()).astype(step)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def vectors() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return directions(np.random.default_rng(11), RECORDS, MODEL.dimensions)


def filled(folder: Path, templates: Codes) -> Node:
    node = make_node(folder)
    store = RecordStore(node.engine, node.vault, MODEL)
    for first in range(0, RECORDS, BATCH):
        rows = range(first, min(first + BATCH, RECORDS))
        some = (b"picture of the record", Media.PNG)
        store.add([NewRecord(f"L-{i}", NOW.date(), "booking", templates[i], *(some if i == ROW else (None, None))) for i in rows], NOW)
    return node


def forms(template: Codes) -> dict[str, bytes]:
    """Half of it in each type: a page that holds the whole holds these bytes."""
    half = template[: template.size // 2]
    return {"int8": half.tobytes(), **{kind: values_of(half).astype(kind).tobytes() for kind in ("float16", "float32")}}


def leads_of(gallery: PackedGallery, embedding: np.ndarray[tuple[int], np.dtype[np.float32]]) -> list[int]:
    """The rows that a whole search for that face releases, all parties' mathematics in turn."""
    found = search(gallery, MODEL.probe_vector(embedding))
    terms, table = ReleaseTerms(GRANT_DIGEST, CAP, 10), ImpostorTable.isotropic(MODEL.model_hash, MODEL.dimensions)
    leads = release(terms, table, [found.holder_scores(RECORDS)]).to_holders[NORTHPORT].leads
    return [int(row) for row in found.rows(gallery.layout.rows)[[place for _, place in leads]]]


@pytest.mark.rule("R25")
def test_one_of_a_hundred_thousand_is_gone_everywhere(
    tmp_path: Path, vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R25."""
    monkeypatch.setattr(sealed_file, "_COST", 16)
    templates = MODEL.templates(vectors)
    node = filled(tmp_path / "lakeside", templates)
    store = RecordStore(node.engine, node.vault, MODEL)
    packed = Packed.build(store, EPOCH)
    assert leads_of(packed.gallery, vectors[ROW]) == [ROW]
    make_backup(node, tmp_path / "backup", PASSPHRASE, node.clock)
    with node.engine.begin() as connection:
        of_block = template_blocks.c.block == ROW // BLOCK_ROWS
        block = connection.execute(select(template_blocks.c.sealed_templates).where(of_block)).scalar_one()
        key = connection.execute(select(block_keys.c.sealed_key).where(block_keys.c.block == ROW // BLOCK_ROWS)).scalar_one()
    sealed = {"block": bytes(block[9000:9064]), "data key": bytes(key)}
    assert forget_deleted(node.engine)
    assert {name for name, needle in sealed.items() if needle in files(node.folder)} == set(sealed)

    serving, wanted = Serving(node.folder, SERVING), forms(templates[ROW])
    for kind in wanted:
        serving.do(kind)
        assert kind in serving.holds(wanted)
        serving.do("wipe")
    serving.do("pack")

    slot = packed.gallery.layout.slot_of(ROW)
    expunge(node, NUMBER)
    assert forget_deleted(node.engine)
    serving.do("follow")
    assert serving.holds(wanted) == set()
    plain = files(node.folder)
    assert {name for name, needle in (sealed | wanted).items() if needle in plain} == set()
    for kind in ("int8", "float16", "float32"):  # the store gives it back no more; its neighbour it does
        serving.do(kind)
        assert serving.holds(wanted) == set()
        assert kind in serving.holds(forms(templates[ROW + 1]))
        serving.do("wipe")
    serving.end()

    assert packed.follow()
    chunk, layout = packed.gallery.chunk_templates(slot // N), packed.gallery.layout
    assert layout.rows[slot] == FILLER
    assert not (chunk == templates[ROW]).all(axis=1).any()
    assert np.linalg.norm(values_of(chunk[slot % N]).astype(float)) == pytest.approx(MODEL.scales.gamma, rel=0.05)
    bases = [OrderedProbe(public_bases(EPOCH, MODEL.dimensions)[:-1])]
    assert (packed.gallery.fixed_part(EPOCH) == scan_words(packed.gallery.words, bases)[0]).all()
    assert leads_of(packed.gallery, vectors[ROW]) == []
    assert leads_of(packed.gallery, vectors[ROW + 1]) == [ROW + 1]

    done = restored(tmp_path / "backup", tmp_path / "again", expunged=node.folder / FILE, at_least=1)
    assert (done.expunged_again, done.ledger.number) == (1, 1)
    again = open_node(tmp_path / "again", Clock())
    back = RecordStore(again.engine, again.vault, MODEL)
    assert (back.holds(ROW), back.count()) == (False, RECORDS - 1)
    assert leads_of(Packed.build(back, EPOCH).gallery, vectors[ROW]) == []
