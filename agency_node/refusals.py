"""Why a node refuses a message: one code for its sender, words for its own journal.

The sender is told a code and, where a policy decided, a rule's number (`crypto.notices`): more would be an oracle. Here stands which of our
errors becomes which code.
"""

from __future__ import annotations

from typing import Final

from agency_node.errors import NodeError
from crypto import errors
from crypto.notices import RefusalReason


class RefusedByUsError(NodeError):
    """A message is refused for a reason that its sender is told: code, and the number of the rule that decided."""

    def __init__(self, reason: RefusalReason, explanation: str, rule: int | None = None) -> None:
        super().__init__(explanation)
        self.reason = reason
        self.rule = rule


class AlreadyRefusedError(NodeError):
    """A message of a search whose grant this node refused before: its sender was told then, and is not told again."""


_REASONS: Final[dict[type[errors.PeerError], RefusalReason]] = {
    errors.RevokedError: RefusalReason.REVOKED,
    errors.ConsistencyError: RefusalReason.FORK,
    errors.LogError: RefusalReason.CHECKPOINT,
    errors.AgencyModeError: RefusalReason.MODE,
    errors.RosterError: RefusalReason.ROSTER,
    errors.GrantExpiredError: RefusalReason.GRANT_NOT_IN_FORCE,
    errors.GrantNotYetValidError: RefusalReason.GRANT_NOT_IN_FORCE,
    errors.CustodianError: RefusalReason.CUSTODIAN,
    errors.GrantError: RefusalReason.GRANT,
    errors.EpochError: RefusalReason.EPOCH,
    errors.ModelError: RefusalReason.MODEL,
    errors.CalibrationError: RefusalReason.CALIBRATION,
    errors.ReleaseError: RefusalReason.RELEASE,
    errors.AnswerError: RefusalReason.ANSWER,
    errors.PeerError: RefusalReason.MALFORMED,
}


def reason_of(error: errors.PeerError) -> RefusalReason:
    """The code of the nearest class that has one."""
    return next(_REASONS[kind] for kind in type(error).__mro__ if kind in _REASONS)
