"""A record that was expunged is in no file of the node and in no page of the process that serves its gallery.

The process is a real one (`SERVING` below) with the store, the packing and the following of a serving node; its memory is read from
outside, page by page. Each search for bytes is preceded by a control in which they are found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.errors import KnownRecordError, RequestError
from agency_node.gallery_tables import block_keys, records, template_blocks
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.node import open_node
from agency_node.outbox import EXPUNCTION, READY
from agency_node.store import DATABASE_FILE, forget_deleted, open_store
from agency_node.tables import ledger, outbox
from agency_node.vault import Vault
from crypto.canonical import b64url_encode
from crypto.codes import Codes, values_of
from crypto.disclosure import Media
from crypto.entries import EntryKind, LogEntry
from tests.node_samples import Clock, not_entered
from tests.node_world import MODEL, gallery_records
from tests.sample_federation import NOW, signing_key

KEY = bytes(range(32))
ROOT = Path(__file__).resolve().parent.parent
EXPUNGED = "LS-00042"
ROW = 42

SERVING = """
import sys
from pathlib import Path
from agency_node.holder.packed import Packed
from agency_node.holder.records import RecordStore
from agency_node.store import open_store
from agency_node.vault import Vault
from tests.node_world import EPOCH
from tests.simulation import isotropic_model
from crypto.codes import Codes

store = RecordStore(open_store(Path(sys.argv[1])), Vault(bytes(range(32))), isotropic_model(64))
for line in sys.stdin:
    if line == "load\\n":
        templates = store.templates()
    elif line == "wipe\\n":
        templates.fill(0)
    elif line == "pack\\n":
        packed = Packed.build(store, EPOCH)
    else:
        assert packed.follow()
    print("done", flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    made = RecordStore(open_store(tmp_path / DATABASE_FILE), Vault(KEY), MODEL)
    made.add(gallery_records(), NOW)
    return made


class Serving:
    """A process that serves a gallery, told step by step what to do."""

    def __init__(self, what: Path, program: str = SERVING) -> None:
        argv = [sys.executable, "-c", program, str(what)]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603

    def do(self, step: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(step + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def holds(self, needles: dict[str, bytes]) -> set[str]:
        """Which of these bytes stand in a readable page."""
        pid, found = self._process.pid, set()
        with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
            for line in maps:
                span, rights = line.split()[:2]
                first, last = (int(one, 16) for one in span.split("-"))
                if "r" not in rights or "[v" in line:
                    continue
                try:
                    memory.seek(first)
                    page = memory.read(last - first)
                except OSError:
                    continue
                found |= {name for name, needle in needles.items() if needle in page}
        return found

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def serving(store: RecordStore, tmp_path: Path) -> Iterator[Serving]:
    process = Serving(tmp_path / DATABASE_FILE)
    yield process
    process.end()


def forms(template: Codes) -> dict[str, bytes]:
    """Half of a template's codes, and of what they stand for in other types: a page that holds the whole holds these bytes."""
    half = template[: template.size // 2]
    return {"codes": half.tobytes()} | {kind: values_of(half).astype(kind).tobytes() for kind in ("int16", "float16", "float32", "int32")}


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob(f"{DATABASE_FILE}*")))


def test_the_serving_process_holds_no_template_in_any_form(store: RecordStore, serving: Serving) -> None:
    """Neither of the record that is expunged, before and after, nor of one that came while it served."""
    wanted = forms(gallery_records()[ROW].template)
    serving.do("load")
    assert serving.holds(wanted) == {"codes"}  # the control: decrypted templates are found
    serving.do("wipe")
    assert serving.holds(wanted) == set()
    serving.do("pack")
    assert serving.holds(wanted) == set()

    late = replace(gallery_records()[3], record_number="LATE", template=np.roll(gallery_records()[3].template, 7))
    store.add([late], NOW)
    serving.do("follow")
    assert serving.holds(forms(late.template)) == set()
    for number in (EXPUNGED, "LATE"):
        store.expunge(number, ExpungeReason.COURT_ORDER, NOW, not_entered)
    serving.do("follow")
    assert serving.holds(wanted | {f"late {kind}": needle for kind, needle in forms(late.template).items()}) == set()
    serving.do("load")
    assert serving.holds(wanted) == set()  # the store gives it back no more
    assert serving.holds(forms(gallery_records()[ROW + 1].template)) == {"codes"}


def test_no_file_holds_what_was_expunged(store: RecordStore, tmp_path: Path) -> None:
    """Not the ciphertexts of template, record and photograph, nor the wrapped key of the block."""
    with store._engine.begin() as connection:
        row = connection.execute(select(records).where(records.c.row == ROW)).one()
        block = connection.execute(select(template_blocks.c.sealed_templates)).scalar_one()
        key = connection.execute(select(block_keys.c.sealed_key)).scalar_one()
    gone = {"record": row.sealed_record, "photograph": row.sealed_photograph[:64], "block": block[5000:5064], "key": key}
    assert forget_deleted(store._engine)
    assert {name for name, needle in gone.items() if needle in files(tmp_path)} == set(gone)
    store.expunge(EXPUNGED, ExpungeReason.COURT_ORDER, NOW, not_entered)
    assert forget_deleted(store._engine)
    assert {name for name, needle in gone.items() if needle in files(tmp_path)} == set()
    assert store.has(EXPUNGED)  # its tag stays: a table that still names it enrols it no more
    assert not store.holds(ROW)
    assert store.holds(ROW + 1)


def test_an_expunging_says_what_it_destroyed_and_happens_once(store: RecordStore) -> None:
    before = store.commitment()
    gone = store.expunge(EXPUNGED, ExpungeReason.NON_CONVICTION, NOW, not_entered)
    assert (gone.row, gone.had_photograph, gone.root_before, gone.root_after) == (ROW, True, before, store.commitment())
    assert gone.root_after != before
    for number, said in ((EXPUNGED, "expunged before"), ("nobody", "no record of that number")):
        with pytest.raises(RequestError, match=said):
            store.expunge(number, ExpungeReason.ERROR, NOW, not_entered)
    with store._engine.begin() as connection:
        lines = [f"{one.event}: {one.detail}" for one in connection.execute(select(ledger))]
    assert lines[1:] == [f"expunged: row {ROW}: non-conviction"]
    assert EXPUNGED not in repr(gone)


def test_the_commitment_follows_every_change_as_if_read_anew(store: RecordStore, tmp_path: Path) -> None:
    """Whoever made the change: this store, another process, or nobody because it was refused."""
    other = RecordStore(open_store(tmp_path / DATABASE_FILE), Vault(KEY), MODEL)
    sample = gallery_records()[0]

    def anew() -> bytes:
        return RecordStore(open_store(tmp_path / DATABASE_FILE), Vault(KEY), MODEL).commitment()

    def batch(prefix: str, count: int) -> list[NewRecord]:
        return [replace(sample, record_number=f"{prefix}-{i}", template=np.roll(sample.template, i)) for i in range(count)]

    seen = [store.commitment()]
    changes: list[Callable[[], object]] = [
        lambda: store.add(batch("A", 1), NOW),
        lambda: store.add(batch("B", 2500), NOW),
        lambda: other.add(batch("C", 3), NOW),
        lambda: store.expunge("B-1500", ExpungeReason.ERROR, NOW, not_entered),
        lambda: other.expunge("B-3", ExpungeReason.ERROR, NOW, not_entered),
        lambda: store.add(batch("D", 1), NOW),
    ]
    for number, change in enumerate(changes):
        change()
        assert store.commitment() == anew(), number
        seen.append(store.commitment())
    assert len(set(seen)) == len(seen)
    with pytest.raises(KnownRecordError):
        store.add(batch("D", 2), NOW)
    assert store.commitment() == anew() == seen[-1]


def test_others_in_the_block_are_as_they_were(store: RecordStore) -> None:
    before = store.templates()
    store.expunge(EXPUNGED, ExpungeReason.COURT_ORDER, NOW, not_entered)
    after = store.templates()
    assert not after[ROW].any()
    before[ROW] = 0
    assert (after == before).all()
    assert store.record(ROW + 1).record_number == f"LS-{ROW + 1:05d}"
    assert store.template(ROW) is None


def test_blocks_without_keys_get_keys(store: RecordStore, tmp_path: Path) -> None:
    """A store of the first schema, whose blocks were sealed by the vault alone."""
    templates = store.templates()
    sealed = Vault(KEY).seal("template block", templates.tobytes(), bytes(8))
    with store._engine.begin() as connection:
        connection.execute(block_keys.delete())
        connection.execute(template_blocks.update().values(sealed_templates=sealed))
    again = RecordStore(open_store(tmp_path / DATABASE_FILE), Vault(KEY), MODEL)
    assert (again.templates() == templates).all()
    with again._engine.begin() as connection:
        assert connection.execute(select(template_blocks.c.sealed_templates)).scalar_one() != sealed


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "lakeside"
    runner = CliRunner()
    made = runner.invoke(app, [
        "node", "init", str(folder), "--agency", "lakeside-sheriff", "--name", "Lakeside", "--jurisdiction", "us-wi-lakeside",
        "--role", "holder", "--role", "legal_office", "--office-key", b64url_encode(signing_key("office").verifying_key.raw),
        "--officer", "O", "--broker", "http://127.0.0.1:1", "--trust", "civic-board",
        "--root-fingerprint", "00" * 32, "--mode", "test", "--json",
    ])  # fmt: skip
    assert made.exit_code == 0, made.output
    node = open_node(folder, Clock())
    from agency_node.faces.embedder import load_embedder  # noqa: PLC0415  # the model that the command takes

    model = load_embedder(node.config.embedder).model
    template = model.templates(np.random.default_rng(1).standard_normal(model.dimensions))
    numbered = [NewRecord(f"L-{i}", gallery_records()[0].captured, "booking", template, b"picture", Media.PNG) for i in range(3)]
    RecordStore(node.engine, node.vault, model).add(numbered, NOW)
    node.engine.dispose()

    done = runner.invoke(app, ["node", "expunge", str(folder), "L-1", "--reason", "court-order", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["expunged"], said["row"], said["reason"], said["files_clean"]) == (True, 1, "court-order", True)
    assert said["root_before"] != said["root_after"]
    with node.engine.begin() as connection:
        (queued,) = connection.execute(select(outbox)).all()  # there is no broker: it waits for the serving node
    assert (queued.kind, queued.state, LogEntry.from_bytes(queued.data).kind) == (EXPUNCTION, READY, EntryKind.EXPUNCTION)
    node.engine.dispose()
    done = runner.invoke(app, ["node", "expunge", str(folder), "L-2", "--reason", "error"])
    assert "expunged row 2 (error): template, photograph, record number and day are overwritten" in done.stdout
    for words, wrong in (
        ("L-1 --reason error", "expunged before"),
        ("L-9 --reason error", "no record"),
        ("L-0 --reason mood", "court-order"),
    ):
        refused = runner.invoke(app, ["node", "expunge", str(folder), *words.split()])
        assert refused.exit_code == 2
        assert wrong in refused.output
