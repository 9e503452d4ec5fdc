"""When a node opens its log entries, and to whom: not before the delay, then to everybody, to oversight at once, and never the case."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import event
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.config import AT_REST_KEY_FILE, CONFIG_FILE
from agency_node.errors import BrokerRefusedError, BrokerUnreachableError, RequestError
from agency_node.log_openings import by_entry, count_entries, read_handed_over, read_published
from agency_node.node import open_node
from agency_node.opened_fields import opened_revocation
from agency_node.openings import ask_to_open, open_to_oversight
from agency_node.outbox import Conversation
from agency_node.policy.clocks import openings_delay
from agency_node.policy.pack_folder import PackOpenings
from agency_node.serving import Service
from agency_node.tables import outbox
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry
from crypto.entry_openings import AUTHOR, ENTRY_FORMS, OFFENCE, REQUESTING_AGENCY, OpenedEntries
from crypto.errors import AgencyStatementError, CommitmentError, FieldError, MisuseError
from crypto.grant_claims import GrantClaims
from tests.exigent_world import exigent, later
from tests.node_world import World, WorldNode, node_key
from tests.node_world import search_claims as other_claims
from tests.sample_federation import BOARD, LAKESIDE, NORTHPORT, NORTHPORT_LAW, NOW, OVERSIGHT, digest, roster

DELAY = timedelta(days=30)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


def entries(world: World) -> list[LogEntry]:
    return [LogEntry.from_bytes(leaf) for leaf in world.broker.log]


def handed(node: WorldNode, search_id: str) -> bytes:
    return open_to_oversight(node.engine, node.vault, node.agency, node.keyring.node_key, search_id, node.clock())[0]


def said(world: World, agency: Any, content: GrantClaims) -> dict[str, list[dict[str, str]]]:
    """What an agency opens of a search, by kind."""
    _, found = read_handed_over(handed(world.nodes[agency], str(content.search_id)), roster(), entries(world))
    kinds: dict[str, list[dict[str, str]]] = {}
    for one in found:
        kinds.setdefault(one.entry.kind.value, []).append({str(name): value for name, value in one.fields.items()})
    return kinds


# --- fields -----------------------------------------------------------------------------------------------------------


async def test_entries_of_a_search_commit_to_what_will_be_opened(world: World) -> None:
    content = await world.released()
    assert said(world, NORTHPORT, content) == {
        "grant": [
            {
                "requesting-agency": "northport-pd",
                "requesting-class": "local",
                "originating-agency": "northport-pd",
                "originating-class": "local",
                "offence-group": "13A",
                "legal-basis": "warrant",
                "holders-asked": "1",
            }
        ]
    }
    assert said(world, OVERSIGHT, content) == {
        "release": [
            {
                "requesting-agency": "northport-pd",
                "holders-asked": "1",
                "holders-answered": "1",
                "leads-released": "1",
                "outcome": "leads",
            }
        ]
    }
    world.clock.pass_by(hours=1)
    own = {entry.kind for entry in entries(world)} - {EntryKind.ANSWER}
    assert own >= {EntryKind.GRANT, EntryKind.RELEASE, EntryKind.OPENED_SCORES}


@pytest.mark.parametrize("cap", [1, 50])
async def test_the_number_of_commitments_tells_nothing(world: World, cap: int) -> None:
    """Not the cap, not the leads, not whether a holder refused under a rule or a custodian as late."""
    await world.released(cap=cap)
    node = world.nodes[OVERSIGHT]
    with node.engine.begin() as connection:
        for late, rule in ((True, None), (False, 9)):
            fields = {AUTHOR: str(OVERSIGHT), FieldType("outcome"): "late" if late else "refused"}
            fields |= {FieldType("refusal-rule"): "" if rule is None else str(rule)}
            values = [("refused-message", digest("message"))]
            node.outbox.entry(connection, EntryKind.REFUSAL, Conversation.of(other_claims()), values, fields, author=OVERSIGHT)
    await node.send()
    seen: dict[EntryKind, set[int]] = {}
    for entry in entries(world)[3:]:
        seen.setdefault(entry.kind, set()).add(len(entry.commitments))
    assert seen == {kind: {ENTRY_FORMS[kind].count} for kind in seen}
    assert {EntryKind.RELEASE, EntryKind.REFUSAL} <= set(seen)


async def test_a_lapse_a_ratification_and_a_revocation_name_the_agency_and_how_it_ended(world: World) -> None:
    content = await world.granted(**exigent())
    await world.run(rounds=3)
    await later(world, hours=24)
    ended = {"requesting-agency": "northport-pd", "requesting-class": "local"}
    assert said(world, NORTHPORT, content)["lapse"] == [{**ended, "outcome": "sealed"}]
    assert opened_revocation(NORTHPORT_LAW, NORTHPORT, roster()) == {
        AUTHOR: str(NORTHPORT_LAW),
        REQUESTING_AGENCY: "northport-pd",
        FieldType("requesting-class"): "local",
        FieldType("outcome"): "revoked",
    }
    node = world.nodes[NORTHPORT]
    with node.engine.begin() as connection:
        fields = opened_revocation(NORTHPORT_LAW, NORTHPORT, roster())
        node.outbox.entry(connection, EntryKind.REVOCATION, Conversation.of(content), [("grant-digest", content.digest)], fields)


@pytest.mark.rule("R54")
async def test_the_case_is_in_no_opening(world: World) -> None:
    """R54: what a node will ever show of a search holds no docket, court, statute, case number, person or digest of a picture."""
    content = await world.released()
    for agency in (NORTHPORT, OVERSIGHT):
        shown = handed(world.nodes[agency], str(content.search_id))
        values = [opening.value for one in OpenedEntries.read(shown, roster()).entries for opening in one.openings]
        for secret in ("26-CF-101", "Circuit", "940.19", "detective", "counsel", str(content.search_id), str(content.grant_id)):
            assert secret.encode() not in shown
        for digest_ in (content.digest, content.face_commit, content.probe_digest, content.case_commitment):
            assert digest_ not in values
            assert digest_.hex().encode() not in shown


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({OFFENCE: "940.19"}, FieldError),
        ({FieldType("docket"): "26-CF-101"}, MisuseError),
        ({FieldType("release-slot"): "1"}, MisuseError),
        ({REQUESTING_AGENCY: "J. Doe"}, FieldError),
    ],
)
async def test_an_entry_with_another_opened_field_is_not_made(world: World, fields: dict[FieldType, str], error: type[Exception]) -> None:
    node = world.nodes[NORTHPORT]
    with node.engine.begin() as connection, pytest.raises(error):
        node.outbox.entry(connection, EntryKind.GRANT, Conversation.of(other_claims()), [("grant-digest", digest("grant"))], fields)
    assert node.rows(outbox) == []


async def test_openings_cost_the_entry_no_statement_and_no_transaction(world: World) -> None:
    """They stand in the row that is written anyway, and go with it when the transaction does."""
    node = world.nodes[OVERSIGHT]
    done: list[str] = []
    event.listen(node.engine, "before_cursor_execute", lambda *args: done.append(args[2].split()[0]))
    event.listen(node.engine, "commit", lambda connection: done.append("COMMIT"))
    values, fields = [("refused-message", digest("message"))], {AUTHOR: str(OVERSIGHT)}
    with node.engine.begin() as connection:
        done.clear()
        node.outbox.entry(connection, EntryKind.REFUSAL, Conversation.of(other_claims()), values, fields, author=OVERSIGHT)
        assert done == ["INSERT"]
        connection.rollback()
    assert node.rows(outbox) == []


# --- everybody, after the delay ---------------------------------------------------------------------------------------


async def publish(world: World) -> list[int]:
    return [await node.openings.publish_due() for node in world.nodes.values()]


async def test_nothing_is_opened_before_the_delay_and_everything_after_it(world: World) -> None:
    await world.released()
    world.clock.now = NOW + DELAY - timedelta(seconds=1)
    assert set(await publish(world)) == {0}
    assert world.broker.opened == []
    world.clock.now = NOW + DELAY
    assert sum(await publish(world)) == len([one for one in entries(world)[3:] if ENTRY_FORMS[one.kind].opened])
    shown = by_entry(await read_published(world.broker, entries(world)), entries(world))
    assert {one.entry.kind for one in shown} >= {EntryKind.GRANT, EntryKind.RELEASE}
    assert all(len(one.fields) == len(ENTRY_FORMS[one.entry.kind].opened) for one in shown)
    before = list(world.broker.opened)
    assert set(await publish(world)) == {0}
    assert world.broker.opened == before
    (grant,) = [row for row in world.nodes[NORTHPORT].rows(outbox) if row.name == "grant" and row.kind == "grant"]
    assert grant.opening == "published"
    assert any(line.startswith("opened grant") for line in world.nodes[NORTHPORT].journal())


def test_the_longest_delay_of_the_packs_counts() -> None:
    class Pack:
        def __init__(self, days: int) -> None:
            self.openings = PackOpenings(after_days=days)

    assert openings_delay([]) == openings_delay([Pack(30)]) == DELAY
    assert openings_delay([Pack(7), Pack(90), Pack(30)]) == timedelta(days=90)
    for wrong in (0, 367, "30"):
        with pytest.raises(ValidationError):
            PackOpenings.model_validate({"after_days": wrong})


async def test_a_closed_case_is_opened_at_the_next_look_and_no_other(world: World) -> None:
    content = await world.released()
    node = world.nodes[NORTHPORT]
    with node.engine.begin() as connection:
        assert ask_to_open(connection, str(other_claims(5).search_id)) == 0
        assert ask_to_open(connection, str(content.search_id)) == 1
    assert sum(await publish(world)) == 1
    assert {entries(world)[one.position].kind for one in world.broker.opened} == {EntryKind.GRANT}
    with node.engine.begin() as connection:
        assert ask_to_open(connection, str(content.search_id)) == 0


async def test_an_entry_that_did_not_reach_the_log_is_not_opened(world: World) -> None:
    content = await world.granted()
    node = world.nodes[NORTHPORT]
    await node.work()
    assert [row.state for row in node.rows(outbox)] == ["ready"]
    with pytest.raises(RequestError, match="no entry of that search"):
        handed(node, str(content.search_id))
    with node.engine.begin() as connection:
        assert ask_to_open(connection, str(content.search_id)) == 0
    world.clock.pass_by(days=40)
    assert await node.openings.publish_due() == 0


async def test_a_broker_that_is_away_is_asked_again_and_one_that_refuses_is_not(world: World) -> None:
    await world.released()
    world.clock.pass_by(days=31)
    node = world.nodes[NORTHPORT]
    for again in (BrokerUnreachableError("away"), BrokerRefusedError(503, "store-busy", "busy", "Ask again.")):
        world.broker.refuses_openings = again
        with pytest.raises(type(again)):
            await node.openings.publish_due()
    world.broker.refuses_openings = BrokerRefusedError(403, "opening-mismatch", "no", "Look.")
    assert await node.openings.publish_due() == 0
    assert any("opening refused: opening-mismatch" in line for line in node.journal())
    world.broker.refuses_openings = None
    assert await node.openings.publish_due() == 0
    assert world.broker.opened == []


async def test_the_serving_process_opens_what_is_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.released()
    made = world.nodes[NORTHPORT]
    (made.folder / CONFIG_FILE).write_text(made.config.model_copy(update={"embedder": "synthetic-128"}).to_toml())
    (made.folder / "keys" / AT_REST_KEY_FILE).write_bytes(digest(f"{NORTHPORT} at rest"))
    world.clock.pass_by(days=31)
    opened = open_node(made.folder, world.clock)
    link: Any = world.broker
    service = Service(replace(opened, link=link, parties=made.parties))
    monkeypatch.setattr("agency_node.serving.REFRESH_S", 0.01)
    stop = asyncio.Event()
    loop = asyncio.create_task(service._refresh(stop))
    for _ in range(200):
        await asyncio.sleep(0.01)
        if world.broker.opened:
            break
    stop.set()
    await loop
    assert {entries(world)[one.position].kind for one in world.broker.opened} == {EntryKind.GRANT}


# --- oversight, at once -----------------------------------------------------------------------------------------------


async def test_a_forged_file_for_oversight_is_refused(world: World) -> None:
    """Another value, another leaf of the log, a leaf that is not in it, another field, another signer."""
    content = await world.released()
    node, log = world.nodes[NORTHPORT], entries(world)
    true = OpenedEntries.read(handed(node, str(content.search_id)), roster())
    (one,) = true.entries
    grant = next(entry for entry in log if entry.leaf_hash() == one.leaf)
    release = next(entry for entry in log if entry.kind is EntryKind.RELEASE)
    outside = replace(grant, day=grant.day - timedelta(days=1))
    basis = one.openings[5]
    forged = {
        "value": replace(one, openings=(replace(basis, value=b"exigent"),)),
        "salt": replace(one, openings=(replace(basis, salt=digest("salt")),)),
        "field": replace(one, openings=(replace(basis, field_type=OFFENCE, value=b"13A"),)),
        "field that no grant opens": replace(one, openings=(replace(basis, field_type=FieldType("grant-digest")),)),
        "leaf": replace(one, leaf=release.leaf_hash()),
        "no such leaf": replace(one, leaf=outside.leaf_hash()),
    }
    for wrong in forged.values():
        document = replace(true, entries=(wrong,)).sign(node_key(NORTHPORT))
        with pytest.raises((CommitmentError, FieldError), match="leaf"):
            read_handed_over(document, roster(), log)
    with pytest.raises(AgencyStatementError):
        read_handed_over(true.sign(node_key(BOARD)), roster(), log)
    read_handed_over(true.sign(node_key(NORTHPORT)), roster(), log)


async def test_a_broker_that_shows_a_forged_opening_is_not_believed(world: World) -> None:
    await world.released()
    world.clock.pass_by(days=31)
    await publish(world)
    log, true = entries(world), list(world.broker.opened)
    await read_published(world.broker, log)
    grant = next(one for one in true if one.opening.field_type == OFFENCE)
    place = true.index(grant)
    elsewhere = next(position for position, entry in enumerate(log) if entry.kind is EntryKind.RELEASE)
    forgeries = [
        replace(grant, opening=replace(grant.opening, value=b"09A")),
        replace(grant, opening=FieldOpening(grant.opening.salt, FieldType("docket"), b"1")),
        replace(grant, position=elsewhere),
        replace(grant, position=len(log)),
        replace(true[0], number=grant.number),
    ]
    for forged in forgeries:
        world.broker.opened = [*true[:place], forged, *true[place + 1 :]]
        with pytest.raises((CommitmentError, FieldError), match="of leaf"):
            await read_published(world.broker, log)


@pytest.mark.rule("R62")
async def test_what_was_handed_over_counts_in_cells_of_five(world: World) -> None:
    """R62: one search's openings in an oversight body's hands make no published number."""
    content = await world.released()
    _, found = read_handed_over(handed(world.nodes[NORTHPORT], str(content.search_id)), roster(), entries(world))
    tables = count_entries(entries(world), found).tables()
    assert tables
    assert {(one.total, one.lines) for one in tables} == {(None, ())}


async def test_the_command_hands_over_or_asks_to_publish(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = await world.released()
    node = world.nodes[NORTHPORT]
    (node.folder / CONFIG_FILE).write_text(node.config.model_copy(update={"embedder": "synthetic-128"}).to_toml())
    (node.folder / "keys" / AT_REST_KEY_FILE).write_bytes(digest(f"{NORTHPORT} at rest"))
    for place in ("node_open", "acting"):
        monkeypatch.setattr(f"agency_node.commands.{place}.clock", world.clock)

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["node", "open", str(node.folder), "--search", str(content.search_id)[:8], *words, "--json"])

    file = tmp_path / "opened.json"
    shown = run("--to-oversight", str(file))
    assert (shown.exit_code, json.loads(shown.stdout)["entries"]) == (0, 1)
    said_, found = read_handed_over(file.read_bytes(), roster(), entries(world))
    assert (said_.agency, len(found)) == (NORTHPORT, 1)
    assert run("--to-oversight", str(file)).exit_code == 2
    assert run().exit_code == run("--case-closed", "--to-oversight", str(tmp_path / "x")).exit_code == 2
    shown = run("--case-closed")
    assert (shown.exit_code, json.loads(shown.stdout)["to_publish"]) == (0, 1)
    assert await node.openings.publish_due() == 1
    assert any("command node open" in line for line in node.journal())
