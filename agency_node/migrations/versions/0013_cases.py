"""Cases with their searches, the chain of each probe, and legal holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the tables. Searches of before are given their case when the node is next asked for it; their stills have no chain, so those of
    them that are drafts are drafted anew."""
    op.create_table(
        "cases",
        sa.Column("case_tag", sa.LargeBinary(), nullable=False),
        sa.Column("case_commitment", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_number", sa.LargeBinary(), nullable=True),
        sa.Column("opened_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("case_tag"),
    )
    op.create_table(
        "case_searches",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("case_tag", sa.LargeBinary(), nullable=False),
        sa.Column("probe_destroyed_at", sa.String(), nullable=True),
        sa.Column("leads_destroyed_at", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("search_id"),
    )
    op.create_index("searches_of_case", "case_searches", ["case_tag"])
    op.create_table(
        "probe_links",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sealed_link", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_picture", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("search_id", "number"),
    )
    op.create_table(
        "legal_holds",
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=True),
        sa.Column("case_tag", sa.LargeBinary(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_reason", sa.LargeBinary(), nullable=False),
        sa.Column("placed_at", sa.String(), nullable=False),
        sa.Column("lifted_at", sa.String(), nullable=True),
        sa.Column("lift_document", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_lift_reason", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("one_hold_a_case", "legal_holds", ["case_tag"], unique=True, sqlite_where=sa.text("lifted_at IS NULL"))
