"""Blocks of templates have keys of their own, expunged records are found without reading the others, a claim names its message."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what is missing; blocks that have no key yet get one when the records are opened (`holder.blocks`)."""
    op.create_table(
        "block_keys",
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("block"),
    )
    op.create_index("expunged_records", "records", ["expunged_at"], sqlite_where=sa.text("expunged_at IS NOT NULL"))
    op.add_column("answers", sa.Column("message_id", sa.String(), nullable=True))
