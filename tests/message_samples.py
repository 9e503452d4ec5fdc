"""Parties, keys, hostile bytes and one strategy per message type, for tests of the wire; every body as small as its format allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from crypto.answer import Answer, MaskShare, OrderSeed
from crypto.binary import sha256
from crypto.bodies import AnswerBody, AnswerStatement, GrantBody, MaskHandover, OpenedBody
from crypto.calibration import CalibrationPlaces
from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.checkpoint import Checkpoint, SignedCheckpoint, sign_checkpoint
from crypto.disclosure import (
    MAX_AGE_DAYS,
    DisclosedRecord,
    Disclosure,
    DisclosureOutcome,
    DisclosureRequest,
    Media,
    Stub,
    StubList,
    StubRecord,
)
from crypto.envelope import EnvelopeContext, seal, seal_in_segments
from crypto.epoch import Epoch
from crypto.errors import PeerError
from crypto.frame import MessageHeader
from crypto.grant_token import MAX_TOKEN_BYTES
from crypto.keys import SealingPrivateKey, SigningKey
from crypto.limits import MAX_CAP, MAX_CHUNKS, MAX_RULE
from crypto.message_types import MESSAGES, Body, MessageType
from crypto.messages import Message, seal_message, sign_message
from crypto.notices import Deleted, DeletionReceipt, Refusal, RefusalReason, RevocationQuery, RevocationStatement, Standing
from crypto.opening import Y16
from crypto.probe import Probe
from crypto.ratification import MAX_RATIFICATION_BYTES, RatificationBody
from crypto.release import Band, DiscoveryRelease, HolderOutcome, HolderRelease, Outcome, RequesterRelease
from crypto.ring import N, Q
from crypto.seed import Seed
from crypto.wire import MessageId

NORTHPORT = AgencyId("northport-pd")
EASTVALE = AgencyId("eastvale-pd")
SEARCH = SearchId("0123456789abcdef" * 2)
GRANT_DIGEST = bytes(range(32))
EPOCH = Epoch("2026-11")
KEY_ID = KeyId("eastvale-pd:2026-w48")
SENT_AT = datetime(2026, 11, 23, 16, 12, 4, 50_000, tzinfo=UTC)
SENDER_KEY = SigningKey.from_secret(bytes([7]) * 32)
OTHER_KEY = SigningKey.from_secret(bytes([8]) * 32)
RECIPIENT_KEY = SealingPrivateKey.from_secret(bytes([9]) * 32)
CHECKPOINT = sign_checkpoint(Checkpoint("log.example.org/2026", 7, sha256(b"root")), SENDER_KEY)

digests = st.binary(min_size=32, max_size=32).filter(any)
handles = st.binary(min_size=16, max_size=16).filter(any)
agencies = st.from_regex(AgencyId.pattern, fullmatch=True).map(AgencyId)
moments = st.integers(0, 36_525 * 8_640_000 - 1).map(lambda n: datetime(2000, 1, 1, tzinfo=UTC) + n * timedelta(milliseconds=10))
caps = st.integers(1, MAX_CAP)
rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def header_of(message_type: MessageType, *, sequence: int = 1, checkpoint: bytes | None = None) -> MessageHeader:
    """A header from Northport to Eastvale in the one search, or in none where the type belongs to none."""
    search_id, grant_digest = (SEARCH, GRANT_DIGEST) if MESSAGES[message_type].in_search else (None, None)
    return MessageHeader(message_type, search_id, grant_digest, NORTHPORT, EASTVALE, sequence, SENT_AT, checkpoint)


def message_of(message_type: MessageType, body: Body, header: MessageHeader | None = None) -> Message:
    """The message, sealed or signed as the table says."""
    header = header or header_of(message_type)
    if not MESSAGES[message_type].sealed:
        return sign_message(header, body, sender_signing_key=SENDER_KEY)
    return seal_message(
        header,
        body,
        recipient_public=RECIPIENT_KEY.public_key,
        recipient_key_id=KEY_ID,
        epoch=EPOCH,
        sender_signing_key=SENDER_KEY,
    )


def envelope_around(plaintext: bytes, header: MessageHeader) -> bytes:
    """An envelope around any bytes, sealed as the header's type is."""
    context, public = header.context(KEY_ID, EPOCH), RECIPIENT_KEY.public_key
    if header.spec.streamed:
        return b"".join(seal_in_segments((plaintext,), len(plaintext), context, public, SENDER_KEY))
    return seal(plaintext, context, public, SENDER_KEY).to_bytes()


def message_around(envelope: bytes, header: MessageHeader) -> Message:
    """A message around that envelope, signed by the sender."""
    frame = Message(header, envelope, bytes(64)).to_bytes()[:-64]
    return Message(header, envelope, SENDER_KEY.sign(b"sealmatch-1/message\n" + sha256(frame).hex().encode("ascii")))


def expected_context(message_type: MessageType) -> EnvelopeContext:
    """What Eastvale expects by its own records."""
    return EnvelopeContext(message_type, SEARCH, GRANT_DIGEST, NORTHPORT, EASTVALE, KEY_ID, EPOCH)


# --- bytes that attack ------------------------------------------------------------------------------------------------


class Untouchable(bytes):
    """Bytes that say they are too long; whoever reads one of them fails the test."""

    claimed: int

    def __new__(cls, claimed: int) -> Untouchable:
        """Claim a length."""
        made = super().__new__(cls, b"")
        made.claimed = claimed
        return made

    def __len__(self) -> int:
        """The claim."""
        return self.claimed

    def __getitem__(self, _key: Any) -> Any:
        """Never."""
        raise AssertionError("parsed before the length was checked")


def same_bytes(one: bytes, other: bytes) -> bool:
    """Whether they are equal; pytest would take minutes to show where two of 1 MiB differ."""
    return one == other


def parsed_or_refused(data: bytes, parse: Callable[[bytes], Any]) -> Any | None:
    """What `data` decodes to, None if it was refused by one of our errors; any other exception fails the test."""
    try:
        return parse(data)
    except PeerError:
        return None


# --- bodies --------------------------------------------------------------------------------------------------------


@st.composite
def probes(draw: st.DrawFn) -> Probe:
    """Eight dimensions of uniform words."""
    halved = draw(rngs).integers(0, Q // 2 + 1, (9, N), dtype=np.uint32)
    return Probe(EPOCH, draw(digests), halved)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """Two or three chunks of uniform words."""
    rng, slots = draw(rngs), N * draw(st.integers(2, 3))
    a, b = (rng.integers(0, 1 << bits, slots, dtype=np.uint16) for bits in (16, 11))
    return Answer(EPOCH, draw(digests), draw(digests), 8, a, b)


def statement(answer_digest: bytes, holder: AgencyId = NORTHPORT) -> AnswerStatement:
    """The holder's statement for the one search, signed with the sender's key."""
    return AnswerStatement.sign(SEARCH, GRANT_DIGEST, holder, answer_digest, SENDER_KEY)


@st.composite
def answer_bodies(draw: st.DrawFn) -> AnswerBody:
    """An answer with what belongs to it."""
    answer = draw(answers())
    return AnswerBody(statement(answer.digest, draw(agencies)), OrderSeed(answer.digest, Seed(draw(digests))), answer)


@st.composite
def mask_shares(draw: st.DrawFn, answer_digest: bytes | None = None, slots: int = 2 * N) -> MaskShare:
    """A share with random places."""
    order = draw(rngs).permutation(slots)[:N].astype(np.uint32)
    places = CalibrationPlaces(np.sort(order[:8]), np.sort(order[8:]))
    return MaskShare(answer_digest or draw(digests), draw(digests), slots, Seed(draw(digests)), places)


@st.composite
def opened_bodies(draw: st.DrawFn) -> OpenedBody:
    """Uniform values of two chunks."""
    opened = Y16(draw(digests), draw(rngs).integers(0, 1 << 16, 2 * N, dtype=np.uint16))
    return OpenedBody(statement(opened.answer_digest, draw(agencies)), opened)


@st.composite
def release_indexes(draw: st.DrawFn, cap: int) -> list[int]:
    """Some indexes below the cap, ascending."""
    return sorted(draw(st.sets(st.integers(0, cap - 1), max_size=cap)))


@st.composite
def holder_releases(draw: st.DrawFn) -> HolderRelease:
    """Some leads of some cap."""
    cap = draw(caps)
    indexes = draw(release_indexes(cap))
    positions = sorted(draw(st.sets(st.integers(0, MAX_CHUNKS * N - 1), min_size=len(indexes), max_size=len(indexes))))
    return HolderRelease(cap, tuple(zip(indexes, positions, strict=True)))


@st.composite
def requester_releases(draw: st.DrawFn) -> RequesterRelease:
    """Some leads of some cap."""
    cap = draw(caps)
    indexes = draw(release_indexes(cap))
    ranks = draw(st.permutations(range(1, len(indexes) + 1)))
    leads = tuple((index, rank, draw(st.sampled_from(Band))) for index, rank in zip(indexes, ranks, strict=True))
    holders = sorted(draw(st.sets(agencies, min_size=1, max_size=4)))
    rules = st.none() | st.integers(1, MAX_RULE)
    others = [HolderOutcome(holder, Outcome.REFUSED, draw(rules)) for holder in holders[1:]]
    return RequesterRelease(cap, leads, (HolderOutcome(holders[0], Outcome.ANSWERED), *others))


@st.composite
def discovery_releases(draw: st.DrawFn) -> DiscoveryRelease:
    """Some leads of some cap."""
    cap = draw(caps)
    leads = tuple((index, draw(st.integers(0, 1000))) for index in draw(release_indexes(cap)))
    records = draw(st.integers(1, 2**52))
    return DiscoveryRelease(cap=cap, records=records, compared=records + 7, threshold_milli=draw(st.integers(0, 1000)), leads=leads)


stub_records = st.builds(StubRecord, handles, agencies, st.dates(date(1900, 1, 1), date(2099, 12, 31)), st.integers(0, MAX_AGE_DAYS))


@st.composite
def stub_lists(draw: st.DrawFn, cap: int | None = None) -> StubList:
    """Some stubs of some cap, some of them withdrawn."""
    cap = cap or draw(caps)
    indexes = draw(release_indexes(cap))
    records = draw(st.lists(stub_records, min_size=len(indexes), max_size=len(indexes), unique_by=lambda record: record.handle))
    return StubList(cap, tuple(Stub(index, draw(st.sampled_from((record, None)))) for index, record in zip(indexes, records, strict=True)))


record_numbers = st.text(min_size=1, max_size=16).filter(lambda text: text.isprintable() and text == text.strip())
disclosed = st.builds(DisclosedRecord, record_numbers, st.sampled_from(Media), st.binary(min_size=1, max_size=300))
disclosures = st.one_of(
    st.just(Disclosure(DisclosureOutcome.NOT_ASKED)),
    st.builds(Disclosure, st.just(DisclosureOutcome.DISCLOSED), handles, digests, disclosed),
    st.builds(Disclosure, st.just(DisclosureOutcome.WITHHELD), handles, digests),
    st.builds(Disclosure, st.just(DisclosureOutcome.WITHDRAWN), handles),
)
refusals = st.builds(Refusal, digests.map(lambda digest: MessageId(digest.hex())), st.sampled_from(RefusalReason), st.integers(1, MAX_RULE))
receipts = st.builds(DeletionReceipt, st.sets(st.sampled_from(Deleted), min_size=1).map(lambda kinds: tuple(sorted(kinds))), moments)


@st.composite
def signed_checkpoints(draw: st.DrawFn) -> SignedCheckpoint:
    """A checkpoint with the log's signature."""
    return sign_checkpoint(Checkpoint("log.example.org/2026", draw(st.integers(1, 10**9)), draw(digests)), SENDER_KEY)


BODIES: Final[Mapping[MessageType, st.SearchStrategy[Body]]] = {
    MessageType.GRANT: st.builds(GrantBody, st.binary(min_size=1, max_size=300) | st.just(b"x" * MAX_TOKEN_BYTES)),
    MessageType.PROBE: probes(),
    MessageType.ANSWER: answer_bodies(),
    MessageType.MASK_SHARE: mask_shares(),
    MessageType.OPENED_SCORES: opened_bodies(),
    MessageType.MASK_HANDOVER: st.builds(MaskHandover, agencies, mask_shares()),
    MessageType.HOLDER_RELEASE: holder_releases(),
    MessageType.REQUESTER_RELEASE: requester_releases(),
    MessageType.DISCOVERY_RELEASE: discovery_releases(),
    MessageType.STUBS: stub_lists(),
    MessageType.DISCLOSURE_REQUEST: st.builds(DisclosureRequest, st.none() | handles),
    MessageType.DISCLOSURE: disclosures,
    MessageType.REFUSAL: refusals,
    MessageType.DELETION_RECEIPT: receipts,
    MessageType.REVOCATION_QUERY: st.builds(RevocationQuery, digests),
    MessageType.REVOCATION_STATEMENT: st.builds(RevocationStatement, digests, st.sampled_from(Standing), moments),
    MessageType.CHECKPOINT_GOSSIP: signed_checkpoints(),
    MessageType.RATIFICATION: st.builds(RatificationBody, st.binary(min_size=1, max_size=300) | st.just(b"x" * MAX_RATIFICATION_BYTES)),
}
