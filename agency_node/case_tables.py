"""The requester's tables of cases: which searches are of one case, the chain of each probe, what is held and when what was destroyed.

The rest of a node's tables stands in `tables`, with the conventions that hold here too: `sealed_*` opens with the node's at-rest key alone.
Invariants that the database itself holds: a search is of one case; of a case one hold stands at a time.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, String, Table

from agency_node.tables import metadata

cases = Table(
    "cases",
    metadata,
    Column("case_tag", LargeBinary, primary_key=True),
    Column("case_commitment", LargeBinary, nullable=False),
    Column("sealed_number", LargeBinary, nullable=True),
    Column("opened_at", String, nullable=False),
)
"""Cases by the keyed tag of their number. `sealed_number` is NULL once all searches of the case lie under the seal of a lapse (R4): then
the node can tell that a number that it is given is this case's, and not which number it was."""

case_searches = Table(
    "case_searches",
    metadata,
    Column("search_id", String, primary_key=True),
    Column("case_tag", LargeBinary, nullable=False),
    Column("probe_destroyed_at", String, nullable=True),
    Column("leads_destroyed_at", String, nullable=True),
    Index("searches_of_case", "case_tag"),
)
"""Of which case a search is, and when its picture and its leads were destroyed because their time was over."""

probe_links = Table(
    "probe_links",
    metadata,
    Column("search_id", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sealed_link", LargeBinary, nullable=False),
    Column("sealed_picture", LargeBinary, nullable=True),
)
"""The chain of a search's probe (R19). `sealed_picture` is the picture of that step where it is not the still itself, which `searches` has:
the original's file, each lossless picture in between, the aligned cut. NULL once it was destroyed; the link stays."""

legal_holds = Table(
    "legal_holds",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("case_tag", LargeBinary, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("sealed_reason", LargeBinary, nullable=False),
    Column("placed_at", String, nullable=False),
    Column("lifted_at", String, nullable=True),
    Column("lift_document", LargeBinary, nullable=True),
    Column("sealed_lift_reason", LargeBinary, nullable=True),
)
"""What legal staff signed about keeping a case: while a row of it is not lifted nothing of the case is destroyed by a clock."""
Index("one_hold_a_case", legal_holds.c.case_tag, unique=True, sqlite_where=legal_holds.c.lifted_at.is_(None))
