"""Sealed envelopes: the published HPKE vector, an independent implementation both ways, and every way of passing off a forgery."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pyhpke
import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.canonical import AgencyId, KeyId, SearchId
from crypto.envelope import (
    MAX_CONTEXT_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_PLAINTEXT_BYTES,
    OFFERED_SUITES,
    P256_SHA256_AES256GCM,
    Envelope,
    EnvelopeContext,
    MessageType,
    SealSuite,
    open_envelope,
    seal,
)
from crypto.epoch import Epoch
from crypto.errors import (
    ContextError,
    CryptoError,
    EncodingError,
    EnvelopeError,
    FieldError,
    KeyDestroyedError,
    MisuseError,
    NotCanonicalError,
    OpeningError,
    OversizedError,
    SenderSignatureError,
    SuiteError,
    TruncatedError,
    VersionError,
)
from crypto.keys import SealingPrivateKey, SealingPublicKey, SigningKey

# RFC 9180 prints P-256 only with AES-128-GCM (appendix A.3) and ChaCha20Poly1305 (A.5). Our suite is in the complete list that the RFC
# refers to, test-vectors.json of cfrg/draft-irtf-cfrg-hpke (commit 5f503c5): mode 0, kem_id 16, kdf_id 1, aead_id 2, encryption 0.
VECTOR = {
    name: bytes.fromhex(text)
    for name, text in {
        "info": "4f6465206f6e2061204772656369616e2055726e",
        "ikmE": "a90d3417c3da9cb6c6ae19b4b5dd6cc9529a4cc24efb7ae0ace1f31887a8cd6c",
        "skRm": "317f915db7bc629c48fe765587897e01e282d3e8445f79f27f65d031a88082b2",
        "pkRm": "04abc7e49a4c6b3566d77d0304addc6ed0e98512ffccf505e6a8e3eb25c685136f"
        "853148544876de76c0f2ef99cdc3a05ccf5ded7860c7c021238f9e2073d2356c",
        "enc": "04c06b4f6bebc7bb495cb797ab753f911aff80aefb86fd8b6fcc35525f3ab5f03e"
        "0b21bd31a86c6048af3cb2d98e0d3bf01da5cc4c39ff5370d331a4f1f7d5a4e0",
        "aad": "436f756e742d30",
        "pt": "4265617574792069732074727574682c20747275746820626561757479",
        "ct": "58c61a45059d0c5704560e9d88b564a8b63f1364b8d1fcb3c4c6ddc1d291742465e902cd216f8908da49f8f96f",
    }.items()
}

PEER = pyhpke.CipherSuite.new(pyhpke.KEMId.DHKEM_P256_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId.AES256_GCM)

SENDER = SigningKey.from_secret(bytes(31) + b"\x01")
RECIPIENT = SealingPrivateKey.from_secret(bytes(31) + b"\x02")
STRANGER_SIGNING = SigningKey.from_secret(bytes(31) + b"\x03")
STRANGER_SEALING = SealingPrivateKey.from_secret(bytes(31) + b"\x04")
CONTEXT = EnvelopeContext(
    message_type=MessageType("answer"),
    search_id=SearchId("00112233445566778899aabbccddeeff"),
    grant_digest=hashlib.sha256(b"the payload of a grant").digest(),
    sender=AgencyId("northport-pd"),
    recipient=AgencyId("oversight"),
    recipient_key_id=KeyId("oversight:2026-w47"),
    epoch=Epoch("2026-11"),
)
BODY = b"a body that only one party may read"
OTHER_CONTEXTS = {
    "message_type": replace(CONTEXT, message_type=MessageType("mask-seed")),
    "search_id": replace(CONTEXT, search_id=SearchId("00112233445566778899aabbccddeefe")),
    "grant_digest": replace(CONTEXT, grant_digest=bytes(32)),
    "sender": replace(CONTEXT, sender=AgencyId("eastham-pd")),
    "recipient": replace(CONTEXT, recipient=AgencyId("council")),
    "recipient_key_id": replace(CONTEXT, recipient_key_id=KeyId("oversight:2026-w46")),
    "epoch": replace(CONTEXT, epoch=Epoch("2026-10")),
}


def sealed() -> Envelope:
    return seal(BODY, CONTEXT, RECIPIENT.public_key, SENDER)


def opened(envelope: Envelope, context: EnvelopeContext = CONTEXT) -> bytes:
    return open_envelope(envelope, context, RECIPIENT, SENDER.verifying_key)


def signed_anew(envelope: Envelope, **changes: object) -> Envelope:
    """A changed envelope with a signature of the right sender over the change: what only the sender can make, or a thief of its key."""
    changed = replace(envelope, **changes)  # type: ignore[arg-type]
    message = changed.context.to_bytes() + b"|" + hashlib.sha256(changed.sealed).hexdigest().encode()
    return replace(changed, signature=SENDER.sign(message))


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << (at % 8)
    return bytes(changed)


# --- published vector, independent implementation -------------------------------------------------------------------


def test_our_suite_opens_the_published_vector() -> None:
    """The library's public call takes no associated data, and every published vector has some: so its private sibling is called here."""
    key = SealingPrivateKey.from_secret(VECTOR["skRm"])
    assert key.public_key.raw == VECTOR["pkRm"]
    handle = ec.derive_private_key(int.from_bytes(VECTOR["skRm"], "big"), ec.SECP256R1())
    suite = OFFERED_SUITES[P256_SHA256_AES256GCM]
    plaintext = openssl.hpke._decrypt_with_aad(suite, VECTOR["enc"] + VECTOR["ct"], handle, info=VECTOR["info"], aad=VECTOR["aad"])
    assert plaintext == VECTOR["pt"]


def test_pyhpke_makes_the_published_vector_and_ours_opens_the_same_without_associated_data() -> None:
    recipient = pyhpke.KEMKey.from_pyca_cryptography_key(
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), VECTOR["pkRm"]),
    )
    ephemeral = PEER.kem.derive_key_pair(VECTOR["ikmE"])
    enc, context = PEER.create_sender_context(recipient, info=VECTOR["info"], eks=ephemeral)
    assert enc == VECTOR["enc"]
    assert context.seal(VECTOR["pt"], VECTOR["aad"]) == VECTOR["ct"]
    _, context = PEER.create_sender_context(recipient, info=VECTOR["info"], eks=ephemeral)
    theirs = enc + context.seal(VECTOR["pt"])
    key = SealingPrivateKey.from_secret(VECTOR["skRm"])
    assert key.open(OFFERED_SUITES[P256_SHA256_AES256GCM], theirs, VECTOR["info"]) == VECTOR["pt"]


def test_pyhpke_opens_what_we_sealed() -> None:
    envelope = sealed()
    handle = pyhpke.KEMKey.from_pyca_cryptography_key(ec.derive_private_key(2, ec.SECP256R1()))
    context = PEER.create_recipient_context(envelope.sealed[:65], handle, info=CONTEXT.to_bytes())
    assert context.open(envelope.sealed[65:]) == BODY


def test_we_open_what_pyhpke_sealed() -> None:
    handle = pyhpke.KEMKey.from_pyca_cryptography_key(ec.derive_private_key(2, ec.SECP256R1()).public_key())
    enc, context = PEER.create_sender_context(handle, info=CONTEXT.to_bytes())
    assert opened(signed_anew(sealed(), sealed=enc + context.seal(BODY))) == BODY


# --- what is bound, and how it is spelled ---------------------------------------------------------------------------


def test_the_context_string_is_the_protocols() -> None:
    expected = (
        b"sealmatch-1|answer|00112233445566778899aabbccddeeff|" + CONTEXT.grant_digest.hex().encode() + b"|northport-pd|oversight|"
        b"oversight:2026-w47|2026-11"
    )
    assert CONTEXT.to_bytes() == expected
    assert EnvelopeContext.from_bytes(expected) == CONTEXT


def test_the_signed_string_is_the_protocols() -> None:
    envelope = sealed()
    digest = hashlib.sha256(envelope.sealed).hexdigest().encode()
    SENDER.verifying_key.check(envelope.signature, CONTEXT.to_bytes() + b"|" + digest)


def test_the_wire_form_is_as_documented() -> None:
    envelope = sealed()
    text = CONTEXT.to_bytes()
    expected = (
        b"SM\x0a\x01\x01\x00\x10\x00\x01\x00\x02"
        + len(text).to_bytes(2, "big")
        + text
        + len(envelope.sealed).to_bytes(4, "big")
        + envelope.sealed
        + envelope.signature
    )
    assert envelope.to_bytes() == expected
    assert Envelope.from_bytes(expected) == envelope
    assert len(envelope.sealed) == len(BODY) + 81
    assert opened(Envelope.from_bytes(expected)) == BODY


def longest_context() -> EnvelopeContext:
    sender, recipient, key_id = AgencyId("s" * 64), AgencyId("r" * 64), KeyId("k" * 64)
    return EnvelopeContext(MessageType("m" * 32), CONTEXT.search_id, bytes(32), sender, recipient, key_id, CONTEXT.epoch)


def test_the_longest_context_fits() -> None:
    longest = longest_context()
    assert len(longest.to_bytes()) == MAX_CONTEXT_BYTES
    assert EnvelopeContext.from_bytes(longest.to_bytes()) == longest
    with pytest.raises(FieldError):
        MessageType("m" * 33)


def test_no_field_may_hold_the_separator() -> None:
    for kind in (MessageType, SearchId, AgencyId, KeyId):
        for text in ("a|b", "|", "", "a\nb", "Ärger"):
            with pytest.raises(FieldError):
                kind(text)
    for field in ("message_type", "search_id", "sender", "recipient", "recipient_key_id", "epoch"):
        with pytest.raises(MisuseError):
            replace(CONTEXT, **{field: "a|b"})  # type: ignore[arg-type]
    with pytest.raises(MisuseError):
        replace(CONTEXT, sender=KeyId("northport-pd"))  # type: ignore[arg-type]
    for length in (0, 31, 33):
        with pytest.raises(FieldError):
            replace(CONTEXT, grant_digest=bytes(length))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text.replace(b"sealmatch-1", b"sealmatch-2"), VersionError),
        (lambda text: text.replace(b"answer", b""), FieldError),
        (lambda text: text.replace(b"answer", b"Answer"), FieldError),
        (lambda text: text.replace(b"|answer", b"|an|swer"), FieldError),
        (lambda text: text.replace(b"answer|", b""), FieldError),
        (lambda text: text + b"|", FieldError),
        (lambda text: text + b"|more", FieldError),
        (lambda text: text.replace(CONTEXT.grant_digest.hex().encode(), CONTEXT.grant_digest.hex().upper().encode()), FieldError),
        (lambda text: text.replace(CONTEXT.grant_digest.hex().encode(), b"00"), FieldError),
        (lambda text: text.replace(b"2026-11", b"2026-13"), FieldError),
        (lambda text: text.replace(b"northport", b"n\xc3\xb6rdport"), FieldError),
        (lambda text: text + b"\n", FieldError),
        (lambda text: text + b" " * MAX_CONTEXT_BYTES, OversizedError),
        (lambda _: b"", VersionError),
    ],
)
def test_every_other_context_string_is_refused(change: Callable[[bytes], bytes], error: type[EncodingError]) -> None:
    with pytest.raises(error):
        EnvelopeContext.from_bytes(change(CONTEXT.to_bytes()))


def test_an_agency_may_seal_to_itself() -> None:
    context = replace(CONTEXT, recipient=CONTEXT.sender)
    assert opened(seal(BODY, context, RECIPIENT.public_key, SENDER), context) == BODY


# --- forged, one check after the other -----------------------------------------------------------------------------


@pytest.mark.parametrize("field", OTHER_CONTEXTS)
def test_another_context_is_refused_at_every_check(field: str) -> None:
    other = OTHER_CONTEXTS[field]
    # 1: the envelope says so itself, although duly sealed and signed
    with pytest.raises(ContextError):
        opened(seal(BODY, other, RECIPIENT.public_key, SENDER))
    # 3: it is relabelled, and the sender's signature is over the old label
    with pytest.raises(SenderSignatureError):
        opened(replace(seal(BODY, other, RECIPIENT.public_key, SENDER), context=CONTEXT))
    # 4: the signature is right, and the seal was made under the other label
    with pytest.raises(OpeningError):
        opened(signed_anew(seal(BODY, other, RECIPIENT.public_key, SENDER), context=CONTEXT))


def test_another_suite_is_refused() -> None:
    with pytest.raises(SuiteError):
        opened(replace(sealed(), suite=SealSuite(0x0010, 0x0001, 0x0001)))
    with pytest.raises(SuiteError):
        opened(signed_anew(sealed(), suite=SealSuite(0x647A, 0x0001, 0x0002)))
    with pytest.raises(SuiteError):  # a recipient may offer less than this code knows
        open_envelope(sealed(), CONTEXT, RECIPIENT, SENDER.verifying_key, offered_suites={})


@pytest.mark.parametrize("aead", [hpke.AEAD.AES_128_GCM, hpke.AEAD.CHACHA20_POLY1305])
def test_a_relabelled_suite_does_not_open(aead: hpke.AEAD) -> None:
    other = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, aead)
    body = RECIPIENT.public_key.seal(other, BODY, CONTEXT.to_bytes())
    with pytest.raises(OpeningError):
        opened(signed_anew(sealed(), sealed=body))


def test_a_second_suite_would_be_one_more_line() -> None:
    second = SealSuite(0x0010, 0x0001, 0x0003)
    suites = {**OFFERED_SUITES, second: hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)}
    body = RECIPIENT.public_key.seal(suites[second], BODY, CONTEXT.to_bytes())
    envelope = signed_anew(sealed(), suite=second, sealed=body)
    assert open_envelope(envelope, CONTEXT, RECIPIENT, SENDER.verifying_key, offered_suites=suites) == BODY
    with pytest.raises(OpeningError):  # the signature does not cover the suite; HPKE's key schedule does
        open_envelope(replace(envelope, suite=P256_SHA256_AES256GCM), CONTEXT, RECIPIENT, SENDER.verifying_key, offered_suites=suites)


def test_another_sender_is_refused() -> None:
    with pytest.raises(SenderSignatureError):
        open_envelope(sealed(), CONTEXT, RECIPIENT, STRANGER_SIGNING.verifying_key)
    with pytest.raises(SenderSignatureError):
        opened(seal(BODY, CONTEXT, RECIPIENT.public_key, STRANGER_SIGNING))
    with pytest.raises(SenderSignatureError):  # somebody else's seal under the sender's signature of another body
        opened(replace(sealed(), sealed=seal(b"forged", CONTEXT, RECIPIENT.public_key, STRANGER_SIGNING).sealed))


def test_another_recipient_is_refused() -> None:
    with pytest.raises(OpeningError):
        open_envelope(sealed(), CONTEXT, STRANGER_SEALING, SENDER.verifying_key)
    with pytest.raises(OpeningError):
        opened(seal(BODY, CONTEXT, STRANGER_SEALING.public_key, SENDER))


def test_a_flipped_bit_in_the_sealed_bytes_is_refused_twice() -> None:
    envelope = sealed()
    for at in range(len(envelope.sealed)):
        changed = flipped(envelope.sealed, at)
        with pytest.raises(SenderSignatureError):
            opened(replace(envelope, sealed=changed))
        with pytest.raises(OpeningError):
            opened(signed_anew(envelope, sealed=changed))


def test_a_cut_or_lengthened_seal_is_refused_twice() -> None:
    envelope = sealed()
    for changed in (
        *(envelope.sealed[:end] for end in range(1, len(envelope.sealed))),
        envelope.sealed + b"\x00",
        b"\x00" + envelope.sealed,
    ):
        with pytest.raises(SenderSignatureError):
            opened(replace(envelope, sealed=changed))
        with pytest.raises(OpeningError):
            opened(signed_anew(envelope, sealed=changed))


def test_a_flipped_bit_anywhere_on_the_wire_is_refused() -> None:
    data = sealed().to_bytes()
    for at in range(len(data)):
        with pytest.raises((EncodingError, EnvelopeError)):
            opened(Envelope.from_bytes(flipped(data, at)))


def test_the_checks_come_in_their_order() -> None:
    """Everything is wrong with it; taking one wrong away after the other shows the next."""
    wrong = Envelope(SealSuite(1, 2, 3), OTHER_CONTEXTS["search_id"], b"not sealed at all", bytes(64))
    with pytest.raises(ContextError):
        opened(wrong)
    wrong = replace(wrong, context=CONTEXT)
    with pytest.raises(SuiteError):
        opened(wrong)
    wrong = replace(wrong, suite=P256_SHA256_AES256GCM)
    with pytest.raises(SenderSignatureError):
        opened(wrong)
    wrong = signed_anew(wrong)
    with pytest.raises(OpeningError):
        opened(wrong)


def test_a_destroyed_key_opens_nothing_and_is_not_asked_for_forgeries() -> None:
    envelope = sealed()
    key = SealingPrivateKey.from_secret(bytes(31) + b"\x02")
    key.destroy()
    with pytest.raises(KeyDestroyedError):
        open_envelope(envelope, CONTEXT, key, SENDER.verifying_key)
    with pytest.raises(SenderSignatureError):
        open_envelope(envelope, CONTEXT, key, STRANGER_SIGNING.verifying_key)
    signer = SigningKey.generate()
    signer.destroy()
    with pytest.raises(KeyDestroyedError):
        seal(BODY, CONTEXT, RECIPIENT.public_key, signer)


# --- the wire ------------------------------------------------------------------------------------------------------


def test_an_envelope_cut_anywhere_is_truncated() -> None:
    data = sealed().to_bytes()
    for end in range(len(data)):
        with pytest.raises(TruncatedError):
            Envelope.from_bytes(data[:end])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data + b"\x00", NotCanonicalError),
        (lambda data: b"\x00" + data, VersionError),
        (lambda data: flipped(data, 2), VersionError),  # kind
        (lambda data: flipped(data, 3), VersionError),  # format version
        (lambda data: flipped(data, 4), VersionError),  # parameter set
        (lambda data: data[:11] + b"\xff\xff" + data[13:], FieldError),  # length of the context
        (lambda data: data[:11] + b"\x00\x00" + data[13:], VersionError),
        (lambda data: data[:11] + b"\x00\x01" + data[13:], VersionError),
    ],
)
def test_every_other_wire_form_is_refused(change: Callable[[bytes], bytes], error: type[EncodingError]) -> None:
    with pytest.raises(error):
        Envelope.from_bytes(change(sealed().to_bytes()))


def test_an_oversized_envelope_is_not_parsed() -> None:
    data = sealed().to_bytes()
    assert Envelope.from_bytes(data, max_bytes=len(data)).to_bytes() == data
    with pytest.raises(OversizedError):
        Envelope.from_bytes(data, max_bytes=len(data) - 1)
    with pytest.raises(OversizedError):
        Envelope.from_bytes(bytes(MAX_ENVELOPE_BYTES + 1), max_bytes=MAX_ENVELOPE_BYTES * 2)
    with pytest.raises(OversizedError):
        replace(sealed(), sealed=bytes(MAX_ENVELOPE_BYTES))
    with pytest.raises(MisuseError):
        seal(bytes(MAX_PLAINTEXT_BYTES + 1), CONTEXT, RECIPIENT.public_key, SENDER)


def test_the_largest_envelope_is_as_long_as_is_said() -> None:
    assert MAX_ENVELOPE_BYTES == 67108864
    frame = 11 + 2 + MAX_CONTEXT_BYTES + 4 + 64
    largest = Envelope(SealSuite(1, 2, 3), longest_context(), bytes(MAX_ENVELOPE_BYTES - frame), bytes(64))
    assert len(largest.to_bytes()) == MAX_ENVELOPE_BYTES
    assert Envelope.from_bytes(largest.to_bytes()) == largest
    with pytest.raises(OversizedError):
        replace(largest, sealed=bytes(MAX_ENVELOPE_BYTES - frame + 1))
    smallest = replace(largest, sealed=b"s")
    assert Envelope.from_bytes(smallest.to_bytes()) == smallest


def test_the_largest_body_is_carried() -> None:
    envelope = seal(bytes(MAX_PLAINTEXT_BYTES), CONTEXT, RECIPIENT.public_key, SENDER)
    assert len(opened(Envelope.from_bytes(envelope.to_bytes()))) == MAX_PLAINTEXT_BYTES


def test_parts_out_of_their_form_make_no_envelope() -> None:
    with pytest.raises(FieldError):
        replace(sealed(), sealed=b"")
    for length in (0, 63, 65):
        with pytest.raises(FieldError):
            replace(sealed(), signature=bytes(length))
    with pytest.raises(MisuseError):
        SealSuite(1 << 16, 1, 1)
    with pytest.raises(MisuseError):
        SealSuite(1, -1, 1)
    with pytest.raises(TruncatedError):
        SealSuite.from_bytes(bytes(5))


def test_an_unknown_suite_is_carried_and_not_opened() -> None:
    foreign = replace(sealed(), suite=SealSuite(0x647A, 0x0001, 0x0002))
    assert Envelope.from_bytes(foreign.to_bytes()) == foreign


def test_sealing_twice_gives_unlike_envelopes() -> None:
    assert sealed().sealed != sealed().sealed


def test_nothing_secret_is_shown() -> None:
    envelope = sealed()
    for text in (repr(envelope), repr(RECIPIENT), repr(SENDER)):
        for hidden in (BODY, envelope.sealed, envelope.signature, RECIPIENT.export_secret(), CONTEXT.grant_digest):
            assert hidden.hex() not in text
            assert repr(hidden)[2:-1] not in text
    with pytest.raises(OpeningError) as caught:
        open_envelope(envelope, CONTEXT, STRANGER_SEALING, SENDER.verifying_key)
    assert caught.value.args == ("seal does not open under this key and context",)


# --- generated -----------------------------------------------------------------------------------------------------

_ends = st.text("abcxyz0189", min_size=1, max_size=2)
_names = st.builds("".join, st.tuples(_ends, st.text("az09._:-", max_size=60), _ends))
_contexts = st.builds(
    EnvelopeContext,
    st.sampled_from(["probe", "answer", "mask-seed", "x", "opened-scores"]).map(MessageType),
    st.binary(min_size=16, max_size=16).map(lambda raw: SearchId(raw.hex())),
    st.binary(min_size=32, max_size=32),
    _names.map(AgencyId),
    _names.map(AgencyId),
    _names.map(KeyId),
    st.builds(lambda year, month: Epoch(f"{year}-{month:02}"), st.integers(2000, 2099), st.integers(1, 12)),
)


@given(_contexts, st.binary(max_size=2000))
@settings(max_examples=50)
def test_bodies_round_trip(context: EnvelopeContext, body: bytes) -> None:
    data = seal(body, context, RECIPIENT.public_key, SENDER).to_bytes()
    assert opened(Envelope.from_bytes(data), context) == body


@given(_contexts, _contexts, st.sampled_from(sorted(OTHER_CONTEXTS)))
def test_unlike_contexts_have_unlike_strings(one: EnvelopeContext, two: EnvelopeContext, field: str) -> None:
    assert EnvelopeContext.from_bytes(one.to_bytes()) == one
    neighbour = replace(one, **{field: getattr(two, field)})
    assert (one.to_bytes() == neighbour.to_bytes()) == (one == neighbour)


@given(st.binary(max_size=400) | st.binary(max_size=300).map(lambda tail: b"SM\x0a\x01\x01" + tail))
def test_garbage_is_no_envelope(data: bytes) -> None:
    with pytest.raises(EncodingError):
        Envelope.from_bytes(data)


@given(
    st.lists(st.sampled_from([b"|", b"sealmatch-1", b"answer", b"a" * 32, b"0" * 64, b"x", b"2026-11", b"\xff"]), max_size=20).map(b"".join)
)
def test_garbage_is_no_context(data: bytes) -> None:
    try:
        context = EnvelopeContext.from_bytes(data)
    except CryptoError:
        return
    assert context.to_bytes() == data


@given(st.binary(min_size=1, max_size=300))
@settings(max_examples=50)
def test_a_signed_garbage_seal_does_not_open(garbage: bytes) -> None:
    with pytest.raises(OpeningError):
        opened(signed_anew(sealed(), sealed=garbage))


def test_a_public_key_that_travelled_is_the_same_key() -> None:
    envelope = seal(BODY, CONTEXT, SealingPublicKey(RECIPIENT.public_key.raw), SENDER)
    assert opened(envelope) == BODY
