"""Packs that add to others: what they refuse beside a pack that stands alone, and that they never stand alone themselves.

Their examples prove each pack by itself (`test_packs`). Here they stand in a node's list, as in service, and
somebody tries to get round them.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agency_node.errors import ConfigError
from agency_node.policy.engine import PolicyPack, decide_all, load_packs
from agency_node.policy.inputs import AgencyFacts, Place, PolicyInputs
from agency_node.policy.pack_folder import DEFAULT_PACK, PACK_FILES, find_pack
from agency_node.policy.scenarios import faults, read_scenarios
from crypto.grant_basis import PURPOSE_OF, BasisKind, Event, Offence, ProbeSource, Purpose

DEFAULT = find_pack(DEFAULT_PACK)
ADDED = [folder.name for folder in sorted(DEFAULT.parent.iterdir()) if not PolicyPack.load(folder).alone]
LAWFUL = read_scenarios(DEFAULT)[0].inputs
MILWAUKEE_BEGINS = datetime(2026, 2, 6, 6, tzinfo=UTC)
ROLES = ("requesting", "originating", "holder")


def agency(jurisdiction: str, kind: str = "local") -> AgencyFacts:
    return AgencyFacts(f"{jurisdiction}-{kind}", kind, jurisdiction)


def every_reason() -> Iterator[PolicyInputs]:
    """The lawful search for every purpose, basis, event and source, with one reviewer and with two."""
    words = itertools.product(Purpose, BasisKind, Event, ProbeSource, (1, 2))
    for purpose, basis, event, source, reviewers in words:
        if PURPOSE_OF.get(basis, purpose) is purpose:
            yield replace(LAWFUL, purpose=purpose, basis=basis, event=event, probe_source=source, reviewers=reviewers)


# --- never alone --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADDED)
def test_a_pack_that_only_adds_does_not_stand_alone(name: str) -> None:
    """A node that named nothing else would search for what this pack does not speak of; it does not start."""
    with pytest.raises(ConfigError, match=f"only packs that add to others \\({name}\\).*name your state's pack beside them"):
        load_packs([name])
    assert len(load_packs([name, DEFAULT_PACK])) == 2


def test_several_that_only_add_do_not_stand_alone_either() -> None:
    with pytest.raises(ConfigError, match="only packs that add to others"):
        load_packs(ADDED)


@pytest.mark.rule("R1")
def test_what_only_adds_opens_nothing() -> None:
    """R1: beside any list of such packs, theft stays refused by the strict default, for the same reason as without them."""
    theft = replace(LAWFUL, offence=Offence("943.20", "23C"))
    for name in ADDED:
        found = decide_all(load_packs([name, DEFAULT_PACK]), theft)
        assert not found.allowed
        assert "forbid-offence-not-listed" in found.policies


# --- an agency under a ban ----------------------------------------------------------------------------------------------


@pytest.mark.rule("R7")
@pytest.mark.rule("R6")
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("pack", "banned"), [("us-wi-milwaukee", "us-wi-milwaukee"), ("us-wi-madison", "us-wi-madison")])
def test_no_words_get_a_banned_agency_into_a_search(pack: str, banned: str, role: str) -> None:
    """R7, R6: whatever the purpose, basis, event, picture and number of reviewers, wherever the pack stands, directly or by proxy."""
    ban = PolicyPack.load(find_pack(pack))
    for inputs in every_reason():
        place = list(Place)[inputs.reviewers]
        assert ban.decide(replace(inputs, place=place)).allowed, "the ban reaches nobody else"
        found = ban.decide(replace(inputs, place=place, **{role: agency(banned)}))  # type: ignore[arg-type]
        assert not found.allowed
        assert found.rules in ((6,), (7,))
        assert found.policies != ("nothing-permits",)


@pytest.mark.rule("R6")
@pytest.mark.parametrize("kind", ["state", "local", "tribal", "federal", "foreign", "private"])
def test_nobody_of_any_class_is_a_proxy_for_a_banned_agency(kind: str) -> None:
    """R6: at a holder elsewhere that names the bans beside its own pack."""
    packs = load_packs([DEFAULT_PACK, "us-wi-milwaukee", "us-wi-madison"])
    for banned in ("us-wi-milwaukee", "us-wi-madison"):
        asked = replace(LAWFUL, requesting=agency("us-somewhere", kind), originating=agency(banned))
        assert 6 in decide_all(packs, asked).rules
    assert decide_all(packs, LAWFUL).allowed


@pytest.mark.rule("R7")
def test_the_moratorium_begins_at_a_moment_and_has_no_end() -> None:
    """R7: Milwaukee's, from the first moment of 6 February 2026 there; a clock in another zone changes nothing."""
    pack = PolicyPack.load(find_pack("us-wi-milwaukee"))
    asked = replace(LAWFUL, requesting=agency("us-wi-milwaukee"), originating=agency("us-wi-milwaukee"))
    moments = [(-timedelta(milliseconds=1), True), (timedelta(0), False), (timedelta(days=3650), False)]
    for after, allowed in moments:
        assert pack.decide(replace(asked, now=MILWAUKEE_BEGINS + after)).allowed is allowed


# --- region, limits, approval -------------------------------------------------------------------------------------------


@pytest.mark.rule("R48")
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("jurisdiction", "kind", "allowed"),
    [
        ("us", "federal", True),
        ("us-gu", "state", True),
        ("ca", "foreign", True),
        ("ca-on-toronto", "foreign", True),
        ("navajo", "tribal", True),
        ("navajo", "local", False),
        ("mx-son", "foreign", False),
        ("usa", "local", False),
        ("cax", "foreign", False),
        ("x-us-wi", "local", False),
    ],
)
def test_criminal_justice_information_stays_in_its_region(role: str, jurisdiction: str, kind: str, allowed: bool) -> None:
    """R48: United States, territories, Tribes and Canada, at every place of a search."""
    pack = PolicyPack.load(find_pack("us-cjis-security"))
    found = pack.decide(replace(LAWFUL, **{role: agency(jurisdiction, kind)}))  # type: ignore[arg-type]
    assert found.allowed is allowed
    assert allowed or found.rules == (48,)


@pytest.mark.rule("R32")
def test_the_fbi_s_least_raises_nobody_s_cap() -> None:
    """R32: 50 leads at most; a grant that was narrowed to one lead passes, though the FBI's own list has two at least."""
    packs = load_packs([DEFAULT_PACK, "us-fbi-ngi-ips"])
    answers = {cap: decide_all(packs, replace(LAWFUL, cap=cap)).allowed for cap in (1, 2, 20, 50, 51)}
    assert answers == {1: True, 2: True, 20: True, 50: True, 51: False}


@pytest.mark.rule("R18")
def test_a_form_that_nobody_filled_in_refuses_every_place() -> None:
    """R18: without the council's approval, which the form has only for an example city, no real agency passes."""
    form = PolicyPack.load(find_pack("ccops-generic"))
    for place in Place:
        found = form.decide(replace(LAWFUL, place=place))
        assert not found.allowed
        assert found.rules[-1] == 18


@pytest.mark.rule("R18")
def test_a_form_that_is_filled_in_is_a_pack(tmp_path: Path) -> None:
    """R18: as the page says: the copy has its own name, its city stands in rules and examples, and the examples still prove it."""
    copy = Path(shutil.copytree(find_pack("ccops-generic"), tmp_path / "us-wi-council"))
    for name in PACK_FILES:
        text = (copy / name).read_text(encoding="utf-8")
        text = text.replace("us-xx-exampleville", "us-wi-councilville").replace("ccops-generic", "us-wi-council")
        (copy / name).write_text(text, encoding="utf-8")
    pack = PolicyPack.load(copy)
    assert faults(pack, read_scenarios(copy)) == []
    own = agency("us-wi-councilville")
    approved = replace(LAWFUL, requesting=own, originating=own, holder=own, place=Place.REQUESTING)
    assert decide_all(load_packs([str(copy), DEFAULT_PACK]), approved).allowed
    assert not PolicyPack.load(find_pack("ccops-generic")).decide(approved).allowed
