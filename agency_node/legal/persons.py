"""Keys of persons, legal offices and root holders: each a file of its owner's own, apart from any node's folder.

A node's administrator must not be able to sign as an investigator or a reviewer, nor make somebody a reviewer, nor open what is sealed for
discovery; so these keys lie where their owners keep them, on a token or a home directory, under a passphrase that comes from the
environment variable SEALMATCH_PASSPHRASE or from a prompt and never from an argument, which other users of the machine could read.

The file is canonical JSON. In clear: kind, owner, role and public key, so that a person sees whose it is. The secret is sealed by
AES-256-GCM under a key that scrypt derives from the passphrase, and everything in clear is its associated data. Invariants: a file whose
owner, role or any other word was changed does not open, not with the right passphrase either; a file is readable by its owner only, and
none is overwritten; no secret or passphrase stands in `repr`, errors or logs. A key without passphrase is made only when that is asked for
in so many words.

(PKCS#8 was not taken: its passphrase encryption in `cryptography` is PBKDF2 with 2,048 rounds and AES-CBC without authentication, quick to
guess against and blind to change.)

Left to others: whether the roster lists a key, for whom and in which role (`crypto.roster`); what is signed.
"""

from __future__ import annotations

import enum
import os
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from getpass import getpass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from agency_node.errors import RequestError
from crypto.canonical import AgencyId, JsonObject, KeyId, PersonId, b64url_encode, canonical_json, parse_canonical_json
from crypto.errors import EncodingError, FieldError, MisuseError
from crypto.fields import Fields
from crypto.keys import SealingPrivateKey, SealingPublicKey, SigningKey, VerifyingKey
from crypto.root_set import RootKey
from crypto.roster_entries import Credential, PersonRole

PASSPHRASE_VARIABLE: Final = "SEALMATCH_PASSPHRASE"  # noqa: S105  # the name, not the thing
MAX_FILE_BYTES: Final = 4096

_TYPE: Final = "sealmatch-1/key-file"
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_COST: Final = 1 << 17
"""scrypt's N with r = 8, p = 1: 128 MiB and some tenths of a second for each guess (OWASP's figure for stored passwords)."""
_COST_WITHOUT_PASSPHRASE: Final = 2
"""There is nothing to guess."""


class KeyKind(enum.StrEnum):
    """What a key file is for."""

    PERSON = "person"
    DISCOVERY = "discovery"
    OFFICE = "office"
    ROOT = "root"
    RESTORE = "restore"


class _Protection(enum.StrEnum):
    SOME = "passphrase"
    NONE = "none"


_KIND_WORDS: Final = {
    KeyKind.PERSON: "a person's key, made by `sealmatch person init`",
    KeyKind.DISCOVERY: "a discovery key, made by `sealmatch person discovery`",
    KeyKind.OFFICE: "a legal office's key, made by `sealmatch roster office-key`",
    KeyKind.ROOT: "a root key, made by `sealmatch roster root-key`",
    KeyKind.RESTORE: "a restore key, made by `sealmatch node restore-key`",
}


@dataclass(frozen=True)
class PersonKey:
    """One key of one person in one role."""

    person_id: PersonId
    role: PersonRole
    signing_key: SigningKey = field(repr=False)

    @property
    def credential(self) -> Credential:
        """What the roster lists of it."""
        return Credential(self.role, self.signing_key.verifying_key)

    @property
    def key_id(self) -> KeyId:
        """Its name in grants and in the roster."""
        return self.credential.key_id


@dataclass(frozen=True)
class DiscoveryKey:
    """The key of a legal office to which the scores of its agencies' searches are sealed."""

    agency: AgencyId
    sealing_key: SealingPrivateKey = field(repr=False)


@dataclass(frozen=True)
class RestoreKey:
    """The key of a machine to which a node of that agency is to come: a backup that is sealed to it opens there alone."""

    agency: AgencyId
    sealing_key: SealingPrivateKey = field(repr=False)


@dataclass(frozen=True)
class OfficeKey:
    """The key by which the head of a legal office says whose reviewers' keys are the office's."""

    agency: AgencyId
    signing_key: SigningKey = field(repr=False)


@dataclass(frozen=True)
class RootSigningKey:
    """A key that signs rosters, and the agency that holds it."""

    holder: AgencyId
    signing_key: SigningKey = field(repr=False)

    @property
    def root_key(self) -> RootKey:
        """What the root set lists of it."""
        return RootKey(self.holder, self.signing_key.verifying_key)


@dataclass(frozen=True)
class _Head:
    """What stands in clear."""

    kind: KeyKind
    owner: str
    role: PersonRole | None
    public: bytes
    protection: _Protection

    def to_json(self) -> JsonObject:
        return {
            "type": _TYPE,
            "kind": self.kind.value,
            "owner": self.owner,
            "role": None if self.role is None else self.role.value,
            "public": b64url_encode(self.public),
            "protection": self.protection.value,
        }


def create_person_key(
    path: Path, person_id: PersonId, role: PersonRole, passphrase: str, *, without_passphrase: bool = False
) -> JsonObject:
    """Write a fresh key for that person and role into a new file, and return the credential for the roster (`Credential.to_json`).

    `RequestError` if the file is there already or cannot be written, and for an empty passphrase unless `without_passphrase`.
    """
    key = SigningKey.generate()
    made = PersonKey(person_id, role, key)
    _write(path, KeyKind.PERSON, person_id, role, key.verifying_key.raw, key.export_secret(), passphrase, without_passphrase)
    return made.credential.to_json()


def read_person_key(path: Path, passphrase: str | None = None) -> PersonKey:
    """The key in the file; `passphrase` None asks the environment, then the person at the terminal, if the file has one.

    `RequestError` for a wrong passphrase, a changed file, a file of another kind or none at all.
    """
    head, secret = _read(path, KeyKind.PERSON, passphrase)
    if head.role is None:
        raise _no_key_file(path)
    return PersonKey(PersonId(head.owner), head.role, _signing_key(path, head, secret))


def create_discovery_key(path: Path, agency: AgencyId, passphrase: str, *, without_passphrase: bool = False) -> SealingPublicKey:
    """Write a fresh discovery key of that legal office into a new file and return its public half. Errors as `create_person_key`."""
    key = SealingPrivateKey.generate()
    _write(path, KeyKind.DISCOVERY, agency, None, key.public_key.raw, key.export_secret(), passphrase, without_passphrase)
    return key.public_key


def read_discovery_key(path: Path, passphrase: str | None = None) -> DiscoveryKey:
    """The key in the file. Passphrase and errors as `read_person_key`."""
    head, secret = _read(path, KeyKind.DISCOVERY, passphrase)
    return DiscoveryKey(AgencyId(head.owner), _sealing_key(path, head, secret))


def create_restore_key(path: Path, agency: AgencyId, passphrase: str, *, without_passphrase: bool = False) -> SealingPublicKey:
    """Write a fresh key, to which a node of that agency seals a backup, into a new file; its public half.

    Errors as `create_person_key`."""
    key = SealingPrivateKey.generate()
    _write(path, KeyKind.RESTORE, agency, None, key.public_key.raw, key.export_secret(), passphrase, without_passphrase)
    return key.public_key


def read_restore_key(path: Path, passphrase: str | None = None) -> RestoreKey:
    """The key in the file. Passphrase and errors as `read_person_key`."""
    head, secret = _read(path, KeyKind.RESTORE, passphrase)
    return RestoreKey(AgencyId(head.owner), _sealing_key(path, head, secret))


def create_office_key(path: Path, agency: AgencyId, passphrase: str, *, without_passphrase: bool = False) -> VerifyingKey:
    """Write a fresh key of that legal office into a new file and return its public half. Errors as `create_person_key`."""
    key = SigningKey.generate()
    _write(path, KeyKind.OFFICE, agency, None, key.verifying_key.raw, key.export_secret(), passphrase, without_passphrase)
    return key.verifying_key


def read_office_key(path: Path, passphrase: str | None = None) -> OfficeKey:
    """The key in the file. Passphrase and errors as `read_person_key`."""
    head, secret = _read(path, KeyKind.OFFICE, passphrase)
    return OfficeKey(AgencyId(head.owner), _signing_key(path, head, secret))


def create_root_key(path: Path, holder: AgencyId, passphrase: str, *, without_passphrase: bool = False) -> RootKey:
    """Write a fresh root key of that agency into a new file and return its entry for the root set. Errors as `create_person_key`."""
    key = SigningKey.generate()
    _write(path, KeyKind.ROOT, holder, None, key.verifying_key.raw, key.export_secret(), passphrase, without_passphrase)
    return RootKey(holder, key.verifying_key)


def read_root_key(path: Path, passphrase: str | None = None) -> RootSigningKey:
    """The key in the file. Passphrase and errors as `read_person_key`."""
    head, secret = _read(path, KeyKind.ROOT, passphrase)
    return RootSigningKey(AgencyId(head.owner), _signing_key(path, head, secret))


def has_passphrase(path: Path) -> bool | None:
    """Whether the secret in this key file is under a passphrase; None for anything that is no key file. Opens nothing."""
    head = _head_of(path)
    return None if head is None else head.protection is _Protection.SOME


def kind_of_key(path: Path) -> KeyKind | None:
    """What a key file is for; None for anything that is no key file. Opens nothing."""
    head = _head_of(path)
    return None if head is None else head.kind


def ask_passphrase(what: str, *, new: bool = False, prompt: Callable[[str], str] = getpass) -> str:
    """The passphrase from SEALMATCH_PASSPHRASE, else from the terminal, a new one twice; `RequestError` where there is neither."""
    given = os.environ.get(PASSPHRASE_VARIABLE, "")
    if given:
        return given
    if not sys.stdin.isatty():
        raise RequestError(f"no passphrase for {what}: set {PASSPHRASE_VARIABLE}, or run the command in a terminal")
    try:
        typed = prompt(f"Passphrase for {what}: ")
        if new and prompt("The same again: ") != typed:
            raise RequestError("the two passphrases differ: run the command again")
    except EOFError as error:
        raise RequestError(f"no passphrase for {what}: type one, or set {PASSPHRASE_VARIABLE}") from error
    return typed


# --- the file -------------------------------------------------------------------------------------------------------


def _write(
    path: Path,
    kind: KeyKind,
    owner: str,
    role: PersonRole | None,
    public: bytes,
    secret: bytes,
    passphrase: str,
    without_passphrase: bool,
) -> None:
    if without_passphrase and passphrase:
        raise RequestError("a passphrase was given for a key that is to have none: leave one of the two out")
    if not passphrase and not without_passphrase:
        raise RequestError(f"a key needs a passphrase: set {PASSPHRASE_VARIABLE} or type one; a key without is for demonstrations only")
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    head = _Head(kind, owner, role, public, _Protection.SOME if passphrase else _Protection.NONE)
    clear: JsonObject = head.to_json() | {"salt": b64url_encode(salt), "nonce": b64url_encode(nonce)}
    sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, secret, canonical_json(clear))
    data = canonical_json(clear | {"sealed": b64url_encode(sealed)})
    try:
        # O_EXCL: a key that is lost cannot be made again. The mode stands from the first byte.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise RequestError(f"{path} is there already and no key is overwritten: name another file, or move that one away") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be written ({error.strerror}): name a file in a folder of your own") from error


def _read(path: Path, kind: KeyKind, passphrase: str | None) -> tuple[_Head, bytes]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}): name the key file, {_KIND_WORDS[kind]}") from error
    try:
        fields = Fields(parse_canonical_json(data, max_bytes=MAX_FILE_BYTES), "key file")
        head, salt, nonce, sealed = _read_head(fields), fields.data("salt"), fields.data("nonce"), fields.data("sealed")
        fields.close()
        if (len(salt), len(nonce)) != (_SALT_BYTES, _NONCE_BYTES):
            raise FieldError("key file has another salt or nonce")
    except EncodingError as error:
        raise _no_key_file(path) from error
    if head.kind is not kind:
        raise RequestError(f"{path} is {_KIND_WORDS[head.kind]}: name {_KIND_WORDS[kind]}")
    if head.protection is _Protection.NONE:
        passphrase = ""
    elif passphrase is None:
        passphrase = ask_passphrase(f"the key of {head.owner}")
    clear = {name: value for name, value in fields.as_object().items() if name != "sealed"}
    try:
        secret = AESGCM(_derive(passphrase, salt)).decrypt(nonce, sealed, canonical_json(clear))
    except (InvalidTag, ValueError):
        # `from None`: nothing of the library's own words travels with a secret.
        raise RequestError(f"{path} does not open: the passphrase is wrong, or the file was changed since the key was made") from None
    return head, secret


def _head_of(path: Path) -> _Head | None:
    try:
        with path.open("rb") as file:
            return _read_head(Fields(parse_canonical_json(file.read(MAX_FILE_BYTES + 1), max_bytes=MAX_FILE_BYTES), "key file"))
    except (OSError, EncodingError):
        return None


def _read_head(fields: Fields) -> _Head:
    if fields.text("type") != _TYPE:
        raise FieldError("key file is of another kind or version")
    kind = fields.choice("kind", KeyKind)
    role = None if fields.is_null("role") else fields.choice("role", PersonRole)
    owner = fields.name("owner", PersonId if kind is KeyKind.PERSON else AgencyId)
    return _Head(kind, owner, role, fields.data("public"), fields.choice("protection", _Protection))


def _signing_key(path: Path, head: _Head, secret: bytes) -> SigningKey:
    try:
        key = SigningKey.from_secret(secret)
    except MisuseError as error:
        raise _no_key_file(path) from error
    if key.verifying_key.raw != head.public:
        raise _no_key_file(path)
    return key


def _sealing_key(path: Path, head: _Head, secret: bytes) -> SealingPrivateKey:
    try:
        key = SealingPrivateKey.from_secret(secret)
    except MisuseError as error:
        raise _no_key_file(path) from error
    if key.public_key.raw != head.public:
        raise _no_key_file(path)
    return key


def _derive(passphrase: str, salt: bytes) -> bytes:
    # One passphrase, one spelling, whatever keyboard it was typed on; the environment may hold bytes that are no UTF-8.
    spelled = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogatepass")
    return Scrypt(salt=salt, length=32, n=_COST if passphrase else _COST_WITHOUT_PASSPHRASE, r=8, p=1).derive(spelled)


def _no_key_file(path: Path) -> RequestError:
    return RequestError(f"{path} is no key file, or was damaged: name a key file, or take yours from its backup")
