"""The nonces that this process has taken, in memory, so that a signed request is taken once.

Every nonce begins with eight bytes that the process drew at its start, its *prefix* (a server-provided nonce, as in RFC 9449 section 8).
Who signs under another prefix is told the present one and signs again. So nothing has to outlive the process: after a restart the prefix
is another, and whatever was signed under the old one is refused. A process that served the same folder beside this one would have a prefix
of its own, so a request is taken by one of them at most; the broker is one process all the same, or nodes would sign most requests twice.

Invariants: no nonce is taken twice under one prefix while a signature that bears it is fresh. One that was forgotten belongs to a
signature that is refused as stale, or under another prefix. Nonces are forgotten a whole set at a time; at most `2 * most` are kept, each
for at most four minutes while requests come. An agency cannot fill the memory: it needs a fresh signature for each, and when one set is
full, a new prefix begins, which costs every node one repetition.

Why forgetting is safe. A nonce that is taken at a moment t is of a signature created by t + 60 s, which is fresh until t + 120 s. Its set
is put aside at a turn after t, and forgotten at the next, which is more than 120 s later. So it was fresh only before that last turn; and
if the clock is ever set back behind the last turn, a new prefix begins.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from broker.errors import NoncePrefixError, ReplayedRequestError, StaleRequestError
from crypto.request_signature import MAX_AGE_S, NONCE_PREFIX_BYTES, VerifiedRequest, fresh_prefix

_MAX_AGE: Final = timedelta(seconds=MAX_AGE_S)
_KEPT: Final = 2 * _MAX_AGE
"""From the first moment at which a signature is fresh to the last."""


class Nonces:
    """Every nonce that a fresh signature may bear and that was taken; `most` of them in each of two sets."""

    def __init__(self, most: int, now: datetime) -> None:
        self._most = most
        self._prefix = fresh_prefix()
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()
        self._turned = now

    @property
    def prefix(self) -> bytes:
        """What a nonce begins with: public, and drawn by nobody but this process."""
        return self._prefix

    def check_prefix(self, nonce: bytes) -> None:
        """`NoncePrefixError`, which says the present prefix, unless `nonce` begins with it."""
        if not nonce.startswith(self._prefix):
            raise NoncePrefixError(self._prefix)

    def spend(self, request: VerifiedRequest, now: datetime) -> None:
        """Take the request's nonce, after these checks; `now` is the clock's word at this very moment.

        1. it begins with the present prefix (`NoncePrefixError`)
        2. the request was created neither so early that its nonce may have been forgotten, nor so late that it would be forgotten while
           it is fresh (`StaleRequestError`): only a body that took its time or a clock that was set since the request began comes here
        3. the agency has not used it (`ReplayedRequestError`)
        """
        if now < self._turned or len(self._new) >= self._most:  # under a new prefix nothing that was signed before counts
            self._prefix, self._old, self._new, self._turned = fresh_prefix(), set(), set(), now
        elif now - self._turned > _KEPT:
            self._old, self._new, self._turned = self._new, set(), now
        self.check_prefix(request.nonce)  # 1
        if not self._turned - _MAX_AGE <= request.created <= now + _MAX_AGE:  # 2
            raise StaleRequestError("the request was not signed within a minute of the broker's clock")
        name = request.agency.encode("ascii") + request.nonce[NONCE_PREFIX_BYTES:]
        if name in self._new or name in self._old:  # 3
            raise ReplayedRequestError("the request's nonce was used before")
        self._new.add(name)
