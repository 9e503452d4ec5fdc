"""What the packs of nine jurisdictions promise beyond their examples: swept over the words that a grant can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import cycle, product

import pytest

from agency_node.policy.engine import PolicyPack
from agency_node.policy.inputs import AgencyFacts, Place, PolicyInputs
from agency_node.policy.pack_folder import PackFacts, find_pack, read_pack
from agency_node.policy.scenarios import read_scenarios
from crypto.grant_basis import PURPOSE_OF, BasisKind, Event, Offence, ProbeSource, Purpose

NAMES = ("us-co", "us-ma", "us-md", "us-me", "us-mi-detroit", "us-mt", "us-ut", "us-va-local", "us-wa")
PACKS = {name: PolicyPack.load(find_pack(name)) for name in NAMES}
FACTS: dict[str, PackFacts] = {name: read_pack(find_pack(name)).facts for name in NAMES}

# The lists of Md. Crim. Proc. 2-503(a)(1)(i) and Mont. Code 44-15-103(17), written a second time.
CRIMINAL_LAW = (
    "3-601 11-207 10-304 4-102 4-103 4-203(a)(1)(iii) 4-203(a)(1)(iv) 4-204 4-303(a)(2) 10-606 10-607 5-614(a)(1)(xii) 3-802 3-1102 3-1103"
)
PUBLIC_SAFETY = "5-138 5-140 5-141 5-207(c)(16) 5-406(a)(3) 5-703(a)"
TITLE_45_5 = "102 103 104 106 202 207 210 212 213 220 302 303 401 503 504(3) 508 602 603 622 625 627 628 702 703 704 705"
LISTED = [
    *(("us-md", f"Crim. Law {one}") for one in CRIMINAL_LAW.split()),
    *(("us-md", f"Pub. Safety {one}") for one in PUBLIC_SAFETY.split()),
    *(("us-mt", f"45-5-{one}") for one in TITLE_45_5.split()),
    ("us-mi-detroit", "750.110a(2)"),
]


def base_case(name: str) -> PolicyInputs:
    """A search that the pack allows: the first example of its table."""
    first = read_scenarios(find_pack(name))[0]
    assert first.allowed
    return first.inputs


def every_search(start: PolicyInputs) -> Iterator[PolicyInputs]:
    """All purposes, bases and four offences or none, as far as a grant can hold them together; the places in turn; an order is in force."""
    order = base_case("us-mt").order
    offences = (None, start.offence, Offence("any", "09A"), Offence("any", "23H"), Offence("any", "370"))
    for (purpose, basis, offence), place in zip(product(Purpose, BasisKind, offences), cycle(Place), strict=False):
        if PURPOSE_OF.get(basis, purpose) is purpose and (offence is not None or purpose is not Purpose.CRIMINAL_INVESTIGATION):
            ordered = order if basis in (BasisKind.WARRANT, BasisKind.COURT_ORDER) else None
            yield replace(start, purpose=purpose.value, basis=basis.value, place=place, offence=offence, order=ordered, reviewers=3)


def allowed(name: str, searches: Iterator[PolicyInputs]) -> list[PolicyInputs]:
    return [one for one in searches if PACKS[name].decide(one).allowed]


@pytest.mark.rule("R9")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["federal", "foreign", "private"])
def test_no_other_class_of_agency_gets_anything_by_itself_or_through_another(name: str, kind: str) -> None:
    """R9, R6: whatever it is for, neither when such a body asks nor when an agency asks for it."""
    start = base_case(name)
    assert allowed(name, every_search(start)), "the sweep allows something, so that a refusal says something"
    for asks, case_of in ((True, True), (True, False), (False, True)):
        body = replace(
            start,
            requesting=replace(start.requesting, agency_class=kind) if asks else start.requesting,
            originating=replace(start.originating, agency_class=kind) if case_of else start.originating,
        )
        assert not allowed(name, every_search(body))


@pytest.mark.rule("R11")
@pytest.mark.parametrize("name", NAMES)
def test_no_assembly_without_a_named_offence_and_a_second_reviewer(name: str) -> None:
    """R11: for every purpose and basis."""
    seen = [replace(one, event=Event.PROTEST_OR_ASSEMBLY.value) for one in every_search(base_case(name))]
    assert not allowed(name, (replace(one, reviewers=1) for one in seen))
    assert all(one.offence is not None for one in allowed(name, iter(seen)))


@pytest.mark.rule("R12")
@pytest.mark.parametrize("name", NAMES)
def test_a_drones_still_is_searched_nowhere_but_with_a_warrant_in_washington(name: str) -> None:
    """R12: what watches is refused, or needs the warrant that RCW 43.386.080(1)(a) names."""
    found = allowed(name, (replace(one, probe_source=ProbeSource.DRONE_STILL.value) for one in every_search(base_case(name))))
    assert {one.basis for one in found} == ({"warrant"} if name == "us-wa" else set())


@pytest.mark.rule("R3")
@pytest.mark.parametrize("name", NAMES)
def test_consent_is_no_basis_and_an_order_that_is_over_none_either(name: str) -> None:
    """R3: no purpose changes that."""
    start = base_case(name)
    assert "consent" not in {one.basis for one in allowed(name, every_search(start))}
    late = datetime(2026, 12, 31, tzinfo=UTC) if name != "us-va-local" else datetime(2026, 6, 30, 23, tzinfo=UTC)
    over = base_case("us-mt").order
    assert over is not None
    gone = replace(over, expires=late.date().replace(day=29))
    orders = (replace(one, now=late, order=gone) for one in every_search(start) if one.order is not None)
    assert not allowed(name, orders)


@pytest.mark.rule("R18")
@pytest.mark.parametrize(
    "moment", [datetime(2026, 7, 1, 4, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)]
)
def test_virginia_allows_nothing_since_its_texts_conflict(moment: datetime) -> None:
    """R18: from 1 July 2026, midnight in Virginia, whatever the search is for and wherever the agency stands."""
    for place in Place:
        searches = (replace(one, now=moment, place=place) for one in every_search(base_case("us-va-local")))
        assert not allowed("us-va-local", searches)


@pytest.mark.rule("R3")
def test_montana_allows_nothing_without_a_warrant_and_an_offence() -> None:
    """R3, Mont. Code 44-15-106."""
    found = allowed("us-mt", every_search(base_case("us-mt")))
    assert {one.basis for one in found} == {"warrant"}
    assert all(one.offence is not None for one in found)


@pytest.mark.rule("R6")
@pytest.mark.parametrize("name", ["us-ma", "us-me"])
@pytest.mark.parametrize("gallery", ["us", "us-nh", "us-nh-nearby", "us-ma-anytown", "us-me-anytown", "us-maine", "us-mass"])
def test_no_gallery_but_the_states_own_is_asked_from_massachusetts_or_maine(name: str, gallery: str) -> None:
    """R6: the one route is the state's; a neighbour that asks in its own gallery is no way around it."""
    start = replace(base_case(name), holder=AgencyFacts("holding-agency", "local", gallery))
    neighbour = replace(start, requesting=AgencyFacts("neighbour", "state", "us-nh"))
    assert not allowed(name, every_search(start))
    assert not allowed(name, every_search(neighbour))


@pytest.mark.rule("R1")
@pytest.mark.parametrize(("name", "section"), LISTED)
def test_a_listed_section_and_its_parts_are_listed_and_its_neighbours_are_not(name: str, section: str) -> None:
    """R1: the law's list, written here a second time; a section that only begins like a listed one is another."""
    start = base_case(name)

    def answer(statute: str) -> bool:
        return PACKS[name].decide(replace(start, offence=Offence(statute, "220"))).allowed

    assert answer(section)
    assert answer(section + "(z)")
    for other in (section + "1", section + ".1", section + "-A", section + "(1) in part", "x" + section, section[:-1]):
        assert not answer(other), other


@pytest.mark.rule("R1")
def test_a_section_of_one_state_is_no_section_of_another() -> None:
    """R1, R6: Montana's and Maryland's lists are for their own cases; elsewhere the NIBRS code counts."""
    for name in ("us-md", "us-mt"):
        start = replace(base_case("us-mt"), offence=base_case(name).offence, originating=AgencyFacts("else", "local", "us-nv-elsewhere"))
        assert PACKS[name].decide(start).allowed
        assert start.offence is not None
        assert not PACKS[name].decide(replace(start, offence=Offence(start.offence.statute, "23H"))).allowed


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_says_on_what_each_policy_and_each_duty_rests(name: str) -> None:
    """What is not from a text that was seen says so where it is read; no pack calls itself verified, and each is due for review."""
    facts = FACTS[name]
    assert not facts.verified
    assert facts.review_by > datetime(2026, 11, 24, tzinfo=UTC).date()
    assert len(facts.duties) >= 4
    for duty in facts.duties.values():
        assert any(f"[{tag}]" in duty for tag in ("S", "2", "M", "?")), duty
    for policy, said in facts.policies.items():
        if "M" in said.evidence:
            assert any(words in said.section.lower() for words in ("from memory", "this project's own", "strict-default")), policy
