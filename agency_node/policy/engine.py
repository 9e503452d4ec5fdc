"""Decides whether a pack of policies allows a search, and by which policy, so that a person can be told the rule and the next lawful step.

Invariants: unknown means no. A search is allowed only if Cedar said Allow and evaluated *every* policy: Cedar leaves a policy out that
fails while it is evaluated (a missing entity, an overflow), so an Allow beside an error may stand there because a forbid was left out. All
packs must allow; those that refuse decide (the most restrictive wins). Every decision names at least one policy and its rule's number.

Several packs that speak one schema are asked together: their policies in one set, each under its pack's number and as a permit, so that
Cedar names in one answer every policy that is met; four packs cost little more than one. A pack allows if something permits and nothing
forbids. What they answer together is what each answers alone, where Cedar itself weighs; a test compares the two.

Left to others: reading packs (`pack_folder`), what is decided upon (`inputs`), which packs a party asks (`deciding`), storing decisions
(`decisions`).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final, Protocol, Self

import cedarpy

from agency_node.errors import ConfigError
from agency_node.policy.inputs import AgencyFacts, PolicyInputs
from agency_node.policy.pack_folder import (
    DEFAULT_PACK,
    SCHEMA_FILE,
    PackClocks,
    PackContent,
    PackOpenings,
    PackProbe,
    PackQuality,
    PackRetention,
    find_pack,
    read_pack,
)
from agency_node.policy.question import Question, sample_inputs
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
    "Question",
    "answer_together",
    "decide_all",
    "load_packs",
]

_COMBINED_LABEL: Final = b"sealmatch-1/policy-packs\n"


@dataclass(frozen=True)
class Ground:
    """One policy that decided: its id, the number of its rule, the sentence for a person, and the next lawful step.

    `pack` is the pack's name, `section` and `evidence` what the rule rests on there; empty for what is no pack's.
    """

    policy: str
    rule: int
    sentence: str
    step: str
    pack: str = ""
    section: str = ""
    evidence: tuple[str, ...] = ()


NOTHING_PERMITS: Final = Ground(
    "nothing-permits",
    998,
    "No policy of this agency permits such a search.",
    "Ask the agency's legal office what its policy permits, and draft a new search within it.",
)
"""Refused because no policy said yes; none said no either."""
NO_DECISION: Final = Ground(
    "no-decision",
    999,
    "The agency's policy could not be evaluated for this search, and that counts as no.",
    "Ask the agency's operator to mend the policy pack, then draft the search anew.",
)
"""Refused because Cedar could not decide, or had to leave a policy out."""


@dataclass(frozen=True)
class Decision:
    """What was decided, and what decided it: the policies that permitted, or all that refused, in order of their rules.

    `pack_sha256` is the pack's, or of several packs together, and `packs` names each of them with its own hash; with `inputs_sha256` the
    decision can be made again and compared.
    """

    allowed: bool
    grounds: tuple[Ground, ...]
    pack_sha256: bytes = field(repr=False)
    inputs_sha256: bytes = field(repr=False)
    packs: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

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
            policy_id: Ground(policy_id, facts.rule, facts.sentence, facts.step, content.facts.name, facts.section, tuple(facts.evidence))
            for policy_id, facts in content.facts.policies.items()
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The pack in `folder`; `ConfigError` with file and line for one that is broken or does not fit the questions asked here."""
        pack = cls(read_pack(folder))
        for offence in (None, Offence("any", "09A")):
            errors = Question(sample_inputs(offence)).put(pack._content.policies, pack.schema)[2]
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
    def evidence(self) -> tuple[str, ...]:
        """The tags of what it rests on, as in `pack.toml`."""
        return tuple(self._content.facts.evidence)

    @property
    def source(self) -> str:
        """What was read, as in `pack.toml`."""
        return self._content.facts.source

    @property
    def notice(self) -> str:
        """That it is our reading and not legal advice, and what was left out of it."""
        return self._content.facts.notice

    @property
    def binds(self) -> tuple[str, ...]:
        """What the jurisdictions begin with whose agencies it binds at every party; empty for a pack that binds who names it."""
        return tuple(self._content.facts.binds)

    def binds_one_of(self, inputs: PolicyInputs) -> bool:
        """Whether an agency of the search is of a jurisdiction that the pack binds, wherever it stands in it."""
        agencies = (inputs.requesting, inputs.originating, inputs.holder)
        return any(self.binds_jurisdiction(agency.jurisdiction) for agency in agencies)

    @property
    def clocks(self) -> PackClocks:
        """How long what the pack allows holds without more."""
        return self._content.facts.clocks

    @property
    def openings(self) -> PackOpenings:
        """When everybody may read what entries of the log commit to."""
        return self._content.facts.openings

    @property
    def quality(self) -> PackQuality:
        """How good a still must be."""
        return self._content.facts.quality

    @property
    def probe(self) -> PackProbe:
        """What a still may have been through."""
        return self._content.facts.probe

    @property
    def retention(self) -> PackRetention:
        """How long a requester keeps what a search brought."""
        return self._content.facts.retention

    def binds_jurisdiction(self, jurisdiction: str) -> bool:
        """Whether it binds agencies of this jurisdiction, whatever they name."""
        return bool(self.binds) and jurisdiction.startswith(self.binds)

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
        static = {name: policy for name, policy in content.static.items() if name != left_out}
        return type(self)(replace(content, policies=_policy_set(static), static=static))

    def decide(self, inputs: PolicyInputs) -> Decision:
        """Whether the pack allows the search; what cannot be evaluated is refused as `no-decision`."""
        return self.answer(Question(inputs))

    def answer(self, question: Question) -> Decision:
        """As `decide`, of a question that other packs are asked too."""
        allowed, reasons, errors = question.put(self._content.policies, self._content.schema)
        if errors:
            return self._decision(question, False, (replace(NO_DECISION, pack=self.name),))
        return self.concluded(question, allowed, reasons)

    def concluded(self, question: Question, allowed: bool, reasons: Iterable[str]) -> Decision:
        """The decision that follows when Cedar evaluated every policy, and these, by Cedar's names, decided."""
        decided = [self._grounds[self._content.policy_ids[reason]] for reason in reasons]
        if not decided:
            return self._decision(question, False, (replace(NOTHING_PERMITS, pack=self.name),))
        return self._decision(question, allowed, tuple(sorted(decided, key=lambda ground: (ground.rule, ground.policy))))

    def _decision(self, question: Question, allowed: bool, grounds: tuple[Ground, ...]) -> Decision:
        return Decision(allowed, grounds, self.sha256, question.inputs.sha256, ((self.name, self.sha256),))

    @property
    def schema(self) -> cedarpy.Schema:
        """The words that it uses; packs with one schema can be asked together."""
        return self._content.schema

    @property
    def static(self) -> Mapping[str, Any]:
        """Its policies as Cedar writes them in JSON, by Cedar's names."""
        return self._content.static

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
    asked = list(packs)
    cedar = tuple(pack for pack in asked if isinstance(pack, PolicyPack))
    decisions = answer_together(cedar, Question(inputs)) if cedar else []
    decisions += [pack.decide(inputs) for pack in asked if not isinstance(pack, PolicyPack)]
    if len(decisions) == 1:
        return decisions[0]
    refused = [decision for decision in decisions if not decision.allowed]
    grounds = {ground for decision in refused or decisions for ground in decision.grounds} or {NOTHING_PERMITS}
    combined = hashlib.sha256(_COMBINED_LABEL + b"".join(sorted(decision.pack_sha256 for decision in decisions))).digest()
    return Decision(
        bool(decisions) and not refused,
        tuple(sorted(grounds, key=lambda ground: (ground.rule, ground.policy, ground.sentence, ground.pack))),
        combined,
        inputs.sha256,
        tuple(sorted({pack for decision in decisions for pack in decision.packs})),
    )


def answer_together(packs: tuple[PolicyPack, ...], question: Question) -> list[Decision]:
    """What each of these packs answers, in their order: asked as one set of policies where that says the same."""
    if len(packs) < 2 or len({id(pack.schema) for pack in packs}) > 1:
        return [pack.answer(question) for pack in packs]
    merged = _merged(packs)
    _, met, errors = question.put(merged.policies, packs[0].schema)
    if errors:  # it is one pack's affair, and the others' answers stand
        return [pack.answer(question) for pack in packs]
    return [
        pack.concluded(question, not forbidding, forbidding or permitting)
        for pack, (forbidding, permitting) in zip(packs, merged.by_pack(met), strict=True)
    ]


@dataclass(frozen=True)
class _Merged:
    """Several packs' policies in one set, each as a permit, so that Cedar names every policy whose conditions are met, and not only those
    that decided: which of them forbid is known here. A policy's name is its pack's number and its name there."""

    packs: int
    policies: cedarpy.PolicySet
    forbids: frozenset[str]

    def by_pack(self, met: Iterable[str]) -> list[tuple[list[str], list[str]]]:
        """The names within each pack: those that forbid and those that permit."""
        found: list[tuple[list[str], list[str]]] = [([], []) for _ in range(self.packs)]
        for policy in met:
            number, _, name = policy.partition("/")
            found[int(number)][policy not in self.forbids].append(name)
        return found


@functools.lru_cache(maxsize=64)
def _merged(packs: tuple[PolicyPack, ...]) -> _Merged:
    together = {f"{number}/{name}": policy for number, pack in enumerate(packs) for name, policy in pack.static.items()}
    forbids = frozenset(name for name, policy in together.items() if policy["effect"] == "forbid")
    return _Merged(len(packs), _policy_set({name: {**policy, "effect": "permit"} for name, policy in together.items()}), forbids)


def _policy_set(static: Mapping[str, Any]) -> cedarpy.PolicySet:
    return cedarpy.PolicySet.from_json_str(json.dumps({"staticPolicies": dict(static), "templates": {}, "templateLinks": []}))
