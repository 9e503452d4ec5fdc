"""The `sealmatch` commands, one module a group."""
