"""The root set: the keys that sign the roster, each held by another agency, and how many of them it takes.

Its fingerprint is the one thing that a node is told by a way that the broker does not control. Invariants: holders and keys are distinct,
and the threshold is more than half of the keys, so that no two disjoint groups can sign two rosters of one version. What a threshold of
signatures then means, and how one root set hands over to the next, is left to `roster`.

The fingerprint is SHA-256 of `sealmatch-1/root-set`, a line feed and the canonical JSON of the roster's `root` member.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from crypto.canonical import AgencyId, JsonObject, JsonValue, b64url_encode, canonical_json
from crypto.errors import FieldError
from crypto.fields import Fields, check_ascending, check_range
from crypto.keys import VerifyingKey

MAX_ROOT_KEYS: Final = 16
_ROOT_SET_LABEL: Final = b"sealmatch-1/root-set\n"


@dataclass(frozen=True)
class RootKey:
    """A root key and the agency that holds it."""

    holder: AgencyId
    key: VerifyingKey

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        return {"holder": str(self.holder), "key": b64url_encode(self.key.raw)}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        root_key = cls(fields.name("holder", AgencyId), VerifyingKey(fields.data("key")))
        fields.close()
        return root_key


@dataclass(frozen=True)
class RootSet:
    """The root keys, in ascending order of their distinct holders, and how many of them must sign a roster.

    The constructor raises `FieldError`, also for a threshold that is not more than half.
    """

    keys: tuple[RootKey, ...]
    threshold: int

    def __post_init__(self) -> None:
        check_ascending([root.holder for root in self.keys], 1, MAX_ROOT_KEYS, "root.keys")
        check_range(self.threshold, len(self.keys) // 2 + 1, len(self.keys), "root.threshold")
        if len({root.key for root in self.keys}) != len(self.keys):
            raise FieldError("root.keys names one key twice")

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that a node is told at `init`, by a way that the broker does not control."""
        return hashlib.sha256(_ROOT_SET_LABEL + canonical_json(self.to_json())).digest()

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        keys: list[JsonValue] = [root.to_json() for root in self.keys]
        return {"keys": keys, "threshold": self.threshold}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Inverse of `to_json`."""
        root_set = cls(tuple(RootKey.from_fields(child) for child in fields.children("keys")), fields.integer("threshold"))
        fields.close()
        return root_set
