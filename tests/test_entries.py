"""Log entries and the mirror: what a leaf shows, what it commits to, who recognises it, and whether a grant still stands."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.canonical import AgencyId, canonical_json
from crypto.checkpoint import Checkpoint
from crypto.entries import (
    ENDING_KINDS,
    ENTRY_FORMAT,
    MAX_COMMITMENTS,
    MAX_ENTRY_BYTES,
    EntryKind,
    FieldOpening,
    FieldType,
    LogEntry,
    check_field,
    commit_field,
    entry_subject,
    pad_openings,
)
from crypto.errors import (
    CommitmentError,
    CryptoError,
    EncodingError,
    FieldError,
    InclusionError,
    MirrorError,
    MisuseError,
    NotCanonicalError,
    OversizedError,
    RevokedError,
    VersionError,
)
from crypto.ledger import EMPTY_ROOT, MerkleTree, check_inclusion, leaf_hash
from crypto.mirror import LogMirror

ORIGIN = "log.example.org/2026"
DAY = date(2026, 11, 23)
GRANT = hashlib.sha256(b"the payload of a grant").digest()
OTHER_GRANT = hashlib.sha256(b"the payload of another grant").digest()
NORTHPORT, EASTHAM = AgencyId("northport-pd"), AgencyId("eastham-pd")
SLOT = FieldType("release-slot")


def entry(kind: EntryKind, grant: bytes = GRANT, author: AgencyId | None = None) -> LogEntry:
    opening = FieldOpening.fresh(FieldType("document-digest"), b"digest")
    return LogEntry(kind, DAY, entry_subject(kind, grant, author), (commit_field(opening),))


def some_entry() -> LogEntry:
    commitments = tuple(hashlib.sha256(b"%d" % number).digest() for number in range(3))
    return LogEntry(EntryKind.RELEASE, DAY, entry_subject(EntryKind.RELEASE, GRANT), commitments)


# --- commitments ---------------------------------------------------------------------------------------------------


def test_a_commitment_is_salt_framed_type_and_value() -> None:
    opening = FieldOpening(bytes(range(32)), FieldType("docket"), b'"23-cv-100"')
    expected = hashlib.sha256(bytes(range(32)) + b"\x06docket" + b'"23-cv-100"').digest()
    assert commit_field(opening) == expected
    check_field(expected, opening)


def test_the_framing_is_unambiguous() -> None:
    """Letters moved from the type into the value make another commitment."""
    salt = bytes(32)
    openings = [FieldOpening(salt, FieldType("docket"[:end]), b"docket"[end:] + b"x") for end in range(1, 7)]
    assert len({commit_field(opening) for opening in openings}) == len(openings)


def test_every_altered_opening_is_refused() -> None:
    opening = FieldOpening.fresh(FieldType("docket"), b'"23-cv-100"')
    commitment = commit_field(opening)
    altered = [
        replace(opening, value=b'"23-cv-101"'),
        replace(opening, value=opening.value + b" "),
        replace(opening, value=opening.value[:-1]),
        replace(opening, value=b""),
        replace(opening, field_type=FieldType("court")),
        FieldOpening.fresh(opening.field_type, opening.value),
    ]
    altered += [replace(opening, salt=bytes(byte ^ (at == place) for place, byte in enumerate(opening.salt))) for at in range(32)]
    for wrong in altered:
        with pytest.raises(CommitmentError):
            check_field(commitment, wrong)
    for place in range(32):
        with pytest.raises(CommitmentError):
            check_field(bytes(byte ^ (at == place) for at, byte in enumerate(commitment)), opening)
    for wrong_length in (b"", commitment[:-1], commitment + b"\x00"):
        with pytest.raises(CommitmentError):
            check_field(wrong_length, opening)


def test_salts_are_fresh_and_out_of_sight() -> None:
    first, second = (FieldOpening.fresh(SLOT, b"same") for _ in range(2))
    assert first.salt != second.salt
    assert commit_field(first) != commit_field(second)
    for text in (repr(first), str(first), f"{first}"):
        assert text == "FieldOpening(release-slot, <redacted>)"
    for salt in (b"", bytes(31), bytes(33)):
        with pytest.raises(FieldError):
            FieldOpening(salt, SLOT, b"")
    with pytest.raises(MisuseError):
        FieldOpening(bytes(32), "Release Slot", b"")  # type: ignore[arg-type]


def test_releases_are_padded_to_the_cap() -> None:
    real = [FieldOpening.fresh(SLOT, b"%d" % number) for number in range(3)]
    padded = pad_openings(real, SLOT, 20)
    assert len(padded) == 20
    assert list(padded[:3]) == real
    assert {(opening.field_type, opening.value) for opening in padded[3:]} == {(SLOT, b"")}
    assert len({opening.salt for opening in padded}) == 20
    assert len(pad_openings([], SLOT, 20)) == 20
    assert pad_openings(real, SLOT, 3) == tuple(real)
    with pytest.raises(MisuseError):
        pad_openings(real, SLOT, 2)
    with pytest.raises(MisuseError):
        pad_openings([FieldOpening.fresh(SLOT, b"")], SLOT, 2)


# --- the entry's form ----------------------------------------------------------------------------------------------


def test_an_entry_reads_as_it_is_documented() -> None:
    expected = (
        '{"commitments":["5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9",'
        '"6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",'
        '"d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"],'
        '"day":"2026-11-23","format":"sealmatch-1/log-entry/1","kind":"release",'
        '"subject":"' + entry_subject(EntryKind.RELEASE, GRANT).hex() + '"}'
    )
    assert some_entry().to_bytes() == expected.encode()
    assert LogEntry.from_bytes(expected.encode()) == some_entry()
    assert some_entry().leaf_hash() == leaf_hash(expected.encode())


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("log-entry/1", "log-entry/2", VersionError),
        ('"kind":"release"', '"kind":"dummy"', FieldError),
        ('"kind":"release"', '"kind":"RELEASE"', FieldError),
        ("2026-11-23", "2026-11-31", FieldError),
        ("2026-11-23", "2026-11-23T00:00:00.00Z", FieldError),
        ('"5feceb', '"5FECEB', FieldError),
        ('"5feceb', '"feceb', FieldError),
        ('"6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"', "7", FieldError),
        ('"day":"2026-11-23",', "", FieldError),
        ('"day"', '"dax":"red","day"', FieldError),
        ('"day":"2026-11-23"', '"day":"2026-11-23","day":"2026-11-23"', NotCanonicalError),
        ('"day":', '"day": ', NotCanonicalError),
        ("}", "}\n", NotCanonicalError),
        ("}", "", NotCanonicalError),
    ],
)
def test_every_other_form_of_an_entry_is_refused(old: str, new: str, error: type[EncodingError]) -> None:
    text = some_entry().to_bytes().decode()
    changed = text.replace(old, new, 1)
    assert changed != text
    with pytest.raises(error):
        LogEntry.from_bytes(changed.encode())


def test_an_entry_cut_or_altered_anywhere_is_refused_or_another_entry() -> None:
    data = some_entry().to_bytes()
    for end in range(len(data)):
        with pytest.raises(EncodingError):
            LogEntry.from_bytes(data[:end])
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                other = LogEntry.from_bytes(bytes(changed))
            except EncodingError:
                continue
            assert other != some_entry()
            assert other.to_bytes() == changed


def both_readers(data: bytes) -> list[object]:
    """What the quick reader and its slow twin, which reads the JSON itself, say of these bytes: an entry, or an error."""
    said: list[object] = []
    for read in (LogEntry.from_bytes, LogEntry._from_json):
        try:
            said.append(read(data))
        except EncodingError as error:
            said.append((type(error), str(error)))
    return said


@given(
    st.sampled_from(EntryKind),
    st.dates(date(2000, 1, 1), date(2099, 12, 31)),
    st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=5, unique=True),
)
def test_the_quick_reader_reads_every_entry(kind: EntryKind, day: date, hashes: list[bytes]) -> None:
    good = LogEntry(kind, day, hashes[0], tuple(hashes[1:]))
    assert both_readers(good.to_bytes()) == [good, good]


def test_the_quick_reader_says_of_damaged_bytes_what_the_strict_one_says() -> None:
    """A byte put in, or in another's place, anywhere."""
    good = some_entry().to_bytes()
    for at in range(len(good) + 1):
        for put in (b" ", b"0", b'"', b",", b"\n", b"}", b"F"):
            for data in (good[:at] + put + good[at + 1 :], good[:at] + put + good[at:]):
                quick, strict = both_readers(data)
                assert quick == strict


def test_fields_out_of_range_make_no_entry() -> None:
    good = some_entry()
    for commitments in ((), good.commitments[:1] * 2, (b"short",), tuple(bytes([number]) * 32 for number in range(MAX_COMMITMENTS + 1))):
        with pytest.raises(FieldError):
            replace(good, commitments=commitments)
    with pytest.raises(FieldError):
        replace(good, subject=bytes(31))
    for day in (date(1999, 12, 31), datetime(2026, 11, 23)):
        with pytest.raises(FieldError):
            replace(good, day=day)
    with pytest.raises(MisuseError):
        replace(good, kind="release")  # type: ignore[arg-type]


def test_the_largest_entry_fits_and_a_larger_document_is_not_parsed() -> None:
    largest = replace(some_entry(), commitments=tuple(bytes([number]) * 32 for number in range(MAX_COMMITMENTS)))
    assert (MAX_COMMITMENTS, MAX_ENTRY_BYTES) == (64, 8192)
    assert len(largest.to_bytes()) < MAX_ENTRY_BYTES
    assert LogEntry.from_bytes(largest.to_bytes()) == largest
    with pytest.raises(OversizedError):
        LogEntry.from_bytes(b" " * (MAX_ENTRY_BYTES + 1))


# --- subjects ------------------------------------------------------------------------------------------------------


def test_a_subject_is_what_the_page_says() -> None:
    framed = b"sealmatch-1/log-subject\n" + b"\x06answer" + GRANT + b"\x0cnorthport-pd"
    assert entry_subject(EntryKind.ANSWER, GRANT, NORTHPORT) == hashlib.sha256(framed).digest()
    framed = b"sealmatch-1/log-subject\n" + b"\x0arevocation" + GRANT + b"\x00"
    assert entry_subject(EntryKind.REVOCATION, GRANT) == hashlib.sha256(framed).digest()


def test_entries_of_one_grant_share_nothing_in_the_clear() -> None:
    authors = (None, NORTHPORT, EASTHAM)
    subjects = [
        entry_subject(kind, grant, author)
        for kind in EntryKind
        for grant in (GRANT, OTHER_GRANT)
        for author in (authors if kind not in ENDING_KINDS else authors[:1])
    ]
    assert max(Counter(subjects).values()) == 1


def test_endings_are_found_without_their_author() -> None:
    for kind in ENDING_KINDS:
        with pytest.raises(MisuseError):
            entry_subject(kind, GRANT, NORTHPORT)
    with pytest.raises(FieldError):
        entry_subject(EntryKind.GRANT, GRANT[:-1])


def test_there_is_no_kind_for_dummies() -> None:
    """A kind of their own would tell the public which searches asked for no disclosure."""
    assert not any("dummy" in kind.value or "filler" in kind.value for kind in EntryKind)


# --- the mirror ----------------------------------------------------------------------------------------------------


def log(*entries: LogEntry) -> tuple[list[bytes], Checkpoint]:
    leaves = [item.to_bytes() for item in entries]
    root = MerkleTree(map(leaf_hash, leaves)).root()
    return leaves, Checkpoint(ORIGIN, len(leaves), root)


SEARCH = (
    entry(EntryKind.ROSTER_CHANGE),
    entry(EntryKind.GRANT, OTHER_GRANT),
    entry(EntryKind.GRANT),
    entry(EntryKind.ANSWER, author=NORTHPORT),
    entry(EntryKind.ANSWER, author=EASTHAM),
    entry(EntryKind.REVOCATION, OTHER_GRANT),
    entry(EntryKind.RELEASE),
)


def test_a_standing_grant_passes() -> None:
    leaves, checkpoint = log(*SEARCH)
    mirror = LogMirror(leaves)
    mirror.check_not_revoked(GRANT, checkpoint)
    check_inclusion(SEARCH[2].leaf_hash(), 2, 7, mirror.tree.inclusion_proof(2), checkpoint.root)


@pytest.mark.parametrize("kind", ENDING_KINDS)
@pytest.mark.parametrize("place", [3, 5, 7])
def test_an_ended_grant_is_refused_wherever_its_end_stands(kind: EntryKind, place: int) -> None:
    leaves, checkpoint = log(*SEARCH[:place], entry(kind), *SEARCH[place:])
    with pytest.raises(RevokedError):
        LogMirror(leaves).check_not_revoked(GRANT, checkpoint)


def test_a_grant_entered_again_after_its_revocation_stays_revoked() -> None:
    leaves, checkpoint = log(*SEARCH, entry(EntryKind.REVOCATION), entry(EntryKind.GRANT))
    with pytest.raises(RevokedError):
        LogMirror(leaves).check_not_revoked(GRANT, checkpoint)


def test_a_grant_entered_twice_stands_from_its_first_entry() -> None:
    leaves, checkpoint = log(*SEARCH)
    mirror = LogMirror([*leaves, entry(EntryKind.GRANT).to_bytes()])
    mirror.check_not_revoked(GRANT, checkpoint)


def test_a_revocation_beyond_the_checkpoint_counts() -> None:
    leaves, checkpoint = log(*SEARCH)
    mirror = LogMirror(leaves)
    mirror.append(entry(EntryKind.REVOCATION).to_bytes())
    with pytest.raises(RevokedError):
        mirror.check_not_revoked(GRANT, checkpoint)


def test_no_log_entry_no_search() -> None:
    leaves, checkpoint = log(SEARCH[0], SEARCH[1], *SEARCH[3:])
    mirror = LogMirror(leaves)
    with pytest.raises(InclusionError):
        mirror.check_not_revoked(GRANT, checkpoint)
    mirror.append(SEARCH[2].to_bytes())
    with pytest.raises(InclusionError):  # in the mirror, and not yet under this checkpoint
        mirror.check_not_revoked(GRANT, checkpoint)
    mirror.check_not_revoked(GRANT, Checkpoint(ORIGIN, mirror.tree.size, mirror.tree.root()))
    with pytest.raises(InclusionError):
        LogMirror().check_not_revoked(GRANT, Checkpoint.empty(ORIGIN))


def test_another_kind_with_the_grants_subject_is_no_grant() -> None:
    leaves, checkpoint = log(replace(entry(EntryKind.ANSWER), subject=entry_subject(EntryKind.GRANT, GRANT)))
    with pytest.raises(InclusionError):
        LogMirror(leaves).check_not_revoked(GRANT, checkpoint)


def test_what_was_entered_stands_under_the_checkpoint_for_its_grant_and_author_only() -> None:
    """No log entry, no release: a holder asks this before it shows stubs."""
    leaves, checkpoint = log(*SEARCH[:-1])
    mirror = LogMirror([*leaves, SEARCH[-1].to_bytes()])
    mirror.check_entered(EntryKind.GRANT, GRANT, checkpoint)
    mirror.check_entered(EntryKind.ANSWER, GRANT, checkpoint, NORTHPORT)
    for kind, digest, author in (
        (EntryKind.RELEASE, GRANT, None),  # in the mirror, and not yet under this checkpoint
        (EntryKind.ANSWER, GRANT, None),
        (EntryKind.ANSWER, OTHER_GRANT, NORTHPORT),
        (EntryKind.OPENED_SCORES, GRANT, NORTHPORT),
        (EntryKind.GRANT, bytes(32), None),
    ):
        with pytest.raises(InclusionError):
            mirror.check_entered(kind, digest, checkpoint, author)
    later = Checkpoint(ORIGIN, mirror.tree.size, mirror.tree.root())
    mirror.check_entered(EntryKind.RELEASE, GRANT, later)
    with pytest.raises(MirrorError):
        LogMirror(leaves).check_entered(EntryKind.RELEASE, GRANT, later)


def test_a_mirror_that_is_not_the_log_answers_nothing() -> None:
    leaves, checkpoint = log(*SEARCH, entry(EntryKind.REVOCATION))
    for false in (
        leaves[:-1],  # not read to the end: the revocation is the last leaf
        [*leaves[:-1], SEARCH[6].to_bytes()],  # another leaf in its place
        [*leaves[:5], *leaves[6:], leaves[5]],
        [],
    ):
        with pytest.raises(MirrorError):
            LogMirror(false).check_not_revoked(GRANT, checkpoint)
    with pytest.raises(MirrorError):
        LogMirror(leaves).check_at(replace(checkpoint, root=EMPTY_ROOT))


def test_a_leaf_that_cannot_be_read_stops_the_mirror() -> None:
    leaves, _ = log(*SEARCH)
    future = canonical_json({"format": ENTRY_FORMAT.replace("/1", "/2"), "revokes": GRANT.hex()})
    leaves = [*leaves, future, SEARCH[0].to_bytes()]
    checkpoint = Checkpoint(ORIGIN, len(leaves), MerkleTree(map(leaf_hash, leaves)).root())
    mirror = LogMirror(leaves[:7])
    with pytest.raises(VersionError):
        mirror.append(leaves[7])
    assert mirror.tree.size == 7
    with pytest.raises(MirrorError):
        mirror.check_not_revoked(GRANT, checkpoint)
    mirror.append(leaves[8])  # passing over it does not help: the root is another
    mirror.append(leaves[8])
    with pytest.raises(MirrorError):
        mirror.check_not_revoked(GRANT, checkpoint)


# --- generated -----------------------------------------------------------------------------------------------------

_digests = st.binary(min_size=32, max_size=32)
_entries = st.builds(
    LogEntry,
    st.sampled_from(EntryKind),
    st.dates(date(2000, 1, 1), date(2099, 12, 31)),
    _digests,
    st.lists(_digests, min_size=1, max_size=MAX_COMMITMENTS, unique=True).map(tuple),
)


@given(_entries)
def test_entries_round_trip(item: LogEntry) -> None:
    assert LogEntry.from_bytes(item.to_bytes()) == item


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_garbage_is_no_entry(data: bytes) -> None:
    with pytest.raises(CryptoError):
        LogEntry.from_bytes(data)


_scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)
_json = _scalars | st.lists(_scalars | st.lists(_scalars, max_size=3), max_size=3)


@given(st.dictionaries(st.sampled_from(["commitments", "day", "format", "kind", "subject", "x"]), _json | st.just(ENTRY_FORMAT)))
def test_json_of_the_wrong_shape_is_no_entry(value: dict[str, None]) -> None:
    with pytest.raises(EncodingError):
        LogEntry.from_bytes(canonical_json(dict(value)))


@given(st.binary(max_size=100), st.binary(max_size=100), _digests)
def test_commitments_bind_the_value(one: bytes, two: bytes, salt: bytes) -> None:
    first, second = FieldOpening(salt, SLOT, one), FieldOpening(salt, SLOT, two)
    check_field(commit_field(first), first)
    assert (commit_field(first) == commit_field(second)) == (one == two)
