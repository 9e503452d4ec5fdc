"""A holder's answer to one probe: scanned, re-randomised, masked, rounded.

For each chunk c, with u_c ternary, e_c of standard deviation 64, and M the sum of one mask stream a custodian, all from this answer's
root seed:

    a''_c = a'_c + A_z u_c + e_c            kept to 16 bits a slot
    b''_c = b'_c + b_z u_c + M[order]       kept to 11 bits a slot

Slot i takes the mask streams' element order(i), where order is a secret permutation of all slots, fresh for every answer: the custodian
will see scores in that order and nothing that ties it to another search. The mask is uniform on all of Z_q and covers message and noise
alike, so that a requester who forges b_d or b_z sees uniform values. Without the re-randomisation a'_c would be the same in every search
of a layout, and one changed record could be solved for. Rounding comes last and hides nothing by itself.

**One seed, one answer.** Two answers under one seed give a requester three coordinates of every record
(`tests/test_adversary_requester.py` runs it). Hence every stream is expanded from the root bound to probe digest, grant digest and
gallery state: the same root with another probe is another answer altogether. Replaying is possible, re-using is not. That a probe is
answered once, and stored before it is sent, is left to the holder.

Most of an answer waits for no probe: seeds, order, masks, u, e, the calibration chunk and all of a''. `PreparedAnswer` is that much, made
when the grant is known; it is bound to what its seeds are bound to, and is used once or not at all (docs/adr/0019).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from crypto.binary import Kind, Reader, Writer, packed_size, sha256_of
from crypto.calibration import CalibrationPlaces
from crypto.embedding import HASH_BYTES
from crypto.epoch import Epoch
from crypto.errors import AnswerError, MisuseError, ModelError
from crypto.gallery import PackedGallery
from crypto.limits import MAX_CHUNKS
from crypto.parameters import SEALMATCH_1
from crypto.prepared import A_BITS, B_BITS, AnswerSecrets, AnswerTerms, PreparedAnswer
from crypto.probe import Probe, read_epoch
from crypto.ring import U16, U32, N
from crypto.scan import scan_words
from crypto.seed import SEED_BYTES, Seed

_AT_ONCE: Final = 2
"""Answers of one pass that are made side by side: each holds some 30 bytes a slot meanwhile."""
MAX_ANSWER_BYTES: Final = 128 + packed_size(MAX_CHUNKS * N, A_BITS) + packed_size(MAX_CHUNKS * N, B_BITS)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a requester opens: rounded a'' and b'' of every chunk in coeff form, uint16[slots] each; sealed to the requester.

    `tag_groups` is the place of the answer's tags (PROTOCOL section 8); format version 1 carries none and refuses any.
    """

    epoch: Epoch
    model_hash: bytes
    probe_digest: bytes
    dimensions: int
    a_rounded: U16
    b_rounded: U16
    tag_groups: int = 0

    def __post_init__(self) -> None:
        if self.a_rounded.shape != self.b_rounded.shape or self.a_rounded.ndim != 1 or self.a_rounded.size % N or not self.a_rounded.size:
            raise MisuseError("an answer has whole chunks in both parts")
        if any(words.dtype != np.uint16 for words in (self.a_rounded, self.b_rounded)):
            raise MisuseError("an answer's words are uint16")
        if self.tag_groups or self.slots > MAX_CHUNKS * N:
            raise MisuseError(f"format version 1 carries no tags and at most {MAX_CHUNKS} chunks")
        if len(self.model_hash) != HASH_BYTES or len(self.probe_digest) != HASH_BYTES:
            raise MisuseError("model hash and probe digest have 32 bytes")

    @property
    def slots(self) -> int:
        """Slots of all chunks, the calibration chunk's among them."""
        return int(self.a_rounded.size)

    def to_bytes(self) -> bytes:
        """The canonical bytes: 27 bits a slot and a short head."""
        return self.writer().finish()

    def writer(self) -> Writer:
        """The same bytes, packed when they are asked for."""
        writer = Writer(Kind.ANSWER).fixed(self.epoch.month.encode("ascii"), 7).fixed(self.model_hash, HASH_BYTES)
        writer.fixed(self.probe_digest, HASH_BYTES).integer(self.dimensions, 2).integer(self.slots // N, 4).integer(self.tag_groups, 2)
        return writer.shorts(self.a_rounded, A_BITS).shorts(self.b_rounded, B_BITS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Answer:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        return cls.read(Reader(data, Kind.ANSWER, max_bytes=MAX_ANSWER_BYTES))

    @classmethod
    def read(cls, reader: Reader, digest: Callable[[], bytes] | None = None) -> Answer:
        """Inverse of `writer`, to the end of the reader's frame; `digest` gives SHA-256 of what was read, when all was."""
        epoch = read_epoch(reader)
        model_hash, probe_digest = reader.fixed(HASH_BYTES), reader.fixed(HASH_BYTES)
        dimensions = reader.integer(2, low=8, high=SEALMATCH_1.max_dimensions)
        chunks = reader.integer(4, low=1, high=MAX_CHUNKS)
        tag_groups = reader.integer(2, low=0, high=0)
        a_rounded, b_rounded = reader.shorts(chunks * N, A_BITS), reader.shorts(chunks * N, B_BITS)
        reader.finish()
        made = cls(epoch, model_hash, probe_digest, dimensions, a_rounded, b_rounded, tag_groups)
        if digest is not None:
            vars(made)["digest"] = digest()  # what was read is the one encoding: the bytes need not be made again to be hashed
        return made

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes; what the seeds' message and the requester's Y16 both name."""
        return sha256_of(self.writer().chunks())

    def __repr__(self) -> str:
        return f"Answer(slots={self.slots}, words=<redacted>)"


@dataclass(frozen=True, eq=False)
class AnswerRequest:
    """A probe that a verified grant lets this holder answer, with that grant's digest and its number of custodians."""

    probe: Probe
    grant_digest: bytes
    custodians: int = 1

    def __post_init__(self) -> None:
        _ = self.terms

    @functools.cached_property
    def terms(self) -> AnswerTerms:
        """What could be known before the probe came."""
        return AnswerTerms(self.probe.epoch, self.probe.digest, self.grant_digest, self.custodians)


def answer(
    gallery: PackedGallery,
    requests: Sequence[AnswerRequest],
    *,
    prepared: Callable[[AnswerRequest], PreparedAnswer | None] = lambda _: None,
    threads: int | None = None,
) -> list[tuple[Answer, AnswerSecrets]]:
    """Answer all requests in one pass over the gallery, each under a root seed of its own from the operating system.

    All probes must be of one epoch; raises `ModelError` for another model than the gallery's. The holder has checked epoch, grant and log
    before, and stores answer and root before anything is sent. `prepared` is asked after the pass for what was made before; one that does
    not fit is destroyed and made anew.
    """
    for request in requests:
        if request.probe.model_hash != gallery.model.model_hash or request.probe.dimensions != gallery.model.dimensions:
            raise ModelError(
                "the probe was made by another embedding model than this gallery: embed the image again with the gallery's model"
            )
    if not requests:
        return []
    scanned = scan_words(gallery.words, [request.probe.ordered for request in requests], threads=threads)
    gallery.fixed_part(requests[0].probe.epoch)  # made once, before two answers ask for it at once
    # An answer has stretches for one core: several take turns on them.
    with ThreadPoolExecutor(min(len(requests), _AT_ONCE), thread_name_prefix="sealmatch-answer") as pool:
        return list(pool.map(lambda request, part: _answered(gallery, request, prepared(request), part), requests, scanned))


def replay_answer(gallery: PackedGallery, request: AnswerRequest, root: Seed) -> tuple[Answer, AnswerSecrets]:
    """The same answer once more, for an auditor who is given the root: needs the gallery in the state that answered."""
    scanned = scan_words(gallery.words, [request.probe.ordered])[0]
    return _answered(gallery, request, PreparedAnswer(gallery, request.terms, root), scanned)


def _answered(
    gallery: PackedGallery, request: AnswerRequest, prepared: PreparedAnswer | None, scanned: U32
) -> tuple[Answer, AnswerSecrets]:
    probe = request.probe
    if prepared is None or not prepared.fits(gallery, request.terms):
        if prepared is not None:
            prepared.destroy()
        prepared = PreparedAnswer.make(gallery, request.terms)
    a_rounded, b_rounded, kept = prepared.finish(gallery, request.terms, probe, scanned)
    return Answer(probe.epoch, probe.model_hash, probe.digest, probe.dimensions, a_rounded, b_rounded), kept


@dataclass(frozen=True, eq=False)
class OrderSeed:
    """The body that travels to the requester beside the answer: the order's seed, tied to the answer by its digest."""

    answer_digest: bytes
    seed: Seed

    def __post_init__(self) -> None:
        _check_digest(self.answer_digest)

    def to_bytes(self) -> bytes:
        """The canonical bytes; seal them, they are a secret of holder and requester."""
        return Writer(Kind.ORDER_SEED).fixed(self.answer_digest, HASH_BYTES).fixed(self.seed.export_secret(), SEED_BYTES).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> OrderSeed:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        reader = Reader(data, Kind.ORDER_SEED, max_bytes=128)
        read = cls(reader.fixed(HASH_BYTES), Seed(reader.fixed(SEED_BYTES)))
        reader.finish()
        return read


@dataclass(frozen=True, eq=False)
class MaskShare:
    """The body that travels to one custodian: its mask seed, the calibration places, and which answer of what size to which probe."""

    answer_digest: bytes
    probe_digest: bytes
    slots: int
    seed: Seed
    places: CalibrationPlaces

    def __post_init__(self) -> None:
        _check_digest(self.answer_digest)
        _check_digest(self.probe_digest)
        if self.slots % N or not 2 * N <= self.slots <= MAX_CHUNKS * N:
            raise MisuseError("an answer has whole chunks, the calibration chunk among them")
        if max(int(self.places.basis[-1]), int(self.places.zeros[-1])) >= self.slots:
            raise MisuseError("calibration places lie outside the answer")

    def to_bytes(self) -> bytes:
        """The canonical bytes; seal them, they are a secret of holder and custodian."""
        writer = (
            Writer(Kind.MASK_SHARE)
            .fixed(self.answer_digest, HASH_BYTES)
            .fixed(self.probe_digest, HASH_BYTES)
            .integer(self.slots, 4)
            .fixed(self.seed.export_secret(), SEED_BYTES)
        )
        writer.integer(self.places.basis.size, 2)
        return writer.words(self.places.basis, 32).words(self.places.zeros, 32).finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> MaskShare:
        """Inverse of `to_bytes`; `EncodingError` for anything else, `AnswerError` for places outside the answer."""
        reader = Reader(data, Kind.MASK_SHARE, max_bytes=160 + 4 * N)
        digest, probe_digest = reader.fixed(HASH_BYTES), reader.fixed(HASH_BYTES)
        slots = reader.integer(4, low=2 * N, high=MAX_CHUNKS * N)
        seed = Seed(reader.fixed(SEED_BYTES))
        dimensions = reader.integer(2, low=8, high=SEALMATCH_1.max_dimensions)
        basis, zeros = reader.words(dimensions, 32), reader.words(N - dimensions, 32)
        reader.finish()
        try:
            return cls(digest, probe_digest, slots, seed, CalibrationPlaces(basis, zeros))
        except MisuseError as error:
            raise AnswerError("calibration places are not one chunk's of this answer") from error

    def __repr__(self) -> str:
        return f"MaskShare(slots={self.slots}, seed=<redacted>)"


def _check_digest(digest: bytes) -> None:
    if len(digest) != HASH_BYTES:
        raise MisuseError("a digest has 32 bytes")
