"""The first schema of a node's database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "answers",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("grant_id", sa.String(), nullable=False),
        sa.Column("probe_digest", sa.LargeBinary(), nullable=False),
        sa.Column("face_commit", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("layout_id", sa.String(), nullable=True),
        sa.Column("answer_digest", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_root", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_release", sa.LargeBinary(), nullable=True),
        sa.Column("claimed_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id"),
        sa.UniqueConstraint("face_commit"),
        sa.UniqueConstraint("grant_id"),
        sa.UniqueConstraint("probe_digest"),
    )
    op.create_table(
        "custody",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("deadline", sa.String(), nullable=False),
        sa.Column("released_at", sa.String(), nullable=True),
        sa.Column("alarms", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id"),
    )
    op.create_table(
        "custody_parts",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("custodian", sa.String(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("note", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "holder", "kind", "custodian"),
    )
    op.create_table(
        "decisions",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("allowed", sa.Integer(), nullable=False),
        sa.Column("policies", sa.String(), nullable=False),
        sa.Column("rules", sa.String(), nullable=False),
        sa.Column("pack_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("inputs_sha256", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "disclosure_requests",
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("handle", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("decision", sa.LargeBinary(), nullable=True),
        sa.Column("received_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("message_id"),
    )
    op.create_table(
        "disclosures",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("handle", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("sealed_record", sa.LargeBinary(), nullable=True),
        sa.Column("asked_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "holder", "handle"),
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "held_grants",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("grant_digest", sa.LargeBinary(), nullable=False),
        sa.Column("grant_id", sa.String(), nullable=False),
        sa.Column("probe_digest", sa.LargeBinary(), nullable=False),
        sa.Column("face_commit", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_token", sa.LargeBinary(), nullable=False),
        sa.Column("roles", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("deadline", sa.String(), nullable=False),
        sa.Column("expires", sa.String(), nullable=False),
        sa.Column("received_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id"),
        sa.UniqueConstraint("face_commit"),
        sa.UniqueConstraint("grant_digest"),
        sa.UniqueConstraint("grant_id"),
        sa.UniqueConstraint("probe_digest"),
    )
    op.create_table(
        "inbox",
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("message_type", sa.String(), nullable=False),
        sa.Column("sender", sa.String(), nullable=False),
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("received_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("message_id"),
        sa.UniqueConstraint("sender", "search_id", "sequence", name="one_message_a_number"),
    )
    op.create_table(
        "journal",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    with op.batch_alter_table("journal", schema=None) as batch_op:
        batch_op.create_index("journal_by_search", ["search_id"], unique=False)
    op.create_table(
        "layouts",
        sa.Column("layout_id", sa.String(), nullable=False),
        sa.Column("sealed_layout", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("layout_id"),
    )
    op.create_table(
        "leads",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("release_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("sealed_stub", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("search_id", "release_index"),
    )
    op.create_table(
        "log_leaves",
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_table(
        "outbox",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("grant_digest", sa.LargeBinary(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_openings", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "receipts",
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("message_id"),
    )
    op.create_table(
        "records",
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tag", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_record", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_photograph", sa.LargeBinary(), nullable=True),
        sa.Column("captured", sa.String(), nullable=False),
        sa.Column("enrolled_at", sa.String(), nullable=False),
        sa.Column("expunged_at", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("row"),
        sa.UniqueConstraint("tag"),
    )
    op.create_table(
        "sealing_keys",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("use", sa.String(), nullable=False),
        sa.Column("sealed_private", sa.LargeBinary(), nullable=True),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_table(
        "search_holders",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "holder"),
    )
    op.create_table(
        "searches",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("grant_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("deadline", sa.String(), nullable=False),
        sa.Column("expires", sa.String(), nullable=False),
        sa.Column("epoch", sa.String(), nullable=False),
        sa.Column("grant_digest", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_token", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_case", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_still", sa.LargeBinary(), nullable=True),
        sa.Column("probe", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_search_key", sa.LargeBinary(), nullable=True),
        sa.Column("escrow", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_release", sa.LargeBinary(), nullable=True),
        sa.Column("discovery", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("search_id"),
        sa.UniqueConstraint("grant_digest"),
        sa.UniqueConstraint("grant_id"),
    )
    op.create_table(
        "sequences",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "recipient"),
    )
    op.create_table(
        "statements",
        sa.Column("agency", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("use", sa.String(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("agency", "kind", "use"),
    )
    op.create_table(
        "stubs",
        sa.Column("handle", sa.String(), nullable=False),
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("release_index", sa.Integer(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("handle"),
    )
    op.create_table(
        "template_blocks",
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("sealed_templates", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("block"),
    )
