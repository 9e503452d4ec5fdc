"""What a backup must not bring back: keys of searches, and everything that was under way.

`close_copy` works on the copy that goes into the backup, so that the keys of searches never stand in one: a stolen backup with its
passphrase opens no probe's answer. `begin_anew` works on a restored store. Both say in the store that what was under way has ended; another
party that waits for it learns that at its deadline.

Why so much ends: a restored node does not know what it did since. A grant may have been answered, and one grant is answered once; a message
may have had the next number; a head of the log may have been cosigned. So grants of before the restore are refused (`grants`), numbers
jump, and a witness key is never in a backup.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, delete, select, update

from agency_node.facts import Fact, read_fact, write_fact
from agency_node.gallery_tables import disclosure_requests
from agency_node.journal import NO_SEARCH, record, stamp
from agency_node.outbox import EXPUNCTION, MANIFEST, READY, REFUSED
from agency_node.overview import ENDED
from agency_node.retiring import Stage, retirement_in
from agency_node.tables import custody, custody_parts, facts, held_grants, inbox, outbox, sealing_keys, searches, sequences
from agency_node.vault import Vault
from crypto.errors import FieldError
from crypto.sealing_key import Week

NOTE: Final = "it was under way when the backup was made"
_ALWAYS_TRUE: Final = (EXPUNCTION, MANIFEST)
"""Entries that are true whenever they come; the log holds the same bytes once."""
_JUMP: Final = 1 << 20
"""Further than any number that was used between backup and restore."""


def close_copy(engine: Engine) -> None:
    """Take out of the copy of a store what no backup may hold, and end what was under way in it."""
    with engine.begin() as connection:
        end_what_is_open(connection)
        of_a_search = outbox.c.kind.not_in(_ALWAYS_TRUE)
        connection.execute(update(outbox).where(of_a_search).values(sealed_openings=None, opening=None))
        connection.execute(delete(facts).where(facts.c.name == Fact.COSIGNED.value))
        stage = retirement_in(connection)
        if stage is not None and stage.stage is Stage.MOVING:  # where it comes to, it acts
            connection.execute(delete(facts).where(facts.c.name == Fact.RETIRED.value))


def end_what_is_open(connection: Connection, note: str = NOTE) -> None:
    """End what is under way, and destroy the keys of searches and what came for them; in the caller's transaction."""
    of_search = sealing_keys.c.key_id.in_([key_id for key_id, use in _live_keys(connection) if _week_of(use) is None])
    connection.execute(update(sealing_keys).where(of_search).values(sealed_private=None))
    connection.execute(update(searches).values(sealed_search_key=None, probe=None))
    connection.execute(update(searches).where(searches.c.state.not_in(ENDED)).values(state="closed", note=note))
    of_a_search = outbox.c.kind.not_in(_ALWAYS_TRUE)
    connection.execute(update(outbox).where(of_a_search, outbox.c.state == READY).values(state=REFUSED, data=None, note=note))
    connection.execute(update(inbox).where(inbox.c.state.in_(["new", "waiting"])).values(state="done", note=note))
    connection.execute(update(inbox).where(inbox.c.data.is_not(None)).values(data=None))
    connection.execute(update(held_grants).where(held_grants.c.state == "standing").values(state="ended", note=note))
    connection.execute(update(custody).where(custody.c.state == "open").values(state="lapsed", note=note))
    connection.execute(update(custody_parts).values(data=None))
    undecided = disclosure_requests.c.state.in_(["pending", "granted", "withholding"])
    connection.execute(update(disclosure_requests).where(undecided).values(state="ended"))


def begin_anew(engine: Engine, vault: Vault, made_at: datetime, clock: Callable[[], datetime], *, moved: bool = False) -> None:
    """Make a restored store one that can go on beside parties who know more than it does; `moved` if its node acts there no more."""
    now = clock()
    with engine.begin() as connection:
        old = [key_id for key_id, use in _live_keys(connection) if _is_over(use, now)]
        connection.execute(update(sealing_keys).where(sealing_keys.c.key_id.in_(old)).values(sealed_private=None))
        connection.execute(update(sequences).values(last=sequences.c.last + _JUMP))
        stated = read_fact(connection, Fact.MANIFEST)
        if stated is not None:
            version = int(json.loads(vault.open(Fact.MANIFEST.value, stated))["version"]) + _JUMP
            write_fact(connection, Fact.MANIFEST, vault.seal(Fact.MANIFEST.value, json.dumps({"version": version}).encode()))
        write_fact(connection, Fact.RESTORED, stamp(now).encode())
        if moved:
            write_fact(connection, Fact.MOVED_HERE, stamp(now).encode())
        record(connection, now, NO_SEARCH, "moved here" if moved else "restored", f"from a backup of {stamp(made_at)}")


def _live_keys(connection: Connection) -> list[tuple[str, str]]:
    live = select(sealing_keys.c.key_id, sealing_keys.c.use).where(sealing_keys.c.sealed_private.is_not(None))
    return [(key_id, use) for key_id, use in connection.execute(live)]


def _week_of(use: str) -> Week | None:
    try:
        return Week(use)
    except FieldError:
        return None  # a search's


def _is_over(use: str, now: datetime) -> bool:
    week = _week_of(use)
    return week is None or week != Week.at(now)
