"""Sealing keys: the P-256 key that an agency's envelopes are sealed to, published by it and signed with its node key.

A custodian's key changes every week, a requester's with every search; both are deleted when the searches sealed to them are closed
(PROTOCOL 4), so they cannot stand in the roster. The statement can come by any way, through the broker too: the node key in the pinned
roster vouches for it.

Invariants: what `read` returns was signed by the node key that the roster gives the agency. Weeks are ISO 8601 weeks in UTC, written
`2026-W48`. Left to others: which agencies must publish, and keeping the private half (services); sealing itself (`envelope`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, KeyId, SearchId, b64url_encode
from crypto.errors import AgencyStatementError, BadSignatureError, FieldError
from crypto.fields import Fields
from crypto.keys import SealingPublicKey, SigningKey
from crypto.moments import check_now
from crypto.roster import Roster
from crypto.signed import DocumentKind, key_id, read_document, sign_document

SEALING_KEY_KIND: Final = DocumentKind("sealmatch-1/sealing-key", 2048)
_WEEK: Final = re.compile(r"(20[0-9]{2})-W([0-9]{2})")


@dataclass(frozen=True, order=True)
class Week:
    """An ISO 8601 week in UTC, from Monday; `text` is its one spelling, `2026-W48`. `FieldError` for a week that does not exist."""

    text: str

    def __post_init__(self) -> None:
        parts = _WEEK.fullmatch(self.text)
        if parts is None:
            raise FieldError("a week is spelled like 2026-W48")
        try:
            date.fromisocalendar(int(parts[1]), int(parts[2]), 1)
        except ValueError as error:
            raise FieldError("week does not exist in its year") from error

    @classmethod
    def at(cls, now: datetime) -> Self:
        """The week of an aware moment."""
        check_now(now)
        year, week, _ = now.astimezone(UTC).isocalendar()
        return cls(f"{year:04d}-W{week:02d}")


@dataclass(frozen=True)
class SealingKeyStatement:
    """An agency says: in this week, or for this one search, seal to this key."""

    agency: AgencyId
    use: Week | SearchId
    key: SealingPublicKey

    @property
    def key_id(self) -> KeyId:
        """Derived from the key; an envelope's context names it."""
        return key_id(self.key.raw)

    def sign(self, node_key: SigningKey) -> bytes:
        """The document, for everybody."""
        use: JsonObject = {"week": self.use.text} if isinstance(self.use, Week) else {"search_id": str(self.use)}
        content: JsonObject = {"agency": str(self.agency), "key": b64url_encode(self.key.raw), **use}
        return sign_document(SEALING_KEY_KIND, content, node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The statement in `data`, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the agency is in the roster (`UnknownAgencyError`)
        3. its node key signed, and nobody else (`AgencyStatementError`)

        Whether it is for the week or the search at hand is `check_week` or `check_search`.
        """
        document = read_document(SEALING_KEY_KIND, data)  # 1
        fields: Fields = document.unverified_fields("sealing_key")
        use = fields.name("search_id", SearchId) if "search_id" in document.unverified_content else Week(fields.text("week"))
        statement = cls(fields.name("agency", AgencyId), use, SealingPublicKey(fields.data("key")))
        fields.close()
        node_key = roster.node_key(statement.agency)  # 2
        try:  # 3
            document.check_only_signer(node_key)
        except BadSignatureError as error:
            raise AgencyStatementError("sealing key is not signed by its agency's node key") from error
        return statement

    def check_week(self, now: datetime) -> None:
        """Raise `AgencyStatementError` unless `now` is in the statement's week: who seals, seals to this week's key."""
        if self.use != Week.at(now):
            raise AgencyStatementError("sealing key is of another week")

    def check_search(self, search_id: SearchId) -> None:
        """Raise `AgencyStatementError` unless the statement is for this search."""
        if isinstance(self.use, Week) or self.use != search_id:
            raise AgencyStatementError("sealing key is not for this search")
