"""The documents of a node that leaves: the order that legal staff signs, and the deletion receipt that the node signs last (R22, R25).

The receipt holds the order whole, what was destroyed in numbers, the commitment to the gallery that was there, what the broker deleted, and
by name what the law has the agency keep. Its SHA-256 is the handle of an entry in the public log, so no second receipt can take the place
of the first. Invariants: what `read` returns was signed by the node key that the roster gives the agency, under an order for this very node
that somebody signed who may; both verify offline, against the roster that last listed the agency, expired or not.

HAZARD: a receipt says what the agency's node did. That no copy lies elsewhere, such as in a backup, no signature can say. Left to others:
destroying (`leaving`), the log (`outbox`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from agency_node.legal.duties import check_signed_for
from crypto.canonical import AgencyId, JsonObject, JsonValue, PersonId, b64url_encode
from crypto.entries import EntryKind, entry_subject
from crypto.errors import AgencyStatementError, BadSignatureError, FieldError
from crypto.fields import MAX_INTEGER, check_ascending, check_digest, check_range
from crypto.keys import SigningKey, VerifyingKey
from crypto.moments import check_moment, format_moment
from crypto.roster import Roster
from crypto.signed import DocumentKind, read_document, sign_document

LEAVE_ORDER_KIND: Final = DocumentKind("sealmatch-1/leave-order", 2048)
LEAVE_RECEIPT_KIND: Final = DocumentKind("sealmatch-1/leave-receipt", 16 << 10)
NO_GALLERY: Final = bytes(32)
_COUNTS: Final = ("records", "photographs", "template_blocks", "sealing_keys", "mailbox_messages")


@dataclass(frozen=True)
class LeaveOrder:
    """`person` orders the node with that key to leave the federation and to destroy what it holds."""

    agency: AgencyId
    node_key: VerifyingKey
    person: PersonId
    ordered_at: datetime

    def __post_init__(self) -> None:
        check_moment(self.ordered_at, "leave-order.ordered_at")

    def sign(self, key: SigningKey) -> bytes:
        """The document."""
        content: JsonObject = {
            "agency": str(self.agency),
            "node_key": b64url_encode(self.node_key.raw),
            "person": str(self.person),
            "ordered_at": format_moment(self.ordered_at),
        }
        return sign_document(LEAVE_ORDER_KIND, content, key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The order in `data`: size, form, content (an `EncodingError`), then `check_signed_for`."""
        document = read_document(LEAVE_ORDER_KIND, data)
        fields = document.unverified_fields("leave-order")
        order = cls(
            fields.name("agency", AgencyId),
            VerifyingKey(fields.data("node_key")),
            fields.name("person", PersonId),
            fields.moment("ordered_at"),
        )
        fields.close()
        check_signed_for(document, order.agency, order.person, roster)
        return order


@dataclass(frozen=True)
class LeaveReceipt:
    """What the node of `agency` destroyed under `order` (a `LeaveOrder` document); `gallery_root` is the commitment to the gallery that was
    there, zeros for none. `kept` names, in order, what is kept; the audit ledger ended at row `ledger_rows` with `ledger_head`.

    `broker_told`: the broker deleted what it held for the agency, and gave a receipt for each of `mailbox_messages`.
    """

    agency: AgencyId
    order: bytes = field(repr=False)
    records: int
    photographs: int
    template_blocks: int
    sealing_keys: int
    mailbox_messages: int
    broker_told: bool
    gallery_root: bytes
    kept: tuple[str, ...]
    ledger_rows: int
    ledger_head: bytes
    destroyed_at: datetime

    def __post_init__(self) -> None:
        for name in (*_COUNTS, "ledger_rows"):
            check_range(getattr(self, name), 0, MAX_INTEGER, f"leave-receipt.{name}")
        check_digest(self.gallery_root, "leave-receipt.gallery_root")
        check_digest(self.ledger_head, "leave-receipt.ledger_head")
        check_ascending(self.kept, 0, 64, "leave-receipt.kept")
        check_moment(self.destroyed_at, "leave-receipt.destroyed_at")

    def sign(self, node_key: SigningKey) -> bytes:
        """The document, for everybody."""
        kept: list[JsonValue] = list(self.kept)
        content: JsonObject = {
            "agency": str(self.agency),
            "order": b64url_encode(self.order),
            **{name: getattr(self, name) for name in _COUNTS},
            "broker_told": int(self.broker_told),
            "gallery_root": self.gallery_root.hex(),
            "kept": kept,
            "ledger_rows": self.ledger_rows,
            "ledger_head": self.ledger_head.hex(),
            "destroyed_at": format_moment(self.destroyed_at),
        }
        return sign_document(LEAVE_RECEIPT_KIND, content, node_key)

    @classmethod
    def read(cls, data: bytes, roster: Roster) -> Self:
        """The receipt in `data`, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the roster's node key of the agency signed, and nobody else (`AgencyStatementError`)
        3. the order is of this agency and this node key, signed by a person who may (`LeaveOrder.read`), and not later than the receipt
        """
        document = read_document(LEAVE_RECEIPT_KIND, data)  # 1
        fields = document.unverified_fields("leave-receipt")
        told = fields.integer("broker_told")
        check_range(told, 0, 1, "leave-receipt.broker_told")
        receipt = cls(
            agency=fields.name("agency", AgencyId),
            order=fields.data("order"),
            records=fields.integer("records"),
            photographs=fields.integer("photographs"),
            template_blocks=fields.integer("template_blocks"),
            sealing_keys=fields.integer("sealing_keys"),
            mailbox_messages=fields.integer("mailbox_messages"),
            broker_told=bool(told),
            gallery_root=fields.digest("gallery_root"),
            kept=fields.texts("kept"),
            ledger_rows=fields.integer("ledger_rows"),
            ledger_head=fields.digest("ledger_head"),
            destroyed_at=fields.moment("destroyed_at"),
        )
        fields.close()
        node_key = roster.node_key(receipt.agency)
        try:  # 2
            document.check_only_signer(node_key)
        except BadSignatureError as error:
            raise AgencyStatementError("deletion receipt is not signed by its agency's node key") from error
        order = LeaveOrder.read(receipt.order, roster)  # 3
        if (order.agency, order.node_key) != (receipt.agency, node_key) or order.ordered_at > receipt.destroyed_at:
            raise FieldError("the receipt's order is of another agency, node or time")
        return receipt


def receipt_subject(document: bytes, agency: AgencyId) -> bytes:
    """By what the receipt's entry is found in the public log, 32 bytes: of kind `expunction`, under the document's SHA-256."""
    return entry_subject(EntryKind.EXPUNCTION, hashlib.sha256(document).digest(), agency)
