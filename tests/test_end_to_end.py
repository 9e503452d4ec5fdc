"""Whole searches through a federation of real processes: who is found, how many are shown, who is missing, who said no.

Stills and galleries are the demonstration's, smaller; the test knows every enrolled record's cosine and predicts the leads from the grant's
cap and rate alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from functools import partial

import pytest

from agency_node.demo.attacker import TakenOut
from agency_node.demo.federation import BOARD, EASTFIELD, EASTFIELD_COUNSEL, HOLDERS, LAKESIDE, NORTHPORT
from agency_node.demo.gallery import NEAR_MISSES, RIVALS
from agency_node.demo.story import THEFT
from agency_node.errors import PolicyRefusedError
from agency_node.holder.decision import decide_disclosure
from agency_node.requester.leads import ask_for, list_disclosed
from crypto.canonical import AgencyId, SearchId
from crypto.entries import EntryKind
from crypto.message_types import MessageType
from crypto.release import Band
from tests.federation_fixture import RATE, World, running, world

__all__ = ["running", "world"]

PERSON = "E-2019-004417"
MARGIN = 0.008
"""No record may lie nearer to a threshold than this: rounding to 8 bits and the answer's noise move a score by about 0.003."""

GENEROUS = 20_000
"""A rate at which every near miss is shown, and fillers still hardly ever are."""
STRICT = 1
ALONE = RATE // 2
"""The rate at which one gallery has the threshold that two have at `RATE`: far from every planted record."""


def above(world: World, threshold: float, *holders: AgencyId) -> set[tuple[AgencyId, str]]:
    """The records that the astronaut's still must show at this threshold, by what was planted."""
    planted = world.planted["astronaut"]
    assert min(abs(cosine - threshold) for holder in holders for cosine in planted[holder].values()) > MARGIN
    return {(holder, number) for holder in holders for number, cosine in planted[holder].items() if cosine >= threshold}


def found(world: World, search_id: SearchId) -> set[tuple[AgencyId, str]]:
    return {(one.agency, one.record_number) for one in world.shown(search_id)}


def test_the_person_is_found_and_disclosed_and_the_log_counts_it(world: World) -> None:
    search_id = world.search()
    status = world.wait_ended(search_id)
    assert status.state == "released"
    assert {holder: one["state"] for holder, one in status.holders.items()} == dict.fromkeys(HOLDERS, "answered")
    first, *others = world.shown(search_id)
    assert (first.rank, first.agency, first.record_number) == (1, EASTFIELD, PERSON)
    assert world.leads(search_id)[0].band is Band.STRONG
    assert {(one.agency, one.record_number) for one in (first, *others)} == above(world, world.threshold(2), *HOLDERS)
    assert len(others) == RIVALS

    node, theirs = world.node(NORTHPORT), world.node(EASTFIELD)
    lead = ask_for(node.engine, node.vault, search_id, 1, datetime.now(UTC))
    asked = "SELECT 1 FROM disclosure_requests WHERE handle = ?"
    world.until(lambda: world.ask(EASTFIELD, asked, lead.handle), "the request at the holder")
    counsel = world.federation.person(EASTFIELD_COUNSEL)
    decide_disclosure(theirs.engine, theirs.parties, EASTFIELD, lead.handle, counsel, datetime.now(UTC), grant=True)
    shown = "SELECT 1 FROM disclosures WHERE search_id = ? AND outcome = 'disclosed'"
    world.until(lambda: world.ask(NORTHPORT, shown, search_id), "the disclosure")
    (record,) = list_disclosed(node.engine, node.vault, search_id)
    assert (record.agency, record.record_number, record.photograph) == (EASTFIELD, PERSON, world.pictures["astronaut"].jpeg)

    per_holder = (EntryKind.ANSWER, EntryKind.OPENED_SCORES, EntryKind.DISCLOSURE)  # one of the disclosures is a dummy's
    expected: Counter[tuple[EntryKind, str]] = Counter({(kind, str(holder)): 1 for kind in per_holder for holder in HOLDERS})
    expected.update({(EntryKind.GRANT, ""): 1, (EntryKind.RELEASE, ""): 1})
    world.until(lambda: world.entries(search_id) == expected, "every entry of this search, and no other")
    report = world.verify_log()
    assert report.witnesses >= 2
    assert sum(report.kinds.values()) == report.size >= sum(expected.values())
    for kind in EntryKind:
        assert report.kinds.get(kind.value, 0) >= sum(count for (one, _), count in expected.items() if one is kind)


def test_cap_and_rate_decide_how_many_are_shown(world: World) -> None:
    wide, strict, one = world.search(rate=GENEROUS, cap=50), world.search(rate=STRICT), world.search(cap=1)
    for search_id in (wide, strict, one):
        assert world.wait_ended(search_id).state == "released"
        assert world.shown(search_id)[0].record_number == PERSON
    near = above(world, world.threshold(2, GENEROUS), *HOLDERS)
    assert len(near) >= 1 + RIVALS + NEAR_MISSES
    assert found(world, wide) == near
    assert found(world, strict) == above(world, world.threshold(2, STRICT), *HOLDERS) == {(EASTFIELD, PERSON)}
    assert found(world, one) == {(EASTFIELD, PERSON)}
    assert len(above(world, world.threshold(2, RATE), *HOLDERS)) > 1  # it was the cap that left the rivals out


def test_the_cap_cuts_over_all_holders_together(world: World) -> None:
    search_id = world.search(rate=GENEROUS, cap=20)
    world.wait_ended(search_id)
    shown = world.shown(search_id)
    assert [one.rank for one in world.leads(search_id)] == list(range(1, 21))
    everything = {(holder, number): cosine for holder in HOLDERS for number, cosine in world.planted["astronaut"][holder].items()}
    left_out = above(world, world.threshold(2, GENEROUS), *HOLDERS) - found(world, search_id)
    assert left_out
    lowest = min(everything[one.agency, one.record_number] for one in shown)
    assert max(everything[one] for one in left_out) < lowest + MARGIN  # the best twenty, but for the noise of a score


def test_a_policy_that_denies_is_told_with_its_rule(world: World) -> None:
    """By the requester's own node before it is signed, and where that was taken out, by every other party."""
    with pytest.raises(PolicyRefusedError, match="R1"):
        world.search(offence=THEFT)
    search_id = world.search(offence=THEFT, packs=[TakenOut()])
    world.until(lambda: {one["state"] for one in world.status(search_id).holders.values()} == {"refused"}, "every refusal")
    status = world.wait_ended(search_id)
    assert (status.state, "rule R1" in status.note) == ("refused", True)
    for holder in HOLDERS:
        assert status.holders[holder]["state"] == "refused"
        assert "rule R1" in status.holders[holder]["note"]
        assert world.ask(holder, "SELECT allowed, rules FROM decisions WHERE search_id = ?", search_id) == [(0, "1")]
        assert not world.ask(holder, "SELECT state FROM answers WHERE search_id = ?", search_id)
        assert world.messages(holder, MessageType.ANSWER, search_id) == []
    assert not world.ask(BOARD, "SELECT note FROM custody WHERE search_id = ?", search_id)
    assert world.ask(BOARD, "SELECT state FROM held_grants WHERE search_id = ?", search_id) == [("refused",)]
    assert world.ask(BOARD, "SELECT holder, allowed, rules FROM decisions WHERE search_id = ?", search_id) == [
        (holder, 0, "1") for holder in HOLDERS
    ]
    refusing = (*HOLDERS, BOARD)
    world.until(lambda: all(world.entries(search_id)[EntryKind.REFUSAL, one] == 1 for one in refusing), "every refusal's entry")


def test_the_own_gallery_is_searched_under_a_grant_like_any_other(world: World) -> None:
    search_id = world.search(still="hopper", holders=[LAKESIDE, NORTHPORT])
    status = world.wait_ended(search_id)
    assert {holder: one["state"] for holder, one in status.holders.items()} == {LAKESIDE: "answered", NORTHPORT: "answered"}
    assert {(one.agency, one.record_number) for one in world.shown(search_id)} == {
        (LAKESIDE, "L-2021-000093"),
        (NORTHPORT, "N-2024-000001"),
    }
    entries = world.entries(search_id)
    assert [entries[kind, NORTHPORT] for kind in (EntryKind.ANSWER, EntryKind.OPENED_SCORES)] == [1, 1]
    decided = "SELECT place, holder, allowed FROM decisions WHERE search_id = ? ORDER BY number"
    as_requester = [("requesting", holder, 1) for holder in (LAKESIDE, NORTHPORT)]
    assert world.ask(NORTHPORT, decided, search_id) == [*as_requester, ("holding", NORTHPORT, 1)]
    assert world.messages(NORTHPORT, MessageType.ANSWER, search_id) == []  # what stays in the house does not pass the broker
    assert len(world.messages(NORTHPORT, MessageType.MASK_SHARE, search_id)) == 1  # the custodian unmasks it all the same


def test_who_is_late_is_named_silent_and_changes_nothing_afterwards(world: World) -> None:
    """Two searches that end at their deadlines without one holder: in one it had answered and not sent, in the other it was away."""
    unsent = _answered_but_not_sent(world)
    away = world.search(rate=ALONE, answer_within_s=8)
    before = {}
    for search_id in (unsent, away):
        status = world.wait_ended(search_id)
        assert status.state == "released"
        assert {holder: one["state"] for holder, one in status.holders.items()} == {EASTFIELD: "answered", LAKESIDE: "silent"}
        assert found(world, search_id) == above(world, world.threshold(1, ALONE), EASTFIELD)  # of the one gallery that answered
        before[search_id] = status, world.leads(search_id)

    world.federation.start(LAKESIDE)
    late = "late mask-share from lakeside-sheriff"
    world.until(lambda: late in world.journal(BOARD, unsent), "the custodian's refusal of the late share")
    ready = "SELECT count(*) FROM outbox WHERE state = 'ready'"
    world.until(lambda: world.ask(LAKESIDE, ready) == [(0,)], "an empty outbox at the holder")
    world.until(lambda: world.entries(unsent)[EntryKind.REFUSAL, BOARD] == 1, "the custodian's entry of the late share")
    told = "SELECT sender FROM inbox WHERE search_id = ? AND message_type = 'refusal' ORDER BY sender"
    world.until(lambda: world.ask(LAKESIDE, told, unsent) == [(BOARD,), (NORTHPORT,)], "both refusals at the holder")
    assert "refused mask-share late" in world.journal(BOARD, unsent)
    assert "refused answer late" in world.journal(NORTHPORT, unsent)
    assert not world.ask(BOARD, "SELECT 1 FROM custody_parts WHERE search_id = ? AND holder = ?", unsent, LAKESIDE)

    world.until(lambda: "refused probe late" in world.journal(LAKESIDE, away), "the holder's refusal of the late probe")
    refused = "SELECT 1 FROM inbox WHERE search_id = ? AND message_type = 'refusal' AND sender = ? AND state = 'done'"
    world.until(lambda: world.ask(NORTHPORT, refused, away, LAKESIDE), "the holder's word at the requester")
    assert not world.ask(LAKESIDE, "SELECT state FROM answers WHERE search_id = ?", away)
    for search_id, seen in before.items():
        assert (world.status(search_id), world.leads(search_id)) == seen


def _answered_but_not_sent(world: World) -> SearchId:
    """A search whose second holder is killed between storing its answer and sending it; whoever was too slow to hit that tries again."""
    answered = "SELECT 1 FROM answers WHERE search_id = ? AND state = 'answered'"
    unsent = "SELECT name FROM outbox WHERE search_id = ? AND kind = 'message' AND state = 'ready' ORDER BY number"
    for _ in range(4):
        search_id = world.search(rate=ALONE, answer_within_s=10)
        world.until(partial(world.ask, LAKESIDE, answered, search_id), "the answer", every=0.002)
        world.federation.stop(LAKESIDE, kill=True)
        if world.ask(LAKESIDE, unsent, search_id)[:2] == [("mask-share",), ("answer",)]:
            return search_id
        world.federation.start(LAKESIDE)
        world.wait_ended(search_id)
    raise AssertionError("the holder was never caught between answering and sending")


def run_demo_process(*arguments: str) -> dict[str, object]:
    """`sealmatch demo --json` as a process: what it printed."""
    done = subprocess.run(  # noqa: S603  # our own program
        [sys.executable, "-m", "agency_node.cli", "demo", "--json", *arguments],
        capture_output=True,
        check=False,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-2000:]
    return dict(json.loads(done.stdout))


def check_demo(shown: dict[str, object], seed: int) -> None:
    """The documented fields of `sealmatch demo --json`."""
    assert shown["ok"] is True
    assert shown["seed"] == seed
    home = {"astronaut": EASTFIELD, "hopper": LAKESIDE}[str(shown["sought"])]
    leads = shown["leads"]
    assert isinstance(leads, list)
    assert [one["rank"] for one in leads] == list(range(1, len(leads) + 1))
    assert leads[0]["agency"] == home
    assert leads[0]["band"] == "strong"
    for one in leads:
        assert set(one) == {"rank", "band", "agency", "handle"}
        assert one["band"] in {band.name.lower() for band in Band}
        assert one["agency"] in HOLDERS
        assert len(bytes.fromhex(one["handle"])) == 16
    disclosed = shown["disclosed"]
    assert isinstance(disclosed, dict)
    assert disclosed == {
        "agency": home,
        "handle": leads[0]["handle"],
        "record_number": {EASTFIELD: PERSON, LAKESIDE: "L-2021-000093"}[home],
    }
    refused = shown["refused"]
    assert isinstance(refused, list)
    assert all(one["case"] and one["by"] and one["reason"] and one["rule"] for one in refused)
    assert [(one["by"], one["rule"]) for one in refused] == [
        ("broker", "R76"),
        (NORTHPORT, "R5"),
        ("broker", "R5"),
        (NORTHPORT, "R1"),
        *((holder, "R1") for holder in HOLDERS),
    ]
    law = shown["law"]
    assert isinstance(law, list)
    assert [one["what"] for one in law] == [
        "a grant narrowed by its reviewer",
        "a grant taken back half-way",
        "a case of milwaukee-pd, under a moratorium, asked by northport-pd",
        "an exigent grant that nobody ratified",
        "the log, verified from files alone",
    ]
    views, seconds = shown["views"], shown["seconds"]
    assert isinstance(views, dict)
    assert isinstance(seconds, dict)
    assert set(views) == {"broker-vendor", NORTHPORT, EASTFIELD, LAKESIDE, BOARD}
    assert views["broker-vendor"]["opened"] == {}
    assert all(one["opened_against_expectation"] == 0 and one["found_in_plain"] == [] for one in views.values())
    assert {"set-up", "start", "enrol", "ready", "review", "search", "disclosure", "views"} <= set(seconds)
    assert all(value >= 0 for value in seconds.values())


def test_the_demonstration_as_a_process() -> None:
    check_demo(run_demo_process("--seed", "1", "--records", "2000"), 1)
