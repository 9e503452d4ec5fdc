"""The roster: what a pinned node takes and what it refuses, whoever hands it the bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import nacl.exceptions
import nacl.signing
import pytest

from crypto.canonical import AgencyId, b64url_decode, b64url_encode, canonical_json
from crypto.errors import (
    CryptoError,
    FieldError,
    MisuseError,
    NotCanonicalError,
    OversizedError,
    RosterExpiredError,
    RosterForkError,
    RosterPinError,
    RosterRollbackError,
    RosterSignatureError,
    RosterThresholdError,
    VersionError,
)
from crypto.keys import SealingPrivateKey
from crypto.root_set import RootKey, RootSet
from crypto.roster import ROSTER_KIND, Roster, TrustedRoster, add_root_signature, read_unverified_roster
from crypto.roster_entries import AgencyRole, Credential, PersonRole
from crypto.signed import key_id, sign_document
from tests.sample_federation import (
    BOARD,
    EASTFIELD,
    INVESTIGATOR,
    KEYED,
    KEYED_REVIEWER,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    ROOT_HOLDERS,
    agency,
    credential,
    digest,
    person,
    root_key,
    root_set,
    roster,
    sign_roster,
    signing_key,
    with_agency,
)

ROSTER = roster()
FINGERPRINT = ROSTER.root.fingerprint
DATA = sign_roster(ROSTER)
TRUSTED = TrustedRoster.pin(DATA, FINGERPRINT, NOW)


def small_roster(version: int = 1) -> Roster:
    """As small as one can be and still have every kind of entry: for what is done at each of its bytes."""
    entry = agency(
        NORTHPORT,
        "us-wi-northport",
        *AgencyRole,
        legal_office=NORTHPORT,
        persons=[
            person(INVESTIGATOR, credential(INVESTIGATOR, PersonRole.INVESTIGATOR)),
            person(KEYED_REVIEWER, Credential(PersonRole.REVIEWER, KEYED.key)),
        ],
    )
    root = RootSet((RootKey(NORTHPORT, root_key(NORTHPORT).verifying_key),), 1)
    return replace(ROSTER, version=version, agencies=(entry,), root=root)


# --- pin --------------------------------------------------------------------------------------------------------------


def test_a_roster_of_the_pinned_root_set_is_trusted() -> None:
    assert TRUSTED.at(NOW) == ROSTER
    assert TRUSTED.version == 1
    assert TRUSTED.fingerprint == FINGERPRINT


def test_more_signers_than_the_threshold_are_welcome() -> None:
    TrustedRoster.pin(sign_roster(ROSTER, holders=ROOT_HOLDERS), FINGERPRINT, NOW)


def test_root_holders_sign_one_after_the_other() -> None:
    data = ROSTER.sign(root_key(NORTHPORT))
    assert read_unverified_roster(data) == ROSTER
    assert add_root_signature(data, root_key(EASTFIELD)) == DATA


def test_a_root_holder_is_not_made_to_sign_what_is_no_roster() -> None:
    with pytest.raises(FieldError):
        add_root_signature(sign_document(ROSTER_KIND, {"version": 1}), root_key(EASTFIELD))


def test_another_root_set_is_not_what_was_told() -> None:
    theirs = replace(ROSTER, root=root_set(generation=2))
    with pytest.raises(RosterPinError):
        TrustedRoster.pin(sign_roster(theirs, 2), FINGERPRINT, NOW)


def test_the_threshold_is_part_of_the_fingerprint() -> None:
    with pytest.raises(RosterPinError):
        TrustedRoster.pin(sign_roster(replace(ROSTER, root=root_set(threshold=3)), holders=ROOT_HOLDERS), FINGERPRINT, NOW)


@pytest.mark.parametrize("holders", [(), ROOT_HOLDERS[:1], ROOT_HOLDERS[2:]])
def test_fewer_than_the_threshold_are_too_few(holders: tuple[AgencyId, ...]) -> None:
    with pytest.raises(RosterThresholdError):
        TrustedRoster.pin(sign_roster(ROSTER, holders=holders), FINGERPRINT, NOW)


def test_a_stranger_does_not_fill_the_threshold() -> None:
    with pytest.raises(RosterSignatureError):
        TrustedRoster.pin(ROSTER.sign(root_key(NORTHPORT), signing_key("stranger")), FINGERPRINT, NOW)


def test_a_node_key_is_no_root_key() -> None:
    with pytest.raises(RosterSignatureError):
        TrustedRoster.pin(ROSTER.sign(root_key(NORTHPORT), signing_key(f"{NORTHPORT} node")), FINGERPRINT, NOW)


def wrapper(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    assert isinstance(value, dict)
    return value


def test_one_key_cannot_sign_twice() -> None:
    document = wrapper(ROSTER.sign(root_key(NORTHPORT)))
    document["signatures"] *= 2
    with pytest.raises(FieldError):
        TrustedRoster.pin(canonical_json(document), FINGERPRINT, NOW)


def test_one_key_cannot_sign_under_two_ids() -> None:
    document = wrapper(ROSTER.sign(root_key(NORTHPORT)))
    again = {**document["signatures"][0], "keyid": "f" * 64}
    document["signatures"].append(again)
    with pytest.raises(RosterSignatureError):
        TrustedRoster.pin(canonical_json(document), FINGERPRINT, NOW)


def test_one_holder_cannot_sign_for_another() -> None:
    document = wrapper(DATA)
    first, second = document["signatures"]
    first["sig"], second["sig"] = second["sig"], first["sig"]
    with pytest.raises(RosterSignatureError):
        TrustedRoster.pin(canonical_json(document), FINGERPRINT, NOW)


def test_one_bad_signature_spoils_a_document_that_has_enough_good_ones() -> None:
    document = wrapper(sign_roster(ROSTER, holders=ROOT_HOLDERS))
    document["signatures"][1]["sig"] = document["signatures"][0]["sig"]
    with pytest.raises(RosterSignatureError):
        TrustedRoster.pin(canonical_json(document), FINGERPRINT, NOW)


def test_signatures_stand_in_one_order() -> None:
    document = wrapper(DATA)
    document["signatures"].reverse()
    with pytest.raises(FieldError):
        TrustedRoster.pin(canonical_json(document), FINGERPRINT, NOW)


def test_an_expired_roster_is_not_pinned() -> None:
    with pytest.raises(RosterExpiredError):
        TrustedRoster.pin(DATA, FINGERPRINT, ROSTER.expires)
    TrustedRoster.pin(DATA, FINGERPRINT, ROSTER.expires - timedelta(microseconds=1))


def test_a_roster_that_expires_later_stops_answering() -> None:
    with pytest.raises(RosterExpiredError):
        TRUSTED.at(ROSTER.expires)
    with pytest.raises(MisuseError):
        TRUSTED.at(datetime(2026, 11, 23))


def test_time_zones_are_minded() -> None:
    honolulu = timezone(timedelta(hours=-10))
    with pytest.raises(RosterExpiredError):
        TRUSTED.at(datetime(2026, 12, 31, 14, 0, tzinfo=honolulu))
    TRUSTED.at(datetime(2026, 12, 31, 13, 59, tzinfo=honolulu))


# --- altered bytes ----------------------------------------------------------------------------------------------------


def alterations(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The document with altered content under the old signatures."""
    document = wrapper(DATA)
    change(document["signed"])
    return canonical_json(document)


def entry_of(signed: dict[str, Any], agency_id: AgencyId) -> dict[str, Any]:
    return next(entry for entry in signed["agencies"] if entry["id"] == agency_id)


BROKERS_KEY = signing_key("the broker's own").verifying_key.raw
BROKERS_SEALING_KEY = SealingPrivateKey.from_secret(digest("the broker's own")).public_key.raw
ALTERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "agency class": lambda signed: entry_of(signed, EASTFIELD).update({"class": "federal"}),
    "jurisdiction": lambda signed: entry_of(signed, BOARD).update(jurisdiction="us-mi"),
    "custodian's node key": lambda signed: entry_of(signed, BOARD).update(node_key=b64url_encode(BROKERS_KEY)),
    "discovery key": lambda signed: entry_of(signed, NORTHPORT_LAW).update(discovery_key=b64url_encode(BROKERS_SEALING_KEY)),
    "role added": lambda signed: entry_of(signed, BOARD).update(roles=["custodian", "holder", "witness"], legal_office=NORTHPORT_LAW),
    "role taken away": lambda signed: entry_of(signed, EASTFIELD).update(roles=["holder"]),
    "person's role": lambda signed: entry_of(signed, NORTHPORT)["persons"][0]["credentials"][0].update(role="examiner"),
    "training": lambda signed: entry_of(signed, NORTHPORT)["persons"][0].update(trained_until="2030-01-01"),
    "version": lambda signed: signed.update(version=2),
    "expiry": lambda signed: signed.update(expires="2036-01-01T00:00:00.00Z"),
    "log operator": lambda signed: signed["log"].update(operator="nobody"),
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_altered_content_is_no_longer_what_was_signed(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(RosterSignatureError):
        TrustedRoster.pin(alterations(change), FINGERPRINT, NOW)
    with pytest.raises(RosterSignatureError):
        TRUSTED.update(alterations(change), NOW)


def test_every_flipped_bit_of_a_byte_is_refused() -> None:
    content = small_roster()
    data = content.sign(root_key(NORTHPORT))
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(CryptoError):
            TrustedRoster.pin(bytes(changed), content.root.fingerprint, NOW)


def test_every_shorter_and_longer_document_is_refused() -> None:
    content = small_roster()
    data = content.sign(root_key(NORTHPORT))
    for length in range(0, len(data), 7):
        with pytest.raises(CryptoError):
            TrustedRoster.pin(data[:length], content.root.fingerprint, NOW)
    for more in (b" ", b"\n", b"\0", b"}", data):
        with pytest.raises(NotCanonicalError):
            TrustedRoster.pin(data + more, content.root.fingerprint, NOW)


def test_nothing_longer_than_the_maximum_is_parsed() -> None:
    with pytest.raises(OversizedError):
        TrustedRoster.pin(b"[" * (ROSTER_KIND.max_bytes + 1), FINGERPRINT, NOW)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('{"signatures"', '{ "signatures"', 1),
        lambda text: text.replace('"version":1', '"version":1.0', 1),
        lambda text: text.replace('"version":1', '"version":1,"version":1', 1),
        lambda text: text.replace('"version":1', '"versiom":1', 1),
        lambda text: text.replace('"version":1', '"version":true', 1),
        lambda text: text.replace('"version":1', '"version":"1"', 1),
        lambda text: text.replace('"threshold":2', '"threshold":0', 1),
        lambda text: text.replace("2027-01-01T00:00:00.00Z", "2027-01-01T00:00:00Z", 1),
        lambda text: text.replace("2027-01-01T00:00:00.00Z", "2027-02-30T00:00:00.00Z", 1),
        lambda text: text.replace("2027-01-01T00:00:00.00Z", "２027-01-01T00:00:00.00Z", 1),
    ],
    ids=["space", "float", "repeated", "unknown member", "boolean", "text", "threshold 0", "no hundredths", "no such day", "wide digit"],
)
def test_another_spelling_is_no_roster(spoil: Callable[[str], str]) -> None:
    text = DATA.decode()
    assert spoil(text) != text
    with pytest.raises((NotCanonicalError, FieldError)):
        TrustedRoster.pin(spoil(text).encode(), FINGERPRINT, NOW)


def test_another_kind_of_document_is_no_roster() -> None:
    document = wrapper(DATA)
    document["signed"]["type"] = "sealmatch-2/roster"
    with pytest.raises(VersionError):
        TrustedRoster.pin(canonical_json(document), FINGERPRINT, NOW)


def test_a_root_signature_over_the_bare_json_is_none() -> None:
    """The label is part of what is signed: a root key that was talked into signing the same JSON as something else signed no roster."""
    document = wrapper(DATA)
    keys = {key_id(root_key(holder).verifying_key.raw): root_key(holder) for holder in ROOT_HOLDERS}
    for entry in document["signatures"]:
        entry["sig"] = b64url_encode(keys[entry["keyid"]].sign(canonical_json(document["signed"])))
    with pytest.raises(RosterSignatureError):
        TrustedRoster.pin(canonical_json(document), FINGERPRINT, NOW)


def test_an_independent_implementation_verifies_the_signatures() -> None:
    document = wrapper(DATA)
    message = b"sealmatch-1/roster\n" + json.dumps(document["signed"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    keys = {key_id(root_key(holder).verifying_key.raw): root_key(holder).verifying_key.raw for holder in ROOT_HOLDERS}
    for entry in document["signatures"]:
        key = nacl.signing.VerifyKey(keys[entry["keyid"]])
        key.verify(message, b64url_decode(entry["sig"]))
        with pytest.raises(nacl.exceptions.BadSignatureError):
            key.verify(message + b" ", b64url_decode(entry["sig"]))


# --- update and rotation ----------------------------------------------------------------------------------------------


def following(version: int = 2, **changes: Any) -> Roster:
    return replace(roster(version), **changes)


def rotated(version: int = 2) -> Roster:
    """Root set of the second generation; the first hands over."""
    return following(version, root=root_set(2), outgoing_root_keys=root_set(1).keys)


def test_a_newer_roster_follows() -> None:
    trusted = TRUSTED.update(sign_roster(following()), NOW)
    assert trusted.version == 2
    assert trusted.fingerprint == FINGERPRINT
    assert TRUSTED.version == 1


def test_versions_may_be_skipped_while_the_root_set_stays() -> None:
    assert TRUSTED.update(sign_roster(following(7)), NOW).version == 7


def test_the_same_bytes_change_nothing() -> None:
    assert TRUSTED.update(DATA, NOW) is TRUSTED


def test_the_same_content_with_other_signers_changes_nothing() -> None:
    assert TRUSTED.update(sign_roster(ROSTER, holders=ROOT_HOLDERS[1:]), NOW) is TRUSTED


def test_the_same_content_with_too_few_signers_is_refused_all_the_same() -> None:
    with pytest.raises(RosterThresholdError):
        TRUSTED.update(sign_roster(ROSTER, holders=ROOT_HOLDERS[:1]), NOW)


def test_an_older_roster_is_a_rollback() -> None:
    with pytest.raises(RosterRollbackError):
        TRUSTED.update(sign_roster(following(5)), NOW).update(sign_roster(following(4)), NOW)


def test_the_same_version_with_other_content_is_a_fork() -> None:
    with pytest.raises(RosterForkError):
        TRUSTED.update(sign_roster(with_agency(ROSTER, BOARD, display_name="Another board")), NOW)


def test_a_fork_that_is_not_signed_is_no_evidence() -> None:
    with pytest.raises(RosterThresholdError):
        TRUSTED.update(sign_roster(with_agency(ROSTER, BOARD, display_name="Another board"), holders=ROOT_HOLDERS[:1]), NOW)


def test_an_expired_roster_does_not_follow_but_an_expired_one_is_followed() -> None:
    stale = following(expires=datetime(2026, 11, 1, tzinfo=UTC))
    with pytest.raises(RosterExpiredError):
        TRUSTED.update(sign_roster(stale), NOW)
    later = datetime(2027, 2, 1, tzinfo=UTC)
    fresh = following(expires=datetime(2027, 6, 1, tzinfo=UTC))
    assert TRUSTED.update(sign_roster(fresh), later).at(later) == fresh
    with pytest.raises(RosterExpiredError):
        TRUSTED.update(DATA, later)


def test_a_restarted_node_resumes_even_from_an_expired_roster() -> None:
    resumed = TrustedRoster.resume(DATA, TRUSTED.fingerprint)
    assert resumed == TRUSTED
    with pytest.raises(RosterExpiredError):
        resumed.at(datetime(2027, 2, 1, tzinfo=UTC))
    with pytest.raises(RosterPinError):
        TrustedRoster.resume(DATA, root_set(2).fingerprint)
    with pytest.raises(RosterThresholdError):
        TrustedRoster.resume(sign_roster(ROSTER, holders=ROOT_HOLDERS[:1]), FINGERPRINT)


def test_both_root_sets_sign_a_rotation() -> None:
    trusted = TRUSTED.update(sign_roster(rotated(), 1, 2), NOW)
    assert trusted.fingerprint == root_set(2).fingerprint
    assert trusted.update(sign_roster(following(3, root=root_set(2)), 2), NOW).version == 3


@pytest.mark.parametrize("generation", [1, 2], ids=["old only", "new only"])
def test_a_rotation_signed_by_one_side_only_is_refused(generation: int) -> None:
    with pytest.raises(RosterThresholdError):
        TRUSTED.update(sign_roster(rotated(), generation), NOW)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1)])
def test_a_rotation_with_too_few_of_one_side_is_refused(old: int, new: int) -> None:
    keys = [root_key(holder, 1) for holder in ROOT_HOLDERS[:old]] + [root_key(holder, 2) for holder in ROOT_HOLDERS[:new]]
    with pytest.raises(RosterThresholdError):
        TRUSTED.update(rotated().sign(*keys), NOW)


def test_a_retired_root_set_has_no_power_any_more() -> None:
    trusted = TRUSTED.update(sign_roster(rotated(), 1, 2), NOW)
    with pytest.raises(RosterThresholdError):
        trusted.update(sign_roster(following(3), 1), NOW)
    with pytest.raises(RosterThresholdError):
        trusted.update(sign_roster(rotated(3), 1), NOW)


def test_naming_somebody_as_outgoing_gives_them_no_power() -> None:
    intruders = tuple(RootKey(holder, signing_key(f"intruder {holder}").verifying_key) for holder in ROOT_HOLDERS)
    content = following(outgoing_root_keys=intruders)
    with pytest.raises(RosterThresholdError):
        TRUSTED.update(content.sign(*(signing_key(f"intruder {holder}") for holder in ROOT_HOLDERS)), NOW)


def test_a_new_node_is_pinned_to_a_rotated_roster_as_it_is() -> None:
    TrustedRoster.pin(sign_roster(rotated(), 1, 2), root_set(2).fingerprint, NOW)


def test_raising_the_threshold_asks_the_new_threshold_as_well() -> None:
    content = following(root=root_set(threshold=3))
    with pytest.raises(RosterThresholdError):
        TRUSTED.update(sign_roster(content), NOW)
    TRUSTED.update(sign_roster(content, holders=ROOT_HOLDERS), NOW)


def test_a_node_that_was_away_follows_the_chain_of_rotations() -> None:
    second = replace(rotated(2), expires=datetime(2026, 11, 2, tzinfo=UTC))
    third = following(3, root=root_set(3), outgoing_root_keys=root_set(2).keys)
    chain = [sign_roster(second, 1, 2), sign_roster(third, 2, 3)]
    assert TRUSTED.follow(chain, NOW).fingerprint == root_set(3).fingerprint
    with pytest.raises(RosterThresholdError):
        TRUSTED.update(chain[1], NOW)
    with pytest.raises(RosterThresholdError):
        TRUSTED.follow(chain[::-1], NOW)
    with pytest.raises(RosterExpiredError):
        TRUSTED.follow(chain[:1], NOW)
    assert TRUSTED.follow([], NOW) is TRUSTED
