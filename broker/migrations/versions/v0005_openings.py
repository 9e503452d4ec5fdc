"""Fields of leaves that their authors opened: kept like the leaves, neither changed nor removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step forward; there is no way back."""
    op.create_table(
        "openings",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, sa.ForeignKey("leaves.position"), nullable=False),
        sa.Column("field_type", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("opened_at", sa.Integer, nullable=False),
        sa.UniqueConstraint("position", "field_type", name="a_field_is_opened_once"),
    )
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER openings_refuse_{act.lower()} BEFORE {act} ON openings "
            "BEGIN SELECT RAISE(ABORT, 'what was opened stays as it is'); END"
        )
    # REPLACE deletes without firing a delete trigger, and a gap would look like a field that was taken away.
    op.execute(
        "CREATE TRIGGER openings_refuse_replace BEFORE INSERT ON openings "
        "WHEN NEW.number IS NOT (SELECT COALESCE(MAX(number) + 1, 0) FROM openings) "
        "OR EXISTS (SELECT 1 FROM openings WHERE position = NEW.position AND field_type = NEW.field_type) "
        "BEGIN SELECT RAISE(ABORT, 'what was opened stays as it is'); END"
    )
