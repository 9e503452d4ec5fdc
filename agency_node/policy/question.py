"""A search as Cedar is asked about it: request and agencies in Cedar's JSON, made once for all packs that are asked.

Invariants: every word comes from `PolicyInputs` unchanged; what Cedar cannot evaluate comes back as an error and never as an answer.
Left to others: what follows from the answer (`engine`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import cedarpy

from agency_node.policy.inputs import AgencyFacts, PolicyInputs
from crypto.canonical import JsonValue
from crypto.grant_basis import Offence


class Question:
    """One search as Cedar is asked about it: made once, put to every pack."""

    def __init__(self, inputs: PolicyInputs) -> None:
        self.inputs = inputs
        self.request = _request(inputs)
        self._agencies = frozenset((inputs.requesting, inputs.originating, inputs.holder))

    def entities(self, schema: cedarpy.Schema) -> cedarpy.Entities:
        """The agencies under that schema; `ValueError` when they do not fit it."""
        return _entities(self._agencies, schema)

    def put(self, policies: cedarpy.PolicySet, schema: cedarpy.Schema) -> tuple[bool, Sequence[str], Sequence[str]]:
        """Cedar's answer: allowed, the policies that decided, and what kept it from deciding."""
        try:
            answer = cedarpy.is_authorized(self.request, policies, self.entities(schema), schema)
        except (ValueError, TypeError) as error:
            return False, (), (str(error),)
        errors = list(answer.diagnostics.errors)
        if answer.decision is cedarpy.Decision.NoDecision and not errors:
            errors = ["no decision"]
        return answer.allowed, answer.diagnostics.reasons, errors


def sample_inputs(offence: Offence | None) -> PolicyInputs:
    """A search of no account, by which a pack is tried when it is loaded."""
    agency = AgencyFacts("any-agency", "local", "any")
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return PolicyInputs(agency, agency, agency, "criminal_investigation", "warrant", offence, "none", "recorded_video_still", 20, 1, when)


def _request(inputs: PolicyInputs) -> dict[str, Any]:
    """Its context as text, which Cedar's library would else write again for every pack."""
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
        "context": json.dumps(context),
    }


@functools.lru_cache(maxsize=256)
def _entities(agencies: frozenset[AgencyFacts], schema: cedarpy.Schema) -> cedarpy.Entities:
    """Kept, because a roster's agencies are the same in one search after the other; the facts themselves are what they are kept under."""
    # One agency may stand in all three places; told twice with unlike facts, it is refused by Cedar.
    told = [
        {"uid": _uid(agency), "attrs": {"class": agency.agency_class, "jurisdiction": agency.jurisdiction}, "parents": []}
        for agency in sorted(agencies, key=lambda agency: (agency.agency_id, agency.agency_class, agency.jurisdiction))
    ]
    return cedarpy.Entities.from_json_str(json.dumps(told), schema)


def _moment(text: JsonValue) -> dict[str, Any]:
    """A moment or day as Cedar's extension type; a day is its first moment, in UTC."""
    return {"__extn": {"fn": "datetime", "arg": text}}


def _uid(agency: AgencyFacts) -> dict[str, str]:
    return {"type": "Agency", "id": agency.agency_id}
