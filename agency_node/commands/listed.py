"""Whom a search may name: holders, custodians and reviewers as the roster lists them, said before anybody is asked to sign.

Left to others: everything that a signed grant is checked for (`crypto.grant`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agency_node.errors import RequestError

if TYPE_CHECKING:
    from crypto.canonical import AgencyId
    from crypto.roster import Roster


def check_listed(
    roster: Roster, agency: AgencyId, holders: Iterable[str], custodians: Iterable[str], reviewer: str, investigator: str
) -> None:
    """What the reviewer's signature would be refused for is said before anybody is asked for it; `RequestError` lists whom to take.

    A reviewer who is the investigator is left to the grant's own check (R5).
    """
    from crypto.roster_entries import AgencyRole  # noqa: PLC0415

    for role, named in ((AgencyRole.HOLDER, holders), (AgencyRole.CUSTODIAN, custodians)):
        listed = [str(one.agency_id) for one in roster.agencies if role in one.roles]
        for unknown in sorted(set(named) - set(listed)):
            raise RequestError(f"{unknown} is no {role.value} in the roster: take {_one_of(listed)}")
    reviewers = _reviewers(roster, roster.agency(agency).legal_office)
    if reviewer not in (*reviewers, investigator):
        raise RequestError(f"{reviewer} is no reviewer of your legal office: take {_one_of(reviewers)}")


def check_others(roster: Roster, agency: AgencyId, second_reviewer: str, originating: str, originator: str) -> None:
    """The same of a second reviewer, and of the agency whose case it is with the person who signs for it (R6); empty is none."""
    from crypto.canonical import AgencyId  # noqa: PLC0415

    if second_reviewer:
        listed = [one for entry in roster.agencies for one in _reviewers(roster, entry.agency_id)]
        if second_reviewer not in listed:
            raise RequestError(
                f"{second_reviewer} is no reviewer in the roster: take {_one_of(_reviewers(roster, roster.agency(agency).legal_office))}"
            )
    if bool(originating) != bool(originator) or originating == str(agency):
        raise RequestError("another agency's case names both: --originating-agency AGENCY and --originator PERSON of its legal office (R6)")
    if originating:
        if originating not in [str(one.agency_id) for one in roster.agencies]:
            raise RequestError(f"{originating} is no agency in the roster: name the one whose case it is")
        theirs = _reviewers(roster, roster.agency(AgencyId(originating)).legal_office)
        if originator not in theirs:
            raise RequestError(f"{originator} is no reviewer of {originating}'s legal office: take {_one_of(theirs)}")


def _reviewers(roster: Roster, office: AgencyId | None) -> list[str]:
    from crypto.roster_entries import PersonRole  # noqa: PLC0415

    persons = () if office is None else roster.agency(office).persons
    return [str(one.person_id) for one in persons if PersonRole.REVIEWER in {credential.role for credential in one.credentials}]


def _one_of(names: list[str]) -> str:
    return " or ".join(names) if names else "one that the root holders have listed first"
