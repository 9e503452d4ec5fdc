"""Manifests and sealing keys at the broker: an agency's own, signed, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.canonical import AgencyId, SearchId
from crypto.keys import SealingPrivateKey
from crypto.request_signature import sign_request
from crypto.sealing_key import SealingKeyStatement, Week
from tests.broker_world import RECIPIENT_KEY, ROSTER, World, node_key, open_world, problem
from tests.sample_federation import BOARD, EASTFIELD, LAKESIDE, NORTHPORT, NOW, OVERSIGHT, manifest, sign_roster, signing_key, with_agency

MANIFEST = manifest()
WEEK = Week("2026-W48")
SEARCH = SearchId("ab" * 16)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        yield opened


async def put_manifest(world: World, document: bytes, agency: AgencyId = LAKESIDE) -> tuple[int, str]:
    reply = await world.ask("PUT", "/v1/statements/manifest", agency=agency, body=document)
    return (204, "") if reply.status_code == 204 else problem(reply)


async def put_key(world: World, document: bytes, agency: AgencyId = BOARD) -> tuple[int, str]:
    reply = await world.ask("PUT", "/v1/statements/sealing-key", agency=agency, body=document)
    return (204, "") if reply.status_code == 204 else problem(reply)


async def test_a_manifest_is_published_and_read_by_others(world: World) -> None:
    path = f"/v1/statements/manifest/{LAKESIDE}"
    assert problem(await world.ask("GET", path)) == (404, "not-found")
    document = MANIFEST.sign(node_key(LAKESIDE))
    assert await put_manifest(world, document) == (204, "")
    assert await put_manifest(world, document) == (204, "")
    reply = await world.ask("GET", path, agency=OVERSIGHT)
    assert (reply.content, reply.headers["content-type"]) == (document, "application/json")
    later = replace(MANIFEST, version=4).sign(node_key(LAKESIDE))
    assert await put_manifest(world, later) == (204, "")
    assert (await world.ask("GET", path)).content == later


async def test_a_manifest_must_follow(world: World) -> None:
    await put_manifest(world, MANIFEST.sign(node_key(LAKESIDE)))
    for wrong in (replace(MANIFEST, version=2), replace(MANIFEST, records=1)):
        assert await put_manifest(world, wrong.sign(node_key(LAKESIDE))) == (409, "statement-superseded")
    assert (await world.ask("GET", f"/v1/statements/manifest/{LAKESIDE}")).content == MANIFEST.sign(node_key(LAKESIDE))


async def test_a_manifest_is_its_agencys_own(world: World) -> None:
    document = MANIFEST.sign(node_key(LAKESIDE))
    assert await put_manifest(world, document, EASTFIELD) == (403, "statement-not-yours")
    assert (await put_manifest(world, MANIFEST.sign(node_key(EASTFIELD))))[0] == 403
    assert (await put_manifest(world, replace(MANIFEST, agency=BOARD, trusted_custodians=(OVERSIGHT,)).sign(node_key(BOARD)), BOARD))[
        0
    ] == 403
    assert (await put_manifest(world, replace(MANIFEST, valid_until=NOW).sign(node_key(LAKESIDE))))[0] == 403
    assert world.rows()["manifests"] == 0


async def test_a_manifest_under_a_replaced_node_key_counts_no_more(world: World) -> None:
    """Another key is another beginning: the old manifest verifies for nobody, so it holds nobody up."""
    await put_manifest(world, MANIFEST.sign(node_key(LAKESIDE)))
    key = signing_key("new key of lakeside")
    newer = replace(with_agency(ROSTER, LAKESIDE, node_key=key.verifying_key), version=2)
    await world.services.rosters.install(sign_roster(newer), NOW)
    document = replace(MANIFEST, version=1).sign(key)
    request = world.client.build_request("PUT", "/v1/statements/manifest", content=document)
    request.headers.update(sign_request("PUT", str(request.url), document, agency=LAKESIDE, key=key, nonce=world.nonce(), now=world.now))
    assert (await world.client.send(request)).status_code == 204


@pytest.mark.parametrize("use", [WEEK, SEARCH])
async def test_a_sealing_key_is_published_once_for_its_use(world: World, use: Week | SearchId) -> None:
    statement = SealingKeyStatement(BOARD, use, RECIPIENT_KEY.public_key).sign(node_key(BOARD))
    path = f"/v1/statements/sealing-key/{BOARD}/{use.text if isinstance(use, Week) else use}"
    assert problem(await world.ask("GET", path)) == (404, "not-found")
    assert await put_key(world, statement) == (204, "")
    assert await put_key(world, statement) == (204, "")
    assert (await world.ask("GET", path)).content == statement
    other = SealingKeyStatement(BOARD, use, SealingPrivateKey.generate().public_key).sign(node_key(BOARD))
    assert await put_key(world, other) == (409, "statement-superseded")
    assert (await world.ask("GET", path)).content == statement


async def test_a_sealing_key_is_its_agencys_own(world: World) -> None:
    statement = SealingKeyStatement(BOARD, WEEK, RECIPIENT_KEY.public_key)
    assert await put_key(world, statement.sign(node_key(BOARD)), NORTHPORT) == (403, "statement-not-yours")
    assert (await put_key(world, statement.sign(node_key(NORTHPORT))))[0] == 403
    assert world.rows()["sealing_keys"] == 0
