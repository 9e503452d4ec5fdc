"""A signed statement that the face model was tested in this agency's operating conditions before use (R63).

The test itself is made outside, on a local labelled set; its report stays with the agency. A person signs for the report's SHA-256, the
model and the day. Invariants: a statement holds for one model and for a year; the node keeps the latest one. Left to others: measuring, and
whether the report is good; who may sign (`duties`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Self

from sqlalchemy import Engine

from agency_node.errors import RequestError
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.journal import NO_SEARCH, Told, record
from agency_node.legal.duties import check_may_sign, check_signed_for
from agency_node.legal.persons import PersonKey
from crypto.canonical import AgencyId, JsonObject, PersonId
from crypto.fields import check_digest
from crypto.keys import SigningKey
from crypto.moments import check_day, utc_day
from crypto.roster import Roster
from crypto.signed import DocumentKind, read_document, sign_document

EVALUATION_KIND: Final = DocumentKind("sealmatch-1/local-evaluation", 2048)
HOLDS_FOR: Final = timedelta(days=365)


@dataclass(frozen=True)
class Evaluation:
    """`person` states that the model of this hash was tested by the agency on that day; `report_sha256` is the report's."""

    agency: AgencyId
    model_hash: bytes
    report_sha256: bytes
    evaluated_on: date
    person: PersonId

    def __post_init__(self) -> None:
        check_digest(self.model_hash, "evaluation.model_hash")
        check_digest(self.report_sha256, "evaluation.report_sha256")
        check_day(self.evaluated_on, "evaluation.evaluated_on")

    def sign(self, key: SigningKey) -> bytes:
        """The document."""
        content: JsonObject = {
            "agency": str(self.agency),
            "model_hash": self.model_hash.hex(),
            "report_sha256": self.report_sha256.hex(),
            "evaluated_on": self.evaluated_on.isoformat(),
            "person": str(self.person),
        }
        return sign_document(EVALUATION_KIND, content, key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The statement in `data`: size, form, content (an `EncodingError`), then `check_signed_for`."""
        document = read_document(EVALUATION_KIND, data)
        fields = document.unverified_fields("evaluation")
        found = cls(
            agency=fields.name("agency", AgencyId),
            model_hash=fields.digest("model_hash"),
            report_sha256=fields.digest("report_sha256"),
            evaluated_on=fields.day("evaluated_on"),
            person=fields.name("person", PersonId),
        )
        fields.close()
        check_signed_for(document, found.agency, found.person, roster)
        return found


def state_evaluation(
    engine: Engine, roster: Roster, agency: AgencyId, model_hash: bytes, report_sha256: bytes, on: date, person: PersonKey, now: datetime
) -> None:
    """Keep a person's statement. The roster lists the key for that (`AgencyRoleError`), training holds (R14), and the day is neither to
    come nor a year ago (`RequestError`)."""
    signatory = roster.signatory(person.key_id)
    check_may_sign(signatory, agency, roster)
    signatory.person.check_trained(now)
    if not utc_day(now) - HOLDS_FOR < on <= utc_day(now):
        raise RequestError("a model's local test holds for a year from its day: name the day of one that was made within it")
    document = Evaluation(agency, model_hash, report_sha256, on, signatory.person.person_id).sign(person.signing_key)
    with engine.begin() as connection:
        write_fact(connection, Fact.EVALUATION, document)
        said: Told = {"actor": str(signatory.person.person_id), "subject": f"report {report_sha256.hex()}"}
        record(connection, now, NO_SEARCH, "model evaluated", f"on {on.isoformat()}", **said)


def evaluation_in_force(engine: Engine, roster: Roster, agency: AgencyId, model_hash: bytes, now: datetime) -> bool:
    """Whether the kept statement is this agency's, of this model, and not older than a year; raises what `Evaluation.read` raises."""
    with engine.begin() as connection:
        data = read_fact(connection, Fact.EVALUATION)
    if data is None:
        return False
    found = Evaluation.read(data, roster)
    return (found.agency, found.model_hash) == (agency, model_hash) and utc_day(now) - HOLDS_FOR < found.evaluated_on
