"""The hub: mailbox, transparency log, roster. It routes what it cannot open. It imports nothing of `agency_node`."""
