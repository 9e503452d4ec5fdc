"""The holder's gallery in service: layouts renewed in the background, passes that are shared, records that come and go while it runs."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from sqlalchemy import select, update

from agency_node.gallery_tables import block_keys, layouts, template_blocks
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.index import RENEWED_AT, Asked, GalleryIndex, Given
from agency_node.holder.packed import MANY, Packed
from agency_node.holder.records import NewRecord
from agency_node.holder.renewal import Renewal
from agency_node.holder.scanning import Claimed
from agency_node.tables import answers, inbox
from crypto.answer import AnswerRequest, OrderSeed
from crypto.bases import public_bases
from crypto.binary import sha256
from crypto.codes import values_of
from crypto.epoch import Epoch
from crypto.gallery import pack_templates
from crypto.layout import FILLER, LAYOUT_USES, SPARE_SLOTS
from crypto.ledger import MerkleTree, leaf_hash
from crypto.message_types import MessageType
from crypto.opening import open_answer
from crypto.ordered_probe import OrderedProbe
from crypto.prepared import answer_order
from crypto.probe import make_probe
from crypto.ring import N
from crypto.scan import scan_words
from crypto.seed import Seed
from crypto.wire import MessageId
from crypto.workers import split, usable_cores
from tests.node_world import EPOCH, MODEL, RECORDS, World, WorldNode, gallery_records, search_claims
from tests.sample_federation import LAKESIDE, NOW, OVERSIGHT
from tests.simulation import directions

PATIENCE_S = 20.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def holder(world: World) -> WorldNode:
    return await world.node(LAKESIDE)


def asked(number: int, case: int | None = None, epoch: Epoch = EPOCH) -> Asked:
    """A probe of record `number`'s own face, in a case of its own unless another is named."""
    template = gallery_records()[number % RECORDS].template.astype(np.float64)
    probe, _ = make_probe(MODEL, MODEL.probe_vector(template + MODEL.centre), epoch)
    return Asked(AnswerRequest(probe, bytes(32)), b"case %d" % (number if case is None else case))


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.005)


def packed_of(index: GalleryIndex) -> Packed:
    packed = index._packed
    assert packed is not None
    return packed


def renewing(index: GalleryIndex) -> bool:
    return index._renewal.under_way


def answered(index: GalleryIndex, one: Asked) -> Given:
    """The answer of a search that may have to wait for a layout."""
    end = time.monotonic() + PATIENCE_S
    while True:
        (given,) = index.answer([one])
        if given is not None:
            return given
        assert time.monotonic() < end, "no layout came"
        time.sleep(0.005)


# --- layouts ----------------------------------------------------------------------------------------------------------


async def test_every_layout_serves_sixteen_searches_at_most_and_the_next_is_there_in_time(holder: WorldNode) -> None:
    given = [answered(holder.index, asked(number)) for number in range(2 * LAYOUT_USES + 3)]
    uses = Counter(one.layout_id for one in given)
    assert max(uses.values()) <= LAYOUT_USES
    assert len(uses) >= 3
    stored = [row.layout_id for row in holder.rows(layouts)]
    assert sorted(stored) == sorted(uses)


async def test_a_layout_is_begun_before_the_present_one_is_used_up(holder: WorldNode) -> None:
    index = holder.index
    for number in range(LAYOUT_USES - RENEWED_AT - 1):
        answered(index, asked(number))
    assert not renewing(index)
    first = packed_of(index)
    answered(index, asked(100))
    assert renewing(index)
    assert packed_of(index) is first  # it serves on
    until(lambda: index.answer([]) == [] and packed_of(index) is not first)
    assert packed_of(index).gallery.layout.uses_left == LAYOUT_USES


async def test_a_case_meets_no_layout_twice(holder: WorldNode) -> None:
    index = holder.index
    first = answered(index, asked(1, case=7))
    assert index.answer([asked(2, case=7)]) == [None]  # it waits, and the next layout is being built
    assert renewing(index)
    others = index.answer([asked(3, case=8), asked(4, case=9)])
    assert all(others)  # whom that does not concern goes on
    assert answered(index, asked(2, case=7)).layout_id not in {first.layout_id}


async def test_two_of_one_case_do_not_share_a_pass(holder: WorldNode) -> None:
    given = holder.index.answer([asked(1, case=7), asked(2, case=7)])
    assert [one is None for one in given] == [False, True]


async def test_one_pass_answers_each_probe_with_its_own_scores(holder: WorldNode) -> None:
    probes = []
    for number in (3, 50, 90):
        template = gallery_records()[number].template.astype(np.float64)
        probe, key = make_probe(MODEL, MODEL.probe_vector(template + MODEL.centre), EPOCH)
        probes.append((number, probe, key))
    given = holder.index.answer([Asked(AnswerRequest(probe, bytes(32)), b"case %d" % number) for number, probe, _ in probes])
    assert len({one.layout_id for one in given if one is not None}) == 1
    for (_, probe, key), one in zip(probes, given, strict=True):
        assert one is not None
        open_answer(one.made, OrderSeed(one.made.digest, one.kept.order_seed), probe, key)
        assert one.made.probe_digest == probe.digest
    assert len({one.made.digest for one in given if one is not None}) == 3


async def test_a_pass_is_of_one_epoch(holder: WorldNode) -> None:
    given = holder.index.answer([asked(1), asked(2, epoch=Epoch("2026-12")), asked(3)])
    assert [one is None for one in given] == [False, True, False]
    assert packed_of(holder.index).gallery.layout.uses_left == LAYOUT_USES - 2
    (later,) = holder.index.answer([asked(2, epoch=Epoch("2026-12"))])
    assert later is not None


async def test_a_renewal_that_died_is_begun_again(holder: WorldNode) -> None:
    with holder.engine.begin() as connection:
        good = connection.execute(select(block_keys.c.sealed_key)).scalar_one()
        connection.execute(update(block_keys).values(sealed_key=good[:-1] + bytes([good[-1] ^ 1])))
    first = answered(holder.index, asked(1, case=7)).layout_id
    until(lambda: holder.index.answer([asked(2, case=7)]) == [None] and "new layout died: StoreError" in holder.journal())
    with holder.engine.begin() as connection:
        connection.execute(update(block_keys).values(sealed_key=good))
    assert answered(holder.index, asked(2, case=7)).layout_id != first
    assert holder.journal().count("new layout died: StoreError") == 1


def test_every_thread_of_a_build_stands_behind_searches_and_no_other_does() -> None:
    both, done = threading.Barrier(2), threading.Event()
    seen: list[int] = []

    def work(first: int, _last: int) -> None:
        if first in {0, 1}:  # two parts are under way at once, so in two threads
            both.wait(PATIENCE_S)
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def build(_check: Callable[[], None], _threads: int | None) -> Packed:
        split(16, work, 2)
        done.set()
        raise RuntimeError("there is no gallery here")

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    renewal = Renewal(build)
    renewal.begin(at_once=False)
    assert done.wait(PATIENCE_S)
    renewal.stop()
    assert len(seen) == 16
    assert min(seen) > own == os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_a_stop_ends_a_renewal(holder: WorldNode) -> None:
    begun, ended = threading.Event(), threading.Event()

    def build(check: Callable[[], None], threads: int | None) -> Packed:
        assert threads == min(2, usable_cores())
        begun.set()
        try:
            while True:
                check()
                time.sleep(0.001)
        finally:
            ended.set()

    renewal = Renewal(build)
    renewal.begin(at_once=False)
    assert begun.wait(PATIENCE_S)
    renewal.stop()
    assert ended.is_set()
    assert renewal.take() is None
    renewal.begin(at_once=False)
    assert not renewal.under_way  # nothing begins after the stop
    holder.index.close()


# --- records that come and go -----------------------------------------------------------------------------------------


def fresh(count: int, seed: int) -> list[NewRecord]:
    templates = MODEL.templates(directions(np.random.default_rng(seed), count, MODEL.dimensions))
    return [replace(gallery_records()[0], record_number=f"NEW-{seed}-{i}", template=template) for i, template in enumerate(templates)]


def held_rows(packed: Packed) -> set[int]:
    rows = packed.gallery.layout.rows
    return set(rows[rows != FILLER].tolist())


def check_gallery(packed: Packed, node: WorldNode) -> None:
    """What is packed is what is enrolled, slot by slot, and what does not depend on the probe belongs to it."""
    gallery, templates = packed.gallery, node.index.records.templates()
    back = np.concatenate([gallery.chunk_templates(chunk) for chunk in range(gallery.layout.chunks)])
    held = gallery.layout.rows != FILLER
    assert (back[held] == templates[gallery.layout.rows[held]]).all()
    norms = np.linalg.norm(values_of(back[~held]).astype(float), axis=1)
    assert norms == pytest.approx(MODEL.scales.gamma, rel=0.05)
    bases = [OrderedProbe(public_bases(EPOCH, MODEL.dimensions)[:-1])]
    for chunk in range(gallery.layout.chunks):
        assert (gallery.fixed_part(EPOCH)[chunk] == scan_words(pack_templates(back[chunk * N : (chunk + 1) * N]), bases)[0, 0]).all()


async def test_records_come_and_go_while_a_layout_is_built(holder: WorldNode) -> None:
    """The new layout was begun before; what happened meanwhile is in it, or not, when it is switched in."""
    records = holder.index.records
    present, following = packed_of(holder.index), Packed.build(records, EPOCH)
    (row,) = records.add(fresh(1, 1), NOW)
    records.expunge("LS-00003", ExpungeReason.COURT_ORDER, NOW, holder.outbox.expunction)
    both = records.add(fresh(2, 2), NOW)
    records.expunge("NEW-2-0", ExpungeReason.ERROR, NOW, holder.outbox.expunction)  # it was never packed
    for packed in (present, following):
        assert packed.follow()
        assert held_rows(packed) == (set(range(RECORDS)) - {3}) | {row, both[1]}
        check_gallery(packed, holder)
        assert packed.follow()  # nothing more to do


async def test_a_scan_follows_what_another_process_changed(world: World, holder: WorldNode) -> None:
    index, before = holder.index, holder.index.manifest
    (row,) = index.records.add(fresh(1, 3), NOW)
    assert index.answer([asked(1)])[0] is not None
    assert row in held_rows(packed_of(index))
    await index.prepare(world.broker)
    after = index.manifest
    assert before is not None
    assert after is not None
    after.check_follows(before)
    assert (after.records, after.chunks) == (before.records + 1, before.chunks)
    assert after.gallery_root != before.gallery_root
    await index.prepare(world.broker)
    assert index.manifest is after  # published once


async def test_what_has_no_room_waits_for_a_new_layout(world: World, holder: WorldNode) -> None:
    """The layout grows by a chunk; nothing is answered in it before its manifest is out."""
    index = holder.index
    free = SPARE_SLOTS + (N - SPARE_SLOTS - packed_of(index).gallery.layout.kept_fillers - RECORDS)
    index.records.add(fresh(free + 1, 4), NOW)
    index.answer([])
    assert renewing(index)  # many came: nobody waits for them one by one
    first = packed_of(index)
    until(lambda: index.answer([]) == [] and packed_of(index) is not first)
    assert packed_of(index).gallery.layout.chunks == 2
    assert index.answer([asked(1)]) == [None]
    await index.prepare(world.broker)
    assert index.manifest is not None
    assert (index.manifest.chunks, index.manifest.records) == (2, RECORDS + free + 1)
    assert index.answer([asked(1)])[0] is not None
    check_gallery(packed_of(index), holder)


async def test_a_full_layout_takes_what_it_can_and_renews(holder: WorldNode) -> None:
    records = holder.index.records
    free = N - packed_of(holder.index).gallery.layout.kept_fillers - RECORDS
    for first in range(0, free, MANY):
        records.add(fresh(min(MANY, free - first), 10 + first), NOW)
        assert packed_of(holder.index).follow()
    (row,) = records.add(fresh(1, 5), NOW)
    assert not packed_of(holder.index).follow()
    assert row not in held_rows(packed_of(holder.index))
    until(lambda: holder.index.answer([]) == [] and row in held_rows(packed_of(holder.index)))


async def test_a_released_position_means_the_row_that_was_scanned(holder: WorldNode) -> None:
    """Each state of a layout that answered is kept: whole, and then by what changed."""
    index, kept = holder.index, []
    for number in range(3):
        given = answered(index, asked(number))
        kept.append((given.layout_id, packed_of(index).gallery.layout.rows.copy()))
        index.records.expunge(f"LS-{number + 20:05d}", ExpungeReason.DISMISSED, NOW, holder.outbox.expunction)
        index.records.add(fresh(1, 30 + number), NOW)
    assert len({layout_id for layout_id, _ in kept}) == 3
    for layout_id, rows in kept:
        assert (index.rows_of(layout_id) == rows).all()
    sizes = [len(row.sealed_layout) for row in holder.rows(layouts)]
    assert sorted(sizes)[1] < 200 < sorted(sizes)[2]


async def test_an_order_is_handed_out_once_and_drawn_anew_after(holder: WorldNode) -> None:
    """What a release looks into; a process that began since, and a release that came after two other answers, draw it from its seed."""
    index, other = holder.index, Seed.fresh()
    given = [answered(index, asked(number)) for number in (40, 41, 42)]
    for one in given[1:]:
        drawn = answer_order(one.kept.order_seed, one.made.slots)
        assert (index.order_of(one.made.digest, other, one.made.slots) == drawn).all()  # not from this seed: it was kept
        assert (index.order_of(one.made.digest, other, one.made.slots) != drawn).any()
        assert (index.order_of(one.made.digest, one.kept.order_seed, one.made.slots) == drawn).all()
    first = given[0]
    assert (index.order_of(first.made.digest, other, first.made.slots) != first.kept.order).any()


async def test_the_commitment_is_of_every_template(holder: WorldNode) -> None:
    """Recomputed from templates and salts, as an auditor who is given both would."""
    records = holder.index.records
    records.add(fresh(N, 6), NOW)
    records.expunge("LS-00009", ExpungeReason.JUVENILE, NOW, holder.outbox.expunction)
    templates, leaves = records.templates(), []
    for row in holder.rows(block_keys):
        salt = holder.vault.open("template key", row.sealed_key, row.block.to_bytes(8, "big"))[32:64]
        leaves.append(leaf_hash(sha256(salt + templates[row.block * N : (row.block + 1) * N].tobytes())))
    assert len(leaves) == 2
    assert records.commitment() == MerkleTree(leaves).root()


# --- the scanning desk ------------------------------------------------------------------------------------------------


def test_a_claimed_probe_is_in_order_before_its_pass() -> None:
    probe = asked(0).request.probe
    assert "ordered" not in vars(probe)
    Claimed(MessageId("0" * 64), cast(Any, None), probe, cast(Any, None), [])
    assert "ordered" in vars(probe)


async def test_probes_that_wait_share_a_pass(world: World) -> None:
    """Three searches in one round of the courier; each is released with an answer of its own."""
    await world.node(LAKESIDE)
    await world.node(OVERSIGHT)
    contents = [search_claims(number) for number in range(3)]
    for content in contents:
        node = await world.holder_with_grant(content)
    world.post(LAKESIDE, *(world.probe(content, number=number) for number, content in enumerate(contents)))
    await node.receive()
    await node.work()
    found = node.rows(answers)
    assert [row.state for row in found] == ["answered"] * 3
    assert len({row.layout_id for row in found}) == 1
    assert len({row.answer_digest for row in found}) == 3
    assert [row.data for row in node.rows(inbox, message_type="probe")] == [None] * 3


async def test_a_claim_of_a_process_that_died_is_handled_again(world: World) -> None:
    await world.node(LAKESIDE)
    await world.node(OVERSIGHT)
    content = search_claims(0)
    node = await world.holder_with_grant(content)
    probe = world.probe(content)
    world.post(LAKESIDE, probe)
    await node.receive()
    await node.courier._handle_pending()  # claimed and at the desk, which dies with the process
    assert [row.state for row in node.rows(answers)] == ["claimed"]
    assert node.state_of(probe)[0] == "done"
    node.assemble()
    assert node.state_of(probe)[0] == "new"
    await node.start()
    await node.work()
    assert [row.state for row in node.rows(answers)] == ["answered"]
    assert len([one for one in node.queued() if one.header.message_type is MessageType.ANSWER]) == 1
    node.assemble()
    assert node.state_of(probe)[0] == "done"  # what was answered stays so


async def test_a_second_message_does_not_take_a_claim(world: World) -> None:
    """The same probe in another message while the first waits for its scan: refused as a replay, answered once."""
    await world.node(LAKESIDE)
    await world.node(OVERSIGHT)
    content = search_claims(0)
    node = await world.holder_with_grant(content)
    first, second = world.probe(content), world.probe(content)
    world.post(LAKESIDE, first, second)
    await node.receive()
    await node.work()
    assert [node.state_of(one)[0] for one in (first, second)] == ["done", "refused"]
    assert len([one for one in node.queued() if one.header.message_type is MessageType.ANSWER]) == 1


async def test_what_a_block_holds_opens_only_under_its_newest_key(holder: WorldNode) -> None:
    """An old copy of the block and today's keys: closed, although the at-rest key is known."""
    with holder.engine.begin() as connection:
        before = connection.execute(select(template_blocks.c.sealed_templates)).scalar_one()
    holder.index.records.expunge("LS-00005", ExpungeReason.COURT_ORDER, NOW, holder.outbox.expunction)
    with holder.engine.begin() as connection:
        connection.execute(update(template_blocks).values(sealed_templates=before))
    with pytest.raises(Exception, match="does not open under its key"):
        holder.index.records.templates()
