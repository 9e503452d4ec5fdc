"""Grants and entries at the broker: each refusal by itself, named, with a next step, and without a trace in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.config import Limits
from crypto.canonical import AgencyId, GrantId, SearchId, b64url_encode
from crypto.entries import EntryKind, LogEntry
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import GrantToken, add_signature, unsigned_grant, without_reason
from crypto.ledger import check_inclusion
from tests.broker_world import World, entry_of, grant_entry, open_world, other_search, problem
from tests.sample_federation import (
    BOARD,
    BOTH,
    EASTFIELD,
    EASTFIELD_LAW,
    INVESTIGATOR,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_BOARD,
    NORTHPORT_LAW,
    NOW,
    OVERSIGHT,
    REVIEWER,
    claims,
    digest,
    signing_key,
    token_of,
    two_agency_claims,
)

CLAIMS = claims()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        yield opened


def signed_by(content: GrantClaims, **keys: str) -> bytes:
    token = unsigned_grant(content)
    for role, name in keys.items():
        token = add_signature(token, GrantRole(role), signing_key(name))
    return token


def with_wrong_signature() -> bytes:
    token = GrantToken.from_bytes(token_of(CLAIMS))
    first, *others = token.signatures
    broken = replace(first, signature=first.signature[:-1] + bytes([first.signature[-1] ^ 1]))
    return replace(token, signatures=(broken, *others)).to_bytes()


async def test_a_good_grant_is_logged_once(world: World) -> None:
    entry = grant_entry(CLAIMS.digest)
    reply = await world.post_grant(token_of(CLAIMS), entry)
    assert (reply.status_code, reply.json()) == (201, {"index": 0})
    again = await world.post_grant(token_of(CLAIMS), entry)
    assert (again.status_code, again.json()) == (200, {"index": 0})
    assert world.rows()["leaves"] == world.rows()["grants"] == 1
    head = await world.head(min_size=1)
    check_inclusion(entry.leaf_hash(), 0, 1, (), head.checkpoint.root)
    leaves = (await world.ask("GET", "/v1/log/leaves", agency=None)).json()
    assert leaves == {"size": 1, "leaves": [b64url_encode(entry.to_bytes())]}


async def test_a_grant_of_two_agencies_with_a_security_key_is_logged(world: World) -> None:
    await world.grant(two_agency_claims())


REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "wrong signature": (with_wrong_signature, 403),
    "no signature": (lambda: unsigned_grant(CLAIMS), 403),
    "missing role": (lambda: signed_by(CLAIMS, investigator=INVESTIGATOR), 403),
    "another person's key": (lambda: signed_by(CLAIMS, investigator=INVESTIGATOR, reviewer="civic-board:counsel"), 403),
    "the investigator's key in the reviewer's place": (lambda: signed_by(CLAIMS, investigator=INVESTIGATOR, reviewer=INVESTIGATOR), 403),
    "same person in two roles": (
        lambda: signed_by(replace(CLAIMS, reviewers=(BOTH,)), investigator="both investigator", reviewer="both reviewer"),
        403,
    ),
    "expired": (
        lambda: token_of(replace(CLAIMS, not_before=NOW - timedelta(days=3), answer_deadline=NOW - timedelta(days=2), expires=NOW)),
        403,
    ),
    "not yet valid": (lambda: token_of(replace(CLAIMS, not_before=NOW + timedelta(seconds=1))), 403),
    "custodian of its own jurisdiction": (
        lambda: token_of(replace(CLAIMS, custodians=(NORTHPORT_BOARD, OVERSIGHT), combiner=OVERSIGHT)),
        403,
    ),
    "holder that is none": (lambda: token_of(replace(CLAIMS, holders=(EASTFIELD_LAW, LAKESIDE))), 403),
    "no token": (lambda: b"{}", 400),
    "cut short": (lambda: token_of(CLAIMS)[:-1], 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_each_wrong_grant_is_refused(world: World, name: str) -> None:
    make, status = REFUSED[name]
    token = make()
    try:
        terms, subject = without_reason(token), GrantToken.from_bytes(token).unverified_terms().digest
    except Exception:  # noqa: BLE001  (what cannot be read is sent as it is)
        terms, subject = token, digest("nothing")
    before = world.rows()
    document = {"terms": b64url_encode(terms), "entry": b64url_encode(grant_entry(subject).to_bytes())}
    reply = await world.ask("POST", "/v1/grants", document=document)
    assert problem(reply)[0] == status
    assert world.rows() == before


async def test_refusals_of_grants_have_names_of_their_own(world: World) -> None:
    """Seven faults, seven names: whoever reads one knows what to do."""
    names = set()
    for name in (
        "wrong signature",
        "missing role",
        "same person in two roles",
        "expired",
        "not yet valid",
        "custodian of its own jurisdiction",
    ):
        token = REFUSED[name][0]()
        reply = await world.post_grant(token, grant_entry(GrantToken.from_bytes(token).unverified_terms().digest))
        names.add(problem(reply)[1])
    reply = await world.post_grant(token_of(CLAIMS), grant_entry(CLAIMS.digest), EASTFIELD)
    names.add(problem(reply)[1])
    assert len(names) == 7


async def test_the_broker_must_not_be_sent_the_reason(world: World) -> None:
    before = world.rows()
    document = {"terms": b64url_encode(token_of(CLAIMS)), "entry": b64url_encode(grant_entry(CLAIMS.digest).to_bytes())}
    assert problem(await world.ask("POST", "/v1/grants", document=document))[0] == 400
    assert world.rows() == before


async def test_only_the_requesting_agency_enters_its_grant(world: World) -> None:
    for agency in (EASTFIELD, NORTHPORT_LAW, BOARD):
        assert problem(await world.post_grant(token_of(CLAIMS), grant_entry(CLAIMS.digest), agency)) == (403, "grant-not-yours")
    assert world.rows()["grants"] == 0


@pytest.mark.parametrize(
    "entry",
    [
        grant_entry(digest("another grant")),
        entry_of(EntryKind.GRANT, CLAIMS.digest, NORTHPORT),
        entry_of(EntryKind.RELEASE, CLAIMS.digest),
        entry_of(EntryKind.REVOCATION, CLAIMS.digest),
        replace(grant_entry(CLAIMS.digest), kind=EntryKind.RELEASE),
    ],
)
async def test_the_entry_is_the_grants_own(world: World, entry: LogEntry) -> None:
    before = world.rows()
    assert problem(await world.post_grant(token_of(CLAIMS), entry)) == (403, "entry-not-yours")
    assert world.rows() == before


UNIQUE: dict[str, Callable[[GrantClaims], dict[str, Any]]] = {
    "grant id": lambda used: {"grant_id": used.grant_id},
    "search id": lambda used: {"search_id": used.search_id},
    "probe digest": lambda used: {"probe_digest": used.probe_digest},
    "face commitment": lambda used: {"face_commit": used.face_commit},
}


@pytest.mark.parametrize("name", UNIQUE)
async def test_each_value_of_a_grant_is_good_for_one(world: World, name: str) -> None:
    used = await world.grant()
    fresh = other_search(CLAIMS, 7)
    replay = replace(fresh, **UNIQUE[name](used))
    before = world.rows()
    assert problem(await world.post_grant(token_of(replay), grant_entry(replay.digest))) == (409, "grant-replayed")
    assert world.rows() == before
    await world.grant(fresh)


async def test_a_grant_entered_again_with_another_leaf_is_a_replay(world: World) -> None:
    """A second entry after a revocation would be a second search (PROTOCOL 5)."""
    await world.grant()
    assert problem(await world.post_grant(token_of(CLAIMS), grant_entry(CLAIMS.digest))) == (409, "grant-replayed")


async def test_a_used_value_stays_used_after_expiry_and_restart(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker") as world:
        await world.grant()
    later = NOW + timedelta(days=20)
    async with open_world(tmp_path / "broker", now=later) as world:
        content = replace(
            other_search(CLAIMS, 8),
            probe_digest=CLAIMS.probe_digest,
            not_before=later,
            answer_deadline=later + timedelta(hours=1),
            expires=later + timedelta(days=1),
        )
        content = replace(content, basis=replace(content.basis, expires=(later + timedelta(days=5)).date()))  # type: ignore[arg-type]
        content = replace(content, epoch=type(content.epoch)("2026-12"))
        assert problem(await world.post_grant(token_of(content), grant_entry(content.digest))) == (409, "grant-replayed")


# --- entries about a grant ---

MADE_BY: dict[EntryKind, tuple[AgencyId, ...]] = {
    EntryKind.ANSWER: (EASTFIELD, LAKESIDE),
    EntryKind.OPENED_SCORES: (NORTHPORT,),
    EntryKind.RELEASE: (OVERSIGHT,),
    EntryKind.DISCLOSURE: (EASTFIELD, LAKESIDE),
    EntryKind.REFUSAL: (NORTHPORT, NORTHPORT_LAW, EASTFIELD, LAKESIDE, BOARD, OVERSIGHT),
    EntryKind.VIOLATION: (NORTHPORT, NORTHPORT_LAW, EASTFIELD, LAKESIDE, BOARD, OVERSIGHT),
    EntryKind.REVOCATION: (NORTHPORT_LAW,),
    EntryKind.LAPSE: (NORTHPORT, NORTHPORT_LAW),
    EntryKind.RATIFICATION: (NORTHPORT,),
}
AUTHORED = (EntryKind.ANSWER, EntryKind.DISCLOSURE, EntryKind.REFUSAL, EntryKind.VIOLATION)
EVERYBODY = (NORTHPORT, NORTHPORT_LAW, EASTFIELD, EASTFIELD_LAW, LAKESIDE, OVERSIGHT, BOARD, NORTHPORT_BOARD)


def entry_by(kind: EntryKind, author: AgencyId) -> LogEntry:
    if kind is EntryKind.OPENED_SCORES:
        return entry_of(kind, CLAIMS.digest, LAKESIDE)
    return entry_of(kind, CLAIMS.digest, author if kind in AUTHORED else None)


@pytest.mark.parametrize("kind", EntryKind)
async def test_who_makes_which_entry(world: World, kind: EntryKind) -> None:
    """Every kind by every agency of the roster: exactly those of the design get in."""
    await world.grant()
    for author in EVERYBODY:
        before = world.rows()
        reply = await world.post_entry(entry_by(kind, author), CLAIMS.digest, author)
        if author in MADE_BY.get(kind, ()):
            assert (reply.status_code, reply.json()) == (201, {"index": before["leaves"]})
        else:
            assert problem(reply) == (403, "entry-not-yours")
            assert world.rows() == before


@pytest.mark.parametrize("kind", MADE_BY)
async def test_an_entrys_subject_is_that_of_kind_grant_and_author(world: World, kind: EntryKind) -> None:
    await world.grant()
    author = MADE_BY[kind][0]
    before = world.rows()
    good = entry_by(kind, author).subject
    other_author = BOARD if kind not in (EntryKind.REVOCATION, EntryKind.LAPSE, EntryKind.RATIFICATION) else None
    for wrong in (entry_of(kind, digest("another grant"), other_author), entry_of(kind, CLAIMS.digest, other_author)):
        if wrong.subject != good:
            assert problem(await world.post_entry(wrong, CLAIMS.digest, author)) == (403, "entry-not-yours")
    assert world.rows() == before


async def test_the_same_entry_again_has_the_same_place(world: World) -> None:
    await world.grant()
    entry = entry_by(EntryKind.ANSWER, LAKESIDE)
    first = await world.post_entry(entry, CLAIMS.digest, LAKESIDE)
    await world.post_entry(entry_by(EntryKind.ANSWER, EASTFIELD), CLAIMS.digest, EASTFIELD)
    again = await world.post_entry(entry, CLAIMS.digest, LAKESIDE)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == {"index": 1}


async def test_an_entry_about_an_unknown_grant_is_refused(world: World) -> None:
    reply = await world.post_entry(entry_by(EntryKind.ANSWER, LAKESIDE), CLAIMS.digest, LAKESIDE)
    assert problem(reply) == (403, "grant-not-logged")
    assert world.rows()["leaves"] == 0


async def test_a_requester_enters_that_a_draft_was_refused_and_nothing_else_without_a_grant(world: World) -> None:
    """Once for a draft, in its own name; a holder has no drafts, and no other kind comes without a grant."""
    draft = digest("a draft of Northport's")
    refused = entry_of(EntryKind.REFUSAL, draft, NORTHPORT)
    assert problem(await world.post_entry(refused, draft, EASTFIELD_LAW)) == (403, "grant-not-logged")  # in another's name
    assert problem(await world.post_entry(refused, digest("another draft"), NORTHPORT)) == (403, "grant-not-logged")
    assert problem(await world.post_entry(entry_of(EntryKind.REFUSAL, draft, LAKESIDE), draft, LAKESIDE)) == (403, "grant-not-logged")
    for kind in set(EntryKind) - {EntryKind.REFUSAL}:
        author = NORTHPORT if kind in AUTHORED else None
        assert problem(await world.post_entry(entry_of(kind, draft, author), draft, NORTHPORT)) == (403, "grant-not-logged")
    assert world.rows()["leaves"] == 0
    assert (await world.post_entry(refused, draft, NORTHPORT)).status_code == 201
    assert (await world.post_entry(refused, draft, NORTHPORT)).status_code == 200  # these very bytes again
    assert problem(await world.post_entry(entry_of(EntryKind.REFUSAL, draft, NORTHPORT), draft, NORTHPORT))[0] == 429
    assert world.rows()["leaves"] == 1


async def test_originating_agency_and_its_office_are_parties(world: World) -> None:
    content = await world.grant(two_agency_claims())
    for agency in (EASTFIELD, EASTFIELD_LAW):
        assert (await world.post_entry(entry_of(EntryKind.REFUSAL, content.digest, agency), content.digest, agency)).status_code == 201
    assert (await world.post_entry(entry_of(EntryKind.REVOCATION, content.digest), content.digest, EASTFIELD_LAW)).status_code == 201


async def test_entries_of_a_grant_are_limited_but_its_end_always_gets_in(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker", limits=Limits(max_entries_of_grant=3)) as world:
        await world.grant()
        entries = [entry_by(EntryKind.REFUSAL, LAKESIDE) for _ in range(3)]
        replies = [await world.post_entry(entry, CLAIMS.digest, LAKESIDE) for entry in entries]
        assert [reply.status_code for reply in replies] == [201, 201, 429]
        assert world.rows()["leaves"] == 3
        assert (await world.post_entry(entries[0], CLAIMS.digest, LAKESIDE)).status_code == 200
        assert (await world.post_entry(entry_of(EntryKind.REVOCATION, CLAIMS.digest), CLAIMS.digest, NORTHPORT_LAW)).status_code == 201


@pytest.mark.rule("R59")
async def test_a_grant_leaves_no_person_in_the_store(world: World) -> None:
    """The broker keeps routing facts; who signed passes through. The roster names persons, so what is counted is what the grant adds."""
    names = [*CLAIMS.signatories.values(), "26-CF-101", "13A", "signatures"]

    async def counts() -> list[int]:
        await world.services.store.forget_deleted()
        stored = b"".join(path.read_bytes() for path in world.config.folder.glob("broker.sqlite*"))
        return [stored.count(name.encode()) for name in names]

    before = await counts()
    assert before[0] > 0
    await world.grant()
    assert await counts() == before


def test_ids_of_the_samples_are_apart() -> None:
    one = other_search(CLAIMS, 7)
    assert (one.grant_id, one.search_id) == (GrantId(f"{7:032x}"), SearchId(f"{7:032x}"))
    assert REVIEWER in CLAIMS.reviewers
