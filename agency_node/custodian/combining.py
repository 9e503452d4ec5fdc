"""The custodian's one moment with scores: everything of a search is opened, unmasked, released and destroyed in one call.

Pure in what it is given: no store, no clock, no network. Invariants: every holder of the grant ends in exactly one outcome; scores are
overwritten before the call returns, whichever way it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from agency_node.envelopes import Envelopes
from agency_node.grants import HeldGrant
from crypto.answer import MaskShare
from crypto.bodies import MaskHandover, OpenedBody
from crypto.canonical import AgencyId
from crypto.embedding import EmbeddingModel
from crypto.errors import AnswerError, CalibrationError, PeerError
from crypto.grant_claims import GrantClaims
from crypto.impostors import ImpostorTable
from crypto.manifest import GalleryManifest
from crypto.messages import AnyMessage, Message
from crypto.parameters import Scales
from crypto.release import HolderOutcome, HolderScores, Outcome, Release, ReleaseTerms, release, release_nothing, unmask
from crypto.roster import Roster


@dataclass(frozen=True)
class Custody:
    """What came for a release, by holder: sealed shares by custodian, sealed opened values to be fetched, refusals as `code:rule`."""

    shares: Mapping[AgencyId, Mapping[AgencyId, bytes]] = field(repr=False)
    opened: Mapping[AgencyId, Callable[[], AnyMessage]] = field(repr=False)
    refusals: Mapping[AgencyId, str]
    at_hand: Mapping[AgencyId, OpenedBody] = field(default_factory=dict, repr=False)
    """Opened values that need not be opened once more: their messages are among `opened`."""

    @classmethod
    def of(cls, rows: Sequence[Any], fetch: Callable[[str, bytes], AnyMessage], at_hand: Mapping[AgencyId, OpenedBody]) -> Self:
        """From the rows of table `custody_parts`; `fetch` gives the message of an id and what stands in `data`."""
        shares: dict[AgencyId, dict[AgencyId, bytes]] = {}
        for row in rows:
            if row.kind == "share":
                shares.setdefault(AgencyId(row.holder), {})[AgencyId(row.custodian)] = row.data
        opened = {AgencyId(row.holder): partial(fetch, row.message_id, row.data) for row in rows if row.kind == "opened"}
        refusals = {AgencyId(row.holder): row.note for row in rows if row.kind == "refusal"}
        return cls(shares, opened, refusals, at_hand)

    def is_whole(self, holder: AgencyId, claims: GrantClaims) -> bool:
        """Whether everything of that holder's answer is here."""
        return holder in self.opened and set(self.shares.get(holder, {})) == set(claims.custodians)

    def is_complete(self, claims: GrantClaims) -> bool:
        """Whether nothing more can come."""
        return all(holder in self.refusals or self.is_whole(holder, claims) for holder in claims.holders)


@dataclass(frozen=True)
class Outcomes:
    """A release, and what the custodian keeps of it: no score."""

    release: Release
    alarms: Mapping[AgencyId, Sequence[str]]
    calibration_failed: bool

    @property
    def alarms_text(self) -> str:
        """`holder:alarm,alarm;…`, empty when there is none."""
        return ";".join(f"{holder}:{','.join(names)}" for holder, names in sorted(self.alarms.items()) if names)

    @property
    def note(self) -> str:
        """One line for the journal."""
        counts = [f"{one.holder} {one.outcome.name.lower()}" for one in self.release.to_requester.holders]
        return f"{len(self.release.to_requester.leads)} leads; " + ", ".join(counts)


def combine(
    held: HeldGrant,
    taken: Custody,
    manifests: Mapping[AgencyId, GalleryManifest],
    model: EmbeddingModel,
    table: ImpostorTable,
    envelopes: Envelopes,
    roster: Roster,
) -> Outcomes:
    """Open, unmask and release a search, with the threshold that `table` gives for the sum of the galleries that answered (R33).

    A holder whose parts do not fit together is `REJECTED`, one that sent nothing in time `SILENT`, one that said no `REFUSED`. When every
    holder's calibration chunk shows a probe that is not one unit vector, nothing is released and the search is refused.
    """
    claims = held.claims
    scores: list[HolderScores] = []
    missing: dict[AgencyId, HolderOutcome] = {}
    uncalibrated = 0
    try:
        for holder in claims.holders:
            if not taken.is_whole(holder, claims):
                missing[holder] = _absent(holder, taken)
                continue
            try:
                scores.append(_unmasked(held, holder, taken, manifests[holder], envelopes, roster, model.scales))
            except CalibrationError:
                uncalibrated += 1
                missing[holder] = HolderOutcome(holder, Outcome.REJECTED)
            except PeerError:
                missing[holder] = HolderOutcome(holder, Outcome.REJECTED)
        if not scores:
            return Outcomes(release_nothing(_terms(held), missing), {}, uncalibrated > 0)
        alarms = {one.holder: _alarm_names(one, table, model.scales) for one in scores}
        return Outcomes(release(_terms(held), table, scores, missing=missing), alarms, False)
    finally:
        for one in scores:
            one.destroy()


def _terms(held: HeldGrant) -> ReleaseTerms:
    return ReleaseTerms(held.digest, held.claims.cap, held.claims.false_positives_per_million)


def _absent(holder: AgencyId, taken: Custody) -> HolderOutcome:
    if holder not in taken.refusals:
        return HolderOutcome(holder, Outcome.SILENT)
    rule = int(taken.refusals[holder].partition(":")[2])
    return HolderOutcome(holder, Outcome.REFUSED, rule or None)


def _unmasked(
    held: HeldGrant,
    holder: AgencyId,
    taken: Custody,
    manifest: GalleryManifest,
    envelopes: Envelopes,
    roster: Roster,
    scales: Scales,
) -> HolderScores:
    claims, conversation = held.claims, held.conversation
    opened = taken.at_hand.get(holder)
    if opened is None:
        opened = envelopes.open(taken.opened[holder](), OpenedBody, conversation, claims.requesting_agency)
    opened.statement.check(claims.search_id, held.digest, roster.node_key(holder))
    shares = []
    for custodian, data in sorted(taken.shares[holder].items()):
        message = Message.from_bytes(data)
        if custodian == claims.combiner:
            share = envelopes.open(message, MaskShare, conversation, holder)
        else:
            share = envelopes.open(message, MaskHandover, conversation, custodian).share
        opened.check_share(holder, share)
        if share.probe_digest != claims.probe_digest:
            raise AnswerError("a mask share names another probe than the grant")
        shares.append(share)
    return unmask(holder, manifest.records, manifest.chunks, scales, opened.opened, shares)


def _alarm_names(scores: HolderScores, table: ImpostorTable, scales: Scales) -> list[str]:
    alarms = scores.alarms(table, scales)
    return [name for name in ("spread", "impossible", "planted") if getattr(alarms, name)]
