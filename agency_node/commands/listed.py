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
    from crypto.roster_entries import AgencyRole, PersonRole  # noqa: PLC0415

    for role, named in ((AgencyRole.HOLDER, holders), (AgencyRole.CUSTODIAN, custodians)):
        listed = [str(one.agency_id) for one in roster.agencies if role in one.roles]
        for unknown in sorted(set(named) - set(listed)):
            raise RequestError(f"{unknown} is no {role.value} in the roster: take {_one_of(listed)}")
    office = roster.agency(agency).legal_office
    persons = () if office is None else roster.agency(office).persons
    reviewers = [str(one.person_id) for one in persons if PersonRole.REVIEWER in {credential.role for credential in one.credentials}]
    if reviewer not in (*reviewers, investigator):
        raise RequestError(f"{reviewer} is no reviewer of your legal office: take {_one_of(reviewers)}")


def _one_of(names: list[str]) -> str:
    return " or ".join(names) if names else "one that the root holders have listed first"
