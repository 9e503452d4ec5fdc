"""Witnesses: who cosigns a checkpoint, under which check, and when a checkpoint counts for an act of a search (PROTOCOL 5).

A cosignature (`cosignature/v1` of C2SP's tlog-cosignature) says: "as of this time, this is the largest tree that I saw of this log, and
it continues the one before". A head counts only with a majority of the roster's witnesses, the log operator's own not counted for it: any
two majorities have a witness in common, who would have to sign both sides of a fork, and is not the operator's.

Invariants: `cosign` signs nothing that does not continue what the witness signed before; what `check_checkpoint` lets pass was signed by
the log and seen, within the allowed age, by that majority, by outside witnesses of distinct agencies, a custodian of the search and one
that is neither requester nor holder among them. The signed text does not name the witness (tlog-cosignature, "Ed25519 signed message"), so
one public key must never stand for two: the policy refuses. The log's own text cannot pass for a cosigned one, whose second line begins
with `time`.

Left to others: whose key is whose (`roster`), storing the last checkpoint that a witness signed (services), reading the log to its end
(`mirror`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from crypto.canonical import AgencyId
from crypto.checkpoint import (
    Checkpoint,
    LogKey,
    NoteSignature,
    SignedCheckpoint,
    check_continues,
    check_key_name,
    check_log_signature,
    key_id,
    signature_line,
)
from crypto.errors import BadSignatureError, MisuseError, StaleCheckpointError, WitnessError
from crypto.keys import SigningKey, VerifyingKey
from crypto.moments import check_now

MAX_AGE_S: Final = 600
"""Seconds since a cosignature, at most, for scan, release, stubs and disclosure (PROTOCOL 5)."""
MAX_CLOCK_SKEW_S: Final = 60
"""Seconds that a witness's clock may be ahead of ours; a cosignature from further ahead counts for nothing."""
MIN_WITNESSES: Final = 2
COSIGNATURE_V1: Final = 0x04
"""Signature type of a timestamped Ed25519 cosignature (tlog-cosignature)."""

_TIMESTAMP_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness: key name, public key and the agency that answers for it."""

    name: str
    key: VerifyingKey
    agency: AgencyId

    def __post_init__(self) -> None:
        check_key_name(self.name)


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """What a party asks of a checkpoint before it acts on it; built from the roster and one grant.

    `operator` runs the log: its own witness counts for nothing. `parties` are the requesting agency, and the originating one where it is
    another, `holders` and `custodians` those of the search; a reader who looks at the whole log and at no search gives none and takes every
    witness for a custodian. `MisuseError` for a rule laxer than PROTOCOL 5 or a roster in which one key stands for two witnesses or for the
    log and a witness.
    """

    log: LogKey
    witnesses: tuple[WitnessKey, ...]
    operator: AgencyId
    parties: frozenset[AgencyId]
    holders: frozenset[AgencyId]
    custodians: frozenset[AgencyId]
    quorum: int = MIN_WITNESSES
    max_age_s: int = MAX_AGE_S

    def __post_init__(self) -> None:
        if self.quorum < MIN_WITNESSES:
            raise MisuseError(f"a checkpoint needs {MIN_WITNESSES} witnesses or more")
        if not 0 < self.max_age_s <= MAX_AGE_S:
            raise MisuseError(f"a checkpoint's age is limited to {MAX_AGE_S} s or less")
        keys = {self.log.key, *(witness.key for witness in self.witnesses)}
        if len(keys) != 1 + len(self.witnesses):
            raise MisuseError("one public key stands for two witnesses, or for the log and a witness")

    @property
    def majority(self) -> int:
        """More than half of the agencies that have a witness, the operator among them: two such sets have one in common."""
        return len({witness.agency for witness in self.witnesses}) // 2 + 1

    @property
    def least_lines(self) -> int:
        """Cosignatures without which no head can count: how many to wait for."""
        return max(self.quorum, self.majority)

    def shortfall(self, agencies: frozenset[AgencyId]) -> str | None:
        """What cosignatures of these agencies' witnesses lack to count; None when they do."""
        counted = agencies - {self.operator}
        outside = counted - self.parties
        if len(outside) < self.quorum:
            return f"checkpoint has cosignatures of {len(outside)} outside agencies, {self.quorum} are needed"
        if len(counted) < self.majority:
            return f"checkpoint has cosignatures of {len(counted)} agencies, {self.majority} are a majority of the roster's witnesses"
        if not self.custodians & outside:
            return "no custodian of the search cosigned the checkpoint"
        if not outside - self.holders:
            return "no witness cosigned the checkpoint that is neither requester nor holder of the search"
        return None


def cosign(
    note: SignedCheckpoint,
    *,
    log: LogKey,
    previous: Checkpoint,
    proof: Sequence[bytes],
    witness: WitnessKey,
    key: SigningKey,
    now: datetime,
) -> NoteSignature:
    """The cosignature of `witness` over `note`, after these checks in this order:

    1. the note is of `log` and bears its signature (`CheckpointError`);
    2. it continues `previous`, the last checkpoint that this witness signed (`Checkpoint.empty` before the first), by the consistency
       `proof` (`ConsistencyError`, `CheckpointError` for another log's).

    HAZARD: the caller reads `previous` and writes the new checkpoint in one transaction, before the cosignature leaves the process; two
    threads that both read the same `previous` can cosign a fork. `now` is an aware datetime after 1970, `key` the secret half of
    `witness` (`MisuseError`).
    """
    time_s = int(_posix_seconds(now))
    if key.verifying_key != witness.key:
        raise MisuseError("signing key is not the witness's")
    # 1
    check_log_signature(note, log)
    # 2
    check_continues(previous, note.checkpoint, proof)
    signature = key.sign(_cosigned_message(time_s, note.checkpoint))
    identity = key_id(witness.name, COSIGNATURE_V1, witness.key)
    return NoteSignature(witness.name, identity, time_s.to_bytes(_TIMESTAMP_BYTES, "big") + signature)


def check_checkpoint(note: SignedCheckpoint, policy: CheckpointPolicy, *, now: datetime) -> None:
    """Raises unless `note` counts for an act of a search, after these checks in this order:

    1. it is of the policy's log and bears its signature (`CheckpointError`);
    2. every line that names a known witness key verifies; one that does not spoils the note (`WitnessError`);
    3. none of the lines that count is from the future, and the witnesses are enough (`WitnessError`): `quorum` distinct agencies outside
       operator and parties; a majority of the roster's witnesses, the operator's left out; a custodian of the search; one that is neither
       party nor holder;
    4. 3 holds among cosignatures not older than `max_age_s` (`StaleCheckpointError`).

    `now` is an aware datetime, the caller's clock. Whether the checkpoint continues the caller's own is `check_continues`, whether it
    holds a revocation is `LogMirror.check_not_revoked`; an act needs all three.
    """
    now_s = _posix_seconds(now)
    # 1
    check_log_signature(note, policy.log)
    # 2
    latest: dict[AgencyId, int] = {}
    for witness in policy.witnesses:
        time_s = cosigned_at(note, witness)
        if time_s is not None and time_s <= now_s + MAX_CLOCK_SKEW_S:
            latest[witness.agency] = max(time_s, latest.get(witness.agency, time_s))
    # 3
    lacks = policy.shortfall(frozenset(latest))
    if lacks is not None:
        raise WitnessError(lacks)
    # 4
    if policy.shortfall(frozenset(agency for agency, time_s in latest.items() if now_s - time_s <= policy.max_age_s)) is not None:
        raise StaleCheckpointError(f"checkpoint lacks a quorum of cosignatures of the last {policy.max_age_s} s")


def cosigned_at(note: SignedCheckpoint, witness: WitnessKey) -> int | None:
    """POSIX seconds of the witness's cosignature, None if there is none; `WitnessError` for one that does not verify."""
    line = signature_line(note, witness.name, key_id(witness.name, COSIGNATURE_V1, witness.key))
    if line is None:
        return None
    time_s = int.from_bytes(line.signature[:_TIMESTAMP_BYTES], "big")
    try:
        witness.key.check(line.signature[_TIMESTAMP_BYTES:], _cosigned_message(time_s, note.checkpoint))
    except BadSignatureError as error:
        raise WitnessError("a witness's cosignature does not verify") from error
    return time_s


def _cosigned_message(time_s: int, checkpoint: Checkpoint) -> bytes:
    return b"cosignature/v1\ntime %d\n" % time_s + checkpoint.body()


def _posix_seconds(now: datetime) -> float:
    check_now(now)
    seconds = now.timestamp()
    if seconds < 0:
        raise MisuseError("`now` lies before 1970")
    return seconds
