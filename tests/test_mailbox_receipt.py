"""The broker's receipt for a deleted message."""

from __future__ import annotations

from datetime import timedelta

import pytest

from crypto.canonical import JsonObject, parse_canonical_json
from crypto.checkpoint import LogKey
from crypto.errors import AgencyStatementError, CryptoError, FieldError, VersionError
from crypto.keys import SigningKey
from crypto.mailbox_receipt import MAILBOX_RECEIPT_KIND, MailboxReceipt
from crypto.signed import add_signature, sign_document
from crypto.wire import MessageId
from tests.sample_federation import LAKESIDE, NOW, signing_key

KEY = signing_key("log")
LOG = LogKey("log.example.org/2026", KEY.verifying_key)
RECEIPT = MailboxReceipt(MessageId("ab" * 32), LAKESIDE, NOW)


def test_a_receipt_comes_through() -> None:
    data = RECEIPT.sign(KEY)
    assert MailboxReceipt.read(data, LOG) == RECEIPT
    assert parse_canonical_json(data, max_bytes=MAILBOX_RECEIPT_KIND.max_bytes)["signed"] == {
        "type": "sealmatch-1/mailbox-receipt",
        "message_id": "ab" * 32,
        "recipient": "lakeside-sheriff",
        "deleted_at": "2026-11-23T16:12:04.05Z",
    }


def test_only_the_log_key_signs() -> None:
    with pytest.raises(AgencyStatementError):
        MailboxReceipt.read(RECEIPT.sign(SigningKey.generate()), LOG)
    with pytest.raises(CryptoError):
        MailboxReceipt.read(add_signature(MAILBOX_RECEIPT_KIND, RECEIPT.sign(KEY), SigningKey.generate()), LOG)
    with pytest.raises(AgencyStatementError):
        MailboxReceipt.read(RECEIPT.sign(KEY), LogKey(LOG.origin, SigningKey.generate().verifying_key))


def test_every_altered_byte_is_noticed() -> None:
    data = RECEIPT.sign(KEY)
    for at in range(len(data)):
        with pytest.raises(CryptoError):
            MailboxReceipt.read(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], LOG)
    for forged in (b"", data[:-1], data + b" ", b"x" * 3000):
        with pytest.raises(CryptoError):
            MailboxReceipt.read(forged, LOG)


def test_another_kind_or_form_is_refused() -> None:
    content: JsonObject = {"message_id": "ab" * 32, "recipient": "lakeside-sheriff", "deleted_at": "2026-11-23T16:12:04.05Z"}
    other = type(MAILBOX_RECEIPT_KIND)("sealmatch-1/other", 2048)
    with pytest.raises(VersionError):
        MailboxReceipt.read(sign_document(other, dict(content), KEY), LOG)
    changes: tuple[JsonObject, ...] = (
        {"more": 1},
        {"message_id": "ab"},
        {"deleted_at": "2026-11-23"},
        {"recipient": "-"},
        {"recipient": 1},
    )
    for change in changes:
        with pytest.raises(FieldError):
            MailboxReceipt.read(sign_document(MAILBOX_RECEIPT_KIND, {**content, **change}, KEY), LOG)
    with pytest.raises(FieldError):
        MailboxReceipt(RECEIPT.message_id, LAKESIDE, NOW + timedelta(microseconds=1))
