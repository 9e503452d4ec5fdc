"""Signed requests: everything that is covered, everything that is said, and that nothing else passes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, MappingKeyResolver
from http_message_signatures.algorithms import ED25519
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from crypto.canonical import AgencyId
from crypto.errors import BadSignatureError, FieldError, MisuseError, PeerError, UnknownAgencyError
from crypto.keys import VerifyingKey
from crypto.request_signature import MAX_AGE_S, MAX_HEADER_CHARS, VerifiedRequest, check_request, fresh_nonce, sign_request
from tests.sample_federation import EASTFIELD, NORTHPORT, NOW, roster, signing_key

URL = "http://broker.test:8440/v1/messages/00ff/parts/0?lease_id=a%20b&x=1"
BODY = b'{"a":1}'
KEY = signing_key(f"{NORTHPORT} node")
NONCE = bytes(range(16))
LIBRARY_KEY = Ed25519PrivateKey.from_private_bytes(KEY.export_secret())


def signed(method: str = "PUT", url: str = URL, body: bytes = BODY) -> dict[str, str]:
    return sign_request(method, url, body, agency=NORTHPORT, key=KEY, nonce=NONCE, now=NOW)


def check(headers: dict[str, str], method: str = "PUT", url: str = URL) -> VerifiedRequest:
    return check_request(method, url, headers.items(), roster().node_key)


@dataclass
class Request:
    """A request as the other library reads and changes it."""

    method: str
    url: str
    headers: dict[str, str]


def signed_by_library(url: str, **changes: object) -> dict[str, str]:
    """The fields that a general library makes, in the form of this protocol but for `changes`."""
    headers = {"Content-Digest": signed()["Content-Digest"]}
    keys = MappingKeyResolver(public_keys={}, private_keys={str(NORTHPORT): LIBRARY_KEY})
    options: dict[str, object] = {
        "covered_component_ids": ("@method", "@authority", "@path", "@query", "content-digest"),
        "label": "sealmatch",
        "tag": "sealmatch-1",
        "nonce": "00" * 16,
        "use_existing_digest": True,
        **changes,
    }
    signer = HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=keys)
    signer.sign(Request("PUT", url, headers), key_id=str(NORTHPORT), created=NOW, **options)  # type: ignore[arg-type]
    return headers


def replaced(headers: dict[str, str], name: str, change: Callable[[str], str]) -> dict[str, str]:
    return {**headers, name: change(headers[name])}


def test_a_request_comes_through() -> None:
    verified = check(signed())
    assert (verified.agency, verified.nonce) == (NORTHPORT, NONCE)
    assert verified.created == NOW.replace(microsecond=0)
    verified.check_body(BODY)


def test_the_signature_base_is_the_one_of_rfc_9421() -> None:
    """Built by hand from section 2.5 and verified with another library."""
    headers = signed()
    parameters = headers["Signature-Input"].removeprefix("sealmatch=")
    assert parameters == (
        '("@method" "@authority" "@path" "@query" "content-digest")'
        f';created={int(NOW.timestamp())};keyid="northport-pd";alg="ed25519";nonce="{NONCE.hex()}";tag="sealmatch-1"'
    )
    digest = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    assert headers["Content-Digest"] == f"sha-256=:{digest}:"
    base = (
        '"@method": PUT\n"@authority": broker.test:8440\n"@path": /v1/messages/00ff/parts/0\n"@query": ?lease_id=a%20b&x=1\n'
        f'"content-digest": sha-256=:{digest}:\n"@signature-params": {parameters}'
    )
    signature = base64.b64decode(headers["Signature"].removeprefix("sealmatch=:").removesuffix(":"))
    VerifyKey(KEY.verifying_key.raw).verify(base.encode("ascii"), signature)


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", URL),
        ("PUT", URL.replace("broker.test", "other.test")),
        ("PUT", URL.replace("8440", "8441")),
        ("PUT", URL.replace("parts/0", "parts/1")),
        ("PUT", URL.replace("x=1", "x=2")),
        ("PUT", URL + "&y=1"),
        ("PUT", URL.partition("?")[0]),
        ("put", URL),
        ("PUT", "http://broker.test:8440/v1/messages/ \n"),
    ],
)
def test_another_request_is_refused(method: str, url: str) -> None:
    with pytest.raises(BadSignatureError):
        check(signed(), method, url)


def test_a_body_must_be_the_one_that_was_signed() -> None:
    verified = check(signed())
    for body in (b"", BODY + b" ", BODY[:-1], b'{"a":2}'):
        with pytest.raises(BadSignatureError):
            verified.check_body(body)
    empty = check(signed(body=b""))
    empty.check_body(b"")
    with pytest.raises(BadSignatureError):
        empty.check_body(b"x")


@pytest.mark.parametrize("name", ["Content-Digest", "Signature-Input", "Signature"])
def test_each_field_is_there_once_and_short(name: str) -> None:
    headers = signed()
    without = {key: value for key, value in headers.items() if key != name}
    twice = [*headers.items(), (name.lower(), headers[name])]
    for wrong in (list(without.items()), twice, [*without.items(), (name, "x" * (MAX_HEADER_CHARS + 1))]):
        with pytest.raises(BadSignatureError):
            check_request("PUT", URL, wrong, roster().node_key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"@method" ', ""),
        ('"@authority" ', ""),
        ('"@path" ', ""),
        (' "@query"', ""),
        (' "content-digest"', ""),
        ('"@method" "@authority"', '"@authority" "@method"'),
        ("sealmatch=(", "other=("),
        ('alg="ed25519"', 'alg="hmac-sha256"'),
        (';alg="ed25519"', ""),
        ('tag="sealmatch-1"', 'tag="sealmatch-2"'),
        (';tag="sealmatch-1"', ""),
        ('keyid="northport-pd"', 'keyid="eastfield-pd"'),
        ('keyid="northport-pd"', "keyid=1"),
        ('keyid="northport-pd"', 'keyid="../x"'),
        (';keyid="northport-pd"', ""),
        ('nonce="', 'nonce="00'),
        ("created=", "created=1"),
        ("created=", "created=-"),
        (f";created={int(NOW.timestamp())}", ""),
        (";tag", ";expires=1;tag"),
    ],
)
def test_every_altered_parameter_is_refused(old: str, new: str) -> None:
    headers = signed()
    assert old in headers["Signature-Input"]
    with pytest.raises(BadSignatureError):
        check(replaced(headers, "Signature-Input", lambda value: value.replace(old, new)))


def test_a_signature_that_covers_less_is_refused_though_it_verifies() -> None:
    """Signed with the right key, by the same library, over fewer components or with other parameters."""
    parts = ("@method", "@authority", "@path", "@query", "content-digest")
    cases: list[dict[str, object]] = [{"covered_component_ids": parts[:n]} for n in range(5)]
    cases += [
        {"covered_component_ids": (*parts, "@scheme")},
        {"covered_component_ids": parts[::-1]},
        {"tag": "other"},
        {"nonce": None},
        {"nonce": "00"},
        {"nonce": "X" * 32},
        {"include_alg": False},
        {"expires": NOW},
    ]
    for case in cases:
        with pytest.raises(BadSignatureError):
            check(signed_by_library(URL, **case))
    check(signed_by_library(URL))


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://broker.test",
        "https://Broker.TEST:443/?",
        "http://broker.test:0080/a/../b//c;d='e'?x=%E2%82%AC&y",
        "https://[2001:db8::1]:8440/v1/roster",
    ],
)
def test_another_library_signs_and_verifies_the_same(url: str) -> None:
    check(signed_by_library(url), "PUT", url)
    headers = signed(url=url)
    keys = MappingKeyResolver(public_keys={str(NORTHPORT): LIBRARY_KEY.public_key()}, private_keys={})
    created = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=keys)
    (verified,) = created.verify(Request("PUT", url, headers), max_age=None, expect_tag="sealmatch-1", body=BODY)
    assert verified.nonce == NONCE.hex()
    assert signed_by_library(url, nonce=NONCE.hex()) == headers


def test_a_signature_has_one_encoding() -> None:
    """The last letter before the padding holds four bits that mean nothing."""
    headers = signed()
    last = headers["Signature"][-4]
    for letter in "ABCDPQRSfghiwxyz/":
        changed = replaced(headers, "Signature", lambda value: value[:-4] + letter + value[-3:])  # noqa: B023
        if letter == last:
            check(changed)
            continue
        with pytest.raises(BadSignatureError):
            check(changed)


def test_two_signatures_are_refused() -> None:
    one, other = signed(), signed()
    both = {name: f"{one[name]}, {other[name].replace('sealmatch=', 'second=')}" for name in ("Signature", "Signature-Input")}
    with pytest.raises(BadSignatureError):
        check({**one, **both})


def test_an_agency_that_the_roster_does_not_hold_is_named_as_that() -> None:
    headers = sign_request("GET", URL, b"", agency=AgencyId("nobody-pd"), key=KEY, nonce=NONCE, now=NOW)
    with pytest.raises(UnknownAgencyError):
        check(headers, "GET")


def test_a_signature_of_another_key_is_refused() -> None:
    headers = sign_request("GET", URL, b"", agency=EASTFIELD, key=KEY, nonce=NONCE, now=NOW)
    with pytest.raises(BadSignatureError):
        check(headers, "GET")


@pytest.mark.parametrize(
    ("seconds", "fresh"), [(0, True), (MAX_AGE_S, True), (MAX_AGE_S + 1, False), (-MAX_AGE_S, True), (-MAX_AGE_S - 2, False)]
)
def test_freshness_is_a_minute_either_way(seconds: int, fresh: bool) -> None:
    assert check(signed()).is_fresh(NOW.replace(microsecond=0) + timedelta(seconds=seconds)) is fresh


def test_the_machines_clock_is_never_asked() -> None:
    """`NOW` lies in the past or future of this machine; either way the request verifies."""
    for years in (-20, 20):
        headers = sign_request("GET", URL, b"", agency=NORTHPORT, key=KEY, nonce=NONCE, now=NOW + timedelta(days=365 * years))
        assert check(headers, "GET").created.year == 2026 + years


def test_misuse() -> None:
    with pytest.raises(FieldError):
        sign_request("GET", URL, b"", agency=NORTHPORT, key=KEY, nonce=b"short", now=NOW)
    with pytest.raises(FieldError):
        sign_request("GET", "not a url", b"", agency=NORTHPORT, key=KEY, nonce=NONCE, now=NOW)
    with pytest.raises(MisuseError):
        sign_request("GET", URL, b"", agency=NORTHPORT, key=KEY, nonce=NONCE, now=NOW.replace(tzinfo=None))
    assert len(fresh_nonce()) == 16
    assert fresh_nonce() != fresh_nonce()
    prefix = bytes(range(8))
    assert fresh_nonce(prefix)[:8] == prefix
    assert len(fresh_nonce(prefix)) == 16
    assert fresh_nonce(prefix) != fresh_nonce(prefix)
    for wrong in (prefix[:7], prefix + b"x", prefix * 2):
        with pytest.raises(FieldError):
            fresh_nonce(wrong)


def test_no_text_form_shows_the_nonce() -> None:
    assert NONCE.hex() not in repr(check(signed()))


field_text = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=200)


@given(field_text, field_text, field_text)
def test_garbage_is_refused_by_our_errors(one: str, two: str, three: str) -> None:
    good = signed()
    for headers in (
        {"signature-input": one, "signature": two, "content-digest": three},
        {**good, "Signature-Input": one},
        {**good, "Signature": two},
        replaced(good, "Signature-Input", lambda value: value + one),
        replaced(good, "Signature-Input", lambda value: value[: len(one)] + two + value[len(one) :]),
    ):
        if headers == good:
            continue
        try:
            check_request("PUT", URL, headers.items(), roster().node_key)
        except PeerError:
            continue
        assert headers["Signature-Input"].strip() == good["Signature-Input"]  # spaces around it are not part of the field


def test_a_key_that_does_not_know_is_asked_nothing() -> None:
    def never(_agency: AgencyId) -> VerifyingKey:
        raise AssertionError("asked for a key of no agency")

    with pytest.raises(BadSignatureError):
        check_request("PUT", URL, replaced(signed(), "Signature-Input", lambda value: value.replace("northport-pd", "-")).items(), never)
