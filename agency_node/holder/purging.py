"""Destroying what is due, with a signed report that says how many records went and why, and names none of them (R25).

Due is what no search finds any more because of how its case ended before a day, and, if asked for, what was unheard of since before it. All
of a purge goes in one transaction, between two record manifests of which the later follows from the earlier: nobody enrols in between.

Invariants: a report counts what really went, each with its log entry and its line in the ledger of expunged records, as `node expunge` does
it. Left to others: what became unsearchable (`dispositions`), reading a report (`crypto.record_manifest`), where it is written (commands).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sqlalchemy import Connection, Engine, func, or_, select

from agency_node.errors import RequestError
from agency_node.gallery_tables import record_dispositions
from agency_node.holder.booking import Disposition
from agency_node.holder.expunge_ledger import follow
from agency_node.holder.expunging import Enter, Expunged, ExpungeReason
from agency_node.holder.records import RecordStore
from agency_node.holder.register import Register
from agency_node.holder.unsearchable import UNCHECKED, WITH_A_REASON
from crypto.canonical import AgencyId
from crypto.keys import SigningKey
from crypto.moments import round_moment
from crypto.record_manifest import PurgeReport

MOST: Final = 1_000
"""Records of one purge: as many expunctions as the log takes of a holder in a day. What is over is due for the next purge."""
_REASONS: Final[Mapping[str, ExpungeReason]] = MappingProxyType(
    {
        Disposition.NON_CONVICTION: ExpungeReason.NON_CONVICTION,
        Disposition.ACQUITTED: ExpungeReason.NON_CONVICTION,
        Disposition.DISMISSED: ExpungeReason.DISMISSED,
        Disposition.EXPUNGED: ExpungeReason.COURT_ORDER,
        Disposition.SEALED: ExpungeReason.COURT_ORDER,
        Disposition.JUVENILE: ExpungeReason.JUVENILE,
        UNCHECKED: ExpungeReason.UNCHECKED,
    }
)
"""How each disposition is told in the log: courts expunge and seal."""

Due = tuple[list[tuple[int, ExpungeReason]], int]
"""Rows with their reasons, and how many more are due."""
Choose = Callable[[Connection], Due]


@dataclass(frozen=True)
class Purging:
    """What a purge needs of its node."""

    agency: AgencyId
    engine: Engine
    store: RecordStore
    register: Register
    node_key: SigningKey
    ledger_file: Path
    enter: Enter

    def purge(self, choose: Choose, now: datetime) -> bytes:
        """Destroy what `choose` names, and return the signed report; one of no record when nothing is due."""
        ledger_before = follow(self.ledger_file, self.store, self.node_key, now).number
        self.register.make_leaves()
        with self.engine.begin() as connection:
            root = self.store.commitment()  # of another connection: what was committed last, and this transaction keeps it so
            before = after = self.register.state(connection, root, now)
            if before is None:
                raise RequestError("nothing was ever enrolled here: there is nothing to purge")
            due, left = choose(connection)
            gone: list[Expunged] = []
            if due:
                gone, committed = self.store.expunge_rows(connection, due, now, self.enter)
                after = self.register.state(connection, gone[-1].root_after, now)
        if gone:
            committed()
        reach = follow(self.ledger_file, self.store, self.node_key, now)
        counts = Counter(one.reason.value for one in gone)
        report = PurgeReport(
            self.agency, round_moment(now), dict(sorted(counts.items())), left, ledger_before, reach.number, before, after or before
        )
        return report.sign(self.node_key)


def due_before(day: date, *, unchecked: bool) -> Choose:
    """What is due by how its case ended before that day; with `unchecked` also what was not heard of since before it."""
    ended = (record_dispositions.c.unsearchable != UNCHECKED) & (record_dispositions.c.disposed_on < day.isoformat())
    silent = (record_dispositions.c.unsearchable == UNCHECKED) & (record_dispositions.c.checked_at < day.isoformat())
    where = WITH_A_REASON, or_(ended, silent) if unchecked else ended

    def choose(connection: Connection) -> Due:
        count = int(connection.execute(select(func.count()).select_from(record_dispositions).where(*where)).scalar_one())
        columns = select(record_dispositions.c.row, record_dispositions.c.unsearchable).where(*where)
        rows = connection.execute(columns.order_by(record_dispositions.c.row).limit(MOST)).all()
        return [(row, _REASONS[reason]) for row, reason in rows], count - len(rows)

    return choose


def the_one(store: RecordStore, record_number: str, reason: ExpungeReason) -> Choose:
    """One record, by order."""
    return lambda connection: ([(store.row_of(connection, record_number), reason)], 0)
