"""One row of the ledger for each command that acts or looks at what is kept: who typed it, what it was for, and how it ended (R50, R51).

The operator is the person whose key signs, by the roster's id, else the number of the account on this machine: a name is not needed to
find who it was (R54). The row is written when the command ends, also when it was refused or broke off; what it did in between stands in
rows of its own, which name the same operator.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agency_node.commands.output import clock
from agency_node.errors import PolicyRefusedError, RequestError
from agency_node.journal import DONE, FAILED, NO_SEARCH, REFUSED, Told, acting_as, record
from crypto.errors import PeerError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from agency_node.legal.persons import PersonKey
    from agency_node.node import Node


@dataclass
class Act:
    """What a command says of itself while it runs; all of it may be empty."""

    search_id: str = NO_SEARCH
    subject: str = ""
    detail: str = ""
    person: str = ""
    """Whose key was given."""


class HasEngine(Protocol):
    """A node, or what works on one that nobody may open."""

    @property
    def engine(self) -> Engine:
        """Of its store."""


@contextmanager
def acting(node: HasEngine, command: str, *, search_id: str = NO_SEARCH, subject: str = "") -> Iterator[Act]:
    """Carry out a command of this node, `node expunge` for instance, and write down that it was."""
    act = Act(search_id, subject)
    account = f"account {os.getuid()}"
    outcome = FAILED
    with acting_as(account, f"command {command}"):
        try:
            yield act
            outcome = DONE
        except BaseException as error:
            outcome = REFUSED if isinstance(error, PeerError | PolicyRefusedError) else FAILED
            act.detail = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
            raise
        finally:
            with node.engine.begin() as connection:
                said: Told = {"outcome": outcome, "actor": act.person or account, "subject": act.subject}
                record(connection, clock(), act.search_id, f"command {command}", act.detail, **said)


def person_key(node: Node, act: Act, path: Path) -> PersonKey:
    """The key in that file, whose person now acts. In production one without passphrase is refused: it is for demonstrations."""
    from agency_node.config import Mode  # noqa: PLC0415
    from agency_node.legal.persons import has_passphrase, read_person_key  # noqa: PLC0415

    if node.config.mode is Mode.PRODUCTION and has_passphrase(path) is False:
        raise RequestError(
            f"{path} has no passphrase, and in production such a key signs nothing: make a new one with `sealmatch person init`"
        )
    key = read_person_key(path)
    act.person = str(key.person_id)
    return key
