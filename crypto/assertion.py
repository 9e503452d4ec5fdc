"""WebAuthn assertions as signatures: a person's own authenticator says yes to one challenge (W3C Web Authentication Level 3, section 7.2).

A `WebAuthnKey` is what the roster holds of a credential: algorithm, raw public key, relying party id and origin. The challenge is given by
the caller and stands for the bytes that are signed (`grant` takes SHA-256 of the JWS signing input), so the authenticator's signature
covers them. Authenticator data must be the bare 37 bytes: no attested credential, no extensions; nothing here asks for them.

Checked with `cryptography` directly; the `webauthn` package, which serves the registration ceremony, is what the tests compare with. It
reads client data with repeated members, and its import brings OpenSSL bindings that a verifier does not need.

Left to others: registering credentials, and the signature counter. It is a clone detector that needs memory; every party verifies a grant
by itself and at its own time, so only the signer's own node can keep it.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.canonical import JsonObject, JsonValue, KeyId, b64url_encode, canonical_json, parse_canonical_json
from crypto.errors import BadSignatureError, FieldError
from crypto.fields import Fields
from crypto.keys import VerifyingKey
from crypto.signed import key_id

MAX_ASSERTION_BYTES: Final = 4096
"""Bytes of a bundle; the members' own maxima are below what fits."""
AUTHENTICATOR_DATA_BYTES: Final = 37
MAX_CLIENT_DATA_BYTES: Final = 2048
MAX_SIGNATURE_BYTES: Final = 72
"""Bytes; the longest DER form of two 256-bit integers. An Ed25519 signature has 64."""
P256_POINT_BYTES: Final = 65

# Bits of the flags byte (section 6.1).
_USER_PRESENT: Final = 0x01
_USER_VERIFIED: Final = 0x04
_BACKUP_ELIGIBLE: Final = 0x08
_BACKED_UP: Final = 0x10
_ALLOWED_FLAGS: Final = _USER_PRESENT | _USER_VERIFIED | _BACKUP_ELIGIBLE | _BACKED_UP

_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9.-]+)(?::[1-9][0-9]{0,4})?")
_MAX_HOST_CHARS: Final = 253
_MAX_ORIGIN_CHARS: Final = len("https://:65535") + _MAX_HOST_CHARS


class WebAuthnAlgorithm(enum.StrEnum):
    """The two key types that are accepted; values are the names that COSE registers."""

    ES256 = "ES256"
    ED25519 = "Ed25519"


@dataclass(frozen=True)
class WebAuthnAssertion:
    """What `navigator.credentials.get()` returned, as bytes; a claim until `WebAuthnKey.check_assertion` passes.

    The constructor raises `FieldError` for members of impossible length.
    """

    authenticator_data: bytes = field(repr=False)
    client_data_json: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.authenticator_data) != AUTHENTICATOR_DATA_BYTES:
            raise FieldError(f"assertion.authenticatorData has {AUTHENTICATOR_DATA_BYTES} bytes: no extensions are used")
        if not 1 <= len(self.client_data_json) <= MAX_CLIENT_DATA_BYTES:
            raise FieldError(f"assertion.clientDataJSON has 1 to {MAX_CLIENT_DATA_BYTES} bytes")
        if not 1 <= len(self.signature) <= MAX_SIGNATURE_BYTES:
            raise FieldError(f"assertion.signature has 1 to {MAX_SIGNATURE_BYTES} bytes")

    def to_bytes(self) -> bytes:
        """The bundle: canonical JSON of the three members in base64url, under the names that browsers use."""
        return canonical_json(
            {
                "authenticatorData": b64url_encode(self.authenticator_data),
                "clientDataJSON": b64url_encode(self.client_data_json),
                "signature": b64url_encode(self.signature),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; an `EncodingError` for anything else."""
        fields = Fields(parse_canonical_json(data, max_bytes=MAX_ASSERTION_BYTES), "assertion")
        assertion = cls(fields.data("authenticatorData"), fields.data("clientDataJSON"), fields.data("signature"))
        fields.close()
        return assertion


@dataclass(frozen=True)
class WebAuthnKey:
    """A registered credential: `raw` is the uncompressed P-256 point (65 bytes) or the Ed25519 key (32 bytes).

    The key stands here raw and not as COSE bytes because CBOR spells one key in many ways, and one key must have one id. `origin` must be
    `https` on the relying party id's host or below it (section 5.1.4.1), or plain `http` on localhost for a demo. The constructor raises
    `FieldError`.
    """

    algorithm: WebAuthnAlgorithm
    raw: bytes
    rp_id: str
    origin: str

    def __post_init__(self) -> None:
        if self.algorithm is WebAuthnAlgorithm.ES256:
            self._p256()
        else:
            VerifyingKey(self.raw)
        origin = _ORIGIN.fullmatch(self.origin)
        if len(self.rp_id) > _MAX_HOST_CHARS or len(self.origin) > _MAX_ORIGIN_CHARS or not _HOST.fullmatch(self.rp_id) or origin is None:
            raise FieldError("credential's relying party is a host name and its origin https://host")
        scheme, host = origin.groups()
        if host != self.rp_id and not host.endswith("." + self.rp_id):
            raise FieldError("credential's origin is not on its relying party's host")
        if scheme == "http" and host != "localhost":
            raise FieldError("credential's origin is https, except on localhost")

    @property
    def key_id(self) -> KeyId:
        """Derived from the raw key alone: the same key of another kind or site has the same id."""
        return key_id(self.raw)

    def check_assertion(self, assertion: WebAuthnAssertion, challenge: bytes) -> None:
        """Raise `BadSignatureError` unless `assertion` is this credential's, for `challenge`, with its user present and verified.

        1. client data: an object without repeated members, of type `webauthn.get`, with the challenge and the origin, and not from a
           frame inside a foreign page; other members are allowed, as the specification foresees
        2. authenticator data: hash of the relying party id, user present, user verified, backup bits that make sense, no other flag
        3. signature over authenticator data and SHA-256 of the client data
        """
        # 1
        client = _client_data(assertion.client_data_json)
        if client.get("type") != "webauthn.get":
            raise BadSignatureError("assertion is of another ceremony")
        if client.get("challenge") != b64url_encode(challenge):
            raise BadSignatureError("assertion answers another challenge")
        if client.get("origin") != self.origin:
            raise BadSignatureError("assertion was made for another origin")
        if client.get("crossOrigin", False) is not False or "topOrigin" in client:
            raise BadSignatureError("assertion was made inside a foreign page")
        # 2
        rp_id_hash, flags = assertion.authenticator_data[:32], assertion.authenticator_data[32]
        if not hmac.compare_digest(rp_id_hash, hashlib.sha256(self.rp_id.encode("ascii")).digest()):
            raise BadSignatureError("assertion was made for another relying party")
        if not flags & _USER_PRESENT:
            raise BadSignatureError("assertion without a present user")
        if not flags & _USER_VERIFIED:
            raise BadSignatureError("assertion without a verified user")
        if flags & ~_ALLOWED_FLAGS or (flags & _BACKED_UP and not flags & _BACKUP_ELIGIBLE):
            raise BadSignatureError("assertion has impossible flags")
        # 3
        self.check_signature(assertion.signature, assertion.authenticator_data + hashlib.sha256(assertion.client_data_json).digest())

    def check_signature(self, signature: bytes, message: bytes) -> None:
        """Raise `BadSignatureError` unless `signature` (DER for ES256) is this key's over `message`.

        With ES256 there are two valid signatures for each message, (r, s) and (r, n - s): never name a thing by a token's signature bytes.
        """
        if self.algorithm is WebAuthnAlgorithm.ED25519:
            VerifyingKey(self.raw).check(signature, message)
            return
        try:
            self._p256().verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError) as error:
            raise BadSignatureError("ES256 signature does not verify") from error

    def _p256(self) -> ec.EllipticCurvePublicKey:
        if len(self.raw) != P256_POINT_BYTES:  # a compressed point has 33
            raise FieldError(f"an ES256 key is an uncompressed P-256 point of {P256_POINT_BYTES} bytes")
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.raw)
        except ValueError as error:
            raise FieldError("ES256 key is not a point of P-256") from error


def _client_data(data: bytes) -> JsonObject:
    """The object in `data`. A browser writes it, so it need not be canonical; a member twice could be read in two ways and is refused."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_members_once)
    except (ValueError, RecursionError) as error:
        raise BadSignatureError("client data is not one JSON object") from error
    if not isinstance(value, dict):
        raise BadSignatureError("client data is not one JSON object")
    return value


def _members_once(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadSignatureError("client data repeats a member")
    return members
