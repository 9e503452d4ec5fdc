"""What a node keeps at rest, sealed: AES-256-GCM under keys derived from the node's at-rest key.

Each purpose (a record's photograph, a search key, a layout) has a key of its own, HKDF-SHA256 of the at-rest key under the purpose's name,
so that a blob moved into another place does not open there. What belongs to one thing, e.g. the id of the search, is bound as associated
data. Invariants: a nonce is 12 random bytes, fresh for every sealing; no key or plaintext in `repr`, errors or logs. A purpose's key seals
far fewer than the 2^32 messages that NIST SP 800-38D, 8.3 allows with random nonces. Tags outlive the at-rest key (`rotation`): the number
of an expunged record is nowhere, so its tag cannot be made again, and without it the record would be enrolled anew.

Left to others: where the at-rest key comes from (`config`), deleting what is no longer needed (each role).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agency_node.errors import StoreError

if TYPE_CHECKING:
    from hashlib import _Hash as _Sha256

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_SHA256_BLOCK: Final = 64
_LABEL: Final = b"sealmatch-1/at-rest/"


class Vault:
    """Seals and opens blobs under one at-rest key."""

    __slots__ = ("_ciphers", "_key", "_tag_root", "_tag_states")

    def __init__(self, key: bytes, tag_root: bytes | None = None) -> None:
        """`tag_root` is that of the first at-rest key, for a vault of a later one."""
        if len(key) != KEY_BYTES:
            raise StoreError(f"an at-rest key has {KEY_BYTES} bytes: restore keys/at-rest.key from its backup")
        self._key = key
        self._tag_root = tag_root
        self._ciphers: dict[str, AESGCM] = {}
        self._tag_states: dict[str, tuple[_Sha256, _Sha256]] = {}

    @classmethod
    def from_file(cls, path: Path) -> Vault:
        """The vault of the key in that file; `StoreError` when the file is missing or of another length."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise StoreError("the at-rest key cannot be read: run `sealmatch node init`, or restore keys/at-rest.key") from error

    def seal(self, purpose: str, plaintext: bytes, bound_to: bytes = b"") -> bytes:
        """Nonce and ciphertext; opens only with the same purpose and `bound_to`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(purpose).encrypt(nonce, plaintext, bound_to)

    def seal_each(self, purpose: str, plaintexts: Sequence[bytes], bound_to: Sequence[bytes]) -> list[bytes]:
        """As `seal`, a blob for each plaintext with what it is bound to; their nonces come from the system in one call."""
        encrypt = self._cipher(purpose).encrypt
        drawn = os.urandom(_NONCE_BYTES * len(plaintexts))
        nonces = [drawn[at : at + _NONCE_BYTES] for at in range(0, len(drawn), _NONCE_BYTES)]
        return [nonce + encrypt(nonce, plaintext, bound) for nonce, plaintext, bound in zip(nonces, plaintexts, bound_to, strict=True)]

    def open(self, purpose: str, sealed: bytes, bound_to: bytes = b"") -> bytes:
        """Inverse of `seal`; `StoreError` for anything that this vault did not seal for this purpose."""
        try:
            return self._cipher(purpose).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                f"a stored {purpose} does not open under this node's at-rest key: the store was changed or mixed up"
            ) from error

    @property
    def tag_root(self) -> bytes:
        """What all tags follow from, 32 secret bytes: HKDF's extract of the node's first at-rest key. It opens nothing."""
        return self._tag_root or hmac.digest(self._key, self._key, "sha256")

    def with_tag_root(self, tag_root: bytes) -> Vault:
        """The same key, with tags of an earlier one."""
        return Vault(self._key, tag_root)

    def tag(self, purpose: str, value: bytes) -> bytes:
        """A keyed 32-byte tag by which equal values are found again without standing in the store.

        It is HKDF-SHA256 (RFC 5869) of the at-rest key with itself as salt, under purpose and value: one HMAC of these, whose states before
        the value (RFC 2104) are the same for all tags of a purpose and are computed once.
        """
        if purpose not in self._tag_states:
            extracted = self.tag_root.ljust(_SHA256_BLOCK, b"\0")
            inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in extracted)) for pad in (0x36, 0x5C))
            inner.update(_LABEL + b"tag/" + purpose.encode("ascii") + b"/")
            self._tag_states[purpose] = inner, outer
        inner, outer = (state.copy() for state in self._tag_states[purpose])
        inner.update(value + b"\x01")  # the number of the one block that is expanded
        outer.update(inner.digest())
        return outer.digest()

    def _cipher(self, purpose: str) -> AESGCM:
        if purpose not in self._ciphers:
            derived = HKDF(hashes.SHA256(), KEY_BYTES, None, _LABEL + purpose.encode("ascii")).derive(self._key)
            self._ciphers[purpose] = AESGCM(derived)
        return self._ciphers[purpose]

    def __repr__(self) -> str:
        return "Vault(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a vault is not pickled")
