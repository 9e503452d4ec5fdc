"""A holder's monthly statement of what federal agencies asked of its gallery: how many queries were admitted, answered, refused (R9).

It is made for every month, with zeros where nothing was asked, and signed with the node key, so that a number once stated is not taken
back. It says what the holder says: the log, in which every grant and refusal stands, is what oversight compares it with.

Invariants: what `read` returns was signed by the node key that the roster gives the agency. A query counts as federal if the agency that
asks or the one whose case it is is of the class `federal` in the roster. Left to others: counting (`agency_node.holder.federal`), who is
sent the statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, JsonValue
from crypto.epoch import Epoch
from crypto.errors import FieldError
from crypto.fields import MAX_INTEGER, check_ascending, check_range
from crypto.grant_basis import Purpose
from crypto.keys import SigningKey
from crypto.moments import check_moment, format_moment
from crypto.roster import Roster
from crypto.signed import DocumentKind, read_document, sign_document

FEDERAL_STATEMENT_KIND: Final = DocumentKind("sealmatch-1/federal-statement", 2048)


@dataclass(frozen=True)
class FederalStatement:
    """One holder's month. `admitted` queries passed its policy in that month, `refused` ones did not; `answered` were answered in it.

    `allowed_purposes`, in ascending order, is the holder's own list when the statement was made: empty means that federal access is off.
    The month was over at `made_at`. The constructor raises `FieldError`.
    """

    agency: AgencyId
    month: Epoch
    admitted: int
    answered: int
    refused: int
    allowed_purposes: tuple[Purpose, ...]
    made_at: datetime

    def __post_init__(self) -> None:
        for name in ("admitted", "answered", "refused"):
            check_range(getattr(self, name), 0, MAX_INTEGER, f"federal-statement.{name}")
        check_ascending(self.allowed_purposes, 0, len(Purpose), "federal-statement.allowed_purposes")
        check_moment(self.made_at, "federal-statement.made_at")
        if Epoch.at(self.made_at) <= self.month:
            raise FieldError("federal-statement.month is over when the statement is made")

    def sign(self, node_key: SigningKey) -> bytes:
        """The document, for everybody."""
        purposes: list[JsonValue] = [purpose.value for purpose in self.allowed_purposes]
        content: JsonObject = {
            "agency": str(self.agency),
            "month": self.month.month,
            "admitted": self.admitted,
            "answered": self.answered,
            "refused": self.refused,
            "allowed_purposes": purposes,
            "made_at": format_moment(self.made_at),
        }
        return sign_document(FEDERAL_STATEMENT_KIND, content, node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The statement in `data`, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the agency is a holder in the roster (`UnknownAgencyError`)
        3. its node key signed, and nobody else (`AgencyStatementError`)
        """
        document = read_document(FEDERAL_STATEMENT_KIND, data)  # 1
        fields = document.unverified_fields("federal-statement")
        statement = cls(
            agency=fields.name("agency", AgencyId),
            month=Epoch(fields.text("month")),
            admitted=fields.integer("admitted"),
            answered=fields.integer("answered"),
            refused=fields.integer("refused"),
            allowed_purposes=fields.choices("allowed_purposes", Purpose),
            made_at=fields.moment("made_at"),
        )
        fields.close()
        roster.check_holder_signed(document, statement.agency, "federal statement is not signed by its agency's node key")  # 2, 3
        return statement
