"""`log verify BUNDLE`: what an honest bundle shows, and one forged or broken for every kind of failure, each ended by one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agency_node.cli import app
from agency_node.errors import RequestError
from agency_node.log_bundle import ROSTER_FILE, Bundle, write_bundle
from agency_node.verification import ReadLog
from crypto.canonical import AgencyId
from crypto.checkpoint import Checkpoint, SignedCheckpoint, sign_checkpoint
from crypto.entries import EntryKind, LogEntry
from crypto.errors import FieldError
from crypto.keys import SigningKey
from crypto.ledger import MerkleTree, leaf_hash
from crypto.log_evidence import LogEvidence, ShownAct
from crypto.roster import Roster
from crypto.roster_entries import Agency, AgencyRole
from crypto.tiles import pack_entries, tiles_of, unpack_entries
from crypto.witness import WitnessKey
from tests.node_samples import LOG_SECRET, cosignature, leaf, other_leaves
from tests.sample_federation import (
    BOARD,
    LAKESIDE,
    NORTHPORT,
    NORTHPORT_BOARD,
    OVERSIGHT,
    digest,
    root_set,
    roster,
    sign_roster,
    signing_key,
)
from tests.tile_reader import TileReader

AT = datetime.now(UTC).replace(microsecond=0)
"""The command's clock is the machine's."""
GRANT = digest("grant")
FINGERPRINT = root_set().fingerprint.hex()
SEARCH = [
    leaf(EntryKind.GRANT),
    leaf(EntryKind.ANSWER, author=LAKESIDE),
    leaf(EntryKind.RELEASE),
    leaf(EntryKind.DISCLOSURE, author=LAKESIDE),
]
LOG = [*other_leaves(300), *SEARCH, *other_leaves(2, "later")]
ACTS = (
    ShownAct(GRANT, EntryKind.ANSWER, LAKESIDE),
    ShownAct(GRANT, EntryKind.DISCLOSURE, LAKESIDE),
    ShownAct(GRANT, EntryKind.GRANT),
    ShownAct(GRANT, EntryKind.RELEASE),
)
EVIDENCE = LogEvidence(LAKESIDE, AT, len(LOG), len(LOG), ACTS)


def in_force(**changes: object) -> Roster:
    return replace(roster(), **{"expires": AT + timedelta(days=30), **changes})  # type: ignore[arg-type]


def note_of(
    leaves: Sequence[bytes], *agencies: AgencyId, at: datetime = AT - timedelta(seconds=5), key: SigningKey = LOG_SECRET
) -> SignedCheckpoint:
    """What the log signs over these leaves, cosigned by two of the three witnesses unless others are named."""
    tree = MerkleTree(map(leaf_hash, leaves))
    note = sign_checkpoint(Checkpoint(roster().log.origin, tree.size, tree.root()), key)
    if key is not LOG_SECRET:
        return note
    return note.with_signatures(cosignature(note, agency, at) for agency in agencies or (BOARD, OVERSIGHT))


class UncheckedLog(ReadLog):
    """What a log that is not ours writes: nothing is refused."""

    def append(self, data: bytes) -> LogEntry:
        self.tree.append(leaf_hash(data))
        self.leaves.append(data)
        return LogEntry.from_bytes(LOG[0])


def write(folder: Path, leaves: Sequence[bytes] = LOG, note: SignedCheckpoint | None = None, content: Roster | None = None) -> Path:
    read = UncheckedLog()
    for data in leaves:
        read.append(data)
    write_bundle(folder, note or note_of(leaves), read, sign_roster(content or in_force()))
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bundles") / "honest")


@pytest.fixture
def bundle(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "bundle"))


def verify(folder: Path, *options: str, fingerprint: str = FINGERPRINT) -> tuple[int, dict[str, object], str]:
    """Exit code, the object that `--json` prints, and the sentence on standard error."""
    done = CliRunner().invoke(app, ["log", "verify", str(folder), "--root-fingerprint", fingerprint, "--json", *options])
    return done.exit_code, json.loads(done.stdout.splitlines()[-1]), done.stderr


def refused(folder: Path, name: str, *options: str, fingerprint: str = FINGERPRINT) -> str:
    code, said, sentence = verify(folder, *options, fingerprint=fingerprint)
    assert (said["ok"], said["error"]) == (False, name), said
    assert code != 0
    assert sentence.startswith("sealmatch: ")
    assert sentence.count("\n") == 1
    return sentence


def evidence_file(folder: Path, evidence: LogEvidence = EVIDENCE, key: str | None = None) -> str:
    path = folder / "evidence.json"
    path.write_bytes(evidence.sign(signing_key(key or f"{evidence.agency} node")))
    return str(path)


# --- an honest bundle -------------------------------------------------------------------------------------------------


def test_an_honest_bundle_holds_and_is_counted(honest: Path, tmp_path: Path) -> None:
    earlier = write(tmp_path / "earlier", LOG[:301])
    code, said, _ = verify(honest, "--seen", str(earlier), "--seen", str(honest / "checkpoint"), "--evidence", evidence_file(tmp_path))
    assert (code, said["ok"]) == (0, True)
    report = said["report"]
    assert isinstance(report, dict)
    assert report["size"] == len(LOG)
    assert report["kinds"] == {"answer": 303, "disclosure": 1, "grant": 1, "release": 1}
    assert (report["witnesses"], report["acts"]) == (2, 4)
    shown = CliRunner().invoke(app, ["log", "verify", str(honest), "--root-fingerprint", FINGERPRINT])
    assert f"{len(LOG)} entries verified, 2 witnesses" in shown.stdout
    assert f"root {report['root']}, cosigned" in shown.stdout


def test_another_reader_reads_the_bundle(honest: Path) -> None:
    reader = TileReader(lambda path: (honest / path).read_bytes())
    head = reader.checkpoint()
    reader.check_log_signature(head, LOG_SECRET.verifying_key.raw)
    assert (head.size, head.root) == (len(LOG), reader.root())
    assert reader.entries() == LOG


def test_a_bundle_holds_the_public_log_and_the_roster_and_nothing_else(honest: Path) -> None:
    files = {str(path.relative_to(honest)) for path in honest.rglob("*") if path.is_file()}
    assert files == {"checkpoint", ROSTER_FILE, *map(str, tiles_of(len(LOG)))}


def test_a_bundle_is_not_written_over_anything(honest: Path) -> None:
    with pytest.raises(RequestError, match="not empty"):
        write(honest)


def test_an_old_bundle_still_verifies_when_its_roster_has_expired(tmp_path: Path) -> None:
    """What counts is that the roster was in force when the witnesses signed."""
    long_ago = AT - timedelta(days=300)
    content = in_force(expires=long_ago + timedelta(days=1))
    assert verify(write(tmp_path / "old", LOG, note_of(LOG, at=long_ago), content))[0] == 0
    late = write(tmp_path / "late", LOG, note_of(LOG, at=long_ago + timedelta(days=2)), content)
    refused(late, "roster-expired")


def test_the_verifier_may_bring_its_own_roster(bundle: Path, tmp_path: Path) -> None:
    (bundle / ROSTER_FILE).write_bytes(b"another")
    refused(bundle, "not-canonical")
    own = tmp_path / "roster.json"
    own.write_bytes(sign_roster(in_force()))
    assert verify(bundle, "--roster", str(own))[0] == 0


# --- files that were changed ------------------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    before = path.read_bytes()
    after = change(before)
    assert after != before
    path.write_bytes(after)


def changed_leaf(leaves: list[bytes], at: int) -> bytes:
    """Bundle content with another valid entry at one place."""
    return pack_entries([*leaves[:at], leaf(EntryKind.ANSWER, digest("forged")), *leaves[at + 1 :]])


ENTRIES_0, ENTRIES_1, HASHES_0 = "tile/entries/000", "tile/entries/001.p/50", "tile/0/000"
FORGED_HASH = leaf_hash(leaf(EntryKind.ANSWER, digest("forged")))

TAMPERINGS: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "a bit of an entry": (ENTRIES_0, lambda data: data.replace(b'"subject":"', b'"subjecu":"', 1), "field-invalid"),
    "an entry is exchanged for another": (ENTRIES_0, lambda data: changed_leaf(unpack_entries(data, 256), 7), "tile-mismatch"),
    "an entry is left out": (ENTRIES_1, lambda data: pack_entries(unpack_entries(data, 50)[:-1]), "tile-mismatch"),
    "an entry is added": (ENTRIES_1, lambda data: data + pack_entries([LOG[0]]), "tile-mismatch"),
    "a hash of a tile": (HASHES_0, lambda data: bytes([data[0] ^ 1]) + data[1:], "tile-mismatch"),
    "a hash of an upper tile": ("tile/1/000.p/1", lambda data: bytes([data[0] ^ 1]) + data[1:], "tile-mismatch"),
    "a tile is cut": (HASHES_0, lambda data: data[:-32], "tile-mismatch"),
    "the size": ("checkpoint", lambda data: data.replace(b"\n306\n", b"\n305\n"), "checkpoint-invalid"),
    "the origin": ("checkpoint", lambda data: data.replace(b"log.example", b"lag.example"), "checkpoint-invalid"),
    "a cosignature": ("checkpoint", lambda data: data[:-40] + b"AAAA" + data[-36:], "witnesses-missing"),
    "an unread format": (ENTRIES_0, lambda data: data.replace(b"log-entry/1", b"log-entry/2", 1), "other-version"),
    "an entry of nothing": (ENTRIES_1, lambda data: pack_entries([b"", *unpack_entries(data, 50)[1:]]), "not-canonical"),
    "the roster": (ROSTER_FILE, lambda data: data.replace(b"compliance desk", b"compliance dusk", 1), "roster-signature-invalid"),
}


@pytest.mark.parametrize("case", TAMPERINGS)
def test_a_bundle_that_was_tampered_with_is_refused(bundle: Path, case: str) -> None:
    file, change, name = TAMPERINGS[case]
    edit(bundle / file, change)
    refused(bundle, name)


def test_an_entry_exchanged_together_with_every_hash_above_it_is_not_under_the_root(bundle: Path) -> None:
    forged = write(bundle.parent / "forged", [*LOG[:7], leaf(EntryKind.ANSWER, digest("forged")), *LOG[8:]], note_of(LOG))
    refused(forged, "not-in-log")


@pytest.mark.parametrize("file", ["checkpoint", ROSTER_FILE, ENTRIES_0, "tile/0/001.p/50", "tile/1/000.p/1"])
def test_a_bundle_that_lacks_a_file_is_not_whole(bundle: Path, file: str) -> None:
    (bundle / file).unlink()
    assert "not whole" in refused(bundle, "request")


def test_an_export_that_broke_off_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "half" / "tile" / "0").mkdir(parents=True)
    refused(tmp_path / "half", "request")


# --- signatures -------------------------------------------------------------------------------------------------------


def test_without_the_logs_signature_it_is_no_head(tmp_path: Path) -> None:
    other = note_of(LOG, key=signing_key("another log"))
    cosigned = other.with_signatures(note_of(LOG).signatures[1:])
    refused(write(tmp_path / "b", note=cosigned), "checkpoint-invalid")


@pytest.mark.parametrize("agencies", [[BOARD], [OVERSIGHT], [NORTHPORT_BOARD]])
def test_fewer_witnesses_than_a_majority_are_not_enough(tmp_path: Path, agencies: list[AgencyId]) -> None:
    sentence = refused(write(tmp_path / "b", note=note_of(LOG, *agencies)), "witnesses-missing")
    assert "1 outside agencies, 2 are needed" in sentence


def test_of_five_witnesses_two_are_no_majority(tmp_path: Path) -> None:
    """The roster has two witnesses more; the same head that was enough for three is not enough."""
    content = in_force()
    more = {LAKESIDE: "witness", NORTHPORT: "witness"}
    entries = tuple(with_witness(entry) if entry.agency_id in more else entry for entry in content.agencies)
    sentence = refused(write(tmp_path / "b", content=replace(content, agencies=entries)), "witnesses-missing")
    assert "3 are a majority" in sentence


def with_witness(entry: Agency) -> Agency:
    key = WitnessKey(f"{entry.agency_id}.example.org/witness", signing_key(f"{entry.agency_id} witness").verifying_key, entry.agency_id)
    return replace(entry, roles=tuple(sorted((*entry.roles, AgencyRole.WITNESS))), witness=key)


def test_no_witness_at_all(tmp_path: Path) -> None:
    bare = replace(note_of(LOG), signatures=note_of(LOG).signatures[:1])
    refused(write(tmp_path / "b", note=bare), "witnesses-missing")


def test_witnesses_that_signed_far_apart_do_not_make_a_majority(tmp_path: Path) -> None:
    """Each saw this head, but never both within ten minutes: one may have been shown another in between."""
    note = note_of(LOG, BOARD)
    apart = note.with_signatures([cosignature(note, OVERSIGHT, AT - timedelta(minutes=11))])
    refused(write(tmp_path / "b", note=apart), "checkpoint-stale")


def test_a_head_of_the_future_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "b", note=note_of(LOG, at=AT + timedelta(minutes=30))), "checkpoint-stale")


def test_another_root_set_than_the_published_one_is_refused(bundle: Path) -> None:
    refused(bundle, "roster-other-root", fingerprint=FINGERPRINT[:-1] + ("0" if FINGERPRINT[-1] != "0" else "1"))
    refused(bundle, "request", fingerprint="12")
    assert CliRunner().invoke(app, ["log", "verify", str(bundle)]).exit_code == 2


# --- what was seen before ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 200, 301, len(LOG)])
def test_a_fork_that_somebody_was_shown_is_caught_whatever_its_size(honest: Path, tmp_path: Path, size: int) -> None:
    """The log signed both, and no witness of the other one is needed."""
    shown = tmp_path / "shown-to-me"
    shown.write_bytes(note_of([*LOG[: size - 1], leaf(EntryKind.ANSWER, digest("fork"))], BOARD).to_bytes())
    refused(honest, "log-fork", "--seen", str(shown))


def test_an_earlier_bundle_of_another_history_is_a_fork(honest: Path, tmp_path: Path) -> None:
    refused(honest, "log-fork", "--seen", str(write(tmp_path / "other", [*other_leaves(5), leaf(EntryKind.GRANT)])))


def test_a_seen_head_that_the_log_did_not_sign_proves_nothing(honest: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.write_bytes(note_of(LOG[:5], key=signing_key("somebody")).to_bytes())
    refused(honest, "checkpoint-invalid", "--seen", str(shown))


def test_a_seen_head_beyond_the_bundle_asks_for_a_newer_bundle(honest: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.write_bytes(note_of([*LOG, *other_leaves(1, "newer")]).to_bytes())
    assert "export the log anew" in refused(honest, "request", "--seen", str(shown))


# --- order that anybody sees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leaves",
    [
        [leaf(EntryKind.RELEASE), leaf(EntryKind.GRANT)],
        [leaf(EntryKind.GRANT), leaf(EntryKind.RELEASE), leaf(EntryKind.RELEASE, digest("never granted"))],
        [leaf(EntryKind.GRANT), leaf(EntryKind.GRANT, salt="again")],
        [leaf(EntryKind.GRANT), leaf(EntryKind.GRANT, digest("other")), leaf(EntryKind.RELEASE), leaf(EntryKind.RELEASE, salt="again")],
    ],
    ids=["release first", "more releases than grants", "granted twice", "released twice"],
)
def test_a_release_without_a_grant_before_it_is_refused_though_all_have_signed(tmp_path: Path, leaves: list[bytes]) -> None:
    refused(write(tmp_path / "b", leaves), "entry-order")


# --- no grant, release or disclosure without its entry ----------------------------------------------------------------


@pytest.mark.rule("R76")
@pytest.mark.parametrize("missing", range(4), ids=["grant", "answer", "release", "disclosure"])
def test_an_act_whose_entry_was_never_made_is_caught(tmp_path: Path, missing: int) -> None:
    """R76. Log, witnesses and tiles are all in order: the entry was left out before anybody signed."""
    search = [*SEARCH[:missing], *SEARCH[missing + 1 :]]
    if missing == 0:
        search.insert(0, leaf(EntryKind.GRANT, digest("somebody else's")))
    leaves = [*other_leaves(300), *search, *other_leaves(2, "later"), *other_leaves(1, "in its place")]
    assert verify(write(tmp_path / "b", leaves))[0] == 0  # the log alone cannot show it
    evidence = replace(EVIDENCE, log_before=len(leaves), log_after=len(leaves))
    refused(tmp_path / "b", "not-in-log", "--evidence", evidence_file(tmp_path, evidence))


def test_a_second_disclosure_needs_a_second_entry(honest: Path, tmp_path: Path) -> None:
    twice = replace(EVIDENCE, acts=(ACTS[0], replace(ACTS[1], count=2), *ACTS[2:]))
    assert "1 of 2 disclosure entries" in refused(honest, "not-in-log", "--evidence", evidence_file(tmp_path, twice))


@pytest.mark.parametrize("order", [[0, 1, 3, 2], [1, 0, 2, 3]], ids=["disclosed before the release", "answered before the grant"])
def test_an_entry_before_the_one_that_it_needs_is_caught_by_who_is_shown_the_grant(tmp_path: Path, order: list[int]) -> None:
    """To the public they are noise; the subject ties them together for whoever has the grant."""
    leaves = [*other_leaves(300), *(SEARCH[place] for place in order), *other_leaves(2, "later")]
    assert verify(write(tmp_path / "b", leaves))[0] == 0
    refused(tmp_path / "b", "entry-order", "--evidence", evidence_file(tmp_path))


def test_a_release_before_its_own_grant_behind_anothers_is_caught_by_who_is_shown_the_grant(tmp_path: Path) -> None:
    leaves = [leaf(EntryKind.GRANT, digest("other")), SEARCH[2], SEARCH[0], SEARCH[1], SEARCH[3], *other_leaves(301)]
    assert verify(write(tmp_path / "b", leaves))[0] == 0
    refused(tmp_path / "b", "entry-order", "--evidence", evidence_file(tmp_path))


@pytest.mark.parametrize("left_out", [0, 1], ids=["answer", "disclosure"])
def test_a_party_that_leaves_out_an_act_of_its_own_is_caught(honest: Path, tmp_path: Path, left_out: int) -> None:
    less = replace(EVIDENCE, acts=(*ACTS[:left_out], *ACTS[left_out + 1 :]))
    refused(honest, "evidence-mismatch", "--evidence", evidence_file(tmp_path, less))
    later = replace(less, log_before=300)  # what was entered after the evidence was collected is nothing it could show
    assert verify(honest, "--evidence", evidence_file(tmp_path, later))[0] == 0


def test_evidence_changed_on_its_way_or_signed_by_another_is_refused(honest: Path, tmp_path: Path) -> None:
    path = Path(evidence_file(tmp_path))
    edit(path, lambda data: data.replace(GRANT.hex().encode(), digest("another").hex().encode()))
    refused(honest, "evidence-mismatch", "--evidence", str(path))
    refused(honest, "evidence-mismatch", "--evidence", evidence_file(tmp_path, EVIDENCE, f"{NORTHPORT} node"))
    refused(honest, "agency-unknown", "--evidence", evidence_file(tmp_path, replace(EVIDENCE, agency=AgencyId("nobody"), acts=())))


def test_evidence_of_a_longer_log_asks_for_a_newer_bundle(honest: Path, tmp_path: Path) -> None:
    refused(honest, "evidence-mismatch", "--evidence", evidence_file(tmp_path, replace(EVIDENCE, log_after=len(LOG) + 1)))


def test_evidence_names_each_act_once_with_the_author_that_it_needs() -> None:
    for wrong in (
        lambda: replace(EVIDENCE, acts=(*ACTS, ACTS[-1])),
        lambda: replace(EVIDENCE, acts=ACTS[::-1]),
        lambda: replace(EVIDENCE, log_before=len(LOG) + 1),
        lambda: ShownAct(GRANT, EntryKind.GRANT, LAKESIDE),
        lambda: ShownAct(GRANT, EntryKind.ANSWER),
        lambda: ShownAct(GRANT, EntryKind.RELEASE, count=0),
        lambda: ShownAct(GRANT, EntryKind.REFUSAL),
        lambda: ShownAct(GRANT[1:], EntryKind.GRANT),
    ):
        with pytest.raises(FieldError):
            wrong()
    assert LogEvidence.read(EVIDENCE.sign(signing_key(f"{LAKESIDE} node")), roster()) == EVIDENCE
    assert GRANT.hex() not in repr(EVIDENCE)


def test_a_folder_that_is_read_is_not_trusted_to_be_small(bundle: Path) -> None:
    (bundle / "checkpoint").write_bytes(b"x" * (70 << 10))
    with pytest.raises(RequestError, match="longer"):
        Bundle(bundle).checkpoint()
