"""Who answers for a pack: approvals in a node's folder, made by two persons, and the packs of a node that none stands for (engine rule 4).

    DIR/approvals/HASH.json      the approval of the pack of that hash, as its signers signed it

A node decides by a pack only if an approval of its very hash stands there; the delivered strict default needs none, because it is what
everybody starts from, and it is known by its hash. So a pack whose folder was changed by one letter, or exchanged, does not serve: the
administrator of the machine has no reviewer's key, and none of another agency. Approvals are read against the pinned roster each time: when
a signer leaves the roster, or changes agencies, the pack is approved anew.

HAZARD: who can change this program can take the check out of it; a node's own checks bind its administrator as far as the program does.
What the other parties of a search decide, no hand at this node changes.

Left to others: the document (`crypto.pack_approval`), deciding (`engine`), the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Engine

from agency_node.config import Mode, NodeConfig
from agency_node.errors import ConfigError, RequestError
from agency_node.journal import NO_SEARCH, Told, record
from agency_node.legal.persons import PersonKey
from agency_node.outbox import Outbox
from agency_node.policy.engine import PolicyPack, load_packs
from crypto.canonical import AgencyId
from crypto.errors import PeerError
from crypto.moments import round_moment
from crypto.pack_approval import MAX_APPROVAL_BYTES, PackApproval, SignedApproval, add_approval_signature, read_approval, verify_approval
from crypto.roster import Roster

if TYPE_CHECKING:
    from agency_node.node import Node

APPROVALS: Final = "approvals"
STRICT_DEFAULT_SHA256: Final = "2935bb46b3926f412aef5290bcd6ea825cad4aaa681874927e30b6a296852116"
"""Of the delivered strict default; a test compares it with the folder."""


def approve(pack: PolicyPack, agency: AgencyId, person: PersonKey, roster: Roster, now: datetime, begun: bytes = b"") -> bytes:
    """The approval of a pack for an agency with this person's signature on it, as the first or upon those of `begun`. In this order:

    1. what was begun is of this agency and of this very pack (`RequestError`)
    2. the person's training has not lapsed (R14, `TrainingExpiredError`)
    3. the whole reads (`read_approval`: a reviewer or officer, another person than who signed before)
    """
    if begun:
        said = read_approval(begun, roster).approval
        if (said.agency, said.pack, said.pack_sha256) != (agency, pack.name, pack.sha256):  # 1
            raise RequestError("the approval that was begun is of another pack or agency: begin a new one without it")
    roster.signatory(person.key_id).person.check_trained(now)  # 2
    if begun:
        return add_approval_signature(begun, person.signing_key, roster)  # 3
    document = PackApproval(agency, pack.name, pack.sha256, round_moment(now)).sign(person.signing_key)
    read_approval(document, roster)
    return document


def adopt(engine: Engine, outbox: Outbox, folder: Path, agency: AgencyId, roster: Roster, document: bytes, now: datetime) -> SignedApproval:
    """Keep a whole approval in the node's folder; the ledger has a row of it, and the serving node enters it into the log.

    1. two persons signed, one of this agency and one of another (`verify_approval`)
    2. it is this agency's (`RequestError`), and none of this pack stands here already (`RequestError`)
    """
    signed = verify_approval(document, roster)  # 1
    approval = signed.approval
    if approval.agency != agency:  # 2
        raise RequestError(f"this approval is {approval.agency}'s: it is adopted at that agency's node")
    path = _path(folder, approval.pack_sha256)
    if path.exists() and path.read_bytes() == document:
        raise RequestError("this approval was adopted before: there is nothing to do")
    persons = " ".join(str(one.person.person_id) for one in signed.signatories)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with engine.begin() as connection:
        said: Told = {"subject": f"pack {approval.pack} {approval.pack_sha256.hex()}"}
        record(connection, now, NO_SEARCH, "pack adopted", f"signed by {persons}", **said)
        outbox.pack_change(connection, approval.pack_sha256, document)
        path.write_bytes(document)  # last: a row without its file is adopted again, a file without its row would serve unseen
    return signed


def approval_of(folder: Path, pack: PolicyPack, agency: AgencyId, roster: Roster) -> SignedApproval | None:
    """The approval by which a node decides by this pack; None when there is none that holds under the roster."""
    try:
        with _path(folder, pack.sha256).open("rb") as file:
            signed = verify_approval(file.read(MAX_APPROVAL_BYTES + 1), roster)
    except (OSError, PeerError):
        return None
    said = signed.approval
    return signed if (said.agency, said.pack, said.pack_sha256) == (agency, pack.name, pack.sha256) else None


def unapproved(folder: Path, packs: Sequence[PolicyPack], agency: AgencyId, roster: Roster) -> list[PolicyPack]:
    """Those of a node's own packs that nobody has signed for."""
    return [pack for pack in packs if pack.sha256.hex() != STRICT_DEFAULT_SHA256 and approval_of(folder, pack, agency, roster) is None]


def check_approved(config: NodeConfig, folder: Path, packs: Sequence[PolicyPack], roster: Roster) -> None:
    """Raise `ConfigError` if a node that is no demonstration would decide by a pack that two persons have not signed for."""
    if config.mode is Mode.DEMO:
        return
    found = unapproved(folder, packs, config.agency_id, roster)
    if found:
        named = ", ".join(f"{pack.name} {pack.sha256.hex()[:12]}" for pack in found)
        raise ConfigError(
            f"no approval by two persons, one of another agency, stands in this node's folder for the pack {named}, and without one a node "
            "does not decide by it: `sealmatch policy approve` makes one, `sealmatch policy adopt` keeps it"
        )


def packs_in_force(node: Node) -> tuple[PolicyPack, ...]:
    """The packs that a node's commands decide by: what node.toml names, each approved as it is (`ConfigError`)."""
    packs = load_packs(node.config.policy_packs)
    if any(pack.sha256.hex() != STRICT_DEFAULT_SHA256 for pack in packs):  # else there is nothing that the roster's persons sign for
        check_approved(node.config, node.folder, packs, node.parties.roster())
    return packs


def _path(folder: Path, pack_sha256: bytes) -> Path:
    return folder / APPROVALS / f"{pack_sha256.hex()}.json"
