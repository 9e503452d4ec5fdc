"""The roster ceremony: root holders put public entries together, each looks at the whole and adds a signature.

What is put together: the entries that `sealmatch node init` prints, persons' and root holders' entries, what `sealmatch broker init`
prints. None of it is secret. Invariants: a draft that leaves here is a roster that nodes can read (`crypto.roster.Roster` holds all its own
checks); what does not fit is said all at once and by name, because agencies that sit far apart mend it; a signature is added only by a key
that the roster lists as a root key, since a reader refuses the whole document for any other.

Left to others: whose keys these really are, which the holders have to see to, face to face or by telephone; what makes a signed roster
trusted (`crypto.roster.TrustedRoster`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from agency_node.errors import RequestError
from agency_node.legal.persons import RootSigningKey
from crypto.canonical import AgencyId
from crypto.checkpoint import LogKey
from crypto.errors import BadSignatureError, CountersignatureError, CryptoError, EncodingError, FieldError
from crypto.fields import Fields
from crypto.keys import VerifyingKey
from crypto.moments import round_moment
from crypto.root_set import RootKey, RootSet
from crypto.roster import ROSTER_KIND, Roster, add_root_signature, read_unverified_roster
from crypto.roster_entries import Agency, AgencyRole, Credential, Person, PersonRole
from crypto.signed import key_id, read_document
from crypto.witness import MIN_WITNESSES

MAX_ENTRY_BYTES: Final = 4 << 20
MAX_DAYS: Final = 366
_T = TypeVar("_T")


@dataclass(frozen=True)
class BrokerFacts:
    """What `sealmatch broker init --json` prints: the log's name and key, who operates it, the root set that it was told to trust."""

    log: LogKey
    operator: AgencyId
    root_fingerprint: bytes

    @classmethod
    def from_fields(cls, fields: Fields) -> BrokerFacts:
        """From its JSON form."""
        log = LogKey(fields.text("origin"), VerifyingKey(fields.data("log_key")))
        facts = cls(log, fields.name("operator", AgencyId), fields.digest("root_fingerprint"))
        fields.close()
        return facts


@dataclass(frozen=True)
class Draft:
    """A roster that nobody has signed, and what its agencies could not do under it."""

    roster: Roster
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Signatures:
    """Who signed a roster document; every signature in it verified."""

    roster: Roster = field(repr=False)
    root: tuple[AgencyId, ...]
    outgoing: tuple[AgencyId, ...]

    @property
    def complete(self) -> bool:
        """Whether a threshold of the roster's own root set signed; after a change of root sets one of the old has to as well."""
        return len(self.root) >= self.roster.root.threshold


# --- entries --------------------------------------------------------------------------------------------------------


def read_agency(path: Path) -> Agency:
    """An agency's entry, as `sealmatch node init` prints it."""
    return _read_entry(path, "an agency's entry, printed by `sealmatch node init`", Agency.from_fields)


def read_person(path: Path) -> Person:
    """A person's entry, as `sealmatch person init` prints it."""
    return _read_entry(path, "a person's entry, printed by `sealmatch person init`", Person.from_fields)


def read_root_entry(path: Path) -> RootKey:
    """A root holder's entry, as `sealmatch roster root-key` prints it."""
    return _read_entry(path, "a root holder's entry, printed by `sealmatch roster root-key`", RootKey.from_fields)


def read_root_set(path: Path) -> RootSet:
    """A root set with its fingerprint, as `sealmatch roster root-set` prints it."""
    return _read_entry(path, "a root set, printed by `sealmatch roster root-set`", _root_set)


def read_broker(path: Path) -> BrokerFacts:
    """The broker's facts, as `sealmatch broker init --json` prints them."""
    return _read_entry(path, "what `sealmatch broker init --json` prints", BrokerFacts.from_fields)


def read_roster(path: Path) -> bytes:
    """The bytes of a roster document, signed or not; `RequestError` if the file holds anything else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}): name a roster document, made by `sealmatch roster draft`") from error
    try:
        read_unverified_roster(data)
    except CryptoError as error:
        raise RequestError(f"{path} is no roster document ({error}): make one with `sealmatch roster draft`") from error
    return data


def make_root_set(keys: Sequence[RootKey], threshold: int) -> RootSet:
    """The root set of these holders; `RequestError` for a threshold that is not more than half, or a holder or key named twice."""
    try:
        return RootSet(tuple(sorted(keys, key=lambda root: root.holder)), threshold)
    except FieldError as error:
        raise RequestError(f"these entries make no root set: {error}") from error


# --- draft ----------------------------------------------------------------------------------------------------------


def draft_roster(
    root: RootSet,
    broker: BrokerFacts,
    agencies: Sequence[Agency],
    persons: Sequence[tuple[AgencyId, Person]],
    *,
    version: int,
    days: int,
    now: datetime,
    previous: Roster | None = None,
) -> Draft:
    """The roster of these entries, `days` from `now`; `RequestError` names everything that does not fit.

    `persons` come with the agency that each belongs to and are added to those in the agency's entry. `previous` is the roster that this one
    follows: root keys that it had and the new root set has not are listed as outgoing, so that nodes can follow.
    """
    problems: list[str] = []
    if not 1 <= days <= MAX_DAYS:
        problems.append(f"a roster holds for 1 to {MAX_DAYS} days")
    if previous is not None and version <= previous.version:
        problems.append(f"the version is to be newer than the previous one's, {previous.version}")
    if previous is None and broker.root_fingerprint != root.fingerprint:
        problems.append("the broker was told to trust another root set: run `sealmatch broker init` with this one's fingerprint")
    listed = _merge(agencies, persons, problems)
    problems.extend(_contradictions(root, broker, listed))
    if problems:
        raise RequestError(_no_draft(problems))
    kept = {entry.key for entry in root.keys}
    try:
        roster = Roster(
            version=version,
            expires=round_moment(now) + timedelta(days=days),
            root=root,
            log=broker.log,
            log_operator=broker.operator,
            agencies=tuple(listed[agency_id] for agency_id in sorted(listed)),
            outgoing_root_keys=() if previous is None else tuple(entry for entry in previous.root.keys if entry.key not in kept),
        )
    except FieldError as error:
        raise RequestError(_no_draft([str(error)])) from error
    return Draft(roster, tuple(_shortcomings(roster)))


def _merge(agencies: Sequence[Agency], persons: Sequence[tuple[AgencyId, Person]], problems: list[str]) -> dict[AgencyId, Agency]:
    listed: dict[AgencyId, Agency] = {}
    for agency in agencies:
        if agency.agency_id in listed:
            problems.append(f"{agency.agency_id} has two entries")
        listed[agency.agency_id] = agency
    members = {agency_id: {person.person_id: person for person in agency.persons} for agency_id, agency in listed.items()}
    for agency_id, person in persons:
        if agency_id not in listed:
            problems.append(f"{person.person_id} belongs to {agency_id}, of which there is no entry")
            continue
        known = members[agency_id].get(person.person_id)
        if known is not None and known.trained_until != person.trained_until:
            problems.append(f"two entries of {person.person_id} name unlike ends of training")
            continue
        given = (*(() if known is None else known.credentials), *person.credentials)
        # Of two entries of one key, the one that the office countersigned says more.
        credentials: dict[str, Credential] = {one.key_id: one for one in sorted(given, key=lambda one: one.countersignature is not None)}
        try:
            members[agency_id][person.person_id] = replace(person, credentials=tuple(credentials[name] for name in sorted(credentials)))
        except FieldError as error:
            problems.append(f"{person.person_id}: {error}")
    for agency_id, agency in listed.items():
        if agency.office_key is not None:
            for person_id in sorted(members[agency_id]):
                try:
                    members[agency_id][person_id].check_countersigned(agency_id, agency.office_key)
                except CountersignatureError as error:
                    problems.append(f"{person_id}: {error}; the head of {agency_id} signs with `sealmatch roster countersign`")
                    del members[agency_id][person_id]
        try:
            listed[agency_id] = replace(agency, persons=tuple(members[agency_id][name] for name in sorted(members[agency_id])))
        except FieldError as error:
            problems.append(f"{agency_id}: {error}")
    return listed


def _contradictions(root: RootSet, broker: BrokerFacts, listed: dict[AgencyId, Agency]) -> Iterator[str]:
    """What `Roster` would refuse, with names: its own words name the rule only."""
    for entry in root.keys:
        if entry.holder not in listed:
            yield f"{entry.holder} holds a root key and has no entry"
    for agency in listed.values():
        if agency.legal_office is None:
            continue
        office = listed.get(agency.legal_office)
        if office is None or AgencyRole.LEGAL_OFFICE not in office.roles:
            yield f"{agency.agency_id} names {agency.legal_office} as its legal office, which has no entry with that role"
        elif AgencyRole.REQUESTER in agency.roles and AgencyRole.DISCOVERY not in office.roles:
            yield f"{agency.agency_id} searches, so its legal office {office.agency_id} needs the role discovery and a discovery key"
    owners: dict[bytes, str] = {}
    for owner, key in _keys(root, broker, listed):
        if key in owners:
            yield f"{owners[key]} and {owner} are one key"
        owners.setdefault(key, owner)
    homes: dict[str, AgencyId] = {}
    for agency in listed.values():
        for person in agency.persons:
            if homes.setdefault(person.person_id, agency.agency_id) != agency.agency_id:
                yield f"{person.person_id} stands in {homes[person.person_id]} and in {agency.agency_id}"


def _keys(root: RootSet, broker: BrokerFacts, listed: dict[AgencyId, Agency]) -> Iterator[tuple[str, bytes]]:
    yield "the log's key", broker.log.key.raw
    for entry in root.keys:
        yield f"the root key of {entry.holder}", entry.key.raw
    for agency in listed.values():
        yield f"the node key of {agency.agency_id}", agency.node_key.raw
        if agency.discovery_key is not None:
            yield f"the discovery key of {agency.agency_id}", agency.discovery_key.raw
        if agency.office_key is not None:
            yield f"the office key of {agency.agency_id}", agency.office_key.raw
        if agency.witness is not None:
            yield f"the witness key of {agency.agency_id}", agency.witness.key.raw
        for person in agency.persons:
            for credential in person.credentials:
                yield f"a key of {person.person_id} ({credential.role.value})", credential.key.raw


def _shortcomings(roster: Roster) -> Iterator[str]:
    """What is no contradiction, and yet keeps somebody from doing what the roster has them for."""
    if roster.root.threshold == 1:
        yield "one root key alone can change the roster"
    custodians = [agency for agency in roster.agencies if AgencyRole.CUSTODIAN in agency.roles]
    for agency in roster.agencies:
        if AgencyRole.REQUESTER in agency.roles:
            witnesses = {witness.agency for witness in roster.witness_keys()} - {agency.agency_id, roster.log_operator}
            if len(witnesses) < MIN_WITNESSES:
                yield f"{agency.agency_id} cannot search: it takes {MIN_WITNESSES} witnesses beside itself and the log's operator"
            if all(custodian.jurisdiction == agency.jurisdiction for custodian in custodians):
                yield f"{agency.agency_id} cannot search: there is no custodian of another jurisdiction"
            if not _has(agency, PersonRole.INVESTIGATOR):
                yield f"{agency.agency_id} cannot search: it has no investigator"
        if AgencyRole.LEGAL_OFFICE in agency.roles and not _has(agency, PersonRole.REVIEWER):
            yield f"{agency.agency_id} can grant nothing: it has no reviewer"
        for person in agency.persons:
            if person.trained_until < roster.expires.date():
                yield f"{person.person_id} can sign until {person.trained_until} only: the training ends before the roster"


def _has(agency: Agency, role: PersonRole) -> bool:
    return any(credential.role is role for person in agency.persons for credential in person.credentials)


def _no_draft(problems: Sequence[str]) -> str:
    return f"no roster can be drafted: {'; '.join(problems)}. Mend the entries and draft again"


# --- signatures -----------------------------------------------------------------------------------------------------


def sign_roster(data: bytes, key: RootSigningKey) -> bytes:
    """The document with that holder's signature as well; `RequestError` for a key that it does not list as that holder's root key."""
    roster = read_unverified_roster(data)
    check_signatures(data)
    if key.root_key not in (*roster.root.keys, *roster.outgoing_root_keys):
        raise RequestError(
            f"this is no root key of {key.holder} in this roster, and nodes would refuse the roster with its signature: "
            "draft a roster whose root set names the key"
        )
    return add_root_signature(data, key.signing_key)


def check_signatures(data: bytes) -> Signatures:
    """Who signed; `RequestError` for a signature that does not verify or is nobody's."""
    roster, document = read_unverified_roster(data), read_document(ROSTER_KIND, data)

    def signed(keys: Sequence[RootKey]) -> tuple[AgencyId, ...]:
        found = [entry for entry in keys if key_id(entry.key.raw) in document.signatures]
        for entry in found:
            try:
                document.check_signed_by(entry.key)
            except BadSignatureError as error:
                raise RequestError(
                    f"the signature of {entry.holder} does not verify: the roster was changed after it was signed"
                ) from error
        return tuple(entry.holder for entry in found)

    who = Signatures(roster, signed(roster.root.keys), signed(roster.outgoing_root_keys))
    if len(who.root) + len(who.outgoing) != len(document.signatures):
        raise RequestError("the roster bears a signature of a key that is no root key in it: take the document as it was drafted")
    return who


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` in place of the file, whole or not at all; `RequestError` if that cannot be done."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise RequestError(f"{path} cannot be written ({error.strerror}): name a file in a folder of your own") from error
    finally:
        part.unlink(missing_ok=True)


def write_new_file(path: Path, data: bytes) -> None:
    """Write a file that is not there yet; `RequestError` if it is: signatures cost a journey."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise RequestError(f"{path} is there already, perhaps with signatures: name another file, or move that one away") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be written ({error.strerror}): name a file in a folder of your own") from error


def _root_set(fields: Fields) -> RootSet:
    root_set, fingerprint = RootSet.from_fields(fields.child("root_set")), fields.digest("fingerprint")
    fields.close()
    if root_set.fingerprint != fingerprint:
        raise FieldError("the fingerprint is that of another root set")
    return root_set


def _read_entry(path: Path, what: str, read: Callable[[Fields], _T]) -> _T:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ENTRY_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}): name {what}") from error
    if len(data) > MAX_ENTRY_BYTES:
        raise RequestError(f"{path} is longer than {MAX_ENTRY_BYTES} bytes: name {what}")
    try:
        return read(Fields(json.loads(data, object_pairs_hook=_members_once), "entry"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no JSON object: name {what}") from error
    except EncodingError as error:
        raise RequestError(f"{path} does not fit ({error}): name {what}") from error


def _members_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members
