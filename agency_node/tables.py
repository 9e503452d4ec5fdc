"""The tables of a node's database, but for those of its gallery (`gallery_tables`) and of its cases (`case_tables`).

Columns named `sealed_*` hold blobs of `vault.Vault`: their content does not open without the node's at-rest key, also for who has the disk.
Messages of other parties are kept as they came; the sealed ones open only with keys of the keyring. Moments are ISO 8601 text in UTC.
Invariants that the database itself holds: a message is received once, a grant, a probe and a face are answered once (PROTOCOL 3, step 7),
a search is released once.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

metadata = MetaData()


def text_column(name: str, *, nullable: bool = False, primary_key: bool = False, unique: bool | None = None) -> Column[str]:
    """A column of text, NOT NULL unless said otherwise."""
    return Column(name, String, nullable=nullable, primary_key=primary_key, unique=unique)


def bytes_column(name: str, *, nullable: bool = False, unique: bool | None = None) -> Column[bytes]:
    """A column of bytes, NOT NULL unless said otherwise."""
    return Column(name, LargeBinary, nullable=nullable, unique=unique)


# --- every node ------------------------------------------------------------------------------------------------------

facts = Table("facts", metadata, text_column("name", primary_key=True), bytes_column("value"))
"""Single values: the trusted roster's document, the latest checkpoint, what a witness last signed, why the node halted."""

sealing_keys = Table(
    "sealing_keys",
    metadata,
    text_column("key_id", primary_key=True),
    text_column("use"),
    bytes_column("sealed_private", nullable=True),
    bytes_column("statement"),
    text_column("created_at"),
)
"""This node's own sealing keys; `use` is a week or a search id, `sealed_private` is NULL once destroyed."""

statements = Table(
    "statements",
    metadata,
    text_column("agency", primary_key=True),
    text_column("kind", primary_key=True),
    text_column("use", primary_key=True),
    bytes_column("document"),
)
"""Other agencies' manifests (`use` empty) and sealing keys, as they were last verified."""

log_leaves = Table("log_leaves", metadata, Column("position", Integer, primary_key=True, autoincrement=False), bytes_column("data"))

inbox = Table(
    "inbox",
    metadata,
    text_column("message_id", primary_key=True),
    text_column("message_type"),
    text_column("sender"),
    text_column("search_id"),
    Column("sequence", Integer, nullable=False),
    bytes_column("data", nullable=True),
    text_column("state"),
    text_column("note"),
    text_column("received_at"),
    UniqueConstraint("sender", "search_id", "sequence", name="one_message_a_number"),
)
"""Messages received: `new`, `waiting` (for something that must come first), `done`, `refused`. `data` is NULL once deleted, and empty for a
message that lies in `message_pieces`."""

outbox = Table(
    "outbox",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    text_column("search_id"),
    text_column("kind"),
    text_column("name"),
    text_column("recipient"),
    bytes_column("grant_digest"),
    bytes_column("data", nullable=True),
    bytes_column("sealed_openings", nullable=True),
    text_column("state"),
    text_column("note"),
    text_column("created_at"),
    text_column("message_id", nullable=True),
    bytes_column("leaf_hash", nullable=True),
    text_column("opening", nullable=True),
)
"""What is to be sent, in order for each search: `grant`, `entry` (a leaf of the log) or `message`; `ready`, `sent`, `refused`. `data` is
NULL once it has left, and empty for a message that lies in `message_pieces`; such a one has its `message_id` here. An entry has the hash of
its leaf, and in `opening` how far the fields are that are opened to everybody: `kept`, `asked` (at once), `published`, `refused`."""
Index("outbox_to_open", outbox.c.opening, outbox.c.created_at, sqlite_where=outbox.c.opening.in_(["kept", "asked"]))

message_pieces = Table(
    "message_pieces",
    metadata,
    text_column("direction", primary_key=True),
    text_column("owner", primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    bytes_column("data"),
)
"""Messages of more than one part, piece by piece: `in` with the message's id, `out` with the number of its row. Triggers delete them when
the row's `data` becomes NULL (migration 0003)."""

sequences = Table(
    "sequences",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("recipient", primary_key=True),
    Column("last", Integer, nullable=False),
)

receipts = Table("receipts", metadata, text_column("message_id", primary_key=True), bytes_column("document"))
"""The broker's signed word that it deleted a message (R22)."""

held_grants = Table(
    "held_grants",
    metadata,
    text_column("search_id", primary_key=True),
    bytes_column("grant_digest", unique=True),
    text_column("grant_id", unique=True),
    bytes_column("probe_digest", unique=True),
    bytes_column("face_commit", unique=True),
    bytes_column("sealed_token"),
    text_column("roles"),
    text_column("state"),
    text_column("note"),
    text_column("deadline"),
    text_column("expires"),
    text_column("received_at"),
)
"""Grants that name this node as holder or custodian, kept past their expiry. State: `standing`, `refused`, `ended`. One grant, one probe,
one face (PROTOCOL 5): each stands here once."""

exigent_held = Table(
    "exigent_held",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("state"),
    text_column("ratify_by"),
    bytes_column("ratification", nullable=True),
)
"""Exigent grants that name this node as holder or custodian: `running`, `ratified`, `lapsed`, `ended`. Each party keeps its own clock."""

ledger = Table(
    "ledger",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    text_column("at"),
    text_column("search_id"),
    text_column("event"),
    text_column("actor"),
    text_column("source"),
    text_column("subject"),
    text_column("recipient"),
    text_column("outcome"),
    text_column("requester"),
    text_column("secondary"),
    text_column("grant_digest"),
    text_column("case_commitment"),
    text_column("detail"),
    bytes_column("previous"),
    bytes_column("hash"),
    Index("ledger_by_search", "search_id"),
)
"""The node's audit ledger: what it did and was asked, and why, to the hundredth of a second (R50 to R54); ids, codes, digests and rule
numbers only. Each row holds the hash of the one before. Triggers refuse all but a row that continues the chain (migration 0007)."""

ledger_sign_offs = Table(
    "ledger_sign_offs",
    metadata,
    text_column("week", primary_key=True),
    Column("sequence", Integer, nullable=False),
    bytes_column("document"),
)
"""Weekly reviews (R53): the last row of the week that was reviewed, and the document that a person signed over its hash."""

decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    text_column("search_id"),
    text_column("at"),
    Column("place", String, nullable=False, server_default="holding"),
    Column("holder", String, nullable=False, server_default=""),
    Column("allowed", Integer, nullable=False),
    text_column("policies"),
    text_column("rules"),
    Column("packs", String, nullable=False, server_default=""),
    bytes_column("pack_sha256"),
    bytes_column("inputs_sha256"),
    bytes_column("sealed_inputs", nullable=True),
    text_column("agency_class"),
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
    text_column("search_id", primary_key=True),
    text_column("grant_id", unique=True),
    text_column("state"),
    text_column("note"),
    text_column("created_at"),
    text_column("deadline"),
    text_column("expires"),
    text_column("epoch"),
    bytes_column("grant_digest", unique=True),
    bytes_column("sealed_token"),
    bytes_column("sealed_case"),
    bytes_column("sealed_still", nullable=True),
    bytes_column("probe", nullable=True),
    bytes_column("sealed_search_key", nullable=True),
    bytes_column("escrow", nullable=True),
    bytes_column("sealed_release", nullable=True),
    bytes_column("discovery", nullable=True),
)
"""A requester's searches. `escrow` is the search key sealed to the legal office for an audit, `discovery` the sealed scores: both open
with the discovery key alone, which is not this node's."""

exigent_grants = Table(
    "exigent_grants",
    metadata,
    text_column("search_id", primary_key=True),
    bytes_column("grant_digest", unique=True),
    bytes_column("case_commitment"),
    text_column("state"),
    text_column("started_at"),
    text_column("ratify_by"),
    text_column("on_lapse"),
    Column("warned", Integer, nullable=False),
    text_column("ended_at", nullable=True),
    Column("in_log", Integer, nullable=False),
    bytes_column("ratification", nullable=True),
    bytes_column("case_tag", nullable=True),
    bytes_column("sealed_salt", nullable=True),
    bytes_column("archive", nullable=True),
    Index("lapsed_cases", "case_commitment"),
)
"""The clocks of a requester's exigent grants (R4): `running`, `ratified`, `lapsed`. `archive` is what was kept of a lapsed search, sealed
to the legal office's discovery key. Of its case there stay commitment, salt and a tag, by which a later draft of the same case is known."""

legal_decisions = Table(
    "legal_decisions",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("what"),
    bytes_column("digest"),
    bytes_column("document"),
    bytes_column("sealed_reason"),
    text_column("decided_at"),
    Column("told", Integer, nullable=False),
    Column("in_log", Integer, nullable=False),
)
"""What legal staff decided against a search at this node: `refused` a draft, or `revoked` a grant. `document` is what the reviewer signed;
`told` whether the notices are made, `in_log` whether the entry is."""

discoveries = Table("discoveries", metadata, text_column("search_id", primary_key=True), bytes_column("data"))
"""At a legal office that is another agency than the requester: scores for the defence, sealed to its discovery key, as they came."""

narrowings = Table(
    "narrowings",
    metadata,
    text_column("search_id", primary_key=True),
    bytes_column("sealed_draft"),
    text_column("reviewer"),
    text_column("narrowed_at"),
)
"""Searches that a reviewer narrowed: `sealed_draft` is the token with what the investigator signed before it."""

lapse_notices = Table(
    "lapse_notices",
    metadata,
    text_column("name", primary_key=True),
    text_column("search_id"),
    text_column("recipient"),
    bytes_column("document"),
    text_column("made_at"),
    text_column("written_at", nullable=True),
)
"""Signed notices of lapses, to be carried out of the node: each is written into the folder `notices` once."""

search_holders = Table(
    "search_holders",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("holder", primary_key=True),
    text_column("state"),
    text_column("note"),
    text_column("at"),
)
"""Progress per holder: `waiting`, `sent`, `answered`, `opened`, `refused`, `silent`, `rejected`."""

leads = Table(
    "leads",
    metadata,
    text_column("search_id", primary_key=True),
    Column("release_index", Integer, primary_key=True, autoincrement=False),
    text_column("holder"),
    bytes_column("sealed_stub", nullable=True),
)
"""Stubs by release index; `sealed_stub` is NULL for a lead that was withdrawn."""

disclosures = Table(
    "disclosures",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("holder", primary_key=True),
    text_column("handle", primary_key=True),
    text_column("outcome"),
    bytes_column("sealed_record", nullable=True),
    text_column("asked_at"),
)
"""What this node asked holders to disclose; `handle` is empty for the dummy, `outcome` empty until the answer came."""

probe_faces = Table(
    "probe_faces", metadata, text_column("search_id", primary_key=True), bytes_column("sealed_vector"), text_column("created_at")
)
"""The face's integers of each probe with their model's hash, sealed: until the review they are compared with the still, for some days more
with later drafts (docs/adr/0021); then the row is deleted."""

# --- holder ----------------------------------------------------------------------------------------------------------

answers = Table(
    "answers",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("grant_id", unique=True),
    bytes_column("probe_digest", unique=True),
    bytes_column("face_commit", unique=True),
    text_column("state"),
    text_column("layout_id", nullable=True),
    bytes_column("answer_digest", nullable=True),
    bytes_column("sealed_root", nullable=True),
    bytes_column("sealed_release", nullable=True),
    text_column("claimed_at"),
    text_column("message_id", nullable=True),
)
"""One grant, one probe, one face: one answer. Claimed before the scan for the message that brought the probe, `answered` together with the
outgoing messages, then `released`."""

budget_uses = Table(
    "budget_uses",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("scope", primary_key=True),
    Column("tag", LargeBinary, primary_key=True),
    text_column("claimed_at"),
)
"""What a claimed search used of the holder's budgets: `officer`, `case`, `agency`, each under a keyed tag of its name."""
Index("budget_uses_by_name", budget_uses.c.scope, budget_uses.c.tag, budget_uses.c.claimed_at)

# --- custodian -------------------------------------------------------------------------------------------------------

custody = Table(
    "custody",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("state"),
    text_column("note"),
    text_column("deadline"),
    text_column("released_at", nullable=True),
    text_column("alarms"),
)
"""Searches in custody: `open`, `released`, `refused`, `lapsed`. The key makes it one release a search."""

standings = Table(
    "standings",
    metadata,
    text_column("search_id", primary_key=True),
    bytes_column("nonce"),
    text_column("asked_at"),
    bytes_column("statement", nullable=True),
)
"""Whether the grant of a search in custody stands: the custodian's last question to the legal office, and the message that answers it."""

custody_parts = Table(
    "custody_parts",
    metadata,
    text_column("search_id", primary_key=True),
    text_column("holder", primary_key=True),
    text_column("kind", primary_key=True),
    text_column("custodian", primary_key=True),
    bytes_column("data", nullable=True),
    text_column("note"),
    text_column("message_id", nullable=True),
)
"""What came for the release: `share`, `opened` as sealed messages, `refusal` (code and rule in `note`). `data` is NULL after the release,
and empty for a message that lies in `message_pieces`: that one stays the inbox's, and `message_id` says which it is."""
