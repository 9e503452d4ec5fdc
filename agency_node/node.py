"""The parts of one node, put together from its folder: what commands and the serving process share.

The one place that builds stores, keys and the connection to the broker. Invariants: nothing here dials out by itself; the node's clock is
given in, and is the system's only in `commands`.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, select

from agency_node.config import AT_REST_KEY_FILE, CONFIG_FILE, NodeConfig
from agency_node.errors import ConfigError
from agency_node.journal import NO_SEARCH, record
from agency_node.key_epoch import HeldKey, hold_key, with_tags
from agency_node.keyring import CreatedKeys, Keyring
from agency_node.link import BrokerLink
from agency_node.model_in_use import model_in_use
from agency_node.parties import Parties
from agency_node.retiring import check_acts
from agency_node.store import DATABASE_FILE, open_store
from agency_node.tables import ledger
from agency_node.transport import Transport
from agency_node.vault import KEY_BYTES, Vault
from crypto.canonical import AgencyId

if TYPE_CHECKING:
    from agency_node.faces.embedder import Embedder
    from agency_node.faces.ofiq import Ofiq

KEYS: str = "keys"
STARTED: str = "started"


@dataclass
class Node:
    """An opened node."""

    folder: Path
    config: NodeConfig
    clock: Callable[[], datetime]
    engine: Engine = field(repr=False)
    vault: Vault = field(repr=False)
    keyring: Keyring = field(repr=False)
    transport: Transport = field(repr=False)
    link: BrokerLink = field(repr=False)
    parties: Parties = field(repr=False)
    held: HeldKey = field(repr=False)
    """While it is held, nobody rotates the at-rest key."""

    @property
    def agency(self) -> AgencyId:
        """The agency's id."""
        return self.config.agency_id

    def embedder(self) -> Embedder:
        """The face model that node.toml names, or the one with which the gallery was re-embedded since."""
        return model_in_use(self.engine, self.config).load(self.folder)

    def ofiq(self) -> Ofiq | None:
        """The reference code for quality, where node.toml names it (R21); `ConfigError` when it is not there."""
        told = self.config.quality
        if not told.ofiq:
            return None
        from agency_node.faces.ofiq import Ofiq  # noqa: PLC0415  # few commands need it

        return Ofiq(self.folder / told.ofiq, self.folder / told.ofiq_config if told.ofiq_config else None)


def open_node(folder: Path, clock: Callable[[], datetime], *, retired: bool = False) -> Node:
    """The node of that folder; `ConfigError` or `StoreError` say what is missing.

    `RetiredError` for one that was moved away or left the federation, unless `retired`: for commands that look at what is kept there.
    """
    config = NodeConfig.load(folder)
    held = hold_key(folder / KEYS)
    engine = open_store(folder / DATABASE_FILE)
    if not retired:
        check_acts(engine)
    vault = with_tags(Vault.from_file(folder / KEYS / AT_REST_KEY_FILE), engine)
    keyring = Keyring(folder, vault, engine, config.agency_id, clock)
    transport = Transport(config.broker, config.agency_id, keyring.node_key, clock, verify=_verify(config), proxy=config.proxy)
    link = BrokerLink(transport)
    parties = Parties(engine, link, config.fingerprint, clock)
    return Node(folder, config, clock, engine, vault, keyring, transport, link, parties, held)


def note_start(node: Node) -> None:
    """Write into the ledger that the node starts, with the digest of its settings, and whether they changed since it started last (R50)."""
    subject = f"{CONFIG_FILE} {hashlib.sha256((node.folder / CONFIG_FILE).read_bytes()).hexdigest()}"
    starts = select(ledger.c.subject).where(ledger.c.event == STARTED).order_by(ledger.c.sequence.desc()).limit(1)
    with node.engine.begin() as connection:
        before = connection.execute(starts).scalar()
        if before not in (None, subject):
            record(connection, node.clock(), NO_SEARCH, "configuration changed", f"it was {before}", subject=subject)
        record(connection, node.clock(), NO_SEARCH, STARTED, f"{node.agency} in mode {node.config.mode.value}", subject=subject)


def create_node(folder: Path, config: NodeConfig, *, witness: bool) -> CreatedKeys:
    """Make a node's folder: settings, at-rest key, node key, witness key if it is to witness; never over another node."""
    if (folder / CONFIG_FILE).exists():
        raise ConfigError(f"there is a node in this folder already ({CONFIG_FILE}): choose another folder")
    (folder / KEYS).mkdir(mode=0o700, parents=True, exist_ok=True)
    at_rest = folder / KEYS / AT_REST_KEY_FILE
    descriptor = os.open(at_rest, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(KEY_BYTES))
    created = Keyring.create(folder, Vault.from_file(at_rest), witness=witness)
    (folder / CONFIG_FILE).write_text(config.to_toml(), encoding="utf-8")
    return created


def _verify(config: NodeConfig) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=config.broker_ca) if config.broker_ca else True
