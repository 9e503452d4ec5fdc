"""Legal staff: persons' keys, the review of a grant."""
