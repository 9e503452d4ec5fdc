"""Messages of more than one part lie in pieces, which go with the row that they belong to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table, and what deletes from it; messages that are here already stay in their rows."""
    op.create_table(
        "message_pieces",
        sa.Column("direction", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("direction", "owner", "number"),
    )
    op.add_column("outbox", sa.Column("message_id", sa.String(), nullable=True))
    op.add_column("custody_parts", sa.Column("message_id", sa.String(), nullable=True))
    op.execute(
        "CREATE TRIGGER inbox_pieces_deleted AFTER UPDATE OF data ON inbox WHEN NEW.data IS NULL BEGIN "
        "DELETE FROM message_pieces WHERE direction = 'in' AND owner = OLD.message_id; END"
    )
    op.execute(
        "CREATE TRIGGER outbox_pieces_deleted AFTER UPDATE OF data ON outbox WHEN NEW.data IS NULL BEGIN "
        "DELETE FROM message_pieces WHERE direction = 'out' AND owner = CAST(OLD.number AS TEXT); END"
    )
