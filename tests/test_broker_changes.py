"""Pack changes at the broker: in the public log only under two persons' approval of that very pack, by the agency that it is for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from broker import changes
from crypto.canonical import AgencyId, b64url_encode
from crypto.entries import EntryKind, LogEntry
from crypto.moments import round_moment
from crypto.pack_approval import PackApproval, add_approval_signature
from tests.broker_world import ROSTER, World, entry_of, open_world, problem
from tests.sample_federation import EASTFIELD, NORTHPORT, NOW, ORIGINATOR, REVIEWER, digest, signing_key

PACK = digest("pack")


def approval(agency: AgencyId = NORTHPORT, pack: bytes = PACK) -> bytes:
    begun = PackApproval(agency, "us-xx-city", pack, round_moment(NOW)).sign(signing_key(REVIEWER))
    return add_approval_signature(begun, signing_key(ORIGINATOR), ROSTER)


def change(pack: bytes = PACK, author: AgencyId | None = NORTHPORT, kind: EntryKind = EntryKind.PACK_CHANGE) -> LogEntry:
    return entry_of(kind, pack, author)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        yield opened


async def post(world: World, entry: LogEntry | bytes, document: bytes, agency: AgencyId = NORTHPORT) -> httpx.Response:
    data = entry if isinstance(entry, bytes) else entry.to_bytes()
    body = {"entry": b64url_encode(data), "approval": b64url_encode(document)}
    return await world.ask("POST", "/v1/log/pack-changes", agency=agency, document=body)


async def test_a_change_that_two_persons_signed_is_logged_once(world: World) -> None:
    entry = change()
    for status in (201, 200):
        reply = await post(world, entry, approval())
        assert (reply.status_code, reply.json()) == (status, {"index": 0})
    assert world.rows()["leaves"] == 1
    assert (await world.head(min_size=1)).checkpoint.size == 1
    assert (await post(world, change(), approval())).json() == {"index": 1}, "back to a pack is another entry"


REFUSED: dict[str, tuple[Callable[[], LogEntry | bytes], Callable[[], bytes], AgencyId, str]] = {
    "one signer": (
        change,
        lambda: PackApproval(NORTHPORT, "us-xx-city", PACK, round_moment(NOW)).sign(signing_key(REVIEWER)),
        NORTHPORT,
        "signature-missing",
    ),
    "another pack": (lambda: change(digest("other")), approval, NORTHPORT, "entry-not-yours"),
    "in another's name": (lambda: change(author=EASTFIELD), approval, NORTHPORT, "entry-not-yours"),
    "in nobody's name": (lambda: change(author=None), approval, NORTHPORT, "entry-not-yours"),
    "another kind": (lambda: change(kind=EntryKind.VIOLATION), approval, NORTHPORT, "entry-not-yours"),
    "by another agency": (lambda: change(author=EASTFIELD), approval, EASTFIELD, "entry-not-yours"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_two_persons_did_not_sign_for_is_not_logged(world: World, case: str) -> None:
    entry, document, agency, name = REFUSED[case]
    reply = await post(world, entry(), document(), agency)
    assert reply.status_code in (400, 403, 422), reply.text
    assert problem(reply)[1] == name
    assert world.rows()["leaves"] == 0


async def test_an_approval_or_entry_that_is_none_is_refused(world: World) -> None:
    for entry, document in (
        (b"{}", approval()),
        (change().to_bytes(), b"{}"),
        (change().to_bytes(), approval().replace(b"us-xx", b"us-yy")),
    ):
        reply = await post(world, entry, document)
        assert 400 <= reply.status_code < 500
        problem(reply)
    assert world.rows()["leaves"] == 0


async def test_one_approval_does_not_fill_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAX_TIMES", 2)
    first = change()
    replies = [await post(world, entry, approval()) for entry in (first, change(), change(), first)]
    assert [reply.status_code for reply in replies] == [201, 201, 429, 200]
    assert world.rows()["leaves"] == 2


async def test_a_pack_change_counts_for_no_grant(world: World) -> None:
    """Its leaf belongs to none: neither does it use up a grant's entries, nor is it found among them."""
    content = await world.grant()
    reply = await post(world, change(content.digest), approval(pack=content.digest))
    assert reply.status_code == 201
    assert (await world.post_entry(change(content.digest), content.digest, NORTHPORT)).status_code == 403
