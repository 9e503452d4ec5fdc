"""A federation of real processes on this machine: a broker, three agencies, a custodian, with fresh keys in a fresh folder.

    northport-pd      requester, with a legal office of its own whose staff keep their keys apart
    eastfield-pd      holder and witness
    lakeside-sheriff  holder and witness
    civic-board       custodian and witness, of another jurisdiction

Invariants: every party is a process of its own, started by the commands that a department would type; what they know of one another comes
from a roster that two of three root keys signed. Each node dials the broker through its own relay (`wiretap`), which records, unless the
caller gives another `Network`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from agency_node.config import Mode, NodeConfig, Role
from agency_node.demo.wiretap import Wiretap
from agency_node.entry import roster_entry
from agency_node.errors import NodeError
from agency_node.legal.persons import PersonKey, create_office_key, create_person_key, read_office_key, read_person_key
from agency_node.node import Node, create_node, open_node
from crypto.canonical import AgencyId, KeyId, PersonId, b64url_decode, b64url_encode
from crypto.checkpoint import LogKey
from crypto.fields import Fields
from crypto.keys import SealingPrivateKey, SigningKey, VerifyingKey
from crypto.root_set import RootKey, RootSet
from crypto.roster import Roster
from crypto.roster_entries import Agency, Credential, Person, PersonRole
from crypto.signed import key_id

NORTHPORT: Final = AgencyId("northport-pd")
EASTFIELD: Final = AgencyId("eastfield-pd")
LAKESIDE: Final = AgencyId("lakeside-sheriff")
BOARD: Final = AgencyId("civic-board")
MILWAUKEE: Final = AgencyId("milwaukee-pd")
BROKER: Final = AgencyId("broker-vendor")
DETECTIVE: Final = PersonId("northport-pd:detective-4")
COUNSEL: Final = PersonId("northport-pd:counsel-1")
EASTFIELD_COUNSEL: Final = PersonId("eastfield-pd:counsel-1")
LAKESIDE_COUNSEL: Final = PersonId("lakeside-sheriff:counsel-1")
MILWAUKEE_COUNSEL: Final = PersonId("milwaukee-pd:counsel-1")
ORIGIN: Final = "log.demo.example/2026"
BUDGETS: Final = {"officer_per_day": 100_000, "case_per_day": 100_000, "agency_per_day": 100_000}
"""One detective makes every search here, in demonstrations, benchmarks and tests."""
START_S: Final = 120.0
STOP_S: Final = 15.0


@dataclass(frozen=True)
class Cast:
    """One agency of the federation: its name for people, jurisdiction, roles in the roster, persons."""

    name: str
    jurisdiction: str
    roles: tuple[str, ...]
    persons: Mapping[PersonId, PersonRole]


CAST: Final[Mapping[AgencyId, Cast]] = {
    NORTHPORT: Cast(
        "Northport Police",
        "us-wi-northport",
        ("requester", "legal_office", "discovery"),
        {DETECTIVE: PersonRole.INVESTIGATOR, COUNSEL: PersonRole.REVIEWER},
    ),
    EASTFIELD: Cast("Eastfield Police", "us-wi-eastfield", ("holder", "legal_office", "witness"), {EASTFIELD_COUNSEL: PersonRole.REVIEWER}),
    LAKESIDE: Cast("Lakeside Sheriff", "us-wi-lakeside", ("holder", "legal_office", "witness"), {LAKESIDE_COUNSEL: PersonRole.REVIEWER}),
    BOARD: Cast("Civic Oversight Board", "us-il-rivertown", ("custodian", "witness"), {}),
}
BANNED: Final = Cast("Milwaukee Police", "us-wi-milwaukee", ("legal_office",), {MILWAUKEE_COUNSEL: PersonRole.REVIEWER})
"""An agency under a moratorium. It is in the roster, and its node does not run: it takes part in nothing."""
HOLDERS: Final = (EASTFIELD, LAKESIDE)


class FederationError(NodeError):
    """A process of the federation did not do what it should."""


class Network(Protocol):
    """What lies between the nodes and the broker."""

    @property
    def ports(self) -> Mapping[str, int]:
        """The loopback port that each agency dials."""

    def broker_is_at(self, port: int) -> None:
        """Where the broker listens; told each time that it has started."""

    def close(self) -> None:
        """End it."""


@dataclass
class Federation:
    """The processes and the keys of everybody, which in truth nobody holds together."""

    folder: Path
    network: Network
    roots: dict[AgencyId, SigningKey] = field(repr=False)
    discovery_key: SealingPrivateKey = field(repr=False)
    fingerprint: bytes
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)
    broker_port: int = 0
    embedder: str = "dlib"

    # --- making -------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: Path,
        now: datetime,
        cast: Mapping[AgencyId, Cast] = CAST,
        *,
        network: Network | None = None,
        broker_port: int = 0,
        embedder: str = "dlib",
    ) -> Federation:
        """Root ceremony, broker, a node for each of the cast, persons, roster; recording relays unless another network is given."""
        folder.mkdir(parents=True, exist_ok=True)
        network = network or Wiretap([str(agency) for agency in cast])
        roots = {agency: SigningKey.generate() for agency in sorted([BOARD, EASTFIELD, NORTHPORT])}
        root_set = RootSet(tuple(RootKey(agency, key.verifying_key) for agency, key in roots.items()), threshold=2)
        federation = cls(folder, network, roots, SealingPrivateKey.generate(), root_set.fingerprint, {}, broker_port, embedder)
        broker = federation.command(
            "broker",
            "init",
            str(folder / "broker"),
            "--operator",
            BROKER,
            "--origin",
            ORIGIN,
            "--root-fingerprint",
            root_set.fingerprint.hex(),
        )
        roster = Roster(
            version=1,
            expires=now.replace(microsecond=0) + timedelta(days=30),
            root=root_set,
            log=LogKey(ORIGIN, VerifyingKey(b64url_decode(str(broker["log_key"])))),
            log_operator=BROKER,
            agencies=tuple(federation._make_node(agency, cast[agency]) for agency in sorted(cast)),
        )
        federation.install_roster(roster)
        return federation

    def install_roster(self, roster: Roster) -> None:
        """Have two of the three roots sign, and the broker carry it."""
        path = self.folder / f"roster-{roster.version}.json"
        path.write_bytes(roster.sign(self.roots[BOARD], self.roots[NORTHPORT]))
        self.command("broker", "roster", str(self.folder / "broker"), str(path))

    def _make_node(self, agency: AgencyId, cast: Cast) -> Agency:
        config = NodeConfig.checked(
            {
                "agency": str(agency),
                "mode": Mode.DEMO,
                "roles": [role for role in cast.roles if role in set(Role)],
                "broker": f"http://127.0.0.1:{self.network.ports[agency]}",
                "embedder": self.embedder,
                "root_fingerprint": self.fingerprint.hex(),
                "trusted_custodians": [str(BOARD)] if "holder" in cast.roles else [],
                "budgets": BUDGETS if "holder" in cast.roles else {},
            }
        )
        created = create_node(self.folder / agency, config, witness="witness" in cast.roles)
        office = "legal_office" in cast.roles
        office_key = create_office_key(self.office_file(agency), agency, "", without_passphrase=True) if office else None
        entry = roster_entry(
            created,
            agency=agency,
            name=cast.name,
            agency_class="local",
            jurisdiction=cast.jurisdiction,
            roles=cast.roles,
            officer="A. Officer, compliance desk",
            legal_office="",
            discovery_key=b64url_encode(self.discovery_key.public_key.raw) if "discovery" in cast.roles else "",
            office_key="" if office_key is None else b64url_encode(office_key.raw),
            mode=config.mode.value,
        )
        agency_entry = Agency.from_fields(Fields(entry, "agency"))
        return _with_persons(agency_entry, [self._make_person(agency, person, role) for person, role in sorted(cast.persons.items())])

    def _make_person(self, agency: AgencyId, person: PersonId, role: PersonRole) -> Person:
        """A person's key lies in a folder of the persons', not in a node's; a reviewer's is countersigned by the legal office."""
        create_person_key(self.person_file(person), person, role, "", without_passphrase=True)
        credential = Credential(role, self.person(person).signing_key.verifying_key)
        made = Person(person, date(2099, 1, 1), (credential,))
        if role is not PersonRole.REVIEWER:
            return made
        return made.countersigned(agency, read_office_key(self.office_file(agency)).signing_key)

    def person_file(self, person: PersonId) -> Path:
        """Where that person keeps the key."""
        return self._people / f"{person.replace(':', '.')}.key"

    def office_file(self, agency: AgencyId) -> Path:
        """Where the head of that legal office keeps its key."""
        return self._people / f"{agency}.office.key"

    @property
    def _people(self) -> Path:
        folder = self.folder / "people"
        folder.mkdir(exist_ok=True)
        return folder

    def person(self, person: PersonId) -> PersonKey:
        """The person's key, as the person reads it."""
        return read_person_key(self.person_file(person))

    @property
    def wiretap(self) -> Wiretap:
        """The recording relays; `FederationError` when the nodes dial through another network."""
        if not isinstance(self.network, Wiretap):
            raise FederationError("nothing was recorded: this federation was made with another network than the recording relays")
        return self.network

    # --- running ------------------------------------------------------------------------------------------------------

    def start_broker(self) -> None:
        """Start the broker and wait until it says on which port it listens."""
        port_file = self.folder / "broker.port"
        port_file.unlink(missing_ok=True)
        port = str(self.broker_port)
        self._spawn("broker", "broker", "serve", str(self.folder / "broker"), "--port", port, "--port-file", str(port_file))
        self._wait("broker", port_file)
        self.broker_port = int(port_file.read_text(encoding="ascii"))
        self.network.broker_is_at(self.broker_port)

    def start(self, *agencies: AgencyId, wait: bool = True) -> None:
        """Start nodes, all at once, and wait until each says that it is ready."""
        for agency in agencies:
            self.ready_file(agency).unlink(missing_ok=True)
            self._spawn(agency, "node", "serve", str(self.folder / agency), "--ready-file", str(self.ready_file(agency)))
        if wait:
            self.wait_ready(*agencies)

    def wait_ready(self, *agencies: AgencyId) -> None:
        """Wait until each of these nodes, which were started, says that it is ready."""
        for agency in agencies:
            self._wait(agency, self.ready_file(agency))

    def check_alive(self) -> None:
        """`FederationError` when a process has ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                said = self.log_of(name)[-2000:].decode("utf-8", "replace")
                raise FederationError(f"{name} ended by itself; it said: {said}")

    def ready_file(self, agency: AgencyId) -> Path:
        """Written by a node that is ready."""
        return self.folder / f"{agency}.ready"

    def stop(self, name: str, *, kill: bool = False) -> None:
        """SIGTERM, or SIGKILL; waits for the end."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)

    def close(self) -> None:
        """End everything."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for name in list(self.processes):
            self.stop(name)
        self.network.close()

    def node(self, agency: AgencyId) -> Node:
        """That agency's node, opened as its commands open it."""
        return open_node(self.folder / agency, lambda: datetime.now(UTC))

    def broker_keys(self) -> dict[KeyId, SealingPrivateKey]:
        """The broker's one secret, the log's key, taken for a sealing key: all that it could try to open anything with."""
        secret = next((self.folder / "broker").rglob("*.key")).read_bytes()
        key = SealingPrivateKey.from_secret(secret[-32:])
        return {key_id(key.public_key.raw): key}

    def log_of(self, name: str) -> bytes:
        """What that process wrote."""
        return (self.folder / f"{name}.log").read_bytes()

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603  # our own program with our own arguments
                [sys.executable, "-m", "agency_node.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def _wait(self, name: str, file: Path) -> None:
        until = time.monotonic() + START_S
        while not (file.exists() and file.stat().st_size):
            if self.processes[name].poll() is not None or time.monotonic() > until:
                said = self.log_of(name)[-2000:].decode("utf-8", "replace")
                raise FederationError(f"{name} did not start; it said: {said}")
            time.sleep(0.05)

    def command(self, *arguments: str) -> dict[str, Any]:
        """One command with `--json`, run to its end."""
        done = subprocess.run(  # noqa: S603  # our own program with our own arguments
            [sys.executable, "-m", "agency_node.cli", *arguments, "--json"], capture_output=True, check=False
        )
        if done.returncode != 0:
            raise FederationError(f"{' '.join(arguments[:2])} failed: {done.stderr.decode('utf-8', 'replace')}")
        return dict(json.loads(done.stdout))


def _with_persons(agency: Agency, persons: list[Person]) -> Agency:
    return replace(agency, persons=tuple(persons))
