"""The policy engine and the strict default: every rule decides some search, none can be left out, unknown means no, broken packs stop."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agency_node.errors import ConfigError
from agency_node.policy.engine import (
    NO_DECISION,
    NOTHING_PERMITS,
    AgencyFacts,
    Decision,
    Ground,
    PolicyEngine,
    PolicyInputs,
    PolicyPack,
    Question,
    answer_together,
    decide_all,
    load_packs,
)
from agency_node.policy.pack_folder import PACK_FILES, delivered_packs, find_pack
from agency_node.policy.scenarios import read_scenarios
from crypto.errors import MisuseError, UnknownAgencyError
from crypto.grant_basis import Offence
from tests.sample_federation import EASTFIELD, LAKESIDE, NORTHPORT, NOW, VENDOR, claims, roster, two_agency_claims

FOLDER = find_pack("strict-default")
PACK = PolicyPack.load(FOLDER)
SCENARIOS = read_scenarios(FOLDER)


def agency(kind: str, name: str) -> AgencyFacts:
    return AgencyFacts(name, kind, "us-wi-somewhere")


def lawful() -> PolicyInputs:
    return PolicyInputs.from_grant(claims(), roster(), LAKESIDE, NOW)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "pack"))


def edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")


# --- the strict default -------------------------------------------------------------------------------------------------


def test_no_theft_and_no_word_that_is_not_listed() -> None:
    thefts = [replace(lawful(), offence=Offence("943.20", f"23{letter}")) for letter in "ABCDEFGH"]
    odd = [replace(lawful(), **{name: "unheard-of"}) for name in ("purpose", "basis", "event", "probe_source")]  # type: ignore[arg-type]
    odd += [replace(lawful(), requesting=agency("martian", "a")), replace(lawful(), originating=agency("martian", "a"))]
    odd += [replace(lawful(), offence=Offence("943.20", "99Z")), replace(lawful(), offence=None)]
    for inputs in thefts + odd:
        assert not PACK.decide(inputs).allowed
    assert all(PACK.decide(inputs).rules == (1,) for inputs in thefts)
    assert PACK.decide(lawful()).allowed


def test_a_refusal_names_rule_sentence_and_next_step() -> None:
    found = PACK.decide(replace(lawful(), offence=Offence("943.20", "23C"), basis="consent"))
    assert found.policies == ("forbid-offence-not-listed", "forbid-basis-not-sufficient"), "in order of their rules"
    assert found.rules == (1, 3)
    assert "serious violence" in found.sentences[0]
    assert "warrant" in found.steps[1]
    assert (NOTHING_PERMITS.rule, NO_DECISION.rule) == (998, 999)


def test_what_people_are_told_about_the_pack() -> None:
    assert (PACK.name, PACK.verified, PACK.review_by.year) == ("strict-default", False, 2027)
    assert "serious violence" in PACK.title
    assert repr(PACK).startswith("<PolicyPack strict-default ")


# --- inputs -------------------------------------------------------------------------------------------------------------


def test_inputs_come_from_the_grant_and_the_roster() -> None:
    inputs = PolicyInputs.from_grant(two_agency_claims(), roster(), LAKESIDE, NOW)
    assert inputs.requesting == AgencyFacts(NORTHPORT, "local", "us-wi-northport")
    assert inputs.originating == AgencyFacts(EASTFIELD, "local", "us-wi-eastfield")
    assert inputs.holder.agency_id == LAKESIDE
    assert (inputs.purpose, inputs.basis, inputs.event) == ("criminal_investigation", "warrant", "none")
    assert (inputs.cap, inputs.reviewers, inputs.probe_source) == (20, 2, "recorded_video_still")
    assert inputs.instant == "2026-11-23T16:12:04.050Z"
    assert "940.19" not in repr(inputs)
    with pytest.raises(UnknownAgencyError):
        PolicyInputs.from_grant(claims(), roster(), VENDOR, NOW)
    with pytest.raises(MisuseError):
        PolicyInputs.from_grant(claims(), roster(), LAKESIDE, NOW.replace(tzinfo=None))


CHANGES: dict[str, Callable[[PolicyInputs], PolicyInputs]] = {
    "requesting": lambda one: replace(one, requesting=agency("local", "x")),
    "originating": lambda one: replace(one, originating=agency("local", "x")),
    "holder": lambda one: replace(one, holder=agency("local", "x")),
    "purpose": lambda one: replace(one, purpose="x"),
    "basis": lambda one: replace(one, basis="x"),
    "no offence": lambda one: replace(one, offence=None),
    "statute": lambda one: replace(one, offence=Offence("x", "13A")),
    "event": lambda one: replace(one, event="x"),
    "source": lambda one: replace(one, probe_source="x"),
    "cap": lambda one: replace(one, cap=21),
    "reviewers": lambda one: replace(one, reviewers=2),
    "now": lambda one: replace(one, now=NOW + timedelta(seconds=1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_of_the_inputs_covers_each_of_them(change: str) -> None:
    assert CHANGES[change](lawful()).sha256 != lawful().sha256
    assert PACK.decide(lawful()).inputs_sha256 == lawful().sha256 == lawful().sha256


# --- unknown means no ---------------------------------------------------------------------------------------------------


def test_a_policy_that_fails_while_it_is_evaluated_is_not_left_out(copy: Path) -> None:
    """Cedar would answer Allow here: it skips the forbid whose sum overflows, and the permit remains."""
    edit(copy, "policies.cedar", "unless {\n  if", "when { context.cap + 9223372036854775762 > 0 }\nunless {\n  if")
    pack = PolicyPack.load(copy)
    found = pack.decide(replace(lawful(), cap=50, offence=Offence("943.20", "23C")))
    assert (found.allowed, found.policies, found.rules) == (False, ("no-decision",), (999,))
    assert pack.decide(replace(lawful(), cap=45)).allowed, "nothing overflows here"


def test_one_agency_with_two_faces_is_not_decided() -> None:
    inputs = replace(lawful(), originating=replace(lawful().requesting, agency_class="federal"))
    assert PACK.decide(inputs).policies == ("no-decision",)


def test_a_number_that_cedar_cannot_hold_is_not_decided() -> None:
    with pytest.raises(MisuseError):
        PACK.decide(replace(lawful(), cap=2**70))
    assert PACK.decide(replace(lawful(), cap=2**53 - 1)).policies == ("nothing-permits",)


class Fixed:
    """An engine that always says the same."""

    def __init__(self, allowed: bool, ground: Ground, sha256: bytes) -> None:
        self.allowed, self.ground, self.sha256 = allowed, ground, sha256

    def decide(self, inputs: PolicyInputs) -> Decision:
        return Decision(self.allowed, (self.ground,), self.sha256, inputs.sha256)


def test_the_most_restrictive_pack_wins() -> None:
    yes = Fixed(True, Ground("permit-all", 500, "Yes.", "-"), b"y" * 32)
    no = Fixed(False, Ground("forbid-all", 7, "No.", "Stop."), b"n" * 32)
    assert decide_all([PACK], lawful()) == PACK.decide(lawful())
    both = decide_all([PACK, yes], lawful())
    assert (both.allowed, both.policies) == (True, ("permit-granted-search", "permit-all"))
    orders: tuple[list[PolicyEngine], ...] = ([PACK, no], [no, PACK], [no, yes, PACK])
    for packs in orders:
        found = decide_all(packs, lawful())
        assert (found.allowed, found.policies, found.rules) == (False, ("forbid-all",), (7,))
    theft = replace(lawful(), offence=Offence("943.20", "23C"))
    assert decide_all([no, PACK], theft).rules == (1, 7)
    nobody = decide_all([], lawful())
    assert (nobody.allowed, nobody.policies) == (False, ("nothing-permits",))
    assert len({nobody.pack_sha256, both.pack_sha256, PACK.sha256}) == 3
    assert decide_all([yes, PACK], lawful()).pack_sha256 == both.pack_sha256


def test_packs_that_are_asked_together_answer_as_each_alone() -> None:
    """Every delivered pack beside every other, for examples of all of them: the same grounds, to the last word."""
    packs = tuple(PolicyPack.load(folder) for folder in delivered_packs())
    searches = [one.inputs for folder in delivered_packs() for one in read_scenarios(folder)][::12]
    for number, inputs in enumerate(searches):
        some = packs[number % 5 :: 1 + number % 4]
        assert answer_together(some, Question(inputs)) == [pack.decide(inputs) for pack in some]


def test_one_pack_that_cannot_decide_keeps_no_other_from_it(copy: Path) -> None:
    edit(copy, "policies.cedar", "unless {\n  if", "when { context.cap + 9223372036854775762 > 0 }\nunless {\n  if")
    broken, added = PolicyPack.load(copy), PolicyPack.load(find_pack("us-cjis-security"))
    asked = replace(lawful(), cap=50)
    first, second = answer_together((broken, added), Question(asked))
    assert (first.policies, second) == (("no-decision",), added.decide(asked))


# --- folders ------------------------------------------------------------------------------------------------------------


def test_no_pack_named_is_the_strict_default_and_a_path_is_a_folder(copy: Path) -> None:
    assert [pack.sha256 for pack in load_packs(())] == [PACK.sha256]
    edit(copy, "pack.toml", "Our reading", "Their reading")
    both = load_packs([str(copy), "strict-default"])
    assert [pack.sha256 for pack in both] == sorted({PACK.sha256, PolicyPack.load(copy).sha256})
    with pytest.raises(ConfigError, match="names one pack twice"):
        load_packs(["strict-default", str(FOLDER)])
    with pytest.raises(ConfigError, match="name strict-default, or a folder with its path"):
        load_packs(["no-such-pack"])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_packs([str(copy / "nowhere")])


def test_the_hash_covers_every_byte_of_every_file(copy: Path) -> None:
    files = {name: hashlib.sha256((copy / name).read_bytes()).hexdigest() for name in PACK_FILES}
    canonical = json.dumps({"files": files, "type": "sealmatch-1/policy-pack"}, sort_keys=True, separators=(",", ":"))
    assert PolicyPack.load(copy).sha256 == PACK.sha256 == hashlib.sha256(canonical.encode()).digest()
    for name in PACK_FILES:
        before = PolicyPack.load(copy).sha256
        (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
        assert PolicyPack.load(copy).sha256 != before


def spoilt(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda pack: edit(pack, name, old, new)


def written(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda pack: (pack / name).write_bytes(data)


TOML, CEDAR, SCHEMA = "pack.toml", "policies.cedar", "schema.cedarschema"
BASIS = "forbid-basis-not-sufficient"
ONE_MORE = '[policies.x]\nrule = 1\nsection = "x"\nevidence = ["S"]\nsentence = "x"\nstep = "x"\n\n[policies.permit'
BASIS_HEAD = 'forbid (principal, action == Action::"search", resource)\nunless { ["warrant"'
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no schema": (lambda pack: (pack / SCHEMA).unlink(), "schema.cedarschema is missing"),
    "a file too many": (written("more.cedar", b"x"), "more.cedar is no part of a pack"),
    "too long": (written("scenarios.csv", b"x" * ((1 << 20) + 1)), "scenarios.csv: longer than"),
    "random schema": (written(SCHEMA, b"entity ;"), "schema.cedarschema: the schema does not parse"),
    "bytes": (written(CEDAR, b"// ok\n\xff"), "policies.cedar, line 2: not UTF-8"),
    "toml": (spoilt(TOML, 'name = "', 'name = = "'), "pack.toml: .*line 3"),
    "unknown key": (spoilt(TOML, "verified =", "colour = 1\nverified ="), "pack.toml: colour"),
    "a key missing": (spoilt(TOML, "rule = 3\n", ""), rf"policies\.{BASIS}\.rule: Field required"),
    "rule 0": (spoilt(TOML, "rule = 3\n", "rule = 0\n"), rf"{BASIS}\.rule"),
    "rule 999": (spoilt(TOML, "rule = 3\n", "rule = 999\n"), rf"{BASIS}\.rule"),
    "rule unnamed": (spoilt(TOML, "rule = 3\n", "rule = 4\n"), "rules does not name R4"),
    "verified": (spoilt(TOML, "verified = false", "verified = true"), "verified stays false"),
    "evidence": (spoilt(TOML, '["S", "2", "M"]  #', '["S", "2"]  #'), "evidence that the pack's own list"),
    "no id": (spoilt(CEDAR, f'@id("{BASIS}")', ""), "policy number 3 of the file has no @id"),
    "two ids": (spoilt(CEDAR, BASIS, "forbid-offence-not-listed"), "cedar, line 40: a second policy has the id forbid-offence-not-listed"),
    "id not told": (spoilt(CEDAR, BASIS, "forbid-other"), "pack.toml: there is no policy forbid-other"),
    "told, not written": (spoilt(TOML, "[policies.permit", ONE_MORE), "policies.cedar: there is no policy x"),
    "misspelt": (spoilt(CEDAR, "contains(context.basis)", "contains(context.bases)"), f"cedar, line 40: for policy `{BASIS}`"),
    "optional": (spoilt(CEDAR, "if context has offence", "if context.cap > 1"), "cedar, line 14: .*optional attribute"),
    "syntax": (spoilt(CEDAR, BASIS_HEAD, BASIS_HEAD.replace("(", "", 1)), "cedar, line 40: the policies do not parse"),
    "cut off": (written(CEDAR, b"// a; b\n\npermit (\nprincipal"), "cedar, line 3: the policies do not parse"),
    "template": (spoilt(CEDAR, "permit (principal,", "permit (principal == ?principal,"), "a template is no policy"),
    "empty": (written(CEDAR, b""), "policies.cedar: there is no policy forbid-agency-or-event"),
    "other question": (spoilt(SCHEMA, "    now:", "    mood: String,\n    now:"), "the pack cannot answer what this node asks"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_pack_stops_the_start_and_says_where(copy: Path, case: str) -> None:
    spoil, words = BROKEN[case]
    spoil(copy)
    with pytest.raises(ConfigError, match=words) as refused:
        PolicyPack.load(copy)
    assert str(copy) in str(refused.value)
    assert "pack" in str(refused.value).rpartition(". ")[2]


@pytest.mark.parametrize("name", PACK_FILES)
@pytest.mark.parametrize("seed", range(12))
def test_garbage_is_a_configuration_error_and_nothing_else(copy: Path, name: str, seed: int) -> None:
    data = (copy / name).read_bytes()
    noise = hashlib.sha512(f"{name} {seed}".encode()).digest()
    cut = int.from_bytes(noise[:4], "big") % len(data)
    variants = [noise * 4, data[:cut], data[:cut] + noise[:3] + data[cut:], data + noise, bytes(len(data)), b""]
    (copy / name).write_bytes(variants[seed % 6])
    try:
        pack = PolicyPack.load(copy)
    except ConfigError:
        return
    assert pack.sha256 != PACK.sha256
    assert set(pack.policy_ids) == set(PACK.policy_ids)
