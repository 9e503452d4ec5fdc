"""A signed request is taken once: by one process, under its prefix, as long as the signature is fresh; and nothing is kept beyond that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agency_node.transport import Transport
from broker.app import create_app
from broker.errors import NoncePrefixError, ReplayedRequestError, StaleRequestError
from broker.nonces import Nonces
from crypto.canonical import AgencyId
from crypto.request_signature import MAX_AGE_S, VerifiedRequest, fresh_nonce, sign_request
from tests.broker_world import BASE, ROSTER, World, make_broker, node_key, open_world, problem
from tests.sample_federation import EASTFIELD, NORTHPORT, NOW, sign_roster

MOST = 1024


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "broker") as opened:
        yield opened


def signed(world: World, nonce: bytes, path: str = "/v1/roster") -> httpx.Request:
    request = world.client.build_request("GET", path)
    request.headers.update(
        sign_request("GET", str(request.url), b"", agency=NORTHPORT, key=node_key(NORTHPORT), nonce=nonce, now=world.now)
    )
    return request


# --- requests ---


@pytest.mark.rule("R49")
async def test_a_nonce_serves_one_request(world: World) -> None:
    nonce = world.nonce()
    request = signed(world, nonce)
    assert (await world.client.send(request)).status_code == 200
    assert problem(await world.client.send(request)) == (409, "request-replayed")
    assert problem(await world.client.send(signed(world, nonce, "/v1/roster/1"))) == (409, "request-replayed")
    world.pass_time(MAX_AGE_S - 1)
    assert problem(await world.client.send(request)) == (409, "request-replayed")
    world.pass_time(2)
    assert problem(await world.client.send(request)) == (401, "request-stale")


async def test_a_nonce_without_the_prefix_is_refused_and_the_prefix_is_told(world: World) -> None:
    reply = await world.client.send(signed(world, fresh_nonce()))
    assert problem(reply) == (401, "nonce-prefix")
    assert reply.headers["www-authenticate"] == "Signature"
    prefix = bytes.fromhex(reply.json()["nonce_prefix"])
    assert len(prefix) == 8
    assert (await world.client.send(signed(world, fresh_nonce(prefix)))).status_code == 200


async def test_nobody_without_a_node_key_is_told_the_prefix(world: World) -> None:
    prefix = world.services.authentication.nonce_prefix.hex()
    request = signed(world, fresh_nonce())
    request.headers["signature"] = request.headers["signature"].replace("sealmatch=:", "sealmatch=:AAAA", 1)
    for reply in (await world.client.send(request), await world.ask("GET", "/v1/roster", agency=None), await world.client.get("/healthz")):
        assert prefix not in reply.text + str(reply.headers)


async def test_after_a_restart_nothing_that_was_signed_before_counts(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker") as world:
        used, unused = signed(world, world.nonce()), signed(world, world.nonce())
        assert (await world.client.send(used)).status_code == 200
    async with open_world(tmp_path / "broker") as world:
        for request in (used, unused):
            assert problem(await world.client.send(request)) == (401, "nonce-prefix")
        assert (await world.ask("GET", "/v1/roster")).status_code == 200


async def test_of_two_processes_over_one_folder_one_takes_a_request(tmp_path: Path) -> None:
    async with open_world(tmp_path / "broker") as one, open_world(tmp_path / "broker", with_roster=False) as other:
        request = signed(one, one.nonce())
        assert problem(await other.client.send(request)) == (401, "nonce-prefix")
        assert (await one.client.send(request)).status_code == 200
        assert problem(await other.client.send(request)) == (401, "nonce-prefix")


async def test_under_another_prefix_no_body_is_waited_for(world: World) -> None:
    url = f"{BASE}/v1/grants"
    fields = sign_request("POST", url, b"x", agency=NORTHPORT, key=node_key(NORTHPORT), nonce=fresh_nonce(), now=world.now)

    asked: list[bytes] = []

    class Silent(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            asked.append(b"x")
            yield b"x"

    request = httpx.Request("POST", url, headers={**fields, "host": "broker.test"}, stream=Silent())
    assert problem(await world.client.send(request)) == (401, "nonce-prefix")
    assert asked == []


async def test_a_node_goes_on_across_a_restart_of_the_broker(tmp_path: Path) -> None:
    config = make_broker(tmp_path / "broker")
    seen: list[int] = []

    class Network(httpx.AsyncBaseTransport):
        inner: httpx.ASGITransport

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await self.inner.handle_async_request(request)
            seen.append(response.status_code)
            return response

    network = Network()
    node = Transport(BASE, NORTHPORT, node_key(NORTHPORT), lambda: NOW, transport=network)
    body = b'{"wait_s":0,"limit":1}'
    for _ in range(2):
        app = create_app(config, clock=lambda: NOW)
        async with app.router.lifespan_context(app):
            await app.state.services.rosters.install(sign_roster(ROSTER), NOW)
            network.inner = httpx.ASGITransport(app=app)
            for _ in range(3):
                assert (await node.request("POST", "/v1/mailbox/leases", content=body)).body == b'{"leases":[]}'
    assert seen == [401, 200, 200, 200] * 2
    await node.close()


async def test_a_slow_body_does_not_outlive_the_memory_of_its_nonce(world: World) -> None:
    """A replay that began to arrive while its signature was fresh ends when the nonce has been forgotten."""
    url, body = f"{BASE}/v1/mailbox/leases", b'{"wait_s":0,"limit":1}'
    arriving, whole = asyncio.Event(), asyncio.Event()

    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            arriving.set()
            await whole.wait()
            yield body

    world.pass_time(2 * MAX_AGE_S - 0.5)  # half a second before the first turn, by a clock that is a minute ahead
    ahead = world.now + timedelta(seconds=MAX_AGE_S)
    fields = sign_request("POST", url, body, agency=NORTHPORT, key=node_key(NORTHPORT), nonce=world.nonce(), now=ahead)
    assert (await world.client.post(url, content=body, headers=fields)).status_code == 200
    world.pass_time(1.5)
    await world.ask("GET", "/v1/roster")
    world.pass_time(2 * MAX_AGE_S - 2.5)
    request = httpx.Request("POST", url, headers={**fields, "host": "broker.test"}, stream=Slow())
    replay = asyncio.create_task(world.client.send(request))
    await asyncio.wait_for(arriving.wait(), 10)
    world.pass_time(3)
    await world.ask("GET", "/v1/roster")
    assert kept(world.services.authentication._nonces) == 2  # the two questions: the replayed one is forgotten
    whole.set()
    assert problem(await asyncio.wait_for(replay, 10)) == (401, "request-stale")


# --- what is kept ---


def request_of(number: int, nonces: Nonces, created: datetime, agency: AgencyId = NORTHPORT) -> VerifiedRequest:
    return VerifiedRequest(agency, nonces.prefix + number.to_bytes(8, "big"), created, "")


def kept(nonces: Nonces) -> int:
    return len(nonces._new) + len(nonces._old)


def test_what_is_no_longer_fresh_is_forgotten() -> None:
    nonces, now, largest = Nonces(1 << 17, NOW), NOW, 0
    prefix = nonces.prefix
    for number in range(6000):  # one in each tenth of a second, ten minutes long
        now += timedelta(seconds=0.1)
        nonces.spend(request_of(number, nonces, now), now)
        largest = max(largest, kept(nonces))
    assert 1200 <= largest <= 2500  # of two to four minutes
    now += timedelta(hours=1)
    for number in (9998, 9999):
        now += timedelta(minutes=3)
        nonces.spend(request_of(number, nonces, now), now)
    assert kept(nonces) == 2
    assert nonces.prefix == prefix


def test_whoever_signs_without_end_begins_a_new_prefix_and_fills_no_memory() -> None:
    nonces, prefixes = Nonces(MOST, NOW), set()
    first = request_of(0, nonces, NOW)
    for number in range(5 * MOST):
        while True:  # as a node does: signed again under the prefix that is told
            try:
                nonces.spend(request_of(number, nonces, NOW), NOW)
            except NoncePrefixError:
                continue
            break
        prefixes.add(nonces.prefix)
        assert kept(nonces) <= MOST
    assert len(prefixes) == 5
    with pytest.raises(NoncePrefixError) as refused:
        nonces.spend(first, NOW)
    assert refused.value.prefix == nonces.prefix


def test_a_clock_that_is_set_back_brings_nothing_back() -> None:
    nonces = Nonces(MOST, NOW)
    early = request_of(1, nonces, NOW)
    nonces.spend(early, NOW)
    for minutes in (3, 6, 9):  # by now it is forgotten
        now = NOW + timedelta(minutes=minutes)
        nonces.spend(request_of(minutes, nonces, now), now)
    for _ in range(2):
        with pytest.raises(NoncePrefixError):
            nonces.spend(early, NOW + timedelta(seconds=1))
    nonces.spend(request_of(1, nonces, NOW), NOW + timedelta(seconds=1))


def test_a_signature_that_would_outlive_the_memory_of_its_nonce_is_refused() -> None:
    """The clock was set back after the request was found fresh, and before its nonce is taken."""
    nonces, limit = Nonces(MOST, NOW), timedelta(seconds=MAX_AGE_S)
    nonces.spend(request_of(1, nonces, NOW + limit), NOW)
    with pytest.raises(StaleRequestError):
        nonces.spend(request_of(2, nonces, NOW + limit + timedelta(seconds=1)), NOW)


@settings(max_examples=400)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 59, 61, 121, 0, -1, -61]), st.sampled_from([60, 0, -60]), st.booleans()),
        max_size=40,
    )
)
def test_no_request_is_taken_twice_however_the_clock_runs(steps: list[tuple[int, int, bool]]) -> None:
    """Each step sets the clock, tries every request that was taken before, and signs a new one, so far off the clock as is fresh."""
    nonces, now = Nonces(40, NOW), NOW
    taken: list[VerifiedRequest] = []
    for number, (passed, skew, is_northports) in enumerate(steps):
        now += timedelta(seconds=passed)
        for request in taken:
            if not request.is_fresh(now):
                continue
            with pytest.raises((ReplayedRequestError, NoncePrefixError, StaleRequestError)):
                nonces.spend(request, now)
        fresh = request_of(number, nonces, now + timedelta(seconds=skew), NORTHPORT if is_northports else EASTFIELD)
        try:
            nonces.spend(fresh, now)
        except NoncePrefixError:
            fresh = request_of(number, nonces, fresh.created, fresh.agency)
            nonces.spend(fresh, now)
        taken.append(fresh)
