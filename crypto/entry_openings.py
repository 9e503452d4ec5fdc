"""Which fields of a log entry are opened to everybody after a while, and what a reader checks before it believes an opening (PROTOCOL 5).

Every entry of a kind has one form, `ENTRY_FORMS`: first the fields that are opened one by one when their time has come, each at its own
place, then those that are never opened (digests, the leads' slots), padded to a fixed number. So the number of commitments says nothing,
and an author cannot commit to one field twice and open whichever suits it later. What is opened is agencies and their class, the offence's
NIBRS code, the kind of the legal basis, counts, outcome, rule and why a record was expunged. Case text, names, docket numbers and images
are no fields of an entry, opened or not; an opened value is of a closed form, so that none of them can be told by one.

An empty value says that the field does not apply: a missing person has no offence, what came late was refused under no rule.

Who opens, and when, is the author's: to everybody after the delay of its policy packs, or at once to an oversight body, by an
`OpenedEntries` file that its node signs and a person carries. Invariants: what `read` returns was signed by the node key that the roster
gives the agency, and by nobody else; `check_opening` has no answer but a refusal for a field that its kind does not open, a value that is
not of the field's form, another leaf, salt, type or value.

Left to others: keeping and publishing openings (`agency_node.openings`), the broker's copy (`broker.openings`), that the leaf stands in the
log (`ledger`), counting (`entry_counts`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, JsonValue
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, check_field
from crypto.errors import AgencyStatementError, BadSignatureError, CommitmentError, FieldError
from crypto.fields import Fields, check_digest
from crypto.grant_basis import BasisKind
from crypto.keys import SigningKey
from crypto.limits import MAX_CAP
from crypto.moments import check_moment, format_moment
from crypto.roster import Roster
from crypto.roster_entries import AgencyClass
from crypto.signed import DocumentKind, read_document, sign_document

OPENED_ENTRIES_KIND: Final = DocumentKind("sealmatch-1/opened-entries", 8 << 20)
MAX_OPENED_ENTRIES: Final = 4096
"""Of one file: as many as a broker takes of one grant; the longest take 1.2 kB each."""

REQUESTING_AGENCY: Final = FieldType("requesting-agency")
REQUESTING_CLASS: Final = FieldType("requesting-class")
ORIGINATING_AGENCY: Final = FieldType("originating-agency")
ORIGINATING_CLASS: Final = FieldType("originating-class")
AUTHOR: Final = FieldType("author")
OFFENCE: Final = FieldType("offence-group")
BASIS: Final = FieldType("legal-basis")
HOLDERS_ASKED: Final = FieldType("holders-asked")
HOLDERS_ANSWERED: Final = FieldType("holders-answered")
LEADS: Final = FieldType("leads-released")
OUTCOME: Final = FieldType("outcome")
RULE: Final = FieldType("refusal-rule")
EXPUNGE_REASON: Final = FieldType("expunge-reason")

OUTCOMES: Final[Mapping[EntryKind, tuple[str, ...]]] = MappingProxyType(
    {
        EntryKind.RELEASE: ("leads", "no-leads", "refused"),
        EntryKind.DISCLOSURE: ("disclosed", "not-asked", "withdrawn", "withheld"),
        EntryKind.REFUSAL: ("late", "refused"),
        EntryKind.REVOCATION: ("revoked",),
        EntryKind.LAPSE: ("deleted", "sealed"),
        EntryKind.RATIFICATION: ("ratified",),
    }
)
"""How what an entry tells of ended."""
EXPUNGE_REASONS: Final = ("court-order", "dismissed", "error", "juvenile", "non-conviction", "unchecked")
"""Why a record had to go (R25), as the holder says it (`holder.expunging.ExpungeReason`)."""

_AGENCY: Final = AgencyId.pattern.pattern
_CLASS: Final = "|".join(AgencyClass)
_COUNT: Final = "0|[1-9][0-9]{0,2}"
_FORMS: Final[Mapping[FieldType, str]] = MappingProxyType(
    {
        REQUESTING_AGENCY: _AGENCY,
        REQUESTING_CLASS: _CLASS,
        ORIGINATING_AGENCY: _AGENCY,
        ORIGINATING_CLASS: _CLASS,
        AUTHOR: _AGENCY,
        OFFENCE: "[0-9]{2}[0-9A-Z]",
        BASIS: "|".join(BasisKind),
        HOLDERS_ASKED: _COUNT,
        HOLDERS_ANSWERED: _COUNT,
        LEADS: _COUNT,
        RULE: "[1-9][0-9]{0,2}",
        EXPUNGE_REASON: "|".join(EXPUNGE_REASONS),
    }
)


@dataclass(frozen=True)
class EntryForm:
    """The form of one kind's entries: the fields that are opened, in the order of their commitments, and how many others follow."""

    opened: tuple[FieldType, ...]
    kept: int

    @property
    def count(self) -> int:
        """Commitments of every entry of the kind."""
        return len(self.opened) + self.kept


ENTRY_FORMS: Final[Mapping[EntryKind, EntryForm]] = MappingProxyType(
    {
        EntryKind.GRANT: EntryForm(
            (REQUESTING_AGENCY, REQUESTING_CLASS, ORIGINATING_AGENCY, ORIGINATING_CLASS, OFFENCE, BASIS, HOLDERS_ASKED), 1
        ),
        EntryKind.ANSWER: EntryForm((), 1),
        EntryKind.OPENED_SCORES: EntryForm((), 2),
        EntryKind.RELEASE: EntryForm((REQUESTING_AGENCY, HOLDERS_ASKED, HOLDERS_ANSWERED, LEADS, OUTCOME), 1 + MAX_CAP),
        EntryKind.DISCLOSURE: EntryForm((AUTHOR, REQUESTING_AGENCY, OUTCOME), 1),
        EntryKind.REFUSAL: EntryForm((AUTHOR, REQUESTING_AGENCY, REQUESTING_CLASS, ORIGINATING_CLASS, RULE, OUTCOME), 2),
        EntryKind.REVOCATION: EntryForm((AUTHOR, REQUESTING_AGENCY, REQUESTING_CLASS, OUTCOME), 2),
        EntryKind.LAPSE: EntryForm((REQUESTING_AGENCY, REQUESTING_CLASS, OUTCOME), 3),
        EntryKind.RATIFICATION: EntryForm((REQUESTING_AGENCY, REQUESTING_CLASS, OUTCOME), 2),
        EntryKind.EXPUNCTION: EntryForm((AUTHOR, EXPUNGE_REASON), 2),
    }
)
"""Kinds that are not here are about no search; what they say is public elsewhere. An expunction is about
none either, and said nowhere else."""


def opened_types(kind: EntryKind) -> tuple[FieldType, ...]:
    """The fields of that kind which are opened, in their order; none for a kind without a form."""
    form = ENTRY_FORMS.get(kind)
    return () if form is None else form.opened


def check_form(entry: LogEntry) -> None:
    """Raise `CommitmentError` unless the entry has as many commitments as every entry of its kind; kinds without a form have any number."""
    form = ENTRY_FORMS.get(entry.kind)
    if form is not None and len(entry.commitments) != form.count:
        raise CommitmentError(f"an entry of kind {entry.kind.value} has {form.count} commitments")


def check_value(kind: EntryKind, field_type: FieldType, value: bytes) -> None:
    """Raise `FieldError` unless the kind opens such a field, and the value is empty or of the field's form."""
    if field_type not in opened_types(kind):
        raise FieldError(f"an entry of kind {kind.value} opens no such field")
    form = "|".join(OUTCOMES[kind]) if field_type == OUTCOME else _FORMS[field_type]
    if value and re.fullmatch(form.encode("ascii"), value) is None:
        raise FieldError(f"an opened {field_type} has another form")


def check_opening(entry: LogEntry, opening: FieldOpening) -> None:
    """Believe an opening of this very entry only after these checks:

    1. the kind opens such a field, and the value has its form (`FieldError`)
    2. the entry has its kind's form (`CommitmentError`)
    3. the commitment at the field's own place is that of the opening (`CommitmentError`)
    """
    check_value(entry.kind, opening.field_type, opening.value)  # 1
    check_form(entry)  # 2
    check_field(entry.commitments[opened_types(entry.kind).index(opening.field_type)], opening)  # 3


@dataclass(frozen=True, repr=False)
class LeafOpenings:
    """Openings of one leaf, which is named by its hash: each field at most once, in the kind's order or any other."""

    leaf: bytes
    openings: tuple[FieldOpening, ...]

    def __post_init__(self) -> None:
        check_digest(self.leaf, "opened.leaf")
        types = [one.field_type for one in self.openings]
        if not types or len(set(types)) != len(types):
            raise FieldError("opened.openings holds one field or more, each once")

    def __repr__(self) -> str:
        return f"<LeafOpenings {self.leaf.hex()[:16]}>"

    def check(self, entry: LogEntry) -> None:
        """Raise a `CommitmentError` or `FieldError` unless this is the leaf and every opening is one of its fields (`check_opening`)."""
        if entry.leaf_hash() != self.leaf:
            raise CommitmentError("the openings are of another leaf")
        for opening in self.openings:
            check_opening(entry, opening)

    def to_json(self) -> JsonObject:
        """Its JSON form; salts in hexadecimal, values as the text that they are."""
        openings: list[JsonValue] = [opening_to_json(one) for one in self.openings]
        return {"leaf": self.leaf.hex(), "openings": openings}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        read = cls(fields.digest("leaf"), tuple(opening_from_fields(child) for child in fields.children("openings")))
        fields.close()
        return read


def opening_to_json(opening: FieldOpening) -> JsonObject:
    """One opening's JSON form."""
    return {"salt": opening.salt.hex(), "type": str(opening.field_type), "value": opening.value.decode("ascii")}


def opening_from_fields(fields: Fields) -> FieldOpening:
    """Inverse of `opening_to_json`; `FieldError` for a value that is not ASCII."""
    salt, field_type, value = fields.digest("salt"), fields.name("type", FieldType), fields.text("value")
    fields.close()
    if not value.isascii():
        raise FieldError("opened.value is not ASCII")
    return FieldOpening(salt, field_type, value.encode("ascii"))


@dataclass(frozen=True)
class OpenedEntries:
    """What one agency opens of the entries that it made, in a file for an oversight body. The constructor raises `FieldError`."""

    agency: AgencyId
    made_at: datetime
    entries: tuple[LeafOpenings, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_moment(self.made_at, "opened.made_at")
        if not 1 <= len(self.entries) <= MAX_OPENED_ENTRIES:
            raise FieldError(f"opened.entries holds 1 to {MAX_OPENED_ENTRIES} entries")
        if len({one.leaf for one in self.entries}) != len(self.entries):
            raise FieldError("opened.entries names a leaf twice")

    def sign(self, node_key: SigningKey) -> bytes:
        """The document."""
        entries: list[JsonValue] = [one.to_json() for one in self.entries]
        content: JsonObject = {"agency": str(self.agency), "made_at": format_moment(self.made_at), "entries": entries}
        return sign_document(OPENED_ENTRIES_KIND, content, node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The openings in `data`, after these checks; that each is true of a leaf of the log is `LeafOpenings.check`'s:

        1. size, form, content (an `EncodingError`)
        2. the agency stands in the roster (`UnknownAgencyError`)
        3. its node key signed, and nobody else (`AgencyStatementError`)
        """
        document = read_document(OPENED_ENTRIES_KIND, data)  # 1
        fields = document.unverified_fields("opened")
        entries: Sequence[LeafOpenings] = [LeafOpenings.from_fields(child) for child in fields.children("entries")]
        opened = cls(fields.name("agency", AgencyId), fields.moment("made_at"), tuple(entries))
        fields.close()
        key = roster.node_key(opened.agency)  # 2
        try:
            document.check_only_signer(key)  # 3
        except BadSignatureError as error:
            raise AgencyStatementError("opened entries are not signed by the agency's node key") from error
        return opened
