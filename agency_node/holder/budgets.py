"""How often a holder lets itself be searched: by one officer, for one case, by one agency, in one UTC day (R57, R60; R12's limit per case).

A requester that may ask without end climbs towards a template, search by search; whoever else allowed it, each holder counts for itself.

Invariants: a search is counted in the transaction that claims it, before any scan, and once, however often its message comes or the process
dies; what was claimed stays counted, whatever becomes of it, so that nothing gives budget back. Two claims at once are one after the other,
because the store's transactions begin with the write lock. A day is the UTC day of the claim; a clock that is set back finds later claims
and counts them too. Names stand in the store as keyed tags.

A search for another agency counts for both (R6). Left to others: claiming (`answering`), what a refusal says to its recipient
(`crypto.lawful_steps`). Limit: a case is known by its commitment, and a requester that draws two salts for one case makes two cases of it;
officer and agency are names that the roster lists.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Final

from sqlalchemy import Connection, Engine, func, insert, select

from agency_node.config import BudgetLimits
from agency_node.grants import TOKEN
from agency_node.journal import stamp
from agency_node.refusals import RefusedByUsError
from agency_node.tables import answers, budget_uses, held_grants
from agency_node.vault import Vault
from crypto.grant_claims import GrantClaims
from crypto.grant_token import unverified_claims
from crypto.moments import utc_day
from crypto.notices import RefusalReason

RULE: Final = 57
"""POLICY.md's R57, which a refusal names."""
_CASE_DIGITS: Final = 12
"""Hexadecimal digits of a case commitment that a person is shown."""


class Scope(enum.StrEnum):
    """Whose budget it is."""

    OFFICER = "officer"
    CASE = "case"
    AGENCY = "agency"


@dataclass(frozen=True)
class Spent:
    """One budget of today that something was used of: `who` is a person's or agency's id, or the first digits of a case commitment."""

    scope: Scope
    who: str
    used: int
    limit: int


class Budgets:
    """One holder's budgets."""

    def __init__(self, limits: BudgetLimits, vault: Vault) -> None:
        self._vault = vault
        self._limits = {
            Scope.OFFICER: limits.officer_per_day,
            Scope.CASE: limits.case_per_day,
            Scope.AGENCY: limits.agency_per_day,
        }

    def spend(self, connection: Connection, claims: GrantClaims, now: datetime) -> None:
        """Count one search in the caller's transaction, which claims it; `RefusedByUsError` (`BUDGET`, R57) when a budget is used up, and
        then the caller's transaction must end with it."""
        for scope, name in names_of(claims):
            limit = self._limits[scope]
            if self.used(connection, scope, name, now) >= limit:
                raise RefusedByUsError(
                    RefusalReason.BUDGET,
                    f"this holder answers {limit} searches a day for one {scope}, and has; the day ends at 00:00 UTC",
                    RULE,
                )
            values = {"search_id": str(claims.search_id), "scope": scope.value, "tag": self._tag(scope, name), "claimed_at": stamp(now)}
            connection.execute(insert(budget_uses).values(**values))

    def used(self, connection: Connection, scope: Scope, name: bytes, now: datetime) -> int:
        """Searches of that name that were claimed in the UTC day of `now`, or later."""
        mine = (budget_uses.c.scope == scope.value) & (budget_uses.c.tag == self._tag(scope, name))
        today = mine & (budget_uses.c.claimed_at >= _day_start(now))
        return int(connection.execute(select(func.count()).select_from(budget_uses).where(today)).scalar_one())

    def spent(self, engine: Engine, now: datetime) -> list[Spent]:
        """Every budget of which something was used today, with names, which are read from the day's sealed grants."""
        today = (
            select(held_grants.c.sealed_token, held_grants.c.grant_digest)
            .join(answers, answers.c.search_id == held_grants.c.search_id)
            .where(answers.c.claimed_at >= _day_start(now))
        )
        with engine.begin() as connection:
            grants = [unverified_claims(self._vault.open(TOKEN, row.sealed_token, row.grant_digest)) for row in connection.execute(today)]
            named = sorted({named for claims in grants for named in names_of(claims)})
            counts = [(scope, name, self.used(connection, scope, name, now)) for scope, name in named]
        return [Spent(scope, _shown(scope, name), used, self._limits[scope]) for scope, name, used in counts]

    def _tag(self, scope: Scope, name: bytes) -> bytes:
        return self._vault.tag(f"budget-{scope}", name)


def names_of(claims: GrantClaims) -> Iterator[tuple[Scope, bytes]]:
    """Under which names a search is counted, each once."""
    yield Scope.OFFICER, claims.investigator.encode("ascii")
    yield Scope.CASE, claims.case_commitment
    for agency in sorted({claims.requesting_agency, claims.originating_agency}):
        yield Scope.AGENCY, agency.encode("ascii")


def _day_start(now: datetime) -> str:
    return stamp(datetime.combine(utc_day(now), time(), UTC))


def _shown(scope: Scope, name: bytes) -> str:
    return name.hex()[:_CASE_DIGITS] if scope is Scope.CASE else name.decode("ascii")
