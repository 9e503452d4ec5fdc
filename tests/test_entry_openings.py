"""Which fields entries open, what a reader refuses to believe, and whether a table gives up a number that it holds back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date

import pytest

from agency_node.holder.expunging import ExpungeReason
from crypto.entries import MAX_COMMITMENTS, EntryKind, FieldOpening, FieldType, LogEntry, commit_field, entry_subject
from crypto.entry_counts import MIN_CELL, CountTable, EntryCounts, publishable
from crypto.entry_openings import (
    BASIS,
    ENTRY_FORMS,
    EXPUNGE_REASON,
    EXPUNGE_REASONS,
    HOLDERS_ASKED,
    LEADS,
    OFFENCE,
    OUTCOME,
    OUTCOMES,
    REQUESTING_AGENCY,
    REQUESTING_CLASS,
    LeafOpenings,
    OpenedEntries,
    check_form,
    check_opening,
    check_value,
    opened_types,
)
from crypto.errors import AgencyStatementError, CommitmentError, EncodingError, FieldError, OversizedError, PeerError, UnknownAgencyError
from crypto.grant_basis import BasisKind
from tests.sample_federation import EASTFIELD, NORTHPORT, NOW, digest, roster, signing_key

GRANT_FIELDS = {
    "requesting-agency": "northport-pd",
    "requesting-class": "local",
    "originating-agency": "eastfield-pd",
    "originating-class": "federal",
    "offence-group": "13A",
    "legal-basis": "warrant",
    "holders-asked": "12",
}


def made(kind: EntryKind = EntryKind.GRANT, fields: dict[str, str] = GRANT_FIELDS, salt: str = "") -> tuple[LogEntry, list[FieldOpening]]:
    """An entry of its kind's form, and the openings of all its fields."""
    form = ENTRY_FORMS[kind]
    openings = [FieldOpening(digest(f"salt {name} {salt}"), name, fields.get(str(name), "").encode()) for name in form.opened]
    openings += [FieldOpening(digest(f"kept {number} {salt}"), FieldType("kept"), b"") for number in range(form.kept)]
    return LogEntry(kind, NOW.date(), entry_subject(kind, digest(f"grant {salt}")), tuple(map(commit_field, openings))), openings


# --- forms ------------------------------------------------------------------------------------------------------------


def test_every_kind_about_a_search_or_an_expunging_has_one_number_of_commitments() -> None:
    said_nowhere_else = set(EntryKind) - {
        EntryKind.MANIFEST,
        EntryKind.PACK_CHANGE,
        EntryKind.ROSTER_CHANGE,
        EntryKind.VIOLATION,
    }
    assert set(ENTRY_FORMS) == said_nowhere_else
    assert all(1 <= form.count <= MAX_COMMITMENTS for form in ENTRY_FORMS.values())
    for kind in ENTRY_FORMS:
        entry, _ = made(kind, {})
        check_form(entry)
        for other in (entry.commitments[:-1], (*entry.commitments, digest("one more"))):
            if not other:
                continue
            with pytest.raises(CommitmentError, match="commitments"):
                check_form(replace(entry, commitments=other))


@pytest.mark.rule("R54")
@pytest.mark.parametrize("kind", ENTRY_FORMS)
def test_no_opened_field_can_hold_words(kind: EntryKind) -> None:
    """R54: a docket, a statute, a person, a sentence, a picture fit no field that is opened; the broker checks names of agencies."""
    case_text = [b"26-CF-101", b"Wis. Stat. 940.19(4)", b"northport-pd:detective-4/x", b"a witness saw him", b"\xff\xd8\xff", b"J. Doe"]
    for name in opened_types(kind):
        check_value(kind, name, b"")
        for text in case_text:
            with pytest.raises(FieldError):
                check_value(kind, name, text)


@pytest.mark.parametrize("name", ["grant-digest", "release-slot", "docket", "case-number", "image-hash", "answer-digest"])
@pytest.mark.parametrize("kind", EntryKind)
def test_nothing_else_is_opened(kind: EntryKind, name: str) -> None:
    with pytest.raises(FieldError, match="no such field"):
        check_value(kind, FieldType(name), b"")


def test_outcomes_are_those_of_their_kind() -> None:
    for kind, outcomes in OUTCOMES.items():
        for outcome in {one for all_of_kind in OUTCOMES.values() for one in all_of_kind}:
            if outcome in outcomes:
                check_value(kind, OUTCOME, outcome.encode())
            else:
                with pytest.raises(FieldError):
                    check_value(kind, OUTCOME, outcome.encode())


def test_a_holders_reasons_are_those_that_an_expunction_opens() -> None:
    assert set(EXPUNGE_REASONS) == set(ExpungeReason)
    for reason in ExpungeReason:
        check_value(EntryKind.EXPUNCTION, EXPUNGE_REASON, reason.encode())


# --- what a reader refuses --------------------------------------------------------------------------------------------


def test_every_field_of_an_entry_opens() -> None:
    entry, openings = made()
    leaf = LeafOpenings(entry.leaf_hash(), tuple(openings[: len(GRANT_FIELDS)]))
    leaf.check(entry)
    assert {str(one.field_type): one.value.decode() for one in leaf.openings} == GRANT_FIELDS


OTHER, OTHER_OPENINGS = made(salt="other")
FORGERIES: dict[str, Callable[[FieldOpening], FieldOpening]] = {
    "another value": lambda one: replace(one, value=b"exigent"),
    "no value": lambda one: replace(one, value=b""),
    "another salt": lambda one: replace(one, salt=digest("forged")),
    "the same field of another leaf": lambda one: next(other for other in OTHER_OPENINGS if other.field_type == one.field_type),
    "another field type over the same value": lambda one: replace(one, field_type=OFFENCE),
    "a field that the kind does not open": lambda one: replace(one, field_type=LEADS, value=b"3"),
}


@pytest.mark.parametrize("forged", FORGERIES)
def test_a_forged_opening_is_refused(forged: str) -> None:
    entry, openings = made()
    true = openings[opened_types(EntryKind.GRANT).index(BASIS)]
    check_opening(entry, true)
    with pytest.raises((CommitmentError, FieldError)):
        check_opening(entry, FORGERIES[forged](true))


def test_a_field_opens_at_its_own_place_only() -> None:
    """An author that commits to two classes, at two places, cannot choose later: one place is the class's."""
    entry, openings = made()
    place = opened_types(EntryKind.GRANT).index(REQUESTING_CLASS)
    second = FieldOpening(digest("second"), REQUESTING_CLASS, b"federal")
    twice = replace(entry, commitments=(*entry.commitments[:-1], commit_field(second)))
    check_opening(twice, openings[place])
    with pytest.raises(CommitmentError):
        check_opening(twice, second)


def test_an_entry_of_another_form_opens_nothing() -> None:
    entry, openings = made()
    for commitments in (entry.commitments[:-1], (*entry.commitments, digest("one more"))):
        with pytest.raises(CommitmentError):
            check_opening(replace(entry, commitments=commitments), openings[0])


def test_openings_of_another_leaf_are_refused_before_they_are_looked_at() -> None:
    entry, openings = made()
    with pytest.raises(CommitmentError, match="another leaf"):
        LeafOpenings(OTHER.leaf_hash(), tuple(openings[:1])).check(entry)
    for wrong in ((), (openings[0], openings[0])):
        with pytest.raises(FieldError, match="each once"):
            LeafOpenings(entry.leaf_hash(), wrong)


# --- the file for oversight -------------------------------------------------------------------------------------------


def document(agency: str = NORTHPORT, key: str = f"{NORTHPORT} node") -> bytes:
    entry, openings = made()
    opened = LeafOpenings(entry.leaf_hash(), tuple(openings[: len(GRANT_FIELDS)]))
    return OpenedEntries(type(NORTHPORT)(agency), NOW.replace(microsecond=0), (opened,)).sign(signing_key(key))


def test_a_file_for_oversight_is_read_again() -> None:
    data = document()
    read = OpenedEntries.read(data, roster())
    assert (read.agency, read.sign(signing_key(f"{NORTHPORT} node"))) == (NORTHPORT, data)
    assert "warrant" not in repr(read)


def test_a_file_that_its_agency_did_not_sign_is_refused() -> None:
    for wrong in (document(key="a stranger"), document(key=f"{EASTFIELD} node"), document(agency=EASTFIELD)):
        with pytest.raises(AgencyStatementError):
            OpenedEntries.read(wrong, roster())
    with pytest.raises(UnknownAgencyError):
        OpenedEntries.read(document(agency="nobody"), roster())


def test_a_changed_file_is_refused_at_every_byte() -> None:
    data = document()
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(PeerError):
            OpenedEntries.read(changed, roster())
    for broken in (data[:-1], data + b" ", b"", b"{}"):
        with pytest.raises(EncodingError):
            OpenedEntries.read(broken, roster())
    with pytest.raises(OversizedError):
        OpenedEntries.read(b" " * ((8 << 20) + 1), roster())


# --- counts -----------------------------------------------------------------------------------------------------------


def vectors(categories: int, total: int) -> Iterator[tuple[int, ...]]:
    """Every way to share that many entries out."""
    if categories == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in vectors(categories - 1, total - first):
            yield (first, *rest)


@pytest.mark.rule("R62")
@pytest.mark.parametrize(("categories", "most"), [(2, 30), (3, 30), (4, 20), (5, 14)])
def test_no_number_below_five_can_be_computed_from_a_table(categories: int, most: int) -> None:
    """R62: the strongest reader knows the total, the categories and this very algorithm. He lists every possibility that gives the table
    that he sees; no small number is the same in all of them."""
    for total in range(MIN_CELL, most + 1):
        possible: dict[CountTable, list[tuple[int, ...]]] = defaultdict(list)
        for vector in vectors(categories, total):
            possible[publishable("x", {chr(97 + place): count for place, count in enumerate(vector)})].append(vector)
        for table, found in possible.items():
            assert all(count >= MIN_CELL for _, count in table.lines)
            assert table.others == 0 or (table.others or 0) >= MIN_CELL
            for place in range(categories):
                values = {vector[place] for vector in found}
                assert len(values) > 1 or not 0 < min(values) < MIN_CELL, (table, found)


@pytest.mark.rule("R62")
def test_what_follows_from_the_total_is_held_back_as_well() -> None:
    """R62: a single small number stands beside a total, so a large one goes with it."""
    assert publishable("x", {"a": 9, "b": 2, "c": 40}) == CountTable("x", 51, (("c", 40),), 11)
    assert publishable("x", {"a": 9, "b": 7}) == CountTable("x", 16, (("a", 9), ("b", 7)), 0)
    assert publishable("x", {"a": 3, "b": 40}) == CountTable("x", 43, (), 43)
    assert publishable("x", {"a": 5, "b": 1, "c": 40}) == CountTable("x", 46, (), 46)  # 6 could be nothing but 5 and 1
    assert publishable("x", {"a": 4}) == CountTable("x", None, (), None)
    assert publishable("x", {}) == CountTable("x", 0, (), 0)


@pytest.mark.rule("R62")
def test_agencies_are_not_computed_from_their_classes() -> None:
    """R62: rows and totals together: what the table of agencies holds back does not follow from the table of classes, and a class that is
    held back has no table."""
    counts = EntryCounts()
    grants = (
        [("a-pd", "local")] * 20 + [("b-pd", "local")] * 3 + [("c-pd", "local")] * 6 + [("fbi", "federal")] * 2 + [("dps", "state")] * 7
    )
    for position, (agency, class_) in enumerate(grants):
        counts.add_opened(position, EntryKind.GRANT, REQUESTING_AGENCY, agency)
        counts.add_opened(position, EntryKind.GRANT, REQUESTING_CLASS, class_)
    tables = {table.name: table for table in counts.tables()}
    assert tables["grants by class of the requesting agency"] == CountTable(
        "grants by class of the requesting agency", 38, (("state", 7),), 31
    )
    assert [name for name in tables if "requesting agency, class" in name] == ["grants by requesting agency, class state"]
    shown = {count for table in tables.values() for _, count in table.lines} | {table.others for table in tables.values()}
    assert not shown & {2, 3}


def test_kinds_and_days_are_counted_as_they_are() -> None:
    """They stand in every leaf: holding them back would hide nothing."""
    counts = EntryCounts()
    counts.add_leaf(date(2026, 11, 23), EntryKind.LAPSE)
    assert counts.to_json()["entries"] == [{"day": "2026-11-23", "kind": "lapse", "count": 1}]
    assert counts.to_json()["tables"] == []


@pytest.mark.rule("R62")
def test_one_opened_entry_is_no_table() -> None:
    counts = EntryCounts()
    counts.add_opened(0, EntryKind.GRANT, BASIS, BasisKind.EXIGENT.value)
    counts.add_opened(0, EntryKind.GRANT, OFFENCE, "09A")
    counts.add_opened(0, EntryKind.GRANT, HOLDERS_ASKED, "3")
    assert {(table.total, table.lines, table.others) for table in counts.tables()} == {(None, (), None)}
