"""A legal reviewer decides about a draft: sees what was written, has the face's commitment checked, and signs or refuses with a reason.

The reviewer's side computes the face's vector from the still anew and compares it with what the investigator signed, up to rounding, so
that a grant is for the picture that the reviewer sees (PROTOCOL 3, step 3). Invariants: what was signed verifies against the pinned roster
before the draft becomes a grant, so one person in two roles, a lapsed training or a wrong key ends here (R5, R14); a refused draft's search
key is destroyed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from sqlalchemy import Engine, select, update

from agency_node.errors import RequestError
from agency_node.faces.embedder import Embedder, the_one_face
from agency_node.faces.image import read_image
from agency_node.faces.quality import Quality, measure
from agency_node.journal import record
from agency_node.legal.exigent import lapses_of_case, start_clock
from agency_node.legal.persons import PersonKey
from agency_node.policy.clocks import STRICT_CLOCK, ExigentClock
from agency_node.policy.quality_limits import STRICT_LIMITS, QualityLimits
from agency_node.requester.drafting import CASE, DRAFTED, STILL, TOKEN, CaseFile
from agency_node.requester.near_duplicates import read_face
from agency_node.tables import searches
from agency_node.vault import Vault
from crypto.embedding import face_commitment
from crypto.grant import verify_grant
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import add_signature, unverified_claims
from crypto.roster import TrustedRoster

ROUNDING: Final = 2
"""By how much a coordinate of the probe's integers (about 2,000 long) may differ when another processor computes them."""
GRANTED: Final = "granted"
REFUSED: Final = "refused"


def read_draft(engine: Engine, vault: Vault, search_id: str) -> tuple[GrantClaims, bytes]:
    """A draft's claims and its token; `RequestError` when there is none that waits for a reviewer."""
    with engine.begin() as connection:
        row = connection.execute(select(searches).where(searches.c.search_id == search_id)).first()
    if row is None:
        raise RequestError("there is no search of that id here: `sealmatch node status` lists them")
    if row.state != DRAFTED:
        raise RequestError(f"this search is {row.state}; a reviewer decides about drafts")
    token = vault.open(TOKEN, row.sealed_token, search_id.encode("ascii"))
    return unverified_claims(token), token


@dataclass(frozen=True)
class ReviewedCase:
    """What a reviewer looks at besides the claims: it stays in this agency."""

    case_number: str = field(repr=False)
    facts: str = field(repr=False)
    still: bytes = field(repr=False)
    quality: Quality | None = None
    """Of the still."""
    lapsed: tuple[str, ...] = ()
    """The moments at which earlier exigent searches of this case lapsed (R4)."""

    @property
    def told(self) -> dict[str, str]:
        """What is shown beside the claims."""
        marks = {"exigent searches of this case that lapsed": ", ".join(self.lapsed)} if self.lapsed else {}
        if self.quality is not None:
            marks |= {"quality of the still": self.quality.sentence}
        return {"facts": self.facts or "-", **marks}


def read_case(engine: Engine, vault: Vault, search_id: str) -> ReviewedCase:
    """Case number, statement of facts and still of a draft; `RequestError` when there is none that waits for a reviewer."""
    claims, _ = read_draft(engine, vault, search_id)
    bound = search_id.encode("ascii")
    with engine.begin() as connection:
        row = connection.execute(select(searches.c.sealed_still, searches.c.sealed_case).where(searches.c.search_id == search_id)).one()
    case = CaseFile.from_bytes(vault.open(CASE, row.sealed_case, bound))
    lapsed = lapses_of_case(engine, claims.case_commitment)
    return ReviewedCase(case.case_number, case.facts, vault.open(STILL, row.sealed_still, bound), case.quality, lapsed)


def grant_draft(
    engine: Engine,
    vault: Vault,
    embedder: Embedder,
    roster: TrustedRoster,
    search_id: str,
    reviewer: PersonKey,
    now: datetime,
    clock: ExigentClock = STRICT_CLOCK,
    limits: QualityLimits = STRICT_LIMITS,
) -> GrantClaims:
    """Sign a draft as its reviewer, after these checks in this order; an exigent grant's clock starts with it (R4):

    1. it waits for a reviewer (`RequestError`)
    2. the still gives the face that the investigator committed to, and is good enough (`RequestError`)
    3. the grant that results verifies against the pinned roster (`verify_grant`, every check)
    """
    claims, token = read_draft(engine, vault, search_id)  # 1
    _check_face(engine, vault, embedder, search_id, claims, limits)  # 2
    signed = add_signature(token, GrantRole.REVIEWER, reviewer.signing_key)
    verify_grant(signed, roster, now)  # 3
    bound = search_id.encode("ascii")
    with engine.begin() as connection:
        where = (searches.c.search_id == search_id) & (searches.c.state == DRAFTED)
        changed = connection.execute(update(searches).where(where).values(state=GRANTED, sealed_token=vault.seal(TOKEN, signed, bound)))
        if changed.rowcount != 1:
            raise RequestError("somebody else has decided about this draft meanwhile")
        start_clock(connection, claims, clock, now)
        record(connection, now, search_id, "granted", "by its reviewer", actor=str(reviewer.person_id), subject=f"grant {claims.grant_id}")
    return claims


def refuse_draft(engine: Engine, vault: Vault, search_id: str, reason: str, now: datetime) -> None:
    """Refuse a draft with a reason, which stays in this agency; the still and the search key are destroyed."""
    read_draft(engine, vault, search_id)
    with engine.begin() as connection:
        values = {"state": REFUSED, "note": reason, "sealed_search_key": None, "probe": None}
        connection.execute(update(searches).where(searches.c.search_id == search_id).values(**values))
        record(connection, now, search_id, "refused", "by its reviewer", outcome=REFUSED)


def _check_face(engine: Engine, vault: Vault, embedder: Embedder, search_id: str, claims: GrantClaims, limits: QualityLimits) -> None:
    bound = search_id.encode("ascii")
    with engine.begin() as connection:
        row = connection.execute(select(searches.c.sealed_still, searches.c.sealed_case).where(searches.c.search_id == search_id)).one()
    case = CaseFile.from_bytes(vault.open(CASE, row.sealed_case, bound))
    still = vault.open(STILL, row.sealed_still, bound)
    image = read_image(still)
    face = read_face(engine, vault, search_id)
    if face is None:
        raise RequestError("the face of this draft was deleted, its time was over: have it drafted anew")
    committed = face.vector
    if face_commitment(case.face_salt, image.sha256, embedder.model.model_hash, committed) != claims.face_commit:
        raise RequestError("the grant is not bound to this still: have it drafted anew")
    found = the_one_face(embedder, image)
    seen = embedder.model.probe_vector(found.embedding)
    if committed.shape != seen.shape or int(np.abs(seen - committed).max()) > ROUNDING:
        raise RequestError("the still does not give the face that the investigator committed to: have it drafted anew")
    limits.check(measure(image, len(still), found))
