"""`sealmatch bench policy`: the time of one decision, of each delivered pack by itself and of all packs of a node together.

What is timed is what a node does for one holder: from the facts of a grant to the decision with its grounds and both hashes; packs are in
memory, as they are in a node that serves. The searches are the examples of the packs' own tables, in turn, each made anew, so that nothing
that was worked out for one is at hand for the next, but for the agencies' facts, which a node keeps as well. Invariants: every timed
decision is compared, a pack's with what its table expects, a node's with the strictest of what its packs answer alone; one that differs
ends the run without a figure.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final

from agency_node.bench.errors import WrongResultError
from agency_node.bench.machine import Machine
from agency_node.bench.progress import Steps
from agency_node.bench.timing import Timing
from agency_node.policy.engine import Decision, PolicyInputs, PolicyPack, decide_all, load_packs
from agency_node.policy.pack_folder import delivered_packs, find_pack
from agency_node.policy.scenarios import Scenario, read_scenarios

NODE_PACKS: Final = ("strict-default", "us-cjis-security", "us-wi-madison", "us-wi-milwaukee")
"""A holder in Wisconsin that names the security policy beside the strict default, in a search in which both bans are asked."""


@dataclass(frozen=True)
class PolicyPlan:
    """How many decisions of each, and the packs of the node."""

    decisions: int
    packs: tuple[str, ...]


@dataclass(frozen=True)
class PolicyResult:
    """Times of one decision by pack, and of the node's packs together."""

    plan: PolicyPlan
    date: datetime
    machine: Machine
    policies: dict[str, int]
    alone: dict[str, Timing]
    together: Timing

    def as_json(self) -> dict[str, object]:
        """For programs: one object."""
        return {
            "benchmark": "policy",
            "date": self.date.isoformat(timespec="seconds"),
            "decisions": self.plan.decisions,
            "checked": True,
            "packs": [{"pack": name, "policies": self.policies[name], **timing.as_json()} for name, timing in self.alone.items()],
            "node": {"packs": list(self.plan.packs), **self.together.as_json()},
            "machine": asdict(self.machine),
        }


def bench_policy(plan: PolicyPlan, now: datetime, steps: Steps) -> PolicyResult:
    """Measure. Raises `WrongResultError` instead of reporting the time of a wrong decision; `ConfigError` for packs that cannot be read."""
    alone: dict[str, Timing] = {}
    policies: dict[str, int] = {}
    for folder in delivered_packs():
        pack, examples = PolicyPack.load(folder), read_scenarios(folder)
        policies[pack.name] = len(pack.policy_ids)
        with steps.step(f"decisions of {pack.name}"):
            alone[pack.name] = _timed_by_table(pack, examples, plan.decisions)
    packs = load_packs(plan.packs)
    searches = [one.inputs for name in plan.packs for one in read_scenarios(find_pack(name))]
    with steps.step(f"decisions of {len(packs)} packs together"):
        together = _timed_together(packs, searches, plan.decisions)
    return PolicyResult(plan, now, Machine.here(), policies, alone, together)


def _timed_by_table(pack: PolicyPack, examples: Sequence[Scenario], count: int) -> Timing:
    def check(number: int, decision: Decision) -> None:
        expected = examples[number]
        if not expected.is_met_by(decision):
            where = f"{pack.name} does not answer line {expected.line} of its table as that says"
            raise WrongResultError(f"{where}: run `sealmatch policy test {pack.name}`")

    return _timed([one.inputs for one in examples], pack.decide, check, count)


def _timed_together(packs: tuple[PolicyPack, ...], searches: Sequence[PolicyInputs], count: int) -> Timing:
    alone = [[pack.decide(inputs) for pack in packs] for inputs in searches]

    def check(number: int, decision: Decision) -> None:
        refusing = [one for one in alone[number] if not one.allowed]
        grounds = {ground for one in refusing or alone[number] for ground in one.grounds}
        if (decision.allowed, set(decision.grounds)) != (not refusing, grounds):
            raise WrongResultError("packs that were asked together answer otherwise than each alone: please report this as a bug")

    return _timed(searches, lambda inputs: decide_all(packs, inputs), check, count)


def _timed(
    searches: Sequence[PolicyInputs], decide: Callable[[PolicyInputs], Decision], check: Callable[[int, Decision], None], count: int
) -> Timing:
    decide(searches[0])  # policies that are put together for the first time are not what is measured
    seconds = []
    for number in itertools.islice(itertools.cycle(range(len(searches))), count):
        inputs = replace(searches[number])
        started = time.perf_counter()
        decision = decide(inputs)
        seconds.append(time.perf_counter() - started)
        check(number, decision)
    return Timing(tuple(seconds))
