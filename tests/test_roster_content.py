"""What a roster may say, how it is looked up, and that no other document is one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.assertion import WebAuthnAlgorithm, WebAuthnKey
from crypto.canonical import AgencyId, PersonId, b64url_encode, canonical_json
from crypto.errors import (
    CryptoError,
    FieldError,
    MisuseError,
    OversizedError,
    PeerError,
    TrainingExpiredError,
    UnknownAgencyError,
    UnknownKeyError,
)
from crypto.keys import SigningKey
from crypto.root_set import RootKey, RootSet
from crypto.roster import ROSTER_KIND, Roster, TrustedRoster, read_unverified_roster
from crypto.roster_entries import Agency, AgencyClass, AgencyRole, Credential, Jurisdiction, Person, PersonRole
from crypto.signed import add_signature, key_id, read_document, sign_document
from crypto.witness import WitnessKey
from tests.json_mutation import Path, json_values, objects, paths, replaced, replaced_value, spelled
from tests.sample_federation import (
    BOARD,
    EASTFIELD,
    EASTFIELD_LAW,
    INVESTIGATOR,
    KEYED,
    KEYED_REVIEWER,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    OVERSIGHT,
    REVIEWER,
    ROOT_HOLDERS,
    VENDOR,
    agency,
    credential,
    office_key,
    person,
    root_key,
    root_set,
    signing_key,
    with_agency,
)
from tests.test_roster import (
    DATA,
    FINGERPRINT,
    ROSTER,
    TRUSTED,
    entry_of,
    small_roster,
    wrapper,
)

# --- what a roster may say --------------------------------------------------------------------------------------------


def twice(content: Roster, raw: SigningKey, agency_id: AgencyId = BOARD) -> Roster:
    return with_agency(content, agency_id, node_key=raw.verifying_key)


def second_person(person_id: PersonId, key: SigningKey | None = None) -> tuple[Person, ...]:
    added = Credential(PersonRole.EXAMINER, (key or signing_key("examiner")).verifying_key)
    return (Person(person_id, date(2027, 1, 1), (added,)),)


REFUSED: dict[str, Callable[[], object]] = {
    "root key as node key": lambda: twice(ROSTER, root_key(EASTFIELD)),
    "log key as node key": lambda: twice(ROSTER, signing_key("log")),
    "another agency's node key": lambda: twice(ROSTER, signing_key(f"{NORTHPORT} node")),
    "own witness key as node key": lambda: twice(ROSTER, signing_key(f"{BOARD} witness")),
    "person's key as node key": lambda: twice(ROSTER, signing_key(INVESTIGATOR)),
    "person's key at another person": lambda: with_agency(ROSTER, BOARD, persons=second_person(PersonId("x"), signing_key(INVESTIGATOR))),
    "outgoing root key that stays": lambda: replace(ROSTER, outgoing_root_keys=root_set(1).keys[:1]),
    "outgoing holders out of order": lambda: replace(ROSTER, outgoing_root_keys=root_set(2).keys[::-1]),
    "outgoing root key as log key": lambda: replace(ROSTER, outgoing_root_keys=(RootKey(BOARD, signing_key("log").verifying_key),)),
    "security key as plain key": lambda: with_agency(
        ROSTER,
        NORTHPORT_LAW,
        persons=(
            Person(
                REVIEWER,
                date(2027, 1, 1),
                tuple(
                    sorted(
                        (
                            credential("x", PersonRole.REVIEWER),
                            Credential(
                                PersonRole.REVIEWER,
                                WebAuthnKey(WebAuthnAlgorithm.ED25519, signing_key("log").verifying_key.raw, "a.org", "https://a.org"),
                            ),
                        ),
                        key=lambda entry: entry.key_id,
                    )
                ),
            ),
        ),
    ),
    "one discovery key for two": lambda: with_agency(ROSTER, NORTHPORT_LAW, discovery_key=ROSTER.discovery_key(EASTFIELD)),
    "one person in two agencies": lambda: with_agency(ROSTER, BOARD, persons=second_person(INVESTIGATOR)),
    "agency twice": lambda: replace(ROSTER, agencies=(*ROSTER.agencies, ROSTER.agencies[-1])),
    "agencies out of order": lambda: replace(ROSTER, agencies=ROSTER.agencies[::-1]),
    "no agency": lambda: replace(ROSTER, agencies=()),
    "root holder unknown": lambda: replace(ROSTER, root=RootSet((RootKey(VENDOR, signing_key("r").verifying_key),), 1)),
    "version 0": lambda: replace(ROSTER, version=0),
    "version beyond JSON": lambda: replace(ROSTER, version=2**53),
    "expiry not in UTC": lambda: replace(ROSTER, expires=datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
    "expiry without zone": lambda: replace(ROSTER, expires=datetime(2027, 1, 1)),
    "expiry too fine": lambda: replace(ROSTER, expires=datetime(2027, 1, 1, 0, 0, 0, 1, UTC)),
    "legal office unknown": lambda: with_agency(ROSTER, EASTFIELD, legal_office=VENDOR),
    "legal office that is none": lambda: with_agency(ROSTER, LAKESIDE, legal_office=BOARD),
    "legal office without discovery key": lambda: with_agency(ROSTER, EASTFIELD, legal_office=LAKESIDE),
    "witness named as the log": lambda: with_agency(
        ROSTER, BOARD, witness=WitnessKey(ROSTER.log.origin, signing_key("w").verifying_key, BOARD)
    ),
    "witnesses with one name": lambda: with_agency(
        ROSTER, BOARD, witness=WitnessKey(f"{OVERSIGHT}.example.org/witness", signing_key("w").verifying_key, BOARD)
    ),
    "requester without legal office": lambda: with_agency(ROSTER, EASTFIELD, roles=(AgencyRole.REQUESTER,), legal_office=None),
    "persons out of order": lambda: with_agency(ROSTER, NORTHPORT_LAW, persons=ROSTER.agency(NORTHPORT_LAW).persons[::-1]),
    "holder without legal office": lambda: with_agency(ROSTER, LAKESIDE, legal_office=None),
    "discovery role without key": lambda: with_agency(ROSTER, NORTHPORT_LAW, discovery_key=None),
    "discovery key without role": lambda: with_agency(ROSTER, BOARD, discovery_key=ROSTER.discovery_key(EASTFIELD)),
    "legal office without its key": lambda: with_agency(ROSTER, NORTHPORT_LAW, office_key=None),
    "office key without role": lambda: with_agency(ROSTER, BOARD, office_key=signing_key("office").verifying_key),
    "node key as office key": lambda: twice(ROSTER, office_key(NORTHPORT_LAW)),
    "one office key for two": lambda: replace(
        ROSTER,
        agencies=tuple(
            replace(one, office_key=office_key(NORTHPORT_LAW).verifying_key, persons=()) if one.agency_id == EASTFIELD_LAW else one
            for one in ROSTER.agencies
        ),
    ),
    "countersigned detective": lambda: Credential(PersonRole.INVESTIGATOR, signing_key("x").verifying_key, bytes(64)),
    "short countersignature": lambda: Credential(PersonRole.REVIEWER, signing_key("x").verifying_key, bytes(63)),
    "witness role without key": lambda: with_agency(ROSTER, BOARD, witness=None),
    "witness key without role": lambda: with_agency(
        ROSTER, EASTFIELD, witness=WitnessKey("w.example.org", signing_key("w").verifying_key, EASTFIELD)
    ),
    "another agency's witness": lambda: with_agency(
        ROSTER, BOARD, witness=WitnessKey("w.example.org", signing_key("w").verifying_key, OVERSIGHT)
    ),
    "custodian that is no witness": lambda: with_agency(ROSTER, BOARD, roles=(AgencyRole.CUSTODIAN,), witness=None),
    "reviewer outside a legal office": lambda: with_agency(
        ROSTER, BOARD, persons=(person(PersonId("x"), credential("x", PersonRole.REVIEWER)),)
    ),
    "no role": lambda: with_agency(ROSTER, OVERSIGHT, roles=()),
    "role twice": lambda: with_agency(ROSTER, OVERSIGHT, roles=(AgencyRole.CUSTODIAN, AgencyRole.WITNESS, AgencyRole.WITNESS)),
    "roles out of order": lambda: with_agency(ROSTER, OVERSIGHT, roles=(AgencyRole.WITNESS, AgencyRole.CUSTODIAN)),
    "no responsible officer (R16)": lambda: with_agency(ROSTER, OVERSIGHT, responsible_officer=""),
    "line feed in a name": lambda: with_agency(ROSTER, OVERSIGHT, display_name="A\nB"),
    "long name": lambda: with_agency(ROSTER, OVERSIGHT, display_name="x" * 201),
    "person without credential": lambda: Person(INVESTIGATOR, date(2027, 1, 1), ()),
    "credential twice": lambda: Person(INVESTIGATOR, date(2027, 1, 1), (credential("x", PersonRole.EXAMINER),) * 2),
    "training until a moment": lambda: Person(INVESTIGATOR, NOW, (credential("x", PersonRole.EXAMINER),)),
    "training of another century": lambda: Person(INVESTIGATOR, date(2127, 1, 1), (credential("x", PersonRole.EXAMINER),)),
    "jurisdiction with a space": lambda: Jurisdiction("us wi"),
    "root threshold of half": lambda: RootSet(
        tuple(RootKey(AgencyId(f"a{number}"), signing_key(f"a{number}").verifying_key) for number in range(4)), 2
    ),
    "root threshold above all": lambda: RootSet(root_set().keys, 4),
    "root holder twice": lambda: RootSet((*root_set(1).keys[:1], *root_set(2).keys[:1]), 2),
    "root key twice": lambda: RootSet(tuple(RootKey(holder, signing_key("r").verifying_key) for holder in ROOT_HOLDERS), 2),
    "no root key": lambda: RootSet((), 0),
}


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_what_a_roster_may_not_say_is_refused_when_it_is_built(build: Callable[[], object]) -> None:
    with pytest.raises(FieldError):
        build()


def test_a_duly_signed_roster_that_breaks_a_rule_is_refused_as_well() -> None:
    """A threshold of root keys can say who is who, not that one key is two persons."""
    signed = json.loads(canonical_json(ROSTER.to_json()))
    entry_of(signed, BOARD)["node_key"] = entry_of(signed, OVERSIGHT)["node_key"]
    with pytest.raises(FieldError):
        TrustedRoster.pin(sign_document(ROSTER_KIND, signed, *(root_key(holder) for holder in ROOT_HOLDERS)), FINGERPRINT, NOW)


# --- looking up -------------------------------------------------------------------------------------------------------


def test_a_key_id_leads_to_person_agency_and_role() -> None:
    signatory = ROSTER.signatory(key_id(signing_key(INVESTIGATOR).verifying_key.raw))
    assert (signatory.agency.agency_id, signatory.person.person_id, signatory.credential.role) == (
        NORTHPORT,
        INVESTIGATOR,
        PersonRole.INVESTIGATOR,
    )
    assert ROSTER.signatory(KEYED.key.key_id).person.person_id == KEYED_REVIEWER


@pytest.mark.parametrize("name", ["stranger", "log", f"{NORTHPORT} node", f"{NORTHPORT} root 1", f"{BOARD} witness"])
def test_keys_that_are_no_persons_are_unknown(name: str) -> None:
    with pytest.raises(UnknownKeyError):
        ROSTER.signatory(key_id(signing_key(name).verifying_key.raw))


def test_agencies_are_found_in_their_roles_only() -> None:
    assert ROSTER.agency_as(BOARD, AgencyRole.CUSTODIAN).jurisdiction == "us-il-rivertown"
    assert ROSTER.node_key(BOARD) == signing_key(f"{BOARD} node").verifying_key
    with pytest.raises(UnknownAgencyError):
        ROSTER.agency_as(BOARD, AgencyRole.HOLDER)
    with pytest.raises(UnknownAgencyError):
        ROSTER.agency(VENDOR)
    with pytest.raises(UnknownAgencyError):
        ROSTER.node_key(VENDOR)


def test_scores_go_to_the_legal_office() -> None:
    assert ROSTER.discovery_key(NORTHPORT) == ROSTER.agency(NORTHPORT_LAW).discovery_key
    with pytest.raises(UnknownAgencyError):
        ROSTER.discovery_key(LAKESIDE)
    with pytest.raises(UnknownAgencyError):
        ROSTER.discovery_key(BOARD)


def test_the_checkpoint_policy_of_a_search_counts_out_broker_and_parties() -> None:
    policy = ROSTER.checkpoint_policy(parties=[NORTHPORT], holders=[LAKESIDE], custodians=[BOARD])
    assert policy.log == ROSTER.log
    assert policy.operator == VENDOR
    assert policy.parties == {NORTHPORT}
    assert policy.holders == {LAKESIDE}
    assert policy.custodians == {BOARD}
    assert policy.majority == 2
    assert {witness.agency for witness in policy.witnesses} == {BOARD, OVERSIGHT, AgencyId("northport-board")}


def test_training_counts_to_the_end_of_its_last_day_in_utc() -> None:
    someone = person(INVESTIGATOR, credential("x", PersonRole.EXAMINER), trained_until=date(2026, 11, 23))
    someone.check_trained(datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC))
    with pytest.raises(TrainingExpiredError):
        someone.check_trained(datetime(2026, 11, 24, tzinfo=UTC))
    with pytest.raises(TrainingExpiredError):
        someone.check_trained(datetime(2026, 11, 23, 18, 0, tzinfo=timezone(timedelta(hours=-6))))
    with pytest.raises(MisuseError):
        someone.check_trained(datetime(2026, 11, 23))


# --- properties -------------------------------------------------------------------------------------------------------

names = st.from_regex(r"[a-z0-9]([a-z0-9._:-]{0,20}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@st.composite
def persons(draw: st.DrawFn, prefix: str) -> tuple[Person, ...]:
    count = draw(st.integers(0, 3))
    drawn = []
    for number in range(count):
        roles = draw(st.lists(st.sampled_from([PersonRole.INVESTIGATOR, PersonRole.EXAMINER]), min_size=1, max_size=2))
        keys = [credential(f"{prefix} {number} {place}", role) for place, role in enumerate(roles)]
        drawn.append(person(PersonId(f"{prefix}:{number}"), *keys, trained_until=draw(st.dates(date(2000, 1, 1), date(2099, 12, 31)))))
    return tuple(drawn)


@st.composite
def rosters(draw: st.DrawFn) -> Roster:
    drawn: list[Agency] = []
    for agency_id in sorted(draw(st.sets(names, min_size=1, max_size=4))):
        roles = draw(st.sets(st.sampled_from([AgencyRole.LEGAL_OFFICE, AgencyRole.DISCOVERY, AgencyRole.WITNESS]), min_size=1))
        entry = agency(AgencyId(agency_id), "us-wi", *roles, persons=draw(persons(agency_id)))
        drawn.append(
            replace(entry, display_name=draw(texts), responsible_officer=draw(texts), agency_class=draw(st.sampled_from(AgencyClass)))
        )
    holders = [entry.agency_id for entry in drawn]
    keys = tuple(RootKey(holder, root_key(holder).verifying_key) for holder in holders)
    moment = draw(st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)))
    return replace(
        ROSTER,
        version=draw(st.integers(1, 2**53 - 1)),
        expires=moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 10_000 * 10_000),
        root=RootSet(keys, draw(st.integers(len(keys) // 2 + 1, len(keys)))),
        agencies=tuple(drawn),
    )


@given(rosters())
def test_rosters_round_trip(content: Roster) -> None:
    data = content.sign(*(root_key(root.holder) for root in content.root.keys))
    resumed = TrustedRoster.resume(data, content.root.fingerprint)
    assert resumed.possibly_expired == content
    assert hash(resumed.possibly_expired) == hash(content)
    assert content.sign(*(root_key(root.holder) for root in content.root.keys)) == data


@given(st.binary(max_size=400))
def test_garbage_is_refused_as_ours(data: bytes) -> None:
    with pytest.raises(CryptoError):
        TrustedRoster.pin(data, FINGERPRINT, NOW)
    with pytest.raises(CryptoError):
        TRUSTED.update(data, NOW)


SMALL = wrapper(small_roster().sign(root_key(NORTHPORT)))


@given(st.sampled_from(paths(SMALL)), json_values)
def test_a_document_with_any_member_replaced_is_refused_as_ours(path: Path, value: Any) -> None:
    data = replaced(SMALL, path, value)
    if data != spelled(SMALL):
        with pytest.raises(PeerError):
            TrustedRoster.pin(data, small_roster().root.fingerprint, NOW)


def test_a_member_that_is_replaced_and_signed_again_is_refused_as_ours_or_is_a_roster() -> None:
    """What a threshold of careless root holders could sign: every member in turn replaced by values of other types."""
    signed = SMALL["signed"]
    for path in paths(signed):
        for value in (None, True, -1, 2**53 - 1, "", "x", "\n", [], {}, [None], {"a": 1}):
            data = sign_document(ROSTER_KIND, replaced_value(signed, path, value), root_key(NORTHPORT))
            try:
                content = read_unverified_roster(data)
            except PeerError:
                continue
            assert content.sign(root_key(NORTHPORT)) == data


def test_the_wrapper_keeps_other_signatures_and_replaces_ones_own() -> None:
    again = add_signature(ROSTER_KIND, DATA, root_key(EASTFIELD))
    assert again == DATA
    assert set(read_document(ROSTER_KIND, add_signature(ROSTER_KIND, DATA, root_key(OVERSIGHT))).signatures) == {
        key_id(root_key(holder).verifying_key.raw) for holder in ROOT_HOLDERS
    }


def test_a_document_that_no_reader_would_take_is_not_made() -> None:
    frame = len(sign_document(ROSTER_KIND, {"padding": ""}))
    longest = sign_document(ROSTER_KIND, {"padding": "x" * (ROSTER_KIND.max_bytes - frame)})
    assert len(longest) == ROSTER_KIND.max_bytes
    assert len(read_document(ROSTER_KIND, longest).message) > frame
    with pytest.raises(OversizedError):
        sign_document(ROSTER_KIND, {"padding": "x" * (ROSTER_KIND.max_bytes - frame + 1)})


@pytest.mark.parametrize("path", objects(SMALL["signed"]), ids=str)
def test_no_object_of_a_roster_has_room_for_more_though_it_is_signed(path: Path) -> None:
    signed = replaced_value(SMALL["signed"], (*path, "note"), 1)
    with pytest.raises(FieldError, match="unknown member"):
        read_unverified_roster(sign_document(ROSTER_KIND, signed))


@pytest.mark.parametrize("path", [(), ("signatures", 0)], ids=str)
def test_the_wrapper_has_no_room_for_more(path: Path) -> None:
    with pytest.raises(FieldError, match="unknown member"):
        TrustedRoster.resume(replaced(SMALL, (*path, "note"), 1), small_roster().root.fingerprint)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_none(length: int) -> None:
    with pytest.raises(FieldError, match="64 bytes"):
        TrustedRoster.resume(replaced(SMALL, ("signatures", 0, "sig"), b64url_encode(bytes(length))), small_roster().root.fingerprint)


def test_names_of_keys_and_root_sets_are_digests_under_their_own_labels() -> None:
    raw = root_key(NORTHPORT).verifying_key.raw
    assert key_id(raw) == hashlib.sha256(b"sealmatch-1/key-id\n" + raw).hexdigest()
    assert hashlib.sha256(b"sealmatch-1/root-set\n" + spelled(wrapper(DATA)["signed"]["root"])).digest() == FINGERPRINT


def test_no_person_of_a_roster_is_printed() -> None:
    for text in (repr(TRUSTED), repr(ROSTER), repr(ROSTER.agency(NORTHPORT))):
        assert INVESTIGATOR not in text
