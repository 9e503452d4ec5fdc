"""Places, the tree of a gallery's records, and what a holder signs over it: manifest, proof of absence, report of a purge (R24, R25)."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.canonical import b64url_decode, b64url_encode, canonical_json
from crypto.errors import AbsenceError, AgencyStatementError, CryptoError, FieldError, MisuseError, NotCanonicalError, UnknownAgencyError
from crypto.places import PlacesKey, PlacesPublicKey
from crypto.record_manifest import NO_MANIFEST, Absence, PurgeReport, RecordManifest
from crypto.record_tree import (
    BUCKET_BITS,
    NO_RECORD,
    RecordLeaf,
    RecordTree,
    TreePath,
    bucket_hash,
    bucket_of,
    check_number,
    commit_record,
    name_of,
)
from tests.sample_federation import EASTFIELD, LAKESIDE, NOW, OVERSIGHT, digest, roster, secret, signing_key

ROSTER = roster()
NODE = signing_key(f"{LAKESIDE} node")
KEY = PlacesKey(secret("places"))
NUMBERS = [f"LS-{number:05d}" for number in range(60)]
VECTORS = [  # RFC 9381, appendix B.3, examples 16 and 17: secret key, input, proof, output
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f26f8a57ccaed74ee1b190bed1f479d97"
        "27d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805",
        "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed5933bf0864a62558b3ed7f2fea45c92a465"
        "301b3bbf5e3e54ddf2d935be3b67926da3ef39226bbc355bdc9850112c8f4b02",
        "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb",
    ),
]


def tree_of(numbers: list[str], key: PlacesKey = KEY) -> tuple[RecordTree, Callable[[bytes], list[RecordLeaf]]]:
    """The tree of these numbers, and how the records of a place's bucket are found."""
    day = date(2020, 1, 1)
    leaves = sorted(RecordLeaf(key.place(name_of(one)), commit_record(digest(one), one, "criminal_booking", day)) for one in numbers)
    buckets: dict[int, list[RecordLeaf]] = {}
    for leaf in leaves:
        buckets.setdefault(bucket_of(leaf.place), []).append(leaf)
    return RecordTree({number: bucket_hash(held) for number, held in buckets.items()}), lambda place: buckets.get(bucket_of(place), [])


@cache
def sample_manifest() -> RecordManifest:
    return RecordManifest(
        agency=LAKESIDE,
        version=4,
        made_at=NOW,
        model="dlib",
        model_hash=digest("model"),
        dimensions=128,
        key_epoch=1,
        sources={"criminal_booking": 60},
        unsearchable={"dismissed": 3, "unchecked": 1},
        gallery_root=digest("templates"),
        records_root=tree_of(NUMBERS)[0].root,
        places_key=KEY.public_key,
        previous=digest("the one before"),
    )


def absence_of(number: str, manifest: RecordManifest | None = None) -> Absence:
    """What an honest holder gives for a number, or tries to give."""
    tree, bucket = tree_of(NUMBERS)
    place = KEY.place(name_of(number))
    data = (manifest or sample_manifest()).sign(NODE)
    return Absence(LAKESIDE, NOW, number, data, KEY.prove(name_of(number)), tree.path(place, bucket(place)))


@cache
def sample_report() -> PurgeReport:
    before = sample_manifest()
    data = before.sign(NODE)
    after = replace(
        before,
        version=5,
        sources={"criminal_booking": 57},
        unsearchable={"unchecked": 1},
        gallery_root=digest("templates after"),
        records_root=tree_of(NUMBERS[3:])[0].root,
        previous=hashlib.sha256(data).digest(),
    )
    return PurgeReport(LAKESIDE, NOW, {"dismissed": 3}, 0, 10, 13, data, after.sign(NODE))


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "name", "proof", "place"), VECTORS)
def test_places_are_those_of_the_standard(key: str, name: str, proof: str, place: str) -> None:
    places, alpha = PlacesKey(bytes.fromhex(key)), bytes.fromhex(name)
    assert places.place(alpha).hex() == place
    assert places.prove(alpha).hex() == proof
    assert places.public_key.check(alpha, bytes.fromhex(proof)).hex() == place


def test_no_changed_proof_shows_a_place() -> None:
    name, proof = b"LS-1", KEY.prove(b"LS-1")
    for place in range(len(proof)):
        changed = bytearray(proof)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(AbsenceError):
            KEY.public_key.check(name, bytes(changed))
    order = 2**252 + 27742317777372353535851937790883648493
    again = (int.from_bytes(proof[48:], "little") + order).to_bytes(32, "little")  # the same scalar in other bytes
    for wrong in (b"", proof[:-1], proof + b"\0", bytes(80), proof[:48] + again, bytes(32) + proof[32:], b"\1" + bytes(31) + proof[32:]):
        with pytest.raises(AbsenceError):
            KEY.public_key.check(name, wrong)
    with pytest.raises(AbsenceError):
        KEY.public_key.check(b"LS-2", proof)
    with pytest.raises(AbsenceError):
        PlacesKey(secret("other places")).public_key.check(name, proof)


def test_a_key_of_places_is_a_good_point_and_its_secret_shows_nothing() -> None:
    small = [bytes(32), b"\1" + bytes(31), bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")]
    for raw in (*small, b"\xff" * 32, b"", KEY.public_key.raw[:-1]):
        with pytest.raises(FieldError):
            PlacesPublicKey(raw)
    assert KEY.export_secret().hex() not in repr(KEY)
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(MisuseError):
            copied(KEY)
    with pytest.raises(MisuseError):
        PlacesKey(b"short")
    assert PlacesKey.generate().public_key != PlacesKey.generate().public_key


# --- the tree ---------------------------------------------------------------------------------------------------------


def dense(places: list[int], bits: int = 14) -> list[RecordLeaf]:
    """Leaves whose places differ in the first bits only: paths as long as those of millions of records."""
    return sorted(RecordLeaf((one << (256 - bits)).to_bytes(32), digest(f"record {one}")) for one in set(places))


def tree_over(leaves: list[RecordLeaf]) -> tuple[RecordTree, dict[int, list[RecordLeaf]]]:
    buckets: dict[int, list[RecordLeaf]] = {}
    for leaf in leaves:
        buckets.setdefault(bucket_of(leaf.place), []).append(leaf)
    return RecordTree({number: bucket_hash(held) for number, held in buckets.items()}), buckets


@settings(max_examples=40)
@given(st.lists(st.integers(0, 2**14 - 1), max_size=60), st.integers(0, 2**14 - 1))
def test_every_place_is_shown_held_or_absent_and_never_both(places: list[int], asked: int) -> None:
    leaves = dense(places)
    tree, buckets = tree_over(leaves)
    place = (asked << (256 - 14)).to_bytes(32)
    path = tree.path(place, buckets.get(bucket_of(place), []))
    assert path.root(place) == tree.root
    if any(one.place == place for one in leaves):
        with pytest.raises(AbsenceError, match="in the gallery"):
            path.check_absent(place, tree.root)
    else:
        path.check_absent(place, tree.root)


def test_the_path_of_another_place_does_not_hide_a_record() -> None:
    """The one who lies has the whole tree, and no end but the record itself that leads to the root along the record's own bits."""
    leaves = dense(list(range(0, 64, 2)))
    tree, buckets = tree_over(leaves)
    held = leaves[5]
    paths = [tree.path(one, buckets.get(bucket_of(one), [])) for one in ((n << 242).to_bytes(32) for n in range(64))]
    for path in paths:
        for end in (path.end, None, *leaves):
            for cut in range(len(path.siblings) + 1):
                with pytest.raises(AbsenceError):
                    TreePath(path.siblings[:cut], end).check_absent(held.place, tree.root)


def test_a_bucket_in_disorder_or_of_another_tree_is_a_mistake() -> None:
    leaves = dense([1, 2, 3])
    tree, _ = tree_over(leaves)
    with pytest.raises(MisuseError):
        bucket_hash(leaves[::-1])
    with pytest.raises(MisuseError):
        bucket_hash([leaves[0], leaves[0]])
    with pytest.raises(MisuseError):
        tree.path(leaves[0].place, leaves[:2])
    assert bucket_hash([]) == NO_RECORD
    with pytest.raises(AbsenceError, match="length"):
        TreePath((), None).check_absent(leaves[0].place, NO_RECORD)
    with pytest.raises(AbsenceError, match="length"):
        TreePath((b"",) * BUCKET_BITS, None).check_absent(leaves[0].place, NO_RECORD)


def test_a_leaf_says_nothing_without_its_salt() -> None:
    """Same record under two salts, and the key's owner alone has places: nobody tries numbers against a tree."""
    day = date(2020, 1, 1)
    assert commit_record(digest("a"), "LS-1", "criminal_booking", day) != commit_record(digest("b"), "LS-1", "criminal_booking", day)
    assert KEY.place(name_of("LS-1")) != PlacesKey(secret("other")).place(name_of("LS-1"))


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_signed() -> None:
    manifest = sample_manifest()
    read = RecordManifest.read(manifest.sign(NODE), ROSTER)
    assert read == manifest
    assert read.records == 60
    later = replace(manifest, version=9, made_at=NOW + timedelta(days=1), previous=NO_MANIFEST)
    assert later.says_as(manifest)
    assert not replace(later, unsearchable={}).says_as(manifest)


@pytest.mark.parametrize("signer", ["stranger", f"{EASTFIELD} node", f"{LAKESIDE} root 1"])
def test_nobody_else_speaks_for_a_gallery(signer: str) -> None:
    key = signing_key(signer)
    with pytest.raises(AgencyStatementError):
        RecordManifest.read(sample_manifest().sign(key), ROSTER)
    with pytest.raises(AgencyStatementError):
        Absence.read(absence_of("LS-99999").sign(key), ROSTER)
    with pytest.raises(AgencyStatementError):
        PurgeReport.read(sample_report().sign(key), ROSTER)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"model": ""},
        {"model_hash": b""},
        {"key_epoch": 0},
        {"sources": {"Criminal": 1}},
        {"sources": {"criminal_booking": 0}},
        {"sources": {f"class_{number}": 1 for number in range(33)}},
        {"unsearchable": {"dismissed": 61}},
        {"records_root": bytes(31)},
    ],
)
def test_a_manifest_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        replace(sample_manifest(), **changes)


DOCUMENTS: list[tuple[str, Callable[[], bytes], Callable[[bytes], object]]] = [
    ("manifest", lambda: sample_manifest().sign(NODE), lambda data: RecordManifest.read(data, ROSTER)),
    ("absence", lambda: absence_of("LS-99999").sign(NODE), lambda data: Absence.read(data, ROSTER)),
    ("report", lambda: sample_report().sign(NODE), lambda data: PurgeReport.read(data, ROSTER)),
]


@pytest.mark.rule("R25")
@pytest.mark.parametrize(("make", "read"), [one[1:] for one in DOCUMENTS], ids=[one[0] for one in DOCUMENTS])
def test_an_edited_document_is_refused(make: Callable[[], bytes], read: Callable[[bytes], object]) -> None:
    """R25: one bit of proof, report or manifest, a member altered, removed or added."""
    data = make()
    read(data)
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 7)
        with pytest.raises(CryptoError):
            read(bytes(changed))
    document = json.loads(data)
    for name, value in document["signed"].items():
        other: Any = value + 1 if isinstance(value, int) else value[::-1] + "A" if isinstance(value, str) else []
        for changed_content in ({**document["signed"], name: other}, {key: one for key, one in document["signed"].items() if key != name}):
            with pytest.raises(CryptoError):
                read(canonical_json({**document, "signed": changed_content}))
    with pytest.raises(FieldError):
        read(canonical_json({**document, "signed": {**document["signed"], "note": ""}}))
    for wrong in (b"", data[:-1], data + b"\n"):
        with pytest.raises(NotCanonicalError):
            read(wrong)


# --- absence ----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("R25")
def test_an_absent_number_is_proven_absent() -> None:
    for number in ("LS-99999", "", "ls-00001"):
        if number:
            absence, manifest = Absence.read(absence_of(number).sign(NODE), ROSTER)
            assert (absence.record_number, manifest) == (number, sample_manifest())
            assert absence.manifest_digest == hashlib.sha256(sample_manifest().sign(NODE)).digest()
    assert "LS-99999" not in repr(absence_of("LS-99999"))


@pytest.mark.rule("R25")
def test_a_held_record_is_not_proven_absent_by_its_own_holder() -> None:
    """R25: whoever has all keys and the whole tree signs what it likes; under the manifest's root no proof holds."""
    held = absence_of("LS-00007")
    with pytest.raises(AbsenceError, match="in the gallery"):
        Absence.read(held.sign(NODE), ROSTER)
    elsewhere = absence_of("LS-99999")
    other_key = PlacesKey(secret("other places"))
    for forged in (
        replace(held, path=elsewhere.path),  # the way to where nothing is
        replace(held, path=replace(held.path, end=None)),
        replace(held, path=TreePath(held.path.siblings[:BUCKET_BITS], None)),
        replace(held, path=replace(held.path, end=RecordLeaf(digest("another place"), digest("another record")))),
        replace(elsewhere, record_number="LS-00007"),  # an absent number's place
        replace(held, place_proof=elsewhere.place_proof, path=elsewhere.path),
        replace(held, place_proof=other_key.prove(name_of("LS-00007")), path=elsewhere.path),  # a key for the occasion
    ):
        with pytest.raises(AbsenceError):
            Absence.read(forged.sign(NODE), ROSTER)


def test_a_manifest_of_another_or_from_the_future_proves_nothing() -> None:
    other = replace(sample_manifest(), agency=EASTFIELD).sign(signing_key(f"{EASTFIELD} node"))
    early = absence_of("LS-99999", replace(sample_manifest(), made_at=NOW + timedelta(seconds=1)))
    unsigned = sample_manifest().sign(signing_key("stranger"))
    for forged in (replace(early, manifest_data=other), early, replace(early, manifest_data=unsigned)):
        with pytest.raises(AgencyStatementError):
            Absence.read(forged.sign(NODE), ROSTER)
    with pytest.raises(UnknownAgencyError):
        Absence.read(replace(absence_of("LS-99999"), agency=OVERSIGHT).sign(signing_key(f"{OVERSIGHT} node")), ROSTER)


def test_absence_is_under_the_root_that_was_signed() -> None:
    """The same number is in an earlier gallery: what is shown of one root is not shown of another."""
    tree, bucket = tree_of(NUMBERS[3:])
    place = KEY.place(name_of("LS-00001"))
    path, proof = tree.path(place, bucket(place)), KEY.prove(name_of("LS-00001"))
    check_number(KEY.public_key, "LS-00001", proof, path, tree.root)
    with pytest.raises(AbsenceError):
        check_number(KEY.public_key, "LS-00001", proof, path, sample_manifest().records_root)


# --- the report of a purge --------------------------------------------------------------------------------------------


def test_a_report_is_read_with_its_manifests() -> None:
    report, before, after = PurgeReport.read(sample_report().sign(NODE), ROSTER)
    assert (report, report.total, before.records, after.records) == (sample_report(), 3, 60, 57)
    nothing = PurgeReport(LAKESIDE, NOW, {}, 0, 13, 13, report.after_data, report.after_data)
    assert PurgeReport.read(nothing.sign(NODE), ROSTER)[0].total == 0


@pytest.mark.rule("R25")
def test_a_report_that_does_not_add_up_is_refused_though_the_node_signed_it() -> None:
    report = sample_report()
    after = RecordManifest.read(report.after_data, ROSTER)
    before = RecordManifest.read(report.before_data, ROSTER)
    eastern = replace(after, agency=EASTFIELD).sign(signing_key(f"{EASTFIELD} node"))
    for forged in (
        replace(report, expunged={"dismissed": 2}),
        replace(report, expunged={"dismissed": 3, "juvenile": 1}),
        replace(report, expunged={}),
        replace(report, ledger_after=12),
        replace(report, before_data=report.after_data),
        replace(report, after_data=report.before_data),
        replace(report, after_data=eastern),
        replace(report, after_data=replace(after, version=4).sign(NODE)),
        replace(report, after_data=replace(after, previous=digest("another")).sign(NODE)),
        replace(report, after_data=replace(after, records_root=before.records_root).sign(NODE)),
        replace(report, after_data=replace(after, gallery_root=before.gallery_root).sign(NODE)),
        replace(report, after_data=after.sign(signing_key("stranger"))),
    ):
        with pytest.raises(AgencyStatementError):
            PurgeReport.read(forged.sign(NODE), ROSTER)


def test_documents_carry_one_another_as_bytes() -> None:
    """What is embedded is read anew: a manifest that is no canonical document is refused inside as it is outside."""
    spaced = json.dumps(json.loads(sample_manifest().sign(NODE)), indent=1).encode()
    with pytest.raises(NotCanonicalError):
        Absence.read(replace(absence_of("LS-99999"), manifest_data=spaced).sign(NODE), ROSTER)
    assert b64url_decode(b64url_encode(spaced)) == spaced
