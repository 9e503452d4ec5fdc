"""A JSON document with detached Ed25519 signatures: `{"signatures":[{"keyid":…,"sig":…}],"signed":{…}}`, the whole canonical JSON.

The wrapper has TUF's shape (python-tuf `Metadata`); roster, gallery manifest and sealing-key statement use it. What is signed is the
kind's label, a line feed, and the canonical bytes of `signed`; the label (`sealmatch-1/roster`, …) also stands in `signed` as `type`, so
that a signature over one kind is none over another and an old reader meets a new version by name.

Invariants: a document that was read is canonical, of the kind asked for and below its maximum; signatures are listed in ascending order
of key id, no key twice, so a document and a set of signers make one byte string. Nothing is *verified* here: whose signatures count
is left to `roster`, `manifest` and `sealing_key`.

A key id is derived from the key alone. So nobody can list one key under two names, and no two signers of a threshold are one key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from crypto.canonical import JsonObject, JsonValue, KeyId, b64url_encode, canonical_json, parse_canonical_json
from crypto.errors import FieldError, OversizedError, VersionError
from crypto.fields import Fields, check_ascending
from crypto.keys import SIGNATURE_BYTES, SigningKey, VerifyingKey

MAX_SIGNATURES: Final = 64
_KEY_ID_LABEL: Final = b"sealmatch-1/key-id\n"


def key_id(raw_public_key: bytes) -> KeyId:
    """The name of a public key: hexadecimal SHA-256 of a label and the raw key, 64 characters.

    An Ed25519 key has 32 raw bytes, a P-256 point 65, so the two kinds cannot meet.
    """
    return KeyId(hashlib.sha256(_KEY_ID_LABEL + raw_public_key).hexdigest())


@dataclass(frozen=True)
class DocumentKind:
    """A kind of document: the label that is signed with it, and the maximum length of the whole in bytes."""

    label: str
    max_bytes: int


@dataclass(frozen=True)
class UnverifiedDocument:
    """A document that was read and nothing more: `signatures` are claims of the named keys over `message`."""

    unverified_content: JsonObject = field(repr=False)
    message: bytes = field(repr=False)
    signatures: Mapping[KeyId, bytes] = field(repr=False)

    def unverified_fields(self, where: str) -> Fields:
        """A reader of the content whose `type` has been read already."""
        fields = Fields(self.unverified_content, where)
        fields.text("type")
        return fields

    def check_signed_by(self, key: VerifyingKey) -> None:
        """Raise `BadSignatureError` unless the signature under `key`'s id is there and verifies."""
        key.check(self.signatures.get(key_id(key.raw), b""), self.message)

    def check_only_signer(self, key: VerifyingKey) -> None:
        """As `check_signed_by`, and `FieldError` when somebody else signed as well: such a document has one author."""
        if len(self.signatures) > 1:
            raise FieldError("document has one author and one signature")
        self.check_signed_by(key)


def sign_document(kind: DocumentKind, content: JsonObject, *keys: SigningKey) -> bytes:
    """The bytes of `content`, with its `type` added, signed by `keys`.

    `OversizedError` if a reader would refuse the length.
    """
    signed: JsonObject = {**content, "type": kind.label}
    message = _message(kind, signed)
    return _to_bytes(kind, signed, {key_id(key.verifying_key.raw): key.sign(message) for key in keys})


def add_signature(kind: DocumentKind, data: bytes, key: SigningKey) -> bytes:
    """The same document with `key`'s signature as well; the other signatures are kept as they are, unverified."""
    document = read_document(kind, data)
    signatures = {**document.signatures, key_id(key.verifying_key.raw): key.sign(document.message)}
    return _to_bytes(kind, document.unverified_content, signatures)


def read_document(kind: DocumentKind, data: bytes) -> UnverifiedDocument:
    """Inverse of `sign_document`, verifying nothing.

    Raises `OversizedError` before parsing, `NotCanonicalError`, `FieldError` for another wrapper, `VersionError` for another kind.
    """
    wrapper = Fields(parse_canonical_json(data, max_bytes=kind.max_bytes), "document")
    signatures: dict[KeyId, bytes] = {}
    names: list[str] = []
    for entry in wrapper.children("signatures"):
        name, signature = entry.name("keyid", KeyId), entry.data("sig")
        entry.close()
        if len(signature) != SIGNATURE_BYTES:
            raise FieldError(f"document.signatures.sig has {SIGNATURE_BYTES} bytes")
        names.append(name)
        signatures[name] = signature
    check_ascending(names, 0, MAX_SIGNATURES, "document.signatures")
    content = wrapper.child("signed")
    wrapper.close()
    if content.text("type") != kind.label:
        raise VersionError("document is of another kind or version")
    signed = content.as_object()
    return UnverifiedDocument(signed, _message(kind, signed), MappingProxyType(signatures))


def content_digest(kind: DocumentKind, content: JsonObject) -> bytes:
    """SHA-256 of what every signer of `content`, without its `type`, signs: one for a document, whoever has signed it so far."""
    return hashlib.sha256(_message(kind, {**content, "type": kind.label})).digest()


def _message(kind: DocumentKind, signed: JsonObject) -> bytes:
    return kind.label.encode("ascii") + b"\n" + canonical_json(signed)


def _to_bytes(kind: DocumentKind, signed: JsonObject, signatures: Mapping[KeyId, bytes]) -> bytes:
    entries: list[JsonValue] = [{"keyid": str(name), "sig": b64url_encode(signatures[name])} for name in sorted(signatures)]
    data = canonical_json({"signatures": entries, "signed": signed})
    if len(data) > kind.max_bytes:
        raise OversizedError(f"document has {len(data)} bytes, at most {kind.max_bytes} are read")
    return data
