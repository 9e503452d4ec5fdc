"""The first tables, and the triggers that make the log append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step forward; there is no way back, because deleted content must not be asked for again."""
    op.create_table(
        "rosters",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "nonces",
        sa.Column("agency", sa.String, primary_key=True),
        sa.Column("nonce", sa.LargeBinary, primary_key=True),
        sa.Column("kept_until", sa.Integer, nullable=False),
    )
    op.create_index("ix_nonces_kept_until", "nonces", ["kept_until"])
    op.create_table(
        "manifests",
        sa.Column("agency", sa.String, primary_key=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "sealing_keys",
        sa.Column("agency", sa.String, primary_key=True),
        sa.Column("use", sa.String, primary_key=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    _create_log()
    _create_grants()
    _create_mailbox()


def _create_log() -> None:
    op.create_table(
        "leaves",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("subject", sa.LargeBinary, nullable=False),
        sa.Column("grant_digest", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_leaves_subject", "leaves", ["subject"])
    op.create_index("ix_leaves_grant_digest", "leaves", ["grant_digest"])
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER leaves_refuse_{act.lower()} BEFORE {act} ON leaves BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
        )
    # REPLACE deletes without firing a delete trigger, so an insert at a taken place is refused as well.
    op.execute(
        "CREATE TRIGGER leaves_refuse_replace BEFORE INSERT ON leaves "
        "WHEN EXISTS (SELECT 1 FROM leaves WHERE position = NEW.position OR leaf_hash = NEW.leaf_hash) "
        "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
    )
    op.create_table(
        "heads",
        sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "cosignatures",
        sa.Column("size", sa.Integer, sa.ForeignKey("heads.size"), primary_key=True, autoincrement=False),
        sa.Column("agency", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("signed_at", sa.Integer, nullable=False),
    )


def _create_grants() -> None:
    op.create_table(
        "grants",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("grant_id", sa.String, nullable=False, unique=True),
        sa.Column("search_id", sa.String, nullable=False, unique=True),
        sa.Column("probe_digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("face_commit", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("requesting_agency", sa.String, nullable=False),
        sa.Column("originating_agency", sa.String, nullable=False),
        sa.Column("holders", sa.String, nullable=False),
        sa.Column("custodians", sa.String, nullable=False),
        sa.Column("combiner", sa.String, nullable=False),
        sa.Column("not_before", sa.Integer, nullable=False),
        sa.Column("expires", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, sa.ForeignKey("leaves.position"), nullable=False),
    )
    op.create_index("ix_grants_expires", "grants", ["expires"])


def _create_mailbox() -> None:
    op.create_table(
        "messages",
        sa.Column("message_id", sa.String, primary_key=True),
        sa.Column("message_type", sa.String, nullable=False),
        sa.Column("sender", sa.String, nullable=False),
        sa.Column("recipient", sa.String, nullable=False),
        sa.Column("search_id", sa.String, nullable=False),
        sa.Column("grant_digest", sa.LargeBinary, nullable=True),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("total_bytes", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("arrived_at", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=True),
        sa.Column("lease_id", sa.String, nullable=True, unique=True),
        sa.Column("leased_until", sa.Integer, nullable=False),
        sa.Column("receipt", sa.LargeBinary, nullable=True),
        sa.UniqueConstraint("sender", "recipient", "search_id", "sequence", name="one_message_a_number"),
    )
    op.create_index("waiting", "messages", ["recipient", "state", "place"])
    op.create_table(
        "parts",
        sa.Column("message_id", sa.String, sa.ForeignKey("messages.message_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("piece", sa.LargeBinary, nullable=False),
    )
