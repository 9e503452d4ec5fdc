"""How a pack's `pack.json` is made: centre and spread of its embeddings on public faces, beside the hashes of its models.

The centring vector is the mean of the unit embeddings of public faces; the spread is the largest standard deviation of a coordinate of the
centred set, times sqrt(D), times 1.1, up to the next 0.05: of 100 faces a standard deviation is known to 7 %, and the largest of many lies
above its true value rather than below. Invariants: the same files give the same pack.json; a picture that does not show exactly one face is
left out; fewer than `LEAST_FACES` faces make no pack.

**The faces must be public ones, never a gallery's**: the vector stands in pack.json, which every agency reads, and the mean of a gallery
would be a fact about that gallery.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Final

import numpy as np

from agency_node.errors import ConfigError, ImageError
from agency_node.faces.embedder import the_one_face
from agency_node.faces.image import MAX_IMAGE_BYTES, read_image
from agency_node.faces.insightface_embedder import InsightfaceEmbedder
from agency_node.faces.pack import MAX_MODEL_BYTES, ModelFile, PackManifest, read_file
from agency_node.holder.progress import Progress

LEAST_FACES: Final = 100
"""As many as dlib's centre was made of."""
_MARGIN: Final = 1.1
_STEP_MILLI: Final = 50


def measure(
    folder: Path, photographs: Path, progress: Progress, *, name: str, licence: str, detection: str, recognition: str, dimensions: int
) -> PackManifest:
    """The manifest of the models in `folder`, measured on the pictures in `photographs`; `ConfigError` says what is lacking."""
    files = [ModelFile(file=file, sha256=_sha256(folder / file)) for file in (detection, recognition)]
    drawn = {"name": name, "licence": licence, "detection": files[0], "recognition": files[1]}
    # Faces are found and embedded without a centre; zeros stand in for it.
    unmeasured = PackManifest(**drawn, faces=1, faces_sha256="0" * 64, spread_milli=1000, centre=[0.0] * dimensions)  # type: ignore[arg-type]
    embedder = InsightfaceEmbedder(folder, unmeasured)
    try:
        paths = sorted(path for path in photographs.iterdir() if path.is_file())
    except OSError as error:
        raise ConfigError("the folder of photographs cannot be read: name one with pictures of public faces") from error
    progress.text("Measuring the pack")
    progress.total(len(paths))
    hashes, embeddings = [], []
    for path in paths:
        try:
            with path.open("rb") as file:
                image = read_image(file.read(MAX_IMAGE_BYTES + 1))
            embeddings.append(the_one_face(embedder, image).embedding)
            hashes.append(image.sha256.hex())
        except (ImageError, OSError):
            pass
        progress.advance()
    if len(embeddings) < LEAST_FACES or len(set(hashes)) < len(hashes):
        raise ConfigError(
            f"{len(set(hashes))} different pictures there show exactly one face: put {LEAST_FACES} or more there, none of them twice"
        )
    units = np.array(embeddings, np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    centre = np.round(units.mean(axis=0), 6)
    centred = units - centre
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    spread = 1000 * _MARGIN * float(centred.std(axis=0).max()) * math.sqrt(dimensions)
    listed = hashlib.sha256("".join(f"{one}\n" for one in sorted(hashes)).encode("ascii")).hexdigest()
    spread_milli = max(1000, _STEP_MILLI * math.ceil(spread / _STEP_MILLI))
    return PackManifest(
        **drawn,  # type: ignore[arg-type]
        faces=len(embeddings),
        faces_sha256=listed,
        spread_milli=spread_milli,
        centre=[float(value) for value in centre],
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path, MAX_MODEL_BYTES)).hexdigest()
