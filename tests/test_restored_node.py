"""What a restored node does not do again, with the nodes of a whole federation in this process: its store is put back to an earlier
moment by the backup's own steps, and the others know more than it does.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agency_node.backup.closing import begin_anew, close_copy
from agency_node.errors import StoreError
from agency_node.grants import ENDED
from agency_node.requester.leads import CLOSED
from agency_node.store import DATABASE_FILE, forget_deleted
from agency_node.tables import answers, held_grants, outbox, sealing_keys, searches
from crypto.notices import RefusalReason
from tests.node_samples import store
from tests.node_world import World, WorldNode, search_claims, the_refusal
from tests.sample_federation import LAKESIDE, NORTHPORT, OVERSIGHT


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    for agency in (NORTHPORT, LAKESIDE, OVERSIGHT):
        await made.node(agency)
    yield made
    made.close()


def copied(node: WorldNode) -> bytes:
    """A backup's copy of the node's store as it is now."""
    path = node.folder / "copy.sqlite"
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(node.folder / DATABASE_FILE)) as live, contextlib.closing(sqlite3.connect(path)) as target:
        live.backup(target)
    (node.folder / "copying").mkdir(exist_ok=True)
    path = path.replace(node.folder / "copying" / DATABASE_FILE)
    engine = store(path.parent)
    close_copy(engine)
    assert forget_deleted(engine)
    engine.dispose()
    return path.read_bytes()


async def put_back(node: WorldNode, copy: bytes, *, anew: bool = True) -> None:
    """The node ends, its store becomes the copy, and it starts again."""
    node.engine.dispose()
    for path in node.folder.glob(f"{DATABASE_FILE}*"):
        path.unlink()
    (node.folder / DATABASE_FILE).write_bytes(copy)
    node.engine = store(node.folder)
    if anew:
        begin_anew(node.engine, node.vault, node.clock(), node.clock)
    node.keyring = type(node.keyring)(node.folder, node.vault, node.engine, node.agency, node.clock)
    node.assemble()
    await node.start()


@pytest.mark.parametrize("anew", [True, False])
async def test_a_grant_that_was_answered_after_the_backup_is_not_answered_again(world: World, anew: bool) -> None:
    """The store knows nothing of it. `anew` False is the control: without the step of the restore the grant would be taken."""
    node = world.nodes[LAKESIDE]
    copy, content = copied(node), search_claims()
    await world.holder_with_grant(content)
    assert [row.state for row in node.rows(held_grants)] == ["standing"]
    await put_back(node, copy, anew=anew)
    again = world.grant(content, LAKESIDE)
    await world.hand_in(LAKESIDE, again)
    if anew:
        assert node.state_of(again)[0] == "refused"
        assert the_refusal(node, again) is RefusalReason.REPLAYED
        assert node.rows(held_grants, state="standing") == []
    else:
        assert node.state_of(again)[0] == "done"


async def test_a_grant_of_after_the_restore_is_answered(world: World) -> None:
    node = world.nodes[LAKESIDE]
    await world.released()
    version = node.index.manifest
    await put_back(node, copied(node))
    world.clock.pass_by(minutes=5)
    content = await world.released()
    assert [row.state for row in node.rows(answers, search_id=str(content.search_id))] == ["released"]
    assert version is not None
    assert node.index.manifest is not None
    assert node.index.manifest.version > version.version + 1000


async def test_a_requester_gets_no_search_key_back(world: World) -> None:
    """Of a search that ran when the backup was made, and has ended since; of a released one, and of a draft."""
    node = world.nodes[NORTHPORT]
    released, running = await world.released(), await world.granted()
    draft = await world.drafted()
    held = [row.sealed_search_key for row in node.rows(searches) if row.sealed_search_key is not None]
    private = [row.sealed_private for row in node.rows(sealing_keys) if row.use == str(released.search_id)]
    assert len(held) == 2  # the control: the running one and the draft
    assert private[0] is not None
    copy = copied(node)
    assert all(one not in copy for one in (*held, *private))
    await put_back(node, copy)
    assert {row.state for row in node.rows(searches)} == {CLOSED}
    assert [row for row in node.rows(searches) if row.sealed_search_key is not None or row.probe is not None] == []
    for search_id in (released.search_id, running.search_id, draft):
        with contextlib.suppress(StoreError):
            node.keyring.for_search(search_id)
            assert search_id != released.search_id
    assert node.rows(outbox, state="ready") == []


async def test_what_a_holder_had_in_hand_has_ended(world: World) -> None:
    node = await world.holder_with_grant(search_claims())
    copy = copied(node)
    assert [row.state for row in node.rows(held_grants)] == ["standing"]  # the node itself goes on
    await put_back(node, copy)
    assert [row.state for row in node.rows(held_grants)] == [ENDED]
