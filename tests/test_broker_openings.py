"""Openings at the broker: what it keeps after verifying, what it serves, what it refuses, and that it takes nothing back."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agency_node.link import BrokerLink
from agency_node.log_openings import read_published
from agency_node.transport import Transport
from crypto.canonical import AgencyId
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, commit_field, entry_subject
from crypto.entry_counts import MIN_CELL
from crypto.entry_openings import BASIS, ENTRY_FORMS, OFFENCE, LeafOpenings
from crypto.grant_claims import GrantClaims
from tests.broker_world import BASE, World, node_key, open_world, other_search, problem
from tests.sample_federation import BOARD, EASTFIELD, LAKESIDE, NORTHPORT, OVERSIGHT, claims, digest, token_of

CLAIMS = claims()
GRANT = {
    "requesting-agency": str(NORTHPORT),
    "requesting-class": "local",
    "originating-agency": str(NORTHPORT),
    "originating-class": "local",
    "offence-group": "13A",
    "legal-basis": "warrant",
    "holders-asked": "2",
}
REFUSAL = {"author": str(LAKESIDE), "requesting-agency": str(NORTHPORT), "refusal-rule": "9", "outcome": "refused"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        yield opened


def made(kind: EntryKind, content: GrantClaims, fields: Mapping[str, str], author: AgencyId | None = None) -> tuple[LogEntry, LeafOpenings]:
    """An entry of its kind's form, and what opens its public fields."""
    form = ENTRY_FORMS[kind]
    openings = [FieldOpening.fresh(name, fields.get(str(name), "").encode()) for name in form.opened]
    kept = [FieldOpening.fresh(FieldType("kept"), b"") for _ in range(form.kept)]
    subject = entry_subject(kind, content.digest, author)
    entry = LogEntry(kind, content.not_before.date(), subject, tuple(map(commit_field, (*openings, *kept))))
    return entry, LeafOpenings(entry.leaf_hash(), tuple(openings))


async def granted(world: World, content: GrantClaims = CLAIMS, /, **changes: str) -> LeafOpenings:
    """A grant that stands in the log, not opened yet."""
    entry, opened = made(EntryKind.GRANT, content, {**GRANT, **changes})
    reply = await world.post_grant(token_of(content), entry)
    assert reply.status_code == 201, reply.text
    return opened


async def refused(world: World, **changes: str) -> LeafOpenings:
    """A refusal of Lakeside that stands in the log."""
    entry, opened = made(EntryKind.REFUSAL, CLAIMS, {**REFUSAL, **changes}, LAKESIDE)
    assert (await world.post_entry(entry, CLAIMS.digest, LAKESIDE)).status_code == 201
    return opened


async def post(world: World, opened: LeafOpenings, agency: AgencyId = NORTHPORT) -> httpx.Response:
    return await world.ask("POST", "/v1/log/openings", agency=agency, document=opened.to_json())


async def served(world: World, first: int = 0, limit: int = 1000) -> dict[str, Any]:
    reply = await world.ask("GET", "/v1/log/openings", agency=None, params={"from": first, "limit": limit})
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


async def test_what_the_author_opens_is_kept_once_and_served_to_everybody(world: World) -> None:
    opened = await granted(world)
    assert (await served(world)) == {"total": 0, "openings": []}
    some = LeafOpenings(opened.leaf, opened.openings[:3])
    assert (await post(world, some)).json() == {"opened": 3}
    assert (await post(world, opened)).json() == {"opened": 4}
    assert (await post(world, opened)).json() == {"opened": 0}
    shown = await served(world)
    assert shown["total"] == 7
    assert [one["number"] for one in shown["openings"]] == list(range(7))
    assert {one["type"]: one["value"] for one in shown["openings"]} == GRANT
    assert {one["position"] for one in shown["openings"]} == {0}
    assert [one["number"] for one in (await served(world, 5, 1))["openings"]] == [5]
    assert (await served(world, 7)) == {"total": 7, "openings": []}


async def test_a_reader_verifies_what_it_is_served(world: World) -> None:
    """The whole way: posted by a node's link, read by another's, checked against the leaf."""
    opened = await granted(world)
    network = httpx.ASGITransport(app=world.client._transport.app)  # type: ignore[attr-defined]
    links = [BrokerLink(Transport(BASE, agency, node_key(agency), lambda: world.now, transport=network)) for agency in (NORTHPORT, BOARD)]
    await links[0].post_openings(opened)
    _, leaves = await links[1].leaves(0)
    found = await read_published(links[1], [LogEntry.from_bytes(leaf) for leaf in leaves])
    assert {str(one.opening.field_type): one.opening.value.decode() for one in found} == GRANT


FORGED: dict[str, tuple[str, Callable[[FieldOpening], FieldOpening]]] = {
    "another value": ("opening-mismatch", lambda one: replace(one, value=b"exigent")),
    "another salt": ("opening-mismatch", lambda one: replace(one, salt=digest("salt"))),
    "another field's type": ("opening-mismatch", lambda one: replace(one, field_type=OFFENCE, value=b"13A")),
    "a field that no grant opens": ("field-invalid", lambda one: replace(one, field_type=FieldType("grant-digest"))),
    "a value that is no basis": ("field-invalid", lambda one: replace(one, value=b"because")),
}


@pytest.mark.parametrize("forgery", FORGED)
async def test_a_forged_opening_is_refused_and_nothing_of_it_kept(world: World, forgery: str) -> None:
    opened = await granted(world)
    place = [one.field_type for one in opened.openings].index(BASIS)
    expected, forge = FORGED[forgery]
    wrong = forge(opened.openings[place])
    before = world.rows()
    rest = () if wrong.field_type == OFFENCE else opened.openings[:place]
    reply = await post(world, replace(opened, openings=(*rest, wrong)))
    assert problem(reply) == (409 if expected == "opening-mismatch" else 400, expected)
    assert wrong.value.decode() not in reply.text
    assert world.rows() == before


async def test_an_opening_of_another_leaf_or_of_none_is_refused(world: World) -> None:
    opened = await granted(world)
    other = await granted(world, other_search(CLAIMS, 7))
    before = world.rows()
    assert problem(await post(world, replace(opened, leaf=other.leaf)))[1] == "opening-mismatch"
    assert problem(await post(world, replace(opened, leaf=digest("no leaf")))) == (404, "not-found")
    assert world.rows() == before


async def test_only_the_author_opens(world: World) -> None:
    """Whoever was handed openings cannot publish them in the author's place: holder, custodian, office or stranger to the search."""
    opened = await granted(world)
    for other in (LAKESIDE, EASTFIELD, OVERSIGHT, BOARD):
        assert problem(await post(world, opened, other)) == (403, "grant-not-yours")
    holder = await refused(world)
    nameless = replace(holder, openings=tuple(one for one in holder.openings if str(one.field_type) != "author"))
    for other in (NORTHPORT, EASTFIELD, OVERSIGHT):
        for shown in (holder, nameless):
            assert problem(await post(world, shown, other)) == (403, "entry-not-yours")
    assert problem(await world.ask("POST", "/v1/log/openings", agency=None, document=holder.to_json()))[0] == 401
    assert (await post(world, holder, LAKESIDE)).json() == {"opened": 6}


@pytest.mark.parametrize(
    ("name", "lie"), [("requesting-agency", str(EASTFIELD)), ("originating-agency", str(EASTFIELD)), ("holders-asked", "1")]
)
async def test_a_field_that_the_terms_contradict_is_refused(world: World, name: str, lie: str) -> None:
    """Truly committed to, and false: the author's own lie, so that case text cannot stand where an agency's name does."""
    opened = await granted(world, CLAIMS, **{name: lie})
    assert problem(await post(world, opened)) == (403, "entry-not-yours")
    true = tuple(one for one in opened.openings if str(one.field_type) != name)
    assert (await post(world, replace(opened, openings=true))).json() == {"opened": 6}


async def test_a_refusal_is_opened_in_its_authors_name(world: World) -> None:
    await granted(world)
    lie = await refused(world, author=str(EASTFIELD))
    assert problem(await post(world, lie, LAKESIDE)) == (403, "entry-not-yours")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"leaf": "00" * 32},
        {"leaf": "00" * 32, "openings": []},
        {"leaf": "00" * 32, "openings": [{}]},
        {"leaf": 7, "openings": "x"},
        {"leaf": "00" * 32, "openings": [{"salt": "00" * 31, "type": "author", "value": "a"}]},
        {"leaf": "00" * 32, "openings": [{"salt": "00" * 32, "type": "AUTHOR", "value": "a"}]},
        {"leaf": "00" * 32, "openings": [{"salt": "00" * 32, "type": "author", "value": "\u00e9"}]},
        {"leaf": "00" * 32, "openings": [{"salt": "00" * 32, "type": "author", "value": "a", "more": 1}]},
        {"leaf": "00" * 32, "openings": [{"salt": "00" * 32, "type": "author", "value": "a"}] * 2},
    ],
)
async def test_what_cannot_be_read_is_refused(world: World, document: object) -> None:
    before = world.rows()
    assert 400 <= problem(await world.ask("POST", "/v1/log/openings", document=document))[0] < 500
    assert world.rows() == before


async def test_what_was_opened_is_neither_changed_nor_removed(world: World) -> None:
    """Not by whoever has the database, short of taking the triggers out."""
    await post(world, await granted(world))
    database = sqlite3.connect(world.config.folder / "broker.sqlite")
    for statement in (
        "UPDATE openings SET value = x'00' WHERE number = 0",
        "DELETE FROM openings WHERE number = 6",
        "INSERT OR REPLACE INTO openings SELECT * FROM openings WHERE number = 0",
        "INSERT INTO openings SELECT 9, position, 'other', kind, salt, value, opened_at FROM openings WHERE number = 0",
        "INSERT INTO openings SELECT 7, position, field_type, kind, salt, value, opened_at FROM openings WHERE number = 0",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="stays as it is"):
            database.execute(statement)
    database.close()
    assert (await served(world))["total"] == 7


@pytest.mark.rule("R62")
async def test_counts_show_kinds_and_days_and_nothing_below_five(world: World) -> None:
    """R62: of five warrants and one exigent grant the table shows the total; 1 to 4 stand nowhere but in kinds and days."""
    for number in range(MIN_CELL + 1):
        basis = "exigent" if number == 0 else "warrant"
        opened = await granted(world, other_search(CLAIMS, number), **{"legal-basis": basis})
        if number == 0:
            nothing_opened = (await world.ask("GET", "/v1/log/counts", agency=None)).json()
            assert nothing_opened["tables"] == []
        await post(world, opened)
    await refused_of(world, other_search(CLAIMS, 0))
    shown = (await world.ask("GET", "/v1/log/counts", agency=None)).json()
    day = CLAIMS.not_before.date().isoformat()
    assert shown["entries"] == [{"day": day, "kind": "grant", "count": 6}, {"day": day, "kind": "refusal", "count": 1}]
    tables = {one["name"]: one for one in shown["tables"]}
    assert (tables["grants by legal basis"]["total"], tables["grants by legal basis"]["lines"]) == (6, [])
    assert tables["grants by offence"]["lines"] == [{"label": "13A", "count": 6}]
    assert tables["grants by requesting agency, class local"]["lines"] == [{"label": str(NORTHPORT), "count": 6}]
    assert tables["refusals by rule"] == {"name": "refusals by rule", "total": None, "lines": [], "others": None}
    assert shown == (await world.ask("GET", "/v1/log/counts", agency=None)).json()


async def refused_of(world: World, content: GrantClaims) -> None:
    entry, opened = made(EntryKind.REFUSAL, content, REFUSAL, LAKESIDE)
    assert (await world.post_entry(entry, content.digest, LAKESIDE)).status_code == 201
    assert (await post(world, opened, LAKESIDE)).json() == {"opened": 6}


async def test_counts_after_a_restart_are_those_before(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker") as first:
        await post(first, await granted(first))
        before = (await first.ask("GET", "/v1/log/counts", agency=None)).json()
    async with open_world(tmp_path / "broker") as second:
        assert (await second.ask("GET", "/v1/log/counts", agency=None)).json() == before
        assert (await served(second))["total"] == 7
