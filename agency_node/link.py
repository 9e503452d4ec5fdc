"""The broker's API, version 1, as typed calls: one for every route.

Invariants: whatever comes back is read strictly. JSON of another form is a `BrokerRefusedError` with the problem `unreadable-reply`, parts
and notes of another form a `PeerError`; nothing else is raised for what a broker answers. What `fetch` has handed over hashes to the id
that the lease names. Every call may be repeated: the broker answers the same, or says that it was done.

The protocols name what each part of the node asks of the broker, so that tests can play one that breaks the rules.

Nothing that comes back is trusted. Left to others: what documents, leaves and heads mean, and whether to believe them (`parties`,
`follower`, `courier`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from agency_node.errors import BrokerRefusedError
from agency_node.pieces import Pieces
from agency_node.replies import (
    Lease,
    MessageState,
    OpenedField,
    fields_of,
    index_in,
    lease_from_fields,
    note_in,
    opened_from_fields,
    proof_in,
    state_in,
    strict,
)
from agency_node.transport import DEFAULT_MAX_REPLY_BYTES, Reply, Transport, in_order, side_by_side, unreadable
from crypto.canonical import AgencyId, SearchId, b64url_decode, b64url_encode, canonical_json
from crypto.checkpoint import SignedCheckpoint
from crypto.cosign_request import CosignRequest
from crypto.entries import MAX_ENTRY_BYTES
from crypto.entry_openings import LeafOpenings
from crypto.errors import ContextError, FieldError, NotCanonicalError, OversizedError
from crypto.fields import MAX_INTEGER, check_range
from crypto.manifest import MANIFEST_KIND
from crypto.message_types import MAX_MESSAGE_BYTES
from crypto.parts import MAX_PART_BYTES, Part
from crypto.roster import ROSTER_KIND
from crypto.sealing_key import SEALING_KEY_KIND, Week
from crypto.signed import DocumentKind
from crypto.wire import MessageId

MAX_LEAVES: Final = 1000
MAX_LEASES: Final = 32
MAX_WAIT_S: Final = 25
"""The longest that the broker holds a request open."""

_REPLY_S: Final = 10.0
_PART_S: Final = 60.0
"""For a part of 1 MiB: a line of 0.2 Mbit/s is enough."""
_LEAVES_S: Final = 120.0
_MAX_OPENED_BYTES: Final = 512
"""An opened field with the longest name of an agency takes 220."""


class StatementLink(Protocol):
    """What `parties` asks of the broker."""

    async def roster(self) -> bytes: ...
    async def roster_version(self, version: int) -> bytes: ...
    async def manifest(self, agency: AgencyId) -> bytes: ...
    async def sealing_key(self, agency: AgencyId, use: Week | SearchId) -> bytes: ...


class PublishLink(Protocol):
    """What roles ask of the broker: to hand out what this agency signed."""

    async def put_manifest(self, document: bytes) -> None: ...
    async def put_sealing_key(self, document: bytes) -> None: ...


class LogLink(Protocol):
    """What `follower` asks of the broker."""

    async def checkpoint(self, min_size: int = 0, cosignatures: int = 0, wait_s: int = 0) -> SignedCheckpoint | None: ...
    async def pending(self, after_size: int, wait_s: int) -> CosignRequest: ...
    async def cosign(self, note: SignedCheckpoint) -> None: ...
    async def leaves(self, start: int, limit: int) -> tuple[int, list[bytes]]: ...
    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]: ...


class MailLink(Protocol):
    """What `courier` asks of the broker."""

    async def post_grant(self, terms: bytes, leaf: bytes) -> int: ...
    async def enter(self, leaf: bytes, grant_digest: bytes) -> int: ...
    async def enter_pack_change(self, leaf: bytes, approval: bytes) -> int: ...
    async def enter_expunction(self, leaf: bytes, handle: bytes) -> int: ...
    async def enter_manifest(self, leaf: bytes, digest: bytes) -> int: ...
    async def send(self, message: Pieces) -> MessageState: ...
    async def message_state(self, message_id: MessageId) -> MessageState | None: ...
    async def lease(self, wait_s: int = 0, limit: int = MAX_LEASES) -> list[Lease]: ...
    async def fetch(self, lease: Lease, take: Callable[[bytes], None]) -> None: ...
    async def acknowledge(self, lease: Lease) -> bytes: ...


class BrokerLink:
    """Every route of the broker's API, over one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # --- roster and statements ---

    async def roster(self) -> bytes:
        """The newest roster document, unverified."""
        return await self._document("/v1/roster", ROSTER_KIND)

    async def roster_version(self, version: int) -> bytes:
        """The roster document of that version, unverified."""
        return await self._document(f"/v1/roster/{version:d}", ROSTER_KIND)

    async def put_manifest(self, document: bytes) -> None:
        """Publish this agency's gallery manifest."""
        await self._transport.request("PUT", "/v1/statements/manifest", content=document, content_type="application/json")

    async def put_sealing_key(self, document: bytes) -> None:
        """Publish this agency's sealing key of a week or a search."""
        await self._transport.request("PUT", "/v1/statements/sealing-key", content=document, content_type="application/json")

    async def manifest(self, agency: AgencyId) -> bytes:
        """An agency's newest manifest, unverified."""
        return await self._document(f"/v1/statements/manifest/{agency}", MANIFEST_KIND)

    async def sealing_key(self, agency: AgencyId, use: Week | SearchId) -> bytes:
        """An agency's sealing key for that week or search, unverified."""
        text = use.text if isinstance(use, Week) else str(use)
        return await self._document(f"/v1/statements/sealing-key/{agency}/{text}", SEALING_KEY_KIND)

    # --- grants and the log ---

    async def post_grant(self, terms: bytes, leaf: bytes) -> int:
        """Enter a grant, its token without the reason, and its leaf; the leaf's index."""
        body = {"terms": b64url_encode(terms), "entry": b64url_encode(leaf)}
        return index_in(await self._post("/v1/grants", body))

    async def enter(self, leaf: bytes, grant_digest: bytes) -> int:
        """Enter another leaf of that grant; its index."""
        return index_in(await self._post("/v1/log/entries", {"entry": b64url_encode(leaf), "grant_digest": grant_digest.hex()}))

    async def enter_pack_change(self, leaf: bytes, approval: bytes) -> int:
        """Enter the leaf of a policy pack that was adopted under that approval; its index."""
        return index_in(await self._post("/v1/log/pack-changes", {"entry": b64url_encode(leaf), "approval": b64url_encode(approval)}))

    async def enter_expunction(self, leaf: bytes, handle: bytes) -> int:
        """Enter the leaf of an expunction, whose subject is of that handle; its index."""
        return index_in(await self._post("/v1/log/expunctions", {"entry": b64url_encode(leaf), "handle": handle.hex()}))

    async def enter_manifest(self, leaf: bytes, digest: bytes) -> int:
        """Enter the leaf of this agency's record manifest of that digest; its index."""
        return index_in(await self._post("/v1/log/manifests", {"entry": b64url_encode(leaf), "digest": digest.hex()}))

    async def checkpoint(self, min_size: int = 0, cosignatures: int = 0, wait_s: int = 0) -> SignedCheckpoint | None:
        """The newest head of that size and with that many cosignatures, unverified; None when there is none in time."""
        wait_s = min(wait_s, MAX_WAIT_S)
        params = {"min_size": min_size, "cosignatures": cosignatures, "wait_s": wait_s}
        try:
            return note_in(await self._transport.request("GET", "/v1/log/checkpoint", params=params, timeout_s=_REPLY_S + wait_s))
        except BrokerRefusedError as error:
            if error.problem == "checkpoint-not-yet":
                return None
            raise

    async def pending(self, after_size: int, wait_s: int) -> CosignRequest:
        """The head that witnesses are to cosign, as soon as it is larger than `after_size`, else the present one; unverified."""
        wait_s = min(wait_s, MAX_WAIT_S)
        params = {"after_size": after_size, "wait_s": wait_s}
        reply = await self._transport.request("GET", "/v1/log/pending", params=params, timeout_s=_REPLY_S + wait_s)
        return CosignRequest.from_bytes(reply.body)

    async def cosign(self, note: SignedCheckpoint) -> None:
        """Hand in a head with this agency's cosignature."""
        await self._transport.request("POST", "/v1/log/cosignatures", content=note.to_bytes(), content_type="text/plain; charset=utf-8")

    async def leaves(self, start: int, limit: int = MAX_LEAVES) -> tuple[int, list[bytes]]:
        """The log's size and up to `limit` leaves from `start` on, unverified."""
        reply = await self._transport.request(
            "GET",
            "/v1/log/leaves",
            params={"start": start, "limit": limit},
            timeout_s=_LEAVES_S,
            max_reply_bytes=limit * (MAX_ENTRY_BYTES * 4 // 3 + 8) + 256,
        )
        with strict(reply):
            fields = fields_of(reply)
            size, leaves = fields.integer("size"), [b64url_decode(text) for text in fields.texts("leaves")]
            fields.close()
            check_range(size, 0, MAX_INTEGER, "size")
            check_range(len(leaves), 0, min(limit, max(size - start, 0)), "number of leaves")
        return size, leaves

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The broker's proof that the log of `new` leaves continues that of `old`, unverified."""
        return proof_in(await self._transport.request("GET", "/v1/log/consistency", params={"old": old, "new": new}))

    async def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """The broker's proof that a leaf stands at `index` of the log of `size` leaves, unverified."""
        return proof_in(await self._transport.request("GET", "/v1/log/inclusion", params={"index": index, "size": size}))

    async def post_openings(self, opened: LeafOpenings) -> None:
        """Open fields of a leaf that this agency entered, to everybody."""
        reply = await self._transport.request(
            "POST", "/v1/log/openings", content=canonical_json(opened.to_json()), content_type="application/json", timeout_s=_REPLY_S
        )
        with strict(reply):
            fields = fields_of(reply)
            new = fields.integer("opened")
            fields.close()
            check_range(new, 0, len(opened.openings), "number of opened fields")

    async def openings(self, first: int, limit: int = MAX_LEAVES) -> tuple[int, list[OpenedField]]:
        """How many fields are open, and up to `limit` of them from number `first` on, unverified; their numbers follow one another."""
        params = {"from": first, "limit": limit}
        reply = await self._transport.request(
            "GET", "/v1/log/openings", params=params, timeout_s=_LEAVES_S, max_reply_bytes=limit * _MAX_OPENED_BYTES + 256
        )
        with strict(reply):
            fields = fields_of(reply)
            total, found = fields.integer("total"), [opened_from_fields(child) for child in fields.children("openings")]
            fields.close()
            check_range(total, 0, MAX_INTEGER, "total")
            if [one.number for one in found] != list(range(first, first + len(found))) or len(found) > min(limit, max(total - first, 0)):
                raise FieldError("opened fields are numbered one after the other, up to their total")
        return total, found

    # --- messages ---

    async def send(self, message: Pieces) -> MessageState:
        """Hand in a whole message, or what is still missing of it; sending again what was sent does nothing.

        The first part goes first, before which the broker takes no other; the reply says what it lacks. `BrokerRefusedError` also when it
        forgets parts again. No more of it is here at once than the parts that are under way.
        """
        if not 1 <= message.total_bytes <= MAX_MESSAGE_BYTES:
            raise OversizedError(f"a message has 1 to {MAX_MESSAGE_BYTES} bytes")
        message_id, count = message.message_id, message.count

        async def put(number: int) -> MessageState:
            part = Part(message_id, number, message.total_bytes, message.piece(number))
            path = f"/v1/messages/{message_id}/parts/{number}"
            return state_in(
                await self._transport.request(
                    "PUT", path, content=part.to_bytes(), content_type="application/octet-stream", timeout_s=_PART_S
                )
            )

        first = await put(0)
        if any(not 1 <= number < count for number in first.missing):
            raise unreadable(200, "it asks for parts that the message does not have, or for one that it was sent")
        states = [first, *await side_by_side(put, first.missing)]
        for state in states:
            if state.state != "incomplete":
                return state
        raise unreadable(200, "every part was sent, and the message is still incomplete")

    async def message_state(self, message_id: MessageId) -> MessageState | None:
        """Where a message of or for this agency is; None when the broker does not know it."""
        try:
            return state_in(await self._transport.request("GET", f"/v1/messages/{message_id}"))
        except BrokerRefusedError as error:
            if error.problem == "not-found":
                return None
            raise

    async def lease(self, wait_s: int = 0, limit: int = MAX_LEASES) -> list[Lease]:
        """Messages for this agency, oldest first; an empty list when none came in time."""
        wait_s = min(wait_s, MAX_WAIT_S)
        reply = await self._post("/v1/mailbox/leases", {"wait_s": wait_s, "limit": limit}, timeout_s=_REPLY_S + wait_s, only_asks=True)
        with strict(reply):
            fields = fields_of(reply)
            leases = [lease_from_fields(child) for child in fields.children("leases")]
            fields.close()
            check_range(len(leases), 0, limit, "number of leases")
        return leases

    async def give_back_leases(self) -> None:
        """End every lease that a process of this node before this one took: what it had not stored comes again at once."""
        await self._transport.request("DELETE", "/v1/mailbox/leases")

    async def fetch(self, lease: Lease, take: Callable[[bytes], None]) -> None:
        """Hand the message under a lease to `take`, piece by piece in order; hashed but not parsed: what cannot be parsed must still be
        taken and refused.

        A part of another message is a `ContextError`, one of another length a `FieldError`; parts that do not hash to the id are a
        `NotCanonicalError`, after the last piece.
        """

        async def get(number: int) -> bytes:
            path = f"/v1/messages/{lease.message_id}/parts/{number}"
            reply = await self._transport.request(
                "GET", path, params={"lease_id": lease.lease_id}, timeout_s=_PART_S, max_reply_bytes=MAX_PART_BYTES
            )
            part = Part.from_bytes(reply.body)
            if part.message_id != lease.message_id:
                raise ContextError("part is of another message")
            if (part.number, part.total_bytes) != (number, lease.total_bytes):
                raise FieldError("part is not the one that was asked for")
            return part.piece

        digest = hashlib.sha256()

        def hand_over(piece: bytes) -> None:
            digest.update(piece)
            take(piece)

        await in_order(get, range(lease.parts), hand_over)
        if digest.digest() != lease.message_id.digest:
            raise NotCanonicalError("the parts do not hash to the message's id")

    async def acknowledge(self, lease: Lease) -> bytes:
        """Say that the message is in this node's store; the broker deletes it. Its receipt document, unverified."""
        reply = await self._post(f"/v1/mailbox/leases/{lease.lease_id}/acknowledgement", {})
        with strict(reply):
            fields = fields_of(reply)
            receipt = fields.data("receipt")
            fields.close()
        return receipt

    async def _document(self, path: str, kind: DocumentKind) -> bytes:
        return (await self._transport.request("GET", path, max_reply_bytes=kind.max_bytes, timeout_s=_PART_S)).body

    async def _post(self, path: str, body: Mapping[str, str | int], *, timeout_s: float = _REPLY_S, only_asks: bool = False) -> Reply:
        return await self._transport.request(
            "POST",
            path,
            content=json.dumps(dict(body), separators=(",", ":")).encode("ascii"),
            content_type="application/json",
            timeout_s=timeout_s,
            max_reply_bytes=DEFAULT_MAX_REPLY_BYTES,
            only_asks=only_asks,
        )
