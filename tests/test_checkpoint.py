"""Signed checkpoints and cosignatures: a published note of a real log, the witness's duty, the rule of counting, and forgeries of each."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from crypto.canonical import AgencyId
from crypto.checkpoint import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    NOTE_ED25519,
    Checkpoint,
    LogKey,
    NoteSignature,
    SignedCheckpoint,
    check_continues,
    check_log_signature,
    key_id,
    sign_checkpoint,
)
from crypto.errors import (
    CheckpointError,
    ConsistencyError,
    CryptoError,
    MisuseError,
    OversizedError,
    StaleCheckpointError,
    WitnessError,
)
from crypto.keys import SigningKey, VerifyingKey
from crypto.ledger import EMPTY_ROOT, MAX_TREE_SIZE, MerkleTree, leaf_hash
from crypto.witness import (
    COSIGNATURE_V1,
    MAX_AGE_S,
    MAX_CLOCK_SKEW_S,
    MIN_WITNESSES,
    CheckpointPolicy,
    WitnessKey,
    check_checkpoint,
    cosign,
)

# A checkpoint of a public Certificate Transparency log with its two keys, as in the tests of the Python package tlog-scales; the witness's
# key stands also in transparency-dev/formats, note/note_cosigv1_test.go. One name signed it twice, with keys of different types.
PUBLISHED_NOTE = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
""".encode()  # noqa: E501 - lines of the note
PUBLISHED_LOG = LogKey(
    "arche2025h1.staging.ct.transparency.dev",
    VerifyingKey(bytes.fromhex("4d2f1e6946092fcf74df1bd8e68698aa6b2c8f0728cf9d278ef6c60158875e5f")),
)
PUBLISHED_WITNESS = WitnessKey(
    "remora.n621.de",
    VerifyingKey(bytes.fromhex("ebcdeb78e7fdb2ef9227b2c1ef11e94600b55b4d6d9a57877e31ee89e59adc36")),
    AgencyId("remora"),
)
PUBLISHED_TIME = datetime(2026, 5, 23, 21, 50, 24, tzinfo=UTC)

ORIGIN = "log.example.org/2026"
NOW = datetime(2026, 11, 23, 16, 0, 0, tzinfo=UTC)
BROKER, REQUESTER, CUSTODIAN, COUNCIL, COUNTY = (AgencyId(name) for name in ("broker", "northport-pd", "oversight", "council", "county"))


def secret(number: int) -> SigningKey:
    return SigningKey.from_secret(number.to_bytes(32, "big"))


LOG_SECRET = secret(1)
LOG = LogKey(ORIGIN, LOG_SECRET.verifying_key)
SECRETS = {agency: secret(number) for number, agency in enumerate((BROKER, REQUESTER, CUSTODIAN, COUNCIL, COUNTY), 2)}
WITNESSES = {agency: WitnessKey(f"{agency}.example/witness", key.verifying_key, agency) for agency, key in SECRETS.items()}
TREE = MerkleTree(leaf_hash(b"%d" % number) for number in range(20))
POLICY = CheckpointPolicy(
    LOG,
    tuple(WITNESSES.values()),
    operator=BROKER,
    parties=frozenset({REQUESTER}),
    holders=frozenset({COUNTY}),
    custodians=frozenset({CUSTODIAN}),
)
"""Of five witnesses three are a majority; the broker's does not count."""


def head(size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, TREE.root(size))


def signed(size: int = 20) -> SignedCheckpoint:
    return sign_checkpoint(head(size), LOG_SECRET)


def cosignature(agency: AgencyId, note: SignedCheckpoint, age_s: float = 5) -> NoteSignature:
    return cosign(
        note,
        log=LOG,
        previous=Checkpoint.empty(ORIGIN),
        proof=(),
        witness=WITNESSES[agency],
        key=SECRETS[agency],
        now=NOW - timedelta(seconds=age_s),
    )


def cosigned(*agencies: AgencyId, age_s: float = 5) -> SignedCheckpoint:
    note = signed()
    return note.with_signatures(cosignature(agency, note, age_s) for agency in agencies)


# --- the published note --------------------------------------------------------------------------------------------


def test_a_published_checkpoint_reads_and_writes_the_same() -> None:
    note = SignedCheckpoint.from_bytes(PUBLISHED_NOTE)
    assert note.to_bytes() == PUBLISHED_NOTE
    assert note.checkpoint.size == 1432088532
    assert len(note.signatures) == 6


def test_the_published_keys_have_the_published_ids() -> None:
    assert key_id(PUBLISHED_LOG.origin, NOTE_ED25519, PUBLISHED_LOG.key).hex() == "ba2f06c0"
    assert key_id(PUBLISHED_WITNESS.name, COSIGNATURE_V1, PUBLISHED_WITNESS.key).hex() == "da77ade7"
    example = VerifyingKey(bytes.fromhex("e932791ae6e7a840a46164c904786426d5e7821dd8b29a00d61cae72afdd4da4"))  # C2SP signed-note
    assert key_id("example.com/foo", NOTE_ED25519, example).hex() == "530d903a"


def test_the_published_signature_and_cosignature_verify() -> None:
    note = SignedCheckpoint.from_bytes(PUBLISHED_NOTE)
    check_log_signature(note, PUBLISHED_LOG)
    policy = CheckpointPolicy(PUBLISHED_LOG, (PUBLISHED_WITNESS,), BROKER, frozenset(), frozenset(), frozenset({PUBLISHED_WITNESS.agency}))
    with pytest.raises(WitnessError, match="1 outside agencies"):  # it verified and was counted: one is not enough
        check_checkpoint(note, policy, now=PUBLISHED_TIME)
    with pytest.raises(WitnessError, match="0 outside agencies"):  # its time was read from the right place
        check_checkpoint(note, policy, now=PUBLISHED_TIME - timedelta(seconds=MAX_CLOCK_SKEW_S + 1))
    smaller = replace(note, checkpoint=replace(note.checkpoint, size=42))
    with pytest.raises(CheckpointError):
        check_log_signature(smaller, PUBLISHED_LOG)


# --- the note's form -----------------------------------------------------------------------------------------------


def test_a_checkpoint_is_three_lines() -> None:
    assert Checkpoint.empty(ORIGIN).body() == b"log.example.org/2026\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    assert Checkpoint.from_body(head(7).body()) == head(7)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        head(7).body()[:-1],
        head(7).body() + b"extension\n",
        head(7).body() + b"extension",
        head(7).body() + b"\n",
        b"\n" + head(7).body(),
        head(7).body().replace(b"\n7\n", b"\n07\n"),
        head(7).body().replace(b"\n7\n", b"\n+7\n"),
        head(7).body().replace(b"\n7\n", b"\n-7\n"),
        head(7).body().replace(b"\n7\n", b"\n7 \n"),
        head(7).body().replace(b"\n7\n", b"\n\n"),
        head(7).body().replace(b"\n7\n", "\n٧\n".encode()),
        head(7).body().replace(b"\n7\n", b"\n%d\n" % (MAX_TREE_SIZE + 1)),
        head(7).body().replace(b"\n7\n", b"\n0\n"),
        head(7).body().replace(b"\n", b"\r\n"),
        head(7).body().replace(b"=\n", b"\n"),
        head(7).body().replace(b"=\n", b"==\n"),
        b"log example\n7\n" + head(7).body().split(b"\n")[2] + b"\n",
        b"log+example\n7\n" + head(7).body().split(b"\n")[2] + b"\n",
        b"l" * 129 + b"\n7\n" + head(7).body().split(b"\n")[2] + b"\n",
        b"log.example\n7\nAAAA\n",
    ],
)
def test_every_other_spelling_of_a_checkpoint_is_refused(body: bytes) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.from_body(body)


def test_base64_has_one_spelling() -> None:
    text = head(7).body().decode()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = text[-3]  # of its 6 bits 2 are not in the root
    loose = text[:-3] + alphabet[alphabet.index(last) ^ 1] + text[-2:]
    for wrong in (loose, text[:-2] + "\n=\n", text.replace("=", "\u00e9")):
        with pytest.raises(CheckpointError):
            Checkpoint.from_body(wrong.encode())


def test_fields_out_of_range_make_no_checkpoint() -> None:
    for origin, size, root in (
        ("", 1, EMPTY_ROOT),
        ("two\nlines", 1, EMPTY_ROOT),
        ("caf\u00e9", 1, EMPTY_ROOT),
        (ORIGIN, -1, EMPTY_ROOT),
        (ORIGIN, MAX_TREE_SIZE + 1, EMPTY_ROOT),
        (ORIGIN, 1, EMPTY_ROOT[:-1]),
        (ORIGIN, 0, TREE.root()),
    ):
        with pytest.raises(CheckpointError):
            Checkpoint(origin, size, root)
    with pytest.raises(CheckpointError):
        LogKey("a b", LOG.key)
    with pytest.raises(CheckpointError):
        WitnessKey("a+b", LOG.key, COUNTY)


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note[:-1],
        lambda note: note + b"\n",
        lambda note: note + b"text",
        lambda note: note.replace(b"\n\n", b"\n"),
        lambda note: note.replace(b"\n\n", b"\n\n\n"),
        lambda note: note[: note.index(b"\n\n") + 2],
        lambda note: note.replace("—".encode(), b"-", 1),
        lambda note: note.replace("— ".encode(), "—".encode(), 1),
        lambda note: note.replace("— ".encode(), "—  ".encode(), 1),
        lambda note: note.replace(b"county.example", b"county\xc2\xa0example"),
        lambda note: note.replace(b"county.example", b"county+example"),
        lambda note: note.replace(b"county.example", b"county\texample"),
        lambda note: note.replace(b"county.example", b"county\xff"),
        lambda note: note.replace(b"/witness ", b"/witness  "),
        lambda note: note + note[note.rindex("—".encode()) :],
        lambda note: note + "— name\n".encode(),
        lambda note: note + "— name AAAAAA==\n".encode(),
        lambda note: note + "— name AAAA\n".encode(),
        lambda note: note + "— name AAAAAAB=\n".encode(),
        lambda note: note + b"".join("— name%d AAAAAAA=\n".encode() % number for number in range(MAX_SIGNATURES)),
    ],
)
def test_every_other_form_of_a_note_is_refused(change: object) -> None:
    assert callable(change)
    note = cosigned(COUNTY, CUSTODIAN).to_bytes()
    changed = change(note)
    assert changed != note
    with pytest.raises(CheckpointError):
        SignedCheckpoint.from_bytes(changed)


def test_signature_lines_out_of_their_form_cannot_be_built() -> None:
    for name, identity, signature in (
        ("", b"\x00" * 4, b"s"),
        ("two names", b"\x00" * 4, b"s"),
        ("a\u2003b", b"\x00" * 4, b"s"),
        ("bell\x07", b"\x00" * 4, b"s"),
        ("a+b", b"\x00" * 4, b"s"),
        ("name", b"\x00" * 3, b"s"),
        ("name", b"\x00" * 5, b"s"),
        ("name", b"\x00" * 4, b""),
    ):
        with pytest.raises(CheckpointError):
            NoteSignature(name, identity, signature)


def test_a_note_has_one_to_thirty_two_signatures() -> None:
    lines = tuple(NoteSignature(f"name{number}", b"\x00" * 4, b"s") for number in range(33))
    assert MAX_SIGNATURES == 32
    assert SignedCheckpoint.from_bytes(SignedCheckpoint(head(7), lines[:32]).to_bytes()).signatures == lines[:32]
    for wrong in ((), lines):
        with pytest.raises(CheckpointError):
            SignedCheckpoint(head(7), wrong)


def test_an_oversized_note_is_not_parsed() -> None:
    note = signed().to_bytes()
    with pytest.raises(OversizedError):
        SignedCheckpoint.from_bytes(note + b"\x00" * MAX_NOTE_BYTES)
    with pytest.raises(OversizedError):
        SignedCheckpoint.from_bytes(note, max_bytes=len(note) - 1)
    assert SignedCheckpoint.from_bytes(note, max_bytes=len(note)) == signed()


def test_unknown_signers_are_carried_along() -> None:
    extra = NoteSignature("someone.пример/k", b"\x01\x02\x03\x04", b"of a type that nobody here knows")
    note = cosigned(COUNTY, CUSTODIAN, COUNCIL).with_signatures([extra])
    assert SignedCheckpoint.from_bytes(note.to_bytes()) == note
    check_checkpoint(note, POLICY, now=NOW)


def test_a_newer_cosignature_replaces_the_older() -> None:
    note = cosigned(COUNTY, CUSTODIAN, COUNCIL, age_s=700)
    with pytest.raises(StaleCheckpointError):
        check_checkpoint(note, POLICY, now=NOW)
    renewed = note.with_signatures(cosignature(agency, note) for agency in (COUNTY, CUSTODIAN, COUNCIL))
    assert len(renewed.signatures) == len(note.signatures)
    check_checkpoint(renewed, POLICY, now=NOW)


# --- the witness's duty --------------------------------------------------------------------------------------------


def test_a_witness_cosigns_what_continues_what_it_signed() -> None:
    line = cosign(
        signed(20),
        log=LOG,
        previous=head(13),
        proof=TREE.consistency_proof(13, 20),
        witness=WITNESSES[COUNTY],
        key=SECRETS[COUNTY],
        now=NOW.astimezone(timezone(timedelta(hours=5))),
    )
    assert line.signature[:8] == int(NOW.timestamp()).to_bytes(8, "big")
    message = b"cosignature/v1\ntime %d\n" % int(NOW.timestamp()) + head(20).body()
    WITNESSES[COUNTY].key.check(line.signature[8:], message)
    again = cosign(signed(20), log=LOG, previous=head(20), proof=(), witness=WITNESSES[COUNTY], key=SECRETS[COUNTY], now=NOW)
    assert again == line  # the same head is cosigned again as time passes


def test_a_witness_refuses_everything_else() -> None:
    forked = MerkleTree([*(TREE.leaf(index) for index in range(13)), *(leaf_hash(b"other") for _ in range(7))])
    fork = Checkpoint(ORIGIN, 20, forked.root())
    proof = TREE.consistency_proof(13, 20)

    def refused(error: type[CryptoError], note: SignedCheckpoint, previous: Checkpoint, proof: tuple[bytes, ...]) -> None:
        with pytest.raises(error):
            cosign(note, log=LOG, previous=previous, proof=proof, witness=WITNESSES[COUNTY], key=SECRETS[COUNTY], now=NOW)

    refused(ConsistencyError, signed(20), fork, ())
    refused(ConsistencyError, signed(20), Checkpoint(ORIGIN, 15, forked.root(15)), TREE.consistency_proof(15, 20))
    refused(ConsistencyError, sign_checkpoint(fork, LOG_SECRET), head(15), forked.consistency_proof(15, 20))
    refused(ConsistencyError, signed(13), head(20), proof)  # the log went back
    refused(ConsistencyError, signed(20), head(13), ())
    refused(ConsistencyError, signed(20), head(13), proof[:-1])
    refused(ConsistencyError, signed(20), head(13), (*proof, proof[-1]))
    refused(ConsistencyError, signed(20), head(12), proof)
    refused(CheckpointError, signed(20), Checkpoint("another.log", 13, TREE.root(13)), proof)
    refused(CheckpointError, sign_checkpoint(head(20), SECRETS[BROKER]), head(13), proof)
    refused(CheckpointError, sign_checkpoint(Checkpoint("another.log", 20, TREE.root()), LOG_SECRET), head(13), proof)
    for at in range(32 * len(proof)):
        flipped = bytearray(b"".join(proof))
        flipped[at] ^= 1
        refused(ConsistencyError, signed(20), head(13), tuple(bytes(flipped[start : start + 32]) for start in range(0, len(flipped), 32)))


def test_a_witness_needs_its_own_key_and_a_real_moment() -> None:
    for key, now in (
        (SECRETS[COUNCIL], NOW),
        (SECRETS[COUNTY], NOW.replace(tzinfo=None)),
        (SECRETS[COUNTY], datetime(1969, 1, 1, tzinfo=UTC)),
    ):
        with pytest.raises(MisuseError):
            cosign(signed(), log=LOG, previous=Checkpoint.empty(ORIGIN), proof=(), witness=WITNESSES[COUNTY], key=key, now=now)


def test_two_checkpoints_are_connected_or_refused() -> None:
    check_continues(head(5), head(20), TREE.consistency_proof(5, 20))
    check_continues(head(5), head(5), ())
    with pytest.raises(ConsistencyError):
        check_continues(head(20), head(5), TREE.consistency_proof(5, 20))
    with pytest.raises(CheckpointError):
        check_continues(head(5), replace(head(20), origin="another.log"), TREE.consistency_proof(5, 20))


# --- when a checkpoint counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agencies", "error"),
    [
        ((CUSTODIAN, COUNTY, COUNCIL), None),
        ((CUSTODIAN, COUNTY, REQUESTER), None),  # the requester's counts for the majority, two others are outside
        ((CUSTODIAN, COUNTY, COUNCIL, BROKER, REQUESTER), None),
        ((CUSTODIAN, COUNTY), WitnessError),  # no majority
        ((CUSTODIAN, COUNTY, BROKER), WitnessError),  # the log operator's does not make one
        ((CUSTODIAN, REQUESTER, BROKER), WitnessError),  # one outside
        ((COUNTY, COUNCIL, REQUESTER), WitnessError),  # no custodian
        ((), WitnessError),
        ((CUSTODIAN,), WitnessError),
        ((COUNTY,), WitnessError),
        ((COUNTY, COUNCIL), WitnessError),
        ((CUSTODIAN, BROKER), WitnessError),
        ((CUSTODIAN, REQUESTER), WitnessError),
        ((BROKER, REQUESTER, COUNTY), WitnessError),
    ],
)
def test_the_quorum(agencies: tuple[AgencyId, ...], error: type[CryptoError] | None) -> None:
    note = SignedCheckpoint.from_bytes(cosigned(*agencies).to_bytes())
    if error is None:
        check_checkpoint(note, POLICY, now=NOW)
    else:
        with pytest.raises(error):
            check_checkpoint(note, POLICY, now=NOW)


def test_a_custodian_that_is_an_insider_does_not_count() -> None:
    for changed in ({"parties": frozenset({REQUESTER, CUSTODIAN})}, {"operator": CUSTODIAN}):
        with pytest.raises(WitnessError, match="no custodian"):
            check_checkpoint(cosigned(CUSTODIAN, COUNTY, COUNCIL, BROKER), replace(POLICY, **changed), now=NOW)


def test_one_witness_is_neither_requester_nor_holder() -> None:
    """Also where the custodian, against its grant, holds records of the search: its own word and the holders' are not enough."""
    policy = replace(POLICY, holders=frozenset({COUNTY, CUSTODIAN}))
    check_checkpoint(cosigned(CUSTODIAN, COUNTY, COUNCIL), policy, now=NOW)
    with pytest.raises(WitnessError, match="neither requester nor holder"):
        check_checkpoint(cosigned(CUSTODIAN, COUNTY, REQUESTER), policy, now=NOW)


@pytest.mark.parametrize("count", range(2, 12))
def test_it_takes_a_majority_of_the_rosters_witnesses(count: int) -> None:
    """One fewer is refused, whoever they are; the operator's own is in the count of all and never among those that cosigned."""
    agencies = [BROKER, CUSTODIAN, *(AgencyId(f"witness-{number}") for number in range(count - 2))]
    keys = {agency: secret(1000 + number) for number, agency in enumerate(agencies)}
    witnesses = {agency: WitnessKey(f"{agency}.example/witness", key.verifying_key, agency) for agency, key in keys.items()}
    policy = replace(POLICY, witnesses=tuple(witnesses.values()))
    note, need = signed(), max(MIN_WITNESSES, count // 2 + 1)
    assert policy.least_lines == need
    empty = Checkpoint.empty(ORIGIN)
    lines = [cosign(note, log=LOG, previous=empty, proof=(), witness=witnesses[one], key=keys[one], now=NOW) for one in agencies]
    if need < count:
        check_checkpoint(note.with_signatures(lines[1 : need + 1]), policy, now=NOW)
    for some in (lines[1:need], lines[:need]):  # without the operator's and with it
        with pytest.raises(WitnessError):
            check_checkpoint(note.with_signatures(some), policy, now=NOW)


@pytest.mark.parametrize("count", range(2, 8))
def test_any_two_sets_of_witnesses_that_count_share_one_that_is_not_the_operators(count: int) -> None:
    """So two forks can both count only if a witness signed both: every pair of sets is tried."""
    agencies = [BROKER, CUSTODIAN, *(AgencyId(f"witness-{number}") for number in range(count - 2))]
    witnesses = tuple(WitnessKey(f"{one}.example/witness", secret(1000 + at).verifying_key, one) for at, one in enumerate(agencies))
    policy = replace(POLICY, witnesses=witnesses, parties=frozenset(), holders=frozenset(), custodians=frozenset(agencies))
    sets = [frozenset(one for at, one in enumerate(agencies) if chosen >> at & 1) for chosen in range(1 << count)]
    counting = [chosen for chosen in sets if policy.shortfall(chosen) is None]
    assert counting or count == 2
    assert all((one & other) - {BROKER} for one in counting for other in counting)


def test_one_agency_with_two_witnesses_counts_once() -> None:
    second_secret = secret(99)
    second = WitnessKey("oversight.example/second", second_secret.verifying_key, CUSTODIAN)
    policy = replace(POLICY, witnesses=(*POLICY.witnesses, second))
    note = cosigned(CUSTODIAN)
    line = cosign(note, log=LOG, previous=Checkpoint.empty(ORIGIN), proof=(), witness=second, key=second_secret, now=NOW)
    with pytest.raises(WitnessError, match="1 outside"):
        check_checkpoint(note.with_signatures([line]), policy, now=NOW)


def test_more_outside_witnesses_may_be_asked_for() -> None:
    policy = replace(POLICY, quorum=4)
    assert policy.least_lines == 4
    with pytest.raises(WitnessError, match="3 outside"):
        check_checkpoint(cosigned(CUSTODIAN, COUNTY, COUNCIL, REQUESTER), policy, now=NOW)
    check_checkpoint(cosigned(CUSTODIAN, COUNTY, COUNCIL, REQUESTER), replace(policy, parties=frozenset()), now=NOW)


@pytest.mark.parametrize(
    ("custodian_age_s", "county_age_s", "error"),
    [
        (0, 0, None),
        (600, 600, None),
        (601, 0, StaleCheckpointError),
        (0, 601, StaleCheckpointError),
        (86400, 86400, StaleCheckpointError),
        (-MAX_CLOCK_SKEW_S, 0, None),
        (-MAX_CLOCK_SKEW_S - 1, 0, WitnessError),
        (0, -MAX_CLOCK_SKEW_S - 1, WitnessError),
    ],
)
def test_age(custodian_age_s: int, county_age_s: int, error: type[CryptoError] | None) -> None:
    note = signed()
    lines = [cosignature(CUSTODIAN, note, custodian_age_s), cosignature(COUNTY, note, county_age_s), cosignature(COUNCIL, note, 0)]
    note = note.with_signatures(lines)
    if error is None:
        check_checkpoint(note, POLICY, now=NOW)
    else:
        with pytest.raises(error):
            check_checkpoint(note, POLICY, now=NOW)


def test_the_limits_are_the_protocols() -> None:
    assert (MAX_AGE_S, MAX_CLOCK_SKEW_S, MIN_WITNESSES, MAX_NOTE_BYTES) == (600, 60, 2, 65536)
    strict = replace(POLICY, max_age_s=1)
    check_checkpoint(cosigned(CUSTODIAN, COUNTY, COUNCIL, age_s=1), strict, now=NOW)
    with pytest.raises(StaleCheckpointError):
        check_checkpoint(cosigned(CUSTODIAN, COUNTY, COUNCIL, age_s=2), strict, now=NOW)


def test_age_is_counted_to_the_fraction_of_a_second() -> None:
    note = cosigned(CUSTODIAN, COUNTY, COUNCIL, age_s=600)
    with pytest.raises(StaleCheckpointError):
        check_checkpoint(note, POLICY, now=NOW + timedelta(milliseconds=1))


def test_a_stale_quorum_is_not_saved_by_fresh_witnesses_who_are_no_custodian() -> None:
    note = signed()
    note = note.with_signatures([cosignature(CUSTODIAN, note, 601), cosignature(COUNTY, note), cosignature(COUNCIL, note)])
    with pytest.raises(StaleCheckpointError):
        check_checkpoint(note, POLICY, now=NOW)


def test_a_moment_without_zone_is_a_misuse() -> None:
    with pytest.raises(MisuseError):
        check_checkpoint(cosigned(CUSTODIAN, COUNTY, COUNCIL), POLICY, now=NOW.replace(tzinfo=None))


def test_a_laxer_rule_cannot_be_built() -> None:
    for change in (
        {"quorum": 1},
        {"max_age_s": 601},
        {"max_age_s": 0},
        {"witnesses": (*POLICY.witnesses, WitnessKey("other.example", WITNESSES[COUNTY].key, COUNCIL))},
        {"witnesses": (*POLICY.witnesses, WitnessKey("other.example", LOG.key, COUNCIL))},
    ):
        with pytest.raises(MisuseError):
            replace(POLICY, **change)


# --- forgeries -----------------------------------------------------------------------------------------------------


def test_the_log_must_have_signed() -> None:
    note = cosigned(CUSTODIAN, COUNTY, COUNCIL)
    unsigned = replace(note, signatures=note.signatures[1:])
    stranger = replace(note, signatures=(*sign_checkpoint(head(20), secret(50)).signatures, *note.signatures[1:]))
    renamed = replace(note, signatures=(replace(note.signatures[0], signature=secret(50).sign(head(20).body())), *note.signatures[1:]))
    other_type = key_id(ORIGIN, COSIGNATURE_V1, LOG.key)
    mistyped = replace(note, signatures=(replace(note.signatures[0], key_id=other_type), *note.signatures[1:]))
    other_head = Checkpoint("another.log", 20, TREE.root())
    other_origin = sign_checkpoint(other_head, LOG_SECRET)
    # Signed with the right key under the right name, and still a statement about another log.
    line = replace(note.signatures[0], signature=LOG_SECRET.sign(other_head.body()))
    for forged in (unsigned, stranger, renamed, mistyped, other_origin, SignedCheckpoint(other_head, (line, *note.signatures[1:]))):
        with pytest.raises(CheckpointError):
            check_checkpoint(forged, POLICY, now=NOW)


def test_a_false_line_of_a_known_witness_spoils_the_note() -> None:
    """Also when the quorum stands without it: somebody lies, and the note goes to whoever looks into that."""
    note = cosigned(CUSTODIAN, COUNTY, COUNCIL)
    identity = key_id(WITNESSES[COUNCIL].name, COSIGNATURE_V1, WITNESSES[COUNCIL].key)
    plain = SECRETS[COUNCIL].sign(head(20).body())
    honest = note.signatures[-1].signature
    of_another_head = cosignature(COUNCIL, signed(13)).signature
    by_another_key = honest[:8] + secret(50).sign(b"cosignature/v1\n")
    for content in (plain, honest[8:], honest[:-1], honest + b"\x00", b"\x00" + honest[1:-1] + b"\x00", of_another_head, by_another_key):
        forged = note.with_signatures([NoteSignature(WITNESSES[COUNCIL].name, identity, content)])
        with pytest.raises(WitnessError):
            check_checkpoint(forged, POLICY, now=NOW)


def test_a_witness_named_for_another_does_not_count() -> None:
    note = cosigned(CUSTODIAN, COUNTY, COUNCIL)
    lines = [replace(line, name="oversight.example/witness") if "county" in line.name else line for line in note.signatures]
    with pytest.raises(WitnessError):
        check_checkpoint(replace(note, signatures=tuple(lines)), POLICY, now=NOW)


def test_a_bit_flipped_anywhere_in_the_note_is_refused() -> None:
    note = cosigned(CUSTODIAN, COUNTY, COUNCIL).to_bytes()
    check_checkpoint(SignedCheckpoint.from_bytes(note), POLICY, now=NOW)
    for at in range(len(note)):
        for bit in range(8):
            forged = bytearray(note)
            forged[at] ^= 1 << bit
            with pytest.raises((CheckpointError, WitnessError)):
                check_checkpoint(SignedCheckpoint.from_bytes(bytes(forged)), POLICY, now=NOW)


def test_a_note_cut_anywhere_is_refused() -> None:
    note = cosigned(CUSTODIAN, COUNTY, COUNCIL).to_bytes()
    for end in range(len(note)):
        with pytest.raises((CheckpointError, WitnessError)):
            check_checkpoint(SignedCheckpoint.from_bytes(note[:end]), POLICY, now=NOW)


def test_errors_and_reprs_show_no_signature() -> None:
    note = cosigned(CUSTODIAN, COUNTY, COUNCIL)
    assert note.signatures[0].signature.hex() not in repr(note)
    assert repr(note.signatures[0].signature) not in repr(note)
