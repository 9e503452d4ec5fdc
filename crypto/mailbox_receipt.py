"""Mailbox receipts: the broker's signed word that it holds the content of a delivered message no more (R22).

A JSON document signed with the log's key, the one key of the broker that stands in the roster. Its label keeps it apart from checkpoints,
whose second line is a number. The receipt names the message, who took it and when it was deleted, and nothing of what it said.

Invariants: what `read` returns was signed with the log key that the caller's roster names. Left to others: deleting (the broker), keeping
the receipt (the nodes), what other parties delete (`notices.DeletionReceipt`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from crypto.canonical import AgencyId
from crypto.checkpoint import LogKey
from crypto.errors import AgencyStatementError, BadSignatureError
from crypto.keys import SigningKey
from crypto.moments import check_moment, format_moment
from crypto.signed import DocumentKind, read_document, sign_document
from crypto.wire import MessageId

MAILBOX_RECEIPT_KIND: Final = DocumentKind("sealmatch-1/mailbox-receipt", 2048)


@dataclass(frozen=True)
class MailboxReceipt:
    """The broker says: at `deleted_at` (UTC, to the hundredth) the content of this message, taken by `recipient`, was deleted here."""

    message_id: MessageId
    recipient: AgencyId
    deleted_at: datetime

    def __post_init__(self) -> None:
        check_moment(self.deleted_at, "mailbox_receipt.deleted_at")

    def sign(self, log_key: SigningKey) -> bytes:
        """The document."""
        return sign_document(
            MAILBOX_RECEIPT_KIND,
            {"message_id": str(self.message_id), "recipient": str(self.recipient), "deleted_at": format_moment(self.deleted_at)},
            log_key,
        )

    @classmethod
    def read(cls, data: bytes, log: LogKey) -> Self:
        """The receipt in `data`, after these checks:

        1. size, form, content (an `EncodingError`)
        2. the log's key signed, and nobody else (`AgencyStatementError`)

        Whether it is for the message at hand is for the caller to compare.
        """
        document = read_document(MAILBOX_RECEIPT_KIND, data)  # 1
        fields = document.unverified_fields("mailbox_receipt")
        receipt = cls(fields.name("message_id", MessageId), fields.name("recipient", AgencyId), fields.moment("deleted_at"))
        fields.close()
        try:  # 2
            document.check_only_signer(log.key)
        except BadSignatureError as error:
            raise AgencyStatementError("mailbox receipt is not signed with the log's key") from error
        return receipt
