"""What takes too long for every run: every process killed at every step, and the demonstration with many seeds and as a process, twice."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from agency_node.demo.federation import HOLDERS
from agency_node.demo.story import run_demo
from agency_node.journal import stamp
from crypto.entries import EntryKind
from tests.federation_fixture import World, running, world
from tests.test_end_to_end import check_demo, run_demo_process
from tests.test_killed import MARGIN_S, STEPS, VICTIMS, check_completed_once, run_killed, start_again

__all__ = ["running", "world"]

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_every_process_killed_at_every_step(world: World, victim: str, step: str) -> None:
    check_completed_once(world, run_killed(world, ((victim, step),)))


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_that_stays_away_past_the_deadline_leaves_a_clear_end(world: World, victim: str) -> None:
    """What came too late is missing and named; the search ends all the same as soon as the process is back."""
    search_id = world.search(answer_within_s=10)
    step = STEPS["answered"]
    world.until(partial(world.ask, step.where, f"SELECT 1 {step.row}", search_id), step.name, every=0.001)
    world.federation.stop(victim, kill=True)
    deadline = world.status(search_id).deadline
    world.until(lambda: stamp(datetime.now(UTC)) > deadline, "the deadline")
    start_again(world, victim)
    status = world.wait_ended(search_id, MARGIN_S)
    assert status.state == "released"
    assert {one["state"] for one in status.holders.values()} <= {"answered", "silent"}
    answered = {holder for holder, one in status.holders.items() if one["state"] == "answered"}
    assert {one.agency for one in world.shown(search_id)} <= answered
    entries = world.entries(search_id)
    assert entries[EntryKind.RELEASE, ""] == 1
    assert all(entries[EntryKind.ANSWER, holder] <= 1 for holder in HOLDERS)


@pytest.mark.parametrize("seed", range(20))
def test_every_seed_finds_the_person(tmp_path: Path, seed: int) -> None:
    federation, result = run_demo(tmp_path, seed=seed, cap=20, rate=1000, records=3000, tell=lambda _: None)
    federation.close()
    assert result.ok, [name for name, held in result.checks.items() if not held]
    assert result.leads[0]["rank"] == 1
    assert result.leads[0]["agency"] == {"astronaut": "eastfield-pd", "hopper": "lakeside-sheriff"}[result.sought]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_demonstration_as_it_is_typed(seed: int) -> None:
    check_demo(run_demo_process("--seed", str(seed)), seed)
