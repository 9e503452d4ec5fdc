"""WebAuthn assertions: published vectors, a software authenticator, what attacks do to it, and an independent implementation beside us."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import cbor2
import pytest
import webauthn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st
from webauthn.helpers.exceptions import WebAuthnException

from crypto.assertion import MAX_ASSERTION_BYTES, MAX_CLIENT_DATA_BYTES, WebAuthnAlgorithm, WebAuthnAssertion, WebAuthnKey
from crypto.canonical import b64url_encode, canonical_json
from crypto.errors import BadSignatureError, CryptoError, EncodingError, FieldError, NotCanonicalError, OversizedError
from crypto.keys import SigningKey
from tests.sample_federation import ED_KEYED, KEYED, ORIGIN, RP_ID, SoftwareAuthenticator

AUTHENTICATORS = pytest.mark.parametrize("authenticator", [KEYED, ED_KEYED], ids=["ES256", "Ed25519"])
CHALLENGE = hashlib.sha256(b"a signing input").digest()


def p256_point(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


# --- published vectors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vector:
    """One authentication of W3C Web Authentication Level 3, section "Test Vectors"; relying party example.org, origin https://example.org."""

    private_key: str
    challenge: str
    authenticator_data: str
    client_data_json: str
    signature: str
    algorithm: WebAuthnAlgorithm = WebAuthnAlgorithm.ES256

    @property
    def key(self) -> WebAuthnKey:
        secret = bytes.fromhex(self.private_key)
        if self.algorithm is WebAuthnAlgorithm.ED25519:
            raw = SigningKey.from_secret(secret).verifying_key.raw
        else:
            raw = p256_point(ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1()))
        return WebAuthnKey(self.algorithm, raw, "example.org", "https://example.org")

    @property
    def assertion(self) -> WebAuthnAssertion:
        return WebAuthnAssertion(*map(bytes.fromhex, (self.authenticator_data, self.client_data_json, self.signature)))

    def check(self) -> None:
        self.key.check_assertion(self.assertion, bytes.fromhex(self.challenge))

    def check_signature_alone(self) -> None:
        assertion = self.assertion
        message = assertion.authenticator_data + hashlib.sha256(assertion.client_data_json).digest()
        self.key.check_signature(assertion.signature, message)


LONG_CREDENTIAL_ID = Vector(
    "6fd2149bb5f1597fe549b138794bde61893b2dc32ca316de65f04808dac211dc",
    "ef1deba56dce48f674a447ccf63b9599258ce87648e5c396f2ef0ca1da460e3b",
    "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b50d00000000",
    "7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a22377833727057334f53505a307045664d396a75566d53574d36485a4935"
    "634f573875384d6f647047446a73222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73"
    "657d",
    "304502203ecef83fb12a0cae7841055f9f87103a99fd14b424194bbf06c4623d3ee6e3fd022100d2ace346db262b1374a6b70faa51f518a42ddca13a4125ce6f50"
    "52a75bac9fb6",
)
NOT_VERIFIED = Vector(
    "6e68e7a58484a3264f66b77f5d6dc5bc36a47085b615c9727ab334e8c369c2ee",
    "39c0e7521417ba54d43e8dc95174f423dee9bf3cd804ff6d65c857c9abf4d408",
    "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b51900000000",
    "7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a224f63446e55685158756c5455506f334a5558543049393770767a7a5942"
    "5039745a63685879617630314167222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73"
    "657d",
    "3046022100f50a4e2e4409249c4a853ba361282f09841df4dd4547a13a87780218deffcd380221008480ac0f0b93538174f575bf11a1dd5d78c6e486013f937295"
    "ea13653e331e87",
)
CROSS_ORIGIN = Vector(
    "96c940e769bd9f1237c119f144fa61a4d56af0b3289685ae2bef7fb89620623d",
    "876aa517ba83fdee65fcffdbca4c84eeae5d54f8041a1fc85c991e5bbb273137",
    "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b50500000000",
    "7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a226832716c463771445f65356c5f505f62796b7945377135645650674547"
    "685f49584a6b655737736e4d5463222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a74727565"
    "2c22657874726144617461223a22636c69656e74446174614a534f4e206d617920626520657874656e6465642077697468206164646974696f6e616c206669656c"
    "647320696e20746865206675747572652c207375636820617320746869733a2039327063545644304162792d713464746d6a36656667227d",
    "3046022100eb12fcf23b12764c0f122e22371fab92e283879fd798f38ee1841c951b6e40e7022100c76237ff9db77b3c56f30837cda6a09acfa2e915544e609c07"
    "33b1184036d1cf",
)
ED25519 = Vector(
    "971f38c0f73aaf0c5a614eb5e26430ae1ea0ed13e4f425d96e9662349340b0b3",
    "895957e01c633a698348a2d8a31a54b7db27e8c1c43b2080d79ae2190267bfd2",
    "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b50100000000",
    "7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a2269566c583442786a4f6d6d44534b4c596f7870557439736e364d48454f"
    "7943413135726947514a6e763949222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73"
    "657d",
    "f5c59c7e46c34f6f8cc197101ddf9934fa2595f68eb1913a637e8419eb9ba4cfdfc48f85393bc0d40b011f0d6fecb097d6607525713223a0dc0d453993dae00b",
    WebAuthnAlgorithm.ED25519,
)


def test_the_published_vector_with_a_verified_user_passes() -> None:
    LONG_CREDENTIAL_ID.check()


@pytest.mark.parametrize("vector", [NOT_VERIFIED, CROSS_ORIGIN, ED25519], ids=["none.ES256", "none.ES256.crossOrigin", "packed.EdDSA"])
def test_signatures_of_the_other_vectors_verify(vector: Vector) -> None:
    vector.check_signature_alone()


@pytest.mark.parametrize(
    ("vector", "reason"),
    [(NOT_VERIFIED, "without a verified user"), (ED25519, "without a verified user"), (CROSS_ORIGIN, "inside a foreign page")],
    ids=["none.ES256", "packed.EdDSA", "none.ES256.crossOrigin"],
)
def test_vectors_that_we_ask_more_of_are_refused(vector: Vector, reason: str) -> None:
    with pytest.raises(BadSignatureError, match=reason):
        vector.check()


# --- a software authenticator, honest and not -------------------------------------------------------------------------


@AUTHENTICATORS
def test_an_honest_assertion_passes(authenticator: SoftwareAuthenticator) -> None:
    authenticator.key.check_assertion(authenticator.get(CHALLENGE), CHALLENGE)


@AUTHENTICATORS
@pytest.mark.parametrize(
    "client",
    [{"crossOrigin": None}, {"added_by_a_newer_browser": {"a": [1.5, "x"]}}, {"tokenBinding": {"status": "supported"}}],
    ids=["no crossOrigin", "unknown member", "token binding"],
)
def test_what_browsers_may_write_passes(authenticator: SoftwareAuthenticator, client: dict[str, object]) -> None:
    authenticator.key.check_assertion(authenticator.get(CHALLENGE, client=client), CHALLENGE)


@AUTHENTICATORS
@pytest.mark.parametrize("flags", [0x05, 0x0D, 0x1D], ids=["device-bound", "backup eligible", "backed up"])
def test_flags_that_make_sense_pass(authenticator: SoftwareAuthenticator, flags: int) -> None:
    authenticator.key.check_assertion(authenticator.get(CHALLENGE, flags=flags), CHALLENGE)


OTHER = b64url_encode(hashlib.sha256(b"another signing input").digest())
CLIENT_DATA_ATTACKS: dict[str, tuple[dict[str, object], str]] = {
    "registration": ({"type": "webauthn.create"}, "another ceremony"),
    "payment": ({"type": "payment.get"}, "another ceremony"),
    "no type": ({"type": None}, "another ceremony"),
    "type is a list": ({"type": ["webauthn.get"]}, "another ceremony"),
    "challenge of another grant": ({"challenge": OTHER}, "another challenge"),
    "padded challenge": ({"challenge": b64url_encode(CHALLENGE) + "="}, "another challenge"),
    "shortened challenge": ({"challenge": b64url_encode(CHALLENGE[:-1])}, "another challenge"),
    "no challenge": ({"challenge": None}, "another challenge"),
    "phishing site": ({"origin": "https://reviewers.example.org.evil.example"}, "another origin"),
    "plain http": ({"origin": "http://reviewers.example.org"}, "another origin"),
    "another port": ({"origin": "https://reviewers.example.org:8443"}, "another origin"),
    "below the site": ({"origin": "https://www.reviewers.example.org"}, "another origin"),
    "no origin": ({"origin": None}, "another origin"),
    "framed": ({"crossOrigin": True}, "foreign page"),
    "framed, as text": ({"crossOrigin": "false"}, "foreign page"),
    "framed, as null member": ({"topOrigin": "https://evil.example"}, "foreign page"),
}


@AUTHENTICATORS
@pytest.mark.parametrize(("client", "reason"), CLIENT_DATA_ATTACKS.values(), ids=CLIENT_DATA_ATTACKS)
def test_wrong_client_data_is_refused_though_signed(authenticator: SoftwareAuthenticator, client: dict[str, object], reason: str) -> None:
    with pytest.raises(BadSignatureError, match=reason):
        authenticator.key.check_assertion(authenticator.get(CHALLENGE, client=client), CHALLENGE)


@AUTHENTICATORS
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (0x04, "present user"),
        (0x01, "verified user"),
        (0x00, "present user"),
        (0x15, "impossible flags"),
        (0x07, "impossible flags"),
        (0x25, "impossible flags"),
        (0x45, "impossible flags"),
        (0x85, "impossible flags"),
    ],
    ids=["no UP", "no UV", "neither", "BS without BE", "reserved bit 1", "reserved bit 5", "AT", "ED"],
)
def test_wrong_flags_are_refused_though_signed(authenticator: SoftwareAuthenticator, flags: int, reason: str) -> None:
    with pytest.raises(BadSignatureError, match=reason):
        authenticator.key.check_assertion(authenticator.get(CHALLENGE, flags=flags), CHALLENGE)


@AUTHENTICATORS
def test_another_relying_party_is_refused_though_signed(authenticator: SoftwareAuthenticator) -> None:
    with pytest.raises(BadSignatureError, match="another relying party"):
        authenticator.key.check_assertion(authenticator.get(CHALLENGE, rp_id="example.org"), CHALLENGE)


@AUTHENTICATORS
@pytest.mark.parametrize(
    "client_data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'"webauthn.get"',
        b"[" * 2000,
        b'{"type":"webauthn.get"',
        b'{"type":"webauthn.create","type":"webauthn.get","challenge":"%b","origin":"%b"}'
        % (b64url_encode(CHALLENGE).encode(), ORIGIN.encode()),
        b'{"a":{"b":1,"b":2},"type":"webauthn.get","challenge":"%b","origin":"%b"}' % (b64url_encode(CHALLENGE).encode(), ORIGIN.encode()),
    ],
    ids=["empty", "not UTF-8", "list", "string", "nested", "cut off", "type twice", "inner member twice"],
)
def test_client_data_that_reads_in_no_way_or_two_ways_is_refused_though_signed(
    authenticator: SoftwareAuthenticator, client_data: bytes
) -> None:
    with pytest.raises((BadSignatureError, FieldError)):
        authenticator.key.check_assertion(authenticator.over(client_data), CHALLENGE)


@AUTHENTICATORS
def test_another_credential_does_not_verify(authenticator: SoftwareAuthenticator) -> None:
    stranger = replace(authenticator, name="a stranger's key")
    with pytest.raises(BadSignatureError, match="does not verify"):
        authenticator.key.check_assertion(stranger.get(CHALLENGE), CHALLENGE)


@AUTHENTICATORS
def test_every_flipped_bit_is_refused(authenticator: SoftwareAuthenticator) -> None:
    whole = authenticator.get(CHALLENGE).to_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            with pytest.raises((BadSignatureError, EncodingError)):
                authenticator.key.check_assertion(WebAuthnAssertion.from_bytes(bytes(changed)), CHALLENGE)


def test_an_ecdsa_signature_has_a_twin_which_is_why_tokens_are_not_named_by_their_bytes() -> None:
    assertion = KEYED.get(CHALLENGE)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2, secp256r1
    first, second = utils.decode_dss_signature(assertion.signature)
    twin = replace(assertion, signature=utils.encode_dss_signature(first, order - second))
    assert twin != assertion
    KEYED.key.check_assertion(twin, CHALLENGE)


# --- an independent implementation ------------------------------------------------------------------------------------


def cose_key(key: WebAuthnKey) -> bytes:
    if key.algorithm is WebAuthnAlgorithm.ED25519:
        return cbor2.dumps({1: 1, 3: -8, -1: 6, -2: key.raw})
    return cbor2.dumps({1: 2, 3: -7, -1: 1, -2: key.raw[1:33], -3: key.raw[33:]})


def check_with_py_webauthn(key: WebAuthnKey, assertion: WebAuthnAssertion, challenge: bytes) -> None:
    response = {
        "authenticatorData": b64url_encode(assertion.authenticator_data),
        "clientDataJSON": b64url_encode(assertion.client_data_json),
        "signature": b64url_encode(assertion.signature),
    }
    webauthn.verify_authentication_response(
        credential={"id": "AAAA", "rawId": "AAAA", "type": "public-key", "response": response, "clientExtensionResults": {}},
        expected_challenge=challenge,
        expected_rp_id=key.rp_id,
        expected_origin=key.origin,
        credential_public_key=cose_key(key),
        credential_current_sign_count=0,
        require_user_verification=True,
    )


@AUTHENTICATORS
def test_what_we_accept_py_webauthn_accepts(authenticator: SoftwareAuthenticator) -> None:
    check_with_py_webauthn(authenticator.key, authenticator.get(CHALLENGE), CHALLENGE)
    check_with_py_webauthn(LONG_CREDENTIAL_ID.key, LONG_CREDENTIAL_ID.assertion, bytes.fromhex(LONG_CREDENTIAL_ID.challenge))


@AUTHENTICATORS
@given(data=st.data())
def test_what_py_webauthn_refuses_we_refuse(authenticator: SoftwareAuthenticator, data: st.DataObject) -> None:
    client: dict[str, object] = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["webauthn.get", "webauthn.create", ""]),
                "challenge": st.sampled_from([b64url_encode(CHALLENGE), OTHER]),
                "origin": st.sampled_from([ORIGIN, "https://evil.example"]),
                "crossOrigin": st.booleans(),
            },
        )
    )
    flags = data.draw(st.sampled_from([0x05, 0x01, 0x04, 0x1D, 0x00, 0x15]))
    rp_id = data.draw(st.sampled_from([RP_ID, "example.org"]))
    assertion = authenticator.get(CHALLENGE, client=client, flags=flags, rp_id=rp_id)
    if data.draw(st.booleans()):
        assertion = replace(assertion, signature=data.draw(st.binary(min_size=1, max_size=72)))
    refused: Any = None
    try:
        check_with_py_webauthn(authenticator.key, assertion, CHALLENGE)
    except (WebAuthnException, InvalidSignature) as error:
        refused = error
    if refused is not None:
        with pytest.raises(BadSignatureError):
            authenticator.key.check_assertion(assertion, CHALLENGE)
    elif client.get("crossOrigin") is not True and flags != 0x15:  # where we are stricter
        authenticator.key.check_assertion(assertion, CHALLENGE)


# --- keys and bundles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rp_id", "origin"),
    [
        ("example.org", "https://example.org.evil.example"),
        ("example.org", "https://badexample.org"),
        ("example.org", "http://example.org"),
        ("example.org", "https://example.org/"),
        ("example.org", "https://example.org:0"),
        ("example.org", "https://EXAMPLE.org"),
        ("example.org", "ftp://example.org"),
        ("", "https://"),
        (".org", "https://example.org"),
        ("-example.org", "https://-example.org"),
        ("example..org", "https://example..org"),
        ("exam ple", "https://exam ple"),
        ("a" * 254, "https://" + "a" * 254),
        ("localhost", "http://evil.localhost"),
        ("example.org", "https://" + "a" * 300 + ".example.org"),
    ],
)
def test_a_credential_of_a_site_that_cannot_be_is_refused(rp_id: str, origin: str) -> None:
    with pytest.raises(FieldError):
        replace(KEYED.key, rp_id=rp_id, origin=origin)


@pytest.mark.parametrize(
    ("rp_id", "origin"),
    [
        ("example.org", "https://example.org"),
        ("example.org", "https://legal.example.org:8443"),
        ("localhost", "http://localhost:8080"),
        ("a" * 253, "https://" + "a" * 253 + ":65535"),
    ],
)
def test_a_credential_of_its_site_or_below_or_of_a_demo_is_taken(rp_id: str, origin: str) -> None:
    assert replace(KEYED.key, rp_id=rp_id, origin=origin).key_id == KEYED.key.key_id


@pytest.mark.parametrize(
    ("algorithm", "raw"),
    [
        (WebAuthnAlgorithm.ES256, KEYED.key.raw[:-1]),
        (WebAuthnAlgorithm.ES256, KEYED.key.raw + b"\0"),
        (WebAuthnAlgorithm.ES256, bytes([2 + KEYED.key.raw[64] % 2]) + KEYED.key.raw[1:33]),
        (WebAuthnAlgorithm.ES256, bytes([6 + KEYED.key.raw[64] % 2]) + KEYED.key.raw[1:]),
        (WebAuthnAlgorithm.ES256, KEYED.key.raw[:-1] + bytes([KEYED.key.raw[-1] ^ 1])),
        (WebAuthnAlgorithm.ES256, b"\x04" + bytes(64)),
        (WebAuthnAlgorithm.ES256, ED_KEYED.key.raw),
        (WebAuthnAlgorithm.ED25519, KEYED.key.raw),
        (WebAuthnAlgorithm.ED25519, bytes(32)),
    ],
    ids=["short", "long", "compressed", "hybrid", "off the curve", "nought", "Ed25519 as ES256", "ES256 as Ed25519", "small order"],
)
def test_a_key_that_is_none_is_refused(algorithm: WebAuthnAlgorithm, raw: bytes) -> None:
    with pytest.raises(FieldError):
        WebAuthnKey(algorithm, raw, RP_ID, ORIGIN)


@given(st.binary(min_size=37, max_size=37), st.binary(min_size=1, max_size=200), st.binary(min_size=1, max_size=72))
def test_bundles_round_trip(authenticator_data: bytes, client_data: bytes, signature: bytes) -> None:
    assertion = WebAuthnAssertion(authenticator_data, client_data, signature)
    assert WebAuthnAssertion.from_bytes(assertion.to_bytes()) == assertion


def test_the_longest_bundle_is_read_and_a_longer_one_is_not_parsed() -> None:
    longest = WebAuthnAssertion(bytes(37), b"x" * MAX_CLIENT_DATA_BYTES, bytes(72)).to_bytes()
    assert WebAuthnAssertion.from_bytes(longest).to_bytes() == longest
    with pytest.raises(OversizedError):
        WebAuthnAssertion.from_bytes(b" " * (MAX_ASSERTION_BYTES + 1))


@pytest.mark.parametrize(
    "lengths",
    [(36, 10, 64), (38, 10, 64), (37, 0, 64), (37, MAX_CLIENT_DATA_BYTES + 1, 64), (37, 10, 0), (37, 10, 73)],
)
def test_members_of_impossible_length_are_refused(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(FieldError):
        WebAuthnAssertion(*map(bytes, lengths))


def test_another_member_is_refused() -> None:
    members = json.loads(KEYED.get(CHALLENGE).to_bytes())
    with pytest.raises(FieldError):
        WebAuthnAssertion.from_bytes(canonical_json({**members, "userHandle": ""}))
    with pytest.raises(NotCanonicalError):
        WebAuthnAssertion.from_bytes(json.dumps(members).encode())


@given(st.binary(max_size=300))
def test_garbage_is_refused_as_ours(data: bytes) -> None:
    with pytest.raises(CryptoError):
        WebAuthnAssertion.from_bytes(data)
    with pytest.raises(CryptoError):
        KEYED.key.check_assertion(WebAuthnAssertion(bytes(37), data or b"x", b"x"), CHALLENGE)
