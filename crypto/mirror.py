"""A node's copy of the whole log, read leaf by leaf, and the question that it answers before every act: does the grant still stand?

"Scan, release, stubs and disclosure each happen only on a cosigned checkpoint younger than 10 minutes, read to its end, without a
revocation" (PROTOCOL 5). The mirror reads *all* leaves, not only those since the grant. Were the grant's place in the log taken from
a message, a grant could be entered a second time after its revocation, and the log read from there.

Invariants: a leaf that cannot be read stops the mirror, because it might be a revocation in a format of tomorrow; a mirror never
forgets a revocation, also one beyond the checkpoint in question. Silence means no: without leaves up to the checkpoint, no answer.

Left to others: storing leaves and asking for them (services), signatures and freshness of the checkpoint (`witness`). Memory is about 400
bytes a leaf.
"""

from __future__ import annotations

from collections.abc import Iterable

from crypto.canonical import AgencyId
from crypto.checkpoint import Checkpoint
from crypto.entries import ENDING_KINDS, EntryKind, LogEntry, entry_subject
from crypto.errors import InclusionError, MirrorError, RevokedError, UnloggedRosterError
from crypto.ledger import MerkleTree, leaf_hash


class LogMirror:
    """All leaves of one log from the first on, as a tree and as the subjects that matter."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._tree = MerkleTree()
        self._first: dict[tuple[EntryKind, bytes], int] = {}
        self._endings: set[bytes] = set()
        self._last_roster: bytes | None = None
        for data in leaves:
            self.append(data)

    @property
    def tree(self) -> MerkleTree:
        """The tree of the leaves, for proofs."""
        return self._tree

    def append(self, data: bytes) -> LogEntry:
        """Reads the next leaf's data. An `EncodingError` leaves the mirror where it was: from then on it answers nothing newer."""
        entry = LogEntry.from_bytes(data)
        index = self._tree.append(leaf_hash(data))  # what was read is the entry's one encoding
        self._first.setdefault((entry.kind, entry.subject), index)
        if entry.kind in ENDING_KINDS:
            self._endings.add(entry.subject)
        elif entry.kind is EntryKind.ROSTER_CHANGE:
            self._last_roster = entry.subject
        return entry

    def check_at(self, checkpoint: Checkpoint) -> None:
        """Raises `MirrorError` unless the mirror was read up to `checkpoint` and its leaves are those under the checkpoint's root.

        The mirror may have been read further. A wrong root is a fork or a broken store: stop and report.
        """
        if self._tree.size < checkpoint.size:
            raise MirrorError("mirror is not read to the checkpoint's end")
        if self._tree.root(checkpoint.size) != checkpoint.root:
            raise MirrorError("mirror has not the checkpoint's root")

    def check_not_revoked(self, grant_digest: bytes, checkpoint: Checkpoint) -> None:
        """Raises unless the log up to `checkpoint` holds the grant (32-byte digest) and nothing that ends it. In this order:

        1. the mirror reaches the checkpoint and agrees with it (`MirrorError`);
        2. the grant's entry stands under it: no log entry, no search (`InclusionError`);
        3. neither revocation nor lapse of the grant stands anywhere in the mirror (`RevokedError`).

        The caller asks `witness.check_checkpoint` first, with the same checkpoint.
        """
        # 1
        self.check_at(checkpoint)
        # 2
        self._check_first(EntryKind.GRANT, entry_subject(EntryKind.GRANT, grant_digest), checkpoint)
        # 3
        self.check_no_end(grant_digest)

    def check_no_end(self, grant_digest: bytes) -> None:
        """Raises `RevokedError` if the mirror holds a revocation or lapse of the grant. It says nothing of leaves that are not here yet."""
        if any(entry_subject(kind, grant_digest) in self._endings for kind in ENDING_KINDS):
            raise RevokedError("the log holds a revocation or lapse of this grant")

    def check_entered(self, kind: EntryKind, grant_digest: bytes, checkpoint: Checkpoint, author: AgencyId | None = None) -> None:
        """Raises unless an entry of that kind, grant and author stands under the checkpoint: no log entry, no release. In this order:

        1. the mirror reaches the checkpoint and agrees with it (`MirrorError`);
        2. an entry with that subject (`entries.entry_subject`) stands under it (`InclusionError`).

        A holder asks for the release's entry before it shows stubs. What the entry commits to is `entries.check_field`'s.
        """
        # 1
        self.check_at(checkpoint)
        # 2
        self._check_first(kind, entry_subject(kind, grant_digest, author), checkpoint)

    def check_roster(self, roster_digest: bytes, checkpoint: Checkpoint) -> None:
        """Raises unless the roster with that digest (`Roster.digest`) is the one that the log tells everybody of. In this order:

        1. the mirror reaches the checkpoint and agrees with it (`MirrorError`);
        2. the roster's entry stands under it, and no later roster's anywhere in the mirror (`UnloggedRosterError`).
        """
        # 1
        self.check_at(checkpoint)
        # 2
        subject = entry_subject(EntryKind.ROSTER_CHANGE, roster_digest)
        if self._first.get((EntryKind.ROSTER_CHANGE, subject), checkpoint.size) >= checkpoint.size:
            raise UnloggedRosterError("the log under this checkpoint does not hold the roster that is trusted here")
        if subject != self._last_roster:
            raise UnloggedRosterError("the log holds a later roster than the one that is trusted here")

    def _check_first(self, kind: EntryKind, subject: bytes, checkpoint: Checkpoint) -> None:
        if self._first.get((kind, subject), checkpoint.size) >= checkpoint.size:
            raise InclusionError(f"the log under this checkpoint does not hold the {kind.value} entry of this grant")
