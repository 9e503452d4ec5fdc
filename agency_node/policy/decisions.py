"""Decisions as a party keeps them: which packs at which hash, which policies decided, over which inputs; and making one again.

Invariants: a decision is stored with the inputs themselves, sealed under the node's key and bound to their hash, so that the same question
can be put to the same packs years later; what is made again is compared by hash of packs and inputs, so that a changed pack does not pass
for the one that decided. Rows are only added; a search that is destroyed for good loses its inputs (`forget_inputs`), not its decision.

Left to others: deciding (`engine`, `deciding`), the ledger's form (`journal`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, insert, select, update

from agency_node.journal import REFUSED, About, Told, record, stamp
from agency_node.policy.engine import Decision, PolicyEngine, decide_all
from agency_node.policy.inputs import PolicyInputs
from agency_node.store import reading
from agency_node.tables import decisions
from agency_node.vault import Vault
from crypto.grant_claims import GrantClaims

INPUTS: Final = "policy-inputs"


def keep_decision(
    connection: Connection, vault: Vault, claims: GrantClaims, inputs: PolicyInputs, decision: Decision, now: datetime
) -> None:
    """Store a decision and tell the ledger of it, in the caller's transaction."""
    rules = " ".join(f"{policy} R{rule}" for policy, rule in zip(decision.policies, decision.rules, strict=True))
    said: Told = {"subject": f"packs {decision.pack_sha256.hex()}", "outcome": "allowed" if decision.allowed else REFUSED}
    about = About.of(claims)
    record(connection, now, claims.search_id, "policy", f"{inputs.place.value} {inputs.holder.agency_id}: {rules}", about=about, **said)
    connection.execute(
        insert(decisions).values(
            search_id=str(claims.search_id),
            at=stamp(now),
            place=inputs.place.value,
            holder=inputs.holder.agency_id,
            allowed=int(decision.allowed),
            policies=",".join(decision.policies),
            rules=",".join(map(str, decision.rules)),
            packs=",".join(f"{name}={sha256.hex()}" for name, sha256 in decision.packs),
            pack_sha256=decision.pack_sha256,
            inputs_sha256=decision.inputs_sha256,
            sealed_inputs=vault.seal(INPUTS, inputs.to_bytes(), inputs.sha256),
            agency_class="federal" if inputs.is_federal else inputs.requesting.agency_class,
        )
    )


def forget_inputs(connection: Connection, search_id: str) -> None:
    """Of a search that is destroyed: that it was decided, by which packs and policies, stays; what was asked goes."""
    connection.execute(update(decisions).where(decisions.c.search_id == search_id).values(sealed_inputs=None))


@dataclass(frozen=True)
class StoredDecision:
    """One row. `inputs` is None where they were not kept, or were destroyed with their search."""

    search_id: str
    at: str
    place: str
    holder: str
    allowed: bool
    policies: tuple[str, ...]
    rules: tuple[int, ...]
    packs: Mapping[str, str]
    pack_sha256: bytes = field(repr=False)
    inputs_sha256: bytes = field(repr=False)
    inputs: PolicyInputs | None = field(repr=False)


class Again(enum.StrEnum):
    """What came of making a decision again."""

    SAME = "the same"
    OTHER = "another answer"
    PACK_GONE = "a pack is not here as it was"
    INPUTS_GONE = "its inputs are not kept"
    INPUTS_CHANGED = "its inputs are not those of the stored hash"


def stored_decisions(engine: Engine, vault: Vault, search_id: str) -> list[StoredDecision]:
    """Every decision of this party about a search, in order; `StoreError` for inputs that do not open."""
    wanted = select(decisions).where(decisions.c.search_id == search_id).order_by(decisions.c.number)
    with reading(engine).begin() as connection:
        rows = connection.execute(wanted).all()
    return [_read(row, vault) for row in rows]


def decide_again(stored: StoredDecision, packs: Sequence[PolicyEngine]) -> tuple[Again, Decision | None]:
    """Put the stored inputs to those of `packs` that decided then, found by their hashes, and compare."""
    if stored.inputs is None:
        return Again.INPUTS_GONE, None
    if stored.inputs.sha256 != stored.inputs_sha256:
        return Again.INPUTS_CHANGED, None
    here = {pack.sha256.hex(): pack for pack in packs}
    if not stored.packs or not set(stored.packs.values()) <= set(here):
        return Again.PACK_GONE, None
    decision = decide_all([here[sha256] for sha256 in stored.packs.values()], stored.inputs)
    then = (stored.allowed, stored.policies, stored.rules, stored.pack_sha256)
    is_same = then == (decision.allowed, decision.policies, decision.rules, decision.pack_sha256)
    return (Again.SAME if is_same else Again.OTHER), decision


def _read(row: Row[Any], vault: Vault) -> StoredDecision:
    inputs = None if row.sealed_inputs is None else PolicyInputs.from_bytes(vault.open(INPUTS, row.sealed_inputs, row.inputs_sha256))
    return StoredDecision(
        row.search_id,
        row.at,
        row.place,
        row.holder,
        bool(row.allowed),
        tuple(row.policies.split(",")),
        tuple(map(int, row.rules.split(","))),
        dict(pack.split("=") for pack in row.packs.split(",") if pack),
        row.pack_sha256,
        row.inputs_sha256,
        inputs,
    )
