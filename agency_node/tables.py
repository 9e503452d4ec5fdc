"""Every table of a node's database. One file, so that what a node keeps can be read in one place.

Columns named `sealed_*` hold blobs of `vault.Vault`: their content does not open without the node's at-rest key, also for who has the disk.
Messages of other parties are kept as they came; the sealed ones open only with keys of the keyring. Moments are ISO 8601 text in UTC.
Invariants that the database itself holds: a message is received once, a grant, a probe and a face are answered once (PROTOCOL 3, step 7),
a search is released once.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

metadata = MetaData()


def _text(name: str, *, nullable: bool = False, primary_key: bool = False, unique: bool | None = None) -> Column[str]:
    return Column(name, String, nullable=nullable, primary_key=primary_key, unique=unique)


def _bytes(name: str, *, nullable: bool = False, unique: bool | None = None) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=nullable, unique=unique)


# --- every node ------------------------------------------------------------------------------------------------------

facts = Table("facts", metadata, _text("name", primary_key=True), _bytes("value"))
"""Single values: the trusted roster's document, the latest checkpoint, what a witness last signed, why the node halted."""

sealing_keys = Table(
    "sealing_keys",
    metadata,
    _text("key_id", primary_key=True),
    _text("use"),
    _bytes("sealed_private", nullable=True),
    _bytes("statement"),
    _text("created_at"),
)
"""This node's own sealing keys; `use` is a week or a search id, `sealed_private` is NULL once destroyed."""

statements = Table(
    "statements",
    metadata,
    _text("agency", primary_key=True),
    _text("kind", primary_key=True),
    _text("use", primary_key=True),
    _bytes("document"),
)
"""Other agencies' manifests (`use` empty) and sealing keys, as they were last verified."""

log_leaves = Table("log_leaves", metadata, Column("position", Integer, primary_key=True, autoincrement=False), _bytes("data"))

inbox = Table(
    "inbox",
    metadata,
    _text("message_id", primary_key=True),
    _text("message_type"),
    _text("sender"),
    _text("search_id"),
    Column("sequence", Integer, nullable=False),
    _bytes("data", nullable=True),
    _text("state"),
    _text("note"),
    _text("received_at"),
    UniqueConstraint("sender", "search_id", "sequence", name="one_message_a_number"),
)
"""Messages received: `new`, `waiting` (for something that must come first), `done`, `refused`. `data` is NULL once deleted, and empty for a
message that lies in `message_pieces`."""

outbox = Table(
    "outbox",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    _text("search_id"),
    _text("kind"),
    _text("name"),
    _text("recipient"),
    _bytes("grant_digest"),
    _bytes("data", nullable=True),
    _bytes("sealed_openings", nullable=True),
    _text("state"),
    _text("note"),
    _text("created_at"),
    _text("message_id", nullable=True),
    _bytes("leaf_hash", nullable=True),
    _text("opening", nullable=True),
)
"""What is to be sent, in order for each search: `grant`, `entry` (a leaf of the log) or `message`; `ready`, `sent`, `refused`. `data` is
NULL once it has left, and empty for a message that lies in `message_pieces`; such a one has its `message_id` here. An entry has the hash of
its leaf, and in `opening` how far the fields are that are opened to everybody: `kept`, `asked` (at once), `published`, `refused`."""
Index("outbox_to_open", outbox.c.opening, outbox.c.created_at, sqlite_where=outbox.c.opening.in_(["kept", "asked"]))

message_pieces = Table(
    "message_pieces",
    metadata,
    _text("direction", primary_key=True),
    _text("owner", primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _bytes("data"),
)
"""Messages of more than one part, piece by piece: `in` with the message's id, `out` with the number of its row. Triggers delete them when
the row's `data` becomes NULL (migration 0003)."""

sequences = Table(
    "sequences",
    metadata,
    _text("search_id", primary_key=True),
    _text("recipient", primary_key=True),
    Column("last", Integer, nullable=False),
)

receipts = Table("receipts", metadata, _text("message_id", primary_key=True), _bytes("document"))
"""The broker's signed word that it deleted a message (R22)."""

held_grants = Table(
    "held_grants",
    metadata,
    _text("search_id", primary_key=True),
    _bytes("grant_digest", unique=True),
    _text("grant_id", unique=True),
    _bytes("probe_digest", unique=True),
    _bytes("face_commit", unique=True),
    _bytes("sealed_token"),
    _text("roles"),
    _text("state"),
    _text("note"),
    _text("deadline"),
    _text("expires"),
    _text("received_at"),
)
"""Grants that name this node as holder or custodian, kept past their expiry. State: `standing`, `refused`, `ended`. One grant, one probe,
one face (PROTOCOL 5): each stands here once."""

exigent_held = Table(
    "exigent_held",
    metadata,
    _text("search_id", primary_key=True),
    _text("state"),
    _text("ratify_by"),
    _bytes("ratification", nullable=True),
)
"""Exigent grants that name this node as holder or custodian: `running`, `ratified`, `lapsed`, `ended`. Each party keeps its own clock."""

ledger = Table(
    "ledger",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    _text("at"),
    _text("search_id"),
    _text("event"),
    _text("actor"),
    _text("source"),
    _text("subject"),
    _text("recipient"),
    _text("outcome"),
    _text("requester"),
    _text("secondary"),
    _text("grant_digest"),
    _text("case_commitment"),
    _text("detail"),
    _bytes("previous"),
    _bytes("hash"),
    Index("ledger_by_search", "search_id"),
)
"""The node's audit ledger: what it did and was asked, and why, to the hundredth of a second (R50 to R54); ids, codes, digests and rule
numbers only. Each row holds the hash of the one before. Triggers refuse all but a row that continues the chain (migration 0007)."""

ledger_sign_offs = Table(
    "ledger_sign_offs",
    metadata,
    _text("week", primary_key=True),
    Column("sequence", Integer, nullable=False),
    _bytes("document"),
)
"""Weekly reviews (R53): the last row of the week that was reviewed, and the document that a person signed over its hash."""

decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    _text("search_id"),
    _text("at"),
    Column("place", String, nullable=False, server_default="holding"),
    Column("holder", String, nullable=False, server_default=""),
    Column("allowed", Integer, nullable=False),
    _text("policies"),
    _text("rules"),
    Column("packs", String, nullable=False, server_default=""),
    _bytes("pack_sha256"),
    _bytes("inputs_sha256"),
    _bytes("sealed_inputs", nullable=True),
    _text("agency_class"),
)
"""Every decision of the policy, of whatever party this node is: at which `place` it stood, for which holder, which packs at which hash
(`name=hash`, with commas between), which policies decided, over which inputs, which lie here sealed so that the decision can be made again.
`agency_class` is `federal` if the agency that asks or the one whose case it is is one (R9), else the class of the one that asks; empty for
what was decided before it was kept."""
Index("decisions_of_search", decisions.c.search_id)

# --- requester -------------------------------------------------------------------------------------------------------

searches = Table(
    "searches",
    metadata,
    _text("search_id", primary_key=True),
    _text("grant_id", unique=True),
    _text("state"),
    _text("note"),
    _text("created_at"),
    _text("deadline"),
    _text("expires"),
    _text("epoch"),
    _bytes("grant_digest", unique=True),
    _bytes("sealed_token"),
    _bytes("sealed_case"),
    _bytes("sealed_still", nullable=True),
    _bytes("probe", nullable=True),
    _bytes("sealed_search_key", nullable=True),
    _bytes("escrow", nullable=True),
    _bytes("sealed_release", nullable=True),
    _bytes("discovery", nullable=True),
)
"""A requester's searches. `escrow` is the search key sealed to the legal office for an audit, `discovery` the sealed scores: both open
with the discovery key alone, which is not this node's."""

exigent_grants = Table(
    "exigent_grants",
    metadata,
    _text("search_id", primary_key=True),
    _bytes("grant_digest", unique=True),
    _bytes("case_commitment"),
    _text("state"),
    _text("started_at"),
    _text("ratify_by"),
    _text("on_lapse"),
    Column("warned", Integer, nullable=False),
    _text("ended_at", nullable=True),
    Column("in_log", Integer, nullable=False),
    _bytes("ratification", nullable=True),
    _bytes("case_tag", nullable=True),
    _bytes("sealed_salt", nullable=True),
    _bytes("archive", nullable=True),
    Index("lapsed_cases", "case_commitment"),
)
"""The clocks of a requester's exigent grants (R4): `running`, `ratified`, `lapsed`. `archive` is what was kept of a lapsed search, sealed
to the legal office's discovery key. Of its case there stay commitment, salt and a tag, by which a later draft of the same case is known."""

legal_decisions = Table(
    "legal_decisions",
    metadata,
    _text("search_id", primary_key=True),
    _text("what"),
    _bytes("digest"),
    _bytes("document"),
    _bytes("sealed_reason"),
    _text("decided_at"),
    Column("told", Integer, nullable=False),
    Column("in_log", Integer, nullable=False),
)
"""What legal staff decided against a search at this node: `refused` a draft, or `revoked` a grant. `document` is what the reviewer signed;
`told` whether the notices are made, `in_log` whether the entry is."""

discoveries = Table("discoveries", metadata, _text("search_id", primary_key=True), _bytes("data"))
"""At a legal office that is another agency than the requester: scores for the defence, sealed to its discovery key, as they came."""

narrowings = Table(
    "narrowings",
    metadata,
    _text("search_id", primary_key=True),
    _bytes("sealed_draft"),
    _text("reviewer"),
    _text("narrowed_at"),
)
"""Searches that a reviewer narrowed: `sealed_draft` is the token with what the investigator signed before it."""

lapse_notices = Table(
    "lapse_notices",
    metadata,
    _text("name", primary_key=True),
    _text("search_id"),
    _text("recipient"),
    _bytes("document"),
    _text("made_at"),
    _text("written_at", nullable=True),
)
"""Signed notices of lapses, to be carried out of the node: each is written into the folder `notices` once."""

search_holders = Table(
    "search_holders",
    metadata,
    _text("search_id", primary_key=True),
    _text("holder", primary_key=True),
    _text("state"),
    _text("note"),
    _text("at"),
)
"""Progress per holder: `waiting`, `sent`, `answered`, `opened`, `refused`, `silent`, `rejected`."""

leads = Table(
    "leads",
    metadata,
    _text("search_id", primary_key=True),
    Column("release_index", Integer, primary_key=True, autoincrement=False),
    _text("holder"),
    _bytes("sealed_stub", nullable=True),
)
"""Stubs by release index; `sealed_stub` is NULL for a lead that was withdrawn."""

disclosures = Table(
    "disclosures",
    metadata,
    _text("search_id", primary_key=True),
    _text("holder", primary_key=True),
    _text("handle", primary_key=True),
    _text("outcome"),
    _bytes("sealed_record", nullable=True),
    _text("asked_at"),
)
"""What this node asked holders to disclose; `handle` is empty for the dummy, `outcome` empty until the answer came."""

probe_faces = Table("probe_faces", metadata, _text("search_id", primary_key=True), _bytes("sealed_vector"), _text("created_at"))
"""The face's integers of each probe with their model's hash, sealed: until the review they are compared with the still, for some days more
with later drafts (docs/adr/0021); then the row is deleted."""

# --- holder ----------------------------------------------------------------------------------------------------------

records = Table(
    "records",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    _bytes("tag", unique=True),
    _bytes("sealed_record"),
    _bytes("sealed_photograph", nullable=True),
    _text("captured"),
    _text("enrolled_at"),
    _text("expunged_at", nullable=True),
)
"""The gallery's records; `tag` finds a record number again without storing it, `sealed_record` holds it (JSON: record_number, source_class,
media). Few rows are expunged: the index finds them without reading the photographs, which lie before `expunged_at` on the disk."""
Index("expunged_records", records.c.expunged_at, sqlite_where=records.c.expunged_at.is_not(None))

Index("records_by_enrolment", records.c.enrolled_at)

record_dispositions = Table(
    "record_dispositions",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    _text("unsearchable"),
    _text("disposed_on"),
    _text("checked_at"),
)
"""Records of whose case something was heard since they were enrolled, or for too long nothing: why no search finds one, empty for one that
searches find; the day on which the case ended as last told, and the moment of the last word. A destroyed record has no row here."""
Index("unsearchable_records", record_dispositions.c.row, sqlite_where=record_dispositions.c.unsearchable != "")

record_leaves = Table(
    "record_leaves",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    _bytes("place", unique=True),
    _bytes("commitment"),
    _text("source_class"),
)
"""The gallery's records in its public tree (`crypto.record_tree`): whose row, where, and the salted commitment. Both are noise to whoever
has no key of this node. A row is made some time after its record, and goes with it."""

record_buckets = Table(
    "record_buckets",
    metadata,
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    _bytes("hash"),
)
"""Hashes of the tree's 1,024 buckets; one that is not here has changed and is computed when it is needed."""

record_manifests = Table(
    "record_manifests",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    _bytes("document"),
)
"""Every record manifest that this holder signed."""

template_blocks = Table(
    "template_blocks",
    metadata,
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    _bytes("sealed_templates"),
)
"""Templates int8[count, D] of rows block * 1024 and on, encrypted under the block's own key and sealed."""

block_keys = Table(
    "block_keys",
    metadata,
    Column("block", Integer, primary_key=True, autoincrement=False),
    _bytes("sealed_key"),
)
"""A block's data key, the salt of its commitment, and the commitment. Apart from the blocks, so that all of them are read in an instant."""

next_template_blocks = Table(
    "next_template_blocks",
    metadata,
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    _bytes("sealed_templates"),
)
"""As `template_blocks`, of the model to which the gallery is being re-embedded. When they are whole, both tables change names."""

next_block_keys = Table("next_block_keys", metadata, Column("block", Integer, primary_key=True, autoincrement=False), _bytes("sealed_key"))
"""As `block_keys`, for those."""

refused_records = Table(
    "refused_records",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("model", LargeBinary, primary_key=True),
    _text("code"),
)
"""Records whose photograph a model refused when the gallery was re-embedded, and why (`ImageFault`): kept, and not searched under it."""

layouts = Table("layouts", metadata, _text("layout_id", primary_key=True), _bytes("sealed_layout"), _text("created_at"))
"""Layouts that answered something: seed, and rows as they were, for releases and audits."""

answers = Table(
    "answers",
    metadata,
    _text("search_id", primary_key=True),
    _text("grant_id", unique=True),
    _bytes("probe_digest", unique=True),
    _bytes("face_commit", unique=True),
    _text("state"),
    _text("layout_id", nullable=True),
    _bytes("answer_digest", nullable=True),
    _bytes("sealed_root", nullable=True),
    _bytes("sealed_release", nullable=True),
    _text("claimed_at"),
    _text("message_id", nullable=True),
)
"""One grant, one probe, one face: one answer. Claimed before the scan for the message that brought the probe, `answered` together with the
outgoing messages, then `released`."""

budget_uses = Table(
    "budget_uses",
    metadata,
    _text("search_id", primary_key=True),
    _text("scope", primary_key=True),
    Column("tag", LargeBinary, primary_key=True),
    _text("claimed_at"),
)
"""What a claimed search used of the holder's budgets: `officer`, `case`, `agency`, each under a keyed tag of its name."""
Index("budget_uses_by_name", budget_uses.c.scope, budget_uses.c.tag, budget_uses.c.claimed_at)

stubs = Table(
    "stubs",
    metadata,
    _text("handle", primary_key=True),
    _text("search_id"),
    Column("release_index", Integer, nullable=False),
    Column("row", Integer, nullable=False),
)
"""What this holder showed: the handle means a row to it alone."""

disclosure_requests = Table(
    "disclosure_requests",
    metadata,
    _text("message_id", primary_key=True),
    _text("search_id"),
    _text("handle"),
    _text("state"),
    _bytes("decision", nullable=True),
    _text("received_at"),
)
"""Requests for a photograph: `pending` until the holder's own legal staff decides, then `disclosed`, `withheld`, `withdrawn`; or
`ended`, when the grant had ended before it was sent."""

subject_requests = Table(
    "subject_requests",
    metadata,
    _text("request_id", primary_key=True),
    _bytes("sealed_request"),
    _text("received_at"),
    _text("due_at"),
    _text("state"),
    _text("asked"),
    _text("outcome"),
    _bytes("answer", nullable=True),
    _bytes("closing", nullable=True),
)
"""What persons ask about their own record (R26): `received`, `answered`, `asked`, `closed`. Of which record stands sealed, with the salt
that opens the ledger's commitment to it; `answer` and `closing` are what legal staff signed."""

# --- custodian -------------------------------------------------------------------------------------------------------

custody = Table(
    "custody",
    metadata,
    _text("search_id", primary_key=True),
    _text("state"),
    _text("note"),
    _text("deadline"),
    _text("released_at", nullable=True),
    _text("alarms"),
)
"""Searches in custody: `open`, `released`, `refused`, `lapsed`. The key makes it one release a search."""

standings = Table(
    "standings",
    metadata,
    _text("search_id", primary_key=True),
    _bytes("nonce"),
    _text("asked_at"),
    _bytes("statement", nullable=True),
)
"""Whether the grant of a search in custody stands: the custodian's last question to the legal office, and the message that answers it."""

custody_parts = Table(
    "custody_parts",
    metadata,
    _text("search_id", primary_key=True),
    _text("holder", primary_key=True),
    _text("kind", primary_key=True),
    _text("custodian", primary_key=True),
    _bytes("data", nullable=True),
    _text("note"),
    _text("message_id", nullable=True),
)
"""What came for the release: `share`, `opened` as sealed messages, `refusal` (code and rule in `note`). `data` is NULL after the release,
and empty for a message that lies in `message_pieces`: that one stays the inbox's, and `message_id` says which it is."""
