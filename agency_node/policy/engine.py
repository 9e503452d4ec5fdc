"""Decides whether a pack of policies allows a search, and by which policy, so that a person can be told the rule and the next lawful step.

Invariants: unknown means no. A search is allowed only if Cedar said Allow and evaluated *every* policy: Cedar leaves a policy out that
fails while it is evaluated (a missing entity, an overflow), so an Allow beside an error may stand there because a forbid was left out. All
packs must allow; those that refuse decide (the most restrictive wins). Every decision names at least one policy and its rule's number.

Left to others: reading packs (`pack_folder`), what is decided upon (`inputs`), storing decisions and answering (`holder`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, Protocol, Self

import cedarpy

from agency_node.errors import ConfigError
from agency_node.policy.inputs import AgencyFacts, PolicyInputs
from agency_node.policy.pack_folder import DEFAULT_PACK, SCHEMA_FILE, PackClocks, PackContent, PackQuality, find_pack, read_pack
from crypto.canonical import JsonValue
from crypto.grant_basis import Offence

__all__ = [
    "NOTHING_PERMITS",
    "NO_DECISION",
    "AgencyFacts",
    "Decision",
    "Ground",
    "PolicyEngine",
    "PolicyInputs",
    "PolicyPack",
    "decide_all",
    "load_packs",
]

_COMBINED_LABEL: Final = b"sealmatch-1/policy-packs\n"


@dataclass(frozen=True)
class Ground:
    """One policy that decided: its id, the number of its rule, the sentence for a person, and the next lawful step."""

    policy: str
    rule: int
    sentence: str
    step: str


NOTHING_PERMITS: Final = Ground(
    "nothing-permits",
    998,
    "No policy of this holder permits such a search.",
    "Ask the holder's legal office what its policy permits, and draft a new search within it.",
)
"""Refused because no policy said yes; none said no either."""
NO_DECISION: Final = Ground(
    "no-decision",
    999,
    "The holder's policy could not be evaluated for this search, and that counts as no.",
    "Ask the holder's operator to mend the policy pack, then draft the search anew.",
)
"""Refused because Cedar could not decide, or had to leave a policy out."""


@dataclass(frozen=True)
class Decision:
    """What was decided, and what decided it: the policies that permitted, or all that refused, in order of their rules.

    `pack_sha256` is the pack's, or of several packs together; with `inputs_sha256` the decision can be made again and compared.
    """

    allowed: bool
    grounds: tuple[Ground, ...]
    pack_sha256: bytes = field(repr=False)
    inputs_sha256: bytes = field(repr=False)

    @property
    def policies(self) -> tuple[str, ...]:
        """The ids of the policies that decided."""
        return tuple(ground.policy for ground in self.grounds)

    @property
    def rules(self) -> tuple[int, ...]:
        """Their rules' numbers, in the same order; the first is the one to name in a refusal."""
        return tuple(ground.rule for ground in self.grounds)

    @property
    def sentences(self) -> tuple[str, ...]:
        """For a person: why."""
        return tuple(ground.sentence for ground in self.grounds)

    @property
    def steps(self) -> tuple[str, ...]:
        """For a person: the next lawful step."""
        return tuple(ground.step for ground in self.grounds)


class PolicyEngine(Protocol):
    """Anything that decides by inputs. It does not raise: what it cannot decide, it refuses."""

    @property
    def sha256(self) -> bytes:
        """32 bytes that name the rules in force, to the last letter."""

    def decide(self, inputs: PolicyInputs) -> Decision:
        """Allowed or not, and why."""


class PolicyPack:
    """A Cedar pack in memory. Build it with `load`."""

    def __init__(self, content: PackContent) -> None:
        self._content = content
        self._grounds = {
            policy_id: Ground(policy_id, facts.rule, facts.sentence, facts.step) for policy_id, facts in content.facts.policies.items()
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The pack in `folder`; `ConfigError` with file and line for one that is broken or does not fit the questions asked here."""
        pack = cls(read_pack(folder))
        for offence in (None, Offence("any", "09A")):
            errors = pack._ask(_sample(offence))[2]
            if errors:
                raise ConfigError(
                    f"policy pack {folder / SCHEMA_FILE}: the pack cannot answer what this node asks ({errors[0]}). "
                    f"Take over the schema of the pack {DEFAULT_PACK}, or a pack made for this version"
                )
        return pack

    @property
    def name(self) -> str:
        """As in `pack.toml`."""
        return self._content.facts.name

    @property
    def title(self) -> str:
        """For a person, as in `pack.toml`."""
        return self._content.facts.title

    @property
    def alone(self) -> bool:
        """Whether it says for which offences and on which legal basis; False for a pack that only adds to one that does."""
        return self._content.facts.alone

    @property
    def verified(self) -> bool:
        """Whether an agency's counsel has signed for it; False is shown to everybody."""
        return self._content.facts.verified

    @property
    def review_by(self) -> date:
        """When somebody has to read law and pack again."""
        return self._content.facts.review_by

    @property
    def clocks(self) -> PackClocks:
        """How long what the pack allows holds without more."""
        return self._content.facts.clocks

    @property
    def quality(self) -> PackQuality:
        """How good a still must be."""
        return self._content.facts.quality

    @property
    def sha256(self) -> bytes:
        """Over all files of the pack, 32 bytes."""
        return self._content.sha256

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Every policy, in the order of the file."""
        return tuple(self._content.policy_ids.values())

    def ground(self, policy_id: str) -> Ground:
        """What people are told about one of its policies."""
        return self._grounds[policy_id]

    def without(self, policy_id: str) -> Self:
        """The same pack less one policy: what an example that needs it notices. Not for deciding about searches."""
        content = self._content
        (left_out,) = (name for name, own in content.policy_ids.items() if own == policy_id)
        parsed = json.loads(cedarpy.policies_to_json_str(content.policy_text))
        del parsed["staticPolicies"][left_out]
        return type(self)(replace(content, policies=cedarpy.PolicySet.from_json_str(json.dumps(parsed))))

    def decide(self, inputs: PolicyInputs) -> Decision:
        """Whether the pack allows the search; what cannot be evaluated is refused as `no-decision`."""
        allowed, reasons, errors = self._ask(inputs)
        grounds: tuple[Ground, ...]
        if errors:
            allowed, grounds = False, (NO_DECISION,)
        elif reasons:
            decided = (self._grounds[self._content.policy_ids[reason]] for reason in reasons)
            grounds = tuple(sorted(decided, key=lambda ground: (ground.rule, ground.policy)))
        else:
            allowed, grounds = False, (NOTHING_PERMITS,)
        return Decision(allowed, grounds, self.sha256, inputs.sha256)

    def _ask(self, inputs: PolicyInputs) -> tuple[bool, Sequence[str], Sequence[str]]:
        """Cedar's answer: allowed, the policies that decided, and what kept it from deciding."""
        schema = self._content.schema
        try:
            entities = cedarpy.Entities.from_json_str(json.dumps(_entities(inputs)), schema)
            answer = cedarpy.is_authorized(_request(inputs), self._content.policies, entities, schema)
        except (ValueError, TypeError) as error:
            return False, (), (str(error),)
        errors = list(answer.diagnostics.errors)
        if answer.decision is cedarpy.Decision.NoDecision and not errors:
            errors = ["no decision"]
        return answer.allowed, answer.diagnostics.reasons, errors

    def __repr__(self) -> str:
        return f"<PolicyPack {self.name} {self.sha256.hex()[:12]}>"


def load_packs(names: Sequence[str]) -> tuple[PolicyPack, ...]:
    """The packs of a node's configuration, in ascending order of hash; the strict default if none is named.

    A name such as `strict-default` is a pack that was delivered, anything with a slash is a folder. `ConfigError` for one named twice, and
    for packs of which none stands alone: such packs refuse some searches and let all others pass.
    """
    packs = sorted((PolicyPack.load(find_pack(name)) for name in names or (DEFAULT_PACK,)), key=lambda pack: pack.sha256)
    if len({pack.sha256 for pack in packs}) != len(packs):
        raise ConfigError("policy_packs in node.toml names one pack twice: take one of them out")
    if not any(pack.alone for pack in packs):
        raise ConfigError(
            f"policy_packs in node.toml names only packs that add to others ({', '.join(pack.name for pack in packs)}), "
            f"which say nothing of offences and legal bases: name your state's pack beside them, or {DEFAULT_PACK}"
        )
    return tuple(packs)


def decide_all(packs: Iterable[PolicyEngine], inputs: PolicyInputs) -> Decision:
    """Allowed if every pack allows; refused with the grounds of all that refuse. No pack at all permits nothing."""
    decisions = [pack.decide(inputs) for pack in packs]
    if len(decisions) == 1:
        return decisions[0]
    refused = [decision for decision in decisions if not decision.allowed]
    grounds = {ground for decision in refused or decisions for ground in decision.grounds} or {NOTHING_PERMITS}
    combined = hashlib.sha256(_COMBINED_LABEL + b"".join(sorted(decision.pack_sha256 for decision in decisions))).digest()
    return Decision(
        bool(decisions) and not refused,
        tuple(sorted(grounds, key=lambda ground: (ground.rule, ground.policy, ground.sentence))),
        combined,
        inputs.sha256,
    )


def _request(inputs: PolicyInputs) -> dict[str, Any]:
    context: dict[str, Any] = {
        "originating": {"__entity": _uid(inputs.originating)},
        "purpose": inputs.purpose,
        "basis": inputs.basis,
        "event": inputs.event,
        "probe_source": inputs.probe_source,
        "cap": inputs.cap,
        "reviewers": inputs.reviewers,
        "false_positives_per_million": inputs.false_positives_per_million,
        "place": inputs.place.value,
        "now": _moment(inputs.instant),
    }
    if inputs.order is not None:
        context["order"] = {name: _moment(day) for name, day in inputs.order.to_json().items()}
    if inputs.offence is not None:
        context["offence"] = inputs.offence.to_json()
    return {
        "principal": _uid(inputs.requesting),
        "action": 'Action::"search"',
        "resource": _uid(inputs.holder),
        "context": context,
    }


def _entities(inputs: PolicyInputs) -> list[dict[str, Any]]:
    # One agency may stand in all three places; told twice with unlike facts, it is refused by Cedar.
    agencies = {inputs.requesting, inputs.originating, inputs.holder}
    return [
        {"uid": _uid(agency), "attrs": {"class": agency.agency_class, "jurisdiction": agency.jurisdiction}, "parents": []}
        for agency in sorted(agencies, key=lambda agency: (agency.agency_id, agency.agency_class, agency.jurisdiction))
    ]


def _moment(text: JsonValue) -> dict[str, Any]:
    """A moment or day as Cedar's extension type; a day is its first moment, in UTC."""
    return {"__extn": {"fn": "datetime", "arg": text}}


def _uid(agency: AgencyFacts) -> dict[str, str]:
    return {"type": "Agency", "id": agency.agency_id}


def _sample(offence: Offence | None) -> PolicyInputs:
    agency = AgencyFacts("any-agency", "local", "any")
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return PolicyInputs(agency, agency, agency, "criminal_investigation", "warrant", offence, "none", "recorded_video_still", 20, 1, when)
