"""Legal staff decides about a draft: sees what was written, has the face's commitment checked, and signs, narrows or refuses with a reason.

Whom the claims name signs: one or two reviewers here, and for another agency's case that agency's legal staff at its own node (R6,
`originating`), in any order. States of a
search here, in table `searches`: `drafted` while a signature of legal staff is missing; `narrowed` while the investigator has not signed
what a reviewer narrowed, which begins all signatures anew (`narrowing`); `granted` with the last signature, with which an exigent grant's
clock starts (R4).

The reviewer's side makes the still anew from its original and its edits, and the face's vector from the still, and compares both with what
the investigator signed, the vector up to rounding, so that a grant is for the picture that the reviewer sees and for where it comes from
(PROTOCOL 3, step 3; R19). Invariants: what was signed verifies against the pinned roster
before it is kept, so one person in two roles, a lapsed training or a wrong key ends here (R5, R14); whoever has a conflict of interest
signs nothing (`conflicts`); a refused draft's search key is destroyed, and its reason is sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from sqlalchemy import Connection, Engine, delete, insert, select, update

from agency_node.errors import ProvenanceError, RequestError
from agency_node.faces.embedder import Embedder, the_one_face
from agency_node.faces.image import read_image
from agency_node.faces.quality import Quality, measure
from agency_node.journal import About, Told, record, stamp
from agency_node.legal.conflicts import check_no_conflict
from agency_node.legal.decisions import Against, check_reason, check_reviewer, keep_decision
from agency_node.legal.exigent import lapses_of_case, start_clock
from agency_node.legal.narrowing import Narrowing, check_narrower, narrow
from agency_node.legal.persons import PersonKey
from agency_node.policy.clocks import STRICT_CLOCK, ExigentClock
from agency_node.policy.deciding import check_policy
from agency_node.policy.engine import PolicyEngine
from agency_node.policy.inputs import Place
from agency_node.policy.probe_edits import STRICT_EDITS, EditLimits
from agency_node.policy.quality_limits import STRICT_LIMITS, QualityLimits
from agency_node.requester.drafting import CASE, DRAFTED, STILL, TOKEN, CaseFile
from agency_node.requester.near_duplicates import read_face
from agency_node.requester.probe_versions import read_kept
from agency_node.tables import narrowings, search_holders, searches
from agency_node.vault import Vault
from crypto.embedding import face_commitment
from crypto.errors import MissingRoleError, SamePersonError
from crypto.grant import check_signatures, verify_grant
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import add_signature, unsigned_grant, unverified_claims, unverified_signers
from crypto.roster import TrustedRoster

ROUNDING: Final = 2
"""By how much a coordinate of the probe's integers (about 2,000 long) may differ when another processor computes them."""
GRANTED: Final = "granted"
REFUSED: Final = "refused"
NARROWED: Final = "narrowed"
UNDECIDED: Final = (DRAFTED, NARROWED)
_LEGAL_ROLES: Final = (GrantRole.REVIEWER, GrantRole.SECOND_REVIEWER, GrantRole.ORIGINATOR)
_DRAFT: Final = "draft-before-narrowing"
_AS_ASKED: Final = Narrowing()


def read_draft(engine: Engine, vault: Vault, search_id: str) -> tuple[GrantClaims, bytes]:
    """A draft's claims and its token; `RequestError` when there is none that waits for a reviewer."""
    with engine.begin() as connection:
        row = connection.execute(select(searches).where(searches.c.search_id == search_id)).first()
    if row is None:
        raise RequestError("there is no search of that id here: `sealmatch node status` lists them")
    if row.state not in UNDECIDED:
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
    person: PersonKey,
    now: datetime,
    clock: ExigentClock = STRICT_CLOCK,
    *,
    administrator: str = "",
    less: Narrowing = _AS_ASKED,
    packs: Sequence[PolicyEngine] | None = None,
    limits: QualityLimits = STRICT_LIMITS,
    edits: EditLimits = STRICT_EDITS,
) -> GrantClaims:
    """Sign a draft in the capacity in which it names this person, after these checks in this order; what was signed is returned:

    1. it waits for signatures (`RequestError`), and this person has not signed it (`SamePersonError`)
    2. the person has no conflict of interest (R5, `RequestError`)
    3. the still is what its original and its allowed edits give (`ProvenanceError`, `PolicyRefusedError`), gives the face that the
        investigator committed to, and is good enough (`RequestError`)
    4. what is taken away is less than was asked for (`RequestError`)
    5. every signature verifies against the pinned roster, and so does the whole grant once none is missing (`check_signatures`,
        `verify_grant`, every check)
    6. the agency's own packs, None for the strict default, and those that bind an agency of it allow it (`PolicyRefusedError`, R6, R7)

    An originator signs at the originating agency's own node, by that agency's own policy (`originating`), and not here (`RequestError`).
    """
    claims, token = read_draft(engine, vault, search_id)  # 1
    role = _role_of(claims, person)
    if role is GrantRole.ORIGINATOR:
        raise RequestError("the originator signs at the originating agency's own node: `sealmatch node originate` carries the draft there")
    if role in unverified_signers(token):
        raise SamePersonError(f"the {role.value.replace('_', ' ')} has signed this draft: one person signs once")
    check_no_conflict(engine, vault, claims, role, person, administrator)  # 2
    _check_face(engine, vault, embedder, search_id, claims, limits, edits)  # 3
    before = token
    if less:  # 4
        claims = narrow(claims, less)
        token = unsigned_grant(claims)
    signed = add_signature(token, role, person.signing_key)
    missing = check_signatures(signed, roster, now)  # 5
    if not missing:
        verify_grant(signed, roster, now)
    check_policy(engine, vault, claims, roster.at(now), packs, Place.REQUESTING, now)  # 6
    with engine.begin() as connection:
        if less:
            _keep_narrowed(connection, vault, search_id, before, claims, person, now)
        keep_signed(connection, vault, search_id, before, signed, claims, missing, clock, now)
        named = f"as its {role.value.replace('_', ' ')}"
        said: Told = {"actor": str(person.person_id), "subject": f"grant {claims.grant_id}"}
        record(connection, now, search_id, "signed", named, about=About.of(claims), **said)
        if not missing:
            record(connection, now, search_id, "granted", "by its reviewer", **said)
    return claims


def accept_narrowed(
    engine: Engine,
    vault: Vault,
    roster: TrustedRoster,
    search_id: str,
    investigator: PersonKey,
    now: datetime,
    clock: ExigentClock = STRICT_CLOCK,
) -> GrantClaims:
    """Sign what a reviewer narrowed as its investigator, after these checks in this order:

    1. the search waits for that (`RequestError`), and this is its investigator's key (`UnknownKeyError`, with 3)
    2. the investigator's signature under the draft verifies, and what is accepted is no more than that (`check_narrower`)
    3. every signature verifies against the pinned roster, and so does the whole grant once none is missing
    """
    claims, token = read_draft(engine, vault, search_id)  # 1
    with engine.begin() as connection:
        sealed = connection.execute(select(narrowings.c.sealed_draft).where(narrowings.c.search_id == search_id)).scalar()
    if sealed is None or GrantRole.INVESTIGATOR in unverified_signers(token):
        raise RequestError("nothing of this search waits for its investigator: `sealmatch node status` says what it waits for")
    draft = vault.open(_DRAFT, sealed, search_id.encode("ascii"))  # 2
    if GrantRole.INVESTIGATOR in check_signatures(draft, roster, now):
        raise MissingRoleError("the investigator has not signed the draft that was narrowed")
    check_narrower(claims, unverified_claims(draft))
    signed = add_signature(token, GrantRole.INVESTIGATOR, investigator.signing_key)
    missing = check_signatures(signed, roster, now)  # 3
    if not missing:
        verify_grant(signed, roster, now)
    with engine.begin() as connection:
        keep_signed(connection, vault, search_id, token, signed, claims, missing, clock, now)
        said: Told = {"actor": str(investigator.person_id), "subject": f"grant {claims.grant_id}"}
        record(connection, now, search_id, "accepted", "as it was narrowed, by its investigator", **said)
        if not missing:
            record(connection, now, search_id, "granted", "by its reviewer", **said)
    return claims


def refuse_draft(
    engine: Engine, vault: Vault, roster: TrustedRoster, search_id: str, reason: str, reviewer: PersonKey, now: datetime
) -> None:
    """Refuse a draft with a reason, which stays sealed in this agency; probe and search key are destroyed. The serving node enters into
    the log that there was a refusal, and no more.

    1. the draft waits for a decision, and a reason is given (`RequestError`)
    2. the key is a reviewer's of the requesting or originating agency's legal office, in training (`check_reviewer`)
    """
    text = check_reason(reason)  # 1
    claims, _ = read_draft(engine, vault, search_id)
    trusted = roster.at(now)
    agencies = (claims.requesting_agency, claims.originating_agency)
    check_reviewer(trusted, reviewer, tuple(trusted.agency(one).legal_office for one in agencies), now)  # 2
    with engine.begin() as connection:
        note = f"refused by {reviewer.person_id}; `sealmatch node review` shows why"
        values = {"state": REFUSED, "note": note, "sealed_search_key": None, "probe": None}
        undecided = (searches.c.search_id == search_id) & searches.c.state.in_(UNDECIDED)
        if connection.execute(update(searches).where(undecided).values(**values)).rowcount != 1:
            raise RequestError("somebody else has decided about this draft meanwhile")
        keep_decision(connection, vault, Against.REFUSED, search_id, claims.digest, text, reviewer, now)
        record(connection, now, search_id, "refused", "by a reviewer", outcome=REFUSED, actor=str(reviewer.person_id))


def still_to_sign(engine: Engine, vault: Vault, search_id: str) -> dict[str, str]:
    """Who has still to sign a draft, by capacity; empty once nobody has."""
    with engine.begin() as connection:
        row = connection.execute(select(searches.c.state, searches.c.sealed_token).where(searches.c.search_id == search_id)).first()
    if row is None or row.state not in UNDECIDED:
        return {}
    token = vault.open(TOKEN, row.sealed_token, search_id.encode("ascii"))
    signed = unverified_signers(token)
    return {role.value: str(person) for role, person in unverified_claims(token).signatories.items() if role not in signed}


def _role_of(claims: GrantClaims, person: PersonKey) -> GrantRole:
    """In which capacity the draft names this person; whom it names in none is refused with the signature, as any wrong key is."""
    return next((role for role in _LEGAL_ROLES if claims.signatories.get(role) == person.person_id), GrantRole.REVIEWER)


def _keep_narrowed(
    connection: Connection, vault: Vault, search_id: str, before: bytes, claims: GrantClaims, reviewer: PersonKey, now: datetime
) -> None:
    """Keep what the investigator signed, unless an earlier narrowing did; the holders that are dropped have no progress any more."""
    values = {
        "search_id": search_id,
        "sealed_draft": vault.seal(_DRAFT, before, search_id.encode("ascii")),
        "reviewer": str(reviewer.person_id),
        "narrowed_at": stamp(now),
    }
    if GrantRole.INVESTIGATOR in unverified_signers(before):
        connection.execute(insert(narrowings).prefix_with("OR REPLACE").values(**values))
    dropped = (search_holders.c.search_id == search_id) & search_holders.c.holder.not_in([str(holder) for holder in claims.holders])
    connection.execute(delete(search_holders).where(dropped))


def keep_signed(
    connection: Connection,
    vault: Vault,
    search_id: str,
    before: bytes,
    signed: bytes,
    claims: GrantClaims,
    missing: Sequence[GrantRole],
    clock: ExigentClock,
    now: datetime,
) -> None:
    """Keep the token with its new signature, if nobody has signed or decided since `before` was read; with the last one it is a grant."""
    bound = search_id.encode("ascii")
    row = connection.execute(select(searches.c.state, searches.c.sealed_token).where(searches.c.search_id == search_id)).one()
    if row.state not in UNDECIDED or vault.open(TOKEN, row.sealed_token, bound) != before:
        raise RequestError("somebody else has signed or decided about this draft meanwhile: look at it again")
    state = GRANTED if not missing else NARROWED if GrantRole.INVESTIGATOR in missing else DRAFTED
    waits = "" if not missing else f"waits for {', '.join(str(claims.signatories[role]) for role in missing)}"
    values = {"state": state, "note": waits, "sealed_token": vault.seal(TOKEN, signed, bound), "grant_digest": claims.digest}
    connection.execute(update(searches).where(searches.c.search_id == search_id).values(**values))
    if not missing:
        start_clock(connection, claims, clock, now)


def _check_face(
    engine: Engine, vault: Vault, embedder: Embedder, search_id: str, claims: GrantClaims, limits: QualityLimits, edits: EditLimits
) -> None:
    bound = search_id.encode("ascii")
    with engine.begin() as connection:
        sealed = connection.execute(select(searches.c.sealed_case).where(searches.c.search_id == search_id)).scalar_one()
    case = CaseFile.from_bytes(vault.open(CASE, sealed, bound))
    kept = read_kept(engine, vault, search_id)
    edits.check(kept.chain.edits)
    image = read_image(kept.still)
    face = read_face(engine, vault, search_id)
    if face is None:
        raise RequestError("the face of this draft was deleted, its time was over: have it drafted anew")
    committed = face.vector
    if face_commitment(case.face_salt, kept.chain.head, embedder.model.model_hash, committed) != claims.face_commit:
        raise RequestError("the grant is not bound to this still, its original and its edits: have it drafted anew")
    if kept.chain.source is not claims.probe_source:
        raise ProvenanceError("the draft declares another source of the still than its chain: have it drafted anew")
    found = the_one_face(embedder, image)
    kept.check(found)
    seen = embedder.model.probe_vector(found.embedding)
    if committed.shape != seen.shape or int(np.abs(seen - committed).max()) > ROUNDING:
        raise RequestError("the still does not give the face that the investigator committed to: have it drafted anew")
    limits.check(measure(image, kept.spent_bytes, found))
