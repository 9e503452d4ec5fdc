"""HTTP requests to the broker, signed by the node's key: RFC 9421 with the content digest of RFC 9530.

Covered are `@method`, `@authority`, `@path`, `@query` and `content-digest`, in that order and always; the parameters are `created`,
`keyid` (the agency's id), `alg`, `nonce` (16 bytes in hex: the 8 that the broker's process begins all nonces with, and 8 random ones) and
`tag` (`sealmatch-1`). A signature that covers less, or says anything else, is none. So a request cannot be altered, sent elsewhere or given
another body, and, since the broker accepts a nonce once and only while `created` is fresh, cannot be played again.

Invariants: a `VerifiedRequest` was signed by the node key that its agency has in the caller's roster; its body is only what
`check_body` let pass. Everything that does not verify is a `BadSignatureError` whose text quotes nothing of the request.

Left to others: the clock, the prefix and which nonces were used (`check_request` knows none of them; the broker compares `created` with
its clock, at most `MAX_AGE_S` apart), whose key is whose (`roster`), what a caller may do (the broker).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
)

from crypto.canonical import AgencyId
from crypto.errors import BadSignatureError, FieldError, PeerError
from crypto.keys import SigningKey, VerifyingKey
from crypto.moments import check_now

TAG: Final = "sealmatch-1"
MAX_AGE_S: Final = 60
"""Seconds between `created` and the broker's clock, either way."""
NONCE_BYTES: Final = 16
NONCE_PREFIX_BYTES: Final = 8
"""Of those the first ones, which the broker's process draws at its start and tells whoever signs."""
MAX_HEADER_CHARS: Final = 4096
"""Characters of each of the three header fields that are parsed; ours have about 300."""

_LABEL: Final = "sealmatch"
_COVERED: Final = ("@method", "@authority", "@path", "@query", "content-digest")
_PARAMETERS: Final = {"created", "keyid", "alg", "nonce", "tag"}
_OUR_FIELDS: Final = ("signature-input", "signature", "content-digest")
_NONCE: Final = re.compile(r"[0-9a-f]{32}")


def fresh_prefix() -> bytes:
    """What one process of the broker begins all nonces with: 8 random bytes of the operating system."""
    return secrets.token_bytes(NONCE_PREFIX_BYTES)


def fresh_nonce(prefix: bytes = b"") -> bytes:
    """16 bytes for one request: the broker's prefix, if it is known, and random bytes of the operating system."""
    if len(prefix) not in (0, NONCE_PREFIX_BYTES):
        raise FieldError(f"a nonce's prefix has {NONCE_PREFIX_BYTES} bytes")
    return prefix + secrets.token_bytes(NONCE_BYTES - len(prefix))


def sign_request(method: str, url: str, body: bytes, *, agency: AgencyId, key: SigningKey, nonce: bytes, now: datetime) -> dict[str, str]:
    """The header fields that make this request `agency`'s: `Content-Digest`, `Signature-Input`, `Signature`.

    `method` is in capitals; `url` is absolute and encoded, exactly as it is sent; `body` is what is sent, empty for none. A retry is a
    new request with a new nonce. HAZARD: a nonce used twice makes the broker refuse the second request as a replay.
    """
    check_now(now)
    if len(nonce) != NONCE_BYTES:
        raise FieldError(f"a request's nonce has {NONCE_BYTES} bytes")
    headers: dict[str, str] = {}
    signer = HTTPMessageSigner(signature_algorithm=_Ed25519, key_resolver=_OneKey(key))
    try:
        signer.sign(
            _Request(method, url, headers),
            key_id=str(agency),
            created=now,
            nonce=nonce.hex(),
            label=_LABEL,
            tag=TAG,
            covered_component_ids=_COVERED,
            body=body,
        )
    except HTTPMessageSignaturesException as error:
        raise FieldError("method or URL of a request to be signed is not in its encoded form") from error
    return headers


@dataclass(frozen=True)
class VerifiedRequest:
    """Who signed a request, when, and under which nonce. `check_body` says whether a body is the one that was signed."""

    agency: AgencyId
    nonce: bytes = field(repr=False)
    created: datetime
    content_digest: str = field(repr=False)

    def check_body(self, body: bytes) -> None:
        """Raise `BadSignatureError` unless `body` has the digest that was signed."""
        if HTTPMessageSigner.content_digest_class.create(body) != self.content_digest:
            raise BadSignatureError("the request's body is not the one that was signed")

    def is_fresh(self, now: datetime) -> bool:
        """Whether `created` lies within `MAX_AGE_S` of `now`, an aware moment."""
        check_now(now)
        return abs((now - self.created).total_seconds()) <= MAX_AGE_S


def check_request(
    method: str, url: str, headers: Iterable[tuple[str, str]], node_key: Callable[[AgencyId], VerifyingKey]
) -> VerifiedRequest:
    """Who signed the request, after these checks, in this order; the body and the time come later.

    1. the three fields are there once each and short; one signature, of our label's kind: `created`, `keyid`, `alg`, `nonce`, `tag`
    2. `keyid` is an agency whose node key `node_key` knows (what it raises passes through if it is a `PeerError`)
    3. the signature verifies, and covers exactly the five components

    Everything but 2 is a `BadSignatureError`.
    """
    pairs = [(name.lower(), value) for name, value in headers]
    # 1
    for name in _OUR_FIELDS:
        values = [value for given, value in pairs if given == name]
        if len(values) != 1:
            raise BadSignatureError(f"a request carries one {name} field")
        if len(values[0]) > MAX_HEADER_CHARS:
            raise BadSignatureError(f"a request's {name} field is longer than {MAX_HEADER_CHARS} characters")
    keys = _RosterKeys(node_key)
    verifier = _Verifier(signature_algorithm=_Ed25519, key_resolver=keys)
    try:
        results = verifier.verify(_Request(method, url, _Pairs(pairs)), max_age=None, expect_tag=TAG)
    except (HTTPMessageSignaturesException, ValueError) as error:  # the structured-field reader raises ValueErrors of its own
        if keys.refusal is not None:
            raise keys.refusal from error  # 2
        raise BadSignatureError("the request's signature is missing, malformed or not the node key's") from error
    # 3
    if len(results) != 1:
        raise BadSignatureError("a request carries one signature")
    covered, parameters = results[0].covered_components, results[0].parameters
    if list(covered) != [*(f'"{name}"' for name in _COVERED), '"@signature-params"']:
        raise BadSignatureError("a request's signature covers method, authority, path, query and content digest, in that order")
    created, nonce = parameters.get("created"), parameters.get("nonce")
    if set(parameters) != _PARAMETERS or not isinstance(created, int) or not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise BadSignatureError("a request's signature says created, keyid, alg, nonce and tag, and nothing else")
    try:
        moment = datetime.fromtimestamp(created, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise BadSignatureError("a request's signature was created at no moment that exists") from error
    return VerifiedRequest(AgencyId(str(parameters["keyid"])), bytes.fromhex(nonce), moment, covered['"content-digest"'])


# --- what the library asks for ----------------------------------------------------------------------------------------


class _Pairs:
    """Header fields as the library reads them: every line, in order."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = pairs

    def items(self) -> Iterable[tuple[str, str]]:
        return self._pairs


@dataclass
class _Request:
    method: str
    url: str
    headers: dict[str, str] | _Pairs


class _Ed25519(HTTPSignatureAlgorithm):
    """Our own handles in the library's place: secrets stay in `SigningKey`, weak keys are refused by `VerifyingKey`."""

    algorithm_id = "ed25519"

    def __init__(self, public_key: VerifyingKey | None = None, private_key: SigningKey | None = None) -> None:
        self._public, self._private = public_key, private_key

    def sign(self, message: bytes) -> bytes:
        if self._private is None:
            raise HTTPMessageSignaturesException("no signing key")
        return self._private.sign(message)

    def verify(self, signature: bytes, message: bytes) -> None:
        if self._public is None:
            raise HTTPMessageSignaturesException("no verifying key")
        self._public.check(signature, message)


class _OneKey(HTTPSignatureKeyResolver):
    def __init__(self, key: SigningKey) -> None:
        self._key = key

    def resolve_private_key(self, key_id: str) -> SigningKey:
        return self._key


class _RosterKeys(HTTPSignatureKeyResolver):
    """Keeps what the roster said, because the library turns every exception into one."""

    def __init__(self, node_key: Callable[[AgencyId], VerifyingKey]) -> None:
        self._node_key = node_key
        self.refusal: PeerError | None = None

    def resolve_public_key(self, key_id: str) -> VerifyingKey | None:
        try:
            agency = AgencyId(key_id)
        except FieldError:
            return None
        try:
            return self._node_key(agency)
        except PeerError as error:
            self.refusal = error
            return None


class _Verifier(HTTPMessageVerifier):
    """The library reads the machine's clock here. Freshness is the broker's own check, against the clock that it was given."""

    def validate_created_and_expires(self, sig_input: object, max_age: object = None) -> None:
        """Nothing: `created` is read after the signature was verified, and `expires` is no parameter of ours."""
