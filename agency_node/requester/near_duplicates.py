"""Has this agency searched with nearly the same picture before? A reviewer is told, with what came of it (R57).

Whoever changes a picture a little and asks again climbs towards a template, or asks until somebody says yes. A holder cannot see it, since
probes are encrypted; the requester's own node can, and shows it to the person who decides.

What is kept of a probe is its face's integers and their model's hash, sealed in table `probe_faces`, at the requester only. They are
biometric data (R28): they lie there until `days` have passed, or the draft was decided if that is later, and are deleted then
(docs/adr/0021 says why these and not a hash of the picture). Invariants: vectors of two models are never compared; no cosine, vector, case
number or note leaves this module, only dates, codes and counts.

Left to others: drawing the vector (`drafting`), checking it against the still (`legal.review`), showing (`commands`). Limit: this helps a
reviewer and stops nobody who administers the node; holders count for themselves (`holder.budgets`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select

from agency_node.config import NearDuplicateRules
from agency_node.journal import stamp
from agency_node.requester.cases import held_searches
from agency_node.tables import leads, probe_faces, searches
from agency_node.vault import Vault
from crypto.embedding import EmbeddingModel
from crypto.fields import DIGEST_BYTES
from crypto.grant_claims import GrantClaims
from crypto.grant_token import unverified_claims
from crypto.ring import I32

PROBE_FACE: Final = "probe-face"
_TOKEN: Final = "grant-token"  # noqa: S105  # the name of a purpose
_UNDECIDED: Final = ("drafted", "narrowed")


@dataclass(frozen=True)
class ProbeFace:
    """The face of one probe: its integers m, int32[D], and the hash of their model."""

    model_hash: bytes
    vector: I32 = field(repr=False)

    def cosine(self, other: ProbeFace) -> float:
        """Between two faces of one model; -1 for two models, whose vectors have nothing in common."""
        if self.model_hash != other.model_hash:
            return -1.0
        one, two = self.vector.astype(np.float64), other.vector.astype(np.float64)
        return float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))


@dataclass(frozen=True)
class NearDuplicate:
    """Another search of this agency with nearly the same picture, and what came of it. Nothing of its case but whether it is this one."""

    search_id: str
    drafted_on: str
    earlier: bool
    same_officer: bool
    same_case: bool
    state: str
    leads: int

    @property
    def sentence(self) -> str:
        """For a person."""
        when = f"{'an earlier' if self.earlier else 'a later'} search of {self.drafted_on}"
        officer = "the same officer" if self.same_officer else "another officer"
        case = "in this case" if self.same_case else "in another case"
        came = f"{self.leads} lead{'' if self.leads == 1 else 's'}"
        return f"{when} by {officer}, {case}, had nearly the same picture: {self.state}, {came}"


def keep_face(connection: Connection, vault: Vault, search_id: str, model: EmbeddingModel, vector: I32, now: datetime) -> None:
    """Seal a draft's vector into its own row."""
    face = model.model_hash + vector.astype("<i4").tobytes()
    sealed = vault.seal(PROBE_FACE, face, search_id.encode("ascii"))
    connection.execute(insert(probe_faces).values(search_id=search_id, sealed_vector=sealed, created_at=stamp(now)))


def read_face(engine: Engine, vault: Vault, search_id: str) -> ProbeFace | None:
    """A search's face; None when it was deleted."""
    with engine.begin() as connection:
        row = connection.execute(select(probe_faces).where(probe_faces.c.search_id == search_id)).first()
    return None if row is None else _opened(vault, row)


def forget_faces(engine: Engine, rules: NearDuplicateRules, now: datetime) -> int:
    """Delete what has been kept for its days, but for drafts that still wait for their reviewer and cases that are held; how many were
    deleted."""
    waiting = select(searches.c.search_id).where(searches.c.state.in_(_UNDECIDED))
    kept = probe_faces.c.search_id.in_(waiting) | probe_faces.c.search_id.in_(held_searches())
    over = (probe_faces.c.created_at < _kept_since(rules, now)) & ~kept
    with engine.begin() as connection:
        return connection.execute(delete(probe_faces).where(over)).rowcount


def near_duplicates(engine: Engine, vault: Vault, rules: NearDuplicateRules, search_id: str, now: datetime) -> list[NearDuplicate]:
    """Other searches of this agency whose picture is nearly this one's, oldest first: cosine of the probes at least `rules.cosine`."""
    own = read_face(engine, vault, search_id)
    if own is None:
        return []
    recent = probe_faces.c.created_at >= _kept_since(rules, now)
    columns = (probe_faces, searches.c.state, searches.c.sealed_token, searches.c.created_at.label("drafted_at"))
    query = select(*columns).join(searches, searches.c.search_id == probe_faces.c.search_id).order_by(searches.c.created_at)
    with engine.begin() as connection:
        this = connection.execute(select(searches.c.sealed_token, searches.c.created_at).where(searches.c.search_id == search_id)).one()
        others = connection.execute(query.where(recent, probe_faces.c.search_id != search_id)).all()
        alike = [row for row in others if own.cosine(_opened(vault, row)) >= rules.cosine]
        counts = {row.search_id: _leads_of(connection, row.search_id) for row in alike}
    claims = _claims(vault, this.sealed_token, search_id)
    found = []
    for row in alike:
        theirs = _claims(vault, row.sealed_token, row.search_id)
        found.append(
            NearDuplicate(
                search_id=row.search_id,
                drafted_on=row.drafted_at[:10],
                earlier=row.drafted_at <= this.created_at,
                same_officer=theirs.investigator == claims.investigator,
                same_case=theirs.case_commitment == claims.case_commitment,
                state=row.state,
                leads=counts[row.search_id],
            )
        )
    return found


def _opened(vault: Vault, row: Row[Any]) -> ProbeFace:
    face = vault.open(PROBE_FACE, row.sealed_vector, row.search_id.encode("ascii"))
    return ProbeFace(face[:DIGEST_BYTES], np.frombuffer(face[DIGEST_BYTES:], "<i4").astype(np.int32))


def _claims(vault: Vault, sealed: bytes, search_id: str) -> GrantClaims:
    return unverified_claims(vault.open(_TOKEN, sealed, search_id.encode("ascii")))


def _leads_of(connection: Connection, search_id: str) -> int:
    return int(connection.execute(select(func.count()).select_from(leads).where(leads.c.search_id == search_id)).scalar_one())


def _kept_since(rules: NearDuplicateRules, now: datetime) -> str:
    return stamp(now - timedelta(days=rules.days))
