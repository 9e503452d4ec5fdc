"""`sealmatch log opened|counts|monitor`: which entries of the public log were opened, what may be counted, what is wrong.

Nothing is believed that was not verified. The commands join those of `log`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.log import app
from agency_node.commands.output import AsJson, clock, plain, print_json, print_table, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.link import BrokerLink
    from agency_node.log_openings import OpenedEntry
    from crypto.entries import LogEntry
    from crypto.roster import Roster

Node = Annotated[Path | None, typer.Option(help="A node's folder: its broker and its pinned roster.")]
Broker = Annotated[str, typer.Option(help="Without a node: the broker's address.")]
RosterFile = Annotated[Path | None, typer.Option("--roster", help="Without a node: the signed roster.")]
Fingerprint = Annotated[str, typer.Option(help="Without a node: of the root set, as the root holders publish it.")]
KEYS = "--roster roster.json --root-fingerprint 3f…e1"


@dataclass(frozen=True)
class _Verified:
    """A log that was read to its cosigned head, with every published opening that it commits to."""

    roster: Roster
    entries: Sequence[LogEntry] = field(repr=False)
    published: Sequence[OpenedEntry] = field(repr=False)


@app.command(epilog=f"Example: sealmatch log opened ./opened-3f9c.json --broker https://broker.example.org {KEYS}")
def opened(
    file: Annotated[Path | None, typer.Argument(help="What an agency handed over; without it, what was published.")] = None,
    node: Node = None,
    broker: Broker = "",
    roster: RosterFile = None,
    root_fingerprint: Fingerprint = "",
    as_json: AsJson = False,
) -> None:
    """Show opened fields of log entries, each verified against its leaf under the cosigned head; anything false refuses them all."""
    with sentences(as_json):
        from agency_node.log_openings import read_handed_over  # noqa: PLC0415

        log = _read(node, broker, roster, root_fingerprint)
        source, found = "published", log.published
        if file is not None:
            said, found = read_handed_over(_bytes(file), log.roster, log.entries)
            source = f"handed over by {said.agency}"
    if as_json:
        print_json({"ok": True, "source": source, "size": len(log.entries), "entries": [one.to_json() for one in found]})
        return
    rows = [
        (one.position, one.entry.day, one.entry.kind.value, "; ".join(f"{name} {value or '-'}" for name, value in one.fields.items()))
        for one in found
    ]
    print_table(
        f"{len(found)} of {len(log.entries)} entries opened, {source}", {"leaf": True, "day": True, "kind": True, "fields": False}, rows
    )


@app.command(epilog=f"Example: sealmatch log counts --broker https://broker.example.org {KEYS} --json")
def counts(
    handed: Annotated[
        list[Path] | None, typer.Option(help="Count what agencies handed over and is not published; repeat for several.")
    ] = None,
    node: Node = None,
    broker: Broker = "",
    roster: RosterFile = None,
    root_fingerprint: Fingerprint = "",
    as_json: AsJson = False,
) -> None:
    """Count entries by kind and day, and opened ones by class, agency, offence, basis and outcome in cells of at least five (R62)."""
    with sentences(as_json):
        from agency_node.log_openings import count_entries, read_handed_over  # noqa: PLC0415
        from crypto.entry_counts import MIN_CELL  # noqa: PLC0415

        log = _read(node, broker, roster, root_fingerprint)
        counted: Sequence[OpenedEntry] = log.published
        if handed:
            public = {one.position for one in log.published}
            of_files = {one.position: one for path in handed for one in read_handed_over(_bytes(path), log.roster, log.entries)[1]}
            counted = [one for position, one in sorted(of_files.items()) if position not in public]
        found = count_entries(log.entries, counted)
    if as_json:
        print_json({"ok": True, "size": len(log.entries), "counted": "handed over" if handed else "published", **found.to_json()})
        return
    print_table("all entries, as the leaves show them", {"day": True, "kind": True, "entries": True}, found.entries())
    for table in found.tables():
        lines = [*table.lines, *([("others", table.others)] if table.others else [])]
        total = f"fewer than {MIN_CELL}" if table.total is None else table.total
        print_table(f"{table.name}: {total}", {"of": True, "entries": True}, lines)


@app.command(epilog=f"Example: sealmatch log monitor ./watched --broker https://broker.example.org {KEYS}")
def monitor(
    folder: Annotated[Path, typer.Argument(help="Where the monitor keeps what it read; made when it is not there.", show_default=False)],
    node: Node = None,
    broker: Broker = "",
    roster: RosterFile = None,
    root_fingerprint: Fingerprint = "",
    delay_days: Annotated[int, typer.Option(min=1, max=366, help="After how many days entries are to be open.")] = 30,
    grace_days: Annotated[int, typer.Option(min=0, max=366, help="How late an opening may be.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Look at the log once; say what is overdue, missing, false or forked. Exit code 0: nothing; 1: something; 2: it could not look."""
    with sentences(as_json):
        from agency_node.log_monitor import watch_log  # noqa: PLC0415

        link, trusted = _source(node, broker, roster, root_fingerprint)
        delay, grace = timedelta(days=delay_days), timedelta(days=grace_days)
        watch = asyncio.run(watch_log(link, trusted, folder, clock(), delay=delay, grace=grace))
    if as_json:
        print_json({"ok": not watch.findings, **plain(watch)})
    else:
        print_table(
            f"{watch.origin}: {watch.size} entries, {watch.new_entries} of them new, {watch.opened} opened fields",
            {"finding": True, "what is wrong": False},
            [(one.name, one.says) for one in watch.findings] or [("-", "nothing")],
        )
        for line in watch.news:
            typer.echo(f"news: {line}")
    if watch.findings:
        raise typer.Exit(1)


def _source(node: Path | None, broker: str, roster: Path | None, root_fingerprint: str) -> tuple[BrokerLink, Roster]:
    """Where to read, and under which roster; it may have expired."""
    from agency_node.legal.ceremony import read_roster  # noqa: PLC0415
    from agency_node.link import BrokerLink  # noqa: PLC0415
    from agency_node.node import open_node  # noqa: PLC0415
    from agency_node.transport import Transport  # noqa: PLC0415
    from crypto.canonical import AgencyId  # noqa: PLC0415
    from crypto.keys import SigningKey  # noqa: PLC0415
    from crypto.roster import TrustedRoster  # noqa: PLC0415

    if node is not None:
        opened_node = open_node(node, clock)
        return opened_node.link, opened_node.parties.trusted.possibly_expired
    if not broker or roster is None or not re.fullmatch("[0-9a-f]{64}", root_fingerprint):
        raise RequestError("name a --node, or --broker, --roster and --root-fingerprint (64 hexadecimal digits)")
    trusted = TrustedRoster.resume(read_roster(roster), bytes.fromhex(root_fingerprint))
    # the log is public: its requests are read by anybody, and a throw-away key signs them
    return BrokerLink(Transport(broker, AgencyId("public"), SigningKey.generate(), clock)), trusted.possibly_expired


def _read(node: Path | None, broker: str, roster: Path | None, root_fingerprint: str) -> _Verified:
    from agency_node.log_openings import by_entry, read_published  # noqa: PLC0415
    from agency_node.verification import verify_log  # noqa: PLC0415
    from crypto.errors import RosterExpiredError  # noqa: PLC0415

    link, trusted = _source(node, broker, roster, root_fingerprint)
    if clock() >= trusted.expires:
        raise RosterExpiredError("roster has expired; nothing is decided until a newer one is here")
    entries: list[LogEntry] = []

    async def read() -> Sequence[OpenedEntry]:
        await verify_log(link, trusted, clock(), each=entries.append)
        return by_entry(await read_published(link, entries), entries)

    published = asyncio.run(read())
    return _Verified(trusted, entries, published)


def _bytes(path: Path) -> bytes:
    from crypto.entry_openings import OPENED_ENTRIES_KIND  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            return file.read(OPENED_ENTRIES_KIND.max_bytes + 1)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: check the path") from error
