"""What the roster says of one agency: class, jurisdiction, roles, keys, and the persons who may sign for it.

Values only: each is valid once built (the constructors raise `FieldError`) and has one JSON form. What must hold between agencies, such as
distinct keys and distinct persons, is checked by `roster.Roster`; who signed it all is checked by `roster.TrustedRoster`.

**Countersignature.** Root holders know agencies; who reviews for a legal office its head knows. So a reviewer's key stands in an agency's
entry only with a signature by the agency's *office key* over agency, person, role, key and last day of training (R14), which no node
and no administrator of one holds; `Agency` raises `CountersignatureError` for any other. What is signed: `sealmatch-1/reviewer`, a line
feed, canonical JSON with the members `agency`, `credential`, `person`, `trained_until`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import ClassVar, Final, Self

from crypto.assertion import WebAuthnAlgorithm, WebAuthnKey
from crypto.canonical import AgencyId, JsonObject, JsonValue, KeyId, Name, PersonId, b64url_encode, canonical_json
from crypto.errors import BadSignatureError, CountersignatureError, FieldError, TrainingExpiredError
from crypto.fields import Fields, check_ascending, check_text
from crypto.keys import SIGNATURE_BYTES, SealingPublicKey, SigningKey, VerifyingKey
from crypto.moments import check_day, utc_day
from crypto.signed import key_id
from crypto.witness import WitnessKey

MAX_PERSONS: Final = 4096
"""In one agency."""
MAX_CREDENTIALS: Final = 8
"""Of one person: some roles, and a spare key for each."""
_MAX_DISPLAY_CHARS: Final = 200
_REVIEWER_LABEL: Final = b"sealmatch-1/reviewer\n"


class Jurisdiction(Name):
    """Whose laws and whose council an agency answers to, e.g. `us-wi-milwaukee`. Equal or not is all that is asked of it."""

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


class AgencyClass(enum.StrEnum):
    """Federal, foreign and private access is off by default and counted (R9); the packs decide, the roster says which it is."""

    STATE = "state"
    LOCAL = "local"
    TRIBAL = "tribal"
    FEDERAL = "federal"
    FOREIGN = "foreign"
    PRIVATE = "private"


class AgencyRole(enum.StrEnum):
    """What an agency may be in a search. One node may have several; `grant` refuses the combinations that one search must not have."""

    REQUESTER = "requester"
    HOLDER = "holder"
    CUSTODIAN = "custodian"
    WITNESS = "witness"
    LEGAL_OFFICE = "legal_office"
    DISCOVERY = "discovery"


class AgencyMode(enum.StrEnum):
    """What an agency's node may be used for; root holders list `production` when its preflight shows nothing that blocks."""

    DEMO = "demo"
    TEST = "test"
    PRODUCTION = "production"


class PersonRole(enum.StrEnum):
    """What a person's key may sign. The responsible officer (R16) is published by name; with a key that person signs for the agency's own
    duties, such as the weekly review of its ledger, and nothing of a search."""

    INVESTIGATOR = "investigator"
    REVIEWER = "reviewer"
    EXAMINER = "examiner"
    OFFICER = "officer"


class CredentialKind(enum.StrEnum):
    """How a credential signs."""

    ED25519 = "ed25519"
    WEBAUTHN = "webauthn"


@dataclass(frozen=True)
class Credential:
    """One key of one person in one role. `countersignature` is the legal office's of a reviewer's key, None until it has signed."""

    role: PersonRole
    key: VerifyingKey | WebAuthnKey
    countersignature: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.countersignature is None:
            return
        if self.role is not PersonRole.REVIEWER:
            raise FieldError("a legal office countersigns reviewers' keys and no others")
        if len(self.countersignature) != SIGNATURE_BYTES:
            raise FieldError(f"credential.countersignature has {SIGNATURE_BYTES} bytes")

    @property
    def kind(self) -> CredentialKind:
        """Which of the two kinds of key it is."""
        return CredentialKind.WEBAUTHN if isinstance(self.key, WebAuthnKey) else CredentialKind.ED25519

    @property
    def key_id(self) -> KeyId:
        """Derived from the raw key."""
        return key_id(self.key.raw)

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        form: JsonObject = {"role": self.role.value, "kind": self.kind.value, "key": b64url_encode(self.key.raw)}
        if isinstance(self.key, WebAuthnKey):
            form |= {"algorithm": self.key.algorithm.value, "rp_id": self.key.rp_id, "origin": self.key.origin}
        if self.role is PersonRole.REVIEWER:
            form["countersignature"] = None if self.countersignature is None else b64url_encode(self.countersignature)
        return form

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        role, kind, raw = fields.choice("role", PersonRole), fields.choice("kind", CredentialKind), fields.data("key")
        key: VerifyingKey | WebAuthnKey
        if kind is CredentialKind.WEBAUTHN:
            key = WebAuthnKey(fields.choice("algorithm", WebAuthnAlgorithm), raw, fields.text("rp_id"), fields.text("origin"))
        else:
            key = VerifyingKey(raw)
        countersignature = None
        if role is PersonRole.REVIEWER and not fields.is_null("countersignature"):
            countersignature = fields.data("countersignature")
        fields.close()
        return cls(role, key, countersignature)


@dataclass(frozen=True)
class Person:
    """A person who signs: credentials in ascending order of key id, and the last day of the training certificate (R14)."""

    person_id: PersonId
    trained_until: date
    credentials: tuple[Credential, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_day(self.trained_until, "person.trained_until")
        check_ascending([credential.key_id for credential in self.credentials], 1, MAX_CREDENTIALS, "person.credentials")

    def check_trained(self, now: datetime) -> None:
        """Raise `TrainingExpiredError` if the UTC day of `now` is after the certificate's last (R14: expired = cannot sign)."""
        if utc_day(now) > self.trained_until:
            raise TrainingExpiredError("a signer's training has lapsed")

    def countersigned(self, agency: AgencyId, office_key: SigningKey) -> Person:
        """The same person with every reviewer's key countersigned by the key of the legal office `agency`."""

        def vouched(one: Credential) -> Credential:
            if one.role is not PersonRole.REVIEWER:
                return one
            return replace(one, countersignature=office_key.sign(_reviewer_statement(agency, self, one)))

        return replace(self, credentials=tuple(vouched(one) for one in self.credentials))

    def check_countersigned(self, agency: AgencyId, office_key: VerifyingKey) -> None:
        """Raise `CountersignatureError` unless `office_key` of the legal office `agency` vouches for every reviewer's key."""
        for credential in self.credentials:
            if credential.role is not PersonRole.REVIEWER:
                continue
            if credential.countersignature is None:
                raise CountersignatureError("a reviewer's key is not countersigned by its legal office")
            try:
                office_key.check(credential.countersignature, _reviewer_statement(agency, self, credential))
            except BadSignatureError as error:
                raise CountersignatureError("a reviewer's key bears no countersignature of this legal office for this person") from error

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        credentials: list[JsonValue] = [credential.to_json() for credential in self.credentials]
        return {"id": str(self.person_id), "trained_until": self.trained_until.isoformat(), "credentials": credentials}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        credentials = tuple(Credential.from_fields(child) for child in fields.children("credentials"))
        person = cls(fields.name("id", PersonId), fields.day("trained_until"), credentials)
        fields.close()
        return person


@dataclass(frozen=True)
class Agency:
    """One agency. Roles and persons stand in ascending order; a key stands exactly where a role needs it.

    `node_key` signs the agency's envelopes, manifests and sealing keys. `legal_office` is the agency (often itself) whose reviewers
    decide for this one and to whose discovery key the scores go; requesters and holders must have one. `office_key` is a legal office's,
    kept by its head: it countersigns the keys of the office's reviewers. `responsible_officer` is published (R16). Agencies in production
    deal with no agency whose `mode` is another.
    """

    agency_id: AgencyId
    display_name: str
    agency_class: AgencyClass
    jurisdiction: Jurisdiction
    roles: tuple[AgencyRole, ...]
    responsible_officer: str
    node_key: VerifyingKey = field(repr=False)
    legal_office: AgencyId | None = None
    discovery_key: SealingPublicKey | None = field(default=None, repr=False)
    office_key: VerifyingKey | None = field(default=None, repr=False)
    witness: WitnessKey | None = field(default=None, repr=False)
    persons: tuple[Person, ...] = field(default=(), repr=False)
    mode: AgencyMode = AgencyMode.TEST

    def __post_init__(self) -> None:
        check_text(self.display_name, _MAX_DISPLAY_CHARS, "agency.name")
        check_text(self.responsible_officer, _MAX_DISPLAY_CHARS, "agency.responsible_officer")
        check_ascending(self.roles, 1, len(AgencyRole), "agency.roles")
        check_ascending([person.person_id for person in self.persons], 0, MAX_PERSONS, "agency.persons")
        if (self.discovery_key is not None) != (AgencyRole.DISCOVERY in self.roles):
            raise FieldError("an agency has a discovery key exactly if it has that role")
        if (self.office_key is not None) != (AgencyRole.LEGAL_OFFICE in self.roles):
            raise FieldError("an agency has an office key exactly if it is a legal office")
        if (self.witness is not None) != (AgencyRole.WITNESS in self.roles):
            raise FieldError("an agency has a witness key exactly if it has that role")
        if self.witness is not None and self.witness.agency != self.agency_id:
            raise FieldError("an agency's witness key names that agency")
        if AgencyRole.CUSTODIAN in self.roles and AgencyRole.WITNESS not in self.roles:
            raise FieldError("a custodian is a witness: a checkpoint counts only with a custodian's cosignature")
        if self.legal_office is None and (AgencyRole.REQUESTER in self.roles or AgencyRole.HOLDER in self.roles):
            raise FieldError("a requester or holder names its legal office")
        if self.office_key is not None:
            for person in self.persons:
                person.check_countersigned(self.agency_id, self.office_key)
        elif any(credential.role is PersonRole.REVIEWER for person in self.persons for credential in person.credentials):
            raise FieldError("reviewers belong to a legal office")

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        roles: list[JsonValue] = [role.value for role in self.roles]
        persons: list[JsonValue] = [person.to_json() for person in self.persons]
        return {
            "id": str(self.agency_id),
            "name": self.display_name,
            "class": self.agency_class.value,
            "jurisdiction": str(self.jurisdiction),
            "mode": self.mode.value,
            "roles": roles,
            "responsible_officer": self.responsible_officer,
            "node_key": b64url_encode(self.node_key.raw),
            "legal_office": None if self.legal_office is None else str(self.legal_office),
            "discovery_key": None if self.discovery_key is None else b64url_encode(self.discovery_key.raw),
            "office_key": None if self.office_key is None else b64url_encode(self.office_key.raw),
            "witness": None if self.witness is None else {"name": self.witness.name, "key": b64url_encode(self.witness.key.raw)},
            "persons": persons,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        agency_id = fields.name("id", AgencyId)
        agency = cls(
            agency_id=agency_id,
            display_name=fields.text("name"),
            agency_class=fields.choice("class", AgencyClass),
            jurisdiction=fields.name("jurisdiction", Jurisdiction),
            roles=fields.choices("roles", AgencyRole),
            responsible_officer=fields.text("responsible_officer"),
            node_key=VerifyingKey(fields.data("node_key")),
            legal_office=None if fields.is_null("legal_office") else fields.name("legal_office", AgencyId),
            discovery_key=None if fields.is_null("discovery_key") else SealingPublicKey(fields.data("discovery_key")),
            office_key=None if fields.is_null("office_key") else VerifyingKey(fields.data("office_key")),
            witness=None if fields.is_null("witness") else _witness(fields.child("witness"), agency_id),
            persons=tuple(Person.from_fields(child) for child in fields.children("persons")),
            mode=fields.choice("mode", AgencyMode),
        )
        fields.close()
        return agency


def _reviewer_statement(agency: AgencyId, person: Person, credential: Credential) -> bytes:
    """What a countersignature is over."""
    said: JsonObject = {
        "agency": str(agency),
        "person": str(person.person_id),
        "trained_until": person.trained_until.isoformat(),
        "credential": {name: value for name, value in credential.to_json().items() if name != "countersignature"},
    }
    return _REVIEWER_LABEL + canonical_json(said)


def _witness(fields: Fields, agency_id: AgencyId) -> WitnessKey:
    witness = WitnessKey(fields.text("name"), VerifyingKey(fields.data("key")), agency_id)
    fields.close()
    return witness
