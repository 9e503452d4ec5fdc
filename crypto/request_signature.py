"""HTTP requests to the broker, signed by the node's key: RFC 9421 with the content digest of RFC 9530.

Covered are `@method`, `@authority`, `@path`, `@query` and `content-digest`, in that order and always; the parameters are `created`,
`keyid` (the agency's id), `alg`, `nonce` (16 bytes in hex: the 8 that the broker's process begins all nonces with, and 8 random ones) and
`tag` (`sealmatch-1`), in that order too. A signature that covers less, or says anything else, is none. So a request cannot be altered, sent
elsewhere or given another body, and, since the broker accepts a nonce once and only while `created` is fresh, cannot be played again.

Of all that the RFC allows this is one form, one string for one meaning: each field is compared with a pattern, and no general reader of
structured fields stands between a stranger and the signature. Who writes another node with any library for RFC 9421 must keep the order.
`tests/test_request_signature.py` holds both directions against such a library.

Invariants: a `VerifiedRequest` was signed by the node key that its agency has in the caller's roster; its body is only what
`check_body` let pass. Everything that does not verify is a `BadSignatureError` whose text quotes nothing of the request.

Left to others: the clock, the prefix and which nonces were used (`check_request` knows none of them; the broker compares `created` with
its clock, at most `MAX_AGE_S` apart), whose key is whose (`roster`), what a caller may do (the broker).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from crypto.canonical import AgencyId
from crypto.errors import BadSignatureError, FieldError
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

_COVERED: Final = '("@method" "@authority" "@path" "@query" "content-digest")'
_OUR_FIELDS: Final = ("signature-input", "signature", "content-digest")
_INPUT: Final = re.compile(
    rf"""sealmatch=({re.escape(_COVERED)};created=([0-9]{{1,15}});keyid="([^"\\]{{1,64}})";alg="ed25519";nonce="([0-9a-f]{{32}})";tag="{TAG}")"""
)
_SIGNATURE: Final = re.compile(r"sealmatch=:([A-Za-z0-9+/]{85}[AQgw]==):")
"""The last letter of 64 bytes in base64 holds four bits that are zero."""
_DIGEST: Final = re.compile(r"sha-256=:[A-Za-z0-9+/]{43}=:")
_METHOD: Final = re.compile(r"[A-Z]+")
_CHARS: Final = r"A-Za-z0-9._~!$&'()*+,;=:@\-"
_URL: Final = re.compile(
    r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]+))?"
    rf"(/(?:[{_CHARS}/]|%[0-9A-Fa-f]{{2}})*)?(?:\?((?:[{_CHARS}/?]|%[0-9A-Fa-f]{{2}})*))?"
)
"""Scheme, host, port, path, query, in the encoding in which they are sent (RFC 3986); no user and no fragment."""
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


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
    target = _target(method, url)
    if target is None:
        raise FieldError("method or URL of a request to be signed is not in its encoded form")
    digest = _digest(body)
    parameters = f'{_COVERED};created={int(now.timestamp())};keyid="{agency}";alg="ed25519";nonce="{nonce.hex()}";tag="{TAG}"'
    signature = base64.b64encode(key.sign(_base(target, digest, parameters))).decode("ascii")
    return {"Content-Digest": digest, "Signature-Input": f"sealmatch={parameters}", "Signature": f"sealmatch=:{signature}:"}


@dataclass(frozen=True)
class VerifiedRequest:
    """Who signed a request, when, and under which nonce. `check_body` says whether a body is the one that was signed."""

    agency: AgencyId
    nonce: bytes = field(repr=False)
    created: datetime
    content_digest: str = field(repr=False)

    def check_body(self, body: bytes) -> None:
        """Raise `BadSignatureError` unless `body` has the digest that was signed."""
        if _digest(body) != self.content_digest:
            raise BadSignatureError("the request's body is not the one that was signed")

    def is_fresh(self, now: datetime) -> bool:
        """Whether `created` lies within `MAX_AGE_S` of `now`, an aware moment."""
        check_now(now)
        return abs((now - self.created).total_seconds()) <= MAX_AGE_S


def check_request(
    method: str, url: str, headers: Iterable[tuple[str, str]], node_key: Callable[[AgencyId], VerifyingKey]
) -> VerifiedRequest:
    """Who signed the request, after these checks, in this order; the body and the time come later.

    1. the three fields are there once each, short, and of our form; method and URL are in the form that is signed
    2. `keyid` is an agency whose node key `node_key` knows (what it raises passes through)
    3. the signature over the five components and the parameters verifies

    Everything but 2 is a `BadSignatureError`.
    """
    # 1
    fields = _our_fields(headers)
    said, signature = _INPUT.fullmatch(fields["signature-input"]), _SIGNATURE.fullmatch(fields["signature"])
    digest, target = fields["content-digest"], _target(method, url)
    if said is None or signature is None or target is None or not _DIGEST.fullmatch(digest):
        raise BadSignatureError("a request's signature covers method, authority, path, query and digest, in the form of this protocol")
    try:
        created, agency = datetime.fromtimestamp(int(said[2]), UTC), AgencyId(said[3])
    except (FieldError, ValueError, OverflowError, OSError) as error:
        raise BadSignatureError("a request's signature names no agency, or a moment that does not exist") from error
    # 2, 3
    node_key(agency).check(base64.b64decode(signature[1]), _base(target, digest, said[1]))
    return VerifiedRequest(agency, bytes.fromhex(said[4]), created, digest)


def _our_fields(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for given, value in headers:
        name = given.lower()
        if name in _OUR_FIELDS:
            if name in found:
                raise BadSignatureError(f"a request carries one {name} field")
            if len(value) > MAX_HEADER_CHARS:
                raise BadSignatureError(f"a request's {name} field is longer than {MAX_HEADER_CHARS} characters")
            found[name] = value
    if len(found) != len(_OUR_FIELDS):
        raise BadSignatureError("a request carries signature, signature input and content digest")
    return found


def _target(method: str, url: str) -> str | None:
    """The first four lines of the signature base (RFC 9421 sections 2.2 and 2.5); None for a method or URL in another encoding.

    The authority is in small letters and without the scheme's own port, an empty path is `/`, and the query begins with `?` always.
    """
    parts = _URL.fullmatch(url)
    if parts is None or not _METHOD.fullmatch(method):
        return None
    scheme, host, port, path, query = parts.groups()
    authority = host.lower() if port is None or port.lstrip("0") == _DEFAULT_PORTS[scheme] else f"{host.lower()}:{port}"
    return f'"@method": {method}\n"@authority": {authority}\n"@path": {path or "/"}\n"@query": ?{query or ""}\n'


def _base(target: str, digest: str, parameters: str) -> bytes:
    """What is signed (RFC 9421 section 2.5)."""
    return f'{target}"content-digest": {digest}\n"@signature-params": {parameters}'.encode("ascii")


def _digest(body: bytes) -> str:
    """The field `Content-Digest` (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode('ascii')}:"
