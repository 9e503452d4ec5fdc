"""Blocks of templates of the next model lie beside those that are searched; rows that a model refused are known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Make the tables. `next_template_blocks` and `next_block_keys` change names with the tables of before when they are whole."""
    op.create_table(
        "next_template_blocks",
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("sealed_templates", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("block"),
    )
    op.create_table(
        "next_block_keys",
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("block"),
    )
    op.create_table(
        "refused_records",
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model", sa.LargeBinary(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("row", "model"),
    )
