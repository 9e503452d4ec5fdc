"""Who sent a request: decided before anything of it is acted on, and refused by default.

Invariants: a `Caller` is an agency of the roster in force; it signed method, address, query and body with its node key within the last
minute, under a nonce that begins with this process's prefix and was never used before. Nothing of it is written to the disk. The body is
read only after the signature over its digest held, at most as long as allowed and not for longer than a timeout. Left to others: which
nonces were used (`nonces`), what a caller may do (the services).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from starlette.requests import ClientDisconnect, Request

from broker.config import Limits
from broker.errors import OversizedRequestError, SlowRequestError, StaleRequestError, UnsignedRequestError
from broker.nonces import Nonces
from broker.roster_store import RosterStore
from crypto.canonical import AgencyId
from crypto.errors import BadSignatureError
from crypto.request_signature import check_request
from crypto.roster import Roster


@dataclass(frozen=True)
class Caller:
    """Who asks, when, under which roster, with which body."""

    agency: AgencyId
    roster: Roster = field(repr=False)
    now: datetime
    body: bytes = field(repr=False)


class Authentication:
    """Turns a request into its caller, or refuses it."""

    def __init__(self, rosters: RosterStore, limits: Limits, clock: Callable[[], datetime]) -> None:
        self._rosters = rosters
        self._limits = limits
        self._clock = clock
        self._nonces = Nonces(limits.max_nonces, clock())

    @property
    def nonce_prefix(self) -> bytes:
        """What every request's nonce begins with."""
        return self._nonces.prefix

    async def caller_of(self, request: Request) -> Caller:
        """The caller, after these checks in this order:

        1. a roster is installed and in force (`NoRosterError`, `RosterExpiredError`)
        2. signed by the node key of an agency in it (`UnsignedRequestError`, `UnknownAgencyError`)
        3. created within a minute of now (`StaleRequestError`)
        4. its nonce begins with this process's prefix (`NoncePrefixError`): who knows no prefix yet sends no body that is read
        5. the body has an allowed length and the digest that was signed (`OversizedRequestError`, `UnsignedRequestError`)
        6. the nonce is new; from now on it is used (`ReplayedRequestError`, and the refusals of 3 and 4 if the body took its time)
        """
        now = self._clock()
        roster = await self._rosters.at(now)  # 1
        try:  # 2
            verified = check_request(request.method, _url_of(request), _headers_of(request), roster.node_key)
        except BadSignatureError as error:
            raise UnsignedRequestError(str(error)) from error
        if not verified.is_fresh(now):  # 3
            raise StaleRequestError("the request was not signed within a minute of the broker's clock")
        self._nonces.check_prefix(verified.nonce)  # 4
        body = await read_body(request, self._limits)  # 5
        try:
            verified.check_body(body)
        except BadSignatureError as error:
            raise UnsignedRequestError(str(error)) from error
        self._nonces.spend(verified, self._clock())  # 6
        return Caller(verified.agency, roster, now, body)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, if it is short enough and arrives in time."""
    pieces: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for piece in request.stream():
                length += len(piece)
                if length > limits.max_body_bytes:
                    raise OversizedRequestError(f"a request has at most {limits.max_body_bytes} bytes")
                pieces.append(piece)
    except TimeoutError as error:
        raise SlowRequestError("the body did not arrive in time") from error
    except ClientDisconnect as error:
        raise SlowRequestError("the body ended before its length") from error
    return b"".join(pieces)


def _url_of(request: Request) -> str:
    """The absolute URL as it was sent: path and query are not decoded and encoded again."""
    scope = request.scope
    host = request.headers.get("host", "")
    path = (scope.get("raw_path") or scope["path"].encode("utf-8")).partition(b"?")[0].decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    return f"{scope['scheme']}://{host}{path}" + (f"?{query}" if query else "")


def _headers_of(request: Request) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
