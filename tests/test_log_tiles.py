"""Tiles: the examples of C2SP's text, the published tree, an independent reader over files and over the broker's routes, and bad paths."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.config import Limits
from crypto.checkpoint import SignedCheckpoint
from crypto.entries import EntryKind
from crypto.errors import CryptoError, FieldError, MisuseError, TileError
from crypto.ledger import MerkleTree
from crypto.ledger import leaf_hash as our_leaf_hash
from crypto.tiles import TILE_WIDTH, TilePath, pack_entries, tile_bytes, tile_hashes, tiles_of, unpack_entries
from crypto.witness import check_checkpoint
from tests.broker_world import LOG_KEY, ROSTER, World, cosignature_note, entry_of, open_world, problem
from tests.sample_federation import BOARD, NORTHPORT_BOARD, NOW, OVERSIGHT, digest
from tests.test_ledger import CT_LEAVES, CT_ROOTS
from tests.tile_reader import TileReader, leaf_hash, root_from_path


def files_of(leaves: list[bytes], size: int | None = None) -> dict[str, bytes]:
    """Every tile and bundle of a log, by path."""
    tree = MerkleTree(map(our_leaf_hash, leaves))
    found = {}
    for path in tiles_of(len(leaves) if size is None else size):
        made = pack_entries(leaves[path.start : path.start + path.width]) if path.level is None else tile_bytes(tree, path)
        found[str(path)] = made
    return found


def reader_of(leaves: list[bytes]) -> TileReader:
    tree = MerkleTree(map(our_leaf_hash, leaves))
    files = {**files_of(leaves), "checkpoint": b"log.example.org\n%d\n%s\n\n" % (len(leaves), base64.b64encode(tree.root()))}
    return TileReader(lambda path: files[path])


# --- the text's own examples ------------------------------------------------------------------------------------------


def test_paths_are_spelled_as_the_text_spells_them() -> None:
    assert str(TilePath(0, 1234067)) == "tile/0/x001/x234/067"
    assert str(TilePath(None, 67, 12)) == "tile/entries/067.p/12"
    for path in (TilePath(0, 1234067), TilePath(63, 0, 1), TilePath(None, 999), TilePath(None, 1000, 255), TilePath(2, 0)):
        assert TilePath.from_text(str(path)) == path


def test_a_log_of_70000_and_one_of_256_have_the_tiles_that_the_text_counts() -> None:
    hashes = [path for path in tiles_of(70_000) if path.level is not None]
    assert sum(path.level == 0 and path.is_full for path in hashes) == 273
    assert [str(path) for path in hashes if not path.is_full] == ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]
    assert [str(path) for path in hashes if path.level == 1 and path.is_full] == ["tile/1/000"]
    assert [str(path) for path in tiles_of(256)] == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert list(tiles_of(0)) == []


@pytest.mark.parametrize(
    "text",
    [
        "tile/0/0", "tile/0/00", "tile/0/0000", "tile/00/000", "tile/01/000", "tile/64/000", "tile/-1/000", "tile/0/x000/000",
        "tile/0/001/000", "tile/0/x001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000.p/1/",
        "tile/0/../000", "tile/entries/", "tile/Entries/000", "tile/0/000\n", "/tile/0/000", "tile/0/" + "x999/" * 6 + "999", "",
        "tile/0/٠٠٠", "tile/0/000.p/٣",
    ],
)  # fmt: skip
def test_every_other_path_is_refused(text: str) -> None:
    with pytest.raises(FieldError):
        TilePath.from_text(text)


def test_a_tile_or_bundle_of_another_length_is_refused() -> None:
    entries = [b"one", b"", b"three"]
    packed = pack_entries(entries)
    assert packed == b"\x00\x03one\x00\x00\x00\x05three"
    assert unpack_entries(packed, 3) == entries
    for data, width in ((packed, 2), (packed, 4), (packed[:-1], 3), (packed + b"\x00", 3), (b"\x00", 1), (b"", 1)):
        with pytest.raises(TileError):
            unpack_entries(data, width)
    assert tile_hashes(bytes(64), 2) == [bytes(32)] * 2
    for data, width in ((bytes(64), 1), (bytes(63), 2), (b"", 1)):
        with pytest.raises(TileError):
            tile_hashes(data, width)


def test_a_tile_that_the_tree_has_not_is_a_misuse() -> None:
    tree = MerkleTree(map(our_leaf_hash, CT_LEAVES))
    for path in (TilePath(0, 0, 9), TilePath(1, 0, 1), TilePath(None, 0, 1)):
        with pytest.raises(MisuseError):
            tile_bytes(tree, path)


# --- an independent reader --------------------------------------------------------------------------------------------


def test_the_reader_finds_the_published_roots_in_our_tiles() -> None:
    """The Certificate Transparency reference tree of eight leaves (tests/test_ledger.py says where it is published)."""
    for size in range(1, len(CT_LEAVES) + 1):
        reader = reader_of(list(CT_LEAVES[:size]))
        assert reader.checkpoint().root == reader.root() == CT_ROOTS[size]
        assert reader.entries() == list(CT_LEAVES[:size])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 1000, 65_536, 65_537, 70_000])
def test_the_reader_finds_every_size_s_root_and_paths(size: int) -> None:
    leaves = [b"leaf %d" % number for number in range(size)]
    reader = reader_of(leaves)
    head = reader.checkpoint()
    assert reader.root() == head.root == MerkleTree(map(our_leaf_hash, leaves)).root()
    assert reader.entries() == leaves
    tree = MerkleTree(map(our_leaf_hash, leaves))
    for index in {0, size // 2, size - 1}:
        path = reader.inclusion_path(index)
        assert tuple(path) == tree.inclusion_proof(index)
        assert root_from_path(leaf_hash(leaves[index]), index, size, path) == head.root


def test_a_partial_tile_is_the_beginning_of_the_full_one() -> None:
    leaves = [b"leaf %d" % number for number in range(600)]
    early, late = files_of(leaves[:300]), files_of(leaves)
    assert early["tile/0/000"] == late["tile/0/000"]
    assert late["tile/0/001"].startswith(early["tile/0/001.p/44"])
    assert late["tile/entries/001"].startswith(early["tile/entries/001.p/44"])


# --- the broker's routes ----------------------------------------------------------------------------------------------

LEAVES = 300


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, limits=Limits(look_again_s=0.05)) as made:
        log = made.services.log
        async with made.services.store.writing() as connection:
            for number in range(LEAVES):
                await log.append(connection, entry_of(EntryKind.ANSWER, digest(f"grant {number}"), BOARD), digest(f"grant {number}"))
        await log.publish()
        yield made


async def cosign(world: World, *agencies: object) -> SignedCheckpoint:
    note = await world.head()
    for agency in agencies:
        with_line = cosignature_note(note, agency, world.now)  # type: ignore[arg-type]
        reply = await world.ask("POST", "/v1/log/cosignatures", agency=agency, body=with_line.to_bytes())  # type: ignore[arg-type]
        assert reply.status_code == 200
    return await world.head()


async def test_others_read_the_brokers_log_by_its_tiles(world: World) -> None:
    """Every file comes by the standard paths, unsigned; whoever has the log's key needs nothing of ours."""
    await cosign(world, BOARD, OVERSIGHT)
    fetched: dict[str, bytes] = {}
    for path in ["checkpoint", *map(str, tiles_of(LEAVES))]:
        reply = await world.ask("GET", f"/{path}", agency=None)
        assert reply.status_code == 200
        immutable = "immutable" in reply.headers["cache-control"]
        assert immutable == path.startswith("tile/")
        assert reply.headers["content-type"] == ("application/octet-stream" if immutable else "text/plain; charset=utf-8")
        fetched[path] = reply.content
    reader = TileReader(fetched.__getitem__)
    head = reader.checkpoint()
    reader.check_log_signature(head, LOG_KEY.verifying_key.raw)
    assert (head.size, head.root) == (LEAVES, reader.root())
    assert [leaf_hash(data) for data in reader.entries()] == [leaf_hash(data) for _, data in await all_leaves(world)]


async def all_leaves(world: World) -> list[tuple[int, bytes]]:
    _, leaves = await world.services.log.leaves_from(0, 10_000)
    return list(enumerate(leaves))


async def test_the_public_checkpoint_is_one_that_a_majority_cosigned(world: World) -> None:
    """Before there is one there is none: a head that only the log signed proves nothing to strangers."""
    assert problem(await world.ask("GET", "/checkpoint", agency=None)) == (404, "checkpoint-not-yet")
    await cosign(world, NORTHPORT_BOARD)
    assert problem(await world.ask("GET", "/checkpoint", agency=None)) == (404, "checkpoint-not-yet")
    await cosign(world, BOARD)
    shown = SignedCheckpoint.from_bytes((await world.ask("GET", "/checkpoint", agency=None)).content)
    check_checkpoint(shown, ROSTER.public_policy(), now=NOW)
    await world.grant()  # a newer head, which nobody cosigned
    assert SignedCheckpoint.from_bytes((await world.ask("GET", "/checkpoint", agency=None)).content) == shown


async def test_the_operators_own_witness_does_not_make_the_majority_of_the_public_checkpoint(world: World) -> None:
    await cosign(world, BOARD, OVERSIGHT)
    assert await world.services.log.checkpoint(0, 2) is not None
    assert await world.services.log.checkpoint(0, 2, BOARD) is None


@pytest.mark.parametrize(
    "path", ["tile/0/002", "tile/0/001.p/45", "tile/0/001", "tile/1/000.p/2", "tile/2/000.p/1", "tile/entries/001.p/45"]
)
async def test_a_tile_that_no_head_has_is_not_handed_out(world: World, path: str) -> None:
    assert problem(await world.ask("GET", f"/{path}", agency=None)) == (404, "not-found")


@pytest.mark.parametrize(
    "path", ["tile/0/0", "tile/x/000", "tile/0/000.p/256", "tile/0/%2e%2e/000", "tile/" + "x999/" * 30 + "000", "tile/"]
)
async def test_an_address_that_is_no_tiles_is_refused(world: World, path: str) -> None:
    assert problem(await world.ask("GET", f"/{path}", agency=None))[0] in {400, 404}


async def test_a_leaf_that_no_head_covers_is_in_no_bundle(world: World) -> None:
    """It stands in the store, and its promise is still on the way to the disk."""
    async with world.services.store.writing() as connection:
        await world.services.log.append(connection, entry_of(EntryKind.ANSWER, digest("late"), BOARD), digest("late"))
    assert problem(await world.ask("GET", "/tile/entries/001.p/45", agency=None)) == (404, "not-found")
    await world.services.log.publish()
    assert (await world.ask("GET", "/tile/entries/001.p/45", agency=None)).status_code == 200


def test_all_tiles_fit_their_width() -> None:
    assert TILE_WIDTH == 256
    with pytest.raises(CryptoError):
        TilePath(0, 0, 257)
