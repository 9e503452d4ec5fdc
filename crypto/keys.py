"""Key handles: Ed25519 for signatures (RFC 8032), P-256 for sealing (the KEM of RFC 9180 section 7.1).

A handle keeps the secret out of sight: `repr` is redacted, pickling and copying are refused, and the only way to the secret bytes is
`export_secret()`, a name to search for in a review. Public keys are values: frozen, comparable, with one raw encoding each.

Invariants: a public key that exists is well formed (right length, right curve, not of small order); a destroyed key does nothing more.
Messages must bring their own purpose label, as every signed string of the protocol does; these handles add none. Which key may sign
what is left to `roster`; what a bad signature means is left to the caller, who turns `BadSignatureError` into an error of its own area.

Destroying a key drops the last reference that this process has to it from here; OpenSSL cleanses the memory when it frees the key, but
bytes that `export_secret()` handed out earlier are immutable Python objects and stay until they are collected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NoReturn, Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.errors import BadSignatureError, FieldError, KeyDestroyedError, MisuseError, OpeningError

SIGNING_PUBLIC_BYTES: Final = 32
SIGNING_SECRET_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SEALING_PUBLIC_BYTES: Final = 65
SEALING_SECRET_BYTES: Final = 32

_ED25519_P: Final = 2**255 - 19
_ORDER_8_Y: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y coordinates of the eight points of small order: order 1, 2, 4 and, with both signs, 8. One signature under such a key fits many
# messages (RFC 8032 section 5.1.7 does not refuse them). `tests/test_keys.py` derives them from the curve equation.
_SMALL_ORDER_Y: Final = frozenset({1, _ED25519_P - 1, 0, _ORDER_8_Y, _ED25519_P - _ORDER_8_Y})


class _SecretHandle:
    """What both secret handles share: they show nothing and cannot be copied out of the process by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise MisuseError(f"{type(self).__name__} is neither pickled nor copied; export_secret() is the way out")


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """An Ed25519 public key; `raw` is its 32 bytes (RFC 8032 section 5.1.5).

    The constructor raises `FieldError` for another length, for an encoding of y that is not reduced (one key would have two names) and
    for the points of small order (one signature would fit many messages).
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != SIGNING_PUBLIC_BYTES:
            raise FieldError(f"an Ed25519 public key has {SIGNING_PUBLIC_BYTES} bytes")
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if y >= _ED25519_P:
            raise FieldError("Ed25519 public key is not in its canonical encoding")
        if y in _SMALL_ORDER_Y:
            raise FieldError("Ed25519 public key is a point of small order")

    def check(self, signature: bytes, message: bytes) -> None:
        """Raises `BadSignatureError` unless `signature` (64 bytes) is this key's over exactly `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise BadSignatureError("Ed25519 signature does not verify") from error


class SigningKey(_SecretHandle):
    """An Ed25519 private key. `message` must carry its own purpose label: the same key never signs two strings of unlike meaning."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key: Ed25519PrivateKey | None = key

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, secret: bytes) -> Self:
        """The key of a 32-byte seed (RFC 8032 section 5.1.5); `MisuseError` for another length."""
        if len(secret) != SIGNING_SECRET_BYTES:
            raise MisuseError(f"an Ed25519 secret has {SIGNING_SECRET_BYTES} bytes")
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    @property
    def verifying_key(self) -> VerifyingKey:
        """The public half."""
        return VerifyingKey(self._live().public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`; `KeyDestroyedError` after `destroy()`."""
        return self._live().sign(message)

    def export_secret(self) -> bytes:
        """The 32-byte seed, for the key store and nobody else."""
        return self._live().private_bytes_raw()

    def destroy(self) -> None:
        """Forgets the key; calling it again does nothing."""
        self._key = None

    def _live(self) -> Ed25519PrivateKey:
        if self._key is None:
            raise KeyDestroyedError("signing key was destroyed")
        return self._key


@dataclass(frozen=True, slots=True)
class SealingPublicKey:
    """A P-256 public key; `raw` is the uncompressed point, 65 bytes (RFC 9180 section 7.1.1, SEC 1 section 2.3.3).

    The constructor raises `FieldError` for another length or form and for a point that is not on the curve.
    """

    raw: bytes
    _key: ec.EllipticCurvePublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.raw) != SEALING_PUBLIC_BYTES:  # so it is not compressed; the library refuses the hybrid form
            raise FieldError(f"a sealing key is an uncompressed P-256 point of {SEALING_PUBLIC_BYTES} bytes")
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.raw)
        except ValueError as error:
            raise FieldError("sealing key is not a point of P-256") from error
        object.__setattr__(self, "_key", key)

    def seal(self, suite: hpke.Suite, plaintext: bytes, info: bytes) -> bytes:
        """HPKE base mode, single shot, empty associated data: `enc || ciphertext` (RFC 9180 section 6.1). For `envelope` only."""
        return suite.encrypt(plaintext, self._key, info=info)


class SealingPrivateKey(_SecretHandle):
    """A P-256 private key that opens what was sealed to it, until it is destroyed."""

    __slots__ = ("_key",)

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise MisuseError("a sealing key is on P-256")
        self._key: ec.EllipticCurvePrivateKey | None = key

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_secret(cls, secret: bytes) -> Self:
        """The key of a 32-byte big-endian scalar in 1..n-1 (RFC 9180 section 7.1.2); `MisuseError` for anything else."""
        if len(secret) != SEALING_SECRET_BYTES:
            raise MisuseError(f"a P-256 secret has {SEALING_SECRET_BYTES} bytes")
        try:
            key = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
        except ValueError:
            # `from None`: the library's own words must not travel with a secret.
            raise MisuseError("a P-256 secret is a scalar between 1 and the group order") from None
        return cls(key)

    @property
    def public_key(self) -> SealingPublicKey:
        """The public half."""
        encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        return SealingPublicKey(self._live().public_key().public_bytes(encoding, form))

    def open(self, suite: hpke.Suite, sealed: bytes, info: bytes) -> bytes:
        """Inverse of `SealingPublicKey.seal`; `OpeningError` without a reason, `KeyDestroyedError` once destroyed. For `envelope` only."""
        key = self._live()
        try:
            return suite.decrypt(sealed, key, info=info)
        except (InvalidTag, ValueError):
            # One error for bad point, bad tag and bad length alike, and no chained cause: a peer must not learn which it was.
            raise OpeningError("seal does not open under this key and context") from None

    def export_secret(self) -> bytes:
        """The 32-byte big-endian scalar, for the key store and nobody else."""
        return self._live().private_numbers().private_value.to_bytes(SEALING_SECRET_BYTES, "big")

    def destroy(self) -> None:
        """Forgets the key; calling it again does nothing."""
        self._key = None

    def _live(self) -> ec.EllipticCurvePrivateKey:
        if self._key is None:
            raise KeyDestroyedError("sealing key was destroyed")
        return self._key
