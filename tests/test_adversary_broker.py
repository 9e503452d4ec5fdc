"""A broker, or whoever sits on the wire, that breaks the rules: redirects, alters, forks the log, hides a revocation.

Rosters that it swaps, rolls back or lets expire are played in `test_roster`.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from crypto.canonical import AgencyId
from crypto.checkpoint import Checkpoint, SignedCheckpoint, check_continues, sign_checkpoint
from crypto.disclosure import DisclosureRequest
from crypto.entries import EntryKind, LogEntry
from crypto.envelope import Envelope, open_envelope
from crypto.errors import ConsistencyError, ContextError, CryptoError, MirrorError, RevokedError, StaleCheckpointError, WitnessError
from crypto.keys import SealingPrivateKey, SigningKey
from crypto.ledger import MerkleTree, leaf_hash
from crypto.message_types import MessageType
from crypto.messages import Message
from crypto.mirror import LogMirror
from crypto.witness import check_checkpoint, cosign
from tests.message_samples import RECIPIENT_KEY, SENDER_KEY, expected_context, message_of
from tests.test_checkpoint import BROKER, COUNCIL, COUNTY, CUSTODIAN, LOG, LOG_SECRET, NOW, ORIGIN, POLICY, SECRETS, WITNESSES
from tests.test_entries import GRANT, entry

MESSAGE = message_of(MessageType.DISCLOSURE_REQUEST, DisclosureRequest(None))
ENVELOPE = MESSAGE.envelope()
SENDER = SENDER_KEY.verifying_key


# --- bytes on their way ---


def test_a_redirected_envelope_opens_for_nobody() -> None:
    """The broker gives one holder's envelope to another, or claims another sender, search or key."""
    expected = expected_context(MessageType.DISCLOSURE_REQUEST)
    assert open_envelope(ENVELOPE, expected, RECIPIENT_KEY, SENDER)
    for change in ({"recipient": AgencyId("other-pd")}, {"sender": AgencyId("other-pd")}, {"grant_digest": bytes(32)}):
        elsewhere = dataclasses.replace(expected, **change)
        with pytest.raises(ContextError):
            open_envelope(ENVELOPE, elsewhere, RECIPIENT_KEY, SENDER)
        relabelled = Envelope(ENVELOPE.suite, elsewhere, ENVELOPE.sealed, ENVELOPE.signature)
        with pytest.raises(CryptoError):
            open_envelope(relabelled, elsewhere, RECIPIENT_KEY, SENDER)
    for key, sender in ((SealingPrivateKey.generate(), SENDER), (RECIPIENT_KEY, SigningKey.generate().verifying_key)):
        with pytest.raises(CryptoError):
            open_envelope(ENVELOPE, expected, key, sender)


def test_every_altered_byte_of_a_message_is_noticed() -> None:
    """Sequence number, moment and checkpoint stand outside the seal; the frame's signature covers them too."""
    data = MESSAGE.to_bytes()
    for at in range(len(data)):
        altered = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            message = Message.from_bytes(altered)
        except CryptoError:
            continue
        assert message.message_id != MESSAGE.message_id
        with pytest.raises(CryptoError):
            message.check_signature(SENDER)


@pytest.mark.parametrize("cut", [0, 1, 5, 100, -64, -1])
def test_a_message_cut_short_or_made_longer_is_none(cut: int) -> None:
    data = MESSAGE.to_bytes()
    for forged in (data[:cut], data + data[:cut] + b"\0"):
        with pytest.raises(CryptoError):
            Message.from_bytes(forged)


# --- the log ---


def head_of(leaves: list[LogEntry]) -> Checkpoint:
    return Checkpoint(ORIGIN, len(leaves), MerkleTree(leaf_hash(leaf.to_bytes()) for leaf in leaves).root())


def witnessed(leaves: list[LogEntry], *agencies: AgencyId, age_s: float = 5) -> SignedCheckpoint:
    note = sign_checkpoint(head_of(leaves), LOG_SECRET)
    moment = NOW - timedelta(seconds=age_s)
    empty = Checkpoint.empty(ORIGIN)
    return note.with_signatures(
        cosign(note, log=LOG, previous=empty, proof=(), witness=WITNESSES[agency], key=SECRETS[agency], now=moment) for agency in agencies
    )


COMMON = [entry(EntryKind.ROSTER_CHANGE), entry(EntryKind.GRANT)]
SHOWN_TO_CUSTODIAN = [*COMMON, entry(EntryKind.REVOCATION)]
SHOWN_TO_HOLDER = [*COMMON, entry(EntryKind.PACK_CHANGE)]


def test_a_forked_log_is_refused_by_whoever_saw_the_other_side() -> None:
    """No proof joins the two sides; a witness that signed one does not sign the other."""
    mine, theirs = head_of(SHOWN_TO_HOLDER), head_of(SHOWN_TO_CUSTODIAN)
    tree = MerkleTree(leaf_hash(leaf.to_bytes()) for leaf in [*SHOWN_TO_CUSTODIAN, entry(EntryKind.RELEASE)])
    for new, proof in ((theirs, ()), (Checkpoint(ORIGIN, 4, tree.root()), tree.consistency_proof(3))):
        with pytest.raises(ConsistencyError):
            check_continues(mine, new, proof)
        with pytest.raises(ConsistencyError):
            cosign(
                sign_checkpoint(new, LOG_SECRET),
                log=LOG,
                previous=mine,
                proof=proof,
                witness=WITNESSES[CUSTODIAN],
                key=SECRETS[CUSTODIAN],
                now=NOW,
            )


def test_a_hidden_revocation_stops_the_act() -> None:
    """Leaving it out of the mirror contradicts the checkpoint; an old checkpoint is stale; a new one needs witnesses who saw it."""
    honest = witnessed(SHOWN_TO_CUSTODIAN, CUSTODIAN, COUNCIL, COUNTY)
    check_checkpoint(honest, POLICY, now=NOW)
    with pytest.raises(RevokedError):
        LogMirror([leaf.to_bytes() for leaf in SHOWN_TO_CUSTODIAN]).check_not_revoked(GRANT, honest.checkpoint)
    with pytest.raises(MirrorError):
        LogMirror([leaf.to_bytes() for leaf in SHOWN_TO_HOLDER]).check_not_revoked(GRANT, honest.checkpoint)
    with pytest.raises(StaleCheckpointError):
        check_checkpoint(witnessed(COMMON, CUSTODIAN, COUNCIL, COUNTY, age_s=601), POLICY, now=NOW)
    for witnesses in ((), (BROKER,), (BROKER, COUNCIL), (BROKER, COUNCIL, CUSTODIAN)):
        note = sign_checkpoint(head_of(COMMON), LOG_SECRET) if not witnesses else witnessed(COMMON, *witnesses)
        with pytest.raises(WitnessError):
            check_checkpoint(note, POLICY, now=NOW)
