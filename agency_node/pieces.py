"""Messages of more than one part, kept and read as pieces of a part's size: no node holds one whole.

A row of inbox or outbox whose `data` is empty has its message in table `message_pieces`. The pieces of an outgoing message are written in
the transaction of its row. Those of an incoming one are written as they come and belong to nothing until its row stands in the inbox, in
the transaction that found it good; what belongs to nothing is deleted when the message comes again, and when a node starts. The database
itself deletes the pieces when the row's `data` becomes NULL (a trigger), so that whoever deletes a message deletes them too.

Left to others: checking what comes (`courier`), sealing (`outbox`), opening (`envelopes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from sqlalchemy import Connection, Engine, delete, func, insert, literal, select

from agency_node.errors import NodeError
from agency_node.store import reading
from agency_node.tables import inbox, message_pieces
from crypto.binary import sha256
from crypto.frame import read_header
from crypto.messages import AnyMessage, Message, MessageInPieces
from crypto.parts import PIECE_BYTES
from crypto.wire import MessageId

IN: Final = "in"
OUT: Final = "out"
IN_PIECES: Final = b""
"""What stands in `data` of a row whose message lies in pieces."""


class MessageGoneError(NodeError):
    """The message was deleted while it was read."""


@dataclass(frozen=True)
class Pieces:
    """A message as it is sent: `piece` gives its part `number`, of `PIECE_BYTES` but for the last."""

    message_id: MessageId
    total_bytes: int
    piece: Callable[[int], bytes] = field(repr=False)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """A message that is here whole."""
        return cls(MessageId(sha256(data).hex()), len(data), lambda number: data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES])

    @property
    def count(self) -> int:
        """Parts of the message."""
        return -(-self.total_bytes // PIECE_BYTES)

    def __iter__(self) -> Iterator[bytes]:
        """All of it, piece by piece."""
        return (self.piece(number) for number in range(self.count))


def write_piece(connection: Connection, direction: str, owner: str, number: int, data: bytes) -> None:
    """Keep one piece: of the message with the id `owner` (`IN`), or of the row with that number (`OUT`)."""
    connection.execute(insert(message_pieces).values(direction=direction, owner=owner, number=number, data=data))


def write_pieces(connection: Connection, direction: str, owner: str, pieces: Iterable[bytes]) -> None:
    """Keep pieces from the first on, one at a time in memory."""
    for number, data in enumerate(pieces):
        write_piece(connection, direction, owner, number, data)


def stored_pieces(engine: Engine, direction: str, owner: str, message_id: MessageId) -> Pieces:
    """A message that was kept in pieces; each is read when it is asked for."""
    columns = message_pieces.c
    where = (columns.direction == direction) & (columns.owner == owner)
    with reading(engine).begin() as connection:
        total_bytes = connection.execute(select(func.coalesce(func.sum(func.length(columns.data)), 0)).where(where)).scalar_one()

    def piece(number: int) -> bytes:
        with reading(engine).begin() as connection:
            data = connection.execute(select(columns.data).where(where, columns.number == number)).scalar()
        if data is None:
            raise MessageGoneError("a message was deleted while it was read: its search has ended")
        return bytes(data)

    return Pieces(message_id, int(total_bytes), piece)


def received(engine: Engine, message_id: str, data: bytes) -> AnyMessage:
    """The message of an inbox row: a `PeerError` when it is none, which the courier has excluded before it stored it."""
    if data != IN_PIECES:
        return Message.from_bytes(data)
    pieces = stored_pieces(engine, IN, message_id, MessageId(message_id))
    if read_header(pieces.piece(0), pieces.total_bytes).spec.streamed:
        return MessageInPieces.read(pieces.message_id, pieces.total_bytes, lambda: iter(pieces))
    return Message.from_bytes(b"".join(pieces))


def take_own(connection: Connection, number: int, message_id: str) -> None:
    """Copy the pieces of an outgoing row to the inbox: this agency's message to itself."""
    columns = message_pieces.c
    ours = select(literal(IN), literal(message_id), columns.number, columns.data)
    ours = ours.where(columns.direction == OUT, columns.owner == str(number))
    connection.execute(insert(message_pieces).prefix_with("OR IGNORE").from_select(["direction", "owner", "number", "data"], ours))


def drop_unclaimed(connection: Connection, message_id: str | None = None) -> None:
    """Delete incoming pieces, of one message or of all, whose message did not come into the inbox."""
    columns = message_pieces.c
    lost = (columns.direction == IN) & columns.owner.not_in(select(inbox.c.message_id))
    connection.execute(delete(message_pieces).where(lost if message_id is None else lost & (columns.owner == message_id)))
