"""A small federation with real keys, made from names: agencies, persons, roots, a software authenticator, and one good grant.

Everything is a function of the names, so a failing test fails again in the same way. Nothing here is a fake: documents are signed and read
by the code under test, and tests forge by signing wrong things with right keys.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.assertion import WebAuthnAlgorithm, WebAuthnAssertion, WebAuthnKey
from crypto.canonical import AgencyId, GrantId, PersonId, SearchId, b64url_encode
from crypto.checkpoint import LogKey
from crypto.epoch import Epoch
from crypto.grant_basis import BasisKind, CourtOrder, Event, Offence, ProbeSource, Purpose
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import add_assertion, add_signature, unsigned_grant, webauthn_challenge
from crypto.keys import SealingPrivateKey, SigningKey
from crypto.manifest import GalleryManifest
from crypto.root_set import RootKey, RootSet
from crypto.roster import Roster, TrustedRoster
from crypto.roster_entries import Agency, AgencyClass, AgencyRole, Credential, Jurisdiction, Person, PersonRole
from crypto.witness import WitnessKey

NOW = datetime(2026, 11, 23, 16, 12, 4, 50_000, UTC)
TRAINED_UNTIL = date(2027, 6, 30)
RP_ID = "reviewers.example.org"
ORIGIN = "https://reviewers.example.org"

NORTHPORT = AgencyId("northport-pd")
NORTHPORT_LAW = AgencyId("northport-attorney")
EASTFIELD = AgencyId("eastfield-pd")
EASTFIELD_LAW = AgencyId("eastfield-attorney")
LAKESIDE = AgencyId("lakeside-sheriff")
OVERSIGHT = AgencyId("state-oversight")
BOARD = AgencyId("civic-board")
NORTHPORT_BOARD = AgencyId("northport-board")
VENDOR = AgencyId("broker-vendor")

INVESTIGATOR = PersonId("northport-pd:detective-4")
REVIEWER = PersonId("northport-attorney:counsel-1")
KEYED_REVIEWER = PersonId("northport-attorney:counsel-2")
ED_KEYED_REVIEWER = PersonId("northport-attorney:counsel-3")
ORIGINATOR = PersonId("eastfield-attorney:counsel-1")
LAKESIDE_REVIEWER = PersonId("lakeside-sheriff:counsel-1")
BOTH = PersonId("northport-attorney:both")
"""Holds an investigator's and a reviewer's key."""


def secret(name: str) -> bytes:
    return hashlib.sha256(b"sample federation " + name.encode()).digest()


@functools.cache
def signing_key(name: str) -> SigningKey:
    return SigningKey.from_secret(secret(name))


def digest(name: str) -> bytes:
    return secret("digest " + name)


@dataclass(frozen=True)
class SoftwareAuthenticator:
    """What a security key and a browser do together in `navigator.credentials.get()`, with every part open to tampering."""

    name: str
    algorithm: WebAuthnAlgorithm
    rp_id: str = RP_ID
    origin: str = ORIGIN

    @property
    def key(self) -> WebAuthnKey:
        if self.algorithm is WebAuthnAlgorithm.ED25519:
            return WebAuthnKey(self.algorithm, signing_key(self.name).verifying_key.raw, self.rp_id, self.origin)
        point = self.p256.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        return WebAuthnKey(self.algorithm, point, self.rp_id, self.origin)

    @property
    def p256(self) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(int.from_bytes(secret(self.name), "big"), ec.SECP256R1())

    def sign(self, message: bytes) -> bytes:
        if self.algorithm is WebAuthnAlgorithm.ED25519:
            return signing_key(self.name).sign(message)
        return self.p256.sign(message, ec.ECDSA(hashes.SHA256()))

    def get(
        self, challenge: bytes, *, flags: int = 0x05, rp_id: str | None = None, client: Mapping[str, object] | None = None
    ) -> WebAuthnAssertion:
        """An assertion; `client` replaces members of the client data (None takes one out)."""
        members: dict[str, object] = {
            "type": "webauthn.get",
            "challenge": b64url_encode(challenge),
            "origin": self.origin,
            "crossOrigin": False,
            **(client or {}),
        }
        client_data = json.dumps({name: value for name, value in members.items() if value is not None}, separators=(",", ":")).encode()
        return self.over(client_data, flags=flags, rp_id=rp_id)

    def over(self, client_data: bytes, *, flags: int = 0x05, rp_id: str | None = None) -> WebAuthnAssertion:
        authenticator_data = hashlib.sha256((rp_id or self.rp_id).encode()).digest() + struct.pack(">BI", flags, 7)
        return WebAuthnAssertion(authenticator_data, client_data, self.sign(authenticator_data + hashlib.sha256(client_data).digest()))


KEYED = SoftwareAuthenticator("security key of counsel-2", WebAuthnAlgorithm.ES256)
ED_KEYED = SoftwareAuthenticator("security key of counsel-3", WebAuthnAlgorithm.ED25519)


def credential(name: str, role: PersonRole) -> Credential:
    return Credential(role, signing_key(name).verifying_key)


def person(person_id: PersonId, *credentials: Credential, trained_until: date = TRAINED_UNTIL) -> Person:
    return Person(person_id, trained_until, tuple(sorted(credentials, key=lambda entry: entry.key_id)))


def agency(
    agency_id: AgencyId, jurisdiction: str, *roles: AgencyRole, legal_office: AgencyId | None = None, persons: Iterable[Person] = ()
) -> Agency:
    discovery = SealingPrivateKey.from_secret(secret(f"{agency_id} discovery")).public_key
    witness = WitnessKey(f"{agency_id}.example.org/witness", signing_key(f"{agency_id} witness").verifying_key, agency_id)
    office = AgencyRole.LEGAL_OFFICE in roles
    return Agency(
        agency_id=agency_id,
        display_name=f"The {agency_id}",
        agency_class=AgencyClass.LOCAL,
        jurisdiction=Jurisdiction(jurisdiction),
        roles=tuple(sorted(roles)),
        responsible_officer="A. Officer, compliance desk",
        node_key=signing_key(f"{agency_id} node").verifying_key,
        legal_office=legal_office,
        discovery_key=discovery if AgencyRole.DISCOVERY in roles else None,
        office_key=office_key(agency_id).verifying_key if office else None,
        witness=witness if AgencyRole.WITNESS in roles else None,
        persons=tuple(sorted(countersigned(agency_id, *persons) if office else persons, key=lambda entry: entry.person_id)),
    )


def office_key(office: AgencyId) -> SigningKey:
    return signing_key(f"{office} office")


def countersigned(office: AgencyId, *persons: Person) -> tuple[Person, ...]:
    """Persons of a legal office, each reviewer vouched for by the office's own key."""
    return tuple(one.countersigned(office, office_key(office)) for one in persons)


@functools.cache
def agencies() -> tuple[Agency, ...]:
    requester, holder, custodian, witness = AgencyRole.REQUESTER, AgencyRole.HOLDER, AgencyRole.CUSTODIAN, AgencyRole.WITNESS
    office, discovery = AgencyRole.LEGAL_OFFICE, AgencyRole.DISCOVERY
    northport_counsel = (
        person(REVIEWER, credential(REVIEWER, PersonRole.REVIEWER)),
        person(KEYED_REVIEWER, Credential(PersonRole.REVIEWER, KEYED.key)),
        person(ED_KEYED_REVIEWER, Credential(PersonRole.REVIEWER, ED_KEYED.key)),
        person(BOTH, credential("both reviewer", PersonRole.REVIEWER), credential("both investigator", PersonRole.INVESTIGATOR)),
    )
    listed = (
        agency(
            NORTHPORT,
            "us-wi-northport",
            requester,
            holder,
            legal_office=NORTHPORT_LAW,
            persons=[person(INVESTIGATOR, credential(INVESTIGATOR, PersonRole.INVESTIGATOR))],
        ),
        agency(NORTHPORT_LAW, "us-wi-northport", office, discovery, persons=northport_counsel),
        agency(EASTFIELD, "us-wi-eastfield", requester, holder, legal_office=EASTFIELD_LAW),
        agency(
            EASTFIELD_LAW,
            "us-wi-eastfield",
            office,
            discovery,
            persons=[person(ORIGINATOR, credential(ORIGINATOR, PersonRole.REVIEWER))],
        ),
        agency(
            LAKESIDE,
            "us-wi-lakeside",
            holder,
            office,
            legal_office=LAKESIDE,
            persons=[person(LAKESIDE_REVIEWER, credential(LAKESIDE_REVIEWER, PersonRole.REVIEWER))],
        ),
        agency(OVERSIGHT, "us-wi", custodian, witness),
        agency(BOARD, "us-il-rivertown", custodian, witness),
        agency(NORTHPORT_BOARD, "us-wi-northport", custodian, witness),
    )
    return tuple(sorted(listed, key=lambda entry: entry.agency_id))


ROOT_HOLDERS = (EASTFIELD, NORTHPORT, OVERSIGHT)


def root_key(holder: AgencyId, generation: int = 1) -> SigningKey:
    return signing_key(f"{holder} root {generation}")


@functools.cache
def root_set(generation: int = 1, threshold: int = 2) -> RootSet:
    return RootSet(tuple(RootKey(holder, root_key(holder, generation).verifying_key) for holder in ROOT_HOLDERS), threshold)


@functools.cache
def roster(version: int = 1, generation: int = 1) -> Roster:
    return Roster(
        version=version,
        expires=datetime(2027, 1, 1, tzinfo=UTC),
        root=root_set(generation),
        log=LogKey("log.example.org/2026", signing_key("log").verifying_key),
        log_operator=VENDOR,
        agencies=agencies(),
    )


def sign_roster(content: Roster, *generations: int, holders: Iterable[AgencyId] = ROOT_HOLDERS[:2]) -> bytes:
    return content.sign(*(root_key(holder, generation) for generation in generations or (1,) for holder in holders))


def trust(content: Roster) -> TrustedRoster:
    return TrustedRoster.pin(sign_roster(content), content.root.fingerprint, NOW)


def with_agency(content: Roster, agency_id: AgencyId, **changes: object) -> Roster:
    """The roster with other values in one agency's entry; reviewers among other persons are countersigned by its own office."""
    if "persons" in changes and content.agency(agency_id).office_key == office_key(agency_id).verifying_key:
        changes["persons"] = countersigned(agency_id, *changes["persons"])  # type: ignore[misc]
    return replace(
        content,
        agencies=tuple(replace(entry, **changes) if entry.agency_id == agency_id else entry for entry in content.agencies),  # type: ignore[arg-type]
    )


def claims() -> GrantClaims:
    return GrantClaims(
        grant_id=GrantId("00112233445566778899aabbccddeeff"),
        search_id=SearchId("ffeeddccbbaa99887766554433221100"),
        requesting_agency=NORTHPORT,
        originating_agency=NORTHPORT,
        investigator=INVESTIGATOR,
        reviewers=(REVIEWER,),
        originator=None,
        case_commitment=digest("case"),
        offence=Offence("Wis. Stat. 940.19(4)", "13A"),
        basis=CourtOrder(
            BasisKind.WARRANT, "Circuit Court, Northport County", "26-CF-101", date(2026, 11, 20), date(2026, 12, 4), digest("warrant")
        ),
        purpose=Purpose.CRIMINAL_INVESTIGATION,
        event=Event.NONE,
        probe_source=ProbeSource.RECORDED_VIDEO_STILL,
        probe_digest=digest("probe"),
        face_commit=digest("face"),
        epoch=Epoch("2026-11"),
        model_hash=digest("model"),
        holders=(EASTFIELD, LAKESIDE),
        custodians=(BOARD, OVERSIGHT),
        combiner=OVERSIGHT,
        false_positives_per_million=1000,
        answer_deadline=NOW + timedelta(hours=4),
        policy_packs=tuple(sorted((digest("pack 1"), digest("pack 2")))),
        not_before=NOW - timedelta(hours=1),
        expires=NOW + timedelta(days=2),
        reason_salt=digest("reason salt"),
    )


def two_agency_claims() -> GrantClaims:
    """Eastfield's case, searched by Northport (R6), with two reviewers, one of whom uses a security key."""
    return replace(claims(), originating_agency=EASTFIELD, originator=ORIGINATOR, reviewers=(REVIEWER, KEYED_REVIEWER), holders=(LAKESIDE,))


def assert_with(token: bytes, role: GrantRole, authenticator: SoftwareAuthenticator) -> bytes:
    return add_assertion(token, role, authenticator.key, authenticator.get(webauthn_challenge(token, role, authenticator.key)))


def token_of(content: GrantClaims) -> bytes:
    """A token signed by everybody whom the claims name."""
    authenticators = {KEYED_REVIEWER: KEYED, ED_KEYED_REVIEWER: ED_KEYED}
    token = unsigned_grant(content)
    for role, named in content.signatories.items():
        if named in authenticators:
            token = assert_with(token, role, authenticators[named])
        else:
            token = add_signature(token, role, signing_key(named))
    return token


def manifest(holder: AgencyId = LAKESIDE) -> GalleryManifest:
    return GalleryManifest(
        agency=holder,
        version=3,
        model_hash=digest("model"),
        dimensions=512,
        records=250_000,
        chunks=250,
        gallery_root=digest("gallery"),
        trusted_custodians=(BOARD, NORTHPORT_BOARD),
        valid_until=NOW + timedelta(days=30),
    )
