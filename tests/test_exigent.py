"""R4: an exigent grant runs against a clock. Ratified in time nothing happens; not ratified, each of its consequences comes at once."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from agency_node.errors import RequestError
from agency_node.gallery_tables import disclosure_requests
from agency_node.holder.disclosing import ENDED as REQUEST_ENDED
from agency_node.legal.archive import ARCHIVE_LABEL, open_archive
from agency_node.legal.exigent import exigent_status, lapses_of_case
from agency_node.legal.notices import RECIPIENTS, read_notice
from agency_node.legal.persons import DiscoveryKey
from agency_node.legal.review import read_case
from agency_node.outbox import ENTRY, GRANT, READY
from agency_node.policy.clocks import STRICT_CLOCK, ExigentClock, OnLapse, exigent_clock
from agency_node.policy.engine import PolicyPack
from agency_node.policy.pack_folder import PackClocks, find_pack
from agency_node.requester.cancelling import cancel_search
from agency_node.requester.leads import ask_for, list_disclosed, list_leads
from agency_node.store import forget_deleted
from agency_node.tables import (
    custody,
    custody_parts,
    disclosures,
    exigent_grants,
    held_grants,
    inbox,
    lapse_notices,
    leads,
    outbox,
    sealing_keys,
    searches,
)
from agency_node.verification import verify_log
from crypto.entries import EntryKind
from crypto.envelope import OFFERED_SUITES, P256_SHA256_AES256GCM
from crypto.errors import BadSignatureError, OpeningError, VersionError
from crypto.grant_claims import GrantClaims
from crypto.keys import SealingPrivateKey
from tests.exigent_world import DAY, FACTS, asked, decide, disclosed, entries, exigent, later, open_world, ratify, restart
from tests.leak_run import SEALED
from tests.node_world import STILL, World, WorldNode, gallery_records
from tests.sample_federation import LAKESIDE, NORTHPORT, NORTHPORT_LAW, OVERSIGHT, roster, secret

CLOSED = "its leads are closed"
OFFICE_KEY = SealingPrivateKey.from_secret(secret(f"{NORTHPORT_LAW} discovery"))
OFFICE = DiscoveryKey(NORTHPORT_LAW, OFFICE_KEY)
PHOTOGRAPH = gallery_records()[0].photograph


@pytest.fixture
async def world(tmp_path: Path) -> Iterator[World]:  # type: ignore[misc]  # pytest-asyncio takes it
    made = await open_world(tmp_path)
    yield made
    made.close()


async def lapsed(world: World, **changes: Any) -> GrantClaims:
    """An exigent search with a disclosed lead that nobody ratified; a day has gone by."""
    content = await disclosed(world, **changes)
    await later(world, hours=24)
    return content


def clock_row(world: World) -> Any:
    (row,) = world.nodes[NORTHPORT].rows(exigent_grants)
    return row


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R4")
async def test_ratified_in_time_nothing_happens(world: World) -> None:
    """R4: leads stay open, a photograph is disclosed after the day, the log counts a ratification and no lapse, nobody is notified."""
    content = await world.released(**exigent())
    await later(world, hours=10)
    ratify(world, content.search_id)
    await later(world, hours=1)
    await later(world, hours=19)
    node = world.nodes[NORTHPORT]
    assert clock_row(world).state == "ratified"
    assert len(list_leads(node.engine, node.vault, content.search_id, world.clock())) == 1
    await asked(world, content)
    decide(world)
    await world.run(rounds=3)
    (shown,) = list_disclosed(node.engine, node.vault, content.search_id, world.clock())
    assert (shown.outcome, shown.photograph) == ("disclosed", PHOTOGRAPH)
    assert (entries(world, EntryKind.RATIFICATION, content.digest), entries(world, EntryKind.LAPSE, content.digest)) == (1, 0)
    assert node.rows(lapse_notices) == []
    assert exigent_status(node.engine, world.clock()).counts == {"running": 0, "ratified": 1, "lapsed": 0}


@pytest.mark.rule("R4")
async def test_a_grant_on_any_other_basis_has_no_clock(world: World) -> None:
    content = await world.released()
    await later(world, hours=30)
    node = world.nodes[NORTHPORT]
    assert node.rows(exigent_grants) == []
    assert list_leads(node.engine, node.vault, content.search_id, world.clock())


@pytest.mark.rule("R4")
async def test_an_hour_before_its_end_the_clock_has_done_nothing(world: World) -> None:
    content = await disclosed(world)
    await later(world, hours=23)
    node = world.nodes[NORTHPORT]
    assert clock_row(world).state == "running"
    assert list_leads(node.engine, node.vault, content.search_id, world.clock())


@pytest.mark.rule("R4")
async def test_status_and_journal_warn_at_half_time_and_two_hours_before_the_end(world: World) -> None:
    await world.released(**exigent())
    node = world.nodes[NORTHPORT]

    def warned() -> list[str]:
        return [line for line in node.journal() if line.startswith("exigent warning")]

    def shown() -> tuple[float | None, str]:
        (one,) = exigent_status(node.engine, world.clock()).clocks
        return one.hours_left, one.warning

    await later(world, hours=11)
    assert (warned(), shown()) == ([], (13.0, ""))
    await later(world, hours=1)
    assert len(warned()) == 1
    assert "half of the time" in warned()[0]
    assert shown()[0] == 12.0
    assert "12.0 hours left" in shown()[1]
    await later(world, hours=9)
    assert len(warned()) == 1
    await later(world, hours=1)
    assert len(warned()) == 2
    assert "two hours are left" in warned()[1]
    restart(node)
    await later(world, minutes=30)
    assert len(warned()) == 2


@pytest.mark.rule("R4")
async def test_the_clock_goes_on_while_the_process_is_down(world: World) -> None:
    """Restarted in the middle, and restarted after the end: what comes first is the lapse, and what had arrived is not handled."""
    content = await world.released(**exigent())
    node = world.nodes[NORTHPORT]
    await later(world, hours=12)
    restart(node)
    await later(world, hours=11)
    assert clock_row(world).state == "running"
    await asked(world, content)
    decide(world)
    await world.nodes[LAKESIDE].turn()  # the photograph is on its way to a node that is down
    world.clock.pass_by(hours=1)
    world.broker.cosign_again()
    restart(node)
    await node.turn()
    assert clock_row(world).state == "lapsed"
    (message,) = node.rows(inbox, message_type="disclosure")
    assert (message.state, message.data) == ("refused", None)
    assert node.rows(disclosures) == []


async def test_a_draft_that_is_too_old_starts_no_clock(world: World) -> None:
    search_id = await world.drafted(**exigent())
    world.clock.pass_by(hours=24)
    with pytest.raises(RequestError, match="older than an exigent grant may go"):
        await world.sign(search_id)
    assert world.nodes[NORTHPORT].rows(searches)[0].state == "drafted"


def test_the_shortest_clock_of_all_packs_counts_and_deletion_wins() -> None:
    """R4: 24 hours by the strict default, 48 where a pack says so, the shorter of two; a law that demands deletion is not met by a seal."""

    class Pack:
        def __init__(self, hours: int, on_lapse: str) -> None:
            self.clocks = PackClocks.model_validate({"exigent_ratify_hours": hours, "on_lapse": on_lapse})

    strict = PolicyPack.load(find_pack("strict-default"))
    assert exigent_clock([strict]) == STRICT_CLOCK == ExigentClock(DAY, OnLapse.SEAL)
    assert exigent_clock([Pack(48, "delete")]) == ExigentClock(2 * DAY, OnLapse.DELETE)
    assert exigent_clock([strict, Pack(48, "delete")]) == exigent_clock([Pack(48, "delete"), strict]) == ExigentClock(DAY, OnLapse.DELETE)
    with pytest.raises(ValueError, match="exigent_ratify_hours"):
        Pack(0, "seal")
    with pytest.raises(ValueError, match="on_lapse"):
        Pack(24, "keep")


# --- (a) leads are closed ---------------------------------------------------------------------------------------------


@pytest.mark.rule("R4")
async def test_leads_are_closed_to_investigators(world: World) -> None:
    content = await lapsed(world)
    node = world.nodes[NORTHPORT]
    assert node.rows(searches)[0].state == "lapsed"
    for refused in (list_leads, list_disclosed):
        with pytest.raises(RequestError, match=CLOSED):
            refused(node.engine, node.vault, content.search_id)
    with pytest.raises(RequestError, match=CLOSED):
        ask_for(node.engine, node.vault, content.search_id, 1, world.clock())


@pytest.mark.rule("R4")
async def test_leads_are_closed_when_the_clock_ends_and_not_when_a_process_notices(world: World) -> None:
    """Whoever stops the serving node does not keep the leads open."""
    content = await disclosed(world)
    world.clock.pass_by(hours=24)
    node = world.nodes[NORTHPORT]
    assert clock_row(world).state == "running"
    for refused in (list_leads, list_disclosed):
        with pytest.raises(RequestError, match=CLOSED):
            refused(node.engine, node.vault, content.search_id, world.clock())
    (shown,) = exigent_status(node.engine, world.clock()).clocks
    assert (shown.hours_left, CLOSED in shown.warning) == (0.0, True)


# --- (b) nothing more is released or disclosed ------------------------------------------------------------------------


async def unanswered(world: World) -> GrantClaims:
    """Sent, in custody, and its holder is away; answers are awaited for longer than the clock runs."""
    content = await world.granted(**exigent(answer_within=DAY * 1.25))
    for _ in range(3):
        await world.nodes[NORTHPORT].turn()
        await world.nodes[OVERSIGHT].turn()
    assert [row.state for row in world.nodes[OVERSIGHT].rows(custody)] == ["open"]
    return content


@pytest.mark.rule("R4")
@pytest.mark.parametrize("concealed", [False, True])
async def test_the_custodian_releases_nothing_more(world: World, concealed: bool) -> None:
    """By its own clock: also when the requester conceals the lapse and goes on."""
    await unanswered(world)
    await later(world, hours=24, without=(NORTHPORT,) if concealed else ())
    board = world.nodes[OVERSIGHT]
    assert [(row.state, row.note) for row in board.rows(custody)] == [("lapsed", "an exigent grant that was not ratified in time (R4)")]
    assert {row.data for row in board.rows(custody_parts)} <= {None}
    assert [row.state for row in board.rows(held_grants)] == ["ended"]
    await later(world, hours=7, without=(NORTHPORT,) if concealed else ())
    assert "release" not in {row.name for row in board.rows(outbox)}


@pytest.mark.rule("R4")
async def test_a_lapse_in_the_log_ends_the_grant_for_a_custodian_whose_clock_is_longer(world: World) -> None:
    world.nodes[OVERSIGHT].rule = ExigentClock(2 * DAY, OnLapse.SEAL)
    restart(world.nodes[OVERSIGHT])
    content = await unanswered(world)
    await later(world, hours=24, without=(OVERSIGHT,))
    assert entries(world, EntryKind.LAPSE, content.digest) == 1
    await later(world, hours=7, without=(NORTHPORT,))
    board = world.nodes[OVERSIGHT]
    assert [(row.state, row.note) for row in board.rows(custody)] == [("lapsed", "the log holds a revocation or lapse of this grant")]
    assert "release" not in {row.name for row in board.rows(outbox)}


@pytest.mark.rule("R4")
@pytest.mark.parametrize("how", ["its own clock", "the log"])
async def test_the_holder_discloses_nothing_more(world: World, how: str) -> None:
    """A request that its legal staff grants after the end: by the holder's clock while the requester conceals the lapse, or by the log."""
    holder = world.nodes[LAKESIDE]
    if how == "the log":
        holder.rule = ExigentClock(2 * DAY, OnLapse.SEAL)
        restart(holder)
    content = await world.released(**exigent())
    await asked(world, content)
    if how == "the log":
        await later(world, hours=24, without=(LAKESIDE,))
    decide(world)
    await later(world, hours=24 if how == "its own clock" else 0, without=(NORTHPORT,))
    assert [row.state for row in holder.rows(disclosure_requests)] == [REQUEST_ENDED]
    assert "disclosure" not in {row.name for row in holder.rows(outbox)}


@pytest.mark.rule("R4")
async def test_a_holder_answers_no_probe_after_the_end(world: World) -> None:
    """Grant and probe reach a holder that was away, from a requester that conceals the lapse."""
    await unanswered(world)
    await later(world, hours=24, without=(NORTHPORT,))
    holder = world.nodes[LAKESIDE]
    assert {row.state for row in holder.rows(inbox, message_type="grant")} == {"refused"}
    assert "answer" not in {row.name for row in holder.rows(outbox)}


# --- (c) notices ------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R4")
async def test_prosecutor_and_oversight_are_notified(world: World) -> None:
    content = await lapsed(world)
    node = world.nodes[NORTHPORT]
    files = sorted((node.folder / "notices").iterdir())
    assert [path.name for path in files] == sorted(f"{content.search_id}-{recipient}.json" for recipient in RECIPIENTS)
    for path in files:
        said = read_notice(path.read_bytes(), roster().node_key(NORTHPORT)).as_object()
        assert said["grant_digest"] == content.digest.hex()
        assert (said["leads_seen"], said["on_lapse"], said["rule"]) == (1, "seal", "R4")
        assert path.stat().st_mode & 0o077 == 0
        text = path.read_text()
        assert "26-CF-101" not in text
        assert FACTS not in text
        with pytest.raises(BadSignatureError):
            read_notice(path.read_bytes(), roster().node_key(LAKESIDE))
        with pytest.raises((BadSignatureError, VersionError)):
            read_notice(path.read_bytes().replace(b'"leads_seen":1', b'"leads_seen":0'), roster().node_key(NORTHPORT))
    shown = exigent_status(node.engine, world.clock()).notices
    assert {(one["to"], bool(one["written_at"])) for one in shown} == {("prosecutor", True), ("oversight", True)}


async def test_a_notice_that_could_not_be_written_is_written_later(world: World) -> None:
    content = await disclosed(world)
    node = world.nodes[NORTHPORT]
    (node.folder / "notices").write_text("in the way")
    await later(world, hours=24)
    assert clock_row(world).state == "lapsed"
    assert {one["written_at"] for one in exigent_status(node.engine, world.clock()).notices} == {""}
    assert entries(world, EntryKind.LAPSE, content.digest) == 1
    (node.folder / "notices").unlink()
    restart(node)
    await later(world, minutes=1)
    assert len(list((node.folder / "notices").iterdir())) == 2


# --- (d) the case is marked -------------------------------------------------------------------------------------------


@pytest.mark.rule("R4")
async def test_a_later_draft_of_the_same_case_shows_the_lapse_to_its_reviewer(world: World) -> None:
    """By the case's commitment, which holders know the case by: it stays the same although number and salt were destroyed (R54, R57)."""
    content = await lapsed(world)
    node = world.nodes[NORTHPORT]
    assert lapses_of_case(node.engine, content.case_commitment) == (clock_row(world).ended_at,)
    again = read_case(node.engine, node.vault, await world.drafted())
    assert again.lapsed == (clock_row(world).ended_at,)
    assert clock_row(world).ended_at in again.told["exigent searches of this case that lapsed"]
    assert (await world.granted(still=STILL)).case_commitment == content.case_commitment
    other = read_case(node.engine, node.vault, await world.drafted(case_number="26-CF-102"))
    assert (other.lapsed, list(other.told)) == ((), ["facts"])


# --- (e) the seal -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("R4")
async def test_what_is_kept_opens_with_the_legal_offices_key_and_no_other(world: World) -> None:
    """R4, R43: still, request, answers' digests, leads that were seen, and the photograph."""
    content = await disclosed(world)
    node = world.nodes[NORTHPORT]
    (lead,) = list_leads(node.engine, node.vault, content.search_id)
    await later(world, hours=24)
    kept = open_archive(node.engine, content.search_id, OFFICE)
    assert kept.still == STILL
    assert kept.pictures == {lead.handle: PHOTOGRAPH}
    assert (kept.request["case"]["case_number"], kept.request["case"]["facts"]) == ("26-CF-101", FACTS)
    assert [(one["rank"], one["handle"]) for one in kept.request["leads"]] == [(1, lead.handle)]
    assert [one["outcome"] for one in kept.request["disclosed"]] == ["disclosed"]
    (answered,) = kept.request["answers"]
    assert set(answered) == {"answer-digest", "opened-digest"}
    assert node.rows(searches)[0].escrow is not None  # the search key for the audit lies under the same key
    with pytest.raises(RequestError, match="this key does not open the seal"):
        open_archive(node.engine, content.search_id, DiscoveryKey(NORTHPORT_LAW, SealingPrivateKey.generate()))
    with pytest.raises(OpeningError):  # nor does it pass for another search's
        OFFICE_KEY.open(OFFERED_SUITES[P256_SHA256_AES256GCM], clock_row(world).archive, ARCHIVE_LABEL + b"ab" * 16)


@pytest.mark.rule("R4")
async def test_where_the_law_says_delete_nothing_is_kept(world: World) -> None:
    """Regulation (EU) 2024/1689, Article 26(10): as a pack says with on_lapse."""
    world.exigent_rule = ExigentClock(2 * DAY, OnLapse.DELETE)
    content = await disclosed(world, valid_for=DAY * 3)
    await later(world, hours=24)
    assert clock_row(world).state == "running"
    await later(world, hours=24)
    node = world.nodes[NORTHPORT]
    (row,) = node.rows(searches)
    assert (row.state, row.escrow, row.discovery, clock_row(world).archive) == ("lapsed", None, None, None)
    with pytest.raises(RequestError, match="nothing of this search lies under a seal"):
        open_archive(node.engine, content.search_id, OFFICE)
    assert len(list((node.folder / "notices").iterdir())) == 2
    assert entries(world, EntryKind.LAPSE, content.digest) == 1


def clear_bytes(node: WorldNode) -> bytes:
    """Every file of the node as it lies there, and every sealed column opened with the node's own at-rest key, as its administrator can."""
    assert forget_deleted(node.engine)
    found = [path.read_bytes() for path in sorted(node.folder.rglob("*")) if path.is_file()]
    with node.engine.begin() as connection:
        for (table, column), (purpose, bound) in SEALED.items():
            for row in connection.execute(select(table).where(table.c[column].is_not(None), table.c[column] != b"")).all():
                found.append(node.vault.open(purpose, bytes(getattr(row, column)), bound(row)))
    return bytes(16).join(found)


@pytest.mark.rule("R4")
async def test_a_scan_of_the_node_finds_neither_still_nor_lead_after_a_lapse(world: World) -> None:
    """Also with the node's own at-rest key. The control: before the lapse each of them is found."""
    content = await disclosed(world)
    node = world.nodes[NORTHPORT]
    (lead,) = list_leads(node.engine, node.vault, content.search_id)
    secrets = {
        "still": STILL[40:120],
        "handle": lead.handle.encode(),
        "raw handle": bytes.fromhex(lead.handle),
        "photograph": (PHOTOGRAPH or b"")[40:120],
        "record number": b"LS-00042",
        "case number": b"26-CF-101",
        "facts": FACTS.encode(),
        "probe": bytes(node.rows(searches)[0].probe)[1000:1064],
    }
    forms = {name: (value, base64.urlsafe_b64encode(value[:60])[:40]) for name, value in secrets.items()}
    before, searched = clear_bytes(node), set(secrets) - {"raw handle"}
    missing = {name for name in searched if secrets[name] not in before}
    assert missing <= {"photograph"}  # that one lies in a sealed document, in another alphabet
    assert list_disclosed(node.engine, node.vault, content.search_id)[0].photograph == PHOTOGRAPH
    await later(world, hours=24)
    after = clear_bytes(node)
    assert {name for name, both in forms.items() if any(form in after for form in both)} == set()


# --- (f) keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R4")
async def test_keys_that_nothing_needs_any_more_are_destroyed(world: World) -> None:
    """Lapsed while answers are awaited, so that every key is there before."""
    content = await unanswered(world)
    node = world.nodes[NORTHPORT]
    (row,) = node.rows(searches)
    assert None not in (row.sealed_search_key, row.probe)
    assert [one.sealed_private is None for one in node.rows(sealing_keys, use=str(content.search_id))] == [False]
    await later(world, hours=24)
    (row,) = node.rows(searches)
    assert (row.sealed_search_key, row.probe) == (None, None)
    assert [one.sealed_private is None for one in node.rows(sealing_keys, use=str(content.search_id))] == [True]
    assert {one.state for one in node.rows(outbox)} == {"sent"}
    assert (node.rows(leads), node.rows(disclosures)) == ([], [])


# --- (g) the log ------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R4")
async def test_a_lapse_is_logged_and_counted_once(world: World) -> None:
    content = await lapsed(world)
    node = world.nodes[NORTHPORT]
    restart(node)
    await later(world, minutes=1)
    assert entries(world, EntryKind.LAPSE, content.digest) == 1
    assert exigent_status(node.engine, world.clock()).counts == {"running": 0, "ratified": 0, "lapsed": 1}
    report = await verify_log(world.broker, roster(), world.clock())  # type: ignore[arg-type]  # the broker's log, without its wire
    assert report.kinds["lapse"] == 1
    (row,) = [one for one in node.rows(outbox, kind=ENTRY) if one.name == "lapse"]
    kept = json.loads(node.vault.open("log-openings", row.sealed_openings, row.grant_digest))
    assert [one["type"] for one in kept["openings"]] == [
        "requesting-agency",
        "requesting-class",
        "outcome",
        "grant-digest",
        "ratify-by",
        "on-lapse",
    ]


async def test_a_search_that_never_came_into_the_log_lapses_without_an_entry(world: World) -> None:
    content = await world.granted(**exigent())
    await later(world, hours=24)
    node = world.nodes[NORTHPORT]
    assert (clock_row(world).state, clock_row(world).in_log) == ("lapsed", 0)
    assert entries(world, EntryKind.GRANT, content.digest) == entries(world, EntryKind.LAPSE, content.digest) == 0
    assert node.rows(outbox) == []


async def test_a_grant_that_was_on_its_way_into_the_log_is_followed_by_its_lapse(world: World) -> None:
    """The broker has it when the search lapses, and the node learns that a moment later."""
    content = await world.granted(**exigent())
    node = world.nodes[NORTHPORT]
    await node.work()
    (row,) = node.rows(outbox, kind=GRANT, state=READY)
    await later(world, hours=24, without=(NORTHPORT,))
    await node.work()
    assert clock_row(world).in_log == 0
    world.broker.enter_grant(content.digest)
    with node.engine.begin() as connection:
        connection.execute(update(outbox).where(outbox.c.number == row.number).values(state="sent"))
    await later(world, minutes=1)
    assert entries(world, EntryKind.LAPSE, content.digest) == 1


async def test_a_search_that_was_taken_back_lapses_as_any_other(world: World) -> None:
    """Cancelling does not keep the case from being marked, nor the still in the node."""
    content = await unanswered(world)
    node = world.nodes[NORTHPORT]
    cancel_search(node.engine, content.search_id, world.clock())
    await later(world, hours=24)
    (row,) = node.rows(searches)
    assert (row.state, row.sealed_still, clock_row(world).state) == ("lapsed", None, "lapsed")
    assert lapses_of_case(node.engine, content.case_commitment)
