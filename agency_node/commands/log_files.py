"""What `sealmatch log` does with files and parties: whose keys it trusts, whence the bytes come, what goes into bundle and evidence."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agency_node.commands.acting import acting
from agency_node.commands.output import clock
from agency_node.errors import RequestError
from agency_node.facts import Fact, read_fact
from agency_node.legal.ceremony import read_roster
from agency_node.link import BrokerLink
from agency_node.log_bundle import Bundle, seen_checkpoint, verify_bundle, write_bundle
from agency_node.log_evidence import copied_size, evidence_of
from agency_node.node import Node, open_node
from agency_node.transport import Transport
from agency_node.verification import LogReport, ReadLog, read_log, verify_log
from crypto.canonical import AgencyId
from crypto.checkpoint import SignedCheckpoint
from crypto.keys import SigningKey
from crypto.log_evidence import EVIDENCE_KIND, LogEvidence
from crypto.roster import Roster, TrustedRoster

T = TypeVar("T")


@dataclass(frozen=True)
class Reader:
    """Who reads the log: a node with its pinned roster, or anybody with a roster and the fingerprint of its root set."""

    node: Node | None
    trusted: TrustedRoster
    broker: str

    async def with_link(self, use: Callable[[BrokerLink], Awaitable[T]]) -> T:
        """Ask the broker something. Who has no node signs with a throw-away key: the log is public."""
        if self.node is not None:
            transport = self.node.transport
        else:
            transport = Transport(self.broker, AgencyId("public"), SigningKey.generate(), clock)
        try:
            return await use(BrokerLink(transport))
        finally:
            await transport.close()


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    origin: str
    size: int
    root: str
    files: int


def reader(node: Path | None, broker: str, roster: Path | None, root_fingerprint: str) -> Reader:
    """The reader that the options name; `RequestError` when they name none."""
    if node is not None:
        opened = open_node(node, clock)
        return Reader(opened, opened.parties.trusted, "")
    if broker and roster is not None and root_fingerprint:
        trusted = TrustedRoster.pin(read_roster(roster), fingerprint_of(root_fingerprint), clock())
        return Reader(None, trusted, broker)
    raise RequestError("name a --node, or --broker, --roster and --root-fingerprint (64 hexadecimal digits)")


def verify_online(who: Reader, seen: list[Path], evidence: Path | None) -> LogReport:
    """The log as the broker hands it out; a node holds its own last head and its own acts against it too."""
    roster, heads = who.trusted.at(clock()), [seen_checkpoint(path) for path in seen]
    shown = None if evidence is None else _evidence_file(evidence, roster)
    if who.node is not None:
        heads += _last_head(who.node)
        shown = shown or _own_evidence(who.node)
    return asyncio.run(who.with_link(lambda link: verify_log(link, roster, clock(), seen=heads, evidence=shown)))


def verify_offline(
    folder: Path, node: Path | None, roster: Path | None, root_fingerprint: str, seen: list[Path], evidence: Path | None
) -> LogReport:
    """A bundle, without a network. A node gives the roster that it trusts, its last head and its own acts."""
    bundle, heads = Bundle(folder), [seen_checkpoint(path) for path in seen]
    opened = None if node is None else open_node(node, clock)
    if root_fingerprint:
        document = bundle.roster() if roster is None else read_roster(roster)
        trusted = TrustedRoster.resume(document, fingerprint_of(root_fingerprint))
    elif opened is not None:
        trusted = opened.parties.trusted
    else:
        raise RequestError("name the --root-fingerprint (64 hexadecimal digits) that the root holders publish, or a --node that pinned it")
    if opened is not None:
        heads += _last_head(opened)

    def shown(roster: Roster) -> LogEvidence | None:
        if evidence is not None:
            return _evidence_file(evidence, roster)
        return None if opened is None else _own_evidence(opened)

    return verify_bundle(bundle, trusted, clock(), seen=heads, evidence=shown)


def export(who: Reader, into: Path) -> Exported:
    """Read the log to its newest head that counts, and write it as a bundle."""

    async def read(link: BrokerLink) -> tuple[SignedCheckpoint, ReadLog]:
        return await read_log(link, who.trusted.at(clock()), clock())

    def write() -> Exported:
        note, found = asyncio.run(who.with_link(read))
        files = write_bundle(into, note, found, who.trusted.data)
        return Exported(note.checkpoint.origin, note.checkpoint.size, note.checkpoint.root.hex(), files)

    if who.node is None:
        return write()
    with acting(who.node, "log export"):
        return write()


def export_evidence(folder: Path, into: Path) -> LogEvidence:
    """Collect a node's acts, sign them, and write them to a new file."""
    node = open_node(folder, clock)
    who = Reader(node, node.parties.trusted, "")

    async def size(link: BrokerLink) -> int:
        note = await link.checkpoint()
        return 0 if note is None else note.checkpoint.size

    with acting(node, "log evidence"):
        before = copied_size(node.engine)
        found = evidence_of(node.engine, node.agency, clock(), before, before)
        after = max(before, asyncio.run(who.with_link(size)))
        found = LogEvidence(found.agency, found.made_at, before, after, found.acts)
        try:
            with into.open("xb") as file:
                file.write(found.sign(node.keyring.node_key))
        except OSError as error:
            raise RequestError(f"{into} cannot be written: {error.strerror}") from error
    return found


def _last_head(node: Node) -> list[SignedCheckpoint]:
    with node.engine.begin() as connection:
        stored = read_fact(connection, Fact.CHECKPOINT)
    return [] if stored is None else [SignedCheckpoint.from_bytes(stored)]


def _own_evidence(node: Node) -> LogEvidence:
    size = copied_size(node.engine)
    return evidence_of(node.engine, node.agency, clock(), size, size)


def _evidence_file(path: Path, roster: Roster) -> LogEvidence:
    try:
        with path.open("rb") as file:
            return LogEvidence.read(file.read(EVIDENCE_KIND.max_bytes + 1), roster)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def fingerprint_of(text: str) -> bytes:
    """A root fingerprint's 32 bytes; `RequestError` for anything but 64 hexadecimal digits."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise RequestError("a root fingerprint has 64 hexadecimal digits")
    return bytes.fromhex(text)
