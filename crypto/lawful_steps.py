"""What a refusal means and what may lawfully be done next: one table for all errors of other parties, one for the codes of refusals.

Broker, nodes and command line take their words from here, so that a person reads the same of the same fault wherever it shows.

Invariants: every class below `PeerError` and every `RefusalReason` has a row of its own; a name is for ever, since it stands in problem
types and scripts; no row proposes a way around a check: what is missing is asked for from whoever may give it. Rows hold fixed words, so
nothing of a message can slip into them. Left to others: the error's own text, which names the rule; HTTP status codes (`broker`); whose
fault a `MisuseError` or `LocalError` is, which no other party can mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from crypto import errors
from crypto.notices import RefusalReason


@dataclass(frozen=True)
class Explanation:
    """`name` in kebab case, for machines; `title` a few words; `step` one sentence that says what a person may do now."""

    name: str
    title: str
    step: str


_ERRORS: Final[Mapping[type[errors.PeerError], Explanation]] = MappingProxyType(
    {
        errors.PeerError: Explanation(
            "refused", "What another party sent does not hold", "Keep the refusal and ask the party that sent it to look into it."
        ),
        # --- bytes ---
        errors.EncodingError: Explanation(
            "not-our-encoding", "The bytes are not in the form of the protocol", "Have the sender check that it runs a current version."
        ),
        errors.OversizedError: Explanation(
            "oversized", "The bytes are more than the format allows", "Have the sender make it anew within the limits of the message table."
        ),
        errors.TruncatedError: Explanation("truncated", "The bytes end too early", "Have the same bytes sent again, all of them."),
        errors.VersionError: Explanation(
            "other-version", "The format is of another version or kind", "Bring both parties to the same version of the protocol."
        ),
        errors.NotCanonicalError: Explanation(
            "not-canonical",
            "The content is not spelled in its one form",
            "Send the bytes as the program wrote them; an edited file is never accepted.",
        ),
        errors.FieldError: Explanation(
            "field-invalid",
            "A field is missing, unknown, repeated or out of range",
            "Correct the field that is named and have it signed again where a signature stands over it.",
        ),
        # --- probe, answer, release ---
        errors.ProbeError: Explanation(
            "probe-unserviceable",
            "This holder may not serve the probe",
            "Make the probe anew and ask the legal reviewer for a grant for it.",
        ),
        errors.EpochError: Explanation(
            "epoch-over",
            "The probe is of a month that is served no more",
            "Encrypt the picture under the current month and ask the legal reviewer for a grant for that probe.",
        ),
        errors.ModelError: Explanation(
            "other-model",
            "Probe and gallery are of different face models",
            "Make the probe with the model that the holder's manifest names, or leave that holder out of a new grant.",
        ),
        errors.AnswerError: Explanation(
            "answer-mismatch",
            "Answer, seeds and opened scores do not belong together",
            "Leave that holder's answer out of the release and report the digests to the auditor.",
        ),
        errors.CalibrationError: Explanation(
            "calibration-failed",
            "The probe is not one encrypted face",
            "Release nothing and ask for an audit of the search; a new search needs a new probe and grant.",
        ),
        errors.ReleaseError: Explanation(
            "release-outside-grant",
            "The release breaks its grant",
            "Keep it, act on none of it, and report the combining custodian to the auditor.",
        ),
        errors.AuditError: Explanation(
            "audit-failed",
            "The search does not replay to the digests in the log",
            "Keep what was opened and take the finding to the oversight body.",
        ),
        errors.BadSignatureError: Explanation(
            "signature-invalid", "A signature does not verify", "Have it signed again with the key that the roster lists for the signer."
        ),
        # --- envelope ---
        errors.EnvelopeError: Explanation(
            "envelope-refused", "The sealed body cannot be accepted", "Have the sender seal it anew for this recipient and search."
        ),
        errors.ContextError: Explanation(
            "other-context",
            "The envelope was made for something else",
            "Have the sender seal it for this search, grant and recipient; what was sealed for another is never opened.",
        ),
        errors.SenderSignatureError: Explanation(
            "sender-signature-invalid",
            "The message is not signed by its sender's node",
            "Ask the sender by another way whether it sent this, and report the broker if it did not.",
        ),
        errors.SuiteError: Explanation(
            "suite-unknown", "The envelope is sealed with an algorithm that is not offered", "Have it sealed with a suite of the protocol."
        ),
        errors.OpeningError: Explanation(
            "seal-unopened",
            "The seal does not open",
            "Have the sender fetch this recipient's current sealing key and seal it again.",
        ),
        # --- grant ---
        errors.GrantError: Explanation(
            "grant-invalid", "The grant authorises nothing", "Ask the legal reviewer for a grant that covers this search."
        ),
        errors.GrantSignatureError: Explanation(
            "grant-signature-invalid",
            "A signature on the grant does not verify",
            "Have every signer sign the grant anew as it stands; a changed grant is a new one.",
        ),
        errors.UnknownKeyError: Explanation(
            "signer-unknown",
            "A key on the grant is not the roster's for that person and role",
            "Let a person sign whom the roster lists in that role, or have the roster updated first.",
        ),
        errors.MissingRoleError: Explanation(
            "signature-missing", "A person whom the grant names has not signed", "Pass the grant to that person for review and signature."
        ),
        errors.SamePersonError: Explanation(
            "same-person-twice",
            "One person stands in two roles of the grant",
            "Have another authorised person review it: nobody approves their own search.",
        ),
        errors.GrantExpiredError: Explanation(
            "grant-expired", "The grant has expired", "Ask the legal reviewer for a new grant; an expired one is never extended."
        ),
        errors.GrantNotYetValidError: Explanation(
            "grant-not-yet-valid", "The grant is not valid yet", "Wait until the moment from which the grant holds."
        ),
        errors.GrantAlgorithmError: Explanation(
            "grant-algorithm-refused",
            "A signature names an algorithm that its key is not listed for",
            "Sign with the key and in the way that the roster lists for that person.",
        ),
        errors.TrainingExpiredError: Explanation(
            "training-lapsed",
            "A signer's training has lapsed",
            "Let that person renew the training, or let a trained colleague sign a new grant.",
        ),
        errors.AgencyRoleError: Explanation(
            "agency-role-wrong",
            "An agency or person stands where the roster does not put them",
            "Name agencies in the roles that the roster gives them and have the new grant signed.",
        ),
        errors.CustodianError: Explanation(
            "custodian-unfit",
            "A custodian is not independent, or a holder trusts none of them",
            "Ask for a grant under a custodian of another jurisdiction that every holder's manifest names.",
        ),
        errors.CourtOrderError: Explanation(
            "order-does-not-cover",
            "The warrant or order does not cover the grant's whole life",
            "Ask for a grant that ends with the order, or ask the court for a new order.",
        ),
        errors.GrantMismatchError: Explanation(
            "grant-for-another",
            "The grant is for another probe, search or party",
            "Use the grant that names this very search, or ask the legal reviewer for one.",
        ),
        errors.GrantReasonError: Explanation(
            "reason-not-signed",
            "The grant's reason is missing or is not the one that was signed",
            "Have the requesting agency send the reason that its signers saw.",
        ),
        errors.StaleStatementError: Explanation(
            "standing-stale",
            "The legal office's word that the grant stands is too old",
            "Ask the legal office again and release only on its new answer.",
        ),
        # --- log ---
        errors.LogError: Explanation(
            "log-proof-invalid", "A proof about the public log does not hold", "Stop, keep the proof, and ask the witnesses what they see."
        ),
        errors.InclusionError: Explanation(
            "not-in-log", "The entry is not in the log", "Wait until it is entered and cosigned: without a log entry nothing is done."
        ),
        errors.AbsenceError: Explanation(
            "absence-not-proven",
            "What is shown does not prove that the gallery lacks the record",
            "Take the record for held, and ask the holder for another proof.",
        ),
        errors.ConsistencyError: Explanation(
            "log-fork",
            "Two checkpoints show two histories of the log",
            "Stop, keep both checkpoints as evidence, and report them to the witnesses and the oversight body.",
        ),
        errors.CheckpointError: Explanation(
            "checkpoint-invalid", "The checkpoint is not this log's", "Fetch the newest checkpoint again, and report one that stays wrong."
        ),
        errors.WitnessError: Explanation(
            "witnesses-missing",
            "Too few independent witnesses signed the checkpoint",
            "Wait for the witnesses, and ask one that is silent.",
        ),
        errors.StaleCheckpointError: Explanation(
            "checkpoint-stale", "The checkpoint is too old for this step", "Fetch a checkpoint that the witnesses signed just now."
        ),
        errors.CommitmentError: Explanation(
            "opening-mismatch",
            "An opened field is not the one that the log commits to",
            "Ask for the opening that belongs to the entry, and report an author who has none.",
        ),
        errors.MirrorError: Explanation(
            "mirror-behind",
            "This node's copy of the log does not reach or match the checkpoint",
            "Let the node read the log to its end; if it still differs, stop and report a fork.",
        ),
        errors.UnloggedRosterError: Explanation(
            "roster-not-logged",
            "The log does not hold the roster that is trusted here as its last one",
            "Have the broker's operator install the newest roster, which enters it; until then nothing is done.",
        ),
        errors.RevokedError: Explanation(
            "grant-revoked",
            "The grant was revoked or has lapsed",
            "End the search and delete what it produced; only a new grant can allow another.",
        ),
        errors.TileError: Explanation(
            "tile-mismatch",
            "A tile of the log is not what its entries give",
            "Export the log again; if it stays so, keep the files and report whoever handed them out.",
        ),
        errors.EntryOrderError: Explanation(
            "entry-order",
            "Entries of the log cannot stand where they stand",
            "Keep the bundle, and ask the log's operator and the authors of these entries how they came there.",
        ),
        errors.EvidenceError: Explanation(
            "evidence-mismatch",
            "What a party shows of its acts does not go with the log",
            "Ask the party for evidence made anew, and report what it still leaves out.",
        ),
        # --- roster ---
        errors.RosterError: Explanation(
            "roster-refused",
            "The roster cannot be trusted",
            "Keep the one that is trusted and ask an agency with a root key for the right one.",
        ),
        errors.RosterPinError: Explanation(
            "roster-other-root",
            "The roster is of another root set than the one pinned here",
            "Compare the fingerprint with a root agency by telephone, never through the broker.",
        ),
        errors.RosterSignatureError: Explanation(
            "roster-signature-invalid", "A root signature on the roster does not verify", "Have that root agency sign this version again."
        ),
        errors.RosterThresholdError: Explanation(
            "roster-signatures-missing", "Too few root agencies signed the roster", "Have the missing root agencies review and sign it."
        ),
        errors.RosterRollbackError: Explanation(
            "roster-older",
            "The roster is older than the one trusted here",
            "Install the newest version; there is no way back to an older one.",
        ),
        errors.RosterForkError: Explanation(
            "roster-fork",
            "Two rosters of one version differ",
            "Stop, keep both as evidence, and report them to all root agencies.",
        ),
        errors.RosterExpiredError: Explanation(
            "roster-expired",
            "The roster has expired",
            "Ask the root agencies for a new version and install it; until then nothing is served.",
        ),
        errors.UnknownAgencyError: Explanation(
            "agency-unknown",
            "The roster does not list the agency in that role",
            "Name an agency that it lists, or have this one admitted by the root agencies.",
        ),
        errors.CountersignatureError: Explanation(
            "reviewer-not-countersigned",
            "A reviewer's key in the roster is not countersigned by its legal office",
            "Have the head of that legal office countersign the person's entry, and draft and sign the roster anew.",
        ),
        errors.AgencyModeError: Explanation(
            "agency-not-in-production",
            "An agency in production deals with none in demo or test mode",
            "Have the agency in demo or test mode clear what its preflight lists and be listed in production, or leave it out.",
        ),
        errors.AgencyStatementError: Explanation(
            "statement-invalid",
            "An agency's manifest, key or receipt is missing, lapsed or not its own",
            "Have that agency publish a newly signed one.",
        ),
    }
)

_REFUSALS: Final[Mapping[RefusalReason, Explanation]] = MappingProxyType(
    {
        RefusalReason.MALFORMED: Explanation(
            "malformed",
            "The message could not be read",
            "Check that both nodes run current versions; its recipient's ledger says what was wrong.",
        ),
        RefusalReason.ROSTER: Explanation(
            "roster", "The sender or the roster is not trusted there", "Compare roster versions with that party and install the newest."
        ),
        RefusalReason.GRANT: Explanation(
            "grant", "The grant authorises nothing there", "Have the legal reviewer check the grant and issue a correct one."
        ),
        RefusalReason.GRANT_NOT_IN_FORCE: Explanation(
            "grant-not-in-force",
            "The grant is not valid yet, or no more",
            "Wait for its first moment, or ask the legal reviewer for a new grant.",
        ),
        RefusalReason.REVOKED: Explanation(
            "revoked",
            "The grant was taken back or has lapsed",
            "End the search; ask the legal office why before anything new is requested.",
        ),
        RefusalReason.REPLAYED: Explanation(
            "replayed",
            "The grant, probe or picture commitment was used before",
            "Ask for a new grant with a newly encrypted probe: one grant is for one search.",
        ),
        RefusalReason.POLICY: Explanation(
            "policy",
            "A rule of the jurisdiction's policy forbids it",
            "Read the numbered rule and ask the legal reviewer for a grant that meets it, or leave this party out.",
        ),
        RefusalReason.CUSTODIAN: Explanation(
            "custodian", "The custodians are not acceptable there", "Ask for a grant under custodians that this holder's manifest trusts."
        ),
        RefusalReason.CHECKPOINT: Explanation(
            "checkpoint",
            "The log does not yet show there what the step needs",
            "Wait until the entry is in a freshly cosigned checkpoint and send it again.",
        ),
        RefusalReason.FORK: Explanation(
            "fork", "That party saw two histories of the log", "Stop, compare checkpoints with it, and report both to the witnesses."
        ),
        RefusalReason.EPOCH: Explanation(
            "epoch", "The probe's month is served no more", "Encrypt the picture under the current month and have it granted anew."
        ),
        RefusalReason.MODEL: Explanation(
            "model", "The gallery is of another face model", "Ask again with that holder's model, under a grant that names it."
        ),
        RefusalReason.BUDGET: Explanation(
            "budget",
            "The holder's budget of searches is used up for now",
            "Wait until 00:00 UTC, when the holder's next day begins, and have the search granted for then: a grant is good for one try.",
        ),
        RefusalReason.CALIBRATION: Explanation(
            "calibration", "The probe is not one face of ordinary size", "Expect an audit; a new search needs a new probe and a new grant."
        ),
        RefusalReason.ANSWER: Explanation(
            "answer", "Parts of the search do not belong together", "Have the holder look into it; its answer is left out of the release."
        ),
        RefusalReason.RELEASE: Explanation(
            "release", "The release breaks the grant", "Act on none of it and report the combining custodian to the auditor."
        ),
        RefusalReason.LATE: Explanation(
            "late", "The deadline has passed", "Take the release as it is; another search needs another grant."
        ),
        RefusalReason.WITHDRAWN: Explanation(
            "withdrawn", "The search was withdrawn", "Do nothing more for it and delete what it produced."
        ),
        RefusalReason.UNAVAILABLE: Explanation(
            "unavailable", "That party cannot serve now", "Send the same message again later, while the grant is in force."
        ),
        RefusalReason.MODE: Explanation(
            "mode",
            "One of the two nodes is in production and the other is in demo or test mode",
            "Clear what the preflight of the node lists, and ask the root holders to list the agency in production.",
        ),
    }
)


def explain(error: errors.PeerError | type[errors.PeerError]) -> Explanation:
    """The row of the error's class, or of the nearest class above it."""
    kind = error if isinstance(error, type) else type(error)
    return next(_ERRORS[parent] for parent in kind.__mro__ if parent in _ERRORS)


def explain_refusal(reason: RefusalReason) -> Explanation:
    """What a refusal's code means to the party that was refused."""
    return _REFUSALS[reason]
