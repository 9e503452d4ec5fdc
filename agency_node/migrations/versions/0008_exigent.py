"""Exigent grants: their clocks at the requester and at holders and custodians, and the notices of those that lapsed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the tables. An exigent grant that was signed before has no clock here; its holders and custodians keep theirs by the grant."""
    op.create_table(
        "exigent_grants",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("grant_digest", sa.LargeBinary(), nullable=False),
        sa.Column("case_commitment", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("started_at", sa.String(), nullable=False),
        sa.Column("ratify_by", sa.String(), nullable=False),
        sa.Column("on_lapse", sa.String(), nullable=False),
        sa.Column("warned", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.String(), nullable=True),
        sa.Column("in_log", sa.Integer(), nullable=False),
        sa.Column("ratification", sa.LargeBinary(), nullable=True),
        sa.Column("case_tag", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_salt", sa.LargeBinary(), nullable=True),
        sa.Column("archive", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("search_id"),
        sa.UniqueConstraint("grant_digest"),
    )
    op.create_index("lapsed_cases", "exigent_grants", ["case_commitment"])
    op.create_table(
        "lapse_notices",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.String(), nullable=False),
        sa.Column("written_at", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "exigent_held",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("ratify_by", sa.String(), nullable=False),
        sa.Column("ratification", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("search_id"),
    )
