"""The weekly review of a node's ledger: a person who read a week signs for the hash of its last row (R53).

Invariants: only a week that is
over is signed, once, after the whole chain up to it was found whole; the document names agency, week, row and hash, and is stored beside
the ledger with a row that tells of it. HAZARD: what is stored beside the ledger goes with it; the signer keeps a copy.

Left to others: the chain (`journal`), checking it (`ledger_check`), who may sign (`legal.duties`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from sqlalchemy import Connection, Engine, insert, select

from agency_node.errors import RequestError
from agency_node.journal import NO_SEARCH, Told, record, stamp
from agency_node.legal.duties import check_may_sign, check_signed_for
from agency_node.legal.persons import PersonKey
from agency_node.tables import ledger, ledger_sign_offs
from crypto.canonical import AgencyId, JsonObject, PersonId
from crypto.fields import MAX_INTEGER, check_digest, check_range
from crypto.keys import SigningKey
from crypto.moments import check_moment, format_moment, round_moment
from crypto.roster import Roster
from crypto.sealing_key import Week
from crypto.signed import DocumentKind, read_document, sign_document

SIGN_OFF_KIND: Final = DocumentKind("sealmatch-1/ledger-sign-off", 2048)
TIME_TO_REVIEW: Final = timedelta(days=7)
"""From a week's end; then its review is overdue."""


@dataclass(frozen=True)
class SignOff:
    """A person read the ledger of `agency` up to row `sequence`, the last of `week` or before; `hash` is that row's. `rows` of them are of
    this week."""

    agency: AgencyId
    week: Week
    sequence: int
    hash: bytes = field(repr=False)
    rows: int
    person: PersonId
    signed_at: datetime

    def __post_init__(self) -> None:
        check_range(self.sequence, 1, MAX_INTEGER, "sign-off.sequence")
        check_range(self.rows, 0, self.sequence, "sign-off.rows")
        check_digest(self.hash, "sign-off.hash")
        check_moment(self.signed_at, "sign-off.signed_at")

    def sign(self, key: SigningKey) -> bytes:
        """The document."""
        content: JsonObject = {
            "agency": str(self.agency),
            "week": self.week.text,
            "sequence": self.sequence,
            "hash": self.hash.hex(),
            "rows": self.rows,
            "person": str(self.person),
            "signed_at": format_moment(self.signed_at),
        }
        return sign_document(SIGN_OFF_KIND, content, key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The sign-off in `data`, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the person whom it names signed, and may (`check_signed_for`)
        """
        document = read_document(SIGN_OFF_KIND, data)  # 1
        fields = document.unverified_fields("sign-off")
        signed = cls(
            agency=fields.name("agency", AgencyId),
            week=Week(fields.text("week")),
            sequence=fields.integer("sequence"),
            hash=fields.digest("hash"),
            rows=fields.integer("rows"),
            person=fields.name("person", PersonId),
            signed_at=fields.moment("signed_at"),
        )
        fields.close()
        check_signed_for(document, signed.agency, signed.person, roster)  # 2
        return signed


@dataclass(frozen=True)
class WeekToReview:
    """A week with rows that nobody has signed for; `overdue` from seven days after its end."""

    week: str
    rows: int
    overdue: bool


def sign_off(engine: Engine, roster: Roster, agency: AgencyId, week: Week, person: PersonKey, now: datetime) -> bytes:
    """Store a person's signature for a week, and return the document, which the person keeps. After these checks in this order:

    1. the week is over and was not signed for (`RequestError`)
    2. the roster lists the key as a reviewer's or officer's of this agency (`AgencyRoleError`), whose training holds (R14)
    3. something was recorded until its end (`RequestError`)

    The caller has checked the chain: a person signs for what was found whole.
    """
    if week >= Week.at(now):  # 1
        raise RequestError(f"week {week.text} is not over: sign for it when it is")
    signatory = roster.signatory(person.key_id)
    check_may_sign(signatory, agency, roster)  # 2
    signatory.person.check_trained(now)
    with engine.begin() as connection:
        if connection.execute(select(ledger_sign_offs.c.week).where(ledger_sign_offs.c.week == week.text)).first() is not None:
            raise RequestError(f"week {week.text} is signed for: `sealmatch node status` lists those that are not")
        until = stamp(end_of(week))
        last = connection.execute(
            select(ledger.c.sequence, ledger.c.hash).where(ledger.c.at < until).order_by(ledger.c.sequence.desc()).limit(1)
        ).first()
        if last is None:  # 3
            raise RequestError(f"nothing was recorded until the end of week {week.text}: there is nothing to sign for")
        rows = _rows_of(connection).get(week.text, 0)
        signed = SignOff(agency, week, last.sequence, last.hash, rows, signatory.person.person_id, round_moment(now))
        document = signed.sign(person.signing_key)
        connection.execute(insert(ledger_sign_offs).values(week=week.text, sequence=signed.sequence, document=document))
        said: Told = {"actor": str(signed.person), "subject": f"week {week.text}"}
        record(connection, now, NO_SEARCH, "ledger signed off", f"to row {signed.sequence}", **said)
    return document


def weeks_to_review(engine: Engine, now: datetime) -> list[WeekToReview]:
    """Weeks that are over, have rows and have no sign-off, in order (R53: unsigned weeks are visible)."""
    with engine.begin() as connection:
        rows = _rows_of(connection)
        signed = set(connection.execute(select(ledger_sign_offs.c.week)).scalars())
    open_weeks = [Week(text) for text in sorted(rows) if text not in signed and Week(text) < Week.at(now)]
    return [WeekToReview(week.text, rows[week.text], now >= end_of(week) + TIME_TO_REVIEW) for week in open_weeks]


def end_of(week: Week) -> datetime:
    """The first moment after the week, in UTC."""
    year, number = int(week.text[:4]), int(week.text[-2:])
    return datetime.fromisocalendar(year, number, 1).replace(tzinfo=UTC) + timedelta(days=7)


def _rows_of(connection: Connection) -> dict[str, int]:
    """How many rows there are of each week."""
    counted: dict[str, int] = {}
    days = connection.exec_driver_sql("SELECT substr(at, 1, 10), count(*) FROM ledger GROUP BY 1").all()
    for day, count in days:
        week = Week.at(datetime.fromisoformat(str(day)).replace(tzinfo=UTC)).text
        counted[week] = counted.get(week, 0) + int(count)
    return counted
