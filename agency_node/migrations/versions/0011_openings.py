"""Entries of the log know their leaf, and how far their fields are that are opened to everybody."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns. Entries that were made before commit to no field that is opened."""
    op.add_column("outbox", sa.Column("leaf_hash", sa.LargeBinary(), nullable=True))
    op.add_column("outbox", sa.Column("opening", sa.String(), nullable=True))
    op.create_index("outbox_to_open", "outbox", ["opening", "created_at"], sqlite_where=sa.text("opening IN ('kept', 'asked')"))
