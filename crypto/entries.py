"""Log entries: what a leaf says, how its fields are committed to, and how a party recognises the entries of its grant (PROTOCOL 5).

A leaf is public for ever, so it shows a kind, a UTC day, a *subject* and salted commitments, and nothing else. Whoever was given a field
and its salt can show that exactly this was logged; nobody else learns it, not even by trying every docket number.

**Subject.** A party must find a revocation of its grant without opening a single commitment. So an entry carries in the clear

    SHA-256("sealmatch-1/log-subject" || 0x0A || u8 length || kind || 32-byte digest || u8 length || author)

where the digest is the grant's. A grant's payload holds 16 random bytes, so only those who have the grant can compute the subject; to
everybody else it is noise. (Salted commitments alone would make every party open every revocation; a value that the grant carries would
do, but would have to be made, kept and shown by somebody.) The kind is hashed in, so outsiders cannot tell which release followed which
grant; the author is hashed in for kinds that several parties enter for one grant, so they cannot count the holders of a search. The
broker sees grant digests in envelopes and can link; it routed the messages anyway. It could also enter a false revocation: that stops a
search, which it can always do, and starts none.

Invariants: an entry has one encoding; salts are never in it; entries of a kind are to have one number of fields (`pad_openings`), so that
their number says nothing. There is no kind for dummies: a disclosure that nobody asked for is entered as `disclosure`, else the log would
say which searches found nobody.

Left to others: which fields each kind has and opens (`entry_openings`), keeping the openings, the tree (`ledger`), reading the log for a
revocation (`mirror`), whose checkpoint counts (`witness`).
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import ClassVar, Final, Self

from crypto.canonical import AgencyId, JsonValue, Name, canonical_json, parse_canonical_json
from crypto.errors import CommitmentError, FieldError, MisuseError, VersionError
from crypto.fields import Fields, check_digest
from crypto.ledger import leaf_hash
from crypto.moments import check_day, parse_day

ENTRY_FORMAT: Final = "sealmatch-1/log-entry/1"
SALT_BYTES: Final = 32
MAX_COMMITMENTS: Final = 64
"""The largest cap is 50 (PROTOCOL 5), and a release has a few fields beside its slots."""
MAX_ENTRY_BYTES: Final = 8 << 10
"""Bytes; an entry with every commitment has about 4,600."""

_SUBJECT_LABEL: Final = b"sealmatch-1/log-subject\n"


class EntryKind(enum.StrEnum):
    """What happened. The kinds are public; their fields are committed to."""

    GRANT = "grant"
    ANSWER = "answer"
    OPENED_SCORES = "opened-scores"
    RELEASE = "release"
    DISCLOSURE = "disclosure"
    REFUSAL = "refusal"
    REVOCATION = "revocation"
    LAPSE = "lapse"
    RATIFICATION = "ratification"
    EXPUNCTION = "expunction"
    MANIFEST = "manifest"
    PACK_CHANGE = "pack-change"
    ROSTER_CHANGE = "roster-change"
    VIOLATION = "violation"


ENDING_KINDS: Final = (EntryKind.REVOCATION, EntryKind.LAPSE)
"""The kinds after which a grant authorises nothing: taken back, or an exigent use that was not ratified in time (R4)."""


_USUAL: Final = re.compile(
    rb'\{"commitments":\[(?P<commitments>"[0-9a-f]{64}"(?:,"[0-9a-f]{64}")*)\],"day":"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})",'
    rb'"format":"%s","kind":"(?P<kind>%s)","subject":"(?P<subject>[0-9a-f]{64})"\}'
    % (re.escape(ENTRY_FORMAT.encode("ascii")), b"|".join(re.escape(kind.value.encode("ascii")) for kind in EntryKind))
)
"""The one spelling of an entry whose members all have their form: nothing else matches, whatever matches is canonical JSON."""


class FieldType(Name):
    """What a committed field is, e.g. `grant-digest`, `release-slot`; hashed into the commitment, so none passes for another."""

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[a-z](?:[a-z0-9-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True, repr=False)
class FieldOpening:
    """A committed field with its salt: what a party keeps, and shows to whoever may check that field. One salt a field, never reused.

    `value` is the field's canonical bytes; an empty value is padding and stands for no field.
    """

    salt: bytes
    field_type: FieldType
    value: bytes

    def __post_init__(self) -> None:
        if len(self.salt) != SALT_BYTES:
            raise FieldError(f"a salt has {SALT_BYTES} bytes")
        if not isinstance(self.field_type, FieldType):
            raise MisuseError("a field type is a `FieldType`, not a plain string")

    def __repr__(self) -> str:
        return f"FieldOpening({self.field_type}, <redacted>)"

    @classmethod
    def fresh(cls, field_type: FieldType, value: bytes) -> Self:
        """An opening with a new salt from the operating system."""
        return cls(secrets.token_bytes(SALT_BYTES), field_type, value)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One leaf: kind, UTC day, subject (32 bytes, `entry_subject`) and commitments (32 bytes each) in the kind's order.

    The day, not the moment: moments would tie entries of one search together. Encoded as canonical JSON with the members `commitments`,
    `day`, `format`, `kind`, `subject`, digests in lower-case hex.
    """

    kind: EntryKind
    day: date
    subject: bytes
    commitments: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.kind, EntryKind):
            raise MisuseError("an entry's kind is an `EntryKind`, not a plain string")
        check_day(self.day, "entry.day")
        check_digest(self.subject, "entry.subject")
        if not 1 <= len(self.commitments) <= MAX_COMMITMENTS:
            raise FieldError(f"an entry has 1 to {MAX_COMMITMENTS} commitments")
        for commitment in self.commitments:
            check_digest(commitment, "entry.commitments")
        if len(set(self.commitments)) != len(self.commitments):
            raise FieldError("an entry repeats a commitment: every field has its own salt")

    def to_bytes(self) -> bytes:
        """The leaf data."""
        commitments: list[JsonValue] = [commitment.hex() for commitment in self.commitments]
        return canonical_json(
            {
                "commitments": commitments,
                "day": self.day.isoformat(),
                "format": ENTRY_FORMAT,
                "kind": self.kind.value,
                "subject": self.subject.hex(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; an `EncodingError` for anything else, `VersionError` for a format of another time."""
        usual = _USUAL.fullmatch(data) if len(data) <= MAX_ENTRY_BYTES else None
        if usual is not None:
            return cls._from_usual(usual)
        return cls._from_json(data)

    @classmethod
    def _from_usual(cls, found: re.Match[bytes]) -> Self:
        """What `_from_json` reads, in a twentieth of the time: these bytes are canonical by their form."""
        commitments = tuple(bytes.fromhex(text[1:-1].decode("ascii")) for text in found["commitments"].split(b","))
        day = parse_day(found["day"].decode("ascii"), "entry.day")
        return cls(EntryKind(found["kind"].decode("ascii")), day, bytes.fromhex(found["subject"].decode("ascii")), commitments)

    @classmethod
    def _from_json(cls, data: bytes) -> Self:
        fields = Fields(parse_canonical_json(data, max_bytes=MAX_ENTRY_BYTES), "entry")
        if fields.text("format") != ENTRY_FORMAT:
            raise VersionError("log entry is of another format")
        kind, day = fields.choice("kind", EntryKind), fields.day("day")
        subject, commitments = fields.digest("subject"), fields.digests("commitments")
        fields.close()
        return cls(kind, day, subject, commitments)

    def leaf_hash(self) -> bytes:
        """The hash under which the entry stands in the tree."""
        return leaf_hash(self.to_bytes())


def entry_subject(kind: EntryKind, digest: bytes, author: AgencyId | None = None) -> bytes:
    """The public handle of an entry, 32 bytes; the module's docstring says why.

    `digest` is the grant's (32 bytes), or for kinds without a grant the digest of a public document (pack, roster, manifest) or 32 fresh
    random bytes. `author` is the entering agency for kinds that several parties enter for one grant, None for the others; revocation and
    lapse never have one, because whoever looks for them does not know who will enter them.
    """
    if author is not None and kind in ENDING_KINDS:
        raise MisuseError("a revocation or lapse is found without knowing its author")
    check_digest(digest, "entry subject's digest")
    parts = (kind.value.encode("ascii"), (author or "").encode("ascii"))
    framed = bytes([len(parts[0])]) + parts[0] + digest + bytes([len(parts[1])]) + parts[1]
    return hashlib.sha256(_SUBJECT_LABEL + framed).digest()


def commit_field(opening: FieldOpening) -> bytes:
    """SHA-256(salt || u8 length of type || type || value), 32 bytes (PROTOCOL 5).

    Salt and length have fixed widths and the value runs to the end, so no two openings are hashed from the same bytes.
    """
    field_type = opening.field_type.encode("ascii")
    return hashlib.sha256(opening.salt + bytes([len(field_type)]) + field_type + opening.value).digest()


def check_field(commitment: bytes, opening: FieldOpening) -> None:
    """Raises `CommitmentError` unless `commitment` is that of `opening`."""
    if commit_field(opening) != commitment:
        raise CommitmentError("opened field is not the one that the entry commits to")


def pad_openings(openings: Sequence[FieldOpening], field_type: FieldType, count: int) -> tuple[FieldOpening, ...]:
    """`openings` and as many empty ones of `field_type` with fresh salts as make `count`: entries are padded to the number of their kind.

    A commitment to padding looks like any other until it is opened. `MisuseError` when there are more than `count` already, or when one
    of them is empty and would pass for padding.
    """
    if len(openings) > count:
        raise MisuseError("more fields than the entry has places")
    if not all(opening.value for opening in openings):
        raise MisuseError("an empty value stands for padding")
    return (*openings, *(FieldOpening.fresh(field_type, b"") for _ in range(count - len(openings))))
