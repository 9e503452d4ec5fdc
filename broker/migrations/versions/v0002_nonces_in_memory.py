"""Nonces are kept by the process that takes them: their table goes."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step forward; there is no way back."""
    op.drop_index("ix_nonces_kept_until", "nonces")
    op.drop_table("nonces")
