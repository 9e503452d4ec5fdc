"""The Merkle tree against published vectors, against an independent implementation, and against whoever forges a proof."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from crypto.errors import ConsistencyError, InclusionError, MisuseError
from crypto.ledger import (
    EMPTY_ROOT,
    MAX_TREE_SIZE,
    MerkleTree,
    StateTree,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
)

# The eight-leaf tree of the Certificate Transparency reference implementation; leaves and roots as printed in
# transparency-dev/merkle, testonly/constants.go (LeafInputs, RootHashes), proofs in its proof/verify_test.go.
CT_LEAVES = tuple(
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
)
CT_ROOTS = tuple(
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
)
CT_INCLUSION = {  # (index from zero, size): proof
    (0, 1): (),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CT_CONSISTENCY = {  # (old size, new size): proof
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
    (6, 7): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
}

LARGEST = 40
"""Every tree up to this size is compared with the independent implementation."""
SOME_HASH = leaf_hash(b"something else")


@cache
def tree() -> MerkleTree:
    return MerkleTree(leaf_hash(leaf) for leaf in leaves())


@cache
def leaves() -> tuple[bytes, ...]:
    return tuple(b"leaf %d" % number for number in range(LARGEST))


@cache
def peer() -> InmemoryTree:
    other = InmemoryTree(algorithm="sha256")
    other.append_entries(leaves())
    return other


def refused_inclusion(leaf: bytes, index: int, size: int, proof: tuple[bytes, ...], root: bytes) -> None:
    with pytest.raises(InclusionError):
        check_inclusion(leaf, index, size, proof, root)


def refused_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: tuple[bytes, ...]) -> None:
    with pytest.raises(ConsistencyError):
        check_consistency(old_size, old_root, new_size, new_root, proof)


def bit_flips(proof: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """The proof with one bit flipped, in turn in each byte of each hash."""
    flipped = []
    for place, digest in enumerate(proof):
        for at in range(len(digest)):
            changed = bytearray(digest)
            changed[at] ^= 1 << (at % 8)
            flipped.append((*proof[:place], bytes(changed), *proof[place + 1 :]))
    return flipped


# --- published vectors ---------------------------------------------------------------------------------------------


def test_roots_are_the_published_ones() -> None:
    hashes = [leaf_hash(leaf) for leaf in CT_LEAVES]
    grown = MerkleTree()
    assert grown.root() == CT_ROOTS[0] == EMPTY_ROOT
    for size, digest in enumerate(hashes, 1):
        assert grown.append(digest) == size - 1
        assert grown.root() == CT_ROOTS[size] == MerkleTree(hashes[:size]).root()
    assert [grown.root(size) for size in range(9)] == list(CT_ROOTS)


@given(st.integers(0, 40), st.data())
def test_a_state_tree_is_as_if_made_anew(size: int, data: st.DataObject) -> None:
    """Leaves that were replaced and leaves behind the last, and the tree that they were replaced in stays as it was."""
    before = [leaf_hash(bytes([place])) for place in range(size)]
    added = data.draw(st.integers(0, 5))
    places = data.draw(st.sets(st.integers(0, size - 1))) if size else set()
    changes = {place: leaf_hash(b"new" + bytes([place])) for place in {*places, *range(size, size + added)}}
    tree = StateTree(before)
    changed = tree.replaced(changes)
    after = [changes.get(place, leaf) for place, leaf in enumerate(before)] + [changes[size + place] for place in range(added)]
    assert changed.root() == MerkleTree(after).root()
    assert changed.size == len(after)
    grown = MerkleTree()
    for leaf in after:
        grown.append(leaf)
    assert grown.root() == changed.root()
    assert tree.root() == MerkleTree(before).root()


def test_a_state_tree_takes_leaf_hashes_at_its_places_only() -> None:
    tree = StateTree(map(leaf_hash, CT_LEAVES))
    for changes in ({9: leaf_hash(b"")}, {-1: leaf_hash(b"")}, {0: b"short"}, {8: b"short"}):
        with pytest.raises(MisuseError, match="leaf hash"):
            tree.replaced(changes)
    with pytest.raises(MisuseError, match="leaf hash"):
        MerkleTree([b"short"])


@pytest.mark.parametrize(("place", "proof"), CT_INCLUSION.items())
def test_inclusion_proofs_are_the_published_ones(place: tuple[int, int], proof: tuple[str, ...]) -> None:
    index, size = place
    hashes = tuple(bytes.fromhex(text) for text in proof)
    assert MerkleTree(map(leaf_hash, CT_LEAVES)).inclusion_proof(index, size) == hashes
    check_inclusion(leaf_hash(CT_LEAVES[index]), index, size, hashes, CT_ROOTS[size])


@pytest.mark.parametrize(("sizes", "proof"), CT_CONSISTENCY.items())
def test_consistency_proofs_are_the_published_ones(sizes: tuple[int, int], proof: tuple[str, ...]) -> None:
    old, new = sizes
    hashes = tuple(bytes.fromhex(text) for text in proof)
    assert MerkleTree(map(leaf_hash, CT_LEAVES)).consistency_proof(old, new) == hashes
    check_consistency(old, CT_ROOTS[old], new, CT_ROOTS[new], hashes)


def test_node_hash_begins_with_its_own_prefix() -> None:
    assert node_hash(leaf_hash(b""), leaf_hash(b"\x00")) == CT_ROOTS[2]
    assert leaf_hash(leaf_hash(b"") + leaf_hash(b"\x00")) != CT_ROOTS[2]  # the second preimage that the prefixes prevent


# --- an independent implementation ---------------------------------------------------------------------------------


def test_roots_and_inclusion_proofs_equal_those_of_pymerkle() -> None:
    for size in range(1, LARGEST + 1):
        root = peer().get_root(size)
        assert tree().root(size) == root
        for index in range(size):
            theirs = tuple(peer().prove_inclusion(index + 1, size).path[1:])  # theirs begins with the leaf itself
            assert tree().inclusion_proof(index, size) == theirs
            check_inclusion(leaf_hash(leaves()[index]), index, size, theirs, root)


def as_rfc_9162(path: list[bytes], subset: list[int], old: int) -> tuple[bytes, ...]:
    """A consistency proof of pymerkle 7 in the RFC's layout.

    Where the old tree ends at a node, pymerkle goes on down to the leaf to the right of that end and lists the hashes on the way, which
    are not in the old tree (`subset` 0); the RFC stops there and needs one hash for that side.
    """
    at, right = 1, path[0]
    while not subset[at]:
        right, at = node_hash(right, path[at]), at + 1
    end = () if old & (old - 1) == 0 else (path[at],)  # left out when it is the old root itself
    return (*end, right, *path[at + 1 :])


def test_consistency_proofs_equal_those_of_pymerkle() -> None:
    for new in range(1, LARGEST + 1):
        for old in range(1, new):
            proof = peer().prove_consistency(old, new)
            theirs = as_rfc_9162(proof.path, proof.subset, old)
            assert tree().consistency_proof(old, new) == theirs
            check_consistency(old, peer().get_root(old), new, peer().get_root(new), theirs)
        check_consistency(new, tree().root(new), new, tree().root(new), tree().consistency_proof(new, new))
        check_consistency(0, EMPTY_ROOT, new, tree().root(new), tree().consistency_proof(0, new))


def test_proofs_equal_the_recursive_definitions_of_the_rfc() -> None:
    """The slow twin: MTH, PATH and SUBPROOF of RFC 9162 sections 2.1.1, 2.1.3.1 and 2.1.4.1 as they are written there."""

    def split(count: int) -> int:
        return max(1 << power for power in range(count.bit_length()) if 1 << power < count)

    def mth(data: tuple[bytes, ...]) -> bytes:
        if len(data) == 1:
            return leaf_hash(data[0])
        k = split(len(data))
        return node_hash(mth(data[:k]), mth(data[k:]))

    def path(m: int, data: tuple[bytes, ...]) -> tuple[bytes, ...]:
        if len(data) == 1:
            return ()
        k = split(len(data))
        return (*path(m, data[:k]), mth(data[k:])) if m < k else (*path(m - k, data[k:]), mth(data[:k]))

    def subproof(m: int, data: tuple[bytes, ...], whole: bool) -> tuple[bytes, ...]:
        if m == len(data):
            return () if whole else (mth(data),)
        k = split(len(data))
        if m <= k:
            return (*subproof(m, data[:k], whole), mth(data[k:]))
        return (*subproof(m - k, data[k:], False), mth(data[:k]))

    for size in range(1, 20):
        data = leaves()[:size]
        assert tree().root(size) == mth(data)
        for number in range(size):
            assert tree().inclusion_proof(number, size) == path(number, data)
            assert tree().consistency_proof(number + 1, size) == subproof(number + 1, data, True)


def test_our_proofs_convince_pymerkle() -> None:
    for size in (1, 2, 7, 8, 33, LARGEST):
        for index in range(size):
            proof = peer().prove_inclusion(index + 1, size)  # gives the shape; the hashes are ours
            proof.path = [tree().leaf(index), *tree().inclusion_proof(index, size)]
            proof.verify(leaf_hash(leaves()[index]), peer().get_root(size))


# --- forged inclusion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13])
def test_every_forged_inclusion_is_refused(size: int) -> None:
    root = tree().root(size)
    for index in range(size):
        leaf, proof = tree().leaf(index), tree().inclusion_proof(index, size)
        for other in {-1, index - 1, index + 1, index ^ 1, index ^ 2, index + size, size, MAX_TREE_SIZE} - {index}:
            refused_inclusion(leaf, other, size, proof, root)
        for wrong_size in {0, -1, index, size * 4, MAX_TREE_SIZE + 1}:
            refused_inclusion(leaf, index, wrong_size, proof, root)
        refused_inclusion(SOME_HASH, index, size, proof, root)
        refused_inclusion(leaf, index, size, proof, SOME_HASH)
        refused_inclusion(leaf, index, size, (*proof, SOME_HASH), root)
        refused_inclusion(leaf, index, size, (*proof, root), root)
        refused_inclusion(leaf, index, size, (SOME_HASH, *proof), root)
        if proof:
            refused_inclusion(leaf, index, size, proof[:-1], root)
            refused_inclusion(leaf, index, size, proof[1:], root)
        if len(set(proof)) > 1:
            refused_inclusion(leaf, index, size, proof[::-1], root)
        for forged in bit_flips(proof):
            refused_inclusion(leaf, index, size, forged, root)


def test_a_node_does_not_pass_for_a_leaf() -> None:
    node = node_hash(tree().leaf(0), tree().leaf(1))
    refused_inclusion(node, 0, 4, tree().inclusion_proof(0, 4)[1:], tree().root(4))
    refused_inclusion(tree().root(4), 0, 4, (), tree().root(4))


def test_a_leaf_of_a_larger_tree_is_refused_for_the_size_claimed() -> None:
    """Every hash of these proofs is right; the tree has two leaves and one is claimed, or five and four are."""
    refused_inclusion(tree().leaf(1), 0, 1, (tree().leaf(0),), tree().root(2))
    refused_inclusion(tree().leaf(4), 3, 4, tree().inclusion_proof(4, 5), tree().root(5))
    refused_inclusion(tree().leaf(0), 0, 4, tree().inclusion_proof(0, 5), tree().root(5))


def test_sizes_up_to_the_largest_are_checked() -> None:
    assert MAX_TREE_SIZE == 2**63 - 1
    proof = tuple(leaf_hash(b"sibling %d" % height) for height in range(63))
    root = leaf = tree().leaf(0)
    for sibling in proof:
        root = node_hash(root, sibling)
    check_inclusion(leaf, 0, MAX_TREE_SIZE, proof, root)
    refused_inclusion(leaf, 0, MAX_TREE_SIZE + 1, proof, root)
    check_consistency(MAX_TREE_SIZE, root, MAX_TREE_SIZE, root, ())
    refused_consistency(MAX_TREE_SIZE + 1, root, MAX_TREE_SIZE + 1, root, ())


def test_hashes_of_another_length_are_refused() -> None:
    leaf, proof, root = tree().leaf(2), tree().inclusion_proof(2, 7), tree().root(7)
    refused_inclusion(leaf[:-1], 2, 7, proof, root)
    refused_inclusion(leaf, 2, 7, proof, root[:-1])
    # Joined, the two hashes below this node read the same as the honest ones: only their lengths differ.
    refused_inclusion(leaf + proof[0][:1], 2, 7, (proof[0][1:], *proof[1:]), root)
    refused_inclusion(leaf, 2, 7, (*proof[:-1], proof[-1] + b"\x00"), root)
    refused_inclusion(leaf, 2, 7, (b"", *proof), root)


# --- forged history ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [2, 3, 7, 8, 13])
def test_every_forged_consistency_is_refused(new: int) -> None:
    new_root = tree().root(new)
    for old in range(1, new):
        old_root, proof = tree().root(old), tree().consistency_proof(old, new)
        refused_consistency(new, new_root, old, old_root, proof)  # sizes and roots swapped
        refused_consistency(old, new_root, new, old_root, proof)  # roots swapped
        for wrong_old in {-1, 0, old - 1, old + 1, old ^ 1, new} - {old}:
            refused_consistency(wrong_old, old_root, new, new_root, proof)
        for wrong_new in {0, old, old - 1, new * 4, MAX_TREE_SIZE + 1}:
            refused_consistency(old, old_root, wrong_new, new_root, proof)
        refused_consistency(old, SOME_HASH, new, new_root, proof)
        refused_consistency(old, old_root, new, SOME_HASH, proof)
        refused_consistency(old, old_root, new, new_root, ())
        refused_consistency(old, old_root, new, new_root, (*proof, SOME_HASH))
        refused_consistency(old, old_root, new, new_root, (old_root, *proof))
        refused_consistency(old, old_root, new, new_root, (*proof, new_root))
        refused_consistency(old, old_root, new, new_root, proof[:-1])
        refused_consistency(old, old_root, new, new_root, proof[1:])
        for forged in bit_flips(proof):
            refused_consistency(old, old_root, new, new_root, forged)


def test_a_fork_has_no_consistency_proof() -> None:
    """A log that rewrote leaf 3 proves each history to itself and neither to the other."""
    forked = MerkleTree([*(tree().leaf(index) for index in range(3)), SOME_HASH, *(tree().leaf(index) for index in range(4, 11))])
    for old in range(4, 11):
        refused_consistency(old, tree().root(old), 11, forked.root(11), forked.consistency_proof(old, 11))
        refused_consistency(old, forked.root(old), 11, tree().root(11), tree().consistency_proof(old, 11))
    refused_consistency(11, tree().root(11), 11, forked.root(11), ())
    for old in range(4):
        check_consistency(old, tree().root(old), 11, forked.root(11), forked.consistency_proof(old, 11))


def test_the_empty_log_has_one_root_and_an_empty_proof() -> None:
    check_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, ())
    refused_consistency(0, SOME_HASH, 5, tree().root(5), ())
    refused_consistency(0, SOME_HASH, 0, SOME_HASH, ())
    refused_consistency(0, EMPTY_ROOT, 0, SOME_HASH, ())
    refused_consistency(0, EMPTY_ROOT, 5, tree().root(5), (SOME_HASH,))
    refused_consistency(5, tree().root(5), 5, tree().root(5), (SOME_HASH,))


def test_consistency_hashes_of_another_length_are_refused() -> None:
    proof = tree().consistency_proof(3, 7)
    refused_consistency(3, tree().root(3)[:-1], 7, tree().root(7), proof)
    refused_consistency(3, tree().root(3), 7, tree().root(7) + b"\x00", proof)
    refused_consistency(3, tree().root(3), 7, tree().root(7), (proof[0] + proof[1][:1], proof[1][1:], *proof[2:]))
    refused_consistency(7, b"", 7, b"", ())


# --- our own callers, size, generated trees ------------------------------------------------------------------------


def test_a_tree_refuses_what_it_does_not_hold() -> None:
    held = MerkleTree(map(leaf_hash, CT_LEAVES))
    for wrong in (
        lambda: held.append(b"not a hash"),
        lambda: held.leaf(8),
        lambda: held.leaf(-1),
        lambda: held.root(9),
        lambda: held.root(-1),
        lambda: held.inclusion_proof(8),
        lambda: held.inclusion_proof(-1),
        lambda: held.inclusion_proof(5, 5),
        lambda: held.inclusion_proof(0, 9),
        lambda: held.consistency_proof(6, 5),
        lambda: held.consistency_proof(-1),
        lambda: held.consistency_proof(1, 9),
    ):
        with pytest.raises(MisuseError):
            wrong()
    assert held.size == 8
    assert held.root() == CT_ROOTS[8]


def test_a_hundred_thousand_leaves_append_and_prove_fast() -> None:
    """Not a benchmark: appending or proving in quadratic time would take minutes."""
    size = 100_000
    began = time.monotonic()
    big = MerkleTree(leaf_hash(number.to_bytes(4, "big")) for number in range(size))
    root = big.root()
    for index in range(0, size, 97):
        check_inclusion(big.leaf(index), index, size, big.inclusion_proof(index), root)
        check_consistency(index, big.root(index), size, root, big.consistency_proof(index))
    assert time.monotonic() - began < 30


@given(data=st.data(), sizes=st.lists(st.integers(0, 300), min_size=2, max_size=4).map(sorted))
def test_proofs_hold_in_generated_trees(data: st.DataObject, sizes: list[int]) -> None:
    grown = MerkleTree(leaf_hash(b"%d" % number) for number in range(sizes[-1]))
    for old, new in pairwise(sizes):
        check_consistency(old, grown.root(old), new, grown.root(new), grown.consistency_proof(old, new))
    if sizes[-1]:
        index = data.draw(st.integers(0, sizes[-1] - 1))
        check_inclusion(grown.leaf(index), index, sizes[-1], grown.inclusion_proof(index), grown.root())


_hashes = st.binary(min_size=32, max_size=32) | st.sampled_from([EMPTY_ROOT, SOME_HASH]) | st.binary(max_size=40)


@given(st.integers(), st.integers(), _hashes, _hashes, st.lists(_hashes, max_size=70))
def test_garbage_for_a_proof_is_refused_in_our_own_words(first: int, second: int, one: bytes, two: bytes, proof: list[bytes]) -> None:
    # Only the trees of one leaf and the histories that need no proof hold by accident; everything else is refused, and by no other error.
    if (first, second, proof) == (0, 1, []) and one == two and len(one) == 32:
        check_inclusion(one, first, second, proof, two)
    else:
        with pytest.raises(InclusionError):
            check_inclusion(one, first, second, proof, two)
    with suppress(ConsistencyError):
        check_consistency(first, one, second, two, proof)
        assert not proof
        assert first in (0, second)
