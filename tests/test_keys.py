"""Key handles: published signatures, keys that must not exist, and secrets that must not leak."""

from __future__ import annotations

import copy
import pickle

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import BadSignatureError, FieldError, KeyDestroyedError, MisuseError, OpeningError
from crypto.keys import SealingPrivateKey, SealingPublicKey, SigningKey, VerifyingKey

SUITE = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
ED25519_P = 2**255 - 19
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2 section 2.4.2

# RFC 8032 section 7.1, tests 1 to 3: secret, public, message, signature.
RFC_8032 = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_signatures_are_the_published_ones(secret: str, public: str, message: str, signature: str) -> None:
    key = SigningKey.from_secret(bytes.fromhex(secret))
    assert key.verifying_key == VerifyingKey(bytes.fromhex(public))
    assert key.sign(bytes.fromhex(message)) == bytes.fromhex(signature)
    assert key.export_secret() == bytes.fromhex(secret)
    key.verifying_key.check(bytes.fromhex(signature), bytes.fromhex(message))


def test_keys_with_either_sign_bit_are_keys() -> None:
    keys = [SigningKey.from_secret(number.to_bytes(32, "big")).verifying_key for number in range(16)]
    assert {key.raw[31] >> 7 for key in keys} == {0, 1}


def test_every_altered_signature_is_refused() -> None:
    key = SigningKey.generate()
    message = b"purpose|body"
    signature = key.sign(message)
    for at in range(len(signature)):
        forged = bytearray(signature)
        forged[at] ^= 1 << (at % 8)
        with pytest.raises(BadSignatureError):
            key.verifying_key.check(bytes(forged), message)
    for wrong, text in (
        (signature[:-1], message),
        (signature + b"\x00", message),
        (b"", message),
        (signature, message + b"\x00"),
        (signature, message[1:]),
        (SigningKey.generate().sign(message), message),
    ):
        with pytest.raises(BadSignatureError):
            key.verifying_key.check(wrong, text)


def test_a_signature_has_one_spelling() -> None:
    """s + L signs the same under a lax verifier; RFC 8032 section 5.1.7 refuses it."""
    key = SigningKey.generate()
    signature = key.sign(b"m")
    order = 2**252 + 27742317777372353535851937790883648493
    larger = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(BadSignatureError):
        key.verifying_key.check(signature[:32] + larger.to_bytes(32, "little"), b"m")


def test_points_of_small_order_are_no_keys() -> None:
    """Under the key of order 1 one signature fits every message.

    Doubling (x, y) gives y' = (x^2 + y^2) / (1 - d x^2 y^2), so points of order 8, whose double has y' = 0, have x^2 = -y^2; on the curve
    -x^2 + y^2 = 1 + d x^2 y^2 that is d y^4 + 2 y^2 - 1 = 0, and y^2 = (-1 +- sqrt(1 + d)) / d.
    """
    d = -121665 * pow(121666, -1, ED25519_P) % ED25519_P
    of_order_8 = set()
    for root in square_roots(1 + d):
        of_order_8 |= square_roots((root - 1) * pow(d, -1, ED25519_P))
    assert len(of_order_8) == 2
    for y in {0, 1, ED25519_P - 1} | of_order_8:
        for sign_bit in (0, 1 << 255):
            with pytest.raises(FieldError):
                VerifyingKey((y | sign_bit).to_bytes(32, "little"))


def square_roots(square: int) -> set[int]:
    """The roots modulo 2^255 - 19, none or two (RFC 8032 section 5.1.3, p = 5 mod 8)."""
    candidate = pow(square, (ED25519_P + 3) // 8, ED25519_P)
    twisted = candidate * pow(2, (ED25519_P - 1) // 4, ED25519_P) % ED25519_P
    roots = {root for root in (candidate, twisted) if (root * root - square) % ED25519_P == 0}
    return roots | {ED25519_P - root for root in roots}


def test_the_identity_point_would_have_signed_everything() -> None:
    """What the refusal is for: under the neutral element (R, s) = (neutral, 0) verifies with OpenSSL over any message.

    When a library refuses that by itself, this test fails and our own refusal may go.
    """
    neutral = (1).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"any message at all")


@pytest.mark.parametrize("raw", [b"", b"\x05" * 31, b"\x05" * 33, ED25519_P.to_bytes(32, "little"), b"\xff" * 32])
def test_verifying_keys_have_one_canonical_encoding(raw: bytes) -> None:
    with pytest.raises(FieldError):
        VerifyingKey(raw)


def test_a_sealing_key_is_a_point_of_the_curve_in_the_uncompressed_form() -> None:
    key = SealingPrivateKey.generate()
    raw = key.public_key.raw
    assert SealingPublicKey(raw) == key.public_key
    assert len(raw) == 65
    compressed = bytes([2 + (raw[64] & 1)]) + raw[1:33]
    hybrid = bytes([6 + (raw[64] & 1)]) + raw[1:]
    for wrong in (b"", raw[:-1], raw + b"\x00", compressed, hybrid, b"\x00", b"\x04" + bytes(64), b"\x04" + b"\xff" * 64):
        with pytest.raises(FieldError):
            SealingPublicKey(wrong)
    for at in range(1, 65):
        moved = bytearray(raw)
        moved[at] ^= 1
        with pytest.raises(FieldError):  # a point one bit away would be an accident of about 2^-250
            SealingPublicKey(bytes(moved))


@pytest.mark.parametrize("secret", [b"", b"\x05" * 31, b"\x00" + b"\x05" * 32, bytes(32), P256_ORDER.to_bytes(32, "big"), b"\xff" * 32])
def test_a_sealing_secret_is_a_scalar_of_the_group(secret: bytes) -> None:
    with pytest.raises(MisuseError) as caught:
        SealingPrivateKey.from_secret(secret)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_other_curves_and_lengths_are_a_misuse() -> None:
    with pytest.raises(MisuseError):
        SealingPrivateKey(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(MisuseError):
        SigningKey.from_secret(bytes(31))


@given(st.binary(min_size=32, max_size=32))
def test_secrets_round_trip(secret: bytes) -> None:
    assert SigningKey.from_secret(secret).export_secret() == secret
    if 0 < int.from_bytes(secret, "big") < P256_ORDER:
        key = SealingPrivateKey.from_secret(secret)
        assert key.export_secret() == secret
        assert SealingPrivateKey.from_secret(key.export_secret()).public_key == key.public_key


@given(st.binary(max_size=80))
def test_garbage_is_no_public_key(raw: bytes) -> None:
    for kind in (VerifyingKey, SealingPublicKey):
        try:
            assert kind(raw).raw == raw
        except FieldError:
            continue


def test_what_was_sealed_opens_and_every_alteration_gives_the_same_error() -> None:
    key = SealingPrivateKey.generate()
    sealed = key.public_key.seal(SUITE, b"plaintext", b"info")
    assert key.open(SUITE, sealed, b"info") == b"plaintext"
    point_not_on_curve = b"\x04" + b"\xff" * 64 + sealed[65:]
    for wrong, info in ((sealed, b"other"), (sealed[:-1], b"info"), (b"", b"info"), (point_not_on_curve, b"info")):
        with pytest.raises(OpeningError) as caught:
            key.open(SUITE, wrong, info)
        assert str(caught.value) == "seal does not open under this key and context"
        assert caught.value.__suppress_context__


def test_a_destroyed_key_does_nothing_more() -> None:
    signing, sealing = SigningKey.generate(), SealingPrivateKey.generate()
    sealed = sealing.public_key.seal(SUITE, b"plaintext", b"info")
    for key in (signing, sealing):
        key.destroy()
        key.destroy()
    uses = (
        lambda: signing.sign(b"m"),
        lambda: signing.verifying_key,
        signing.export_secret,
        lambda: sealing.open(SUITE, sealed, b"info"),
        lambda: sealing.public_key,
        sealing.export_secret,
    )
    for use in uses:
        with pytest.raises(KeyDestroyedError):
            use()


def test_secrets_are_not_shown_and_not_copied() -> None:
    for key in (SigningKey.generate(), SealingPrivateKey.generate()):
        secret = key.export_secret()
        assert repr(key) == str(key) == f"{key}" == f"<{type(key).__name__} redacted>"
        assert secret.hex() not in repr(vars(type(key)))
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(MisuseError):
                copying(key)
        assert key != type(key).from_secret(secret)  # secrets are not compared
