"""Who saw what: computed from the bytes that passed in this run and from attempts with each party's own keys, never from a text.

For every party: the messages that it sent, fetched or carried, by type; which of them its keys open; and, for those that are not its own,
attempts that failed. An attempt takes every private key of that party's keyring and the envelope's own context, so it fails for want of the
key and of nothing else; the same call with the addressee's key succeeds, which is counted too. A party is also searched for plain values:
what the others hold (the probe's vector, templates, case number, record number) must not be in its bytes in any of several encodings.
"""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agency_node.demo.federation import BROKER, CAST, NORTHPORT, Federation, FederationError
from agency_node.node import Node
from agency_node.tables import sealing_keys
from crypto.canonical import KeyId
from crypto.errors import EnvelopeError
from crypto.keys import SealingPrivateKey, VerifyingKey
from crypto.messages import Message, open_message
from crypto.roster import Roster

SHORTEST_FORM = 8
"""Bytes; in some megabytes of noise a string of four base64 letters stands somewhere by chance."""


@dataclass(frozen=True)
class View:
    """One party in this run. Counts by message type."""

    party: str
    role: str
    saw: Mapping[str, int]
    saw_bytes: int
    opened: Mapping[str, int]
    could_not_open: Mapping[str, int]
    attempts: int
    opened_against_expectation: int
    found_in_plain: Sequence[str] = field(default_factory=tuple)


def keys_of(node: Node) -> dict[KeyId, SealingPrivateKey]:
    """Every sealing key that a node can still use."""
    with node.engine.begin() as connection:
        names = connection.execute(sealing_keys.select().where(sealing_keys.c.sealed_private.is_not(None))).all()
    return {KeyId(row.key_id): node.keyring.private(KeyId(row.key_id)) for row in names}


def destroyed_by(node: Node) -> set[KeyId]:
    """Every sealing key that a node had and has destroyed: of searches that ended, by a lapse or a revocation too."""
    with node.engine.begin() as connection:
        names = connection.execute(sealing_keys.select().where(sealing_keys.c.sealed_private.is_(None))).all()
    return {KeyId(row.key_id) for row in names}


def all_views(federation: Federation, secrets: Mapping[str, bytes]) -> list[View]:
    """The broker's view and every node's. `secrets` are plain values by name, looked for in what the broker carried."""
    nodes = {agency: federation.node(agency) for agency in CAST}
    roster = nodes[NORTHPORT].parties.roster()
    keys = {agency: keys_of(node) for agency, node in nodes.items()}
    carried = _each_once(message for one in federation.wiretap.recordings.values() for message in one.sent())
    addressed = {KeyId(name): key for own in keys.values() for name, key in own.items()}
    addressed |= {message.envelope().context.recipient_key_id: federation.discovery_key for message in carried if _is_discovery(message)}
    destroyed = frozenset(name for node in nodes.values() for name in destroyed_by(node))
    raw = b"".join(one.raw() for one in federation.wiretap.recordings.values())
    broker_keys = federation.broker_keys()
    views = [_view(str(BROKER), "broker", carried, carried, broker_keys, roster, addressed, destroyed, plain_values(raw, secrets))]
    for agency, cast in CAST.items():
        recording = federation.wiretap.recordings[agency]
        own = _each_once([*recording.sent(), *recording.received()])
        role = next(role for role in ("requester", "holder", "custodian") if role in cast.roles)
        views.append(_view(str(agency), role, own, carried, keys[agency], roster, addressed, destroyed, ()))
    return views


def plain_values(raw: bytes, secrets: Mapping[str, bytes]) -> tuple[str, ...]:
    """Which of the secrets stand in these bytes: as they are, in base64 or hexadecimal, at any offset, or inside a compressed part."""
    inflated = b"".join(_inflated(raw))
    return tuple(name for name, value in secrets.items() if any(form in text for text in (raw, inflated) for form in _forms(value)))


def _view(
    party: str,
    role: str,
    seen: Sequence[Message],
    carried: Sequence[Message],
    own_keys: Mapping[KeyId, SealingPrivateKey],
    roster: Roster,
    addressed: Mapping[KeyId, SealingPrivateKey],
    destroyed: Collection[KeyId],
    found: Sequence[str],
) -> View:
    opened: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    attempts = surprises = 0
    for message in carried:
        header = message.header
        if not header.spec.sealed:
            continue
        context, sender = message.envelope().context, roster.node_key(header.sender)
        mine = context.recipient_key_id in own_keys
        for key in own_keys.values():
            attempts += 1
            if opens(message, key, sender):
                opened[header.message_type] += 1
                surprises += not mine
                break
        else:
            # what was sealed to a key that its addressee has destroyed opens for nobody any more, which is the point of destroying it
            if context.recipient_key_id not in destroyed and not opens(
                message, addressed[context.recipient_key_id], sender
            ):  # else it is sound: only the key was missing
                raise FederationError(f"a {header.message_type} opens under no key of its addressee: please report this as a bug")
            closed[header.message_type] += 1
    saw = Counter(str(message.header.message_type) for message in seen)
    size = sum(len(message.to_bytes()) for message in seen)
    return View(party, role, dict(saw), size, dict(opened), dict(closed), attempts, surprises, found)


def opens(message: Message, key: SealingPrivateKey, sender: VerifyingKey) -> bool:
    """Whether that key opens a sealed message of that sender."""
    expected = message.envelope().context
    try:
        open_message(message, message.header.spec.body, expected=expected, recipient_private=key, sender_public=sender)
    except EnvelopeError:
        return False
    return True


def _is_discovery(message: Message) -> bool:
    return message.header.message_type == "discovery-release"


def _each_once(messages: Iterable[Message]) -> list[Message]:
    return list({message.message_id: message for message in messages}.values())


def _forms(value: bytes) -> list[bytes]:
    """The value as it is, in hexadecimal, and in base64 wherever it begins; forms so short that chance makes them are left out."""
    forms = [value, value.hex().encode("ascii"), value.hex().upper().encode("ascii")]
    for offset in range(3):  # base64 of a value inside a longer text, whatever stands before it
        encoded = base64.b64encode(bytes(offset) + value)
        inner = encoded[4 if offset else 0 : len(encoded) - 4]
        forms += [inner, inner.replace(b"+", b"-").replace(b"/", b"_")]
    return [form for form in forms if len(form) >= SHORTEST_FORM]


def _inflated(raw: bytes) -> Iterable[bytes]:
    """Everything in these bytes that begins like a zlib or gzip stream and can be read as one."""
    for magic, width in ((b"\x1f\x8b\x08", 31), (b"\x78\x9c", 15), (b"\x78\x01", 15), (b"\x78\xda", 15)):
        start = raw.find(magic)
        while start >= 0:
            with contextlib.suppress(zlib.error):
                yield zlib.decompressobj(width).decompress(raw[start : start + (1 << 20)], 1 << 22)
            start = raw.find(magic, start + 1)
