"""R22: what a requester keeps of a search ends with its clock; a legal hold, the seal of a lapse and the law come first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from agency_node.case_tables import case_searches, cases, legal_holds, probe_links
from agency_node.errors import ProvenanceError, RequestError
from agency_node.faces.edits import Edit
from agency_node.facts import Fact, write_fact
from agency_node.journal import stamp
from agency_node.legal.archive import open_archive
from agency_node.legal.holds import Hold, HoldAct, HoldDocument, holds_of, lift_hold, place_hold
from agency_node.legal.persons import PersonKey
from agency_node.policy.clocks import ExigentClock, OnLapse, RetentionClock, retention_clock
from agency_node.policy.deciding import packs_over
from agency_node.policy.engine import PolicyPack, load_packs
from agency_node.policy.pack_folder import PackRetention, find_pack
from agency_node.requester import retention
from agency_node.requester.cancelling import cancel_search
from agency_node.requester.case_list import UNDER_SEAL, CaseKept, list_cases
from agency_node.requester.leads import list_disclosed, list_leads
from agency_node.requester.probe_versions import read_kept
from agency_node.requester.provenance import check_edits
from agency_node.requester.retention import Retention
from agency_node.store import forget_deleted
from agency_node.tables import disclosures, exigent_grants, leads, ledger, legal_decisions, probe_faces, searches
from crypto.canonical import AgencyId
from crypto.errors import AgencyRoleError, GrantSignatureError, TrainingExpiredError
from crypto.grant_claims import GrantClaims
from crypto.roster_entries import PersonRole
from tests.exigent_world import asked, decide, exigent, later
from tests.leak_run import SEALED
from tests.node_world import MODEL, PixelEmbedder, World, WorldNode, gallery_records, investigator, packs, person_key, pixels_of, reviewer
from tests.sample_federation import LAKESIDE, LAKESIDE_REVIEWER, NORTHPORT, NOW, OVERSIGHT, roster
from tests.test_exigent import OFFICE
from tests.test_provenance import EDITS, ORIGINAL

CASE = "26-CF-101"
YEAR = timedelta(days=367)
"""The strict default's clocks from the end of a grant of two days."""
PHOTOGRAPH = gallery_records()[0].photograph


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The requester alone; `searched` brings the others."""
    made = World(tmp_path)
    node = await made.node(NORTHPORT)
    node.parts.append(Retention(node.engine, node.vault, packs(), node.parties, node.clock))
    yield made
    made.close()


async def searched(world: World, **changes: Any) -> GrantClaims:
    """A whole search with one lead."""
    for agency in (LAKESIDE, OVERSIGHT):
        await world.node(agency)
    return await world.released(**changes)


async def with_photograph(world: World, **changes: Any) -> GrantClaims:
    """A search whose one lead was disclosed."""
    content = await searched(world, **changes)
    await asked(world, content)
    decide(world)
    await world.run(rounds=3)
    return content


async def pass_by(world: World, duration: timedelta) -> None:
    """Time passes at the requester's node, which looks at its clocks and empties its write-ahead log."""
    world.clock.pass_by(days=duration.days, seconds=duration.seconds)
    node = world.nodes[NORTHPORT]
    retention.destroy_due(node.engine, node.vault, packs(), node.parties.trusted.possibly_expired, world.clock())
    assert forget_deleted(node.engine)


def hold(world: World, person: PersonKey | None = None, *, lift: bool = False, case: str = CASE, at: datetime | None = None) -> None:
    """Legal staff acts now, or `at` a moment at which its training held."""
    node = world.nodes[NORTHPORT]
    place = lift_hold if lift else place_hold
    place(node.engine, node.vault, roster(), NORTHPORT, case, "charged: discovery is due", person or reviewer(), at or world.clock())


def listed(world: World) -> list[CaseKept]:
    node = world.nodes[NORTHPORT]
    return list_cases(node.engine, node.vault, packs(), node.parties.trusted.possibly_expired, world.clock())


def opened(node: WorldNode) -> bytes:
    """Everything sealed in the store, opened with the node's own key: what who has the machine can read."""
    found = []
    for (table, column), (purpose, bound) in SEALED.items():
        for row in node.rows(table):
            value = getattr(row, column)
            if value:
                found.append(node.vault.open(purpose, bytes(value), bound(row)))
    return b"\0".join(found)


def pictures_of(node: WorldNode, content: GrantClaims) -> dict[str, bytes]:
    """Each sealed or plain blob of picture, embedding, probe and leads as it stands in the store now."""
    bound = str(content.search_id)
    found: dict[str, bytes] = {}
    for table, columns in (
        (searches, ("sealed_still", "probe", "escrow", "sealed_release", "discovery")),
        (probe_faces, ("sealed_vector",)),
        (probe_links, ("sealed_picture",)),
        (leads, ("sealed_stub",)),
        (disclosures, ("sealed_record",)),
    ):
        for number, row in enumerate(node.rows(table, search_id=bound)):
            for column in columns:
                if getattr(row, column):
                    found[f"{table.name}.{column}.{number}"] = bytes(getattr(row, column))
    return found


# --- clocks -----------------------------------------------------------------------------------------------------------


@dataclass
class Pack:
    retention: PackRetention


def test_the_shortest_clock_counts_and_the_defence_s_time_beneath_it() -> None:
    """R22: strictest wins; what has to be kept for discovery is the longest that a pack says, and beats a shorter clock."""
    days = [timedelta(days=number) for number in (365, 365, 90)]
    assert retention_clock(()) == retention_clock(load_packs(["strict-default"])) == RetentionClock(*days)
    short = Pack(PackRetention(probe_days=30, leads_days=400, discovery_days=0))
    long = Pack(PackRetention(probe_days=400, leads_days=60, discovery_days=45))
    both = retention_clock([short, long])
    assert both == RetentionClock(timedelta(days=30), timedelta(days=60), timedelta(days=45))
    start = roster().expires
    assert (both.probe_ends(start) - start, both.leads_end(start) - start) == (timedelta(days=45), timedelta(days=60))


def test_packs_that_bind_an_agency_of_the_search_count_too() -> None:
    own = load_packs(["strict-default"])
    binding = [PolicyPack.load(find_pack(name)).sha256 for name in ("us-wi-madison", "us-wi-milwaukee")]
    assert {pack.sha256 for pack in packs_over(own, roster(), [NORTHPORT, AgencyId("nobody-pd")])} == {own[0].sha256}

    class Elsewhere:
        agencies = (type("Listed", (), {"agency_id": NORTHPORT, "jurisdiction": "us-wi-milwaukee"})(),)

    found = {pack.sha256 for pack in packs_over(own, Elsewhere(), [NORTHPORT])}  # type: ignore[arg-type]
    assert found == {own[0].sha256, binding[1]}


@pytest.mark.rule("R22")
async def test_after_the_clock_no_file_of_the_store_has_picture_embedding_or_lead(world: World) -> None:
    """R22: by the serving node's own loop; before the clock's end all is there, after it neither sealed bytes nor plain ones are."""
    content = await with_photograph(world)
    node, search_id = world.nodes[NORTHPORT], str(content.search_id)
    vector = MODEL.probe_vector(PixelEmbedder().faces(pixels_of(STILL_OF(node, search_id)))[0].embedding).astype("<i4").tobytes()
    blobs, still = pictures_of(node, content), STILL_OF(node, search_id)
    assert {name.split(".")[1] for name in blobs} >= {
        "sealed_still",
        "probe",
        "sealed_vector",
        "sealed_stub",
        "sealed_record",
        "sealed_release",
    }
    assert all(secret in opened(node) for secret in (still, vector))
    node.courier.roles[:] = [part for part in node.courier.roles if isinstance(part, Retention)]  # the clock alone acts
    world.clock.pass_by(days=366)
    await node.work()
    assert pictures_of(node, content) == blobs
    world.clock.pass_by(days=1)
    world.clock.pass_by(hours=1)
    await node.work()
    assert pictures_of(node, content) == {}
    assert forget_deleted(node.engine)
    files = {path.name: path.read_bytes() for path in node.folder.rglob("*") if path.is_file()}
    for name, blob in blobs.items():
        assert [file for file, data in files.items() if blob[:64] in data or blob[-64:] in data] == [], name
    left = opened(node)
    assert [secret for secret in (still, vector, PHOTOGRAPH) if secret is None or secret in left] == []


def STILL_OF(node: WorldNode, search_id: str) -> bytes:  # noqa: N802  # a value of the test, read from the store
    return read_kept(node.engine, node.vault, search_id).still


@pytest.mark.rule("R22")
async def test_digests_counts_and_ledger_stay(world: World) -> None:
    content = await world.granted(still=ORIGINAL, edits=EDITS)
    node, search_id = world.nodes[NORTHPORT], str(content.search_id)
    chain = read_kept(node.engine, node.vault, search_id).chain
    await pass_by(world, YEAR)
    kept = read_kept(node.engine, node.vault, search_id)
    assert kept.chain == chain
    assert kept.pictures == {}
    with pytest.raises(ProvenanceError, match="original was destroyed when its time was over"):
        _ = kept.original
    check_edits(kept.chain, ORIGINAL)  # who still has the original can make the chain again
    assert [line for line in node.journal() if "destroyed: " in line] == [
        "probe destroyed: its clock ended (R22): still, edits, embedding, probe, search key and escrow",
        "leads destroyed: their clock ended (R22): ranks, stubs, photographs, record numbers, sealed scores",
    ]
    (row,) = [row for row in node.rows(ledger) if row.event == "probe destroyed"]
    assert (row.grant_digest, row.case_commitment) == (content.digest.hex(), content.case_commitment.hex())


async def test_leads_that_were_destroyed_say_so(world: World) -> None:
    content = await with_photograph(world)
    await pass_by(world, YEAR)
    node = world.nodes[NORTHPORT]
    with pytest.raises(RequestError, match=r"were destroyed at 20.*node cases"):
        list_leads(node.engine, node.vault, content.search_id)
    with pytest.raises(RequestError, match=r"were destroyed at 20.*node cases"):
        list_disclosed(node.engine, node.vault, content.search_id)
    assert len(node.rows(leads)) == 1, "how many there were is still counted"
    assert [row.outcome for row in node.rows(disclosures) if row.handle] == ["disclosed"]


async def test_a_draft_that_nobody_decided_about_ends_too(world: World) -> None:
    await world.drafted()
    await pass_by(world, YEAR)
    node = world.nodes[NORTHPORT]
    (row,) = node.rows(searches)
    assert (row.state, row.sealed_still) == ("expired", None)
    with pytest.raises(RequestError, match="this search is expired"):
        await world.sign(row.search_id)


async def test_the_job_looks_once_an_hour_and_does_a_thing_once(world: World) -> None:
    await world.granted()
    node = world.nodes[NORTHPORT]
    (part,) = [one for one in node.parts if isinstance(one, Retention)]
    await part.tick()
    world.clock.pass_by(minutes=59)
    with node.engine.begin() as connection:
        connection.execute(update(searches).values(expires="2026-01-01T00:00:00.00Z"))
    await part.tick()
    assert "probe destroyed" not in " ".join(node.journal())
    world.clock.pass_by(days=400)
    await part.tick()
    await pass_by(world, timedelta(days=1))
    assert sum(line.startswith("probe destroyed") for line in node.journal()) == 1


# --- legal hold -------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R22")
async def test_a_hold_wins_over_every_clock_until_it_is_lifted(world: World) -> None:
    """Embedding, picture, edits, leads and photographs of the case, and of no other; lifted, what is over goes at once."""
    held = await with_photograph(world)
    other = await world.drafted(case_number="26-CF-999", still=ORIGINAL)
    node = world.nodes[NORTHPORT]
    before = pictures_of(node, held)
    hold(world)
    await later(world, days=100)  # the days of near-duplicate faces are over as well
    await pass_by(world, YEAR)
    assert {name.split(".")[1] for name in before} - {name.split(".")[1] for name in pictures_of(node, held)} == set()
    assert node.rows(searches, search_id=str(other))[0].sealed_still is None
    (case,) = [one for one in listed(world) if one.number == CASE]
    assert case.held_since
    assert case.searches[0].picture == case.searches[0].leads == f"held since {case.held_since}"
    hold(world, lift=True, at=NOW)
    await pass_by(world, timedelta(0))
    assert pictures_of(node, held) == {}
    assert [line.split(":")[0] for line in node.journal() if line.startswith("legal hold")] == ["legal hold placed", "legal hold lifted"]


async def test_a_hold_that_comes_while_the_job_looks_is_asked_in_the_transaction_that_destroys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.granted()
    ends_of = retention.ends_of

    def held_meanwhile(*given: Any) -> Any:
        if not world.nodes[NORTHPORT].rows(legal_holds):
            hold(world, at=NOW)
        return ends_of(*given)

    monkeypatch.setattr(retention, "ends_of", held_meanwhile)
    await pass_by(world, YEAR)
    assert world.nodes[NORTHPORT].rows(searches)[0].sealed_still is not None


async def test_who_may_hold_and_what_is_refused(world: World) -> None:
    await world.drafted()
    node = world.nodes[NORTHPORT]
    with pytest.raises(RequestError, match="no search of this case is here"):
        hold(world, case="26-CF-102")
    for person in (investigator(), person_key(LAKESIDE_REVIEWER, PersonRole.REVIEWER)):
        with pytest.raises(AgencyRoleError, match="not that of a reviewer of the legal office"):
            hold(world, person)
    with pytest.raises(RequestError, match="nothing to lift"):
        hold(world, lift=True)
    with pytest.raises(RequestError, match="give a reason"):
        place_hold(node.engine, node.vault, roster(), NORTHPORT, CASE, " ", reviewer(), world.clock())
    hold(world)
    with pytest.raises(RequestError, match="held already"):
        hold(world)
    with node.engine.begin() as connection:
        (row,) = connection.execute(legal_holds.select()).all()
    twice = {"case_tag": row.case_tag, "document": row.document, "sealed_reason": row.sealed_reason, "placed_at": row.placed_at}
    with pytest.raises(IntegrityError), node.engine.begin() as connection:
        connection.execute(legal_holds.insert().values(**twice))
    world.clock.pass_by(days=3000)
    with pytest.raises(TrainingExpiredError):
        hold(world, lift=True)
    assert node.rows(legal_decisions) == []


async def test_a_hold_is_signed_and_bound_to_its_case_and_reason(world: World) -> None:
    """Neither document nor ledger has number or reason in it; one that was moved to another case, or whose reason was exchanged, shows."""
    content = await world.granted()
    await world.drafted(case_number="26-CF-999", still=ORIGINAL)
    node = world.nodes[NORTHPORT]
    hold(world)
    hold(world, case="26-CF-999")
    first, second = node.rows(legal_holds)
    said = HoldDocument.read(first.document, roster())
    assert (said.act, said.case_commitment, said.reviewer) == (HoldAct.PLACED, content.case_commitment, reviewer().person_id)
    for text in (
        first.document,
        repr(said).encode(),
        " ".join(node.journal()).encode(),
        *map(str.encode, [row.subject for row in node.rows(ledger)]),
    ):
        assert CASE.encode() not in text
        assert b"discovery" not in text
    (shown,) = holds_of(node.engine, node.vault, roster(), CASE, world.clock())
    assert shown == Hold(str(reviewer().person_id), first.placed_at, "charged: discovery is due")
    assert "discovery" not in repr(shown)
    with node.engine.begin() as connection:
        connection.execute(update(legal_holds).where(legal_holds.c.number == first.number).values(document=second.document))
    with pytest.raises(GrantSignatureError):
        holds_of(node.engine, node.vault, roster(), CASE, world.clock())
    with pytest.raises(GrantSignatureError, match="does not verify"):
        HoldDocument.read(second.document.replace(b'"placed"', b'"lifted"'), roster())


async def test_what_lifts_names_the_hold_that_it_lifts(world: World) -> None:
    await world.drafted()
    node = world.nodes[NORTHPORT]
    for _ in range(2):
        hold(world)
        hold(world, lift=True)
    first, second = node.rows(legal_holds)
    assert [one.lift_reason for one in holds_of(node.engine, node.vault, roster(), CASE, world.clock())] == [
        "charged: discovery is due"
    ] * 2
    with node.engine.begin() as connection:
        values = {"lift_document": first.lift_document, "sealed_lift_reason": first.sealed_lift_reason}
        connection.execute(update(legal_holds).where(legal_holds.c.number == second.number).values(**values))
    with pytest.raises(GrantSignatureError, match="signed for another one"):
        holds_of(node.engine, node.vault, roster(), CASE, world.clock())


async def test_a_restored_node_waits_for_holds_that_it_cannot_know(world: World) -> None:
    """Two weeks, in which legal staff places again what the backup does not hold."""
    await world.granted()
    node = world.nodes[NORTHPORT]
    world.clock.pass_by(days=400)
    with node.engine.begin() as connection:
        write_fact(connection, Fact.RESTORED, stamp(world.clock()).encode())
    await pass_by(world, timedelta(days=13))
    assert node.rows(searches)[0].sealed_still is not None
    await pass_by(world, timedelta(days=1))
    assert node.rows(searches)[0].sealed_still is None


# --- beside the lapse of an exigent search ----------------------------------------------------------------------------


@pytest.mark.rule("R4", "R19")
async def test_a_lapsed_search_lies_under_its_seal_and_no_clock_touches_it(world: World) -> None:
    """R4, R19: chain and versions are in the archive, and in the node neither they nor the case's number; a year later all is as it was."""
    content = await searched(world, **exigent(edits=[Edit.parse("crop 0 0 30 30"), Edit.parse("rotate 90")]))
    node = world.nodes[NORTHPORT]
    original, head = (
        read_kept(node.engine, node.vault, str(content.search_id)).original,
        read_kept(node.engine, node.vault, str(content.search_id)).chain.head,
    )
    await later(world, hours=24)
    assert node.rows(probe_links) == []
    assert [row.sealed_number for row in node.rows(cases)] == [None]
    assert CASE.encode() not in opened(node)
    (row,) = node.rows(exigent_grants)
    archive = open_archive(node.engine, str(content.search_id), OFFICE)
    assert archive.versions[0] == original
    assert [link["step"] for link in archive.request["chain"]] == ["original", "edit", "edit", "probe", "aligned"]
    assert head
    await pass_by(world, YEAR)
    assert node.rows(exigent_grants) == [row]
    (case,) = listed(world)
    assert (case.number, case.searches[0].picture) == ("", UNDER_SEAL)
    hold(world, at=NOW)  # the number still finds the case
    again = await world.drafted(still=ORIGINAL)
    assert [one.number for one in listed(world)] == [CASE]
    assert again


@pytest.mark.rule("R4")
async def test_where_the_law_says_delete_a_hold_has_it_sealed(world: World) -> None:
    """A hold beats that clock too: what would be deleted is in no node, and opens with the legal office's key."""
    node = world.nodes[NORTHPORT]
    world.exigent_rule = ExigentClock(timedelta(hours=24), OnLapse.DELETE)
    content = await searched(world, **exigent())
    hold(world)
    await later(world, hours=24)
    assert open_archive(node.engine, str(content.search_id), OFFICE).still
    assert any(line.startswith("kept for a legal hold") for line in node.journal())


async def test_an_exigent_clock_that_runs_decides_first(world: World) -> None:
    """Nothing is destroyed by retention of a search whose lapse a serving node has still to carry out."""
    await world.granted(**exigent())
    await pass_by(world, YEAR)
    (row,) = world.nodes[NORTHPORT].rows(searches)
    assert row.sealed_still is not None
    (case,) = listed(world)
    assert case.searches[0].picture == "kept until ratified or lapsed (R4)"


async def test_a_search_that_was_taken_back_keeps_its_clock(world: World) -> None:
    content = await world.granted()
    node = world.nodes[NORTHPORT]
    cancel_search(node.engine, str(content.search_id), world.clock())
    assert node.rows(searches)[0].sealed_still is not None
    await pass_by(world, YEAR)
    (row,) = node.rows(searches)
    assert (row.state, row.sealed_still) == ("cancelled", None)


# --- the list ---------------------------------------------------------------------------------------------------------


async def test_the_list_says_what_ends_when(world: World) -> None:
    content = await world.granted()
    await world.drafted(case_number="26-CF-999", still=ORIGINAL)
    first, second = listed(world)
    assert (first.number, second.number) == (CASE, "26-CF-999")
    assert first.commitment == content.case_commitment.hex()
    ends = (content.expires + timedelta(days=365)).strftime("%Y-%m-%d")
    assert first.searches[0].picture.startswith(f"kept until {ends}")
    assert CASE not in repr(first)
    world.clock.pass_by(days=400)
    assert listed(world)[0].searches[0].picture.startswith("due since ")
    await pass_by(world, timedelta(0))
    assert listed(world)[0].searches[0].picture.startswith("destroyed at ")


async def test_searches_of_before_are_given_their_case(world: World) -> None:
    """A store of the version before: its searches are in no case until somebody asks."""
    await world.granted()
    node = world.nodes[NORTHPORT]
    (before,) = node.rows(cases)
    with node.engine.begin() as connection:
        connection.execute(delete(cases))
        connection.execute(delete(case_searches))
    assert [one.number for one in listed(world)] == [CASE]
    (after,) = node.rows(cases)
    assert (after.case_tag, after.case_commitment) == (before.case_tag, before.case_commitment)
    assert json.loads(json.dumps(listed(world)[0].held_since)) == ""
