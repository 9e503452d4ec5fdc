"""A pack of ArcFace-style models as a folder, and `pack.json`, which says what belongs to it.

    pack.json      name, licence, each model's file with its SHA-256, spread and centring vector, and what these were measured on
    *.onnx         a detection model (SCRFD with five landmarks) and a recognition model (ArcFace, up to 632 dimensions)

No weights are shipped or fetched: the public packs are licensed for research only, so an agency brings one that it may use and writes down
who gave it that right. All agencies that search one another use one pack.json, byte for byte.

Invariants: `node.toml` pins pack.json by a SHA-256 that came another way, and pack.json pins the models, so that whoever can change files
there changes no embedding unnoticed; a name in pack.json is that of a file in the folder itself. Left to others: measuring centre and
spread (`measure_pack`), running the models (`onnx_models`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agency_node.errors import ConfigError

PACK_FILE: Final = "pack.json"
MAX_PACK_BYTES: Final = 1 << 16
MAX_MODEL_BYTES: Final = 1 << 30
"""Five times the largest public recognition model."""
_TAKE_ANEW: Final = "take the pack anew from where it came"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelFile(BaseModel):
    """One model's file, in the pack's folder itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\.onnx$")
    sha256: Sha256


class PackManifest(BaseModel):
    """`pack.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["sealmatch-1/face-pack"] = "sealmatch-1/face-pack"
    name: str = Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")
    """Stands in the model hash, so packs of other names never meet."""
    licence: str = Field(min_length=10, max_length=1000)
    """Who gave the right to use the weights for this, and when."""
    detection: ModelFile
    recognition: ModelFile
    faces: int = Field(ge=1)
    """On how many public faces centre and spread were measured."""
    faces_sha256: Sha256
    """SHA-256 over the SHA-256 of each of their files in hex, sorted, each on a line of its own."""
    spread_milli: int = Field(ge=1000)
    centre: list[float] = Field(min_length=8, max_length=632)

    def to_bytes(self) -> bytes:
        """The file: JSON, one value a line."""
        return (json.dumps(self.model_dump(), indent=1, ensure_ascii=True) + "\n").encode("ascii")


@dataclass(frozen=True)
class PinnedPack:
    """A folder, and what its pack.json must hash to, 64 hexadecimal digits."""

    folder: Path
    sha256: str


@dataclass(frozen=True)
class PackModels:
    """The models' bytes, as pack.json pins them."""

    detection: bytes = field(repr=False)
    recognition: bytes = field(repr=False)


def read_manifest(pack: PinnedPack) -> PackManifest:
    """The pack's manifest; `ConfigError` when it cannot be read, is not the pinned one, or is no manifest."""
    data = read_file(pack.folder / PACK_FILE, MAX_PACK_BYTES)
    if hashlib.sha256(data).hexdigest() != pack.sha256:
        raise ConfigError(f"{PACK_FILE} is not the file that node.toml pins by its SHA-256: {_TAKE_ANEW}, or ask whoever told the SHA-256")
    try:
        return PackManifest.model_validate_json(data)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False, include_url=False))
        raise ConfigError(f"{PACK_FILE} is not the manifest of a pack ({wrong}): write it with `sealmatch faces measure`") from error


def unverified_pin(folder: Path) -> PinnedPack:
    """The pack that lies in a folder, whatever its pack.json hashes to: for whoever looks at it before anybody told a SHA-256."""
    return PinnedPack(folder, hashlib.sha256(read_file(folder / PACK_FILE, MAX_PACK_BYTES)).hexdigest())


def check_models(folder: Path, manifest: PackManifest) -> None:
    """`ConfigError` unless each model's file is there and the pinned one. Reads them in pieces: a node that only serves keeps none."""
    for model in (manifest.detection, manifest.recognition):
        try:
            with (folder / model.file).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(f"{model.file} of the face pack cannot be read: {_TAKE_ANEW}") from error
        _check(model, found)


def read_models(folder: Path, manifest: PackManifest) -> PackModels:
    """The models' bytes, checked after they were read, so that these very bytes are the pinned ones; `ConfigError` as `check_models`."""
    found = []
    for model in (manifest.detection, manifest.recognition):
        data = read_file(folder / model.file, MAX_MODEL_BYTES)
        _check(model, hashlib.sha256(data).hexdigest())
        found.append(data)
    return PackModels(*found)


def read_file(path: Path, most: int) -> bytes:
    """A file of the pack; `ConfigError` when it cannot be read or is longer than `most` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{path.name} of the face pack cannot be read: {_TAKE_ANEW}") from error
    if len(data) > most:
        raise ConfigError(f"{path.name} of the face pack has more than {most} bytes: {_TAKE_ANEW}")
    return data


def _check(model: ModelFile, found: str) -> None:
    if found != model.sha256:
        raise ConfigError(f"{model.file} is not the file that {PACK_FILE} pins by its SHA-256: {_TAKE_ANEW}")
