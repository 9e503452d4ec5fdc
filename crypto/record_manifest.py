"""What a holder's gallery holds, under its node key: the record manifest, proofs of absence, and reports of purges (R24, R25).

A gallery manifest (`manifest`) says what a search meets; a record manifest says what lies there: how many records of which source class,
how many of them no search finds and why, and the root of `record_tree`. Its digest is entered into the public log (kind `manifest`), so
that a holder cannot show one gallery to one asker and another to the next, nor date one back.

What is proven and what not. Under one root a record number is held or not held, never both, and a place is not the holder's to choose. That
the tree holds all records that the node searches, each at its own place, the holder says, and is held to by its signature and the log.

Invariants: what `read` returns was signed by the node key that the roster gives the agency, and every part of it by the same agency.
Left to others: the log entry (`agency_node.outbox`), counting (`agency_node.holder.register`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, JsonValue, b64url_encode
from crypto.errors import AgencyStatementError, FieldError
from crypto.fields import DIGEST_BYTES, MAX_INTEGER, Fields, check_digest, check_range, check_text
from crypto.keys import SigningKey, VerifyingKey
from crypto.limits import MAX_MODEL_NAME
from crypto.moments import check_moment, format_moment
from crypto.places import PROOF_BYTES, PlacesPublicKey
from crypto.record_tree import RecordLeaf, TreePath, check_number
from crypto.roster import Roster
from crypto.signed import DocumentKind, UnverifiedDocument, read_document, sign_document

RECORD_MANIFEST_KIND: Final = DocumentKind("sealmatch-1/record-manifest", 8 << 10)
ABSENCE_KIND: Final = DocumentKind("sealmatch-1/absence-proof", 64 << 10)
PURGE_REPORT_KIND: Final = DocumentKind("sealmatch-1/purge-report", 32 << 10)
MAX_COUNTS: Final = 32
MAX_RECORD_NUMBER: Final = 64
"""Characters: no disclosure carries a longer record number (`disclosure`)."""
NO_MANIFEST: Final = bytes(DIGEST_BYTES)
"""What stands in the first manifest for the digest of the one before."""
_COUNTED: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class RecordManifest:
    """One holder's records at one moment. `sources` counts all of them by class; `unsearchable` those that no search finds, by reason.

    `version` grows, by one except after a restore; `previous` is the digest of the version before (`NO_MANIFEST` for the first).
    `gallery_root` commits to the templates as a gallery manifest does, `records_root` to the records. The constructor raises `FieldError`.
    """

    agency: AgencyId
    version: int
    made_at: datetime
    model: str
    model_hash: bytes
    dimensions: int
    key_epoch: int
    sources: Mapping[str, int]
    unsearchable: Mapping[str, int]
    gallery_root: bytes = field(repr=False)
    records_root: bytes = field(repr=False)
    places_key: PlacesPublicKey = field(repr=False)
    previous: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_range(self.version, 1, MAX_INTEGER, "record-manifest.version")
        check_moment(self.made_at, "record-manifest.made_at")
        check_text(self.model, MAX_MODEL_NAME, "record-manifest.model")
        check_range(self.dimensions, 1, MAX_INTEGER, "record-manifest.dimensions")
        check_range(self.key_epoch, 1, MAX_INTEGER, "record-manifest.key_epoch")
        for name in ("model_hash", "gallery_root", "records_root", "previous"):
            check_digest(getattr(self, name), f"record-manifest.{name}")
        _check_counts(self.sources, "record-manifest.sources")
        _check_counts(self.unsearchable, "record-manifest.unsearchable")
        if sum(self.unsearchable.values()) > self.records:
            raise FieldError("record-manifest.unsearchable counts more records than there are")

    @property
    def records(self) -> int:
        """All records, found by searches or not."""
        return sum(self.sources.values())

    def says_as(self, other: RecordManifest) -> bool:
        """Whether both say the same of a gallery, whichever versions they are."""
        return self._content(stamped=False) == other._content(stamped=False)

    def sign(self, node_key: SigningKey) -> bytes:
        """The document, for everybody."""
        return sign_document(RECORD_MANIFEST_KIND, self._content(stamped=True), node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The manifest in `data`, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the agency is a holder in the roster (`UnknownAgencyError`)
        3. its node key signed, and nobody else (`AgencyStatementError`)
        """
        manifest, document = cls._read(data)  # 1
        _check_signer(document, manifest.agency, roster)  # 2, 3
        return manifest

    @classmethod
    def read_own(cls, data: bytes, key: VerifyingKey) -> Self:
        """The manifest in `data`, which this key signed (`BadSignatureError`): for a node that reads its own."""
        manifest, document = cls._read(data)
        document.check_only_signer(key)
        return manifest

    @classmethod
    def _read(cls, data: bytes) -> tuple[Self, UnverifiedDocument]:
        document = read_document(RECORD_MANIFEST_KIND, data)
        fields = document.unverified_fields("record-manifest")
        manifest = cls(
            agency=fields.name("agency", AgencyId),
            version=fields.integer("version"),
            made_at=fields.moment("made_at"),
            model=fields.text("model"),
            model_hash=fields.digest("model_hash"),
            dimensions=fields.integer("dimensions"),
            key_epoch=fields.integer("key_epoch"),
            sources=_counts_in(fields, "sources"),
            unsearchable=_counts_in(fields, "unsearchable"),
            gallery_root=fields.digest("gallery_root"),
            records_root=fields.digest("records_root"),
            places_key=PlacesPublicKey(fields.data("places_key")),
            previous=fields.digest("previous"),
        )
        fields.close()
        return manifest, document

    def _content(self, *, stamped: bool) -> JsonObject:
        content: JsonObject = {
            "agency": str(self.agency),
            "model": self.model,
            "model_hash": self.model_hash.hex(),
            "dimensions": self.dimensions,
            "key_epoch": self.key_epoch,
            "sources": dict(self.sources),
            "unsearchable": dict(self.unsearchable),
            "gallery_root": self.gallery_root.hex(),
            "records_root": self.records_root.hex(),
            "places_key": b64url_encode(self.places_key.raw),
        }
        if stamped:
            content |= {"version": self.version, "made_at": format_moment(self.made_at), "previous": self.previous.hex()}
        return content


@dataclass(frozen=True)
class Absence:
    """That a gallery held no record of a number when its manifest was made: for the person whose number it is, and whoever is shown it.

    `manifest_data` is the signed record manifest; `place_proof` shows where the number belongs, `path` what is there instead.
    """

    agency: AgencyId
    made_at: datetime
    record_number: str = field(repr=False)
    manifest_data: bytes = field(repr=False)
    place_proof: bytes = field(repr=False)
    path: TreePath = field(repr=False)

    def __post_init__(self) -> None:
        check_moment(self.made_at, "absence.made_at")
        check_text(self.record_number, MAX_RECORD_NUMBER, "absence.record_number")
        if len(self.place_proof) != PROOF_BYTES:
            raise FieldError(f"absence.place_proof has {PROOF_BYTES} bytes")

    @property
    def manifest_digest(self) -> bytes:
        """SHA-256 of the manifest's document: its entry in the public log is found by it."""
        return hashlib.sha256(self.manifest_data).digest()

    def sign(self, node_key: SigningKey) -> bytes:
        """The document."""
        siblings: list[JsonValue] = [one.hex() for one in self.path.siblings]
        end = self.path.end
        content: JsonObject = {
            "agency": str(self.agency),
            "made_at": format_moment(self.made_at),
            "record_number": self.record_number,
            "manifest": b64url_encode(self.manifest_data),
            "place_proof": b64url_encode(self.place_proof),
            "siblings": siblings,
            "end": None if end is None else {"place": end.place.hex(), "commitment": end.commitment.hex()},
        }
        return sign_document(ABSENCE_KIND, content, node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> tuple[Self, RecordManifest]:
        """The proof in `data` and its manifest, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the agency is a holder in the roster (`UnknownAgencyError`); its node key signed proof and manifest (`AgencyStatementError`)
        3. the number's place, under the manifest's key (`AbsenceError`)
        4. the path leads to the manifest's root and ends in no record of that number (`AbsenceError`)
        """
        document = read_document(ABSENCE_KIND, data)  # 1
        fields = document.unverified_fields("absence")
        siblings = fields.digests("siblings")
        absence = cls(
            agency=fields.name("agency", AgencyId),
            made_at=fields.moment("made_at"),
            record_number=fields.text("record_number"),
            manifest_data=fields.data("manifest"),
            place_proof=fields.data("place_proof"),
            path=TreePath(siblings, _end_in(fields)),
        )
        fields.close()
        _check_signer(document, absence.agency, roster)  # 2
        manifest = RecordManifest.read(absence.manifest_data, roster)
        if manifest.agency != absence.agency or manifest.made_at > absence.made_at:
            raise AgencyStatementError("the manifest in the proof is another agency's, or later than the proof")
        check_number(manifest.places_key, absence.record_number, absence.place_proof, absence.path, manifest.records_root)  # 3, 4
        return absence, manifest


@dataclass(frozen=True)
class PurgeReport:
    """What one purge destroyed: counts by reason, and the signed manifests before and after. It names no record and no person.

    `ledger_before` and `ledger_after` say how far the node's ledger of expunged records went; `left` is how many were due and wait for the
    next purge.
    """

    agency: AgencyId
    made_at: datetime
    expunged: Mapping[str, int]
    left: int
    ledger_before: int
    ledger_after: int
    before_data: bytes = field(repr=False)
    after_data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_moment(self.made_at, "purge-report.made_at")
        _check_counts(self.expunged, "purge-report.expunged")
        for name in ("left", "ledger_before", "ledger_after"):
            check_range(getattr(self, name), 0, MAX_INTEGER, f"purge-report.{name}")

    @property
    def total(self) -> int:
        """Records that were destroyed."""
        return sum(self.expunged.values())

    def sign(self, node_key: SigningKey) -> bytes:
        """The document, for everybody."""
        content: JsonObject = {
            "agency": str(self.agency),
            "made_at": format_moment(self.made_at),
            "expunged": dict(self.expunged),
            "left": self.left,
            "ledger_before": self.ledger_before,
            "ledger_after": self.ledger_after,
            "before": b64url_encode(self.before_data),
            "after": b64url_encode(self.after_data),
        }
        return sign_document(PURGE_REPORT_KIND, content, node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> tuple[Self, RecordManifest, RecordManifest]:
        """The report in `data` with its manifests before and after, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the agency is a holder in the roster (`UnknownAgencyError`); its node key signed report and manifests (`AgencyStatementError`)
        3. the later manifest names the earlier one as the one before it; it has as many records less as the report counts, and both its
            roots are others unless that is none; the ledger of expunged records grew by as many at least (`AgencyStatementError`)
        """
        document = read_document(PURGE_REPORT_KIND, data)  # 1
        fields = document.unverified_fields("purge-report")
        report = cls(
            agency=fields.name("agency", AgencyId),
            made_at=fields.moment("made_at"),
            expunged=_counts_in(fields, "expunged"),
            left=fields.integer("left"),
            ledger_before=fields.integer("ledger_before"),
            ledger_after=fields.integer("ledger_after"),
            before_data=fields.data("before"),
            after_data=fields.data("after"),
        )
        fields.close()
        _check_signer(document, report.agency, roster)  # 2
        before, after = RecordManifest.read(report.before_data, roster), RecordManifest.read(report.after_data, roster)
        report._check_against(before, after)  # 3
        return report, before, after

    def _check_against(self, before: RecordManifest, after: RecordManifest) -> None:
        if {before.agency, after.agency} != {self.agency}:
            raise AgencyStatementError("a manifest in the report is another agency's")
        if self.total == 0:
            if self.before_data != self.after_data or self.ledger_before != self.ledger_after:
                raise AgencyStatementError("nothing was destroyed, and the gallery is another one after it")
            return
        if after.version <= before.version or after.previous != hashlib.sha256(self.before_data).digest():
            raise AgencyStatementError("the manifests of the report do not follow one another")
        if before.records - after.records != self.total or self.ledger_after - self.ledger_before < self.total:
            raise AgencyStatementError("the report counts other records than manifests and ledger lost")
        if after.records_root == before.records_root or after.gallery_root == before.gallery_root:
            raise AgencyStatementError("records were destroyed, and a root of the gallery did not change")


def _check_signer(document: UnverifiedDocument, agency: AgencyId, roster: Roster) -> None:
    roster.check_holder_signed(document, agency, "a statement of a gallery is not signed by its agency's node key")


def _check_counts(counts: Mapping[str, int], where: str) -> None:
    if len(counts) > MAX_COUNTS:
        raise FieldError(f"{where} has at most {MAX_COUNTS} counts")
    for name, count in counts.items():
        if _COUNTED.fullmatch(name) is None:
            raise FieldError(f"{where} names what it counts in lower-case letters, digits, hyphens and underscores")
        check_range(count, 1, MAX_INTEGER, where)


def _counts_in(fields: Fields, name: str) -> dict[str, int]:
    child = fields.child(name)
    counts = {one: child.integer(one) for one in child.as_object()}
    child.close()
    return counts


def _end_in(fields: Fields) -> RecordLeaf | None:
    if fields.is_null("end"):
        return None
    child = fields.child("end")
    end = RecordLeaf(child.digest("place"), child.digest("commitment"))
    child.close()
    return end
