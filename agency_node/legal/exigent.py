"""Exigent grants at the requester: the clock that starts with the reviewer's signature, ratification by a second reviewer, what is told.

States of a clock, in table `exigent_grants`: `running`; then `ratified`, or `lapsed` when nobody ratified in time (R4). The clock runs from
the grant's `not_before`, whatever process runs meanwhile: its end stands in the store as a moment. Invariants: a ratification is stored
only if it verifies against the pinned roster as holders and custodians will verify it; from the clock's end on the leads are closed to
investigators, also before the serving node has taken note of the end, and whether it runs or not.

Left to others: what a lapse does (`lapsing`), the clocks of holders and custodians (`ratified`), how long a clock runs (`policy.clocks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, func, insert, select, update

from agency_node.errors import RequestError
from agency_node.journal import record, stamp
from agency_node.legal.conflicts import check_no_conflict
from agency_node.legal.persons import PersonKey
from agency_node.policy.clocks import ExigentClock
from agency_node.requester.drafting import TOKEN
from agency_node.tables import exigent_grants, lapse_notices, searches
from agency_node.vault import Vault
from crypto.grant_basis import BasisKind
from crypto.grant_claims import GrantClaims, GrantRole
from crypto.grant_token import unverified_claims
from crypto.moments import parse_moment, round_moment
from crypto.ratification import Ratification, verify_ratification
from crypto.roster import TrustedRoster

RUNNING: Final = "running"
RATIFIED: Final = "ratified"
LAPSED: Final = "lapsed"
LAST_WARNING: Final = timedelta(hours=2)
"""How long before the end of a clock the second warning comes; the first comes at half time."""
CLOSED_LEADS: Final = (
    "this exigent search was not ratified in time (R4): its leads are closed. What is kept of it lies under a seal that the legal "
    "office opens for a court order or the defence (`sealmatch node unseal`); for a new search ask the court for a warrant"
)


def start_clock(connection: Connection, claims: GrantClaims, clock: ExigentClock, now: datetime) -> None:
    """In the transaction in which a grant is signed: an exigent one has a clock from then on, any other none.

    `RequestError` when the clock would be over: the draft is too old.
    """
    if claims.basis.kind is not BasisKind.EXIGENT:
        return
    ratify_by = claims.not_before + clock.ratify_within
    if now >= ratify_by:
        raise RequestError("this draft is older than an exigent grant may go without ratification: have it drafted anew")
    values = {
        "search_id": str(claims.search_id),
        "grant_digest": claims.digest,
        "case_commitment": claims.case_commitment,
        "state": RUNNING,
        "started_at": stamp(claims.not_before),
        "ratify_by": stamp(ratify_by),
        "on_lapse": clock.on_lapse.value,
        "warned": 0,
        "in_log": 0,
    }
    connection.execute(insert(exigent_grants).values(**values))
    record(connection, now, claims.search_id, "exigent clock started", f"to be ratified before {stamp(ratify_by)}")


def ratify_search(
    engine: Engine, vault: Vault, roster: TrustedRoster, search_id: str, person: PersonKey, now: datetime, *, administrator: str = ""
) -> datetime:
    """Sign the ratification of an exigent grant as a second reviewer and store it; the serving node tells holders and custodians.

    1. an exigent grant of that id runs here (`RequestError`), and its clock is not over (`RequestError`)
    2. the ratification verifies (`verify_ratification`, every check: another person, a reviewer of the legal office, trained)
    3. the person has no conflict of interest (R5, `RequestError`)
    Returns the moment that it names.
    """
    with engine.begin() as connection:
        row = connection.execute(select(exigent_grants).where(exigent_grants.c.search_id == search_id)).first()
        if row is None:
            raise RequestError("no exigent grant of this search waits for ratification: `sealmatch node status` lists those that do")
        if row.state != RUNNING:
            raise RequestError(f"this exigent grant is {row.state}: nothing is left to ratify")
        sealed = connection.execute(select(searches.c.sealed_token).where(searches.c.search_id == search_id)).scalar_one()
    ratify_by = parse_moment(row.ratify_by, "end of the clock")
    if now >= ratify_by:  # 1
        raise RequestError(f"too late: this exigent grant had to be ratified before {row.ratify_by} (R4). Ask the court for a warrant")
    claims = unverified_claims(vault.open(TOKEN, sealed, search_id.encode("ascii")))
    said = Ratification(claims.search_id, claims.digest, person.person_id, round_moment(now))
    document = said.sign(person.signing_key)
    verify_ratification(document, claims, roster.at(now), ratify_by, now)  # 2
    check_no_conflict(engine, vault, claims, GrantRole.SECOND_REVIEWER, person, administrator)  # 3
    with engine.begin() as connection:
        running = (exigent_grants.c.search_id == search_id) & (exigent_grants.c.state == RUNNING)
        values = {"state": RATIFIED, "ended_at": stamp(now), "ratification": document}
        if connection.execute(update(exigent_grants).where(running).values(**values)).rowcount != 1:
            raise RequestError("this exigent grant was ratified or has lapsed meanwhile: look with `sealmatch node status`")
        record(connection, now, search_id, RATIFIED, "by a second reviewer")
    return said.ratified_at


def is_over(connection: Connection, search_id: str, now: datetime | None) -> bool:
    """Whether an exigent search has lapsed, or would be found lapsed at `now`."""
    query = select(exigent_grants.c.state, exigent_grants.c.ratify_by).where(exigent_grants.c.search_id == search_id)
    row = connection.execute(query).first()
    if row is None:
        return False
    return bool(row.state == LAPSED or (row.state == RUNNING and now is not None and stamp(now) >= row.ratify_by))


def check_open(engine: Engine, search_id: str, now: datetime | None = None) -> None:
    """Raise `RequestError` if the leads of this search are closed because nobody ratified it in time; any other search passes."""
    with engine.begin() as connection:
        if is_over(connection, search_id, now):
            raise RequestError(CLOSED_LEADS)


def lapses_of_case(engine: Engine, case_commitment: bytes) -> tuple[str, ...]:
    """The moments at which earlier exigent searches of the same case lapsed: what a reviewer of a later draft has to see."""
    same = (exigent_grants.c.case_commitment == case_commitment) & (exigent_grants.c.state == LAPSED)
    with engine.begin() as connection:
        found = connection.execute(select(exigent_grants.c.ended_at).where(same).order_by(exigent_grants.c.ended_at))
        return tuple(found.scalars())


@dataclass(frozen=True)
class ClockStatus:
    """One exigent grant of this agency. `hours_left` is None once it is ratified or has lapsed; `warning` is a sentence, or empty."""

    search_id: str
    state: str
    ratify_by: str
    hours_left: float | None
    warning: str


@dataclass(frozen=True)
class ExigentStatus:
    """All of them, how many ended how, and the notices that were made, in the node's folder `notices`."""

    clocks: list[ClockStatus]
    counts: dict[str, int]
    notices: list[dict[str, str]]


def exigent_status(engine: Engine, now: datetime) -> ExigentStatus:
    """For `sealmatch node status`."""
    with engine.begin() as connection:
        rows = connection.execute(select(exigent_grants).order_by(exigent_grants.c.started_at)).all()
        states = connection.execute(select(exigent_grants.c.state, func.count()).group_by(exigent_grants.c.state)).all()
        made = connection.execute(select(lapse_notices).order_by(lapse_notices.c.made_at, lapse_notices.c.name)).all()
    counted = {str(state): int(count) for state, count in states}
    return ExigentStatus(
        [_clock_status(row, now) for row in rows],
        {state: counted.get(state, 0) for state in (RUNNING, RATIFIED, LAPSED)},
        [{"name": one.name, "to": one.recipient, "search_id": one.search_id, "written_at": one.written_at or ""} for one in made],
    )


def warning_due(row: Row[Any], now: datetime) -> int:
    """0 before half time, 1 from then on, 2 in the last two hours."""
    started, ends = parse_moment(row.started_at, "start"), parse_moment(row.ratify_by, "end")
    return int(now >= started + (ends - started) / 2) + int(now >= ends - LAST_WARNING)


def _clock_status(row: Row[Any], now: datetime) -> ClockStatus:
    if row.state != RUNNING:
        return ClockStatus(row.search_id, row.state, row.ratify_by, None, CLOSED_LEADS if row.state == LAPSED else "")
    left = max((parse_moment(row.ratify_by, "end") - now) / timedelta(hours=1), 0.0)
    if not left:  # the serving node has not come to it yet, or does not run
        return ClockStatus(row.search_id, row.state, row.ratify_by, 0.0, CLOSED_LEADS)
    ask = f"{left:.1f} hours left to ratify this exigent search: a second reviewer signs with `sealmatch node ratify`"
    return ClockStatus(row.search_id, row.state, row.ratify_by, round(left, 2), ask if warning_due(row, now) else "")
