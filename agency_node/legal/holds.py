"""A legal hold: legal staff says that everything of a case is kept, whatever clock ends, until it says otherwise.

Placing and lifting are signed documents with sealed reasons, as other decisions of legal staff are (`decisions`). They name the case by its
salted commitment, so that neither document nor ledger holds its number. Invariants: of a case one hold stands at a time; a hold holds from
the transaction in which it is stored, and is lifted only by a document that names it; who places or lifts is a reviewer of this agency's
legal office, in training, whether or not the one who placed it.

Left to others: what a hold keeps (`requester.cases`, `requester.retention`, `lapsing`).
"""

from __future__ import annotations

import enum
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from sqlalchemy import Engine, Row, insert, select, update

from agency_node.case_tables import cases, legal_holds
from agency_node.errors import RequestError
from agency_node.journal import NO_SEARCH, Told, record, stamp
from agency_node.legal.decisions import check_reason, check_reviewer, commit_reason
from agency_node.legal.persons import PersonKey
from agency_node.requester.drafting import case_tag
from agency_node.requester.retention import register_missing
from agency_node.store import reading
from agency_node.vault import Vault
from crypto.canonical import AgencyId, JsonObject, PersonId
from crypto.errors import BadSignatureError, GrantSignatureError, UnknownKeyError
from crypto.keys import SigningKey, VerifyingKey
from crypto.moments import format_moment, round_moment
from crypto.roster import Roster
from crypto.roster_entries import PersonRole
from crypto.signed import DocumentKind, read_document, sign_document

HOLD_KIND: Final = DocumentKind("sealmatch-1/legal-hold", 2048)
_REASON: Final = "hold-reason"
_LIFT_REASON: Final = "hold-lift-reason"
_NO_HOLD: Final = bytes(32)


class HoldAct(enum.StrEnum):
    """What a document does."""

    PLACED = "placed"
    LIFTED = "lifted"


@dataclass(frozen=True)
class HoldDocument:
    """`reviewer` placed or lifted a hold on the case with this commitment; `lifts` is SHA-256 of what placed it, else zeros."""

    act: HoldAct
    agency: AgencyId
    case_commitment: bytes = field(repr=False)
    reviewer: PersonId
    decided_at: datetime
    reason_commitment: bytes = field(repr=False)
    lifts: bytes = field(default=_NO_HOLD, repr=False)

    def sign(self, key: SigningKey) -> bytes:
        """The document."""
        content: JsonObject = {
            "act": self.act.value,
            "agency": str(self.agency),
            "case_commitment": self.case_commitment.hex(),
            "reviewer": str(self.reviewer),
            "decided_at": format_moment(self.decided_at),
            "reason_commitment": self.reason_commitment.hex(),
            "lifts": self.lifts.hex(),
        }
        return sign_document(HOLD_KIND, content, key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The document in `data`: form (`EncodingError`), then signed by the one reviewer whom it names (`UnknownKeyError`,
        `GrantSignatureError`)."""
        document = read_document(HOLD_KIND, data)
        fields = document.unverified_fields("hold")
        found = cls(
            act=fields.choice("act", HoldAct),
            agency=fields.name("agency", AgencyId),
            case_commitment=fields.digest("case_commitment"),
            reviewer=fields.name("reviewer", PersonId),
            decided_at=fields.moment("decided_at"),
            reason_commitment=fields.digest("reason_commitment"),
            lifts=fields.digest("lifts"),
        )
        fields.close()
        if len(document.signatures) != 1:
            raise UnknownKeyError("a hold has one signature")
        signatory = roster.signatory(next(iter(document.signatures)))
        public = signatory.credential.key
        named = signatory.person.person_id == found.reviewer and signatory.credential.role is PersonRole.REVIEWER
        if not named or not isinstance(public, VerifyingKey):
            raise UnknownKeyError("a hold is signed with the key of the reviewer whom it names")
        try:
            document.check_only_signer(public)
        except BadSignatureError as error:
            raise GrantSignatureError("the hold's signature does not verify") from error
        return found


@dataclass(frozen=True)
class Hold:
    """One hold as people are shown it; `lifted_*` are empty while it stands."""

    reviewer: str
    placed_at: str
    reason: str = field(repr=False)
    lifted_by: str = ""
    lifted_at: str = ""
    lift_reason: str = field(default="", repr=False)


def place_hold(
    engine: Engine, vault: Vault, roster: Roster, agency: AgencyId, case_number: str, reason: str, person: PersonKey, now: datetime
) -> None:
    """Hold a case, after these checks in this order:

    1. a reason is given, and a search of this case is here (`RequestError`)
    2. the key is that of a reviewer of this agency's legal office, in training (`check_reviewer`)
    3. no hold of this case stands (`RequestError`)
    """
    text = check_reason(reason)  # 1
    case = _case(engine, vault, case_number, now)
    check_reviewer(roster, person, (roster.agency(agency).legal_office,), now)  # 2
    salt = secrets.token_bytes(32)
    said = HoldDocument(HoldAct.PLACED, agency, case.case_commitment, person.person_id, round_moment(now), commit_reason(salt, text))
    with engine.begin() as connection:
        standing = select(legal_holds.c.number).where(legal_holds.c.case_tag == case.case_tag, legal_holds.c.lifted_at.is_(None))
        if connection.execute(standing).first() is not None:  # 3
            raise RequestError(
                "this case is held already: nothing of it is destroyed. `sealmatch node hold DIR --case NUMBER` shows the hold"
            )
        values = {
            "case_tag": case.case_tag,
            "document": said.sign(person.signing_key),
            "sealed_reason": _seal(vault, _REASON, salt, text, case.case_tag),
            "placed_at": stamp(now),
        }
        connection.execute(insert(legal_holds).values(**values))
        told: Told = {"actor": str(person.person_id), "subject": f"case {case.case_commitment.hex()}"}
        record(connection, now, NO_SEARCH, "legal hold placed", f"reason {said.reason_commitment.hex()}", **told)


def lift_hold(
    engine: Engine, vault: Vault, roster: Roster, agency: AgencyId, case_number: str, reason: str, person: PersonKey, now: datetime
) -> None:
    """Lift the hold of a case: from then on clocks that have ended destroy. As `place_hold`, but for 3: a hold stands (`RequestError`)."""
    text = check_reason(reason)
    case = _case(engine, vault, case_number, now)
    check_reviewer(roster, person, (roster.agency(agency).legal_office,), now)
    salt = secrets.token_bytes(32)
    with engine.begin() as connection:
        standing = select(legal_holds).where(legal_holds.c.case_tag == case.case_tag, legal_holds.c.lifted_at.is_(None))
        row = connection.execute(standing).first()
        if row is None:
            raise RequestError("no hold of this case stands: there is nothing to lift")
        lifts = hashlib.sha256(row.document).digest()
        commitment = commit_reason(salt, text)
        said = HoldDocument(HoldAct.LIFTED, agency, case.case_commitment, person.person_id, round_moment(now), commitment, lifts)
        values = {
            "lifted_at": stamp(now),
            "lift_document": said.sign(person.signing_key),
            "sealed_lift_reason": _seal(vault, _LIFT_REASON, salt, text, case.case_tag),
        }
        connection.execute(update(legal_holds).where(legal_holds.c.number == row.number).values(**values))
        told: Told = {"actor": str(person.person_id), "subject": f"case {case.case_commitment.hex()}"}
        record(connection, now, NO_SEARCH, "legal hold lifted", f"reason {commitment.hex()}", **told)


def holds_of(engine: Engine, vault: Vault, roster: Roster, case_number: str, now: datetime) -> list[Hold]:
    """Every hold of a case in order, verified by this roster, expired or not; `GrantSignatureError` for one that says another thing than
    was signed, `UnknownKeyError` for a signer whom the roster does not list any more."""
    case = _case(engine, vault, case_number, now)
    with reading(engine).begin() as connection:
        rows = connection.execute(select(legal_holds).where(legal_holds.c.case_tag == case.case_tag).order_by(legal_holds.c.number)).all()
    return [_hold(vault, roster, case.case_commitment, row) for row in rows]


def _hold(vault: Vault, roster: Roster, commitment: bytes, row: Row[Any]) -> Hold:
    placed = HoldDocument.read(row.document, roster)
    reason = _open(vault, _REASON, row.sealed_reason, row.case_tag, placed)
    if (placed.act, placed.case_commitment) != (HoldAct.PLACED, commitment):
        raise GrantSignatureError("the stored hold is of another case than was signed for")
    if row.lifted_at is None:
        return Hold(str(placed.reviewer), row.placed_at, reason)
    lifted = HoldDocument.read(row.lift_document, roster)
    if (lifted.act, lifted.case_commitment, lifted.lifts) != (HoldAct.LIFTED, commitment, hashlib.sha256(row.document).digest()):
        raise GrantSignatureError("what lifted the stored hold was signed for another one")
    why = _open(vault, _LIFT_REASON, row.sealed_lift_reason, row.case_tag, lifted)
    return Hold(str(placed.reviewer), row.placed_at, reason, str(lifted.reviewer), row.lifted_at, why)


def _case(engine: Engine, vault: Vault, number: str, now: datetime) -> Row[Any]:
    register_missing(engine, vault, now)
    with reading(engine).begin() as connection:
        found = connection.execute(select(cases).where(cases.c.case_tag == case_tag(vault, number))).first()
    if found is None:
        raise RequestError("no search of this case is here: write its number as `node search --case` was given it; `node cases` lists them")
    return found


def _seal(vault: Vault, purpose: str, salt: bytes, reason: str, tag: bytes) -> bytes:
    return vault.seal(purpose, json.dumps({"salt": salt.hex(), "reason": reason}).encode("utf-8"), tag)


def _open(vault: Vault, purpose: str, sealed: bytes, tag: bytes, said: HoldDocument) -> str:
    kept = json.loads(vault.open(purpose, sealed, tag))
    if commit_reason(bytes.fromhex(kept["salt"]), kept["reason"]) != said.reason_commitment:
        raise GrantSignatureError("the stored reason is not the one that the reviewer signed for")
    return str(kept["reason"])
