"""Unknown means no (engine rule 1): a word, an offence or a class of agency that a pack does not list gets nothing where it is asked.

Drawn words, not examples: whatever somebody may write into a field that a pack reads. A pack that stands alone refuses by itself; one that
only adds refuses beside the strict default, and by itself for every word that it reads. Controls: the same search with known words passes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agency_node.policy.engine import PolicyPack, decide_all
from agency_node.policy.inputs import PolicyInputs
from agency_node.policy.pack_folder import delivered_packs, find_pack
from agency_node.policy.scenarios import read_scenarios
from crypto.grant_basis import BasisKind, Event, Offence, ProbeSource, Purpose
from crypto.roster_entries import AgencyClass

PACKS = {folder.name: PolicyPack.load(folder) for folder in delivered_packs()}
ALLOWED = {name: next(one.inputs for one in read_scenarios(find_pack(name)) if one.allowed) for name in PACKS}
KNOWN = {
    "purpose": {one.value for one in Purpose},
    "basis": {one.value for one in BasisKind},
    "event": {one.value for one in Event},
    "probe_source": {one.value for one in ProbeSource},
    "class": {one.value for one in AgencyClass},
}
LISTS_CODES = sorted(
    name
    for name, pack in PACKS.items()
    if pack.alone and ALLOWED[name].offence is not None and not pack.decide(replace(ALLOWED[name], offence=Offence("-x", "99Z"))).allowed
)
"""Packs with a list of offences; Washington and Colorado have none, and ask for a named offence only."""
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=24)
near = st.sampled_from([word for known in KNOWN.values() for word in known]).flatmap(
    lambda word: st.sampled_from([word + " ", word.upper(), word + "s", word[:-1], " " + word, word.replace("_", "-") + "x", word + "*"])
)


def unknown_in(field: str) -> st.SearchStrategy[str]:
    return (words | near).filter(lambda word: word not in KNOWN[field])


def put(inputs: PolicyInputs, field: str, word: str) -> PolicyInputs:
    """The search with that word in a field, in the class of the agency that asks and in that of the one whose case it is alike."""
    if field != "class":
        return replace(inputs, **{field: word})  # type: ignore[arg-type]
    return replace(inputs, originating=replace(inputs.originating, agency_class=word, agency_id="other-agency"))


@pytest.mark.parametrize("field", KNOWN)
@pytest.mark.parametrize("name", PACKS)
def test_no_pack_lets_a_word_pass_that_it_does_not_know(name: str, field: str) -> None:
    pack, start = PACKS[name], ALLOWED[name]
    assert pack.decide(start).allowed

    @settings(max_examples=12, deadline=None, database=None)
    @given(unknown_in(field))
    def check(word: str) -> None:
        assert not pack.decide(put(start, field, word)).allowed, word
        assert not decide_all([PACKS["strict-default"], pack], put(start, field, word)).allowed

    check()


@pytest.mark.parametrize("name", LISTS_CODES)
def test_no_pack_with_a_list_lets_an_offence_pass_that_is_not_on_it(name: str) -> None:
    start, expected = ALLOWED[name], {one.inputs.offence for one in read_scenarios(find_pack(name)) if one.allowed}
    listed_codes = {one.nibrs for one in expected if one is not None}
    listed = {one.statute for one in expected if one is not None}

    @settings(max_examples=25, deadline=None, database=None)
    @given(st.from_regex(r"\A9[1-9][0-9]\Z"), words.filter(lambda text: len(text) > 0 and text == text.strip() and text.isprintable()))
    def check(code: str, statute: str) -> None:
        if code in listed_codes or statute in listed:
            return
        assert not PACKS[name].decide(replace(start, offence=Offence(statute, code))).allowed, (statute, code)

    check()


def test_most_packs_that_stand_alone_have_a_list() -> None:
    assert {"strict-default", "us-md", "us-mt", "us-mi-detroit"} <= set(LISTS_CODES)
