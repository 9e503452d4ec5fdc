"""Expunctions at the broker: in the public log by the holder that made them, so many a day, and opened by nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agency_node.link import BrokerLink
from agency_node.transport import Transport
from broker import expunctions
from broker.tables import leaves
from crypto.canonical import AgencyId, b64url_encode
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, commit_field, entry_subject
from crypto.entry_openings import ENTRY_FORMS, LeafOpenings
from tests.broker_world import BASE, World, node_key, open_world, problem
from tests.sample_federation import BOARD, EASTFIELD, LAKESIDE, NORTHPORT, NORTHPORT_LAW, NOW, OVERSIGHT, digest

HANDLE = digest("handle")


def made(
    handle: bytes = HANDLE,
    author: AgencyId | None = LAKESIDE,
    kind: EntryKind = EntryKind.EXPUNCTION,
    says: AgencyId = LAKESIDE,
    count: int | None = None,
) -> tuple[LogEntry, LeafOpenings]:
    """An expunction with fresh salts, and what opens it."""
    said = {"author": str(says), "expunge-reason": "court-order"}
    form = ENTRY_FORMS[EntryKind.EXPUNCTION]
    openings = [FieldOpening.fresh(name, said[name].encode()) for name in form.opened]
    kept = [FieldOpening.fresh(FieldType("gallery-root-after"), digest("root")) for _ in range(form.kept)]
    commitments = tuple(map(commit_field, (*openings, *kept)))[:count]
    entry = LogEntry(kind, NOW.date(), entry_subject(kind, handle, author), commitments)
    return entry, LeafOpenings(entry.leaf_hash(), tuple(openings))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        yield opened


async def post(world: World, entry: LogEntry | bytes, agency: AgencyId = LAKESIDE, handle: str = HANDLE.hex()) -> httpx.Response:
    data = entry if isinstance(entry, bytes) else entry.to_bytes()
    return await world.ask("POST", "/v1/log/expunctions", agency=agency, document={"entry": b64url_encode(data), "handle": handle})


async def show(world: World, opened: LeafOpenings, agency: AgencyId = LAKESIDE) -> httpx.Response:
    return await world.ask("POST", "/v1/log/openings", agency=agency, document=opened.to_json())


async def test_a_holders_expunction_is_logged_once(world: World) -> None:
    entry, _ = made()
    for status in (201, 200):
        reply = await post(world, entry)
        assert (reply.status_code, reply.json()) == (status, {"index": 0})
    assert world.rows()["leaves"] == 1
    assert (await world.head(min_size=1)).checkpoint.size == 1


async def test_a_nodes_link_enters_and_opens_it(world: World) -> None:
    entry, opened = made()
    network = httpx.ASGITransport(app=world.client._transport.app)  # type: ignore[attr-defined]
    link = BrokerLink(Transport(BASE, LAKESIDE, node_key(LAKESIDE), lambda: world.now, transport=network))
    assert await link.enter_expunction(entry.to_bytes(), HANDLE) == 0
    await link.post_openings(opened)
    assert world.rows()["openings"] == 2


async def test_the_handle_is_not_kept(world: World) -> None:
    """What it was would find the entry of one expunging among all."""
    await post(world, made()[0])
    async with world.services.store.reading() as connection:
        (row,) = (await connection.execute(leaves.select())).all()
    assert not any(HANDLE in value for value in row if isinstance(value, bytes))
    kept = b"".join(path.read_bytes() for path in world.config.folder.iterdir() if path.is_file())
    assert made()[0].subject in kept  # the control: what is kept is found
    assert HANDLE not in kept
    assert HANDLE.hex().encode() not in kept


REFUSED: dict[str, tuple[Callable[[], LogEntry], AgencyId, str]] = {
    "by a custodian": (lambda: made(author=OVERSIGHT)[0], OVERSIGHT, "entry-not-yours"),
    "by another custodian": (lambda: made(author=BOARD)[0], BOARD, "entry-not-yours"),
    "by a legal office": (lambda: made(author=NORTHPORT_LAW)[0], NORTHPORT_LAW, "entry-not-yours"),
    "in another holder's name": (lambda: made(author=EASTFIELD)[0], LAKESIDE, "entry-not-yours"),
    "another holder's, sent on": (lambda: made()[0], EASTFIELD, "entry-not-yours"),
    "in nobody's name": (lambda: made(author=None)[0], LAKESIDE, "entry-not-yours"),
    "under another handle": (lambda: made(digest("other"))[0], LAKESIDE, "entry-not-yours"),
    "another kind": (lambda: made(kind=EntryKind.MANIFEST)[0], LAKESIDE, "entry-not-yours"),
    "a kind of a search": (lambda: made(kind=EntryKind.REFUSAL)[0], LAKESIDE, "entry-not-yours"),
    "a commitment less": (lambda: made(count=3)[0], LAKESIDE, "opening-mismatch"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_the_holders_own_expunction_is_not_logged(world: World, case: str) -> None:
    entry, agency, name = REFUSED[case]
    reply = await post(world, entry(), agency)
    assert 400 <= reply.status_code < 500
    assert problem(reply)[1] == name
    assert world.rows()["leaves"] == 0


async def test_what_is_malformed_is_refused(world: World) -> None:
    entry = made()[0].to_bytes()
    longer = entry.replace(b"expunction", b"expungement")
    for data, handle in (
        (b"{}", HANDLE.hex()),
        (longer, HANDLE.hex()),
        (entry + b" ", HANDLE.hex()),
        (entry, HANDLE.hex()[:-2]),
        (entry, ""),
    ):
        reply = await post(world, data, handle=handle)
        assert problem(reply)[0] == 400
    body: dict[str, Any] = {"entry": b64url_encode(entry), "handle": HANDLE.hex()}
    for wrong in ({**body, "record": "L-1"}, {"entry": body["entry"]}):
        assert problem(await world.ask("POST", "/v1/log/expunctions", agency=LAKESIDE, document=wrong))[0] == 400
    assert world.rows()["leaves"] == 0


async def test_no_holder_floods_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many a day by the broker's clock; what was there is there, others go on, and tomorrow takes more."""
    monkeypatch.setattr(expunctions, "MAX_A_DAY", 2)
    first = made()[0]
    replies = [await post(world, entry) for entry in (first, made()[0], made()[0], first)]
    assert [reply.status_code for reply in replies] == [201, 201, 429, 200]
    assert (await post(world, made(author=EASTFIELD)[0], EASTFIELD)).status_code == 201
    dated = replace(made()[0], day=made()[0].day.replace(day=1))
    assert (await post(world, dated)).status_code == 429, "another day in the entry is no other day"
    world.pass_time(24 * 3600)
    assert (await post(world, dated)).status_code == 201
    assert world.rows()["leaves"] == 4


async def test_an_expunction_counts_for_no_grant(world: World) -> None:
    content = await world.grant()
    assert (await post(world, made(content.digest)[0], handle=content.digest.hex())).status_code == 201
    assert (await world.post_entry(made(content.digest)[0], content.digest, LAKESIDE)).status_code == 403


async def test_its_author_opens_it_and_nobody_else(world: World) -> None:
    """Also who has the salts does not; and a part without the author's name is nobody's."""
    entry, opened = made()
    await post(world, entry)
    for other in (EASTFIELD, NORTHPORT, OVERSIGHT):
        assert problem(await show(world, opened, other)) == (403, "entry-not-yours")
    nameless = replace(opened, openings=opened.openings[1:])
    assert problem(await show(world, nameless)) == (403, "entry-not-yours")
    assert (await show(world, opened)).json() == {"opened": 2}
    assert (await show(world, opened)).json() == {"opened": 0}
    reply = await world.ask("GET", "/v1/log/openings", agency=None, params={"from": 0, "limit": 10})
    assert {one["type"]: one["value"] for one in reply.json()["openings"]} == {"author": str(LAKESIDE), "expunge-reason": "court-order"}


async def test_an_author_that_committed_to_another_name_opens_nothing(world: World) -> None:
    entry, lie = made(says=EASTFIELD)
    await post(world, entry)
    own = replace(lie, openings=(replace(lie.openings[0], value=str(LAKESIDE).encode()), lie.openings[1]))
    assert problem(await show(world, lie)) == (403, "entry-not-yours")
    assert problem(await show(world, own)) == (409, "opening-mismatch")
    assert world.rows()["openings"] == 0


# --- record manifests, which are entered in the same way ----------------------------------------------------------------


async def state(world: World, entry: LogEntry, agency: AgencyId = LAKESIDE, manifest: bytes = HANDLE) -> httpx.Response:
    document = {"entry": b64url_encode(entry.to_bytes()), "digest": manifest.hex()}
    return await world.ask("POST", "/v1/log/manifests", agency=agency, document=document)


async def test_a_holders_manifest_is_logged_once_and_a_days_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expunctions, "MAX_MANIFESTS_A_DAY", 2)
    monkeypatch.setattr(expunctions, "MAX_A_DAY", 1)
    assert (await post(world, made()[0])).status_code == 201  # the other kind's number is its own
    entries = [made(kind=EntryKind.MANIFEST, count=1)[0] for _ in range(3)]
    replies = [await state(world, entry) for entry in (entries[0], entries[1], entries[2], entries[0])]
    assert [reply.status_code for reply in replies] == [201, 201, 429, 200]
    network = httpx.ASGITransport(app=world.client._transport.app)  # type: ignore[attr-defined]
    world.pass_time(24 * 3600)
    link = BrokerLink(Transport(BASE, LAKESIDE, node_key(LAKESIDE), lambda: world.now, transport=network))
    assert await link.enter_manifest(entries[2].to_bytes(), HANDLE) == 3
    _, opened = made(kind=EntryKind.MANIFEST, count=1)
    assert problem(await show(world, replace(opened, leaf=entries[0].leaf_hash())))[0] in {400, 403, 422}, "it opens nothing"


@pytest.mark.parametrize(
    ("entry", "agency"),
    [
        (lambda: made(kind=EntryKind.MANIFEST, count=1, author=EASTFIELD)[0], LAKESIDE),
        (lambda: made(kind=EntryKind.MANIFEST, count=1)[0], EASTFIELD),
        (lambda: made(kind=EntryKind.MANIFEST, count=1, author=OVERSIGHT)[0], OVERSIGHT),
        (lambda: made(digest("other"), kind=EntryKind.MANIFEST, count=1)[0], LAKESIDE),
        (lambda: made(kind=EntryKind.MANIFEST, count=2)[0], LAKESIDE),
        (lambda: made()[0], LAKESIDE),
    ],
)
async def test_what_is_not_the_holders_own_manifest_is_not_logged(world: World, entry: Callable[[], LogEntry], agency: AgencyId) -> None:
    assert 400 <= (await state(world, entry(), agency)).status_code < 500
    assert world.rows()["leaves"] == 0
