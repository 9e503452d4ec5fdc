"""What a log asks a witness to cosign: a signed head, with the proof that it continues the tree that the witness saw last.

The form is the body of an add-checkpoint request of C2SP's tlog-witness: the line `old N`, the consistency proof (RFC 9162 section 2.1.4)
from N leaves on as one base64 line a hash, an empty line, the signed note. Invariants: one spelling; parsed is not verified. Left to
others: whether N is what the witness signed last, and whether the proof holds (`witness.cosign`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

from crypto.checkpoint import MAX_NOTE_BYTES, SignedCheckpoint, note_base64, note_bytes
from crypto.errors import CheckpointError, OversizedError
from crypto.ledger import HASH_BYTES, MAX_TREE_SIZE

MAX_PROOF_HASHES: Final = 63
"""tlog-witness, "add-checkpoint": a proof of more has no tree."""
MAX_REQUEST_BYTES: Final = 32 + 45 * MAX_PROOF_HASHES + MAX_NOTE_BYTES
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class CosignRequest:
    """The head to cosign and how it continues the tree of `old_size` leaves; `CheckpointError` for a field out of its form.

    The proof is empty where none is needed: from no leaves, and to a head that is not larger.
    """

    old_size: int
    proof: tuple[bytes, ...] = field(repr=False)
    note: SignedCheckpoint

    def __post_init__(self) -> None:
        if not 0 <= self.old_size <= MAX_TREE_SIZE:
            raise CheckpointError("cosign request has an old size out of range")
        if len(self.proof) > MAX_PROOF_HASHES or any(len(one) != HASH_BYTES for one in self.proof):
            raise CheckpointError(f"cosign request has a proof that is not at most {MAX_PROOF_HASHES} hashes of {HASH_BYTES} bytes")

    def to_bytes(self) -> bytes:
        """The request's body, UTF-8."""
        lines = (f"old {self.old_size}", *map(note_base64, self.proof), "", "")
        return "\n".join(lines).encode("ascii") + self.note.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`; `OversizedError` before parsing, `CheckpointError` for any other form."""
        if len(data) > MAX_REQUEST_BYTES:
            raise OversizedError(f"cosign request has {len(data)} bytes, at most {MAX_REQUEST_BYTES} are read")
        head, _, note = data.partition(b"\n\n")
        try:
            old, *proof = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise CheckpointError("cosign request's first lines are not ASCII") from error
        size = _OLD.fullmatch(old)
        if size is None:
            raise CheckpointError("cosign request does not begin with the old size")
        return cls(int(size[1]), tuple(map(note_bytes, proof)), SignedCheckpoint.from_bytes(note))
