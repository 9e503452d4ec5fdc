"""The hub: mailbox, transparency log, roster. It routes what it cannot open. It imports nothing of `agency_node`.

In reading order: `errors` what is refused · `config`, `folder` what an operator sets · `tables`, `migrations`, `store` what is kept ·
`roster_store` whose keys · `authentication`, `nonces` who asks · `parties` who may send and enter what · `log_store` leaves, heads,
cosignatures · `grants` what stands in the log · `openings` what was opened of it · `statements` manifests and sealing keys · `mailbox`
messages under leases · `sweep` what is thrown away · `bell` long polls · `problems` refusals in words · `services`, `api`, `app` the
application · `serve`, `cli` the process
"""
