"""What a party shows of its own acts, and the check that none of them lacks its entry in the log.

The log alone cannot show that something was *not* entered. A party can: it knows the grants it searched, answered or released under, the
releases it gave or got, the disclosures it made or was given. Who is shown those, by grant digest, computes the subjects (`entries`) and
looks for each in the log. Evidence is a document that the party's node key signs, so that nothing can be added or taken out on its way.

**Who is shown evidence** learns which entries of the log belong to these searches, and how many times the party disclosed in each, dummies
included: no person, no case, no score, nothing of a search that is not in it.

Invariants: acts stand in one order, each once. Limit: a search of which a party shows nothing at all is not missed by this check; the
evidence of the other parties of that search has it. Left to others: collecting acts (nodes), the log's own truth (`ledger`, `witness`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, JsonValue
from crypto.entries import EntryKind, entry_subject
from crypto.errors import BadSignatureError, EntryOrderError, EvidenceError, FieldError, InclusionError
from crypto.fields import MAX_INTEGER, Fields, check_digest, check_range
from crypto.keys import SigningKey
from crypto.log_index import LogIndex
from crypto.moments import check_moment, format_moment
from crypto.roster import Roster
from crypto.signed import DocumentKind, read_document, sign_document

EVIDENCE_KIND: Final = DocumentKind("sealmatch-1/log-evidence", 64 << 20)
"""64 MiB: 300,000 acts of 200 bytes, and room."""
MAX_ACTS: Final = 1 << 18

_SHOWN: Final = (EntryKind.GRANT, EntryKind.ANSWER, EntryKind.RELEASE, EntryKind.DISCLOSURE)
_AUTHORED: Final = (EntryKind.ANSWER, EntryKind.DISCLOSURE)
"""Kinds that several parties enter for one grant, so that the subject holds the author."""


@dataclass(frozen=True, slots=True)
class ShownAct:
    """`count` acts of one kind under one grant: `author` is the holder that answered or disclosed, None for grant and release."""

    grant_digest: bytes = field(repr=False)
    kind: EntryKind
    author: AgencyId | None = None
    count: int = 1

    def __post_init__(self) -> None:
        check_digest(self.grant_digest, "act.grant_digest")
        if self.kind not in _SHOWN:
            raise FieldError("act.kind is grant, answer, release or disclosure")
        if (self.author is not None) != (self.kind in _AUTHORED):
            raise FieldError("act.author is there for an answer or disclosure, and for nothing else")
        check_range(self.count, 1, MAX_INTEGER, "act.count")

    @property
    def subject(self) -> bytes:
        """Under which its entries stand."""
        return entry_subject(self.kind, self.grant_digest, self.author)

    @property
    def place(self) -> tuple[bytes, str, str]:
        """Its order among others."""
        return self.grant_digest, self.kind.value, self.author or ""

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        author = None if self.author is None else str(self.author)
        return {"grant_digest": self.grant_digest.hex(), "kind": self.kind.value, "author": author, "count": self.count}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        author = None if fields.is_null("author") else fields.name("author", AgencyId)
        made = cls(fields.digest("grant_digest"), fields.choice("kind", EntryKind), author, fields.integer("count"))
        fields.close()
        return made


@dataclass(frozen=True)
class LogEvidence:
    """Acts of `agency`, collected at `made_at`: all that left before the log had more than `log_before` entries, and none of an entry that
    stands behind the first `log_after`."""

    agency: AgencyId
    made_at: datetime
    log_before: int
    log_after: int
    acts: tuple[ShownAct, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_moment(self.made_at, "evidence.made_at")
        check_range(self.log_before, 0, MAX_INTEGER, "evidence.log_before")
        check_range(self.log_after, self.log_before, MAX_INTEGER, "evidence.log_after")
        check_range(len(self.acts), 0, MAX_ACTS, "evidence.acts")
        places = [act.place for act in self.acts]
        if places != sorted(set(places)):
            raise FieldError("evidence.acts are in ascending order and name nothing twice")

    def sign(self, key: SigningKey) -> bytes:
        """The document, signed by the agency's node key."""
        acts: list[JsonValue] = [act.to_json() for act in self.acts]
        content: JsonObject = {
            "agency": str(self.agency),
            "made_at": format_moment(self.made_at),
            "log_before": self.log_before,
            "log_after": self.log_after,
            "acts": acts,
        }
        return sign_document(EVIDENCE_KIND, content, key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The evidence of an agency of the roster; `EvidenceError` unless its node key signed these bytes."""
        document = read_document(EVIDENCE_KIND, data)
        fields = document.unverified_fields("evidence")
        made = cls(
            fields.name("agency", AgencyId),
            fields.moment("made_at"),
            fields.integer("log_before"),
            fields.integer("log_after"),
            tuple(ShownAct.from_fields(child) for child in fields.children("acts")),
        )
        fields.close()
        try:
            document.check_only_signer(roster.node_key(made.agency))
        except BadSignatureError as error:
            raise EvidenceError("the evidence was changed after it was signed, or its agency's node key is another one now") from error
        return made


def check_evidence(evidence: LogEvidence, index: LogIndex) -> None:
    """Raise unless every act that is shown has its entry in the log that `index` was read from. In this order:

    1. the log is as long as it was when the evidence was made (`EvidenceError`)
    2. each act has as many entries under its subject as it was done (`InclusionError`: no grant, release or disclosure without its entry)
    3. the grant of each act stands in the log (`InclusionError`), before the act's first entry; a disclosure's first entry stands behind
       the release's (`EntryOrderError`)
    4. the agency shows all of its own answers and disclosures under these grants that the log held before (`EvidenceError`)
    """
    if index.size < evidence.log_after:  # 1
        raise EvidenceError(f"the evidence was made when the log had {evidence.log_after} entries, and this one has {index.size}")
    for act in evidence.acts:
        found = index.positions(act.kind, act.subject)
        if len(found) < act.count:  # 2
            raise InclusionError(f"the log holds {len(found)} of {act.count} {act.kind.value} entries of a grant that the evidence shows")
        granted = index.positions(EntryKind.GRANT, entry_subject(EntryKind.GRANT, act.grant_digest))
        if not granted:  # 3
            raise InclusionError(f"the log holds no grant entry of a grant under which the evidence shows a {act.kind.value}")
        if act.kind is not EntryKind.GRANT and found[0] < granted[0]:
            raise EntryOrderError(f"entry {found[0]} is a {act.kind.value} of a grant that was entered after it")
        if act.kind is EntryKind.DISCLOSURE:
            _check_released(act, found[0], index)
    shown = {(act.grant_digest, act.kind): act.count for act in evidence.acts if act.author == evidence.agency}
    for digest in sorted({act.grant_digest for act in evidence.acts}):  # 4
        for kind in _AUTHORED:
            held = [at for at in index.positions(kind, entry_subject(kind, digest, evidence.agency)) if at < evidence.log_before]
            if len(held) > shown.get((digest, kind), 0):
                raise EvidenceError(f"the log holds more {kind.value} entries of this agency under a grant than its evidence shows")


def _check_released(disclosure: ShownAct, position: int, index: LogIndex) -> None:
    released = index.positions(EntryKind.RELEASE, entry_subject(EntryKind.RELEASE, disclosure.grant_digest))
    if not released:
        raise InclusionError("the log holds no release entry of a grant under which the evidence shows a disclosure")
    if position < released[0]:
        raise EntryOrderError(f"entry {position} is a disclosure of a search that was released after it")
