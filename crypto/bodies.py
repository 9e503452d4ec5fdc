"""Bodies of one search's messages that join what `answer`, `opening` and `grant` make: grant, answer, opened scores, mask hand-over.

    H -> R  AnswerBody    answer, its order's seed, the holder's statement of the answer's digest
    R -> C  OpenedBody    Y16 and that same statement
    H -> C  MaskShare     (`answer`) seed, places and the answer's digest
    C -> C  MaskHandover  a share and the holder that it came from

So a custodian takes seeds and opened scores together only if both name an answer that the holder itself put its signature to: a requester
that opens another answer, or an invented one, has no statement for it.

Invariants: the parts of a body name one answer. The only form in which opened scores have a place here is `Y16`; there is no function that
takes an array. Left to others: sealing (`messages`), who may send which (`message_types`), what a grant says (`grant`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from crypto.answer import MAX_ANSWER_BYTES, Answer, MaskShare, OrderSeed
from crypto.binary import ChunkReader, Kind, Reader, Writer
from crypto.canonical import AgencyId, SearchId
from crypto.errors import AnswerError, BadSignatureError, FieldError
from crypto.fields import DIGEST_BYTES, check_digest
from crypto.grant_token import MAX_TOKEN_BYTES
from crypto.keys import SIGNATURE_BYTES, SigningKey, VerifyingKey
from crypto.opening import MAX_OPENED_BYTES, Y16
from crypto.ring import N
from crypto.seed import SEED_BYTES
from crypto.wire import MAX_NAME_BYTES, read_name, read_padded, write_name, write_padded

GRANT_BODY_BYTES: Final = 5 + 4 + MAX_TOKEN_BYTES
"""Bytes of every grant body: a token's length would tell how long the statement of facts is."""

_PREFIX_BYTES: Final = 5
_MAX_STATEMENT_BYTES: Final = 1 + MAX_NAME_BYTES + DIGEST_BYTES + SIGNATURE_BYTES
_ORDER_SEED_BYTES: Final = _PREFIX_BYTES + DIGEST_BYTES + SEED_BYTES
_MASK_SHARE_BYTES: Final = _PREFIX_BYTES + 2 * DIGEST_BYTES + 4 + SEED_BYTES + 2 + 4 * N

MAX_ANSWER_BODY_BYTES: Final = _PREFIX_BYTES + _MAX_STATEMENT_BYTES + _ORDER_SEED_BYTES + 4 + MAX_ANSWER_BYTES
MAX_OPENED_BODY_BYTES: Final = _PREFIX_BYTES + _MAX_STATEMENT_BYTES + 4 + MAX_OPENED_BYTES
MAX_HANDOVER_BYTES: Final = _PREFIX_BYTES + 1 + MAX_NAME_BYTES + _MASK_SHARE_BYTES

_STATEMENT_LABEL: Final = "sealmatch-1/answer-digest\n"


@dataclass(frozen=True)
class AnswerStatement:
    """A holder's signed word: to this search under this grant my answer has this digest (PROTOCOL 4).

    Signed is `sealmatch-1/answer-digest`, a line feed, and search id, grant digest, holder and answer digest joined by `|`; search and
    grant are the frame's and do not travel again.
    """

    holder: AgencyId
    answer_digest: bytes
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_digest(self.answer_digest, "answer digest")
        if len(self.signature) != SIGNATURE_BYTES:
            raise FieldError(f"a statement's signature has {SIGNATURE_BYTES} bytes")

    @classmethod
    def sign(cls, search_id: SearchId, grant_digest: bytes, holder: AgencyId, answer_digest: bytes, node_key: SigningKey) -> Self:
        """The statement of `holder`, whose node key this is."""
        return cls(holder, answer_digest, node_key.sign(_statement(search_id, grant_digest, holder, answer_digest)))

    def check(self, search_id: SearchId, grant_digest: bytes, node_public: VerifyingKey) -> None:
        """Raise `AnswerError` unless `node_public`, the roster's key of `holder`, signed for this search and grant."""
        try:
            node_public.check(self.signature, _statement(search_id, grant_digest, self.holder, self.answer_digest))
        except BadSignatureError as error:
            raise AnswerError("the holder did not sign this answer's digest for this search") from error

    def write(self, writer: Writer) -> Writer:
        """Append the fields."""
        return write_name(writer, self.holder).fixed(self.answer_digest, DIGEST_BYTES).fixed(self.signature, SIGNATURE_BYTES)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Inverse of `write`; nothing is verified."""
        return cls(read_name(reader, AgencyId), reader.fixed(DIGEST_BYTES), reader.fixed(SIGNATURE_BYTES))


@dataclass(frozen=True)
class GrantBody:
    """R -> every holder and custodian: the signed grant as its token's bytes, padded to one length; reading it is left to `grant`."""

    token: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.token) <= MAX_TOKEN_BYTES:
            raise FieldError(f"a grant token has 1 to {MAX_TOKEN_BYTES} bytes")

    def to_bytes(self) -> bytes:
        """The canonical bytes, always `GRANT_BODY_BYTES`."""
        return write_padded(Writer(Kind.GRANT_BODY), self.token, MAX_TOKEN_BYTES, length_bytes=4).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.GRANT_BODY, max_bytes=GRANT_BODY_BYTES)
        token = read_padded(reader, MAX_TOKEN_BYTES, length_bytes=4)
        reader.finish()
        return cls(token)


@dataclass(frozen=True, eq=False)
class AnswerBody:
    """H -> R: the answer, its order's seed and the holder's statement, all of one answer (`AnswerError` otherwise)."""

    statement: AnswerStatement
    order: OrderSeed
    answer: Answer

    def __post_init__(self) -> None:
        if not self.statement.answer_digest == self.order.answer_digest == self.answer.digest:
            raise AnswerError("statement, order and answer do not name one answer")

    def to_bytes(self) -> bytes:
        """The canonical bytes; seal them, the order's seed is a secret of holder and requester."""
        return self.writer().finish()

    def writer(self) -> Writer:
        """The same bytes, packed when they are asked for."""
        writer = self.statement.write(Writer(Kind.ANSWER_BODY)).fixed(self.order.to_bytes(), _ORDER_SEED_BYTES)
        return writer.frame(self.answer.writer())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` or `AnswerError` for anything else."""
        return cls._read(Reader(data, Kind.ANSWER_BODY, max_bytes=MAX_ANSWER_BODY_BYTES))

    @classmethod
    def from_chunks(cls, chunks: Iterable[bytes], total_bytes: int) -> Self:
        """`from_bytes` of bytes that come in chunks."""
        return cls._read(ChunkReader(chunks, Kind.ANSWER_BODY, max_bytes=MAX_ANSWER_BODY_BYTES, total_bytes=total_bytes))

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        statement = AnswerStatement.read(reader)
        order = OrderSeed.from_bytes(reader.fixed(_ORDER_SEED_BYTES))
        digest = hashlib.sha256()
        answer = Answer.read(reader.frame(Kind.ANSWER, max_bytes=MAX_ANSWER_BYTES, each=digest.update), digest.digest)
        reader.finish()
        return cls(statement, order, answer)

    def __repr__(self) -> str:
        return f"AnswerBody(holder={self.statement.holder!s}, slots={self.answer.slots}, order=<redacted>)"


@dataclass(frozen=True, eq=False)
class OpenedBody:
    """R -> C: what R opened of one holder's answer, as `Y16`, under that holder's statement of the same answer."""

    statement: AnswerStatement
    opened: Y16

    def __post_init__(self) -> None:
        if not isinstance(self.opened, Y16):
            raise FieldError("opened scores travel as Y16 and as nothing else")
        if self.statement.answer_digest != self.opened.answer_digest:
            raise AnswerError("the holder's statement is of another answer than the opened scores")

    def to_bytes(self) -> bytes:
        """The canonical bytes; seal them to the custodian."""
        return self.writer().finish()

    def writer(self) -> Writer:
        """The same bytes, made when they are asked for."""
        return self.statement.write(Writer(Kind.OPENED_BODY)).frame(self.opened.writer())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` or `AnswerError` for anything else."""
        return cls._read(Reader(data, Kind.OPENED_BODY, max_bytes=MAX_OPENED_BODY_BYTES))

    @classmethod
    def from_chunks(cls, chunks: Iterable[bytes], total_bytes: int) -> Self:
        """`from_bytes` of bytes that come in chunks."""
        return cls._read(ChunkReader(chunks, Kind.OPENED_BODY, max_bytes=MAX_OPENED_BODY_BYTES, total_bytes=total_bytes))

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        statement = AnswerStatement.read(reader)
        opened = Y16.read(reader.frame(Kind.OPENED_SCORES, max_bytes=MAX_OPENED_BYTES))
        reader.finish()
        return cls(statement, opened)

    def check_share(self, holder: AgencyId, share: MaskShare) -> None:
        """Raise `AnswerError` unless `share`, which came from `holder`, and these opened scores name the same answer."""
        if holder != self.statement.holder or (share.answer_digest, share.slots) != (self.opened.answer_digest, self.opened.values.size):
            raise AnswerError("seeds and opened scores name different answers")

    def __repr__(self) -> str:
        return f"OpenedBody(holder={self.statement.holder!s}, slots={self.opened.values.size}, opened=<redacted>)"


@dataclass(frozen=True, eq=False)
class MaskHandover:
    """C -> combining C: a mask share that verified, and the holder that it came from (PROTOCOL 6)."""

    holder: AgencyId
    share: MaskShare

    def to_bytes(self) -> bytes:
        """The canonical bytes; seal them to the combining custodian."""
        return write_name(Writer(Kind.MASK_HANDOVER), self.holder).fixed(self.share.to_bytes(), _MASK_SHARE_BYTES).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `EncodingError` or `AnswerError` for anything else."""
        reader = Reader(data, Kind.MASK_HANDOVER, max_bytes=MAX_HANDOVER_BYTES)
        holder, share = read_name(reader, AgencyId), reader.fixed(_MASK_SHARE_BYTES)
        reader.finish()
        return cls(holder, MaskShare.from_bytes(share))

    def __repr__(self) -> str:
        return f"MaskHandover(holder={self.holder!s}, share=<redacted>)"


def _statement(search_id: SearchId, grant_digest: bytes, holder: AgencyId, answer_digest: bytes) -> bytes:
    check_digest(grant_digest, "grant digest")
    check_digest(answer_digest, "answer digest")
    return (_STATEMENT_LABEL + "|".join((search_id, grant_digest.hex(), holder, answer_digest.hex()))).encode("ascii")
