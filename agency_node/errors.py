"""The error tree of an agency's node: what a person can mend, what the broker said, what this machine lacks.

::

    NodeError
    ├── ConfigError       the folder or node.toml is not what a node needs
    ├── StoreError        the node's own store or key cannot be used
    ├── RequestError      a person asked for something that cannot be done as asked
    │   ├── PolicyRefusedError  this agency's own policy, or one that binds it, refuses the search
    │   ├── ImageError        a picture that cannot be searched or enrolled with
    │   ├── ProvenanceError   a still, its original and its edits do not belong together
    │   └── EnrolmentError    a table or folder of records that cannot be enrolled
    │       └── KnownRecordError  a record number that was enrolled before, or stands twice in a batch
    ├── HelperEndedError  a process that helped with pictures was ended
    ├── HaltedError       the node saw proof of a forked log or roster and acts no more
    ├── RetiredError      the node was moved to another machine, or leaves the federation
    └── BrokerError       the broker cannot be reached, or refused
        ├── BrokerUnreachableError
        └── BrokerRefusedError

Every text names what to do next and holds no key, score, embedding, image or case text. What other parties send wrongly is
`crypto.errors.PeerError`.
"""

from __future__ import annotations

import enum
from typing import Final

RETRYABLE: Final = frozenset({"unreadable-reply", "part-order", "request-stale", "request-unsigned", "nonce-prefix"})
"""Refusals that say something of the way or the moment: a proxy's page, parts out of order, a wrong clock, a broker that started anew."""


class NodeError(Exception):
    """Root of what the node raises on purpose."""


class ConfigError(NodeError):
    """The node's folder or `node.toml` is not what a node needs."""


class StoreError(NodeError):
    """The node's own store or key cannot be used."""


class RequestError(NodeError):
    """A person asked for something that cannot be done as asked."""


class PolicyRefusedError(RequestError):
    """A policy of this agency, or one that binds an agency of the search, refuses it; the text names rule and next lawful step."""


class ImageFault(enum.StrEnum):
    """What is wrong with a picture: the code that a report of an enrolment holds beside the sentence."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    TOO_LONG = "too-long"
    NO_PICTURE = "no-picture"
    DAMAGED = "damaged"
    SEVERAL_PICTURES = "several-pictures"
    TOO_SMALL = "too-small"
    TOO_MANY_PIXELS = "too-many-pixels"
    NO_FACE = "no-face"
    SEVERAL_FACES = "several-faces"
    UNCLEAR_FACE = "unclear-face"
    LOW_QUALITY = "low-quality"
    SYNTHETIC = "synthetic"


class ImageError(RequestError):
    """A picture that cannot be searched or enrolled with: a code, and a sentence that says what to do."""

    def __init__(self, fault: ImageFault, sentence: str) -> None:
        super().__init__(sentence)
        self.fault = fault


class ProvenanceError(RequestError):
    """A still, its original and the edits in between do not belong together (R19): the search is drafted anew."""


class EnrolmentError(RequestError):
    """A table or folder of records that cannot be enrolled."""


class KnownRecordError(EnrolmentError):
    """A record number of a batch was enrolled before, or stands in the batch twice."""


class HelperEndedError(NodeError):
    """A process that helped with pictures was ended; what was enrolled stays, and the rest is no worse."""


class HaltedError(NodeError):
    """The node saw proof of a forked log or roster; it acts no more until its operator has looked."""


class RetiredError(NodeError):
    """The node was moved to another machine, or leaves the federation: what it is asked for happens here no more."""


class BrokerError(NodeError):
    """The broker cannot be reached, or refused."""


class BrokerUnreachableError(BrokerError):
    """No answer from the broker: try again later; nothing was lost."""


class BrokerRefusedError(BrokerError):
    """The broker answered with a problem document (RFC 9457).

    `status` is the HTTP status, `problem` the last part of the document's type (`urn:sealmatch:problem:<problem>`), `title` and `detail`
    the document's own words.
    """

    def __init__(self, status: int, problem: str, title: str, detail: str) -> None:
        super().__init__(f"the broker refused ({problem}): {title}. {detail}".strip())
        self.status = status
        self.problem = problem
        self.title = title
        self.detail = detail

    @property
    def is_final(self) -> bool:
        """Whether sending the same again cannot help."""
        return 400 <= self.status < 500 and self.status not in {408, 425, 429} and self.problem not in RETRYABLE
