"""Which messages there are: for each, who sends it to whom, who sees it, what it reveals, how long it may be, how long it is kept.

`MESSAGES` is the one table; `docs/messages.md` holds its text form (`messages_table`), and a test compares the two. A message that does
not stand here is not sent.

Invariants: every type of the table has one byte code for ever, one class of body and one way of sealing; every sealed type belongs to a
search and so to a grant; the maximum length of a type is known from its code, before anything else of a message is parsed. Left to others:
the frame (`messages`), what the bodies say (their own modules), deleting in time (the services).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, Self

from crypto import bodies, disclosure, notices
from crypto.answer import MaskShare
from crypto.binary import Writer
from crypto.checkpoint import MAX_NOTE_BYTES, SignedCheckpoint
from crypto.envelope import MAX_ENVELOPE_BYTES, MAX_PLAINTEXT_BYTES
from crypto.envelope import MessageType as MessageTypeName
from crypto.errors import VersionError
from crypto.keys import SIGNATURE_BYTES
from crypto.probe import MAX_PROBE_BYTES, Probe
from crypto.ratification import RATIFICATION_BODY_BYTES, RatificationBody
from crypto.release import MAX_RELEASE_BYTES, MAX_REQUESTER_RELEASE_BYTES, DiscoveryRelease, HolderRelease, RequesterRelease
from crypto.wire import MAX_NAME_BYTES, MOMENT_BYTES

MAX_CHECKPOINT_BYTES: Final = MAX_NOTE_BYTES
"""Bytes of the checkpoint that a message carries."""
MAX_FRAME_BYTES: Final = 5 + 1 + 16 + 32 + 2 * (1 + MAX_NAME_BYTES) + 4 + MOMENT_BYTES + 4 + MAX_CHECKPOINT_BYTES + 4 + SIGNATURE_BYTES
"""Bytes that stand around a message's body, at most; all but 268 are the checkpoint."""
MAX_SEALING_BYTES: Final = MAX_ENVELOPE_BYTES - MAX_PLAINTEXT_BYTES
"""Bytes that an envelope adds to its plaintext, at most, by any likely suite."""
_MAX_MASK_SHARE_BYTES: Final = bodies.MAX_HANDOVER_BYTES - 5 - 1 - MAX_NAME_BYTES


class MessageType(MessageTypeName, enum.ReprEnum):
    """Every message of the protocol. A member is the checked name that an envelope's context carries."""

    GRANT = "grant"
    PROBE = "probe"
    ANSWER = "answer"
    MASK_SHARE = "mask-share"
    OPENED_SCORES = "opened-scores"
    MASK_HANDOVER = "mask-handover"
    HOLDER_RELEASE = "holder-release"
    REQUESTER_RELEASE = "requester-release"
    DISCOVERY_RELEASE = "discovery-release"
    STUBS = "stubs"
    DISCLOSURE_REQUEST = "disclosure-request"
    DISCLOSURE = "disclosure"
    REFUSAL = "refusal"
    DELETION_RECEIPT = "deletion-receipt"
    REVOCATION_QUERY = "revocation-query"
    REVOCATION_STATEMENT = "revocation-statement"
    CHECKPOINT_GOSSIP = "checkpoint-gossip"
    RATIFICATION = "ratification"


class Party(enum.StrEnum):
    """Who sends or receives, as PROTOCOL 1 names them; the roster says which agency may be which."""

    REQUESTER = "requester"
    HOLDER = "holder"
    CUSTODIAN = "custodian"
    COMBINING_CUSTODIAN = "combining custodian"
    LEGAL_OFFICE = "legal office"
    DISCOVERY = "discovery key"
    ANYBODY = "anybody"


class Body(Protocol):
    """What a message says: a value with one encoding. `from_bytes` checks the length before it parses."""

    def to_bytes(self) -> bytes:
        """The canonical bytes."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`."""


class StreamedBody(Body, Protocol):
    """A body that may be long: it is written and read in chunks."""

    def writer(self) -> Writer:
        """The canonical bytes, made when they are asked for; and how many they are."""

    @classmethod
    def from_chunks(cls, chunks: Iterable[bytes], total_bytes: int) -> Self:
        """`from_bytes` of that many bytes in chunks of any size, which are followed to their end."""


@dataclass(frozen=True)
class MessageSpec:
    """One row of the table. `reveals` says what the broker or a recipient can infer beyond the frame, lengths included.

    A `streamed` type is sealed in segments (`envelope.IN_SEGMENTS`) and in no other way, and its body is a `StreamedBody`; every other
    sealed type is sealed at once.
    """

    message_type: MessageType
    code: int
    body: type[Body]
    sender: Party
    recipients: tuple[Party, ...]
    sealed: bool
    max_body_bytes: int
    seen_by: str
    reveals: str
    lifetime: str
    in_search: bool = True
    streamed: bool = False

    @property
    def max_carried_bytes(self) -> int:
        """Bytes of the frame's body field, at most: the body's, and the envelope's around it."""
        return self.max_body_bytes + (MAX_SEALING_BYTES if self.sealed else 0)

    @property
    def max_bytes(self) -> int:
        """Bytes of the whole message, at most."""
        return self.max_carried_bytes + MAX_FRAME_BYTES


_ROWS: Final = (
    MessageSpec(
        message_type=MessageType.GRANT,
        code=1,
        body=bodies.GrantBody,
        sender=Party.REQUESTER,
        recipients=(Party.HOLDER, Party.CUSTODIAN, Party.LEGAL_OFFICE),
        sealed=True,
        max_body_bytes=bodies.GRANT_BODY_BYTES,
        seen_by="each holder and custodian of the grant, and the requester's legal office where that is another agency",
        reveals="persons, agencies, offence, docket; of the face two commitments. One length for all grants",
        lifetime="as long as the recipient's log of decisions",
    ),
    MessageSpec(
        message_type=MessageType.PROBE,
        code=2,
        body=Probe,
        sender=Party.REQUESTER,
        recipients=(Party.HOLDER,),
        sealed=True,
        streamed=True,
        max_body_bytes=MAX_PROBE_BYTES,
        seen_by="the holder, as ciphertext",
        reveals="nothing of the face without the search key; its length the model's dimension",
        lifetime="at the holder until the answer is stored, then deleted with a receipt (R22)",
    ),
    MessageSpec(
        message_type=MessageType.ANSWER,
        code=3,
        body=bodies.AnswerBody,
        sender=Party.HOLDER,
        recipients=(Party.REQUESTER,),
        sealed=True,
        streamed=True,
        max_body_bytes=bodies.MAX_ANSWER_BODY_BYTES,
        seen_by="the requester, who opens it to uniform values",
        reveals="nothing of records without every mask seed; its length the gallery's size in chunks, to the broker too",
        lifetime="at the holder as these very bytes until the grant's expiry, for repeats; at the requester for the audit period",
    ),
    MessageSpec(
        message_type=MessageType.MASK_SHARE,
        code=4,
        body=MaskShare,
        sender=Party.HOLDER,
        recipients=(Party.CUSTODIAN,),
        sealed=True,
        max_body_bytes=_MAX_MASK_SHARE_BYTES,
        seen_by="one custodian",
        reveals="by itself nothing; with the opened scores and all other shares nameless scores. One length",
        lifetime="until the release, then destroyed",
    ),
    MessageSpec(
        message_type=MessageType.OPENED_SCORES,
        code=5,
        body=bodies.OpenedBody,
        sender=Party.REQUESTER,
        recipients=(Party.CUSTODIAN,),
        sealed=True,
        streamed=True,
        max_body_bytes=bodies.MAX_OPENED_BODY_BYTES,
        seen_by="one custodian",
        reveals="by itself nothing; with all shares nameless scores in an order of this search alone; its length the gallery's size",
        lifetime="until the release, then destroyed; its digest stays in the log",
    ),
    MessageSpec(
        message_type=MessageType.MASK_HANDOVER,
        code=6,
        body=bodies.MaskHandover,
        sender=Party.CUSTODIAN,
        recipients=(Party.COMBINING_CUSTODIAN,),
        sealed=True,
        max_body_bytes=bodies.MAX_HANDOVER_BYTES,
        seen_by="the combining custodian",
        reveals="with the opened scores and all other shares nameless scores: rotate who combines",
        lifetime="until the release, then destroyed",
    ),
    MessageSpec(
        message_type=MessageType.HOLDER_RELEASE,
        code=7,
        body=HolderRelease,
        sender=Party.COMBINING_CUSTODIAN,
        recipients=(Party.HOLDER,),
        sealed=True,
        max_body_bytes=MAX_RELEASE_BYTES,
        seen_by="one holder",
        reveals="which of its records were released, no score, no rank; one length for all holders of a grant",
        lifetime="at the holder for its own ledger of releases",
    ),
    MessageSpec(
        message_type=MessageType.REQUESTER_RELEASE,
        code=8,
        body=RequesterRelease,
        sender=Party.COMBINING_CUSTODIAN,
        recipients=(Party.REQUESTER,),
        sealed=True,
        max_body_bytes=MAX_REQUESTER_RELEASE_BYTES,
        seen_by="the requester",
        reveals="leads' rank and band, no score; of each holder whether it answered, else why not. One length for cap and holders",
        lifetime="as long as the case file",
    ),
    MessageSpec(
        message_type=MessageType.DISCOVERY_RELEASE,
        code=9,
        body=DiscoveryRelease,
        sender=Party.COMBINING_CUSTODIAN,
        recipients=(Party.DISCOVERY,),
        sealed=True,
        max_body_bytes=MAX_RELEASE_BYTES,
        seen_by="the requesting agency's legal office, not its investigators",
        reveals="scores of the leads to 0.001, the threshold, the number of records searched; one length for a cap",
        lifetime="as long as the case file, for discovery",
    ),
    MessageSpec(
        message_type=MessageType.STUBS,
        code=10,
        body=disclosure.StubList,
        sender=Party.HOLDER,
        recipients=(Party.REQUESTER,),
        sealed=True,
        max_body_bytes=disclosure.MAX_STUBS_BYTES,
        seen_by="the requester",
        reveals="of each lead agency, day and age of the picture; one length for a cap, with and without leads",
        lifetime="as long as the case file",
    ),
    MessageSpec(
        message_type=MessageType.DISCLOSURE_REQUEST,
        code=11,
        body=disclosure.DisclosureRequest,
        sender=Party.REQUESTER,
        recipients=(Party.HOLDER,),
        sealed=True,
        max_body_bytes=disclosure.REQUEST_BYTES,
        seen_by="the holder",
        reveals="which lead is asked for, if any; one length. The broker sees how many requests pass",
        lifetime="at the holder with its decision",
    ),
    MessageSpec(
        message_type=MessageType.DISCLOSURE,
        code=12,
        body=disclosure.Disclosure,
        sender=Party.HOLDER,
        recipients=(Party.REQUESTER,),
        sealed=True,
        max_body_bytes=disclosure.DISCLOSURE_BODY_BYTES,
        seen_by="the requester",
        reveals="photograph and record number, or nothing; one length, dummies and refusals too. The broker sees how many pass",
        lifetime="as long as the case file",
    ),
    MessageSpec(
        message_type=MessageType.REFUSAL,
        code=13,
        body=notices.Refusal,
        sender=Party.ANYBODY,
        recipients=(Party.ANYBODY,),
        sealed=False,
        max_body_bytes=notices.REFUSAL_BYTES,
        seen_by="sender, recipient, broker",
        reveals="which message was refused, a reason code, a rule number; no case text",
        lifetime="as long as the log of decisions",
    ),
    MessageSpec(
        message_type=MessageType.DELETION_RECEIPT,
        code=14,
        body=notices.DeletionReceipt,
        sender=Party.ANYBODY,
        recipients=(Party.ANYBODY,),
        sealed=False,
        max_body_bytes=notices.MAX_RECEIPT_BYTES,
        seen_by="sender, recipient, broker",
        reveals="what kinds of things of a search were deleted, and when",
        lifetime="as long as the log of decisions",
    ),
    MessageSpec(
        message_type=MessageType.REVOCATION_QUERY,
        code=15,
        body=notices.RevocationQuery,
        sender=Party.CUSTODIAN,
        recipients=(Party.LEGAL_OFFICE,),
        sealed=False,
        max_body_bytes=notices.REVOCATION_QUERY_BYTES,
        seen_by="sender, recipient, broker",
        reveals="that a search has come into custody, or is about to be released",
        lifetime="until the release",
    ),
    MessageSpec(
        message_type=MessageType.REVOCATION_STATEMENT,
        code=16,
        body=notices.RevocationStatement,
        sender=Party.LEGAL_OFFICE,
        recipients=(Party.CUSTODIAN,),
        sealed=False,
        max_body_bytes=notices.REVOCATION_STATEMENT_BYTES,
        seen_by="sender, recipient, broker",
        reveals="whether the grant stands at that moment; counts for five minutes",
        lifetime="with the release, as its evidence",
    ),
    MessageSpec(
        message_type=MessageType.CHECKPOINT_GOSSIP,
        code=17,
        body=SignedCheckpoint,
        sender=Party.ANYBODY,
        recipients=(Party.ANYBODY,),
        sealed=False,
        max_body_bytes=MAX_NOTE_BYTES,
        seen_by="sender, recipient, broker; checkpoints are public",
        reveals="which tree of the log the sender has seen",
        lifetime="until a later checkpoint; for ever if it shows a fork",
        in_search=False,
    ),
    MessageSpec(
        message_type=MessageType.RATIFICATION,
        code=18,
        body=RatificationBody,
        sender=Party.REQUESTER,
        recipients=(Party.HOLDER, Party.CUSTODIAN),
        sealed=True,
        max_body_bytes=RATIFICATION_BODY_BYTES,
        seen_by="each holder and custodian of the grant",
        reveals="which second reviewer ratified an exigent grant, and when; to the broker that the grant is an exigent one. One length",
        lifetime="as long as the recipient's log of decisions",
    ),
)

MESSAGES: Final[Mapping[MessageType, MessageSpec]] = MappingProxyType({spec.message_type: spec for spec in _ROWS})
MAX_MESSAGE_BYTES: Final = max(spec.max_bytes for spec in _ROWS)

_BY_CODE: Final[Mapping[int, MessageSpec]] = MappingProxyType({spec.code: spec for spec in _ROWS})


def spec_of_code(code: int) -> MessageSpec:
    """The row with that byte; `VersionError` for a message that this code does not speak."""
    try:
        return _BY_CODE[code]
    except KeyError:
        raise VersionError("no message has that type code") from None


def messages_table() -> str:
    """The table in Markdown, as it stands in `docs/messages.md`."""
    head = (
        "code",
        "message",
        "from",
        "to",
        "sealed",
        "streamed",
        "body, at most",
        "message, at most",
        "who sees it",
        "what it reveals",
        "kept",
    )
    rows = [
        (
            str(spec.code),
            f"`{spec.message_type}`",
            spec.sender.value,
            ", ".join(spec.recipients),
            "yes" if spec.sealed else "no",
            "yes" if spec.streamed else "no",
            f"{spec.max_body_bytes:,}",
            f"{spec.max_bytes:,}",
            spec.seen_by,
            spec.reveals,
            spec.lifetime,
        )
        for spec in _ROWS
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ("---",) * len(head), *rows))
