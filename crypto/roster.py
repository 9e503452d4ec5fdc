"""The roster: one document with the keys, roles and class of every agency, signed by a threshold of root keys, as TUF's root role is.

A node never takes a key from the broker: a broker that could swap a custodian's key would open every search. So the node is told one
fingerprint at `init`, that of the root set, and from then on `TrustedRoster` decides: bytes in, trusted object or exception out. The broker
only carries the bytes.

Invariants of a `Roster`: every key stands for one thing, every person for one agency, every root key is held by an agency that is listed,
every reviewer's key is countersigned by its legal office (`roster_entries`).
Invariants of a `TrustedRoster`: it came from `pin`, `resume`, `update` or `follow`, so a threshold of root keys that this node trusted
signed it; what it reads out at a moment has not expired.

Left to others: storing the trusted bytes and fetching new ones (services); custodians' weekly keys (`sealing_key`) and gallery
manifests (`manifest`), which agencies sign themselves with the node keys listed here; who may do what in one search (`grant`).

What is signed: `sealmatch-1/roster`, a line feed, canonical JSON (see `signed`). Root keys and the fingerprint: `root_set`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, JsonValue, KeyId, b64url_encode
from crypto.checkpoint import LogKey
from crypto.errors import (
    AgencyModeError,
    AgencyStatementError,
    BadSignatureError,
    FieldError,
    RosterExpiredError,
    RosterForkError,
    RosterPinError,
    RosterRollbackError,
    RosterSignatureError,
    RosterThresholdError,
    UnknownAgencyError,
    UnknownKeyError,
)
from crypto.fields import MAX_INTEGER, Fields, check_ascending, check_range
from crypto.keys import SealingPublicKey, SigningKey, VerifyingKey
from crypto.moments import check_moment, check_now, format_moment
from crypto.root_set import MAX_ROOT_KEYS, RootKey, RootSet
from crypto.roster_entries import Agency, AgencyMode, AgencyRole, Credential, Person
from crypto.signed import DocumentKind, UnverifiedDocument, add_signature, content_digest, key_id, read_document, sign_document
from crypto.witness import CheckpointPolicy, WitnessKey

ROSTER_KIND: Final = DocumentKind("sealmatch-1/roster", 4 << 20)
"""4 MiB: ten thousand persons at 300 bytes, and room."""
MAX_AGENCIES: Final = 1024


@dataclass(frozen=True)
class Signatory:
    """A credential with the person and the agency it belongs to: what a key id in a grant leads to."""

    agency: Agency
    person: Person
    credential: Credential


@dataclass(frozen=True)
class Roster:
    """The content of the document. A `Roster` says nothing of who signed it: take it from `TrustedRoster.at`.

    `outgoing_root_keys` are keys of an earlier root set, in ascending order of holders, that sign this version so that nodes which trust
    that set can follow; they have no power after it. `log_operator` is the agency or vendor that runs the broker; its witness does not
    count.
    The constructor raises `FieldError` for any breach of the invariants in the module's docstring.
    """

    version: int
    expires: datetime
    root: RootSet
    log: LogKey
    log_operator: AgencyId
    agencies: tuple[Agency, ...] = field(repr=False)
    outgoing_root_keys: tuple[RootKey, ...] = ()

    def __post_init__(self) -> None:
        check_range(self.version, 1, MAX_INTEGER, "roster.version")
        check_moment(self.expires, "roster.expires")
        check_ascending([agency.agency_id for agency in self.agencies], 1, MAX_AGENCIES, "roster.agencies")
        check_ascending([root.holder for root in self.outgoing_root_keys], 0, MAX_ROOT_KEYS, "roster.outgoing_root_keys")
        _check_once(self._all_keys(), "roster lists one key twice")
        _check_once((person.person_id for agency in self.agencies for person in agency.persons), "roster lists one person twice")
        _check_once([self.log.origin, *(witness.name for witness in self.witness_keys())], "roster gives two note keys one name")
        for root in self.root.keys:
            if root.holder not in self._agencies:
                raise FieldError("a root key is held by an agency of the roster")
        for agency in self.agencies:
            self._check_legal_office(agency)

    def agency(self, agency_id: AgencyId) -> Agency:
        """The agency of that id; `UnknownAgencyError` if there is none."""
        agency = self._agencies.get(agency_id)
        if agency is None:
            raise UnknownAgencyError("agency is not in the roster")
        return agency

    def agency_as(self, agency_id: AgencyId, role: AgencyRole) -> Agency:
        """The agency of that id in that role; `UnknownAgencyError` if the roster does not give it the role."""
        agency = self.agency(agency_id)
        if role not in agency.roles:
            raise UnknownAgencyError(f"agency is not a {role.value} in the roster")
        return agency

    def check_holder_signed(self, document: UnverifiedDocument, agency_id: AgencyId, refusal: str) -> None:
        """Raise unless the agency is a holder (`UnknownAgencyError`) whose node key signed, and nobody else: `AgencyStatementError`, which
        says `refusal`."""
        node_key = self.agency_as(agency_id, AgencyRole.HOLDER).node_key
        try:
            document.check_only_signer(node_key)
        except BadSignatureError as error:
            raise AgencyStatementError(refusal) from error

    def node_key(self, agency_id: AgencyId) -> VerifyingKey:
        """The key that signs the agency's envelopes, manifests and sealing keys."""
        return self.agency(agency_id).node_key

    def discovery_key(self, agency_id: AgencyId) -> SealingPublicKey:
        """Where the scores of this agency's searches are sealed to: its legal office, not its investigators (PROTOCOL 3, step 10)."""
        office = self.agency(agency_id).legal_office
        key = None if office is None else self.agency(office).discovery_key
        if key is None:
            raise UnknownAgencyError("agency has no legal office with a discovery key")
        return key

    def signatory(self, name: KeyId) -> Signatory:
        """Whose credential has that key id; `UnknownKeyError` for keys of nodes, roots, witnesses and of nobody."""
        signatory = self._signatories.get(name)
        if signatory is None:
            raise UnknownKeyError("key is no person's key in the roster")
        return signatory

    def check_modes(self, agencies: Iterable[AgencyId]) -> None:
        """Raise `AgencyModeError` if some of these agencies are in production and some in demo or test mode."""
        if len({self.agency(one).mode is AgencyMode.PRODUCTION for one in agencies}) > 1:
            raise AgencyModeError("an agency in production deals with no agency in demo or test mode")

    def witness_keys(self) -> tuple[WitnessKey, ...]:
        """Every witness, in order of agency."""
        return tuple(agency.witness for agency in self.agencies if agency.witness is not None)

    def checkpoint_policy(
        self, *, parties: Iterable[AgencyId], holders: Iterable[AgencyId], custodians: Iterable[AgencyId]
    ) -> CheckpointPolicy:
        """What makes a checkpoint count in a search of `parties` (requesting and originating agency) at `holders` under `custodians`
        (PROTOCOL 5)."""
        return CheckpointPolicy(
            self.log, self.witness_keys(), self.log_operator, frozenset(parties), frozenset(holders), frozenset(custodians)
        )

    def public_policy(self) -> CheckpointPolicy:
        """What makes a checkpoint count for a reader of the whole log, who looks at no search: the same majority, no party's view."""
        witnesses = self.witness_keys()
        return self.checkpoint_policy(parties=(), holders=(), custodians=(witness.agency for witness in witnesses))

    def to_json(self) -> JsonObject:
        """Its JSON form, without the `type` that signing adds."""
        outgoing: list[JsonValue] = [root.to_json() for root in self.outgoing_root_keys]
        agencies: list[JsonValue] = [agency.to_json() for agency in self.agencies]
        return {
            "version": self.version,
            "expires": format_moment(self.expires),
            "root": self.root.to_json(),
            "outgoing_root_keys": outgoing,
            "log": {"origin": self.log.origin, "key": b64url_encode(self.log.key.raw), "operator": str(self.log_operator)},
            "agencies": agencies,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        log = fields.child("log")
        roster = cls(
            version=fields.integer("version"),
            expires=fields.moment("expires"),
            root=RootSet.from_fields(fields.child("root")),
            log=LogKey(log.text("origin"), VerifyingKey(log.data("key"))),
            log_operator=log.name("operator", AgencyId),
            agencies=tuple(Agency.from_fields(child) for child in fields.children("agencies")),
            outgoing_root_keys=tuple(RootKey.from_fields(child) for child in fields.children("outgoing_root_keys")),
        )
        log.close()
        fields.close()
        return roster

    def sign(self, *keys: SigningKey) -> bytes:
        """The document, signed by root keys; holders that sign elsewhere add theirs with `add_root_signature`."""
        return sign_document(ROSTER_KIND, self.to_json(), *keys)

    @functools.cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for this content, whoever signed it: what its entry in the log is about (`roster_change`)."""
        return content_digest(ROSTER_KIND, self.to_json())

    @functools.cached_property
    def _agencies(self) -> Mapping[AgencyId, Agency]:
        return MappingProxyType({agency.agency_id: agency for agency in self.agencies})

    @functools.cached_property
    def _signatories(self) -> Mapping[KeyId, Signatory]:
        return MappingProxyType(
            {
                credential.key_id: Signatory(agency, person, credential)
                for agency in self.agencies
                for person in agency.persons
                for credential in person.credentials
            }
        )

    def _all_keys(self) -> Iterable[bytes]:
        yield from (root.key.raw for root in self.root.keys)
        yield from (root.key.raw for root in self.outgoing_root_keys)
        yield self.log.key.raw
        for agency in self.agencies:
            yield agency.node_key.raw
            if agency.discovery_key is not None:
                yield agency.discovery_key.raw
            if agency.office_key is not None:
                yield agency.office_key.raw
            if agency.witness is not None:
                yield agency.witness.key.raw
            yield from (credential.key.raw for person in agency.persons for credential in person.credentials)

    def _check_legal_office(self, agency: Agency) -> None:
        if agency.legal_office is None:
            return
        office = self._agencies.get(agency.legal_office)
        if office is None or AgencyRole.LEGAL_OFFICE not in office.roles:
            raise FieldError("an agency's legal office is an agency of the roster with that role")
        if AgencyRole.REQUESTER in agency.roles and AgencyRole.DISCOVERY not in office.roles:
            raise FieldError("a requester's legal office holds a discovery key")


@dataclass(frozen=True)
class TrustedRoster:
    """A roster that this node has reason to trust. Build it with `pin`, `resume`, `update` or `follow`, never directly.

    `data` is the signed document, to be stored; with `fingerprint` it is what `resume` needs after a restart.
    """

    data: bytes = field(repr=False)
    possibly_expired: Roster = field(repr=False)

    @property
    def version(self) -> int:
        """The version that is trusted, expired or not."""
        return self.possibly_expired.version

    @property
    def fingerprint(self) -> bytes:
        """Of the root set that is trusted now; after a rotation another one than at `init`."""
        return self.possibly_expired.root.fingerprint

    def at(self, now: datetime) -> Roster:
        """The content, if it has not expired at `now`, an aware moment; else `RosterExpiredError`."""
        check_now(now)
        if now >= self.possibly_expired.expires:
            raise RosterExpiredError("roster has expired; nothing is decided until a newer one is here")
        return self.possibly_expired

    @classmethod
    def pin(cls, data: bytes, fingerprint: bytes, now: datetime) -> Self:
        """The first roster of a node that was told `fingerprint`, the 32 bytes of `RootSet.fingerprint`.

        1. size, form, content (an `EncodingError`)
        2. the root set is the one that was told (`RosterPinError`)
        3. every signature is by a root key that is listed, and verifies (`RosterSignatureError`)
        4. a threshold of the root set signed (`RosterThresholdError`)
        5. not expired (`RosterExpiredError`)
        """
        trusted = cls.resume(data, fingerprint)
        trusted.at(now)  # 5
        return trusted

    @classmethod
    def resume(cls, data: bytes, fingerprint: bytes) -> Self:
        """What this node trusted before it was restarted: as `pin`, but it may have expired, so that it can still be updated.

        `at` goes on refusing an expired one.
        """
        document, roster = _read(data)  # 1
        if roster.root.fingerprint != fingerprint:  # 2
            raise RosterPinError("roster has another root set than this node was told to trust")
        signers = _check_signatures(document, roster)  # 3
        _check_threshold(roster.root, signers)  # 4
        return cls(data, roster)

    def update(self, data: bytes, now: datetime) -> TrustedRoster:
        """The roster that follows this one; this very object if `data` says what is trusted already.

        1. size, form, content (an `EncodingError`)
        2. every signature is by a root key that is listed, and verifies (`RosterSignatureError`)
        3. a threshold of the root set trusted **now** signed, and a threshold of the **new** root set as well, as TUF asks of a rotation
           (`RosterThresholdError`)
        4. the version is newer (`RosterRollbackError`); the same version with other content is `RosterForkError`, and both are evidence
        5. not expired (`RosterExpiredError`); an expired trusted roster may be updated, only what follows must be fresh
        """
        following = self._following(data)
        following.at(now)  # 5
        return following

    def follow(self, chain: Sequence[bytes], now: datetime) -> TrustedRoster:
        """`update` through several versions, for a node that was away while root sets changed more than once.

        Only the last must be fresh: those in between prove who handed over to whom, and may have expired long ago.
        """
        trusted = self
        for data in chain:
            trusted = trusted._following(data)
        trusted.at(now)
        return trusted

    def _following(self, data: bytes) -> TrustedRoster:
        document, roster = _read(data)  # 1
        signers = _check_signatures(document, roster)  # 2
        _check_threshold(self.possibly_expired.root, signers)  # 3
        _check_threshold(roster.root, signers)
        # 4
        if roster.version == self.version:
            if roster == self.possibly_expired:
                return self
            raise RosterForkError("roster has the trusted version and other content")
        if roster.version < self.version:
            raise RosterRollbackError("roster is older than the trusted one")
        return TrustedRoster(data, roster)


def read_unverified_roster(data: bytes) -> Roster:
    """The content of a roster document, whoever signed it: for a root holder who decides whether to sign, never for a node."""
    return _read(data)[1]


def add_root_signature(data: bytes, key: SigningKey) -> bytes:
    """The same roster document with one root holder's signature more."""
    _read(data)
    return add_signature(ROSTER_KIND, data, key)


def _read(data: bytes) -> tuple[UnverifiedDocument, Roster]:
    document = read_document(ROSTER_KIND, data)
    return document, Roster.from_fields(document.unverified_fields("roster"))


def _check_signatures(document: UnverifiedDocument, roster: Roster) -> frozenset[VerifyingKey]:
    """The root keys that signed. A signature that nobody can account for is refused, not skipped: a document has one meaning or none."""
    listed = {key_id(root.key.raw): root.key for root in (*roster.root.keys, *roster.outgoing_root_keys)}
    signers = set()
    for name in document.signatures:
        key = listed.get(name)
        if key is None:
            raise RosterSignatureError("roster bears a signature of a key that it does not list as a root key")
        try:
            document.check_signed_by(key)
        except BadSignatureError as error:
            raise RosterSignatureError("a root signature does not verify") from error
        signers.add(key)
    return frozenset(signers)


def _check_threshold(root: RootSet, signers: frozenset[VerifyingKey]) -> None:
    if sum(entry.key in signers for entry in root.keys) < root.threshold:
        raise RosterThresholdError("fewer root keys than the threshold signed the roster")


def _check_once(values: Iterable[object], message: str) -> None:
    listed = list(values)
    if len(set(listed)) != len(listed):
        raise FieldError(message)
