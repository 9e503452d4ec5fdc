"""A person asks an agency "am I in your gallery, and correct it": received, answered, asked for more, closed, each within a time (R26).

    received -> answered -> asked (a correction or an expunction) -> closed
                answered ------------------------------------------> closed

The question is about one record, by its number; a gallery holds no names. A photograph that the person brings is compared with that
record's own photograph and nothing else: no template is opened, not even the record's, because templates lie in blocks with those of
others, and there is no function here that takes a photograph without a record. So nobody finds with this who is on a picture. What comes
of it is a verdict, never a score, and the photograph is kept nowhere.

Invariants: everything stays at this node, and nothing is queued for the broker; the ledger has a line for each step with a salted
commitment to the record's number and no number, no verdict; each answer and each closing is signed by legal staff (`legal.duties`); a
request is not closed as expunged while its record is there. Left to others: destroying the record (`records`), who stands before the desk,
which the agency's staff looks at, as for every request of a person for a record.
"""

from __future__ import annotations

import enum
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

from sqlalchemy import Connection, Engine, Row, insert, select, update

from agency_node.config import SubjectRequestRules
from agency_node.errors import RequestError
from agency_node.faces.embedder import Embedder, the_one_face
from agency_node.faces.image import read_image
from agency_node.gallery_tables import records, subject_requests
from agency_node.holder.records import RecordStore, check_record_number
from agency_node.journal import NO_SEARCH, Told, record, stamp
from agency_node.legal.duties import check_may_sign, check_signed_for
from agency_node.legal.persons import PersonKey
from agency_node.vault import Vault
from crypto.canonical import AgencyId, JsonObject, PersonId
from crypto.fields import check_digest
from crypto.keys import SigningKey
from crypto.moments import check_moment, format_moment, parse_moment, round_moment
from crypto.roster import Roster
from crypto.signed import DocumentKind, read_document, sign_document

WORD_KIND: Final = DocumentKind("sealmatch-1/subject-request", 2048)
_PURPOSE: Final = "subject-request"
_LABEL: Final = b"sealmatch-1/subject-request|"
_SALT_BYTES: Final = 32


class State(enum.StrEnum):
    """How far a request is."""

    RECEIVED = "received"
    ANSWERED = "answered"
    ASKED = "asked"
    CLOSED = "closed"


class Verdict(enum.StrEnum):
    """What a person is told about the record."""

    IN_IT = "in it"
    NOT_IN_IT = "not in it"


class Pictured(enum.StrEnum):
    """What a person is told about a photograph that was brought; `NOT_SAID` when the record is not there or has none."""

    NOT_ASKED = ""
    THE_PERSON = "photograph of the record's person"
    ANOTHER = "photograph of another person"
    NOT_SAID = "no photograph to compare with"


class Asked(enum.StrEnum):
    """What a person asks for after the answer."""

    CORRECTION = "correction"
    EXPUNCTION = "expunction"


class Outcome(enum.StrEnum):
    """How a request ended."""

    SATISFIED = "satisfied"
    CORRECTED = "corrected"
    EXPUNGED = "expunged"
    REFUSED = "refused"


@dataclass(frozen=True)
class Word:
    """What legal staff signed for: the answer (`outcome` empty), or the closing. `commitment` is to the record's number, with the salt that
    the person is given."""

    agency: AgencyId
    request_id: str
    commitment: bytes
    verdict: Verdict
    pictured: Pictured
    outcome: str
    person: PersonId
    at: datetime

    def __post_init__(self) -> None:
        check_digest(self.commitment, "subject-request.commitment")
        check_moment(self.at, "subject-request.at")

    def sign(self, key: SigningKey) -> bytes:
        """The document."""
        content: JsonObject = {
            "agency": str(self.agency),
            "request_id": self.request_id,
            "commitment": self.commitment.hex(),
            "verdict": self.verdict.value,
            "pictured": self.pictured.value,
            "outcome": self.outcome,
            "person": str(self.person),
            "at": format_moment(self.at),
        }
        return sign_document(WORD_KIND, content, key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The word in `data`: size, form, content (an `EncodingError`), then `check_signed_for`."""
        document = read_document(WORD_KIND, data)
        fields = document.unverified_fields("subject-request")
        word = cls(
            agency=fields.name("agency", AgencyId),
            request_id=fields.text("request_id"),
            commitment=fields.digest("commitment"),
            verdict=fields.choice("verdict", Verdict),
            pictured=fields.choice("pictured", Pictured),
            outcome=fields.text("outcome"),
            person=fields.name("person", PersonId),
            at=fields.moment("at"),
        )
        fields.close()
        check_signed_for(document, word.agency, word.person, roster)
        return word


@dataclass(frozen=True)
class SubjectRequest:
    """A request as the status shows it: never of which record."""

    request_id: str
    state: State
    received_at: str
    due_at: str
    asked: str
    outcome: str
    warning: str


@dataclass(frozen=True)
class Signer:
    """Who signs, for which agency, under which roster."""

    agency: AgencyId
    roster: Roster
    key: PersonKey


@dataclass(frozen=True)
class Answer:
    """What the person at the desk is told, and given: the signed document, and the salt that opens its commitment."""

    verdict: Verdict
    pictured: Pictured
    document: bytes = field(repr=False)
    salt: bytes = field(repr=False)


def commitment_to(record_number: str, salt: bytes) -> bytes:
    """SHA-256 of label, salt and number, 32 bytes: what stands in ledger and document for the number."""
    return hashlib.sha256(_LABEL + salt + record_number.encode("utf-8")).digest()


class SubjectRequests:
    """The requests of one node."""

    def __init__(self, engine: Engine, vault: Vault, rules: SubjectRequestRules, clock: Callable[[], datetime]) -> None:
        self._engine, self._vault, self._rules, self._clock = engine, vault, rules, clock

    def receive(self, record_number: str) -> SubjectRequest:
        """Keep a request; its time runs from now. Says nothing of whether there is such a record."""
        check_record_number(record_number)
        now, salt, request_id = self._clock(), secrets.token_bytes(_SALT_BYTES), secrets.token_hex(8)
        sealed = json.dumps({"record_number": record_number, "salt": salt.hex()}).encode("utf-8")
        row = {
            "request_id": request_id,
            "sealed_request": self._vault.seal(_PURPOSE, sealed, request_id.encode("ascii")),
            "received_at": stamp(now),
            "due_at": stamp(self._due(now)),
            "state": State.RECEIVED.value,
            "asked": "",
            "outcome": "",
        }
        with self._engine.begin() as connection:
            connection.execute(insert(subject_requests).values(row))
            said: Told = {"subject": f"request {request_id}"}
            commitment = commitment_to(record_number, salt).hex()
            record(connection, now, NO_SEARCH, "subject request received", f"commitment {commitment}, due {row['due_at']}", **said)
        return self._find(request_id)

    def answer(self, request_id: str, store: RecordStore, embedder: Embedder, photograph: bytes | None, signer: Signer) -> Answer:
        """Look for that one record, compare a photograph with that record's, sign what comes of it. After these checks in this order:

        1. the request is there and waits for an answer (`RequestError`)
        2. who signs may (`AgencyRoleError`), and training holds (R14)
        3. the photograph shows one face (`ImageError`); it is looked at only where the record has one to compare with
        """
        number, salt, row = self._opened(request_id)  # 1
        if row.state != State.RECEIVED:
            raise RequestError("this request was answered: close it, or receive a new one")
        person = self._check(signer)  # 2
        place = self._row_of(number)
        verdict = Verdict.NOT_IN_IT if place is None else Verdict.IN_IT
        pictured = Pictured.NOT_ASKED
        if photograph is not None:
            kept = None if place is None else store.record(place).photograph
            pictured = Pictured.NOT_SAID if kept is None else self._compare(embedder, photograph, kept)  # 3
        word = Word(signer.agency, request_id, commitment_to(number, salt), verdict, pictured, "", person, round_moment(self._clock()))
        document = word.sign(signer.key.signing_key)
        self._step(request_id, State.ANSWERED, person, document, {"answer": document})
        return Answer(verdict, pictured, document, salt)

    def ask(self, request_id: str, asked: Asked) -> str:
        """The person, answered, asks for more: the record's number, for whoever carries it out."""
        number, _, row = self._opened(request_id)
        if row.state != State.ANSWERED:
            raise RequestError("a correction or an expunction is asked for after the answer, once: answer the request first")
        self._step(request_id, State.ASKED, None, b"", {"asked": asked.value})
        return number

    def close(self, request_id: str, outcome: Outcome, signer: Signer) -> bytes:
        """End an answered request; the signed document. `RequestError` for one that is not answered, and for `expunged` while the record is
        there."""
        number, salt, row = self._opened(request_id)
        if row.state not in (State.ANSWERED, State.ASKED):
            raise RequestError("a request is answered before it is closed, and closed once")
        person = self._check(signer)
        there = self._row_of(number) is not None
        if outcome is Outcome.EXPUNGED and there:
            raise RequestError("the record is still there: destroy it with `sealmatch node expunge`, then close the request")
        answered = Word.read(row.answer, signer.roster)
        commitment, at = commitment_to(number, salt), round_moment(self._clock())
        word = Word(signer.agency, request_id, commitment, answered.verdict, answered.pictured, outcome.value, person, at)
        document = word.sign(signer.key.signing_key)
        self._step(request_id, State.CLOSED, person, document, {"outcome": outcome.value, "closing": document})
        return document

    def open_requests(self) -> list[SubjectRequest]:
        """Those that are not closed, the oldest first, with a warning where time runs out."""
        waiting = select(subject_requests).where(subject_requests.c.state != State.CLOSED.value).order_by(subject_requests.c.received_at)
        with self._engine.begin() as connection:
            return [self._shown(row) for row in connection.execute(waiting)]

    def full_id(self, text: str) -> str:
        """The id of the one request that begins so."""
        with self._engine.begin() as connection:
            wanted = select(subject_requests.c.request_id).where(subject_requests.c.request_id.startswith(text, autoescape=True))
            found = connection.execute(wanted).scalars().all()
        if len(found) != 1 or not text:
            raise RequestError("there is no one request that begins so: `sealmatch node subject DIR` lists those that are open")
        return str(found[0])

    def _due(self, now: datetime) -> datetime:
        return now + timedelta(days=self._rules.days)

    def _find(self, request_id: str) -> SubjectRequest:
        with self._engine.begin() as connection:
            return self._shown(self._row(connection, request_id))

    def _shown(self, row: Row[Any]) -> SubjectRequest:
        left = parse_moment(row.due_at, "due_at") - self._clock()
        warning = ""
        if row.state != State.CLOSED and left < timedelta():
            warning = f"OVERDUE since {row.due_at} (R26)"
        elif row.state != State.CLOSED and left < timedelta(days=self._rules.warn_days):
            warning = f"due within {-(-left // timedelta(days=1))} days (R26)"
        return SubjectRequest(row.request_id, State(row.state), row.received_at, row.due_at, row.asked, row.outcome, warning)

    def _opened(self, request_id: str) -> tuple[str, bytes, Row[Any]]:
        with self._engine.begin() as connection:
            row = self._row(connection, request_id)
        kept = json.loads(self._vault.open(_PURPOSE, row.sealed_request, request_id.encode("ascii")))
        return kept["record_number"], bytes.fromhex(kept["salt"]), row

    def _row(self, connection: Connection, request_id: str) -> Row[Any]:
        found = connection.execute(select(subject_requests).where(subject_requests.c.request_id == request_id)).one_or_none()
        if found is None:
            raise RequestError("there is no such request: `sealmatch node subject DIR` lists those that are open")
        return found

    def _row_of(self, record_number: str) -> int | None:
        """The row of that one record, found by its tag (`RecordStore`); no other row is read."""
        tag = self._vault.tag("record-number", record_number.encode("utf-8"))
        wanted = select(records.c.row).where(records.c.tag == tag, records.c.expunged_at.is_(None))
        with self._engine.begin() as connection:
            found: int | None = connection.execute(wanted).scalar_one_or_none()
        return found

    def _compare(self, embedder: Embedder, brought: bytes, kept: bytes) -> Pictured:
        one, other = (embedder.model.centred_unit(the_one_face(embedder, read_image(data)).embedding) for data in (brought, kept))
        return Pictured.THE_PERSON if float(one @ other) >= self._rules.cosine else Pictured.ANOTHER

    def _check(self, signer: Signer) -> PersonId:
        signatory = signer.roster.signatory(signer.key.key_id)
        check_may_sign(signatory, signer.agency, signer.roster)
        signatory.person.check_trained(self._clock())
        return signatory.person.person_id

    def _step(self, request_id: str, state: State, person: PersonId | None, document: bytes, values: dict[str, object]) -> None:
        with self._engine.begin() as connection:
            where = subject_requests.c.request_id == request_id
            connection.execute(update(subject_requests).where(where).values(state=state.value, **values))
            said: Told = {"subject": f"request {request_id}"}
            if person is not None:
                said["actor"] = str(person)
            digest = f"document {hashlib.sha256(document).hexdigest()}" if document else ""
            record(connection, self._clock(), NO_SEARCH, f"subject request {state.value}", digest, **said)

    def __repr__(self) -> str:
        return "SubjectRequests(<redacted>)"
