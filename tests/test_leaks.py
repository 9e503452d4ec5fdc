"""Who learns what (PROTOCOL 1), held against every byte of a search between real processes: what each party received, stored and logged.

The searcher is tested first, with values planted in every form; a party's test is worth as much as its control, which plants what the party
may not know and must find it. Left to others: the searcher (`leaks`), the run (`leak_run`), a disk without its key
(`test_adversary_stolen_disk`).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest

from agency_node.demo.federation import BOARD, BROKER, EASTFIELD, LAKESIDE, NORTHPORT
from crypto.errors import EnvelopeError
from crypto.message_types import MESSAGES, MessageType
from crypto.messages import Message
from crypto.seal import KeyPair
from tests.leak_run import NOT_IN_THIS_RUN, SEALED, Run, logged, opened_envelope, places, run_once, sealed_columns
from tests.leaks import CLOSED, Searcher, Secret, find

RANDOM = np.random.default_rng(5)
SECRETS: dict[str, Secret] = {
    "vector": RANDOM.integers(-900, 900, 128).astype(np.int32),
    "unit": RANDOM.standard_normal(128) / 11,
    "template": RANDOM.integers(-60, 60, 128).astype(np.int8),
    "seed": RANDOM.bytes(32),
    "handle": RANDOM.bytes(16),
    "image": RANDOM.bytes(20_000),
    "score": 0.6238127,
    "case": "26-10417/B",
}
VECTORS = {name: secret for name, secret in SECRETS.items() if isinstance(secret, np.ndarray)}
NOISE = RANDOM.bytes(3000)


def deflated(data: bytes, window: int = -15) -> bytes:
    stream = zlib.compressobj(wbits=window)
    return stream.compress(data) + stream.flush()


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("enclosed.bin", data)
    return NOISE + out.getvalue()


def chunked(data: bytes) -> bytes:
    """A body in chunks of five bytes: no window stands in one piece."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(data[at : at + 5]), data[at : at + 5]) for at in range(0, len(data), 5))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"


def in_base64(before: int, data: bytes) -> bytes:
    return b'{"x":"' + b64encode(b"!" * before + data) + b'"}'


def in_base64url(before: int, data: bytes) -> bytes:
    return b"glued-to" + urlsafe_b64encode(b"!" * before + data).rstrip(b"=")


WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: NOISE + data + NOISE,
    "hexadecimal": lambda data: NOISE + data.hex().encode() + NOISE,
    "upper hexadecimal": lambda data: b"key: " + data.hex().upper().encode(),
    **{f"base64 after {n}": partial(in_base64, n) for n in range(3)},
    **{f"base64url after {n}": partial(in_base64url, n) for n in range(3)},
    "base64 in lines": lambda data: b"\r\n".join(b64encode(data)[at : at + 76] for at in range(0, 2 * len(data), 76)),
    "zlib": lambda data: NOISE + zlib.compress(data, 1) + NOISE,
    "small zlib window": lambda data: NOISE + deflated(data, 10),
    "gzip": lambda data: NOISE + gzip.compress(data) + NOISE,
    "gzip, cut": lambda data: gzip.compress(data + RANDOM.bytes(9000))[:-5000],
    "deflate": deflated,
    "deflate in HTTP": lambda data: b"HTTP/1.1 200 OK\r\ncontent-encoding: deflate\r\n\r\n" + deflated(data),
    "zip": zipped,
    "chunks": chunked,
    "gzip in chunks": lambda data: chunked(gzip.compress(data)),
    "base64 in JSON in base64": lambda data: b64encode(b'{"payload":"' + b64encode(data) + b'"}'),
    "zlib in base64": lambda data: b64encode(zlib.compress(data)),
}


def names_in(secrets: Mapping[str, Secret], *data: bytes) -> set[str]:
    return {finding.secret for finding in find(secrets, data)}


# --- the searcher -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_bytes_are_found_in_every_wrapping(wrapping: str) -> None:
    wrap, image = WRAPPINGS[wrapping], SECRETS["image"]
    assert isinstance(image, bytes)
    for name in ("seed", "handle"):
        value = SECRETS[name]
        assert isinstance(value, bytes)
        assert names_in(SECRETS, wrap(value)) == {name}
    assert names_in(SECRETS, wrap(image[7003:7067])) == {"image"}  # 64 bytes from anywhere


@pytest.mark.parametrize("wrapping", ["as it is", "hexadecimal", "base64 after 1", "base64url after 2", "zlib", "chunks"])
@pytest.mark.parametrize("name", VECTORS)
def test_fragments_of_vectors_are_found_in_every_width_and_order(name: str, wrapping: str) -> None:
    vector = VECTORS[name]
    integers = {"vector": ["i2", "i4", "i8"], "template": ["i1", "i2", "i4", "i8"], "unit": []}[name]
    for code in [*integers, "f2", "f4", "f8"]:
        for order in "<>":
            fragment = vector[53:64].astype(f"{order}{code}").tobytes()
            assert name in names_in({name: vector}, WRAPPINGS[wrapping](fragment)), f"{order}{code}"


@pytest.mark.parametrize(
    "written",
    [
        lambda vector: json.dumps(vector.tolist()),
        lambda vector: json.dumps(vector.tolist(), indent=1),
        str,
        lambda vector: ";".join(map(str, vector.tolist())),
        lambda vector: ", ".join(f"{one:.3f}" for one in vector),
        lambda vector: " ".join(f"{one:.9e}" for one in vector),
    ],
)
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_are_found_as_decimal_numbers(name: str, written: Callable[[object], str]) -> None:
    text = f"embedding {written(VECTORS[name][40:52])} of somebody".encode()
    assert names_in(VECTORS, text) == {name}
    assert names_in(VECTORS, b64encode(text)) == {name}


@pytest.mark.parametrize(
    "line",
    ["0.6238127", "0.624", "cosine=0.623", '{"score": 624}', '{"milli":623}', "score 62.4 %", "similarity: 62.38", "cos 0.62381269"],
)
def test_scores_are_found_in_lines(line: str) -> None:
    assert names_in(SECRETS, f"at 12:00:01 {line}\n".encode()) == {"score"}


def test_scores_are_found_as_floating_point_numbers() -> None:
    for order in "<>":
        assert names_in(SECRETS, NOISE + np.array(SECRETS["score"], f"{order}f8").tobytes() + NOISE) == {"score"}


@pytest.mark.parametrize("line", ["port 40624", '"ms": 624', "12:00:01,624", "10.624", "0.6251", '{"score": 62}', "threshold 999"])
def test_numbers_that_are_no_scores_are_left_alone(line: str) -> None:
    assert names_in(SECRETS, f"{line}\n".encode()) == set()


@pytest.mark.parametrize(
    ("form", "encoding"),
    [("26-10417%2FB", "ascii"), *((form, f"utf-{n}") for form in ("26-10417/B", "26-10417/b") for n in ("8", "16-le", "16-be"))],
)
def test_texts_are_found(form: str, encoding: str) -> None:
    for wrapping in ("as it is", "hexadecimal", "base64 after 1", "gzip", "base64 in JSON in base64"):
        assert names_in(SECRETS, WRAPPINGS[wrapping](form.encode(encoding))) == {"case"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x5e\xa1\x10\x04\x01\x02\x00\x00" + (4096).to_bytes(8, "little") + NOISE,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\n\r\n" + NOISE,
        NOISE + b"\x28\xb5\x2f\xfd\x20\x05" + ((5 << 3) | 1).to_bytes(3, "little") + b"hello" + NOISE,
    ],
)
def test_what_cannot_be_looked_into_is_a_finding(data: bytes) -> None:
    assert names_in(SECRETS, data) == {CLOSED}


def test_what_seal_saves_uncompressed_is_looked_into(tmp_path: pytest.TempPathFactory) -> None:
    words = KeyPair().secret_eval()
    saved = b"\x5e\xa1\x10\x04\x01\x00\x00\x00" + (8 * words.size).to_bytes(8, "little") + words.astype("<u8").tobytes()
    assert names_in({"key": words}, saved) == {"key"}
    assert names_in({"key": words}, saved[:16] + zlib.compress(saved[16:])) == {"key"}


def test_nothing_is_found_where_nothing_is() -> None:
    assert find(SECRETS, [os.urandom(50 << 20), b"", b"x", b"no secret at all\n" * 2000, json.dumps(list(range(3000))).encode()]) == []


def test_values_that_say_nothing_are_no_secrets() -> None:
    for value in (b"abcd", bytes(64)):
        with pytest.raises(ValueError, match="value"):
            find({"nothing": value}, [b""])


# --- the run ----------------------------------------------------------------------------------------------------------

AT_HOME = {
    *("template", "record number", "described", "photograph", "portrait"),
    *("handle", "mask seed", "order seed", "answer root", "answer", "release"),
}
"""Secrets of one holder, named after it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_once(lambda: tmp_path_factory.mktemp("federation"))


def kept_from(run: Run, party: str) -> dict[str, Secret]:
    """What a party may have in no place, from the table of PROTOCOL 1; and what opens another's log entry, before that one opens it."""
    return _kept_from(run, party) | {name: run.secrets[name] for name in run.secrets if name.startswith("opening/") and party not in name}


def _kept_from(run: Run, party: str) -> dict[str, Secret]:
    if party == BROKER:
        return run.secrets
    if party == BOARD:
        return run.named(
            *(
                "probe/",
                "face/",
                "still",
                "search key/",
                "case/number",
                "case/facts",
                "salt/case",
                "salt/face",
                "template/",
                "record number/",
                "described/",
            ),
            *("photograph/", "portrait/", "handle/", "score/", "answer/", "answer root/", "order seed/"),
        )
    if party == NORTHPORT:
        found = run.named(
            "template/", "record number/", "described/", "photograph/", "portrait/", "score/", "mask seed/", "answer root/", "search key/"
        )
        found |= run.named(f"release/{EASTFIELD}", f"release/{LAKESIDE}", "release/discovery")
        disclosed = run.named(f"record number/{EASTFIELD}/1500", f"photograph/{EASTFIELD}/")
        return {name: secret for name, secret in found.items() if name not in disclosed}
    (other,) = {EASTFIELD, LAKESIDE} - {party}
    found = run.named("probe/vector", "face/", "still", "search key/", "case/number", "case/facts", "salt/case", "salt/face", "score/")
    return found | run.named("opened values/", "release/requester", "release/discovery", *(f"{name}/{other}" for name in sorted(AT_HOME)))


def bytes_of(run: Run, party: str) -> dict[str, bytes]:
    """Everything of a party; the requester's own gallery is its own, and the Hopper portrait stands in it as it does at Lakeside's."""
    own = ("vault/records.", "vault/template_blocks.") if party == NORTHPORT else ()
    return {name: data for name, data in run.of(party).items() if not (own and name.startswith(own))}


PARTIES = [BROKER, NORTHPORT, EASTFIELD, LAKESIDE, BOARD]


@pytest.mark.rule("R59")
@pytest.mark.parametrize("party", PARTIES)
def test_no_party_has_a_byte_of_what_it_may_not_know(run: Run, party: str) -> None:
    parts = bytes_of(run, party)
    everywhere = {"wire", "message", "files", "after", "log", *(() if party == BROKER else ("opened", "vault"))}
    assert {name.split("/")[0] for name in parts} == everywhere
    assert all(any(data for name, data in parts.items() if name.split("/")[0] == place) for place in everywhere)
    assert places(parts, kept_from(run, party)) == []


@pytest.mark.parametrize("party", PARTIES)
def test_control_one_log_line_too_many_is_found(run: Run, party: str) -> None:
    secrets = kept_from(run, party)
    for name, secret in secrets.items():
        log = run.parties[party]["log"] + logged(secret) + b"\n"
        assert name in names_in({name: secret}, log)
    everything = b"\n".join([run.parties[party]["log"], *map(logged, secrets.values())])
    assert names_in(secrets, everything) == set(secrets)


def test_control_what_a_party_may_know_is_found_where_it_keeps_it(run: Run) -> None:
    """The same searcher over the same bytes: an empty result elsewhere is no blindness."""
    reason = ("case/docket", "case/court", "case/statute", "salt/reason")
    searched = ("still", "case/", "probe/vector", "salt/", "order seed/", "answer/", "handle/", "release/requester")
    known = {
        NORTHPORT: (f"opening/{NORTHPORT}/", *searched, f"record number/{EASTFIELD}/1500", f"photograph/{EASTFIELD}/"),
        EASTFIELD: (*reason, "probe/ciphertext", *_own(EASTFIELD)),
        LAKESIDE: (*reason, "probe/ciphertext", *_own(LAKESIDE)),
        BOARD: (f"opening/{BOARD}/", *reason, "mask seed/", "opened values/"),
    }
    for party, beginnings in known.items():
        secrets = run.named(*beginnings)
        assert names_in(secrets, *run.of(party, "opened", "vault").values()) == set(secrets)


def _own(holder: str) -> list[str]:
    return [
        f"{name}/{holder}"
        for name in ("opening", "template", "record number", "described", "photograph", "answer root", "order seed", "release")
    ]


@pytest.mark.parametrize("holder", [EASTFIELD, LAKESIDE])
def test_whom_a_record_shows_stands_in_its_sealed_facts_and_nowhere_else_at_its_holder(run: Run, holder: str) -> None:
    """Person, sex and race of a record that was found and disclosed: in no file, log, ledger row, message or other sealed value (R39)."""
    secrets = run.named(f"described/{holder}")
    assert len(secrets) == 3
    assert {where for _, where, _ in places(run.of(holder), secrets)} == {"vault/records.sealed_record"}


# --- seals ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def for_anything(run: Run) -> Searcher:
    return Searcher(run.secrets)


SEALED_TYPES = [kind for kind, spec in MESSAGES.items() if spec.sealed]
ELSEWHERE = {MessageType.MASK_HANDOVER, MessageType.RATIFICATION}
"""Types that this run does not have: a second custodian's, and an exigent grant's."""


def test_the_run_has_every_sealed_type(run: Run) -> None:
    assert {one.kind for one in run.sealed} == set(SEALED_TYPES) - ELSEWHERE


@pytest.mark.rule("R59")
def test_the_brokers_keys_open_nothing_that_passed(run: Run) -> None:
    assert len(run.sealed) >= 21
    assert run.broker_keys
    for one in run.sealed:
        envelope, sender = one.message.envelope(), run.roster.node_key(one.message.header.sender)
        for key in run.broker_keys.values():
            with pytest.raises(EnvelopeError):
                opened_envelope(envelope, key, sender)
        addressee = run.addressees[envelope.context.recipient_key_id]
        assert opened_envelope(envelope, addressee, sender) == one.plaintext


@pytest.mark.parametrize("kind", [kind for kind in SEALED_TYPES if kind not in ELSEWHERE])
def test_control_one_seal_taken_off_is_found(run: Run, for_anything: Searcher, kind: MessageType) -> None:
    of_kind = [one for one in run.sealed if one.kind == kind]
    assert for_anything.find(one.message.to_bytes() for one in of_kind) == []
    told = [bool(for_anything.find([one.without_seal()])) for one in of_kind]
    dummies = {MessageType.DISCLOSURE_REQUEST, MessageType.DISCLOSURE}  # to the holder that nothing was asked of: they say nothing
    assert told.count(True) == (1 if kind in dummies else len(of_kind))


def test_control_a_seal_taken_off_is_found_in_the_stream_that_carried_it(run: Run) -> None:
    (stubs, _) = [one for one in run.sealed if one.kind == MessageType.STUBS]
    closed = stubs.message.envelope().sealed
    streams = [data for data in run.of(BROKER, "wire").values() if closed in data]
    assert len(streams) == 2  # it came in and went out
    for stream in streams:
        assert names_in(run.named("handle/"), stream.replace(closed, stubs.plaintext))


# --- what is deleted --------------------------------------------------------------------------------------------------


def pieces(messages: list[Message]) -> dict[str, Secret]:
    """Samples all along each message's sealed body: a page that stayed behind holds one."""
    bodies = {f"{one.header.message_type} {str(one.message_id)[:8]}": one.envelope().sealed for one in messages}
    return {f"{name} at {at}": sealed[at : at + 24] for name, sealed in bodies.items() for at in range(0, len(sealed) - 24, 1500)}


DELETED: dict[str, set[str]] = {
    BROKER: {str(kind) for kind in SEALED_TYPES if kind not in ELSEWHERE},
    NORTHPORT: {"answer", "requester-release", "stubs", "disclosure"},
    EASTFIELD: {"probe"},
    LAKESIDE: {"probe"},
    BOARD: {"mask-share", "opened-scores"},
}


@pytest.mark.parametrize("party", PARTIES)
def test_what_was_deleted_is_in_no_file_of_the_running_process(run: Run, party: str) -> None:
    """Nor in the write-ahead log: holder and custodian say that probe and shares are gone (R22), and their keys would open them still."""
    assert DELETED[party] <= {str(message.header.message_type) for message in run.deleted[party]}
    assert places(run.of(party, "last", "after"), pieces(run.deleted[party])) == []


def test_control_deleted_messages_were_in_the_files_before(run: Run) -> None:
    """The files are looked at every so often: who is quick may have deleted a message between two looks, but not everybody every one."""
    assert any(places(run.of(party, "files"), pieces(run.deleted[party])) for party in (BROKER, BOARD))
    kept = {**run.of(EASTFIELD, "last"), "planted": run.deleted[EASTFIELD][0].to_bytes()}
    assert {where for _, where, _ in places(kept, pieces(run.deleted[EASTFIELD]))} == {"planted"}


def test_the_search_key_is_destroyed_with_the_release(run: Run) -> None:
    assert places(run.of(NORTHPORT, "last", "after", "vault", "log"), {"sealed": run.key_blob, **run.named("search key/")}) == []
    assert places(run.of(NORTHPORT, "files"), {"sealed": run.key_blob})  # it was there while it was needed


def test_after_the_release_the_custodian_keeps_no_seed_no_opened_value_and_no_score(run: Run) -> None:
    secrets = run.named("mask seed/", "opened values/", "score/", "release/discovery")
    assert places(run.of(BOARD, "files", "last", "after", "vault", "log"), secrets) == []


# --- the collection itself --------------------------------------------------------------------------------------------


def test_every_sealed_column_is_opened_and_searched(run: Run) -> None:
    assert set(SEALED) == sealed_columns()
    opened = {name for party in PARTIES for name, data in run.of(party, "vault").items() if data}
    gone = {f"vault/{table}.{column}" for table, column in NOT_IN_THIS_RUN}
    assert opened >= {f"vault/{table.name}.{column}" for table, column in SEALED} - gone
