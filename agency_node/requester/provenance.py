"""The chain of a probe: from the picture as it came, through every edit, to the cut that the network was shown (R19).

    0   original   SHA-256 of the file as it came, its length, the source that the investigator declared (R20), who decoded it
    1…  edit       one for each edit, in its one spelling (`faces.edits`)
        probe      the still that is searched with and that the reviewer sees: the original itself, or after edits a lossless file of them
        aligned    the face as the network was shown it, its place in the still, the model; with no picture where an embedder gives none

A link is canonical JSON. It holds the digest of the link before it, and of the picture before and after. The digest of the last one stands
for the chain, and is what `face_commit` binds in the signed grant (`crypto.embedding`), under a salt that stays in the case: so the grant
names original, edits and probe, and nobody who sees it can try pictures against it.

Invariants of what `read_chain` returns: the links are those of one chain, in order, none more, none less. Of what `check_chain` passes: the
original is the file that the chain names, each edit made again gives the digest that the chain says, and the still is the chain's end; all
of it is whole-number arithmetic, so any machine that decodes the original alike finds the same. Left to others: where links and pictures
lie (`probe_versions`), which edits are allowed (`policy.probe_edits`), whose probe it is (`legal.review`).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import PIL
from PIL import features

from agency_node.errors import ProvenanceError
from agency_node.faces.edits import MAX_EDITS, Edit, picture_digest
from agency_node.faces.embedder import Face
from agency_node.faces.image import Pixels, StillImage, encode_lossless, read_image
from crypto.canonical import JsonObject, canonical_json, parse_canonical_json
from crypto.errors import EncodingError
from crypto.fields import Fields
from crypto.grant_basis import ProbeSource

LINK_TYPE: Final = "sealmatch-1/probe-link"
MAX_LINK_BYTES: Final = 2048
LEVELS: Final = 8
"""By how much a level of the aligned cut may differ when another processor computes it."""
_LABEL: Final = b"sealmatch-1/probe-link\n"
_NO_DIGEST: Final = bytes(32)
_EDITOR: Final = "sealmatch-1 edits"
_ANEW: Final = "have the search drafted anew from the original"


class Step(enum.StrEnum):
    """What a link tells of."""

    ORIGINAL = "original"
    EDIT = "edit"
    PROBE = "probe"
    ALIGNED = "aligned"


@dataclass(frozen=True, kw_only=True)
class Link:
    """One step. `said` is the declared source, the edit, or the face's place; `by` who did it; `before` and `picture` are picture digests,
    zeros where there is no picture; `file_sha256` is zeros where the step is no file. Digests are 32 bytes, sizes pixels."""

    number: int
    step: Step
    said: str
    by: str
    file_sha256: bytes = field(default=_NO_DIGEST, repr=False)
    file_bytes: int = 0
    before: bytes = field(default=_NO_DIGEST, repr=False)
    picture: bytes = field(repr=False)
    width: int
    height: int
    previous: bytes = field(repr=False)

    def to_json(self) -> JsonObject:
        """Its JSON form."""
        return {
            "type": LINK_TYPE,
            "number": self.number,
            "step": self.step.value,
            "said": self.said,
            "by": self.by,
            "file_sha256": self.file_sha256.hex(),
            "file_bytes": self.file_bytes,
            "before": self.before.hex(),
            "picture": self.picture.hex(),
            "width": self.width,
            "height": self.height,
            "previous": self.previous.hex(),
        }

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(self.to_json())

    @property
    def digest(self) -> bytes:
        """SHA-256(`sealmatch-1/probe-link` LF || canonical bytes)."""
        return hashlib.sha256(_LABEL + self.to_bytes()).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Link:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        fields = Fields(parse_canonical_json(data, max_bytes=MAX_LINK_BYTES), "link")
        if fields.text("type") != LINK_TYPE:
            raise ProvenanceError(f"a link of this picture's chain is of another kind or version: {_ANEW}")
        link = cls(
            number=fields.integer("number"),
            step=fields.choice("step", Step),
            said=fields.text("said"),
            by=fields.text("by"),
            file_sha256=fields.digest("file_sha256"),
            file_bytes=fields.integer("file_bytes"),
            before=fields.digest("before"),
            picture=fields.digest("picture"),
            width=fields.integer("width"),
            height=fields.integer("height"),
            previous=fields.digest("previous"),
        )
        fields.close()
        return link

    @property
    def sentence(self) -> str:
        """For a person: step, what was done, digest of the picture after it, size."""
        file = "" if self.file_sha256 == _NO_DIGEST else f", file {self.file_sha256.hex()[:16]}"
        picture = "no picture kept by this face model" if self.picture == _NO_DIGEST else f"{self.width} x {self.height}"
        shown = "" if self.picture == _NO_DIGEST else f", picture {self.picture.hex()[:16]}"
        return f"{self.said} ({picture}{file}{shown})"


@dataclass(frozen=True)
class Chain:
    """A whole chain. Build it with `read_chain` or `Prepared.chain`."""

    links: tuple[Link, ...]

    @property
    def head(self) -> bytes:
        """The digest of the last link, which covers all of them: what the grant's commitment binds."""
        return self.links[-1].digest

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What was done to the original, in order."""
        return tuple(Edit.parse(link.said) for link in self.links if link.step is Step.EDIT)

    @property
    def original(self) -> Link:
        """The first link."""
        return self.links[0]

    @property
    def probe(self) -> Link:
        """The link of the still."""
        return self.links[-2]

    @property
    def source(self) -> ProbeSource:
        """Where the original is from, as declared."""
        return ProbeSource(self.original.said)


@dataclass(frozen=True)
class Prepared:
    """A still made ready: the original as it came, and what its edits made of it."""

    original: bytes = field(repr=False)
    still: bytes = field(repr=False)
    """The file that is searched with: the original itself where nothing was edited."""
    image: StillImage = field(repr=False)
    file_bytes: int
    """What the original's file spent on these pixels, for the measure of its compression: a lossless copy spends more and shows no less."""
    versions: tuple[bytes, ...] = field(repr=False)
    """Lossless files of the pictures between original and still."""
    links: tuple[Link, ...] = field(repr=False)

    def chain(self, face: Face, model_hash: bytes) -> Chain:
        """The whole chain, once the face was found."""
        box, last = face.box, self.links[-1]
        cut = face.aligned
        height, width = (0, 0) if cut is None else cut.shape[:2]
        aligned = Link(
            number=last.number + 1,
            step=Step.ALIGNED,
            said=f"face at {box.left} {box.top} {box.width} {box.height}",
            by=f"model {model_hash.hex()}",
            before=last.picture,
            picture=_NO_DIGEST if cut is None else picture_digest(cut),
            width=width,
            height=height,
            previous=last.digest,
        )
        return Chain((*self.links, aligned))


def prepare(original: bytes, edits: Sequence[Edit], source: ProbeSource) -> Prepared:
    """Decode the original and make the edits; `ImageError` for a picture or an edit that does not fit, `ProvenanceError` for too many."""
    if len(edits) > MAX_EDITS:
        raise ProvenanceError(f"a still is edited at most {MAX_EDITS} times: begin anew from the original")
    first = read_image(original)
    height, width = first.pixels.shape[:2]
    links = [
        Link(
            number=0,
            step=Step.ORIGINAL,
            said=source.value,
            by=decoder(),
            file_sha256=first.sha256,
            file_bytes=len(original),
            picture=picture_digest(first.pixels),
            width=width,
            height=height,
            previous=_NO_DIGEST,
        )
    ]
    pixels = first.pixels
    files: list[bytes] = []
    for edit in edits:
        pixels = edit.apply(pixels)
        links.append(_next(links[-1], Step.EDIT, edit.sentence, _EDITOR, pixels))
        files.append(encode_lossless(pixels))
    still = files[-1] if files else original
    image = read_image(still) if files else first
    links.append(_next(links[-1], Step.PROBE, "the still that is searched with", _EDITOR, pixels, still))
    share = len(original) * pixels.size // first.pixels.size
    return Prepared(original, still, image, max(share, 1), tuple(files[:-1]), tuple(links))


def read_chain(links: Sequence[bytes]) -> Chain:
    """The chain of these links, after these checks in this order; `ProvenanceError`:

    1. each link has the form of one, and its place's number
    2. each holds the digest of the link before it, and the picture before it
    3. an original, edits in their own spelling, the probe, the aligned face, and nothing else
    """
    try:
        read = [Link.from_bytes(data) for data in links]  # 1
    except EncodingError as error:
        raise ProvenanceError(f"a link of this picture's chain has not the form of one: {_ANEW}") from error
    if len(read) < 3 or [link.number for link in read] != list(range(len(read))):
        raise ProvenanceError(f"a link of this picture's chain is missing, or stands in another place: {_ANEW}")
    before, picture = _NO_DIGEST, _NO_DIGEST
    for link in read:  # 2
        if (link.previous, link.before) != (before, picture):
            raise ProvenanceError(f"link {link.number} of this picture's chain does not follow the one before it: {_ANEW}")
        before, picture = link.digest, link.picture
    steps = [Step.ORIGINAL, *[Step.EDIT] * (len(read) - 3), Step.PROBE, Step.ALIGNED]  # 3
    if [link.step for link in read] != steps or read[0].said not in set(ProbeSource):
        raise ProvenanceError(f"this picture's chain is not an original, its edits, the still and its face: {_ANEW}")
    chain = Chain(tuple(read))
    _ = chain.edits
    return chain


def check_edits(chain: Chain, original: bytes) -> bytes:
    """Make the chain again from its original: the digest of the picture with which it ends. `ProvenanceError` unless, in this order:

    1. the original is the file that the chain begins with, and is decoded here to the same picture
    2. each edit gives the picture that the chain says
    3. the chain names as its still the picture that its edits give
    """
    first = read_image(original)
    start = chain.original
    if first.sha256 != start.file_sha256 or len(original) != start.file_bytes:  # 1
        raise ProvenanceError(f"the original is not the file with which this chain begins: {_ANEW}")
    pixels, digest = first.pixels, picture_digest(first.pixels)
    if digest != start.picture:
        raise ProvenanceError(
            f"the original's file is the right one, and is decoded here ({decoder()}) to another picture than there ({start.by}): check it "
            "with that version"
        )
    for number, edit in enumerate(chain.edits, start=1):  # 2
        pixels = edit.apply(pixels)
        digest = picture_digest(pixels)
        if digest != chain.links[number].picture:
            raise ProvenanceError(f"edit {number} ({edit.sentence}) made again gives another picture than the chain says: {_ANEW}")
    if chain.probe.picture != digest:  # 3
        raise ProvenanceError(f"the chain names another picture as its still than its edits give: {_ANEW}")
    return digest


def check_chain(chain: Chain, original: bytes, still: bytes) -> None:
    """Raise `ProvenanceError` unless the chain leads from this original (`check_edits`) to this very still, as file and as picture."""
    digest = check_edits(chain, original)
    end = read_image(still)
    if end.sha256 != chain.probe.file_sha256 or picture_digest(end.pixels) != digest:
        raise ProvenanceError(f"the still is not what the original and its edits give: {_ANEW}")


def check_aligned(chain: Chain, kept: Pixels | None, face: Face) -> None:
    """Raise `ProvenanceError` unless the face found here is where the chain says it is, and cut as the kept cut is, up to rounding."""
    last = chain.links[-1]
    if kept is not None and picture_digest(kept) != last.picture:
        raise ProvenanceError(f"the kept cut of the face is not the one of this chain: {_ANEW}")
    if (kept is None) != (last.picture == _NO_DIGEST) or (face.aligned is None) != (kept is None):
        raise ProvenanceError(f"the cut of the face is missing, or is kept where the chain names none: {_ANEW}")
    if kept is None or face.aligned is None:
        return
    if kept.shape != face.aligned.shape or int(np.abs(kept.astype(np.int16) - face.aligned).max()) > LEVELS:
        raise ProvenanceError(f"the face in the still is cut here in another way than the chain says: {_ANEW}")


def decoder() -> str:
    """What decodes pictures on this machine: versions of Pillow and of its JPEG library."""
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"Pillow {PIL.__version__}, JPEG {jpeg or '-'}"


def _next(before: Link, step: Step, said: str, by: str, pixels: Pixels, file: bytes = b"") -> Link:
    height, width = pixels.shape[:2]
    return Link(
        number=before.number + 1,
        step=step,
        said=said,
        by=by,
        file_sha256=hashlib.sha256(file).digest() if file else _NO_DIGEST,
        file_bytes=len(file),
        before=before.picture,
        picture=picture_digest(pixels),
        width=width,
        height=height,
        previous=before.digest,
    )
