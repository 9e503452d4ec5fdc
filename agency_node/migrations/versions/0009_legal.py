"""Legal staff's decisions against a search, narrowed drafts, and a custodian's questions whether a grant stands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the tables. A search that was in custody before is asked about when it is to be released."""
    op.create_table(
        "legal_decisions",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_reason", sa.LargeBinary(), nullable=False),
        sa.Column("decided_at", sa.String(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("in_log", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("search_id"),
    )
    op.create_table(
        "discoveries",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("search_id"),
    )
    op.create_table(
        "narrowings",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("sealed_draft", sa.LargeBinary(), nullable=False),
        sa.Column("reviewer", sa.String(), nullable=False),
        sa.Column("narrowed_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id"),
    )
    op.create_table(
        "standings",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("asked_at", sa.String(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("search_id"),
    )
