"""How `dlib_centre.json` was made: `python -m agency_node.faces.make_dlib_centre [file]` writes it again.

The centring vector is the mean of the unit embeddings of 100 public faces: the first 100 pictures of the file `data/lfw_subset.npy` in the
package scikit-image, faces drawn at random from Labeled Faces in the Wild (Huang et al., 2007), grey, 25 x 25 pixels, cut as a detector
would cut them. Each is enlarged to 150 x 150, its edge is drawn out by 75 pixels on each side so that the network's wider cut finds
something there, and the cut's own place is the face's. Nothing is fetched. The mean is insensitive to these choices: with 80 instead of 150
pixels and mirrored edges the vector has cosine 0.99997 with this one (distance 0.008; drawing 100 other faces would move it by 0.036).

The vector is an average of public pictures: it says nothing of any agency's gallery, and is the same for all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from agency_node.errors import ConfigError
from agency_node.faces.dlib_embedder import CENTRE_FILE, DIMENSIONS, DlibEmbedder, models_folder
from agency_node.faces.embedder import Box
from agency_node.faces.image import Pixels
from crypto.embedding import F32

_FACES: Final = 100
_SIDE: Final = 150
_EDGE: Final = 75
_SUBSET_SHA256: Final = "9560ec2f5edfac01973f63a8a99d00053fecd11e21877e18038fbe500f8e872c"


def public_faces() -> list[Pixels]:
    """The 100 pictures, each enlarged and with its edge drawn out; uint8[300, 300, 3]. `ConfigError` when the file is another."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the package scikit-image is not installed: install the extra `demo`")
    path = Path(spec.submodule_search_locations[0]) / "data" / "lfw_subset.npy"
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SUBSET_SHA256:
        raise ConfigError("lfw_subset.npy is not the file that the centring vector was made from: install the locked scikit-image")
    grey = np.rint(np.load(path)[:_FACES] * 255).astype(np.uint8)
    return [_enlarged(picture) for picture in grey]


def unit_embeddings(embedder: DlibEmbedder) -> npt.NDArray[np.float64]:
    """Their embeddings, each normalised; float64[100, 128]."""
    box = Box(_EDGE, _EDGE, _SIDE, _SIDE)
    embeddings = np.array([embedder.embed_at(picture, box) for picture in public_faces()], np.float64)
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))


def centre_of(units: npt.NDArray[np.float64]) -> F32:
    """The mean, float32[D]."""
    return np.asarray(units.mean(axis=0), np.float32)


def document(centre: F32) -> str:
    """The file's text: the vector to six decimals, one number a line, and where it comes from."""
    content = {
        "what": "centring vector of agency_node.faces.dlib_embedder: mean of unit embeddings",
        "made_by": "python -m agency_node.faces.make_dlib_centre",
        "faces": f"the first {_FACES} pictures of lfw_subset.npy in scikit-image (Labeled Faces in the Wild)",
        "faces_sha256": _SUBSET_SHA256,
        "centre": [round(float(value), 6) for value in centre],
    }
    return json.dumps(content, indent=1) + "\n"


def _enlarged(grey: npt.NDArray[np.uint8]) -> Pixels:
    large = np.asarray(Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
    return np.stack([np.pad(large, _EDGE, mode="edge")] * 3, axis=-1)


def main(arguments: list[str]) -> None:
    """Write the vector to the file named, or over the one in the package."""
    target = Path(arguments[0]) if arguments else CENTRE_FILE
    uncentred = DlibEmbedder(models_folder(), np.zeros(DIMENSIONS, np.float32))
    target.write_text(document(centre_of(unit_embeddings(uncentred))), "ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
