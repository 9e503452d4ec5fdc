"""Where a record number belongs in a gallery's tree: a place that only the holder computes and that everybody can check (RFC 9381).

A verifiable random function, ECVRF-EDWARDS25519-SHA512-TAI. Under one public key every name has exactly one place, whatever the holder does
(full uniqueness: the key is validated), and a proof shows it without the secret. To whoever has neither secret nor proof a place is noise:
nobody finds out from a tree which numbers are in it. The group is libsodium's, through PyNaCl; nothing here computes on points itself.

Invariants: a public key that exists is a canonical point of the prime-order group; `check` returns the place or raises. Left to others:
what a name is and what lies at a place (`record_tree`), whose key it is (`record_manifest`), where the secret is kept (the services).
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final, NoReturn, Self

from nacl import bindings as sodium
from nacl.exceptions import CryptoError as SodiumError

from crypto.errors import AbsenceError, FieldError, MisuseError

PLACE_BYTES: Final = 32
PROOF_BYTES: Final = 80
SECRET_BYTES: Final = 32
_SUITE: Final = b"\x03"
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_CHALLENGE_BYTES: Final = 16
_TRIES: Final = 256
"""Half of all strings are points: that none of so many is happens with probability 2^-256."""


@dataclass(frozen=True, slots=True)
class PlacesPublicKey:
    """The public key of a gallery's places, 32 bytes; `FieldError` for what is no canonical point of the prime-order group."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32 or not sodium.crypto_core_ed25519_is_valid_point(self.raw):
            raise FieldError("a key of places is a canonical point of edwards25519, of the prime order")

    def check(self, name: bytes, proof: bytes) -> bytes:
        """The place of `name`, 32 bytes, after the verification of RFC 9381 section 5.3, whose steps are numbered; else `AbsenceError`."""
        if len(proof) != PROOF_BYTES:
            raise AbsenceError(f"a proof of a place has {PROOF_BYTES} bytes")
        gamma, c, s = proof[:32], proof[32:48], proof[48:]  # 4
        if int.from_bytes(s, "little") >= _ORDER or not sodium.crypto_core_ed25519_is_valid_point(gamma):  # 5, 6
            raise AbsenceError("a proof of a place holds no point and scalar")
        point = _point_of(self.raw, name)  # 7
        challenge = c + bytes(32 - _CHALLENGE_BYTES)
        try:
            u = sodium.crypto_core_ed25519_sub(  # 8
                sodium.crypto_scalarmult_ed25519_base_noclamp(s), sodium.crypto_scalarmult_ed25519_noclamp(challenge, self.raw)
            )
            v = sodium.crypto_core_ed25519_sub(  # 9
                sodium.crypto_scalarmult_ed25519_noclamp(s, point), sodium.crypto_scalarmult_ed25519_noclamp(challenge, gamma)
            )
        except SodiumError as error:  # a scalar that is zero, which an honest proof never has
            raise AbsenceError("a proof of a place does not verify") from error
        if _challenge(self.raw, point, gamma, u, v) != c:  # 10, 11
            raise AbsenceError("a proof of a place does not verify")
        return _place(gamma)


class PlacesKey:
    """The secret of a gallery's places. It shows nothing, and is neither pickled nor copied."""

    __slots__ = ("_nonce_key", "_scalar", "_seed", "public_key")

    def __init__(self, seed: bytes) -> None:
        """Of a 32-byte seed, expanded as RFC 8032 section 5.1.5 does; `MisuseError` for another length."""
        if len(seed) != SECRET_BYTES:
            raise MisuseError(f"the secret of places has {SECRET_BYTES} bytes")
        expanded = hashlib.sha512(seed).digest()
        clamped = bytes([expanded[0] & 248]) + expanded[1:31] + bytes([expanded[31] & 127 | 64])
        self._seed = seed
        self._scalar = sodium.crypto_core_ed25519_scalar_reduce(clamped + bytes(32))
        self._nonce_key = expanded[32:]
        self.public_key = PlacesPublicKey(sodium.crypto_scalarmult_ed25519_base_noclamp(self._scalar))

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the operating system's randomness."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    def export_secret(self) -> bytes:
        """The 32-byte seed, for the key store and nobody else."""
        return self._seed

    def place(self, name: bytes) -> bytes:
        """The place of `name`, 32 bytes; half a millisecond of a core."""
        return _place(sodium.crypto_scalarmult_ed25519_noclamp(self._scalar, _point_of(self.public_key.raw, name)))

    def prove(self, name: bytes) -> bytes:
        """The proof that `name` has its place, 80 bytes (RFC 9381 section 5.1, nonce of section 5.4.2.2)."""
        point = _point_of(self.public_key.raw, name)
        gamma = sodium.crypto_scalarmult_ed25519_noclamp(self._scalar, point)
        nonce = sodium.crypto_core_ed25519_scalar_reduce(hashlib.sha512(self._nonce_key + point).digest())
        u, v = sodium.crypto_scalarmult_ed25519_base_noclamp(nonce), sodium.crypto_scalarmult_ed25519_noclamp(nonce, point)
        c = _challenge(self.public_key.raw, point, gamma, u, v)
        product = sodium.crypto_core_ed25519_scalar_mul(c + bytes(32 - _CHALLENGE_BYTES), self._scalar)
        return gamma + c + sodium.crypto_core_ed25519_scalar_add(nonce, product)

    def __repr__(self) -> str:
        return "<PlacesKey redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise MisuseError("PlacesKey is neither pickled nor copied; export_secret() is the way out")


def _point_of(salt: bytes, name: bytes) -> bytes:
    """Try and increment (RFC 9381 section 5.4.1.1): the first hash that is a point, times the cofactor."""
    for attempt in range(_TRIES):
        digest = hashlib.sha512(_SUITE + b"\x01" + salt + name + bytes([attempt]) + b"\x00").digest()[:32]
        try:
            doubled = sodium.crypto_core_ed25519_add(digest, digest)
        except SodiumError:  # not a point of the curve
            continue
        doubled = sodium.crypto_core_ed25519_add(doubled, doubled)
        return bytes(sodium.crypto_core_ed25519_add(doubled, doubled))
    raise MisuseError("no hash of a name is a point")


def _challenge(*points: bytes) -> bytes:
    """RFC 9381 section 5.4.3."""
    return hashlib.sha512(_SUITE + b"\x02" + b"".join(points) + b"\x00").digest()[:_CHALLENGE_BYTES]


def _place(gamma: bytes) -> bytes:
    """The first half of the output of RFC 9381 section 5.2."""
    cleared = gamma
    for _ in range(3):  # times the cofactor
        cleared = sodium.crypto_core_ed25519_add(cleared, cleared)
    return hashlib.sha512(_SUITE + b"\x03" + cleared + b"\x00").digest()[:PLACE_BYTES]
