"""The holder's tables of its gallery: records, what was heard of their cases, their public tree, templates in blocks, layouts; and of what
is asked about single records: stubs of leads, disclosures, persons' own requests.

The conventions of `tables` hold here too: `sealed_*` opens with the node's at-rest key alone. Invariants that the database itself holds: a
record number, by its keyed tag, stands in one row; a block of templates has one data key.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, Table

from agency_node.tables import bytes_column, metadata, text_column

records = Table(
    "records",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    bytes_column("tag", unique=True),
    bytes_column("sealed_record"),
    bytes_column("sealed_photograph", nullable=True),
    text_column("captured"),
    text_column("enrolled_at"),
    text_column("expunged_at", nullable=True),
)
"""The gallery's records; `tag` finds a record number again without storing it, `sealed_record` holds it (JSON: record_number, source_class,
media, and what else was said: booking, quality, described). Few rows are expunged: the index finds them without reading the photographs,
which lie before `expunged_at` on the disk."""
Index("expunged_records", records.c.expunged_at, sqlite_where=records.c.expunged_at.is_not(None))

Index("records_by_enrolment", records.c.enrolled_at)

record_dispositions = Table(
    "record_dispositions",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    text_column("unsearchable"),
    text_column("disposed_on"),
    text_column("checked_at"),
)
"""Records of whose case something was heard since they were enrolled, or for too long nothing: why no search finds one, empty for one that
searches find; the day on which the case ended as last told, and the moment of the last word. A destroyed record has no row here."""
Index("unsearchable_records", record_dispositions.c.row, sqlite_where=record_dispositions.c.unsearchable != "")

record_leaves = Table(
    "record_leaves",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    bytes_column("place", unique=True),
    bytes_column("commitment"),
    text_column("source_class"),
)
"""The gallery's records in its public tree (`crypto.record_tree`): whose row, where, and the salted commitment. Both are noise to whoever
has no key of this node. A row is made some time after its record, and goes with it."""

record_buckets = Table(
    "record_buckets",
    metadata,
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    bytes_column("hash"),
)
"""Hashes of the tree's 1,024 buckets; one that is not here has changed and is computed when it is needed."""

record_manifests = Table(
    "record_manifests",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    bytes_column("document"),
)
"""Every record manifest that this holder signed."""

template_blocks = Table(
    "template_blocks",
    metadata,
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    bytes_column("sealed_templates"),
)
"""Templates int8[count, D] of rows block * 1024 and on, encrypted under the block's own key and sealed."""

block_keys = Table(
    "block_keys",
    metadata,
    Column("block", Integer, primary_key=True, autoincrement=False),
    bytes_column("sealed_key"),
)
"""A block's data key, the salt of its commitment, and the commitment. Apart from the blocks, so that all of them are read in an instant."""

next_template_blocks = Table(
    "next_template_blocks",
    metadata,
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    bytes_column("sealed_templates"),
)
"""As `template_blocks`, of the model to which the gallery is being re-embedded. When they are whole, both tables change names."""

next_block_keys = Table(
    "next_block_keys", metadata, Column("block", Integer, primary_key=True, autoincrement=False), bytes_column("sealed_key")
)
"""As `block_keys`, for those."""

refused_records = Table(
    "refused_records",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("model", LargeBinary, primary_key=True),
    text_column("code"),
)
"""Records whose photograph a model refused when the gallery was re-embedded, and why (`ImageFault`): kept, and not searched under it."""

layouts = Table("layouts", metadata, text_column("layout_id", primary_key=True), bytes_column("sealed_layout"), text_column("created_at"))
"""Layouts that answered something: seed, and rows as they were, for releases and audits."""

stubs = Table(
    "stubs",
    metadata,
    text_column("handle", primary_key=True),
    text_column("search_id"),
    Column("release_index", Integer, nullable=False),
    Column("row", Integer, nullable=False),
)
"""What this holder showed: the handle means a row to it alone."""

disclosure_requests = Table(
    "disclosure_requests",
    metadata,
    text_column("message_id", primary_key=True),
    text_column("search_id"),
    text_column("handle"),
    text_column("state"),
    bytes_column("decision", nullable=True),
    text_column("received_at"),
)
"""Requests for a photograph: `pending` until the holder's own legal staff decides, then `disclosed`, `withheld`, `withdrawn`; or
`ended`, when the grant had ended before it was sent."""

subject_requests = Table(
    "subject_requests",
    metadata,
    text_column("request_id", primary_key=True),
    bytes_column("sealed_request"),
    text_column("received_at"),
    text_column("due_at"),
    text_column("state"),
    text_column("asked"),
    text_column("outcome"),
    bytes_column("answer", nullable=True),
    bytes_column("closing", nullable=True),
)
"""What persons ask about their own record (R26): `received`, `answered`, `asked`, `closed`. Of which record stands sealed, with the salt
that opens the ledger's commitment to it; `answer` and `closing` are what legal staff signed."""
