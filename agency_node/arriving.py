"""A message as it comes from the broker: kept piece by piece, checked on the way, and no more of it in memory than its head.

Invariants: what `header` gives was sent by who the frame says, to this agency, and hashes to its id; until then its pieces belong to no row
of the inbox (`pieces`). Left to others: fetching (`link`), what becomes of a good or a bad message (`courier`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Engine

from agency_node.pieces import IN, IN_PIECES, drop_unclaimed, write_piece
from agency_node.refusals import RefusedByUsError
from agency_node.replies import Lease
from agency_node.store import promising_nothing
from crypto.canonical import AgencyId
from crypto.frame import MessageHeader, read_header
from crypto.message_check import MessageCheck
from crypto.message_types import MAX_FRAME_BYTES
from crypto.notices import RefusalReason
from crypto.roster import Roster


@dataclass
class Arrival:
    """One message under its lease. Of one part it is kept here; of more its pieces go into the store."""

    engine: Engine
    lease: Lease
    _first: bytearray = field(default_factory=bytearray, repr=False)
    _count: int = 0

    def __post_init__(self) -> None:
        self._check = MessageCheck(self.lease.total_bytes)
        if self.in_pieces:
            self.drop()  # what an attempt left that did not end

    @property
    def in_pieces(self) -> bool:
        """Whether it has more than one part."""
        return self.lease.parts > 1

    @property
    def data(self) -> bytes:
        """What stands in the inbox row, once all has come."""
        return IN_PIECES if self.in_pieces else bytes(self._first)

    def take(self, piece: bytes) -> None:
        """The next piece."""
        self._check.add(piece)
        if not self.in_pieces:
            self._first += piece
            return
        self._first += piece[: MAX_FRAME_BYTES - len(self._first)]
        with promising_nothing(self.engine).begin() as connection:  # the row of the inbox, which comes last, takes them along to the disk
            write_piece(connection, IN, str(self.lease.message_id), self._count, piece)
        self._count += 1

    def header(self, agency: AgencyId, roster: Roster) -> MessageHeader:
        """The header of the whole: a message in its one form (`PeerError`), addressed to `agency` (`RefusedByUsError`), signed by its
        sender's node key (`SenderSignatureError`)."""
        header = read_header(bytes(self._first), self.lease.total_bytes)
        if header.recipient != agency:
            raise RefusedByUsError(RefusalReason.MALFORMED, "the message is addressed to another agency")
        self._check.finish(self.lease.message_id, roster.node_key(header.sender))
        return header

    def drop(self) -> None:
        """Delete the pieces, unless the message is in the inbox."""
        with self.engine.begin() as connection:
            drop_unclaimed(connection, self.lease.message_id)
