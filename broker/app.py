"""Composition root: builds the services of a broker and the application over them, and nothing else does.

Invariants: whatever goes wrong is answered with a problem document; a log line holds method, route, status and time and nothing of the
request's path, query or parties. Left to others: the routes (`api`), the words (`problems`), the process (`serve`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker import api
from broker.bell import Bell
from broker.config import BrokerConfig
from broker.errors import OversizedRequestError, RefusedError
from broker.problems import MEDIA_TYPE, Problem, problem_of, problem_of_status, store_problem
from broker.services import Clock, Services
from broker.sweep import sweep
from crypto.errors import CryptoError

LOGGER: Final = logging.getLogger("sealmatch.broker")


def system_clock() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)


def create_app(config: BrokerConfig, *, clock: Clock = system_clock) -> FastAPI:
    """The application of one broker. Its services are opened when it starts and closed when it ends."""
    bell = Bell(config.limits.look_again_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            services = await Services.open(config, clock, bell)
        except Exception as error:
            app.state.failure = error  # the server's own words for a start that failed say nothing of why
            raise
        app.state.services = services
        sweeping = asyncio.create_task(_sweep_for_ever(services))
        try:
            yield
        finally:
            sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeping
            await services.close()

    # No `max_body_size`: the framework's own limit would stand twice around every request, and nothing but `caller_of` reads a body.
    limit = config.limits.max_body_bytes
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.bell = bell
    app.state.failure = None
    for router in (api.mail, api.signed, api.public):
        app.include_router(router)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(CryptoError, _refused)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(SQLAlchemyError, _store)
    app.add_middleware(_Outermost, max_body_bytes=limit)
    return app


async def _sweep_for_ever(services: Services) -> None:
    while True:
        await asyncio.sleep(services.limits.sweep_s)
        try:
            await sweep(services.store, services.limits, services.clock())
        except SQLAlchemyError as error:
            LOGGER.error(json.dumps({"event": "sweep-failed", "error": type(error).__name__}))


# --- refusals ---------------------------------------------------------------------------------------------------------


def _answer(problem: Problem) -> Response:
    headers = {"WWW-Authenticate": "Signature"} if problem.status == 401 else None
    return Response(problem.to_bytes(), problem.status, headers, MEDIA_TYPE)


async def _refused(_request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status >= 500:
        LOGGER.error(json.dumps({"event": "failed", "error": type(error).__name__}))
    return _answer(problem)


async def _unreadable(_request: Request, _error: Exception) -> Response:
    return _answer(problem_of_status(400))


async def _framework(_request: Request, error: Exception) -> Response:
    return _answer(problem_of_status(error.status_code if isinstance(error, HTTPException) else 500))


async def _store(_request: Request, error: Exception) -> Response:
    LOGGER.error(json.dumps({"event": "store-failed", "error": type(error).__name__}))
    return _answer(store_problem())


class _Outermost:
    """Logs one line a request, refuses a body that is announced as too long, answers with a problem document what nothing inside did."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if _announced_bytes(scope) > self._max_body_bytes:
                await _answer(problem_of(OversizedRequestError(f"a request has at most {self._max_body_bytes} bytes")))(
                    scope, receive, noting
                )
            else:
                await self.app(scope, receive, noting)
        except Exception as error:
            LOGGER.error(json.dumps({"event": "failed", "error": type(error).__name__}))
            if status:
                raise
            await _answer(problem_of(error))(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", None)
            line = {"method": scope["method"], "route": route, "status": status, "ms": round((time.monotonic() - began) * 1000)}
            LOGGER.info(json.dumps(line))


def _announced_bytes(scope: Scope) -> int:
    """What Content-Length says; the server has checked that it is a number."""
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(value) for value in values if value.isdigit()), default=0)
