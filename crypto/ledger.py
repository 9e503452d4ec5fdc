"""The Merkle tree of the transparency log: hashes, proofs and their verifiers (RFC 9162 section 2.1, SHA-256).

Invariants: a `check_*` function returns None or raises, and accepts a proof only in its one shape: no hash missing, none left over, each
32 bytes. Leaf and node hashes begin with unlike bytes, so no node passes for a leaf. The empty tree counts as the beginning of every
tree: its consistency proof is empty and its root is the hash of nothing.

What a leaf says is left to `entries`, who vouches for a root to `checkpoint`, where leaves are kept to the services. A proof that holds
proves membership or history, never that the root is the one which others see: that is what cosignatures are for.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from crypto.errors import ConsistencyError, InclusionError, MisuseError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Root of the tree without leaves (RFC 9162 section 2.1.1)."""
MAX_TREE_SIZE: Final = 2**63 - 1


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data), 32 bytes (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), 32 bytes (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """An append-only tree that keeps the hash of every complete subtree, so roots and proofs of any earlier size are cheap.

    `_levels[h][i]` is the hash of the 2^h leaves from i * 2^h on. Appending costs two hashes on average, a root or one step of a proof at
    most log2(size) hashes; memory is 64 bytes of hash a leaf. Arguments out of range are the caller's fault (`MisuseError`): sizes and
    indices that a peer asked for are compared with `size` first.
    """

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        level = list(leaf_hashes)
        if any(len(leaf) != HASH_BYTES for leaf in level):
            raise MisuseError(f"a leaf hash has {HASH_BYTES} bytes")
        self._levels = [level]
        while len(level) > 1:
            level = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]  # an odd last one waits
            self._levels.append(level)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> int:
        """Adds the 32-byte *leaf hash* (see `leaf_hash`) and returns its index."""
        if len(leaf) != HASH_BYTES:
            raise MisuseError(f"a leaf hash has {HASH_BYTES} bytes")
        index = place = self.size
        digest, height = leaf, 0
        self._levels[0].append(digest)
        while place & 1:  # a right child: its parent is complete now
            digest, place, height = node_hash(self._levels[height][place - 1], digest), place >> 1, height + 1
            if height == len(self._levels):
                self._levels.append([])
            self._levels[height].append(digest)
        return index

    def leaf(self, index: int) -> bytes:
        """The leaf hash at `index`."""
        if not 0 <= index < self.size:
            raise MisuseError("no leaf at that index")
        return self._levels[0][index]

    def subtree_roots(self, height: int, first: int, count: int) -> list[bytes]:
        """Roots of `count` subtrees of 2^height leaves each, from the subtree `first` on; all of them complete."""
        level = self._levels[height] if 0 <= height < len(self._levels) else []
        if first < 0 or count < 0 or first + count > len(level):
            raise MisuseError("the tree has not so many complete subtrees of that height")
        return level[first : first + count]

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves, of all by default (RFC 9162 section 2.1.1)."""
        size = self._known_size(size)
        return self._subtree(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The hashes that lead from leaf `index` to `root(size)`, from the leaf upwards (RFC 9162 section 2.1.3.1)."""
        size = self._known_size(size)
        if not 0 <= index < size:
            raise MisuseError("no leaf at that index in a tree of that size")
        start, width, siblings = 0, size, []
        while width > 1:
            left = _left_width(width)
            if index < start + left:
                siblings.append(self._subtree(start + left, width - left))
                width = left
            else:
                siblings.append(self._subtree(start, left))
                start, width = start + left, width - left
        return tuple(reversed(siblings))

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> tuple[bytes, ...]:
        """The hashes that show `root(old_size)` as the beginning of `root(new_size)` (RFC 9162 section 2.1.4.1)."""
        new_size = self._known_size(new_size)
        if not 0 <= old_size <= new_size:
            raise MisuseError("the old size lies between nothing and the new size")
        if old_size in (0, new_size):
            return ()
        # SUBPROOF of the RFC without the recursion: walk down to the node where the old tree ends, noting the siblings passed.
        start, width, siblings = 0, new_size, []
        while start + width != old_size:
            left = _left_width(width)
            if old_size <= start + left:
                siblings.append(self._subtree(start + left, width - left))
                width = left
            else:
                siblings.append(self._subtree(start, left))
                start, width = start + left, width - left
        if start:  # else that node is the old root itself, which the verifier has
            siblings.append(self._subtree(start, width))
        return tuple(reversed(siblings))

    def _known_size(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise MisuseError("the tree has not had that size")
        return size

    def _subtree(self, start: int, width: int) -> bytes:
        """MTH of leaves [start, start + width); `start` is a multiple of the largest power of two in `width`, as in every RFC split."""
        peaks = []
        while width:
            height = width.bit_length() - 1
            peaks.append(self._levels[height][start >> height])
            start, width = start + (1 << height), width - (1 << height)
        digest = peaks.pop()
        while peaks:
            digest = node_hash(peaks.pop(), digest)
        return digest


class StateTree(MerkleTree):
    """A tree over the parts of a state that changes, as a holder commits to its templates. A log's tree has no such method."""

    def replaced(self, changes: Mapping[int, bytes]) -> StateTree:
        """This tree with other leaf hashes at some places; one place behind the last may be new. Log2(size) hashes a place."""
        made = StateTree()
        made._levels = [level.copy() for level in self._levels]
        for index, leaf in sorted(changes.items()):
            if index == made.size:
                made.append(leaf)
            else:
                made._replace(index, leaf)
        return made

    def _replace(self, index: int, leaf: bytes) -> None:
        if not 0 <= index < self.size or len(leaf) != HASH_BYTES:
            raise MisuseError(f"a leaf hash of {HASH_BYTES} bytes replaces one that is there")
        self._levels[0][index] = leaf
        for below, level in itertools.pairwise(self._levels):
            index //= 2
            if index >= len(level):
                return
            level[index] = node_hash(below[2 * index], below[2 * index + 1])


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raises `InclusionError` unless `leaf` (a leaf hash) stands at `index` in the tree of `size` leaves with `root`.

    The procedure of RFC 9162 section 2.1.3.2, its steps numbered as there.
    """
    _check_hashes(InclusionError, leaf, root, *proof)
    # 1
    if not 0 <= index < size <= MAX_TREE_SIZE:
        raise InclusionError("index is outside the tree")
    # 2, 3
    place, last, digest = index, size - 1, leaf
    # 4
    for sibling in proof:
        if last == 0:
            raise InclusionError("inclusion proof is too long")
        if place & 1 or place == last:
            digest = node_hash(sibling, digest)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        place, last = place >> 1, last >> 1
    # 5
    if last != 0:
        raise InclusionError("inclusion proof is too short")
    if digest != root:
        raise InclusionError("inclusion proof leads to another root")


def check_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raises `ConsistencyError` unless the tree of `old_size` and `old_root` is the beginning of that of `new_size` and `new_root`.

    The procedure of RFC 9162 section 2.1.4.2, its steps numbered as there, after the cases that the RFC leaves out: equal sizes
    need equal roots, the empty tree has its one root, and both have an empty proof. A failure is a fork or a false proof: stop and
    report.
    """
    _check_hashes(ConsistencyError, old_root, new_root, *proof)
    _check_ends(old_size, old_root, new_size, new_root)
    if old_size in (0, new_size):
        if proof:
            raise ConsistencyError("this consistency proof must be empty")
        return
    # 1
    if not proof:
        raise ConsistencyError("consistency proof is empty")
    # 2
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    # 3, 4
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    # 5
    old_digest = new_digest = path[0]
    # 6
    for sibling in path[1:]:
        if last == 0:
            raise ConsistencyError("consistency proof is too long")
        if place & 1 or place == last:
            old_digest, new_digest = node_hash(sibling, old_digest), node_hash(sibling, new_digest)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new_digest = node_hash(new_digest, sibling)
        place, last = place >> 1, last >> 1
    # 7
    if last != 0:
        raise ConsistencyError("consistency proof is too short")
    if old_digest != old_root or new_digest != new_root:
        raise ConsistencyError("consistency proof leads to other roots")


def _check_ends(old_size: int, old_root: bytes, new_size: int, new_root: bytes) -> None:
    if not 0 <= old_size <= new_size <= MAX_TREE_SIZE:
        raise ConsistencyError("the log shrank, or a size is out of range")
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise ConsistencyError("the empty log has another root")
    if old_size == new_size and old_root != new_root:
        raise ConsistencyError("two roots for one size: the log forked")


def _left_width(width: int) -> int:
    """The largest power of two below `width` (k of RFC 9162 section 2.1.1); `width` is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _check_hashes(error: type[InclusionError | ConsistencyError], *hashes: bytes) -> None:
    if any(len(digest) != HASH_BYTES for digest in hashes):
        raise error(f"every hash of a proof has {HASH_BYTES} bytes")
