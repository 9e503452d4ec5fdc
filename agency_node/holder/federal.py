"""Federal access to a holder's gallery: a list of its own beside the packs, and the count that it states each month (R9).

Invariants: off unless `node.toml` lists a purpose under `[federal]`; packs and list must both allow, so that neither opens what the other
keeps shut; a query is federal if the agency that asks or the one whose case it is is. Who is federal, the roster says.

Left to others: the decision itself (`policy.engine`, `answering`), the statement's form and signature (`crypto.federal_statement`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Engine, distinct, func, select

from agency_node.config import NodeConfig, Role
from agency_node.errors import RequestError
from agency_node.policy.engine import Decision, Ground, PolicyInputs
from agency_node.policy.inputs import Place
from agency_node.store import reading
from agency_node.tables import decisions, ledger
from crypto.canonical import JsonValue, canonical_json
from crypto.epoch import Epoch
from crypto.federal_statement import FederalStatement
from crypto.grant_basis import Purpose
from crypto.keys import SigningKey
from crypto.moments import round_moment
from crypto.roster_entries import AgencyClass

FEDERAL: Final = AgencyClass.FEDERAL.value
ADMITTED: Final = Ground(
    "federal-purpose-listed",
    9,
    "This holder's own list admits federal agencies for this purpose.",
    "Nothing more is needed here; the policy packs decide for themselves.",
)
NOT_LISTED: Final = Ground(
    "federal-purpose-not-listed",
    9,
    "This holder answers no federal agency for this purpose: its own list does not name it.",
    "Ask the holder's legal office for a legal demand; who decides over its list is the holder's own government.",
)
GATE: Final = "federal-access"
"""Its name among the packs of a decision."""
_TYPE: Final = "sealmatch-1/federal-access"


@dataclass(frozen=True)
class FederalGate:
    """The holder's own list, as one more set of rules that must allow."""

    allow: frozenset[Purpose]

    @property
    def sha256(self) -> bytes:
        """Of the list's canonical JSON, 32 bytes."""
        listed: list[JsonValue] = [purpose.value for purpose in sorted(self.allow)]
        return hashlib.sha256(canonical_json({"type": _TYPE, "allow": listed})).digest()

    def decide(self, inputs: PolicyInputs) -> Decision:
        """Allowed if nobody federal asks, or if the purpose is listed."""
        allowed = not inputs.is_federal or inputs.purpose in {purpose.value for purpose in self.allow}
        ground = ADMITTED if allowed else NOT_LISTED
        return Decision(allowed, (ground,), self.sha256, inputs.sha256, ((GATE, self.sha256),))


def federal_gate(inputs: PolicyInputs, allow: Collection[Purpose]) -> tuple[FederalGate, ...]:
    """The gate, where a federal agency is in the search; other searches are the packs' alone."""
    return (FederalGate(frozenset(allow)),) if inputs.is_federal else ()


def make_statement(engine: Engine, config: NodeConfig, node_key: SigningKey, month: Epoch, now: datetime) -> bytes:
    """The signed statement of a month that is over; `RequestError` for another month, or when this node is no holder.

    Each search counts once, however often its grant came.
    """
    if Role.HOLDER not in config.roles:
        raise RequestError("this node is no holder: a statement is made where queries are answered")
    if month >= Epoch.at(now):
        raise RequestError(f"{month.month} is not over: state it from the first day of the next month")
    as_holder = decisions.c.place == Place.HOLDING.value  # this node may also ask, or be a custodian
    in_month = decisions.c.at.startswith(month.month) & (decisions.c.agency_class == FEDERAL) & as_holder
    federal = select(decisions.c.search_id).where(decisions.c.agency_class == FEDERAL, decisions.c.allowed == 1, as_holder)
    decided = select(func.count(distinct(decisions.c.search_id)))
    was_answered = ledger.c.at.startswith(month.month) & (ledger.c.event == "answered") & ledger.c.search_id.in_(federal)
    with reading(engine).begin() as connection:
        admitted = int(connection.execute(decided.where(in_month, decisions.c.allowed == 1)).scalar_one())
        refused = int(connection.execute(decided.where(in_month, decisions.c.allowed == 0)).scalar_one())
        answered = int(connection.execute(select(func.count(distinct(ledger.c.search_id))).where(was_answered)).scalar_one())
    purposes = tuple(sorted(config.federal.allow))
    statement = FederalStatement(config.agency_id, month, admitted, answered, refused, purposes, round_moment(now))
    return statement.sign(node_key)
