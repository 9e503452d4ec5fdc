"""Who sent a request: decided before anything of it is acted on, and refused by default.

Invariants: a `Caller` is an agency of the roster in force; it signed method, address, query and body with its node key within the last
minute, under a nonce that was never used before, also not before a restart. The body is read only after the signature over its digest
held, at most as long as allowed and not for longer than a timeout. What a caller may do is left to the services.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.dialects.sqlite import insert
from starlette.requests import ClientDisconnect, Request

from broker.config import Limits
from broker.errors import OversizedRequestError, ReplayedRequestError, SlowRequestError, StaleRequestError, UnsignedRequestError
from broker.roster_store import RosterStore
from broker.store import Store, milliseconds
from broker.tables import nonces
from crypto.canonical import AgencyId
from crypto.errors import BadSignatureError
from crypto.request_signature import VerifiedRequest, check_request
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

    def __init__(self, store: Store, rosters: RosterStore, limits: Limits, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._rosters = rosters
        self._limits = limits
        self._clock = clock

    async def caller_of(self, request: Request) -> Caller:
        """The caller, after these checks in this order:

        1. a roster is installed and in force (`NoRosterError`, `RosterExpiredError`)
        2. signed by the node key of an agency in it (`UnsignedRequestError`, `UnknownAgencyError`)
        3. created within a minute of now (`StaleRequestError`)
        4. the body has an allowed length and the digest that was signed (`OversizedRequestError`, `UnsignedRequestError`)
        5. the nonce is new; from now on it is used (`ReplayedRequestError`)
        """
        now = self._clock()
        roster = await self._rosters.at(now)  # 1
        try:  # 2
            verified = check_request(request.method, _url_of(request), _headers_of(request), roster.node_key)
        except BadSignatureError as error:
            raise UnsignedRequestError(str(error)) from error
        if not verified.is_fresh(now):  # 3
            raise StaleRequestError("the request was not signed within a minute of the broker's clock")
        body = await read_body(request, self._limits)  # 4
        try:
            verified.check_body(body)
        except BadSignatureError as error:
            raise UnsignedRequestError(str(error)) from error
        await self._spend(verified, now)  # 5
        return Caller(verified.agency, roster, now, body)

    async def _spend(self, verified: VerifiedRequest, now: datetime) -> None:
        kept_until = milliseconds(now + timedelta(seconds=self._limits.nonce_kept_s))
        statement = insert(nonces).values(agency=verified.agency, nonce=verified.nonce, kept_until=kept_until).on_conflict_do_nothing()
        async with self._store.writing() as connection:
            if (await connection.execute(statement)).rowcount != 1:
                raise ReplayedRequestError("the request's nonce was used before")


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
