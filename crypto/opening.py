"""The requester's step: open an answer with the search key and hand the result on as `Y16`, the one form in which it may leave the process.

y = b'' + a'' s. Every y is masked, so it is uniform to the requester. Invariants: the exact y is never returned by a public function,
sent, stored, logged or hashed, because with a'' it **is** the secret key: s = (y - b'') / a''. `Y16` keeps the top 16 bits, an error of
standard deviation 591, which makes it one more ring-LWE sample (`tests/test_adversary_custodian_requester.py` runs the attack on both).
Sealing to the custodian is left to `envelope`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto import ring
from crypto.answer import Answer, OrderSeed
from crypto.binary import Kind, Reader, Writer, sha256_of
from crypto.embedding import HASH_BYTES
from crypto.errors import AnswerError, MisuseError
from crypto.jit import kernel
from crypto.limits import MAX_CHUNKS
from crypto.parameters import SEALMATCH_1
from crypto.prepared import A_BITS, B_BITS, answer_order
from crypto.probe import Probe, SearchKey
from crypto.ring import INVERSE_ROOTS, INVERSE_ROOTS_SHOUP, LANES, ROOTS, ROOTS_SHOUP, U16, U32, N
from crypto.workers import split

Y_BITS: Final = SEALMATCH_1.opened_bits
_Q32: Final = np.uint32(ring.Q)
MAX_OPENED_BYTES: Final = 64 + 2 * MAX_CHUNKS * N


@dataclass(frozen=True, eq=False)
class Y16:
    """Opened and still masked values, top 16 bits, in the answer's secret order; uint16[slots], read-only."""

    answer_digest: bytes
    values: npt.NDArray[np.uint16]

    def __post_init__(self) -> None:
        if self.values.dtype != np.uint16 or self.values.ndim != 1 or self.values.size % N or not self.values.size:
            raise MisuseError("Y16 holds uint16 of whole chunks")
        if len(self.answer_digest) != HASH_BYTES or self.values.size > MAX_CHUNKS * N:
            raise MisuseError(f"an answer has a digest of 32 bytes and at most {MAX_CHUNKS} chunks")
        self.values.flags.writeable = False

    def to_bytes(self) -> bytes:
        """The canonical bytes, two a slot; seal them to the custodian."""
        return self.writer().finish()

    def writer(self) -> Writer:
        """The same bytes, made when they are asked for."""
        return (
            Writer(Kind.OPENED_SCORES).fixed(self.answer_digest, HASH_BYTES).integer(self.values.size // N, 4).shorts(self.values, Y_BITS)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Y16:
        """Inverse of `to_bytes`; `EncodingError` for anything else."""
        return cls.read(Reader(data, Kind.OPENED_SCORES, max_bytes=MAX_OPENED_BYTES))

    @classmethod
    def read(cls, reader: Reader) -> Y16:
        """Inverse of `writer`, to the end of the reader's frame."""
        digest = reader.fixed(HASH_BYTES)
        chunks = reader.integer(4, low=2, high=MAX_CHUNKS)
        values = reader.shorts(chunks * N, Y_BITS)
        reader.finish()
        return cls(digest, values)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes, for the log's commitment and the audit."""
        return sha256_of(self.writer().chunks())

    def __repr__(self) -> str:
        return f"Y16(slots={self.values.size}, values=<redacted>)"


def open_answer(answer: Answer, order: OrderSeed, probe: Probe, key: SearchKey) -> Y16:
    """Open with the search key, round to 16 bits, put in the answer's order.

    Raises `AnswerError` when the answer is not to this probe, or the order's seed is not this answer's.
    """
    if answer.probe_digest != probe.digest or (answer.epoch, answer.model_hash) != (probe.epoch, probe.model_hash):
        raise AnswerError("the answer is to another probe")
    if order.answer_digest != answer.digest:
        raise AnswerError("the order's seed belongs to another answer")
    values, kept = np.empty(answer.slots, np.uint16), np.empty(answer.slots, np.uint16)
    with ThreadPoolExecutor(1, thread_name_prefix="sealmatch-order") as beside:
        drawing = beside.submit(answer_order, order.seed, answer.slots)

        def open_range(first: int, last: int) -> None:
            part = slice(first * N, last * N)  # small enough to stay in a cache from the first step to the last
            a, b = (middle(words[part], bits).reshape(-1, N) for words, bits in ((answer.a_rounded, A_BITS), (answer.b_rounded, B_BITS)))
            kept[part] = _open_exact(a, b, key).reshape(-1) >> np.uint32(SEALMATCH_1.dropped_bits(Y_BITS))

        split(answer.slots // N, open_range)
        places = drawing.result()

    def place_range(first: int, last: int) -> None:
        _put_at(kept[first:last], places[first:last], values)

    split(answer.slots, place_range)
    return Y16(answer.digest, values)


def middle(rounded: npt.NDArray[np.unsignedinteger], bits: int) -> U32:
    """The residue in the middle of the interval that the kept top `bits` stand for; uint32 of the same shape.

    The topmost interval of `sealmatch-1` is cut short by 2,047; its middle is brought below q.
    """
    dropped = SEALMATCH_1.dropped_bits(bits)
    residues = np.array(rounded, np.uint32, order="C")
    _to_middle(residues.reshape(-1), np.uint32(dropped))
    return residues


def _open_exact(a_coeff: U32, b_coeff: U32, key: SearchKey) -> U32:
    """b + a s mod q, exact, in coeff form; uint32[chunks, N]. **With a this is the secret key**: it stays inside this process."""
    for residues in (a_coeff, b_coeff):
        ring.check_residues(residues)
    if a_coeff.shape != b_coeff.shape or a_coeff.ndim != 2 or a_coeff.shape[1] != N:
        raise MisuseError("both parts of an answer are polynomials of as many chunks")
    out, block = np.empty(a_coeff.shape, np.uint32), np.zeros((N, LANES), np.uint32)
    roots = (ROOTS, ROOTS_SHOUP, INVERSE_ROOTS, INVERSE_ROOTS_SHOUP)
    _open_rows(np.ascontiguousarray(a_coeff), np.ascontiguousarray(b_coeff), key.secret_eval(), *roots, block, out)
    block.fill(0)
    return out


@kernel
def _to_middle(words: U32, dropped: np.uint32) -> None:
    """Each word's interval's middle, below q, in its place."""
    half, highest = np.uint32(1) << (dropped - np.uint32(1)), _Q32 - np.uint32(1)
    for i in range(words.size):
        words[i] = min((words[i] << dropped) + half, highest)


@kernel
def _put_at(values: U16, places: U32, out: U16) -> None:
    """out[places[i]] = values[i]; the places are below the length of `out`."""
    for i in range(places.size):
        out[places[i]] = values[i]


@kernel
def _open_rows(
    a: U32,
    b: U32,
    secret: U32,
    roots: U32,
    roots_shoup: U32,
    inverse_roots: U32,
    inverse_roots_shoup: U32,
    block: U32,
    out: U32,
) -> None:
    """out = b + a * secret, row by row; a, b, out uint32[M, N] in coeff form, secret uint32[N] in eval form, block uint32[N, LANES]."""
    degree, lanes = block.shape
    for first in range(0, a.shape[0], lanes):
        ring.gather_lanes(a, first, block)
        ring.forward_block(block, roots, roots_shoup)
        for i in range(degree):
            word, word_shoup = secret[i], ring.shoup(secret[i])
            for lane in range(lanes):
                block[i, lane] = ring.times(block[i, lane], word, word_shoup)
        ring.inverse_block(block, inverse_roots, inverse_roots_shoup)
        for start in range(0, degree, LANES):
            for lane in range(min(lanes, a.shape[0] - first)):
                for i in range(start, start + LANES):
                    out[first + lane, i] = ring.below(np.uint32(block[i, lane] + b[first + lane, i]), _Q32)
