"""Gallery manifests and sealing keys of the week: what agencies say under their node keys, and which custodians may serve a grant."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.canonical import AgencyId, SearchId, canonical_json
from crypto.errors import (
    AgencyStatementError,
    CryptoError,
    CustodianError,
    FieldError,
    MisuseError,
    ModelError,
    NotCanonicalError,
    OversizedError,
    UnknownAgencyError,
    VersionError,
)
from crypto.keys import SealingPrivateKey
from crypto.limits import MAX_CHUNKS
from crypto.manifest import MANIFEST_KIND, MAX_TRUSTED_CUSTODIANS, GalleryManifest, check_custodians, check_trusted_by
from crypto.moments import check_day, check_moment, check_now, format_moment, parse_day, parse_moment, round_moment
from crypto.roster_entries import AgencyRole
from crypto.sealing_key import SEALING_KEY_KIND, SealingKeyStatement, Week
from crypto.signed import key_id, read_document, sign_document
from tests.sample_federation import (
    BOARD,
    EASTFIELD,
    LAKESIDE,
    NORTHPORT_BOARD,
    NORTHPORT_LAW,
    NOW,
    OVERSIGHT,
    VENDOR,
    claims,
    digest,
    manifest,
    roster,
    secret,
    signing_key,
    with_agency,
)

ROSTER = roster()
CLAIMS = claims()
MANIFEST = manifest()
NODE = signing_key(f"{LAKESIDE} node")
DATA = MANIFEST.sign(NODE)
STATEMENT = SealingKeyStatement(BOARD, Week("2026-W48"), SealingPrivateKey.from_secret(secret("sealing key")).public_key)
BOARD_NODE = signing_key(f"{BOARD} node")
STATEMENT_DATA = STATEMENT.sign(BOARD_NODE)

Read = Callable[[bytes], object]
DOCUMENTS = pytest.mark.parametrize(
    ("data", "read"),
    [(DATA, lambda data: GalleryManifest.read(data, ROSTER)), (STATEMENT_DATA, lambda data: SealingKeyStatement.read(data, ROSTER))],
    ids=["manifest", "sealing key"],
)


# --- both kinds of document -------------------------------------------------------------------------------------------


def test_what_a_node_signs_is_read() -> None:
    assert GalleryManifest.read(DATA, ROSTER) == MANIFEST
    assert SealingKeyStatement.read(STATEMENT_DATA, ROSTER) == STATEMENT
    assert STATEMENT.key_id == key_id(STATEMENT.key.raw)


@pytest.mark.parametrize("signer", ["stranger", f"{EASTFIELD} node", f"{BOARD} witness", f"{LAKESIDE} root 1"])
def test_nobody_elses_key_vouches(signer: str) -> None:
    with pytest.raises(AgencyStatementError):
        GalleryManifest.read(MANIFEST.sign(signing_key(signer)), ROSTER)
    with pytest.raises(AgencyStatementError):
        SealingKeyStatement.read(STATEMENT.sign(signing_key(signer)), ROSTER)


@DOCUMENTS
def test_a_document_has_one_signature(data: bytes, read: Read) -> None:
    document = json.loads(data)
    first = document["signatures"][0]
    with pytest.raises(AgencyStatementError):
        read(canonical_json({**document, "signatures": []}))
    with pytest.raises(FieldError):
        read(canonical_json({**document, "signatures": [{**first, "keyid": "0" * 64}, first]}))


@DOCUMENTS
def test_a_flipped_bit_at_every_byte_is_refused(data: bytes, read: Read) -> None:
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(CryptoError):
            read(bytes(changed))


@DOCUMENTS
def test_shorter_longer_and_oversized_documents_are_refused(data: bytes, read: Read) -> None:
    for length in range(len(data)):
        with pytest.raises(NotCanonicalError):
            read(data[:length])
    with pytest.raises(NotCanonicalError):
        read(data + b"\n")
    with pytest.raises(OversizedError):
        read(b"[" * (max(MANIFEST_KIND.max_bytes, SEALING_KEY_KIND.max_bytes) + 1))


@DOCUMENTS
def test_every_altered_member_is_refused(data: bytes, read: Read) -> None:
    document = json.loads(data)
    for name, value in document["signed"].items():
        other: Any = value + 1 if isinstance(value, int) else value[::-1] if isinstance(value, str) else value[:1]
        with pytest.raises(CryptoError):
            read(canonical_json({**document, "signed": {**document["signed"], name: other}}))
    with pytest.raises(FieldError):
        read(canonical_json({**document, "signed": {**document["signed"], "note": ""}}))


def test_one_kind_of_document_is_not_the_other() -> None:
    with pytest.raises(VersionError):
        GalleryManifest.read(STATEMENT_DATA, ROSTER)
    with pytest.raises(VersionError):
        SealingKeyStatement.read(DATA, ROSTER)


def test_an_agency_that_the_roster_does_not_have_says_nothing() -> None:
    with pytest.raises(UnknownAgencyError):
        GalleryManifest.read(replace(MANIFEST, agency=VENDOR).sign(NODE), ROSTER)
    with pytest.raises(UnknownAgencyError):
        GalleryManifest.read(replace(MANIFEST, agency=OVERSIGHT).sign(signing_key(f"{OVERSIGHT} node")), ROSTER)
    with pytest.raises(UnknownAgencyError):
        SealingKeyStatement.read(replace(STATEMENT, agency=VENDOR).sign(BOARD_NODE), ROSTER)


def test_a_swapped_node_key_in_the_roster_is_what_counts() -> None:
    swapped = with_agency(ROSTER, BOARD, node_key=signing_key("new node").verifying_key)
    with pytest.raises(AgencyStatementError):
        SealingKeyStatement.read(STATEMENT_DATA, swapped)
    assert SealingKeyStatement.read(STATEMENT.sign(signing_key("new node")), swapped) == STATEMENT


@given(st.binary(max_size=200))
def test_garbage_is_refused_as_ours(data: bytes) -> None:
    for read in (GalleryManifest.read, SealingKeyStatement.read):
        with pytest.raises(CryptoError):
            read(data, ROSTER)


# --- manifests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"model_hash": b""},
        {"gallery_root": bytes(31)},
        {"dimensions": 0},
        {"dimensions": 633},
        {"dimensions": 100},
        {"records": 0},
        {"records": 250 * 1024 + 1},
        {"chunks": 0},
        {"chunks": MAX_CHUNKS},
        {"trusted_custodians": ()},
        {"trusted_custodians": (OVERSIGHT, BOARD)},
        {"trusted_custodians": tuple(AgencyId(f"c{number:02d}") for number in range(MAX_TRUSTED_CUSTODIANS + 1))},
        {"trusted_custodians": (BOARD, LAKESIDE)},
        {"valid_until": datetime(2026, 12, 1)},
    ],
)
def test_a_manifest_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        replace(MANIFEST, **changes)


def test_a_manifest_ends() -> None:
    MANIFEST.check_in_force(MANIFEST.valid_until - timedelta(microseconds=1))
    with pytest.raises(AgencyStatementError):
        MANIFEST.check_in_force(MANIFEST.valid_until)
    with pytest.raises(MisuseError):
        MANIFEST.check_in_force(datetime(2026, 11, 23))


def test_manifests_follow_one_another() -> None:
    MANIFEST.check_follows(MANIFEST)
    replace(MANIFEST, version=4).check_follows(MANIFEST)
    for other in (replace(MANIFEST, version=2), replace(MANIFEST, records=1), replace(MANIFEST, agency=EASTFIELD, version=4)):
        with pytest.raises(AgencyStatementError):
            other.check_follows(MANIFEST)


def test_the_custodians_of_a_grant_serve_when_every_holder_trusts_one() -> None:
    manifests = {LAKESIDE: MANIFEST, EASTFIELD: replace(manifest(EASTFIELD), trusted_custodians=(OVERSIGHT,))}
    check_custodians(CLAIMS, ROSTER, manifests, NOW)
    check_trusted_by(MANIFEST, CLAIMS, NOW)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"trusted_custodians": (NORTHPORT_BOARD,)}, CustodianError),
        ({"model_hash": digest("another model")}, ModelError),
        ({"valid_until": NOW}, AgencyStatementError),
        ({"agency": VENDOR}, AgencyStatementError),
    ],
)
def test_custodians_do_not_serve_a_holder_that_does_not_let_them(changes: dict[str, Any], error: type[CryptoError]) -> None:
    manifests = {LAKESIDE: replace(MANIFEST, **changes), EASTFIELD: manifest(EASTFIELD)}
    with pytest.raises(error):
        check_custodians(CLAIMS, ROSTER, manifests, NOW)


def test_a_holder_without_manifest_cannot_be_served() -> None:
    with pytest.raises(AgencyStatementError):
        check_custodians(CLAIMS, ROSTER, {LAKESIDE: MANIFEST}, NOW)


def test_a_custodian_of_the_requesters_jurisdiction_does_not_serve_though_holders_trust_it() -> None:
    asked = replace(CLAIMS, custodians=(BOARD, NORTHPORT_BOARD), combiner=BOARD)
    with pytest.raises(CustodianError):
        check_custodians(asked, ROSTER, {LAKESIDE: MANIFEST, EASTFIELD: manifest(EASTFIELD)}, NOW)


def test_a_custodian_is_one_in_the_roster() -> None:
    witness_only = with_agency(ROSTER, BOARD, roles=(AgencyRole.WITNESS,))
    for asked, content in ((replace(CLAIMS, custodians=(NORTHPORT_LAW,), combiner=NORTHPORT_LAW), ROSTER), (CLAIMS, witness_only)):
        with pytest.raises(UnknownAgencyError):
            check_custodians(asked, content, {LAKESIDE: MANIFEST, EASTFIELD: manifest(EASTFIELD)}, NOW)


# --- weeks and moments ------------------------------------------------------------------------------------------------


def test_a_sealing_key_is_for_its_week() -> None:
    STATEMENT.check_week(datetime(2026, 11, 23, tzinfo=UTC))
    STATEMENT.check_week(datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC))
    for other in (datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)):
        with pytest.raises(AgencyStatementError):
            STATEMENT.check_week(other)
    with pytest.raises(MisuseError):
        STATEMENT.check_week(datetime(2026, 11, 23))


def test_weeks_are_those_of_iso_8601_in_utc() -> None:
    assert Week.at(datetime(2027, 1, 3, 23, tzinfo=UTC)) == Week("2026-W53")
    assert Week.at(datetime(2027, 1, 4, tzinfo=UTC)) == Week("2027-W01")
    assert Week.at(datetime(2027, 1, 3, 20, tzinfo=timezone(timedelta(hours=-6)))) == Week("2027-W01")
    assert Week("2026-W09") < Week("2026-W10")
    for text in ("2027-W53", "2026-W00", "2026-W1", "2026-48", "2026-w48", "２026-W48", ""):
        with pytest.raises(FieldError):
            Week(text)


@pytest.mark.parametrize(
    "signed", [{"key": ""}, {"key": "AAAA"}, {"week": "2027-W53"}, {"agency": "No Agency"}, {"week": 48}, {"key": None}]
)
def test_a_statement_that_cannot_be_is_refused(signed: dict[str, Any]) -> None:
    document = json.loads(STATEMENT_DATA)
    with pytest.raises(FieldError):
        SealingKeyStatement.read(canonical_json({**document, "signed": {**document["signed"], **signed}}), ROSTER)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC)))
def test_moments_round_trip_to_the_hundredth(value: datetime) -> None:
    rounded = round_moment(value)
    assert timedelta(0) <= value - rounded < timedelta(milliseconds=10)
    check_moment(rounded, "x")
    assert parse_moment(format_moment(rounded), "x") == rounded


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T16:12:04.5Z",
        "2026-11-23T16:12:04.500Z",
        "2026-11-23T16:12:04.50+00:00",
        "2026-11-23 16:12:04.50Z",
        "2026-11-23T16:12:04.50z",
        "2026-11-23T24:00:00.00Z",
        "2026-11-23T16:12:60.00Z",
        "2026-02-29T16:12:04.50Z",
        "1926-11-23T16:12:04.50Z",
        "2026-11-23T16:12:04.50Z\n",
        "",
    ],
)
def test_a_moment_has_one_spelling(text: str) -> None:
    with pytest.raises(FieldError):
        parse_moment(text, "x")


@pytest.mark.parametrize("text", ["2026-1-1", "20260101", "2026-02-30", "2026-W01-1", "2026-01-01\n", "٢٠26-01-01", ""])
def test_a_day_has_one_spelling(text: str) -> None:
    with pytest.raises(FieldError):
        parse_day(text, "x")


@pytest.mark.parametrize(("year", "fits"), [(1999, False), (2000, True), (2099, True), (2100, False)])
def test_moments_and_days_are_of_this_century(year: int, fits: bool) -> None:
    moment, day = datetime(year, 6, 1, tzinfo=UTC), date(year, 6, 1)
    if fits:
        check_moment(moment, "x")
        check_day(day, "x")
    else:
        with pytest.raises(FieldError):
            check_moment(moment, "x")
        with pytest.raises(FieldError):
            check_day(day, "x")


def test_other_zones_are_rounded_into_utc_and_naive_times_are_a_mistake_of_ours() -> None:
    local = datetime(2026, 11, 23, 10, 12, 4, 59_999, timezone(timedelta(hours=-6)))
    assert round_moment(local) == NOW
    assert format_moment(round_moment(local)) == "2026-11-23T16:12:04.05Z"
    for call in (round_moment, check_now):
        with pytest.raises(MisuseError):
            call(datetime(2026, 11, 23))


def test_a_requesters_key_is_for_one_search() -> None:
    search, other = SearchId("0" * 31 + "1"), SearchId("0" * 31 + "2")
    statement = SealingKeyStatement(BOARD, search, STATEMENT.key)
    again = SealingKeyStatement.read(statement.sign(BOARD_NODE), ROSTER)
    assert again == statement
    again.check_search(search)
    for wrong in (again, STATEMENT):
        with pytest.raises(AgencyStatementError):
            wrong.check_search(other)
    with pytest.raises(AgencyStatementError):
        again.check_week(NOW)
    both = read_document(SEALING_KEY_KIND, statement.sign(BOARD_NODE)).unverified_content
    with pytest.raises(FieldError):
        SealingKeyStatement.read(sign_document(SEALING_KEY_KIND, {**both, "week": "2026-W48"}, BOARD_NODE), ROSTER)
