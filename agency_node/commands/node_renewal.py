"""`sealmatch node reembed|rotate`: a gallery's templates made anew by another model, and everything at rest under a new key (R29).

The commands join those of `node`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agency_node.commands.node import app
from agency_node.commands.output import AsJson, Folder, clock, plain, print_json, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.model_in_use import NamedModel
    from agency_node.node import Node

_NICENESS: Final = 10


@app.command(
    epilog="Example: sealmatch node reembed ./lakeside --embedder insightface --face-pack pack-2027 --sha256 3f…e1 --refused ./refused.csv"
)
def reembed(
    folder: Folder,
    embedder: Annotated[str, typer.Option(help="The new face model: dlib, or insightface with a pack.")],
    face_pack: Annotated[str, typer.Option(help="insightface: the pack's folder; a relative one begins at the node's folder.")] = "",
    sha256: Annotated[str, typer.Option(help="insightface: what its pack.json hashes to, told by another way than the pack came.")] = "",
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Make the new templates and do not switch: the same without it switches.")
    ] = False,
    refused: Annotated[Path | None, typer.Option(help="Where to write the records that the new model cannot search, and why.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make every template anew with another face model, from the photographs that were kept, and switch the gallery over (R29).

    The node may serve meanwhile: it answers under the old model until the new gallery is packed. A run that was stopped is run again and
    goes on where it was. Old templates and their keys are destroyed after the switch. Records whose photograph the new model refuses stay,
    with photograph and number, and are not searched.
    """
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.config import Role  # noqa: PLC0415
        from agency_node.holder.progress import TerminalProgress  # noqa: PLC0415
        from agency_node.holder.reembedding import Reembedding, write_refused  # noqa: PLC0415
        from agency_node.model_in_use import NamedModel  # noqa: PLC0415
        from agency_node.node import open_node  # noqa: PLC0415

        node = open_node(folder, clock)
        if Role.HOLDER not in node.config.roles:
            raise RequestError("this node is no holder: set `embedder` in its node.toml to the new model, and start it again")
        by = _named(node, NamedModel(embedder, face_pack, sha256))
        with acting(node, "node reembed") as act:
            loaded = by.load(folder)
            act.subject = f"model {loaded.model.model_hash.hex()}"
            job = Reembedding(node.engine, node.vault, loaded, NamedModel.of(node.config), by, clock)
            with TerminalProgress() as progress, ThreadPoolExecutor(1, initializer=_give_way) as aside:
                done = aside.submit(job.run, progress, switch=not prepare).result()
            if refused is not None:
                write_refused(refused, done.unsearchable)
            act.detail = f"{done.embedded} records, {len(done.unsearchable)} not searched, {'switched' if done.switched else 'prepared'}"
    if as_json:
        codes = Counter(one.code for one in done.unsearchable)
        print_json(plain(done) | {"unsearchable": codes.total(), "codes": codes, "node_toml": by.in_toml()})
        return
    typer.echo(f"{done.embedded} records have templates of the new model, {len(done.unsearchable)} are kept and not searched under it")
    if not done.switched:
        typer.echo("the gallery is of the old model as before: the same command without --prepare switches it")
        return
    typer.echo("the gallery is of the new model; the old templates and their keys are destroyed, and a serving node goes over by itself")
    typer.echo(f"write into node.toml: {by.in_toml()}")
    if not done.files_clean:
        typer.echo("the write-ahead log was in use: the serving node empties it in its next round")


@app.command(epilog="Example: sealmatch node rotate ./lakeside")
def rotate(folder: Folder, as_json: AsJson = False) -> None:
    """Seal everything in the node's folder again under a new at-rest key, and destroy the old one (R29).

    The node must not serve meanwhile. A run that was stopped is run again and goes on where it was; until then the node does not open.
    Backups that were made before hold the key of then, and open with their passphrase alone.
    """
    with sentences(as_json):
        from agency_node.commands.acting import acting  # noqa: PLC0415
        from agency_node.config import NodeConfig  # noqa: PLC0415
        from agency_node.holder.progress import TerminalProgress  # noqa: PLC0415
        from agency_node.rotation import Rotation  # noqa: PLC0415

        agency = NodeConfig.load(folder).agency_id
        rotation = Rotation(folder, clock)
        try:
            with acting(rotation, "node rotate") as act:
                with TerminalProgress() as progress:
                    done = rotation.run(progress)
                act.detail = f"key epoch {done.key_epoch}"
        finally:
            rotation.close()
    if as_json:
        print_json({"agency": str(agency), **plain(done)})
        return
    typer.echo(
        f"{agency} is at key epoch {done.key_epoch}: {done.rows} rows and blocks are under the new at-rest key, the old one is destroyed"
    )
    typer.echo("make a backup now; those of before hold the old key: destroy them when this one is safe")


def _give_way() -> None:
    """Searches of the serving node come first; threads that this one starts inherit it."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _named(node: Node, by: NamedModel) -> NamedModel:
    """The new model, if node.toml could name it; `ConfigError` says why not."""
    from agency_node.config import NodeConfig  # noqa: PLC0415

    face_pack = {"folder": by.folder, "sha256": by.sha256}
    values = node.config.model_dump(mode="json", exclude_none=True) | {"embedder": by.embedder, "face_pack": face_pack}
    NodeConfig.checked(values)
    return by
