"""A message whose bytes come in pieces is checked without holding it: what broker and node do before they keep one.

Invariants: a message that passes here is one that `Message.from_bytes` and `Message.check_signature` pass, with the same errors for every
other. Left to others: whose key the sender's is (`roster`), opening (`messages`).
"""

from __future__ import annotations

import hashlib
from typing import Final

from crypto.envelope import MAX_HEAD_BYTES as MAX_ENVELOPE_HEAD_BYTES
from crypto.envelope import read_context
from crypto.errors import BadSignatureError, MisuseError, NotCanonicalError, SenderSignatureError
from crypto.frame import MessageHeader, check_context, read_head, signed_string
from crypto.keys import SIGNATURE_BYTES, VerifyingKey
from crypto.message_types import MAX_FRAME_BYTES, MESSAGES
from crypto.messages import Message
from crypto.wire import MessageId

_MAX_HEAD_BYTES: Final = max(
    MAX_FRAME_BYTES + (MAX_ENVELOPE_HEAD_BYTES if spec.sealed else spec.max_body_bytes) for spec in MESSAGES.values()
)
"""Room for all of a message but what its envelope seals."""


class MessageCheck:
    """Checks a message whose bytes come in pieces, in order, and keeps no more of it than its first 130 kB.

    The frame's signature is over a digest, an envelope's form says of what it seals only the length, and open bodies are short: so nothing
    else need be here at once.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._fed = 0
        self._head = bytearray()
        self._tail = b""
        self._before_tail = hashlib.sha256()

    @property
    def added(self) -> int:
        """Bytes that were added."""
        return self._fed

    def add(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._fed += len(piece)
        self._head += piece[: _MAX_HEAD_BYTES - len(self._head)]
        self._before_tail.update(self._tail[: max(len(self._tail) + len(piece) - SIGNATURE_BYTES, 0)])
        self._before_tail.update(memoryview(piece)[: max(len(piece) - SIGNATURE_BYTES, 0)])
        self._tail = (self._tail + piece[-SIGNATURE_BYTES:])[-SIGNATURE_BYTES:]

    def finish(self, message_id: MessageId, sender_public: VerifyingKey) -> MessageHeader:
        """The header, after these checks in this order; `MisuseError` unless every byte was added.

        1. the bytes hash to `message_id` (`NotCanonicalError`)
        2. they are a message: what `Message.from_bytes` checks, in the same order and with the same errors
        3. `sender_public`, the roster's key of the sender, signed the frame (`SenderSignatureError`)
        """
        if self._fed != self._total_bytes:
            raise MisuseError("bytes of the message are missing, or there are too many")
        # 1
        whole = self._before_tail.copy()
        whole.update(self._tail)
        if whole.digest() != message_id.digest:
            raise NotCanonicalError("the parts do not hash to the message's id")
        # 2
        header = self._read()
        # 3
        try:
            sender_public.check(self._tail, signed_string(self._before_tail))
        except BadSignatureError as error:
            raise SenderSignatureError("the frame's signature is not the sender's") from error
        return header

    def _read(self) -> MessageHeader:
        head = bytes(self._head)
        reader, header = read_head(head, self._total_bytes)
        spec = header.spec
        body_bytes = reader.integer(4, low=1, high=spec.max_carried_bytes)
        first = head[reader.at : reader.at + min(body_bytes, MAX_ENVELOPE_HEAD_BYTES)]
        reader.skip(body_bytes)
        reader.skip(SIGNATURE_BYTES)
        reader.finish()
        if spec.sealed:
            check_context(header, read_context(first, body_bytes, max_bytes=spec.max_carried_bytes))
        else:
            Message.from_bytes(head)
        return header
