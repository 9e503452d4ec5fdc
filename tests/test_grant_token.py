"""Tokens: every forgery we could think of, each refused for its own reason; signing; garbage."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.canonical import AgencyId, b64url_decode, b64url_encode
from crypto.errors import (
    CryptoError,
    FieldError,
    GrantAlgorithmError,
    GrantReasonError,
    GrantSignatureError,
    MissingRoleError,
    MisuseError,
    NotCanonicalError,
    OversizedError,
    PeerError,
    SamePersonError,
    UnknownKeyError,
    VersionError,
)
from crypto.grant import verify_grant, verify_terms
from crypto.grant_basis import GrantReason
from crypto.grant_claims import MAX_POLICY_PACKS, GrantRole
from crypto.grant_token import (
    MAX_TOKEN_BYTES,
    GrantToken,
    SignatureAlgorithm,
    TokenHeader,
    add_assertion,
    add_signature,
    sign_grant,
    unsigned_grant,
    unverified_claims,
    unverified_signers,
    unverified_terms,
    webauthn_challenge,
    without_reason,
)
from crypto.limits import MAX_HOLDERS
from crypto.signed import key_id
from tests.json_mutation import Path, json_values, paths, replaced, spelled
from tests.sample_federation import (
    BOTH,
    INVESTIGATOR,
    KEYED,
    KEYED_REVIEWER,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NOW,
    ORIGINATOR,
    REVIEWER,
    assert_with,
    claims,
    digest,
    roster,
    signing_key,
    token_of,
    trust,
    two_agency_claims,
)

ROSTER = roster()
TRUSTED = trust(ROSTER)
CLAIMS = claims()
TOKEN = token_of(CLAIMS)
TWO_AGENCIES = two_agency_claims()
TWO_AGENCIES_TOKEN = token_of(TWO_AGENCIES)


# --- forging ------------------------------------------------------------------------------------------------------------


def header(name: str, role: str, **changes: Any) -> dict[str, Any]:
    members = {"alg": "Ed25519", "kid": str(key_id(signing_key(name).verifying_key.raw)), "role": role, "typ": "sealmatch-1-grant+jws"}
    return {key: value for key, value in (members | changes).items() if value is not None}


def entry(payload: bytes, members: Any, sign: Callable[[bytes], bytes]) -> dict[str, str]:
    protected = b64url_encode(json.dumps(members, sort_keys=True, separators=(",", ":")).encode())
    return {"protected": protected, "signature": b64url_encode(sign(f"{protected}.{b64url_encode(payload)}".encode()))}


PAYLOAD = CLAIMS.to_payload()
REASON = CLAIMS.reason_bytes()


def forge(payload: bytes, *entries: dict[str, str], reason: bytes | None = REASON) -> bytes:
    members: dict[str, Any] = {"payload": b64url_encode(payload), "signatures": list(entries)}
    if reason is not None:
        members["reason"] = b64url_encode(reason)
    return spelled(members)


def by(name: str, role: str, payload: bytes = PAYLOAD, **changes: Any) -> dict[str, str]:
    return entry(payload, header(name, role, **changes), signing_key(name).sign)


WITHOUT_ROLE = {name: value for name, value in header(REVIEWER, "reviewer").items() if name != "role"}
BY_INVESTIGATOR = by(INVESTIGATOR, "investigator")
BY_REVIEWER = by(REVIEWER, "reviewer")
ENTRIES: list[dict[str, str]] = json.loads(TOKEN)["signatures"]


def altered(**changes: Any) -> bytes:
    return spelled({**json.loads(PAYLOAD), **changes})


def resigned(payload: bytes, reason: bytes | None = REASON) -> bytes:
    return forge(payload, by(INVESTIGATOR, "investigator", payload), by(REVIEWER, "reviewer", payload), reason=reason)


def committed(reason: bytes) -> bytes:
    """A token duly signed over the commitment to whatever this reason says."""
    stated = json.loads(reason)
    salt = bytes.fromhex(stated.pop("salt"))
    commitment = hashlib.sha256(b"sealmatch-1/grant-reason\n" + salt + spelled(stated)).hexdigest()
    return resigned(altered(reason_commitment=commitment), reason)


def reason_with(**changes: Any) -> bytes:
    return spelled({**json.loads(REASON), **changes})


def test_the_forgers_tools_make_the_very_token_when_nothing_is_wrong() -> None:
    assert forge(PAYLOAD, BY_INVESTIGATOR, BY_REVIEWER) == TOKEN == resigned(PAYLOAD) == committed(REASON)


FORGED: dict[str, tuple[bytes, type[CryptoError]]] = {
    # signatures
    "no signature": (forge(PAYLOAD), MissingRoleError),
    "no reviewer": (forge(PAYLOAD, BY_INVESTIGATOR), MissingRoleError),
    "no investigator": (forge(PAYLOAD, BY_REVIEWER), MissingRoleError),
    "altered claim": (forge(altered(cap=50), BY_INVESTIGATOR, BY_REVIEWER), GrantSignatureError),
    "signatures changed places": (
        forge(
            PAYLOAD, {**BY_INVESTIGATOR, "signature": BY_REVIEWER["signature"]}, {**BY_REVIEWER, "signature": BY_INVESTIGATOR["signature"]}
        ),
        GrantSignatureError,
    ),
    "signed by another key under the reviewer's id": (
        forge(PAYLOAD, BY_INVESTIGATOR, entry(PAYLOAD, header(REVIEWER, "reviewer"), signing_key("stranger").sign)),
        GrantSignatureError,
    ),
    "signature of another grant": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", altered(cap=50))), GrantSignatureError),
    "short signature": (forge(PAYLOAD, BY_INVESTIGATOR, {**BY_REVIEWER, "signature": BY_REVIEWER["signature"][:-2]}), GrantSignatureError),
    "no signature bytes": (forge(PAYLOAD, BY_INVESTIGATOR, {**BY_REVIEWER, "signature": ""}), GrantSignatureError),
    "63 bytes": (
        forge(PAYLOAD, BY_INVESTIGATOR, {**BY_REVIEWER, "signature": b64url_encode(b64url_decode(BY_REVIEWER["signature"])[:-1])}),
        GrantSignatureError,
    ),
    "padded signature": (forge(PAYLOAD, BY_INVESTIGATOR, {**BY_REVIEWER, "signature": BY_REVIEWER["signature"] + "=="}), NotCanonicalError),
    # roles and keys
    "stranger": (forge(PAYLOAD, BY_INVESTIGATOR, by("stranger", "reviewer")), UnknownKeyError),
    "node key": (forge(PAYLOAD, BY_INVESTIGATOR, by(f"{NORTHPORT} node", "reviewer")), UnknownKeyError),
    "root key": (forge(PAYLOAD, BY_INVESTIGATOR, by(f"{NORTHPORT} root 1", "reviewer")), UnknownKeyError),
    "investigator's key as reviewer": (forge(PAYLOAD, BY_INVESTIGATOR, by(INVESTIGATOR, "reviewer")), UnknownKeyError),
    "reviewer's key as investigator": (forge(PAYLOAD, by(REVIEWER, "investigator"), BY_REVIEWER), UnknownKeyError),
    "another reviewer than named": (forge(PAYLOAD, BY_INVESTIGATOR, by(LAKESIDE_REVIEWER, "reviewer")), UnknownKeyError),
    "another investigator than named": (forge(PAYLOAD, by("both investigator", "investigator"), BY_REVIEWER), UnknownKeyError),
    "one person with two keys": (forge(PAYLOAD, by("both investigator", "investigator"), by("both reviewer", "reviewer")), SamePersonError),
    "second reviewer whom nobody named": (
        forge(PAYLOAD, BY_INVESTIGATOR, BY_REVIEWER, by(LAKESIDE_REVIEWER, "second_reviewer")),
        FieldError,
    ),
    "originator whom nobody named": (forge(PAYLOAD, BY_INVESTIGATOR, by(ORIGINATOR, "originator"), BY_REVIEWER), FieldError),
    "same signature twice": (forge(PAYLOAD, BY_INVESTIGATOR, BY_REVIEWER, BY_REVIEWER), FieldError),
    "two reviewers in one role": (forge(PAYLOAD, BY_INVESTIGATOR, BY_REVIEWER, by(LAKESIDE_REVIEWER, "reviewer")), FieldError),
    "reordered signatures": (forge(PAYLOAD, BY_REVIEWER, BY_INVESTIGATOR), FieldError),
    "unknown role": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "chief")), FieldError),
    # headers
    "alg none": (
        forge(PAYLOAD, BY_INVESTIGATOR, entry(PAYLOAD, header(REVIEWER, "reviewer", alg="none"), lambda _: b"")),
        GrantAlgorithmError,
    ),
    "alg HS256 keyed with the public key": (
        forge(
            PAYLOAD,
            BY_INVESTIGATOR,
            entry(
                PAYLOAD,
                header(REVIEWER, "reviewer", alg="HS256"),
                lambda message: hmac.digest(signing_key(REVIEWER).verifying_key.raw, message, "sha256"),
            ),
        ),
        GrantAlgorithmError,
    ),
    "alg EdDSA": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", alg="EdDSA")), GrantAlgorithmError),
    "alg of a security key": (
        forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", alg="sealmatch-1/webauthn-Ed25519")),
        GrantAlgorithmError,
    ),
    "alg is a list": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", alg=["Ed25519"])), FieldError),
    "another typ": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", typ="JWT")), VersionError),
    "typ of a later version": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", typ="sealmatch-2-grant+jws")), VersionError),
    "no kid": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", kid=None)), FieldError),
    "no role": (forge(PAYLOAD, BY_INVESTIGATOR, entry(PAYLOAD, WITHOUT_ROLE, signing_key(REVIEWER).sign)), FieldError),
    "no typ": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", typ=None)), FieldError),
    "crit": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", crit=["exp"])), FieldError),
    "b64 false": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", b64=False)), FieldError),
    "jwk in the header": (forge(PAYLOAD, BY_INVESTIGATOR, by("stranger", "reviewer", jwk={"kty": "OKP"})), FieldError),
    "kid in capitals": (forge(PAYLOAD, BY_INVESTIGATOR, by(REVIEWER, "reviewer", kid="A" * 64)), FieldError),
    "header that is a list": (forge(PAYLOAD, BY_INVESTIGATOR, entry(PAYLOAD, [1], signing_key(REVIEWER).sign)), NotCanonicalError),
    "unprotected header": (forge(PAYLOAD, BY_INVESTIGATOR, {**BY_REVIEWER, "header": {}}), FieldError),  # type: ignore[dict-item]
    "no protected header": (forge(PAYLOAD, BY_INVESTIGATOR, {"signature": BY_REVIEWER["signature"]}), FieldError),
    # payloads, duly signed
    "payload with a space": (resigned(PAYLOAD.replace(b'"cap":20', b'"cap": 20')), NotCanonicalError),
    "payload with a repeated member": (resigned(PAYLOAD.replace(b'"cap":20', b'"cap":20,"cap":20')), NotCanonicalError),
    "payload out of order": (resigned(json.dumps(dict(reversed(json.loads(PAYLOAD).items()))).encode()), NotCanonicalError),
    "payload with a float": (resigned(altered(cap=20.0)), NotCanonicalError),
    "payload with an unknown member": (resigned(altered(note="x")), FieldError),
    "payload of another type": (resigned(altered(type="sealmatch-1/disclosure")), VersionError),
    "payload that is a list": (resigned(b"[]"), NotCanonicalError),
    "empty payload": (resigned(b""), NotCanonicalError),
    "deadline after expiry": (resigned(altered(answer_deadline="2026-11-25T16:12:04.06Z")), FieldError),
    "one person in two roles": (resigned(altered(reviewers=[INVESTIGATOR])), SamePersonError),
    "more leads than the law allows (R32)": (resigned(altered(cap=51)), FieldError),
    "payload with the reason in it": (resigned(altered(purpose="criminal_investigation")), FieldError),
}
OF_THE_REASON: dict[str, tuple[bytes, type[CryptoError]]] = {
    "no reason": (resigned(PAYLOAD, None), GrantReasonError),
    "reason of another grant": (
        resigned(PAYLOAD, replace(CLAIMS, case_commitment=digest("another case"), reason_salt=digest("other")).reason_bytes()),
        GrantReasonError,
    ),
    "reason under another salt": (resigned(PAYLOAD, replace(CLAIMS, reason_salt=digest("other")).reason_bytes()), GrantReasonError),
    "another offence than the one signed": (
        resigned(PAYLOAD, reason_with(offence={"nibrs": "23A", "statute": "Wis. Stat. 943.20"})),
        GrantReasonError,
    ),
    "empty reason": (resigned(PAYLOAD, b""), NotCanonicalError),
    "reason with a space": (resigned(PAYLOAD, REASON.replace(b":", b": ", 1)), NotCanonicalError),
    "reason with an unknown member": (committed(reason_with(note="x")), FieldError),
    "reason of another version": (committed(reason_with(type="sealmatch-2/grant-reason")), VersionError),
    "investigation of no offence": (committed(reason_with(offence=None)), FieldError),
    "immigration purpose (R10)": (committed(reason_with(purpose="immigration")), FieldError),
    "sketch (R20)": (committed(reason_with(probe_source="sketch")), FieldError),
    "live video (R12)": (committed(reason_with(probe_source="live_video")), FieldError),
}


@pytest.mark.parametrize(("token", "error"), (FORGED | OF_THE_REASON).values(), ids=FORGED | OF_THE_REASON)
def test_a_forged_token_is_refused_for_its_own_reason(token: bytes, error: type[CryptoError]) -> None:
    with pytest.raises(CryptoError) as caught:
        verify_grant(token, TRUSTED, NOW)
    assert type(caught.value) is error


@pytest.mark.parametrize(("token", "error"), FORGED.values(), ids=FORGED)
def test_the_broker_refuses_the_same_forgeries_without_their_reason(token: bytes, error: type[CryptoError]) -> None:
    bare = spelled({name: value for name, value in json.loads(token).items() if name != "reason"})
    with pytest.raises(CryptoError) as caught:
        verify_terms(bare, TRUSTED, NOW)
    assert type(caught.value) is error


@pytest.mark.parametrize("token", [TOKEN, *(token for token, _ in OF_THE_REASON.values() if b'"reason"' in token)])
def test_the_broker_refuses_a_reason_whatever_it_says(token: bytes) -> None:
    with pytest.raises(FieldError, match="carries its reason"):
        verify_terms(token, TRUSTED, NOW)


def test_without_its_reason_a_token_is_the_same_grant() -> None:
    bare = without_reason(TOKEN)
    assert bare == resigned(PAYLOAD, None) == without_reason(bare)
    assert unverified_terms(bare) == unverified_terms(TOKEN) == CLAIMS.terms
    assert unverified_signers(bare) == unverified_signers(TOKEN)
    with pytest.raises(GrantReasonError):
        unverified_claims(bare)


TEXT = TOKEN.decode()
RESPELT: dict[str, str] = {
    "space": TEXT.replace(":", ": ", 1),
    "line feed at the end": TEXT + "\n",
    "second document": TEXT + TEXT,
    "members reordered": json.dumps(dict(reversed(json.loads(TEXT).items())), separators=(",", ":")),
    "payload twice": TEXT.replace('{"payload"', '{"payload":"e30","payload"', 1),
    "reason twice": TEXT.replace('"reason"', '"reason":"e30","reason"', 1),
    "signatures twice": TEXT[:-1] + ',"signatures":[]}',
    "unknown member": TEXT[:-1] + ',"unprotected":{}}',
    "flattened form beside the general": '{"header":{},' + TEXT[1:],
    "escape": TEXT.replace("payload", "pa\\u0079load", 1),
    "byte order mark": "\ufeff" + TEXT,
    "wide letter": TEXT.replace('"e', '"ｅ', 1),
    "compact form": f"{ENTRIES[0]['protected']}.{json.loads(TEXT)['payload']}.{ENTRIES[0]['signature']}",
    "list": f"[{TEXT}]",
    "nothing": "",
}


@pytest.mark.parametrize("text", RESPELT.values(), ids=RESPELT)
def test_a_token_has_one_spelling(text: str) -> None:
    assert text != TEXT
    with pytest.raises((NotCanonicalError, FieldError)):
        verify_grant(text.encode(), TRUSTED, NOW)


@pytest.mark.parametrize("token", [TOKEN, TWO_AGENCIES_TOKEN], ids=["two signatures", "four signatures"])
def test_a_flipped_bit_at_every_byte_is_refused(token: bytes) -> None:
    for place in range(len(token)):
        changed = bytearray(token)
        changed[place] ^= 1 << (place % 7)
        with pytest.raises(PeerError):
            verify_grant(bytes(changed), TRUSTED, NOW)


def test_every_shorter_and_some_longer_tokens_are_refused() -> None:
    for length in range(len(TOKEN)):
        with pytest.raises(NotCanonicalError):
            verify_grant(TOKEN[:length], TRUSTED, NOW)
    for more in (b"\0", b" ", b"}", b"]}"):
        with pytest.raises(NotCanonicalError):
            verify_grant(TOKEN + more, TRUSTED, NOW)


def test_nothing_longer_than_the_maximum_is_parsed_and_the_longest_is_read() -> None:
    with pytest.raises(OversizedError):
        verify_grant(b"[" * (MAX_TOKEN_BYTES + 1), TRUSTED, NOW)
    holders = tuple(sorted(AgencyId(f"h{number:03d}".ljust(64, "x")) for number in range(MAX_HOLDERS)))
    packs = tuple(sorted(digest(f"pack {number}") for number in range(MAX_POLICY_PACKS)))
    longest = token_of(replace(TWO_AGENCIES, holders=holders, policy_packs=packs))
    assert GrantToken.from_bytes(longest).unverified_claims().holders == holders


def test_a_token_that_no_reader_would_take_is_not_made() -> None:
    frame = len(GrantToken(b"", ()).to_bytes())
    longest = GrantToken(bytes((MAX_TOKEN_BYTES - frame) * 3 // 4), ())
    assert len(longest.to_bytes()) == MAX_TOKEN_BYTES
    assert GrantToken.from_bytes(longest.to_bytes()) == longest
    with pytest.raises(OversizedError):
        GrantToken(longest.payload + b"x", ()).to_bytes()


def test_the_same_person_with_two_keys_is_refused_even_if_the_claims_name_others() -> None:
    asked = replace(CLAIMS, investigator=BOTH, reviewers=(REVIEWER,))
    payload = asked.to_payload()
    with pytest.raises(SamePersonError):
        verify_grant(
            forge(payload, by("both investigator", "investigator", payload), by("both reviewer", "reviewer", payload)), TRUSTED, NOW
        )


def test_no_person_docket_or_fact_is_printed() -> None:
    verified = verify_grant(TOKEN, TRUSTED, NOW), verify_terms(without_reason(TOKEN), TRUSTED, NOW)
    opened = GrantReason.from_reason_bytes(REASON)
    printed = [repr(value) for value in (CLAIMS, CLAIMS.terms, opened, *verified, CLAIMS.basis, GrantToken.from_bytes(TOKEN))]
    for token, _ in (FORGED | OF_THE_REASON).values():
        with pytest.raises(CryptoError) as caught:
            verify_grant(token, TRUSTED, NOW)
        error: BaseException | None = caught.value
        while isinstance(error, CryptoError):
            printed.append(repr(error.args))
            error = error.__cause__
    for text in printed:
        for private in ("26-CF-101", "Circuit", "940.19", "13A", INVESTIGATOR, REVIEWER):
            assert private not in text
        for secret in (CLAIMS.probe_digest, CLAIMS.reason_salt):
            assert secret.hex() not in text
            assert repr(secret) not in text


# --- security keys on grants --------------------------------------------------------------------------------------------

KEYED_CLAIMS = replace(CLAIMS, reviewers=(KEYED_REVIEWER,))
HALF = sign_grant(KEYED_CLAIMS, GrantRole.INVESTIGATOR, signing_key(INVESTIGATOR))
CHALLENGE = webauthn_challenge(HALF, GrantRole.REVIEWER, KEYED.key)


def with_bundle(bundle: bytes) -> bytes:
    """The half-signed token with a bundle that nobody checked."""
    token = GrantToken.from_bytes(HALF)
    return token.with_signature(TokenHeader(SignatureAlgorithm.WEBAUTHN_ES256, KEYED.key.key_id, GrantRole.REVIEWER), bundle).to_bytes()


def test_the_challenge_is_the_digest_of_the_signing_input() -> None:
    token = json.loads(assert_with(HALF, GrantRole.REVIEWER, KEYED))
    signed = token["signatures"][1]
    assert hashlib.sha256(f"{signed['protected']}.{token['payload']}".encode()).digest() == CHALLENGE
    assert json.loads(b64url_decode(signed["protected"])) == {
        "alg": "sealmatch-1/webauthn-ES256",
        "kid": KEYED.key.key_id,
        "role": "reviewer",
        "typ": "sealmatch-1-grant+jws",
    }
    bundle = json.loads(b64url_decode(signed["signature"]))
    assert json.loads(b64url_decode(bundle["clientDataJSON"]))["challenge"] == b64url_encode(CHALLENGE)


ASSERTED: dict[str, Callable[[], bytes]] = {
    "wrong challenge": lambda: KEYED.get(digest("challenge")).to_bytes(),
    "challenge of another role": lambda: KEYED.get(
        webauthn_challenge(unsigned_grant(replace(CLAIMS, reviewers=(REVIEWER, KEYED_REVIEWER))), GrantRole.SECOND_REVIEWER, KEYED.key)
    ).to_bytes(),
    "challenge of another grant": lambda: KEYED.get(
        webauthn_challenge(unsigned_grant(replace(KEYED_CLAIMS, cap=50)), GrantRole.REVIEWER, KEYED.key)
    ).to_bytes(),
    "wrong origin": lambda: KEYED.get(CHALLENGE, client={"origin": "https://evil.example"}).to_bytes(),
    "wrong relying party": lambda: KEYED.get(CHALLENGE, rp_id="evil.example").to_bytes(),
    "user not verified": lambda: KEYED.get(CHALLENGE, flags=0x01).to_bytes(),
    "user not present": lambda: KEYED.get(CHALLENGE, flags=0x04).to_bytes(),
    "another person's key": lambda: replace(KEYED, name="stranger").get(CHALLENGE).to_bytes(),
    "bare signature": lambda: KEYED.sign(CHALLENGE),
    "no bundle": lambda: b"",
    "bundle with a space": lambda: KEYED.get(CHALLENGE).to_bytes() + b" ",
}


@pytest.mark.parametrize("bundle", ASSERTED.values(), ids=ASSERTED)
def test_a_wrong_assertion_is_a_wrong_signature(bundle: Callable[[], bytes]) -> None:
    with pytest.raises(GrantSignatureError):
        verify_grant(with_bundle(bundle()), TRUSTED, NOW)
    verify_grant(with_bundle(KEYED.get(CHALLENGE).to_bytes()), TRUSTED, NOW)


def test_a_wrong_assertion_is_not_even_added() -> None:
    with pytest.raises(GrantSignatureError):
        add_assertion(HALF, GrantRole.REVIEWER, KEYED.key, KEYED.get(CHALLENGE, flags=0x01))


def test_a_security_keys_signature_is_not_taken_as_a_plain_one() -> None:
    """Same kid, header says `Ed25519`: the roster says which kind the key is."""
    token = GrantToken.from_bytes(HALF)
    header_ = TokenHeader(SignatureAlgorithm.ED25519, KEYED.key.key_id, GrantRole.REVIEWER)
    with pytest.raises(GrantAlgorithmError):
        verify_grant(token.with_signature(header_, bytes(64)).to_bytes(), TRUSTED, NOW)


# --- signing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [without_reason(HALF), resigned(PAYLOAD, replace(CLAIMS, reason_salt=digest("other")).reason_bytes())],
    ids=["no reason", "another reason"],
)
def test_nobody_signs_what_they_cannot_read(token: bytes) -> None:
    with pytest.raises(GrantReasonError):
        add_signature(token, GrantRole.REVIEWER, signing_key(REVIEWER))
    with pytest.raises(GrantReasonError):
        webauthn_challenge(token, GrantRole.REVIEWER, KEYED.key)
    with pytest.raises(GrantReasonError):
        add_assertion(token, GrantRole.REVIEWER, KEYED.key, KEYED.get(CHALLENGE))


def test_nobody_signs_twice_or_in_a_role_that_the_grant_does_not_name() -> None:
    with pytest.raises(MisuseError):
        add_signature(TOKEN, GrantRole.REVIEWER, signing_key(REVIEWER))
    with pytest.raises(MisuseError):
        add_signature(TOKEN, GrantRole.ORIGINATOR, signing_key(ORIGINATOR))
    with pytest.raises(MisuseError):
        webauthn_challenge(TOKEN, GrantRole.REVIEWER, KEYED.key)
    with pytest.raises(MisuseError):
        add_assertion(TOKEN, GrantRole.SECOND_REVIEWER, KEYED.key, KEYED.get(CHALLENGE))


# --- properties ---------------------------------------------------------------------------------------------------------
@given(st.binary(max_size=400))
def test_garbage_is_refused_as_ours(data: bytes) -> None:
    for parse in (
        GrantToken.from_bytes,
        unverified_claims,
        unverified_terms,
        unverified_signers,
        without_reason,
        lambda token: verify_grant(token, TRUSTED, NOW),
        lambda token: verify_terms(token, TRUSTED, NOW),
    ):
        with pytest.raises(PeerError):
            parse(data)
    with pytest.raises(PeerError):
        verify_grant(resigned(data), TRUSTED, NOW)
    with pytest.raises(PeerError):
        verify_grant(resigned(PAYLOAD, data), TRUSTED, NOW)


@given(st.sampled_from(paths(json.loads(TWO_AGENCIES_TOKEN))), json_values)
def test_a_token_with_any_member_replaced_is_refused_as_ours(path: Path, value: Any) -> None:
    data = replaced(json.loads(TWO_AGENCIES_TOKEN), path, value)
    if data != TWO_AGENCIES_TOKEN:
        with pytest.raises(PeerError):
            verify_grant(data, TRUSTED, NOW)


@given(st.sampled_from(["alg", "kid", "role", "typ", "new"]), json_values)
def test_a_header_with_any_member_replaced_and_signed_again_is_refused_as_ours(member: str, value: Any) -> None:
    members = header(REVIEWER, "reviewer") | {member: value}
    if members == header(REVIEWER, "reviewer"):
        return
    with pytest.raises(PeerError):
        verify_grant(forge(PAYLOAD, BY_INVESTIGATOR, entry(PAYLOAD, members, signing_key(REVIEWER).sign)), TRUSTED, NOW)
