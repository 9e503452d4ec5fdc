"""The error tree of the cryptographic core.

Three branches answer the question "whose fault is it?", because that decides what a service does next::

    CryptoError
    ├── PeerError              another party sent something wrong: refuse it, record it, answer a problem document
    │   ├── EncodingError          bytes that are not in the one canonical form
    │   │   ├── OversizedError         longer than the format's maximum (checked before parsing)
    │   │   ├── TruncatedError         shorter than the format says
    │   │   ├── VersionError           another format version, parameter set or message type
    │   │   ├── NotCanonicalError      parses, but is not the canonical form of what it says
    │   │   └── FieldError             a field is missing, unknown, repeated or out of its range
    │   ├── ProbeError             a probe, epoch or model that this party may not serve
    │   │   ├── EpochError             neither the current nor the previous month
    │   │   └── ModelError             another embedding model than the gallery's
    │   ├── AnswerError            answer, seeds and Y16 that do not belong together
    │   ├── CalibrationError       the calibration chunk shows a probe that is not one unit vector
    │   ├── ReleaseError           a release that breaks its grant (cap, batch form, holders, custodians)
    │   ├── AuditError             an opening that does not replay to the bytes in the log
    │   ├── BadSignatureError      an Ed25519 signature that does not verify; each area turns it into its own error
    │   ├── EnvelopeError          a sealed body that this recipient cannot accept
    │   │   ├── ContextError           made for another message, search, grant, party, key or epoch
    │   │   ├── SenderSignatureError   the signature outside the seal is not the sender's
    │   │   ├── SuiteError             an algorithm identifier that is not offered
    │   │   └── OpeningError           the seal does not open under this key and context
    │   ├── GrantError             a justified-use grant that authorises nothing
    │   │   ├── GrantSignatureError    a signature does not verify over the payload
    │   │   ├── UnknownKeyError        a key that the roster does not hold for that role
    │   │   ├── MissingRoleError       a required role did not sign
    │   │   ├── SamePersonError        one person stands behind two roles
    │   │   ├── GrantExpiredError      read after its expiry
    │   │   ├── GrantNotYetValidError  read before its not-before
    │   │   ├── GrantAlgorithmError    another algorithm than the roster's for that key
    │   │   ├── TrainingExpiredError   a signer's training has lapsed (R14)
    │   │   ├── AgencyRoleError        an agency or person in a place that the roster does not give it
    │   │   ├── CustodianError         of the requester's own jurisdiction, or trusted by no manifest of a holder
    │   │   ├── CourtOrderError        the warrant or order does not cover the grant's whole life (R3)
    │   │   ├── GrantMismatchError     the grant is for another probe, search, holder or custodian
    │   │   ├── GrantReasonError       the reason beside the terms is missing, or not the one that was signed
    │   │   └── StaleStatementError    a statement that the grant stands is too old, or answers another query
    │   ├── LogError               a proof about the public log that does not hold
    │   │   ├── InclusionError         the entry is not under that root
    │   │   ├── AbsenceError           no proof that a gallery lacks a record
    │   │   ├── ConsistencyError       the two checkpoints are not one history: a fork
    │   │   ├── CheckpointError        note, origin or log signature is wrong
    │   │   ├── WitnessError           too few valid cosignatures, or none from the party that must be there
    │   │   ├── StaleCheckpointError   older than the step allows
    │   │   ├── CommitmentError        an opened field is not the one that the entry commits to
    │   │   ├── MirrorError            a node's copy of the log is not the log under that checkpoint
    │   │   ├── UnloggedRosterError    the roster that this party goes by is not the last one in the log
    │   │   ├── RevokedError           the log, read to its end, holds a revocation or lapse of this grant
    │   │   ├── TileError              a tile or entry bundle is not that of the log under its checkpoint
    │   │   ├── EntryOrderError        entries that cannot stand in this order, or not twice: a release without its grant
    │   │   └── EvidenceError          what a party shows of its own acts is less than the log holds of them, or of another log
    │   └── RosterError            a roster document that a pinned node must refuse
    │       ├── RosterPinError         another root set than the one that this node was told to trust
    │       ├── RosterSignatureError   a root signature does not verify
    │       ├── RosterThresholdError   fewer than the threshold of distinct root keys signed
    │       ├── RosterRollbackError    an older version than the one already trusted
    │       ├── RosterForkError        the trusted version with other content, duly signed: evidence of a fork
    │       ├── RosterExpiredError     read after its expiry
    │       ├── UnknownAgencyError     an agency that the roster does not hold, or not in that role
    │       ├── CountersignatureError  a reviewer's key that its legal office did not vouch for
    │       ├── AgencyModeError        an agency in production meets one in demo or test mode
    │       └── AgencyStatementError   a manifest or sealing key that its agency did not sign, or that has lapsed
    ├── MisuseError            our own caller broke a contract: a bug here, never bad data from outside
    │   ├── UnsupportedParametersError  any parameter set but `sealmatch-1`
    │   ├── LayoutSpentError       a layout past its uses, or asked twice by one case
    │   └── KeyDestroyedError      a key or seed used after `destroy()`
    └── LocalError             this machine failed: the HE library refuses, randomness is short

No message, `args` or `repr` of these carries an embedding, a score, a key, a seed, an image or case text; they name the field and
the rule. `tests/test_redaction.py` reads them.
"""

from __future__ import annotations


class CryptoError(Exception):
    """Root of everything that `crypto` raises on purpose."""


class PeerError(CryptoError):
    """Another party sent something wrong."""


class MisuseError(CryptoError):
    """Our own caller broke a contract."""


class LocalError(CryptoError):
    """This machine failed, not a peer and not the caller."""


# --- bytes ---------------------------------------------------------------------------------------------------------


class EncodingError(PeerError):
    """Bytes that are not in the one canonical form."""


class OversizedError(EncodingError):
    """Longer than the format's maximum; nothing of it was parsed."""


class TruncatedError(EncodingError):
    """Shorter than the format says."""


class VersionError(EncodingError):
    """Another format version, parameter set or message type than this code speaks."""


class NotCanonicalError(EncodingError):
    """Parses, but is not the canonical form of what it says."""


class FieldError(EncodingError):
    """A field is missing, unknown, repeated or out of its range."""


# --- probe, answer, release ----------------------------------------------------------------------------------------


class ProbeError(PeerError):
    """A probe that this holder may not serve."""


class EpochError(ProbeError):
    """The probe's epoch is neither the current nor the previous month."""


class ModelError(ProbeError):
    """Probe and gallery were made by different embedding models."""


class AnswerError(PeerError):
    """Answer, seeds and `Y16` do not belong together."""


class CalibrationError(PeerError):
    """The calibration chunk shows a probe that is not one unit vector."""


class ReleaseError(PeerError):
    """A release that breaks its grant."""


class AuditError(PeerError):
    """An opening that does not replay to the bytes in the log."""


# --- envelope ------------------------------------------------------------------------------------------------------


class BadSignatureError(PeerError):
    """An Ed25519 signature that does not verify; each area turns it into its own error."""


class EnvelopeError(PeerError):
    """A sealed body that this recipient cannot accept."""


class ContextError(EnvelopeError):
    """Made for another message, search, grant, party, key or epoch."""


class SenderSignatureError(EnvelopeError):
    """The signature outside the seal is not the sender's."""


class SuiteError(EnvelopeError):
    """An algorithm identifier that is not offered."""


class OpeningError(EnvelopeError):
    """The seal does not open under this key and context."""


# --- grant ---------------------------------------------------------------------------------------------------------


class GrantError(PeerError):
    """A justified-use grant that authorises nothing."""


class GrantSignatureError(GrantError):
    """A signature does not verify over the payload."""


class UnknownKeyError(GrantError):
    """A key that the roster does not hold for that role."""


class MissingRoleError(GrantError):
    """A required role did not sign."""


class SamePersonError(GrantError):
    """One person stands behind two roles (R5)."""


class GrantExpiredError(GrantError):
    """Read after its expiry."""


class GrantNotYetValidError(GrantError):
    """Read before its not-before."""


class GrantAlgorithmError(GrantError):
    """Another algorithm than the roster's for that key."""


class TrainingExpiredError(GrantError):
    """A signer's training has lapsed (R14)."""


class AgencyRoleError(GrantError):
    """An agency or person in a place that the roster does not give it."""


class CustodianError(GrantError):
    """Of the requester's own jurisdiction, or trusted by no manifest of a holder."""


class CourtOrderError(GrantError):
    """The warrant or order does not cover the grant's whole life (R3)."""


class GrantMismatchError(GrantError):
    """The grant is for another probe, search, holder or custodian."""


class GrantReasonError(GrantError):
    """The reason beside the terms is missing, or not the one that was signed."""


class StaleStatementError(GrantError):
    """A statement that the grant stands is too old, or answers another query."""


# --- log -----------------------------------------------------------------------------------------------------------


class LogError(PeerError):
    """A proof about the public log that does not hold."""


class InclusionError(LogError):
    """The entry is not under that root."""


class AbsenceError(LogError):
    """What is shown does not prove that the gallery lacks the record."""


class ConsistencyError(LogError):
    """The two checkpoints are not one history: a fork."""


class CheckpointError(LogError):
    """Note, origin or log signature is wrong."""


class WitnessError(LogError):
    """Too few valid cosignatures, or none from the party that must be there."""


class StaleCheckpointError(LogError):
    """Older than the step allows."""


class CommitmentError(LogError):
    """An opened field is not the one that the entry commits to."""


class MirrorError(LogError):
    """A node's copy of the log is not the log under that checkpoint."""


class UnloggedRosterError(LogError):
    """The roster that this party goes by is not in the log under that checkpoint, or a later one is."""


class RevokedError(LogError):
    """The log, read to its end, holds a revocation or lapse of this grant."""


class TileError(LogError):
    """A tile or entry bundle is not that of the log under its checkpoint."""


class EntryOrderError(LogError):
    """Entries that cannot stand in this order, or not twice."""


class EvidenceError(LogError):
    """What a party shows of its own acts does not go with the log."""


# --- roster --------------------------------------------------------------------------------------------------------


class RosterError(PeerError):
    """A roster document that a pinned node must refuse."""


class RosterPinError(RosterError):
    """Another root set than the one that this node was told to trust."""


class RosterSignatureError(RosterError):
    """A root signature does not verify."""


class RosterThresholdError(RosterError):
    """Fewer than the threshold of distinct root keys signed."""


class RosterRollbackError(RosterError):
    """An older version than the one already trusted."""


class RosterForkError(RosterError):
    """The trusted version with other content, duly signed: evidence of a fork."""


class RosterExpiredError(RosterError):
    """Read after its expiry."""


class UnknownAgencyError(RosterError):
    """An agency that the roster does not hold, or not in that role."""


class CountersignatureError(RosterError):
    """A reviewer's key that its legal office did not vouch for: no countersignature, or over other data, or by another key."""


class AgencyModeError(RosterError):
    """An agency in production meets one that the roster lists in demo or test mode."""


class AgencyStatementError(RosterError):
    """A manifest or sealing key that its agency did not sign, or that has lapsed."""


# --- misuse --------------------------------------------------------------------------------------------------------


class UnsupportedParametersError(MisuseError):
    """Any parameter set but `sealmatch-1`."""


class LayoutSpentError(MisuseError):
    """A layout past its uses, or asked twice by one case."""


class KeyDestroyedError(MisuseError):
    """A key or seed used after `destroy()`."""
