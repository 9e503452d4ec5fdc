"""What the broker refuses, and what goes wrong inside it.

    BrokerError
    ├── RefusedError                a caller's request that is not carried out; `problems` gives each class status, name and next step
    │   ├── UnsignedRequestError        no signature, or one that does not verify
    │   ├── StaleRequestError           signed too long ago, or by a clock that is ahead
    │   ├── NoncePrefixError            the nonce does not begin with this process's prefix
    │   ├── ReplayedRequestError        the nonce was used before
    │   ├── MalformedRequestError       a body or parameter that cannot be read
    │   ├── OversizedRequestError       longer than the route takes
    │   ├── SlowRequestError            the body did not arrive in time
    │   ├── NotFoundError               nothing is there for this caller
    │   ├── NotYourStatementError       a statement of another agency than the caller
    │   ├── SupersededStatementError    a statement that does not follow the one that is stored
    │   ├── NotYourGrantError           entered by another agency than the requesting one
    │   ├── ReplayedGrantError          grant, search, probe or face was entered before
    │   ├── UnknownGrantError           a grant that does not stand in the log
    │   ├── EntryError                  an entry that this party does not make, or about something else than its grant
    │   ├── FullLogError                more entries of one grant than a search can need, or of one agency than a day takes
    │   ├── NoCheckpointError           no such checkpoint yet
    │   ├── LogSizeError                a size or index that the log has not reached
    │   ├── RouteError                  sender or recipient has no such part in the grant
    │   ├── PartOrderError              a part before part 0
    │   ├── PartConflictError           a part or message that contradicts what is stored
    │   ├── SequenceUsedError           the number belongs to another message
    │   ├── FullMailboxError            too much waits to be collected
    │   ├── UnknownLeaseError           no lease of that id for this caller
    │   ├── BusyStoreError              the store could not finish what was asked of it
    │   └── NoRosterError               no roster is installed yet
    └── OperatorError               what whoever runs the broker can change: configuration, files, rosters

Texts name the rule and never a value of the request.
"""

from __future__ import annotations


class BrokerError(Exception):
    """Root of everything that `broker` raises on purpose."""


class RefusedError(BrokerError):
    """A caller's request that is not carried out."""


class OperatorError(BrokerError):
    """What whoever runs the broker can change; the text says how."""


class UnsignedRequestError(RefusedError):
    """No signature, or one that does not verify."""


class StaleRequestError(RefusedError):
    """Signed too long ago, or by a clock that is ahead."""


class NoncePrefixError(RefusedError):
    """The nonce does not begin with this process's prefix, which the refusal says."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__("the request's nonce does not begin with the broker's present prefix")
        self.prefix = prefix


class ReplayedRequestError(RefusedError):
    """The nonce was used before."""


class MalformedRequestError(RefusedError):
    """A body or parameter that cannot be read."""


class OversizedRequestError(RefusedError):
    """Longer than the route takes."""


class SlowRequestError(RefusedError):
    """The body did not arrive in time."""


class NotFoundError(RefusedError):
    """Nothing is there for this caller."""


class NotYourStatementError(RefusedError):
    """A statement of another agency than the caller."""


class SupersededStatementError(RefusedError):
    """A statement that does not follow the one that is stored."""


class NotYourGrantError(RefusedError):
    """Entered by another agency than the requesting one."""


class ReplayedGrantError(RefusedError):
    """Grant, search, probe or face was entered before."""


class UnknownGrantError(RefusedError):
    """A grant that does not stand in the log."""


class EntryError(RefusedError):
    """An entry that this party does not make, or about something else than its grant."""


class FullLogError(RefusedError):
    """More entries of one grant than a search can need, or of one agency than a day takes."""


class NoCheckpointError(RefusedError):
    """No such checkpoint yet."""


class LogSizeError(RefusedError):
    """A size or index that the log has not reached."""


class RouteError(RefusedError):
    """Sender or recipient has no such part in the grant."""


class PartOrderError(RefusedError):
    """A part before part 0."""


class PartConflictError(RefusedError):
    """A part or message that contradicts what is stored."""


class SequenceUsedError(RefusedError):
    """The number belongs to another message."""


class FullMailboxError(RefusedError):
    """Too much waits to be collected."""


class UnknownLeaseError(RefusedError):
    """No lease of that id for this caller."""


class BusyStoreError(RefusedError):
    """The store could not finish what was asked of it."""


class NoRosterError(RefusedError):
    """No roster is installed yet."""
