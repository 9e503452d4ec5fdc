"""What searches used of a holder's budgets; the faces of a requester's own probes, apart from the case, so that they can be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables. A draft that is here already has no row in `probe_faces`: its reviewer is told to have it drafted anew."""
    op.create_table(
        "budget_uses",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("tag", sa.LargeBinary(), nullable=False),
        sa.Column("claimed_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "scope", "tag"),
    )
    op.create_index("budget_uses_by_name", "budget_uses", ["scope", "tag", "claimed_at"])
    op.create_table(
        "probe_faces",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("sealed_vector", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id"),
    )
