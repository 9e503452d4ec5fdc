"""A node whose roster lists its own fresh key, and a person who may sign for its agency: for commands, which ask the system's clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agency_node.facts import Fact, write_fact
from agency_node.legal.persons import create_person_key, read_person_key
from agency_node.node import Node
from crypto.canonical import PersonId
from crypto.roster import Roster
from crypto.roster_entries import Person, PersonRole
from tests.sample_federation import LAKESIDE, LAKESIDE_REVIEWER, credential, person, root_set, roster, sign_roster, with_agency

COUNSEL = PersonId("lakeside-sheriff:counsel-9")
CLERK = PersonId("lakeside-sheriff:clerk-1")
"""In the roster, and no reviewer: what a person who may not sign looks like."""


def key_file(folder: Path, who: PersonId = COUNSEL, role: PersonRole = PersonRole.REVIEWER) -> Path:
    """A key file without passphrase."""
    path = folder / f"{who.partition(':')[2]}.key"
    create_person_key(path, who, role, "", without_passphrase=True)
    return path


def pinned(node: Node, *keys: Path) -> Roster:
    """Pin a roster that lists the node's key and the persons of these key files; it holds from the sample's day to next month."""
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    persons: list[Person] = [person(LAKESIDE_REVIEWER, credential(LAKESIDE_REVIEWER, PersonRole.REVIEWER))]
    for one in map(read_person_key, keys):
        persons.append(Person(one.person_id, until.date(), (one.credential,)))
    listed = with_agency(
        roster(), LAKESIDE, node_key=node.keyring.node_key.verifying_key, persons=tuple(sorted(persons, key=lambda p: p.person_id))
    )
    listed = replace(listed, expires=until)
    with node.engine.begin() as connection:
        write_fact(connection, Fact.ROSTER, sign_roster(listed))
        write_fact(connection, Fact.ROOT_FINGERPRINT, root_set().fingerprint * 2)
    return listed
