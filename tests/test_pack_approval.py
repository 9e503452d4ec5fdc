"""Two persons' word for a policy pack: what makes it whole, and every way of making one alone, in another's name, or over another pack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from crypto.canonical import PersonId
from crypto.errors import (
    AgencyRoleError,
    EncodingError,
    FieldError,
    GrantSignatureError,
    MissingRoleError,
    PeerError,
    SamePersonError,
    UnknownAgencyError,
    UnknownKeyError,
)
from crypto.moments import round_moment
from crypto.pack_approval import (
    MAX_APPROVAL_BYTES,
    PACK_APPROVAL_KIND,
    PackApproval,
    add_approval_signature,
    read_approval,
    verify_approval,
)
from crypto.roster import Roster
from crypto.roster_entries import PersonRole
from crypto.signed import add_signature
from tests.sample_federation import (
    BOTH,
    INVESTIGATOR,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NOW,
    ORIGINATOR,
    REVIEWER,
    VENDOR,
    credential,
    digest,
    person,
    roster,
    signing_key,
    with_agency,
)

OFFICER = PersonId("northport-pd:officer")
APPROVAL = PackApproval(NORTHPORT, "us-xx-city", digest("pack"), round_moment(NOW))


def listed() -> Roster:
    """The sample roster with Northport's officer, and a person of its legal office who holds two keys for signing."""
    content = roster()
    office = content.agency(content.agency(NORTHPORT).legal_office or NORTHPORT)
    two = person(PersonId("northport-attorney:two"), *(credential(name, PersonRole.REVIEWER) for name in ("two a", "two b")))
    persons = tuple(sorted((*office.persons, two), key=lambda one: one.person_id))
    content = with_agency(content, office.agency_id, persons=persons)
    own = (*content.agency(NORTHPORT).persons, person(OFFICER, credential(OFFICER, PersonRole.OFFICER)))
    return with_agency(content, NORTHPORT, persons=tuple(sorted(own, key=lambda one: one.person_id)))


ROSTER = listed()


def signed_by(*names: str, approval: PackApproval = APPROVAL) -> bytes:
    """Signed by whoever, unchecked: what a hand with these keys can make."""
    document = approval.sign(signing_key(names[0]))
    for name in names[1:]:
        document = add_signature(PACK_APPROVAL_KIND, document, signing_key(name))
    return document


@pytest.mark.parametrize("inside", [REVIEWER, OFFICER])
@pytest.mark.parametrize("outside", [ORIGINATOR, LAKESIDE_REVIEWER])
def test_one_of_the_agency_and_one_of_another_make_it_whole(inside: str, outside: str) -> None:
    for order in ((inside, outside), (outside, inside)):
        signed = verify_approval(signed_by(*order), ROSTER)
        assert signed.approval == APPROVAL
        assert {one.person.person_id for one in signed.signatories} == set(order)
    assert "us-xx-city" in repr(APPROVAL)
    assert digest("pack").hex() not in repr(APPROVAL)


def test_the_second_signs_what_the_first_signed() -> None:
    begun = APPROVAL.sign(signing_key(REVIEWER))
    assert len(read_approval(begun, ROSTER).signatories) == 1
    assert add_approval_signature(begun, signing_key(ORIGINATOR), ROSTER) == signed_by(REVIEWER, ORIGINATOR)
    with pytest.raises(UnknownKeyError):
        add_approval_signature(begun, signing_key("nobody"), ROSTER)


REFUSED: dict[str, tuple[Callable[[], bytes], type[PeerError]]] = {
    "one signer": (lambda: signed_by(REVIEWER), MissingRoleError),
    "two of the agency": (lambda: signed_by(REVIEWER, OFFICER), AgencyRoleError),
    "two from outside": (lambda: signed_by(ORIGINATOR, LAKESIDE_REVIEWER), AgencyRoleError),
    "one person with two keys": (lambda: signed_by("two a", "two b"), SamePersonError),
    "one person with two keys beside another": (lambda: signed_by("two a", "two b", ORIGINATOR), SamePersonError),
    "an investigator": (lambda: signed_by(INVESTIGATOR, ORIGINATOR), AgencyRoleError),
    "the investigator's key of a reviewer": (lambda: signed_by("both investigator", ORIGINATOR), AgencyRoleError),
    "a node's key": (lambda: signed_by(f"{NORTHPORT} node", ORIGINATOR), UnknownKeyError),
    "a root key": (lambda: signed_by(f"{NORTHPORT} root 1", ORIGINATOR), UnknownKeyError),
    "a stranger beside two good ones": (lambda: signed_by(REVIEWER, ORIGINATOR, "nobody"), UnknownKeyError),
    "no listed agency": (lambda: signed_by(REVIEWER, ORIGINATOR, approval=replace(APPROVAL, agency=VENDOR)), UnknownAgencyError),
    "nothing": (lambda: b"", EncodingError),
    "too long": (lambda: b" " * (MAX_APPROVAL_BYTES + 1), EncodingError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_two_persons_word_is_refused(case: str) -> None:
    make, error = REFUSED[case]
    with pytest.raises(error):
        verify_approval(make(), ROSTER)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (digest("pack").hex(), digest("other pack").hex()),
        ("us-xx-city", "us-xx-town"),
        (str(NORTHPORT), "lakeside-sheriff"),
        ("2026-11-23T16:12:04.05Z", "2026-11-24T16:12:04.05Z"),
    ],
)
def test_no_word_of_it_changes_under_the_signatures(old: str, new: str) -> None:
    document = signed_by(REVIEWER, ORIGINATOR)
    assert old.encode() in document
    with pytest.raises(GrantSignatureError):
        verify_approval(document.replace(old.encode(), new.encode()), ROSTER)


def test_every_altered_byte_is_noticed() -> None:
    document = signed_by(REVIEWER, ORIGINATOR)
    for at in range(0, len(document), 7):
        with pytest.raises(PeerError):
            verify_approval(document[:at] + bytes([document[at] ^ 1]) + document[at + 1 :], ROSTER)
    for cut in (document[:-1], document + b" "):
        with pytest.raises(EncodingError):
            verify_approval(cut, ROSTER)


def test_a_signer_who_left_the_roster_signs_no_more() -> None:
    document = signed_by(REVIEWER, ORIGINATOR)
    left = with_agency(ROSTER, ROSTER.signatory(credential(ORIGINATOR, PersonRole.REVIEWER).key_id).agency.agency_id, persons=())
    with pytest.raises(UnknownKeyError):
        verify_approval(document, left)


@pytest.mark.parametrize("name", ["", "Upper", "with space", "-x", "x" * 65, "a/b"])
def test_a_pack_has_a_packs_name(name: str) -> None:
    with pytest.raises(FieldError):
        replace(APPROVAL, pack=name)


def test_the_reviewers_key_of_both_counts() -> None:
    assert verify_approval(signed_by("both reviewer", ORIGINATOR), ROSTER).signatories[0].person.person_id in (BOTH, ORIGINATOR)
