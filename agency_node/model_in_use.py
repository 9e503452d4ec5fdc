"""Which face model a node works with: what node.toml names, or what its gallery was re-embedded with since.

The switch of a gallery to another model is one transaction of the store (`holder.reembedding`); a file beside the store cannot be part of
it. So the store says what the model of node.toml was replaced with, and that holds for as long as node.toml names the one that was
replaced: whoever writes the new one into node.toml, or a third one, has the last word. Left to others: loading it (`faces.embedder`), the
check that the gallery is of it (`holder.blocks`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sqlalchemy import Connection, Engine

from agency_node.config import NodeConfig
from agency_node.faces.pack import PinnedPack
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.store import reading

if TYPE_CHECKING:
    from agency_node.faces.embedder import Embedder


@dataclass(frozen=True)
class NamedModel:
    """A face model as node.toml names one: the embedder, and for `insightface` the pack's folder and the hash of its pack.json."""

    embedder: str
    folder: str = ""
    sha256: str = ""

    @classmethod
    def of(cls, config: NodeConfig) -> Self:
        """What node.toml names."""
        return cls(config.embedder, config.face_pack.folder, config.face_pack.sha256)

    def load(self, node_folder: Path) -> Embedder:
        """The embedder; `ConfigError` as `load_embedder`. A relative folder of a pack begins at the node's folder."""
        from agency_node.faces.embedder import load_embedder  # noqa: PLC0415  # few commands need one

        return load_embedder(self.embedder, PinnedPack(node_folder / self.folder, self.sha256) if self.folder else None)

    def in_toml(self) -> str:
        """What node.toml says for it, on one line."""
        pack = f", [face_pack] folder = {json.dumps(self.folder)}, sha256 = {json.dumps(self.sha256)}" if self.folder else ""
        return f"embedder = {json.dumps(self.embedder)}{pack}"


def model_in_use(engine: Engine, config: NodeConfig) -> NamedModel:
    """The model of node.toml, or the one that replaced it."""
    named = NamedModel.of(config)
    with reading(engine).begin() as connection:
        stored = read_fact(connection, Fact.MODEL_REPLACED)
    if stored is None:
        return named
    said = json.loads(stored)
    return NamedModel(**said["by"]) if NamedModel(**said["was"]) == named else named


def replace_model(connection: Connection, was: NamedModel, by: NamedModel) -> None:
    """In the caller's transaction: from now on `by` is meant where node.toml names `was`."""
    write_fact(connection, Fact.MODEL_REPLACED, json.dumps({"was": asdict(was), "by": asdict(by)}).encode("utf-8"))
