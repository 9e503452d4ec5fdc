"""Every body that a message carries: one encoding, nothing long is parsed, sizes that say nothing, parts that belong together."""

from __future__ import annotations

import dataclasses
from datetime import date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.answer import Answer
from crypto.binary import sha256
from crypto.bodies import GRANT_BODY_BYTES, MAX_ANSWER_BODY_BYTES, MAX_OPENED_BODY_BYTES, AnswerBody, AnswerStatement, GrantBody, OpenedBody
from crypto.canonical import AgencyId, SearchId
from crypto.disclosure import (
    DISCLOSURE_BODY_BYTES,
    MAX_PHOTOGRAPH_BYTES,
    MAX_RECORD_NUMBER_BYTES,
    MAX_STUBS_BYTES,
    REQUEST_BYTES,
    SLOT_BYTES,
    DisclosedRecord,
    Disclosure,
    DisclosureOutcome,
    DisclosureRequest,
    Media,
    Stub,
    StubList,
    StubRecord,
)
from crypto.envelope import MAX_PLAINTEXT_BYTES
from crypto.errors import (
    AnswerError,
    EncodingError,
    FieldError,
    MisuseError,
    NotCanonicalError,
    OversizedError,
    PeerError,
    RevokedError,
    StaleStatementError,
)
from crypto.grant_token import MAX_TOKEN_BYTES
from crypto.keys import SigningKey
from crypto.limits import MAX_CAP, MAX_CHUNKS, MAX_HOLDERS
from crypto.message_types import MESSAGES, Body, MessageType
from crypto.notices import (
    Deleted,
    DeletionReceipt,
    Refusal,
    RefusalReason,
    RevocationQuery,
    RevocationStatement,
    Standing,
)
from crypto.opening import Y16
from crypto.release import Band, DiscoveryRelease, HolderOutcome, HolderRelease, Outcome, RequesterRelease
from crypto.ring import N
from crypto.wire import MessageId
from tests.message_samples import (
    BODIES,
    EPOCH,
    GRANT_DIGEST,
    NORTHPORT,
    OTHER_KEY,
    SEARCH,
    SENDER_KEY,
    SENT_AT,
    Untouchable,
    answer_bodies,
    mask_shares,
    opened_bodies,
    parsed_or_refused,
    same_bytes,
    statement,
    stub_lists,
)

HANDLE = bytes(range(1, 17))
RECORD = StubRecord(HANDLE, NORTHPORT, date(1998, 2, 28), 10_000)
HEAD_BYTES = 200
"""Bytes from the beginning that are tried one by one; longer bodies are sampled behind them."""


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message_type", MessageType)
@given(data=st.data())
@settings(max_examples=15)
def test_a_body_has_one_encoding(message_type: MessageType, data: st.DataObject) -> None:
    body = data.draw(BODIES[message_type])
    encoded = body.to_bytes()
    assert same_bytes(MESSAGES[message_type].body.from_bytes(encoded).to_bytes(), encoded)
    with pytest.raises(PeerError):
        MESSAGES[message_type].body.from_bytes(encoded + b"\0")


@pytest.mark.parametrize("message_type", MessageType)
@given(data=st.data())
@settings(max_examples=1)
def test_a_cut_body_is_refused(message_type: MessageType, data: st.DataObject) -> None:
    encoded = data.draw(BODIES[message_type]).to_bytes()
    lengths = {*range(min(HEAD_BYTES, len(encoded))), *range(0, len(encoded), 1 + len(encoded) // 50), len(encoded) - 1}
    for length in sorted(lengths):
        with pytest.raises(PeerError):
            MESSAGES[message_type].body.from_bytes(encoded[:length])


@pytest.mark.parametrize("message_type", MessageType)
@given(data=st.data())
@settings(max_examples=1)
def test_a_flipped_bit_is_refused_or_another_value(message_type: MessageType, data: st.DataObject) -> None:
    encoded = data.draw(BODIES[message_type]).to_bytes()
    step = 1 if len(encoded) < 1000 else 4  # for long bodies, each byte of the head and two of its bits
    places = [*range(min(HEAD_BYTES, len(encoded))), *range(HEAD_BYTES, len(encoded), 1 + len(encoded) // 20)]
    for at in places:
        for bit in range(0, 8, step):
            changed = bytearray(encoded)
            changed[at] ^= 1 << bit
            other = parsed_or_refused(bytes(changed), MESSAGES[message_type].body.from_bytes)
            assert other is None or same_bytes(other.to_bytes(), bytes(changed))


@pytest.mark.parametrize("message_type", MessageType)
@given(garbage=st.binary(max_size=300))
@settings(max_examples=20)
def test_garbage_is_refused(message_type: MessageType, garbage: bytes) -> None:
    with pytest.raises(PeerError):
        MESSAGES[message_type].body.from_bytes(garbage)


@pytest.mark.parametrize("message_type", MessageType)
@given(garbage=st.binary(max_size=300), data=st.data())
@settings(max_examples=20)
def test_garbage_behind_a_good_beginning_is_refused_or_canonical(message_type: MessageType, garbage: bytes, data: st.DataObject) -> None:
    encoded = data.draw(BODIES[message_type]).to_bytes()
    kept = data.draw(st.integers(5, min(len(encoded), HEAD_BYTES)))
    other = parsed_or_refused(encoded[:kept] + garbage, MESSAGES[message_type].body.from_bytes)
    assert other is None or same_bytes(other.to_bytes(), encoded[:kept] + garbage)


@pytest.mark.parametrize("message_type", MessageType)
def test_a_long_body_is_refused_unread(message_type: MessageType) -> None:
    with pytest.raises(OversizedError):
        MESSAGES[message_type].body.from_bytes(Untouchable(1 << 30))


# --- sizes that say nothing ----------------------------------------------------------------------------------------


def test_grants_of_any_length_have_one_size() -> None:
    assert {len(GrantBody(b"x" * length).to_bytes()) for length in (1, 1000, MAX_TOKEN_BYTES)} == {GRANT_BODY_BYTES}
    for length in (0, MAX_TOKEN_BYTES + 1):
        with pytest.raises(FieldError):
            GrantBody(b"x" * length)


@given(cap=st.integers(1, MAX_CAP), data=st.data())
@settings(max_examples=30)
def test_all_lists_of_a_cap_have_one_size(cap: int, data: st.DataObject) -> None:
    assert len(data.draw(stub_lists(cap)).to_bytes()) == len(StubList(cap, ()).to_bytes()) == 9 + cap * SLOT_BYTES <= MAX_STUBS_BYTES


def test_withdrawn_and_full_slots_have_one_size() -> None:
    lists = (StubList(2, ()), StubList(2, (Stub(0, None),)), StubList(2, (Stub(0, RECORD), Stub(1, None))))
    assert len({len(stubs.to_bytes()) for stubs in lists}) == 1


def test_every_disclosure_has_one_size() -> None:
    decision = bytes([1]) * 32
    largest = DisclosedRecord("7" * MAX_RECORD_NUMBER_BYTES, Media.JPEG, b"\xff" * MAX_PHOTOGRAPH_BYTES)
    made = (
        Disclosure(DisclosureOutcome.NOT_ASKED),
        Disclosure(DisclosureOutcome.WITHDRAWN, HANDLE),
        Disclosure(DisclosureOutcome.WITHHELD, HANDLE, decision),
        Disclosure(DisclosureOutcome.DISCLOSED, HANDLE, decision, DisclosedRecord("1", Media.PNG, b"\0")),
        Disclosure(DisclosureOutcome.DISCLOSED, HANDLE, decision, largest),
    )
    assert {len(disclosure.to_bytes()) for disclosure in made} == {DISCLOSURE_BODY_BYTES}
    assert [Disclosure.from_bytes(disclosure.to_bytes()) for disclosure in made] == list(made)


def test_every_request_has_one_size() -> None:
    assert {len(request.to_bytes()) for request in (DisclosureRequest(None), DisclosureRequest(HANDLE))} == {REQUEST_BYTES}


def test_releases_and_shares_fit_their_rows() -> None:
    every = range(MAX_CAP)
    names = (AgencyId(f"h{number:03d}".ljust(64, "x")) for number in range(MAX_HOLDERS))
    outcomes = tuple(HolderOutcome(name, Outcome.ANSWERED) for name in names)
    releases: dict[MessageType, Body] = {
        MessageType.HOLDER_RELEASE: HolderRelease(MAX_CAP, tuple((index, index) for index in every)),
        MessageType.REQUESTER_RELEASE: RequesterRelease(MAX_CAP, tuple((index, index + 1, Band.WEAK) for index in every), outcomes),
        MessageType.DISCOVERY_RELEASE: DiscoveryRelease(
            cap=MAX_CAP, records=9, compared=9, threshold_milli=400, leads=tuple((index, 500) for index in every)
        ),
        MessageType.STUBS: StubList(MAX_CAP, tuple(Stub(index, None) for index in every)),
    }
    for message_type, body in releases.items():
        assert len(body.to_bytes()) <= MESSAGES[message_type].max_body_bytes


# --- padding and slots ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [-1, -500_000, 5 + 1 + 16 + 32 + 1 + 5])
def test_padding_of_a_disclosure_is_zero(at: int) -> None:
    record = DisclosedRecord("A-1", Media.JPEG, b"jpeg")
    encoded = bytearray(Disclosure(DisclosureOutcome.DISCLOSED, HANDLE, bytes([1]) * 32, record).to_bytes())
    encoded[at] = 1
    with pytest.raises(NotCanonicalError):
        Disclosure.from_bytes(bytes(encoded))


@pytest.mark.parametrize("outcome", [DisclosureOutcome.NOT_ASKED, DisclosureOutcome.WITHHELD, DisclosureOutcome.WITHDRAWN])
def test_a_disclosure_without_a_record_hides_none(outcome: DisclosureOutcome) -> None:
    record = DisclosedRecord("A-1", Media.JPEG, b"jpeg")
    encoded = bytearray(Disclosure(DisclosureOutcome.DISCLOSED, HANDLE, bytes([1]) * 32, record).to_bytes())
    encoded[5] = outcome
    with pytest.raises(NotCanonicalError):
        Disclosure.from_bytes(bytes(encoded))


def test_a_disclosure_holds_what_its_outcome_says() -> None:
    decision, record = bytes([1]) * 32, DisclosedRecord("A-1", Media.JPEG, b"jpeg")
    for outcome, handle, digest, content in (
        (DisclosureOutcome.NOT_ASKED, HANDLE, None, None),
        (DisclosureOutcome.NOT_ASKED, None, decision, None),
        (DisclosureOutcome.DISCLOSED, HANDLE, decision, None),
        (DisclosureOutcome.DISCLOSED, HANDLE, None, record),
        (DisclosureOutcome.DISCLOSED, bytes(16), decision, record),
        (DisclosureOutcome.DISCLOSED, HANDLE, bytes(32), record),
        (DisclosureOutcome.DISCLOSED, HANDLE[:15], decision, record),
        (DisclosureOutcome.WITHHELD, HANDLE, None, None),
        (DisclosureOutcome.WITHHELD, HANDLE, decision, record),
        (DisclosureOutcome.WITHDRAWN, None, None, None),
    ):
        with pytest.raises(FieldError):
            Disclosure(outcome, handle, digest, content)


@pytest.mark.parametrize(
    ("number", "photograph"),
    [
        ("", b"x"),
        (" 1", b"x"),
        ("a\nb", b"x"),
        ("ü" * 33, b"x"),
        ("1" * 65, b"x"),
        ("1", b""),
        ("1", bytes(MAX_PHOTOGRAPH_BYTES + 1)),
    ],
)
def test_a_disclosed_record_out_of_its_form_does_not_exist(number: str, photograph: bytes) -> None:
    with pytest.raises(FieldError):
        DisclosedRecord(number, Media.JPEG, photograph)


def test_an_empty_slot_is_empty() -> None:
    encoded = bytearray(StubList(2, (Stub(0, RECORD),)).to_bytes())
    for at in (-1, -SLOT_BYTES, -SLOT_BYTES + 1):
        changed = bytearray(encoded)
        changed[at] ^= 1
        with pytest.raises(NotCanonicalError):
            StubList.from_bytes(bytes(changed))


def test_a_withdrawn_slot_shows_nothing_and_an_empty_one_stands_at_the_end() -> None:
    encoded = bytearray(StubList(2, (Stub(0, RECORD),)).to_bytes())
    encoded[9] = 2
    with pytest.raises(NotCanonicalError):
        StubList.from_bytes(bytes(encoded))
    encoded[9] = 0
    with pytest.raises(FieldError):
        StubList.from_bytes(bytes(encoded))


def test_a_list_of_stubs_out_of_its_form_does_not_exist() -> None:
    other = dataclasses.replace(RECORD, handle=bytes([9]) * 16)
    for cap, stubs in (
        (0, ()),
        (MAX_CAP + 1, ()),
        (1, (Stub(0, None), Stub(1, None))),
        (2, (Stub(2, None),)),
        (3, (Stub(1, None), Stub(0, None))),
        (3, (Stub(1, RECORD), Stub(1, other))),
        (3, (Stub(0, RECORD), Stub(1, RECORD))),
    ):
        with pytest.raises(FieldError):
            StubList(cap, stubs)
    for change in (
        {"handle": bytes(16)},
        {"handle": bytes(15)},
        {"captured": date(1899, 12, 31)},
        {"captured": datetime(2020, 1, 1)},
        {"age_days": -1},
        {"age_days": 1 << 16},
    ):
        with pytest.raises(FieldError):
            dataclasses.replace(RECORD, **change)


# --- one answer ----------------------------------------------------------------------------------------------------


@given(answer_bodies(), answer_bodies())
@settings(max_examples=5)
def test_the_parts_of_an_answer_body_name_one_answer(one: AnswerBody, other: AnswerBody) -> None:
    if one.answer.digest == other.answer.digest:
        return
    for parts in (
        (other.statement, one.order, one.answer),
        (one.statement, other.order, one.answer),
        (one.statement, one.order, other.answer),
    ):
        with pytest.raises(AnswerError):
            AnswerBody(*parts)


@given(answer_bodies())
@settings(max_examples=3)
def test_an_answer_s_parts_are_compared_on_arrival_too(body: AnswerBody) -> None:
    encoded = bytearray(body.to_bytes())
    encoded[-1] ^= 1  # a word of b: the answer still parses, and is another
    with pytest.raises(AnswerError):
        AnswerBody.from_bytes(bytes(encoded))


def test_opened_scores_stand_under_the_statement_of_their_own_answer() -> None:
    opened = Y16(bytes([4]) * 32, np.zeros(2 * N, np.uint16))
    OpenedBody(statement(opened.answer_digest), opened)
    with pytest.raises(AnswerError):
        OpenedBody(statement(bytes([3]) * 32), opened)


@given(data=st.data())
@settings(max_examples=5)
def test_a_share_belongs_to_holder_digest_and_size(data: st.DataObject) -> None:
    body = data.draw(opened_bodies())
    digest, holder = body.opened.answer_digest, body.statement.holder
    body.check_share(holder, data.draw(mask_shares(digest)))
    with pytest.raises(AnswerError):
        body.check_share(AgencyId("somebody-else"), data.draw(mask_shares(digest)))
    with pytest.raises(AnswerError):
        body.check_share(holder, data.draw(mask_shares(bytes([5]) * 32)))
    with pytest.raises(AnswerError):
        body.check_share(holder, data.draw(mask_shares(digest, 3 * N)))


def test_a_statement_is_the_holder_s_for_one_search_grant_and_digest() -> None:
    digest = bytes([4]) * 32
    made = statement(digest)
    key = SENDER_KEY.verifying_key
    made.check(SEARCH, GRANT_DIGEST, key)
    others: list[tuple[AnswerStatement, SearchId, bytes, SigningKey]] = [
        (made, SearchId("fe" * 16), GRANT_DIGEST, SENDER_KEY),
        (made, SEARCH, bytes([9]) * 32, SENDER_KEY),
        (made, SEARCH, GRANT_DIGEST, OTHER_KEY),
        (dataclasses.replace(made, holder=AgencyId("eastvale-pd")), SEARCH, GRANT_DIGEST, SENDER_KEY),
        (dataclasses.replace(made, answer_digest=bytes([5]) * 32), SEARCH, GRANT_DIGEST, SENDER_KEY),
        (dataclasses.replace(made, signature=bytes(64)), SEARCH, GRANT_DIGEST, SENDER_KEY),
    ]
    for claim, search_id, grant_digest, signer in others:
        with pytest.raises(AnswerError):
            claim.check(search_id, grant_digest, signer.verifying_key)
    with pytest.raises(FieldError):
        dataclasses.replace(made, answer_digest=bytes(31))
    with pytest.raises(FieldError):
        dataclasses.replace(made, signature=bytes(63))


def test_only_y16_is_opened_scores() -> None:
    values = np.zeros(2 * N, np.uint16)
    with pytest.raises(FieldError):
        OpenedBody(statement(bytes(32)), values)  # type: ignore[arg-type]
    OpenedBody(statement(bytes(32)), Y16(bytes(32), values))


def test_the_largest_answer_fits_one_envelope_and_a_larger_one_cannot_be_built() -> None:
    assert MAX_OPENED_BODY_BYTES < MAX_ANSWER_BODY_BYTES <= MAX_PLAINTEXT_BYTES
    words = np.zeros((MAX_CHUNKS + 1) * N, np.uint16)  # never touched, so it takes no memory
    with pytest.raises(MisuseError):
        Answer(EPOCH, bytes(32), bytes(32), 8, words, words)
    with pytest.raises(MisuseError):
        Y16(bytes(32), np.zeros((MAX_CHUNKS + 1) * N, np.uint16))


# --- notices -------------------------------------------------------------------------------------------------------


def test_a_refusal_by_policy_names_its_rule() -> None:
    refused = MessageId("0" * 64)
    assert Refusal.from_bytes(Refusal(refused, RefusalReason.POLICY, 33).to_bytes()).rule == 33
    for rule in (0, -1, 1000):
        with pytest.raises(FieldError):
            Refusal(refused, RefusalReason.POLICY, rule)
    with pytest.raises(FieldError):
        Refusal(refused, RefusalReason.POLICY)
    encoded = bytearray(Refusal(refused, RefusalReason.EPOCH).to_bytes())
    encoded[-3] = RefusalReason.POLICY
    with pytest.raises(FieldError):
        Refusal.from_bytes(bytes(encoded))


def test_a_refusal_has_no_room_for_text() -> None:
    assert all(field.type in {"MessageId", "RefusalReason", "int | None"} for field in dataclasses.fields(Refusal))
    assert len({len(Refusal(MessageId("0" * 64), reason, 1).to_bytes()) for reason in RefusalReason}) == 1


def test_a_receipt_names_each_kind_once_in_order() -> None:
    for kinds in ((), (Deleted.ANSWER, Deleted.PROBE), (Deleted.PROBE, Deleted.PROBE)):
        with pytest.raises(FieldError):
            DeletionReceipt(kinds, SENT_AT)
    with pytest.raises(FieldError):
        DeletionReceipt((Deleted.PROBE,), SENT_AT.replace(microsecond=1))


def test_a_statement_that_the_grant_stands_counts_for_five_minutes_and_one_query() -> None:
    query = RevocationQuery.fresh()
    stands = RevocationStatement(query.nonce, Standing.STANDS, SENT_AT)
    for seconds in (-60, 0, 1, 300):
        stands.check_stands(query, SENT_AT + timedelta(seconds=seconds))
    for seconds in (-61, 301):
        with pytest.raises(StaleStatementError):
            stands.check_stands(query, SENT_AT + timedelta(seconds=seconds))
    with pytest.raises(StaleStatementError):
        stands.check_stands(RevocationQuery.fresh(), SENT_AT)
    with pytest.raises(RevokedError):
        RevocationStatement(query.nonce, Standing.ENDED, SENT_AT).check_stands(query, SENT_AT)
    with pytest.raises(MisuseError):
        stands.check_stands(query, SENT_AT.replace(tzinfo=None))
    with pytest.raises(FieldError):
        RevocationQuery(bytes(31))
    with pytest.raises(EncodingError):
        RevocationStatement.from_bytes(stands.to_bytes()[:37] + b"\3" + stands.to_bytes()[38:])


# --- nothing secret is shown ---------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=3)
def test_repr_redacts(data: st.DataObject) -> None:
    answer, opened = data.draw(answer_bodies()), data.draw(opened_bodies())
    assert "redacted" in repr(answer)
    assert "redacted" in repr(opened)
    assert repr(GrantBody(b"docket 17")) == "GrantBody()"
    assert repr(RECORD) == "StubRecord()"
    assert repr(StubList(3, (Stub(1, RECORD),))) == "StubList(cap=3)"
    assert repr(DisclosureRequest(HANDLE)) == "DisclosureRequest()"
    assert repr(Disclosure(DisclosureOutcome.NOT_ASKED)) == "Disclosure()"
    assert "A-1" not in repr(DisclosedRecord("A-1", Media.JPEG, b"jpeg"))


@settings(max_examples=5)
@given(answer_bodies())
def test_an_answer_that_was_read_has_the_digest_of_its_own_bytes(body: AnswerBody) -> None:
    """The digest is taken of the bytes on their way in; it is the one that who writes it takes."""
    data = body.to_bytes()
    for read in (
        AnswerBody.from_bytes(data),
        AnswerBody.from_chunks((data[at : at + 1000] for at in range(0, len(data), 1000)), len(data)),
    ):
        assert "digest" in vars(read.answer)
        assert read.answer.digest == sha256(read.answer.to_bytes()) == body.answer.digest
