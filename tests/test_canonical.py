"""Canonical JSON, base64url and names: one value, one string of bytes, and nothing else is read."""

from __future__ import annotations

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from crypto.canonical import (
    AgencyId,
    GrantId,
    JsonValue,
    KeyId,
    PersonId,
    SearchId,
    b64url_decode,
    b64url_encode,
    canonical_json,
    parse_canonical_json,
)
from crypto.errors import CryptoError, FieldError, MisuseError, NotCanonicalError, OversizedError

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_objects_round_trip(value: dict[str, JsonValue]) -> None:
    data = canonical_json(value)
    assert parse_canonical_json(data, max_bytes=len(data)) == value
    assert json.loads(data) == value


PLAIN_NAMES = st.text(st.characters(max_codepoint=0x7F), max_size=6)
SPELLINGS = st.recursive(
    SCALARS | st.sampled_from([AgencyId("northport-pd"), "\x7f\u2028\ud7ff\ue000\U0010ffff", '\b\f\x1f\x0b"\\/']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN_NAMES | TEXTS, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(PLAIN_NAMES | TEXTS, SPELLINGS, max_size=4))
def test_the_compiled_writer_spells_as_the_reference_does(value: dict[str, JsonValue]) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


def test_the_example_of_rfc_8785() -> None:
    """Section 3.2.3: members are sorted by UTF-16 code units."""
    value: JsonValue = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(canonical_json(value))) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b'{"a":1 }',
        b' {"a":1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":1}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":9007199254740993}',
        b'{"a":"\\u0062"}',
        b'{"a":"\xff"}',
        b'{"a":1}\n',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        '{"a":"\ud800"}'.encode("utf-8", "surrogatepass"),
        b'{"a":"\\ud800"}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_every_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonicalError):
        parse_canonical_json(data, max_bytes=1 << 20)


@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_garbage_gives_only_our_errors(data: bytes) -> None:
    try:
        value = parse_canonical_json(data, max_bytes=64)
    except CryptoError:
        return
    assert canonical_json(dict(value)) == data


def test_length_is_checked_before_parsing() -> None:
    with pytest.raises(OversizedError):
        parse_canonical_json(b"{" * 100, max_bytes=99)


@pytest.mark.parametrize("value", [1.5, {"a": [1.0]}, 2**53, {"a": "\ud800"}, float("nan")])
def test_what_canonical_json_cannot_carry_is_our_mistake(value: JsonValue) -> None:
    with pytest.raises(MisuseError):
        canonical_json(value)


@given(st.binary(max_size=40))
def test_base64url_round_trips(data: bytes) -> None:
    text = b64url_encode(data)
    assert b64url_decode(text) == data
    assert not set(text) & set("+/=")


@pytest.mark.parametrize("text", ["=", "A", "AA==", "AB", "A+", "A/", "AA A", "AA\n", "\u00e4\u00e4", "AAA="])
def test_other_base64_is_refused(text: str) -> None:
    with pytest.raises(NotCanonicalError):
        b64url_decode(text)


@given(st.text(max_size=12))
def test_any_text_is_base64url_or_refused(text: str) -> None:
    try:
        data = b64url_decode(text)
    except NotCanonicalError:
        return
    assert b64url_encode(data) == text


@pytest.mark.parametrize("kind", [AgencyId, PersonId, KeyId])
def test_names_are_safe_in_lines_and_urls(kind: type[AgencyId]) -> None:
    assert kind("northport-pd:officer-17") == "northport-pd:officer-17"
    for text in ("", "A", "a|b", "a b", "a\n", "-a", "a-", "a/b", "\u00e4", "a" * 65, "a\u0661"):
        with pytest.raises(FieldError):
            kind(text)


@pytest.mark.parametrize("kind", [SearchId, GrantId])
def test_ids_are_sixteen_bytes_in_hex(kind: type[SearchId]) -> None:
    assert kind("0" * 32) == "0" * 32
    for text in ("0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n"):
        with pytest.raises(FieldError):
            kind(text)
