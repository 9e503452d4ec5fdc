"""What a node is about to send: grants, log entries and messages, stored in the transaction that decided on them and sent in order.

Invariants: a message is sealed once and its bytes are kept until the broker has them, so that a repetition is the same bytes under the
same id; within a search a row leaves when every grant and log entry written before it stands in the log, so that a release's entry is there
before the release leaves, and messages to one recipient leave in the order in which they were written; what the broker refuses for good
stops there and is told to whoever put it in.

Left to others: what to send (the roles), carrying (`link`), when to try again (`courier`), publishing what a leaf commits to (`openings`).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy import Connection, Engine, insert, select, update

from agency_node.journal import NO_SEARCH, record, stamp
from agency_node.opened_fields import opened_expunction
from agency_node.pieces import IN_PIECES, OUT, MessageGoneError, Pieces, stored_pieces, write_pieces
from agency_node.store import Glance, reading
from agency_node.tables import outbox, sequences
from agency_node.vault import Vault
from crypto.binary import regroup
from crypto.canonical import AgencyId, KeyId, SearchId, canonical_json, parse_canonical_json
from crypto.entries import EntryKind, FieldOpening, FieldType, LogEntry, commit_field, entry_subject, pad_openings
from crypto.entry_openings import AUTHOR, ENTRY_FORMS, EntryForm, check_value
from crypto.epoch import Epoch
from crypto.errors import MisuseError
from crypto.fields import DIGEST_BYTES
from crypto.frame import MessageHeader
from crypto.grant_claims import GrantClaims
from crypto.keys import SealingPublicKey, SigningKey
from crypto.ledger import leaf_hash
from crypto.message_types import Body, MessageType
from crypto.messages import seal_in_pieces, seal_message, sign_message
from crypto.moments import round_moment, utc_day
from crypto.parts import PIECE_BYTES
from crypto.sealing_key import SealingKeyStatement
from crypto.wire import MessageId

if TYPE_CHECKING:
    from agency_node.holder.expunging import Expunged

GRANT: Final = "grant"
PACK_CHANGE: Final = "pack-change"
EXPUNCTION: Final = "expunction"
MANIFEST: Final = "manifest"
ENTRY: Final = "entry"
MESSAGE: Final = "message"
READY: Final = "ready"
SENT: Final = "sent"
REFUSED: Final = "refused"
LOG_OPENINGS: Final = "log-openings"
"""The vault's purpose for the openings of a leaf; bound to the grant's digest."""
TO_OPEN: Final = "kept"
"""Of an entry: its openings are published when their time has come (`openings`)."""
_NOTHING: Final[Mapping[FieldType, str]] = MappingProxyType({})


@dataclass(frozen=True)
class Conversation:
    """What every message of one search has in common."""

    search_id: SearchId
    grant_digest: bytes = field(repr=False)
    epoch: Epoch

    @classmethod
    def of(cls, claims: GrantClaims) -> Conversation:
        """The conversation that a grant opens."""
        return cls(claims.search_id, claims.digest, claims.epoch)


@dataclass(frozen=True)
class SealTo:
    """A recipient with the key that its envelope is sealed to."""

    agency: AgencyId
    key: SealingPublicKey = field(repr=False)
    key_id: KeyId

    @classmethod
    def statement(cls, statement: SealingKeyStatement) -> SealTo:
        """The key that an agency stated."""
        return cls(statement.agency, statement.key, statement.key_id)


@dataclass(frozen=True)
class _Logged:
    """A leaf's bytes, what opens it, and whether anything of that is published one day."""

    leaf: bytes
    sealed_openings: bytes = field(repr=False)
    opening: str | None


class Outbox:
    """Writes rows; every method runs in the caller's transaction."""

    def __init__(
        self,
        agency: AgencyId,
        node_key: SigningKey,
        vault: Vault,
        clock: Callable[[], datetime],
        latest_checkpoint: Callable[[], bytes | None],
    ) -> None:
        self.agency = agency
        self._node_key = node_key
        self._vault = vault
        self._clock = clock
        self._latest_checkpoint = latest_checkpoint
        self.on_queued: Callable[[], object] = lambda: None
        """Told of each row, inside the transaction that writes it."""

    def grant(self, connection: Connection, claims: GrantClaims, routing_token: bytes, opened: Mapping[FieldType, str]) -> None:
        """Queue a grant's terms and its log entry for the broker; the token is without its reason. `opened` as in `entry`."""
        logged = self._leaf(EntryKind.GRANT, claims.digest, None, [("grant-digest", claims.digest)], opened)
        body = canonical_json({"terms": routing_token.hex(), "entry": logged.leaf.hex()})
        self._put(connection, claims.search_id, GRANT, "grant", "", claims.digest, body, logged)

    def entry(
        self,
        connection: Connection,
        kind: EntryKind,
        conversation: Conversation,
        fields: Sequence[tuple[str, bytes]],
        opened: Mapping[FieldType, str] = _NOTHING,
        *,
        author: AgencyId | None = None,
    ) -> None:
        """Queue a log entry about a search: `fields` (type, value) that are never opened, padded with empty ones of the last type to the
        number that its kind has, and `opened`, which everybody will read some day (`crypto.entry_openings`, `opened_fields`)."""
        logged = self._leaf(kind, conversation.grant_digest, author, fields, opened)
        self._put(connection, conversation.search_id, ENTRY, kind.value, "", conversation.grant_digest, logged.leaf, logged)

    def pack_change(self, connection: Connection, pack_sha256: bytes, approval: bytes) -> None:
        """Queue the log entry of a policy pack that was adopted, which is about no search, with the approval that the broker asks for."""
        fields = [("approval-digest", hashlib.sha256(approval).digest())]
        logged = self._leaf(EntryKind.PACK_CHANGE, pack_sha256, self.agency, fields, _NOTHING)
        body = canonical_json({"approval": approval.hex(), "entry": logged.leaf.hex()})
        self._put(connection, NO_SEARCH, PACK_CHANGE, EntryKind.PACK_CHANGE.value, "", pack_sha256, body, logged)

    def expunction(self, connection: Connection, gone: Expunged) -> None:
        """Queue the log entry of a record that this transaction destroys: the gallery's roots before and after, the author, the reason.

        Its subject is of fresh random bytes, which the row keeps: nobody else finds the entry, whatever they know of record or gallery.
        """
        handle = secrets.token_bytes(DIGEST_BYTES)
        fields = [("gallery-root-before", gone.root_before), ("gallery-root-after", gone.root_after)]
        logged = self._leaf(EntryKind.EXPUNCTION, handle, self.agency, fields, opened_expunction(self.agency, gone.reason))
        self._put(connection, NO_SEARCH, EXPUNCTION, EntryKind.EXPUNCTION.value, "", handle, logged.leaf, logged)

    def gallery_destroyed(self, connection: Connection, root: bytes, receipt_digest: bytes) -> None:
        """Queue the one entry of a holder that leaves and destroyed its whole gallery: an expunction without a reason of one record, under
        the digest of the deletion receipt, so that whoever has the receipt finds it."""
        fields = [("gallery-root-before", root), ("deletion-receipt", receipt_digest)]
        opened = {AUTHOR: str(self.agency)}
        logged = self._leaf(EntryKind.EXPUNCTION, receipt_digest, self.agency, fields, opened)
        self._put(connection, NO_SEARCH, EXPUNCTION, EntryKind.EXPUNCTION.value, "", receipt_digest, logged.leaf, logged)

    def manifest(self, connection: Connection, digest: bytes) -> None:
        """Queue the log entry of a record manifest that this holder signed. Whoever has the manifest finds the entry by its digest; nobody
        else learns from it whose it is, or that two are of one holder."""
        logged = self._leaf(EntryKind.MANIFEST, digest, self.agency, [("manifest-digest", digest)], _NOTHING)
        self._put(connection, NO_SEARCH, MANIFEST, EntryKind.MANIFEST.value, "", digest, logged.leaf, logged)

    def sealed(self, connection: Connection, kind: MessageType, body: Body, conversation: Conversation, recipient: SealTo) -> MessageId:
        """Seal a message, queue it, return its id; one of a streamed type is never whole in memory."""
        header = self._header(connection, kind, conversation, recipient.agency)
        if header.spec.streamed:
            sealed = seal_in_pieces(header, body, recipient.key, recipient.key_id, conversation.epoch, self._node_key)
            return self._message(connection, header, sealed)
        message = seal_message(
            header,
            body,
            recipient_public=recipient.key,
            recipient_key_id=recipient.key_id,
            epoch=conversation.epoch,
            sender_signing_key=self._node_key,
        )
        return self._message(connection, header, (message.to_bytes(),))

    def open(self, connection: Connection, kind: MessageType, body: Body, conversation: Conversation, recipient: AgencyId) -> MessageId:
        """Sign an open message, queue it, return its id."""
        header = self._header(connection, kind, conversation, recipient)
        return self._message(connection, header, (sign_message(header, body, sender_signing_key=self._node_key).to_bytes(),))

    def _header(self, connection: Connection, kind: MessageType, conversation: Conversation, recipient: AgencyId) -> MessageHeader:
        return MessageHeader(
            kind,
            conversation.search_id,
            conversation.grant_digest,
            self.agency,
            recipient,
            _next_sequence(connection, conversation.search_id, recipient),
            round_moment(self._clock()),
            self._latest_checkpoint(),
        )

    def _message(self, connection: Connection, header: MessageHeader, content: Iterable[bytes]) -> MessageId:
        search_id, grant_digest = header.search_id or NO_SEARCH, header.grant_digest or b""
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for piece in regroup(content, PIECE_BYTES):
                digest.update(piece)
                yield piece

        pieces = hashed()
        first, second = next(pieces), next(pieces, None)
        data = first if second is None else IN_PIECES
        number = self._put(connection, search_id, MESSAGE, header.message_type, header.recipient, grant_digest, data, None)
        if second is not None:
            write_pieces(connection, OUT, str(number), chain((first, second), pieces))
        message_id = MessageId(digest.hexdigest())
        if second is not None:
            connection.execute(update(outbox).where(outbox.c.number == number).values(message_id=str(message_id)))
        to = str(header.recipient)
        record(
            connection, self._clock(), search_id, f"queued {header.message_type}", f"to {to}", recipient=to, subject=f"message {message_id}"
        )
        return message_id

    def _leaf(
        self,
        kind: EntryKind,
        grant_digest: bytes,
        author: AgencyId | None,
        fields: Sequence[tuple[str, bytes]],
        opened: Mapping[FieldType, str],
    ) -> _Logged:
        """The leaf, and all its openings as sealed JSON, which this agency keeps and may show."""
        form = ENTRY_FORMS.get(kind, EntryForm((), len(fields)))
        if not opened.keys() <= set(form.opened):
            raise MisuseError("an entry opens the fields of its kind and no other")
        openings = [FieldOpening.fresh(name, opened.get(name, "").encode("ascii")) for name in form.opened]
        for one in openings:
            check_value(kind, one.field_type, one.value)
        kept = [FieldOpening.fresh(FieldType(name), value) for name, value in fields]
        openings += pad_openings(kept, FieldType(fields[-1][0]), form.kept)
        leaf = LogEntry(kind, utc_day(self._clock()), entry_subject(kind, grant_digest, author), tuple(map(commit_field, openings)))
        listed = [{"salt": one.salt.hex(), "type": str(one.field_type), "value": one.value.hex()} for one in openings]
        document = json.dumps({"openings": listed}).encode("ascii")  # nobody signs or hashes it: no canonical form, which takes longer
        return _Logged(leaf.to_bytes(), self._vault.seal(LOG_OPENINGS, document, grant_digest), TO_OPEN if form.opened else None)

    def _put(
        self,
        connection: Connection,
        search_id: str,
        kind: str,
        name: str,
        recipient: str,
        grant_digest: bytes,
        data: bytes,
        logged: _Logged | None,
    ) -> int:
        """The number of the new row; `logged` is what it enters into the log."""
        row = connection.execute(
            insert(outbox)
            .returning(outbox.c.number)
            .values(
                search_id=search_id,
                kind=kind,
                name=name,
                recipient=recipient,
                grant_digest=grant_digest,
                data=data,
                sealed_openings=None if logged is None else logged.sealed_openings,
                leaf_hash=None if logged is None else leaf_hash(logged.leaf),
                opening=None if logged is None else logged.opening,
                state=READY,
                note="",
                created_at=stamp(self._clock()),
            )
        )
        self.on_queued()
        return int(row.scalar_one())


@dataclass(frozen=True)
class Outgoing:
    """A row that has not left yet; `content_of` has its bytes."""

    number: int
    search_id: str
    kind: str
    name: str
    recipient: str
    grant_digest: bytes = field(repr=False)


_READY_ROWS: Final = Glance(
    select(outbox.c.number, outbox.c.search_id, outbox.c.kind, outbox.c.name, outbox.c.recipient, outbox.c.grant_digest)
    .where(outbox.c.state == READY)
    .order_by(outbox.c.number)
)


def next_outgoing(engine: Engine) -> list[Outgoing]:
    """The rows that may leave now, side by side, oldest first: of each search the first grant or entry, and before that the first message
    to each recipient. Rows of no search wait for those of their kind alone: expunctions may be more than the log takes in a day."""
    found: list[Outgoing] = []
    closed: set[str] = set()
    asked: set[tuple[str, str]] = set()
    for row in (Outgoing(*values) for values in _READY_ROWS.rows(engine)):
        queue = row.search_id or row.kind
        if queue in closed or (queue, row.recipient) in asked:
            continue
        asked.add((queue, row.recipient))
        if row.kind != MESSAGE:
            closed.add(queue)
        found.append(row)
    return found


def content_of(connection: Connection, number: int) -> bytes:
    """What a row that has not left sends; of a message, `message_of`. `MessageGoneError` if it was dropped since the row was read."""
    data = connection.execute(select(outbox.c.data).where(outbox.c.number == number)).scalar_one()
    if data is None:
        raise MessageGoneError("what was to be sent was dropped: its search has ended")
    return bytes(data)


def message_of(engine: Engine, number: int) -> Pieces:
    """The message of a row that has not left; `MessageGoneError` if it was dropped since the row was read."""
    with reading(engine).begin() as connection:
        data = content_of(connection, number)
        message_id = connection.execute(select(outbox.c.message_id).where(outbox.c.number == number)).scalar_one()
    return Pieces.of(data) if message_id is None else stored_pieces(engine, OUT, str(number), MessageId(message_id))


class LogLink(Protocol):
    """What the log is asked by a row that is no message."""

    async def post_grant(self, terms: bytes, leaf: bytes) -> int: ...
    async def enter(self, leaf: bytes, grant_digest: bytes) -> int: ...
    async def enter_pack_change(self, leaf: bytes, approval: bytes) -> int: ...
    async def enter_expunction(self, leaf: bytes, handle: bytes) -> int: ...
    async def enter_manifest(self, leaf: bytes, digest: bytes) -> int: ...


async def enter(link: LogLink, kind: str, data: bytes, grant_digest: bytes, expect: Callable[[int], None]) -> None:
    """Hand the content of a grant, an entry, a pack change, an expunction or a manifest to the log. An act waits for a grant: `expect` is
    told where the broker says that it stands."""
    if kind == ENTRY:
        await link.enter(data, grant_digest)
        return
    if kind == EXPUNCTION:
        await link.enter_expunction(data, grant_digest)
        return
    if kind == MANIFEST:
        await link.enter_manifest(data, grant_digest)
        return
    body = {name: bytes.fromhex(str(value)) for name, value in parse_canonical_json(data, max_bytes=1 << 20).items()}
    if kind == GRANT:
        expect(await link.post_grant(body["terms"], body["entry"]))
    else:
        await link.enter_pack_change(body["entry"], body["approval"])


def mark_sent(connection: Connection, number: int) -> None:
    """The broker has it; the bytes are no longer needed, its sender's copy of the openings is."""
    connection.execute(update(outbox).where(outbox.c.number == number).values(state=SENT, data=None))


def mark_refused(connection: Connection, number: int, note: str) -> None:
    """The broker refused it for good."""
    connection.execute(update(outbox).where(outbox.c.number == number).values(state=REFUSED, data=None, note=note))


def _next_sequence(connection: Connection, search_id: str, recipient: str) -> int:
    key = (sequences.c.search_id == search_id) & (sequences.c.recipient == recipient)
    last = connection.execute(select(sequences.c.last).where(key)).scalar()
    if last is None:
        connection.execute(insert(sequences).values(search_id=search_id, recipient=recipient, last=1))
        return 1
    connection.execute(update(sequences).where(key).values(last=last + 1))
    return int(last) + 1
