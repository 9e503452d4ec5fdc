"""What is heard of records' cases, and the tree of a gallery's records with the manifests that were signed over it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the tables. Leaves of records that are there are made by the serving node, some thousands a minute."""
    op.create_index("records_by_enrolment", "records", ["enrolled_at"])
    op.create_table(
        "record_dispositions",
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unsearchable", sa.String(), nullable=False),
        sa.Column("disposed_on", sa.String(), nullable=False),
        sa.Column("checked_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("row"),
    )
    op.create_index("unsearchable_records", "record_dispositions", ["row"], sqlite_where=sa.text("unsearchable != ''"))
    op.create_table(
        "record_leaves",
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("place", sa.LargeBinary(), nullable=False),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.Column("source_class", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("row"),
        sa.UniqueConstraint("place"),
    )
    op.create_table(
        "record_buckets",
        sa.Column("bucket", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("bucket"),
    )
    op.create_table(
        "record_manifests",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
