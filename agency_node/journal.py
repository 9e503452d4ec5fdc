"""The node's audit ledger: what it did and was asked, when, by whom, under which grant, with what outcome and why (R50 to R54).

Rows are only appended, each in the transaction of what it tells of, and each holds the hash of the row before and its own: SHA-256 over the
canonical JSON of everything else in it. Every transaction of a node begins with the write lock (`store`), so that two processes continue
one chain; the database refuses a row that does not follow the last one, every change and every deletion (migration 0007). Nothing deletes
rows, so the year that R53 asks for is kept.

Rows hold ids, codes, rule numbers and digests; never case text, scores or names of persons. A case is told by its salted commitment
(R54), a person by the id in the roster, an operator without a key by the account's number on this machine. What the first row of a search
says of its grant, every later row of it repeats.

Left to others: checking the chain (`ledger_check`), weekly review (`ledger_review`), who runs a command (`commands.acting`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypedDict, Unpack

from sqlalchemy import Connection

from agency_node.tables import ledger
from crypto.canonical import JsonObject, canonical_json
from crypto.grant_claims import GrantClaims
from crypto.moments import format_moment, round_moment

NO_SEARCH: Final = ""
DONE: Final = "done"
REFUSED: Final = "refused"
FAILED: Final = "failed"
NODE: Final = "node"
"""Who acts when nobody typed a command: the serving process, by its own rules."""
FIRST_PREVIOUS: Final = bytes(32)
"""What stands in the first row for the hash of the row before."""

_ROW_TYPE: Final = "sealmatch-1/ledger-row"
_COLUMNS: Final = tuple(column.name for column in ledger.columns)
_INSERT: Final = f"INSERT INTO ledger ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # names of columns
_LAST: Final = "SELECT sequence, hash FROM ledger ORDER BY sequence DESC LIMIT 1"
_KNOWN: Final = "SELECT requester, secondary, grant_digest, case_commitment FROM ledger WHERE search_id = ? ORDER BY sequence DESC LIMIT 1"
_actor: ContextVar[tuple[str, str]] = ContextVar("_actor", default=(NODE, "serve"))


@dataclass(frozen=True)
class About:
    """What a verified grant says of its search, for the ledger: ids and digests in hexadecimal.

    `secondary` is the originating agency where another one asks for it: it receives what the requester does (R51).
    """

    requester: str = ""
    secondary: str = ""
    grant_digest: str = ""
    case_commitment: str = field(default="", repr=False)

    @classmethod
    def of(cls, claims: GrantClaims) -> About:
        """Of these claims."""
        requester, originator = str(claims.requesting_agency), str(claims.originating_agency)
        return cls(requester, "" if originator == requester else originator, claims.digest.hex(), claims.case_commitment.hex())


@contextmanager
def acting_as(actor: str, source: str) -> Iterator[None]:
    """Rows written inside name this operator and source, where they do not say otherwise themselves."""
    before = _actor.set((actor, source))
    try:
        yield
    finally:
        _actor.reset(before)


class Told(TypedDict, total=False):
    """What a row says beside event and detail.

    `actor` is the person or agency that acted, by default who runs this process; `source` the command or message; `subject` what it was
    done to; `recipient` the agency that receives something by it; `outcome` is `done` unless it says otherwise.
    """

    actor: str
    source: str
    subject: str
    recipient: str
    outcome: str


def record(
    connection: Connection, now: datetime, search_id: str, event: str, detail: str = "", *, about: About | None = None, **told: Unpack[Told]
) -> None:
    """Append one row in the caller's transaction; `now` is kept to the hundredth of a second (R52).

    `about` is what the search's grant says, when that is at hand.
    """
    known = about or _known(connection, search_id)
    actor, source = _actor.get()
    append(
        connection,
        {
            "at": stamp(now),
            "search_id": str(search_id),
            "event": event,
            "actor": told.get("actor", actor),
            "source": told.get("source", source),
            "subject": told.get("subject", ""),
            "recipient": told.get("recipient", ""),
            "outcome": told.get("outcome", DONE),
            "requester": known.requester,
            "secondary": known.secondary,
            "grant_digest": known.grant_digest,
            "case_commitment": known.case_commitment,
            "detail": detail,
        },
    )


def append(connection: Connection, said: dict[str, str]) -> None:
    """Append a row that says this: the next number, and the hash that continues the chain."""
    last = connection.exec_driver_sql(_LAST).first()
    number, previous = (0, FIRST_PREVIOUS) if last is None else (int(last[0]), bytes(last[1]))
    row: dict[str, Any] = {"sequence": number + 1, **said, "previous": previous}
    row["hash"] = row_hash(row)
    connection.exec_driver_sql(_INSERT, tuple(row[name] for name in _COLUMNS))


def row_hash(row: dict[str, Any]) -> bytes:
    """SHA-256 over the canonical JSON (RFC 8785) of a row without its own hash; `previous` as hexadecimal digits."""
    told: JsonObject = {name: row[name] for name in _COLUMNS if name not in ("hash", "previous")}
    return hashlib.sha256(canonical_json({**told, "type": _ROW_TYPE, "previous": bytes(row["previous"]).hex()})).digest()


def stamp(now: datetime) -> str:
    """A moment as the store writes it: ISO 8601 in UTC, to the hundredth; sorts as text."""
    return format_moment(round_moment(now))


def _known(connection: Connection, search_id: str) -> About:
    """What the search's last row says of its grant, which it has from the row that was written under the verified grant."""
    found = connection.exec_driver_sql(_KNOWN, (str(search_id),)).first() if search_id else None
    return About() if found is None else About(*found)
