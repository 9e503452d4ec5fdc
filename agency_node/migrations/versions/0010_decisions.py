"""Decisions of every party: at which place and for which holder, each pack with its hash, and the sealed inputs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns. What was decided before was a holder's own decision; its inputs were not kept and cannot be put again."""
    for name, before in (("place", "holding"), ("holder", ""), ("packs", "")):
        op.add_column("decisions", sa.Column(name, sa.String(), nullable=False, server_default=before))
    op.add_column("decisions", sa.Column("sealed_inputs", sa.LargeBinary(), nullable=True))
    op.create_index("decisions_of_search", "decisions", ["search_id"])
