"""A node behind an HTTP proxy: it asks for a tunnel, TLS runs between node and broker, and what a proxy refuses is said in our words.

The proxy is a real one on the loopback address, and so is the broker, as a process with a certificate of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agency_node.config import Mode, NodeConfig, Role
from agency_node.errors import BrokerUnreachableError, ConfigError
from agency_node.keyring import NODE_KEY_FILE
from agency_node.node import create_node, open_node
from agency_node.transport import Transport
from agency_node.vault import Vault
from broker import cli
from crypto.canonical import b64url_decode
from crypto.checkpoint import LogKey
from crypto.keys import VerifyingKey
from tests.broker_world import ROSTER
from tests.sample_federation import NORTHPORT, NOW, VENDOR, sign_roster, signing_key
from tests.test_broker_process import ORIGIN, Broker, current_roster, self_signed

KEY = signing_key(f"{NORTHPORT} node")


@dataclass
class ConnectProxy:
    """An HTTP proxy that gives tunnels, or answers every request for one with `refuses`."""

    refuses: bytes = b""
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    passed: bytearray = field(default_factory=bytearray)
    """What went through it, both ways."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._answer(reader, writer)
        await _closed(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        if self.refuses or method != b"CONNECT":
            writer.write(self.refuses or b"HTTP/1.1 405 Only CONNECT\r\ncontent-length: 0\r\n\r\n")
            return
        host, _, port = target.decode().rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            await _closed(far_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.passed += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


@asynccontextmanager
async def proxy(refuses: bytes = b"") -> AsyncIterator[ConnectProxy]:
    made = ConnectProxy(refuses)
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        await made.end()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Path]]:
    """A broker with a roster that serves TLS, and the file of its certificate."""
    folder = tmp_path_factory.mktemp("proxy") / "broker"
    made = CliRunner().invoke(
        cli.app,
        ["init", str(folder), "--operator", VENDOR, "--origin", ORIGIN, "--root-fingerprint", ROSTER.root.fingerprint.hex(), "--json"],
    )
    log = LogKey(ORIGIN, VerifyingKey(b64url_decode(json.loads(made.stdout)["log_key"])))
    document = folder.parent / "roster.json"
    document.write_bytes(sign_roster(current_roster(log)))
    assert CliRunner().invoke(cli.app, ["roster", str(folder), str(document)]).exit_code == 0
    certificate, key = self_signed(folder.parent)
    broker = Broker(folder, log, folder.parent / "errors")
    broker.start("--tls-certificate", str(certificate), "--tls-key", str(key))
    yield broker, certificate
    broker.kill()


def settings(broker: str, **more: str) -> dict[str, object]:
    return {
        "agency": str(NORTHPORT),
        "mode": Mode.TEST.value,
        "roles": [Role.REQUESTER.value],
        "broker": broker,
        "root_fingerprint": ROSTER.root.fingerprint.hex(),
        **more,
    }


async def test_a_node_reaches_its_broker_through_a_tunnel_that_the_proxy_cannot_read(
    served: tuple[Broker, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, certificate = served
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens there
    async with proxy() as between:
        config = NodeConfig.checked(
            settings(f"https://127.0.0.1:{broker.port}", broker_ca=str(certificate), proxy=f"http://127.0.0.1:{between.port}")
        )
        create_node(tmp_path / "node", config, witness=False)
        vault = Vault.from_file(tmp_path / "node" / "keys" / "at-rest.key")
        (tmp_path / "node" / NODE_KEY_FILE).write_bytes(vault.seal("node-key", KEY.export_secret()))  # the one that the roster lists
        assert NodeConfig.load(tmp_path / "node").proxy == config.proxy
        node = open_node(tmp_path / "node", lambda: datetime.now(UTC))
        await node.parties.refresh()
        assert node.parties.roster().version == ROSTER.version
        await node.transport.close()
        node.engine.dispose()
        assert between.requests
        for request in between.requests:
            assert request.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % broker.port)
            assert b"authorization" not in request.lower()
        for told in (b"/v1/", b"sealmatch", b"northport", b"signature"):
            assert told not in bytes(between.passed).lower(), told
    assert len(between.passed) > 1000


async def fails_through(port: int, broker_port: int = 1) -> str:
    transport = Transport(f"https://127.0.0.1:{broker_port}", NORTHPORT, KEY, lambda: NOW, proxy=f"http://127.0.0.1:{port}")
    try:
        with pytest.raises(BrokerUnreachableError) as caught:
            await transport.request("GET", "/v1/roster", timeout_s=5)
    finally:
        await transport.close()
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("407 Say who you are, secret realm", "wants a password"),
        ("403 Forbidden", "permit CONNECT"),
        ("302 Moved\r\nlocation: http://elsewhere.example.org/", "permit CONNECT"),
        ("502 Bad Gateway", "does not reach the broker"),
        ("504 Timeout", "does not reach the broker"),
    ],
)
async def test_what_a_proxy_refuses_is_said_in_our_words(status: str, said: str) -> None:
    async with proxy(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode()) as refusing:
        sentence = await fails_through(refusing.port)
    assert said in sentence
    assert "node.toml" in sentence
    assert "realm" not in sentence
    assert "elsewhere" not in sentence


async def test_a_broker_that_is_away_and_a_proxy_that_is_away_are_told_apart(served: tuple[Broker, Path]) -> None:
    async with proxy() as between:
        assert "does not reach the broker (status 502)" in await fails_through(between.port)
        assert "certificate" in await fails_through(between.port, served[0].port)  # whose certificate this node does not trust
        gone = between.port
    assert "the proxy of node.toml cannot be reached" in await fails_through(gone)


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 abc\r\n\r\n"])
async def test_what_is_no_proxy_is_a_broker_that_is_not_reached(said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await _closed(writer)

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        assert "cannot be reached" in await fails_through(other.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    "address", ["http://anna:secret@proxy:3128", "socks5://proxy:1080", "proxy:3128", "http://proxy/path?x", "http://"]
)
def test_a_proxy_with_a_password_or_of_another_kind_is_a_matter_of_configuration(address: str) -> None:
    with pytest.raises(ConfigError, match="proxy") as caught:
        NodeConfig.checked(settings("https://broker.example.org", proxy=address))
    with pytest.raises(ConfigError, match=r"node\.toml"):
        Transport("https://broker.example.org", NORTHPORT, KEY, lambda: NOW, proxy=address)
    assert "secret" not in str(caught.value)


def test_no_plain_request_goes_through_a_proxy() -> None:
    """It would read them all."""
    with pytest.raises(ConfigError, match="https"):
        NodeConfig.checked(settings("http://127.0.0.1:1", proxy="http://127.0.0.1:2"))
    with pytest.raises(ConfigError, match="https"):
        Transport("http://127.0.0.1:1", NORTHPORT, KEY, lambda: NOW, proxy="http://127.0.0.1:2")
