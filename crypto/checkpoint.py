"""Checkpoints of the log: the C2SP signed note of three lines, *origin, size, base64 root*, and the log's signature on it.

Formats are C2SP's signed-note and tlog-checkpoint, so anybody can check ours with tools that others wrote, and theirs parse here.

Invariants: a checkpoint has one spelling, so that equal checkpoints are equal bytes; extension lines, which nobody can audit, are refused
(C2SP lets a log leave them out). A note is read in its strict form only. Signatures of unknown keys are carried along unread, as the
format asks.

Left to others: cosignatures, and when a checkpoint counts (`witness`); proofs (`ledger`); leaves (`entries`); whose key is whose
(`roster`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from crypto.errors import BadSignatureError, CheckpointError, OversizedError
from crypto.keys import SigningKey, VerifyingKey
from crypto.ledger import EMPTY_ROOT, HASH_BYTES, MAX_TREE_SIZE, check_consistency

MAX_NOTE_BYTES: Final = 64 << 10
"""Bytes; room for a dozen post-quantum signatures of 5 kB beside ours (signed-note, "Format")."""
MAX_SIGNATURES: Final = 32
"""Lines; signed-note asks for at least 16."""
NOTE_ED25519: Final = 0x01
"""Signature type of a log's plain Ed25519 signature (signed-note, "Signature types")."""

_KEY_ID_BYTES: Final = 4
_KEY_NAME: Final = re.compile(r"[!-*,-~]{1,128}")
"""Names of our own keys and logs: visible ASCII without the plus sign, e.g. `log.example.org/2026`."""
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


def key_id(name: str, signature_type: int, key: VerifyingKey) -> bytes:
    """First 4 bytes of SHA-256(name || 0x0A || type || public key) (signed-note, "Signatures")."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + bytes([signature_type]) + key.raw).digest()[:_KEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class LogKey:
    """A log as others know it: its origin, which is also its key name, and its public key."""

    origin: str
    key: VerifyingKey

    def __post_init__(self) -> None:
        check_key_name(self.origin)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: `size` leaves under `root` (32 bytes). `CheckpointError` for a field out of its form."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_key_name(self.origin)
        if not 0 <= self.size <= MAX_TREE_SIZE:
            raise CheckpointError("checkpoint has a tree size out of range")
        if len(self.root) != HASH_BYTES:
            raise CheckpointError(f"checkpoint has a root that is not {HASH_BYTES} bytes")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise CheckpointError("the empty log has another root")

    @classmethod
    def empty(cls, origin: str) -> Self:
        """Where every log begins; what a witness holds before its first cosignature."""
        return cls(origin, 0, EMPTY_ROOT)

    def body(self) -> bytes:
        """The note text: three lines, each ended by a line feed (tlog-checkpoint, "Note text")."""
        return f"{self.origin}\n{self.size}\n{note_base64(self.root)}\n".encode("ascii")

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`; `CheckpointError` for extension lines, leading zeroes or any other spelling."""
        try:
            *lines, after = body.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise CheckpointError("checkpoint text is not ASCII") from error
        if len(lines) != 3 or after:
            raise CheckpointError("checkpoint text is three lines, without extension lines")
        origin, size, root = lines
        if not _SIZE.fullmatch(size):
            raise CheckpointError("checkpoint's tree size is not a plain decimal")
        return cls(origin, int(size), note_bytes(root))


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: key name, 4-byte key id and the signature bytes, of whatever type. Unverified."""

    name: str
    key_id: bytes
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        # Unknown signers must be tolerated (signed-note), so their names may be any that the note format allows.
        if not self.name or "+" in self.name or any(letter.isspace() or letter < " " for letter in self.name):
            raise CheckpointError("note has a signature without a proper key name")
        if len(self.key_id) != _KEY_ID_BYTES or not self.signature:
            raise CheckpointError("note has a signature without key id or content")


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with signature lines, in their order. Parsed is not verified: `witness.check_checkpoint` decides.

    No two lines share key name and key id: a node that receives a newer cosignature of the same witness replaces the older one.
    """

    checkpoint: Checkpoint
    signatures: tuple[NoteSignature, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise CheckpointError(f"a signed checkpoint has 1 to {MAX_SIGNATURES} signatures")
        if len({(line.name, line.key_id) for line in self.signatures}) != len(self.signatures):
            raise CheckpointError("one key signed the checkpoint twice")

    def to_bytes(self) -> bytes:
        """The signed note, UTF-8."""
        lines = (f"\u2014 {line.name} {note_base64(line.key_id + line.signature)}\n" for line in self.signatures)
        return self.checkpoint.body() + b"\n" + "".join(lines).encode("utf-8")

    @classmethod
    def from_bytes(cls, data: bytes, *, max_bytes: int = MAX_NOTE_BYTES) -> Self:
        """Inverse of `to_bytes`; `OversizedError` before parsing, `CheckpointError` for anything but the strict form."""
        if len(data) > max_bytes:
            raise OversizedError(f"signed checkpoint has {len(data)} bytes, at most {max_bytes} are read")
        body, _, signatures = data.rpartition(b"\n\n")
        try:
            *lines, after = signatures.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise CheckpointError("signed checkpoint is not UTF-8") from error
        if after:
            raise CheckpointError("signed checkpoint does not end with a signature line")
        return cls(Checkpoint.from_body(body + b"\n"), tuple(_parse_line(line) for line in lines))

    def with_signatures(self, added: Iterable[NoteSignature]) -> SignedCheckpoint:
        """The same checkpoint with more lines; a line of the same name and key id replaces the one that is there."""
        lines = {(line.name, line.key_id): line for line in self.signatures}
        lines |= {(line.name, line.key_id): line for line in added}
        return replace(self, signatures=tuple(lines.values()))


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> SignedCheckpoint:
    """The log's own signature over `checkpoint`, its origin as key name.

    HAZARD: a log that signs two checkpoints of which neither continues the other has forked, and its signatures prove it. Store the new
    head before this signature leaves the process.
    """
    line = NoteSignature(checkpoint.origin, key_id(checkpoint.origin, NOTE_ED25519, key.verifying_key), key.sign(checkpoint.body()))
    return SignedCheckpoint(checkpoint, (line,))


def check_log_signature(note: SignedCheckpoint, log: LogKey) -> None:
    """Raises `CheckpointError` unless `note` is of `log` and bears its signature. Alone this shows no consensus: see `witness`."""
    if note.checkpoint.origin != log.origin:
        raise CheckpointError("checkpoint is of another log")
    line = signature_line(note, log.origin, key_id(log.origin, NOTE_ED25519, log.key))
    if line is None:
        raise CheckpointError("checkpoint lacks the log's signature")
    try:
        log.key.check(line.signature, note.checkpoint.body())
    except BadSignatureError as error:
        raise CheckpointError("the log's signature does not verify") from error


def check_continues(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> None:
    """Raises unless `new` is `old` or continues it: what every party does with the checkpoint in another party's message.

    `CheckpointError` when they are of two logs, `ConsistencyError` otherwise; put the smaller size first. Whoever gets a
    `ConsistencyError` from a proof that its own mirror made holds evidence of a fork, the two signed notes, and reports it.
    """
    if old.origin != new.origin:
        raise CheckpointError("the two checkpoints are of different logs")
    check_consistency(old.size, old.root, new.size, new.root, proof)


def signature_line(note: SignedCheckpoint, name: str, identity: bytes) -> NoteSignature | None:
    """The note's line of that key name and key id, unverified; None if there is none."""
    return next((line for line in note.signatures if (line.name, line.key_id) == (name, identity)), None)


def check_key_name(name: str) -> None:
    """Raises `CheckpointError` for a name that our own keys and logs may not have."""
    if not _KEY_NAME.fullmatch(name):
        raise CheckpointError("a key name is 1 to 128 visible ASCII characters without a plus sign")


def _parse_line(line: str) -> NoteSignature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != "\u2014":
        raise CheckpointError("note has a signature line that does not begin with an em dash and a space")
    content = note_bytes(encoded)
    return NoteSignature(name, content[:_KEY_ID_BYTES], content[_KEY_ID_BYTES:])


def note_base64(data: bytes) -> str:
    """Standard base64 with its padding (RFC 4648 section 4), as notes spell bytes."""
    return base64.b64encode(data).decode("ascii")


def note_bytes(text: str) -> bytes:
    """Inverse of `note_base64`; `CheckpointError` for text that is not base64 in its one spelling."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise CheckpointError("note holds text that is not base64") from error
    if note_base64(data) != text:
        raise CheckpointError("note holds base64 that is not in its one spelling")
    return data
