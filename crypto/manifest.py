"""Gallery manifests: what a holder says of its gallery, signed with its node key, and whom it trusts as custodian (PROTOCOL 1).

A search's custodians are chosen by the requester, so each holder names in its manifest those it trusts, and holder and custodian check, not
the broker, that at least one of them serves. Sizes are what the custodian computes the threshold from (R33), the root is what an audit
compares the gallery with (PROTOCOL 7).

Invariants: what `read` returns was signed by the node key that the roster gives the agency. Left to others: storing the last manifest of
each holder and asking `check_follows` of the next (services); the commitment to the gallery itself (`gallery`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, JsonValue
from crypto.errors import AgencyStatementError, CustodianError, FieldError, ModelError
from crypto.fields import MAX_INTEGER, check_ascending, check_digest, check_range
from crypto.grant import check_jurisdictions
from crypto.grant_claims import GrantTerms
from crypto.keys import SigningKey
from crypto.limits import MAX_CHUNKS
from crypto.moments import check_moment, check_now, format_moment
from crypto.parameters import SEALMATCH_1
from crypto.roster import Roster
from crypto.roster_entries import AgencyRole
from crypto.signed import DocumentKind, read_document, sign_document

MANIFEST_KIND: Final = DocumentKind("sealmatch-1/gallery-manifest", 16 << 10)
MAX_TRUSTED_CUSTODIANS: Final = 64


@dataclass(frozen=True)
class GalleryManifest:
    """One holder's gallery. `records` counts real records, not fillers; `chunks` is what is scanned, each of N = 1024 slots.

    `version` grows with every manifest of the agency; `gallery_root` is the 32-byte commitment to the gallery of that version. Custodians
    stand in ascending order, the agency itself is none of them. The constructor raises `FieldError`.
    """

    agency: AgencyId
    version: int
    model_hash: bytes
    dimensions: int
    records: int
    chunks: int
    gallery_root: bytes = field(repr=False)
    trusted_custodians: tuple[AgencyId, ...]
    valid_until: datetime

    def __post_init__(self) -> None:
        check_range(self.version, 1, MAX_INTEGER, "manifest.version")
        check_digest(self.model_hash, "manifest.model_hash")
        check_digest(self.gallery_root, "manifest.gallery_root")
        check_range(self.dimensions, 8, SEALMATCH_1.max_dimensions, "manifest.dimensions")
        if self.dimensions % 8:
            raise FieldError("manifest.dimensions is a multiple of 8")
        check_range(self.chunks, 1, MAX_CHUNKS - 1, "manifest.chunks")  # an answer adds its calibration chunk
        check_range(self.records, 1, self.chunks * SEALMATCH_1.ring_degree, "manifest.records")
        check_ascending(self.trusted_custodians, 1, MAX_TRUSTED_CUSTODIANS, "manifest.trusted_custodians")
        if self.agency in self.trusted_custodians:
            raise FieldError("manifest.trusted_custodians are other agencies: holder and custodian together learn the probe")
        check_moment(self.valid_until, "manifest.valid_until")

    def sign(self, node_key: SigningKey) -> bytes:
        """The document, for everybody."""
        custodians: list[JsonValue] = [str(custodian) for custodian in self.trusted_custodians]
        content: JsonObject = {
            "agency": str(self.agency),
            "version": self.version,
            "model_hash": self.model_hash.hex(),
            "dimensions": self.dimensions,
            "records": self.records,
            "chunks": self.chunks,
            "gallery_root": self.gallery_root.hex(),
            "trusted_custodians": custodians,
            "valid_until": format_moment(self.valid_until),
        }
        return sign_document(MANIFEST_KIND, content, node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The manifest in `data`, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the agency is a holder in the roster (`UnknownAgencyError`)
        3. its node key signed, and nobody else (`AgencyStatementError`)

        Whether it still holds is `check_in_force`, whether it is the latest `check_follows`.
        """
        document = read_document(MANIFEST_KIND, data)  # 1
        fields = document.unverified_fields("manifest")
        manifest = cls(
            agency=fields.name("agency", AgencyId),
            version=fields.integer("version"),
            model_hash=fields.digest("model_hash"),
            dimensions=fields.integer("dimensions"),
            records=fields.integer("records"),
            chunks=fields.integer("chunks"),
            gallery_root=fields.digest("gallery_root"),
            trusted_custodians=fields.names("trusted_custodians", AgencyId),
            valid_until=fields.moment("valid_until"),
        )
        fields.close()
        roster.check_holder_signed(document, manifest.agency, "manifest is not signed by its agency's node key")  # 2, 3
        return manifest

    def check_in_force(self, now: datetime) -> None:
        """Raise `AgencyStatementError` from `valid_until` on."""
        check_now(now)
        if now >= self.valid_until:
            raise AgencyStatementError("manifest is no longer valid")

    def check_follows(self, previous: GalleryManifest) -> None:
        """Raise `AgencyStatementError` unless this is `previous` itself or a later version by the same agency."""
        if self != previous and (self.agency != previous.agency or self.version <= previous.version):
            raise AgencyStatementError("manifest does not follow the one before")


def check_custodians(terms: GrantTerms, roster: Roster, manifests: Mapping[AgencyId, GalleryManifest], now: datetime) -> None:
    """Raise unless the grant's custodians may serve it. The custodian asks this, with the manifests of all holders by agency.

    1. each is a custodian in the roster (`UnknownAgencyError`); that there is one is in the terms
    2. none is of the requesting or originating agency's own jurisdiction (`CustodianError`)
    3. every holder has a manifest of its own (`AgencyStatementError`)
    4. `check_trusted_by` holds for every holder

    A holder asks `check_jurisdictions` and `check_trusted_by` with its own manifest: it need not see the others'.
    """
    for custodian in terms.custodians:
        roster.agency_as(custodian, AgencyRole.CUSTODIAN)  # 1
    check_jurisdictions(terms, roster)  # 2
    for holder in terms.holders:
        manifest = manifests.get(holder)
        if manifest is None or manifest.agency != holder:  # 3
            raise AgencyStatementError("a holder of the grant has no manifest")
        check_trusted_by(manifest, terms, now)  # 4


def check_trusted_by(manifest: GalleryManifest, terms: GrantTerms, now: datetime) -> None:
    """Raise unless the holder of `manifest` may serve the grant's custodians with this gallery.

    1. the manifest is still valid (`AgencyStatementError`)
    2. it is of the grant's model (`ModelError`)
    3. it names at least one of the grant's custodians (`CustodianError`)
    """
    manifest.check_in_force(now)  # 1
    if manifest.model_hash != terms.model_hash:  # 2
        raise ModelError("a holder's gallery was made by another model than the grant's")
    if set(manifest.trusted_custodians).isdisjoint(terms.custodians):  # 3
        raise CustodianError("a holder trusts none of the grant's custodians")
