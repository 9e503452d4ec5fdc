"""What is enrolled for the demonstration: two public-domain portraits and many synthetic records, some of them made to be nearly taken for
the person who is sought.

The astronaut is NASA's portrait of Eileen Collins in scikit-image, the other one the US Navy's of Grace Hopper in matplotlib; both public
domain. They are demonstration portraits, never booking records. Synthetic records are directions, not pictures of anybody.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageFilter

from crypto.embedding import F32, EmbeddingModel
from crypto.impostors import ImpostorTable
from crypto.layout import SPARE_SLOTS, kept_fillers
from crypto.ring import F64, N

RECORDS: Final = 20_000
NEAR_MISSES: Final = 20
RIVALS: Final = 3


@dataclass(frozen=True)
class Portrait:
    """One photograph and the record number under which it is enrolled."""

    name: str
    record_number: str
    captured: date
    jpeg: bytes = field(repr=False)


def portraits() -> dict[str, Portrait]:
    """The two photographs, read from the packages that carry them."""
    import matplotlib.cbook  # noqa: PLC0415  # optional packages of the demonstration
    from skimage import data  # noqa: PLC0415

    sample: Any = matplotlib.cbook.get_sample_data("grace_hopper.jpg")
    with sample as file:
        hopper = Image.open(file).convert("RGB")
    pixels: Any = data
    astronaut = Image.fromarray(pixels.astronaut()).convert("RGB")
    return {
        "astronaut": Portrait("astronaut", "E-2019-004417", date(2019, 3, 8), _jpeg(astronaut, 95)),
        "hopper": Portrait("hopper", "L-2021-000093", date(2021, 12, 9), _jpeg(hopper, 95)),
    }


def degraded(jpeg: bytes) -> bytes:
    """The still: half the size, blurred, JPEG of quality 30."""
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    small = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BILINEAR)
    return _jpeg(small.filter(ImageFilter.GaussianBlur(1)), 30)


def threshold_of(model: EmbeddingModel, galleries: int, rate: int, records: int = RECORDS) -> float:
    """The threshold that the custodian will compute when all galleries of this size, and one portrait each, answer."""
    chunks = -(-(records + 1) // (N - kept_fillers(model.scales) - SPARE_SLOTS))
    return ImpostorTable.isotropic(model.model_hash, model.dimensions).threshold(galleries * chunks * N, rate)


def synthetic_units(model: EmbeddingModel, sought: F32, seed: int, share: int, threshold: float, records: int = RECORDS) -> F32:
    """That many directions, float32[n, D]: uniform but for this gallery's share of the near misses (a cosine a little below the threshold)
    and of the rivals (a little above it, so that they are leads behind the right one)."""
    rng = np.random.default_rng([seed, share])
    units = rng.standard_normal((records, model.dimensions)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    towards = model.centred_unit(sought)
    below = threshold - rng.uniform(0.012, 0.03, NEAR_MISSES)[share::2]
    above = threshold + rng.uniform(0.012, 0.03, RIVALS)[share::2]
    places = rng.choice(records, below.size + above.size, replace=False)
    for place, cosine in zip(places, [*below, *above], strict=True):
        units[place] = _at_cosine(rng, towards, float(cosine))
    return units


def write_synthetic(path: Path, units: F32, prefix: str) -> None:
    """The file that `node enrol --embeddings` reads."""
    captured = np.array(["2018-06-01"] * len(units))
    np.savez(path, units=units, captured=captured, prefix=np.array(prefix))


def write_portrait(folder: Path, portrait: Portrait) -> Path:
    """A folder with the photograph and its table, as `node enrol` reads them; the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{portrait.name}.jpg").write_bytes(portrait.jpeg)
    table = folder / "records.csv"
    row = f"{portrait.name}.jpg,{portrait.record_number},{portrait.captured.isoformat()},demonstration_portrait"
    table.write_text(f"file,record_number,captured,source_class\n{row}\n", encoding="utf-8")
    return table


def _at_cosine(rng: np.random.Generator, towards: F64, cosine: float) -> F32:
    across = rng.standard_normal(towards.size)
    across -= (across @ towards) * towards
    across /= np.linalg.norm(across)
    return np.asarray(cosine * towards + np.sqrt(1 - cosine**2) * across, np.float32)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()
