"""The broker as a process: uvicorn over the application, one JSON line a request on standard error, a stop within three seconds.

Invariants: uvicorn's own access log, which holds query strings, is off; on SIGTERM open long polls end at once, so that the stop does not
wait for them; the port file appears, whole, only when the port is open. Left to others: the application (`app`).
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from broker.app import create_app
from broker.bell import Bell
from broker.config import BrokerConfig
from broker.errors import OperatorError

_STOP_WITHIN_S: Final = 2
"""Seconds that running requests have after SIGTERM."""


class _JsonLines(logging.Formatter):
    """One JSON object a line. Texts of our own loggers are JSON already; of others only the level and the logger's name are kept."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        if record.name.startswith("sealmatch."):
            line |= json.loads(record.getMessage())
        return json.dumps(line)


class _Server(uvicorn.Server):
    """Tells long polls that the broker stops, and others that it is ready."""

    def __init__(self, config: uvicorn.Config, bell: Bell, ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._bell = bell
        self._ready = ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._bell.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            self._ready(sockets[0].getsockname()[1])


def serve(
    config: BrokerConfig,
    host: str,
    port: int,
    *,
    ready: Callable[[int], None],
    port_file: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, and return; `ready` is told the port when it is open.

    `OperatorError` if the port is taken, certificate or log key cannot be used, or the store contradicts itself.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("sealmatch").setLevel(logging.INFO)
    app = create_app(config)
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_WITHIN_S,
        timeout_keep_alive=75,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        settings.load()
    except (OSError, ValueError) as error:
        raise OperatorError("certificate or key cannot be read; give both as PEM files") from error

    def tell(open_port: int) -> None:
        gc.freeze()  # modules and routes stay for ever: a collection that walks them all takes as long as several requests
        if port_file is not None:
            _write_whole(port_file, f"{open_port}\n")
        ready(open_port)

    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            stop, lambda _number, _frame: None
        )  # uvicorn raises the signal again when it has stopped: that is the end, not a fault
    with _listen(host, port) as listener:
        try:
            _Server(settings, app.state.bell, tell).run([listener])
        except SystemExit as error:
            if isinstance(app.state.failure, Exception):
                raise app.state.failure from error
            raise


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OperatorError(f"cannot listen on {host} port {port}; take another with --port, or 0 for a free one") from error
    return listener


def _write_whole(path: Path, text: str) -> None:
    """Whoever reads the file sees all of it or none."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="ascii")
    os.replace(partial, path)
