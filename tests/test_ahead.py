"""A holder's node prepares answers while probes are on the way: when a grant is admitted, once, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agency_node.holder.answering import ROOT
from agency_node.holder.expunging import ExpungeReason
from agency_node.holder.index import Asked, GalleryIndex
from agency_node.tables import answers
from crypto.answer import AnswerRequest
from crypto.epoch import Epoch
from crypto.message_types import MessageType
from crypto.notices import Refusal, RefusalReason
from crypto.prepared import AnswerTerms, PreparedAnswer
from crypto.seed import SEED_BYTES
from crypto.wire import MessageId
from tests.node_world import EPOCH, World, WorldNode, probe_of, search_claims
from tests.sample_federation import LAKESIDE, NORTHPORT, NOW, OVERSIGHT
from tests.test_prepared import UNTIL


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def holder(world: World) -> WorldNode:
    return await world.node(LAKESIDE)


def asked(number: int, case: bytes = b"case") -> Asked:
    return Asked(AnswerRequest(probe_of(number)[0], bytes(32)), case)


def prepared_root(index: GalleryIndex, terms: AnswerTerms) -> bytes:
    """Wait for what is being prepared; its root."""
    (one,) = (one for one in index.ahead._kept if one.terms == terms)
    assert one.thread is not None
    one.thread.join()
    assert one.made is not None
    return one.made._once[0].secrets.root.export_secret()


async def test_a_grant_that_was_admitted_prepares_its_answer_and_the_probe_takes_it(world: World, holder: WorldNode) -> None:
    await world.node(OVERSIGHT)
    content = search_claims(0)
    node = await world.holder_with_grant(content)
    (one,) = node.index.ahead._kept
    assert one.terms == AnswerTerms(content.epoch, content.probe_digest, content.digest, len(content.custodians))
    assert one.until == content.answer_deadline
    root = prepared_root(node.index, one.terms)
    assert not node.rows(answers)  # nothing was claimed for it, and nothing written
    world.post(LAKESIDE, world.probe(content))
    await node.turn()
    (row,) = node.rows(answers)
    assert row.state == "answered"
    assert node.vault.open(ROOT, row.sealed_root, row.search_id.encode("ascii"))[:SEED_BYTES] == root
    assert not node.index.ahead._kept


async def test_a_preparation_lives_in_memory_alone(world: World, holder: WorldNode) -> None:
    await world.node(OVERSIGHT)
    content = search_claims(0)
    node = await world.holder_with_grant(content)
    root = prepared_root(node.index, node.index.ahead._kept[0].terms)
    node.assemble()  # the process begins anew
    await node.start()
    world.post(LAKESIDE, world.probe(content))
    await node.turn()
    (row,) = node.rows(answers)
    assert row.state == "answered"
    assert node.vault.open(ROOT, row.sealed_root, row.search_id.encode("ascii"))[:SEED_BYTES] != root


async def test_a_grant_that_is_taken_back_drops_what_was_prepared(world: World, holder: WorldNode) -> None:
    await world.node(OVERSIGHT)
    content = search_claims(0)
    node = await world.holder_with_grant(content)
    (one,) = node.index.ahead._kept
    prepared_root(node.index, one.terms)
    refusal = Refusal(MessageId(content.digest.hex()), RefusalReason.WITHDRAWN)
    world.post(LAKESIDE, world.message(MessageType.REFUSAL, refusal, content, NORTHPORT, LAKESIDE))
    await node.turn()
    assert not node.index.ahead._kept
    assert one.made is not None
    assert not one.made._once


async def test_what_was_prepared_answers_its_own_probe_once(holder: WorldNode) -> None:
    index, mine, other = holder.index, asked(1), asked(2, b"other")
    index.expect(mine.request.terms, UNTIL)
    root = prepared_root(index, mine.request.terms)
    given = index.answer([other, mine])
    roots = [one.kept.root.export_secret() for one in given if one is not None]
    assert roots[1] == root != roots[0]
    (again,) = index.answer([Asked(mine.request, b"again")])
    assert again is not None
    assert again.kept.root.export_secret() != root


async def test_a_gallery_that_changed_is_answered_for_as_it_is(holder: WorldNode) -> None:
    index, mine = holder.index, asked(1)
    index.expect(mine.request.terms, UNTIL)
    root = prepared_root(index, mine.request.terms)
    index.records.expunge("LS-00003", ExpungeReason.COURT_ORDER, NOW, holder.outbox.expunction)
    (given,) = index.answer([mine])
    assert given is not None
    assert given.kept.root.export_secret() != root


async def test_a_search_that_waits_for_the_next_layout_is_not_answered_with_what_was_prepared_for_this_one(holder: WorldNode) -> None:
    index, mine = holder.index, asked(1)
    index.answer([asked(2)])  # the case meets this layout no more
    index.expect(mine.request.terms, UNTIL)
    root = prepared_root(index, mine.request.terms)
    given = None
    while given is None:
        (given,) = index.answer([mine])
    assert given.kept.root.export_secret() != root


async def test_nothing_is_prepared_that_would_take_a_pass_of_its_own(holder: WorldNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another month's part that depends on no probe is a scan; a layout that is used up answers nothing; a pass is not waited for."""
    index = holder.index
    monkeypatch.setattr(PreparedAnswer, "make", lambda *_: pytest.fail("it was prepared"))
    index.expect(AnswerTerms(Epoch("2027-03"), bytes(32), bytes(32)), UNTIL)
    with index._alone:
        index.expect(AnswerTerms(EPOCH, bytes(32), bytes(32)), UNTIL)
    assert index._packed is not None
    index._packed.gallery.layout._uses_left = 0
    index.expect(AnswerTerms(EPOCH, bytes(32), bytes(32)), UNTIL)
    assert not index.ahead._kept
