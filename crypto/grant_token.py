"""Grants as tokens: JWS general JSON (RFC 7515 section 7.2.1), one signature per role; reading, and adding signatures.

    {"payload":…,"reason":…,"signatures":[{"protected":…,"signature":…},…]}

`payload` are the signed terms; `reason`, a member beside them as the RFC allows, is what they commit to. The broker is given the token
`without_reason`, and what is signed is the same.

Stricter than the RFC, so that a grant with a set of signers is one byte string: the whole token, each protected header and the payload are
RFC 8785 canonical JSON; there is no unprotected header; the protected header is exactly `alg`, `kid`, `role`, `typ`; signatures stand in
ascending order of role, each role once. `alg` is `Ed25519` (RFC 8037, RFC 9864) or one of the two private names of `SignatureAlgorithm`
for WebAuthn, where the authenticator signs a challenge that is SHA-256 of the JWS signing input (RFC 7515 section 5.1) and the signature
member is the bundle of `assertion`.

Invariants: a `GrantToken` has that form; nothing of it is verified. That is left to `grant`. Nobody is given anything to sign before its
reason opens. A token is named by its grant digest and never
by its bytes: an ES256 signature can be turned into a second valid one by anybody.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Self

from crypto.assertion import WebAuthnAlgorithm, WebAuthnAssertion, WebAuthnKey
from crypto.canonical import JsonObject, JsonValue, KeyId, b64url_decode, b64url_encode, canonical_json, parse_canonical_json
from crypto.errors import (
    BadSignatureError,
    GrantAlgorithmError,
    GrantReasonError,
    GrantSignatureError,
    MisuseError,
    OversizedError,
    VersionError,
)
from crypto.fields import Fields, check_ascending
from crypto.grant_claims import GrantClaims, GrantRole, GrantTerms
from crypto.keys import SigningKey
from crypto.signed import key_id

JWS_TYPE: Final = "sealmatch-1-grant+jws"
"""The `typ` of every protected header: it keeps these signatures apart from any other JWS."""
MAX_TOKEN_BYTES: Final = 80 << 10
"""Bytes: the largest payload, four WebAuthn bundles and the longest reason in base64url take 74 thousand."""
_MAX_HEADER_BYTES: Final = 256


class SignatureAlgorithm(enum.StrEnum):
    """The `alg` values. The WebAuthn ones are ours (RFC 7515 section 4.1.1, collision-resistant): no JWS library takes them for its own."""

    ED25519 = "Ed25519"
    WEBAUTHN_ES256 = "sealmatch-1/webauthn-ES256"
    WEBAUTHN_ED25519 = "sealmatch-1/webauthn-Ed25519"


WEBAUTHN_ALGORITHMS: Final[Mapping[WebAuthnAlgorithm, SignatureAlgorithm]] = MappingProxyType(
    {
        WebAuthnAlgorithm.ES256: SignatureAlgorithm.WEBAUTHN_ES256,
        WebAuthnAlgorithm.ED25519: SignatureAlgorithm.WEBAUTHN_ED25519,
    }
)


@dataclass(frozen=True)
class TokenHeader:
    """A protected header. `segment` is its only spelling, since it is canonical JSON."""

    algorithm: SignatureAlgorithm
    key_id: KeyId
    role: GrantRole

    @property
    def segment(self) -> str:
        """Base64url of the header, as it is signed."""
        members: JsonObject = {"alg": self.algorithm.value, "kid": str(self.key_id), "role": self.role.value, "typ": JWS_TYPE}
        return b64url_encode(canonical_json(members))

    @classmethod
    def from_segment(cls, segment: str) -> Self:
        """Inverse of `segment`; an `EncodingError`, or `GrantAlgorithmError` for `none`, `HS256` and whatever else is not ours."""
        fields = Fields(parse_canonical_json(b64url_decode(segment), max_bytes=_MAX_HEADER_BYTES), "header")
        if fields.text("typ") != JWS_TYPE:
            raise VersionError("protected header is of another type or version of token")
        try:
            algorithm = SignatureAlgorithm(fields.text("alg"))
        except ValueError as error:
            raise GrantAlgorithmError("protected header names an algorithm that no grant is signed with") from error
        header = cls(algorithm, fields.name("kid", KeyId), fields.choice("role", GrantRole))
        fields.close()
        return header


@dataclass(frozen=True)
class TokenSignature:
    """One member of `signatures`: 64 bytes of Ed25519, or the bundle of a WebAuthn assertion."""

    header: TokenHeader
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class GrantToken:
    """A token in its one form: payload, signatures in ascending order of distinct roles, the reason if it is there. Nothing is verified."""

    payload: bytes = field(repr=False)
    signatures: tuple[TokenSignature, ...]
    reason: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_ascending([entry.header.role for entry in self.signatures], 0, len(GrantRole), "token.signatures")

    def to_bytes(self) -> bytes:
        """The token on the wire; `OversizedError` if it would not be read."""
        entries: list[JsonValue] = [
            {"protected": entry.header.segment, "signature": b64url_encode(entry.signature)} for entry in self.signatures
        ]
        members: JsonObject = {"payload": b64url_encode(self.payload), "signatures": entries}
        if self.reason is not None:
            members["reason"] = b64url_encode(self.reason)
        data = canonical_json(members)
        if len(data) > MAX_TOKEN_BYTES:
            raise OversizedError(f"token has {len(data)} bytes, at most {MAX_TOKEN_BYTES} are read")
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`.

        Raises `OversizedError` before parsing, `NotCanonicalError`, `FieldError` (an unprotected header is an unknown member), and the
        errors of `TokenHeader.from_segment`.
        """
        fields = Fields(parse_canonical_json(data, max_bytes=MAX_TOKEN_BYTES), "token")
        entries = []
        for child in fields.children("signatures"):
            entries.append(TokenSignature(TokenHeader.from_segment(child.text("protected")), child.data("signature")))
            child.close()
        reason = fields.data("reason") if "reason" in fields.as_object() else None
        token = cls(fields.data("payload"), tuple(entries), reason)
        fields.close()
        return token

    def unverified_terms(self) -> GrantTerms:
        """What the payload says."""
        return GrantTerms.from_payload(self.payload)

    def unverified_claims(self) -> GrantClaims:
        """What payload and reason say together; `GrantReasonError` if the reason is missing or another."""
        if self.reason is None:
            raise GrantReasonError("the token came without its reason")
        return GrantClaims.from_parts(self.payload, self.reason)

    def signing_input(self, header: TokenHeader) -> bytes:
        """The octets that are signed (RFC 7515 section 5.1, step 5)."""
        return f"{header.segment}.{b64url_encode(self.payload)}".encode("ascii")

    def challenge(self, header: TokenHeader) -> bytes:
        """What an authenticator is asked to sign in place of the signing input: its SHA-256, 32 bytes."""
        return hashlib.sha256(self.signing_input(header)).digest()

    def with_signature(self, header: TokenHeader, signature: bytes) -> GrantToken:
        """This token and one signature more."""
        entries = (*self.signatures, TokenSignature(header, signature))
        return replace(self, signatures=tuple(sorted(entries, key=lambda entry: entry.header.role)))

    def new_header(self, role: GrantRole, algorithm: SignatureAlgorithm, name: KeyId) -> TokenHeader:
        """The header of a signature still to be made; `MisuseError` if the grant names nobody for the role or it has signed.

        `GrantReasonError` if the reason does not open: nobody signs a commitment to what nobody can read.
        """
        if role not in self.unverified_claims().signatories:
            raise MisuseError("grant names nobody for that role")
        if any(entry.header.role is role for entry in self.signatures):
            raise MisuseError("token bears a signature in that role already")
        return TokenHeader(algorithm, name, role)


def unsigned_grant(claims: GrantClaims) -> bytes:
    """A token without a signature, to be passed from signer to signer. It authorises nothing."""
    return GrantToken(claims.to_payload(), (), claims.reason_bytes()).to_bytes()


def sign_grant(claims: GrantClaims, role: GrantRole, key: SigningKey) -> bytes:
    """A token with its first signature, of kind `ed25519`."""
    return add_signature(unsigned_grant(claims), role, key)


def add_signature(data: bytes, role: GrantRole, key: SigningKey) -> bytes:
    """The token with one Ed25519 signature more; the others are kept as they are, unverified.

    Who signs has looked at `unverified_claims`. An `EncodingError` for a malformed token, `GrantReasonError` if its reason does not open,
    `MisuseError` if the grant names nobody for that role or somebody has signed in it.
    """
    token = GrantToken.from_bytes(data)
    header = token.new_header(role, SignatureAlgorithm.ED25519, key_id(key.verifying_key.raw))
    return token.with_signature(header, key.sign(token.signing_input(header))).to_bytes()


def webauthn_challenge(data: bytes, role: GrantRole, key: WebAuthnKey) -> bytes:
    """The 32 bytes that the person's authenticator is asked to sign; errors as `add_signature`."""
    token = GrantToken.from_bytes(data)
    return token.challenge(token.new_header(role, WEBAUTHN_ALGORITHMS[key.algorithm], key.key_id))


def add_assertion(data: bytes, role: GrantRole, key: WebAuthnKey, assertion: WebAuthnAssertion) -> bytes:
    """The token with one WebAuthn signature more, if the assertion is `key`'s for it (`GrantSignatureError`); errors as `add_signature`."""
    token = GrantToken.from_bytes(data)
    header = token.new_header(role, WEBAUTHN_ALGORITHMS[key.algorithm], key.key_id)
    try:
        key.check_assertion(assertion, token.challenge(header))
    except BadSignatureError as error:
        raise GrantSignatureError("assertion is not this credential's for this grant") from error
    return token.with_signature(header, assertion.to_bytes()).to_bytes()


def without_reason(data: bytes) -> bytes:
    """The token as the broker is given it: the same payload and signatures. An `EncodingError` for a malformed token."""
    return replace(GrantToken.from_bytes(data), reason=None).to_bytes()


def unverified_claims(data: bytes) -> GrantClaims:
    """What a token asks for and why, to be shown to the next signer. Nobody need have signed it; `GrantReasonError` without its reason."""
    return GrantToken.from_bytes(data).unverified_claims()


def unverified_terms(data: bytes) -> GrantTerms:
    """What a token asks for, with or without its reason. Nobody need have signed it."""
    return GrantToken.from_bytes(data).unverified_terms()


def unverified_signers(data: bytes) -> Mapping[GrantRole, KeyId]:
    """Which roles bear a signature, and under which key ids; none is verified."""
    return MappingProxyType({entry.header.role: entry.header.key_id for entry in GrantToken.from_bytes(data).signatures})
