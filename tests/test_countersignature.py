"""Who becomes a reviewer: a key that the legal office's own key vouches for, and nobody else's, whoever signs the roster.

A threshold of root holders signs every roster of this file. So what is refused here is refused by every reader for itself: the node that is
handed it, the broker that is to install it. The broker's word plays no part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from crypto.canonical import b64url_decode, b64url_encode, canonical_json
from crypto.errors import CountersignatureError, FieldError, RosterThresholdError, TrainingExpiredError
from crypto.grant import verify_grant
from crypto.roster import ROSTER_KIND, Roster, TrustedRoster
from crypto.roster_entries import Credential, Person, PersonRole
from crypto.signed import sign_document
from tests.sample_federation import (
    EASTFIELD_LAW,
    KEYED,
    KEYED_REVIEWER,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_LAW,
    NOW,
    ORIGINATOR,
    REVIEWER,
    ROOT_HOLDERS,
    TRAINED_UNTIL,
    claims,
    countersigned,
    credential,
    office_key,
    person,
    root_key,
    roster,
    sign_roster,
    signing_key,
    token_of,
    trust,
    with_agency,
)

ROSTER = roster()
MALLORY = signing_key("a key that the administrator of a node made")


def signed_by_all_roots(change: Callable[[dict[str, Any]], object], office: str = NORTHPORT_LAW) -> bytes:
    """The sample roster with something else in one agency's entry, past every check of ours, signed by every root holder."""
    content = json.loads(canonical_json(replace(ROSTER, version=2).to_json()))
    change(next(one for one in content["agencies"] if one["id"] == office))
    return sign_document(ROSTER_KIND, content, *(root_key(holder) for holder in ROOT_HOLDERS))


def reviewer(entry: dict[str, Any], person_id: str = REVIEWER) -> Any:
    """The person of that id in an agency's entry."""
    return next(one for one in entry["persons"] if one["id"] == person_id)


def put(entry: dict[str, Any], persons: Sequence[Person]) -> None:
    entry["persons"] = [one.to_json() for one in persons]


def own(role: PersonRole = PersonRole.REVIEWER) -> Person:
    return Person(REVIEWER, TRAINED_UNTIL, (Credential(role, MALLORY.verifying_key),))


def not_countersigned(entry: dict[str, Any]) -> None:
    reviewer(entry)["credentials"][0]["countersignature"] = None


def another_key_under_the_old_word(entry: dict[str, Any]) -> None:
    reviewer(entry)["credentials"][0]["key"] = b64url_encode(MALLORY.verifying_key.raw)


def longer_training(entry: dict[str, Any]) -> None:
    reviewer(entry)["trained_until"] = "2028-06-30"


def another_person(entry: dict[str, Any]) -> None:
    reviewer(entry)["id"] = "northport-attorney:counsel-0"


def another_origin_of_a_security_key(entry: dict[str, Any]) -> None:
    reviewer(entry, KEYED_REVIEWER)["credentials"][0]["origin"] = "https://other.reviewers.example.org"


def an_investigator_made_a_reviewer(entry: dict[str, Any]) -> None:
    """The office vouched for the reviewer's key of one who also investigates; its word is moved to the other key."""
    both = reviewer(entry, "northport-attorney:both")
    word = next(one["countersignature"] for one in both["credentials"] if one["role"] == "reviewer")
    for one in both["credentials"]:
        one |= {"role": "reviewer", "countersignature": word}


def altered_signature(entry: dict[str, Any]) -> None:
    one = reviewer(entry)["credentials"][0]
    raw = b64url_decode(one["countersignature"])
    one["countersignature"] = b64url_encode(bytes([raw[0] ^ 1]) + raw[1:])


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "not countersigned": not_countersigned,
    "another key": another_key_under_the_old_word,
    "another last day of training": longer_training,
    "another person": another_person,
    "another origin of a security key": another_origin_of_a_security_key,
    "another role": an_investigator_made_a_reviewer,
    "an altered signature": altered_signature,
    "countersigned by itself": lambda entry: put(entry, [own().countersigned(NORTHPORT_LAW, MALLORY)]),
    "countersigned by the node's key": lambda entry: put(entry, [own().countersigned(NORTHPORT_LAW, signing_key(f"{NORTHPORT_LAW} node"))]),
    "countersigned by a root key": lambda entry: put(entry, [own().countersigned(NORTHPORT_LAW, root_key(NORTHPORT))]),
    "countersigned by another office": lambda entry: put(entry, [own().countersigned(NORTHPORT_LAW, office_key(EASTFIELD_LAW))]),
    "vouched for in another office's name": lambda entry: put(entry, [own().countersigned(EASTFIELD_LAW, office_key(NORTHPORT_LAW))]),
    "another office's reviewer": lambda entry: put(entry, ROSTER.agency(EASTFIELD_LAW).persons),
}


@pytest.mark.rule("R5")
@pytest.mark.parametrize("forged", FORGED)
def test_a_reviewer_without_the_offices_word_is_refused_under_every_root_signature(forged: str) -> None:
    """Caught by each reader of the roster, which stays with the one that it had (`CountersignatureError`)."""
    data = signed_by_all_roots(FORGED[forged])
    with pytest.raises(CountersignatureError, match=r"^a reviewer's key (is not countersigned by|bears no countersignature of) "):
        trust(ROSTER).update(data, NOW)
    with pytest.raises(CountersignatureError):
        TrustedRoster.pin(data, ROSTER.root.fingerprint, NOW)


def test_control_the_same_ways_with_the_offices_word_are_taken() -> None:
    """The office's own head signs for another key, another day, another person: taken, each of them."""
    for one in (
        own(),
        replace(own(), trained_until=TRAINED_UNTIL + timedelta(days=365)),
        Person(REVIEWER, TRAINED_UNTIL, (Credential(PersonRole.REVIEWER, KEYED.key),)),
    ):
        data = signed_by_all_roots(partial(put, persons=countersigned(NORTHPORT_LAW, one)))
        listed = trust(ROSTER).update(data, NOW).at(NOW).agency(NORTHPORT_LAW).persons
        assert [person.person_id for person in listed] == [REVIEWER]


def test_a_key_that_was_slipped_in_signs_no_grant() -> None:
    """End of the attack: with the roster refused, the administrator's reviewer is nobody, and the grant names an unknown key."""
    trusted = trust(ROSTER)
    with pytest.raises(CountersignatureError):
        trusted.update(signed_by_all_roots(FORGED["countersigned by itself"]), NOW)
    assert verify_grant(token_of(claims()), trusted, NOW).claims.reviewers == (REVIEWER,)


@pytest.mark.rule("R14")
def test_training_counts_as_the_office_vouched_for_it() -> None:
    """R14: nobody else prolongs it, and what the office said has an end."""
    lapsed = person(REVIEWER, credential(REVIEWER, PersonRole.REVIEWER), trained_until=NOW.date() - timedelta(days=1))
    content = with_agency(ROSTER, NORTHPORT_LAW, persons=(lapsed,))
    with pytest.raises(TrainingExpiredError):
        verify_grant(token_of(claims()), trust(content), NOW)
    (vouched,) = content.agency(NORTHPORT_LAW).persons
    with pytest.raises(CountersignatureError):
        with_agency_as_it_is(content, replace(vouched, trained_until=TRAINED_UNTIL))


def with_agency_as_it_is(content: Roster, *persons: Person) -> Roster:
    """As `with_agency`, without the office's word for what changed."""
    agencies = (replace(one, persons=persons) if one.agency_id == NORTHPORT_LAW else one for one in content.agencies)
    return replace(content, agencies=tuple(agencies))


# --- the office's key itself ------------------------------------------------------------------------------------------


def other_office_key() -> Roster:
    """Northport's legal office with a key of Mallory's, and a reviewer for whom that key vouches."""
    agencies = [
        replace(one, office_key=MALLORY.verifying_key, persons=(own_reviewer(),)) if one.agency_id == NORTHPORT_LAW else one
        for one in roster(2).agencies
    ]
    return replace(roster(2), agencies=tuple(agencies))


def own_reviewer() -> Person:
    made = Person(REVIEWER, TRAINED_UNTIL, (credential("another reviewer", PersonRole.REVIEWER),))
    return made.countersigned(NORTHPORT_LAW, MALLORY)


def test_another_office_key_takes_a_threshold_of_root_holders() -> None:
    """One root holder together with an administrator is too few; a threshold may, as for every change, and the log shows it."""
    with pytest.raises(RosterThresholdError):
        trust(ROSTER).update(sign_roster(other_office_key(), holders=ROOT_HOLDERS[:1]), NOW)
    changed = trust(ROSTER).update(sign_roster(other_office_key()), NOW).at(NOW)
    assert changed.agency(NORTHPORT_LAW).office_key == MALLORY.verifying_key


def test_under_another_office_key_nobody_stays_a_reviewer_without_a_new_word() -> None:
    for agency_id in (NORTHPORT_LAW, EASTFIELD_LAW, LAKESIDE):
        entry = ROSTER.agency(agency_id)
        assert entry.persons
        with pytest.raises(CountersignatureError):
            replace(entry, office_key=MALLORY.verifying_key)


@pytest.mark.parametrize("role", [f"{NORTHPORT} node", "log", REVIEWER, ORIGINATOR, f"{NORTHPORT_LAW} node"])
def test_an_office_key_is_a_key_of_its_own(role: str) -> None:
    """No node's key, no log's, no person's: whoever administers a node has none that would do."""
    key = signing_key(role)
    entry = replace(ROSTER.agency(NORTHPORT_LAW), office_key=key.verifying_key, persons=())
    with pytest.raises(FieldError, match="lists one key twice"):
        replace(ROSTER, agencies=tuple(entry if one.agency_id == NORTHPORT_LAW else one for one in with_reviewers_elsewhere(role)))


def with_reviewers_elsewhere(role: str) -> tuple[Any, ...]:
    """The sample agencies; where the key is that of a reviewer of the office itself, the reviewer stands in Lakeside's office."""
    if role != REVIEWER:
        return ROSTER.agencies
    moved = person(REVIEWER, credential(REVIEWER, PersonRole.REVIEWER))
    return tuple(replace(one, persons=countersigned(LAKESIDE, moved)) if one.agency_id == LAKESIDE else one for one in ROSTER.agencies)
