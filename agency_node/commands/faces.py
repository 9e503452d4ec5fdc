"""`sealmatch faces`: packs of ArcFace-style models, for the embedder `insightface`: measure one, check one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agency_node.commands.output import AsJson, print_json, print_table, sentences
from agency_node.errors import RequestError

if TYPE_CHECKING:
    from agency_node.faces.embedder import Embedder
    from agency_node.faces.pack import PackManifest, PinnedPack

PackFolder = Annotated[Path, typer.Argument(help="The pack's folder.", metavar="FOLDER", show_default=False)]

app = typer.Typer(
    help="Packs of face models that an agency brings for the embedder insightface; no weights are shipped or fetched.",
    epilog="Example: sealmatch faces check ./pack",
    no_args_is_help=True,
)


@app.command(
    epilog="Example: sealmatch faces measure ./pack --detection det_10g.onnx --recognition w600k_r50.onnx --name arcface-r50 "
    "--licence 'Licensed to Northport Police by its maker, contract 26-114 of 2026-09-01' --photographs ./public-faces"
)
def measure(
    folder: PackFolder,
    detection: Annotated[str, typer.Option(help="The SCRFD model's file in the folder.")],
    recognition: Annotated[str, typer.Option(help="The ArcFace model's file in the folder.")],
    photographs: Annotated[Path, typer.Option(help="Folder with at least 100 pictures of public faces; never those of a gallery.")],
    name: Annotated[str, typer.Option(help="The pack's name: small letters, digits, hyphens.")],
    licence: Annotated[str, typer.Option(help="Who gave the right to use these weights for this, and when.")],
    dimensions: Annotated[int, typer.Option(help="Of the recognition model.", min=8, max=632)] = 512,
    as_json: AsJson = False,
) -> None:
    """Measure centre and spread of a pack on public faces and write its pack.json, which every agency of a federation then uses."""
    with sentences(as_json):
        from pydantic import ValidationError  # noqa: PLC0415

        from agency_node.faces.measure_pack import measure as measured  # noqa: PLC0415
        from agency_node.faces.pack import PACK_FILE, PinnedPack  # noqa: PLC0415
        from agency_node.holder.progress import TerminalProgress  # noqa: PLC0415

        target = folder / PACK_FILE
        if target.exists():
            raise RequestError(
                f"{target} is there already: remove it if the pack is to be measured anew; galleries enrolled with it then fit no more"
            )
        try:
            with TerminalProgress() as progress:
                manifest = measured(
                    folder,
                    photographs,
                    progress,
                    name=name,
                    licence=licence,
                    detection=detection,
                    recognition=recognition,
                    dimensions=dimensions,
                )
        except ValidationError as error:
            wrong = ", ".join(sorted({str(one["loc"][0]) for one in error.errors(include_input=False, include_url=False)}))
            raise RequestError(f"this makes no pack.json ({wrong}): models are .onnx files of the folder itself; see --help") from error
        data = manifest.to_bytes()
        try:
            target.write_bytes(data)
        except OSError as error:
            raise RequestError(f"{target} cannot be written: let this account write into the folder") from error
        pinned = PinnedPack(folder, hashlib.sha256(data).hexdigest())
        embedder = _embedder(pinned)
    _say(embedder, manifest, pinned, as_json=as_json)


@app.command(epilog="Example: sealmatch faces check ./pack --sha256 3f…e1")
def check(
    folder: PackFolder,
    sha256: Annotated[str, typer.Option(help="What pack.json must hash to, told by whoever measured the pack.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check a pack: pack.json, each model against its SHA-256, and that both run here."""
    with sentences(as_json):
        from agency_node.faces.pack import PinnedPack, read_manifest, unverified_pin  # noqa: PLC0415

        pinned = PinnedPack(folder, sha256) if sha256 else unverified_pin(folder)
        manifest = read_manifest(pinned)
        embedder = _embedder(pinned)
    _say(embedder, manifest, pinned, as_json=as_json)


def _embedder(pinned: PinnedPack) -> Embedder:
    """The pack's embedder, after it has run once."""
    import numpy as np  # noqa: PLC0415

    from agency_node.faces.embedder import PACKED, load_embedder  # noqa: PLC0415

    embedder = load_embedder(PACKED, pinned)
    embedder.faces(np.zeros((64, 64, 3), np.uint8))
    return embedder


def _say(embedder: Embedder, manifest: PackManifest, pinned: PinnedPack, *, as_json: bool) -> None:
    model = embedder.model
    rows = {
        "name": manifest.name,
        "licence": manifest.licence,
        "dimensions": model.dimensions,
        "measured_on_faces": manifest.faces,
        "spread_milli": model.spread_milli,
        "gamma": model.scales.gamma,
        "mu": model.scales.mu,
        "model_hash": model.model_hash.hex(),
        "sha256": pinned.sha256,
    }
    if as_json:
        print_json(rows)
        return
    print_table(str(pinned.folder), {"": False, "value": True}, rows.items())
    typer.echo(f'in node.toml:\n\nembedder = "insightface"\n\n[face_pack]\nfolder = "{pinned.folder}"\nsha256 = "{pinned.sha256}"')
