"""Move a node to another machine of the same agency: a sealed backup, after which this one acts no more (R27).

Two nodes with one key are a fork: both would take messages from one mailbox, and answer one grant twice. So the order is fixed. The node is
marked, then nobody serves it any more, then the copy is made, then the mark says what was made; a crash between two of these leaves a node
that serves nobody, and the same command goes on. Invariants: no moment has this node serving after its copy was made; a second file is made
only when somebody says that nothing came of the first.

There is no way back but the sealed file: restored with the restore key, on any machine of the agency, this one among them. Left to others:
the file (`making`), the stages (`retiring`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from agency_node.backup.making import make_backup
from agency_node.backup.restore_key import RestoreEntry
from agency_node.backup.sealed_file import Head
from agency_node.errors import RequestError, RetiredError
from agency_node.journal import NO_SEARCH, record, stamp
from agency_node.node import Node
from agency_node.retiring import Stage, enter_stage, nobody_serves_in, retirement


def move_node(node: Node, into: Path, to: RestoreEntry, clock: Callable[[], datetime], *, replaces: bool = False) -> Head:
    """Seal this node to the key of the machine it goes to, and act here no more; go on with a move that broke off.

    `RetiredError` when it was moved before, unless `replaces`: the sealed file was lost and no node was made from it. `RequestError` as
    `make_backup`, before anything is marked where that can be seen, and when a serving process does not end.
    """
    if to.agency != node.agency:
        raise RequestError(f"this restore key is of {to.agency}, and a node of {node.agency} moves to no other agency (R27)")
    if into.exists():
        raise RequestError(f"{into} is there already, and no backup is overwritten: name another file")
    before = retirement(node.engine)
    if before is not None and before.stage is Stage.MOVED and not replaces:
        raise RetiredError(f"{before.says}. If its sealed file was lost and no node made from it, type the command with --replace")
    now = stamp(clock())
    with node.engine.begin() as connection:
        enter_stage(connection, Stage.MOVING, now)
        record(connection, clock(), NO_SEARCH, "moving", "again" if replaces else "", subject=f"restore key {to.key_id}")
    with nobody_serves_in(node.folder):
        head = make_backup(node, into, to, clock, moves=True)
        digest = _sha256(into)
        with node.engine.begin() as connection:
            enter_stage(connection, Stage.MOVED, stamp(clock()), digest)
            record(connection, clock(), NO_SEARCH, "moved away", f"file {digest}", subject=f"restore key {to.key_id}")
    return head


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
