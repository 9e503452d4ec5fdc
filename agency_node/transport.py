"""The node's one way out: signed HTTP requests to the broker, and every way in which they fail turned into an error of ours.

Invariants: this is the only module that imports httpx; no request leaves it unsigned (RFC 9421, a fresh nonce each), none follows a
redirect, takes a proxy or a password from the environment, or waits without end; no reply is read beyond its limit, and none is
decompressed. A request that tells the broker something leaves after `before_leaving`. A proxy passes on bytes of a TLS connection between
node and broker, and is given no password. No foreign exception leaves this module. Words of the broker that come into an error's text are
short and printable. A request is repeated in one case, once, and within its time: the broker refused its nonce and said the prefix that
nonces must have; so it did nothing, and what it says next time counts, whatever it is.

Left to others: which routes there are and what their replies mean (`link`), when to try again (the callers).
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

import httpx

from agency_node.errors import BrokerRefusedError, BrokerUnreachableError, ConfigError
from crypto.canonical import AgencyId
from crypto.keys import SigningKey
from crypto.request_signature import NONCE_PREFIX_BYTES, fresh_nonce, sign_request

DEFAULT_MAX_REPLY_BYTES: Final = 128 << 10
"""Room for a signed note (64 KiB) and every document but the roster."""
UNREADABLE: Final = "unreadable-reply"
"""The `problem` of a reply that no broker of this protocol sends."""

_AT_ONCE: Final = 3
"""Connections that carry parts of one message: while one part is checked and stored, others are under way."""
_MAX_PROBLEM_BYTES: Final = 64 << 10
_MAX_TITLE_CHARS: Final = 200
_MAX_DETAIL_CHARS: Final = 2000
_ReplyT = TypeVar("_ReplyT")
_PROBLEM_TYPE: Final = re.compile(r"urn:sealmatch:problem:([a-z0-9-]{1,64})")
_NONCE_PREFIX: Final = re.compile(rf"[0-9a-f]{{{2 * NONCE_PREFIX_BYTES}}}")


@dataclass(frozen=True)
class Reply:
    """What came back with a status of 200 to 299. `content_type` is the media type alone, in small letters."""

    status: int
    content_type: str
    body: bytes = field(repr=False)


class _NoncePrefixError(BrokerRefusedError):
    """The broker takes nonces under `prefix` only."""

    def __init__(self, refusal: BrokerRefusedError, prefix: bytes) -> None:
        super().__init__(refusal.status, refusal.problem, refusal.title, refusal.detail)
        self.prefix = prefix


class Transport:
    """Signed requests of one agency to one broker. Close it when done; it keeps connections open between requests.

    `verify` is True for the public certificate authorities or a context with those of the federation. `proxy` is the address of an HTTP
    proxy that is asked for a tunnel (`CONNECT`), for https alone. `transport` replaces the network, e.g. by an application in this process.
    """

    def __init__(
        self,
        base_url: str,
        agency: AgencyId,
        key: SigningKey,
        clock: Callable[[], datetime],
        *,
        verify: ssl.SSLContext | bool = True,
        proxy: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigError("the broker's address is not a URL: set it in node.toml, e.g. https://broker.example.org") from error
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
            raise ConfigError("the broker's address is https:// or http:// with a host, and no user or query: set it in node.toml")
        if proxy and url.scheme != "https":
            raise ConfigError("through a proxy the broker is dialled over https: set `broker` in node.toml to an https address")
        self._agency, self._key, self._clock = agency, key, clock
        self._by_proxy = bool(proxy)
        self.before_leaving: Callable[[], Awaitable[None]] | None = None
        """What every request that does more than ask waits for: that what it rests on is on this node's disk."""
        self._nonce_prefix = b""
        """As the broker said it last; nothing before its first refusal."""
        self._client = httpx.AsyncClient(
            base_url=url,
            verify=verify,
            proxy=_proxy(proxy),
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "identity", "user-agent": "sealmatch"},
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        content_type: str | None = None,
        timeout_s: float = 10,
        max_reply_bytes: int = DEFAULT_MAX_REPLY_BYTES,
        only_asks: bool = False,
    ) -> Reply:
        """The broker's reply to one signed request; `path` is already encoded and begins with a slash.

        It waits for `before_leaving` unless it `only_asks`, as every GET does. `timeout_s` is for all of it, from connecting to the last
        byte. `BrokerUnreachableError` when there is no whole reply in that time, `BrokerRefusedError` for every status but 200 to 299 and
        for a reply longer than `max_reply_bytes`.
        """

        def signed() -> httpx.Request:
            try:
                request = self._client.build_request(method, path, params=params or None, content=content, timeout=timeout_s)
            except httpx.InvalidURL as error:
                raise ConfigError("the broker's address is not one that requests can be sent to: mend it in node.toml") from error
            if content_type is not None:
                request.headers["content-type"] = content_type
            url, nonce, now = str(request.url), fresh_nonce(self._nonce_prefix), self._clock()
            request.headers.update(sign_request(method, url, content or b"", agency=self._agency, key=self._key, nonce=nonce, now=now))
            return request

        if self.before_leaving is not None and not only_asks and method != "GET":
            await self.before_leaving()
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._exchange(signed(), max_reply_bytes)
                except _NoncePrefixError as refused:
                    self._nonce_prefix = refused.prefix
                return await self._exchange(signed(), max_reply_bytes)
        except (httpx.TimeoutException, TimeoutError) as error:
            raise BrokerUnreachableError("the broker did not answer in time: it is tried again; check the network if this stays") from error
        except httpx.ProxyError as error:
            raise BrokerUnreachableError(_refused_by_proxy(str(error))) from error
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
            raise BrokerUnreachableError(_unreachable(error, by_proxy=self._by_proxy)) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _exchange(self, request: httpx.Request, max_reply_bytes: int) -> Reply:
        response = await self._client.send(request, stream=True)
        try:
            refused = not 200 <= response.status_code < 300
            body = await _read(response, _MAX_PROBLEM_BYTES if refused else max_reply_bytes)
        finally:
            await response.aclose()
            # httpx ties the response to its own stream, and the request with its content to the response: a ring, which would keep every
            # part of a message until the collector comes by.
            response.stream = httpx.ByteStream(b"")
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if refused:
            raise _refusal(response.status_code, media_type, body)
        if body is None:
            raise unreadable(response.status_code, "it is longer than any reply to this request, or compressed")
        return Reply(response.status_code, media_type, body)


async def side_by_side(ask: Callable[[int], Awaitable[_ReplyT]], numbers: Sequence[int]) -> list[_ReplyT]:
    """What `ask` gives for each number, in order, a few asked for at once. The first error ends it, and nothing goes on behind it."""
    left = iter(numbers)
    found: dict[int, _ReplyT] = {}

    async def one_after_another() -> None:
        for number in left:
            found[number] = await ask(number)

    lines = [asyncio.ensure_future(one_after_another()) for _ in range(min(_AT_ONCE, len(numbers)))]
    try:
        await asyncio.gather(*lines)
    finally:
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
    return [found[number] for number in numbers]


async def in_order(ask: Callable[[int], Awaitable[_ReplyT]], numbers: Sequence[int], take: Callable[[_ReplyT], None]) -> None:
    """Hand what `ask` gives for each number to `take`, in order, a few asked for at once and no more of them held than that.

    The first error ends it, and nothing goes on behind it.
    """
    asked: deque[asyncio.Future[_ReplyT]] = deque()
    try:
        for number in numbers:
            if len(asked) == _AT_ONCE:
                take(await asked.popleft())
            asked.append(asyncio.ensure_future(ask(number)))
        while asked:
            take(await asked.popleft())
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def unreadable(status: int, why: str) -> BrokerRefusedError:
    """The error for a reply that no broker of this protocol sends; `why` is one clause of ours, quoting nothing."""
    return BrokerRefusedError(
        status, UNREADABLE, "the reply cannot be read", f"The cause: {why}. Check that node.toml names a broker, of this version"
    )


async def _read(response: httpx.Response, limit: int) -> bytes | None:
    """The body, None when it is longer than `limit` or in an encoding that was not asked for: the rest is not read."""
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        return None
    chunks, total = [], 0
    async for chunk in response.aiter_raw():
        total += len(chunk)
        if total > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _refusal(status: int, media_type: str, body: bytes | None) -> BrokerRefusedError:
    """What a problem document says (RFC 9457), as far as it can be read; a reply of another kind says nothing but its status."""
    if media_type != "application/problem+json" or body is None:
        return unreadable(status, f"status {status} without a problem document")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return unreadable(status, f"status {status} with a broken problem document")
    if not isinstance(document, dict):
        return unreadable(status, f"status {status} with a broken problem document")
    kind = _PROBLEM_TYPE.fullmatch(str(document.get("type")))
    if kind is None:
        return unreadable(status, f"status {status} with a problem of another protocol")
    title = _printable(document.get("title"), _MAX_TITLE_CHARS) or "no title"
    refusal = BrokerRefusedError(status, kind[1], title, _printable(document.get("detail"), _MAX_DETAIL_CHARS))
    prefix = document.get("nonce_prefix")
    if refusal.problem == "nonce-prefix" and isinstance(prefix, str) and _NONCE_PREFIX.fullmatch(prefix):
        return _NoncePrefixError(refusal, bytes.fromhex(prefix))
    return refusal


def _printable(value: object, max_chars: int) -> str:
    """A peer's words, fit for a terminal and a log line."""
    text = value[:max_chars] if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _proxy(address: str) -> httpx.Proxy | None:
    """The proxy of that address. One with a name and a password in it is refused: `node.toml` holds no secret."""
    if not address:
        return None
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ConfigError("`proxy` in node.toml is not a URL: set it to the proxy's address, e.g. http://proxy.example.org:3128") from error
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.path not in {"", "/"} or url.query or url.fragment:
        raise ConfigError("`proxy` in node.toml is http:// or https:// with a host and a port, without user, path or query")
    return httpx.Proxy(url)


def _refused_by_proxy(said: str) -> str:
    """What a proxy that gives no tunnel means, by its status; its own words are left in the chain."""
    status = said[:3] if said[:3].isdigit() else "no"
    if status == "407":
        return "the proxy of node.toml wants a password, and a node has none for it: have it let this machine through to the broker alone"
    if status in {"502", "503", "504"}:
        return (
            f"the proxy of node.toml does not reach the broker (status {status}): it is tried again; check `broker`, and the proxy's line"
        )
    return f"the proxy of node.toml gives no tunnel to the broker (status {status}): have it permit CONNECT to the broker's host and port"


def _unreachable(error: Exception, *, by_proxy: bool = False) -> str:
    """Our words for the commonest causes; the library's may quote addresses and are left in the chain."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "the broker's certificate is not one that this node trusts: check broker address and certificate file in node.toml"
        if isinstance(cause, ssl.SSLError):
            return "no TLS connection to the broker: check that its address in node.toml is an https one, and the certificate file"
        cause = cause.__cause__ or cause.__context__
    if by_proxy and isinstance(error, httpx.ConnectError):
        return "the proxy of node.toml cannot be reached: it is tried again; check `proxy` and the network if this stays"
    return "the broker cannot be reached: it is tried again; check its address in node.toml and the network if this stays"
