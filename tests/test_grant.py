"""Grants that hold: published vectors, independent verifiers, and what roster, clock and the search at hand have to say."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import nacl.exceptions
import nacl.signing
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from crypto.canonical import GrantId, PersonId, SearchId, b64url_decode, b64url_encode, canonical_json
from crypto.epoch import Epoch
from crypto.errors import (
    AgencyRoleError,
    CourtOrderError,
    CustodianError,
    EncodingError,
    FieldError,
    GrantExpiredError,
    GrantMismatchError,
    GrantNotYetValidError,
    GrantSignatureError,
    MisuseError,
    PeerError,
    RosterExpiredError,
    TrainingExpiredError,
    UnknownKeyError,
)
from crypto.grant import check_in_force, check_jws_signature, check_names, verify_grant, verify_terms
from crypto.grant_basis import PURPOSE_OF, BasisKind, CourtOrder, StatementOfFacts
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import add_signature, sign_grant, unverified_claims, unverified_signers, without_reason
from crypto.keys import SigningKey, VerifyingKey
from crypto.limits import DEFAULT_CAP
from crypto.roster import Roster
from crypto.roster_entries import AgencyRole, PersonRole
from crypto.signed import key_id
from tests.sample_federation import (
    BOARD,
    EASTFIELD,
    EASTFIELD_LAW,
    ED_KEYED_REVIEWER,
    INVESTIGATOR,
    KEYED_REVIEWER,
    LAKESIDE,
    LAKESIDE_REVIEWER,
    NORTHPORT,
    NORTHPORT_BOARD,
    NORTHPORT_LAW,
    NOW,
    ORIGINATOR,
    OVERSIGHT,
    REVIEWER,
    VENDOR,
    claims,
    credential,
    digest,
    person,
    roster,
    signing_key,
    token_of,
    trust,
    two_agency_claims,
    with_agency,
)

ROSTER = roster()
TRUSTED = trust(ROSTER)
CLAIMS = claims()
TOKEN = token_of(CLAIMS)
TWO_AGENCIES = two_agency_claims()
TWO_AGENCIES_TOKEN = token_of(TWO_AGENCIES)


# --- published vectors --------------------------------------------------------------------------------------------------

# RFC 8037 appendices A.1 to A.5: "Example of Ed25519 signing".
RFC8037_SECRET = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
RFC8037_PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
RFC8037_HEADER = "eyJhbGciOiJFZERTQSJ9"
RFC8037_PAYLOAD = b"Example of Ed25519 signing"
RFC8037_SIGNATURE = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"


def test_the_ed25519_vector_verifies_through_the_code_that_verifies_grants() -> None:
    key = VerifyingKey(b64url_decode(RFC8037_PUBLIC))
    registry = JWSRegistry(algorithms=["EdDSA"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        check_jws_signature(RFC8037_HEADER, RFC8037_PAYLOAD, b64url_decode(RFC8037_SIGNATURE), key, registry)
        for payload, signature in (
            (RFC8037_PAYLOAD + b".", b64url_decode(RFC8037_SIGNATURE)),
            (RFC8037_PAYLOAD, bytes(64)),
            (RFC8037_PAYLOAD, b64url_decode(RFC8037_SIGNATURE)[:-1]),
        ):
            with pytest.raises(GrantSignatureError):
                check_jws_signature(RFC8037_HEADER, payload, signature, key, registry)


def test_the_vectors_old_algorithm_name_is_not_taken_for_a_grant() -> None:
    with pytest.raises(GrantSignatureError):
        check_jws_signature(RFC8037_HEADER, RFC8037_PAYLOAD, b64url_decode(RFC8037_SIGNATURE), VerifyingKey(b64url_decode(RFC8037_PUBLIC)))


def test_our_signing_makes_the_vectors_signature() -> None:
    key = SigningKey.from_secret(b64url_decode(RFC8037_SECRET))
    assert b64url_encode(key.verifying_key.raw) == RFC8037_PUBLIC
    assert b64url_encode(key.sign(f"{RFC8037_HEADER}.{b64url_encode(RFC8037_PAYLOAD)}".encode())) == RFC8037_SIGNATURE


# RFC 7515 appendix A.6: general JSON with two signatures, RS256 and ES256 (keys of appendices A.2 and A.3).
RFC7515_A6: Any = {
    "payload": "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
    "signatures": [
        {
            "protected": "eyJhbGciOiJSUzI1NiJ9",
            "header": {"kid": "2010-12-29"},
            "signature": "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr"
            "7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-e"
            "OkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        },
        {
            "protected": "eyJhbGciOiJFUzI1NiJ9",
            "header": {"kid": "e9bc097a-ce51-4036-9562-d2ade882db0d"},
            "signature": "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        },
    ],
}
RFC7515_KEYS = KeySet(
    [
        RSAKey.import_key(
            {
                "kty": "RSA",
                "kid": "2010-12-29",
                "e": "AQAB",
                "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNM"
                "sD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQ"
                "Y4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
            }
        ),
        ECKey.import_key(
            {
                "kty": "EC",
                "crv": "P-256",
                "kid": "e9bc097a-ce51-4036-9562-d2ade882db0d",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            }
        ),
    ]
)


def test_the_general_json_vector_has_our_structure_and_verifies_below_our_reader() -> None:
    verified = jws.deserialize_json(RFC7515_A6, RFC7515_KEYS, algorithms=["RS256", "ES256"])
    assert [member.headers()["alg"] for member in verified.members] == ["RS256", "ES256"]
    ours = json.loads(TOKEN)
    assert set(ours) == {*RFC7515_A6, "reason"}
    assert set(ours["signatures"][0]) == set(RFC7515_A6["signatures"][0]) - {"header"}


def test_the_general_json_vector_is_no_grant_because_of_its_unprotected_headers_and_algorithms() -> None:
    with pytest.raises(FieldError):
        verify_grant(canonical_json(RFC7515_A6), TRUSTED, NOW)
    without = {**RFC7515_A6, "signatures": [{k: v for k, v in entry.items() if k != "header"} for entry in RFC7515_A6["signatures"]]}
    with pytest.raises(EncodingError):
        verify_grant(canonical_json(without), TRUSTED, NOW)


# --- good grants, and others who can verify them ------------------------------------------------------------------------


def test_a_grant_signed_by_all_whom_it_names_is_verified() -> None:
    grant = verify_grant(TOKEN, TRUSTED, NOW)
    assert grant.claims == CLAIMS
    assert grant.digest == CLAIMS.digest == hashlib.sha256(b64url_decode(json.loads(TOKEN)["payload"])).digest()
    assert grant.roster_version == 1
    assert [(signer.role, signer.person, signer.agency) for signer in grant.signers] == [
        (GrantRole.INVESTIGATOR, INVESTIGATOR, NORTHPORT),
        (GrantRole.REVIEWER, REVIEWER, NORTHPORT_LAW),
    ]
    assert grant.signers[0].key_id == key_id(signing_key(INVESTIGATOR).verifying_key.raw)


@pytest.mark.parametrize("token", [TOKEN, TWO_AGENCIES_TOKEN], ids=["two signatures", "four signatures"])
def test_the_broker_verifies_the_same_grant_by_its_terms(token: bytes) -> None:
    grant, terms = verify_grant(token, TRUSTED, NOW), verify_terms(without_reason(token), TRUSTED, NOW)
    assert terms.terms == grant.claims.terms
    assert (terms.digest, terms.signers, terms.roster_version) == (grant.digest, grant.signers, grant.roster_version)


def test_a_grant_of_two_agencies_has_four_signatures_of_both_kinds() -> None:
    grant = verify_grant(TWO_AGENCIES_TOKEN, TRUSTED, NOW)
    assert [signer.role for signer in grant.signers] == list(GrantRole)
    assert {signer.agency for signer in grant.signers} == {NORTHPORT, NORTHPORT_LAW, EASTFIELD_LAW}


@pytest.mark.parametrize("reviewer", [REVIEWER, KEYED_REVIEWER, ED_KEYED_REVIEWER], ids=["ed25519", "webauthn ES256", "webauthn Ed25519"])
def test_each_kind_of_key_can_decide(reviewer: PersonId) -> None:
    assert verify_grant(token_of(replace(CLAIMS, reviewers=(reviewer,))), TRUSTED, NOW).signers[1].person == reviewer


def test_the_second_reviewer_may_be_of_another_legal_office() -> None:
    verify_grant(token_of(replace(CLAIMS, reviewers=(REVIEWER, LAKESIDE_REVIEWER))), TRUSTED, NOW)


def test_the_order_of_signing_does_not_show() -> None:
    first = sign_grant(CLAIMS, GrantRole.REVIEWER, signing_key(REVIEWER))
    assert add_signature(first, GrantRole.INVESTIGATOR, signing_key(INVESTIGATOR)) == TOKEN
    assert unverified_claims(first) == CLAIMS
    assert list(unverified_signers(first)) == [GrantRole.REVIEWER]


def test_two_other_implementations_of_ed25519_verify_the_signatures() -> None:
    token = json.loads(TOKEN)
    keys = {key_id(signing_key(name).verifying_key.raw): signing_key(name).verifying_key.raw for name in (INVESTIGATOR, REVIEWER)}
    for entry in token["signatures"]:
        header = json.loads(b64url_decode(entry["protected"]))
        message = f"{entry['protected']}.{token['payload']}".encode()
        signature = b64url_decode(entry["signature"])
        Ed25519PublicKey.from_public_bytes(keys[header["kid"]]).verify(signature, message)
        nacl.signing.VerifyKey(keys[header["kid"]]).verify(message, signature)
        with pytest.raises(nacl.exceptions.BadSignatureError):
            nacl.signing.VerifyKey(keys[header["kid"]]).verify(message + b"x", signature)


def test_a_plain_jws_library_verifies_the_whole_token_by_key_id() -> None:
    keys: list[OctKey | RSAKey | ECKey | OKPKey] = []
    for name in (INVESTIGATOR, REVIEWER):
        raw = signing_key(name).verifying_key.raw
        keys.append(OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(raw), "kid": key_id(raw)}))
    registry = JWSRegistry({"role": HeaderParameter("role", "str", required=True)}, ["Ed25519"])
    verified = jws.deserialize_json(json.loads(TOKEN), KeySet(keys), registry=registry)
    assert json.loads(verified.payload or b"")["grant_id"] == CLAIMS.grant_id


def test_the_payload_is_what_any_canonical_json_writer_makes_of_it() -> None:
    payload = CLAIMS.to_payload()
    assert json.dumps(json.loads(payload), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == payload
    assert CLAIMS.cap == DEFAULT_CAP


def test_the_replay_key_is_grant_probe_and_face() -> None:
    assert CLAIMS.replay_key == (CLAIMS.grant_id, CLAIMS.probe_digest, CLAIMS.face_commit)
    for change in ({"grant_id": GrantId("0" * 32)}, {"probe_digest": digest("p")}, {"face_commit": digest("f")}):
        assert replace(CLAIMS, **change).replay_key != CLAIMS.replay_key


# --- what the roster and the clock say ----------------------------------------------------------------------------------


def verify_with(content: Roster, token: bytes = TOKEN, now: datetime = NOW) -> None:
    """As holder or custodian, and as broker: what one refuses here the other refuses, too."""
    try:
        verify_grant(token, trust(content), now)
    except PeerError as error:
        with pytest.raises(type(error)):
            verify_terms(without_reason(token), trust(content), now)
        raise
    verify_terms(without_reason(token), trust(content), now)


@pytest.mark.parametrize("lapsed", [INVESTIGATOR, REVIEWER, KEYED_REVIEWER, ORIGINATOR])
def test_a_signer_whose_training_lapsed_cannot_sign(lapsed: PersonId) -> None:
    content = ROSTER
    for listed in ROSTER.agencies:
        persons = tuple(
            replace(entry, trained_until=date(2026, 11, 22)) if entry.person_id == lapsed else entry for entry in listed.persons
        )
        content = with_agency(content, listed.agency_id, persons=persons)
    with pytest.raises(TrainingExpiredError):
        verify_with(content, TWO_AGENCIES_TOKEN)


def test_an_expired_roster_decides_nothing() -> None:
    with pytest.raises(RosterExpiredError):
        verify_grant(TOKEN, TRUSTED, ROSTER.expires)
    with pytest.raises(RosterExpiredError):
        verify_terms(without_reason(TOKEN), TRUSTED, ROSTER.expires)


AGENCY_ROLES: dict[str, tuple[Roster, GrantClaims]] = {
    "holder that the roster does not know": (ROSTER, replace(CLAIMS, holders=(VENDOR, EASTFIELD))),
    "holder that is none": (ROSTER, replace(CLAIMS, holders=(NORTHPORT_LAW,))),
    "custodian that is none": (ROSTER, replace(CLAIMS, custodians=(EASTFIELD_LAW, OVERSIGHT))),
    "custodian that the roster does not know": (ROSTER, replace(CLAIMS, custodians=(VENDOR,), combiner=VENDOR)),
    "requester that is none": (with_agency(ROSTER, NORTHPORT, roles=(AgencyRole.HOLDER,)), CLAIMS),
    "requester that the roster does not know": (ROSTER, replace(TWO_AGENCIES, requesting_agency=VENDOR, reviewers=(REVIEWER,))),
    "originator that the roster does not know": (ROSTER, replace(TWO_AGENCIES, originating_agency=VENDOR)),
    "investigator of another agency": (
        ROSTER,
        replace(CLAIMS, requesting_agency=EASTFIELD, originating_agency=EASTFIELD, reviewers=(ORIGINATOR,)),
    ),
    "reviewer of another legal office": (ROSTER, replace(CLAIMS, reviewers=(LAKESIDE_REVIEWER,))),
    "reviewer of the requester, but its office is another": (with_agency(ROSTER, NORTHPORT, legal_office=EASTFIELD_LAW), CLAIMS),
    "originator of another legal office": (ROSTER, replace(TWO_AGENCIES, originator=LAKESIDE_REVIEWER)),
    "originating agency without a legal office": (ROSTER, replace(TWO_AGENCIES, originating_agency=NORTHPORT_BOARD)),
}


@pytest.mark.parametrize(("content", "asked"), AGENCY_ROLES.values(), ids=AGENCY_ROLES)
def test_everybody_stands_where_the_roster_puts_them(content: Roster, asked: GrantClaims) -> None:
    with pytest.raises(AgencyRoleError):
        verify_with(content, token_of(asked))


def test_no_custodian_is_of_the_requesters_own_jurisdiction() -> None:
    custodians = tuple(sorted((NORTHPORT_BOARD, BOARD)))
    with pytest.raises(CustodianError):
        verify_with(ROSTER, token_of(replace(CLAIMS, custodians=custodians, combiner=BOARD)))


def test_no_custodian_is_of_the_originators_own_jurisdiction() -> None:
    moved = with_agency(ROSTER, EASTFIELD, jurisdiction=ROSTER.agency(BOARD).jurisdiction)
    verify_with(moved)
    with pytest.raises(CustodianError):
        verify_with(moved, TWO_AGENCIES_TOKEN)


def test_a_grant_holds_from_its_first_to_before_its_last_moment() -> None:
    tick = timedelta(microseconds=1)
    verify_with(ROSTER, now=CLAIMS.not_before)
    verify_with(ROSTER, now=CLAIMS.expires - tick)
    for check in (
        lambda now: verify_grant(TOKEN, TRUSTED, now),
        lambda now: verify_terms(without_reason(TOKEN), TRUSTED, now),
        lambda now: check_in_force(CLAIMS, now),
    ):
        with pytest.raises(GrantNotYetValidError):
            check(CLAIMS.not_before - tick)
        with pytest.raises(GrantExpiredError):
            check(CLAIMS.expires)
        with pytest.raises(MisuseError):
            check(datetime(2026, 11, 23, 16, 12))


@pytest.mark.parametrize("kind", [BasisKind.WARRANT, BasisKind.COURT_ORDER])
@pytest.mark.parametrize(
    ("issued", "expires", "covers"),
    [
        (date(2026, 11, 23), date(2026, 11, 25), True),
        (date(2026, 11, 24), date(2026, 11, 30), False),
        (date(2026, 11, 1), date(2026, 11, 24), False),
        (date(2026, 11, 1), date(2026, 11, 22), False),
    ],
)
def test_an_order_covers_the_grants_whole_life(kind: BasisKind, issued: date, expires: date, covers: bool) -> None:
    basis = CourtOrder(kind, "Circuit Court", "26-CF-101", issued, expires, digest("order"))
    token = token_of(replace(CLAIMS, basis=basis))
    verify_terms(without_reason(token), TRUSTED, NOW)  # whoever sees no order cannot judge it
    if covers:
        verify_grant(token, TRUSTED, NOW)
    else:
        with pytest.raises(CourtOrderError):
            verify_grant(token, TRUSTED, NOW)


@pytest.mark.parametrize("kind", [kind for kind in BasisKind if kind not in {BasisKind.WARRANT, BasisKind.COURT_ORDER}])
def test_a_statement_of_facts_has_no_days_to_cover(kind: BasisKind) -> None:
    """Which basis suffices is the packs' decision; here each can be granted."""
    basis = StatementOfFacts(kind, digest("facts"))
    verify_with(ROSTER, token_of(replace(CLAIMS, basis=basis, purpose=PURPOSE_OF.get(kind, CLAIMS.purpose))))


def test_a_removed_person_cannot_sign_any_more() -> None:
    with pytest.raises(UnknownKeyError):
        verify_with(with_agency(ROSTER, NORTHPORT, persons=()))


def test_a_key_that_moved_to_another_role_does_not_sign_in_the_old_one() -> None:
    examiner = person(INVESTIGATOR, credential(INVESTIGATOR, PersonRole.EXAMINER))
    with pytest.raises(UnknownKeyError):
        verify_with(with_agency(ROSTER, NORTHPORT, persons=(examiner,)))


# --- for this search, and no other --------------------------------------------------------------------------------------

GRANT = verify_grant(TOKEN, TRUSTED, NOW)


def test_the_names_of_the_search_match() -> None:
    check_names(
        GRANT.claims,
        search_id=CLAIMS.search_id,
        probe_digest=CLAIMS.probe_digest,
        face_commit=CLAIMS.face_commit,
        epoch=Epoch("2026-11"),
        model_hash=CLAIMS.model_hash,
        requester=NORTHPORT,
        holder=LAKESIDE,
        custodian=BOARD,
    )


def test_a_party_gives_what_it_has() -> None:
    check_names(GRANT.claims, probe_digest=CLAIMS.probe_digest)
    check_names(GRANT.claims, holder=EASTFIELD, search_id=CLAIMS.search_id)


@pytest.mark.parametrize(
    "given_",
    [
        {"search_id": SearchId("0" * 32)},
        {"probe_digest": digest("another probe")},
        {"face_commit": digest("another face")},
        {"epoch": Epoch("2026-10")},
        {"model_hash": digest("another model")},
        {"requester": EASTFIELD},
        {"holder": NORTHPORT},
        {"holder": BOARD},
        {"custodian": NORTHPORT_BOARD},
        {"custodian": LAKESIDE},
        {"probe_digest": b""},
        {"probe_digest": CLAIMS.probe_digest, "holder": NORTHPORT},
    ],
)
def test_a_grant_for_something_else_is_a_mismatch(given_: dict[str, Any]) -> None:
    with pytest.raises(GrantMismatchError):
        check_names(GRANT.claims, **given_)


def test_comparing_with_nothing_is_a_mistake_of_ours() -> None:
    with pytest.raises(MisuseError):
        check_names(GRANT.claims)
