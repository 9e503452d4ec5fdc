"""Waiting for a release at the terminal, with a line for each step of the search and of each holder, as it comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import typer

from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.node import Node

POLL_S: Final = 0.3


def wait_for_release(node: Node, search: str, seconds: float, *, quiet: bool) -> None:
    """Until the search has ended one way or another; a line for each step of the search and of each holder, as it comes."""
    from agency_node.overview import ENDED, holder_events, search_status  # noqa: PLC0415
    from agency_node.requester.leads import list_leads  # noqa: PLC0415

    until, state, shown = time.monotonic() + seconds, "", 0
    while time.monotonic() < until:
        with node.engine.begin() as connection:
            found = search_status(connection, search)
        events = holder_events(node.engine, search)
        if not quiet:
            for one in events[shown:]:
                typer.echo(f"{one['at']} {one['holder']}: {one['state']}", err=True)
            if found.state != state:
                typer.echo(f"{found.state}: " + ", ".join(f"{name} {one['state']}" for name, one in found.holders.items()), err=True)
        state, shown = found.state, len(events)
        if found.state in ENDED and found.state != "closed":
            raise RequestError(f"the search is {found.state}: {found.note}")
        if found.state == "released" and all(one.handle or one.agency for one in list_leads(node.engine, node.vault, search)):
            return
        time.sleep(POLL_S)
    raise RequestError("the release has not come in this time; the node goes on: look again with `node release`")
