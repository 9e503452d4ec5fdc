"""What legal staff decides against a search: a draft is refused, a grant is taken back. Signed by a person, with the reason sealed.

Invariants: the reason stands nowhere in the clear, neither in the store nor in the log: the document and the log hold commitments to it,
whose salt is sealed with it; there is one such decision of a search; a person signed it whose key the roster gives a reviewer's role.
Left to others: what follows (`review`, `revoking`), telling the parties and the log (`office`).
"""

from __future__ import annotations

import enum
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from sqlalchemy import Connection, Engine, insert, select

from agency_node.errors import RequestError
from agency_node.journal import stamp
from agency_node.legal.persons import PersonKey
from agency_node.parties import Parties
from agency_node.tables import legal_decisions
from agency_node.vault import Vault
from crypto.canonical import AgencyId, JsonObject, PersonId, SearchId
from crypto.errors import AgencyRoleError, BadSignatureError, GrantSignatureError, UnknownKeyError
from crypto.keys import SigningKey, VerifyingKey
from crypto.moments import format_moment, round_moment
from crypto.roster import Roster
from crypto.roster_entries import PersonRole
from crypto.signed import DocumentKind, read_document, sign_document

DECISION_KIND: Final = DocumentKind("sealmatch-1/legal-decision", 2048)
MAX_REASON_CHARS: Final = 2000
_REASON: Final = "legal-reason"
_REASON_LABEL: Final = b"sealmatch-1/legal-reason\n"


class Against(enum.StrEnum):
    """What was decided."""

    REFUSED = "refused"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Decision:
    """`reviewer` decided this about the grant or draft with that digest; `reason_commitment` is opened by what is sealed beside it."""

    what: Against
    search_id: SearchId
    digest: bytes = field(repr=False)
    reviewer: PersonId
    decided_at: datetime
    reason_commitment: bytes = field(repr=False)

    def sign(self, key: SigningKey) -> bytes:
        """The document."""
        content: JsonObject = {
            "what": self.what.value,
            "search_id": str(self.search_id),
            "digest": self.digest.hex(),
            "reviewer": str(self.reviewer),
            "decided_at": format_moment(self.decided_at),
            "reason_commitment": self.reason_commitment.hex(),
        }
        return sign_document(DECISION_KIND, content, key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The decision in `data`: form (`EncodingError`), then signed by the one reviewer whom it names (`UnknownKeyError`,
        `GrantSignatureError`)."""
        document = read_document(DECISION_KIND, data)
        fields = document.unverified_fields("decision")
        found = cls(
            what=fields.choice("what", Against),
            search_id=fields.name("search_id", SearchId),
            digest=fields.digest("digest"),
            reviewer=fields.name("reviewer", PersonId),
            decided_at=fields.moment("decided_at"),
            reason_commitment=fields.digest("reason_commitment"),
        )
        fields.close()
        key = next((one for one in document.signatures), None)
        if key is None or len(document.signatures) != 1:
            raise UnknownKeyError("a decision has one signature")
        signatory = roster.signatory(key)
        public = signatory.credential.key
        named = signatory.person.person_id == found.reviewer and signatory.credential.role is PersonRole.REVIEWER
        if not named or not isinstance(public, VerifyingKey):
            raise UnknownKeyError("a decision is signed with the key of the reviewer whom it names")
        try:
            document.check_only_signer(public)
        except BadSignatureError as error:
            raise GrantSignatureError("the decision's signature does not verify") from error
        return found


def check_reviewer(roster: Roster, person: PersonKey, offices: tuple[AgencyId | None, ...], now: datetime) -> None:
    """Raise unless this key may decide for one of these legal offices:

    1. the roster lists it (`UnknownKeyError`), as a reviewer's of one of them (`AgencyRoleError`)
    2. the person's training has not lapsed (R14, `TrainingExpiredError`)
    """
    signatory = roster.signatory(person.key_id)
    if signatory.credential.role is not PersonRole.REVIEWER or signatory.agency.agency_id not in offices:  # 1
        named = " or ".join(sorted({str(one) for one in offices if one is not None}))
        raise AgencyRoleError(f"this key is not that of a reviewer of the legal office {named}: let one of its reviewers decide")
    signatory.person.check_trained(now)  # 2


def keep_decision(
    connection: Connection, vault: Vault, what: Against, search_id: str, digest: bytes, reason: str, person: PersonKey, now: datetime
) -> None:
    """Sign the decision and store it with its reason sealed; the serving node enters it into the log."""
    salt = secrets.token_bytes(32)
    decision = Decision(what, SearchId(search_id), digest, person.person_id, round_moment(now), commit_reason(salt, reason))
    sealed = vault.seal(_REASON, json.dumps({"salt": salt.hex(), "reason": reason}).encode("utf-8"), search_id.encode("ascii"))
    values = {
        "search_id": search_id,
        "what": what.value,
        "digest": digest,
        "document": decision.sign(person.signing_key),
        "sealed_reason": sealed,
        "decided_at": stamp(now),
        "told": 0,
        "in_log": 0,
    }
    connection.execute(insert(legal_decisions).values(**values))


def check_reason(reason: str) -> str:
    """The reason without blanks around it; `RequestError` for none and for one that is too long."""
    text = reason.strip()
    if not 1 <= len(text) <= MAX_REASON_CHARS:
        raise RequestError(f"give a reason of 1 to {MAX_REASON_CHARS} characters: it stays sealed in this agency")
    return text


@dataclass(frozen=True)
class Told:
    """A decision with its reason, as the investigator is shown it."""

    what: Against
    reviewer: str
    decided_at: str
    reason: str = field(repr=False)


def read_told(engine: Engine, vault: Vault, search_id: str, parties: Parties) -> Told | None:
    """The decision against a search, None when there is none. What was signed is verified by the roster that is trusted last, expired or
    not, and so is that this is the reason signed for."""
    with engine.begin() as connection:
        row = connection.execute(select(legal_decisions).where(legal_decisions.c.search_id == search_id)).first()
    if row is None:
        return None
    decision = Decision.read(row.document, parties.trusted.possibly_expired)
    kept = json.loads(vault.open(_REASON, row.sealed_reason, search_id.encode("ascii")))
    if commit_reason(bytes.fromhex(kept["salt"]), kept["reason"]) != decision.reason_commitment:
        raise GrantSignatureError("the stored reason is not the one that the reviewer signed for")
    return Told(decision.what, str(decision.reviewer), row.decided_at, kept["reason"])


def entry_fields(document: bytes) -> list[tuple[str, bytes]]:
    """What the log entry of a decision commits to, each under a salt of its own: the document, and in it the reason's commitment."""
    fields = read_document(DECISION_KIND, document).unverified_fields("decision")
    return [("decision-digest", hashlib.sha256(document).digest()), ("reason-commitment", fields.digest("reason_commitment"))]


def commit_reason(salt: bytes, reason: str) -> bytes:
    """SHA-256(`sealmatch-1/legal-reason` LF || salt || UTF-8 of the reason): what a signed decision shows of why."""
    return hashlib.sha256(_REASON_LABEL + salt + reason.encode("utf-8")).digest()
