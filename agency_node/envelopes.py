"""Opening what was sealed to this node, by what its own records say and never by what the envelope says (PROTOCOL 4)."""

from __future__ import annotations

from typing import TypeVar

from agency_node.errors import StoreError
from agency_node.keyring import Keyring
from agency_node.outbox import Conversation
from agency_node.parties import Parties
from crypto.canonical import AgencyId
from crypto.envelope import EnvelopeContext
from crypto.errors import ContextError, OpeningError
from crypto.message_types import Body
from crypto.messages import AnyMessage, open_message

BodyT = TypeVar("BodyT", bound=Body)


class Envelopes:
    """Opens sealed messages with the keyring's keys."""

    def __init__(self, agency: AgencyId, keyring: Keyring, parties: Parties) -> None:
        self._agency = agency
        self._keyring = keyring
        self._parties = parties

    def open(self, message: AnyMessage, body: type[BodyT], conversation: Conversation, sender: AgencyId) -> BodyT:
        """The body of a message of this conversation that `sender` sealed to this agency; a `PeerError` for anything else.

        Which of our keys it was sealed to is the only thing that the envelope may say; a key that is not ours opens nothing.
        """
        header, key_id = message.header, message.context.recipient_key_id
        if header.sender != sender or (header.search_id, header.grant_digest) != (conversation.search_id, conversation.grant_digest):
            raise ContextError("message is of another search, grant or sender than this node's records say")
        expected = EnvelopeContext(
            header.message_type,
            conversation.search_id,
            conversation.grant_digest,
            sender,
            self._agency,
            key_id,
            conversation.epoch,
        )
        try:
            private = self._keyring.private(key_id)
        except StoreError as error:
            raise OpeningError("sealed to a key that this node does not have, or no longer") from error
        return open_message(
            message,
            body,
            expected=expected,
            recipient_private=private,
            sender_public=self._parties.roster().node_key(sender),
        )
