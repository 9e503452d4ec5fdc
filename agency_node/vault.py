"""What a node keeps at rest, sealed: AES-256-GCM under keys derived from the node's at-rest key.

Each purpose (a record's photograph, a search key, a layout) has a key of its own, HKDF-SHA256 of the at-rest key under the purpose's name,
so that a blob moved into another place does not open there. What belongs to one thing, e.g. the id of the search, is bound as associated
data. Invariants: a nonce is 12 random bytes, fresh for every sealing; no key or plaintext in `repr`, errors or logs. A purpose's key seals
far fewer than the 2^32 messages that NIST SP 800-38D, 8.3 allows with random nonces.

Left to others: where the at-rest key comes from (`config`), deleting what is no longer needed (each role).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agency_node.errors import StoreError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_LABEL: Final = b"sealmatch-1/at-rest/"


class Vault:
    """Seals and opens blobs under one at-rest key."""

    __slots__ = ("_ciphers", "_key")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise StoreError(f"an at-rest key has {KEY_BYTES} bytes: restore keys/at-rest.key from its backup")
        self._key = key
        self._ciphers: dict[str, AESGCM] = {}

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

    def open(self, purpose: str, sealed: bytes, bound_to: bytes = b"") -> bytes:
        """Inverse of `seal`; `StoreError` for anything that this vault did not seal for this purpose."""
        try:
            return self._cipher(purpose).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                f"a stored {purpose} does not open under this node's at-rest key: the store was changed or mixed up"
            ) from error

    def tag(self, purpose: str, value: bytes) -> bytes:
        """A keyed 32-byte tag by which equal values are found again without standing in the store."""
        return HKDF(hashes.SHA256(), KEY_BYTES, self._key, _LABEL + b"tag/" + purpose.encode("ascii") + b"/" + value).derive(self._key)

    def _cipher(self, purpose: str) -> AESGCM:
        if purpose not in self._ciphers:
            derived = HKDF(hashes.SHA256(), KEY_BYTES, None, _LABEL + purpose.encode("ascii")).derive(self._key)
            self._ciphers[purpose] = AESGCM(derived)
        return self._ciphers[purpose]

    def __repr__(self) -> str:
        return "Vault(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a vault is not pickled")
