"""Errors as problem documents (RFC 9457): one table from error class to status, name and next lawful step.

Invariants: every class that `broker` or `crypto` refuses with has its own row, or that of the nearest class above it; a document's detail
is the error's text, which names a rule and quotes nothing, and one sentence on what may be done next; nothing of a request is echoed. One
document has a member more, `nonce_prefix` in hex, without which its next step cannot be taken. Words
for errors of `crypto` come from `crypto.lawful_steps`, so that node and broker say the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from broker import errors as own
from crypto import errors as core
from crypto.lawful_steps import explain

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:sealmatch:problem:"


@dataclass(frozen=True)
class Problem:
    """One problem document; `nonce_prefix` is what a nonce must begin with, in a refusal of that kind."""

    status: int
    name: str
    title: str
    detail: str
    nonce_prefix: bytes | None = None

    def to_bytes(self) -> bytes:
        """The JSON document."""
        members = {"type": TYPE_PREFIX + self.name, "title": self.title, "status": self.status, "detail": self.detail}
        if self.nonce_prefix is not None:
            members["nonce_prefix"] = self.nonce_prefix.hex()
        return json.dumps(members).encode("utf-8")


@dataclass(frozen=True)
class _Row:
    status: int
    name: str
    title: str
    step: str


_OWN: Final[Mapping[type[own.RefusedError], _Row]] = MappingProxyType(
    {
        own.UnsignedRequestError: _Row(
            401, "request-unsigned", "The request is not signed by a node of the roster", "Sign it with the node's key as RFC 9421 says."
        ),
        own.StaleRequestError: _Row(
            401, "request-stale", "The request was signed at another time", "Set the node's clock and sign the request again."
        ),
        own.NoncePrefixError: _Row(
            401,
            "nonce-prefix",
            "The request's nonce has another prefix than the broker's",
            "Sign the request again with a new nonce that begins with the 8 bytes of nonce_prefix.",
        ),
        own.ReplayedRequestError: _Row(
            409, "request-replayed", "The request was received before", "Sign the request again with a new nonce, if you sent it."
        ),
        own.MalformedRequestError: _Row(
            400, "request-malformed", "The request cannot be read", "Send it in the form of the broker's API, version 1."
        ),
        own.OversizedRequestError: _Row(413, "request-too-large", "The request is too long", "Send a message in parts of at most 1 MiB."),
        own.SlowRequestError: _Row(408, "request-too-slow", "The request's body did not arrive in time", "Send it again."),
        own.NotFoundError: _Row(404, "not-found", "Nothing is there for this caller", "Check the id, and whether it is yours to read."),
        own.NotYourStatementError: _Row(
            403, "statement-not-yours", "The statement is another agency's", "Let the agency that signed it send it."
        ),
        own.SupersededStatementError: _Row(
            409, "statement-superseded", "The statement does not follow the one before", "Read the stored one and sign one that follows it."
        ),
        own.NotYourGrantError: _Row(
            403, "grant-not-yours", "The grant is another agency's", "Let the requesting agency enter its own grant."
        ),
        own.ReplayedGrantError: _Row(
            409,
            "grant-replayed",
            "The grant was used before",
            "Ask the legal reviewer for a new grant with a new probe: one grant, one search.",
        ),
        own.UnknownGrantError: _Row(
            403, "grant-not-logged", "The grant does not stand in the log", "Enter the grant first: no log entry, no search."
        ),
        own.EntryError: _Row(
            403, "entry-not-yours", "The log entry is not this party's to make", "Enter what your own part in the grant calls for."
        ),
        own.FullLogError: _Row(
            429,
            "entries-exhausted",
            "Too many log entries of this grant, or of this agency today",
            "Ask the legal office to look at this grant before going on; expunctions are sent again by themselves until a day takes them.",
        ),
        own.NoCheckpointError: _Row(
            404,
            "checkpoint-not-yet",
            "There is no such checkpoint yet",
            "Ask again; if it lasts, tell the witnesses that cosignatures are due.",
        ),
        own.LogSizeError: _Row(
            404, "log-size-unknown", "The log has not that size", "Ask up to the newest checkpoint; if you hold a later one, report a fork."
        ),
        own.RouteError: _Row(
            403, "route-not-granted", "The grant gives these parties no such message", "Send it to a party that the grant names for it."
        ),
        own.PartOrderError: _Row(409, "part-order", "The first part has not arrived", "Send part 0 first, then the others."),
        own.PartConflictError: _Row(
            409,
            "part-conflict",
            "The part contradicts what is stored",
            "Send the parts of the stored message, or a message under its own id.",
        ),
        own.SequenceUsedError: _Row(
            409, "sequence-used", "The sequence number belongs to another message", "Send the first message again, or use the next number."
        ),
        own.FullMailboxError: _Row(
            507, "mailbox-full", "Too much waits for this recipient", "Wait until the recipient has collected, and send it again."
        ),
        own.UnknownLeaseError: _Row(
            404, "lease-unknown", "There is no such lease", "Poll again: the message is leased anew until it is acknowledged."
        ),
        own.BusyStoreError: _Row(503, "store-unavailable", "The broker's store does not answer", "Send it again later."),
        own.NoRosterError: _Row(
            503, "roster-missing", "The broker has no roster yet", "Let the broker's operator install one with `sealmatch broker roster`."
        ),
    }
)
_INTERNAL: Final = _Row(500, "internal", "The broker failed", "Send it again; if it lasts, tell the broker's operator.")
_STATUS: Final[Mapping[type[core.PeerError], int]] = MappingProxyType(
    {
        core.PeerError: 400,
        core.OversizedError: 413,
        core.BadSignatureError: 403,
        core.SenderSignatureError: 403,
        core.GrantError: 403,
        core.LogError: 409,
        core.RevokedError: 403,
        core.RosterError: 403,
        core.RosterExpiredError: 503,
    }
)
"""By class, else by the nearest class above."""
_BY_STATUS: Final[Mapping[int, _Row]] = MappingProxyType(
    {
        404: _Row(404, "no-such-route", "There is nothing at this address", "Use an address of the broker's API, version 1."),
        405: _Row(405, "method-not-allowed", "This address takes another method", "Use the method that the broker's API has there."),
        413: _OWN[own.OversizedRequestError],
    }
)


def problem_of(error: Exception) -> Problem:
    """The document for an error. Whatever is not a refusal is the broker's own fault, and its text stays inside."""
    if isinstance(error, own.NoncePrefixError):
        return replace(_problem(_OWN[type(error)], str(error)), nonce_prefix=error.prefix)
    if isinstance(error, own.RefusedError):
        return _problem(_OWN[type(error)], str(error))
    if isinstance(error, core.PeerError):
        explanation = explain(error)
        row = _Row(_status_of(type(error)), explanation.name, explanation.title, explanation.step)
        return _problem(row, str(error))
    return _problem(_INTERNAL, "")


def problem_of_status(status: int) -> Problem:
    """The document for what the framework refuses before a handler is reached."""
    row = _BY_STATUS.get(status)
    if row is None:
        malformed = _OWN[own.MalformedRequestError]
        row = _Row(status, malformed.name, malformed.title, malformed.step) if 400 <= status < 500 else _INTERNAL
    return _problem(row, "")


def store_problem() -> Problem:
    """The document for a store that is locked, full or gone."""
    return _problem(_OWN[own.BusyStoreError], "")


def _problem(row: _Row, reason: str) -> Problem:
    sentence = (reason[:1].upper() + reason[1:]).rstrip(".") + ". " if reason else ""
    return Problem(row.status, row.name, row.title, f"{sentence}{row.step}")


def _status_of(kind: type[core.PeerError]) -> int:
    return next(_STATUS[parent] for parent in kind.__mro__ if parent in _STATUS)
