"""`sealmatch broker`: make a broker, give it a roster, serve, look.

Invariants: results go to standard output and nothing else does; with `--json` that is one JSON object on one line; errors are a sentence on
standard error that says what to do next, with exit code 2 for what the caller can change and 1 for what went wrong here. Commands import
what they need when they run. What they do is left to the modules that they call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="broker",
    help="Run the broker: mailbox, public log, roster. It routes what it cannot open.",
    epilog="Example: sealmatch broker serve /srv/broker --port 8440",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

Folder = Annotated[Path, typer.Argument(help="The broker's folder: configuration, log key, database.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command(
    epilog="Example: sealmatch broker init /srv/broker --operator broker-vendor --origin log.example.org/2026 --root-fingerprint HEX --json"
)
def init(
    folder: Folder,
    operator: Annotated[str, typer.Option(help="Agency id of whoever runs the broker; its witness does not count.")],
    origin: Annotated[str, typer.Option(help="Name of the log, such as log.example.org/2026.")],
    root_fingerprint: Annotated[str, typer.Option(help="Fingerprint of the root set that must sign the first roster, 64 hex digits.")],
    as_json: AsJson = False,
) -> None:
    """Make a broker: folder, configuration and log key; prints what the root holders put into the roster."""
    from broker.folder import make_folder  # noqa: PLC0415
    from crypto.canonical import b64url_encode  # noqa: PLC0415

    with errors_as_sentences():
        config, key = make_folder(folder, operator=operator, origin=origin, root_fingerprint=root_fingerprint)
    facts: dict[str, object] = {
        "operator": config.operator,
        "origin": config.origin,
        "log_key": b64url_encode(key.verifying_key.raw),
        "root_fingerprint": config.root_fingerprint,
    }
    show(facts, as_json)


@app.command(epilog="Example: sealmatch broker roster /srv/broker roster-7.json --json")
def roster(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="The signed roster document.", metavar="FILE")],
    as_json: AsJson = False,
) -> None:
    """Install a signed roster and enter it into the log: the first is held against the fingerprint, a later one must follow.

    A running broker sees it at once. Nodes do nothing under a roster that the log does not hold.
    """
    with errors_as_sentences():
        facts = asyncio.run(_install(folder, file))
    show(facts, as_json)


@app.command(epilog="Example: sealmatch broker serve /srv/broker --host 127.0.0.1 --port 8440")
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8440,
    port_file: Annotated[Path | None, typer.Option(help="Write the port into this file when it is open.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate chain in PEM.", exists=True, dir_okay=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key in PEM.", exists=True, dir_okay=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Serve until SIGTERM. One JSON line a request goes to standard error, without names and query strings."""
    from broker.config import BrokerConfig  # noqa: PLC0415
    from broker.serve import serve as run  # noqa: PLC0415

    if (tls_certificate is None) != (tls_key is None):
        raise typer.BadParameter("give certificate and key together, or neither.", param_hint="'--tls-certificate'")
    with errors_as_sentences():
        run(
            BrokerConfig.load(folder),
            host,
            port,
            ready=lambda open_port: show({"host": host, "port": open_port, "tls": tls_key is not None}, as_json),
            port_file=port_file,
            certificate=tls_certificate,
            key=tls_key,
        )


@app.command(epilog="Example: sealmatch broker status /srv/broker --json")
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show which roster is installed, how long the log is and what waits in the mailbox."""
    with errors_as_sentences():
        facts = asyncio.run(_status(folder))
    show(facts, as_json)


# --- what the commands do ---------------------------------------------------------------------------------------------


async def _install(folder: Path, file: Path) -> dict[str, object]:
    from broker.config import BrokerConfig  # noqa: PLC0415
    from broker.errors import OperatorError  # noqa: PLC0415
    from broker.folder import load_log_key  # noqa: PLC0415
    from broker.log_store import LogStore  # noqa: PLC0415
    from broker.roster_store import RosterStore  # noqa: PLC0415
    from broker.store import Store  # noqa: PLC0415
    from crypto.checkpoint import LogKey  # noqa: PLC0415
    from crypto.moments import format_moment  # noqa: PLC0415
    from crypto.roster import ROSTER_KIND  # noqa: PLC0415

    config = BrokerConfig.load(folder)
    key = load_log_key(folder)
    log = LogKey(config.origin, key.verifying_key)
    try:
        with file.open("rb") as document:
            data = document.read(ROSTER_KIND.max_bytes + 1)
    except OSError as error:
        raise OperatorError(f"{file} cannot be read; give the file that the root holders signed") from error
    store = await Store.open(config.database_url)
    try:
        entries = LogStore(store, key, log, config.limits)
        trusted = await RosterStore(store, config, log, entries).install(data, datetime.now(UTC))
    finally:
        await store.close()
    content = trusted.possibly_expired
    return {"version": trusted.version, "expires": format_moment(content.expires), "agencies": len(content.agencies)}


async def _status(folder: Path) -> dict[str, object]:
    from sqlalchemy import func, select  # noqa: PLC0415

    from broker.config import BrokerConfig  # noqa: PLC0415
    from broker.store import Store  # noqa: PLC0415
    from broker.tables import grants, leaves, messages, rosters  # noqa: PLC0415

    config = BrokerConfig.load(folder)
    store = await Store.open(config.database_url)
    try:
        async with store.reading() as connection:
            version = (await connection.execute(select(func.max(rosters.c.version)))).scalar()
            size = (await connection.execute(select(func.count()).select_from(leaves))).scalar_one()
            granted = (await connection.execute(select(func.count()).select_from(grants))).scalar_one()
            states = (await connection.execute(select(messages.c.state, func.count()).group_by(messages.c.state))).all()
    finally:
        await store.close()
    counts = {str(state): int(count) for state, count in states}
    return {
        "operator": config.operator,
        "origin": config.origin,
        "roster_version": version,
        "log_size": size,
        "grants": granted,
        "messages": counts,
    }


# --- output ---------------------------------------------------------------------------------------------------------


def show(facts: dict[str, object], as_json: bool) -> None:
    """Print facts for a program or for a person."""
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' ')}: {json.dumps(value) if isinstance(value, dict) else value}")


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn what our own modules raise on purpose into a sentence and an exit code."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from broker.errors import BrokerError  # noqa: PLC0415
    from crypto.errors import CryptoError, PeerError  # noqa: PLC0415
    from crypto.lawful_steps import explain  # noqa: PLC0415

    try:
        yield
    except BrokerError as error:
        fail(f"{error}.", 2)
    except PeerError as error:
        fail(f"{error}. {explain(error).step}", 2)
    except CryptoError as error:
        fail(f"{error}.", 1)
    except SQLAlchemyError as error:
        fail(f"the database does not answer ({type(error).__name__}); is its disk full, or is it another program's file?", 1)


def fail(sentence: str, code: int) -> None:
    """End with a sentence on standard error."""
    typer.echo(f"sealmatch broker: {sentence}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app(prog_name="sealmatch broker")
