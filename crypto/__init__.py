"""Sealmatch's cryptographic core: one encrypted search, its grants and its proofs, without a socket, file, database or clock.

The modules, in reading order; imports go down these floors and never up (an import contract in pyproject.toml checks it).

*Ground*: `errors` the one tree of what can go wrong · `canonical` one value, one string of bytes; names · `moments` time as it is signed ·
`fields` strict reading of JSON · `keys` Ed25519 and P-256 handles · `limits` what all parties agree on · `parameters` the set `sealmatch-1`
and the scales that follow · `jit` how kernels are compiled · `workers` threads · `ring` arithmetic and transforms · `binary` the frame of
every byte format · `wire` fields that formats share · `seed` labelled expansion of 32 bytes · `epoch` months · `bases` the public bases of
a month

*A search, in the order in which data flows*: `codes` what a template's byte stands for · `embedding` from embeddings to integers · `seal`
the one door to SEAL · `packed_words` 27 bits a word · `ordered_probe` a probe's words in the same order · `probe` encrypted by the
requester · `layout` the secret order of slots · `dot` vector code · `scan` the hot loop · `gallery` packed templates ·
`calibration` the chunk that shows a probe's norm · `blinding` re-randomised · `prepared` before the probe is here · `answer` masked,
rounded · `opening` to `Y16` · `impostors` thresholds · `calibration_table` their file · `alarms` what looks wrong · `release` ranks,
bands, positions · `audit` replaying all of it

*The public log*: `ledger` Merkle tree and proofs (RFC 9162) · `checkpoint` signed notes · `cosign_request` what a log asks a witness ·
`witness` which checkpoint counts · `entries` leaves as salted commitments · `mirror` reading to the end ·
`entry_openings` which fields are opened to everybody · `entry_counts` which counts may be published ·
`tiles` the log as files · `log_index` what can stand where · `log_evidence` a party's own acts, each with its entry

*Who may*: `signed` JSON with detached signatures · `assertion` WebAuthn signatures · `roster_entries`, `root_set`, `roster` agencies,
persons and keys under a threshold of roots · `roster_change` a version's entry in the log · `sealing_key` the custodian's key of the week ·
`mailbox_receipt` the broker's word that a message is gone · `request_signature` who sends an HTTP request · `grant_basis`, `grant_claims`,
`grant_token`, `grant` the justified-use grant · `manifest` what a holder says of its gallery · `places`, `record_tree`,
`record_manifest` which records are in it, and which are not · `differentials` how its face model errs by groups ·
`federal_statement` what federal agencies asked of it · `pack_approval` two
persons' word for a policy pack

*The wire*: `segments` long plaintexts piece by piece · `envelope` sealed and signed · `bodies`, `disclosure`, `notices`,
`ratification` what messages say · `message_types` the table of all messages · `frame` a message's head · `messages` the whole of it ·
`message_check` checked without holding it · `parts` pieces of at most 1 MiB · `lawful_steps` what a refusal means and what to do next
"""
