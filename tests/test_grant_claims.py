"""Claims: what a grant may say, what it may not, that it is said in one way, and that its terms keep its reason to themselves."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crypto.assertion import MAX_ASSERTION_BYTES
from crypto.canonical import AgencyId, GrantId, PersonId, SearchId, b64url_decode
from crypto.epoch import Epoch
from crypto.errors import FieldError, GrantReasonError, MisuseError, OversizedError, PeerError, SamePersonError, VersionError
from crypto.grant_basis import (
    MAX_REASON_BYTES,
    PURPOSE_OF,
    BasisKind,
    CourtOrder,
    Event,
    GrantReason,
    LegalBasis,
    Offence,
    ProbeSource,
    Purpose,
    StatementOfFacts,
    commit_case,
    commit_facts,
)
from crypto.grant_claims import MAX_PAYLOAD_BYTES, MAX_POLICY_PACKS, GrantClaims, GrantTerms
from crypto.grant_token import MAX_TOKEN_BYTES, unsigned_grant, unverified_claims, unverified_terms, without_reason
from crypto.limits import MAX_CAP, MAX_CUSTODIANS, MAX_HOLDERS
from tests.json_mutation import Path, json_values, objects, paths, replaced
from tests.sample_federation import (
    EASTFIELD,
    INVESTIGATOR,
    KEYED_REVIEWER,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NORTHPORT_BOARD,
    NOW,
    ORIGINATOR,
    OVERSIGHT,
    REVIEWER,
    claims,
    digest,
    roster,
    token_of,
    trust,
    two_agency_claims,
)

ROSTER = roster()
TRUSTED = trust(ROSTER)
CLAIMS = claims()
TOKEN = token_of(CLAIMS)
TWO_AGENCIES = two_agency_claims()
TWO_AGENCIES_TOKEN = token_of(TWO_AGENCIES)


def read_back(content: GrantClaims) -> GrantClaims:
    return GrantClaims.from_parts(content.to_payload(), content.reason_bytes())


# --- what claims may say ------------------------------------------------------------------------------------------------


def change(**changes: Any) -> Callable[[], object]:
    return lambda: replace(CLAIMS, **changes)


FACTS = digest("facts")
HOUR = timedelta(hours=1)
IMPOSSIBLE: dict[str, Callable[[], object]] = {
    "month in other digits": lambda: replace(CLAIMS, epoch=Epoch("20２6-11")),
    "short probe digest": change(probe_digest=bytes(31)),
    "long face commitment": change(face_commit=bytes(33)),
    "no case": change(case_commitment=b""),
    "short salt": change(reason_salt=bytes(31)),
    "no commitment to a reason": lambda: replace(CLAIMS.terms, reason_commitment=b""),
    "no model": change(model_hash=b""),
    "cap 0": change(cap=0),
    "cap 51": change(cap=MAX_CAP + 1),
    "rate 0": change(false_positives_per_million=0),
    "rate certain": change(false_positives_per_million=1_000_000),
    "no holder": change(holders=()),
    "holder twice": change(holders=(LAKESIDE, LAKESIDE)),
    "holders out of order": change(holders=(LAKESIDE, EASTFIELD)),
    "too many holders": change(holders=tuple(AgencyId(f"h{number:04d}") for number in range(MAX_HOLDERS + 1))),
    "no custodian": change(custodians=()),
    "custodian twice": change(custodians=(OVERSIGHT, OVERSIGHT)),
    "combiner not a custodian": change(combiner=NORTHPORT_BOARD),
    "custodian is a holder": change(custodians=(LAKESIDE, OVERSIGHT)),
    "custodian is the requester": change(custodians=(NORTHPORT, OVERSIGHT)),
    "custodian is the originator": lambda: replace(TWO_AGENCIES, custodians=(EASTFIELD, OVERSIGHT)),
    "no policy pack": change(policy_packs=()),
    "policy packs out of order": change(policy_packs=CLAIMS.policy_packs[::-1]),
    "short policy pack": change(policy_packs=(b"x",)),
    "no reviewer": change(reviewers=()),
    "three reviewers": change(reviewers=(REVIEWER, KEYED_REVIEWER, LAKESIDE_REVIEWER)),
    "another agency without its signature (R6)": change(originating_agency=EASTFIELD),
    "originator without another agency": change(originator=ORIGINATOR),
    "deadline at not-before": change(answer_deadline=CLAIMS.not_before),
    "deadline at expiry": change(answer_deadline=CLAIMS.expires),
    "expiry before not-before": change(expires=CLAIMS.not_before - HOUR),
    "an epoch that ends before the grant": change(epoch=Epoch("2026-09")),
    "an epoch that has not begun": change(epoch=Epoch("2026-12")),
    "longer than a month": change(expires=CLAIMS.not_before + timedelta(days=31, seconds=1)),
    "time without zone": change(not_before=datetime(2026, 11, 23, 15, 0)),
    "time too fine": change(not_before=CLAIMS.not_before + timedelta(microseconds=1)),
    "investigation without an offence": change(offence=None),
    "picture of an assembly without an offence (R11)": change(
        offence=None, event=Event.PROTEST_OR_ASSEMBLY, purpose=Purpose.MISSING_PERSON, basis=StatementOfFacts(BasisKind.MISSING, FACTS)
    ),
    "missing person as investigation": change(basis=StatementOfFacts(BasisKind.MISSING, FACTS)),
    "deceased person as missing": change(basis=StatementOfFacts(BasisKind.DECEASED, FACTS), purpose=Purpose.MISSING_PERSON),
    "warrant without an order": lambda: StatementOfFacts(BasisKind.WARRANT, FACTS),
    "court order without an order": lambda: StatementOfFacts(BasisKind.COURT_ORDER, FACTS),
    "exigency with a docket": lambda: CourtOrder(BasisKind.EXIGENT, "Court", "1", date(2026, 1, 1), date(2026, 1, 2), FACTS),
    "order that ends before it begins": lambda: CourtOrder(BasisKind.WARRANT, "Court", "1", date(2026, 1, 2), date(2026, 1, 1), FACTS),
    "order without docket": lambda: CourtOrder(BasisKind.WARRANT, "Court", "", date(2026, 1, 1), date(2026, 1, 2), FACTS),
    "order without court": lambda: CourtOrder(BasisKind.WARRANT, " ", "1", date(2026, 1, 1), date(2026, 1, 2), FACTS),
    "order without file": lambda: CourtOrder(BasisKind.WARRANT, "Court", "1", date(2026, 1, 1), date(2026, 1, 2), b""),
    "order issued at a moment": lambda: CourtOrder(BasisKind.WARRANT, "Court", "1", NOW, date(2026, 1, 2), FACTS),
    "order of no century": lambda: CourtOrder(BasisKind.WARRANT, "Court", "1", date(2026, 1, 1), date(9999, 1, 2), FACTS),
    "statement without commitment": lambda: StatementOfFacts(BasisKind.EXIGENT, b""),
    "statute of two lines": lambda: Offence("1\n2", "13A"),
    "NIBRS group without code": lambda: Offence("940.19(4)", "A"),
    "NIBRS code in small letters": lambda: Offence("940.19(4)", "13a"),
    "NIBRS code in other digits": lambda: Offence("940.19(4)", "１3A"),
}


@pytest.mark.parametrize("build", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_claims_that_cannot_be_are_refused_when_they_are_built(build: Callable[[], object]) -> None:
    with pytest.raises(FieldError):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: replace(CLAIMS, reviewers=(INVESTIGATOR,)),
        lambda: replace(CLAIMS, reviewers=(REVIEWER, REVIEWER)),
        lambda: replace(CLAIMS, reviewers=(REVIEWER, INVESTIGATOR)),
        lambda: replace(TWO_AGENCIES, originator=REVIEWER),
        lambda: replace(TWO_AGENCIES, originator=INVESTIGATOR),
    ],
)
def test_one_person_in_two_roles_is_refused_when_the_claims_are_built(build: Callable[[], object]) -> None:
    with pytest.raises(SamePersonError):
        build()


def test_a_grant_may_live_a_month_and_no_longer() -> None:
    replace(CLAIMS, expires=CLAIMS.not_before + timedelta(days=31))
    with pytest.raises(FieldError):
        replace(CLAIMS, expires=CLAIMS.not_before + timedelta(days=31, milliseconds=10))


def test_a_person_in_need_is_searched_for_without_an_offence() -> None:
    for kind, purpose in PURPOSE_OF.items():
        asked = replace(CLAIMS, offence=None, basis=StatementOfFacts(kind, FACTS), purpose=purpose)
        assert read_back(asked) == asked
    replace(CLAIMS, offence=None, basis=StatementOfFacts(BasisKind.EXIGENT, FACTS), purpose=Purpose.THREAT_TO_LIFE)


def test_the_longest_payload_is_read() -> None:
    holders = tuple(sorted(AgencyId(f"h{number:03d}".ljust(64, "x")) for number in range(MAX_HOLDERS)))
    packs = tuple(sorted(digest(f"pack {number}") for number in range(MAX_POLICY_PACKS)))
    custodians = tuple(sorted(AgencyId(f"c{number:03d}".ljust(64, "x")) for number in range(MAX_CUSTODIANS)))
    wide = "\U0001f5ff"
    longest = replace(
        TWO_AGENCIES,
        holders=holders,
        policy_packs=packs,
        custodians=custodians,
        combiner=custodians[0],
        offence=Offence(wide * 80, "13A"),
        basis=CourtOrder(BasisKind.WARRANT, wide * 120, wide * 80, date(2026, 11, 20), date(2026, 12, 4), FACTS),
    )
    assert len(longest.to_payload()) <= MAX_PAYLOAD_BYTES
    assert len(longest.reason_bytes()) <= MAX_REASON_BYTES
    assert read_back(longest) == longest
    four_signatures = 4 * (MAX_ASSERTION_BYTES + 400)  # their headers and what JSON puts around them
    assert 4 * (MAX_PAYLOAD_BYTES + MAX_REASON_BYTES + four_signatures) // 3 <= MAX_TOKEN_BYTES


def test_forbidden_reasons_have_no_name() -> None:
    """R10, R12, R20: what may not be asked cannot be written."""
    values = {value for kind in (Purpose, ProbeSource) for value in kind}
    for word in ("immigration", "live", "stream", "sketch", "composite", "lookalike", "generated", "enhanced"):
        assert not any(word in value for value in values)


def test_nibrs_groups() -> None:
    assert Offence("x", "13A").nibrs_group == "A"
    assert Offence("x", "90Z").nibrs_group == "B"


def test_commitments_hide_behind_their_salt_and_their_label() -> None:
    salt = digest("salt")
    assert commit_facts(salt, "seen at 3 a.m.") == hashlib.sha256(salt + b"sealmatch-1/facts\nseen at 3 a.m.").digest()
    assert commit_case(salt, "26-1") == hashlib.sha256(salt + b"sealmatch-1/case\n26-1").digest()
    assert commit_facts(salt, "x") != commit_case(salt, "x")
    assert commit_facts(digest("other salt"), "x") != commit_facts(salt, "x")
    for short in (b"", bytes(31), bytes(33)):
        with pytest.raises(MisuseError):
            commit_facts(short, "x")


# --- terms and reason ---------------------------------------------------------------------------------------------------


def test_terms_and_reason_are_the_claims_and_the_digest_is_the_terms() -> None:
    assert (CLAIMS.terms.digest, CLAIMS.terms.to_payload(), CLAIMS.terms.signatories) == (
        CLAIMS.digest,
        CLAIMS.to_payload(),
        CLAIMS.signatories,
    )
    assert GrantTerms.from_payload(CLAIMS.to_payload()) == CLAIMS.terms
    assert type(CLAIMS.terms) is GrantTerms
    shown = json.loads(CLAIMS.to_payload()).keys() | json.loads(CLAIMS.reason_bytes()).keys()
    assert shown == {
        "type",
        "salt",
        *(field.name for field in fields(GrantClaims) if field.name != "reason_salt"),
    }


def test_the_commitment_is_what_anybody_with_reason_and_salt_computes() -> None:
    reason = json.loads(CLAIMS.reason_bytes())
    salt = bytes.fromhex(reason.pop("salt"))
    stated = json.dumps(reason, sort_keys=True, separators=(",", ":")).encode()
    assert CLAIMS.reason_commitment == CLAIMS.terms.reason_commitment
    assert CLAIMS.reason_commitment == hashlib.sha256(b"sealmatch-1/grant-reason\n" + salt + stated).digest()


def test_equal_reasons_with_other_salts_have_other_commitments() -> None:
    """Else the broker would see which grants are of one case, and could guess an offence and compare."""
    again = replace(CLAIMS, reason_salt=digest("another salt"))
    assert again.offence == CLAIMS.offence
    assert again.reason_commitment != CLAIMS.reason_commitment
    assert again.digest != CLAIMS.digest
    others: list[dict[str, Any]] = [
        {"case_commitment": digest("another case")},
        {"offence": Offence("Wis. Stat. 940.20", "13A")},
        {"basis": StatementOfFacts(BasisKind.EXIGENT, FACTS)},
        {"purpose": Purpose.THREAT_TO_LIFE},
        {"event": Event.PROTEST_OR_ASSEMBLY},
        {"probe_source": ProbeSource.PHOTOGRAPH},
    ]
    commitments = {replace(CLAIMS, **other).reason_commitment for other in others} | {CLAIMS.reason_commitment}
    assert len(commitments) == len(others) + 1


@pytest.mark.parametrize(
    "reason",
    [
        replace(CLAIMS, case_commitment=digest("another case")).reason_bytes(),
        replace(CLAIMS, reason_salt=digest("another salt")).reason_bytes(),
        replace(CLAIMS, offence=Offence("Wis. Stat. 943.20", "23A")).reason_bytes(),
    ],
    ids=["of another grant", "another salt", "another offence"],
)
def test_another_reason_than_the_one_signed_does_not_open(reason: bytes) -> None:
    with pytest.raises(GrantReasonError):
        GrantClaims.from_parts(CLAIMS.to_payload(), reason)


def test_every_part_of_a_reason_is_refused_when_it_does_not_fit() -> None:
    for reason in (b"", b"{}", b"[]", CLAIMS.reason_bytes() + b" ", CLAIMS.to_payload()):
        with pytest.raises(PeerError):
            GrantClaims.from_parts(CLAIMS.to_payload(), reason)
    with pytest.raises(OversizedError):
        GrantReason.from_reason_bytes(b"[" * (MAX_REASON_BYTES + 1))
    with pytest.raises(VersionError):
        GrantReason.from_reason_bytes(replaced(json.loads(CLAIMS.reason_bytes()), ("type",), "sealmatch-2/grant-reason"))


def layers(token: bytes) -> list[bytes]:
    """A token's bytes, and what its segments say when they are decoded."""
    members = json.loads(token)
    segments = [members["payload"], *(entry["protected"] for entry in members["signatures"]), members.get("reason", "")]
    return [token, *map(b64url_decode, segments)]


def shows(token: bytes, private: bytes) -> bool:
    """Whether the bytes stand in any layer: plainly, in hexadecimal, or in base64 at each of the three places where they can begin."""
    spellings = [private, private.hex().encode()]
    if len(private) >= 9:  # the base64 of a shorter word stands anywhere by chance
        encoded = (base64.urlsafe_b64encode(bytes(skipped) + private) for skipped in range(3))
        spellings += [text[4:-4] for text in encoded]
    return any(spelling in layer for spelling in spellings for layer in layers(token))


PRIVATE: dict[str, bytes] = {
    "offence": b"13A",
    "statute": b"940.19",
    "court": b"Circuit Court",
    "docket": b"26-CF-101",
    "basis": b"warrant",
    "order": digest("warrant"),
    "case commitment": digest("case"),
    "purpose": b"criminal_investigation",
    "event": b"protest_or_assembly",
    "source": b"recorded_video_still",
    "salt": digest("reason salt"),
}
MEETING = replace(CLAIMS, event=Event.PROTEST_OR_ASSEMBLY)


@pytest.mark.rule("R59")
@pytest.mark.parametrize("private", PRIVATE.values(), ids=PRIVATE)
def test_what_the_broker_is_given_holds_nothing_of_the_reason(private: bytes) -> None:
    whole = token_of(MEETING)
    assert shows(whole, private)
    assert not shows(without_reason(whole), private)
    assert private not in MEETING.to_payload()
    assert private.hex() not in MEETING.to_payload().decode()
    assert private.decode("latin-1") not in repr(MEETING) + repr(MEETING.terms)


# --- properties ---------------------------------------------------------------------------------------------------------

digests = st.binary(min_size=32, max_size=32)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
days = st.dates(date(2000, 1, 1), date(2099, 12, 31))
agency_ids = st.from_regex(r"[a-z0-9]([a-z0-9._:-]{0,20}[a-z0-9])?", fullmatch=True).map(AgencyId)
hexes = st.binary(min_size=16, max_size=16).map(bytes.hex)


@st.composite
def bases(draw: st.DrawFn) -> LegalBasis:
    kind = draw(st.sampled_from(BasisKind))
    if kind in {BasisKind.WARRANT, BasisKind.COURT_ORDER}:
        issued, expires = sorted((draw(days), draw(days)))
        return CourtOrder(kind, draw(lines), draw(lines), issued, expires, draw(digests))
    return StatementOfFacts(kind, draw(digests))


@st.composite
def all_claims(draw: st.DrawFn) -> GrantClaims:
    agencies = draw(st.lists(agency_ids, min_size=4, max_size=10, unique=True))
    requesting, originating = agencies[0], draw(st.sampled_from(agencies[:2]))
    split = draw(st.integers(3, len(agencies) - 1))
    custodians = tuple(sorted(agencies[2:split]))
    persons = draw(st.lists(agency_ids.map(PersonId), min_size=4, max_size=4, unique=True))
    basis = draw(bases())
    purpose = {
        BasisKind.MISSING: Purpose.MISSING_PERSON,
        BasisKind.DECEASED: Purpose.DECEASED_PERSON,
        BasisKind.INCAPACITATED: Purpose.INCAPACITATED_PERSON,
    }.get(basis.kind, draw(st.sampled_from(Purpose)))
    hundredths = draw(st.lists(st.integers(0, 31 * 24 * 360_000), min_size=3, max_size=3, unique=True).map(sorted))
    start = datetime(2001, 1, 1, tzinfo=UTC) + timedelta(days=draw(st.integers(0, 36_000)))
    not_before, deadline, expires = (start + timedelta(milliseconds=10 * count) for count in hundredths)
    assume(Epoch.at(not_before) >= Epoch.at(expires).previous())  # a month of 28 days between them is a month too many
    return GrantClaims(
        grant_id=GrantId(draw(hexes)),
        search_id=SearchId(draw(hexes)),
        requesting_agency=requesting,
        originating_agency=originating,
        investigator=persons[0],
        reviewers=tuple(persons[1 : draw(st.integers(2, 3))]),
        originator=None if originating == requesting else persons[3],
        case_commitment=draw(digests),
        offence=Offence(draw(lines), draw(st.from_regex(r"[0-9]{2}[0-9A-Z]", fullmatch=True))),
        basis=basis,
        purpose=purpose,
        event=draw(st.sampled_from(Event)),
        probe_source=draw(st.sampled_from(ProbeSource)),
        probe_digest=draw(digests),
        face_commit=draw(digests),
        epoch=Epoch.at(not_before),
        model_hash=draw(digests),
        holders=tuple(sorted(agencies[split:])),
        custodians=custodians,
        combiner=draw(st.sampled_from(custodians)),
        false_positives_per_million=draw(st.integers(1, 999_999)),
        answer_deadline=deadline,
        policy_packs=tuple(sorted(draw(st.sets(digests, min_size=1, max_size=3)))),
        not_before=not_before,
        expires=expires,
        cap=draw(st.integers(1, MAX_CAP)),
        reason_salt=draw(digests),
    )


@settings(max_examples=60)
@given(all_claims())
def test_claims_round_trip(content: GrantClaims) -> None:
    assert read_back(content) == content
    assert (read_back(content).to_payload(), read_back(content).reason_bytes()) == (content.to_payload(), content.reason_bytes())
    token = unsigned_grant(content)
    assert unverified_claims(token) == content
    assert unverified_terms(token) == unverified_terms(without_reason(token)) == content.terms


@settings(max_examples=60)
@given(all_claims(), st.sampled_from(["probe_digest", "face_commit", "model_hash", "case_commitment", "reason_salt"]), digests)
def test_unlike_claims_have_unlike_digests(content: GrantClaims, name: str, other: bytes) -> None:
    change: dict[str, Any] = {name: other}
    changed = replace(content, **change)
    assert (changed == content) == (changed.digest == content.digest)


@settings(max_examples=300)
@given(st.sampled_from(paths(json.loads(TWO_AGENCIES.to_payload()))), json_values)
def test_a_payload_with_any_member_replaced_is_refused_as_ours_or_says_just_that(path: Path, value: Any) -> None:
    data = replaced(json.loads(TWO_AGENCIES.to_payload()), path, value)
    try:
        content = GrantTerms.from_payload(data)
    except PeerError:
        return
    assert content.to_payload() == data


@settings(max_examples=300)
@given(st.sampled_from(paths(json.loads(CLAIMS.reason_bytes()))), json_values)
def test_a_reason_with_any_member_replaced_is_refused_as_ours_or_says_just_that_and_does_not_open(path: Path, value: Any) -> None:
    data = replaced(json.loads(CLAIMS.reason_bytes()), path, value)
    try:
        reason = GrantReason.from_reason_bytes(data)
    except PeerError:
        return
    assert reason.reason_bytes() == data
    if data != CLAIMS.reason_bytes():
        with pytest.raises(GrantReasonError):
            GrantClaims.from_parts(CLAIMS.to_payload(), data)


@pytest.mark.parametrize("asked", [CLAIMS, replace(CLAIMS, basis=StatementOfFacts(BasisKind.EXIGENT, FACTS))], ids=["order", "facts"])
def test_no_object_of_a_payload_or_reason_has_room_for_more(asked: GrantClaims) -> None:
    for data, read in ((asked.to_payload(), GrantTerms.from_payload), (asked.reason_bytes(), GrantReason.from_reason_bytes)):
        document = json.loads(data)
        for path in objects(document):
            with pytest.raises(FieldError, match="unknown member"):
                read(replaced(document, (*path, "note"), 1))


@given(st.binary(max_size=400))
def test_garbage_is_refused_as_ours(data: bytes) -> None:
    for read in (
        GrantTerms.from_payload,
        GrantReason.from_reason_bytes,
        lambda reason: GrantClaims.from_parts(CLAIMS.to_payload(), reason),
    ):
        with pytest.raises(PeerError):
            read(data)
