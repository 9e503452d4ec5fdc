"""Every table of the broker's database: all that a broker keeps, on one page.

Of a grant only routing facts are kept, no person and no signature. Of a message the pieces are kept until it is acknowledged. Moments are
milliseconds since 1970 in UTC. Invariants that the database itself holds: the four values of a grant are used once each; leaves of the log
are neither changed nor removed (triggers of the first migration), nor is what was opened of them (migration 0005); a number of a sender
belongs to one message. Left to others: opening it (`store`), the form of the schema over time (`migrations`).
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

metadata = MetaData()

rosters = Table(
    "rosters",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("document", LargeBinary, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
)
"""Every version that was installed, with the fingerprint of its root set: what `TrustedRoster.resume` needs."""

manifests = Table(
    "manifests",
    metadata,
    Column("agency", String, primary_key=True),
    Column("document", LargeBinary, nullable=False),
)

sealing_keys = Table(
    "sealing_keys",
    metadata,
    Column("agency", String, primary_key=True),
    Column("use", String, primary_key=True),
    Column("document", LargeBinary, nullable=False),
)
"""`use` is a week such as 2026-W48, or a search id."""

leaves = Table(
    "leaves",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("entry", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False, unique=True),
    Column("subject", LargeBinary, nullable=False, index=True),
    Column("grant_digest", LargeBinary, nullable=False, index=True),
)

openings = Table(
    "openings",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, ForeignKey("leaves.position"), nullable=False),
    Column("field_type", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("opened_at", Integer, nullable=False),
    UniqueConstraint("position", "field_type", name="a_field_is_opened_once"),
)
"""Fields of leaves that their authors opened to everybody."""

heads = Table(
    "heads",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("note", LargeBinary, nullable=False),
)
"""Checkpoints that the log signed, one for a size, for ever the same."""

cosignatures = Table(
    "cosignatures",
    metadata,
    Column("size", Integer, ForeignKey("heads.size"), primary_key=True, autoincrement=False),
    Column("agency", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("key_id", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("signed_at", Integer, nullable=False),
)

grants = Table(
    "grants",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("grant_id", String, nullable=False, unique=True),
    Column("search_id", String, nullable=False, unique=True),
    Column("probe_digest", LargeBinary, nullable=False, unique=True),
    Column("face_commit", LargeBinary, nullable=False, unique=True),
    Column("requesting_agency", String, nullable=False),
    Column("originating_agency", String, nullable=False),
    Column("holders", String, nullable=False),
    Column("custodians", String, nullable=False),
    Column("combiner", String, nullable=False),
    Column("not_before", Integer, nullable=False),
    Column("expires", Integer, nullable=False, index=True),
    Column("position", Integer, ForeignKey("leaves.position"), nullable=False),
)
"""Lists are separated by spaces, which no agency id holds."""

messages = Table(
    "messages",
    metadata,
    Column("message_id", String, primary_key=True),
    Column("message_type", String, nullable=False),
    Column("sender", String, nullable=False),
    Column("recipient", String, nullable=False),
    Column("search_id", String, nullable=False),
    Column("grant_digest", LargeBinary, nullable=True),
    Column("sequence", Integer, nullable=False),
    Column("total_bytes", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("arrived_at", Integer, nullable=False),
    Column("place", Integer, nullable=True),
    Column("lease_id", String, nullable=True, unique=True),
    Column("leased_until", Integer, nullable=False),
    Column("receipt", LargeBinary, nullable=True),
    UniqueConstraint("sender", "recipient", "search_id", "sequence", name="one_message_a_number"),
    Index("waiting", "recipient", "state", "place"),
)
"""`search_id` is empty for a type that belongs to none; `place` is the order in which messages became complete."""

parts = Table(
    "parts",
    metadata,
    Column("message_id", String, ForeignKey("messages.message_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("piece", LargeBinary, nullable=False),
)
