"""What each entry says to everybody once it is opened: the values that a node commits to, taken from grant, roster and outcome.

One function a kind, so that all a node will ever publish of a search stands on this page. Invariants: values come from closed lists, names
of agencies and counts; nothing here reads the case, a docket, a person, a face or a handle. Left to others: which fields a kind has and
their forms (`crypto.entry_openings`), committing (`outbox`), publishing (`openings`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crypto.canonical import AgencyId
from crypto.disclosure import DisclosureOutcome
from crypto.entries import FieldType
from crypto.entry_openings import (
    AUTHOR,
    BASIS,
    EXPUNGE_REASON,
    HOLDERS_ANSWERED,
    HOLDERS_ASKED,
    LEADS,
    OFFENCE,
    ORIGINATING_AGENCY,
    ORIGINATING_CLASS,
    OUTCOME,
    REQUESTING_AGENCY,
    REQUESTING_CLASS,
    RULE,
)
from crypto.grant_claims import GrantClaims
from crypto.release import HolderOutcome, Outcome
from crypto.roster import Roster

Opened = Mapping[FieldType, str]


def opened_grant(claims: GrantClaims, roster: Roster) -> Opened:
    """Who asks for whom, for which offence, on which kind of basis, and how many holders."""
    return {
        REQUESTING_AGENCY: str(claims.requesting_agency),
        REQUESTING_CLASS: roster.agency(claims.requesting_agency).agency_class.value,
        ORIGINATING_AGENCY: str(claims.originating_agency),
        ORIGINATING_CLASS: roster.agency(claims.originating_agency).agency_class.value,
        OFFENCE: "" if claims.offence is None else claims.offence.nibrs,
        BASIS: claims.basis.kind.value,
        HOLDERS_ASKED: str(len(claims.holders)),
    }


def opened_release(claims: GrantClaims, holders: Iterable[HolderOutcome], leads: int, *, refused: bool) -> Opened:
    """How many holders were asked and answered, and how many leads came of it; `refused` for a probe that no calibration allowed."""
    answered = sum(one.outcome is Outcome.ANSWERED for one in holders)
    return {
        REQUESTING_AGENCY: str(claims.requesting_agency),
        HOLDERS_ASKED: str(len(claims.holders)),
        HOLDERS_ANSWERED: str(answered),
        LEADS: str(leads),
        OUTCOME: "refused" if refused else "leads" if leads else "no-leads",
    }


def opened_disclosure(claims: GrantClaims, holder: AgencyId, outcome: DisclosureOutcome) -> Opened:
    """What became of one request for a photograph, or that there was none."""
    ended = outcome.name.lower().replace("_", "-")
    return {AUTHOR: str(holder), REQUESTING_AGENCY: str(claims.requesting_agency), OUTCOME: ended}


def opened_refusal(claims: GrantClaims, roster: Roster, author: AgencyId, *, rule: int | None = None, late: bool = False) -> Opened:
    """Who refused whom under which rule; what came too late was refused under none."""
    return {
        AUTHOR: str(author),
        REQUESTING_AGENCY: str(claims.requesting_agency),
        REQUESTING_CLASS: roster.agency(claims.requesting_agency).agency_class.value,
        ORIGINATING_CLASS: roster.agency(claims.originating_agency).agency_class.value,
        RULE: "" if rule is None else str(rule),
        OUTCOME: "late" if late else "refused",
    }


def opened_revocation(author: AgencyId, requesting_agency: AgencyId, roster: Roster) -> Opened:
    """Which legal office took a grant of which agency back; not why."""
    return {
        AUTHOR: str(author),
        REQUESTING_AGENCY: str(requesting_agency),
        REQUESTING_CLASS: roster.agency(requesting_agency).agency_class.value,
        OUTCOME: "revoked",
    }


def opened_end(requesting_agency: AgencyId, roster: Roster, outcome: str) -> Opened:
    """How an exigent grant's clock ended: `ratified`, or lapsed and `sealed` or `deleted`."""
    return {
        REQUESTING_AGENCY: str(requesting_agency),
        REQUESTING_CLASS: roster.agency(requesting_agency).agency_class.value,
        OUTCOME: outcome,
    }


def opened_expunction(author: AgencyId, reason: str) -> Opened:
    """Which holder destroyed a record, and for which of the listed reasons; not which record."""
    return {AUTHOR: str(author), EXPUNGE_REASON: reason}
