"""Justified-use grants: whether a token, held against the roster, authorises its search at this moment (PROTOCOL 5).

The algorithm of a signature is what the roster says of its key; a header that says otherwise is refused, not obeyed. A role is what the
roster gives the key; distinct persons are asked for, not distinct keys.

The broker is given terms and verifies those (`verify_terms`); holders and custodians are given the reason, too (`verify_grant`). What both
check is checked by one function.

Invariants: a `VerifiedGrant` passed every check of `verify_grant` at one moment, `VerifiedTerms` those that need no reason. What it
authorises is in its claims or terms and nowhere else. Time goes on: every later step calls `check_in_force` again.

Left to others: the token's form and making one (`grant_token`), what claims must say (`grant_claims`), custodians that holders trust
(`manifest`), log and revocation (`entries`, `witness`), policy packs, and refusing replays: broker, holder and custodian each keep
`GrantTerms.replay_key` under a unique constraint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from crypto.assertion import WebAuthnAssertion, WebAuthnKey
from crypto.canonical import AgencyId, KeyId, PersonId, SearchId, b64url_encode
from crypto.epoch import Epoch
from crypto.errors import (
    AgencyRoleError,
    BadSignatureError,
    CourtOrderError,
    CustodianError,
    EncodingError,
    FieldError,
    GrantAlgorithmError,
    GrantExpiredError,
    GrantMismatchError,
    GrantNotYetValidError,
    GrantSignatureError,
    MissingRoleError,
    MisuseError,
    SamePersonError,
    UnknownAgencyError,
    UnknownKeyError,
)
from crypto.grant_basis import CourtOrder
from crypto.grant_claims import GrantClaims, GrantRole, GrantTerms
from crypto.grant_token import WEBAUTHN_ALGORITHMS, GrantToken, SignatureAlgorithm, TokenHeader, TokenSignature
from crypto.keys import VerifyingKey
from crypto.moments import check_now
from crypto.roster import Roster, Signatory, TrustedRoster
from crypto.roster_entries import AgencyRole, Credential, PersonRole

PERSON_ROLE: Final[Mapping[GrantRole, PersonRole]] = MappingProxyType(
    {
        GrantRole.INVESTIGATOR: PersonRole.INVESTIGATOR,
        GrantRole.ORIGINATOR: PersonRole.REVIEWER,
        GrantRole.REVIEWER: PersonRole.REVIEWER,
        GrantRole.SECOND_REVIEWER: PersonRole.REVIEWER,
    }
)
"""Which of a person's keys signs in which capacity. For an originating agency its legal staff signs, not its investigators (R6)."""
_REGISTRY: Final = JWSRegistry(
    header_registry={"role": HeaderParameter("Role of the signer in the grant", "str", required=True)},
    algorithms=[SignatureAlgorithm.ED25519.value],
)


@dataclass(frozen=True)
class GrantSigner:
    """One signature that was verified: who, for whom, in which capacity, with which key."""

    role: GrantRole
    person: PersonId
    agency: AgencyId
    key_id: KeyId


@dataclass(frozen=True)
class VerifiedTerms:
    """What `verify_terms` returns; nothing else builds one. `digest` is the grant digest, `roster_version` what it was held against."""

    terms: GrantTerms
    digest: bytes = field(repr=False)
    signers: tuple[GrantSigner, ...] = field(repr=False)
    roster_version: int


@dataclass(frozen=True)
class VerifiedGrant:
    """What `verify_grant` returns; nothing else builds one. `digest` is the grant digest, `roster_version` what it was held against."""

    claims: GrantClaims
    digest: bytes = field(repr=False)
    signers: tuple[GrantSigner, ...] = field(repr=False)
    roster_version: int


def verify_terms(data: bytes, roster: TrustedRoster, now: datetime) -> VerifiedTerms:
    """The terms in `data` if they authorise their search at `now`, an aware moment, for whatever reason; else an exception.

    Checks 1 to 13 of `verify_grant`; and the token carries no reason (`FieldError`): who asks this, the broker, must not be sent one.
    """
    trusted = roster.at(now)  # 1
    token = GrantToken.from_bytes(data)  # 2, 3, 4
    if token.reason is not None:
        raise FieldError("the token carries its reason, which is for holders and custodians only")
    return _verify_terms(token, trusted, now)


def verify_grant(data: bytes, roster: TrustedRoster, now: datetime) -> VerifiedGrant:
    """The grant in `data` if it authorises its search at `now`, an aware moment; else an exception.

    1. the roster has not expired (`RosterExpiredError`)
    2. size, before anything is parsed (`OversizedError`)
    3. form: canonical JSON, exactly the members of general JSON and the reason, no unprotected header (`NotCanonicalError`, `FieldError`)
    4. protected headers: exactly `alg`, `kid`, `role`, `typ`, each of a known value (`VersionError`, `GrantAlgorithmError`, `FieldError`);
        each role once, in ascending order (`FieldError`)
    5. payload: canonical, and terms that hold together, the deadline before the expiry among them (`EncodingError`, `SamePersonError`)
    6. each key is a person's in the roster, for that role (`UnknownKeyError`), and of the header's algorithm (`GrantAlgorithmError`)
    7. each signature verifies (`GrantSignatureError`)
    8. the signers are distinct persons, however many keys they have (R5, `SamePersonError`)
    9. every role that the terms name has signed (R6, `MissingRoleError`), by the person named (`UnknownKeyError`), and no other role
        (`FieldError`)
    10. every signer's training is valid (R14, `TrainingExpiredError`)
    11. agencies stand where the roster puts them; the investigator is the requesting agency's, the deciding reviewer its legal office's,
        the originator the originating agency's legal office's (R6, `AgencyRoleError`); all of them are in production or none
        (`AgencyModeError`)
    12. no custodian is of the requester's or originator's own jurisdiction (PROTOCOL 1, `CustodianError`)
    13. `now` is within the grant's life (`GrantNotYetValidError`, `GrantExpiredError`)
    14. the reason is there, is the one that the terms commit to (`GrantReasonError`), and holds together (`EncodingError`)
    15. a warrant or order covers all of the grant's life (R3, `CourtOrderError`)

    That a grant is for *this* probe, holder or custodian is `check_names`; that holders trust a custodian is `manifest.check_custodians`.
    """
    trusted = roster.at(now)  # 1
    token = GrantToken.from_bytes(data)  # 2, 3, 4
    verified = _verify_terms(token, trusted, now)  # 5 to 13
    claims = token.unverified_claims()  # 14
    _check_order(claims)  # 15
    return VerifiedGrant(claims, verified.digest, verified.signers, verified.roster_version)


def check_signatures(data: bytes, roster: TrustedRoster, now: datetime) -> tuple[GrantRole, ...]:
    """The roles that have still to sign a token which passes from signer to signer, ascending. It authorises nothing by that.

    Every check of `verify_grant`, in its order, but that in 9 a role that the terms name may not have signed yet.
    """
    trusted = roster.at(now)
    token = GrantToken.from_bytes(data)
    verified = _verify_terms(token, trusted, now, is_complete=False)
    _check_order(token.unverified_claims())
    signed = {signer.role for signer in verified.signers}
    return tuple(sorted(role for role in verified.terms.signatories if role not in signed))


def check_in_force(terms: GrantTerms, now: datetime) -> None:
    """Raise `GrantNotYetValidError` or `GrantExpiredError` unless `not_before <= now < expires`; asked again before every step."""
    check_now(now)
    if now < terms.not_before:
        raise GrantNotYetValidError("grant is not valid yet")
    if now >= terms.expires:
        raise GrantExpiredError("grant has expired")


def check_jurisdictions(terms: GrantTerms, roster: Roster) -> None:
    """Raise `CustodianError` if a custodian is of the requesting or originating agency's own jurisdiction (PROTOCOL 1)."""
    own = {roster.agency(terms.requesting_agency).jurisdiction, roster.agency(terms.originating_agency).jurisdiction}
    if any(roster.agency(custodian).jurisdiction in own for custodian in terms.custodians):
        raise CustodianError("a custodian is of the jurisdiction of an agency that asks")


def check_names(
    terms: GrantTerms,
    *,
    search_id: SearchId | None = None,
    probe_digest: bytes | None = None,
    face_commit: bytes | None = None,
    epoch: Epoch | None = None,
    model_hash: bytes | None = None,
    requester: AgencyId | None = None,
    holder: AgencyId | None = None,
    custodian: AgencyId | None = None,
) -> None:
    """Raise `GrantMismatchError` unless the grant is for all that is given: the very probe, and parties that it names.

    A party gives everything that it has at hand; `MisuseError` if that is nothing, since such a call would check nothing.
    """
    pairs = {
        "search": (search_id, (terms.search_id,)),
        "probe": (probe_digest, (terms.probe_digest,)),
        "face": (face_commit, (terms.face_commit,)),
        "epoch": (epoch, (terms.epoch,)),
        "model": (model_hash, (terms.model_hash,)),
        "requester": (requester, (terms.requesting_agency,)),
        "holder": (holder, terms.holders),
        "custodian": (custodian, terms.custodians),
    }
    if all(given is None for given, _ in pairs.values()):
        raise MisuseError("nothing to compare the grant with")
    for name, (given, granted) in pairs.items():
        if given is not None and given not in granted:
            raise GrantMismatchError(f"grant is for another {name}")


def check_jws_signature(protected: str, payload: bytes, signature: bytes, key: VerifyingKey, registry: JWSRegistry = _REGISTRY) -> None:
    """Raise `GrantSignatureError` unless `signature` is `key`'s over the protected header (a base64url segment) and the payload.

    joserfc sees only what passed the strict reader, and only algorithms of `registry`: Ed25519 alone, except in the test with the vector of
    RFC 8037 appendix A.4, which says `EdDSA`.
    """
    jwk = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(key.raw)})
    encoded, segment = b64url_encode(signature), b64url_encode(payload)
    try:
        jws.deserialize_json({"payload": segment, "signatures": [{"protected": protected, "signature": encoded}]}, jwk, registry=registry)
    except (JoseError, ValueError) as error:
        raise GrantSignatureError("a signature does not verify over header and payload") from error


def _verify_terms(token: GrantToken, roster: Roster, now: datetime, *, is_complete: bool = True) -> VerifiedTerms:
    """Checks 5 to 13 of `verify_grant`, which whoever is given a grant makes alike. Unless it `is_complete`, roles may be missing."""
    terms = token.unverified_terms()  # 5
    signers = {}
    for entry in token.signatures:
        signatory = _signatory(entry.header, roster)  # 6
        _check_signature(token, entry, signatory.credential)  # 7
        signers[entry.header.role] = signatory
    _check_persons(terms, signers, is_complete=is_complete)  # 8, 9
    for signatory in signers.values():
        signatory.person.check_trained(now)  # 10
    _check_agencies(terms, signers, roster)  # 11
    check_jurisdictions(terms, roster)  # 12
    check_in_force(terms, now)  # 13
    verified = tuple(
        GrantSigner(role, signatory.person.person_id, signatory.agency.agency_id, signatory.credential.key_id)
        for role, signatory in signers.items()
    )
    return VerifiedTerms(terms, hashlib.sha256(token.payload).digest(), verified, roster.version)


def _algorithm(credential: Credential) -> SignatureAlgorithm:
    return WEBAUTHN_ALGORITHMS[credential.key.algorithm] if isinstance(credential.key, WebAuthnKey) else SignatureAlgorithm.ED25519


def _signatory(header: TokenHeader, roster: Roster) -> Signatory:
    signatory = roster.signatory(header.key_id)
    if signatory.credential.role is not PERSON_ROLE[header.role]:
        raise UnknownKeyError("key is not for the role that it signs in")
    if header.algorithm is not _algorithm(signatory.credential):
        raise GrantAlgorithmError("protected header names another algorithm than the roster does for its key")
    return signatory


def _check_signature(token: GrantToken, entry: TokenSignature, credential: Credential) -> None:
    if not isinstance(credential.key, WebAuthnKey):
        check_jws_signature(entry.header.segment, token.payload, entry.signature, credential.key)
        return
    try:
        credential.key.check_assertion(WebAuthnAssertion.from_bytes(entry.signature), token.challenge(entry.header))
    except (BadSignatureError, EncodingError) as error:
        raise GrantSignatureError("an assertion does not verify over header and payload") from error


def _check_persons(terms: GrantTerms, signers: Mapping[GrantRole, Signatory], *, is_complete: bool) -> None:
    # 8
    persons = [signatory.person.person_id for signatory in signers.values()]
    if len(set(persons)) != len(persons):
        raise SamePersonError("one person signed in two roles")
    # 9
    for role, person in terms.signatories.items():
        if role not in signers:
            if is_complete:
                raise MissingRoleError(f"the {role.value} has not signed")
        elif signers[role].person.person_id != person:
            raise UnknownKeyError(f"the key is not that of the {role.value} whom the grant names")
    if not signers.keys() <= terms.signatories.keys():
        raise FieldError("token bears a signature in a role that the grant does not name")


def _check_agencies(terms: GrantTerms, signers: Mapping[GrantRole, Signatory], roster: Roster) -> None:
    try:
        requesting = roster.agency_as(terms.requesting_agency, AgencyRole.REQUESTER)
        originating = roster.agency(terms.originating_agency)
        _check_all(roster, terms.holders, AgencyRole.HOLDER)
        _check_all(roster, terms.custodians, AgencyRole.CUSTODIAN)
    except UnknownAgencyError as error:
        raise AgencyRoleError("an agency of the grant has no such role in the roster") from error
    roster.check_modes((requesting.agency_id, originating.agency_id, *terms.holders, *terms.custodians))
    agencies = {role: signatory.agency.agency_id for role, signatory in signers.items()}
    if agencies.get(GrantRole.INVESTIGATOR, requesting.agency_id) != requesting.agency_id:
        raise AgencyRoleError("the investigator is not of the requesting agency")
    if agencies.get(GrantRole.REVIEWER, requesting.legal_office) != requesting.legal_office:
        raise AgencyRoleError("the reviewer is not of the requesting agency's legal office")
    if agencies.get(GrantRole.ORIGINATOR, originating.legal_office) != originating.legal_office:
        raise AgencyRoleError("the originator is not of the originating agency's legal office")


def _check_all(roster: Roster, agencies: Sequence[AgencyId], role: AgencyRole) -> None:
    for agency in agencies:
        roster.agency_as(agency, role)


def _check_order(claims: GrantClaims) -> None:
    """A court's days are read in UTC. West of Greenwich that ends an order some hours early, which is the safe side."""
    order = claims.basis
    if not isinstance(order, CourtOrder):
        return
    if claims.not_before.astimezone(UTC).date() < order.issued or claims.expires.astimezone(UTC).date() > order.expires:
        raise CourtOrderError("the warrant or order does not cover the grant's whole life")
