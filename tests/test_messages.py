"""The frame and the table: every type travels, every change of a byte is refused or is another message, nothing long is parsed."""

from __future__ import annotations

import dataclasses
import inspect
import re
import struct
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import bodies, disclosure, message_types, messages, notices, parts
from crypto.binary import sha256
from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.checkpoint import SignedCheckpoint
from crypto.disclosure import DisclosureRequest, StubList
from crypto.envelope import MAX_ENVELOPE_BYTES, EnvelopeContext
from crypto.envelope import MessageType as MessageTypeName
from crypto.epoch import Epoch
from crypto.errors import (
    CheckpointError,
    ContextError,
    CryptoError,
    EncodingError,
    FieldError,
    MisuseError,
    NotCanonicalError,
    OpeningError,
    OversizedError,
    PeerError,
    SenderSignatureError,
    TruncatedError,
    VersionError,
)
from crypto.frame import MAX_SEQUENCE, MessageHeader
from crypto.keys import SealingPrivateKey, SigningKey
from crypto.message_types import MAX_CHECKPOINT_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MESSAGES, Body, MessageType, messages_table
from crypto.messages import Message, open_message, read_message, seal_message, sign_message
from crypto.notices import Refusal, RefusalReason, RevocationQuery
from crypto.opening import Y16
from crypto.wire import MAX_NAME_BYTES, MessageId
from tests.message_samples import (
    BODIES,
    CHECKPOINT,
    EASTVALE,
    EPOCH,
    GRANT_DIGEST,
    KEY_ID,
    NORTHPORT,
    OTHER_KEY,
    RECIPIENT_KEY,
    SEARCH,
    SENDER_KEY,
    SENT_AT,
    Untouchable,
    agencies,
    digests,
    envelope_around,
    expected_context,
    header_of,
    message_around,
    message_of,
    moments,
    parsed_or_refused,
    same_bytes,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "messages.md"
SEALED = [spec.message_type for spec in MESSAGES.values() if spec.sealed]
OPEN = [spec.message_type for spec in MESSAGES.values() if not spec.sealed]
REFUSAL = Refusal(MessageId("ab" * 32), RefusalReason.EPOCH)
REQUEST = DisclosureRequest(bytes(range(1, 17)))


def take(message: Message, body: type[Body]) -> Body:
    """Open or read as the recipient does."""
    message_type = message.header.message_type
    if not MESSAGES[message_type].sealed:
        return read_message(message, body, recipient=EASTVALE, sender_public=SENDER_KEY.verifying_key)
    return open_message(
        message,
        body,
        expected=expected_context(message_type),
        recipient_private=RECIPIENT_KEY,
        sender_public=SENDER_KEY.verifying_key,
    )


# --- the table -----------------------------------------------------------------------------------------------------


def test_every_message_that_the_protocol_names_has_a_row() -> None:
    assert set(MESSAGES) == set(MessageType) == set(BODIES)
    named = {
        "probe", "answer", "mask-share", "opened-scores", "mask-handover", "holder-release", "requester-release", "discovery-release",
        "stubs", "disclosure-request", "disclosure", "refusal", "deletion-receipt", "revocation-query", "revocation-statement",
        "checkpoint-gossip", "grant", "ratification",
    }  # fmt: skip
    assert {str(message_type) for message_type in MessageType} == named


def test_codes_are_one_number_for_ever() -> None:
    assert [spec.code for spec in MESSAGES.values()] == list(range(1, len(MESSAGES) + 1))
    pinned = {"grant": 1, "probe": 2, "answer": 3, "stubs": 10, "refusal": 13, "checkpoint-gossip": 17, "ratification": 18}
    assert {name: MESSAGES[MessageType(name)].code for name in pinned} == pinned


@pytest.mark.parametrize("message_type", MessageType)
def test_a_type_is_the_name_that_an_envelope_carries(message_type: MessageType) -> None:
    assert isinstance(message_type, MessageTypeName)
    assert message_type == MessageTypeName(message_type.value)
    assert hash(message_type) == hash(MessageTypeName(message_type.value))
    assert f"{message_type}" == message_type.value


def test_whatever_shows_a_person_a_score_or_a_count_is_sealed() -> None:
    assert set(OPEN) == {
        MessageType.REFUSAL,
        MessageType.DELETION_RECEIPT,
        MessageType.REVOCATION_QUERY,
        MessageType.REVOCATION_STATEMENT,
        MessageType.CHECKPOINT_GOSSIP,
    }
    assert all(spec.in_search for spec in MESSAGES.values() if spec.sealed)


def test_no_type_exceeds_what_an_envelope_carries() -> None:
    assert max(spec.max_carried_bytes for spec in MESSAGES.values()) <= MAX_ENVELOPE_BYTES
    assert max(spec.max_bytes for spec in MESSAGES.values()) == MAX_MESSAGE_BYTES <= MAX_ENVELOPE_BYTES + MAX_FRAME_BYTES


def test_the_document_holds_the_generated_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(r"<!-- generated: crypto\.message_types\.messages_table -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    assert found == [messages_table()], "put the output of crypto.message_types.messages_table() between the marks of docs/messages.md"


def test_the_document_s_figures_are_the_code_s() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for figure in (f"1..{parts.PIECE_BYTES:,}", f"0..{MAX_CHECKPOINT_BYTES:,}", f"1..{MAX_NAME_BYTES}"):
        assert figure in text


def test_no_function_of_the_wire_takes_scores_in_another_form_than_y16() -> None:
    for module in (messages, message_types, bodies, disclosure, notices, parts):
        for _, item in inspect.getmembers(module, lambda item: getattr(item, "__module__", None) == module.__name__):  # noqa: B023
            callables = [item, *vars(item).values()] if inspect.isclass(item) else [item]
            for function in callables:
                notes = " ".join(str(note) for note in getattr(function, "__annotations__", {}).values())
                assert not re.search(r"NDArray|ndarray|\b[UIF](8|16|32|64)\b", notes), function
    assert bodies.OpenedBody.__annotations__["opened"] == "Y16"


# --- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message_type", MessageType)
@given(data=st.data())
@settings(max_examples=12)
def test_every_type_travels(message_type: MessageType, data: st.DataObject) -> None:
    spec = MESSAGES[message_type]
    body = data.draw(BODIES[message_type])
    header = header_of(
        message_type, sequence=data.draw(st.integers(1, MAX_SEQUENCE)), checkpoint=data.draw(st.sampled_from((None, CHECKPOINT.to_bytes())))
    )
    sent = message_of(message_type, body, header)
    wire = sent.to_bytes()
    received = Message.from_bytes(wire)
    assert received == sent
    assert same_bytes(received.to_bytes(), wire)
    assert received.message_id == sha256(wire).hex()
    assert received.header == header
    assert same_bytes(take(received, spec.body).to_bytes(), body.to_bytes())
    assert len(body.to_bytes()) <= spec.max_body_bytes
    assert len(wire) <= spec.max_bytes


@given(agencies, agencies, digests, digests, st.integers(1, MAX_SEQUENCE), moments, st.none() | st.binary(min_size=1, max_size=200))
def test_every_header_travels(
    sender: AgencyId, recipient: AgencyId, search: bytes, grant: bytes, sequence: int, sent_at: datetime, checkpoint: bytes | None
) -> None:
    search_id = SearchId((search[:15] + b"\1").hex())
    header = MessageHeader(MessageType.REFUSAL, search_id, grant, sender, recipient, sequence, sent_at, checkpoint)
    sent = sign_message(header, REFUSAL, sender_signing_key=SENDER_KEY)
    assert Message.from_bytes(sent.to_bytes()) == sent


def test_the_frame_byte_by_byte() -> None:
    """The wire form, written down a second time from the document."""
    checkpoint = CHECKPOINT.to_bytes()
    message = message_of(MessageType.REFUSAL, REFUSAL, header_of(MessageType.REFUSAL, sequence=258, checkpoint=checkpoint))
    body = b"SM\x13\x01\x01" + bytes.fromhex("ab" * 32) + bytes([11]) + bytes(2)
    since_1970 = int(SENT_AT.timestamp() * 100)
    unsigned = b"".join(
        (
            b"SM\x0b\x01\x01\x0d",
            bytes.fromhex(SEARCH),
            GRANT_DIGEST,
            b"\x0cnorthport-pd",
            b"\x0beastvale-pd",
            struct.pack(">IQI", 258, since_1970, len(checkpoint)),
            checkpoint,
            struct.pack(">I", len(body)),
            body,
        )
    )
    signature = SENDER_KEY.sign(b"sealmatch-1/message\n" + sha256(unsigned).hex().encode())
    assert message.to_bytes() == unsigned + signature


def test_a_message_of_no_search_has_zeros_in_their_place() -> None:
    message = message_of(MessageType.CHECKPOINT_GOSSIP, CHECKPOINT)
    assert message.to_bytes()[6:54] == bytes(48)
    assert take(message, SignedCheckpoint) == CHECKPOINT


def test_sealing_twice_makes_two_messages_and_signing_twice_one() -> None:
    assert message_of(MessageType.DISCLOSURE_REQUEST, REQUEST).message_id != message_of(MessageType.DISCLOSURE_REQUEST, REQUEST).message_id
    assert message_of(MessageType.REFUSAL, REFUSAL).message_id == message_of(MessageType.REFUSAL, REFUSAL).message_id


# --- refused bytes -------------------------------------------------------------------------------------------------


SOME_FRAMES = (
    message_of(MessageType.REFUSAL, REFUSAL, header_of(MessageType.REFUSAL, checkpoint=CHECKPOINT.to_bytes())),
    message_of(MessageType.DISCLOSURE_REQUEST, REQUEST),
)
"""One open and one sealed message, with and without a checkpoint, short enough to try every byte."""


@pytest.mark.parametrize("message", SOME_FRAMES, ids=("open", "sealed"))
def test_a_frame_cut_at_any_byte_is_refused(message: Message) -> None:
    wire = message.to_bytes()
    for length in range(len(wire)):
        with pytest.raises(TruncatedError):
            Message.from_bytes(wire[:length])


@pytest.mark.parametrize("message", SOME_FRAMES, ids=("open", "sealed"))
def test_a_frame_with_anything_after_it_is_refused(message: Message) -> None:
    for tail in (b"\0", b"\xff", message.to_bytes()):
        with pytest.raises(NotCanonicalError):
            Message.from_bytes(message.to_bytes() + tail)


@pytest.mark.parametrize("message", SOME_FRAMES, ids=("open", "sealed"))
def test_a_flipped_bit_is_refused_or_makes_another_message_that_nobody_signed(message: Message) -> None:
    wire = message.to_bytes()
    decoded = 0
    for at in range(len(wire)):
        for bit in range(8):
            changed = wire[:at] + bytes([wire[at] ^ 1 << bit]) + wire[at + 1 :]
            other = parsed_or_refused(changed, Message.from_bytes)
            if other is None:
                continue
            decoded += 1
            assert other.to_bytes() == changed
            assert other.message_id != message.message_id
            with pytest.raises(SenderSignatureError):
                other.check_signature(SENDER_KEY.verifying_key)
    assert decoded > 64 * 8  # the signature's own bits, at least: the test tests something


@given(st.binary(max_size=400))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(EncodingError):
        Message.from_bytes(garbage)


@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=600))
def test_garbage_behind_a_good_beginning_is_refused(message_type: MessageType, garbage: bytes) -> None:
    wire = message_of(MessageType.REFUSAL, REFUSAL).to_bytes()
    for kept in (6, 54, 90):
        head = bytearray(wire[:kept])
        head[5] = MESSAGES[message_type].code
        with pytest.raises(PeerError):
            Message.from_bytes(bytes(head) + garbage)


@pytest.mark.parametrize("code", [0, 18, 255])
def test_an_unknown_type_is_refused_by_version(code: int) -> None:
    wire = bytearray(message_of(MessageType.REFUSAL, REFUSAL).to_bytes())
    wire[5] = code
    with pytest.raises(VersionError):
        Message.from_bytes(bytes(wire))


@pytest.mark.parametrize("at", [2, 3, 4])
def test_another_kind_format_version_or_parameter_set_is_refused_by_version(at: int) -> None:
    wire = bytearray(message_of(MessageType.REFUSAL, REFUSAL).to_bytes())
    wire[at] += 1
    with pytest.raises(VersionError):
        Message.from_bytes(bytes(wire))


def test_the_longest_of_all_types_is_refused_unread() -> None:
    with pytest.raises(OversizedError):
        Message.from_bytes(Untouchable(MAX_MESSAGE_BYTES + 1))


@pytest.mark.parametrize("message_type", MessageType)
def test_the_type_s_maximum_is_checked_before_anything_behind_the_type(message_type: MessageType) -> None:
    spec = MESSAGES[message_type]
    head = b"SM\x0b\x01\x01" + bytes([spec.code])
    with pytest.raises(OversizedError):
        Message.from_bytes(head + bytes(spec.max_bytes + 1 - len(head)))
    with pytest.raises(FieldError):  # one byte less is parsed, and there are only zeros
        Message.from_bytes(head + bytes(spec.max_bytes - len(head)))


@pytest.mark.parametrize("message_type", MessageType)
def test_a_body_s_maximum_is_checked_before_it_is_parsed(message_type: MessageType) -> None:
    with pytest.raises(OversizedError):
        Message(header_of(message_type), Untouchable(MESSAGES[message_type].max_carried_bytes + 1), bytes(64))


@pytest.mark.parametrize("message_type", [kind for kind in SEALED if MESSAGES[kind].max_body_bytes < 4 << 20])
def test_a_sealed_body_beyond_its_maximum_is_refused_before_it_is_parsed(message_type: MessageType) -> None:
    """The envelope has room for another suite, so a plaintext can be a little too long and still arrive."""
    spec = MESSAGES[message_type]
    header = header_of(message_type)
    message = message_around(envelope_around(b"?" * (spec.max_body_bytes + 1), header), header)
    with pytest.raises(OversizedError):
        take(message, spec.body)


def test_zero_stands_for_no_search_and_for_nothing_else() -> None:
    header = header_of(MessageType.REFUSAL)
    changes: tuple[dict[str, Any], ...] = (
        {"search_id": None},
        {"grant_digest": None},
        {"search_id": SearchId("0" * 32)},
        {"grant_digest": bytes(32)},
        {"grant_digest": bytes(31)},
        {"message_type": MessageType.CHECKPOINT_GOSSIP},
    )
    for change in changes:
        with pytest.raises(FieldError):
            dataclasses.replace(header, **change)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sequence": 0}, FieldError),
        ({"sequence": MAX_SEQUENCE + 1}, FieldError),
        ({"sent_at": SENT_AT + timedelta(microseconds=1)}, FieldError),
        ({"sent_at": SENT_AT.replace(tzinfo=None)}, FieldError),
        ({"checkpoint": b""}, FieldError),
        ({"checkpoint": bytes(MAX_CHECKPOINT_BYTES + 1)}, FieldError),
        ({"message_type": "refusal"}, MisuseError),
        ({"sender": "northport-pd"}, MisuseError),
        ({"recipient": "eastvale|pd"}, MisuseError),
        ({"search_id": "0123456789abcdef" * 2}, MisuseError),
    ],
)
def test_a_header_out_of_its_form_does_not_exist(change: dict[str, Any], error: type[CryptoError]) -> None:
    with pytest.raises(error):
        dataclasses.replace(header_of(MessageType.REFUSAL), **change)


# --- who signed what, for whom -------------------------------------------------------------------------------------

HEADER_CHANGES: dict[str, Any] = {
    "search_id": SearchId("fe" * 16),
    "grant_digest": bytes([9]) * 32,
    "sender": AgencyId("westmoor-pd"),
    "recipient": AgencyId("westmoor-pd"),
    "sequence": 2,
    "sent_at": SENT_AT + timedelta(milliseconds=10),
    "checkpoint": CHECKPOINT.to_bytes(),
}


@pytest.mark.parametrize("name", HEADER_CHANGES)
def test_a_broker_that_changes_an_open_frame_breaks_its_signature(name: str) -> None:
    message = message_of(MessageType.REFUSAL, REFUSAL)
    changed = dataclasses.replace(message, header=dataclasses.replace(message.header, **{name: HEADER_CHANGES[name]}))
    with pytest.raises(SenderSignatureError):
        read_message(changed, Refusal, recipient=changed.header.recipient, sender_public=SENDER_KEY.verifying_key)


@pytest.mark.parametrize("name", ["sequence", "sent_at", "checkpoint"])
def test_a_broker_that_changes_what_stands_outside_the_envelope_breaks_the_frame_s_signature(name: str) -> None:
    message = message_of(MessageType.DISCLOSURE_REQUEST, REQUEST)
    changed = dataclasses.replace(message, header=dataclasses.replace(message.header, **{name: HEADER_CHANGES[name]}))
    with pytest.raises(SenderSignatureError):
        take(changed, DisclosureRequest)


@pytest.mark.parametrize("name", ["search_id", "grant_digest", "sender", "recipient", "message_type"])
def test_a_frame_around_another_message_s_envelope_does_not_exist(name: str) -> None:
    message = message_of(MessageType.DISCLOSURE_REQUEST, REQUEST)
    changes = HEADER_CHANGES | {"message_type": MessageType.STUBS}
    header = dataclasses.replace(message.header, **{name: changes[name]})
    with pytest.raises(ContextError):
        Message(header, message.body, message.signature)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("message_type", MessageType.STUBS),
        ("search_id", SearchId("fe" * 16)),
        ("grant_digest", bytes([9]) * 32),
        ("sender", AgencyId("westmoor-pd")),
        ("recipient", AgencyId("westmoor-pd")),
        ("recipient_key_id", KeyId("eastvale-pd:2026-w49")),
        ("epoch", Epoch("2026-12")),
    ],
)
def test_an_envelope_that_the_recipient_does_not_expect_is_refused(name: str, value: Any) -> None:
    expected: EnvelopeContext = dataclasses.replace(expected_context(MessageType.DISCLOSURE_REQUEST), **{name: value})
    message = message_of(MessageType.DISCLOSURE_REQUEST, REQUEST)
    with pytest.raises(ContextError):
        open_message(
            message,
            DisclosureRequest,
            expected=expected,
            recipient_private=RECIPIENT_KEY,
            sender_public=SENDER_KEY.verifying_key,
        )


def test_another_sender_s_key_and_another_recipient_s_key_do_not_open() -> None:
    message = message_of(MessageType.DISCLOSURE_REQUEST, REQUEST)
    expected = expected_context(MessageType.DISCLOSURE_REQUEST)

    def attempt(private: SealingPrivateKey, sender: SigningKey) -> None:
        open_message(message, DisclosureRequest, expected=expected, recipient_private=private, sender_public=sender.verifying_key)

    attempt(RECIPIENT_KEY, SENDER_KEY)
    with pytest.raises(SenderSignatureError):
        attempt(RECIPIENT_KEY, OTHER_KEY)
    with pytest.raises(OpeningError):
        attempt(SealingPrivateKey.generate(), SENDER_KEY)


def test_a_frame_signed_by_another_around_a_good_envelope_is_refused() -> None:
    good = message_of(MessageType.DISCLOSURE_REQUEST, REQUEST)
    digest = sha256(good.to_bytes()[:-64])
    resigned = dataclasses.replace(good, signature=OTHER_KEY.sign(b"sealmatch-1/message\n" + digest.hex().encode()))
    for key in (SENDER_KEY, OTHER_KEY):  # neither key stands behind both signatures
        with pytest.raises(SenderSignatureError):
            open_message(
                resigned,
                DisclosureRequest,
                expected=expected_context(MessageType.DISCLOSURE_REQUEST),
                recipient_private=RECIPIENT_KEY,
                sender_public=key.verifying_key,
            )


def test_a_signature_without_the_frame_s_label_counts_for_nothing() -> None:
    good = message_of(MessageType.REFUSAL, REFUSAL)
    digest = sha256(good.to_bytes()[:-64]).hex().encode()
    for signed in (digest, b"sealmatch-1/answer-digest\n" + digest, b"sealmatch-1|message|" + digest, good.to_bytes()[:-64]):
        with pytest.raises(SenderSignatureError):
            dataclasses.replace(good, signature=SENDER_KEY.sign(signed)).check_signature(SENDER_KEY.verifying_key)


def test_an_open_message_for_somebody_else_is_refused() -> None:
    with pytest.raises(ContextError):
        read_message(message_of(MessageType.REFUSAL, REFUSAL), Refusal, recipient=NORTHPORT, sender_public=SENDER_KEY.verifying_key)


def test_a_checkpoint_that_does_not_parse_is_evidence_and_not_an_obstacle() -> None:
    header = header_of(MessageType.REFUSAL, checkpoint=b"not a note")
    received = Message.from_bytes(message_of(MessageType.REFUSAL, REFUSAL, header).to_bytes())
    assert take(received, Refusal) == REFUSAL
    with pytest.raises(CheckpointError):
        received.header.unverified_checkpoint()
    assert header_of(MessageType.REFUSAL).unverified_checkpoint() is None
    assert header_of(MessageType.REFUSAL, checkpoint=CHECKPOINT.to_bytes()).unverified_checkpoint() == CHECKPOINT


# --- our own mistakes ----------------------------------------------------------------------------------------------


def seal_anything(header: MessageHeader, body: Any) -> Message:
    """Without the types in the way."""
    public = RECIPIENT_KEY.public_key
    return seal_message(header, body, recipient_public=public, recipient_key_id=KEY_ID, epoch=EPOCH, sender_signing_key=SENDER_KEY)


@pytest.mark.parametrize(
    "body",
    [
        np.zeros(2048, np.uint16),
        np.zeros(2048, np.float64),
        bytes(4096),
        [0.5, 0.4],
        Y16(bytes(32), np.zeros(2048, np.uint16)),
        REQUEST,
    ],
    ids=["uint16", "float64", "bytes", "list", "bare Y16", "another body"],
)
def test_scores_leave_as_the_body_around_y16_and_as_nothing_else(body: Any) -> None:
    with pytest.raises(MisuseError):
        seal_anything(header_of(MessageType.OPENED_SCORES), body)


@pytest.mark.parametrize("message_type", SEALED)
def test_what_is_to_be_sealed_is_never_sent_open(message_type: MessageType) -> None:
    with pytest.raises(MisuseError):
        sign_message(header_of(message_type), REQUEST, sender_signing_key=SENDER_KEY)


@pytest.mark.parametrize("message_type", OPEN)
def test_what_is_open_is_not_sealed(message_type: MessageType) -> None:
    with pytest.raises(MisuseError):
        seal_anything(header_of(message_type), REFUSAL)


def test_asking_for_another_body_than_the_table_s_is_our_mistake() -> None:
    with pytest.raises(MisuseError):
        take(message_of(MessageType.DISCLOSURE_REQUEST, REQUEST), StubList)
    with pytest.raises(MisuseError):
        take(message_of(MessageType.REFUSAL, REFUSAL), RevocationQuery)
    with pytest.raises(MisuseError):
        read_message(
            message_of(MessageType.DISCLOSURE_REQUEST, REQUEST),
            DisclosureRequest,
            recipient=EASTVALE,
            sender_public=SENDER_KEY.verifying_key,
        )
    with pytest.raises(MisuseError):
        header_of(MessageType.CHECKPOINT_GOSSIP).context(KEY_ID, EPOCH)
    with pytest.raises(MisuseError):
        message_of(MessageType.REFUSAL, REFUSAL).envelope()


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_has_64_bytes(length: int) -> None:
    with pytest.raises(FieldError):
        dataclasses.replace(message_of(MessageType.REFUSAL, REFUSAL), signature=bytes(length))


def test_an_open_body_that_does_not_parse_makes_no_message() -> None:
    with pytest.raises(EncodingError):
        Message(header_of(MessageType.REFUSAL), b"SM\x13\x01\x01", bytes(64))


def test_repr_shows_no_body() -> None:
    message = message_of(MessageType.REFUSAL, REFUSAL, header_of(MessageType.REFUSAL, checkpoint=CHECKPOINT.to_bytes()))
    text = repr(message)
    assert "body" not in text
    assert "signature" not in text
    assert "checkpoint" not in text
    assert "grant_digest" not in text
