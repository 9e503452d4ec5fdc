"""A gallery's records as a tree in the order of their places: under one root every record number is shown held or not held, never both.

The tree is the binary trie of all places (`places`). The ten topmost levels are always there and end in 1,024 buckets; below them a subtree
without a record is `NO_RECORD`, one with a single record is that record's leaf, one with several is `node_hash` of its halves. So a place
has one path, given by its bits, and the path ends in one thing: the record's own leaf, another record's, or none. That makes absence
provable: the end of the path is shown, and it is not the record. (Two neighbours in a sorted list would show as much only of a list that is
really sorted; here a tree in disorder proves nothing for anybody.)

A leaf shows a place and a salted commitment to number, source class and day. Who sees it learns neither. Invariants: leaf, `NO_RECORD` and
inner node are never of one hash (RFC 9162's unlike first bytes, and unlike lengths); a changed record costs its bucket and ten hashes.

Left to others: keeping places and buckets (`agency_node.holder.register`), who signs the root (`record_manifest`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from crypto.canonical import canonical_json
from crypto.entries import FieldOpening, FieldType, commit_field
from crypto.errors import AbsenceError, MisuseError
from crypto.fields import check_digest
from crypto.ledger import HASH_BYTES, leaf_hash, node_hash
from crypto.places import PLACE_BYTES, PlacesPublicKey

BUCKET_BITS: Final = 10
BUCKETS: Final = 1 << BUCKET_BITS
MAX_DEPTH: Final = 8 * PLACE_BYTES
GALLERY_RECORD: Final = FieldType("gallery-record")
_NAME_LABEL: Final = b"sealmatch-1/record-place\n"
_LEAF_LABEL: Final = b"sealmatch-1/record-leaf\n"
NO_RECORD: Final = leaf_hash(b"sealmatch-1/no-record\n")
"""The hash of a subtree without a record."""


@dataclass(frozen=True, slots=True, order=True)
class RecordLeaf:
    """A record in the tree: its place and the commitment to what it is, 32 bytes each. `FieldError` for other lengths."""

    place: bytes
    commitment: bytes

    def __post_init__(self) -> None:
        check_digest(self.place, "record-leaf.place")
        check_digest(self.commitment, "record-leaf.commitment")

    def hash(self) -> bytes:
        """Its hash in the tree."""
        return leaf_hash(_LEAF_LABEL + self.place + self.commitment)


@dataclass(frozen=True, slots=True)
class TreePath:
    """The way from the root to where a place ends: the other half of each level, from the root down, and what is there."""

    siblings: tuple[bytes, ...]
    end: RecordLeaf | None

    def root(self, place: bytes) -> bytes:
        """The root to which this path of that place leads."""
        digest = NO_RECORD if self.end is None else self.end.hash()
        for depth in range(len(self.siblings) - 1, -1, -1):
            sibling = self.siblings[depth]
            digest = node_hash(sibling, digest) if bit_of(place, depth) else node_hash(digest, sibling)
        return digest

    def check_absent(self, place: bytes, root: bytes) -> None:
        """Raise `AbsenceError` unless no record has this place in the tree with that root:

        1. the path is as long as paths are, and leads to the root
        2. another record that stands at its end belongs there, by the beginning of its place
        3. it is not the record itself
        """
        if not BUCKET_BITS <= len(self.siblings) <= MAX_DEPTH or any(len(one) != HASH_BYTES for one in self.siblings):
            raise AbsenceError("the path has no length that a gallery's tree has")
        if self.root(place) != root:  # 1
            raise AbsenceError("the path leads to another root than the manifest's")
        if self.end is None:
            return
        if any(bit_of(self.end.place, depth) != bit_of(place, depth) for depth in range(len(self.siblings))):  # 2
            raise AbsenceError("the record at the end of the path belongs elsewhere")
        if self.end.place == place:  # 3
            raise AbsenceError("the record is in the gallery")


def bit_of(place: bytes, depth: int) -> int:
    """The bit that leads left (0) or right (1) at that depth, the root's being 0."""
    return place[depth >> 3] >> (7 - (depth & 7)) & 1


def bucket_of(place: bytes) -> int:
    """The bucket of a place, its first ten bits: 0 to 1,023."""
    return int.from_bytes(place[:2]) >> (16 - BUCKET_BITS)


def name_of(record_number: str) -> bytes:
    """What the place of a record number is computed from."""
    return _NAME_LABEL + record_number.encode("utf-8")


def commit_record(salt: bytes, record_number: str, source_class: str, captured: date) -> bytes:
    """The commitment in a record's leaf, 32 bytes; the salt, 32 bytes, is the holder's and is shown to whoever may check this record."""
    content = canonical_json({"captured": captured.isoformat(), "record_number": record_number, "source_class": source_class})
    return commit_field(FieldOpening(salt, GALLERY_RECORD, content))


def bucket_hash(leaves: Sequence[RecordLeaf]) -> bytes:
    """The hash of one bucket's records, which stand in ascending order of their places."""
    return _Bucket(leaves).hash(0, len(leaves), BUCKET_BITS)


def check_number(key: PlacesPublicKey, record_number: str, proof: bytes, path: TreePath, root: bytes) -> None:
    """Raise `AbsenceError` unless place, path and root show that no record of that number is in the tree."""
    path.check_absent(key.check(name_of(record_number), proof), root)


class RecordTree:
    """The tree over all buckets: 1,024 hashes, those that were not given being empty."""

    def __init__(self, buckets: Mapping[int, bytes]) -> None:
        self._levels = [[buckets.get(number, NO_RECORD) for number in range(BUCKETS)]]
        while len(level := self._levels[-1]) > 1:
            self._levels.append([node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)])

    @property
    def root(self) -> bytes:
        """The root, 32 bytes."""
        return self._levels[-1][0]

    def path(self, place: bytes, bucket: Sequence[RecordLeaf]) -> TreePath:
        """The path of a place, whose bucket holds these records in ascending order."""
        number = bucket_of(place)
        above = [self._levels[height][(number >> height) ^ 1] for height in range(BUCKET_BITS - 1, -1, -1)]
        below, end = _Bucket(bucket).descend(place)
        path = TreePath((*above, *below), end)
        if path.root(place) != self.root:
            raise MisuseError("the bucket's records are not those that the tree was made of")
        return path


class _Bucket:
    """One bucket's records by place; half-open ranges of them are subtrees."""

    def __init__(self, leaves: Sequence[RecordLeaf]) -> None:
        self._leaves = leaves
        self._places = [one.place for one in leaves]
        if any(self._places[i] >= self._places[i + 1] for i in range(len(leaves) - 1)):
            raise MisuseError("a bucket's records stand in ascending order of their places, each once")

    def hash(self, first: int, last: int, depth: int) -> bytes:
        if first == last:
            return NO_RECORD
        if last - first == 1:
            return self._leaves[first].hash()
        middle = self._split(first, last, depth)
        return node_hash(self.hash(first, middle, depth + 1), self.hash(middle, last, depth + 1))

    def descend(self, place: bytes) -> tuple[list[bytes], RecordLeaf | None]:
        """The siblings below the bucket's top on the way to a place, and what is at its end."""
        first, last, depth = 0, len(self._leaves), BUCKET_BITS
        siblings: list[bytes] = []
        while last - first > 1:
            middle = self._split(first, last, depth)
            if bit_of(place, depth):
                siblings.append(self.hash(first, middle, depth + 1))
                first = middle
            else:
                siblings.append(self.hash(middle, last, depth + 1))
                last = middle
            depth += 1
        return siblings, self._leaves[first] if first < last else None

    def _split(self, first: int, last: int, depth: int) -> int:
        """Where the places with a 1 at that depth begin."""
        prefix = bytearray(self._places[first])
        prefix[depth >> 3] = prefix[depth >> 3] >> (7 - (depth & 7)) << (7 - (depth & 7)) | 1 << (7 - (depth & 7))
        prefix[(depth >> 3) + 1 :] = bytes(PLACE_BYTES - (depth >> 3) - 1)
        return bisect_left(self._places, bytes(prefix), first, last)
