"""Open notices about a search: it is refused, this was deleted, does the grant stand, it does. Signed by the frame, readable by the broker.

Invariants: a notice holds codes, numbers, digests and moments and no text, so that no case can slip into it. A refusal says no more
than its code: how near a score was, why a seal did not open or where parsing stopped would be an oracle. Left to others: when to
refuse, what a rule number means (the policy packs), and what stands in the log about it (`entries`).
"""

from __future__ import annotations

import enum
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self

from crypto.binary import Kind, Reader, Writer
from crypto.errors import FieldError, RevokedError, StaleStatementError
from crypto.fields import DIGEST_BYTES, check_range
from crypto.limits import MAX_RULE
from crypto.moments import check_moment, check_now
from crypto.wire import MOMENT_BYTES, MessageId, read_member, read_moment, write_moment

NONCE_BYTES: Final = 32
MAX_STATEMENT_AGE: Final = timedelta(minutes=5)
MAX_CLOCK_SKEW: Final = timedelta(minutes=1)
"""How far a legal office's clock may be ahead of the custodian's."""

_PREFIX_BYTES: Final = 5


class RefusalReason(enum.IntEnum):
    """Why a message was not acted on; one number for ever."""

    MALFORMED = 1
    """Size, form, seal or signature; which of them is not said."""
    ROSTER = 2
    GRANT = 3
    GRANT_NOT_IN_FORCE = 4
    REVOKED = 5
    REPLAYED = 6
    POLICY = 7
    """A rule of a policy pack; its number stands beside."""
    CUSTODIAN = 8
    CHECKPOINT = 9
    """Stale, without quorum, or without the entry."""
    FORK = 10
    EPOCH = 11
    MODEL = 12
    BUDGET = 13
    CALIBRATION = 14
    ANSWER = 15
    """Seeds, opened scores and answer that do not belong together."""
    RELEASE = 16
    LATE = 17
    WITHDRAWN = 18
    UNAVAILABLE = 19
    """This party cannot serve now; the same message may come again."""
    MODE = 20
    """A node in production and one in demo or test mode have nothing to do with one another."""


class Deleted(enum.IntEnum):
    """What a party deletes when a search is closed; one number for ever."""

    PROBE = 1
    ANSWER = 2
    ORDER_SEED = 3
    MASK_SEED = 4
    OPENED_SCORES = 5
    SCORES = 6
    SEARCH_KEY = 7
    SEALING_KEY = 8
    RELEASE = 9
    STUBS = 10
    PHOTOGRAPH = 11
    EMBEDDING = 12
    GALLERY = 13


class Standing(enum.IntEnum):
    """What a legal office says of a grant."""

    STANDS = 1
    ENDED = 2
    """Revoked, or lapsed without ratification (R4)."""


@dataclass(frozen=True)
class Refusal:
    """Any party to any: `refused` was not acted on. `rule` is the number of the deciding rule, 1 to 999, required for `POLICY`.

    `WITHDRAWN` comes from the requester: it takes the search back, and `refused` is the digest of the grant instead of a message's.
    """

    refused: MessageId
    reason: RefusalReason
    rule: int | None = None

    def __post_init__(self) -> None:
        if self.rule is not None:
            check_range(self.rule, 1, MAX_RULE, "refusal.rule")
        elif self.reason is RefusalReason.POLICY:
            raise FieldError("a refusal by policy names its rule")

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return Writer(Kind.REFUSAL).fixed(self.refused.digest, DIGEST_BYTES).integer(self.reason, 1).integer(self.rule or 0, 2).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.REFUSAL, max_bytes=REFUSAL_BYTES)
        refused, reason = MessageId(reader.fixed(DIGEST_BYTES).hex()), read_member(reader, RefusalReason)
        rule = reader.integer(2, low=0, high=MAX_RULE)
        reader.finish()
        return cls(refused, reason, rule or None)


@dataclass(frozen=True)
class DeletionReceipt:
    """Any party to any: of this search I hold none of `deleted` any more, since `deleted_at` (R22). Kinds ascend, each once."""

    deleted: tuple[Deleted, ...]
    deleted_at: datetime

    def __post_init__(self) -> None:
        if not self.deleted or list(self.deleted) != sorted(set(self.deleted)):
            raise FieldError("receipt.deleted names something, in ascending order, each once")
        check_moment(self.deleted_at, "receipt.deleted_at")

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        writer = Writer(Kind.DELETION_RECEIPT).integer(len(self.deleted), 1)
        return write_moment(writer.fixed(bytes(self.deleted), len(self.deleted)), self.deleted_at).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.DELETION_RECEIPT, max_bytes=MAX_RECEIPT_BYTES)
        count = reader.integer(1, low=1, high=len(Deleted))
        receipt = cls(tuple(read_member(reader, Deleted) for _ in range(count)), read_moment(reader))
        reader.finish()
        return receipt


@dataclass(frozen=True)
class RevocationQuery:
    """C -> legal office of the requesting agency, before anything is released: does the frame's grant still stand?"""

    nonce: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_nonce(self.nonce)

    @classmethod
    def fresh(cls) -> Self:
        """A query with a new nonce from the operating system."""
        return cls(secrets.token_bytes(NONCE_BYTES))

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return Writer(Kind.REVOCATION_QUERY).fixed(self.nonce, NONCE_BYTES).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.REVOCATION_QUERY, max_bytes=REVOCATION_QUERY_BYTES)
        nonce = reader.fixed(NONCE_BYTES)
        reader.finish()
        return cls(nonce)


@dataclass(frozen=True)
class RevocationStatement:
    """Legal office -> C: of the frame's grant I say this, at this moment, to the query with this nonce."""

    nonce: bytes = field(repr=False)
    standing: Standing
    stated_at: datetime

    def __post_init__(self) -> None:
        _check_nonce(self.nonce)
        check_moment(self.stated_at, "statement.stated_at")

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        writer = Writer(Kind.REVOCATION_STATEMENT).fixed(self.nonce, NONCE_BYTES).integer(self.standing, 1)
        return write_moment(writer, self.stated_at).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.REVOCATION_STATEMENT, max_bytes=REVOCATION_STATEMENT_BYTES)
        statement = cls(reader.fixed(NONCE_BYTES), read_member(reader, Standing), read_moment(reader))
        reader.finish()
        return statement

    def check_stands(self, query: RevocationQuery, now: datetime) -> None:
        """Raise unless the grant stands by this statement:

        1. it answers `query` (`StaleStatementError`)
        2. it says that the grant stands (`RevokedError`)
        3. it is at most five minutes old at `now`, an aware datetime, and not from the future (`StaleStatementError`)

        That the grant's own legal office signed, and that the log agrees, is checked elsewhere (`messages`, `mirror`).
        """
        check_now(now)
        # 1
        if self.nonce != query.nonce:
            raise StaleStatementError("statement answers another query")
        # 2
        if self.standing is not Standing.STANDS:
            raise RevokedError("the legal office says that the grant has ended")
        # 3
        if not -MAX_CLOCK_SKEW <= now - self.stated_at <= MAX_STATEMENT_AGE:
            raise StaleStatementError("statement that the grant stands is older than five minutes, or from the future")


REFUSAL_BYTES: Final = _PREFIX_BYTES + DIGEST_BYTES + 1 + 2
MAX_RECEIPT_BYTES: Final = _PREFIX_BYTES + 1 + len(Deleted) + MOMENT_BYTES
REVOCATION_QUERY_BYTES: Final = _PREFIX_BYTES + NONCE_BYTES
REVOCATION_STATEMENT_BYTES: Final = _PREFIX_BYTES + NONCE_BYTES + 1 + MOMENT_BYTES


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise FieldError(f"a nonce has {NONCE_BYTES} bytes")
