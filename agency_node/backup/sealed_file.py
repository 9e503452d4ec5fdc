"""The sealed file of a backup: a head in clear that says whose it is, then the node's files as one stream, encrypted piece by piece.

    "sealmatch-1/backup\n", length of the head (4 bytes), the head (canonical JSON), pieces of 1 MiB under AES-256-GCM

The key is scrypt's of a passphrase, or a fresh one that stands in the head sealed by HPKE to a restore key (`restore_key`), so that no
passphrase travels; the first line then says `backup-to-key`. Either is bound to the head by HKDF-SHA256: with another agency, node key or
moment in the head nothing opens. It is the key of one file, because salt or key are drawn for it, so the nonce of a piece is its number,
with a mark for the last one: no piece can be left out, moved or added, and a file that ends early is known by its last piece. Inside, each
file of the node has name, length and content; behind them the node key signs the head and everything before.

Invariants: what a reader is given was authenticated piece by piece, but counts only when `SealedReader.finish` has returned: then the whole
file was there and the agency's node key had signed it. No passphrase or key stands in `repr` or errors.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from agency_node.errors import RequestError, StoreError
from agency_node.holder.expunge_ledger import Reach
from crypto.canonical import AgencyId, JsonObject, KeyId, b64url_encode, canonical_json, parse_canonical_json
from crypto.envelope import OFFERED_SUITES, P256_SHA256_AES256GCM
from crypto.errors import BadSignatureError, EncodingError, FieldError, OpeningError
from crypto.fields import Fields
from crypto.keys import SIGNATURE_BYTES, SealingPrivateKey, SealingPublicKey, SigningKey, VerifyingKey
from crypto.moments import format_moment
from crypto.signed import key_id

MAGIC: Final = b"sealmatch-1/backup\n"
MAGIC_TO_KEY: Final = b"sealmatch-1/backup-to-key\n"
MAX_HEAD_BYTES: Final = 4096
MAX_NAME_BYTES: Final = 64
PIECE_BYTES: Final = 1 << 20
_TAG_BYTES: Final = 16
_SALT_BYTES: Final = 16
_CONTENT_KEY_BYTES: Final = 32
_MOVES, _COPIES = "move", "backup"
_COST: Final = 1 << 17
"""scrypt's N with r = 8, p = 1: 128 MiB and some tenths of a second for each guess (OWASP's figure for stored passwords)."""
_KEY_LABEL: Final = b"sealmatch-1/backup-key\n"
_TO_KEY_LABEL: Final = b"sealmatch-1/backup-to-key|"
_SIGNED_LABEL: Final = b"sealmatch-1/backup-content\n"
_SIGNATURE: Final = "signature"


@dataclass(frozen=True)
class SealedTo:
    """The restore key to which a file is sealed, and its content key sealed to it; `moves` if the node that made it acts no more."""

    key_id: KeyId
    sealed_key: bytes = field(repr=False)
    moves: bool

    @classmethod
    def seal(cls, content_key: bytes, agency: AgencyId, key: SealingPublicKey, *, moves: bool) -> Self:
        """Seal the key of one file."""
        name = key_id(key.raw)
        return cls(name, key.seal(OFFERED_SUITES[P256_SHA256_AES256GCM], content_key, _info(agency, name)), moves)


@dataclass(frozen=True)
class Head:
    """What stands in clear: whose backup it is, of when, how far its ledger of expunged records went, and what opens it: a passphrase with
    this salt, or the key that `to` names, and then the salt is empty."""

    agency: AgencyId
    node_key: VerifyingKey
    made_at: datetime
    expunged: Reach
    salt: bytes = field(repr=False)
    to: SealedTo | None = None

    @property
    def magic(self) -> bytes:
        """The file's first line."""
        return MAGIC if self.to is None else MAGIC_TO_KEY

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        content: JsonObject = {
            "agency": str(self.agency),
            "node_key": b64url_encode(self.node_key.raw),
            "made_at": format_moment(self.made_at),
            "expunged": self.expunged.number,
            "expunged_head": self.expunged.head.hex(),
            "expunged_at": self.expunged.at,
        }
        if self.to is None:
            return canonical_json({**content, "salt": b64url_encode(self.salt)})
        purpose = _MOVES if self.to.moves else _COPIES
        sealed: JsonObject = {"key_id": str(self.to.key_id), "sealed_key": b64url_encode(self.to.sealed_key), "purpose": purpose}
        return canonical_json({**content, **sealed})

    @classmethod
    def from_bytes(cls, data: bytes, magic: bytes = MAGIC) -> Self:
        """Inverse of `to_bytes` in a file with that first line; `EncodingError` for anything else."""
        fields = Fields(parse_canonical_json(data, max_bytes=MAX_HEAD_BYTES), "head of the backup")
        reach = Reach(fields.integer("expunged"), fields.digest("expunged_head"), fields.text("expunged_at"))
        head = cls(
            fields.name("agency", AgencyId),
            VerifyingKey(fields.data("node_key")),
            fields.moment("made_at"),
            reach,
            fields.data("salt") if magic == MAGIC else b"",
            None if magic == MAGIC else _sealed_to(fields),
        )
        fields.close()
        if head.to is None and len(head.salt) != _SALT_BYTES:
            raise FieldError("head of the backup has another salt")
        return head


def _sealed_to(fields: Fields) -> SealedTo:
    purpose = fields.text("purpose")
    if purpose not in (_MOVES, _COPIES):
        raise FieldError("head of the backup has another purpose")
    return SealedTo(fields.name("key_id", KeyId), fields.data("sealed_key"), purpose == _MOVES)


def fresh_salt() -> bytes:
    """For one file."""
    return os.urandom(_SALT_BYTES)


def fresh_key() -> bytes:
    """For one file that is sealed to a restore key."""
    return os.urandom(_CONTENT_KEY_BYTES)


class SealedWriter:
    """Writes one backup to an open file: `add` each file of the node, then `finish`. `secret` is its passphrase, or its content key."""

    def __init__(self, out: BinaryIO, head: Head, secret: str | bytes) -> None:
        self._out, self._head = out, head.to_bytes()
        self._cipher = AESGCM(_derive(secret, head.salt, self._head))
        self._number, self._waiting = 0, bytearray()
        self._hash = hashlib.sha256(self._head)
        out.write(head.magic + len(self._head).to_bytes(4, "big") + self._head)

    def add(self, name: str, size: int, content: Iterator[bytes]) -> None:
        """One file; `StoreError` when it is not as long as was said."""
        raw = name.encode("ascii")
        self._put(len(raw).to_bytes(1, "big") + raw + size.to_bytes(8, "big"))
        for part in content:
            size -= len(part)
            self._put(part)
        if size:
            raise StoreError(f"{name} changed while it was copied: make the backup again")

    def finish(self, node_key: SigningKey) -> None:
        """Sign, and write the last piece."""
        signature = node_key.sign(_SIGNED_LABEL + self._hash.digest())
        raw = _SIGNATURE.encode("ascii")
        self._put(len(raw).to_bytes(1, "big") + raw + len(signature).to_bytes(8, "big") + signature)
        self._seal(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._waiting += data
        while len(self._waiting) > PIECE_BYTES:  # one piece stays back: the last one is marked
            self._seal(bytes(self._waiting[:PIECE_BYTES]), last=False)
            del self._waiting[:PIECE_BYTES]

    def _seal(self, piece: bytes, *, last: bool) -> None:
        self._out.write(self._cipher.encrypt(_nonce(self._number, last), piece, None))
        self._number += 1


class SealedReader:
    """Reads one backup from an open file. `RequestError` for what is no backup, or does not open with this passphrase or key."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            magic = file.readline(len(MAGIC_TO_KEY))
            if magic not in (MAGIC, MAGIC_TO_KEY):
                raise FieldError("another file")
            length = int.from_bytes(file.read(4), "big")
            if length > MAX_HEAD_BYTES:
                raise FieldError("a head too long")
            self._head = file.read(length)
            self.head: Final = Head.from_bytes(self._head, magic)
        except EncodingError as error:
            raise RequestError("this is no backup of a node of this version: name the file that `sealmatch node backup` wrote") from error
        self._hash = hashlib.sha256(self._head)
        self._plain, self._next, self._number, self._ended = bytearray(), b"", 0, False

    def unlock(self, passphrase: str) -> None:
        """Derive the key and open the first piece."""
        if self.head.to is not None:
            raise RequestError(f"this backup opens with the restore key {self.head.to.key_id[:16]} and no passphrase: name it with --key")
        self._open_first(passphrase, "the passphrase is wrong")

    def unlock_with(self, key: SealingPrivateKey) -> None:
        """Open the content key with a restore key, and then the first piece."""
        to, name = self.head.to, key_id(key.public_key.raw)
        if to is None:
            raise RequestError("this backup opens with its passphrase and no key: leave --key out")
        if to.key_id != name:
            raise RequestError(f"this backup is sealed to the restore key {to.key_id[:16]}, and yours is {name[:16]}: name that one")
        try:
            secret = key.open(OFFERED_SUITES[P256_SHA256_AES256GCM], to.sealed_key, _info(self.head.agency, name))
        except OpeningError:
            raise RequestError("the backup does not open: the file's head was changed since it was sealed to this key") from None
        self._open_first(secret, "its key is another file's")

    def _open_first(self, secret: str | bytes, otherwise: str) -> None:
        self._cipher = AESGCM(_derive(secret, self.head.salt, self._head))
        self._next = self._file.read(PIECE_BYTES + _TAG_BYTES)
        try:
            self._fill(1)
        except StoreError:
            raise RequestError(f"the backup does not open: {otherwise}, or the file's head or beginning was changed") from None

    def entries(self) -> Iterator[tuple[str, int]]:
        """Name and length of each file of the node, in turn; read its `content` before the next. Ends before the signature."""
        while True:
            self._signed = self._hash.digest()
            length = self._take(1)[0]
            if length > MAX_NAME_BYTES:
                raise _damaged()
            name = self._take(length).decode("ascii", "replace")
            size = int.from_bytes(self._take(8), "big")
            if name == _SIGNATURE:
                self._size = size
                return
            yield name, size

    def content(self, size: int) -> Iterator[bytes]:
        """The content of the file that was named last."""
        while size:
            part = self._take(min(size, PIECE_BYTES))
            size -= len(part)
            yield part

    def finish(self) -> None:
        """Check that nothing follows and that the agency's node key signed all of it; only now does anything of it count."""
        if self._size != SIGNATURE_BYTES:
            raise _damaged()
        signature = self._take(SIGNATURE_BYTES)
        if self._plain or not self._ended:
            raise _damaged()
        try:
            self.head.node_key.check(signature, _SIGNED_LABEL + self._signed)
        except BadSignatureError as error:
            raise StoreError("the backup is not signed by the node key that its head names: this agency's node did not make it") from error

    def _take(self, count: int) -> bytes:
        self._fill(count)
        taken = bytes(self._plain[:count])
        del self._plain[:count]
        self._hash.update(taken)
        return taken

    def _fill(self, count: int) -> None:
        """Open pieces until so many bytes are there."""
        while len(self._plain) < count:
            if self._ended:
                raise _damaged()
            piece, self._next = self._next, self._file.read(PIECE_BYTES + _TAG_BYTES)
            self._ended = not self._next
            try:
                self._plain += self._cipher.decrypt(_nonce(self._number, self._ended), piece, None)
            except (InvalidTag, ValueError):
                raise _damaged() from None
            self._number += 1


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _info(agency: AgencyId, name: KeyId) -> bytes:
    return _TO_KEY_LABEL + f"{agency}|{name}".encode("ascii")


def _derive(secret: str | bytes, salt: bytes, head: bytes) -> bytes:
    if isinstance(secret, bytes):
        stretched = secret  # drawn for this file: there is nothing to guess
    else:
        spelled = unicodedata.normalize("NFC", secret).encode("utf-8", "surrogatepass")
        stretched = Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(spelled)
    return HKDF(hashes.SHA256(), 32, None, _KEY_LABEL + hashlib.sha256(head).digest()).derive(stretched)


def _damaged() -> StoreError:
    return StoreError("the backup is damaged or cut off: take another one; nothing was restored")
