"""The one way out: what it signs, and what it makes of everything that can come back or fail."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agency_node.errors import BrokerRefusedError, BrokerUnreachableError, ConfigError
from agency_node.transport import DEFAULT_MAX_REPLY_BYTES, UNREADABLE, Transport, side_by_side
from crypto.request_signature import check_request
from tests.sample_federation import NORTHPORT, NOW, signing_key

KEY = signing_key(f"{NORTHPORT} node")
PROBLEM = {
    "type": "urn:sealmatch:problem:replay",
    "title": "The grant was used",
    "status": 409,
    "detail": "Ask for a new grant.",
}


def transport_to(handler: Callable[[httpx.Request], httpx.Response]) -> Transport:
    def unread(request: httpx.Request) -> httpx.Response:
        made = handler(request)
        return httpx.Response(made.status_code, headers=made.headers, stream=made.stream)  # as it comes from a network: not read yet

    return Transport("https://broker.example.org", NORTHPORT, KEY, lambda: NOW, transport=httpx.MockTransport(unread))


async def refusal(handler: Callable[[httpx.Request], httpx.Response]) -> BrokerRefusedError:
    with pytest.raises(BrokerRefusedError) as caught:
        await transport_to(handler).request("GET", "/v1/roster")
    return caught.value


def problem(document: object, status: int = 409, content_type: str = "application/problem+json") -> httpx.Response:
    return httpx.Response(status, content=json.dumps(document).encode(), headers={"content-type": content_type})


# --- what leaves ---


async def test_every_request_is_signed_over_what_is_sent_with_a_nonce_of_its_own() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"{}", headers={"content-type": "application/json; charset=utf-8"})

    transport = transport_to(handler)
    for _ in range(2):
        reply = await transport.request(
            "PUT", "/v1/messages/ab/parts/0", params={"lease_id": "a b", "n": 3}, content=b"piece", content_type="application/octet-stream"
        )
    assert (reply.status, reply.content_type, reply.body) == (200, "application/json", b"{}")
    nonces = set()
    for request in seen:
        verified = check_request(request.method, str(request.url), request.headers.multi_items(), lambda _agency: KEY.verifying_key)
        verified.check_body(request.content)
        assert verified.agency == NORTHPORT
        assert verified.created == NOW.replace(microsecond=0)
        assert request.url.query == b"lease_id=a+b&n=3"
        assert request.headers["content-type"] == "application/octet-stream"
        nonces.add(verified.nonce)
    assert len(nonces) == len(seen) == 2


async def test_redirects_cookies_and_compression_are_not_followed() -> None:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(302, headers={"location": "https://elsewhere.example.org/"})

    assert (await refusal(handler)).problem == UNREADABLE
    assert [request.url.host for request in requests] == ["broker.example.org"]
    packed = await refusal(lambda _request: httpx.Response(200, stream=httpx.ByteStream(b"{}"), headers={"content-encoding": "gzip"}))
    assert packed.problem == UNREADABLE
    assert requests[0].headers["accept-encoding"] == "identity"


# --- the prefix of nonces ---


class PrefixedBroker:
    """Takes nonces under its prefix, and tells it; what it was sent."""

    def __init__(self, prefixes: Iterator[bytes]) -> None:
        self.prefixes = prefixes
        self.prefix = next(prefixes)
        self.nonces: list[bytes] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        verified = check_request(request.method, str(request.url), request.headers.multi_items(), lambda _agency: KEY.verifying_key)
        verified.check_body(request.content)
        self.nonces.append(verified.nonce)
        self.bodies.append(request.content)
        if verified.nonce.startswith(self.prefix):
            return httpx.Response(204)
        return other_prefix(self.prefix.hex())

    def start_again(self) -> None:
        self.prefix = next(self.prefixes)


def other_prefix(prefix: object, **changes: object) -> httpx.Response:
    document = {**PROBLEM, "type": "urn:sealmatch:problem:nonce-prefix", "status": 401, "nonce_prefix": prefix}
    return problem({**document, **changes}, status=401)


def prefixes() -> Iterator[bytes]:
    return (number.to_bytes(8, "big") for number in itertools.count(1))


async def test_a_request_is_signed_again_under_the_prefix_that_is_told_and_the_next_at_once() -> None:
    broker = PrefixedBroker(prefixes())
    transport = transport_to(broker)
    for restarted in (False, False, True, False):
        if restarted:
            broker.start_again()
        assert (await transport.request("PUT", "/v1/grants", content=b"the same body")).status == 204
    assert broker.bodies == [b"the same body"] * 6
    assert len(set(broker.nonces)) == 6
    one, two = ((number).to_bytes(8, "big") for number in (1, 2))
    assert [nonce[:8] for nonce in broker.nonces[1:]] == [one, one, one, two, two]


async def test_requests_side_by_side_are_each_repeated_once() -> None:
    broker = PrefixedBroker(prefixes())
    transport = transport_to(broker)

    async def ask(_number: int) -> int:
        return (await transport.request("GET", "/v1/roster")).status

    assert await side_by_side(ask, range(3)) == [204] * 3
    assert len(broker.nonces) <= 6


async def test_a_broker_that_always_tells_another_prefix_ends_the_request() -> None:
    asked = 0

    def never_content(_request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return other_prefix(asked.to_bytes(8, "big").hex())

    error = await refusal(never_content)
    assert asked == 2
    assert (error.status, error.problem, error.is_final) == (401, "nonce-prefix", False)


@pytest.mark.parametrize(
    "response",
    [
        *(other_prefix(prefix) for prefix in ("", "00" * 7, "00" * 9, "0g" * 8, "AB" * 8, "00" * 8 + "\n", 7, None, ["00" * 8])),
        other_prefix("00" * 8, type="urn:sealmatch:problem:request-replayed"),
    ],
)
async def test_what_is_no_prefix_is_not_signed_under(response: httpx.Response) -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return response

    assert (await refusal(handler)).status == 401
    assert len(asked) == 1


async def test_the_repetition_has_the_time_that_was_left() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.3)
            told = other_prefix("00" * 8).content
            writer.write(b"HTTP/1.1 401 No\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n\r\n" % len(told) + told)
            await writer.drain()

    async with server(slow) as port:
        assert "in time" in await fails_at(port, timeout_s=0.5)


# --- refusals ---


async def test_a_problem_document_becomes_the_error_with_its_own_words() -> None:
    error = await refusal(lambda _request: problem(PROBLEM))
    assert (error.status, error.problem, error.title, error.detail) == (409, "replay", "The grant was used", "Ask for a new grant.")
    assert error.is_final


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(503, content=b"<html>bad gateway</html>", headers={"content-type": "text/html"}),
        httpx.Response(500),
        problem(PROBLEM, content_type="application/json"),
        problem(["a", "list"]),
        problem(None),
        problem({}),
        problem({**PROBLEM, "type": "urn:other:problem:replay"}),
        problem({**PROBLEM, "type": "urn:sealmatch:problem:REPLAY\u001b[31m"}),
        problem({**PROBLEM, "type": ["urn:sealmatch:problem:replay"]}),
        httpx.Response(400, content=b"{" * 10, headers={"content-type": "application/problem+json"}),
        httpx.Response(400, content=b"[" * 60_000, headers={"content-type": "application/problem+json"}),
        httpx.Response(400, content=b"\xff\xfe", headers={"content-type": "application/problem+json"}),
        problem({**PROBLEM, "detail": "x" * (64 << 10)}),
    ],
)
async def test_a_refusal_without_a_readable_problem_document_still_says_what_to_do(response: httpx.Response) -> None:
    error = await refusal(lambda _request: response)
    assert (error.status, error.problem) == (response.status_code, UNREADABLE)
    assert "node.toml" in str(error)
    assert len(str(error)) < 400


async def test_words_of_the_broker_are_cut_and_made_printable() -> None:
    wild = {**PROBLEM, "title": "A\u001b[2J\nB" + "t" * 1000, "detail": "\r\n" + "d" * 5000, "more": "ignored"}
    error = await refusal(lambda _request: problem(wild))
    assert error.title.startswith("A [2J B")
    assert len(error.title) <= 200
    assert len(error.detail) <= 2000
    assert str(error).isprintable()
    bare = await refusal(lambda _request: problem({"type": PROBLEM["type"], "title": 7, "detail": {"a": 1}}))
    assert (bare.title, bare.detail) == ("no title", "")


async def test_a_reply_longer_than_its_limit_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 1024

    error = await refusal(lambda _request: httpx.Response(200, content=endless()))
    assert error.problem == UNREADABLE
    assert sent * 1024 <= DEFAULT_MAX_REPLY_BYTES + 2048
    fits = transport_to(lambda _request: httpx.Response(200, content=b"x" * 100))
    assert (await fits.request("GET", "/", max_reply_bytes=100)).body == b"x" * 100
    with pytest.raises(BrokerRefusedError):
        await fits.request("GET", "/", max_reply_bytes=99)


# --- no answer ---


@asynccontextmanager
async def server(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server on this machine that does what `answer` does to each connection."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(once, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def fails_at(port: int, scheme: str = "http", timeout_s: float = 5, verify: ssl.SSLContext | bool = True) -> str:
    transport = Transport(f"{scheme}://127.0.0.1:{port}", NORTHPORT, KEY, lambda: NOW, verify=verify)
    try:
        with pytest.raises(BrokerUnreachableError) as caught:
            await transport.request("GET", "/v1/roster", timeout_s=timeout_s)
    finally:
        await transport.close()
    return str(caught.value)


async def test_nobody_listening_is_an_unreachable_broker() -> None:
    async with server(lambda _reader, _writer: asyncio.sleep(0)) as port:
        pass
    assert "node.toml" in await fails_at(port)


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\n\x00: 1\r\n\r\n"]
)
async def test_a_broken_conversation_is_an_unreachable_broker(said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()

    async with server(answer) as port:
        assert "cannot be reached" in await fails_at(port)


async def test_neither_silence_nor_a_trickle_holds_the_node() -> None:
    async def silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.02)

    for answer in (silence, trickle):
        async with server(answer) as port:
            assert "in time" in await fails_at(port, timeout_s=0.3)


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker.example.org")])
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), NOW, NOW + timedelta(days=1))
    (folder / "cert.pem").write_bytes(
        built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem")
    return context


async def test_bad_tls_is_an_unreachable_broker_and_says_which(tmp_path: Path) -> None:
    async with server(lambda reader, _writer: reader.read(), certificate(tmp_path)) as port:  # type: ignore[arg-type, return-value]
        assert "certificate" in await fails_at(port, "https")

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with server(plain) as port:
        assert "TLS" in await fails_at(port, "https")


async def test_the_environment_gives_neither_proxy_nor_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with server(answer) as port:
        transport = Transport(f"http://127.0.0.1:{port}", NORTHPORT, KEY, lambda: NOW)
        assert (await transport.request("GET", "/healthz")).status == 204
        await transport.close()
    assert b"authorization" not in seen[0].lower()


@pytest.mark.parametrize(
    "url", ["", "broker.example.org", "ftp://broker", "https://", "https://a:b@broker", "https://broker/?a=1", "https://[::"]
)
def test_an_address_that_is_none_is_a_matter_of_configuration(url: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("node.toml")):
        Transport(url, NORTHPORT, KEY, lambda: NOW)


def test_only_this_module_imports_httpx() -> None:
    root = Path(__file__).parent.parent
    importers = {
        path.relative_to(root).as_posix()
        for package in ("agency_node", "crypto")
        for path in (root / package).rglob("*.py")
        if re.search(r"^\s*(?:import|from)\s+(?:httpx|requests|urllib\.request|http\.client|aiohttp)\b", path.read_text(), re.MULTILINE)
    }
    assert importers == {"agency_node/transport.py"}


async def test_a_few_are_asked_for_at_once_and_the_first_error_ends_it() -> None:
    begun: list[int] = []
    three = asyncio.Barrier(3)

    async def meets(number: int) -> int:
        begun.append(number)
        await three.wait()  # one after the other, nobody would pass
        return 10 * number

    assert await asyncio.wait_for(side_by_side(meets, range(6)), 10) == [0, 10, 20, 30, 40, 50]
    begun.clear()

    async def fails(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise BrokerUnreachableError("gone")
        await asyncio.Event().wait()
        return number

    with pytest.raises(BrokerUnreachableError):
        await asyncio.wait_for(side_by_side(fails, range(100)), 10)
    assert begun == [0, 1, 2]
