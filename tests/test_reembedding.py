"""A gallery goes over to another face model from its own photographs: beside the old one, in one step, whatever kills it on the way."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, select
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import CONFIG_FILE, NodeConfig
from agency_node.errors import EnrolmentError, RequestError
from agency_node.faces.embedder import Box, Face, load_embedder
from agency_node.faces.image import Pixels
from agency_node.gallery_tables import block_keys, next_block_keys, next_template_blocks, refused_records, template_blocks
from agency_node.holder import reembedding
from agency_node.holder.blocks import NEXT, OtherModelError, TemplateBlocks, pinned_model
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.index import GalleryIndex
from agency_node.holder.packed import Packed
from agency_node.holder.progress import NoProgress
from agency_node.holder.records import NewRecord, RecordStore
from agency_node.holder.reembedding import REFUSED_COLUMNS, Reembedded, Reembedding, write_refused
from agency_node.model_in_use import NamedModel, model_in_use
from agency_node.node import create_node, open_node
from agency_node.store import DATABASE_FILE, open_store
from agency_node.tables import answers
from agency_node.vault import Vault
from crypto.answer import AnswerRequest
from crypto.disclosure import Media
from crypto.embedding import EmbeddingModel
from crypto.errors import ModelError
from crypto.notices import RefusalReason
from crypto.probe import make_probe
from tests.face_packs import write_faces, write_pack
from tests.face_samples import encoded
from tests.node_samples import Clock, not_entered
from tests.node_world import EPOCH, World, search_claims, the_refusal
from tests.sample_federation import LAKESIDE, NORTHPORT, NOW, OVERSIGHT
from tests.simulation import directions, isotropic_model
from tests.test_gallery_index import PATIENCE_S, until

KEY = bytes(range(32))
OLD, NEW = isotropic_model(64), isotropic_model(128)
WAS, BY = NamedModel("dlib"), NamedModel("insightface", "pack", "0f" * 32)
PEOPLE, DARK, BARE, GONE = 70, 5, 6, 7
"""Records; the one whose photograph is dark, the one without a photograph, and the one that is expunged before."""


class ByPixels:
    """An embedder that sees one face in every picture that is not dark; the same pixels give the same face."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model
        self.seen = 0

    def faces(self, pixels: Pixels) -> list[Face]:
        self.seen += 1
        if pixels.mean() < 40:
            return []
        seed = int.from_bytes(hashlib.sha256(pixels.tobytes() + self.model.model_hash).digest()[:8], "big")
        unit = directions(np.random.default_rng(seed), 1, self.model.dimensions)[0]
        return [Face(Box(0, 0, 8, 8), unit.astype(np.float32))]


def picture(person: int) -> bytes:
    """32 pixels square, of a person's own colours; one is dark."""
    if person == DARK:
        return encoded(np.zeros((32, 32, 3), np.uint8))
    return encoded(np.random.default_rng(person).integers(60, 255, (32, 32, 3)).astype(np.uint8))


def enrolled(person: int, embedder: ByPixels) -> NewRecord:
    from agency_node.faces.image import read_image  # noqa: PLC0415

    photograph = picture(person)
    made = directions(np.random.default_rng(1000 + person), 1, OLD.dimensions)[0].astype(np.float32)
    if person not in {DARK, BARE}:
        made = embedder.faces(read_image(photograph).pixels)[0].embedding
    shown = None if person == BARE else photograph
    return NewRecord(f"P-{person:03d}", NOW.date(), "criminal_booking", OLD.templates(made), shown, None if shown is None else Media.PNG)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    opened = open_store(tmp_path / DATABASE_FILE)
    store = RecordStore(opened, Vault(KEY), OLD)
    store.add([enrolled(person, ByPixels(OLD)) for person in range(PEOPLE)], NOW)
    store.expunge(f"P-{GONE:03d}", ExpungeReason.DISMISSED, NOW, not_entered)
    return opened


def job(engine: Engine, model: EmbeddingModel = NEW) -> Reembedding:
    return Reembedding(engine, Vault(KEY), ByPixels(model), WAS, BY, Clock())


def expected(person: int, model: EmbeddingModel = NEW) -> np.ndarray:
    from agency_node.faces.image import read_image  # noqa: PLC0415

    if person in {DARK, BARE, GONE}:
        return np.zeros(model.dimensions, np.int8)
    return model.templates(ByPixels(model).faces(read_image(picture(person)).pixels)[0].embedding)


def check_new(engine: Engine, people: int = PEOPLE) -> None:
    """The store is of the new model and whole: each template at its row, once; two kept and not searched; nothing of the old left."""
    store = RecordStore(engine, Vault(KEY), NEW)
    templates = store.templates()
    assert templates.shape == (people, NEW.dimensions)
    for person in range(people):
        assert (templates[person] == expected(person)).all(), person
    assert sorted(set(range(people)) - set(store.rows().tolist())) == [DARK, BARE, GONE]
    for person in (DARK, BARE, GONE):  # no search finds them, and none of their zeros comes into a gallery
        assert (store.holds(person), store.template(person)) == (False, None)
    assert store.record(DARK).photograph == picture(DARK)
    with engine.begin() as connection:
        assert connection.execute(select(next_template_blocks)).all() == connection.execute(select(next_block_keys)).all() == []
        assert {(row, code) for row, _, code in connection.execute(select(refused_records))} == {(DARK, "no-face"), (BARE, "no-photograph")}
    with pytest.raises(OtherModelError, match="reembed"):
        RecordStore(engine, Vault(KEY), OLD)


def check_old(engine: Engine) -> None:
    store = RecordStore(engine, Vault(KEY), OLD)
    assert store.templates().shape == (PEOPLE, OLD.dimensions)
    assert store.rows().size == PEOPLE - 1
    assert store.template(3) is not None
    with pytest.raises(EnrolmentError):
        RecordStore(engine, Vault(KEY), NEW)


@pytest.mark.rule("R29")
def test_the_new_templates_are_searched_and_the_old_ones_are_gone(engine: Engine, tmp_path: Path) -> None:
    """R29: what lay in the tables, ciphertexts and sealed keys, stands in no file afterwards; the same bytes are found before."""
    with engine.begin() as connection:
        gone = [bytes(one) for one in connection.execute(select(template_blocks.c.sealed_templates)).scalars()]
        gone += [bytes(one) for one in connection.execute(select(block_keys.c.sealed_key)).scalars()]

    def on_disk() -> list[bool]:
        held = b"".join(path.read_bytes() for path in sorted(tmp_path.glob(f"{DATABASE_FILE}*")))
        return [one[:400] in held for one in gone]

    assert all(on_disk())
    before = RecordStore(engine, Vault(KEY), OLD).changes()
    done = job(engine).run(NoProgress())
    assert (done.model_hash, done.embedded, done.switched, done.files_clean) == (NEW.model_hash, PEOPLE - 3, True, True)
    assert not any(on_disk())
    check_new(engine)
    assert RecordStore(engine, Vault(KEY), NEW).changes() == before + 1
    again = job(engine)
    assert again.run(NoProgress()) == done
    assert again._embedder.seen == 0  # type: ignore[attr-defined]


def test_what_the_new_model_refuses_is_told_and_kept(engine: Engine, tmp_path: Path) -> None:
    done = job(engine).run(NoProgress())
    write_refused(tmp_path / "refused.csv", done.unsearchable)
    with (tmp_path / "refused.csv").open(newline="") as file:
        told = list(csv.DictReader(file))
    assert [tuple(one) for one in told] == [REFUSED_COLUMNS] * 2
    assert [(one["row"], one["record_number"], one["code"]) for one in told] == [("5", "P-005", "no-face"), ("6", "P-006", "no-photograph")]
    assert "P-005" not in repr(done)
    with pytest.raises(EnrolmentError, match="re-embedding itself is done"):
        write_refused(tmp_path / "no" / "where.csv", done.unsearchable)
    # the next re-embedding tries it again: this model sees the dark one too
    sees = ByPixels(OLD)
    sees.faces = lambda pixels: [Face(Box(0, 0, 8, 8), np.ones(64, np.float32))]  # type: ignore[method-assign]
    third = Reembedding(engine, Vault(KEY), sees, WAS, WAS, Clock()).run(NoProgress())
    assert [one.code for one in third.unsearchable] == ["no-photograph"]


def test_an_empty_gallery_has_nothing_to_embed(tmp_path: Path) -> None:
    empty = open_store(tmp_path / DATABASE_FILE)
    RecordStore(empty, Vault(KEY), OLD)
    with pytest.raises(RequestError, match="nothing is enrolled"):
        job(empty).run(NoProgress())


def test_enrolling_and_expunging_go_on_meanwhile(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come are embedded too; a row that goes is gone in both, also one that goes while its batch is embedded."""
    store, embed = RecordStore(engine, Vault(KEY), OLD), Reembedding._embed
    calls: list[int] = []

    def interrupted(self: Reembedding, first: int, total: int) -> object:
        made = embed(self, first, total)
        if not calls:  # the first batch is made and not written yet
            store.expunge("P-010", ExpungeReason.COURT_ORDER, NOW, not_entered)
            store.add([enrolled(person, ByPixels(OLD)) for person in range(PEOPLE, PEOPLE + 3)], NOW)
        elif len(calls) == 1:  # row 11 is written already
            store.expunge("P-011", ExpungeReason.COURT_ORDER, NOW, not_entered)
            with engine.begin() as connection:
                beside = TemplateBlocks(engine, Vault(KEY), NEW.dimensions, NEW.model_hash, NEXT).block(connection, 0)
            assert not beside[11].any()
            assert beside[12].any()
        calls.append(first)
        return made

    monkeypatch.setattr(Reembedding, "_embed", interrupted)
    done = job(engine).run(NoProgress())
    assert done.embedded == PEOPLE + 3 - 5
    templates = RecordStore(engine, Vault(KEY), NEW).templates()
    assert [row for row in range(PEOPLE + 3) if not templates[row].any()] == [DARK, BARE, GONE, 10, 11]
    assert (templates[PEOPLE + 2] == expected(PEOPLE + 2)).all()


def test_a_gallery_that_is_prepared_waits_for_its_day(engine: Engine) -> None:
    held = job(engine).run(NoProgress(), switch=False)
    assert (held.switched, len(held.unsearchable)) == (False, 2)
    check_old(engine)
    again = job(engine)
    assert again.run(NoProgress()).switched
    assert again._embedder.seen == 0  # type: ignore[attr-defined]  # nothing was made twice
    check_new(engine)


def test_what_was_prepared_for_a_third_model_goes(engine: Engine) -> None:
    third = isotropic_model(32)
    job(engine, third).run(NoProgress(), switch=False)
    assert job(engine).run(NoProgress()).switched
    check_new(engine)


def test_two_runs_do_not_write_into_each_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = Reembedding._embed

    def overtaken(self: Reembedding, first: int, total: int) -> object:
        made = embed(self, first, total)
        monkeypatch.setattr(Reembedding, "_embed", embed)
        job(engine).run(NoProgress(), switch=False)
        return made

    monkeypatch.setattr(Reembedding, "_embed", overtaken)
    with pytest.raises(RequestError, match="another run"):
        job(engine).run(NoProgress())
    check_old(engine)


STEPS = {
    "nothing made": ("_build", 0, False),
    "one batch embedded": ("_write", 0, False),
    "one batch written": ("_write", 1, False),
    "all made": ("_switch", 0, False),
    "switched": ("_destroy_old", 0, True),
    "old blocks deleted": ("_empty_log", 0, True),
}


@pytest.mark.parametrize("step", [*STEPS, "in the switch"])
def test_killed_at_each_step_it_is_old_or_new_and_goes_on(engine: Engine, tmp_path: Path, step: str) -> None:
    """A process of its own, killed by the kernel before the step; the store is opened again, and a second run finishes."""
    engine.dispose()

    def die(*_args: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        if step == "in the switch":  # tables renamed, keys of the old blocks deleted, nothing committed
            setattr(reembedding, "replace_model", die)  # noqa: B010  # in a process that ends here
        else:
            name, passes, _ = STEPS[step]
            setattr(Reembedding, name, dying(getattr(Reembedding, name), passes, die))
        job(open_store(tmp_path / DATABASE_FILE)).run(NoProgress())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    again = open_store(tmp_path / DATABASE_FILE)
    is_new = STEPS[step][2] if step in STEPS else False
    with again.begin() as connection:
        assert pinned_model(connection) == (NEW if is_new else OLD).model_hash
    if is_new:
        assert RecordStore(again, Vault(KEY), NEW).templates().shape == (PEOPLE, NEW.dimensions)
    else:
        check_old(again)
    finishing = job(again)
    assert finishing.run(NoProgress()).switched
    check_new(again)
    assert finishing._embedder.seen == {"one batch written": PEOPLE - 2 - 32}.get(  # type: ignore[attr-defined]
        step, 0 if is_new or step in {"all made", "in the switch"} else PEOPLE - 2
    )


def dying(method: Callable[..., object], passes: int, die: Callable[[], None]) -> Callable[..., object]:
    """The method, which dies when it is called after so many calls."""
    calls: list[None] = []

    def instead(*args: object) -> object:
        if len(calls) == passes:
            die()
        calls.append(None)
        return method(*args)

    return instead


def test_which_model_is_meant(engine: Engine, world_config: Callable[[str], object]) -> None:
    """The store's word holds for as long as node.toml names what was replaced."""
    job(engine).run(NoProgress())
    named = {name: model_in_use(engine, world_config(name)) for name in ("dlib", "synthetic-128")}  # type: ignore[arg-type]
    assert named == {"dlib": BY, "synthetic-128": NamedModel("synthetic-128")}


@pytest.fixture
def world_config() -> Callable[[str], object]:
    from agency_node.config import Mode, NodeConfig, Role  # noqa: PLC0415

    made = NodeConfig(agency="a-b", mode=Mode.TEST, roles=(Role.REQUESTER,), broker="http://b", root_fingerprint="0f" * 32)
    return lambda name: made.model_copy(update={"embedder": name})


# --- the serving node -------------------------------------------------------------------------------------------------


async def test_the_serving_node_answers_all_the_time_and_goes_over_once(tmp_path: Path) -> None:
    """Old model until the new gallery is packed and stated; then the new one alone. What went meanwhile is in neither."""
    world = World(tmp_path)
    node = await world.node(LAKESIDE)
    store = RecordStore(node.engine, node.vault, node.index.records.model)
    store.add([replace(enrolled(person, ByPixels(OLD)), record_number=f"S-{person}") for person in range(20, 24)], NOW)
    loaded = threading.Event()
    index = GalleryIndex(
        node.config, node.engine, node.vault, node.keyring, OLD, node.clock, lambda: NEW if loaded.wait(PATIENCE_S) else OLD
    )

    def asked(model: EmbeddingModel, number: int) -> object:
        from agency_node.holder.index import Asked  # noqa: PLC0415

        unit = directions(np.random.default_rng(number), 1, model.dimensions)[0]
        return Asked(AnswerRequest(make_probe(model, model.probe_vector(unit), EPOCH)[0], bytes(32)), b"case %d" % number)

    def answered(model: EmbeddingModel, number: int) -> bool:
        return index.answer([asked(model, number)])[0] is not None  # type: ignore[list-item]

    try:
        await index.prepare(world.broker)
        assert index.manifest is not None
        first = index.manifest
        assert answered(OLD, 1)
        Reembedding(node.engine, node.vault, ByPixels(NEW), WAS, BY, node.clock).run(NoProgress())
        assert answered(OLD, 2)  # the store is new, the packed gallery old
        index.check_model(OLD.model_hash)
        RecordStore(node.engine, node.vault, NEW).expunge("S-21", ExpungeReason.COURT_ORDER, NOW, not_entered)
        assert answered(OLD, 3)
        await index.prepare(world.broker)
        assert index.manifest is first
        loaded.set()

        def is_new() -> bool:
            index.answer([])
            packed = index._packed
            return packed is not None and packed.gallery.model.model_hash == NEW.model_hash

        until(is_new)
        assert not answered(NEW, 4)  # its manifest is not out
        with pytest.raises(ModelError, match="re-embedded"):
            index.check_model(OLD.model_hash)
        await index.prepare(world.broker)
        assert (index.manifest.model_hash, index.manifest.dimensions, index.manifest.records) == (NEW.model_hash, NEW.dimensions, 3)
        index.manifest.check_follows(first)
        assert answered(NEW, 5)
        assert index.answer([asked(OLD, 6), asked(NEW, 7)])[0] is None  # type: ignore[list-item]
        store = RecordStore(node.engine, node.vault, NEW)
        store.add([replace(enrolled(24, ByPixels(OLD)), record_number="S-24", template=expected(24))], NOW)
        assert answered(NEW, 8)
        assert index._packed is not None
        assert index._packed.live == 4
    finally:
        index.close()
        world.close()


def test_a_gallery_of_the_old_model_takes_in_nothing_of_the_new(engine: Engine) -> None:
    store = RecordStore(engine, Vault(KEY), OLD)
    packed = Packed.build(store, EPOCH)
    live = packed.live
    job(engine).run(NoProgress())
    RecordStore(engine, Vault(KEY), NEW).add([replace(enrolled(90, ByPixels(OLD)), template=expected(90))], NOW)
    assert not packed.follow()
    assert packed.live == live
    with pytest.raises(OtherModelError):
        store.template(3)
    with pytest.raises(OtherModelError):
        store.templates()


def test_a_report_knows_what_it_says() -> None:
    assert "P-1" not in repr(Reembedded(bytes(32), 1, (), switched=True, files_clean=True))


@pytest.mark.rule("R29")
async def test_a_probe_of_before_the_switch_is_refused_by_name(tmp_path: Path) -> None:
    """R29: its grant was taken under the old model; the holder says which rule of the protocol ends it, and goes on serving."""
    world = World(tmp_path)
    content = search_claims()
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await world.node(agency)
    node = await world.holder_with_grant(content)
    node.index._newest_model = lambda: NEW
    Reembedding(node.engine, node.vault, ByPixels(NEW), WAS, BY, node.clock).run(NoProgress())
    RecordStore(node.engine, node.vault, NEW).add([replace(enrolled(24, ByPixels(OLD)), template=expected(24))], NOW)

    def is_new() -> bool:
        node.index.answer([])
        packed = node.index._packed
        return packed is not None and packed.gallery.model.model_hash == NEW.model_hash

    until(is_new)
    probe = world.probe(content)
    await world.hand_in(LAKESIDE, probe)
    assert node.state_of(probe)[0] == "refused"
    assert the_refusal(node, probe) is RefusalReason.MODEL
    assert node.rows(answers) == []
    later = world.grant(search_claims(1), LAKESIDE)
    world.broker.enter_grant(search_claims(1).digest)
    await node.index.prepare(world.broker)
    await world.hand_in(LAKESIDE, later)
    assert node.state_of(later)[0] == "refused"
    node.index.close()
    world.close()


def run(*words: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["node", *words, "--json"])
    said: dict[str, object] = json.loads(done.stdout)
    assert (done.exit_code == 0) is (said.get("ok") is not False), done.output
    return said


def test_the_command(tmp_path: Path) -> None:
    """Photographs that were enrolled with one pack, brought to another; from then on the node enrols with that one."""
    first, second = write_pack(tmp_path / "first"), write_pack(tmp_path / "second", seed=8)
    folder, pictures = tmp_path / "node", write_faces(tmp_path / "pictures", 3)
    values: dict[str, object] = {
        "agency": "lakeside-sheriff",
        "mode": "test",
        "roles": ["holder"],
        "broker": "http://127.0.0.1:1",
        "root_fingerprint": "0f" * 32,
        "trusted_custodians": ["civic-board"],
        "embedder": "insightface",
        "face_pack": {"folder": str(first.folder), "sha256": first.sha256},
    }
    create_node(folder, NodeConfig.checked(values), witness=False)
    table = tmp_path / "table.csv"
    rows = [f"{person:03d}.png,L-{person},2021-03-09,criminal_booking\n" for person in range(3)]
    table.write_text("file,record_number,captured,source_class\n" + "".join(rows[:2]))
    enrol = ["enrol", str(folder), "--folder", str(pictures), "--table", str(table)]
    assert run(*enrol)["enrolled"] == 2
    to_second = ["reembed", str(folder), "--embedder", "insightface", "--face-pack", str(second.folder), "--sha256", second.sha256]
    refused = tmp_path / "refused.csv"
    held = run(*to_second, "--prepare", "--refused", str(refused))
    assert (held["embedded"], held["switched"], refused.read_text()) == (2, False, ",".join(REFUSED_COLUMNS) + "\n")
    done = run(*to_second)
    assert (done["switched"], done["model_hash"]) == (True, load_embedder("insightface", second).model.model_hash.hex())
    assert run(*to_second) == done  # once more does nothing
    table.write_text("file,record_number,captured,source_class\n" + "".join(rows))
    assert run(*enrol)["enrolled"] == 1
    node = open_node(folder, lambda: NOW)
    assert RecordStore(node.engine, node.vault, node.embedder().model).count() == 3
    (folder / CONFIG_FILE).write_text(
        node.config.to_toml().replace(str(first.folder), str(second.folder)).replace(first.sha256, second.sha256)
    )
    assert run(*enrol)["enrolled"] == 0
    shown = CliRunner().invoke(app, ["node", *to_second])
    assert "3 records have templates of the new model, 0 are kept" in shown.stdout
    for words, why in ((["--embedder", "insightface"], "needs [face_pack]"), (["--embedder", "arcface"], "no embedder of that name")):
        assert why in str(run("reembed", str(folder), *words)["detail"])
    requester = tmp_path / "requester"
    create_node(requester, NodeConfig.checked({**values, "roles": ["requester"]}), witness=False)
    assert "is no holder" in str(run("reembed", str(requester), "--embedder", "dlib")["detail"])
