"""A node that was moved to another machine, or leaves the federation: at which stage it is, and who may still do what here (R27).

    moving -> moved                     `node backup --to KEY --move`: one node, one key; the other machine goes on
    leaving -> destroying -> left       `node leave`: open work is finished, then everything but what must be kept is destroyed

Invariants: a stage stands in the store before the first thing that follows from it, so that a crash leaves a node that acts too little and
not too much; no stage but a later one of the same row follows it; a node of any stage but `leaving` serves nobody, and a `leaving` one
takes nothing new. Whoever serves holds a lock on the folder, which the system takes back from a process that died: what must not happen
beside a serving node waits for that lock and not for somebody's word.

What it does not see: a copy of the folder from before. It is started by who has it, with the same key; peers refuse its numbers once the
moved node has spoken to them (`backup.closing`), and destroying copies is for those who made them. Left to others: moving (`backup`),
leaving (`leaving`).
"""

from __future__ import annotations

import enum
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, bindparam, select

from agency_node import tables
from agency_node.errors import RequestError, RetiredError
from agency_node.facts import Fact, read_fact, write_fact
from agency_node.store import Glance

LOCK_FILE: Final = "serving.lock"
LOOK_S: Final = 1.0
"""How often a serving node looks whether it still acts."""
PATIENCE_S: Final = 10.0
"""How long a command waits for a serving node to see that, and to end."""
_BETWEEN_S: Final = 0.1


class Stage(enum.StrEnum):
    """How far a node is on its way out; absent for one that is not."""

    MOVING = "moving"
    MOVED = "moved"
    LEAVING = "leaving"
    DESTROYING = "destroying"
    LEFT = "left"


_NEXT: Final = {
    None: (Stage.MOVING, Stage.LEAVING),
    Stage.MOVING: (Stage.MOVING, Stage.MOVED),
    Stage.MOVED: (Stage.MOVING,),
    Stage.LEAVING: (Stage.LEAVING, Stage.DESTROYING),
    Stage.DESTROYING: (Stage.DESTROYING, Stage.LEFT),
    Stage.LEFT: (),
}
_SAYS: Final = {
    Stage.MOVING: "this node is being moved to another machine since {at}: finish with `sealmatch node backup --to KEY --move`",
    Stage.MOVED: "this node was moved to another machine at {at}, and two nodes with one key are a fork: it acts here no more",
    Stage.LEAVING: "this node leaves the federation since {at}, and takes nothing new",
    Stage.DESTROYING: "this node leaves the federation since {at}, and its gallery is being destroyed: finish with `sealmatch node leave`",
    Stage.LEFT: "this node left the federation at {at}: what was kept is read with `sealmatch node ledger` and `sealmatch node status`",
}


@dataclass(frozen=True)
class Retirement:
    """The stage and since when; `detail` is the file's SHA-256 for a move."""

    stage: Stage
    at: str
    detail: str = ""

    @property
    def says(self) -> str:
        """A sentence for a person."""
        return _SAYS[self.stage].format(at=self.at)


_VALUE: Final = Glance(select(tables.facts.c.value).where(tables.facts.c.name == bindparam("fact")))


def retirement(engine: Engine) -> Retirement | None:
    """The stage of this node; None for one that stays."""
    found = _VALUE.first(engine, fact=Fact.RETIRED.value)
    return None if found is None else _read(bytes(found[0]))


def standing_of(engine: Engine) -> list[str]:
    """What a person who looks at the node must know first: that it is on its way out, or that it came from another machine."""
    leaving, came = retirement(engine), _VALUE.first(engine, fact=Fact.MOVED_HERE.value)
    said = [] if leaving is None else [leaving.says]
    return said if came is None else [*said, f"this node was moved here at {bytes(came[0]).decode()}; the one that it was acts no more"]


def retirement_in(connection: Connection) -> Retirement | None:
    """The same, in the caller's transaction."""
    stored = read_fact(connection, Fact.RETIRED)
    return None if stored is None else _read(stored)


def enter_stage(connection: Connection, stage: Stage, at: str, detail: str = "") -> None:
    """Set the stage in the caller's transaction; `RetiredError` for one that does not follow the present one."""
    present = retirement_in(connection)
    if stage not in _NEXT[None if present is None else present.stage]:
        raise RetiredError("" if present is None else present.says)
    value = {"stage": stage.value, "at": at, "detail": detail}
    write_fact(connection, Fact.RETIRED, json.dumps(value).encode("utf-8"))


def check_acts(engine: Engine) -> None:
    """Raise `RetiredError` for a node that was moved away, or has begun to destroy what it held."""
    found = retirement(engine)
    if found is not None and found.stage is not Stage.LEAVING:
        raise RetiredError(found.says)


def check_takes_new(engine: Engine) -> None:
    """Raise `RetiredError` for a node that takes no new work: also for one that finishes what is open before it leaves."""
    found = retirement(engine)
    if found is not None:
        raise RetiredError(found.says)


@contextmanager
def serving_in(folder: Path) -> Iterator[None]:
    """Held by a serving node, and by nobody beside `nobody_serves_in`; `RetiredError` while a command moves the node or destroys it."""
    with _locked(folder, fcntl.LOCK_SH, LOOK_S) as held:
        if not held:
            raise RetiredError("this node is being moved or destroyed by a command that runs: see what it says")
        yield


@contextmanager
def nobody_serves_in(folder: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Wait until no process serves this node, and keep it so; `RequestError` when one does not end."""
    with _locked(folder, fcntl.LOCK_EX, patience_s) as held:
        if not held:
            raise RequestError("the node still serves: stop it, with `systemctl stop` where a unit runs it, and type the command again")
        yield


@contextmanager
def _locked(folder: Path, kind: int, patience_s: float) -> Iterator[bool]:
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + patience_s
        while not (held := _try_lock(descriptor, kind)) and time.monotonic() < until:
            time.sleep(_BETWEEN_S)
        yield held
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(value: bytes) -> Retirement:
    stored = json.loads(value)
    return Retirement(Stage(stored["stage"]), str(stored["at"]), str(stored["detail"]))
