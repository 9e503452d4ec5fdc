"""What the public log says of a record that was expunged: that one went, by whom and why some day, and never which one (R25)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from agency_node.errors import BrokerUnreachableError
from agency_node.holder.expunging import Expunged, ExpungeReason
from agency_node.log_openings import by_entry, read_published
from agency_node.outbox import EXPUNCTION, LOG_OPENINGS, PACK_CHANGE, READY, next_outgoing
from agency_node.tables import outbox
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, check_field, entry_subject
from crypto.entry_openings import ENTRY_FORMS
from tests.node_world import OnePass, World, WorldNode
from tests.sample_federation import LAKESIDE, NOW, digest

RECORD = "LS-00042"
ROW = 42
DELAY = timedelta(days=30)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.node(LAKESIDE)
    yield made
    made.close()


@pytest.fixture
def holder(world: World) -> WorldNode:
    return world.nodes[LAKESIDE]


def expunge(holder: WorldNode, number: str = RECORD, reason: ExpungeReason = ExpungeReason.COURT_ORDER) -> Expunged:
    return holder.index.records.expunge(number, reason, holder.clock(), holder.outbox.expunction)


def entered(world: World) -> list[LogEntry]:
    return [one for one in map(LogEntry.from_bytes, world.broker.log) if one.kind is EntryKind.EXPUNCTION]


def openings_of(holder: WorldNode) -> tuple[bytes, list[FieldOpening]]:
    """The handle, and all openings that the holder keeps of its one expunction."""
    (row,) = holder.rows(outbox, kind=EXPUNCTION)
    listed = json.loads(holder.vault.open(LOG_OPENINGS, row.sealed_openings, row.grant_digest))["openings"]
    return row.grant_digest, [
        FieldOpening(bytes.fromhex(one["salt"]), FieldType(one["type"]), bytes.fromhex(one["value"])) for one in listed
    ]


@pytest.mark.rule("R25")
async def test_an_expunging_is_entered_into_the_public_log(world: World, holder: WorldNode) -> None:
    """R25: and it opens to what was expunged: the gallery without the record, the holder, the reason."""
    gone = expunge(holder)
    await holder.send()
    (entry,) = entered(world)
    handle, openings = openings_of(holder)
    assert entry.subject == entry_subject(EntryKind.EXPUNCTION, handle, LAKESIDE)
    assert world.broker.handles == [handle]
    for commitment, opening in zip(entry.commitments, openings, strict=True):
        check_field(commitment, opening)
    assert {str(one.field_type): one.value for one in openings} == {
        "author": b"lakeside-sheriff",
        "expunge-reason": b"court-order",
        "gallery-root-before": gone.root_before,
        "gallery-root-after": gone.root_after,
    }
    assert gone.root_after == holder.index.records.commitment() != gone.root_before
    await holder.index.prepare(world.broker)
    assert holder.index.manifest is not None
    assert holder.index.manifest.gallery_root == gone.root_after


async def test_the_entry_names_no_record_and_nobody_finds_it_from_one(world: World, holder: WorldNode) -> None:
    """Neither number, row, count, tag nor root stand in what leaves or in what opens it; both roots do not find the subject."""
    tag = holder.index.records._tag(RECORD)
    count = holder.index.records.count()
    gone = expunge(holder)
    (row,) = holder.rows(outbox, kind=EXPUNCTION)
    handle, openings = openings_of(holder)
    values = b"|".join(one.value for one in openings)
    secret = [RECORD.encode(), RECORD.encode().hex().encode(), tag, tag.hex().encode()]
    roots = [gone.root_before, gone.root_after]
    for needle in (*secret, *roots, *(one.hex().encode() for one in roots), str(LAKESIDE).encode(), b"court-order"):
        assert needle not in row.data
    for needle in (*secret, str(count).encode() + b"|", b"|" + str(ROW).encode() + b"|"):
        assert needle not in values
    entry = LogEntry.from_bytes(row.data)
    for guess in (*roots, tag, digest(RECORD)):
        for author in (LAKESIDE, None):
            assert entry.subject != entry_subject(EntryKind.EXPUNCTION, guess, author)
    again = expunge(holder, "LS-00043", ExpungeReason.JUVENILE)
    other = LogEntry.from_bytes(holder.rows(outbox, kind=EXPUNCTION)[1].data)
    assert len(other.to_bytes()) == len(row.data), "neither reason nor record changes the length"
    assert again.root_before == gone.root_after
    assert not set(other.commitments) & set(entry.commitments), "the root that both commit to does not tie them together"
    assert handle != holder.rows(outbox, kind=EXPUNCTION)[1].grant_digest


async def test_everybody_reads_holder_and_reason_after_the_delay(world: World, holder: WorldNode) -> None:
    expunge(holder, reason=ExpungeReason.DISMISSED)
    await holder.send()
    world.clock.now = NOW + DELAY - timedelta(seconds=1)
    assert await holder.openings.publish_due() == 0
    world.clock.now = NOW + DELAY
    assert await holder.openings.publish_due() == 1
    entries = [LogEntry.from_bytes(leaf) for leaf in world.broker.log]
    (shown,) = by_entry(await read_published(world.broker, entries), entries)
    assert {str(name): value for name, value in shown.fields.items()} == {"author": str(LAKESIDE), "expunge-reason": "dismissed"}
    assert len(shown.fields) < ENTRY_FORMS[EntryKind.EXPUNCTION].count


async def test_without_a_broker_the_record_goes_and_the_entry_waits(
    world: World, holder: WorldNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_leaf: bytes, _handle: bytes) -> int:
        raise BrokerUnreachableError("the broker is away")

    before = len(world.broker.log)
    with monkeypatch.context() as patch:
        patch.setattr(holder.mail, "enter_expunction", away)
        expunge(holder)
        assert not holder.index.records.holds(ROW)
        (queued,) = holder.rows(outbox, kind=EXPUNCTION)
        await holder.courier.send(OnePass())
        assert len(world.broker.log) == before
        assert [row.data for row in holder.rows(outbox, state=READY)] == [queued.data]
    await holder.send()
    assert world.broker.log[before:] == [queued.data]


async def test_what_cannot_be_entered_is_not_destroyed(holder: WorldNode) -> None:
    """One transaction: no record goes without its entry, and no entry stands without its record gone."""
    records, root = holder.index.records, holder.index.records.commitment()

    def broken(connection: Connection, gone: Expunged) -> None:
        holder.outbox.expunction(connection, gone)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        records.expunge(RECORD, ExpungeReason.ERROR, NOW, broken)
    assert records.holds(ROW)
    assert records.commitment() == root
    assert holder.rows(outbox) == []
    assert expunge(holder).root_before == root


async def test_expunctions_that_wait_keep_nothing_else_of_no_search_back(holder: WorldNode) -> None:
    for number in ("LS-00001", "LS-00002"):
        expunge(holder, number)
    with holder.engine.begin() as connection:
        holder.outbox.pack_change(connection, digest("pack"), b"{}")
    assert [row.kind for row in next_outgoing(holder.engine)] == [EXPUNCTION, PACK_CHANGE]
