"""What of an answer waits for no probe, and the secrets that stay with it: drawn from one root, for one use.

Seeds, order, masks, u, e, the calibration chunk and all of a'' follow from the root and from what a verified grant says; b'' needs the
probe's scan. So a holder that has the grant prepares the answer while the probe is on its way (docs/adr/0019). Invariants: every stream is
expanded from the root bound to probe digest, grant digest, state of the layout and number of custodians; a prepared answer is finished
once, for that probe, grant and state and no other, or not at all. What an answer is made of, and why, stands at `answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np

from crypto import ring
from crypto.bases import public_bases
from crypto.blinding import Blinding, Chunks
from crypto.calibration import CalibrationChunk, CalibrationPlaces
from crypto.embedding import HASH_BYTES
from crypto.epoch import Epoch
from crypto.errors import AnswerError, MisuseError
from crypto.gallery import PackedGallery, pack_templates
from crypto.layout import FILLER
from crypto.limits import MAX_CUSTODIANS
from crypto.ordered_probe import OrderedProbe
from crypto.packed_words import PackedWords
from crypto.parameters import SEALMATCH_1
from crypto.probe import Probe
from crypto.ring import I64, U16, U32, N
from crypto.scan import scan_words
from crypto.seed import Seed, permutation, taken_at, uniform_residues
from crypto.workers import split

A_BITS: Final = SEALMATCH_1.answer_a_bits
B_BITS: Final = SEALMATCH_1.answer_b_bits
GRANT_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, eq=False)
class AnswerSecrets:
    """What a holder keeps, sealed at rest, beside an answer.

    `root` replays it; `order_seed` goes to the requester with the answer; `mask_seeds[j]` and `places` go to custodian j.
    `calibration_place` is the chunk that stands for no record. `order` follows from its seed: it is here because drawing it anew takes a
    release longer than looking into it, and is sealed nowhere.
    """

    root: Seed
    order_seed: Seed
    mask_seeds: tuple[Seed, ...]
    places: CalibrationPlaces
    calibration_place: int
    order: U32

    def rows_at(self, rows: I64, positions: U32, *, still_held: I64) -> I64:
        """Rows of the table at released positions, int64; `FILLER` ("withdrawn") for a filler, the calibration chunk or a removed row.

        `rows` is the layout's as it was when the answer was made: with today's, a slot filled since would name an innocent record.
        `still_held` are the rows that the table holds today. Raises `AnswerError` for a position that the answer does not have.
        """
        found = rows_at(self.order, self.calibration_place, rows, positions)
        return np.where(np.isin(found, still_held), found, FILLER)

    def __repr__(self) -> str:
        return "AnswerSecrets(<redacted>)"


@dataclass(frozen=True)
class AnswerTerms:
    """What a verified grant says of an answer before the probe is here: its epoch and digest, the grant's digest, how many custodians."""

    epoch: Epoch
    probe_digest: bytes
    grant_digest: bytes
    custodians: int = 1

    def __post_init__(self) -> None:
        if (
            len(self.probe_digest) != HASH_BYTES
            or len(self.grant_digest) != GRANT_DIGEST_BYTES
            or not 1 <= self.custodians <= MAX_CUSTODIANS
        ):
            raise MisuseError(f"probe and grant digests have 32 bytes and a search 1 to {MAX_CUSTODIANS} custodians")

    def context(self, state_id: bytes) -> bytes:
        """What an answer's seeds are bound to."""
        return self.probe_digest + self.grant_digest + state_id + bytes([self.custodians])


@dataclass(frozen=True, eq=False)
class _Parts:
    """What stands in a prepared answer: 14 bytes a slot."""

    secrets: AnswerSecrets
    calibration: PackedWords
    mask: U32
    blinding: Blinding
    a_rounded: U16

    def wipe(self) -> None:
        """Overwrite what gives the masks away."""
        self.blinding.destroy()
        self.mask.fill(0)
        self.calibration.flat.fill(0)


class PreparedAnswer:
    """All of one answer that waits for no probe, under a root seed of its own. For one probe, grant and state of the gallery; used once.

    No pickle, no text form: it lives in the process that made it. `destroy()` overwrites one that is not needed.
    """

    __slots__ = ("_once", "_state_id", "terms")

    def __init__(self, gallery: PackedGallery, terms: AnswerTerms, root: Seed) -> None:
        self.terms = terms
        self._state_id = gallery.layout.state_id()
        self._once = [_prepare(gallery, terms, root.child("answer", terms.context(self._state_id)), root)]

    @classmethod
    def make(cls, gallery: PackedGallery, terms: AnswerTerms) -> PreparedAnswer:
        """One under a fresh root. A gallery that changes meanwhile makes it fit no more."""
        return cls(gallery, terms, Seed.fresh())

    def fits(self, gallery: PackedGallery, terms: AnswerTerms) -> bool:
        """Whether it is for this very probe, grant and state of the gallery, and was not used."""
        return bool(self._once) and self.terms == terms and self._state_id == gallery.layout.state_id()

    def finish(self, gallery: PackedGallery, terms: AnswerTerms, probe: Probe, scanned: U32) -> tuple[U16, U16, AnswerSecrets]:
        """Rounded a'' and b'', uint16[slots], and the secrets: with the probe and its scan, uint32[chunks, N].

        `MisuseError` for terms or a state that it is not for, and the second time.
        """
        if not self.fits(gallery, terms):
            raise MisuseError("a prepared answer is for one probe, grant and state of the gallery, and for one use")
        parts = self._take()
        try:
            extra = scan_words(parts.calibration, [probe.ordered])[0, 0]
            parts.blinding.second(Chunks(scanned, extra, parts.secrets.calibration_place), probe.words_eval[-1], parts.mask)
            return parts.a_rounded, _rounded(parts.mask, B_BITS), parts.secrets
        finally:
            parts.wipe()

    def destroy(self) -> None:
        """Overwrite it, its seeds too, unless it was used; every later use raises `MisuseError`."""
        if self._once:
            parts = self._take()
            parts.wipe()
            for seed in (parts.secrets.root, parts.secrets.order_seed, *parts.secrets.mask_seeds):
                seed.destroy()

    def _take(self) -> _Parts:
        """The parts, for whoever comes first: taking the last element of a list is one step to all threads."""
        try:
            return self._once.pop()
        except IndexError as error:
            raise MisuseError("a prepared answer is used once") from error

    def __repr__(self) -> str:
        return "PreparedAnswer(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a prepared answer is not pickled")


def answer_order(order_seed: Seed, slots: int) -> U32:
    """The answer's order: slot i stands at position order[i]; uint32[slots]."""
    return permutation(order_seed, "order", slots)


def rows_at(order: U32, calibration_place: int, rows: I64, positions: U32) -> I64:
    """`AnswerSecrets.rows_at` from what a holder keeps of an answer's secrets until the release, with the order (`answer_order`); rows that
    were removed since stay."""
    slots = rows.size + N
    if positions.size and int(positions.max()) >= slots:
        raise AnswerError("a released position is not in the answer")
    wanted = np.zeros(slots, np.bool_)
    wanted[positions] = True
    if order.size != slots:
        raise MisuseError("an answer's order has a place for every slot of its layout")
    released = np.flatnonzero(wanted[order])
    ascending = np.argsort(order[released])
    found = released[ascending[np.searchsorted(order[released], positions, sorter=ascending)]]
    chunk = found // N
    return np.where(chunk == calibration_place, FILLER, rows[np.minimum(found - N * (chunk > calibration_place), rows.size - 1)])


def mask_total(mask_seeds: Sequence[Seed], slots: int) -> U32:
    """Sum mod q of the custodians' mask streams, by position; uint32[slots]. Every single one of them hides everything."""
    total = np.zeros(slots, np.uint32)
    for seed in mask_seeds:
        total = ring.add(total, uniform_residues(seed, "mask", slots))
    return total


def _rounded(exact: U32, bits: int) -> U16:
    """The top `bits` of residues; uint16 of the same length."""
    out, dropped = np.empty(exact.size, np.uint16), np.uint32(SEALMATCH_1.dropped_bits(bits))

    def shift(first: int, last: int) -> None:
        np.right_shift(exact[first:last], dropped, out=out[first:last], casting="unsafe")

    split(exact.size, shift)
    return out


def _prepare(gallery: PackedGallery, terms: AnswerTerms, bound: Seed, root: Seed) -> _Parts:
    slots = gallery.slots + N
    order_seed = bound.child("order")
    mask_seeds = tuple(bound.child(f"mask/{custodian}") for custodian in range(terms.custodians))
    bases = public_bases(terms.epoch, gallery.model.dimensions)
    with ThreadPoolExecutor(1, thread_name_prefix="sealmatch-order") as beside:
        drawing = beside.submit(lambda: (answer_order(order_seed, slots), mask_total(mask_seeds, slots)))
        calibration = CalibrationChunk.draw(bound.child("calibration"), gallery.model.scales, gallery.layout.chunks)
        words = pack_templates(calibration.templates)
        blinding = Blinding(bound.child("blinding"), slots // N)
        fixed = Chunks(gallery.fixed_part(terms.epoch), scan_words(words, [OrderedProbe(bases[:-1])])[0, 0], calibration.place)
        a_rounded = _rounded(blinding.first(fixed, bases[-1]), A_BITS)
        order, masks = drawing.result()
    mask = taken_at(masks, order)
    secrets = AnswerSecrets(root, order_seed, mask_seeds, calibration.positions(order), calibration.place, order)
    return _Parts(secrets, words, mask, blinding, a_rounded)
