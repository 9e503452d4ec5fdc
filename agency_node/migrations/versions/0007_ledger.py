"""The journal becomes the ledger: chained rows that the database lets nobody change; decisions name the class of who asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agency_node.journal import FIRST_PREVIOUS, NODE, append

revision = "0007"
down_revision = "0006"

_TEXTS = ("at", "search_id", "event", "actor", "source", "subject", "recipient", "outcome")
_MORE_TEXTS = ("requester", "secondary", "grant_digest", "case_commitment", "detail")
_MOMENT = "20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9]Z"
TRIGGERS = {
    "ledger_appended": "CREATE TRIGGER ledger_appended BEFORE INSERT ON ledger "  # noqa: S608  # nothing in it comes from outside
    "WHEN NEW.sequence IS NOT (SELECT COALESCE(MAX(sequence), 0) + 1 FROM ledger) "
    f"OR NEW.previous IS NOT COALESCE((SELECT hash FROM ledger ORDER BY sequence DESC LIMIT 1), x'{FIRST_PREVIOUS.hex()}') "
    f"OR NEW.at NOT GLOB '{_MOMENT}' BEGIN SELECT RAISE(ABORT, 'a row of the ledger follows the last one'); END",
    "ledger_unchanged": "CREATE TRIGGER ledger_unchanged BEFORE UPDATE ON ledger "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is appended to and never changed'); END",
    "ledger_kept": "CREATE TRIGGER ledger_kept BEFORE DELETE ON ledger "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is appended to and never shortened'); END",
    "sign_offs_once": "CREATE TRIGGER sign_offs_once BEFORE INSERT ON ledger_sign_offs "
    "WHEN EXISTS (SELECT 1 FROM ledger_sign_offs WHERE week = NEW.week) "
    "BEGIN SELECT RAISE(ABORT, 'a week is signed off once'); END",
    "sign_offs_unchanged": "CREATE TRIGGER sign_offs_unchanged BEFORE UPDATE ON ledger_sign_offs "
    "BEGIN SELECT RAISE(ABORT, 'a sign-off is never changed'); END",
    "sign_offs_kept": "CREATE TRIGGER sign_offs_kept BEFORE DELETE ON ledger_sign_offs "
    "BEGIN SELECT RAISE(ABORT, 'a sign-off is never deleted'); END",
}
"""By name. REPLACE would delete without a trigger for deletions, so that insertions look for themselves what is there."""


def upgrade() -> None:
    """Chain what the journal holds, in its order, and drop it."""
    op.create_table(
        "ledger",
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in (*_TEXTS, *_MORE_TEXTS)),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_index("ledger_by_search", "ledger", ["search_id"])
    op.create_table(
        "ledger_sign_offs",
        sa.Column("week", sa.String(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("week"),
    )
    op.add_column("decisions", sa.Column("agency_class", sa.String(), nullable=False, server_default=""))
    connection = op.get_bind()
    rest = dict.fromkeys((*_TEXTS, *_MORE_TEXTS), "")
    for row in connection.exec_driver_sql("SELECT at, search_id, event, detail FROM journal ORDER BY number").mappings().all():
        append(connection, {**rest, **row, "actor": NODE, "source": "journal", "outcome": "done"})
    op.drop_table("journal")
    for trigger in TRIGGERS.values():
        op.execute(trigger)
