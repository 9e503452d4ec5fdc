"""A node's backup: one sealed file, which opens at the agency that made it: `sealed_file`, `closing`, `making`, `restoring`."""
