"""From a still to a draft: the face is found, the probe encrypted, the claims written and signed by the investigator.

Invariants: a draft has one still, which is its original or what allowed edits made of it (`provenance`), one probe and one search key, all
fresh; the search key lies sealed under the node's key, and a second
time sealed to the legal office's discovery key, which is how it can be produced in an audit after this node has destroyed its own copy; the
salts that open the grant's commitments stay here, sealed. Nobody is searched by a draft: that takes a reviewer (`legal.review`) and the
log.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Engine, insert, select

from agency_node.faces.edits import Edit
from agency_node.faces.embedder import Embedder, the_one_face
from agency_node.faces.ofiq import Ofiq
from agency_node.faces.quality import Quality, measure
from agency_node.journal import About, Told, record, stamp
from agency_node.legal.persons import PersonKey
from agency_node.policy.probe_edits import STRICT_EDITS, EditLimits
from agency_node.policy.quality_limits import STRICT_LIMITS, QualityLimits
from agency_node.requester.cases import register_search
from agency_node.requester.near_duplicates import keep_face
from agency_node.requester.probe_versions import keep_chain
from agency_node.requester.provenance import prepare
from agency_node.tables import exigent_grants, search_holders, searches
from agency_node.vault import Vault
from crypto.canonical import AgencyId, GrantId, PersonId, SearchId
from crypto.embedding import face_commitment
from crypto.envelope import OFFERED_SUITES, P256_SHA256_AES256GCM
from crypto.epoch import Epoch
from crypto.grant_basis import Event, LegalBasis, Offence, ProbeSource, Purpose, commit_case
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import sign_grant
from crypto.keys import SealingPublicKey
from crypto.moments import round_moment
from crypto.probe import make_probe

CASE: Final = "case"
STILL: Final = "still"
SEARCH_KEY: Final = "search-key"
TOKEN: Final = "grant-token"  # noqa: S105  # the name of a purpose
ESCROW_LABEL: Final = b"sealmatch-1/audit-escrow|"
DRAFTED: Final = "drafted"
_CASE_SALT: Final = "case-salt"
_HEX: Final = ("case_salt", "face_salt", "image_sha256", "facts_salt")


@dataclass(frozen=True)
class SearchRequest:
    """What an investigator asks for. `still` is one image file's bytes as they came, `edits` what is done to it here, in order (R19); the
    case number never leaves this node but as a commitment."""

    case_number: str = field(repr=False)
    still: bytes = field(repr=False)
    offence: Offence | None
    basis: LegalBasis = field(repr=False)
    purpose: Purpose
    event: Event
    probe_source: ProbeSource
    reviewer: PersonId
    holders: Sequence[AgencyId]
    custodians: Sequence[AgencyId]
    combiner: AgencyId
    cap: int
    false_positives_per_million: int
    answer_within: timedelta
    valid_for: timedelta
    policy_packs: Sequence[bytes]
    second_reviewer: PersonId | None = None
    originating_agency: AgencyId | None = None
    """Whose case it is, where it is another agency's (R6); `originator` is the reviewer of its legal office who signs too
    (`legal.originating`)."""
    originator: PersonId | None = None
    facts: str = field(default="", repr=False)
    facts_salt: bytes = field(default=b"", repr=False)
    """The statement of facts and its salt, where the basis is one: the text stays in this agency."""
    edits: Sequence[Edit] = ()


@dataclass(frozen=True)
class CaseFile:
    """What opens the commitments of a grant, but for the face's own integers (`near_duplicates`); kept sealed."""

    case_number: str = field(repr=False)
    case_salt: bytes = field(repr=False)
    face_salt: bytes = field(repr=False)
    image_sha256: bytes = field(repr=False)
    facts: str = field(default="", repr=False)
    facts_salt: bytes = field(default=b"", repr=False)
    quality: Quality | None = None
    """Of the still, as the investigator's side measured it (R21)."""

    def to_bytes(self) -> bytes:
        """JSON, to be sealed."""
        kept: dict[str, object] = {"case_number": self.case_number, "facts": self.facts}
        if self.quality is not None:
            kept["quality"] = self.quality.to_json()
        kept |= {name: getattr(self, name).hex() for name in _HEX}
        return json.dumps(kept).encode("utf-8")

    @classmethod
    def from_bytes(cls, data: bytes) -> CaseFile:
        """Inverse of `to_bytes`."""
        kept = json.loads(data)
        digests = {name: bytes.fromhex(kept[name]) for name in _HEX}
        quality = Quality.from_json(kept["quality"]) if "quality" in kept else None
        return cls(case_number=kept["case_number"], facts=kept["facts"], quality=quality, **digests)


def quality_of_still(engine: Engine, vault: Vault, search_id: str) -> Quality | None:
    """What was measured of the still, which goes with its result (R21); None when the case file is not kept any more."""
    with engine.begin() as connection:
        sealed = connection.execute(select(searches.c.sealed_case).where(searches.c.search_id == search_id)).scalar_one_or_none()
    return CaseFile.from_bytes(vault.open(CASE, sealed, search_id.encode("ascii"))).quality if sealed else None


def draft_search(
    engine: Engine,
    vault: Vault,
    embedder: Embedder,
    agency: AgencyId,
    discovery_key: SealingPublicKey,
    request: SearchRequest,
    investigator: PersonKey,
    now: datetime,
    limits: QualityLimits = STRICT_LIMITS,
    edits: EditLimits = STRICT_EDITS,
    ofiq: Ofiq | None = None,
) -> SearchId:
    """Store a draft signed by the investigator; `PolicyRefusedError` for an edit that the packs do not allow (R19), `ImageError` for a
    picture without exactly one face or of too low a quality (R21), `PeerError` for claims that no grant may make (one person in two roles
    among them, R5). `ofiq` measures the still too, where the agency has it."""
    edits.check(request.edits)
    prepared = prepare(request.still, request.edits, request.probe_source)
    image = prepared.image
    face = the_one_face(embedder, image)
    quality = measure(image, prepared.file_bytes, face)
    limits.check(quality)
    if ofiq is not None and quality is not None:
        quality = replace(quality, ofiq=ofiq.measure([prepared.still])[0])
    chain = prepared.chain(face, embedder.model.model_hash)
    model, epoch = embedder.model, Epoch.at(now)
    search_id = SearchId(secrets.token_hex(16))
    vector = model.probe_vector(face.embedding)
    probe, key = make_probe(model, vector, epoch)
    start = round_moment(now)
    with engine.begin() as connection:
        case_salt = _case_salt(connection, vault, request.case_number)
    case = CaseFile(
        case_number=request.case_number,
        case_salt=case_salt,
        face_salt=secrets.token_bytes(32),
        image_sha256=image.sha256,
        facts=request.facts,
        facts_salt=request.facts_salt,
        quality=quality,
    )
    claims = GrantClaims(
        grant_id=GrantId(secrets.token_hex(16)),
        search_id=search_id,
        requesting_agency=agency,
        originating_agency=request.originating_agency or agency,
        investigator=investigator.person_id,
        reviewers=(request.reviewer,) if request.second_reviewer is None else (request.reviewer, request.second_reviewer),
        originator=request.originator,
        reason_salt=secrets.token_bytes(32),
        case_commitment=commit_case(case.case_salt, request.case_number),
        offence=request.offence,
        basis=request.basis,
        purpose=request.purpose,
        event=request.event,
        probe_source=request.probe_source,
        probe_digest=probe.digest,
        face_commit=face_commitment(case.face_salt, chain.head, model.model_hash, vector),
        epoch=epoch,
        model_hash=model.model_hash,
        holders=tuple(sorted(request.holders)),
        custodians=tuple(sorted(request.custodians)),
        combiner=request.combiner,
        cap=request.cap,
        false_positives_per_million=request.false_positives_per_million,
        answer_deadline=start + request.answer_within,
        policy_packs=tuple(sorted(request.policy_packs)),
        not_before=start,
        expires=start + request.valid_for,
    )
    token = sign_grant(claims, GrantRole.INVESTIGATOR, investigator.signing_key)
    bound, secret = search_id.encode("ascii"), key.export_secret()
    key.destroy()
    with engine.begin() as connection:
        connection.execute(
            insert(searches).values(
                search_id=str(search_id),
                grant_id=str(claims.grant_id),
                state=DRAFTED,
                note="",
                created_at=stamp(now),
                deadline=stamp(claims.answer_deadline),
                expires=stamp(claims.expires),
                epoch=epoch.month,
                grant_digest=claims.digest,
                sealed_token=vault.seal(TOKEN, token, bound),
                sealed_case=vault.seal(CASE, case.to_bytes(), bound),
                sealed_still=vault.seal(STILL, prepared.still, bound),
                probe=probe.to_bytes(),
                sealed_search_key=vault.seal(SEARCH_KEY, secret, bound),
                escrow=discovery_key.seal(OFFERED_SUITES[P256_SHA256_AES256GCM], secret, ESCROW_LABEL + bound),
            )
        )
        for holder in claims.holders:
            connection.execute(
                insert(search_holders).values(search_id=str(search_id), holder=str(holder), state="waiting", note="", at=stamp(now))
            )
        keep_face(connection, vault, search_id, model, vector, now)
        keep_chain(connection, vault, search_id, chain, prepared, face)
        tag = case_tag(vault, request.case_number)
        register_search(connection, vault, search_id, tag, request.case_number, claims.case_commitment, now)
        said: Told = {"actor": str(investigator.person_id), "subject": f"grant {claims.grant_id}"}
        record(connection, now, search_id, "drafted", f"{len(claims.holders)} holders", about=About.of(claims), **said)
    return search_id


def case_tag(vault: Vault, case_number: str) -> bytes:
    """By which a case is known again whose lapsed search was destroyed here."""
    return vault.tag(_CASE_SALT, case_number.encode("utf-8", "surrogatepass"))


def seal_salt(vault: Vault, case: CaseFile) -> bytes:
    """The salt of such a case: a later draft of it shows the same commitment, to reviewer and holders (R54, R57)."""
    return vault.seal(_CASE_SALT, case.case_salt, case_tag(vault, case.case_number))


def _case_salt(connection: Connection, vault: Vault, case_number: str) -> bytes:
    """One salt for one case, so that a holder can keep two searches of it off one layout (`grant_basis.commit_case`)."""
    kept = select(searches.c.search_id, searches.c.sealed_case).where(searches.c.sealed_case != b"")  # empty once it was destroyed
    for row in connection.execute(kept):
        earlier = CaseFile.from_bytes(vault.open(CASE, row.sealed_case, row.search_id.encode("ascii")))
        if earlier.case_number == case_number:
            return earlier.case_salt
    tag = case_tag(vault, case_number)
    marked = connection.execute(select(exigent_grants.c.sealed_salt).where(exigent_grants.c.case_tag == tag)).scalar()
    return secrets.token_bytes(32) if marked is None else vault.open(_CASE_SALT, marked, tag)
