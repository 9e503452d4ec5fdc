"""A roster's entry in the public log: what makes a version that root holders signed one that everybody can know of.

A threshold of root holders could sign two rosters, one for all and one for a single node, and a broker could hand each out. So whoever
installs a roster at the broker enters it, and a node acts only under the roster whose entry is the last of its kind in the log that
outside witnesses cosigned (`LogMirror.check_roster`). Invariants: the entry's subject follows from the roster's content, so that one
version has one subject and a second content of it another; an entry says to nobody without that roster which one it is.

The first roster a node pins names the log's key, and its entry is the first in that log: nothing of the log is needed to trust it, and
nothing is done under it before its entry is cosigned. So no order of starts waits for itself.

The salt of the one committed field, the version, follows from the roster as well: whoever has the roster is to be able to open the
entry, and there is nobody to hand salts on. Left to others: who signed the roster (`roster`).
"""

from __future__ import annotations

import hashlib
from datetime import date
from typing import Final

from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, commit_field, entry_subject
from crypto.roster import Roster

VERSION_FIELD: Final = FieldType("roster-version")
_SALT_LABEL: Final = b"sealmatch-1/roster-entry-salt\n"


def roster_entry(roster: Roster, day: date) -> LogEntry:
    """The entry of this version, entered on that UTC day."""
    return LogEntry(EntryKind.ROSTER_CHANGE, day, roster_subject(roster.digest), (commit_field(roster_opening(roster)),))


def roster_opening(roster: Roster) -> FieldOpening:
    """The opening of the entry's one field, for everybody who has the roster."""
    return FieldOpening(hashlib.sha256(_SALT_LABEL + roster.digest).digest(), VERSION_FIELD, str(roster.version).encode("ascii"))


def roster_subject(digest: bytes) -> bytes:
    """By what the entry of the roster with that digest (`Roster.digest`) is found."""
    return entry_subject(EntryKind.ROSTER_CHANGE, digest)
