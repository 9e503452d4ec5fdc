"""What keeps a node from production, each with who or what clears it; a node in mode production starts only when nothing is left.

Checked is what the program can see: node.toml, the pinned roster, the policy packs, signed statements, and what lies in the node's folder.
Whether the posted policy is a good one, or two persons are really two, no program sees; the responsible officer answers for that (R16).

Invariants: nothing here changes the node but the roster, which is fetched anew where the broker can be reached; what cannot be checked
blocks. Left to others: that agencies in production deal with none that is not (`crypto.roster.check_modes`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from agency_node.config import Mode, Role
from agency_node.errors import BrokerError, ConfigError
from agency_node.legal.evaluation import evaluation_in_force
from agency_node.legal.persons import MAX_FILE_BYTES, KeyKind, has_passphrase, kind_of_key
from agency_node.node import Node, open_node
from agency_node.policy.approvals import unapproved
from agency_node.policy.engine import load_packs
from crypto.errors import PeerError
from crypto.moments import utc_day
from crypto.roster import Roster
from crypto.roster_entries import AgencyMode, AgencyRole, PersonRole

NOTICE: Final = timedelta(days=30)
"""From the public notice to the first search (R17)."""


@dataclass(frozen=True)
class Blocker:
    """One thing that blocks production: its name, its rule (`-` for none of POLICY.md), what is so, and who or what clears it."""

    name: str
    rule: str
    says: str
    cleared_by: str


def find_blockers(node: Node) -> list[Blocker]:
    """Everything that blocks this node, in the order in which it is best cleared; empty when production may begin."""
    now = node.clock()
    try:
        roster: Roster | None = node.parties.roster()
    except (ConfigError, PeerError):
        roster = None
    found = [*_settings(node), *_packs(node, now), *_public_basis(node, now), *_keys(node)]
    if roster is None:
        says = "no roster in force was pinned: nothing of what root holders answer for can be checked"
        found.append(
            Blocker("no-roster", "R16", says, "the root holders: a roster that lists this agency; then let the node reach its broker")
        )
    else:
        found += [
            *_approvals(node, roster),
            *_listed(node, roster),
            *_persons(node, roster),
            *_custodians(node, roster),
            *_evaluation(node, roster, now),
        ]
    return found


def fetch_roster(node: Node) -> None:
    """Pin or refresh the roster, if the broker can be reached; what the broker says wrong changes nothing."""

    async def fetch() -> None:
        try:
            with contextlib.suppress(BrokerError, PeerError):
                await node.parties.refresh()
        finally:
            await node.transport.close()

    asyncio.run(fetch())


def check_production(folder: Path, clock: Callable[[], datetime]) -> None:
    """Raise `ConfigError` with everything that blocks, if the node in that folder is in mode production and something does."""
    node = open_node(folder, clock)
    if node.config.mode is not Mode.PRODUCTION:
        return
    fetch_roster(node)
    blockers = find_blockers(node)
    node.engine.dispose()
    if blockers:
        listed = "; ".join(f"{one.name} ({one.rule}): {one.says}" for one in blockers)
        raise ConfigError(f"this node does not serve in production while {listed}. `sealmatch node preflight` says who clears each")


def _settings(node: Node) -> Iterator[Blocker]:
    config = node.config
    if config.mode is not Mode.PRODUCTION:
        yield Blocker(
            "mode",
            "-",
            f"node.toml says mode {config.mode.value}: demonstration keys and records are permitted",
            'mode = "production" in node.toml',
        )
    if not config.broker.startswith("https://"):
        yield Blocker("broker-without-tls", "R46", "the broker is dialled over http", "an https address as `broker` in node.toml")
    if config.embedder.startswith("synthetic-"):
        yield Blocker(
            "synthetic-model", "R63", "the face model is synthetic", "a face model as `embedder` in node.toml, and enrolment anew"
        )
    if Role.CUSTODIAN in config.roles and not config.calibration.file:
        says = "without a measured calibration table thresholds are synthetic and would not hold for faces"
        yield Blocker(
            "synthetic-calibration", "R33", says, "who measures the model: a table of real faces, named under [calibration] in node.toml"
        )


def _packs(node: Node, now: datetime) -> Iterator[Blocker]:
    for pack in load_packs(node.config.policy_packs):
        if not pack.verified:
            says = f"the policy pack {pack.name} is our reading of the law, and no counsel has signed for it"
            yield Blocker("pack-not-verified", "R1", says, "the agency's counsel, who reads the pack against the law and signs for it")
        if pack.review_by < utc_day(now):
            says = f"the policy pack {pack.name} was to be read again by {pack.review_by.isoformat()}"
            yield Blocker("pack-review-overdue", "R1", says, "the agency's counsel, who reads law and pack again")


def _approvals(node: Node, roster: Roster) -> Iterator[Blocker]:
    """A pack is nobody's by itself: two persons answer for its very hash, one of another agency."""
    for pack in unapproved(node.folder, load_packs(node.config.policy_packs), node.agency, roster):
        says = f"no two persons, one of another agency, have signed for the policy pack {pack.name} as it is, {pack.sha256.hex()[:12]}"
        clears = "a reviewer or officer here and one of another agency: sealmatch policy approve; then sealmatch policy adopt"
        yield Blocker("pack-not-approved", "-", says, clears)


def _public_basis(node: Node, now: datetime) -> Iterator[Blocker]:
    posted, approval, today = node.config.posted_policy, node.config.approval, utc_day(now)
    officer = "the responsible officer: [posted_policy] with url, sha256, notice_given and first_search in node.toml"
    if posted is None:
        yield Blocker("no-posted-policy", "R17", "node.toml names no policy that the public can read", officer)
    elif posted.first_search < posted.notice_given + NOTICE:
        says = f"the first search would be less than {NOTICE.days} days after the public notice"
        yield Blocker("notice-too-short", "R17", says, "the responsible officer: a later first_search in [posted_policy]")
    elif today < posted.first_search:
        yield Blocker(
            "notice-runs", "R17", f"the public was told that nothing is searched before {posted.first_search.isoformat()}", "time"
        )
    if approval is None:
        clears = "the body that decides over the agency; then [approval] with body, sha256 and expires in node.toml"
        yield Blocker("no-approval", "R18", "node.toml names no document by which a public body approved", clears)
    elif approval.expires < today:
        says = f"the approval ended on {approval.expires.isoformat()}"
        yield Blocker("approval-expired", "R18", says, f"{approval.body}, by a new approval; then [approval] in node.toml")


def _keys(node: Node) -> Iterator[Blocker]:
    """Persons' keys belong to the persons: one in this folder is at the administrator's hand, one without passphrase at anybody's.

    A legal office's key makes reviewers, so that one here would let the administrator name who approves (R5).
    """
    for path in sorted(node.folder.rglob("*")):
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            continue
        protected = has_passphrase(path)
        if kind_of_key(path) is KeyKind.OFFICE:
            says = f"{path.relative_to(node.folder)} is a legal office's key in the node's folder: the administrator could make reviewers"
            clears = "the head of the legal office, who takes it away and makes a new key, and the root holders, who list it"
            yield Blocker("office-key", "R5", says, clears)
        elif protected is not None:
            says = f"{path.relative_to(node.folder)} is a person's key{'' if protected else ' without a passphrase'} in the node's folder"
            yield Blocker("demonstration-key", "R47", says, "the person, who takes it away, makes a new key and has the roster list it")


def _listed(node: Node, roster: Roster) -> Iterator[Blocker]:
    listed = next((one for one in roster.agencies if one.agency_id == node.agency), None)
    if listed is None:
        yield Blocker("not-in-roster", "R16", "the roster does not list this agency", "the root holders, with roster-entry.json")
        return
    if listed.mode is not AgencyMode.PRODUCTION:
        says = f"the roster lists this agency in mode {listed.mode.value}: agencies in production refuse it"
        yield Blocker("listed-out-of-production", "-", says, "the root holders, when everything else is cleared")
    if not any(credential.role is PersonRole.OFFICER for person in listed.persons for credential in person.credentials):
        says = "nobody holds the responsible officer's key: the officer is a name, and signs for nothing"
        clears = "the responsible officer: sealmatch person init --role officer; then the root holders"
        yield Blocker("no-responsible-officer", "R16", says, clears)


def _persons(node: Node, roster: Roster) -> Iterator[Blocker]:
    administrator = node.config.administrator
    if not administrator:
        says = "node.toml does not name who administers this machine"
        yield Blocker("no-administrator", "R5", says, "the responsible officer: `administrator` in node.toml, the person's id")
        return
    roles = {
        credential.role
        for agency in roster.agencies
        for person in agency.persons
        if person.person_id == administrator
        for credential in person.credentials
    }
    if PersonRole.REVIEWER in roles:
        says = "the administrator of this machine is a legal reviewer: one person could change what that person reviews"
        yield Blocker("administrator-is-reviewer", "R5", says, "the responsible officer: another administrator, or another reviewer")


def _custodians(node: Node, roster: Roster) -> Iterator[Blocker]:
    own = next((one.jurisdiction for one in roster.agencies if one.agency_id == node.agency), None)
    custodians = [one for one in roster.agencies if AgencyRole.CUSTODIAN in one.roles]
    clears = "the root holders and the agencies: a custodian of another jurisdiction"
    if Role.REQUESTER in node.config.roles and all(one.jurisdiction == own for one in custodians):
        says = "every custodian in the roster is of this agency's own jurisdiction: none may serve its searches"
        yield Blocker("own-custodian", "R5", says, clears)
    trusted = set(node.config.trusted_custodians)
    for one in custodians:
        if one.agency_id in trusted and one.jurisdiction == own:
            says = f"this holder trusts {one.agency_id}, a custodian of its own jurisdiction"
            yield Blocker("own-custodian", "R5", says, f"{clears} in `trusted_custodians`")
    if {Role.REQUESTER, Role.CUSTODIAN} <= set(node.config.roles):
        yield Blocker(
            "own-custodian", "R5", "this node asks for searches and is a custodian", "one of the two roles taken out of node.toml"
        )


def _evaluation(node: Node, roster: Roster, now: datetime) -> Iterator[Blocker]:
    clears = "who tested the model: sealmatch node evaluated DIR REPORT --on DAY --person KEY"
    if node.config.embedder.startswith("synthetic-"):
        return
    model_hash = node.embedder().model.model_hash
    try:
        in_force = evaluation_in_force(node.engine, roster, node.agency, model_hash, now)
    except PeerError:
        in_force = False
    if not in_force:
        says = "no signed statement of the last twelve months says that this model was tested in this agency's conditions"
        yield Blocker("no-local-evaluation", "R63", says, clears)
