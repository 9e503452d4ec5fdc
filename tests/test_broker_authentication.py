"""Who may ask the broker anything: nobody by default, and each signed request once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from broker import api
from broker.config import Limits
from crypto.canonical import AgencyId
from crypto.keys import SigningKey
from crypto.request_signature import sign_request
from tests.broker_world import ROSTER, World, node_key, open_world, problem
from tests.sample_federation import EASTFIELD, NORTHPORT, sign_roster, with_agency

PUBLIC = {
    "/healthz",
    "/checkpoint",
    "/tile/{path:path}",
    *(f"/v1/log/{name}" for name in ("checkpoint", "pending", "leaves", "consistency", "inclusion", "openings", "counts")),
}
"""Read by everybody; what is written to such an address is signed all the same."""
ROUTES = [
    (method, route.path)
    for router in (api.public, api.signed, api.mail)
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods or ()
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        yield opened


def filled(path: str) -> str:
    values = {"version": "1", "agency": "northport-pd", "use": "2026-W48", "message_id": "ab" * 32, "number": "0", "lease_id": "cd" * 16}
    return path.replace("{path:path}", "0/000").format(**values) + ("?lease_id=" + "cd" * 16 if path.endswith("parts/{number}") else "")


def test_the_walk_walks() -> None:
    assert len(ROUTES) == len(set(ROUTES)) == 29
    assert {path for _, path in ROUTES} >= PUBLIC


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_credentials_only_the_log_is_shown(world: World, method: str, path: str) -> None:
    """Neither an unsigned request nor one of a stranger passes; nothing is stored."""
    before = world.rows()
    reply = await world.ask(method, filled(path), agency=None)
    if path in PUBLIC and method == "GET":
        assert reply.status_code in {200, 400, 404}
    else:
        assert problem(reply) == (401, "request-unsigned")
        assert reply.headers["www-authenticate"] == "Signature"
        stranger = sign_request(
            method, str(reply.request.url), b"", agency=NORTHPORT, key=SigningKey.generate(), nonce=world.nonce(), now=world.now
        )
        assert problem(await world.ask(method, filled(path), agency=None, headers=stranger)) == (401, "request-unsigned")
    assert world.rows() == before


async def test_an_unknown_address_and_another_method(world: World) -> None:
    assert problem(await world.ask("GET", "/v1/nothing")) == (404, "no-such-route")
    assert problem(await world.ask("GET", "/v1/roster/")) == (404, "no-such-route")
    assert problem(await world.ask("GET", "/openapi.json")) == (404, "no-such-route")
    assert problem(await world.ask("DELETE", "/v1/roster")) == (405, "method-not-allowed")
    assert problem(await world.ask("PATCH", "/v1/grants")) == (405, "method-not-allowed")


@pytest.mark.rule("R49")
async def test_a_request_is_accepted_once(world: World) -> None:
    request = world.client.build_request("GET", "/v1/roster")
    request.headers.update(
        sign_request("GET", str(request.url), b"", agency=NORTHPORT, key=node_key(NORTHPORT), nonce=world.nonce(), now=world.now)
    )
    assert (await world.client.send(request)).status_code == 200
    assert problem(await world.client.send(request)) == (409, "request-replayed")


async def test_one_nonce_of_two_agencies_is_no_replay(world: World) -> None:
    nonce = world.nonce()
    for agency in (NORTHPORT, EASTFIELD):
        request = world.client.build_request("GET", "/v1/roster")
        request.headers.update(sign_request("GET", str(request.url), b"", agency=agency, key=node_key(agency), nonce=nonce, now=world.now))
        assert (await world.client.send(request)).status_code == 200


@pytest.mark.parametrize(("seconds", "status"), [(59, 200), (61, 401), (-59, 200), (-62, 401)])
async def test_old_and_future_requests_are_refused(world: World, seconds: int, status: int) -> None:
    request = world.client.build_request("GET", "/v1/roster")
    then = world.now - timedelta(seconds=seconds)
    signed = sign_request("GET", str(request.url), b"", agency=NORTHPORT, key=node_key(NORTHPORT), nonce=world.nonce(), now=then)
    request.headers.update(signed)
    reply = await world.client.send(request)
    assert reply.status_code == status
    if status == 401:
        assert problem(reply) == (401, "request-stale")


async def test_a_body_changed_after_signing_is_refused(world: World) -> None:
    before = world.rows()
    request = world.client.build_request("POST", "/v1/mailbox/leases", content=b'{"wait_s":0,"limit":1}')
    signed = sign_request(
        "POST", str(request.url), b'{"wait_s":0,"limit":2}', agency=NORTHPORT, key=node_key(NORTHPORT), nonce=world.nonce(), now=world.now
    )
    request.headers.update(signed)
    assert problem(await world.client.send(request)) == (401, "request-unsigned")
    assert world.rows() == before


async def test_a_query_changed_after_signing_is_refused(world: World) -> None:
    url = world.client.build_request("GET", "/v1/messages/" + "ab" * 32 + "/parts/0", params={"lease_id": "cd"}).url
    signed = sign_request("GET", str(url), b"", agency=NORTHPORT, key=node_key(NORTHPORT), nonce=world.nonce(), now=world.now)
    request = httpx.Request("GET", str(url).replace("cd", "ce"), headers=signed)
    assert problem(await world.client.send(request)) == (401, "request-unsigned")


async def test_an_agency_outside_the_roster_is_told_so(world: World) -> None:
    request = world.client.build_request("GET", "/v1/roster")
    signed = sign_request(
        "GET", str(request.url), b"", agency=AgencyId("nobody-pd"), key=node_key(NORTHPORT), nonce=world.nonce(), now=world.now
    )
    request.headers.update(signed)
    reply = await world.client.send(request)
    assert problem(reply)[0] == 403
    assert "nobody" not in reply.text


async def test_without_a_roster_and_after_its_expiry_nobody_is_served(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker", with_roster=False) as world:
        assert problem(await world.ask("GET", "/v1/roster")) == (503, "roster-missing")
        assert (await world.ask("GET", "/healthz", agency=None)).status_code == 200
        await world.services.rosters.install(sign_roster(ROSTER), world.now)
        assert (await world.ask("GET", "/v1/roster")).status_code == 200
        world.clock[0] = ROSTER.expires
        assert problem(await world.ask("GET", "/v1/roster"))[0] == 503
        assert (await world.ask("GET", "/v1/log/checkpoint", agency=None)).status_code == 200


async def test_a_roster_that_another_process_installs_counts_at_once(world: World) -> None:
    """Northport's key is replaced: the old one signs nothing any more."""
    assert (await world.ask("GET", "/v1/roster")).status_code == 200
    newer = replace(with_agency(ROSTER, NORTHPORT, node_key=SigningKey.generate().verifying_key), version=2)
    data = sign_roster(newer)
    async with open_world(world.config.folder, with_roster=False) as other:  # as `sealmatch broker roster` does
        await other.services.rosters.install(data, world.now)
    assert problem(await world.ask("GET", "/v1/roster")) == (401, "request-unsigned")
    assert (await world.ask("GET", "/v1/roster", agency=EASTFIELD)).content == data
    assert (await world.ask("GET", "/v1/roster/1", agency=EASTFIELD)).content == sign_roster(ROSTER)
    assert problem(await world.ask("GET", "/v1/roster/3", agency=EASTFIELD)) == (404, "not-found")


async def test_a_body_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker", limits=Limits(max_body_bytes=2048)) as world:
        for path in ("/v1/grants", "/v1/log/entries", "/v1/mailbox/leases", "/healthz"):
            assert problem(await world.ask("POST", path, body=b"x" * 2049)) == (413, "request-too-large")

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * 1024

        signed = sign_request(
            "POST",
            "http://broker.test/v1/grants",
            b"x" * 3072,
            agency=NORTHPORT,
            key=node_key(NORTHPORT),
            nonce=world.nonce(),
            now=world.now,
        )
        reply = await world.client.post("/v1/grants", content=pieces(), headers=signed)  # no Content-Length
        assert problem(reply) == (413, "request-too-large")


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    """The application is driven directly: a client that promises a body and sends none."""
    async with open_world(tmp_path / "broker", limits=Limits(body_timeout_s=0.05)) as world:
        url = "http://broker.test/v1/grants"
        signed = sign_request("POST", url, b"x", agency=NORTHPORT, key=node_key(NORTHPORT), nonce=world.nonce(), now=world.now)

        class Silent(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                await asyncio.sleep(60)
                yield b"x"

        request = httpx.Request("POST", url, headers={**signed, "host": "broker.test"}, stream=Silent())
        assert problem(await world.client.send(request)) == (408, "request-too-slow")


async def test_the_clock_is_the_one_that_was_given(tmp_path: Path) -> None:
    past = datetime(2026, 11, 24, tzinfo=UTC) - timedelta(days=1)
    async with open_world(tmp_path / "broker", now=past) as world:
        assert (await world.ask("GET", "/v1/roster")).status_code == 200
