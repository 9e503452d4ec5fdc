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
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from crypto import ring
from crypto.bases import public_bases
from crypto.binary import Kind, Reader, Writer, packed_size, sha256_of
from crypto.calibration import CalibrationChunk, CalibrationPlaces
from crypto.embedding import HASH_BYTES
from crypto.epoch import Epoch
from crypto.errors import AnswerError, MisuseError, ModelError
from crypto.gallery import PackedGallery, pack_templates
from crypto.layout import FILLER
from crypto.limits import MAX_CHUNKS, MAX_CUSTODIANS
from crypto.parameters import SEALMATCH_1
from crypto.probe import Probe, read_epoch
from crypto.ring import I64, U32, N
from crypto.scan import scan_words
from crypto.seed import SEED_BYTES, Seed, blinding_errors, permutation, ternary, uniform_residues
from crypto.workers import split

A_BITS: Final = SEALMATCH_1.answer_a_bits
B_BITS: Final = SEALMATCH_1.answer_b_bits
MAX_ANSWER_BYTES: Final = 128 + packed_size(MAX_CHUNKS * N, A_BITS) + packed_size(MAX_CHUNKS * N, B_BITS)
GRANT_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, eq=False)
class Answer:
    """What a requester opens: rounded a'' and b'' of every chunk in coeff form, uint32[slots] each; sealed to the requester.

    `tag_groups` is the place of the answer's tags (PROTOCOL section 8); format version 1 carries none and refuses any.
    """

    epoch: Epoch
    model_hash: bytes
    probe_digest: bytes
    dimensions: int
    a_rounded: U32
    b_rounded: U32
    tag_groups: int = 0

    def __post_init__(self) -> None:
        if self.a_rounded.shape != self.b_rounded.shape or self.a_rounded.ndim != 1 or self.a_rounded.size % N or not self.a_rounded.size:
            raise MisuseError("an answer has whole chunks in both parts")
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
        return writer.words(self.a_rounded, A_BITS).words(self.b_rounded, B_BITS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Answer:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        return cls.read(Reader(data, Kind.ANSWER, max_bytes=MAX_ANSWER_BYTES))

    @classmethod
    def read(cls, reader: Reader) -> Answer:
        """Inverse of `writer`, to the end of the reader's frame."""
        epoch = read_epoch(reader)
        model_hash, probe_digest = reader.fixed(HASH_BYTES), reader.fixed(HASH_BYTES)
        dimensions = reader.integer(2, low=8, high=SEALMATCH_1.max_dimensions)
        chunks = reader.integer(4, low=1, high=MAX_CHUNKS)
        tag_groups = reader.integer(2, low=0, high=0)
        a_rounded, b_rounded = reader.words(chunks * N, A_BITS), reader.words(chunks * N, B_BITS)
        reader.finish()
        return cls(epoch, model_hash, probe_digest, dimensions, a_rounded, b_rounded, tag_groups)

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes; what the seeds' message and the requester's Y16 both name."""
        return sha256_of(self.writer().chunks())

    def __repr__(self) -> str:
        return f"Answer(slots={self.slots}, words=<redacted>)"


@dataclass(frozen=True, eq=False)
class AnswerSecrets:
    """What a holder keeps, sealed at rest, beside an answer.

    `root` replays it; `order_seed` goes to the requester with the answer; `mask_seeds[j]` and `places` go to custodian j.
    `calibration_place` is the chunk that stands for no record.
    """

    root: Seed
    order_seed: Seed
    mask_seeds: tuple[Seed, ...]
    places: CalibrationPlaces
    calibration_place: int

    def rows_at(self, rows: I64, positions: U32, *, still_held: I64) -> I64:
        """Rows of the table at released positions, int64; `FILLER` ("withdrawn") for a filler, the calibration chunk or a removed row.

        `rows` is the layout's as it was when the answer was made: with today's, a slot filled since would name an innocent record.
        `still_held` are the rows that the table holds today. Raises `AnswerError` for a position that the answer does not have.
        """
        return rows_at(self.order_seed, self.calibration_place, rows, positions, still_held=still_held)

    def __repr__(self) -> str:
        return "AnswerSecrets(<redacted>)"


@dataclass(frozen=True, eq=False)
class AnswerRequest:
    """A probe that a verified grant lets this holder answer, with that grant's digest and its number of custodians."""

    probe: Probe
    grant_digest: bytes
    custodians: int = 1

    def __post_init__(self) -> None:
        if len(self.grant_digest) != GRANT_DIGEST_BYTES or not 1 <= self.custodians <= MAX_CUSTODIANS:
            raise MisuseError(f"a grant digest has 32 bytes and a search 1 to {MAX_CUSTODIANS} custodians")


def answer(gallery: PackedGallery, requests: Sequence[AnswerRequest], *, threads: int | None = None) -> list[tuple[Answer, AnswerSecrets]]:
    """Answer all requests in one pass over the gallery, each under a root seed of its own from the operating system.

    All probes must be of one epoch; raises `ModelError` for another model than the gallery's. The holder has checked epoch, grant and log
    before, and stores answer and root before anything is sent.
    """
    for request in requests:
        if request.probe.model_hash != gallery.model.model_hash or request.probe.dimensions != gallery.model.dimensions:
            raise ModelError(
                "the probe was made by another embedding model than this gallery: embed the image again with the gallery's model"
            )
    if not requests:
        return []
    scanned = scan_words(gallery.words, np.stack([request.probe.words_eval[:-1] for request in requests]), threads=threads)
    return [_answer_from_root(gallery, request, part, Seed.fresh()) for request, part in zip(requests, scanned, strict=True)]


def replay_answer(gallery: PackedGallery, request: AnswerRequest, root: Seed) -> tuple[Answer, AnswerSecrets]:
    """The same answer once more, for an auditor who is given the root: needs the gallery in the state that answered."""
    scanned = scan_words(gallery.words, request.probe.words_eval[None, :-1])[0]
    return _answer_from_root(gallery, request, scanned, root)


def answer_order(order_seed: Seed, slots: int) -> U32:
    """The answer's order: slot i stands at position order[i]; uint32[slots]."""
    return permutation(order_seed, "order", slots)


def rows_at(order_seed: Seed, calibration_place: int, rows: I64, positions: U32, *, still_held: I64) -> I64:
    """`AnswerSecrets.rows_at` from what a holder keeps of an answer's secrets until the release."""
    slots = rows.size + N
    if positions.size and int(positions.max()) >= slots:
        raise AnswerError("a released position is not in the answer")
    order = answer_order(order_seed, slots)
    released = np.flatnonzero(np.isin(order, positions))
    ascending = np.argsort(order[released])
    found = released[ascending[np.searchsorted(order[released], positions, sorter=ascending)]]
    chunk = found // N
    answered = np.where(chunk == calibration_place, FILLER, rows[np.minimum(found - N * (chunk > calibration_place), rows.size - 1)])
    return np.where(np.isin(answered, still_held), answered, FILLER)


def mask_total(mask_seeds: Sequence[Seed], slots: int) -> U32:
    """Sum mod q of the custodians' mask streams, by position; uint32[slots]. Every single one of them hides everything."""
    total = np.zeros(slots, np.uint32)
    for seed in mask_seeds:
        total = ring.add(total, uniform_residues(seed, "mask", slots))
    return total


def blind(fixed_eval: U32, scanned_eval: U32, zero_base_eval: U32, zero_probe_eval: U32, seed: Seed, mask: U32) -> tuple[U32, U32]:
    """Exact a'' and b'' in coeff form, before rounding; all uint32[chunks, N], the two of zero uint32[N], `mask` by slot."""
    chunks = fixed_eval.shape[0]
    u, e = ternary(seed, "u", chunks * N).reshape(chunks, N), blinding_errors(seed, "e", chunks * N).reshape(chunks, N)
    masks = mask.reshape(chunks, N)
    a, b = np.empty((chunks, N), np.uint32), np.empty((chunks, N), np.uint32)

    def blind_range(first: int, last: int) -> None:
        part = slice(first, last)
        u_eval = ring.forward(u[part])
        a[part] = ring.add(ring.inverse(ring.multiply_add(u_eval, zero_base_eval, fixed_eval[part])), e[part])
        b[part] = ring.add(ring.inverse(ring.multiply_add(u_eval, zero_probe_eval, scanned_eval[part])), masks[part])

    split(chunks, blind_range)
    return a, b


def _answer_from_root(gallery: PackedGallery, request: AnswerRequest, scanned: U32, root: Seed) -> tuple[Answer, AnswerSecrets]:
    probe, scales = request.probe, gallery.model.scales
    context = probe.digest + request.grant_digest + gallery.layout.state_id() + bytes([request.custodians])
    bound = root.child("answer", context)
    slots = gallery.slots + N
    order_seed = bound.child("order")
    mask_seeds = tuple(bound.child(f"mask/{custodian}") for custodian in range(request.custodians))
    bases = public_bases(probe.epoch, probe.dimensions)
    with ThreadPoolExecutor(1, thread_name_prefix="sealmatch-order") as beside:
        drawing = beside.submit(answer_order, order_seed, slots)
        calibration = CalibrationChunk.draw(bound.child("calibration"), scales, gallery.layout.chunks)
        both = scan_words(pack_templates(calibration.templates), np.stack([bases[:-1], probe.words_eval[:-1]]))
        fixed = np.insert(gallery.fixed_part(probe.epoch), calibration.place, both[0], axis=0)
        scanned = np.insert(scanned, calibration.place, both[1], axis=0)
        masks = mask_total(mask_seeds, slots)
        order = drawing.result()
    mask = np.empty(slots, np.uint32)

    def place_masks(first: int, last: int) -> None:
        mask[first:last] = masks[order[first:last]]

    split(slots, place_masks)
    a, b = blind(fixed, scanned, bases[-1], probe.words_eval[-1], bound.child("blinding"), mask)
    made = Answer(
        probe.epoch,
        probe.model_hash,
        probe.digest,
        probe.dimensions,
        (a >> np.uint32(SEALMATCH_1.dropped_bits(A_BITS))).reshape(-1),
        (b >> np.uint32(SEALMATCH_1.dropped_bits(B_BITS))).reshape(-1),
    )
    return made, AnswerSecrets(root, order_seed, mask_seeds, calibration.positions(order), calibration.place)


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
