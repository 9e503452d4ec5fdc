"""Which packs a party of a search asks, and what the requester, the originator and a custodian do with the answers (R6, R7, R60).

Every party asks its own packs, those that its node.toml names, from its own place; and beside them each delivered pack that *binds* an
agency of the search by its jurisdiction, a ban or a moratorium, which says so in its pack.toml. So an agency under a ban is refused at
every party, directly and through a neighbour, whatever its own node or the neighbour's asks. All must allow, at every party: nobody's yes
lifts another's no, and the holder's own no is final.

Invariants: what a party decided is stored before it acts on it; a search of several holders is refused whole where it is drafted and where
it is released if one of them is refused, because leaving one out is another search. Left to others: the decision itself (`engine`), what is
stored of it (`decisions`), the holder's part (`holder.answering`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from agency_node.errors import PolicyRefusedError
from agency_node.policy.decisions import keep_decision
from agency_node.policy.engine import Decision, Ground, PolicyEngine, PolicyInputs, PolicyPack, decide_all, load_packs
from agency_node.policy.inputs import Place
from agency_node.policy.pack_folder import delivered_packs, read_binds
from agency_node.vault import Vault
from crypto.canonical import AgencyId
from crypto.grant_claims import GrantClaims
from crypto.roster import Roster


@functools.cache
def binding_packs() -> tuple[PolicyPack, ...]:
    """The delivered packs that bind agencies by their jurisdiction, whatever anybody names."""
    return tuple(PolicyPack.load(folder) for folder in delivered_packs() if read_binds(folder))


@functools.cache
def strict_default() -> tuple[PolicyPack, ...]:
    """The own packs of a party that names none."""
    return load_packs(())


def packs_for(own: Sequence[PolicyEngine], inputs: PolicyInputs) -> tuple[PolicyEngine, ...]:
    """A party's own packs and those that bind an agency of this search; a binding pack that it names itself is asked once."""
    named = {pack.sha256 for pack in own}
    return (*own, *(pack for pack in binding_packs() if pack.binds_one_of(inputs) and pack.sha256 not in named))


def packs_over(own: Sequence[PolicyPack], roster: Roster, agencies: Iterable[AgencyId]) -> tuple[PolicyPack, ...]:
    """A party's own packs and those that bind one of these agencies by its jurisdiction: whose limits and clocks count. An agency that the
    roster does not list binds nothing here; no search with it is granted."""
    listed = {one.agency_id: one.jurisdiction for one in roster.agencies}
    places = {listed[agency] for agency in agencies if agency in listed}
    named = {pack.sha256 for pack in own}
    binding = (pack for pack in binding_packs() if pack.sha256 not in named and any(map(pack.binds_jurisdiction, places)))
    return (*own, *binding)


@dataclass(frozen=True)
class HolderDecision:
    """What a party decided of a search at one holder."""

    holder: AgencyId
    inputs: PolicyInputs
    decision: Decision

    @property
    def refusal(self) -> str:
        """Why not, with the rule and the next lawful step of each policy that refuses, in one sentence each."""
        grounds = (f"R{one.rule} ({named(one.pack, one.policy)}): {one.sentence} Next: {one.step}" for one in self.decision.grounds)
        return f"{self.holder}: {' '.join(grounds)}"

    @property
    def told(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "holder": str(self.holder),
            "allowed": self.decision.allowed,
            "grounds": [told_ground(one) for one in self.decision.grounds],
        }


def told_ground(ground: Ground) -> dict[str, object]:
    """All that a policy says of itself: pack, id, rule, section, evidence, sentence, next lawful step."""
    return {
        "pack": ground.pack,
        "policy": ground.policy,
        "rule": f"R{ground.rule}",
        "section": ground.section,
        "evidence": list(ground.evidence),
        "sentence": ground.sentence,
        "next": ground.step,
    }


def named(pack: str, policy: str) -> str:
    """A policy by its pack's name and its own."""
    return f"{pack}/{policy}" if pack else policy


def decide_each(
    claims: GrantClaims, roster: Roster, own: Sequence[PolicyEngine], place: Place, now: datetime
) -> tuple[HolderDecision, ...]:
    """The decision of the party at `place` for each holder of a grant, in the grant's order."""
    found = []
    for holder in claims.holders:
        inputs = PolicyInputs.from_grant(claims, roster, holder, now, place)
        found.append(HolderDecision(holder, inputs, decide_all(packs_for(own, inputs), inputs)))
    return tuple(found)


def keep_each(connection: Connection, vault: Vault, claims: GrantClaims, decided: Sequence[HolderDecision], now: datetime) -> None:
    """Store what was decided, in the caller's transaction."""
    for one in decided:
        keep_decision(connection, vault, claims, one.inputs, one.decision, now)


def forecast(
    engine: Engine, vault: Vault, claims: GrantClaims, roster: Roster, own: Sequence[PolicyEngine], now: datetime
) -> tuple[HolderDecision, ...]:
    """What the requester's own and the binding packs say of a draft, for each holder, stored. Of holders' own packs it is a forecast only:
    they decide by what they name."""
    decided = decide_each(claims, roster, own, Place.REQUESTING, now)
    with engine.begin() as connection:
        keep_each(connection, vault, claims, decided, now)
    return decided


def check_policy(
    engine: Engine,
    vault: Vault,
    claims: GrantClaims,
    roster: Roster,
    own: Sequence[PolicyEngine] | None,
    place: Place,
    now: datetime,
) -> None:
    """Decide as the party at `place`, store it, and raise `PolicyRefusedError` if a holder is refused; without `own` by the strict default.

    Asked before legal staff sign: what a signature would let out is decided before it is given.
    """
    decided = decide_each(claims, roster, strict_default() if own is None else own, place, now)
    with engine.begin() as connection:
        keep_each(connection, vault, claims, decided, now)
    refused = [one.refusal for one in decided if not one.decision.allowed]
    if refused:
        raise PolicyRefusedError(f"policy refuses this search at {'; at '.join(refused)}")
