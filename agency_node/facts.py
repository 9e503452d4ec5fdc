"""Single values in the node's store, by name, and the one that stops it: why the node halted, with the evidence.

Invariants: the first halt stays, with what proved it; later ones do not overwrite it. Only an operator who has looked removes it.
Left to others: when to halt and what to ask before an act (`parties`, `follower`).
"""

from __future__ import annotations

import enum

from sqlalchemy import Connection, Engine, bindparam, select
from sqlalchemy.dialects.sqlite import insert

from agency_node import tables
from agency_node.store import Glance, promising


class Fact(enum.StrEnum):
    """Names of the values in table `facts`."""

    ROSTER = "roster"
    ROOT_FINGERPRINT = "root-fingerprint"
    CHECKPOINT = "checkpoint"
    COSIGNED = "cosigned"
    MANIFEST = "manifest"
    HALTED = "halted"
    EVIDENCE_HELD = "evidence-held"
    EVIDENCE_SHOWN = "evidence-shown"
    EVALUATION = "evaluation"
    RESTORED = "restored"
    MODEL_REPLACED = "model-replaced"
    REEMBEDDING = "reembedding"
    KEY_EPOCH = "key-epoch"
    TAG_ROOT = "tag-root"
    MOVED_HERE = "moved-here"
    RETIRED = "retired"
    LEAVE_ORDER = "leave-order"
    LEAVE_COUNTS = "leave-counts"
    LEAVE_RECEIPT = "leave-receipt"
    PLACES_KEY = "places-key"
    DIFFERENTIALS = "differentials"


_VALUE = Glance(select(tables.facts.c.value).where(tables.facts.c.name == bindparam("fact")))


def read_fact(connection: Connection, name: Fact) -> bytes | None:
    """The value, None when there is none."""
    return connection.execute(select(tables.facts.c.value).where(tables.facts.c.name == name.value)).scalar_one_or_none()


def write_fact(connection: Connection, name: Fact, value: bytes) -> None:
    """Set the value in the caller's transaction."""
    statement = insert(tables.facts).values(name=name.value, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def halt(engine: Engine, reason: str, held: bytes, shown: bytes) -> None:
    """Halt this node for good: `reason` for the operator, and the two signed documents that contradict one another."""
    with promising(engine).begin() as connection:  # nothing leaves a halted node that would wait for the disk
        if read_fact(connection, Fact.HALTED) is None:
            write_fact(connection, Fact.HALTED, reason.encode())
            write_fact(connection, Fact.EVIDENCE_HELD, held)
            write_fact(connection, Fact.EVIDENCE_SHOWN, shown)


def halted(engine: Engine) -> str | None:
    """Why this node halted, None when it did not."""
    found = _VALUE.first(engine, fact=Fact.HALTED.value)
    return None if found is None else bytes(found[0]).decode("utf-8", "replace")
